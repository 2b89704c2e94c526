//! The listeners: those of mProxy's variables, and those of the file's `[[listeners]]`.
//!
//! Where the file lists listeners, these are all there are, and a listener of mProxy's variables opens beside
//! them only where its own host, port or path was written.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use mproxy_tcp::networks::Network;
use mproxy_tcp::tls::{ClientTls, Verification};

use super::meant::Reader;
use super::tls::{self, Layer};
use super::written::Origin;
use super::{
    Budgets, Listener, OnUnavailable, Problem, Scheme, SendProxy, Target, Web, list, settings, value,
};

/// A listener, and the key of its port: what to blame when it cannot be bound.
pub(super) struct Door {
    pub key: String,
    pub listener: Listener,
}

/// All doors. The TLS ones have what they need, or a fault was noted.
pub(super) fn read(reader: &mut Reader<'_>) -> Vec<Door> {
    let defaults = Defaults::read(reader);
    let mut doors = inherited(reader, &defaults);
    for index in 0..reader.written.tables("listeners").len() {
        doors.extend(listed(reader, &defaults, index));
    }
    name_once(reader, &doors);
    certain_names(reader, &doors);
    of_no_effect(reader, &doors);
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
    tls: Layer,
    mqtt_host: String,
    ws_host: String,
    mqtt: Target,
    ws: Target,
    ws_path: String,
    wss_path: String,
    proxy_protocol: bool,
    proxy_from: Vec<Network>,
    web: Web,
    max_packet_size: u32,
    max_connect_size: u32,
    max_user_properties: u32,
    budget: Budgets,
    max_keep_alive: Option<u16>,
    max_session_expiry: Option<u32>,
    connect_timeout: Duration,
    on_unavailable: OnUnavailable,
}

impl Defaults {
    fn read(reader: &mut Reader<'_>) -> Self {
        let tls = tls::of_target(reader, "", ClientTls::default());
        let server_name = reader.option("target.server_name", value::name);
        let proxy_protocol = reader.value("target.proxy_protocol", SendProxy::parse);
        let mqtt = Target {
            scheme: reader.value("mqtt.target.scheme", Scheme::parse),
            host: reader.value("mqtt.target.host", value::host),
            port: reader.value("mqtt.target.port", value::target_port),
            path: reader.value("mqtt.target.path", value::path),
            tls: tls.clone(),
            server_name: server_name.clone(),
            proxy_protocol,
        };
        let ws = Target {
            scheme: reader.value("ws.target.scheme", Scheme::parse),
            host: reader.value("ws.target.host", value::host),
            port: reader.value("ws.target.port", value::target_port),
            path: reader.value("ws.target.path", value::path),
            tls,
            server_name,
            proxy_protocol,
        };
        Self {
            tls: Layer::common(reader),
            mqtt_host: reader.value("mqtt.host", value::host),
            ws_host: reader.value("ws.host", value::host),
            mqtt,
            ws,
            ws_path: reader.value("ws.path", value::own_path),
            wss_path: reader.value("wss.path", value::own_path),
            proxy_protocol: reader.value("proxy_protocol", value::switch),
            proxy_from: reader.value("proxy_from", list::networks),
            web: web(reader, "", Web::default()),
            max_packet_size: reader.value("max_packet_size", value::packet_size),
            max_connect_size: reader.value("max_connect_size", value::packet_size),
            max_user_properties: reader.value("max_user_properties", value::packet_size),
            budget: Budgets {
                connection: reader.value("budget.connection", value::budget),
                listener: reader.value("budget.listener", value::budget),
            },
            max_keep_alive: reader.option("max_keep_alive", value::keep_alive),
            max_session_expiry: reader.option("max_session_expiry", value::session_expiry),
            connect_timeout: reader.value("connect_timeout", value::deadline),
            on_unavailable: reader.value("on_unavailable", OnUnavailable::parse),
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
            web: self.web.clone(),
            tls: self.tls.server(transport),
            proxy_from: self.proxy_protocol.then(|| self.proxy_from.clone()),
            target: target.clone(),
            max_connections: None,
            max_packet_size: self.max_packet_size,
            max_connect_size: self.max_connect_size,
            max_user_properties: self.max_user_properties,
            budget: self.budget,
            max_keep_alive: self.max_keep_alive,
            max_session_expiry: self.max_session_expiry,
            connect_timeout: self.connect_timeout,
            on_unavailable: self.on_unavailable,
            closed_by: String::new(),
        }
    }
}

/// Keys that say something of WebSocket, behind `listeners[0].` or as settings.
const OF_WEB: [&str; 3] = ["ws.origins", "ws.headers", "ws.cookies"];

/// The same for one listener, which has a path of its own.
const OF_WEB_LISTENER: [&str; 4] = ["path", "ws.origins", "ws.headers", "ws.cookies"];

fn web(reader: &mut Reader<'_>, root: &str, common: Web) -> Web {
    let at = |key: &str| format!("{root}ws.{key}");
    Web {
        origins: reader.option(&at("origins"), list::origins).unwrap_or(common.origins),
        headers: reader.option(&at("headers"), list::headers).unwrap_or(common.headers),
        cookies: reader.option(&at("cookies"), list::cookies).unwrap_or(common.cookies),
    }
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
    let mut port = |key| reader.option(key, value::port_or_off).unwrap_or(Some(0));
    let ports = INHERITED.map(|(_, _, key, _)| port(key));
    let [_, _, ws_port, wss_port] = ports;
    let wss_written = reader.written.explicit("wss.port").is_some();
    let tls = &defaults.tls;
    let shut = |transport| match transport {
        Scheme::Mqtt | Scheme::Ws if tls.wants_client() => Some("clients must come over TLS"),
        Scheme::Mqtts | Scheme::Wss if !tls.has_certificate() => Some("there is no server certificate"),
        Scheme::Wss if !tls.wants_client() && wss_port == ws_port && wss_port != Some(0) => {
            Some("the listener without TLS has the same port")
        }
        // Who closes one does not want the other in its place.
        Scheme::Wss if !tls.wants_client() && ws_port.is_none() && !wss_written => {
            Some("the listener without TLS is off, and no port was given for it")
        }
        Scheme::Mqtt | Scheme::Mqtts | Scheme::Ws | Scheme::Wss => None,
    };
    let is_listed = !reader.written.tables("listeners").is_empty();
    let mut doors = Vec::new();
    for ((name, transport, key, keys), port) in INHERITED.into_iter().zip(ports) {
        let Some(port) = port else { continue };
        let is_written = keys.iter().any(|key| reader.written.explicit(key).is_some());
        match shut(transport) {
            None if !is_listed || is_written => {
                let variable = settings::find(key).and_then(|setting| setting.variable).unwrap_or(key);
                let closed_by = format!("{variable}=off");
                let listener = Listener { closed_by, ..defaults.listener(name, transport, port) };
                doors.push(Door { key: key.to_owned(), listener });
            }
            Some(why) if reader.written.explicit(key).is_some() => {
                reader.warn(key, format!("without effect: listener {name} does not open, as {why}"));
            }
            None | Some(_) => {}
        }
    }
    if !is_listed || doors.iter().any(|door| door.listener.transport.is_tls()) {
        tls.complete(reader);
    }
    doors
}

fn default_name(index: usize) -> String {
    format!("listener-{index}")
}

/// One `[[listeners]]`; `None` where it says no port.
fn listed(reader: &mut Reader<'_>, defaults: &Defaults, index: usize) -> Option<Door> {
    let root = format!("listeners[{index}].");
    let at = |key: &str| format!("{root}{key}");
    let name = reader.option(&at("name"), value::label).unwrap_or_else(|| default_name(index));
    let transport = reader.option(&at("transport"), Scheme::parse).unwrap_or(Scheme::Mqtt);
    let port = reader.option(&at("port"), value::bind_port);
    if reader.written.get(&at("port")).is_none() {
        let mut origin = reader.written.tables("listeners")[index].clone();
        if let Origin::File { key, .. } = &mut origin {
            *key = at("port").into();
        }
        reader.faults.push(Problem::new(origin, "is missing: every listener names its port"));
    }
    let mut listener = defaults.listener(&name, transport, port.unwrap_or(0));
    listener.closed_by = format!("removing [[listeners]] {name} from the file");
    replace(&mut listener.path, reader.option(&at("path"), value::own_path));
    replace(&mut listener.host, reader.option(&at("host"), value::host));
    replace(&mut listener.max_packet_size, reader.option(&at("limits.max_packet_size"), value::packet_size));
    replace(
        &mut listener.max_connect_size,
        reader.option(&at("limits.max_connect_size"), value::packet_size),
    );
    replace(
        &mut listener.max_user_properties,
        reader.option(&at("limits.max_user_properties"), value::packet_size),
    );
    replace(&mut listener.budget.connection, reader.option(&at("budget.connection"), value::budget));
    replace(&mut listener.budget.listener, reader.option(&at("budget.listener"), value::budget));
    replace(&mut listener.connect_timeout, reader.option(&at("limits.connect_timeout"), value::deadline));
    replace(&mut listener.on_unavailable, reader.option(&at("on_unavailable"), OnUnavailable::parse));
    let keep_alive = reader.option(&at("limits.max_keep_alive"), value::keep_alive);
    listener.max_keep_alive = keep_alive.or(listener.max_keep_alive);
    let expiry = reader.option(&at("limits.max_session_expiry"), value::session_expiry);
    listener.max_session_expiry = expiry.or(listener.max_session_expiry);
    listener.max_connections = reader.option(&at("limits.max_connections"), value::connections);
    let has_header = reader.option(&at("proxy_protocol"), value::switch).unwrap_or(defaults.proxy_protocol);
    let from = reader.option(&at("proxy_from"), list::networks);
    if from.is_some() && !has_header {
        reader.fault(&at("proxy_from"), "needs proxy_protocol = \"on\" beside it");
    }
    listener.proxy_from = has_header.then(|| from.unwrap_or_else(|| defaults.proxy_from.clone()));
    listener.web = web(reader, &root, listener.web);
    if !transport.is_websocket()
        && let Some(key) = written(reader, &root, &OF_WEB_LISTENER)
    {
        reader.fault(&key, format!("transport {} has no WebSocket", transport.name()));
    }
    listener.tls = tls::of_listener(reader, &root, &defaults.tls, transport);
    own_target(reader, &root, &mut listener.target);
    port.map(|_| Door { key: at("port"), listener })
}

fn own_target(reader: &mut Reader<'_>, root: &str, target: &mut Target) {
    let at = |key: &str| format!("{root}target.{key}");
    replace(&mut target.scheme, reader.option(&at("scheme"), Scheme::parse));
    replace(&mut target.host, reader.option(&at("host"), value::host));
    replace(&mut target.port, reader.option(&at("port"), value::target_port));
    replace(&mut target.path, reader.option(&at("path"), value::path));
    replace(&mut target.proxy_protocol, reader.option(&at("proxy_protocol"), SendProxy::parse));
    target.server_name = reader.option(&at("server_name"), value::name).or_else(|| target.server_name.take());
    target.tls = tls::of_target(reader, root, std::mem::take(&mut target.tls));
    if !target.scheme.is_websocket()
        && let Some(key) = written(reader, root, &["target.path"])
    {
        reader.fault(&key, format!("the target's scheme {} has no path", target.scheme.name()));
    }
    if !target.scheme.is_tls()
        && let Some(key) = written(reader, root, &tls::OF_TARGET)
    {
        reader.fault(&key, format!("the target's scheme {} has no TLS", target.scheme.name()));
    }
}

/// The first of these keys that somebody wrote behind `root`.
fn written(reader: &Reader<'_>, root: &str, keys: &[&str]) -> Option<String> {
    let mut keys = keys.iter().map(|key| format!("{root}{key}"));
    keys.find(|key| reader.written.explicit(key).is_some())
}

/// Warns of what is common to all listeners and serves none of them, and of brokers that are not verified.
fn of_no_effect(reader: &mut Reader<'_>, doors: &[Door]) {
    let mut unless = |any: fn(&Listener) -> bool, keys: &[&str], why: &str| {
        if !doors.iter().any(|door| any(&door.listener)) {
            for key in keys.iter().filter(|key| reader.written.explicit(key).is_some()) {
                reader
                    .warnings
                    .push(Problem::new(reader.written.origin(key), format!("without effect: {why}")));
            }
        }
    };
    unless(|door| door.proxy_from.is_some(), &["proxy_from"], "no listener expects PROXY headers");
    unless(|door| door.transport.is_websocket(), &OF_WEB, "no WebSocket listener opens");
    unless(|door| door.target.scheme.is_tls(), &tls::OF_TARGET, "no broker is reached over TLS");
    unless(
        |door| door.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some()),
        &["tls.ca_certs", "tls.crls"],
        "clients are asked for no certificate",
    );
    for Door { key, listener } in doors {
        let Target { scheme, tls, .. } = &listener.target;
        if scheme.is_tls() && tls.verification == Verification::Nobody {
            let own = key.strip_suffix("port").map(|root| format!("{root}target.verify"));
            let own = own.filter(|key| reader.written.get(key).is_some());
            let text = format!(
                "whoever answers for {} is believed, and may read and change everything of listener {}",
                listener.target, listener.name
            );
            reader.warn(&own.unwrap_or_else(|| "target.verify".to_owned()), text);
        }
    }
}

/// A certificate is for a name that TLS can ask for; a host that is none could never be reached over TLS.
fn certain_names(reader: &mut Reader<'_>, doors: &[Door]) {
    for Door { key, listener: Listener { transport, target, .. } } in doors {
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
        reader.fault(
            &key,
            format!("{asked:?} is no name that a certificate could be for: set target.server_name"),
        );
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
