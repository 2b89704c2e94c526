//! Conditions before a real process and a real broker: by payload, by claim, by the time of day.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::time::{Duration, SystemTime};

use mproxy_core::rule::WallTime;
use mproxy_testkit::certificates::Folder;
use mproxy_testkit::mosquitto::Mosquitto;
use mproxy_testkit::tokens::{TokenSigner, seconds_from_now};
use mproxy_testkit::wire::{self, ConnectOptions, Publish, Version, WireClient};
use serde_json::json;
use support::Proxy;

/// The hours of this test: it may begin in one and end in the next.
fn hours() -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let hour = |later| WallTime::since_1970(since + Duration::from_secs(later)).hour();
    format!("[{}, {}]", hour(0), hour(3600))
}

fn rules() -> String {
    let hours = hours();
    format!(
        r#"
        [jwt]
        audiences = ["mqtt"]
        [[jwt.keys]]
        public_key = "key.pem"

        [[rules]]
        effect = "deny"
        actions = ["publish"]
        topics = ["tenants/#"]
        when = 'size(payload) > 10 && !("gold" in claim.plans)'

        [[rules]]
        effect = "deny"
        topics = ["tenants/+/closed"]
        when = 'time.hour in {hours}'

        [[rules]]
        effect = "deny"
        topics = ["tenants/+/open"]
        when = '!(time.hour in {hours})'

        [[rules]]
        effect = "allow"
        topics = ["tenants/#"]
        when = 'levels[1] == claim.tenant && client.version == "5.0" && client.address == "127.0.0.1"'
        "#
    )
}

async fn enters(proxy: &Proxy, signer: &TokenSigner, id: &str, plans: &[&str]) -> WireClient {
    let claims = json!({
        "sub": id, "aud": "mqtt", "tenant": "acme", "plans": plans, "exp": seconds_from_now(600),
    });
    let token = signer.token(&claims);
    let login = ConnectOptions {
        username: Some("any"),
        password: Some(token.as_bytes()),
        ..ConnectOptions::default()
    };
    let (client, answer) = proxy.connect(Version::V5, id, &login).await;
    assert_eq!(answer[3], 0, "{answer:02x?}");
    client
}

/// The reason code of the PUBACK.
async fn publishes(client: &mut WireClient, topic: &str, payload: &[u8]) -> u8 {
    let publish = Publish { topic, payload, qos: 1, packet_id: 7, ..Publish::default() };
    client.send(&wire::publish(Version::V5, &publish)).await;
    let answer = client.packet().await;
    assert_eq!((answer[0], &answer[2..4]), (0x40, &[0, 7][..]), "{answer:02x?}");
    answer.get(4).copied().unwrap_or_default()
}

#[tokio::test]
async fn what_conditions_refuse_does_not_reach_the_broker() {
    let (signer, folder) = (TokenSigner::es256(), Folder::default());
    folder.write("key.pem", signer.verifying_file());
    folder.write("rules.toml", rules());
    let broker = Mosquitto::start().await;
    let path = folder.file("rules.toml").to_str().unwrap().to_owned();
    let proxy = Proxy::with(broker.addr(), &[("MPROXY_ACL_FILE", &path)]).await;
    let mut watcher = WireClient::login(broker.addr(), Version::V5, "watcher").await;
    watcher.send(&wire::subscribe(Version::V5, 1, &[("tenants/#", 0)])).await;
    watcher.expect(&wire::suback(Version::V5, 1, &[0])).await;

    let mut free = enters(&proxy, &signer, "free", &["basic"]).await;
    let mut gold = enters(&proxy, &signer, "gold", &["basic", "gold"]).await;
    // More than once: what was allowed before stands in nobody's way.
    for round in ["1", "2", "3"] {
        let (small, large) = (format!("small {round}"), format!("much larger {round}"));
        assert_eq!(publishes(&mut free, "tenants/acme/x", small.as_bytes()).await, 0);
        assert_eq!(publishes(&mut free, "tenants/acme/x", large.as_bytes()).await, 0x87);
        assert_eq!(publishes(&mut gold, "tenants/acme/x", large.as_bytes()).await, 0);
        assert_eq!(publishes(&mut gold, "tenants/other/x", small.as_bytes()).await, 0x87);
        assert_eq!(publishes(&mut gold, "tenants/acme/closed", small.as_bytes()).await, 0x87);
        assert_eq!(publishes(&mut gold, "tenants/acme/open", small.as_bytes()).await, 0);
        for (topic, payload) in [("x", &small), ("x", &large), ("open", &small)] {
            let topic = format!("tenants/acme/{topic}");
            let came = Publish { topic: &topic, payload: payload.as_bytes(), ..Publish::default() };
            watcher.expect(&wire::publish(Version::V5, &came)).await;
        }
    }
    let filters = [("tenants/acme/x", 0), ("tenants/+/x", 0), ("tenants/acme/#", 0), ("tenants/acme/y/#", 0)];
    gold.send(&wire::subscribe(Version::V5, 2, &filters)).await;
    // `tenants/acme/#` meets what is closed now; the level of a wildcard is nobody's tenant.
    gold.expect(&wire::suback(Version::V5, 2, &[0, 0x87, 0x87, 0])).await;
    proxy.stop().await;
}
