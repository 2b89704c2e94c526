//! Which packets a tap is about.

use mproxy_codec::topic::{contains, matches};
use mproxy_codec::types::PacketType;
use mproxy_core::meter::{PacketDetail, PacketTrace};
use mproxy_core::peer::{Origin, Peer, Side};

/// Filters of one SUBSCRIBE or UNSUBSCRIBE that are compared.
const COMPARED_FILTERS: usize = 64;

/// Which packets a tap is about. What is absent does not restrict.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TapSelection {
    /// Of this connection.
    pub connection_id: Option<u128>,
    /// Of clients with exactly this client identifier.
    pub client_id: Option<String>,
    /// Of clients with exactly this user name.
    pub username: Option<String>,
    /// Of clients that this listener accepted.
    pub listener: Option<String>,
    /// PUBLISH packets to a topic that this topic filter matches, in either form, and SUBSCRIBE and UNSUBSCRIBE packets with
    /// a filter that contains it or is contained in it. No others.
    pub filter: Option<String>,
    /// Of these types; empty: of all.
    pub types: Vec<PacketType>,
    /// Of this sender.
    pub from: Option<Side>,
}

impl TapSelection {
    /// Whether packets of this connection may be meant. Before its CONNECT was read it may be anybody's.
    pub(super) fn concerns(&self, origin: &Origin, peer: Option<&Peer>) -> bool {
        self.connection_id.is_none_or(|id| id == origin.connection_id.0)
            && self.listener.as_deref().is_none_or(|listener| listener == &*origin.listener)
            && peer.is_none_or(|peer| {
                self.client_id.as_deref().is_none_or(|id| id == &*peer.client_id)
                    && (self.username.is_none() || self.username.as_deref() == peer.username.as_deref())
            })
    }

    /// Whether this packet is meant.
    pub(super) fn takes(&self, packet: &PacketTrace<'_>) -> bool {
        self.concerns(&packet.peer.origin, Some(packet.peer))
            && self.from.is_none_or(|from| from == packet.from)
            && (self.types.is_empty() || self.types.contains(&packet.kind))
            && self.filter.as_deref().is_none_or(|filter| is_about(packet, filter))
    }
}

fn is_about(packet: &PacketTrace<'_>, filter: &str) -> bool {
    let overlaps = |other: &str| contains(filter, other) || contains(other, filter);
    match &packet.detail {
        PacketDetail::Subscribe(subscribe) => {
            subscribe.filters().take(COMPARED_FILTERS).any(|request| overlaps(request.filter.as_str()))
        }
        PacketDetail::Unsubscribe(unsubscribe) => {
            unsubscribe.filters().take(COMPARED_FILTERS).any(|other| overlaps(other.as_str()))
        }
        _ => [packet.topic, packet.sent_topic].into_iter().flatten().any(|topic| matches(filter, topic)),
    }
}
