//! One stream, message by message. Each wait has a deadline.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tonic::codec::Streaming;
use tonic::{Code, Status};

use super::calls::CheckCalls;
use crate::contract::{StreamRpc, open_stream};
use crate::remote::{MessageBody, describe_status};

/// Messages that wait to be written at most; no more are sent before something is received.
const WAITING: usize = 8;

type OpeningStream = Pin<Box<dyn Future<Output = Result<Streaming<Bytes>, Status>> + Send>>;

pub(super) struct Conversation {
    messages: mpsc::Sender<Bytes>,
    incoming: StreamSide,
}

enum StreamSide {
    /// Many a library sends its headers with its first message only.
    Opening(OpeningStream),
    Open(Box<Streaming<Bytes>>),
    Over,
}

/// Why nothing more comes.
#[derive(Clone, Debug)]
pub(super) enum StreamTrouble {
    /// The service does not implement the stream.
    Unimplemented,
    /// In words.
    Other(String),
}

impl From<Status> for StreamTrouble {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::Unimplemented => Self::Unimplemented,
            _ => Self::Other(describe_status(&status)),
        }
    }
}

impl StreamTrouble {
    pub(super) fn other(text: impl Into<String>) -> Self {
        Self::Other(text.into())
    }

    pub(super) fn text(&self) -> &str {
        match self {
            Self::Unimplemented => "UNIMPLEMENTED",
            Self::Other(text) => text,
        }
    }
}

impl Conversation {
    /// Opens this stream on a connection of its own.
    pub(super) async fn open(calls: &CheckCalls, rpc: StreamRpc) -> Result<Self, StreamTrouble> {
        let channel = calls.dial_another().await.map_err(StreamTrouble::Other)?;
        let (messages, body) = mpsc::channel(WAITING);
        let opening = Box::pin(open_stream(rpc, channel, MessageBody(body)));
        Ok(Self { messages, incoming: StreamSide::Opening(opening) })
    }

    /// Puts a message on its way; it leaves while something is waited for.
    pub(super) fn send(&self, message: Bytes) -> Result<(), StreamTrouble> {
        let sent = self.messages.try_send(message);
        sent.map_err(|_| StreamTrouble::other("the service does not read the stream any more"))
    }

    /// The next message.
    pub(super) async fn receive(&mut self, deadline: Instant) -> Result<Bytes, StreamTrouble> {
        let received = timeout_at(deadline, self.next()).await;
        match received.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time"))) {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(StreamTrouble::other("the service has ended the stream")),
            Err(status) => {
                // What was late may still come; after any other error there is nothing left to be read.
                if status.code() != Code::DeadlineExceeded {
                    self.incoming = StreamSide::Over;
                }
                Err(status.into())
            }
        }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        if let StreamSide::Opening(opening) = &mut self.incoming {
            self.incoming = StreamSide::Open(Box::new(opening.await?));
        }
        match &mut self.incoming {
            StreamSide::Open(stream) => stream.message().await,
            StreamSide::Opening(_) | StreamSide::Over => Ok(None),
        }
    }
}
