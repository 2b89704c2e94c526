//! Why nothing was decided: an answer that failed, one that cannot be used, a limit of our own. None of them is ever a
//! yes; the failure rule ([`OnError`](crate::policy::OnError)) speaks of the first alone.

use std::fmt;
use std::sync::Arc;

use mproxy_codec::EncodeError;
use mproxy_codec::reason::ReasonCode;
use mproxy_codec::topic::TopicError;
use serde::{Deserialize, Serialize};

/// An answer that did not come, or cannot be read. Not a refusal: the failure rule says what it means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Which way it failed; a label.
    pub kind: FailureKind,
    /// For the log.
    pub detail: Box<str>,
    /// The endpoint that it came from, or should have.
    pub endpoint: Option<Arc<str>>,
}

impl Failure {
    /// A failure of this kind, explained.
    #[must_use]
    pub fn new(kind: FailureKind, detail: impl Into<Box<str>>) -> Self {
        Self { kind, detail: detail.into(), endpoint: None }
    }

    /// The same, of this endpoint.
    #[must_use]
    pub fn at(self, endpoint: &Arc<str>) -> Self {
        Self { endpoint: Some(Arc::clone(endpoint)), ..self }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.name(), self.detail)
    }
}

/// The ways in which an answer fails: all that the failure rule speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unusable {
    /// What is wrong; a label.
    pub kind: UnusableKind,
    /// The 5.0 code that says it best.
    pub reason: ReasonCode,
    /// For the log.
    pub detail: Box<str>,
    /// The endpoint whose answer it was.
    pub endpoint: Option<Arc<str>>,
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
            | UnusableKind::GrantExpired => ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR,
        };
        Self { kind, reason, detail: detail.into(), endpoint: None }
    }

    /// The same, of this endpoint.
    #[must_use]
    pub fn at(self, endpoint: &Arc<str>) -> Self {
        Self { endpoint: Some(Arc::clone(endpoint)), ..self }
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

    /// It has so many verdicts for so many filters.
    #[must_use]
    pub fn wrong_length(verdicts: usize, filters: usize) -> Self {
        Self::new(UnusableKind::WrongLength, format!("{verdicts} verdicts for {filters} filters"))
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
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.name(), self.detail)
    }
}

/// The ways in which an answer cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
    /// The question itself is larger than a question may be, so that nobody was asked.
    QuestionTooLarge,
}

impl UnusableKind {
    /// All of them, in order.
    pub const ALL: [Self; 6] = [
        Self::WrongLength,
        Self::Invalid,
        Self::TooLarge,
        Self::Grant,
        Self::GrantExpired,
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
    /// The limit of clients that wait to be admitted.
    pub const ADMISSIONS: &str = "admissions";

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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Undecided {
    /// The answer failed.
    Failed(Failure),
    /// It cannot be carried out.
    Unusable(Unusable),
    /// mproxy could not have it answered.
    #[serde(skip)]
    Overloaded(Overload),
}

impl Undecided {
    /// The same, of this endpoint.
    #[must_use]
    pub fn at(self, endpoint: &Arc<str>) -> Self {
        match self {
            Self::Failed(failure) => Self::Failed(failure.at(endpoint)),
            Self::Unusable(unusable) => Self::Unusable(unusable.at(endpoint)),
            overloaded @ Self::Overloaded(_) => overloaded,
        }
    }

    /// The endpoint of the policy service that it is about, if it is one.
    #[must_use]
    pub const fn endpoint(&self) -> Option<&Arc<str>> {
        match self {
            Self::Failed(Failure { endpoint, .. }) | Self::Unusable(Unusable { endpoint, .. }) => {
                endpoint.as_ref()
            }
            Self::Overloaded(_) => None,
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

impl fmt::Display for Undecided {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(failure) => failure.fmt(f),
            Self::Unusable(unusable) => unusable.fmt(f),
            Self::Overloaded(overload) => overload.fmt(f),
        }
    }
}

impl From<Overload> for Undecided {
    fn from(overload: Overload) -> Self {
        Self::Overloaded(overload)
    }
}
