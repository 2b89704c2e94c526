//! The policy service in JSON over HTTP/1.1: how it is asked, and what becomes of an answer that is none.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod common;
mod service;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{Client, Ruling, client};
use mproxy_core::event::{Event, Happening, Kind, Sink};
use mproxy_core::policy::{Action, Decision, FailureKind, Source, UnusableKind, Want};
use mproxy_policy::remote::{EndpointHealth, HealthState, Remote, RemoteConfig, RemoteTls};
use mproxy_policy::watch::CallOutcome;
use mproxy_sim::Verdict;
use mproxy_testkit::json_service::{JsonPlay, JsonRequest, JsonService, allow_all, wants};
use mproxy_testkit::service::contract as wire;
use mproxy_testkit::service::{Play, Running, Service};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use service::{AMPLE, Authority, Seen, config};

fn started(config: RemoteConfig) -> (Arc<Remote>, Seen) {
    let seen = Seen::default();
    (Remote::start(config, Arc::new(seen.clone())).unwrap(), seen)
}

fn remote(urls: &[&str]) -> (Arc<Remote>, Seen) {
    started(config(urls, AMPLE))
}

fn somebody() -> Client {
    client("c1", Some("ann")).password("sesame")
}

/// A service that answers AuthPublish like this, and allows everything else.
async fn publishing(play: impl Fn() -> JsonPlay + Send + Sync + 'static) -> JsonService {
    JsonService::start(move |request| match request.call() {
        "AuthPublish" => play(),
        _ => allow_all(request),
    })
    .await
}

/// What becomes of a publish that is answered like this, and how it was counted.
async fn answered_with(play: JsonPlay) -> (Verdict, Vec<CallOutcome>) {
    let service = publishing(move || play.clone()).await;
    let (remote, seen) = remote(&[&service.url()]);
    let ruling = somebody().publishes(&*remote, "a").await.unwrap();
    assert_eq!(ruling.source, Source::Rpc);
    (ruling.verdict, seen.calls("AuthPublish"))
}

async fn failure_of(play: JsonPlay) -> (FailureKind, String) {
    let (verdict, outcomes) = answered_with(play.clone()).await;
    let Verdict::Failed(failure) = verdict else { panic!("{play:?}: {verdict:?}") };
    assert_eq!(outcomes.last(), Some(&CallOutcome::Failed(failure.kind)), "{play:?}");
    (failure.kind, failure.detail.to_string())
}

fn failed(ruling: Option<Ruling>) -> FailureKind {
    let Some(Ruling { source: Source::Rpc, verdict: Verdict::Failed(failure) }) = ruling else {
        panic!("{ruling:?}")
    };
    failure.kind
}

fn published(ruling: Option<Ruling>) -> bool {
    ruling == Some(Ruling { source: Source::Rpc, verdict: Verdict::Publish(Decision::Allow(None)) })
}

fn admitted(ruling: Option<Ruling>) -> bool {
    ruling == Some(Ruling { source: Source::Rpc, verdict: Verdict::Connect(Decision::Allow(None)) })
}

#[tokio::test]
async fn questions_go_by_post_below_the_prefix_and_come_back_as_decisions() {
    let service = JsonService::start(|request| match request.call() {
        "AuthConnect" => JsonPlay::Answer(json!({ "allow": {
            "clientId": "renamed", "attributes": { "tenant": "acme" }
        } })),
        "AuthPublish" => JsonPlay::Answer(json!({ "deny": {
            "reason_code": "151", "reasonString": "enough", "action": "ACTION_DROP"
        } })),
        "AuthSubscribe" => JsonPlay::Answer(json!({ "verdicts": [
            { "allow": { "filter": "t/a", "maxQos": 1 } }, { "deny": {} }
        ] })),
        _ => allow_all(request),
    })
    .await;
    let (remote, seen) = remote(&[&service.url_below("/v1/hooks")]);

    let ruling = somebody().connects(&*remote).await.unwrap();
    let Verdict::Connect(Decision::Allow(Some(admission))) = ruling.verdict else { panic!("{ruling:?}") };
    assert_eq!(admission.client_id.as_deref(), Some("renamed"));
    assert_eq!(admission.attributes, [("tenant".to_owned(), "acme".to_owned())]);
    let ruling = somebody().publishes(&*remote, "a").await.unwrap();
    let Verdict::Publish(Decision::Refuse(refusal)) = ruling.verdict else { panic!("{ruling:?}") };
    assert_eq!(
        (refusal.reason.0, refusal.action, refusal.text.as_deref()),
        (151, Action::Drop, Some("enough"))
    );
    let ruling = somebody().subscribes(&*remote, &["a", "$share/g/no"]).await.unwrap();
    let Verdict::Subscribe(verdicts) = ruling.verdict else { panic!("{ruling:?}") };
    assert!(matches!(&*verdicts, [Decision::Allow(_), Decision::Refuse(_)]), "{verdicts:?}");

    let connect = &service.requests("AuthConnect")[0];
    assert_eq!(connect.line, "POST /v1/hooks/AuthConnect HTTP/1.1");
    assert_eq!(connect.header("content-type"), Some("application/json"));
    assert_eq!(connect.header("host"), Some(&*format!("localhost:{}", service.address().port())));
    let millis: u64 = connect.header("grpc-timeout").unwrap().strip_suffix('m').unwrap().parse().unwrap();
    assert!(millis > 0 && millis <= AMPLE.as_millis() as u64, "the deadline travels along: {millis}");
    assert_eq!(connect.body["password"], "c2VzYW1l");
    assert_eq!(connect.body["client"]["clientId"], "c1");
    assert_eq!(connect.body["client"]["protocolVersion"], "PROTOCOL_VERSION_MQTT_5_0");
    let publish = &service.requests("AuthPublish")[0];
    assert_eq!(
        (&publish.body["topic"], &publish.body["payload"], &publish.body["payloadSize"]),
        (&json!("a"), &json!("MjEgZGVncmVlcw=="), &json!("10"))
    );
    assert!(!publish.body.to_string().contains("c2VzYW1l"), "passwords are in AuthConnect only");
    let asked = &service.requests("AuthSubscribe")[0].body["filters"];
    assert_eq!((&asked[1]["filter"], &asked[1]["shareGroup"]), (&json!("no"), &json!("g")));
    assert_eq!(service.requests("Hello")[0].body["instance"], "test");

    assert_eq!(seen.calls("AuthPublish"), [CallOutcome::Answered]);
    assert!(remote.is_ready());
    assert_eq!(remote.health()[0].url, service.url_below("/v1/hooks"));
    remote.flush(AMPLE).await;
    assert_eq!(failed(somebody().connects(&*remote).await), FailureKind::Unavailable);
}

#[tokio::test]
async fn an_answer_without_a_verdict_never_allows() {
    for text in ["{}", r#"{"allow":null}"#, r#"{"deny":null,"allow":null}"#] {
        assert_eq!(failure_of(JsonPlay::text(text)).await.0, FailureKind::Unspecified, "{text}");
    }
}

#[tokio::test]
async fn what_is_no_answer_in_json_is_unreadable() {
    for (text, what) in [
        ("", "EOF"),
        ("null", "invalid type: null"),
        ("true", "invalid type: boolean"),
        ("[]", "invalid type: sequence"),
        (r#"{"allow":true}"#, "invalid type: boolean"),
        (r#"{"allow":{}"#, "EOF"),
        (r#"{"allow":{}} and more"#, "trailing"),
        (r#"{"alow":{}}"#, "unrecognized field name 'alow'"),
        (r#"{"allow":{"tpoic":"x"}}"#, "unrecognized field name 'tpoic'"),
        (r#"{"allow":{},"ok":1}"#, "unrecognized field name 'ok'"),
        (r#"{"allow":{"payload":"?!"}}"#, "base64"),
        (r#"{"allow":{"cacheFor":60}}"#, "invalid type: integer"),
    ] {
        let (kind, detail) = failure_of(JsonPlay::text(text)).await;
        assert_eq!(kind, FailureKind::Unreadable, "{text}: {detail}");
        assert!(detail.contains("failed to read JSON") && detail.contains(what), "{text}: {detail}");
    }
    let deep = format!("{}{}", r#"{"allow":"#.repeat(100_000), "}".repeat(100_000));
    assert_eq!(failure_of(JsonPlay::text(&deep)).await.0, FailureKind::Unreadable);
    let latin = failure_of(JsonPlay::page("application/json", b"{\"allow\":{\"topic\":\"\xe9\"}}")).await;
    assert_eq!(latin.0, FailureKind::Unreadable);
}

#[tokio::test]
async fn a_no_that_cannot_be_read_is_refused_whatever_the_failure_rule() {
    for (text, what) in [
        (r#"{"allow":{},"deny":{}}"#, "multiple fields"),
        (r#"{"deny":{},"allow":{}}"#, "multiple fields"),
        (r#"{"deny":{"action":"DROP"}}"#, "unrecognized enum value 'DROP'"),
        (r#"{"deny":{"reasonCode":-1}}"#, "out of range"),
        (r#"{"deny":{"reasonCode":1.5}}"#, "integer"),
    ] {
        let (verdict, outcomes) = answered_with(JsonPlay::text(text)).await;
        let Verdict::Unusable(unusable) = verdict else { panic!("{text}: {verdict:?}") };
        assert_eq!((unusable.kind, outcomes.last()), (UnusableKind::Invalid, Some(&CallOutcome::Unusable)));
        assert!(unusable.detail.contains(what), "{text}: {}", unusable.detail);
    }
}

/// Answers that have come and say no, or yes within limits, so that only a mistake beside that makes them unreadable.
#[tokio::test]
async fn a_no_in_an_answer_that_is_none_is_refused_whatever_the_failure_rule() {
    const NO: &str = r#"{"deny":{}}"#;
    let typed = |kind: &str, body: &[u8]| JsonPlay::page(kind, body);
    let status = |status: &str, body: &str| {
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        JsonPlay::Raw([head.as_bytes(), body.as_bytes()].concat())
    };
    let half = |body: &str| {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n";
        JsonPlay::RawAndClose([head.as_bytes(), body.as_bytes()].concat())
    };
    let untyped = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{NO}", NO.len()).into_bytes();
    let zipped = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\n\x1f\x8b\x08\x00";
    for (name, play) in [
        ("text/plain", typed("text/plain", NO.as_bytes())),
        ("text/html", typed("text/html; charset=utf-8", NO.as_bytes())),
        ("as Python prints it", typed("text/html", b"{'deny': {}}")),
        ("no content type", JsonPlay::Raw(untyped)),
        ("201", status("201 Created", NO)),
        ("203", status("203 Non-Authoritative Information", NO)),
        ("400", status("400 Bad Request", NO)),
        ("401", status("401 Unauthorized", NO)),
        ("403", status("403 Forbidden", NO)),
        ("byte order mark", JsonPlay::text(&format!("\u{feff}{NO}"))),
        ("something behind it", JsonPlay::text(&format!("{NO}x"))),
        ("a second answer", JsonPlay::text(r#"{"allow":{}} {"deny":{}}"#)),
        ("cut off", JsonPlay::text(r#"{"deny":{"#)),
        ("half of it", half(NO)),
        ("half of a grant", half(r#"{"allow":{"grant":{"rules":["#)),
        ("in a list", JsonPlay::text(r#"[{"deny":{}}]"#)),
        ("in another object", JsonPlay::text(r#"{"verdict":{"deny":{}}}"#)),
        ("in a string", JsonPlay::text(r#""{\"deny\":{}}""#)),
        ("escaped", JsonPlay::text(r#"{"d\u0065ny":{"reason":1}}"#)),
        ("capital", JsonPlay::text(r#"{"Deny":{}}"#)),
        ("compressed", JsonPlay::Raw(zipped.to_vec())),
    ] {
        let (verdict, outcomes) = answered_with(play).await;
        let Verdict::Unusable(unusable) = verdict else { panic!("{name}: {verdict:?}") };
        assert_eq!(unusable.kind, UnusableKind::Invalid, "{name}");
        assert_eq!(outcomes.last(), Some(&CallOutcome::Unusable), "{name}");
        assert!(!unusable.detail.contains("deny"), "{name}: nothing of it is repeated: {}", unusable.detail);
    }
    // What says that there is no answer, now or here, is none whatever stands in it.
    for (name, kind) in [
        ("500 Internal Server Error", FailureKind::Unavailable),
        ("503 Service Unavailable", FailureKind::Unavailable),
        ("302 Found", FailureKind::Unavailable),
        ("404 Not Found", FailureKind::Unavailable),
        ("429 Too Many Requests", FailureKind::Unavailable),
        ("408 Request Timeout", FailureKind::Deadline),
    ] {
        assert_eq!(failure_of(status(name, NO)).await.0, kind, "{name}");
    }
}

#[tokio::test]
async fn a_page_is_no_answer_even_with_status_200() {
    let page = b"<html>{\"allow\":{}}</html>";
    for (kind, told) in [("text/html; charset=utf-8", "text/html"), ("text/plain", "text/plain")] {
        let (failure, detail) = failure_of(JsonPlay::page(kind, page)).await;
        assert_eq!(failure, FailureKind::Unreadable);
        assert!(detail.contains(&format!("content type {told}")), "{detail}");
    }
    let bare = b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n{\"allow\":{}}".to_vec();
    assert_eq!(failure_of(JsonPlay::Raw(bare)).await.0, FailureKind::Unreadable);
    let (verdict, _) =
        answered_with(JsonPlay::page("Application/JSON; charset=utf-8", b"{\"allow\":{}}")).await;
    assert_eq!(verdict, Verdict::Publish(Decision::Allow(None)));
}

#[tokio::test]
async fn another_status_than_200_is_a_failed_answer() {
    for (status, kind) in [
        ("500 Internal Server Error", FailureKind::Unavailable),
        ("501 Not Implemented", FailureKind::Unavailable),
        ("502 Bad Gateway", FailureKind::Unavailable),
        ("503 Service Unavailable", FailureKind::Unavailable),
        ("504 Gateway Timeout", FailureKind::Deadline),
        ("400 Bad Request", FailureKind::Error),
        ("401 Unauthorized", FailureKind::Error),
        ("403 Forbidden", FailureKind::Error),
        ("404 Not Found", FailureKind::Unavailable),
        ("405 Method Not Allowed", FailureKind::Unavailable),
        ("201 Created", FailureKind::Unavailable),
        ("204 No Content", FailureKind::Unavailable),
        ("299 Whatever", FailureKind::Unavailable),
    ] {
        let (failure, detail) = failure_of(JsonPlay::Status(status)).await;
        assert_eq!(failure, kind, "{status}");
        assert!(detail.contains(&status[..3]), "{status}: {detail}");
    }
    // Whatever its body says.
    let body = b"HTTP/1.1 500 Internal Server Error\r\ncontent-type: application/json\r\ncontent-length: 12\r\n\r\n{\"allow\":{}}";
    assert_eq!(failure_of(JsonPlay::Raw(body.to_vec())).await.0, FailureKind::Unavailable);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = JsonService::start(allow_all).await;
    let location = format!("http://{}/AuthPublish", elsewhere.address());
    for status in ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let head = format!("HTTP/1.1 {status}\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
        let (kind, detail) = failure_of(JsonPlay::Raw(head.into_bytes())).await;
        assert_eq!(kind, FailureKind::Unavailable);
        assert!(detail.contains("redirects are not followed"), "{detail}");
    }
    assert!(elsewhere.requests("AuthPublish").is_empty());
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_read_no_further_and_refused() {
    // 30 MiB, whose end would allow.
    let long = format!("{{{}\"allow\":{{}}}}", " ".repeat(30 << 20));
    let since = Instant::now();
    let (verdict, outcomes) = answered_with(JsonPlay::text(&long)).await;
    let Verdict::Unusable(unusable) = verdict else { panic!("{verdict:?}") };
    assert_eq!((unusable.kind, outcomes), (UnusableKind::TooLarge, vec![CallOutcome::Unusable]));
    assert!(since.elapsed() < AMPLE, "{:?}", since.elapsed());
    // In chunks, so that nobody knows before how much it will be.
    let mut chunks =
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..80 {
        chunks.extend_from_slice(b"10000\r\n");
        chunks.resize(chunks.len() + 0x10000, b' ');
        chunks.extend_from_slice(b"\r\n");
    }
    let (verdict, _) = answered_with(JsonPlay::Raw(chunks)).await;
    assert!(matches!(&verdict, Verdict::Unusable(why) if why.kind == UnusableKind::TooLarge), "{verdict:?}");
}

#[tokio::test]
async fn a_question_that_is_too_large_for_the_service_is_refused() {
    let (verdict, _) = answered_with(JsonPlay::Status("413 Payload Too Large")).await;
    let Verdict::Unusable(unusable) = verdict else { panic!("{verdict:?}") };
    assert_eq!(unusable.kind, UnusableKind::QuestionTooLarge);
}

#[tokio::test]
async fn half_an_answer_is_none_and_is_not_asked_for_again() {
    let half =
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{\"allow\":{}}";
    let service = publishing(|| JsonPlay::RawAndClose(half.to_vec())).await;
    let (remote, _) = remote(&[&service.url()]);
    assert_eq!(failed(somebody().publishes(&*remote, "a").await), FailureKind::Unavailable);
    assert_eq!(service.requests("AuthPublish").len(), 1);
}

#[tokio::test]
async fn what_is_no_http_is_no_answer() {
    for bytes in [&b"\x16\x03\x01"[..], b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\ncontent-le"] {
        let (kind, detail) = failure_of(JsonPlay::RawAndClose(bytes.to_vec())).await;
        assert_eq!(kind, FailureKind::Unavailable, "{bytes:?}: {detail}");
    }
}

#[tokio::test]
async fn nothing_is_asked_for_once_more_and_then_failed() {
    let service = publishing(|| JsonPlay::RawAndClose(Vec::new())).await;
    let (remote, seen) = remote(&[&service.url()]);
    assert_eq!(failed(somebody().publishes(&*remote, "a").await), FailureKind::Unavailable);
    let asked = service.requests("AuthPublish");
    assert_eq!(asked.len(), 2);
    assert_ne!(asked[0].connection, asked[1].connection, "the second time on a connection of its own");
    assert_eq!(seen.calls("AuthPublish"), [CallOutcome::Failed(FailureKind::Unavailable)]);
}

#[tokio::test]
async fn a_connection_that_the_service_did_not_keep_fails_no_answer() {
    // Each connection is good for one call, and nobody says so.
    let service = JsonService::start({
        let used = std::sync::Mutex::new(std::collections::HashSet::new());
        move |request: &JsonRequest| {
            if used.lock().unwrap().insert(request.connection) {
                allow_all(request)
            } else {
                JsonPlay::RawAndClose(Vec::new())
            }
        }
    })
    .await;
    let (remote, seen) = remote(&[&service.url()]);
    for _ in 0..10 {
        assert!(published(somebody().publishes(&*remote, "a").await));
    }
    assert_eq!(seen.calls("AuthPublish"), [CallOutcome::Answered; 10]);
}

#[tokio::test]
async fn connections_are_kept_and_are_no_more_than_calls() {
    let service = JsonService::start(allow_all).await;
    let (remote, _) = remote(&[&service.url()]);
    for _ in 0..20 {
        assert!(published(somebody().publishes(&*remote, "a").await));
    }
    let mut connections: Vec<_> =
        service.requests("AuthPublish").iter().map(|request| request.connection).collect();
    connections.dedup();
    assert_eq!(connections.len(), 1, "one after the other, they need one");
}

#[tokio::test]
async fn a_slow_answer_fails_by_its_deadline_and_a_service_that_hangs_is_greeted_anew() {
    let service = publishing(|| JsonPlay::Never).await;
    let (remote, seen) = started(config(&[&service.url()], Duration::from_millis(50)));
    seen.until_healthy(true).await;
    let since = Instant::now();
    for _ in 0..5 {
        assert_eq!(failed(somebody().publishes(&*remote, "a").await), FailureKind::Deadline);
    }
    assert!(since.elapsed() >= Duration::from_millis(240), "{:?}", since.elapsed());
    assert_eq!(seen.calls("AuthPublish"), [CallOutcome::Failed(FailureKind::Deadline); 5]);
    seen.until_healthy(false).await;
    seen.until_healthy(true).await;
    assert_eq!(service.requests("Hello").len(), 2);
    // One byte at a time is slow, too.
    let drip = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 12\r\n\r\n{";
    let service = publishing(|| JsonPlay::Raw(drip.to_vec())).await;
    let (remote, _) = started(config(&[&service.url()], Duration::from_millis(200)));
    assert_eq!(failed(somebody().publishes(&*remote, "a").await), FailureKind::Deadline);
}

#[tokio::test]
async fn a_call_that_is_not_there_never_opens_a_door() {
    for status in ["404 Not Found", "501 Not Implemented"] {
        let service = JsonService::start(move |_| JsonPlay::Status(status)).await;
        let (remote, seen) = remote(&[&service.url_below("/wrong")]);
        seen.until_healthy(true).await;
        for _ in 0..2 {
            assert_eq!(failed(somebody().connects(&*remote).await), FailureKind::Unavailable);
            assert_eq!(failed(somebody().publishes(&*remote, "a").await), FailureKind::Unavailable);
            assert_eq!(failed(somebody().subscribes(&*remote, &["#"]).await), FailureKind::Unavailable);
            assert_eq!(somebody().receives(&*remote, "a").await, None, "deliveries only if Hello says so");
        }
        for call in ["AuthConnect", "AuthPublish", "AuthSubscribe"] {
            assert_eq!(service.requests(call).len(), 2, "{call}");
        }
    }
}

fn event(client: &Client, what: Happening) -> Event {
    Event { peer: Arc::clone(&client.peer), what, purse: None }
}

#[tokio::test]
async fn events_are_told_and_one_that_is_not_there_is_not_wanted() {
    let service = JsonService::start(|request| match request.call() {
        "Hello" => JsonPlay::Answer(wants(&["CONNECT", "UNSUBSCRIBE"])),
        "Unsubscribe" => JsonPlay::Status("404 Not Found"),
        _ => allow_all(request),
    })
    .await;
    let (remote, seen) = remote(&[&service.url()]);
    seen.until_healthy(true).await;
    let client = somebody();
    let connected = || event(&client, Happening::Connect { session_present: true });
    remote.report(connected());
    let told = &service.requests_when("Connect", 1).await[0].body;
    assert_eq!((&told["client"]["clientId"], &told["sessionPresent"]), (&json!("c1"), &json!(true)));
    assert_eq!(told["sequence"], "1");
    assert!(told["time"].as_str().unwrap().ends_with('Z'), "{told}");
    let unsubscribed = || event(&client, Happening::Unsubscribe { filters: ["a".into()].into() });
    remote.report(unsubscribed());
    service.requests_when("Unsubscribe", 1).await;
    while Sink::want(&*remote, Kind::Unsubscribe) != Want::Nothing {
        tokio::task::yield_now().await;
    }
    remote.report(unsubscribed());
    remote.report(connected());
    service.requests_when("Connect", 2).await;
    assert_eq!(service.requests("Unsubscribe").len(), 1);
}

#[tokio::test]
async fn hello_is_read_as_over_grpc_and_streams_are_ignored() {
    let service = JsonService::start(|request| match request.call() {
        "Hello" => JsonPlay::Answer(json!({
            "streams": true,
            "wants": [{ "hook": 2, "topic_filters": ["a/#"] }, { "hook": "HOOK_AUTH_CONNECT" }]
        })),
        _ => allow_all(request),
    })
    .await;
    let (remote, seen) = remote(&[&service.url()]);
    seen.until_healthy(true).await;
    assert!(published(somebody().publishes(&*remote, "a/b").await));
    assert_eq!(service.requests("AuthPublish")[0].body.get("payload"), None, "it asked for none");
    assert_eq!(somebody().publishes(&*remote, "b").await, None);
    assert_eq!(somebody().subscribes(&*remote, &["#"]).await, None);
    assert_eq!(seen.now(|seen| seen.streams_opened()), 0);
    for bad in [json!({ "wants": [{ "hook": "HOOK_UNSPECIFIED" }] }), json!({ "want": [] })] {
        let service = JsonService::start(move |_| JsonPlay::Answer(bad.clone())).await;
        let (remote, seen) = self::remote(&[&service.url()]);
        seen.until_healthy(false).await;
        assert!(remote.health()[0].last_error.as_ref().unwrap().contains("Hello"), "{:?}", remote.health());
        assert_eq!(failed(somebody().connects(&*remote).await), FailureKind::Unavailable);
    }
}

#[tokio::test]
async fn mproxy_starts_before_the_service_finds_it_and_loses_it() {
    let address = service::free_address();
    let (remote, seen) = remote(&[&format!("http+json://{address}")]);
    assert_eq!(failed(somebody().connects(&*remote).await), FailureKind::Unavailable);
    let service = JsonService::start_at(address, allow_all).await;
    seen.until_healthy(true).await;
    assert!(admitted(somebody().connects(&*remote).await));
    drop(service);
    // The first call that finds nobody there says so for all that follow.
    assert_eq!(failed(somebody().connects(&*remote).await), FailureKind::Unavailable);
    seen.until_healthy(false).await;
    let told =
        |health: &EndpointHealth| health.last_error.as_ref().is_some_and(|why| why.contains("refused"));
    while !told(&remote.health()[0]) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(remote.health()[0].state, HealthState::Unhealthy);
}

#[tokio::test]
async fn the_next_endpoint_is_asked_where_one_is_lost_or_unavailable() {
    let first = publishing(|| JsonPlay::Status("503 Service Unavailable")).await;
    let second = JsonService::start(allow_all).await;
    let (remote, seen) = remote(&[&first.url(), &second.url()]);
    seen.until(|seen| seen.healthy_now() == 2).await;
    assert!(published(somebody().publishes(&*remote, "a").await));
    assert_eq!((first.requests("AuthPublish").len(), second.requests("AuthPublish").len()), (1, 1));
    drop(first);
    assert!(admitted(somebody().connects(&*remote).await), "within the same deadline");
    assert_eq!(second.requests("AuthConnect").len(), 1);
}

#[tokio::test]
async fn a_service_in_json_that_is_called_by_grpc_is_guessed() {
    let service = JsonService::start(allow_all).await;
    let (remote, seen) = remote(&[&format!("http://{}", service.address())]);
    seen.until_healthy(false).await;
    let told = remote.health()[0].last_error.clone().unwrap();
    assert!(told.contains("http+json://"), "{told}");
}

#[tokio::test]
async fn an_endpoint_that_is_given_up_is_told_with_its_last_error() {
    let service = publishing(|| JsonPlay::Status("503 Service Unavailable")).await;
    let (remote, seen) = remote(&[&service.url()]);
    seen.until_healthy(true).await;
    for _ in 0..5 {
        assert_eq!(failed(somebody().publishes(&*remote, "a").await), FailureKind::Unavailable);
    }
    seen.until_given_up().await;
    let told = remote.health()[0].last_error.clone().unwrap();
    assert!(told.starts_with("calls fail: AuthPublish") && told.contains("HTTP status 503"), "{told}");
}

#[tokio::test]
async fn a_question_does_not_wait_for_its_deadline_where_nothing_comes() {
    let first = publishing(|| JsonPlay::Never).await;
    let second = JsonService::start(allow_all).await;
    let (remote, seen) = started(config(&[&first.url(), &second.url()], AMPLE));
    seen.until(|seen| seen.healthy_now() == 2).await;
    let since = Instant::now();
    assert!(published(somebody().publishes(&*remote, "a").await));
    assert!(since.elapsed() < AMPLE / 2, "{:?}", since.elapsed());
    assert_eq!((first.requests("AuthPublish").len(), second.requests("AuthPublish").len()), (1, 1));
}

#[tokio::test]
async fn one_list_may_have_endpoints_of_both_kinds() {
    let grpc = Running::start(Service {
        publish: Box::new(|_| Play::Answer(wire::Deny::default().into())),
        ..Service::default()
    })
    .await;
    let json = JsonService::start(allow_all).await;
    // Over streams, which the question is encoded for, and then by JSON.
    let (remote, seen) = remote(&[&grpc.url, &json.url()]);
    seen.until(|seen| seen.healthy_now() == 2).await;
    assert!(!published(somebody().publishes(&*remote, "a").await));
    grpc.stop().await;
    seen.until(|seen| seen.healthy_now() == 1).await;
    assert!(published(somebody().publishes(&*remote, "a").await));
    assert_eq!(json.requests("AuthPublish")[0].body["client"]["clientId"], "c1");
}

#[tokio::test]
async fn tls_is_that_of_grpc_in_both_directions() {
    let authority = Authority::new();
    let service = JsonService::start_tls(server_tls(&authority), allow_all).await;
    let tls = |ca: &Authority, ours: Option<&Authority>| RemoteConfig {
        tls: RemoteTls { ca: Some(ca.pem()), identity: ours.map(|ours| ours.issue("mproxy")) },
        ..config(&[&service.url()], AMPLE)
    };
    let (remote, _) = started(tls(&authority, Some(&authority)));
    assert!(admitted(somebody().connects(&*remote).await));
    let stranger = Authority::new();
    for (ca, ours, what) in [
        (&stranger, Some(&authority), "certificate"),
        (&authority, Some(&stranger), "alert"),
        (&authority, None, "alert"),
    ] {
        let (remote, seen) = started(tls(ca, ours));
        assert_eq!(failed(somebody().connects(&*remote).await), FailureKind::Unavailable);
        seen.until_healthy(false).await;
        let error = remote.health()[0].last_error.clone().unwrap();
        assert!(error.contains(what), "{what}: {error}");
    }
    let broken = RemoteTls { ca: None, identity: Some((b"no".to_vec(), b"pem".to_vec())) };
    let config = RemoteConfig { tls: broken, ..config(&[&service.url()], AMPLE) };
    assert!(Remote::start(config, Arc::new(Seen::default())).is_err());
}

/// As `localhost`; who connects needs a certificate of the same authority.
fn server_tls(authority: &Authority) -> rustls::ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&authority.pem()).unwrap()).unwrap();
    let clients =
        rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider));
    let (chain, key) = authority.issue("localhost");
    rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients.build().unwrap())
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(&chain).unwrap()],
            PrivateKeyDer::from_pem_slice(&key).unwrap(),
        )
        .unwrap()
}

#[tokio::test]
async fn a_service_that_is_replaced_is_asked_again_what_it_wants() {
    let changed = Arc::new(AtomicBool::new(false));
    let service = JsonService::start({
        let changed = Arc::clone(&changed);
        move |request: &JsonRequest| match request.call() {
            "Hello" if changed.load(Ordering::SeqCst) => JsonPlay::Answer(wants(&["AUTH_CONNECT"])),
            _ => allow_all(request),
        }
    })
    .await;
    let (remote, seen) = remote(&[&service.url()]);
    seen.until_healthy(true).await;
    assert!(published(somebody().publishes(&*remote, "a").await));
    changed.store(true, Ordering::SeqCst);
    // Within ten seconds, and once more to begin anew.
    service.requests_when("Hello", 3).await;
    seen.until(|seen| seen.endpoint_changes().len() >= 3).await;
    assert_eq!(somebody().publishes(&*remote, "a").await, None);
}
