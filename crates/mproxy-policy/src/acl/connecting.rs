//! What the file says of a client that connects, whatever let it in: of its will, its client id, its prefix.

use mproxy_codec::packet::connect::Will;
use mproxy_codec::reason::ReasonCode;
use mproxy_core::grant::{Grant, GrantAnswer};
use mproxy_core::peer::Peer;
use mproxy_core::policy::{About, Answer, ConnectDecision, ConnectQuestion, Refusal, Ruling, Source};
use mproxy_core::rule::{Act, Message, Who};

use super::{Acl, RuleAnswer};

/// The will of a client that nobody else is asked about: the rules of the file have to allow it, or its grant.
pub(super) fn settle_will(
    acl: &Acl,
    peer: &Peer,
    question: &ConnectQuestion<'_>,
    grant: Option<&Grant>,
) -> Result<(), Refusal> {
    let refused = || Refusal::default().about(About::Will).by(acl.ground(None));
    let Some(will) = &question.connect.will else { return Ok(()) };
    match judge_will(acl, peer, question) {
        RuleAnswer::Allow(()) => Ok(()),
        RuleAnswer::Refuse(reason, rule) => Err(will_refused(acl, reason, rule)),
        RuleAnswer::Silence => {
            let message = will_message(will);
            match grant.map(|grant| grant.message(Act::Will, Who::from(peer), message)) {
                Some(GrantAnswer::Allow(())) => Ok(()),
                Some(GrantAnswer::Refuse(reason)) => Err(Refusal { reason, ..refused() }),
                Some(GrantAnswer::Ask) | None => Err(refused()),
            }
        }
    }
}

/// Its topics have no place at the broker.
pub(super) fn without_prefix(acl: &Acl) -> Refusal {
    let text = Some("no topic prefix for this client".into());
    Refusal { text, ..Refusal::default() }.by(acl.ground(None))
}

/// What the rules say of the will of this client; no will is fine.
pub(super) fn judge_will(acl: &Acl, peer: &Peer, question: &ConnectQuestion<'_>) -> RuleAnswer<()> {
    let Some(will) = &question.connect.will else { return RuleAnswer::Allow(()) };
    let message = will_message(will);
    acl.message(Act::Will, peer, message)
}

fn will_message<'a>(will: &Will<'a>) -> Message<'a> {
    Message { topic: will.topic, qos: will.qos, retain: will.retain, payload: will.payload.len() }
}

/// The client calls itself as it may not.
pub(super) fn wrong_name(acl: &Acl) -> Refusal {
    let refusal = Refusal::new(ReasonCode::CLIENT_IDENTIFIER_NOT_VALID);
    refusal.about(About::ClientId).by(acl.ground(None))
}

pub(super) fn will_refused(acl: &Acl, reason: ReasonCode, rule: u32) -> Refusal {
    Refusal::new(reason).about(About::Will).by(acl.ground(Some(rule)))
}

pub(super) fn refuse(refusal: Refusal) -> Answer<ConnectDecision> {
    Answer::Now(Ruling::refuse(Source::Acl, refusal))
}
