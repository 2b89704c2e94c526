//! What a session would do with something of its client's now, told from what it knows: nobody is asked, and nothing changes.

use std::time::Instant;

use mproxy_codec::reason::ReasonCode;
use mproxy_codec::types::QoS;

use super::Session;
use super::cached_answers::{CachedVerdict, about_filter, about_publish};
use super::context::Context;
use super::link::Link;
use crate::grant::GrantGround;
use crate::peer::Side;
use crate::policy::{
    Decision, Explanation, Foreseen, ForeseenDecision, Ground, OnError, Refusal, Source, Supposed, Undecided,
    Want,
};
use crate::rule::{Act, Message};

impl Session {
    /// Asked: what would be decided if the client did this now. `None`: the session has no client, or is over.
    ///
    /// Rates, budgets and sizes of packets and payloads are not looked at: they depend on what comes before.
    pub fn explain(
        &mut self,
        act: Act,
        name: &str,
        (qos, retain, payload): (QoS, bool, usize),
        now: Instant,
    ) -> Option<Explanation> {
        let link = self.state.link()?;
        let time = self.cx.setting.clock.time();
        let supposed = Supposed { peer: &link.peer, act, name, qos, retain, payload, time };
        // The work of looking is no client's.
        let work = self.cx.work;
        let explanation = link.explain(&mut self.cx, &supposed, now);
        self.cx.work = work;
        Some(explanation)
    }
}

/// The limit for all topics that it is over.
fn exceeded_limit(cx: &Context, supposed: &Supposed<'_>) -> Option<Explanation> {
    let limits = cx.setting.limits.topic;
    let (kind, reason) = match supposed.act {
        Act::Publish | Act::Will => {
            let kind = limits.exceeded(supposed.name.as_bytes())?;
            (kind, kind.reason())
        }
        Act::Subscribe => (limits.exceeded_by_filter(supposed.name)?, ReasonCode::TOPIC_FILTER_INVALID),
        Act::Receive => return None,
    };
    Some(Explanation::decided(Err(reason), Ground::Limit(kind)))
}

fn explain_refusal(refusal: Refusal) -> Explanation {
    let Refusal { reason, text, ground, .. } = refusal;
    Explanation { text, ..Explanation::decided(Err(reason), ground) }
}

impl Link {
    fn explain(&self, cx: &mut Context, supposed: &Supposed<'_>, now: Instant) -> Explanation {
        if supposed.act == Act::Receive && !self.explains(cx, supposed.message()) {
            let ground = self.grant_ground(GrantGround::Revoked);
            return Explanation::decided(Err(ReasonCode::NOT_AUTHORIZED), ground);
        }
        if let Some(refused) = exceeded_limit(cx, supposed) {
            return refused;
        }
        let no_place = match supposed.act {
            Act::Publish | Act::Will => self.check_place(Side::Client, supposed.name).err(),
            Act::Subscribe | Act::Receive => None,
        };
        if let Some(refusal) = no_place {
            return explain_refusal(refusal);
        }
        let explanation = self.explain_decision(cx, supposed, now);
        // What rules refuse is refused by them; the others have to have a place, too.
        match (supposed.act, &explanation.outcome) {
            (_, Foreseen::Decides(ForeseenDecision { verdict: Err(_), .. })) => explanation,
            (Act::Subscribe, _) => match self.mapped_filter(supposed.name) {
                Err(why) => explain_refusal(self.filter_without_place(why)),
                Ok(_) => explanation,
            },
            (Act::Publish | Act::Will | Act::Receive, _) => explanation,
        }
    }

    fn explain_decision(&self, cx: &mut Context, supposed: &Supposed<'_>, now: Instant) -> Explanation {
        let hook = supposed.hook();
        if self.want_of(cx, hook) == Want::Nothing {
            return Explanation::decided(Ok(supposed.qos), Ground::Source(Source::Unasked));
        }
        if let Some(known) = self.explain_cached(cx, supposed, now) {
            return known;
        }
        let mut explanation = cx.setting.advisers.explain(supposed);
        // What nobody decided, and the failure rule would let through.
        if let Foreseen::Decides(ForeseenDecision { ground, verdict }) = &mut explanation.outcome
            && let Ground::Undecided(undecided) = ground
            && let (Undecided::Failed(_), OnError::Allow) = (&**undecided, cx.setting.on_error.of(hook))
        {
            *verdict = Ok(supposed.qos);
            *ground = Ground::Source(Source::FailedOpen);
        }
        explanation
    }

    /// Whether subscriptions that go on explain a delivery.
    fn explains(&self, cx: &mut Context, delivery: Message<'_>) -> bool {
        let mapping = self.grant().and_then(|grant| grant.mapping.as_ref());
        let mapped = mapping.and_then(|mapping| mapping.up(delivery.topic));
        self.is_explained(cx, Message { topic: mapped.as_deref().unwrap_or(delivery.topic), ..delivery })
    }

    /// An earlier answer that would be used again.
    fn explain_cached(&self, cx: &Context, supposed: &Supposed<'_>, now: Instant) -> Option<Explanation> {
        let (side, about) = match supposed.act {
            Act::Subscribe => (Side::Client, about_filter(supposed.qos)),
            Act::Receive => (Side::Broker, about_publish(supposed.qos, supposed.retain)),
            Act::Publish | Act::Will => (Side::Client, about_publish(supposed.qos, supposed.retain)),
        };
        let answers = self.direction(side).cache.as_deref()?.answers_of(cx.setting.advisers.edition())?;
        let known = answers.find_until(about, supposed.name.as_bytes(), now)?;
        let verdict = match &known.verdict {
            CachedVerdict::Publish(Decision::Allow(_)) => Ok(supposed.qos),
            CachedVerdict::Filter(Decision::Allow(change)) => {
                Ok(change.max_qos.map_or(supposed.qos, |most| most.min(supposed.qos)))
            }
            CachedVerdict::Publish(Decision::Refuse(refusal))
            | CachedVerdict::Filter(Decision::Refuse(refusal)) => Err(refusal),
        };
        Some(match verdict {
            Ok(qos) => {
                let ground = known.answer.clone().map_or(Ground::Source(Source::Cache), Ground::Cache);
                Explanation::decided(Ok(qos), ground)
            }
            Err(refusal) => Explanation {
                text: refusal.text.clone(),
                ..Explanation::decided(Err(refusal.reason), refusal.ground.clone().cached())
            },
        })
    }
}
