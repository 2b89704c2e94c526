//! What a service is told of the trace that a question belongs to, over each of the three ways, and what whoever makes spans
//! is told of the question.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod common;
mod service;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use allocation_counter::measure;
use common::{client, heard, numbered};
use mproxy_codec::property::{Place, Properties};
use mproxy_codec::reason::ReasonCode;
use mproxy_codec::types::{PacketType, Sender};
use mproxy_core::event::{Event, Happening, Sink as _};
use mproxy_core::peer::ConnectionId;
use mproxy_core::policy::{Answer, Decider, PublishQuestion};
use mproxy_policy::NoWatch;
use mproxy_policy::call_tracer::{
    BatchSpan, BatchStart, CallEnd, CallSpan, CallStart, CallTrace, CallTracer, EventStart,
};
use mproxy_policy::remote::{Remote, RemoteConfig};
use mproxy_policy::shadow::Shadow;
use mproxy_policy::trace_context::TraceContext;
use mproxy_policy::watch::CallOutcome;
use mproxy_testkit::json_service::{JsonPlay, JsonService, allow_all, wants};
use mproxy_testkit::service::contract as wire;
use mproxy_testkit::service::{ObservePlay, Play, Running, Service, wants_everything};
use service::{AMPLE, Seen, config};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// What the service is told in these tests.
fn told() -> TraceContext {
    TraceContext { trace_id: 0xabc, span_id: 0xdef, sampled: true, state: "vendor=1".into() }
}

/// A span that ended: its outcome, its endpoint, the code of a refusal. `None`: it was dropped.
type Ended = Option<(CallOutcome, Option<String>, Option<ReasonCode>)>;

/// How many events of how many sessions, and whether they were confirmed.
type NotedBatch = (usize, usize, Option<bool>);

/// Makes spans that remember how they ended.
#[derive(Clone, Debug, Default)]
struct Notebook {
    begun: Arc<Mutex<Vec<CallStart>>>,
    ended: Arc<Mutex<Vec<Ended>>>,
    /// Events that were told by calls, by the span of their session.
    told: Arc<Mutex<Vec<(&'static str, u64)>>>,
    batches: Arc<Mutex<Vec<NotedBatch>>>,
}

struct NotedSpan(Notebook, bool);

impl CallTracer for Notebook {
    fn begin(&self, call: CallStart) -> CallTrace {
        self.begun.lock().unwrap().push(call);
        self.open()
    }

    fn recorded_session(&self, connection: ConnectionId) -> Option<Arc<TraceContext>> {
        // Those of even numbers are.
        let session = TraceContext { span_id: connection.0 as u64, ..told() };
        session.span_id.is_multiple_of(2).then(|| Arc::new(session))
    }

    fn begin_event(&self, event: EventStart<'_>) -> CallTrace {
        self.told.lock().unwrap().push((event.rpc, event.session.span_id));
        self.open()
    }

    fn begin_batch(&self, batch: &BatchStart<'_>) -> Option<Box<dyn BatchSpan>> {
        let mut batches = self.batches.lock().unwrap();
        batches.push((batch.events, batch.sessions.len(), None));
        Some(Box::new(NotedBatchSpan(self.clone(), batches.len() - 1)))
    }
}

impl Notebook {
    fn open(&self) -> CallTrace {
        CallTrace { context: Some(Arc::new(told())), span: Some(Box::new(NotedSpan(self.clone(), false))) }
    }
}

struct NotedBatchSpan(Notebook, usize);

impl BatchSpan for NotedBatchSpan {
    fn confirm(self: Box<Self>) {
        self.0.batches.lock().unwrap()[self.1].2 = Some(true);
    }
}

impl Drop for NotedBatchSpan {
    fn drop(&mut self) {
        self.0.batches.lock().unwrap()[self.1].2.get_or_insert(false);
    }
}

impl CallSpan for NotedSpan {
    fn end(mut self: Box<Self>, end: &CallEnd<'_>) {
        self.1 = true;
        let ended = (end.outcome, end.endpoint.map(str::to_owned), end.refused);
        self.0.ended.lock().unwrap().push(Some(ended));
    }
}

impl Drop for NotedSpan {
    fn drop(&mut self) {
        if !self.1 {
            self.0.ended.lock().unwrap().push(None);
        }
    }
}

async fn traced(url: &str, timeout: Duration) -> (Arc<Remote>, Notebook) {
    let (seen, notebook) = (Seen::default(), Notebook::default());
    let config = RemoteConfig { tracer: Some(Arc::new(notebook.clone())), ..config(&[url], timeout) };
    let remote = Remote::start(config, Arc::new(seen.clone())).unwrap();
    seen.until_healthy(true).await;
    (remote, notebook)
}

/// The user properties of a packet, as they stand in it.
fn properties(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in pairs {
        bytes.push(0x26);
        for text in [name, value] {
            bytes.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
            bytes.extend(text.as_bytes());
        }
    }
    bytes
}

fn checked(bytes: &[u8]) -> Properties<'_> {
    Properties::check(bytes, Place::Packet(PacketType::Publish), Sender::Client).unwrap()
}

#[tokio::test]
async fn a_call_of_grpc_carries_the_context_in_its_metadata() {
    let heard_of = Arc::new(Mutex::new(Vec::new()));
    let heard_here = Arc::clone(&heard_of);
    let service = Running::start(Service {
        publish: Box::new(move |asked| {
            let text = |name| asked.metadata().get(name).map(|value| value.to_str().unwrap().to_owned());
            heard_here.lock().unwrap().push((text("traceparent"), text("tracestate")));
            Play::answer(wire::Deny { reason_code: 0x99, ..Default::default() })
        }),
        ..Service::default()
    })
    .await;
    let (remote, notebook) = traced(&service.url, AMPLE).await;
    client("c1", None).publishes(&*remote, "a").await.unwrap();
    let expected = (Some(told().traceparent()), Some("vendor=1".to_owned()));
    assert_eq!(*heard_of.lock().unwrap(), [expected]);
    let ended = notebook.ended.lock().unwrap();
    let refused = (CallOutcome::Answered, Some(service.url.clone()), Some(ReasonCode(0x99)));
    assert_eq!(*ended, [Some(refused)]);
}

#[tokio::test]
async fn a_question_on_a_stream_carries_the_context_itself() {
    let hello = wire::HelloResponse { streams: true, ..wants_everything() };
    let service = Running::start(Service { hello: Some(hello), ..Service::default() }).await;
    let (remote, notebook) = traced(&service.url, AMPLE).await;
    // Until the stream is there, questions go by calls.
    while service.batches().is_empty() {
        client("c1", None).publishes(&*remote, "a").await.unwrap();
    }
    let asked = service.batches().remove(0).1.questions.remove(0);
    assert_eq!((asked.traceparent, &*asked.tracestate), (told().traceparent(), "vendor=1"));
    assert!(notebook.begun.lock().unwrap().last().unwrap().streamed);
}

#[tokio::test]
async fn a_post_carries_the_context_in_its_headers() {
    let service = JsonService::start(allow_all).await;
    let (remote, notebook) = traced(&service.url(), AMPLE).await;
    client("c1", None).publishes(&*remote, "a").await.unwrap();
    let request = service.requests("AuthPublish").remove(0);
    assert_eq!(request.header("traceparent"), Some(told().traceparent().as_str()));
    assert_eq!(request.header("tracestate"), Some("vendor=1"));
    let ended = notebook.ended.lock().unwrap().clone();
    assert_eq!(ended, [Some((CallOutcome::Answered, Some(service.url()), None))]);
}

#[tokio::test]
async fn whoever_makes_spans_is_told_of_the_packet_s_context() {
    let service = Running::start(Service::default()).await;
    let (remote, notebook) = traced(&service.url, AMPLE).await;
    let client = client("c1", None);
    for pairs in [&[("traceparent", PARENT), ("tracestate", "a=b")][..], &[("traceparent", "nonsense")], &[]]
    {
        let bytes = properties(pairs);
        let question = PublishQuestion { properties: checked(&bytes), ..client.publish("a") };
        heard(remote.publish(&question)).await.unwrap();
    }
    let begun = notebook.begun.lock().unwrap();
    let context = begun[0].packet.clone().unwrap();
    assert_eq!((context.traceparent().as_str(), &*context.state), (PARENT, "a=b"));
    assert_eq!((begun[0].rpc, begun[0].connection), ("AuthPublish", client.peer.origin.connection_id));
    assert!(begun[1].packet.is_none() && begun[2].packet.is_none());
}

#[tokio::test]
async fn a_question_that_nobody_waits_for_any_more_ends_its_span() {
    let service = Running::start(Service { publish: Box::new(|_| Play::Never), ..Service::default() }).await;
    let (remote, notebook) = traced(&service.url, AMPLE).await;
    let client = client("c1", None);
    let Answer::Later(pending) = remote.publish(&client.publish("a")) else { panic!() };
    drop(pending);
    assert_eq!(*notebook.ended.lock().unwrap(), [None]);
    // And one that is late says so.
    let (remote, notebook) = traced(&service.url, Duration::from_millis(50)).await;
    client.publishes(&*remote, "a").await.unwrap();
    let ended = notebook.ended.lock().unwrap().clone();
    let Some((CallOutcome::Failed(kind), ..)) = &ended[0] else { panic!("{ended:?}") };
    assert_eq!(kind.name(), "deadline");
}

fn connected(connection: u128) -> Event {
    let peer = numbered(connection, &format!("c{connection}"), None).peer;
    Event { peer, what: Happening::Connect { session_present: false }, purse: None }
}

#[tokio::test]
async fn an_event_of_a_session_that_is_recorded_is_told_with_its_context() {
    let service = JsonService::start(|request| match request.call() {
        "Hello" => JsonPlay::Answer(wants(&["CONNECT"])),
        _ => allow_all(request),
    })
    .await;
    let (remote, notebook) = traced(&service.url(), AMPLE).await;
    remote.report(connected(1));
    remote.report(connected(2));
    let requests = service.requests_when("Connect", 2).await;
    let parent_of = |client: &str| {
        let request = requests.iter().find(|request| request.body["client"]["clientId"] == client).unwrap();
        request.header("traceparent").map(str::to_owned)
    };
    assert_eq!((parent_of("c1"), parent_of("c2")), (None, Some(told().traceparent())));
    remote.flush(AMPLE).await;
    assert_eq!(*notebook.told.lock().unwrap(), [("Connect", 2)]);
    let ended = notebook.ended.lock().unwrap().clone();
    assert_eq!(ended, [Some((CallOutcome::Answered, Some(service.url()), None))]);
}

#[tokio::test]
async fn a_batch_with_events_of_recorded_sessions_has_a_span_until_it_is_confirmed() {
    let hello = wire::HelloResponse { streams: true, ..wants_everything() };
    let service =
        || Service { hello: Some(hello.clone()), observe: ObservePlay::Confirm, ..Service::default() };
    let service = Running::start(service()).await;
    let (remote, notebook) = traced(&service.url, AMPLE).await;
    (0..50).for_each(|number| remote.report(connected(2 * number + 1)));
    remote.report(connected(101));
    service.events_when(|told| told.len() == 51).await;
    assert!(notebook.batches.lock().unwrap().is_empty(), "of sessions that are not recorded");
    (1..=100).for_each(|number| remote.report(connected(2 * number)));
    remote.flush(AMPLE).await;
    let batches = notebook.batches.lock().unwrap().clone();
    assert_eq!(batches.iter().map(|(events, ..)| events).sum::<usize>(), 100);
    for (events, sessions, confirmed) in batches {
        assert!((1..=32).contains(&sessions) && sessions <= events, "{sessions} of {events}");
        assert_eq!(confirmed, Some(true));
    }
}

#[tokio::test]
async fn a_batch_that_is_never_confirmed_ends_with_its_stream_and_few_are_open() {
    let hello = wire::HelloResponse { streams: true, ..wants_everything() };
    let observe = ObservePlay::Script(Box::new(|_, _| {}));
    let service = Running::start(Service { hello: Some(hello), observe, ..Service::default() }).await;
    let (remote, notebook) = traced(&service.url, AMPLE).await;
    for number in 1..=100 {
        remote.report(connected(2 * number));
        service.events_when(|told| told.len() as u128 == number).await;
    }
    remote.flush(Duration::ZERO).await;
    let batches = notebook.batches.lock().unwrap().clone();
    assert_eq!(batches, vec![(1, 1, Some(false)); 64]);
}

#[tokio::test]
async fn whoever_makes_spans_is_told_which_questions_are_the_shadow_s() {
    let (service, shadow) =
        (Running::start(Service::default()).await, Running::start(Service::default()).await);
    let (remote, notebook) = traced(&service.url, AMPLE).await;
    let tracer = Some(Arc::new(notebook.clone()) as _);
    let shadow = RemoteConfig { tracer, ..config(&[&shadow.url], AMPLE) };
    let shadow = Shadow::start(shadow, Arc::new(NoWatch)).unwrap();
    client("c1", None).publishes(&*shadow.of_service(remote), "a").await.unwrap();
    let mut begun: Vec<_> =
        notebook.begun.lock().unwrap().iter().map(|call| (call.rpc, call.shadow)).collect();
    begun.sort_unstable();
    assert_eq!(begun, [("AuthPublish", false), ("AuthPublish", true)]);
}

/// Without anybody who makes spans, user properties are not looked at, and nothing is put down for a trace.
#[tokio::test]
async fn a_question_without_traces_costs_what_it_cost_before() {
    let service = Running::start(Service::default()).await;
    let (seen, client) = (Seen::default(), client("c1", None));
    let off = Remote::start(config(&[&service.url], AMPLE), Arc::new(seen.clone())).unwrap();
    let (on, _) = traced(&service.url, AMPLE).await;
    seen.until_healthy(true).await;
    let bytes = properties(&[("traceparent", PARENT)]);
    let cost = |remote: &Remote, properties| {
        let question = PublishQuestion { properties, ..client.publish("a") };
        drop(remote.publish(&question));
        let cost = measure(|| drop(remote.publish(&question)));
        println!("{} allocations, {} bytes", cost.count_total, cost.bytes_total);
        cost.count_total
    };
    let (plain, with_context) = (cost(&off, Properties::EMPTY), cost(&off, checked(&bytes)));
    assert_eq!((plain, with_context), (PLAIN, WITH_PROPERTY), "allocations of a question");
    assert!(cost(&on, checked(&bytes)) > with_context);
}

/// As it was measured before there were traces: a question, and one about a packet with a user property, which is a part of
/// the question.
const PLAIN: u64 = 24;
const WITH_PROPERTY: u64 = 29;
