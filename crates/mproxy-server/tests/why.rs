//! "Why was my client refused?": the decision log of a running mproxy, asked by the admin API and by `mproxy why`, and read
//! from its file.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use mproxy_testkit::broker::{BrokerScript, RecordingBroker};
use mproxy_testkit::service::contract::{
    ConnectAllow, Deny, Effect, Grant, GrantAction, GrantRule, PublishAllow,
};
use mproxy_testkit::service::{Play, Running, Service};
use mproxy_testkit::wire::{self, ConnectOptions, Publish, Version, WireClient};
use serde_json::Value;
use support::schema::fits;
use support::{Proxy, until};
use tempfile::TempDir;

const RULES: &str = r#"
[[rules]]
effect = "deny"
topics = ["secret/#"]

[[rules]]
effect = "allow"
topics = ["open/#"]
max_qos = 0
"#;

struct House {
    proxy: Proxy,
    rules: String,
    _folder: TempDir,
}

/// mproxy with a rule file, before a broker that says yes.
async fn house(broker: &RecordingBroker, variables: &[(&str, &str)]) -> House {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("rules.toml");
    std::fs::write(&path, RULES).unwrap();
    let rules = path.to_str().unwrap().to_owned();
    let variables = [&[("MPROXY_ACL_FILE", rules.as_str())], variables].concat();
    House { proxy: Proxy::with(broker.addr(), &variables).await, rules, _folder: folder }
}

async fn publish(client: &mut WireClient, topic: &str, qos: u8) {
    let message = Publish { topic, payload: b"x", qos, packet_id: 1, ..Publish::default() };
    client.send(&wire::publish(Version::V5, &message)).await;
}

/// A page of records, each of which is as the schema says.
async fn refusals(proxy: &Proxy, query: &str) -> Value {
    let (status, page) = proxy.http("GET", &format!("/api/v1/refusals{query}")).await;
    assert_eq!(status, 200, "{page}");
    let page: Value = serde_json::from_str(&page).unwrap();
    page["refusals"].as_array().unwrap().iter().for_each(fits_schema);
    page
}

fn fits_schema(record: &Value) {
    let schema = serde_json::from_str(include_str!("../../../deploy/decisions.schema.json")).unwrap();
    fits(record, &schema).unwrap_or_else(|why| panic!("{why}: {record}"));
}

/// `mproxy why` of this machine's mproxy.
async fn why(proxy: &Proxy, words: &[&str]) -> Output {
    ask(proxy, "why", words).await
}

/// What `mproxy explain` says, and its exit code.
async fn explain(proxy: &Proxy, words: &[&str]) -> (Option<i32>, Value) {
    let told = ask(proxy, "explain", &[words, &["--json"]].concat()).await;
    let value = serde_json::from_slice(&told.stdout);
    (told.status.code(), value.unwrap_or_else(|error| panic!("{error}: {told:?}")))
}

async fn ask(proxy: &Proxy, command: &str, words: &[&str]) -> Output {
    let port = proxy.admin.port().to_string();
    let name = command;
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_mproxy"));
    command.arg(name).args(words).env_clear().env("MPROXY_ADMIN_PORT", port);
    command.output().await.unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn an_operator_asks_why_and_is_told_the_rule_and_its_line() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let House { proxy, rules, .. } = house(&broker, &[]).await;
    let nothing = why(&proxy, &["d1"]).await;
    assert_eq!(nothing.status.code(), Some(1), "{nothing:?}");
    assert!(
        text(&nothing.stdout)
            .starts_with("no refusal of \"d1\" on record; the records in memory begin at 20")
    );

    let mut client = proxy.login(Version::V5, "d1").await;
    publish(&mut client, "secret/x", 1).await;
    client.expect(&wire::packet(0x40, &[0, 1, 0x87])).await;
    publish(&mut client, "open/x", 1).await;
    client.expect(&wire::packet(0x40, &[0, 1, 0x87])).await;
    publish(&mut client, "elsewhere", 1).await;
    client.expect(&wire::packet(0x40, &[0, 1, 0x87])).await;

    let told = why(&proxy, &["d1"]).await;
    assert_eq!(told.status.code(), Some(0), "{told:?}");
    let lines = text(&told.stdout);
    let newest_first = [
        "publish to elsewhere with QoS 1: refused because no rule matches, and no hook service is asked about it"
            .to_owned(),
        format!("publish to open/x with QoS 1: refused by rules[1] ({rules}:6): its max_qos is lower. 0x9B"),
        format!("publish to secret/x with QoS 1: refused by rules[0] ({rules}:2). 0x87 Not authorized"),
    ];
    let places: Vec<_> = newest_first.iter().map(|line| lines.find(line.as_str())).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{lines}");
    assert!(lines.contains("client=d1 ") && lines.contains("age="), "{lines}");

    let json = why(&proxy, &["d1", "--json", "--limit", "1", "--hook", "publish"]).await;
    let page: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(page["refusals"].as_array().unwrap().len(), 1);
    let next = page["next"].as_str().unwrap();
    let older = refusals(&proxy, &format!("?client_id=d1&cursor={next}")).await;
    assert_eq!(older["refusals"].as_array().unwrap().len(), 2);
    assert_eq!(older.get("next"), None);

    assert_eq!(why(&proxy, &["d2"]).await.status.code(), Some(1));
    assert_eq!(why(&proxy, &["d1", "--since", "tomorrow"]).await.status.code(), Some(2));
    for (query, count) in [
        ("?listener=mqtt", 3),
        ("?listener=other", 0),
        ("?hook=subscribe", 0),
        ("?username=ann", 0),
        ("?since=2100-01-01T00:00:00Z", 0),
        ("?since=1h", 3),
        ("?outcome=allowed", 0),
        ("?outcome=any", 3),
    ] {
        let page = refusals(&proxy, query).await;
        assert_eq!(page["refusals"].as_array().unwrap().len(), count, "{query}");
    }
    for wrong in
        ["?hook=publishing", "?since=x", "?limit=0", "?limit=1001", "?outcome=x", "?cursor=x", "?clientid=d1"]
    {
        assert_eq!(proxy.http("GET", &format!("/api/v1/refusals{wrong}")).await.0, 400, "{wrong}");
    }
    assert_eq!(proxy.metric("mproxy_decision_records_total{outcome=\"refused\"}").await, 3.0);
    proxy.stop().await;
}

#[tokio::test]
async fn an_answer_that_is_used_again_is_told_with_its_endpoint_and_age() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let judge = Running::start(Service {
        publish: Box::new(|asked| match asked.get_ref().topic.as_str() {
            "no" => Play::answer(Deny {
                reason_string: "not on Sundays".into(),
                cache_for: Duration::from_secs(60).try_into().ok(),
                ..Deny::default()
            }),
            _ => Play::answer(PublishAllow::default()),
        }),
        ..Service::default()
    })
    .await;
    let proxy = Proxy::asking(&judge, broker.addr(), &[]).await;
    let mut client = proxy.login(Version::V5, "d1").await;
    for _ in 0..2 {
        publish(&mut client, "no", 1).await;
        client.packet().await;
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    let page = refusals(&proxy, "?client_id=d1").await;
    let [cached, asked] = page["refusals"].as_array().unwrap().as_slice() else { panic!("{page}") };
    assert_eq!((&cached["source"], &asked["source"]), (&"cache".into(), &"policy_service".into()));
    for record in [cached, asked] {
        assert_eq!(record["endpoint"], judge.url.as_str());
        assert_eq!(record["reason_string"], "not on Sundays");
    }
    assert!(cached["age_ms"].as_u64().unwrap() >= 30 && asked["age_ms"].as_u64().unwrap() < 30, "{page}");
    proxy.stop().await;
}

#[tokio::test]
async fn a_service_that_is_down_is_told_with_the_failure_and_a_client_of_64_kib_takes_little_room() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("decisions.jsonl");
    let variables =
        [("MPROXY_DECISION_LOG_MEMORY", "64KiB"), ("MPROXY_DECISION_LOG", path.to_str().unwrap())];
    let house = house(&broker, &variables).await;
    let long = "ü".repeat(30_000);
    let mut client = house.proxy.login(Version::V5, &long).await;
    for _ in 0..300 {
        publish(&mut client, "secret/x", 0).await;
    }
    client.expect_nothing_but_pingresp().await;
    let page = refusals(&house.proxy, "?limit=1000").await;
    let records = page["refusals"].as_array().unwrap();
    assert!(records.len() > 60 && records.len() < 300, "{}", records.len());
    let told = records[0]["client_id"].as_str().unwrap();
    assert!(told.len() <= 260 && told.ends_with('…') && long.starts_with(told.trim_end_matches('…')));
    let begins = page["begins"].as_str().unwrap();
    assert!(records.last().unwrap()["time"].as_str().unwrap() >= begins, "older ones have made room");
    house.proxy.stop().await;
    let written = lines(&path);
    written.iter().for_each(fits_schema);
    assert_eq!(written.len(), 300);
    assert!(written.iter().all(|line| line["client_id"] == told && line.to_string().len() < 2000));

    let dead = "http://127.0.0.1:9";
    let proxy =
        Proxy::with(broker.addr(), &[("MPROXY_POLICY_URL", dead), ("MPROXY_CONNECT_TIMEOUT", "1500ms")])
            .await;
    let mut client = WireClient::open(proxy.mqtt).await;
    client.send(&wire::connect(Version::V5, "d1", &ConnectOptions::default())).await;
    client.expect_closed().await;
    let page = refusals(&proxy, "?client_id=d1").await;
    let [record] = page["refusals"].as_array().unwrap().as_slice() else { panic!("{page}") };
    assert_eq!(record["source"], "failed_closed");
    assert_eq!(record["cause"], "policy_failed");
    assert_eq!(record["reason_code"], 0x88);
    assert!(record["detail"].as_str().unwrap().contains(dead), "{record}");
    proxy.stop().await;
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn the_file_has_every_refusal_and_one_that_cannot_be_written_harms_nothing() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("decisions.jsonl");
    let in_memory = [("MPROXY_DECISION_LOG_MEMORY", "0")];
    let variables = [&in_memory[..], &[("MPROXY_DECISION_LOG", path.to_str().unwrap())]].concat();
    let house_ = house(&broker, &variables).await;
    let mut client = house_.proxy.login(Version::V5, "d1").await;
    for n in 0..50 {
        publish(&mut client, &format!("secret/{n}"), 0).await;
    }
    client.expect_nothing_but_pingresp().await;
    assert_eq!(house_.proxy.http("GET", "/api/v1/refusals").await.0, 404, "none are kept in memory");
    house_.proxy.stop().await;
    let written = lines(&path);
    written.iter().for_each(fits_schema);
    let topics: Vec<_> = written.iter().map(|line| line["topic"].as_str().unwrap().to_owned()).collect();
    assert_eq!(topics, (0..50).map(|n| format!("secret/{n}")).collect::<Vec<_>>());

    // One that is full, and one whose folder is removed after the start.
    let removed = folder.path().join("removed");
    std::fs::create_dir(&removed).unwrap();
    let gone = removed.join("decisions.jsonl");
    for (unwritable, operation) in [("/dev/full", "write"), (gone.to_str().unwrap(), "open")] {
        let mut house = house(&broker, &[("MPROXY_DECISION_LOG", unwritable)]).await;
        if operation == "open" {
            std::fs::remove_dir_all(&removed).unwrap();
        }
        let mut client = house.proxy.login(Version::V5, "d1").await;
        for _ in 0..20 {
            publish(&mut client, "secret/x", 1).await;
            client.expect(&wire::packet(0x40, &[0, 1, 0x87])).await;
        }
        let lost = "mproxy_decision_records_lost_total{reason=\"write_failed\"}";
        until("lost lines", async || house.proxy.metric(lost).await == 20.0).await;
        let errors = format!("mproxy_decision_log_file_errors_total{{operation=\"{operation}\"}}");
        assert!(house.proxy.metric(&errors).await >= 1.0);
        house.proxy.line(&["decision log file cannot be written", operation]).await;
        let page = refusals(&house.proxy, "?client_id=d1").await;
        assert_eq!(page["refusals"].as_array().unwrap().len(), 20, "memory does not care");
        house.proxy.stop().await;
    }
}

#[tokio::test]
async fn what_would_be_decided_is_explained_and_nobody_is_asked() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let rule = |effect: Effect, filter: &str| GrantRule {
        effect: effect.into(),
        actions: vec![GrantAction::Publish.into(), GrantAction::Subscribe.into()],
        topic_filters: vec![filter.to_owned()],
        ..GrantRule::default()
    };
    let rules = vec![rule(Effect::Allow, "own/#"), rule(Effect::Deny, "secret")];
    let grant = Grant { rules, version: "7".to_owned(), ..Grant::default() };
    let judge = Running::start(Service {
        connect: Box::new(move |_| {
            Play::answer(ConnectAllow { grant: Some(grant.clone()), ..ConnectAllow::default() })
        }),
        publish: Box::new(|_| {
            Play::answer(Deny { cache_for: Duration::from_secs(60).try_into().ok(), ..Deny::default() })
        }),
        ..Service::default()
    })
    .await;
    let proxy = Proxy::asking(&judge, broker.addr(), &[]).await;
    let mut client = proxy.login(Version::V5, "d1").await;
    let by = |value: &Value, keys: &[&str]| keys.iter().map(|key| value[key].to_string()).collect::<Vec<_>>();

    let (code, told) = explain(&proxy, &["d1", "publish", "own/x", "--qos", "1"]).await;
    assert_eq!(
        (code, by(&told, &["source", "rule", "grant_version"])),
        (Some(0), vec!["\"grant\"".into(), "0".into(), "\"7\"".into()]),
        "{told}"
    );
    assert!(told["max_qos"].is_null(), "that is of subscriptions: {told}");
    let (code, told) = explain(&proxy, &["d1", "subscribe", "secret"]).await;
    assert_eq!(
        (code, told["reason_code"].as_u64(), told["rule"].as_u64()),
        (Some(1), Some(0x87), Some(1)),
        "{told}"
    );
    assert_eq!(told["why"], "refused by rules[1] of grant \"7\"");
    let (code, told) = explain(&proxy, &["d1", "publish", "elsewhere"]).await;
    assert_eq!(
        (code, told["decision"].as_str(), told["endpoint"].as_str()),
        (Some(3), Some("asked"), Some(&*judge.url)),
        "{told}"
    );
    assert_eq!(told["passed"][0]["grant_part"], "default", "{told}");
    assert_eq!(judge.calls("AuthPublish"), 0, "nobody was asked");

    publish(&mut client, "elsewhere", 1).await;
    client.packet().await;
    let (code, told) = explain(&proxy, &["d1", "publish", "elsewhere", "--qos", "1"]).await;
    assert_eq!(
        (code, told["source"].as_str(), told["endpoint"].as_str()),
        (Some(1), Some("cache"), Some(&*judge.url)),
        "{told}"
    );
    assert_eq!(
        explain(&proxy, &["d1", "publish", "elsewhere"]).await.0,
        Some(3),
        "another QoS is another question"
    );
    assert_eq!(judge.calls("AuthPublish"), 1);

    let (code, told) = explain(&proxy, &["d2", "publish", "own/x"]).await;
    assert_eq!((code, told["decision"].as_str()), (Some(3), Some("unknown")), "{told}");
    assert!(told["not_known"].as_array().unwrap().contains(&"grant".into()), "{told}");
    for wrong in [
        &["d1", "publish", "a/#"][..],
        &["d1", "subscribe", "a/#/b"],
        &["d1", "read", "a"],
        &["d1", "publish", "a", "--qos", "3"],
    ] {
        assert_eq!(ask(&proxy, "explain", wrong).await.status.code(), Some(2), "{wrong:?}");
    }
    client.expect_nothing_but_pingresp().await;
    proxy.stop().await;
}

#[tokio::test]
async fn of_a_client_that_is_not_connected_the_rule_file_alone_is_explained() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let House { proxy, rules, .. } = house(&broker, &[]).await;
    let told = ask(&proxy, "explain", &["d1", "publish", "secret/x"]).await;
    assert_eq!(told.status.code(), Some(1), "{told:?}");
    let expected = format!(
        "refused by rules[0] ({rules}:2). 0x87 Not authorized\n  the client is not connected; not known: \
         whether it may connect, listener, transport, address and version\n"
    );
    assert_eq!(text(&told.stdout), expected);
    let (code, told) = explain(&proxy, &["d1", "subscribe", "open/x", "--qos", "2"]).await;
    assert_eq!(
        (code, told["max_qos"].as_u64(), told["line"].as_u64()),
        (Some(0), Some(0), Some(6)),
        "{told}"
    );
    let (code, told) = explain(&proxy, &["d1", "publish", "elsewhere"]).await;
    assert_eq!((code, told["source"].as_str()), (Some(1), Some("default_deny")), "{told}");
    proxy.stop().await;
}

#[tokio::test]
async fn of_what_is_allowed_a_sample_is_recorded_with_by_what_and_refusals_are_asked_for_as_before() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("decisions.jsonl");
    let sampled = [
        ("MPROXY_DECISION_LOG_ALLOWED_ONE_IN", "1"),
        ("MPROXY_DECISION_LOG", path.to_str().unwrap()),
        ("MPROXY_DECISION_LOG_MEMORY", "64KiB"),
    ];
    let House { proxy, rules, _folder } = house(&broker, &sampled).await;
    let mut client = proxy.login(Version::V5, "d1").await;
    publish(&mut client, "secret/x", 0).await;
    for _ in 0..500 {
        publish(&mut client, "open/x", 0).await;
    }
    client.expect_nothing_but_pingresp().await;

    let told = why(&proxy, &["d1"]).await;
    let shown = text(&told.stdout);
    assert!(shown.contains("publish to secret/x") && !shown.contains("open/x"), "{shown}");
    let told = why(&proxy, &["d1", "--outcome", "allowed", "--limit", "1"]).await;
    let by = format!("publish to open/x with QoS 0: allowed by rules[1] ({rules}:6)");
    assert!(text(&told.stdout).contains(&by), "{told:?}");
    let outcomes = async |query: &str| {
        let page = refusals(&proxy, query).await;
        let records = page["refusals"].as_array().unwrap();
        let count = |outcome: &str| records.iter().filter(|one| one["outcome"] == outcome).count();
        (count("refused"), count("allowed"))
    };
    assert_eq!(outcomes("?limit=1000").await, (1, 0), "a sample drives no refusal out");
    let (refused, allowed) = outcomes("?outcome=any&limit=1000").await;
    assert!(refused == 1 && (10..100).contains(&allowed), "{allowed}");
    assert_eq!(
        proxy.metric("mproxy_decision_records_total{outcome=\"allowed\"}").await,
        501.0,
        "with the CONNECT"
    );
    proxy.stop().await;
    let written = lines(&path);
    written.iter().for_each(fits_schema);
    assert_eq!(written.len(), 502);
}

#[tokio::test]
async fn what_a_hook_service_allows_is_recorded_with_its_endpoint_and_its_age() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let judge = Running::start(Service {
        publish: Box::new(|asked| {
            let cache_for = Duration::from_secs(60).try_into().ok();
            match asked.get_ref().topic.as_str() {
                "kept" => Play::answer(PublishAllow { cache_for, ..PublishAllow::default() }),
                _ => Play::answer(PublishAllow { retain: Some(true), ..PublishAllow::default() }),
            }
        }),
        ..Service::default()
    })
    .await;
    let proxy = Proxy::asking(&judge, broker.addr(), &[("MPROXY_DECISION_LOG_ALLOWED_ONE_IN", "1")]).await;
    let mut client = proxy.login(Version::V5, "d1").await;
    for topic in ["kept", "kept", "changed"] {
        publish(&mut client, topic, 1).await;
        client.packet().await;
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    let page = refusals(&proxy, "?client_id=d1&outcome=allowed").await;
    let [changed, cached, asked, connect] = page["refusals"].as_array().unwrap().as_slice() else {
        panic!("{page}")
    };
    let is = |record: &Value, outcome: &str, hook: &str, source: &str| {
        let told = [&record["outcome"], &record["hook"], &record["source"], &record["endpoint"]];
        assert_eq!(told, [outcome, hook, source, judge.url.as_str()], "{record}");
        record["age_ms"].as_u64().unwrap()
    };
    assert_eq!(is(connect, "allowed", "connect", "policy_service"), 0);
    assert_eq!(is(asked, "allowed", "publish", "policy_service"), 0);
    assert_eq!(is(changed, "changed", "publish", "policy_service"), 0);
    assert!(is(cached, "allowed", "publish", "cache") >= 30, "{cached}");
    let (code, told) = explain(&proxy, &["d1", "publish", "kept", "--qos", "1"]).await;
    assert_eq!((code, &told["endpoint"]), (Some(0), &judge.url.as_str().into()), "{told}");
    proxy.stop().await;
}
