//! A line for each packet, for whoever traces: what came, and what became of it. The meter is asked once a read whether
//! anybody does; the fast path, which does not look at single packets, is left then.

use std::sync::Arc;

use bytes::Bytes;
use mproxy_codec::frame::{FixedHeader, Frame};
use mproxy_codec::packet::Packet;
use mproxy_codec::packet::publish::PublishHead;
use mproxy_codec::types::{PacketId, PacketType, Version};

use super::context::{Context, PacketTracing};
use super::effect::Effect;
use super::lane::{Slot, WaitingPacket, WaitingPublish};
use super::link::Link;
use super::step::{Passage, Step};
use crate::meter::{PacketDetail, PacketFate, PacketTrace, TracedConnect, TracedRefusal};
use crate::peer::Side;
use crate::policy::Source;
use crate::record::DecisionOutcome;
use crate::token::token_in;

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
            Step::Take(_, Passage::Nowhere) => match self.fate_of_swallowed(from, effects) {
                // It waits for its answer, and for the broker.
                PacketFate::Dropped if header.kind == PacketType::Connect => PacketFate::Deferred,
                fate => fate,
            },
            Step::Keep { packet, .. } if packet.holds() => PacketFate::Deferred,
            // It leaves at once, which is traced.
            Step::Keep { .. } if link.direction(from).lane.is_empty() => return,
            Step::Keep { .. } => PacketFate::Queued,
        };
        self.trace(link, from, header, data, TracedTopics::default(), fate);
    }

    fn fate_of_swallowed(&self, from: Side, effects: usize) -> PacketFate {
        let answered = |effect: &Effect| matches!(effect, Effect::Send { to, .. } if *to == from);
        if self.effects.behind(effects).any(answered) { PacketFate::Answered } else { PacketFate::Dropped }
    }

    /// A packet has left its lane, or was not let through.
    pub(super) fn trace_leaving(&self, link: &Link, from: Side, leaving: &Leaving) {
        let Leaving { bytes, topic, effects } = leaving;
        let version = link.terms.version;
        let parse = |bytes: &[u8]| FixedHeader::parse(bytes, super::sender(from), Some(version));
        let Ok(Some(header)) = parse(bytes) else { return };
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
        let changed = sent.filter(|_| fate == PacketFate::Changed && header.kind == PacketType::Publish);
        let sent = changed.and_then(|sent| {
            let head = PublishHead::parse(&parse(sent).ok().flatten()?, sent, super::sender(from), version);
            head.ok().flatten().map(|head| head.topic).filter(|topic| !topic.is_empty())
        });
        self.trace(link, from, &header, bytes, TracedTopics { meant: topic.as_deref(), sent }, fate);
    }

    /// What was decided of the packet that is being dealt with: its trace will say so.
    pub(super) fn trace_refusal(&self, outcome: &DecisionOutcome<'_>) {
        let (source, reason) = match outcome {
            DecisionOutcome::Refused(refusal) => (refusal.ground.source(), refusal.reason),
            DecisionOutcome::Undecided(undecided) => (Some(undecided.source()), undecided.reason()),
            DecisionOutcome::Ended { .. } | DecisionOutcome::Allowed { .. } => return,
        };
        // Where nobody has said who, nobody decided.
        self.tracing.set(PacketTracing::Refused(source.unwrap_or(Source::Unknown), reason));
    }

    fn trace(
        &self,
        link: &Link,
        from: Side,
        header: &FixedHeader,
        data: &[u8],
        topics: TracedTopics<'_>,
        fate: PacketFate,
    ) {
        let version = link.terms.version;
        // Of one that streams no more than its beginning is here.
        let data = data.get(..header.total()).unwrap_or(data);
        let head = match header.kind {
            PacketType::Publish => {
                PublishHead::parse(header, data, super::sender(from), version).ok().flatten()
            }
            _ => None,
        };
        let own_topic = head.as_ref().map(|head| head.topic).filter(|topic| !topic.is_empty());
        let alias = head.as_ref().and_then(|head| head.alias);
        let known = || alias.and_then(|alias| link.direction(from).alias_topic(alias));
        let aliased = if topics.meant.is_none() && own_topic.is_none() { known() } else { None };
        let topic = topics.meant.or(own_topic).or(aliased.as_deref());
        let refusal = match self.tracing.replace(PacketTracing::On) {
            PacketTracing::Refused(source, reason) => Some(TracedRefusal { source, reason }),
            PacketTracing::Off | PacketTracing::On => None,
        };
        self.setting.meter.packet(&PacketTrace {
            peer: &link.peer,
            from,
            kind: header.kind,
            id: head.as_ref().map_or_else(|| packet_id(header, data), |head| head.packet_id),
            topic,
            sent_topic: topics.sent.filter(|sent| Some(*sent) != topic),
            detail: match &head {
                Some(head) => publish_detail(head, data),
                None => detail(header, data, from, version),
            },
            size: header.total(),
            fate,
            refusal,
        });
    }
}

/// What a PUBLISH is about, where its own bytes do not say it.
#[derive(Clone, Copy, Default)]
struct TracedTopics<'a> {
    /// What its alias stands for.
    meant: Option<&'a str>,
    /// With which topic it was sent on, where it was written anew.
    sent: Option<&'a str>,
}

fn publish_detail<'a>(head: &PublishHead<'_>, data: &'a [u8]) -> PacketDetail<'a> {
    PacketDetail::Publish {
        dup: head.dup,
        qos: head.qos,
        retain: head.retain,
        payload: data.get(head.len..).unwrap_or_default(),
        payload_size: head.payload_len,
    }
}

/// What is in a packet that is no PUBLISH. What is secret in it goes no further than this.
fn detail<'a>(header: &FixedHeader, data: &'a [u8], from: Side, version: Version) -> PacketDetail<'a> {
    match Packet::parse(&Frame { header: *header, bytes: data }, super::sender(from), version) {
        Ok(Packet::Connect(connect)) => PacketDetail::Connect(TracedConnect {
            version: connect.version,
            client_id: connect.client_id,
            username: connect.username.filter(|name| token_in(name).is_none()),
            clean_start: connect.clean_start,
            keep_alive: connect.keep_alive,
            will_topic: connect.will.map(|will| will.topic),
        }),
        Ok(Packet::Connack(connack)) => {
            PacketDetail::Connack { session_present: connack.session_present, reason: connack.reason }
        }
        Ok(Packet::Subscribe(subscribe)) => PacketDetail::Subscribe(subscribe),
        Ok(Packet::Unsubscribe(unsubscribe)) => PacketDetail::Unsubscribe(unsubscribe),
        Ok(Packet::Suback(suback)) => PacketDetail::Codes(suback.codes),
        Ok(Packet::Unsuback(unsuback)) => PacketDetail::Codes(unsuback.codes),
        Ok(Packet::Ack(ack)) => PacketDetail::Reason(ack.reason),
        Ok(Packet::Disconnect(disconnect)) => PacketDetail::Reason(disconnect.reason),
        Ok(Packet::Auth(auth)) => PacketDetail::Reason(auth.reason),
        Ok(Packet::Publish(_) | Packet::Pingreq | Packet::Pingresp) | Err(_) => PacketDetail::None,
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
