//! Who fails to log in, or connects over and over, has to wait, and costs nobody anything meanwhile: with real clients.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use mproxy_testkit::broker::{BrokerScript, ConnectReply, RecordingBroker};
use mproxy_testkit::certificates::Folder;
use mproxy_testkit::service::contract::{ConnectAllow, Deny};
use mproxy_testkit::service::{Play, Running, Service};
use mproxy_testkit::wire::{self, ConnectOptions, Version, WireClient};
use serde_json::Value;
use support::{Proxy, until};

const WAITS_FOREVER: [(&str, &str); 3] =
    [("MPROXY_LOGIN_FAILURES", "2"), ("MPROXY_LOGIN_BACKOFF", "1h"), ("MPROXY_LOGIN_BACKOFF_MAX", "1h")];

/// What a login is answered; `None`: the connection is closed without a word.
async fn log_in(proxy: &Proxy, version: Version, name: &str, password: &[u8]) -> Option<u8> {
    let options =
        ConnectOptions { username: Some(name), password: Some(password), ..ConnectOptions::default() };
    let mut client = WireClient::open(proxy.mqtt).await;
    client.send(&wire::connect(version, "c", &options)).await;
    client.rest().await.get(3).copied()
}

/// By which limits the last CONNECTs were refused, the latest first.
async fn limits_on_record(proxy: &Proxy) -> Vec<Value> {
    let (_, page) = proxy.http("GET", "/api/v1/refusals?client_id=c").await;
    let page: Value = serde_json::from_str(&page).unwrap();
    let refusals = page["refusals"].as_array().unwrap().iter();
    refusals.filter(|one| one["source"] == "limit").map(|one| one["limit"].clone()).collect()
}

/// A service that knows the password of everybody.
fn knowing() -> Service {
    let connect = Box::new(|request: &mproxy_testkit::service::Request<_>| {
        let asked: &mproxy_testkit::service::contract::AuthConnectRequest = request.get_ref();
        if asked.password.as_deref() == Some(b"right") {
            return Play::answer(ConnectAllow::default());
        }
        Play::answer(Deny { reason_code: 0x86, ..Deny::default() })
    });
    Service { connect, ..Service::default() }
}

#[tokio::test]
async fn who_fails_too_often_waits_and_the_hook_service_is_not_asked() {
    let mut broker = RecordingBroker::start(BrokerScript::default()).await;
    let service = Running::start(knowing()).await;
    let mut proxy = Proxy::asking(&service, broker.addr(), &WAITS_FOREVER).await;
    // A success in between clears what failed.
    assert_eq!(log_in(&proxy, Version::V5, "ann", b"wrong").await, Some(0x86));
    drop(
        proxy
            .connect(
                Version::V5,
                "c",
                &ConnectOptions {
                    username: Some("ann"),
                    password: Some(b"right"),
                    ..ConnectOptions::default()
                },
            )
            .await,
    );
    broker.session().await;
    assert_eq!(log_in(&proxy, Version::V5, "ann", b"wrong").await, Some(0x86));
    assert_eq!(log_in(&proxy, Version::V311, "ann", b"wrong").await, Some(4));
    proxy
        .line(&["logins failed too often, the next has to wait", "username=\"ann\"", "wait_seconds=3600"])
        .await;
    let asked = service.calls("AuthConnect");
    for (version, code) in [(Version::V5, 0x9F), (Version::V311, 3), (Version::V31, 3)] {
        assert_eq!(log_in(&proxy, version, "ann", b"right").await, Some(code));
    }
    assert_eq!(service.calls("AuthConnect"), asked, "nobody is asked about it");
    assert!(broker.try_session().is_none());
    assert_eq!(limits_on_record(&proxy).await, ["login_backoff"; 3]);
    assert_eq!(proxy.metric("mproxy_failed_logins_total").await, 3.0);
    let series = "mproxy_decisions_total{hook=\"connect\",source=\"limit\",outcome=\"refused\"}";
    assert_eq!(proxy.metric(series).await, 3.0);
    let series = "mproxy_connects_refused_total{listener=\"mqtt\",part=\"login_backoff\"}";
    assert_eq!(proxy.metric(series).await, 3.0);
    // Neither the address nor the name alone is held up.
    assert_eq!(log_in(&proxy, Version::V5, "bob", b"wrong").await, Some(0x86));
    proxy.stop().await;
}

#[tokio::test]
async fn the_broker_and_the_rule_file_count_and_no_password_is_hashed_meanwhile() {
    let refuses = BrokerScript { connack: ConnectReply::Refuse(5), ..BrokerScript::default() };
    let mut broker = RecordingBroker::start(refuses).await;
    let proxy = Proxy::with(broker.addr(), &WAITS_FOREVER).await;
    for _ in 0..2 {
        assert_eq!(log_in(&proxy, Version::V311, "ann", b"wrong").await, Some(5));
        broker.session().await;
    }
    assert_eq!(log_in(&proxy, Version::V311, "ann", b"wrong").await, Some(3));
    assert!(broker.try_session().is_none(), "the broker never heard of it");
    proxy.stop().await;

    let folder = Folder::default();
    let hash = mproxy_policy::acl::hash_password("wonderland").unwrap();
    let rules = format!("[[users]]\nname = \"ann\"\npassword = \"{hash}\"\n");
    let rules =
        folder.write("rules.toml", format!("{rules}[[rules]]\neffect = \"allow\"\ntopics = [\"#\"]\n"));
    let variables = [&WAITS_FOREVER[..], &[("MPROXY_ACL_FILE", rules.to_str().unwrap())]].concat();
    let proxy = Proxy::with(broker.addr(), &variables).await;
    for name in ["ann", "nobody"] {
        for _ in 0..2 {
            assert_eq!(log_in(&proxy, Version::V5, name, b"wrong").await, Some(0x86));
        }
        assert_eq!(log_in(&proxy, Version::V5, name, b"wrong").await, Some(0x9F));
    }
    assert_eq!(proxy.metric("mproxy_failed_logins_total").await, 4.0);
    proxy.stop().await;
}

#[tokio::test]
async fn a_wait_ends_and_a_reload_sets_another() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let service = Running::start(knowing()).await;
    let folder = Folder::default();
    let file = folder.write(
        "mproxy.toml",
        "[protection]\nlogin_failures = 1\nlogin_backoff = \"1h\"\nlogin_backoff_max = \"1h\"\n",
    );
    let mut proxy =
        Proxy::asking(&service, broker.addr(), &[("MPROXY_CONFIG", file.to_str().unwrap())]).await;
    assert_eq!(log_in(&proxy, Version::V5, "ann", b"wrong").await, Some(0x86));
    assert_eq!(log_in(&proxy, Version::V5, "ann", b"right").await, Some(0x9F));
    folder.write(
        "mproxy.toml",
        "[protection]\nlogin_failures = 1\nlogin_backoff = \"10ms\"\nlogin_backoff_max = \"20ms\"\n",
    );
    proxy.signal("HUP").await;
    proxy.line(&["configuration reloaded"]).await;
    assert_eq!(log_in(&proxy, Version::V5, "bob", b"wrong").await, Some(0x86));
    let options =
        ConnectOptions { username: Some("bob"), password: Some(b"right"), ..ConnectOptions::default() };
    until("its turn", async || proxy.connect(Version::V5, "c", &options).await.1[3] == 0).await;
    proxy.stop().await;
}

#[tokio::test]
async fn a_client_that_connects_over_and_over_is_put_aside() {
    for on_unavailable in ["close", "connack"] {
        let mut broker = RecordingBroker::start(BrokerScript::default()).await;
        let variables = [("MPROXY_FLAPPING_RATE", "3/h"), ("MPROXY_ON_UNAVAILABLE", on_unavailable)];
        let mut proxy = Proxy::with(broker.addr(), &variables).await;
        for _ in 0..4 {
            drop(proxy.login(Version::V5, "c").await);
            broker.session().await;
        }
        proxy.line(&["client connects too often, put aside", "client_id=\"c\"", "wait_seconds=300"]).await;
        for (version, code) in [(Version::V5, 0x9F), (Version::V311, 3)] {
            let mut client = WireClient::open(proxy.mqtt).await;
            client.send(&wire::connect(version, "c", &ConnectOptions::default())).await;
            let told = client.rest().await.get(3).copied();
            assert_eq!(told, (on_unavailable == "connack").then_some(code));
        }
        assert!(broker.try_session().is_none(), "the broker never heard of it");
        assert_eq!(limits_on_record(&proxy).await, ["flapping"; 2]);
        assert_eq!(proxy.metric("mproxy_flapping_clients_total").await, 1.0);
        let series = "mproxy_connects_refused_total{listener=\"mqtt\",part=\"flapping\"}";
        assert_eq!(proxy.metric(series).await, 2.0);
        // Another client of the same address is not held up.
        drop(proxy.login(Version::V5, "d").await);
        proxy.stop().await;
    }
}
