//! The spans of questions to the policy service: below what the packet says, else below its session.

use std::sync::Arc;

use mproxy_policy::call_tracer::{CallEnd, CallSpan, CallStart, CallTrace};
use mproxy_policy::trace_context::TraceContext;
use mproxy_policy::watch::CallOutcome;
use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt as _;
use tracing::info_span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::Sampling;
use super::span::{MadeBy, Recording, TARGET, to_sdk};

/// The service of the contract.
const SERVICE: &str = "mproxy.v1.Hooks";

pub(super) fn begin(call: CallStart, session: Option<TraceContext>, sampling: Sampling) -> CallTrace {
    let CallStart { rpc, connection, packet, streamed } = call;
    let (parent, made_by) = match (&packet, &session) {
        (Some(packet), _) => (Some(packet), MadeBy::Others),
        (None, session) => (session.as_ref(), MadeBy::Us),
    };
    if let Some(parent) = parent
        && !parent.sampled
        && sampling == Sampling::AsParent
    {
        // Nobody would see the span. What the service does is below the same one as it would be with it.
        return CallTrace { context: Some(Arc::new(parent.clone())), span: None };
    }
    let name = format!("{SERVICE}/{rpc}");
    let span = info_span!(target: TARGET, parent: None, "call", otel.name = &*name, otel.kind = "client");
    if let Some(parent) = parent {
        // Fails only for a span that has begun.
        let _ = span.set_parent(Context::new().with_remote_span_context(to_sdk(parent, made_by)));
    }
    if let (Some(_), Some(session)) = (&packet, &session) {
        span.add_link(to_sdk(session, MadeBy::Us));
    }
    let (context, recording) = Recording::begin(span);
    if let Some(recording) = &recording {
        recording.set("rpc.service", SERVICE);
        recording.set("rpc.method", rpc);
        recording.set("mproxy.connection_id", connection.to_string());
        recording.set("mproxy.streamed", streamed);
    }
    let span = recording.map(|recording| Box::new(OpenCall(Some(recording))) as Box<dyn CallSpan>);
    CallTrace { context: Some(Arc::new(context)), span }
}

/// A question that waits for its answer. `None`: it has ended.
struct OpenCall(Option<Recording>);

impl CallSpan for OpenCall {
    fn end(mut self: Box<Self>, end: &CallEnd<'_>) {
        let Some(recording) = self.0.take() else { return };
        if let Some(endpoint) = end.endpoint {
            describe(&recording, endpoint);
        }
        recording.set("mproxy.outcome", end.outcome.name());
        if end.outcome == CallOutcome::Answered {
            recording.set("mproxy.decision", if end.refused.is_some() { "refuse" } else { "allow" });
        } else {
            recording.set_failed(end.outcome.name());
        }
        if let Some(reason) = end.refused {
            recording.set("mproxy.reason_code", i64::from(reason.0));
        }
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        if let Some(recording) = self.0.take() {
            // Its client went, or mproxy ends.
            recording.set("mproxy.outcome", "abandoned");
        }
    }
}

/// The endpoint: `http://host:port`, `https+json://host:port/prefix`, `unix:/path`.
fn describe(recording: &Recording, endpoint: &str) {
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
