//! Lines of the log in JSON are as `deploy/log.schema.json` says: many kinds of lines are made, and all are held against it.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

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

/// The fields of what is logged by a macro of `tracing` in a file, with the file: what stands before the message.
fn logged_fields(path: &Path, source: &str, fields: &mut BTreeMap<String, String>) {
    const LEVELS: [&str; 5] = ["trace!(", "debug!(", "info!(", "warn!(", "error!("];
    // What follows the tests of a file is no part of the program.
    let source = source.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    for level in LEVELS {
        for (at, _) in source.match_indices(level) {
            let is_whole_word = source[..at]
                .chars()
                .next_back()
                .is_none_or(|before| !before.is_alphanumeric() && before != '_');
            if !is_whole_word {
                continue;
            }
            for argument in arguments(&source[at + level.len()..]) {
                let argument = argument.trim();
                let (name, _) = argument.split_once('=').unwrap_or((argument, ""));
                let name = name.trim().trim_start_matches(['%', '?', '&', '*']).trim_start_matches("r#");
                let is_field = !argument.starts_with('"') && !name.contains([':', '$']) && !name.is_empty();
                if is_field {
                    fields.entry(name.to_owned()).or_insert_with(|| path.display().to_string());
                }
            }
        }
    }
}

/// The arguments of a macro up to its message, or its end.
fn arguments(text: &str) -> Vec<String> {
    let (mut depth, mut found, mut argument) = (0_i32, Vec::new(), String::new());
    for character in text.chars() {
        match character {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            // The message is the last that has no name; strings as values stand behind a `=`.
            '"' if depth == 0 && argument.trim().is_empty() => return found,
            ',' if depth == 0 => {
                found.push(std::mem::take(&mut argument));
                continue;
            }
            _ => {}
        }
        if depth < 0 {
            break;
        }
        argument.push(character);
    }
    found.push(argument);
    found
}

#[test]
fn every_field_that_the_program_logs_stands_in_the_schema() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let known = schema["properties"].as_object().unwrap();
    let mut fields = BTreeMap::new();
    let mut folders = Vec::new();
    for name in ["mproxy-core", "mproxy-policy", "mproxy-server", "mproxy-tcp", "mproxy-unix", "mproxy-ws"] {
        folders.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name).join("src"));
    }
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            match path.is_dir() {
                true if name != "tests" => folders.push(path),
                false if name.ends_with(".rs") && name != "tests.rs" => {
                    logged_fields(&path, &std::fs::read_to_string(&path).unwrap(), &mut fields);
                }
                _ => {}
            }
        }
    }
    assert!(fields.len() > 40, "it finds what is logged: {fields:?}");
    // Written by the formatter itself, which has its own word for them.
    let unknown: Vec<_> = fields.iter().filter(|(name, _)| !known.contains_key(*name)).collect();
    assert!(unknown.is_empty(), "not in deploy/log.schema.json: {unknown:#?}");
}
