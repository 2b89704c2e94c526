//! Hook services to be played, and a watch that remembers what it saw.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use mproxy_core::event::Kind;
use mproxy_policy::watch::{CallOutcome, Dropped, Watch};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

#[allow(unreachable_pub, unused_qualifications, missing_docs, dead_code, clippy::all, reason = "generated")]
pub(crate) mod wire {
    include!(concat!(env!("OUT_DIR"), "/service/mproxy.v1.rs"));
}

use wire::hooks_server::{Hooks, HooksServer};

const PATIENCE: Duration = Duration::from_secs(20);

/// What a service does with a call.
pub(crate) enum Play<T> {
    Answer(T),
    Fail(Status),
    Never,
}

type Script<Q, A> = Box<dyn Fn(&Request<Q>) -> Play<A> + Send + Sync>;

/// A service and what it does. By default it allows everything and wants everything.
pub(crate) struct Service {
    /// `None`: UNIMPLEMENTED.
    pub(crate) hello: Option<wire::HelloResponse>,
    pub(crate) connect: Script<wire::AuthConnectRequest, wire::AuthConnectResponse>,
    pub(crate) publish: Script<wire::AuthPublishRequest, wire::AuthPublishResponse>,
    pub(crate) subscribe: Script<wire::AuthSubscribeRequest, wire::AuthSubscribeResponse>,
    pub(crate) tell: Box<dyn Fn() -> Play<wire::Told> + Send + Sync>,
}

impl Default for Service {
    fn default() -> Self {
        Self {
            hello: Some(wire::HelloResponse::default()),
            connect: Box::new(|_| {
                let verdict = Some(wire::auth_connect_response::Verdict::Allow(Default::default()));
                Play::Answer(wire::AuthConnectResponse { verdict })
            }),
            publish: Box::new(|_| Play::Answer(allow_publish())),
            subscribe: Box::new(|asked| {
                let allow = || Some(wire::filter_verdict::Verdict::Allow(Default::default()));
                let verdicts = asked.get_ref().filters.iter();
                let verdicts = verdicts.map(|_| wire::FilterVerdict { verdict: allow() }).collect();
                Play::Answer(wire::AuthSubscribeResponse { verdicts })
            }),
            tell: Box::new(|| Play::Answer(wire::Told {})),
        }
    }
}

pub(crate) fn allow_publish() -> wire::AuthPublishResponse {
    let verdict = Some(wire::auth_publish_response::Verdict::Allow(Default::default()));
    wire::AuthPublishResponse { verdict }
}

/// An event that the service was told.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) client_id: String,
    pub(crate) epoch: u64,
    pub(crate) sequence: u64,
    /// `"connect"`, `"disconnect"`, or the topic of a publish.
    pub(crate) what: String,
}

#[derive(Default)]
struct Log {
    calls: Vec<&'static str>,
    told: Vec<Told>,
}

struct Player {
    service: Service,
    log: watch::Sender<Log>,
}

impl Player {
    async fn play<T>(&self, rpc: &'static str, play: Play<T>) -> Result<Response<T>, Status> {
        self.log.send_modify(|log| log.calls.push(rpc));
        match play {
            Play::Answer(answer) => Ok(Response::new(answer)),
            Play::Fail(status) => Err(status),
            Play::Never => std::future::pending().await,
        }
    }

    async fn told(
        &self,
        rpc: &'static str,
        client: Option<wire::Client>,
        sequence: u64,
        what: &str,
    ) -> Result<Response<wire::Told>, Status> {
        let client = client.unwrap();
        let (client_id, epoch) = (client.client_id, client.epoch);
        let told = Told { client_id, epoch, sequence, what: what.to_owned() };
        self.log.send_modify(|log| log.told.push(told));
        self.play(rpc, (self.service.tell)()).await
    }
}

#[tonic::async_trait]
impl Hooks for Player {
    async fn hello(&self, _: Request<wire::HelloRequest>) -> Result<Response<wire::HelloResponse>, Status> {
        let none = || Play::Fail(Status::unimplemented("no Hello here"));
        self.play("Hello", self.service.hello.clone().map_or_else(none, Play::Answer)).await
    }

    async fn auth_connect(
        &self,
        request: Request<wire::AuthConnectRequest>,
    ) -> Result<Response<wire::AuthConnectResponse>, Status> {
        self.play("AuthConnect", (self.service.connect)(&request)).await
    }

    async fn auth_publish(
        &self,
        request: Request<wire::AuthPublishRequest>,
    ) -> Result<Response<wire::AuthPublishResponse>, Status> {
        self.play("AuthPublish", (self.service.publish)(&request)).await
    }

    async fn auth_subscribe(
        &self,
        request: Request<wire::AuthSubscribeRequest>,
    ) -> Result<Response<wire::AuthSubscribeResponse>, Status> {
        self.play("AuthSubscribe", (self.service.subscribe)(&request)).await
    }

    async fn connect(&self, event: Request<wire::ConnectEvent>) -> Result<Response<wire::Told>, Status> {
        let event = event.into_inner();
        self.told("Connect", event.client, event.sequence, "connect").await
    }

    async fn publish(&self, event: Request<wire::PublishEvent>) -> Result<Response<wire::Told>, Status> {
        let event = event.into_inner();
        self.told("Publish", event.client, event.sequence, &event.topic).await
    }

    async fn disconnect(
        &self,
        event: Request<wire::DisconnectEvent>,
    ) -> Result<Response<wire::Told>, Status> {
        let event = event.into_inner();
        self.told("Disconnect", event.client, event.sequence, "disconnect").await
    }
}

/// Answers every call with bytes that are no protobuf; Hello with UNIMPLEMENTED.
#[derive(Clone)]
struct Garbage;

impl NamedService for Garbage {
    const NAME: &'static str = "mproxy.v1.Hooks";
}

impl tower::Service<http::Request<Body>> for Garbage {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let hello = request.uri().path().ends_with("/Hello");
        let (code, message) = if hello { ("12", &b""[..]) } else { ("0", &b"\0\0\0\0\x03\xff\xff\xff"[..]) };
        let trailers = http::HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            http::HeaderValue::from_static(code),
        )]);
        let body = Full::new(Bytes::from_static(message)).with_trailers(async { Some(Ok(trailers)) });
        let response = http::Response::builder().header("content-type", "application/grpc");
        std::future::ready(Ok(response.body(Body::new(body)).unwrap()))
    }
}

/// A service that runs in a thread of its own, so that it can be killed with all its connections.
pub(crate) struct Running {
    pub(crate) url: String,
    address: Option<SocketAddr>,
    log: watch::Receiver<Log>,
    stop: Mutex<Option<oneshot::Sender<()>>>,
    runtime: Mutex<Option<tokio::runtime::Runtime>>,
    ended: Mutex<Option<oneshot::Receiver<()>>>,
}

enum Listener {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

impl Running {
    pub(crate) async fn start(service: Service) -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), service).await
    }

    pub(crate) async fn start_at(address: SocketAddr, service: Service) -> Self {
        let listener = TcpListener::bind(address).await.unwrap().into_std().unwrap();
        let address = listener.local_addr().unwrap();
        let url = format!("http://{address}");
        Self::play(url, Some(address), Listener::Tcp(listener), Some(service))
    }

    pub(crate) async fn start_unix(path: &Path, service: Service) -> Self {
        let listener = UnixListener::bind(path).unwrap().into_std().unwrap();
        Self::play(format!("unix:{}", path.display()), None, Listener::Unix(listener), Some(service))
    }

    pub(crate) async fn garbage() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap().into_std().unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        Self::play(url, None, Listener::Tcp(listener), None)
    }

    /// A service behind TLS that asks for a certificate of the same authority.
    pub(crate) async fn start_tls(authority: &Authority, service: Service) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap().into_std().unwrap();
        let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let (chain, key) = authority.issue("localhost");
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(chain, key))
            .client_ca_root(Certificate::from_pem(authority.pem()));
        Self::play_behind(Some(tls), url, None, Listener::Tcp(listener), Some(service))
    }

    fn play(url: String, address: Option<SocketAddr>, listener: Listener, service: Option<Service>) -> Self {
        Self::play_behind(None, url, address, listener, service)
    }

    fn play_behind(
        tls: Option<ServerTlsConfig>,
        url: String,
        address: Option<SocketAddr>,
        listener: Listener,
        service: Option<Service>,
    ) -> Self {
        let (log, seen) = watch::channel(Log::default());
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.spawn(async move {
            let mut server = Server::builder();
            if let Some(tls) = tls {
                server = server.tls_config(tls).unwrap();
            }
            let router = match service {
                Some(service) => server.add_service(HooksServer::new(Player { service, log })),
                None => server.add_service(Garbage),
            };
            let stopped = async { drop(stopped.await) };
            match listener {
                Listener::Tcp(listener) => {
                    let incoming = TcpListenerStream::new(TcpListener::from_std(listener).unwrap());
                    router.serve_with_incoming_shutdown(incoming, stopped).await.unwrap();
                }
                Listener::Unix(listener) => {
                    let incoming = UnixListenerStream::new(UnixListener::from_std(listener).unwrap());
                    router.serve_with_incoming_shutdown(incoming, stopped).await.unwrap();
                }
            }
            let _ = end.send(());
        });
        Self {
            url,
            address,
            log: seen,
            stop: Mutex::new(Some(stop)),
            runtime: Mutex::new(Some(runtime)),
            ended: Mutex::new(Some(ended)),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address.unwrap()
    }

    pub(crate) fn calls(&self, rpc: &str) -> usize {
        self.log.borrow().calls.iter().filter(|call| **call == rpc).count()
    }

    pub(crate) fn told(&self) -> Vec<Told> {
        self.log.borrow().told.clone()
    }

    pub(crate) async fn until_called(&self, rpc: &str) {
        let called = |log: &Log| log.calls.contains(&rpc);
        timeout(PATIENCE, self.log.clone().wait_for(called)).await.expect("was not called").unwrap();
    }

    /// Ends in order: no new calls, the open ones are answered.
    pub(crate) async fn stop(&self) {
        drop(self.stop.lock().unwrap().take());
        let ended = self.ended.lock().unwrap().take().unwrap();
        timeout(PATIENCE, ended).await.expect("does not end").unwrap();
    }

    /// Ends at once, connections and all.
    pub(crate) fn kill(&self) {
        self.runtime.lock().unwrap().take().unwrap().shutdown_background();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.lock().unwrap().take() {
            runtime.shutdown_background();
        }
    }
}

/// A certificate authority for one test.
pub(crate) struct Authority(rcgen::CertifiedIssuer<'static, rcgen::KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        Self(rcgen::CertifiedIssuer::self_signed(params, key).unwrap())
    }

    pub(crate) fn pem(&self) -> Vec<u8> {
        self.0.pem().into_bytes()
    }

    /// A certificate and its key.
    pub(crate) fn issue(&self, name: &str) -> (Vec<u8>, Vec<u8>) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem().into_bytes(), key.serialize_pem().into_bytes())
    }
}

/// An address at which nobody listens.
pub(crate) fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A watch that remembers.
#[derive(Clone, Default)]
pub(crate) struct Seen(Arc<watch::Sender<Record>>);

#[derive(Default)]
pub(crate) struct Record {
    calls: Vec<(&'static str, CallOutcome)>,
    dropped: Vec<(Kind, Dropped)>,
    endpoints: Vec<(String, bool)>,
}

impl Record {
    pub(crate) fn endpoint_changes(&self) -> &[(String, bool)] {
        &self.endpoints
    }

    /// Endpoints whose last word was "healthy".
    pub(crate) fn healthy_now(&self) -> usize {
        let mut last = std::collections::HashMap::new();
        last.extend(self.endpoints.iter().map(|(url, healthy)| (url, *healthy)));
        last.values().filter(|healthy| **healthy).count()
    }
}

impl Seen {
    pub(crate) fn calls(&self, rpc: &str) -> Vec<CallOutcome> {
        let calls = &self.0.borrow().calls;
        calls.iter().filter(|(name, _)| *name == rpc).map(|(_, outcome)| *outcome).collect()
    }

    pub(crate) fn dropped(&self, kind: Kind, why: Dropped) -> usize {
        self.0.borrow().dropped.iter().filter(|dropped| **dropped == (kind, why)).count()
    }

    pub(crate) async fn until(&self, mut seen: impl FnMut(&Record) -> bool) {
        let mut changes = self.0.subscribe();
        timeout(PATIENCE, changes.wait_for(|record| seen(record))).await.expect("was never seen").unwrap();
    }

    /// Until the last word on the (only) endpoint is this.
    pub(crate) async fn until_healthy(&self, healthy: bool) {
        self.until(|record| record.endpoints.last().is_some_and(|(_, last)| *last == healthy)).await;
    }
}

impl Watch for Seen {
    fn call(&self, rpc: &'static str, outcome: CallOutcome, _: Duration) {
        self.0.send_modify(|record| record.calls.push((rpc, outcome)));
    }

    fn events_dropped(&self, kind: Kind, why: Dropped, count: u64) {
        for _ in 0..count {
            self.0.send_modify(|record| record.dropped.push((kind, why)));
        }
    }

    fn endpoint(&self, url: &str, healthy: bool) {
        self.0.send_modify(|record| record.endpoints.push((url.to_owned(), healthy)));
    }
}
