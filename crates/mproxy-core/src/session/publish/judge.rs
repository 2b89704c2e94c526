//! What a verdict makes of a PUBLISH: a new head, a refusal in the words of the spec's table, an answer of our own.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use mproxy_codec::packet::publish::PublishHead;
use mproxy_codec::reason::ReasonCode;
use mproxy_codec::types::PacketType;

use super::super::ledger::Order;
use super::super::{Session, rewrite};
use super::{acknowledgement, hook};
use crate::fault::Fault;
use crate::meter::Outcome;
use crate::peer::Side;
use crate::policy::{Action, Decision, PublishChange, Refusal, Ruling, Source, Undecided, Unusable, Verdict};

impl Session {
    /// The head of a PUBLISH as it has to be now; `None` if it may go as it came. `Err` says why it cannot go at all.
    pub(super) fn write_anew(
        &mut self,
        from: Side,
        head: &PublishHead<'_>,
        topic: &str,
        change: Option<&PublishChange>,
    ) -> Result<Option<BytesMut>, Unusable> {
        if change.is_none() && self.receiver_knows(from, head, topic) {
            return Ok(None);
        }
        self.written(from, head, topic, change).map(Some)
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

    /// A verdict, judged: what to change, or the refusal to carry out. A change that makes an invalid packet cannot be
    /// used, and neither can a verdict to another question.
    pub(super) fn publish_ruled(
        &mut self,
        from: Side,
        ruling: Ruling,
        head: &PublishHead<'_>,
        topic: &str,
    ) -> Result<Option<Box<PublishChange>>, (Refusal, Option<Undecided>)> {
        let Ruling { mut source, verdict } = ruling;
        let decided = match verdict {
            Verdict::Publish(Decision::Allow(change)) => {
                let known = self.policys_topic(from, topic).unwrap_or(topic);
                let change =
                    change.map(|change| real_change(change, head, known)).filter(|change| !change.is_empty());
                let valid = change.as_deref().map_or(Ok(Ok(())), |change| {
                    self.written(from, head, topic, Some(change))
                        .map(|_| self.recheck(from, head, known, change))
                });
                match valid {
                    Ok(Ok(())) => Ok(change),
                    Ok(Err(refusal)) => {
                        source = Source::Grant;
                        Err(Ok(refusal))
                    }
                    Err(unusable) => Err(Err(Undecided::Unusable(unusable))),
                }
            }
            Verdict::Publish(Decision::Refuse(refusal)) => Err(Ok(refusal)),
            Verdict::Failed(failure) => Err(Err(Undecided::Failed(failure))),
            Verdict::Unusable(unusable) => Err(Err(Undecided::Unusable(unusable))),
            Verdict::Overloaded(overload) => Err(Err(Undecided::Overloaded(overload))),
            Verdict::Connect(_) | Verdict::Subscribe(_) | Verdict::SubscribeAll(_) => {
                Err(Err(Unusable::other_question().into()))
            }
        };
        let decided = match decided {
            Ok(change) => Ok(change),
            Err(Ok(refusal)) => Err((refusal, None)),
            Err(Err(undecided)) => match self.resolve_undecided(hook(from), undecided) {
                Ok(()) => {
                    source = Source::FailedOpen;
                    Ok(None)
                }
                Err(undecided) => {
                    source = undecided.source();
                    Err((undecided.refusal(), Some(undecided)))
                }
            },
        };
        let outcome = match &decided {
            Ok(None) => Outcome::Allowed,
            Ok(Some(_)) => Outcome::Changed,
            Err(_) => Outcome::Refused,
        };
        self.setting.meter.decisions(hook(from), source, outcome, 1);
        decided
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
        refusal: &Refusal,
        undecided: Option<Undecided>,
        now: Instant,
    ) {
        if refusal.action == Action::Disconnect {
            let hook = hook(from);
            self.end(
                match undecided {
                    Some(undecided) => undecided.fault(hook),
                    None => Fault::Refused { hook, refusal: Box::new(refusal.clone()) },
                },
                now,
            );
            return;
        }
        // A broker that is told "no" by its client would only complain: refused deliveries are taken and dropped.
        let reason = match (refusal.action, from) {
            (Action::NoAck, Side::Client) => {
                if let Some(id) = head.packet_id.filter(|id| !self.in_flight.is_brokers(head.qos, *id)) {
                    self.in_flight.over(acknowledgement(head.qos), id);
                }
                return;
            }
            (Action::Reject, Side::Client) if refusal.reason.is_error() => refusal.reason,
            (Action::Reject, Side::Client) => ReasonCode::NOT_AUTHORIZED,
            (Action::Drop | Action::Disconnect, Side::Client) | (_, Side::Broker) => ReasonCode::SUCCESS,
        };
        self.acknowledge(from, head, reason, refusal.text.as_deref());
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
