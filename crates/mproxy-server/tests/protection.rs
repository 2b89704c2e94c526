//! What keeps a crowd, or a stranger, from taking mproxy away from those who use it, with real clients.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mproxy_testkit::PATIENCE;
use mproxy_testkit::broker::{BrokerScript, RecordingBroker};
use mproxy_testkit::certificates::{Authority, Folder};
use mproxy_testkit::wire::{self, ConnectOptions, Version, WireClient};
use support::{Proxy, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

async fn a_broker() -> RecordingBroker {
    RecordingBroker::start(BrokerScript::default()).await
}

async fn login(address: SocketAddr, client_id: &str) -> WireClient {
    let mut client = WireClient::open(address).await;
    client.send(&wire::connect(Version::V5, client_id, &ConnectOptions::default())).await;
    let connack = client.packet().await;
    assert_eq!(connack[3], 0, "CONNACK 0x00");
    client
}

/// Whether mproxy closes a connection without a word.
async fn is_closed(address: SocketAddr, first: &[u8]) -> bool {
    let mut client = TcpStream::connect(address).await.unwrap();
    // It may be closed by then.
    let _ = client.write_all(first).await;
    let mut answer = [0; 16];
    let read = timeout(PATIENCE, client.read(&mut answer)).await.expect("an answer, or the end");
    matches!(read, Ok(0) | Err(_))
}

fn refused(cause: &str) -> String {
    format!("mproxy_connections_refused_total{{listener=\"mqtt\",cause=\"{cause}\"}}")
}

fn a_connect() -> Vec<u8> {
    wire::connect(Version::V311, "late", &ConnectOptions::default())
}

#[tokio::test]
async fn an_address_has_so_many_connections_and_gets_them_back() {
    let broker = a_broker().await;
    let proxy = Proxy::with(broker.addr(), &[("MPROXY_ADDRESS_CONNECTIONS", "2")]).await;
    let (first, _second) = (login(proxy.mqtt, "one").await, login(proxy.mqtt, "two").await);
    assert!(is_closed(proxy.mqtt, &a_connect()).await);
    assert_eq!(proxy.metric(&refused("address_connections")).await, 1.0);
    assert_eq!(proxy.metric(&refused("address_rate")).await, 0.0, "shown before it is over");
    drop(first);
    until("a place", async || proxy.sessions().await.len() == 1).await;
    login(proxy.mqtt, "three").await;
    proxy.stop().await;
}

#[tokio::test]
async fn connections_over_a_rate_are_closed_before_tls() {
    let (root, folder, broker) = (Authority::root("root"), Folder::default(), a_broker().await);
    let own = root.sign("localhost");
    let (cert, key) = (folder.write("own.pem", &own.chain), folder.write("own.key", &own.key));
    let variables = [
        ("MPROXY_MQTTS_PORT", "0"),
        ("MPROXY_SERVER_CERT", cert.to_str().unwrap()),
        ("MPROXY_SERVER_KEY", key.to_str().unwrap()),
        ("MPROXY_ADDRESS_RATE", "3/h"),
    ];
    let mut proxy = Proxy::with(broker.addr(), &variables).await;
    let mqtts = proxy.door("mqtts").await;
    let _waiting = [TcpStream::connect(mqtts).await.unwrap(), TcpStream::connect(mqtts).await.unwrap()];
    let _client = login(proxy.mqtt, "third").await;
    // The rate is that of all listeners together. Nothing of a handshake is answered.
    assert!(is_closed(mqtts, &[]).await);
    assert!(is_closed(proxy.mqtt, &a_connect()).await);
    let causes = refused("address_rate");
    assert_eq!(proxy.metric(&causes).await, 1.0);
    assert_eq!(proxy.metric(&causes.replace("\"mqtt\"", "\"mqtts\"")).await, 1.0);
    proxy.line(&["connection refused: too many in a short time from its address"]).await;
    proxy.stop().await;
}

#[tokio::test]
async fn a_fleet_that_returns_at_once_is_admitted_at_the_rate() {
    let broker = a_broker().await;
    let proxy = Proxy::with(broker.addr(), &[("MPROXY_MAX_ADMISSIONS_PER_SECOND", "20")]).await;
    // A tenth of a second's may come at once.
    let mut inside = login(proxy.mqtt, "inside").await;
    let begun = Instant::now();
    let fleet: Vec<_> =
        (0..30).map(|n| tokio::spawn(async move { login(proxy.mqtt, &format!("f{n}")).await })).collect();
    until("a queue", async || proxy.metric("mproxy_admissions_waiting{listener=\"mqtt\"}").await > 10.0)
        .await;
    let (_, view) = proxy.http("GET", "/api/v1/protection").await;
    assert!(view.contains("\"max_per_second\":20,\"waiting\":"), "{view}");
    // Who is in notices nothing.
    inside.expect_nothing_but_pingresp().await;
    for client in fleet {
        drop(client.await.unwrap());
    }
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(1300), "29 behind the first two, at 20 a second: {took:?}");
    let admitted = "mproxy_admissions_total{listener=\"mqtt\",outcome=\"admitted\"}";
    assert_eq!(proxy.metric(admitted).await, 31.0);
    assert_eq!(proxy.metric("mproxy_admissions_waiting{listener=\"mqtt\"}").await, 0.0);
    proxy.stop().await;
}

#[tokio::test]
async fn who_waits_too_long_meets_what_is_said_of_our_own_trouble() {
    let mut broker = a_broker().await;
    for (on_unavailable, is_silent) in [("close", true), ("connack", false)] {
        let variables = [
            ("MPROXY_MAX_ADMISSIONS_PER_SECOND", "1"),
            ("MPROXY_CONNECT_TIMEOUT", "500ms"),
            ("MPROXY_ON_UNAVAILABLE", on_unavailable),
        ];
        let mut proxy = Proxy::with(broker.addr(), &variables).await;
        let _first = login(proxy.mqtt, "first").await;
        let mut late = WireClient::open(proxy.mqtt).await;
        late.send(&wire::connect(Version::V5, "late", &ConnectOptions::default())).await;
        let mut gone = WireClient::open(proxy.mqtt).await;
        gone.send(&wire::connect(Version::V5, "gone", &ConnectOptions::default())).await;
        until("two wait", async || proxy.metric("mproxy_admissions_waiting{listener=\"mqtt\"}").await == 2.0)
            .await;
        drop(gone);
        let rest = late.rest().await;
        assert_eq!(rest.is_empty(), is_silent, "{rest:?}");
        assert!(is_silent || rest[3] == 0x88, "{rest:?}");
        proxy
            .line(&[
                "connection closed",
                "cause=\"overloaded\"",
                "by=\"mproxy\"",
                "max_admissions_per_second",
            ])
            .await;
        let outcome = |outcome| format!("mproxy_admissions_total{{listener=\"mqtt\",outcome=\"{outcome}\"}}");
        assert_eq!(proxy.metric(&outcome("timed_out")).await, 1.0);
        assert_eq!(proxy.metric(&outcome("left")).await, 1.0);
        assert!(broker.try_session().is_some());
        assert!(broker.try_session().is_none(), "the broker never heard of the others");
        proxy.stop().await;
    }
}

#[tokio::test]
async fn behind_a_proxy_the_address_counts_that_the_header_names() {
    let broker = a_broker().await;
    let variables = [
        ("MPROXY_PROXY_PROTOCOL", "on"),
        ("MPROXY_ADDRESS_CONNECTIONS", "1"),
        ("MPROXY_NETWORK_CONNECTIONS", "2"),
    ];
    let mut proxy = Proxy::with(broker.addr(), &variables).await;
    let address = proxy.mqtt;
    let named =
        |from: &str| [format!("PROXY TCP4 {from} 10.0.0.1 5000 1883\r\n").as_bytes(), &a_connect()].concat();
    let come = async |from: &str| {
        let mut client = WireClient::open(address).await;
        client.send(&named(from)).await;
        client.packet().await;
        client
    };
    let (one, _two) = (come("192.0.2.1").await, come("192.0.2.2").await);
    assert!(is_closed(proxy.mqtt, &named("192.0.2.2")).await);
    assert!(is_closed(proxy.mqtt, &named("192.0.2.3")).await);
    let _far = come("198.51.100.1").await;
    assert_eq!(proxy.metric(&refused("address_connections")).await, 1.0);
    assert_eq!(proxy.metric(&refused("network_connections")).await, 1.0);
    let named = ["connection refused", "peer_addr=192.0.2.2", "address_connections", "suppressed_lines=0"];
    proxy.line(&named).await;
    drop(one);
    until("a place", async || proxy.sessions().await.len() == 2).await;
    come("192.0.2.1").await;
    proxy.stop().await;
}

#[tokio::test]
async fn at_the_first_watermark_nobody_else_comes_in() {
    let mut broker = a_broker().await;
    for (on_unavailable, is_told) in [("close", false), ("connack", true)] {
        // Less than any process has.
        let variables = [("MPROXY_MEMORY_REFUSE", "64KiB"), ("MPROXY_ON_UNAVAILABLE", on_unavailable)];
        let mut proxy = Proxy::with(broker.addr(), &variables).await;
        proxy.line(&["watermark reached", "resource=\"memory\"", "state=\"refusing\""]).await;
        for (version, code) in [(Version::V5, 0x89), (Version::V311, 3)] {
            let mut client = WireClient::open(proxy.mqtt).await;
            let _ = client.try_send(&wire::connect(version, "late", &ConnectOptions::default())).await;
            let told = if is_told { wire::connack(version, false, code, &[]) } else { Vec::new() };
            assert_eq!(client.rest().await, told);
        }
        assert_eq!(proxy.metric(&refused("watermark")).await, 2.0);
        if is_told {
            let closed =
                "mproxy_connections_closed_total{listener=\"mqtt\",cause=\"watermark\",by=\"mproxy\"}";
            assert_eq!(proxy.metric(closed).await, 2.0);
            let (_, view) = proxy.http("GET", "/api/v1/refusals").await;
            assert!(view.contains("have reached the first watermark"), "{view}");
        }
        assert_eq!(proxy.metric("mproxy_watermark_level{resource=\"memory\"}").await, 1.0);
        let (_, view) = proxy.http("GET", "/api/v1/protection").await;
        assert!(view.contains("\"resource\":\"memory\",\"level\":\"refusing\""), "{view}");
        assert!(broker.try_session().is_none(), "the broker never heard of them");
        proxy.stop().await;
    }
}

#[tokio::test]
async fn at_the_second_watermark_sessions_go_and_it_comes_back_by_itself() {
    let (broker, folder) = (a_broker().await, Folder::default());
    let path = folder.write("mproxy.toml", "");
    let mut proxy = Proxy::with(broker.addr(), &[("MPROXY_CONFIG", path.to_str().unwrap())]).await;
    let mut client = login(proxy.mqtt, "inside").await;
    client.expect_nothing_but_pingresp().await;
    folder.write("mproxy.toml", "[protection]\nmemory_drain = \"64KiB\"\n");
    proxy.signal("HUP").await;
    assert_eq!(client.rest().await, [0xE0, 1, 0x89], "DISCONNECT: Server busy");
    proxy.line(&["second watermark reached, disconnecting the cheapest sessions to lose"]).await;
    assert!(is_closed(proxy.mqtt, &a_connect()).await);
    folder.write("mproxy.toml", "");
    proxy.signal("HUP").await;
    proxy.line(&["watermark left", "state=\"normal\""]).await;
    login(proxy.mqtt, "again").await;
    proxy.stop().await;
}

/// Strangers that are told that they are not let in, and then keep their side open.
async fn strangers(proxy: &Proxy, count: usize, connect: &[u8]) -> Vec<TcpStream> {
    let mut all = Vec::new();
    for _ in 0..count {
        let mut stranger = TcpStream::connect(proxy.mqtt).await.unwrap();
        // It may be closed by then.
        let _ = stranger.write_all(connect).await;
        all.push(stranger);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    all
}

/// What `descriptors` says at present.
async fn descriptors(proxy: &Proxy) -> serde_json::Value {
    let (_, view) = proxy.http("GET", "/api/v1/protection").await;
    let view: serde_json::Value = serde_json::from_str(&view).unwrap();
    view["watermarks"][0].clone()
}

#[tokio::test]
async fn no_session_has_to_go_for_descriptors_of_strangers() {
    let broker = a_broker().await;
    let marks = [
        ("MPROXY_DESCRIPTORS_REFUSE", "80%"),
        ("MPROXY_DESCRIPTORS_DRAIN", "88%"),
        ("MPROXY_ON_UNAVAILABLE", "connack"),
    ];
    let proxy = Proxy::with_open_files(160, broker.addr(), &marks).await;
    until("a look", async || descriptors(&proxy).await["used"].as_u64() > Some(0)).await;
    let used = descriptors(&proxy).await;
    let free = used["refuse_at"].as_u64().unwrap() - used["used"].as_u64().unwrap();
    let mut sitting = Vec::new();
    for number in 0..free / 2 {
        sitting.push(login(proxy.mqtt, &format!("sits-{number}")).await);
    }
    // More than the second mark has room for, for longer than a look takes.
    let _strangers = strangers(&proxy, 250, &a_connect()).await;
    for client in &mut sitting {
        client.expect_nothing_but_pingresp().await;
    }
    assert!(proxy.metric(&refused("watermark")).await > 0.0);
    let seen = descriptors(&proxy).await;
    assert!(seen["used"].as_u64() < seen["drain_at"].as_u64(), "{seen}");
    proxy.stop().await;
}

#[tokio::test]
async fn who_is_refused_and_stays_takes_no_descriptor_from_the_admin_port() {
    let broker = a_broker().await;
    let mut proxy = Proxy::with_open_files(128, broker.addr(), &[]).await;
    let mut sitting = Vec::new();
    for number in 0..45 {
        sitting.push(login(proxy.mqtt, &format!("sits-{number}")).await);
    }
    // 3.1.1 with neither an identifier nor a clean session: CONNACK 2.
    let bad = wire::connect(Version::V311, "", &ConnectOptions { clean: false, ..ConnectOptions::default() });
    let _strangers = strangers(&proxy, 150, &bad).await;
    assert_eq!(proxy.http("GET", "/healthz").await.0, 200);
    assert!(proxy.metric("process_open_fds").await < 120.0);
    for client in &mut sitting {
        client.expect_nothing_but_pingresp().await;
    }
    login(proxy.mqtt, "comes").await;
    proxy.signal("TERM").await;
    let ended = proxy.end().await;
    assert!(!ended.has_line("Too many open files"), "{:#?}", ended.lines);
}
