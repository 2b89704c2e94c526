//! Where a policy service is: the address as it is written, and one connection to it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use http::uri::Scheme;
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::either::Either;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};
use tower::service_fn;

/// One address of the policy service: `http://host:port`, `https://host:port` or `unix:/path`.
///
/// ```
/// use mproxy_policy::Endpoint;
///
/// let endpoint: Endpoint = "http://127.0.0.1:50051".parse()?;
/// assert_eq!(endpoint.to_string(), "http://127.0.0.1:50051");
/// assert!("127.0.0.1:50051".parse::<Endpoint>().is_err());
/// # Ok::<(), mproxy_policy::remote::EndpointError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    url: Arc<str>,
    address: EndpointAddress,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum EndpointAddress {
    Tcp { host: String, port: u16, tls: bool },
    Unix(PathBuf),
}

/// Why a text is no [`Endpoint`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("policy service {url:?}: {what}")]
pub struct EndpointError {
    url: String,
    what: &'static str,
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(url: &str) -> Result<Self, EndpointError> {
        let fault = |what| EndpointError { url: url.to_owned(), what };
        let address = if let Some(path) = url.strip_prefix("unix:") {
            EndpointAddress::Unix(socket_path(path).map_err(fault)?)
        } else {
            tcp_address(url).map_err(fault)?
        };
        Ok(Self { url: url.into(), address })
    }
}

fn socket_path(path: &str) -> Result<PathBuf, &'static str> {
    // `unix:/path` and `unix:///path` are the same.
    let path = path.strip_prefix("//").unwrap_or(path);
    if !Path::new(path).is_absolute() {
        return Err("a Unix socket is written unix:/path, with an absolute path");
    }
    Ok(path.into())
}

fn tcp_address(url: &str) -> Result<EndpointAddress, &'static str> {
    const FORM: &str = "write http://host:port, https://host:port or unix:/path";
    let uri: Uri = url.parse().map_err(|_| FORM)?;
    let tls = match uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTP => false,
        Some(scheme) if *scheme == Scheme::HTTPS => true,
        Some(_) | None => return Err(FORM),
    };
    let authority = uri.authority().ok_or(FORM)?;
    // It would be logged with the URL, and gRPC has no use for it.
    if authority.as_str().contains('@') {
        return Err("a user name or password has no place in this address");
    }
    if uri.path() != "/" || uri.query().is_some() || url.ends_with('/') {
        return Err("nothing may follow the port: gRPC has its own paths");
    }
    // gRPC has no port of its own; 80 or 443 would be a guess that fails far from here.
    let port = uri.port_u16().ok_or("the port is missing")?;
    // A bare IPv6 address is what the resolver takes.
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
    if host.is_empty() {
        return Err("the host is missing");
    }
    Ok(EndpointAddress::Tcp { host, port, tls })
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

/// TLS towards the policy service. All of it PEM.
#[derive(Clone, Default)]
pub struct RemoteTls {
    /// Trusted roots; `None`: the system's.
    pub ca: Option<Vec<u8>>,
    /// The certificate chain and key that mproxy presents.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl fmt::Debug for RemoteTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteTls")
            .field("ca", &self.ca.is_some())
            .field("identity", &self.identity.is_some())
            .finish()
    }
}

/// A policy service cannot be spoken to as configured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// TLS cannot be set up.
    #[error("policy service {url}: TLS cannot be set up")]
    Tls {
        /// The endpoint.
        url: String,
        /// Why.
        source: tonic::transport::Error,
    },
    /// Events cannot be kept on disk.
    #[error("event spool {}: cannot be used", folder.display())]
    Spool {
        /// Where they were to be kept.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Dials an endpoint.
#[derive(Clone, Debug)]
pub(crate) struct Dialer {
    address: EndpointAddress,
    grpc: tonic::transport::Endpoint,
}

impl Dialer {
    pub(crate) fn new(endpoint: &Endpoint, tls: &RemoteTls, in_flight: usize) -> Result<Self, StartError> {
        // Connections are made by `dial`; here the URL is only what is written into the requests.
        let grpc = match &endpoint.address {
            EndpointAddress::Unix(_) => tonic::transport::Endpoint::from_static("http://localhost"),
            EndpointAddress::Tcp { .. } => tonic::transport::Endpoint::from_shared(endpoint.url.to_string())
                .map_err(|source| StartError::Tls { url: endpoint.to_string(), source })?,
        };
        // No HTTP/2 pings: grpc-go's default is to end the connection of who sends them more often than every
        // five minutes. TCP keepalive finds a dead peer, and failing calls find a hung one.
        let grpc = grpc.buffer_size(in_flight.max(1));
        let grpc = match endpoint.address {
            EndpointAddress::Tcp { tls: true, .. } => grpc
                .tls_config(client_tls(tls))
                .map_err(|source| StartError::Tls { url: endpoint.to_string(), source })?,
            EndpointAddress::Tcp { tls: false, .. } | EndpointAddress::Unix(_) => grpc,
        };
        Ok(Self { address: endpoint.address.clone(), grpc })
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
                Ok(TokioIo::new(WatchedStream { stream, frames, _gone: gone.drop_guard() }))
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

/// A stream that tells when it is dropped, which HTTP/2 does when the connection is over.
struct WatchedStream {
    stream: EndpointStream,
    /// Looks for a GOAWAY in what comes, and tells of it.
    frames: Option<(FrameHeads, CancellationToken)>,
    _gone: DropGuard,
}

/// Reads the types of HTTP/2 frames (RFC 9113, 4.1) in bytes that go by.
#[derive(Debug, Default)]
struct FrameHeads {
    /// Bytes until the next head.
    rest: usize,
    head: [u8; Self::HEAD],
    read: usize,
}

impl FrameHeads {
    const HEAD: usize = 9;
    const GOAWAY: u8 = 7;

    /// Whether a GOAWAY begins in these bytes.
    fn has_goaway(&mut self, mut bytes: &[u8]) -> bool {
        let mut found = false;
        while !bytes.is_empty() {
            let skipped = self.rest.min(bytes.len());
            self.rest -= skipped;
            let (_, after) = bytes.split_at(skipped);
            let (head, after) = after.split_at(after.len().min(Self::HEAD - self.read));
            if let Some(place) = self.head.get_mut(self.read..self.read + head.len()) {
                place.copy_from_slice(head);
            }
            self.read += head.len();
            bytes = after;
            if self.read == Self::HEAD {
                let [a, b, c, kind, ..] = self.head;
                self.rest = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                self.read = 0;
                found |= kind == Self::GOAWAY;
            }
        }
        found
    }
}

impl AsyncRead for WatchedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Some((frames, goaway)) = &mut self.frames
            && frames.has_goaway(buf.filled().get(before..).unwrap_or_default())
        {
            goaway.cancel();
        }
        read
    }
}

impl AsyncWrite for WatchedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(url: &str) -> EndpointAddress {
        url.parse::<Endpoint>().unwrap_or_else(|error| panic!("{error}")).address
    }

    #[test]
    fn a_goaway_is_found_however_the_bytes_are_cut() {
        let frame = |kind: u8, length: u8| {
            let mut frame = vec![0, 0, length, kind, 0, 0, 0, 0, 0];
            // A payload that looks like a GOAWAY is none.
            frame.resize(9 + usize::from(length), FrameHeads::GOAWAY);
            frame
        };
        let sound = [frame(4, 6), frame(4, 0), frame(0, 200), frame(6, 8)].concat();
        let ends = [sound.clone(), frame(FrameHeads::GOAWAY, 8), frame(0, 3)].concat();
        for step in [1, 2, 8, 9, 10, 100, 1000] {
            let found = |bytes: &[u8]| {
                let mut heads = FrameHeads::default();
                bytes.chunks(step).filter(|chunk| heads.has_goaway(chunk)).count() > 0
            };
            assert!(!found(&sound), "{step}");
            assert!(found(&ends), "{step}");
        }
    }

    #[test]
    fn three_kinds_of_address_are_read() {
        let tcp = |host: &str, port, tls| EndpointAddress::Tcp { host: host.to_owned(), port, tls };
        assert_eq!(address("http://hooks:50051"), tcp("hooks", 50051, false));
        assert_eq!(address("https://10.0.0.1:443"), tcp("10.0.0.1", 443, true));
        assert_eq!(address("http://[::1]:1"), tcp("::1", 1, false));
        assert_eq!(address("unix:/run/hooks.sock"), EndpointAddress::Unix("/run/hooks.sock".into()));
        assert_eq!(address("unix:///run/hooks.sock"), EndpointAddress::Unix("/run/hooks.sock".into()));
    }

    #[test]
    fn what_is_no_address_is_told_with_the_text() {
        for (url, what) in [
            ("", "write http://"),
            ("hooks:50051", "write http://"),
            ("tcp://hooks:50051", "write http://"),
            ("http://hooks", "port is missing"),
            ("http://hooks:1/path", "follow the port"),
            ("http://hooks:1/?x", "follow the port"),
            ("http://me:secret@hooks:1", "user name or password"),
            ("unix:run/hooks.sock", "absolute path"),
            ("unix:", "absolute path"),
        ] {
            let error = url.parse::<Endpoint>().expect_err(url).to_string();
            assert!(error.contains(what) && error.contains(url), "{url}: {error}");
        }
    }
}
