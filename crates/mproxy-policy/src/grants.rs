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

use crate::partly::partly;

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

    fn subscribe(&self, grant: &Grant, question: &SubscribeQuestion<'_>) -> Answer {
        let who = Who::from(&**question.peer);
        let word = |request: &FilterRequest<'_>| grant.filter(who, request.filter.as_str());
        let (mut ask, mut plain) = (0, true);
        for request in question.filters {
            match word(request) {
                Word::Ask => ask += 1,
                Word::Allow(most) => plain &= most >= request.qos,
                Word::Refuse(_) => plain = false,
            }
        }
        if ask == question.filters.len() {
            return Answer::Pass;
        }
        if ask == 0 && plain {
            return Answer::Now(ruling(allowed(Hook::Subscribe)));
        }
        let words = question.filters.iter().map(|request| judged(request, word(request))).collect();
        partly(Source::Grant, Some(&*self.next), question, words)
    }
}

impl Decider for Grants {
    fn decide(&self, question: &Question<'_>) -> Answer {
        let Some(grant) = question.peer().grant.as_deref() else { return Answer::Pass };
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
