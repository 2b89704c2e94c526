//! The policy service over real sockets: services that answer, dawdle, die and talk nonsense.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod common;
mod service;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Client, Ruling, client, numbered};
use mproxy_codec::reason::ReasonCode;
use mproxy_codec::types::QoS;
use mproxy_core::budget::QUESTION;
use mproxy_core::event::{Ended, Event, Happening, Kind, Published, Sink, Traffic};
use mproxy_core::fault::Fault;
use mproxy_core::policy::{
    Action, Answer, Decider, Decision, FailureKind, FilterChange, Hook, Payload, PublishQuestion, Source,
    UnusableKind, Want,
};
use mproxy_policy::NoWatch;
use mproxy_policy::remote::{HealthState, Remote, RemoteConfig, RemoteTls};
use mproxy_policy::watch::{CallOutcome, DropReason};
use mproxy_sim::Verdict;
use mproxy_testkit::service::contract::{
    self as wire, auth_connect_response, auth_publish_response, filter_verdict,
};
use mproxy_testkit::service::{Play, Running, Service};
use service::{AMPLE, Authority, Seen};
use tonic::{Code, Status};

fn config(urls: &[&str], timeout: Duration) -> RemoteConfig {
    RemoteConfig { max_in_flight: 64, ..service::config(urls, timeout) }
}

fn remote(urls: &[&str], timeout: Duration) -> (Arc<Remote>, Seen) {
    started(config(urls, timeout))
}

fn started(config: RemoteConfig) -> (Arc<Remote>, Seen) {
    let seen = Seen::default();
    (Remote::start(config, Arc::new(seen.clone())).unwrap(), seen)
}

fn somebody() -> Client {
    client("c1", Some("ann")).password("sesame")
}

fn failed(ruling: Option<Ruling>) -> FailureKind {
    let Some(Ruling { source: Source::Rpc, verdict: Verdict::Failed(failure) }) = ruling else {
        panic!("{ruling:?}")
    };
    failure.kind
}

fn unusable(ruling: Option<Ruling>) -> UnusableKind {
    let Some(Ruling { source: Source::Rpc, verdict: Verdict::Unusable(unusable) }) = ruling else {
        panic!("{ruling:?}")
    };
    unusable.kind
}

fn admitted(ruling: Option<Ruling>) -> bool {
    ruling == Some(Ruling { source: Source::Rpc, verdict: Verdict::Connect(Decision::Allow(None)) })
}

fn published(ruling: Option<Ruling>) -> bool {
    ruling == Some(Ruling { source: Source::Rpc, verdict: Verdict::Publish(Decision::Allow(None)) })
}

fn want(hook: wire::Hook) -> wire::Want {
    wire::Want { hook: hook.into(), ..Default::default() }
}

fn hello(wants: Vec<wire::Want>) -> wire::HelloResponse {
    wire::HelloResponse { wants, ..Default::default() }
}

#[tokio::test]
async fn questions_are_answered() {
    let service = Running::start(Service {
        connect: Box::new(|asked| {
            let request = asked.get_ref();
            assert_eq!(request.password(), b"sesame");
            assert!(asked.metadata().contains_key("grpc-timeout"), "the deadline travels along");
            let allow = wire::ConnectAllow {
                client_id: Some("renamed".to_owned()),
                attributes: [("tenant".to_owned(), "acme".to_owned())].into(),
                ..Default::default()
            };
            let verdict = Some(auth_connect_response::Verdict::Allow(allow));
            Play::Answer(wire::AuthConnectResponse { verdict })
        }),
        publish: Box::new(|asked| {
            assert_eq!(asked.get_ref().payload(), b"21 degrees");
            let deny = wire::Deny {
                reason_code: 0x97,
                reason_string: "enough".to_owned(),
                action: Some(wire::Action::Drop.into()),
                ..Default::default()
            };
            Play::Answer(wire::AuthPublishResponse {
                verdict: Some(auth_publish_response::Verdict::Deny(deny)),
            })
        }),
        subscribe: Box::new(|asked| {
            let verdicts = asked.get_ref().filters.iter().map(|asked| {
                let verdict = match asked.filter.as_str() {
                    "no" => filter_verdict::Verdict::Deny(wire::Deny::default()),
                    _ => filter_verdict::Verdict::Allow(wire::FilterAllow {
                        filter: Some(format!("t/{}", asked.filter)),
                        max_qos: Some(1),
                        cache_for: None,
                    }),
                };
                wire::FilterVerdict { verdict: Some(verdict) }
            });
            Play::Answer(wire::AuthSubscribeResponse { verdicts: verdicts.collect() })
        }),
        ..Service::default()
    })
    .await;
    let (remote, seen) = remote(&[&service.url], AMPLE);

    let Verdict::Connect(Decision::Allow(Some(admission))) =
        somebody().connects(&*remote).await.unwrap().verdict
    else {
        panic!()
    };
    assert_eq!(admission.client_id.as_deref(), Some("renamed"));
    assert_eq!(admission.attributes, [("tenant".to_owned(), "acme".to_owned())]);

    let Verdict::Publish(Decision::Refuse(refusal)) =
        somebody().publishes(&*remote, "a").await.unwrap().verdict
    else {
        panic!()
    };
    assert_eq!((refusal.reason, refusal.action), (ReasonCode::QUOTA_EXCEEDED, Action::Drop));
    assert_eq!(refusal.text.as_deref(), Some("enough"));

    let ruling = somebody().subscribes(&*remote, &["a", "no", "$share/g/a"]).await.unwrap();
    let to = |filter: &str| {
        Decision::Allow(FilterChange {
            filter: Some(filter.into()),
            max_qos: Some(QoS::AtLeastOnce),
            ..FilterChange::default()
        })
    };
    let expected = vec![to("t/a"), Decision::Refuse(Default::default()), to("$share/g/t/a")];
    assert_eq!(ruling, Ruling { source: Source::Rpc, verdict: Verdict::Subscribe(expected) });

    assert_eq!(seen.calls("AuthPublish"), [CallOutcome::Answered]);
    assert!(remote.is_ready());
    assert_eq!(remote.health()[0].state, HealthState::Healthy);
    remote.flush(AMPLE).await;
    assert_eq!(failed(somebody().connects(&*remote).await), FailureKind::Unavailable);
}

#[tokio::test]
async fn a_grant_comes_with_the_answer_or_the_answer_is_unusable_with_it() {
    let service = Running::start(Service {
        connect: Box::new(|asked| {
            let user = asked.get_ref().client.as_ref().map(|client| client.username()).unwrap_or_default();
            let effect = if user == "ann" { wire::Effect::Allow } else { wire::Effect::Unspecified };
            let rule = wire::GrantRule {
                effect: effect.into(),
                topic_filters: vec!["devices/${clientid}/#".to_owned()],
                ..Default::default()
            };
            let grant = wire::Grant {
                rules: vec![rule],
                default_effect: Some(wire::Effect::Deny.into()),
                version: "7".to_owned(),
                mapping: Some(wire::TopicMapping { prefix: "acme/".to_owned() }),
                ..Default::default()
            };
            let allow = wire::ConnectAllow { grant: Some(grant), ..Default::default() };
            let verdict = Some(auth_connect_response::Verdict::Allow(allow));
            Play::Answer(wire::AuthConnectResponse { verdict })
        }),
        ..Service::default()
    })
    .await;
    let (remote, _) = remote(&[&service.url], AMPLE);
    let ruling = somebody().connects(&*remote).await.unwrap();
    let Verdict::Connect(Decision::Allow(Some(admission))) = ruling.verdict else { panic!("{ruling:?}") };
    let grant = admission.grant.unwrap();
    assert_eq!(&*grant.version, "7");
    assert_eq!(
        grant.mapping.as_ref().map(|mapping| mapping.up("a").unwrap().into_owned()),
        Some("acme/a".to_owned())
    );
    assert_eq!(unusable(client("c1", Some("bob")).connects(&*remote).await), UnusableKind::Grant);
}

#[tokio::test]
async fn a_slow_answer_fails_by_its_deadline() {
    let service = Running::start(Service { publish: Box::new(|_| Play::Never), ..Service::default() }).await;
    let (remote, seen) = remote(&[&service.url], Duration::from_millis(300));
    seen.until_healthy(true).await;
    let since = Instant::now();
    assert_eq!(failed(somebody().publishes(&*remote, "a").await), FailureKind::Deadline);
    assert!(since.elapsed() >= Duration::from_millis(290), "{:?}", since.elapsed());
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
    assert_eq!(seen.calls("AuthPublish"), [CallOutcome::Failed(FailureKind::Deadline)]);
    assert!(admitted(somebody().connects(&*remote).await), "other calls do not notice");
}

#[tokio::test]
async fn a_service_that_hangs_is_given_up_and_greeted_anew() {
    let service = Running::start(Service { publish: Box::new(|_| Play::Never), ..Service::default() }).await;
    let (remote, seen) = remote(&[&service.url], Duration::from_millis(20));
    seen.until_healthy(true).await;
    for _ in 0..5 {
        assert_eq!(failed(somebody().publishes(&*remote, "a").await), FailureKind::Deadline);
    }
    seen.until_healthy(false).await;
    seen.until_healthy(true).await;
    assert_eq!(service.calls("Hello"), 2);
}

fn unimplemented<T>() -> Play<T> {
    Play::Fail(Status::unimplemented("no"))
}

/// A service that implements none of the hooks that decide.
fn forgetful(hello: Option<wire::HelloResponse>) -> Service {
    Service {
        hello,
        connect: Box::new(|_| unimplemented()),
        publish: Box::new(|_| unimplemented()),
        subscribe: Box::new(|_| unimplemented()),
        deliver: Box::new(|_| unimplemented()),
        ..Service::default()
    }
}

#[tokio::test]
async fn a_hook_that_decides_and_is_not_implemented_is_a_failed_answer_each_time() {
    let named = ["AuthConnect", "AuthPublish", "AuthSubscribe", "AuthDeliver"];
    let everything = mproxy_testkit::service::wants_everything();
    for (hello, deliver) in [(None, false), (Some(everything), true)] {
        let service = Running::start(forgetful(hello)).await;
        let (remote, seen) = remote(&[&service.url], AMPLE);
        seen.until_healthy(true).await;
        let somebody = somebody();
        for _ in 0..2 {
            assert_eq!(failed(somebody.connects(&*remote).await), FailureKind::Unavailable);
            assert_eq!(failed(somebody.publishes(&*remote, "a").await), FailureKind::Unavailable);
            assert_eq!(failed(somebody.subscribes(&*remote, &["#"]).await), FailureKind::Unavailable);
            if deliver {
                assert_eq!(failed(somebody.receives(&*remote, "a").await), FailureKind::Unavailable);
            }
        }
        for rpc in named.iter().take(if deliver { 4 } else { 3 }) {
            assert_eq!(service.calls(rpc), 2, "a wrong address never opens the door");
        }
    }
}

#[tokio::test]
async fn an_old_replica_takes_nothing_back_that_hello_said() {
    let wants = vec![want(wire::Hook::AuthConnect), want(wire::Hook::AuthDeliver)];
    let service = Running::start(Service { hello: Some(hello(wants)), ..Service::default() }).await;
    let address = service.address();
    let (remote, seen) = remote(&[&service.url], AMPLE);
    seen.until_healthy(true).await;
    assert_eq!(somebody().publishes(&*remote, "a").await, None, "left out");
    service.stop().await;
    // It has no Hello, and none of what the other decided.
    let _old = Running::start_at(address, forgetful(None)).await;
    seen.until(|seen| seen.endpoint_changes().len() >= 3).await;
    assert_eq!(Decider::want(&*remote, Hook::Publish), Want::Nothing, "as the last Hello said");
    assert_eq!(failed(somebody().receives(&*remote, "a").await), FailureKind::Unavailable);
    assert_eq!(failed(somebody().connects(&*remote).await), FailureKind::Unavailable);
}

/// A client may have a hundred of them open; the rest of what is put down is the state of the call in HTTP/2.
#[tokio::test]
async fn a_question_on_its_way_holds_a_fraction_of_what_is_put_down_for_it() {
    let (remote, _) = remote(&["http://127.0.0.1:9"], AMPLE);
    let client = client("c1", None);
    let Answer::Later(pending) = remote.publish(&client.publish("a")) else { panic!() };
    let held = size_of_val(&*pending);
    assert!(held <= QUESTION / 2, "{held} bytes of {QUESTION}");
}

#[tokio::test]
async fn a_question_that_is_too_large_is_not_put() {
    let service = Running::start(Service::default()).await;
    let (remote, seen) = remote(&[&service.url], AMPLE);
    seen.until_healthy(true).await;
    let filters = vec!["devices/abcdefgh/#"; 200_000];
    let ruling = somebody().subscribes(&*remote, &filters).await;
    assert_eq!(unusable(ruling), UnusableKind::QuestionTooLarge);
    assert_eq!(service.calls("AuthSubscribe"), 0);
}

#[tokio::test]
async fn a_message_over_somebody_s_limit_is_unusable_and_not_a_failed_answer() {
    for (code, message) in [
        (Code::ResourceExhausted, "grpc: received message larger than max (5000000 vs. 4194304)"),
        (Code::ResourceExhausted, "Received message larger than max (5000000 vs 4194304)"),
        (
            Code::OutOfRange,
            "Error, decoded message length too large: found 5000000 bytes, the limit is: 4194304 bytes",
        ),
        (Code::ResourceExhausted, "gRPC message exceeds maximum size 4194304: 5000000"),
        (Code::ResourceExhausted, "Received message exceeds the maximum configured message size."),
        // What tonic makes of the answer of an HTTP gateway, and what a gateway says itself.
        (Code::Unknown, "grpc-status header missing, mapped from HTTP status code 413"),
        (Code::Unknown, "Payload Too Large"),
        (
            Code::Internal,
            "protocol error: received message with invalid compression flag: 60 (valid flags are 0 and 1) while \
             receiving response with status: 413 Payload Too Large",
        ),
    ] {
        let service = Running::start(Service {
            publish: Box::new(move |_| Play::Fail(Status::new(code, message))),
            subscribe: Box::new(|_| {
                let filter = wire::FilterAllow { filter: Some("x".repeat(5 << 20)), ..Default::default() };
                Play::answer(wire::AuthSubscribeResponse { verdicts: vec![filter.into()] })
            }),
            ..Service::default()
        })
        .await;
        let (remote, _) = remote(&[&service.url], AMPLE);
        let kind = unusable(somebody().publishes(&*remote, "a").await);
        assert!(matches!(kind, UnusableKind::QuestionTooLarge | UnusableKind::TooLarge), "{message}");
        assert_eq!(unusable(somebody().subscribes(&*remote, &["a"]).await), UnusableKind::TooLarge);
    }
    // The service's own limits are its own matter.
    let exhausted = || Play::Fail(Status::resource_exhausted("database busy"));
    let service =
        Running::start(Service { publish: Box::new(move |_| exhausted()), ..Service::default() }).await;
    let (remote, _) = remote(&[&service.url], AMPLE);
    assert_eq!(failed(somebody().publishes(&*remote, "a").await), FailureKind::Unavailable);
}

#[tokio::test]
async fn an_error_that_says_no_is_not_one_that_passes() {
    for (code, kind) in [
        (Code::PermissionDenied, FailureKind::Error),
        (Code::Unauthenticated, FailureKind::Error),
        (Code::InvalidArgument, FailureKind::Error),
        (Code::NotFound, FailureKind::Error),
        // A handler that panicked, a database that is away.
        (Code::Unknown, FailureKind::Unavailable),
        (Code::Internal, FailureKind::Unavailable),
        (Code::Aborted, FailureKind::Unavailable),
    ] {
        let service = Running::start(Service {
            connect: Box::new(move |_| Play::Fail(Status::new(code, "no such device"))),
            ..Service::default()
        })
        .await;
        let (remote, _) = remote(&[&service.url], AMPLE);
        assert_eq!(failed(somebody().connects(&*remote).await), kind, "{code:?}");
    }
}

#[tokio::test]
async fn a_deny_with_the_code_of_another_version_is_a_deny() {
    for code in [1, 4, 5, 0x17, 0x7F, 256] {
        let deny = move || wire::Deny { reason_code: code, ..Default::default() };
        let service = Running::start(Service {
            connect: Box::new(move |_| Play::Answer(deny().into())),
            publish: Box::new(move |_| Play::Answer(deny().into())),
            ..Service::default()
        })
        .await;
        let (remote, _) = remote(&[&service.url], AMPLE);
        let no = Decision::Refuse(mproxy_core::policy::Refusal::default());
        let connect = somebody().connects(&*remote).await.unwrap();
        assert_eq!(connect.verdict, Verdict::Connect(Decision::Refuse(Default::default())), "{code}");
        assert_eq!(somebody().publishes(&*remote, "a").await.unwrap().verdict, Verdict::Publish(no));
    }
}

#[tokio::test]
async fn zero_values_are_failed_answers() {
    let service = Running::start(Service {
        connect: Box::new(|_| Play::Answer(Default::default())),
        publish: Box::new(|_| Play::Answer(Default::default())),
        subscribe: Box::new(|asked| {
            let verdicts = vec![Default::default(); asked.get_ref().filters.len()];
            Play::Answer(wire::AuthSubscribeResponse { verdicts })
        }),
        ..Service::default()
    })
    .await;
    let (remote, seen) = remote(&[&service.url], AMPLE);
    assert_eq!(failed(somebody().connects(&*remote).await), FailureKind::Unspecified);
    assert_eq!(failed(somebody().publishes(&*remote, "a").await), FailureKind::Unspecified);
    assert_eq!(failed(somebody().subscribes(&*remote, &["a"]).await), FailureKind::Unspecified);
    assert_eq!(seen.calls("AuthConnect"), [CallOutcome::Failed(FailureKind::Unspecified)]);
}

#[tokio::test]
async fn a_verdict_for_each_filter_or_none_at_all() {
    let service = Running::start(Service {
        subscribe: Box::new(|_| Play::Answer(Default::default())),
        ..Service::default()
    })
    .await;
    let (remote, _) = remote(&[&service.url], AMPLE);
    assert_eq!(unusable(somebody().subscribes(&*remote, &["a", "b"]).await), UnusableKind::WrongLength);
}

#[tokio::test]
async fn an_answer_that_is_no_protobuf_is_unreadable() {
    let service = Running::garbage().await;
    let (remote, _) = remote(&[&service.url], AMPLE);
    assert_eq!(failed(somebody().publishes(&*remote, "a").await), FailureKind::Unreadable);
}

#[tokio::test]
async fn mproxy_starts_before_the_service_and_finds_it() {
    let address = service::free_address();
    let (remote, seen) = remote(&[&format!("http://{address}")], AMPLE);
    let since = Instant::now();
    assert_eq!(failed(somebody().connects(&*remote).await), FailureKind::Unavailable);
    assert!(since.elapsed() < AMPLE / 2, "nobody waits for an unhealthy endpoint");
    assert_eq!(remote.health()[0].state, HealthState::Unhealthy);
    assert!(remote.health()[0].last_error.as_ref().unwrap().contains("refused"), "{:?}", remote.health());
    assert!(!remote.is_ready());
    assert_eq!(Decider::want(&*remote, Hook::Publish), Want::Payload(65536), "everything, until told");
    assert_eq!(Decider::want(&*remote, Hook::Deliver), Want::Nothing);

    let _service = Running::start_at(address, Service::default()).await;
    seen.until_healthy(true).await;
    assert!(admitted(somebody().connects(&*remote).await));
}

#[tokio::test]
async fn the_next_endpoint_answers_for_one_that_is_down_and_the_first_is_asked_again_when_it_is_back() {
    let address = service::free_address();
    let second = Running::start(Service::default()).await;
    let (remote, seen) = remote(&[&format!("http://{address}"), &second.url], AMPLE);
    assert!(admitted(somebody().connects(&*remote).await));
    assert_eq!(second.calls("AuthConnect"), 1);

    let first = Running::start_at(address, Service::default()).await;
    seen.until(|seen| seen.healthy_now() == 2).await;
    assert!(admitted(somebody().connects(&*remote).await));
    assert_eq!((first.calls("AuthConnect"), second.calls("AuthConnect")), (1, 1));
}

#[tokio::test]
async fn a_question_goes_on_to_the_next_endpoint_once() {
    let first = Running::start(Service {
        publish: Box::new(|_| Play::Fail(Status::unavailable("later"))),
        ..Service::default()
    })
    .await;
    let second = Running::start(Service::default()).await;
    let (remote, seen) = remote(&[&first.url, &second.url], AMPLE);
    seen.until(|seen| seen.healthy_now() == 2).await;
    assert!(published(somebody().publishes(&*remote, "a").await));
    assert_eq!((first.calls("AuthPublish"), second.calls("AuthPublish")), (1, 1));

    second.kill();
    seen.until(|seen| seen.healthy_now() == 1).await;
    assert_eq!(failed(somebody().publishes(&*remote, "a").await), FailureKind::Unavailable);
    assert_eq!(first.calls("AuthPublish"), 2, "never twice on one connection");
}

#[tokio::test]
async fn a_service_that_dies_in_the_middle_of_a_question_is_replaced_by_the_next() {
    let first = Running::start(Service { publish: Box::new(|_| Play::Never), ..Service::default() }).await;
    let second = Running::start(Service::default()).await;
    let (remote, seen) = remote(&[&first.url, &second.url], AMPLE);
    seen.until(|seen| seen.healthy_now() == 2).await;
    let asked = somebody();
    let question = asked.publishes(&*remote, "a");
    let dies = async {
        first.until_called("AuthPublish").await;
        first.kill();
    };
    let (ruling, ()) = tokio::join!(question, dies);
    assert!(published(ruling));
}

#[tokio::test]
async fn a_restart_is_waited_for() {
    let service = Running::start(Service::default()).await;
    let address = service.address();
    let (remote, seen) = remote(&[&service.url], AMPLE);
    assert!(admitted(somebody().connects(&*remote).await));
    service.stop().await;
    let service = Running::start_at(address, Service::default()).await;
    seen.until(|seen| seen.endpoint_changes().len() >= 3).await;
    assert!(admitted(somebody().connects(&*remote).await));
    assert_eq!(service.calls("Hello"), 1, "the new one is asked what it wants");
}

#[tokio::test]
async fn a_unix_socket_serves_as_well() {
    let path = std::env::temp_dir().join(format!("mproxy-policy-{}.sock", std::process::id()));
    let service = Running::start_unix(&path, Service::default()).await;
    let (remote, _) = remote(&[&service.url], AMPLE);
    assert!(admitted(somebody().connects(&*remote).await));
    std::fs::remove_file(path).unwrap();
}

#[tokio::test]
async fn https_goes_both_ways() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let service = Running::start_tls(authority.issue("localhost"), authority.pem(), Service::default()).await;
    let tls = |ca: &Authority, ours: &Authority| RemoteConfig {
        tls: RemoteTls { ca: Some(ca.pem()), identity: Some(ours.issue("mproxy")) },
        ..config(&[&service.url], AMPLE)
    };
    let (remote, _) = started(tls(&authority, &authority));
    assert!(admitted(somebody().connects(&*remote).await));
    for (ca, ours) in [(&stranger, &authority), (&authority, &stranger)] {
        let (remote, seen) = started(tls(ca, ours));
        seen.until_healthy(false).await;
        assert_eq!(failed(somebody().connects(&*remote).await), FailureKind::Unavailable);
        let error = remote.health()[0].last_error.clone().unwrap();
        assert!(error.to_lowercase().contains("certificate"), "{error}");
    }
    let broken = RemoteTls { ca: None, identity: Some((b"no".to_vec(), b"pem".to_vec())) };
    let config = RemoteConfig { tls: broken, ..config(&[&service.url], AMPLE) };
    assert!(Remote::start(config, Arc::new(NoWatch)).is_err());
}

#[tokio::test]
async fn only_what_hello_wants_is_asked_and_only_so_much_of_it() {
    let wants = vec![
        want(wire::Hook::AuthConnect),
        wire::Want {
            topic_filters: vec!["a/#".to_owned()],
            payload_limit: 4,
            ..want(wire::Hook::AuthPublish)
        },
        want(wire::Hook::AuthDeliver),
    ];
    let service = Running::start(Service {
        hello: Some(hello(wants)),
        publish: Box::new(|asked| {
            let (payload, size) = (&asked.get_ref().payload, asked.get_ref().payload_size);
            assert_eq!((payload.is_some(), size <= 4), (size <= 4, size <= 4));
            Play::answer(wire::PublishAllow::default())
        }),
        ..Service::default()
    })
    .await;
    let (remote, seen) = remote(&[&service.url], AMPLE);
    seen.until_healthy(true).await;
    assert_eq!(
        Hook::ALL.map(|hook| Decider::want(&*remote, hook)),
        [Want::Head, Want::Payload(4), Want::Nothing, Want::Head, Want::Nothing]
    );
    let c1 = somebody();
    assert_eq!(c1.publishes(&*remote, "b").await, None);
    assert_eq!(c1.subscribes(&*remote, &["a"]).await, None);
    assert!(published(c1.publishes(&*remote, "a/b").await));
    let small = PublishQuestion { payload: Payload::Whole(b"21"), ..c1.publish("a") };
    assert!(published(common::heard(remote.publish(&small)).await));
    assert_eq!(service.calls("AuthPublish"), 2);
    assert_eq!(Sink::want(&*remote, Kind::Connect), Want::Nothing);
}

#[tokio::test]
async fn a_hello_without_sense_makes_the_endpoint_ill() {
    let nonsense = hello(vec![want(wire::Hook::Unspecified)]);
    let service = Running::start(Service { hello: Some(nonsense), ..Service::default() }).await;
    let (remote, seen) = remote(&[&service.url], AMPLE);
    seen.until_healthy(false).await;
    assert_eq!(failed(somebody().connects(&*remote).await), FailureKind::Unavailable);
    assert!(remote.health()[0].last_error.as_ref().unwrap().contains("without saying which"));
}

#[tokio::test]
async fn more_questions_than_turns_wait_within_their_deadline() {
    let service = Running::start(Service { publish: Box::new(|_| Play::Never), ..Service::default() }).await;
    let config = RemoteConfig { max_in_flight: 1, ..config(&[&service.url], Duration::from_millis(200)) };
    let (remote, seen) = started(config);
    seen.until_healthy(true).await;
    let asked = (0..10).map(|_| async { somebody().publishes(&*remote, "a").await });
    let mut answers = futures_util::future::join_all(asked).await;
    assert_eq!(failed(answers.remove(0)), FailureKind::Deadline, "it had the turn");
    let overloaded =
        |answer: &Option<Ruling>| matches!(answer, Some(Ruling { verdict: Verdict::Overloaded(_), .. }));
    assert!(answers.iter().any(overloaded), "{answers:?}");
}

#[tokio::test]
async fn who_waited_for_a_turn_and_has_no_time_left_is_overloaded_and_not_failed() {
    let service = Running::start(Service { publish: Box::new(|_| Play::Never), ..Service::default() }).await;
    let config = RemoteConfig { max_in_flight: 1, ..config(&[&service.url], Duration::from_secs(2)) };
    let (remote, seen) = started(config);
    seen.until_healthy(true).await;
    let late = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        somebody().publishes(&*remote, "a").await
    };
    let first = async { somebody().publishes(&*remote, "a").await };
    let (first, late) = tokio::join!(first, late);
    assert_eq!(failed(first), FailureKind::Deadline, "it had the turn at once");
    assert_eq!(service.calls("AuthPublish"), 2, "it had a turn at last");
    assert!(matches!(late, Some(Ruling { verdict: Verdict::Overloaded(_), .. })), "{late:?}");
}

#[tokio::test]
async fn an_empty_hello_takes_nothing_back_that_one_before_it_said() {
    let wants = vec![want(wire::Hook::AuthConnect), want(wire::Hook::AuthDeliver)];
    let service = Running::start(Service { hello: Some(hello(wants)), ..Service::default() }).await;
    let address = service.address();
    let (remote, seen) = remote(&[&service.url], AMPLE);
    seen.until_healthy(true).await;
    service.stop().await;
    let _other =
        Running::start_at(address, Service { hello: Some(hello(Vec::new())), ..Service::default() }).await;
    seen.until(|seen| seen.endpoint_changes().len() >= 3).await;
    assert_ne!(Decider::want(&*remote, Hook::Deliver), Want::Nothing);
}

fn event(connection: u128, what: Happening) -> Event {
    Event { peer: numbered(connection, &format!("c{connection}"), None).peer, what, purse: None }
}

fn publish_of(connection: u128, topic: &str) -> Event {
    let published =
        Published { topic: topic.into(), qos: QoS::AtMostOnce, retain: false, size: 0, payload: None };
    event(connection, Happening::Publish(Box::new(published)))
}

const CAME: Happening = Happening::Connect { session_present: false };

#[tokio::test]
async fn events_are_told_in_order_for_each_connection() {
    let service = Running::start(Service::default()).await;
    let (remote, _) = remote(&[&service.url], AMPLE);
    for connection in 0..20 {
        remote.report(event(connection, CAME));
        for number in 0..10 {
            remote.report(publish_of(connection, &number.to_string()));
        }
    }
    remote.flush(AMPLE).await;
    let told = service.events();
    assert_eq!(told.len(), 220);
    for connection in 0..20 {
        let id = format!("c{connection}");
        let own: Vec<_> = told.iter().filter(|told| told.client_id == id).collect();
        let what: Vec<_> = own.iter().map(|told| told.what.as_str()).collect();
        assert_eq!(what, ["connect", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
        assert!(own.is_sorted_by_key(|told| told.sequence));
    }
    let mut sequences: Vec<_> = told.iter().map(|told| told.sequence).collect();
    sequences.sort_unstable();
    assert_eq!(sequences, (1..=220).collect::<Vec<_>>());
}

/// However the events of two connections of one client id are told, epoch and sequence put them in order.
#[tokio::test]
async fn a_takeover_can_be_put_in_order_by_epoch_and_sequence() {
    let service = Running::start(Service::default()).await;
    let (remote, _) = remote(&[&service.url], AMPLE);
    let of = |epoch: u64, what| {
        let mut peer = numbered(epoch.into(), "c", None).peer;
        let own = Arc::make_mut(&mut peer);
        Arc::make_mut(&mut own.origin).epoch = epoch;
        Event { peer, what, purse: None }
    };
    let left = || {
        let fault = Fault::BrokerLeft { reason: ReasonCode::SESSION_TAKEN_OVER };
        Happening::Disconnect(Box::new(Ended { fault, will_suppressed: true, traffic: Traffic::default() }))
    };
    // Each takes over from the one before it, and the broker says so to that one a moment later.
    for epoch in 1..=50 {
        remote.report(of(epoch, CAME));
        if epoch > 1 {
            remote.report(of(epoch - 1, left()));
        }
    }
    remote.flush(AMPLE).await;
    let mut told = service.events();
    told.sort_unstable_by_key(|told| told.sequence);
    let order: Vec<(u64, &str)> = told.iter().map(|told| (told.epoch, told.what.as_str())).collect();
    let expected = (1..=50).flat_map(|epoch: u64| {
        let left = (epoch > 1).then(|| (epoch - 1, "disconnect"));
        [Some((epoch, "connect")), left].into_iter().flatten()
    });
    assert_eq!(order, expected.collect::<Vec<_>>());
    // Who keeps only the largest epoch it has seen is never told that the client is gone while it is there.
    let mut latest = 0;
    for (epoch, what) in order {
        latest = latest.max(epoch);
        assert!(what == "connect" || epoch < latest);
    }
}

#[tokio::test]
async fn what_the_queue_has_no_room_for_is_counted_and_publishes_give_way() {
    let service = Running::start(Service { tell: Box::new(|| Play::Never), ..Service::default() }).await;
    // 16 events for each of the 16 ways; connection 1 has one of them.
    let (remote, seen) = started(RemoteConfig { event_queue: 256, ..config(&[&service.url], AMPLE) });
    seen.until_healthy(true).await;
    remote.report(publish_of(1, "in hand"));
    service.until_called("Publish").await;
    for _ in 0..100 {
        remote.report(publish_of(1, "flood"));
    }
    assert_eq!(seen.dropped(Kind::Publish, DropReason::QueueFull), 100 - 12);
    for _ in 0..10 {
        remote.report(event(1, CAME));
    }
    assert_eq!(seen.dropped(Kind::Connect, DropReason::QueueFull), 10 - 4);

    remote.flush(Duration::from_millis(10)).await;
    assert_eq!(seen.dropped(Kind::Publish, DropReason::Shutdown), 1 + 12);
    assert_eq!(seen.dropped(Kind::Connect, DropReason::Shutdown), 4);
    remote.report(event(1, CAME));
    assert_eq!(seen.dropped(Kind::Connect, DropReason::Shutdown), 5);
}

#[tokio::test]
async fn events_that_nobody_wants_or_can_be_told_do_not_pile_up() {
    let wants = vec![
        want(wire::Hook::AuthConnect),
        wire::Want { topic_filters: vec!["a".to_owned()], ..want(wire::Hook::Publish) },
    ];
    let broken = || Play::Fail(Status::internal("broken"));
    let service =
        Running::start(Service { hello: Some(hello(wants)), tell: Box::new(broken), ..Service::default() })
            .await;
    let (remote, seen) = remote(&[&service.url], AMPLE);
    seen.until_healthy(true).await;
    remote.report(event(1, CAME));
    remote.report(publish_of(1, "b"));
    remote.report(publish_of(1, "a"));
    remote.flush(AMPLE).await;
    assert_eq!((service.calls("Publish"), service.calls("Connect")), (1, 0));
    assert_eq!(seen.dropped(Kind::Publish, DropReason::CallFailed), 1);
}

#[tokio::test]
async fn a_telling_hook_that_is_not_implemented_is_called_once() {
    let service = Running::start(Service {
        tell: Box::new(|| Play::Fail(Status::unimplemented("no"))),
        ..Service::default()
    })
    .await;
    let (remote, seen) = remote(&[&service.url], AMPLE);
    seen.until_healthy(true).await;
    for _ in 0..5 {
        remote.report(event(1, CAME));
    }
    remote.flush(AMPLE).await;
    assert_eq!(service.calls("Connect"), 1);
    assert_eq!(seen.calls("Connect"), [CallOutcome::Unimplemented]);
    assert_eq!(Sink::want(&*remote, Kind::Connect), Want::Nothing);
    assert_eq!(Sink::want(&*remote, Kind::Disconnect), Want::Head);
}
