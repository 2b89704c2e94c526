//! What is made of two samples: how much was counted between them, divided by a time.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use super::sample::{Sample, Series, SeriesIndex};

/// How many, or how many in a second: whole where it is, else to a thousandth.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, ToSchema)]
pub(super) struct Amount(pub(super) f64);

impl AddAssign<f64> for Amount {
    fn add_assign(&mut self, more: f64) {
        self.0 += more;
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let rounded = (self.0 * 1000.0).round() / 1000.0;
        // Below 2^53 every whole number has its own.
        match rounded.fract() == 0.0 && rounded.abs() < 9e15 {
            true => serializer.serialize_i64(rounded as i64),
            false => serializer.serialize_f64(rounded),
        }
    }
}

/// What is at this moment.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(super) struct Gauges {
    connections_open: Amount,
    resident_memory_bytes: Amount,
    uptime_seconds: Amount,
    budgets: Vec<BudgetView>,
}

#[derive(Debug, Serialize, ToSchema)]
struct BudgetView {
    scope: String,
    listener: String,
    used_bytes: Amount,
    limit_bytes: Amount,
}

/// What was counted.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(super) struct Figures {
    connections_accepted: Amount,
    connections_refused: Amount,
    connections_closed: Amount,
    from_client: TrafficFigures,
    from_broker: TrafficFigures,
    /// Decisions in all, and those that refuse.
    decided: Amount,
    refused: Amount,
    /// Answers of the hook service that failed or could not be used, and questions over a limit.
    failed_answers: Amount,
    packets: Vec<PacketFigure>,
    decisions: Vec<DecisionFigure>,
    closed: Vec<ClosedFigure>,
    policy_calls: Vec<CallFigure>,
    /// What the shadow would have decided otherwise.
    shadow_differences: Vec<ShadowFigure>,
}

#[derive(Debug, Default, Serialize, ToSchema)]
struct TrafficFigures {
    /// PUBLISH packets.
    messages: Amount,
    packets: Amount,
    bytes: Amount,
}

#[derive(Debug, Serialize, ToSchema)]
struct PacketFigure {
    from: String,
    r#type: String,
    packets: Amount,
    bytes: Amount,
}

#[derive(Debug, Serialize, ToSchema)]
struct DecisionFigure {
    hook: String,
    source: String,
    outcome: String,
    decisions: Amount,
}

#[derive(Debug, Serialize, ToSchema)]
struct ClosedFigure {
    by: String,
    cause: String,
    listener: String,
    connections: Amount,
}

#[derive(Debug, Serialize, ToSchema)]
struct CallFigure {
    rpc: String,
    outcome: String,
    calls: Amount,
    /// In seconds; absent where there was no call.
    #[serde(skip_serializing_if = "Option::is_none")]
    p50_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p90_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p99_seconds: Option<f64>,
}

#[derive(Debug, Serialize, ToSchema)]
struct ShadowFigure {
    hook: String,
    active: String,
    shadow: String,
    decisions: Amount,
}

/// How many calls took no longer than so many seconds.
type CumulativeBuckets = Vec<(f64, f64)>;

impl Gauges {
    pub(super) fn of(index: &SeriesIndex, now: &Sample) -> Self {
        let mut gauges = Self::default();
        let mut budgets: BTreeMap<(String, String), (f64, f64)> = BTreeMap::new();
        let labels =
            |series: &Series| (series.label("scope").to_owned(), series.label("listener").to_owned());
        for (series, value, _) in now.against(index, None) {
            match series.name {
                "mproxy_connections_open" => gauges.connections_open += value,
                "process_resident_memory_bytes" => gauges.resident_memory_bytes = Amount(value),
                "process_start_time_seconds" => gauges.uptime_seconds = Amount(seconds_since(value)),
                "mproxy_budget_used_bytes" => budgets.entry(labels(series)).or_default().0 = value,
                "mproxy_budget_limit_bytes" => budgets.entry(labels(series)).or_default().1 = value,
                _ => {}
            }
        }
        gauges.budgets = budgets
            .into_iter()
            .map(|((scope, listener), (used_bytes, limit_bytes))| BudgetView {
                scope,
                listener,
                used_bytes: Amount(used_bytes),
                limit_bytes: Amount(limit_bytes),
            })
            .collect();
        gauges
    }
}

/// Since this second of 1970.
fn seconds_since(start: f64) -> f64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    (now.as_secs_f64() - start).max(0.0).round()
}

impl Figures {
    /// What was counted between the two (or until `now`), divided by this.
    pub(super) fn between(index: &SeriesIndex, before: Option<&Sample>, now: &Sample, by: f64) -> Self {
        let mut figures = Self::default();
        let mut packets: BTreeMap<(String, String), (f64, f64)> = BTreeMap::new();
        let mut calls: BTreeMap<(String, String), (f64, CumulativeBuckets)> = BTreeMap::new();
        for (series, value, then) in now.against(index, before) {
            let grown = (value - then) / by;
            let label = |name| series.label(name).to_owned();
            match series.name {
                "mproxy_packets_total" => {
                    packets.entry((label("from"), label("type"))).or_default().0 = grown
                }
                "mproxy_packet_bytes_total" => {
                    packets.entry((label("from"), label("type"))).or_default().1 = grown;
                }
                "mproxy_policy_call_duration_seconds_count" => {
                    calls.entry((label("rpc"), label("outcome"))).or_default().0 = grown;
                }
                "mproxy_policy_call_duration_seconds_bucket" => {
                    let most = series.label("le").parse().unwrap_or(f64::INFINITY);
                    calls.entry((label("rpc"), label("outcome"))).or_default().1.push((most, grown));
                }
                _ => figures.count(series, grown),
            }
        }
        figures.add_packets(packets);
        figures.policy_calls = calls.into_iter().filter_map(call_figure).collect();
        figures
    }

    /// Counts what one series says.
    fn count(&mut self, series: &Series, grown: f64) {
        let label = |name| series.label(name).to_owned();
        match (series.name, series.label("outcome")) {
            ("mproxy_connections_total", "accepted") => self.connections_accepted += grown,
            ("mproxy_connections_total", _) => self.connections_refused += grown,
            ("mproxy_connections_closed_total", _) => {
                self.connections_closed += grown;
                if grown > 0.0 {
                    let (by, cause, listener) = (label("by"), label("cause"), label("listener"));
                    self.closed.push(ClosedFigure { by, cause, listener, connections: Amount(grown) });
                }
            }
            ("mproxy_decisions_total", outcome) => {
                self.decided += grown;
                if outcome == "refused" {
                    self.refused += grown;
                }
                if grown > 0.0 {
                    let (hook, source, outcome) = (label("hook"), label("source"), label("outcome"));
                    self.decisions.push(DecisionFigure { hook, source, outcome, decisions: Amount(grown) });
                }
            }
            (
                "mproxy_policy_failures_total"
                | "mproxy_policy_unusable_answers_total"
                | "mproxy_overloads_total",
                _,
            ) => self.failed_answers += grown,
            ("mproxy_shadow_comparisons_total", _) if grown > 0.0 && series.label("same") == "false" => {
                let (hook, active, shadow) = (label("hook"), label("active"), label("shadow"));
                self.shadow_differences.push(ShadowFigure { hook, active, shadow, decisions: Amount(grown) });
            }
            _ => {}
        }
    }

    fn add_packets(&mut self, packets: BTreeMap<(String, String), (f64, f64)>) {
        for ((from, kind), (packets, bytes)) in packets {
            let side = if from == "client" { &mut self.from_client } else { &mut self.from_broker };
            side.packets += packets;
            side.bytes += bytes;
            if kind == "PUBLISH" {
                side.messages += packets;
            }
            // A payload that streams has bytes after its packet was counted.
            if packets > 0.0 || bytes > 0.0 {
                let (packets, bytes) = (Amount(packets), Amount(bytes));
                self.packets.push(PacketFigure { from, r#type: kind, packets, bytes });
            }
        }
    }
}

fn call_figure(
    ((rpc, outcome), (calls, mut buckets)): ((String, String), (f64, CumulativeBuckets)),
) -> Option<CallFigure> {
    buckets.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let quantile = |of| quantile(&buckets, of);
    (calls > 0.0).then(|| CallFigure {
        rpc,
        outcome,
        calls: Amount(calls),
        p50_seconds: quantile(0.5),
        p90_seconds: quantile(0.9),
        p99_seconds: quantile(0.99),
    })
}

/// The time that this part of the calls did not exceed, as Prometheus reckons it: evenly spread within a bucket; of those
/// beyond the last, that bucket's end.
fn quantile(buckets: &[(f64, f64)], of: f64) -> Option<f64> {
    let all = buckets.last().map(|(_, count)| *count).filter(|count| *count > 0.0)?;
    let (mut start, mut below) = (0.0, 0.0);
    for (end, count) in buckets {
        if *count >= of * all {
            let inside = count - below;
            let part = if inside > 0.0 { (of * all - below) / inside } else { 1.0 };
            return Some(if end.is_finite() { start + (end - start) * part } else { start });
        }
        (start, below) = (*end, *count);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_prometheus() {
        let buckets = [(0.001, 50.0), (0.01, 90.0), (0.1, 100.0), (f64::INFINITY, 100.0)];
        assert_eq!(quantile(&buckets, 0.5), Some(0.001));
        assert_eq!(quantile(&buckets, 0.25), Some(0.0005));
        assert!(quantile(&buckets, 0.95).is_some_and(|p95| (p95 - 0.055).abs() < 1e-9));
        assert_eq!(quantile(&[(0.1, 0.0), (f64::INFINITY, 4.0)], 0.5), Some(0.1));
        assert_eq!(quantile(&[(0.1, 0.0), (f64::INFINITY, 0.0)], 0.5), None);
    }
}
