//! Hostile clients against the budget: what they make mproxy hold, and that it comes back when they are gone.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use mproxy_core::budget::RESERVE;
use mproxy_testkit::PATIENCE;
use mproxy_testkit::broker::{BrokerScript, RecordingBroker};
use mproxy_testkit::service::contract::{HelloResponse, Hook, Want};
use mproxy_testkit::service::{Play, Running, Service};
use mproxy_testkit::wire::{self, ConnectOptions, Version, WireClient};
use support::Proxy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

const MIB: u64 = 1 << 20;

/// What the allocator and the runtime take for themselves once there is load. The scene of passwords comes nearest to it: whether the hashes
/// of two cores, and one that the allocator has not given back, are seen at once with all CONNECTs is chance. Of three runs
/// it took 41 to 54 MiB, the last 2.5 MiB below its bound.
const SLACK: u64 = 5 * MIB;

/// What the hashing of passwords takes: some 19 MiB for each that is hashed at the same time, one on each core.
fn hashing() -> u64 {
    20 * MIB * std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64)
}

/// What the allocator may still keep of what was held, in pieces that it has not given back: 5 to 9.4 MiB were seen, with
/// nothing put down any more.
const KEPT: u64 = 12 * MIB;

/// A service that wants these calls and never answers any of them but AuthConnect, which it may.
fn silent(hooks: &[Hook], connects: bool) -> Service {
    let want = |hook: &Hook| Want { hook: (*hook).into(), payload_limit: 1024, ..Want::default() };
    let hello = HelloResponse { wants: hooks.iter().map(want).collect(), ..HelloResponse::default() };
    let allowing = Service::default();
    Service {
        hello: Some(hello),
        connect: if connects { allowing.connect } else { Box::new(|_| Play::Never) },
        publish: Box::new(|_| Play::Never),
        subscribe: Box::new(|_| Play::Never),
        tell: Box::new(|| Play::Never),
        ..allowing
    }
}

/// The greatest growth of mproxy's resident memory while these clients are there.
struct Growth {
    proxy: Proxy,
    before: u64,
}

impl Growth {
    async fn of(service: &Running, broker: SocketAddr, variables: &[(&str, &str)]) -> Self {
        // Nothing is answered, and nothing gives up before it has been measured.
        let variables = [&[("MPROXY_POLICY_TIMEOUT", "4s")], variables].concat();
        Self::beyond(Proxy::asking(service, broker, &variables).await).await
    }

    /// Beyond what it takes for the first client of all: the code itself, which is read when it is run.
    async fn beyond(mut proxy: Proxy) -> Self {
        let publish = wire::packet(0x32, b"\0\x01t\0\x01\0");
        let subscribe = wire::subscribe(Version::V5, 2, &[("a", 0)]);
        let first = sends(proxy.mqtt, [connect("first", b"", "ann"), publish, subscribe].concat()).await;
        sleep(Duration::from_millis(500)).await;
        first.abort();
        sleep(Duration::from_millis(200)).await;
        let before = proxy.process().resident_bytes();
        Self { proxy, before }
    }

    async fn watched(&mut self) -> u64 {
        let mut most = 0;
        let until = Instant::now() + Duration::from_secs(3);
        while Instant::now() < until {
            let now = self.proxy.process().resident_bytes();
            most = most.max(now.saturating_sub(self.before));
            sleep(Duration::from_millis(20)).await;
        }
        most
    }

    async fn comes_back(&mut self) {
        self.comes_back_to(KEPT, Duration::from_secs(30)).await;
    }

    async fn comes_back_to(&mut self, kept: u64, within: Duration) {
        let until = Instant::now() + within;
        loop {
            let put_down = self.proxy.metric("mproxy_budget_used_bytes{scope=\"total\",listener=\"\"}").await;
            let left = self.proxy.process().resident_bytes().saturating_sub(self.before);
            if left <= kept {
                println!("{} KiB are left", left >> 10);
                return;
            }
            assert!(Instant::now() < until, "{} KiB are still held, {put_down} bytes put down", left >> 10);
            sleep(Duration::from_millis(100)).await;
        }
    }
}

/// A client that sends this, or as much of it as is taken, and reads whatever comes.
async fn sends(to: SocketAddr, bytes: Vec<u8>) -> tokio::task::JoinHandle<()> {
    let (mut read, mut write) = TcpStream::connect(to).await.unwrap().into_split();
    tokio::spawn(async move {
        let reading = async {
            let mut buffer = vec![0; 1 << 16];
            while read.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
        };
        let writing = async {
            let _ = write.write_all(&bytes).await;
            std::future::pending::<()>().await;
        };
        // Bounded, whatever becomes of it.
        let _ = timeout(Duration::from_secs(20), async { tokio::join!(reading, writing) }).await;
    })
}

fn empty_user_properties(bytes: usize) -> Vec<u8> {
    b"\x26\0\0\0\0".repeat(bytes / 5)
}

fn connect(client: &str, properties: &[u8], name: &str) -> Vec<u8> {
    let username = (!name.is_empty()).then_some(name);
    let options = ConnectOptions { properties, username, ..ConnectOptions::default() };
    wire::connect(Version::V5, client, &options)
}

/// Filters of one byte, two MiB of them.
fn tiny_filters(id: u16) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    body.push(0);
    body.extend(b"\0\x01a\0".repeat((2 * MIB as usize - 16) / 4));
    wire::packet(0x82, &body)
}

/// Plays one scene: `count` clients that send this. They may move `each` bytes, beside what all of them send.
async fn scene(what: &str, service: Service, count: usize, each: u64, packets: impl Fn(usize) -> Vec<u8>) {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let service = Running::start(service).await;
    let mut growth = Growth::of(&service, broker.addr(), &[]).await;
    let (mut clients, mut sent) = (Vec::new(), 0);
    for n in 0..count {
        let bytes = packets(n);
        sent += bytes.len() as u64;
        clients.push(sends(growth.proxy.mqtt, bytes).await);
    }
    let most = growth.watched().await;
    let may = count as u64 * each + SLACK;
    println!("{what}: {} KiB sent, {} KiB held at most, {} KiB allowed", sent >> 10, most >> 10, may >> 10);
    clients.iter().for_each(tokio::task::JoinHandle::abort);
    assert!(most <= may, "{what}: {} KiB", most >> 10);
    growth.comes_back().await;
}

#[tokio::test]
async fn connects_full_of_empty_user_properties_are_not_held() {
    let properties = empty_user_properties(2 * MIB as usize - 64);
    let service = silent(&[Hook::AuthConnect], false);
    scene("20 CONNECTs of 2 MiB", service, 20, MIB / 8, |n| connect(&n.to_string(), &properties, "")).await;
}

#[tokio::test]
async fn connects_as_large_as_may_be_are_held_once_or_twice() {
    let (properties, name) = (empty_user_properties(60_000), wire::long_string(60_000));
    let service = silent(&[Hook::AuthConnect], false);
    scene("20 CONNECTs of 120 KB", service, 20, MIB / 2, |n| connect(&n.to_string(), &properties, &name))
        .await;
}

#[tokio::test]
async fn questions_share_what_they_say_of_their_client() {
    let (properties, name) = (empty_user_properties(60_000), wire::long_string(39_000));
    let service = silent(&[Hook::AuthConnect, Hook::AuthPublish], true);
    scene("4 clients of 99 KB with 300 PUBLISHes", service, 4, MIB, |n| {
        let publish = wire::packet(0x30, b"\0\x01t\0");
        [connect(&n.to_string(), &properties, &name), publish.repeat(300)].concat()
    })
    .await;
}

#[tokio::test]
async fn subscribes_of_half_a_million_filters_are_not_asked_about() {
    let service = silent(&[Hook::AuthSubscribe], true);
    scene("20 SUBSCRIBEs of 2 MiB", service, 20, 3 * MIB, |n| {
        [connect(&n.to_string(), b"", ""), tiny_filters(1)].concat()
    })
    .await;
}

#[tokio::test]
async fn events_that_nobody_takes_are_bounded_in_bytes() {
    let service = silent(&[Hook::Subscribe], true);
    scene("100 SUBSCRIBEs of 2 MiB with events", service, 1, 5 * MIB, |n| {
        let many: Vec<u8> = (1..=100).flat_map(tiny_filters).collect();
        [connect(&n.to_string(), b"", ""), many].concat()
    })
    .await;
    // Of a size that has room, so that there is an event for each.
    let service = silent(&[Hook::Subscribe], true);
    scene("100 SUBSCRIBEs of 10,000 filters with events", service, 1, 5 * MIB, |n| {
        let names: Vec<String> = (0..10_000).map(|n| format!("a/{n}")).collect();
        let filters: Vec<_> = names.iter().map(|name| (&**name, 0)).collect();
        let many: Vec<u8> = (1..=100).flat_map(|id| wire::subscribe(Version::V5, id, &filters)).collect();
        [connect(&n.to_string(), b"", ""), many].concat()
    })
    .await;
}

/// A rule file with one user, whose password takes the time that such a hash takes.
fn one_user(folder: &tempfile::TempDir) -> String {
    let hash = mproxy_policy::acl::hash_password("wonderland").unwrap();
    let path = folder.path().join("rules.toml");
    std::fs::write(&path, format!("[[users]]\nname = \"ann\"\npassword = \"{hash}\"\n")).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn connects_that_wait_for_their_password_hold_what_they_sent() {
    let folder = tempfile::TempDir::new().unwrap();
    let rules = one_user(&folder);
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let (small, large) = (empty_user_properties(60_000), empty_user_properties(2 * MIB as usize));
    let (password, will) = (vec![b'p'; 60_000], vec![b'w'; 60_000]);
    for (what, properties) in [("60 CONNECTs of 180 KB", &small), ("60 CONNECTs of 2 MiB", &large)] {
        let proxy = Proxy::with(broker.addr(), &[("MPROXY_ACL_FILE", &rules)]).await;
        let mut growth = Growth::beyond(proxy).await;
        let (mut clients, mut sent) = (Vec::new(), 0);
        for n in 0..60 {
            let options = ConnectOptions {
                username: Some("ann"),
                password: Some(&password),
                will: Some(wire::Will { topic: "w", payload: &will, ..wire::Will::default() }),
                properties,
                ..ConnectOptions::default()
            };
            let bytes = wire::connect(Version::V5, &n.to_string(), &options);
            sent += bytes.len() as u64;
            clients.push(sends(growth.proxy.mqtt, bytes).await);
        }
        let most = growth.watched().await;
        println!("{what}: {} KiB sent, {} KiB held at most", sent >> 10, most >> 10);
        assert!(most <= sent.min(60 * (384 << 10)) + hashing() + SLACK, "{what}: {} KiB", most >> 10);
        clients.iter().for_each(tokio::task::JoinHandle::abort);
        growth.comes_back().await;
    }
}

/// A client that reads nothing, with a small window.
async fn deaf(to: SocketAddr, bytes: &[u8]) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(to).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

/// What a connection may hold beside the total: its reserve; and itself with its task, its two streams and their timers,
/// less than a step that is not counted, and what the allocator loses.
const EACH: u64 = (16 << 10) + (24 << 10);

#[tokio::test]
async fn subscribers_that_do_not_read_share_the_total() {
    const COUNT: u64 = 60;
    let mut broker = RecordingBroker::start(BrokerScript::default()).await;
    let proxy = Proxy::with(broker.addr(), &[("MPROXY_BUDGET_TOTAL", "2MiB")]).await;
    let mut growth = Growth::beyond(proxy).await;
    let _first = broker.session().await;
    let (mut clients, mut sessions) = (Vec::new(), Vec::new());
    // More than the kernel takes for them.
    let deliveries = wire::packet(0x30, &[&b"\0\x01t\0"[..], &vec![7; 60_000]].concat()).repeat(60);
    for n in 0..COUNT {
        clients.push(deaf(growth.proxy.mqtt, &connect(&n.to_string(), b"", "")).await);
        let session = broker.session().await;
        session.send(deliveries.clone()).await;
        sessions.push(session);
    }
    let most = growth.watched().await;
    let may = 2 * MIB + COUNT * EACH + SLACK;
    println!(
        "{COUNT} subscribers that do not read: {} KiB held at most, {} KiB allowed",
        most >> 10,
        may >> 10
    );
    served(growth.proxy.mqtt).await;
    drop((clients, sessions));
    growth.comes_back().await;
    assert!(most <= may, "{} KiB", most >> 10);
}

/// A client with small packets gets its answers.
async fn served(mqtt: SocketAddr) {
    let served = async {
        WireClient::login(mqtt, Version::V5, "good").await.expect_nothing_but_pingresp().await;
    };
    timeout(PATIENCE, served).await.expect("a client that does no harm is served");
}

/// How a crowd behaves.
#[derive(Clone, Copy, Debug)]
enum Crowd {
    /// They come as far as the hostile ones do, and then say nothing.
    Quiet,
    /// They make mproxy hold what they can.
    Hostile,
}

impl Crowd {
    /// What the `n`th of them sends.
    fn packets(self, n: usize, large: &Large) -> Vec<u8> {
        let client = n.to_string();
        let connects = connect(&client, b"", "");
        match (self, n % 10) {
            // For too many properties nobody is let in.
            (Self::Quiet, 0 | 1) => Vec::new(),
            (Self::Hostile, 0 | 1) => connect(&client, &large.too_many, ""),
            // It stays a stranger.
            (Self::Quiet, 2 | 3) => connects[..4].to_vec(),
            (Self::Hostile, 2 | 3) => large.unfinished.clone(),
            (Self::Quiet, _) => connects,
            (Self::Hostile, 4) => {
                [connect(&client, &large.properties, &large.name), large.publishes.clone()].concat()
            }
            (Self::Hostile, 5..=7) => [connects, large.tiny.clone()].concat(),
            (Self::Hostile, _) => [connects, large.subscribe.clone()].concat(),
        }
    }
}

/// What hostile clients send, made once.
struct Large {
    too_many: Vec<u8>,
    /// A CONNECT as large as may be, without its last byte.
    unfinished: Vec<u8>,
    properties: Vec<u8>,
    name: String,
    publishes: Vec<u8>,
    tiny: Vec<u8>,
    subscribe: Vec<u8>,
}

impl Large {
    fn new() -> Self {
        let name = wire::long_string(60_000);
        let will = vec![b'w'; 60_000];
        let options = ConnectOptions {
            username: Some(&name),
            password: Some(&will),
            will: Some(wire::Will { topic: "w", payload: &will, ..wire::Will::default() }),
            ..ConnectOptions::default()
        };
        let mut unfinished = wire::connect(Version::V5, &name, &options);
        unfinished.pop();
        let filters: Vec<String> = (0..10_000).map(|n| format!("a/{n}")).collect();
        let filters: Vec<_> = filters.iter().map(|name| (&**name, 0)).collect();
        Self {
            too_many: empty_user_properties(2 * MIB as usize),
            unfinished,
            properties: empty_user_properties(60_000),
            name: wire::long_string(39_000),
            // More than may be asked about at a time.
            publishes: wire::packet(0x30, b"\0\x01t\0").repeat(120),
            tiny: tiny_filters(1),
            subscribe: wire::subscribe(Version::V5, 1, &filters),
        }
    }
}

/// A client that sends this, or as much of it as is taken, and reads whatever comes, until it is gone with a reset.
async fn breaks_off(to: SocketAddr, bytes: Vec<u8>) -> tokio::task::JoinHandle<()> {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.set_zero_linger().unwrap();
    tokio::spawn(async move {
        let (mut read, mut write) = stream.split();
        let reading = async {
            let mut buffer = vec![0; 1 << 12];
            while read.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
        };
        let writing = async {
            let _ = write.write_all(&bytes).await;
            std::future::pending::<()>().await;
        };
        let _ = timeout(Duration::from_secs(20), async { tokio::join!(reading, writing) }).await;
    })
}

/// How many come.
const CROWD: usize = 1000;

/// What may be held in all.
const TOTAL: u64 = 16 * MIB;

/// A crowd before an mproxy.
struct Besieged {
    growth: Growth,
    /// The most that it grew by.
    most: u64,
    clients: Vec<tokio::task::JoinHandle<()>>,
    _others: (RecordingBroker, Running),
}

impl Besieged {
    async fn by(crowd: Crowd, large: &Large) -> Self {
        let broker = RecordingBroker::start(BrokerScript::default()).await;
        let service = silent(&[Hook::AuthPublish, Hook::AuthSubscribe, Hook::Subscribe], true);
        let service = Running::start(service).await;
        let total = TOTAL.to_string();
        let variables = [("MPROXY_BUDGET_TOTAL", &*total), ("MPROXY_POLICY_TIMEOUT", "1s")];
        let mut growth = Growth::of(&service, broker.addr(), &variables).await;
        growth.proxy.process().forget_peak();
        let (mut clients, mut sent) = (Vec::new(), 0);
        for n in 0..CROWD {
            let bytes = crowd.packets(n, large);
            sent += bytes.len() as u64;
            clients.push(breaks_off(growth.proxy.mqtt, bytes).await);
        }
        // As long as its questions may be open, and a moment.
        sleep(Duration::from_millis(1500)).await;
        let most = growth.proxy.process().peak_resident_bytes().saturating_sub(growth.before);
        println!("{CROWD} {crowd:?}: {} KiB to send, {} KiB held at most", sent >> 10, most >> 10);
        Self { growth, most, clients, _others: (broker, service) }
    }
}

/// Beside what connections cost that do no harm, a crowd takes the total, and the reserve that each connection has.
#[tokio::test]
async fn a_thousand_hostile_clients_hold_the_total_and_their_reserves_at_most() {
    let large = Large::new();
    let quiet = Besieged::by(Crowd::Quiet, &large).await.most;
    let Besieged { mut growth, most, clients, _others } = Besieged::by(Crowd::Hostile, &large).await;
    served(growth.proxy.mqtt).await;
    let (more, may) = (most.saturating_sub(quiet), TOTAL + (CROWD * RESERVE) as u64 + SLACK);
    println!("{} KiB more than the quiet ones, {} KiB allowed", more >> 10, may >> 10);
    clients.iter().for_each(tokio::task::JoinHandle::abort);
    growth.comes_back().await;
    served(growth.proxy.mqtt).await;
    assert!(more <= may, "{} KiB", more >> 10);
}
