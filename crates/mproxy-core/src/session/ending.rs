//! How a session comes to its end.
//!
//! What was taken from one side before the end still reaches the other: each side is shut only once its lane has
//! emptied. Then both streams get a bounded time to run out, so that what was written last is not lost to a reset.

use std::time::Instant;

use super::timer::Deadline;
use super::{Effect, Fate, Phase, Session};
use crate::event::{Ended, Happening};
use crate::fault::{Closed, Fault};
use crate::peer::Side;

/// A session that is ending.
#[derive(Debug)]
pub(super) struct Ending {
    fault: Fault,
    client: End,
    broker: End,
}

/// How far the end of one side has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Packets for it still wait.
    Open,
    /// Its stream is being ended.
    Shut,
    /// Its stream has ended, or never was.
    Gone,
}

impl Session {
    /// The session ends for this reason. The first reason counts.
    pub(super) fn end(&mut self, fault: Fault, now: Instant) {
        if self.phase.ending() {
            return;
        }
        if let Some(goodbye) = self.goodbye(&fault) {
            self.effects.push(goodbye);
        }
        let broker = match self.phase {
            Phase::Introduced | Phase::Open => End::Open,
            Phase::Greeting | Phase::Admitting(_) | Phase::Dialing(_) | Phase::Ending(_) | Phase::Over => {
                End::Gone
            }
        };
        // Deliveries that wait are still wanted only if the client has not been told goodbye.
        if !matches!(fault, Fault::Lost { side: Side::Broker, .. } | Fault::BrokerLeft { .. }) {
            self.down.lane.clear();
        }
        // A PUBLISH whose payload will never be whole does not begin.
        for direction in [&mut self.up, &mut self.down] {
            if direction.body.left > 0 && direction.body.fate == Fate::Waiting {
                direction.lane.drop_last();
            }
        }
        self.timer.disarm();
        self.phase = Phase::Ending(Box::new(Ending { fault, client: End::Open, broker }));
        self.go_on_ending(now);
    }

    /// That side's stream has ended.
    pub(super) fn lost(&mut self, side: Side, how: Closed, now: Instant) {
        self.end(Fault::Lost { side, how }, now);
        self.direction(side.other()).lane.clear();
        if let Phase::Ending(ending) = &mut self.phase {
            *ending.end(side) = End::Gone;
        }
    }

    /// Shuts what can be shut, and is done when both sides are gone.
    pub(super) fn go_on_ending(&mut self, now: Instant) {
        let Phase::Ending(ending) = &mut self.phase else { return };
        for (side, empty) in
            [(Side::Broker, self.up.lane.is_empty()), (Side::Client, self.down.lane.is_empty())]
        {
            let end = ending.end(side);
            if *end == End::Open && empty {
                *end = End::Shut;
                self.effects.push(Effect::Shut { side });
                self.timer.arm(Deadline::Close, now, self.setting.limits.close_timeout);
            }
        }
        if ending.client == End::Gone && ending.broker == End::Gone {
            self.finish();
        }
    }

    /// The last of it.
    pub(super) fn finish(&mut self) {
        let Phase::Ending(ending) = std::mem::replace(&mut self.phase, Phase::Over) else { return };
        self.timer.disarm();
        let fault = ending.fault;
        if self.reported {
            self.report(Happening::Disconnect(Box::new(Ended {
                fault: fault.clone(),
                will_suppressed: self.will_suppressed || !self.terms.will,
                traffic: self.traffic,
            })));
        }
        self.effects.push(Effect::Done(Box::new(fault)));
    }

    /// Whether packets of our own still go to that side.
    pub(super) fn hears(&self, side: Side) -> bool {
        match (&self.phase, side) {
            (Phase::Over, _) => false,
            (Phase::Ending(ending), Side::Client) => {
                ending.client == End::Open
                    && matches!(
                        ending.fault,
                        Fault::Lost { side: Side::Broker, .. } | Fault::BrokerLeft { .. }
                    )
            }
            (Phase::Ending(ending), Side::Broker) => ending.broker == End::Open,
            _ => true,
        }
    }

    /// The packet that tells the client why, where the version has one and the client is there to read it.
    fn goodbye(&self, fault: &Fault) -> Option<Effect> {
        let silent = match fault {
            Fault::Left { .. }
            | Fault::BrokerLeft { .. }
            | Fault::BrokerRefused { .. }
            | Fault::Lost { side: Side::Client, .. } => true,
            // In an open session there is nothing to add; before, the client waits for its CONNACK.
            Fault::Lost { side: Side::Broker, .. } => matches!(self.phase, Phase::Open),
            _ => false,
        };
        if silent || self.down.mid_packet() {
            return None;
        }
        let (text, reference) = match fault {
            Fault::Refused { refusal, .. } => (refusal.text.as_deref(), refusal.server_reference.as_deref()),
            _ => (None, None),
        };
        let reason = fault.reason();
        let bytes = match &self.phase {
            Phase::Greeting => self.greeting_answer(fault)?,
            Phase::Admitting(_) | Phase::Dialing(_) | Phase::Introduced => {
                self.terms.connack(reason, text, reference)
            }
            Phase::Open => self.terms.disconnect(reason, text, reference)?,
            Phase::Ending(_) | Phase::Over => return None,
        };
        Some(Effect::Send { to: Side::Client, bytes })
    }
}

impl Ending {
    fn end(&mut self, side: Side) -> &mut End {
        match side {
            Side::Client => &mut self.client,
            Side::Broker => &mut self.broker,
        }
    }
}
