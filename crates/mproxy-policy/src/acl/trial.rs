//! What the rule file would decide about somebody who does not exist: for `mproxy rules`. Asks nobody and changes nothing.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use mproxy_codec::reason::ReasonCode;
use mproxy_codec::topic::{check_filter, check_name};
use mproxy_codec::types::{QoS, Version};
use mproxy_core::grant::{Grant, GrantAnswer, GrantGround};
use mproxy_core::peer::{ConnectionId, Encoded, Origin, Peer, TlsFacts, Transport, UserProperties};
use mproxy_core::policy::{Foreseen, ForeseenDecision, Ground, Supposed};
use mproxy_core::rule::{Act, Who};

use super::client_match::GROUP;
use super::{Acl, NoPrefix};

/// Who it is about. What is empty is not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrialClient {
    /// Its client id.
    pub client_id: String,
    /// Its user name.
    pub username: Option<String>,
    /// Its groups, besides those that the file has for its user name.
    pub groups: Vec<String>,
    /// Names and values of what its token says; a list has several.
    pub claims: Vec<(String, String)>,
    /// The common name of its certificate.
    pub common_name: Option<String>,
    /// The DNS names in there.
    pub dns: Vec<String>,
    /// The URIs in there.
    pub uris: Vec<String>,
    /// Its fingerprint, lower-case hex.
    pub fingerprint: Option<String>,
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
}

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrialOutcome {
    /// With which QoS at most; or why not.
    pub verdict: Result<QoS, ReasonCode>,
    /// By what.
    pub by: TrialGround,
}

/// By what it was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrialGround {
    /// The rule in this line.
    Rule(u32),
    /// The default of the client's grant.
    GrantDefault,
    /// No rule decides: the hook service, or else nobody, is asked.
    Nobody,
    /// Deliveries are not judged, as no rule names `receive`.
    NotJudged,
    /// The client id is none of those that the file allows.
    ClientId,
    /// Its topics have no prefix.
    Prefix,
    /// The text is no topic, or no topic filter.
    NoTopic,
}

impl fmt::Display for TrialGround {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rule(line) => return write!(f, "the rule in line {line}"),
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
    /// What it says of this client and what it does, once it is let in.
    #[must_use]
    pub fn try_out(&self, client: &TrialClient, question: &TrialQuestion) -> TrialOutcome {
        let refused = |by| TrialOutcome { verdict: Err(ReasonCode::NOT_AUTHORIZED), by };
        let is_name = match question.act {
            Act::Subscribe => check_filter(&question.name).is_ok(),
            Act::Publish | Act::Receive | Act::Will => check_name(&question.name).is_ok(),
        };
        if !is_name {
            return refused(TrialGround::NoTopic);
        }
        let mut peer = Arc::new(self.supposed_peer(client));
        if !self.allows_name(&peer) {
            return refused(TrialGround::ClientId);
        }
        let grant = match self.grant_for(&peer) {
            Ok(grant) => grant.map(Arc::new),
            Err(NoPrefix) => return refused(TrialGround::Prefix),
        };
        Peer::change(&mut peer).grant = grant;
        let supposed = Supposed {
            peer: &peer,
            act: question.act,
            name: &question.name,
            qos: question.qos,
            retain: question.retain,
        };
        match self.foresee(&supposed) {
            Foreseen::Decides(ForeseenDecision { verdict, ground: Ground::RuleFile(file, Some(rule)) }) => {
                let line = file.lines.get(rule as usize).copied().unwrap_or_default();
                TrialOutcome { verdict, by: TrialGround::Rule(line) }
            }
            Foreseen::Decides(ForeseenDecision { verdict, .. }) => {
                TrialOutcome { verdict, by: TrialGround::Nobody }
            }
            Foreseen::Passes(..) | Foreseen::Asks(_) => self.by_grant(&supposed),
        }
    }

    /// Where no `[[rules]]` entry decides.
    fn by_grant(&self, supposed: &Supposed<'_>) -> TrialOutcome {
        let refused = |by| TrialOutcome { verdict: Err(ReasonCode::NOT_AUTHORIZED), by };
        let not_judged = || TrialOutcome { verdict: Ok(supposed.qos), by: TrialGround::NotJudged };
        let receives = |grant: &Grant| supposed.act != Act::Receive || grant.receives();
        let Some(grant) = supposed.peer.grant.as_ref().filter(|grant| receives(grant)) else {
            let judged = supposed.act != Act::Receive || self.receives;
            return if judged { refused(TrialGround::Nobody) } else { not_judged() };
        };
        let who = Who::from(&**supposed.peer);
        let (answer, part) = match supposed.act {
            Act::Subscribe => {
                let (answer, part) = grant.judge_filter(who, supposed.name);
                (answer.map(|most| most.min(supposed.qos)), part)
            }
            act => {
                let (answer, part) = grant.judge_message(act, who, supposed.message());
                (answer.map(|()| supposed.qos), part)
            }
        };
        let by = match part {
            GrantGround::Rule(at) => {
                let lines = grant.rule_file.as_ref().map_or(&[][..], |file| &file.lines);
                TrialGround::Rule(lines.get(at as usize).copied().unwrap_or_default())
            }
            _ => TrialGround::GrantDefault,
        };
        match answer {
            GrantAnswer::Ask => refused(TrialGround::Nobody),
            GrantAnswer::Allow(qos) => TrialOutcome { verdict: Ok(qos), by },
            GrantAnswer::Refuse(reason) => TrialOutcome { verdict: Err(reason), by },
        }
    }

    fn supposed_peer(&self, client: &TrialClient) -> Peer {
        let of_file = client.username.as_deref().and_then(|name| self.users.get(name));
        let groups = of_file.into_iter().flat_map(|user| user.groups.iter().map(ToString::to_string));
        let groups = groups.chain(client.groups.iter().cloned()).map(|group| (GROUP.to_owned(), group));
        let claims = client.claims.iter().map(|(name, value)| (format!("claim.{name}"), value.clone()));
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let tls = TlsFacts {
            common_name: client.common_name.clone(),
            subject_alt_names: (client.dns.iter().map(|name| format!("DNS:{name}")))
                .chain(client.uris.iter().map(|name| format!("URI:{name}")))
                .collect(),
            fingerprint: client.fingerprint.clone(),
            ..TlsFacts::default()
        };
        let origin = Origin {
            connection_id: ConnectionId(0),
            epoch: 0,
            instance: "trial".into(),
            listener: "trial".into(),
            transport: Transport::Tcp,
            remote: anywhere.into(),
            local: anywhere.into(),
            tls: (tls != TlsFacts::default()).then(|| Box::new(tls)),
            ws: None,
        };
        Peer {
            origin: origin.into(),
            version: Version::V5,
            client_id: client.client_id.as_str().into(),
            username: client.username.as_deref().map(Into::into),
            keep_alive: 0,
            clean_start: true,
            attributes: groups.chain(claims).collect(),
            grant: None,
            said: None,
            user_properties: UserProperties::default(),
            encoded: Encoded::default(),
        }
    }
}
