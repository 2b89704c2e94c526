//! Who the client is: where its connection came from, and what it calls itself.
//!
//! An [`Origin`] is known when the connection is accepted; a [`Peer`] when CONNECT has been read.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use mproxy_codec::types::Version;
use serde::{Deserialize, Serialize};

use crate::grant::Grant;
use crate::rule::Who;
use crate::token::token_in;

/// One of the two sides of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The device that connected to mproxy.
    Client,
    /// The broker that mproxy connected to on the client's behalf.
    Broker,
}

impl Side {
    /// The other side.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Client => Self::Broker,
            Self::Broker => Self::Client,
        }
    }

    /// `"client"` or `"broker"`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Broker => "broker",
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

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

/// A client that has said CONNECT.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Peer {
    /// Where it came from.
    pub origin: Arc<Origin>,
    /// The protocol version it speaks.
    pub version: Version,
    /// The client identifier in force: as sent, as the policy changed it, or as the broker assigned it.
    pub client_id: Box<str>,
    /// The user name in force.
    pub username: Option<Box<str>>,
    /// The names that the client has said, where the policy has given it others.
    pub said: Option<Box<SaidNames>>,
    /// Seconds; 0 is no keep alive.
    pub keep_alive: u16,
    /// Clean Start (5.0) or Clean Session (3.x).
    pub clean_start: bool,
    /// What the policy attached to this client when it admitted it.
    pub attributes: Box<[(String, String)]>,
    /// What it may do without anybody being asked, if the policy said so.
    pub grant: Option<Arc<Grant>>,
    /// User properties of a 5.0 CONNECT, in order.
    pub user_properties: UserProperties,
    /// The same as advisers send it along.
    #[serde(skip)]
    pub encoded: Encoded,
}

/// What a client calls itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SaidNames {
    /// The client identifier.
    pub client_id: Box<str>,
    /// The user name, if it has said one, and it is no secret.
    pub username: Option<Box<str>>,
}

impl SaidNames {
    fn weight(&self) -> usize {
        size_of::<Self>() + self.client_id.len() + self.username.as_ref().map_or(0, |name| name.len())
    }
}

impl Peer {
    /// Who it is from now on, by whatever names the policy has given it.
    pub fn rename(&mut self, client_id: Box<str>, username: Option<Box<str>>) {
        let said = SaidNames {
            client_id: std::mem::replace(&mut self.client_id, client_id),
            // A session that is open holds no token.
            username: std::mem::replace(&mut self.username, username).filter(|name| token_in(name).is_none()),
        };
        if said.client_id != self.client_id || said.username != self.username {
            self.said.get_or_insert_with(|| Box::new(said));
        }
    }

    /// The client identifiers that it is known by: the one in force, and the one that it has said where that is another.
    pub fn client_ids(&self) -> impl Iterator<Item = &str> {
        [Some(&*self.client_id), self.said.as_ref().map(|said| &*said.client_id)].into_iter().flatten()
    }

    /// The same of user names.
    pub fn usernames(&self) -> impl Iterator<Item = &str> {
        let said = self.said.as_ref().and_then(|said| said.username.as_deref());
        [self.username.as_deref(), said].into_iter().flatten()
    }

    /// The user name for people to read, in logs and pages: none where it is a token, which whoever reads it could use.
    #[must_use]
    pub fn shown_username(&self) -> Option<&str> {
        self.username.as_deref().filter(|name| token_in(name).is_none())
    }

    /// The attribute called `name`, if the policy set one.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| &**value)
    }

    /// The attributes by name; several values of one are one text, with commas between them.
    #[must_use]
    pub fn attribute_table(&self) -> BTreeMap<String, String> {
        let mut table = BTreeMap::<String, String>::new();
        for (name, value) in &self.attributes {
            match table.get_mut(name) {
                Some(all) => all.extend([",", value]),
                None => _ = table.insert(name.clone(), value.clone()),
            }
        }
        table
    }

    /// To change it: whoever knows the peer as it was keeps it so, and what was encoded of it is not used for the new one.
    pub fn change(peer: &mut Arc<Self>) -> &mut Self {
        let own = Arc::make_mut(peer);
        own.encoded = Encoded::default();
        own
    }

    /// Bytes that it holds beside itself; a grant, which the policy gave, does not count as the client's.
    #[must_use]
    pub fn weight(&self) -> usize {
        let pair = size_of::<(String, String)>();
        let attributes: usize =
            self.attributes.iter().map(|(name, value)| pair + name.len() + value.len()).sum();
        self.client_id.len()
            + self.username.as_ref().map_or(0, |name| name.len())
            + attributes
            + self.user_properties.weight()
            + self.said.as_ref().map_or(0, |said| said.weight())
    }
}

impl<'a> From<&'a Peer> for Who<'a> {
    fn from(peer: &'a Peer) -> Self {
        let tls = peer.origin.tls.as_deref();
        Self {
            client_id: &peer.client_id,
            username: peer.username.as_deref(),
            common_name: tls.and_then(|tls| tls.common_name.as_deref()),
            subject_alt_names: tls.map_or(&[], |tls| &tls.subject_alt_names),
            fingerprint: tls.and_then(|tls| tls.fingerprint.as_deref()),
            attributes: &peer.attributes,
        }
    }
}

/// User properties in order, one after the other in the bytes they came in: as many strings would take ten times as much.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserProperties(Box<[u8]>);

impl UserProperties {
    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut rest = &*self.0;
        std::iter::from_fn(move || Some((text(&mut rest)?, text(&mut rest)?)))
    }

    /// Bytes that they hold.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.0.len()
    }
}

/// Takes a text from the front, behind its length.
fn text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let (len, after) = rest.split_first_chunk()?;
    let (text, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
    *rest = after;
    str::from_utf8(text).ok()
}

impl<'a> FromIterator<(&'a str, &'a str)> for UserProperties {
    /// Texts that are longer than MQTT's own are cut at nothing: no packet has them.
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(pairs: I) -> Self {
        let mut bytes = Vec::new();
        for text in pairs.into_iter().flat_map(|(name, value)| [name, value]) {
            let Ok(len) = u16::try_from(text.len()) else { continue };
            bytes.extend_from_slice(&len.to_be_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        Self(bytes.into())
    }
}

impl fmt::Debug for UserProperties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// A peer in an adviser's own encoding, made once for all questions and events that are on their way, and gone with the
/// last of them. A peer that is cloned, or [changed](Peer::change), starts without.
#[derive(Default)]
pub struct Encoded(Mutex<Weak<Bytes>>);

impl Encoded {
    /// What was made before, if something still holds it; else what `encode` makes.
    pub fn or_encode(&self, encode: impl FnOnce() -> Bytes) -> Arc<Bytes> {
        // Nothing is left half done in there.
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Encoded under the lock: several questions at once would each make their own, as large as the client's
        // properties.
        made.upgrade().unwrap_or_else(|| {
            let fresh = Arc::new(encode());
            *made = Arc::downgrade(&fresh);
            fresh
        })
    }
}

impl Clone for Encoded {
    fn clone(&self) -> Self {
        // Another peer, another encoding: a change would otherwise be sent along as it was before it.
        Self::default()
    }
}

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Encoded")
    }
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

    #[test]
    fn user_properties_come_back_as_they_went_in() {
        let pairs = [("a", "1"), ("", ""), ("a", "\u{e4}")];
        let kept: UserProperties = pairs.into_iter().collect();
        assert_eq!(kept.iter().collect::<Vec<_>>(), pairs);
        assert_eq!(kept.weight(), 2 * 2 * 3 + 5);
        assert_eq!(UserProperties::default().iter().next(), None);
    }

    fn somebody() -> Arc<Peer> {
        let address = Address::from(SocketAddr::from(([127, 0, 0, 1], 1883)));
        let origin = Origin {
            connection_id: ConnectionId(1),
            epoch: 1,
            instance: "test".into(),
            listener: "mqtt".into(),
            transport: Transport::Tcp,
            remote: address.clone(),
            local: address,
            tls: None,
            ws: None,
        };
        Arc::new(Peer {
            origin: origin.into(),
            version: Version::V5,
            client_id: "c".into(),
            username: None,
            keep_alive: 0,
            clean_start: true,
            attributes: Box::default(),
            grant: None,
            said: None,
            user_properties: UserProperties::default(),
            encoded: Encoded::default(),
        })
    }

    #[test]
    fn an_encoding_is_not_that_of_a_peer_that_has_changed_since() {
        let mut peer = somebody();
        let _held = peer.encoded.or_encode(|| Bytes::from_static(b"old"));
        Peer::change(&mut peer).client_id = "d".into();
        assert_eq!(**peer.encoded.or_encode(|| Bytes::from_static(b"new")), *b"new");
    }

    #[test]
    fn several_values_of_an_attribute_are_one_text() {
        let mut peer = somebody();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        Peer::change(&mut peer).attributes =
            [pair("b", "1"), pair("a", "x"), pair("b", ""), pair("b", "2")].into();
        let table: Vec<_> = peer.attribute_table().into_iter().collect();
        assert_eq!(table, [pair("a", "x"), pair("b", "1,,2")]);
    }

    #[test]
    fn an_encoding_is_made_once_while_somebody_holds_it() {
        let encoded = Encoded::default();
        let held = encoded.or_encode(|| Bytes::from_static(b"1"));
        assert_eq!(**encoded.or_encode(|| Bytes::from_static(b"2")), *b"1");
        assert_eq!(**encoded.clone().or_encode(|| Bytes::from_static(b"3")), *b"3");
        drop(held);
        assert_eq!(**encoded.or_encode(|| Bytes::from_static(b"4")), *b"4");
    }
}
