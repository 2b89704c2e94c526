//! From a broker's address to a byte stream: TCP, a PROXY header, TLS, WebSocket, each where the target wants it.

use std::error::Error;
use std::sync::Arc;

use mproxy_core::fault::Unreachable;
use mproxy_core::peer::Origin;
use mproxy_tcp::proxy_header::{Endpoints, Header, HeaderVersion, ProxiedCertificate, ProxiedTls};
use mproxy_tcp::tls::{self, ClientTls, MaterialError, Reloadable};
use mproxy_tcp::{LastGood, SocketOptions, dial};
use mproxy_ws::upgrade::{self, Ask};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::{Causes, Stream};
use crate::config::{Scheme, SendProxy, Target, authority};

/// How a listener's connections reach their broker.
#[derive(Debug)]
pub struct Outward {
    target: Target,
    /// The Host header.
    host: String,
    tls: Option<Arc<Reloadable<ClientTls>>>,
    /// Where the broker was found the last time.
    last_good: LastGood,
}

impl Outward {
    /// As the target is configured. Reads the certificates, which blocks.
    ///
    /// # Errors
    /// Which file is wrong, and why.
    pub fn of(target: &Target) -> Result<Self, MaterialError> {
        let tls = target.scheme.is_tls().then(|| target.tls.clone());
        Ok(Self {
            host: host_header(&target.host, target.port),
            tls: tls.map(Reloadable::new).transpose()?.map(Arc::new),
            target: target.clone(),
            last_good: LastGood::default(),
        })
    }

    /// The certificates, for whoever reloads them.
    #[must_use]
    pub fn tls(&self) -> Option<&Arc<Reloadable<ClientTls>>> {
        self.tls.as_ref()
    }

    /// Reaches the broker for this client. Cancel safe: dropping the future closes what was half open.
    ///
    /// # Errors
    /// Where it ended, in one line.
    pub async fn reach(&self, origin: &Origin, deadline: Instant) -> Result<Stream, Unreachable> {
        let Target { host, port, .. } = &self.target;
        let stream = dial(host, *port, &SocketOptions::default(), &self.last_good, deadline)
            .await
            .map_err(|error| told(&error))?;
        if self.is_plain() {
            return Ok(Stream::Tcp(stream));
        }
        // Boxed: handshakes are large, and most brokers need none.
        match timeout_at(deadline, Box::pin(self.greet(stream, origin))).await {
            Ok(Ok(reached)) => Ok(reached),
            Ok(Err(error)) => {
                // It listens and cannot be spoken with: where the name has another address, that has its turn.
                self.last_good.forget();
                Err(Unreachable(format!("{}: {}", self.target, error.0).into()))
            }
            Err(_) => Err(Unreachable(format!("{} did not answer in time", self.target).into())),
        }
    }

    fn is_plain(&self) -> bool {
        self.target.scheme == Scheme::Mqtt && self.target.proxy_protocol == SendProxy::Off
    }

    async fn greet(&self, mut stream: TcpStream, origin: &Origin) -> Result<Stream, Unreachable> {
        let version = match self.target.proxy_protocol {
            SendProxy::Off => None,
            SendProxy::V1 => Some(HeaderVersion::V1),
            SendProxy::V2 => Some(HeaderVersion::V2),
        };
        if let Some(version) = version {
            stream.write_all(&header(origin).encode(version)).await.map_err(|error| told(&error))?;
        }
        let ask = Ask { host: &self.host, path: &self.target.path, protocol: "mqtt" };
        Ok(match (&self.tls, self.target.scheme) {
            (Some(tls), scheme) => {
                let name = self.target.server_name.as_ref().unwrap_or(&self.target.host);
                let connected = tls::connect(stream, tls.current(), name).await;
                let stream = connected.map_err(|error| told(&error))?;
                match scheme {
                    Scheme::Ws | Scheme::Wss => {
                        let upgraded = upgrade::connect(stream, &ask).await;
                        Stream::Wss(Box::new(upgraded.map_err(|error| told(&error))?))
                    }
                    Scheme::Mqtt | Scheme::Mqtts => Stream::Tls(Box::new(stream)),
                }
            }
            (None, Scheme::Ws | Scheme::Wss) => {
                let upgraded = upgrade::connect(stream, &ask).await;
                Stream::Ws(Box::new(upgraded.map_err(|error| told(&error))?))
            }
            (None, Scheme::Mqtt | Scheme::Mqtts) => Stream::Tcp(stream),
        })
    }
}

/// The interface behind a link-local address means nothing at the other end (RFC 6874, 4).
fn host_header(host: &str, port: u16) -> String {
    authority(host.split_once('%').map_or(host, |(address, _)| address), port)
}

/// An error and its causes in one line.
fn told(error: &(dyn Error + 'static)) -> Unreachable {
    Unreachable(Causes(error).to_string().into())
}

/// What the broker is told of the client. That there is a certificate means that we have verified it, or that a proxy
/// before us has.
fn header(origin: &Origin) -> Header {
    let tls = origin.tls.as_deref();
    Header {
        endpoints: Some(Endpoints { source: origin.remote, destination: origin.local }),
        authority: tls.and_then(|tls| tls.sni.clone()),
        alpn: tls.and_then(|tls| tls.alpn.clone()).map(String::into_bytes),
        unique_id: Some(origin.connection_id.to_string().into_bytes()),
        tls: tls.map(|tls| ProxiedTls {
            version: Some(tls.version.clone()).filter(|version| !version.is_empty()),
            common_name: tls.common_name.clone(),
            certificate: match (&tls.common_name, tls.chain.is_empty()) {
                (None, true) => ProxiedCertificate::Absent,
                _ => ProxiedCertificate::Verified,
            },
        }),
    }
}
