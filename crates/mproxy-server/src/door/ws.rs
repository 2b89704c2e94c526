//! WebSocket over another transport.

use std::io;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context, Poll};

use mproxy_core::fault::Closed;
use mproxy_core::peer::{Address, Origin, WsFacts};
use mproxy_tcp::tls::{ClientTls, MaterialError, Reloadable, ServerTls};
use mproxy_ws::WsStream;
use mproxy_ws::upgrade::{self, Ask, Request, Terms};
use tokio::time::{Instant, timeout_at};

use super::transport::{Accepted, Carrier, Incoming, Known, Room, Transport};
use super::{Failure, OpenError, Refused, told};
use crate::config::{Listener, Target, Web, authority};

/// Subprotocols of a listener: MQTT's own, and that of 3.1 ([MQTT-6.0.0-3]).
const PROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// WebSocket over `T`.
#[derive(Debug)]
pub struct Ws<T>(PhantomData<T>);

/// Of a listener.
#[derive(Debug)]
pub struct Server<S> {
    below: S,
    terms: Terms,
}

/// Of a target.
#[derive(Debug)]
pub struct Client<C> {
    below: C,
    /// The Host header.
    host: String,
    path: String,
}

impl<T: Transport> Transport for Ws<T> {
    type Listener = T::Listener;
    type Socket = T::Socket;
    type Stream = WsStream<T::Stream>;
    type Server = Server<T::Server>;
    type Client = Client<T::Client>;

    fn server(listener: &Listener) -> Result<Self::Server, MaterialError> {
        let Web { origins, headers, cookies } = listener.web.clone();
        let terms = Terms { origins, headers, cookies, ..Terms::new(&listener.path, PROTOCOLS) };
        Ok(Server { below: T::server(listener)?, terms })
    }

    fn client(target: &Target) -> Result<Self::Client, MaterialError> {
        let host = host_header(&target.host, target.port);
        Ok(Client { below: T::client(target)?, host, path: target.path.clone() })
    }

    async fn listen(
        server: &Self::Server,
        listener: &Listener,
    ) -> Result<(Self::Listener, Address), OpenError> {
        T::listen(&server.below, listener).await
    }

    fn poll_accept(
        listener: &mut Self::Listener,
        cx: &mut Context<'_>,
    ) -> Poll<Incoming<Accepted<Self::Socket>>> {
        T::poll_accept(listener, cx)
    }

    fn at_once(_: &Self::Server, socket: Self::Socket) -> Result<Self::Stream, Self::Socket> {
        Err(socket)
    }

    async fn enter(
        server: &Self::Server,
        socket: Self::Socket,
        known: &mut Known,
        room: &Room,
    ) -> Result<Self::Stream, Refused> {
        let below = T::enter(&server.below, socket, known, room).await?;
        let (stream, request) = upgrade::accept(below, &server.terms).await?;
        known.ws = Some(Box::new(asked(request)));
        Ok(stream)
    }

    async fn reach(
        client: &Self::Client,
        origin: &Origin,
        deadline: Instant,
    ) -> Result<Self::Stream, Failure> {
        let below = T::reach(&client.below, origin, deadline).await?;
        let ask = Ask { host: &client.host, path: &client.path, protocol: "mqtt" };
        match timeout_at(deadline, upgrade::connect(below, &ask)).await {
            Ok(upgraded) => upgraded.map_err(|error| Failure::Unspoken(told(&error))),
            Err(_) => Err(Failure::TooLate),
        }
    }

    fn forget(client: &Self::Client) {
        T::forget(&client.below);
    }

    fn server_tls(server: &Self::Server) -> Option<&Arc<Reloadable<ServerTls>>> {
        T::server_tls(&server.below)
    }

    fn client_tls(client: &Self::Client) -> Option<&Arc<Reloadable<ClientTls>>> {
        T::client_tls(&client.below)
    }
}

impl<S: Carrier> Carrier for WsStream<S> {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_work() { Poll::Ready(()) } else { self.get_ref().poll_readable(cx) }
    }

    /// A Close frame.
    fn has_last_word(&self) -> bool {
        true
    }

    fn ended(&self) -> Option<Closed> {
        self.get_ref().ended()
    }

    fn poll_throw_away(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.get_ref().poll_throw_away(cx)
    }
}

/// The interface behind a link-local address means nothing at the other end (RFC 6874, 4).
fn host_header(host: &str, port: u16) -> String {
    authority(host.split_once('%').map_or(host, |(address, _)| address), port)
}

/// Chosen cookies are told as the header they came in.
fn asked(request: Request) -> WsFacts {
    let mut headers = request.headers;
    if !request.cookies.is_empty() {
        let pairs: Vec<String> =
            request.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        headers.push(("cookie".to_owned(), pairs.join("; ")));
    }
    WsFacts { path: request.path, host: request.host, headers }
}
