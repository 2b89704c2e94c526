//! The events that are kept until the service has confirmed them, as sessions and the stream share them: under one lock that
//! is held for moments only, as sessions take it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use mproxy_core::budget::Held;
use mproxy_core::event::{Event, Kind};
use tokio::sync::Notify;
use tracing::warn;

use super::buffer::{Batch, Bounds, Confirmed, EventBuffer, Full};
use crate::contract::{EncodedEvent, EventClient};
use crate::watch::{DropReason, Watch};

/// An event of more bytes cannot be told in one message: services take 4 MiB, and its client has to have room, too.
const EVENT_MOST: usize = 3 << 20;

/// An event that waits.
#[derive(Debug)]
pub(super) struct KeptEvent {
    pub(super) event: EncodedEvent,
    pub(super) client: EventClient,
    /// What is put down for it until it is confirmed or dropped.
    _held: Option<Held>,
}

impl KeptEvent {
    /// The event as it waits; `None`: there is no room for it in the budget of its connection.
    pub(super) fn new(event: Event) -> Option<Self> {
        let held = match event.purse.as_ref().map(|purse| purse.event(event.weight())) {
            None => None,
            Some(Some(held)) => Some(held),
            Some(None) => return None,
        };
        let encoded = EncodedEvent::new(&event, SystemTime::now());
        Some(Self { event: encoded, client: EventClient::Live(event.peer), _held: held })
    }

    /// Bytes that it holds.
    fn weight(&self) -> usize {
        /// The event itself, and its place in the buffer.
        const OWN: usize = 256;
        let client = match (&self.client, self.event.kind) {
            // A session has its peer anyway. What comes last may be all that still holds it, and what comes first is the last
            // where services want nothing else.
            (EventClient::Live(peer), Kind::Connect | Kind::Disconnect) => peer.weight(),
            (EventClient::Live(_), _) => 0,
            (EventClient::Kept(kept), _) => kept.field.len(),
        };
        OWN + self.event.fields.len() + client
    }
}

/// What sessions put events into, and the stream takes them out of.
pub(super) struct KeptEvents {
    state: Mutex<State>,
    /// There is something to be sent, or nothing more will come.
    pub(super) wake: Notify,
    warned: AtomicBool,
    watch: Arc<dyn Watch>,
}

struct State {
    buffer: EventBuffer<Arc<KeptEvent>>,
    /// mproxy ends, nothing is taken any more.
    closed: bool,
}

impl KeptEvents {
    /// Room for so many bytes of events.
    pub(super) fn new(bytes: usize, watch: Arc<dyn Watch>) -> Self {
        // Each event weighs more than this.
        let bounds = Bounds { bytes, events: bytes / 256 };
        Self {
            state: Mutex::new(State { buffer: EventBuffer::new(bounds), closed: false }),
            wake: Notify::new(),
            warned: AtomicBool::new(false),
            watch,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in there panics half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for an event that goes by a call of its own. `None`: events are kept that come before it.
    pub(super) fn pass(&self) -> Option<u64> {
        self.lock().buffer.pass()
    }

    /// Keeps an event, or drops and counts it.
    pub(super) fn push(&self, event: Event) {
        let kind = event.what.kind();
        let kept = KeptEvent::new(event);
        let fits = kept.as_ref().is_none_or(|kept| kept.event.fields.len() <= EVENT_MOST);
        let mut state = self.lock();
        let pushed = match kept {
            _ if state.closed => Err(DropReason::Shutdown),
            _ if !fits => Err(DropReason::TooLarge),
            None => Err(DropReason::QueueFull),
            Some(kept) => match state.buffer.push(kind, kept.weight(), Arc::new(kept)) {
                Ok(_) => Ok(()),
                // It has spent its number.
                Err(Full) => return self.drop_full(state, kind),
            },
        };
        if let Err(reason) = pushed {
            state.buffer.skip();
            drop(state);
            return self.count_dropped(kind, reason);
        }
        self.show(&state);
        drop(state);
        self.wake.notify_one();
    }

    fn drop_full(&self, state: MutexGuard<'_, State>, kind: Kind) {
        drop(state);
        self.count_dropped(kind, DropReason::QueueFull);
    }

    fn count_dropped(&self, kind: Kind, reason: DropReason) {
        self.watch.events_dropped(kind, reason, 1);
        // Once for the process: a full buffer means thousands of these in a second, and the metric counts them.
        if reason != DropReason::Shutdown && !self.warned.swap(true, Ordering::Relaxed) {
            warn!(reason = reason.name(), "dropping events (counted in mproxy_events_dropped_total)");
        }
        // Who listens is told of the gap.
        self.wake.notify_one();
    }

    fn show(&self, state: &State) {
        self.watch.events_kept(state.buffer.len(), state.buffer.bytes());
    }

    /// Takes nothing more.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_one();
    }

    /// Whether nothing more is taken, and nothing is left.
    pub(super) fn is_over(&self) -> bool {
        let state = self.lock();
        state.closed && state.buffer.len() == 0
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// The first one that is kept.
    pub(super) fn first(&self) -> Option<Arc<KeptEvent>> {
        self.lock().buffer.first().cloned()
    }

    /// Takes the first one out.
    pub(super) fn take_first(&self) -> Option<(u64, Arc<KeptEvent>)> {
        let mut state = self.lock();
        let first = state.buffer.take_first();
        self.show(&state);
        first
    }

    /// A new stream begins.
    pub(super) fn begin_stream(&self) {
        self.lock().buffer.begin_stream();
    }

    /// What is to be sent next, and whether something that was sent waits to be confirmed.
    pub(super) fn next_batch(&self, most: Bounds) -> (Batch<Arc<KeptEvent>>, bool) {
        let mut state = self.lock();
        let batch = state.buffer.next_batch(most);
        (batch, state.buffer.is_waiting())
    }

    /// The service says that all up to here is safe. Gives whether something that was sent still waits, too.
    pub(super) fn confirm(&self, up_to: u64) -> (Confirmed<Arc<KeptEvent>>, bool) {
        let mut state = self.lock();
        let confirmed = state.buffer.confirm(up_to);
        self.show(&state);
        (confirmed, state.buffer.is_waiting())
    }

    /// The last number that was sent on any stream.
    pub(super) fn ever_sent(&self) -> u64 {
        self.lock().buffer.ever_sent()
    }

    /// Drops and counts what is left.
    pub(super) fn drop_rest(&self) {
        let mut state = self.lock();
        let rest = state.buffer.drain();
        self.show(&state);
        drop(state);
        for kept in rest {
            self.watch.events_dropped(kept.event.kind, DropReason::Shutdown, 1);
        }
    }
}
