//! The clients that a stream has introduced, and the numbers by which its messages name them. Knows no stream.

use std::collections::{HashMap, VecDeque};

/// How a message names a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reference {
    /// It was introduced as this.
    Known(u64),
    /// It has to be introduced as this, in the same message or before.
    New(u64),
}

/// The clients of one stream, by connection. `I` tells whether a client is as it was introduced.
#[derive(Debug)]
pub(super) struct ObservedClients<I> {
    introduced: HashMap<u128, Introduced<I>>,
    /// In the order in which they were introduced. Those that are forgotten may still stand here, below as many as there are.
    order: VecDeque<(u128, u64)>,
    /// Clients that have gone, with the number of the event that says so, in order.
    gone: VecDeque<(u64, u128)>,
    /// References that the service was not told to forget yet.
    forgotten: Vec<u64>,
    last: u64,
    most: usize,
}

#[derive(Debug)]
struct Introduced<I> {
    reference: u64,
    identity: I,
}

impl<I: PartialEq> ObservedClients<I> {
    /// Nobody; of more than `most` the one that was introduced first is forgotten.
    pub(super) fn new(most: usize) -> Self {
        Self {
            introduced: HashMap::new(),
            order: VecDeque::new(),
            gone: VecDeque::new(),
            forgotten: Vec::new(),
            last: 0,
            most: most.max(1),
        }
    }

    /// The number of the client of this connection.
    pub(super) fn reference(&mut self, connection: u128, identity: I) -> Reference {
        if let Some(known) = self.introduced.get_mut(&connection) {
            // Who has changed keeps the number.
            if known.identity == identity {
                return Reference::Known(known.reference);
            }
            known.identity = identity;
            return Reference::New(known.reference);
        }
        self.make_room();
        self.last += 1;
        let reference = self.last;
        self.introduced.insert(connection, Introduced { reference, identity });
        self.order.push_back((connection, reference));
        debug_assert!(self.introduced.len() <= self.most, "more clients are introduced than may be");
        Reference::New(reference)
    }

    fn make_room(&mut self) {
        while self.introduced.len() >= self.most {
            let Some((connection, reference)) = self.order.pop_front() else { return };
            self.forget(connection, reference);
        }
        // Else those who stay would keep the places of all who came and went since.
        if self.order.len() > 2 * self.most {
            let introduced = &self.introduced;
            self.order.retain(|(connection, reference)| {
                introduced.get(connection).is_some_and(|known| known.reference == *reference)
            });
        }
    }

    fn forget(&mut self, connection: u128, reference: u64) {
        // An old place in `order` must not remove who was introduced anew since.
        if self.introduced.get(&connection).is_some_and(|known| known.reference == reference) {
            self.introduced.remove(&connection);
            self.forgotten.push(reference);
        }
    }

    /// The event with this number says that the client has gone; there is none of it after that.
    pub(super) fn leaves(&mut self, sequence: u64, connection: u128) {
        self.gone.push_back((sequence, connection));
    }

    /// All events up to here are confirmed: who has gone by then is not named any more.
    pub(super) fn confirmed(&mut self, up_to: u64) {
        while let Some((_, connection)) = self.gone.pop_front_if(|(sequence, _)| *sequence <= up_to) {
            if let Some(known) = self.introduced.remove(&connection) {
                self.forgotten.push(known.reference);
            }
        }
    }

    /// Whether the service has to be told to forget somebody.
    pub(super) const fn has_forgotten(&self) -> bool {
        !self.forgotten.is_empty()
    }

    /// Whom the service is told to forget.
    pub(super) fn take_forgotten(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.forgotten)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_introduced_once_and_again_when_it_has_changed() {
        let mut clients = ObservedClients::new(9);
        assert_eq!(clients.reference(7, 'a'), Reference::New(1));
        assert_eq!(clients.reference(7, 'a'), Reference::Known(1));
        assert_eq!(clients.reference(8, 'a'), Reference::New(2));
        assert_eq!(clients.reference(7, 'b'), Reference::New(1));
        assert_eq!(clients.reference(7, 'b'), Reference::Known(1));
    }

    #[test]
    fn who_has_gone_is_forgotten_once_that_is_confirmed() {
        let mut clients = ObservedClients::new(9);
        clients.reference(7, ());
        clients.reference(8, ());
        clients.leaves(5, 7);
        clients.confirmed(4);
        assert!(!clients.has_forgotten());
        clients.confirmed(5);
        assert_eq!(clients.take_forgotten(), [1]);
        assert!(!clients.has_forgotten());
        assert_eq!(clients.reference(7, ()), Reference::New(3));
        assert_eq!(clients.reference(8, ()), Reference::Known(2));
    }

    #[test]
    fn of_too_many_the_first_is_forgotten_and_its_number_is_not_given_again() {
        let mut clients = ObservedClients::new(2);
        for connection in 1..=3 {
            assert_eq!(clients.reference(connection, ()), Reference::New(connection as u64));
        }
        assert_eq!(clients.take_forgotten(), [1]);
        assert_eq!(clients.reference(1, ()), Reference::New(4));
        assert_eq!(clients.take_forgotten(), [2]);
        assert_eq!(clients.reference(3, ()), Reference::Known(3));
    }

    #[test]
    fn those_who_come_and_go_leave_nothing_behind() {
        let mut clients = ObservedClients::new(4);
        clients.reference(0, ());
        for connection in 1..1000_u64 {
            clients.reference(connection.into(), ());
            clients.leaves(connection, connection.into());
            clients.confirmed(connection);
            clients.take_forgotten();
        }
        assert_eq!(clients.reference(0, ()), Reference::Known(1));
        assert!(clients.order.len() <= 9 && clients.gone.is_empty());
    }
}
