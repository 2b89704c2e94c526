//! The pause of a listener whose machine can take nobody at present: no file descriptor, no memory. It would fail again at
//! once, over and over, and take the time from those who are in.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// Most shortages are over in a moment, when some connection ends.
const SHORTEST: Duration = Duration::from_millis(10);

/// Whoever waits in the kernel's queue is let in this long after the shortage at most.
const LONGEST: Duration = Duration::from_secs(1);

/// Doubles with each failure in a row.
#[derive(Debug, Default)]
pub(super) struct Pause {
    /// The last one; zero after a success.
    last: Duration,
    running: Option<Pin<Box<Sleep>>>,
}

impl Pause {
    /// Accepting has failed. Gives how long it is not tried again.
    pub(super) fn begin(&mut self) -> Duration {
        self.last = (self.last * 2).clamp(SHORTEST, LONGEST);
        self.running = Some(Box::pin(sleep_until(Instant::now() + self.last)));
        self.last
    }

    /// Ready when there is none, or it is over.
    pub(super) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(running) = &mut self.running {
            ready!(running.as_mut().poll(cx));
            self.running = None;
        }
        Poll::Ready(())
    }

    /// Somebody came in: the next shortage is another one.
    pub(super) fn forget(&mut self) {
        self.last = Duration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_double_up_to_a_second_and_are_waited_out() {
        let mut pause = Pause::default();
        for expected in [10, 20, 40, 80, 160, 320, 640, 1000, 1000] {
            let (expected, begun) = (Duration::from_millis(expected), Instant::now());
            assert_eq!(pause.begin(), expected);
            poll_fn(|cx| pause.poll_over(cx)).await;
            assert_eq!(begun.elapsed(), expected);
        }
        pause.forget();
        assert_eq!(pause.begin(), SHORTEST);
    }
}
