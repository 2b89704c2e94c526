//! A question copied out of its packet, for whoever comes back to it when the packet is not there any more: an adviser
//! that needs time, and the chain that goes on behind it.

use std::sync::Arc;

use bytes::Bytes;
use mproxy_codec::frame::FixedHeader;
use mproxy_codec::packet::connect::Connect;
use mproxy_codec::packet::subscribe::{FilterRequest, RetainHandling};
use mproxy_codec::property::{Place, Properties};
use mproxy_codec::topic::TopicFilter;
use mproxy_codec::types::{PacketType, QoS, Sender};
use smallvec::SmallVec;

use super::{ConnectQuestion, ExchangeQuestion, Hook, Payload, PublishQuestion, SubscribeQuestion};
use crate::peer::Peer;
use crate::rule::WallTime;

/// A CONNECT: the session's own bytes of it, shared.
#[derive(Clone, Debug)]
pub struct KeptConnect {
    peer: Arc<Peer>,
    packet: Bytes,
    passes_auth: bool,
    time: Option<WallTime>,
}

impl KeptConnect {
    /// Keeps one.
    #[must_use]
    pub fn of(question: &ConnectQuestion<'_>) -> Self {
        let ConnectQuestion { peer, packet, passes_auth, time, .. } = *question;
        Self { peer: Arc::clone(peer), packet: packet.clone(), passes_auth, time }
    }

    /// The packet, read again.
    #[must_use]
    pub fn connect(&self) -> Option<Connect<'_>> {
        let header = FixedHeader::parse(&self.packet, Sender::Client, None).ok()??;
        Connect::parse(&header, &self.packet).ok()
    }

    /// Puts the question once more. `None`: its packet could not be read again.
    pub fn put<R>(&self, to: impl FnOnce(&ConnectQuestion<'_>) -> R) -> Option<R> {
        let connect = self.connect()?;
        let Self { peer, packet, passes_auth, time } = self;
        let (passes_auth, time) = (*passes_auth, *time);
        Some(to(&ConnectQuestion { peer, connect: &connect, packet, passes_auth, time }))
    }
}

/// A step of an authentication. No `Debug`: its data may be as good as a password.
#[derive(Clone)]
pub struct KeptExchange {
    peer: Arc<Peer>,
    method: Box<str>,
    data: Option<Bytes>,
    step: u32,
    again: bool,
    time: Option<WallTime>,
}

impl KeptExchange {
    /// Keeps one.
    #[must_use]
    pub fn of(question: &ExchangeQuestion<'_>) -> Self {
        Self {
            peer: Arc::clone(question.peer),
            method: question.method.into(),
            data: question.data.map(Bytes::copy_from_slice),
            step: question.step,
            again: question.again,
            time: question.time,
        }
    }

    /// Puts the question once more.
    pub fn put<R>(&self, to: impl FnOnce(&ExchangeQuestion<'_>) -> R) -> R {
        to(&ExchangeQuestion {
            peer: &self.peer,
            method: &self.method,
            data: self.data.as_deref(),
            step: self.step,
            again: self.again,
            time: self.time,
        })
    }
}

/// A PUBLISH of either direction.
#[derive(Clone, Debug)]
pub struct KeptPublish {
    peer: Arc<Peer>,
    sender: Sender,
    topic: Box<str>,
    qos: QoS,
    retain: bool,
    dup: bool,
    payload: Option<Bytes>,
    size: u32,
    properties: Box<[u8]>,
    time: Option<WallTime>,
}

impl KeptPublish {
    /// Keeps one, asked about at this hook.
    #[must_use]
    pub fn of(question: &PublishQuestion<'_>, hook: Hook) -> Self {
        let payload = match question.payload {
            Payload::Whole(bytes) => Some(Bytes::copy_from_slice(bytes)),
            Payload::Size(_) => None,
        };
        Self {
            peer: Arc::clone(question.peer),
            // Properties are judged by who sent them: subscription identifiers are right from a broker alone.
            sender: if hook == Hook::Deliver { Sender::Server } else { Sender::Client },
            topic: question.topic.into(),
            qos: question.qos,
            retain: question.retain,
            dup: question.dup,
            payload,
            // No packet is larger.
            size: question.payload.size() as u32,
            properties: question.properties.raw().into(),
            time: question.time,
        }
    }

    /// Puts the question once more. `None`: its properties could not be read again.
    pub fn put<R>(&self, to: impl FnOnce(&PublishQuestion<'_>) -> R) -> Option<R> {
        let place = Place::Packet(PacketType::Publish);
        Some(to(&PublishQuestion {
            peer: &self.peer,
            topic: &self.topic,
            qos: self.qos,
            retain: self.retain,
            dup: self.dup,
            payload: self.payload.as_deref().map_or(Payload::Size(self.size), Payload::Whole),
            properties: Properties::check(&self.properties, place, self.sender).ok()?,
            time: self.time,
        }))
    }
}

/// A SUBSCRIBE, in few pieces.
#[derive(Debug)]
pub struct KeptSubscribe {
    peer: Arc<Peer>,
    properties: Box<[u8]>,
    text: String,
    filters: Vec<KeptFilter>,
    time: Option<WallTime>,
}

/// One filter: where its text ends, and its options.
#[derive(Debug)]
struct KeptFilter {
    end: u32,
    qos: QoS,
    no_local: bool,
    retain_as_published: bool,
    retain_handling: RetainHandling,
}

impl KeptSubscribe {
    pub(super) fn of(question: &SubscribeQuestion<'_>) -> Self {
        let mut text = String::new();
        let filters = question
            .filters
            .iter()
            .map(|request| {
                text.push_str(request.filter.as_str());
                KeptFilter {
                    // A packet is far smaller than that.
                    end: text.len() as u32,
                    qos: request.qos,
                    no_local: request.no_local,
                    retain_as_published: request.retain_as_published,
                    retain_handling: request.retain_handling,
                }
            })
            .collect();
        let (peer, properties) = (Arc::clone(question.peer), question.properties.raw().into());
        Self { peer, properties, text, filters, time: question.time }
    }

    /// Whose it is.
    #[must_use]
    pub const fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// When it was asked.
    #[must_use]
    pub const fn time(&self) -> Option<WallTime> {
        self.time
    }

    /// How many filters it has.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.filters.len()
    }

    /// Its filters, from this one on.
    pub fn filters_from(&self, first: usize) -> impl Iterator<Item = FilterRequest<'_>> {
        let begin = |at: usize| at.checked_sub(1).map_or(0, |before| self.filters[before].end);
        (first..self.filters.len()).filter_map(move |at| {
            let kept = &self.filters[at];
            let text = self.text.get(begin(at) as usize..kept.end as usize)?;
            Some(FilterRequest {
                filter: TopicFilter::new(text).ok()?,
                qos: kept.qos,
                no_local: kept.no_local,
                retain_as_published: kept.retain_as_published,
                retain_handling: kept.retain_handling,
            })
        })
    }

    /// Puts the question once more. `None`: it could not be read again.
    pub fn put<R>(self: &Arc<Self>, to: impl FnOnce(&SubscribeQuestion<'_>) -> R) -> Option<R> {
        let filters: SmallVec<[FilterRequest<'_>; 8]> = self.filters_from(0).collect();
        // A filter that does not read back would be left unjudged, and the verdicts shifted by one.
        if filters.len() != self.count() {
            return None;
        }
        let place = Place::Packet(PacketType::Subscribe);
        let properties = Properties::check(&self.properties, place, Sender::Client).ok()?;
        Some(to(&SubscribeQuestion::of_kept(self, &filters, properties)))
    }
}
