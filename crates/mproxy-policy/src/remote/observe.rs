//! The telling hooks: events wait in queues and are told one call each, in order for each connection. The queues are
//! bounded by the number of events, and by the bytes that each connection, listener and all together may hold.
//! A packet never waits for them.

#[cfg_attr(not(test), expect(dead_code, reason = "for the Observe stream, which comes next"))]
mod buffer;
#[cfg_attr(not(test), expect(dead_code, reason = "for the Observe stream, which comes next"))]
mod clients;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use mproxy_core::budget::Held;
use mproxy_core::event::{Event, Kind};
use mproxy_core::policy::Failure;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::health::Endpoints;
use super::unary::{CallResult, call_service};
use crate::contract::EventRequest;
use crate::watch::{DropReason, Watch};

/// Events that are sent at the same time. The events of one connection always go through the same queue, so that its Disconnect
/// cannot overtake its Connect.
const QUEUES: usize = 16;

struct QueuedEvent {
    event: Event,
    /// What is put down for it until it has been told or dropped.
    _held: Option<Held>,
    time: SystemTime,
    sequence: u64,
}

/// The queues. When a queue is full, events are dropped and counted; its last quarter is kept for what
/// happens once to a connection, as a flood of publishes is what fills it.
pub(super) struct Observer {
    /// `None`: mproxy ends, nothing is taken any more.
    queues: ArcSwapOption<Vec<mpsc::Sender<QueuedEvent>>>,
    sequence: AtomicU64,
    warned: AtomicBool,
    senders: TaskTracker,
    watch: Arc<dyn Watch>,
}

impl Observer {
    pub(super) fn start(
        endpoints: &Arc<Endpoints>,
        watch: &Arc<dyn Watch>,
        bound: usize,
        timeout: Duration,
        stop: &CancellationToken,
    ) -> Self {
        let senders = TaskTracker::new();
        let queues = (0..QUEUES)
            .map(|_| {
                // Never 0: tokio panics on a channel without room, and a setting must not do that.
                let (sender, queued_events) = mpsc::channel(bound.div_ceil(QUEUES).max(1));
                let event_sender =
                    EventSender { endpoints: Arc::clone(endpoints), watch: Arc::clone(watch), timeout };
                senders.spawn(event_sender.run(queued_events, stop.clone()));
                sender
            })
            .collect();
        senders.close();
        Self {
            queues: ArcSwapOption::from_pointee(Some(queues)),
            sequence: AtomicU64::new(0),
            warned: AtomicBool::new(false),
            senders,
            watch: Arc::clone(watch),
        }
    }

    pub(super) fn report(&self, event: Event) {
        let kind = event.what.kind();
        // Before anything can be dropped, so that a gap in the numbers tells a service that it missed some.
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed) + 1;
        let queues = self.queues.load();
        let Some(queues) = &*queues else {
            return self.watch.events_dropped(kind, DropReason::Shutdown, 1);
        };
        // A connection's events keep their order only within one queue.
        let index = (event.peer.origin.connection_id.0 % queues.len() as u128) as usize;
        let queue = &queues[index];
        let kept = if kind == Kind::Publish { queue.max_capacity() / 4 } else { 0 };
        if queue.capacity() <= kept {
            return self.drop_full(kind);
        }
        let held = match event.purse.as_ref().map(|purse| purse.event(event.weight())) {
            None => None,
            Some(Some(held)) => Some(held),
            Some(None) => return self.drop_full(kind),
        };
        let queued = QueuedEvent { event, _held: held, time: SystemTime::now(), sequence };
        if queue.try_send(queued).is_err() {
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

    /// Takes nothing more, and gives what waits so long to be told.
    pub(super) async fn flush(&self, grace: Duration) {
        // The senders' ends of the channels go with it: each task ends when it has told what is queued.
        self.queues.store(None);
        let _ = tokio::time::timeout(grace, self.senders.wait()).await;
    }

    /// Waits for the senders, who end when they are stopped.
    pub(super) async fn join(&self) {
        self.senders.wait().await;
    }
}

struct EventSender {
    endpoints: Arc<Endpoints>,
    watch: Arc<dyn Watch>,
    timeout: Duration,
}

impl EventSender {
    async fn run(self, mut queued_events: mpsc::Receiver<QueuedEvent>, stop: CancellationToken) {
        // What a stop in the middle of a call leaves unsent.
        let mut in_hand = None;
        let work = async {
            let mut trouble = false;
            while let Some(queued) = queued_events.recv().await {
                let kind = queued.event.what.kind();
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
        queued_events.close();
        let left =
            std::iter::from_fn(|| queued_events.try_recv().ok().map(|queued| queued.event.what.kind()));
        for kind in in_hand.into_iter().chain(left) {
            self.watch.events_dropped(kind, DropReason::Shutdown, 1);
        }
    }

    async fn send(&self, queued: QueuedEvent) -> Result<(), Failure> {
        let QueuedEvent { event, time, sequence, _held } = queued;
        let deadline = super::deadline(self.timeout);
        let tell = EventRequest::new(&event, time, sequence);
        match call_service(&self.endpoints, &*self.watch, tell, deadline).await? {
            CallResult::Answered(()) | CallResult::Unusable(_) | CallResult::Unwanted => Ok(()),
        }
    }
}
