//! Commands: decisions that are taken back. Who is meant, and what shall become of it.

use std::sync::Arc;

use mproxy_codec::reason::ReasonCode;

use crate::grant::Grant;
use crate::peer::{ConnectionId, Origin, Peer};

/// A command to all clients that a selector means. Each session that it reaches sees for itself whether it is meant.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    /// Who.
    pub selector: Selector,
    /// What.
    pub command: SessionCommand,
}

/// Which clients are meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Selector {
    /// The one of this connection.
    ConnectionId(ConnectionId),
    /// Those with this client identifier.
    ClientId(Box<str>),
    /// Those with this user name.
    Username(Box<str>),
    /// Those to which the policy attached this attribute.
    Attribute {
        /// Its name.
        name: Box<str>,
        /// Its value.
        value: Box<str>,
    },
    /// Those of the listener of this name.
    Listener(Box<str>),
    /// All.
    All,
}

/// What a session is told to do.
#[derive(Clone, Debug, PartialEq)]
pub enum SessionCommand {
    /// End, like this.
    Disconnect(Dismissal),
    /// Put this grant in force, or none.
    ReplaceGrant(Option<Arc<Grant>>),
    /// Forget answers that stand.
    Forget,
    /// Have the grant renewed, unless it is of this version. Empty: have it renewed in any case.
    CheckGrant {
        /// [`Grant::version`]
        version: Box<str>,
    },
}

impl SessionCommand {
    /// The label: `"disconnect"`, `"replace_grant"`, `"forget"` or `"check_grants"`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Disconnect(_) => "disconnect",
            Self::ReplaceGrant(_) => "replace_grant",
            Self::Forget => "forget",
            Self::CheckGrant { .. } => "check_grants",
        }
    }
}

/// How a client is disconnected by command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dismissal {
    /// What a 5.0 client is told; 0x80 or more.
    pub reason: ReasonCode,
    /// A text for it.
    pub text: Option<Box<str>>,
    /// Another server for it; sent with 0x9C and 0x9D alone.
    pub server_reference: Option<Box<str>>,
    /// What happens to its will.
    pub will: WillChoice,
    /// For the log and the event.
    pub detail: Option<Box<str>>,
    /// Who said so.
    pub by: DismissedBy,
    /// The endpoint of the policy service that said so.
    pub endpoint: Option<Arc<str>>,
}

/// Who has a client disconnected from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DismissedBy {
    /// The policy service.
    PolicyService,
    /// Somebody who operates mproxy.
    Administrator,
    /// A ban that somebody has set who operates mproxy.
    Ban,
}

impl Dismissal {
    /// By the policy service, with this reason, and nothing else. The will is published.
    #[must_use]
    pub const fn new(reason: ReasonCode) -> Self {
        Self {
            reason,
            text: None,
            server_reference: None,
            will: WillChoice::Published,
            detail: None,
            by: DismissedBy::PolicyService,
            endpoint: None,
        }
    }
}

/// What happens to the will of a client that is disconnected by command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WillChoice {
    /// The broker sees a lost connection, and publishes it.
    Published,
    /// The broker receives DISCONNECT, and does not.
    Suppressed,
}

/// How far a command reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Clients that were meant.
    pub clients: u64,
    /// Subscriptions that it ended.
    pub subscriptions: u64,
}

impl Selector {
    /// Whether this client is meant.
    #[must_use]
    pub fn selects(&self, peer: &Peer) -> bool {
        match self {
            Self::ConnectionId(_) | Self::Listener(_) | Self::All => {
                self.selects_origin(&peer.origin) == Some(true)
            }
            Self::ClientId(id) => *id == peer.client_id,
            Self::Username(name) => peer.username.as_ref() == Some(name),
            Self::Attribute { name, value } => peer.attribute(name) == Some(&**value),
        }
    }

    /// Whether clients from there are meant, where that can be told before anything is known of the client.
    #[must_use]
    pub fn selects_origin(&self, origin: &Origin) -> Option<bool> {
        match self {
            Self::ConnectionId(id) => Some(*id == origin.connection_id),
            Self::Listener(name) => Some(**name == *origin.listener),
            Self::All => Some(true),
            Self::ClientId(_) | Self::Username(_) | Self::Attribute { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use mproxy_codec::types::Version;

    use super::*;
    use crate::peer::{Encoded, Transport, UserProperties};

    #[test]
    fn a_selector_means_those_of_whom_it_is_true() {
        let any: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let peer = Peer {
            origin: Arc::new(Origin {
                connection_id: ConnectionId(7),
                epoch: 1,
                instance: "here".into(),
                listener: "mqtt".into(),
                transport: Transport::Tcp,
                remote: any.into(),
                local: any.into(),
                tls: None,
                ws: None,
            }),
            version: Version::V5,
            client_id: "c".into(),
            username: None,
            keep_alive: 0,
            clean_start: true,
            attributes: [("plan".to_owned(), "free".to_owned())].into(),
            grant: None,
            said: None,
            broker_client_id: None,
            user_properties: UserProperties::default(),
            encoded: Encoded::default(),
        };
        let attribute =
            |name: &str, value: &str| Selector::Attribute { name: name.into(), value: value.into() };
        for (selector, meant, at_once) in [
            (Selector::ConnectionId(ConnectionId(7)), true, true),
            (Selector::ConnectionId(ConnectionId(8)), false, true),
            (Selector::ClientId("c".into()), true, false),
            (Selector::ClientId("d".into()), false, false),
            (Selector::Username("".into()), false, false),
            (attribute("plan", "free"), true, false),
            (attribute("plan", ""), false, false),
            (attribute("other", ""), false, false),
            (Selector::Listener("mqtt".into()), true, true),
            (Selector::Listener("mqtts".into()), false, true),
            (Selector::All, true, true),
        ] {
            assert_eq!(selector.selects(&peer), meant, "{selector:?}");
            assert_eq!(selector.selects_origin(&peer.origin).is_some(), at_once, "{selector:?}");
        }
    }
}
