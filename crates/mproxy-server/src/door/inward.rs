//! From an accepted connection to a byte stream: PROXY header, TLS, WebSocket, each where the listener has it.

use std::net::SocketAddr;
use std::sync::Arc;

use mproxy_core::Budget;
use mproxy_core::budget::Purse;
use mproxy_core::peer::{TlsFacts, WsFacts};
use mproxy_tcp::networks::Network;
use mproxy_tcp::proxy_header::{Header, HeaderError, ProxiedCertificate, ProxiedTls, read_header};
use mproxy_tcp::tls::{self, HandshakeError, MaterialError, Reloadable, ServerTls};
use mproxy_ws::upgrade::{self, AcceptError, Request, Terms};
use thiserror::Error;
use tokio::net::TcpStream;

use super::Stream;
use crate::config::{Listener, Web};
use crate::share::Neighbours;
use crate::share::turns::Turns;

/// Subprotocols of a listener: MQTT's own, and that of 3.1 ([MQTT-6.0.0-3]).
const PROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// What a listener does with a connection before the first packet.
#[derive(Debug)]
pub struct Inward {
    /// Who may, and then has to, begin with a PROXY header; `None` where there is none.
    trusted: Option<Vec<Network>>,
    tls: Option<Arc<Reloadable<ServerTls>>>,
    ws: Option<Terms>,
    /// For the work of handshakes.
    turns: Arc<Turns>,
}

/// A connection that is through.
#[derive(Debug)]
pub struct Entered {
    /// What carries MQTT.
    pub stream: Stream,
    /// The client, as far as it is known.
    pub remote: SocketAddr,
    /// What it connected to.
    pub local: SocketAddr,
    /// Of our handshake with it, or else what a proxy told of its own.
    pub tls: Option<Box<TlsFacts>>,
    /// Of the upgrade.
    pub ws: Option<Box<WsFacts>>,
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
    #[error("made room for others: most connections not admitted yet were of its address")]
    Evicted,
    /// Somewhere among these, when its time was up.
    #[error("not done with its handshakes in time")]
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

impl Inward {
    /// As the listener is configured. Reads the certificates, which blocks.
    ///
    /// # Errors
    /// Which file is wrong, and why.
    pub fn of(listener: &Listener) -> Result<Self, MaterialError> {
        let Web { origins, headers, cookies } = listener.web.clone();
        let terms = || Terms { origins, headers, cookies, ..Terms::new(&listener.path, PROTOCOLS) };
        // With nothing to show, a TLS listener is a fault here, and never a plain one.
        let tls = listener.transport.is_tls().then(|| listener.tls.clone().unwrap_or_default());
        Ok(Self {
            trusted: listener.proxy_from.clone(),
            tls: tls.map(Reloadable::new).transpose()?.map(Arc::new),
            ws: listener.transport.is_websocket().then(terms),
            turns: Turns::new(1),
        })
    }

    /// Shares the turns for handshakes with other listeners.
    pub(crate) fn share(&mut self, turns: &Arc<Turns>) {
        self.turns = Arc::clone(turns);
    }

    /// The certificates, for whoever reloads them.
    #[must_use]
    pub fn tls(&self) -> Option<&Arc<Reloadable<ServerTls>>> {
        self.tls.as_ref()
    }

    /// Whether a connection is through as soon as it is accepted.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.trusted.is_none() && self.tls.is_none() && self.ws.is_none()
    }

    /// Does what has to be done before the first packet, the work of TLS in turns, and within what strangers may make
    /// mproxy hold. Not cancel safe, and need not be.
    ///
    /// # Errors
    /// What the client did wrong, and where.
    pub async fn enter(
        &self,
        mut stream: TcpStream,
        remote: SocketAddr,
        local: SocketAddr,
        budget: &Arc<Budget>,
    ) -> Result<Entered, Refused> {
        let header = match &self.trusted {
            Some(trusted) => read_header(&mut stream, remote.ip(), trusted).await?,
            None => Header::default(),
        };
        let (remote, local) =
            header.endpoints.map_or((remote, local), |ends| (ends.source, ends.destination));
        let told = proxied(&header);
        let whose = Neighbours::from(remote.ip());
        let shake = |stream, tls: &Arc<Reloadable<ServerTls>>| {
            let purse = Purse::of_stranger(budget, whose);
            let room = move |held| purse.hold(held);
            self.turns.polls(whose, Box::pin(tls::accept(stream, tls.current(), room)))
        };
        let entered = |stream, tls: Option<TlsFacts>, request: Option<Request>| Entered {
            stream,
            remote,
            local,
            tls: tls.or(told).map(Box::new),
            ws: request.map(|request| Box::new(asked(request))),
        };
        Ok(match (&self.tls, &self.ws) {
            (None, None) => entered(Stream::Tcp(stream), None, None),
            (Some(tls), None) => {
                let (stream, facts) = shake(stream, tls).await?;
                entered(Stream::Tls(Box::new(stream)), Some(shown(facts)), None)
            }
            (None, Some(terms)) => {
                let (stream, request) = upgrade::accept(stream, terms).await?;
                entered(Stream::Ws(Box::new(stream)), None, Some(request))
            }
            (Some(tls), Some(terms)) => {
                let (stream, facts) = shake(stream, tls).await?;
                let (stream, request) = upgrade::accept(stream, terms).await?;
                entered(Stream::Wss(Box::new(stream)), Some(shown(facts)), Some(request))
            }
        })
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

/// What a proxy tells of the client's TLS. A name counts only if the proxy has verified it.
fn proxied(header: &Header) -> Option<TlsFacts> {
    let ProxiedTls { version, common_name, certificate } = header.tls.clone()?;
    Some(TlsFacts {
        version: version.unwrap_or_default(),
        sni: header.authority.clone(),
        // As text, which has no U+0000.
        alpn: header.alpn.as_deref().map(|name| String::from_utf8_lossy(name).replace('\0', "\u{fffd}")),
        common_name: common_name.filter(|_| certificate == ProxiedCertificate::Verified),
        ..TlsFacts::default()
    })
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
