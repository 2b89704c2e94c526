//! Why a session ended, and who caused it. Log level, metric and event follow from this type.

mod text;

pub(crate) use self::text::TOKEN_EXPIRED;
use mproxy_codec::error::Malformed;
use mproxy_codec::reason::ReasonCode;
use mproxy_codec::types::PacketType;

use crate::command::{Dismissal, DismissedBy};
use crate::peer::Side;
use crate::policy::{About, Failure, Hook, LimitKind, Overload, Refusal, Source, Unusable, UnusableKind};

/// Who caused an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Party {
    /// The client's.
    Client,
    /// The broker's.
    Broker,
    /// The policy's: a rule, or the policy service.
    Policy,
    /// That of somebody who operates mproxy, and has disconnected or banned the client.
    Administrator,
    /// mproxy's own.
    Mproxy,
    /// It cannot be told from here.
    Unknown,
}

impl Party {
    /// `"client"`, `"broker"`, `"policy"`, `"administrator"`, `"mproxy"` or `"unknown"`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Broker => "broker",
            Self::Policy => "policy",
            Self::Administrator => "administrator",
            Self::Mproxy => "mproxy",
            Self::Unknown => "unknown",
        }
    }
}

/// How much an operator has to do with an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Everyday life: clients come, go, vanish, and take over their own sessions.
    Routine,
    /// Somebody decided so, or it cannot be told who: worth a line, nothing to mend.
    Notice,
    /// Something does not work.
    Trouble,
    /// mproxy has a fault.
    Bug,
}

/// How a stream ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closed {
    /// In order: an end of file. Where that was a client, it may still read.
    Eof,
    /// With an error, named.
    Error(Box<str>),
}

/// Why the broker could not be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreachable {
    /// In one line.
    pub why: Box<str>,
    /// Who caused it: the broker, or mproxy, which had no means left to ask it.
    pub by: Party,
}

impl Unreachable {
    /// The broker is away, or does not answer.
    #[must_use]
    pub fn away(why: impl Into<Box<str>>) -> Self {
        Self { why: why.into(), by: Party::Broker }
    }

    /// mproxy has no descriptor, port or memory left to ask it with.
    #[must_use]
    pub fn lacking(why: impl Into<Box<str>>) -> Self {
        Self { why: why.into(), by: Party::Mproxy }
    }
}

/// What a session waits for at most so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Deadline {
    /// The client's CONNECT, from accept on.
    Connect,
    /// A client that has said CONNECT, to be admitted and the broker to be reached for it.
    Admission,
    /// The pause between two tries of an admission.
    Retry,
    /// The broker's CONNACK.
    Connack,
    /// The broker's UNSUBACK to an UNSUBSCRIBE of mproxy's own, under whose packet id the client has something to say.
    Unsuback,
    /// A side that is being closed, to take what is still meant for it.
    Close,
    /// The client's grant, to end.
    Grant,
    /// The client's token, to end, and the session with it.
    Token,
    /// The client's grant, to be renewed.
    Refresh,
    /// The renewal of it, to be answered.
    Stale,
    /// The client's authentication, to come to an end.
    Exchange,
}

impl Deadline {
    /// The label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Admission => "admission",
            Self::Retry => "retry",
            Self::Connack => "connack",
            Self::Unsuback => "unsuback",
            Self::Close => "close",
            Self::Grant => "grant",
            Self::Token => "token",
            Self::Refresh => "refresh",
            Self::Stale => "stale",
            Self::Exchange => "exchange",
        }
    }
}

/// Why a session ended.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// The client said DISCONNECT.
    Left {
        /// The reason it gave (0x00 in 3.x).
        reason: ReasonCode,
    },
    /// A side's stream ended without a word.
    Lost {
        /// Which.
        side: Side,
        /// How.
        how: Closed,
    },
    /// The broker said DISCONNECT (5.0).
    BrokerLeft {
        /// The reason it gave.
        reason: ReasonCode,
    },
    /// The broker refused the CONNECT.
    BrokerRefused {
        /// Its CONNACK code, as it was sent.
        code: u8,
    },
    /// A side sent something that is no MQTT.
    Malformed {
        /// Which.
        side: Side,
        /// What, where, and against which rule.
        error: Malformed,
    },
    /// The first thing a side sent is another protocol.
    NotMqtt {
        /// Which.
        side: Side,
        /// What it is, and what to do.
        came: &'static str,
    },
    /// A side sent a packet that may not come now.
    Protocol {
        /// Which.
        side: Side,
        /// The packet.
        packet: PacketType,
        /// What is wrong with it.
        what: &'static str,
        /// The rule's number.
        rule: &'static str,
        /// The 5.0 code for it.
        reason: ReasonCode,
    },
    /// Something took too long.
    TooLate(Deadline),
    /// The policy refused, and the session ends with it.
    Refused {
        /// Which hook.
        hook: Hook,
        /// As it said.
        refusal: Box<Refusal>,
    },
    /// The policy refused to renew the client's grant.
    RenewalRefused {
        /// As it said.
        refusal: Box<Refusal>,
    },
    /// An answer failed, and the failure rule ends the session.
    PolicyFailed {
        /// Which hook.
        hook: Hook,
        /// How it failed.
        failure: Box<Failure>,
    },
    /// An answer came that cannot be carried out, and the session ends with it.
    PolicyUnusable {
        /// Which hook.
        hook: Hook,
        /// What is wrong with it.
        unusable: Box<Unusable>,
    },
    /// A limit of mproxy's own kept a question from being answered, and the session ends with it.
    Overloaded {
        /// Which hook.
        hook: Hook,
        /// Which limit.
        overload: Box<Overload>,
    },
    /// The broker could not be reached.
    Unreachable(Unreachable),
    /// The broker had the CONNECT, and closed instead of answering. The client's bytes may be why, or the broker's state.
    ClosedBeforeConnack {
        /// How.
        how: Closed,
    },
    /// Somebody ended it from outside.
    Kicked {
        /// The 5.0 reason the client is given.
        reason: ReasonCode,
        /// What else was said.
        dismissal: Option<Box<Dismissal>>,
    },
    /// The client's packet is more than mproxy may hold for it, and cannot be answered in other words.
    OverBudget {
        /// The packet.
        packet: PacketType,
    },
    /// The client sends faster than it may, by more than it may be kept waiting for.
    RateExceeded {
        /// The packet that would have had to wait.
        packet: PacketType,
        /// The limit for all that says so; `None`: its grant.
        limit: Option<LimitKind>,
    },
    /// The client did not read what waits for it, while there was no room for more in the budget that all share.
    Unread,
    /// The client did not read in time what had left for it before a command took something back. Its stream was cut.
    RecallUnread,
    /// mproxy is being stopped. An open session is sent elsewhere where another server is known: "the client should
    /// temporarily use another server" (3.14.2.1), and one that cannot is not worse off than with 0x8B.
    Drained {
        /// It is.
        elsewhere: bool,
    },
    /// Descriptors or memory of the machine run short, and it was among the cheapest sessions to lose.
    Shed,
    /// It had not been admitted yet, and its address had most of those that wait for it, when there was no room for
    /// others.
    Evicted,
    /// mproxy itself failed in the middle of it.
    Panicked,
    /// mproxy found itself in a state that cannot be: rather than guess, it ended the session.
    Internal {
        /// What was found.
        what: &'static str,
    },
}

/// Whether the policy service said so, and no administrator.
pub(crate) const fn is_command(dismissal: &Option<Box<Dismissal>>) -> bool {
    matches!(dismissal, Some(dismissal) if matches!(dismissal.by, DismissedBy::PolicyService))
}

impl Fault {
    /// Who caused it.
    #[must_use]
    pub const fn by(&self) -> Party {
        match self {
            Self::Left { .. }
            | Self::OverBudget { .. }
            | Self::RateExceeded { .. }
            | Self::Unread
            | Self::RecallUnread
            | Self::TooLate(Deadline::Connect | Deadline::Close | Deadline::Exchange)
            | Self::Evicted => Party::Client,
            // Another connection of the same client took the session over.
            Self::BrokerLeft { reason: ReasonCode::SESSION_TAKEN_OVER } => Party::Client,
            Self::Lost { side, .. }
            | Self::Malformed { side, .. }
            | Self::NotMqtt { side, .. }
            | Self::Protocol { side, .. } => match side {
                Side::Client => Party::Client,
                Side::Broker => Party::Broker,
            },
            Self::BrokerLeft { .. }
            | Self::BrokerRefused { .. }
            | Self::TooLate(Deadline::Connack | Deadline::Unsuback) => Party::Broker,
            Self::Unreachable(unreachable) => unreachable.by,
            // The client chose a question that is larger than one may be.
            Self::PolicyUnusable { unusable, .. }
                if matches!(unusable.kind, UnusableKind::QuestionTooLarge) =>
            {
                Party::Client
            }
            Self::Refused { refusal, .. } if refusal.is_of_watermark() => Party::Mproxy,
            Self::Refused { .. }
            | Self::RenewalRefused { .. }
            | Self::PolicyFailed { .. }
            | Self::PolicyUnusable { .. }
            | Self::TooLate(Deadline::Grant | Deadline::Token | Deadline::Refresh | Deadline::Stale) => {
                Party::Policy
            }
            Self::Kicked { dismissal, .. } => {
                if is_command(dismissal) {
                    Party::Policy
                } else {
                    Party::Administrator
                }
            }
            Self::Drained { .. }
            | Self::Shed
            | Self::Overloaded { .. }
            | Self::Panicked
            | Self::Internal { .. }
            | Self::TooLate(Deadline::Admission | Deadline::Retry) => Party::Mproxy,
            // A broker may close on a CONNECT that it does not like [MQTT-3.1.4-1], and closes when it goes down.
            // From here both look the same.
            Self::ClosedBeforeConnack { .. } => Party::Unknown,
        }
    }

    /// How much an operator has to do with it.
    #[must_use]
    pub const fn severity(&self) -> Severity {
        match self {
            // What was not decided has had its own line.
            Self::PolicyFailed { .. } | Self::PolicyUnusable { .. } | Self::Overloaded { .. } => {
                Severity::Routine
            }
            // That there is none left has had its own line.
            Self::Refused { refusal, .. } if refusal.is_of_watermark() => Severity::Routine,
            Self::Panicked | Self::Internal { .. } => Severity::Bug,
            // That the broker ends a session, or refuses one, is its right: a takeover, a kick, a keep alive that has
            // passed. 3.x brokers can only close.
            Self::BrokerLeft { reason: ReasonCode::SESSION_TAKEN_OVER } => Severity::Routine,
            Self::BrokerLeft { .. } | Self::BrokerRefused { .. } | Self::Lost { side: Side::Broker, .. } => {
                Severity::Notice
            }
            _ => match self.by() {
                Party::Client => Severity::Routine,
                Party::Policy | Party::Administrator | Party::Mproxy | Party::Unknown => Severity::Notice,
                Party::Broker => Severity::Trouble,
            },
        }
    }

    /// Whether a client that waits for its CONNACK meets trouble rather than a refusal: nobody has said no to it, and it
    /// may fare better in a moment, or elsewhere.
    #[must_use]
    pub const fn is_trouble(&self) -> bool {
        match self {
            Self::PolicyFailed { .. }
            | Self::Overloaded { .. }
            | Self::Unreachable(_)
            | Self::ClosedBeforeConnack { .. }
            | Self::Drained { .. }
            | Self::Shed
            | Self::Evicted
            | Self::Panicked
            | Self::Internal { .. }
            | Self::TooLate(Deadline::Admission | Deadline::Retry | Deadline::Connack)
            | Self::Lost { side: Side::Broker, .. }
            | Self::Malformed { side: Side::Broker, .. }
            | Self::NotMqtt { side: Side::Broker, .. }
            | Self::Protocol { side: Side::Broker, .. } => true,
            // That it has come too often passes by itself. It may not be the client's doing: a broker that keeps restarting
            // makes all clients come again and again, and some of them never do after a refusal.
            Self::Refused { refusal, .. } => matches!(refusal.about, About::Flapping),
            // Somebody said no, or would say the same to the same bytes: an answer that cannot be carried out would
            // not be another.
            Self::Left { .. }
            | Self::Lost { .. }
            | Self::BrokerLeft { .. }
            | Self::BrokerRefused { .. }
            | Self::Malformed { .. }
            | Self::NotMqtt { .. }
            | Self::Protocol { .. }
            | Self::TooLate(_)
            | Self::RenewalRefused { .. }
            | Self::PolicyUnusable { .. }
            | Self::OverBudget { .. }
            | Self::RateExceeded { .. }
            | Self::Unread
            | Self::RecallUnread
            | Self::Kicked { .. } => false,
        }
    }

    /// Whether somebody does not believe a client that connects that it is who it says it is.
    #[must_use]
    pub fn refuses_login(&self) -> bool {
        match self {
            Self::Refused { hook: Hook::Connect | Hook::Exchange, refusal } => refusal.is_of_login(),
            // Return codes of 3.x, and reason codes of 5.0.
            Self::BrokerRefused { code } => matches!(code, 4 | 5 | 0x86 | 0x87),
            _ => false,
        }
    }

    /// Who refused the client by it, as the decision log names them; `None` where nobody did, or where a packet was refused
    /// that has had its own record.
    #[must_use]
    pub fn refused_by(&self) -> Option<&'static str> {
        match self {
            Self::Refused { hook: Hook::Connect | Hook::Exchange, refusal }
            | Self::RenewalRefused { refusal } => Some(refusal.ground.source_name()),
            Self::PolicyFailed { hook: Hook::Connect | Hook::Exchange, .. } => {
                Some(Source::FailedClosed.name())
            }
            Self::PolicyUnusable { hook: Hook::Connect | Hook::Exchange, .. } => {
                Some(Source::Unusable.name())
            }
            Self::Overloaded { hook: Hook::Connect | Hook::Exchange, .. } => Some(Source::Overloaded.name()),
            Self::Malformed { side: Side::Client, .. }
            | Self::NotMqtt { side: Side::Client, .. }
            | Self::Protocol { side: Side::Client, .. } => Some("protocol"),
            Self::Malformed { side: Side::Broker, .. }
            | Self::NotMqtt { side: Side::Broker, .. }
            | Self::Protocol { side: Side::Broker, .. }
            | Self::BrokerRefused { .. }
            | Self::Unreachable(_)
            | Self::ClosedBeforeConnack { .. }
            | Self::TooLate(Deadline::Connack | Deadline::Unsuback) => Some("broker"),
            Self::Kicked { dismissal, .. } => {
                Some(match dismissal.as_deref().map(|dismissal| dismissal.by) {
                    Some(DismissedBy::PolicyService) => Source::Rpc.name(),
                    Some(DismissedBy::Ban) => Source::Ban.name(),
                    Some(DismissedBy::Administrator) | None => "administrator",
                })
            }
            Self::TooLate(Deadline::Token) => Some(Source::Acl.name()),
            Self::TooLate(Deadline::Grant | Deadline::Refresh | Deadline::Stale) => {
                Some(Source::Grant.name())
            }
            Self::OverBudget { .. } | Self::Unread => Some(Source::Budget.name()),
            Self::RecallUnread => Some("limit"),
            Self::RateExceeded { limit: None, .. } => Some(Source::Rate.name()),
            Self::RateExceeded { limit: Some(_), .. } => Some(Source::Limit.name()),
            Self::TooLate(Deadline::Connect | Deadline::Admission | Deadline::Retry | Deadline::Exchange)
            | Self::Evicted => Some("limit"),
            Self::Panicked | Self::Internal { .. } => Some("mproxy"),
            Self::Refused { .. }
            | Self::PolicyFailed { .. }
            | Self::PolicyUnusable { .. }
            | Self::Overloaded { .. }
            | Self::Left { .. }
            | Self::Lost { .. }
            | Self::BrokerLeft { .. }
            | Self::Drained { .. }
            | Self::Shed
            | Self::TooLate(Deadline::Close) => None,
        }
    }

    /// The 5.0 reason code that a client is told.
    #[must_use]
    pub fn reason(&self) -> ReasonCode {
        match self {
            Self::Left { .. } => ReasonCode::SUCCESS,
            Self::Malformed { side: Side::Client, error } => error.reason(),
            Self::Protocol { side: Side::Client, reason, .. } | Self::Kicked { reason, .. } => *reason,
            Self::BrokerLeft { reason } => *reason,
            Self::Refused { refusal, .. } | Self::RenewalRefused { refusal } => refusal.reason,
            Self::PolicyUnusable { unusable, .. } => unusable.reason,
            Self::Overloaded { hook: Hook::Connect | Hook::Exchange, .. } => ReasonCode::SERVER_UNAVAILABLE,
            Self::Overloaded { .. } => ReasonCode::QUOTA_EXCEEDED,
            Self::TooLate(Deadline::Connect | Deadline::Grant | Deadline::Refresh | Deadline::Stale) => {
                ReasonCode::MAXIMUM_CONNECT_TIME
            }
            // It has not shown who it is.
            Self::TooLate(Deadline::Exchange | Deadline::Token) => ReasonCode::NOT_AUTHORIZED,
            Self::OverBudget { .. } | Self::Unread | Self::RecallUnread => ReasonCode::QUOTA_EXCEEDED,
            Self::RateExceeded { .. } => ReasonCode::MESSAGE_RATE_TOO_HIGH,
            Self::Drained { elsewhere: true } => ReasonCode::USE_ANOTHER_SERVER,
            Self::Drained { elsewhere: false } => ReasonCode::SERVER_SHUTTING_DOWN,
            Self::Shed => ReasonCode::SERVER_BUSY,
            Self::Evicted => ReasonCode::QUOTA_EXCEEDED,
            Self::Panicked | Self::Internal { .. } => ReasonCode::UNSPECIFIED_ERROR,
            Self::Lost { .. }
            | Self::BrokerRefused { .. }
            | Self::Malformed { side: Side::Broker, .. }
            | Self::NotMqtt { .. }
            | Self::Protocol { side: Side::Broker, .. }
            | Self::TooLate(
                Deadline::Admission
                | Deadline::Retry
                | Deadline::Connack
                | Deadline::Unsuback
                | Deadline::Close,
            )
            | Self::PolicyFailed { .. }
            | Self::ClosedBeforeConnack { .. }
            | Self::Unreachable(_) => ReasonCode::SERVER_UNAVAILABLE,
        }
    }

    /// A short word for metrics.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        // Dashboards and alerts name these: to change one is to break them.
        match self {
            Self::Left { .. } => "left",
            Self::Lost { .. } => "lost",
            Self::BrokerLeft { reason: ReasonCode::SESSION_TAKEN_OVER } => "taken_over",
            Self::BrokerLeft { .. } => "broker_left",
            Self::BrokerRefused { .. } => "broker_refused",
            Self::Malformed { .. } => "malformed",
            Self::NotMqtt { .. } => "not_mqtt",
            Self::Protocol { .. } => "protocol_error",
            Self::TooLate(Deadline::Grant | Deadline::Token) => "expired",
            Self::TooLate(_) => "too_late",
            Self::Refused { refusal, .. } if refusal.is_of_watermark() => "watermark",
            Self::Refused { .. } => "refused",
            Self::RenewalRefused { .. } => "renewal_refused",
            Self::PolicyFailed { .. } => "policy_failed",
            Self::PolicyUnusable { .. } => "policy_unusable",
            Self::Overloaded { .. } => "overloaded",
            Self::Unreachable(_) => "unreachable",
            Self::ClosedBeforeConnack { .. } => "closed_before_connack",
            Self::Kicked { .. } => "kicked",
            Self::OverBudget { .. } => "over_budget",
            Self::RateExceeded { .. } => "rate_exceeded",
            Self::Unread | Self::RecallUnread => "slow_reader",
            Self::Drained { .. } => "drained",
            Self::Shed => "shed",
            Self::Evicted => "evicted",
            Self::Panicked => "panicked",
            Self::Internal { .. } => "internal",
        }
    }
}
