//! The bytes themselves: where nothing is decided otherwise they pass as they are, however large a packet is and
//! however slow its reader, and none of it piles up in mproxy.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

#[path = "support/devices.rs"]
mod devices;
mod support;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use mproxy_testkit::PATIENCE;
use mproxy_testkit::broker::{BrokerScript, RecordingBroker};
use mproxy_testkit::hook::HookService;
use mproxy_testkit::mosquitto::{Mosquitto, publish, subscriber};
use mproxy_testkit::tap::{Recording, Tap};
use mproxy_testkit::wire::{self, Publish, Version, WireClient};
use support::{Proxy, VERSIONS, flag, until};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

// ---- real clients, byte for byte

/// A tap before mproxy and one behind it, and a broker at the end.
struct Line {
    near: Tap,
    far: Tap,
    broker: Mosquitto,
    proxy: Proxy,
}

impl Line {
    async fn lay(seed: u64, variables: &[(&str, &str)]) -> Self {
        println!("pieces of seed {seed}");
        let broker = Mosquitto::start().await;
        let far = Tap::start(broker.addr(), seed).await;
        let proxy = Proxy::with(far.addr(), variables).await;
        let near = Tap::start(proxy.mqtt, seed + 1).await;
        Self { near, far, broker, proxy }
    }

    fn door(&self) -> SocketAddr {
        self.near.addr()
    }

    /// What passed before mproxy is what passed behind it.
    async fn is_the_same(&mut self, what: &str) {
        let (near, far) = (self.near.recording().await, self.far.recording().await);
        let Recording { up, down } = near;
        assert!(up.len() > 12 && down.len() >= 4, "{what}: no session, but {up:02x?} and {down:02x?}");
        same(&format!("{what}, up"), &up, &far.up);
        same(&format!("{what}, down"), &far.down, &down);
    }
}

fn same(what: &str, sent: &[u8], received: &[u8]) {
    if sent == received {
        return;
    }
    let at = sent.iter().zip(received).take_while(|(sent, received)| sent == received).count();
    let near = |bytes: &[u8]| bytes[at.saturating_sub(8)..bytes.len().min(at + 24)].to_vec();
    panic!(
        "{what}: {} bytes sent, {} received, which differ at {at}: {:02x?} became {:02x?}",
        sent.len(),
        received.len(),
        near(sent),
        near(received)
    );
}

/// Every kind of session that mosquitto's clients and rumqttc have.
async fn real_clients_pass_untouched(line: &mut Line) {
    let door = line.door();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("large");
    std::fs::write(&file, &*PATTERN).unwrap();
    let large = file.to_str().unwrap();
    for version in [Version::V31, Version::V311, Version::V5] {
        let flag = flag(version);
        let id = format!("persistent-{flag}");
        let mut publishes: Vec<Vec<&str>> = vec![
            vec!["-q", "0", "-t", "bytes/a", "-m", "zero"],
            vec!["-q", "1", "-t", "bytes/ä/ö", "-m", "one", "-r"],
            vec!["-q", "2", "-t", "bytes/b", "-m", "two", "--repeat", "5"],
            vec!["-q", "2", "-t", "bytes/c", "-n", "-i", "named", "-u", "ann", "-P", "secret", "-k", "7"],
            vec!["-q", "1", "-t", "bytes/d", "-f", large],
            vec![
                "-t",
                "bytes/e",
                "-m",
                "x",
                "--will-topic",
                "w",
                "--will-payload",
                "gone",
                "--will-qos",
                "1",
            ],
        ];
        if version == Version::V5 {
            publishes.extend([
                vec![
                    "-q",
                    "1",
                    "-t",
                    "bytes/f",
                    "-m",
                    "x",
                    "-D",
                    "publish",
                    "user-property",
                    "ключ",
                    "значение",
                    "-D",
                    "publish",
                    "user-property",
                    "k",
                    "v",
                    "-D",
                    "publish",
                    "content-type",
                    "text/plain",
                    "-D",
                    "publish",
                    "response-topic",
                    "reply/here",
                    "-D",
                    "publish",
                    "correlation-data",
                    "42",
                    "-D",
                    "publish",
                    "message-expiry-interval",
                    "60",
                    "-D",
                    "publish",
                    "payload-format-indicator",
                    "1",
                ],
                vec![
                    "-q",
                    "1",
                    "-t",
                    "bytes/g",
                    "-m",
                    "x",
                    "-D",
                    "connect",
                    "receive-maximum",
                    "3",
                    "-D",
                    "connect",
                    "user-property",
                    "a",
                    "b",
                    "-D",
                    "connect",
                    "maximum-packet-size",
                    "4000",
                    "-D",
                    "connect",
                    "topic-alias-maximum",
                    "9",
                    "-x",
                    "30",
                ],
                // With an alias, which mosquitto allows.
                vec![
                    "-q",
                    "1",
                    "-t",
                    "bytes/h",
                    "-m",
                    "x",
                    "--repeat",
                    "4",
                    "-D",
                    "publish",
                    "topic-alias",
                    "1",
                ],
            ]);
        }
        for args in publishes {
            let ended = publish(door, ["-V", flag].iter().chain(&args)).await;
            assert_eq!(ended.code(), Some(0), "{args:?}: {:#?}", ended.lines);
            line.is_the_same(&format!("mosquitto_pub -V {flag} {args:?}")).await;
        }

        let mut subscribes: Vec<Vec<&str>> = vec![
            vec!["-q", "0", "-t", "down/#"],
            vec!["-q", "1", "-t", "down/+", "-t", "other/#", "-U", "other/#"],
            vec!["-q", "2", "-t", "down/#", "-c", "-i", &id],
        ];
        if version == Version::V5 {
            subscribes.push(vec![
                "-q",
                "2",
                "-t",
                "down/#",
                "-D",
                "subscribe",
                "subscription-identifier",
                "77",
                "-D",
                "subscribe",
                "user-property",
                "a",
                "b",
                "-D",
                "connect",
                "topic-alias-maximum",
                "5",
                "--retain-as-published",
            ]);
        }
        for args in subscribes {
            let reader = subscriber(door, ["-V", flag, "-C", "4"].iter().chain(&args)).await;
            for qos in ["0", "1", "2"] {
                let sent = ["-V", flag, "-q", qos, "-t", "down/a", "-m", "hello"];
                assert_eq!(publish(line.broker.addr(), sent).await.code(), Some(0));
            }
            let sent = ["-V", flag, "-q", "2", "-t", "down/a", "-f", large];
            assert_eq!(publish(line.broker.addr(), sent).await.code(), Some(0));
            let ended = reader.end().await.unwrap();
            assert_eq!(ended.code(), Some(0), "{args:?} {:?}", ended.lines);
            line.is_the_same(&format!("mosquitto_sub -V {flag} {args:?}")).await;
        }
    }
    devices::rumqttc_311(door).await;
    line.is_the_same("rumqttc, 3.1.1").await;
    devices::rumqttc_5(door).await;
    line.is_the_same("rumqttc, 5.0").await;
}

#[tokio::test]
async fn where_everything_is_allowed_real_clients_pass_byte_for_byte() {
    for seed in [1, 2] {
        let mut line = Line::lay(seed, &[]).await;
        real_clients_pass_untouched(&mut line).await;
        line.proxy.stop().await;
    }
}

#[tokio::test]
async fn where_a_service_allows_them_real_clients_pass_byte_for_byte() {
    let hook = HookService::start().await;
    let mut line = Line::lay(3, &[("MPROXY_POLICY_URL", &hook.url())]).await;
    real_clients_pass_untouched(&mut line).await;
    line.proxy.stop().await;
}

// ---- large packets

const PERIOD: usize = 251;

/// No period of it is a power of two, as those of buffers are.
static PATTERN: LazyLock<Vec<u8>> =
    LazyLock::new(|| (0..PERIOD * 1200).map(|at| (at % PERIOD) as u8).collect());

/// The largest packet that there is: its head, and how much payload follows.
fn largest(version: Version, topic: &str, qos: u8) -> (Vec<u8>, usize) {
    sized(version, topic, qos, 268_435_455)
}

fn sized(version: Version, topic: &str, qos: u8, remaining: usize) -> (Vec<u8>, usize) {
    let empty = wire::publish(version, &Publish { topic, qos, packet_id: 1, ..Publish::default() });
    let head = &empty[2..];
    let mut packet = vec![empty[0]];
    packet.extend(wire::remaining_length(remaining));
    packet.extend(head);
    (packet, remaining - head.len())
}

/// Writes so much of the pattern.
async fn pour(to: &mut (impl AsyncWrite + Unpin), mut len: usize) {
    while len > 0 {
        let piece = &PATTERN[..PATTERN.len().min(len)];
        timeout(PATIENCE, to.write_all(piece)).await.expect("nobody reads").unwrap();
        len -= piece.len();
    }
}

/// Reads `head`, and then so much of the pattern.
async fn catch(from: &mut (impl AsyncRead + Unpin), head: &[u8], len: usize) {
    let mut came = vec![0; head.len()];
    timeout(PATIENCE, from.read_exact(&mut came)).await.expect("no head came").unwrap();
    assert!(came == head, "{head:02x?} became {came:02x?}");
    let (mut piece, mut at) = (vec![0; len.min(64 << 10)], 0);
    while at < len {
        let most = piece.len().min(len - at);
        let read = timeout(PATIENCE, from.read(&mut piece[..most])).await;
        let read = read.unwrap_or_else(|_| panic!("only {at} of {len} bytes came")).unwrap();
        assert!(read > 0, "the end after {at} of {len} bytes");
        assert!(piece[..read] == PATTERN[at % PERIOD..][..read], "changed between {at} and {}", at + read);
        at += read;
    }
}

/// A broker for one test that keeps nothing.
struct Bare(TcpListener);

impl Bare {
    async fn start() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn addr(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// A client and the broker's end of its session.
    async fn session(&self, proxy: &Proxy, version: Version, id: &str) -> (TcpStream, TcpStream) {
        let at_broker = async {
            let (stream, _) = timeout(PATIENCE, self.0.accept()).await.expect("nobody came").unwrap();
            stream.set_nodelay(true).unwrap();
            let mut session = WireClient::over(stream);
            session.packet().await;
            session.send(&wire::connack(version, false, 0, &[])).await;
            session.into_inner()
        };
        let (client, broker) = tokio::join!(proxy.login(version, id), at_broker);
        (client.into_inner(), broker)
    }
}

/// What mproxy holds more, at its worst and in the end, because of `scene`.
async fn growth(proxy: &mut Proxy, scene: impl Future<Output = ()>) -> (u64, u64) {
    let process = proxy.process();
    process.forget_peak();
    let before = process.resident_bytes();
    scene.await;
    let after = process.resident_bytes().saturating_sub(before);
    (process.peak_resident_bytes().saturating_sub(before), after)
}

const MIB: u64 = 1 << 20;

/// What was sent once before, so that only what grows with the packet is counted.
const WARM: usize = 8 << 20;

fn small_growth(what: &str, (peak, after): (u64, u64)) {
    println!("{what}: {} KiB at its peak, {} KiB after", peak >> 10, after >> 10);
    assert!(peak < MIB && after < MIB, "{what}: grew by {peak} bytes, and {after} in the end");
}

/// A PUBLISH through mproxy, and its acknowledgement back.
async fn passes(client: &mut TcpStream, broker: &mut TcpStream, sent: (Vec<u8>, usize), heard: &[u8]) {
    let (head, len) = sent;
    tokio::join!(
        async {
            client.write_all(&head).await.unwrap();
            pour(client, len).await;
        },
        catch(broker, heard, len)
    );
    broker.write_all(&wire::puback(1)).await.unwrap();
    let mut puback = [0; 4];
    timeout(PATIENCE, client.read_exact(&mut puback)).await.expect("no PUBACK").unwrap();
    assert_eq!(puback, wire::puback(1)[..]);
}

/// A PUBLISH of QoS 0 from one end to the other.
async fn flows(
    from: &mut (impl AsyncWrite + Unpin),
    to: &mut (impl AsyncRead + Unpin),
    (head, len): (Vec<u8>, usize),
) {
    tokio::join!(
        async {
            from.write_all(&head).await.unwrap();
            pour(from, len).await;
        },
        catch(to, &head, len)
    );
}

#[tokio::test]
async fn the_largest_packet_passes_through_a_memory_that_does_not_grow() {
    let bare = Bare::start().await;
    let mut proxy = Proxy::with(bare.addr(), &[]).await;
    for version in VERSIONS {
        let (mut client, mut broker) = bare.session(&proxy, version, "large").await;
        let warm = sized(version, "large", 1, WARM);
        passes(&mut client, &mut broker, warm.clone(), &warm.0).await;
        let sent = largest(version, "large", 1);
        assert_eq!(sent.0.len() + sent.1, 268_435_460, "the whole of it");
        let heard = sent.0.clone();
        let grown = growth(&mut proxy, passes(&mut client, &mut broker, sent, &heard)).await;
        small_growth(&format!("256 MiB up, {version:?}"), grown);

        flows(&mut broker, &mut client, sized(version, "large", 0, WARM)).await;
        let sent = largest(version, "large", 0);
        let grown = growth(&mut proxy, flows(&mut broker, &mut client, sent));
        small_growth(&format!("256 MiB down, {version:?}"), grown.await);
    }
    proxy.stop().await;
}

#[tokio::test]
async fn the_largest_packet_streams_once_the_service_has_decided_its_topic() {
    let (bare, hook) = (Bare::start().await, HookService::start().await);
    let mut proxy = Proxy::with(bare.addr(), &[("MPROXY_POLICY_URL", &hook.url())]).await;
    let version = Version::V5;
    let (mut client, mut broker) = bare.session(&proxy, version, "large").await;
    // Allowed as it is, and under another name.
    for (topic, becomes) in [("free/large", "free/large"), ("old/large", "new/large")] {
        let (warm, heard) = (sized(version, topic, 1, WARM), sized(version, becomes, 1, WARM).0);
        passes(&mut client, &mut broker, warm, &heard).await;
        let (sent, heard) = (largest(version, topic, 1), largest(version, becomes, 1).0);
        let grown = growth(&mut proxy, passes(&mut client, &mut broker, sent, &heard)).await;
        small_growth(&format!("256 MiB decided by the service, {topic}"), grown);
    }
    // Refused: the client is heard out, the broker hears nothing of it.
    let (head, len) = largest(version, "forbidden/large", 1);
    let grown = growth(&mut proxy, async {
        client.write_all(&head).await.unwrap();
        pour(&mut client, len).await;
        let mut puback = [0; 5];
        timeout(PATIENCE, client.read_exact(&mut puback)).await.expect("no PUBACK").unwrap();
        assert_eq!((puback[0], puback[4]), (0x40, 0x87));
    });
    small_growth("256 MiB refused by the service", grown.await);
    let after = wire::publish(version, &Publish { topic: "free/after", ..Publish::default() });
    client.write_all(&after).await.unwrap();
    let mut heard = vec![0; after.len()];
    timeout(PATIENCE, broker.read_exact(&mut heard)).await.expect("nothing came").unwrap();
    assert_eq!(heard, after);
    drop((client, broker));
    proxy.stop().await;
}

#[tokio::test]
async fn fields_of_any_length_pass_in_any_pieces() {
    let hook = HookService::start().await;
    let (url, long) = (hook.url(), wire::long_string(65_535));
    // User properties, far more of them than one read brings.
    let many: Vec<u8> = (0..4000)
        .flat_map(|number| {
            [vec![0x26], wire::string(format!("name {number}")), wire::string("value")].concat()
        })
        .collect();
    let filters: Vec<String> = (0..20_000).map(|number| format!("filter/number/{number}/#")).collect();
    let filters: Vec<(&str, u8)> = filters.iter().map(|filter| (filter.as_str(), 1)).collect();
    let payload = vec![5; 100_000];
    // More of them than are taken where nothing is configured.
    let properties = ("MPROXY_MAX_USER_PROPERTIES", "128KiB");
    for variables in [&[properties][..], &[properties, ("MPROXY_POLICY_URL", url.as_str())]] {
        let mut broker = RecordingBroker::start(BrokerScript::default()).await;
        let proxy = Proxy::with(broker.addr(), variables).await;
        for (version, properties) in [(Version::V311, &[][..]), (Version::V5, &many)] {
            let publish = |packet_id, topic, payload| {
                let message = Publish { topic, payload, qos: 1, packet_id, properties, ..Publish::default() };
                wire::publish(version, &message)
            };
            let packets = [
                publish(1, &long, &payload),
                publish(2, &long, b""),
                publish(3, "a", &payload),
                wire::subscribe(version, 4, &filters),
            ];
            let answers =
                [wire::puback(1), wire::puback(2), wire::puback(3), wire::suback(version, 4, &[1; 20_000])];
            for pieces in [1 << 20, 33_333] {
                let mut client = proxy.login(version, &long).await;
                client.send_split(&packets.concat(), pieces).await;
                for answer in &answers {
                    client.expect(answer).await;
                }
                let heard = broker.session().await.packets(5).await;
                for (sent, heard) in packets.iter().zip(&heard[1..]) {
                    same(&format!("{version:?} in pieces of {pieces}"), sent, heard);
                }
            }
        }
        proxy.stop().await;
    }
}

// ---- slow readers

/// What a stalled connection may hold, generously: boxes over their mark, what one read makes of it, and the
/// allocator's first time.
const STALLED: u64 = 2 * MIB;

/// So much is on its way to a reader that does not read: more than the kernel's buffers take, which it grows as it sees
/// fit, to 32 MiB and 4 for each of two connections where `tcp_rmem` and `tcp_wmem` are as large as some set them.
const FLOOD: usize = 96 << 20;

/// Packets that are poured in as fast as they go.
struct Flood<W> {
    head: Vec<u8>,
    len: usize,
    packets: usize,
    poured: Arc<AtomicUsize>,
    task: JoinHandle<W>,
}

impl<W: AsyncWrite + Unpin + Send + 'static> Flood<W> {
    /// Packets of this remaining length.
    fn start(mut into: W, remaining: usize) -> Self {
        let (head, len) = sized(Version::V311, "flood", 0, remaining);
        let (packets, poured) = (FLOOD / remaining, Arc::new(AtomicUsize::new(0)));
        let (first, count) = (head.clone(), Arc::clone(&poured));
        let task = tokio::spawn(async move {
            for _ in 0..packets {
                into.write_all(&first).await.unwrap();
                let mut left = len;
                while left > 0 {
                    let piece = &PATTERN[..left.min(PERIOD * 100)];
                    into.write_all(piece).await.unwrap();
                    count.fetch_add(piece.len(), Ordering::Relaxed);
                    left -= piece.len();
                }
            }
            into
        });
        Self { head, len, packets, poured, task }
    }

    /// Waits until nothing more goes in, for as long as `meanwhile` takes some hundred times.
    async fn comes_to_a_standstill(&self, mut meanwhile: impl AsyncFnMut()) {
        let mut seen = (0, 0);
        until("a standstill", async || {
            meanwhile().await;
            let now = self.poured.load(Ordering::Relaxed);
            seen = if now == seen.0 { (now, seen.1 + 1) } else { (now, 0) };
            seen.1 == 100
        })
        .await;
        assert!(seen.0 < self.packets * self.len, "all {} bytes went somewhere", seen.0);
    }

    /// All of it is there.
    async fn arrives(self, at: &mut (impl AsyncRead + Unpin)) -> W {
        for _ in 0..self.packets {
            catch(at, &self.head, self.len).await;
        }
        self.task.await.unwrap()
    }
}

#[tokio::test]
async fn who_does_not_read_stalls_nobody_else_and_costs_little() {
    let bare = Bare::start().await;
    let mut proxy = Proxy::with(bare.addr(), &[]).await;
    let (witness, mut witness_broker) = bare.session(&proxy, Version::V5, "witness").await;
    let mut witness = WireClient::over(witness);
    // Many small packets, and one that streams. Before that once for nothing: pages of the program that are touched for the
    // first time are no memory that somebody holds.
    for (remaining, counts) in [(1000, false), (1000, true), (FLOOD, true)] {
        // A client that does not read, and a broker that does not.
        for (up, who) in [(false, "client"), (true, "broker")] {
            let (client, broker) = bare.session(&proxy, Version::V311, "stalled").await;
            let (writer, mut reader) = if up { (client, broker) } else { (broker, client) };
            let grown = growth(&mut proxy, async {
                let flood = Flood::start(writer, remaining);
                let ping_pong = async || {
                    witness.send(&wire::pingreq()).await;
                    let mut ping = [0; 2];
                    witness_broker.read_exact(&mut ping).await.unwrap();
                    witness_broker.write_all(&wire::pingresp()).await.unwrap();
                    witness.expect(&wire::pingresp()).await;
                };
                flood.comes_to_a_standstill(ping_pong).await;
                // And when it reads at last, all is there.
                drop(flood.arrives(&mut reader).await);
            });
            let (peak, after) = grown.await;
            println!(
                "a {who} that stops reading, packets of {remaining}: {} KiB at its peak, {} KiB after",
                peak >> 10,
                after >> 10
            );
            assert!(!counts || peak < STALLED, "{who}: grew by {peak} bytes");
        }
    }
    drop((witness, witness_broker));
    proxy.stop().await;
}

#[tokio::test]
async fn who_does_not_read_is_heard_all_the_same() {
    let bare = Bare::start().await;
    let proxy = Proxy::before(bare.addr()).await;
    for stalled in ["client", "broker"] {
        let (client, broker) = bare.session(&proxy, Version::V311, "stalled").await;
        let (stalled, other) = if stalled == "client" { (client, broker) } else { (broker, client) };
        let (mut stalled_in, mut stalled_out) = stalled.into_split();
        let (mut other_in, other_out) = other.into_split();
        let flood = Flood::start(other_out, 1000);
        flood.comes_to_a_standstill(async || {}).await;
        // More than the kernel's buffers take: mproxy has to read it.
        flows(&mut stalled_out, &mut other_in, sized(Version::V311, "back", 0, FLOOD)).await;
        drop(flood.arrives(&mut stalled_in).await);
    }
    proxy.stop().await;
}

// ---- many

#[tokio::test]
async fn one_more_than_may_come_is_turned_away_at_once() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let mut proxy = Proxy::with(broker.addr(), &[("MPROXY_MAX_CONNECTIONS", "3")]).await;
    let mut inside = Vec::new();
    for version in [Version::V31, Version::V311, Version::V5] {
        inside.push(proxy.login(version, "inside").await);
    }
    for _ in 0..5 {
        let mut outside = WireClient::open(proxy.mqtt).await;
        outside.expect_closed().await;
        proxy.line(&["too many connections", &outside.local_addr().to_string()]).await;
    }
    let refused = proxy.metric("mproxy_connections_total{listener=\"mqtt\",outcome=\"refused\"}");
    assert_eq!(refused.await, 5.0);
    for client in &mut inside {
        client.expect_nothing_but_pingresp().await;
    }
    // A place that becomes free is given away again.
    let left = inside.pop().unwrap();
    proxy.line_of(left).await;
    proxy.login(Version::V5, "next").await.expect_nothing_but_pingresp().await;
    drop(inside);
    proxy.stop().await;
}
