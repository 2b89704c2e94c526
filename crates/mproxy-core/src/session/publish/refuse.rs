//! What a refusal makes of a PUBLISH, as docs/refusals.md has it. The acknowledgement itself is made in `acknowledge`.

use mproxy_codec::packet::publish::PublishHead;
use mproxy_codec::reason::ReasonCode;

use super::super::acknowledge::acknowledgement;
use super::super::context::Context;
use super::super::link::Link;
use super::super::resolve::Rejection;
use super::super::step::Stop;
use super::hook;
use crate::peer::Side;
use crate::policy::Action;

impl Link {
    /// Makes the wire say no, as docs/refusals.md has it.
    pub(super) fn refuse_publish(
        &mut self,
        cx: &mut Context,
        from: Side,
        head: &PublishHead<'_>,
        refused: Rejection,
    ) -> Result<(), Stop> {
        let action = refused.action();
        if action == Action::Disconnect {
            return Err(refused.fault(hook(from)).into());
        }
        let (reason, text) = refused.words();
        // A broker that is told "no" by its client would only complain: refused deliveries are taken and dropped.
        let reason = match (action, from) {
            (Action::NoAck, Side::Client) => {
                // Nobody will acknowledge it, so a drain must not wait for that.
                // One under the same id that the broker has is still to be acknowledged.
                if let Some(id) = head.packet_id.filter(|id| !self.up.in_flight.is_forwarded(head.qos, *id)) {
                    self.up.in_flight.remove(acknowledgement(head.qos), id);
                }
                return Ok(());
            }
            (Action::Reject, Side::Client) if reason.is_error() => reason,
            // No refusal leaves with a code that says yes (ADR 0003).
            (Action::Reject, Side::Client) => ReasonCode::NOT_AUTHORIZED,
            (Action::Drop | Action::Disconnect, Side::Client) | (_, Side::Broker) => ReasonCode::SUCCESS,
        };
        self.acknowledge(cx, from, head, reason, text);
        Ok(())
    }
}
