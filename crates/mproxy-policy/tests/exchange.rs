//! AuthExchange over real sockets: what is asked, by calls and over a stream, and what becomes of good and bad answers.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod common;
mod service;

use std::sync::{Arc, Mutex};

use common::{Ruling, client, heard};
use mproxy_codec::reason::ReasonCode;
use mproxy_core::Chain;
use mproxy_core::policy::{
    Decider, Decision, ExchangeQuestion, ExchangeStep, FailureKind, Hook, Source, UnusableKind, Want,
};
use mproxy_policy::remote::Remote;
use mproxy_policy::shadow::Shadow;
use mproxy_sim::Verdict;
use mproxy_testkit::json_service::{self, JsonPlay, JsonService};
use mproxy_testkit::service::contract::{self as wire, AuthExchangeRequest, AuthExchangeResponse};
use mproxy_testkit::service::{AnswerScript, Play, Running, Service};
use serde_json::{Value, json};
use service::{AMPLE, Seen, config};
use tonic::Status;

fn service(streams: bool, exchange: AnswerScript<AuthExchangeRequest, AuthExchangeResponse>) -> Service {
    let wants = [wire::Hook::AuthConnect, wire::Hook::AuthExchange]
        .map(|hook| wire::Want { hook: hook.into(), ..Default::default() })
        .into();
    Service {
        hello: Some(wire::HelloResponse { wants, streams, ..Default::default() }),
        exchange,
        ..Service::default()
    }
}

async fn remote(service: &Running) -> Arc<Remote> {
    let seen = Seen::default();
    let remote = Remote::start(config(&[&service.url], AMPLE), Arc::new(seen.clone())).unwrap();
    seen.until_healthy(true).await;
    remote
}

async fn ask(adviser: &dyn Decider) -> Option<Ruling> {
    let client = client("c1", Some("ann"));
    let (method, data) = ("token", Some(&b"secret"[..]));
    heard(adviser.exchange(&ExchangeQuestion {
        peer: &client.peer,
        method,
        data,
        step: 2,
        again: true,
        time: None,
    }))
    .await
}

async fn answered(answer: impl Fn() -> Play<AuthExchangeResponse> + Send + Sync + 'static) -> Verdict {
    let service = Running::start(service(false, Box::new(move |_| answer()))).await;
    let ruling = ask(&*remote(&service).await).await.unwrap();
    assert_eq!(ruling.source, Source::Rpc);
    ruling.verdict
}

#[tokio::test]
async fn a_step_is_asked_as_it_came_by_a_call_or_over_a_stream() {
    for streams in [false, true] {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hears = Arc::clone(&heard);
        let script: AnswerScript<AuthExchangeRequest, AuthExchangeResponse> = Box::new(move |asked| {
            hears.lock().unwrap().push(asked.get_ref().clone());
            Play::answer(wire::ExchangeContinue { data: Some(b"more".into()) })
        });
        let service = Running::start(service(streams, script)).await;
        let verdict = ask(&*remote(&service).await).await.unwrap().verdict;
        let data = Some(b"more"[..].into());
        assert_eq!(verdict, Verdict::Exchange(Decision::Allow(ExchangeStep::Continue { data })));
        assert_eq!(service.batches().len(), usize::from(streams));
        let asked = heard.lock().unwrap().remove(0);
        let client_id = asked.client.map(|client| client.client_id);
        assert_eq!((client_id.as_deref(), asked.method.as_str()), (Some("c1"), "token"));
        assert_eq!((asked.data.as_deref(), asked.step), (Some(&b"secret"[..]), 2));
        assert!(asked.reauthentication);
    }
}

#[tokio::test]
async fn a_success_brings_what_it_says() {
    let grant = wire::Grant { version: "7".into(), ..Default::default() };
    let said = wire::ExchangeSuccess {
        data: Some(b"proof".into()),
        reason_string: "welcome".into(),
        attributes: [("plan".to_owned(), "gold".to_owned())].into(),
        grant: Some(grant),
    };
    let verdict = answered(move || Play::answer(said.clone())).await;
    let Verdict::Exchange(Decision::Allow(ExchangeStep::Success(success))) = verdict else {
        panic!("{verdict:?}")
    };
    assert_eq!(success.data.as_deref(), Some(&b"proof"[..]));
    assert_eq!(success.text.as_deref(), Some("welcome"));
    assert_eq!(success.attributes, Some(vec![("plan".to_owned(), "gold".to_owned())]));
    assert_eq!(&*success.grant.as_ref().unwrap().version, "7");
    assert!(!format!("{success:?}").contains("proof"), "as good as a password");
}

#[tokio::test]
async fn no_answer_and_a_bad_one_are_no_success() {
    let refused = answered(|| Play::answer(wire::Deny { reason_code: 0x8C, ..Default::default() })).await;
    let Verdict::Exchange(Decision::Refuse(refusal)) = refused else { panic!("{refused:?}") };
    assert_eq!(refusal.reason, ReasonCode::BAD_AUTHENTICATION_METHOD);
    for (answer, kind) in [
        (Play::Answer(AuthExchangeResponse::default()), FailureKind::Unspecified),
        (Play::Fail(Status::unimplemented("no")), FailureKind::Unavailable),
        (Play::Fail(Status::unauthenticated("no")), FailureKind::Error),
    ] {
        let answer = Mutex::new(Some(answer));
        let again = move || answer.lock().unwrap().take().unwrap_or(Play::Fail(Status::unavailable("twice")));
        let verdict = answered(again).await;
        assert!(matches!(&verdict, Verdict::Failed(failure) if failure.kind == kind), "{verdict:?}");
    }
    let long = || Some(vec![0; 65_536]);
    let bad_grant = wire::Grant { ttl: Some(Default::default()), ..Default::default() };
    let unusable: [(AuthExchangeResponse, _); 3] = [
        (wire::ExchangeContinue { data: long() }.into(), UnusableKind::TooLarge),
        (wire::ExchangeSuccess { data: long(), ..Default::default() }.into(), UnusableKind::TooLarge),
        (wire::ExchangeSuccess { grant: Some(bad_grant), ..Default::default() }.into(), UnusableKind::Grant),
    ];
    for (answer, kind) in unusable {
        let verdict = answered(move || Play::Answer(answer.clone())).await;
        assert!(matches!(&verdict, Verdict::Unusable(unusable) if unusable.kind == kind), "{verdict:?}");
    }
}

#[tokio::test]
async fn who_does_not_name_it_is_not_asked() {
    for hello in [None, Some(mproxy_testkit::service::wants_everything())] {
        let service = Running::start(Service { hello, ..Service::default() }).await;
        let remote = remote(&service).await;
        assert_eq!(remote.want(Hook::Exchange), Want::Nothing);
        assert_eq!(ask(&*remote).await, None);
        // And its silence is no yes.
        let chain = common::Chained(Chain::of(remote));
        let ruling = ask(&chain).await.unwrap();
        assert!(matches!(ruling.verdict, Verdict::Failed(_)), "{ruling:?}");
        assert_eq!(service.calls("AuthExchange"), 0);
    }
}

#[tokio::test]
async fn a_shadow_is_not_asked_and_stands_in_nobody_s_way() {
    let success: fn() -> AnswerScript<AuthExchangeRequest, AuthExchangeResponse> =
        || Box::new(|_| Play::answer(wire::ExchangeSuccess::default()));
    let (active, second) =
        (Running::start(service(false, success())).await, Running::start(service(false, success())).await);
    let seen = Seen::default();
    let shadow = Shadow::start(config(&[&second.url], AMPLE), Arc::new(seen.clone())).unwrap();
    seen.until_healthy(true).await;
    let adviser = shadow.of_service(remote(&active).await);
    assert_eq!(adviser.want(Hook::Exchange), Want::Head);
    assert!(matches!(ask(&*adviser).await.unwrap().verdict, Verdict::Exchange(Decision::Allow(_))));
    assert_eq!((active.calls("AuthExchange"), second.calls("AuthExchange")), (1, 0));
}

#[tokio::test]
async fn a_step_reaches_one_endpoint_once_whatever_becomes_of_it() {
    let answering = || -> AnswerScript<AuthExchangeRequest, AuthExchangeResponse> {
        Box::new(|_| Play::answer(wire::ExchangeSuccess::default()))
    };
    for streams in [false, true] {
        for fails in [true, false] {
            let script: AnswerScript<AuthExchangeRequest, AuthExchangeResponse> =
                Box::new(move |_| match fails {
                    true => Play::Fail(Status::unavailable("not now")),
                    false => Play::Never,
                });
            let (first, second) = (
                Running::start(service(streams, script)).await,
                Running::start(service(streams, answering())).await,
            );
            let seen = Seen::default();
            let deadline = std::time::Duration::from_millis(1500);
            let remote =
                Remote::start(config(&[&first.url, &second.url], deadline), Arc::new(seen.clone())).unwrap();
            seen.until(|seen| seen.healthy_now() == 2).await;
            let verdict = ask(&*remote).await.unwrap().verdict;
            assert!(matches!(verdict, Verdict::Failed(_)), "{verdict:?}");
            let asked = |service: &Running| match streams {
                true => service.batches().iter().map(|(_, batch)| batch.questions.len()).sum(),
                false => service.calls("AuthExchange"),
            };
            assert_eq!((asked(&first), asked(&second)), (1, 0), "streams {streams}, fails {fails}");
        }
    }
}

/// What is made of this answer in JSON, and what was asked.
async fn answered_in_json(play: JsonPlay) -> (Verdict, Value) {
    let asked = Arc::new(Mutex::new(Value::Null));
    let hears = Arc::clone(&asked);
    let service = JsonService::start(move |request| match request.call() {
        "Hello" => JsonPlay::Answer(json_service::wants(&["AUTH_CONNECT", "AUTH_EXCHANGE"])),
        "AuthExchange" => {
            *hears.lock().unwrap() = request.body.clone();
            play.clone()
        }
        _ => json_service::allow_all(request),
    })
    .await;
    let seen = Seen::default();
    let remote = Remote::start(config(&[&service.url()], AMPLE), Arc::new(seen.clone())).unwrap();
    seen.until_healthy(true).await;
    let ruling = ask(&*remote).await.unwrap();
    let asked = asked.lock().unwrap().clone();
    (ruling.verdict, asked)
}

#[tokio::test]
async fn a_step_goes_over_json_and_comes_back_as_what_it_says() {
    // Bytes are in base64, as proto3's mapping has them.
    let more = json!({ "continueAuthentication": { "data": "bW9yZQ==" } });
    let (verdict, asked) = answered_in_json(JsonPlay::Answer(more)).await;
    let data = Some(b"more"[..].into());
    assert_eq!(verdict, Verdict::Exchange(Decision::Allow(ExchangeStep::Continue { data })));
    assert_eq!(asked["client"]["clientId"], "c1", "{asked}");
    assert_eq!((&asked["method"], &asked["data"]), (&json!("token"), &json!("c2VjcmV0")), "{asked}");
    assert_eq!((&asked["step"], &asked["reauthentication"]), (&json!(2), &json!(true)), "{asked}");

    let success = json!({ "success": {
        "data": "cHJvb2Y=", "reasonString": "welcome", "attributes": { "plan": "gold" },
        "grant": { "version": "7", "rules": [{ "effect": "EFFECT_ALLOW", "topicFilters": ["a/#"] }] },
    } });
    let (verdict, _) = answered_in_json(JsonPlay::Answer(success)).await;
    let Verdict::Exchange(Decision::Allow(ExchangeStep::Success(success))) = verdict else {
        panic!("{verdict:?}")
    };
    assert_eq!((success.data.as_deref(), success.text.as_deref()), (Some(&b"proof"[..]), Some("welcome")));
    assert_eq!(success.attributes, Some(vec![("plan".to_owned(), "gold".to_owned())]));
    assert_eq!(&*success.grant.as_ref().unwrap().version, "7");

    let (verdict, _) = answered_in_json(JsonPlay::Answer(json!({ "deny": { "reasonCode": 0x8C } }))).await;
    let Verdict::Exchange(Decision::Refuse(refusal)) = verdict else { panic!("{verdict:?}") };
    assert_eq!(refusal.reason, ReasonCode::BAD_AUTHENTICATION_METHOD);
}

#[tokio::test]
async fn what_is_no_answer_in_json_is_no_success() {
    for (play, kind) in [
        (JsonPlay::Answer(json!({})), FailureKind::Unspecified),
        (JsonPlay::Answer(json!({ "succes": {} })), FailureKind::Unreadable),
        (JsonPlay::page("text/html", b"<h1>{\"success\":{}}</h1>"), FailureKind::Unreadable),
        (JsonPlay::Status("501 Not Implemented"), FailureKind::Unavailable),
        (JsonPlay::Status("404 Not Found"), FailureKind::Unavailable),
        (JsonPlay::Status("401 Unauthorized"), FailureKind::Error),
        (JsonPlay::Status("500 Internal Server Error"), FailureKind::Unavailable),
        (JsonPlay::RawAndClose(Vec::new()), FailureKind::Unavailable),
    ] {
        let (verdict, _) = answered_in_json(play.clone()).await;
        let is_failure = matches!(&verdict, Verdict::Failed(failure) if failure.kind == kind);
        assert!(is_failure, "{play:?}: {verdict:?}");
    }
    let ttl = json!({ "success": { "grant": { "ttl": "0s" } } });
    let both = json!({ "success": {}, "deny": {} });
    for (play, wanted) in [(ttl, UnusableKind::Grant), (both, UnusableKind::Invalid)] {
        let (verdict, _) = answered_in_json(JsonPlay::Answer(play)).await;
        assert!(matches!(&verdict, Verdict::Unusable(unusable) if unusable.kind == wanted), "{verdict:?}");
    }
}
