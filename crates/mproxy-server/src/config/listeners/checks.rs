//! What is wrong with listeners, or without effect, once all of them are read.

use std::collections::HashSet;

use mproxy_tcp::tls::Verification;

use super::{KeyedListener, MQTT, WS};
use crate::config::reader::SettingReader;
use crate::config::settings::{self, Needs, table};
use crate::config::{ConfigProblem, ListenerSettings, Scheme, Target};

/// Warns of what is common to all listeners and serves none of them, and of brokers that are not verified.
pub(super) fn of_no_effect(reader: &mut SettingReader<'_>, listeners: &[KeyedListener]) {
    let needing = |needs| settings::all().filter(move |row| row.needs == needs).map(|row| row.key);
    let mut unless = |any: fn(&ListenerSettings) -> bool, keys: &mut dyn Iterator<Item = &str>, why: &str| {
        if !listeners.iter().any(|keyed| any(&keyed.listener)) {
            for key in keys.filter(|key| reader.written.explicit(key).is_some()) {
                reader
                    .warnings
                    .push(ConfigProblem::new(reader.written.origin(key), format!("has no effect: {why}")));
            }
        }
    };
    let [proxy_from, ca_certs, crls] = [table::PROXY_FROM.row, table::CA_CERTS.row, table::CRLS.row];
    let of = |key| std::iter::once(key);
    unless(|keyed| keyed.proxy_from.is_some(), &mut of(proxy_from.key), "no listener expects PROXY headers");
    unless(
        |keyed| keyed.transport.is_websocket(),
        &mut needing(Needs::WebSocket),
        "no WebSocket listener opens",
    );
    let [mode, owner, group] = [table::UNIX_MODE.row, table::UNIX_OWNER.row, table::UNIX_GROUP.row];
    unless(
        |keyed| keyed.transport == Scheme::Unix,
        &mut [mode.key, owner.key, group.key].into_iter(),
        "no listener opens at a Unix socket",
    );
    unless(
        |keyed| keyed.target.scheme.is_tls(),
        &mut needing(Needs::TargetTls),
        "no broker is reached over TLS",
    );
    unless(
        |keyed| keyed.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some()),
        &mut [ca_certs.key, crls.key].into_iter(),
        "no listener asks clients for certificates",
    );
    for family in [MQTT, WS] {
        let by_socket = reader.written.get(family.target_socket.row.key).is_some();
        for key in [family.target_host.row.key, family.target_port.row.key] {
            if by_socket && reader.written.explicit(key).is_some() {
                reader.warn(key, "has no effect: the broker is reached by its Unix socket");
            }
        }
    }
    for KeyedListener { key, listener } in listeners {
        let Target { scheme, tls, .. } = &listener.target;
        if scheme.is_tls() && tls.verification == Verification::Nobody {
            let own = key.strip_suffix("port").map(|root| format!("{root}target.verify"));
            let own = own.filter(|key| reader.written.get(key).is_some());
            let text = format!(
                "the certificate of {} is not verified: anybody who answers in its place can read and change all traffic of listener {}",
                listener.target, listener.name
            );
            reader.warn(&own.unwrap_or_else(|| "target.verify".to_owned()), text);
        }
    }
}

/// A certificate is for a name that TLS can ask for; a host that is none could never be reached over TLS.
pub(super) fn certain_names(reader: &mut SettingReader<'_>, listeners: &[KeyedListener]) {
    for KeyedListener { key, listener: ListenerSettings { transport, target, .. } } in listeners {
        let asked = target.server_name.as_ref().unwrap_or(&target.host);
        if !target.scheme.is_tls() || mproxy_tcp::tls::client::is_server_name(asked) {
            continue;
        }
        let end = if target.server_name.is_some() { "target.server_name" } else { "target.host" };
        let common = match (end, transport.is_websocket()) {
            ("target.server_name", _) => end,
            (_, true) => "ws.target.host",
            (_, false) => "mqtt.target.host",
        };
        let own = key.strip_suffix("port").map(|root| format!("{root}{end}"));
        let key = own.filter(|key| reader.written.get(key).is_some()).unwrap_or_else(|| common.to_owned());
        reader.fault(&key, format!("{asked:?} cannot be the name in a certificate: set target.server_name"));
    }
}

/// A listener is named in metrics, logs and events: the name is its own.
pub(super) fn name_once(reader: &mut SettingReader<'_>, listeners: &[KeyedListener]) {
    let mut seen = HashSet::new();
    for KeyedListener { key, listener } in listeners {
        if !seen.insert(&listener.name) {
            let name = key.replace(".port", ".name");
            let key = if reader.written.get(&name).is_some() { &name } else { key };
            reader.fault(key, format!("there are two listeners called {}", listener.name));
        }
    }
}
