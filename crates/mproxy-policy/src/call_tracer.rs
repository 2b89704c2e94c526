//! Who makes spans of the calls to the policy service. Knows no tracing library.

use std::fmt;
use std::sync::Arc;

use mproxy_codec::reason::ReasonCode;
use mproxy_core::peer::ConnectionId;

use crate::trace_context::TraceContext;
use crate::watch::CallOutcome;

/// A call that begins.
#[derive(Debug)]
pub struct CallStart {
    /// Its RPC, `"AuthPublish"` for example.
    pub rpc: &'static str,
    /// The connection that it is about.
    pub connection: ConnectionId,
    /// What the packet that it is about says in its user properties.
    pub packet: Option<TraceContext>,
    /// Whether it is expected to go over a stream.
    pub streamed: bool,
    /// Whether its answer is only compared.
    pub shadow: bool,
}

/// An event that is told by a call of its own.
#[derive(Debug)]
pub struct EventStart<'a> {
    /// Its RPC, `"Disconnect"` for example.
    pub rpc: &'static str,
    /// The connection in which it happened.
    pub connection: ConnectionId,
    /// The span of its session, which may have ended.
    pub session: &'a TraceContext,
}

/// Events that are written to a stream one after the other.
#[derive(Debug)]
pub struct BatchStart<'a> {
    /// Where they go.
    pub endpoint: &'a str,
    /// How many they are.
    pub events: usize,
    /// How many of them were written before, to another stream.
    pub resent: usize,
    /// The numbers of the first and of the last.
    pub first: u64,
    /// See [`first`](Self::first).
    pub last: u64,
    /// The spans of sessions in which some of them happened.
    pub sessions: &'a [Arc<TraceContext>],
}

/// How a call ended.
#[derive(Debug)]
pub struct CallEnd<'a> {
    /// What came of it.
    pub outcome: CallOutcome,
    /// The endpoint that answered, or should have.
    pub endpoint: Option<&'a str>,
    /// The reason code, if it refused something.
    pub refused: Option<ReasonCode>,
}

/// A call while it is traced. By default it is not.
#[derive(Default)]
pub struct CallTrace {
    /// What the service is told.
    pub context: Option<Arc<TraceContext>>,
    /// The span, if it is recorded.
    pub span: Option<Box<dyn CallSpan>>,
}

/// A span that is recorded. Dropped without an end: nobody waited for the answer any more.
pub trait CallSpan: Send {
    /// The call has ended.
    fn end(self: Box<Self>, end: &CallEnd<'_>);
}

/// The span of a batch. Dropped before it is confirmed: its stream has ended.
pub trait BatchSpan: Send {
    /// The service has confirmed all of its events.
    fn confirm(self: Box<Self>);
}

/// Somebody who makes spans. Called from sessions: must not block.
pub trait CallTracer: fmt::Debug + Send + Sync {
    /// A question begins.
    fn begin(&self, call: CallStart) -> CallTrace;

    /// The span of this connection's session, if it is recorded: what is told of it later belongs to it.
    fn recorded_session(&self, connection: ConnectionId) -> Option<Arc<TraceContext>>;

    /// An event of a session that is recorded is told.
    fn begin_event(&self, event: EventStart<'_>) -> CallTrace;

    /// A batch is written, with events of sessions that are recorded.
    fn begin_batch(&self, batch: &BatchStart<'_>) -> Option<Box<dyn BatchSpan>>;
}
