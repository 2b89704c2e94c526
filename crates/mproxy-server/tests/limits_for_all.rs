//! Limits that hold for all who are in, with real clients: topics, subscriptions, and how fast they send.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::time::{Duration, Instant};

use mproxy_testkit::broker::{BrokerScript, RecordingBroker};
use mproxy_testkit::certificates::Folder;
use mproxy_testkit::wire::{self, ConnectOptions, Publish, Version, WireClient};
use serde_json::Value;
use support::{Proxy, until};

async fn a_broker() -> RecordingBroker {
    RecordingBroker::start(BrokerScript::default()).await
}

fn publish(topic: &str, qos: u8, packet_id: u16) -> Vec<u8> {
    wire::publish(Version::V5, &Publish { topic, payload: b"21", qos, packet_id, ..Publish::default() })
}

async fn login(proxy: &Proxy, client_id: &str, username: &str) -> WireClient {
    let options = ConnectOptions { username: Some(username), keep_alive: 600, ..ConnectOptions::default() };
    let (client, connack) = proxy.connect(Version::V5, client_id, &options).await;
    assert_eq!(connack[3], 0, "CONNACK 0x00");
    client
}

/// By which limits packets were refused, the latest first.
async fn limits_on_record(proxy: &Proxy) -> Vec<Value> {
    let (_, page) = proxy.http("GET", "/api/v1/refusals").await;
    let page: Value = serde_json::from_str(&page).unwrap();
    let refusals = page["refusals"].as_array().unwrap().iter();
    refusals.filter(|one| one["source"] == "limit").map(|one| one["limit"].clone()).collect()
}

#[tokio::test]
async fn topics_and_subscriptions_have_their_limits() {
    let broker = a_broker().await;
    let variables = [
        ("MPROXY_MAX_TOPIC_LENGTH", "10"),
        ("MPROXY_MAX_TOPIC_LEVELS", "3"),
        ("MPROXY_MAX_SUBSCRIPTIONS", "1"),
    ];
    let proxy = Proxy::with(broker.addr(), &variables).await;
    let mut client = login(&proxy, "c", "ann").await;
    client.send(&publish("a/b/c/d", 1, 1)).await;
    client.expect(&wire::packet(0x40, &[0, 1, 0x90])).await;
    client.send(&publish("01234567890", 1, 2)).await;
    client.expect(&wire::packet(0x40, &[0, 2, 0x90])).await;
    client.send(&publish("a/b/c", 1, 3)).await;
    client.expect(&wire::puback(3)).await;
    client.send(&wire::subscribe(Version::V5, 4, &[("a", 0), ("a/b/c/#", 0), ("b", 0)])).await;
    client.expect(&wire::suback(Version::V5, 4, &[0, 0x8F, 0x97])).await;
    let limits = ["subscriptions", "topic_levels", "topic_length", "topic_levels"];
    assert_eq!(limits_on_record(&proxy).await, limits);
    let series = "mproxy_decisions_total{hook=\"publish\",source=\"limit\",outcome=\"refused\"}";
    assert_eq!(proxy.metric(series).await, 2.0);
    proxy.stop().await;
}

#[tokio::test]
async fn a_client_over_its_rate_is_refused_and_a_reload_changes_the_limit() {
    let (broker, folder) = (a_broker().await, Folder::default());
    let settings = |rate| format!("rate_action = \"refuse\"\nclient_messages_per_second = {rate}\n");
    let file = folder.write("mproxy.toml", settings(2));
    let mut proxy = Proxy::with(broker.addr(), &[("MPROXY_CONFIG", file.to_str().unwrap())]).await;
    let mut client = login(&proxy, "c", "ann").await;
    client.send(&(1..=3).flat_map(|id| publish("a", 1, id)).collect::<Vec<_>>()).await;
    // Those of the broker's and our own have no order among them.
    let mut answers = [client.packet().await, client.packet().await, client.packet().await];
    answers.sort();
    assert_eq!(answers, [wire::puback(1), wire::puback(2), wire::packet(0x40, &[0, 3, 0x97])]);
    assert_eq!(limits_on_record(&proxy).await, ["client_rate"]);
    folder.write("mproxy.toml", settings(4));
    proxy.signal("HUP").await;
    proxy.line(&["configuration reloaded"]).await;
    let mut client = login(&proxy, "d", "ann").await;
    client.send(&(1..=5).flat_map(|id| publish("a", 1, id)).collect::<Vec<_>>()).await;
    let mut refused = 0;
    for _ in 0..5 {
        refused += usize::from(client.packet().await.ends_with(&[0x97]));
    }
    assert_eq!(refused, 1);
    proxy.stop().await;
}

#[tokio::test]
async fn clients_of_a_user_name_wait_for_what_they_share_and_others_do_not() {
    let broker = a_broker().await;
    let proxy = Proxy::with(broker.addr(), &[("MPROXY_USER_MESSAGES_PER_SECOND", "20")]).await;
    let burst: Vec<u8> = (1..=30).flat_map(|id| publish("a", 1, id)).collect();
    let begun = Instant::now();
    let mut two = [login(&proxy, "one", "ann").await, login(&proxy, "two", "ann").await];
    for client in &mut two {
        client.send(&burst).await;
    }
    until("one waits", async || proxy.metric("mproxy_rate_waits_total").await > 0.0).await;
    let mut other = login(&proxy, "three", "bob").await;
    other.send(&burst[..publish("a", 1, 1).len()]).await;
    other.expect(&wire::puback(1)).await;
    for client in &mut two {
        for id in 1..=30 {
            client.expect(&wire::puback(id)).await;
        }
    }
    // Twenty at once, forty at twenty a second.
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(1900), "{took:?}");
    proxy.stop().await;
}

#[tokio::test]
async fn clients_of_a_listener_share_its_rate() {
    let broker = a_broker().await;
    let variables = [("MPROXY_LISTENER_BYTES_PER_SECOND", "1000"), ("MPROXY_RATE_ACTION", "refuse")];
    let proxy = Proxy::with(broker.addr(), &variables).await;
    let (mut one, mut other) = (login(&proxy, "one", "ann").await, login(&proxy, "two", "bob").await);
    let large = wire::publish(
        Version::V5,
        &Publish { topic: "a", payload: &[7; 900], qos: 1, packet_id: 1, ..Publish::default() },
    );
    one.send(&large).await;
    one.expect(&wire::puback(1)).await;
    other.send(&large).await;
    other.expect(&wire::packet(0x40, &[0, 1, 0x97])).await;
    assert_eq!(limits_on_record(&proxy).await, ["listener_rate"]);
    proxy.stop().await;
}
