//! Rewrites, client id prefixes, fixed credentials and payload limits of a rule file, before a real Mosquitto.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::net::SocketAddr;

use mproxy_testkit::broker::{BrokerScript, RecordingBroker};
use mproxy_testkit::certificates::Folder;
use mproxy_testkit::mosquitto::Mosquitto;
use mproxy_testkit::wire::{self, ConnectOptions, Publish, Version, Will, WireClient};
use support::{Proxy, VERSIONS, receives};

const RULES: &str = r##"
anonymous = true
[[rewrites]]
[[rewrites.rows]]
from = "sensors/{id}/temp"
to = "v2/${clientid}/{id}/temperature"
[[rewrites.rows]]
from = "cmd/{rest...}"
to = "fleet/${clientid}/{rest...}"
[[rules]]
effect = "allow"
topics = ["small/#"]
max_payload = 10
[[rules]]
effect = "allow"
topics = ["#"]
"##;

struct RewriteHouse {
    proxy: Proxy,
    folder: Folder,
}

impl RewriteHouse {
    async fn before(broker: SocketAddr, rules: &str) -> Self {
        let folder = Folder::default();
        let path = folder.write("rules.toml", rules);
        let proxy = Proxy::with(broker, &[("MPROXY_ACL_FILE", path.to_str().unwrap())]).await;
        Self { proxy, folder }
    }
}

fn message<'a>(topic: &'a str, payload: &'a [u8]) -> Publish<'a> {
    Publish { topic, payload, ..Publish::default() }
}

/// Subscribes and takes these codes.
async fn subscribes(client: &mut WireClient, version: Version, filters: &[(&str, u8)], codes: &[u8]) {
    client.send(&wire::subscribe(version, 1, filters)).await;
    let suback = client.packet().await;
    assert!(suback[0] == 0x90 && suback.ends_with(codes), "{suback:02x?}");
}

#[tokio::test]
async fn a_client_and_its_neighbours_at_the_broker_meet_under_both_names() {
    let mosquitto = Mosquitto::start().await;
    let house = RewriteHouse::before(mosquitto.addr(), RULES).await;
    for version in VERSIONS {
        let mut device = house.proxy.login(version, "d").await;
        let mut inside = WireClient::login(mosquitto.addr(), version, "inside").await;
        // Up: publish, with each QoS, and a retained one.
        subscribes(&mut inside, version, &[("v2/#", 2), ("fleet/d/answers/#", 0)], &[2, 0]).await;
        device.send(&wire::publish(version, &message("sensors/7/temp", b"20"))).await;
        receives(&mut inside, &message("v2/d/7/temperature", b"20"), 0).await;
        let counted = Publish { qos: 1, packet_id: 5, ..message("sensors/7/temp", b"21") };
        device.send(&wire::publish(version, &counted)).await;
        let puback = device.packet().await;
        assert_eq!(puback[..4], [0x40, puback[1], 0, 5], "{puback:02x?}");
        receives(&mut inside, &message("v2/d/7/temperature", b"21"), 1).await;
        let retained = Publish { retain: true, ..message("sensors/8/temp", b"22") };
        device.send(&wire::publish(version, &retained)).await;
        receives(&mut inside, &message("v2/d/8/temperature", b"22"), 0).await;
        // Down: what was retained, a command, and through a shared subscription.
        let asked = [("cmd/#", 1), ("$share/g/sensors/9/temp", 0)];
        subscribes(&mut device, version, &asked, &[1, 0]).await;
        inside.send(&wire::publish(version, &message("fleet/d/reboot/now", b"go"))).await;
        receives(&mut device, &message("cmd/reboot/now", b"go"), 0).await;
        inside.send(&wire::publish(version, &message("v2/d/9/temperature", b"9"))).await;
        receives(&mut inside, &message("v2/d/9/temperature", b"9"), 0).await;
        receives(&mut device, &message("sensors/9/temp", b"9"), 0).await;
        device.send(&wire::subscribe(version, 2, &[("sensors/+/temp", 0)])).await;
        assert_eq!(device.packet().await.last(), Some(&0));
        let came = device.packet().await;
        assert!(came[0] == 0x31 && came[2..18] == wire::string("sensors/8/temp")[..16], "{came:02x?}");
        // And no more of it.
        device.send(&wire::unsubscribe(version, 3, &["sensors/+/temp", "cmd/#"])).await;
        assert_eq!(device.packet().await[0], 0xB0);
        inside.send(&wire::publish(version, &message("fleet/d/reboot/now", b"again"))).await;
        inside.send(&wire::publish(version, &message("fleet/d/answers/x", b"-"))).await;
        receives(&mut inside, &message("fleet/d/answers/x", b"-"), 0).await;
        device.send(&wire::pingreq()).await;
        device.expect(&wire::pingresp()).await;
        // Neither half of what is rewritten nor what has another name.
        let no = if version == Version::V5 { 0x8F } else { 0x80 };
        subscribes(&mut device, version, &[("sensors/#", 0), ("v2/#", 0)], &[no, no]).await;
        inside
            .send(&wire::publish(version, &Publish { retain: true, ..message("v2/d/8/temperature", b"") }))
            .await;
        receives(&mut inside, &message("v2/d/8/temperature", b""), 0).await;
    }
    house.proxy.stop().await;
}

#[tokio::test]
async fn a_will_and_a_response_topic_have_the_broker_s_names() {
    let mosquitto = Mosquitto::start().await;
    let house = RewriteHouse::before(mosquitto.addr(), RULES).await;
    for version in VERSIONS {
        let mut inside = WireClient::login(mosquitto.addr(), version, "inside").await;
        subscribes(&mut inside, version, &[("v2/#", 0), ("ask", 0)], &[0, 0]).await;
        let will = Will { topic: "sensors/7/temp", payload: b"gone", ..Will::default() };
        let options = ConnectOptions { will: Some(will), ..ConnectOptions::default() };
        let (mut device, connack) = house.proxy.connect(version, "d", &options).await;
        assert_eq!(connack[..4], [0x20, connack[1], 0, 0]);
        if version == Version::V5 {
            let response = |topic: &str| [b"\x08".to_vec(), wire::string(topic)].concat();
            let own = response("cmd/answers");
            device.send(&wire::publish(version, &Publish { properties: &own, ..message("ask", b"?") })).await;
            let at_broker = response("fleet/d/answers");
            inside
                .expect(&wire::publish(version, &Publish { properties: &at_broker, ..message("ask", b"?") }))
                .await;
        }
        device.abort();
        receives(&mut inside, &message("v2/d/7/temperature", b"gone"), 0).await;
    }
    house.proxy.stop().await;
}

#[tokio::test]
async fn a_reload_that_fails_keeps_the_rewrites_and_names_line_and_row() {
    let mosquitto = Mosquitto::start().await;
    let mut house = RewriteHouse::before(mosquitto.addr(), RULES).await;
    house.folder.write("rules.toml", RULES.replace("v2/${clientid}", "fleet/${clientid}"));
    house.proxy.signal("HUP").await;
    let line = house.proxy.line(&["rewrites[0].rows[1].to", "clashes with rows[0].to in line 4"]).await;
    assert!(line.contains("rules.toml:9"), "{line}");
    let mut device = house.proxy.login(Version::V311, "d").await;
    let mut inside = WireClient::login(mosquitto.addr(), Version::V311, "inside").await;
    subscribes(&mut inside, Version::V311, &[("#", 0)], &[0]).await;
    device.send(&wire::publish(Version::V311, &message("sensors/7/temp", b"20"))).await;
    receives(&mut inside, &message("v2/d/7/temperature", b"20"), 0).await;
    house.proxy.stop().await;
}

#[tokio::test]
async fn a_payload_over_its_topic_s_limit_does_not_reach_the_broker() {
    let mosquitto = Mosquitto::start().await;
    let house = RewriteHouse::before(mosquitto.addr(), RULES).await;
    for version in VERSIONS {
        let mut inside = WireClient::login(mosquitto.addr(), version, "inside").await;
        subscribes(&mut inside, version, &[("#", 0)], &[0]).await;
        let mut device = house.proxy.login(version, "d").await;
        let large = vec![b'x'; 1 << 20];
        for payload in [&large[..], b"12345678901"] {
            let counted = Publish { qos: 1, packet_id: 5, ..message("small/a", payload) };
            device.send(&wire::publish(version, &counted)).await;
            let refused = if version == Version::V5 { vec![0x40, 3, 0, 5, 0x97] } else { wire::puback(5) };
            device.expect(&refused).await;
        }
        device.send(&wire::publish(version, &message("small/a", b"1234567890"))).await;
        receives(&mut inside, &message("small/a", b"1234567890"), 0).await;
    }
    house.proxy.stop().await;
}

#[tokio::test]
async fn tenants_with_the_same_client_ids_are_others_at_the_broker() {
    let mut broker = RecordingBroker::start(BrokerScript::default()).await;
    let rules = "anonymous = true\n[broker]\nusername = \"mproxy\"\n[[grants]]\nclient_id_prefix = \"acme-\"\n\
                 [[rules]]\neffect = \"allow\"\ntopics = [\"own/${clientid}\"]\n";
    let house = RewriteHouse::before(broker.addr(), rules).await;
    for version in VERSIONS {
        let mut device = house.proxy.login(version, "c1").await;
        let mut dialled = broker.session().await;
        let options = ConnectOptions { username: Some("mproxy"), ..ConnectOptions::default() };
        assert_eq!(dialled.packets(1).await[0], wire::connect(version, "acme-c1", &options));
        // Its own id is what rules and people go by.
        device.send(&wire::publish(version, &message("own/c1", b"x"))).await;
        assert_eq!(dialled.packets(2).await[1], wire::publish(version, &message("own/c1", b"x")));
        let sessions = house.proxy.sessions().await;
        let ids = |one: &serde_json::Value| (one["client_id"].clone(), one["broker_client_id"].clone());
        assert!(sessions.iter().any(|one| ids(one) == ("c1".into(), "acme-c1".into())), "{sessions:?}");
    }
    house.proxy.stop().await;
}
