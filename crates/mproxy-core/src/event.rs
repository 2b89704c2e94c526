//! What is told afterwards: the five telling hooks, and the sink that hears them.

use std::sync::Arc;

use bytes::Bytes;
use mproxy_codec::types::QoS;
use serde::{Deserialize, Serialize};

use crate::budget::Purse;
use crate::fault::Fault;
use crate::peer::Peer;
use crate::policy::Want;

/// Something that happened to a client's session. Complete in itself.
#[derive(Clone, Debug)]
pub struct Event {
    /// Whose session.
    pub peer: Arc<Peer>,
    /// What happened.
    pub what: Happening,
    /// What its connection holds, to which the event counts while it waits. `None`: it is not counted.
    pub purse: Option<Arc<Purse>>,
}

impl Event {
    /// Bytes that it holds, but for its peer's.
    #[must_use]
    pub fn weight(&self) -> usize {
        // Allocators round small pieces up.
        let text = |text: &str| size_of::<Box<str>>() + text.len().next_multiple_of(16);
        let bytes = match &self.what {
            Happening::Connect { .. } | Happening::Disconnect(_) => 0,
            Happening::Publish(published) => published.weight(),
            Happening::Subscribe { filters } => filters.iter().map(|(filter, _)| 8 + text(filter)).sum(),
            Happening::Unsubscribe { filters } => filters.iter().map(|filter| text(filter)).sum(),
        };
        // The event itself, and its place in a queue.
        256 + bytes
    }
}

/// The five telling hooks.
#[derive(Clone, Debug)]
pub enum Happening {
    /// The broker's CONNACK said yes.
    Connect {
        /// Session Present flag.
        session_present: bool,
    },
    /// The broker took a PUBLISH (QoS 0: written; 1: PUBACK; 2: PUBREC).
    Publish(Box<Published>),
    /// The client was answered a SUBSCRIBE, by the broker, or here where it was refused whole.
    Subscribe {
        /// Each filter as the broker knows it, or would if it had not been refused, with the code that the client was
        /// given.
        filters: Box<[(Box<str>, u8)]>,
    },
    /// The broker answered an UNSUBSCRIBE.
    Unsubscribe {
        /// The filters, as the broker had them.
        filters: Box<[Box<str>]>,
    },
    /// A session that had been reported connected ended. Exactly once.
    Disconnect(Box<Ended>),
}

/// A PUBLISH that the broker took.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Published {
    /// The topic under which it left.
    pub topic: Box<str>,
    /// QoS.
    pub qos: QoS,
    /// RETAIN.
    pub retain: bool,
    /// Payload size in bytes.
    pub size: u64,
    /// The payload, where the sink wants it and it is small enough.
    pub payload: Option<Bytes>,
}

impl Published {
    /// Bytes that it holds: more than nothing, so that empty ones are bounded too.
    #[must_use]
    pub fn weight(&self) -> usize {
        size_of::<Self>() + self.topic.len() + self.payload.as_ref().map_or(0, Bytes::len)
    }
}

/// How a session ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Why, and whose doing.
    pub fault: Fault,
    /// The will was kept from being published: the broker saw a clean DISCONNECT (or there was none).
    pub will_suppressed: bool,
    /// What passed.
    pub traffic: Traffic,
}

/// Packets and bytes of a session, counted as they came in from each side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Packets from the client.
    pub client_packets: u64,
    /// Bytes from the client.
    pub client_bytes: u64,
    /// Packets from the broker.
    pub broker_packets: u64,
    /// Bytes from the broker.
    pub broker_bytes: u64,
}

/// The kinds of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// [`Happening::Connect`]
    Connect,
    /// [`Happening::Publish`]
    Publish,
    /// [`Happening::Subscribe`]
    Subscribe,
    /// [`Happening::Unsubscribe`]
    Unsubscribe,
    /// [`Happening::Disconnect`]
    Disconnect,
}

impl Kind {
    /// All of them, in order.
    pub const ALL: [Self; 5] =
        [Self::Connect, Self::Publish, Self::Subscribe, Self::Unsubscribe, Self::Disconnect];

    /// `"connect"`, `"publish"`, …
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::Unsubscribe => "unsubscribe",
            Self::Disconnect => "disconnect",
        }
    }
}

impl Happening {
    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Connect { .. } => Kind::Connect,
            Self::Publish(_) => Kind::Publish,
            Self::Subscribe { .. } => Kind::Subscribe,
            Self::Unsubscribe { .. } => Kind::Unsubscribe,
            Self::Disconnect(_) => Kind::Disconnect,
        }
    }
}

/// Somebody who hears events.
pub trait Sink: Send + Sync {
    /// Takes an event. Never blocks; what it has no room for it drops and counts.
    fn report(&self, event: Event);

    /// Whether to tell of this kind at all, and (for `Publish`) with which payloads. Called for each packet: cheap.
    fn want(&self, kind: Kind) -> Want;
}

/// A sink that wants nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nobody;

impl Sink for Nobody {
    fn report(&self, _event: Event) {}

    fn want(&self, _kind: Kind) -> Want {
        Want::Nothing
    }
}
