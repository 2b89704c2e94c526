//! Where a connection came from: what is known of it before its first packet.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// Names one connection for its whole life; a random UUID, shown as one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ConnectionId(pub u128);

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.0;
        write!(
            f,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            n >> 96,
            (n >> 80) & 0xffff,
            (n >> 64) & 0xffff,
            (n >> 48) & 0xffff,
            n & 0xffff_ffff_ffff
        )
    }
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How the client reached mproxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Transport {
    /// Plain TCP.
    Tcp,
    /// TLS over TCP.
    Tls,
    /// WebSocket.
    Ws,
    /// WebSocket over TLS.
    Wss,
    /// A Unix socket.
    Unix,
}

impl Transport {
    /// All of them, in order.
    pub const ALL: [Self; 5] = [Self::Tcp, Self::Tls, Self::Ws, Self::Wss, Self::Unix];

    /// `"tcp"`, `"tls"`, `"ws"`, `"wss"` or `"unix"`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ws => "ws",
            Self::Wss => "wss",
            Self::Unix => "unix",
        }
    }
}

/// One end of a client's connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Address {
    /// Address and port: `192.0.2.1:50000`.
    Ip(SocketAddr),
    /// A process of this machine, at the other end of a Unix socket: `unix:pid=4242,uid=1000,gid=1000`.
    Process(Credentials),
    /// A Unix socket: `unix:/run/mproxy/mqtt.sock`.
    Path(Arc<Path>),
}

/// Who a process is, as the kernel said when it connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// Process id; `None` where this system does not tell, or the process is in another namespace.
    pub pid: Option<u32>,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl Address {
    /// The IP address; `None` of a Unix socket. One of IPv4 that is written as one of IPv6 is one of IPv4.
    #[must_use]
    pub const fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Ip(address) => Some(address.ip().to_canonical()),
            Self::Process(_) | Self::Path(_) => None,
        }
    }

    /// Of a process that came by a Unix socket.
    #[must_use]
    pub const fn credentials(&self) -> Option<&Credentials> {
        match self {
            Self::Process(credentials) => Some(credentials),
            Self::Ip(_) | Self::Path(_) => None,
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Process(Credentials { pid: Some(pid), uid, gid }) => {
                write!(f, "unix:pid={pid},uid={uid},gid={gid}")
            }
            Self::Process(Credentials { pid: None, uid, gid }) => write!(f, "unix:uid={uid},gid={gid}"),
            Self::Path(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What a TLS handshake told about the client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsFacts {
    /// `"TLSv1.2"` or `"TLSv1.3"`.
    pub version: String,
    /// Server name the client asked for.
    pub sni: Option<String>,
    /// Application protocol agreed on.
    pub alpn: Option<String>,
    /// Certificate chain as presented, leaf first, DER.
    pub chain: Vec<Vec<u8>>,
    /// Subject of the leaf, RFC 4514.
    pub subject: Option<String>,
    /// Common name of the leaf.
    pub common_name: Option<String>,
    /// Subject alternative names of the leaf, `DNS:…`, `URI:…`, `IP:…`, `email:…`.
    pub subject_alt_names: Vec<String>,
    /// SHA-256 over the leaf's DER, lower-case hex.
    pub fingerprint: Option<String>,
    /// Serial number of the leaf, lower-case hex.
    pub serial: Option<String>,
}

/// What a WebSocket upgrade told about the client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WsFacts {
    /// Path and query of the request.
    pub path: String,
    /// Host header.
    pub host: String,
    /// Allow-listed request headers in order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The token that came with the request, where a setting says at which place of it. A session that is written down is
    /// open, and has forgotten it.
    #[serde(skip)]
    pub token: Option<Box<RequestToken>>,
}

/// A token that came with a WebSocket request. It is kept until the client is admitted, and shown to nobody.
#[derive(Default)]
pub struct RequestToken(Mutex<Option<Arc<str>>>);

impl RequestToken {
    /// This token.
    #[must_use]
    pub fn new(token: &str) -> Self {
        Self(Mutex::new(Some(token.into())))
    }

    /// The token; `None` once it is forgotten.
    pub fn expose(&self) -> Option<Arc<str>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Nobody needs it any more: a session that is open holds none of it.
    pub fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Clone for RequestToken {
    fn clone(&self) -> Self {
        Self(Mutex::new(self.expose()))
    }
}

impl PartialEq for RequestToken {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for RequestToken {}

impl fmt::Debug for RequestToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RequestToken(..)")
    }
}

/// What is known of a connection before its first packet.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Origin {
    /// Names this connection.
    pub connection_id: ConnectionId,
    /// Grows over all connections of one mproxy: a later connection has the larger one.
    pub epoch: u64,
    /// Name of this mproxy instance.
    pub instance: Arc<str>,
    /// Name of the listener that accepted it.
    pub listener: Arc<str>,
    /// How it came in.
    pub transport: Transport,
    /// The client (after the PROXY protocol, where that is on).
    pub remote: Address,
    /// What it connected to.
    pub local: Address,
    /// Facts of the TLS handshake.
    pub tls: Option<Box<TlsFacts>>,
    /// Facts of the WebSocket upgrade.
    pub ws: Option<Box<WsFacts>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_id_reads_as_a_uuid() {
        let id = ConnectionId(0x0123_4567_89ab_cdef_0011_2233_4455_6677);
        assert_eq!(id.to_string(), "01234567-89ab-cdef-0011-223344556677");
    }

    /// Each connection has two of them.
    #[test]
    fn addresses_of_unix_sockets_take_no_more_memory() {
        assert_eq!(size_of::<Address>(), size_of::<SocketAddr>());
    }

    #[test]
    fn a_process_is_shown_by_what_the_kernel_says_of_it() {
        let credentials = Credentials { pid: Some(42), uid: 1000, gid: 100 };
        assert_eq!(Address::Process(credentials).to_string(), "unix:pid=42,uid=1000,gid=100");
        let unknown = Address::Process(Credentials { pid: None, ..credentials });
        assert_eq!(unknown.to_string(), "unix:uid=1000,gid=100");
        assert_eq!(Address::Path(Path::new("/run/a.sock").into()).to_string(), "unix:/run/a.sock");
    }
}
