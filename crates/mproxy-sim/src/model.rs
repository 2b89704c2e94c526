//! A client and a broker that obey the standard: they send what they may, answer what they must, each kind of
//! acknowledgement in the order that 4.6 asks for.

use std::collections::{BTreeMap, VecDeque};

use bytes::BytesMut;
use mproxy_codec::packet::{
    Ack, Suback, Unsuback, encode_publish_head, encode_subscribe, encode_unsubscribe,
};
use mproxy_codec::{
    EncodeError, FilterRequest, Packet, PacketId, PacketType, Properties, PropertyEdit, PropertyId, QoS,
    ReasonCode, TopicFilter, Value, Version, encode_pingreq, encode_pingresp, publish_flags,
};
use mproxy_core::Side;
use mproxy_core::policy::{Action, Refusal};

use super::fate::{Fate, SubscribeFate};
use super::rng::Rng;

/// A packet that a peer has sent.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) bytes: Vec<u8>,
    pub(super) what: What,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    Publish(Box<ModelPublish>),
    Subscribe {
        key: String,
        id: u16,
        filters: Vec<(String, QoS)>,
        fate: SubscribeFate,
    },
    Unsubscribe {
        id: u16,
        filters: Vec<String>,
    },
    /// For each filter that the client asked for, in the end.
    Suback {
        id: u16,
        codes: Vec<u8>,
    },
    /// A SUBACK that the session keeps until these filters are unsubscribed from.
    Superseded {
        id: u16,
        codes: Vec<u8>,
        names: Vec<String>,
    },
    /// A PUBREL; `ours` if the session answered the PUBLISH, and answers this too.
    Release {
        id: u16,
        ours: bool,
    },
    /// Arrives as it is.
    Plain,
}

/// A PUBLISH, as its sender means it.
#[derive(Clone, Debug)]
pub(super) struct ModelPublish {
    /// Names it in questions: the user property `id` in 5.0, the topic before.
    pub(super) key: String,
    pub(super) topic: String,
    pub(super) dup: bool,
    pub(super) qos: QoS,
    pub(super) id: Option<PacketId>,
    pub(super) retain: bool,
    pub(super) payload: Vec<u8>,
    pub(super) alias: Option<u16>,
    pub(super) fate: Fate,
    /// A delivery from outside of the client's prefix: nobody is asked, and it goes nowhere.
    pub(super) outside: bool,
    /// To a topic about which the same is always said, by a rule mostly: then the answer stands, and a question need not come.
    pub(super) ruled: bool,
}

/// Topics that rules allow begin with this.
pub(super) const RULED: &str = "ruled/";

/// Of these, those that the service allows, each time that it is asked.
pub(super) const EACH: &str = "ruled/each/";

/// Of these, those that the service allows for a while.
pub(super) const CACHED: &str = "ruled/cached/";

/// Of these, those that the service refuses for a while.
pub(super) const DENIED: &str = "ruled/denied/";

/// A publish of the peer's that is under way.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    pub(super) message: Box<ModelPublish>,
    /// How often it was sent.
    pub(super) copies: u32,
    /// How often it was acknowledged (PUBACK or PUBREC).
    pub(super) acks: u32,
    /// The session answers it: set when its verdict is told.
    pub(super) ours: bool,
    released: bool,
}

/// A peer: the client or the broker.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) side: Side,
    pub(super) version: Version,
    /// Topic aliases the other side takes.
    pub(super) aliases: u16,
    /// What the broker's topics begin with, as the client's grant has it; else empty.
    pub(super) prefix: &'static str,
    introduced: BTreeMap<u16, String>,
    pub(super) flights: BTreeMap<u16, Flight>,
    /// Packet ids of SUBSCRIBE and UNSUBSCRIBE under way.
    pub(super) asking: Vec<u16>,
    subscribed: Vec<String>,
    pubacks: VecDeque<u16>,
    pubrecs: VecDeque<u16>,
    pubrels: VecDeque<u16>,
    pubcomps: VecDeque<u16>,
    others: VecDeque<Sent>,
    named: u32,
    next_id: u16,
}

impl Model {
    pub(super) fn new(side: Side, version: Version) -> Self {
        Self {
            side,
            version,
            aliases: 0,
            prefix: "",
            introduced: BTreeMap::new(),
            flights: BTreeMap::new(),
            asking: Vec::new(),
            subscribed: Vec::new(),
            pubacks: VecDeque::new(),
            pubrecs: VecDeque::new(),
            pubrels: VecDeque::new(),
            pubcomps: VecDeque::new(),
            others: VecDeque::new(),
            named: 0,
            next_id: 0,
        }
    }

    /// Whether an answer is still to be given.
    pub(super) fn owes(&self) -> bool {
        !(self.pubacks.is_empty()
            && self.pubrecs.is_empty()
            && self.pubrels.is_empty()
            && self.pubcomps.is_empty()
            && self.others.is_empty())
    }

    /// Whether a publish of its own waits for an acknowledgement that will come.
    pub(super) fn waits(&self) -> bool {
        !self.asking.is_empty()
            || self.flights.values().any(|flight| !is_swallowed(self.side, &flight.message))
    }

    /// Something new.
    pub(super) fn begin(&mut self, rng: &mut Rng, ends: bool) -> Option<Sent> {
        if self.side == Side::Broker {
            return Some(self.publish(rng, ends));
        }
        // So many requests at a time that a packet id is left for the next.
        let may_ask = self.asking.len() < 20;
        match rng.below(12) {
            0 if may_ask => Some(self.subscribe(rng)),
            1 if may_ask => self.unsubscribe(rng),
            2 => Some(plain(encode_pingreq)),
            // 5.0 forbids it on the same connection [MQTT-4.4.0-1]; clients of 3.1.1 do it.
            3 if !self.version.is_v5() => self.repeat(rng),
            _ => Some(self.publish(rng, ends)),
        }
    }

    /// One of the answers that it owes.
    pub(super) fn answer(&mut self, rng: &mut Rng) -> Option<Sent> {
        for _ in 0..8 {
            // A broker of 5.0 refuses now and then itself.
            let no = self.side == Side::Broker && self.version.is_v5() && rng.one_in(10);
            let reason = if no { ReasonCode::QUOTA_EXCEEDED } else { ReasonCode::SUCCESS };
            let sent = match rng.below(5) {
                0 => self.pubacks.pop_front().map(|id| self.ack(PacketType::Puback, id, reason)),
                1 => self.pubrecs.pop_front().map(|id| self.ack(PacketType::Pubrec, id, reason)),
                2 => {
                    self.pubcomps.pop_front().map(|id| self.ack(PacketType::Pubcomp, id, ReasonCode::SUCCESS))
                }
                3 => self.pubrels.pop_front().map(|id| {
                    let ours = self.flights.get(&id).is_some_and(|flight| flight.ours);
                    let bytes = self.ack(PacketType::Pubrel, id, ReasonCode::SUCCESS).bytes;
                    Sent { bytes, what: What::Release { id, ours } }
                }),
                _ => self.others.pop_front(),
            };
            if sent.is_some() {
                return sent;
            }
        }
        None
    }

    fn publish(&mut self, rng: &mut Rng, ends: bool) -> Sent {
        self.named += 1;
        let v5 = self.version.is_v5();
        let letter = if self.side == Side::Client { 'u' } else { 'd' };
        let key = format!("{letter}/{}", self.named);
        // Below the Receive Maximum that the model broker gives, as [MQTT-3.3.4-7] wants it of a client.
        let crowded = self.flights.len() >= 10;
        let qos = if crowded {
            QoS::AtMostOnce
        } else {
            *rng.pick(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce])
        };
        let size = match rng.below(150) {
            // Around the size from which payloads stream, and over the 64 KiB that are read at a time.
            0 => 16_000 + rng.below(50_000),
            1..20 => rng.below(400),
            _ => rng.below(20),
        };
        let mut topic = if v5 { format!("t/{}", rng.below(4)) } else { key.clone() };
        let outside = !self.prefix.is_empty() && self.side == Side::Broker && rng.one_in(6);
        let ruled = !outside && rng.one_in(3);
        let mut denied = false;
        if ruled {
            let whose = match rng.below(8) {
                0 | 1 => EACH,
                2 | 3 => CACHED,
                4 if self.side == Side::Client => DENIED,
                _ => RULED,
            };
            denied = whose == DENIED;
            topic = format!("{whose}{}", rng.below(6));
        }
        if self.side == Side::Broker && !outside {
            topic = format!("{}{topic}", self.prefix);
        }
        let alias = (v5 && self.aliases > 0 && rng.one_in(if ruled { 6 } else { 2 }))
            .then(|| 1 + rng.below(self.aliases.into()) as u16);
        let message = Box::new(ModelPublish {
            topic,
            dup: false,
            qos,
            id: (qos != QoS::AtMostOnce).then(|| self.free_id()),
            retain: rng.one_in(4),
            payload: vec![b'p'; size],
            alias,
            fate: match (outside || denied, ruled) {
                (true, _) => Fate::Refuse(Refusal::default()),
                (false, true) => Fate::Pass,
                (false, false) => Fate::draw(rng, ends, v5),
            },
            key,
            outside,
            ruled,
        });
        if let Some(id) = message.id {
            let flight =
                Flight { message: message.clone(), copies: 1, acks: 0, ours: false, released: false };
            self.flights.insert(id.get(), flight);
        }
        // Known aliases are used without their topic, mostly.
        let known = alias.is_some_and(|alias| self.introduced.get(&alias) == Some(&message.topic));
        if let Some(alias) = alias {
            self.introduced.insert(alias, message.topic.clone());
        }
        let bytes = message.encode(self.version, known && !rng.one_in(4));
        Sent { bytes, what: What::Publish(message) }
    }

    /// A publish that was not acknowledged yet, once more.
    fn repeat(&mut self, rng: &mut Rng) -> Option<Sent> {
        let waiting: Vec<u16> = self
            .flights
            .iter()
            .filter(|(_, flight)| !flight.released && flight.acks < flight.copies)
            .map(|(id, _)| *id)
            .collect();
        if waiting.is_empty() {
            return None;
        }
        let flight = self.flights.get_mut(rng.pick(&waiting))?;
        flight.copies += 1;
        let message = Box::new(ModelPublish { dup: true, ..(*flight.message).clone() });
        Some(Sent { bytes: message.encode(self.version, false), what: What::Publish(message) })
    }

    fn subscribe(&mut self, rng: &mut Rng) -> Sent {
        self.named += 1;
        let id = self.free_id();
        let count = 1 + rng.below(4);
        let filters: Vec<(String, QoS)> = (0..count)
            .map(|n| {
                let again = !self.subscribed.is_empty() && n > 0 && rng.one_in(4);
                let filter =
                    if again { rng.pick(&self.subscribed).clone() } else { format!("s/{}/{n}", self.named) };
                (filter, *rng.pick(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce]))
            })
            .collect();
        for (filter, _) in &filters {
            if self.subscribed.len() < 20 && !self.subscribed.contains(filter) {
                self.subscribed.push(filter.clone());
            }
        }
        let requests: Vec<_> = filters.iter().map(|(filter, qos)| request(filter, *qos)).collect();
        let bytes =
            encode_bytes(|out| encode_subscribe(self.version, id, &PropertyEdit::NONE, requests, out));
        self.asking.push(id.get());
        let fate = SubscribeFate::draw(rng, count);
        let key = filters[0].0.clone();
        Sent { bytes, what: What::Subscribe { key, id: id.get(), filters, fate } }
    }

    fn unsubscribe(&mut self, rng: &mut Rng) -> Option<Sent> {
        if self.subscribed.is_empty() {
            return None;
        }
        let id = self.free_id();
        let filters: Vec<String> =
            (0..1 + rng.below(3)).map(|_| rng.pick(&self.subscribed).clone()).collect();
        let bytes = unsubscribe(self.version, id, &filters);
        self.asking.push(id.get());
        Some(Sent { bytes, what: What::Unsubscribe { id: id.get(), filters } })
    }

    /// A packet has come; `Err` if it makes no sense to this peer.
    pub(super) fn hear(&mut self, packet: &Packet<'_>) -> Result<(), String> {
        match packet {
            Packet::Publish(publish) => match (publish.qos, publish.packet_id) {
                (QoS::AtLeastOnce, Some(id)) => self.pubacks.push_back(id.get()),
                (QoS::ExactlyOnce, Some(id)) => self.pubrecs.push_back(id.get()),
                _ => {}
            },
            Packet::Ack(ack) => return self.hear_ack(ack),
            Packet::Pingreq => self.others.push_back(plain(encode_pingresp)),
            Packet::Suback(Suback { packet_id, .. }) | Packet::Unsuback(Unsuback { packet_id, .. }) => {
                let at = self.asking.iter().position(|id| *id == packet_id.get());
                self.asking.swap_remove(at.ok_or("an answer to no SUBSCRIBE or UNSUBSCRIBE")?);
            }
            _ => {}
        }
        Ok(())
    }

    /// The broker's answer to a SUBSCRIBE that had these codes for each of its filters; `merged_codes` is what the client
    /// must get, once the session has unsubscribed from `names`.
    pub(super) fn owe_suback(
        &mut self,
        id: PacketId,
        codes: &[u8],
        merged_codes: Vec<u8>,
        names: Vec<String>,
    ) {
        let bytes = suback(self.version, id, codes);
        let (id, codes) = (id.get(), merged_codes);
        let what = match names.is_empty() {
            true => What::Suback { id, codes },
            false => What::Superseded { id, codes, names },
        };
        self.others.push_back(Sent { bytes, what });
    }

    /// `what` the client will see of it.
    pub(super) fn owe_unsuback(&mut self, id: PacketId, count: usize, what: What) {
        let codes = vec![0; if self.version.is_v5() { count } else { 0 }];
        let unsuback = Unsuback { packet_id: id, properties: Properties::EMPTY, codes: &codes };
        self.others.push_back(Sent { bytes: encode_bytes(|out| unsuback.encode(self.version, out)), what });
    }

    fn hear_ack(&mut self, ack: &Ack<'_>) -> Result<(), String> {
        let id = ack.packet_id.get();
        match ack.kind {
            PacketType::Pubrel => {
                self.pubcomps.push_back(id);
                return Ok(());
            }
            PacketType::Pubcomp => {
                let flight = self.flights.remove(&id).ok_or("PUBCOMP for nothing")?;
                return if flight.released { Ok(()) } else { Err("PUBCOMP before PUBREL".into()) };
            }
            _ => {}
        }
        let flight =
            self.flights.get_mut(&id).ok_or_else(|| format!("{} {id} for nothing", ack.kind.name()))?;
        let expected =
            if flight.message.qos == QoS::AtLeastOnce { PacketType::Puback } else { PacketType::Pubrec };
        if ack.kind != expected {
            return Err(format!("{} {id} where {} was due", ack.kind.name(), expected.name()));
        }
        flight.acks += 1;
        // Once for each time it was sent: one too many would acknowledge a later PUBLISH under the same id.
        if flight.acks > flight.copies {
            return Err(format!("{} {id} once too often", ack.kind.name()));
        }
        // A PUBREC with an error acknowledges [MQTT-4.4.0-2], and no PUBREL follows it [MQTT-4.3.3-4].
        if ack.reason.is_error() || ack.kind == PacketType::Puback && flight.acks == flight.copies {
            self.flights.remove(&id);
        } else if ack.kind == PacketType::Pubrec && flight.acks == flight.copies {
            flight.released = true;
            self.pubrels.push_back(id);
        }
        Ok(())
    }

    fn ack(&self, kind: PacketType, id: u16, reason: ReasonCode) -> Sent {
        Sent { bytes: ack(self.version, kind, id, reason), what: What::Plain }
    }

    fn free_id(&mut self) -> PacketId {
        // It ends: at most 10 flights and 20 requests have an id.
        loop {
            // Few ids, so that they are used again soon: that is where flows are mixed up.
            self.next_id = self.next_id % 40 + 1;
            if !self.flights.contains_key(&self.next_id) && !self.asking.contains(&self.next_id) {
                return PacketId::new(self.next_id).expect("it begins at 1");
            }
        }
    }
}

impl ModelPublish {
    fn encode(&self, version: Version, bare: bool) -> Vec<u8> {
        let mut added = Vec::new();
        if version.is_v5() && !self.ruled {
            added.push((PropertyId::UserProperty, Value::Pair("id", &self.key)));
        }
        if let Some(alias) = self.alias {
            added.push((PropertyId::TopicAlias, Value::Two(alias)));
        }
        let (topic, len) = (if bare { "" } else { &self.topic }, self.payload.len());
        let flags = publish_flags(self.dup, self.qos, self.retain);
        let edit = PropertyEdit::only(&added);
        let head = encode_bytes(|out| encode_publish_head(version, flags, topic, self.id, &edit, len, out));
        [head, self.payload.clone()].concat()
    }
}

/// Whether nobody will ever acknowledge it. (Brokers are answered in any case.)
pub(super) fn is_swallowed(from: Side, message: &ModelPublish) -> bool {
    from == Side::Client && matches!(&message.fate, Fate::Refuse(refusal) if refusal.action == Action::NoAck)
}

pub(super) fn ack(version: Version, kind: PacketType, id: u16, reason: ReasonCode) -> Vec<u8> {
    let id = PacketId::new(id).expect("ids begin at 1");
    encode_bytes(|out| Ack::new(kind, id, reason).encode(version, out))
}

pub(super) fn suback(version: Version, id: PacketId, codes: &[u8]) -> Vec<u8> {
    let suback = Suback { packet_id: id, properties: Properties::EMPTY, codes };
    encode_bytes(|out| suback.encode(version, out))
}

pub(super) fn unsubscribe(version: Version, id: PacketId, filters: &[String]) -> Vec<u8> {
    let filters: Vec<_> = filters.iter().map(|filter| TopicFilter::new(filter).expect("a filter")).collect();
    encode_bytes(|out| encode_unsubscribe(version, id, &PropertyEdit::NONE, filters, out))
}

pub(super) fn request(filter: &str, qos: QoS) -> FilterRequest<'_> {
    FilterRequest::new(TopicFilter::new(filter).expect("a filter"), qos)
}

fn plain(encode: fn(&mut BytesMut)) -> Sent {
    let bytes = encode_bytes(|out| {
        encode(out);
        Ok(())
    });
    Sent { bytes, what: What::Plain }
}

/// What this encodes; packets of the simulator's are small.
pub(super) fn encode_bytes(encode: impl FnOnce(&mut BytesMut) -> Result<(), EncodeError>) -> Vec<u8> {
    let mut out = BytesMut::new();
    encode(&mut out).expect("a small packet");
    out.to_vec()
}
