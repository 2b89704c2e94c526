//! `mproxy hooks replay`: what mproxy has recorded is put to a service once more, and what it would decide otherwise is told.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mproxy_testkit::broker::{BrokerScript, RecordingBroker};
use mproxy_testkit::json_service::{JsonPlay, JsonService, allow_all};
use mproxy_testkit::service::contract::{
    AuthConnectRequest, ConnectAllow, Deny, FilterAllow, HelloResponse, Hook, PublishAllow, Want,
};
use mproxy_testkit::service::{AnswerScript, Play, Request, Running, Service, each_filter};
use mproxy_testkit::wire::{self, Publish, Version};
use serde_json::{Value, json};
use support::Proxy;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

/// A replay that has ended.
#[derive(Debug)]
struct Replayed {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Replayed {
    fn differences(&self) -> Vec<Value> {
        let lines = self.out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter_map(|line| line.get("difference").cloned()).collect()
    }

    fn summary(&self) -> Value {
        serde_json::from_str::<Value>(self.out.lines().last().unwrap()).unwrap()["summary"].clone()
    }
}

async fn replay(args: &[&str], stdin: &str) -> Replayed {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_mproxy"));
    command.args(["hooks", "replay"]).args(args).env_clear();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    // It may end before it has read everything.
    let _ = input.write_all(stdin.as_bytes()).await;
    drop(input);
    let ended =
        tokio::time::timeout(Duration::from_secs(60), child.wait_with_output()).await.unwrap().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Replayed { code: ended.status.code(), out: text(ended.stdout), err: text(ended.stderr) }
}

/// A record of a publish that the service refused, with these keys in place of its own.
fn record(change: &Value) -> String {
    let mut record = json!({
        "time": "2026-11-24T02:47:00.507Z", "outcome": "refused", "why": "x", "age_ms": 0,
        "connection_id": "0534d724-0f6b-4672-83ce-aaa12e50c858", "client_id": "desk", "username": "alice",
        "listener": "mqtt", "peer_addr": "127.0.0.1:58136", "protocol": "5.0", "hook": "publish",
        "topic": "secret", "qos": 1, "retain": false, "source": "policy_service",
        "action": "reject", "reason_code": 0x87, "reason": "Not authorized",
    });
    let record_ = record.as_object_mut().unwrap();
    for (key, value) in change.as_object().unwrap() {
        match value {
            Value::Null => drop(record_.remove(key)),
            value => drop(record_.insert(key.clone(), value.clone())),
        }
    }
    format!("{record}\n")
}

/// A service that refuses publishes to these topics, and filters that begin with `no`.
fn refusing(topics: &'static [&'static str]) -> Service {
    Service {
        publish: Box::new(move |asked| match topics.contains(&asked.get_ref().topic.as_str()) {
            true => Play::answer(Deny::default()),
            false => Play::answer(PublishAllow::default()),
        }),
        subscribe: each_filter(|filter| match filter.starts_with("no") {
            true => Deny::default().into(),
            false => FilterAllow::default().into(),
        }),
        ..Service::default()
    }
}

/// What mproxy records while a client publishes and subscribes.
async fn recorded(path: &Path) {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let judge = Running::start(refusing(&["secret"])).await;
    let variables =
        [("MPROXY_DECISION_LOG", path.to_str().unwrap()), ("MPROXY_DECISION_LOG_ALLOWED_ONE_IN", "1")];
    let proxy = Proxy::asking(&judge, broker.addr(), &variables).await;
    let mut client = proxy.login(Version::V5, "desk").await;
    for topic in ["secret", "open", "new"] {
        let message = Publish { topic, payload: b"x", qos: 1, packet_id: 1, ..Publish::default() };
        client.send(&wire::publish(Version::V5, &message)).await;
        client.packet().await;
    }
    client.send(&wire::subscribe(Version::V5, 1, &[("no/1", 0), ("yes/1", 1)])).await;
    client.packet().await;
    proxy.stop().await;
}

#[tokio::test]
async fn a_policy_that_is_changed_is_told_by_the_records_of_the_old_one() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("decisions.jsonl");
    recorded(&path).await;
    let file = path.to_str().unwrap();

    let same = Running::start(refusing(&["secret"])).await;
    let told = replay(&[file, &same.url], "").await;
    assert_eq!(told.code, Some(0), "{told:?}");
    assert!(told.out.starts_with("6 lines, 5 compared: 0 different\nnot put: 1 CONNECTs"), "{told:?}");
    assert_eq!((same.calls("AuthPublish"), same.calls("AuthSubscribe")), (3, 2), "each filter by itself");

    let other = Running::start(refusing(&["new"])).await;
    let told = replay(&[file, &other.url], "").await;
    assert_eq!(told.code, Some(1), "{told:?}");
    let lines: Vec<_> = told.out.lines().collect();
    assert_eq!(lines.len(), 4, "{told:?}");
    let client = "with QoS 1 of \"desk\": ";
    assert!(
        lines[0].ends_with(&format!("publish to secret {client}refused 0x87 by policy_service -> allowed")),
        "{told:?}"
    );
    assert!(
        lines[1].ends_with(&format!("publish to new {client}allowed by policy_service -> refused 0x87")),
        "{told:?}"
    );
    assert!(lines[0].starts_with(&format!("{file}:2: ")), "{told:?}");

    // The same in JSON, of two files, over HTTP.
    let service = JsonService::start(|request| match (request.call(), request.body["topic"].as_str()) {
        ("AuthPublish", Some("secret")) => JsonPlay::Answer(json!({ "deny": { "reasonCode": 0x83 } })),
        ("AuthSubscribe", _) => JsonPlay::Answer(json!({ "verdicts": [{ "allow": { "maxQos": 0 } }] })),
        _ => allow_all(request),
    })
    .await;
    let told = replay(&["--json", file, file, &service.url_below("/hooks")], "").await;
    assert_eq!(told.code, Some(1), "{told:?}");
    let differences = told.differences();
    let now: Vec<_> = differences.iter().map(|one| one["now"].clone()).collect();
    let once = [
        json!({ "outcome": "refused", "reason_code": 0x83, "action": "reject" }),
        json!({ "outcome": "changed" }),
        json!({ "outcome": "allowed" }),
    ];
    assert_eq!(now, [&once[..], &once[..]].concat(), "{told:?}");
    assert_eq!((&differences[2]["filter"], &differences[2]["qos"]), (&json!("no/1"), &json!(0)));
    assert_eq!(told.summary()["compared"], 10);
    assert_eq!(told.summary()["skipped"], json!({ "connect": 2 }));
}

#[tokio::test]
async fn connects_are_put_without_a_password_and_say_so_and_rules_where_that_is_asked_for() {
    let asked = Arc::new(Mutex::new(Vec::<AuthConnectRequest>::new()));
    let heard = Arc::clone(&asked);
    let connect: AnswerScript<_, _> = Box::new(move |request: &Request<AuthConnectRequest>| {
        heard.lock().unwrap().push(request.get_ref().clone());
        Play::answer(ConnectAllow::default())
    });
    let service = Running::start(Service { connect, ..refusing(&["secret"]) }).await;
    let connect = json!({ "hook": "connect", "topic": null, "qos": null, "retain": null });
    let with = |change: Value| {
        let mut all = connect.clone();
        all.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        record(&all)
    };
    let log = [
        with(json!({ "source": "policy_service" })),
        with(json!({ "source": "acl", "about": "password", "reason_code": 0x86 })),
        record(&json!({ "source": "acl", "rule": 0 })),
        record(&json!({ "source": "failed_closed", "reason_code": 0x88 })),
        record(&json!({ "source": "grant", "rule": 0 })),
        record(&json!({ "source": "protocol", "hook": null, "topic": null })),
        record(&json!({ "topic": format!("{}…", "t".repeat(256)) })),
        "no record\n\n".to_owned(),
    ]
    .concat();
    let told = replay(&["--json", "-", &service.url], &log).await;
    assert_eq!(told.code, Some(0), "{told:?}");
    let skipped = json!({
        "connect": 1, "secret": 1, "rules": 1, "undecided": 1, "no_question": 1, "cut": 1
    });
    assert_eq!(told.summary()["skipped"], skipped);
    assert_eq!((&told.summary()["unreadable"], &told.summary()["compared"]), (&json!(1), &json!(1)));
    assert!(told.out.contains("stdin:8"), "{told:?}");

    let told = replay(&["--json", "--connects", "--rules", "-", &service.url], &log).await;
    assert_eq!((told.code, told.differences().len()), (Some(1), 1), "{told:?}");
    assert_eq!(told.differences()[0]["hook"], "connect");
    assert_eq!(told.summary()["compared"], 3);
    let asked = asked.lock().unwrap();
    let [asked] = &asked[..] else { panic!("{asked:?}") };
    assert!(asked.shadow && asked.password.is_none());
    assert_eq!(asked.client.as_ref().map(|client| client.client_id.as_str()), Some("desk"));
}

#[tokio::test]
async fn what_a_service_does_not_want_to_be_asked_about_any_more_is_what_it_does_not_refuse() {
    let wants = vec![Want {
        hook: Hook::AuthPublish.into(),
        topic_filters: vec!["open/#".to_owned()],
        ..Want::default()
    }];
    let hello = Some(HelloResponse { wants, ..HelloResponse::default() });
    let service = Running::start(Service { hello, ..refusing(&[]) }).await;
    let allowed = json!({ "outcome": "allowed", "reason_code": null, "action": null });
    let log = [record(&json!({})), record(&allowed), record(&json!({ "source": "grant" }))].concat();
    let told = replay(&["--json", "-", &service.url], &log).await;
    assert_eq!(told.code, Some(1), "{told:?}");
    let differences = told.differences();
    let [difference] = &differences[..] else { panic!("{told:?}") };
    assert_eq!(difference["now"], json!({ "outcome": "not_asked" }));
    assert_eq!(told.summary()["skipped"], json!({ "not_wanted": 2 }));
    assert_eq!(service.calls("AuthPublish"), 0);
}

#[tokio::test]
async fn a_service_that_is_not_there_or_says_nothing_is_no_difference_but_a_failure_and_it_ends() {
    let log = record(&json!({})).repeat(200);
    let told = replay(&["-", "http://127.0.0.1:9"], &log).await;
    assert_eq!(told.code, Some(2), "{told:?}");
    assert!(told.err.contains("mproxy: "), "{told:?}");

    let silent = Running::start(Service { publish: Box::new(|_| Play::Never), ..Service::default() }).await;
    let begun = Instant::now();
    let told = replay(&["--timeout", "100ms", "-", &silent.url], &log).await;
    assert_eq!(told.code, Some(2), "{told:?}");
    assert!(told.err.contains("50 questions in a row were not answered"), "{told:?}");
    assert!(told.out.contains("failed answer (deadline: "), "{told:?}");
    assert!(begun.elapsed() < Duration::from_secs(20), "it was not asked 200 times");

    let service = Running::start(refusing(&["secret"])).await;
    for (files, stdin) in [(vec!["/nowhere/decisions.jsonl"], ""), (vec!["/"], ""), (vec!["-"], "<html>\n")] {
        let told = replay(&[&files[..], &[&service.url]].concat(), stdin).await;
        assert_eq!(told.code, Some(2), "{told:?}");
    }
    assert_eq!(service.calls("AuthPublish"), 0);
    // Nothing to say is no difference.
    assert_eq!(replay(&["-", &service.url], "").await.code, Some(0));
}

#[tokio::test]
async fn questions_are_put_no_faster_than_was_said_and_told_in_the_order_of_their_records() {
    let service = Running::start(Service {
        publish: Box::new(|asked| match asked.get_ref().topic.as_str() {
            "late" => Play::Never,
            _ => Play::answer(PublishAllow::default()),
        }),
        ..Service::default()
    })
    .await;
    let topics = ["late", "soon", "late", "soon", "soon", "soon", "soon", "soon", "soon", "soon"];
    let log: String = topics.iter().map(|topic| record(&json!({ "topic": topic }))).collect();
    let begun = Instant::now();
    let told = replay(&["--json", "--rate", "20", "--timeout", "300ms", "-", &service.url], &log).await;
    assert!(begun.elapsed() >= Duration::from_millis(440), "nine pauses of 50 ms");
    let told: Vec<_> =
        told.differences().iter().map(|one| one["topic"].as_str().unwrap().to_owned()).collect();
    assert_eq!(told, topics);
}

#[tokio::test]
async fn a_name_forges_no_line_and_steers_no_terminal() {
    let service = Running::start(refusing(&[])).await;
    let log = record(&json!({ "topic": "a\n0 lines\u{1b}[2J", "client_id": "c\u{202e}\n" }));
    let told = replay(&["-", &service.url], &log).await;
    assert_eq!(told.out.lines().count(), 2, "{told:?}");
    assert!(told.out.contains("a\\n0 lines\\u{1b}[2J with QoS 1"), "{told:?}");
    assert!(!told.out.contains(['\u{1b}', '\u{202e}']), "{told:?}");
}
