//! What is counted of the way of packets: dials, the time to forward, pauses, refusals, and the runtime.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use mproxy_testkit::PATIENCE;
use mproxy_testkit::broker::{BrokerScript, RecordingBroker};
use mproxy_testkit::wire::{self, Publish, Version, WireClient};
use support::{Proxy, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

async fn count(proxy: &Proxy, series: &str) -> f64 {
    proxy.metric(series).await
}

#[tokio::test]
async fn refusals_have_their_hook_their_source_and_their_code() {
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("rules.toml");
    std::fs::write(&rules, "[[rules]]\neffect = \"deny\"\nactions = [\"publish\"]\ntopics = [\"no/#\"]\n")
        .unwrap();
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let proxy = Proxy::with(broker.addr(), &[("MPROXY_ACL_FILE", rules.to_str().unwrap())]).await;
    let mut client = proxy.login(Version::V5, "c").await;
    for packet_id in 1..=2 {
        let message = Publish { topic: "no/way", qos: 1, packet_id, ..Publish::default() };
        client.send(&wire::publish(Version::V5, &message)).await;
        client.packet().await;
    }
    let series = "mproxy_refusals_total{hook=\"publish\",source=\"acl\",reason_code=\"0x87\"}";
    assert_eq!(count(&proxy, series).await, 2.0);
    proxy.stop().await;
}

#[tokio::test]
async fn dials_and_packets_are_timed_and_the_runtime_shows_itself() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let proxy = Proxy::before(broker.addr()).await;
    let mut client = proxy.login(Version::V311, "c").await;
    // One of 64 wake-ups of each thread.
    for _ in 0..512 {
        client.expect_nothing_but_pingresp().await;
    }
    let dials = "mproxy_broker_dial_duration_seconds_count{listener=\"mqtt\",outcome=\"connected\"}";
    assert_eq!(count(&proxy, dials).await, 1.0);
    let timed = count(&proxy, "mproxy_forward_duration_seconds_count{listener=\"mqtt\"}").await;
    assert!((1.0..=32.0).contains(&timed), "{timed}");
    assert!(count(&proxy, "mproxy_runtime_workers").await >= 1.0);
    assert!(count(&proxy, "mproxy_runtime_alive_tasks").await >= 3.0);
    until("some work", async || {
        count(&proxy, "mproxy_runtime_worker_busy_seconds_total{worker=\"0\"}").await > 0.0
    })
    .await;
    proxy.stop().await;
}

#[tokio::test]
async fn who_asks_for_protobuf_gets_protobuf() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let proxy = Proxy::before(broker.addr()).await;
    let mut stream = TcpStream::connect(proxy.admin).await.unwrap();
    let kind = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
    let request =
        format!("GET /metrics HTTP/1.0\r\nHost: localhost\r\nAccept: {kind},text/plain;q=0.5\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    let head = String::from_utf8_lossy(&answer[..answer.len().min(400)]).replace("; ", ";");
    assert!(head.contains(&format!("content-type: {kind}\r\n")), "{head}");
    let page = String::from_utf8_lossy(&answer);
    assert!(page.contains("mproxy_forward_duration_seconds") && !page.contains("# TYPE"), "{head}");
    proxy.stop().await;
}

#[tokio::test]
async fn a_dial_that_fails_says_how() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let proxy = Proxy::with(nobody, &[("MPROXY_CONNECT_TIMEOUT", "300ms")]).await;
    let mut client = WireClient::open(proxy.mqtt).await;
    client.send(&wire::connect(Version::V5, "c", &wire::ConnectOptions::default())).await;
    client.expect_closed().await;
    let dials = "mproxy_broker_dial_duration_seconds_count{listener=\"mqtt\",outcome=\"unreachable\"}";
    assert!(count(&proxy, dials).await >= 1.0);
    proxy.stop().await;
}

#[tokio::test]
async fn a_receiver_that_does_not_read_pauses_the_sender_once() {
    let mut broker = RecordingBroker::start(BrokerScript::default()).await;
    let proxy = Proxy::before(broker.addr()).await;
    let client = proxy.login(Version::V311, "c").await;
    let session = broker.session().await;
    let large = vec![0; 60 << 10];
    let message =
        wire::publish(Version::V311, &Publish { topic: "a", payload: &large, ..Publish::default() });
    // More than all sockets between the two hold.
    for _ in 0..400 {
        session.send(message.clone()).await;
    }
    let series =
        |reason| format!("mproxy_read_pauses_total{{listener=\"mqtt\",from=\"broker\",reason=\"{reason}\"}}");
    until("a pause", async || count(&proxy, &series("receiver")).await >= 1.0).await;
    assert_eq!(count(&proxy, &series("queue")).await, 0.0);
    drop(client);
    proxy.stop().await;
}
