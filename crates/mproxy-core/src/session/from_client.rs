//! What becomes of a packet from the client once the session is open.

use std::time::Instant;

use bytes::Bytes;
use mproxy_codec::frame::{Frame, Header};
use mproxy_codec::packet::{Ack, Auth, Disconnect, Packet};
use mproxy_codec::property::PropertyId;
use mproxy_codec::reason::ReasonCode;
use mproxy_codec::types::{PacketId, PacketType};

use super::lane::{Slot, Waiting};
use super::{Session, Step};
use crate::event::Happening;
use crate::fault::Fault;
use crate::peer::Side;

/// What becomes of a packet that is not decided about, at the moment its turn comes.
pub(super) enum Leaving {
    /// It goes as it is.
    AsItIs,
    /// It does, and packets of our own may follow.
    ThenAnswers,
    /// This goes instead.
    Instead(Bytes),
    /// Nothing goes.
    Nowhere,
    /// It goes, and the session ends.
    Last(Fault),
    /// This goes instead, and the session ends.
    LastInstead(Bytes, Fault),
}

impl Session {
    pub(super) fn client_step(&mut self, header: &Header, data: &[u8]) -> Result<Step, Fault> {
        if let Some(step) = self.oversized_step(header, data)? {
            return Ok(step);
        }
        match header.kind {
            PacketType::Publish => self.publish_step(Side::Client, header, data),
            PacketType::Subscribe => self.subscribe_step(header, data),
            _ => self.other_step(Side::Client, header, data),
        }
    }

    /// A packet that nobody is asked about: it leaves at once, or after those before it.
    pub(super) fn other_step(&mut self, from: Side, header: &Header, data: &[u8]) -> Result<Step, Fault> {
        let total = header.total();
        let bytes = &data[..total];
        if !self.lane(from).is_empty() {
            Packet::parse(&Frame { header: *header, bytes }, super::sender(from), self.terms.version)
                .map_err(|error| Fault::Malformed { side: from, error })?;
            self.close_behind(from, header.kind);
            return Ok(Step::Keep(total, slot(header)));
        }
        let leaving = self.leave(from, header, bytes)?;
        self.close_behind(from, header.kind);
        Ok(match leaving {
            Leaving::AsItIs => Step::Pass(total),
            Leaving::ThenAnswers => Step::PassThenAnswer(total),
            Leaving::Instead(bytes) => Step::Replace(total, bytes),
            Leaving::Nowhere => Step::Swallow(total),
            Leaving::Last(fault) => Step::Last(total, fault),
            // Through the lane, which carries it out at once.
            Leaving::LastInstead(..) => Step::Keep(total, slot(header)),
        })
    }

    /// Nothing follows a DISCONNECT [MQTT-3.14.4-2], whether it leaves at once or has to wait.
    fn close_behind(&mut self, from: Side, kind: PacketType) {
        if kind == PacketType::Disconnect {
            self.direction(from).lane.close();
        }
    }

    /// The same for one that has waited in its lane.
    pub(super) fn other_released(&mut self, from: Side, bytes: Bytes, header: &Header, now: Instant) {
        let to = from.other();
        match self.leave(from, header, &bytes) {
            Ok(Leaving::AsItIs) => self.send(to, bytes),
            Ok(Leaving::ThenAnswers) => {
                self.send(to, bytes);
                self.answers(from);
            }
            Ok(Leaving::Instead(instead)) => self.send(to, instead),
            Ok(Leaving::Nowhere) => {}
            Ok(Leaving::LastInstead(instead, fault)) => {
                self.send(to, instead);
                self.said_goodbye(from, fault, now);
            }
            Ok(Leaving::Last(fault)) => {
                self.send(to, bytes);
                self.said_goodbye(from, fault, now);
            }
            Err(fault) => self.end(fault, now),
        }
    }

    fn leave(&mut self, from: Side, header: &Header, bytes: &[u8]) -> Result<Leaving, Fault> {
        match header.kind {
            PacketType::Pingreq | PacketType::Pingresp => Ok(Leaving::AsItIs),
            PacketType::Puback | PacketType::Pubrec | PacketType::Pubrel | PacketType::Pubcomp => {
                let ack = Ack::parse(header, bytes, super::sender(from), self.terms.version)
                    .map_err(|error| Fault::Malformed { side: from, error })?;
                Ok(self.acknowledged(from, ack.kind, ack.packet_id, ack.reason))
            }
            PacketType::Disconnect => self.disconnect_leaves(from, header, bytes),
            PacketType::Auth if self.terms.auth => {
                let auth = Auth::parse(header, bytes, super::sender(from))
                    .map_err(|error| Fault::Malformed { side: from, error })?;
                self.auth_in_turn(from, &auth).map(|()| Leaving::AsItIs)
            }
            PacketType::Unsubscribe => self.unsubscribe_leaves(header, bytes),
            PacketType::Suback => self.suback_leaves(header, bytes),
            PacketType::Unsuback => self.unsuback_leaves(header, bytes),
            PacketType::Connect
            | PacketType::Connack
            | PacketType::Auth
            | PacketType::Publish
            | PacketType::Subscribe => Err(self.out_of_place(from, header.kind)),
        }
    }

    /// An acknowledgement, from either side.
    #[inline]
    pub(super) fn acknowledged(
        &mut self,
        from: Side,
        kind: PacketType,
        id: PacketId,
        reason: ReasonCode,
    ) -> Leaving {
        let over = match kind {
            PacketType::Puback | PacketType::Pubcomp => true,
            PacketType::Pubrec => reason.is_error(),
            _ => false,
        };
        if over && from == Side::Broker {
            self.in_flight.over(kind, id);
        }
        if self.ledger.is_none() {
            return Leaving::AsItIs;
        }
        self.acknowledged_in_ledger(from, kind, id, reason)
    }

    fn acknowledged_in_ledger(
        &mut self,
        from: Side,
        kind: PacketType,
        id: PacketId,
        reason: ReasonCode,
    ) -> Leaving {
        let Some(ledger) = &mut self.ledger else { return Leaving::AsItIs };
        match kind {
            PacketType::Pubrel => {
                if !ledger.flows(from).ours.remove(&id) {
                    return Leaving::AsItIs;
                }
                if from == Side::Client {
                    self.in_flight.over(PacketType::Pubcomp, id);
                }
                match self.terms.ack(from, PacketType::Pubcomp, id, ReasonCode::SUCCESS, None) {
                    Some(done) => self.inject(from, done),
                    None => self.unsendable(from, PacketType::Pubcomp),
                }
                Leaving::Nowhere
            }
            PacketType::Puback | PacketType::Pubrec => {
                let (told, toil) = ledger.acknowledged(from.other(), kind, id);
                self.spend(toil);
                if let Some(told) = told
                    && !reason.is_error()
                {
                    self.report(Happening::Publish(told));
                }
                Leaving::ThenAnswers
            }
            _ => Leaving::AsItIs,
        }
    }

    fn disconnect_leaves(&mut self, from: Side, header: &Header, bytes: &[u8]) -> Result<Leaving, Fault> {
        let disconnect = Disconnect::parse(header, bytes, super::sender(from), self.terms.version)
            .map_err(|error| Fault::Malformed { side: from, error })?;
        let reason = disconnect.reason;
        if from == Side::Broker {
            return Ok(Leaving::Last(Fault::BrokerLeft { reason }));
        }
        let expiry = disconnect.properties.u32(PropertyId::SessionExpiryInterval).unwrap_or(0);
        if self.terms.expires_at_once && expiry != 0 {
            return Err(Fault::Protocol {
                side: from,
                packet: PacketType::Disconnect,
                what: "Session Expiry Interval where CONNECT had none",
                rule: "3.14.2.2.2",
                reason: ReasonCode::PROTOCOL_ERROR,
            });
        }
        // [MQTT-3.1.2-10]: only a normal DISCONNECT takes the will away.
        self.will_suppressed = reason == ReasonCode::SUCCESS;
        Ok(match self.disconnect_for_broker(&disconnect) {
            None => Leaving::Last(Fault::Left { reason }),
            Some(bytes) => Leaving::LastInstead(bytes, Fault::Left { reason }),
        })
    }
}

const fn slot(header: &Header) -> Slot {
    Slot { bytes: Bytes::new(), packet: Waiting::Other(*header), charge: 0 }
}
