//! One direction's packets in their order, while verdicts come in any order. Only the front leaves.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use mproxy_codec::frame::FixedHeader;
use mproxy_codec::packet::{PublishLayout, SubscribeLayout};
use mproxy_codec::types::{PacketId, PacketType};

use crate::budget::WAITING;
use crate::policy::{LimitKind, PublishDecision, Ruling, SubscribeDecision};

/// A packet that waits: for its verdict, or for those before it.
#[derive(Debug)]
pub(super) struct Slot {
    /// The packet; of a PUBLISH that streams, only its head.
    pub(super) bytes: Bytes,
    /// Which packet, and whether it may leave.
    pub(super) packet: WaitingPacket,
    /// What is put down for the question about it, while that is open.
    pub(super) charge: u32,
}

/// A packet that waits, and where its fields stand in its bytes: it is read once.
#[derive(Debug)]
pub(super) enum WaitingPacket {
    /// A PUBLISH.
    Publish(WaitingPublish),
    /// A SUBSCRIBE.
    Subscribe(SlotState<SubscribeDecision>, SubscribeLayout),
    /// A packet that nobody is asked about. It leaves when it is at the front.
    Other(FixedHeader),
    /// An UNSUBSCRIBE of so many filters that is more than mproxy may hold: it is refused when it is at the front.
    Refused { id: PacketId, filters: usize },
}

/// A PUBLISH that waits.
#[derive(Debug)]
pub(super) struct WaitingPublish {
    /// May it leave?
    pub(super) state: SlotState<PublishDecision>,
    /// Where its fields stand.
    pub(super) layout: PublishLayout,
    /// The real topic of one that came with an alias alone.
    pub(super) topic: Option<Arc<str>>,
    /// Its payload has not been read: it follows when the head has left.
    pub(super) streams: bool,
}

/// Whether a packet may leave that somebody decides about.
#[derive(Debug)]
pub(super) enum SlotState<D> {
    /// Nobody objects: it leaves as it is when it is at the front.
    Go,
    /// Its verdict is out. The advisers' edition when they were asked, or [`FORGOTTEN`].
    Hold(u64),
    /// Its verdict has come, and is carried out when it is at the front.
    Ruled(Box<Ruling<D>>),
    /// It repeats (DUP) a QoS 2 PUBLISH that was refused: it is answered again, and nobody is asked again.
    Again,
    /// It is more than mproxy may hold for its connection: it is refused in our own name when it is at the front.
    OverBudget,
    /// It came faster than its sender's grant allows: it is refused in our own name when it is at the front.
    OverRate,
    /// A limit for all clients forbids it: it is refused in our own name when it is at the front.
    OverLimit(LimitKind),
}

/// In place of an edition: the answer is not to be kept.
pub(super) const FORGOTTEN: u64 = u64::MAX;

impl WaitingPacket {
    /// Whether its verdict is out.
    pub(super) const fn holds(&self) -> bool {
        matches!(
            self,
            Self::Publish(WaitingPublish { state: SlotState::Hold(_), .. })
                | Self::Subscribe(SlotState::Hold(_), _)
        )
    }
}

/// A FIFO of slots. Slots are numbered without gaps, so that a verdict finds its slot by its number.
///
/// Bounded by its owner: [`full`](Lane::full) before each push, and a side whose lane is full is not read.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// Only there while something waits: an idle session pays for a pointer, not for a queue.
    queue: Option<Box<Queue>>,
    /// Number of the slot at the front, or of the next one where there is none.
    front: u32,
    /// Its sender has said its last: whatever comes behind that is thrown away.
    closed: bool,
}

/// What waits, never nothing.
#[derive(Debug, Default)]
struct Queue {
    slots: VecDeque<Slot>,
    /// Bytes in all slots.
    bytes: usize,
    /// Bytes put down for open questions.
    asked: usize,
}

impl Queue {
    /// What the fields say of each other.
    fn check(&self) {
        debug_assert!(
            !self.slots.is_empty() || (self.bytes, self.asked) == (0, 0),
            "bytes are put down for slots that have left"
        );
    }

    fn subtract(&mut self, slot: &Slot) {
        self.bytes -= slot.bytes.len();
        self.asked -= slot.charge as usize;
    }
}

impl Lane {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_none()
    }

    /// Nothing more comes into it; what is in it may still leave.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(super) fn bytes(&self) -> usize {
        self.queue.as_ref().map_or(0, |queue| queue.bytes)
    }

    pub(super) fn len(&self) -> usize {
        self.queue.as_ref().map_or(0, |queue| queue.slots.len())
    }

    /// Bytes that it makes us hold, open questions included.
    pub(super) fn weight(&self) -> usize {
        self.queue.as_ref().map_or(0, |queue| queue.bytes + queue.slots.len() * WAITING + queue.asked)
    }

    /// Whether a SUBSCRIBE or an UNSUBSCRIBE is in it.
    pub(super) fn has_requests(&self) -> bool {
        self.queue.iter().flat_map(|queue| &queue.slots).any(|slot| match &slot.packet {
            WaitingPacket::Subscribe(..) | WaitingPacket::Refused { .. } => true,
            WaitingPacket::Other(header) => header.kind == PacketType::Unsubscribe,
            WaitingPacket::Publish(_) => false,
        })
    }

    /// All that wait, in order.
    pub(super) fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.queue.iter().flat_map(|queue| &queue.slots)
    }

    /// The number that the next slot will have.
    pub(super) fn next(&self) -> u32 {
        self.front.wrapping_add(self.len() as u32)
    }

    pub(super) fn full(&self, packets: usize, bytes: usize) -> bool {
        self.len() >= packets || self.bytes() >= bytes
    }

    pub(super) fn push(&mut self, slot: Slot) {
        let queue = self.queue.get_or_insert_default();
        queue.bytes += slot.bytes.len();
        queue.asked += slot.charge as usize;
        queue.slots.push_back(slot);
    }

    /// A verdict for the PUBLISH in slot `seq`. One that nobody waits for (any more) is thrown away.
    pub(super) fn rule_publish(&mut self, seq: u32, ruling: Ruling<PublishDecision>) {
        self.rule(
            seq,
            |packet| match packet {
                WaitingPacket::Publish(publish) => Some(&mut publish.state),
                WaitingPacket::Subscribe(..) | WaitingPacket::Other(_) | WaitingPacket::Refused { .. } => {
                    None
                }
            },
            ruling,
        );
    }

    /// The same for the SUBSCRIBE in slot `seq`.
    pub(super) fn rule_subscribe(&mut self, seq: u32, ruling: Ruling<SubscribeDecision>) {
        self.rule(
            seq,
            |packet| match packet {
                WaitingPacket::Subscribe(state, _) => Some(state),
                WaitingPacket::Publish(_) | WaitingPacket::Other(_) | WaitingPacket::Refused { .. } => None,
            },
            ruling,
        );
    }

    fn rule<D>(
        &mut self,
        seq: u32,
        state: impl FnOnce(&mut WaitingPacket) -> Option<&mut SlotState<D>>,
        ruling: Ruling<D>,
    ) {
        // Behind the front, or never there: a number that has left lies nearly 2^32 slots ahead, and finds none.
        let at = seq.wrapping_sub(self.front) as usize;
        if let Some(queue) = &mut self.queue
            && let Some(slot) = queue.slots.get_mut(at)
            && let Some(state) = state(&mut slot.packet)
            && matches!(state, SlotState::Hold(_))
        {
            *state = SlotState::Ruled(Box::new(ruling));
            queue.asked -= std::mem::take(&mut slot.charge) as usize;
        }
    }

    /// The slot of this number, if its verdict is out and was asked for under this edition.
    pub(super) fn asked_under(&self, seq: u32, edition: u64) -> Option<&Slot> {
        let slot = self.queue.as_ref()?.slots.get(seq.wrapping_sub(self.front) as usize)?;
        let asked = match &slot.packet {
            WaitingPacket::Publish(WaitingPublish { state: SlotState::Hold(asked), .. })
            | WaitingPacket::Subscribe(SlotState::Hold(asked), _) => *asked,
            _ => FORGOTTEN,
        };
        (asked == edition && asked != FORGOTTEN).then_some(slot)
    }

    /// Answers to questions that are out are not to be kept.
    pub(super) fn forget_asked(&mut self) {
        for slot in self.queue.iter_mut().flat_map(|queue| &mut queue.slots) {
            if let WaitingPacket::Publish(WaitingPublish { state: SlotState::Hold(asked), .. })
            | WaitingPacket::Subscribe(SlotState::Hold(asked), _) = &mut slot.packet
            {
                *asked = FORGOTTEN;
            }
        }
    }

    /// The slot at the front, if it may leave.
    pub(super) fn leave(&mut self) -> Option<Slot> {
        let queue = self.queue.as_mut()?;
        if queue.slots.front()?.packet.holds() {
            return None;
        }
        let slot = queue.slots.pop_front()?;
        queue.subtract(&slot);
        queue.check();
        self.front = self.front.wrapping_add(1);
        self.queue.take_if(|queue| queue.slots.is_empty());
        Some(slot)
    }

    /// Forgets the one that came last. Only where no more come.
    pub(super) fn drop_last(&mut self) {
        // Its number would be given out once more, and an answer that is still out would find another packet there.
        debug_assert!(self.closed, "a number of a lane that is open would come twice");
        if let Some(queue) = &mut self.queue
            && let Some(slot) = queue.slots.pop_back()
        {
            queue.subtract(&slot);
            queue.check();
            self.queue.take_if(|queue| queue.slots.is_empty());
        }
    }

    /// Forgets everything that waits.
    pub(super) fn clear(&mut self) {
        self.take();
    }

    /// Everything that waits, in order, whether it may leave or not.
    pub(super) fn take(&mut self) -> VecDeque<Slot> {
        // Verdicts that are still out name slots of this lane: none of their numbers may come again.
        self.front = self.next();
        self.queue.take().map_or_else(VecDeque::new, |queue| queue.slots)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Source;
    use mproxy_codec::packet::PublishHead;
    use mproxy_codec::types::{Sender, Version};

    fn slot(byte: u8, state: SlotState<PublishDecision>) -> Slot {
        let bytes = b"\x30\x03\0\x01a";
        let header = FixedHeader::parse(bytes, Sender::Client, Some(Version::V311)).unwrap().unwrap();
        let head = PublishHead::parse(&header, bytes, Sender::Client, Version::V311).unwrap().unwrap();
        let layout = PublishLayout::of(&header, &head);
        let packet = WaitingPacket::Publish(WaitingPublish { state, layout, topic: None, streams: false });
        Slot { bytes: Bytes::copy_from_slice(&[byte]), packet, charge: 0 }
    }

    fn yes() -> Ruling<PublishDecision> {
        Ruling::allow(Source::Rpc)
    }

    #[test]
    fn verdicts_in_any_order_packets_in_theirs() {
        let mut lane = Lane::default();
        let first = lane.next();
        lane.push(slot(1, SlotState::Hold(0)));
        let second = lane.next();
        lane.push(slot(2, SlotState::Hold(0)));
        lane.push(slot(3, SlotState::Go));
        lane.rule_publish(second, yes());
        assert!(lane.leave().is_none());
        lane.rule_publish(first, yes());
        let left: Vec<u8> = std::iter::from_fn(|| lane.leave()).map(|slot| slot.bytes[0]).collect();
        assert_eq!(left, [1, 2, 3]);
        assert_eq!(lane.bytes(), 0);
    }

    #[test]
    fn a_verdict_that_nobody_waits_for_is_thrown_away() {
        let mut lane = Lane::default();
        lane.push(slot(1, SlotState::Hold(0)));
        lane.rule_publish(7, yes());
        lane.rule_publish(u32::MAX, yes());
        assert!(lane.leave().is_none());
        lane.rule_publish(0, yes());
        assert!(lane.leave().is_some());
        lane.rule_publish(0, yes());
        assert!(lane.is_empty());
    }

    #[test]
    fn it_is_full_by_count_or_by_bytes() {
        let mut lane = Lane::default();
        lane.push(slot(1, SlotState::Go));
        assert!(lane.full(1, 100));
        assert!(lane.full(100, 1));
        assert!(!lane.full(2, 2));
    }
}
