//! Trouble that passes, and real clients: a broker that restarts, a hook service that is away. Nobody is lost.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use mproxy_testkit::broker::{BrokerScript, RecordingBroker};
use mproxy_testkit::foreign::{mqttjs, paho};
use mproxy_testkit::hook::HookService;
use mproxy_testkit::mosquitto::{Mosquitto, publish, staying_subscriber};
use mproxy_testkit::process::{Process, free_port};
use mproxy_testkit::wire::{self, ConnectOptions, Publish, Version, WireClient};
use support::{Proxy, VERSIONS, until};
use tokio::time::sleep;

/// How long a broker takes to restart, and a hook service to be rolled out.
const RESTART: Duration = Duration::from_secs(2);
const ROLLOUT: Duration = Duration::from_secs(3);

fn script(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

/// A client of other people, and what it says when it has subscribed.
struct Stranger {
    name: String,
    process: Process,
    subscribed: &'static str,
}

impl Stranger {
    fn times_subscribed(&self) -> usize {
        self.process.lines().iter().filter(|line| line.contains(self.subscribed)).count()
    }

    async fn has_subscribed(&self, times: usize) {
        let what = format!("{} to subscribe for the {times}. time", self.name);
        until(&what, async || self.times_subscribed() >= times).await;
    }

    async fn hears(&self, news: &str) {
        let what = format!("{} to hear {news}", self.name);
        until(&what, async || self.process.lines().iter().any(|line| line.contains(news))).await;
    }
}

/// MQTT.js, paho and mosquitto_sub, 3.1.1 and 5.0.
async fn strangers(door: SocketAddr) -> Vec<Stranger> {
    let mut all = Vec::new();
    for (version, named) in [("4", "mqttv311"), ("5", "mqttv5")] {
        let (host, port) = (door.ip().to_string(), door.port().to_string());
        for (name, mut command) in [
            ("mqtt.js", mqttjs(&script("mqttjs_stays.js")).await),
            ("paho", paho(&script("paho_stays.py")).await),
        ] {
            command.args([&host, &port, version]);
            let process = Process::start(name, command);
            all.push(Stranger { name: format!("{name} {version}"), process, subscribed: "subscribed" });
        }
        let args = ["-V", named, "-i", named, "-t", "news", "-q", "1", "-F", "heard %p"];
        let process = staying_subscriber(door, args);
        all.push(Stranger { name: format!("mosquitto_sub {named}"), process, subscribed: "Subscribed (mid" });
    }
    all
}

async fn everybody_hears(strangers: &[Stranger], broker: SocketAddr, news: &str) {
    let sent = publish(broker, ["-t", "news", "-q", "1", "-m", news]).await;
    assert_eq!(sent.code(), Some(0), "{:#?}", sent.lines);
    for stranger in strangers {
        stranger.hears(news).await;
    }
}

#[tokio::test]
async fn a_broker_that_restarts_loses_nobody() {
    let mut broker = Mosquitto::start().await;
    let proxy = Proxy::before(broker.addr()).await;
    let strangers = strangers(proxy.mqtt).await;
    for stranger in &strangers {
        stranger.has_subscribed(1).await;
    }
    everybody_hears(&strangers, broker.addr(), "before").await;
    broker.stop().await;
    // An outage is what this is about.
    sleep(RESTART).await;
    broker.start_again().await;
    for stranger in &strangers {
        stranger.has_subscribed(2).await;
    }
    everybody_hears(&strangers, broker.addr(), "after").await;
    drop(strangers);
    proxy.stop().await;
}

#[tokio::test]
async fn a_broker_that_is_away_has_one_line_and_its_return_another() {
    let place = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut proxy = Proxy::with(place, &[("MPROXY_LOG_LEVEL", "info")]).await;
    let mut waiting = Vec::new();
    for name in ["first", "second"] {
        let mut client = WireClient::open(proxy.mqtt).await;
        client.send(&wire::connect(Version::V5, name, &ConnectOptions::default())).await;
        waiting.push(client);
    }
    let words = ["WARN", "broker unreachable", "mqtt://", "by=\"broker\"", "refused", "timeout_seconds=10"];
    let line = proxy.line(&words).await;
    assert!(line.contains(&format!("broker=\"mqtt://{place}\"")), "{line}");
    let _broker = RecordingBroker::start_at(place, BrokerScript::default()).await;
    for client in &mut waiting {
        client.expect(&wire::connack(Version::V5, false, 0, b"")).await;
    }
    proxy.line(&["INFO", "broker reachable again", "failed_dials="]).await;
    drop(waiting);
    proxy.signal("TERM").await;
    let ended = proxy.end().await;
    for words in ["broker unreachable", "broker reachable again"] {
        assert_eq!(ended.lines.iter().filter(|line| line.contains(words)).count(), 1, "{:#?}", ended.lines);
    }
}

#[tokio::test]
async fn a_hook_service_that_is_away_loses_nobody_who_comes_meanwhile() {
    let (broker, hook) = (Mosquitto::start().await, HookService::start().await);
    let place = hook.place().to_owned();
    let mut proxy = Proxy::with(broker.addr(), &[("MPROXY_POLICY_URL", &hook.url())]).await;
    proxy.line(&["policy endpoint healthy"]).await;
    hook.kill().await;
    let strangers = strangers(proxy.mqtt).await;
    sleep(ROLLOUT).await;
    assert!(strangers.iter().all(|stranger| stranger.times_subscribed() == 0), "nobody is let in meanwhile");
    let _hook = HookService::start_at(&place).await;
    for stranger in &strangers {
        stranger.has_subscribed(1).await;
    }
    everybody_hears(&strangers, broker.addr(), "after").await;
    drop(strangers);
    proxy.stop().await;
}

/// The same with bytes: whoever said CONNECT while the broker was away is connected by that very CONNECT, and what it sent
/// behind it arrives.
#[tokio::test]
async fn a_client_that_came_too_early_waits_and_is_served() {
    let place = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let proxy = Proxy::before(place).await;
    let mut waiting = Vec::new();
    for version in VERSIONS {
        let connect = wire::connect(version, "early", &ConnectOptions::default());
        let message = Publish { topic: "a", payload: b"1", qos: 1, packet_id: 1, ..Publish::default() };
        let publish = wire::publish(version, &message);
        let mut client = WireClient::open(proxy.mqtt).await;
        client.send(&[connect.clone(), publish.clone()].concat()).await;
        waiting.push((version, client, [connect, publish]));
    }
    let mut gone = WireClient::open(proxy.mqtt).await;
    gone.send(&wire::connect(Version::V5, "gone", &ConnectOptions::default())).await;
    let all_wait = async |count| {
        until("clients that wait", async || {
            let waits = |session: &serde_json::Value| session["phase"] == "dialling";
            proxy.sessions().await.iter().filter(|session| waits(session)).count() == count
        })
        .await;
    };
    all_wait(3).await;
    drop(gone);
    all_wait(2).await;
    let mut broker = RecordingBroker::start_at(place, BrokerScript::default()).await;
    let mut seen = Vec::new();
    for (version, client, _) in &mut waiting {
        client.expect(&wire::connack(*version, false, 0, &[])).await;
        client.expect(&wire::puback(1)).await;
        seen.push(broker.session().await.packets(2).await);
    }
    for (_, _, sent) in &waiting {
        assert!(seen.iter().any(|packets| packets == sent), "{seen:02x?}");
    }
    assert!(broker.try_session().is_none(), "nobody is dialled for a client that has gone");
    drop(waiting);
    proxy.stop().await;
}

#[tokio::test]
async fn each_listener_says_for_itself_what_trouble_looks_like() {
    let nobody = free_port();
    let target = format!("target = {{ host = \"127.0.0.1\", port = {nobody} }}");
    let mut proxy = Proxy::configured(
        "silent",
        &format!(
            "connect_timeout = \"500ms\"\non_unavailable = \"close\"\n\
             [[listeners]]\nname = \"silent\"\nhost = \"127.0.0.1\"\nport = 0\n{target}\n\
             [[listeners]]\nname = \"telling\"\nhost = \"127.0.0.1\"\nport = 0\non_unavailable = \"connack\"\n{target}\n"
        ),
    )
    .await;
    for version in VERSIONS {
        let connect = wire::connect(version, "c", &ConnectOptions::default());
        let mut silent = WireClient::open(proxy.mqtt).await;
        let mut telling = WireClient::open(proxy.door("telling").await).await;
        silent.send(&connect).await;
        telling.send(&connect).await;
        silent.expect_closed().await;
        let code = if version == Version::V5 { 0x88 } else { 3 };
        telling.expect(&wire::connack(version, false, code, &[])).await;
        telling.expect_closed().await;
    }
    proxy.stop().await;
}

#[tokio::test]
async fn a_takeover_is_not_an_operator_s_trouble() {
    let broker = Mosquitto::start().await;
    let mut proxy = Proxy::before(broker.addr()).await;
    for version in VERSIONS {
        let old = proxy.login(version, "twice").await;
        let from = old.local_addr();
        let new = proxy.login(version, "twice").await;
        // Mosquitto closes without a word, in 5.0, too.
        let line = proxy.end_of(from).await;
        assert!(line.contains(" INFO ") && line.contains("cause=\"lost\""), "{line}");
        drop((old, new));
    }
    // A broker that has the word for it says so.
    let mut broker = RecordingBroker::start(BrokerScript::default()).await;
    let mut proxy = Proxy::before(broker.addr()).await;
    let mut client = proxy.login(Version::V5, "twice").await;
    let behind = broker.session().await;
    let taken_over = wire::disconnect_with(0x8e, &[]);
    behind.send(taken_over.clone()).await;
    client.expect(&taken_over).await;
    behind.close().await;
    let line = proxy.line_of(client).await;
    assert!(line.contains(" DEBUG ") && line.contains("taken over"), "{line}");
    let series = "mproxy_connections_closed_total{listener=\"mqtt\",cause=\"taken_over\",by=\"client\"}";
    assert_eq!(proxy.metric(series).await, 1.0);
    proxy.stop().await;
}
