//! Traces: a span for each session and for each question to the policy service, sent by OTLP where a collector is named.
//! Where none is, nothing of this is built, and nobody who could make a span does more than find that out (ADR 0031).
//!
//! | room | holds |
//! |---|---|
//! | `exporter` | the way to the collector |
//! | `queue` | the spans that wait for it |
//! | `sampling` | which spans are recorded |
//! | `sessions` | the sessions there are, and their spans |
//! | `calls` | the spans of questions, and of events that are told by calls |
//! | `batches` | the spans of events that go over a stream |
//! | `span` | a span that is recorded, and what both kinds have in common |

mod batches;
mod calls;
mod exporter;
mod queue;
mod sampling;
mod sessions;
mod span;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use mproxy_core::fault::Fault;
use mproxy_core::peer::{ConnectionId, Origin, Peer};
use mproxy_policy::call_tracer::{BatchSpan, BatchStart, CallStart, CallTrace, CallTracer, EventStart};
use mproxy_policy::trace_context::TraceContext;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracer, SdkTracerProvider};
use tracing::level_filters::LevelFilter;
use tracing::{Subscriber, info, warn};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::registry::LookupSpan;

use self::exporter::CountingExporter;
use self::queue::BoundedQueue;
use self::sampling::Sampling;
use self::sessions::Sessions;
pub(super) use self::span::TARGET;
use super::span_counts::SpanCounts;
use crate::config::Otel;
use crate::config::otel::target;

/// Who makes spans, and sees to it that they leave.
pub struct Traces {
    sessions: Sessions,
    sampling: Sampling,
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    counts: SpanCounts,
}

impl Traces {
    /// Builds what these settings ask for; `None`: no traces. Call it inside a tokio runtime. Nobody is waited for: the
    /// collector is connected to when there is something to send.
    ///
    /// # Errors
    /// The certificates cannot be used.
    pub fn start(otel: &Otel, instance: &str) -> anyhow::Result<Option<Arc<Self>>> {
        let Some(endpoint) = target(otel) else { return Ok(None) };
        let counts = SpanCounts::default();
        let exporter = CountingExporter::connect(otel, endpoint, counts.clone())?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(otel.queue)
            .with_max_export_batch_size(otel.batch)
            .with_scheduled_delay(otel.delay)
            .build();
        let batches = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
        let sampling = Sampling::of(otel);
        let provider = SdkTracerProvider::builder()
            .with_span_processor(BoundedQueue::before(batches, otel.queue, counts.clone()))
            .with_resource(resource(otel, instance))
            .with_sampler(sampling.sampler())
            .build();
        let scope = InstrumentationScope::builder("mproxy").with_version(env!("CARGO_PKG_VERSION")).build();
        let tracer = provider.tracer_with_scope(scope);
        Ok(Some(Arc::new(Self { sessions: Sessions::default(), sampling, provider, tracer, counts })))
    }

    /// Says where traces go.
    pub fn announce(&self, otel: &Otel) {
        let (collector, sampler) = (target(otel), &*otel.sampler);
        info!(collector, sampler, sampler_arg = otel.sampler_arg.as_deref(), "traces are sent by OTLP");
    }

    /// Makes what is recorded of `tracing`'s spans one of OpenTelemetry. It hears of ours alone, at whatever level the log
    /// is.
    pub(super) fn layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.tracer.clone())
            // Spans are never entered: whose they are is said, and not found out from the thread.
            .with_context_activation(false)
            .with_tracked_inactivity(false)
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_filter(Targets::new().with_target(TARGET, LevelFilter::INFO))
    }

    /// What is counted of spans.
    #[must_use]
    pub const fn counts(&self) -> &SpanCounts {
        &self.counts
    }

    /// A session begins.
    pub(crate) fn begin_session(&self, origin: &Origin) {
        self.sessions.begin(origin);
    }

    /// A session has ended; `fault`: `None` where its task went away without a word.
    pub(crate) fn end_session(&self, origin: &Origin, peer: Option<&Peer>, fault: Option<&Fault>) {
        self.sessions.end(origin, peer, fault);
    }

    /// A session goes on in another process.
    pub(crate) fn hand_over_session(&self, origin: &Origin, peer: &Peer) {
        self.sessions.hand_over(origin, peer);
    }

    /// Sends what waits, for at most so long. No span is made after it. Blocks.
    pub fn flush(&self, within: Duration) {
        let ended = self.provider.shutdown_with_timeout(within);
        let spans = self.counts.waiting();
        if ended.is_err() && spans > 0 {
            warn!(spans, "traces dropped: the collector did not take them before the end");
        }
    }
}

impl CallTracer for Traces {
    fn begin(&self, call: CallStart) -> CallTrace {
        let session = self.sessions.context_of(call.connection);
        calls::begin(call, session, &self.sampling)
    }

    fn recorded_session(&self, connection: ConnectionId) -> Option<Arc<TraceContext>> {
        self.sessions.recorded(connection).map(Arc::new)
    }

    fn begin_event(&self, event: EventStart<'_>) -> CallTrace {
        calls::begin_event(&event)
    }

    fn begin_batch(&self, batch: &BatchStart<'_>) -> Option<Box<dyn BatchSpan>> {
        batches::begin(batch)
    }
}

impl fmt::Debug for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Traces")
    }
}

/// Who we are. What the environment says besides, the SDK reads itself.
fn resource(otel: &Otel, instance: &str) -> Resource {
    let written = otel.resource_attributes.iter().flatten();
    let written: Vec<_> = written.map(|(name, value)| KeyValue::new(name.clone(), value.clone())).collect();
    let named = written.iter().find(|attribute| attribute.key.as_str() == "service.name");
    let name = otel.service_name.clone().or_else(|| named.map(|attribute| attribute.value.to_string()));
    Resource::builder()
        .with_attribute(KeyValue::new("service.instance.id", instance.to_owned()))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attributes(written)
        .with_service_name(name.unwrap_or_else(|| "mproxy".to_owned()))
        .build()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use allocation_counter::measure;
    use parking_lot::Mutex;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;
    use crate::config::{Log, LogFormat, LogLevel};
    use crate::example_peer;
    use crate::telemetry::log::subscriber;

    fn origin() -> Origin {
        example_peer::origin(7)
    }

    fn question() -> CallStart {
        CallStart {
            rpc: "AuthPublish",
            connection: ConnectionId(7),
            packet: None,
            streamed: false,
            shadow: false,
        }
    }

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// Plays a scene with traces of this sampler, `traceidratio=0.5` for example, beside a log of this level. What the log
    /// wrote.
    fn scene(sampler: &str, level: LogLevel, scene: impl FnOnce(&Traces)) -> String {
        let (sampler, sampler_arg) =
            sampler.split_once('=').map_or((sampler, None), |(sampler, arg)| (sampler, Some(arg.to_owned())));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let _inside = runtime.enter();
        // Nothing leaves before the end.
        let otel = Otel {
            endpoint: Some("http://127.0.0.1:9".to_owned()),
            sampler: sampler.to_owned(),
            sampler_arg,
            delay: Duration::from_secs(3600),
            ..Otel::default()
        };
        let traces = Traces::start(&otel, "test").expect("they can be built").expect("an endpoint is named");
        let page = Page::default();
        let writer = page.clone();
        let (log, _) = subscriber(Log { level, format: LogFormat::Text }, move || writer.clone(), false);
        tracing::subscriber::with_default(log.with(traces.layer()), || scene(&traces));
        traces.flush(Duration::from_millis(1));
        String::from_utf8(page.0.lock().clone()).expect("log lines are text")
    }

    #[test]
    fn spans_are_made_at_every_level_of_the_log_and_are_no_lines_of_it() {
        for level in [LogLevel::Error, LogLevel::Debug, LogLevel::Trace] {
            let text = scene("parentbased_always_on", level, |traces| {
                traces.begin_session(&origin());
                let CallTrace { context, span } = traces.begin(question());
                let session = traces.sessions.context_of(ConnectionId(7)).expect("it has begun");
                assert!(span.is_some() && session.sampled);
                assert_eq!(context.map(|context| context.trace_id), Some(session.trace_id));
                traces.end_session(&origin(), None, None);
                assert!(traces.sessions.context_of(ConnectionId(7)).is_none());
                assert_eq!(traces.counts.waiting(), 1, "the session's; the question is still open");
                drop(span);
                assert_eq!(traces.counts.waiting(), 2);
            });
            assert!(!text.contains("session") && !text.contains("call"), "{level:?}: {text}");
        }
    }

    fn packet(trace_id: u128, sampled: bool) -> CallStart {
        let packet = Some(TraceContext { trace_id, span_id: 2, sampled, state: "a=b".into() });
        CallStart { packet, ..question() }
    }

    #[test]
    fn who_trusts_no_stranger_samples_by_itself() {
        scene("always_on", LogLevel::Error, |traces| {
            let CallTrace { context, span } = traces.begin(packet(1, false));
            assert!(span.is_some());
            assert_eq!(context.map(|context| (context.trace_id, context.sampled)), Some((1, true)));
        });
        for sampler in ["always_off", "traceidratio=0"] {
            scene(sampler, LogLevel::Error, |traces| {
                let CallTrace { context, span } = traces.begin(packet(1, true));
                assert!(span.is_none(), "{sampler}");
                let told = TraceContext { trace_id: 1, span_id: 2, sampled: false, state: "a=b".into() };
                assert_eq!(context.as_deref(), Some(&told), "it is above what the service does");
            });
        }
    }

    #[test]
    fn what_a_packet_says_decides_where_a_sampler_goes_by_it() {
        for (sampler, of_others) in [
            ("parentbased_always_on", true),
            ("parentbased_traceidratio=0", false),
            ("parentbased_always_off", false),
        ] {
            scene(sampler, LogLevel::Error, |traces| {
                traces.begin_session(&origin());
                for sampled in [true, false] {
                    assert_eq!(traces.begin(packet(1, sampled)).span.is_some(), sampled, "{sampler}");
                }
                assert_eq!(traces.begin(question()).span.is_some(), of_others, "{sampler}");
            });
        }
    }

    /// What is decided before the span is made and what the SDK decides when it is made are the same.
    #[test]
    fn a_ratio_takes_its_share_and_whoever_is_told_is_told_the_same() {
        scene("traceidratio=0.5", LogLevel::Error, |traces| {
            let mut taken = 0;
            for number in 1..=400_u128 {
                // The lower half of the id is what is compared.
                let trace_id =
                    number << 64 | number.wrapping_mul(0x9e37_79b9_7f4a_7c15) & u128::from(u64::MAX);
                let CallTrace { context, span } = traces.begin(packet(trace_id, false));
                let context = context.expect("the service is told");
                assert_eq!((context.trace_id, context.sampled), (trace_id, span.is_some()));
                taken += u32::from(span.is_some());
            }
            assert!((150..250).contains(&taken), "{taken} of 400");
        });
    }

    /// What most sessions cost where one in a hundred is sampled.
    #[test]
    fn a_question_that_is_not_sampled_costs_one_allocation() {
        let count = |sampler| {
            let mut count = 0;
            scene(sampler, LogLevel::Error, |traces| {
                traces.begin_session(&origin());
                drop(traces.begin(question()));
                count = measure(|| drop(traces.begin(question()))).count_total;
            });
            count
        };
        for sampler in
            ["parentbased_always_off", "parentbased_traceidratio=0", "always_off", "traceidratio=0"]
        {
            assert_eq!(count(sampler), 1, "{sampler}: what the service is told");
        }
        let on = count("parentbased_always_on");
        println!("sampled: {on} allocations");
        assert!(on < 60, "{on}");
    }
}
