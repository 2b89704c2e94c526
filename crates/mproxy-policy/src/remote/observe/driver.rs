//! Where events go: over a stream to the first healthy endpoint that serves one, and into the queues of calls where it
//! serves none.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use super::calls::Calls;
use super::stream::{ObserveEnd, StreamSetup};
use crate::remote::health::{EndpointEntry, Endpoints, Pick, ServiceConnection};
use crate::remote::pause::{STEADY, pause};
use crate::watch::EventStreamEnd;

/// Streams that break one soon after the other are told so often.
const TOLD: u32 = 3;

pub(super) struct Driver {
    pub(super) endpoints: Arc<Endpoints>,
    pub(super) setup: StreamSetup,
    pub(super) calls: Arc<Calls>,
    /// Said once: events go by calls although there is a spool.
    pub(super) told_of_calls: AtomicBool,
}

impl Driver {
    /// Ends when nothing more is taken and all is told, or nobody is left who could be told.
    pub(super) async fn run(self) {
        let mut changes = self.endpoints.changes();
        // Connections whose stream has failed: others are tried first.
        let mut failed: Vec<Arc<ServiceConnection>> = Vec::new();
        let mut failures = 0;
        while !self.setup.kept.is_over() {
            // An endpoint that is dialled anew comes back as another connection, which has not failed.
            failed.retain(|connection| !connection.gone.is_cancelled());
            // Before the look at them: what changes just after it ends the wait below.
            changes.mark_unchanged();
            let connection = match self.endpoints.pick(&failed) {
                Pick::Connection(connection) => connection,
                // All have failed. After a pause each of them has another chance.
                Pick::Wait | Pick::Nobody(_) if !failed.is_empty() => {
                    sleep(pause(failures)).await;
                    failed.clear();
                    continue;
                }
                // The process ends, and does not wait for a service to come back.
                Pick::Nobody(_) if self.setup.kept.is_closed() => return,
                Pick::Wait | Pick::Nobody(_) => {
                    self.wait(&mut changes).await;
                    continue;
                }
            };
            if !connection.serves_observe() {
                self.by_calls(connection.url(), &mut changes).await;
                continue;
            }
            let since = Instant::now();
            self.setup.watch.event_stream(true);
            // A better one may have come back, but not one whose stream has just failed.
            let moved = || match self.endpoints.pick(&failed) {
                Pick::Connection(first) => !Arc::ptr_eq(&first, &connection),
                Pick::Wait | Pick::Nobody(_) => false,
            };
            let end = self.setup.run(&connection, &mut changes, moved).await;
            self.setup.watch.event_stream(false);
            // Else breaks that are days apart would add up, and be told no more.
            if since.elapsed() >= STEADY {
                failures = 0;
            }
            if self.note(&connection, &end, failures) == Sound::No {
                failures += 1;
                failed.push(connection);
            }
        }
    }

    /// Waits for a change of an endpoint, or until nothing more is taken.
    async fn wait(&self, changes: &mut watch::Receiver<Vec<EndpointEntry>>) {
        tokio::select! {
            _ = changes.changed() => {}
            () = self.setup.kept.wake.notified() => {}
        }
    }

    /// Moves all that is kept into the queues of calls, until an endpoint changes.
    async fn by_calls(&self, endpoint: &str, changes: &mut watch::Receiver<Vec<EndpointEntry>>) {
        if self.setup.kept.spool().is_some() && !self.told_of_calls.swap(true, Ordering::Relaxed) {
            warn!(endpoint, "event spool not used: the policy service serves no event stream");
        }
        loop {
            let moved = tokio::select! {
                _ = changes.changed() => return,
                moved = self.calls.take_over(&self.setup.kept) => moved,
            };
            if !moved {
                // Whether nothing more will come is looked at here: a stream may have taken the wake-up that said so.
                if !self.setup.kept.is_over() {
                    self.wait(changes).await;
                }
                return;
            }
        }
    }

    /// Counts the end of a stream and logs it, after so many that have failed just before it.
    fn note(&self, connection: &ServiceConnection, end: &ObserveEnd, failures: u32) -> Sound {
        let endpoint = connection.url();
        // An outage is told at its beginning, and the metric counts on.
        let is_news = failures < TOLD;
        if !is_news {
            debug!(endpoint, ?end, "event stream failed again");
        }
        let (reason, sound) = match end {
            ObserveEnd::Finished => (EventStreamEnd::Finished, Sound::Yes),
            // The whole endpoint went, and its connector sees to it.
            ObserveEnd::Gone => (EventStreamEnd::Closed, Sound::Yes),
            ObserveEnd::Moved => {
                info!(endpoint, "event stream ended, another endpoint comes first");
                (EventStreamEnd::Moved, Sound::Yes)
            }
            ObserveEnd::Closed => {
                if is_news {
                    info!(endpoint, "event stream ended by the policy service");
                }
                (EventStreamEnd::Closed, Sound::No)
            }
            ObserveEnd::Broken(error) => {
                if is_news {
                    warn!(endpoint, error, "event stream broken, its events are sent again");
                }
                (EventStreamEnd::Broken, Sound::No)
            }
            ObserveEnd::Unimplemented => {
                warn!(
                    endpoint,
                    "HookStream.Observe unimplemented although Hello says that streams are served, sending events by \
                     unary calls"
                );
                self.endpoints.remove_observe(connection);
                (EventStreamEnd::Unimplemented, Sound::Yes)
            }
            ObserveEnd::Unconfirmed => {
                warn!(
                    endpoint,
                    within = ?self.setup.confirm_within,
                    "events unconfirmed for too long, trying another endpoint"
                );
                (EventStreamEnd::Unconfirmed, Sound::No)
            }
            ObserveEnd::Future { safe_up_to, last_sent } => {
                warn!(
                    endpoint,
                    safe_up_to,
                    last_sent,
                    "policy service confirms events that were never sent, event stream ended"
                );
                (EventStreamEnd::Future, Sound::No)
            }
        };
        self.setup.watch.event_stream_ended(reason);
        sound
    }
}

/// Whether an endpoint is as good as before its stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sound {
    Yes,
    No,
}
