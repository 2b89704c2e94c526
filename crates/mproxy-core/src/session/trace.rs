//! A line for each packet, for whoever traces: what came, and what became of it. The meter is asked once a read whether
//! anybody does; the fast path, which does not look at single packets, is left then.

use std::sync::Arc;

use bytes::Bytes;
use mproxy_codec::frame::FixedHeader;
use mproxy_codec::packet::publish::PublishHead;
use mproxy_codec::types::{PacketId, PacketType, Version};

use super::context::Context;
use super::effect::Effect;
use super::lane::{Slot, WaitingPacket, WaitingPublish};
use super::link::Link;
use super::step::{Passage, Step};
use crate::meter::{PacketFate, PacketTrace};
use crate::peer::{Origin, Side};

/// A packet that leaves its lane, and how many effects there were before it did.
pub(super) struct Leaving {
    bytes: Bytes,
    topic: Option<Arc<str>>,
    effects: usize,
}

impl Leaving {
    pub(super) fn of(slot: &Slot, cx: &Context) -> Self {
        let topic = match &slot.packet {
            WaitingPacket::Publish(WaitingPublish { topic, .. }) => topic.clone(),
            WaitingPacket::Subscribe(..) | WaitingPacket::Other(_) | WaitingPacket::Refused { .. } => None,
        };
        Self { bytes: slot.bytes.clone(), topic, effects: cx.effects.len() }
    }
}

impl Context {
    /// A packet has come, and this is done with it, and has led to the effects behind so many.
    pub(super) fn trace_step(
        &self,
        link: &Link,
        from: Side,
        header: &FixedHeader,
        data: &[u8],
        step: &Step,
        effects: usize,
    ) {
        let fate = match step {
            Step::Wait => return,
            Step::Take(_, Passage::AsItIs | Passage::ThenOurs | Passage::Last(None, _)) => {
                PacketFate::Forwarded
            }
            // The broker gets a PINGREQ of ours in its place.
            Step::Take(_, Passage::Instead(_)) if header.kind == PacketType::Auth => PacketFate::Answered,
            Step::Take(_, Passage::Instead(_) | Passage::Last(Some(_), _)) => PacketFate::Changed,
            // It waits for its answer, and for the broker.
            Step::Take(_, Passage::Nowhere) if header.kind == PacketType::Connect => PacketFate::Deferred,
            Step::Take(_, Passage::Nowhere) => self.fate_of_swallowed(from, effects),
            Step::Keep { packet, .. } if packet.holds() => PacketFate::Deferred,
            // It leaves at once, which is traced.
            Step::Keep { .. } if link.direction(from).lane.is_empty() => return,
            Step::Keep { .. } => PacketFate::Queued,
        };
        self.trace(&link.peer.origin, from, header, data, link.terms.version, None, fate);
    }

    fn fate_of_swallowed(&self, from: Side, effects: usize) -> PacketFate {
        let answered = |effect: &Effect| matches!(effect, Effect::Send { to, .. } if *to == from);
        if self.effects.behind(effects).any(answered) { PacketFate::Answered } else { PacketFate::Dropped }
    }

    /// A packet has left its lane, or was not let through.
    pub(super) fn trace_leaving(&self, link: &Link, from: Side, leaving: &Leaving) {
        let Leaving { bytes, topic, effects } = leaving;
        let version = link.terms.version;
        let Ok(Some(header)) = FixedHeader::parse(bytes, super::sender(from), Some(version)) else { return };
        let sent = self.effects.behind(*effects).find_map(|effect| match effect {
            Effect::Send { to, bytes } if *to == from.other() => Some(bytes),
            _ => None,
        });
        let fate = match sent {
            // The same bytes, by where they lie: comparing a payload of megabytes is not what a trace is for.
            Some(sent) if sent.as_ptr() == bytes.as_ptr() && sent.len() == bytes.len() => {
                PacketFate::Forwarded
            }
            Some(_) => PacketFate::Changed,
            None => self.fate_of_swallowed(from, *effects),
        };
        self.trace(&link.peer.origin, from, &header, bytes, version, topic.as_deref(), fate);
    }

    #[expect(clippy::too_many_arguments, reason = "they are the fields of what is traced")]
    fn trace(
        &self,
        origin: &Origin,
        from: Side,
        header: &FixedHeader,
        data: &[u8],
        version: Version,
        topic: Option<&str>,
        fate: PacketFate,
    ) {
        let head = match header.kind {
            PacketType::Publish => {
                // Of one that streams no more than its beginning is here.
                let data = data.get(..header.total()).unwrap_or(data);
                PublishHead::parse(header, data, super::sender(from), version).ok().flatten()
            }
            _ => None,
        };
        let own_topic = head.as_ref().map(|head| head.topic).filter(|topic| !topic.is_empty());
        self.setting.meter.packet(&PacketTrace {
            origin,
            from,
            kind: header.kind,
            id: head.as_ref().map_or_else(|| packet_id(header, data), |head| head.packet_id),
            topic: topic.or(own_topic),
            size: header.total(),
            fate,
        });
    }
}

/// The packet id at the start of a packet's body, if packets of its type have one.
fn packet_id(header: &FixedHeader, data: &[u8]) -> Option<PacketId> {
    match header.kind {
        PacketType::Puback
        | PacketType::Pubrec
        | PacketType::Pubrel
        | PacketType::Pubcomp
        | PacketType::Subscribe
        | PacketType::Suback
        | PacketType::Unsubscribe
        | PacketType::Unsuback => {
            let body = data.get(usize::from(header.len)..)?;
            PacketId::new(u16::from_be_bytes([*body.first()?, *body.get(1)?]))
        }
        PacketType::Connect
        | PacketType::Connack
        | PacketType::Publish
        | PacketType::Pingreq
        | PacketType::Pingresp
        | PacketType::Disconnect
        | PacketType::Auth => None,
    }
}
