//! A second policy service beside the one in force: what an operator sees of it.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use mproxy_testkit::broker::{BrokerScript, RecordingBroker};
use mproxy_testkit::service::contract::{Deny, PublishAllow};
use mproxy_testkit::service::{Play, Running, Service};
use mproxy_testkit::wire::{self, Publish, Version};
use support::{Proxy, until};

#[tokio::test]
async fn a_wrong_change_is_seen_before_it_is_in_force() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let active = Running::start(Service::default()).await;
    // The mistake: a level too few.
    let shadow = Running::start(Service {
        publish: Box::new(|asked| match asked.get_ref().topic.starts_with("devices/c1/state/") {
            true => Play::answer(PublishAllow::default()),
            false => Play::answer(Deny::default()),
        }),
        ..Service::default()
    })
    .await;
    let variables = [("MPROXY_SHADOW_URL", shadow.url.as_str()), ("MPROXY_LOG_FORMAT", "json")];
    let variables = [&[("MPROXY_POLICY_URL", active.url.as_str())], &variables[..]].concat();
    let mut proxy = Proxy::with(broker.addr(), &variables).await;
    proxy.line(&["shadow service is asked for comparison", &shadow.url]).await;
    let mut client = proxy.login(Version::V5, "c1").await;
    let message = Publish { topic: "devices/c1/state", qos: 1, packet_id: 7, ..Publish::default() };
    client.send(&wire::publish(Version::V5, &message)).await;
    assert_eq!(client.packet().await[..4], [0x40, 2, 0, 7]);

    let line = proxy.line(&["shadow service would decide otherwise"]).await;
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    let field = |name: &str| line[name].as_str().unwrap().to_owned();
    assert_eq!((field("hook"), field("topic")), ("publish".to_owned(), "devices/c1/state".to_owned()));
    assert_eq!((field("active"), field("shadow")), ("allowed".to_owned(), "refused 0x87".to_owned()));
    assert_eq!(field("client_id"), "c1");
    let labels = |hook: &str, shadow: &str, same: bool| {
        let labels = format!("hook=\"{hook}\",active=\"allowed\",shadow=\"{shadow}\",same=\"{same}\"");
        format!("mproxy_shadow_comparisons_total{{{labels}}}")
    };
    until("both are counted", async || {
        let connects = proxy.metric(&labels("connect", "allowed", true)).await;
        (connects, proxy.metric(&labels("publish", "refused", false)).await) == (1.0, 1.0)
    })
    .await;
    // What the client does is told to the service in force alone.
    let told = |service: &Running| ["Connect", "Publish"].map(|event| service.calls(event));
    until("the service in force is told", async || told(&active) == [1, 1]).await;
    assert_eq!(told(&shadow), [0, 0]);
    proxy.stop().await;
}

#[tokio::test]
async fn a_shadow_that_is_away_is_told_as_the_shadow_with_the_last_error() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let active = Running::start(Service::default()).await;
    let variables = [("MPROXY_POLICY_URL", &*active.url), ("MPROXY_SHADOW_URL", "http://127.0.0.1:1")];
    let mut proxy = Proxy::with(broker.addr(), &variables).await;
    proxy.line(&["policy endpoint healthy", "role=\"policy\""]).await;
    proxy.line(&["policy endpoint unhealthy", "role=\"shadow\"", "Connection refused"]).await;
    proxy.stop().await;
}

#[tokio::test]
async fn without_a_service_a_shadow_has_nothing_to_compare_with() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let mut proxy = Proxy::with(broker.addr(), &[("MPROXY_SHADOW_URL", "http://127.0.0.1:1")]).await;
    proxy.line(&["MPROXY_SHADOW_URL", "has no effect"]).await;
    proxy.stop().await;
}
