//! By what something was decided, closer than its [`Source`]: which rule, which answer. It travels with the decision from
//! the place that made it to the decision log, and never to the client.

use std::sync::Arc;
use std::time::Instant;

use mproxy_codec::reason::ReasonCode;
use serde::{Deserialize, Serialize};

use super::Source;
use crate::grant::{Grant, GrantGround};
use crate::rule::RuleFile;
use crate::undecided::Undecided;

/// By what something was decided. Cheap to clone: whatever it names is shared.
#[derive(Clone, Debug, Default)]
pub enum Ground {
    /// Whoever decided has not said.
    #[default]
    Unsaid,
    /// There is nothing closer than the source.
    Source(Source),
    /// A rule of this file, counted from 0; `None`: what the file says about who may connect.
    RuleFile(Arc<RuleFile>, Option<u32>),
    /// The client's grant: this part of it.
    Grant(Arc<Grant>, GrantGround),
    /// The policy service, in this answer.
    Service(Arc<ServiceAnswer>),
    /// The policy service, in an earlier answer that may be used again.
    Cache(Arc<ServiceAnswer>),
    /// A limit that somebody has set for all clients.
    Limit(LimitKind),
    /// A ban, for this reason.
    Ban(Arc<str>),
    /// Nothing was decided, for this reason.
    Undecided(Arc<Undecided>),
}

/// A limit that is set for all clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LimitKind {
    /// The longest keep alive.
    KeepAlive,
    /// How often a client may connect.
    Flapping,
    /// How many logins may fail.
    LoginBackoff,
    /// Bytes of a topic or filter.
    TopicLength,
    /// Levels of a topic or filter.
    TopicLevels,
    /// Subscriptions of a client.
    Subscriptions,
    /// How fast each client may send.
    ClientRate,
    /// How fast all clients of a user name may send together.
    UserRate,
    /// How fast all clients of a listener may send together.
    ListenerRate,
    /// How much of its machine mproxy may use.
    Watermark,
}

impl LimitKind {
    /// For the decision log, `"keep_alive"` for example.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::KeepAlive => "keep_alive",
            Self::Flapping => "flapping",
            Self::LoginBackoff => "login_backoff",
            Self::TopicLength => "topic_length",
            Self::TopicLevels => "topic_levels",
            Self::Subscriptions => "subscriptions",
            Self::ClientRate => "client_rate",
            Self::UserRate => "user_rate",
            Self::ListenerRate => "listener_rate",
            Self::Watermark => "watermark",
        }
    }

    /// With which code a PUBLISH is refused that is over it.
    pub(crate) const fn reason(self) -> ReasonCode {
        match self {
            Self::TopicLength | Self::TopicLevels => ReasonCode::TOPIC_NAME_INVALID,
            Self::KeepAlive
            | Self::Flapping
            | Self::LoginBackoff
            | Self::Subscriptions
            | Self::ClientRate
            | Self::UserRate
            | Self::ListenerRate
            | Self::Watermark => ReasonCode::QUOTA_EXCEEDED,
        }
    }
}

/// An answer of the policy service.
#[derive(Debug, PartialEq, Eq)]
pub struct ServiceAnswer {
    /// The endpoint that gave it.
    pub endpoint: Arc<str>,
    /// When it came.
    pub at: Instant,
}

impl Ground {
    /// The same, or this source where nothing was said.
    #[must_use]
    pub fn or_source(self, source: Source) -> Self {
        match self {
            Self::Unsaid => Self::Source(source),
            said => said,
        }
    }

    /// The same, where the decision is used again.
    #[must_use]
    pub fn cached(self) -> Self {
        match self {
            Self::Service(answer) => Self::Cache(answer),
            _ => Self::Source(Source::Cache),
        }
    }

    /// Who decided; `None` where nobody has said.
    #[must_use]
    pub fn source(&self) -> Option<Source> {
        match self {
            Self::Source(source) => Some(*source),
            Self::RuleFile(..) => Some(Source::Acl),
            Self::Ban(_) => Some(Source::Ban),
            Self::Grant(_, GrantGround::Rate) => Some(Source::Rate),
            Self::Grant(..) => Some(Source::Grant),
            Self::Service(_) => Some(Source::Rpc),
            Self::Cache(_) => Some(Source::Cache),
            Self::Undecided(undecided) => Some(undecided.source()),
            Self::Limit(_) => Some(Source::Limit),
            Self::Unsaid => None,
        }
    }

    /// Who decided: a source's name.
    #[must_use]
    pub fn source_name(&self) -> &'static str {
        self.source().map_or("unspecified", Source::name)
    }

    /// Since when that has held by which it was decided, where it is older than the decision.
    #[must_use]
    pub fn since(&self) -> Option<Instant> {
        match self {
            Self::RuleFile(file, _) => Some(file.loaded),
            Self::Grant(grant, _) => grant.received,
            Self::Service(answer) | Self::Cache(answer) => Some(answer.at),
            Self::Unsaid | Self::Source(_) | Self::Limit(_) | Self::Ban(_) | Self::Undecided(_) => None,
        }
    }
}
