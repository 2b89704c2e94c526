//! Taps at the admin API: what may be asked for, and how the stream of one ends.

use std::net::SocketAddr;
use std::time::Duration;

use axum::http::StatusCode;
use mproxy_codec::types::{PacketType, QoS};
use mproxy_core::Meter;
use mproxy_core::meter::{PacketDetail, PacketFate, PacketTrace};
use mproxy_core::peer::{Peer, Side};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{Arc, Metrics, id, scene};
use crate::admin::serve;
use crate::example_peer;

const PATIENCE: Duration = Duration::from_secs(10);

fn peer() -> Peer {
    example_peer::peer(Arc::new(example_peer::origin(1)), "desk")
}

fn publish(metrics: &Metrics, peer: &Peer) {
    metrics.packet(&PacketTrace {
        peer,
        from: Side::Client,
        kind: PacketType::Publish,
        id: None,
        topic: Some("a"),
        sent_topic: None,
        detail: PacketDetail::Publish {
            dup: false,
            qos: QoS::AtMostOnce,
            retain: false,
            payload: &[b'x'; 4096],
            payload_size: 4096,
        },
        size: 4101,
        fate: PacketFate::Forwarded,
        refusal: None,
    });
}

/// A served admin API.
struct Served {
    metrics: Arc<Metrics>,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

async fn served() -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (stop, stopped) = oneshot::channel::<()>();
    let admin = scene().admin;
    let metrics = Arc::clone(&admin.metrics);
    let task = serve(listener, admin, async move { drop(stopped.await) });
    Served { metrics, address, stop, task }
}

async fn ask_for_tap(stream: &mut TcpStream, query: &str) {
    let request = format!("GET /api/v1/tap{query} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("written");
}

/// Reads on until this has come.
async fn read_until(stream: &mut TcpStream, wanted: &str) -> String {
    let read = async {
        let mut read = Vec::new();
        while !String::from_utf8_lossy(&read).contains(wanted) {
            assert!(stream.read_buf(&mut read).await.expect("readable") > 0, "no {wanted}");
        }
        String::from_utf8(read).expect("text")
    };
    tokio::time::timeout(PATIENCE, read).await.unwrap_or_else(|_| panic!("no {wanted}"))
}

#[tokio::test]
async fn nonsense_is_told_with_what_would_be_right() {
    for (query, meant) in [
        ("payload=4097", "from 0 to 4096"),
        ("payload=x", "payload"),
        ("rate=0", "from 1 to 1000"),
        ("rate=1001", "from 1 to 1000"),
        ("type=publis", "publish"),
        ("type=", "unknown type"),
        ("from=me", "client or broker"),
        ("filter=a%23", "filter"),
        ("connection_id=x", "connection_id"),
        ("clientid=x", "client_id"),
    ] {
        let (status, body) = scene().json("GET", &format!("/api/v1/tap?{query}")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{query}");
        assert!(body.to_string().contains(meant), "{query}: {body}");
    }
    let unknown = format!("/api/v1/tap?connection_id={}", id(9));
    assert_eq!(scene().ask("GET", &unknown).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_stranger_gets_none() {
    assert_eq!(scene().from("192.0.2.9:1").ask("GET", "/api/v1/tap").await.0, StatusCode::FORBIDDEN);
    assert_eq!(scene().token().ask("GET", "/api/v1/tap").await.0, StatusCode::UNAUTHORIZED);
    // An image in a page of somebody else: it could not be read, and would have clients leave the fast path all the same.
    let page = scene().header("sec-fetch-site", "cross-site");
    assert_eq!(page.ask("GET", "/api/v1/tap").await.0, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn the_ninth_is_told_that_there_are_too_many() {
    let Served { metrics, address, stop, task } = served().await;
    let mut open = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        ask_for_tap(&mut stream, "").await;
        assert!(read_until(&mut stream, "\r\n\r\n").await.contains(" 200 "));
        open.push(stream);
    }
    let mut ninth = TcpStream::connect(address).await.expect("a connection");
    ask_for_tap(&mut ninth, "").await;
    read_until(&mut ninth, " 429 ").await;
    // Whoever goes makes room, and costs nothing any more.
    drop(open);
    let gone = async {
        while metrics.traces() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("callers that have gone are missed");
    drop((stop, ninth));
    task.await.expect("no panic");
}

#[tokio::test]
async fn a_tap_outlives_other_connections_and_ends_with_mproxy() {
    let Served { metrics, address, stop, task } = served().await;
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    ask_for_tap(&mut stream, "?payload=3").await;
    read_until(&mut stream, "text/event-stream").await;
    for _ in 0..40 {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(9)).await;
        tokio::time::resume();
        tokio::task::yield_now().await;
    }
    publish(&metrics, &peer());
    let told = read_until(&mut stream, "\"outcome\"").await;
    assert!(told.contains("event: packet") && told.contains("\"payload\":\"xxx\""), "{told}");
    drop(stop);
    read_until(&mut stream, "event: end").await;
    tokio::time::timeout(PATIENCE, task).await.expect("soon").expect("no panic");
    assert!(!metrics.traces());
}

#[tokio::test]
async fn a_caller_that_takes_nothing_is_cut() {
    let Served { metrics, address, stop, task } = served().await;
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    let mut stream = socket.connect(address).await.expect("a connection");
    ask_for_tap(&mut stream, "?payload=4096&rate=1000").await;
    read_until(&mut stream, "\r\n\r\n").await;
    let peer = peer();
    let since = std::time::Instant::now();
    // More than all buffers between the two hold, and then the time that it has: nobody waits for it meanwhile.
    while metrics.traces() {
        assert!(since.elapsed() < PATIENCE, "it was never cut");
        (0..50).for_each(|_| publish(&metrics, &peer));
        tokio::time::sleep(Duration::from_millis(1)).await;
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(1)).await;
        tokio::time::resume();
    }
    assert!(!metrics.expose(super::Format::Prometheus).contains("mproxy_tap_events_lost_total 0"));
    drop((stop, stream));
    task.await.expect("no panic");
}
