//! What the admin API shows, as JSON.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::config::reload::SettingChange;
use crate::timestamp::Timestamp;

/// Which sessions are meant. What is absent does not restrict.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct SessionFilter {
    /// Exactly this client identifier.
    pub client_id: Option<String>,
    /// Exactly this user name.
    pub username: Option<String>,
    /// Accepted by the listener of this name.
    pub listener: Option<String>,
}

impl SessionFilter {
    /// Whether a session passes.
    #[must_use]
    pub fn passes(&self, client_id: Option<&str>, username: Option<&str>, listener: &str) -> bool {
        let wants = |wanted: &Option<String>, is: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| Some(wanted) == is)
        };
        wants(&self.client_id, client_id)
            && wants(&self.username, username)
            && wants(&self.listener, Some(listener))
    }
}

/// Some sessions, and whether there are more.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct Page {
    /// In the order of their connection ids.
    pub sessions: Vec<SessionView>,
    /// Where the next page begins (`?after=`); absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<Uuid>,
}

/// One session.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct SessionView {
    /// Names the connection.
    pub connection_id: Uuid,
    /// Grows over all connections of this mproxy.
    pub epoch: u64,
    /// The client identifier in force; absent before CONNECT was read.
    pub client_id: Option<String>,
    /// The user name in force.
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
        let names = [self.client_id.as_deref(), self.username.as_deref()];
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

/// Whether new connections are welcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// mproxy is being stopped.
    pub draining: bool,
    /// Each listener that was configured.
    pub listeners: Vec<ListenerReadiness>,
    /// Certificates whose new files are broken; the old ones are in force, and no reason not to be ready.
    pub stale_certificates: Vec<StaleCertificate>,
    /// Certificates and revocation lists in force that cannot do what they are there for, as those past their dates: no
    /// reason not to be ready, since no other instance would do better.
    pub certificate_warnings: Vec<CertificateWarning>,
    /// What could not be reloaded the last time; what was in force before still is, and no reason not to be ready.
    pub failed_reloads: Vec<ReloadView>,
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
}

/// One listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ListenerReadiness {
    /// Its name.
    pub name: String,
    /// The address it is bound to; absent while it is not.
    pub address: Option<String>,
}

/// One endpoint of the policy service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct EndpointView {
    /// Its address, as configured.
    pub endpoint: String,
    /// Whether it is asked at present.
    pub healthy: bool,
    /// What is wrong with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_filter_passes_everybody() {
        assert!(SessionFilter::default().passes(None, None, "mqtt"));
        let filter = SessionFilter { username: Some("ann".into()), ..SessionFilter::default() };
        assert!(filter.passes(Some("c"), Some("ann"), "mqtt"));
        assert!(!filter.passes(Some("c"), None, "mqtt"));
    }
}
