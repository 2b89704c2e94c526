//! One call to the service: within its deadline, on the first healthy endpoint, and on the next if that one is
//! unhealthy. Knows no hook from another but by name.

use std::sync::Arc;
use std::time::Duration;

use mproxy_core::policy::{Failure, FailureKind, Undecided, Unusable, UnusableKind};
use tokio::time::{Instant, timeout, timeout_at};
use tonic::{Code, Status};

use super::called::ask_by_call;
use super::health::{Endpoints, Pick, ServiceConnection};
use super::service_call::ServiceCall;
use super::status::{describe_status, is_transport_failure, late};
use super::streamed::{StreamResult, ask_streams};
use crate::contract::Rpc;
use crate::post::{UNREADABLE, UNUSABLE};
use crate::watch::{CallOutcome, MoveReason, Watch};

/// How long after a broken call we look whether its connection has ended; the news of both travel apart.
const CLOSE_NOTICE: Duration = Duration::from_millis(50);

/// A question is put into so many streams at most, if they end under it.
const STREAMS_LOST_MOST: u32 = 2;

/// What became of a call that did not fail.
pub(super) enum CallResult<A> {
    /// This endpoint has answered.
    Answered(A, Arc<str>),
    /// Question or answer is larger than a message may be.
    Unusable(Unusable),
    /// The service does not want this call.
    Unwanted,
}

/// What one attempt came to.
enum AttemptResult<A> {
    Done(CallResult<A>),
    /// No other endpoint can do better.
    Failed(Failure),
    /// Perhaps another can.
    Elsewhere(Failure),
    /// The stream ended under it, which says little of the endpoint.
    StreamLost(Failure, Arc<Status>),
}

/// Sends a request to the service before the deadline. At most once on each connection; a connection that was
/// lost meanwhile and made anew counts as another.
pub(super) async fn call_service<E: ServiceCall>(
    endpoints: &Endpoints,
    watch: &dyn Watch,
    request: E,
    deadline: Instant,
) -> Result<CallResult<E::Answer>, Failure> {
    let mut tried: Vec<Arc<ServiceConnection>> = Vec::new();
    let mut last = None;
    // After a stream that ended: to ask again there.
    let mut again: Option<Arc<ServiceConnection>> = None;
    let (mut lost_streams, mut by_call) = (0, false);
    let once = request.rpc().is_asked_once();
    loop {
        let connection = match again.take() {
            Some(connection) => connection,
            None => match next_connection(endpoints, &tried, deadline).await {
                Ok(connection) => connection,
                Err(failure) => return Err(last.unwrap_or(failure)),
            },
        };
        match attempt(endpoints, watch, (&connection, &tried), request.clone(), deadline, by_call).await {
            // Whoever was asked before wanted it; that another does not is no answer to it.
            AttemptResult::Done(CallResult::Unwanted) => return last.map_or(Ok(CallResult::Unwanted), Err),
            AttemptResult::Done(result) => return Ok(result),
            AttemptResult::Failed(failure) => return Err(failure),
            AttemptResult::Elsewhere(failure) if once => return Err(failure),
            // A stream that is not implemented has asked nobody.
            AttemptResult::StreamLost(failure, status) if once && status.code() != Code::Unimplemented => {
                return Err(failure);
            }
            // Kept, so that the caller learns what went wrong with the service, and not that nobody was left to try.
            AttemptResult::Elsewhere(failure) => last = Some(failure),
            AttemptResult::StreamLost(failure, status) => {
                watch.question_moved(MoveReason::Broken);
                lost_streams += 1;
                // By a call of its own goes what is too large, as only there it is known which one it was; and what two
                // streams ended under, as it may be what they ended of.
                by_call |= lost_streams >= STREAMS_LOST_MOST
                    || status.code() == Code::Unimplemented
                    || too_large(request.rpc(), &status).is_some();
                last = Some(failure);
                let other = || endpoints.has_another(&tried, &connection);
                if !connection.gone.is_cancelled() && (by_call || !other()) {
                    again = Some(connection);
                    continue;
                }
            }
        }
        debug_assert!(
            !tried.iter().any(|other| Arc::ptr_eq(other, &connection)),
            "asked twice on one connection"
        );
        tried.push(connection);
    }
}

async fn next_connection(
    endpoints: &Endpoints,
    tried: &[Arc<ServiceConnection>],
    deadline: Instant,
) -> Result<Arc<ServiceConnection>, Failure> {
    let mut changes = None;
    loop {
        match endpoints.pick(tried) {
            Pick::Connection(connection) => return Ok(connection),
            // At once, and without the deadline: every endpoint is known to be down, and a client waits for this.
            Pick::Nobody(errors) => {
                let detail = format!("no endpoint of the policy service is healthy ({errors})");
                return Err(Failure::new(FailureKind::Unavailable, detail));
            }
            Pick::Wait => {}
        }
        // Whoever subscribes looks once more, so that no change is missed in between.
        let Some(changes) = &mut changes else {
            changes = Some(endpoints.changes());
            continue;
        };
        if !matches!(timeout_at(deadline, changes.changed()).await, Ok(Ok(()))) {
            let detail = "not connected to the policy service in time";
            return Err(Failure::new(FailureKind::Deadline, detail));
        }
    }
}

async fn attempt<E: ServiceCall>(
    endpoints: &Endpoints,
    watch: &dyn Watch,
    (connection, tried): (&Arc<ServiceConnection>, &[Arc<ServiceConnection>]),
    request: E,
    deadline: Instant,
    by_call: bool,
) -> AttemptResult<E::Answer> {
    let rpc = request.rpc();
    // The question may be older than what Hello said on this connection.
    if connection.wants.load().of(rpc).is_none() {
        return AttemptResult::Done(CallResult::Unwanted);
    }
    let started = Instant::now();
    let count = |outcome| watch.call(rpc.name(), outcome, started.elapsed());
    let streamed = if by_call {
        StreamResult::NoStream
    } else {
        let question = || request.for_stream();
        ask_streams(endpoints, watch, rpc, connection, question, (started, deadline)).await
    };
    // Another one than was asked first may have answered.
    let answered_by;
    let mut connection = connection;
    let result = match streamed {
        StreamResult::NoStream => {
            let answer =
                ask_by_call(endpoints, watch, connection, tried, &request, (started, deadline)).await;
            answered_by = answer.0;
            connection = &answered_by;
            answer.1
        }
        StreamResult::Answered(by, answer) => {
            answered_by = by;
            connection = &answered_by;
            request.read(&connection.service, answer)
        }
        StreamResult::Late => Err(late()),
        StreamResult::Lost(status) => {
            let failure = failure(rpc, &status).at(&connection.url);
            count(CallOutcome::Failed(failure.kind));
            return AttemptResult::StreamLost(failure, status);
        }
        StreamResult::Silent => {
            let failure = failure(rpc, &Status::unavailable("no answers on the stream")).at(&connection.url);
            count(CallOutcome::Failed(failure.kind));
            return AttemptResult::Elsewhere(failure);
        }
    };
    match result {
        Ok(answer) => {
            connection.strikes.reset();
            count(E::outcome(&answer));
            AttemptResult::Done(CallResult::Answered(answer, Arc::clone(&connection.url)))
        }
        Err(status) => judge_status(endpoints, connection, rpc, &status, deadline, count).await,
    }
}

/// What a status comes to that is no answer: for the question, and for the connection that it came over.
async fn judge_status<A>(
    endpoints: &Endpoints,
    connection: &ServiceConnection,
    rpc: Rpc,
    status: &Status,
    deadline: Instant,
    count: impl Fn(CallOutcome),
) -> AttemptResult<A> {
    // An event that nobody implements is as good as not wanted; a decision that nobody implements is none (ADR 0017).
    if status.code() == Code::Unimplemented && !rpc.decides() {
        connection.strikes.reset();
        endpoints.remove_event(connection, rpc);
        count(CallOutcome::Unimplemented);
        return AttemptResult::Done(CallResult::Unwanted);
    }
    if rpc.decides()
        && let Some(unusable) = unusable(rpc, status)
    {
        connection.strikes.reset();
        count(CallOutcome::Unusable);
        return AttemptResult::Done(CallResult::Unusable(unusable.at(&connection.url)));
    }
    if status.code() == Code::Unimplemented {
        endpoints.warn_unimplemented(connection, rpc);
    }
    let failure = failure(rpc, status).at(&connection.url);
    count(CallOutcome::Failed(failure.kind));
    connection.strikes.note(&failure.detail);
    if is_transport_failure(status) {
        // Another task learns of the connection's end. Without this pause the next pick may be the same broken
        // connection, which `tried` then counts as an endpoint that has failed.
        let notice = CLOSE_NOTICE.min(deadline.saturating_duration_since(Instant::now()));
        let _ = timeout(notice, connection.gone.cancelled()).await;
        return AttemptResult::Elsewhere(failure);
    }
    match status.code() {
        // Strikes: a service that is alive but cannot work keeps its connection for ever, and every question would go there
        // first. After five it is dropped and asked Hello again.
        Code::Unavailable => {
            connection.strikes.strike();
            AttemptResult::Elsewhere(failure)
        }
        // Not elsewhere: what was late here has no time left there.
        Code::DeadlineExceeded | Code::Cancelled => {
            connection.strikes.strike();
            AttemptResult::Failed(failure)
        }
        _ => {
            connection.strikes.reset();
            AttemptResult::Failed(failure)
        }
    }
}

/// What it means that a question came back with this.
pub(crate) fn undecided(rpc: Rpc, status: &Status) -> Undecided {
    unusable(rpc, status).map_or_else(|| failure(rpc, status).into(), Into::into)
}

/// Whether there was an answer, or none, for a reason that the failure rule has nothing to do with.
fn unusable(rpc: Rpc, status: &Status) -> Option<Unusable> {
    if status.code() == Code::Internal && status.message().starts_with(UNUSABLE) {
        let detail = format!("{}: {}", rpc.name(), describe_status(status));
        return Some(Unusable::new(UnusableKind::Invalid, detail));
    }
    too_large(rpc, status)
}

/// Whether one of both messages was over somebody's limit on their size. A client chooses how large they are, so that it
/// must not be a failed answer, which the failure rule might turn into a yes.
fn too_large(rpc: Rpc, status: &Status) -> Option<Unusable> {
    let message = status.message().to_ascii_lowercase();
    match status.code() {
        // tonic on our side, of an answer.
        Code::OutOfRange if message.starts_with("error, decoded message length too large") => {
            Some(Unusable::too_large(format!("{}: {}", rpc.name(), describe_status(status))))
        }
        // A service's library, or whoever stands before it, of a question.
        Code::OutOfRange | Code::ResourceExhausted | Code::Unknown | Code::Internal
            if TOO_LARGE.iter().any(|words| message.contains(words)) =>
        {
            let detail = format!("{}: {}", rpc.name(), describe_status(status));
            Some(Unusable::new(UnusableKind::QuestionTooLarge, detail))
        }
        _ => None,
    }
}

/// In lower case, what is said of a message that is too large.
const TOO_LARGE: [&str; 7] = [
    // tonic
    "message length too large",
    // grpc-go, grpc-js, grpc's core
    "larger than max",
    // grpc-java
    "exceeds maximum size",
    // .NET
    "exceeds the maximum",
    // tonic, of an answer in HTTP without a body
    "http status code 413",
    // nginx, which takes 1 MiB if not told otherwise, and whose page tonic takes for a message; Envoy, and other gateways
    // that answer in gRPC
    "payload too large",
    "entity too large",
];

fn failure(rpc: Rpc, status: &Status) -> Failure {
    let kind = match status.code() {
        Code::DeadlineExceeded => FailureKind::Deadline,
        // A service whose handler was cut short by the deadline may say it like this.
        Code::Cancelled if !is_transport_failure(status) => FailureKind::Deadline,
        // How tonic-prost tells that an answer is no protobuf of its type, and our own room that it is no JSON of it.
        Code::Internal
            if ["failed to decode Protobuf message", UNREADABLE]
                .iter()
                .any(|words| status.message().starts_with(words)) =>
        {
            FailureKind::Unreadable
        }
        // What services say that mean no and do not answer with a Deny.
        Code::PermissionDenied
        | Code::Unauthenticated
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::OutOfRange => FailureKind::Error,
        _ => FailureKind::Unavailable,
    };
    Failure::new(kind, format!("{}: {}", rpc.name(), describe_status(status)))
}
