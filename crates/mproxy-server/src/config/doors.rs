//! The listeners: those of mProxy's variables, and those of the file's `[[listeners]]`.
//!
//! Where the file lists listeners, these are all there are, and a listener of mProxy's variables opens beside
//! them only where its own host, port or path was written.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use super::meant::Reader;

use super::written::Origin;
use super::{Listener, Problem, Scheme, SendProxy, ServerTls, Target, value};

/// A listener, and the key of its port: what to blame when it cannot be bound.
pub(super) struct Door {
    pub key: String,
    pub listener: Listener,
}

/// All doors. The TLS ones have what they need, or a fault was noted.
pub(super) fn read(reader: &mut Reader<'_>) -> Vec<Door> {
    let defaults = Defaults::read(reader);
    let mut doors = inherited(reader, &defaults);
    for index in 0..reader.written.listeners.len() {
        doors.extend(listed(reader, &defaults, index));
    }
    name_once(reader, &doors);
    doors
}

/// Whether two sockets would be in each other's way.
pub(super) fn overlap(a: (&str, u16), b: (&str, u16)) -> bool {
    a.1 != 0 && a.1 == b.1 && (a.0 == b.0 || is_any(a.0) || is_any(b.0))
}

/// Whether a target on the same port is the listener itself.
pub(super) fn leads_here(listener: &str, target: &str) -> bool {
    let local = |host: &str| {
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback() || ip.is_unspecified())
    };
    listener == target || (local(listener) && local(target))
}

fn is_any(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified())
}

/// What listeners have in common unless they say otherwise.
struct Defaults {
    client_tls: bool,
    server: Option<ServerTls>,
    mqtt_host: String,
    ws_host: String,
    mqtt: Target,
    ws: Target,
    ws_path: String,
    wss_path: String,
    proxy_protocol: bool,
    max_packet_size: u32,
    max_keep_alive: Option<u16>,
    max_session_expiry: Option<u32>,
    connect_timeout: Duration,
}

impl Defaults {
    fn read(reader: &mut Reader<'_>) -> Self {
        let client_tls = reader.value("client_tls", value::boolean);
        let tls = reader.client_tls("target.ca_certs", "target.cert", "target.key");
        let proxy_protocol = reader.value("target.proxy_protocol", SendProxy::parse);
        let mqtt = Target {
            scheme: reader.value("mqtt.target.scheme", Scheme::parse),
            host: reader.value("mqtt.target.host", value::host),
            port: reader.value("mqtt.target.port", value::target_port),
            path: reader.value("mqtt.target.path", value::path),
            tls: tls.clone(),
            proxy_protocol,
        };
        let ws = Target {
            scheme: reader.value("ws.target.scheme", Scheme::parse),
            host: reader.value("ws.target.host", value::host),
            port: reader.value("ws.target.port", value::target_port),
            path: reader.value("ws.target.path", value::path),
            tls,
            proxy_protocol,
        };
        Self {
            client_tls,
            server: server_tls(reader, client_tls),
            mqtt_host: reader.value("mqtt.host", value::host),
            ws_host: reader.value("ws.host", value::host),
            mqtt,
            ws,
            ws_path: reader.value("ws.path", value::path),
            wss_path: reader.value("wss.path", value::path),
            proxy_protocol: reader.value("proxy_protocol", value::switch),
            max_packet_size: reader.value("max_packet_size", value::packet_size),
            max_keep_alive: reader.option("max_keep_alive", value::keep_alive),
            max_session_expiry: reader.option("max_session_expiry", value::session_expiry),
            connect_timeout: reader.value("connect_timeout", value::deadline),
        }
    }

    fn listener(&self, name: &str, transport: Scheme, port: u16) -> Listener {
        let (host, target) = match transport {
            Scheme::Mqtt | Scheme::Mqtts => (&self.mqtt_host, &self.mqtt),
            Scheme::Ws | Scheme::Wss => (&self.ws_host, &self.ws),
        };
        let path = if transport == Scheme::Wss { &self.wss_path } else { &self.ws_path };
        Listener {
            name: name.to_owned(),
            transport,
            host: host.clone(),
            port,
            path: path.clone(),
            tls: self.server.clone().filter(|_| transport.is_tls()),
            proxy_protocol: self.proxy_protocol,
            target: target.clone(),
            max_connections: None,
            max_packet_size: self.max_packet_size,
            max_keep_alive: self.max_keep_alive,
            max_session_expiry: self.max_session_expiry,
            connect_timeout: self.connect_timeout,
        }
    }
}

/// The server's side of TLS, and whether clients must show a certificate.
fn server_tls(reader: &mut Reader<'_>, client_tls: bool) -> Option<ServerTls> {
    let identity = reader.identity("tls.server_cert", "tls.server_key");
    let ca_certs = reader.option("tls.ca_certs", value::file);
    if client_tls {
        for key in ["tls.server_cert", "tls.server_key", "tls.ca_certs"] {
            if reader.written.get(key).is_none() {
                reader.fault("client_tls", format!("true needs {}", super::meant::spoken(key)));
            }
        }
    } else if ca_certs.is_some() {
        reader.warn(
            "tls.ca_certs",
            "without effect: MPROXY_CLIENT_TLS is false, clients are asked for no certificate",
        );
    }
    let client_ca = ca_certs.filter(|_| client_tls);
    identity.map(|(cert, key)| ServerTls { cert, key, client_ca })
}

/// mProxy's own listeners: name, transport, the key of the port, and the keys that are its own.
const INHERITED: [(&str, Scheme, &str, &[&str]); 4] = [
    ("mqtt", Scheme::Mqtt, "mqtt.port", &["mqtt.host", "mqtt.port"]),
    ("mqtts", Scheme::Mqtts, "mqtts.port", &["mqtts.port"]),
    ("ws", Scheme::Ws, "ws.port", &["ws.host", "ws.port", "ws.path"]),
    ("wss", Scheme::Wss, "wss.port", &["wss.port", "wss.path"]),
];

fn inherited(reader: &mut Reader<'_>, defaults: &Defaults) -> Vec<Door> {
    // A port that cannot be read counts as 0, which is in nobody's way: no second fault follows from it.
    let mut port = |key| reader.option(key, value::bind_port).unwrap_or(0);
    let ports = INHERITED.map(|(_, _, key, _)| port(key));
    let [_, _, ws_port, wss_port] = ports;
    let opens = |transport| match transport {
        Scheme::Mqtt | Scheme::Ws => !defaults.client_tls,
        Scheme::Mqtts => defaults.server.is_some(),
        Scheme::Wss => defaults.server.is_some() && (defaults.client_tls || wss_port != ws_port),
    };
    let is_listed = !reader.written.listeners.is_empty();
    let is_written = |keys: &[&str]| keys.iter().any(|key| reader.written.explicit(key).is_some());
    let mut doors = Vec::new();
    for ((name, transport, key, keys), port) in INHERITED.into_iter().zip(ports) {
        if opens(transport) && (!is_listed || is_written(keys)) {
            doors.push(Door { key: key.to_owned(), listener: defaults.listener(name, transport, port) });
        }
    }
    doors
}

fn default_name(index: usize) -> String {
    format!("listener-{index}")
}

/// One `[[listeners]]`; `None` where it says no port.
fn listed(reader: &mut Reader<'_>, defaults: &Defaults, index: usize) -> Option<Door> {
    let at = |key: &str| format!("listeners[{index}].{key}");
    let name = reader.option(&at("name"), value::label).unwrap_or_else(|| default_name(index));
    let transport = reader.option(&at("transport"), Scheme::parse).unwrap_or(Scheme::Mqtt);
    let port = reader.option(&at("port"), value::bind_port);
    if reader.written.get(&at("port")).is_none() {
        let mut origin = reader.written.listeners[index].clone();
        if let Origin::File { key, .. } = &mut origin {
            *key = at("port").into();
        }
        reader.faults.push(Problem::new(origin, "is missing: every listener names its port"));
    }
    let mut listener = defaults.listener(&name, transport, port.unwrap_or(0));
    replace(&mut listener.path, reader.option(&at("path"), value::path));
    replace(&mut listener.host, reader.option(&at("host"), value::host));
    replace(&mut listener.proxy_protocol, reader.option(&at("proxy_protocol"), value::switch));
    replace(&mut listener.max_packet_size, reader.option(&at("limits.max_packet_size"), value::packet_size));
    replace(&mut listener.connect_timeout, reader.option(&at("limits.connect_timeout"), value::deadline));
    let keep_alive = reader.option(&at("limits.max_keep_alive"), value::keep_alive);
    listener.max_keep_alive = keep_alive.or(listener.max_keep_alive);
    let expiry = reader.option(&at("limits.max_session_expiry"), value::session_expiry);
    listener.max_session_expiry = expiry.or(listener.max_session_expiry);
    listener.max_connections = reader.option(&at("limits.max_connections"), value::connections);
    listener.tls = own_tls(reader, &at, listener.tls, transport);
    own_target(reader, &at, &mut listener.target);
    port.map(|_| Door { key: at("port"), listener })
}

fn own_target(reader: &mut Reader<'_>, at: &impl Fn(&str) -> String, target: &mut Target) {
    replace(&mut target.scheme, reader.option(&at("target.scheme"), Scheme::parse));
    replace(&mut target.host, reader.option(&at("target.host"), value::host));
    replace(&mut target.port, reader.option(&at("target.port"), value::target_port));
    replace(&mut target.path, reader.option(&at("target.path"), value::path));
    replace(&mut target.proxy_protocol, reader.option(&at("target.proxy_protocol"), SendProxy::parse));
    let tls = reader.client_tls(&at("target.ca_certs"), &at("target.cert"), &at("target.key"));
    target.tls.ca_certs = tls.ca_certs.or_else(|| target.tls.ca_certs.take());
    target.tls.identity = tls.identity.or_else(|| target.tls.identity.take());
}

/// The listener's own certificate, or the one of all. Without any, a TLS listener is a fault.
fn own_tls(
    reader: &mut Reader<'_>,
    at: &impl Fn(&str) -> String,
    common: Option<ServerTls>,
    transport: Scheme,
) -> Option<ServerTls> {
    let identity = reader.identity(&at("tls.server_cert"), &at("tls.server_key"));
    let ca_certs = reader.option(&at("tls.ca_certs"), value::file);
    let client_tls = reader.option(&at("tls.client_tls"), value::boolean);
    let common_ca = common.as_ref().and_then(|tls| tls.client_ca.clone());
    let client_ca = ca_certs.or(common_ca).filter(|_| client_tls != Some(false));
    if client_tls == Some(true) && client_ca.is_none() {
        reader.fault(&at("tls.client_tls"), "true needs tls.ca_certs beside it");
    }
    let identity = identity.or_else(|| common.map(|tls| (tls.cert, tls.key)));
    let own = ["tls.server_cert", "tls.server_key"].map(at);
    let written = own.iter().find(|key| reader.written.get(key).is_some());
    match (transport.is_tls(), identity) {
        (true, Some((cert, key))) => Some(ServerTls { cert, key, client_ca }),
        (true, None) if written.is_none() => {
            reader
                .fault(&at("transport"), format!("{} needs a server certificate and key", transport.name()));
            None
        }
        (true, None) => None,
        (false, _) => {
            if let Some(key) = written {
                reader.fault(key, format!("transport {} has no TLS", transport.name()));
            }
            None
        }
    }
}

fn replace<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

fn name_once(reader: &mut Reader<'_>, doors: &[Door]) {
    let mut seen = HashSet::new();
    for Door { key, listener } in doors {
        if !seen.insert(&listener.name) {
            let name = key.replace(".port", ".name");
            let key = if reader.written.get(&name).is_some() { &name } else { key };
            reader.fault(key, format!("there are two listeners called {}", listener.name));
        }
    }
}
