//! One Observe stream: events out in batches, confirmations in.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use mproxy_core::event::Kind;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tonic::codec::Streaming;
use tonic::{Code, Status};

use super::batch_spans::BatchSpans;
use super::buffer::{Batch, Bounds, Confirmed};
use super::clients::{ObservedClients, Reference};
use super::kept::{KeptEvent, KeptEvents};
use super::patience::Patience;
use crate::call_tracer::CallTracer;
use crate::contract::{ClientIdentity, ObserveMessage, StreamRpc, open_stream, read_safe_up_to};
use crate::remote::health::{EndpointEntry, ServiceConnection};
use crate::remote::status::describe_status;
use crate::watch::Watch;

/// Connecting a stream.
const CONNECTED_WITHIN: Duration = Duration::from_secs(5);

/// A message is closed when it is so large: large enough to carry hundreds of events, and together with one more event
/// still below the 4 MiB that services take.
const MESSAGE: usize = 256 << 10;

/// What is taken out of the buffer at a time.
const BATCH: Bounds = Bounds { bytes: MESSAGE, events: 1024 };

/// Clients that a stream keeps introduced at most; beyond, the first is forgotten and introduced again when it is named.
const CLIENTS: usize = 1 << 17;

/// How long the service has to end its side after we have ended ours.
const GOODBYE: Duration = Duration::from_millis(200);

/// Why a stream is over.
#[derive(Debug)]
pub(super) enum ObserveEnd {
    /// mproxy ends, and all is told and confirmed.
    Finished,
    /// The connection that it belongs to is over.
    Gone,
    /// Another endpoint comes first now.
    Moved,
    /// The service ended it.
    Closed,
    /// It broke, could not be opened, or the service reported an error.
    Broken(String),
    /// The service does not implement it.
    Unimplemented,
    /// The service confirmed nothing in time.
    Unconfirmed,
    /// The service confirmed what it was never sent.
    Future { safe_up_to: u64, last_sent: u64 },
}

/// What a stream needs to know.
pub(super) struct StreamSetup {
    pub(super) version: Arc<str>,
    pub(super) instance: Arc<str>,
    /// Names the numbering.
    pub(super) run_id: String,
    /// How long the service may confirm nothing while something waits.
    pub(super) confirm_within: Duration,
    pub(super) kept: Arc<KeptEvents>,
    pub(super) watch: Arc<dyn Watch>,
    pub(super) tracer: Option<Arc<dyn CallTracer>>,
}

impl StreamSetup {
    /// Tells of events over a stream to the endpoint of this connection, until it ends. `moved` says whether another
    /// endpoint comes first, and is asked at each change of one.
    pub(super) async fn run(
        &self,
        connection: &ServiceConnection,
        changes: &mut watch::Receiver<Vec<EndpointEntry>>,
        moved: impl Fn() -> bool,
    ) -> ObserveEnd {
        // A child: when this stream's connection ends, the endpoint is none the worse for it.
        let over = connection.gone.child_token();
        let channel = match timeout(CONNECTED_WITHIN, connection.dial_another(&over)).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(why)) => return ObserveEnd::Broken(why),
            Err(_) => return ObserveEnd::Broken("no connection in time".to_owned()),
        };
        // One message waits here, one or two in hyper and h2 beside what their window takes: the rest stays in the buffer.
        let (messages, body) = mpsc::channel(1);
        let mut opening = pin!(open_stream(StreamRpc::Observe, channel, MessageBody(body)));
        let mut messages = Some(messages);
        let mut incoming: Option<Streaming<Bytes>> = None;
        let mut writer = self.begin();
        let mut patience = Patience::new(self.confirm_within);
        // Armed anew only when it fires: a deadline moves with each confirmation.
        let mut alarm = pin!(sleep(self.confirm_within));
        // The call takes no more messages, and its status is on its way.
        let mut hung_up = false;
        loop {
            if writer.outbox.is_empty() {
                let waiting = writer.fill(self, connection.url());
                patience.sent(waiting, Instant::now());
                if writer.outbox.is_empty() && self.kept.is_over() {
                    messages = None;
                    // All is told and confirmed by other ways, and the service has not answered: there is nobody to
                    // wait for.
                    if incoming.is_none() {
                        return ObserveEnd::Finished;
                    }
                    alarm.as_mut().reset(Instant::now() + GOODBYE);
                }
            }
            if let Some(deadline) = patience.deadline().filter(|_| messages.is_some() && !hung_up) {
                if deadline <= Instant::now() {
                    return ObserveEnd::Unconfirmed;
                }
                if alarm.is_elapsed() || alarm.deadline() > deadline {
                    alarm.as_mut().reset(deadline);
                }
            }
            let place = async {
                match &messages {
                    Some(messages) if !writer.outbox.is_empty() && !hung_up => messages.reserve().await,
                    Some(_) | None => std::future::pending().await,
                }
            };
            // Each of these loses nothing when it is dropped.
            tokio::select! {
                () = over.cancelled() => return self.gone(connection, incoming, opening, writer.spans).await,
                opened = &mut opening, if incoming.is_none() => match opened {
                    Ok(stream) => incoming = Some(stream),
                    Err(status) => return ended(&status),
                },
                message = next_message(&mut incoming) => match message {
                    Ok(Some(message)) => {
                        match self.confirm(message, &mut writer) {
                            Ok(Some(waiting)) => patience.confirmed(waiting, Instant::now()),
                            Ok(None) => {}
                            Err(end) => return end,
                        }
                    }
                    Ok(None) if messages.is_none() => return ObserveEnd::Finished,
                    Ok(None) => return ObserveEnd::Closed,
                    Err(status) => return ended(&status),
                },
                place = place => match place {
                    Ok(place) => if let Some(message) = writer.outbox.pop_front() { place.send(message) },
                    Err(_) => {
                        hung_up = true;
                        alarm.as_mut().reset(Instant::now() + GOODBYE);
                    }
                },
                () = self.kept.wake.notified(), if writer.outbox.is_empty() && messages.is_some() => {}
                () = &mut alarm, if messages.is_none() || hung_up || patience.deadline().is_some() => {
                    if messages.is_none() {
                        return ObserveEnd::Finished;
                    }
                    if hung_up {
                        return ObserveEnd::Closed;
                    }
                }
                _ = changes.changed() => if moved() { return ObserveEnd::Moved },
            }
        }
    }

    fn begin(&self) -> EventWriter {
        self.kept.begin_stream();
        let mut first = ObserveMessage::new();
        // At once and by itself, so that a service can say how far it is before it is sent anything again.
        first.start(&self.version, &self.instance, &self.run_id);
        EventWriter {
            clients: ObservedClients::new(CLIENTS),
            outbox: first.finish().into_iter().collect(),
            spans: BatchSpans::default(),
        }
    }

    /// The service says how far events are safe. Gives whether something still waits, if that was news.
    fn confirm(&self, message: Bytes, writer: &mut EventWriter) -> Result<Option<bool>, ObserveEnd> {
        let up_to = read_safe_up_to(message).map_err(|status| ended(&status))?;
        let (confirmed, waiting) = self.kept.confirm(up_to);
        match confirmed {
            Confirmed::Known => Ok(None),
            Confirmed::Future => {
                Err(ObserveEnd::Future { safe_up_to: up_to, last_sent: self.kept.ever_sent() })
            }
            Confirmed::Released(events) => {
                writer.clients.confirmed(up_to);
                writer.spans.confirm(up_to);
                self.watch.events_confirmed(events.len() as u64);
                Ok(Some(waiting))
            }
        }
    }

    /// The connection ended. What the service said last may still be on its way to us.
    async fn gone(
        &self,
        connection: &ServiceConnection,
        mut incoming: Option<Streaming<Bytes>>,
        mut opening: Pin<&mut impl Future<Output = Result<Streaming<Bytes>, Status>>>,
        mut spans: BatchSpans,
    ) -> ObserveEnd {
        let last = async {
            if incoming.is_none() {
                incoming = Some(opening.as_mut().await?);
            }
            while let Some(message) = next_message(&mut incoming).await? {
                let up_to = read_safe_up_to(message)?;
                spans.confirm(up_to);
                if let (Confirmed::Released(events), _) = self.kept.confirm(up_to) {
                    self.watch.events_confirmed(events.len() as u64);
                }
            }
            Ok(())
        };
        // The endpoint as a whole went: its connector knows, and this stream has done no wrong.
        match timeout(GOODBYE, last).await {
            _ if connection.gone.is_cancelled() => ObserveEnd::Gone,
            Ok(Err(status)) => ended(&status),
            Ok(Ok(())) | Err(_) => ObserveEnd::Closed,
        }
    }
}

async fn next_message(incoming: &mut Option<Streaming<Bytes>>) -> Result<Option<Bytes>, Status> {
    match incoming {
        Some(incoming) => incoming.message().await,
        None => std::future::pending().await,
    }
}

fn ended(status: &Status) -> ObserveEnd {
    match status.code() {
        Code::Ok => ObserveEnd::Closed,
        Code::Unimplemented => ObserveEnd::Unimplemented,
        _ => ObserveEnd::Broken(describe_status(status)),
    }
}

/// Puts messages together.
struct EventWriter {
    clients: ObservedClients<ClientIdentity>,
    outbox: VecDeque<Bytes>,
    spans: BatchSpans,
}

impl EventWriter {
    /// Takes what is to be sent next. Gives whether something that was sent waits to be confirmed.
    fn fill(&mut self, setup: &StreamSetup, endpoint: &str) -> bool {
        let (Batch { events, gaps, resent }, waiting) = setup.kept.next_batch(BATCH);
        if !events.is_empty() {
            setup.watch.events_sent(events.len() as u64, resent as u64);
        }
        if let Some(tracer) = &setup.tracer {
            self.spans.begin(&**tracer, endpoint, &events, resent);
        }
        let mut message = ObserveMessage::new();
        let mut gaps = gaps.into_iter().peekable();
        for (sequence, kept) in events {
            // With the events behind it: a service that confirms these confirms the gap, and has to know of it by then.
            while let Some(gap) = gaps.next_if(|gap| gap.from < sequence) {
                message.gap(gap.from, gap.to);
            }
            self.event(&mut message, sequence, &kept);
            if message.len() >= MESSAGE {
                self.outbox.extend(std::mem::replace(&mut message, ObserveMessage::new()).finish());
            }
        }
        for gap in gaps {
            message.gap(gap.from, gap.to);
        }
        if self.clients.has_forgotten() {
            message.forget(&self.clients.take_forgotten());
        }
        self.outbox.extend(message.finish());
        waiting
    }

    fn event(&mut self, message: &mut ObserveMessage, sequence: u64, kept: &KeptEvent) {
        let connection = kept.client.connection();
        let reference = match self.clients.reference(connection, kept.client.identity()) {
            Reference::Known(reference) => reference,
            Reference::New(reference) => {
                message.introduce(reference, &kept.client);
                reference
            }
        };
        message.event(sequence, reference, &kept.event);
        if kept.event.kind == Kind::Disconnect {
            self.clients.leaves(sequence, connection);
        }
    }
}

/// Messages as they come out of a channel; it ends with the channel.
pub(crate) struct MessageBody(pub(crate) mpsc::Receiver<Bytes>);

impl Body for MessageBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(ready!(self.0.poll_recv(cx)).map(|message| Ok(Frame::data(message))))
    }
}
