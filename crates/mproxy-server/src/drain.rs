//! The end of the process: who hears of it when, and how long it may take.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tracing::{info, warn};

use crate::registry::ConnectionCommand;
use crate::serve::House;

/// How long those who are coming in when a new process has taken the listeners may take for it, and how often it is looked
/// whether they have.
const COMING_IN: Duration = Duration::from_secs(10);

/// The same for those who have said nothing yet, or are in a handshake: a client's CONNECT comes at once.
const SILENT: Duration = Duration::from_millis(500);

const LOOK: Duration = Duration::from_millis(20);

/// Connections are told one by one, this far apart at most unless a spread is set.
const TICK: Duration = Duration::from_millis(1);

/// How long connections that are cut may take for it. They wait for nobody, only for their turn.
const CUT_WITHIN: Duration = Duration::from_secs(1);

/// Lets every connection end, within `within`; they are told to leave over `spread`. The house must be closed already.
pub(crate) async fn drain(house: &Arc<House>, within: Duration, spread: Option<Duration>) {
    // Rules hold until the last one has gone, and its routines end before that.
    tokio::select! {
        () = drain_all(house, within, spread) => {}
        never = house.keep_time() => match never {},
    }
}

async fn drain_all(house: &Arc<House>, within: Duration, spread: Option<Duration>) {
    let deadline = Instant::now() + within;
    // Who is being let in at this moment is to be told too.
    house.listeners.close();
    house.listeners.wait().await;
    house.routines.close();
    house.routines.wait().await;
    house.tasks.close();
    let all = house.registry.all();
    info!(connections = all.len(), timeout_seconds = within.as_secs_f64(), "draining");
    let pace = pace(all.len(), within, spread);
    let telling = async {
        let start = Instant::now();
        for (told, handle) in (0..).zip(&all) {
            let due = start + pace * told;
            // Timers tick in milliseconds: a sleep for each would be longer than the pace.
            if due >= Instant::now() + TICK {
                sleep_until(due).await;
            }
            handle.send(ConnectionCommand::Drain);
        }
    };
    tokio::select! {
        () = telling => {}
        // Nobody is left to be told.
        () = house.tasks.wait() => {}
        () = sleep_until(deadline) => {}
    }
    // Each handle keeps the facts of its client in memory.
    drop(all);
    if timeout_at(deadline, house.tasks.wait()).await.is_ok() {
        info!("drained");
        return;
    }
    let rest = house.registry.all();
    warn!(connections = rest.len(), "drain timeout, closing remaining connections");
    for handle in &rest {
        handle.send(ConnectionCommand::Cut);
    }
    // Their ends are told like any other's. Whoever has not had his turn by then is dropped with the runtime.
    let _ = timeout(CUT_WITHIN, house.tasks.wait()).await;
}

/// The time from one connection that is told to the next: clients that are told all at once come back all at once.
fn pace(connections: usize, within: Duration, spread: Option<Duration>) -> Duration {
    let connections = u32::try_from(connections).unwrap_or(u32::MAX).max(1);
    match spread {
        Some(spread) => spread / connections,
        // At most half of the time, so that the last ones told have the other half to finish.
        None => (within / 2 / connections).min(TICK),
    }
}

/// Nobody is accepted any more, and those who are here may stay for so long. Ends when all have ended, or when that is over
/// and nobody is on the way in.
pub(crate) async fn linger(house: &House, stay: Duration) {
    let begun = Instant::now();
    // First: who has been accepted is counted when these have ended. Until then the house may look empty, and is not.
    house.listeners.close();
    house.listeners.wait().await;
    house.tasks.close();
    let staying = async {
        sleep(stay).await;
        // Nobody who is on the way in is refused. But a stranger who says nothing keeps nobody waiting.
        while (house.is_anybody_coming_in() && begun.elapsed() < stay + SILENT)
            || (house.is_anybody_opening() && begun.elapsed() < stay + COMING_IN)
        {
            sleep(LOOK).await;
        }
    };
    tokio::select! {
        () = house.tasks.wait() => {}
        () = staying => {}
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::example_peer;
    use crate::registry::{ConnectionPhase, Handle};

    #[tokio::test]
    async fn who_has_just_been_accepted_is_waited_for_although_nobody_else_is_there() {
        let house = House::empty();
        let (accepted, accepting) = tokio::sync::oneshot::channel();
        let tasks = house.tasks.clone();
        house.listeners.spawn(async move {
            let _ = accepting.await;
            tasks.spawn(std::future::pending::<()>());
        });
        let mut lingering = Box::pin(linger(&house, Duration::from_secs(60)));
        for _ in 0..10 {
            tokio::task::yield_now().await;
            assert!(lingering.as_mut().now_or_never().is_none(), "a listener is in the middle of an accept");
        }
        accepted.send(()).expect("it waits");
        for _ in 0..10 {
            tokio::task::yield_now().await;
            assert!(lingering.as_mut().now_or_never().is_none(), "somebody is here");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stranger_who_says_nothing_keeps_nobody_waiting() {
        let house = House::empty();
        house.tasks.spawn(std::future::pending::<()>());
        let handle = Arc::new(Handle::new(&Arc::new(example_peer::origin(1))));
        house.registry.enter(&handle);
        let begun = Instant::now();
        linger(&house, Duration::ZERO).await;
        assert!(begun.elapsed() <= SILENT + LOOK, "{:?}", begun.elapsed());
        // Who has said CONNECT is waited for.
        handle.set_phase(ConnectionPhase::Dialing);
        let begun = Instant::now();
        linger(&house, Duration::ZERO).await;
        assert!(begun.elapsed() >= COMING_IN, "{:?}", begun.elapsed());
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_spread_is_the_time_for_all_of_them() {
        assert_eq!(pace(9500, 30 * SECOND, Some(19 * SECOND / 2)), Duration::from_millis(1));
        assert_eq!(pace(2, 30 * SECOND, Some(10 * SECOND)), 5 * SECOND);
        assert_eq!(pace(0, SECOND, Some(SECOND)), SECOND);
    }

    #[test]
    fn without_one_few_are_told_soon_and_many_in_half_of_the_time() {
        assert_eq!(pace(10, 30 * SECOND, None), Duration::from_millis(1));
        assert_eq!(pace(100_000, 30 * SECOND, None), Duration::from_micros(150));
    }
}
