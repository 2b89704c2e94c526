//! What the broker of the demo knows of one client: its subscriptions, and what is under way to it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use mproxy_codec::topic::matches;
use mproxy_codec::{
    Ack, Disconnect, FilterRequest, Packet, PacketId, PacketType, Place, Properties, PropertyEdit, Publish,
    QoS, ReasonCode, Sender, Version,
};
use tokio::sync::mpsc;

/// Bytes that may wait for a client. What finds no room is dropped with QoS 0, and ends the connection otherwise.
const LARGEST_MAIL: usize = 32 << 20;

/// Messages that may wait until earlier ones are acknowledged.
const MOST_WAITING: usize = 1000;

/// A message, as it was published.
#[derive(Clone, Debug)]
pub(super) struct DemoMessage {
    pub(super) topic: Arc<str>,
    pub(super) payload: Bytes,
    /// Those of 5.0, as they stand in the packet.
    properties: Bytes,
    pub(super) qos: QoS,
    pub(super) retain: bool,
}

impl DemoMessage {
    /// `None`: its properties cannot be written again.
    pub(super) fn new(
        topic: &str,
        payload: &[u8],
        properties: &PropertyEdit<'_>,
        qos: QoS,
        retain: bool,
    ) -> Option<Self> {
        let properties = properties.to_bytes().ok()?.freeze();
        Some(Self { topic: topic.into(), payload: Bytes::copy_from_slice(payload), properties, qos, retain })
    }

    /// What it takes to keep it.
    pub(super) fn weight(&self) -> usize {
        self.topic.len() + self.payload.len() + self.properties.len() + 64
    }
}

/// Bytes for a client, and the room that they take until they are written.
pub(super) struct DemoMail {
    pub(super) bytes: Bytes,
    pub(super) room: MailRoom,
    /// Nothing follows.
    pub(super) last: bool,
}

/// Given back when it is dropped.
pub(super) struct MailRoom {
    used: Arc<AtomicUsize>,
    size: usize,
}

impl Drop for MailRoom {
    fn drop(&mut self) {
        self.used.fetch_sub(self.size, Ordering::Relaxed);
    }
}

/// The way to a client.
#[derive(Clone, Debug)]
pub(super) struct Mailbox {
    to: mpsc::UnboundedSender<DemoMail>,
    used: Arc<AtomicUsize>,
}

impl Mailbox {
    /// With its other end.
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<DemoMail>) {
        // Bounded in bytes, by `room`.
        let (to, mail) = mpsc::unbounded_channel();
        (Self { to, used: Arc::default() }, mail)
    }

    /// `false`: there is no room, and it is dropped.
    pub(super) fn send(&self, packet: &Packet<'_>, version: Version) -> bool {
        self.post(packet, version, false)
    }

    /// The last word: 5.0 clients are told why.
    pub(super) fn end(&self, version: Version, reason: ReasonCode) {
        let disconnect = Packet::Disconnect(Disconnect { reason, properties: Properties::EMPTY });
        if version.is_v5() {
            self.post(&disconnect, version, true);
        } else {
            self.close();
        }
    }

    /// The last word was said.
    pub(super) fn close(&self) {
        let room = MailRoom { used: Arc::clone(&self.used), size: 0 };
        // Whoever is gone needs no last word.
        let _ = self.to.send(DemoMail { bytes: Bytes::new(), room, last: true });
    }

    fn post(&self, packet: &Packet<'_>, version: Version, last: bool) -> bool {
        let mut bytes = BytesMut::new();
        if packet.encode(version, &mut bytes).is_err() {
            return false;
        }
        let size = bytes.len() + size_of::<DemoMail>();
        if self.used.fetch_add(size, Ordering::Relaxed) + size > LARGEST_MAIL {
            self.used.fetch_sub(size, Ordering::Relaxed);
            return false;
        }
        let room = MailRoom { used: Arc::clone(&self.used), size };
        self.to.send(DemoMail { bytes: bytes.freeze(), room, last }).is_ok()
    }
}

/// A subscription of one client.
#[derive(Debug)]
pub(super) struct DemoSubscription {
    pub(super) filter: Box<str>,
    qos: QoS,
    no_local: bool,
    retain_as_published: bool,
}

impl From<&FilterRequest<'_>> for DemoSubscription {
    fn from(asked: &FilterRequest<'_>) -> Self {
        Self {
            filter: asked.filter.as_str().into(),
            qos: asked.qos,
            no_local: asked.no_local,
            retain_as_published: asked.retain_as_published,
        }
    }
}

/// What is under way to a client with a packet id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Underway {
    /// A PUBLISH, until its PUBACK or PUBREC.
    Published(QoS),
    /// A PUBREL, until its PUBCOMP.
    Released,
}

/// One client.
#[derive(Debug)]
pub(super) struct DemoSession {
    pub(super) client_id: Box<str>,
    pub(super) version: Version,
    pub(super) mailbox: Mailbox,
    pub(super) will: Option<DemoMessage>,
    pub(super) subscriptions: Vec<DemoSubscription>,
    /// Packet ids of publishes with QoS 2 that it has not released.
    pub(super) unreleased: BTreeSet<PacketId>,
    /// Its Receive Maximum [MQTT-3.3.4-9].
    receive_maximum: usize,
    /// Its Maximum Packet Size [MQTT-3.1.2-24].
    packet_maximum: usize,
    underway: BTreeMap<PacketId, Underway>,
    waiting: VecDeque<(DemoMessage, QoS)>,
    last_id: u16,
}

impl DemoSession {
    pub(super) fn new(
        client_id: Box<str>,
        version: Version,
        mailbox: Mailbox,
        properties: &Properties<'_>,
    ) -> Self {
        use mproxy_codec::PropertyId::{MaximumPacketSize, ReceiveMaximum};
        let packet_maximum = properties.u32(MaximumPacketSize).map_or(usize::MAX, |most| most as usize);
        Self {
            client_id,
            version,
            mailbox,
            will: None,
            subscriptions: Vec::new(),
            unreleased: BTreeSet::new(),
            receive_maximum: properties.u16(ReceiveMaximum).unwrap_or(u16::MAX).into(),
            packet_maximum,
            underway: BTreeMap::new(),
            waiting: VecDeque::new(),
            last_id: 0,
        }
    }

    /// Passes a message on if a subscription of this client asks for it: once, with the highest QoS of those that match.
    pub(super) fn offer(&mut self, message: &DemoMessage, is_own: bool) {
        let matching = self
            .subscriptions
            .iter()
            .filter(|one| !(is_own && one.no_local) && matches(&one.filter, &message.topic));
        let asked = matching.map(|one| (one.qos, one.retain_as_published));
        let Some((qos, as_published)) = asked.reduce(|a, b| (a.0.max(b.0), a.1 | b.1)) else { return };
        let retain = message.retain && as_published;
        self.deliver(&DemoMessage { retain, ..message.clone() }, qos);
    }

    /// Sends a message, with at most this QoS, or keeps it until there is a packet id for it.
    pub(super) fn deliver(&mut self, message: &DemoMessage, qos: QoS) {
        let qos = qos.min(message.qos);
        // What the rest of a packet takes at most.
        if message.weight() > self.packet_maximum {
            return;
        }
        if qos == QoS::AtMostOnce {
            self.publish(message, qos, None);
        } else if self.underway.len() < self.receive_maximum && self.waiting.is_empty() {
            self.publish_with_id(message, qos);
        } else if self.waiting.len() < MOST_WAITING {
            self.waiting.push_back((message.clone(), qos));
        }
    }

    fn publish_with_id(&mut self, message: &DemoMessage, qos: QoS) {
        let Some(id) = self.free_id() else { return };
        if self.publish(message, qos, Some(id)) {
            self.underway.insert(id, Underway::Published(qos));
        } else {
            // What is to be acknowledged is not lost without a word.
            self.mailbox.close();
        }
    }

    fn free_id(&mut self) -> Option<PacketId> {
        for _ in 0..=u16::MAX {
            self.last_id = self.last_id.wrapping_add(1);
            let free = PacketId::new(self.last_id).filter(|id| !self.underway.contains_key(id));
            if free.is_some() {
                return free;
            }
        }
        None
    }

    fn publish(&self, message: &DemoMessage, qos: QoS, packet_id: Option<PacketId>) -> bool {
        let properties = match self.version {
            // They were right when they came, and nobody has touched them.
            Version::V5 => {
                Properties::check(&message.properties, Place::Packet(PacketType::Publish), Sender::Server)
            }
            Version::V31 | Version::V311 => Ok(Properties::EMPTY),
        };
        let publish = Publish {
            dup: false,
            qos,
            retain: message.retain,
            topic: &message.topic,
            packet_id,
            alias: None,
            properties: properties.unwrap_or(Properties::EMPTY),
            payload: &message.payload,
        };
        self.mailbox.send(&Packet::Publish(publish), self.version)
    }

    /// What the client says to something that is under way to it, or releases.
    pub(super) fn acknowledged(&mut self, ack: &Ack<'_>) {
        let answer = |kind| Packet::Ack(Ack::new(kind, ack.packet_id, ReasonCode::SUCCESS));
        match (ack.kind, self.underway.get(&ack.packet_id)) {
            (PacketType::Puback, Some(Underway::Published(QoS::AtLeastOnce)))
            | (PacketType::Pubcomp, Some(Underway::Released)) => {
                self.underway.remove(&ack.packet_id);
            }
            // A PUBREC that says no ends the flow [MQTT-4.3.3-4].
            (PacketType::Pubrec, Some(Underway::Published(_))) if ack.reason.is_error() => {
                self.underway.remove(&ack.packet_id);
            }
            (PacketType::Pubrec, Some(_)) => {
                self.underway.insert(ack.packet_id, Underway::Released);
                self.mailbox.send(&answer(PacketType::Pubrel), self.version);
            }
            (PacketType::Pubrel, _) => {
                self.unreleased.remove(&ack.packet_id);
                self.mailbox.send(&answer(PacketType::Pubcomp), self.version);
            }
            // To nothing that is known: 3.x clients send such after a reconnect.
            _ => {}
        }
        while self.underway.len() < self.receive_maximum
            && let Some((message, qos)) = self.waiting.pop_front()
        {
            self.publish_with_id(&message, qos);
        }
    }
}
