//! From a listener of any transport to connections that are through.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use arc_swap::ArcSwap;
use mproxy_core::peer::Address;
use mproxy_tcp::proxy_header::HeaderError;
use mproxy_tcp::tls::{HandshakeError, MaterialError, Reloadable, ServerTls};
use mproxy_ws::upgrade::AcceptError;
use thiserror::Error;

use super::Stream;
use super::pause::Pause;
use super::transport::{AcceptedSocket, HandshakeLimits, Known, Offer, SharedSocket, Transport};
use crate::config::ListenerSettings;
use crate::protect::arrivals::ArrivalRefusal;
use crate::systemd::InheritedSocket;

/// A listener that is not open yet: its certificates have been read.
pub struct Inward(Box<dyn AnyListenerSide>);

/// What a listener is to be for clients to come.
pub struct PreparedListener {
    /// The certificates, for whoever reloads them.
    pub tls: Option<Arc<Reloadable<ServerTls>>>,
    put: Box<dyn FnOnce() + Send>,
}

impl PreparedListener {
    /// From now on it is.
    pub fn put_in_force(self) {
        (self.put)();
    }
}

impl fmt::Debug for PreparedListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreparedListener").finish_non_exhaustive()
    }
}

/// A listener that is open.
pub struct OpenListener {
    accepting: Box<dyn Accepting>,
    address: Address,
}

/// What one look at a listener brought.
pub enum AcceptOutcome {
    /// Somebody is here.
    Connection(Arrived),
    /// Somebody was here, and left before being let in. Nothing to do but count it.
    Lost(io::Error),
    /// This machine can take nobody at present; the listener rests for so long.
    Exhausted {
        /// What the kernel said.
        error: io::Error,
        /// How long.
        pause: Duration,
    },
}

/// A connection that came in.
pub struct Arrived {
    /// Who came, as far as it is known.
    pub remote: Address,
    /// What is to be done before the first packet.
    pub entering: Entering,
}

/// What is to be done before the first packet.
pub enum Entering {
    /// Nothing.
    Done(Entered),
    /// Handshakes. Boxed when they begin: they are large, and over soon.
    Shaking(Box<dyn FnOnce(HandshakeLimits) -> Shake + Send>),
}

/// Handshakes on their side. Dropped, they drop the connection.
pub type Shake = Pin<Box<dyn Future<Output = Result<Entered, Refused>> + Send>>;

/// A connection that is through.
#[derive(Debug)]
pub struct Entered {
    /// What carries MQTT.
    pub stream: Stream,
    /// Who is at the other end.
    pub known: Known,
}

/// Why a connection did not get through; always its own doing.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Refused {
    /// At the PROXY header.
    #[error(transparent)]
    Proxy(#[from] HeaderError),
    /// At the TLS handshake.
    #[error(transparent)]
    Tls(#[from] HandshakeError),
    /// At the upgrade to WebSocket.
    #[error(transparent)]
    Ws(#[from] AcceptError),
    /// Whom its PROXY header names may not come in.
    #[error("refused: {text}")]
    Limit {
        /// Which limit.
        label: &'static str,
        /// The same in words.
        text: &'static str,
    },
    /// Its address had the most of those that are not admitted yet, when there was no room for others.
    #[error("evicted: its address had the most connections that were not admitted yet")]
    Evicted,
    /// Somewhere among these, when its time was up.
    #[error("deadline exceeded: handshake")]
    TooLate,
}

impl Refused {
    /// A short name for counters.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Proxy(HeaderError::NotTrusted(_)) => "proxy_not_trusted",
            Self::Proxy(HeaderError::Malformed(_)) => "proxy_malformed",
            Self::Proxy(_) => "proxy_ended",
            Self::Tls(error) => error.label(),
            Self::Ws(AcceptError::Refused(_)) => "ws_refused",
            Self::Ws(AcceptError::TooLarge) => "ws_too_large",
            Self::Ws(AcceptError::NotHttp(..)) => "ws_not_http",
            Self::Ws(_) => "ws_ended",
            Self::Limit { label, .. } => label,
            Self::Evicted => "evicted",
            Self::TooLate => "too_late",
        }
    }
}

impl From<ArrivalRefusal> for Refused {
    fn from(why: ArrivalRefusal) -> Self {
        Self::Limit { label: why.name(), text: why.text() }
    }
}

/// Why a listener could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// At a port.
    #[error(transparent)]
    Tcp(#[from] mproxy_tcp::ListenError),
    /// At a path.
    #[error(transparent)]
    Unix(#[from] mproxy_unix::ListenError),
    /// The socket that was opened for it cannot be used.
    #[error("the socket that was passed for it cannot be used")]
    Inherited(#[from] io::Error),
    /// That is of another kind.
    #[error("the socket that was passed for it is of another kind")]
    OtherKind,
}

impl Inward {
    /// Over this transport. Reads the certificates, which blocks.
    ///
    /// # Errors
    /// Which file is wrong, and why.
    pub(super) fn over<T>(listener: &ListenerSettings) -> Result<Self, MaterialError>
    where
        T: Transport,
        Stream: From<T::Stream>,
    {
        let side: Arc<ListenerSide<T>> = Arc::new(ListenerSide(ArcSwap::from_pointee(T::server(listener)?)));
        Ok(Self(Box::new(side)))
    }

    /// The certificates, for whoever reloads them.
    #[must_use]
    pub fn tls(&self) -> Option<Arc<Reloadable<ServerTls>>> {
        self.0.tls()
    }

    /// What it is to be for clients to come, with these settings, whose transport has to be the same; nothing changes yet.
    /// Reads the certificates, which blocks.
    ///
    /// # Errors
    /// Which file is wrong, and why.
    pub fn prepare(&self, listener: &ListenerSettings) -> Result<PreparedListener, MaterialError> {
        self.0.prepare(listener)
    }

    /// Opens it where the listener is configured to be.
    ///
    /// # Errors
    /// Names the place, and what to do.
    pub async fn open(&self, listener: &ListenerSettings) -> Result<OpenListener, OpenError> {
        self.0.open(listener, None).await
    }

    /// Opens it at a socket that was opened for it before mproxy started.
    ///
    /// # Errors
    /// The socket cannot be used.
    pub async fn open_at(
        &self,
        socket: InheritedSocket,
        listener: &ListenerSettings,
    ) -> Result<OpenListener, OpenError> {
        self.0.open(listener, Some(socket)).await
    }
}

impl fmt::Debug for Inward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Inward").finish_non_exhaustive()
    }
}

impl OpenListener {
    /// Where it listens; the port is the one that port 0 became.
    #[must_use]
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// Its socket once more, for another process that goes on listening there.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn share(&self) -> io::Result<SharedSocket> {
        self.accepting.share()
    }

    /// Waits for the next connection, or tells why there is none at present. It has no final error: call it again after
    /// each of its answers.
    ///
    /// Cancel safe: a dropped future took nobody out of the queue, and a pause goes on where it was.
    pub async fn accept(&mut self) -> AcceptOutcome {
        poll_fn(|cx| self.accepting.poll_accept(cx)).await
    }
}

impl Arrived {
    /// Does what has to be done before the first packet, the work of handshakes in turns, and within what strangers may
    /// make mproxy hold.
    ///
    /// # Errors
    /// What the client did wrong, and where.
    pub async fn enter(self, room: HandshakeLimits) -> Result<Entered, Refused> {
        match self.entering {
            Entering::Done(entered) => Ok(entered),
            Entering::Shaking(shake) => shake(room).await,
        }
    }
}

/// What a listener of this transport needs for its next client.
struct ListenerSide<T: Transport>(ArcSwap<T::Server>);

/// A [`ListenerSide`] of whatever transport.
trait AnyListenerSide: Send + Sync {
    fn tls(&self) -> Option<Arc<Reloadable<ServerTls>>>;
    fn prepare(&self, listener: &ListenerSettings) -> Result<PreparedListener, MaterialError>;
    fn open<'a>(
        &'a self,
        listener: &'a ListenerSettings,
        inherited: Option<InheritedSocket>,
    ) -> Pin<Box<dyn Future<Output = Result<OpenListener, OpenError>> + Send + 'a>>;
}

/// A listener of whatever transport.
trait Accepting: Send {
    fn share(&self) -> io::Result<SharedSocket>;
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<AcceptOutcome>;
}

impl<T: Transport> AnyListenerSide for Arc<ListenerSide<T>>
where
    Stream: From<T::Stream>,
{
    fn tls(&self) -> Option<Arc<Reloadable<ServerTls>>> {
        T::server_tls(&self.0.load()).cloned()
    }

    fn prepare(&self, listener: &ListenerSettings) -> Result<PreparedListener, MaterialError> {
        let server = Arc::new(T::server(listener)?);
        let (tls, side) = (T::server_tls(&server).cloned(), Self::clone(self));
        Ok(PreparedListener { tls, put: Box::new(move || side.0.store(server)) })
    }

    fn open<'a>(
        &'a self,
        listener: &'a ListenerSettings,
        inherited: Option<InheritedSocket>,
    ) -> Pin<Box<dyn Future<Output = Result<OpenListener, OpenError>> + Send + 'a>> {
        Box::pin(async move {
            let server = self.0.load_full();
            let (listener, address) = T::listen(&server, listener, inherited).await?;
            let side = Self::clone(self);
            Ok(OpenListener {
                accepting: Box::new(ListeningSocket { listener, side, pause: Pause::default() }),
                address,
            })
        })
    }
}

struct ListeningSocket<T: Transport> {
    listener: T::Listener,
    side: Arc<ListenerSide<T>>,
    pause: Pause,
}

impl<T: Transport> Accepting for ListeningSocket<T>
where
    Stream: From<T::Stream>,
{
    fn share(&self) -> io::Result<SharedSocket> {
        T::share(&self.listener)
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<AcceptOutcome> {
        ready!(self.pause.poll_over(cx));
        Poll::Ready(match ready!(T::poll_accept(&mut self.listener, cx)) {
            Offer::Connection(accepted) => {
                self.pause.forget();
                AcceptOutcome::Connection(arrived(&self.side, accepted))
            }
            Offer::Lost(error) => AcceptOutcome::Lost(error),
            Offer::Exhausted(error) => AcceptOutcome::Exhausted { error, pause: self.pause.begin() },
        })
    }
}

fn arrived<T: Transport>(side: &Arc<ListenerSide<T>>, accepted: AcceptedSocket<T::Socket>) -> Arrived
where
    Stream: From<T::Stream>,
{
    let AcceptedSocket { socket, remote, local } = accepted;
    // Two of them: a PROXY header may name another client, but this one is whose place it takes until then.
    let mut known = Known::by(remote.clone(), local);
    // Plain TCP has nothing to do first, and no future is boxed for it.
    // As it is configured at this moment: a reload is for those who come later.
    let server = side.0.load_full();
    let entering = match T::at_once(&server, socket) {
        Ok(stream) => Entering::Done(Entered { stream: stream.into(), known }),
        Err(socket) => Entering::Shaking(Box::new(move |room| {
            Box::pin(async move {
                let stream = T::enter(&server, socket, &mut known, &room).await?;
                Ok(Entered { stream: stream.into(), known })
            })
        })),
    };
    Arrived { remote, entering }
}
