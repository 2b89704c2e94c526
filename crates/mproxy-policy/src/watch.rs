//! Who counts what the advisers do. Knows no metrics library.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use mproxy_core::event::Kind;
use mproxy_core::policy::{FailureKind, Hook};

use crate::comparison::Comparison;

/// How one call to the policy service came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallOutcome {
    /// It was answered, whatever the answer.
    Answered,
    /// It was answered, and the answer cannot be used.
    Unusable,
    /// The service does not implement it.
    Unimplemented,
    /// It was not made: too many are open.
    Overloaded,
    /// It failed.
    Failed(FailureKind),
}

impl CallOutcome {
    /// The label: `"answered"`, `"unusable"`, `"unimplemented"`, `"overloaded"`, or that of the failure.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Unusable => "unusable",
            Self::Unimplemented => "unimplemented",
            Self::Overloaded => "overloaded",
            Self::Failed(kind) => kind.name(),
        }
    }
}

/// Why an event was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// The queue was full.
    QueueFull,
    /// The call that was to deliver it failed.
    CallFailed,
    /// mproxy ended before it was sent.
    Shutdown,
    /// It is larger than a message of a stream may be.
    TooLarge,
}

impl DropReason {
    /// The label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::CallFailed => "call_failed",
            Self::Shutdown => "shutdown",
            Self::TooLarge => "too_large",
        }
    }
}

/// Why a stream of events is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventStreamEnd {
    /// mproxy ended, and all events were confirmed.
    Finished,
    /// The service ended it, or its connection.
    Closed,
    /// It broke, could not be opened, or the service reported an error.
    Broken,
    /// The service does not implement it.
    Unimplemented,
    /// The service confirmed nothing in time.
    Unconfirmed,
    /// The service confirmed events that were never sent.
    Future,
    /// Another endpoint comes first.
    Moved,
}

impl EventStreamEnd {
    /// The label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Closed => "closed",
            Self::Broken => "broken",
            Self::Unimplemented => "unimplemented",
            Self::Unconfirmed => "unconfirmed",
            Self::Future => "cursor_from_the_future",
            Self::Moved => "moved",
        }
    }
}

/// Why an event was not written to the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SpoolLoss {
    /// The spool is as large as it may be.
    Full,
    /// The disk did not take it.
    Failed,
    /// Too many waited for the disk.
    Slow,
}

impl SpoolLoss {
    /// The label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Failed => "failed",
            Self::Slow => "slow",
        }
    }
}

/// What became of a command of the policy service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CommandCount {
    /// Every session that it means has carried it out.
    CarriedOut,
    /// Some have not in time.
    Incomplete,
    /// It cannot be understood, and was carried out for nobody.
    Unusable,
}

impl CommandCount {
    /// All of them, in order.
    pub const ALL: [Self; 3] = [Self::CarriedOut, Self::Incomplete, Self::Unusable];

    /// The label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CarriedOut => "carried_out",
            Self::Incomplete => "incomplete",
            Self::Unusable => "unusable",
        }
    }
}

/// Why an answer on a stream was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AnswerDrop {
    /// There has been no question with this id.
    Unknown,
    /// The question was answered before.
    Duplicate,
    /// Nobody waits for it any more: its deadline passed, its client went, or another answered.
    Late,
}

impl AnswerDrop {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Unknown, Self::Duplicate, Self::Late];

    /// The label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Duplicate => "duplicate",
            Self::Late => "late",
        }
    }
}

/// Why a stream is not used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StreamEnd {
    /// The service ended it, or the connection that it belongs to is over.
    Closed,
    /// It broke, the service reported an error, or it was silent for too long.
    Broken,
    /// The service does not implement it.
    Unimplemented,
    /// The service announced that it will end the connection.
    GoAway,
    /// It was old enough.
    Recycled,
}

impl StreamEnd {
    /// The label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Broken => "broken",
            Self::Unimplemented => "unimplemented",
            Self::GoAway => "goaway",
            Self::Recycled => "recycled",
        }
    }
}

/// Why a question was asked again elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MoveReason {
    /// Its stream was silent.
    Silent,
    /// Its stream ended.
    Broken,
}

impl MoveReason {
    /// The label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Broken => "broken",
        }
    }
}

/// What a token came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenOutcome {
    /// It is valid. What its client may do is another matter.
    Valid,
    /// It is no token, is too large, or there are several.
    Malformed,
    /// Its header or algorithm is not accepted.
    Algorithm,
    /// No key has the id that it names, or verifies its algorithm.
    UnknownKey,
    /// Nobody who has a key has signed it.
    Signature,
    /// It has expired.
    Expired,
    /// It is not valid yet.
    NotYet,
    /// It is of another issuer.
    Issuer,
    /// It is meant for others.
    Audience,
    /// A claim is missing, or of no use.
    Claim,
    /// It is of another client than the one that has authenticated before.
    OtherClient,
    /// There are no keys to verify it with: neither valid nor not.
    NoKeys,
}

impl TokenOutcome {
    /// All of them, in order.
    pub const ALL: [Self; 12] = [
        Self::Valid,
        Self::Malformed,
        Self::Algorithm,
        Self::UnknownKey,
        Self::Signature,
        Self::Expired,
        Self::NotYet,
        Self::Issuer,
        Self::Audience,
        Self::Claim,
        Self::OtherClient,
        Self::NoKeys,
    ];

    /// The label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Malformed => "malformed",
            Self::Algorithm => "algorithm",
            Self::UnknownKey => "unknown_key",
            Self::Signature => "signature",
            Self::Expired => "expired",
            Self::NotYet => "not_yet_valid",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Claim => "claim",
            Self::OtherClient => "other_client",
            Self::NoKeys => "no_keys",
        }
    }
}

/// How one reading of a key set ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyReadOutcome {
    /// Its keys are in force.
    Read,
    /// There is no connection to its server, or its file cannot be read.
    Unreachable,
    /// The server broke off, or sent no HTTP.
    NoAnswer,
    /// The server answered with a status other than 200, a redirect for example.
    Status,
    /// It is larger than it may be.
    TooLarge,
    /// It was not there in time.
    TooLate,
    /// It is no key set, or no key in it can verify tokens.
    Unusable,
}

impl KeyReadOutcome {
    /// All of them, in order.
    pub const ALL: [Self; 7] = [
        Self::Read,
        Self::Unreachable,
        Self::NoAnswer,
        Self::Status,
        Self::TooLarge,
        Self::TooLate,
        Self::Unusable,
    ];

    /// The label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Unreachable => "unreachable",
            Self::NoAnswer => "no_answer",
            Self::Status => "status",
            Self::TooLarge => "too_large",
            Self::TooLate => "too_late",
            Self::Unusable => "unusable",
        }
    }
}

/// Somebody who counts. Called from the advisers' tasks and, for dropped events, from sessions: must not block.
pub trait Watch: Send + Sync {
    /// One call of this RPC (`"AuthPublish"`) ended so, after so long.
    fn call(&self, rpc: &'static str, outcome: CallOutcome, took: Duration) {
        let _ = (rpc, outcome, took);
    }

    /// So many events of this kind were dropped.
    fn events_dropped(&self, kind: Kind, reason: DropReason, count: u64) {
        let _ = (kind, reason, count);
    }

    /// So many events are kept until they are confirmed, and weigh so many bytes.
    fn events_kept(&self, events: usize, bytes: usize) {
        let _ = (events, bytes);
    }

    /// So many events were written to a stream, of which so many had been written to another one before.
    fn events_sent(&self, events: u64, again: u64) {
        let _ = (events, again);
    }

    /// The service confirmed so many events.
    fn events_confirmed(&self, events: u64) {
        let _ = events;
    }

    /// The spool has so many bytes on disk.
    fn event_spool(&self, bytes: u64) {
        let _ = bytes;
    }

    /// So many events were not written to the spool; they are kept in memory only.
    fn events_not_spooled(&self, reason: SpoolLoss, events: u64) {
        let _ = (reason, events);
    }

    /// So many bytes of a spool could not be read.
    fn event_spool_damaged(&self, bytes: u64) {
        let _ = bytes;
    }

    /// A stream of events is open, or not any more.
    fn event_stream(&self, open: bool) {
        let _ = open;
    }

    /// A stream of events is over.
    fn event_stream_ended(&self, reason: EventStreamEnd) {
        let _ = reason;
    }

    /// A command of this kind (`"replace_grant"`) came to this end.
    fn command(&self, kind: &'static str, outcome: CommandCount) {
        let _ = (kind, outcome);
    }

    /// A stream of decisions was opened.
    fn stream_opened(&self) {}

    /// A stream of decisions is not used any more.
    fn stream_ended(&self, reason: StreamEnd) {
        let _ = reason;
    }

    /// A message with questions was written to a stream.
    fn stream_message(&self) {}

    /// So many answers on a stream were dropped.
    fn answers_dropped(&self, reason: AnswerDrop, count: u64) {
        let _ = (reason, count);
    }

    /// A question was asked again elsewhere.
    fn question_moved(&self, reason: MoveReason) {
        let _ = reason;
    }

    /// The shadow was asked the same as the policy service in force, and this came of it.
    fn shadow_compared(&self, comparison: &Comparison<'_>) {
        let _ = comparison;
    }

    /// An endpoint of the shadow became healthy or unhealthy.
    fn shadow_endpoint(&self, url: &str, healthy: bool) {
        let _ = (url, healthy);
    }

    /// A question of this hook was not put to the shadow: too many are under way to it.
    fn shadow_skipped(&self, hook: Hook) {
        let _ = hook;
    }

    /// A token was judged.
    fn token(&self, outcome: TokenOutcome) {
        let _ = outcome;
    }

    /// A key set was read, or could not be.
    fn key_set_read(&self, outcome: KeyReadOutcome) {
        let _ = outcome;
    }

    /// An endpoint of the policy service became healthy or unhealthy.
    fn endpoint(&self, url: &str, healthy: bool) {
        let _ = (url, healthy);
    }
}

/// A watch that counts nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoWatch;

impl Watch for NoWatch {}

/// Somebody who counts, once it is known who. Until then nobody does.
#[derive(Clone, Default)]
pub(crate) struct Watcher(OnceLock<Arc<dyn Watch>>);

impl Watcher {
    /// It is this one, if nobody was named before.
    pub(crate) fn name(&self, watch: &Arc<dyn Watch>) {
        let _ = self.0.set(Arc::clone(watch));
    }

    pub(crate) fn tell(&self, what: impl FnOnce(&dyn Watch)) {
        if let Some(watch) = self.0.get() {
            what(&**watch);
        }
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watcher(..)")
    }
}
