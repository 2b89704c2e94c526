//! The listeners of a configuration: what they need is read, then all are bound, then all are put in service. In this
//! order, so that whatever fails does so before the first client comes.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use anyhow::Context as _;
use mproxy_core::budget::{Budget, Scope};
use mproxy_core::peer::Address;
use mproxy_core::policy::OnError as CoreOnError;
use mproxy_core::session::{OnAuth, OnErrors, OnUnavailable as CoreOnUnavailable};
use mproxy_core::{Limits, Setting};
use mproxy_tcp::tls::Material as _;
use parking_lot::Mutex;
use tracing::info;

use super::advise::Advisers;
use crate::config::{self, Config, OnError, OnUnavailable, PolicyConfig, files};
use crate::door::{CertificateStore, HandshakeLimits, Inward, OpenListener, Outward};
use crate::serve::{House, Serving};
use crate::telemetry::metrics::Metrics;

/// What each listener does with a connection that came in, and how it reaches its broker.
pub(super) type Transports = Vec<(Inward, Outward)>;

/// Reads what the listeners and their targets need. Certificates that cannot be used are an error.
pub(super) fn transports(config: &Config) -> anyhow::Result<(Transports, Arc<CertificateStore>)> {
    let mut certificates = CertificateStore::default();
    let mut transports = Vec::new();
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
        transports.push((inward, outward));
    }
    if let Some(tls) = config.policy.as_ref().and_then(files::towards_policy) {
        // What cannot be read is told when the service is started.
        certificates.keep_dates("policy service", tls.look().unwrap_or_default());
    }
    Ok((transports, Arc::new(certificates)))
}

/// Binds all of them.
pub(super) async fn bind(config: &Config, transports: &Transports) -> anyhow::Result<Vec<OpenListener>> {
    let mut listening = Vec::new();
    for (listener, (inward, _)) in config.listeners.iter().zip(transports) {
        let open = inward.open(listener).await.with_context(|| {
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

/// Puts all of them in service. Gives their names and addresses.
pub(super) fn serve(
    config: &Config,
    listening: Vec<OpenListener>,
    transports: Transports,
    house: &Arc<House>,
    advisers: &Advisers,
    metrics: &Arc<Metrics>,
) -> Vec<(String, Address)> {
    let total = Arc::new(Scope::new(config.general.budget_total));
    metrics.budget_of_all(&total);
    let mut bound: Vec<_> = Vec::new();
    for ((listener, open), (_, outward)) in config.listeners.iter().zip(listening).zip(transports) {
        let address = open.address().clone();
        bound.push((listener.name.clone(), address.clone()));
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
            Arc::clone(&total),
        ));
        metrics.budget_of(&listener.name, &budget);
        let serving = Arc::new(Serving {
            house: Arc::clone(house),
            name: listener.name.as_str().into(),
            room: HandshakeLimits::sharing(&house.handshakes, &budget),
            setting: Arc::new(Setting {
                advisers: advisers.chain.clone(),
                sink: Arc::clone(&advisers.sink),
                meter: Arc::clone(metrics) as _,
                limits: limits(listener, config.policy.as_ref()),
                on_error: on_errors(config.policy.as_ref()),
                on_unavailable: match listener.limits.on_unavailable {
                    OnUnavailable::Close => CoreOnUnavailable::Close,
                    OnUnavailable::Connack => CoreOnUnavailable::Connack,
                },
                drain_reference: config.general.drain_server_reference.as_deref().map(Into::into),
                on_auth: if listener.limits.pass_auth { OnAuth::Pass } else { OnAuth::Ask },
                budget,
            }),
            outward,
            outage: Mutex::default(),
            metrics: metrics.listener(&listener.name),
            max_connections: listener.limits.max_connections,
            open: AtomicUsize::new(0),
            pending: Arc::default(),
        });
        house.listeners.spawn(serving.run(open));
    }
    bound
}

fn limits(listener: &config::ListenerSettings, policy: Option<&PolicyConfig>) -> Limits {
    Limits {
        max_packet_size: listener.limits.max_packet_size,
        max_connect: listener.limits.max_connect_size,
        max_user_properties: listener.limits.max_user_properties as usize,
        max_keep_alive: listener.limits.max_keep_alive,
        max_session_expiry: listener.limits.max_session_expiry,
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
