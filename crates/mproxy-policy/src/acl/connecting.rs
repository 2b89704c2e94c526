//! What the file says of a client that connects, whatever let it in: of its will, its client id, its prefix.

use mproxy_codec::packet::connect::Will;
use mproxy_codec::reason::ReasonCode;
use mproxy_core::grant::{Grant, GrantAnswer};
use mproxy_core::peer::Peer;
use mproxy_core::policy::{About, Answer, ConnectDecision, ConnectQuestion, Refusal, Ruling, Source};
use mproxy_core::rule::{Act, Message, Who};

use super::{Acl, NoPrefix, NoTopics, RuleAnswer};

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
            let message = will_message(will, question);
            match grant.map(|grant| grant.message(Act::Will, Who::from(peer), message)) {
                Some(GrantAnswer::Allow(())) => Ok(()),
                Some(GrantAnswer::Refuse(reason)) => Err(Refusal { reason, ..refused() }),
                Some(GrantAnswer::Ask) | None => Err(refused()),
            }
        }
    }
}

/// Its topics have no place at the broker.
pub(super) fn without_topics(acl: &Acl, why: NoTopics) -> Refusal {
    let text = Some(why.text().into());
    Refusal { text, ..Refusal::default() }.by(acl.ground(None))
}

/// The client ids of a client that is let in: by what it and everybody else knows it, if it has said none, and by what the
/// broker does, if that is another.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ClientIds {
    pub(super) own: Option<Box<str>>,
    pub(super) at_broker: Option<Box<str>>,
}

/// By what the broker knows this client.
///
/// # Errors
/// It could not be told from another client there.
pub(super) fn client_ids(acl: &Acl, peer: &Peer) -> Result<ClientIds, Refusal> {
    let prefix = acl.grants.client_id_prefix(peer).map_err(|NoPrefix| {
        let text = Some("no client id prefix for this client".into());
        Refusal { text, ..Refusal::default() }.by(acl.ground(None))
    })?;
    let Some(prefix) = prefix else {
        return if takes_prefixed_id(acl, peer) { Err(wrong_name(acl)) } else { Ok(ClientIds::default()) };
    };
    if !peer.client_id.is_empty() {
        return Ok(ClientIds { own: None, at_broker: Some(format!("{prefix}{}", peer.client_id).into()) });
    }
    // The broker refuses it [MQTT-3.1.3-8].
    if !peer.version.is_v5() && !peer.clean_start {
        return Ok(ClientIds::default());
    }
    // Were the broker to choose one, the client would come back with that, and get it with the prefix before it.
    let own = format!("{:032x}", peer.origin.connection_id.0);
    Ok(ClientIds { at_broker: Some(format!("{prefix}{own}").into()), own: Some(own.into()) })
}

/// Whether a client without a prefix calls itself as one with a prefix may be called at the broker.
pub(super) fn takes_prefixed_id(acl: &Acl, peer: &Peer) -> bool {
    acl.grants.client_id_separator().is_some_and(|separator| peer.client_id.contains(separator))
}

/// What the rules say of the will of this client; no will is fine.
pub(super) fn judge_will(acl: &Acl, peer: &Peer, question: &ConnectQuestion<'_>) -> RuleAnswer<()> {
    let Some(will) = &question.connect.will else { return RuleAnswer::Allow(()) };
    acl.message(Act::Will, peer, will_message(will, question))
}

fn will_message<'w>(will: &Will<'w>, question: &ConnectQuestion<'_>) -> Message<'w> {
    let payload = will.payload.len();
    Message { topic: will.topic, qos: will.qos, retain: will.retain, payload, time: question.time }
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
