//! An answer of the policy service has come that may be used again: it is kept.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mproxy_codec::packet::FilterRequest;
use smallvec::SmallVec;

use super::cached_answers::{CachedAnswer, CachedVerdict, MOST, about_filter, about_publish};
use super::context::Context;
use super::lane::{Slot, WaitingPacket};
use super::link::Link;
use crate::budget::shared_room;
use crate::peer::Side;
use crate::policy::{
    Action, Decision, FilterChange, PublishDecision, Refusal, Ruling, ServiceAnswer, SubscribeDecision,
};
use crate::rule::Act;

/// The part of what a connection may hold that they may take: one in so many.
const PART: usize = 16;

/// Takes out of an answer how long it may be used again. `None`: not at all.
fn take_time(decision: &mut PublishDecision) -> Option<Duration> {
    let time = match decision {
        Decision::Allow(None) => None,
        Decision::Allow(Some(change)) => {
            // A payload or a property is of this packet; the next one under the same key has others (ADR 0025).
            let same_for_all = change.payload.is_none()
                && change.set_user_properties.is_empty()
                && change.remove_user_properties.is_empty();
            change.cache_for.take().filter(|_| same_for_all)
        }
        Decision::Refuse(refusal) => take_refusal_time(refusal),
    };
    if let Decision::Allow(change) = decision {
        change.take_if(|change| change.is_empty());
    }
    time
}

fn take_refusal_time(refusal: &mut Refusal) -> Option<Duration> {
    refusal.cache_for.take().filter(|_| refusal.action != Action::Disconnect)
}

fn service_answer(endpoint: &Arc<str>, at: Instant) -> Arc<ServiceAnswer> {
    Arc::new(ServiceAnswer { endpoint: Arc::clone(endpoint), at })
}

fn take_filter_time(decision: &mut Decision<FilterChange>) -> Option<Duration> {
    match decision {
        Decision::Allow(change) => change.cache_for.take(),
        Decision::Refuse(refusal) => take_refusal_time(refusal),
    }
}

impl Link {
    /// An answer about the PUBLISH in this place has come. It is kept, if it says so and can be carried out.
    pub(super) fn learn_publish(
        &mut self,
        cx: &Context,
        from: Side,
        seq: u32,
        ruling: &mut Ruling<PublishDecision>,
        now: Instant,
    ) {
        let Ok(decision) = &mut ruling.verdict else { return };
        let Some(until) = take_time(decision).and_then(|time| now.checked_add(time)) else { return };
        let edition = cx.setting.advisers.edition();
        let Some(Slot { bytes, packet: WaitingPacket::Publish(publish), .. }) =
            self.direction(from).lane.asked_under(seq, edition)
        else {
            return;
        };
        let Some(head) = publish.layout.find(bytes) else { return };
        let topic = publish.topic.as_deref().unwrap_or(head.topic);
        // What cannot be carried out is refused in its turn, and must not be refused again from memory.
        if let Decision::Allow(Some(change)) = decision
            && !self.can_carry_out(cx, from, &head, topic, change)
        {
            return;
        }
        // Rules that come before the service may say no to the next one.
        if self.varies(cx, from, topic) {
            return;
        }
        let (about, name) = (about_publish(head.qos, head.retain), topic.into());
        let answer = ruling.endpoint.as_ref().filter(|_| matches!(decision, Decision::Allow(_)));
        let answer = answer.map(|endpoint| service_answer(endpoint, now));
        let verdict = CachedVerdict::Publish(decision.clone());
        self.learn(cx, from, edition, CachedAnswer { about, name, until, verdict, answer });
    }

    /// The same for a SUBSCRIBE, filter by filter.
    pub(super) fn learn_filters(
        &mut self,
        cx: &Context,
        seq: u32,
        ruling: &mut Ruling<SubscribeDecision>,
        now: Instant,
    ) {
        let each = match &mut ruling.verdict {
            Ok(SubscribeDecision::Each(each) | SubscribeDecision::InPart(each, _)) => each,
            Ok(SubscribeDecision::All(Decision::Refuse(refusal))) => {
                // Nobody says it of a whole SUBSCRIBE.
                refusal.cache_for = None;
                return;
            }
            Ok(SubscribeDecision::All(Decision::Allow(()))) | Err(_) => return,
        };
        let times: SmallVec<[Option<Duration>; 8]> = each.iter_mut().map(take_filter_time).collect();
        if times.iter().all(Option::is_none) {
            return;
        }
        let edition = cx.setting.advisers.edition();
        let Some(Slot { bytes, packet: WaitingPacket::Subscribe(_, layout), .. }) =
            self.up.lane.asked_under(seq, edition)
        else {
            return;
        };
        // The other way round would be a borrow of what is changed.
        let bytes = bytes.clone();
        let Some(subscribe) = layout.find(&bytes) else { return };
        let requests: SmallVec<[FilterRequest<'_>; 8]> = subscribe.filters().collect();
        if requests.len() != each.len()
            || self.check_filters(cx, &subscribe, &requests, each.clone()).is_err()
        {
            return;
        }
        // One for all of them.
        let answer = ruling.endpoint.as_ref().map(|endpoint| service_answer(endpoint, now));
        for ((request, decision), time) in requests.iter().zip(each.iter()).zip(times) {
            let Some(until) = time.and_then(|time| now.checked_add(time)) else { continue };
            if cx.setting.advisers.varies(Act::Subscribe, request.filter.as_str(), &self.peer) {
                continue;
            }
            let (about, name) = (about_filter(request.qos), request.filter.as_str().into());
            let verdict = CachedVerdict::Filter(decision.clone());
            let answer = answer.clone().filter(|_| matches!(decision, Decision::Allow(_)));
            self.learn(cx, Side::Client, edition, CachedAnswer { about, name, until, verdict, answer });
        }
    }

    fn learn(&mut self, cx: &Context, from: Side, edition: u64, answer: CachedAnswer) {
        let budget = &cx.setting.budget;
        // Nobody else waits for room because of what may be asked again.
        if !shared_room(budget, MOST) {
            return;
        }
        let cache = self.direction_mut(from).cache.get_or_insert_default();
        cache.sync_edition(edition);
        cache.answers().learn(answer, MOST.min(budget.connection() / PART));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::PublishChange;

    const HOUR: Option<Duration> = Some(Duration::from_secs(3600));

    #[test]
    fn what_changes_payload_or_properties_and_what_ends_the_session_is_not_used_again() {
        let allow = |change: PublishChange| Decision::Allow(Some(Box::new(change)));
        let plain = || PublishChange { cache_for: HOUR, ..PublishChange::default() };
        let mut decision = allow(plain());
        assert_eq!((take_time(&mut decision), decision), (HOUR, Decision::Allow(None)));
        let moved = PublishChange { topic: Some("b".into()), retain: Some(true), ..plain() };
        assert_eq!(take_time(&mut allow(moved)), HOUR);
        for change in [
            PublishChange { payload: Some("x".into()), ..plain() },
            PublishChange { set_user_properties: vec![("k".into(), "v".into())], ..plain() },
            PublishChange { remove_user_properties: vec!["k".into()], ..plain() },
        ] {
            assert_eq!(take_time(&mut allow(change)), None);
        }
        for action in [Action::Reject, Action::Drop, Action::NoAck, Action::Disconnect] {
            let mut refusal = Refusal { action, cache_for: HOUR, ..Refusal::default() };
            let kept = (action != Action::Disconnect).then_some(HOUR).flatten();
            assert_eq!((take_refusal_time(&mut refusal), refusal.cache_for), (kept, None), "{action:?}");
        }
    }
}
