//! Packets that wait while another grant comes into force: what was decided of them, or is being decided, is decided anew
//! where it may come out otherwise now.

use bytes::Bytes;
use mproxy_codec::packet::{FilterRequest, PublishLayout, SubscribeLayout};
use smallvec::SmallVec;

use super::context::Context;
use super::effect::Effect;
use super::judged::judged_message;
use super::lane::{SlotState, WaitingPacket, WaitingPublish};
use super::link::Link;
use super::question::OpenQuestion;
use crate::budget::QUESTION;
use crate::chain::Ruled;
use crate::grant::GrantAnswer;
use crate::peer::Side;
use crate::policy::{
    Decision, Hook, Payload, PublishDecision, Ruling, Source, SubscribeDecision, SubscribeQuestion, Want,
};
use crate::rule::{Act, AskedFilter, Message, Who};

impl Link {
    /// Has all packets of that side judged again that wait for their turn or their verdict. Answers to questions that are
    /// out about them do not count any more: they get other places, and are asked about anew.
    pub(super) fn judge_waiting_again(&mut self, cx: &mut Context, from: Side) {
        if self.direction(from).lane.is_empty() {
            return;
        }
        for mut slot in self.direction_mut(from).lane.take() {
            match &mut slot.packet {
                WaitingPacket::Publish(publish) => {
                    slot.charge = self.judge_publish_again(cx, from, &slot.bytes, publish);
                }
                WaitingPacket::Subscribe(state, layout) => {
                    slot.charge = self.judge_subscribe_again(cx, &slot.bytes, state, layout);
                }
                WaitingPacket::Other(_) | WaitingPacket::Refused { .. } => {}
            }
            self.direction_mut(from).lane.push(slot);
        }
    }

    /// What an open question about it takes of the budget.
    fn judge_publish_again(
        &self,
        cx: &mut Context,
        from: Side,
        bytes: &Bytes,
        publish: &mut WaitingPublish,
    ) -> u32 {
        let WaitingPublish { state, layout, topic: alias_topic, streams } = publish;
        let Some(head) = PublishLayout::find(layout, bytes) else { return 0 };
        let topic = alias_topic.as_deref().unwrap_or(head.topic);
        let is_answer = match state {
            SlotState::Again | SlotState::OverBudget | SlotState::OverRate | SlotState::OverLimit(_) => {
                return 0;
            }
            SlotState::Ruled(ruling) => matches!(ruling.source, Source::Rpc | Source::Cache),
            SlotState::Go | SlotState::Hold(_) => false,
        };
        if from == Side::Broker && !self.is_explained(cx, judged_message(cx, topic, &head)) {
            cx.setting.meter.revoked_deliveries(1);
            *state = SlotState::Ruled(Box::new(self.revoked_ruling()));
            return 0;
        }
        let known = self.policy_topic(from, topic);
        let message = judged_message(cx, known.as_deref().unwrap_or(topic), &head);
        // What the service itself has answered stands where the new grant leaves it to the service (ADR 0022).
        if is_answer && self.grant_leaves_to_others(from, message) {
            return 0;
        }
        let want = self.want(cx, from);
        let payload = match want {
            Want::Payload(most) if !*streams && head.payload_len <= most as usize => {
                Payload::Whole(&bytes[head.len..])
            }
            Want::Nothing | Want::Head | Want::Payload(_) => Payload::Size(head.payload_len as u32),
        };
        let edition = cx.setting.advisers.edition();
        match self.ask_publish(cx, from, want, &head, topic, payload) {
            Ruled::Later(pending) => {
                // The place that it is about to get: the lane was emptied, and fills anew.
                let seq = self.direction(from).lane.next();
                cx.effects.push(Effect::Ask(OpenQuestion::publish(from, seq, pending)));
                *state = SlotState::Hold(edition);
                (QUESTION + bytes.len()) as u32
            }
            Ruled::Now(ruling) => {
                *state = judged(ruling, state);
                0
            }
        }
    }

    fn grant_leaves_to_others(&self, from: Side, message: Message<'_>) -> bool {
        let act = if from == Side::Client { Act::Publish } else { Act::Receive };
        self.grant().is_none_or(|grant| {
            (from == Side::Broker && !grant.receives())
                || grant.message(act, Who::from(&*self.peer), message) == GrantAnswer::Ask
        })
    }

    fn judge_subscribe_again(
        &self,
        cx: &mut Context,
        bytes: &Bytes,
        state: &mut SlotState<SubscribeDecision>,
        layout: &SubscribeLayout,
    ) -> u32 {
        let Some(subscribe) = layout.find(bytes) else { return 0 };
        let filters: SmallVec<[FilterRequest<'_>; 8]> = subscribe.filters().collect();
        match state {
            SlotState::Again | SlotState::OverBudget | SlotState::OverRate | SlotState::OverLimit(_) => {
                return 0;
            }
            // An answer about all of them, to which rules have nothing to add.
            SlotState::Ruled(ruling)
                if ruling.source == Source::Rpc
                    && filters.iter().all(|one| {
                        let time = cx.setting.clock.time();
                        let asked = AskedFilter { filter: one.filter.as_str(), qos: Some(one.qos), time };
                        cx.setting.advisers.filter(&self.peer, asked) == GrantAnswer::Ask
                    }) =>
            {
                return 0;
            }
            SlotState::Ruled(_) | SlotState::Go | SlotState::Hold(_) => {}
        }
        if self.want_of(cx, Hook::Subscribe) == Want::Nothing {
            *state = SlotState::Go;
            return 0;
        }
        let question =
            SubscribeQuestion::new(&self.peer, &filters, subscribe.properties).at(cx.setting.clock.time());
        let edition = cx.setting.advisers.edition();
        match cx.setting.advisers.subscribe(&question) {
            Ruled::Later(pending) => {
                let question = OpenQuestion::subscribe(self.up.lane.next(), pending);
                cx.effects.push(Effect::Ask(question));
                *state = SlotState::Hold(edition);
                (QUESTION + bytes.len()) as u32
            }
            Ruled::Now(ruling) => {
                *state = SlotState::Ruled(Box::new(ruling));
                0
            }
        }
    }
}

/// What follows from a ruling at once. One that was counted when it came, as it allowed the packet, is not counted again.
fn judged(
    ruling: Ruling<PublishDecision>,
    before: &SlotState<PublishDecision>,
) -> SlotState<PublishDecision> {
    match (&ruling, before) {
        (Ruling { verdict: Ok(Decision::Allow(None)), .. }, SlotState::Go) => SlotState::Go,
        (Ruling { source: Source::Unasked, verdict: Ok(Decision::Allow(None)), .. }, _) => SlotState::Go,
        _ => SlotState::Ruled(Box::new(ruling)),
    }
}
