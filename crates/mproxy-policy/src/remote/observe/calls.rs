//! Events by calls, where the service serves no stream: they wait in queues and are told one call each, in order for each
//! connection. The queues are bounded by the number of events, and by the bytes that each connection, listener and all
//! together may hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwapOption;
use mproxy_core::event::Kind;
use mproxy_core::peer::ConnectionId;
use mproxy_core::policy::Failure;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::kept::{KeptEvent, KeptEvents, ReportedEvent};
use crate::call_tracer::{CallTrace, CallTracer, EventStart};
use crate::contract::{EventRequest, Rpc};
use crate::remote::deadline;
use crate::remote::health::Endpoints;
use crate::remote::shared_timeout::SharedTimeout;
use crate::remote::traced;
use crate::remote::unary::{CallResult, call_service};
use crate::watch::{DropReason, Watch};

/// Events that are sent at the same time. The events of one connection always go through the same queue, so that its Disconnect
/// cannot overtake its Connect.
const QUEUES: usize = 16;

struct QueuedEvent {
    kept: Arc<KeptEvent>,
    sequence: u64,
    /// One of [`Calls::untold`].
    untold: Arc<()>,
}

/// The queues. When a queue is full, events are dropped and counted; its last quarter is kept for what
/// happens once to a connection, as a flood of publishes is what fills it.
pub(super) struct Calls {
    /// `None`: mproxy ends, nothing is taken any more.
    queues: ArcSwapOption<Vec<mpsc::Sender<QueuedEvent>>>,
    warned: AtomicBool,
    senders: TaskTracker,
    watch: Arc<dyn Watch>,
    /// Held once by each event that is queued, or being told.
    untold: Arc<()>,
}

impl Calls {
    pub(super) fn start(
        endpoints: &Arc<Endpoints>,
        watch: &Arc<dyn Watch>,
        bound: usize,
        timeout: SharedTimeout,
        tracer: Option<&Arc<dyn CallTracer>>,
        stop: &CancellationToken,
    ) -> Self {
        let senders = TaskTracker::new();
        let queues = (0..QUEUES)
            .map(|_| {
                // Never 0: tokio panics on a channel without room, and a setting must not do that.
                let (sender, queued_events) = mpsc::channel(bound.div_ceil(QUEUES).max(1));
                let event_sender = EventSender {
                    endpoints: Arc::clone(endpoints),
                    watch: Arc::clone(watch),
                    timeout: timeout.clone(),
                    tracer: tracer.cloned(),
                };
                senders.spawn(event_sender.run(queued_events, stop.clone()));
                sender
            })
            .collect();
        // `wait` of a tracker that is open never ends.
        senders.close();
        Self {
            queues: ArcSwapOption::from_pointee(Some(queues)),
            warned: AtomicBool::new(false),
            senders,
            watch: Arc::clone(watch),
            untold: Arc::default(),
        }
    }

    /// Whether nothing is queued or being told.
    pub(super) fn are_all_told(&self) -> bool {
        Arc::strong_count(&self.untold) == 1
    }

    /// Queues an event, or drops and counts it.
    pub(super) fn report(&self, event: ReportedEvent, sequence: u64) {
        let kind = event.kind();
        let queues = self.queues.load();
        let Some(queues) = &*queues else {
            return self.watch.events_dropped(kind, DropReason::Shutdown, 1);
        };
        let Some(queue) = queue_of(queues, event.connection().0) else { return };
        let kept = if kind == Kind::Publish { queue.max_capacity() / 4 } else { 0 };
        if queue.capacity() <= kept {
            return self.drop_full(kind);
        }
        let Some(kept) = KeptEvent::new(event) else { return self.drop_full(kind) };
        let untold = Arc::clone(&self.untold);
        if queue.try_send(QueuedEvent { kept: Arc::new(kept), sequence, untold }).is_err() {
            self.drop_full(kind);
        }
    }

    /// There is no room for it: in its queue, or in the budget of its connection.
    fn drop_full(&self, kind: Kind) {
        self.watch.events_dropped(kind, DropReason::QueueFull, 1);
        // Once for the process: a full queue means thousands of these in a second, and the metric counts them.
        if !self.warned.swap(true, Ordering::Relaxed) {
            warn!("event queue full, dropping events (counted in mproxy_events_dropped_total)");
        }
    }

    /// Moves the first event that is kept into its queue, once there is room. `false`: there is none.
    ///
    /// Cancel safe: the event stays where it is.
    pub(super) async fn take_over(&self, kept: &KeptEvents) -> bool {
        let queue = {
            let queues = self.queues.load();
            let Some((first, queues)) = kept.first().zip(queues.as_ref()) else { return false };
            queue_of(queues, first.client.connection()).cloned()
        };
        let Some(queue) = queue else { return false };
        // Its place first: an event that is nowhere could be overtaken by the next one of its connection.
        let Ok(place) = queue.reserve().await else { return false };
        if let Some((sequence, kept)) = kept.take_first() {
            place.send(QueuedEvent { kept, sequence, untold: Arc::clone(&self.untold) });
        }
        true
    }

    /// Takes nothing more, and waits until what is queued is told.
    pub(super) async fn flush(&self) {
        // The senders' ends of the channels go with it: each task ends when it has told what is queued.
        self.queues.store(None);
        self.senders.wait().await;
    }

    /// Waits for the senders, who end when they are stopped.
    pub(super) async fn join(&self) {
        self.senders.wait().await;
    }
}

/// A connection's events keep their order only within one queue.
fn queue_of(queues: &[mpsc::Sender<QueuedEvent>], connection: u128) -> Option<&mpsc::Sender<QueuedEvent>> {
    queues.get((connection % queues.len().max(1) as u128) as usize)
}

struct EventSender {
    endpoints: Arc<Endpoints>,
    watch: Arc<dyn Watch>,
    timeout: SharedTimeout,
    tracer: Option<Arc<dyn CallTracer>>,
}

impl EventSender {
    async fn run(self, mut queued_events: mpsc::Receiver<QueuedEvent>, stop: CancellationToken) {
        // What a stop in the middle of a call leaves unsent.
        let mut in_hand = None;
        let work = async {
            let mut trouble = false;
            while let Some(queued) = queued_events.recv().await {
                let kind = queued.kept.event.kind;
                // This future may be dropped at any await below, at a stop; what it held then is counted as dropped.
                in_hand = Some(kind);
                let sent = self.send(queued).await;
                in_hand = None;
                if let Err(failure) = &sent {
                    self.watch.events_dropped(kind, DropReason::CallFailed, 1);
                    // One line for a run of failures: an outage is one piece of news.
                    if !trouble {
                        warn!(event = kind.name(), error = %failure, "event dropped: call failed");
                    }
                }
                trouble = sent.is_err();
            }
        };
        if stop.run_until_cancelled(work).await.is_some() {
            return;
        }
        // Before it is emptied: whoever reports from now on finds it closed, and counts his event himself.
        queued_events.close();
        let left = std::iter::from_fn(|| queued_events.try_recv().ok().map(|queued| queued.kept.event.kind));
        for kind in in_hand.into_iter().chain(left) {
            self.watch.events_dropped(kind, DropReason::Shutdown, 1);
        }
    }

    async fn send(&self, QueuedEvent { kept, sequence, untold }: QueuedEvent) -> Result<(), Failure> {
        // Until it is told, or cannot be.
        let _untold = untold;
        let CallTrace { context, span } = self.trace(&kept);
        let tell = EventRequest::new(&kept.event, sequence, &kept.client).with_context(context);
        let told = call_service(&self.endpoints, &*self.watch, tell, deadline(self.timeout.get())).await;
        traced::end_event(span, &told);
        match told? {
            // What the service does not want, or answers with nonsense, it has heard: nothing is lost.
            CallResult::Answered((), _) | CallResult::Unusable(_) | CallResult::Unwanted => Ok(()),
        }
    }

    /// The span of telling it, where that of its session is recorded.
    fn trace(&self, kept: &KeptEvent) -> CallTrace {
        let (Some(tracer), Some(session)) = (&self.tracer, &kept.session) else {
            return CallTrace::default();
        };
        let connection = ConnectionId(kept.client.connection());
        tracer.begin_event(EventStart { rpc: Rpc::from(kept.event.kind).name(), connection, session })
    }
}
