//! How a session comes to its end.
//!
//! What was taken from one side before the end still reaches the other, unless the end itself forbids it: each side is
//! shut only once its lane has emptied. What the broker answers to that is still passed on where the client may hear it,
//! and accounted for in any case, until the broker has ended, too. The session is over when all that was meant for either
//! side is written; it does not wait for a side that does not close. See `LIFECYCLE.md`.

use std::time::Instant;

use bytes::Bytes;
use mproxy_codec::reason::ReasonCode;
use mproxy_codec::types::PacketType;

use super::context::Context;
use super::direction::Follows;
use super::effect::Effect;
use super::lane::WaitingPacket;
use super::link::Link;
use super::setting::OnUnavailable;
use super::step::Stop;
use super::timer::Deadline;
use crate::command::WillChoice;
use crate::event::{Ended, Happening, Kind};
use crate::fault::{Closed, Fault, TOKEN_EXPIRED, is_command};
use crate::peer::Side;
use crate::policy::Want;

/// A session that is ending.
pub(super) struct Ending {
    pub(super) link: Link,
    ends: Box<Ends>,
}

/// Why it ends, and how far.
#[derive(Debug)]
struct Ends {
    fault: Fault,
    client: SideEnd,
    broker: SideEnd,
    /// The client's half of its stream has ended; it may still be written to.
    half_closed: bool,
    /// A command has said that nothing more is delivered.
    dismissed: bool,
}

/// How far the end of one side has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SideEnd {
    /// Packets for it still wait, or may still come.
    Open,
    /// Our half of its stream is being ended.
    Shut,
    /// All that was meant for it is written, and our half has ended.
    Written,
    /// Its stream has ended, or never was.
    Gone,
}

/// How far the session had come that ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    /// The broker has not got the CONNECT.
    Waiting,
    /// It has.
    Introduced,
    /// It had said yes to it.
    Open,
}

impl Ending {
    /// A session that has come so far ends for this reason.
    pub(super) fn begin(
        mut link: Link,
        cx: &mut Context,
        stage: Reached,
        fault: Fault,
        now: Instant,
    ) -> Self {
        link.end_exchange(cx, &fault);
        if let Some(bytes) = goodbye(&link, cx, stage, &fault) {
            cx.effects.push(Effect::Send { to: Side::Client, bytes });
        }
        // In the middle of a payload it would be two more bytes of that.
        if keeps_will(&fault) && stage != Reached::Waiting && !link.up.mid_packet() {
            cx.effects.push(Effect::Send { to: Side::Broker, bytes: Bytes::from_static(&NORMAL_DISCONNECT) });
            link.will_suppressed = true;
        }
        // Nobody hears the answer any more.
        link.take_awaited_renewal();
        let open = stage == Reached::Open;
        let mut ends = Ends {
            client: SideEnd::Open,
            broker: SideEnd::Open,
            half_closed: false,
            dismissed: false,
            fault,
        };
        // Never dialled, or not reached: there is nobody to shut.
        if stage == Reached::Waiting {
            ends.broker = SideEnd::Gone;
        }
        match ends.fault {
            Fault::Lost { side: Side::Broker, .. } => ends.broker = SideEnd::Gone,
            // Before CONNACK whoever ends its half has given up: to dial for it could take its session from the
            // connection with which it has come back (ADR 0008).
            Fault::Lost { side: Side::Client, how: Closed::Eof } if open => ends.half_closed = true,
            Fault::Lost { side: Side::Client, .. } | Fault::RecallUnread => ends.client = SideEnd::Gone,
            _ => {}
        }
        // Nothing the client says from now on counts. What the broker says does, unless the end is its doing.
        link.up.lane.close();
        // Before CONNACK a broker has nothing to say that this client could still use.
        if !open || ends_broker(&ends.fault) {
            link.down.lane.close();
        }
        // A PUBLISH whose payload will never be whole does not begin.
        for direction in [&mut link.up, &mut link.down] {
            let waits = direction.body.left > 0 && direction.body.follows == Follows::Verdict;
            if waits && direction.lane.is_closed() {
                direction.lane.drop_last();
            }
        }
        if !still_wanted(&ends.fault) {
            link.up.lane.clear();
        }
        let mut ending = Self { link, ends: Box::new(ends) };
        ending.update_hears();
        if !ending.link.hears(Side::Client) {
            ending.only_account(cx);
        }
        // From here on at the latest: verdicts carry deadlines of their own, but an end must not hang on them.
        cx.timer.arm(Deadline::Close, now, cx.setting.limits.close_timeout);
        ending
    }

    /// Whether packets still go to either side.
    fn update_hears(&mut self) {
        let Ends { fault, client, broker, .. } = &*self.ends;
        let client = *client == SideEnd::Open && self.ends.hears_on();
        // Nothing follows a DISCONNECT [MQTT-3.14.4-2].
        let broker = *broker == SideEnd::Open && !matches!(fault, Fault::Left { .. }) && !keeps_will(fault);
        self.link.set_hears(client, broker);
    }

    /// A command disconnects the client, which is leaving anyway: nothing more is delivered on the way.
    pub(super) fn dismiss(&mut self, cx: &mut Context) {
        self.ends.dismissed = true;
        self.update_hears();
        self.only_account(cx);
    }

    /// Another reason to end. The first one counts.
    pub(super) fn end_again(&mut self, fault: &Fault) {
        if shuts_out(fault) {
            // But this client's packets go no further.
            self.link.up.lane.clear();
        }
    }

    /// A DISCONNECT has left its lane. Where its sender's stream had ended before its turn came, it still is the reason.
    pub(super) fn take_disconnect(&mut self, from: Side, fault: Fault) {
        if matches!(self.ends.fault, Fault::Lost { side, .. } if side == from) {
            self.ends.fault = fault;
            // Whatever stands behind it came too late.
            self.link.direction_mut(from).lane.clear();
            self.update_hears();
        } else {
            self.end_again(&fault);
        }
    }

    /// The client hears nothing any more: its deliveries go nowhere and nobody is asked about them, so that nothing holds
    /// up the acknowledgements behind them.
    fn only_account(&mut self, cx: &mut Context) {
        let down = &mut self.link.down;
        if down.body.follows == Follows::Verdict {
            down.body.follows = Follows::Nothing;
        }
        for slot in down.lane.take() {
            let WaitingPacket::Other(header) = slot.packet else { continue };
            match self.link.release_forwarded(cx, Side::Broker, slot.bytes, &header) {
                Ok(()) => {}
                Err(Stop::Fault(fault)) => self.end_again(&fault),
                Err(Stop::Disconnected(from, fault)) => self.take_disconnect(from, fault),
            }
        }
    }

    /// Nothing more comes from that side.
    pub(super) fn lose(&mut self, cx: &mut Context, side: Side, how: &Closed) {
        let half = side == Side::Client && *how == Closed::Eof;
        let end = self.ends.end(side);
        if half && *end == SideEnd::Open {
            self.ends.half_closed = true;
            return;
        }
        *end = SideEnd::Gone;
        self.update_hears();
        match side {
            Side::Client => self.only_account(cx),
            Side::Broker => {
                self.link.up.lane.clear();
                self.link.down.lane.close();
            }
        }
    }

    /// All that was meant for that side is written, and our half of its stream has ended.
    pub(super) fn mark_written(&mut self, side: Side) {
        let end = self.ends.end(side);
        if *end == SideEnd::Shut {
            *end = SideEnd::Written;
        }
    }

    /// Shuts what can be shut, and tells of the end when there is nothing more to come. Whether all is written then.
    pub(super) fn advance(&mut self, cx: &mut Context, now: Instant) -> bool {
        let answers_due = self.link.broker_owes();
        let (link, ends) = (&self.link, &mut *self.ends);
        let broker_done = link.down.lane.is_closed();
        // After DISCONNECT it is the broker that closes, while the client waits for that.
        let broker_closes = matches!(ends.fault, Fault::Left { .. })
            && ends.client == SideEnd::Open
            && !ends.half_closed
            && !broker_done;
        let shut_broker = link.up.lane.is_empty() && !broker_closes;
        let more_to_hear = ends.hears_on() && !broker_done;
        let shut_client = link.down.lane.is_empty() && !more_to_hear;
        for (side, shut) in [(Side::Broker, shut_broker), (Side::Client, shut_client)] {
            let end = ends.end(side);
            if *end == SideEnd::Open && shut {
                *end = SideEnd::Shut;
                // Anew for each side: a client that reads slowly has its own time after a broker that closed slowly.
                cx.effects.push(Effect::Shut { side });
                cx.timer.arm(Deadline::Close, now, cx.setting.limits.close_timeout);
            }
        }
        let (client, broker) = (ends.client, ends.broker);
        // Of a broker that goes on after we have ended the session nothing is wanted but the answers that it owes.
        let heard_out = broker == SideEnd::Gone || broker_done || (is_ours(&ends.fault) && !answers_due);
        self.update_hears();
        if heard_out && client != SideEnd::Open && broker != SideEnd::Open {
            self.report(cx);
            return client != SideEnd::Shut && broker != SideEnd::Shut;
        }
        false
    }

    /// Nothing more of this session reaches anybody: reports its end, once.
    fn report(&mut self, cx: &mut Context) {
        report_end(&mut self.link, cx, &self.ends.fault);
    }

    /// The last of it: why it ended.
    pub(super) fn finish(mut self, cx: &mut Context) -> (Link, Fault) {
        self.report(cx);
        self.link.forget();
        (self.link, self.ends.fault)
    }
}

/// Reports the end of a session that was reported, once.
pub(super) fn report_end(link: &mut Link, cx: &mut Context, fault: &Fault) {
    // Taken: however many ways lead here, the contract promises one Disconnect for each Connect.
    if std::mem::take(&mut link.reported) && cx.setting.sink.want(Kind::Disconnect) != Want::Nothing {
        let ended = Ended {
            fault: fault.clone(),
            will_suppressed: link.will_suppressed || !link.terms.will,
            traffic: cx.traffic,
        };
        link.report(cx, Happening::Disconnect(Box::new(ended)));
    }
}

/// The packet that tells the client why, where the version has one and the client is there to read it.
fn goodbye(link: &Link, cx: &Context, stage: Reached, fault: &Fault) -> Option<Bytes> {
    let open = stage == Reached::Open;
    let silent = match fault {
        Fault::Left { .. }
        | Fault::BrokerLeft { .. }
        | Fault::BrokerRefused { .. }
        | Fault::RecallUnread
        | Fault::Lost { side: Side::Client, .. } => true,
        // In an open session there is nothing to add; before, the client waits for its CONNACK.
        Fault::Lost { side: Side::Broker, .. } => open,
        // 3.x answers an admitted client's nonsense by closing (4.8), not by a return code that says something else.
        Fault::Malformed { side: Side::Client, .. } | Fault::Protocol { side: Side::Client, .. } => {
            !link.terms.version.is_v5()
        }
        _ => false,
    };
    // A refusal is a refusal, trouble is not.
    let trouble = match cx.setting.on_unavailable {
        OnUnavailable::Close => fault.is_trouble(),
        OnUnavailable::Connack => false,
    };
    // In the middle of a payload the receiver would take it for more of that.
    if silent || (!open && trouble) || link.down.mid_packet() {
        return None;
    }
    let of_drain = matches!(fault, Fault::Drained { .. }).then(|| cx.setting.drain_reference.get()).flatten();
    let (text, reference) = match fault {
        Fault::Refused { refusal, .. } | Fault::RenewalRefused { refusal } => {
            (refusal.text.as_deref(), refusal.server_reference.as_deref())
        }
        Fault::Kicked { dismissal: Some(dismissal), .. } => {
            (dismissal.text.as_deref(), dismissal.server_reference.as_deref())
        }
        Fault::TooLate(Deadline::Token) => (Some(TOKEN_EXPIRED), None),
        Fault::Drained { .. } => (None, of_drain.as_deref()),
        _ => (None, None),
    };
    let reason = match fault {
        // "Server unavailable" is what a CONNACK can say of it, in 3.x too.
        Fault::Drained { .. } if !open => ReasonCode::SERVER_UNAVAILABLE,
        // CONNACK has no "Administrative action". Who was disconnected by command shall not come again for that, which
        // "Server unavailable" would ask for.
        Fault::Kicked { reason: ReasonCode::ADMINISTRATIVE_ACTION, dismissal }
            if !open && is_command(dismissal) =>
        {
            ReasonCode::NOT_AUTHORIZED
        }
        _ => fault.reason(),
    };
    match stage {
        Reached::Waiting | Reached::Introduced => link.terms.connack(reason, text, reference),
        Reached::Open => link.terms.disconnect(reason, text, reference),
    }
}

/// DISCONNECT with reason 0x00, in every version: the broker publishes no will (3.14.4).
const NORMAL_DISCONNECT: [u8; 2] = [PacketType::Disconnect.first_byte(), 0];

/// Whether the broker is told goodbye, so that it does not publish the will.
fn keeps_will(fault: &Fault) -> bool {
    matches!(fault, Fault::Kicked { dismissal: Some(one), .. } if one.will == WillChoice::Suppressed)
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
            | Fault::TooLate(Deadline::Grant | Deadline::Token)
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

impl Ends {
    /// Whether the client hears what the broker still says.
    const fn hears_on(&self) -> bool {
        !self.dismissed && hears_on(&self.fault)
    }

    const fn end(&mut self, side: Side) -> &mut SideEnd {
        match side {
            Side::Client => &mut self.client,
            Side::Broker => &mut self.broker,
        }
    }
}
