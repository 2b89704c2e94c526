//! How a session comes to its end.
//!
//! What was taken from one side before the end still reaches the other, unless the end itself forbids it: each side is
//! shut only once its lane has emptied. Then both streams get a bounded time to run out, so that what was written last
//! is not lost to a reset. See `LIFECYCLE.md`.

use std::time::Instant;

use mproxy_codec::reason::ReasonCode;

use super::timer::Deadline;
use super::{Effect, Fate, Phase, Session};
use crate::event::{Ended, Happening, Kind};
use crate::fault::{Closed, Fault};
use crate::peer::Side;
use crate::policy::Want;

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
        let mut ending = Ending { client: End::Open, broker: End::Gone, fault };
        if matches!(self.phase, Phase::Introduced | Phase::Open) {
            ending.broker = End::Open;
        }
        if let Fault::Lost { side, .. } = ending.fault {
            *ending.end(side) = End::Gone;
        }
        // A PUBLISH whose payload will never be whole does not begin.
        for direction in [&mut self.up, &mut self.down] {
            if direction.body.left > 0 && direction.body.fate == Fate::Waiting {
                direction.lane.drop_last();
            }
        }
        if !still_wanted(Side::Client, &ending.fault) {
            self.up.lane.clear();
        }
        if !still_wanted(Side::Broker, &ending.fault) {
            self.down.lane.clear();
        }
        self.phase = Phase::Ending(Box::new(ending));
        // From here on at the latest: verdicts carry deadlines of their own, but an end must not hang on them.
        self.timer.arm(Deadline::Close, now, self.setting.limits.close_timeout);
        self.go_on_ending(now);
    }

    /// A DISCONNECT has left its lane. Where its sender's stream had ended before its turn came, it still is the reason.
    pub(super) fn said_goodbye(&mut self, from: Side, fault: Fault, now: Instant) {
        match &mut self.phase {
            Phase::Ending(ending) if matches!(ending.fault, Fault::Lost { side, .. } if side == from) => {
                ending.fault = fault;
                // Whatever stands behind it came too late.
                self.direction(from).lane.clear();
            }
            _ => self.end(fault, now),
        }
    }

    /// That side's stream has ended.
    pub(super) fn lost(&mut self, side: Side, how: Closed, now: Instant) {
        let fault = match (side, &self.phase) {
            (Side::Broker, Phase::Introduced) => Fault::ClosedBeforeConnack { how },
            (Side::Client | Side::Broker, _) => Fault::Lost { side, how },
        };
        self.end(fault, now);
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
        self.up.lane.clear();
        self.down.lane.clear();
        self.ledger = None;
        let fault = ending.fault;
        if self.reported && self.setting.sink.want(Kind::Disconnect) != Want::Nothing {
            self.report(Happening::Disconnect(Box::new(Ended {
                fault: fault.clone(),
                will_suppressed: self.will_suppressed || !self.terms.will,
                traffic: self.traffic,
            })));
        }
        self.effects.push(Effect::Done(Box::new(fault)));
    }

    /// It is over at once, whatever state it is in: nothing more is sent, and only what is owed to whoever listens is still
    /// told. For when mproxy itself failed in the middle of it, or it has to make room.
    pub fn abandon(&mut self, fault: Fault) {
        if !matches!(self.phase, Phase::Over) {
            self.phase = Phase::Ending(Box::new(Ending { fault, client: End::Gone, broker: End::Gone }));
            self.finish();
        }
    }

    /// Whether packets of our own still go to that side.
    pub(super) fn hears(&self, side: Side) -> bool {
        match (&self.phase, side) {
            (Phase::Over, _) => false,
            (Phase::Ending(ending), Side::Client) => {
                ending.client == End::Open && still_wanted(Side::Broker, &ending.fault)
            }
            (Phase::Ending(ending), Side::Broker) => ending.broker == End::Open,
            _ => true,
        }
    }

    /// The packet that tells the client why, where the version has one and the client is there to read it.
    fn goodbye(&self, fault: &Fault) -> Option<Effect> {
        let open = matches!(self.phase, Phase::Open);
        let silent = match fault {
            Fault::Left { .. }
            | Fault::BrokerLeft { .. }
            | Fault::BrokerRefused { .. }
            | Fault::Lost { side: Side::Client, .. } => true,
            // In an open session there is nothing to add; before, the client waits for its CONNACK.
            Fault::Lost { side: Side::Broker, .. } => open,
            // 3.x answers an admitted client's nonsense by closing (4.8), not by a return code that says something else.
            Fault::Malformed { side: Side::Client, .. } | Fault::Protocol { side: Side::Client, .. } => {
                !matches!(self.phase, Phase::Greeting) && !self.terms.version.is_v5()
            }
            _ => false,
        };
        let silent = silent || (!open && self.keeps_silent_about(fault));
        if silent || self.down.mid_packet() {
            return None;
        }
        let (text, reference) = match fault {
            Fault::Refused { refusal, .. } | Fault::RenewalRefused { refusal } => {
                (refusal.text.as_deref(), refusal.server_reference.as_deref())
            }
            _ => (None, None),
        };
        let reason = match fault {
            // "Server unavailable" is what a CONNACK can say of it, in 3.x too.
            Fault::Drained if !open => ReasonCode::SERVER_UNAVAILABLE,
            _ => fault.reason(),
        };
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

/// Whether packets of that side which wait for their verdict when the session ends so are still to go on.
///
/// What a client sent before it vanished or erred was sent in good order; a client that the policy, an administrator
/// or the broker has shut out publishes no more. What the broker sent before it vanished is the client's; a client
/// that was told goodbye hears no more. Nothing follows a DISCONNECT.
const fn still_wanted(from: Side, fault: &Fault) -> bool {
    match (from, fault) {
        (
            Side::Client,
            Fault::Lost { side, .. } | Fault::Malformed { side, .. } | Fault::Protocol { side, .. },
        ) => matches!(side, Side::Client),
        (Side::Broker, Fault::Lost { side, .. }) => matches!(side, Side::Broker),
        _ => false,
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
