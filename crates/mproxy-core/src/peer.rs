//! Who the client is: where its connection came from, and what it calls itself.
//!
//! An [`Origin`] is known when the connection is accepted; a [`Peer`] when CONNECT has been read.

mod origin;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use mproxy_codec::types::Version;
use serde::{Deserialize, Serialize};

pub use self::origin::{
    Address, ConnectionId, Credentials, Origin, RequestToken, TlsFacts, Transport, WsFacts,
};
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
    /// The client identifier that the broker knows it by, where that is another.
    pub broker_client_id: Option<Box<str>>,
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

    /// The client identifiers that it is known by: the one in force, the one that it has said, and the one that the broker
    /// knows, where these are others.
    pub fn client_ids(&self) -> impl Iterator<Item = &str> {
        let said = self.said.as_ref().map(|said| &*said.client_id);
        [Some(&*self.client_id), said, self.broker_client_id.as_deref()].into_iter().flatten()
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
            + self.broker_client_id.as_ref().map_or(0, |id| id.len())
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
            listener: Some(&peer.origin.listener),
            transport: Some(peer.origin.transport.name()),
            address: peer.origin.remote.ip(),
            version: Some(peer.version),
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
    use std::net::SocketAddr;

    use super::*;

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
            broker_client_id: None,
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
