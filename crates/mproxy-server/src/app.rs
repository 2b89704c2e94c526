//! The composition root: the only file that knows everybody. Builds the house from its configuration, opens its listeners,
//! and sees it through to its end.

mod advise;
mod bans;
mod detail;
mod explain;
mod handover;
mod listeners;
mod reload;
mod signals;
mod state;
mod upgrade;

use std::num::NonZeroU32;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use mproxy_core::budget::Scope;
use mproxy_core::peer::Address;
use mproxy_policy::acl::Acl;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::advise::Advisers;
use self::handover::Taker;
use self::listeners::{CommonSetting, OF_ADMIN, ServedListeners};
use self::reload::Reloader;
pub use self::reload::Reread;
use self::signals::Signals;
use self::state::AppState;
use self::upgrade::{RemainingSessions, Upgrader};
use crate::admin::view::ListenerReadiness;
use crate::admin::{self, Admin, InForce};
use crate::command_router::CommandRouter;
use crate::config::{self, Config, Loaded, check, files};
use crate::descriptors;
use crate::door::SharedSocket;
use crate::drain::{drain, linger};
use crate::protect::Protection;
use crate::protect::bans::Bans;
use crate::protect::watermarks::Watermarks;
use crate::reloads::Reloads;
use crate::serve::House;
use crate::systemd::{InheritedSocket, InheritedSockets, notify, place_of};
use crate::telemetry::decisions::{DecisionLog, DecisionLogConfig};
use crate::telemetry::log::LogHandle;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::otlp_logs::OtlpLogs;
use crate::telemetry::traces::Traces;
use crate::upgrade::{Predecessor, Program, SharedListener};

/// How long events that still wait may take at the end of the process.
const LAST_EVENTS: Duration = Duration::from_secs(2);

/// How long everything after the drain may take, with some to spare.
const AFTER_DRAIN: Duration = Duration::from_secs(15);

/// How long the last records may take to be written to the file of the decision log.
const LAST_RECORDS: Duration = Duration::from_secs(1);

/// What mproxy is opened with.
pub struct AppParts {
    /// The configuration.
    pub loaded: Loaded,
    /// Rules in the place of the rule file.
    pub rules: Option<Acl>,
    /// Asked for the configuration at each reload.
    pub reread: Reread,
    /// Sockets that are open already.
    pub sockets: InheritedSockets,
    /// The log.
    pub log: LogHandle,
    /// Whoever made them flushes them, after [`App::run`].
    pub traces: Option<Arc<Traces>>,
    /// What is started to take the place of this process; `None`: nothing can.
    pub program: Option<Program>,
    /// The process whose place this one takes.
    pub predecessor: Option<Predecessor>,
}

/// mproxy with open listeners.
pub struct App {
    state: Arc<AppState>,
    decisions: Arc<DecisionLog>,
    stop_admin: CancellationToken,
    admin: tokio::task::JoinHandle<()>,
    signals: Signals,
    /// Where each listener listens, by name, and the admin API last.
    bound: Vec<(String, Address)>,
}

impl App {
    /// Builds everything and binds every listener.
    ///
    /// # Errors
    /// What could not be loaded or bound. Nothing stays open then.
    pub async fn open(mut opening: AppParts) -> anyhow::Result<Self> {
        let mut predecessor = opening.predecessor.take();
        let opened = Self::open_after(opening, &mut predecessor).await;
        if let (Err(error), Some(predecessor)) = (&opened, &mut predecessor) {
            predecessor.fail(&format!("{error:#}"));
        }
        opened
    }

    async fn open_after(opening: AppParts, predecessor: &mut Option<Predecessor>) -> anyhow::Result<Self> {
        // Before any listener is open: whoever sees one may send a signal, which would kill a process not yet listening.
        let signals = Signals::new()?;
        let AppParts { loaded, rules, reread, mut sockets, log, traces, program, predecessor: _ } = opening;
        for warning in files::warnings(&loaded, SystemTime::now()) {
            warn!("{warning}");
        }
        let config = &loaded.config;
        let decisions = Arc::new(DecisionLog::start(&decision_log(config)));
        let spans = traces.as_ref().map(|traces| traces.counts().clone()).unwrap_or_default();
        let metrics = Arc::new(Metrics::beside(log.counts(), Arc::clone(&decisions), &spans));
        if let Some(traces) = &traces {
            traces.announce(&config.otel);
        }
        OtlpLogs::announce(&config.otel);
        let acl = advise::rule_file(config, rules)?;
        let protection = protection(config, &metrics)?;
        // Before any port is open, too: certificates that cannot be used are a fault of the start.
        let (transports, mut certificates) = listeners::transports(config)?;
        let admin_tls = listeners::admin_tls(&config.admin).context(OF_ADMIN)?;
        listeners::keep_admin(&mut certificates, admin_tls.as_ref());
        // At the start they were told with the settings that name the files.
        certificates.news(files::seconds(SystemTime::now()));
        metrics.certificate_dates(&certificates.dates());
        let open = listeners::bind(config, &transports, &mut sockets).await?;
        // Before the policy service is connected to: a port that is taken ends the start without a trace.
        let admin_listener = admin_listener(&config.admin, &mut sockets).await?;
        sockets.all_taken()?;
        let mut shared = listeners::share(config, &open)?;
        shared.push(share_admin(&config.admin, &admin_listener)?);
        // What the other process has to tell comes first.
        let tell = predecessor.is_some().then(CancellationToken::new);
        let advisers = advise::advise(config, acl, &metrics, traces.as_ref(), tell.clone())?;

        let house = house(config, &advisers, Arc::clone(&protection), traces);
        let common = CommonSetting {
            chain: advisers.chain.clone(),
            sink: Arc::clone(&advisers.sink),
            meter: Arc::clone(&metrics) as _,
            drain_reference: config.general.drain_server_reference.as_deref().into(),
            total: Arc::new(Scope::new(config.general.budget_total)),
            protection,
            dials: Arc::default(),
            clock: house.clock.clone(),
        };
        let address = admin_listener.local_addr()?;
        let mut served = listeners::serve(config, open, transports, &house, &common, &metrics);
        info!(listener = "admin", %address, "listening");
        let taker =
            Taker::new(served.serving(), &metrics, advisers.remote.as_ref(), tell.unwrap_or_default());
        // From here on nothing can fail but this.
        let taking_over = begin_after(predecessor.take(), taker, &house).await?;
        served.accept(&house);
        let ServedListeners { mut bound, running, .. } = served;
        let listeners = readiness(&bound);
        bound.push(("admin".to_owned(), address.into()));
        let in_force = InForce::new(config.admin.token.clone(), check::view(&loaded), admin_tls);
        let host = config.admin.host.as_str().into();
        let Advisers { acl, remote, shadow, .. } = advisers;
        let reloader = Arc::new(Reloader {
            reread,
            in_force: ArcSwap::from_pointee(loaded),
            turn: tokio::sync::Mutex::default(),
            house,
            listeners: running,
            common,
            acl,
            remote,
            shadow,
            certificates: ArcSwap::from_pointee(certificates),
            reloads: Arc::new(Reloads::new(Arc::clone(&metrics))),
            log: log.clone(),
            admin: in_force.clone(),
        });
        let house = &reloader.house;
        house.routines.spawn(Arc::clone(&reloader).watch(house.closing.clone()));
        let drain = CancellationToken::new();
        let stop_admin = CancellationToken::new();
        let accepting = [reloader.house.accepts_none.clone(), stop_admin.clone()];
        let follows = Arc::new(AtomicBool::new(taking_over.is_some()));
        let upgrader = Upgrader::new(program, shared, &metrics, &drain, accepting, &reloader.house, &follows);
        let state = Arc::new(AppState { reloader, listeners, drain, upgrader });
        let admin = admin::serve(
            admin_listener,
            Admin {
                backend: Arc::clone(&state) as _,
                metrics: Arc::clone(&metrics),
                decisions: Arc::clone(&decisions),
                log,
                in_force,
                host,
            },
            stop_admin.clone().cancelled_owned(),
        );
        if let Some((mut predecessor, mut taker)) = taking_over {
            metrics.count_upgrade("completed");
            predecessor.serving();
            // It waits for the other process, for as long as that is there.
            thread::Builder::new().name("predecessor".to_owned()).spawn(move || {
                predecessor.follow(&mut taker);
                follows.store(false, Ordering::Release);
            })?;
        }
        Ok(Self { state, decisions, stop_admin, admin, signals, bound })
    }

    /// Where everybody listens: each listener by its name, then `admin`.
    #[must_use]
    pub fn bound(&self) -> &[(String, Address)] {
        &self.bound
    }

    /// Runs until a signal or the admin API ends it, or a new process has taken its place: SIGTERM and SIGINT drain, a second
    /// one ends at once; SIGHUP reloads and SIGUSR2 upgrades, as the admin API does.
    pub async fn run(mut self) {
        notify::watchdog(self.state.upgrader.replaced.clone());
        notify::ready("serving");
        let why = self.until_its_end().await;
        let Self { mut signals, state, decisions, stop_admin, mut admin, .. } = self;
        state.upgrader.close();
        let reloader = &state.reloader;
        let told = match why {
            EndReason::Replaced => {
                let config = reloader.in_force.load_full();
                give_rest(&state, &mut signals).await
                    || stay(reloader, config.config.general.upgrade_stay, &mut signals).await
            }
            EndReason::Signal => true,
            EndReason::Asked => false,
        };
        // Also where a signal came and not the admin API: readiness goes by it.
        state.drain.cancel();
        reloader.house.closing.cancel();
        // In order: connections first, then what they told, then the admin API.
        let ending = async {
            let config = reloader.in_force.load_full();
            let general = &config.config.general;
            if why != EndReason::Replaced {
                notify::stopping("draining", general.drain_timeout + AFTER_DRAIN);
            }
            drain(&reloader.house, general.drain_timeout, general.drain_spread).await;
            if let Some(remote) = &reloader.remote {
                remote.flush(LAST_EVENTS).await;
            }
            if let Some(shadow) = &reloader.shadow {
                shadow.stop(LAST_EVENTS).await;
            }
            stop_admin.cancel();
            // It ends by itself once nobody is being answered; its task never panics.
            let _ = tokio::time::timeout(LAST_EVENTS, &mut admin).await;
        };
        let told_twice = async {
            if !told {
                // Kubernetes' preStop asks for a drain, and SIGTERM follows: the first of its kind.
                signals.end().await;
                info!("signal received, draining already");
            }
            signals.end().await;
        };
        tokio::select! {
            () = ending => {}
            () = told_twice => warn!("second signal, exiting at once"),
        }
        // The process ends now: its thread is waited for here or nowhere.
        decisions.stop(LAST_RECORDS);
    }

    /// Serves.
    async fn until_its_end(&mut self) -> EndReason {
        loop {
            let Signals { terminate, interrupt, hangup, upgrade } = &mut self.signals;
            tokio::select! {
                () = self.state.drain.cancelled() => return EndReason::Asked,
                () = self.state.upgrader.replaced.cancelled() => return EndReason::Replaced,
                _ = terminate.recv() => return EndReason::Signal,
                _ = interrupt.recv() => return EndReason::Signal,
                _ = upgrade.recv() => {
                    let state = Arc::clone(&self.state);
                    // Apart: the process ends when it is told to meanwhile. What comes of it is in the log.
                    tokio::spawn(async move { drop(state.replace().await) });
                }
                _ = hangup.recv() => self.state.reload_or_postpone().await,
            }
        }
    }
}

/// Why a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EndReason {
    Signal,
    /// By the admin API.
    Asked,
    /// A new process has taken its place.
    Replaced,
}

/// A new process accepts connections: those of this one that can go over to it do. Whether a signal came.
async fn give_rest(state: &AppState, signals: &mut Signals) -> bool {
    let Some(rest) = state.upgrader.rest() else { return false };
    // Who has been accepted is there when these have ended.
    let house = &state.reloader.house;
    house.listeners.close();
    house.listeners.wait().await;
    // Waits for the other process: not on a runtime thread.
    let mut giving = tokio::task::spawn_blocking(|| RemainingSessions::give(rest));
    let (given, told) = tokio::select! {
        given = &mut giving => (given, false),
        () = signals.end() => {
            state.drain.cancel();
            (giving.await, true)
        }
    };
    let (Ok(mut channel), remote) = (given, state.reloader.remote.clone()) else { return told };
    // Apart: it may take as long as the service is away. If it is never said, the end of this process says so.
    tokio::spawn(async move {
        if let Some(remote) = remote {
            remote.events_told().await;
        }
        drop(tokio::task::spawn_blocking(move || channel.told()));
    });
    told
}

/// A new process accepts connections: those of this one stay for a while, until they have ended or a signal comes. Whether
/// one came. Meanwhile they are not out of reach: bans in the file and SIGHUP are for them, too.
async fn stay(reloader: &Arc<Reloader>, stay: Duration, signals: &mut Signals) -> bool {
    let house = &reloader.house;
    let following = house.routines.spawn(bans::follow(Arc::clone(house)));
    let mut lingering = pin!(linger(house, stay));
    let told = loop {
        let Signals { terminate, interrupt, hangup, upgrade: _ } = signals;
        tokio::select! {
            () = &mut lingering => break false,
            _ = terminate.recv() => break true,
            _ = interrupt.recv() => break true,
            // What is wrong is in the log.
            _ = hangup.recv() => drop(Arc::clone(reloader).reload().await),
        }
    };
    // Those who are told to leave now need no more of it.
    following.abort();
    told
}

/// The process whose place this one takes has given up its own, and sessions that could go over before.
async fn begin_after(
    predecessor: Option<Predecessor>,
    mut taker: Taker,
    house: &Arc<House>,
) -> anyhow::Result<Option<(Predecessor, Taker)>> {
    let Some(mut predecessor) = predecessor else { return Ok(None) };
    let house = Arc::clone(house);
    // Waits for the other process, and for the disk: not on a runtime thread.
    let begin = move || {
        predecessor.ready(&mut taker)?;
        // It may have set and lifted some since this process read them.
        house.protection.bans.reread(SystemTime::now()).context("the file of bans")?;
        house.dismiss_banned();
        Ok(Some((predecessor, taker)))
    };
    tokio::task::spawn_blocking(begin).await?
}

fn share_admin(
    admin: &config::AdminSettings,
    listener: &tokio::net::TcpListener,
) -> std::io::Result<SharedListener> {
    let place = place_of(&admin.host, admin.port);
    Ok(SharedListener { name: "admin".to_owned(), place, socket: SharedSocket::of(listener)? })
}

fn house(
    config: &Config,
    advisers: &Advisers,
    protection: Arc<Protection>,
    traces: Option<Arc<Traces>>,
) -> Arc<House> {
    let general = &config.general;
    let (most, sink) = (general.max_connections, Arc::clone(&advisers.sink));
    descriptors::raise_limit();
    let limit = descriptors::limit();
    if let (Some(open_files), room) = (limit, descriptors::room(limit))
        && room < most
    {
        info!(
            open_files,
            connections = room,
            "the limit of open files leaves room for fewer than max_connections"
        );
    }
    warn_of_marks(&config.protection, limit, most);
    let house = Arc::new(House::new(&general.instance, most, general.max_pending, protection, sink, traces));
    if let Some(remote) = &advisers.remote {
        remote.obey(Arc::new(CommandRouter(Arc::clone(&house))));
    }
    let (keeper, closing) = (Arc::clone(&house), house.closing.clone());
    house.routines.spawn(async move {
        closing.run_until_cancelled(keeper.keep_time()).await;
    });
    let (watching, closing) = (Arc::clone(&house).watch_resources(), house.closing.clone());
    house.routines.spawn(async move {
        closing.run_until_cancelled(watching).await;
    });
    house
}

/// A mark that is out of reach protects nobody, and nothing else would say so.
fn warn_of_marks(settings: &config::ProtectionSettings, limit: Option<u64>, most: usize) {
    let connections = most.min(descriptors::room(limit));
    for (setting, percent) in [
        ("descriptors_refuse", settings.descriptors_refuse),
        ("descriptors_drain", settings.descriptors_drain),
    ] {
        if let (Some(percent), Some(open_files)) = (percent, limit)
            && !descriptors::is_within_reach(percent, open_files, connections)
        {
            warn!(
                setting,
                percent,
                open_files,
                connections,
                "watermark is never reached: so many connections take fewer descriptors; set a lower one"
            );
        }
    }
}

/// With the bans that are kept in a file.
fn protection(config: &Config, metrics: &Metrics) -> anyhow::Result<Arc<Protection>> {
    let settings = &config.protection;
    let path = settings.bans_file.as_deref();
    let bans = Bans::open(path, metrics.bans().clone(), SystemTime::now());
    let bans = bans.with_context(|| format!("{}", path.unwrap_or_else(|| Path::new("bans")).display()))?;
    let watermarks = Watermarks::new(metrics.watermarks().clone());
    let put_aside = metrics.put_aside().clone();
    Ok(Arc::new(Protection::new(settings, bans, watermarks, put_aside, Instant::now())))
}

fn readiness(bound: &[(String, Address)]) -> Vec<ListenerReadiness> {
    let readiness = |(name, address): &(String, Address)| ListenerReadiness {
        name: name.clone(),
        address: Some(address.to_string()),
    };
    bound.iter().map(readiness).collect()
}

async fn admin_listener(
    admin: &config::AdminSettings,
    sockets: &mut InheritedSockets,
) -> anyhow::Result<tokio::net::TcpListener> {
    let (host, port) = (&*admin.host, admin.port);
    let listener = match sockets.take_tcp("admin", host, port)? {
        Some(InheritedSocket::Tcp(socket)) => tokio::net::TcpListener::from_std(socket),
        Some(InheritedSocket::Unix(..)) | None => tokio::net::TcpListener::bind((host, port)).await,
    };
    listener.with_context(|| format!("admin API: {host}:{port}"))
}

fn decision_log(config: &Config) -> DecisionLogConfig {
    let decision_log = &config.decision_log;
    let one_in = decision_log.allowed_one_in.map(|one_in| u32::try_from(one_in).unwrap_or(u32::MAX));
    DecisionLogConfig {
        memory: decision_log.memory,
        allowed_one_in: one_in.and_then(NonZeroU32::new),
        file: decision_log.file.clone(),
        file_size: decision_log.file_size as u64,
        files: decision_log.files,
    }
}
