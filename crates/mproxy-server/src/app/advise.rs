//! Who is asked what a client may do, and who is told of it.

use std::num::NonZeroU32;
use std::sync::Arc;

use anyhow::Context as _;
use mproxy_core::Chain;
use mproxy_core::event::{Nobody, Sink};
use mproxy_core::policy::Decider;
use mproxy_policy::acl::{Acl, AclAdviser, Size, UnknownUsers};
use mproxy_policy::grants::Grants;
use mproxy_policy::remote::{Endpoint, Remote, RemoteConfig, RemoteTls, STREAM_LIFETIME, SpoolConfig};
use mproxy_policy::shadow::Shadow;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::config::{ClientTlsSettings, Config, PolicyConfig, PolicyMode};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::Traces;

/// Events that wait for calls of their own at most, over all connections. Beyond, they are dropped and counted.
const EVENT_QUEUE: usize = 16 << 10;

/// Questions that are open at the policy service at most. The others wait within their deadline.
const QUESTIONS: usize = 4096;

/// The advisers, in the order in which they are asked.
pub(super) struct Advisers {
    pub(super) chain: Chain,
    pub(super) sink: Arc<dyn Sink>,
    pub(super) acl: Option<Arc<AclAdviser>>,
    pub(super) remote: Option<Arc<Remote>>,
    pub(super) shadow: Option<Arc<Shadow>>,
}

/// The rule file's rules, or those that take its place.
pub(super) fn rule_file(config: &Config, rules: Option<Acl>) -> anyhow::Result<Option<Acl>> {
    Ok(match (rules, &config.general.acl_file) {
        (Some(rules), _) => Some(rules),
        (None, Some(path)) => {
            let acl = Acl::load(path)?;
            acl.knows_listeners(&config.listener_names())?;
            Some(acl)
        }
        (None, None) => None,
    })
}

/// The advisers, in their order: the rule file, what was granted, the policy service. `tell`: another process, whose place this
/// one takes, still has what only one can have; events are told from when this is cancelled.
pub(super) fn advise(
    config: &Config,
    acl: Option<Acl>,
    metrics: &Arc<Metrics>,
    traces: Option<&Arc<Traces>>,
    tell: Option<CancellationToken>,
) -> anyhow::Result<Advisers> {
    let remote = match &config.policy {
        Some(policy) => {
            let mut config = remote_config(config, policy, traces)?;
            if let Some(spool) = &mut config.event_spool {
                spool.succeeds = tell.is_some();
            }
            config.events_wait = tell;
            Some(Remote::start(config, Arc::clone(metrics) as _)?)
        }
        None => None,
    };
    let shadow = match &config.policy {
        Some(policy) => shadow(config, policy, metrics, traces)?,
        None => None,
    };
    // Without a service nobody else could know a user that the file does not.
    let unknown_users = if remote.is_some() { UnknownUsers::LeaveToOthers } else { UnknownUsers::Refuse };
    let watched = |acl| AclAdviser::new(acl, unknown_users).watched_by(Arc::clone(metrics) as _);
    let acl = acl.map(|acl| Arc::new(watched(acl)));
    // The file has the first word, and what was granted needs no question (ADR 0012).
    let mut deciders: Vec<Arc<dyn Decider>> = Vec::new();
    if let Some(acl) = &acl {
        metrics.token_keys_of(acl);
        let Size { users, rules, grants } = acl.size();
        info!(users, rules, grants, "ACL file loaded");
        deciders.push(Arc::clone(acl) as _);
        if remote.is_none() {
            // Those of the file: there is nobody else who would give one.
            deciders.push(Arc::new(Grants));
        }
    }
    if let Some(remote) = &remote {
        // Those of the service, and of the file.
        let (mut grants, mut service) = (Arc::new(Grants) as _, Arc::clone(remote) as _);
        if let (Some(shadow), Some(policy)) = (&shadow, &config.policy) {
            let one_in = u32::try_from(policy.shadow.one_in).unwrap_or(u32::MAX);
            grants = shadow.of_grants(grants, NonZeroU32::new(one_in).unwrap_or(NonZeroU32::MIN));
            service = shadow.of_service(service);
        }
        deciders.push(grants);
        deciders.push(service);
    }
    let sink: Arc<dyn Sink> = match &remote {
        Some(remote) => Arc::clone(remote) as _,
        None => Arc::new(Nobody),
    };
    Ok(Advisers { chain: Chain::new(deciders), sink, acl, remote, shadow })
}

/// Who is asked the same as the service in force.
fn shadow(
    config: &Config,
    policy: &PolicyConfig,
    metrics: &Arc<Metrics>,
    traces: Option<&Arc<Traces>>,
) -> anyhow::Result<Option<Arc<Shadow>>> {
    let Some(urls) = &policy.shadow.url else { return Ok(None) };
    let config = remote_config(config, policy, traces)?;
    let config = RemoteConfig { endpoints: endpoints(urls)?, event_spool: None, ..config };
    info!(endpoints = urls.join(","), "shadow service is asked for comparison");
    Ok(Some(Shadow::start(config, Arc::clone(metrics) as _)?))
}

fn endpoints(urls: &[String]) -> anyhow::Result<Vec<Endpoint>> {
    Ok(urls.iter().map(|url| url.parse()).collect::<Result<_, _>>()?)
}

fn remote_config(
    config: &Config,
    policy: &PolicyConfig,
    traces: Option<&Arc<Traces>>,
) -> anyhow::Result<RemoteConfig> {
    let size = policy.events.spool_size as u64;
    let spool = policy.events.spool.clone().map(|folder| SpoolConfig { folder, size, succeeds: false });
    Ok(RemoteConfig {
        endpoints: endpoints(&policy.endpoints)?,
        timeout: policy.questions.timeout,
        instance: config.general.instance.as_str().into(),
        version: env!("CARGO_PKG_VERSION").into(),
        event_queue: EVENT_QUEUE,
        event_buffer: policy.events.buffer,
        confirm_within: policy.events.confirm_timeout,
        event_spool: spool,
        events_wait: None,
        max_in_flight: QUESTIONS,
        tls: remote_tls(&policy.tls)?,
        streams: policy.questions.mode == PolicyMode::Auto,
        stream_lifetime: STREAM_LIFETIME,
        tracer: traces.map(|traces| Arc::clone(traces) as _),
    })
}

pub(super) fn remote_tls(tls: &ClientTlsSettings) -> anyhow::Result<RemoteTls> {
    let read = |path: &std::path::Path| mproxy_tcp::tls::read_text(path).context("policy service");
    Ok(RemoteTls {
        ca: tls.ca_certs.as_deref().map(read).transpose()?,
        identity: match &tls.identity {
            Some((cert, key)) => Some((read(cert)?, read(key)?)),
            None => None,
        },
    })
}
