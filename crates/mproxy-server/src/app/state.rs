//! What the admin API sees of the house, and what it may do to it.

use std::sync::Arc;
use std::time::SystemTime;

use mproxy_codec::reason::ReasonCode;
use mproxy_policy::remote::HealthState;
use mproxy_tcp::tls::Remark;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::explain;
use super::reload::Reloader;
use crate::admin::view::{
    CertificateWarning, EndpointView, ListenerReadiness, Page, Readiness, ReloadView, SessionFilter,
    SessionView, StaleCertificate,
};
use crate::admin::{self, ExplainQuestion, Explaining, NotExplained, NotReloaded, Reloading};
use crate::config::files;
use crate::serve::House;

/// What the admin API sees.
pub(super) struct AppState {
    pub(super) reloader: Arc<Reloader>,
    pub(super) listeners: Vec<ListenerReadiness>,
    /// Cancelled when the house is to be drained.
    pub(super) drain: CancellationToken,
}

impl AppState {
    fn house(&self) -> &House {
        &self.reloader.house
    }
}

impl admin::AdminBackend for AppState {
    fn sessions(&self, filter: &SessionFilter, after: Option<Uuid>, limit: usize) -> Page {
        self.house().registry.page(filter, after, limit)
    }

    fn session(&self, connection_id: Uuid) -> Option<SessionView> {
        self.house().registry.view(connection_id)
    }

    fn explain(&self, question: ExplainQuestion) -> Explaining {
        let registry = &self.house().registry;
        let handle = match (question.connection_id, &question.client_id) {
            (Some(id), _) => match registry.find(id.as_u128()) {
                Some(handle) => Some(handle),
                None => return Box::pin(async { Err(NotExplained::NoSession) }),
            },
            (None, Some(client_id)) => registry.find_client(client_id),
            (None, None) => None,
        };
        match handle {
            Some(handle) => Box::pin(explain::of_session(handle, question)),
            None => {
                let answer = explain::of_stranger(
                    &self.reloader.common.chain,
                    &question,
                    self.reloader.remote.is_some(),
                );
                Box::pin(async { answer })
            }
        }
    }

    fn kick(&self, connection_id: Uuid, reason: u8) -> bool {
        self.house().registry.kick(connection_id, ReasonCode(reason))
    }

    fn drain(&self) {
        self.drain.cancel();
    }

    fn readiness(&self) -> Readiness {
        let draining = self.drain.is_cancelled();
        let mut listeners = self.listeners.clone();
        // They are closed by then: a load balancer must not take their addresses for open ones.
        if draining {
            listeners.iter_mut().for_each(|listener| listener.address = None);
        }
        let certificates = self.reloader.certificates.load();
        let stale_certificates = certificates
            .failing()
            .into_iter()
            .map(|(used_by, error)| StaleCertificate { used_by, error })
            .collect();
        let certificate_warnings = certificates.warnings(files::seconds(SystemTime::now()));
        let certificate_warnings = certificate_warnings
            .into_iter()
            .map(|(used_by, Remark { file, text, .. })| CertificateWarning {
                used_by,
                file: file.display().to_string(),
                warning: text,
            })
            .collect();
        let mut failed_reloads = self.reloader.reloads.last();
        failed_reloads.retain(|reload| reload.error.is_some());
        Readiness { draining, listeners, stale_certificates, certificate_warnings, failed_reloads }
    }

    fn reload(&self) -> Reloading {
        if self.drain.is_cancelled() {
            return Box::pin(async { Err(NotReloaded::Draining) });
        }
        // Whoever asked may go away: what was begun is brought to its end.
        let reload = tokio::spawn(Arc::clone(&self.reloader).reload());
        Box::pin(async {
            reload.await.unwrap_or_else(|panicked| Err(NotReloaded::Faults(vec![panicked.to_string()])))
        })
    }

    fn reloads(&self) -> Vec<ReloadView> {
        self.reloader.reloads.last()
    }

    fn policy_health(&self) -> Vec<EndpointView> {
        let Some(remote) = &self.reloader.remote else { return Vec::new() };
        let view = |health: mproxy_policy::remote::EndpointHealth| EndpointView {
            endpoint: health.url,
            healthy: health.state == HealthState::Healthy,
            error: health.last_error,
        };
        remote.health().into_iter().map(view).collect()
    }
}
