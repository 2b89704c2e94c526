//! The listeners: those of mProxy's variables, and those of the file's `[[listeners]]`.
//!
//! Where the file lists listeners, these are all there are, and a listener of mProxy's variables opens beside
//! them only where its own host, port or path was written.

mod bound;
mod checks;

use std::path::PathBuf;

use mproxy_tcp::tls::ClientTls;
use mproxy_unix::SocketFile;

pub(super) use self::bound::Bound;
use super::reader::{SettingReader, spoken};
use super::settings::table::{self, ListenerLimits, Web};
use super::settings::{self, Needs, SettingOf, SettingPlace, Values as _};
use super::tls::{self, Own};
use super::{ConfigProblem, ListenerSettings, Scheme, Target, kind};

/// A listener, and the key of its port: what to blame when it cannot be bound.
pub(super) struct KeyedListener {
    pub key: String,
    pub listener: ListenerSettings,
}

/// All listeners. The TLS ones have what they need, or a fault was noted.
pub(super) fn read(reader: &mut SettingReader<'_>) -> Vec<KeyedListener> {
    let common = Common::read(reader);
    let mut listeners = inherited(reader, &common);
    for index in 0..reader.written.tables("listeners").len() {
        listeners.extend(listed(reader, &common, index));
    }
    checks::name_once(reader, &listeners);
    checks::certain_names(reader, &listeners);
    checks::of_no_effect(reader, &listeners);
    listeners
}

/// What is read once for all listeners.
struct Common {
    /// TLS towards clients.
    tls: Own,
    /// TLS towards brokers.
    target_tls: ClientTls,
    /// How brokers are reached: those of MQTT, and those of WebSocket.
    mqtt: TargetScheme,
    ws: TargetScheme,
}

/// Scheme and Unix socket of a target.
type TargetScheme = (Scheme, Option<PathBuf>);

impl Common {
    fn read(reader: &mut SettingReader<'_>) -> Self {
        Self {
            tls: Own::read(reader, SettingPlace::Process),
            target_tls: tls::of_target(reader, SettingPlace::Process, ClientTls::default()),
            mqtt: target_scheme(
                reader,
                SettingPlace::Process,
                &MQTT.target_scheme,
                &MQTT.target_socket,
                None,
            ),
            ws: target_scheme(reader, SettingPlace::Process, &WS.target_scheme, &WS.target_socket, None),
        }
    }

    /// With everything that holds at this place, but for TLS towards clients and what it has to itself.
    fn listener(
        &self,
        reader: &SettingReader<'_>,
        place: SettingPlace,
        name: &str,
        transport: Scheme,
        port: u16,
    ) -> ListenerSettings {
        let (family, target_scheme) =
            if transport.is_websocket() { (WS, &self.ws) } else { (MQTT, &self.mqtt) };
        let path = if transport == Scheme::Wss { table::WSS_PATH } else { table::WS_PATH };
        let common = SettingPlace::Process;
        let has_header = reader.get(&table::PROXY_PROTOCOL, place);
        ListenerSettings {
            name: name.to_owned(),
            transport,
            host: reader.get(&family.host, common),
            port,
            unix: None,
            path: reader.get(&path, common),
            web: Web::read(reader, place),
            tls: None,
            proxy_from: has_header.then(|| reader.get(&table::PROXY_FROM, place)),
            target: Target {
                scheme: target_scheme.0,
                socket: target_scheme.1.clone(),
                host: reader.get(&family.target_host, common),
                port: reader.get(&family.target_port, common),
                path: reader.get(&family.target_path, common),
                tls: self.target_tls.clone(),
                server_name: reader.own(&table::TARGET_SERVER_NAME, common),
                proxy_protocol: reader.get(&table::TARGET_PROXY_PROTOCOL, place),
            },
            limits: ListenerLimits::read(reader, place),
            closed_by: String::new(),
        }
    }
}

/// What listeners of one kind inherit.
struct ListenerFamily {
    host: SettingOf<kind::Host>,
    target_scheme: SettingOf<Scheme>,
    target_host: SettingOf<kind::Host>,
    target_port: SettingOf<kind::TargetPort>,
    target_path: SettingOf<kind::TargetPath>,
    target_socket: SettingOf<kind::SocketPath>,
}

/// MQTT, MQTTS, and MQTT at a Unix socket.
const MQTT: ListenerFamily = ListenerFamily {
    host: table::MQTT_HOST,
    target_scheme: table::MQTT_TARGET_SCHEME,
    target_host: table::MQTT_TARGET_HOST,
    target_port: table::MQTT_TARGET_PORT,
    target_path: table::MQTT_TARGET_PATH,
    target_socket: table::MQTT_TARGET_SOCKET,
};

/// WS and WSS.
const WS: ListenerFamily = ListenerFamily {
    host: table::WS_HOST,
    target_scheme: table::WS_TARGET_SCHEME,
    target_host: table::WS_TARGET_HOST,
    target_port: table::WS_TARGET_PORT,
    target_path: table::WS_TARGET_PATH,
    target_socket: table::WS_TARGET_SOCKET,
};

/// mProxy's own listeners: name, transport, port, and the keys that are its own.
const INHERITED: [(&str, Scheme, SettingOf<kind::PortOrOff>, &[&str]); 4] = [
    ("mqtt", Scheme::Mqtt, table::MQTT_PORT, &[table::MQTT_HOST.row.key, table::MQTT_PORT.row.key]),
    ("mqtts", Scheme::Mqtts, table::MQTTS_PORT, &[table::MQTTS_PORT.row.key]),
    (
        "ws",
        Scheme::Ws,
        table::WS_PORT,
        &[table::WS_HOST.row.key, table::WS_PORT.row.key, table::WS_PATH.row.key],
    ),
    ("wss", Scheme::Wss, table::WSS_PORT, &[table::WSS_PORT.row.key, table::WSS_PATH.row.key]),
];

fn inherited(reader: &mut SettingReader<'_>, common: &Common) -> Vec<KeyedListener> {
    let ports = INHERITED.map(|(_, _, port, _)| reader.get(&port, SettingPlace::Process));
    let [_, _, ws_port, wss_port] = ports;
    let wss_written = reader.written.explicit(table::WSS_PORT.row.key).is_some();
    let tls = &common.tls;
    let shut = |transport| match transport {
        Scheme::Mqtt | Scheme::Ws | Scheme::Unix if tls.requires_client() => {
            Some("clients must connect over TLS")
        }
        Scheme::Mqtts | Scheme::Wss if !tls.has_certificate() => Some("there is no server certificate"),
        // They have the same default. The one without TLS has it, unless clients have to show certificates.
        Scheme::Wss if !tls.requires_client() && wss_port == ws_port && wss_port != Some(0) => {
            Some("the listener without TLS has the same port")
        }
        // Who closes one does not want the other in its place.
        Scheme::Wss if !tls.requires_client() && ws_port.is_none() && !wss_written => {
            Some("the listener without TLS is off, and no port was given for it")
        }
        Scheme::Mqtt | Scheme::Mqtts | Scheme::Ws | Scheme::Wss | Scheme::Unix => None,
    };
    let is_listed = !reader.written.tables("listeners").is_empty();
    let mut listeners = Vec::new();
    for ((name, transport, setting, keys), port) in INHERITED.into_iter().zip(ports) {
        let key = setting.row.key;
        let Some(port) = port else { continue };
        let is_written = keys.iter().any(|key| reader.written.explicit(key).is_some());
        match shut(transport) {
            None if !is_listed || is_written => {
                let closed_by = format!("{}=off", setting.row.variable.unwrap_or(key));
                let tls = tls.server(transport);
                let listener = common.listener(reader, SettingPlace::Process, name, transport, port);
                let listener = ListenerSettings { closed_by, tls, ..listener };
                listeners.push(KeyedListener { key: key.to_owned(), listener });
            }
            Some(why) if reader.written.explicit(key).is_some() => {
                reader.warn(key, format!("has no effect: listener {name} does not open, because {why}"));
            }
            None | Some(_) => {}
        }
    }
    let [key, name] = [table::UNIX_PATH.row.key, "unix"];
    match (socket_file(reader, SettingPlace::Process), shut(Scheme::Unix)) {
        (Some(_), Some(why)) => {
            reader.warn(key, format!("has no effect: listener {name} does not open, because {why}"));
        }
        (unix @ Some(_), None) => {
            let closed_by = "remove MPROXY_UNIX_PATH".to_owned();
            let listener = common.listener(reader, SettingPlace::Process, name, Scheme::Unix, 0);
            listeners.push(KeyedListener {
                key: key.to_owned(),
                listener: ListenerSettings { closed_by, unix, ..listener },
            });
        }
        (None, _) => {}
    }
    // Only where a listener here uses it: those of the file tell by themselves what they lack.
    if !is_listed || listeners.iter().any(|keyed| keyed.listener.transport.is_tls()) {
        tls.complete(reader);
    }
    listeners
}

/// The Unix socket to listen at; `None` where this place itself has no path.
fn socket_file(reader: &SettingReader<'_>, place: SettingPlace) -> Option<SocketFile> {
    let named = |setting| reader.own(setting, place).or_else(|| reader.own(setting, SettingPlace::Process));
    Some(SocketFile {
        path: reader.own(&table::UNIX_PATH, place)?,
        mode: reader.get(&table::UNIX_MODE, place),
        owner: named(&table::UNIX_OWNER),
        group: named(&table::UNIX_GROUP),
    })
}

/// How a target is reached: a Unix socket that is written says by itself that it is. What is not written is as in
/// `common`.
fn target_scheme(
    reader: &mut SettingReader<'_>,
    place: SettingPlace,
    scheme: &SettingOf<Scheme>,
    socket: &SettingOf<kind::SocketPath>,
    common: Option<TargetScheme>,
) -> TargetScheme {
    let key = |row: &settings::SettingRow| row.keys_at(place).next().unwrap_or_default();
    let (scheme_key, socket_key) = (key(&scheme.row), key(&socket.row));
    let written = reader.written.explicit(&scheme_key).and_then(|_| reader.own(scheme, place));
    let path = reader.own(socket, place);
    let inherited = common.as_ref().and_then(|(_, socket)| socket.clone());
    match (written, path) {
        (None | Some(Scheme::Unix), Some(path)) => (Scheme::Unix, Some(path)),
        (Some(other), Some(_)) => {
            reader.fault(&socket_key, format!("the target's scheme {} has no Unix socket", other.name()));
            (other, None)
        }
        (Some(Scheme::Unix), None) => {
            // A path that was written and cannot be read has been told of.
            if inherited.is_none() && reader.written.get(&socket_key).is_none() {
                reader.fault(&scheme_key, format!("unix needs {}, too", spoken(&socket_key)));
            }
            (Scheme::Unix, inherited)
        }
        (Some(other), None) => (other, None),
        (None, None) => common.unwrap_or_else(|| (reader.get(scheme, place), None)),
    }
}

fn default_name(index: usize) -> String {
    format!("listener-{index}")
}

/// One `[[listeners]]`; `None` where its port, or the path of its Unix socket, is missing or cannot be read.
fn listed(reader: &mut SettingReader<'_>, common: &Common, index: usize) -> Option<KeyedListener> {
    let place = SettingPlace::Listener(index);
    let root = format!("listeners[{index}].");
    let at = |key: &str| format!("{root}{key}");
    let name = reader.own(&table::NAME, place).unwrap_or_else(|| default_name(index));
    let transport = reader.get(&table::TRANSPORT, place);
    let port = reader.own(&table::PORT, place);
    let is_unix = transport == Scheme::Unix;
    let (needed, missing) = match is_unix {
        true => ("unix.path", "is missing: a listener of transport unix needs a path"),
        false => ("port", "is missing: every listener needs a port"),
    };
    if reader.written.get(&at(needed)).is_none() {
        let origin = reader.written.tables("listeners")[index].within(needed);
        reader.faults.push(ConfigProblem::new(origin, missing));
    }
    let mut not_of_unix = ["host", "port", "proxy_from"].into_iter().map(at);
    if is_unix && let Some(key) = not_of_unix.find(|key| reader.written.explicit(key).is_some()) {
        reader.fault(&key, "transport unix has no host, port or networks");
    }
    if !is_unix && let Some(key) = reader.first_that_needs(Needs::Unix, &root) {
        reader.fault(&key, format!("transport {} has no Unix socket", transport.name()));
    }
    // A port that is missing is told of already, and 0 is in nobody's way.
    let mut listener = common.listener(reader, place, &name, transport, port.unwrap_or(0));
    listener.closed_by = format!("remove [[listeners]] {name} from the file");
    listener.unix = socket_file(reader, place).filter(|_| is_unix);
    replace(&mut listener.path, reader.own(&table::PATH, place));
    replace(&mut listener.host, reader.own(&table::HOST, place));
    if reader.own(&table::PROXY_FROM, place).is_some() && listener.proxy_from.is_none() {
        reader.fault(&at("proxy_from"), "needs proxy_protocol = \"on\", too");
    }
    if !transport.is_websocket()
        && let Some(key) = reader.first_that_needs(Needs::WebSocket, &root)
    {
        reader.fault(&key, format!("transport {} has no WebSocket", transport.name()));
    }
    listener.tls = tls::of_listener(reader, index, &common.tls, transport);
    own_target(reader, index, &mut listener.target);
    let has_place = if is_unix { listener.unix.is_some() } else { port.is_some() };
    has_place.then(|| KeyedListener { key: at(needed), listener })
}

fn own_target(reader: &mut SettingReader<'_>, index: usize, target: &mut Target) {
    let place = SettingPlace::Listener(index);
    let root = format!("listeners[{index}].");
    let common = Some((target.scheme, target.socket.take()));
    (target.scheme, target.socket) =
        target_scheme(reader, place, &table::OWN_TARGET_SCHEME, &table::OWN_TARGET_SOCKET, common);
    replace(&mut target.host, reader.own(&table::OWN_TARGET_HOST, place));
    replace(&mut target.port, reader.own(&table::OWN_TARGET_PORT, place));
    replace(&mut target.path, reader.own(&table::OWN_TARGET_PATH, place));
    target.server_name = reader.own(&table::TARGET_SERVER_NAME, place).or_else(|| target.server_name.take());
    target.tls = tls::of_target(reader, place, std::mem::take(&mut target.tls));
    if !target.scheme.is_websocket()
        && let Some(key) = reader.first_that_needs(Needs::TargetWebSocket, &root)
    {
        reader.fault(&key, format!("the target's scheme {} has no path", target.scheme.name()));
    }
    if !target.scheme.is_tls()
        && let Some(key) = reader.first_that_needs(Needs::TargetTls, &root)
    {
        reader.fault(&key, format!("the target's scheme {} has no TLS", target.scheme.name()));
    }
    let mut not_of_unix = ["host", "port"].into_iter().map(|key| format!("{root}target.{key}"));
    if target.scheme == Scheme::Unix
        && let Some(key) = not_of_unix.find(|key| reader.written.explicit(key).is_some())
    {
        reader.fault(&key, "the target's scheme unix has neither host nor port");
    }
}

fn replace<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}
