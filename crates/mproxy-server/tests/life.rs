//! From the first line to the exit code: what operators see of a running mproxy, what they can do to it, and how it
//! ends.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::time::Duration;

use mproxy_testkit::broker::{Acks, BrokerScript, RecordingBroker};
use mproxy_testkit::hook::{HookService, MproxyProcess};
use mproxy_testkit::mosquitto::{Mosquitto, publish, subscribe, subscriber};
use mproxy_testkit::wire::{self, ConnectOptions, Publish, Version, WireClient};
use serde_json::Value;
use support::{Proxy, VERSIONS, until};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

const IN_USE: &str = "Address already in use";

fn message(topic: &str, qos: u8, packet_id: u16) -> Publish<'_> {
    Publish { topic, payload: b"payload", qos, packet_id, ..Publish::default() }
}

async fn silent_broker() -> RecordingBroker {
    RecordingBroker::start(BrokerScript { acks: Acks::ByHand, ..BrokerScript::default() }).await
}

fn json(body: &str) -> Value {
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error} in {body}"))
}

/// The session of this client, as it is shown once it is open: a moment after the client knows.
async fn session_of(proxy: &Proxy, client_id: &str) -> Value {
    let mut shown = Value::Null;
    until("an open session", async || {
        let (_, page) = proxy.http("GET", &format!("/api/v1/sessions?client_id={client_id}")).await;
        shown = json(&page)["sessions"][0].clone();
        shown["phase"] == "open"
    })
    .await;
    shown
}

/// A file of rules that knows one user.
fn one_user(folder: &tempfile::TempDir) -> std::path::PathBuf {
    let file = folder.path().join("rules.toml");
    let hash = mproxy_policy::acl::hash_password("wonderland").unwrap();
    let text = format!(
        "client_ids = [\"${{username}}-*\"]\n[[users]]\nname = \"ann\"\npassword = \"{hash}\"\n\
         [[rules]]\neffect = \"allow\"\ntopics = [\"a/#\"]\n"
    );
    std::fs::write(&file, text).unwrap();
    file
}

// ---- seen from outside

#[tokio::test]
async fn the_admin_api_shows_who_is_there() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let mut proxy = Proxy::before(broker.addr()).await;
    assert_eq!(proxy.http("GET", "/healthz").await, (200, "ok\n".to_owned()));
    let (status, ready) = proxy.http("GET", "/readyz").await;
    assert_eq!((status, &json(&ready)["ready"]), (200, &Value::Bool(true)), "{ready}");
    assert_eq!(proxy.sessions().await, [Value::Null; 0]);

    let ann = ConnectOptions { username: Some("ann"), ..ConnectOptions::default() };
    let (mut new, _) = proxy.connect(Version::V5, "new", &ann).await;
    let mut old = proxy.login(Version::V31, "old").await;
    let stranger = WireClient::open(proxy.mqtt).await;
    new.send(&wire::publish(Version::V5, &message("a", 1, 1))).await;
    new.expect(&wire::puback(1)).await;
    until("the stranger", async || proxy.sessions().await.len() == 3).await;

    let shown = session_of(&proxy, "new").await;
    assert_eq!(shown["peer_addr"], new.local_addr().to_string());
    let facts = [("username", "ann"), ("protocol", "5.0"), ("listener", "mqtt"), ("transport", "tcp")];
    for (key, value) in facts {
        assert_eq!(shown[key], value, "{shown}");
    }
    let one = format!("/api/v1/sessions/{}", shown["connection_id"].as_str().unwrap());
    until("the packets of both sides", async || {
        let (status, shown) = proxy.http("GET", &one).await;
        let shown = json(&shown);
        assert_eq!((status, &shown["client_id"]), (200, &Value::from("new")));
        let traffic = &shown["traffic"];
        (&traffic["client_packets"], &traffic["broker_packets"]) == (&2.into(), &2.into())
    })
    .await;
    session_of(&proxy, "old").await;
    let all = proxy.sessions().await;
    let stranger_s = all.iter().find(|one| one["peer_addr"] == stranger.local_addr().to_string()).unwrap();
    assert_eq!((&stranger_s["phase"], &stranger_s["client_id"]), (&"connecting".into(), &Value::Null));
    let (_, others) = proxy.http("GET", "/api/v1/sessions?client_id=new&username=bob").await;
    assert_eq!(json(&others)["sessions"], Value::Array(vec![]));

    // What left is not shown any more.
    old.send(&wire::disconnect()).await;
    proxy.line_of(old).await;
    proxy.line_of(stranger).await;
    assert_eq!(proxy.sessions().await.len(), 1);
    let (status, _) = proxy.http("GET", "/api/v1/sessions/00000000-0000-0000-0000-000000000000").await;
    assert_eq!(status, 404);
    drop(new);
    proxy.stop().await;
}

#[tokio::test]
async fn a_kicked_client_is_told_why() {
    let mut broker = RecordingBroker::start(BrokerScript::default()).await;
    let mut proxy = Proxy::before(broker.addr()).await;
    let mut witness = proxy.login(Version::V311, "witness").await;
    broker.session().await;
    for (version, query, reason) in
        [(Version::V5, "", 0x98), (Version::V5, "?reason=0x89", 0x89), (Version::V311, "", 0x98)]
    {
        let mut client = proxy.login(version, "kicked").await;
        let mut behind = broker.session().await;
        let shown = session_of(&proxy, "kicked").await;
        let path = format!("/api/v1/sessions/{}{query}", shown["connection_id"].as_str().unwrap());
        assert_eq!(proxy.http("DELETE", &path).await.0, 204);
        if version == Version::V5 {
            let goodbye = client.packet().await;
            assert_eq!((goodbye[0], goodbye[2]), (0xe0, reason), "{goodbye:02x?}");
        }
        client.expect_closed().await;
        behind.end().await;
        let line = proxy.line_of(client).await;
        assert!(line.contains(&format!("disconnected by an administrator ({reason:#04x})")), "{line}");
        assert_eq!(proxy.http("DELETE", &path).await.0, 404);
        witness.expect_nothing_but_pingresp().await;
    }
    drop(witness);
    proxy.stop().await;
}

#[tokio::test]
async fn a_kick_ends_a_client_that_does_not_read() {
    let mut broker = silent_broker().await;
    let mut proxy = Proxy::before(broker.addr()).await;
    let client = proxy.login(Version::V5, "deaf").await;
    let behind = broker.session().await;
    let large = wire::publish(Version::V5, &Publish { payload: &[1; 1 << 20], ..message("a", 0, 0) });
    for _ in 0..30 {
        behind.send(large.clone()).await;
    }
    let shown = session_of(&proxy, "deaf").await;
    let path = format!("/api/v1/sessions/{}", shown["connection_id"].as_str().unwrap());
    assert_eq!(proxy.http("DELETE", &path).await.0, 204);
    proxy.end_of(client.local_addr()).await;
    assert_eq!(proxy.sessions().await.len(), 0);
    drop((client, behind));
    proxy.stop().await;
}

#[tokio::test]
async fn everything_is_counted() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let mut proxy = Proxy::before(broker.addr()).await;
    for version in VERSIONS {
        let mut client = proxy.login(version, "counted").await;
        for id in 1..=3 {
            client.send(&wire::publish(version, &message("a", 1, id))).await;
            client.expect(&wire::puback(id)).await;
        }
        client.send(&wire::subscribe(version, 4, &[("b", 0)])).await;
        client.packet().await;
        client.expect_nothing_but_pingresp().await;
        client.send(&wire::disconnect()).await;
        proxy.line_of(client).await;
    }
    let vanished = proxy.login(Version::V311, "vanished").await;
    proxy.line_of(vanished).await;
    let expected = [
        ("mproxy_packets_total{from=\"client\",type=\"CONNECT\"}", 3.0),
        ("mproxy_packets_total{from=\"client\",type=\"PUBLISH\"}", 6.0),
        ("mproxy_packets_total{from=\"broker\",type=\"PUBACK\"}", 6.0),
        ("mproxy_packet_bytes_total{from=\"broker\",type=\"PUBACK\"}", 24.0),
        ("mproxy_packets_total{from=\"client\",type=\"SUBSCRIBE\"}", 2.0),
        ("mproxy_packets_total{from=\"broker\",type=\"PINGRESP\"}", 2.0),
        ("mproxy_packets_total{from=\"client\",type=\"DISCONNECT\"}", 2.0),
        ("mproxy_connections_total{listener=\"mqtt\",outcome=\"accepted\"}", 3.0),
        ("mproxy_connections_closed_total{listener=\"mqtt\",cause=\"left\",by=\"client\"}", 2.0),
        ("mproxy_connections_closed_total{listener=\"mqtt\",cause=\"lost\",by=\"client\"}", 1.0),
        ("mproxy_connections_open{listener=\"mqtt\"}", 0.0),
    ];
    for (series, value) in expected {
        assert_eq!(proxy.metric(series).await, value, "{series}");
    }
    proxy.stop().await;
}

#[tokio::test]
async fn sighup_sets_the_log_level_that_the_file_now_has() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mproxy.toml");
    std::fs::write(&file, "[log]\nlevel = \"info\"\n").unwrap();
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let mut proxy = Proxy::with(broker.addr(), &[("MPROXY_CONFIG", file.to_str().unwrap())]).await;
    drop(proxy.login(Version::V5, "unseen").await);
    std::fs::write(&file, "[log]\nlevel = \"debug\"\n").unwrap();
    proxy.signal("HUP").await;
    until("the new level", async || proxy.http("GET", "/api/v1/log-level").await.1.contains("debug")).await;
    drop(proxy.login(Version::V5, "seen").await);
    proxy.line(&["DEBUG", "connection closed", "seen"]).await;
    let lines = proxy.process().lines();
    assert!(!lines.iter().any(|line| line.contains("DEBUG connection accepted") && line.contains("unseen")));

    // A file that is wrong now changes nothing.
    std::fs::write(&file, "[log]\nlevel = \"loud\"\n").unwrap();
    proxy.signal("HUP").await;
    proxy.line(&["ERROR", "configuration reload failed, nothing was changed", "faults=1"]).await;
    proxy.line(&["mproxy.toml:2", "loud"]).await;
    proxy.login(Version::V5, "still").await.expect_nothing_but_pingresp().await;
    proxy.stop().await;
}

#[tokio::test]
async fn no_signal_comes_too_early() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let (host, port) = (broker.addr().ip().to_string(), broker.addr().port().to_string());
    for _ in 0..10 {
        let env = [
            ("MPROXY_MQTT_HOST", "127.0.0.1"),
            ("MPROXY_MQTT_PORT", "0"),
            ("MPROXY_MQTT_TARGET_HOST", &host),
            ("MPROXY_MQTT_TARGET_PORT", &port),
            ("MPROXY_WS_PORT", "0"),
            ("MPROXY_ADMIN_PORT", "0"),
        ];
        // Back as soon as the first door is told of.
        let mut mproxy = MproxyProcess::start(&env, &[]).await;
        mproxy.process().signal("HUP").await;
        mproxy.process().signal("TERM").await;
        let ended = mproxy.end().await;
        assert_eq!(ended.code(), Some(0), "{:#?}", ended.lines);
    }
}

// ---- the end

/// Whether mproxy says that it would take more clients.
async fn is_ready(proxy: &Proxy) -> bool {
    let (status, body) = proxy.http("GET", "/readyz").await;
    let draining = json(&body)["draining"] == Value::Bool(true);
    assert_eq!(status, if draining { 503 } else { 200 }, "{body}");
    !draining
}

#[tokio::test]
async fn a_drain_lets_what_is_under_way_come_to_its_end() {
    for by_signal in [true, false] {
        let (mut broker, mut hook) = (silent_broker().await, HookService::start().await);
        let mut proxy = Proxy::with(broker.addr(), &[("MPROXY_POLICY_URL", &hook.url())]).await;
        let mut idle = [proxy.login(Version::V311, "idle-3").await, proxy.login(Version::V5, "idle-5").await];
        for _ in &idle {
            broker.session().await;
        }
        let mut stranger = WireClient::open(proxy.mqtt).await;
        let mut busy = Vec::new();
        for version in VERSIONS {
            let mut client = proxy.login(version, "busy").await;
            let mut behind = broker.session().await;
            client.send(&wire::publish(version, &message("a", 1, 1))).await;
            client.send(&wire::publish(version, &message("a", 2, 2))).await;
            behind.packets(3).await;
            behind.send(wire::pubrec(2)).await;
            client.expect(&wire::pubrec(2)).await;
            busy.push((version, client, behind));
        }
        assert!(is_ready(&proxy).await);
        if by_signal {
            proxy.signal("TERM").await;
        } else {
            assert_eq!(proxy.http("POST", "/api/v1/drain").await.0, 202);
        }
        proxy.line(&["draining"]).await;
        assert!(!is_ready(&proxy).await);

        // Who has nothing under way goes at once.
        let [old, new] = &mut idle;
        old.expect_closed().await;
        let goodbye = new.packet().await;
        assert_eq!((goodbye[0], goodbye[2]), (0xe0, 0x8b), "{goodbye:02x?}");
        new.expect_closed().await;
        stranger.expect_closed().await;
        drop((idle, stranger));
        // Nobody comes in any more.
        until("the end of the listener", async || TcpStream::connect(proxy.mqtt).await.is_err()).await;

        for (version, mut client, mut behind) in busy {
            behind.send(wire::puback(1)).await;
            client.expect(&wire::puback(1)).await;
            client.send(&wire::pubrel(2)).await;
            assert_eq!(behind.packets(4).await[3], wire::pubrel(2));
            behind.send(wire::pubcomp(2)).await;
            client.expect(&wire::pubcomp(2)).await;
            if version == Version::V5 {
                let goodbye = client.packet().await;
                assert_eq!((goodbye[0], goodbye[2]), (0xe0, 0x8b), "{goodbye:02x?}");
            }
            client.expect_closed().await;
        }
        let ended = proxy.end().await;
        assert_eq!(ended.code(), Some(0), "{:#?}", ended.lines);
        assert!(
            ended.has_line("drained") && !ended.has_line("closing remaining connections"),
            "{:#?}",
            ended.lines
        );
        // The last words reach the service before the process ends.
        for who in ["idle-3", "idle-5", "busy"] {
            hook.process().line(&format!(" {who} disconnected: mproxy is shutting down")).await.unwrap();
        }
    }
}

#[tokio::test]
async fn many_are_drained_and_none_is_forgotten() {
    const CLIENTS: usize = 200;
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let mut proxy = Proxy::before(broker.addr()).await;
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        clients.push(proxy.login(Version::V5, &format!("c{number}")).await);
    }
    proxy.signal("TERM").await;
    for client in &mut clients {
        let goodbye = client.packet().await;
        assert_eq!((goodbye[0], goodbye[2]), (0xe0, 0x8b), "{goodbye:02x?}");
        client.expect_closed().await;
    }
    drop(clients);
    let ended = proxy.end().await;
    assert_eq!(ended.code(), Some(0));
    let told = ended.lines.iter().filter(|line| line.contains("detail=\"mproxy is shutting down\""));
    assert_eq!(told.count(), CLIENTS);
}

#[tokio::test]
async fn clients_are_told_over_the_spread_and_who_leaves_is_not_waited_for() {
    const SPREAD: Duration = Duration::from_secs(3);
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let variables = [("MPROXY_DRAIN_SPREAD", "3s"), ("MPROXY_DRAIN_SERVER_REFERENCE", "b:1")];
    let mut proxy = Proxy::with(broker.addr(), &variables).await;
    let mut clients = Vec::new();
    for number in 0..6 {
        clients.push(proxy.login(Version::V5, &format!("c{number}")).await);
    }
    let mut told = tokio::task::JoinSet::new();
    for mut client in clients {
        told.spawn(async move {
            let goodbye = client.packet().await;
            let since = Instant::now();
            assert_eq!((goodbye[0], goodbye[2]), (0xe0, 0x9c), "{goodbye:02x?}");
            assert!(goodbye.ends_with(b"b:1"), "{goodbye:02x?}");
            client.expect_closed().await;
            since
        });
    }
    let began = Instant::now();
    proxy.signal("TERM").await;
    let mut told = told.join_all().await;
    told.sort_unstable();
    let between = told[5] - told[0];
    // Half a second from one to the next; the last one is gone half a second before the spread is over.
    assert!(between >= SPREAD / 2, "{between:?}");
    assert_eq!(proxy.end().await.code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_drain_waits_only_so_long_and_tells_of_those_it_cuts() {
    const PATIENT: Duration = Duration::from_millis(700);
    let (mut broker, mut hook) = (silent_broker().await, HookService::start().await);
    let variables = [("MPROXY_DRAIN_TIMEOUT", "700ms"), ("MPROXY_POLICY_URL", &hook.url())];
    let mut proxy = Proxy::with(broker.addr(), &variables).await;
    let mut waiting = Vec::new();
    for version in VERSIONS {
        // One that waits for an acknowledgement, and one that is in the middle of a message.
        let mut acknowledged = proxy.login(version, "never").await;
        acknowledged.send(&wire::publish(version, &message("a", 1, 1))).await;
        broker.session().await.packets(2).await;
        let mut halfway = proxy.login(version, "never").await;
        let large = Publish { payload: &[1; 100_000], ..message("a", 0, 0) };
        halfway.send(&wire::publish(version, &large)[..50_000]).await;
        broker.session().await.packets(1).await;
        waiting.extend([(version, acknowledged), (version, halfway)]);
    }
    let began = Instant::now();
    proxy.signal("TERM").await;
    for (version, client) in &mut waiting {
        if *version == Version::V5 {
            let goodbye = client.packet().await;
            assert_eq!((goodbye[0], goodbye[2]), (0xe0, 0x8b), "{goodbye:02x?}");
        }
        client.expect_closed().await;
    }
    let took = began.elapsed();
    assert!(took >= PATIENT, "{took:?}");
    let ended = proxy.end().await;
    assert_eq!(ended.code(), Some(0), "{:#?}", ended.lines);
    assert!(ended.has_line("drain timeout, closing remaining connections"), "{:#?}", ended.lines);
    // Each that was told to have come is told to have gone.
    let told = |lines: &[String], what: &str| lines.iter().filter(|line| line.contains(what)).count();
    assert_eq!(told(&ended.lines, "detail=\"mproxy is shutting down\""), waiting.len(), "{:#?}", ended.lines);
    until("all that was told", async || {
        let lines = hook.process().lines();
        told(&lines, " never disconnected: mproxy is shutting down") == waiting.len()
    })
    .await;
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    for second in ["TERM", "INT"] {
        let mut broker = silent_broker().await;
        let mut proxy = Proxy::before(broker.addr()).await;
        let mut client = proxy.login(Version::V5, "never").await;
        client.send(&wire::publish(Version::V5, &message("a", 1, 1))).await;
        broker.session().await.packets(2).await;
        proxy.signal("TERM").await;
        proxy.line(&["draining"]).await;
        let began = Instant::now();
        proxy.signal(second).await;
        client.expect_closed().await;
        let ended = proxy.end().await;
        assert!(began.elapsed() < Duration::from_secs(10), "the drain's 30 s were waited for");
        assert!(ended.has_line("second signal, exiting at once"), "{:#?}", ended.lines);
    }
}

#[tokio::test]
async fn the_first_signal_after_a_drain_by_the_api_cuts_nobody() {
    let mut broker = silent_broker().await;
    let mut proxy = Proxy::before(broker.addr()).await;
    let mut client = proxy.login(Version::V5, "never").await;
    client.send(&wire::publish(Version::V5, &message("a", 1, 1))).await;
    let mut session = broker.session().await;
    session.packets(2).await;
    assert_eq!(proxy.http("POST", "/api/v1/drain").await.0, 202);
    proxy.line(&["draining"]).await;
    proxy.signal("TERM").await;
    proxy.line(&["signal received, draining already"]).await;
    // What was in flight still comes to its end.
    session.send(wire::puback(1)).await;
    assert_eq!(client.packet().await, wire::puback(1));
    proxy.end().await;
}

// ---- the beginning

#[tokio::test]
async fn a_wrong_configuration_opens_no_port() {
    let folder = tempfile::tempdir().unwrap();
    let written = |name: &str, text: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let config = written("mproxy.toml", "[mqtt]\nport = 0\nhots = \"here\"\n");
    let rules = written("rules.toml", "[[rules]]\neffect = \"perhaps\"\ntopics = [\"a/#/b\"]\n");
    let link = "tcp://10.0.0.1:1883";
    let (server, key) = (written("server.pem", "no certificate"), folder.path().join("gone.key"));
    let tls = vec![("MPROXY_SERVER_CERT", server.as_str()), ("MPROXY_SERVER_KEY", key.to_str().unwrap())];
    let two = vec![("MPROXY_MQTT_PORT", "many"), ("MPROXY_POLICY_TIMEOUT", "soon")];
    // Opening it would wait for who writes into it.
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let pipe = pipe.to_str().unwrap();
    let piped = vec![("MPROXY_SERVER_CERT", pipe), ("MPROXY_SERVER_KEY", pipe), ("MPROXY_ACL_FILE", pipe)];
    let irregular = "pipe cannot be read: it is no regular file";
    let huge = written("huge", "");
    std::fs::File::options().write(true).open(&huge).unwrap().set_len(3 << 30).unwrap();
    let hugely = vec![("MPROXY_SERVER_CERT", huge.as_str()), ("MPROXY_SERVER_KEY", huge.as_str())];
    let cases = [
        (two, vec!["2 configuration errors", "MPROXY_MQTT_PORT", "many", "MPROXY_POLICY_TIMEOUT", "soon"]),
        (vec![("MPROXY_CONFIG", config.as_str())], vec!["mproxy.toml:3", "hots"]),
        (vec![("MPROXY_ACL_FILE", &rules)], vec!["rules.toml:2", "perhaps", "rules.toml:3", "a/#/b"]),
        (
            tls,
            vec![
                "MPROXY_SERVER_CERT: ",
                "server.pem contains no",
                "MPROXY_SERVER_KEY: ",
                "gone.key cannot be read",
            ],
        ),
        (vec![("MPROXY_CONFIG", pipe)], vec!["MPROXY_CONFIG", "no regular file"]),
        (hugely, vec!["huge cannot be read: it has more than 64 MiB"]),
        (piped, vec!["MPROXY_SERVER_CERT: ", "MPROXY_SERVER_KEY: ", "MPROXY_ACL_FILE: ", irregular]),
        (vec![("MPROXY_MQTT_PORT", link)], vec!["a service address", "enableServiceLinks: false"]),
    ];
    for (mut env, words) in cases {
        env.extend([("MPROXY_MQTT_HOST", "127.0.0.1"), ("MPROXY_ADMIN_PORT", "0")]);
        for args in [&[][..], &["check"]] {
            let ended = MproxyProcess::run(&env, args).await;
            assert_eq!(ended.code(), Some(2), "{env:?} {args:?}: {:#?}", ended.lines);
            for word in &words {
                assert!(ended.has_line(word), "{env:?} {args:?}: no {word:?} in {:#?}", ended.lines);
            }
            assert!(!ended.has_line("listening"), "{:#?}", ended.lines);
        }
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for (mqtt, admin, who) in [(port.as_str(), "0", "listener mqtt"), ("0", port.as_str(), "admin API")] {
        let env = [
            ("MPROXY_MQTT_HOST", "127.0.0.1"),
            ("MPROXY_MQTT_PORT", mqtt),
            ("MPROXY_WS_PORT", "0"),
            ("MPROXY_ADMIN_PORT", admin),
        ];
        let ended = MproxyProcess::run(&env, &[]).await;
        assert_eq!(ended.code(), Some(1), "{:#?}", ended.lines);
        for word in [who, &format!("127.0.0.1:{port}"), IN_USE] {
            assert!(ended.has_line(word), "no {word:?} in {:#?}", ended.lines);
        }
        assert!(!ended.has_line("panicked"), "{:#?}", ended.lines);
    }
}

// ---- the demo

#[tokio::test]
async fn the_demo_shows_what_it_promises() {
    let env = [("MPROXY_MQTT_PORT", "0"), ("MPROXY_ADMIN_PORT", "0"), ("MPROXY_LOG_LEVEL", "info")];
    let mut demo = MproxyProcess::start(&env, &["demo"]).await;
    let door = demo.addr("mqtt").await;
    demo.process().line("Ctrl-C ends it.").await.unwrap();
    assert!(demo.process().lines().iter().any(|line| line.contains(&format!("mproxy {door}"))));

    let alice = ["-V", "5", "-u", "alice", "-P", "wonderland"];
    let with = |more: &[&'static str]| [&alice, more].concat();
    let mut desk = subscriber(door, with(&["-i", "desk", "-t", "demo/#", "-v"])).await;
    let ended = publish(door, with(&["-i", "lamp", "-q", "1", "-t", "demo/light", "-m", "on"])).await;
    assert_eq!(ended.code(), Some(0), "{:#?}", ended.lines);
    desk.line("demo/light on").await.unwrap();
    let ended = publish(door, with(&["-i", "lamp", "-q", "1", "-t", "secret/light", "-m", "on"])).await;
    assert!(ended.has_line("Publish 1 failed: Not authorized."), "{:#?}", ended.lines);
    let ended = subscribe(door, with(&["-i", "desk2", "-t", "secret/light", "-W", "10"])).await;
    assert!(ended.has_line("All subscription requests were denied."), "{:#?}", ended.lines);
    let wrong = ["-V", "5", "-u", "alice", "-P", "wrong", "-t", "demo/light", "-m", "on"];
    let ended = publish(door, wrong).await;
    assert!(ended.has_line("Connection error: Bad User Name or Password"), "{:#?}", ended.lines);
    // 3.1.1 has no word for it.
    let old = ["-V", "311", "-u", "alice", "-P", "wonderland", "-q", "1", "-t", "secret/light", "-m", "on"];
    let ended = publish(door, old).await;
    assert_eq!((ended.code(), ended.lines.len()), (Some(0), 0), "{:#?}", ended.lines);
    assert!(!desk.lines().iter().any(|line| line.contains("secret")));

    drop(desk);
    demo.process().signal("INT").await;
    assert_eq!(demo.end().await.code(), Some(0));
}

// ---- what nobody outside can stop

/// A process whose standard error is a pipe that nobody reads.
struct Unread {
    child: std::process::Child,
    mqtt: std::net::SocketAddr,
    admin: std::net::SocketAddr,
}

impl Unread {
    async fn before(broker: std::net::SocketAddr) -> Self {
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (mqtt, admin) = (free(), free());
        let child = std::process::Command::new(env!("CARGO_BIN_EXE_mproxy"))
            .env("MPROXY_MQTT_HOST", "127.0.0.1")
            .env("MPROXY_MQTT_PORT", mqtt.port().to_string())
            .env("MPROXY_MQTT_TARGET_HOST", broker.ip().to_string())
            .env("MPROXY_MQTT_TARGET_PORT", broker.port().to_string())
            .env("MPROXY_WS_PORT", "off")
            .env("MPROXY_ADMIN_PORT", admin.port().to_string())
            .env("MPROXY_DRAIN_TIMEOUT", "1s")
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        until("an open port", async || TcpStream::connect(mqtt).await.is_ok()).await;
        Self { child, mqtt, admin }
    }
}

#[tokio::test]
async fn a_log_that_nobody_reads_stops_nobody() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let mut proxy = Unread::before(broker.addr()).await;
    // Two lines each: many times what a pipe holds, and more than waits to be read.
    for _ in 0..400 {
        let many: Vec<_> = (0..16).map(|_| TcpStream::connect(proxy.mqtt)).collect();
        futures_util::future::join_all(many).await;
    }
    assert_eq!(support::http(proxy.admin, "GET", "/healthz").await.0, 200);
    WireClient::login(proxy.mqtt, Version::V5, "still").await.expect_nothing_but_pingresp().await;
    let dropped = async || {
        let (_, page) = support::http(proxy.admin, "GET", "/metrics").await;
        let line = page.lines().find(|line| line.starts_with("mproxy_log_lines_dropped_total "));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
    };
    until("lines left out", async || dropped().await > 0.0).await;
    // Nor its end.
    let pid = proxy.child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let ended = tokio::task::spawn_blocking(move || proxy.child.wait().unwrap());
    let ended = tokio::time::timeout(mproxy_testkit::PATIENCE, ended).await.expect("an end").unwrap();
    assert_eq!(ended.code(), Some(0));
}

#[tokio::test]
async fn a_large_connect_that_is_refused_is_a_short_line() {
    let folder = tempfile::TempDir::new().unwrap();
    let rules = one_user(&folder);
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let mut proxy = Proxy::with(broker.addr(), &[("MPROXY_ACL_FILE", rules.to_str().unwrap())]).await;
    let large = "ann\u{e0041}".repeat(9000);
    let options =
        ConnectOptions { username: Some(&large), password: Some(b"x"), ..ConnectOptions::default() };
    let (client, connack) = proxy.connect(Version::V311, &format!("{large}-1"), &options).await;
    assert_eq!(connack[3], 4);
    let line = proxy.line_of(client).await;
    assert!(
        line.len() < 2048 && line.contains('…') && !line.contains('\u{e0041}'),
        "{} bytes: {line}",
        line.len()
    );
    proxy.stop().await;
}

#[tokio::test]
async fn a_refused_connect_says_to_the_operator_what_it_was_about() {
    let folder = tempfile::TempDir::new().unwrap();
    let rules = one_user(&folder);
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let mut proxy = Proxy::with(broker.addr(), &[("MPROXY_ACL_FILE", rules.to_str().unwrap())]).await;
    let ann =
        ConnectOptions { username: Some("ann"), password: Some(b"wonderland"), ..ConnectOptions::default() };
    let will = wire::Will { topic: "b", ..wire::Will::default() };
    for (client_id, options, about) in [
        ("ann-1", ConnectOptions { password: Some(b"wrong"), ..ann }, "password"),
        ("bob-1", ConnectOptions { username: Some("bob"), ..ann }, "username"),
        ("eve", ann, "client_id"),
        ("ann-2", ConnectOptions { will: Some(will), ..ann }, "will"),
    ] {
        let (client, connack) = proxy.connect(Version::V5, client_id, &options).await;
        assert!(connack[3] >= 0x80, "{connack:02x?}");
        assert!(!connack.windows(about.len()).any(|part| part == about.as_bytes()), "not to the client");
        let line = proxy.line_of(client).await;
        assert!(line.contains(&format!("): {about}\"")), "{line}");
        let series = format!("mproxy_connects_refused_total{{listener=\"mqtt\",part=\"{about}\"}}");
        assert_eq!(proxy.metric(&series).await, 1.0, "{about}");
    }
    proxy.stop().await;
}

#[tokio::test]
async fn connections_leave_descriptors_for_the_admin_api_and_the_brokers_of_those_who_are_in() {
    // 48 connections have room within it.
    let broker = Mosquitto::start().await;
    let mut proxy = Proxy::with_open_files(128, broker.addr(), &[]).await;
    proxy.line(&["the limit of open files leaves room for fewer", "connections=48"]).await;
    let mut inside = Vec::new();
    for number in 0..48 {
        inside.push(proxy.login(Version::V311, &format!("inside-{number}")).await);
    }
    let mut outside = Vec::new();
    for number in 0..200 {
        let mut client = WireClient::open(proxy.mqtt).await;
        let connect = wire::connect(Version::V311, &format!("outside-{number}"), &ConnectOptions::default());
        // Who is closed at once can perhaps not even be written to.
        let _ = client.try_send(&connect).await;
        outside.push(client);
    }
    assert_eq!(proxy.http("GET", "/readyz").await.0, 200);
    until("200 connections to be refused", async || {
        proxy.metric("mproxy_connections_total{listener=\"mqtt\",outcome=\"refused\"}").await == 200.0
    })
    .await;
    assert!(proxy.metric("process_open_fds").await < proxy.metric("process_max_fds").await);

    drop((inside.pop(), outside));
    until("a place to be free", async || proxy.sessions().await.len() == 47).await;
    proxy.login(Version::V5, "again").await;
    proxy.signal("TERM").await;
    let ended = proxy.end().await;
    assert!(!ended.has_line("Too many open files"), "{:#?}", ended.lines);
}

#[tokio::test]
async fn one_address_does_not_lock_out_the_others() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let mut proxy = Proxy::with(broker.addr(), &[("MPROXY_MAX_CONNECTIONS", "4")]).await;
    let mut inside = proxy.login(Version::V5, "inside").await;
    let mut idle = Vec::new();
    for _ in 0..3 {
        idle.push(WireClient::open(proxy.mqtt).await);
    }
    until("all places taken", async || proxy.sessions().await.len() == 4).await;
    // Its own neighbours get no place by it.
    WireClient::open(proxy.mqtt).await.expect_closed().await;
    // Another address does.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut other = socket.connect(proxy.mqtt).await.unwrap();
    let connect = wire::connect(Version::V311, "other", &ConnectOptions::default());
    tokio::io::AsyncWriteExt::write_all(&mut other, &connect).await.unwrap();
    let mut connack = [0; 4];
    tokio::io::AsyncReadExt::read_exact(&mut other, &mut connack).await.unwrap();
    assert_eq!(connack, [0x20, 2, 0, 0]);
    let mut oldest = idle.remove(0);
    oldest.expect_closed().await;
    let line = proxy.line_of(oldest).await;
    assert!(line.contains("cause=\"evicted\""), "{line}");
    let evicted = "mproxy_connections_closed_total{listener=\"mqtt\",cause=\"evicted\",by=\"client\"}";
    assert_eq!(proxy.metric(evicted).await, 1.0);
    inside.expect_nothing_but_pingresp().await;
    drop((idle, inside, other));
    proxy.stop().await;
}

#[tokio::test]
async fn what_one_address_makes_mproxy_hold_keeps_no_other_out() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let proxy = Proxy::with(broker.addr(), &[("MPROXY_BUDGET_LISTENER", "8MiB")]).await;
    // Of each CONNECT the last bytes never come.
    let (name, secret) = (wire::long_string(65_000), vec![7; 65_000]);
    let will = wire::Will { topic: &name, payload: &secret, ..wire::Will::default() };
    let credentials =
        ConnectOptions { username: Some(&name), password: Some(&secret), ..ConnectOptions::default() };
    let large = wire::connect(Version::V311, "x", &ConnectOptions { will: Some(will), ..credentials });
    let mut greedy = tokio::task::JoinSet::new();
    for _ in 0..60 {
        let (address, part) = (proxy.mqtt, large[..large.len() - 10].to_vec());
        greedy.spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, &part).await;
            std::future::pending::<()>().await;
        });
    }
    let held = "mproxy_budget_used_bytes{scope=\"listener\",listener=\"mqtt\"}";
    until("they hold much", async || proxy.metric(held).await > 1e6).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut other = socket.connect(proxy.mqtt).await.unwrap();
    let token = ConnectOptions { password: Some(&secret[..20_000]), username: Some("u"), ..credentials };
    let connect = wire::connect(Version::V311, "other", &token);
    tokio::io::AsyncWriteExt::write_all(&mut other, &connect).await.unwrap();
    let mut connack = [0; 4];
    let soon = Duration::from_secs(2);
    tokio::time::timeout(soon, tokio::io::AsyncReadExt::read_exact(&mut other, &mut connack))
        .await
        .expect("it does not wait for the others")
        .unwrap();
    assert_eq!(connack, [0x20, 2, 0, 0]);
    drop((greedy, other));
    proxy.stop().await;
}

#[tokio::test]
async fn each_listener_says_at_start_where_it_leads_and_how_it_is_closed() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let target = format!("broker=mqtt://{}", broker.addr());
    let mut proxy = Proxy::with(broker.addr(), &[("MPROXY_WS_PORT", "off")]).await;
    proxy.line(&["listening", "listener=\"mqtt\"", &target, "to_disable=\"MPROXY_MQTT_PORT=off\""]).await;
    assert!(!proxy.process().lines().iter().any(|line| line.contains("listener=\"ws\"")));
    proxy.stop().await;
}
