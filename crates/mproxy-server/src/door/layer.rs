//! A transport over another one: it listens, accepts and is reached as that does, and adds a handshake of its own. What it
//! adds is a [`TransportLayer`], and every layer is a [`Transport`].

use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use mproxy_core::fault::Closed;
use mproxy_core::peer::{Address, Origin};
use mproxy_tcp::tls::{ClientTls, MaterialError, Reloadable, ServerTls, TlsProtection};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};

use super::transport::{Carrier, HandshakeLimits, Known, Offer, SharedSocket, StreamFacts, Transport};
use super::{DialFailure, OpenError, Refused};
use crate::config::{ListenerSettings, Target};
use crate::systemd::InheritedSocket;

/// What a transport adds to the one below.
pub trait TransportLayer: Sized + Send + Sync + 'static {
    /// The one below.
    type Below: Transport;
    /// What carries MQTT.
    type Stream: LayerStream + AsyncRead + AsyncWrite + Debug + Unpin + Send + 'static;
    /// What a listener needs for its clients, beside what the one below needs.
    type Server: Debug + Send + Sync + 'static;
    /// What it takes to reach a broker, beside what the one below takes.
    type Client: Debug + Send + Sync + 'static;

    /// As [`Transport::server`].
    ///
    /// # Errors
    /// Which file is wrong, and why.
    fn server(listener: &ListenerSettings) -> Result<Self::Server, MaterialError>;

    /// As [`Transport::client`].
    ///
    /// # Errors
    /// Which file is wrong, and why.
    fn client(target: &Target) -> Result<Self::Client, MaterialError>;

    /// The handshake with a client. Adds what it learns to `known`. Not cancel safe, and need not be.
    fn accept(
        server: &Self::Server,
        below: StreamBelow<Self>,
        known: &mut Known,
        room: &HandshakeLimits,
    ) -> impl Future<Output = Result<Self::Stream, Refused>> + Send;

    /// The handshake with a broker; an error is one line with all causes. Cancel safe: dropping the future closes the
    /// connection.
    fn connect(
        client: &Self::Client,
        below: StreamBelow<Self>,
    ) -> impl Future<Output = Result<Self::Stream, String>> + Send;

    /// As [`Transport::server_tls`], of the layer itself.
    fn server_tls(server: &Self::Server) -> Option<&Arc<Reloadable<ServerTls>>> {
        let _ = server;
        None
    }

    /// As [`Transport::client_tls`], of the layer itself.
    fn client_tls(client: &Self::Client) -> Option<&Arc<Reloadable<ClientTls>>> {
        let _ = client;
        None
    }
}

/// What the transport below a layer makes of a connection.
pub type StreamBelow<L> = <<L as TransportLayer>::Below as Transport>::Stream;

/// What a layer needs, and what the one below it needs.
#[derive(Debug)]
pub struct Both<B, L> {
    below: B,
    layer: L,
}

impl<L: TransportLayer> Transport for L {
    type Listener = <L::Below as Transport>::Listener;
    type Socket = <L::Below as Transport>::Socket;
    type Stream = L::Stream;
    type Server = Both<<L::Below as Transport>::Server, L::Server>;
    type Client = Both<<L::Below as Transport>::Client, L::Client>;

    fn server(listener: &ListenerSettings) -> Result<Self::Server, MaterialError> {
        let layer = L::server(listener)?;
        Ok(Both { below: L::Below::server(listener)?, layer })
    }

    fn client(target: &Target) -> Result<Self::Client, MaterialError> {
        let layer = L::client(target)?;
        Ok(Both { below: L::Below::client(target)?, layer })
    }

    async fn listen(
        server: &Self::Server,
        listener: &ListenerSettings,
        inherited: Option<InheritedSocket>,
    ) -> Result<(Self::Listener, Address), OpenError> {
        L::Below::listen(&server.below, listener, inherited).await
    }

    fn share(listener: &Self::Listener) -> io::Result<SharedSocket> {
        L::Below::share(listener)
    }

    fn poll_accept(listener: &mut Self::Listener, cx: &mut Context<'_>) -> Poll<Offer<Self::Socket>> {
        L::Below::poll_accept(listener, cx)
    }

    /// There is a handshake in any case.
    fn at_once(_: &Self::Server, socket: Self::Socket) -> Result<Self::Stream, Self::Socket> {
        Err(socket)
    }

    async fn enter(
        server: &Self::Server,
        socket: Self::Socket,
        known: &mut Known,
        room: &HandshakeLimits,
    ) -> Result<Self::Stream, Refused> {
        // From below upwards: the PROXY header, TLS, the upgrade.
        let below = L::Below::enter(&server.below, socket, known, room).await?;
        L::accept(&server.layer, below, known, room).await
    }

    async fn reach(
        client: &Self::Client,
        origin: &Origin,
        deadline: Instant,
    ) -> Result<Self::Stream, DialFailure> {
        let below = L::Below::reach(&client.below, origin, deadline).await?;
        // The same deadline for all layers: what the connection took is missing for the handshake.
        match timeout_at(deadline, L::connect(&client.layer, below)).await {
            Ok(connected) => connected.map_err(DialFailure::Unspoken),
            Err(_) => Err(DialFailure::TooLate),
        }
    }

    fn forget(client: &Self::Client) {
        L::Below::forget(&client.below);
    }

    fn server_tls(server: &Self::Server) -> Option<&Arc<Reloadable<ServerTls>>> {
        L::server_tls(&server.layer).or_else(|| L::Below::server_tls(&server.below))
    }

    fn client_tls(client: &Self::Client) -> Option<&Arc<Reloadable<ClientTls>>> {
        L::client_tls(&client.layer).or_else(|| L::Below::client_tls(&client.below))
    }
}

/// The stream of a layer, over that of the one below. It has a last word of its own, an alert or a Close frame, and knows
/// of its peer's end what the one below knows.
pub trait LayerStream {
    /// That of the one below.
    type Below: Carrier;

    /// Whether there is something to be read, or to be done, without the one below.
    fn has_work(&self) -> bool;

    /// The one below.
    fn below(&self) -> &Self::Below;

    /// What protects it, where the layer itself does.
    fn protection(&self) -> Option<TlsProtection> {
        None
    }
}

impl<S: LayerStream + AsyncRead + AsyncWrite + Debug + Unpin + Send> Carrier for S {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_work() { Poll::Ready(()) } else { self.below().poll_readable(cx) }
    }

    fn has_last_word(&self) -> bool {
        true
    }

    fn ended(&self) -> Option<Closed> {
        self.below().ended()
    }

    fn facts(&self) -> StreamFacts {
        let below = self.below().facts();
        StreamFacts { tls: self.protection().or(below.tls), ..below }
    }

    fn poll_throw_away(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.below().poll_throw_away(cx)
    }
}
