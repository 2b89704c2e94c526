//! The seam between transports and everything behind them. Whatever differs between TCP, TLS, WebSocket and Unix sockets
//! is an implementation of [`Transport`], for connections that come in and for those that go out, and of [`Carrier`] for
//! the bytes in between.
//!
//! | transport | file | what it adds |
//! |---|---|---|
//! | [`Tcp`](super::tcp::Tcp) | `tcp` | sockets; who the client is, or what a proxy says of it |
//! | [`Unix`](super::unix::Unix) | `unix` | the same at a path; the credentials of the process |
//! | [`Tls<T>`](super::tls::Tls) | `tls` | a handshake over any of them, and the facts of the certificate |
//! | [`Ws<T>`](super::ws::Ws) | `ws` | an upgrade over any of them, and the facts of the request |
//!
//! The last two are layers ([`TransportLayer`](super::layer::TransportLayer)): they have a handshake to add, and the rest is done by the one
//! below. To add one: a crate that makes byte streams, a file here that implements [`Transport`] or `TransportLayer`, and a row in `stream`, which
//! lists what can be configured.

use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::FutureExt as _;
use mproxy_core::budget::Budget;
use mproxy_core::fault::Closed;
use mproxy_core::peer::{Address, Origin, TlsFacts, WsFacts};
use mproxy_tcp::tls::{ClientTls, MaterialError, Reloadable, ServerTls, TlsProtection};
use mproxy_unix::OwnFile;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, Ready};
use tokio::time::Instant;

use super::{DialFailure, OpenError, Refused};
use crate::config::{ListenerSettings, Target};
use crate::share::turns::Turns;
use crate::systemd::InheritedSocket;

/// A way for MQTT to travel.
pub trait Transport: Sized + Send + Sync + 'static {
    /// A listener that is open.
    type Listener: Send + 'static;
    /// A connection that was accepted, and nothing done with yet.
    type Socket: Send + 'static;
    /// What carries MQTT.
    type Stream: Carrier + 'static;
    /// What a listener needs for its clients.
    type Server: Debug + Send + Sync + 'static;
    /// What it takes to reach a broker, and what is remembered of the last time.
    type Client: Debug + Send + Sync + 'static;

    /// As the listener is configured. Reads the certificates, which blocks.
    ///
    /// # Errors
    /// Which file is wrong, and why.
    fn server(listener: &ListenerSettings) -> Result<Self::Server, MaterialError>;

    /// As the target is configured. Reads the certificates, which blocks.
    ///
    /// # Errors
    /// Which file is wrong, and why.
    fn client(target: &Target) -> Result<Self::Client, MaterialError>;

    /// Opens the listener, or takes the socket that was opened for it, and says where. What it needs for its clients is there already: QUIC has its TLS below the
    /// connections.
    fn listen(
        server: &Self::Server,
        listener: &ListenerSettings,
        inherited: Option<InheritedSocket>,
    ) -> impl Future<Output = Result<(Self::Listener, Address), OpenError>> + Send;

    /// Its socket once more, for another process that goes on listening there.
    ///
    /// # Errors
    /// There are no descriptors left.
    fn share(listener: &Self::Listener) -> io::Result<SharedSocket>;

    /// The next connection. It has no final error: it is polled again after each of its answers.
    fn poll_accept(listener: &mut Self::Listener, cx: &mut Context<'_>) -> Poll<Offer<Self::Socket>>;

    /// The stream, where nothing has to be done before the first packet; else the socket again.
    ///
    /// # Errors
    /// The socket, for [`enter`](Self::enter).
    fn at_once(server: &Self::Server, socket: Self::Socket) -> Result<Self::Stream, Self::Socket>;

    /// Does what has to be done before the first packet. Adds what it learns to `known`. Not cancel safe, and need not
    /// be.
    fn enter(
        server: &Self::Server,
        socket: Self::Socket,
        known: &mut Known,
        room: &HandshakeLimits,
    ) -> impl Future<Output = Result<Self::Stream, Refused>> + Send;

    /// Reaches the broker for this client. Cancel safe: dropping the future closes what was half open.
    fn reach(
        client: &Self::Client,
        origin: &Origin,
        deadline: Instant,
    ) -> impl Future<Output = Result<Self::Stream, DialFailure>> + Send;

    /// The broker was connected to and cannot be spoken with: where its name has another address, that has its turn.
    fn forget(client: &Self::Client);

    /// The certificates that clients are shown, for whoever reloads them.
    fn server_tls(server: &Self::Server) -> Option<&Arc<Reloadable<ServerTls>>> {
        let _ = server;
        None
    }

    /// The certificates towards the broker, for whoever reloads them.
    fn client_tls(client: &Self::Client) -> Option<&Arc<Reloadable<ClientTls>>> {
        let _ = client;
        None
    }
}

/// What a stream is at this moment. Asked of it, so that nothing has to be kept for who may never ask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamFacts {
    /// Whom it is connected to, where that has an address.
    pub remote: Option<SocketAddr>,
    /// What protects it, if anything.
    pub tls: Option<TlsProtection>,
}

/// A socket that listens, once more: it listens as long as anybody has it.
#[derive(Debug)]
pub struct SharedSocket {
    descriptor: OwnedFd,
    /// Of a Unix socket.
    file: Option<OwnFile>,
}

impl SharedSocket {
    /// Of this listener, with whose file nothing is to be done, or which has none.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn of(listener: impl AsFd) -> io::Result<Self> {
        Ok(Self { descriptor: listener.as_fd().try_clone_to_owned()?, file: None })
    }

    /// The same of a listener whose file goes with it.
    #[must_use]
    pub fn with_file(self, file: Option<&OwnFile>) -> Self {
        Self { file: file.cloned(), ..self }
    }

    /// Whether a file goes with its listener.
    #[must_use]
    pub const fn owns_file(&self) -> bool {
        self.file.is_some()
    }

    /// Another process listens there from now on: the file is that one's.
    pub fn leave_file(&self) {
        if let Some(file) = &self.file {
            file.leave();
        }
    }
}

impl AsFd for SharedSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// What kind of socket a stream is, where it is nothing but a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SocketKind {
    /// TCP.
    Tcp,
    /// A Unix socket.
    Unix,
}

/// A socket that carries MQTT, once more: the connection stays open as long as anybody has it.
#[derive(Debug)]
pub struct SharedStream {
    /// What it is.
    pub kind: SocketKind,
    /// It itself.
    pub descriptor: OwnedFd,
}

impl SharedStream {
    pub(super) fn of(kind: SocketKind, stream: impl AsFd) -> io::Result<Self> {
        Ok(Self { kind, descriptor: stream.as_fd().try_clone_to_owned()? })
    }
}

/// A byte stream that carries MQTT, to a client or a broker.
pub trait Carrier: AsyncRead + AsyncWrite + Debug + Unpin + Send {
    /// Whether a read would bring anything; if not, the task is woken when it would. Spares a buffer for a read in vain.
    /// A stream that cannot tell says yes.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        let _ = cx;
        Poll::Ready(())
    }

    /// How the peer has ended, as far as that is known, though there may be bytes to be read before it. A stream that
    /// cannot tell says that it has not.
    fn ended(&self) -> Option<Closed> {
        None
    }

    /// Whether ending our half says more than the end of the connection says by itself.
    fn says_goodbye(&self) -> bool {
        true
    }

    /// Whether the peer was told something when reading failed, which a reset must not overtake.
    fn has_last_word(&self) -> bool {
        false
    }

    /// What it is, for people. One that does not know says nothing.
    fn facts(&self) -> StreamFacts {
        StreamFacts::default()
    }

    /// Its socket once more, for another process that goes on with it. `None` where a stream is more than its socket.
    ///
    /// # Errors
    /// There are no descriptors left.
    fn share(&self) -> io::Result<Option<SharedStream>> {
        Ok(None)
    }

    /// Throws away some of what comes in below, where the stream itself can be read no more: 0 is its end. A stream that
    /// has nothing below is at its end.
    fn poll_throw_away(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let _ = cx;
        Poll::Ready(Ok(0))
    }
}

/// [`Carrier::poll_throw_away`] of a socket, which says when it can be read and reads.
pub(super) fn poll_throw_away(
    cx: &mut Context<'_>,
    poll_read_ready: impl Fn(&mut Context<'_>) -> Poll<io::Result<()>>,
    try_read: impl Fn(&mut [u8]) -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(poll_read_ready(cx))?;
        match try_read(&mut [0; 1024]) {
            // Readiness may be old news; trying clears it, so that the next look waits.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            outcome => return Poll::Ready(outcome),
        }
    }
}

/// How the peer of a socket has ended, as far as the kernel has said so: `ready` is what it says of reading and writing,
/// `error` what is wrong with the socket, and `both` what it means that both halves have ended without any.
pub(super) fn ended(
    ready: impl Future<Output = io::Result<Ready>>,
    error: impl FnOnce() -> io::Result<Option<io::Error>>,
    both: impl FnOnce() -> Closed,
) -> Option<Closed> {
    let ready = ready.now_or_never()?.ok()?;
    // Both halves: of a reset, which says why, or in order, which only a transport can tell apart.
    if ready.is_write_closed() {
        let error = error().ok().flatten();
        return Some(error.map_or_else(both, |error| Closed::Error(error.to_string().into())));
    }
    ready.is_read_closed().then_some(Closed::Eof)
}

/// What one look at a listener brought.
#[derive(Debug)]
pub enum Offer<S> {
    /// Somebody is here.
    Connection(AcceptedSocket<S>),
    /// Somebody was here, and left before being let in.
    Lost(io::Error),
    /// This machine can take nobody at present, and would say so again at once. Who polls has to pause.
    Exhausted(io::Error),
}

/// A connection that was accepted.
#[derive(Debug)]
pub struct AcceptedSocket<S> {
    /// It itself.
    pub socket: S,
    /// Who came.
    pub remote: Address,
    /// Where it came to.
    pub local: Address,
}

/// What is known of a client before its first packet.
#[derive(Clone, Debug)]
pub struct Known {
    /// Who it is: after a PROXY header, whom that names.
    pub remote: Address,
    /// What it connected to.
    pub local: Address,
    /// Of our handshake with it, or else what a proxy told of its own.
    pub tls: Option<Box<TlsFacts>>,
    /// Of the upgrade.
    pub ws: Option<Box<WsFacts>>,
}

impl Known {
    /// By its addresses alone.
    #[must_use]
    pub fn by(remote: Address, local: Address) -> Self {
        Self { remote, local, tls: None, ws: None }
    }
}

/// Says whether a client may come in that a PROXY header has named.
pub trait NamedClients: Debug + Send + Sync {
    /// # Errors
    /// Why not: a label, and a text for the log.
    fn admit(&self, named: &Address) -> Result<(), (&'static str, &'static str)>;
}

/// Within what handshakes have to stay.
#[derive(Clone, Debug)]
pub struct HandshakeLimits {
    /// Absent: whoever is named may come in.
    named: Option<Arc<dyn NamedClients>>,
    /// Their work is done in turns.
    pub(super) turns: Arc<Turns>,
    /// What strangers may make mproxy hold.
    pub(super) budget: Arc<Budget>,
}

impl HandshakeLimits {
    /// One handshake works at a time.
    #[must_use]
    pub fn new(budget: &Arc<Budget>) -> Self {
        Self::sharing(&Turns::new(1), budget)
    }

    /// The turns are those of other listeners, too.
    pub(crate) fn sharing(turns: &Arc<Turns>, budget: &Arc<Budget>) -> Self {
        Self { named: None, turns: Arc::clone(turns), budget: Arc::clone(budget) }
    }

    /// The same for one connection, of whose client this is asked if a PROXY header names it.
    pub(crate) fn asking(&self, named: Arc<dyn NamedClients>) -> Self {
        Self { named: Some(named), ..self.clone() }
    }

    /// Whether a client may come in that a PROXY header has named.
    pub(super) fn admit(&self, named: &Address) -> Result<(), Refused> {
        let admitted = self.named.as_ref().map_or(Ok(()), |clients| clients.admit(named));
        admitted.map_err(|(label, text)| Refused::Limit { label, text })
    }
}
