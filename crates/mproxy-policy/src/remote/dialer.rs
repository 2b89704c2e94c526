//! One connection to an endpoint.
//!
//! | room | holds |
//! |---|---|
//! | `watched` | what is seen of a connection from outside HTTP/2 |

mod watched;

use std::io;
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};
use tower::service_fn;

use self::watched::{FrameHeads, WatchedStream};
use super::endpoint::{Endpoint, EndpointAddress, RemoteTls, StartError};

/// Dials an endpoint.
#[derive(Clone, Debug)]
pub(crate) struct Dialer {
    address: EndpointAddress,
    grpc: tonic::transport::Endpoint,
}

impl Dialer {
    pub(crate) fn new(endpoint: &Endpoint, tls: &RemoteTls, in_flight: usize) -> Result<Self, StartError> {
        // Connections are made by `dial`; here the URL is only what is written into the requests.
        let grpc = match endpoint.address() {
            EndpointAddress::Unix(_) => tonic::transport::Endpoint::from_static("http://localhost"),
            EndpointAddress::Tcp { .. } => tonic::transport::Endpoint::from_shared(endpoint.to_string())
                .map_err(|source| StartError::Tls { url: endpoint.to_string(), source })?,
        };
        // No HTTP/2 pings: grpc-go's default is to end the connection of who sends them more often than every
        // five minutes. TCP keepalive finds a dead peer, and failing calls find a hung one.
        let grpc = grpc.buffer_size(in_flight.max(1));
        let grpc = match endpoint.address() {
            EndpointAddress::Tcp { tls: true, .. } => grpc
                .tls_config(client_tls(tls))
                .map_err(|source| StartError::Tls { url: endpoint.to_string(), source })?,
            EndpointAddress::Tcp { tls: false, .. } | EndpointAddress::Unix(_) => grpc,
        };
        Ok(Self { address: endpoint.address().clone(), grpc })
    }

    pub(crate) const fn is_tls(&self) -> bool {
        matches!(self.address, EndpointAddress::Tcp { tls: true, .. })
    }

    /// One connection. It is never made again behind our back: when it ends, `gone` is cancelled, so that the
    /// service is asked Hello on the next one.
    pub(crate) async fn dial(&self, gone: &CancellationToken) -> Result<Channel, tonic::transport::Error> {
        self.dial_watched(gone, None).await
    }

    /// One connection for a stream. `goaway` is cancelled when the service announces that it will end it, which a stream
    /// does not learn from HTTP/2. Under TLS nobody sees it: there the stream goes on until it ends.
    pub(super) async fn dial_for_stream(
        &self,
        goaway: &CancellationToken,
    ) -> Result<Channel, tonic::transport::Error> {
        let goaway = (!self.is_tls()).then(|| goaway.clone());
        self.dial_watched(&CancellationToken::new(), goaway).await
    }

    async fn dial_watched(
        &self,
        gone: &CancellationToken,
        goaway: Option<CancellationToken>,
    ) -> Result<Channel, tonic::transport::Error> {
        // Emptied by the first dial: tonic's channel would dial again by itself, and its calls would reach a
        // service, perhaps a new version of it, that was never asked what it wants.
        let mut address = Some(self.address.clone());
        let gone = gone.clone();
        let connector = service_fn(move |_: Uri| {
            let (address, gone, goaway) = (address.take(), gone.clone(), goaway.clone());
            async move {
                // The channel asks for a second connection when the first has ended.
                let Some(address) = address else {
                    gone.cancel();
                    return Err(io::Error::new(io::ErrorKind::NotConnected, "the connection has ended"));
                };
                let stream = open(&address).await?;
                let frames = goaway.map(|goaway| (FrameHeads::default(), goaway));
                Ok(TokioIo::new(WatchedStream::new(stream, frames, gone)))
            }
        });
        self.grpc.connect_with_connector(connector).await
    }
}

fn client_tls(tls: &RemoteTls) -> ClientTlsConfig {
    let config = ClientTlsConfig::new();
    let config = match &tls.ca {
        Some(pem) => config.ca_certificate(Certificate::from_pem(pem)),
        None => config.with_native_roots(),
    };
    match &tls.identity {
        Some((chain, key)) => config.identity(Identity::from_pem(chain, key)),
        None => config,
    }
}

type EndpointStream = Either<TcpStream, UnixStream>;

async fn open(address: &EndpointAddress) -> io::Result<EndpointStream> {
    match address {
        EndpointAddress::Unix(path) => UnixStream::connect(path).await.map(Either::Right),
        EndpointAddress::Tcp { host, port, .. } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            // A question is one small write that somebody waits for: Nagle's algorithm would hold it back.
            stream.set_nodelay(true)?;
            // A peer that lost its power sends no FIN: its connection would look healthy until questions time out.
            let keepalive =
                TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(5));
            SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
            Ok(Either::Left(stream))
        }
    }
}
