//! What the admin API says at one moment, as far as it is shown. What a newer mproxy has besides is passed over, and what
//! an older one has not is empty.

use std::time::Instant;

use serde::Deserialize;
use serde_json::Value;

use super::super::admin_api::{AdminCallError, AdminClient};
use super::super::sessions::{SessionPages, SessionSelectors};

/// Sessions that are looked at: rates need all of them, and nobody looks at more.
const MOST_SESSIONS: usize = 10_000;

/// Refusals that are shown.
const REFUSALS: usize = 20;

/// All of it.
#[derive(Debug)]
pub(super) struct TopSample {
    pub(super) at: Instant,
    pub(super) stats: StatsSample,
    pub(super) endpoints: Vec<PolicyEndpoint>,
    pub(super) refusals: Vec<RefusalSample>,
    pub(super) sessions: Vec<SessionSample>,
    /// There are more sessions than were asked for.
    pub(super) more_sessions: bool,
}

impl TopSample {
    /// Asks for all of it.
    pub(super) fn ask(client: &AdminClient) -> Result<Self, AdminCallError> {
        let stats = read(client, &client.ask("GET", "/api/v1/stats", None)?.body)?;
        let EndpointsSample { endpoints } = read(client, &client.ask("GET", "/api/v1/policy", None)?.body)?;
        let refusals = match client.ask("GET", &format!("/api/v1/refusals?limit={REFUSALS}"), None) {
            Ok(answer) => read::<Refusals>(client, &answer.body)?.refusals,
            // None are kept in memory.
            Err(AdminCallError::Refused { status: 404, .. }) => Vec::new(),
            Err(error) => return Err(error),
        };
        let selectors = SessionSelectors::default();
        let mut pages = SessionPages::new(client, &selectors, MOST_SESSIONS);
        let (at, mut sessions) = (Instant::now(), Vec::new());
        while let Some(page) = pages.next_page()? {
            for session in &page {
                sessions.push(read(client, session)?);
            }
        }
        Ok(Self { at, stats, endpoints, refusals, sessions, more_sessions: pages.more })
    }
}

fn read<'a, T: Deserialize<'a>>(client: &AdminClient, value: &'a Value) -> Result<T, AdminCallError> {
    T::deserialize(value).map_err(|_| client.not_ours())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct StatsSample {
    pub(super) version: String,
    pub(super) connections_open: f64,
    pub(super) resident_memory_bytes: f64,
    pub(super) uptime_seconds: f64,
    /// The shortest first.
    pub(super) windows: Vec<RatesSample>,
}

/// On average over so many seconds, in each.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RatesSample {
    pub(super) connections_accepted: f64,
    pub(super) connections_closed: f64,
    pub(super) from_client: TrafficSample,
    pub(super) from_broker: TrafficSample,
    pub(super) decided: f64,
    pub(super) refused: f64,
    pub(super) failed_answers: f64,
    pub(super) decisions: Vec<Decisions>,
    pub(super) policy_calls: Vec<PolicyCalls>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TrafficSample {
    pub(super) messages: f64,
    pub(super) bytes: f64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Decisions {
    pub(super) hook: String,
    pub(super) source: String,
    pub(super) outcome: String,
    pub(super) decisions: f64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PolicyCalls {
    pub(super) rpc: String,
    pub(super) outcome: String,
    pub(super) calls: f64,
    pub(super) p50_seconds: Option<f64>,
    pub(super) p99_seconds: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct EndpointsSample {
    endpoints: Vec<PolicyEndpoint>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PolicyEndpoint {
    pub(super) endpoint: String,
    pub(super) healthy: bool,
    pub(super) error: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Refusals {
    refusals: Vec<RefusalSample>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RefusalSample {
    pub(super) time: String,
    pub(super) client_id: Option<String>,
    pub(super) hook: Option<String>,
    pub(super) topic: Option<String>,
    pub(super) filter: Option<String>,
    pub(super) why: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SessionSample {
    pub(super) connection_id: String,
    pub(super) client_id: Option<String>,
    pub(super) username: Option<String>,
    pub(super) listener: String,
    pub(super) peer_addr: String,
    pub(super) phase: String,
    pub(super) connected_since: String,
    pub(super) traffic: SessionTraffic,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SessionTraffic {
    pub(super) client_packets: u64,
    pub(super) client_bytes: u64,
    pub(super) broker_packets: u64,
    pub(super) broker_bytes: u64,
}
