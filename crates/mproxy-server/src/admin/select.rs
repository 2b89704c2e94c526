//! Which sessions are meant, in which order, and from where on.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use mproxy_tcp::networks::Network;
use serde::Deserialize;
use utoipa::ToSchema;
use uuid::Uuid;

/// Which sessions are meant. What is absent does not restrict.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionFilter {
    /// Exactly this client identifier.
    pub client_id: Option<String>,
    /// Exactly this user name.
    pub username: Option<String>,
    /// Accepted by the listener of this name.
    pub listener: Option<String>,
    /// From an address of this network.
    pub address: Option<Network>,
    /// That are so far.
    pub phase: Option<SessionPhase>,
    /// With an attribute of this name and value, which the policy attached.
    pub attribute: Option<(String, String)>,
    /// Subscribed to this filter, or, of a topic, to one that matches it. It takes a question to the session.
    pub subscribed: Option<Arc<str>>,
}

/// What a filter looks at.
#[derive(Clone, Copy, Debug)]
pub struct SessionFacts<'a> {
    /// The client identifier, once CONNECT was read.
    pub client_id: Option<&'a str>,
    /// The user name.
    pub username: Option<&'a str>,
    /// The listener's name.
    pub listener: &'a str,
    /// The client's address; `None` over a Unix socket.
    pub address: Option<IpAddr>,
    /// The name of its phase.
    pub phase: &'a str,
    /// What the policy attached.
    pub attributes: &'a [(String, String)],
}

impl SessionFilter {
    /// Whether a session passes, but for what only itself can say.
    #[must_use]
    pub fn passes(&self, facts: &SessionFacts<'_>) -> bool {
        let wants = |wanted: Option<&str>, is: Option<&str>| wanted.is_none_or(|wanted| Some(wanted) == is);
        wants(self.client_id.as_deref(), facts.client_id)
            && wants(self.username.as_deref(), facts.username)
            && wants(self.listener.as_deref(), Some(facts.listener))
            && wants(self.phase.map(SessionPhase::name), Some(facts.phase))
            && self.address.is_none_or(|network| facts.address.is_some_and(|one| network.contains(one)))
            && self.attribute.as_ref().is_none_or(|wanted| facts.attributes.contains(wanted))
    }
}

/// As it is asked for: `client_id=lamp listener=mqtt`, or `all`. For the log.
impl fmt::Display for SessionFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client_id, username, listener, address, phase, attribute, subscribed } = self;
        let given = [
            ("client_id", client_id.clone()),
            ("username", username.clone()),
            ("listener", listener.clone()),
            ("address", address.map(|address| address.to_string())),
            ("state", phase.map(|phase| phase.name().to_owned())),
            ("attribute", attribute.as_ref().map(|(key, value)| format!("{key}={value}"))),
            ("subscribed", subscribed.as_deref().map(str::to_owned)),
        ];
        let given: Vec<_> =
            given.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", value?))).collect();
        f.write_str(if given.is_empty() { "all" } else { "" })?;
        f.write_str(&given.join(" "))
    }
}

/// How far a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SessionPhase {
    /// CONNECT is awaited.
    Connecting,
    /// Somebody decides on its CONNECT.
    Admitting,
    /// The broker is dialled.
    Dialling,
    /// Both sides speak.
    Open,
    /// It is ending.
    Closing,
}

impl SessionPhase {
    /// As sessions show it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Admitting => "admitting",
            Self::Dialling => "dialling",
            Self::Open => "open",
            Self::Closing => "closing",
        }
    }
}

/// By what sessions are ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SessionOrder {
    /// By connection id, which is by chance. It costs least.
    #[default]
    ConnectionId,
    /// The newest first.
    ConnectedSince,
    /// The most packets first, of both directions.
    Packets,
    /// The most bytes first, of both directions.
    Bytes,
    /// By client identifier.
    ClientId,
}

impl SessionOrder {
    /// As it is asked for.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ConnectionId => "connection_id",
            Self::ConnectedSince => "connected_since",
            Self::Packets => "packets",
            Self::Bytes => "bytes",
            Self::ClientId => "client_id",
        }
    }
}

/// Bytes of a text that count for its place.
const TEXT_KEY: usize = 128;

/// What a session is ordered by, the smallest first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SortKey {
    /// Nothing but its id.
    None,
    /// A number, turned round, so that the largest comes first.
    Number(u64),
    /// The beginning of a text.
    Text(Box<[u8]>),
}

impl SortKey {
    /// Of a number of which the largest is to come first.
    #[must_use]
    pub const fn largest_first(number: u64) -> Self {
        Self::Number(u64::MAX - number)
    }

    /// Of a text.
    #[must_use]
    pub fn text(text: &str) -> Self {
        Self::Text(text.as_bytes()[..text.len().min(TEXT_KEY)].into())
    }
}

/// A place in an order: behind the last session of a page.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionCursor {
    /// What it is ordered by.
    pub key: SortKey,
    /// Its connection id, among those of the same key.
    pub id: u128,
}

impl SessionCursor {
    /// As the next page is asked for. It begins with the order: a place in one is none in another.
    #[must_use]
    pub fn text(&self, order: SessionOrder) -> String {
        let id = Uuid::from_u128(self.id);
        match &self.key {
            SortKey::None => id.to_string(),
            SortKey::Number(number) => format!("{}~{number:x}~{id}", order.name()),
            SortKey::Text(text) => {
                let hex: String = text.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("{}~{hex}~{id}", order.name())
            }
        }
    }

    /// Reads what it writes. `None`: it is none, or of another order.
    #[must_use]
    pub fn parse(text: &str, order: SessionOrder) -> Option<Self> {
        let of_order = || text.strip_prefix(order.name())?.strip_prefix('~')?.split_once('~');
        let (key, id) = match order {
            SessionOrder::ConnectionId => (SortKey::None, text),
            SessionOrder::ConnectedSince | SessionOrder::Packets | SessionOrder::Bytes => {
                let (number, id) = of_order()?;
                let digits = number.bytes().all(|byte| byte.is_ascii_hexdigit());
                (SortKey::Number(u64::from_str_radix(number, 16).ok().filter(|_| digits)?), id)
            }
            SessionOrder::ClientId => {
                let (hex, id) = of_order()?;
                (SortKey::Text(bytes(hex)?), id)
            }
        };
        Some(Self { key, id: Uuid::from_str(id).ok()?.as_u128() })
    }
}

fn bytes(hex: &str) -> Option<Box<[u8]>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let pairs = hex.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?)).collect()
}

/// Which sessions are asked for.
#[derive(Clone, Debug)]
pub struct SessionsQuestion {
    /// Those that pass this.
    pub filter: SessionFilter,
    /// In this order.
    pub order: SessionOrder,
    /// Behind this place.
    pub after: Option<SessionCursor>,
    /// So many at most.
    pub limit: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: SessionFacts<'static> = SessionFacts {
        client_id: None,
        username: None,
        listener: "mqtt",
        address: None,
        phase: "open",
        attributes: &[],
    };

    #[test]
    fn an_empty_filter_passes_everybody_and_others_who_has_it_all() {
        assert!(SessionFilter::default().passes(&NOBODY));
        let attributes = [("tenant".to_owned(), "acme".to_owned())];
        let ann = SessionFacts {
            client_id: Some("c"),
            username: Some("ann"),
            address: Some([10, 1, 2, 3].into()),
            attributes: &attributes,
            ..NOBODY
        };
        let filters = [
            SessionFilter { username: Some("ann".into()), ..SessionFilter::default() },
            SessionFilter { client_id: Some("c".into()), ..SessionFilter::default() },
            SessionFilter { address: "10.0.0.0/8".parse().ok(), ..SessionFilter::default() },
            SessionFilter { address: "10.1.2.3".parse().ok(), ..SessionFilter::default() },
            SessionFilter { attribute: Some(attributes[0].clone()), ..SessionFilter::default() },
        ];
        for filter in filters {
            assert!(filter.passes(&ann) && !filter.passes(&NOBODY), "{filter:?}");
            let closing = SessionFilter { phase: Some(SessionPhase::Closing), ..filter };
            assert!(!closing.passes(&ann), "{closing:?}");
        }
    }

    #[test]
    fn a_cursor_reads_back_in_its_own_order() {
        let keys = [
            (SessionOrder::ConnectionId, SortKey::None),
            (SessionOrder::Bytes, SortKey::largest_first(7)),
            (SessionOrder::ClientId, SortKey::text("")),
            (SessionOrder::ClientId, SortKey::text(&"ü~".repeat(1000))),
        ];
        for (order, key) in keys {
            let cursor = SessionCursor { key, id: 7 };
            let text = cursor.text(order);
            assert!(text.len() < 512, "it fits into an address: {text}");
            assert_eq!(SessionCursor::parse(&text, order), Some(cursor));
            let others = [
                SessionOrder::ConnectionId,
                SessionOrder::ConnectedSince,
                SessionOrder::Packets,
                SessionOrder::Bytes,
                SessionOrder::ClientId,
            ];
            for other in others.into_iter().filter(|other| *other != order) {
                assert_eq!(SessionCursor::parse(&text, other), None, "{text} in {other:?}");
            }
        }
        for order in [SessionOrder::ConnectionId, SessionOrder::Packets, SessionOrder::ClientId] {
            for wrong in ["", "~", "x", "x~x", "+1~00000000-0000-0000-0000-000000000007", "0~"] {
                assert_eq!(SessionCursor::parse(wrong, order), None, "{wrong}");
            }
        }
    }
}
