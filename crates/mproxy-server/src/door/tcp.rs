//! MQTT straight over TCP.

use std::io;
use std::task::{Context, Poll, ready};

use mproxy_core::fault::Closed;
use mproxy_core::peer::{Address, Origin};
use mproxy_tcp::networks::Network;
use mproxy_tcp::proxy_header::read_header;
use mproxy_tcp::tls::MaterialError;
use mproxy_tcp::{LastGood, ListenOptions, SocketOptions, dial};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::transport::{
    self, AcceptedSocket, Carrier, HandshakeLimits, Known, Offer, SharedSocket, SharedStream, SocketKind,
    StreamFacts, Transport,
};
use super::{DialFailure, OpenError, Refused, proxy};
use crate::config::{ListenerSettings, SendProxy, Target};
use crate::systemd::InheritedSocket;

/// TCP.
#[derive(Debug)]
pub enum Tcp {}

/// Of a listener.
#[derive(Debug)]
pub struct TcpServer {
    /// Who may, and then has to, begin with a PROXY header; `None` where there is none.
    trusted: Option<Vec<Network>>,
}

/// Of a target.
#[derive(Debug)]
pub struct TcpClient {
    host: String,
    port: u16,
    proxy: SendProxy,
    /// Where the broker was found the last time.
    last_good: LastGood,
}

impl Transport for Tcp {
    type Listener = mproxy_tcp::Listener;
    type Socket = TcpStream;
    type Stream = TcpStream;
    type Server = TcpServer;
    type Client = TcpClient;

    fn server(listener: &ListenerSettings) -> Result<TcpServer, MaterialError> {
        Ok(TcpServer { trusted: listener.proxy_from.clone() })
    }

    fn client(target: &Target) -> Result<TcpClient, MaterialError> {
        let Target { host, port, proxy_protocol, .. } = target;
        let last_good = LastGood::default();
        Ok(TcpClient { host: host.clone(), port: *port, proxy: *proxy_protocol, last_good })
    }

    async fn listen(
        _: &TcpServer,
        listener: &ListenerSettings,
        inherited: Option<InheritedSocket>,
    ) -> Result<(Self::Listener, Address), OpenError> {
        let options = ListenOptions::default();
        let open = match inherited {
            Some(InheritedSocket::Tcp(socket)) => mproxy_tcp::Listener::inherit(socket, options.socket)?,
            Some(InheritedSocket::Unix(..)) => return Err(OpenError::OtherKind),
            None => mproxy_tcp::Listener::bind(&listener.host, listener.port, options).await?,
        };
        let address = open.local_addr();
        Ok((open, address.into()))
    }

    fn share(listener: &Self::Listener) -> io::Result<SharedSocket> {
        SharedSocket::of(listener)
    }

    fn poll_accept(listener: &mut Self::Listener, cx: &mut Context<'_>) -> Poll<Offer<TcpStream>> {
        Poll::Ready(match ready!(listener.poll_accept(cx)) {
            mproxy_tcp::Incoming::Connection(mproxy_tcp::Accepted { stream, remote, local }) => {
                let (remote, local) = (remote.into(), local.into());
                Offer::Connection(AcceptedSocket { socket: stream, remote, local })
            }
            mproxy_tcp::Incoming::Lost(error) => Offer::Lost(error),
            mproxy_tcp::Incoming::Exhausted(error) => Offer::Exhausted(error),
        })
    }

    fn at_once(server: &TcpServer, socket: TcpStream) -> Result<TcpStream, TcpStream> {
        if server.trusted.is_none() { Ok(socket) } else { Err(socket) }
    }

    async fn enter(
        server: &TcpServer,
        mut socket: TcpStream,
        known: &mut Known,
        limits: &HandshakeLimits,
    ) -> Result<TcpStream, Refused> {
        if let (Some(trusted), Address::Ip(from)) = (&server.trusted, &known.remote) {
            proxy::believe(&read_header(&mut socket, from.ip(), trusted).await?, known, limits)?;
        }
        Ok(socket)
    }

    async fn reach(client: &TcpClient, origin: &Origin, deadline: Instant) -> Result<TcpStream, DialFailure> {
        let TcpClient { host, port, proxy, last_good } = client;
        let dialled = dial(host, *port, &SocketOptions::default(), last_good, deadline).await;
        let mut stream = dialled.map_err(|error| DialFailure::connecting(&error))?;
        match timeout_at(deadline, proxy::send(*proxy, origin, &mut stream)).await {
            Ok(sent) => sent.map(|()| stream),
            Err(_) => Err(DialFailure::TooLate),
        }
    }

    fn forget(client: &TcpClient) {
        client.last_good.forget();
    }
}

impl Carrier for TcpStream {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        // What failed says so when it is read.
        self.poll_read_ready(cx).map(drop)
    }

    /// No system call but where it has.
    fn ended(&self) -> Option<Closed> {
        let ready = self.ready(Interest::READABLE | Interest::WRITABLE);
        transport::ended(
            ready,
            || self.take_error(),
            || Closed::Error(io::ErrorKind::ConnectionReset.to_string().into()),
        )
    }

    fn facts(&self) -> StreamFacts {
        StreamFacts { remote: self.peer_addr().ok(), tls: None }
    }

    fn says_goodbye(&self) -> bool {
        // A FIN says no more than closing the socket does.
        false
    }

    fn share(&self) -> io::Result<Option<SharedStream>> {
        SharedStream::of(SocketKind::Tcp, self).map(Some)
    }

    fn poll_throw_away(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        transport::poll_throw_away(cx, |cx| self.poll_read_ready(cx), |bytes| self.try_read(bytes))
    }
}
