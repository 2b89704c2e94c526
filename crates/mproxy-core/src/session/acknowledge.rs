//! Acknowledgements: those that pass, and our own. The PUBACK or PUBREC of a PUBLISH that was refused is made here, the
//! PUBCOMP of a flow that was ours, and both get their place among those of the receiver.

use mproxy_codec::packet::publish::PublishHead;
use mproxy_codec::reason::ReasonCode;
use mproxy_codec::types::{PacketId, PacketType, QoS};

use super::context::Context;
use super::flows::AckOrder;
use super::leftovers::CleanupStage;
use super::link::Link;
use super::step::Passage;
use crate::event::Happening;
use crate::peer::Side;

impl Link {
    /// An acknowledgement, from either side.
    #[inline]
    pub(super) fn pass_acknowledgement(
        &mut self,
        cx: &mut Context,
        from: Side,
        kind: PacketType,
        id: PacketId,
        reason: ReasonCode,
    ) -> Passage {
        let over = match kind {
            PacketType::Puback | PacketType::Pubcomp => true,
            // [MQTT-4.3.3-4] wants a PUBREL only after a PUBREC below 0x80: any other ends the flow.
            PacketType::Pubrec => reason.is_error(),
            _ => false,
        };
        // The broker counts its own; only the client's publishes under way are needed, for draining and repeated ones.
        if over && from == Side::Broker {
            self.up.in_flight.remove(kind, id);
            if self.cleanup == CleanupStage::WaitsForId {
                self.clean_up_under(cx, id);
            }
        }
        match kind {
            PacketType::Pubrel if self.direction(from).answers_itself(id) => {
                self.complete(cx, from, id);
                Passage::Nowhere
            }
            PacketType::Puback | PacketType::Pubrec => self.settle(cx, from, kind, id, reason),
            _ => Passage::AsItIs,
        }
    }

    /// A PUBREL of a flow that was ours: it is over.
    fn complete(&mut self, cx: &mut Context, from: Side, id: PacketId) {
        self.direction_mut(from).flows().ours.remove(&id);
        if from == Side::Client {
            self.up.in_flight.remove(PacketType::Pubcomp, id);
        }
        match self.terms.ack(from, PacketType::Pubcomp, id, ReasonCode::SUCCESS, None) {
            Some(done) => self.inject(cx, from, done),
            None => self.unsendable(from, PacketType::Pubcomp),
        }
    }

    /// The receiver of a PUBLISH has acknowledged it for the first time.
    fn settle(
        &mut self,
        cx: &mut Context,
        from: Side,
        kind: PacketType,
        id: PacketId,
        reason: ReasonCode,
    ) -> Passage {
        let Some(flows) = self.direction_mut(from.other()).known_flows_mut() else { return Passage::AsItIs };
        let (published, comparisons) = flows.take_acknowledged(kind, id);
        // A receiver that acknowledges in another order makes this a long search: it counts as work of this read.
        cx.spend(comparisons);
        // The event says that the broker took it. What it refused is none.
        if let Some(published) = published
            && !reason.is_error()
        {
            self.report(cx, Happening::Publish(published));
        }
        Passage::ThenOurs
    }

    /// Our own answer to a PUBLISH, in its place among the receiver's.
    pub(super) fn acknowledge(
        &mut self,
        cx: &mut Context,
        from: Side,
        head: &PublishHead<'_>,
        reason: ReasonCode,
        text: Option<&str>,
    ) {
        let Some(id) = head.packet_id else { return };
        let kind = acknowledgement(head.qos);
        // Under the same id the receiver has one already, and answers that one itself.
        let receivers = match from {
            Side::Client => self.up.in_flight.is_forwarded(head.qos, id),
            Side::Broker => self.down.flows().line(kind).expects(id),
        };
        let (mut reason, mut text) = (reason, text.filter(|_| reason.is_error()));
        if kind == PacketType::Pubrec && receivers {
            // So the flow is the receiver's: this neither ends it nor makes it ours, and its PUBREL goes there.
            (reason, text) = (ReasonCode::SUCCESS, None);
        } else if kind == PacketType::Pubrec && (!self.terms.version.is_v5() || !reason.is_error()) {
            // Its PUBREL is ours to answer [MQTT-4.3.3-11].
            self.direction_mut(from).flows().ours.insert(id);
        } else if from == Side::Client && !receivers {
            self.up.in_flight.remove(kind, id);
        }
        let Some(ack) = self.terms.ack(from, kind, id, reason, text) else {
            return self.unsendable(from, kind);
        };
        let order = match from {
            // [MQTT-4.6.0-2] and [MQTT-4.6.0-3] bind the client; what it gets of the same id stays in order.
            Side::Client if receivers => AckOrder::OfOneId,
            Side::Client => AckOrder::None,
            // A broker may check 4.6 strictly: our acknowledgement must not overtake those that the client still owes.
            Side::Broker => AckOrder::OfAll,
        };
        let line = self.direction_mut(from).flows().line(kind);
        let comparisons =
            if from == Side::Broker || order == AckOrder::OfOneId { line.comparisons(id) } else { 0 };
        let ack = line.answer(id, ack, order);
        cx.spend(comparisons);
        if let Some(ack) = ack {
            self.inject(cx, from, ack);
        }
    }

    /// Whether [`send_ours`](Self::send_ours) would have something to send.
    pub(super) fn has_ours(&self, from: Side) -> bool {
        let towards = self.direction(from.other());
        !self.direction(from).deferred.is_empty()
            || towards.known_flows().is_some_and(|flows| flows.has_ready())
    }

    /// After a packet from `from` has gone on: what of our own may follow it to the same receiver.
    pub(super) fn send_ours(&mut self, cx: &mut Context, from: Side) {
        if self.direction(from).mid_packet() {
            return;
        }
        let to = from.other();
        // Before acknowledgements that are ready: they were written earlier.
        for bytes in self.direction_mut(from).take_deferred() {
            self.send(cx, to, bytes);
        }
        // Acknowledgements that came from `from` are of publishes that came from the other side.
        while let Some(ack) = self.direction_mut(to).known_flows_mut().and_then(|flows| flows.ready()) {
            self.send(cx, to, ack);
        }
    }
}

/// The packet that first acknowledges a publish of this QoS.
pub(super) const fn acknowledgement(qos: QoS) -> PacketType {
    match qos {
        // Asked only of those that have a packet id, which QoS 0 has not [MQTT-2.2.1-2].
        QoS::AtMostOnce | QoS::AtLeastOnce => PacketType::Puback,
        QoS::ExactlyOnce => PacketType::Pubrec,
    }
}
