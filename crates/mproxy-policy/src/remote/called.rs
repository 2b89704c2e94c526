//! One question by a call, and at another endpoint where nothing comes over the connection of the first: whoever answers
//! first has answered.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::{Code, Status};

use super::decide::silence;
use super::health::{Endpoints, Pick, ServiceConnection};
use super::service_call::ServiceCall;
use super::status::late;
use super::streamed::{StreamResult, ask_streams};
use crate::watch::{MoveReason, Watch};

/// Who answered, and what.
pub(super) type CallAnswer<A> = (Arc<ServiceConnection>, Result<A, Status>);

type BoxedCall<A> = Pin<Box<dyn Future<Output = Result<A, Status>> + Send>>;

/// Asks by a call to this connection. Others than those that were `tried` may be asked, too; `time`: now and its deadline.
pub(super) async fn ask_by_call<E: ServiceCall>(
    endpoints: &Endpoints,
    watch: &dyn Watch,
    connection: &Arc<ServiceConnection>,
    tried: &[Arc<ServiceConnection>],
    request: &E,
    time: (Instant, Instant),
) -> CallAnswer<E::Answer> {
    let (now, deadline) = time;
    // An event that is told twice is one too many.
    let once = !request.rpc().decides() || request.rpc().is_asked_once();
    if endpoints.is_single() || once {
        let call = request.clone().run(&connection.service, deadline.saturating_duration_since(now));
        let result = timeout_at(deadline, call).await.unwrap_or_else(|_| Err(late()));
        return (Arc::clone(connection), result);
    }
    // For whom nobody waits any more it goes on by itself.
    let mut first: BoxedCall<E::Answer> =
        Box::pin(call(Arc::clone(connection), request.clone(), now, deadline));
    let period = silence(deadline.saturating_duration_since(now));
    let mut look = now + period;
    let (other, last) = loop {
        tokio::select! {
            biased;
            result = &mut first => return (Arc::clone(connection), result),
            () = sleep_until(look) => {}
        }
        // Whatever comes is a sign of life, for whichever question it is.
        let last = connection.reads.last();
        let quiet_until = last.max(now) + period;
        if quiet_until > look {
            look = quiet_until;
        } else if let Some(other) = another(endpoints, connection, tried, request) {
            break (other, last);
        } else {
            look += period;
        }
    };
    connection.reads.set_silent(last);
    watch.question_moved(MoveReason::Silent);
    let mut second = Box::pin(ask_other(endpoints, watch, other, request, deadline));
    tokio::select! {
        result = &mut first => match result {
            Err(_) => second.await,
            answered => (Arc::clone(connection), answered),
        },
        (by, result) = &mut second => match result {
            // It may be slow, and the other one not there.
            Err(_) => (Arc::clone(connection), first.await),
            answered => {
                endpoints.keep_overtaken(watch_overtaken(Arc::clone(connection), first, last));
                (by, answered)
            }
        },
    }
}

async fn call<E: ServiceCall>(
    connection: Arc<ServiceConnection>,
    request: E,
    now: Instant,
    deadline: Instant,
) -> Result<E::Answer, Status> {
    let call = request.run(&connection.service, deadline.saturating_duration_since(now));
    timeout_at(deadline, call).await.unwrap_or_else(|_| Err(late()))
}

/// Another endpoint that can be asked this.
fn another<E: ServiceCall>(
    endpoints: &Endpoints,
    connection: &Arc<ServiceConnection>,
    tried: &[Arc<ServiceConnection>],
    request: &E,
) -> Option<Arc<ServiceConnection>> {
    let known: Vec<_> = tried.iter().chain([connection]).cloned().collect();
    let Pick::Connection(other) = endpoints.pick(&known) else { return None };
    other.wants.load().of(request.rpc()).is_some().then_some(other)
}

async fn ask_other<E: ServiceCall>(
    endpoints: &Endpoints,
    watch: &dyn Watch,
    other: Arc<ServiceConnection>,
    request: &E,
    deadline: Instant,
) -> CallAnswer<E::Answer> {
    let now = Instant::now();
    let question = || request.for_stream();
    match ask_streams(endpoints, watch, request.rpc(), &other, question, (now, deadline)).await {
        StreamResult::Answered(by, answer) => {
            let answer = request.clone().read(&by.service, answer);
            (by, answer)
        }
        StreamResult::Late => (other, Err(late())),
        StreamResult::Lost(_) | StreamResult::Silent | StreamResult::NoStream => {
            let answer = call(Arc::clone(&other), request.clone(), now, deadline).await;
            (other, answer)
        }
    }
}

/// Waits for the call that another endpoint's answer has overtaken: if nothing at all comes over its connection until its
/// deadline, that is given up, and connected anew.
async fn watch_overtaken<A>(connection: Arc<ServiceConnection>, first: BoxedCall<A>, last: Instant) {
    let result = first.await;
    let is_late =
        result.is_err_and(|status| matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled));
    if is_late && connection.reads.last() == last {
        connection.gone.cancel();
    }
}
