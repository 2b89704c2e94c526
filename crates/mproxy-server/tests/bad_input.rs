//! Bad clients, bad brokers, odd ways to cut good bytes. Each comes to the end that the standard has for it, is told
//! of in one line of the log, and nobody else notices.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use mproxy_testkit::broker::{Acks, BrokerScript, BrokerSession, ConnectReply, RecordingBroker};
use mproxy_testkit::process::free_port;
use mproxy_testkit::wire::{self, ConnectOptions, Publish, Version, WireClient};
use support::{Proxy, VERSIONS};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

const V3: &[Version] = &[Version::V31, Version::V311];
const V5: &[Version] = &[Version::V5];
/// 3.1 says less than those after it.
const STRICTER: &[Version] = &[Version::V311, Version::V5];
const ALL: &[Version] = &[Version::V31, Version::V311, Version::V5];

/// A client that was there before, and should notice nothing.
struct Witness {
    client: WireClient,
    broker: BrokerSession,
    published: u16,
}

impl Witness {
    async fn enter(proxy: &Proxy, broker: &mut RecordingBroker) -> Self {
        let client = proxy.login(Version::V311, "witness").await;
        Self { client, broker: broker.session().await, published: 0 }
    }

    /// Publishes, and is acknowledged; nothing else came.
    async fn works(&mut self) {
        self.published += 1;
        let message =
            Publish { topic: "w", payload: b"w", qos: 1, packet_id: self.published, ..Publish::default() };
        let message = wire::publish(Version::V311, &message);
        self.client.send(&message).await;
        self.client.expect(&wire::puback(self.published)).await;
        let packets = self.broker.packets(usize::from(self.published) + 1).await;
        assert_eq!(packets.last(), Some(&message));
    }
}

fn message(topic: &str, qos: u8, packet_id: u16) -> Publish<'_> {
    Publish { topic, payload: b"payload", qos, packet_id, ..Publish::default() }
}

/// A PUBLISH of QoS 0 in all versions, with this topic as it stands.
fn topic(version: Version, topic: &[u8]) -> Vec<u8> {
    let mut body = wire::string(topic);
    if version == Version::V5 {
        body.push(0);
    }
    wire::packet(0x30, &body)
}

/// A PUBLISH of 5.0 with these properties.
fn properties(properties: &[u8]) -> Vec<u8> {
    wire::publish(Version::V5, &Publish { topic: "a", properties, ..Publish::default() })
}

// ---- after CONNECT

struct Row {
    name: &'static str,
    versions: &'static [Version],
    /// What is sent.
    bytes: fn(Version) -> Vec<u8>,
    /// The code of the DISCONNECT in 5.0.
    code: u8,
    /// What stands in the log.
    told: &'static [&'static str],
}

const MALFORMED: u8 = 0x81;
const PROTOCOL_ERROR: u8 = 0x82;

#[rustfmt::skip]
const AFTER_CONNECT: &[Row] = &[
    Row { name: "packet type 0", versions: ALL, bytes: |_| vec![0x00, 0x00], code: MALFORMED, told: &["packet type 0"] },
    Row { name: "PUBREL without its flags", versions: ALL, bytes: |_| vec![0x60, 2, 0, 1], code: MALFORMED, told: &["PUBREL", "reserved flag bits", "MQTT-3.6.1-1"] },
    Row { name: "SUBSCRIBE without its flags", versions: ALL, bytes: |v| { let mut p = wire::subscribe(v, 1, &[("a", 0)]); p[0] = 0x80; p }, code: MALFORMED, told: &["SUBSCRIBE", "MQTT-3.8.1-1"] },
    Row { name: "PINGREQ with a flag", versions: STRICTER, bytes: |_| vec![0xc1, 0], code: MALFORMED, told: &["PINGREQ", "reserved flag bits"] },
    Row { name: "DISCONNECT with a flag", versions: STRICTER, bytes: |_| vec![0xe2, 0], code: MALFORMED, told: &["DISCONNECT", "MQTT-3.14.1-1"] },
    Row { name: "QoS 3", versions: ALL, bytes: |v| wire::publish(v, &message("a", 3, 1)), code: MALFORMED, told: &["PUBLISH", "QoS 3", "MQTT-3.3.1-4"] },
    Row { name: "DUP with QoS 0", versions: STRICTER, bytes: |v| wire::publish(v, &Publish { dup: true, ..message("a", 0, 0) }), code: MALFORMED, told: &["DUP with QoS 0", "MQTT-3.3.1-2"] },
    Row { name: "a length in more bytes than it needs", versions: ALL, bytes: |_| vec![0xc0, 0x80, 0x00], code: MALFORMED, told: &["more bytes than it needs"] },
    Row { name: "a length of five bytes", versions: ALL, bytes: |_| vec![0x30, 0x80, 0x80, 0x80, 0x80, 0x01], code: MALFORMED, told: &["more than four bytes"] },
    Row { name: "PUBLISH with packet id 0", versions: ALL, bytes: |v| wire::publish(v, &message("a", 1, 0)), code: PROTOCOL_ERROR, told: &["packet identifier 0", "MQTT-2.2.1-3"] },
    Row { name: "SUBSCRIBE with packet id 0", versions: ALL, bytes: |v| wire::subscribe(v, 0, &[("a", 0)]), code: PROTOCOL_ERROR, told: &["packet identifier 0"] },
    Row { name: "UNSUBSCRIBE with packet id 0", versions: ALL, bytes: |v| wire::unsubscribe(v, 0, &["a"]), code: PROTOCOL_ERROR, told: &["packet identifier 0"] },
    Row { name: "a topic with #", versions: ALL, bytes: |v| topic(v, b"a/#"), code: MALFORMED, told: &["wildcard", "MQTT-3.3.2-2"] },
    Row { name: "a topic with +", versions: ALL, bytes: |v| topic(v, b"+/a"), code: MALFORMED, told: &["wildcard", "MQTT-3.3.2-2"] },
    Row { name: "an empty topic", versions: ALL, bytes: |v| topic(v, b""), code: PROTOCOL_ERROR, told: &["topic name is empty", "MQTT-4.7.3-1"] },
    Row { name: "NUL in a topic", versions: ALL, bytes: |v| topic(v, b"a\0b"), code: MALFORMED, told: &["U+0000", "MQTT-1.5.4-2"] },
    Row { name: "a topic that is no UTF-8", versions: ALL, bytes: |v| topic(v, b"a\xffb"), code: MALFORMED, told: &["UTF-8", "MQTT-1.5.4-1"] },
    Row { name: "half a surrogate pair in a topic", versions: ALL, bytes: |v| topic(v, b"a\xed\xa0\x80"), code: MALFORMED, told: &["UTF-8"] },
    Row { name: "a topic longer than its packet", versions: ALL, bytes: |_| vec![0x30, 4, 0, 200, b'a', b'b'], code: MALFORMED, told: &["a field is longer than the packet"] },
    Row { name: "SUBSCRIBE without filters", versions: ALL, bytes: |v| wire::subscribe(v, 1, &[]), code: PROTOCOL_ERROR, told: &["SUBSCRIBE"] },
    Row { name: "UNSUBSCRIBE without filters", versions: ALL, bytes: |v| wire::unsubscribe(v, 1, &[]), code: PROTOCOL_ERROR, told: &["UNSUBSCRIBE"] },
    Row { name: "a filter with # in its middle", versions: ALL, bytes: |v| wire::subscribe(v, 1, &[("a/#/b", 0)]), code: MALFORMED, told: &["#", "MQTT-4.7.1-1"] },
    Row { name: "a filter with + beside other letters", versions: ALL, bytes: |v| wire::subscribe(v, 1, &[("a+", 0)]), code: MALFORMED, told: &["+", "MQTT-4.7.1-2"] },
    Row { name: "a subscription with QoS 3", versions: V5, bytes: |v| wire::subscribe(v, 1, &[("a", 3)]), code: PROTOCOL_ERROR, told: &["requested QoS 3"] },
    Row { name: "a subscription with QoS 3", versions: V3, bytes: |v| wire::subscribe(v, 1, &[("a", 3)]), code: 0, told: &["SUBSCRIBE"] },
    Row { name: "a second CONNECT", versions: ALL, bytes: |v| wire::connect(v, "again", &ConnectOptions::default()), code: PROTOCOL_ERROR, told: &["CONNECT", "MQTT-3.1.0-2"] },
    Row { name: "CONNACK from a client", versions: ALL, bytes: |v| wire::connack(v, false, 0, &[]), code: PROTOCOL_ERROR, told: &["CONNACK", "not allowed in this direction"] },
    Row { name: "SUBACK from a client", versions: ALL, bytes: |v| wire::suback(v, 1, &[0]), code: PROTOCOL_ERROR, told: &["SUBACK", "not allowed in this direction"] },
    Row { name: "PINGRESP from a client", versions: ALL, bytes: |_| wire::pingresp(), code: PROTOCOL_ERROR, told: &["PINGRESP", "not allowed in this direction"] },
    Row { name: "PINGREQ with a body", versions: ALL, bytes: |_| vec![0xc0, 1, 0], code: MALFORMED, told: &["PINGREQ", "too large"] },
    Row { name: "PUBACK cut short", versions: ALL, bytes: |_| vec![0x40, 1, 0], code: MALFORMED, told: &["PUBACK", "too small"] },
    Row { name: "PUBACK with a tail", versions: V3, bytes: |_| vec![0x40, 3, 0, 1, 0], code: 0, told: &["PUBACK"] },
    Row { name: "AUTH in a version without it", versions: V3, bytes: |_| wire::packet(0xf0, &[]), code: 0, told: &["AUTH"] },
    Row { name: "AUTH that nobody asked for", versions: V5, bytes: |_| wire::auth(0x18, &[0x15, 0, 1, b'm']), code: PROTOCOL_ERROR, told: &["AUTH", "MQTT-4.12.0-7"] },
    Row { name: "an unknown property", versions: V5, bytes: |_| properties(&[0x7f, 0]), code: MALFORMED, told: &["unknown property"] },
    Row { name: "a property of another packet", versions: V5, bytes: |_| properties(&[0x21, 0, 1]), code: MALFORMED, told: &["may not carry"] },
    Row { name: "a property twice", versions: V5, bytes: |_| properties(&[0x01, 0, 0x01, 0]), code: PROTOCOL_ERROR, told: &["only once"] },
    Row { name: "topic alias 0", versions: V5, bytes: |_| properties(&[0x23, 0, 0]), code: 0x94, told: &["Topic Alias 0"] },
    Row { name: "a topic alias that the broker did not allow", versions: V5, bytes: |_| properties(&[0x23, 0, 1]), code: 0x94, told: &["PUBLISH", "lias"] },
    Row { name: "a subscription identifier from a client", versions: V5, bytes: |_| properties(&[0x0b, 1]), code: PROTOCOL_ERROR, told: &["Subscription Identifier", "MQTT-3.3.4-6"] },
    Row { name: "No Local on a shared subscription", versions: V5, bytes: |v| wire::subscribe(v, 1, &[("$share/g/a", 4)]), code: PROTOCOL_ERROR, told: &["MQTT-3.8.3-4"] },
    Row { name: "garbage", versions: ALL, bytes: |_| vec![0xff; 300], code: MALFORMED, told: &["malformed packet from client"] },
    Row { name: "a claim over the limit", versions: ALL, bytes: |_| vec![0x30, 0x80, 0x80, 0x80, 0x01, 0, 1, b'a'], code: 0x95, told: &["PUBLISH", "larger than allowed"] },
    Row { name: "a SUBSCRIBE over the limit", versions: ALL, bytes: |_| vec![0x82, 0x80, 0x80, 0x80, 0x01], code: 0x95, told: &["SUBSCRIBE", "larger than allowed"] },
];

#[tokio::test]
async fn whatever_is_malformed_ends_its_own_connection_only() {
    let mut broker = RecordingBroker::start(BrokerScript::default()).await;
    let mut proxy = Proxy::with(broker.addr(), &[("MPROXY_MAX_PACKET_SIZE", "1MiB")]).await;
    let mut witness = Witness::enter(&proxy, &mut broker).await;
    for row in AFTER_CONNECT {
        for &version in row.versions {
            let name = format!("{} in {version:?}", row.name);
            let options = ConnectOptions::default();
            let (mut client, connack) = proxy.connect(version, "bad", &options).await;
            assert_eq!(connack[3], 0, "{name}");
            let mut behind = broker.session().await;
            let from = client.local_addr();
            // What came before is good, and is passed on.
            client.send(&wire::publish(version, &message("good", 0, 0))).await;
            let good = behind.packets(2).await.concat();
            // It may be closed while we are still speaking.
            let _ = client.try_send(&(row.bytes)(version)).await;
            let last = client.rest().await;
            if version == Version::V5 {
                assert_eq!(last.first(), Some(&0xe0), "{name}: no DISCONNECT but {last:02x?}");
                assert_eq!(last.get(2), Some(&row.code), "{name}: {last:02x?}");
                assert_eq!(
                    last.len(),
                    2 + usize::from(last[1]),
                    "{name}: more than a DISCONNECT: {last:02x?}"
                );
            } else {
                assert_eq!(last, b"", "{name}");
            }
            drop(client);
            behind.end().await;
            // Nothing of it reached the broker, and no DISCONNECT either: the will has to fire.
            assert_eq!(behind.received(), good, "{name}");
            drop(behind);
            let told = proxy.end_of(from).await;
            for word in row.told {
                assert!(told.contains(word), "{name}: no {word:?} in {told}");
            }
            assert!(told.contains("by=\"client\""), "{name}: {told}");
            witness.works().await;
        }
    }
    drop(witness);
    proxy.stop().await;
}

// ---- instead of CONNECT

struct Stranger {
    name: &'static str,
    bytes: fn() -> Vec<u8>,
    /// All that is answered.
    answer: &'static [u8],
    told: &'static [&'static str],
}

/// A CONNECT of this level with these flags; keep-alive 0, client id "a".
fn connect(protocol: &str, level: u8, flags: u8) -> Vec<u8> {
    let mut body = wire::string(protocol);
    body.extend([level, flags, 0, 0]);
    if level == 5 {
        body.push(0);
    }
    body.extend(wire::string("a"));
    wire::packet(0x10, &body)
}

/// The beginning of a TLS 1.3 ClientHello.
const CLIENT_HELLO: &[u8] =
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03abcdefghijklmnopqrstuvwxyzabcdef\x20";

#[rustfmt::skip]
const INSTEAD_OF_CONNECT: &[Stranger] = &[
    Stranger { name: "PUBLISH", bytes: || wire::publish(Version::V311, &message("a", 0, 0)), answer: b"", told: &["PUBLISH", "the first packet is not CONNECT", "MQTT-3.1.0-1"] },
    Stranger { name: "PINGREQ", bytes: wire::pingreq, answer: b"", told: &["PINGREQ", "the first packet is not CONNECT"] },
    Stranger { name: "CONNACK", bytes: || wire::connack(Version::V5, false, 0, &[]), answer: b"", told: &["the first packet is not CONNECT"] },
    Stranger { name: "AUTH", bytes: || wire::auth(0x18, &[0x15, 0, 1, b'm']), answer: b"", told: &["the first packet is not CONNECT"] },
    Stranger { name: "HTTP", bytes: || b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n".to_vec(), answer: b"", told: &["client does not speak MQTT: received an HTTP request"] },
    Stranger { name: "TLS", bytes: || CLIENT_HELLO.to_vec(), answer: b"", told: &["client does not speak MQTT: received TLS"] },
    Stranger { name: "SSH", bytes: || b"SSH-2.0-OpenSSH_9.6\r\n".to_vec(), answer: b"", told: &["client does not speak MQTT: received SSH"] },
    Stranger { name: "zeroes", bytes: || vec![0; 300], answer: b"", told: &["packet type 0"] },
    Stranger { name: "garbage", bytes: || vec![0xff; 300], answer: b"", told: &["malformed packet from client"] },
    Stranger { name: "another protocol's name", bytes: || connect("MQTX", 4, 2), answer: b"", told: &["CONNECT", "unknown protocol name", "MQTT-3.1.2-1"] },
    Stranger { name: "level 6", bytes: || connect("MQTT", 6, 2), answer: &[0x20, 3, 0, 0x84, 0], told: &["unsupported protocol level", "MQTT-3.1.2-2"] },
    Stranger { name: "level 2", bytes: || connect("MQTT", 2, 2), answer: &[0x20, 2, 0, 1], told: &["unsupported protocol level"] },
    Stranger { name: "the reserved connect flag, 3.1.1", bytes: || connect("MQTT", 4, 3), answer: b"", told: &["reserved connect flag", "MQTT-3.1.2-3"] },
    Stranger { name: "the reserved connect flag, 5.0", bytes: || connect("MQTT", 5, 3), answer: &[0x20, 3, 0, 0x81, 0], told: &["reserved connect flag", "MQTT-3.1.2-3"] },
    Stranger { name: "a will QoS without a will, 5.0", bytes: || connect("MQTT", 5, 0x0a), answer: &[0x20, 3, 0, 0x81, 0], told: &["Will QoS without a will"] },
    Stranger { name: "a will that is not there, 5.0", bytes: || connect("MQTT", 5, 0x06), answer: &[0x20, 3, 0, 0x81, 0], told: &["CONNECT", "longer than the packet"] },
    Stranger { name: "a password without a user, 3.1.1", bytes: || connect("MQTT", 4, 0x42), answer: b"", told: &["password without user name"] },
    Stranger { name: "bytes behind its end, 5.0", bytes: || { let mut p = connect("MQTT", 5, 2); p[1] += 1; p.push(0); p }, answer: &[0x20, 3, 0, 0x81, 0], told: &["CONNECT", "after the last field"] },
    Stranger { name: "no client id to come back to, 3.1.1", bytes: || wire::connect(Version::V311, "", &ConnectOptions { clean: false, ..ConnectOptions::default() }), answer: &[0x20, 2, 0, 2], told: &["client identifier is empty"] },
    Stranger { name: "a client id that is no UTF-8, 5.0", bytes: || { let mut p = connect("MQTT", 5, 2); *p.last_mut().unwrap() = 0xff; p }, answer: &[0x20, 3, 0, 0x81, 0], told: &["CONNECT", "UTF-8"] },
    Stranger { name: "a length of five bytes", bytes: || vec![0x10, 0x80, 0x80, 0x80, 0x80, 0x01], answer: b"", told: &["CONNECT", "more than four bytes"] },
    Stranger { name: "a claim over the limit, 3.1.1", bytes: || b"\x10\x80\x80\x80\x01\0\x04MQTT\x04\x02\0\0".to_vec(), answer: b"", told: &["CONNECT", "larger than allowed"] },
    Stranger { name: "a claim over the limit, 5.0", bytes: || b"\x10\x80\x80\x80\x01\0\x04MQTT\x05\x02\0\0".to_vec(), answer: &[0x20, 3, 0, 0x95, 0], told: &["CONNECT", "larger than allowed"] },
];

#[tokio::test]
async fn who_does_not_begin_with_a_good_connect_never_reaches_the_broker() {
    let mut broker = RecordingBroker::start(BrokerScript::default()).await;
    let mut proxy = Proxy::with(broker.addr(), &[("MPROXY_MAX_PACKET_SIZE", "1MiB")]).await;
    let mut witness = Witness::enter(&proxy, &mut broker).await;
    for Stranger { name, bytes, answer, told } in INSTEAD_OF_CONNECT {
        let mut client = WireClient::open(proxy.mqtt).await;
        let from = client.local_addr();
        let _ = client.try_send(&bytes()).await;
        let rest = client.rest().await;
        assert!(rest == *answer, "{name}: {rest:02x?}");
        drop(client);
        let line = proxy.end_of(from).await;
        for word in *told {
            assert!(line.contains(word), "{name}: no {word:?} in {line}");
        }
        witness.works().await;
        assert!(broker.try_session().is_none(), "{name} reached the broker");
    }
    drop(witness);
    proxy.stop().await;
}

#[tokio::test]
async fn half_a_connect_is_waited_for_only_so_long() {
    const PATIENT: Duration = Duration::from_millis(700);
    let mut broker = RecordingBroker::start(BrokerScript::default()).await;
    let mut proxy = Proxy::with(broker.addr(), &[("MPROXY_CONNECT_TIMEOUT", "700ms")]).await;
    let mut witness = Witness::enter(&proxy, &mut broker).await;
    let door = proxy.mqtt;
    let mut waiting = JoinSet::new();
    for version in VERSIONS {
        let whole = wire::connect(version, "never", &ConnectOptions::default());
        for half in [0, 1, whole.len() - 1].map(|len| whole[..len].to_vec()) {
            waiting.spawn(async move {
                let began = Instant::now();
                let mut client = WireClient::open(door).await;
                client.send(&half).await;
                client.expect_closed().await;
                assert!(began.elapsed() >= PATIENT, "{:?}", began.elapsed());
                client
            });
        }
        waiting.spawn(async move {
            // A byte now and then does not push the deadline back.
            let mut client = WireClient::open(door).await;
            let mut pace = tokio::time::interval(PATIENT / 6);
            for byte in whole.chunks(1) {
                pace.tick().await;
                if client.try_send(byte).await.is_err() {
                    break;
                }
            }
            client.expect_closed().await;
            client
        });
    }
    while let Some(client) = waiting.join_next().await {
        let line = proxy.line_of(client.unwrap()).await;
        assert!(line.contains("deadline exceeded: connect"), "{line}");
    }
    witness.works().await;
    assert!(broker.try_session().is_none());
    drop(witness);
    proxy.stop().await;
}

// ---- good bytes, oddly cut

#[tokio::test]
async fn a_byte_at_a_time_is_as_good_as_a_packet() {
    let mut broker = RecordingBroker::start(BrokerScript::default()).await;
    let proxy = Proxy::before(broker.addr()).await;
    for &version in ALL {
        let mut client = WireClient::open(proxy.mqtt).await;
        let options = ConnectOptions { username: Some("ann"), ..ConnectOptions::default() };
        let mut sent = wire::connect(version, "slow", &options);
        client.send_split(&sent, 1).await;
        client.expect(&wire::connack(version, false, 0, &[])).await;
        let packets = [
            wire::publish(version, &message("slow/0", 0, 0)),
            wire::publish(version, &message("slow/1", 1, 1)),
            wire::publish(version, &message("slow/2", 2, 2)),
            wire::subscribe(version, 3, &[("a", 0), ("b/#", 1)]),
            wire::pingreq(),
        ]
        .concat();
        client.send_split(&packets, 1).await;
        for answer in [wire::puback(1), wire::pubrec(2), wire::suback(version, 3, &[0, 1]), wire::pingresp()]
        {
            client.expect(&answer).await;
        }
        sent.extend(packets);
        let received = broker.session().await.bytes(sent.len()).await;
        assert!(received == sent, "{version:?}: {received:02x?}");
    }
    proxy.stop().await;
}

#[tokio::test]
async fn a_thousand_packets_in_one_segment_are_a_thousand_packets() {
    let mut broker = RecordingBroker::start(BrokerScript::default()).await;
    let proxy = Proxy::before(broker.addr()).await;
    for &version in ALL {
        let numbers = 1..=1000u16;
        let publish = |number: u16| {
            let (topic, payload) = (format!("t/{}", number % 7), number.to_string());
            let qos = (number % 3) as u8;
            let message = Publish { topic: &topic, payload: payload.as_bytes(), ..message("", qos, number) };
            wire::publish(version, &message)
        };
        let acknowledged = |number: u16| match number % 3 {
            1 => Some(wire::puback(number)),
            2 => Some(wire::pubrec(number)),
            _ => None,
        };
        let packets: Vec<u8> = numbers.clone().flat_map(publish).collect();
        let answers: Vec<Vec<u8>> = numbers.filter_map(acknowledged).collect();
        // Less than what loopback carries in one piece.
        assert!(packets.len() < 30_000);
        let connect = wire::connect(version, "many", &ConnectOptions::default());

        let mut client = proxy.login(version, "many").await;
        client.send(&packets).await;
        for answer in &answers {
            client.expect(answer).await;
        }
        let received = broker.session().await.bytes(connect.len() + packets.len()).await;
        assert!(received == [connect.clone(), packets.clone()].concat(), "{version:?}");

        // A client need not wait for CONNACK.
        let mut client = WireClient::open(proxy.mqtt).await;
        let sent = [connect, packets].concat();
        client.send(&sent).await;
        client.expect(&wire::connack(version, false, 0, &[])).await;
        for answer in &answers {
            client.expect(answer).await;
        }
        let received = broker.session().await.bytes(sent.len()).await;
        assert!(received == sent, "{version:?}, at once");
    }
    proxy.stop().await;
}

#[tokio::test]
async fn the_largest_packet_that_is_allowed_passes_and_one_byte_more_does_not() {
    const MOST: usize = 100_000;
    let mut broker = RecordingBroker::start(BrokerScript::default()).await;
    let proxy = Proxy::with(broker.addr(), &[("MPROXY_MAX_PACKET_SIZE", &MOST.to_string())]).await;
    for &version in ALL {
        let frame =
            wire::publish(version, &Publish { payload: &[0; 99_000], ..message("a", 1, 1) }).len() - 99_000;
        for more in [0, 1] {
            let payload = vec![3; MOST - frame + more];
            let packet = wire::publish(version, &Publish { payload: &payload, ..message("a", 1, 1) });
            assert_eq!(packet.len(), MOST + more);
            let mut client = proxy.login(version, "large").await;
            let mut behind = broker.session().await;
            let _ = client.try_send(&packet).await;
            if more == 0 {
                client.expect(&wire::puback(1)).await;
                assert!(behind.packets(2).await[1] == packet);
            } else {
                let end = if version == Version::V5 { vec![0xe0, 1, 0x95] } else { vec![] };
                assert_eq!(client.rest().await, end, "{version:?}");
                behind.end().await;
                assert_eq!(behind.packets(1).await.len(), 1);
            }
        }
    }
    proxy.stop().await;
}

#[tokio::test]
async fn a_goodbye_arrives_though_its_sender_is_gone() {
    let mut broker = RecordingBroker::start(BrokerScript::default()).await;
    let proxy = Proxy::before(broker.addr()).await;
    for round in 0..20 {
        for version in VERSIONS {
            let mut client = proxy.login(version, "brief").await;
            let mut behind = broker.session().await;
            let said = wire::publish(version, &message("a", 1, 1));
            client.send(&[said.clone(), wire::disconnect()].concat()).await;
            // With a reset, the acknowledgement finds nobody.
            if round % 2 == 0 {
                client.abort();
            } else {
                drop(client);
            }
            behind.end().await;
            assert_eq!(behind.packets(3).await[1..], [said, wire::disconnect()], "{version:?}, {round}");
        }
    }
    proxy.stop().await;
}

#[tokio::test]
async fn a_client_that_vanishes_within_a_packet_is_cut_off_at_the_broker() {
    let mut broker = RecordingBroker::start(BrokerScript::default()).await;
    let mut proxy = Proxy::before(broker.addr()).await;
    let mut witness = Witness::enter(&proxy, &mut broker).await;
    for version in VERSIONS {
        // Small ones wait for their last byte, large ones stream.
        for size in [100, 100_000] {
            let payload = vec![7; size];
            let half = wire::publish(version, &Publish { payload: &payload, ..message("a", 0, 0) });
            for reset in [false, true] {
                let mut client = proxy.login(version, "gone").await;
                let mut behind = broker.session().await;
                let from = client.local_addr();
                client.send(&half[..half.len() / 2]).await;
                if reset {
                    client.abort();
                } else {
                    drop(client);
                }
                behind.end().await;
                assert!(!behind.received().ends_with(&wire::disconnect()));
                let line = proxy.end_of(from).await;
                assert!(line.contains("cause=\"lost\"") && line.contains("by=\"client\""), "{line}");
            }
        }
    }
    witness.works().await;
    drop(witness);
    proxy.stop().await;
}

// ---- bad brokers

/// What a client is told that gets no further than CONNECT, because the broker fails.
fn unavailable(version: Version) -> Vec<u8> {
    match version {
        Version::V5 => wire::connack(version, false, 0x88, &[]),
        Version::V31 | Version::V311 => wire::connack(version, false, 3, &[]),
    }
}

/// mproxy before a broker that fails, which tries for a second and tells its clients so or so.
async fn impatient(broker: SocketAddr, on_unavailable: &str) -> Proxy {
    Proxy::with(broker, &[("MPROXY_CONNECT_TIMEOUT", "1s"), ("MPROXY_ON_UNAVAILABLE", on_unavailable)]).await
}

/// A client meets trouble, and sees what is configured for it; the line of its end holds these words.
async fn meets_trouble(proxy: &mut Proxy, version: Version, on_unavailable: &str, told: [&str; 3]) {
    let mut client = WireClient::open(proxy.mqtt).await;
    client.send(&wire::connect(version, "early", &ConnectOptions::default())).await;
    if on_unavailable == "connack" {
        client.expect(&unavailable(version)).await;
    }
    client.expect_closed().await;
    let line = proxy.line_of(client).await;
    assert!(told.iter().all(|word| line.contains(word)), "{line}");
}

#[tokio::test]
async fn a_broker_that_is_down_is_told_as_such() {
    let nobody = ([127, 0, 0, 1], free_port()).into();
    for on_unavailable in ["close", "connack"] {
        let mut proxy = impatient(nobody, on_unavailable).await;
        for &version in ALL {
            let told = ["refused the connection", "by=\"broker\"", " WARN "];
            meets_trouble(&mut proxy, version, on_unavailable, told).await;
        }
        proxy.stop().await;
    }
}

#[tokio::test]
async fn a_broker_that_never_gets_to_connack_is_unavailable() {
    let garbage = b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec();
    for (connack, told) in [
        (garbage, ["broker does not speak MQTT: received an HTTP answer", "by=\"broker\"", " WARN "]),
        (vec![0x20, 0x80, 0x80, 0x80, 0x80, 1], ["malformed packet from broker", "by=\"broker\"", " WARN "]),
        (wire::pingresp(), ["protocol error by broker: PINGRESP", "by=\"broker\"", " WARN "]),
        // The client's bytes may be why: nobody is blamed.
        (vec![], ["broker closed before CONNACK", "by=\"unknown\"", " INFO "]),
    ] {
        let script = BrokerScript { connack: ConnectReply::Bytes(connack.clone()), acks: Acks::ByHand };
        let mut broker = RecordingBroker::start(script).await;
        let on_unavailable = if connack.len() > 2 { "connack" } else { "close" };
        let mut proxy = impatient(broker.addr(), on_unavailable).await;
        for &version in ALL {
            if connack.is_empty() {
                let refused = meets_trouble(&mut proxy, version, on_unavailable, told);
                let closing = async {
                    let mut session = broker.session().await;
                    session.packets(1).await;
                    session.close().await;
                };
                tokio::join!(refused, closing);
            } else {
                meets_trouble(&mut proxy, version, on_unavailable, told).await;
            }
        }
        proxy.stop().await;
    }
}

#[tokio::test]
async fn a_broker_that_never_answers_connect_is_waited_for_only_so_long() {
    let broker =
        RecordingBroker::start(BrokerScript { connack: ConnectReply::Never, acks: Acks::ByHand }).await;
    let mut proxy = Proxy::with(broker.addr(), &[("MPROXY_ON_UNAVAILABLE", "connack")]).await;
    let options = ConnectOptions::default();
    let answers = timeout(Duration::from_secs(19), async {
        tokio::join!(
            proxy.connect(Version::V311, "patient", &options),
            proxy.connect(Version::V5, "patient", &options)
        )
    });
    let ((old, told_old), (new, told_new)) = answers.await.expect("well within the helper's own patience");
    assert_eq!(told_old, unavailable(Version::V311));
    assert_eq!(told_new, unavailable(Version::V5));
    for client in [old, new] {
        let line = proxy.line_of(client).await;
        assert!(line.contains("deadline exceeded: connack"), "{line}");
    }
    proxy.stop().await;
}

#[tokio::test]
async fn a_broker_s_own_refusal_is_passed_on() {
    for (version, code) in [(Version::V31, 2), (Version::V311, 5), (Version::V5, 0x8c)] {
        let script = BrokerScript { connack: ConnectReply::Refuse(code), ..BrokerScript::default() };
        let broker = RecordingBroker::start(script).await;
        let mut proxy = Proxy::before(broker.addr()).await;
        let (mut client, connack) = proxy.connect(version, "unwanted", &ConnectOptions::default()).await;
        assert_eq!(connack, wire::connack(version, false, code, &[]));
        client.expect_closed().await;
        let line = proxy.line_of(client).await;
        assert!(line.contains(&format!("broker refused the CONNECT ({code:#04x})")), "{line}");
        proxy.stop().await;
    }
}

#[tokio::test]
async fn what_a_dying_broker_said_last_still_arrives() {
    let mut broker =
        RecordingBroker::start(BrokerScript { acks: Acks::ByHand, ..BrokerScript::default() }).await;
    let mut proxy = Proxy::before(broker.addr()).await;
    let mut witness_client = proxy.login(Version::V311, "witness").await;
    let witness_broker = broker.session().await;
    for &version in ALL {
        // Enough to be under way when the end comes.
        let payload = vec![9; 300_000];
        let last = wire::publish(version, &Publish { payload: &payload, ..message("last/words", 0, 0) });
        let mut client = proxy.login(version, "left").await;
        let session = broker.session().await;
        session.send([last.clone(), wire::pingresp()].concat()).await;
        session.close().await;
        client.expect(&last).await;
        client.expect(&wire::pingresp()).await;
        client.expect_closed().await;
        let line = proxy.line_of(client).await;
        assert!(line.contains("broker closed its connection without DISCONNECT"), "{line}");

        // With a reset there are no last words, but there is an end.
        let mut client = proxy.login(version, "left").await;
        broker.session().await.abort().await;
        client.expect_closed().await;
        let line = proxy.line_of(client).await;
        assert!(line.contains("by=\"broker\"") && line.contains("cause=\"lost\""), "{line}");

        // Half a packet is passed on as far as it came (3.1.1 has no other way), or not at all.
        let mut client = proxy.login(version, "left").await;
        let session = broker.session().await;
        session.send(&last[..last.len() / 2]).await;
        session.close().await;
        let rest = client.rest().await;
        assert!(last.starts_with(&rest), "{version:?}: {} bytes of something else", rest.len());
    }
    witness_broker.send(wire::pingresp()).await;
    witness_client.expect(&wire::pingresp()).await;
    drop(witness_client);
    proxy.stop().await;
}

#[tokio::test]
async fn a_broker_s_disconnect_is_the_last_that_is_heard() {
    let mut broker =
        RecordingBroker::start(BrokerScript { acks: Acks::ByHand, ..BrokerScript::default() }).await;
    let mut proxy = Proxy::before(broker.addr()).await;
    // Session taken over, with a reason string, and something that may not follow.
    let goodbye = wire::disconnect_with(0x8e, &[0x1f, 0, 3, b'b', b'y', b'e']);
    for then in [vec![], wire::pingresp()] {
        let mut client = proxy.login(Version::V5, "taken").await;
        let session = broker.session().await;
        session.send([goodbye.clone(), then].concat()).await;
        session.close().await;
        client.expect(&goodbye).await;
        client.expect_closed().await;
        let line = proxy.line_of(client).await;
        assert!(line.contains("session taken over by another connection of this client (0x8e)"), "{line}");
    }
    proxy.stop().await;
}

#[tokio::test]
async fn a_broker_that_sends_garbage_is_cut_off() {
    let mut broker =
        RecordingBroker::start(BrokerScript { acks: Acks::ByHand, ..BrokerScript::default() }).await;
    let mut proxy = Proxy::before(broker.addr()).await;
    let garbage: [(&str, &[u8], &str); 5] = [
        ("type 0", &[0, 0], "packet type 0"),
        ("QoS 3", &[0x36, 5, 0, 1, b'a', 0, 1], "QoS 3"),
        ("five bytes of length", &[0x30, 0x80, 0x80, 0x80, 0x80, 1], "more than four bytes"),
        ("SUBSCRIBE from the broker", &[0x82, 6, 0, 1, 0, 1, b'a', 0], "not allowed in this direction"),
        ("a second CONNACK", &[0x20, 2, 0, 0], "CONNACK"),
    ];
    for &version in ALL {
        for (name, bytes, told) in garbage {
            let mut client = proxy.login(version, "honest").await;
            let mut session = broker.session().await;
            let good = wire::publish(version, &message("good", 0, 0));
            session.send([&good[..], bytes].concat()).await;
            client.expect(&good).await;
            let rest = client.rest().await;
            if version == Version::V5 {
                assert!(matches!(rest[..], [0xe0, _, 0x80, ..]), "{name}: {rest:02x?}");
            } else {
                assert_eq!(rest, b"", "{name}");
            }
            session.end().await;
            drop(session);
            let line = proxy.line_of(client).await;
            assert!(line.contains("by=\"broker\"") && line.contains(told), "{name}: {line}");
            assert!(line.contains(" WARN "), "{line}");
        }
    }
    proxy.stop().await;
}
