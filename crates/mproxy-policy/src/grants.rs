//! Asks a client's grant: what the policy said beforehand, when it admitted the client. Knows no service; a client without
//! a grant, and what a grant says to ask about, is left to whoever is asked next.

use std::sync::Arc;

use mproxy_codec::packet::subscribe::FilterRequest;
use mproxy_codec::types::QoS;
use mproxy_core::chain::{allowed, refused};
use mproxy_core::grant::{Grant, Word};
use mproxy_core::peer::Peer;
use mproxy_core::policy::{
    Answer, Decider, Decision, FilterChange, Hook, PublishQuestion, Question, Refusal, Ruling, Silence,
    Source, SubscribeQuestion, Verdict, Want,
};
use mproxy_core::rule::{Act, Message, Who};

use crate::slices::Judge;

/// The grants of all clients as an adviser. A client without a grant passes, and so does what a grant says to ask about;
/// where nobody answers that, [`unspoken`](mproxy_core::chain::unspoken) holds the grant against it.
pub struct Grants {
    next: Arc<dyn Decider>,
}

impl Grants {
    /// An adviser that passes what no grant decides. `next` is whoever the chain asks after it; it is asked directly
    /// where a grant decides about some filters of a SUBSCRIBE only.
    #[must_use]
    pub fn before(next: Arc<dyn Decider>) -> Self {
        Self { next }
    }

    fn message(hook: Hook, act: Act, grant: &Grant, question: &PublishQuestion<'_>) -> Answer {
        let message = Message { topic: question.topic, qos: question.qos, retain: question.retain };
        match grant.message(act, Who::from(&**question.peer), message) {
            Word::Ask => Answer::Pass,
            Word::Allow(()) => Answer::Now(ruling(allowed(hook))),
            Word::Refuse(reason) => Answer::Now(ruling(refused(hook, Refusal::new(reason)))),
        }
    }

    fn subscribe(&self, grant: &Arc<Grant>, question: &SubscribeQuestion<'_>) -> Answer {
        let (grant, peer) = (Arc::clone(grant), Arc::clone(question.peer));
        let judge = Judge {
            source: Source::Grant,
            next: Some(Arc::clone(&self.next)),
            rules: grant.patterns(),
            word: move |request: &FilterRequest<'_>| {
                judged(request, grant.filter(Who::from(&*peer), request.filter.as_str()))
            },
        };
        judge.judge(question)
    }
}

impl Decider for Grants {
    fn decide(&self, question: &Question<'_>) -> Answer {
        let Some(grant) = &question.peer().grant else { return Answer::Pass };
        match question {
            // Whoever is asked about a CONNECT anew is asked for another grant.
            Question::Connect(_) => Answer::Pass,
            Question::Publish(question) => Self::message(Hook::Publish, Act::Publish, grant, question),
            Question::Subscribe(question) => self.subscribe(grant, question),
            Question::Deliver(_) if !grant.receives() => Answer::Pass,
            Question::Deliver(question) => Self::message(Hook::Deliver, Act::Receive, grant, question),
        }
    }

    fn want(&self, hook: Hook) -> Want {
        match hook {
            Hook::Connect => Want::Nothing,
            Hook::Publish | Hook::Subscribe | Hook::Deliver => Want::Head,
        }
    }

    fn want_of(&self, hook: Hook, peer: &Peer) -> Want {
        match (peer.grant.as_deref(), hook) {
            (None, _) | (_, Hook::Connect) => Want::Nothing,
            (Some(grant), Hook::Deliver) if !grant.receives() => Want::Nothing,
            (Some(_), Hook::Publish | Hook::Subscribe | Hook::Deliver) => Want::Head,
        }
    }

    fn effort(&self, _hook: Hook, peer: &Peer) -> usize {
        peer.grant.as_deref().map_or(0, Grant::patterns)
    }

    fn silence(&self) -> Silence {
        Silence::Abstains
    }
}

fn ruling(verdict: Verdict) -> Ruling {
    Ruling { source: Source::Grant, verdict }
}

fn judged(request: &FilterRequest<'_>, word: Word<QoS>) -> Option<Decision<FilterChange>> {
    Some(match word {
        Word::Ask => return None,
        Word::Refuse(reason) => Decision::Refuse(Refusal::new(reason)),
        Word::Allow(most) => {
            Decision::Allow(FilterChange { filter: None, max_qos: (most < request.qos).then_some(most) })
        }
    })
}
