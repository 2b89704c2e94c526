//! What is asked.

use std::cell::OnceCell;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use mproxy_codec::packet::connect::Connect;
use mproxy_codec::packet::subscribe::FilterRequest;
use mproxy_codec::property::Properties;
use mproxy_codec::types::QoS;

use super::KeptSubscribe;
use crate::peer::Peer;
use crate::rule::{Message, WallTime};

/// The hooks that decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// May this client connect?
    Connect,
    /// May it publish this?
    Publish,
    /// May it subscribe to these?
    Subscribe,
    /// May it be sent this?
    Deliver,
    /// What follows in its authentication?
    Exchange,
}

impl Hook {
    /// All of them, in order.
    pub const ALL: [Self; 5] = [Self::Connect, Self::Publish, Self::Subscribe, Self::Deliver, Self::Exchange];

    /// `"connect"`, `"publish"`, `"subscribe"`, `"deliver"` or `"exchange"`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::Deliver => "deliver",
            Self::Exchange => "exchange",
        }
    }
}

/// A CONNECT to be admitted or not. Borrows from the packet, as all questions do: an adviser copies what it keeps.
#[derive(Clone, Copy, Debug)]
pub struct ConnectQuestion<'a> {
    /// Who, as the CONNECT says.
    pub peer: &'a Arc<Peer>,
    /// The packet: credentials, will, properties.
    pub connect: &'a Connect<'a>,
    /// The bytes of it, which the session keeps until they have gone to the broker: who has to come back to them later
    /// holds these, and copies nothing.
    pub packet: &'a Bytes,
    /// Its Authentication Method is a matter between client and broker, whatever advisers want.
    pub passes_auth: bool,
    /// What time it is, where that is known.
    pub time: Option<WallTime>,
}

/// A grant to be renewed: what is known of a client that said CONNECT long ago.
#[derive(Clone, Copy, Debug)]
pub struct RenewQuestion<'a> {
    /// Whose grant.
    pub peer: &'a Arc<Peer>,
}

/// A step of an enhanced authentication (4.12): what the client has sent.
#[derive(Clone, Copy)]
pub struct ExchangeQuestion<'a> {
    /// Who, as admitted.
    pub peer: &'a Arc<Peer>,
    /// The Authentication Method of its CONNECT.
    pub method: &'a str,
    /// The Authentication Data of this packet.
    pub data: Option<&'a [u8]>,
    /// The number of the question in its exchange, from 1.
    pub step: u32,
    /// An open session authenticates anew. Else a CONNECT waits.
    pub again: bool,
    /// What time it is, where that is known.
    pub time: Option<WallTime>,
}

impl fmt::Debug for ExchangeQuestion<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The data may be as good as a password.
        f.debug_struct("ExchangeQuestion")
            .field("method", &self.method)
            .field("step", &self.step)
            .field("again", &self.again)
            .finish_non_exhaustive()
    }
}

/// A PUBLISH, in either direction.
#[derive(Clone, Copy, Debug)]
pub struct PublishQuestion<'a> {
    /// Whose session it is.
    pub peer: &'a Arc<Peer>,
    /// The real topic: aliases are resolved.
    pub topic: &'a str,
    /// QoS of the packet.
    pub qos: QoS,
    /// RETAIN flag.
    pub retain: bool,
    /// DUP flag.
    pub dup: bool,
    /// The payload, or only its size where it was not asked for or is larger than what was asked for.
    pub payload: Payload<'a>,
    /// Properties of a 5.0 packet; empty otherwise.
    pub properties: Properties<'a>,
    /// What time it is, where that is known.
    pub time: Option<WallTime>,
}

impl<'a> PublishQuestion<'a> {
    /// It as rules see it.
    #[must_use]
    pub fn message(&self) -> Message<'a> {
        // Never larger than a packet can be.
        let payload = usize::try_from(self.payload.size()).unwrap_or(usize::MAX);
        Message { topic: self.topic, qos: self.qos, retain: self.retain, payload, time: self.time }
    }
}

/// A payload, or how large it is.
#[derive(Clone, Copy, Debug)]
pub enum Payload<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// Bytes.
    Size(u32),
}

impl Payload<'_> {
    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self {
            Self::Whole(bytes) => bytes.len() as u64,
            Self::Size(size) => u64::from(*size),
        }
    }
}

/// A SUBSCRIBE.
#[derive(Clone, Debug)]
pub struct SubscribeQuestion<'a> {
    /// Who asks.
    pub peer: &'a Arc<Peer>,
    /// The filters in the client's order; never empty.
    pub filters: &'a [FilterRequest<'a>],
    /// Properties of a 5.0 packet; empty otherwise.
    pub properties: Properties<'a>,
    /// What time it is, where that is known.
    pub time: Option<WallTime>,
    kept: OnceCell<Arc<KeptSubscribe>>,
}

impl<'a> SubscribeQuestion<'a> {
    /// The question about these filters.
    #[must_use]
    pub const fn new(
        peer: &'a Arc<Peer>,
        filters: &'a [FilterRequest<'a>],
        properties: Properties<'a>,
    ) -> Self {
        Self { peer, filters, properties, time: None, kept: OnceCell::new() }
    }

    /// The same, asked at this time.
    #[must_use]
    pub fn at(self, time: Option<WallTime>) -> Self {
        Self { time, ..self }
    }

    pub(super) fn of_kept(
        kept: &'a Arc<KeptSubscribe>,
        filters: &'a [FilterRequest<'a>],
        properties: Properties<'a>,
    ) -> Self {
        Self { peer: kept.peer(), filters, properties, time: kept.time(), kept: Arc::clone(kept).into() }
    }

    /// The question copied out of its packet: once, for all who come back to it.
    pub fn to_kept(&self) -> Arc<KeptSubscribe> {
        // Two advisers in a row may both need time; the filters of a SUBSCRIBE, half a million perhaps, are copied once.
        Arc::clone(self.kept.get_or_init(|| Arc::new(KeptSubscribe::of(self))))
    }
}
