//! A record of the decision log as a question. What it does not hold is left out of the question or stands for nothing in
//! it: password, payload and its size, will, properties, DUP, the client's transport, certificate, attributes and session
//! settings, the local address, the other filters of its SUBSCRIBE.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use mproxy_codec::packet::subscribe::{FilterRequest, RetainHandling};
use mproxy_codec::property::Properties;
use mproxy_codec::topic::{TopicFilter, check_name};
use mproxy_codec::types::{QoS, Version};
use mproxy_core::peer::{Address, ConnectionId, Credentials, Origin, Peer, Transport};
use mproxy_core::policy::{
    Action, ConnectQuestion, Hook, Payload, PublishQuestion, SubscribeDecision, SubscribeQuestion,
};
use serde_json::Value;
use uuid::Uuid;

use super::super::clients;
use super::{ReplayChoice, ReplayOutcome, changed_filter};
use crate::contract::{AuthConnect, AuthDeliver, AuthPublish, AuthRequest, AuthSubscribe, Rpc, Wants, Way};

/// mproxy's name in each client.
const INSTANCE: &str = "mproxy-replay";

/// Text of so many bytes and more that ends like this was cut when it was recorded: it is another one.
const CUT: (usize, char) = (250, '…');

/// Why a line is no record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UnreadableRecord(pub(super) String);

/// Why a record is not put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SkippedRecord {
    /// It is about no question: a connection that ended for another reason, a step of an authentication.
    NoQuestion,
    /// A CONNECT.
    Connect,
    /// A CONNECT whose password or will was refused, which is not on record.
    Secret,
    /// The rule file decided it, or nobody.
    Rules,
    /// It was refused or allowed without a decision: a limit, a failed or unusable answer.
    Undecided,
    /// A name in it was cut.
    Cut,
    /// The service does not want to be asked about it.
    NotWanted,
}

impl SkippedRecord {
    /// A label.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::NoQuestion => "no_question",
            Self::Connect => "connect",
            Self::Secret => "secret",
            Self::Rules => "rules",
            Self::Undecided => "undecided",
            Self::Cut => "cut",
            Self::NotWanted => "not_wanted",
        }
    }
}

/// A line that is a record.
#[derive(Clone, Debug)]
pub(super) enum ParsedRecord {
    /// With a question.
    Question(ReplayedRecord),
    /// There is nothing to ask.
    Skipped(SkippedRecord),
}

/// A record with a question.
#[derive(Clone, Debug)]
pub(super) struct ReplayedRecord {
    pub(super) question: RecordedQuestion,
    pub(super) recorded: ReplayOutcome,
    pub(super) source: Box<str>,
}

/// What was asked.
#[derive(Clone, Debug)]
pub enum RecordedQuestion {
    /// May this client connect?
    Connect(RecordedClient),
    /// May it publish this?
    Publish(RecordedClient, RecordedMessage),
    /// May it be sent this?
    Deliver(RecordedClient, RecordedMessage),
    /// May it subscribe to this?
    Subscribe(RecordedClient, RecordedFilter),
}

impl RecordedQuestion {
    const fn hook(&self) -> Hook {
        match self {
            Self::Connect(_) => Hook::Connect,
            Self::Publish(..) => Hook::Publish,
            Self::Deliver(..) => Hook::Deliver,
            Self::Subscribe(..) => Hook::Subscribe,
        }
    }
}

/// The client of a record.
#[derive(Clone, Debug)]
pub struct RecordedClient(Arc<Peer>);

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedMessage {
    /// Its topic.
    pub topic: Box<str>,
    /// Its QoS.
    pub qos: QoS,
    /// Its RETAIN flag.
    pub retain: bool,
}

/// A filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedFilter {
    /// As the client sent it.
    pub filter: Box<str>,
    /// The QoS that was asked for.
    pub qos: QoS,
}

impl RecordedClient {
    /// Its client id.
    #[must_use]
    pub fn client_id(&self) -> &str {
        &self.0.client_id
    }

    /// Its user name.
    #[must_use]
    pub fn username(&self) -> Option<&str> {
        self.0.username.as_deref()
    }

    /// Without a password, and as one that is asked for comparison: whether there was one is not on record.
    pub(super) fn question(&self) -> AuthRequest<AuthConnect> {
        let peer = &self.0;
        let connect = &clients::connect_of(peer);
        // The packet's bytes are for those who come back to it later.
        let packet = &Bytes::new();
        AuthRequest::connect_of_shadow(
            &ConnectQuestion { peer, connect, packet, passes_auth: false, time: None },
            Way::Call,
        )
    }
}

impl RecordedMessage {
    fn put<R>(&self, client: &RecordedClient, make: fn(&PublishQuestion<'_>, Way) -> R) -> R {
        let question = PublishQuestion {
            peer: &client.0,
            topic: &self.topic,
            qos: self.qos,
            retain: self.retain,
            dup: false,
            payload: Payload::Size(0),
            properties: Properties::EMPTY,
            time: None,
        };
        make(&question, Way::Call)
    }

    pub(super) fn publish(&self, client: &RecordedClient) -> AuthRequest<AuthPublish> {
        self.put(client, AuthRequest::publish)
    }

    pub(super) fn deliver(&self, client: &RecordedClient) -> AuthRequest<AuthDeliver> {
        self.put(client, AuthRequest::deliver)
    }
}

impl RecordedFilter {
    /// `None`: it is no filter.
    pub(super) fn question(&self, client: &RecordedClient) -> Option<AuthRequest<AuthSubscribe>> {
        let filters = [FilterRequest {
            filter: TopicFilter::new(&self.filter).ok()?,
            qos: self.qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
        }];
        let question = SubscribeQuestion::new(&client.0, &filters, Properties::EMPTY);
        Some(AuthRequest::subscribe(&question, Way::Call))
    }

    pub(super) fn outcome(&self, decision: &SubscribeDecision) -> ReplayOutcome {
        changed_filter(decision, &self.filter, self.qos)
    }
}

impl RecordedQuestion {
    /// Who was asked about.
    #[must_use]
    pub const fn client(&self) -> &RecordedClient {
        match self {
            Self::Connect(client)
            | Self::Publish(client, _)
            | Self::Deliver(client, _)
            | Self::Subscribe(client, _) => client,
        }
    }

    const fn rpc(&self) -> Rpc {
        match self {
            Self::Connect(_) => Rpc::AuthConnect,
            Self::Publish(..) => Rpc::AuthPublish,
            Self::Deliver(..) => Rpc::AuthDeliver,
            Self::Subscribe(..) => Rpc::AuthSubscribe,
        }
    }
}

impl ReplayedRecord {
    /// What a line says.
    ///
    /// # Errors
    /// It is no record.
    pub(super) fn parse(line: &str) -> Result<ParsedRecord, UnreadableRecord> {
        let value: Value =
            serde_json::from_str(line).map_err(|error| UnreadableRecord(format!("no JSON: {error}")))?;
        let record = RecordFields(&value);
        let outcome = record.needed("outcome")?;
        let source = record.needed("source")?;
        record.needed("connection_id")?;
        let hook = record.text("hook");
        if !matches!(hook, Some("connect" | "publish" | "deliver" | "subscribe")) {
            return Ok(ParsedRecord::Skipped(SkippedRecord::NoQuestion));
        }
        if ["client_id", "username", "topic", "filter"].iter().any(|key| record.is_cut(key)) {
            return Ok(ParsedRecord::Skipped(SkippedRecord::Cut));
        }
        // Of a CONNECT that was not whole there is no client.
        let Some(client) = record.client()? else {
            return Ok(ParsedRecord::Skipped(SkippedRecord::NoQuestion));
        };
        let question = match hook {
            Some("publish") => RecordedQuestion::Publish(client, record.message()?),
            Some("deliver") => RecordedQuestion::Deliver(client, record.message()?),
            Some("subscribe") => RecordedQuestion::Subscribe(client, record.filter()?),
            _ if matches!(record.text("about"), Some("password" | "will")) => {
                return Ok(ParsedRecord::Skipped(SkippedRecord::Secret));
            }
            _ => RecordedQuestion::Connect(client),
        };
        let recorded = match outcome {
            "allowed" => ReplayOutcome::Allowed,
            "changed" => ReplayOutcome::Changed,
            "refused" => record.refusal(&question)?,
            other => return Err(UnreadableRecord(format!("unknown outcome {other:?}"))),
        };
        Ok(ParsedRecord::Question(Self { question, recorded, source: source.into() }))
    }

    pub(super) const fn rpc(&self) -> Rpc {
        self.question.rpc()
    }

    /// Whether the service itself had decided, in this answer or in an earlier one.
    pub(super) fn is_by_service(&self) -> bool {
        matches!(&*self.source, "policy_service" | "cache")
    }

    pub(super) fn is_wanted(&self, wants: &Wants) -> bool {
        let Some(wanted) = wants.of(self.rpc()) else { return false };
        match &self.question {
            RecordedQuestion::Publish(_, message) | RecordedQuestion::Deliver(_, message) => {
                wanted.covers(&message.topic)
            }
            RecordedQuestion::Connect(_) | RecordedQuestion::Subscribe(..) => true,
        }
    }
}

impl ParsedRecord {
    /// The record, if it is among what was chosen.
    ///
    /// # Errors
    /// Why it is not.
    pub(super) fn choose(self, choice: ReplayChoice) -> Result<ReplayedRecord, SkippedRecord> {
        let record = match self {
            Self::Question(record) => record,
            Self::Skipped(why) => return Err(why),
        };
        match (&*record.source, &record.question) {
            ("policy_service" | "cache" | "grant", RecordedQuestion::Connect(_)) if !choice.connects => {
                Err(SkippedRecord::Connect)
            }
            ("policy_service" | "cache" | "grant", _) => Ok(record),
            ("acl" | "default_allow" | "default_deny", RecordedQuestion::Connect(_))
                if choice.rules && !choice.connects =>
            {
                Err(SkippedRecord::Connect)
            }
            ("acl" | "default_allow" | "default_deny", _) if choice.rules => Ok(record),
            ("acl" | "default_allow" | "default_deny", _) => Err(SkippedRecord::Rules),
            _ => Err(SkippedRecord::Undecided),
        }
    }
}

/// The object that a line is.
struct RecordFields<'a>(&'a Value);

impl<'a> RecordFields<'a> {
    fn text(&self, key: &str) -> Option<&'a str> {
        self.0.get(key)?.as_str()
    }

    fn needed(&self, key: &str) -> Result<&'a str, UnreadableRecord> {
        self.text(key).ok_or_else(|| UnreadableRecord(format!("no record: {key:?} is missing")))
    }

    fn is_cut(&self, key: &str) -> bool {
        let (len, mark) = CUT;
        self.text(key).is_some_and(|text| text.len() >= len && text.ends_with(mark))
    }

    fn qos(&self) -> Result<QoS, UnreadableRecord> {
        let bits = self.0.get("qos").and_then(Value::as_u64).and_then(|qos| u8::try_from(qos).ok());
        bits.and_then(QoS::from_bits).ok_or_else(|| UnreadableRecord("no record: \"qos\" is missing".into()))
    }

    fn message(&self) -> Result<RecordedMessage, UnreadableRecord> {
        let topic = self.needed("topic")?;
        check_name(topic).map_err(|error| UnreadableRecord(format!("topic: {error}")))?;
        let retain = self.0.get("retain").and_then(Value::as_bool).unwrap_or_default();
        Ok(RecordedMessage { topic: topic.into(), qos: self.qos()?, retain })
    }

    fn filter(&self) -> Result<RecordedFilter, UnreadableRecord> {
        let filter = self.needed("filter")?;
        TopicFilter::new(filter).map_err(|error| UnreadableRecord(format!("filter: {error}")))?;
        Ok(RecordedFilter { filter: filter.into(), qos: self.qos()? })
    }

    fn refusal(&self, question: &RecordedQuestion) -> Result<ReplayOutcome, UnreadableRecord> {
        let code = self.0.get("reason_code").and_then(Value::as_u64).and_then(|code| u8::try_from(code).ok());
        let code = code.ok_or_else(|| UnreadableRecord("no record: \"reason_code\" is missing".into()))?;
        let named = |name: &str| {
            [Action::Reject, Action::Drop, Action::Disconnect, Action::NoAck]
                .into_iter()
                .find(|action| action.name() == name)
        };
        let action = match question {
            // Whatever becomes of the packet, the connection ends.
            RecordedQuestion::Connect(_) => Action::Reject,
            _ => self.text("action").and_then(named).unwrap_or_default(),
        };
        Ok(ReplayOutcome::Refused(code, action.carried_out(question.hook()).name()))
    }

    fn client(&self) -> Result<Option<RecordedClient>, UnreadableRecord> {
        let Some(client_id) = self.text("client_id") else { return Ok(None) };
        let version = match self.text("protocol") {
            Some("3.1") => Version::V31,
            Some("3.1.1") => Version::V311,
            Some("5.0") => Version::V5,
            other => return Err(UnreadableRecord(format!("unknown protocol {other:?}"))),
        };
        let id = Uuid::parse_str(self.text("connection_id").unwrap_or_default());
        let id = id.map_err(|error| UnreadableRecord(format!("connection_id: {error}")))?;
        let unknown = Address::Ip(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
        let remote = self.text("peer_addr").and_then(address).unwrap_or_else(|| unknown.clone());
        let transport = if remote.credentials().is_some() { Transport::Unix } else { Transport::Tcp };
        let origin = Origin {
            connection_id: ConnectionId(id.as_u128()),
            epoch: 0,
            instance: INSTANCE.into(),
            listener: self.text("listener").unwrap_or_default().into(),
            transport,
            remote,
            local: unknown,
            tls: None,
            ws: None,
        };
        let username = self.text("username");
        Ok(Some(RecordedClient(Arc::new(clients::client(origin, version, client_id, username)))))
    }
}

/// An address as a record has it.
fn address(text: &str) -> Option<Address> {
    let Some(process) = text.strip_prefix("unix:") else { return text.parse().ok().map(Address::Ip) };
    let id = |name: &str| {
        let ids = process.split(',').filter_map(|pair| pair.split_once('='));
        ids.filter(|(key, _)| *key == name).find_map(|(_, id)| id.parse().ok())
    };
    Some(Address::Process(Credentials { pid: id("pid"), uid: id("uid")?, gid: id("gid")? }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn line(change: &[(&str, Value)]) -> String {
        let mut line = json!({
            "time": "2026-11-24T02:47:00.507Z", "outcome": "refused", "why": "x", "age_ms": 0,
            "connection_id": "0534d724-0f6b-4672-83ce-aaa12e50c858", "client_id": "desk", "username": "alice",
            "listener": "mqtt", "peer_addr": "127.0.0.1:58136", "protocol": "5.0", "hook": "publish",
            "topic": "secret/x", "qos": 1, "retain": false, "source": "policy_service",
            "action": "reject", "reason_code": 0x87, "reason": "Not authorized",
        });
        for (key, value) in change {
            match value {
                Value::Null => drop(line.as_object_mut().expect("an object").remove(*key)),
                value => line[*key] = value.clone(),
            }
        }
        line.to_string()
    }

    fn choose(change: &[(&str, Value)], choice: ReplayChoice) -> Result<ReplayedRecord, SkippedRecord> {
        ReplayedRecord::parse(&line(change)).expect("a record").choose(choice)
    }

    #[test]
    fn a_record_is_the_question_that_it_was_made_of() {
        let record = choose(&[], ReplayChoice::default()).expect("it is put");
        let RecordedQuestion::Publish(client, message) = record.question else { panic!("a publish") };
        assert_eq!((client.client_id(), client.username()), ("desk", Some("alice")));
        assert_eq!(client.0.origin.connection_id.to_string(), "0534d724-0f6b-4672-83ce-aaa12e50c858");
        assert_eq!(client.0.origin.remote.to_string(), "127.0.0.1:58136");
        let topic = "secret/x".into();
        assert_eq!(message, RecordedMessage { topic, qos: QoS::AtLeastOnce, retain: false });
        assert_eq!(record.recorded, ReplayOutcome::Refused(0x87, "reject"));
        let unix = choose(&[("peer_addr", json!("unix:pid=7,uid=1,gid=2"))], ReplayChoice::default());
        let unix = unix.expect("it is put");
        assert_eq!(unix.question.client().0.origin.transport, Transport::Unix);
        assert_eq!(unix.question.client().0.origin.remote.to_string(), "unix:pid=7,uid=1,gid=2");
    }

    #[test]
    fn what_is_no_question_to_a_service_is_not_put_unless_that_is_asked_for() {
        let (default, all) = (ReplayChoice::default(), ReplayChoice { connects: true, rules: true });
        let long = format!("{}…", "t".repeat(256));
        let connect = [("hook", json!("connect")), ("topic", Value::Null), ("qos", Value::Null)];
        for (change, by_default, with_all) in [
            (vec![], None, None),
            (vec![("source", json!("grant"))], None, None),
            (vec![("source", json!("cache")), ("outcome", json!("allowed"))], None, None),
            (vec![("source", json!("acl"))], Some(SkippedRecord::Rules), None),
            (vec![("source", json!("default_deny"))], Some(SkippedRecord::Rules), None),
            (
                vec![("source", json!("failed_closed"))],
                Some(SkippedRecord::Undecided),
                Some(SkippedRecord::Undecided),
            ),
            (vec![("source", json!("rate"))], Some(SkippedRecord::Undecided), Some(SkippedRecord::Undecided)),
            (vec![("hook", Value::Null)], Some(SkippedRecord::NoQuestion), Some(SkippedRecord::NoQuestion)),
            (vec![("topic", json!(long))], Some(SkippedRecord::Cut), Some(SkippedRecord::Cut)),
            (connect.to_vec(), Some(SkippedRecord::Connect), None),
            (
                [&connect[..], &[("about", json!("password"))]].concat(),
                Some(SkippedRecord::Secret),
                Some(SkippedRecord::Secret),
            ),
        ] {
            assert_eq!(choose(&change, default).err(), by_default, "{change:?}");
            assert_eq!(choose(&change, all).err(), with_all, "{change:?}");
        }
    }

    #[test]
    fn what_is_no_record_is_told_and_nothing_is_made_up_for_it() {
        for wrong in [
            "".to_owned(),
            "{".to_owned(),
            "[]".to_owned(),
            "null".to_owned(),
            line(&[("outcome", Value::Null)]),
            line(&[("outcome", json!("maybe"))]),
            line(&[("source", json!(7))]),
            line(&[("qos", json!(3))]),
            line(&[("topic", json!("a/#"))]),
            line(&[("topic", Value::Null)]),
            line(&[("protocol", json!("4"))]),
            line(&[("reason_code", json!(256))]),
            line(&[("connection_id", json!("x"))]),
            line(&[("hook", json!("subscribe")), ("filter", json!("a/#/b"))]),
        ] {
            assert!(ReplayedRecord::parse(&wrong).is_err(), "{wrong}");
        }
    }
}
