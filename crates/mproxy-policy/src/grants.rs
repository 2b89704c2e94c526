//! Asks a client's grant: what the policy said beforehand, when it admitted the client. Knows no service; a client without
//! a grant, and what a grant says to ask about, is left to whoever is asked next.

use std::sync::Arc;

use mproxy_codec::packet::subscribe::FilterRequest;
use mproxy_codec::types::QoS;
use mproxy_core::grant::{Grant, GrantAnswer, GrantGround};
use mproxy_core::peer::Peer;
use mproxy_core::policy::{
    Answer, Decider, Decision, FilterChange, Foreseen, ForeseenDecision, Ground, Hook, PublishDecision,
    PublishQuestion, Refusal, Ruling, Silence, Source, SubscribeDecision, SubscribeQuestion, Supposed, Want,
};
use mproxy_core::rule::{Act, AskedFilter, Who};

use crate::slices::FilterJudge;

/// The grants of all clients as an adviser. A client without a grant passes, and so does what a grant says to ask about;
/// where nobody answers that, [`resolve_silence`](mproxy_core::chain::resolve_silence) holds the grant against it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Grants;

impl Grants {
    fn message(act: Act, grant: &Arc<Grant>, question: &PublishQuestion<'_>) -> Answer<PublishDecision> {
        let (answer, part) = grant.judge_message(act, Who::from(&**question.peer), question.message());
        match answer {
            GrantAnswer::Ask => PASS,
            GrantAnswer::Allow(()) => Answer::Now(Ruling::allow(Source::Grant)),
            GrantAnswer::Refuse(reason) => {
                let refusal = Refusal::new(reason).by(Ground::Grant(Arc::clone(grant), part));
                Answer::Now(Ruling::refuse(Source::Grant, refusal))
            }
        }
    }
}

/// Whoever asks further holds the grant against it.
const PASS: Answer<PublishDecision> = Answer::Pass(Silence::Abstains);

impl Decider for Grants {
    fn publish(&self, question: &PublishQuestion<'_>) -> Answer<PublishDecision> {
        question.peer.grant.as_ref().map_or(PASS, |grant| Self::message(Act::Publish, grant, question))
    }

    fn subscribe(&self, question: &SubscribeQuestion<'_>) -> Answer<SubscribeDecision> {
        let Some(grant) = question.peer.grant.clone() else { return Answer::Pass(Silence::Abstains) };
        let (peer, time) = (Arc::clone(question.peer), question.time);
        let judge = FilterJudge {
            source: Source::Grant,
            silence: Silence::Abstains,
            rules: grant.effort(),
            decide: move |request: &FilterRequest<'_>| {
                let asked = AskedFilter { filter: request.filter.as_str(), qos: Some(request.qos), time };
                let judged = grant.judge_filter(Who::from(&*peer), asked);
                filter_decision(&grant, request, judged)
            },
        };
        judge.judge(question)
    }

    fn deliver(&self, question: &PublishQuestion<'_>) -> Answer<PublishDecision> {
        match &question.peer.grant {
            // A grant whose rules never name RECEIVE was not meant to judge deliveries: its default would stop them all.
            Some(grant) if grant.receives() => Self::message(Act::Receive, grant, question),
            Some(_) | None => PASS,
        }
    }

    fn filter(&self, peer: &Peer, asked: AskedFilter<'_>) -> GrantAnswer<()> {
        match peer.grant.as_deref().map(|grant| grant.filter(Who::from(peer), asked)) {
            None | Some(GrantAnswer::Ask) => GrantAnswer::Ask,
            Some(GrantAnswer::Allow(_)) => GrantAnswer::Allow(()),
            Some(GrantAnswer::Refuse(reason)) => GrantAnswer::Refuse(reason),
        }
    }

    fn varies(&self, act: Act, name: &str, peer: &Peer) -> bool {
        peer.grant.as_deref().is_some_and(|grant| grant.varies(act, name, Who::from(peer)))
    }

    fn explain(&self, supposed: &Supposed<'_>) -> Foreseen {
        let passes = Foreseen::Passes(Silence::Abstains, Ground::Source(Source::Grant));
        let Some(grant) = &supposed.peer.grant else { return passes };
        let who = Who::from(&**supposed.peer);
        let (answer, part) = match supposed.act {
            Act::Receive if !grant.receives() => return passes,
            Act::Subscribe => {
                let (answer, part) = grant.judge_filter(who, supposed.filter());
                (answer.map(|most| most.min(supposed.qos)), part)
            }
            act => {
                let (answer, part) = grant.judge_message(act, who, supposed.message());
                (answer.map(|()| supposed.qos), part)
            }
        };
        let ground = Ground::Grant(Arc::clone(grant), part);
        let verdict = match answer {
            GrantAnswer::Ask => return Foreseen::Passes(Silence::Abstains, ground),
            GrantAnswer::Allow(qos) => Ok(qos),
            GrantAnswer::Refuse(reason) => Err(reason),
        };
        Foreseen::Decides(ForeseenDecision { verdict, ground })
    }

    fn want(&self, hook: Hook) -> Want {
        match hook {
            Hook::Connect | Hook::Exchange => Want::Nothing,
            Hook::Publish | Hook::Subscribe | Hook::Deliver => Want::Head,
        }
    }

    fn want_of(&self, hook: Hook, peer: &Peer) -> Want {
        match (peer.grant.as_deref(), hook) {
            (None, _) | (_, Hook::Connect | Hook::Exchange) => Want::Nothing,
            // So that deliveries to this client pass at the fast path.
            (Some(grant), Hook::Deliver) if !grant.receives() => Want::Nothing,
            (Some(_), Hook::Publish | Hook::Subscribe | Hook::Deliver) => Want::Head,
        }
    }

    fn effort(&self, _hook: Hook, peer: &Peer) -> usize {
        peer.grant.as_deref().map_or(0, Grant::effort)
    }
}

fn filter_decision(
    grant: &Arc<Grant>,
    request: &FilterRequest<'_>,
    (answer, part): (GrantAnswer<QoS>, GrantGround),
) -> Option<Decision<FilterChange>> {
    Some(match answer {
        GrantAnswer::Ask => return None,
        GrantAnswer::Refuse(reason) => {
            Decision::Refuse(Refusal::new(reason).by(Ground::Grant(Arc::clone(grant), part)))
        }
        GrantAnswer::Allow(most) => Decision::Allow(FilterChange {
            filter: None,
            max_qos: (most < request.qos).then_some(most),
            ..FilterChange::default()
        }),
    })
}
