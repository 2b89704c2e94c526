//! What is wrong with the files of TLS that the configuration names: only reading them shows. All of it, each with the
//! key that named the file.

use std::error::Error;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use mproxy_tcp::tls::dates::CertificateKind;
use mproxy_tcp::tls::{self, Identity, Look, Material, MaterialError};

use super::otel::Signal;
use super::{ClientTlsSettings, ConfigProblem, Loaded, PolicyConfig, ValueOrigin, admin, otel};

/// On whose side a file is: the table that its key stands in.
type TableName = &'static str;

/// Reads every file of every listener, target and policy service. Blocks while it does.
#[must_use]
pub fn faults(loaded: &Loaded) -> Vec<ConfigProblem> {
    let mut problems = Vec::new();
    for (table, end) in ends(loaded) {
        for error in end.faults() {
            add(problems_of(loaded, table, &error), &mut problems);
        }
    }
    problems
}

/// What is good by itself, but cannot do what it is there for, at this time: certificates and lists past their dates,
/// lists of another CA. Blocks while it reads the files.
#[must_use]
pub fn warnings(loaded: &Loaded, now: SystemTime) -> Vec<ConfigProblem> {
    let now = seconds(now);
    let mut problems = Vec::new();
    for (table, end) in ends(loaded) {
        // What cannot be read is a fault, and told as one.
        for remark in end.look().unwrap_or_default().remarks(now) {
            let text = format!("{}: {}", remark.file.display(), remark.text);
            let is_for = |key: &str| match remark.kind {
                CertificateKind::Certificate => key.ends_with("cert"),
                CertificateKind::Ca => key.ends_with("ca_certs"),
                CertificateKind::Crl => key.ends_with("crls"),
            };
            let named = named(loaded, table, &remark.file, is_for);
            add(
                named.into_iter().map(|origin| ConfigProblem::new(origin, text.clone())).collect(),
                &mut problems,
            );
        }
    }
    problems
}

/// Seconds since 1970.
#[must_use]
pub fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Several listeners may share a file: each problem once.
fn add(new: Vec<ConfigProblem>, problems: &mut Vec<ConfigProblem>) {
    for problem in new {
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    }
}

/// One end of TLS, towards whomever.
trait TlsSide {
    fn faults(&self) -> Vec<MaterialError>;
    fn look(&self) -> Result<Look, MaterialError>;
}

impl<M: Material> TlsSide for M {
    fn faults(&self) -> Vec<MaterialError> {
        Material::faults(self)
    }

    fn look(&self) -> Result<Look, MaterialError> {
        Material::look(self)
    }
}

/// Every end that has TLS, and the table of its keys.
fn ends(loaded: &Loaded) -> Vec<(TableName, Box<dyn TlsSide>)> {
    let mut ends: Vec<(TableName, Box<dyn TlsSide>)> = Vec::new();
    for listener in &loaded.config.listeners {
        if let Some(tls) = &listener.tls {
            ends.push(("tls", Box::new(tls.clone())));
        }
        if listener.target.scheme.is_tls() {
            ends.push(("target", Box::new(listener.target.tls.clone())));
        }
    }
    if let Some(tls) = loaded.config.policy.as_ref().and_then(towards_policy) {
        ends.push(("policy", Box::new(tls)));
    }
    if let Some(tls) = admin::tls(&loaded.config.admin) {
        ends.push(("admin.tls", Box::new(tls)));
    }
    let towards_collector = |signal| otel::tls(&loaded.config.otel, signal);
    // The same for both.
    if let Some(tls) = Signal::ALL.into_iter().find_map(towards_collector) {
        ends.push(("otel", Box::new(tls)));
    }
    ends
}

/// TLS towards the policy service, where it is reached so.
#[must_use]
pub fn towards_policy(policy: &PolicyConfig) -> Option<tls::ClientTls> {
    policy.endpoints.iter().any(|url| url.starts_with("https:")).then(|| of_policy(&policy.tls))
}

fn of_policy(tls: &ClientTlsSettings) -> tls::ClientTls {
    let identity = tls.identity.clone();
    tls::ClientTls {
        roots: tls.ca_certs.clone(),
        identity: identity.map(|(cert, key)| Identity { cert, key, ocsp: None }),
        ..Default::default()
    }
}

/// The fault, wherever the file was named.
fn problems_of(loaded: &Loaded, table: TableName, error: &MaterialError) -> Vec<ConfigProblem> {
    let text = match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    };
    let named =
        error.path().map(|path| named(loaded, table, path, |key| is_for(key, error))).unwrap_or_default();
    if named.is_empty() {
        // The roots of the system are what nobody names.
        let key = match table {
            "target" => "target.ca_certs",
            "policy" => "policy.ca_certs",
            "otel" => "otel.ca_certs",
            table => table,
        };
        return vec![ConfigProblem::new(ValueOrigin::Default(key), text)];
    }
    named.into_iter().map(|origin| ConfigProblem::new(origin, text.clone())).collect()
}

/// Where this file was named in this table, of all listeners or of one.
fn named(loaded: &Loaded, table: TableName, path: &Path, is_for: impl Fn(&str) -> bool) -> Vec<ValueOrigin> {
    let is_here = |key: &str| {
        let of_listener = key.strip_prefix("listeners[").and_then(|rest| rest.split_once("]."));
        let key = of_listener.map_or(key, |(_, key)| key);
        key.strip_prefix(table).is_some_and(|rest| rest.starts_with('.'))
    };
    let names = |value: &str| {
        // Also as a whole: a file may have a comma in its name.
        let mut members = value.split(',').map(str::trim).chain([value]);
        members.any(|name| Path::new(name) == path)
    };
    let named = loaded.effective.iter().filter(|effective| {
        is_here(&effective.key) && is_for(&effective.key) && effective.value.as_deref().is_some_and(names)
    });
    named.filter_map(|effective| effective.origin.clone()).collect()
}

/// One file may be named for several ends, a certificate and its key say: whether it was for this one.
fn is_for(key: &str, error: &MaterialError) -> bool {
    let wanted = match error {
        MaterialError::Empty { wanted, .. } => *wanted,
        MaterialError::Encrypted { .. } => "private key",
        _ => return true,
    };
    let (is_key, is_crl) = (key.ends_with("key"), key.ends_with("crls"));
    match wanted {
        "private key" => is_key,
        "certificate revocation list" => is_crl,
        _ => !is_key && !is_crl,
    }
}
