//! The composition root: the only file that knows everybody. Builds the house from its configuration, opens its listeners,
//! and sees it through to its end.

mod advise;
mod explain;
mod listeners;
mod reload;
mod signals;
mod state;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use mproxy_core::peer::Address;
use mproxy_policy::acl::{Acl, AclAdviser};
use mproxy_policy::remote::Remote;
use mproxy_policy::shadow::Shadow;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::advise::Advisers;
use self::reload::{reload, watch};
use self::signals::Signals;
use self::state::AppState;
use crate::admin::view::ListenerReadiness;
use crate::admin::{self, Admin};
use crate::command_router::CommandRouter;
use crate::config::{Config, Loaded, LogLevel, Problems, check, files};
use crate::drain::drain;
use crate::reloads::Reloads;
use crate::serve::{House, tick};
use crate::telemetry::decisions::{DecisionLog, DecisionLogConfig};
use crate::telemetry::log::LogHandle;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::Traces;

/// How long events that still wait may take at the end of the process.
const LAST_EVENTS: Duration = Duration::from_secs(2);

/// How long the last records may take to be written to the file of the decision log.
const LAST_RECORDS: Duration = Duration::from_secs(1);

/// mproxy with open listeners.
pub struct App {
    config: Config,
    state: Arc<AppState>,
    acl: Option<Arc<AclAdviser>>,
    remote: Option<Arc<Remote>>,
    shadow: Option<Arc<Shadow>>,
    decisions: Arc<DecisionLog>,
    log: LogHandle,
    stop_admin: CancellationToken,
    admin: tokio::task::JoinHandle<()>,
    signals: Signals,
    /// Where each listener listens, by name, and the admin API last.
    bound: Vec<(String, Address)>,
}

impl App {
    /// Builds everything and binds every listener. `rules` take the place of the rule file. Whoever made `traces` flushes
    /// them, after [`run`](Self::run).
    ///
    /// # Errors
    /// What could not be loaded or bound. Nothing stays open then.
    pub async fn open(
        loaded: Loaded,
        rules: Option<Acl>,
        log: LogHandle,
        traces: Option<Arc<Traces>>,
    ) -> anyhow::Result<Self> {
        // Before any listener is open: whoever sees one may send a signal, which would kill a process not yet listening.
        let signals = Signals::new()?;
        let shown = check::view(&loaded);
        for warning in files::warnings(&loaded, SystemTime::now()) {
            warn!("{warning}");
        }
        let config = loaded.config;
        let decisions = Arc::new(DecisionLog::start(&decision_log(&config)));
        let spans = traces.as_ref().map(|traces| traces.counts().clone()).unwrap_or_default();
        let metrics = Arc::new(Metrics::beside(log.counts(), Arc::clone(&decisions), &spans));
        if let Some(traces) = &traces {
            traces.announce(&config.otel);
        }
        let acl = advise::rule_file(&config, rules)?;
        // Before any port is open, too: certificates that cannot be used are a fault of the start.
        let (transports, certificates) = listeners::transports(&config)?;
        // At the start they were told with the settings that name the files.
        certificates.news(files::seconds(SystemTime::now()));
        metrics.certificate_dates(&certificates.dates());
        let open = listeners::bind(&config, &transports).await?;
        // Before the policy service is connected to: a port that is taken ends the start without a trace.
        let admin_listener = tokio::net::TcpListener::bind((&*config.admin.host, config.admin.port))
            .await
            .with_context(|| format!("admin API: {}:{}", config.admin.host, config.admin.port))?;
        let advisers = advise::advise(&config, acl, &metrics, traces.as_ref())?;

        let house = Arc::new(House::new(
            &config.general.instance,
            config.general.max_connections,
            config.general.max_pending,
            Arc::clone(&advisers.sink),
            traces,
        ));
        if let Some(remote) = &advisers.remote {
            remote.obey(Arc::new(CommandRouter(Arc::clone(&house))));
        }
        let mut bound = listeners::serve(&config, open, transports, &house, &advisers, &metrics);
        house.listeners.spawn(tick(house.closing.clone()));
        let reloads = Arc::new(Reloads::new(Arc::clone(&metrics)));
        if !certificates.is_empty() {
            house.listeners.spawn(watch(
                Arc::clone(&certificates),
                Arc::clone(&reloads),
                house.closing.clone(),
            ));
        }
        let state = Arc::new(AppState {
            house,
            certificates: Arc::clone(&certificates),
            reloads,
            chain: advisers.chain.clone(),
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
        let address = admin_listener.local_addr()?;
        bound.push(("admin".to_owned(), address.into()));
        info!(listener = "admin", %address, "listening");
        let stop_admin = CancellationToken::new();
        let admin = admin::serve(
            admin_listener,
            Admin {
                backend: Arc::clone(&state) as _,
                metrics: Arc::clone(&metrics),
                decisions: Arc::clone(&decisions),
                log: log.clone(),
                config: Arc::new(shown),
                token: config.admin.token.clone(),
                host: config.admin.host.as_str().into(),
            },
            stop_admin.clone().cancelled_owned(),
        );
        let Advisers { acl, remote, shadow, .. } = advisers;
        Ok(Self { config, state, acl, remote, shadow, decisions, log, stop_admin, admin, signals, bound })
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
            reload(&self.config, &self.state, self.acl.clone(), &self.log, level()).await;
        }
        let Self { mut signals, config, state, remote, shadow, decisions, stop_admin, mut admin, .. } = self;
        // Also where a signal came and not the admin API: readiness goes by it.
        state.drain.cancel();
        state.house.closing.cancel();
        // In order: connections first, then what they told, then the admin API.
        let ending = async {
            drain(&state.house, config.general.drain_timeout, config.general.drain_spread).await;
            if let Some(remote) = &remote {
                remote.flush(LAST_EVENTS).await;
            }
            if let Some(shadow) = &shadow {
                shadow.stop(LAST_EVENTS).await;
            }
            stop_admin.cancel();
            // It ends by itself once nobody is being answered; its task never panics.
            let _ = tokio::time::timeout(LAST_EVENTS, &mut admin).await;
        };
        tokio::select! {
            () = ending => {}
            () = signals.end() => warn!("second signal, exiting at once"),
        }
        // The process ends now: its thread is waited for here or nowhere.
        decisions.flush(LAST_RECORDS);
    }
}

fn decision_log(config: &Config) -> DecisionLogConfig {
    let decision_log = &config.decision_log;
    DecisionLogConfig {
        memory: decision_log.memory,
        file: decision_log.file.clone(),
        file_size: decision_log.file_size as u64,
        files: decision_log.files,
    }
}
