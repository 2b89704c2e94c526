//! Refusals and rewrites in the middle of what clients do over several packets and several connections, before a real
//! broker.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use mproxy_testkit::broker::{BrokerScript, RecordingBroker};
use mproxy_testkit::mosquitto::{Mosquitto, MosquittoOptions, publish, subscriber};
use mproxy_testkit::service::contract::ConnectAllow;
use mproxy_testkit::service::{Play, Running, Service, Told};
use mproxy_testkit::wire::{self, ConnectOptions, Publish, Version, WireClient, packets};
use support::judge::{House, NO, refuses_as_told};
use support::{Proxy, VERSIONS, until};
use tokio::time::Instant;

const ALL: [Version; 3] = [Version::V31, Version::V311, Version::V5];

/// Subscribed to everything with QoS 2, at the broker itself.
async fn watcher(house: &House) -> WireClient {
    let mut watcher = WireClient::login(house.broker.addr(), Version::V311, "watcher").await;
    watcher.send(&wire::subscribe(Version::V311, 1, &[("#", 0)])).await;
    watcher.expect(&wire::suback(Version::V311, 1, &[0])).await;
    watcher
}

fn heard(topic: &str, payload: &[u8]) -> Vec<u8> {
    wire::publish(Version::V311, &Publish { topic, payload, ..Publish::default() })
}

/// A flow to its end, that the broker takes.
async fn taken(client: &mut WireClient, qos: u8, id: u16) {
    match qos {
        0 => {}
        1 => client.expect(&wire::puback(id)).await,
        _ => {
            client.expect(&wire::pubrec(id)).await;
            client.send(&wire::pubrel(id)).await;
            client.expect(&wire::pubcomp(id)).await;
        }
    }
}

/// A refused one, in 5.0.
async fn refused(client: &mut WireClient, qos: u8, id: u16) {
    if qos > 0 {
        let first = if qos == 1 { 0x40 } else { 0x50 };
        client.expect(&wire::packet(first, &[&id.to_be_bytes()[..], &[0x87]].concat())).await;
    }
}

#[tokio::test]
async fn an_alias_whose_first_use_is_refused_is_introduced_by_the_next() {
    let house = House::new().await;
    let mut watcher = watcher(&house).await;
    let mut client = house.proxy.login(Version::V5, "aliases").await;
    for qos in [0, 1, 2] {
        let (alias, room) = ([0x23, 0, qos + 1], format!("room/{qos}"));
        let script = [
            // Refused where it is introduced to mproxy, then introduced to the broker, then known there.
            (room.as_str(), NO, None),
            ("", "one", Some(room.as_str())),
            ("", "two", Some(&room)),
            // What is rewritten or refused in between leaves it what it was.
            ("", "as/elsewhere", Some("elsewhere")),
            ("", "three", Some(&room)),
            ("", NO, None),
            ("", "four", Some(&room)),
        ];
        for (id, (topic, payload, arrives)) in (1..).zip(script) {
            let payload = payload.as_bytes();
            let message =
                Publish { topic, payload, qos, packet_id: id, properties: &alias, ..Publish::default() };
            client.send(&wire::publish(Version::V5, &message)).await;
            match arrives {
                Some(topic) => {
                    taken(&mut client, qos, id).await;
                    watcher.expect(&heard(topic, payload)).await;
                }
                None => refused(&mut client, qos, id).await,
            }
        }
    }
    client.expect_nothing_but_pingresp().await;
    drop(client);
    house.proxy.stop().await;
}

#[tokio::test]
async fn a_refused_flow_of_qos_2_is_answered_again_after_a_reconnect() {
    let mut house = House::new().await;
    let mut watcher = watcher(&house).await;
    for version in [Version::V31, Version::V311] {
        let id = format!("keeps-{version:?}");
        let options = ConnectOptions { clean: false, ..ConnectOptions::default() };
        let connect = wire::connect(version, &id, &options);
        let flow = |topic, packet_id, dup| {
            wire::publish(
                version,
                &Publish { topic, payload: b"x", qos: 2, packet_id, dup, ..Publish::default() },
            )
        };
        let (mut client, connack) = house.proxy.connect(version, &id, &options).await;
        assert_eq!(connack[3], 0);
        // Refused, refused and released, and one that the broker has: each in the middle of its flow.
        for (topic, id) in [(NO, 7), (NO, 8), ("yes", 9)] {
            client.send(&flow(topic, id, false)).await;
            client.expect(&wire::pubrec(id)).await;
        }
        client.send(&wire::pubrel(8)).await;
        client.expect(&wire::pubcomp(8)).await;
        client.abort();
        assert_eq!(packets(&house.tap.recording().await.up), [connect.clone(), flow("yes", 9, false)]);

        let (mut client, connack) = house.proxy.connect(version, &id, &options).await;
        let present = u8::from(version != Version::V31);
        assert_eq!(connack, wire::connack(version, present == 1, 0, &[]), "{version:?}");
        client.send(&flow(NO, 7, true)).await;
        client.expect(&wire::pubrec(7)).await;
        client.send(&flow("yes", 9, true)).await;
        client.expect(&wire::pubrec(9)).await;
        for id in [7, 9] {
            client.send(&wire::pubrel(id)).await;
            client.expect(&wire::pubcomp(id)).await;
        }
        watcher.expect(&heard("yes", b"x")).await;
        // Cut between PUBREC and PUBCOMP, the client goes on with PUBREL: that one the broker answers.
        client.send(&flow(NO, 10, false)).await;
        client.expect(&wire::pubrec(10)).await;
        client.abort();
        let up = [connect.clone(), flow("yes", 9, true), wire::pubrel(9)];
        assert_eq!(packets(&house.tap.recording().await.up), up);
        let (mut client, _) = house.proxy.connect(version, &id, &options).await;
        client.send(&wire::pubrel(10)).await;
        client.expect(&wire::pubcomp(10)).await;
        client.expect_nothing_but_pingresp().await;
        client.send(&wire::disconnect()).await;
        client.expect_closed().await;
        house.tap.recording().await;
    }
    watcher.expect_nothing_but_pingresp().await;
    house.proxy.stop().await;
}

#[tokio::test]
async fn a_large_payload_that_is_refused_is_passed_over() {
    let mut house = House::new().await;
    let payload = vec![b'x'; 3_000_003];
    for version in ALL {
        let mut client = house.proxy.login(version, "large").await;
        let large = |qos| {
            wire::publish(
                version,
                &Publish { topic: NO, payload: &payload, qos, packet_id: 1, ..Publish::default() },
            )
        };
        client.send(&large(0)).await;
        for (qos, first) in [(1, 0x40), (2, 0x50)] {
            client.send(&large(qos)).await;
            let code: &[u8] = if version == Version::V5 { &[0x87] } else { &[] };
            client.expect(&wire::packet(first, &[&[0, 1], code].concat())).await;
        }
        client.expect_nothing_but_pingresp().await;
        client.send(&wire::disconnect()).await;
        client.expect_closed().await;
        let up = packets(&house.tap.recording().await.up);
        assert_eq!(up[1..], [wire::pingreq(), wire::disconnect()], "{version:?}");
    }
    house.proxy.stop().await;
}

#[tokio::test]
async fn ten_filters_three_refused_and_two_rewritten_end_all_together() {
    let mut house = House::new().await;
    for version in ALL {
        let v5 = version == Version::V5;
        let mut client = house.proxy.login(version, "ten").await;
        let filters = [
            "a/0",
            "no/ACTION_REJECT/1",
            "as/other/2",
            "a/+/3",
            "no/ACTION_DROP/#",
            "$share/g/a/5",
            "a/6/#",
            "no/ACTION_NO_ACK/7",
            "$share/g/as/other/8",
            "a/9",
        ];
        let asked: Vec<_> =
            filters.iter().zip([0, 1, 2].into_iter().cycle()).map(|(filter, qos)| (*filter, qos)).collect();
        client.send(&wire::subscribe(version, 0x1234, &asked)).await;
        let no = if v5 { 0x87 } else { 0x80 };
        let codes: Vec<_> =
            asked.iter().map(|(filter, qos)| if filter.starts_with("no/") { no } else { *qos }).collect();
        client.expect(&wire::suback(version, 0x1234, &codes)).await;
        // Twice is once.
        client.send(&wire::subscribe(version, 2, &asked)).await;
        client.expect(&wire::suback(version, 2, &codes)).await;

        publish(house.broker.addr(), ["-t", "other/2", "-m", "x"]).await;
        let message = Publish { topic: "other/2", payload: b"x", ..Publish::default() };
        client.expect(&wire::publish(version, &message)).await;

        client.send(&wire::unsubscribe(version, 0x4321, &filters)).await;
        let ended: Vec<_> =
            asked.iter().map(|(filter, _)| if filter.starts_with("no/") { 0x11 } else { 0 }).collect();
        client.expect(&wire::unsuback(version, 0x4321, &ended)).await;
        for topic in ["a/0", "other/2", "a/x/3", "a/5", "a/6/x", "other/8", "a/9"] {
            publish(house.broker.addr(), ["-t", topic, "-m", "x"]).await;
        }
        client.expect_nothing_but_pingresp().await;
        client.send(&wire::disconnect()).await;
        client.expect_closed().await;

        let up = packets(&house.tap.recording().await.up);
        let at_broker = |filter: &'static str| match filter {
            "as/other/2" => "other/2",
            "$share/g/as/other/8" => "$share/g/other/8",
            filter => filter,
        };
        let rest: Vec<_> = asked
            .iter()
            .filter(|(filter, _)| !filter.starts_with("no/"))
            .map(|(filter, qos)| (at_broker(filter), *qos))
            .collect();
        let all: Vec<_> = filters.iter().map(|filter| at_broker(filter)).collect();
        assert_eq!(
            up[1..],
            [
                wire::subscribe(version, 0x1234, &rest),
                wire::subscribe(version, 2, &rest),
                wire::unsubscribe(version, 0x4321, &all),
                wire::pingreq(),
                wire::disconnect(),
            ]
        );
    }
    house.proxy.stop().await;
}

#[tokio::test]
async fn of_two_takeovers_within_a_millisecond_each_connect_has_its_disconnect() {
    const ROUNDS: usize = 10;
    let house = House::new().await;
    for round in 0..ROUNDS {
        let version = VERSIONS[round % 2];
        let id = format!("taken-{round}");
        let connect = wire::connect(version, &id, &ConnectOptions::default());
        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push(WireClient::open(house.proxy.mqtt).await);
        }
        for client in &mut clients {
            client.send(&connect).await;
        }
        // All are let in; the broker keeps one.
        for client in &mut clients {
            assert_eq!(client.packet().await[..1], [0x20]);
        }
        drop(clients);
    }
    let told = house.judge.events_when(|told| {
        let ends = told.iter().filter(|told| told.what == "disconnect");
        ends.count() == 3 * ROUNDS
    });
    let mut told = told.await;
    told.sort_by_key(|told| told.sequence);
    let mut lives: BTreeMap<(String, u64), Vec<String>> = BTreeMap::new();
    for event in told {
        lives.entry((event.client_id, event.epoch)).or_default().push(event.what);
    }
    assert_eq!(lives.len(), 3 * ROUNDS, "{lives:#?}");
    for ((id, epoch), life) in lives {
        assert_eq!(life, ["connect", "disconnect"], "{id} {epoch}");
    }
    house.proxy.stop().await;
}

/// Well before the close deadline, and enough on a busy machine.
const PROMPT: Duration = Duration::from_secs(4);

#[tokio::test]
async fn the_end_of_a_client_that_does_not_close_is_told_at_once() {
    let house = House::new().await;
    for version in VERSIONS {
        let id = format!("taken-{version:?}");
        let old = house.proxy.login(version, &id).await;
        let begun = Instant::now();
        let new = house.proxy.login(version, &id).await;
        let told = |told: &[Told]| told.iter().any(|told| told.client_id == id && told.what == "disconnect");
        house.judge.events_when(told).await;
        until_sessions(&house.proxy, 1).await;
        assert!(begun.elapsed() < PROMPT, "a takeover, {version:?}: {:?}", begun.elapsed());

        // Refused, and it stays connected.
        let mut refused = WireClient::open(house.proxy.mqtt).await;
        let options = ConnectOptions { username: Some("code/135"), ..ConnectOptions::default() };
        let begun = Instant::now();
        refused.send(&wire::connect(version, "refused", &options)).await;
        assert_eq!(refused.packet().await[0], 0x20);
        until_sessions(&house.proxy, 1).await;
        assert!(begun.elapsed() < PROMPT, "a refusal, {version:?}: {:?}", begun.elapsed());
        drop((old, new, refused));
        until_sessions(&house.proxy, 0).await;
    }
    house.proxy.stop().await;
}

#[tokio::test]
async fn a_broker_that_said_disconnect_and_does_not_close_holds_nothing_up() {
    let (mut broker, judge) =
        (RecordingBroker::start(BrokerScript::default()).await, Running::start(refuses_as_told()).await);
    let proxy = Proxy::asking(&judge, broker.addr(), &[]).await;
    let mut client = proxy.login(Version::V5, "twice").await;
    let behind = broker.session().await;
    let taken_over = wire::disconnect_with(0x8E, &[]);
    let begun = Instant::now();
    behind.send(taken_over.clone()).await;
    client.expect(&taken_over).await;
    judge.events_when(|told| told.iter().any(|told| told.what == "disconnect")).await;
    assert!(begun.elapsed() < PROMPT, "{:?}", begun.elapsed());
    until_sessions(&proxy, 0).await;
    proxy.stop().await;
}

async fn until_sessions(proxy: &Proxy, count: usize) {
    until("the number of sessions", async || proxy.sessions().await.len() == count).await;
}

#[tokio::test]
async fn mosquittos_bridge_works_through_mproxy_in_both_directions() {
    for (version, bit) in [("mqttv311", true), ("mqttv50", false)] {
        let (seen, bridge_seen) = std::sync::mpsc::channel();
        let service = Service {
            connect: Box::new(move |asked| {
                let asked = asked.get_ref();
                let id = asked.client.as_ref().unwrap().client_id.clone();
                let _ = seen.send((id, asked.bridge));
                Play::answer(ConnectAllow::default())
            }),
            ..refuses_as_told()
        };
        let mut house = House::with(service, &[]).await;
        let lines = [
            "connection far".to_owned(),
            format!("address {}", house.proxy.mqtt),
            "topic # both 2".to_owned(),
            "remote_clientid the-bridge".to_owned(),
            "restart_timeout 1".to_owned(),
            format!("bridge_protocol_version {version}"),
        ];
        let near =
            Mosquitto::start_with(MosquittoOptions { extra: lines.into(), ..MosquittoOptions::default() })
                .await;
        assert_eq!(
            bridge_seen.recv_timeout(mproxy_testkit::PATIENCE).unwrap(),
            ("the-bridge".to_owned(), bit),
            "{version}"
        );
        house.judge.until_called("Subscribe").await;

        let args = ["-t", "#", "-q", "2", "-F", "got %q %t %p"];
        let mut there = subscriber(house.broker.addr(), args).await;
        let mut here = subscriber(near.addr(), args).await;
        for qos in ["0", "1", "2"] {
            // Refused on the way, and what comes after it is not held up.
            publish(near.addr(), ["-q", qos, "-t", NO, "-m", "up"]).await;
            publish(near.addr(), ["-q", qos, "-t", "up", "-m", "x"]).await;
            there.line(&format!("got {qos} up x")).await.unwrap();
            publish(house.broker.addr(), ["-q", qos, "-t", "down/no/ACTION_REJECT", "-m", "down"]).await;
            publish(house.broker.addr(), ["-q", qos, "-t", "other-way", "-m", "x"]).await;
            here.line(&format!("got {qos} other-way x")).await.unwrap();
        }
        assert!(!there.lines().iter().any(|line| line.starts_with("got") && line.ends_with(" up")));
        assert!(!here.lines().iter().any(|line| line.starts_with("got") && line.ends_with(" down")));
        assert_eq!(house.judge.calls("Disconnect"), 0, "{version}: one connection for all of it");
        drop(near);
        let bridge = packets(&house.tap.recording().await.up);
        let level = bridge[0][8];
        assert_eq!(
            level,
            match (version, bit) {
                ("mqttv311", true) => 0x84,
                _ => 5,
            }
        );
        house.proxy.stop().await;
    }
}

#[tokio::test]
async fn without_a_client_id_the_broker_gives_one_or_the_client_has_none() {
    let house = House::new().await;
    for version in VERSIONS {
        for clean in [true, false] {
            let options = ConnectOptions { clean, ..ConnectOptions::default() };
            let (mut client, connack) = house.proxy.connect(version, "", &options).await;
            if version == Version::V311 && !clean {
                // [MQTT-3.1.3-8] of 3.1.1.
                assert_eq!(connack, wire::connack(version, false, 2, &[]));
                client.expect_closed().await;
                continue;
            }
            assert_eq!(connack[3], 0, "{connack:02x?}");
            let topic = format!("nameless/{version:?}/{clean}");
            for (topic, goes) in [(topic.as_str(), true), (NO, false)] {
                let message = Publish { topic, qos: 1, packet_id: 1, ..Publish::default() };
                client.send(&wire::publish(version, &message)).await;
                let code = client.packet().await.get(4).copied().unwrap_or_default();
                assert!(version != Version::V5 || (code < 0x80) == goes, "{topic}: {code:02x}");
            }
            let told = house.judge.events_when(|told| told.iter().any(|told| told.what == topic)).await;
            let id = told.into_iter().find(|told| told.what == topic).unwrap().client_id;
            if version == Version::V5 {
                // Assigned Client Identifier (3.2.2.3.7).
                let assigned = [&[0x12][..], &wire::string(&id)].concat();
                assert!(
                    connack.windows(assigned.len()).any(|part| part == assigned),
                    "{id} in {connack:02x?}"
                );
            } else {
                assert_eq!(id, "");
            }
            client.send(&wire::disconnect()).await;
            client.expect_closed().await;
        }
    }
    house.proxy.stop().await;
}
