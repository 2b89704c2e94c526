//! Clients that come with a token: where it is looked for, and who they are by it. Whether it is valid is said by `jwt`.
//!
//! A token that is there decides: the client is who it says, or is refused, and nobody else is asked.

mod key_wait;
mod reauthentication;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use mproxy_codec::packet::connect::Connect;
use mproxy_codec::property::PropertyId;
use mproxy_codec::reason::ReasonCode;
use mproxy_core::grant::Grant;
use mproxy_core::peer::Peer;
use mproxy_core::policy::{
    About, Admission, Answer, BrokerLogin, ConnectDecision, ConnectQuestion, Decided, Decision, Overload,
    Refusal, Ruling, Source,
};
use mproxy_core::rule::condition::Condition;
use mproxy_core::rule::{Rule, RuleEffect};
use mproxy_core::token::token_in;

use self::key_wait::{KeyWait, NO_KEYS};
pub(super) use self::reauthentication::reauthenticate;
use super::Acl;
use super::client_match::GROUP;
use super::connecting::{client_ids, refuse, settle_will, without_topics, wrong_name};
use super::static_rewrites::StaticRewrites;
use crate::jwt::{TokenError, TokenKeys, TokenTerms, ValidToken};
use crate::watch::{TokenOutcome, Watch, Watcher};

/// The `[jwt]` table of a rule file.
#[derive(Debug)]
pub(super) struct TokenRules {
    pub(super) terms: TokenTerms,
    /// Where tokens are looked for.
    pub(super) from: Box<[TokenPlace]>,
    /// The Authentication Method whose data is a token: a client that names it can show a newer one by AUTH. `None`: AUTH is
    /// not looked at.
    pub(super) method: Option<Box<str>>,
    /// A client without one is refused.
    pub(super) required: bool,
    /// The claim that is the user name.
    pub(super) username: Box<str>,
    /// Claims that become attributes.
    pub(super) claims: Vec<Box<str>>,
    /// The claim with the client's groups.
    pub(super) groups: Option<Box<str>>,
    /// `None`: as [`broker`](Acl::broker_login) of the file says, or the user name of the token.
    pub(super) broker: Option<BrokerCredentials>,
    watcher: Watcher,
}

impl Default for TokenRules {
    fn default() -> Self {
        Self {
            terms: TokenTerms::default(),
            from: [TokenPlace::Password, TokenPlace::WebSocket].into(),
            method: None,
            required: false,
            username: "sub".into(),
            claims: Vec::new(),
            groups: None,
            broker: None,
            watcher: Watcher::default(),
        }
    }
}

/// Where a token is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenPlace {
    /// The password of CONNECT, if it looks like one.
    Password,
    /// The user name of CONNECT, if it looks like one.
    Username,
    /// The WebSocket request, at the place that a setting names.
    WebSocket,
}

impl TokenPlace {
    pub(super) const ALL: [Self; 3] = [Self::Password, Self::Username, Self::WebSocket];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::Username => "username",
            Self::WebSocket => "websocket",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|place| place.name() == name)
    }
}

/// What the broker gets of a client with a token.
#[derive(Clone, Debug)]
pub(super) enum BrokerCredentials {
    /// The user name that the token says, and no password.
    Username,
    /// What the client sent.
    AsSent,
    /// The same for all.
    Fixed(Arc<BrokerLogin>),
}

impl TokenRules {
    /// What another file's key set was read to serves on, if it is the same one.
    pub(super) fn keep_keys(&mut self, old: &Self) {
        if let (Some(own), Some(old)) = (&mut self.terms.key_set, &old.terms.key_set)
            && own.is_like(old)
        {
            *own = Arc::clone(old);
        }
    }

    /// Counts tokens, and readings of its key set, from now on.
    pub(super) fn watched_by(&self, watch: &Arc<dyn Watch>) {
        self.watcher.name(watch);
        if let Some(set) = &self.terms.key_set {
            set.watched_by(watch);
        }
    }

    /// The client's token, if it has one.
    ///
    /// # Errors
    /// It has more than one: which of them was checked would be a matter of order. Or it authenticates by our method, and
    /// has none there.
    fn find(&self, question: &ConnectQuestion<'_>) -> Result<Option<Arc<str>>, TokenError> {
        let ConnectQuestion { peer, connect, .. } = question;
        let by_method = match self.authenticates(question) {
            true => Some(token_of_data(connect.properties.binary(PropertyId::AuthenticationData))?),
            false => None,
        };
        let text = |text: Option<&str>| text.and_then(token_in).map(Arc::from);
        let at = |place: &TokenPlace| match place {
            TokenPlace::Password => text(connect.password.and_then(|password| str::from_utf8(password).ok())),
            TokenPlace::Username => text(connect.username),
            TokenPlace::WebSocket => {
                peer.origin.ws.as_ref().and_then(|ws| ws.token.as_ref()).and_then(|token| token.expose())
            }
        };
        let mut found = by_method.into_iter().chain(self.from.iter().filter_map(at));
        match (found.next(), found.next()) {
            (_, Some(_)) => Err(TokenError::Several),
            (first, None) => Ok(first),
        }
    }

    /// Whether the client authenticates by our method.
    fn authenticates(&self, question: &ConnectQuestion<'_>) -> bool {
        let method = question.connect.properties.text(PropertyId::AuthenticationMethod);
        !question.passes_auth && method.is_some_and(|method| self.takes_method(method))
    }

    pub(super) fn takes_method(&self, method: &str) -> bool {
        self.method.as_deref() == Some(method)
    }

    fn has_claim(&self, name: &str) -> bool {
        self.claims.iter().any(|own| **own == *name)
    }
}

impl Acl {
    fn count_token(&self, outcome: TokenOutcome) {
        if let Some(tokens) = &self.tokens {
            tokens.watcher.tell(|watch| watch.token(outcome));
        }
    }

    /// Claims that rules name become attributes, as those do that the file lists.
    pub(super) fn name_claims(&mut self) {
        let Some(tokens) = &mut self.tokens else { return };
        let of_rules = self.rules.iter().flat_map(|entry| entry.rule.attributes());
        let of_names = self.client_ids.iter().flatten().flat_map(|name| name.attributes());
        let of_grants = self.grants.all.iter().flat_map(|grant| {
            let of_rules = grant.rules.iter().flat_map(Rule::attributes);
            let prefixes = grant.prefix.iter().chain(&grant.client_id_prefix);
            let of_prefix = prefixes.flat_map(|prefix| prefix.attributes());
            let of_condition = grant.who.condition.iter().flat_map(Condition::attributes);
            let of_claims = grant.who.claims.iter().map(|(name, _)| &**name);
            of_rules.chain(of_prefix).chain(of_condition).chain(of_claims)
        });
        let of_rewrites = self.rewrites.iter().flat_map(StaticRewrites::attributes);
        for attribute in of_rules.chain(of_names).chain(of_grants).chain(of_rewrites) {
            if let Some(claim) = attribute.strip_prefix("claim.")
                && !tokens.has_claim(claim)
            {
                tokens.claims.push(claim.into());
            }
        }
    }
}

/// What follows from the client's token. `None`: it has none, and needs none.
pub(super) fn admit(acl: &Arc<Acl>, question: &ConnectQuestion<'_>) -> Option<Answer<ConnectDecision>> {
    let tokens = acl.tokens.as_ref()?;
    Some(match tokens.find(question) {
        Ok(None) if !tokens.required => return None,
        Ok(None) => refuse(Refusal { text: Some("token required".into()), ..wrong(acl) }),
        Ok(Some(token)) => match judge(tokens, &token) {
            Judgement::Known(judged) => conclude(acl, question, judged),
            Judgement::NoKeys => without_keys(acl, NO_KEYS),
            Judgement::Later(wait) => wait.admit_later(acl, question),
        },
        Err(error) => refuse_token(acl, &error),
    })
}

/// The token in the Authentication Data of our method.
///
/// # Errors
/// There is none.
fn token_of_data(data: Option<&[u8]>) -> Result<Arc<str>, TokenError> {
    let data = data.ok_or(TokenError::Absent)?;
    str::from_utf8(data).ok().and_then(token_in).map(Arc::from).ok_or(TokenError::Malformed)
}

/// What is said of a token at once.
enum Judgement {
    /// It is valid, or is not.
    Known(Result<ValidToken, TokenError>),
    /// Nobody can tell: there are no keys, and none can be had now.
    NoKeys,
    /// Its key may be in the next key set.
    Later(KeyWait),
}

fn judge(tokens: &TokenRules, token: &str) -> Judgement {
    let terms = &tokens.terms;
    let by_files = terms.judge(token, now(), &TokenKeys::default());
    let Some(set) = &terms.key_set else { return Judgement::Known(by_files) };
    // Only another key would change what is said of it.
    if !matches!(by_files, Err(TokenError::UnknownKey | TokenError::Signature)) {
        return Judgement::Known(by_files);
    }
    let begun = set.begun();
    let first = match set.fresh() {
        Ok(keys) => match terms.judge(token, now(), keys.keys()) {
            Err(error) if TokenTerms::may_have_other_key(token, &error, keys.keys()) => set.under_way(),
            judged => return Judgement::Known(judged),
        },
        Err(Some(next)) => Some(next),
        Err(None) => return Judgement::NoKeys,
    };
    Judgement::Later(KeyWait { set: Arc::clone(set), begun, first })
}

fn conclude(
    acl: &Arc<Acl>,
    question: &ConnectQuestion<'_>,
    judged: Result<ValidToken, TokenError>,
) -> Answer<ConnectDecision> {
    let admitted =
        judged.and_then(|token| identify(acl, question.peer, &token).map(|peer| (peer, token.expires)));
    match admitted {
        Ok((peer, expires)) => {
            acl.count_token(TokenOutcome::Valid);
            let_in(acl, question, &peer, expires)
        }
        Err(error) => refuse_token(acl, &error),
    }
}

/// The client as its token says who it is.
fn identify(acl: &Acl, client: &Arc<Peer>, token: &ValidToken) -> Result<Arc<Peer>, TokenError> {
    let mut peer = Arc::clone(client);
    let Some(tokens) = &acl.tokens else { return Ok(peer) };
    let name = token.claims.text(&tokens.username).filter(|name| !name.contains('\0'));
    // Not the one that the client sent: with a token of its own it could call itself like anybody.
    let name = name.ok_or_else(|| match token.claims.find(&tokens.username) {
        None => TokenError::Missing(tokens.username.clone()),
        Some(_) => TokenError::Claim(tokens.username.clone()),
    })?;
    let mut attributes = Vec::new();
    for claim in &tokens.claims {
        let values = token.claims.values(claim).ok_or_else(|| TokenError::Claim(claim.clone()))?;
        attributes.extend(values.into_iter().map(|value| (format!("claim.{claim}"), value)));
    }
    if let Some(groups) = &tokens.groups {
        let values = token.claims.values(groups).ok_or_else(|| TokenError::Claim(groups.clone()))?;
        // Of a member that is no name nobody is in.
        let named = values.into_iter().filter(|value| !value.is_empty());
        attributes.extend(named.map(|value| (GROUP.to_owned(), value)));
    }
    let own = Peer::change(&mut peer);
    (own.username, own.attributes) = (Some(name.into()), attributes.into());
    Ok(peer)
}

/// A client whose token is valid.
fn let_in(acl: &Acl, question: &ConnectQuestion<'_>, peer: &Peer, expires: u64) -> Answer<ConnectDecision> {
    if !acl.allows_name(peer) {
        return refuse(wrong_name(acl));
    }
    let granted = match acl.grant_for(peer, question.time) {
        Ok(granted) => granted,
        Err(why) => return refuse(without_topics(acl, why)),
    };
    // Nobody else is asked about a client with a token: the packet that they would see has it.
    if let Err(refusal) = settle_will(acl, peer, question, granted.as_ref()) {
        return refuse(refusal);
    }
    let grant = of_token(granted, expires);
    if let Some(token) = question.peer.origin.ws.as_ref().and_then(|ws| ws.token.as_ref()) {
        token.forget();
    }
    let ids = match client_ids(acl, peer) {
        Ok(ids) => ids,
        Err(refusal) => return refuse(refusal),
    };
    let broker = acl.tokens.as_ref().and_then(|tokens| tokens.broker.as_ref());
    let admission = Admission {
        client_id: ids.own,
        broker_client_id: ids.at_broker,
        username: peer.username.clone(),
        password: Some(Bytes::new()),
        attributes: peer.attributes.to_vec(),
        authenticated: acl.tokens.as_ref().is_some_and(|tokens| tokens.authenticates(question)),
        grant: Some(Arc::new(grant)),
        broker_login: match broker {
            None => acl.broker_login.clone(),
            Some(BrokerCredentials::Username) => None,
            Some(BrokerCredentials::AsSent) => Some(Arc::new(as_sent(question.connect))),
            Some(BrokerCredentials::Fixed(login)) => Some(Arc::clone(login)),
        },
        ..Admission::default()
    };
    let allowed = Decision::Allow(Some(Box::new(admission)));
    Answer::Now(Ruling::new(Source::Acl, Ok(allowed)))
}

/// What a client is granted that has a token until this second of our era.
fn of_token(granted: Option<Grant>, expires: u64) -> Grant {
    let mut grant = granted.unwrap_or_else(|| Grant::new(Vec::new(), RuleEffect::Ask));
    let left = Duration::from_secs(expires).saturating_sub(now());
    // What no clock reaches is no end.
    grant.token_ends_at = Instant::now().checked_add(left);
    grant.received.get_or_insert_with(Instant::now);
    grant
}

fn as_sent(connect: &Connect<'_>) -> BrokerLogin {
    BrokerLogin {
        username: connect.username.map(Into::into),
        password: connect.password.map(Bytes::copy_from_slice),
    }
}

fn refuse_token(acl: &Acl, error: &TokenError) -> Answer<ConnectDecision> {
    refuse(token_refusal(acl, error))
}

/// A token is refused, and counted.
fn token_refusal(acl: &Acl, error: &TokenError) -> Refusal {
    acl.count_token(error.outcome());
    Refusal { text: Some(error.to_string().into()), ..wrong(acl) }
}

fn wrong(acl: &Acl) -> Refusal {
    Refusal::new(ReasonCode::NOT_AUTHORIZED).about(About::Token).by(acl.ground(None))
}

/// Nobody can tell whether a token is valid: no answer, and never one that a failure rule could turn into a yes.
fn without_keys<D: Decided>(acl: &Acl, why: &str) -> Answer<D> {
    acl.count_token(TokenOutcome::NoKeys);
    Answer::Now(Ruling::new(Source::Acl, Err(Overload::new("token_keys", why).into())))
}

fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}
