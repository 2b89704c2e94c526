//! What is wrong with the files of TLS that the configuration names: only reading them shows. All of it, each with the
//! key that named the file.

use std::error::Error;
use std::path::Path;

use mproxy_tcp::tls::{self, Identity, Material, MaterialError};

use super::{ClientTls, Loaded, Origin, Problem};

/// On whose side a file is: the table that its key stands in.
type Table = &'static str;

/// Reads every file of every listener, target and policy service. Blocks while it does.
#[must_use]
pub fn faults(loaded: &Loaded) -> Vec<Problem> {
    let mut found: Vec<(Table, MaterialError)> = Vec::new();
    let mut add = |table, errors: Vec<_>| found.extend(errors.into_iter().map(|error| (table, error)));
    for listener in &loaded.config.listeners {
        if let Some(tls) = &listener.tls {
            add("tls", tls.faults());
        }
        if listener.target.scheme.is_tls() {
            add("target", listener.target.tls.faults());
        }
    }
    if let Some(policy) = &loaded.config.policy
        && policy.endpoints.iter().any(|url| url.starts_with("https:"))
    {
        add("policy", towards_policy(&policy.tls).faults());
    }
    let mut problems = Vec::new();
    for (table, error) in found {
        // Several listeners may share a file.
        for problem in told(loaded, table, &error) {
            if !problems.contains(&problem) {
                problems.push(problem);
            }
        }
    }
    problems
}

fn towards_policy(tls: &ClientTls) -> tls::ClientTls {
    let identity = tls.identity.clone();
    tls::ClientTls {
        roots: tls.ca_certs.clone(),
        identity: identity.map(|(cert, key)| Identity { cert, key, ocsp: None }),
        ..Default::default()
    }
}

/// The fault, wherever the file was named.
fn told(loaded: &Loaded, table: Table, error: &MaterialError) -> Vec<Problem> {
    let text = match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    };
    let named = error.path().map(|path| named(loaded, table, path, error)).unwrap_or_default();
    if named.is_empty() {
        // The roots of the system are what nobody names.
        let key = match table {
            "target" => "target.ca_certs",
            "policy" => "policy.ca_certs",
            table => table,
        };
        return vec![Problem::new(Origin::Default(key), text)];
    }
    named.into_iter().map(|origin| Problem::new(origin, text.clone())).collect()
}

/// Where this file was named in this table, of all listeners or of one.
fn named(loaded: &Loaded, table: Table, path: &Path, error: &MaterialError) -> Vec<Origin> {
    let is_here = |key: &str| {
        let of_listener = key.strip_prefix("listeners[").and_then(|rest| rest.split_once("]."));
        let key = of_listener.map_or(key, |(_, key)| key);
        key.strip_prefix(table).is_some_and(|rest| rest.starts_with('.'))
    };
    let names = |value: &str| {
        let mut members = value.split(',').map(str::trim).chain([value]);
        members.any(|name| Path::new(name) == path)
    };
    let named = loaded.effective.iter().filter(|effective| {
        is_here(&effective.key)
            && is_for(&effective.key, error)
            && effective.value.as_deref().is_some_and(names)
    });
    named.filter_map(|effective| effective.origin.clone()).collect()
}

/// One file may be named for several ends, a certificate and its key say: whether it was for this one.
fn is_for(key: &str, error: &MaterialError) -> bool {
    let MaterialError::Empty { wanted, .. } = error else { return true };
    let (is_key, is_crl) = (key.ends_with("key"), key.ends_with("crls"));
    match *wanted {
        "private key" => is_key,
        "certificate revocation list" => is_crl,
        _ => !is_key && !is_crl,
    }
}
