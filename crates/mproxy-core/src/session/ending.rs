//! How a session comes to its end.
//!
//! What was taken from one side before the end still reaches the other, unless the end itself forbids it: each side is
//! shut only once its lane has emptied. What the broker answers to that is still passed on where the client may hear it,
//! and accounted for in any case, until the broker has ended, too. The session is over when all that was meant for either
//! side is written; it does not wait for a side that does not close. See `LIFECYCLE.md`.

use std::time::Instant;

use mproxy_codec::reason::ReasonCode;

use super::lane::Waiting;
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
    /// The client's half of its stream has ended; it may still be written to.
    half_closed: bool,
}

/// How far the end of one side has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Packets for it still wait, or may still come.
    Open,
    /// Our half of its stream is being ended.
    Shut,
    /// All that was meant for it is written, and our half has ended.
    Written,
    /// Its stream has ended, or never was.
    Gone,
}

impl Session {
    /// The session ends for this reason. The first reason counts.
    pub(super) fn end(&mut self, fault: Fault, now: Instant) {
        if self.phase.ending() {
            if shuts_out(&fault) {
                // The reason stays, but this client's packets go no further.
                self.up.lane.clear();
            }
            return;
        }
        if let Some(goodbye) = self.goodbye(&fault) {
            self.effects.push(goodbye);
        }
        let open = matches!(self.phase, Phase::Open);
        let mut ending = Ending { client: End::Open, broker: End::Gone, half_closed: false, fault };
        if matches!(self.phase, Phase::Introduced | Phase::Open) {
            ending.broker = End::Open;
        }
        match ending.fault {
            Fault::Lost { side: Side::Broker, .. } => ending.broker = End::Gone,
            Fault::Lost { side: Side::Client, how: Closed::Eof } if open => ending.half_closed = true,
            Fault::Lost { side: Side::Client, .. } => ending.client = End::Gone,
            _ => {}
        }
        // Nothing the client says from now on counts. What the broker says does, unless the end is its doing.
        self.up.lane.close();
        if !open || ends_broker(&ending.fault) {
            self.down.lane.close();
        }
        // A PUBLISH whose payload will never be whole does not begin.
        for direction in [&mut self.up, &mut self.down] {
            let waits = direction.body.left > 0 && direction.body.fate == Fate::Waiting;
            if waits && direction.lane.is_closed() {
                direction.lane.drop_last();
            }
        }
        if !still_wanted(&ending.fault) {
            self.up.lane.clear();
        }
        self.phase = Phase::Ending(Box::new(ending));
        if !self.hears(Side::Client) {
            self.only_account(now);
        }
        // From here on at the latest: verdicts carry deadlines of their own, but an end must not hang on them.
        self.timer.arm(Deadline::Close, now, self.setting.limits.close_timeout);
        self.go_on_ending(now);
    }

    /// The client hears nothing any more: its deliveries go nowhere and nobody is asked about them, so that nothing holds
    /// up the acknowledgements behind them.
    fn only_account(&mut self, now: Instant) {
        if self.down.body.fate == Fate::Waiting {
            self.down.body.fate = Fate::Skip;
        }
        for slot in self.down.lane.take() {
            if let Waiting::Other(header) = slot.packet {
                self.other_released(Side::Broker, slot.bytes, &header, now);
            }
        }
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

    /// Nothing more comes from that side.
    pub(super) fn lost(&mut self, side: Side, how: Closed, now: Instant) {
        let half = side == Side::Client && how == Closed::Eof;
        if half && matches!(self.phase, Phase::Introduced) {
            // The broker has the CONNECT, and will answer it.
            self.client_ended = true;
            return;
        }
        let fault = match (side, &self.phase) {
            (Side::Broker, Phase::Introduced) => Fault::ClosedBeforeConnack { how },
            (Side::Client | Side::Broker, _) => Fault::Lost { side, how },
        };
        self.end(fault, now);
        let Phase::Ending(ending) = &mut self.phase else { return };
        let end = ending.end(side);
        if half && *end == End::Open {
            ending.half_closed = true;
            return;
        }
        *end = End::Gone;
        match side {
            Side::Client => self.only_account(now),
            Side::Broker => {
                self.up.lane.clear();
                self.down.lane.close();
            }
        }
    }

    /// All that was meant for that side is written, and our half of its stream has ended.
    pub(super) fn all_written(&mut self, side: Side) {
        let Phase::Ending(ending) = &mut self.phase else { return };
        let end = ending.end(side);
        if *end == End::Shut {
            *end = End::Written;
        }
    }

    /// Whether the broker still owes answers that are to be told of.
    fn answers_due(&self) -> bool {
        self.in_flight.any_went() || self.ledger.as_ref().is_some_and(|ledger| ledger.is_owed())
    }

    /// Shuts what can be shut, tells of the end when there is nothing more to come, and is done when all is written.
    pub(super) fn go_on_ending(&mut self, now: Instant) {
        let answers_due = self.phase.ending() && self.answers_due();
        let Phase::Ending(ending) = &mut self.phase else { return };
        let broker_done = self.down.lane.is_closed();
        // After DISCONNECT it is the broker that closes, while the client waits for that.
        let broker_closes = matches!(ending.fault, Fault::Left { .. })
            && ending.client == End::Open
            && !ending.half_closed
            && !broker_done;
        let shut_broker = self.up.lane.is_empty() && !broker_closes;
        let more_to_hear = hears_on(&ending.fault) && !broker_done;
        let shut_client = self.down.lane.is_empty() && !more_to_hear;
        for (side, shut) in [(Side::Broker, shut_broker), (Side::Client, shut_client)] {
            let end = ending.end(side);
            if *end == End::Open && shut {
                *end = End::Shut;
                self.effects.push(Effect::Shut { side });
                self.timer.arm(Deadline::Close, now, self.setting.limits.close_timeout);
            }
        }
        let (client, broker) = (ending.client, ending.broker);
        // Of a broker that goes on after we have ended the session nothing is wanted but the answers that it owes.
        let heard_out = broker == End::Gone || broker_done || (is_ours(&ending.fault) && !answers_due);
        if heard_out && client != End::Open && broker != End::Open {
            self.tell_end();
            if client != End::Shut && broker != End::Shut {
                self.finish();
            }
        }
    }

    /// Nothing more of this session reaches anybody: reports its end, once.
    fn tell_end(&mut self) {
        let Phase::Ending(ending) = &self.phase else { return };
        if std::mem::take(&mut self.reported) && self.setting.sink.want(Kind::Disconnect) != Want::Nothing {
            self.report(Happening::Disconnect(Box::new(Ended {
                fault: ending.fault.clone(),
                will_suppressed: self.will_suppressed || !self.terms.will,
                traffic: self.traffic,
            })));
        }
    }

    /// The last of it.
    pub(super) fn finish(&mut self) {
        self.tell_end();
        let Phase::Ending(ending) = std::mem::replace(&mut self.phase, Phase::Over) else { return };
        self.timer.disarm();
        self.up.lane.clear();
        self.down.lane.clear();
        self.ledger = None;
        self.effects.push(Effect::Done(Box::new(ending.fault)));
    }

    /// It is over at once, whatever state it is in: nothing more is sent, and only what is owed to whoever listens is still
    /// told. For when mproxy itself failed in the middle of it, or it has to make room.
    pub fn abandon(&mut self, fault: Fault) {
        if !matches!(self.phase, Phase::Over) {
            self.phase = Phase::Ending(Box::new(Ending {
                fault,
                client: End::Gone,
                broker: End::Gone,
                half_closed: false,
            }));
            self.finish();
        }
    }

    /// Whether packets still go to that side.
    #[inline]
    pub(super) fn hears(&self, side: Side) -> bool {
        match (&self.phase, side) {
            (Phase::Over, _) => false,
            (Phase::Ending(ending), Side::Client) => ending.client == End::Open && hears_on(&ending.fault),
            // Nothing follows a DISCONNECT [MQTT-3.14.4-2].
            (Phase::Ending(ending), Side::Broker) => {
                ending.broker == End::Open && !matches!(ending.fault, Fault::Left { .. })
            }
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
                self.terms.connack(reason, text, reference)?
            }
            Phase::Open => self.terms.disconnect(reason, text, reference)?,
            Phase::Ending(_) | Phase::Over => return None,
        };
        Some(Effect::Send { to: Side::Client, bytes })
    }
}

/// Whether packets of the client's which wait for their verdict when the session ends so are still to go on.
///
/// What a client sent before it vanished or erred was sent in good order; a client that the policy, an administrator
/// or the broker has shut out publishes no more. Nothing follows a DISCONNECT.
const fn still_wanted(fault: &Fault) -> bool {
    matches!(
        fault,
        Fault::Lost { side: Side::Client, .. }
            | Fault::Malformed { side: Side::Client, .. }
            | Fault::Protocol { side: Side::Client, .. }
    )
}

/// Whether somebody has decided that the client says no more.
const fn shuts_out(fault: &Fault) -> bool {
    matches!(
        fault,
        Fault::Refused { .. }
            | Fault::PolicyFailed { .. }
            | Fault::Kicked { .. }
            | Fault::TooLate(Deadline::Grant)
    )
}

/// Whether mproxy ends the session: both sides are shut, and neither is asked when.
const fn is_ours(fault: &Fault) -> bool {
    !matches!(fault, Fault::Left { .. } | Fault::Lost { .. })
}

/// Whether the client of a session that ends so hears what the broker still says. A client that was told goodbye does
/// not, and neither does one that is closed upon for its errors.
const fn hears_on(fault: &Fault) -> bool {
    matches!(
        fault,
        Fault::Left { .. }
            | Fault::Lost { side: Side::Client, how: Closed::Eof }
            | Fault::Lost { side: Side::Broker, .. }
    )
}

/// Whether the broker has said its last where the session ends so, or what it says cannot be read.
const fn ends_broker(fault: &Fault) -> bool {
    matches!(
        fault,
        Fault::BrokerLeft { .. }
            | Fault::BrokerRefused { .. }
            | Fault::Lost { side: Side::Broker, .. }
            | Fault::Malformed { side: Side::Broker, .. }
            | Fault::Protocol { side: Side::Broker, .. }
    )
}

impl Ending {
    fn end(&mut self, side: Side) -> &mut End {
        match side {
            Side::Client => &mut self.client,
            Side::Broker => &mut self.broker,
        }
    }
}
