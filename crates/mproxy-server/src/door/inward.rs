//! From a listener of any transport to connections that are through.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use mproxy_core::peer::Address;
use mproxy_tcp::proxy_header::HeaderError;
use mproxy_tcp::tls::{HandshakeError, MaterialError, Reloadable, ServerTls};
use mproxy_ws::upgrade::AcceptError;
use thiserror::Error;

use super::Stream;
use super::pause::Pause;
use super::transport::{Accepted, HandshakeLimits, Known, Offer, Transport};
use crate::config::ListenerSettings;

/// A listener that is not open yet: its certificates have been read.
pub struct Inward(Box<dyn Prepared>);

/// A listener that is open.
pub struct OpenListener {
    accepting: Box<dyn Accepting>,
    address: Address,
}

/// What one look at a listener brought.
pub enum Incoming {
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
            Self::Evicted => "evicted",
            Self::TooLate => "too_late",
        }
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
        let side: Arc<ListenerSide<T>> = Arc::new(ListenerSide(T::server(listener)?));
        Ok(Self(Box::new(side)))
    }

    /// The certificates, for whoever reloads them.
    #[must_use]
    pub fn tls(&self) -> Option<&Arc<Reloadable<ServerTls>>> {
        self.0.tls()
    }

    /// Opens it where the listener is configured to be.
    ///
    /// # Errors
    /// Names the place, and what to do.
    pub async fn open(&self, listener: &ListenerSettings) -> Result<OpenListener, OpenError> {
        self.0.open(listener).await
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

    /// Waits for the next connection, or tells why there is none at present. It has no final error: call it again after
    /// each of its answers.
    ///
    /// Cancel safe: a dropped future took nobody out of the queue, and a pause goes on where it was.
    pub async fn accept(&mut self) -> Incoming {
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

/// What a listener of this transport needs for its clients.
struct ListenerSide<T: Transport>(T::Server);

/// A [`ListenerSide`] of whatever transport.
trait Prepared: Send + Sync {
    fn tls(&self) -> Option<&Arc<Reloadable<ServerTls>>>;
    fn open<'a>(
        &'a self,
        listener: &'a ListenerSettings,
    ) -> Pin<Box<dyn Future<Output = Result<OpenListener, OpenError>> + Send + 'a>>;
}

/// A listener of whatever transport.
trait Accepting: Send {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Incoming>;
}

impl<T: Transport> Prepared for Arc<ListenerSide<T>>
where
    Stream: From<T::Stream>,
{
    fn tls(&self) -> Option<&Arc<Reloadable<ServerTls>>> {
        T::server_tls(&self.0)
    }

    fn open<'a>(
        &'a self,
        listener: &'a ListenerSettings,
    ) -> Pin<Box<dyn Future<Output = Result<OpenListener, OpenError>> + Send + 'a>> {
        Box::pin(async move {
            let (listener, address) = T::listen(&self.0, listener).await?;
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
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        ready!(self.pause.poll_over(cx));
        Poll::Ready(match ready!(T::poll_accept(&mut self.listener, cx)) {
            Offer::Connection(accepted) => {
                self.pause.forget();
                Incoming::Connection(arrived(&self.side, accepted))
            }
            Offer::Lost(error) => Incoming::Lost(error),
            Offer::Exhausted(error) => Incoming::Exhausted { error, pause: self.pause.begin() },
        })
    }
}

fn arrived<T: Transport>(side: &Arc<ListenerSide<T>>, accepted: Accepted<T::Socket>) -> Arrived
where
    Stream: From<T::Stream>,
{
    let Accepted { socket, remote, local } = accepted;
    // Two of them: a PROXY header may name another client, but this one is whose place it takes until then.
    let mut known = Known::by(remote.clone(), local);
    // Plain TCP has nothing to do first, and no future is boxed for it.
    let entering = match T::at_once(&side.0, socket) {
        Ok(stream) => Entering::Done(Entered { stream: stream.into(), known }),
        Err(socket) => {
            let side = Arc::clone(side);
            Entering::Shaking(Box::new(move |room| {
                Box::pin(async move {
                    let stream = T::enter(&side.0, socket, &mut known, &room).await?;
                    Ok(Entered { stream: stream.into(), known })
                })
            }))
        }
    };
    Arrived { remote, entering }
}
