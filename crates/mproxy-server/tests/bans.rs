//! Bans, with real clients: who is connected goes, who comes stays out, and a file keeps them.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::net::SocketAddr;
use std::process::Output;
use std::time::Duration;

use mproxy_testkit::broker::{BrokerScript, RecordingBroker};
use mproxy_testkit::certificates::{Authority, Folder};
use mproxy_testkit::hook::MproxyProcess;
use mproxy_testkit::service::contract::ConnectAllow;
use mproxy_testkit::service::{Play, Running, Service};
use mproxy_testkit::wire::{self, ConnectOptions, Version, WireClient};
use serde_json::Value;
use support::{Proxy, until};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// What a command says and how it ends, of this mproxy.
async fn ask(proxy: &Proxy, words: &[&str]) -> (Option<i32>, String) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_mproxy"));
    command.args(words).env_clear().env("MPROXY_ADMIN_PORT", proxy.admin.port().to_string());
    let Output { status, stdout, stderr } = command.output().await.unwrap();
    (status.code(), String::from_utf8([stdout, stderr].concat()).unwrap())
}

/// What a client is answered.
async fn answer(to: SocketAddr, version: Version, client_id: &str, options: &ConnectOptions<'_>) -> Vec<u8> {
    let mut client = WireClient::open(to).await;
    client.send(&wire::connect(version, client_id, options)).await;
    client.rest().await
}

#[tokio::test]
async fn who_is_banned_goes_and_stays_out() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let mut proxy = Proxy::before(broker.addr()).await;
    let mut sensor = WireClient::login(proxy.mqtt, Version::V5, "sensor").await;
    let mut other = WireClient::login(proxy.mqtt, Version::V5, "other").await;
    until("both are there", async || proxy.sessions().await.len() == 2).await;

    let banned = ask(&proxy, &["ban", "--client-id", "sensor", "--reason", "too loud", "--for", "1h"]).await;
    assert_eq!(banned.0, Some(0), "{}", banned.1);
    assert!(banned.1.contains("disconnected 1 client\n"), "{}", banned.1);
    // 0x8A is not among the reason codes of DISCONNECT (3.14.2.1).
    assert_eq!(sensor.rest().await, [0xE0, 1, 0x87]);
    other.expect_nothing_but_pingresp().await;
    let options = ConnectOptions::default();
    for (version, code) in [(Version::V5, 0x8A), (Version::V311, 5), (Version::V31, 5)] {
        let refused = answer(proxy.mqtt, version, "sensor", &options).await;
        assert_eq!(refused, wire::connack(version, false, code, &[]));
    }
    let (_, refusals) = proxy.http("GET", "/api/v1/refusals?client_id=sensor").await;
    let refusals: Value = serde_json::from_str(&refusals).unwrap();
    let sources: Vec<_> = refusals["refusals"].as_array().unwrap().iter().map(|one| &one["source"]).collect();
    assert_eq!(sources, ["ban", "ban", "ban", "ban"], "{refusals}");
    let series = "mproxy_decisions_total{hook=\"connect\",source=\"ban\",outcome=\"refused\"}";
    assert_eq!(proxy.metric(series).await, 3.0);

    let by_name = ask(&proxy, &["ban", "--username", "ann"]).await;
    assert!(by_name.1.contains("until it is lifted"), "{}", by_name.1);
    let ann = ConnectOptions { username: Some("ann"), ..ConnectOptions::default() };
    assert_eq!(
        answer(proxy.mqtt, Version::V311, "x", &ann).await,
        wire::connack(Version::V311, false, 5, &[])
    );
    let (code, list) = ask(&proxy, &["bans"]).await;
    assert!(code == Some(0) && list.contains("client  sensor") && list.contains("too loud"), "{list}");
    assert_eq!(ask(&proxy, &["unban", "--client-id", "sensor"]).await.0, Some(0));
    assert_eq!(ask(&proxy, &["unban", "--client-id", "sensor"]).await.0, Some(1));
    drop(WireClient::login(proxy.mqtt, Version::V5, "sensor").await);

    // Whoever comes from there, before a byte of it is read; the admin API is asked from there all the same.
    let banned = ask(&proxy, &["ban", "--address", "127.0.0.0/8"]).await;
    assert_eq!(banned.0, Some(0), "{}", banned.1);
    assert_eq!(other.rest().await, [0xE0, 1, 0x87]);
    assert!(answer(proxy.mqtt, Version::V5, "new", &options).await.is_empty());
    let series = "mproxy_connections_refused_total{listener=\"mqtt\",cause=\"banned\"}";
    assert_eq!(proxy.metric(series).await, 1.0);
    proxy.line(&["ban set by an administrator", "127.0.0.0/8"]).await;
    proxy.stop().await;
}

#[tokio::test]
async fn a_file_keeps_bans_and_a_disk_that_takes_nothing_harms_nothing() {
    let (broker, folder) = (RecordingBroker::start(BrokerScript::default()).await, Folder::default());
    let path = folder.file("bans.json");
    let variables = [("MPROXY_BANS_FILE", path.to_str().unwrap())];
    let proxy = Proxy::with(broker.addr(), &variables).await;
    assert_eq!(ask(&proxy, &["ban", "--client-id", "sensor", "--reason", "too loud"]).await.0, Some(0));
    proxy.stop().await;

    let mut proxy = Proxy::with(broker.addr(), &variables).await;
    let options = ConnectOptions::default();
    let refused = wire::connack(Version::V5, false, 0x8A, &[]);
    assert_eq!(answer(proxy.mqtt, Version::V5, "sensor", &options).await, refused);
    // As a full disk: the new file cannot be written.
    let beside = folder.file("bans.json.new");
    std::fs::create_dir(&beside).unwrap();
    let before = std::fs::read_to_string(&path).unwrap();
    let (code, told) = ask(&proxy, &["ban", "--client-id", "lamp"]).await;
    assert!(code == Some(0) && told.contains("warning: the ban is in force, but not in the file"), "{told}");
    // Another process would read the file.
    let (code, told) = ask(&proxy, &["upgrade"]).await;
    assert!(code != Some(0) && told.contains("the file of bans does not hold what is in force"), "{told}");
    let (code, told) = ask(&proxy, &["unban", "--client-id", "sensor"]).await;
    assert!(code == Some(0) && told.contains("comes back with a restart"), "{told}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), before);
    assert_eq!(answer(proxy.mqtt, Version::V5, "lamp", &options).await, refused);
    assert_eq!(proxy.metric("mproxy_ban_file_errors_total").await, 3.0);
    proxy.line(&["ERROR", "file of bans could not be written"]).await;
    std::fs::remove_dir(&beside).unwrap();
    assert_eq!(
        ask(&proxy, &["unban", "--client-id", "sensor"]).await.0,
        Some(1),
        "it is lifted, and written now"
    );
    let kept = std::fs::read_to_string(&path).unwrap();
    assert!(kept.contains("lamp") && !kept.contains("sensor"), "{kept}");
    proxy.stop().await;

    for (text, why) in [("{}", "is no list of bans"), ("{\"version\":9}", "is of version 9")] {
        folder.write("bans.json", text);
        let env = [&variables[..], &[("MPROXY_MQTT_HOST", "127.0.0.1"), ("MPROXY_ADMIN_PORT", "0")]].concat();
        for args in [&[][..], &["check"]] {
            let ended = MproxyProcess::run(&env, args).await;
            assert_eq!(ended.code(), Some(2), "{:#?}", ended.lines);
            assert!(ended.has_line(why) && ended.has_line("MPROXY_BANS_FILE: "), "{:#?}", ended.lines);
            assert!(!ended.has_line("listening"), "{:#?}", ended.lines);
        }
    }
}

#[tokio::test]
async fn the_name_counts_that_whoever_decides_has_given() {
    let renamed = || ConnectAllow { client_id: Some("tenant-sensor".to_owned()), ..ConnectAllow::default() };
    let connect = Box::new(move |_: &_| Play::answer(renamed()));
    let service = Running::start(Service { connect, ..Service::default() }).await;
    let mut broker = RecordingBroker::start(BrokerScript::default()).await;
    let proxy = Proxy::asking(&service, broker.addr(), &[]).await;
    assert_eq!(ask(&proxy, &["ban", "--client-id", "tenant-sensor"]).await.0, Some(0));
    let refused = answer(proxy.mqtt, Version::V5, "sensor", &ConnectOptions::default()).await;
    assert_eq!(refused, wire::connack(Version::V5, false, 0x8A, &[]));
    let (_, why) = ask(&proxy, &["why", "tenant-sensor"]).await;
    assert!(why.contains("refused by a ban"), "{why}");
    assert!(broker.try_session().is_none(), "the broker never heard of it");
    proxy.stop().await;
}

#[tokio::test]
async fn who_is_in_goes_by_the_name_that_it_has_said() {
    let renamed = || ConnectAllow {
        client_id: Some("tenant-sensor".to_owned()),
        username: Some("tenant-ann".to_owned()),
        ..ConnectAllow::default()
    };
    let connect = Box::new(move |_: &_| Play::answer(renamed()));
    let service = Running::start(Service { connect, ..Service::default() }).await;
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let proxy = Proxy::asking(&service, broker.addr(), &[]).await;
    let options = ConnectOptions { username: Some("ann"), ..ConnectOptions::default() };
    for who in [["--client-id", "sensor"], ["--username", "ann"], ["--username", "tenant-ann"]] {
        let mut client = WireClient::open(proxy.mqtt).await;
        client.send(&wire::connect(Version::V5, "sensor", &options)).await;
        until("it is there", async || proxy.sessions().await.len() == 1).await;
        let (_, told) = ask(&proxy, &["ban", who[0], who[1], "--reason", "too loud"]).await;
        assert!(told.contains("disconnected 1 client\n"), "{who:?}: {told}");
        let heard = client.rest().await;
        assert!(heard.ends_with(&[0xE0, 1, 0x87]), "{who:?}: {heard:x?}");
        let refused = answer(proxy.mqtt, Version::V5, "sensor", &options).await;
        assert_eq!(refused, wire::connack(Version::V5, false, 0x8A, &[]), "{who:?}");
        let (_, why) = ask(&proxy, &["why", "sensor"]).await;
        assert!(why.contains("too loud"), "{who:?}: {why}");
        assert_eq!(ask(&proxy, &["unban", who[0], who[1]]).await.0, Some(0));
    }
    proxy.stop().await;
}

#[tokio::test]
async fn a_ban_of_an_address_closes_who_has_not_begun_a_handshake() {
    let (root, folder) = (Authority::root("root"), Folder::default());
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let own = root.sign("localhost");
    let (cert, key) = (folder.write("own.pem", &own.chain), folder.write("own.key", &own.key));
    let variables = [
        ("MPROXY_MQTTS_PORT", "0"),
        ("MPROXY_WSS_PORT", "off"),
        ("MPROXY_SERVER_CERT", cert.to_str().unwrap()),
        ("MPROXY_SERVER_KEY", key.to_str().unwrap()),
    ];
    let mut proxy = Proxy::with(broker.addr(), &variables).await;
    let mut silent = TcpStream::connect(proxy.door("mqtts").await).await.unwrap();
    let open = "mproxy_connections_open{listener=\"mqtts\"}";
    until("it is counted", async || proxy.metric(open).await == 1.0).await;
    assert_eq!(ask(&proxy, &["ban", "--address", "127.0.0.1"]).await.0, Some(0));
    let read = timeout(Duration::from_secs(3), silent.read(&mut [0])).await.expect("the end");
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    let refused = "mproxy_connections_refused_total{listener=\"mqtts\",cause=\"banned\"}";
    assert_eq!(proxy.metric(refused).await, 1.0);
    proxy.stop().await;
}
