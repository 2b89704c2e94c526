//! What is decided: allowed, perhaps with changes, or refused, and how a refusal is to look.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mproxy_codec::reason::ReasonCode;
use mproxy_codec::types::QoS;
use serde::{Deserialize, Serialize};

use super::{Ground, Hook, LimitKind, Source};
use crate::grant::Grant;
use crate::undecided::{Undecided, Unusable};

/// Allowed, perhaps with changes, or refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Decision<A> {
    /// Go on.
    Allow(A),
    /// Do not.
    Refuse(Refusal),
}

/// About a CONNECT; `None` leaves the client as it says it is.
pub type ConnectDecision = Decision<Option<Box<Admission>>>;

/// About a PUBLISH, either direction; `None` leaves the packet as it is.
pub type PublishDecision = Decision<Option<Box<PublishChange>>>;

/// About a SUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum SubscribeDecision {
    /// The same for all of its filters, unchanged.
    All(Decision<()>),
    /// One for each filter, in order.
    Each(Vec<Decision<FilterChange>>),
    /// One for each filter, too; those that were left to others are refused, because nothing was decided about them.
    InPart(Vec<Decision<FilterChange>>, Undecided),
}

/// About a step of an authentication.
pub type ExchangeDecision = Decision<ExchangeStep>;

/// How an authentication goes on.
#[derive(Clone, PartialEq)]
pub enum ExchangeStep {
    /// The client is to answer this (4.12).
    Continue {
        /// Authentication Data for it.
        data: Option<Bytes>,
    },
    /// It is who it says it is.
    Success(Box<Authenticated>),
}

/// What goes with a success. `None`: nothing, and nothing is changed.
#[derive(Clone, Default, PartialEq)]
pub struct Authenticated {
    /// Authentication Data for the client.
    pub data: Option<Bytes>,
    /// A text for it.
    pub text: Option<Box<str>>,
    /// Facts that take the place of those the client had. `None`: they stay.
    pub attributes: Option<Vec<(String, String)>>,
    /// Takes the place of the grant that the client had.
    pub grant: Option<Arc<Grant>>,
}

impl fmt::Debug for ExchangeStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The data may be as good as a password.
        match self {
            Self::Continue { .. } => f.write_str("Continue(..)"),
            Self::Success(success) => f.debug_tuple("Success").field(success).finish(),
        }
    }
}

impl fmt::Debug for Authenticated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticated")
            .field("text", &self.text)
            .field("attributes", &self.attributes)
            .field("grant", &self.grant)
            .finish_non_exhaustive()
    }
}

/// What an adviser knows of each filter of a SUBSCRIBE, in order; `None`: nothing.
pub type PartialDecisions = Vec<Option<Decision<FilterChange>>>;

/// What can be decided about one kind of question.
pub trait Decided: Sized + Send + 'static {
    /// What may be known where an adviser knows a part only. There are no parts but those of a SUBSCRIBE.
    type Part: Send + 'static;

    /// Yes, as it is.
    fn allow() -> Self;

    /// No, like this.
    fn refuse(refusal: Refusal) -> Self;

    /// All of it, where what `part` leaves open came to `rest`.
    fn join(part: Self::Part, rest: Result<Self, Undecided>) -> Self;

    /// Each refusal in it.
    fn for_each_refusal(&mut self, change: impl FnMut(&mut Refusal));
}

impl<A: Send + 'static> Decided for Decision<Option<A>> {
    type Part = Infallible;

    fn allow() -> Self {
        Self::Allow(None)
    }

    fn refuse(refusal: Refusal) -> Self {
        Self::Refuse(refusal)
    }

    fn join(part: Infallible, _rest: Result<Self, Undecided>) -> Self {
        match part {}
    }

    fn for_each_refusal(&mut self, change: impl FnMut(&mut Refusal)) {
        self.refusal_mut().into_iter().for_each(change);
    }
}

impl Decided for ExchangeDecision {
    type Part = Infallible;

    fn allow() -> Self {
        Self::Allow(ExchangeStep::Success(Box::default()))
    }

    fn refuse(refusal: Refusal) -> Self {
        Self::Refuse(refusal)
    }

    fn join(part: Infallible, _rest: Result<Self, Undecided>) -> Self {
        match part {}
    }

    fn for_each_refusal(&mut self, mut change: impl FnMut(&mut Refusal)) {
        if let Self::Refuse(refusal) = self {
            change(refusal);
        }
    }
}

impl Decided for SubscribeDecision {
    type Part = PartialDecisions;

    fn allow() -> Self {
        Self::All(Decision::Allow(()))
    }

    fn refuse(refusal: Refusal) -> Self {
        Self::All(Decision::Refuse(refusal))
    }

    fn join(words: PartialDecisions, rest: Result<Self, Undecided>) -> Self {
        let count = words.iter().filter(|word| word.is_none()).count();
        // The failure rule is one for the whole SUBSCRIBE. Where it says "allow", it must not lift what is known to be
        // refused; so what was not decided is refused here.
        let (rest, undecided) = match rest {
            Ok(Self::All(Decision::Allow(()))) => {
                (vec![Decision::Allow(FilterChange::default()); count], None)
            }
            Ok(Self::All(Decision::Refuse(refusal))) => (vec![Decision::Refuse(refusal); count], None),
            Ok(Self::Each(each)) if each.len() == count => (each, None),
            Ok(Self::InPart(each, undecided)) if each.len() == count => (each, Some(undecided)),
            // Which verdict belongs to which filter cannot be told any more.
            Ok(Self::Each(each) | Self::InPart(each, _)) => {
                let undecided = Undecided::from(Unusable::wrong_length(each.len(), count));
                (vec![Decision::Refuse(undecided.refusal()); count], Some(undecided))
            }
            Err(undecided) => (vec![Decision::Refuse(undecided.refusal()); count], Some(undecided)),
        };
        let mut rest = rest.into_iter();
        // The counts were compared above, so none is missing. If one were, nobody would have allowed that filter.
        let refused = || Decision::Refuse(Refusal::default().by(Ground::Source(Source::Unknown)));
        let each =
            words.into_iter().map(|word| word.or_else(|| rest.next()).unwrap_or_else(refused)).collect();
        match undecided {
            None => Self::Each(each),
            Some(undecided) => Self::InPart(each, undecided),
        }
    }

    fn for_each_refusal(&mut self, change: impl FnMut(&mut Refusal)) {
        match self {
            Self::All(one) => one.refusal_mut().into_iter().for_each(change),
            Self::Each(each) | Self::InPart(each, _) => {
                each.iter_mut().filter_map(Decision::refusal_mut).for_each(change);
            }
        }
    }
}

impl<A> Decision<A> {
    /// The refusal, if it is one.
    pub const fn refusal_mut(&mut self) -> Option<&mut Refusal> {
        match self {
            Self::Allow(_) => None,
            Self::Refuse(refusal) => Some(refusal),
        }
    }
}

/// How a refusal is to look on the wire (docs/refusals.md). Two are equal that look alike there.
#[derive(Clone, Debug, Serialize, Deserialize)]
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
    /// By what it was refused: for the decision log, and never for the client.
    #[serde(skip)]
    pub ground: Ground,
    /// How long the same may be refused without asking.
    pub cache_for: Option<Duration>,
}

impl Refusal {
    /// A refusal with this code, REJECT, and nothing else.
    #[must_use]
    pub const fn new(reason: ReasonCode) -> Self {
        Self {
            reason,
            text: None,
            action: Action::Reject,
            server_reference: None,
            about: About::Unsaid,
            ground: Ground::Unsaid,
            cache_for: None,
        }
    }

    /// The same, for this reason.
    #[must_use]
    pub fn about(self, about: About) -> Self {
        Self { about, ..self }
    }

    /// Whether mproxy has refused it because it has no room for anybody else at present.
    #[must_use]
    pub const fn is_of_watermark(&self) -> bool {
        matches!(self.ground, Ground::Limit(LimitKind::Watermark))
    }

    /// The same, by this.
    #[must_use]
    pub fn by(self, ground: Ground) -> Self {
        Self { ground, ..self }
    }

    /// Of a CONNECT: whether the client is not believed to be who it says it is.
    #[must_use]
    pub const fn is_of_login(&self) -> bool {
        match self.about {
            About::Username | About::Password | About::Token | About::Credentials => true,
            // A hook service says it by its code alone.
            About::Unsaid | About::Service => {
                matches!(self.reason, ReasonCode::BAD_USER_NAME_OR_PASSWORD | ReasonCode::NOT_AUTHORIZED)
            }
            About::ClientId | About::Will | About::KeepAlive | About::Flapping | About::LoginBackoff => false,
        }
    }
}

impl PartialEq for Refusal {
    fn eq(&self, other: &Self) -> bool {
        self.reason == other.reason
            && self.text == other.text
            && self.action == other.action
            // `about` and `ground` are for logs and metrics, and a time is no part of it: two refusals that a client cannot tell apart are the same one.
            && self.server_reference == other.server_reference
    }
}

impl Eq for Refusal {}

/// What of a CONNECT was refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
    /// The token: it is wrong, or there is none.
    Token,
    /// The certificate or token that the listener requires: there is none.
    Credentials,
    /// The policy service refused, and has said itself why.
    Service,
    /// The client has connected too often in a short time.
    Flapping,
    /// The user name: logins of that name from the same address have failed too often.
    LoginBackoff,
}

impl About {
    /// The label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unsaid => "unspecified",
            Self::Username => "username",
            Self::Password => "password",
            Self::ClientId => "client_id",
            Self::Will => "will",
            Self::KeepAlive => "keep_alive",
            Self::Token => "token",
            Self::Credentials => "credentials",
            Self::Service => "policy_service",
            Self::Flapping => "flapping",
            Self::LoginBackoff => "login_backoff",
        }
    }
}

impl Default for Refusal {
    fn default() -> Self {
        Self::new(ReasonCode::NOT_AUTHORIZED)
    }
}

/// What becomes of a refused packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
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

impl Action {
    /// `"reject"`, `"drop"`, `"disconnect"` or `"no_ack"`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reject => "reject",
            Self::Drop => "drop",
            Self::Disconnect => "disconnect",
            Self::NoAck => "no_ack",
        }
    }

    /// What becomes of a packet of this hook for which this was said: a PUBLISH can be refused in all ways, others cannot.
    #[must_use]
    pub const fn carried_out(self, hook: Hook) -> Self {
        match (hook, self) {
            (Hook::Publish, said) => said,
            (_, Self::Disconnect) => Self::Disconnect,
            // Acknowledged to the broker, which learns nothing of it.
            (Hook::Deliver, _) => Self::Drop,
            (Hook::Connect | Hook::Subscribe | Hook::Exchange, _) => Self::Reject,
        }
    }
}

impl Undecided {
    /// Where the refusal comes from that stands in for the decision.
    #[must_use]
    pub const fn source(&self) -> Source {
        match self {
            Self::Failed(_) => Source::FailedClosed,
            Self::Unusable(_) => Source::Unusable,
            Self::Overloaded(_) => Source::Overloaded,
        }
    }

    /// The reason code of that refusal.
    #[must_use]
    pub const fn reason(&self) -> ReasonCode {
        match self {
            Self::Failed(_) => ReasonCode::SERVER_UNAVAILABLE,
            Self::Unusable(unusable) => unusable.reason,
            Self::Overloaded(_) => ReasonCode::QUOTA_EXCEEDED,
        }
    }

    /// The refusal that stands in for the decision.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        Refusal::new(self.reason()).by(Ground::Undecided(Arc::new(self.clone())))
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
    /// Whoever says so has judged what the client authenticates with by the Authentication Method of its CONNECT, too:
    /// nobody is asked what follows in its authentication.
    pub authenticated: bool,
    /// What it may do from now on without anybody being asked.
    pub grant: Option<Arc<Grant>>,
    /// The client identifier that the broker is told in the place of the client's. `None`: that one. Rules, events and the
    /// client itself go on with its own.
    pub broker_client_id: Option<Box<str>>,
    /// What the broker is told in the place of the client's user name and password. `None`: those.
    pub broker_login: Option<Arc<BrokerLogin>>,
}

/// A user name and a password for the broker, whoever the client is.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerLogin {
    /// The user name, if it gets one.
    pub username: Option<Box<str>>,
    /// The password, if it gets one.
    pub password: Option<Bytes>,
}

impl fmt::Debug for BrokerLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BrokerLogin").field("username", &self.username).finish_non_exhaustive()
    }
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
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
    /// How long the same may be allowed without asking.
    pub cache_for: Option<Duration>,
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
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FilterChange {
    /// New topic filter, `$share` included where there is one.
    pub filter: Option<Box<str>>,
    /// The QoS granted at most.
    pub max_qos: Option<QoS>,
    /// How long the same may be allowed without asking.
    pub cache_for: Option<Duration>,
}
