//! Scenes of the relay over in-memory streams.

mod endings;
mod offer;
mod room;
mod turns;
mod withheld;

use std::sync::Arc;
use std::time::Duration;

use mproxy_core::Chain;
use mproxy_core::budget::{Budget, Purse, STEP, Scope};
use mproxy_core::event::{Kind, Nobody, Sink};
use mproxy_core::fault::Party;
use mproxy_core::meter::Unmetered;
use mproxy_core::policy::{
    Answer, Decider, Hook, PublishDecision, PublishQuestion, Refusal, Ruling, Source, Want,
};
use mproxy_core::session::{DrainReference, OnAuth, OnErrors, OnUnavailable};
use mproxy_core::{Limits, Setting};
use mproxy_testkit::wire as make;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::reads::OWN_MARK;
use super::*;
use crate::example_peer;

/// CONNECT of an MQTT 3.1.1 client called `a`, and a CONNACK.
const CONNECT: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01a";
const CONNACK: &[u8] = b"\x20\x02\x00\x00";
const PUBLISH: &[u8] = b"\x30\x05\x00\x01thi";

/// A broker that is reached by taking the other end of a pipe, and what was told.
struct Pipe<S>(Mutex<Option<S>>, Mutex<Vec<Kind>>);

/// Wants to be told everything.
#[derive(Debug)]
struct Listening;

impl Sink for Listening {
    fn report(&self, _event: Event) {}

    fn want(&self, _kind: Kind) -> Want {
        Want::Head
    }
}

impl Carrier for DuplexStream {}

impl<S: Carrier + 'static> RelayHost<S> for Pipe<S> {
    fn dial(self: Arc<Self>, _origin: &Arc<Origin>, _until: Instant) -> Dialing<S> {
        let stream = self.0.lock().take();
        let dialed = stream.map(|stream| Dialed { stream, unanswered: None });
        Box::pin(async move { dialed.ok_or_else(|| Unreachable::away("nobody is there")) })
    }

    fn report(&self, event: Event) {
        self.1.lock().push(event.what.kind());
    }
}

struct Scene {
    client: DuplexStream,
    broker: DuplexStream,
    handle: Arc<Handle>,
    relay: JoinHandle<Box<Fault>>,
}

fn scene(pipe: usize) -> Scene {
    let (broker, theirs) = duplex(pipe);
    stage(pipe, broker, Some(theirs))
}

/// A session whose dial brings `theirs`, or nobody.
fn stage(pipe: usize, broker: DuplexStream, theirs: Option<DuplexStream>) -> Scene {
    decided_by(Chain::default(), pipe, broker, theirs)
}

fn decided_by(advisers: Chain, pipe: usize, broker: DuplexStream, theirs: Option<DuplexStream>) -> Scene {
    let (client, ours) = duplex(pipe);
    let (relay, handle) = relay(advisers, ours, theirs);
    Scene { client, broker, handle, relay: tokio::spawn(relay) }
}

/// A relay for `client`, whose dial brings `theirs`.
fn relay<S: Carrier + 'static>(advisers: Chain, client: S, theirs: Option<S>) -> (Relay<S>, Arc<Handle>) {
    let host = Arc::new(Pipe(Mutex::new(theirs), Mutex::default()));
    reporting_to(Arc::new(Nobody), host, advisers, client)
}

fn reporting_to<S: Carrier + 'static>(
    sink: Arc<dyn Sink>,
    host: Arc<Pipe<S>>,
    advisers: Chain,
    client: S,
) -> (Relay<S>, Arc<Handle>) {
    within(Arc::default(), sink, host, advisers, client)
}

fn within<S: Carrier + 'static>(
    budget: Arc<Budget>,
    sink: Arc<dyn Sink>,
    host: Arc<dyn RelayHost<S>>,
    advisers: Chain,
    client: S,
) -> (Relay<S>, Arc<Handle>) {
    let origin = Arc::new(example_peer::origin(1));
    let handle = Arc::new(Handle::new(&origin));
    let setting = setting(budget, sink, advisers);
    let session = Session::new(origin, setting, tokio::time::Instant::now().into_std());
    (Relay::new(client, session, Arc::clone(&handle), host), handle)
}

fn setting(budget: Arc<Budget>, sink: Arc<dyn Sink>, advisers: Chain) -> Arc<Setting> {
    Arc::new(Setting {
        gate: None,
        advisers,
        sink,
        meter: Arc::new(Unmetered),
        limits: Limits::default(),
        rates: None,
        on_error: OnErrors::default(),
        on_unavailable: OnUnavailable::default(),
        drain_reference: DrainReference::default(),
        on_auth: OnAuth::default(),
        budget,
        clock: mproxy_core::rule::WallClock::default(),
    })
}

async fn expect(stream: &mut DuplexStream, bytes: &[u8]) {
    let mut got = vec![0; bytes.len()];
    stream.read_exact(&mut got).await.expect("more bytes");
    assert_eq!(got, bytes);
}

/// The broker sends this and ends its side, and the client reads to the end: at once, for it is more than a pipe holds.
async fn broker_sends_and_closes(scene: &mut Scene, bytes: &[u8]) {
    let Scene { client, broker, .. } = scene;
    let mut got = Vec::new();
    let (written, read) = tokio::join!(
        async {
            broker.write_all(bytes).await?;
            broker.shutdown().await
        },
        client.read_to_end(&mut got)
    );
    written.unwrap();
    read.unwrap();
    assert_eq!(got, bytes);
}

async fn open(pipe: usize) -> Scene {
    let mut scene = scene(pipe);
    scene.client.write_all(CONNECT).await.unwrap();
    expect(&mut scene.broker, CONNECT).await;
    scene.broker.write_all(CONNACK).await.unwrap();
    expect(&mut scene.client, CONNACK).await;
    scene
}

#[tokio::test]
async fn what_a_client_sends_before_connack_arrives_after_it_even_if_the_client_is_gone() {
    let mut scene = scene(1 << 16);
    scene.client.write_all(&[CONNECT, PUBLISH, b"\xe0\x00"].concat()).await.unwrap();
    scene.client.shutdown().await.unwrap();
    expect(&mut scene.broker, CONNECT).await;
    scene.broker.write_all(CONNACK).await.unwrap();
    expect(&mut scene.broker, &[PUBLISH, b"\xe0\x00"].concat()).await;
    drop(scene.broker);
    assert!(matches!(*scene.relay.await.unwrap(), Fault::Left { .. }));
}

#[tokio::test]
async fn what_the_broker_sent_last_still_reaches_the_client() {
    let mut scene = open(64).await;
    let many = PUBLISH.repeat(1000);
    broker_sends_and_closes(&mut scene, &many).await;
    drop(scene.client);
    assert_eq!(scene.relay.await.unwrap().by(), Party::Broker);
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_its_own_broker_and_nothing_grows() {
    let mut scene = open(1 << 10).await;
    let many = PUBLISH.repeat(64 << 10);
    let stuck = tokio::time::timeout(Duration::from_millis(200), scene.broker.write_all(&many)).await;
    assert!(stuck.is_err(), "the broker could write {} bytes to a client that reads nothing", many.len());
    scene.relay.abort();
}

#[tokio::test]
async fn a_client_that_does_not_read_is_heard_all_the_same() {
    let mut scene = open(1 << 10).await;
    let (mut from_broker, mut to_client) = tokio::io::split(scene.broker);
    let flood = tokio::spawn(async move { to_client.write_all(&PUBLISH.repeat(64 << 10)).await });
    // As much from the other side, while nothing is read there.
    let many = PUBLISH.repeat(64 << 10);
    let all = async {
        tokio::join!(scene.client.write_all(&many), async {
            let mut got = vec![0; many.len()];
            from_broker.read_exact(&mut got).await.expect("all of it");
            assert!(got == many);
        })
    };
    let (written, ()) = tokio::time::timeout(Duration::from_secs(20), all).await.expect("no deadlock");
    written.unwrap();
    assert!(!flood.is_finished());
    scene.relay.abort();
}

/// Refuses every PUBLISH.
struct Refuser;

impl Decider for Refuser {
    fn want(&self, hook: Hook) -> Want {
        if hook == Hook::Publish { Want::Head } else { Want::Nothing }
    }

    fn publish(&self, _question: &PublishQuestion<'_>) -> Answer<PublishDecision> {
        Answer::Now(Ruling::refuse(Source::Acl, Refusal::default()))
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_its_refusals_is_heard_only_so_long() {
    let (broker, theirs) = duplex(1 << 10);
    let mut scene = decided_by(Chain::of(Arc::new(Refuser)), 1 << 10, broker, Some(theirs));
    scene.client.write_all(CONNECT).await.unwrap();
    expect(&mut scene.broker, CONNECT).await;
    scene.broker.write_all(CONNACK).await.unwrap();
    expect(&mut scene.client, CONNACK).await;
    // Acknowledged with half as many bytes each, which nobody reads.
    let many = b"\x32\x06\x00\x01t\x00\x01p".repeat(OWN_MARK / 2);
    let stuck = tokio::time::timeout(Duration::from_millis(200), scene.client.write_all(&many)).await;
    assert!(stuck.is_err(), "{} bytes of refused packets were taken", many.len());
    scene.relay.abort();
}

#[tokio::test]
async fn a_kick_ends_a_session_that_waits() {
    let mut scene = open(1 << 10).await;
    scene.handle.send(ConnectionCommand::Kick(mproxy_codec::reason::ReasonCode::ADMINISTRATIVE_ACTION));
    let mut rest = Vec::new();
    scene.client.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"", "3.1.1 has no DISCONNECT for clients");
    drop((scene.client, scene.broker));
    assert!(matches!(*scene.relay.await.unwrap(), Fault::Kicked { .. }));
}

#[tokio::test(start_paused = true)]
async fn nobody_there_is_tried_again_and_then_a_connection_that_ends_without_a_word() {
    let mut scene = stage(1 << 10, duplex(1).0, None);
    scene.client.write_all(CONNECT).await.unwrap();
    let begun = tokio::time::Instant::now();
    let mut heard = Vec::new();
    scene.client.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"", "a CONNACK that refuses would be the end of it for many clients");
    assert!(begun.elapsed() >= Duration::from_secs(8), "{:?}", begun.elapsed());
    drop(scene.client);
    assert!(matches!(*scene.relay.await.unwrap(), Fault::Unreachable(_)));
}

/// An idle session is this future, its peer and its handle: what they take is held here, the rest in `bench/`.
#[test]
fn a_relay_stays_small() {
    let sizes = [
        ("relay", size_of::<Relay<TcpStream>>()),
        ("session", size_of::<Session>()),
        ("peer", size_of::<Peer>()),
        ("handle", size_of::<Handle>()),
    ];
    println!("{sizes:?}");
    assert!(sizes[0].1 <= 1024, "{sizes:?}");
}

/// Both ends of a TCP connection.
async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (one, other) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    let (one, other) = (one.unwrap(), other.unwrap().0);
    one.set_nodelay(true).unwrap();
    other.set_nodelay(true).unwrap();
    (one, other)
}

/// Each in a read and a write of its own: buffers, boxes and the session's queues are all used again.
#[test]
fn a_message_that_passes_allocates_nothing() {
    const PUBLISH: &[u8] = b"\x32\x0a\x00\x04room\x00\x01hi";
    const PUBACK: &[u8] = b"\x40\x02\x00\x01";
    async fn pass(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) {
        let mut got = [0; 64];
        from.write_all(bytes).await.unwrap();
        to.read_exact(&mut got[..bytes.len()]).await.unwrap();
        assert_eq!(&got[..bytes.len()], bytes);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (mut client, mut broker, task) = runtime.block_on(async {
        let ((mut client, ours), (mut broker, theirs)) = (tcp_pair().await, tcp_pair().await);
        let task = tokio::spawn(relay(Chain::default(), ours, Some(theirs)).0);
        pass(&mut client, &mut broker, CONNECT).await;
        pass(&mut broker, &mut client, CONNACK).await;
        (client, broker, task)
    });
    let mut rounds = |count| {
        runtime.block_on(async {
            for _ in 0..count {
                pass(&mut client, &mut broker, PUBLISH).await;
                pass(&mut broker, &mut client, PUBACK).await;
            }
        });
    };
    rounds(10);
    let allocated = allocation_counter::measure(|| rounds(100));
    assert_eq!(allocated.count_total, 0, "{} bytes for 100 messages", allocated.bytes_total);
    assert!(!task.is_finished());
}

/// CONNACK alone has to set going what was read ahead of it: nothing more comes from the client.
#[tokio::test]
async fn what_was_read_ahead_goes_on_with_connack() {
    let mut scene = scene(1 << 16);
    let many = PUBLISH.repeat(100);
    scene.client.write_all(CONNECT).await.unwrap();
    scene.client.write_all(&many).await.unwrap();
    expect(&mut scene.broker, CONNECT).await;
    // By now the relay has read all of it, and has nothing to do.
    tokio::task::yield_now().await;
    scene.broker.write_all(CONNACK).await.unwrap();
    let arrives = expect(&mut scene.broker, &many);
    tokio::time::timeout(Duration::from_secs(5), arrives).await.expect("they set out");
}

/// Panics at every PUBLISH.
struct Panicker;

impl Decider for Panicker {
    fn want(&self, hook: Hook) -> Want {
        Refuser.want(hook)
    }

    fn publish(&self, _question: &PublishQuestion<'_>) -> Answer<PublishDecision> {
        panic!("as the test wants it");
    }
}

#[tokio::test]
async fn a_panic_ends_its_own_connection_which_is_told_like_any_other_end() {
    let (mut broker, theirs) = duplex(1 << 10);
    let (mut client, ours) = duplex(1 << 10);
    let pipe = Arc::new(Pipe(Mutex::new(Some(theirs)), Mutex::default()));
    let (relay, _) =
        reporting_to(Arc::new(Listening), Arc::clone(&pipe), Chain::of(Arc::new(Panicker)), ours);
    let relay = tokio::spawn(relay);
    client.write_all(CONNECT).await.unwrap();
    expect(&mut broker, CONNECT).await;
    broker.write_all(CONNACK).await.unwrap();
    expect(&mut client, CONNACK).await;
    client.write_all(PUBLISH).await.unwrap();
    // Both are cut, the broker without DISCONNECT, so that it publishes the will.
    assert_eq!(client.read_to_end(&mut Vec::new()).await.unwrap(), 0);
    assert_eq!(broker.read_to_end(&mut Vec::new()).await.unwrap(), 0);
    let fault = relay.await.expect("the task itself did not panic");
    assert_eq!((fault.label(), fault.by()), ("panicked", Party::Mproxy));
    assert_eq!(*pipe.1.lock(), [Kind::Connect, Kind::Disconnect]);
}

#[tokio::test]
async fn only_who_was_not_admitted_makes_room() {
    let mut waiting = scene(1 << 10);
    waiting.client.write_all(&CONNECT[..5]).await.unwrap();
    waiting.handle.send(ConnectionCommand::Evict);
    assert_eq!(*waiting.relay.await.unwrap(), Fault::Evicted);
    assert_eq!(waiting.client.read_to_end(&mut Vec::new()).await.unwrap(), 0, "no CONNACK: it may try again");

    let mut open = open(1 << 10).await;
    open.handle.send(ConnectionCommand::Evict);
    open.client.write_all(PUBLISH).await.unwrap();
    expect(&mut open.broker, PUBLISH).await;
    open.relay.abort();
}

const PUBLISH_1: &[u8] = b"\x32\x07\x00\x01t\x00\x01hi";
const PUBACK_1: &[u8] = b"\x40\x02\x00\x01";
const DISCONNECT: &[u8] = b"\xe0\x00";
