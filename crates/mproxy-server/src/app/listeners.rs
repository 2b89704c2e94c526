//! The listeners of a configuration: what they need is read, then all are bound, then all are put in service. In this
//! order, so that whatever fails does so before the first client comes. A reload gives them other settings the same way:
//! first all is read, then all is put in force.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use mproxy_core::budget::{Budget, Scope};
use mproxy_core::event::Sink;
use mproxy_core::grant::RateAction;
use mproxy_core::limits::TopicLimits;
use mproxy_core::peer::Address;
use mproxy_core::policy::OnError as CoreOnError;
use mproxy_core::rule::WallClock;
use mproxy_core::session::{DrainReference, OnAuth, OnErrors, OnUnavailable as CoreOnUnavailable};
use mproxy_core::{Chain, Limits, Meter, Setting};
use mproxy_tcp::tls::{Material as _, MaterialError, Reloadable, ServerTls};
use parking_lot::Mutex;
use tracing::info;

use crate::config::{
    self, Config, ListenerSettings, OnError, OnUnavailable, PolicyConfig, RateActionSetting, files,
};
use crate::door::{
    Causes, CertificateStore, HandshakeLimits, Inward, OpenListener, Outward, PreparedListener,
};
use crate::protect::Protection;
use crate::protect::admissions::AdmissionLimits;
use crate::protect::arrivals::{ArrivalRefusal, ListenerArrivals};
use crate::protect::client_rates::{ListenerRateLimits, ListenerRates, UnitRates};
use crate::serve::dials::BrokerTurns;
use crate::serve::gate::ListenerGate;
use crate::serve::pacer::Pacer;
use crate::serve::{House, ListenerTerms, Serving};
use crate::systemd::{InheritedSockets, place_of};
use crate::telemetry::metrics::Metrics;
use crate::upgrade::SharedListener;

/// What each listener does with a connection that came in, and how it reaches its broker.
pub(super) type Transports = Vec<(Inward, Outward)>;

/// A listener that is open, to be given other settings.
pub(super) struct RunningListener {
    inward: Inward,
    pub(super) serving: Arc<Serving>,
}

/// What all listeners give to their sessions.
#[derive(Clone)]
pub(super) struct CommonSetting {
    pub(super) chain: Chain,
    pub(super) sink: Arc<dyn Sink>,
    pub(super) meter: Arc<dyn Meter>,
    pub(super) drain_reference: DrainReference,
    /// The budget of everything.
    pub(super) total: Arc<Scope>,
    /// Who may not come in.
    pub(super) protection: Arc<Protection>,
    /// Turns to dial brokers.
    pub(super) dials: Arc<BrokerTurns>,
    /// What time it is.
    pub(super) clock: WallClock,
}

/// Other settings for all listeners, which are not in force yet.
pub(super) struct PreparedListeners {
    listeners: Vec<(PreparedListener, Outward)>,
    certificates: CertificateStore,
}

/// Reads what the listeners and their targets need. Certificates that cannot be used are an error.
pub(super) fn transports(config: &Config) -> anyhow::Result<(Transports, CertificateStore)> {
    let mut certificates = CertificateStore::default();
    let mut transports = Vec::new();
    for listener in &config.listeners {
        let name = &listener.name;
        let inward = Inward::of(listener).with_context(|| of_listener(name))?;
        let outward = Outward::of(&listener.target).with_context(|| of_target(name))?;
        keep(&mut certificates, name, inward.tls().as_ref(), &outward);
        transports.push((inward, outward));
    }
    keep_dates_of_policy(&mut certificates, config);
    Ok((transports, certificates))
}

fn of_listener(name: &str) -> String {
    format!("listener {name}")
}

fn of_target(name: &str) -> String {
    format!("target of {name}")
}

fn keep(
    certificates: &mut CertificateStore,
    name: &str,
    inward: Option<&Arc<Reloadable<ServerTls>>>,
    outward: &Outward,
) {
    if let Some(tls) = inward {
        certificates.keep(of_listener(name), tls);
    }
    if let Some(tls) = outward.tls() {
        certificates.keep(of_target(name), tls);
    }
}

/// What the certificates of the admin port are called.
pub(super) const OF_ADMIN: &str = "admin API";

/// TLS of the admin port, where it has any.
pub(super) fn admin_tls(
    admin: &config::AdminSettings,
) -> Result<Option<Arc<Reloadable<ServerTls>>>, MaterialError> {
    config::admin::tls(admin).map(|tls| Reloadable::new(tls).map(Arc::new)).transpose()
}

pub(super) fn keep_admin(certificates: &mut CertificateStore, tls: Option<&Arc<Reloadable<ServerTls>>>) {
    if let Some(tls) = tls {
        certificates.keep(OF_ADMIN, tls);
    }
}

fn keep_dates_of_policy(certificates: &mut CertificateStore, config: &Config) {
    if let Some(tls) = config.policy.as_ref().and_then(files::towards_policy) {
        // What cannot be read is told when the service is started.
        certificates.keep_dates("policy service", tls.look().unwrap_or_default());
    }
}

/// Reads what running listeners need with these settings, the listeners of which are the same.
///
/// # Errors
/// Whose certificates cannot be used, and why.
pub(super) fn prepare(
    running: &[RunningListener],
    config: &Config,
) -> Result<PreparedListeners, Vec<(String, String)>> {
    let mut certificates = CertificateStore::default();
    let (mut listeners, mut failing) = (Vec::new(), Vec::new());
    for (RunningListener { inward, .. }, listener) in running.iter().zip(&config.listeners) {
        let name = &listener.name;
        match (inward.prepare(listener), Outward::of(&listener.target)) {
            (Ok(inward), Ok(outward)) => {
                keep(&mut certificates, name, inward.tls.as_ref(), &outward);
                listeners.push((inward, outward));
            }
            (inward, outward) => {
                let whose = [(of_listener(name), inward.err()), (of_target(name), outward.err())];
                let failed = whose.into_iter().filter_map(|(whose, error)| Some((whose, error?)));
                failing.extend(failed.map(|(whose, error)| (whose, Causes(&error).to_string())));
            }
        }
    }
    keep_dates_of_policy(&mut certificates, config);
    if failing.is_empty() { Ok(PreparedListeners { listeners, certificates }) } else { Err(failing) }
}

impl PreparedListeners {
    /// From now on they are what listeners do for new connections. Gives the certificates.
    pub(super) fn put_in_force(
        self,
        running: &[RunningListener],
        config: &Config,
        common: &CommonSetting,
    ) -> CertificateStore {
        let running = running.iter().zip(&config.listeners);
        for ((inward, outward), (RunningListener { serving, .. }, listener)) in
            self.listeners.into_iter().zip(running)
        {
            let budget = Arc::clone(&serving.terms.load().setting.budget);
            budget.set_most(listener.limits.budget_connection, listener.limits.budget_listener);
            inward.put_in_force();
            serving.pacer.set_limits(admission_limits(listener));
            serving.rates.set(rate_limits(listener), Instant::now());
            let kept = KeptOfListener { budget, pacer: &serving.pacer, rates: &serving.rates };
            serving.terms.store(Arc::new(terms(listener, config, common, outward, kept)));
        }
        self.certificates
    }
}

/// Binds all of them, but for those whose sockets are there already.
pub(super) async fn bind(
    config: &Config,
    transports: &Transports,
    sockets: &mut InheritedSockets,
) -> anyhow::Result<Vec<OpenListener>> {
    let mut listening = Vec::new();
    for (listener, (inward, _)) in config.listeners.iter().zip(transports) {
        let (name, host) = (&listener.name, &listener.host);
        let inherited = match &listener.unix {
            Some(file) => sockets.take_unix(name, &file.path)?,
            None => sockets.take_tcp(name, host, listener.port)?,
        };
        let open = match inherited {
            Some(socket) => inward.open_at(socket, listener).await,
            None => inward.open(listener).await,
        };
        let open = open.with_context(|| {
            let address = if listener.unix.is_some() { "path" } else { "port" };
            format!(
                "listener {} (set another {address}; to disable it: {})",
                listener.name, listener.closed_by
            )
        })?;
        listening.push(open);
    }
    Ok(listening)
}

/// Their sockets once more, for a process that takes the place of this one.
pub(super) fn share(config: &Config, open: &[OpenListener]) -> std::io::Result<Vec<SharedListener>> {
    let share = |(listener, open): (&ListenerSettings, &OpenListener)| {
        let place = match &listener.unix {
            Some(file) => file.path.display().to_string(),
            None => place_of(&listener.host, listener.port),
        };
        Ok(SharedListener { name: listener.name.clone(), place, socket: open.share()? })
    };
    config.listeners.iter().zip(open).map(share).collect()
}

/// Listeners that are in service, and accept when they are told to.
#[derive(Default)]
pub(super) struct ServedListeners {
    /// Their names and addresses.
    pub(super) bound: Vec<(String, Address)>,
    /// What a reload needs.
    pub(super) running: Vec<RunningListener>,
    waiting: Vec<(Arc<Serving>, OpenListener)>,
}

impl ServedListeners {
    /// What serves each of them.
    pub(super) fn serving(&self) -> impl Iterator<Item = &Arc<Serving>> {
        self.running.iter().map(|running| &running.serving)
    }

    /// From now on connections come in.
    pub(super) fn accept(&mut self, house: &House) {
        for (serving, open) in self.waiting.drain(..) {
            house.listeners.spawn(serving.run(open));
        }
    }
}

/// Puts all of them in service, but for accepting.
pub(super) fn serve(
    config: &Config,
    listening: Vec<OpenListener>,
    transports: Transports,
    house: &Arc<House>,
    common: &CommonSetting,
    metrics: &Arc<Metrics>,
) -> ServedListeners {
    metrics.budget_of_all(&common.total);
    let mut served = ServedListeners::default();
    for ((listener, open), (inward, outward)) in config.listeners.iter().zip(listening).zip(transports) {
        let address = open.address().clone();
        served.bound.push((listener.name.clone(), address.clone()));
        info!(
            listener = listener.name,
            %address,
            broker = %listener.target,
            to_disable = listener.closed_by,
            "listening"
        );
        let budget = Arc::new(Budget::new(
            listener.limits.budget_connection,
            listener.limits.budget_listener,
            Arc::clone(&common.total),
        ));
        metrics.budget_of(&listener.name, &budget);
        let pacer = Pacer::new(admission_limits(listener), metrics.admissions(&listener.name));
        let rates = ListenerRates::new(&common.protection.users, rate_limits(listener), Instant::now());
        let counts = metrics.listener(&listener.name);
        counts.show_refused_causes(ArrivalRefusal::ALL.map(ArrivalRefusal::name));
        let serving = Arc::new(Serving {
            house: Arc::clone(house),
            name: listener.name.as_str().into(),
            room: HandshakeLimits::sharing(&house.handshakes, &budget),
            terms: ArcSwap::from_pointee(terms(
                listener,
                config,
                common,
                outward,
                KeptOfListener { budget, pacer: &pacer, rates: &rates },
            )),
            outage: Mutex::default(),
            broker: Mutex::default(),
            metrics: counts,
            open: AtomicUsize::new(0),
            pending: Arc::default(),
            pacer: Arc::clone(&pacer),
            rates,
            arrivals: ListenerArrivals::default(),
        });
        let (pacing, closing) = (pacer.run(), house.closing.clone());
        house.routines.spawn(async move {
            closing.run_until_cancelled(pacing).await;
        });
        served.waiting.push((Arc::clone(&serving), open));
        served.running.push(RunningListener { inward, serving });
    }
    served
}

/// What a listener has that outlives its terms.
struct KeptOfListener<'a> {
    budget: Arc<Budget>,
    pacer: &'a Arc<Pacer>,
    rates: &'a Arc<ListenerRates>,
}

/// What a listener's connections are made with.
fn terms(
    listener: &ListenerSettings,
    config: &Config,
    common: &CommonSetting,
    outward: Outward,
    KeptOfListener { budget, pacer, rates }: KeptOfListener<'_>,
) -> ListenerTerms {
    let on_unavailable = on_unavailable(listener);
    let gate =
        ListenerGate { protection: Arc::clone(&common.protection), on_unavailable, pacer: Arc::clone(pacer) };
    let setting = Setting {
        gate: Some(Arc::new(gate)),
        advisers: common.chain.clone(),
        sink: Arc::clone(&common.sink),
        meter: Arc::clone(&common.meter),
        limits: limits(listener, config.policy.as_ref()),
        rates: (!rates.are_none()).then(|| Arc::clone(rates) as _),
        on_error: on_errors(config.policy.as_ref()),
        on_unavailable,
        drain_reference: common.drain_reference.clone(),
        on_auth: if listener.limits.pass_auth { OnAuth::Pass } else { OnAuth::Ask },
        budget,
        clock: common.clock.clone(),
    };
    ListenerTerms {
        setting: Arc::new(setting),
        dials: common.dials.of(outward.target(), config.general.max_dials),
        outward,
        max_connections: listener.limits.max_connections,
        connection_rate: listener.limits.connection_rate,
        is_proxied: listener.proxy_from.is_some(),
    }
}

fn admission_limits(listener: &ListenerSettings) -> AdmissionLimits {
    AdmissionLimits {
        per_second: listener.limits.max_admissions_per_second,
        waiting: listener.limits.admission_queue,
    }
}

fn rate_limits(listener: &ListenerSettings) -> ListenerRateLimits {
    let limits = &listener.limits;
    ListenerRateLimits {
        client: UnitRates::new(limits.client_messages_per_second, limits.client_bytes_per_second),
        listener: UnitRates::new(limits.listener_messages_per_second, limits.listener_bytes_per_second),
        action: match limits.rate_action {
            RateActionSetting::Wait => RateAction::Wait,
            RateActionSetting::Refuse => RateAction::Refuse,
        },
    }
}

const fn on_unavailable(listener: &ListenerSettings) -> CoreOnUnavailable {
    match listener.limits.on_unavailable {
        OnUnavailable::Close => CoreOnUnavailable::Close,
        OnUnavailable::Connack => CoreOnUnavailable::Connack,
    }
}

fn limits(listener: &ListenerSettings, policy: Option<&PolicyConfig>) -> Limits {
    Limits {
        max_packet_size: listener.limits.max_packet_size,
        max_connect: listener.limits.max_connect_size,
        max_user_properties: listener.limits.max_user_properties as usize,
        max_keep_alive: listener.limits.max_keep_alive,
        max_session_expiry: listener.limits.max_session_expiry,
        topic: TopicLimits {
            length: bound(listener.limits.max_topic_length).unwrap_or(u32::MAX),
            levels: bound(listener.limits.max_topic_levels).unwrap_or(u32::MAX),
        },
        subscriptions: bound(listener.limits.max_subscriptions),
        grant_staleness: policy.map_or(Duration::ZERO, |policy| policy.questions.grant_staleness),
        connect_timeout: listener.limits.connect_timeout,
        // Anew from the whole CONNECT (ADR 0018).
        admission_timeout: listener.limits.connect_timeout,
        // What a client sent before it went is still decided and delivered: its end outlasts a question.
        close_timeout: policy.map_or(Duration::ZERO, |policy| policy.questions.timeout)
            + Limits::default().close_timeout,
        ..Limits::default()
    }
}

fn bound(most: Option<usize>) -> Option<u32> {
    most.map(|most| u32::try_from(most).unwrap_or(u32::MAX))
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
