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
//! | `batch_spans` | the spans of what it has not confirmed |
//! | `early` | events of a process that waits for what another one has to tell before |
//! | `calls` | the queues of events that go by calls |
//! | `driver` | which of the two it is, and to which endpoint |
//! | `spool` | what is kept, on disk |

mod batch_spans;
mod buffer;
mod calls;
mod clients;
mod driver;
mod early;
mod kept;
mod patience;
mod spool;
mod stream;

use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mproxy_core::event::Event;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;
use uuid::Uuid;

use self::calls::Calls;
use self::driver::Driver;
use self::early::EarlyEvents;
use self::kept::{KeptEvents, ReportedEvent};
use self::spool::Spool;
pub use self::spool::SpoolConfig;
pub(crate) use self::stream::MessageBody;
use self::stream::StreamSetup;
use super::deadline;
use super::health::{Endpoints, EventWay};
use super::shared_timeout::SharedTimeout;
use crate::call_tracer::CallTracer;
use crate::watch::Watch;

/// How events are told.
pub(super) struct ObserverConfig {
    /// Events that wait at most for calls of their own.
    pub(super) queue: usize,
    /// Deadline of one call.
    pub(super) timeout: SharedTimeout,
    /// Bytes of events that are kept for a stream.
    pub(super) buffer: usize,
    /// How long a service may confirm nothing while events wait.
    pub(super) confirm_within: Duration,
    pub(super) version: Arc<str>,
    pub(super) instance: Arc<str>,
    /// Where what is kept is on disk, too.
    pub(super) spool: Option<SpoolConfig>,
    /// Who makes spans of what is told.
    pub(super) tracer: Option<Arc<dyn CallTracer>>,
    /// Nothing is told before this is cancelled.
    pub(super) wait: Option<CancellationToken>,
}

/// How long the end of the process waits for the disk.
const SPOOL_END: Duration = Duration::from_secs(2);

/// How often it is looked whether another process has let go of the spool.
const LOOK: Duration = Duration::from_millis(100);

/// How often it is looked whether all is told that was reported.
const TOLD_LOOK: Duration = Duration::from_millis(5);

/// Where events are told, and who waits for what another process has to do before.
pub(super) struct Observer {
    events: Arc<EarlyEvents>,
    watch: Arc<dyn Watch>,
    /// The task that waits for that.
    waiting: TaskTracker,
    tracer: Option<Arc<dyn CallTracer>>,
}

impl Observer {
    pub(super) fn start(
        endpoints: &Arc<Endpoints>,
        watch: &Arc<dyn Watch>,
        config: ObserverConfig,
        stop: &CancellationToken,
    ) -> io::Result<Self> {
        let (waiting, tracer) = (TaskTracker::new(), config.tracer.clone());
        let spool = config.spool.as_ref().map(|spool| open(spool, &config, |_| false, &**watch)).transpose();
        let spool = match spool {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && config.succeeds() => None,
            spool => Some(spool?),
        };
        let events = match spool {
            Some(spool) if config.wait.is_none() => {
                Arc::new(EarlyEvents::told_by(Teller::start(endpoints, watch, config, spool, stop)?))
            }
            spool => {
                let events = Arc::new(EarlyEvents::new(config.buffer));
                let late = LateStart {
                    events: Arc::clone(&events),
                    endpoints: Arc::clone(endpoints),
                    watch: Arc::clone(watch),
                    config,
                    spool,
                    stop: stop.clone(),
                };
                waiting.spawn(stop.clone().run_until_cancelled_owned(late.run()));
                events
            }
        };
        waiting.close();
        Ok(Self { events, watch: Arc::clone(watch), waiting, tracer })
    }

    /// Takes an event. `tracked`: the end of its connection will be reported, too.
    pub(super) fn report(&self, event: Event, tracked: bool) {
        let connection = event.peer.origin.connection_id;
        let session = self.tracer.as_ref().and_then(|tracer| tracer.recorded_session(connection));
        self.events.report(ReportedEvent { event, session }, tracked);
    }

    /// A connection of another process goes on in this one.
    pub(super) fn take_over(&self, connection: u128) {
        self.events.take_over(connection);
    }

    /// Waits until all that has been reported is told, and confirmed where a service confirms.
    pub(super) async fn told(&self) {
        let _ = self.waiting.wait().await;
        if let Some(teller) = self.events.teller() {
            teller.told().await;
        }
    }

    /// Takes nothing more, and gives what waits so long to be told and confirmed.
    pub(super) async fn flush(&self, grace: Duration) {
        let deadline = deadline(grace);
        let _ = timeout_at(deadline, self.waiting.wait()).await;
        match self.events.teller() {
            Some(teller) => teller.flush(deadline).await,
            None => self.events.drop_all(&*self.watch),
        }
    }

    /// Waits for its tasks, which end when they are stopped.
    pub(super) async fn join(&self) {
        self.waiting.wait().await;
        if let Some(teller) = self.events.teller() {
            teller.join().await;
        }
    }
}

fn open(
    spool: &SpoolConfig,
    config: &ObserverConfig,
    goes_on: impl Fn(u128) -> bool,
    watch: &dyn Watch,
) -> io::Result<Spool> {
    Spool::open(spool, Uuid::new_v4().as_u128(), config.buffer, goes_on, watch)
}

impl ObserverConfig {
    fn succeeds(&self) -> bool {
        self.spool.as_ref().is_some_and(|spool| spool.succeeds)
    }
}

/// Another process has the spool, or something to tell before: begins when that is over.
struct LateStart {
    events: Arc<EarlyEvents>,
    endpoints: Arc<Endpoints>,
    watch: Arc<dyn Watch>,
    config: ObserverConfig,
    /// `None`: the other process has it.
    spool: Option<Option<Spool>>,
    stop: CancellationToken,
}

impl LateStart {
    async fn run(self) {
        let Self { events, endpoints, watch, mut config, spool, stop } = self;
        if let Some(wait) = config.wait.take() {
            wait.cancelled().await;
        }
        let config = Arc::new(config);
        let spool = match spool {
            Some(spool) => spool,
            None => spool_that_is_let_go(&config, &events, &watch).await,
        };
        // The task that has lent it has ended.
        let Some(config) = Arc::into_inner(config) else { return };
        match Teller::start(&endpoints, &watch, config, spool, &stop) {
            Ok(teller) => events.begin(teller),
            Err(error) => warn!(%error, "events cannot be told"),
        }
    }
}

/// Waits until the other process has let go of the spool.
async fn spool_that_is_let_go(
    config: &Arc<ObserverConfig>,
    events: &Arc<EarlyEvents>,
    watch: &Arc<dyn Watch>,
) -> Option<Spool> {
    loop {
        let (config, events, watch) = (Arc::clone(config), Arc::clone(events), Arc::clone(watch));
        let spool = config.spool.clone();
        // Reads files: not on a runtime thread.
        let opened = tokio::task::spawn_blocking(move || {
            let goes_on = |connection| events.is_taken_over(connection);
            spool.map(|spool| open(&spool, &config, goes_on, &*watch)).transpose()
        });
        match opened.await.unwrap_or_else(|panicked| Err(io::Error::other(panicked))) {
            Ok(spool) => return spool,
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => sleep(LOOK).await,
            Err(error) => {
                warn!(%error, "event spool cannot be used, events are kept in memory alone");
                return None;
            }
        }
    }
}

/// Who tells events.
struct Teller {
    endpoints: Arc<Endpoints>,
    kept: Arc<KeptEvents>,
    calls: Arc<Calls>,
    driver: TaskTracker,
    /// Tells when the thread of the spool has ended.
    spool_end: Mutex<Option<oneshot::Receiver<()>>>,
}

impl Teller {
    fn start(
        endpoints: &Arc<Endpoints>,
        watch: &Arc<dyn Watch>,
        config: ObserverConfig,
        mut spool: Option<Spool>,
        stop: &CancellationToken,
    ) -> io::Result<Self> {
        let run_id = spool.as_ref().map_or_else(Uuid::new_v4, |spool| Uuid::from_u128(spool.run_id));
        let kept = Arc::new(KeptEvents::new(config.buffer, Arc::clone(watch), spool.as_mut()));
        let spool_end = match spool.zip(kept.spool()) {
            Some((spool, queue)) => {
                // Weak: the thread would keep alive what tells it to end when it is dropped.
                let waker = Arc::downgrade(&kept);
                let reserved = move || waker.upgrade().into_iter().for_each(|kept| kept.wake.notify_one());
                Some(spool.start(Arc::clone(watch), reserved, queue)?)
            }
            None => None,
        };
        let calls = Arc::new(Calls::start(
            endpoints,
            watch,
            config.queue,
            config.timeout,
            config.tracer.as_ref(),
            stop,
        ));
        let setup = StreamSetup {
            version: config.version,
            instance: config.instance,
            run_id: run_id.to_string(),
            confirm_within: config.confirm_within,
            kept: Arc::clone(&kept),
            watch: Arc::clone(watch),
            tracer: config.tracer,
        };
        let driver = Driver {
            endpoints: Arc::clone(endpoints),
            setup,
            calls: Arc::clone(&calls),
            told_of_calls: AtomicBool::new(false),
        };
        let tasks = TaskTracker::new();
        tasks.spawn(stop.clone().run_until_cancelled_owned(driver.run()));
        tasks.close();
        let spool_end = Mutex::new(spool_end);
        Ok(Self { endpoints: Arc::clone(endpoints), kept, calls, driver: tasks, spool_end })
    }

    fn report(&self, event: ReportedEvent, tracked: bool) {
        if self.endpoints.event_way() == EventWay::Calls
            // While something is kept, what comes behind it is kept, too, or it would overtake it.
            && let Some(sequence) = self.kept.pass()
        {
            self.calls.report(event, sequence);
        } else {
            self.kept.push(event, tracked);
        }
    }

    /// Waits until all that has been reported is told.
    async fn told(&self) {
        let last = self.kept.last();
        // Looked at, as nobody waits for this but a process whose place is taken: what tells events need not know of it.
        while !self.kept.is_settled(last) || !self.calls.are_all_told() {
            sleep(TOLD_LOOK).await;
        }
    }

    async fn flush(&self, deadline: Instant) {
        self.kept.close();
        // In this order: what is kept may have to go into the queues.
        let _ = timeout_at(deadline, self.driver.wait()).await;
        let _ = timeout_at(deadline, self.calls.flush()).await;
    }

    async fn join(&self) {
        self.driver.wait().await;
        self.calls.join().await;
        // Now that nobody takes anything out any more, what is left was not told.
        self.kept.drop_rest();
        let end = self.spool_end.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(end) = end {
            let _ = timeout(SPOOL_END, end).await;
        }
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        if let Some(spool) = self.kept.spool() {
            // Without a word its thread would sleep for ever.
            spool.abandon();
        }
    }
}
