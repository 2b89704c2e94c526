//! Packets of the client's with more properties than one may have, seen by their length: they are refused without being
//! looked into. To check hundreds of thousands of user properties only to refuse them would keep a thread from others.

use mproxy_codec::frame::FixedHeader;
use mproxy_codec::packet::publish::PublishHead;
use mproxy_codec::packet::slim::{most_besides_user_properties, property_range, without_properties};
use mproxy_codec::packet::{PublishLayout, Subscribe, SubscribeLayout, Unsubscribe};
use mproxy_codec::types::{PacketType, Sender};

use super::context::Context;
use super::lane::{Slot, SlotState, WaitingPacket, WaitingPublish};
use super::link::Link;
use super::step::Step;
use crate::fault::Fault;
use crate::peer::Side;

/// Bytes of an acknowledgement, DISCONNECT or AUTH in front of its properties, at most: the fixed header, a packet
/// identifier, a reason code, and the length of the properties.
const HEAD: usize = 5 + 2 + 1 + 4;

/// What the length of a packet's properties says of it.
enum PropertySize {
    /// It is for its own room.
    Fits,
    /// It is refused, and can be answered without its properties.
    Oversized,
    /// It is nothing but properties, and there is no answer to it.
    Unanswerable,
}

impl Link {
    /// What becomes of a packet that has too many properties; `None` for every other.
    ///
    /// # Errors
    /// It has too many, and 5.0 has no answer to it that would say so.
    pub(super) fn oversized_step(
        &mut self,
        cx: &mut Context,
        header: &FixedHeader,
        data: &[u8],
    ) -> Result<Option<Step>, Fault> {
        let total = header.total();
        // Nearly every packet ends here, by one comparison.
        if total <= cx.setting.limits.max_user_properties || !self.terms.version.is_v5() {
            return Ok(None);
        }
        let over = || Fault::OverBudget { packet: header.kind };
        match self.property_size(cx, header, data) {
            PropertySize::Fits => return Ok(None),
            PropertySize::Unanswerable => return Err(over()),
            PropertySize::Oversized => {}
        }
        let slim = without_properties(header, data, self.terms.version).ok_or_else(over)?.freeze();
        let here = data.len().min(total);
        let packet = self.refused_packet(&slim, here, total).ok_or_else(over)??;
        // In its place among the others.
        self.up.lane.push(Slot { bytes: slim, packet, charge: 0 });
        Ok(Some(Step::swallow(here)))
    }

    /// Whether the packet has more properties than the client's packets may.
    fn property_size(&self, cx: &Context, header: &FixedHeader, data: &[u8]) -> PropertySize {
        let most = cx.setting.limits.max_user_properties + most_besides_user_properties(header.kind);
        match header.kind {
            PacketType::Publish | PacketType::Subscribe | PacketType::Unsubscribe => {
                match property_range(header, data, self.terms.version) {
                    Some(properties) if properties.len() > most => PropertySize::Oversized,
                    // What is malformed is told by its own room, in better words.
                    Some(_) | None => PropertySize::Fits,
                }
            }
            PacketType::Puback
            | PacketType::Pubrec
            | PacketType::Pubrel
            | PacketType::Pubcomp
            | PacketType::Disconnect
            | PacketType::Auth
                if header.total() > most + HEAD =>
            {
                PropertySize::Unanswerable
            }
            _ => PropertySize::Fits,
        }
    }

    /// The packet without its properties, as it waits to be refused. `None`: it cannot be answered. Of a PUBLISH, `here` of
    /// `total` bytes have come, and none of its payload goes anywhere.
    ///
    /// # Errors
    /// What is left of it is malformed.
    fn refused_packet(
        &mut self,
        slim: &[u8],
        here: usize,
        total: usize,
    ) -> Option<Result<WaitingPacket, Fault>> {
        let version = self.terms.version;
        let header = FixedHeader::parse(slim, Sender::Client, Some(version)).ok()??;
        let malformed = |error| Fault::Malformed { side: Side::Client, error };
        match header.kind {
            PacketType::Publish => {
                // An alias alone is no topic any more, but who repeats so much of anything may be closed upon.
                let head = PublishHead::parse(&header, slim, Sender::Client, version).ok()??;
                // QoS 0 has no answer.
                let id = head.packet_id?;
                self.up.in_flight.add(head.qos, id);
                self.up.skip(here, total);
                Some(Ok(WaitingPacket::Publish(WaitingPublish {
                    state: SlotState::OverBudget,
                    layout: PublishLayout::of(&header, &head),
                    topic: None,
                    streams: false,
                })))
            }
            PacketType::Subscribe => {
                let subscribe = Subscribe::parse(&header, slim, Sender::Client, version);
                Some(subscribe.map_err(malformed).map(|subscribe| {
                    WaitingPacket::Subscribe(SlotState::OverBudget, SubscribeLayout::of(&subscribe))
                }))
            }
            _ => {
                let unsubscribe = Unsubscribe::parse(&header, slim, Sender::Client, version);
                Some(unsubscribe.map_err(malformed).map(|unsubscribe| WaitingPacket::Refused {
                    id: unsubscribe.packet_id,
                    filters: unsubscribe.filters().len(),
                }))
            }
        }
    }
}
