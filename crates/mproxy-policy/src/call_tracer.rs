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

/// Somebody who makes spans. Called from sessions: must not block.
pub trait CallTracer: fmt::Debug + Send + Sync {
    /// A call begins.
    fn begin(&self, call: CallStart) -> CallTrace;
}
