//! Lines of the log in JSON are as `deploy/log.schema.json` says: many kinds of lines are made, and all are held against it.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::collections::BTreeSet;
use std::fmt;

use mproxy_testkit::broker::{BrokerScript, RecordingBroker};
use mproxy_testkit::wire::{self, ConnectOptions, Publish, Version, WireClient};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};
use support::Proxy;
use support::schema::fits;

const SCHEMA: &str = include_str!("../../../deploy/log.schema.json");

/// The keys of an object as they stand there, with their values: one that stands twice is there twice.
struct Fields(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;

        impl<'de> Visitor<'de> for Each {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(Each)
    }
}

/// Holds a line against the schema.
fn check(line: &str, schema: &Value) -> Map<String, Value> {
    let Fields(fields) = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    let count = fields.len();
    let object: Map<String, Value> = fields.into_iter().collect();
    assert_eq!(object.len(), count, "a key stands twice: {line}");
    let known = schema["properties"].as_object().unwrap();
    if object["target"].as_str().unwrap().starts_with("mproxy") {
        let unknown: Vec<_> = object.keys().filter(|key| !known.contains_key(*key)).collect();
        assert!(unknown.is_empty(), "not in the schema: {unknown:?}: {line}");
    }
    let object = Value::Object(object);
    fits(&object, schema).unwrap_or_else(|why| panic!("{why}: {line}"));
    let text = object.to_string();
    assert!(!text.contains("Some(") && !text.contains(":null"), "debug text or null: {line}");
    match object {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}

const RULES: &str = "
[[rules]]
effect = \"allow\"
topics = [\"a/#\"]

[[rules]]
effect = \"deny\"
topics = [\"no\"]
";

fn publish(topic: &str, packet_id: u16) -> Vec<u8> {
    let message = Publish { topic, payload: b"secret", qos: 1, packet_id, ..Publish::default() };
    wire::publish(Version::V5, &message)
}

#[tokio::test]
async fn json_lines_match_the_schema() {
    let folder = tempfile::TempDir::new().unwrap();
    let rules = folder.path().join("rules.toml");
    std::fs::write(&rules, format!("anonymous = true\n{RULES}")).unwrap();
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    // Nobody is there: a listener that is closed again.
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let url = format!("http://{nobody}");
    let variables = [
        ("MPROXY_LOG_FORMAT", "json"),
        ("MPROXY_LOG_LEVEL", "trace"),
        ("MPROXY_ACL_FILE", rules.to_str().unwrap()),
        ("MPROXY_POLICY_URL", url.as_str()),
        ("MPROXY_POLICY_TIMEOUT", "300ms"),
        ("MPROXY_CONNECT_TIMEOUT", "2s"),
        ("MPROXY_ON_UNAVAILABLE", "connack"),
    ];
    let mut proxy = Proxy::with(broker.addr(), &variables).await;
    proxy.line(&["policy endpoint unhealthy"]).await;

    let mut client = proxy.login(Version::V5, "c\n1").await;
    client.send(&publish("a/b", 1)).await;
    proxy.line(&["\"packet\":\"PUBLISH\"", "\"topic\":\"a/b\"", "\"outcome\":\"forwarded\""]).await;
    client.send(&publish("no", 2)).await;
    proxy.line(&["\"topic\":\"no\"", "\"outcome\":\"answered\""]).await;
    client.send(&publish("asked", 3)).await;
    proxy.line(&["policy answer failed"]).await;
    let id = proxy.sessions().await[0]["connection_id"].as_str().unwrap().to_owned();
    assert_eq!(proxy.http("DELETE", &format!("/api/v1/sessions/{id}")).await.0, 204);
    proxy.line(&["connection closed", "\"cause\":\"kicked\"", &id]).await;

    let mut stranger = WireClient::open(proxy.mqtt).await;
    stranger.send(b"GET / HTTP/1.1\r\n\r\n").await;
    proxy.line(&["connection closed", "not_mqtt"]).await;
    let named = ConnectOptions { username: Some("ann"), ..ConnectOptions::default() };
    let (gone, _) = proxy.connect(Version::V311, "c2", &named).await;
    drop(gone);
    proxy.line(&["connection closed", "\"username\":\"ann\""]).await;

    let place = broker.addr();
    drop(broker);
    proxy.connect(Version::V5, "c3", &ConnectOptions::default()).await;
    proxy.line(&["broker unreachable, retrying"]).await;
    let _broker = RecordingBroker::start_at(place, BrokerScript::default()).await;
    drop(proxy.login(Version::V5, "c4").await);

    proxy.signal("HUP").await;
    proxy.line(&["ACL file reloaded"]).await;
    std::fs::write(&rules, "rules = 1").unwrap();
    proxy.signal("HUP").await;
    proxy.line(&["ACL file reload failed"]).await;
    proxy.signal("TERM").await;
    let ended = proxy.end().await;

    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let mut messages = BTreeSet::new();
    for line in &ended.lines {
        let fields = check(line, &schema);
        assert!(!line.contains("secret"), "a payload: {line}");
        messages.insert(fields["message"].as_str().unwrap().to_owned());
    }
    for message in [
        "listening",
        "ACL file loaded",
        "policy endpoint unhealthy",
        "connection accepted",
        "packet",
        "policy answer failed",
        "broker unreachable, retrying for each client",
        "broker reachable again",
        "disconnect requested by an administrator",
        "connection closed",
        "ACL file reloaded",
        "ACL file reload failed, previous version stays in force",
        "draining",
        "drained",
    ] {
        assert!(messages.contains(message), "{message:?} is not among {messages:?}");
    }
}
