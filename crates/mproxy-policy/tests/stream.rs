//! The Decide stream over real sockets: batches, answers in any order, services that talk nonsense, fall silent and end.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod common;
mod service;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{Client, Ruling, client, numbered};
use futures_util::future::join_all;
use mproxy_core::event::{Event, Happening, Sink};
use mproxy_core::peer::Peer;
use mproxy_core::policy::{
    Answer, Decider, Decision, FailureKind, Payload, PublishQuestion, Source, UnusableKind,
};
use mproxy_policy::remote::{Remote, RemoteConfig, RemoteTls};
use mproxy_policy::watch::{AnswerDrop, CallOutcome, MoveReason, StreamEnd};
use mproxy_sim::Verdict;
use mproxy_testkit::service::contract::{
    self as wire, DecideRequest, StreamAnswer, StreamQuestion, stream_answer, stream_question,
};
use mproxy_testkit::service::{
    AnswerSender, ObservePlay, Play, Running, Service, StreamPlay, wants_everything,
};
use service::{AMPLE, Authority, Seen, config};
use tonic::Status;

/// Connected to all of these.
async fn remote(urls: &[&str], timeout: Duration) -> (Arc<Remote>, Seen) {
    started(config(urls, timeout)).await
}

async fn started(config: RemoteConfig) -> (Arc<Remote>, Seen) {
    let seen = Seen::default();
    let endpoints = config.endpoints.len();
    let remote = Remote::start(config, Arc::new(seen.clone())).unwrap();
    seen.until(|seen| seen.healthy_now() == endpoints).await;
    (remote, seen)
}

fn streaming() -> Service {
    Service { hello: Some(wire::HelloResponse { streams: true, ..wants_everything() }), ..Service::default() }
}

fn scripted(script: impl Fn(&DecideRequest, &AnswerSender) + Send + Sync + 'static) -> Service {
    Service { decide: StreamPlay::Script(Box::new(script)), ..streaming() }
}

/// A service that answers nothing by itself: what it was asked, and by whom to answer.
#[derive(Clone, Default)]
struct Held(Arc<Mutex<Vec<(StreamQuestion, AnswerSender)>>>);

impl Held {
    fn service(&self) -> Service {
        let held = self.clone();
        scripted(move |request, answers| {
            let asked = request.questions.iter().map(|question| (question.clone(), answers.clone()));
            held.0.lock().unwrap().extend(asked);
        })
    }

    fn take(&self) -> Vec<(StreamQuestion, AnswerSender)> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

fn somebody() -> Client {
    client("c1", Some("ann")).password("sesame")
}

fn allowed(ruling: Option<Ruling>) -> bool {
    ruling == Some(Ruling { source: Source::Rpc, verdict: Verdict::Publish(Decision::Allow(None)) })
}

fn failed(ruling: Option<Ruling>) -> FailureKind {
    let Some(Ruling { source: Source::Rpc, verdict: Verdict::Failed(failure) }) = ruling else {
        panic!("{ruling:?}")
    };
    failure.kind
}

fn topic(question: &StreamQuestion) -> &str {
    match &question.question {
        Some(stream_question::Question::Publish(publish)) => &publish.topic,
        other => panic!("{other:?}"),
    }
}

/// An answer that is told from others by its text.
fn denied(id: u64, text: &str) -> StreamAnswer {
    let deny = wire::Deny { reason_string: text.to_owned(), ..Default::default() };
    StreamAnswer { id, answer: Some(stream_answer::Answer::Publish(deny.into())) }
}

fn text(ruling: Option<Ruling>) -> String {
    let Some(Ruling { verdict: Verdict::Publish(Decision::Refuse(refusal)), .. }) = ruling else {
        panic!("{ruling:?}")
    };
    refusal.text.unwrap().into()
}

fn questions(batches: &[(usize, DecideRequest)]) -> usize {
    batches.iter().map(|(_, batch)| batch.questions.len()).sum()
}

#[tokio::test]
async fn all_that_decides_goes_over_the_stream() {
    let service = Running::start(Service {
        connect: Box::new(|asked| {
            let password = if asked.get_ref().refresh { None } else { Some("sesame".into()) };
            assert_eq!(asked.get_ref().password, password);
            let client = asked.get_ref().client.as_ref().unwrap();
            assert_eq!((client.client_id.as_str(), client.username()), ("c1", "ann"));
            let attributes = [("tenant".to_owned(), "acme".to_owned())].into();
            Play::answer(wire::ConnectAllow { attributes, ..Default::default() })
        }),
        publish: Box::new(|asked| {
            assert_eq!(asked.get_ref().payload(), b"21 degrees");
            Play::answer(wire::PublishAllow::default())
        }),
        ..streaming()
    })
    .await;
    let (remote, seen) = remote(&[&service.url], AMPLE).await;
    let c1 = somebody();
    let ruling = c1.connects(&*remote).await.unwrap();
    let Verdict::Connect(Decision::Allow(Some(admission))) = ruling.verdict else { panic!("{ruling:?}") };
    assert_eq!(admission.attributes, [("tenant".to_owned(), "acme".to_owned())]);
    assert!(allowed(c1.publishes(&*remote, "a").await));
    assert!(allowed(c1.receives(&*remote, "a").await));
    let ruling = c1.subscribes(&*remote, &["a", "$share/g/b"]).await.unwrap();
    assert_eq!(ruling.verdict, Verdict::Subscribe(vec![Decision::Allow(Default::default()); 2]));
    assert!(matches!(c1.renews(&*remote).await.unwrap().verdict, Verdict::Connect(Decision::Allow(_))));

    let batches = service.batches();
    assert_eq!((batches.len(), questions(&batches)), (5, 5), "a lone question leaves at once");
    assert_eq!(batches[0].1.introduce.len(), 1);
    assert!(batches[1..].iter().all(|(_, batch)| batch.introduce.is_empty()), "introduced once");
    let timeout = batches[0].1.questions[0].timeout.unwrap();
    assert!(timeout.seconds <= 20 && timeout.seconds >= 15, "{timeout:?}");
    assert_eq!(seen.calls("AuthPublish"), [CallOutcome::Answered]);
    remote.flush(AMPLE).await;
    assert_eq!(failed(c1.publishes(&*remote, "a").await), FailureKind::Unavailable);
}

#[tokio::test]
async fn what_waits_together_goes_together_and_in_order() {
    let service = Running::start(streaming()).await;
    let (remote, _) = remote(&[&service.url], AMPLE).await;
    let topics: Vec<_> = (0..200).map(|n| n.to_string()).collect();
    let clients: Vec<_> = (0..4).map(|n| numbered(n, &format!("c{n}"), None)).collect();
    let asked = topics.iter().zip(clients.iter().cycle());
    let answers = join_all(asked.map(|(topic, client)| client.publishes(&*remote, topic))).await;
    assert!(answers.into_iter().all(allowed));
    let batches = service.batches();
    assert!(batches.len() <= 3, "{} messages", batches.len());
    let asked: Vec<_> = batches.iter().flat_map(|(_, batch)| &batch.questions).map(topic).collect();
    assert_eq!(asked, topics);
    let introduced: usize = batches.iter().map(|(_, batch)| batch.introduce.len()).sum();
    assert_eq!(introduced, 4);
}

#[tokio::test]
async fn answers_come_in_any_order() {
    let held = Held::default();
    let service = Running::start(held.service()).await;
    let (remote, _) = remote(&[&service.url], AMPLE).await;
    let topics: Vec<_> = (0..50).map(|n| n.to_string()).collect();
    let c1 = somebody();
    let asked = join_all(topics.iter().map(|topic| c1.publishes(&*remote, topic)));
    let answering = async {
        service.batches_when(|batches| questions(batches) == 50).await;
        let mut all = held.take();
        all.reverse();
        for some in all.chunks(7) {
            some[0].1.send(some.iter().map(|(asked, _)| denied(asked.id, topic(asked))).collect());
        }
    };
    let (answers, ()) = tokio::join!(asked, answering);
    assert_eq!(answers.into_iter().map(text).collect::<Vec<_>>(), topics);
}

#[tokio::test]
async fn answers_that_nobody_asked_for_are_dropped_and_counted() {
    let service = Running::start(scripted(|request, answers| {
        let right = request.questions[0].id;
        answers.send(vec![
            denied(0, ""),
            denied(right + 1, ""),
            denied(u64::MAX, ""),
            denied(right, "first"),
        ]);
        answers.send(vec![denied(right, "again"), denied(right, "and again")]);
    }))
    .await;
    let (remote, seen) = remote(&[&service.url], AMPLE).await;
    assert_eq!(text(somebody().publishes(&*remote, "a").await), "first");
    seen.until(|seen| seen.dropped_answers().len() == 5).await;
    let mut dropped = seen.now(|seen| seen.dropped_answers().to_vec());
    dropped.sort_by_key(|reason| *reason as usize);
    use AnswerDrop::{Duplicate, Unknown};
    assert_eq!(dropped, [Unknown, Unknown, Unknown, Duplicate, Duplicate]);
    assert_eq!(text(somebody().publishes(&*remote, "a").await), "first", "nobody else is touched");
    assert_eq!(seen.now(|seen| seen.streams_opened()), 1);
}

#[tokio::test]
async fn an_answer_for_somebody_who_has_gone_is_dropped() {
    let held = Held::default();
    let service = Running::start(held.service()).await;
    let (remote, seen) = remote(&[&service.url], AMPLE).await;
    let c1 = somebody();
    let gone = c1.publishes(&*remote, "gone");
    tokio::select! {
        answer = gone => panic!("{answer:?}"),
        _ = service.batches_when(|batches| questions(batches) == 1) => {}
    }
    let (asked, answers) = held.take().remove(0);
    answers.allow(&[asked]);
    seen.until(|seen| seen.dropped_answers() == [AnswerDrop::Late]).await;
}

#[tokio::test]
async fn no_answer_fails_by_the_deadline() {
    let held = Held::default();
    let service = Running::start(held.service()).await;
    let (remote, seen) = remote(&[&service.url], Duration::from_millis(300)).await;
    let c1 = somebody();
    let since = Instant::now();
    let answers = join_all((0..50).map(|_| c1.publishes(&*remote, "a"))).await;
    let took = since.elapsed();
    assert!(took >= Duration::from_millis(300) && took < Duration::from_millis(900), "{took:?}");
    assert!(answers.into_iter().all(|answer| failed(answer) == FailureKind::Deadline));
    let late = held.take();
    late[0].1.allow(&late.iter().map(|(asked, _)| asked.clone()).collect::<Vec<_>>());
    seen.until(|seen| seen.dropped_answers() == [AnswerDrop::Late; 50]).await;
}

#[tokio::test]
async fn an_answer_means_what_it_means_in_a_call() {
    use stream_answer::Answer;
    let service = Running::start(scripted(|request, answers| {
        let of = |question: &StreamQuestion| {
            let answer = match topic(question) {
                "unset" => None,
                "no verdict" => Some(Answer::Publish(Default::default())),
                "other kind" => Some(Answer::Connect(wire::ConnectAllow::default().into())),
                "error" => Some(Answer::Error(wire::AnswerError { detail: "busy".into() })),
                "wildcard" => {
                    let allow = wire::PublishAllow { topic: Some("a/#".to_owned()), ..Default::default() };
                    Some(Answer::Publish(allow.into()))
                }
                _ => Some(Answer::Publish(wire::PublishAllow::default().into())),
            };
            StreamAnswer { id: question.id, answer }
        };
        answers.send(request.questions.iter().map(of).collect());
    }))
    .await;
    let (remote, _) = remote(&[&service.url], AMPLE).await;
    let c1 = somebody();
    let asked = ["unset", "no verdict", "error", "other kind", "wildcard", "fine"];
    let mut answers = join_all(asked.map(|topic| c1.publishes(&*remote, topic))).await;
    assert!(allowed(answers.pop().unwrap()));
    for answer in answers.split_off(3) {
        let Some(Ruling { verdict: Verdict::Unusable(_), .. }) = answer else { panic!("{answer:?}") };
    }
    let kinds: Vec<_> = answers.into_iter().map(failed).collect();
    assert_eq!(kinds, [FailureKind::Unspecified, FailureKind::Unspecified, FailureKind::Unavailable]);
}

/// Two answers, to the first two questions of a stream; the first is no `AuthPublishResponse`.
#[tokio::test]
async fn one_answer_that_is_no_protobuf_harms_no_other() {
    let bytes = b"\0\0\0\0\x13\x0a\x07\x08\x80\x80\x04\x1a\x01\xff\x0a\x08\x08\x81\x80\x04\x1a\x02\x0a\0";
    let service = Running::start(Service { decide: StreamPlay::Raw(bytes), ..streaming() }).await;
    let (remote, _) = remote(&[&service.url], AMPLE).await;
    let c1 = somebody();
    let (bad, good) = tokio::join!(c1.publishes(&*remote, "a"), c1.publishes(&*remote, "b"));
    assert_eq!((failed(bad), allowed(good)), (FailureKind::Unreadable, true));
}

/// The beginning of a message of eight bytes, or bytes that are no `DecideResponse`.
#[tokio::test]
async fn half_a_message_and_a_reset_loses_no_question() {
    for bytes in [&b"\0\0\0\0\x08\x0a"[..], b"\0\0\0\0\x02\xff\xff", b"\x09\0\0\0\0"] {
        let service = Running::start(Service { decide: StreamPlay::Raw(bytes), ..streaming() }).await;
        let (remote, seen) = remote(&[&service.url], AMPLE).await;
        assert!(allowed(somebody().publishes(&*remote, "a").await), "by a call, as there is no other stream");
        assert_eq!(service.calls("AuthPublish"), 1);
        seen.until(|seen| seen.moved() == [MoveReason::Broken]).await;
        seen.until(|seen| seen.streams_ended(StreamEnd::Broken) >= 1).await;
    }
}

#[tokio::test]
async fn a_batch_of_64_mib_ends_its_stream_and_says_who_was_too_large() {
    let service = Running::start(Service {
        publish: Box::new(|asked| {
            let payload = (asked.get_ref().topic == "large").then(|| vec![0; 5 << 20]);
            Play::answer(wire::PublishAllow { payload, ..Default::default() })
        }),
        decide: StreamPlay::Script(Box::new(|request, answers| {
            let large = |question: &StreamQuestion| {
                let allow = wire::PublishAllow { payload: Some(vec![0; 32 << 20]), ..Default::default() };
                StreamAnswer { id: question.id, answer: Some(stream_answer::Answer::Publish(allow.into())) }
            };
            answers.send(request.questions.iter().map(large).collect());
        })),
        ..streaming()
    })
    .await;
    let (remote, _) = remote(&[&service.url], AMPLE).await;
    let c1 = somebody();
    let (small, large) = tokio::join!(c1.publishes(&*remote, "a"), c1.publishes(&*remote, "large"));
    assert!(allowed(small), "asked by itself");
    let Some(Ruling { verdict: Verdict::Unusable(unusable), .. }) = large else { panic!("{large:?}") };
    assert_eq!(unusable.kind, UnusableKind::TooLarge, "and no failed answer, which might let it pass");
}

#[tokio::test]
async fn a_stream_that_is_not_implemented_is_tried_once() {
    let service = Running::start(Service { decide: StreamPlay::Unimplemented, ..streaming() }).await;
    let (remote, seen) = remote(&[&service.url], AMPLE).await;
    for _ in 0..10 {
        assert!(allowed(somebody().publishes(&*remote, "a").await));
    }
    seen.until(|seen| seen.streams_ended(StreamEnd::Unimplemented) == 1).await;
    assert_eq!((service.calls("Decide"), service.calls("AuthPublish")), (1, 10));
}

#[tokio::test]
async fn streams_can_be_turned_off_and_are_used_only_where_hello_says_so() {
    let not_said = Running::start(Service::default()).await;
    let said = Running::start(streaming()).await;
    for (service, streams) in [(&not_said, true), (&said, false)] {
        let (remote, _) = started(RemoteConfig { streams, ..config(&[&service.url], AMPLE) }).await;
        assert!(allowed(somebody().publishes(&*remote, "a").await));
        assert_eq!((service.calls("Decide"), service.calls("AuthPublish")), (0, 1));
    }
}

#[tokio::test]
async fn a_restart_loses_nothing_and_the_client_is_introduced_again() {
    let first = Running::start(streaming()).await;
    let second = Running::start(streaming()).await;
    let address = first.address();
    let (remote, seen) = remote(&[&first.url, &second.url], AMPLE).await;
    let c1 = somebody();
    assert!(allowed(c1.publishes(&*remote, "a").await));
    let asking = async {
        while seen.now(|seen| seen.endpoint_changes().len() < 4) {
            assert!(allowed(c1.publishes(&*remote, "a").await));
        }
    };
    let restarting = async {
        // In order: the service says GOAWAY, and waits for what is open.
        first.stop().await;
        Running::start_at(address, streaming()).await
    };
    let ((), first) = tokio::join!(asking, restarting);
    while questions(&first.batches()) == 0 {
        assert!(allowed(c1.publishes(&*remote, "a").await));
    }
    assert_eq!(first.batches()[0].1.introduce.len(), 1, "the new one does not know it");
}

#[tokio::test]
async fn a_goaway_is_noticed_and_what_is_open_is_answered() {
    let held = Held::default();
    let service = Running::start(never_told(&held)).await;
    let config = config(&[&service.url], AMPLE);
    a_goaway_is_noticed(&service, &held, config).await;
}

#[tokio::test]
async fn a_goaway_is_noticed_over_tls_as_well() {
    let (authority, held) = (Authority::new(), Held::default());
    let service = Running::start_tls(authority.issue("localhost"), authority.pem(), never_told(&held)).await;
    let config = RemoteConfig { tls: trusting(&authority, &authority), ..config(&[&service.url], AMPLE) };
    a_goaway_is_noticed(&service, &held, config).await;
}

/// The connection that the stream belongs to stays: an event is told there that never ends.
fn never_told(held: &Held) -> Service {
    Service { observe: ObservePlay::Unimplemented, tell: Box::new(|| Play::Never), ..held.service() }
}

/// Trusts what one authority has signed, and shows what the other has.
fn trusting(theirs: &Authority, ours: &Authority) -> RemoteTls {
    RemoteTls { ca: Some(theirs.pem()), identity: Some(ours.issue("mproxy")) }
}

async fn a_goaway_is_noticed(service: &Running, held: &Held, config: RemoteConfig) {
    let (remote, seen) = started(config).await;
    let c1 = somebody();
    let what = Happening::Connect { session_present: false };
    remote.report(Event { peer: Arc::clone(&c1.peer), what, purse: None });
    service.until_called("Connect").await;
    let asked = c1.publishes(&*remote, "a");
    let stopping = async {
        service.batches_when(|batches| questions(batches) == 1).await;
        tokio::select! {
            () = service.stop() => panic!("an event is being told"),
            () = seen.until(|seen| seen.streams_ended(StreamEnd::GoAway) == 1) => {}
        }
        let (asked, answers) = held.take().remove(0);
        answers.allow(&[asked]);
    };
    let (answer, ()) = tokio::join!(asked, stopping);
    assert!(allowed(answer));
    assert!(seen.now(|seen| seen.moved().is_empty()), "by the stream that it was asked on");
}

#[tokio::test]
async fn a_service_that_dies_loses_no_question() {
    let held = Held::default();
    let first = Running::start(held.service()).await;
    let second = Running::start(streaming()).await;
    let (remote, seen) = remote(&[&first.url, &second.url], AMPLE).await;
    let c1 = somebody();
    let asked = join_all((0..20).map(|_| c1.publishes(&*remote, "a")));
    let dies = async {
        first.batches_when(|batches| questions(batches) == 20).await;
        first.kill();
    };
    let (answers, ()) = tokio::join!(asked, dies);
    assert!(answers.into_iter().all(allowed));
    assert_eq!(second.calls("AuthPublish"), 20);
    assert_eq!(seen.now(|seen| seen.moved().len()), 20);
}

#[tokio::test]
async fn a_silent_service_is_not_waited_for_where_there_is_another() {
    let held = Held::default();
    let silent = Running::start(held.service()).await;
    let second = Running::start(streaming()).await;
    let (remote, seen) = remote(&[&silent.url, &second.url], AMPLE).await;
    let c1 = somebody();
    let since = Instant::now();
    let answers = join_all((0..20).map(|_| c1.publishes(&*remote, "a"))).await;
    assert!(answers.into_iter().all(allowed));
    let took = since.elapsed();
    assert!(took >= Duration::from_millis(450) && took < AMPLE / 2, "{took:?}");
    assert_eq!(seen.now(|seen| seen.moved().to_vec()), [MoveReason::Silent; 20]);
    let since = Instant::now();
    assert!(allowed(c1.publishes(&*remote, "b").await));
    assert!(since.elapsed() < Duration::from_millis(450), "what is silent is not asked first");
    let late = held.take();
    late[0].1.allow(&late.iter().map(|(asked, _)| asked.clone()).collect::<Vec<_>>());
    seen.until(|seen| seen.dropped_answers() == [AnswerDrop::Late; 20]).await;
}

#[tokio::test]
async fn a_slow_service_is_waited_for_where_there_is_no_other() {
    let held = Held::default();
    let service = Running::start(held.service()).await;
    let (remote, seen) = remote(&[&service.url], AMPLE).await;
    let c1 = somebody();
    let asked = c1.publishes(&*remote, "a");
    let slow = async {
        service.batches_when(|batches| questions(batches) == 1).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let (asked, answers) = held.take().remove(0);
        answers.allow(&[asked]);
    };
    let (answer, ()) = tokio::join!(asked, slow);
    assert!(allowed(answer));
    assert!(seen.now(|seen| seen.moved().is_empty() && seen.dropped_answers().is_empty()));
}

#[tokio::test]
async fn a_service_that_says_nothing_any_more_is_given_up() {
    let service =
        Running::start(Service { publish: Box::new(|_| Play::Never), ..Held::default().service() }).await;
    let (remote, seen) = remote(&[&service.url], Duration::from_millis(200)).await;
    for _ in 0..5 {
        failed(somebody().publishes(&*remote, "a").await);
    }
    seen.until(|seen| seen.endpoint_changes().len() >= 3).await;
    assert_eq!(service.calls("Hello"), 2, "connected anew");
}

#[tokio::test]
async fn a_client_that_changed_is_introduced_anew_and_forgotten_when_it_goes() {
    let service = Running::start(streaming()).await;
    let (remote, _) = remote(&[&service.url], AMPLE).await;
    let mut c1 = somebody();
    assert!(allowed(c1.publishes(&*remote, "a").await));
    Peer::change(&mut c1.peer).attributes = [("tenant".to_owned(), "acme".to_owned())].into();
    assert!(allowed(c1.publishes(&*remote, "a").await));
    drop(c1);
    let forgets = |batches: &[(usize, DecideRequest)]| {
        batches.iter().flat_map(|(_, batch)| batch.forget.clone()).collect::<Vec<_>>()
    };
    let batches = service.batches_when(|batches| forgets(batches).len() == 2).await;
    assert_eq!(forgets(&batches), [1, 2]);
    let introduced: Vec<_> = batches.iter().flat_map(|(_, batch)| &batch.introduce).collect();
    let tenant =
        |at: usize| introduced[at].client.as_ref().unwrap().attributes.get("tenant").map(String::as_str);
    assert_eq!((introduced.len(), tenant(0), tenant(1)), (2, None, Some("acme")));
}

#[tokio::test]
async fn what_is_open_at_the_service_is_bounded_in_bytes() {
    const PAYLOAD: usize = 100_000;
    let held = Held::default();
    let mut service = held.service();
    for want in &mut service.hello.as_mut().unwrap().wants {
        want.payload_limit = 1 << 20;
    }
    let service = Running::start(service).await;
    let (remote, _) = remote(&[&service.url], AMPLE).await;
    let (c1, payload) = (somebody(), vec![0; PAYLOAD]);
    let asked = join_all((0..40).map(|_| {
        let question = PublishQuestion { payload: Payload::Whole(&payload), ..c1.publish("a") };
        common::heard(remote.publish(&question))
    }));
    let answering = async {
        let mut answered = 0;
        while answered < 40 {
            let some = (40 - answered).min((1 << 20) / (PAYLOAD + 100));
            service.batches_when(|batches| questions(batches) >= answered + some).await;
            let open = held.take();
            assert!(open.len() * PAYLOAD <= 1 << 20, "{} open", open.len());
            answered += open.len();
            open[0].1.allow(&open.iter().map(|(asked, _)| asked.clone()).collect::<Vec<_>>());
        }
    };
    let (answers, ()) = tokio::join!(asked, answering);
    assert!(answers.into_iter().all(allowed));
}

#[tokio::test]
async fn questions_that_were_dropped_leave_room_for_others() {
    let held = Held::default();
    let service = Running::start(held.service()).await;
    let (remote, seen) = started(RemoteConfig { max_in_flight: 4, ..config(&[&service.url], AMPLE) }).await;
    let c1 = somebody();
    for round in 1..=20 {
        let four = join_all((0..4).map(|_| c1.publishes(&*remote, "a")));
        tokio::select! {
            answers = four => panic!("{answers:?}"),
            _ = service.batches_when(|batches| questions(batches) == 4 * round) => {}
        }
    }
    let late = held.take();
    late[0].1.allow(&late.iter().map(|(asked, _)| asked.clone()).collect::<Vec<_>>());
    seen.until(|seen| seen.dropped_answers() == [AnswerDrop::Late; 80]).await;
    let slots: std::collections::HashSet<_> = late.iter().map(|(asked, _)| asked.id & 0xFFFF).collect();
    assert_eq!(slots.len(), 4);
}

/// A handler that fails takes its stream with it; what others asked there is asked again.
#[tokio::test]
async fn a_handler_that_fails_takes_nobody_else_along() {
    let service = Running::start(Service {
        publish: Box::new(|asked| {
            if asked.get_ref().topic == "poison" {
                return Play::Fail(Status::internal("cannot"));
            }
            Play::answer(wire::PublishAllow::default())
        }),
        decide: StreamPlay::Script(Box::new(|request, answers| {
            if request.questions.iter().any(|question| topic(question) == "poison") {
                answers.fail(Status::unknown("exception in handler"));
            } else {
                answers.allow(&request.questions);
            }
        })),
        ..streaming()
    })
    .await;
    let (remote, _) = remote(&[&service.url], AMPLE).await;
    let c1 = somebody();
    let asked = ["a", "b", "poison", "c"].map(|topic| c1.publishes(&*remote, topic));
    let mut answers = join_all(asked).await;
    assert_eq!(failed(answers.remove(2)), FailureKind::Unavailable);
    assert!(answers.into_iter().all(allowed));
}

/// Most of a session's questions are about publishes; what each holds beside its bytes is small.
#[tokio::test]
async fn a_question_on_a_stream_holds_no_more_than_one_of_a_call() {
    let service = Running::start(streaming()).await;
    let (remote, _) = remote(&[&service.url], AMPLE).await;
    let c1 = somebody();
    let Answer::Later(pending) = remote.publish(&c1.publish("a")) else { panic!() };
    let held = size_of_val(&*pending);
    assert!(held <= mproxy_core::budget::QUESTION / 2, "{held}");
}

#[tokio::test]
async fn questions_go_over_a_stream_with_tls_to_who_trusts_our_certificate() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let service = Running::start_tls(authority.issue("localhost"), authority.pem(), streaming()).await;
    let config =
        |tls| RemoteConfig { tls, timeout: Duration::from_secs(2), ..config(&[&service.url], AMPLE) };
    let (remote, seen) = started(config(trusting(&authority, &authority))).await;
    let c1 = somebody();
    let topics: Vec<_> = (0..300).map(|n| n.to_string()).collect();
    let answers = join_all(topics.iter().map(|topic| c1.publishes(&*remote, topic))).await;
    assert!(answers.into_iter().all(allowed));
    let batches = service.batches();
    let asked: Vec<_> = batches.iter().flat_map(|(_, batch)| &batch.questions).map(topic).collect();
    assert_eq!(asked, topics, "in order, and all of them on the stream");
    assert!(batches.len() < 10, "{} messages", batches.len());
    assert_eq!(seen.now(|seen| seen.streams_opened()), 1);

    let strange = [trusting(&stranger, &authority), trusting(&authority, &stranger)];
    for tls in strange {
        let seen = Seen::default();
        let remote = Remote::start(config(tls), Arc::new(seen.clone())).unwrap();
        seen.until_healthy(false).await;
        assert_eq!(failed(c1.publishes(&*remote, "a").await), FailureKind::Unavailable);
        assert_eq!(seen.now(|seen| seen.streams_opened()), 0);
    }
    assert_eq!(questions(&service.batches()), topics.len(), "nothing went to a stranger, or from one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn streams_that_are_replaced_lose_nothing() {
    let service = Running::start(streaming()).await;
    let stream_lifetime = Duration::from_millis(100);
    let (remote, seen) = started(RemoteConfig { stream_lifetime, ..config(&[&service.url], AMPLE) }).await;
    let clients: Vec<_> = (0..8).map(|n| numbered(n, &format!("c{n}"), None)).collect();
    let mut asked = 0;
    while seen.now(|seen| seen.streams_ended(StreamEnd::Recycled)) < 20 {
        let round = clients.iter().map(|client| client.publishes(&*remote, "a"));
        assert!(join_all(round).await.into_iter().all(allowed));
        asked += clients.len();
    }
    let (opened, ended) = seen.now(|seen| (seen.streams_opened(), seen.streams_ended(StreamEnd::Recycled)));
    assert!(opened >= ended, "each is opened before the other one ends: {opened}, {ended}");
    assert!(seen.now(|seen| seen.moved().is_empty() && seen.dropped_answers().is_empty()));
    let batches = service.batches();
    assert_eq!(questions(&batches), asked, "none is asked twice");
    assert_eq!(service.calls("AuthPublish"), asked);
    // Each stream is introduced to whoever asks there, once.
    for stream in 1..=opened {
        let of_stream = || batches.iter().filter(|(on, _)| *on == stream).map(|(_, batch)| batch);
        let introduced: Vec<_> =
            of_stream().flat_map(|batch| &batch.introduce).map(|one| one.client_ref).collect();
        let once: std::collections::HashSet<_> = introduced.iter().collect();
        assert_eq!(once.len(), introduced.len());
    }
}

/// Which clients a stream has introduced, and the topics that each has asked about there, in this order.
fn asked_on(
    stream: usize,
    batches: &[(usize, DecideRequest)],
) -> std::collections::HashMap<String, Vec<String>> {
    let mut clients = std::collections::HashMap::new();
    let mut asked = std::collections::HashMap::<_, Vec<_>>::new();
    for (_, batch) in batches.iter().filter(|(on, _)| *on == stream) {
        for one in &batch.introduce {
            let client_id = one.client.as_ref().unwrap().client_id.clone();
            assert!(!asked.contains_key(&client_id), "{client_id} is introduced twice on {stream}");
            asked.insert(client_id.clone(), Vec::new());
            clients.insert(one.client_ref, client_id);
        }
        for question in &batch.questions {
            asked.get_mut(&clients[&question.client_ref]).unwrap().push(topic(question).to_owned());
        }
    }
    asked
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn several_streams_share_the_clients_and_one_that_fails_leaves_the_others() {
    const STREAMS: usize = 4;
    let service = Running::start(Service {
        decide: StreamPlay::Script(Box::new(|request, answers| {
            // Nothing is answered in this message, and nothing after it on this stream.
            match request.questions.iter().any(|question| topic(question) == "poison") {
                true => answers.fail(Status::unknown("exception in handler")),
                false => answers.allow(&request.questions),
            }
        })),
        publish: Box::new(|_| Play::answer(wire::PublishAllow::default())),
        ..streaming()
    })
    .await;
    let (remote, seen) = remote(&[&service.url], AMPLE).await;
    assert_eq!(seen.now(|seen| seen.streams_opened()), STREAMS);
    let clients: Vec<_> = (0..40).map(|n| numbered(n, &format!("c{n}"), None)).collect();
    // All of them may be open at a time.
    let topics: Vec<_> = (0..25).map(|n| n.to_string()).collect();
    let asked =
        clients.iter().map(|client| join_all(topics.iter().map(|topic| client.publishes(&*remote, topic))));
    for answers in join_all(asked).await {
        assert!(answers.into_iter().all(allowed));
    }
    let batches = service.batches();
    let streams: Vec<_> = (1..=STREAMS).map(|stream| asked_on(stream, &batches)).collect();
    for stream in &streams {
        assert_eq!(stream.len(), clients.len() / STREAMS, "clients are shared evenly");
        assert!(stream.values().all(|asked| *asked == topics), "each in its order");
    }

    // One client poisons its stream, and another one, where the same is asked again, while all the others ask on.
    let poison = clients[0].publishes(&*remote, "poison");
    let asked = clients[1..]
        .iter()
        .map(|client| join_all(topics.iter().map(|topic| client.publishes(&*remote, topic))));
    let (poison, answers) = tokio::join!(poison, join_all(asked));
    assert!(allowed(poison), "by a call, in the end");
    assert!(answers.into_iter().flatten().all(allowed));
    seen.until(|seen| seen.streams_opened() - STREAMS >= seen.streams_ended(StreamEnd::Broken)).await;
    let batches = service.batches();
    let is_poisoned = |stream: usize| {
        let mut of_stream = batches.iter().filter(|(on, _)| *on == stream);
        of_stream.any(|(_, batch)| batch.questions.iter().any(|question| topic(question) == "poison"))
    };
    let sound: Vec<_> = (0..STREAMS).filter(|at| !is_poisoned(at + 1)).collect();
    assert!(sound.len() >= STREAMS - 2, "{sound:?}");
    for at in sound {
        let (before, after) = (&streams[at], asked_on(at + 1, &batches));
        for (client, asked) in before {
            assert_eq!(after[client].len(), 2 * asked.len(), "{client} asks on where it asked before");
            assert_eq!(after[client][asked.len()..], topics, "in its order");
        }
    }
}
