//! Sessions by the admin API of a running mproxy: shown in detail, selected, ordered, disconnected together.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use mproxy_testkit::broker::{BrokerScript, RecordingBroker};
use mproxy_testkit::certificates::{Authority, Folder};
use mproxy_testkit::transports::{self, TlsClient, Transport};
use mproxy_testkit::wire::{self, ConnectOptions, Publish, Version, WireClient};
use serde_json::{Value, json};
use support::{Proxy, until};
use tempfile::TempDir;

const RULES: &str = r#"
[[rules]]
effect = "deny"
topics = ["secret/#"]

[[rules]]
effect = "allow"
topics = ["open/#"]
max_qos = 1
"#;

/// mproxy with a rule file, before a broker that says yes.
async fn house(broker: &RecordingBroker, folder: &TempDir) -> Proxy {
    let path = folder.path().join("rules.toml");
    std::fs::write(&path, RULES).unwrap();
    Proxy::with(broker.addr(), &[("MPROXY_ACL_FILE", path.to_str().unwrap())]).await
}

async fn ask(proxy: &Proxy, method: &str, path: &str) -> Value {
    let (status, text) = proxy.http(method, path).await;
    assert_eq!(status, 200, "{method} {path}: {text}");
    serde_json::from_str(&text).unwrap()
}

/// The client ids of the sessions that are asked for.
async fn listed(proxy: &Proxy, query: &str) -> Vec<String> {
    let page = ask(proxy, "GET", &format!("/api/v1/sessions{query}")).await;
    let id = |one: &Value| one["client_id"].as_str().unwrap_or_default().to_owned();
    page["sessions"].as_array().unwrap().iter().map(id).collect()
}

async fn detail(proxy: &Proxy, client_id: &str) -> Value {
    let page = ask(proxy, "GET", &format!("/api/v1/sessions?client_id={client_id}")).await;
    let id = page["sessions"][0]["connection_id"].as_str().unwrap().to_owned();
    ask(proxy, "GET", &format!("/api/v1/sessions/{id}")).await
}

async fn subscribe(client: &mut WireClient, v: Version, filter: &str, qos: u8) {
    client.send(&wire::subscribe(v, 7, &[(filter, qos)])).await;
    client.expect(&wire::suback(v, 7, &[qos.min(1)])).await;
}

#[tokio::test]
async fn a_session_is_shown_with_what_its_own_task_knows() {
    let (broker, folder) = (RecordingBroker::start(BrokerScript::default()).await, TempDir::new().unwrap());
    let proxy = house(&broker, &folder).await;
    let v = Version::V5;
    let mut client = proxy.login(v, "desk").await;
    subscribe(&mut client, v, "open/+", 2).await;
    let message = Publish { topic: "secret/x", payload: b"x", qos: 1, packet_id: 9, ..Publish::default() };
    client.send(&wire::publish(v, &message)).await;
    client.expect(&wire::packet(0x40, &[0, 9, 0x87])).await;
    let shown = detail(&proxy, "desk").await;
    assert_eq!(shown["live"]["subscriptions"], json!([{ "filter": "open/+", "granted_qos": 1 }]), "{shown}");
    assert_eq!(shown["live"]["in_flight"], 0);
    assert_eq!(shown["live"]["deliveries_in_flight"], json!(null), "nobody decides on them");
    assert_eq!(shown["live"]["more_subscriptions"], false);
    assert_eq!(shown["live"]["broker_addr"], broker.addr().to_string());
    assert_eq!(shown["live"].get("broker_tls"), None);
    assert_eq!(shown["last_refusal"]["topic"], "secret/x");
    assert_eq!(shown["broker"], format!("mqtt://{}", broker.addr()));
    assert_eq!(shown["phase"], "open");
    proxy.stop().await;
}

#[tokio::test]
async fn a_session_is_shown_with_its_cipher_suites_on_both_sides() {
    let (root, folder) = (Authority::root("root"), Folder::default());
    let (cert, key) = folder.keep("localhost", &root.sign("localhost"));
    let ca = folder.write("ca.pem", root.pem());
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    // Through another mproxy, whose listener has TLS, as its broker.
    let listener = |name: &str, transport: &str, target: &str| {
        format!(
            "[[listeners]]\nname = \"{name}\"\ntransport = \"{transport}\"\nhost = \"127.0.0.1\"\nport = 0\n\
             tls = {{ server_cert = {cert:?}, server_key = {key:?} }}\ntarget = {{ {target} }}\n"
        )
    };
    let plain = format!("host = \"127.0.0.1\", port = {}", broker.addr().port());
    let far = Proxy::configured("far", &listener("far", "mqtts", &plain)).await;
    let over_tls = format!(
        "scheme = \"mqtts\", host = \"127.0.0.1\", port = {}, server_name = \"localhost\", ca_certs = {ca:?}",
        far.mqtt.port()
    );
    let near = Proxy::configured("near", &listener("near", "mqtts", &over_tls)).await;
    let tls = TlsClient::believing(root.pem());
    let _client = transports::login(Transport::Tls, near.mqtt, &tls, Version::V5, "desk").await;
    let shown = detail(&near, "desk").await;
    let suite = |tls: &Value| tls["cipher_suite"].as_str().is_some_and(|name| name.starts_with("TLS13_"));
    assert!(suite(&shown["tls"]) && suite(&shown["live"]["broker_tls"]), "{shown}");
    assert_eq!(shown["live"]["broker_tls"]["version"], "TLSv1.3");
    assert_eq!(shown["live"]["broker_addr"], far.mqtt.to_string());
    near.stop().await;
    far.stop().await;
}

#[tokio::test]
async fn what_an_administrator_did_is_said_once() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let proxy = Proxy::before(broker.addr()).await;
    let mut client = proxy.login(Version::V5, "desk").await;
    ask(&proxy, "DELETE", "/api/v1/sessions?client_id=desk").await;
    client.packet().await;
    client.expect_closed().await;
    let why = async || {
        let refusals = ask(&proxy, "GET", "/api/v1/refusals?client_id=desk").await;
        refusals["refusals"][0]["why"].as_str().map(str::to_owned)
    };
    until("the record", async || why().await.is_some()).await;
    assert_eq!(why().await.unwrap(), "disconnected by an administrator (0x98)");
    proxy.stop().await;
}

#[tokio::test]
async fn without_a_policy_subscriptions_are_not_remembered() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let proxy = Proxy::before(broker.addr()).await;
    let mut client = proxy.login(Version::V5, "desk").await;
    subscribe(&mut client, Version::V5, "open/+", 1).await;
    assert_eq!(detail(&proxy, "desk").await["live"]["subscriptions"], Value::Null);
    proxy.stop().await;
}

#[tokio::test]
async fn sessions_are_selected_ordered_and_disconnected_together() {
    let (broker, folder) = (RecordingBroker::start(BrokerScript::default()).await, TempDir::new().unwrap());
    let proxy = house(&broker, &folder).await;
    let v = Version::V5;
    let mut clients = Vec::new();
    for name in ["a", "b", "c"] {
        clients.push(proxy.login(v, name).await);
    }
    subscribe(&mut clients[1], v, "open/+", 0).await;
    // Once more: it has the most bytes.
    subscribe(&mut clients[1], v, "open/+", 0).await;
    subscribe(&mut clients[2], v, "open/x", 0).await;
    assert_eq!(listed(&proxy, "?sort=client_id").await, ["a", "b", "c"]);
    assert_eq!(listed(&proxy, "?sort=connected_since").await, ["c", "b", "a"]);
    assert_eq!(listed(&proxy, "?sort=bytes&limit=2").await, ["b", "c"]);
    assert_eq!(listed(&proxy, "?subscribed=open/x&sort=client_id").await, ["b", "c"]);
    assert_eq!(listed(&proxy, "?subscribed=open/%2B").await, ["b"]);
    assert_eq!(listed(&proxy, "?subscribed=open/y&state=open&address=127.0.0.0/8").await, ["b"]);
    assert_eq!(listed(&proxy, "?address=192.0.2.0/24").await, Vec::<String>::new());

    let met = ask(&proxy, "DELETE", "/api/v1/sessions?subscribed=open/x&reason=0x8B&text=see%20you").await;
    assert_eq!(met, json!({ "disconnected": 2 }));
    let told = [b"\x1f".to_vec(), wire::string("see you")].concat();
    for client in &mut clients[1..] {
        client.expect(&wire::disconnect_with(0x8B, &told)).await;
    }
    until("the others to be gone", async || listed(&proxy, "").await == ["a"]).await;
    proxy.stop().await;
}

#[tokio::test]
async fn who_waits_for_the_broker_is_found_by_its_name() {
    // Nobody is there: a listener that is closed again.
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let proxy = Proxy::before(nobody).await;
    let mut stuck = WireClient::open(proxy.mqtt).await;
    stuck.send(&wire::connect(Version::V5, "stuck", &ConnectOptions::default())).await;
    until("it is found", async || listed(&proxy, "?client_id=stuck&state=dialling").await == ["stuck"]).await;
    let (status, text) = proxy.http("DELETE", "/api/v1/sessions?client_id=stuck").await;
    assert_eq!((status, text.contains("\"disconnected\":1")), (200, true), "{text}");
    until("it is gone", async || listed(&proxy, "?client_id=stuck").await.is_empty()).await;
    proxy.stop().await;
}
