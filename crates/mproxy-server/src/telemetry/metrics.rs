//! Metrics for Prometheus, all called `mproxy_…` with their unit in the name, but for the `process_…` ones
//! that every program has. What each counts, and its name and help text, is in the room of what it is about; here they are
//! put together.
//!
//! | name | labels | kind |
//! |---|---|---|
//! | `mproxy_packets_total`, `mproxy_packet_bytes_total` | from, type | counter |
//! | `mproxy_decisions_total` | hook, source, outcome | counter |
//! | `mproxy_policy_failures_total` | hook, kind, on_error | counter |
//! | `mproxy_policy_unusable_answers_total` | hook, kind | counter |
//! | `mproxy_overloads_total` | hook, limit | counter |
//! | `mproxy_rate_waits_total` | | counter |
//! | `mproxy_decision_records_total` | outcome | counter |
//! | `mproxy_decision_records_lost_total` | reason | counter |
//! | `mproxy_decision_log_file_errors_total` | operation | counter |
//! | `mproxy_connections_total` | listener, outcome | counter |
//! | `mproxy_connections_refused_total` | listener, cause | counter |
//! | `mproxy_connections_open` | listener | gauge |
//! | `mproxy_connections_closed_total` | listener, cause, by | counter |
//! | `mproxy_connects_refused_total` | listener, part | counter |
//! | `mproxy_admissions_waiting` | listener | gauge |
//! | `mproxy_admission_wait_duration_seconds` | listener | histogram |
//! | `mproxy_admissions_total` | listener, outcome | counter |
//! | `mproxy_watermark_level` | resource | gauge |
//! | `mproxy_failed_logins_total`, `mproxy_flapping_clients_total` | | counter |
//! | `mproxy_bans` | | gauge |
//! | `mproxy_ban_file_errors_total` | | counter |
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
//! | `mproxy_shadow_comparisons_total` | hook, active, shadow, same | counter |
//! | `mproxy_shadow_skipped_total` | hook | counter |
//! | `mproxy_shadow_endpoint_healthy` | endpoint | gauge |
//! | `mproxy_revoked_deliveries_total` | | counter |
//! | `mproxy_trace_spans_exported_total` | | counter |
//! | `mproxy_trace_spans_lost_total` | reason | counter |
//! | `mproxy_otlp_log_records_exported_total` | | counter |
//! | `mproxy_otlp_log_records_lost_total` | reason | counter |
//! | `mproxy_tokens_total`, `mproxy_token_key_set_reads_total` | outcome | counter |
//! | `mproxy_token_key_set_keys`, `mproxy_token_key_set_age_seconds` | | gauge |
//! | `mproxy_reloads_total` | what, outcome | counter |
//! | `mproxy_upgrades_total` | outcome | counter |
//! | `mproxy_upgrade_sessions_total` | outcome | counter |
//! | `mproxy_refusals_total` | hook, source, reason_code | counter |
//! | `mproxy_broker_dial_duration_seconds` | listener, outcome | histogram |
//! | `mproxy_broker_dials_waiting` | listener | gauge |
//! | `mproxy_broker_dial_wait_duration_seconds` | listener | histogram |
//! | `mproxy_forward_duration_seconds` | listener | histogram |
//! | `mproxy_read_pauses_total` | listener, from, reason | counter |
//! | `mproxy_runtime_workers`, `mproxy_runtime_alive_tasks`, `mproxy_runtime_global_queue_depth` | | gauge |
//! | `mproxy_runtime_worker_busy_seconds_total` | worker | counter |
//! | `mproxy_log_lines_dropped_total`, `mproxy_panics_total` | | counter |
//! | `mproxy_certificate_expiry_timestamp_seconds` | used_by, kind, subject, serial | gauge |
//! | `mproxy_budget_used_bytes`, `mproxy_budget_limit_bytes` | scope, listener | gauge |
//! | `mproxy_budget_exceeded_total` | scope, listener | counter |
//! | `mproxy_taps_open` | | gauge |
//! | `mproxy_tap_events_lost_total` | | counter |
//! | `mproxy_build_info` | version, commit, tls | info |

use std::sync::Arc;

use mproxy_codec::types::PacketType;
use mproxy_core::budget::{Budget, Scope};
use mproxy_core::meter::{ExchangeOutcome, Outcome, PacketTrace};
use mproxy_core::peer::Origin;
use mproxy_core::policy::{Failure, Hook, OnError, Overload, Source, Unusable};
use mproxy_core::record::DecisionRecord;
use mproxy_core::{Meter, Peer, Side};
use mproxy_policy::acl::AclAdviser;
use mproxy_tcp::tls::Dated;
use prometheus_client::encoding::{prometheus_protobuf, text};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::admissions::{AdmissionFamilies, AdmissionMetrics};
use super::bans::BanMetrics;
use super::budgets::Budgets;
use super::connections::{ConnectionMetrics, ListenerMetrics};
use super::decisions::DecisionLog;
use super::events::EventMetrics;
use super::export_counts::ExportCounts;
use super::exposition::{Exposition, Format, as_prometheus};
use super::failures::Failures;
use super::latencies::CallLatency;
use super::log::LogCounts;
use super::packets;
use super::policy::PolicyMetrics;
use super::process::ProcessCollector;
use super::put_aside::PutAsideMetrics;
use super::refusals::RefusalMetrics;
use super::reloads::ReloadMetrics;
use super::runtime::RuntimeCollector;
use super::shadow::ShadowMetrics;
use super::stats::Stats;
use super::streams::StreamMetrics;
use super::taps::Taps;
use super::tokens::TokenMetrics;
use super::traffic::TrafficMetrics;
use super::upgrades::UpgradeMetrics;
use super::watermarks::WatermarkMetrics;
use crate::build_info;

/// All metrics of this process. Counting never blocks and, on the packet path, never looks up a label.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    traffic: TrafficMetrics,
    budgets: Arc<Budgets>,
    connections: ConnectionMetrics,
    admissions: AdmissionFamilies,
    bans: BanMetrics,
    put_aside: PutAsideMetrics,
    watermarks: WatermarkMetrics,
    policy: PolicyMetrics,
    streams: StreamMetrics,
    events: EventMetrics,
    failures: Failures,
    reloads: ReloadMetrics,
    tokens: TokenMetrics,
    upgrades: UpgradeMetrics,
    shadow: ShadowMetrics,
    decisions: Arc<DecisionLog>,
    taps: Arc<Taps>,
    stats: Stats,
    refusals: RefusalMetrics,
}

impl Metrics {
    /// All at zero; the process counts as started now.
    #[must_use]
    pub fn new() -> Self {
        Self::beside(&LogCounts::default(), Arc::new(DecisionLog::off()), &ExportCounts::default())
    }

    /// The same, with what these logs and traces count.
    #[must_use]
    pub fn beside(log: &LogCounts, decisions: Arc<DecisionLog>, spans: &ExportCounts) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ProcessCollector::now()));
        let ours = registry.sub_registry_with_prefix("mproxy");
        ours.register(
            "build",
            "This build of mproxy",
            Info::new([
                ("version", build_info::VERSION),
                ("commit", build_info::COMMIT),
                ("tls", "rustls/ring"),
            ]),
        );
        if let Some(runtime) = RuntimeCollector::here() {
            ours.register_collector(Box::new(runtime));
        }
        log.register(ours);
        decisions.register(ours);
        spans.register_spans(ours);
        Self {
            traffic: TrafficMetrics::registered(ours),
            budgets: Budgets::registered(ours),
            connections: ConnectionMetrics::registered(ours),
            admissions: AdmissionFamilies::registered(ours),
            bans: BanMetrics::registered(ours),
            put_aside: PutAsideMetrics::registered(ours),
            watermarks: WatermarkMetrics::registered(ours),
            policy: PolicyMetrics::registered(ours),
            streams: StreamMetrics::registered(ours),
            events: EventMetrics::registered(ours),
            failures: Failures::registered(ours),
            reloads: ReloadMetrics::registered(ours),
            tokens: TokenMetrics::registered(ours),
            upgrades: UpgradeMetrics::registered(ours),
            shadow: ShadowMetrics::registered(ours),
            decisions,
            taps: Taps::registered(ours),
            stats: Stats::default(),
            refusals: RefusalMetrics::registered(ours),
            registry,
        }
    }

    /// The handles of one listener, at zero from now on. Keep it: making one looks labels up.
    #[must_use]
    pub fn listener(&self, name: &str) -> Arc<ListenerMetrics> {
        Arc::new(self.connections.listener(name))
    }

    /// What is counted of clients of this listener that wait to be admitted, at zero from now on.
    pub(crate) fn admissions(&self, listener: &str) -> AdmissionMetrics {
        self.admissions.listener(listener)
    }

    /// How short descriptors and memory are.
    pub(crate) const fn watermarks(&self) -> &WatermarkMetrics {
        &self.watermarks
    }

    /// What is counted of clients that have to wait.
    pub(crate) const fn put_aside(&self) -> &PutAsideMetrics {
        &self.put_aside
    }

    /// What is counted of bans.
    pub(crate) const fn bans(&self) -> &BanMetrics {
        &self.bans
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
        self.reloads.count(what, usable);
    }

    /// An upgrade came to this.
    pub fn count_upgrade(&self, outcome: &'static str) {
        self.upgrades.count(outcome);
    }

    /// This became of so many sessions of the process before this one.
    pub fn count_sessions_of_upgrade(&self, outcome: &str, count: u64) {
        self.upgrades.count_sessions(outcome, count);
    }

    /// What is in force from now on, and what uses it. What is not among it is shown no more.
    pub fn certificate_dates(&self, dates: &[(String, Dated)]) {
        self.reloads.set_certificate_dates(dates);
    }

    /// Shows the keys by which tokens are verified, as this rule file has them.
    pub fn token_keys_of(&self, acl: &Arc<AclAdviser>) {
        self.tokens.show_keys_of(acl);
    }

    /// What is counted of tokens.
    pub(super) const fn tokens(&self) -> &TokenMetrics {
        &self.tokens
    }

    /// How long calls to the policy service took.
    #[must_use]
    pub fn policy_latencies(&self) -> Vec<CallLatency> {
        self.policy().latencies()
    }

    /// What is counted of calls to the policy service, and of its commands.
    pub(super) const fn policy(&self) -> &PolicyMetrics {
        &self.policy
    }

    /// What is counted of the shadow service.
    pub(super) const fn shadow(&self) -> &ShadowMetrics {
        &self.shadow
    }

    /// What is counted of the streams to the policy service.
    pub(super) const fn streams(&self) -> &StreamMetrics {
        &self.streams
    }

    /// What is counted of events.
    pub(super) const fn events(&self) -> &EventMetrics {
        &self.events
    }

    /// Who watches packets.
    #[must_use]
    pub const fn taps(&self) -> &Arc<Taps> {
        &self.taps
    }

    /// The samples from which rates are made.
    #[must_use]
    pub const fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Everything in this format, and the format that it is in: text, where it cannot be had otherwise.
    #[must_use]
    pub fn page(&self, exposition: Exposition) -> (Exposition, Vec<u8>) {
        let format = match exposition {
            Exposition::Text(format) => format,
            // It fails where the clock of this machine stands before 1970.
            Exposition::Protobuf => match prometheus_protobuf::encode_to_vec(&self.registry) {
                Ok(page) => return (exposition, page),
                Err(_) => Format::Prometheus,
            },
        };
        (Exposition::Text(format), self.expose(format).into_bytes())
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
        self.traffic.tally.packets(from, kind, packets, bytes);
    }

    fn decisions(&self, hook: Hook, source: Source, outcome: Outcome, count: u64) {
        self.traffic.tally.decisions(hook, source, outcome, count);
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

    fn samples_allowed(&self) -> bool {
        self.decisions.samples_allowed()
    }

    fn picks_allowed(&self) -> bool {
        self.decisions.picks_allowed()
    }

    fn record(&self, decision: &DecisionRecord<'_>) {
        self.refusals.count(decision);
        self.decisions.record(decision);
        if self.taps.are_open() {
            self.taps.refusal(decision);
        }
    }

    fn rate_wait(&self) {
        self.traffic.count_rate_wait();
    }

    fn exchange(&self, again: bool, outcome: ExchangeOutcome) {
        self.policy.count_exchange(again, outcome);
    }

    fn revoked_deliveries(&self, count: u64) {
        self.traffic.count_revoked_deliveries(count);
    }

    fn traces(&self) -> bool {
        packets::are_traced() || self.taps.are_open()
    }

    fn traces_connection(&self, origin: &Origin, peer: Option<&Peer>) -> bool {
        packets::are_traced() || self.taps.watch(origin, peer)
    }

    fn packet(&self, packet: &PacketTrace<'_>) {
        packets::trace(packet);
        if self.taps.are_open() {
            self.taps.packet(packet);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
        connections.count_refused("max_connections");
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
        metrics.policy().record_call("AuthPublish", "answered", Duration::from_millis(2));
        metrics.policy().set_endpoint_health("http://a:1", false);
        metrics.events().count_dropped("publish", "queue_full", 5);
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
    fn protobuf_has_every_metric_and_histograms_of_both_kinds() {
        let metrics = Metrics::new();
        let _listener = metrics.listener("mqtt");
        metrics.policy().record_call("AuthPublish", "answered", Duration::from_millis(2));
        let families = prometheus_protobuf::encode(&metrics.registry).expect("the clock is right");
        let names: Vec<_> = families.iter().map(|family| family.name.as_str()).collect();
        let text = metrics.expose(Format::Prometheus);
        for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let name = line.split(' ').next().unwrap_or_default();
            assert!(names.contains(&name), "{name} is not among {names:?}");
        }
        let calls = families.iter().find(|family| family.name == "mproxy_policy_call_duration_seconds");
        let histogram =
            calls.and_then(|family| family.metric.first()?.histogram.clone()).expect("a histogram");
        assert_eq!(histogram.sample_count, 1);
        let classic = histogram.bucket.iter().filter(|bucket| bucket.cumulative_count == 1).count();
        assert!(classic > 1 && classic < histogram.bucket.len(), "{:?}", histogram.bucket);
        assert_eq!((&histogram.positive_delta[..], histogram.schema), (&[1][..], 3));
        let (exposition, page) = metrics.page(Exposition::Protobuf);
        assert!(exposition == Exposition::Protobuf && !page.is_empty());
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
