//! PUBLISH, from either side: aliases resolved, decided, held or passed, rewritten or refused.
//!
//! The two directions differ in who is asked about (the client may publish; the client may be sent) and in how
//! strictly they are read; the rest is one story.

mod judge;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use mproxy_codec::frame::Header;
use mproxy_codec::packet::PublishLayout;
use mproxy_codec::packet::publish::PublishHead;
use mproxy_codec::property::Properties;
use mproxy_codec::reason::ReasonCode;
use mproxy_codec::types::{PacketType, QoS};

use self::judge::Outgoing;
use super::effect::Effect;
use super::lane::{Slot, State, Waiting, WaitingPublish};
use super::question::OpenQuestion;
use super::resolve::{self, Refused, resolve};
use super::{Fate, Session, Step};
use crate::budget::{QUESTION, RESERVE, Room, WAITING};
use crate::chain::Ruled;
use crate::event::{Event, Happening, Kind, Published};
use crate::fault::Fault;
use crate::meter::Outcome;
use crate::peer::Side;
use crate::policy::{
    Decision, Hook, Payload, PublishChange, PublishDecision, PublishQuestion, Refusal, Ruling, Source, Want,
};
use crate::rule::BYTES;

/// How a PUBLISH stands in its lane.
struct Kept {
    state: State<PublishDecision>,
    topic: Option<Arc<str>>,
    charge: u32,
}

/// A PUBLISH larger than this does not wait for its last byte: its head is decided, then the payload streams.
/// Smaller ones are cheaper to complete, at the cost of copying at most this much per read.
const STREAM_OVER: usize = 16 << 10;

/// Payload bytes that one session keeps until the broker has acknowledged them, for events. Beyond, events go
/// without their payload.
const TOLD_BYTES: usize = 64 << 10;

impl Session {
    /// Judges the PUBLISH at the start of `data`, which may hold less than the whole packet.
    pub(super) fn publish_step(&mut self, from: Side, header: &Header, data: &[u8]) -> Result<Step, Fault> {
        let total = header.total();
        let here = data.len().min(total);
        if here < total && total <= STREAM_OVER {
            return Ok(Step::Wait);
        }
        if from == Side::Broker && self.lane(from).is_empty() && !self.reads_deliveries() {
            return Ok(self.pass(from, here, total));
        }
        let data = &data[..here];
        let head = PublishHead::parse(header, data, super::sender(from), self.terms.version)
            .map_err(|error| Fault::Malformed { side: from, error })?;
        let Some(head) = head else {
            let needs = PublishHead::needs(header, data, self.terms.version);
            return self.wait_for_head(from, here, needs);
        };
        let alias_topic = self.resolve(from, &head)?;
        let topic = alias_topic.as_deref().unwrap_or(head.topic);
        let streams = here < total;
        if from == Side::Client && head.dup && head.qos == QoS::ExactlyOnce && self.answered_before(&head) {
            let kept = Kept { state: State::Again, topic: None, charge: 0 };
            return Ok(self.keep(from, header, &head, here, kept));
        }

        let want = self.want(from);
        if want == Want::Nothing && head.alias.is_none() && !self.terms.mapped && self.nobody_cares(from) {
            // What follows would come to the same; this is the packet that floods are made of.
            if let (Side::Client, Some(id)) = (from, head.packet_id) {
                self.in_flight.went(head.qos, id);
            }
            return Ok(self.pass(from, here, total));
        }
        let waits = if streams { head.len } else { total };
        if from == Side::Client && self.too_many_user_properties(head.properties) {
            return self.over_budget(from, header, &head, here, alias_topic);
        }
        // An alias is three bytes that stand for a whole topic: what is asked, told and compared is the topic.
        let spelt = alias_topic.as_deref().map_or(0, str::len);
        let asked = if want == Want::Nothing { 0 } else { QUESTION + waits + spelt };
        if asked > 0 || !self.lane(from).is_empty() {
            match self.room_for(from, PacketType::Publish, waits + WAITING + asked) {
                Room::Yes => {}
                Room::Wait => return Ok(Step::Wait),
                Room::Never => return self.over_budget(from, header, &head, here, alias_topic),
            }
        }
        let limits = &self.setting.limits;
        let payload = match want {
            Want::Payload(most)
                if head.payload_len <= most as usize && total <= limits.max_held_packet as usize =>
            {
                if streams {
                    self.needs(from, total);
                    return match self.room_for(from, PacketType::Publish, total) {
                        Room::Yes | Room::Wait => Ok(Step::Wait),
                        Room::Never => self.over_budget(from, header, &head, here, alias_topic),
                    };
                }
                Payload::Whole(&data[head.len..])
            }
            Want::Nothing | Want::Head | Want::Payload(_) => Payload::Size(head.payload_len as u32),
        };
        // Before the question: rules that are replaced in between make what is learnt from the answer obsolete.
        let edition = self.setting.advisers.edition();
        let mut charge = 0;
        let state = match self.ask_publish(from, want, &head, topic, payload) {
            Ruled::Later(pending) => {
                let question = OpenQuestion::publish(from, self.lane(from).next(), pending);
                self.effects.push(Effect::Ask(question));
                charge = asked as u32;
                State::Hold
            }
            Ruled::Now(Ruling { source, verdict: Ok(Decision::Allow(None)) }) => {
                if want != Want::Nothing {
                    self.setting.meter.decisions(hook(from), source, Outcome::Allowed, 1);
                    if source.stands() && head.alias.is_none() {
                        self.remember(from, edition, header, topic, source);
                    }
                }
                State::Go
            }
            Ruled::Now(ruling) => State::Ruled(Box::new(ruling)),
        };

        self.spend(spelt / BYTES);
        if want != Want::Nothing {
            self.worked(hook(from), 1, topic.len());
        }
        if let (Side::Client, Some(id)) = (from, head.packet_id) {
            self.in_flight.came(head.qos, id);
        }
        if matches!(state, State::Go) && self.lane(from).is_empty() && self.receiver_knows(from, &head, topic)
        {
            let told = self.told(from, &head, topic, (!streams).then(|| &data[head.len..]), None);
            self.publish_leaves(from, &head, (!head.topic.is_empty()).then_some(head.topic), told, streams);
            return Ok(self.pass(from, here, total));
        }
        Ok(self.keep(from, header, &head, here, Kept { state, topic: alias_topic, charge }))
    }

    /// A PUBLISH that is more than mproxy may hold for its connection. It is refused in its place where there are words for
    /// that: 5.0 has PUBACK and PUBREC with 0x97; what is delivered is acknowledged and dropped. Else the session ends.
    fn over_budget(
        &mut self,
        from: Side,
        header: &Header,
        head: &PublishHead<'_>,
        here: usize,
        topic: Option<Arc<str>>,
    ) -> Result<Step, Fault> {
        let answered = head.qos != QoS::AtMostOnce && self.terms.version.is_v5();
        if from == Side::Client && !answered {
            return Err(Fault::OverBudget { packet: PacketType::Publish });
        }
        if let (Side::Client, Some(id)) = (from, head.packet_id) {
            self.in_flight.came(head.qos, id);
        }
        Ok(self.keep(from, header, head, here, Kept { state: State::OverBudget, topic, charge: 0 }))
    }

    /// Whether a set of properties holds more user properties than a packet may have.
    pub(super) fn too_many_user_properties(&self, properties: Properties<'_>) -> bool {
        let most = self.setting.limits.max_user_properties;
        properties.raw().len() > most
            && properties.user().map(|(name, value)| 5 + name.len() + value.len()).sum::<usize>() > most
    }

    /// Whether a PUBLISH that nobody decides about leaves no trace: none waits before it, nobody is told, nothing is
    /// remembered.
    fn nobody_cares(&self, from: Side) -> bool {
        self.lane(from).is_empty()
            && self.ledger.is_none()
            && (from == Side::Broker || self.setting.sink.want(Kind::Publish) == Want::Nothing)
    }

    /// Into the lane with it; where it streams, with its head only.
    fn keep(&mut self, from: Side, header: &Header, head: &PublishHead<'_>, here: usize, kept: Kept) -> Step {
        let Kept { state, topic, charge } = kept;
        let (total, layout) = (header.total(), PublishLayout::of(header, head));
        let streams = here < total;
        let take = if streams { head.len } else { total };
        if streams {
            self.direction(from).body = super::Body { left: (total - take) as u32, fate: Fate::Waiting };
        }
        let packet = Waiting::Publish(WaitingPublish { state, layout, topic, streams });
        Step::Keep(take, Slot { bytes: Bytes::new(), packet, charge })
    }

    /// Carries out what was decided of a PUBLISH whose turn has come.
    pub(super) fn publish_released(
        &mut self,
        from: Side,
        bytes: Bytes,
        publish: WaitingPublish,
        now: Instant,
    ) {
        let WaitingPublish { state, layout, topic: alias_topic, streams } = publish;
        let (Some(head), Some(peer)) = (layout.find(&bytes), self.peer()) else {
            return self.end(Fault::Internal { what: "a PUBLISH that waits is not what it was" }, now);
        };
        let topic = alias_topic.as_deref().unwrap_or(head.topic);
        let formed = match state {
            State::Go => match self.carry_out(from, &head, topic, None) {
                Ok(form) => Ok(form.into_inner()),
                // Only a topic that has to be taught anew, or under a prefix, gets here. It cannot go as it came.
                Err(unfit) => Err(resolve::refused(&self.setting, peer, hook(from), unfit)),
            },
            // The lane lets none go whose verdict is out.
            State::Hold => Err(Refused::with(ReasonCode::NOT_AUTHORIZED)),
            State::Ruled(ruling) => {
                let resolved = resolve(&self.setting, peer, hook(from), *ruling, |change| {
                    self.carry_out(from, &head, topic, change)
                });
                resolved.count(&self.setting, hook(from));
                resolved.what.form()
            }
            State::OverBudget => {
                self.count_over_budget(hook(from), 1);
                Err(Refused::with(ReasonCode::QUOTA_EXCEEDED))
            }
            State::Again => {
                self.skip_body(from, streams);
                self.acknowledge(from, &head, ReasonCode::SUCCESS, None);
                return;
            }
        };
        let Outgoing { change, head: out } = match formed {
            Ok(outgoing) => outgoing,
            Err(refused) => {
                self.skip_body(from, streams);
                self.refuse_publish(from, &head, refused, now);
                return;
            }
        };

        let sent_topic = self.outgoing(from, topic, change.as_deref());
        let new_payload = change.as_ref().and_then(|change| change.payload.clone());
        let payload = match &new_payload {
            Some(payload) => Some(&payload[..]),
            None if streams => None,
            None => Some(&bytes[head.len..]),
        };
        let told = self.told(from, &head, &sent_topic, payload, change.as_deref());
        self.publish_leaves(
            from,
            &head,
            (out.is_some() || !head.topic.is_empty()).then_some(&*sent_topic),
            told,
            streams && new_payload.is_none(),
        );
        let to = from.other();
        match out {
            None => self.send(to, bytes),
            Some(out) => {
                self.send(to, out.freeze());
                self.send(to, new_payload.clone().unwrap_or_else(|| bytes.slice(head.len..)));
            }
        }
        if new_payload.is_some() {
            self.skip_body(from, streams);
        } else if streams {
            self.direction(from).body.fate = Fate::Pass;
        }
    }

    /// The payload that was to follow a head that has left its lane follows nothing.
    fn skip_body(&mut self, from: Side, streams: bool) {
        if streams {
            self.direction(from).body.fate = Fate::Skip;
        }
    }

    /// Bookkeeping of a PUBLISH at the moment it leaves, with this topic in it if with one. `streams`: its payload follows.
    fn publish_leaves(
        &mut self,
        from: Side,
        head: &PublishHead<'_>,
        topic: Option<&str>,
        told: Option<Box<Published>>,
        streams: bool,
    ) {
        if let (Some(alias), Some(topic)) = (head.alias, topic) {
            let most = self.setting.limits.alias_bytes;
            self.direction(from).aliases().teach(alias, topic, most);
        }
        let Some(id) = head.packet_id else {
            match told {
                // Nobody acknowledges it; but until it is whole the broker has nothing.
                Some(told) if streams => self.cold().streaming = Some(told),
                Some(told) => self.report(Happening::Publish(told)),
                None => {}
            }
            return;
        };
        if from == Side::Client {
            self.in_flight.went(head.qos, id);
        }
        let mapped = self.terms.mapped && from == Side::Broker;
        if self.want(from) != Want::Nothing || mapped || told.is_some() || self.ledger.is_some() {
            self.ledger().expect(from, acknowledgement(head.qos), id, told);
        }
    }

    /// The last byte of a streamed payload goes on.
    pub(super) fn streamed(&mut self, from: Side) {
        if from == Side::Client
            && let Some(told) = self.cold.as_mut().and_then(|cold| cold.streaming.take())
        {
            self.report(Happening::Publish(told));
        }
    }

    /// What to tell of a PUBLISH that leaves.
    fn told(
        &self,
        from: Side,
        head: &PublishHead<'_>,
        topic: &str,
        payload: Option<&[u8]>,
        change: Option<&PublishChange>,
    ) -> Option<Box<Published>> {
        if from == Side::Broker {
            return None;
        }
        let most = match self.setting.sink.want(Kind::Publish) {
            Want::Nothing => return None,
            Want::Head => 0,
            Want::Payload(most) => most as usize,
        };
        let kept = self.ledger.as_ref().map_or(0, |ledger| ledger.kept());
        let size = change.and_then(|change| change.payload.as_ref()).map_or(head.payload_len, Bytes::len);
        let payload = payload
            .filter(|payload| payload.len() <= most && most > 0 && kept + payload.len() <= TOLD_BYTES)
            .map(Bytes::copy_from_slice);
        Some(Box::new(Published {
            topic: topic.into(),
            qos: head.qos,
            retain: change.and_then(|change| change.retain).unwrap_or(head.retain),
            size: size as u64,
            payload,
        }))
    }

    /// The real topic where the packet's own is an alias; keeps the sender's table.
    fn resolve(&mut self, from: Side, head: &PublishHead<'_>) -> Result<Option<Arc<str>>, Fault> {
        let Some(alias) = head.alias else { return Ok(None) };
        let fault = |what, rule, reason| Fault::Protocol {
            side: from,
            packet: PacketType::Publish,
            what,
            rule,
            reason,
        };
        if alias > self.terms.aliases_to(from.other()) {
            return Err(fault(
                "topic alias over the receiver's Topic Alias Maximum",
                if from == Side::Client { "MQTT-3.3.2-9" } else { "MQTT-3.3.2-11" },
                ReasonCode::TOPIC_ALIAS_INVALID,
            ));
        }
        let most = self.setting.limits.alias_bytes;
        let aliases = self.direction(from).aliases();
        if head.topic.is_empty() {
            return match aliases.meant(alias) {
                Some(topic) => Ok(Some(topic)),
                None => Err(fault(
                    "topic alias that was never introduced",
                    "MQTT-3.3.2-8",
                    ReasonCode::PROTOCOL_ERROR,
                )),
            };
        }
        aliases.mean(alias, head.topic);
        if aliases.bytes() > most {
            return Err(fault("topic aliases hold too much", "3.3.2.3.4", ReasonCode::QUOTA_EXCEEDED));
        }
        Ok(None)
    }

    /// Whether the packet means to its receiver, as it is, what it is to mean.
    fn receiver_knows(&self, from: Side, head: &PublishHead<'_>, topic: &str) -> bool {
        let leaves = self.outgoing(from, topic, None);
        if self.outgoing_response(from, head).is_some() {
            return false;
        }
        match head.alias {
            Some(alias) if head.topic.is_empty() => {
                self.direction_ref(from).aliases.as_ref().is_some_and(|aliases| aliases.knows(alias, &leaves))
            }
            Some(_) | None => leaves == topic,
        }
    }

    /// The rules would say the same again.
    fn remember(&mut self, from: Side, edition: u64, header: &Header, topic: &str, source: Source) {
        let standing = self.direction(from).standing.get_or_insert_default();
        standing.keep_to(edition);
        standing.learn(PacketType::Publish.first_byte() | header.flags, topic, source);
    }

    /// The head is not whole. It is looked at again when enough of it is there to say more, and read on only while there
    /// is room for it.
    fn wait_for_head(&mut self, from: Side, here: usize, needs: usize) -> Result<Step, Fault> {
        if here < self.setting.limits.max_held_packet as usize {
            self.needs(from, needs);
            if needs > RESERVE && self.room_for(from, PacketType::Publish, needs) == Room::Never {
                return Err(Fault::OverBudget { packet: PacketType::Publish });
            }
            return Ok(Step::Wait);
        }
        Err(Fault::Protocol {
            side: from,
            packet: PacketType::Publish,
            what: "properties larger than this proxy holds",
            rule: "MQTT-3.1.2-24",
            reason: ReasonCode::PACKET_TOO_LARGE,
        })
    }

    fn ask_publish(
        &self,
        from: Side,
        want: Want,
        head: &PublishHead<'_>,
        topic: &str,
        payload: Payload<'_>,
    ) -> Ruled<PublishDecision> {
        let Some(topic) = self.policys_topic(from, topic) else {
            return Ruled::Now(Ruling::refused(Source::Grant, Refusal::default()));
        };
        // Nobody is at the client's side before CONNECT, and nothing of nobody's is allowed.
        let Some(peer) = self.peer() else {
            return Ruled::Now(Ruling::refused(Source::Unknown, Refusal::default()));
        };
        if want == Want::Nothing {
            return Ruled::Now(Ruling::allowed(Source::Unasked));
        }
        let question = PublishQuestion {
            peer,
            topic,
            qos: head.qos,
            retain: head.retain,
            dup: head.dup,
            payload,
            properties: head.properties,
        };
        match from {
            Side::Client => self.setting.advisers.publish(&question),
            Side::Broker => self.setting.advisers.deliver(&question),
        }
    }

    /// What the advisers want to know of publishes from this side.
    pub(super) fn want(&self, from: Side) -> Want {
        self.want_of(hook(from))
    }

    /// What the advisers want to know of this client.
    pub(super) fn want_of(&self, hook: Hook) -> Want {
        match self.peer() {
            Some(peer) => self.setting.advisers.want_of(hook, peer),
            None => Want::Head,
        }
    }

    /// Whether deliveries have to be looked into at all.
    pub(super) fn reads_deliveries(&self) -> bool {
        // Aliases are followed from the start: rules for deliveries may come later.
        self.terms.client_aliases > 0 || self.terms.mapped || self.want(Side::Broker) != Want::Nothing
    }

    pub(super) fn report(&mut self, what: Happening) {
        if let Some(peer) = self.peer().cloned() {
            let mut event = Event { peer, what, purse: None };
            event.purse = self.purse_for(event.weight());
            self.effects.push(Effect::Report(event));
        }
    }
}

/// The packet that first acknowledges a publish of this QoS.
pub(super) const fn acknowledgement(qos: QoS) -> PacketType {
    match qos {
        QoS::AtMostOnce | QoS::AtLeastOnce => PacketType::Puback,
        QoS::ExactlyOnce => PacketType::Pubrec,
    }
}

/// The hook that decides about publishes from this side.
pub(super) const fn hook(from: Side) -> Hook {
    match from {
        Side::Client => Hook::Publish,
        Side::Broker => Hook::Deliver,
    }
}
