//! The way to the broker: a dial, and then that the broker has answered.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use mproxy_core::fault::Unreachable;
use tokio::time::{Sleep, sleep};

use crate::share::turns::Turn;

/// A stream to the broker on its way.
pub(crate) type Dialing<S> = Pin<Box<dyn Future<Output = Result<Dialed<S>, Unreachable>> + Send>>;

/// A stream to the broker.
pub(crate) struct Dialed<S> {
    pub(crate) stream: S,
    /// Who dials next may have to wait for the broker's answer. `None`: nobody does.
    pub(crate) unanswered: Option<Box<Unanswered>>,
}

/// A turn to dial, until the broker has said something or some time has passed: the kernel says that it is connected long
/// before it has accepted the connection.
pub(crate) struct Unanswered {
    _turn: Turn,
    until: Pin<Box<Sleep>>,
}

impl Unanswered {
    pub(crate) fn new(turn: Turn, within: Duration) -> Box<Self> {
        Box::new(Self { _turn: turn, until: Box::pin(sleep(within)) })
    }
}

/// How far it has come.
pub(super) enum DialStage<S> {
    Dialing(Dialing<S>),
    /// Nobody dials, or the broker has been reached. `Some`: it has not said anything yet.
    Quiet(Option<Box<Unanswered>>),
}

impl<S> DialStage<S> {
    /// What came of the dial, once it has ended.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<S, Unreachable>> {
        match self {
            Self::Quiet(None) => Poll::Pending,
            Self::Quiet(unanswered) => {
                if unanswered.as_mut().is_some_and(|one| one.until.as_mut().poll(cx).is_ready()) {
                    *unanswered = None;
                }
                Poll::Pending
            }
            Self::Dialing(dialing) => {
                let Poll::Ready(outcome) = dialing.as_mut().poll(cx) else { return Poll::Pending };
                let (outcome, unanswered) = match outcome {
                    Ok(Dialed { stream, unanswered }) => (Ok(stream), unanswered),
                    Err(unreachable) => (Err(unreachable), None),
                };
                *self = Self::Quiet(unanswered);
                Poll::Ready(outcome)
            }
        }
    }

    /// The broker has said something, or has gone.
    pub(super) fn answered(&mut self) {
        if let Self::Quiet(unanswered) = self {
            *unanswered = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::net::IpAddr;
    use std::sync::Arc;
    use std::task::Waker;

    use futures_util::FutureExt as _;

    use super::*;
    use crate::share::turns::Turns;

    /// A dial that has ended just now, and who dials next.
    async fn dialed(turns: &Arc<Turns>) -> DialStage<()> {
        let turn = turns.take(IpAddr::from([192, 0, 2, 1]).into()).await;
        let unanswered = Some(Unanswered::new(turn, Duration::from_millis(100)));
        let mut stage = DialStage::Dialing(Box::pin(async { Ok(Dialed { stream: (), unanswered }) }));
        assert!(poll_fn(|cx| stage.poll(cx)).await.is_ok());
        stage
    }

    fn is_free(turns: &Arc<Turns>) -> bool {
        turns.take(IpAddr::from([192, 0, 2, 2]).into()).now_or_never().is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_is_kept_until_the_broker_has_spoken_or_some_time_has_passed() {
        let turns = Turns::new(1);
        let mut stage = dialed(&turns).await;
        let mut look = Context::from_waker(Waker::noop());
        assert!(stage.poll(&mut look).is_pending() && !is_free(&turns));
        stage.answered();
        assert!(is_free(&turns));

        let mut stage = dialed(&turns).await;
        assert!(stage.poll(&mut look).is_pending() && !is_free(&turns));
        tokio::time::advance(Duration::from_millis(101)).await;
        assert!(stage.poll(&mut look).is_pending() && is_free(&turns));
        drop(dialed(&turns).await);
        assert!(is_free(&turns), "whoever leaves keeps nothing");
    }

    /// Each connection has one, for as long as it lives.
    #[test]
    fn a_dial_takes_no_more_room_than_its_future() {
        assert_eq!(size_of::<DialStage<()>>(), size_of::<Dialing<()>>());
    }
}
