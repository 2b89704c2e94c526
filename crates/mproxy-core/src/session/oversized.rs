//! Packets of the client's with more properties than one may have, seen by their length: they are refused without being
//! looked into. To check hundreds of thousands of user properties only to refuse them would keep a thread from others.

use mproxy_codec::frame::Header;
use mproxy_codec::packet::publish::PublishHead;
use mproxy_codec::packet::slim::{most_besides_user_properties, property_range, without_properties};
use mproxy_codec::packet::{PublishLayout, Subscribe, SubscribeLayout, Unsubscribe};
use mproxy_codec::types::{PacketType, QoS, Sender};

use super::context::Context;
use super::lane::{Slot, SlotState, WaitingPacket, WaitingPublish};
use super::link::Link;
use super::step::Step;
use crate::fault::Fault;
use crate::peer::Side;

/// Bytes of an acknowledgement, DISCONNECT or AUTH in front of its properties, at most: the fixed header, a packet
/// identifier, a reason code, and the length of the properties.
const HEAD: usize = 5 + 2 + 1 + 4;

impl Link {
    /// What becomes of a packet that has too many properties; `None` for every other.
    ///
    /// # Errors
    /// It has too many, and 5.0 has no answer to it that would say so.
    pub(super) fn oversized_step(
        &mut self,
        cx: &mut Context,
        header: &Header,
        data: &[u8],
    ) -> Result<Option<Step>, Fault> {
        let (total, version) = (header.total(), self.terms.version);
        if total <= cx.setting.limits.max_user_properties || !version.is_v5() {
            return Ok(None);
        }
        let most = cx.setting.limits.max_user_properties + most_besides_user_properties(header.kind);
        let over = Fault::OverBudget { packet: header.kind };
        match header.kind {
            PacketType::Publish | PacketType::Subscribe | PacketType::Unsubscribe => {
                let properties = property_range(header, data, version);
                if properties.is_none_or(|properties| properties.len() <= most) {
                    return Ok(None);
                }
            }
            // They are nothing but properties.
            PacketType::Puback
            | PacketType::Pubrec
            | PacketType::Pubrel
            | PacketType::Pubcomp
            | PacketType::Disconnect
            | PacketType::Auth
                if total > most + HEAD =>
            {
                return Err(over);
            }
            _ => return Ok(None),
        }
        let Some(slim) = without_properties(header, data, version) else { return Err(over) };
        let malformed = |error| Fault::Malformed { side: Side::Client, error };
        let Ok(Some(slim_header)) = Header::parse(&slim, Sender::Client, Some(version)) else {
            return Err(over);
        };
        let here = data.len().min(total);
        let packet = match header.kind {
            PacketType::Publish => {
                // An alias alone is no topic any more, but who repeats so much of anything may be closed upon.
                let head = PublishHead::parse(&slim_header, &slim, Sender::Client, version).ok().flatten();
                let Some(head) = head.filter(|head| head.qos != QoS::AtMostOnce) else { return Err(over) };
                if let Some(id) = head.packet_id {
                    self.up.in_flight.add(head.qos, id);
                }
                self.up.skip(here, total);
                WaitingPacket::Publish(WaitingPublish {
                    state: SlotState::OverBudget,
                    layout: PublishLayout::of(&slim_header, &head),
                    topic: None,
                    streams: false,
                })
            }
            PacketType::Subscribe => {
                let subscribe =
                    Subscribe::parse(&slim_header, &slim, Sender::Client, version).map_err(malformed)?;
                WaitingPacket::Subscribe(SlotState::OverBudget, SubscribeLayout::of(&subscribe))
            }
            _ => {
                let unsubscribe =
                    Unsubscribe::parse(&slim_header, &slim, Sender::Client, version).map_err(malformed)?;
                WaitingPacket::Refused { id: unsubscribe.packet_id, filters: unsubscribe.filters().len() }
            }
        };
        // In its place among the others.
        self.up.lane.push(Slot { bytes: slim.freeze(), packet, charge: 0 });
        Ok(Some(Step::swallow(here)))
    }
}
