//! What is not said is not allowed: a grant whose time has passed, and a grant that says to ask where nobody wants to be
//! asked.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::time::Duration;

use mproxy_testkit::service::contract::{
    ConnectAllow, Effect, Grant, GrantAction, GrantRule, HelloResponse, Hook, Want,
};
use mproxy_testkit::service::{Play, Service};
use mproxy_testkit::wire::{self, Publish, Version, WireClient};
use support::judge::House;
use support::{VERSIONS, feed, receives, until};

/// As long as a grant holds, and as long as it serves beyond that.
const A_MOMENT: Duration = Duration::from_secs(1);

fn rule(effect: Effect, actions: &[GrantAction], filter: &str) -> GrantRule {
    GrantRule {
        effect: effect.into(),
        actions: actions.iter().map(|&action| action.into()).collect(),
        topic_filters: vec![filter.to_owned()],
        ..GrantRule::default()
    }
}

/// A house that asks who may come in, and these besides; whoever comes has this grant.
async fn house(asks: &[Hook], grant: Grant, variables: &[(&str, &str)]) -> House {
    let want = |&hook: &Hook| Want { hook: hook.into(), ..Want::default() };
    let wants = [Hook::AuthConnect].iter().chain(asks).map(want).collect();
    let service = Service {
        hello: Some(HelloResponse { wants, ..HelloResponse::default() }),
        connect: Box::new(move |_| {
            Play::answer(ConnectAllow { grant: Some(grant.clone()), ..ConnectAllow::default() })
        }),
        ..Service::default()
    };
    House::with(service, variables).await
}

fn message(topic: &str) -> Publish<'_> {
    Publish { topic, payload: b"x", ..Publish::default() }
}

/// The code for a refused filter.
const fn no(version: Version, code: u8) -> u8 {
    if matches!(version, Version::V5) { code } else { 0x80 }
}

/// What 5.0 says where an answer is missing.
const MISSING: u8 = 0x83;

/// Somebody at the broker itself: one who publishes there, and one who sees all.
struct Beyond {
    feeder: WireClient,
    watcher: WireClient,
}

impl Beyond {
    async fn of(house: &House) -> Self {
        let login = async |id| WireClient::login(house.broker.addr(), Version::V311, id).await;
        let (feeder, mut watcher) = (login("feeder").await, login("watcher").await);
        watcher.send(&wire::subscribe(Version::V311, 1, &[("#", 0)])).await;
        watcher.expect(&wire::suback(Version::V311, 1, &[0])).await;
        Self { feeder, watcher }
    }

    async fn feed(&mut self, topic: &str) {
        feed(&mut self.feeder, &mut self.watcher, &message(topic), 1).await;
    }

    /// `client` publishes with QoS 1: it is told this code, where its version has any, and here it arrives or not.
    async fn published(&mut self, client: &mut WireClient, version: Version, topic: &str, code: u8) {
        let sent = Publish { qos: 1, packet_id: 7, ..message(topic) };
        client.send(&wire::publish(version, &sent)).await;
        let puback = client.packet().await;
        let told = puback.get(4).copied().unwrap_or_default();
        let expected = if version == Version::V5 { code } else { 0 };
        assert_eq!((puback[0], told), (0x40, expected), "{version:?} {topic}: {puback:02x?}");
        if code == 0 {
            self.watcher.expect(&wire::publish(Version::V311, &message(topic))).await;
        } else {
            self.watcher.expect_nothing_but_pingresp().await;
        }
    }
}

async fn subscribed(client: &mut WireClient, version: Version, filter: &str) -> u8 {
    client.send(&wire::subscribe(version, 8, &[(filter, 0)])).await;
    let suback = client.packet().await;
    assert_eq!(suback[0], 0x90, "{suback:02x?}");
    *suback.last().unwrap()
}

async fn a_grant_outlives_its_service(on_error: &str) {
    let open = on_error == "allow";
    let grant = Grant {
        rules: vec![
            rule(Effect::Deny, &[GrantAction::Receive], "own/hidden"),
            rule(Effect::Allow, &[], "own/#"),
        ],
        default_effect: Some(Effect::Deny.into()),
        ttl: Some(A_MOMENT.try_into().unwrap()),
        ..Grant::default()
    };
    let variables = [("MPROXY_POLICY_GRANT_STALENESS", "1s"), ("MPROXY_POLICY_ON_ERROR", on_error)];
    let house = house(&[], grant, &variables).await;
    let mut beyond = Beyond::of(&house).await;
    let mut clients = Vec::new();
    for version in VERSIONS {
        let mut client = house.proxy.login(version, &format!("{version:?}")).await;
        for filter in ["own/hidden", "own/seen"] {
            assert_eq!(subscribed(&mut client, version, filter).await, 0, "{version:?} {filter}");
        }
        assert_eq!(subscribed(&mut client, version, "#").await, no(version, 0x87));
        beyond.published(&mut client, version, "own/x", 0).await;
        beyond.published(&mut client, version, "secret/x", 0x87).await;
        clients.push((version, client));
    }
    beyond.feed("own/hidden").await;
    beyond.feed("own/seen").await;
    for (_, client) in &mut clients {
        receives(client, &message("own/seen"), 0).await;
        client.expect_nothing_but_pingresp().await;
    }

    house.judge.kill();
    for (version, client) in &mut clients {
        // That its time has passed shows by the other answer, whichever that is.
        let (probe, later) = if open { ("secret/probe", 0) } else { ("own/probe", no(*version, MISSING)) };
        until("the end of the grant", async || subscribed(client, *version, probe).await == later).await;
        let (own, other) = if open { (0, 0) } else { (MISSING, MISSING) };
        beyond.published(client, *version, "own/x", own).await;
        beyond.published(client, *version, "secret/x", other).await;
        for filter in ["own/y", "+/y/#", "$share/g/secret/y"] {
            let code = if open { 0 } else { no(*version, MISSING) };
            assert_eq!(subscribed(client, *version, filter).await, code, "{version:?} {filter}");
        }
    }
    beyond.feed("own/hidden").await;
    beyond.feed("own/seen").await;
    for (_, client) in &mut clients {
        if open {
            receives(client, &message("own/hidden"), 0).await;
            receives(client, &message("own/seen"), 0).await;
        }
        client.expect_nothing_but_pingresp().await;
    }
    let (source, outcome) = if open { ("failed_open", "allowed") } else { ("failed_closed", "refused") };
    for hook in ["publish", "subscribe", "deliver"] {
        let count = async |source, outcome| {
            let labels = format!("hook=\"{hook}\",source=\"{source}\",outcome=\"{outcome}\"");
            house.proxy.metric(&format!("mproxy_decisions_total{{{labels}}}")).await
        };
        assert!(count(source, outcome).await >= 4.0, "{hook}");
        assert_eq!(count("default_allow", "allowed").await, 0.0, "{hook}");
        assert_eq!(house.judge.calls("AuthPublish") + house.judge.calls("AuthSubscribe"), 0);
    }
    drop(clients);
    house.proxy.stop().await;
}

#[tokio::test]
async fn once_a_grant_is_stale_the_failure_rule_deny_holds_for_everything() {
    a_grant_outlives_its_service("deny").await;
}

#[tokio::test]
async fn once_a_grant_is_stale_the_failure_rule_allow_holds_for_everything() {
    a_grant_outlives_its_service("allow").await;
}

#[tokio::test]
async fn what_a_grant_says_to_ask_about_is_refused_where_nobody_wants_to_be_asked() {
    for on_error in ["deny", "allow"] {
        for default in [Effect::Deny, Effect::Allow, Effect::Ask] {
            let grant = Grant {
                rules: vec![
                    rule(Effect::Ask, &[], "maybe/#"),
                    rule(Effect::Ask, &[GrantAction::Receive], "own/maybe"),
                    rule(Effect::Allow, &[], "own/#"),
                ],
                default_effect: Some(default.into()),
                ..Grant::default()
            };
            let house = house(&[], grant, &[("MPROXY_POLICY_ON_ERROR", on_error)]).await;
            let mut beyond = Beyond::of(&house).await;
            for version in VERSIONS {
                let mut client = house.proxy.login(version, &format!("{version:?}")).await;
                for filter in ["#", "maybe/x", "+/x", "$share/g/maybe/#"] {
                    let code = subscribed(&mut client, version, filter).await;
                    assert_eq!(code, no(version, 0x87), "{on_error} {default:?} {version:?} {filter}");
                }
                let filters = [("own/seen", 0), ("#", 0), ("own/maybe", 0)];
                client.send(&wire::subscribe(version, 9, &filters)).await;
                client.expect(&wire::suback(version, 9, &[0, no(version, 0x87), 0])).await;
                beyond.published(&mut client, version, "maybe/x", 0x87).await;
                beyond.published(&mut client, version, "own/x", 0).await;
                let other = if default == Effect::Allow { 0 } else { 0x87 };
                beyond.published(&mut client, version, "other/x", other).await;
                beyond.feed("own/maybe").await;
                beyond.feed("own/seen").await;
                receives(&mut client, &message("own/seen"), 0).await;
                client.expect_nothing_but_pingresp().await;
            }
            for asked in ["AuthPublish", "AuthSubscribe", "AuthDeliver"] {
                assert_eq!(house.judge.calls(asked), 0, "{asked}");
            }
            house.proxy.stop().await;
        }
    }
}

#[tokio::test]
async fn what_a_grant_says_to_ask_about_is_asked_about_where_somebody_wants_to_be_asked() {
    let grant = Grant {
        rules: vec![rule(Effect::Ask, &[], "maybe/#")],
        default_effect: Some(Effect::Deny.into()),
        ..Grant::default()
    };
    let house = house(&[Hook::AuthSubscribe], grant, &[]).await;
    let mut beyond = Beyond::of(&house).await;
    for version in VERSIONS {
        let mut client = house.proxy.login(version, "c").await;
        let before = house.judge.calls("AuthSubscribe");
        assert_eq!(subscribed(&mut client, version, "maybe/x").await, 0);
        assert_eq!(subscribed(&mut client, version, "other/x").await, no(version, 0x87));
        assert_eq!(house.judge.calls("AuthSubscribe"), before + 1);
        // The one that is wanted says nothing for the one that is not.
        beyond.published(&mut client, version, "maybe/x", 0x87).await;
    }
    assert_eq!(house.judge.calls("AuthPublish"), 0);
    house.proxy.stop().await;
}
