//! Which room a packet goes to: when it comes, and when its turn has come.

use std::time::Instant;

use mproxy_codec::frame::FixedHeader;
use mproxy_codec::types::PacketType;

use super::context::Context;
use super::lane::WaitingPacket;
use super::leftovers::CleanupStage;
use super::link::Link;
use super::step::{Step, Stop};
use super::trace::Leaving;
use crate::fault::Fault;
use crate::peer::Side;

impl Link {
    /// A packet of an open session, or what the broker still says in one that is ending.
    ///
    /// # Errors
    /// It is wrong, or may not come.
    pub(super) fn read(
        &mut self,
        cx: &mut Context,
        from: Side,
        header: &FixedHeader,
        data: &[u8],
        now: Instant,
    ) -> Result<Step, Fault> {
        if from == Side::Client && self.cleanup != CleanupStage::None && self.waits_for_id(header, data) {
            return Ok(Step::Wait);
        }
        // The broker's packets are not refused: what it may send is between it and whoever runs it.
        if from == Side::Client
            && let Some(step) = self.oversized_step(cx, header, data)?
        {
            return Ok(step);
        }
        match (header.kind, from) {
            // It goes nowhere; what comes behind it may be an acknowledgement.
            (PacketType::Publish, Side::Broker) if !self.hears(Side::Client) => {
                let (here, total) = (data.len().min(header.total()), header.total());
                Ok(self.down.skip(here, total))
            }
            (PacketType::Publish, _) => self.publish_step(cx, from, header, data),
            (PacketType::Subscribe, Side::Client) => self.subscribe_step(cx, header, data),
            (PacketType::Auth, Side::Client) if self.answers_auth() => {
                self.answer_auth(cx, header, data, now)
            }
            (_, _) => self.forward_step(cx, from, header, data),
        }
    }

    /// Lets everything leave whose turn has come.
    ///
    /// # Errors
    /// Something that has left ends the session. There may be more behind it.
    pub(super) fn release(&mut self, cx: &mut Context, from: Side) -> Result<(), Stop> {
        // Nothing leaves into the middle of a payload that streams; what is ready then leaves behind it.
        while !self.direction(from).mid_packet()
            && let Some(slot) = self.direction_mut(from).lane.leave()
        {
            let leaving = cx.traces().then(|| Leaving::of(&slot, cx));
            let left = match slot.packet {
                WaitingPacket::Publish(publish) => self.release_publish(cx, from, slot.bytes, publish),
                WaitingPacket::Subscribe(state, layout) => {
                    self.release_subscribe(cx, slot.bytes, state, layout)
                }
                WaitingPacket::Other(header) => self.release_forwarded(cx, from, slot.bytes, &header),
                WaitingPacket::Refused { id, filters } => {
                    self.refuse_unsubscribe(cx, id, filters);
                    Ok(())
                }
            };
            if let Some(leaving) = leaving {
                cx.trace_leaving(self, from, &leaving);
            }
            // After the trace: the packet that ends a session has its line, too.
            left?;
        }
        Ok(())
    }
}
