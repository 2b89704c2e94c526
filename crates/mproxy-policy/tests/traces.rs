//! What a service is told of the trace that a question belongs to, over each of the three ways, and what whoever makes spans
//! is told of the question.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod common;
mod service;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use allocation_counter::measure;
use common::{client, heard};
use mproxy_codec::property::{Place, Properties};
use mproxy_codec::reason::ReasonCode;
use mproxy_codec::types::{PacketType, Sender};
use mproxy_core::policy::{Answer, Decider, PublishQuestion};
use mproxy_policy::call_tracer::{CallEnd, CallSpan, CallStart, CallTrace, CallTracer};
use mproxy_policy::remote::{Remote, RemoteConfig};
use mproxy_policy::trace_context::TraceContext;
use mproxy_policy::watch::CallOutcome;
use mproxy_testkit::json_service::{JsonService, allow_all};
use mproxy_testkit::service::contract as wire;
use mproxy_testkit::service::{Play, Running, Service, wants_everything};
use service::{AMPLE, Seen, config};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// What the service is told in these tests.
fn told() -> TraceContext {
    TraceContext { trace_id: 0xabc, span_id: 0xdef, sampled: true, state: "vendor=1".into() }
}

/// A span that ended: its outcome, its endpoint, the code of a refusal. `None`: it was dropped.
type Ended = Option<(CallOutcome, Option<String>, Option<ReasonCode>)>;

/// Makes spans that remember how they ended.
#[derive(Clone, Debug, Default)]
struct Notebook {
    begun: Arc<Mutex<Vec<CallStart>>>,
    ended: Arc<Mutex<Vec<Ended>>>,
}

struct NotedSpan(Notebook, bool);

impl CallTracer for Notebook {
    fn begin(&self, call: CallStart) -> CallTrace {
        self.begun.lock().unwrap().push(call);
        CallTrace { context: Some(Arc::new(told())), span: Some(Box::new(NotedSpan(self.clone(), false))) }
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
