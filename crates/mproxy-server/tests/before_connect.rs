//! Whoever comes to a door and does not know how to open it, or does not want to: is told so, counted by cause, has a line
//! in the log, and leaves no memory behind.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::net::SocketAddr;

use mproxy_testkit::broker::{BrokerScript, RecordingBroker};
use mproxy_testkit::certificates::{Authority, Folder};
use mproxy_testkit::transports::{AT_PORTS, TlsClient, login, scheme};
use mproxy_testkit::wire::{self, ConnectOptions, Publish, Version, WireClient};
use support::Proxy;
use tokio::task::JoinSet;

/// What the client gets before the end.
#[derive(Clone, Copy, Debug, PartialEq)]
enum BrokerAnswer {
    Nothing,
    /// A TLS alert, or nothing.
    Alert,
    /// This status.
    Status(u16),
    /// An upgrade, and later a close frame with this code.
    Close(u16),
    /// An upgrade, and bytes of MQTT in frames.
    Upgrade,
}

struct Row {
    name: &'static str,
    door: &'static str,
    bytes: fn() -> Vec<u8>,
    answer: BrokerAnswer,
    cause: &'static str,
    /// What stands in the log.
    told: &'static str,
}

fn a_connect() -> Vec<u8> {
    wire::connect(Version::V311, "client", &ConnectOptions::default())
}

/// A request with these header lines beside its host.
fn request(line: &str, headers: &[&str]) -> Vec<u8> {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    format!("{line} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n").into_bytes()
}

const UPGRADE: [&str; 4] = [
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
];

const PROTOCOL: &str = "Sec-WebSocket-Protocol: mqtt";

fn upgrade(path: &str, more: &[&str]) -> Vec<u8> {
    request(&format!("GET {path}"), &[&UPGRADE[..], more].concat())
}

/// An upgrade, and these frames right behind it.
fn upgraded(frames: &[u8]) -> Vec<u8> {
    [upgrade("/mqtt", &[PROTOCOL]), frames.to_vec()].concat()
}

/// A frame with a mask of zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..=125 => frame.push(0x80 | short as u8),
        long => {
            frame.push(0x80 | 126);
            frame.extend((long as u16).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// A ClientHello's beginning, with a session identifier longer than the record.
fn hello() -> Vec<u8> {
    let mut record = vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    record.resize(517, 0xee);
    record
}

const CLAIM: &[u8] = &[0x30, 0xff, 0xff, 0xff, 0x7f, 0, 1, b'a'];

#[rustfmt::skip]
const ROWS: &[Row] = &[
    Row { name: "MQTT on a TLS port", door: "mqtts", bytes: a_connect, answer: BrokerAnswer::Alert, cause: "not_tls", told: "expected TLS, received MQTT" },
    Row { name: "HTTP on a TLS port", door: "wss", bytes: || upgrade("/mqtt", &[PROTOCOL]), answer: BrokerAnswer::Alert, cause: "not_tls", told: "expected TLS, received HTTP" },
    Row { name: "a hello that is none", door: "mqtts", bytes: hello, answer: BrokerAnswer::Alert, cause: "failed", told: "rejected before CONNECT" },
    Row { name: "TLS on a plain port", door: "mqtt", bytes: hello, answer: BrokerAnswer::Nothing, cause: "not_mqtt", told: "received TLS: use a port with TLS" },
    Row { name: "HTTP on a plain port", door: "mqtt", bytes: || request("GET /", &[]), answer: BrokerAnswer::Nothing, cause: "not_mqtt", told: "received an HTTP request" },
    Row { name: "TLS on a WebSocket port", door: "ws", bytes: hello, answer: BrokerAnswer::Status(400), cause: "ws_not_http", told: "expected an HTTP request, received TLS" },
    Row { name: "MQTT on a WebSocket port", door: "ws", bytes: || [a_connect(), b"\r\n\r\n".to_vec()].concat(), answer: BrokerAnswer::Status(400), cause: "ws_not_http", told: "expected an HTTP request, received MQTT" },
    Row { name: "no upgrade", door: "ws", bytes: || request("GET /mqtt", &[]), answer: BrokerAnswer::Status(426), cause: "ws_refused", told: "(426)" },
    Row { name: "version 8", door: "ws", bytes: || request("GET /mqtt", &[UPGRADE[0], UPGRADE[1], UPGRADE[3], PROTOCOL, "Sec-WebSocket-Version: 8"]), answer: BrokerAnswer::Status(426), cause: "ws_refused", told: "(426)" },
    Row { name: "another path", door: "ws", bytes: || upgrade("/", &[PROTOCOL]), answer: BrokerAnswer::Status(404), cause: "ws_refused", told: "(404)" },
    Row { name: "another method", door: "ws", bytes: || request("POST /mqtt", &["Content-Length: 0"]), answer: BrokerAnswer::Status(405), cause: "ws_refused", told: "(405)" },
    Row { name: "another subprotocol", door: "ws", bytes: || upgrade("/mqtt", &["Sec-WebSocket-Protocol: amqp, stomp"]), answer: BrokerAnswer::Status(400), cause: "ws_refused", told: "subprotocols" },
    Row { name: "no subprotocol", door: "ws", bytes: || upgrade("/mqtt", &[]), answer: BrokerAnswer::Status(400), cause: "ws_refused", told: "subprotocols" },
    Row { name: "a page from elsewhere", door: "ws", bytes: || upgrade("/mqtt", &[PROTOCOL, "Origin: https://evil.example"]), answer: BrokerAnswer::Status(403), cause: "ws_refused", told: "(403)" },
    Row { name: "64 KiB of headers", door: "ws", bytes: || upgrade("/mqtt", &[PROTOCOL, &format!("X: {}", "x".repeat(64 << 10))]), answer: BrokerAnswer::Status(431), cause: "ws_too_large", told: "too large" },
    Row { name: "headers without end", door: "ws", bytes: || [b"GET /mqtt HTTP/1.1\r\n".to_vec(), b"a: b\r\n".repeat(10_000)].concat(), answer: BrokerAnswer::Status(431), cause: "ws_too_large", told: "too large" },
    Row { name: "a text frame", door: "ws", bytes: || upgraded(&frame(0x81, b"hello")), answer: BrokerAnswer::Close(1003), cause: "lost", told: "a text frame" },
    Row { name: "a frame without mask", door: "ws", bytes: || upgraded(&[&[0x82, 16][..], &a_connect()].concat()), answer: BrokerAnswer::Close(1002), cause: "lost", told: "without mask" },
    Row { name: "a compressed frame", door: "ws", bytes: || upgraded(&frame(0xc2, b"hello")), answer: BrokerAnswer::Close(1002), cause: "lost", told: "reserved bit" },
    Row { name: "a length of 64 bits", door: "ws", bytes: || upgraded(&[&[0x82, 0xff][..], &[0xff; 12]].concat()), answer: BrokerAnswer::Close(1002), cause: "lost", told: "too large" },
    Row { name: "a ping of 126 bytes", door: "ws", bytes: || upgraded(&frame(0x89, &[0; 126])), answer: BrokerAnswer::Close(1002), cause: "lost", told: "more than 125 bytes" },
    Row { name: "a flood of pings", door: "ws", bytes: || upgraded(&frame(0x89, b"are you there?").repeat(1100)), answer: BrokerAnswer::Close(1008), cause: "lost", told: "flood" },
    Row { name: "fragments without end and content", door: "ws", bytes: || upgraded(&[frame(0x02, b""), frame(0x00, b"").repeat(1100)].concat()), answer: BrokerAnswer::Close(1008), cause: "lost", told: "flood" },
    Row { name: "fragments without end", door: "ws", bytes: || upgraded(&[frame(0x02, CLAIM), frame(0x00, &[0; 1000]).repeat(60)].concat()), answer: BrokerAnswer::Upgrade, cause: "malformed", told: "not CONNECT" },
    Row { name: "a packet of 256 MiB in a frame of a terabyte", door: "ws", bytes: || upgraded(&[&[0x82, 0xff, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &a_connect(), CLAIM].concat()), answer: BrokerAnswer::Upgrade, cause: "protocol_error", told: "larger than allowed" },
];

/// Sends, and takes what comes until the end. Gives where it came from.
async fn play(row: &Row, door: SocketAddr) -> SocketAddr {
    let mut client = WireClient::open(door).await;
    let from = client.local_addr();
    // It may be refused before all of it has been taken.
    let _ = client.try_send(&(row.bytes)()).await;
    let answer = client.rest().await;
    let text = String::from_utf8_lossy(&answer);
    let status = |status: u16| text.starts_with(&format!("HTTP/1.1 {status} "));
    let fits = match row.answer {
        BrokerAnswer::Nothing => answer.is_empty(),
        BrokerAnswer::Alert => answer.is_empty() || answer.starts_with(&[0x15, 3]),
        BrokerAnswer::Status(code) => status(code),
        BrokerAnswer::Close(code) => {
            status(101) && answer.ends_with(&[&[0x88, 2][..], &code.to_be_bytes()].concat())
        }
        BrokerAnswer::Upgrade => status(101),
    };
    assert!(fits, "{}: {:?}, got {text:?}", row.name, row.answer);
    from
}

struct House {
    proxy: Proxy,
    doors: Vec<(&'static str, SocketAddr)>,
    tls: TlsClient,
    _broker: RecordingBroker,
    _folder: Folder,
}

impl House {
    async fn new(connect_timeout: &str) -> Self {
        let (root, folder) = (Authority::root("root"), Folder::default());
        let (cert, key) = folder.keep("localhost", &root.sign("localhost"));
        let broker = RecordingBroker::start(BrokerScript::default()).await;
        let mut file = format!(
            "max_packet_size = \"1MiB\"\nconnect_timeout = \"{connect_timeout}\"\nws.origins = \"https://good.example\"\n\
             tls = {{ server_cert = {cert:?}, server_key = {key:?} }}\n"
        );
        for transport in AT_PORTS {
            file.push_str(&format!(
                "[[listeners]]\nname = \"{0}\"\ntransport = \"{0}\"\nhost = \"127.0.0.1\"\nport = 0\n\
                 target = {{ scheme = \"mqtt\", host = \"127.0.0.1\", port = {1} }}\n",
                scheme(transport),
                broker.addr().port()
            ));
        }
        let mut proxy = Proxy::configured("mqtt", &file).await;
        let mut doors = Vec::new();
        for transport in AT_PORTS {
            doors.push((scheme(transport), proxy.door(scheme(transport)).await));
        }
        Self { proxy, doors, tls: TlsClient::believing(root.pem()), _broker: broker, _folder: folder }
    }

    fn door(&self, name: &str) -> SocketAddr {
        self.doors.iter().find(|(door, _)| *door == name).unwrap().1
    }

    async fn count(&self, door: &str, cause: &str) -> f64 {
        let labels = format!("listener=\"{door}\",cause=\"{cause}\",by=\"client\"");
        self.proxy.metric(&format!("mproxy_connections_closed_total{{{labels}}}")).await
    }
}

#[tokio::test]
async fn whoever_cannot_open_a_door_is_told_and_counted_and_leaves_nothing_behind() {
    let mut house = House::new("10s").await;
    let mut witnesses = Vec::new();
    for transport in AT_PORTS {
        let door = house.door(scheme(transport));
        witnesses.push(login(transport, door, &house.tls, Version::V5, scheme(transport)).await);
    }
    for row in ROWS {
        let before = house.count(row.door, row.cause).await;
        let from = play(row, house.door(row.door)).await;
        let line =
            house.proxy.line(&[&format!("peer_addr={from}"), &format!("cause=\"{}\"", row.cause)]).await;
        assert!(line.contains(row.told) && line.contains("by=\"client\""), "{}: {line}", row.name);
        assert_eq!(house.count(row.door, row.cause).await, before + 1.0, "{}", row.name);
    }

    // All of them again and again, many at a time: once to find out what that takes, and then no more.
    let mut grown = Vec::new();
    for _ in 0..3 {
        let before = house.proxy.process().resident_bytes();
        for _ in 0..4 {
            let mut crowd = JoinSet::new();
            for row in ROWS {
                let door = house.door(row.door);
                crowd.spawn(async move { play(row, door).await });
            }
            crowd.join_all().await;
        }
        grown.push(house.proxy.process().resident_bytes().saturating_sub(before));
    }
    assert!(grown[1] + grown[2] < 4 << 20, "grown by {grown:?} bytes");
    for witness in &mut witnesses {
        let message = Publish { topic: "w", payload: b"w", qos: 1, packet_id: 1, ..Publish::default() };
        witness.send(&wire::publish(Version::V5, &message)).await;
        witness.expect(&wire::puback(1)).await;
    }
    drop(witnesses);
    house.proxy.stop().await;
}

#[tokio::test]
async fn whoever_stops_half_way_is_gone_at_the_deadline() {
    let mut house = House::new("300ms").await;
    let request = upgrade("/mqtt", &[PROTOCOL]);
    let stalls: [(&str, &str, &[u8]); 6] = [
        ("nothing", "mqtt", b""),
        ("no hello", "mqtts", b""),
        ("half a hello", "mqtts", &hello()[..100]),
        ("half a hello", "wss", &hello()[..100]),
        ("half a request", "ws", &request[..100]),
        ("no CONNECT", "ws", &request),
    ];
    for (name, door, bytes) in stalls {
        let before = house.count(door, "too_late").await;
        let mut client = WireClient::open(house.door(door)).await;
        let from = client.local_addr();
        client.send(bytes).await;
        client.rest().await;
        drop(client);
        let line = house.proxy.line(&[&format!("peer_addr={from}"), "cause=\"too_late\""]).await;
        assert!(line.contains("in time") || line.contains("deadline exceeded"), "{name}: {line}");
        assert_eq!(house.count(door, "too_late").await, before + 1.0, "{name}");
    }

    // Hundreds of them at a time: once to find out what that takes, and then no more.
    let mut grown = Vec::new();
    for _ in 0..3 {
        let before = house.proxy.process().resident_bytes();
        let mut crowd = JoinSet::new();
        for number in 0..300 {
            let (_, door, bytes) = stalls[number % stalls.len()];
            let (door, bytes) = (house.door(door), bytes.to_vec());
            crowd.spawn(async move {
                let mut client = WireClient::open(door).await;
                client.send(&bytes).await;
                client.rest().await;
            });
        }
        crowd.join_all().await;
        grown.push(house.proxy.process().resident_bytes().saturating_sub(before));
    }
    assert!(grown[1] + grown[2] < 4 << 20, "grown by {grown:?} bytes");
    house.proxy.stop().await;
}

#[tokio::test]
async fn whoever_is_refused_and_stays_is_counted_as_refused_and_let_go() {
    let mut house = House::new("10s").await;
    let mut staying = WireClient::open(house.door("ws")).await;
    staying.send(&upgrade("/", &[PROTOCOL])).await;
    let from = staying.local_addr();
    let line = house.proxy.line(&[&format!("peer_addr={from}"), "rejected before CONNECT"]).await;
    assert!(line.contains("cause=\"ws_refused\""), "{line}");
    assert_eq!(house.count("ws", "ws_refused").await, 1.0);
    house.proxy.stop().await;
}
