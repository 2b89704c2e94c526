//! Connections to an endpoint.
//!
//! | room | holds |
//! |---|---|
//! | `json` | those of an endpoint that speaks JSON, which are made when there are calls for them |
//! | `tls` | TLS below HTTP |
//! | `watched` | what is seen of a connection from outside HTTP/2 |

mod json;
mod tls;
mod watched;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::Uri;
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::sleep;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tower::service_fn;

use self::json::JsonDialer;
use self::tls::HttpVersion;
pub(super) use self::tls::TlsDialer;
pub(crate) use self::watched::Reads;
use self::watched::{SignsOfLife, WatchedStream};
use super::endpoint::{Endpoint, EndpointAddress, EndpointProtocol, RemoteTls, RemoteTlsError, StartError};
use crate::contract::CallChannel;

/// When another attempt to connect is begun beside those that have not come to an end, and how many at most.
const DIAL_AGAIN: Duration = Duration::from_millis(500);
const DIALS_MOST: usize = 10;

/// How long the other end's system may leave what we sent unacknowledged. It acknowledges even while the service is slow,
/// so that it says nothing of how long an answer may take. For questions it is short, as others wait for the endpoint to be
/// found again; events and commands may wait for a service that does not read for a while.
const UNACKNOWLEDGED_QUESTIONS: Duration = Duration::from_secs(2);
const UNACKNOWLEDGED_MOST: Duration = Duration::from_secs(10);

/// Dials an endpoint.
#[derive(Clone, Debug)]
pub(crate) enum Dialer {
    Grpc(Box<GrpcDialer>),
    Json(JsonDialer),
}

impl Dialer {
    pub(crate) fn new(endpoint: &Endpoint, tls: &RemoteTls, in_flight: usize) -> Result<Self, StartError> {
        let dialer = match endpoint.protocol() {
            EndpointProtocol::Grpc => {
                GrpcDialer::new(endpoint, tls, in_flight).map(|dialer| Self::Grpc(Box::new(dialer)))
            }
            EndpointProtocol::Json { base } => JsonDialer::new(endpoint.address(), base, tls).map(Self::Json),
        };
        dialer.map_err(|source| StartError::Tls { url: endpoint.to_string(), source })
    }

    /// How TLS is spoken to it, if it is.
    pub(super) const fn tls(&self) -> Option<&TlsDialer> {
        match self {
            Self::Grpc(dialer) => dialer.tls.as_ref(),
            Self::Json(dialer) => dialer.tls(),
        }
    }

    pub(crate) const fn is_tls(&self) -> bool {
        self.tls().is_some()
    }

    /// What streams go over, if they can.
    pub(crate) const fn for_streams(&self) -> Option<&GrpcDialer> {
        match self {
            Self::Grpc(dialer) => Some(dialer),
            Self::Json(_) => None,
        }
    }

    /// A way for calls, for which somebody waits. When it ends, `gone` is cancelled, so that the service is asked Hello on
    /// the next one.
    ///
    /// # Errors
    /// There is no connection. For JSON none is made before the first call.
    pub(crate) async fn dial_for_calls(
        &self,
        gone: &CancellationToken,
        reads: &Arc<Reads>,
    ) -> Result<CallChannel, tonic::transport::Error> {
        Ok(match self {
            Self::Grpc(dialer) => CallChannel::Grpc(dialer.dial_for_calls(gone, reads).await?),
            Self::Json(dialer) => CallChannel::Json(dialer.channel(gone, reads)),
        })
    }
}

/// How TLS is spoken to this address, if it is.
fn tls_dialer(
    address: &EndpointAddress,
    tls: &RemoteTls,
    version: HttpVersion,
) -> Result<Option<TlsDialer>, RemoteTlsError> {
    match address {
        EndpointAddress::Tcp { host, tls: true, .. } => TlsDialer::new(host, tls, version).map(Some),
        EndpointAddress::Tcp { tls: false, .. } | EndpointAddress::Unix(_) => Ok(None),
    }
}

/// Dials an endpoint that speaks gRPC.
#[derive(Clone, Debug)]
pub(crate) struct GrpcDialer {
    address: EndpointAddress,
    /// `None`: without TLS.
    tls: Option<TlsDialer>,
    grpc: tonic::transport::Endpoint,
}

impl GrpcDialer {
    fn new(endpoint: &Endpoint, tls: &RemoteTls, in_flight: usize) -> Result<Self, RemoteTlsError> {
        let address = endpoint.address().clone();
        let tls = tls_dialer(&address, tls, HttpVersion::Http2)?;
        // Connections are made by `dial`, with TLS where there is any. To tonic they are all alike; the origin is what is
        // written into the requests.
        let mut grpc = tonic::transport::Endpoint::from_static("http://localhost");
        if let Some(origin) = endpoint.origin() {
            grpc = grpc.origin(origin);
        }
        // No HTTP/2 pings: grpc-go's default is to end the connection of who sends them more often than every
        // five minutes. The system finds a peer that is not there, and silence one that hangs.
        Ok(Self { address, tls, grpc: grpc.buffer_size(in_flight.max(1)) })
    }

    /// One connection. It is never made again behind our back: when it ends, `gone` is cancelled, so that the
    /// service is asked Hello on the next one.
    pub(crate) async fn dial(&self, gone: &CancellationToken) -> Result<Channel, tonic::transport::Error> {
        let listening = SignsOfLife { gone: gone.clone(), ..SignsOfLife::default() };
        self.dial_watched(listening, UNACKNOWLEDGED_MOST).await
    }

    /// The same for questions by calls, for which somebody waits.
    async fn dial_for_calls(
        &self,
        gone: &CancellationToken,
        reads: &Arc<Reads>,
    ) -> Result<Channel, tonic::transport::Error> {
        let listening = SignsOfLife { gone: gone.clone(), goaway: None, reads: Some(Arc::clone(reads)) };
        self.dial_watched(listening, UNACKNOWLEDGED_QUESTIONS).await
    }

    /// One connection for a stream of questions. `goaway` is cancelled when the service announces that it will end it,
    /// which a stream does not learn from HTTP/2.
    pub(super) async fn dial_for_stream(
        &self,
        goaway: &CancellationToken,
    ) -> Result<Channel, tonic::transport::Error> {
        let listening = SignsOfLife { goaway: Some(goaway.clone()), ..SignsOfLife::default() };
        self.dial_watched(listening, UNACKNOWLEDGED_QUESTIONS).await
    }

    async fn dial_watched(
        &self,
        listening: SignsOfLife,
        unacknowledged: Duration,
    ) -> Result<Channel, tonic::transport::Error> {
        // Emptied by the first dial: tonic's channel would dial again by itself, and its calls would reach a
        // service, perhaps a new version of it, that was never asked what it wants.
        let mut address = Some(self.address.clone());
        let tls = self.tls.clone();
        let connector = service_fn(move |_: Uri| {
            let (address, tls, listening) = (address.take(), tls.clone(), listening.clone());
            async move {
                // The channel asks for a second connection when the first has ended.
                let Some(address) = address else {
                    listening.gone.cancel();
                    return Err(io::Error::new(io::ErrorKind::NotConnected, "the connection has ended"));
                };
                let stream = open(&address, tls.as_ref(), unacknowledged).await?;
                Ok(TokioIo::new(WatchedStream::new(stream, listening)))
            }
        });
        self.grpc.connect_with_connector(connector).await
    }
}

/// Opens connections for HTTP/1.1 to one place that is no policy service.
#[derive(Clone, Debug)]
pub(crate) struct HttpDialer {
    address: EndpointAddress,
    tls: Option<TlsDialer>,
}

impl HttpDialer {
    /// Opens nothing yet.
    ///
    /// # Errors
    /// TLS cannot be spoken as it is asked for.
    pub(crate) fn new(host: &str, port: u16, tls: bool, trust: &RemoteTls) -> Result<Self, RemoteTlsError> {
        let address = EndpointAddress::Tcp { host: host.to_owned(), port, tls };
        let tls = tls_dialer(&address, trust, HttpVersion::Http1)?;
        Ok(Self { address, tls })
    }

    /// A connection. How long it may take is the caller's.
    pub(crate) async fn open(
        &self,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static + use<>> {
        open(&self.address, self.tls.as_ref(), UNACKNOWLEDGED_QUESTIONS).await
    }
}

type EndpointStream = Either<TlsStream<TcpStream>, Either<TcpStream, UnixStream>>;

async fn open(
    address: &EndpointAddress,
    tls: Option<&TlsDialer>,
    unacknowledged: Duration,
) -> io::Result<EndpointStream> {
    match address {
        EndpointAddress::Unix(path) => Ok(Either::Right(Either::Right(UnixStream::connect(path).await?))),
        EndpointAddress::Tcp { host, port, .. } => {
            let addresses: Vec<_> = lookup_host((host.as_str(), *port)).await?.collect();
            let stream = connect(&addresses).await?;
            // A question is one small write that somebody waits for: Nagle's algorithm would hold it back.
            stream.set_nodelay(true)?;
            find_dead_peers(SockRef::from(&stream), unacknowledged)?;
            Ok(match tls {
                Some(tls) => Either::Left(tls.handshake(stream).await?),
                None => Either::Right(Either::Left(stream)),
            })
        }
    }
}

/// Connects to one of these addresses. It tries again, and the next of them, without giving up what it has begun: where
/// packets are lost, TCP itself waits a second, and then two, and four, while a service that has returned should be found
/// at once. How long all of it may take is the caller's.
async fn connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let (mut dials, mut begun) = (FuturesUnordered::new(), 0);
    let mut last = None;
    loop {
        // The first, or all that were begun have failed.
        if dials.is_empty() {
            let Some(address) = addresses.get(begun) else {
                let none = || io::Error::new(io::ErrorKind::NotFound, "the host has no address");
                return Err(last.unwrap_or_else(none));
            };
            dials.push(TcpStream::connect(*address));
            begun += 1;
        }
        tokio::select! {
            Some(dialed) = dials.next() => match dialed {
                Ok(stream) => return Ok(stream),
                Err(error) => last = Some(error),
            },
            () = sleep(DIAL_AGAIN), if begun < DIALS_MOST => {
                dials.extend(addresses.get(begun % addresses.len()).map(|address| TcpStream::connect(*address)));
                begun += 1;
            }
        }
    }
}

/// Has the system end the connection where nobody is at its other end any more, which no packet tells if one cannot arrive
/// there or the peer has lost its power.
fn find_dead_peers(socket: SockRef<'_>, unacknowledged: Duration) -> io::Result<()> {
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(5));
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(unacknowledged))?;
    #[cfg(not(target_os = "linux"))]
    let _ = unacknowledged;
    Ok(())
}
