//! WebSocket over another transport.

use std::marker::PhantomData;

use mproxy_core::peer::{RequestToken, WsFacts};
use mproxy_tcp::tls::MaterialError;
use mproxy_ws::WsStream;
use mproxy_ws::upgrade::{self, Ask, UpgradeRequest, UpgradeTerms};

use super::layer::{LayerStream, TransportLayer};
use super::transport::{Carrier, HandshakeLimits, Known, Transport};
use super::{Refused, in_one_line};
use crate::config::{ListenerSettings, RequestTokenPlace, Target, Web, authority};

/// Subprotocols of a listener: MQTT's own, and that of 3.1 ([MQTT-6.0.0-3]).
const PROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// WebSocket over `T`.
#[derive(Debug)]
pub struct Ws<T>(PhantomData<T>);

/// What clients are asked for.
#[derive(Debug)]
pub struct WsFromClients {
    terms: UpgradeTerms,
    /// Where their tokens are.
    token: Option<RequestTokenPlace>,
}

/// What brokers are asked for.
#[derive(Debug)]
pub struct WsToBroker {
    /// The Host header.
    host: String,
    path: String,
}

impl<T: Transport> TransportLayer for Ws<T> {
    type Below = T;
    type Stream = WsStream<T::Stream>;
    type Server = WsFromClients;
    type Client = WsToBroker;

    fn server(listener: &ListenerSettings) -> Result<WsFromClients, MaterialError> {
        let Web { origins, headers, cookies, token } = listener.web.clone();
        let mut terms = UpgradeTerms {
            origins,
            headers: headers.clone(),
            cookies: cookies.clone(),
            ..UpgradeTerms::new(&listener.path, PROTOCOLS)
        };
        match &token {
            Some(RequestTokenPlace::Header(name)) if !headers.contains(name) => {
                terms.headers.push(name.clone())
            }
            Some(RequestTokenPlace::Cookie(name)) if !cookies.contains(name) => {
                terms.cookies.push(name.clone())
            }
            Some(_) | None => {}
        }
        Ok(WsFromClients { terms, token })
    }

    fn client(target: &Target) -> Result<WsToBroker, MaterialError> {
        Ok(WsToBroker { host: host_header(&target.host, target.port), path: target.path.clone() })
    }

    async fn accept(
        server: &WsFromClients,
        below: T::Stream,
        known: &mut Known,
        _: &HandshakeLimits,
    ) -> Result<Self::Stream, Refused> {
        let (stream, request) = upgrade::accept(below, &server.terms).await?;
        known.ws = Some(Box::new(asked(request, server.token.as_ref())));
        Ok(stream)
    }

    async fn connect(client: &WsToBroker, below: T::Stream) -> Result<Self::Stream, String> {
        let ask = Ask { host: &client.host, path: &client.path, protocol: "mqtt" };
        upgrade::connect(below, &ask).await.map_err(|error| in_one_line(&error))
    }
}

impl<S: Carrier> LayerStream for WsStream<S> {
    type Below = S;

    fn has_work(&self) -> bool {
        Self::has_work(self)
    }

    fn below(&self) -> &S {
        self.get_ref()
    }
}

/// The interface behind a link-local address means nothing at the other end (RFC 6874, 4).
fn host_header(host: &str, port: u16) -> String {
    authority(host.split_once('%').map_or(host, |(address, _)| address), port)
}

/// Chosen cookies are told as the header they came in. A token is told to nobody but whoever judges it.
fn asked(request: UpgradeRequest, token: Option<&RequestTokenPlace>) -> WsFacts {
    let UpgradeRequest { mut path, mut headers, mut cookies, host, .. } = request;
    let token = token.and_then(|place| place.take(&mut path, &mut headers, &mut cookies));
    if !cookies.is_empty() {
        let pairs: Vec<String> = cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        headers.push(("cookie".to_owned(), pairs.join("; ")));
    }
    let token = token.map(|token| Box::new(RequestToken::new(&token)));
    WsFacts { path, host, headers, token }
}
