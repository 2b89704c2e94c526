//! Unix sockets: at a listener, and as the way to a broker.

use mproxy_server::config::{Scheme, check};

use super::{guarded, says, scene};

#[test]
fn one_variable_opens_a_socket_and_one_leads_to_one() {
    let loaded = guarded()
        .env("MPROXY_UNIX_PATH", "/run/mproxy/mqtt.sock")
        .env("MPROXY_UNIX_GROUP", "mqtt")
        .env("MPROXY_MQTT_TARGET_SOCKET", "/run/mosquitto/mqtt.sock")
        .works();
    let listener = loaded.config.listeners.iter().find(|listener| listener.name == "unix").unwrap();
    let file = listener.unix.as_ref().unwrap();
    assert_eq!((file.path.to_str(), file.mode), (Some("/run/mproxy/mqtt.sock"), 0o660));
    assert_eq!((file.owner.as_deref(), file.group.as_deref()), (None, Some("mqtt")));
    assert_eq!((listener.transport, listener.target.scheme), (Scheme::Unix, Scheme::Unix));
    assert_eq!(listener.target.to_string(), "unix:/run/mosquitto/mqtt.sock");
    says(
        &check::describe(listener),
        &["unix at unix:/run/mproxy/mqtt.sock (mode 0660) for unix:/run/mosquitto/mqtt.sock"],
    );
    let mqtt = loaded.config.listeners.iter().find(|listener| listener.name == "mqtt").unwrap();
    assert_eq!((mqtt.transport, mqtt.target.scheme), (Scheme::Mqtt, Scheme::Unix), "it leads there, too");
    let ws = loaded.config.listeners.iter().find(|listener| listener.name == "ws").unwrap();
    assert_eq!(ws.target.scheme, Scheme::Ws);
}

#[test]
fn without_a_path_no_socket_is_opened() {
    let loaded = guarded().env("MPROXY_UNIX_MODE", "0666").works();
    assert!(loaded.config.listeners.iter().all(|listener| listener.unix.is_none()));
    says(&guarded().env("MPROXY_UNIX_MODE", "0666").warnings()[0], &["MPROXY_UNIX_MODE", "no listener"]);
}

#[test]
fn a_listener_of_the_file_has_a_socket_of_its_own() {
    let loaded = guarded()
        .file(
            "unix.mode = \"0600\"\n\
             [[listeners]]\nname = \"a\"\ntransport = \"unix\"\n\
             unix = { path = \"/run/a.sock\", mode = \"0666\", owner = \"1000\" }\n\
             target = { scheme = \"mqtt\", host = \"localhost\", port = 1 }\n\
             [[listeners]]\nname = \"b\"\ntransport = \"unix\"\nunix.path = \"/run/b.sock\"\n\
             target.socket = \"/run/broker.sock\"\n\
             [[listeners]]\nname = \"c\"\nport = 1\ntarget = { scheme = \"unix\", socket = \"/run/broker.sock\" }\n",
        )
        .works();
    let [a, b, c] = &loaded.config.listeners[..] else { panic!("{:?}", loaded.config.listeners) };
    let of = |listener: &mproxy_server::config::ListenerSettings| listener.unix.clone().unwrap();
    assert_eq!((of(a).mode, of(a).owner.as_deref(), of(b).mode), (0o666, Some("1000"), 0o600));
    assert_eq!([a, b, c].map(|one| one.target.scheme), [Scheme::Mqtt, Scheme::Unix, Scheme::Unix]);
}

#[test]
fn what_a_socket_has_not_or_lacks_is_a_fault() {
    let listener = |more: &str| guarded().file(&format!("[[listeners]]\n{more}\n"));
    for (file, parts) in [
        ("transport = \"unix\"", ["listeners[0].unix.path", "is missing"]),
        (
            "transport = \"unix\"\nunix.path = \"/a\"\nport = 1",
            ["listeners[0].port", "unix has no host, port"],
        ),
        ("port = 1\nunix.path = \"/a\"", ["listeners[0].unix.path", "mqtt has no Unix socket"]),
        ("port = 1\ntarget.scheme = \"unix\"", ["listeners[0].target.scheme", "target.socket, too"]),
        (
            "port = 1\ntarget = { scheme = \"mqtts\", socket = \"/a\" }",
            ["listeners[0].target.socket", "mqtts has no Unix socket"],
        ),
        (
            "port = 1\ntarget = { host = \"a\", socket = \"/a\" }",
            ["listeners[0].target.host", "unix has neither host nor port"],
        ),
        (
            "transport = \"unix\"\nunix.path = \"/a\"\n[[listeners]]\ntransport = \"unix\"\nunix.path = \"/a\"",
            ["listeners[1].unix.path", "cannot both listen at /a"],
        ),
    ] {
        says(&listener(file).fault(), &parts);
    }
    for (name, value, part) in [
        ("MPROXY_UNIX_PATH", "mqtt.sock", "expected an absolute path"),
        ("MPROXY_UNIX_PATH", "unix:/mqtt.sock", "expected an absolute path"),
        ("MPROXY_MQTT_TARGET_SOCKET", &*format!("/{}", "x".repeat(107)), "at most 107 bytes"),
        ("MPROXY_UNIX_MODE", "660", "\"0660\""),
        ("MPROXY_UNIX_MODE", "0999", "\"0660\""),
        ("MPROXY_UNIX_OWNER", "a:b", "expected a name or a number"),
    ] {
        says(&guarded().env(name, value).fault(), &[name, part]);
    }
    let scheme_alone = guarded().env("MPROXY_MQTT_TARGET_SCHEME", "unix").fault();
    says(&scheme_alone, &["MPROXY_MQTT_TARGET_SCHEME", "MPROXY_MQTT_TARGET_SOCKET"]);
    let clash = scene().env("MPROXY_MQTT_TARGET_SCHEME", "ws").env("MPROXY_MQTT_TARGET_SOCKET", "/a");
    says(&clash.fault(), &["MPROXY_MQTT_TARGET_SOCKET", "scheme ws has no Unix socket"]);
}

#[test]
fn a_mode_that_the_file_has_as_a_number_is_none() {
    // 0o660 is 432, which as an octal number would be another mode.
    let file = "unix.path = \"/a\"\nunix.mode = 0o660\n";
    says(&guarded().file(file).fault(), &["unix.mode", "in quotes"]);
}

#[test]
fn what_the_socket_takes_the_place_of_is_warned_of() {
    let scene = guarded().env("MPROXY_MQTT_TARGET_HOST", "broker").env("MPROXY_MQTT_TARGET_SOCKET", "/a");
    says(&scene.warnings()[0], &["MPROXY_MQTT_TARGET_HOST", "reached by its Unix socket"]);
    let own = guarded().env("MPROXY_UNIX_PATH", "/a").env("MPROXY_MQTT_TARGET_SOCKET", "/a");
    says(&own.warnings()[0], &["listener unix forwards to itself"]);
}

#[test]
fn where_clients_have_to_show_a_certificate_no_socket_opens_by_a_variable() {
    let scene = guarded()
        .env("MPROXY_UNIX_PATH", "/a")
        .env("MPROXY_CLIENT_TLS", "true")
        .env("MPROXY_CA_CERTS", "ca")
        .env("MPROXY_SERVER_CERT", "cert")
        .env("MPROXY_SERVER_KEY", "key");
    let loaded = scene.works();
    assert!(loaded.config.listeners.iter().all(|listener| listener.transport.is_tls()));
    let warned =
        loaded.warnings.iter().any(|warning| warning.to_string().contains("listener unix does not open"));
    assert!(warned, "{:?}", loaded.warnings);
}
