//! TLS over another transport.

use std::marker::PhantomData;
use std::sync::Arc;

use mproxy_core::budget::Purse;
use mproxy_core::peer::TlsFacts;
use mproxy_tcp::tls::{self, ClientTls, MaterialError, Reloadable, ServerTls, TlsProtection, TlsStream};

use super::layer::{LayerStream, TransportLayer};
use super::transport::{Carrier, HandshakeLimits, Known, Transport};
use super::{Refused, in_one_line};
use crate::config::{ListenerSettings, Target};
use crate::share::Neighbours;

/// TLS over `T`.
#[derive(Debug)]
pub struct Tls<T>(PhantomData<T>);

/// What brokers are asked for.
#[derive(Debug)]
pub struct TlsToBroker {
    tls: Arc<Reloadable<ClientTls>>,
    /// What the broker's certificate has to be for.
    name: String,
}

impl<T: Transport> TransportLayer for Tls<T> {
    type Below = T;
    type Stream = TlsStream<T::Stream>;
    type Server = Arc<Reloadable<ServerTls>>;
    type Client = TlsToBroker;

    fn server(listener: &ListenerSettings) -> Result<Self::Server, MaterialError> {
        // With nothing to show, it is a fault here, and never a plain listener.
        Ok(Arc::new(Reloadable::new(listener.tls.clone().unwrap_or_default())?))
    }

    fn client(target: &Target) -> Result<TlsToBroker, MaterialError> {
        let tls = Arc::new(Reloadable::new(target.tls.clone())?);
        let name = target.server_name.as_ref().unwrap_or(&target.host).clone();
        Ok(TlsToBroker { tls, name })
    }

    async fn accept(
        server: &Self::Server,
        below: T::Stream,
        known: &mut Known,
        room: &HandshakeLimits,
    ) -> Result<Self::Stream, Refused> {
        // Neither work nor memory of handshakes may be one address's: a ClientHello costs its sender nothing.
        let whose = Neighbours::from(&known.remote);
        let purse = Purse::of_stranger(&room.budget, whose);
        let held = move |held| purse.hold(held);
        // With the certificates of this moment: a reload is for those who come later.
        let shake = Box::pin(tls::accept(below, server.current(), held));
        let (stream, facts) = room.turns.polls(whose, shake).await?;
        known.tls = Some(Box::new(shown(facts)));
        Ok(stream)
    }

    async fn connect(client: &TlsToBroker, below: T::Stream) -> Result<Self::Stream, String> {
        let shaken = tls::connect(below, client.tls.current(), &client.name).await;
        shaken.map_err(|error| in_one_line(&error))
    }

    fn server_tls(server: &Self::Server) -> Option<&Arc<Reloadable<ServerTls>>> {
        Some(server)
    }

    fn client_tls(client: &TlsToBroker) -> Option<&Arc<Reloadable<ClientTls>>> {
        Some(&client.tls)
    }
}

impl<S: Carrier> LayerStream for TlsStream<S> {
    type Below = S;

    fn has_work(&self) -> bool {
        Self::has_work(self)
    }

    fn below(&self) -> &S {
        self.get_ref()
    }

    fn protection(&self) -> Option<TlsProtection> {
        Some(Self::protection(self))
    }
}

fn shown(facts: tls::HandshakeFacts) -> TlsFacts {
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
