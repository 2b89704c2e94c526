//! The end of the process: who hears of it when, and how long it may take.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tracing::{info, warn};

use crate::registry::ConnectionCommand;
use crate::serve::House;

/// Connections told to leave per millisecond at most: clients that are told all at once come back all at once.
const PER_MILLISECOND: u32 = 1;

/// How long connections that are cut may take for it. They wait for nobody, only for their turn.
const CUT_WITHIN: Duration = Duration::from_secs(1);

/// Lets every connection end, within `within`. The house must be closed already.
pub(crate) async fn drain(house: &Arc<House>, within: Duration) {
    let deadline = Instant::now() + within;
    // Who is being let in at this moment is to be told too.
    house.listeners.close();
    house.listeners.wait().await;
    let all = house.registry.all();
    info!(connections = all.len(), timeout_seconds = within.as_secs_f64(), "draining");
    // Spread over at most half of the time, so that the last ones told have the other half to finish.
    let pace = (within / 2 / u32::try_from(all.len()).unwrap_or(u32::MAX).max(1))
        .min(Duration::from_millis(1) / PER_MILLISECOND);
    let start = Instant::now();
    for (told, handle) in (1..).zip(&all) {
        handle.send(ConnectionCommand::Drain);
        // Timers tick in milliseconds: a sleep for each would be longer than the pace.
        if told % 64 == 0 {
            sleep_until(start + pace * told).await;
        }
    }
    // Each handle keeps the facts of its client in memory.
    drop(all);
    house.tasks.close();
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
