//! One direction, watched at its far end: what arrives must be what was sent, in order, each once, as decided.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use bytes::{Buf, BytesMut};
use mproxy_codec::{Frame, Packet, PacketId, PacketType, Publish, QoS, Sender, Subscribe, Version};
use mproxy_core::Side;
use mproxy_core::policy::{Decision, FilterChange, PublishChange};

use super::model::{ModelPublish, Sent, What, request, suback, unsubscribe};

/// What a question's key was answered, how often.
pub(super) type AnswerCounts = HashMap<String, u32>;

/// The packets on their way to one side.
#[derive(Debug)]
pub(super) struct PacketPath {
    pub(super) to: Side,
    version: Version,
    /// Failed answers let publishes of this direction through.
    pub(super) open: bool,
    /// The same for SUBSCRIBEs.
    pub(super) subscribes_open: bool,
    /// Somebody decides about publishes in this direction.
    pub(super) decided: bool,
    /// What the broker's topics begin with, as the client's grant has it; else empty.
    pub(super) prefix: &'static str,
    /// Names at the broker that the last SUBSCRIBE has left behind.
    pub(super) left_behind: Vec<String>,
    /// Sent, and not arrived.
    pub(super) sent: VecDeque<Sent>,
    /// Answers of the session's own that must arrive some time.
    pub(super) owed: Vec<Vec<u8>>,
    /// What the receiver takes each alias for.
    aliases: BTreeMap<u16, String>,
    /// What the broker knows filters as, where it is not what the client said.
    renames: HashMap<String, String>,
    /// Filters that the broker knows as the client said them.
    plain: HashSet<String>,
    arrived: BytesMut,
    arrivals: HashMap<String, u32>,
    /// No exchange that is begun now has to arrive.
    pub(super) drains: bool,
    /// Nothing may follow.
    over: bool,
}

/// Whether an exchange did not begin, if this has arrived behind it.
fn is_left_out(sent: &Sent, arrived: &Packet<'_>) -> bool {
    let What::Publish(message) = &sent.what else { return false };
    let has_come = matches!(arrived, Packet::Publish(publish) if publish.packet_id == message.id);
    message.id.is_some() && !has_come
}

/// What has arrived.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// A packet of the other side's.
    Theirs,
    /// One of the session's own.
    Ours,
    /// The session's last word.
    Goodbye,
}

impl PacketPath {
    pub(super) fn new(to: Side, version: Version) -> Self {
        Self {
            to,
            version,
            open: false,
            subscribes_open: false,
            decided: false,
            prefix: "",
            left_behind: Vec::new(),
            sent: VecDeque::new(),
            owed: Vec::new(),
            aliases: BTreeMap::new(),
            renames: HashMap::new(),
            plain: HashSet::new(),
            arrived: BytesMut::new(),
            arrivals: HashMap::new(),
            drains: false,
            over: false,
        }
    }

    /// More bytes for the receiver.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.arrived.extend_from_slice(bytes);
    }

    /// Bytes of a packet that is not whole.
    pub(super) fn torn(&self) -> usize {
        self.arrived.len()
    }

    /// The next whole packet that has arrived.
    pub(super) fn next(&mut self) -> Result<Option<Vec<u8>>, String> {
        let from = self.sender();
        let Some((frame, _)) =
            Frame::split(&self.arrived, from, Some(self.version)).map_err(|error| error.to_string())?
        else {
            return Ok(None);
        };
        let bytes = frame.bytes.to_vec();
        self.arrived.advance(bytes.len());
        if self.over { Err("a packet after the last".into()) } else { Ok(Some(bytes)) }
    }

    pub(super) fn sender(&self) -> Sender {
        match self.to {
            Side::Client => Sender::Server,
            Side::Broker => Sender::Client,
        }
    }

    /// Judges a packet that has arrived. `ending`: the session is, so it may say goodbye.
    pub(super) fn judge(
        &mut self,
        bytes: &[u8],
        packet: &Packet<'_>,
        answered: &AnswerCounts,
        ending: bool,
    ) -> Result<Arrival, String> {
        // Before the packets of the other side: the session's own answers come between them, at no fixed place.
        if let Some(at) = self.owed.iter().position(|owed| owed == bytes) {
            self.owed.remove(at);
            return Ok(Arrival::Ours);
        }
        if ending
            && self.to == Side::Client
            && matches!(packet.kind(), PacketType::Disconnect | PacketType::Connack)
        {
            // The broker's own may be on its way, too, and is judged like any packet of its.
            let next = self.sent.iter().find(|sent| !self.stays_behind(sent));
            let theirs = next.is_some_and(|sent| sent.bytes == bytes);
            if !theirs {
                self.over = true;
                return Ok(Arrival::Goodbye);
            }
        }
        loop {
            let Some(sent) = self.sent.pop_front() else {
                return Err(format!(
                    "{} from nowhere: {:02x?}",
                    packet.kind().name(),
                    &bytes[..bytes.len().min(40)]
                ));
            };
            if self.stays_behind(&sent) {
                if ending && self.is_kept_suback(&sent, bytes) {
                    return Ok(Arrival::Theirs);
                }
                continue;
            }
            if self.drains && is_left_out(&sent, packet) {
                continue;
            }
            self.check_arrival(&sent, bytes, packet, answered)
                .map_err(|why| format!("{why}\n  sent    {sent:?}\n  arrived {packet:?}"))?;
            return Ok(Arrival::Theirs);
        }
    }

    /// A SUBACK that waits for an UNSUBSCRIBE of the session's own does not where nothing more goes to the broker.
    fn is_kept_suback(&self, sent: &Sent, bytes: &[u8]) -> bool {
        let What::Superseded { id, codes, .. } = &sent.what else { return false };
        let answered = |sent: &Sent| matches!(&sent.what, What::Suback { id: other, .. } if other == id);
        !self.sent.iter().any(answered) && suback(self.version, id_of(*id), codes) == bytes
    }

    /// Whether all that is still on its way stays on the way.
    pub(super) fn is_through(&self) -> bool {
        self.sent.iter().all(|sent| self.stays_behind(sent))
    }

    fn stays_behind(&self, sent: &Sent) -> bool {
        match &sent.what {
            What::Publish(message) => {
                message.outside || message.fate.outcome(self.open).is_err() && self.decided
            }
            What::Superseded { .. } => true,
            What::Subscribe { filters, fate, .. } => {
                all_refused(&fate.outcome(filters.len(), self.subscribes_open))
            }
            What::Release { ours, .. } => *ours,
            What::Unsubscribe { .. } | What::Suback { .. } | What::Plain => false,
        }
    }

    fn check_arrival(
        &mut self,
        sent: &Sent,
        bytes: &[u8],
        packet: &Packet<'_>,
        answered: &AnswerCounts,
    ) -> Result<(), String> {
        let expected = match (&sent.what, packet) {
            (What::Publish(message), Packet::Publish(publish)) => {
                let change = match message.fate.outcome(self.open) {
                    Ok(change) if self.decided => change,
                    _ => None,
                };
                if !message.ruled {
                    self.check_decided(&message.key, answered)?;
                }
                let leaves = self.arriving_topic(message, change);
                let knew = message.alias.and_then(|alias| self.aliases.get(&alias)) == Some(&leaves);
                let bare = self.match_publish(message, publish, change, &leaves)?;
                let sent_bare = topic_of(&sent.bytes, self.sender(), self.version).is_empty();
                // Only what the receiver would not understand is written anew.
                let renamed = !(self.prefix.is_empty() || sent_bare && knew);
                // Byte identity is asked of everything else: a proxy that writes anew what it need not will differ some day.
                if change.is_some() || renamed || sent_bare && !bare && !knew {
                    return Ok(());
                }
                sent.bytes.clone()
            }
            (What::Subscribe { key, filters, fate, .. }, Packet::Subscribe(subscribe)) => {
                self.check_decided(key, answered)?;
                let outcome = fate.outcome(filters.len(), self.subscribes_open);
                self.match_subscribe(filters, &outcome, subscribe)?;
                let plain = Decision::Allow(FilterChange::default());
                if !self.prefix.is_empty() || outcome.iter().any(|one| *one != plain) {
                    return Ok(());
                }
                sent.bytes.clone()
            }
            (What::Unsubscribe { id, filters }, Packet::Unsubscribe(_)) => {
                let names: Vec<String> = filters
                    .iter()
                    .map(|filter| {
                        self.plain.remove(filter);
                        self.renames.remove(filter).unwrap_or_else(|| format!("{}{filter}", self.prefix))
                    })
                    .collect();
                unsubscribe(self.version, id_of(*id), &names)
            }
            (What::Suback { id, codes }, _) => suback(self.version, id_of(*id), codes),
            _ => sent.bytes.clone(),
        };
        if expected == bytes { Ok(()) } else { Err("other bytes than were sent".into()) }
    }

    fn check_decided(&mut self, key: &str, answered: &AnswerCounts) -> Result<(), String> {
        let arrivals = self.arrivals.entry(key.into()).or_default();
        *arrivals += 1;
        // The heart of it: nothing arrives before somebody has answered, as often as it arrives.
        if self.decided && answered.get(key).is_none_or(|answers| answers < arrivals) {
            return Err(format!("{key} arrived before it was decided about"));
        }
        Ok(())
    }

    /// The topic under which it arrives.
    fn arriving_topic(&self, message: &ModelPublish, change: Option<&PublishChange>) -> String {
        let changed = change.and_then(|change| change.topic.as_deref());
        match self.to {
            Side::Broker => format!("{}{}", self.prefix, changed.unwrap_or(&message.topic)),
            Side::Client => {
                let own = message.topic.strip_prefix(self.prefix).unwrap_or(&message.topic);
                changed.unwrap_or(own).to_owned()
            }
        }
    }

    /// Whether the topic was left to the alias.
    fn match_publish(
        &mut self,
        message: &ModelPublish,
        publish: &Publish<'_>,
        change: Option<&PublishChange>,
        meant: &str,
    ) -> Result<bool, String> {
        let bare = publish.topic.is_empty();
        let topic = match publish.alias {
            Some(alias) if bare => {
                self.aliases.get(&alias).cloned().ok_or("an alias that the receiver does not know")?
            }
            Some(alias) => {
                self.aliases.insert(alias, publish.topic.into());
                publish.topic.into()
            }
            None => publish.topic.to_owned(),
        };
        let payload = change.and_then(|change| change.payload.as_deref()).unwrap_or(&message.payload);
        let retain = change.and_then(|change| change.retain).unwrap_or(message.retain);
        let key =
            publish.properties.user().find(|(name, _)| *name == "id").map_or(&*message.key, |(_, key)| key);
        if topic != meant {
            return Err(format!("under the topic {topic}, not {meant}"));
        }
        let check_arrival = publish.payload == payload
            && publish.retain == retain
            && (publish.dup, publish.qos, publish.packet_id) == (message.dup, message.qos, message.id)
            && publish.alias == message.alias
            && key == message.key;
        if check_arrival { Ok(bare) } else { Err("another PUBLISH".into()) }
    }

    fn match_subscribe(
        &mut self,
        filters: &[(String, QoS)],
        outcome: &[Decision<FilterChange>],
        subscribe: &Subscribe<'_>,
    ) -> Result<(), String> {
        let mut arrived = subscribe.filters();
        let (mut names, mut old_names, mut plain) = (Vec::new(), Vec::new(), Vec::new());
        for ((filter, qos), one) in filters.iter().zip(outcome) {
            let Decision::Allow(change) = one else { continue };
            let name = &*format!("{}{}", self.prefix, change.filter.as_deref().unwrap_or(filter));
            let qos = change.max_qos.map_or(*qos, |most| most.min(*qos));
            if arrived.next() != Some(request(name, qos)) {
                return Err(format!("without {name}"));
            }
            let old = match &change.filter {
                Some(_) => {
                    let stood = self.plain.remove(filter).then(|| format!("{}{filter}", self.prefix));
                    self.renames.insert(filter.clone(), name.to_owned()).or(stood)
                }
                None => {
                    plain.push(filter.clone());
                    self.renames.remove(filter)
                }
            };
            old_names.extend(old.filter(|old| old != name && !old_names.contains(old)));
            names.push(name.to_owned());
        }
        // What another filter still goes by must stay subscribed.
        old_names.retain(|old| !names.contains(old) && !self.renames.values().any(|name| name == old));
        self.left_behind = old_names;
        plain.retain(|filter| !self.renames.contains_key(filter));
        self.plain.extend(plain);
        if arrived.next().is_none() { Ok(()) } else { Err("with more filters than were allowed".into()) }
    }
}

pub(super) fn all_refused(outcome: &[Decision<FilterChange>]) -> bool {
    outcome.iter().all(|one| matches!(one, Decision::Refuse(_)))
}

pub(super) fn id_of(id: u16) -> PacketId {
    PacketId::new(id).expect("ids begin at 1")
}

fn topic_of(bytes: &[u8], from: Sender, version: Version) -> String {
    let (frame, _) = Frame::split(bytes, from, Some(version)).expect("a packet").expect("a whole one");
    match Packet::parse(&frame, from, version) {
        Ok(Packet::Publish(publish)) => publish.topic.into(),
        other => panic!("not a PUBLISH: {other:?}"),
    }
}
