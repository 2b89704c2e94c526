//! The service at work: where it listens, what came to it, how it ends.
#![expect(clippy::unwrap_used, reason = "a service that cannot be played fails its test")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use super::contract::hook_stream_server::HookStreamServer;
use super::contract::hooks_server::HooksServer;
use super::contract::{DecideRequest, ObserveRequest};
use super::decide::RawStream;
use super::{Log, Player, Service, StreamPlay, Told};
use crate::PATIENCE;

/// Answers every call with the same bytes; Hello with UNIMPLEMENTED.
#[derive(Clone)]
struct SameAnswer {
    message: Bytes,
}

impl NamedService for SameAnswer {
    const NAME: &'static str = "mproxy.v1.Hooks";
}

impl tower::Service<http::Request<Body>> for SameAnswer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        // gRPC says in the trailers how a call ended: 12 is UNIMPLEMENTED, 0 is OK.
        let hello = request.uri().path().ends_with("/Hello");
        let (code, message) = if hello { ("12", Bytes::new()) } else { ("0", self.message.clone()) };
        let trailers = http::HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            http::HeaderValue::from_static(code),
        )]);
        let body = Full::new(message).with_trailers(async { Some(Ok(trailers)) });
        let response = http::Response::builder().header("content-type", "application/grpc");
        std::future::ready(Ok(response.body(Body::new(body)).unwrap()))
    }
}

/// A service that runs in a thread of its own, so that it can be killed with all its connections.
#[derive(Debug)]
pub struct Running {
    /// Its address for `MPROXY_POLICY_URL`.
    pub url: String,
    address: Option<SocketAddr>,
    log: watch::Receiver<Log>,
    stop: Mutex<Option<oneshot::Sender<()>>>,
    runtime: Mutex<Option<Runtime>>,
    ended: Mutex<Option<oneshot::Receiver<()>>>,
}

/// What is played.
enum Played {
    Script(Service),
    Same(SameAnswer),
}

enum ServiceListener {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

impl Running {
    /// On a free port.
    pub async fn start(service: Service) -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), service).await
    }

    /// At this address.
    pub async fn start_at(address: SocketAddr, service: Service) -> Self {
        let listener = bind(address).await.into_std().unwrap();
        let address = listener.local_addr().unwrap();
        let url = format!("http://{address}");
        Self::play(url, Some(address), ServiceListener::Tcp(listener), Played::Script(service))
    }

    /// At a Unix socket.
    pub async fn start_unix(path: &Path, service: Service) -> Self {
        let listener = UnixListener::bind(path).unwrap().into_std().unwrap();
        Self::play(
            format!("unix:{}", path.display()),
            None,
            ServiceListener::Unix(listener),
            Played::Script(service),
        )
    }

    /// One that answers with bytes that are no protobuf.
    pub async fn garbage() -> Self {
        Self::answering(b"\xff\xff\xff").await
    }

    /// One that answers every call with these bytes as its message; Hello with UNIMPLEMENTED.
    pub async fn answering(message: &[u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap().into_std().unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        // As gRPC frames it: not compressed, and so long.
        let len = u32::try_from(message.len()).unwrap();
        let message = [&[0][..], &len.to_be_bytes(), message].concat().into();
        Self::play(url, None, ServiceListener::Tcp(listener), Played::Same(SameAnswer { message }))
    }

    /// Behind TLS, with this chain and key (PEM), as `localhost`; asks for a certificate that `authority` signed.
    pub async fn start_tls(identity: (Vec<u8>, Vec<u8>), authority: Vec<u8>, service: Service) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap().into_std().unwrap();
        let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let (chain, key) = identity;
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(chain, key))
            .client_ca_root(Certificate::from_pem(authority));
        Self::play_behind(Some(tls), url, None, ServiceListener::Tcp(listener), Played::Script(service))
    }

    fn play(url: String, address: Option<SocketAddr>, listener: ServiceListener, played: Played) -> Self {
        Self::play_behind(None, url, address, listener, played)
    }

    fn play_behind(
        tls: Option<ServerTlsConfig>,
        url: String,
        address: Option<SocketAddr>,
        listener: ServiceListener,
        played: Played,
    ) -> Self {
        let (log, seen) = watch::channel(Log::default());
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        // A runtime of the current thread would do nothing while the test does not wait in it.
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.spawn(async move {
            let mut server = Server::builder();
            if let Some(tls) = tls {
                server = server.tls_config(tls).unwrap();
            }
            let router = match played {
                Played::Script(service) => {
                    let raw = match service.decide {
                        StreamPlay::Raw(bytes) => Some(RawStream(bytes)),
                        StreamPlay::Serve | StreamPlay::Unimplemented | StreamPlay::Script(_) => None,
                    };
                    let player = Player { service: Arc::new(service), log: Arc::new(log) };
                    let router = server.add_service(HooksServer::new(player.clone()));
                    match raw {
                        Some(raw) => router.add_service(raw),
                        // Large answers are part of the game.
                        None => router.add_service(HookStreamServer::new(player)),
                    }
                }
                Played::Same(same) => server.add_service(same),
            };
            let stopped = async { drop(stopped.await) };
            match listener {
                ServiceListener::Tcp(listener) => {
                    let incoming = TcpIncoming::from(TcpListener::from_std(listener).unwrap());
                    // Else answers wait for the acknowledgement of what went before them: 40 ms each.
                    let incoming = incoming.with_nodelay(Some(true));
                    router.serve_with_incoming_shutdown(incoming, stopped).await.unwrap();
                }
                ServiceListener::Unix(listener) => {
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

    /// Where it listens. Panics of a Unix socket.
    pub fn address(&self) -> SocketAddr {
        self.address.unwrap()
    }

    /// How often a call came: `calls("AuthPublish")`.
    pub fn calls(&self, rpc: &str) -> usize {
        self.log.borrow().calls.iter().filter(|call| **call == rpc).count()
    }

    /// The messages on Decide streams, each with the number of its stream from 1, as they came.
    pub fn batches(&self) -> Vec<(usize, DecideRequest)> {
        self.log.borrow().batches.clone()
    }

    /// The messages on Decide streams once these are what was waited for.
    pub async fn batches_when(
        &self,
        all: impl Fn(&[(usize, DecideRequest)]) -> bool,
    ) -> Vec<(usize, DecideRequest)> {
        let mut log = self.log.clone();
        match timeout(PATIENCE, log.wait_for(|log| all(&log.batches))).await {
            Ok(log) => log.unwrap().batches.clone(),
            Err(_) => panic!("not all was asked, only {:#?}", self.batches()),
        }
    }

    /// The events that it was told, as they came.
    pub fn events(&self) -> Vec<Told> {
        self.log.borrow().told.clone()
    }

    /// The events that it was told once these are what was waited for.
    pub async fn events_when(&self, all: impl Fn(&[Told]) -> bool) -> Vec<Told> {
        let mut log = self.log.clone();
        match timeout(PATIENCE, log.wait_for(|log| all(&log.told))).await {
            Ok(log) => log.unwrap().told.clone(),
            Err(_) => panic!("not all was told, only {:#?}", self.events()),
        }
    }

    /// The messages on Observe streams, each with the number of its stream from 1, as they came.
    pub fn observed(&self) -> Vec<(usize, ObserveRequest)> {
        self.log.borrow().observed.clone()
    }

    /// The messages on Observe streams once these are what was waited for.
    pub async fn observed_when(
        &self,
        all: impl Fn(&[(usize, ObserveRequest)]) -> bool,
    ) -> Vec<(usize, ObserveRequest)> {
        let mut log = self.log.clone();
        match timeout(PATIENCE, log.wait_for(|log| all(&log.observed))).await {
            Ok(log) => log.unwrap().observed.clone(),
            Err(_) => panic!("not all was told, only {:#?}", self.observed()),
        }
    }

    /// Waits until this call has come.
    pub async fn until_called(&self, rpc: &str) {
        let called = |log: &Log| log.calls.contains(&rpc);
        timeout(PATIENCE, self.log.clone().wait_for(called)).await.expect("was not called").unwrap();
    }

    /// Ends in order: no new calls, the open ones are answered.
    pub async fn stop(&self) {
        drop(self.stop.lock().unwrap().take());
        let ended = self.ended.lock().unwrap().take().unwrap();
        timeout(PATIENCE, ended).await.expect("does not end").unwrap();
    }

    /// Ends at once, connections and all.
    pub fn kill(&self) {
        self.runtime.lock().unwrap().take().unwrap().shutdown_background();
    }
}

/// Binds this address, once whoever was killed there has let it go.
async fn bind(address: SocketAddr) -> TcpListener {
    let bound = async {
        loop {
            match TcpListener::bind(address).await {
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => tokio::task::yield_now().await,
                bound => return bound.unwrap(),
            }
        }
    };
    timeout(PATIENCE, bound).await.expect("the address is in use")
}

impl Drop for Running {
    fn drop(&mut self) {
        // Just dropped it would wait for its tasks, which tokio forbids, by a panic, within the runtime of the
        // test.
        if let Some(runtime) = self.runtime.lock().unwrap().take() {
            runtime.shutdown_background();
        }
    }
}
