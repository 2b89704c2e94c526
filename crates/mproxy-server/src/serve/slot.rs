//! Places of connections under the limits: of all, of a listener, and of those that have not been admitted; and who has to
//! go where there is none left.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mproxy_core::fault::Party;
use mproxy_core::peer::Address;
use mproxy_core::session::OnUnavailable;

use super::{House, Serving};
use crate::protect::arrivals::ArrivalRefusal;
use crate::protect::watermarks::WatermarkLevel;
use crate::share::Neighbours;
use crate::share::crowd::{Crowd, Evict, Member};
use crate::telemetry::connections::ListenerMetrics;

/// A connection that has not been admitted, among the others of its listener and of all.
pub(super) struct PendingEntry {
    here: Option<Member>,
    anywhere: Member,
}

impl PendingEntry {
    /// Counts a connection of this listener among those that have not been admitted.
    pub(super) fn enter(serving: &Serving, remote: &Address, who: Arc<dyn Evict>) -> Box<Self> {
        let whose = remote.into();
        Box::new(Self {
            here: serving
                .terms
                .load()
                .max_connections
                .map(|_| serving.pending.enter(whose, Arc::clone(&who))),
            anywhere: serving.house.pending.enter(whose, who),
        })
    }

    /// `false` where it has to go.
    pub(super) fn regard(&mut self, remote: &Address, who: &Arc<dyn Evict>) -> bool {
        let whose = remote.into();
        let stays = self.here.as_mut().is_none_or(|here| here.regard(whose, Arc::clone(who)));
        self.anywhere.regard(whose, Arc::clone(who)) && stays
    }
}

/// How much more an address has to have than who comes, to give up a place for it.
const SPARE: usize = 2;

impl House {
    /// So many connections may be open by the limit of all, and by the first watermark, as far as anybody has noticed.
    pub(super) fn places_of_all(&self) -> usize {
        let most = self.protection.watermarks.places(true);
        self.max_connections.load(Ordering::Relaxed).min(most)
    }

    /// Counts another connection as open, where there may be so many: each of them, and two streams whose sessions are
    /// over. Those are closed first, then somebody who has not been admitted makes room.
    pub(super) fn take_place(&self, most: usize, whose: Neighbours) -> bool {
        loop {
            let parting = self.parting.len();
            let more = |open: usize| (open + parting.div_ceil(2) < most).then_some(open + 1);
            let Err(open) = self.open.fetch_update(Ordering::AcqRel, Ordering::Acquire, more) else {
                return true;
            };
            if open < most && self.parting.make_room(whose, 0) {
                continue;
            }
            // The count is over its limit until who has to go has gone.
            let room = self.pending.make_room(whose, SPARE);
            if room {
                self.open.fetch_add(1, Ordering::AcqRel);
            }
            return room;
        }
    }
}

impl Serving {
    /// The same within all that limits the connections of all listeners.
    fn take_place(&self, whose: Neighbours) -> Result<(), ArrivalRefusal> {
        let (house, watermarks) = (&self.house, &self.house.protection.watermarks);
        let most = house.max_connections.load(Ordering::Relaxed);
        let (below, level) = (watermarks.places(false), watermarks.level());
        if level == WatermarkLevel::Normal && house.take_place(most.min(below), whose) {
            return Ok(());
        }
        if level == WatermarkLevel::Normal && most <= below {
            return Err(ArrivalRefusal::MaxConnections);
        }
        watermarks.be_full();
        // To be told, it comes as far as its CONNECT.
        let is_told = self.terms.load().setting.on_unavailable == OnUnavailable::Connack;
        let above = most.min(watermarks.places(true));
        (is_told && house.take_place(above, whose)).then_some(()).ok_or(ArrivalRefusal::Watermark)
    }
}

/// A place among those that may be connected at a time, counted as open; given back when its end is told, or it is
/// dropped.
pub(super) struct ConnectionSlot(Option<Arc<Serving>>);

impl ConnectionSlot {
    /// Where there is none left, somebody who has not been admitted may make room; its place is given back a moment later.
    pub(super) fn take(serving: &Arc<Serving>, whose: Neighbours) -> Result<Self, ArrivalRefusal> {
        let house = &serving.house;
        // Seldom wrong by as many as there are listeners. Without a limit no lock is taken for it.
        let most = house.max_pending.load(Ordering::Relaxed);
        if most < usize::MAX && house.pending.len() >= most && !house.pending.make_room(whose, SPARE) {
            return Err(ArrivalRefusal::MaxConnections);
        }
        Self::take_admitted(serving, whose)
    }

    /// The same for one that has been admitted.
    pub(super) fn take_admitted(serving: &Arc<Serving>, whose: Neighbours) -> Result<Self, ArrivalRefusal> {
        let house = &serving.house;
        serving.take_place(whose)?;
        let under = |count: &AtomicUsize, most: usize, crowd: &Crowd| {
            let more = |open| (open < most).then_some(open + 1);
            if count.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok() {
                return true;
            }
            // The same here.
            let room = crowd.make_room(whose, SPARE);
            if room {
                count.fetch_add(1, Ordering::AcqRel);
            }
            room
        };
        let most = serving.terms.load().max_connections.unwrap_or(usize::MAX);
        if !under(&serving.open, most, &serving.pending) {
            // Taken above, and of no use without the other.
            house.open.fetch_sub(1, Ordering::AcqRel);
            return Err(ArrivalRefusal::MaxConnections);
        }
        serving.metrics.count_accepted();
        Ok(Self(Some(Arc::clone(serving))))
    }

    /// Whose it is; `None` where it has been handed on.
    pub(super) fn serving(&self) -> Option<&Serving> {
        self.0.as_deref()
    }

    /// The slot, the first time; else one that counts nothing.
    pub(super) fn hand_on(&mut self) -> Self {
        Self(self.0.take())
    }

    /// Its connection ended, as is counted by `count`.
    pub(super) fn end(mut self, count: impl FnOnce(&ListenerMetrics)) {
        self.give_back(count);
    }

    fn give_back(&mut self, count: impl FnOnce(&ListenerMetrics)) {
        if let Some(serving) = self.0.take() {
            let before = [&serving.house.open, &serving.open].map(|open| open.fetch_sub(1, Ordering::AcqRel));
            debug_assert!(!before.contains(&0), "more slots are given back than were taken");
            count(&serving.metrics);
        }
    }
}

impl Drop for ConnectionSlot {
    /// Its task went away without a word: it was cut at the very end of the process, or it panicked.
    fn drop(&mut self) {
        let cause = if std::thread::panicking() { "panicked" } else { "aborted" };
        self.give_back(|metrics| metrics.count_closed(cause, Party::Mproxy.name()));
    }
}
