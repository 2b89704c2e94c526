//! Answers of the policy service that take the place of a question.

use std::time::Instant;

use mproxy_codec::packet::{FilterRequest, PublishHead, Subscribe};

use super::cached_answers::{CachedAnswers, CachedVerdict, about_filter, about_publish};
use super::context::Context;
use super::link::Link;
use crate::peer::Side;
use crate::policy::{PublishDecision, Ruling, Source, SubscribeDecision};

impl Link {
    /// Forgets the answers about packets of that side that have had their time.
    #[inline]
    pub(super) fn expire_answers(&mut self, from: Side, now: Instant) {
        if let Some(cache) = &mut self.direction_mut(from).cache {
            cache.expire(now);
        }
    }

    /// The answers about packets of that side that may be used again, if there are any.
    fn cached_answers(&mut self, cx: &Context, from: Side) -> Option<&CachedAnswers> {
        let cache = self.direction_mut(from).cache.as_mut().filter(|cache| cache.has_answers())?;
        cache.sync_edition(cx.setting.advisers.edition());
        Some(cache.answers())
    }

    /// What was answered before to this question.
    pub(super) fn cached_publish(
        &mut self,
        cx: &Context,
        from: Side,
        head: &PublishHead<'_>,
        topic: &str,
    ) -> Option<PublishDecision> {
        let answers = self.cached_answers(cx, from)?;
        match answers.find(about_publish(head.qos, head.retain), topic.as_bytes())? {
            CachedVerdict::Publish(decision) => Some(decision.clone()),
            CachedVerdict::Filter(_) => None,
        }
    }

    /// The same for a SUBSCRIBE: for all of its filters, or nothing.
    pub(super) fn cached_filters(
        &mut self,
        cx: &Context,
        subscribe: &Subscribe<'_>,
    ) -> Option<Ruling<SubscribeDecision>> {
        let answers = self.cached_answers(cx, Side::Client)?;
        let known = |one: FilterRequest<'_>| match answers
            .find(about_filter(one.qos), one.filter.as_str().as_bytes())?
        {
            CachedVerdict::Filter(decision) => {
                let mut decision = decision.clone();
                if let Some(refusal) = decision.refusal_mut() {
                    refusal.ground = std::mem::take(&mut refusal.ground).cached();
                }
                Some(decision)
            }
            CachedVerdict::Publish(_) => None,
        };
        let each = subscribe.filters().map(known).collect::<Option<Vec<_>>>()?;
        Some(Ruling::new(Source::Cache, Ok(SubscribeDecision::Each(each))))
    }
}
