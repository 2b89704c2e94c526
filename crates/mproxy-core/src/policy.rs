//! Questions about what a client may do, and the answers to them.
//!
//! The session asks a [`Decider`] in the middle of a packet. What is known is answered at once
//! ([`Answer::Now`]: no wait, no allocation); what has to be fetched is answered by a future
//! ([`Answer::Later`]) that the session hands out as [`Effect::Ask`](crate::Effect::Ask) and hears of again
//! through [`Session::decide`](crate::Session::decide).

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use mproxy_codec::EncodeError;
use mproxy_codec::packet::connect::Connect;
use mproxy_codec::packet::subscribe::FilterRequest;
use mproxy_codec::property::Properties;
use mproxy_codec::reason::ReasonCode;
use mproxy_codec::topic::TopicError;
use mproxy_codec::types::QoS;

use crate::grant::Grant;
use crate::peer::Peer;

/// The hooks that decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// May this client connect?
    Connect,
    /// May it publish this?
    Publish,
    /// May it subscribe to these?
    Subscribe,
    /// May it be sent this?
    Deliver,
}

impl Hook {
    /// All of them, in order.
    pub const ALL: [Self; 4] = [Self::Connect, Self::Publish, Self::Subscribe, Self::Deliver];

    /// `"connect"`, `"publish"`, `"subscribe"` or `"deliver"`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::Deliver => "deliver",
        }
    }
}

/// Something a client wants to do. Borrows from the packet: an adviser copies what it keeps.
#[derive(Clone, Copy, Debug)]
pub enum Question<'a> {
    /// CONNECT, will included.
    Connect(ConnectQuestion<'a>),
    /// PUBLISH from the client.
    Publish(PublishQuestion<'a>),
    /// SUBSCRIBE, all filters of it.
    Subscribe(SubscribeQuestion<'a>),
    /// PUBLISH from the broker.
    Deliver(PublishQuestion<'a>),
}

impl<'a> Question<'a> {
    /// The hook this question belongs to.
    #[must_use]
    pub const fn hook(&self) -> Hook {
        match self {
            Self::Connect(_) => Hook::Connect,
            Self::Publish(_) => Hook::Publish,
            Self::Subscribe(_) => Hook::Subscribe,
            Self::Deliver(_) => Hook::Deliver,
        }
    }

    /// Who asks.
    #[must_use]
    pub const fn peer(&self) -> &'a Arc<Peer> {
        match self {
            Self::Connect(q) => q.peer,
            Self::Publish(q) | Self::Deliver(q) => q.peer,
            Self::Subscribe(q) => q.peer,
        }
    }
}

/// A CONNECT to be admitted or not.
#[derive(Clone, Copy, Debug)]
pub struct ConnectQuestion<'a> {
    /// Who, as the CONNECT says.
    pub peer: &'a Arc<Peer>,
    /// The packet: credentials, will, properties.
    pub connect: &'a Connect<'a>,
    /// The bytes of it, which the session keeps until they have gone to the broker: who has to come back to them later
    /// holds these, and copies nothing. Of no meaning where `refresh` is set.
    pub packet: &'a Bytes,
    /// Set when a running session's grant is to be renewed; there is no password then.
    pub refresh: bool,
}

/// A PUBLISH, in either direction.
#[derive(Clone, Copy, Debug)]
pub struct PublishQuestion<'a> {
    /// Whose session it is.
    pub peer: &'a Arc<Peer>,
    /// The real topic: aliases are resolved.
    pub topic: &'a str,
    /// QoS of the packet.
    pub qos: QoS,
    /// RETAIN flag.
    pub retain: bool,
    /// DUP flag.
    pub dup: bool,
    /// The payload, or only its size where it was not asked for or is larger than what was asked for.
    pub payload: Payload<'a>,
    /// Properties of a 5.0 packet; empty otherwise.
    pub properties: Properties<'a>,
}

/// A payload, or how large it is.
#[derive(Clone, Copy, Debug)]
pub enum Payload<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// Bytes.
    Size(u32),
}

impl Payload<'_> {
    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self {
            Self::Whole(bytes) => bytes.len() as u64,
            Self::Size(size) => u64::from(*size),
        }
    }
}

/// A SUBSCRIBE.
#[derive(Clone, Copy, Debug)]
pub struct SubscribeQuestion<'a> {
    /// Who asks.
    pub peer: &'a Arc<Peer>,
    /// The filters in the client's order; never empty.
    pub filters: &'a [FilterRequest<'a>],
    /// Properties of a 5.0 packet; empty otherwise.
    pub properties: Properties<'a>,
}

/// What a decider says to a question.
pub enum Answer {
    /// I have no opinion: ask the next one.
    Pass,
    /// This is it.
    Now(Ruling),
    /// I have to find out.
    Later(Pending),
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pass => f.write_str("Pass"),
            Self::Now(ruling) => f.debug_tuple("Now").field(ruling).finish(),
            Self::Later(_) => f.write_str("Later(..)"),
        }
    }
}

/// A ruling on its way. Must end by itself (it carries its own deadline) and may be dropped at any time.
pub type Pending = Pin<Box<dyn Future<Output = Ruling> + Send>>;

/// A verdict and where it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Ruling {
    /// Who said so.
    pub source: Source,
    /// What was said.
    pub verdict: Verdict,
}

/// Where a verdict came from; a label of the decision counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// No adviser cares for this hook.
    Unasked,
    /// Advisers are there, and none of them knew.
    Unknown,
    /// The static rule file. It looks at nothing of a PUBLISH but who sent it, its topic, QoS and RETAIN.
    Acl,
    /// The client's grant. It looks at no more than the rule file.
    Grant,
    /// A remembered answer.
    Cache,
    /// The policy service.
    Rpc,
    /// The budget of its connection: nobody was asked.
    Budget,
    /// The answer failed, and the failure rule says allow.
    FailedOpen,
    /// The answer failed, and the failure rule says deny.
    FailedClosed,
    /// An answer came that cannot be carried out.
    Unusable,
    /// A limit of mproxy's own.
    Overloaded,
}

impl Source {
    /// All of them, in order.
    pub const ALL: [Self; 11] = [
        Self::Unasked,
        Self::Unknown,
        Self::Acl,
        Self::Grant,
        Self::Cache,
        Self::Rpc,
        Self::Budget,
        Self::FailedOpen,
        Self::FailedClosed,
        Self::Unusable,
        Self::Overloaded,
    ];

    /// Whether its answer to a PUBLISH stands for all with the same topic, QoS and RETAIN of the same client, until the
    /// decider's [edition](Decider::edition) changes.
    #[must_use]
    pub const fn stands(self) -> bool {
        matches!(self, Self::Acl | Self::Grant)
    }

    /// The label, `"failed_closed"` for example.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unasked => "unasked",
            Self::Unknown => "unknown",
            Self::Acl => "acl",
            Self::Grant => "grant",
            Self::Cache => "cache",
            Self::Rpc => "rpc",
            Self::Budget => "budget",
            Self::FailedOpen => "failed_open",
            Self::FailedClosed => "failed_closed",
            Self::Unusable => "unusable",
            Self::Overloaded => "overloaded",
        }
    }
}

/// What was decided. A verdict of another kind than its question is [unusable](Unusable).
///
/// *Allow* is a value that somebody gave. Of the three that decide nothing, [`Failed`](Self::Failed) alone meets the
/// failure rule ([`OnError`]); the others are refused whatever it says.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// To a CONNECT.
    Connect(Decision<Option<Box<Admission>>>),
    /// To a PUBLISH, either direction; `None` leaves the packet as it is.
    Publish(Decision<Option<Box<PublishChange>>>),
    /// To a SUBSCRIBE: one for each filter, in order.
    Subscribe(Vec<Decision<FilterChange>>),
    /// To a SUBSCRIBE: the same for all of its filters, unchanged.
    SubscribeAll(Decision<()>),
    /// No answer, or none that can be read. The failure rule of the hook says what follows.
    Failed(Failure),
    /// An answer that cannot be carried out, or a question that cannot be put. Refused, whatever the failure rule.
    Unusable(Unusable),
    /// A limit of mproxy's own. Refused, whatever the failure rule.
    Overloaded(Overload),
}

/// Allowed, perhaps with changes, or refused.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision<A> {
    /// Go on.
    Allow(A),
    /// Do not.
    Refuse(Refusal),
}

/// How a refusal is to look on the wire (spec: the refusal table). Two are equal that look alike there.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// A 5.0 reason code of 0x80 or more; mapped for 3.x clients.
    pub reason: ReasonCode,
    /// For the client, where it allows reason strings.
    pub text: Option<Box<str>>,
    /// What becomes of the packet.
    pub action: Action,
    /// Another server to use (5.0 CONNACK and DISCONNECT).
    pub server_reference: Option<Box<str>>,
    /// What of a CONNECT was refused: for the log and metrics, and never for the client.
    pub about: About,
}

impl Refusal {
    /// A refusal with this code, REJECT, and nothing else.
    #[must_use]
    pub const fn new(reason: ReasonCode) -> Self {
        Self { reason, text: None, action: Action::Reject, server_reference: None, about: About::Unsaid }
    }

    /// The same, for this reason.
    #[must_use]
    pub fn about(self, about: About) -> Self {
        Self { about, ..self }
    }
}

impl PartialEq for Refusal {
    fn eq(&self, other: &Self) -> bool {
        self.reason == other.reason
            && self.text == other.text
            && self.action == other.action
            && self.server_reference == other.server_reference
    }
}

impl Eq for Refusal {}

/// What of a CONNECT was refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum About {
    /// Nobody said.
    #[default]
    Unsaid,
    /// The user name: there is none, or nobody knows it.
    Username,
    /// The password.
    Password,
    /// The client identifier.
    ClientId,
    /// The will.
    Will,
    /// The keep alive.
    KeepAlive,
    /// The policy service refused, and has said itself why.
    Service,
}

impl About {
    /// The label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unsaid => "unsaid",
            Self::Username => "username",
            Self::Password => "password",
            Self::ClientId => "client_id",
            Self::Will => "will",
            Self::KeepAlive => "keep_alive",
            Self::Service => "service",
        }
    }
}

impl Default for Refusal {
    fn default() -> Self {
        Self::new(ReasonCode::NOT_AUTHORIZED)
    }
}

/// What becomes of a refused packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Action {
    /// Answered with the reason code.
    #[default]
    Reject,
    /// Acknowledged as if taken, and dropped.
    Drop,
    /// The connection ends.
    Disconnect,
    /// Swallowed and never acknowledged.
    NoAck,
}

/// An answer that did not come, or cannot be read. Not a refusal: the failure rule says what it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which way it failed; a label.
    pub kind: FailureKind,
    /// For the log.
    pub detail: Box<str>,
}

impl Failure {
    /// A failure of this kind, explained.
    #[must_use]
    pub fn new(kind: FailureKind, detail: impl Into<Box<str>>) -> Self {
        Self { kind, detail: detail.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.name(), self.detail)
    }
}

/// The ways in which an answer fails: all that the failure rule speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// It did not come in time.
    Deadline,
    /// The adviser could not be reached, or said that it cannot answer.
    Unavailable,
    /// It could not be decoded.
    Unreadable,
    /// The adviser answered with an error that says no to the question itself: to ask again would bring the same.
    Error,
    /// Its verdict was unset.
    Unspecified,
}

impl FailureKind {
    /// The label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deadline => "deadline",
            Self::Unavailable => "unavailable",
            Self::Unreadable => "unreadable",
            Self::Error => "error",
            Self::Unspecified => "unspecified",
        }
    }
}

/// An answer that came and cannot be carried out, or a question that cannot be put. The packet is refused with the
/// nearest code that it may carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// What is wrong; a label.
    pub kind: UnusableKind,
    /// The 5.0 code that says it best.
    pub reason: ReasonCode,
    /// For the log.
    pub detail: Box<str>,
}

impl Unusable {
    /// Unusable in this way, explained, with the code that goes with it.
    #[must_use]
    pub fn new(kind: UnusableKind, detail: impl Into<Box<str>>) -> Self {
        let reason = match kind {
            UnusableKind::TooLarge | UnusableKind::QuestionTooLarge => ReasonCode::PACKET_TOO_LARGE,
            UnusableKind::WrongLength
            | UnusableKind::Invalid
            | UnusableKind::Grant
            | UnusableKind::GrantExpired
            | UnusableKind::OtherQuestion => ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR,
        };
        Self { kind, reason, detail: detail.into() }
    }

    /// It would make an invalid packet, or says what there is not.
    #[must_use]
    pub fn invalid(detail: impl Into<Box<str>>) -> Self {
        Self::new(UnusableKind::Invalid, detail)
    }

    /// It would make a packet, or a field of one, that is too large.
    #[must_use]
    pub fn too_large(detail: impl Into<Box<str>>) -> Self {
        Self::new(UnusableKind::TooLarge, detail)
    }

    /// It would make a packet with a topic or a filter, called `what`, that is none.
    #[must_use]
    pub fn topic(what: &str, error: TopicError) -> Self {
        let kind = if error == TopicError::TooLong { UnusableKind::TooLarge } else { UnusableKind::Invalid };
        Self::new(kind, format!("{what}: {error}"))
    }

    /// It would make a packet, called `what`, that cannot be written.
    #[must_use]
    pub fn packet(what: &str, error: &EncodeError) -> Self {
        let kind = match error {
            EncodeError::FieldTooLong { .. } | EncodeError::PacketTooLong { .. } => UnusableKind::TooLarge,
            _ => UnusableKind::Invalid,
        };
        Self::new(kind, format!("{what}: {error}"))
    }

    /// It answers a question of another hook.
    #[must_use]
    pub fn other_question() -> Self {
        Self::new(UnusableKind::OtherQuestion, "a verdict to another question")
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.name(), self.detail)
    }
}

/// The ways in which an answer cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UnusableKind {
    /// It has another number of verdicts than there were filters.
    WrongLength,
    /// It would make an invalid packet, or holds a value that there is not.
    Invalid,
    /// It would make a packet that is larger than it may be, or is too large itself.
    TooLarge,
    /// Its grant cannot be put in force.
    Grant,
    /// Its grant has ended already.
    GrantExpired,
    /// It is no answer to this question.
    OtherQuestion,
    /// The question itself is larger than a question may be, so that nobody was asked.
    QuestionTooLarge,
}

impl UnusableKind {
    /// All of them, in order.
    pub const ALL: [Self; 7] = [
        Self::WrongLength,
        Self::Invalid,
        Self::TooLarge,
        Self::Grant,
        Self::GrantExpired,
        Self::OtherQuestion,
        Self::QuestionTooLarge,
    ];

    /// The label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::WrongLength => "wrong_length",
            Self::Invalid => "invalid",
            Self::TooLarge => "too_large",
            Self::Grant => "grant",
            Self::GrantExpired => "grant_expired",
            Self::OtherQuestion => "other_question",
            Self::QuestionTooLarge => "question_too_large",
        }
    }
}

/// A limit of mproxy's own that kept a question from being answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overload {
    /// Which limit; a label, `"questions"` for example.
    pub limit: &'static str,
    /// For the log.
    pub detail: Box<str>,
}

impl Overload {
    /// This limit, explained.
    #[must_use]
    pub fn new(limit: &'static str, detail: impl Into<Box<str>>) -> Self {
        Self { limit, detail: detail.into() }
    }
}

impl fmt::Display for Overload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.limit, self.detail)
    }
}

/// Why there is no decision. Only [`Failed`](Self::Failed) meets the failure rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undecided {
    /// The answer failed.
    Failed(Failure),
    /// It cannot be carried out.
    Unusable(Unusable),
    /// mproxy could not have it answered.
    Overloaded(Overload),
}

impl From<Undecided> for Verdict {
    fn from(undecided: Undecided) -> Self {
        match undecided {
            Undecided::Failed(failure) => Self::Failed(failure),
            Undecided::Unusable(unusable) => Self::Unusable(unusable),
            Undecided::Overloaded(overload) => Self::Overloaded(overload),
        }
    }
}

impl From<Failure> for Undecided {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<Unusable> for Undecided {
    fn from(unusable: Unusable) -> Self {
        Self::Unusable(unusable)
    }
}

/// How an admitted client differs from its CONNECT. `None` leaves a field as it was sent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Admission {
    /// New client identifier.
    pub client_id: Option<Box<str>>,
    /// New user name; empty removes it, and the password with it.
    pub username: Option<Box<str>>,
    /// New password; empty removes it.
    pub password: Option<Bytes>,
    /// New will; [`WillChange::Remove`] takes it away.
    pub will: Option<WillChange>,
    /// Facts for rules, events and later questions.
    pub attributes: Vec<(String, String)>,
    /// What it may do from now on without anybody being asked.
    pub grant: Option<Arc<Grant>>,
}

/// What happens to a will.
#[derive(Clone, Debug, PartialEq)]
pub enum WillChange {
    /// There shall be none.
    Remove,
    /// Fields to replace; `None` keeps what the client sent.
    Replace {
        /// New will topic.
        topic: Option<Box<str>>,
        /// New will payload.
        payload: Option<Bytes>,
        /// New will QoS.
        qos: Option<QoS>,
        /// New will retain.
        retain: Option<bool>,
    },
}

/// How an allowed PUBLISH differs from what was sent. `None` leaves a field alone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PublishChange {
    /// New topic.
    pub topic: Option<Box<str>>,
    /// New payload.
    pub payload: Option<Bytes>,
    /// New RETAIN flag.
    pub retain: Option<bool>,
    /// User properties to set, replacing those of the same name (5.0 only).
    pub set_user_properties: Vec<(String, String)>,
    /// Names of user properties to remove (5.0 only).
    pub remove_user_properties: Vec<String>,
}

impl PublishChange {
    /// Whether it changes nothing at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.topic.is_none()
            && self.payload.is_none()
            && self.retain.is_none()
            && self.set_user_properties.is_empty()
            && self.remove_user_properties.is_empty()
    }
}

/// How an allowed filter differs from what was asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FilterChange {
    /// New topic filter, `$share` included where there is one.
    pub filter: Option<Box<str>>,
    /// The QoS granted at most.
    pub max_qos: Option<QoS>,
}

/// What an answer that [failed](Failure) means. It speaks of nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnError {
    /// The packet is refused with 0x88.
    #[default]
    Deny,
    /// It goes through unchanged.
    Allow,
}

/// What a decider needs to be asked about a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Do not ask me.
    Nothing,
    /// Ask, without the payload.
    Head,
    /// Ask, with payloads of up to so many bytes; larger ones by size only.
    Payload(u32),
}

impl Want {
    /// What both need together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nothing, want) | (want, Self::Nothing) => want,
            (Self::Head, want) | (want, Self::Head) => want,
            (Self::Payload(a), Self::Payload(b)) => Self::Payload(if a > b { a } else { b }),
        }
    }
}

/// What the silence of a decider ([`Answer::Pass`]) means if nobody after it speaks either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// It would have said so if it were allowed: deny.
    Denies,
    /// It did not want to be asked: no objection.
    Abstains,
}

/// Somebody who answers questions.
pub trait Decider: Send + Sync {
    /// Answers, or passes. Must not block: what takes time goes into [`Answer::Later`].
    fn decide(&self, question: &Question<'_>) -> Answer;

    /// Answers a question for another grant ([`refresh`](ConnectQuestion::refresh)), if grants of this client are its to
    /// give; else passes. Only who gave a grant renews it.
    fn renew(&self, question: &ConnectQuestion<'_>) -> Answer {
        let _ = question;
        Answer::Pass
    }

    /// Whether to ask about this hook at all, and with what. Called for each packet: cheap.
    fn want(&self, hook: Hook) -> Want;

    /// The same, where it depends on the client: one with a grant may need deliveries looked into that others do not.
    /// Called for each packet, too.
    fn want_of(&self, hook: Hook, peer: &Peer) -> Want {
        let _ = peer;
        self.want(hook)
    }

    /// What passing means at the end of the chain.
    fn silence(&self) -> Silence;

    /// With how many rules a topic or filter of this client's is compared, at most, to answer a question of this hook. Called
    /// for each packet that is asked about: cheap.
    fn effort(&self, hook: Hook, peer: &Peer) -> usize {
        let _ = (hook, peer);
        1
    }

    /// Another number than before as soon as an answer whose source [stands](Source::stands) may be another than
    /// before. Called for each read: cheap.
    fn edition(&self) -> u64 {
        0
    }
}
