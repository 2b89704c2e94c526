//! TLS over another transport.

use std::io;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context, Poll};

use mproxy_core::budget::Purse;
use mproxy_core::fault::Closed;
use mproxy_core::peer::{Address, Origin, TlsFacts};
use mproxy_tcp::tls::{self, ClientTls, MaterialError, Reloadable, ServerTls, TlsStream};
use tokio::time::{Instant, timeout_at};

use super::transport::{Accepted, Carrier, Incoming, Known, Room, Transport};
use super::{Failure, OpenError, Refused, told};
use crate::config::{Listener, Target};
use crate::share::Neighbours;

/// TLS over `T`.
#[derive(Debug)]
pub struct Tls<T>(PhantomData<T>);

/// Of a listener.
#[derive(Debug)]
pub struct Server<S> {
    below: S,
    tls: Arc<Reloadable<ServerTls>>,
}

/// Of a target.
#[derive(Debug)]
pub struct Client<C> {
    below: C,
    tls: Arc<Reloadable<ClientTls>>,
    /// What the broker's certificate has to be for.
    name: String,
}

impl<T: Transport> Transport for Tls<T> {
    type Listener = T::Listener;
    type Socket = T::Socket;
    type Stream = TlsStream<T::Stream>;
    type Server = Server<T::Server>;
    type Client = Client<T::Client>;

    fn server(listener: &Listener) -> Result<Self::Server, MaterialError> {
        // With nothing to show, it is a fault here, and never a plain listener.
        let tls = Arc::new(Reloadable::new(listener.tls.clone().unwrap_or_default())?);
        Ok(Server { below: T::server(listener)?, tls })
    }

    fn client(target: &Target) -> Result<Self::Client, MaterialError> {
        let tls = Arc::new(Reloadable::new(target.tls.clone())?);
        let name = target.server_name.as_ref().unwrap_or(&target.host).clone();
        Ok(Client { below: T::client(target)?, tls, name })
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
        let whose = Neighbours::from(&known.remote);
        let purse = Purse::of_stranger(&room.budget, whose);
        let held = move |held| purse.hold(held);
        let shake = Box::pin(tls::accept(below, server.tls.current(), held));
        let (stream, facts) = room.turns.polls(whose, shake).await?;
        known.tls = Some(Box::new(shown(facts)));
        Ok(stream)
    }

    async fn reach(
        client: &Self::Client,
        origin: &Origin,
        deadline: Instant,
    ) -> Result<Self::Stream, Failure> {
        let below = T::reach(&client.below, origin, deadline).await?;
        let shake = tls::connect(below, client.tls.current(), &client.name);
        match timeout_at(deadline, shake).await {
            Ok(shaken) => shaken.map_err(|error| Failure::Unspoken(told(&error))),
            Err(_) => Err(Failure::TooLate),
        }
    }

    fn forget(client: &Self::Client) {
        T::forget(&client.below);
    }

    fn server_tls(server: &Self::Server) -> Option<&Arc<Reloadable<ServerTls>>> {
        Some(&server.tls)
    }

    fn client_tls(client: &Self::Client) -> Option<&Arc<Reloadable<ClientTls>>> {
        Some(&client.tls)
    }
}

impl<S: Carrier> Carrier for TlsStream<S> {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_work() { Poll::Ready(()) } else { self.get_ref().poll_readable(cx) }
    }

    /// An alert.
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

fn shown(facts: tls::TlsFacts) -> TlsFacts {
    TlsFacts {
        version: facts.version.to_owned(),
        sni: facts.sni,
        alpn: facts.alpn,
        chain: facts.chain,
        subject: facts.subject,
        common_name: facts.common_name,
        subject_alt_names: facts.subject_alt_names,
        fingerprint: facts.fingerprint,
        serial: facts.serial,
    }
}
