//! Grants on the wire: what a service says once, when a client connects, is held to without another question, and its
//! topic mapping is seen by the broker alone.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use mproxy_testkit::mosquitto::subscribe;
use mproxy_testkit::service::contract::{
    ConnectAllow, Effect, Grant, GrantAction, GrantLimits, GrantRule, TopicMapping,
};
use mproxy_testkit::service::{Play, Service};
use mproxy_testkit::wire::{self, ConnectOptions, Publish, Version, Will, WireClient, packets};
use support::judge::House;

const ALL: [Version; 3] = [Version::V31, Version::V311, Version::V5];

/// Put before every topic of every client.
const PREFIX: &str = "tenants/acme/";

/// Property identifiers of PUBLISH.
const RESPONSE_TOPIC: u8 = 0x08;
const TOPIC_ALIAS: u8 = 0x23;

fn rule(effect: Effect, actions: &[GrantAction], filters: &[&str]) -> GrantRule {
    GrantRule {
        effect: effect.into(),
        actions: actions.iter().map(|&action| action.into()).collect(),
        topic_filters: filters.iter().map(|&filter| filter.to_owned()).collect(),
        ..GrantRule::default()
    }
}

/// Everybody may use a room of their own and what is shared, read one topic below `$SYS`, and nothing else.
fn tenant() -> Grant {
    Grant {
        rules: vec![
            // Not of subscriptions: it would refuse all that meet it anywhere.
            rule(Effect::Deny, &[GrantAction::Publish, GrantAction::Will], &["rooms/+/secret/#"]),
            GrantRule { max_qos: Some(1), ..rule(Effect::Allow, &[], &["rooms/${clientid}/slow/#"]) },
            rule(Effect::Allow, &[], &["rooms/${clientid}/#", "shared/#"]),
            rule(Effect::Allow, &[GrantAction::Subscribe], &["$SYS/broker/version"]),
        ],
        default_effect: Some(Effect::Deny.into()),
        mapping: Some(TopicMapping { prefix: PREFIX.to_owned() }),
        ..Grant::default()
    }
}

/// A house where all have this grant.
async fn granted(grant: Grant) -> House {
    let service = Service {
        connect: Box::new(move |_| {
            Play::answer(ConnectAllow { grant: Some(grant.clone()), ..ConnectAllow::default() })
        }),
        ..Service::default()
    };
    House::with(service, &[]).await
}

impl House {
    /// Nobody was asked anything but who may come in.
    async fn nothing_was_asked(self) {
        for asked in ["AuthPublish", "AuthSubscribe", "AuthDeliver"] {
            assert_eq!(self.judge.calls(asked), 0, "{asked}");
        }
        self.proxy.stop().await;
    }
}

/// Subscribed at the broker itself.
async fn watcher(house: &House, version: Version, filter: &str) -> WireClient {
    let mut watcher = WireClient::login(house.broker.addr(), version, "watcher").await;
    watcher.send(&wire::subscribe(version, 1, &[(filter, 0)])).await;
    watcher.expect(&wire::suback(version, 1, &[0])).await;
    watcher
}

fn message<'a>(topic: &'a str, payload: &'a [u8]) -> Publish<'a> {
    Publish { topic, payload, ..Publish::default() }
}

const fn no(version: Version) -> u8 {
    if matches!(version, Version::V5) { 0x87 } else { 0x80 }
}

#[tokio::test]
async fn topics_stand_under_the_prefix_at_the_broker_and_nowhere_else() {
    let mut house = granted(tenant()).await;
    let mut watcher = watcher(&house, Version::V311, "#").await;
    for version in ALL {
        let v5 = version == Version::V5;
        let mut client = house.proxy.login(version, "c").await;
        let filters = [
            ("rooms/c/#", 0),
            ("rooms/+/open", 0),
            ("$share/g/shared/+", 1),
            ("$share/g/rooms/d/x", 1),
            ("rooms/c/slow/x", 2),
            ("$SYS/broker/uptime", 0),
            ("#", 0),
        ];
        client.send(&wire::subscribe(version, 1, &filters)).await;
        let no = no(version);
        client.expect(&wire::suback(version, 1, &[0, no, 1, no, 1, no, no])).await;

        // Up, and down again to whoever may see it.
        client.send(&wire::publish(version, &message("rooms/c/light", b"on"))).await;
        client.expect(&wire::publish(version, &message("rooms/c/light", b"on"))).await;
        let under = format!("{PREFIX}rooms/c/light");
        watcher.expect(&wire::publish(Version::V311, &message(&under, b"on"))).await;
        // What is not allowed: nobody's, another's, and too much of one's own.
        for (topic, qos) in [
            ("elsewhere", 1),
            ("rooms/d/x", 1),
            ("rooms/c/secret/x", 1),
            ("rooms/c/slow/x", 2),
            ("$SYS/x", 1),
        ] {
            let refused = Publish { qos, packet_id: 9, ..message(topic, b"x") };
            client.send(&wire::publish(version, &refused)).await;
            let answer = client.packet().await;
            assert!(!v5 || answer.get(4).is_some_and(|code| *code >= 0x80), "{topic}: {answer:02x?}");
            if !v5 && qos == 2 {
                client.send(&wire::pubrel(9)).await;
                client.expect(&wire::pubcomp(9)).await;
            }
        }
        // From the broker, through the shared subscription.
        let mut feeder = WireClient::login(house.broker.addr(), Version::V311, "feeder").await;
        for topic in ["shared/x", "tenants/acme/shared/x"] {
            feeder.send(&wire::publish(Version::V311, &message(topic, b"x"))).await;
            watcher.expect(&wire::publish(Version::V311, &message(topic, b"x"))).await;
        }
        client.expect(&wire::publish(version, &message("shared/x", b"x"))).await;

        let ended = ["rooms/c/#", "$share/g/shared/+", "rooms/c/slow/x"];
        client.send(&wire::unsubscribe(version, 2, &ended)).await;
        client.expect(&wire::unsuback(version, 2, &[0; 3])).await;
        client.send(&wire::disconnect()).await;
        client.expect_closed().await;

        let up = packets(&house.tap.recording().await.up);
        let filters = [
            ("tenants/acme/rooms/c/#", 0),
            ("$share/g/tenants/acme/shared/+", 1),
            ("tenants/acme/rooms/c/slow/x", 1),
        ];
        assert_eq!(
            up[1..],
            [
                wire::subscribe(version, 1, &filters),
                wire::publish(version, &message(&under, b"on")),
                wire::unsubscribe(version, 2, &filters.map(|(filter, _)| filter)),
                wire::disconnect(),
            ]
        );
    }
    house.nothing_was_asked().await;
}

#[tokio::test]
async fn what_a_rule_names_below_dollar_sys_is_read_where_it_is() {
    let house = granted(tenant()).await;
    for version in ["mqttv31", "mqttv311", "mqttv5"] {
        let args = ["-V", version, "-t", "$SYS/broker/version", "-C", "1", "-W", "15", "-F", "%t %p"];
        let ended = subscribe(house.proxy.mqtt, args).await;
        assert!(ended.has_line("$SYS/broker/version mosquitto version"), "{:#?}", ended.lines);
        // `#` holds nothing below `$`, and the share group is no way around.
        for filter in ["$SYS/#", "$SYS/broker/uptime", "$share/g/$SYS/broker/uptime"] {
            let ended =
                subscribe(house.proxy.mqtt, ["-V", version, "-t", filter, "-C", "1", "-W", "15"]).await;
            assert!(ended.has_line("All subscription requests were denied"), "{filter}: {:#?}", ended.lines);
        }
    }
    house.nothing_was_asked().await;
}

#[tokio::test]
async fn a_will_is_granted_like_a_publish_and_fires_under_the_prefix() {
    let house = granted(tenant()).await;
    let mut watcher = watcher(&house, Version::V311, "#").await;
    for version in ALL {
        let v5 = version == Version::V5;
        let with_will = |topic, qos| ConnectOptions {
            will: Some(Will { topic, payload: b"gone", qos, ..Will::default() }),
            ..ConnectOptions::default()
        };
        for (topic, qos) in [
            ("elsewhere", 0),
            ("rooms/d/will", 0),
            ("rooms/c/secret/x", 0),
            ("rooms/c/slow/x", 2),
            ("$SYS/x", 0),
        ] {
            let (mut client, connack) = house.proxy.connect(version, "c", &with_will(topic, qos)).await;
            let refused = connack[3];
            assert!(
                if v5 { refused >= 0x80 } else { refused == 5 },
                "{topic} in {version:?}: {connack:02x?}"
            );
            client.expect_closed().await;
        }
        let (client, connack) = house.proxy.connect(version, "c", &with_will("rooms/c/will", 0)).await;
        assert_eq!(connack[3], 0);
        client.abort();
        watcher.expect(&wire::publish(Version::V311, &message("tenants/acme/rooms/c/will", b"gone"))).await;
    }
    house.nothing_was_asked().await;
}

#[tokio::test]
async fn aliases_and_response_topics_are_mapped_in_both_directions() {
    let house = granted(tenant()).await;
    let mut watcher = watcher(&house, Version::V5, "#").await;
    let mut client = house.proxy.login(Version::V5, "c").await;
    client.send(&wire::subscribe(Version::V5, 1, &[("rooms/c/#", 0)])).await;
    client.expect(&wire::suback(Version::V5, 1, &[0])).await;

    let reply = |to: &str| [&[RESPONSE_TOPIC][..], &wire::string(to)].concat();
    let alias = [TOPIC_ALIAS, 0, 1];
    let mut properties = [&alias[..], &reply("rooms/c/reply")].concat();
    for topic in ["rooms/c/ask", ""] {
        let question = Publish { properties: &properties, ..message(topic, b"?") };
        client.send(&wire::publish(Version::V5, &question)).await;
        let at_broker = reply("tenants/acme/rooms/c/reply");
        let there = Publish { properties: &at_broker, ..message("tenants/acme/rooms/c/ask", b"?") };
        watcher.expect(&wire::publish(Version::V5, &there)).await;
        let at_client = reply("rooms/c/reply");
        let here = Publish { properties: &at_client, ..message("rooms/c/ask", b"?") };
        client.expect(&wire::publish(Version::V5, &here)).await;
    }
    // Refused under an alias, and the alias goes on to mean what it meant.
    let refused = [TOPIC_ALIAS, 0, 2];
    for topic in ["elsewhere", ""] {
        let message = Publish { qos: 1, packet_id: 3, properties: &refused, ..message(topic, b"x") };
        client.send(&wire::publish(Version::V5, &message)).await;
        client.expect(&wire::packet(0x40, &[0, 3, 0x87])).await;
    }
    properties.truncate(alias.len());
    client.send(&wire::publish(Version::V5, &Publish { properties: &properties, ..message("", b"!") })).await;
    watcher.expect(&wire::publish(Version::V5, &message("tenants/acme/rooms/c/ask", b"!"))).await;
    client.expect(&wire::publish(Version::V5, &message("rooms/c/ask", b"!"))).await;
    client.expect_nothing_but_pingresp().await;
    drop(client);
    house.nothing_was_asked().await;
}

#[tokio::test]
async fn limits_of_a_grant_are_held_and_told() {
    let limits = GrantLimits { subscriptions: Some(2), packet_size: Some(200), ..GrantLimits::default() };
    let rules = vec![rule(Effect::Allow, &[], &["#"])];
    let house = granted(Grant { rules, limits: Some(limits), ..Grant::default() }).await;
    for version in ALL {
        let v5 = version == Version::V5;
        let (mut client, connack) = house.proxy.connect(version, "c", &ConnectOptions::default()).await;
        // Maximum Packet Size (3.2.2.3.6).
        assert_eq!(connack.windows(5).any(|part| part == [0x27, 0, 0, 0, 200]), v5, "{connack:02x?}");
        client.send(&wire::subscribe(version, 1, &[("a", 0), ("b", 1), ("c", 2)])).await;
        let quota = if v5 { 0x97 } else { 0x80 };
        client.expect(&wire::suback(version, 1, &[0, 1, quota])).await;
        // The same again is no third; one that ends makes room.
        client.send(&wire::subscribe(version, 2, &[("a", 1)])).await;
        client.expect(&wire::suback(version, 2, &[1])).await;
        client.send(&wire::unsubscribe(version, 3, &["b"])).await;
        client.expect(&wire::unsuback(version, 3, &[0])).await;
        client.send(&wire::subscribe(version, 4, &[("c", 2)])).await;
        client.expect(&wire::suback(version, 4, &[2])).await;

        client.send(&wire::publish(version, &message("x", &[0; 300]))).await;
        if v5 {
            assert_eq!(client.packet().await[2], 0x95);
        }
        client.expect_closed().await;
    }
    house.nothing_was_asked().await;
}
