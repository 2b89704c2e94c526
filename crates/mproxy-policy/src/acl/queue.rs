//! Whose password is verified next: so many at a time, and addresses take turns, so that no address waits behind the
//! crowd of another one. Knows nothing of passwords.
//!
//! Bounded: when one more comes than may wait, one is sent away. Who comes from an address that has others waiting
//! takes the place of the oldest of these; else the oldest of the address that has most goes.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mproxy_core::neighbours::Neighbours;
use tokio::sync::oneshot;

/// Those who wait for a turn.
#[derive(Debug)]
pub(super) struct TurnQueue {
    /// How many may wait.
    most: usize,
    state: Mutex<QueueState>,
}

#[derive(Debug)]
struct QueueState {
    /// Turns that nobody has; none while anybody waits.
    free: usize,
    /// Those that wait at each address, in the order in which they came. No list is empty.
    waiting: HashMap<Neighbours, VecDeque<QueueEntry>>,
    /// The addresses in it, in the order of their turns.
    order: VecDeque<Neighbours>,
    count: usize,
    arrivals: u64,
}

#[derive(Debug)]
struct QueueEntry {
    arrival: u64,
    turn: oneshot::Sender<PasswordTurn>,
}

/// A turn: whoever holds it works, and passes it on by dropping it.
#[derive(Debug)]
pub(super) struct PasswordTurn(Option<Arc<TurnQueue>>);

/// Others needed the place in the queue.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Evicted;

/// A place in the queue; dropped, it is given up.
struct QueuePlace<'q> {
    queue: &'q TurnQueue,
    address: Neighbours,
    arrival: u64,
}

impl TurnQueue {
    /// `turns` at a time, and `most` who wait.
    pub(super) fn new(turns: usize, most: usize) -> Self {
        let state = QueueState {
            free: turns,
            waiting: HashMap::new(),
            order: VecDeque::new(),
            count: 0,
            arrivals: 0,
        };
        Self { most, state: Mutex::new(state) }
    }

    /// Waits for a turn. Dropped, it waits no more, and holds nothing.
    ///
    /// # Errors
    /// The queue was full.
    pub(super) async fn turn(self: &Arc<Self>, address: Neighbours) -> Result<PasswordTurn, Evicted> {
        let (sender, receiver) = oneshot::channel();
        let arrival = {
            let mut state = self.state();
            if state.free > 0 {
                state.free -= 1;
                return Ok(PasswordTurn(Some(Arc::clone(self))));
            }
            let arrival = state.enter(address, sender);
            // After it has entered, so that one rule says who goes, the newcomer included.
            if state.count > self.most {
                state.evict(address);
            }
            arrival
        };
        // Dropping the future is how a client that hangs up leaves the queue.
        let _place = QueuePlace { queue: self, address, arrival };
        receiver.await.map_err(|_| Evicted)
    }

    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the turn to the next who still waits.
    fn pass_on(self: Arc<Self>) {
        let mut turn = PasswordTurn(Some(Arc::clone(&self)));
        loop {
            let Some(next) = self.state().next() else {
                // Nobody came in between: the state is looked at and changed under one lock.
                turn.0 = None;
                return;
            };
            // Where it leaves after this, the turn is dropped with the channel, and so passed on.
            match next.turn.send(turn) {
                Ok(()) => return,
                // It left just now.
                Err(back) => turn = back,
            }
        }
    }
}

impl QueueState {
    /// What the fields say of each other.
    fn check(&self) {
        debug_assert!(self.free == 0 || self.count == 0, "a turn is free while somebody waits");
        debug_assert_eq!(self.order.len(), self.waiting.len(), "each address that waits has one turn");
        debug_assert!(self.count >= self.order.len(), "an address without anybody is in the queue");
    }

    fn enter(&mut self, address: Neighbours, turn: oneshot::Sender<PasswordTurn>) -> u64 {
        let arrival = self.arrivals;
        self.arrivals += 1;
        self.count += 1;
        let line = self.waiting.entry(address).or_insert_with(|| {
            self.order.push_back(address);
            VecDeque::new()
        });
        line.push_back(QueueEntry { arrival, turn });
        self.check();
        arrival
    }

    /// Who is next; the turn becomes free where nobody is.
    fn next(&mut self) -> Option<QueueEntry> {
        let Some(address) = self.order.pop_front() else {
            self.free += 1;
            return None;
        };
        // Neither is ever missing: an address in the order has a list, and no list is empty. The turn would be lost
        // otherwise.
        let line = self.waiting.get_mut(&address)?;
        let next = line.pop_front()?;
        self.count -= 1;
        if line.is_empty() {
            self.waiting.remove(&address);
        } else {
            // Behind everybody else: addresses take turns.
            self.order.push_back(address);
        }
        self.check();
        Some(next)
    }

    /// One too many is here, and it came from `newest`.
    fn evict(&mut self, newest: Neighbours) {
        let oldest = |address: &Neighbours| {
            let line = self.waiting.get(address)?;
            Some((line.front()?.arrival, line.len()))
        };
        let crowd = oldest(&newest).filter(|(_, count)| *count > 1).map(|(arrival, _)| (newest, arrival));
        let crowd = crowd.or_else(|| {
            let of_all = self.order.iter().filter_map(|address| {
                let (arrival, count) = oldest(address)?;
                Some((*address, arrival, count))
            });
            // Reversed: of equal crowds the one that has waited longest is to be the largest.
            let most = of_all.max_by_key(|(_, arrival, count)| (*count, std::cmp::Reverse(*arrival)));
            most.map(|(address, arrival, _)| (address, arrival))
        });
        if let Some((address, arrival)) = crowd {
            self.leave(address, arrival);
        }
    }

    fn leave(&mut self, address: Neighbours, arrival: u64) {
        let Some(line) = self.waiting.get_mut(&address) else { return };
        // A list grows at its end only, so it is in the order of arrivals. Who has had a turn, or was evicted, is
        // not in it.
        let Ok(at) = line.binary_search_by_key(&arrival, |waiting| waiting.arrival) else { return };
        line.remove(at);
        self.count -= 1;
        if line.is_empty() {
            self.waiting.remove(&address);
            self.order.retain(|other| *other != address);
        }
        self.check();
    }
}

impl Drop for PasswordTurn {
    fn drop(&mut self) {
        if let Some(queue) = self.0.take() {
            queue.pass_on();
        }
    }
}

impl Drop for QueuePlace<'_> {
    fn drop(&mut self) {
        self.queue.state().leave(self.address, self.arrival);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::net::IpAddr;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    type Entering<'q> = Pin<Box<dyn Future<Output = Result<PasswordTurn, Evicted>> + 'q>>;

    /// Comes, and waits unless there is a turn.
    fn comes<'q>(
        queue: &'q Arc<TurnQueue>,
        from: &str,
    ) -> (Entering<'q>, Option<Result<PasswordTurn, Evicted>>) {
        let mut entering: Entering<'q> = Box::pin(queue.turn(from.parse::<IpAddr>().unwrap().into()));
        let now = is_in(&mut entering);
        (entering, now)
    }

    fn waits<'q>(queue: &'q Arc<TurnQueue>, from: &str) -> Entering<'q> {
        let (entering, now) = comes(queue, from);
        assert!(now.is_none(), "{from}");
        entering
    }

    fn is_in(entering: &mut Entering<'_>) -> Option<Result<PasswordTurn, Evicted>> {
        match entering.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(outcome) => Some(outcome),
            Poll::Pending => None,
        }
    }

    fn at_work(queue: &Arc<TurnQueue>) -> PasswordTurn {
        comes(queue, "192.0.2.9").1.unwrap().unwrap()
    }

    #[test]
    fn addresses_take_turns() {
        let queue = Arc::new(TurnQueue::new(1, 1000));
        let work = at_work(&queue);
        let mut crowd: Vec<_> = (0..900).map(|_| waits(&queue, "192.0.2.1")).collect();
        let mut other = waits(&queue, "192.0.2.2");
        drop(work);
        // The first of the crowd was there before; then it is the other one's turn.
        let first = is_in(&mut crowd[0]).unwrap().unwrap();
        assert!(is_in(&mut other).is_none());
        drop(first);
        let turn = is_in(&mut other).unwrap().unwrap();
        assert!(is_in(&mut crowd[1]).is_none());
        drop(turn);
        assert!(is_in(&mut crowd[1]).unwrap().is_ok());
    }

    #[test]
    fn a_full_queue_sends_away_whom_it_holds_most_of() {
        let queue = Arc::new(TurnQueue::new(1, 4));
        let _work = at_work(&queue);
        let mut crowd: Vec<_> = (0..3).map(|_| waits(&queue, "192.0.2.1")).collect();
        let mut other = waits(&queue, "192.0.2.2");
        // One more of the crowd: its own oldest goes.
        crowd.push(waits(&queue, "192.0.2.1"));
        assert!(matches!(is_in(&mut crowd[0]), Some(Err(Evicted))));
        // One from elsewhere: still one of the crowd goes.
        let mut third = waits(&queue, "2001:db8::1");
        assert!(matches!(is_in(&mut crowd[1]), Some(Err(Evicted))));
        // Another of the same /64: the oldest of that.
        let _fourth = waits(&queue, "2001:db8::ffff:2");
        assert!(matches!(is_in(&mut third), Some(Err(Evicted))));
        assert!(
            is_in(&mut other).is_none() && is_in(&mut crowd[2]).is_none() && is_in(&mut crowd[3]).is_none()
        );
        // Where everybody is alone, the oldest.
        drop(crowd);
        let _more = [waits(&queue, "192.0.2.3"), waits(&queue, "192.0.2.4")];
        let mut newest = waits(&queue, "::ffff:192.0.2.5");
        assert!(matches!(is_in(&mut other), Some(Err(Evicted))) && is_in(&mut newest).is_none());
        assert_eq!(queue.state().count, 4);
    }

    #[test]
    fn who_leaves_holds_nothing() {
        let queue = Arc::new(TurnQueue::new(1, 4));
        let work = at_work(&queue);
        let (left, mut stays) = (waits(&queue, "192.0.2.1"), waits(&queue, "192.0.2.1"));
        let granted = waits(&queue, "192.0.2.2");
        drop(left);
        drop(work);
        // It left with a turn in its hand, which it had not seen yet.
        let first = is_in(&mut stays).unwrap().unwrap();
        drop(first);
        drop(granted);
        let state = queue.state();
        assert_eq!((state.free, state.count), (1, 0));
        assert!(state.waiting.is_empty() && state.order.is_empty());
    }

    #[test]
    fn there_are_never_more_turns_than_there_were() {
        let queue = Arc::new(TurnQueue::new(2, 8));
        let mut working = vec![at_work(&queue), at_work(&queue)];
        let mut waiting = VecDeque::new();
        for step in 0..500_u32 {
            let from = format!("192.0.2.{}", step * 7 % 5);
            waiting.push_back(waits(&queue, &from));
            if step % 3 == 0 {
                working.pop();
            }
            if step % 11 == 0 {
                waiting.remove(step as usize % waiting.len());
            }
            let mut still = VecDeque::new();
            for mut one in waiting.drain(..) {
                match is_in(&mut one) {
                    None => still.push_back(one),
                    Some(Ok(turn)) => working.push(turn),
                    Some(Err(Evicted)) => {}
                }
            }
            waiting = still;
            assert!(working.len() <= 2 && waiting.len() <= 8, "{step}");
            assert_eq!(queue.state().count, waiting.len());
            if working.is_empty() {
                working.push(at_work(&queue));
            }
            while working.len() < 2 && queue.state().free > 0 {
                working.push(at_work(&queue));
            }
        }
    }
}
