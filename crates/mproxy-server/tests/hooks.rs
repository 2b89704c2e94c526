//! mproxy with a policy service that is there, slow, silent, broken or gone, and with a rule file: what the client is
//! told, and what the broker hears. The service is the example, as a process of its own.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use mproxy_testkit::broker::{BrokerScript, RecordingBroker};
use mproxy_testkit::hook::HookService;
use mproxy_testkit::mosquitto::{Mosquitto, publish, subscribe, subscriber};
use mproxy_testkit::process::free_port;
use mproxy_testkit::wire::{self, ConnectOptions, Publish, Version, Will, WireClient};
use support::{Proxy, VERSIONS, flag, until};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};

/// Enough for a call on a busy machine, and short to wait for.
const TIMEOUT: Duration = Duration::from_millis(700);

fn message(topic: &str, qos: u8, packet_id: u16) -> Publish<'_> {
    Publish { topic, payload: b"payload", qos, packet_id, ..Publish::default() }
}

/// Publishes with QoS 1, and gives the code of the PUBACK (0 before 5.0).
async fn puback(client: &mut WireClient, version: Version, topic: &str, packet_id: u16) -> u8 {
    client.send(&wire::publish(version, &message(topic, 1, packet_id))).await;
    let answer = client.packet().await;
    assert_eq!((answer[0], &answer[2..4]), (0x40, &packet_id.to_be_bytes()[..]), "{answer:02x?}");
    answer.get(4).copied().unwrap_or(0)
}

/// What a client is told whose CONNECT could not be decided.
fn undecided(version: Version) -> u8 {
    if version == Version::V5 { 0x88 } else { 3 }
}

// ---- the service says no, or something else

#[tokio::test]
async fn one_topic_is_refused_and_another_rewritten() {
    let (broker, hook) = (Mosquitto::start().await, HookService::start().await);
    let proxy = Proxy::with(broker.addr(), &[("MPROXY_POLICY_URL", &hook.url())]).await;
    for version in [Version::V31, Version::V311, Version::V5] {
        let mut watcher = subscriber(broker.addr(), ["-t", "#", "-q", "2", "-F", "heard %q %t %p"]).await;
        let mut client = proxy.login(version, "writer").await;
        let mut send = async |topic: &str, qos, packet_id| {
            client.send(&wire::publish(version, &message(topic, qos, packet_id))).await;
        };
        for topic in ["forbidden/a", "old/a", "free/a"] {
            send(topic, 0, 0).await;
        }

        // QoS 1: the code in 5.0; before, it cannot be told.
        assert_eq!(
            puback(&mut client, version, "forbidden/a", 1).await,
            if version == Version::V5 { 0x87 } else { 0 }
        );
        assert_eq!(puback(&mut client, version, "old/a", 2).await, 0);
        assert_eq!(puback(&mut client, version, "free/a", 3).await, 0);

        // QoS 2: refused with PUBREC in 5.0, and the flow is over; before, we play it to its end.
        let refused = wire::publish(version, &message("forbidden/a", 2, 4));
        client.send(&refused).await;
        let pubrec = client.packet().await;
        assert_eq!((pubrec[0], &pubrec[2..4]), (0x50, &[0, 4][..]), "{pubrec:02x?}");
        if version == Version::V5 {
            assert_eq!(pubrec[4], 0x87);
        } else {
            assert_eq!(pubrec, wire::pubrec(4));
            let again = Publish { dup: true, ..message("forbidden/a", 2, 4) };
            client.send(&wire::publish(version, &again)).await;
            client.expect(&wire::pubrec(4)).await;
            client.send(&wire::pubrel(4)).await;
            client.expect(&wire::pubcomp(4)).await;
        }
        // The last one too with QoS 2: the watcher shows those only once they are released.
        for (topic, id) in [("old/a", 5), ("free/a", 6), ("the/end", 7)] {
            client.send(&wire::publish(version, &message(topic, 2, id))).await;
            client.expect(&wire::pubrec(id)).await;
            client.send(&wire::pubrel(id)).await;
            client.expect(&wire::pubcomp(id)).await;
        }
        client.expect_nothing_but_pingresp().await;

        watcher.line("heard 2 the/end").await.unwrap();
        let heard: Vec<_> = watcher.lines().into_iter().filter(|line| line.starts_with("heard")).collect();
        let each = |qos| [format!("heard {qos} new/a payload"), format!("heard {qos} free/a payload")];
        let mut expected: Vec<String> = [0, 1, 2].into_iter().flat_map(each).collect();
        expected.push("heard 2 the/end payload".to_owned());
        assert_eq!(heard, expected, "{version:?}");
    }
    let decided = async |outcome: &str| {
        let labels = format!("hook=\"publish\",source=\"policy_service\",outcome=\"{outcome}\"");
        proxy.metric(&format!("mproxy_decisions_total{{{labels}}}")).await
    };
    // The repeated QoS 2 PUBLISH was not asked about again.
    assert_eq!((decided("refused").await, decided("changed").await), (9.0, 9.0));
    proxy.stop().await;
}

#[tokio::test]
async fn an_alias_means_what_its_sender_meant() {
    let (broker, hook) = (Mosquitto::start().await, HookService::start().await);
    let proxy = Proxy::with(broker.addr(), &[("MPROXY_POLICY_URL", &hook.url())]).await;
    let mut watcher = subscriber(broker.addr(), ["-t", "#", "-F", "heard %t %p"]).await;
    let mut client = proxy.login(Version::V5, "writer").await;
    let publish = |topic, alias: u8, payload: &'static [u8]| {
        let alias = [0x23, 0, alias];
        wire::publish(Version::V5, &Publish { topic, payload, properties: &alias, ..Publish::default() })
    };
    for packet in [
        // Introduced by a packet that is refused, by one that is rewritten, by one that passes.
        publish("forbidden/a", 1, b"1"),
        publish("old/b", 2, b"2"),
        publish("free/c", 3, b"3"),
        publish("", 1, b"4"),
        publish("", 2, b"5"),
        publish("", 3, b"6"),
        // And under a new meaning.
        publish("free/d", 1, b"7"),
        publish("", 1, b"8"),
    ] {
        client.send(&packet).await;
    }
    watcher.line("heard free/d 8").await.unwrap();
    let heard: Vec<_> = watcher.lines().into_iter().filter(|line| line.starts_with("heard")).collect();
    let expected = ["new/b 2", "free/c 3", "new/b 5", "free/c 6", "free/d 7", "free/d 8"];
    assert_eq!(heard, expected.map(|message| format!("heard {message}")));
    client.expect_nothing_but_pingresp().await;
    drop(client);
    proxy.stop().await;
}

#[tokio::test]
async fn real_clients_understand_what_they_are_told() {
    let (broker, hook) = (Mosquitto::start().await, HookService::start().await);
    let proxy = Proxy::with(broker.addr(), &[("MPROXY_POLICY_URL", &hook.url())]).await;
    for version in VERSIONS {
        let flag = flag(version);
        for qos in ["1", "2"] {
            let args = ["-V", flag, "-q", qos, "-t", "forbidden/x", "-m", "psst"];
            let ended = publish(proxy.mqtt, args).await;
            // A refusal is no failure of the connection, so it ends well in either version.
            assert_eq!(ended.code(), Some(0), "{:#?}", ended.lines);
            let told = ended.has_line("Not authorized");
            assert_eq!(told, version == Version::V5, "{flag} QoS {qos}: {:#?}", ended.lines);
        }
        let ended = subscribe(proxy.mqtt, ["-V", flag, "-t", "secret/x", "-W", "10"]).await;
        assert!(ended.has_line("All subscription requests were denied"), "{flag}: {:#?}", ended.lines);
        let ended = publish(proxy.mqtt, ["-V", flag, "-u", "mallory", "-P", "x", "-t", "a", "-m", "b"]).await;
        assert_ne!(ended.code(), Some(0));
        assert!(ended.has_line("ot authori"), "{flag}: {:#?}", ended.lines);
    }
    proxy.stop().await;
}

#[tokio::test]
async fn of_a_refused_user_the_broker_never_hears() {
    let (mut broker, hook) =
        (RecordingBroker::start(BrokerScript::default()).await, HookService::start().await);
    let mut proxy = Proxy::with(broker.addr(), &[("MPROXY_POLICY_URL", &hook.url())]).await;
    for version in [Version::V31, Version::V311, Version::V5] {
        let options = ConnectOptions {
            username: Some("mallory"),
            password: Some(b"correct horse"),
            ..ConnectOptions::default()
        };
        let (mut client, connack) = proxy.connect(version, "m", &options).await;
        if version == Version::V5 {
            let why = b"\x1f\0\x17mallory may not come in";
            assert_eq!(connack, wire::connack(version, false, 0x87, why));
        } else {
            assert_eq!(connack, wire::connack(version, false, 5, &[]));
        }
        client.expect_closed().await;
        let line = proxy.line_of(client).await;
        assert!(line.contains("by=\"policy\"") && line.contains("mallory may not come in"), "{line}");
        assert!(broker.try_session().is_none());
    }
    let mut client = proxy.login(Version::V5, "c").await;
    let secret = Publish { payload: b"battery staple", ..message("a", 1, 1) };
    client.send(&wire::publish(Version::V5, &secret)).await;
    client.expect(&wire::puback(1)).await;
    proxy.line_of(client).await;
    let everything = proxy.process().lines().join("\n");
    assert!(!everything.contains("correct horse"), "a password in the log");
    assert!(!everything.contains("battery staple"), "a payload in the log");
    proxy.stop().await;
}

#[tokio::test]
async fn filters_are_decided_one_by_one() {
    let (mut broker, hook) =
        (RecordingBroker::start(BrokerScript::default()).await, HookService::start().await);
    let proxy = Proxy::with(broker.addr(), &[("MPROXY_POLICY_URL", &hook.url())]).await;
    for version in [Version::V31, Version::V311, Version::V5] {
        let no = if version == Version::V5 { 0x87 } else { 0x80 };
        let mut client = proxy.login(version, "reader").await;
        let mut behind = broker.session().await;
        let mixed = [("secret/a", 0), ("open/a", 1), ("#", 2), ("open/b", 2), ("$share/g/secret/b", 1)];
        client.send(&wire::subscribe(version, 1, &mixed)).await;
        let suback = client.packet().await;
        assert!(suback.ends_with(&[no, 1, no, 2, no]), "{version:?}: {suback:02x?}");
        let heard = behind.packets(2).await;
        assert_eq!(heard[1], wire::subscribe(version, 1, &[("open/a", 1), ("open/b", 2)]));

        // All refused: answered here.
        client.send(&wire::subscribe(version, 2, &[("secret/a", 0), ("+/x", 1)])).await;
        let suback = client.packet().await;
        assert!(suback.ends_with(&[no, no]), "{version:?}: {suback:02x?}");
        // All allowed: the very bytes.
        let good = wire::subscribe(version, 3, &[("open/c", 2)]);
        client.send(&good).await;
        client.expect(&wire::suback(version, 3, &[2])).await;
        assert_eq!(behind.packets(3).await[2..], [good]);
    }
    proxy.stop().await;
}

#[tokio::test]
async fn the_service_is_told_what_happened() {
    let (broker, mut hook) = (Mosquitto::start().await, HookService::start().await);
    let proxy = Proxy::with(broker.addr(), &[("MPROXY_POLICY_URL", &hook.url())]).await;
    for (version, id) in [(Version::V311, "three"), (Version::V5, "five")] {
        let mut client = proxy.login(version, id).await;
        client.send(&wire::subscribe(version, 1, &[("a/b", 1), ("secret/c", 0)])).await;
        client.packet().await;
        client.send(&wire::publish(version, &message("old/zero", 0, 0))).await;
        assert!(puback(&mut client, version, "old/one", 2).await < 0x80);
        client.send(&wire::publish(version, &message("two", 2, 3))).await;
        client.expect(&wire::pubrec(3)).await;
        client.send(&wire::pubrel(3)).await;
        client.expect(&wire::pubcomp(3)).await;
        puback(&mut client, version, "forbidden/x", 4).await;
        client.send(&wire::disconnect()).await;
        client.expect_closed().await;
        drop(client);

        // Another that does not say goodbye.
        let lost = proxy.login(version, &format!("{id}-lost")).await;
        drop(lost);
        for told in ["connected", "disconnected: client closed its connection without DISCONNECT"] {
            hook.process().line(&format!(" {id}-lost {told}")).await.unwrap();
        }

        let refused = if version == Version::V5 { 135 } else { 128 };
        let all = [
            "connected".to_owned(),
            format!("subscribed to a/b=1 secret/c={refused}"),
            "published 7 bytes to new/zero".to_owned(),
            "published 7 bytes to new/one".to_owned(),
            "published 7 bytes to two".to_owned(),
            "disconnected: client disconnected (0x00)".to_owned(),
        ];
        hook.process().line(&format!(" {id} disconnected")).await.unwrap();
        let mut told: Vec<(u64, String)> = Vec::new();
        until("everything to tell", || {
            told = hook.process().lines().iter().filter_map(|line| event(line, id)).collect();
            let done = told.len() >= all.len();
            async move { done }
        })
        .await;
        // Calls may overtake each other on their way; their numbers tell the order in which things happened.
        told.sort();
        let told: Vec<_> = told.into_iter().map(|(_, what)| what).collect();
        assert_eq!(told, all, "{version:?}");
    }
    proxy.stop().await;
}

#[tokio::test]
async fn admin_has_the_service_disconnect_a_client() {
    let (broker, mut hook) = (Mosquitto::start().await, HookService::start().await);
    let variables = [("MPROXY_POLICY_URL", &*hook.url()), ("MPROXY_LOG_LEVEL", "info")];
    let mut proxy = Proxy::with(broker.addr(), &variables).await;
    proxy.line(&["control stream opened"]).await;
    let mut lamp = proxy.login(Version::V5, "lamp").await;
    let mut other = proxy.login(Version::V5, "other").await;
    assert_eq!(puback(&mut other, Version::V5, "kick/lamp", 1).await, 0x87);
    let options = ConnectOptions { username: Some("admin"), ..ConnectOptions::default() };
    let (mut admin, _) = proxy.connect(Version::V5, "desk", &options).await;
    assert!(puback(&mut admin, Version::V5, "kick/lamp", 1).await < 0x80);
    let goodbye = lamp.packet().await;
    assert_eq!((goodbye[0], goodbye[2]), (0xe0, 0x98), "{goodbye:02x?}");
    lamp.expect_closed().await;
    drop(lamp);
    hook.process()
        .line(" lamp disconnected: disconnected by the policy service (0x98): kicked")
        .await
        .unwrap();
    for stays in [&mut other, &mut admin] {
        stays.expect_nothing_but_pingresp().await;
    }
    proxy.stop().await;
}

/// Number and words of an event of this client.
fn event(line: &str, client: &str) -> Option<(u64, String)> {
    let (number, rest) = line.split_once(' ')?;
    let (who, what) = rest.split_once(' ')?;
    (who == client).then_some((number.parse().ok()?, what.to_owned()))
}

#[tokio::test]
async fn it_is_reached_over_a_unix_socket() {
    let (broker, folder) = (Mosquitto::start().await, TempDir::new().unwrap());
    let hook = HookService::start_at(&format!("unix:{}", folder.path().join("hook.sock").display())).await;
    let mut proxy = Proxy::with(broker.addr(), &[("MPROXY_POLICY_URL", &hook.url())]).await;
    let mut client = proxy.login(Version::V5, "c").await;
    assert_eq!(puback(&mut client, Version::V5, "forbidden/x", 1).await, 0x87);
    assert_eq!(puback(&mut client, Version::V5, "free/x", 2).await, 0x10, "taken, and nobody is subscribed");
    drop(client);
    let healthy = proxy.line(&["policy endpoint healthy"]).await;
    assert!(healthy.contains("unix:/"), "{healthy}");
    proxy.stop().await;
}

// ---- the service is not what it should be

#[tokio::test]
async fn a_service_that_is_down_lets_nobody_in() {
    let mut broker = RecordingBroker::start(BrokerScript::default()).await;
    let url = format!("http://127.0.0.1:{}", free_port());
    for told in ["close", "connack"] {
        let variables =
            [("MPROXY_POLICY_URL", &*url), ("MPROXY_CONNECT_TIMEOUT", "1s"), ("MPROXY_ON_UNAVAILABLE", told)];
        let mut proxy = Proxy::with(broker.addr(), &variables).await;
        proxy.line(&["WARN", "policy endpoint unhealthy", &url]).await;
        for version in [Version::V31, Version::V311, Version::V5] {
            let mut client = WireClient::open(proxy.mqtt).await;
            client.send(&wire::connect(version, "early", &ConnectOptions::default())).await;
            if told == "connack" {
                client.expect(&wire::connack(version, false, undecided(version), &[])).await;
            }
            client.expect_closed().await;
            let line = proxy.line_of(client).await;
            assert!(line.contains("cause=\"policy_failed\"") && line.contains(&url), "{line}");
        }
        assert!(broker.try_session().is_none());
        // However often it was asked: one decision each.
        let failed = "mproxy_decisions_total{hook=\"connect\",source=\"failed_closed\",outcome=\"refused\"}";
        assert_eq!(proxy.metric(failed).await, 3.0);
        proxy.stop().await;
    }
}

#[tokio::test]
async fn a_service_that_is_down_is_done_without_where_that_is_wished() {
    let mut broker = RecordingBroker::start(BrokerScript::default()).await;
    let url = format!("http://127.0.0.1:{}", free_port());
    let variables = [("MPROXY_POLICY_URL", url.as_str()), ("MPROXY_POLICY_ON_ERROR", "allow")];
    let proxy = Proxy::with(broker.addr(), &variables).await;
    for version in VERSIONS {
        let mut client = proxy.login(version, "c").await;
        let mut behind = broker.session().await;
        assert_eq!(puback(&mut client, version, "forbidden/x", 1).await, 0);
        client.send(&wire::subscribe(version, 2, &[("secret/#", 1)])).await;
        client.expect(&wire::suback(version, 2, &[1])).await;
        let packets = behind.packets(3).await;
        assert_eq!(packets[1], wire::publish(version, &message("forbidden/x", 1, 1)));
    }
    for hook in ["connect", "publish", "subscribe"] {
        let labels = format!("hook=\"{hook}\",source=\"failed_open\",outcome=\"allowed\"");
        assert_eq!(proxy.metric(&format!("mproxy_decisions_total{{{labels}}}")).await, 2.0, "{hook}");
    }
    proxy.stop().await;
}

#[tokio::test]
async fn a_service_that_dies_and_comes_back_disconnects_nobody() {
    let (mut broker, hook) =
        (RecordingBroker::start(BrokerScript::default()).await, HookService::start().await);
    let place = hook.place().to_owned();
    let timeout = format!("{}ms", TIMEOUT.as_millis());
    let url = hook.url();
    let variables = [("MPROXY_POLICY_URL", url.as_str()), ("MPROXY_POLICY_TIMEOUT", timeout.as_str())];
    let mut proxy = Proxy::with(broker.addr(), &variables).await;
    let mut old = proxy.login(Version::V311, "old").await;
    let mut new = proxy.login(Version::V5, "new").await;
    let mut behind = [broker.session().await, broker.session().await];
    assert_eq!(puback(&mut old, Version::V311, "free/x", 1).await, 0);
    assert_eq!(puback(&mut new, Version::V5, "free/x", 1).await, 0);

    hook.kill().await;
    for id in 2..5 {
        assert_eq!(puback(&mut old, Version::V311, "free/x", id).await, 0, "acknowledged, and dropped");
        // PUBACK has no 0x88.
        assert_eq!(puback(&mut new, Version::V5, "free/x", id).await, 0x83);
    }
    new.send(&wire::subscribe(Version::V5, 9, &[("free/x", 1)])).await;
    let suback = new.packet().await;
    assert_eq!(suback.last(), Some(&0x83), "{suback:02x?}");
    old.expect_nothing_but_pingresp().await;
    new.expect_nothing_but_pingresp().await;
    let line = proxy.line(&["WARN", "policy answer failed", "hook=\"publish\""]).await;
    assert!(line.contains("on_error=\"deny\""), "{line}");

    let _hook = HookService::start_at(&place).await;
    let mut id = 10;
    let healthy = format!("mproxy_policy_endpoint_healthy{{endpoint=\"{url}\"}}");
    until("the service's return", async || proxy.metric(&healthy).await == 1.0).await;
    for _ in 0..3 {
        id += 1;
        assert_eq!(puback(&mut old, Version::V311, "free/x", id).await, 0);
        assert_eq!(puback(&mut new, Version::V5, "free/x", id).await, 0);
        assert_eq!(puback(&mut new, Version::V5, "forbidden/x", id).await, 0x87);
    }
    // CONNECT, one from before, PINGREQ, three from after.
    for behind in &mut behind {
        assert_eq!(behind.packets(6).await.len(), 6);
    }
    assert_eq!(proxy.sessions().await.len(), 2);
    drop((old, new));
    proxy.stop().await;
}

#[tokio::test]
async fn a_service_that_hangs_is_waited_for_until_the_deadline() {
    let (mut broker, mut hook) =
        (RecordingBroker::start(BrokerScript::default()).await, HookService::start().await);
    let timeout = format!("{}ms", TIMEOUT.as_millis());
    let url = hook.url();
    let variables = [("MPROXY_POLICY_URL", url.as_str()), ("MPROXY_POLICY_TIMEOUT", timeout.as_str())];
    let mut proxy = Proxy::with(broker.addr(), &variables).await;
    let mut client = proxy.login(Version::V5, "c").await;
    let behind = broker.session().await;

    hook.process().signal("STOP").await;
    let began = Instant::now();
    for id in 1..=3 {
        client.send(&wire::publish(Version::V5, &message("free/x", 1, id))).await;
    }
    // What needs no answer from the service waits its turn all the same; the other direction does not.
    client.send(&wire::pingreq()).await;
    let from_broker = wire::publish(Version::V5, &message("news", 0, 0));
    behind.send(from_broker.clone()).await;
    client.expect(&from_broker).await;
    assert!(began.elapsed() < TIMEOUT, "it went by on the other lane: {:?}", began.elapsed());
    for id in 1..=3u8 {
        let puback = client.packet().await;
        assert_eq!(puback[..5], [0x40, puback[1], 0, id, 0x83]);
    }
    client.expect(&wire::pingresp()).await;
    let took = began.elapsed();
    assert!(took >= TIMEOUT && took < 2 * TIMEOUT, "three at once wait as long as one: {took:?}");
    proxy.line(&["policy answer failed", "hook=\"publish\"", "eadline"]).await;

    hook.process().signal("CONT").await;
    let mut id = 10;
    until("its awakening", async || {
        id += 1;
        puback(&mut client, Version::V5, "free/x", id).await == 0
    })
    .await;
    drop(client);
    proxy.stop().await;
}

#[tokio::test]
async fn what_was_said_before_goodbye_is_decided_after_it() {
    let (mut broker, mut hook) =
        (RecordingBroker::start(BrokerScript::default()).await, HookService::start().await);
    let proxy = Proxy::with(broker.addr(), &[("MPROXY_POLICY_URL", &hook.url())]).await;
    for version in VERSIONS {
        for reset in [false, true] {
            let mut client = proxy.login(version, "brief").await;
            let mut behind = broker.session().await;
            hook.process().signal("STOP").await;
            let said = ["free/a", "forbidden/a", "old/a"].map(|topic| message(topic, 0, 0));
            let said = said.map(|message| wire::publish(version, &message)).concat();
            client.send(&[said, wire::disconnect()].concat()).await;
            if reset {
                client.abort();
            } else {
                drop(client);
            }
            hook.process().signal("CONT").await;
            behind.end().await;
            let heard = ["free/a", "new/a"].map(|topic| wire::publish(version, &message(topic, 0, 0)));
            assert_eq!(behind.packets(4).await[1..], [&heard[..], &[wire::disconnect()]].concat());
        }
    }
    proxy.stop().await;
}

/// A service that accepts, and says the same to everybody.
async fn babbler(says: &'static [u8]) -> (String, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            if says.is_empty() {
                kept.push(stream);
            } else {
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(says).await;
            }
        }
    });
    (url, task)
}

#[tokio::test]
async fn what_is_no_policy_service_lets_nobody_in() {
    let timeout_is = format!("{}ms", TIMEOUT.as_millis());
    for says in
        [&b""[..], b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n", b"\xff\xff\xff\xff\xff\xff"]
    {
        let mut broker = RecordingBroker::start(BrokerScript::default()).await;
        let (url, _task) = babbler(says).await;
        let variables = [
            ("MPROXY_POLICY_URL", url.as_str()),
            ("MPROXY_POLICY_TIMEOUT", &timeout_is),
            ("MPROXY_CONNECT_TIMEOUT", &timeout_is),
            ("MPROXY_ON_UNAVAILABLE", "connack"),
        ];
        let mut proxy = Proxy::with(broker.addr(), &variables).await;
        for version in VERSIONS {
            let (began, options) = (Instant::now(), ConnectOptions::default());
            let entering = proxy.connect(version, "c", &options);
            let (mut client, connack) = timeout(5 * TIMEOUT, entering).await.expect("within its deadline");
            assert_eq!(connack, wire::connack(version, false, undecided(version), &[]), "{says:02x?}");
            client.expect_closed().await;
            if says.is_empty() {
                assert!(began.elapsed() >= TIMEOUT, "{:?}", began.elapsed());
            }
            let line = proxy.line_of(client).await;
            assert!(line.contains("cause=\"policy_failed\""), "{line}");
        }
        assert!(broker.try_session().is_none());
        proxy.stop().await;
    }
}

// ---- a rule file

const RULES: &str = r#"
[[rules]]
effect = "allow"
topics = ["acl/#", "clients/${clientid}/#"]

[[rules]]
effect = "deny"
topics = ["denied/#"]
"#;

fn rules(folder: &TempDir, text: &str) -> PathBuf {
    let file = folder.path().join("rules.toml");
    write(&file, text);
    file
}

fn write(file: &Path, text: &str) {
    std::fs::write(file, text).unwrap();
}

#[tokio::test]
async fn rules_come_first_and_the_service_decides_the_rest() {
    let (broker, hook, folder) =
        (Mosquitto::start().await, HookService::start().await, TempDir::new().unwrap());
    let (file, url) = (rules(&folder, RULES), hook.url());
    let variables = [("MPROXY_POLICY_URL", url.as_str()), ("MPROXY_ACL_FILE", file.to_str().unwrap())];
    let proxy = Proxy::with(broker.addr(), &variables).await;
    let mut watcher = subscriber(broker.addr(), ["-t", "#", "-F", "heard %t"]).await;
    let mut client = proxy.login(Version::V5, "c1").await;
    let topics = [
        ("acl/x", 0, "acl", "allowed"),
        ("clients/c1/x", 0, "acl", "allowed"),
        ("denied/x", 0x87, "acl", "refused"),
        ("forbidden/x", 0x87, "policy_service", "refused"),
        ("old/x", 0, "policy_service", "changed"),
        ("clients/c2/x", 0, "policy_service", "allowed"),
    ];
    let (mut expected, mut id) = (Vec::new(), 0);
    for (topic, code, source, outcome) in topics {
        id += 1;
        let labels = format!("hook=\"publish\",source=\"{source}\",outcome=\"{outcome}\"");
        let series = format!("mproxy_decisions_total{{{labels}}}");
        let before = proxy.metric(&series).await;
        assert_eq!(puback(&mut client, Version::V5, topic, id).await, code, "{topic}");
        assert_eq!(proxy.metric(&series).await, before + 1.0, "{topic}");
        if code == 0 {
            expected.push(format!("heard {}", topic.replace("old/", "new/")));
        }
    }
    client.send(&wire::subscribe(Version::V5, 9, &[("acl/#", 0), ("denied/x", 0), ("secret/x", 0)])).await;
    let suback = client.packet().await;
    assert!(suback.ends_with(&[0, 0x87, 0x87]), "{suback:02x?}");
    watcher.line("heard clients/c2/x").await.unwrap();
    let heard: Vec<_> = watcher.lines().into_iter().filter(|line| line.starts_with("heard")).collect();
    assert_eq!(heard, expected);
    drop(client);
    proxy.stop().await;
}

#[tokio::test]
async fn users_and_wills_of_the_rule_file() {
    // The password of alice is "wonderland".
    let users = include_str!("../../../deploy/demo-rules.toml");
    let folder = TempDir::new().unwrap();
    let file = rules(&folder, users);
    let mut broker = RecordingBroker::start(BrokerScript::default()).await;
    let proxy = Proxy::with(broker.addr(), &[("MPROXY_ACL_FILE", file.to_str().unwrap())]).await;
    let alice = ConnectOptions {
        username: Some("alice"),
        password: Some(b"wonderland"),
        ..ConnectOptions::default()
    };
    let will = |topic| Some(Will { topic, payload: b"gone", ..Will::default() });
    for version in VERSIONS {
        let (wrong, unauthorized) = if version == Version::V5 { (0x86, 0x87) } else { (4, 5) };
        for (options, code) in [
            (alice, 0),
            (ConnectOptions { password: Some(b"looking glass"), ..alice }, wrong),
            (ConnectOptions { username: Some("bob"), ..alice }, wrong),
            (ConnectOptions { username: None, password: None, ..alice }, unauthorized),
            (ConnectOptions { will: will("demo/will"), ..alice }, 0),
            (ConnectOptions { will: will("secret/will"), ..alice }, unauthorized),
        ] {
            let (_client, connack) = proxy.connect(version, "c", &options).await;
            assert_eq!(connack[3], code, "{version:?} {options:?}");
            assert_eq!(broker.try_session().is_some(), code == 0, "{version:?} {options:?}");
        }
    }
    proxy.stop().await;
}

#[tokio::test]
async fn sighup_puts_new_rules_in_force_under_a_live_session() {
    let folder = TempDir::new().unwrap();
    let file = rules(&folder, RULES);
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let mut proxy = Proxy::with(broker.addr(), &[("MPROXY_ACL_FILE", file.to_str().unwrap())]).await;
    let mut client = proxy.login(Version::V5, "c").await;
    assert_eq!(puback(&mut client, Version::V5, "denied/x", 1).await, 0x87);
    assert_eq!(puback(&mut client, Version::V5, "acl/x", 2).await, 0);

    write(&file, &RULES.replace("denied/#", "acl/#").replace("\"acl/#\", \"cli", "\"denied/#\", \"cli"));
    proxy.signal("HUP").await;
    let read = proxy.line(&["ACL file reloaded", "rules=2"]).await;
    assert!(read.contains("rules_before=2") && read.contains("users_before=0"), "{read}");
    assert_eq!(puback(&mut client, Version::V5, "denied/x", 3).await, 0);
    assert_eq!(puback(&mut client, Version::V5, "acl/x", 4).await, 0x87);

    // A broken file changes nothing, and each fault is told with its line.
    write(&file, "[[rules]]\neffect = \"maybe\"\ntopics = [\"a\"]\n");
    proxy.signal("HUP").await;
    proxy.line(&["ERROR", "ACL file reload failed"]).await;
    proxy.line(&["rules.toml:2:", "maybe"]).await;
    // It shows until it is mended, wherever somebody may look.
    let reloads = |outcome| format!("mproxy_reloads_total{{what=\"acl_file\",outcome=\"{outcome}\"}}");
    assert_eq!(
        (proxy.metric(&reloads("reloaded")).await, proxy.metric(&reloads("failed")).await),
        (1.0, 1.0)
    );
    for path in ["/readyz", "/api/v1/reloads"] {
        let (status, page) = proxy.http("GET", path).await;
        assert_eq!(status, 200, "{page}");
        assert!(page.contains("\"what\":\"acl_file\"") && page.contains("rules.toml:2:"), "{page}");
    }
    assert_eq!(puback(&mut client, Version::V5, "denied/x", 5).await, 0);
    client.expect_nothing_but_pingresp().await;
    drop(client);
    proxy.stop().await;
}

#[tokio::test]
async fn a_rule_file_that_was_cut_does_not_turn_authentication_off() {
    // The password of alice is "wonderland".
    let whole = include_str!("../../../deploy/demo-rules.toml");
    let folder = TempDir::new().unwrap();
    let file = rules(&folder, whole);
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let mut proxy = Proxy::with(broker.addr(), &[("MPROXY_ACL_FILE", file.to_str().unwrap())]).await;
    let before = whole.find("[[users]]").unwrap();
    let rules_alone = &whole[whole.find("[[rules]]").unwrap()..];
    for (reloads, cut) in (1..).zip(["", &whole[..before], rules_alone]) {
        write(&file, cut);
        proxy.signal("HUP").await;
        let options =
            ConnectOptions { username: Some("bob"), password: Some(b"guess"), ..ConnectOptions::default() };
        until("the reload was tried", || {
            let tried =
                proxy.process().lines().iter().filter(|line| line.contains("no users any more")).count();
            async move { tried == reloads }
        })
        .await;
        let (_client, connack) = proxy.connect(Version::V5, "c", &options).await;
        assert_eq!(connack[3], 0x86, "{cut:?}");
    }
    proxy.stop().await;
}
