//! The telling hooks: events are kept in the order in which they were reported, go over a stream in batches, and are let go
//! when the service has confirmed them. Where a service serves no streams, each is a call of its own. A packet never waits
//! for them.
//!
//! | room | holds |
//! |---|---|
//! | `buffer` | numbers, what is kept, the cursor, what had to be dropped |
//! | `clients` | the clients that a stream has introduced |
//! | `patience` | how long a service may confirm nothing |
//! | `kept` | the buffer as sessions and the stream share it |
//! | `stream` | one stream |
//! | `calls` | the queues of events that go by calls |
//! | `driver` | which of the two it is, and to which endpoint |

mod buffer;
mod calls;
mod clients;
mod driver;
mod kept;
mod patience;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use mproxy_core::event::Event;
use tokio::time::timeout_at;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use self::calls::Calls;
use self::driver::Driver;
use self::kept::KeptEvents;
use self::stream::StreamSetup;
use super::deadline;
use super::health::{Endpoints, EventWay};
use crate::watch::Watch;

/// How events are told.
pub(super) struct ObserverConfig {
    /// Events that wait at most for calls of their own.
    pub(super) queue: usize,
    /// Deadline of one call.
    pub(super) timeout: Duration,
    /// Bytes of events that are kept for a stream.
    pub(super) buffer: usize,
    /// How long a service may confirm nothing while events wait.
    pub(super) confirm_within: Duration,
    pub(super) version: Arc<str>,
    pub(super) instance: Arc<str>,
}

pub(super) struct Observer {
    endpoints: Arc<Endpoints>,
    kept: Arc<KeptEvents>,
    calls: Arc<Calls>,
    driver: TaskTracker,
}

impl Observer {
    pub(super) fn start(
        endpoints: &Arc<Endpoints>,
        watch: &Arc<dyn Watch>,
        config: ObserverConfig,
        stop: &CancellationToken,
    ) -> Self {
        let kept = Arc::new(KeptEvents::new(config.buffer, Arc::clone(watch)));
        let calls = Arc::new(Calls::start(endpoints, watch, config.queue, config.timeout, stop));
        let setup = StreamSetup {
            version: config.version,
            instance: config.instance,
            run_id: Uuid::new_v4().to_string(),
            confirm_within: config.confirm_within,
            kept: Arc::clone(&kept),
            watch: Arc::clone(watch),
        };
        let driver = Driver { endpoints: Arc::clone(endpoints), setup, calls: Arc::clone(&calls) };
        let tasks = TaskTracker::new();
        tasks.spawn(stop.clone().run_until_cancelled_owned(driver.run()));
        tasks.close();
        Self { endpoints: Arc::clone(endpoints), kept, calls, driver: tasks }
    }

    pub(super) fn report(&self, event: Event) {
        if self.endpoints.event_way() == EventWay::Calls
            && let Some(sequence) = self.kept.pass()
        {
            self.calls.report(event, sequence);
        } else {
            self.kept.push(event);
        }
    }

    /// Takes nothing more, and gives what waits so long to be told and confirmed.
    pub(super) async fn flush(&self, grace: Duration) {
        self.kept.close();
        let deadline = deadline(grace);
        // In this order: what is kept may have to go into the queues.
        let _ = timeout_at(deadline, self.driver.wait()).await;
        let _ = timeout_at(deadline, self.calls.flush()).await;
    }

    /// Waits for its tasks, which end when they are stopped.
    pub(super) async fn join(&self) {
        self.driver.wait().await;
        self.calls.join().await;
        self.kept.drop_rest();
    }
}
