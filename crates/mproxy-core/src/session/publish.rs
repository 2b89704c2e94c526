//! PUBLISH, from either side: aliases resolved, decided, held or passed, rewritten or refused.
//!
//! The two directions differ in who is asked about (the client may publish; the client may be sent) and in how
//! strictly they are read; the rest is one story.

mod outgoing;
mod refuse;
mod release;

use std::sync::Arc;

use mproxy_codec::frame::FixedHeader;
use mproxy_codec::packet::PublishLayout;
use mproxy_codec::packet::publish::PublishHead;
use mproxy_codec::reason::ReasonCode;
use mproxy_codec::types::{PacketType, QoS};

use super::context::Context;
use super::direction::{Follows, StreamedBody};
use super::effect::Effect;
use super::holding::Holder;
use super::judged::judged_message;
use super::lane::{SlotState, WaitingPacket, WaitingPublish};
use super::link::Link;
use super::question::OpenQuestion;
use super::rates::RateOf;
use super::sample::AllowedDecision;
use super::step::Step;
use crate::budget::{QUESTION, RESERVE, Room, WAITING};
use crate::chain::Ruled;
use crate::event::Kind;
use crate::fault::Fault;
use crate::meter::Outcome;
use crate::peer::Side;
use crate::policy::{
    Decided as _, Decision, Foreseen, ForeseenDecision, Hook, Payload, PublishDecision, PublishQuestion,
    Ruling, Source, Supposed, Want,
};
use crate::record::DecisionSubject;
use crate::rule::{Act, BYTES};

/// A PUBLISH whose head is here.
struct IncomingPublish<'a> {
    from: Side,
    header: &'a FixedHeader,
    head: PublishHead<'a>,
    /// As much of the packet as is here.
    data: &'a [u8],
    /// The real topic, where the packet's own is an alias.
    alias_topic: Option<Arc<str>>,
}

impl<'a> IncomingPublish<'a> {
    fn topic(&self) -> &str {
        self.alias_topic.as_deref().unwrap_or(self.head.topic)
    }

    /// Whether it is decided before its last byte is here.
    const fn streams(&self) -> bool {
        self.data.len() < self.header.total()
    }

    /// As much of the payload as is here.
    fn payload(&self) -> &'a [u8] {
        &self.data[self.head.len..]
    }

    /// How much of it waits for a verdict.
    const fn waits(&self) -> usize {
        if self.streams() { self.head.len } else { self.header.total() }
    }

    fn alias_len(&self) -> usize {
        self.alias_topic.as_deref().map_or(0, str::len)
    }

    /// What a question about it takes. An alias is three bytes that stand for a whole topic: what is asked, told and compared
    /// is the topic.
    fn question_len(&self) -> usize {
        QUESTION + self.waits() + self.alias_len()
    }
}

/// A PUBLISH larger than this does not wait for its last byte: its head is decided, then the payload streams.
/// Smaller ones are cheaper to complete, at the cost of copying at most this much per read.
const STREAM_OVER: usize = 16 << 10;

impl Link {
    /// Judges the PUBLISH at the start of `data`, which may hold less than the whole packet.
    pub(super) fn publish_step(
        &mut self,
        cx: &mut Context,
        from: Side,
        header: &FixedHeader,
        data: &[u8],
    ) -> Result<Step, Fault> {
        let total = header.total();
        let here = data.len().min(total);
        // Small and not whole: it comes again when the rest is there.
        if here < total && total <= STREAM_OVER {
            return Ok(Step::Wait);
        }
        if from == Side::Broker && self.direction(from).lane.is_empty() && !self.reads_deliveries(cx) {
            return Ok(self.direction_mut(from).pass(here, total));
        }
        let data = &data[..here];
        let head = match PublishHead::parse(header, data, crate::session::sender(from), self.terms.version) {
            Ok(Some(head)) => head,
            Ok(None) => {
                let needs = PublishHead::needs(header, data, self.terms.version);
                return self.wait_for_head(cx, from, here, needs);
            }
            Err(error) => return Err(Fault::Malformed { side: from, error }),
        };
        // Before anything else is decided: the sender's table must follow each packet, refused ones included.
        let alias_topic = self.real_topic(cx, from, &head)?;
        if from == Side::Client && self.draining && head.packet_id.is_some() {
            // No exchange begins any more. It stands before packets that others need for their end, a PUBREL for example, so it
            // is taken and goes nowhere: not acknowledged, it is the client's to send again [MQTT-4.4.0-1].
            return Ok(self.direction_mut(from).skip(here, total));
        }
        let publish = IncomingPublish { from, header, head, data, alias_topic };
        if let Some(state) = self.settled_unasked(cx, &publish) {
            return Ok(self.keep(publish, state, 0));
        }
        let want = self.want_for(cx, &publish);
        if want == Want::Nothing && self.leaves_no_trace(cx, &publish) {
            // What follows would come to the same; this is the packet that floods are made of.
            if let (Side::Client, Some(id)) = (from, publish.head.packet_id) {
                self.up.in_flight.add_forwarded(publish.head.qos, id);
            }
            return Ok(self.direction_mut(from).pass(here, total));
        }
        if from == Side::Client && cx.too_many_user_properties(publish.head.properties) {
            return self.over_budget(publish);
        }
        let known = match want {
            Want::Nothing => None,
            Want::Head | Want::Payload(_) => self.cached_publish(cx, from, &publish.head, publish.topic()),
        };
        // What is known already needs no question, and no payload.
        let (wanted, asked) = match (want, &known) {
            (Want::Nothing, _) => (want, 0),
            (_, Some(_)) => (Want::Head, 0),
            (_, None) => (want, publish.question_len()),
        };
        let payload = match self.room_to_decide(cx, &publish, wanted, asked) {
            Ok(payload) => payload,
            Err(Room::Never) => return self.over_budget(publish),
            // The packet stays in the buffer and comes again whole: nothing of this look at it has been remembered.
            Err(Room::Yes | Room::Wait) => return Ok(Step::Wait),
        };
        let (state, charge) = match known {
            Some(known) => (self.reuse(cx, &publish, known), 0),
            None => self.decide_publish(cx, &publish, want, payload, asked),
        };
        if let (Side::Client, Some(id)) = (from, publish.head.packet_id) {
            self.up.in_flight.add(publish.head.qos, id);
        }
        if matches!(state, SlotState::Go)
            && self.direction(from).lane.is_empty()
            && self.receiver_knows(from, &publish.head, publish.topic())
        {
            self.record_untouched(cx, &publish);
            return Ok(self.direction_mut(from).pass(here, total));
        }
        Ok(self.keep(publish, state, charge))
    }

    /// What becomes of a PUBLISH about which nobody is asked, whoever decides.
    #[inline]
    fn settled_unasked(
        &mut self,
        cx: &mut Context,
        publish: &IncomingPublish<'_>,
    ) -> Option<SlotState<PublishDecision>> {
        // Nobody is asked again: another answer to the same message would make one flow of two minds.
        if self.answered_before(publish) {
            return Some(SlotState::Again);
        }
        if publish.from == Side::Broker
            && self.explains_deliveries()
            && !self.is_explained(cx, judged_message(cx, publish.topic(), &publish.head))
        {
            cx.setting.meter.revoked_deliveries(1);
            return Some(SlotState::Ruled(Box::new(self.revoked_ruling())));
        }
        if publish.from == Side::Broker {
            return None;
        }
        let exceeded = cx.setting.limits.topic.exceeded(publish.topic().as_bytes());
        let over = exceeded.map(SlotState::OverLimit).or_else(|| {
            Some(match self.over_rate()? {
                RateOf::Grant => SlotState::OverRate,
                RateOf::All(kind) => SlotState::OverLimit(kind),
            })
        });
        if let (Some(_), Some(id)) = (&over, publish.head.packet_id) {
            self.up.in_flight.add(publish.head.qos, id);
        }
        over
    }

    /// Whether mproxy has answered this PUBLISH itself, and it is sent again.
    fn answered_before(&self, publish: &IncomingPublish<'_>) -> bool {
        let head = &publish.head;
        publish.from == Side::Client
            && head.dup
            && head.qos == QoS::ExactlyOnce
            && head.packet_id.is_some_and(|id| self.up.answers_itself(id))
    }

    /// Whether a PUBLISH that nobody decides about goes through as it is and leaves no trace: none waits before it, nobody
    /// is told, nothing is remembered.
    fn leaves_no_trace(&self, cx: &Context, publish: &IncomingPublish<'_>) -> bool {
        publish.head.alias.is_none()
            && !self.terms.mapped
            && self.direction(publish.from).lane.is_empty()
            && self.direction(publish.from).known_flows().is_none()
            && (publish.from == Side::Broker || cx.setting.sink.want(Kind::Publish) == Want::Nothing)
    }

    /// What advisers are asked with: the head alone where rules refuse a PUBLISH of this size, so that no payload is waited
    /// for, and held, that nobody will look at.
    fn want_for(&self, cx: &mut Context, publish: &IncomingPublish<'_>) -> Want {
        let (from, head) = (publish.from, &publish.head);
        let want = self.want(cx, from);
        let waits = matches!(want, Want::Payload(most) if head.payload_len <= most as usize);
        if from == Side::Broker || !waits || !publish.streams() {
            return want;
        }
        self.charge_work(cx, hook(from), 1, publish.topic().len());
        let supposed = Supposed {
            peer: &self.peer,
            act: Act::Publish,
            name: publish.topic(),
            qos: head.qos,
            retain: head.retain,
            payload: head.payload_len,
            time: cx.setting.clock.time(),
        };
        match cx.setting.advisers.explain(&supposed).outcome {
            Foreseen::Decides(ForeseenDecision { verdict: Err(_), .. }) => Want::Head,
            Foreseen::Decides(_) | Foreseen::Asks(_) | Foreseen::Passes(..) => want,
        }
    }

    /// Room for the packet, and for the question about it with as much of the payload as advisers want.
    ///
    /// # Errors
    /// [`Room::Wait`] until there is room, or the whole payload is here; [`Room::Never`] if there will be none.
    fn room_to_decide<'a>(
        &self,
        cx: &mut Context,
        publish: &IncomingPublish<'a>,
        want: Want,
        asked: usize,
    ) -> Result<Payload<'a>, Room> {
        let (from, total, head) = (publish.from, publish.header.total(), &publish.head);
        let find_room = |cx: &mut Context, len| {
            cx.account.room_for(&cx.setting.budget, self.weight(), from, PacketType::Publish, len)
        };
        if asked > 0 || !self.direction(from).lane.is_empty() {
            match find_room(cx, publish.waits() + WAITING + asked) {
                Room::Yes => {}
                none @ (Room::Wait | Room::Never) => return Err(none),
            }
        }
        let most = cx.setting.limits.max_held_packet as usize;
        match want {
            Want::Payload(wanted) if head.payload_len <= wanted as usize && total <= most => {
                if !publish.streams() {
                    return Ok(Payload::Whole(publish.payload()));
                }
                cx.account.needs(&cx.setting.budget, Holder::client(&self.peer), from, total);
                match find_room(cx, total) {
                    Room::Yes | Room::Wait => Err(Room::Wait),
                    Room::Never => Err(Room::Never),
                }
            }
            Want::Nothing | Want::Head | Want::Payload(_) => Ok(Payload::Size(head.payload_len as u32)),
        }
    }

    /// Has the advisers decide: what is known of it now, and what an open question about it takes of the budget.
    fn decide_publish(
        &mut self,
        cx: &mut Context,
        publish: &IncomingPublish<'_>,
        want: Want,
        payload: Payload<'_>,
        asked: usize,
    ) -> (SlotState<PublishDecision>, u32) {
        let (from, topic) = (publish.from, publish.topic());
        // Before the question: rules that are replaced in between make what is learnt from the answer obsolete.
        let edition = cx.setting.advisers.edition();
        let mut charge = 0;
        let state = match self.ask_publish(cx, from, want, &publish.head, topic, payload) {
            Ruled::Later(pending) => {
                let question = OpenQuestion::publish(from, self.direction(from).lane.next(), pending);
                cx.effects.push(Effect::Ask(question));
                charge = asked as u32;
                SlotState::Hold(edition)
            }
            Ruled::Now(Ruling { source, verdict: Ok(Decision::Allow(None)), endpoint }) => {
                if want != Want::Nothing {
                    cx.setting.meter.decisions(hook(from), source, Outcome::Allowed, 1);
                    self.sample_publish(cx, from, &publish.head, topic, (source, endpoint.as_ref(), false));
                    // Keyed by the bytes of the topic, which one with an alias may not have.
                    if source.stands() && publish.head.alias.is_none() && !self.varies(cx, from, topic) {
                        self.remember(edition, publish, topic, source);
                    }
                }
                SlotState::Go
            }
            Ruled::Now(ruling) => SlotState::Ruled(Box::new(ruling)),
        };
        cx.spend(publish.alias_len() / BYTES);
        // Its response topic is mapped, too.
        cx.spend(self.mapping_work(1, topic.len() + publish.head.len));
        if want != Want::Nothing {
            self.charge_work(cx, hook(from), 1, topic.len());
        }
        (state, charge)
    }

    /// What follows from an answer that was given before.
    fn reuse(
        &self,
        cx: &Context,
        publish: &IncomingPublish<'_>,
        known: PublishDecision,
    ) -> SlotState<PublishDecision> {
        match known {
            Decision::Allow(None) => {
                let source = Source::Cache;
                cx.setting.meter.decisions(hook(publish.from), source, Outcome::Allowed, 1);
                let topic = publish.topic();
                self.sample_publish(cx, publish.from, &publish.head, topic, (source, None, false));
                SlotState::Go
            }
            mut known => {
                known.for_each_refusal(|refusal| {
                    refusal.ground = std::mem::take(&mut refusal.ground).cached()
                });
                SlotState::Ruled(Box::new(Ruling::new(Source::Cache, Ok(known))))
            }
        }
    }

    /// Tells the decision log of a PUBLISH that was allowed by this source and endpoint, with changes or as it is, if it is
    /// one of those that are sampled.
    #[inline]
    fn sample_publish(
        &self,
        cx: &Context,
        from: Side,
        head: &PublishHead<'_>,
        topic: &str,
        (source, endpoint, changed): (Source, Option<&Arc<str>>, bool),
    ) {
        // A mapped one is a text of its own, which is made for those only that are told.
        let known = if cx.setting.meter.samples_allowed() { self.policy_topic(from, topic) } else { None };
        self.sample(cx, || {
            let (hook, topic) = (hook(from), known.as_deref().unwrap_or(topic));
            let subject = DecisionSubject::Message { hook, topic, qos: head.qos, retain: head.retain };
            AllowedDecision { hook, subject, payload: head.payload_len, source, endpoint, changed }
        });
    }

    /// Keeps the books on a PUBLISH that goes through as it came.
    fn record_untouched(&mut self, cx: &mut Context, publish: &IncomingPublish<'_>) {
        let (from, head) = (publish.from, &publish.head);
        let payload = (!publish.streams()).then(|| publish.payload());
        let event = self.published_event(cx, from, head, publish.topic(), payload, None);
        let topic = (!head.topic.is_empty()).then_some(head.topic);
        self.record_publish(cx, from, head, topic, event, publish.streams());
    }

    /// A PUBLISH that is more than mproxy may hold for its connection. It is refused in its place where there are words for
    /// that: 5.0 has PUBACK and PUBREC with 0x97; what is delivered is acknowledged and dropped. Else the session ends.
    fn over_budget(&mut self, publish: IncomingPublish<'_>) -> Result<Step, Fault> {
        let head = &publish.head;
        let answered = head.qos != QoS::AtMostOnce && self.terms.version.is_v5();
        if publish.from == Side::Client && !answered {
            return Err(Fault::OverBudget { packet: PacketType::Publish });
        }
        if let (Side::Client, Some(id)) = (publish.from, head.packet_id) {
            self.up.in_flight.add(head.qos, id);
        }
        Ok(self.keep(publish, SlotState::OverBudget, 0))
    }

    /// Into the lane with it; where it streams, with its head only.
    fn keep(&mut self, publish: IncomingPublish<'_>, state: SlotState<PublishDecision>, charge: u32) -> Step {
        let (take, streams) = (publish.waits(), publish.streams());
        let layout = PublishLayout::of(publish.header, &publish.head);
        if streams {
            self.direction_mut(publish.from).body =
                StreamedBody { left: (publish.header.total() - take) as u32, follows: Follows::Verdict };
        }
        let packet =
            WaitingPacket::Publish(WaitingPublish { state, layout, topic: publish.alias_topic, streams });
        Step::Keep { bytes: take, packet, charge }
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
        // What a client teaches us is held as long as it is connected, so it has a bound.
        let most = cx.setting.limits.alias_bytes;
        let aliases = self.direction_mut(from).aliases();
        if head.topic.is_empty() {
            return match aliases.sender_topic(alias) {
                Some(topic) => Ok(Some(topic)),
                None => Err(fault(
                    "topic alias that was never introduced",
                    "MQTT-3.3.2-8",
                    ReasonCode::PROTOCOL_ERROR,
                )),
            };
        }
        aliases.set_sender_topic(alias, head.topic);
        if aliases.bytes() > most {
            return Err(fault("topic aliases hold too much", "3.3.2.3.4", ReasonCode::QUOTA_EXCEEDED));
        }
        Ok(None)
    }

    /// Whether the packet means to its receiver, as it is, what it is to mean.
    fn receiver_knows(&self, from: Side, head: &PublishHead<'_>, topic: &str) -> bool {
        if !self.terms.mapped && head.alias.is_none() {
            return true;
        }
        // What has no place there does not leave; that is seen to where its form is made.
        let Some(leaves) = self.outgoing_topic(from, topic, None) else { return false };
        if !matches!(self.outgoing_response(from, head), Ok(None)) {
            return false;
        }
        match head.alias {
            Some(alias) if head.topic.is_empty() => self.direction(from).receiver_knows(alias, &leaves),
            Some(_) | None => leaves == topic,
        }
    }

    /// The rules would say the same again.
    fn remember(&mut self, edition: u64, publish: &IncomingPublish<'_>, topic: &str, source: Source) {
        let IncomingPublish { from, header, head, .. } = publish;
        let cache = self.direction_mut(*from).cache.get_or_insert_default();
        cache.sync_edition(edition);
        cache.learn(PacketType::Publish.first_byte() | header.flags, topic, head.payload_len, source);
    }

    /// Whether rules may say something else the next time of a PUBLISH from this side on the same topic.
    pub(super) fn varies(&self, cx: &Context, from: Side, topic: &str) -> bool {
        let act = match from {
            Side::Client => Act::Publish,
            Side::Broker => Act::Receive,
        };
        let known = self.policy_topic(from, topic);
        cx.setting.advisers.varies(act, known.as_deref().unwrap_or(topic), &self.peer)
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
            what: "properties larger than mproxy accepts",
            rule: "MQTT-3.1.2-24",
            reason: ReasonCode::PACKET_TOO_LARGE,
        })
    }

    pub(super) fn ask_publish(
        &self,
        cx: &Context,
        from: Side,
        want: Want,
        head: &PublishHead<'_>,
        topic: &str,
        payload: Payload<'_>,
    ) -> Ruled<PublishDecision> {
        // A delivery from outside of the prefix: of an older session, and none of this client's. Or a topic that stands for
        // another one at the other side.
        if let Err(refusal) = self.check_place(from, topic) {
            return Ruled::Now(Ruling::refuse(Source::Grant, refusal));
        }
        let known = self.policy_topic(from, topic);
        let topic = known.as_deref().unwrap_or(topic);
        if want == Want::Nothing {
            return Ruled::Now(Ruling::allow(Source::Unasked));
        }
        let question = PublishQuestion {
            peer: &self.peer,
            topic,
            qos: head.qos,
            retain: head.retain,
            dup: head.dup,
            payload,
            properties: head.properties,
            time: cx.setting.clock.time(),
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
        self.terms.client_aliases > 0
            || self.terms.mapped
            || self.explains_deliveries()
            || self.want(cx, Side::Broker) != Want::Nothing
    }
}

/// The hook that decides about publishes from this side.
pub(super) const fn hook(from: Side) -> Hook {
    match from {
        Side::Client => Hook::Publish,
        Side::Broker => Hook::Deliver,
    }
}
