//! What another configuration changes in the one in force: what is taken at once, and what waits for the next start. Which
//! it is stands in the [table](super::settings::table); that [`in_force`] does the same is held by a test over all rows.

use std::collections::BTreeMap;

use mproxy_tcp::tls::ServerTls;

use super::settings::{self, Reload};
use super::written::Effective;
use super::{
    AdminSettings, Config, General, ListenerSettings, Loaded, PolicyConfig, ProtectionSettings, Questions,
};

/// A setting that is written otherwise now. Secrets are masked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingChange {
    /// File key, `log.level` or `listeners[0].limits.max_packet_size`.
    pub key: String,
    /// What was in force; `None` where it was not set.
    pub old: Option<String>,
    /// What is written now; `None` where it is not set any more.
    pub new: Option<String>,
    /// From when on.
    pub takes_effect: TakesEffect,
}

/// From when on a changed setting holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakesEffect {
    /// At once.
    Now,
    /// For connections that are made from now on.
    ForNewConnections,
    /// Not before mproxy is started again.
    AtNextStart,
}

impl TakesEffect {
    /// A word for logs and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Now => "now",
            Self::ForNewConnections => "new_connections",
            Self::AtNextStart => "next_start",
        }
    }
}

/// What a reload of `wanted` changes.
#[must_use]
pub fn changes(running: &Loaded, wanted: &Loaded) -> Vec<SettingChange> {
    let before: BTreeMap<_, _> = running.effective.iter().map(|one| (one.key.as_str(), one)).collect();
    let after: BTreeMap<_, _> = wanted.effective.iter().map(|one| (one.key.as_str(), one)).collect();
    let gone = running.effective.iter().filter(|one| !after.contains_key(one.key.as_str()));
    let mut changes = Vec::new();
    for Effective { key, .. } in wanted.effective.iter().chain(gone) {
        let (old, new) = (before.get(key.as_str()), after.get(key.as_str()));
        if matches!((old, new), (Some(old), Some(new)) if old.says_the_same(new)) {
            continue;
        }
        let value = |one: Option<&&Effective>| one.and_then(|one| one.value.clone());
        let takes_effect = takes_effect(key, running, wanted);
        changes.push(SettingChange { key: key.clone(), old: value(old), new: value(new), takes_effect });
    }
    changes
}

fn takes_effect(key: &str, running: &Loaded, wanted: &Loaded) -> TakesEffect {
    let (old, new) = (&running.config, &wanted.config);
    let may = match key {
        // Whether there is a rule file, or a hook service, decides who is asked at all.
        "acl_file" => old.general.acl_file.is_some() && new.general.acl_file.is_some(),
        // It also decides which listeners are open.
        _ if is_client_tls(key) => !asks_others_for_certificates(old, new),
        // Without one, before and after, they say nothing.
        _ if key.starts_with("policy.") => old.policy.is_some() == new.policy.is_some(),
        _ => true,
    };
    let may = may
        && index(key).is_none_or(|index| {
            let known = |loaded: &Loaded| loaded.effective.iter().any(|one| one.key == key);
            let whose = if known(wanted) { wanted } else { running };
            let name = listener_name(whose, index);
            let of = |config: &'_ Config| config.listeners.iter().find(|one| one.name == name).cloned();
            matches!((of(old), of(new)), (Some(old), Some(new)) if is_same_kind(&old, &new))
        });
    match settings::find(key).map(|row| row.reload) {
        Some(Reload::Value) if may => TakesEffect::Now,
        Some(Reload::Contents) if may && key == "acl_file" => TakesEffect::Now,
        Some(Reload::NewConnections | Reload::Contents) if may => TakesEffect::ForNewConnections,
        _ => TakesEffect::AtNextStart,
    }
}

/// Whether it is about TLS towards clients.
fn is_client_tls(key: &str) -> bool {
    let own = key.split_once("].").filter(|_| key.starts_with("listeners[")).map_or(key, |(_, own)| own);
    own == "client_tls" || own.starts_with("tls.")
}

/// Whether some listener asks its clients for certificates now that did not, or the other way round; or lets clients in that
/// show none, or does so no more.
fn asks_others_for_certificates(old: &Config, new: &Config) -> bool {
    let asks = |listener: &ListenerSettings| {
        let asks = |tls: &ServerTls| tls.client_ca.is_some().then_some(tls.without_certificate);
        listener.tls.as_ref().map(asks)
    };
    let mut pairs = old.listeners.iter().flat_map(|old| new.listeners.iter().map(move |new| (old, new)));
    pairs.any(|(old, new)| is_same_kind(old, new) && asks(old) != asks(new))
}

/// What happens to listeners at the next start, a line each.
#[must_use]
pub fn listeners_at_next_start(running: &Config, wanted: &Config) -> Vec<String> {
    let is_in =
        |config: &Config, one: &ListenerSettings| config.listeners.iter().any(|two| two.name == one.name);
    let opens = wanted.listeners.iter().filter(|one| !is_in(running, one));
    let opens = opens.map(|one| format!("listener {} opens at the next start", one.name));
    let closes = running.listeners.iter().filter(|one| !is_in(wanted, one));
    opens.chain(closes.map(|one| format!("listener {} closes at the next start", one.name))).collect()
}

/// Of a key of `[[listeners]]`, which.
fn index(key: &str) -> Option<usize> {
    key.strip_prefix("listeners[")?.split_once(']')?.0.parse().ok()
}

fn listener_name(loaded: &Loaded, index: usize) -> String {
    let key = format!("listeners[{index}].name");
    let named = loaded.effective.iter().find(|one| one.key == key).and_then(|one| one.value.clone());
    named.unwrap_or_else(|| format!("listener-{index}"))
}

/// Whether one can take the settings of the other while it is open.
fn is_same_kind(old: &ListenerSettings, new: &ListenerSettings) -> bool {
    old.name == new.name && old.transport == new.transport
}

/// The configuration that is in force after a reload of `wanted`, whose [`changes`] are these: what cannot be taken is as it
/// was.
#[must_use]
pub fn in_force(running: &Loaded, wanted: Loaded, changes: &[SettingChange]) -> Loaded {
    let waits = |one: &Effective| {
        changes.iter().any(|change| change.key == one.key && change.takes_effect == TakesEffect::AtNextStart)
    };
    let kept = running.effective.iter().filter(|one| waits(one));
    let effective = wanted.effective.iter().filter(|one| !waits(one)).chain(kept).cloned().collect();
    Loaded { config: merged(&running.config, wanted.config), warnings: wanted.warnings, effective }
}

fn merged(running: &Config, wanted: Config) -> Config {
    let Config { general, protection, listeners, policy, admin, admin_client, log, decision_log: _, otel: _ } =
        wanted;
    let mut merged = running.clone();
    merged.protection = ProtectionSettings { bans_file: merged.protection.bans_file, ..protection };
    merged.general = General {
        instance: merged.general.instance,
        acl_file: merged.general.acl_file.map(|old| general.acl_file.unwrap_or(old)),
        ..general
    };
    let keeps_tls =
        asks_others_for_certificates(running, &Config { listeners: listeners.clone(), ..running.clone() });
    for old in &mut merged.listeners {
        let Some(new) = listeners.iter().find(|new| is_same_kind(old, new)) else { continue };
        let ListenerSettings { host, port, unix, closed_by, tls, .. } = old.clone();
        let tls = if keeps_tls { tls } else { new.tls.clone() };
        *old = ListenerSettings { host, port, unix, closed_by, tls, ..new.clone() };
    }
    if let (Some(old), Some(new)) = (&mut merged.policy, policy) {
        let PolicyConfig {
            questions: Questions { timeout, grant_staleness, mode: _ }, on_error, tls, ..
        } = new;
        old.questions = Questions { timeout, grant_staleness, mode: old.questions.mode };
        old.on_error = on_error;
        old.tls = tls;
    }
    merged.admin = AdminSettings { host: merged.admin.host, port: merged.admin.port, ..admin };
    merged.admin_client = admin_client;
    merged.log.level = log.level;
    merged
}
