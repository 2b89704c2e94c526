//! One question over the streams of an endpoint, and over those of another where the first has fallen silent: whoever
//! answers first has answered.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use tokio::time::Instant;
use tonic::Status;

use super::decide::{SentQuestion, SlotEvent};
use super::health::{Endpoints, Pick, ServiceConnection};
use crate::contract::{Rpc, StreamAnswer, StreamQuestion};
use crate::watch::{MoveReason, Watch};

/// What came of it.
pub(super) enum StreamResult {
    /// This one answered.
    Answered(Arc<ServiceConnection>, Option<StreamAnswer>),
    /// Its deadline has passed.
    Late,
    /// The stream ended under it, and so did the second one if there was one.
    Lost(Arc<Status>),
    /// The stream fell silent, and there is an endpoint without streams.
    Silent,
    /// There is no stream for it.
    NoStream,
}

/// A question in a stream, and whose that is.
struct InStream {
    asked: SentQuestion,
    connection: Arc<ServiceConnection>,
}

/// Asks over a stream of this connection. `question` makes it as often as it is asked; `time`: now and its deadline.
pub(super) async fn ask_streams(
    endpoints: &Endpoints,
    watch: &dyn Watch,
    rpc: Rpc,
    connection: &Arc<ServiceConnection>,
    question: impl Fn() -> Option<StreamQuestion>,
    (now, deadline): (Instant, Instant),
) -> StreamResult {
    if !connection.decide.are_served() {
        return StreamResult::NoStream;
    }
    let Some(asked) = question().and_then(|one| connection.decide.ask(one, deadline, now, true).ok()) else {
        return StreamResult::NoStream;
    };
    let mut places = [Some(InStream { asked, connection: Arc::clone(connection) }), None];
    loop {
        let (at, event) = poll_fn(|cx| {
            let mut open = places.iter().enumerate().filter_map(|(at, place)| Some((at, place.as_ref()?)));
            match open.find_map(|(at, place)| match place.asked.poll(cx) {
                Poll::Ready(event) => Some((at, event)),
                Poll::Pending => None,
            }) {
                Some(found) => Poll::Ready(found),
                None => Poll::Pending,
            }
        })
        .await;
        match event {
            SlotEvent::Answered(answer) => {
                let by = places[at].take().map_or_else(|| Arc::clone(connection), |place| place.connection);
                return StreamResult::Answered(by, answer);
            }
            SlotEvent::Expired => return StreamResult::Late,
            SlotEvent::Lost => {
                let end = places[at].take().and_then(|place| place.asked.stream_end());
                if places.iter().all(Option::is_none) {
                    let unknown = || Arc::new(Status::unavailable("the stream has ended"));
                    return StreamResult::Lost(end.unwrap_or_else(unknown));
                }
            }
            SlotEvent::Silent if places.iter().any(Option::is_none) && !rpc.is_asked_once() => {
                match elsewhere(endpoints, rpc, connection, &question, deadline) {
                    Elsewhere::Stream(place) => {
                        watch.question_moved(MoveReason::Silent);
                        // There are two places: the stream that fell silent is in one, and the other is free.
                        places[1 - at] = Some(place);
                    }
                    Elsewhere::Call => {
                        watch.question_moved(MoveReason::Silent);
                        return StreamResult::Silent;
                    }
                    Elsewhere::Nowhere => {}
                }
            }
            // It may be asked at one place only, or is open at two already: a third would be load for a service that has trouble enough.
            SlotEvent::Silent => {}
        }
    }
}

enum Elsewhere {
    Stream(InStream),
    /// To an endpoint without streams.
    Call,
    Nowhere,
}

/// Where a question can be asked whose stream is silent: at the next endpoint, else in another stream of the same.
fn elsewhere(
    endpoints: &Endpoints,
    rpc: Rpc,
    connection: &Arc<ServiceConnection>,
    question: &impl Fn() -> Option<StreamQuestion>,
    deadline: Instant,
) -> Elsewhere {
    let ask = |connection: &Arc<ServiceConnection>| {
        let asked = connection.decide.ask(question()?, deadline, Instant::now(), false).ok()?;
        Some(InStream { asked, connection: Arc::clone(connection) })
    };
    if let Pick::Connection(other) = endpoints.pick(std::slice::from_ref(connection))
        && other.wants.load().of(rpc).is_some()
    {
        if let Some(place) = ask(&other) {
            return Elsewhere::Stream(place);
        }
        if !other.decide.are_served() {
            return Elsewhere::Call;
        }
    }
    ask(connection).map_or(Elsewhere::Nowhere, Elsewhere::Stream)
}
