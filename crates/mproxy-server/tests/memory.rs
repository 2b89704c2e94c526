//! Hostile clients against the budget: what they make mproxy hold, and that it comes back when they are gone.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use mproxy_testkit::broker::{RecordingBroker, Script};
use mproxy_testkit::service::contract::{HelloResponse, Hook, Want};
use mproxy_testkit::service::{Play, Running, Service};
use mproxy_testkit::wire::{self, ConnectOptions, Version};
use support::Proxy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

const MIB: u64 = 1 << 20;

/// What the allocator and the runtime take for themselves once there is load.
const SLACK: u64 = 6 * MIB;

/// What the allocator may still keep of what was held, in pieces that it has not given back.
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
    async fn of(service: &Running, broker: SocketAddr) -> Self {
        // Nothing is answered, and nothing gives up before it has been measured.
        let mut proxy = Proxy::asking(service, broker, &[("MPROXY_POLICY_TIMEOUT", "4s")]).await;
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
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let left = self.proxy.process().resident_bytes().saturating_sub(self.before);
            if left <= KEPT {
                return;
            }
            assert!(Instant::now() < until, "{} KiB are still held", left >> 10);
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
    let broker = RecordingBroker::start(Script::default()).await;
    let service = Running::start(service).await;
    let mut growth = Growth::of(&service, broker.addr()).await;
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
    scene("20 CONNECTs of 120 KB", service, 20, MIB, |n| connect(&n.to_string(), &properties, &name)).await;
}

#[tokio::test]
async fn questions_share_what_they_say_of_their_client() {
    let (properties, name) = (empty_user_properties(60_000), wire::long_string(39_000));
    let service = silent(&[Hook::AuthConnect, Hook::AuthPublish], true);
    scene("4 clients of 99 KB with 300 PUBLISHes", service, 4, 5 * MIB / 4, |n| {
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
