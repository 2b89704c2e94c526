//! Keeps one endpoint connected: dials, asks Hello, waits for the end of the connection, and begins again after a
//! pause that grows and is never the same for two mproxies.

use std::collections::hash_map::RandomState;
use std::error::Error;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tracing::{info, warn};

use super::endpoint::Dialer;
use super::health::{Endpoints, ServiceConnection};
use super::unary::{describe_status, with_causes};
use crate::contract::{Complaints, Hello, Rpc, ServiceClient, Wants};

/// Dialling, the TLS handshake and Hello together. Longer than a question may take, as it is paid once.
const CONNECTED_WITHIN: Duration = Duration::from_secs(5);

/// The pause after the first failure, and the longest. Quick at first: most outages are restarts.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MOST: Duration = Duration::from_secs(3);

/// A connection that stood so long is a good one: after it the pauses begin anew.
pub(super) const STEADY: Duration = Duration::from_secs(10);

pub(super) struct Connector {
    pub(super) at: usize,
    pub(super) url: String,
    pub(super) dialer: Dialer,
    pub(super) endpoints: Arc<Endpoints>,
    pub(super) complaints: Arc<Complaints>,
    pub(super) version: Arc<str>,
    pub(super) instance: Arc<str>,
    /// Whether streams are used, where the service serves them.
    pub(super) streams: bool,
}

impl Connector {
    /// Ends when `stop` is cancelled, and the connection with it.
    pub(super) async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.keep()).await;
    }

    async fn keep(&self) {
        let mut failures = 0;
        loop {
            if failures > 0 {
                sleep(pause(failures)).await;
            }
            let connection = match timeout(CONNECTED_WITHIN, self.connect()).await {
                Ok(Ok(connection)) => connection,
                Ok(Err(why)) => {
                    failures += 1;
                    self.endpoints.set_unhealthy(self.at, &why);
                    continue;
                }
                Err(_) => {
                    failures += 1;
                    self.endpoints.set_unhealthy(self.at, "no connection within 5 s");
                    continue;
                }
            };
            let since = Instant::now();
            let connection = self.endpoints.set_healthy(self.at, connection);
            connection.gone.cancelled().await;
            // A service that accepts and hangs up at once would otherwise be dialled without any pause.
            failures = if since.elapsed() >= STEADY { 0 } else { failures + 1 };
            // The first time the next connection is so near that questions better wait for it.
            if failures <= 1 {
                self.endpoints.set_lost(self.at, "connection closed");
            } else {
                self.endpoints.set_unhealthy(self.at, "connection closes again and again");
            }
        }
    }

    async fn connect(&self) -> Result<ServiceConnection, String> {
        let gone = CancellationToken::new();
        let channel = self.dialer.dial(&gone).await.map_err(|error| with_causes(&error))?;
        let service = ServiceClient::new(channel, Arc::clone(&self.complaints));
        let said = match service.hello(&self.version, &self.instance, CONNECTED_WITHIN).await {
            Ok(hello) => match hello? {
                Hello { name, wants: Some(wants), streams } => (self.accept_hello(&name, wants), streams),
                Hello { wants: None, streams, .. } => (self.accept_no_hello(), streams),
            },
            // Hello is younger than the hooks: services that were written without it are served as before.
            Err(status) if status.code() == Code::Unimplemented => (self.accept_no_hello(), false),
            Err(status) => {
                // In TLS 1.3 a service refuses our certificate only after the handshake, by hanging up.
                let hung_up = self.dialer.is_tls() && status.source().is_some();
                let hint = if hung_up { " (does the service accept mproxy's certificate?)" } else { "" };
                return Err(format!("Hello: {}{hint}", describe_status(&status)));
            }
        };
        let (wants, streams) = said;
        let said = (wants, streams && self.streams);
        Ok(ServiceConnection::new(&self.url, self.dialer.clone(), service, said, gone))
    }

    /// What it wants that did not say.
    fn accept_no_hello(&self) -> Wants {
        let wants = self.endpoints.last_or_default_wants();
        info!(
            endpoint = self.url,
            wants = names(&wants).join(","),
            "Hello unimplemented or empty, using previous or default hooks"
        );
        wants
    }

    fn accept_hello(&self, service: &str, wants: Wants) -> Wants {
        let calls = names(&wants);
        self.endpoints.remember_wants(&wants);
        info!(endpoint = self.url, service, wants = calls.join(","), "Hello answered");
        // Right where the rule file knows the users, and a mistake with open doors where nothing else does.
        if !calls.contains(&Rpc::AuthConnect.name()) {
            warn!(
                endpoint = self.url,
                "AuthConnect not wanted, the policy service does not decide who connects"
            );
        }
        wants
    }
}

/// The calls that are wanted.
fn names(wants: &Wants) -> Vec<&'static str> {
    Rpc::ALL.iter().filter(|rpc| wants.of(**rpc).is_some()).map(|rpc| rpc.name()).collect()
}

/// A random time up to 100 ms doubled with each failure, 3 s at most ("full jitter"): after an outage the
/// mproxies of a fleet do not come back in step.
pub(super) fn pause(failures: u32) -> Duration {
    // A shift of 32 or more would overflow; at 16 the longest pause is long reached.
    let longest = PAUSE_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(PAUSE_MOST);
    // Each RandomState has keys of its own; that is random enough for a pause.
    let random = RandomState::new().build_hasher().finish();
    // The upper 53 bits are what an f64 holds exactly. The floor keeps a pause of nothing from being a busy loop.
    longest.mul_f64((random >> 11) as f64 / (1_u64 << 53) as f64).max(Duration::from_millis(5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end_at_three_seconds() {
        for (failures, most) in [(1, 100), (2, 200), (5, 1600), (8, 3000), (50, 3000), (u32::MAX, 3000)] {
            for _ in 0..100 {
                assert!(pause(failures) <= Duration::from_millis(most), "{failures}");
            }
        }
        let spread = (0..100).map(|_| pause(8)).collect::<std::collections::HashSet<_>>();
        assert!(spread.len() > 50, "no jitter");
    }
}
