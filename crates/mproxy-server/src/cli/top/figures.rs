//! What is shown of a sample, and of the one before it. Text from outside is harmless from here on.

use std::collections::HashMap;
use std::time::SystemTime;

use super::super::text::one_line;
use super::super::units;
use super::sample::{PolicyEndpoint, RatesSample, RefusalSample, SessionSample, SessionTraffic, TopSample};

/// All that is on the screen but what keys changed.
#[derive(Debug, Default)]
pub(super) struct TopFigures {
    /// Which mproxy it is, and how it is.
    pub(super) headline: String,
    /// What it does in a second, in parts each of which stays in its line.
    pub(super) rates: Vec<String>,
    pub(super) sessions: Vec<SessionRow>,
    /// There are more sessions than were looked at.
    pub(super) more_sessions: bool,
    pub(super) decisions: Vec<DecisionRow>,
    pub(super) endpoints: Vec<EndpointRow>,
    pub(super) calls: Vec<String>,
    /// The newest first.
    pub(super) refusals: Vec<String>,
}

/// A session, and how much it has to do.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct SessionRow {
    pub(super) connection_id: String,
    pub(super) name: String,
    pub(super) username: String,
    pub(super) listener: String,
    pub(super) from: String,
    pub(super) phase: String,
    /// As text, for the screen.
    pub(super) age: String,
    /// As it was written, for sorting: the older the smaller.
    pub(super) since: String,
    /// Packets in a second, of both sides.
    pub(super) packets: f64,
    pub(super) client_bytes: f64,
    pub(super) broker_bytes: f64,
}

/// How often in a second this was decided.
#[derive(Debug, PartialEq)]
pub(super) struct DecisionRow {
    pub(super) what: String,
    pub(super) outcome: String,
    pub(super) rate: f64,
}

/// An endpoint of the hook service.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct EndpointRow {
    pub(super) healthy: bool,
    pub(super) text: String,
}

impl TopFigures {
    pub(super) fn new(before: Option<&TopSample>, now: &TopSample, place: String) -> Self {
        let none = RatesSample::default();
        let rates = now.stats.windows.first().unwrap_or(&none);
        Self {
            headline: headline(now, &place),
            rates: rate_parts(rates),
            sessions: session_rows(before, now, SystemTime::now()),
            more_sessions: now.more_sessions,
            decisions: decision_rows(rates),
            endpoints: now.endpoints.iter().map(endpoint_row).collect(),
            calls: call_lines(rates),
            refusals: now.refusals.iter().map(refusal_line).collect(),
        }
    }
}

fn whole(value: f64) -> u64 {
    // What is below 0 or no number is 0.
    value.max(0.0).round() as u64
}

fn headline(now: &TopSample, place: &str) -> String {
    let stats = &now.stats;
    let s = if whole(stats.connections_open) == 1 { "" } else { "s" };
    format!(
        "mproxy {} at {place}, up {}, {} connection{s}, {} of memory",
        one_line(&stats.version),
        units::duration(whole(stats.uptime_seconds)),
        whole(stats.connections_open),
        units::bytes(whole(stats.resident_memory_bytes))
    )
}

fn rate_parts(rates: &RatesSample) -> Vec<String> {
    let side = |traffic: &super::sample::TrafficSample| {
        format!("{} msg/s, {}/s", units::number(traffic.messages), units::bytes(whole(traffic.bytes)))
    };
    let number = units::number;
    vec![
        format!("clients {}", side(&rates.from_client)),
        format!("broker {}", side(&rates.from_broker)),
        format!(
            "decided {}/s, refused {}/s, failed {}/s",
            number(rates.decided),
            number(rates.refused),
            number(rates.failed_answers)
        ),
        format!(
            "connected {}/s, closed {}/s",
            number(rates.connections_accepted),
            number(rates.connections_closed)
        ),
    ]
}

fn session_rows(before: Option<&TopSample>, now: &TopSample, clock: SystemTime) -> Vec<SessionRow> {
    let known: HashMap<&str, SessionTraffic> = before.map_or_else(HashMap::new, |before| {
        before.sessions.iter().map(|session| (session.connection_id.as_str(), session.traffic)).collect()
    });
    let seconds =
        before.map_or(1.0, |before| now.at.saturating_duration_since(before.at).as_secs_f64().max(0.001));
    let row = |session: &SessionSample| {
        let is = session.traffic;
        // Of one that was not there before all is new; without a sample before nothing is known of anybody.
        let was = known.get(session.connection_id.as_str()).copied();
        let was = match (was, before) {
            (Some(was), _) => was,
            (None, Some(_)) => SessionTraffic::default(),
            (None, None) => is,
        };
        let grown = |is: u64, was: u64| is.saturating_sub(was) as f64 / seconds;
        SessionRow {
            connection_id: session.connection_id.clone(),
            name: name(session.client_id.as_deref()),
            username: shown(session.username.as_deref().unwrap_or("-")),
            listener: shown(&session.listener),
            from: shown(&session.peer_addr),
            phase: shown(&session.phase),
            age: units::age(&session.connected_since, clock).unwrap_or_else(|| "-".to_owned()),
            since: session.connected_since.clone(),
            packets: grown(is.client_packets, was.client_packets)
                + grown(is.broker_packets, was.broker_packets),
            client_bytes: grown(is.client_bytes, was.client_bytes),
            broker_bytes: grown(is.broker_bytes, was.broker_bytes),
        }
    };
    now.sessions.iter().map(row).collect()
}

fn shown(text: &str) -> String {
    one_line(text).into_owned()
}

fn name(client_id: Option<&str>) -> String {
    match client_id {
        None => "-".to_owned(),
        Some("") => "\"\"".to_owned(),
        Some(id) => shown(id),
    }
}

/// The most frequent first.
fn decision_rows(rates: &RatesSample) -> Vec<DecisionRow> {
    let mut rows: Vec<DecisionRow> = rates
        .decisions
        .iter()
        .map(|row| DecisionRow {
            what: shown(&format!("{} by {}", row.hook, row.source)),
            outcome: shown(&row.outcome),
            rate: row.decisions,
        })
        .collect();
    rows.sort_by(|a, b| b.rate.total_cmp(&a.rate));
    rows
}

fn endpoint_row(endpoint: &PolicyEndpoint) -> EndpointRow {
    let error = endpoint.error.as_ref().map_or_else(String::new, |error| format!(": {error}"));
    let health = if endpoint.healthy { "healthy" } else { "UNHEALTHY" };
    EndpointRow { healthy: endpoint.healthy, text: shown(&format!("{health} {}{error}", endpoint.endpoint)) }
}

fn call_lines(rates: &RatesSample) -> Vec<String> {
    let mut calls: Vec<_> = rates.policy_calls.iter().filter(|calls| calls.calls > 0.0).collect();
    calls.sort_by(|a, b| b.calls.total_cmp(&a.calls));
    let line = |calls: &&super::sample::PolicyCalls| {
        let latency = |quantile: Option<f64>| quantile.map_or_else(|| "-".to_owned(), units::latency);
        let (p50, p99) = (latency(calls.p50_seconds), latency(calls.p99_seconds));
        let rate = units::number(calls.calls);
        shown(&format!("{} {} {rate}/s  p50 {p50}  p99 {p99}", calls.rpc, calls.outcome))
    };
    calls.iter().map(line).collect()
}

fn refusal_line(refusal: &RefusalSample) -> String {
    let time = refusal.time.split_once('T').map_or(refusal.time.as_str(), |(_, time)| time);
    let about = refusal
        .topic
        .as_deref()
        .or(refusal.filter.as_deref())
        .map_or_else(String::new, |name| format!(" {name}"));
    let hook = refusal.hook.as_deref().unwrap_or("connection");
    let name = name(refusal.client_id.as_deref());
    shown(&format!("{} {name} {hook}{about}: {}", time.split('.').next().unwrap_or(time), refusal.why))
}
