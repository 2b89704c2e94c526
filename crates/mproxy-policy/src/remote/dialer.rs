//! One connection to an endpoint.
//!
//! | room | holds |
//! |---|---|
//! | `tls` | TLS below HTTP/2 |
//! | `watched` | what is seen of a connection from outside HTTP/2 |

mod tls;
mod watched;

use std::io;
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tower::service_fn;

use self::tls::TlsDialer;
use self::watched::{FrameHeads, WatchedStream};
use super::endpoint::{Endpoint, EndpointAddress, RemoteTls, StartError};

/// Dials an endpoint.
#[derive(Clone, Debug)]
pub(crate) struct Dialer {
    address: EndpointAddress,
    /// `None`: without TLS.
    tls: Option<TlsDialer>,
    grpc: tonic::transport::Endpoint,
}

impl Dialer {
    pub(crate) fn new(endpoint: &Endpoint, tls: &RemoteTls, in_flight: usize) -> Result<Self, StartError> {
        let address = endpoint.address().clone();
        let tls = match &address {
            EndpointAddress::Tcp { host, tls: true, .. } => {
                let dialer = TlsDialer::new(host, tls);
                Some(dialer.map_err(|source| StartError::Tls { url: endpoint.to_string(), source })?)
            }
            EndpointAddress::Tcp { tls: false, .. } | EndpointAddress::Unix(_) => None,
        };
        // Connections are made by `dial`, with TLS where there is any. To tonic they are all alike; the origin is what is
        // written into the requests.
        let mut grpc = tonic::transport::Endpoint::from_static("http://localhost");
        if let Some(origin) = endpoint.origin() {
            grpc = grpc.origin(origin);
        }
        // No HTTP/2 pings: grpc-go's default is to end the connection of who sends them more often than every
        // five minutes. TCP keepalive finds a dead peer, and failing calls find a hung one.
        Ok(Self { address, tls, grpc: grpc.buffer_size(in_flight.max(1)) })
    }

    pub(crate) const fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// One connection. It is never made again behind our back: when it ends, `gone` is cancelled, so that the
    /// service is asked Hello on the next one.
    pub(crate) async fn dial(&self, gone: &CancellationToken) -> Result<Channel, tonic::transport::Error> {
        self.dial_watched(gone, None).await
    }

    /// One connection for a stream. `goaway` is cancelled when the service announces that it will end it, which a stream
    /// does not learn from HTTP/2.
    pub(super) async fn dial_for_stream(
        &self,
        goaway: &CancellationToken,
    ) -> Result<Channel, tonic::transport::Error> {
        self.dial_watched(&CancellationToken::new(), Some(goaway.clone())).await
    }

    async fn dial_watched(
        &self,
        gone: &CancellationToken,
        goaway: Option<CancellationToken>,
    ) -> Result<Channel, tonic::transport::Error> {
        // Emptied by the first dial: tonic's channel would dial again by itself, and its calls would reach a
        // service, perhaps a new version of it, that was never asked what it wants.
        let mut address = Some(self.address.clone());
        let (tls, gone) = (self.tls.clone(), gone.clone());
        let connector = service_fn(move |_: Uri| {
            let (address, tls, gone, goaway) = (address.take(), tls.clone(), gone.clone(), goaway.clone());
            async move {
                // The channel asks for a second connection when the first has ended.
                let Some(address) = address else {
                    gone.cancel();
                    return Err(io::Error::new(io::ErrorKind::NotConnected, "the connection has ended"));
                };
                let stream = open(&address, tls.as_ref()).await?;
                let frames = goaway.map(|goaway| (FrameHeads::default(), goaway));
                Ok(TokioIo::new(WatchedStream::new(stream, frames, gone)))
            }
        });
        self.grpc.connect_with_connector(connector).await
    }
}

type EndpointStream = Either<TlsStream<TcpStream>, Either<TcpStream, UnixStream>>;

async fn open(address: &EndpointAddress, tls: Option<&TlsDialer>) -> io::Result<EndpointStream> {
    match address {
        EndpointAddress::Unix(path) => Ok(Either::Right(Either::Right(UnixStream::connect(path).await?))),
        EndpointAddress::Tcp { host, port, .. } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            // A question is one small write that somebody waits for: Nagle's algorithm would hold it back.
            stream.set_nodelay(true)?;
            // A peer that lost its power sends no FIN: its connection would look healthy until questions time out.
            let keepalive =
                TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(5));
            SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
            Ok(match tls {
                Some(tls) => Either::Left(tls.handshake(stream).await?),
                None => Either::Right(Either::Left(stream)),
            })
        }
    }
}
