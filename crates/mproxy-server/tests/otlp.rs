//! OTLP over HTTP, and lines of the log by OTLP over both ways: what a collector receives, and that nobody waits for it.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use mproxy_testkit::black_hole::BlackHole;
use mproxy_testkit::broker::{BrokerScript, RecordingBroker};
use mproxy_testkit::certificates::{Authority, Folder};
use mproxy_testkit::process::free_port;
use mproxy_testkit::transports::tls_server;
use mproxy_testkit::wire::{self, Publish, Version};
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use prost::Message as _;
use support::Proxy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// A log record, and the module that logged it.
type Logged = (String, LogRecord);

/// What a collector has received.
#[derive(Default)]
struct Received {
    spans: Vec<String>,
    logs: Vec<Logged>,
    service: String,
    api_key: Option<String>,
}

impl Received {
    fn take_logs(&mut self, request: ExportLogsServiceRequest) {
        for of_resource in request.resource_logs {
            let attributes = of_resource.resource.unwrap_or_default().attributes;
            self.service = text(&attributes, "service.name");
            for of_scope in of_resource.scope_logs {
                let scope = of_scope.scope.unwrap_or_default().name;
                self.logs.extend(of_scope.log_records.into_iter().map(|record| (scope.clone(), record)));
            }
        }
    }
}

/// A collector inside the test.
struct Collector {
    addr: SocketAddr,
    received: Arc<watch::Sender<Received>>,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

struct Receiving(Arc<watch::Sender<Received>>);

#[tonic::async_trait]
impl LogsService for Receiving {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        self.0.send_modify(|received| received.take_logs(request.into_inner()));
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}

impl Collector {
    async fn over_grpc() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (addr, received) = (listener.local_addr().unwrap(), Arc::new(watch::Sender::default()));
        let service = LogsServiceServer::new(Receiving(Arc::clone(&received)));
        let serving = Server::builder().add_service(service).serve_with_incoming(TcpIncoming::from(listener));
        Self { addr, received, serving: tokio::spawn(async move { serving.await.unwrap() }) }
    }

    async fn over_http(addr: SocketAddr) -> Self {
        let listener = TcpListener::bind(addr).await.unwrap();
        let (addr, received) =
            (listener.local_addr().unwrap(), Arc::new(watch::Sender::<Received>::default()));
        let (traces, logs) = (Arc::clone(&received), Arc::clone(&received));
        let is_protobuf = |headers: &HeaderMap| headers["content-type"] == "application/x-protobuf";
        let traces = move |headers: HeaderMap, body: Bytes| async move {
            if !is_protobuf(&headers) {
                return StatusCode::UNSUPPORTED_MEDIA_TYPE;
            }
            let Ok(request) = ExportTraceServiceRequest::decode(body) else { return StatusCode::BAD_REQUEST };
            traces.send_modify(|received| {
                received.api_key = headers.get("api-key").map(|key| key.to_str().unwrap().to_owned());
                let scopes =
                    request.resource_spans.into_iter().flat_map(|of_resource| of_resource.scope_spans);
                received.spans.extend(scopes.flat_map(|scope| scope.spans).map(|span| span.name));
            });
            StatusCode::OK
        };
        let logs = move |headers: HeaderMap, body: Bytes| async move {
            if !is_protobuf(&headers) {
                return StatusCode::UNSUPPORTED_MEDIA_TYPE;
            }
            let Ok(request) = ExportLogsServiceRequest::decode(body) else { return StatusCode::BAD_REQUEST };
            logs.send_modify(|received| received.take_logs(request));
            StatusCode::OK
        };
        let routes = Router::new().route("/v1/traces", post(traces)).route("/v1/logs", post(logs));
        let serving = axum::serve(listener, routes).into_future();
        Self { addr, received, serving: tokio::spawn(async move { serving.await.unwrap() }) }
    }

    fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    async fn until(&self, enough: impl Fn(&Received) -> bool) {
        let mut changes = self.received.subscribe();
        if timeout(mproxy_testkit::PATIENCE, changes.wait_for(|received| enough(received))).await.is_err() {
            let received = self.received.borrow();
            panic!("received {:?} and {:?}", received.spans, received.logs);
        }
    }

    /// The first record of such a line.
    async fn record(&self, line: &str) -> Logged {
        self.until(|received| received.logs.iter().any(|logged| body(logged) == line)).await;
        self.received.borrow().logs.iter().find(|logged| body(logged) == line).unwrap().clone()
    }
}

const ANYWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

fn shown(value: Option<AnyValue>) -> String {
    match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(truth)) => truth.to_string(),
        _ => String::new(),
    }
}

fn body(logged: &Logged) -> String {
    shown(logged.1.body.clone())
}

fn text(attributes: &[KeyValue], key: &str) -> String {
    shown(attributes.iter().find(|attribute| attribute.key == key).and_then(|found| found.value.clone()))
}

/// A client that comes, says something, and goes.
async fn visit(proxy: &Proxy, client_id: &str) {
    let mut client = proxy.login(Version::V5, client_id).await;
    let message = Publish { topic: "a", payload: b"sesame", qos: 1, packet_id: 1, ..Publish::default() };
    client.send(&wire::publish(Version::V5, &message)).await;
    client.packet().await;
    client.send(&wire::disconnect()).await;
    client.expect_closed().await;
}

#[tokio::test]
async fn traces_and_logs_go_over_http_below_one_endpoint() {
    let collector = Collector::over_http(ANYWHERE).await;
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let url = collector.url();
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=secret%20key"),
        ("OTEL_LOGS_EXPORTER", "otlp"),
        ("OTEL_SERVICE_NAME", "mqtt-edge"),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ("OTEL_BLRP_SCHEDULE_DELAY", "50"),
    ];
    let proxy = Proxy::with(broker.addr(), &variables).await;
    visit(&proxy, "c1").await;
    collector.until(|received| received.spans.iter().any(|name| name == "mqtt session")).await;
    let (scope, record) = collector.record("connection closed").await;
    assert!(scope.starts_with("mproxy_server::serve"), "{scope}");
    assert_eq!(record.severity_text, "DEBUG");
    for (key, value) in [("client_id", "c1"), ("by", "client"), ("cause", "left"), ("reason_code", "0")] {
        assert_eq!(text(&record.attributes, key), value, "{key}: {record:#?}");
    }
    {
        let received = collector.received.borrow();
        assert_eq!(received.api_key.as_deref(), Some("secret key"));
        assert_eq!(received.service, "mqtt-edge");
        let all = format!("{:?}", received.logs);
        assert!(!all.contains("sesame") && !all.contains("secret key"), "{all}");
        assert!(received.logs.iter().all(|(scope, _)| scope.starts_with("mproxy")), "no libraries: {all}");
    }
    let exported = "mproxy_otlp_log_records_exported_total";
    support::until("the count", async || proxy.metric(exported).await > 0.0).await;
    proxy.stop().await;
    // The last ones, too.
    collector.record("drained").await;
}

#[tokio::test]
async fn lines_are_sent_over_grpc_as_loud_as_the_log_is_and_cut_as_in_it() {
    let collector = Collector::over_grpc().await;
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let url = collector.url();
    let variables = [
        ("OTEL_LOGS_EXPORTER", "otlp"),
        ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", url.as_str()),
        ("OTEL_BLRP_SCHEDULE_DELAY", "20"),
        ("MPROXY_LOG_LEVEL", "info"),
    ];
    let proxy = Proxy::with(broker.addr(), &variables).await;
    collector.record("listening").await;
    visit(&proxy, "quiet").await;
    // Its end is told at the level that was in force then.
    let open = "mproxy_connections_open{listener=\"mqtt\"}";
    support::until("it has ended", async || proxy.metric(open).await == 0.0).await;
    let mut admin = TcpStream::connect(proxy.admin).await.unwrap();
    let request = "PUT /api/v1/log-level HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: 18\r\n\r\n{\"level\": \"trace\"}";
    admin.write_all(request.as_bytes()).await.unwrap();
    admin.read_to_end(&mut Vec::new()).await.unwrap();
    collector.record("log level set by an administrator").await;
    let long = "x".repeat(60_000);
    visit(&proxy, &long).await;
    let (_, record) = collector.record("connection closed").await;
    let client_id = text(&record.attributes, "client_id");
    assert!(client_id.len() < 300 && client_id.ends_with('…'), "{} bytes", client_id.len());
    let received = collector.received.borrow();
    assert!(received.logs.iter().all(|(_, record)| text(&record.attributes, "client_id") != "quiet"));
    // At this level there are lines of libraries in the log, among them those that send.
    assert!(received.logs.iter().all(|(scope, _)| scope.starts_with("mproxy")));
    drop(received);
    proxy.stop().await;
}

/// A collector that is not there, or does not answer, is waited for by nobody; what it misses is counted, and told once.
#[tokio::test]
async fn a_collector_of_logs_that_is_down_or_silent_holds_nobody_up() {
    let down = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let real = Collector::over_http(ANYWHERE).await;
    let hole = BlackHole::start(real.addr).await;
    hole.swallow();
    for (url, protocol, words) in [
        (format!("http://{down}"), "grpc", "logs are not taken, dropping them"),
        (format!("http://{down}"), "http/protobuf", "logs are not taken, dropping them"),
        (hole.url(), "grpc", "log queue full, not sending lines"),
        (hole.url(), "http/protobuf", "log queue full, not sending lines"),
    ] {
        let broker = RecordingBroker::start(BrokerScript::default()).await;
        let variables = [
            ("OTEL_LOGS_EXPORTER", "otlp"),
            ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", url.as_str()),
            ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", protocol),
            ("OTEL_BLRP_SCHEDULE_DELAY", "10"),
            ("OTEL_BLRP_MAX_QUEUE_SIZE", "8"),
            ("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "4"),
        ];
        let mut proxy = Proxy::with(broker.addr(), &variables).await;
        for number in 0..20 {
            let begun = Instant::now();
            visit(&proxy, &format!("c{number}")).await;
            assert!(begun.elapsed() < Duration::from_secs(2), "{protocol}: {:?}", begun.elapsed());
        }
        proxy.line(&[words]).await;
        support::until("the count", async || {
            let mut lost = 0.0;
            for reason in ["queue_full", "export_failed"] {
                let name = format!("mproxy_otlp_log_records_lost_total{{reason=\"{reason}\"}}");
                lost += proxy.metric(&name).await;
            }
            lost > 0.0
        })
        .await;
        let begun = Instant::now();
        proxy.signal("TERM").await;
        let ended = proxy.end().await;
        assert_eq!(ended.code(), Some(0), "{:#?}", ended.lines);
        assert!(begun.elapsed() < Duration::from_secs(8), "{protocol}: {:?}", begun.elapsed());
        // What is said of it is not sent, or each failure would bring the next one.
        assert_eq!(ended.lines.iter().filter(|line| line.contains(words)).count(), 1, "{:#?}", ended.lines);
        assert!(ended.has_line("connection closed"), "standard error has it all");
    }
}

#[tokio::test]
async fn a_collector_of_logs_that_comes_back_is_sent_to_again() {
    let place = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let url = format!("http://{place}");
    let variables = [
        ("OTEL_LOGS_EXPORTER", "otlp"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_TRACES_EXPORTER", "none"),
        ("OTEL_BLRP_SCHEDULE_DELAY", "20"),
    ];
    let mut proxy = Proxy::with(broker.addr(), &variables).await;
    visit(&proxy, "early").await;
    proxy.line(&["logs are not taken"]).await;
    let collector = Collector::over_http(place).await;
    visit(&proxy, "late").await;
    proxy.line(&["logs are taken again", "lost="]).await;
    collector.until(|received| !received.logs.is_empty()).await;
    let own = |logged: &Logged| body(logged).starts_with("logs are");
    assert!(!collector.received.borrow().logs.iter().any(own), "what is said of sending is not sent");
    proxy.stop().await;
}

#[tokio::test]
async fn a_collector_is_reached_over_https_with_the_certificates_that_are_named() {
    let (root, folder) = (Authority::root("root"), Folder::default());
    let ca = folder.write("ca.pem", root.pem());
    let (listener, tls) =
        (TcpListener::bind("127.0.0.1:0").await.unwrap(), tls_server(&root.sign("localhost")));
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let variables = [
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", format!("{url}/otlp/v1/traces")),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf".to_owned()),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", ca.display().to_string()),
        ("OTEL_BSP_SCHEDULE_DELAY", "20".to_owned()),
    ];
    let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let proxy = Proxy::with(broker.addr(), &variables).await;
    visit(&proxy, "c1").await;
    let receive = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = tls.accept(stream).await.unwrap();
        let mut head = vec![0; 4096];
        let length = stream.read(&mut head).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        String::from_utf8_lossy(&head[..length]).into_owned()
    };
    let head = timeout(mproxy_testkit::PATIENCE, receive).await.unwrap();
    assert!(head.starts_with("POST /otlp/v1/traces HTTP/1.1\r\n"), "{head}");
    support::until("the count", async || proxy.metric("mproxy_trace_spans_exported_total").await > 0.0).await;
    proxy.stop().await;
}
