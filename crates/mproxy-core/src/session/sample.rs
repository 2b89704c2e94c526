//! What a session tells the decision log of what is allowed: those decisions that are sampled.

use std::sync::Arc;

use super::cached_answers::{about_filter, about_publish};
use super::context::Context;
use super::link::Link;
use crate::peer::Side;
use crate::policy::{Foreseen, ForeseenDecision, Ground, Hook, Source, Supposed};
use crate::record::{DecisionOutcome, DecisionSubject};
use crate::rule::Act;

/// Something that was allowed.
pub(super) struct AllowedDecision<'a> {
    pub(super) hook: Hook,
    pub(super) subject: DecisionSubject<'a>,
    /// Bytes of the payload, if there is one.
    pub(super) payload: usize,
    pub(super) source: Source,
    /// The endpoint of the policy service that answered this question.
    pub(super) endpoint: Option<&'a Arc<str>>,
    pub(super) changed: bool,
}

impl Link {
    /// Tells the decision log of something that was allowed, if it is one of those that are sampled.
    #[inline]
    pub(super) fn sample<'a>(&self, cx: &Context, allowed: impl FnOnce() -> AllowedDecision<'a>) {
        if cx.setting.meter.samples_allowed() && cx.setting.meter.picks_allowed() {
            self.record_allowed(cx, &allowed());
        }
    }

    #[cold]
    fn record_allowed(&self, cx: &Context, allowed: &AllowedDecision<'_>) {
        let ground = &self.allowing_ground(cx, allowed);
        let AllowedDecision { hook, subject, endpoint, changed, .. } = *allowed;
        // Of what else than the answer to this question it came about has nothing to do with who answered.
        let endpoint = endpoint.filter(|_| matches!(ground, Ground::Source(Source::Rpc)));
        self.record(cx, subject, DecisionOutcome::Allowed { hook, ground, endpoint, changed });
    }

    /// By what it was allowed. A yes carries nothing but its source, so that it costs nothing: rules are looked at once more.
    fn allowing_ground(&self, cx: &Context, allowed: &AllowedDecision<'_>) -> Ground {
        let source = Ground::Source(allowed.source);
        let Some((supposed, from, about)) = self.suppose(cx, allowed) else { return source };
        match allowed.source {
            Source::Cache => {
                let cache = self.direction(from).cache.as_deref();
                let answers = cache.and_then(|cache| cache.answers_of(cx.setting.advisers.edition()));
                let answer = answers.and_then(|answers| answers.allowed_by(about, supposed.name.as_bytes()));
                answer.map_or(source, |answer| Ground::Cache(Arc::clone(answer)))
            }
            // Nothing but an answer to this very message.
            Source::Rpc if matches!(allowed.subject, DecisionSubject::Message { .. }) => source,
            Source::Acl | Source::Grant | Source::Rpc => match cx.setting.advisers.explain(&supposed).outcome
            {
                Foreseen::Decides(ForeseenDecision { verdict: Ok(_), ground }) => ground,
                // Of the filters of one SUBSCRIBE rules may have decided some, and the service the others.
                Foreseen::Asks(_) if allowed.endpoint.is_some() => Ground::Source(Source::Rpc),
                // The rules are others by now.
                Foreseen::Decides(_) | Foreseen::Asks(_) | Foreseen::Passes(..) => source,
            },
            _ => source,
        }
    }

    /// What was allowed as something that the client might do, the side that it came from, and what an answer about it is
    /// kept under.
    fn suppose<'a>(
        &'a self,
        cx: &Context,
        allowed: &AllowedDecision<'a>,
    ) -> Option<(Supposed<'a>, Side, u8)> {
        let (peer, payload, time) = (&self.peer, allowed.payload, cx.setting.clock.time());
        match allowed.subject {
            DecisionSubject::Message { hook, topic: name, qos, retain } => {
                let (act, from) = match hook {
                    Hook::Deliver => (Act::Receive, Side::Broker),
                    _ => (Act::Publish, Side::Client),
                };
                let supposed = Supposed { peer, act, name, qos, retain, payload, time };
                Some((supposed, from, about_publish(qos, retain)))
            }
            DecisionSubject::Filter { filter: name, qos, .. } => {
                let supposed =
                    Supposed { peer, act: Act::Subscribe, name, qos, retain: false, payload: 0, time };
                Some((supposed, Side::Client, about_filter(qos)))
            }
            DecisionSubject::Connection { .. } | DecisionSubject::Packet(_) => None,
        }
    }
}
