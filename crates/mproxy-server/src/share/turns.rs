//! Work of which so much is done at a time. While there is a free turn it is had at once; when not, those who wait are
//! served in the order of a [`Rotation`].

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

use super::Neighbours;
use super::rotation::{Rotation, RotationKey};

/// Hands out turns. Those who wait are bounded by who may ask, and how long by their own deadlines.
pub(crate) struct Turns(Mutex<TurnsState>);

struct TurnsState {
    free: usize,
    waiting: Rotation<Arc<Waiter>>,
}

#[derive(Default)]
struct Waiter {
    granted: AtomicBool,
    waker: AtomicWaker,
}

impl std::fmt::Debug for Turns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Turns").finish_non_exhaustive()
    }
}

impl Turns {
    /// So many at a time, at least one.
    pub(crate) fn new(at_a_time: usize) -> Arc<Self> {
        let inner = TurnsState { free: at_a_time.max(1), waiting: Rotation::default() };
        Arc::new(Self(Mutex::new(inner)))
    }

    /// A turn for somebody from there. Whoever drops the future before has given it up.
    pub(crate) fn take(self: &Arc<Self>, whose: Neighbours) -> Taking {
        Taking { turns: Arc::clone(self), whose, waiting: None }
    }

    /// Gives each poll of a future a turn of its own: it waits for others in the order of turns, and for its peer
    /// without one.
    pub(crate) fn polls<F: Future>(self: &Arc<Self>, whose: Neighbours, work: Pin<Box<F>>) -> Polls<F> {
        Polls { turns: Arc::clone(self), whose, taking: None, work }
    }

    fn pass_on(&self) {
        let mut inner = self.0.lock();
        let Some(next) = inner.waiting.take() else {
            inner.free += 1;
            return;
        };
        // Within the lock: who gives up then either is not found here or sees that it has one.
        next.granted.store(true, Ordering::Release);
        drop(inner);
        next.waker.wake();
    }
}

/// A turn; over when dropped.
pub(crate) struct Turn(Arc<Turns>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.pass_on();
    }
}

/// A turn that is waited for.
pub(crate) struct Taking {
    turns: Arc<Turns>,
    whose: Neighbours,
    waiting: Option<(RotationKey, Arc<Waiter>)>,
}

impl Future for Taking {
    type Output = Turn;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Turn> {
        let this = &mut *self;
        if let Some((_, waiter)) = &this.waiting {
            // First: a grant between the look and this would wake nobody.
            waiter.waker.register(cx.waker());
            if !waiter.granted.load(Ordering::Acquire) {
                return Poll::Pending;
            }
            this.waiting = None;
            return Poll::Ready(Turn(Arc::clone(&this.turns)));
        }
        let mut inner = this.turns.0.lock();
        // Nobody who waits is overtaken: while somebody does, none is free.
        if inner.free > 0 {
            debug_assert!(inner.waiting.is_empty(), "a turn is free while somebody waits");
            inner.free -= 1;
            return Poll::Ready(Turn(Arc::clone(&this.turns)));
        }
        let waiter = Arc::<Waiter>::default();
        waiter.waker.register(cx.waker());
        let key = inner.waiting.enter(this.whose, Arc::clone(&waiter));
        drop(inner);
        this.waiting = Some((key, waiter));
        Poll::Pending
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        let Some((key, waiter)) = self.waiting.take() else { return };
        let left = self.turns.0.lock().waiting.leave(key);
        // Granted and not taken: without this nobody would ever have that turn again.
        if left.is_none() && waiter.granted.load(Ordering::Acquire) {
            self.turns.pass_on();
        }
    }
}

/// A future, each poll of which takes a turn.
pub(crate) struct Polls<F> {
    turns: Arc<Turns>,
    whose: Neighbours,
    taking: Option<Taking>,
    work: Pin<Box<F>>,
}

impl<F: Future> Future for Polls<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let taking = this.taking.get_or_insert_with(|| this.turns.take(this.whose));
        let turn = ready!(Pin::new(taking).poll(cx));
        this.taking = None;
        let polled = this.work.as_mut().poll(cx);
        drop(turn);
        polled
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::task::Waker;

    use super::*;

    fn of(text: &str) -> Neighbours {
        text.parse::<IpAddr>().expect("an address").into()
    }

    fn poll(taking: &mut Taking) -> Option<Turn> {
        match Pin::new(taking).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(turn) => Some(turn),
            Poll::Pending => None,
        }
    }

    #[test]
    fn addresses_take_turns_however_many_wait_at_one() {
        let turns = Turns::new(1);
        let mut turn = poll(&mut turns.take(of("192.0.2.1")));
        assert!(turn.is_some(), "at once while one is free");
        let mut waiting: Vec<_> =
            (0..100).map(|_| "192.0.2.1").chain(["192.0.2.2", "192.0.2.3", "192.0.2.2"]).collect();
        let mut waiting: Vec<_> = waiting.drain(..).map(|whose| (whose, turns.take(of(whose)))).collect();
        assert!(waiting.iter_mut().all(|(_, taking)| poll(taking).is_none()));
        let mut served = Vec::new();
        while turn.take().is_some() {
            let mut next = waiting.iter_mut().enumerate().filter_map(|(at, (_, one))| Some((at, poll(one)?)));
            let Some((at, granted)) = next.next() else { break };
            turn = Some(granted);
            served.push(waiting.remove(at).0);
        }
        assert_eq!(served[..5], ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.1", "192.0.2.2"]);
        assert_eq!(served.len(), 103);
        assert!(poll(&mut turns.take(of("192.0.2.1"))).is_some());
    }

    #[test]
    fn whoever_gives_up_leaves_nothing_and_keeps_nothing() {
        let turns = Turns::new(1);
        let turn = poll(&mut turns.take(of("192.0.2.1")));
        let (mut first, mut second) = (turns.take(of("192.0.2.2")), turns.take(of("192.0.2.2")));
        assert!(poll(&mut first).is_none() && poll(&mut second).is_none());
        drop(second);
        assert_eq!(turns.0.lock().waiting.len(), 1);
        // Granted, but not taken.
        drop(turn);
        drop(first);
        let inner = turns.0.lock();
        assert_eq!((inner.free, inner.waiting.len()), (1, 0));
    }

    #[tokio::test]
    async fn work_that_waits_for_its_peer_has_no_turn_meanwhile() {
        let turns = Turns::new(1);
        let stuck = turns.polls(of("192.0.2.1"), Box::pin(std::future::pending::<()>()));
        let stuck = tokio::spawn(stuck);
        tokio::task::yield_now().await;
        assert_eq!(turns.polls(of("192.0.2.2"), Box::pin(async { 1 })).await, 1);
        stuck.abort();
    }
}
