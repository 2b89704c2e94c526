//! Traces, as a collector receives them: which spans there are, what is above what, what the hook service is told; and that
//! nobody waits for a collector that is not there.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mproxy_testkit::black_hole::BlackHole;
use mproxy_testkit::broker::{BrokerScript, RecordingBroker};
use mproxy_testkit::certificates::Folder;
use mproxy_testkit::hook::MproxyProcess;
use mproxy_testkit::process::free_port;
use mproxy_testkit::service::contract::{Deny, HelloResponse};
use mproxy_testkit::service::{Play, Running, Service, wants_everything};
use mproxy_testkit::wire::{self, ConnectOptions, Publish, Version};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use support::Proxy;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const UNSAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

/// What a collector has received.
#[derive(Default)]
struct Received {
    spans: Vec<Span>,
    resource: Vec<KeyValue>,
    api_key: Option<String>,
}

/// A collector inside the test.
struct Collector {
    addr: SocketAddr,
    received: Arc<watch::Sender<Received>>,
    serving: tokio::task::JoinHandle<()>,
}

struct Receiving(Arc<watch::Sender<Received>>);

#[tonic::async_trait]
impl TraceService for Receiving {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let api_key = request.metadata().get("api-key").map(|key| key.to_str().unwrap().to_owned());
        self.0.send_modify(|received| {
            received.api_key = api_key;
            for of_resource in request.into_inner().resource_spans {
                received.resource = of_resource.resource.unwrap_or_default().attributes;
                received.spans.extend(of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
            }
        });
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start() -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), Server::builder()).await
    }

    async fn start_at(addr: SocketAddr, mut server: Server) -> Self {
        let listener = TcpListener::bind(addr).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let received = Arc::new(watch::Sender::new(Received::default()));
        let service = TraceServiceServer::new(Receiving(Arc::clone(&received)));
        let serving = server.add_service(service).serve_with_incoming(TcpIncoming::from(listener));
        let serving = tokio::spawn(async move { serving.await.unwrap() });
        Self { addr, received, serving }
    }

    fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// All spans, once they are so many as is wanted of each name.
    async fn spans(&self, wanted: &[(&str, usize)]) -> Vec<Span> {
        let enough = |received: &Received| {
            wanted.iter().all(|(name, count)| {
                received.spans.iter().filter(|span| span.name == *name).count() >= *count
            })
        };
        let mut changes = self.received.subscribe();
        let waited = timeout(mproxy_testkit::PATIENCE, changes.wait_for(enough)).await;
        if waited.is_err() {
            let names: Vec<_> = self.received.borrow().spans.iter().map(|span| span.name.clone()).collect();
            panic!("wanted {wanted:?}, received {names:?}");
        }
        self.received.borrow().spans.clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn text(attributes: &[KeyValue], key: &str) -> String {
    let value =
        attributes.iter().find(|attribute| attribute.key == key).and_then(|found| found.value.clone());
    match value {
        Some(AnyValue { value: Some(Value::StringValue(text)) }) => text,
        Some(AnyValue { value: Some(Value::IntValue(number)) }) => number.to_string(),
        Some(AnyValue { value: Some(Value::BoolValue(truth)) }) => truth.to_string(),
        _ => String::new(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// As the hook service should have been told of it.
fn traceparent(span: &Span) -> String {
    format!("00-{}-{}-01", hex(&span.trace_id), hex(&span.span_id))
}

fn named<'a>(spans: &'a [Span], name: &str) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.name == name).collect()
}

/// User properties, as they stand in a packet.
fn user_properties(pairs: &[(&str, &str)]) -> Vec<u8> {
    pairs
        .iter()
        .flat_map(|(name, value)| [vec![0x26], wire::string(*name), wire::string(*value)].concat())
        .collect()
}

/// A hook service that remembers which `traceparent` each question came with, and refuses the topic `no`.
fn remembering(told: &Arc<Mutex<Vec<(&'static str, String)>>>, hello: HelloResponse) -> Service {
    fn note<T>(told: &Mutex<Vec<(&'static str, String)>>, rpc: &'static str, asked: &Request<T>) {
        let parent = asked.metadata().get("traceparent").map(|value| value.to_str().unwrap().to_owned());
        told.lock().unwrap().push((rpc, parent.unwrap_or_default()));
    }
    let allowing = Service::default();
    let (connects, publishes, subscribes) = (Arc::clone(told), Arc::clone(told), Arc::clone(told));
    Service {
        hello: Some(hello),
        connect: Box::new(move |asked| {
            note(&connects, "AuthConnect", asked);
            (allowing.connect)(asked)
        }),
        publish: Box::new(move |asked| {
            note(&publishes, "AuthPublish", asked);
            match asked.get_ref().topic.as_str() {
                "no" => Play::answer(Deny { reason_code: 0x99, ..Deny::default() }),
                _ => (allowing.publish)(asked),
            }
        }),
        subscribe: Box::new(move |asked| {
            note(&subscribes, "AuthSubscribe", asked);
            (allowing.subscribe)(asked)
        }),
        ..Service::default()
    }
}

fn publish(topic: &str, packet_id: u16, properties: &[u8]) -> Vec<u8> {
    wire::publish(
        Version::V5,
        &Publish { topic, payload: b"x", qos: 1, packet_id, properties, ..Publish::default() },
    )
}

/// Says CONNECT, publishes three times, subscribes, and leaves.
async fn play(proxy: &Proxy, properties: &[u8]) -> SocketAddr {
    let options = ConnectOptions { username: Some("ann"), properties, ..ConnectOptions::default() };
    let (mut client, _) = proxy.connect(Version::V5, "c1", &options).await;
    for (packet_id, topic) in [(1, "a/b"), (2, "no")] {
        client.send(&publish(topic, packet_id, &[])).await;
        client.packet().await;
    }
    client
        .send(&publish("a/b", 3, &user_properties(&[("traceparent", PARENT), ("tracestate", "v=1")])))
        .await;
    client.packet().await;
    client.send(&wire::subscribe(Version::V5, 4, &[("x/#", 0)])).await;
    client.packet().await;
    client.send(&wire::disconnect()).await;
    client.expect_closed().await;
    client.local_addr()
}

#[tokio::test]
async fn a_session_is_a_span_and_its_questions_are_below_it() {
    let (collector, told) = (Collector::start().await, Arc::default());
    let service = Running::start(remembering(&told, wants_everything())).await;
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let url = collector.url();
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=secret%20key"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test"),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ("MPROXY_INSTANCE", "edge-7"),
        // Spans are no lines: whether there are any does not depend on how loud the log is.
        ("MPROXY_LOG_LEVEL", "info"),
    ];
    let proxy = Proxy::asking(&service, broker.addr(), &variables).await;
    let from = play(&proxy, &[]).await;
    let spans = collector
        .spans(&[
            ("mqtt session", 1),
            ("mproxy.v1.Hooks/AuthConnect", 1),
            ("mproxy.v1.Hooks/AuthPublish", 3),
            ("mproxy.v1.Hooks/AuthSubscribe", 1),
            ("mproxy.v1.Hooks/Connect", 1),
            ("mproxy.v1.Hooks/Publish", 2),
            ("mproxy.v1.Hooks/Subscribe", 1),
            ("mproxy.v1.Hooks/Disconnect", 1),
        ])
        .await;
    assert_eq!(spans.len(), 11, "and no others: {spans:#?}");
    let session = named(&spans, "mqtt session")[0];
    assert!(session.parent_span_id.is_empty());
    assert_eq!(session.kind(), SpanKind::Server);
    for (key, value) in [
        ("messaging.client.id", "c1"),
        ("network.protocol.version", "5.0"),
        ("network.transport", "tcp"),
        ("network.peer.address", "127.0.0.1"),
        ("network.peer.port", &from.port().to_string()),
        ("mproxy.listener", "mqtt"),
        ("mproxy.by", "client"),
        ("mproxy.cause", "left"),
    ] {
        assert_eq!(text(&session.attributes, key), value, "{key}: {session:#?}");
    }
    let everything = format!("{spans:?}");
    assert!(!everything.contains("ann") && !everything.contains("a/b"), "nobody's name, and no topic");
    let told = told.lock().unwrap().clone();
    let mut parents: Vec<_> = Vec::new();
    let (questions, events): (Vec<_>, Vec<_>) =
        spans.iter().filter(|span| span.name != "mqtt session").partition(|span| span.name.contains("/Auth"));
    for event in events {
        // Also the last one, which is told when the session has ended.
        assert_eq!((&event.parent_span_id, &event.trace_id), (&session.span_id, &session.trace_id));
        assert_eq!(text(&event.attributes, "mproxy.outcome"), "answered");
        assert_eq!(text(&event.attributes, "mproxy.decision"), "", "nothing is decided");
    }
    for span in questions {
        let rpc = text(&span.attributes, "rpc.method");
        parents.push((span.name.rsplit_once('/').unwrap().1.to_owned(), traceparent(span)));
        assert_eq!(span.kind(), SpanKind::Client);
        assert_eq!(text(&span.attributes, "rpc.system"), "grpc");
        assert_eq!(text(&span.attributes, "server.address"), "127.0.0.1");
        assert_eq!(text(&span.attributes, "server.port"), service.address().port().to_string());
        assert_eq!(text(&span.attributes, "mproxy.outcome"), "answered", "{rpc}");
        let of_packet = hex(&span.parent_span_id) == "b7ad6b7169203331";
        if of_packet {
            assert_eq!(
                (hex(&span.trace_id).as_str(), &*span.trace_state),
                ("0af7651916cd43dd8448eb211c80319c", "v=1")
            );
            assert_eq!(
                (&span.links[0].trace_id, &span.links[0].span_id),
                (&session.trace_id, &session.span_id)
            );
        } else {
            assert_eq!(
                (&span.parent_span_id, &span.trace_id),
                (&session.span_id, &session.trace_id),
                "{rpc}"
            );
        }
    }
    let of_packets = spans.iter().filter(|span| hex(&span.parent_span_id) == "b7ad6b7169203331").count();
    assert_eq!(of_packets, 1);
    let refused = spans.iter().filter(|span| text(&span.attributes, "mproxy.decision") == "refuse");
    let refused: Vec<_> = refused.map(|span| text(&span.attributes, "mproxy.reason_code")).collect();
    assert_eq!(refused, ["153"]);
    // What the service was told are these very spans.
    let mut told: Vec<_> = told.into_iter().map(|(rpc, parent)| (rpc.to_owned(), parent)).collect();
    told.sort_unstable();
    parents.sort_unstable();
    assert_eq!(told, parents);
    {
        let received = collector.received.borrow();
        assert_eq!(received.api_key.as_deref(), Some("secret key"));
        for (key, value) in [
            ("service.name", "mproxy"),
            ("service.instance.id", "edge-7"),
            ("service.version", env!("CARGO_PKG_VERSION")),
            ("deployment.environment.name", "test"),
        ] {
            assert_eq!(text(&received.resource, key), value);
        }
    }
    support::until("the count", async || proxy.metric("mproxy_trace_spans_exported_total").await >= 11.0)
        .await;
    proxy.stop().await;
}

#[tokio::test]
async fn a_question_on_a_stream_has_a_span_and_tells_of_it() {
    let collector = Collector::start().await;
    let hello = HelloResponse { streams: true, ..wants_everything() };
    let service = Running::start(Service { hello: Some(hello), ..Service::default() }).await;
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let url = collector.url();
    let variables = [("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", url.as_str()), ("OTEL_BSP_SCHEDULE_DELAY", "50")];
    let proxy = Proxy::asking(&service, broker.addr(), &variables).await;
    // Questions go by calls until the stream is there.
    while service.batches().is_empty() {
        play(&proxy, &[]).await;
    }
    play(&proxy, &[]).await;
    proxy.stop().await;
    let spans = collector.spans(&[("mqtt session", 2), ("mproxy.v1.HookStream/Observe", 1)]).await;
    for batch in named(&spans, "mproxy.v1.HookStream/Observe") {
        let of = named(&spans, "mqtt session").into_iter().find(|of| of.span_id == batch.parent_span_id);
        assert_eq!(of.map(|of| &of.trace_id), Some(&batch.trace_id), "{batch:#?}");
        assert_eq!(text(&batch.attributes, "mproxy.outcome"), "confirmed");
        assert_eq!(text(&batch.attributes, "server.port"), service.address().port().to_string());
    }
    let sent: Vec<String> = spans.iter().map(traceparent).collect();
    let questions: Vec<_> = service.batches().into_iter().flat_map(|(_, batch)| batch.questions).collect();
    assert!(!questions.is_empty());
    for question in questions {
        assert!(sent.contains(&question.traceparent), "{question:?}");
        assert_eq!(question.tracestate, if question.traceparent.contains("0af76519") { "v=1" } else { "" });
    }
}

#[tokio::test]
async fn a_question_to_the_shadow_has_a_span_beside_the_other_one() {
    let (collector, told) = (Collector::start().await, Arc::default());
    let service = Running::start(Service::default()).await;
    let shadow = Running::start(remembering(&told, wants_everything())).await;
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let url = collector.url();
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ("MPROXY_SHADOW_URL", shadow.url.as_str()),
    ];
    let proxy = Proxy::asking(&service, broker.addr(), &variables).await;
    drop(proxy.login(Version::V5, "c1").await);
    let spans = collector.spans(&[("mqtt session", 1), ("mproxy.v1.Hooks/AuthConnect", 2)]).await;
    let session = named(&spans, "mqtt session")[0];
    let asked = named(&spans, "mproxy.v1.Hooks/AuthConnect");
    assert!(asked.iter().all(|span| span.parent_span_id == session.span_id), "{spans:#?}");
    let of_shadow = asked.into_iter().find(|span| text(&span.attributes, "mproxy.shadow") == "true").unwrap();
    assert_eq!(text(&of_shadow.attributes, "server.port"), shadow.address().port().to_string());
    assert_eq!(told.lock().unwrap().clone(), [("AuthConnect", traceparent(of_shadow))]);
    proxy.stop().await;
}

#[tokio::test]
async fn who_is_above_decides_whether_a_span_is_sampled() {
    let (collector, told) = (Collector::start().await, Arc::default());
    let service = Running::start(remembering(&told, wants_everything())).await;
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let url = collector.url();
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()),
        ("OTEL_TRACES_SAMPLER", "parentbased_always_off"),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
    ];
    let proxy = Proxy::asking(&service, broker.addr(), &variables).await;
    play(&proxy, &user_properties(&[("traceparent", UNSAMPLED)])).await;
    proxy.stop().await;
    // Of all that, one packet belonged to a trace that is sampled.
    let spans = collector.spans(&[("mproxy.v1.Hooks/AuthPublish", 1)]).await;
    assert_eq!(spans.len(), 1, "{spans:#?}");
    assert_eq!(hex(&spans[0].parent_span_id), "b7ad6b7169203331");
    let told = told.lock().unwrap();
    assert_eq!(told[0], ("AuthConnect", UNSAMPLED.to_owned()), "and the others are told what is not");
    assert_eq!(told.iter().filter(|(_, parent)| parent.ends_with("-01")).count(), 1);
    assert!(told.iter().all(|(_, parent)| parent.len() == 55), "{told:?}");
}

#[tokio::test]
async fn the_last_spans_are_sent_before_the_end() {
    let collector = Collector::start().await;
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let url = collector.url();
    // Nothing would leave by itself.
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()), ("OTEL_BSP_SCHEDULE_DELAY", "3600000")];
    let proxy = Proxy::with(broker.addr(), &variables).await;
    let client = proxy.login(Version::V311, "c1").await;
    proxy.stop().await;
    drop(client);
    let spans = collector.spans(&[("mqtt session", 1)]).await;
    assert_eq!(text(&spans[0].attributes, "mproxy.by"), "mproxy", "{spans:#?}");
    assert_eq!(text(&spans[0].attributes, "network.protocol.version"), "3.1.1");
}

/// A collector that is not there, or does not answer, is waited for by nobody; what it misses is counted, and told once.
#[tokio::test]
async fn a_collector_that_is_down_or_silent_holds_nobody_up() {
    let down = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let real = Collector::start().await;
    let hole = BlackHole::start(real.addr).await;
    hole.swallow();
    for (url, words) in [
        (format!("http://{down}"), "traces are not taken, dropping them"),
        (hole.url(), "trace queue full, dropping spans"),
    ] {
        let broker = RecordingBroker::start(BrokerScript::default()).await;
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()),
            ("OTEL_BSP_SCHEDULE_DELAY", "10"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "8"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4"),
        ];
        let mut proxy = Proxy::with(broker.addr(), &variables).await;
        for number in 0..40 {
            let begun = Instant::now();
            let mut client = proxy.login(Version::V5, &format!("c{number}")).await;
            client.send(&publish("a", 1, &[])).await;
            client.packet().await;
            client.send(&wire::disconnect()).await;
            client.expect_closed().await;
            assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        }
        proxy.line(&[words]).await;
        support::until("the count", async || {
            let mut lost = 0.0;
            for reason in ["queue_full", "export_failed"] {
                lost += proxy.metric(&format!("mproxy_trace_spans_lost_total{{reason=\"{reason}\"}}")).await;
            }
            lost > 0.0
        })
        .await;
        let begun = Instant::now();
        proxy.signal("TERM").await;
        let ended = proxy.end().await;
        assert_eq!(ended.code(), Some(0), "{:#?}", ended.lines);
        // Two seconds for the last spans, and as many for the rest.
        assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
        assert_eq!(ended.lines.iter().filter(|line| line.contains(words)).count(), 1, "{:#?}", ended.lines);
    }
}

#[tokio::test]
async fn a_collector_that_comes_back_is_sent_to_again() {
    let place = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let url = format!("http://{place}");
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()), ("OTEL_BSP_SCHEDULE_DELAY", "50")];
    let mut proxy = Proxy::with(broker.addr(), &variables).await;
    drop(proxy.login(Version::V5, "early").await);
    proxy.line(&["traces are not taken"]).await;
    let collector = Collector::start_at(place, Server::builder()).await;
    drop(proxy.login(Version::V5, "late").await);
    proxy.line(&["traces are taken again", "lost="]).await;
    let spans = collector.spans(&[("mqtt session", 1)]).await;
    assert_eq!(text(&spans[0].attributes, "messaging.client.id"), "late");
    proxy.stop().await;
}

#[tokio::test]
async fn a_collector_is_reached_over_tls_with_the_certificates_that_are_named() {
    let folder = Folder::default();
    let authority = rcgen_authority();
    let (chain, key) = authority.1;
    let tls = ServerTlsConfig::new().identity(Identity::from_pem(chain, key));
    let collector =
        Collector::start_at(([127, 0, 0, 1], 0).into(), Server::builder().tls_config(tls).unwrap()).await;
    let ca = folder.write("ca.pem", authority.0);
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let url = format!("https://localhost:{}", collector.addr.port());
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", ca.to_str().unwrap()),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
    ];
    let proxy = Proxy::with(broker.addr(), &variables).await;
    drop(proxy.login(Version::V5, "c1").await);
    collector.spans(&[("mqtt session", 1)]).await;
    proxy.stop().await;
    // And a file that cannot be used is a fault of the configuration.
    let broken = folder.write("broken.pem", "nothing");
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", broken.to_str().unwrap()),
    ];
    let ended = MproxyProcess::run(&variables, &[]).await;
    assert_eq!(ended.code(), Some(2), "{:#?}", ended.lines);
    assert!(ended.has_line("OTEL_EXPORTER_OTLP_CERTIFICATE"), "{:#?}", ended.lines);
}

/// The certificate of an authority, and one of `localhost` that it signed, with its key.
fn rcgen_authority() -> (String, (String, String)) {
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    (authority.pem(), (certificate.pem(), key.serialize_pem()))
}

/// Where no collector is named, nothing of it is there.
#[tokio::test]
async fn without_an_endpoint_the_service_is_told_of_no_trace() {
    let told = Arc::default();
    let service = Running::start(remembering(&told, wants_everything())).await;
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let proxy = Proxy::asking(&service, broker.addr(), &[("OTEL_SERVICE_NAME", "mqtt")]).await;
    play(&proxy, &[]).await;
    assert!(told.lock().unwrap().iter().all(|(_, parent)| parent.is_empty()));
    proxy.stop().await;
}
