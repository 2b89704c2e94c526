//! The sessions of the broker of the demo, its retained messages, and what happens when a packet comes. Knows no socket and no
//! clock; what it has for a client goes into that client's mailbox.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use mproxy_codec::{
    Ack, Connack, Connect, Packet, PacketType, Properties, PropertyEdit, PropertyId, Publish, QoS,
    ReasonCode, RetainHandling, Suback, Subscribe, Unsuback, Unsubscribe, Value,
};

use super::session::{DemoMessage, DemoSession, DemoSubscription, Mailbox};

/// The largest packet that is read.
pub(super) const LARGEST_PACKET: usize = 16 << 20;

/// Bytes of messages that are retained, all together.
const MOST_RETAINED: usize = 64 << 20;

/// Subscriptions of one client.
const MOST_SUBSCRIPTIONS: usize = 1000;

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DemoEnd {
    /// By its DISCONNECT, without its will.
    Left,
    /// Without one, or with one that asks for the will.
    Vanished,
    /// It did what it may not; 5.0 clients are told.
    Refused(ReasonCode),
}

/// What all connections share.
#[derive(Debug, Default)]
pub(super) struct DemoHub {
    sessions: HashMap<u64, DemoSession>,
    retained: BTreeMap<Arc<str>, DemoMessage>,
    retained_bytes: usize,
    last_number: u64,
}

impl DemoHub {
    /// Lets a client in, and ends an older connection of the same client. `None`: it is told why it is not let in.
    pub(super) fn attach(&mut self, connect: &Connect<'_>, mailbox: Mailbox) -> Option<u64> {
        let version = connect.version;
        let answer = |reason: u8, properties: &[(PropertyId, Value<'_>)]| {
            let raw = PropertyEdit::only(properties).to_bytes().unwrap_or_default();
            let checked = Properties::check(
                &raw,
                mproxy_codec::Place::Packet(PacketType::Connack),
                mproxy_codec::Sender::Server,
            );
            let properties = checked.unwrap_or(Properties::EMPTY);
            mailbox.send(&Packet::Connack(Connack { session_present: false, reason, properties }), version)
        };
        if connect.properties.contains(PropertyId::AuthenticationMethod) {
            answer(ReasonCode::BAD_AUTHENTICATION_METHOD.0, &[]);
            return None;
        }
        self.last_number += 1;
        let number = self.last_number;
        let assigned = connect.client_id.is_empty().then(|| format!("demo-{number}"));
        let client_id = assigned.as_deref().unwrap_or(connect.client_id);
        self.end_older(client_id);
        let mut said = vec![
            // Nothing is kept, whatever it asked for.
            (PropertyId::SessionExpiryInterval, Value::Four(0)),
            (PropertyId::MaximumPacketSize, Value::Four(LARGEST_PACKET as u32)),
            (PropertyId::SubscriptionIdentifierAvailable, Value::Byte(0)),
            (PropertyId::SharedSubscriptionAvailable, Value::Byte(0)),
        ];
        said.extend(assigned.as_deref().map(|id| (PropertyId::AssignedClientIdentifier, Value::Text(id))));
        answer(ReasonCode::SUCCESS.0, &said);
        let mut session = DemoSession::new(client_id.into(), version, mailbox.clone(), &connect.properties);
        session.will = connect.will.and_then(|will| {
            let kept = PropertyEdit::keep(will.properties).without(PropertyId::WillDelayInterval);
            DemoMessage::new(will.topic, will.payload, &kept, will.qos, will.retain)
        });
        self.sessions.insert(number, session);
        Some(number)
    }

    /// [MQTT-3.1.4-3]: the session is that of the newer connection.
    fn end_older(&mut self, client_id: &str) {
        let older = self.sessions.iter().find(|(_, session)| &*session.client_id == client_id);
        let Some((&number, session)) = older else { return };
        session.mailbox.end(session.version, ReasonCode::SESSION_TAKEN_OVER);
        self.detach(number, DemoEnd::Vanished);
    }

    /// The connection has ended. Its session goes with it, and its will is published unless it said that it leaves.
    pub(super) fn detach(&mut self, number: u64, end: DemoEnd) {
        let Some(session) = self.sessions.remove(&number) else { return };
        match end {
            DemoEnd::Left => {}
            DemoEnd::Vanished | DemoEnd::Refused(_) => {
                if let Some(will) = session.will {
                    self.distribute(will, None);
                }
            }
        }
    }

    /// # Errors
    /// The connection ends.
    pub(super) fn receive(&mut self, number: u64, packet: &Packet<'_>) -> Result<(), DemoEnd> {
        // Another connection has taken it over.
        let Some(session) = self.sessions.get_mut(&number) else { return Err(DemoEnd::Left) };
        match packet {
            Packet::Publish(publish) => self.publish(number, publish),
            Packet::Ack(ack) => {
                session.acknowledged(ack);
                Ok(())
            }
            Packet::Subscribe(subscribe) => self.subscribe(number, subscribe),
            Packet::Unsubscribe(unsubscribe) => {
                session.unsubscribe(unsubscribe);
                Ok(())
            }
            Packet::Pingreq => {
                session.mailbox.send(&Packet::Pingresp, session.version);
                Ok(())
            }
            Packet::Disconnect(disconnect) if disconnect.reason == ReasonCode::DISCONNECT_WITH_WILL => {
                Err(DemoEnd::Vanished)
            }
            Packet::Disconnect(_) => Err(DemoEnd::Left),
            // A second CONNECT, an AUTH without a method, and what only servers send.
            Packet::Connect(_)
            | Packet::Connack(_)
            | Packet::Suback(_)
            | Packet::Unsuback(_)
            | Packet::Pingresp
            | Packet::Auth(_) => Err(DemoEnd::Refused(ReasonCode::PROTOCOL_ERROR)),
        }
    }

    fn publish(&mut self, number: u64, publish: &Publish<'_>) -> Result<(), DemoEnd> {
        // None was offered [MQTT-3.3.2-9].
        if publish.alias.is_some() {
            return Err(DemoEnd::Refused(ReasonCode::TOPIC_ALIAS_INVALID));
        }
        let Some(session) = self.sessions.get_mut(&number) else { return Err(DemoEnd::Left) };
        // [MQTT-4.3.3-10]: a packet id that is not released yet is the same message once more.
        let is_new = publish.qos != QoS::ExactlyOnce
            || publish.packet_id.is_some_and(|id| session.unreleased.insert(id));
        let kept = PropertyEdit::keep(publish.properties);
        let message = DemoMessage::new(publish.topic, publish.payload, &kept, publish.qos, publish.retain);
        if let Some(message) = message.filter(|_| is_new) {
            self.distribute(message, Some(number));
        }
        if let Some(id) = publish.packet_id
            && let Some(session) = self.sessions.get(&number)
        {
            let kind = match publish.qos {
                QoS::ExactlyOnce => PacketType::Pubrec,
                QoS::AtLeastOnce | QoS::AtMostOnce => PacketType::Puback,
            };
            session.mailbox.send(&Packet::Ack(Ack::new(kind, id, ReasonCode::SUCCESS)), session.version);
        }
        Ok(())
    }

    /// Keeps a message that is to be retained, and passes it on.
    fn distribute(&mut self, message: DemoMessage, from: Option<u64>) {
        for (number, session) in &mut self.sessions {
            session.offer(&message, from == Some(*number));
        }
        if message.retain {
            self.retain(message);
        }
    }

    fn retain(&mut self, message: DemoMessage) {
        if let Some(old) = self.retained.remove(&message.topic) {
            self.retained_bytes -= old.weight();
        }
        // An empty one takes the old one away [MQTT-3.3.1-6].
        if !message.payload.is_empty() && self.retained_bytes + message.weight() <= MOST_RETAINED {
            self.retained_bytes += message.weight();
            self.retained.insert(Arc::clone(&message.topic), message);
        }
    }

    fn subscribe(&mut self, number: u64, subscribe: &Subscribe<'_>) -> Result<(), DemoEnd> {
        let Self { sessions, retained, .. } = self;
        let Some(session) = sessions.get_mut(&number) else { return Err(DemoEnd::Left) };
        let has_identifier = subscribe.properties.contains(PropertyId::SubscriptionIdentifier);
        let (mut codes, mut wanted) = (Vec::new(), Vec::new());
        for asked in subscribe.filters() {
            let refused = if has_identifier {
                Some(ReasonCode::SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED)
            } else if asked.filter.share().is_some() {
                Some(ReasonCode::SHARED_SUBSCRIPTIONS_NOT_SUPPORTED)
            } else if session.subscriptions.len() >= MOST_SUBSCRIPTIONS {
                Some(ReasonCode::QUOTA_EXCEEDED)
            } else {
                None
            };
            if let Some(refused) = refused {
                codes.push(if session.version.is_v5() { refused.0 } else { ReasonCode::UNSPECIFIED_ERROR.0 });
                continue;
            }
            let before = session.subscriptions.len();
            session.subscriptions.retain(|one| &*one.filter != asked.filter.as_str());
            let is_new = session.subscriptions.len() == before;
            session.subscriptions.push(DemoSubscription::from(&asked));
            codes.push(asked.qos as u8);
            match asked.retain_handling {
                RetainHandling::Send => wanted.push(asked),
                RetainHandling::SendIfNew if is_new => wanted.push(asked),
                RetainHandling::SendIfNew | RetainHandling::DoNotSend => {}
            }
        }
        let suback = Suback { packet_id: subscribe.packet_id, properties: Properties::EMPTY, codes: &codes };
        session.mailbox.send(&Packet::Suback(suback), session.version);
        for asked in wanted {
            for message in retained.values().filter(|message| asked.filter.matches(&message.topic)) {
                session.deliver(message, asked.qos);
            }
        }
        Ok(())
    }
}

impl DemoSession {
    fn unsubscribe(&mut self, unsubscribe: &Unsubscribe<'_>) {
        let mut codes = Vec::new();
        for filter in unsubscribe.filters() {
            let before = self.subscriptions.len();
            self.subscriptions.retain(|one| &*one.filter != filter.as_str());
            let known = self.subscriptions.len() < before;
            codes.push(if known { ReasonCode::SUCCESS } else { ReasonCode::NO_SUBSCRIPTION_EXISTED }.0);
        }
        // 3.x has no codes here.
        let codes: &[u8] = if self.version.is_v5() { &codes } else { &[] };
        let unsuback = Unsuback { packet_id: unsubscribe.packet_id, properties: Properties::EMPTY, codes };
        self.mailbox.send(&Packet::Unsuback(unsuback), self.version);
    }
}

#[cfg(test)]
mod tests;
