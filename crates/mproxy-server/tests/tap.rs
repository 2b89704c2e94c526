//! Watching packets at a running mproxy, by the admin API.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use mproxy_testkit::PATIENCE;
use mproxy_testkit::broker::{BrokerScript, RecordingBroker};
use mproxy_testkit::certificates::Authority;
use mproxy_testkit::transports::{TlsClient, Transport, open};
use mproxy_testkit::wire::{self, ConnectOptions, Publish, Version, Will, WireClient};
use serde_json::{Value, json};
use support::{Proxy, VERSIONS};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// An open tap.
struct Tap {
    stream: TcpStream,
    /// What has come and was not looked at.
    text: String,
    /// Everything that came.
    all: String,
}

impl Tap {
    async fn open(proxy: &Proxy, query: &str) -> Self {
        let mut stream = TcpStream::connect(proxy.admin).await.unwrap();
        let request = format!("GET /api/v1/tap{query} HTTP/1.1\r\nHost: {}\r\n\r\n", proxy.admin);
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut tap = Self { stream, text: String::new(), all: String::new() };
        let head = tap.take_until("\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("text/event-stream"), "{head}");
        tap
    }

    async fn take_until(&mut self, mark: &str) -> String {
        let read = async {
            while !self.text.contains(mark) {
                let mut bytes = [0; 16 << 10];
                let count = self.stream.read(&mut bytes).await.unwrap();
                assert!(count > 0, "the tap ended: {}", self.text);
                let text = std::str::from_utf8(&bytes[..count]).unwrap();
                self.text.push_str(text);
                self.all.push_str(text);
            }
            let (taken, rest) = self.text.split_once(mark).unwrap();
            let (taken, rest) = (taken.to_owned(), rest.to_owned());
            self.text = rest;
            taken
        };
        timeout(PATIENCE, read).await.unwrap_or_else(|_| panic!("never came: {mark}"))
    }

    /// The next event and its data.
    async fn event(&mut self) -> (String, Value) {
        self.take_until("event: ").await;
        let name = self.take_until("\n").await;
        self.take_until("data: ").await;
        let data = self.take_until("\n").await;
        (name, serde_json::from_str(&data).unwrap())
    }

    /// So many events, each of which is a packet.
    async fn packets(&mut self, count: usize) -> Vec<Value> {
        let mut packets = Vec::new();
        for _ in 0..count {
            let (name, packet) = self.event().await;
            assert_eq!(name, "packet", "{packet}");
            packets.push(packet);
        }
        packets
    }
}

fn line(packet: &Value) -> String {
    let text = |key: &str| packet[key].as_str().unwrap_or("-").to_owned();
    format!("{} {} {} {}", text("from"), text("type"), text("topic"), text("outcome"))
}

#[tokio::test]
async fn a_session_is_shown_packet_by_packet_and_no_secret_with_it() {
    for version in VERSIONS {
        let mut broker = RecordingBroker::start(BrokerScript::default()).await;
        let proxy = Proxy::before(broker.addr()).await;
        let mut tap = Tap::open(&proxy, "?client_id=desk").await;
        let _other = proxy.login(version, "lamp").await;
        let _lamp = broker.session().await;
        let options = ConnectOptions {
            username: Some("ann"),
            password: Some(b"hunter2"),
            will: Some(Will { topic: "gone", payload: b"my last words", ..Will::default() }),
            ..ConnectOptions::default()
        };
        let (mut client, _) = proxy.connect(version, "desk", &options).await;
        let session = broker.session().await;
        let message = Publish {
            topic: "a/b",
            payload: b"the payload",
            qos: 1,
            packet_id: 7,
            retain: true,
            ..Publish::default()
        };
        client.send(&wire::publish(version, &message)).await;
        client.send(&wire::subscribe(version, 8, &[("a/#", 1)])).await;
        session
            .send(wire::publish(
                version,
                &Publish { topic: "a/c", payload: b"the payload", ..Publish::default() },
            ))
            .await;
        let packets = tap.packets(5).await;
        let mut lines: Vec<_> = packets.iter().map(line).collect();
        lines[4..].sort();
        assert_eq!(lines[..2], ["client CONNECT - deferred", "broker CONNACK - forwarded"]);
        assert!(lines.contains(&"client PUBLISH a/b forwarded".to_owned()), "{lines:?}");
        assert!(lines.contains(&"client SUBSCRIBE - forwarded".to_owned()), "{lines:?}");
        assert!(lines.contains(&"broker PUBLISH a/c forwarded".to_owned()), "{lines:?}");
        let connect = &packets[0];
        assert_eq!((&connect["username"], &connect["will_topic"]), (&json!("ann"), &json!("gone")));
        let subscribe = packets.iter().find(|packet| packet["type"] == "SUBSCRIBE").unwrap();
        assert_eq!(subscribe["filters"], json!([{ "filter": "a/#", "qos": 1 }]));
        let publish = packets.iter().find(|packet| packet["topic"] == "a/b").unwrap();
        assert_eq!((&publish["packet_id"], &publish["retain"]), (&json!(7), &json!(true)));
        for secret in ["hunter2", "the payload", "my last words", "lamp", "payload\""] {
            assert!(!tap.all.contains(secret), "{secret}: {}", tap.all);
        }
        drop(tap);
        proxy.stop().await;
    }
}

#[tokio::test]
async fn a_payload_comes_on_request_and_cut() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let proxy = Proxy::before(broker.addr()).await;
    let mut client = proxy.login(Version::V5, "desk").await;
    let mut tap = Tap::open(&proxy, "?type=publish&payload=4").await;
    for payload in [&b"abc"[..], b"abcdef", b"\xff\xfe", &[b'x'; 100_000]] {
        client
            .send(&wire::publish(Version::V5, &Publish { topic: "a", payload, ..Publish::default() }))
            .await;
    }
    let shown: Vec<_> = tap
        .packets(4)
        .await
        .iter()
        .map(|packet| {
            let text = |key: &str| packet[key].as_str().unwrap_or("-").to_owned();
            let size = packet["payload_size"].as_u64().unwrap();
            (text("payload"), text("payload_base64"), packet["payload_truncated"] == true, size)
        })
        .collect();
    let row = |text: &str, base64: &str, cut, size| (text.to_owned(), base64.to_owned(), cut, size);
    assert_eq!(
        shown,
        [
            row("abc", "-", false, 3),
            row("abcd", "-", true, 6),
            row("-", "//4=", false, 2),
            row("xxxx", "-", true, 100_000)
        ]
    );
    drop(tap);
    proxy.stop().await;
}

#[tokio::test]
async fn a_topic_filter_shows_what_goes_there_and_who_is_refused_is_told() {
    let folder = TempDir::new().unwrap();
    let rules = folder.path().join("rules.toml");
    std::fs::write(&rules, "[[rules]]\neffect = \"deny\"\ntopics = [\"secret/#\"]\n[[rules]]\neffect = \"allow\"\ntopics = [\"#\"]\n").unwrap();
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let proxy = Proxy::with(broker.addr(), &[("MPROXY_ACL_FILE", rules.to_str().unwrap())]).await;
    let mut client = proxy.login(Version::V5, "desk").await;
    let mut tap = Tap::open(&proxy, "?filter=secret/%23&from=client").await;
    let publish =
        |topic| wire::publish(Version::V5, &Publish { topic, qos: 1, packet_id: 1, ..Publish::default() });
    client.send(&publish("open")).await;
    client.send(&publish("secret/x")).await;
    client.send(&wire::subscribe(Version::V5, 2, &[("open", 0)])).await;
    client.send(&wire::subscribe(Version::V5, 3, &[("open", 0), ("secret/x", 0)])).await;
    let packets = tap.packets(2).await;
    assert_eq!(line(&packets[0]), "client PUBLISH secret/x refused");
    assert_eq!((&packets[0]["refused_by"], &packets[0]["refused_with"]), (&json!("acl"), &json!(0x87)));
    assert_eq!(line(&packets[1]), "client SUBSCRIBE - changed");
    assert_eq!(packets[1]["refused_by"], "acl", "of its filters one");

    // Why a connection ends is told, too.
    let id = proxy.sessions().await[0]["connection_id"].as_str().unwrap().to_owned();
    let mut tap = Tap::open(&proxy, &format!("?connection_id={id}")).await;
    assert_eq!(proxy.http("DELETE", &format!("/api/v1/sessions/{id}")).await.0, 204);
    let (name, record) = tap.event().await;
    assert_eq!((&*name, &record["source"]), ("refusal", &json!("administrator")), "{record}");
    proxy.stop().await;
}

#[tokio::test]
async fn what_is_over_the_rate_is_lost_and_counted_and_nobody_waits() {
    const MESSAGES: usize = 5000;
    let mut broker = RecordingBroker::start(BrokerScript::default()).await;
    let proxy = Proxy::before(broker.addr()).await;
    let mut client = proxy.login(Version::V311, "desk").await;
    let mut session = broker.session().await;
    let before = session.received().len();
    let mut tap = Tap::open(&proxy, "?client_id=desk&type=publish&rate=50").await;
    let message = wire::publish(Version::V311, &Publish { topic: "a", ..Publish::default() });
    client.send(&message.repeat(MESSAGES)).await;
    session.bytes(before + MESSAGES * message.len()).await;
    let (mut shown, mut lost) = (0, 0);
    while shown + lost < MESSAGES as u64 {
        match tap.event().await {
            (name, _) if name == "packet" => shown += 1,
            (name, data) if name == "lost" => lost += data["count"].as_u64().unwrap(),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(shown + lost, MESSAGES as u64);
    assert!((50..1000).contains(&shown), "{shown}");
    assert_eq!(proxy.metric("mproxy_tap_events_lost_total").await, lost as f64);
    assert_eq!(proxy.metric("mproxy_taps_open").await, 1.0);
    drop(tap);
    proxy.stop().await;
}

#[tokio::test]
async fn a_client_of_websocket_is_shown_alike() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let proxy = Proxy::websocket(broker.addr(), "").await;
    let mut tap = Tap::open(&proxy, "?listener=ws&type=connect,publish").await;
    let tls = TlsClient::believing(Authority::root("nobody").pem());
    let mut client = open(Transport::Ws, proxy.mqtt, &tls).await;
    client.send(&wire::connect(Version::V311, "desk", &ConnectOptions::default())).await;
    client.packet().await;
    client.send(&wire::publish(Version::V311, &Publish { topic: "a", ..Publish::default() })).await;
    let packets = tap.packets(2).await;
    assert_eq!(
        packets.iter().map(line).collect::<Vec<_>>(),
        ["client CONNECT - deferred", "client PUBLISH a forwarded"]
    );
    drop(tap);
    proxy.stop().await;
}

#[tokio::test]
async fn a_tap_ends_when_mproxy_does() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let mut proxy = Proxy::before(broker.addr()).await;
    let _client: WireClient = proxy.login(Version::V5, "desk").await;
    let mut tap = Tap::open(&proxy, "").await;
    proxy.signal("TERM").await;
    loop {
        let (name, _) = tap.event().await;
        if name == "end" {
            break;
        }
    }
    assert_eq!(proxy.end().await.code(), Some(0));
}

#[tokio::test]
async fn a_tap_of_one_connection_ends_with_it() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let proxy = Proxy::before(broker.addr()).await;
    let client: WireClient = proxy.login(Version::V5, "desk").await;
    let id = proxy.sessions().await[0]["connection_id"].as_str().unwrap().to_owned();
    let mut tap = Tap::open(&proxy, &format!("?connection_id={id}")).await;
    drop(client);
    loop {
        let (name, told) = tap.event().await;
        if name == "end" {
            assert_eq!(told["reason"], "the connection is closed");
            break;
        }
    }
    proxy.stop().await;
}

#[tokio::test]
async fn a_sample_of_what_was_allowed_is_no_refusal() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let folder = TempDir::new().unwrap();
    let rules = folder.path().join("rules.toml");
    std::fs::write(&rules, "anonymous = true\n[[rules]]\neffect = \"allow\"\ntopics = [\"#\"]\n").unwrap();
    let variables =
        [("MPROXY_DECISION_LOG_ALLOWED_ONE_IN", "1"), ("MPROXY_ACL_FILE", rules.to_str().unwrap())];
    let proxy = Proxy::with(broker.addr(), &variables).await;
    let mut tap = Tap::open(&proxy, "?rate=1000").await;
    let mut client = proxy.login(Version::V5, "desk").await;
    client.send(&wire::publish(Version::V5, &Publish { topic: "a", ..Publish::default() })).await;
    loop {
        let (name, told) = tap.event().await;
        assert_ne!(name, "refusal", "{told}");
        if told["type"] == "PUBLISH" {
            break;
        }
    }
    proxy.stop().await;
}
