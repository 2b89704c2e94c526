//! What a command takes back may have left for the client already: it waits to be written, or is a payload that is half
//! through. The command is reported when all of that is written. Whoever does not read it in time is cut off with it, so
//! that no report is late, and each is true.
//!
//! What is queued for the client is known outside of the session, which says how far it is ([`Session::recall`]) and is told
//! ([`Session::recalled`]).

use std::mem;
use std::time::Instant;

use super::Session;
use super::context::Context;
use super::effect::Effect;
use super::ending::Ending;
use super::link::Link;
use super::recall::{Recall, RecallStage};
use super::state::State;
use crate::fault::{Closed, Fault};
use crate::peer::Side;

impl Link {
    /// Something was taken back just now.
    pub(super) fn begin_recall(&mut self, cx: &Context, now: Instant) {
        let half_through = if self.down.mid_packet() { u64::from(self.down.body.left) } else { 0 };
        let passes_at = cx.traffic.broker_bytes + half_through;
        self.rare().recall.get_or_insert_default().take_back(passes_at, now);
    }

    /// The grant is being renewed by command.
    pub(super) fn await_renewal(&mut self) {
        self.rare().recall.get_or_insert_default().renews = true;
    }

    /// The grant was renewed, or is not for now; whether a command waited for that.
    pub(super) fn take_awaited_renewal(&mut self) -> bool {
        self.change_recall(|recall| mem::take(&mut recall.renews)).unwrap_or(false)
    }

    /// When the client is cut off.
    pub(super) fn recall_until(&self) -> Option<Instant> {
        self.rare.as_ref()?.recall.as_ref()?.until
    }

    /// Changes it, if there is one, and forgets it where nothing is left of it.
    fn change_recall<T>(&mut self, change: impl FnOnce(&mut Recall) -> T) -> Option<T> {
        let place = &mut self.rare.as_mut()?.recall;
        let changed = change(place.as_mut()?);
        place.take_if(|recall| recall.is_over());
        Some(changed)
    }
}

impl Session {
    /// Asked, after a command and an answer: whether commands that were carried out can be reported.
    #[must_use]
    pub fn recall(&self) -> RecallStage {
        let (State::Open(link) | State::Ending(Ending { link, .. })) = &self.state else {
            return RecallStage::None;
        };
        let Some(recall) = link.rare.as_ref().and_then(|rare| rare.recall.as_ref()) else {
            return RecallStage::None;
        };
        // Where the client hears nothing more, nothing is half through.
        recall.stage(if link.hears(Side::Client) { self.cx.traffic.broker_bytes } else { u64::MAX })
    }

    /// Told, where [`recall`](Session::recall) says [`RecallStage::Sent`]: what had been sent to the client then is written, or
    /// never will be.
    pub fn recalled(&mut self) {
        if let Some(link) = self.state.link_mut() {
            link.change_recall(|recall| recall.until = None);
        }
    }

    /// The client has had its time to read what had left for it: the rest goes nowhere.
    pub(super) fn end_recall(&mut self, now: Instant) {
        if self.state.link().and_then(Link::recall_until).is_none_or(|until| now < until) {
            return;
        }
        self.recalled();
        self.end(Fault::RecallUnread, now);
        if let State::Ending(ending) = &mut self.state {
            self.cx.effects.push(Effect::Cut { side: Side::Client });
            ending.lose(&mut self.cx, Side::Client, &Closed::Error("cut off".into()));
        }
        self.advance_end(now);
    }
}
