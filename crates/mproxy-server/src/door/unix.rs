//! MQTT over a Unix socket: for processes of this machine, whose user the kernel vouches for.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use mproxy_core::fault::Closed;
use mproxy_core::peer::{Address, Credentials, Origin};
use mproxy_tcp::proxy_header::read_header_of;
use mproxy_tcp::tls::MaterialError;
use mproxy_unix::{PeerProcess, SocketFile, dial};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};

use super::transport::{
    self, AcceptedSocket, Carrier, HandshakeLimits, Known, Offer, SharedSocket, SharedStream, SocketKind,
    Transport,
};
use super::{DialFailure, OpenError, Refused, proxy};
use crate::config::{ListenerSettings, SendProxy, Target};
use crate::systemd::{FileOwner, InheritedSocket};

/// A Unix socket.
#[derive(Debug)]
pub enum Unix {}

/// Of a listener.
#[derive(Debug)]
pub struct UnixServer {
    /// Whether connections begin with a PROXY header. Who may connect at all may send one.
    has_header: bool,
}

/// Of a target.
#[derive(Debug)]
pub struct UnixClient {
    path: PathBuf,
    proxy: SendProxy,
}

impl Transport for Unix {
    type Listener = mproxy_unix::Listener;
    type Socket = Box<UnixStream>;
    type Stream = Box<UnixStream>;
    type Server = UnixServer;
    type Client = UnixClient;

    fn server(listener: &ListenerSettings) -> Result<UnixServer, MaterialError> {
        Ok(UnixServer { has_header: listener.proxy_from.is_some() })
    }

    fn client(target: &Target) -> Result<UnixClient, MaterialError> {
        Ok(UnixClient { path: target.socket.clone().unwrap_or_default(), proxy: target.proxy_protocol })
    }

    async fn listen(
        _: &UnixServer,
        listener: &ListenerSettings,
        inherited: Option<InheritedSocket>,
    ) -> Result<(Self::Listener, Address), OpenError> {
        let open = match inherited {
            Some(InheritedSocket::Unix(socket, FileOwner::Others)) => mproxy_unix::Listener::inherit(socket)?,
            Some(InheritedSocket::Unix(socket, FileOwner::Listener)) => {
                mproxy_unix::Listener::succeed(socket)?
            }
            Some(InheritedSocket::Tcp(_)) => return Err(OpenError::OtherKind),
            None => {
                // Always there where this is the transport, see `ListenerSettings::unix`.
                let file = listener.unix.clone().unwrap_or_else(|| SocketFile::new(""));
                mproxy_unix::Listener::bind(&file)?
            }
        };
        let path = Arc::clone(open.path());
        Ok((open, Address::Path(path)))
    }

    fn share(listener: &Self::Listener) -> io::Result<SharedSocket> {
        Ok(SharedSocket::of(listener)?.with_file(listener.file()))
    }

    fn poll_accept(listener: &mut Self::Listener, cx: &mut Context<'_>) -> Poll<Offer<Box<UnixStream>>> {
        Poll::Ready(match ready!(listener.poll_accept(cx)) {
            mproxy_unix::Incoming::Connection(mproxy_unix::Accepted { stream, peer }) => {
                let PeerProcess { pid, uid, gid } = peer;
                Offer::Connection(AcceptedSocket {
                    socket: Box::new(stream),
                    remote: Address::Process(Credentials { pid, uid, gid }),
                    local: Address::Path(Arc::clone(listener.path())),
                })
            }
            mproxy_unix::Incoming::Lost(error) => Offer::Lost(error),
            mproxy_unix::Incoming::Exhausted(error) => Offer::Exhausted(error),
        })
    }

    fn at_once(server: &UnixServer, socket: Box<UnixStream>) -> Result<Box<UnixStream>, Box<UnixStream>> {
        if server.has_header { Err(socket) } else { Ok(socket) }
    }

    async fn enter(
        server: &UnixServer,
        mut socket: Box<UnixStream>,
        known: &mut Known,
        limits: &HandshakeLimits,
    ) -> Result<Box<UnixStream>, Refused> {
        if server.has_header {
            proxy::believe(&read_header_of(&mut socket).await?, known, limits)?;
        }
        Ok(socket)
    }

    async fn reach(
        client: &UnixClient,
        origin: &Origin,
        deadline: Instant,
    ) -> Result<Box<UnixStream>, DialFailure> {
        let dialled = dial(&client.path, deadline).await;
        let mut stream = Box::new(dialled.map_err(|error| DialFailure::connecting(&error))?);
        match timeout_at(deadline, proxy::send(client.proxy, origin, &mut stream)).await {
            Ok(sent) => sent.map(|()| stream),
            Err(_) => Err(DialFailure::TooLate),
        }
    }

    fn forget(_: &UnixClient) {}
}

impl Carrier for Box<UnixStream> {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        // What failed says so when it is read.
        self.poll_read_ready(cx).map(drop)
    }

    /// No system call but where it has. A peer that closes ends both halves, and what it sent before can be read.
    fn ended(&self) -> Option<Closed> {
        let ready = self.ready(Interest::READABLE | Interest::WRITABLE);
        transport::ended(ready, || self.take_error(), || Closed::Eof)
    }

    fn says_goodbye(&self) -> bool {
        // The end of the connection ends both halves, and leaves the peer what was sent before.
        false
    }

    fn share(&self) -> io::Result<Option<SharedStream>> {
        SharedStream::of(SocketKind::Unix, &**self).map(Some)
    }

    fn poll_throw_away(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        transport::poll_throw_away(cx, |cx| self.poll_read_ready(cx), |bytes| self.try_read(bytes))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// TCP has a FIN for it, and a Unix socket the same event as for a reset.
    #[tokio::test]
    async fn a_peer_that_closes_has_ended_in_order() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut near = Box::new(near);
        assert_eq!(near.ended(), None);
        far.write_all(b"last").await.unwrap();
        drop(far);
        while near.ended().is_none() {
            tokio::task::yield_now().await;
        }
        assert_eq!(near.ended(), Some(Closed::Eof));
        assert_eq!(poll_fn(|cx| near.poll_throw_away(cx)).await.unwrap(), 4, "it can be read all the same");
        assert_eq!(near.read(&mut [0; 1]).await.unwrap(), 0);
    }
}
