//! The refusal table once more, with all that stands around a session: real brokers, real sockets, and somebody who
//! refuses as the line says. What the client is sent is compared byte by byte, and so is all that went on to the
//! broker; who watches the broker itself sees that nothing of what was refused came out of it.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::net::SocketAddr;

use mproxy_core::policy::{Action, Hook};
use mproxy_testkit::embedded::EmbeddedBroker;
use mproxy_testkit::mosquitto::Mosquitto;
use mproxy_testkit::refusals::codes::CODES;
use mproxy_testkit::refusals::{RefusalRow, RefusedPacket, TABLE, Then, ToBroker};
use mproxy_testkit::service::contract::{self, ConnectAllow, Effect, Grant, GrantAction, GrantRule};
use mproxy_testkit::service::{Play, Running, Service, wants_everything};
use mproxy_testkit::tap::Tap;
use mproxy_testkit::wire::{self, ConnectOptions, Publish, Version, Will, WireClient, packets};
use serde_json::{Value, json};
use support::judge::refuses_as_told;
use support::{Proxy, feed, receives};
use tempfile::TempDir;

/// What mosquitto speaks.
const SPOKEN: &[Version] = &[Version::V31, Version::V311, Version::V5];

/// What the embedded broker speaks.
const SPOKEN_EMBEDDED: &[Version] = &[Version::V311, Version::V5];

/// The action as the contract writes it: also the name by which the scenes tell the service what to do.
fn name(action: Action) -> &'static str {
    let action = match action {
        Action::Reject => contract::Action::Reject,
        Action::Drop => contract::Action::Drop,
        Action::Disconnect => contract::Action::Disconnect,
        Action::NoAck => contract::Action::NoAck,
    };
    action.as_str_name()
}

/// One mproxy before one broker, for many lines.
struct House {
    proxy: Proxy,
    /// Between mproxy and the broker.
    tap: Tap,
    /// Subscribed to everything, at the broker itself.
    watcher: WireClient,
    /// Publishes at the broker itself.
    feeder: WireClient,
    lines: usize,
    /// What the decision log says of who refused a packet.
    by: Box<dyn Fn(RefusedPacket) -> Value>,
}

impl House {
    async fn new(broker: SocketAddr, judge: &Running, variables: &[(&str, &str)]) -> Self {
        let tap = Tap::start(broker, 4).await;
        let by = json!({ "source": "policy_service", "endpoint": judge.url });
        let by = Box::new(move |_| by.clone());
        Self::of(Proxy::asking(judge, tap.addr(), variables).await, tap, broker, by).await
    }

    async fn of(proxy: Proxy, tap: Tap, broker: SocketAddr, by: Box<dyn Fn(RefusedPacket) -> Value>) -> Self {
        let mut watcher = WireClient::login(broker, Version::V311, "watcher").await;
        watcher.send(&wire::subscribe(Version::V311, 1, &[("#", 0)])).await;
        watcher.expect(&wire::suback(Version::V311, 1, &[0])).await;
        let feeder = WireClient::login(broker, Version::V311, "feeder").await;
        Self { proxy, tap, watcher, feeder, lines: 0, by }
    }

    /// The next message that the broker sends to whoever asks for all of them.
    async fn broker_publishes(&mut self, topic: &str) {
        let message = self.watcher.packet().await;
        assert_eq!(message[0] & 0xF0, 0x30, "{message:02x?}");
        let came = String::from_utf8_lossy(&message[4..][..usize::from(message[3])]).into_owned();
        assert_eq!(came, topic);
    }

    async fn feed(&mut self, topic: &str, qos: u8) {
        let message = Publish { topic, payload: b"x", ..Publish::default() };
        feed(&mut self.feeder, &mut self.watcher, &message, qos).await;
    }

    /// Plays all lines that `which` picks.
    async fn play(mut self, versions: &[Version], which: impl Fn(&RefusalRow) -> bool) {
        for version in versions {
            for row in TABLE.iter().filter(|row| which(row)) {
                println!("{:?} {:?} in {version:?}", row.packet, row.action);
                self.lines += 1;
                match row.packet {
                    RefusedPacket::Connect => self.refuses_connect(row, *version).await,
                    _ => self.refuses(row, *version).await,
                }
                self.is_recorded(row, *version).await;
            }
        }
        self.feed("the/end", 0).await;
        drop((self.watcher, self.feeder));
        self.proxy.stop().await;
    }

    async fn refuses_connect(&mut self, row: &RefusalRow, version: Version) {
        let wish = format!("no/{}", name(row.action));
        let options = ConnectOptions { username: Some(&wish), ..ConnectOptions::default() };
        let id = format!("line-{}", self.lines);
        let (mut client, answer) = self.proxy.connect(version, &id, &options).await;
        assert_eq!(answer, row.client_gets(version));
        // A connection to the broker would be found where that of the next line is looked for.
        client.expect_closed().await;
    }

    /// By now the decision log says who refused it, why, and how old that is.
    async fn is_recorded(&self, row: &RefusalRow, version: Version) {
        let path = format!("/api/v1/refusals?client_id=line-{}&since=1m", self.lines);
        let (status, page) = self.proxy.http("GET", &path).await;
        assert_eq!(status, 200, "{page}");
        let page: Value = serde_json::from_str(&page).unwrap();
        let records = page["refusals"].as_array().unwrap();
        let count = if row.packet == RefusedPacket::AllFilters { 3 } else { 1 };
        assert_eq!(records.len(), count, "{records:#?}");
        let hook = match row.packet {
            RefusedPacket::Connect => Hook::Connect,
            RefusedPacket::Publish(_) => Hook::Publish,
            RefusedPacket::SomeFilters | RefusedPacket::AllFilters => Hook::Subscribe,
            RefusedPacket::Delivery(_) => Hook::Deliver,
        };
        let about = if row.packet == RefusedPacket::SomeFilters { "filter" } else { "topic" };
        for record in records {
            assert_eq!(record["hook"], hook.name(), "{record}");
            assert_eq!(record["reason_code"], 0x87, "{record}");
            assert_eq!(record["reason"], "Not authorized", "{record}");
            let protocol = match version {
                Version::V31 => "3.1",
                Version::V311 => "3.1.1",
                Version::V5 => "5.0",
            };
            assert_eq!(record["protocol"], protocol, "{record}");
            assert!(record["age_ms"].is_u64() && record["why"].as_str().unwrap().starts_with("refused by "));
            for (key, value) in (self.by)(row.packet).as_object().unwrap() {
                assert_eq!(&record[key], value, "{key} of {record}");
            }
            if !matches!(row.packet, RefusedPacket::Connect | RefusedPacket::AllFilters) {
                let no = format!("no/{}", name(row.action));
                assert!(record[about].as_str().unwrap().ends_with(&no), "{record}");
                // What became of it, which is not always what was said.
                assert_eq!(record["action"], row.action.carried_out(hook).name(), "{record}");
            }
        }
    }

    async fn refuses(&mut self, row: &RefusalRow, version: Version) {
        let (id, will) = (format!("line-{}", self.lines), format!("will/{}", self.lines));
        let options = ConnectOptions {
            will: Some(Will { topic: &will, payload: b"gone", ..Will::default() }),
            ..ConnectOptions::default()
        };
        let connect = wire::connect(version, &id, &options);
        let mut up = vec![connect.clone()];
        let mut client = WireClient::open(self.proxy.mqtt).await;
        client.send(&connect).await;
        let connack = client.packet().await;
        assert!(matches!(connack[..], [0x20, _, _, 0, ..]), "{connack:02x?}");

        let seen = row.seen(version);
        let no = format!("no/{}", name(row.action));
        let publish = Publish { topic: &no, payload: b"x", packet_id: 1, ..Publish::default() };
        let from_client = |qos, dup| wire::publish(version, &Publish { qos, dup, ..publish });
        let down = format!("down/{no}");
        match row.packet {
            RefusedPacket::Publish(qos) => client.send(&from_client(qos, false)).await,
            RefusedPacket::SomeFilters | RefusedPacket::AllFilters => {
                let (below, all) = (format!("{no}/+"), format!("{no}/#"));
                let filters = match row.packet {
                    RefusedPacket::SomeFilters => [("a", 1), (no.as_str(), 2), ("b", 0)],
                    _ => [(no.as_str(), 1), (&below, 2), (&all, 0)],
                };
                client.send(&wire::subscribe(version, 1, &filters)).await;
            }
            RefusedPacket::Delivery(qos) => {
                let subscribe = wire::subscribe(version, 1, &[("down/#", 2)]);
                client.send(&subscribe).await;
                up.push(subscribe);
                client.expect(&wire::suback(version, 1, &[2])).await;
                self.feed(&down, qos).await;
            }
            RefusedPacket::Connect => unreachable!("has a scene of its own"),
        }
        if seen.broker == ToBroker::TheRest {
            up.push(wire::subscribe(version, 1, &[("a", 1), ("b", 0)]));
        }
        let gets = row.client_gets(version);
        if !gets.is_empty() {
            client.expect(&gets).await;
        }
        match (row.packet, seen.then) {
            (_, Then::Ends) => {
                client.expect_closed().await;
                drop(client);
                self.broker_publishes(&will).await;
                let recording = self.tap.recording().await;
                assert_eq!(packets(&recording.up), up, "no DISCONNECT, so that the will fires");
                return;
            }
            // The message after it is the first that the client sees, and every flow comes to its end.
            (RefusedPacket::Delivery(qos), _) => {
                self.feed("down/yes", qos).await;
                let next = Publish { topic: "down/yes", payload: b"x", ..Publish::default() };
                receives(&mut client, &next, qos).await;
            }
            (_, Then::OurFlow) => {
                if version != Version::V5 {
                    client.send(&from_client(2, true)).await;
                    client.expect(&wire::pubrec(1)).await;
                }
                client.send(&wire::pubrel(1)).await;
                client.expect(&wire::pubcomp(1)).await;
            }
            (_, Then::GoesOn) => {}
        }
        client.expect_nothing_but_pingresp().await;
        client.send(&wire::disconnect()).await;
        client.expect_closed().await;
        up.extend([wire::pingreq(), wire::disconnect()]);

        let recording = self.tap.recording().await;
        let mut heard = packets(&recording.up);
        assert_eq!(heard.concat(), recording.up, "and not half a packet more");
        if let RefusedPacket::Delivery(qos) = row.packet {
            let ids = delivered(&packets(&recording.down), qos);
            assert_eq!(ids.len(), 2, "the refused one and the next");
            for id in ids {
                let acknowledged: Vec<_> =
                    heard.extract_if(.., |packet| packet[0] < 0x80 && packet[2..] == id).collect();
                let expected = match qos {
                    0 => Vec::new(),
                    1 => vec![wire::packet(0x40, &id)],
                    _ => vec![wire::packet(0x50, &id), wire::packet(0x70, &id)],
                };
                assert_eq!(acknowledged, expected);
            }
        }
        assert_eq!(heard, up);
    }
}

/// The packet ids of the messages in what a broker sent.
fn delivered(packets: &[Vec<u8>], qos: u8) -> Vec<[u8; 2]> {
    let messages = packets.iter().filter(|packet| packet[0] & 0xF0 == 0x30);
    let ids = messages.map(|message| {
        let topic = usize::from(message[3]);
        if qos == 0 { [0, 0] } else { [message[4 + topic], message[5 + topic]] }
    });
    ids.collect()
}

// ---- a hook service refuses

#[tokio::test]
async fn every_line_of_the_table_is_played_before_mosquitto() {
    let (broker, judge) = (Mosquitto::start().await, Running::start(refuses_as_told()).await);
    House::new(broker.addr(), &judge, &[]).await.play(SPOKEN, |_| true).await;
    told_as_it_was(
        &judge,
        SPOKEN.len() * TABLE.iter().filter(|row| row.packet != RefusedPacket::Connect).count(),
    );
}

#[tokio::test]
async fn every_line_of_the_table_is_played_before_the_embedded_broker() {
    let (broker, judge) = (EmbeddedBroker::start().await, Running::start(refuses_as_told()).await);
    House::new(broker.addr(), &judge, &[]).await.play(SPOKEN_EMBEDDED, |_| true).await;
}

/// The code that each packet carries, for every code that a service can name.
#[tokio::test]
async fn every_code_of_the_service_reaches_the_client_as_the_table_says() {
    let (broker, judge) = (Mosquitto::start().await, Running::start(refuses_as_told()).await);
    let proxy = Proxy::asking(&judge, broker.addr(), &[]).await;
    for version in SPOKEN {
        let v5 = *version == Version::V5;
        let mut client = proxy.login(*version, "c").await;
        for code in CODES {
            let wish = format!("code/{}", code.reason);
            let options = ConnectOptions { username: Some(&wish), ..ConnectOptions::default() };
            let (_, connack) = proxy.connect(*version, "refused", &options).await;
            let expected = if v5 { code.connack } else { code.connack_v3 };
            assert_eq!(connack, wire::connack(*version, false, expected, &[]), "{code:?}");

            client.send(&wire::subscribe(*version, 1, &[(&wish, 1)])).await;
            let expected = if v5 { code.suback } else { 0x80 };
            client.expect(&wire::suback(*version, 1, &[expected])).await;

            for (qos, first) in [(1, 0x40), (2, 0x50)] {
                let message = Publish { topic: &wish, qos, packet_id: 1, ..Publish::default() };
                client.send(&wire::publish(*version, &message)).await;
                let code: &[u8] = if v5 { &[code.ack] } else { &[] };
                client.expect(&wire::packet(first, &[&[0, 1], code].concat())).await;
            }
            if !v5 {
                client.send(&wire::pubrel(1)).await;
                client.expect(&wire::pubcomp(1)).await;
            }
        }
        client.expect_nothing_but_pingresp().await;
    }
    proxy.stop().await;
}

// ---- somebody else refuses: the same is seen

/// What those can refuse who know no other action than REJECT, and no CONNECT by its user name.
fn rejects(row: &RefusalRow) -> bool {
    row.action == Action::Reject && row.packet != RefusedPacket::Connect
}

#[tokio::test]
async fn what_the_rule_file_refuses_looks_the_same() {
    const RULES: &str = r##"
[[rules]]
effect = "deny"
actions = ["publish", "subscribe"]
topics = ["no/#"]

[[rules]]
effect = "deny"
actions = ["receive"]
topics = ["down/no/#"]

[[rules]]
effect = "allow"
topics = ["#"]
"##;
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("rules.toml");
    std::fs::write(&file, RULES).unwrap();
    let variables = [("MPROXY_ACL_FILE", file.to_str().unwrap())];
    let broker = Mosquitto::start().await;
    let tap = Tap::start(broker.addr(), 5).await;
    let proxy = Proxy::with(tap.addr(), &variables).await;
    let by = Box::new(move |packet| {
        let (rule, line) = if matches!(packet, RefusedPacket::Delivery(_)) { (1, 7) } else { (0, 2) };
        json!({ "source": "acl", "rule_file": file, "rule": rule, "line": line })
    });
    House::of(proxy, tap, broker.addr(), by).await.play(SPOKEN, rejects).await;
}

#[tokio::test]
async fn what_a_grant_refuses_looks_the_same_and_nobody_is_asked() {
    let rule = |effect: Effect, actions: &[GrantAction], filter: &str| GrantRule {
        effect: effect.into(),
        actions: actions.iter().map(|&action| action.into()).collect(),
        topic_filters: vec![filter.to_owned()],
        ..GrantRule::default()
    };
    let grant = Grant {
        rules: vec![
            rule(Effect::Deny, &[GrantAction::Publish, GrantAction::Subscribe], "no/#"),
            rule(Effect::Deny, &[GrantAction::Receive], "down/no/#"),
            rule(Effect::Allow, &[], "#"),
        ],
        version: "7".to_owned(),
        ..Grant::default()
    };
    let judge = Running::start(Service {
        hello: Some(wants_everything()),
        connect: Box::new(move |_| {
            Play::answer(ConnectAllow { grant: Some(grant.clone()), ..ConnectAllow::default() })
        }),
        ..Service::default()
    })
    .await;
    let broker = Mosquitto::start().await;
    let mut house = House::new(broker.addr(), &judge, &[]).await;
    house.by = Box::new(|packet| {
        let rule = u8::from(matches!(packet, RefusedPacket::Delivery(_)));
        json!({ "source": "grant", "rule": rule, "grant_version": "7" })
    });
    house.play(SPOKEN, rejects).await;
    for asked in ["AuthPublish", "AuthSubscribe", "AuthDeliver"] {
        assert_eq!(judge.calls(asked), 0, "{asked}");
    }
}

// ---- what is told of it

/// Of whom a service was told: one beginning and one end of each, and no publish that was refused.
fn told_as_it_was(judge: &Running, sessions: usize) {
    let mut told = judge.events();
    told.sort_by_key(|told| told.sequence);
    let of =
        |what: &str| told.iter().filter(|told| told.what == what).map(|told| told.epoch).collect::<Vec<_>>();
    let (begun, mut ended) = (of("connect"), of("disconnect"));
    ended.sort_unstable();
    assert_eq!((begun.len(), &begun), (sessions, &ended));
    let refused = told.iter().find(|told| told.what.starts_with("no/"));
    assert!(refused.is_none(), "{refused:?}");
}
