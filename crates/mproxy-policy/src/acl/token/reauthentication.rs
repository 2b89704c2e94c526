//! A client that shows a newer token in its open session, by AUTH (4.12.1): its session ends later, or sooner, and what it
//! may do is what the claims of the new token say.
//!
//! The same client: another user name is another login, and another prefix would leave its subscriptions, or its session,
//! where they are.

use std::sync::Arc;
use std::time::Instant;

use mproxy_core::grant::Grant;
use mproxy_core::neighbours::Neighbours;
use mproxy_core::peer::Peer;
use mproxy_core::policy::{
    Answer, Authenticated, Decision, ExchangeDecision, ExchangeQuestion, ExchangeStep, KeptExchange, Refusal,
    Ruling, Silence, Source,
};

use super::key_wait::{JudgedAgain, NO_KEYS};
use super::{
    Acl, Judgement, KeyWait, TokenError, TokenOutcome, ValidToken, client_ids, identify, judge, of_token,
    token_of_data, token_refusal, without_keys, without_topics, wrong, wrong_name,
};

/// What follows from the client's AUTH.
pub(in crate::acl) fn reauthenticate(
    acl: &Arc<Acl>,
    question: &ExchangeQuestion<'_>,
) -> Answer<ExchangeDecision> {
    let Some(tokens) = acl.tokens.as_ref().filter(|tokens| tokens.takes_method(question.method)) else {
        return Answer::Pass(Silence::Abstains);
    };
    // A token in CONNECT was judged when the client was admitted. Who comes here without was admitted under other rules,
    // before a reload: nobody has said who it is.
    if !question.again {
        return Answer::Pass(Silence::DENIES);
    }
    let token = match token_of_data(question.data) {
        Ok(token) => token,
        Err(error) => return refuse(token_refusal(acl, &error)),
    };
    match judge(tokens, &token) {
        Judgement::Known(judged) => conclude(acl, question, judged),
        Judgement::NoKeys => without_keys(acl, NO_KEYS),
        Judgement::Later(wait) => judge_later(acl, question, wait),
    }
}

fn judge_later(acl: &Arc<Acl>, question: &ExchangeQuestion<'_>, wait: KeyWait) -> Answer<ExchangeDecision> {
    let (acl, kept) = (Arc::clone(acl), KeptExchange::of(question));
    let from = Neighbours::from(&question.peer.origin.remote);
    Answer::Later(Box::pin(async move {
        let judge = |keys: &_| {
            let token = kept.put(|question| token_of_data(question.data)).ok()?;
            Some(JudgedAgain::of(acl.tokens.as_ref()?, &token, keys))
        };
        match wait.judged(from, judge).await {
            Ok(judged) => kept.put(|question| conclude(&acl, question, judged)),
            Err(why) => without_keys(&acl, why),
        }
    }))
}

fn conclude(
    acl: &Acl,
    question: &ExchangeQuestion<'_>,
    judged: Result<ValidToken, TokenError>,
) -> Answer<ExchangeDecision> {
    let client = question.peer;
    let identified = judged.and_then(|token| {
        let peer = identify(acl, client, &token)?;
        if peer.username != client.username {
            return Err(TokenError::OtherClient);
        }
        Ok((peer, token.expires))
    });
    match identified {
        Ok((peer, expires)) => {
            acl.count_token(TokenOutcome::Valid);
            renew(acl, question, &peer, expires)
        }
        Err(error) => refuse(token_refusal(acl, &error)),
    }
}

/// The client has a newer token, by which it is `peer`.
fn renew(acl: &Acl, question: &ExchangeQuestion<'_>, peer: &Peer, expires: u64) -> Answer<ExchangeDecision> {
    if !acl.allows_name(peer) {
        return refuse(wrong_name(acl));
    }
    let granted = match acl.grant_for(peer, question.time) {
        Ok(granted) => granted,
        Err(why) => return refuse(without_topics(acl, why)),
    };
    let old = question.peer.grant.as_deref();
    let prefix = |grant: Option<&Grant>| grant.and_then(|grant| grant.mapping.clone());
    // Its subscriptions stand under the old one, and with the new claims it would read there what is not its own.
    if prefix(granted.as_ref()) != prefix(old) {
        return refuse(Refusal { text: Some("token of another topic prefix".into()), ..wrong(acl) });
    }
    // Its session stands under the old one.
    match client_ids(acl, peer) {
        Ok(ids) if ids.at_broker == question.peer.broker_client_id => {}
        Ok(_) => {
            return refuse(Refusal { text: Some("token of another client id prefix".into()), ..wrong(acl) });
        }
        Err(refusal) => return refuse(refusal),
    }
    let mut grant = of_token(granted, expires);
    // A session lasts so long after its CONNECT, and no token begins it anew.
    if let Some(received) = old.and_then(|old| old.received) {
        grant.received = Some(received);
        let passed = Instant::now().saturating_duration_since(received);
        grant.expires_at = grant.expires_at.and_then(|at| at.checked_sub(passed));
    }
    let success = Authenticated {
        // Those of the new token, and be it none.
        attributes: Some(peer.attributes.to_vec()),
        grant: Some(Arc::new(grant)),
        ..Authenticated::default()
    };
    let step = ExchangeStep::Success(Box::new(success));
    Answer::Now(Ruling::new(Source::Acl, Ok(Decision::Allow(step))))
}

fn refuse(refusal: Refusal) -> Answer<ExchangeDecision> {
    Answer::Now(Ruling::refuse(Source::Acl, refusal))
}
