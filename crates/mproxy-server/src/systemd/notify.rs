//! What the service manager is told. If it cannot be told, that changes nothing for clients: a line at `debug` says so.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// Another process is the service: what this one says would be taken for what that one says.
static REPLACED: AtomicBool = AtomicBool::new(false);

/// All listeners are open, or a reload has ended.
pub(crate) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// A reload begins. It ends with [`ready`].
pub(crate) fn reloading() {
    // With the time, so that the manager can tell this reload from one that it asks for later.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => debug!(%error, "service manager not notified"),
    }
}

/// From now on that process is the service, and this one has nothing more to say.
pub(crate) fn main_process(pid: u32) {
    tell(&[NotifyState::MainPid(pid)]);
    REPLACED.store(true, Ordering::Relaxed);
}

/// mproxy ends, and takes so long at most: the manager is asked not to kill it before.
pub(crate) fn stopping(status: &str, within: Duration) {
    let within = u32::try_from(within.as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::Stopping, NotifyState::Status(status), NotifyState::ExtendTimeoutUsec(within)]);
}

/// Says that mproxy lives, twice in the time that the manager waits for it (`WatchdogSec=`). As a task among the others, it
/// says so only while the runtime still takes its turns; not at all where nobody waits, nor when another process is the
/// service.
pub(crate) fn watchdog(replaced: CancellationToken) {
    let Some(period) = sd_notify::watchdog_enabled().filter(|period| !period.is_zero()) else { return };
    tokio::spawn(async move {
        let mut turns = tokio::time::interval(period / 2);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while replaced.run_until_cancelled(turns.tick()).await.is_some() {
            tell(&[NotifyState::Watchdog]);
        }
    });
}

fn tell(states: &[NotifyState<'_>]) {
    if REPLACED.load(Ordering::Relaxed) {
        return;
    }
    if let Err(error) = sd_notify::notify(states) {
        debug!(%error, "service manager not notified");
    }
}
