//! A client over any transport: TCP, TLS, WebSocket, WebSocket over TLS, Unix sockets, each as one stream of bytes. Made of
//! parts that mproxy's own share nothing with but rustls.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use mproxy_core::peer::Address;
pub use mproxy_core::peer::Transport;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::PATIENCE;
use crate::certificates::Signed;
use crate::wire::{Version, WireClient};

/// Every transport over which clients can come.
pub const TRANSPORTS: [Transport; 5] =
    [Transport::Tcp, Transport::Tls, Transport::Ws, Transport::Wss, Transport::Unix];

/// Those of them that listen at a port.
pub const AT_PORTS: [Transport; 4] = [Transport::Tcp, Transport::Tls, Transport::Ws, Transport::Wss];

/// As configurations call it.
pub const fn scheme(transport: Transport) -> &'static str {
    match transport {
        Transport::Tcp => "mqtt",
        Transport::Tls => "mqtts",
        Transport::Ws => "ws",
        Transport::Wss => "wss",
        Transport::Unix => "unix",
    }
}

/// The client's side of TLS: whom it believes, and what it shows.
#[derive(Clone, Debug)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
    name: &'static str,
}

impl TlsClient {
    /// Believes this authority (PEM) and shows nothing; comes to `localhost`.
    pub fn believing(authority: &str) -> Self {
        Self::of(authority, None)
    }

    /// Believes this authority (PEM), and has a certificate.
    pub fn showing(authority: &str, own: &Signed) -> Self {
        Self::of(authority, Some(own))
    }

    /// Asks for this application protocol.
    #[must_use]
    pub fn alpn(mut self, protocol: &str) -> Self {
        Arc::make_mut(&mut self.config).alpn_protocols = vec![protocol.as_bytes().to_vec()];
        self
    }

    /// Comes to a server of this name.
    #[must_use]
    pub fn to(self, name: &'static str) -> Self {
        Self { name, ..self }
    }

    fn of(authority: &str, own: Option<&Signed>) -> Self {
        let mut roots = RootCertStore::empty();
        for der in certificates(authority) {
            sure(roots.add(der));
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let builder = sure(builder.with_safe_default_protocol_versions()).with_root_certificates(roots);
        let config = match own {
            Some(own) => sure(builder.with_client_auth_cert(certificates(&own.chain), key(&own.key))),
            None => builder.with_no_client_auth(),
        };
        Self { config: Arc::new(config), name: "localhost" }
    }

    /// The handshake over `stream`. With TLS 1.3 it may succeed though the server says no: that comes with the first read.
    pub async fn shake<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
    ) -> io::Result<tokio_rustls::client::TlsStream<S>> {
        let name = sure(ServerName::try_from(self.name));
        TlsConnector::from(Arc::clone(&self.config)).connect(name, stream).await
    }
}

/// A server's side of TLS that shows this, and asks for nothing.
pub fn tls_server(own: &Signed) -> TlsAcceptor {
    let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = sure(builder.with_safe_default_protocol_versions()).with_no_client_auth();
    let config = sure(builder.with_single_cert(certificates(&own.chain), key(&own.key)));
    TlsAcceptor::from(Arc::new(config))
}

fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).map(sure).collect()
}

fn key(pem: &str) -> PrivateKeyDer<'static> {
    sure(PrivateKeyDer::from_pem_slice(pem.as_bytes()))
}

fn sure<T, E: fmt::Display>(made: Result<T, E>) -> T {
    made.unwrap_or_else(|error| panic!("TLS for the test: {error}"))
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A stream, and our end of its socket, where that is at a port.
pub struct Carried {
    stream: Box<dyn Stream>,
    local: Option<SocketAddr>,
}

impl fmt::Debug for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Carried").field("local", &self.local).finish_non_exhaustive()
    }
}

impl AsyncRead for Carried {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Carried {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl WireClient<Carried> {
    /// Our end of the connection: what a proxy sees as the remote address.
    pub fn local(&self) -> SocketAddr {
        self.stream().local.unwrap_or_else(|| panic!("a client of a Unix socket has no address"))
    }
}

/// Connects to a listener of this transport, with `/mqtt` for a path where it has one, and says nothing yet.
pub async fn open(transport: Transport, to: impl Into<Address>, tls: &TlsClient) -> WireClient<Carried> {
    let (to, name) = (to.into(), transport.name());
    let opening = timeout(PATIENCE, try_open(transport, &to, tls));
    let opened = opening.await.unwrap_or_else(|_| panic!("{name} to {to}: no end of it"));
    WireClient::over(opened.unwrap_or_else(|error| panic!("{name} to {to}: {error}")))
}

/// The same with a plain CONNECT, which must be answered with a yes.
pub async fn login(
    transport: Transport,
    to: impl Into<Address>,
    tls: &TlsClient,
    version: Version,
    client_id: &str,
) -> WireClient<Carried> {
    open(transport, to, tls).await.logged_in(version, client_id).await
}

/// The same, where it need not come to anything.
///
/// # Errors
/// There is nobody, or the handshake failed: with TLS 1.3 perhaps only later.
pub async fn try_open(transport: Transport, to: &Address, tls: &TlsClient) -> io::Result<Carried> {
    let to = match to {
        Address::Ip(to) => to,
        Address::Path(path) => {
            let stream = Box::new(UnixStream::connect(path).await?);
            return Ok(Carried { stream, local: None });
        }
        Address::Process(_) => panic!("{to} is a client"),
    };
    let tcp = TcpStream::connect(to).await?;
    tcp.set_nodelay(true)?;
    let local = Some(tcp.local_addr()?);
    let stream: Box<dyn Stream> = match transport {
        Transport::Tcp => Box::new(tcp),
        Transport::Tls => Box::new(tls.shake(tcp).await?),
        Transport::Ws => Box::new(upgraded(tcp).await?),
        Transport::Wss => Box::new(upgraded(tls.shake(tcp).await?).await?),
        Transport::Unix => panic!("a Unix socket is at a path, not at {to}"),
    };
    Ok(Carried { stream, local })
}

async fn upgraded<S: Stream + 'static>(stream: S) -> io::Result<DuplexStream> {
    let mut request = "ws://localhost/mqtt".into_client_request().map_err(io::Error::other)?;
    request.headers_mut().insert("sec-websocket-protocol", http::HeaderValue::from_static("mqtt"));
    let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
    let upgrading = tokio_tungstenite::client_async_with_config(request, stream, Some(config));
    let (socket, _) = upgrading.await.map_err(io::Error::other)?;
    let (near, far) = duplex(64 << 10);
    // Ends with either side.
    tokio::spawn(pump(socket, far));
    Ok(near)
}

/// Bytes to frames and back. What is read in one piece is one frame.
async fn pump<S: Stream>(socket: WebSocketStream<S>, stream: DuplexStream) {
    let (mut frames_out, mut frames_in) = socket.split();
    let (mut bytes_in, mut bytes_out) = tokio::io::split(stream);
    let outward = async {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = bytes_in.read(&mut buffer).await {
            let message = Message::Binary(Bytes::copy_from_slice(&buffer[..count]));
            if frames_out.send(message).await.is_err() {
                return;
            }
        }
        let _ = frames_out.close().await;
    };
    let inward = async {
        while let Some(Ok(message)) = frames_in.next().await {
            if message.is_binary() && bytes_out.write_all(&message.into_data()).await.is_err() {
                return;
            }
        }
        let _ = bytes_out.shutdown().await;
    };
    tokio::select! {
        () = inward => {}
        () = outward => {}
    }
}
