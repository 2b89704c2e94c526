//! mproxy with a hook service in JSON: what clients are told, what the broker hears, and what stands in log and metrics
//! where an answer is none. The examples in JSON are played in `samples.rs`.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use mproxy_testkit::broker::{BrokerScript, RecordingBroker};
use mproxy_testkit::hook::MproxyProcess;
use mproxy_testkit::json_service::{JsonPlay, JsonRequest, JsonService, allow_all, wants};
use mproxy_testkit::wire::{self, ConnectOptions, Publish, Version, WireClient};
use serde_json::{Value, json};
use support::Proxy;

/// The code of the PUBACK to a PUBLISH with QoS 1.
async fn puback(client: &mut WireClient, topic: &str, packet_id: u16) -> u8 {
    let publish = Publish { topic, payload: b"payload", qos: 1, packet_id, ..Publish::default() };
    client.send(&wire::publish(Version::V5, &publish)).await;
    let answer = client.packet().await;
    assert_eq!((answer[0], &answer[2..4]), (0x40, &packet_id.to_be_bytes()[..]), "{answer:02x?}");
    answer.get(4).copied().unwrap_or(0)
}

async fn asking(service: &JsonService, broker: &RecordingBroker, variables: &[(&str, &str)]) -> Proxy {
    let url = service.url_below("/hooks");
    let variables = [&[("MPROXY_POLICY_URL", url.as_str())], variables].concat();
    let mut proxy = Proxy::with(broker.addr(), &variables).await;
    proxy.line(&["policy endpoint healthy", &url]).await;
    proxy
}

/// How AuthPublish of these topics is answered; each is no answer.
fn failing(request: &JsonRequest) -> JsonPlay {
    let half =
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{\"allow\":{}";
    match request.body["topic"].as_str() {
        Some("page") => JsonPlay::page("text/html", b"<h1>{\"allow\":{}}</h1>"),
        Some("typo") => JsonPlay::text(r#"{"alow":{}}"#),
        Some("unset") => JsonPlay::text("{}"),
        Some("error") => JsonPlay::Status("500 Internal Server Error"),
        Some("missing") => JsonPlay::Status("404 Not Found"),
        Some("redirect") => {
            JsonPlay::Raw(b"HTTP/1.1 302 Found\r\nlocation: /ok\r\ncontent-length: 0\r\n\r\n".to_vec())
        }
        Some("nothing") => JsonPlay::RawAndClose(Vec::new()),
        Some("half") => JsonPlay::RawAndClose(half.to_vec()),
        Some("slow") => JsonPlay::Never,
        Some("large") => JsonPlay::text(&format!("{{{}\"allow\":{{}}}}", " ".repeat(30 << 20))),
        _ => allow_all(request),
    }
}

const FAILED: [(&str, &str); 9] = [
    ("page", "unreadable"),
    ("typo", "unreadable"),
    ("unset", "unspecified"),
    ("error", "unavailable"),
    ("missing", "unavailable"),
    ("redirect", "unavailable"),
    ("nothing", "unavailable"),
    ("half", "unavailable"),
    ("slow", "deadline"),
];

#[tokio::test]
async fn what_is_no_answer_is_refused_counted_and_logged() {
    let (service, broker) =
        (JsonService::start(failing).await, RecordingBroker::start(BrokerScript::default()).await);
    let mut proxy = asking(&service, &broker, &[("MPROXY_POLICY_TIMEOUT", "1s")]).await;
    let mut client = proxy.login(Version::V5, "c").await;
    for (id, (topic, kind)) in (1..).zip(FAILED) {
        let labels = format!("hook=\"publish\",kind=\"{kind}\",on_error=\"deny\"");
        let series = format!("mproxy_policy_failures_total{{{labels}}}");
        let before = proxy.metric(&series).await;
        assert_eq!(puback(&mut client, topic, id).await, 0x83, "{topic}");
        assert_eq!(proxy.metric(&series).await, before + 1.0, "{topic} is {kind}");
    }
    let line = proxy.line(&["policy answer failed", "AuthPublish"]).await;
    assert!(line.contains("kind=\"unreadable\"") && line.contains("content type text/html"), "{line}");
    // It came, and is too much of an answer: whatever the failure rule.
    assert_eq!(puback(&mut client, "large", 20).await, 0x97);
    assert_eq!(puback(&mut client, "fine", 21).await, 0, "and nobody else is touched");
    proxy.stop().await;
}

#[tokio::test]
async fn a_failure_rule_that_allows_holds_for_failed_answers_alone() {
    let (service, mut broker) =
        (JsonService::start(failing).await, RecordingBroker::start(BrokerScript::default()).await);
    let variables = [("MPROXY_POLICY_TIMEOUT", "1s"), ("MPROXY_POLICY_ON_ERROR", "allow")];
    let proxy = asking(&service, &broker, &variables).await;
    let mut client = proxy.login(Version::V5, "c").await;
    for (id, (topic, _)) in (1..).zip(FAILED) {
        assert_eq!(puback(&mut client, topic, id).await, 0, "{topic}");
    }
    assert_eq!(puback(&mut client, "large", 20).await, 0x97);
    let mut session = broker.session().await;
    let heard = session.packets(1 + FAILED.len()).await;
    assert!(!heard.iter().any(|packet| packet.windows(5).any(|part| part == b"large")));
    proxy.stop().await;
}

#[tokio::test]
async fn passwords_are_in_auth_connect_alone_and_in_no_log() {
    let service = JsonService::start(|request| match request.call() {
        "Hello" => JsonPlay::Answer(wants(&[
            "AUTH_CONNECT",
            "AUTH_PUBLISH",
            "AUTH_SUBSCRIBE",
            "CONNECT",
            "PUBLISH",
            "DISCONNECT",
        ])),
        // A password that is no base64, which a message of the parser might repeat.
        "AuthConnect" if request.body["client"]["clientId"] == "bad" => {
            JsonPlay::Answer(json!({ "allow": { "password": 31_415_926 } }))
        }
        _ => allow_all(request),
    })
    .await;
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let variables = [("MPROXY_LOG_LEVEL", "trace"), ("MPROXY_CONNECT_TIMEOUT", "1s")];
    let mut proxy = asking(&service, &broker, &variables).await;
    let login =
        ConnectOptions { username: Some("ann"), password: Some(b"open-sesame"), ..ConnectOptions::default() };
    let (mut client, connack) = proxy.connect(Version::V5, "good", &login).await;
    assert_eq!(connack[3], 0);
    assert_eq!(puback(&mut client, "a", 1).await, 0);
    client.send(&wire::disconnect()).await;
    service.requests_when("Disconnect", 1).await;
    let mut refused = WireClient::open(proxy.mqtt).await;
    refused.send(&wire::connect(Version::V5, "bad", &login)).await;
    refused.expect_closed().await;
    proxy.line_of(refused).await;

    let (clear, base64) = ("open-sesame", "b3Blbi1zZXNhbWU=");
    assert_eq!(service.requests("AuthConnect")[0].body["password"], base64);
    for call in ["AuthPublish", "Connect", "Publish", "Disconnect"] {
        for request in service.requests_when(call, 1).await {
            let text = format!("{request:?}");
            assert!(!text.contains(base64) && !text.contains(clear), "{text}");
        }
    }
    let lines = proxy.process().lines();
    assert!(lines.iter().any(|line| line.contains("kind=\"unreadable\"") || line.contains("invalid type")));
    for line in lines {
        let told = ["31415926", clear, base64].into_iter().find(|secret| line.contains(secret));
        assert_eq!(told, None, "{line}");
    }
    proxy.stop().await;
}

/// What `hooks check` finds at this address.
async fn checked(url: &str) -> (i32, Value) {
    let args = ["hooks", "check", url, "--json", "--count", "5", "--timeout", "5s"];
    let ended = MproxyProcess::run(&[], &args).await;
    let text = ended.lines.join("\n");
    (ended.code().unwrap(), serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
}

#[tokio::test]
async fn a_service_in_json_is_checked_like_any_other() {
    let service = JsonService::start(allow_all).await;
    let (code, report) = checked(&service.url()).await;
    assert_eq!((code, &report["hello"]["name"]), (0, &json!("json")), "{:#}", report["findings"]);
    assert_eq!(report["latencies"][0]["count"], 5);
    let fields = report["answers"].as_array().unwrap().iter().find(|answer| answer["call"] == "AuthConnect");
    assert_eq!(fields.unwrap()["fields"]["allow"], "{}");

    let service = JsonService::start(|request| match request.call() {
        "AuthPublish" => JsonPlay::text(r#"{"alow":{}}"#),
        _ => allow_all(request),
    })
    .await;
    let (code, report) = checked(&service.url()).await;
    assert_eq!(code, 2);
    let findings = report["findings"].to_string();
    assert!(findings.contains("unrecognized field name 'alow'"), "{findings}");

    let address = service.address();
    drop(service);
    let (code, report) = checked(&format!("http+json://{address}")).await;
    assert_eq!(code, 3);
    assert!(report["unreachable"].as_str().unwrap().contains("refused"), "{report:#}");
}
