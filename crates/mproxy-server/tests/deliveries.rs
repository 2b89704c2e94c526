//! What a client is sent is decided, before a real broker: flows stay in step on both sides, whatever is refused,
//! rewritten, or comes from a session of long ago.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use mproxy_testkit::wire::{self, ConnectOptions, Publish, Version, WireClient};
use support::judge::{House, NO};
use support::{feed, receives};

const ALL: [Version; 3] = [Version::V31, Version::V311, Version::V5];

struct Source {
    feeder: WireClient,
    watcher: WireClient,
}

impl Source {
    async fn at(house: &House) -> Self {
        let mut watcher = WireClient::login(house.broker.addr(), Version::V311, "watcher").await;
        watcher.send(&wire::subscribe(Version::V311, 1, &[("#", 0)])).await;
        watcher.expect(&wire::suback(Version::V311, 1, &[0])).await;
        Self { feeder: WireClient::login(house.broker.addr(), Version::V311, "feeder").await, watcher }
    }

    async fn feed(&mut self, message: &Publish<'_>, qos: u8) {
        feed(&mut self.feeder, &mut self.watcher, message, qos).await;
    }
}

fn message<'a>(topic: &'a str, payload: &'a [u8]) -> Publish<'a> {
    Publish { topic, payload, ..Publish::default() }
}

#[tokio::test]
async fn refused_deliveries_take_no_place_in_the_clients_receive_maximum() {
    let house = House::new().await;
    let mut source = Source::at(&house).await;
    // Receive Maximum 1 (3.1.2.11.3): one that is not acknowledged to the broker, and no other would follow.
    let options = ConnectOptions { properties: &[0x21, 0, 1], ..ConnectOptions::default() };
    let (mut client, _) = house.proxy.connect(Version::V5, "narrow", &options).await;
    client.send(&wire::subscribe(Version::V5, 1, &[("down/#", 2)])).await;
    client.expect(&wire::suback(Version::V5, 1, &[2])).await;
    let refused = format!("down/{NO}");
    for round in 0..5u8 {
        let payload = [b'a' + round];
        for (topic, qos) in
            [(refused.as_str(), 1), ("down/yes", 1), (&refused, 2), (&refused, 2), ("down/yes", 2)]
        {
            source.feed(&message(topic, &payload), qos).await;
        }
    }
    for round in 0..5u8 {
        let payload = [b'a' + round];
        for qos in [1, 2] {
            receives(&mut client, &message("down/yes", &payload), qos).await;
        }
    }
    client.expect_nothing_but_pingresp().await;
    drop(client);
    house.proxy.stop().await;
}

#[tokio::test]
async fn refused_publishes_take_no_place_in_the_brokers_receive_maximum() {
    let mut house = House::new().await;
    // Mosquitto's own is 20. A client that keeps to it has never more open than that, whoever answers.
    const OPEN: u16 = 20;
    for version in ALL {
        let v5 = version == Version::V5;
        let mut client = house.proxy.login(version, "wide").await;
        let mut taken = 0;
        for round in 0..5 {
            let publish = |id: u16| {
                let topic = if (id + round).is_multiple_of(3) { "yes" } else { NO };
                let qos = 1 + (id % 2) as u8;
                (topic, qos, wire::publish(version, &Publish { qos, packet_id: id, ..message(topic, b"x") }))
            };
            let all: Vec<u8> = (1..=OPEN).flat_map(|id| publish(id).2).collect();
            client.send(&all).await;
            let mut open = usize::from(OPEN);
            while open > 0 {
                let answer = client.packet().await;
                let id = u16::from_be_bytes([answer[2], answer[3]]);
                let (topic, qos, _) = publish(id);
                let refused = answer.get(4).is_some_and(|code| *code >= 0x80);
                assert_eq!(refused, v5 && topic == NO, "{version:?} {id}: {answer:02x?}");
                if (answer[0], refused) == (0x50, false) {
                    client.send(&wire::pubrel(id)).await;
                } else {
                    assert!(answer[0] == [0x40, 0x70][usize::from(qos) - 1] || refused, "{answer:02x?}");
                    taken += usize::from(topic == "yes");
                    open -= 1;
                }
            }
        }
        client.expect_nothing_but_pingresp().await;
        client.send(&wire::disconnect()).await;
        client.expect_closed().await;
        let up = wire::packets(&house.tap.recording().await.up);
        assert_eq!(up.iter().filter(|packet| packet[0] & 0xF0 == 0x30).count(), taken, "{version:?}");
    }
    house.proxy.stop().await;
}

#[tokio::test]
async fn a_delivery_comes_under_the_name_that_it_is_given() {
    let house = House::new().await;
    let mut source = Source::at(&house).await;
    for version in ALL {
        let mut client = house.proxy.login(version, "reader").await;
        client.send(&wire::subscribe(version, 1, &[("down/#", 2)])).await;
        client.expect(&wire::suback(version, 1, &[2])).await;
        for qos in 0..=2 {
            source.feed(&message("down/as/another/name", b"x"), qos).await;
            receives(&mut client, &message("another/name", b"x"), qos).await;
        }
        client.expect_nothing_but_pingresp().await;
    }
    house.proxy.stop().await;
}

#[tokio::test]
async fn what_waited_for_a_client_is_judged_when_it_is_back() {
    let house = House::new().await;
    let mut source = Source::at(&house).await;
    for version in ALL {
        let id = format!("away-{version:?}");
        // Session Expiry Interval (3.1.2.11.2).
        let properties: &[u8] = if version == Version::V5 { &[0x11, 0, 0, 0, 60] } else { &[] };
        let options = ConnectOptions { clean: false, properties, ..ConnectOptions::default() };
        let (mut client, _) = house.proxy.connect(version, &id, &options).await;
        client.send(&wire::subscribe(version, 1, &[("down/#", 2)])).await;
        client.expect(&wire::suback(version, 1, &[2])).await;
        client.send(&wire::disconnect()).await;
        client.expect_closed().await;

        let refused = format!("down/{NO}");
        for (topic, qos) in [(refused.as_str(), 1), ("down/one", 1), (&refused, 2), ("down/two", 2)] {
            source.feed(&message(topic, b"x"), qos).await;
        }
        let (mut client, connack) = house.proxy.connect(version, &id, &options).await;
        assert_eq!(connack[3], 0);
        receives(&mut client, &message("down/one", b"x"), 1).await;
        receives(&mut client, &message("down/two", b"x"), 2).await;
        client.expect_nothing_but_pingresp().await;

        // Cut in the middle of a flow: the rest of it comes again, and what was refused does not.
        source.feed(&message(&refused, b"y"), 2).await;
        source.feed(&message("down/three", b"y"), 2).await;
        let first = client.packet().await;
        // The broker has heard the end of the refused one: its PUBREL is answered before this, its PUBCOMP before that.
        client.expect_nothing_but_pingresp().await;
        client.expect_nothing_but_pingresp().await;
        client.abort();
        let (mut client, _) = house.proxy.connect(version, &id, &options).await;
        let again = client.packet().await;
        assert_eq!((first[0], again[0], &first[1..]), (0x34, 0x3C, &again[1..]), "the same, with DUP");
        let packet_id = u16::from_be_bytes([again[14], again[15]]);
        client.send(&wire::pubrec(packet_id)).await;
        client.expect(&wire::pubrel(packet_id)).await;
        client.send(&wire::pubcomp(packet_id)).await;
        client.expect_nothing_but_pingresp().await;
    }
    house.proxy.stop().await;
}
