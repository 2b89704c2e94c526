//! Which spans are recorded. Where one is above another, that is found out before the other is made: most spans of a sampler by
//! ratio would be made for nobody.

use mproxy_policy::trace_context::TraceContext;
use opentelemetry::trace::{SpanKind, TraceId};
use opentelemetry_sdk::trace::{Sampler, SamplingDecision, ShouldSample as _};

use crate::config::Otel;
use crate::config::otel::sampler_ratio;

/// What decides whether a span is recorded that is below another one.
#[derive(Clone, Debug)]
pub(super) enum Sampling {
    /// Whether the one above it is; of one that is below none, this sampler.
    AsParent(Sampler),
    /// This sampler, for each.
    ByItself(Sampler),
}

impl Sampling {
    pub(super) fn of(otel: &Otel) -> Self {
        let (root, as_parent) = match otel.sampler.strip_prefix("parentbased_") {
            Some(root) => (root, true),
            None => (&*otel.sampler, false),
        };
        let root = match root {
            "always_off" => Sampler::AlwaysOff,
            "traceidratio" => Sampler::TraceIdRatioBased(sampler_ratio(otel).unwrap_or(1.0)),
            _ => Sampler::AlwaysOn,
        };
        if as_parent { Self::AsParent(root) } else { Self::ByItself(root) }
    }

    /// The same for the SDK, which asks it when a span is made.
    pub(super) fn sampler(&self) -> Sampler {
        match self {
            Self::AsParent(root) => Sampler::ParentBased(Box::new(root.clone())),
            Self::ByItself(sampler) => sampler.clone(),
        }
    }

    /// Whether a span below `parent` is recorded.
    pub(super) fn takes(&self, parent: &TraceContext) -> bool {
        match self {
            Self::AsParent(_) => parent.sampled,
            Self::ByItself(sampler) => {
                let trace = TraceId::from(parent.trace_id);
                // These samplers look at the trace id and nothing else.
                let result = sampler.should_sample(None, trace, "", &SpanKind::Client, &[], &[]);
                result.decision == SamplingDecision::RecordAndSample
            }
        }
    }
}
