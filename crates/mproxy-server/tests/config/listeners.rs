//! Which doors open, with what certificates, for whom, and to where.

use std::path::{Path, PathBuf};

use mproxy_server::config::Scheme;
use mproxy_tcp::tls::{Verification, WithoutCertificate};

use crate::{Scene, guarded, says, scene};

// ---- which of mProxy's listeners open

const CERTIFICATE: [(&str, &str); 2] = [("MPROXY_SERVER_CERT", "s.pem"), ("MPROXY_SERVER_KEY", "k.pem")];

/// A server certificate is given.
fn certified() -> Scene {
    CERTIFICATE.into_iter().fold(guarded(), |scene, (name, value)| scene.env(name, value))
}

fn open(scene: Scene) -> Vec<String> {
    scene.works().config.listeners.into_iter().map(|listener| listener.name).collect()
}

#[test]
fn without_a_certificate_the_plain_listeners_open() {
    assert_eq!(open(scene()), ["mqtt", "ws"]);
    assert_eq!(open(scene().env("MPROXY_CLIENT_TLS", "false")), ["mqtt", "ws"]);
    let config = scene().works().config;
    let ws = &config.listeners[1];
    assert_eq!(
        (ws.transport, ws.host.as_str(), ws.port, ws.path.as_str()),
        (Scheme::Ws, "0.0.0.0", 8080, "/mqtt")
    );
    assert_eq!(ws.target.to_string(), "ws://localhost:8888/mqtt");
}

#[test]
fn each_of_them_can_be_closed_and_says_how() {
    assert_eq!(open(scene().env("MPROXY_WS_PORT", "off")), ["mqtt"]);
    assert_eq!(open(scene().env("MPROXY_MQTT_PORT", "OFF")), ["ws"]);
    assert_eq!(open(scene().file("ws.port = \"off\"\n")), ["mqtt"]);
    assert_eq!(open(certified().env("MPROXY_MQTTS_PORT", "off")), ["mqtt", "ws"]);
    assert_eq!(open(certified().env("MPROXY_WS_PORT", "off")), ["mqtt", "mqtts"], "and WSS not in its place");
    let asked = certified().env("MPROXY_WS_PORT", "off").env("MPROXY_WSS_PORT", "8080");
    assert_eq!(open(asked), ["mqtt", "mqtts", "wss"]);
    let closed_by = |scene: Scene| {
        scene.works().config.listeners.into_iter().map(|listener| listener.closed_by).collect::<Vec<_>>()
    };
    assert_eq!(closed_by(scene()), ["MPROXY_MQTT_PORT=off", "MPROXY_WS_PORT=off"]);
}

#[test]
fn with_a_certificate_the_encrypted_ones_open_too_and_ask_clients_for_none() {
    assert_eq!(open(certified()), ["mqtt", "mqtts", "ws"], "WSS has the port of WS by default");
    assert_eq!(open(certified().env("MPROXY_WSS_PORT", "8081")), ["mqtt", "mqtts", "ws", "wss"]);
    assert_eq!(open(certified().env("MPROXY_WS_PORT", "8081")), ["mqtt", "mqtts", "ws", "wss"]);
    let any = certified().env("MPROXY_WS_PORT", "0").env("MPROXY_WSS_PORT", "0");
    assert_eq!(open(any), ["mqtt", "mqtts", "ws", "wss"], "two free ports are two");
    let config = certified().env("MPROXY_WSS_PORT", "8081").works().config;
    let [_, mqtts, _, wss] = &config.listeners[..] else { panic!("{:?}", config.listeners) };
    assert_eq!((mqtts.host.as_str(), mqtts.port), ("0.0.0.0", 8883));
    assert_eq!(mqtts.target.to_string(), "mqtt://0.0.0.0:1884");
    assert_eq!(wss.target.to_string(), "ws://localhost:8888/mqtt");
    for listener in [mqtts, wss] {
        let tls = listener.tls.as_ref().unwrap();
        assert_eq!(
            (tls.identities[0].cert.as_path(), tls.identities[0].key.as_path()),
            (Path::new("s.pem"), Path::new("k.pem"))
        );
        assert_eq!((&tls.client_ca, tls.identities.len(), &tls.identities[0].ocsp), (&None, 1, &None));
    }
    assert_eq!(mqtts.tls.as_ref().unwrap().alpn, [&b"mqtt"[..], b"x-amzn-mqtt-ca"]);
    assert_eq!(wss.tls.as_ref().unwrap().alpn, [b"http/1.1"]);
}

#[test]
fn with_client_tls_only_the_encrypted_ones_open_and_ask_for_a_certificate() {
    let scene = || certified().env("MPROXY_CLIENT_TLS", "true").env("MPROXY_CA_CERTS", "ca.pem");
    assert_eq!(open(scene()), ["mqtts", "wss"]);
    assert_eq!(open(scene().env("MPROXY_WSS_PORT", "8081")), ["mqtts", "wss"]);
    for listener in scene().env("MPROXY_CRLS", "a.pem,b.pem").works().config.listeners {
        let tls = listener.tls.unwrap();
        assert_eq!(tls.client_ca, Some(PathBuf::from("ca.pem")));
        assert_eq!(tls.crls, [Path::new("a.pem"), Path::new("b.pem")]);
    }
}

#[test]
fn with_optional_client_tls_all_of_them_open_and_the_encrypted_ones_ask() {
    for word in ["optional", "Optional"] {
        let scene = || certified().env("MPROXY_CLIENT_TLS", word).env("MPROXY_CA_CERTS", "ca.pem");
        assert_eq!(open(scene()), ["mqtt", "mqtts", "ws"], "as without client certificates");
        assert_eq!(open(scene().env("MPROXY_WS_PORT", "off")), ["mqtt", "mqtts"]);
        let scene = scene().env("MPROXY_WSS_PORT", "8081").env("MPROXY_CRLS", "a.pem");
        let listeners = scene.works().config.listeners;
        for tls in listeners.iter().filter_map(|listener| listener.tls.as_ref()) {
            assert_eq!(tls.client_ca, Some(PathBuf::from("ca.pem")));
            assert_eq!((tls.without_certificate, tls.crls.len()), (WithoutCertificate::Admit, 1));
        }
        assert_eq!(listeners.iter().filter(|listener| listener.tls.is_some()).count(), 2);
    }
    let faults = scene().env("MPROXY_CLIENT_TLS", "optional").faults();
    assert_eq!(faults.len(), 3);
    says(&faults.join("\n"), &["optional needs MPROXY_SERVER_CERT", "MPROXY_SERVER_KEY", "MPROXY_CA_CERTS"]);
    says(
        &certified().env("MPROXY_CLIENT_TLS", "maybe").fault(),
        &["MPROXY_CLIENT_TLS", "\"maybe\" is not true, false or optional"],
    );
}

#[test]
fn each_listener_says_whether_it_takes_clients_without_a_certificate() {
    let file = r#"
        client_tls = "optional"
        tls = { server_cert = "s", server_key = "k", ca_certs = "ca.pem" }
        [[listeners]]
        port = 1
        transport = "mqtts"
        [[listeners]]
        port = 2
        transport = "mqtts"
        tls.client_tls = true
        [[listeners]]
        port = 3
        transport = "mqtts"
        tls.client_tls = false
        [[listeners]]
        port = 4
        transport = "mqtts"
        tls.ca_certs = "other.pem"
        [[listeners]]
        port = 5
        transport = "wss"
        tls = { ca_certs = "other.pem", client_tls = "optional", crls = ["c"] }
        [[listeners]]
        port = 6
    "#;
    let config = guarded().file(file).works().config;
    let asks = config.listeners.iter().map(|listener| {
        let tls = listener.tls.as_ref()?;
        tls.client_ca.is_some().then_some(tls.without_certificate)
    });
    let (admit, refuse) = (Some(WithoutCertificate::Admit), Some(WithoutCertificate::Refuse));
    // Who names a CA of its own, and no more, requires certificates, as ever.
    assert_eq!(asks.collect::<Vec<_>>(), [admit, refuse, None, refuse, admit, None]);
    let lacking = file.replace(", ca_certs = \"ca.pem\"", "");
    says(&guarded().file(&lacking).faults()[0], &["client_tls: optional needs tls.ca_certs, too"]);
}

#[test]
fn client_tls_needs_all_three_files() {
    let faults = scene().env("MPROXY_CLIENT_TLS", "true").faults();
    assert_eq!(faults.len(), 3);
    says(&faults.join("\n"), &["MPROXY_SERVER_CERT", "MPROXY_SERVER_KEY", "MPROXY_CA_CERTS"]);
    assert!(faults.iter().all(|fault| fault.contains("variable MPROXY_CLIENT_TLS: ")), "{faults:#?}");
    says(&certified().env("MPROXY_CLIENT_TLS", "true").fault(), &["needs MPROXY_CA_CERTS"]);
}

#[test]
fn a_listener_that_was_written_and_does_not_open_is_told_of() {
    for (scene, words) in [
        (guarded().env("MPROXY_MQTTS_PORT", "8883"), ["MPROXY_MQTTS_PORT", "no server certificate"]),
        (guarded().env("MPROXY_WSS_PORT", "8081"), ["MPROXY_WSS_PORT", "no server certificate"]),
        (certified().env("MPROXY_WSS_PORT", "8080"), ["MPROXY_WSS_PORT", "has the same port"]),
        (
            certified()
                .env("MPROXY_CLIENT_TLS", "true")
                .env("MPROXY_CA_CERTS", "ca.pem")
                .env("MPROXY_MQTT_PORT", "1883"),
            ["MPROXY_MQTT_PORT", "must connect over TLS"],
        ),
    ] {
        let warnings = scene.warnings();
        assert_eq!(warnings.len(), 1, "{warnings:#?}");
        says(&warnings[0], &words);
    }
}

// ---- TLS

#[test]
fn a_certificate_needs_its_key() {
    says(
        &scene().env("MPROXY_TARGET_KEY", "k.pem").fault(),
        &["MPROXY_TARGET_KEY", "needs MPROXY_TARGET_CERT"],
    );
    says(
        &scene().env("MPROXY_SERVER_CERT", "s.pem").fault(),
        &["MPROXY_SERVER_CERT", "needs MPROXY_SERVER_KEY"],
    );
    says(
        &scene().env("MPROXY_SERVER_OCSP", "s.ocsp").fault(),
        &["MPROXY_SERVER_OCSP", "needs MPROXY_SERVER_CERT"],
    );
}

/// Listeners with and without certificates of their own.
pub(crate) const NAMED: &str = r#"
[tls]
server_cert = "common.pem"
server_key = "common.key"
ocsp = "common.ocsp"
ca_certs = "ca.pem"
alpn = []

[[tls.certificates]]
server_cert = "a.pem"
server_key = "a.key"

[[tls.certificates]]
server_cert = "b.pem"
server_key = "b.key"
ocsp = "b.ocsp"

[[listeners]]
port = 1
transport = "mqtts"

[[listeners]]
port = 2
transport = "mqtts"

[listeners.tls]
client_tls = true
crls = ["x.crl", "y.crl"]
server_cert = "own.pem"
server_key = "own.key"
alpn = ["mqtt"]
certificates = [{ server_cert = "c.pem", server_key = "c.key" }]

[[listeners]]
port = 3
transport = "wss"
tls.ca_certs = "other.pem"

[[listeners]]
port = 4
transport = "mqtts"
tls.client_tls = false
tls.ca_certs = "other.pem"
"#;

#[test]
fn a_listener_has_the_common_certificates_or_its_own() {
    let config = guarded().file(NAMED).works().config;
    let shown = |index: usize| {
        let tls = config.listeners[index].tls.as_ref().unwrap();
        let shown = |path: &Path| path.display().to_string();
        let identities =
            tls.identities.iter().map(|identity| shown(&identity.cert)).collect::<Vec<_>>().join(" ");
        (identities, tls.client_ca.as_deref().map(shown), tls.crls.len(), tls.alpn.len())
    };
    let common = || "common.pem a.pem b.pem".to_owned();
    assert_eq!(
        shown(0),
        (common(), None, 0, 0),
        "a CA alone asks nobody for a certificate: client_tls is false"
    );
    assert_eq!(shown(1), ("own.pem c.pem".to_owned(), Some("ca.pem".to_owned()), 2, 1));
    assert_eq!(
        shown(2),
        (common(), Some("other.pem".to_owned()), 0, 1),
        "who names a CA for its own clients asks"
    );
    assert_eq!(shown(3), (common(), None, 0, 0));
    let [first, _, last] = &config.listeners[0].tls.as_ref().unwrap().identities[..] else { panic!() };
    assert_eq!((&first.ocsp, &last.ocsp), (&Some("common.ocsp".into()), &Some("b.ocsp".into())));
}

#[test]
fn what_is_wrong_with_a_list_of_certificates_is_told_with_its_place() {
    for (file, words) in [
        (
            "[[tls.certificates]]\nserver_cert = \"a\"\n",
            ["mproxy.toml:2 tls.certificates[0].server_cert: ", "needs tls.certificates[0].server_key"],
        ),
        (
            "[[tls.certificates]]\n",
            ["mproxy.toml:1 tls.certificates[0]: ", "needs server_cert and server_key"],
        ),
        ("[tls]\ncertificates = 3\n", ["mproxy.toml:2 tls.certificates: ", "write [[tls.certificates]]"]),
        (
            "[tls]\ncertificates = [\"a\"]\n",
            ["mproxy.toml:2 tls.certificates[0]: ", "write [[tls.certificates]]"],
        ),
        (
            "[[tls.certificates]]\nserver_cret = \"a\"\n",
            [
                "mproxy.toml:2 tls.certificates[0].server_cret: ",
                "nearest known one is tls.certificates[0].server_cert",
            ],
        ),
    ] {
        says(&scene().file(file).faults()[0], &words);
    }
    let file =
        "[[listeners]]\nport = 1\ntransport = \"mqtts\"\n[[listeners.tls.certificates]]\nocps = \"a\"\n";
    let faults = scene().file(file).faults().join("\n");
    says(
        &faults,
        &[
            "listeners[0].tls.certificates[0].ocps: unknown key; the nearest known one is listeners[0].tls.certificates[0].ocsp",
        ],
    );
}

#[test]
fn a_listener_of_the_file_has_what_its_transport_needs_and_nothing_else() {
    for (lines, words) in [
        ("transport = \"wss\"", ["listeners[0].transport: ", "wss needs a server certificate and key"]),
        ("tls = { ca_certs = \"a\" }", ["listeners[0].tls.ca_certs: ", "transport mqtt has no TLS"]),
        ("tls = { client_tls = true }", ["listeners[0].tls.client_tls: ", "transport mqtt has no TLS"]),
        ("ws = { origins = [] }", ["listeners[0].ws.origins: ", "transport mqtt has no WebSocket"]),
        (
            "target = { server_name = \"b\" }",
            ["listeners[0].target.server_name: ", "the target's scheme mqtt has no TLS"],
        ),
        ("path = \"/x\"", ["listeners[0].path: ", "transport mqtt has no WebSocket"]),
        (
            "target = { path = \"/x\" }",
            ["listeners[0].target.path: ", "the target's scheme mqtt has no path"],
        ),
        ("proxy_from = \"10.0.0.0/8\"", ["listeners[0].proxy_from: ", "needs proxy_protocol = \"on\""]),
    ] {
        says(&scene().file(&format!("[[listeners]]\nport = 1\n{lines}\n")).fault(), &words);
    }
    let tls = "[[listeners]]\nport = 1\ntls.server_cert = \"s\"\ntls.server_key = \"k\"\n";
    says(
        &scene().file("[[listeners]]\nport = 1\ntransport = \"mqtts\"\ntls.ca_certs = \"a\"\n").fault(),
        &["listeners[0].transport: mqtts needs a server certificate and key"],
    );
    for (lines, words) in [
        (
            "transport = \"mqtts\"\ntls.client_tls = true",
            ["listeners[0].tls.client_tls: ", "needs tls.ca_certs"],
        ),
        ("transport = \"mqtts\"\ntls.crls = \"c\"", ["listeners[0].tls.crls: ", "does not ask for them"]),
        ("transport = \"wss\"\ntls.alpn = \"mqtt\"", ["listeners[0].tls.alpn: ", "always http/1.1"]),
    ] {
        says(&scene().file(&format!("{tls}{lines}\n")).fault(), &words);
    }
}

#[test]
fn client_tls_holds_for_listeners_of_the_file_unless_they_say_otherwise() {
    let file = "client_tls = true\n[[listeners]]\nport = 1\ntransport = \"mqtts\"\ntls = { server_cert = \"s\", server_key = \"k\" }\n";
    says(&scene().file(file).fault(), &["mproxy.toml:1 client_tls: ", "needs tls.ca_certs"]);
    let config = guarded().file(file).env("MPROXY_CA_CERTS", "ca.pem").works().config;
    assert_eq!(config.listeners[0].tls.as_ref().unwrap().client_ca, Some(PathBuf::from("ca.pem")));
    let plain = guarded().file("client_tls = true\n[[listeners]]\nport = 1\n").warnings();
    says(&plain[0], &["listeners[0].port: ", "need no certificate at this listener", "MPROXY_CLIENT_TLS"]);
}

#[test]
fn tls_towards_the_broker_is_inherited_key_by_key() {
    let file = r#"
        [target]
        server_name = "broker.internal"
        crls = ["b.crl"]
        alpn = ["mqtt"]
        [[listeners]]
        port = 1
        target = { scheme = "wss" }
        [[listeners]]
        port = 2
        target = { scheme = "mqtts", server_name = "other", ca_certs = "own.pem", crls = [] }
    "#;
    let config = guarded()
        .file(file)
        .env("MPROXY_TARGET_CA_CERTS", "roots.pem")
        .env("MPROXY_TARGET_CERT", "c.pem")
        .env("MPROXY_TARGET_KEY", "k.pem")
        .works()
        .config;
    let [one, two] = [&config.listeners[0].target, &config.listeners[1].target];
    assert_eq!(
        (one.server_name.as_deref(), two.server_name.as_deref()),
        (Some("broker.internal"), Some("other"))
    );
    assert_eq!(
        (one.tls.roots.as_deref(), two.tls.roots.as_deref()),
        (Some(Path::new("roots.pem")), Some(Path::new("own.pem")))
    );
    assert_eq!((one.tls.crls.len(), two.tls.crls.len()), (1, 0));
    assert_eq!((one.tls.alpn.len(), &one.tls.identity), (1, &two.tls.identity));
    assert_eq!(one.tls.verification, Verification::Full);
    assert!(one.tls.identity.is_some());
}

#[test]
fn a_broker_goes_unverified_only_by_a_word_that_nobody_is_told() {
    let file = |word: &str| format!("[mqtt.target]\nscheme = \"mqtts\"\n[target]\nverify = \"{word}\"\n");
    for wrong in ["none", "off", "false", ""] {
        let fault = scene().file(&file(wrong)).fault();
        says(&fault, &["mproxy.toml:4 target.verify: ", "\"full\"", "docs/configuration.md"]);
        assert!(!fault.contains("anybody"), "{fault}");
    }
    let loaded = guarded().file(&file(Verification::NOBODY)).works();
    assert_eq!(loaded.config.listeners[0].target.tls.verification, Verification::Nobody);
    assert_eq!(loaded.warnings.len(), 1);
    says(
        &loaded.warnings[0].to_string(),
        &["mproxy.toml:4 target.verify: ", "is not verified", "listener mqtt"],
    );
    assert_eq!(guarded().file(&file("full")).warnings(), [""; 0]);
}

#[test]
fn what_serves_no_listener_is_warned_of() {
    for (name, value, why) in [
        ("MPROXY_TARGET_CA_CERTS", "ca.pem", "no broker is reached over TLS"),
        ("MPROXY_TARGET_SERVER_NAME", "b", "no broker is reached over TLS"),
        ("MPROXY_CA_CERTS", "ca.pem", "no listener asks clients for certificates"),
        ("MPROXY_CRLS", "c.pem", "no listener asks clients for certificates"),
        ("MPROXY_PROXY_FROM", "10.0.0.0/8", "no listener expects PROXY headers"),
        ("MPROXY_POLICY_CA_CERTS", "ca.pem", "no hook service is reached over https://"),
    ] {
        let warnings = guarded().env(name, value).warnings();
        assert_eq!(warnings.len(), 1, "{warnings:#?}");
        says(&warnings[0], &[name, "has no effect", why]);
    }
    let warnings = guarded().file("[[listeners]]\nport = 1\n").env("MPROXY_WS_COOKIES", "sid").warnings();
    says(&warnings[0], &["MPROXY_WS_COOKIES", "no WebSocket listener opens"]);
}

// ---- WebSocket and PROXY protocol

#[test]
fn any_transport_crosses_to_any_target() {
    for scheme in ["mqtt", "mqtts", "ws", "wss"] {
        let config = scene()
            .env("MPROXY_MQTT_TARGET_SCHEME", scheme)
            .env("MPROXY_WS_TARGET_SCHEME", scheme)
            .works()
            .config;
        assert!(config.listeners.iter().all(|listener| listener.target.scheme.name() == scheme));
    }
}

#[test]
fn who_may_come_by_websocket_and_what_is_told_is_said_for_all_or_for_one() {
    let file = r#"
        [[listeners]]
        port = 1
        transport = "ws"
        [[listeners]]
        port = 2
        transport = "ws"
        ws = { origins = [], headers = ["X-Tenant"], cookies = ["SID", "theme"] }
    "#;
    let env = || {
        scene()
            .env("MPROXY_WS_ORIGINS", "https://a.example, https://b.example:8443")
            .env("MPROXY_WS_HEADERS", "user-agent")
    };
    let config = env().works().config;
    assert_eq!(config.listeners[1].web.origins.as_ref().unwrap().len(), 2);
    let config = env().file(file).works().config;
    let [one, two] = [&config.listeners[0].web, &config.listeners[1].web];
    assert_eq!(
        (one.origins.as_ref().unwrap().len(), one.headers[0].as_str(), one.cookies.len()),
        (2, "user-agent", 0)
    );
    assert_eq!(
        (&two.origins, two.headers[0].as_str(), &two.cookies[..]),
        (&None, "x-tenant", &["SID".to_owned(), "theme".to_owned()][..])
    );
    says(&scene().env("MPROXY_WS_HEADERS", "cookie").fault(), &["MPROXY_WS_HEADERS", "ws.cookies"]);
}

#[test]
fn proxy_headers_are_believed_from_close_by_unless_networks_are_named() {
    let trusts = |scene: Scene, address: &str| {
        let networks = scene.works().config.listeners[0].proxy_from.clone()?;
        Some(networks.iter().any(|network| network.contains(address.parse().unwrap())))
    };
    let on = || scene().env("MPROXY_PROXY_PROTOCOL", "on");
    for close in
        ["127.0.0.1", "10.1.2.3", "172.31.0.1", "192.168.7.7", "::1", "fd00::1", "fe80::1", "::ffff:10.0.0.1"]
    {
        assert_eq!(trusts(on(), close), Some(true), "{close}");
    }
    for far in ["8.8.8.8", "172.32.0.1", "2001:db8::1", "100.64.0.1"] {
        assert_eq!(trusts(on(), far), Some(false), "{far}");
    }
    let named = || on().env("MPROXY_PROXY_FROM", "203.0.113.0/24, 2001:db8::/32");
    assert_eq!((trusts(named(), "203.0.113.9"), trusts(named(), "127.0.0.1")), (Some(true), Some(false)));
    assert_eq!(trusts(scene(), "127.0.0.1"), None, "nobody is expected to send one");
    let own = "proxy_protocol = \"on\"\nproxy_from = [\"10.0.0.0/8\"]\n[[listeners]]\nport = 1\nproxy_from = [\"192.0.2.1\"]\n";
    assert_eq!(trusts(scene().file(own), "192.0.2.1"), Some(true));
    assert_eq!(trusts(scene().file(own), "10.0.0.1"), Some(false));
    assert_eq!(
        trusts(
            scene().file(
                &format!("{own}proxy_protocol = \"off\"\n").replace("proxy_from = [\"192.0.2.1\"]\n", "")
            ),
            "::1"
        ),
        None
    );
    says(&on().env("MPROXY_PROXY_FROM", "example.org").fault(), &["MPROXY_PROXY_FROM", "10.0.0.0/8"]);
    says(&scene().file("proxy_from = []\n").fault(), &["proxy_from: ", "nobody could connect"]);
}

// ---- what could be written and never work

#[test]
fn a_broker_of_one_link_is_reached_by_its_interface() {
    let config = scene().env("MPROXY_MQTT_TARGET_HOST", "[fe80::1%eth0]").works().config;
    assert_eq!(config.listeners[0].target.to_string(), "mqtt://[fe80::1%eth0]:1884");
    let fault = scene().env("MPROXY_MQTT_TARGET_HOST", "fe80::1").fault();
    says(&fault, &["MPROXY_MQTT_TARGET_HOST", "needs its interface, for example fe80::1%eth0"]);
    let fault = scene().env("MPROXY_POLICY_URL", "http://[fe80::1%eth0]:1").fault();
    says(&fault, &["MPROXY_POLICY_URL", "is not a policy URL"]);
}

#[test]
fn a_path_or_an_origin_that_could_match_nothing_is_mended_or_a_fault() {
    let fault = scene().env("MPROXY_WS_PATH", "/mqtt?x=1").fault();
    says(&fault, &["MPROXY_WS_PATH", "can never match", "write \"/mqtt\" instead"]);
    says(&scene().env("MPROXY_WSS_PATH", "/mqtt?").fault(), &["MPROXY_WSS_PATH", "can never match"]);
    let file = "[[listeners]]\nport = 1\ntransport = \"ws\"\npath = \"/a?b\"\n";
    says(&scene().file(file).fault(), &["listeners[0].path", "write \"/a\" instead"]);
    // What is asked of a broker may have a query.
    let config = scene().env("MPROXY_WS_TARGET_PATH", "/mqtt?x=1").works().config;
    assert!(config.listeners.iter().any(|listener| listener.target.path == "/mqtt?x=1"));
    let config = scene().env("MPROXY_WS_ORIGINS", "https://A.example:443").works().config;
    assert_eq!(config.listeners[1].web.origins, Some(vec!["https://a.example".to_owned()]));
    says(
        &scene().env("MPROXY_WS_ORIGINS", "wss://a.example").fault(),
        &["MPROXY_WS_ORIGINS", "https://a.example"],
    );
}

#[test]
fn a_broker_over_tls_has_a_name_that_a_certificate_could_be_for() {
    let long = "x".repeat(64);
    let over_tls = || scene().env("MPROXY_MQTT_TARGET_SCHEME", "mqtts").env("MPROXY_MQTT_TARGET_HOST", &long);
    says(&over_tls().fault(), &["MPROXY_MQTT_TARGET_HOST", "set target.server_name"]);
    over_tls().env("MPROXY_TARGET_SERVER_NAME", "broker.example").works();
    let over_tls = scene().env("MPROXY_MQTT_TARGET_SCHEME", "mqtts");
    over_tls.env("MPROXY_MQTT_TARGET_HOST", "fe80::1%eth0").works();
}

#[test]
fn a_policy_url_that_passes_here_can_be_connected_to() {
    says(
        &scene().env("MPROXY_POLICY_URL", "http://hooks").fault(),
        &["MPROXY_POLICY_URL", "is not a policy URL"],
    );
}
