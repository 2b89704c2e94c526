//! How long calls took, read back from a histogram: what it counts it only gives away as text.

use std::collections::BTreeMap;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use serde::Serialize;
use utoipa::ToSchema;

/// How long calls of one kind took since the start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct CallLatency {
    /// Which call.
    pub rpc: String,
    /// How they ended: `answered`, `unusable`, `unimplemented`, `overloaded`, or how they failed.
    pub outcome: String,
    /// How many there were.
    pub calls: u64,
    /// How long they took together.
    pub sum_seconds: f64,
    /// Half of them took at most so long; null where that is longer than 2.5 s.
    pub p50_seconds: Option<f64>,
    /// 99 of a hundred took at most so long.
    pub p99_seconds: Option<f64>,
}

/// Of a family with the labels `rpc` and `outcome`.
pub(super) fn latencies<S>(calls: &Family<S, Histogram>) -> Vec<CallLatency>
where
    S: Clone + std::hash::Hash + Eq + EncodeLabelSet + std::fmt::Debug + Send + Sync + 'static,
    Family<S, Histogram>: prometheus_client::encoding::EncodeMetric + prometheus_client::metrics::TypedMetric,
{
    let mut registry = Registry::default();
    registry.register("policy_call_duration", "", calls.clone());
    let mut page = String::new();
    // Writing to a String cannot fail.
    let _ = text::encode(&mut page, &registry);
    read(&page)
}

/// Upper bounds and how many are not above, in their order.
type Buckets = Vec<(f64, u64)>;

fn read(page: &str) -> Vec<CallLatency> {
    let mut all: BTreeMap<(&str, &str), (CallLatency, Buckets)> = BTreeMap::new();
    for line in page.lines() {
        let Some((name, labels, value)) = sample(line) else { continue };
        let label = |key: &str| {
            let (_, rest) = labels.split_once(&format!("{key}=\""))?;
            rest.split_once('"').map(|(value, _)| value)
        };
        let (Some(rpc), Some(outcome)) = (label("rpc"), label("outcome")) else { continue };
        let (latency, buckets) = all.entry((rpc, outcome)).or_default();
        match name {
            "policy_call_duration_count" => latency.calls = value.parse().unwrap_or_default(),
            "policy_call_duration_sum" => latency.sum_seconds = value.parse().unwrap_or_default(),
            "policy_call_duration_bucket" => {
                let bound = label("le").and_then(|bound| bound.parse().ok()).unwrap_or(f64::INFINITY);
                buckets.push((bound, value.parse().unwrap_or_default()));
            }
            _ => {}
        }
    }
    let finished = |((rpc, outcome), (latency, buckets)): ((&str, &str), (CallLatency, Buckets))| {
        let most = |share: f64| {
            let wanted = latency.calls as f64 * share;
            let (bound, _) = buckets.iter().find(|(_, count)| *count as f64 >= wanted)?;
            bound.is_finite().then_some(*bound)
        };
        CallLatency {
            rpc: rpc.to_owned(),
            outcome: outcome.to_owned(),
            p50_seconds: most(0.5),
            p99_seconds: most(0.99),
            ..latency
        }
    };
    all.into_iter().map(finished).collect()
}

/// A line of Prometheus' text format: its name, its labels, its value.
fn sample(line: &str) -> Option<(&str, &str, &str)> {
    let (name, rest) = line.split_once('{')?;
    let (labels, value) = rest.rsplit_once("} ")?;
    Some((name, labels, value.split(' ').next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
    struct Labels {
        rpc: &'static str,
        outcome: &'static str,
    }

    #[test]
    fn what_was_observed_is_read_back() {
        let calls = Family::<Labels, Histogram>::new_with_constructor(|| Histogram::new([0.1, 1.0]));
        assert_eq!(latencies(&calls), []);
        let one = calls.get_or_create(&Labels { rpc: "AuthConnect", outcome: "answered" });
        for seconds in [0.05, 0.05, 0.5, 5.0] {
            one.observe(seconds);
        }
        drop(one);
        calls.get_or_create(&Labels { rpc: "AuthPublish", outcome: "deadline" }).observe(0.01);
        let read = latencies(&calls);
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].rpc.as_str(), read[0].outcome.as_str()), ("AuthConnect", "answered"));
        assert_eq!((read[0].calls, read[0].sum_seconds), (4, 5.6));
        assert_eq!((read[0].p50_seconds, read[0].p99_seconds), (Some(0.1), None));
        assert_eq!((read[1].calls, read[1].p99_seconds), (1, Some(0.1)));
    }
}
