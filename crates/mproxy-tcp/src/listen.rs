//! A listening socket that outlives every hiccup of `accept`. It never decides who may come in: counting and
//! refusing is the caller's.

use crate::{
    resolve::{host_port, resolve},
    socket::{SocketOptions, prepare},
};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::{
    io,
    net::SocketAddr,
    task::{Context, Poll, ready},
};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};

/// How a [`Listener`] listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenOptions {
    /// How many connections may wait to be accepted; the kernel may hold it lower (`net.core.somaxconn`).
    pub backlog: u32,
    /// Lets several listeners share one port, the kernel spreading connections over them (`SO_REUSEPORT`).
    pub reuse_port: bool,
    /// What every accepted stream gets.
    pub socket: SocketOptions,
}

impl Default for ListenOptions {
    fn default() -> Self {
        // 4096 is Linux's own somaxconn: a fleet that comes back at once should find room.
        // A second mproxy on the same port is told so, where a shared port would silently take half of the clients
        // (ADR 0009).
        Self { backlog: 4096, reuse_port: false, socket: SocketOptions::default() }
    }
}

/// A bound, listening socket.
#[derive(Debug)]
pub struct Listener {
    inner: TcpListener,
    local: SocketAddr,
    socket: SocketOptions,
}

/// A connection that came in, its options already set.
#[derive(Debug)]
pub struct Accepted {
    /// The byte stream.
    pub stream: TcpStream,
    /// Who came. An IPv4 peer of a dual-stack listener is told as IPv4.
    pub remote: SocketAddr,
    /// Where it came to.
    pub local: SocketAddr,
}

/// What one [`Listener::accept`] brought.
#[derive(Debug)]
pub enum Incoming {
    /// Somebody is here.
    Connection(Accepted),
    /// Somebody was here, and left before being let in. Nothing to do but count it.
    Lost(io::Error),
    /// This machine can take nobody at present (no file descriptor, no memory), and those who wait stay in the kernel's
    /// queue. The next `accept` would say the same at once: the caller has to pause.
    Exhausted(io::Error),
}

/// On Linux an accepted socket is a copy of its listener with all options that we set; elsewhere not surely.
/// Setting them once spares five system calls a connection.
const INHERITED: bool = cfg!(target_os = "linux");

impl Listener {
    /// Listens on the first address of `host` that can be bound. Port 0 takes a free one; `::` listens for IPv4
    /// too.
    ///
    /// ```
    /// # use mproxy_tcp::{ListenOptions, Listener};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), mproxy_tcp::ListenError> {
    /// let listener = Listener::bind("localhost", 0, ListenOptions::default()).await?;
    /// assert_ne!(listener.local_addr().port(), 0);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn bind(host: &str, port: u16, options: ListenOptions) -> Result<Self, ListenError> {
        let target = host_port(host, port);
        let addresses = match resolve(host, port).await {
            Ok(addresses) => addresses,
            Err(source) => return Err(ListenError::Resolve { target, source }),
        };
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for address in addresses {
            match open(address, &options).and_then(|socket| Self::of(socket, options.socket)) {
                Ok(listener) => return Ok(listener),
                Err(error) => last = error,
            }
        }
        Err(ListenError::Bind { target, source: last })
    }

    /// Listens at a socket that somebody else has bound and listens at.
    ///
    /// # Errors
    /// It cannot be used, or has no such options.
    pub fn inherit(socket: std::net::TcpListener, options: SocketOptions) -> io::Result<Self> {
        let socket = Socket::from(socket);
        if INHERITED {
            prepare(&SockRef::from(&socket), &options)?;
        }
        socket.set_nonblocking(true)?;
        Self::of(socket, options)
    }

    fn of(socket: Socket, options: SocketOptions) -> io::Result<Self> {
        let inner = TcpListener::from_std(socket.into())?;
        let local = inner.local_addr()?;
        Ok(Self { inner, local, socket: options })
    }

    /// The address that was bound, with the port that port 0 became.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Waits for the next connection, or tells why there is none at present. It has no final error: call it
    /// again after each of its answers.
    ///
    /// Cancel safe: a dropped future took nobody out of the queue.
    pub async fn accept(&mut self) -> Incoming {
        std::future::poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// The same, for whoever polls.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        let accepted = ready!(self.inner.poll_accept(cx));
        Poll::Ready(match accepted.and_then(|(stream, remote)| self.admit(stream, remote)) {
            Ok(accepted) => Incoming::Connection(accepted),
            Err(error) if concerns_one_connection(&error) => Incoming::Lost(error),
            Err(error) => Incoming::Exhausted(error),
        })
    }

    fn admit(&self, stream: TcpStream, remote: SocketAddr) -> io::Result<Accepted> {
        if !INHERITED {
            prepare(&SockRef::from(&stream), &self.socket)?;
        }
        // Where the listener has one address, each connection is spared a system call.
        let local = if self.local.ip().is_unspecified() { stream.local_addr()? } else { self.local };
        Ok(Accepted { stream, remote: canonical(remote), local: canonical(local) })
    }
}

#[cfg(unix)]
impl std::os::fd::AsFd for Listener {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

fn open(address: SocketAddr, options: &ListenOptions) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for the last run's connections to leave TIME_WAIT. On Windows the same option
    // would let a stranger take the port over.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(options.reuse_port)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        // `::` is to mean both, whatever this system's own default is.
        socket.set_only_v6(false)?;
    }
    if INHERITED {
        prepare(&SockRef::from(&socket), &options.socket)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    Ok(socket)
}

/// Whether an error of `accept` is about the connection that it would have brought. Everything else, known or
/// not, is about us, and would come again at once.
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    // accept(2): errors that were already pending on the new socket come out of accept.
    matches!(
        error.kind(),
        Kind::ConnectionAborted
            | Kind::ConnectionReset
            | Kind::ConnectionRefused
            | Kind::NotConnected
            | Kind::NetworkDown
            | Kind::NetworkUnreachable
            | Kind::HostUnreachable
            | Kind::TimedOut
            | Kind::PermissionDenied
            | Kind::Interrupted
    )
}

/// `::ffff:10.0.0.7` is 10.0.0.7 to everybody who reads it.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) if v6.ip().to_ipv4_mapped().is_some() => {
            SocketAddr::new(v6.ip().to_canonical(), v6.port())
        }
        _ => address,
    }
}

/// Why a [`Listener`] could not be had. Names the `host:port` that was asked for.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The host to listen on has no address.
    #[error("cannot listen on {target}: its host could not be resolved")]
    Resolve {
        /// What was asked for.
        target: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// The port is taken, reserved, or the address is not this machine's.
    #[error("cannot listen on {target}")]
    Bind {
        /// What was asked for.
        target: String,
        /// What the kernel said.
        source: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Duration;

    async fn listener(host: &str, options: ListenOptions) -> Listener {
        Listener::bind(host, 0, options).await.unwrap()
    }

    async fn next(listener: &mut Listener) -> Accepted {
        match listener.accept().await {
            Incoming::Connection(accepted) => accepted,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn an_accepted_stream_comes_prepared() {
        let socket = SocketOptions { user_timeout: Some(Duration::from_secs(30)) };
        let mut listener = listener("127.0.0.1", ListenOptions { socket, ..ListenOptions::default() }).await;
        let client = TcpStream::connect(listener.local_addr()).await.unwrap();
        let accepted = next(&mut listener).await;
        assert_eq!(accepted.remote, client.local_addr().unwrap());
        assert_eq!(accepted.local, client.peer_addr().unwrap());
        let options = SockRef::from(&accepted.stream);
        assert!(options.tcp_nodelay().unwrap());
        assert!(options.keepalive().unwrap());
        #[cfg(target_os = "linux")]
        {
            assert_eq!(options.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
            assert_eq!(options.tcp_keepalive_interval().unwrap(), Duration::from_secs(15));
            assert_eq!(options.tcp_keepalive_retries().unwrap(), 4);
            assert_eq!(options.tcp_user_timeout().unwrap(), socket.user_timeout);
        }
    }

    #[tokio::test]
    async fn an_ipv4_peer_of_a_dual_stack_listener_is_told_as_ipv4() {
        let Ok(mut listener) = Listener::bind("::", 0, ListenOptions::default()).await else {
            eprintln!("this machine has no IPv6");
            return;
        };
        let here = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), listener.local_addr().port());
        let client = TcpStream::connect(here).await.unwrap();
        let accepted = next(&mut listener).await;
        assert_eq!(accepted.remote, client.local_addr().unwrap());
        assert_eq!(accepted.local, here);
    }

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let taken = listener("127.0.0.1", ListenOptions::default()).await;
        let port = taken.local_addr().port();
        let error = Listener::bind("127.0.0.1", port, ListenOptions::default()).await.unwrap_err();
        assert_eq!(error.to_string(), format!("cannot listen on 127.0.0.1:{port}"));
        let ListenError::Bind { source, .. } = error else { panic!("{error:?}") };
        assert_eq!(source.kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn a_host_without_address_is_named() {
        let error = Listener::bind("no-such-host.invalid", 1883, ListenOptions::default()).await.unwrap_err();
        assert!(matches!(error, ListenError::Resolve { .. }), "{error:?}");
        assert!(error.to_string().contains("no-such-host.invalid:1883"));
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn two_listeners_share_a_port_that_allows_it() {
        let options = ListenOptions { reuse_port: true, ..ListenOptions::default() };
        let first = listener("127.0.0.1", options).await;
        Listener::bind("127.0.0.1", first.local_addr().port(), options).await.unwrap();
    }

    #[tokio::test]
    async fn a_dropped_accept_loses_nobody() {
        let mut listener = listener("127.0.0.1", ListenOptions::default()).await;
        tokio::select! {
            biased;
            incoming = listener.accept() => panic!("{incoming:?}"),
            () = std::future::ready(()) => {}
        }
        let client = TcpStream::connect(listener.local_addr()).await.unwrap();
        assert_eq!(next(&mut listener).await.remote, client.local_addr().unwrap());
    }
}
