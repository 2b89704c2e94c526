//! A span that is recorded, and what it may hold.

use std::borrow::Cow;
use std::str::FromStr as _;

use mproxy_policy::trace_context::TraceContext;
use opentelemetry::trace::{
    SpanContext, SpanId, Status, TraceContextExt as _, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{Context, Key, KeyValue, Value};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// What our spans are called in `tracing`: the log leaves them out by this, and traces take them and nothing else.
pub(in crate::telemetry) const TARGET: &str = "mproxy::span";

/// Bytes of a value. Client ids may have 64 KiB, and thousands of spans may wait.
const LONGEST_VALUE: usize = 256;

/// A span that is recorded, until it is dropped.
pub(super) struct Recording {
    /// Its end is the span's.
    _span: tracing::Span,
    context: Context,
}

impl Recording {
    /// Begins a span. What it is in the eyes of others, and the span itself if it is recorded.
    pub(super) fn begin(span: tracing::Span) -> (TraceContext, Option<Self>) {
        let context = span.context();
        let own = of_span(context.span().span_context());
        let is_recorded = context.span().is_recording();
        (own, is_recorded.then_some(Self { _span: span, context }))
    }

    pub(super) fn set(&self, key: &'static str, value: impl Into<Value>) {
        self.context.span().set_attribute(KeyValue::new(Key::from_static_str(key), value));
    }

    /// The same with a text from outside, which is cut.
    pub(super) fn set_text(&self, key: &'static str, text: &str) {
        self.set(key, cut(text).into_owned());
    }

    pub(super) fn set_failed(&self, kind: &'static str) {
        self.set("error.type", kind);
        self.context.span().set_status(Status::error(""));
    }
}

/// No more of it than a span may hold.
fn cut(text: &str) -> Cow<'_, str> {
    if text.len() <= LONGEST_VALUE {
        return text.into();
    }
    let end = (0..=LONGEST_VALUE).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    format!("{}…", &text[..end]).into()
}

/// Who made a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MadeBy {
    Us,
    Others,
}

/// For the SDK.
pub(super) fn to_sdk(context: &TraceContext, made_by: MadeBy) -> SpanContext {
    SpanContext::new(
        TraceId::from(context.trace_id),
        SpanId::from(context.span_id),
        TraceFlags::default().with_sampled(context.sampled),
        made_by == MadeBy::Others,
        // Some keys of the standard's second edition are none to the SDK.
        TraceState::from_str(&context.state).unwrap_or_default(),
    )
}

fn of_span(context: &SpanContext) -> TraceContext {
    TraceContext {
        trace_id: u128::from_be_bytes(context.trace_id().to_bytes()),
        span_id: u64::from_be_bytes(context.span_id().to_bytes()),
        sampled: context.is_sampled(),
        state: context.trace_state().header().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_cut_where_a_letter_ends() {
        assert_eq!(cut("c1"), "c1");
        let long = cut(&"é".repeat(40_000)).into_owned();
        assert!(long.len() <= LONGEST_VALUE + 3 && long.ends_with("é…"), "{}", long.len());
    }

    #[test]
    fn a_context_comes_back_from_the_sdk_as_it_was() {
        let context = TraceContext { trace_id: 7 << 64, span_id: 9, sampled: true, state: "a=b,c=d".into() };
        assert_eq!(of_span(&to_sdk(&context, MadeBy::Others)), context);
    }
}
