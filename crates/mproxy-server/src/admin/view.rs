//! What the admin API shows, as JSON.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

pub use super::select::{
    SessionCursor, SessionFacts, SessionFilter, SessionOrder, SessionPhase, SessionsQuestion, SortKey,
};
use crate::config::reload::SettingChange;
use crate::telemetry::latencies::CallLatency;
use crate::timestamp::Timestamp;

/// Some sessions, and whether there are more.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct Page {
    /// In the order that was asked for.
    pub sessions: Vec<SessionView>,
    /// Where the next page begins (`?after=`); absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// One session.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct SessionView {
    /// Names the connection.
    pub connection_id: Uuid,
    /// Grows over all connections of this mproxy.
    pub epoch: u64,
    /// The client identifier in force; while the client waits to be admitted, the one it asks for; absent before CONNECT
    /// was read.
    pub client_id: Option<String>,
    /// The client identifier that the broker knows; absent where it is the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broker_client_id: Option<String>,
    /// The user name in force, or asked for.
    pub username: Option<String>,
    /// The listener that accepted it.
    pub listener: String,
    /// `tcp`, `tls`, `ws`, `wss` or `unix`.
    pub transport: &'static str,
    /// The client's address; over a Unix socket its process, `unix:pid=42,uid=1000,gid=1000`.
    pub peer_addr: String,
    /// The address it connected to; over a Unix socket `unix:` and its path.
    pub local_addr: String,
    /// `3.1`, `3.1.1` or `5.0`; absent before CONNECT was read.
    pub protocol: Option<String>,
    /// The version of the grant in force; absent where there is none, or it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grant_version: Option<String>,
    /// When it was accepted.
    pub connected_since: Timestamp,
    /// How far it is: `connecting`, `admitting`, `dialling`, `open`, `closing`.
    pub phase: &'static str,
    /// What passed so far.
    pub traffic: TrafficView,
}

impl SessionView {
    /// About as many bytes as it has in JSON.
    #[must_use]
    pub fn json_size(&self) -> usize {
        const REST: usize = 512;
        let names = [self.client_id.as_deref(), self.broker_client_id.as_deref(), self.username.as_deref()];
        REST + names.into_iter().flatten().flat_map(str::bytes).map(in_json).sum::<usize>()
    }
}

const fn in_json(byte: u8) -> usize {
    match byte {
        // `\u001f`; some have a shorter form, and this is a bound.
        0..0x20 => 6,
        b'"' | b'\\' => 2,
        _ => 1,
    }
}

/// Packets and bytes as they came in from each side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct TrafficView {
    /// Packets from the client.
    pub client_packets: u64,
    /// Bytes from the client.
    pub client_bytes: u64,
    /// Packets from the broker.
    pub broker_packets: u64,
    /// Bytes from the broker.
    pub broker_bytes: u64,
}

/// One session, with all that is known of it.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct SessionDetail {
    /// What a list shows of it.
    #[serde(flatten)]
    pub session: SessionView,
    /// The broker that its listener leads to.
    pub broker: Option<String>,
    /// Seconds between two packets of the client's; 0 is no keep alive. Absent before CONNECT was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_alive: Option<u16>,
    /// Clean Start of 5.0, Clean Session before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clean_start: Option<bool>,
    /// What the policy attached to the client.
    pub attributes: BTreeMap<String, String>,
    /// Facts of the TLS handshake.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsView>,
    /// The grant in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grant: Option<GrantView>,
    /// What its task knows; absent where it has no client yet, is ending, or has not answered in time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live: Option<LiveView>,
}

/// What a TLS handshake told about the client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct TlsView {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: String,
    /// IANA name of the cipher suite; absent if the TLS facts came by the PROXY protocol, or the session did not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cipher_suite: Option<&'static str>,
    /// The server name that the client asked for.
    pub sni: Option<String>,
    /// The application protocol that was agreed on.
    pub alpn: Option<String>,
    /// Subject of the client's certificate (RFC 4514).
    pub subject: Option<String>,
    /// Its common name.
    pub common_name: Option<String>,
    /// Its alternative names, `DNS:…`, `URI:…`, `IP:…`, `email:…`.
    pub subject_alt_names: Vec<String>,
    /// SHA-256 over it, in hexadecimal.
    pub fingerprint: Option<String>,
    /// Its serial number, in hexadecimal.
    pub serial: Option<String>,
}

/// A grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct GrantView {
    /// The policy's own name for it.
    pub version: Option<String>,
    /// When it came.
    pub received: Option<Timestamp>,
    /// When the client is disconnected, whatever else holds.
    pub expires_at: Option<Timestamp>,
    /// When it is renewed.
    pub renews_at: Option<Timestamp>,
    /// How long it serves without being renewed.
    pub serves_until: Option<Timestamp>,
}

/// What a session's task knows of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct LiveView {
    /// The broker has gone on with an old session.
    pub session_present: bool,
    /// The client's subscriptions; null if neither rules nor a hook service decide on them: then mproxy does not remember them.
    pub subscriptions: Option<Vec<SubscriptionView>>,
    /// There are further ones, or may be: from before this connection, or because they are too many.
    pub more_subscriptions: bool,
    /// Publishes of the client's, of QoS 1 and 2, that are not acknowledged to the end.
    pub in_flight: u32,
    /// QoS 1 and 2 deliveries that the client has not acknowledged with PUBACK or PUBREC. Null if neither rules nor a hook
    /// service decide on deliveries: mproxy does not track them then.
    pub deliveries_in_flight: Option<u32>,
    /// Packets that wait for a verdict.
    pub waiting_packets: DirectionView,
    /// Bytes of them.
    pub waiting_bytes: DirectionView,
    /// Bytes that were received for one side from the other, and are not written to it yet.
    pub unwritten_bytes: DirectionView,
    /// The address of the broker, which its name was resolved to; absent without a connection to it, or over a Unix socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broker_addr: Option<String>,
    /// TLS towards the broker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broker_tls: Option<BrokerTlsView>,
    /// Bytes that are put down for it against its budget.
    pub held_bytes: u64,
}

/// What protects the connection to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct BrokerTlsView {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// IANA name of the cipher suite.
    pub cipher_suite: &'static str,
}

/// A number for each direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct DirectionView {
    /// From the client.
    pub from_client: u64,
    /// From the broker.
    pub from_broker: u64,
}

/// One subscription.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct SubscriptionView {
    /// As the client knows it.
    pub filter: String,
    /// As the broker knows it, if that is something else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broker_filter: Option<String>,
    /// The QoS that the broker has granted; null where it has not answered yet, has refused, or the filter was rewritten.
    pub granted_qos: Option<u8>,
}

/// Whether new connections are welcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// mproxy is being stopped.
    pub draining: bool,
    /// Each listener that was configured.
    pub listeners: Vec<ListenerReadiness>,
    /// Certificate files that failed to reload; the previous certificates stay in use, so this does not count against ready.
    pub stale_certificates: Vec<StaleCertificate>,
    /// Certificates and revocation lists in force that cannot do what they are there for, as those past their dates: no
    /// reason not to be ready, since no other instance would do better.
    pub certificate_warnings: Vec<CertificateWarning>,
    /// What could not be reloaded the last time; what was in force before still is, and no reason not to be ready.
    pub failed_reloads: Vec<ReloadView>,
    /// The brokers. That one is away is no reason not to be ready: every other instance would say the same.
    pub brokers: Vec<BrokerView>,
    /// The endpoints of the policy service; likewise.
    pub policy: Vec<EndpointView>,
}

/// What a policy service said of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ServiceView {
    /// Its name and version, as it calls itself; null where it did not say.
    pub name: Option<String>,
    /// The calls that it wants.
    pub wants: Vec<WantView>,
    /// Whether it is asked over streams, too.
    pub streams: bool,
}

/// A call that a policy service wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct WantView {
    /// Which call.
    pub call: &'static str,
    /// For topics that match one of these; empty: for every topic.
    pub topic_filters: Vec<String>,
}

/// How the broker of a listener was reached the last time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct BrokerView {
    /// The listener.
    pub listener: String,
    /// The broker.
    pub target: String,
    /// Whether it was; null where it has not been tried yet.
    pub reachable: Option<bool>,
    /// When that was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// Why it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What is wrong with a file that is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct CertificateWarning {
    /// `listener mqtts`, `target of mqtts`, `policy service`.
    pub used_by: String,
    /// Which file.
    pub file: String,
    /// What, and what to do.
    pub warning: String,
}

/// What became of the last reload of something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ReloadView {
    /// `configuration`, `acl_file`, `certificates`.
    pub what: &'static str,
    /// Of certificates: `listener mqtts`, `target of mqtts`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used_by: Option<String>,
    /// `reloaded`, or `failed`: what was in force before still is.
    pub outcome: &'static str,
    /// When.
    pub at: Timestamp,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Of the configuration: the settings that were changed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<SettingChangeView>,
}

/// A setting that a reload changed, or the next start will. Secrets are masked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct SettingChangeView {
    /// Its key in the file.
    pub setting: String,
    /// What was in force; absent where it was not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old: Option<String>,
    /// What is written now; absent where it is not set any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new: Option<String>,
    /// `now`, `new_connections` (it holds for those that are made from now on) or `next_start`.
    pub takes_effect: &'static str,
}

impl From<&SettingChange> for SettingChangeView {
    fn from(change: &SettingChange) -> Self {
        let SettingChange { key, old, new, takes_effect } = change.clone();
        Self { setting: key, old, new, takes_effect: takes_effect.name() }
    }
}

/// Certificates that could not be reloaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct StaleCertificate {
    /// `listener mqtts`, `target of mqtts`.
    pub used_by: String,
    /// Which file is wrong, and why.
    pub error: String,
}

impl Readiness {
    /// Not draining, and every listener is bound.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.draining && self.listeners.iter().all(|listener| listener.address.is_some())
    }

    /// The same, with each broker reached, an endpoint of the policy service healthy where there is one, and nothing wrong
    /// with certificates.
    #[must_use]
    pub fn is_ready_altogether(&self) -> bool {
        self.is_ready()
            && self.brokers.iter().all(|broker| broker.reachable != Some(false))
            && (self.policy.is_empty() || self.policy.iter().any(|endpoint| endpoint.healthy))
            && self.stale_certificates.is_empty()
            && self.certificate_warnings.is_empty()
    }
}

/// One listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ListenerReadiness {
    /// Its name.
    pub name: String,
    /// The address it is bound to; absent while it is not.
    pub address: Option<String>,
}

/// The policy service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct PolicyView {
    /// Its endpoints, in the order of preference; none where there is no service.
    pub endpoints: Vec<EndpointView>,
    /// Those of the service that is asked for comparison; absent where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadow: Option<Vec<EndpointView>>,
    /// How long calls to the service in force took since the start.
    pub calls: Vec<CallLatency>,
}

/// One endpoint of a policy service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct EndpointView {
    /// Its address, as configured.
    pub endpoint: String,
    /// Whether it is asked at present.
    pub healthy: bool,
    /// `connecting` (for the first time, or just after the connection was lost), `healthy` or `unhealthy`.
    pub state: &'static str,
    /// Since when.
    pub since: Timestamp,
    /// What it said of itself; absent while it is not connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceView>,
    /// The last thing that went wrong with it; kept when it is healthy again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
