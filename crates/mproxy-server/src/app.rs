//! The composition root: the only file that knows everybody. Builds the house from its configuration, opens its doors,
//! and sees it through to its end.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use mproxy_codec::reason::ReasonCode;
use mproxy_core::Chain;
use mproxy_core::budget::{Budget, Scope};
use mproxy_core::event::{Nobody, Sink};
use mproxy_core::peer::Address;
use mproxy_core::policy::{Decider, OnError as CoreOnError};
use mproxy_core::session::{OnErrors, OnUnavailable as CoreOnUnavailable};
use mproxy_core::{Limits, Setting};
use mproxy_policy::acl::{Acl, AclAdviser, Reloaded, Size, UnknownUsers};
use mproxy_policy::grants::Grants;
use mproxy_policy::remote::{Endpoint, HealthState, Remote, RemoteConfig, RemoteTls};
use mproxy_tcp::tls::{Material as _, Remark};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use uuid::Uuid;

use crate::admin::view::{
    CertificateWarning, EndpointHealth, ListenerReadiness, Page, Readiness, ReloadView, SessionFilter,
    SessionView, StaleCertificate,
};
use crate::admin::{self, Admin};
use crate::config::{
    ClientTls, Config, Loaded, LogLevel, OnError, OnUnavailable, PolicyConfig, Problems, check, files,
};
use crate::door::{Certificates, Inward, Outward, Renewed, Room};
use crate::drain::drain;
use crate::reloads::Reloads;
use crate::serve::{House, Serving, tick};
use crate::telemetry::log::LogHandle;
use crate::telemetry::metrics::Metrics;

/// Events that wait for the policy service at most, over all connections. Beyond, they are dropped and counted.
const EVENT_QUEUE: usize = 16 << 10;

/// Questions that are open at the policy service at most. The others wait within their deadline.
const QUESTIONS: usize = 4096;

/// How long events that still wait may take at the end of the process.
const LAST_EVENTS: Duration = Duration::from_secs(2);

/// A house with open doors.
pub struct App {
    config: Config,
    state: Arc<AppState>,
    acl: Option<Arc<AclAdviser>>,
    remote: Option<Arc<Remote>>,
    log: LogHandle,
    stop_admin: CancellationToken,
    admin: tokio::task::JoinHandle<()>,
    signals: Signals,
    /// Where each listener listens, by name, and the admin API last.
    bound: Vec<(String, Address)>,
}

/// What the admin API sees.
struct AppState {
    house: Arc<House>,
    certificates: Arc<Certificates>,
    reloads: Arc<Reloads>,
    remote: Option<Arc<Remote>>,
    listeners: Vec<ListenerReadiness>,
    /// Cancelled when the house is to be drained.
    drain: CancellationToken,
}

/// The advisers, in the order in which they are asked.
struct Advisers {
    chain: Chain,
    sink: Arc<dyn Sink>,
    acl: Option<Arc<AclAdviser>>,
    remote: Option<Arc<Remote>>,
}

impl App {
    /// Builds everything and binds every listener. `rules` take the place of the rule file.
    ///
    /// # Errors
    /// What could not be loaded or bound. Nothing stays open then.
    pub async fn open(loaded: Loaded, rules: Option<Acl>, log: LogHandle) -> anyhow::Result<Self> {
        // Before any door is open: whoever sees one may send a signal, which would kill a process not yet listening.
        let signals = Signals::new()?;
        let shown = check::view(&loaded);
        for warning in files::warnings(&loaded, SystemTime::now()) {
            warn!("{warning}");
        }
        let config = loaded.config;
        let metrics = Arc::new(Metrics::beside(log.counts()));
        let acl = match (rules, &config.general.acl_file) {
            (Some(rules), _) => Some(rules),
            (None, Some(path)) => Some(Acl::load(path)?),
            (None, None) => None,
        };
        // Before any port is open, too: certificates that cannot be used are a fault of the start.
        let (doorways, certificates) = doorways(&config)?;
        // At the start they were told with the settings that name the files.
        certificates.news(files::seconds(SystemTime::now()));
        metrics.certificate_dates(&certificates.dates());
        let mut doors = Vec::new();
        for (listener, (inward, _)) in config.listeners.iter().zip(&doorways) {
            let open = inward.open(listener).await.with_context(|| {
                format!("listener {} ({} disables it)", listener.name, listener.closed_by)
            })?;
            doors.push(open);
        }
        let admin_door = tokio::net::TcpListener::bind((&*config.admin.host, config.admin.port))
            .await
            .with_context(|| format!("admin API: {}:{}", config.admin.host, config.admin.port))?;
        let advisers = advise(&config, acl, &metrics)?;

        let house = Arc::new(House::new(
            &config.general.instance,
            config.general.max_connections,
            config.general.max_pending,
            Arc::clone(&advisers.sink),
        ));
        let total = Arc::new(Scope::new(config.general.budget_total));
        metrics.budget_of_all(&total);
        let mut bound: Vec<_> = Vec::new();
        for ((listener, open), (_, outward)) in config.listeners.iter().zip(doors).zip(doorways) {
            let address = open.address().clone();
            bound.push((listener.name.clone(), address.clone()));
            info!(
                listener = listener.name,
                %address,
                broker = %listener.target,
                disabled_by = listener.closed_by,
                "listening"
            );
            let budget = Arc::new(Budget::new(
                listener.limits.budget_connection,
                listener.limits.budget_listener,
                Arc::clone(&total),
            ));
            metrics.budget_of(&listener.name, &budget);
            let limits = Limits {
                max_packet_size: listener.limits.max_packet_size,
                max_connect: listener.limits.max_connect_size,
                max_user_properties: listener.limits.max_user_properties as usize,
                max_keep_alive: listener.limits.max_keep_alive,
                max_session_expiry: listener.limits.max_session_expiry,
                grant_staleness: config
                    .policy
                    .as_ref()
                    .map_or(Duration::ZERO, |policy| policy.questions.grant_staleness),
                connect_timeout: listener.limits.connect_timeout,
                admission_timeout: listener.limits.connect_timeout,
                // What a client sent before it went is still decided and delivered: its end outlasts a question.
                close_timeout: config
                    .policy
                    .as_ref()
                    .map_or(Duration::ZERO, |policy| policy.questions.timeout)
                    + Limits::default().close_timeout,
                ..Limits::default()
            };
            let serving = Arc::new(Serving {
                house: Arc::clone(&house),
                name: listener.name.as_str().into(),
                room: Room::sharing(&house.handshakes, &budget),
                setting: Arc::new(Setting {
                    advisers: advisers.chain.clone(),
                    sink: Arc::clone(&advisers.sink),
                    meter: Arc::clone(&metrics) as _,
                    limits,
                    on_error: on_errors(config.policy.as_ref()),
                    on_unavailable: match listener.limits.on_unavailable {
                        OnUnavailable::Close => CoreOnUnavailable::Close,
                        OnUnavailable::Connack => CoreOnUnavailable::Connack,
                    },
                    budget,
                }),
                outward,
                metrics: metrics.listener(&listener.name),
                max_connections: listener.limits.max_connections,
                open: AtomicUsize::new(0),
                pending: Arc::default(),
            });
            house.doors.spawn(serving.run(open));
        }
        house.doors.spawn(tick(house.closing.clone()));
        let reloads = Arc::new(Reloads::new(Arc::clone(&metrics)));
        if !certificates.is_empty() {
            house.doors.spawn(watch(Arc::clone(&certificates), Arc::clone(&reloads), house.closing.clone()));
        }
        let state = Arc::new(AppState {
            house,
            certificates: Arc::clone(&certificates),
            reloads,
            remote: advisers.remote.clone(),
            listeners: bound
                .iter()
                .map(|(name, address)| ListenerReadiness {
                    name: name.clone(),
                    address: Some(address.to_string()),
                })
                .collect(),
            drain: CancellationToken::new(),
        });
        let address = admin_door.local_addr()?;
        bound.push(("admin".to_owned(), address.into()));
        info!(listener = "admin", %address, "listening");
        let stop_admin = CancellationToken::new();
        let admin = admin::serve(
            admin_door,
            Admin {
                backend: Arc::clone(&state) as _,
                metrics: Arc::clone(&metrics),
                log: log.clone(),
                config: Arc::new(shown),
                token: config.admin.token.clone(),
                host: config.admin.host.as_str().into(),
            },
            stop_admin.clone().cancelled_owned(),
        );
        let Advisers { acl, remote, .. } = advisers;
        Ok(Self { config, state, acl, remote, log, stop_admin, admin, signals, bound })
    }

    /// Where everybody listens: each listener by its name, then `admin`.
    #[must_use]
    pub fn bound(&self) -> &[(String, Address)] {
        &self.bound
    }

    /// Runs until a signal or the admin API ends it: SIGTERM and SIGINT drain, a second one ends at once; SIGHUP reads
    /// certificates and the rule file anew, and the log level from `level`.
    pub async fn run(mut self, level: impl Fn() -> Result<LogLevel, Problems>) {
        loop {
            let Signals { terminate, interrupt, hangup } = &mut self.signals;
            tokio::select! {
                () = self.state.drain.cancelled() => break,
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => {}
            }
            self.reload(level()).await;
        }
        let Self { mut signals, config, state, remote, stop_admin, mut admin, .. } = self;
        state.drain.cancel();
        state.house.closing.cancel();
        // In order: connections first, then what they told, then the admin API.
        let ending = async {
            drain(&state.house, config.general.drain_timeout).await;
            if let Some(remote) = &remote {
                remote.flush(LAST_EVENTS).await;
            }
            stop_admin.cancel();
            // It ends by itself once nobody is being answered; its task never panics.
            let _ = tokio::time::timeout(LAST_EVENTS, &mut admin).await;
        };
        tokio::select! {
            () = ending => {}
            () = signals.end() => warn!("second signal, exiting at once"),
        }
    }

    async fn reload(&self, level: Result<LogLevel, Problems>) {
        let reloads = &self.state.reloads;
        reloads.record("configuration", None, level.as_ref().err());
        match level {
            Ok(level) => self.log.set(level),
            Err(problems) => {
                let mut lines = lines(&problems);
                let error = lines.next().unwrap_or_default();
                warn!(error, "configuration reload failed, previous log level stays in force");
                lines.for_each(|line| warn!("{line}"));
            }
        }
        renew(&self.state.certificates, reloads, Certificates::renew_all).await;
        let Some(acl) = self.acl.clone() else { return };
        let path = self.config.general.acl_file.as_ref().map(|path| path.display().to_string());
        // Reads a file: not on a runtime thread.
        let read = tokio::task::spawn_blocking(move || acl.reload()).await;
        let read = read.map_err(|panicked| panicked.to_string());
        match read.and_then(|read| read.map_err(|faults| faults.to_string())) {
            Ok(Reloaded { old, new }) => {
                reloads.record("acl_file", None, None::<&str>);
                info!(
                    path,
                    users = new.users,
                    rules = new.rules,
                    users_before = old.users,
                    rules_before = old.rules,
                    "ACL file reloaded"
                );
            }
            Err(faults) => {
                reloads.record("acl_file", None, Some(&faults));
                let mut lines = lines(&faults);
                let error = lines.next().unwrap_or_default();
                error!(path, error, "ACL file reload failed, previous version stays in force");
                lines.for_each(|line| error!("{line}"));
            }
        }
    }
}

/// Lines of one text that are logged at most.
const LINES: usize = 50;

/// What has several lines is as many of the log's.
fn lines(text: &impl ToString) -> impl Iterator<Item = String> {
    text.to_string().lines().take(LINES).map(str::to_owned).collect::<Vec<_>>().into_iter()
}

impl admin::AdminBackend for AppState {
    fn sessions(&self, filter: &SessionFilter, after: Option<Uuid>, limit: usize) -> Page {
        self.house.registry.page(filter, after, limit)
    }

    fn session(&self, connection_id: Uuid) -> Option<SessionView> {
        self.house.registry.view(connection_id)
    }

    fn kick(&self, connection_id: Uuid, reason: u8) -> bool {
        self.house.registry.kick(connection_id, ReasonCode(reason))
    }

    fn drain(&self) {
        self.drain.cancel();
    }

    fn readiness(&self) -> Readiness {
        let draining = self.drain.is_cancelled();
        let mut listeners = self.listeners.clone();
        if draining {
            listeners.iter_mut().for_each(|listener| listener.address = None);
        }
        let stale_certificates = self
            .certificates
            .failing()
            .into_iter()
            .map(|(used_by, error)| StaleCertificate { used_by, error })
            .collect();
        let certificate_warnings = self.certificates.warnings(files::seconds(SystemTime::now()));
        let certificate_warnings = certificate_warnings
            .into_iter()
            .map(|(used_by, Remark { file, text, .. })| CertificateWarning {
                used_by,
                file: file.display().to_string(),
                warning: text,
            })
            .collect();
        let mut failed_reloads = self.reloads.last();
        failed_reloads.retain(|reload| reload.error.is_some());
        Readiness { draining, listeners, stale_certificates, certificate_warnings, failed_reloads }
    }

    fn reloads(&self) -> Vec<ReloadView> {
        self.reloads.last()
    }

    fn policy_health(&self) -> Vec<EndpointHealth> {
        let Some(remote) = &self.remote else { return Vec::new() };
        let view = |health: mproxy_policy::remote::EndpointHealth| EndpointHealth {
            endpoint: health.url,
            healthy: health.state == HealthState::Healthy,
            error: health.last_error,
        };
        remote.health().into_iter().map(view).collect()
    }
}

/// Signals that end or reload the process.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("signals cannot be listened to");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// What each listener does with a connection that came in, and how it reaches its broker.
type Doorways = Vec<(Inward, Outward)>;

fn doorways(config: &Config) -> anyhow::Result<(Doorways, Arc<Certificates>)> {
    let mut certificates = Certificates::default();
    let mut doorways = Vec::new();
    for listener in &config.listeners {
        let name = &listener.name;
        let inward = Inward::of(listener).with_context(|| format!("listener {name}"))?;
        if let Some(tls) = inward.tls() {
            certificates.keep(format!("listener {name}"), tls);
        }
        let outward = Outward::of(&listener.target).with_context(|| format!("target of {name}"))?;
        if let Some(tls) = outward.tls() {
            certificates.keep(format!("target of {name}"), tls);
        }
        doorways.push((inward, outward));
    }
    if let Some(tls) = config.policy.as_ref().and_then(files::towards_policy) {
        certificates.keep_dates("policy service", tls.look().unwrap_or_default());
    }
    Ok((doorways, Arc::new(certificates)))
}

/// How often files of certificates are looked at.
const WATCH: Duration = Duration::from_secs(5);

/// Reads certificates anew when their files have changed.
async fn watch(certificates: Arc<Certificates>, reloads: Arc<Reloads>, closing: CancellationToken) {
    let mut watch = tokio::time::interval(WATCH);
    while closing.run_until_cancelled(watch.tick()).await.is_some() {
        renew(&certificates, &reloads, Certificates::renew_changed).await;
        for (used_by, Remark { file, text, .. }) in certificates.news(files::seconds(SystemTime::now())) {
            warn!(used_by, path = %file.display(), warning = text, "certificate warning");
        }
    }
}

/// Nobody is dropped: running connections keep what they were made with, and a broken file keeps the old one in force.
async fn renew(
    certificates: &Arc<Certificates>,
    reloads: &Reloads,
    which: impl FnOnce(&Certificates) -> Vec<Renewed> + Send + 'static,
) {
    let reading = Arc::clone(certificates);
    // Reads files: not on a runtime thread.
    let renewed = tokio::task::spawn_blocking(move || which(&reading)).await.unwrap_or_default();
    if !renewed.is_empty() {
        reloads.metrics().certificate_dates(&certificates.dates());
    }
    for Renewed { whose: used_by, result } in renewed {
        reloads.record("certificates", Some(&used_by), result.as_ref().err());
        match result {
            Ok(()) => info!(used_by, "certificates reloaded"),
            Err(error) => {
                error!(used_by, error, "certificate reload failed, previous ones stay in force");
            }
        }
    }
}

fn advise(config: &Config, acl: Option<Acl>, metrics: &Arc<Metrics>) -> anyhow::Result<Advisers> {
    let remote = match &config.policy {
        Some(policy) => Some(Remote::start(remote_config(config, policy)?, Arc::clone(metrics) as _)?),
        None => None,
    };
    let unknown_users = if remote.is_some() { UnknownUsers::LeftToOthers } else { UnknownUsers::Refused };
    let acl = acl.map(|acl| Arc::new(AclAdviser::new(acl, unknown_users)));
    let mut deciders: Vec<Arc<dyn Decider>> = Vec::new();
    if let Some(acl) = &acl {
        let Size { users, rules } = acl.size();
        info!(users, rules, "ACL file loaded");
        deciders.push(Arc::clone(acl) as _);
    }
    if let Some(remote) = &remote {
        deciders.push(Arc::new(Grants));
        deciders.push(Arc::clone(remote) as _);
    }
    let sink: Arc<dyn Sink> = match &remote {
        Some(remote) => Arc::clone(remote) as _,
        None => Arc::new(Nobody),
    };
    Ok(Advisers { chain: Chain::new(deciders), sink, acl, remote })
}

fn remote_config(config: &Config, policy: &PolicyConfig) -> anyhow::Result<RemoteConfig> {
    let endpoints: Result<Vec<Endpoint>, _> = policy.endpoints.iter().map(|url| url.parse()).collect();
    Ok(RemoteConfig {
        endpoints: endpoints?,
        timeout: policy.questions.timeout,
        instance: config.general.instance.as_str().into(),
        version: env!("CARGO_PKG_VERSION").into(),
        event_queue: EVENT_QUEUE,
        max_in_flight: QUESTIONS,
        tls: remote_tls(&policy.tls)?,
    })
}

fn remote_tls(tls: &ClientTls) -> anyhow::Result<RemoteTls> {
    let read = |path: &std::path::Path| mproxy_tcp::tls::read_text(path).context("policy service");
    Ok(RemoteTls {
        ca: tls.ca_certs.as_deref().map(read).transpose()?,
        identity: match &tls.identity {
            Some((cert, key)) => Some((read(cert)?, read(key)?)),
            None => None,
        },
    })
}

fn on_errors(policy: Option<&PolicyConfig>) -> OnErrors {
    let Some(PolicyConfig { on_error, .. }) = policy else { return OnErrors::default() };
    let core = |on_error| match on_error {
        OnError::Deny => CoreOnError::Deny,
        OnError::Allow => CoreOnError::Allow,
    };
    OnErrors {
        connect: core(on_error.connect),
        publish: core(on_error.publish),
        subscribe: core(on_error.subscribe),
        deliver: core(on_error.deliver),
    }
}
