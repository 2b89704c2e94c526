//! The events that are kept until the service has confirmed them, as sessions and the stream share them: under one lock that
//! is held for moments only, as sessions take it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use mproxy_core::budget::Held;
use mproxy_core::event::{Event, Kind};
use mproxy_core::peer::ConnectionId;
use tokio::sync::Notify;
use tracing::warn;

use super::buffer::{Batch, Bounds, Confirmed, EventBuffer, Full};
use super::spool::{Spool, SpoolQueue, Spooled};
use crate::contract::{EncodedEvent, EventClient};
use crate::trace_context::TraceContext;
use crate::watch::{DropReason, Watch};

/// An event of more bytes cannot be told in one message: services take 4 MiB, and its client has to have room, too.
const EVENT_MOST: usize = 3 << 20;

/// An event as it is reported.
pub(super) struct ReportedEvent {
    pub(super) event: Event,
    /// The span of its session, if that is recorded. It may have ended by the time that the event is told.
    pub(super) session: Option<Arc<TraceContext>>,
}

impl ReportedEvent {
    pub(super) fn kind(&self) -> Kind {
        self.event.what.kind()
    }

    pub(super) fn connection(&self) -> ConnectionId {
        self.event.peer.origin.connection_id
    }
}

/// An event that waits.
#[derive(Debug)]
pub(super) struct KeptEvent {
    pub(super) event: EncodedEvent,
    pub(super) client: EventClient,
    pub(super) session: Option<Arc<TraceContext>>,
    /// What is put down for it until it is confirmed or dropped.
    _held: Option<Held>,
}

impl KeptEvent {
    /// The event as it waits; `None`: there is no room for it in the budget of its connection.
    pub(super) fn new(ReportedEvent { event, session }: ReportedEvent) -> Option<Self> {
        // Before it is encoded: what has no room shall cost no work.
        let held = match event.purse.as_ref().map(|purse| purse.event(event.weight())) {
            None => None,
            Some(Some(held)) => Some(held),
            Some(None) => return None,
        };
        let encoded = EncodedEvent::new(&event, SystemTime::now());
        Some(Self { event: encoded, client: EventClient::Live(event.peer), session, _held: held })
    }

    /// One that was read from disk.
    fn found(event: EncodedEvent, client: EventClient) -> Self {
        Self { event, client, session: None, _held: None }
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
        let session =
            self.session.as_ref().map_or(0, |session| size_of::<TraceContext>() + session.state.len());
        OWN + self.event.fields.len() + client + session
    }
}

impl Spooled for KeptEvent {
    fn client(&self) -> &EventClient {
        &self.client
    }

    fn event(&self) -> &EncodedEvent {
        &self.event
    }
}

/// An event that has no number yet.
pub(super) struct ArrivedEvent {
    kind: Kind,
    connection: u128,
    /// `None`: there is no room for it in the budget of its connection.
    kept: Option<KeptEvent>,
    /// Its connection is, until its Disconnect.
    tracked: bool,
}

impl ArrivedEvent {
    pub(super) fn new(event: ReportedEvent, tracked: bool) -> Self {
        let (kind, connection) = (event.kind(), event.connection().0);
        Self { kind, connection, kept: KeptEvent::new(event), tracked }
    }

    pub(super) const fn kind(&self) -> Kind {
        self.kind
    }

    /// Bytes that it holds.
    pub(super) fn weight(&self) -> usize {
        size_of::<Self>() + self.kept.as_ref().map_or(0, KeptEvent::weight)
    }
}

/// What sessions put events into, and the stream takes them out of.
pub(super) struct KeptEvents {
    state: Mutex<KeptState>,
    /// There is something to be sent, or nothing more will come.
    pub(super) wake: Notify,
    warned: AtomicBool,
    watch: Arc<dyn Watch>,
    /// What is kept is written to disk, too.
    spool: Option<Arc<SpoolQueue<KeptEvent>>>,
}

struct KeptState {
    buffer: EventBuffer<Arc<KeptEvent>>,
    /// mproxy ends, nothing is taken any more.
    closed: bool,
}

impl KeptState {
    /// Spends a number on an event that is dropped for this reason.
    fn skip(&mut self, reason: DropReason) -> Result<(), DropReason> {
        self.buffer.skip();
        Err(reason)
    }
}

/// What a spool held; for what there is no room is counted.
fn restore(bounds: Bounds, watch: &dyn Watch, spool: &mut Spool) -> EventBuffer<Arc<KeptEvent>> {
    let events = std::mem::take(&mut spool.events).into_iter().map(|(sequence, client, event)| {
        let kept = KeptEvent::found(event, client);
        (sequence, kept.weight(), Arc::new(kept))
    });
    let (buffer, without_room) = EventBuffer::restore(bounds, spool.confirmed, spool.last, events);
    let without_room = without_room.iter().map(|kept| kept.event.kind);
    for kind in without_room.chain(spool.without_room.drain(..)) {
        watch.events_dropped(kind, DropReason::QueueFull, 1);
    }
    buffer
}

impl KeptEvents {
    /// Room for so many bytes of events, and what a spool held.
    pub(super) fn new(bytes: usize, watch: Arc<dyn Watch>, spool: Option<&mut Spool>) -> Self {
        // Each event weighs more than this.
        let bounds = Bounds { bytes, events: bytes / 256 };
        let (buffer, spool) = match spool {
            None => (EventBuffer::new(bounds), None),
            Some(spool) => (restore(bounds, &*watch, spool), Some(spool.queue())),
        };
        let wake = Notify::new();
        watch.events_kept(buffer.len(), buffer.bytes());
        let state = Mutex::new(KeptState { buffer, closed: false });
        Self { state, wake, warned: AtomicBool::new(false), watch, spool }
    }

    /// The queue of the spool.
    pub(super) const fn spool(&self) -> Option<&Arc<SpoolQueue<KeptEvent>>> {
        self.spool.as_ref()
    }

    fn lock(&self) -> MutexGuard<'_, KeptState> {
        // Nothing in there panics half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for an event that goes by a call of its own. `None`: events are kept that come before it.
    pub(super) fn pass(&self) -> Option<u64> {
        self.lock().buffer.pass()
    }

    /// Keeps an event, or drops and counts it. Its connection is `tracked` until its Disconnect.
    pub(super) fn push(&self, event: ReportedEvent, tracked: bool) {
        // Encoded before the lock is taken, where the sessions of all workers meet.
        self.take(ArrivedEvent::new(event, tracked));
    }

    /// The same, of an event that has been encoded.
    pub(super) fn take(&self, event: ArrivedEvent) {
        let ArrivedEvent { kind, connection, kept, tracked } = event;
        let fits = kept.as_ref().is_none_or(|kept| kept.event.fields.len() <= EVENT_MOST);
        let mut state = self.lock();
        let pushed = match kept {
            _ if state.closed => state.skip(DropReason::Shutdown),
            _ if !fits => state.skip(DropReason::TooLarge),
            None => state.skip(DropReason::QueueFull),
            Some(kept) => {
                let kept = Arc::new(kept);
                let pushed = state.buffer.push(kind, kept.weight(), Arc::clone(&kept));
                if let (Ok(sequence), Some(spool)) = (pushed, &self.spool) {
                    // Under the lock, so that numbers come there in order.
                    spool.push(sequence, kept, tracked);
                }
                // Its number is spent.
                pushed.map(drop).map_err(|Full| DropReason::QueueFull)
            }
        };
        // Under the lock, or an older count could be shown after a newer one.
        self.show(&state);
        drop(state);
        if let Err(reason) = pushed {
            return self.count_dropped(kind, reason, connection);
        }
        self.wake.notify_one();
    }

    /// So many events were dropped before they came here.
    pub(super) fn lose(&self, kind: Kind, count: u64) {
        if count > 0 {
            let mut state = self.lock();
            (0..count).for_each(|_| state.buffer.skip());
            drop(state);
            self.watch.events_dropped(kind, DropReason::QueueFull, count);
            self.wake.notify_one();
        }
    }

    fn count_dropped(&self, kind: Kind, reason: DropReason, connection: u128) {
        if kind == Kind::Disconnect
            && let Some(spool) = &self.spool
        {
            // Its end stands in a gap: it is not told of it at the next start.
            spool.close(connection);
        }
        self.watch.events_dropped(kind, reason, 1);
        // Once for the process: a full buffer means thousands of these in a second, and the metric counts them.
        if reason != DropReason::Shutdown && !self.warned.swap(true, Ordering::Relaxed) {
            warn!(reason = reason.name(), "dropping events (counted in mproxy_events_dropped_total)");
        }
        // Who listens is told of the gap.
        self.wake.notify_one();
    }

    fn confirm_spool(&self, state: &KeptState) {
        if let Some(spool) = &self.spool {
            spool.confirm(state.buffer.confirmed());
        }
    }

    fn show(&self, state: &KeptState) {
        self.watch.events_kept(state.buffer.len(), state.buffer.bytes());
    }

    /// The last number that was given.
    pub(super) fn last(&self) -> u64 {
        self.lock().buffer.last()
    }

    /// Whether nothing up to here is kept any more.
    pub(super) fn is_settled(&self, up_to: u64) -> bool {
        let state = self.lock();
        state.buffer.len() == 0 || state.buffer.confirmed() >= up_to
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
        // Nothing is confirmed of what goes by a call: from here on it is not on disk either.
        let first = state.buffer.take_first();
        self.confirm_spool(&state);
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
        // What is not reserved on disk is not sent: after a crash its number would be given a second time.
        let limit = self.spool.as_ref().map_or(u64::MAX, |spool| spool.limit());
        let batch = state.buffer.next_batch(most, limit);
        (batch, state.buffer.is_waiting())
    }

    /// The service says that all up to here is safe. Gives whether something that was sent still waits, too.
    pub(super) fn confirm(&self, up_to: u64) -> (Confirmed<Arc<KeptEvent>>, bool) {
        let mut state = self.lock();
        let confirmed = state.buffer.confirm(up_to);
        self.confirm_spool(&state);
        self.show(&state);
        (confirmed, state.buffer.is_waiting())
    }

    /// The last number that was sent on any stream.
    pub(super) fn ever_sent(&self) -> u64 {
        self.lock().buffer.ever_sent()
    }

    /// Drops and counts what is left; with a spool it stays there, for the next start.
    pub(super) fn drop_rest(&self) {
        let mut state = self.lock();
        let last = state.buffer.last();
        let rest = state.buffer.drain();
        self.show(&state);
        drop(state);
        if let Some(spool) = &self.spool {
            return spool.end(last);
        }
        for kept in rest {
            self.watch.events_dropped(kept.event.kind, DropReason::Shutdown, 1);
        }
    }
}
