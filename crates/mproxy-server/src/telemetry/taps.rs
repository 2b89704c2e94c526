//! Taps: who watches packets as they pass, over the admin API. A tap has a bounded queue and a rate; what does not fit is
//! lost and counted, and no session waits for one. Without a tap, a session asks one atomic for each read.
//!
//! | room | holds |
//! |---|---|
//! | `selection` | which packets a tap is about |
//! | `packet` | a packet as a tap shows it, in JSON |
//! | `queue` | the events of a tap that have not been read, and its rate |

mod packet;
mod queue;
mod selection;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use mproxy_core::meter::PacketTrace;
use mproxy_core::peer::{Origin, Peer};
use mproxy_core::record::{DecisionOutcome, DecisionRecord, DecisionSubject};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::Notify;

use self::packet::TappedPacket;
use self::queue::TapQueue;
pub use self::selection::TapSelection;
use super::decisions::DecisionEntry;

/// Taps at once. Each packet of a session that is tapped is compared with all of them.
pub const MOST_TAPS: usize = 8;

/// Bytes of a payload that a tap shows at most.
pub const MOST_PAYLOAD: usize = 4096;

/// Events a second of a tap that does not say how many.
pub const USUAL_RATE: u32 = 100;

/// Events a second of a tap at most.
pub const MOST_RATE: u32 = 1000;

/// After so long without another event, lost ones are told by themselves.
const LOST_TOLD: Duration = Duration::from_secs(1);

/// What a tap is to show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TapRequest {
    /// Which packets.
    pub selection: TapSelection,
    /// Bytes of each payload; 0: none.
    pub payload: usize,
    /// Events a second.
    pub rate: u32,
}

/// Something that a tap tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TapEvent {
    /// A packet, as a JSON object.
    Packet(String),
    /// A client was refused or its connection ends for a reason that it did not choose: a record of the decision log.
    Refusal(String),
    /// So many events did not fit, since the one before.
    Lost(u64),
}

/// There are [`MOST_TAPS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyTaps;

/// All taps of this process.
#[derive(Debug, Default)]
pub struct Taps {
    /// As many as there are in `open`: looked at for each read of each session.
    count: AtomicUsize,
    open: ArcSwap<Vec<Arc<ServedTap>>>,
    /// Held while `open` is replaced.
    changing: Mutex<()>,
    shown: Gauge,
    lost: Counter,
}

#[derive(Debug)]
struct ServedTap {
    request: TapRequest,
    queue: Mutex<TapQueue>,
    more: Notify,
    lost: Counter,
}

impl Taps {
    pub(super) fn registered(registry: &mut Registry) -> Arc<Self> {
        let taps = Self::default();
        registry.register("taps_open", "Taps that are open", taps.shown.clone());
        let help = "Events that taps did not show: over their rate, or not read in time";
        registry.register("tap_events_lost", help, taps.lost.clone());
        Arc::new(taps)
    }

    /// Opens one, which ends when it is dropped.
    ///
    /// # Errors
    /// There are too many.
    pub fn open(self: &Arc<Self>, request: TapRequest) -> Result<OpenTap, TooManyTaps> {
        let tap = Arc::new(ServedTap {
            queue: Mutex::new(TapQueue::new(request.rate, Instant::now())),
            request,
            more: Notify::new(),
            lost: self.lost.clone(),
        });
        self.change(|open| {
            if open.len() >= MOST_TAPS {
                return Err(TooManyTaps);
            }
            open.push(Arc::clone(&tap));
            Ok(())
        })?;
        Ok(OpenTap { taps: Arc::clone(self), tap })
    }

    fn change<T>(&self, change: impl FnOnce(&mut Vec<Arc<ServedTap>>) -> T) -> T {
        let _one = self.changing.lock();
        let mut open = Vec::clone(&self.open.load());
        let changed = change(&mut open);
        let count = open.len();
        self.open.store(Arc::new(open));
        self.count.store(count, Ordering::Relaxed);
        self.shown.set(count as i64);
        changed
    }

    /// Whether there is one.
    #[inline]
    pub(super) fn are_open(&self) -> bool {
        // Relaxed: a session that sees a new tap one read later shows it one read less.
        self.count.load(Ordering::Relaxed) > 0
    }

    /// Whether one may be about this connection.
    pub(super) fn watch(&self, origin: &Origin, peer: Option<&Peer>) -> bool {
        self.open.load().iter().any(|tap| tap.request.selection.concerns(origin, peer))
    }

    /// A packet has come or gone.
    pub(super) fn packet(&self, packet: &PacketTrace<'_>) {
        for tap in self.open.load().iter().filter(|tap| tap.request.selection.takes(packet)) {
            tap.tell(|| TapEvent::Packet(TappedPacket::of(packet, tap.request.payload).to_json()));
        }
    }

    /// A connection is refused. What is refused of single packets stands with them.
    pub(super) fn refusal(&self, decision: &DecisionRecord<'_>) {
        // What was allowed is no refusal, even where it is written down as a sample.
        let is_allowed = matches!(decision.outcome, DecisionOutcome::Allowed { .. });
        if is_allowed || !matches!(decision.subject, DecisionSubject::Connection { .. }) {
            return;
        }
        let open = self.open.load();
        let concerned =
            |tap: &&Arc<ServedTap>| tap.request.selection.concerns(decision.origin, decision.peer);
        for tap in open.iter().filter(concerned) {
            // A map of texts and numbers always is JSON.
            let entry = || serde_json::to_string(&DecisionEntry::of(decision)).unwrap_or_default();
            tap.tell(|| TapEvent::Refusal(entry()));
        }
    }
}

impl ServedTap {
    /// Tells something, unless that is more than it may. It is made only if it is told.
    fn tell(&self, event: impl FnOnce() -> TapEvent) {
        if !self.queue.lock().has_room(Instant::now()) {
            self.lost.inc();
            return;
        }
        // Without the lock: other sessions may have something to tell meanwhile.
        let event = event();
        if !self.queue.lock().push(event) {
            self.lost.inc();
            return;
        }
        self.more.notify_one();
    }
}

/// A tap that is open until this is dropped.
#[derive(Debug)]
pub struct OpenTap {
    taps: Arc<Taps>,
    tap: Arc<ServedTap>,
}

impl OpenTap {
    /// The next event, whenever there is one. Dropping this loses nothing.
    pub async fn next(&self) -> TapEvent {
        loop {
            if let Some(event) = self.tap.queue.lock().pop() {
                return event;
            }
            if tokio::time::timeout(LOST_TOLD, self.tap.more.notified()).await.is_err()
                && let Some(lost) = self.tap.queue.lock().take_lost()
            {
                return TapEvent::Lost(lost);
            }
        }
    }
}

impl Drop for OpenTap {
    fn drop(&mut self) {
        self.taps.change(|open| open.retain(|tap| !Arc::ptr_eq(tap, &self.tap)));
    }
}

#[cfg(test)]
mod tests;
