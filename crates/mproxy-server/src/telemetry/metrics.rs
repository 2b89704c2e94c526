//! Metrics for Prometheus, all called `mproxy_…` with their unit in the name, but for the `process_…` ones
//! that every program has.
//!
//! | name | labels | kind |
//! |---|---|---|
//! | `mproxy_packets_total`, `mproxy_packet_bytes_total` | from, type | counter |
//! | `mproxy_decisions_total` | hook, source, outcome | counter |
//! | `mproxy_policy_failures_total` | hook, kind, on_error | counter |
//! | `mproxy_policy_unusable_answers_total` | hook, kind | counter |
//! | `mproxy_overloads_total` | hook, limit | counter |
//! | `mproxy_rate_waits_total` | | counter |
//! | `mproxy_connections_total` | listener, outcome | counter |
//! | `mproxy_connections_open` | listener | gauge |
//! | `mproxy_connections_closed_total` | listener, cause, by | counter |
//! | `mproxy_connects_refused_total` | listener, part | counter |
//! | `mproxy_policy_call_duration_seconds` | rpc, outcome | histogram |
//! | `mproxy_policy_endpoint_healthy` | endpoint | gauge |
//! | `mproxy_policy_streams_open` | | gauge |
//! | `mproxy_policy_streams_ended_total` | reason | counter |
//! | `mproxy_policy_stream_messages_total` | | counter |
//! | `mproxy_policy_stream_answers_dropped_total` | reason | counter |
//! | `mproxy_policy_stream_questions_moved_total` | reason | counter |
//! | `mproxy_events_dropped_total` | kind, reason | counter |
//! | `mproxy_events_unconfirmed`, `mproxy_events_unconfirmed_bytes` | | gauge |
//! | `mproxy_events_sent_total`, `mproxy_events_resent_total`, `mproxy_events_confirmed_total` | | counter |
//! | `mproxy_event_streams_open` | | gauge |
//! | `mproxy_event_streams_ended_total` | reason | counter |
//! | `mproxy_event_spool_bytes` | | gauge |
//! | `mproxy_events_not_spooled_total` | reason | counter |
//! | `mproxy_event_spool_damaged_bytes_total` | | counter |
//! | `mproxy_policy_commands_total` | command, outcome | counter |
//! | `mproxy_revoked_deliveries_total` | | counter |
//! | `mproxy_reloads_total` | what, outcome | counter |
//! | `mproxy_log_lines_dropped_total`, `mproxy_panics_total` | | counter |
//! | `mproxy_certificate_expiry_timestamp_seconds` | used_by, kind, subject, serial | gauge |
//! | `mproxy_budget_used_bytes`, `mproxy_budget_limit_bytes` | scope, listener | gauge |
//! | `mproxy_budget_exceeded_total` | scope, listener | counter |
//! | `mproxy_build_info` | version | info |

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use mproxy_codec::types::PacketType;
use mproxy_core::budget::{Budget, Scope};
use mproxy_core::meter::{Outcome, PacketTrace};
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
use prometheus_client::registry::{Metric as RegisteredMetric, Registry, Unit};

use super::budgets::{BudgetCollector, Budgets};
use super::events::EventMetrics;
use super::exposition::{Format, as_prometheus};
use super::failures::Failures;
use super::log::LogCounts;
use super::packets;
use super::process::ProcessCollector;
use super::streams::StreamMetrics;
use super::tally::Tally;

/// All metrics of this process. Counting never blocks and, on the packet path, never looks up a label.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    tally: Arc<Tally>,
    connections: Family<Connections, Counter>,
    open: Family<OpenConnections, Gauge>,
    closed: Family<ClosedConnections, Counter>,
    connects_refused: Family<ConnectRefused, Counter>,
    calls: Family<Call, Histogram>,
    endpoints: Family<EndpointLabels, Gauge>,
    streams: StreamMetrics,
    dropped: Family<DroppedEvents, Counter>,
    events: EventMetrics,
    commands: Family<CommandLabels, Counter>,
    revoked_deliveries: Counter,
    failures: Failures,
    rate_waits: Counter,
    reloads: Family<ReloadLabels, Counter>,
    budgets: Arc<Budgets>,
    expiries: Family<Expiry, Gauge>,
    /// Those that are shown.
    expiring: Mutex<HashSet<Expiry>>,
}

/// Something with a date: a certificate that is shown or believed, or a revocation list. Anybody may read metrics, and which
/// file it comes from is nobody's business; `/readyz` says it to whoever may know.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Expiry {
    used_by: String,
    kind: &'static str,
    subject: String,
    serial: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReloadLabels {
    what: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Connections {
    listener: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OpenConnections {
    listener: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClosedConnections {
    listener: String,
    cause: &'static str,
    by: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConnectRefused {
    listener: String,
    part: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    rpc: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndpointLabels {
    endpoint: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DroppedEvents {
    kind: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CommandLabels {
    command: &'static str,
    outcome: &'static str,
}

/// From a call that never left the machine to the longest deadline that makes sense for a question.
const CALL_SECONDS: [f64; 14] =
    [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];

impl Metrics {
    /// All at zero; the process counts as started now.
    #[must_use]
    pub fn new() -> Self {
        Self::beside(&LogCounts::default())
    }

    /// The same, with what this log counts.
    #[must_use]
    pub fn beside(log: &LogCounts) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ProcessCollector::now()));
        let ours = registry.sub_registry_with_prefix("mproxy");
        ours.register("build", "This build of mproxy", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        let (tally, budgets) = (Arc::new(Tally::new()), Arc::<Budgets>::default());
        ours.register_collector(Box::new(Arc::clone(&tally)));
        ours.register_collector(Box::new(BudgetCollector(Arc::clone(&budgets))));
        register_log(ours, log);
        Self {
            connections: registered(
                "connections",
                "Connections by outcome of accepting them: accepted, or refused by a limit",
                ours,
            ),
            open: registered("connections_open", "Connections open now, counted from accept", ours),
            closed: registered(
                "connections_closed",
                "Connections closed, by cause and by who caused it",
                ours,
            ),
            connects_refused: registered(
                "connects_refused",
                "CONNECTs refused by a rule or the policy service, by the part of CONNECT that was refused",
                ours,
            ),
            calls: registered_calls(ours),
            endpoints: registered(
                "policy_endpoint_healthy",
                "1 if this endpoint of the policy service is healthy, else 0",
                ours,
            ),
            streams: StreamMetrics::registered(ours),
            dropped: registered("events_dropped", "Events that the policy service did not receive", ours),
            events: EventMetrics::registered(ours),
            commands: registered_commands(ours),
            revoked_deliveries: registered(
                "revoked_deliveries",
                "Deliveries dropped because a replaced grant allows no subscription that explains them",
                ours,
            ),
            failures: registered_failures(ours),
            rate_waits: registered(
                "rate_waits",
                "Times that a client was not read because it exceeded a rate of its grant",
                ours,
            ),
            reloads: registered_reloads(ours),
            expiries: registered_expiries(ours),
            expiring: Mutex::default(),
            registry,
            tally,
            budgets,
        }
    }

    /// The handles of one listener, at zero from now on. Keep it: making one looks labels up.
    #[must_use]
    pub fn listener(&self, name: &str) -> Arc<ListenerMetrics> {
        let connections = |outcome| {
            let labels = Connections { listener: name.to_owned(), outcome };
            self.connections.get_or_create_owned(&labels)
        };
        Arc::new(ListenerMetrics {
            name: name.into(),
            accepted: connections("accepted"),
            refused: connections("refused"),
            open: self.open.get_or_create_owned(&OpenConnections { listener: name.to_owned() }),
            closed: self.closed.clone(),
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

    /// A reload of this ended, and what came of it is in force or not.
    pub fn count_reload(&self, what: &'static str, usable: bool) {
        let outcome = if usable { "reloaded" } else { "failed" };
        self.reloads.get_or_create(&ReloadLabels { what, outcome }).inc();
    }

    /// What is in force from now on, and what uses it. What is not among it is shown no more.
    pub fn certificate_dates(&self, dates: &[(String, Dated)]) {
        let mut shown = HashSet::new();
        for (used_by, date) in dates {
            let Some(end) = date.not_after else { continue };
            let labels = Expiry {
                used_by: used_by.clone(),
                kind: date.kind.name(),
                subject: date.subject.clone(),
                serial: date.serial.clone(),
            };
            self.expiries.get_or_create(&labels).set(end);
            shown.insert(labels);
        }
        let mut expiring = self.expiring.lock();
        // An alert on its date would go on for a certificate that is in use no more.
        for gone in expiring.difference(&shown) {
            self.expiries.remove(gone);
        }
        *expiring = shown;
    }

    /// A call to the policy service ended with this outcome, after this time.
    pub(super) fn record_call(&self, rpc: &'static str, outcome: &'static str, took: Duration) {
        self.calls.get_or_create(&Call { rpc, outcome }).observe(took.as_secs_f64());
    }

    /// What is counted of the streams to the policy service.
    pub(super) const fn streams(&self) -> &StreamMetrics {
        &self.streams
    }

    /// So many events of this kind were dropped.
    pub(super) fn count_dropped_events(&self, kind: &'static str, reason: &'static str, count: u64) {
        self.dropped.get_or_create(&DroppedEvents { kind, reason }).inc_by(count);
    }

    /// What is counted of events over streams.
    pub(super) const fn events(&self) -> &EventMetrics {
        &self.events
    }

    /// A command of the policy service came to this end.
    pub(super) fn count_command(&self, command: &'static str, outcome: &'static str) {
        self.commands.get_or_create(&CommandLabels { command, outcome }).inc();
    }

    /// An endpoint of the policy service became healthy or unhealthy.
    pub(super) fn set_endpoint_health(&self, url: &str, healthy: bool) {
        self.endpoints.get_or_create(&EndpointLabels { endpoint: url.to_owned() }).set(i64::from(healthy));
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

/// A metric at zero, which is shown from now on.
fn registered<M: RegisteredMetric + Clone + Default>(name: &str, help: &str, ours: &mut Registry) -> M {
    let metric = M::default();
    ours.register(name, help, metric.clone());
    metric
}

fn register_log(ours: &mut Registry, log: &LogCounts) {
    let help = "Log lines dropped because they were written faster than they were read";
    ours.register("log_lines_dropped", help, log.lines_dropped.clone());
    let help = "Panics; a panic in a connection ends that connection only";
    ours.register("panics", help, log.panics.clone());
}

fn registered_calls(ours: &mut Registry) -> Family<Call, Histogram> {
    let calls: Family<Call, Histogram> = Family::new_with_constructor(|| Histogram::new(CALL_SECONDS));
    let help = "Duration of calls to the policy service";
    ours.register_with_unit("policy_call_duration", help, Unit::Seconds, calls.clone());
    calls
}

fn registered_failures(ours: &mut Registry) -> Failures {
    let failures = Failures::default();
    let help = "Answers of the policy service that failed, and what the failure rule made of the packet";
    ours.register("policy_failures", help, failures.counted.clone());
    let help = "Answers of the policy service that could not be carried out; the packet was refused";
    ours.register("policy_unusable_answers", help, failures.unusable.clone());
    let help = "Questions not answered because of a limit of mproxy; the packet was refused";
    ours.register("overloads", help, failures.overloaded.clone());
    failures
}

fn registered_commands(ours: &mut Registry) -> Family<CommandLabels, Counter> {
    let help = "Commands of the policy service, by what became of them";
    let commands: Family<CommandLabels, Counter> = registered("policy_commands", help, ours);
    for command in ["disconnect", "replace_grant", "forget", "check_grants"] {
        for outcome in ["carried_out", "incomplete"] {
            drop(commands.get_or_create(&CommandLabels { command, outcome }));
        }
    }
    drop(commands.get_or_create(&CommandLabels { command: "unknown", outcome: "unusable" }));
    commands
}

fn registered_reloads(ours: &mut Registry) -> Family<ReloadLabels, Counter> {
    let help = "Reloads by outcome; after a failure the previous version stays in force";
    let reloads: Family<ReloadLabels, Counter> = registered("reloads", help, ours);
    // All of them from the start: what appears with its first count has not grown for whoever watches growth.
    for what in ["configuration", "acl_file", "certificates"] {
        for outcome in ["reloaded", "failed"] {
            drop(reloads.get_or_create(&ReloadLabels { what, outcome }));
        }
    }
    reloads
}

fn registered_expiries(ours: &mut Registry) -> Family<Expiry, Gauge> {
    let expiries = Family::default();
    let help = "Expiry of the certificates and revocation lists in force, in seconds since 1970";
    ours.register_with_unit("certificate_expiry_timestamp", help, Unit::Seconds, expiries.clone());
    expiries
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

    fn rate_wait(&self) {
        self.rate_waits.inc();
    }

    fn revoked_deliveries(&self, count: u64) {
        self.revoked_deliveries.inc_by(count);
    }

    fn traces(&self) -> bool {
        packets::are_traced()
    }

    fn packet(&self, packet: &PacketTrace<'_>) {
        packets::trace(packet);
    }
}

/// Counts the connections of one listener.
#[derive(Clone, Debug)]
pub struct ListenerMetrics {
    name: Arc<str>,
    accepted: Counter,
    refused: Counter,
    open: Gauge,
    closed: Family<ClosedConnections, Counter>,
    connects_refused: Family<ConnectRefused, Counter>,
}

impl ListenerMetrics {
    /// A connection was accepted, and counts as open until it is counted as closed.
    pub fn count_accepted(&self) {
        self.accepted.inc();
        self.open.inc();
    }

    /// A connection was refused because there are too many.
    pub fn count_refused(&self) {
        self.refused.inc();
    }

    /// An accepted connection closed, for this reason.
    pub fn count_end(&self, fault: &Fault) {
        if let Fault::Refused { hook: Hook::Connect, refusal } = fault {
            let listener = self.name.to_string();
            self.connects_refused
                .get_or_create(&ConnectRefused { listener, part: refusal.about.name() })
                .inc();
        }
        self.count_closed(fault.label(), fault.by().name());
    }

    /// An accepted connection closed, for this cause, which this party is responsible for.
    pub fn count_closed(&self, cause: &'static str, by: &'static str) {
        self.open.dec();
        self.closed.get_or_create(&ClosedConnections { listener: self.name.to_string(), cause, by }).inc();
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
    fn a_connection_is_open_until_closed() {
        let metrics = Metrics::new();
        let connections = metrics.listener("mqtt");
        connections.count_accepted();
        connections.count_accepted();
        connections.count_refused();
        let page = metrics.expose(Format::Prometheus);
        assert_eq!(value(&page, "mproxy_connections_open{listener=\"mqtt\"}"), Some(2.0));
        connections.count_closed("lost", "client");
        connections.count_closed("evicted", "client");
        let page = metrics.expose(Format::Prometheus);
        assert_eq!(value(&page, "mproxy_connections_open{listener=\"mqtt\"}"), Some(0.0));
        for cause in ["lost", "evicted"] {
            let series = format!(
                "mproxy_connections_closed_total{{listener=\"mqtt\",cause=\"{cause}\",by=\"client\"}}"
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
        for what in ["configuration", "acl_file", "certificates"] {
            let failed = format!("mproxy_reloads_total{{what=\"{what}\",outcome=\"failed\"}}");
            assert_eq!(value(&page, &failed), Some(0.0), "a first failure is growth");
        }
        metrics.count_reload("acl_file", false);
        metrics.count_reload("acl_file", true);
        metrics.count_reload("acl_file", false);
        let page = metrics.expose(Format::Prometheus);
        let reloads =
            |labels| value(&page, &format!("mproxy_reloads_total{{what=\"acl_file\",outcome=\"{labels}\"}}"));
        assert_eq!((reloads("failed"), reloads("reloaded")), (Some(2.0), Some(1.0)));
    }

    #[test]
    fn calls_are_timed_and_what_is_dropped_is_counted() {
        let metrics = Metrics::new();
        metrics.record_call("AuthPublish", "answered", Duration::from_millis(2));
        metrics.set_endpoint_health("http://a:1", false);
        metrics.count_dropped_events("publish", "queue_full", 5);
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
            value(&page, "mproxy_events_dropped_total{kind=\"publish\",reason=\"queue_full\"}"),
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
