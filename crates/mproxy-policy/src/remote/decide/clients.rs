//! The clients that one stream has introduced: which number each has, and which numbers are used no more. A client is one
//! version of a peer: another client id or other attributes are introduced anew.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use mproxy_core::peer::Peer;

/// Clients that a stream keeps introduced. More than that, and the longest known are forgotten and introduced again when
/// they ask.
const CLIENTS_MOST: usize = 1 << 16;

/// Entries that are looked at for each new one. Two would keep up with clients that come and go.
const STEP: usize = 4;

pub(super) struct ClientTable {
    /// By the address of the peer, which nobody else can have while the entry is here: it holds a `Weak`.
    refs: HashMap<usize, u64>,
    entries: Vec<Entry>,
    /// The next entry to be looked at.
    hand: usize,
    /// The number that was given last.
    last: u64,
    most: usize,
    forgotten: Vec<u64>,
}

struct Entry {
    peer: Weak<Peer>,
    client_ref: u64,
}

impl ClientTable {
    pub(super) fn new() -> Self {
        Self {
            refs: HashMap::new(),
            entries: Vec::new(),
            hand: 0,
            last: 0,
            most: CLIENTS_MOST,
            forgotten: Vec::new(),
        }
    }

    /// Clients in it, some of which have gone.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The number of this client; whether it has to be introduced.
    pub(super) fn client_ref(&mut self, peer: &Arc<Peer>) -> (u64, bool) {
        let address = Arc::as_ptr(peer) as usize;
        if let Some(known) = self.refs.get(&address) {
            return (*known, false);
        }
        // A little with each introduction, so that those who have gone never have to be looked for at once.
        self.sweep(STEP);
        if self.entries.len() >= self.most {
            let at = self.hand % self.entries.len();
            self.remove(at);
            // What is in this place now is the youngest of all.
            self.hand = at + 1;
        }
        self.last += 1;
        self.refs.insert(address, self.last);
        self.entries.push(Entry { peer: Arc::downgrade(peer), client_ref: self.last });
        self.check();
        (self.last, true)
    }

    /// Looks at so many entries, and forgets those whose clients have gone.
    pub(super) fn sweep(&mut self, entries: usize) {
        for _ in 0..entries.min(self.entries.len()) {
            if self.hand >= self.entries.len() {
                self.hand = 0;
            }
            match self.entries.get(self.hand) {
                Some(entry) if entry.peer.strong_count() == 0 => self.remove(self.hand),
                Some(_) => self.hand += 1,
                None => return,
            }
        }
    }

    /// The numbers that are used no more since this was asked last.
    pub(super) fn take_forgotten(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.forgotten)
    }

    fn remove(&mut self, at: usize) {
        let Entry { peer, client_ref } = self.entries.swap_remove(at);
        // Before `peer` is dropped: from then on somebody else may have the address.
        self.refs.remove(&(peer.as_ptr() as usize));
        self.forgotten.push(client_ref);
        self.check();
    }

    /// An address belongs to one peer as long as an entry holds that.
    fn check(&self) {
        debug_assert_eq!(self.refs.len(), self.entries.len(), "each entry is found by its address");
    }
}

#[cfg(test)]
mod tests {
    use mproxy_codec::types::Version;

    use super::*;
    use crate::contract::tests::peer;

    #[test]
    fn a_client_is_introduced_once_and_anew_when_it_changes() {
        let mut table = ClientTable::new();
        let mut one = peer(Version::V5);
        let other = peer(Version::V5);
        assert_eq!(table.client_ref(&one), (1, true));
        assert_eq!(table.client_ref(&other), (2, true));
        assert_eq!(table.client_ref(&one), (1, false));
        // As core does it when a client gets attributes: in place, were it not for the table.
        Peer::change(&mut one).client_id = "another".into();
        assert_eq!(table.client_ref(&one), (3, true));
        table.sweep(10);
        assert_eq!((table.take_forgotten(), table.len()), (vec![1], 2));
    }

    #[test]
    fn who_has_gone_is_forgotten_and_the_table_is_bounded() {
        let mut table = ClientTable::new();
        table.most = 10;
        for _ in 0..100 {
            table.client_ref(&peer(Version::V5));
        }
        assert!(table.len() <= 10);
        let stay: Vec<_> = (0..20).map(|_| peer(Version::V5)).collect();
        for client in &stay {
            assert!(table.client_ref(client).1);
            assert!(table.len() <= 10);
        }
        table.take_forgotten();
        table.sweep(100);
        assert_eq!(table.take_forgotten(), [0; 0], "all are there");
        drop(stay);
        table.sweep(100);
        assert_eq!((table.take_forgotten().len(), table.len(), table.refs.len()), (10, 0, 0));
    }
}
