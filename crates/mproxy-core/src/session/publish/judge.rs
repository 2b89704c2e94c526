//! What a verdict makes of a PUBLISH: a new head, a refusal in the words of the spec's table, an answer of our own.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use mproxy_codec::packet::publish::PublishHead;
use mproxy_codec::reason::ReasonCode;
use mproxy_codec::types::PacketType;

use super::super::ledger::Order;
use super::super::resolve::{Form, Refused, Unfit};
use super::super::{Session, rewrite};
use super::{acknowledgement, hook};
use crate::meter::Outcome;
use crate::peer::Side;
use crate::policy::{Action, PublishChange, Source, Unusable};

/// A PUBLISH as it goes on.
pub(super) struct Outgoing {
    /// What was changed.
    pub(super) change: Option<Box<PublishChange>>,
    /// Its head, written anew; `None`: it goes as it came.
    pub(super) head: Option<BytesMut>,
}

impl Session {
    /// A PUBLISH that was allowed, perhaps with changes, in the form in which it goes on.
    ///
    /// # Errors
    /// It makes no valid packet, or the client's grant forbids what it was changed to.
    pub(super) fn carry_out(
        &self,
        from: Side,
        head: &PublishHead<'_>,
        topic: &str,
        change: Option<Box<PublishChange>>,
    ) -> Result<Form<Outgoing>, Unfit> {
        let known = self.policys_topic(from, topic).unwrap_or(topic);
        let change =
            change.map(|change| real_change(change, head, known)).filter(|change| !change.is_empty());
        let Some(change) = change else {
            let head = match self.receiver_knows(from, head, topic) {
                true => None,
                false => Some(self.written(from, head, topic, None)?),
            };
            return Ok(Form::Plain(Outgoing { change: None, head }));
        };
        let head_anew = self.written(from, head, topic, Some(&change))?;
        self.recheck(from, head, known, &change).map_err(Unfit::Denied)?;
        Ok(Form::Changed(Outgoing { change: Some(change), head: Some(head_anew) }))
    }

    /// The new head of a PUBLISH, unless that makes an invalid packet.
    fn written(
        &self,
        from: Side,
        head: &PublishHead<'_>,
        topic: &str,
        change: Option<&PublishChange>,
    ) -> Result<BytesMut, Unusable> {
        let topic = &*self.outgoing(from, topic, change);
        let response = self.outgoing_response(from, head);
        mproxy_codec::topic::check_name(topic).map_err(|error| Unusable::topic("rewritten topic", error))?;
        let new_payload = change.and_then(|change| change.payload.as_ref());
        let payload_len = new_payload.map_or(head.payload_len, Bytes::len);
        let mut out = BytesMut::new();
        rewrite::publish_head(
            head,
            topic,
            response.as_deref(),
            change,
            payload_len,
            self.terms.version,
            &mut out,
        )
        .map_err(|error| Unusable::packet("rewritten packet", &error))?;
        let (size, most) = (out.len() + payload_len, self.terms.max_packet_to(from.other()));
        if size > most as usize {
            let to = from.other();
            return Err(Unusable::too_large(format!(
                "rewritten packet of {size} bytes is over the {to}'s Maximum Packet Size of {most}"
            )));
        }
        Ok(out)
    }

    /// So many packets, or filters, were refused because mproxy may not hold them.
    pub(in super::super) fn count_over_budget(&self, hook: crate::policy::Hook, count: u64) {
        self.setting.meter.decisions(hook, Source::Budget, Outcome::Refused, count);
    }

    /// Makes the wire say no, in the way of the spec's refusal table.
    pub(super) fn refuse_publish(
        &mut self,
        from: Side,
        head: &PublishHead<'_>,
        refused: Refused,
        now: Instant,
    ) {
        let action = refused.action();
        if action == Action::Disconnect {
            return self.end(refused.fault(hook(from)), now);
        }
        let (reason, text) = refused.words();
        // A broker that is told "no" by its client would only complain: refused deliveries are taken and dropped.
        let reason = match (action, from) {
            (Action::NoAck, Side::Client) => {
                if let Some(id) = head.packet_id.filter(|id| !self.in_flight.is_brokers(head.qos, *id)) {
                    self.in_flight.over(acknowledgement(head.qos), id);
                }
                return;
            }
            (Action::Reject, Side::Client) if reason.is_error() => reason,
            (Action::Reject, Side::Client) => ReasonCode::NOT_AUTHORIZED,
            (Action::Drop | Action::Disconnect, Side::Client) | (_, Side::Broker) => ReasonCode::SUCCESS,
        };
        self.acknowledge(from, head, reason, text);
    }

    /// Our own answer to a PUBLISH, in its place among the receiver's.
    pub(super) fn acknowledge(
        &mut self,
        from: Side,
        head: &PublishHead<'_>,
        reason: ReasonCode,
        text: Option<&str>,
    ) {
        let Some(id) = head.packet_id else { return };
        let kind = acknowledgement(head.qos);
        // Under the same id the receiver has one already, and answers that one itself.
        let receivers = match from {
            Side::Client => self.in_flight.is_brokers(head.qos, id),
            Side::Broker => self.ledger().flows(from).line(kind).expects(id),
        };
        let (mut reason, mut text) = (reason, text.filter(|_| reason.is_error()));
        if kind == PacketType::Pubrec && receivers {
            // So the flow is the receiver's: this neither ends it nor makes it ours, and its PUBREL goes there.
            (reason, text) = (ReasonCode::SUCCESS, None);
        } else if kind == PacketType::Pubrec && (!self.terms.version.is_v5() || !reason.is_error()) {
            // Its PUBREL is ours to answer [MQTT-4.3.3-11].
            self.ledger().flows(from).ours.insert(id);
        } else if from == Side::Client && !receivers {
            self.in_flight.over(kind, id);
        }
        let Some(ack) = self.terms.ack(from, kind, id, reason, text) else {
            return self.unsendable(from, kind);
        };
        let order = match from {
            // [MQTT-4.6.0-2] and [MQTT-4.6.0-3] bind the client; what it gets of the same id stays in order.
            Side::Client if receivers => Order::OfOneId,
            Side::Client => Order::None,
            Side::Broker => Order::OfAll,
        };
        let line = self.ledger().flows(from).line(kind);
        let toil = if from == Side::Broker || order == Order::OfOneId { line.toil(id) } else { 0 };
        let ack = line.answer(id, ack, order);
        self.spend(toil);
        if let Some(ack) = ack {
            self.inject(from, ack);
        }
    }

    /// A refused QoS 2 PUBLISH came again before its PUBREL: it is answered again, and not asked about again.
    pub(super) fn answered_before(&mut self, head: &PublishHead<'_>) -> bool {
        head.packet_id.is_some_and(|id| {
            self.ledger.as_mut().is_some_and(|ledger| ledger.flows(Side::Client).ours.contains(&id))
        })
    }
}

/// A change without what says the same as the packet does.
fn real_change(mut change: Box<PublishChange>, head: &PublishHead<'_>, topic: &str) -> Box<PublishChange> {
    change.topic.take_if(|new| **new == *topic);
    change.retain.take_if(|new| *new == head.retain);
    change
}
