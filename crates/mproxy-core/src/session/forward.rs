//! Packets that nobody is asked about: from which side they come, and whether they leave at once or have waited in their
//! lane, what becomes of them is said here.

use bytes::Bytes;
use mproxy_codec::frame::{FixedHeader, Frame};
use mproxy_codec::packet::{Ack, Auth, Packet};
use mproxy_codec::types::PacketType;

use super::context::Context;
use super::foreign::out_of_place;
use super::lane::WaitingPacket;
use super::link::Link;
use super::step::{Passage, Step, Stop};
use crate::fault::Fault;
use crate::peer::Side;

impl Link {
    /// A packet that nobody is asked about: it leaves at once, or after those before it.
    ///
    /// # Errors
    /// It is wrong, or may not come.
    pub(super) fn forward_step(
        &mut self,
        cx: &mut Context,
        from: Side,
        header: &FixedHeader,
        data: &[u8],
    ) -> Result<Step, Fault> {
        let total = header.total();
        let bytes = &data[..total];
        let step = if self.direction(from).lane.is_empty() {
            Step::Take(total, self.forward(cx, from, header, bytes)?)
        } else {
            // Judged now, though it waits: a fault is told when it comes, and not after packets that were in order.
            Packet::parse(&Frame { header: *header, bytes }, super::sender(from), self.terms.version)
                .map_err(|error| Fault::Malformed { side: from, error })?;
            let packet = WaitingPacket::Other(*header);
            Step::Keep { bytes: total, packet, charge: 0 }
        };
        if header.kind == PacketType::Disconnect {
            // Nothing follows it [MQTT-3.14.4-2], whether it leaves at once or has to wait.
            self.direction_mut(from).lane.close();
        }
        Ok(step)
    }

    /// One that has waited in its lane, and whose turn it is.
    ///
    /// # Errors
    /// The session ends with it.
    pub(super) fn release_forwarded(
        &mut self,
        cx: &mut Context,
        from: Side,
        bytes: Bytes,
        header: &FixedHeader,
    ) -> Result<(), Stop> {
        let to = from.other();
        match self.forward(cx, from, header, &bytes)? {
            Passage::AsItIs => self.send(cx, to, bytes),
            Passage::ThenOurs => {
                self.send(cx, to, bytes);
                self.send_ours(cx, from);
            }
            Passage::Instead(instead) => self.send(cx, to, instead),
            Passage::Nowhere => {}
            Passage::Last(instead, fault) => {
                self.send(cx, to, instead.unwrap_or(bytes));
                return Err(Stop::Disconnected(from, *fault));
            }
        }
        Ok(())
    }

    fn forward(
        &mut self,
        cx: &mut Context,
        from: Side,
        header: &FixedHeader,
        bytes: &[u8],
    ) -> Result<Passage, Fault> {
        match header.kind {
            PacketType::Pingresp if from == Side::Broker && self.takes_pingresp() => Ok(Passage::Nowhere),
            PacketType::Pingreq | PacketType::Pingresp => Ok(Passage::AsItIs),
            PacketType::Puback | PacketType::Pubrec | PacketType::Pubrel | PacketType::Pubcomp => {
                let ack = Ack::parse(header, bytes, super::sender(from), self.terms.version)
                    .map_err(|error| Fault::Malformed { side: from, error })?;
                Ok(self.pass_acknowledgement(cx, from, ack.kind, ack.packet_id, ack.reason))
            }
            PacketType::Disconnect => self.forward_disconnect(cx, from, header, bytes),
            PacketType::Auth if self.terms.auth => {
                let auth = Auth::parse(header, bytes, super::sender(from))
                    .map_err(|error| Fault::Malformed { side: from, error })?;
                self.auth_in_turn(from, &auth, true).map(|()| Passage::AsItIs)
            }
            PacketType::Unsubscribe => self.forward_unsubscribe(cx, header, bytes),
            PacketType::Suback => self.forward_suback(cx, header, bytes),
            PacketType::Unsuback => self.forward_unsuback(cx, header, bytes),
            PacketType::Connect
            | PacketType::Connack
            | PacketType::Auth
            | PacketType::Publish
            | PacketType::Subscribe => Err(out_of_place(from, header.kind)),
        }
    }
}
