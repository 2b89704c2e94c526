//! The spans of questions to the policy service, below what the packet says, else below its session; and of events that are
//! told by calls, below theirs.

use std::sync::Arc;

use mproxy_core::peer::ConnectionId;
use mproxy_policy::call_tracer::{CallEnd, CallSpan, CallStart, CallTrace, EventStart};
use mproxy_policy::trace_context::TraceContext;
use mproxy_policy::watch::CallOutcome;
use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt as _;
use tracing::info_span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::sampling::Sampling;
use super::span::{MadeBy, Recording, TARGET, to_sdk};

/// The service of the contract.
const SERVICE: &str = "mproxy.v1.Hooks";

pub(super) fn begin(call: CallStart, session: Option<TraceContext>, sampling: &Sampling) -> CallTrace {
    let CallStart { rpc, connection, packet, streamed, shadow } = call;
    let (parent, made_by) = match (&packet, &session) {
        (Some(packet), _) => (Some(packet), MadeBy::Others),
        (None, session) => (session.as_ref(), MadeBy::Us),
    };
    if let Some(parent) = parent
        && !sampling.takes(parent)
    {
        // Nobody would see the span. What the service does is below the same one as it would be with it.
        let told = TraceContext { sampled: false, ..parent.clone() };
        return CallTrace { context: Some(Arc::new(told)), span: None };
    }
    let span = call_span(SERVICE, rpc, parent.map(|parent| (parent, made_by)));
    if let (Some(_), Some(session)) = (&packet, &session) {
        span.add_link(to_sdk(session, MadeBy::Us));
    }
    let (context, recording) = Recording::begin(span);
    if let Some(recording) = &recording {
        describe_call(recording, rpc, connection);
        recording.set("mproxy.streamed", streamed);
        if shadow {
            recording.set("mproxy.shadow", true);
        }
    }
    opened(context, recording, Decides::Yes)
}

/// An event is told by a call of its own.
pub(super) fn begin_event(event: &EventStart<'_>) -> CallTrace {
    let (context, recording) =
        Recording::begin(call_span(SERVICE, event.rpc, Some((event.session, MadeBy::Us))));
    if let Some(recording) = &recording {
        describe_call(recording, event.rpc, event.connection);
    }
    opened(context, recording, Decides::No)
}

/// The span of something that is put to the service, below another one.
pub(super) fn call_span(service: &str, rpc: &str, parent: Option<(&TraceContext, MadeBy)>) -> tracing::Span {
    let name = format!("{service}/{rpc}");
    let span = info_span!(target: TARGET, parent: None, "call", otel.name = &*name, otel.kind = "client");
    if let Some((parent, made_by)) = parent {
        // Fails only for a span that has begun.
        let _ = span.set_parent(Context::new().with_remote_span_context(to_sdk(parent, made_by)));
    }
    span
}

fn describe_call(recording: &Recording, rpc: &'static str, connection: ConnectionId) {
    recording.set("rpc.service", SERVICE);
    recording.set("rpc.method", rpc);
    recording.set("mproxy.connection_id", connection.to_string());
}

fn opened(context: TraceContext, recording: Option<Recording>, decides: Decides) -> CallTrace {
    let open = |recording| Box::new(OpenCall { recording: Some(recording), decides }) as Box<dyn CallSpan>;
    CallTrace { context: Some(Arc::new(context)), span: recording.map(open) }
}

/// Whether an answer is a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decides {
    Yes,
    No,
}

/// A call that waits for its answer.
struct OpenCall {
    /// `None`: it has ended.
    recording: Option<Recording>,
    decides: Decides,
}

impl CallSpan for OpenCall {
    fn end(mut self: Box<Self>, end: &CallEnd<'_>) {
        let Some(recording) = self.recording.take() else { return };
        if let Some(endpoint) = end.endpoint {
            describe_endpoint(&recording, endpoint);
        }
        recording.set("mproxy.outcome", end.outcome.name());
        match (end.outcome, self.decides) {
            (CallOutcome::Answered, Decides::Yes) => {
                recording.set("mproxy.decision", if end.refused.is_some() { "refuse" } else { "allow" });
            }
            (CallOutcome::Answered, Decides::No) => {}
            // Not wanted: the service has been asked for nothing.
            (CallOutcome::Unimplemented, Decides::No) => {}
            (outcome, _) => recording.set_failed(outcome.name()),
        }
        if let Some(reason) = end.refused {
            recording.set("mproxy.reason_code", i64::from(reason.0));
        }
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        if let Some(recording) = self.recording.take() {
            // Its client went, or mproxy ends.
            recording.set("mproxy.outcome", "abandoned");
        }
    }
}

/// The endpoint: `http://host:port`, `https+json://host:port/prefix`, `unix:/path`.
pub(super) fn describe_endpoint(recording: &Recording, endpoint: &str) {
    let scheme = endpoint.split(':').next().unwrap_or_default();
    if scheme.ends_with("+json") {
        recording.set("rpc.system", "http_json");
        recording.set("http.request.method", "POST");
    } else {
        recording.set("rpc.system", "grpc");
    }
    let Some((_, rest)) = endpoint.split_once("://") else {
        recording.set("network.transport", "unix");
        return recording
            .set_text("server.address", endpoint.split_once(':').map_or(endpoint, |(_, path)| path));
    };
    let authority = rest.split('/').next().unwrap_or_default();
    let (host, port) = authority.rsplit_once(':').unwrap_or((authority, ""));
    recording.set_text("server.address", host.trim_start_matches('[').trim_end_matches(']'));
    if let Ok(port) = port.parse::<u16>() {
        recording.set("server.port", i64::from(port));
    }
}
