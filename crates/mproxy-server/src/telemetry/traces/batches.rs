//! The spans of events that go over a stream, one for each batch: below the session of its first event whose span is recorded,
//! and linked with those of others. From when it is written until the service has confirmed all of it.

use mproxy_policy::call_tracer::{BatchSpan, BatchStart};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::calls::{call_span, describe_endpoint};
use super::span::{MadeBy, Recording, to_sdk};

const SERVICE: &str = "mproxy.v1.HookStream";

const RPC: &str = "Observe";

pub(super) fn begin(batch: &BatchStart<'_>) -> Option<Box<dyn BatchSpan>> {
    let (parent, others) = batch.sessions.split_first()?;
    let span = call_span(SERVICE, RPC, Some((parent, MadeBy::Us)));
    for session in others {
        span.add_link(to_sdk(session, MadeBy::Us));
    }
    let (_, recording) = Recording::begin(span);
    let recording = recording?;
    recording.set("rpc.service", SERVICE);
    recording.set("rpc.method", RPC);
    describe_endpoint(&recording, batch.endpoint);
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    recording.set("mproxy.events", number(batch.events as u64));
    recording.set("mproxy.resent_events", number(batch.resent as u64));
    recording.set("mproxy.first_sequence", number(batch.first));
    recording.set("mproxy.last_sequence", number(batch.last));
    Some(Box::new(OpenBatch(Some(recording))))
}

/// A batch that is not confirmed. `None`: it has ended.
struct OpenBatch(Option<Recording>);

impl BatchSpan for OpenBatch {
    fn confirm(mut self: Box<Self>) {
        if let Some(recording) = self.0.take() {
            recording.set("mproxy.outcome", "confirmed");
        }
    }
}

impl Drop for OpenBatch {
    fn drop(&mut self) {
        if let Some(recording) = self.0.take() {
            // Its stream has ended: the events go over the next one.
            recording.set("mproxy.outcome", "unconfirmed");
            recording.set_failed("unconfirmed");
        }
    }
}
