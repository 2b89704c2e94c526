//! What the admin API sees of the house, and what it may do to it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use mproxy_core::command::Dismissal;
use mproxy_policy::remote::{EndpointHealth, HealthState};
use mproxy_tcp::tls::Remark;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::reload::Reloader;
use super::upgrade::Upgrader;
use super::{bans, detail, explain, upgrade};
use crate::admin::view::{
    BrokerView, CertificateWarning, EndpointView, ListenerReadiness, Page, PolicyView, Readiness, ReloadView,
    ServiceView, SessionDetail, SessionFilter, SessionsQuestion, StaleCertificate, WantView,
};
use crate::admin::{
    self, AdmissionsView, BanKept, Banned, ChangeGuard, ExplainQuestion, Explaining, NotExplained,
    NotReloaded, NotUpgraded, ProtectionView, Reloading, Reply, Successor, Upgrading, WatermarkView,
};
use crate::config::files;
use crate::protect::admissions::AdmissionLimits;
use crate::protect::bans::{Ban, BanTarget, TooManyBans};
use crate::protect::watermarks::{Resource, ResourceUse, WatermarkLevel};
use crate::serve::{House, Serving};
use crate::timestamp::Timestamp;

/// How long a page of sessions may take, all the questions to them included.
const LISTED_WITHIN: Duration = Duration::from_secs(5);

/// What the admin API sees.
pub(super) struct AppState {
    pub(super) reloader: Arc<Reloader>,
    pub(super) listeners: Vec<ListenerReadiness>,
    /// Cancelled when the house is to be drained.
    pub(super) drain: CancellationToken,
    pub(super) upgrader: Upgrader,
}

impl AppState {
    fn house(&self) -> &Arc<House> {
        &self.reloader.house
    }

    /// Has a new process take the place of this one.
    pub(super) async fn replace(&self) -> Result<Successor, NotUpgraded> {
        let in_force = self.reloader.in_force.load_full();
        let general = &in_force.config.general;
        let policy = in_force.config.policy.as_ref();
        let has_spool = policy.is_some_and(|policy| policy.events.spool.is_some());
        let replaced = self.upgrader.upgrade(general.upgrade_timeout, has_spool).await;
        if self.upgrader.take_postponed_reload() {
            match &replaced {
                Ok(successor) => upgrade::reload_process(successor.pid),
                // What is wrong is in the log.
                Err(_) => drop(Arc::clone(&self.reloader).reload().await),
            }
        }
        replaced
    }

    /// SIGHUP: now, or when the upgrade that is under way is over, by the process that serves then.
    pub(super) async fn reload_or_postpone(&self) {
        match self.upgrader.begin_change() {
            // What is wrong is in the log.
            Some(_change) => drop(Arc::clone(&self.reloader).reload().await),
            None => self.upgrader.postpone_reload(),
        }
    }

    /// What serves each listener.
    fn serving(&self) -> impl Iterator<Item = &Arc<Serving>> {
        self.reloader.listeners.iter().map(|listener| &listener.serving)
    }
}

impl admin::AdminBackend for AppState {
    fn begin_change(&self) -> Option<ChangeGuard> {
        self.upgrader.begin_change()
    }

    fn sessions(&self, question: SessionsQuestion) -> Reply<Option<Page>> {
        let house = Arc::clone(self.house());
        Box::pin(async move { timeout(LISTED_WITHIN, house.registry.list(&question)).await.ok() })
    }

    fn session(&self, connection_id: Uuid) -> Reply<Option<SessionDetail>> {
        let handle = self.house().registry.find(connection_id.as_u128());
        let broker = handle.as_ref().and_then(|handle| {
            let its = self.serving().find(|serving| serving.name == handle.origin().listener)?;
            Some(its.target())
        });
        Box::pin(async move { Some(detail::of_session(handle?, broker).await) })
    }

    fn has_session(&self, connection_id: Uuid) -> bool {
        self.house().registry.find(connection_id.as_u128()).is_some()
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
                    self.reloader.common.clock.time(),
                );
                Box::pin(async { answer })
            }
        }
    }

    fn kick(&self, connection_id: Uuid, dismissal: &Dismissal) -> bool {
        self.house().registry.kick(connection_id, dismissal)
    }

    fn kick_all(&self, filter: SessionFilter, dismissal: Dismissal) -> Reply<Option<usize>> {
        let house = Arc::clone(self.house());
        Box::pin(
            async move { timeout(LISTED_WITHIN, house.registry.kick_all(&filter, &dismissal)).await.ok() },
        )
    }

    fn drain(&self) {
        self.drain.cancel();
    }

    fn readiness(&self, look_behind: bool) -> Reply<Readiness> {
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
        let policy = self.policy().endpoints;
        let serving: Vec<_> = self.serving().cloned().collect();
        Box::pin(async move {
            let brokers = join_all(serving.iter().map(|serving| broker(serving, look_behind))).await;
            Readiness {
                draining,
                listeners,
                stale_certificates,
                certificate_warnings,
                failed_reloads,
                brokers,
                policy,
            }
        })
    }

    fn bans(&self) -> Vec<Ban> {
        self.house().protection.bans.all(SystemTime::now())
    }

    fn ban(&self, ban: Ban) -> Reply<Result<Banned, TooManyBans>> {
        // Whoever asked may go away: what was begun is brought to its end.
        let set = tokio::spawn(bans::set(Arc::clone(self.house()), ban.clone()));
        Box::pin(async move {
            set.await.unwrap_or_else(|panicked| {
                let kept = BanKept::Failed(panicked.to_string());
                Ok(Banned { ban, disconnected: 0, kept })
            })
        })
    }

    fn unban(&self, target: BanTarget) -> Reply<Option<BanKept>> {
        let lifted = tokio::spawn(bans::lift(Arc::clone(self.house()), target));
        Box::pin(async { lifted.await.ok().flatten() })
    }

    fn protection(&self) -> ProtectionView {
        let admissions = |serving: &Arc<Serving>| {
            let AdmissionLimits { per_second, waiting } = serving.pacer.admissions.limits();
            AdmissionsView {
                listener: serving.name.to_string(),
                max_per_second: per_second,
                waiting: serving.pacer.admissions.waiting(),
                max_waiting: waiting,
            }
        };
        let watermark = |(resource, level, in_use): (Resource, WatermarkLevel, ResourceUse)| WatermarkView {
            resource: resource.name(),
            level: level.name(),
            used: in_use.used,
            strangers: in_use.strangers,
            refuse_at: in_use.refuse_at,
            drain_at: in_use.drain_at,
        };
        let watermarks = self.house().protection.watermarks.seen().map(watermark).into();
        ProtectionView { admissions: self.serving().map(admissions).collect(), watermarks }
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

    fn upgrade(self: Arc<Self>) -> Upgrading {
        // Whoever asked may go away: what was begun is brought to its end.
        let upgrade = tokio::spawn(async move { self.replace().await });
        Box::pin(async {
            upgrade.await.unwrap_or_else(|panicked| Err(NotUpgraded::Failed(panicked.to_string())))
        })
    }

    fn reloads(&self) -> Vec<ReloadView> {
        self.reloader.reloads.last()
    }

    fn policy(&self) -> PolicyView {
        let views = |health: Vec<EndpointHealth>| health.into_iter().map(endpoint).collect();
        PolicyView {
            endpoints: self.reloader.remote.as_ref().map(|remote| views(remote.health())).unwrap_or_default(),
            shadow: self.reloader.shadow.as_ref().map(|shadow| views(shadow.service().health())),
            calls: Vec::new(),
        }
    }
}

fn endpoint(health: EndpointHealth) -> EndpointView {
    let service = health.service.map(|service| ServiceView {
        name: (!service.name.is_empty()).then(|| service.name.into()),
        wants: service
            .wants
            .into_iter()
            .map(|(call, topics)| WantView {
                call,
                topic_filters: topics.into_iter().map(Into::into).collect(),
            })
            .collect(),
        streams: service.streams,
    });
    EndpointView {
        endpoint: health.url,
        healthy: health.state == HealthState::Healthy,
        state: health.state.name(),
        since: Timestamp(health.since),
        service,
        error: health.last_error,
    }
}

async fn broker(serving: &Serving, look_behind: bool) -> BrokerView {
    let last = serving.last_dial(look_behind).await;
    BrokerView {
        listener: serving.name.to_string(),
        target: serving.target(),
        reachable: last.as_ref().map(|last| last.error.is_none()),
        at: last.as_ref().map(|last| Timestamp(last.at)),
        error: last.and_then(|last| last.error).map(Into::into),
    }
}
