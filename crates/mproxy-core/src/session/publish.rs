//! PUBLISH, from either side: aliases resolved, decided, held or passed, rewritten or refused.
//!
//! The two directions differ in who is asked about (the client may publish; the client may be sent) and in how
//! strictly they are read; the rest is one story.

mod outgoing;
mod refuse;

use std::sync::Arc;

use bytes::Bytes;
use mproxy_codec::frame::Header;
use mproxy_codec::packet::PublishLayout;
use mproxy_codec::packet::publish::PublishHead;
use mproxy_codec::reason::ReasonCode;
use mproxy_codec::types::{PacketType, QoS};

use self::outgoing::Outgoing;
use super::acknowledge::acknowledgement;
use super::context::Context;
use super::direction::{Body, Follows};
use super::effect::Effect;
use super::holding::Holder;
use super::lane::{Slot, State, Waiting, WaitingPublish};
use super::link::Link;
use super::question::OpenQuestion;
use super::resolve::{self, Refused, resolve};
use super::step::{Step, Stop};
use crate::budget::{QUESTION, RESERVE, Room, WAITING};
use crate::chain::Ruled;
use crate::event::{Happening, Kind, Published};
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

impl Link {
    /// Judges the PUBLISH at the start of `data`, which may hold less than the whole packet.
    pub(super) fn publish_step(
        &mut self,
        cx: &mut Context,
        from: Side,
        header: &Header,
        data: &[u8],
    ) -> Result<Step, Fault> {
        let total = header.total();
        let here = data.len().min(total);
        if here < total && total <= STREAM_OVER {
            return Ok(Step::Wait);
        }
        if from == Side::Broker && self.direction(from).lane.is_empty() && !self.reads_deliveries(cx) {
            return Ok(self.direction_mut(from).pass(here, total));
        }
        let data = &data[..here];
        let head = PublishHead::parse(header, data, crate::session::sender(from), self.terms.version)
            .map_err(|error| Fault::Malformed { side: from, error })?;
        let Some(head) = head else {
            let needs = PublishHead::needs(header, data, self.terms.version);
            return self.wait_for_head(cx, from, here, needs);
        };
        let alias_topic = self.real_topic(cx, from, &head)?;
        let topic = alias_topic.as_deref().unwrap_or(head.topic);
        let streams = here < total;
        if from == Side::Client
            && head.dup
            && head.qos == QoS::ExactlyOnce
            && head.packet_id.is_some_and(|id| self.up.answers_itself(id))
        {
            let kept = Kept { state: State::Again, topic: None, charge: 0 };
            return Ok(self.keep(from, header, &head, here, kept));
        }

        let want = self.want(cx, from);
        if want == Want::Nothing && head.alias.is_none() && !self.terms.mapped && self.nobody_cares(cx, from)
        {
            // What follows would come to the same; this is the packet that floods are made of.
            if let (Side::Client, Some(id)) = (from, head.packet_id) {
                self.up.in_flight.went(head.qos, id);
            }
            return Ok(self.direction_mut(from).pass(here, total));
        }
        let waits = if streams { head.len } else { total };
        if from == Side::Client && cx.too_many_user_properties(head.properties) {
            return self.over_budget(from, header, &head, here, alias_topic);
        }
        // An alias is three bytes that stand for a whole topic: what is asked, told and compared is the topic.
        let spelt = alias_topic.as_deref().map_or(0, str::len);
        let asked = if want == Want::Nothing { 0 } else { QUESTION + waits + spelt };
        if asked > 0 || !self.direction(from).lane.is_empty() {
            match cx.account.room_for(
                &cx.setting.budget,
                self.weight(),
                from,
                PacketType::Publish,
                waits + WAITING + asked,
            ) {
                Room::Yes => {}
                Room::Wait => return Ok(Step::Wait),
                Room::Never => return self.over_budget(from, header, &head, here, alias_topic),
            }
        }
        let limits = &cx.setting.limits;
        let payload = match want {
            Want::Payload(most)
                if head.payload_len <= most as usize && total <= limits.max_held_packet as usize =>
            {
                if streams {
                    cx.account.needs(&cx.setting.budget, Holder::client(&self.peer), from, total);
                    return match cx.account.room_for(
                        &cx.setting.budget,
                        self.weight(),
                        from,
                        PacketType::Publish,
                        total,
                    ) {
                        Room::Yes | Room::Wait => Ok(Step::Wait),
                        Room::Never => self.over_budget(from, header, &head, here, alias_topic),
                    };
                }
                Payload::Whole(&data[head.len..])
            }
            Want::Nothing | Want::Head | Want::Payload(_) => Payload::Size(head.payload_len as u32),
        };
        // Before the question: rules that are replaced in between make what is learnt from the answer obsolete.
        let edition = cx.setting.advisers.edition();
        let mut charge = 0;
        let state = match self.ask_publish(cx, from, want, &head, topic, payload) {
            Ruled::Later(pending) => {
                let question = OpenQuestion::publish(from, self.direction(from).lane.next(), pending);
                cx.effects.push(Effect::Ask(question));
                charge = asked as u32;
                State::Hold
            }
            Ruled::Now(Ruling { source, verdict: Ok(Decision::Allow(None)) }) => {
                if want != Want::Nothing {
                    cx.setting.meter.decisions(hook(from), source, Outcome::Allowed, 1);
                    if source.stands() && head.alias.is_none() {
                        self.remember(from, edition, header, topic, source);
                    }
                }
                State::Go
            }
            Ruled::Now(ruling) => State::Ruled(Box::new(ruling)),
        };

        cx.spend(spelt / BYTES);
        if want != Want::Nothing {
            self.worked(cx, hook(from), 1, topic.len());
        }
        if let (Side::Client, Some(id)) = (from, head.packet_id) {
            self.up.in_flight.came(head.qos, id);
        }
        if matches!(state, State::Go)
            && self.direction(from).lane.is_empty()
            && self.receiver_knows(from, &head, topic)
        {
            let told =
                self.published_event(cx, from, &head, topic, (!streams).then(|| &data[head.len..]), None);
            self.publish_leaves(
                cx,
                from,
                &head,
                (!head.topic.is_empty()).then_some(head.topic),
                told,
                streams,
            );
            return Ok(self.direction_mut(from).pass(here, total));
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
            self.up.in_flight.came(head.qos, id);
        }
        Ok(self.keep(from, header, head, here, Kept { state: State::OverBudget, topic, charge: 0 }))
    }

    /// Whether a PUBLISH that nobody decides about leaves no trace: none waits before it, nobody is told, nothing is
    /// remembered.
    fn nobody_cares(&self, cx: &Context, from: Side) -> bool {
        self.direction(from).lane.is_empty()
            && self.direction(from).known_flows().is_none()
            && (from == Side::Broker || cx.setting.sink.want(Kind::Publish) == Want::Nothing)
    }

    /// Into the lane with it; where it streams, with its head only.
    fn keep(&mut self, from: Side, header: &Header, head: &PublishHead<'_>, here: usize, kept: Kept) -> Step {
        let Kept { state, topic, charge } = kept;
        let (total, layout) = (header.total(), PublishLayout::of(header, head));
        let streams = here < total;
        let take = if streams { head.len } else { total };
        if streams {
            self.direction_mut(from).body = Body { left: (total - take) as u32, follows: Follows::Verdict };
        }
        let packet = Waiting::Publish(WaitingPublish { state, layout, topic, streams });
        Step::Keep(take, Slot { bytes: Bytes::new(), packet, charge })
    }

    /// Carries out what was decided of a PUBLISH whose turn has come.
    ///
    /// # Errors
    /// That ends the session.
    pub(super) fn publish_released(
        &mut self,
        cx: &mut Context,
        from: Side,
        bytes: Bytes,
        publish: WaitingPublish,
    ) -> Result<(), Stop> {
        let WaitingPublish { state, layout, topic: alias_topic, streams } = publish;
        let Some(head) = layout.find(&bytes) else {
            return Err(Fault::Internal { what: "a PUBLISH that waits is not what it was" }.into());
        };
        let topic = alias_topic.as_deref().unwrap_or(head.topic);
        let formed = match state {
            State::Go => match self.carry_out(from, &head, topic, None) {
                Ok(form) => Ok(form.into_inner()),
                // Only a topic that has to be taught anew, or under a prefix, gets here. It cannot go as it came.
                Err(unfit) => Err(resolve::refused(&cx.setting, &self.peer, hook(from), unfit)),
            },
            // The lane lets none go whose verdict is out.
            State::Hold => Err(Refused::with(ReasonCode::NOT_AUTHORIZED)),
            State::Ruled(ruling) => {
                let resolved = resolve(&cx.setting, &self.peer, hook(from), *ruling, |change| {
                    self.carry_out(from, &head, topic, change)
                });
                resolved.count(&cx.setting, hook(from));
                resolved.what.form()
            }
            State::OverBudget => {
                cx.count_over_budget(hook(from), 1);
                Err(Refused::with(ReasonCode::QUOTA_EXCEEDED))
            }
            State::Again => {
                self.direction_mut(from).skip_body(streams);
                self.acknowledge(cx, from, &head, ReasonCode::SUCCESS, None);
                return Ok(());
            }
        };
        let Outgoing { change, head: out } = match formed {
            Ok(outgoing) => outgoing,
            Err(refused) => {
                self.direction_mut(from).skip_body(streams);
                return self.refuse_publish(cx, from, &head, refused);
            }
        };

        let sent_topic = self.outgoing(from, topic, change.as_deref());
        let new_payload = change.as_ref().and_then(|change| change.payload.clone());
        let payload = match &new_payload {
            Some(payload) => Some(&payload[..]),
            None if streams => None,
            None => Some(&bytes[head.len..]),
        };
        let told = self.published_event(cx, from, &head, &sent_topic, payload, change.as_deref());
        self.publish_leaves(
            cx,
            from,
            &head,
            (out.is_some() || !head.topic.is_empty()).then_some(&*sent_topic),
            told,
            streams && new_payload.is_none(),
        );
        let to = from.other();
        match out {
            None => self.send(cx, to, bytes),
            Some(out) => {
                self.send(cx, to, out.freeze());
                self.send(cx, to, new_payload.clone().unwrap_or_else(|| bytes.slice(head.len..)));
            }
        }
        if new_payload.is_some() {
            self.direction_mut(from).skip_body(streams);
        } else if streams {
            self.direction_mut(from).body.follows = Follows::Head;
        }
        Ok(())
    }

    /// Bookkeeping of a PUBLISH at the moment it leaves, with this topic in it if with one. `streams`: its payload follows.
    fn publish_leaves(
        &mut self,
        cx: &mut Context,
        from: Side,
        head: &PublishHead<'_>,
        topic: Option<&str>,
        told: Option<Box<Published>>,
        streams: bool,
    ) {
        if let (Some(alias), Some(topic)) = (head.alias, topic) {
            let most = cx.setting.limits.alias_bytes;
            self.direction_mut(from).aliases().teach(alias, topic, most);
        }
        let Some(id) = head.packet_id else {
            match told {
                // Nobody acknowledges it; but until it is whole the broker has nothing.
                Some(told) if streams => self.rare().streaming = Some(told),
                Some(told) => self.report(cx, Happening::Publish(told)),
                None => {}
            }
            return;
        };
        if from == Side::Client {
            self.up.in_flight.went(head.qos, id);
        }
        let mapped = self.terms.mapped && from == Side::Broker;
        if self.want(cx, from) != Want::Nothing
            || mapped
            || told.is_some()
            || self.direction(from).known_flows().is_some()
        {
            self.direction_mut(from).flows().expect(acknowledgement(head.qos), id, told);
        }
    }

    /// The last byte of a streamed payload goes on.
    pub(super) fn streamed(&mut self, cx: &mut Context, from: Side) {
        if from == Side::Client
            && let Some(told) = self.rare.as_mut().and_then(|rare| rare.streaming.take())
        {
            self.report(cx, Happening::Publish(told));
        }
    }

    /// What to tell of a PUBLISH that leaves.
    fn published_event(
        &self,
        cx: &Context,
        from: Side,
        head: &PublishHead<'_>,
        topic: &str,
        payload: Option<&[u8]>,
        change: Option<&PublishChange>,
    ) -> Option<Box<Published>> {
        if from == Side::Broker {
            return None;
        }
        let most = match cx.setting.sink.want(Kind::Publish) {
            Want::Nothing => return None,
            Want::Head => 0,
            Want::Payload(most) => most as usize,
        };
        let kept = self.up.kept();
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
    fn real_topic(
        &mut self,
        cx: &mut Context,
        from: Side,
        head: &PublishHead<'_>,
    ) -> Result<Option<Arc<str>>, Fault> {
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
        let most = cx.setting.limits.alias_bytes;
        let aliases = self.direction_mut(from).aliases();
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
            Some(alias) if head.topic.is_empty() => self.direction(from).receiver_knows(alias, &leaves),
            Some(_) | None => leaves == topic,
        }
    }

    /// The rules would say the same again.
    fn remember(&mut self, from: Side, edition: u64, header: &Header, topic: &str, source: Source) {
        let cache = self.direction_mut(from).cache.get_or_insert_default();
        cache.keep_to(edition);
        cache.learn(PacketType::Publish.first_byte() | header.flags, topic, source);
    }

    /// The head is not whole. It is looked at again when enough of it is there to say more, and read on only while there
    /// is room for it.
    fn wait_for_head(
        &mut self,
        cx: &mut Context,
        from: Side,
        here: usize,
        needs: usize,
    ) -> Result<Step, Fault> {
        if here < cx.setting.limits.max_held_packet as usize {
            cx.account.needs(&cx.setting.budget, Holder::client(&self.peer), from, needs);
            if needs > RESERVE
                && cx.account.room_for(&cx.setting.budget, self.weight(), from, PacketType::Publish, needs)
                    == Room::Never
            {
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
        cx: &Context,
        from: Side,
        want: Want,
        head: &PublishHead<'_>,
        topic: &str,
        payload: Payload<'_>,
    ) -> Ruled<PublishDecision> {
        let Some(topic) = self.policys_topic(from, topic) else {
            return Ruled::Now(Ruling::refused(Source::Grant, Refusal::default()));
        };
        if want == Want::Nothing {
            return Ruled::Now(Ruling::allowed(Source::Unasked));
        }
        let question = PublishQuestion {
            peer: &self.peer,
            topic,
            qos: head.qos,
            retain: head.retain,
            dup: head.dup,
            payload,
            properties: head.properties,
        };
        match from {
            Side::Client => cx.setting.advisers.publish(&question),
            Side::Broker => cx.setting.advisers.deliver(&question),
        }
    }

    /// What the advisers want to know of publishes from this side.
    pub(super) fn want(&self, cx: &Context, from: Side) -> Want {
        self.want_of(cx, hook(from))
    }

    /// Whether deliveries have to be looked into at all.
    pub(super) fn reads_deliveries(&self, cx: &Context) -> bool {
        // Aliases are followed from the start: rules for deliveries may come later.
        self.terms.client_aliases > 0 || self.terms.mapped || self.want(cx, Side::Broker) != Want::Nothing
    }
}

/// The hook that decides about publishes from this side.
pub(super) const fn hook(from: Side) -> Hook {
    match from {
        Side::Client => Hook::Publish,
        Side::Broker => Hook::Deliver,
    }
}
