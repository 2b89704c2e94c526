//! What the rule file would decide about somebody who does not exist: for `mproxy rules`.
//!
//! Nothing of the file is read a second way: the advisers of a running mproxy are asked, with a CONNECT and what follows it.
//! Only that the client is who it says cannot be shown here. Therefore users have a password that is known, and tokens are
//! signed by a key of our own.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::BytesMut;
use mproxy_codec::packet::connect::{Connect, Will};
use mproxy_codec::packet::subscribe::{FilterRequest, RetainHandling};
use mproxy_codec::property::Properties;
use mproxy_codec::reason::ReasonCode;
use mproxy_codec::topic::{TopicFilter, check_name};
use mproxy_codec::types::{PacketType, QoS, Version};
use mproxy_core::Chain;
use mproxy_core::grant::{GrantGround, Mapping, NoPlace};
use mproxy_core::peer::{
    Address, ConnectionId, Credentials, Encoded, Origin, Peer, RequestToken, TlsFacts, Transport,
    UserProperties, WsFacts,
};
use mproxy_core::policy::{
    About, Admission, Answer, ConnectDecision, ConnectQuestion, Decider, Decision, Foreseen,
    ForeseenDecision, Ground, Hook, Payload, PublishQuestion, Refusal, Ruling, Source, SubscribeDecision,
    SubscribeQuestion, Supposed, Undecided, Want,
};
use mproxy_core::rule::{Act, WallTime};
use mproxy_core::session::legal_code;
use serde_json::{Map, Value};

use self::token::TrialTokens;
use super::client_match::GROUP;
use super::password::Password;
use super::{Acl, AclAdviser, NoTopics, UnknownUsers};
use crate::grants::Grants;

mod token;

/// Bytes of the payload of a will at most (3.1.3.4).
const WILL_MOST: usize = u16::MAX as usize;

/// Everybody's password.
const PASSWORD: &[u8] = b"trial";

/// Who it is about. What is empty is not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrialClient {
    /// Its client id.
    pub client_id: String,
    /// Its user name.
    pub username: Option<String>,
    /// Its groups, besides those that the file has for its user name: its token or the hook service says them.
    pub groups: Vec<String>,
    /// It has a valid token that says this.
    pub claims: Option<Map<String, Value>>,
    /// The common name of its certificate.
    pub common_name: Option<String>,
    /// The DNS names in there.
    pub dns: Vec<String>,
    /// The URIs in there.
    pub uris: Vec<String>,
    /// Its fingerprint, lower-case hex.
    pub fingerprint: Option<String>,
    /// The listener that it comes to; `None`: one that the file does not name.
    pub listener: Option<String>,
    /// How it comes; `None`: over TCP.
    pub transport: Option<Transport>,
    /// From which address; `None`: from 127.0.0.1.
    pub address: Option<IpAddr>,
    /// The version that it speaks; `None`: 5.0.
    pub version: Option<Version>,
    /// A hook service lets it in, if it is asked.
    pub by_service: bool,
}

/// What it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrialQuestion {
    /// It publishes, subscribes, is sent something, or has a will.
    pub act: Act,
    /// The topic, or the filter.
    pub name: String,
    /// The QoS.
    pub qos: QoS,
    /// The RETAIN flag.
    pub retain: bool,
    /// Bytes of its payload.
    pub payload: usize,
    /// When it does; `None`: that is not known.
    pub time: Option<WallTime>,
}

impl TrialQuestion {
    /// With QoS 0, not retained, without a payload, at no known time.
    #[must_use]
    pub fn plain(act: Act, name: &str) -> Self {
        let name = name.to_owned();
        Self { act, name, qos: QoS::AtMostOnce, retain: false, payload: 0, time: None }
    }

    fn suppose<'a>(&'a self, peer: &'a Arc<Peer>) -> Supposed<'a> {
        let Self { act, ref name, qos, retain, payload, time } = *self;
        Supposed { peer, act, name, qos, retain, payload, time }
    }
}

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrialOutcome {
    /// With which QoS at most; or why not, in the words of 5.0.
    pub verdict: Result<QoS, ReasonCode>,
    /// By what.
    pub by: TrialGround,
    /// What the broker calls the topic or the filter, where that is another name and it is allowed.
    pub becomes: Option<Box<str>>,
}

/// By what it was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrialGround {
    /// The rule in this line.
    Rule(u32),
    /// The default of the client's grant.
    GrantDefault,
    /// A limit of the client's grant, by its key.
    GrantLimit(&'static str),
    /// No rule decides: the hook service, or else nobody, is asked.
    Nobody,
    /// Deliveries are not judged, as no rule names `receive`.
    NotJudged,
    /// The client is not let in: what the file says of that.
    NotLetIn(String),
    /// The client id is none of those that the file allows.
    ClientId,
    /// Its topics have no prefix.
    Prefix,
    /// The rewrites leave no place for it: what the client would be told.
    Rewrite(&'static str),
    /// The text is no topic, or no topic filter.
    NoTopic,
}

/// A client that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImpossibleClient {
    /// Nobody looks at tokens.
    #[error("it has claims, but the file has no [jwt], so tokens are not looked at")]
    NoTokens,
    /// Nobody would say that it is in a group.
    #[error(
        "it has groups, but groups come from [[users]], a token (the claim that jwt.groups names) or a hook service \
         (service = true)"
    )]
    NoGroups,
    /// A token that is there decides.
    #[error("it has claims and service = true, but a hook service is not asked about clients with tokens")]
    TokenAndService,
}

impl fmt::Display for TrialGround {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rule(line) => return write!(f, "the rule in line {line}"),
            Self::GrantLimit(key) => return write!(f, "{key} of its grant"),
            Self::NotLetIn(why) => return write!(f, "what the file says about who may connect: {why}"),
            Self::Rewrite(why) => return write!(f, "the rewrites: {why}"),
            Self::GrantDefault => "the default of its grant",
            Self::Nobody => "no rule; a hook service would be asked, if there is one",
            Self::NotJudged => "no rule names receive, so deliveries are not judged",
            Self::ClientId => "client_ids: it may not call itself so",
            Self::Prefix => "the prefix of its grant: a variable in it has no value, or none that is a level",
            Self::NoTopic => "MQTT: not a topic, or not a topic filter",
        })
    }
}

impl Acl {
    /// Whether its rules let this client do that, once it is let in. Nobody else is asked.
    #[must_use]
    pub fn rules_allow(&self, client: &TrialClient, question: &TrialQuestion) -> bool {
        let peer = Arc::new(supposed_peer(client, client.username.as_deref(), None));
        match self.foresee(&question.suppose(&self.with_groups(&peer))) {
            Foreseen::Decides(decision) => decision.verdict.is_ok(),
            // Deliveries of which the file says nothing are not judged.
            Foreseen::Passes(..) | Foreseen::Asks(_) => question.act == Act::Receive && !self.receives,
        }
    }
}

/// A rule file as it is tried out.
pub struct RuleTrial {
    acl: Arc<Acl>,
    tokens: Option<TrialTokens>,
}

/// A client that was let in, and whom its questions are put to.
struct TriedClient {
    chain: Chain,
    peer: Arc<Peer>,
}

impl RuleTrial {
    /// Of this file.
    #[must_use]
    pub fn new(mut acl: Acl) -> Self {
        for user in acl.users.values_mut() {
            user.password = Password::quick(PASSWORD);
        }
        let tokens = acl.tokens.as_mut().map(TrialTokens::take_over);
        Self { acl: Arc::new(acl), tokens }
    }

    /// What it says of this client and what it does.
    ///
    /// # Errors
    /// There can be no such client.
    pub async fn try_out(
        &self,
        client: &TrialClient,
        question: &TrialQuestion,
    ) -> Result<TrialOutcome, ImpossibleClient> {
        let token = self.token(client)?;
        let is_name = match question.act {
            Act::Subscribe => TopicFilter::new(&question.name).is_ok(),
            Act::Publish | Act::Receive | Act::Will => check_name(&question.name).is_ok(),
        };
        if !is_name {
            return Ok(refused(ReasonCode::NOT_AUTHORIZED, TrialGround::NoTopic));
        }
        let tried = match self.connect(client, token.as_deref(), question.time, None).await {
            Ok(tried) => tried,
            Err(outcome) => return Ok(outcome),
        };
        let supposed = question.suppose(&tried.peer);
        Ok(match question.act {
            Act::Publish => tried.publishes(&supposed).await,
            Act::Subscribe => tried.subscribes(&supposed).await,
            Act::Receive => tried.receives(&supposed).await,
            Act::Will => {
                let by = tried.ground(&supposed);
                match self.connect(client, token.as_deref(), question.time, Some(question)).await {
                    Ok(_) if tried.lacks_place(&question.name) => without_place(),
                    Ok(_) => tried.outcome(&supposed, Ok(question.qos)),
                    Err(outcome) => TrialOutcome { by, ..outcome },
                }
            }
        })
    }

    /// The token that it shows.
    fn token(&self, client: &TrialClient) -> Result<Option<String>, ImpossibleClient> {
        match (&client.claims, &self.tokens) {
            (Some(_), None) => Err(ImpossibleClient::NoTokens),
            (Some(_), Some(_)) if client.by_service => Err(ImpossibleClient::TokenAndService),
            (Some(claims), Some(tokens)) => tokens.sign(claims, client).map(Some),
            (None, _) if !client.groups.is_empty() && !client.by_service => Err(ImpossibleClient::NoGroups),
            (None, _) => Ok(None),
        }
    }

    fn chain(&self, client: &TrialClient) -> Chain {
        let unknown = if client.by_service { UnknownUsers::LeaveToOthers } else { UnknownUsers::Refuse };
        let mut deciders: Vec<Arc<dyn Decider>> =
            vec![Arc::new(AclAdviser::of(Arc::clone(&self.acl), unknown)), Arc::new(Grants)];
        if client.by_service {
            deciders.push(Arc::new(LettingIn { groups: client.groups.clone() }));
        }
        Chain::new(deciders)
    }

    /// The client as it is let in. `Err`: why it is not.
    async fn connect(
        &self,
        client: &TrialClient,
        token: Option<&str>,
        time: Option<WallTime>,
        will: Option<&TrialQuestion>,
    ) -> Result<TriedClient, TrialOutcome> {
        let at = |place: fn(&TrialTokens) -> bool| token.filter(|_| self.tokens.as_ref().is_some_and(place));
        let username = at(TrialTokens::is_in_username).or(client.username.as_deref());
        let password = at(TrialTokens::is_in_password).map(str::as_bytes);
        let password = password.or_else(|| username.map(|_| PASSWORD));
        let mut peer =
            Arc::new(supposed_peer(client, username, at(TrialTokens::is_in_request).map(RequestToken::new)));
        let payload = vec![0; will.map_or(0, |will| will.payload.min(WILL_MOST))];
        let connect = Connect {
            version: peer.version,
            bridge: false,
            clean_start: peer.clean_start,
            keep_alive: peer.keep_alive,
            properties: Properties::EMPTY,
            client_id: &client.client_id,
            will: will.map(|will| Will {
                qos: will.qos,
                retain: will.retain,
                properties: Properties::EMPTY,
                topic: &will.name,
                payload: &payload,
            }),
            username,
            password,
        };
        let mut packet = BytesMut::new();
        let Ok(_) = connect.encode(&mut packet) else {
            let why = "its CONNECT would be no packet of MQTT".to_owned();
            return Err(refused(ReasonCode::MALFORMED_PACKET, TrialGround::NotLetIn(why)));
        };
        let (chain, packet) = (self.chain(client), packet.freeze());
        let question =
            ConnectQuestion { peer: &peer, connect: &connect, packet: &packet, passes_auth: false, time };
        match chain.connect(&question).wait().await.verdict {
            Ok(Decision::Allow(admission)) => {
                let admitted = Peer::change(&mut peer);
                if let Some(Admission { username, attributes, grant, .. }) = admission.map(|it| *it) {
                    if let Some(name) = username {
                        admitted.username = Some(name).filter(|name| !name.is_empty());
                    }
                    (admitted.attributes, admitted.grant) = (attributes.into(), grant);
                }
                Ok(TriedClient { chain, peer })
            }
            Ok(Decision::Refuse(refusal)) => {
                Err(refused(legal_code(PacketType::Connack, refusal.reason), not_let_in(&refusal)))
            }
            Err(undecided) => {
                let why = undecided.to_string();
                let reason = legal_code(PacketType::Connack, undecided.reason());
                Err(refused(reason, TrialGround::NotLetIn(why)))
            }
        }
    }
}

impl TriedClient {
    async fn publishes(&self, supposed: &Supposed<'_>) -> TrialOutcome {
        // Topic, packet id, the length of no properties, and the payload.
        let id = if supposed.qos == QoS::AtMostOnce { 0 } else { 2 };
        if let Some(outcome) = self.too_large(2 + supposed.name.len() + id + 1 + supposed.payload) {
            return outcome;
        }
        if self.lacks_place(supposed.name) {
            return without_place();
        }
        let ruling = self.chain.publish(&message(supposed)).wait().await;
        self.outcome(supposed, allowed(ruling.verdict, PacketType::Puback).map(|()| supposed.qos))
    }

    async fn receives(&self, supposed: &Supposed<'_>) -> TrialOutcome {
        if self.lacks_place(supposed.name) {
            // Whatever the broker calls so has another name here.
            return TrialOutcome { verdict: Err(ReasonCode::NOT_AUTHORIZED), ..without_place() };
        }
        if self.chain.want_of(Hook::Deliver, &self.peer) == Want::Nothing {
            let becomes = self.at_broker(supposed);
            return TrialOutcome { verdict: Ok(supposed.qos), by: TrialGround::NotJudged, becomes };
        }
        let ruling = self.chain.deliver(&message(supposed)).wait().await;
        self.outcome(supposed, allowed(ruling.verdict, PacketType::Puback).map(|()| supposed.qos))
    }

    async fn subscribes(&self, supposed: &Supposed<'_>) -> TrialOutcome {
        let Ok(filter) = TopicFilter::new(supposed.name) else {
            return refused(ReasonCode::TOPIC_FILTER_INVALID, TrialGround::NoTopic);
        };
        if let Some(outcome) = self.too_large(2 + 1 + 2 + supposed.name.len() + 1) {
            return outcome;
        }
        let request = FilterRequest {
            filter,
            qos: supposed.qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
        };
        let requests = [request];
        let question = SubscribeQuestion::new(&self.peer, &requests, Properties::EMPTY).at(supposed.time);
        let code = |reason| legal_code(PacketType::Suback, reason);
        let verdict = match self.chain.subscribe(&question).wait().await.verdict {
            Ok(SubscribeDecision::All(Decision::Allow(()))) => Ok(supposed.qos),
            Ok(SubscribeDecision::All(Decision::Refuse(refusal))) => Err(code(refusal.reason)),
            Ok(SubscribeDecision::Each(one) | SubscribeDecision::InPart(one, _)) => match one
                .into_iter()
                .next()
            {
                Some(Decision::Allow(change)) => Ok(change.max_qos.unwrap_or(supposed.qos).min(supposed.qos)),
                Some(Decision::Refuse(refusal)) => Err(code(refusal.reason)),
                None => Err(ReasonCode::NOT_AUTHORIZED),
            },
            Err(undecided) => Err(code(undecided.reason())),
        };
        let grant = self.peer.grant.as_deref();
        if verdict.is_ok() && grant.is_some_and(|grant| grant.limits.subscriptions == Some(0)) {
            return refused(ReasonCode::QUOTA_EXCEEDED, TrialGround::GrantLimit("subscriptions"));
        }
        let mapping = grant.and_then(|grant| grant.mapping.as_ref());
        if verdict.is_ok()
            && let Some(Err(why)) = mapping.map(|mapping| mapping.up_filter(supposed.name))
        {
            let by = match why {
                NoPlace::TooLong => TrialGround::Prefix,
                NoPlace::Divided | NoPlace::Renamed => TrialGround::Rewrite(why.text()),
            };
            return refused(ReasonCode::TOPIC_FILTER_INVALID, by);
        }
        self.outcome(supposed, verdict)
    }

    fn outcome(&self, supposed: &Supposed<'_>, verdict: Result<QoS, ReasonCode>) -> TrialOutcome {
        let becomes = if verdict.is_ok() { self.at_broker(supposed) } else { None };
        TrialOutcome { verdict, by: self.ground(supposed), becomes }
    }

    fn mapping(&self) -> Option<&Mapping> {
        self.peer.grant.as_deref()?.mapping.as_ref()
    }

    /// Whether another topic of the client's is rewritten to this one.
    fn lacks_place(&self, topic: &str) -> bool {
        self.mapping().is_some_and(|mapping| mapping.up(topic).is_none())
    }

    /// What the broker calls it, if that is something else.
    fn at_broker(&self, supposed: &Supposed<'_>) -> Option<Box<str>> {
        let (mapping, name) = (self.mapping()?, supposed.name);
        let mapped = match supposed.act {
            Act::Subscribe => mapping.up_filter(name).ok()?,
            Act::Publish | Act::Receive | Act::Will => mapping.up(name)?,
        };
        (mapped != name).then(|| mapped.into())
    }

    /// A packet of the client's with so many bytes behind its fixed header.
    fn too_large(&self, remaining: usize) -> Option<TrialOutcome> {
        let most = self.peer.grant.as_deref()?.limits.packet_size? as usize;
        let length = match remaining {
            0..0x80 => 1,
            0x80..0x4000 => 2,
            0x4000..0x20_0000 => 3,
            _ => 4,
        };
        let too_large = 1 + length + remaining > most;
        // The packet has no answer: the client is disconnected.
        too_large.then(|| refused(ReasonCode::PACKET_TOO_LARGE, TrialGround::GrantLimit("packet_size")))
    }

    /// By what it is decided.
    fn ground(&self, supposed: &Supposed<'_>) -> TrialGround {
        let outcome = match supposed.act {
            // At CONNECT, the file looks at its own rules and its grant.
            Act::Will => match self.chain.explain(supposed).outcome {
                Foreseen::Decides(ForeseenDecision {
                    ground: Ground::RuleFile(file, Some(rule)), ..
                }) => {
                    return TrialGround::Rule(file.lines.get(rule as usize).copied().unwrap_or_default());
                }
                _ => Grants.explain(supposed),
            },
            Act::Publish | Act::Subscribe | Act::Receive => self.chain.explain(supposed).outcome,
        };
        let Foreseen::Decides(ForeseenDecision { ground, .. }) = outcome else { return TrialGround::Nobody };
        match ground {
            Ground::RuleFile(file, Some(rule)) => {
                TrialGround::Rule(file.lines.get(rule as usize).copied().unwrap_or_default())
            }
            Ground::Grant(grant, GrantGround::Rule(rule)) => {
                let lines = grant.rule_file.as_ref().map_or(&[][..], |file| &file.lines);
                TrialGround::Rule(lines.get(rule as usize).copied().unwrap_or_default())
            }
            Ground::Grant(_, GrantGround::Default) => TrialGround::GrantDefault,
            _ => TrialGround::Nobody,
        }
    }
}

/// A hook service that lets everybody in about whom it is asked, and wants to be asked nothing else.
struct LettingIn {
    groups: Vec<String>,
}

impl Decider for LettingIn {
    fn connect(&self, _question: &ConnectQuestion<'_>) -> Answer<ConnectDecision> {
        let attributes = self.groups.iter().map(|group| (GROUP.to_owned(), group.clone())).collect();
        let admission = Admission { attributes, ..Admission::default() };
        Answer::Now(Ruling::new(Source::Rpc, Ok(Decision::Allow(Some(Box::new(admission))))))
    }

    fn want(&self, hook: Hook) -> Want {
        if hook == Hook::Connect { Want::Head } else { Want::Nothing }
    }
}

const fn refused(reason: ReasonCode, by: TrialGround) -> TrialOutcome {
    TrialOutcome { verdict: Err(reason), by, becomes: None }
}

fn without_place() -> TrialOutcome {
    let by = TrialGround::Rewrite("another topic is rewritten to this one");
    refused(ReasonCode::TOPIC_NAME_INVALID, by)
}

fn allowed<A>(verdict: Result<Decision<A>, Undecided>, answer: PacketType) -> Result<(), ReasonCode> {
    match verdict {
        Ok(Decision::Allow(_)) => Ok(()),
        Ok(Decision::Refuse(refusal)) => Err(legal_code(answer, refusal.reason)),
        Err(undecided) => Err(legal_code(answer, undecided.reason())),
    }
}

fn message<'a>(supposed: &Supposed<'a>) -> PublishQuestion<'a> {
    PublishQuestion {
        peer: supposed.peer,
        topic: supposed.name,
        qos: supposed.qos,
        retain: supposed.retain,
        dup: false,
        payload: Payload::Size(u32::try_from(supposed.payload).unwrap_or(u32::MAX)),
        properties: Properties::EMPTY,
        time: supposed.time,
    }
}

fn not_let_in(refusal: &Refusal) -> TrialGround {
    let text = refusal.text.as_deref();
    TrialGround::NotLetIn(match refusal.about {
        About::ClientId => return TrialGround::ClientId,
        About::Unsaid if text == Some(NoTopics::Prefix.text()) => return TrialGround::Prefix,
        About::Username => "no user name, or one that it does not know".to_owned(),
        about => text.map_or_else(|| about.name().to_owned(), str::to_owned),
    })
}

fn supposed_peer(client: &TrialClient, username: Option<&str>, token: Option<RequestToken>) -> Peer {
    let here = Ipv4Addr::LOCALHOST.into();
    let transport = client.transport.unwrap_or(Transport::Tcp);
    let local = SocketAddr::from((here, 0));
    let remote = match (transport, client.address) {
        (Transport::Unix, None) => Address::Process(Credentials { pid: None, uid: 0, gid: 0 }),
        (_, address) => SocketAddr::from((address.unwrap_or(here), 0)).into(),
    };
    let tls = TlsFacts {
        common_name: client.common_name.clone(),
        subject_alt_names: (client.dns.iter().map(|name| format!("DNS:{name}")))
            .chain(client.uris.iter().map(|name| format!("URI:{name}")))
            .collect(),
        fingerprint: client.fingerprint.clone(),
        ..TlsFacts::default()
    };
    // Each certificate has one, also where nobody needs to know it.
    let tls = (tls != TlsFacts::default()).then(|| {
        let fingerprint = tls.fingerprint.clone().or_else(|| Some("0".repeat(64)));
        Box::new(TlsFacts { fingerprint, ..tls })
    });
    let origin = Origin {
        connection_id: ConnectionId(0),
        epoch: 0,
        instance: "trial".into(),
        // No listener has an empty name.
        listener: client.listener.as_deref().unwrap_or_default().into(),
        transport,
        remote,
        local: local.into(),
        tls,
        ws: token.map(|token| Box::new(WsFacts { token: Some(Box::new(token)), ..WsFacts::default() })),
    };
    Peer {
        origin: origin.into(),
        version: client.version.unwrap_or(Version::V5),
        client_id: client.client_id.as_str().into(),
        username: username.map(Into::into),
        said: None,
        broker_client_id: None,
        keep_alive: 0,
        clean_start: true,
        attributes: Box::default(),
        grant: None,
        user_properties: UserProperties::default(),
        encoded: Encoded::default(),
    }
}
