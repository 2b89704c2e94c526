//! Metrics for Prometheus, all called `mproxy_…` with their unit in the name, but for the `process_…` ones
//! that every program has.
//!
//! | name | labels | kind |
//! |---|---|---|
//! | `mproxy_packets_total`, `mproxy_packet_bytes_total` | from, type | counter |
//! | `mproxy_decisions_total` | hook, source, outcome | counter |
//! | `mproxy_answers_failed_total` | hook, kind, rule | counter |
//! | `mproxy_answers_unusable_total` | hook, kind | counter |
//! | `mproxy_overloaded_total` | hook, limit | counter |
//! | `mproxy_connections_total` | listener, outcome | counter |
//! | `mproxy_sessions` | listener | gauge |
//! | `mproxy_sessions_ended_total` | listener, cause, whose | counter |
//! | `mproxy_connects_refused_total` | listener, about | counter |
//! | `mproxy_policy_call_duration_seconds` | rpc, outcome | histogram |
//! | `mproxy_policy_endpoint_healthy` | endpoint | gauge |
//! | `mproxy_events_dropped_total` | kind, why | counter |
//! | `mproxy_reloads_total` | what, outcome | counter |
//! | `mproxy_log_lines_dropped_total`, `mproxy_panics_total` | | counter |
//! | `mproxy_certificate_expiry_timestamp_seconds` | whose, kind, subject, serial | gauge |
//! | `mproxy_budget_held_bytes`, `mproxy_budget_limit_bytes` | scope, listener | gauge |
//! | `mproxy_budget_spent_total` | scope, listener | counter |
//! | `mproxy_build_info` | version | info |

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use mproxy_codec::types::PacketType;
use mproxy_core::budget::{Budget, Scope};
use mproxy_core::meter::Outcome;
use mproxy_core::policy::{Failure, Hook, OnError, Overload, Source, Unusable};
use mproxy_core::{Fault, Meter, Peer, Side};
use mproxy_tcp::tls::Dated;
use parking_lot::Mutex;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::budgets::{Budgets, Shown};
use super::exposition::{Format, as_prometheus};
use super::failures::Failures;
use super::log::Counts;
use super::process::Process;
use super::tally::Tally;

/// All metrics of this process. Counting never blocks and, on the packet path, never looks up a label.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    tally: Arc<Tally>,
    connections: Family<Connections, Counter>,
    sessions: Family<Sessions, Gauge>,
    ended: Family<Ended, Counter>,
    connects_refused: Family<ConnectRefused, Counter>,
    calls: Family<Call, Histogram>,
    endpoints: Family<Endpoint, Gauge>,
    dropped: Family<DroppedEvents, Counter>,
    failures: Failures,
    reloads: Family<Reload, Counter>,
    budgets: Arc<Budgets>,
    expiries: Family<Expiry, Gauge>,
    /// Those that are shown.
    expiring: Mutex<HashSet<Expiry>>,
}

/// Something with a date: a certificate that is shown or believed, or a revocation list. Anybody may read metrics, and which
/// file it comes from is nobody's business; `/readyz` says it to whoever may know.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Expiry {
    whose: String,
    kind: &'static str,
    subject: String,
    serial: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reload {
    what: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Connections {
    listener: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Sessions {
    listener: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    listener: String,
    cause: &'static str,
    whose: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConnectRefused {
    listener: String,
    about: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    rpc: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Endpoint {
    endpoint: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DroppedEvents {
    kind: &'static str,
    why: &'static str,
}

/// From a call that never left the machine to the longest deadline that makes sense for a question.
const CALL_SECONDS: [f64; 14] =
    [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];

impl Metrics {
    /// All at zero; the process counts as started now.
    #[must_use]
    pub fn new() -> Self {
        Self::beside(&Counts::default())
    }

    /// The same, with what this log counts.
    #[must_use]
    pub fn beside(log: &Counts) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Process::now()));
        let ours = registry.sub_registry_with_prefix("mproxy");
        ours.register("build", "This build of mproxy", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        let tally = Arc::new(Tally::new());
        ours.register_collector(Box::new(Arc::clone(&tally)));
        let help = "Log lines left out because they came faster than they were read";
        ours.register("log_lines_dropped", help, log.lines_dropped.clone());
        ours.register("panics", "Panics; one in a connection ends that connection alone", log.panics.clone());
        let connections = Family::default();
        ours.register("connections", "Connections by what became of them at the door", connections.clone());
        let sessions = Family::default();
        ours.register("sessions", "Connections that are open", sessions.clone());
        let ended = Family::default();
        ours.register("sessions_ended", "Connections that ended, why, and whose doing it was", ended.clone());
        let connects_refused = Family::default();
        let help = "CONNECTs refused by a rule or the policy service, and what of them it was about";
        ours.register("connects_refused", help, connects_refused.clone());
        let calls: Family<Call, Histogram> = Family::new_with_constructor(|| Histogram::new(CALL_SECONDS));
        let help = "How long calls to the policy service took";
        ours.register_with_unit("policy_call_duration", help, Unit::Seconds, calls.clone());
        let endpoints = Family::default();
        ours.register(
            "policy_endpoint_healthy",
            "1 where an endpoint of the policy service answers",
            endpoints.clone(),
        );
        let dropped = Family::default();
        ours.register("events_dropped", "Events that the policy service was not told", dropped.clone());
        let failures = Failures::default();
        let help = "Answers that never came or could not be read, and what that meant for the packet";
        ours.register("answers_failed", help, failures.counted.clone());
        let help = "Answers that could not be carried out: the packet was refused";
        ours.register("answers_unusable", help, failures.unusable.clone());
        let help = "Questions that a limit of mproxy's own kept from being answered: the packet was refused";
        ours.register("overloaded", help, failures.overloaded.clone());
        let reloads = Family::default();
        // All of them from the start: what appears with its first count has not grown for whoever watches growth.
        for what in ["configuration", "rules", "certificates"] {
            for outcome in ["reloaded", "failed"] {
                drop(reloads.get_or_create(&Reload { what, outcome }));
            }
        }
        let help = "Files reloaded; where that failed, what was in force before still is";
        ours.register("reloads", help, reloads.clone());
        let expiries = Family::default();
        let help = "When a certificate or revocation list in force ends";
        ours.register_with_unit("certificate_expiry_timestamp", help, Unit::Seconds, expiries.clone());
        let budgets = Arc::<Budgets>::default();
        ours.register_collector(Box::new(Shown(Arc::clone(&budgets))));
        Self {
            registry,
            tally,
            connections,
            sessions,
            ended,
            connects_refused,
            calls,
            endpoints,
            dropped,
            failures,
            reloads,
            expiries,
            expiring: Mutex::default(),
            budgets,
        }
    }

    /// The handles of one listener, at zero from now on. Keep it: making one looks labels up.
    #[must_use]
    pub fn listener(&self, name: &str) -> Arc<Door> {
        let connections = |outcome| {
            let labels = Connections { listener: name.to_owned(), outcome };
            self.connections.get_or_create_owned(&labels)
        };
        Arc::new(Door {
            name: name.into(),
            accepted: connections("accepted"),
            refused: connections("refused"),
            open: self.sessions.get_or_create_owned(&Sessions { listener: name.to_owned() }),
            ended: self.ended.clone(),
            connects_refused: self.connects_refused.clone(),
        })
    }

    /// Shows what the connections of this listener hold.
    pub fn budget_of(&self, listener: &str, budget: &Arc<Budget>) {
        self.budgets.listener(listener, budget);
    }

    /// Shows what all connections hold.
    pub fn budget_of_all(&self, total: &Arc<Scope>) {
        self.budgets.total(total);
    }

    /// These files were reloaded, or could not be used.
    pub fn reloaded(&self, what: &'static str, usable: bool) {
        let outcome = if usable { "reloaded" } else { "failed" };
        self.reloads.get_or_create(&Reload { what, outcome }).inc();
    }

    /// What is in force from now on, and whose it is. What is not among it is shown no more.
    pub fn certificate_dates(&self, dates: &[(String, Dated)]) {
        let mut shown = HashSet::new();
        for (whose, date) in dates {
            let Some(end) = date.not_after else { continue };
            let labels = Expiry {
                whose: whose.clone(),
                kind: date.kind.name(),
                subject: date.subject.clone(),
                serial: date.serial.clone(),
            };
            self.expiries.get_or_create(&labels).set(end);
            shown.insert(labels);
        }
        let mut expiring = self.expiring.lock();
        for gone in expiring.difference(&shown) {
            self.expiries.remove(gone);
        }
        *expiring = shown;
    }

    /// A call to the policy service ended so, after so long.
    pub(super) fn called(&self, rpc: &'static str, outcome: &'static str, took: Duration) {
        self.calls.get_or_create(&Call { rpc, outcome }).observe(took.as_secs_f64());
    }

    /// So many events of this kind will not be told.
    pub(super) fn untold(&self, kind: &'static str, why: &'static str, count: u64) {
        self.dropped.get_or_create(&DroppedEvents { kind, why }).inc_by(count);
    }

    /// An endpoint of the policy service became healthy or ill.
    pub(super) fn endpoint_is(&self, url: &str, healthy: bool) {
        self.endpoints.get_or_create(&Endpoint { endpoint: url.to_owned() }).set(i64::from(healthy));
    }

    /// Everything, in this format.
    #[must_use]
    pub fn expose(&self, format: Format) -> String {
        let mut page = String::new();
        // Writing to a String cannot fail.
        let _ = text::encode(&mut page, &self.registry);
        match format {
            Format::OpenMetrics => page,
            Format::Prometheus => as_prometheus(&page),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Meter for Metrics {
    fn packets(&self, from: Side, kind: PacketType, packets: u64, bytes: u64) {
        self.tally.packets(from, kind, packets, bytes);
    }

    fn decisions(&self, hook: Hook, source: Source, outcome: Outcome, count: u64) {
        self.tally.decisions(hook, source, outcome, count);
    }

    fn failed(&self, hook: Hook, failure: &Failure, rule: OnError, peer: &Peer) {
        self.failures.failed(hook, failure, rule, peer);
    }

    fn unusable(&self, hook: Hook, unusable: &Unusable, peer: &Peer) {
        self.failures.unusable(hook, unusable, peer);
    }

    fn overloaded(&self, hook: Hook, overload: &Overload, peer: &Peer) {
        self.failures.overloaded(hook, overload, peer);
    }
}

/// Counts the connections of one listener.
#[derive(Clone, Debug)]
pub struct Door {
    name: Arc<str>,
    accepted: Counter,
    refused: Counter,
    open: Gauge,
    ended: Family<Ended, Counter>,
    connects_refused: Family<ConnectRefused, Counter>,
}

impl Door {
    /// A connection was accepted, and counts as open until its end is told.
    pub fn accepted(&self) {
        self.accepted.inc();
        self.open.inc();
    }

    /// A connection was refused because there are too many.
    pub fn refused(&self) {
        self.refused.inc();
    }

    /// A session that was accepted ended like this.
    pub fn ended_by(&self, fault: &Fault) {
        if let Fault::Refused { hook: Hook::Connect, refusal } = fault {
            let listener = self.name.to_string();
            self.connects_refused
                .get_or_create(&ConnectRefused { listener, about: refusal.about.name() })
                .inc();
        }
        self.ended(fault.label(), fault.whose().name());
    }

    /// One that was accepted ended like this.
    pub fn ended(&self, cause: &'static str, whose: &'static str) {
        self.open.dec();
        self.ended.get_or_create(&Ended { listener: self.name.to_string(), cause, whose }).inc();
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    fn value(page: &str, series: &str) -> Option<f64> {
        page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }

    #[test]
    fn packets_and_bytes_are_counted_by_sender_and_type() {
        let metrics = Metrics::new();
        metrics.packets(Side::Client, PacketType::Publish, 3, 300);
        metrics.packets(Side::Broker, PacketType::Puback, 2, 8);
        let page = metrics.expose(Format::Prometheus);
        assert_eq!(value(&page, "mproxy_packets_total{from=\"client\",type=\"PUBLISH\"}"), Some(3.0));
        assert_eq!(value(&page, "mproxy_packet_bytes_total{from=\"client\",type=\"PUBLISH\"}"), Some(300.0));
        assert_eq!(value(&page, "mproxy_packets_total{from=\"broker\",type=\"PUBACK\"}"), Some(2.0));
        assert_eq!(value(&page, "mproxy_packets_total{from=\"client\",type=\"SUBSCRIBE\"}"), Some(0.0));
        assert_eq!(value(&page, "mproxy_packets_total{from=\"client\",type=\"CONNACK\"}"), None);
    }

    #[test]
    fn decisions_are_counted_by_hook_source_and_outcome() {
        let metrics = Metrics::new();
        metrics.decisions(Hook::Publish, Source::Acl, Outcome::Refused, 1);
        let page = metrics.expose(Format::OpenMetrics);
        let series = "mproxy_decisions_total{hook=\"publish\",source=\"acl\",outcome=\"refused\"}";
        assert_eq!(value(&page, series), Some(1.0));
        let series = "mproxy_decisions_total{hook=\"publish\",source=\"failed_closed\",outcome=\"refused\"}";
        assert_eq!(value(&page, series), Some(0.0));
    }

    #[test]
    fn a_connection_is_open_until_its_end_is_told() {
        let metrics = Metrics::new();
        let door = metrics.listener("mqtt");
        door.accepted();
        door.accepted();
        door.refused();
        let page = metrics.expose(Format::Prometheus);
        assert_eq!(value(&page, "mproxy_sessions{listener=\"mqtt\"}"), Some(2.0));
        door.ended("lost", "client");
        door.ended("evicted", "client");
        let page = metrics.expose(Format::Prometheus);
        assert_eq!(value(&page, "mproxy_sessions{listener=\"mqtt\"}"), Some(0.0));
        for cause in ["lost", "evicted"] {
            let series = format!(
                "mproxy_sessions_ended_total{{listener=\"mqtt\",cause=\"{cause}\",whose=\"client\"}}"
            );
            assert_eq!(value(&page, &series), Some(1.0));
        }
        let connections = |outcome| {
            value(&page, &format!("mproxy_connections_total{{listener=\"mqtt\",outcome=\"{outcome}\"}}"))
        };
        assert_eq!((connections("accepted"), connections("refused")), (Some(2.0), Some(1.0)));
    }

    #[test]
    fn reloads_are_counted_by_what_and_outcome() {
        let metrics = Metrics::new();
        let page = metrics.expose(Format::Prometheus);
        for what in ["configuration", "rules", "certificates"] {
            let failed = format!("mproxy_reloads_total{{what=\"{what}\",outcome=\"failed\"}}");
            assert_eq!(value(&page, &failed), Some(0.0), "a first failure is growth");
        }
        metrics.reloaded("rules", false);
        metrics.reloaded("rules", true);
        metrics.reloaded("rules", false);
        let page = metrics.expose(Format::Prometheus);
        let reloads =
            |labels| value(&page, &format!("mproxy_reloads_total{{what=\"rules\",outcome=\"{labels}\"}}"));
        assert_eq!((reloads("failed"), reloads("reloaded")), (Some(2.0), Some(1.0)));
    }

    #[test]
    fn calls_are_timed_and_what_is_dropped_is_counted() {
        let metrics = Metrics::new();
        metrics.called("AuthPublish", "answered", Duration::from_millis(2));
        metrics.endpoint_is("http://a:1", false);
        metrics.untold("publish", "queue_full", 5);
        let page = metrics.expose(Format::Prometheus);
        let labels = "rpc=\"AuthPublish\",outcome=\"answered\"";
        assert_eq!(
            value(&page, &format!("mproxy_policy_call_duration_seconds_count{{{labels}}}")),
            Some(1.0)
        );
        let bucket =
            |le| value(&page, &format!("mproxy_policy_call_duration_seconds_bucket{{le=\"{le}\",{labels}}}"));
        assert_eq!((bucket("0.001"), bucket("0.0025")), (Some(0.0), Some(1.0)));
        assert_eq!(value(&page, "mproxy_policy_endpoint_healthy{endpoint=\"http://a:1\"}"), Some(0.0));
        assert_eq!(
            value(&page, "mproxy_events_dropped_total{kind=\"publish\",why=\"queue_full\"}"),
            Some(5.0)
        );
    }

    #[test]
    fn each_format_follows_its_own_rules() {
        let metrics = Metrics::new();
        let openmetrics = metrics.expose(Format::OpenMetrics);
        assert!(openmetrics.ends_with("# EOF\n"));
        assert!(openmetrics.contains("# TYPE mproxy_packets counter\n"));
        let prometheus = metrics.expose(Format::Prometheus);
        assert!(!prometheus.contains("# EOF") && !prometheus.contains("# UNIT"));
        assert!(prometheus.contains("# TYPE mproxy_packets_total counter\n"));
        assert!(prometheus.contains("# TYPE mproxy_build_info gauge\n"));
        assert!(prometheus.contains("\nprocess_start_time_seconds "));
        for line in prometheus.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap_or_default();
            let base =
                ["_bucket", "_sum", "_count"].iter().find_map(|s| name.strip_suffix(s)).unwrap_or(name);
            assert!(prometheus.contains(&format!("# TYPE {base} ")), "{line}");
        }
    }
}
