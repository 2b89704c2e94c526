//! One direction's packets in their order, while verdicts come in any order. Only the front leaves.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::budget::WAITING;
use crate::policy::Ruling;

/// Names a question of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AskId {
    pub(super) of: Asker,
    pub(super) seq: u32,
}

/// What in a session asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Asker {
    /// The CONNECT.
    Admission,
    /// The grant's renewal.
    Refresh,
    /// A packet from the client.
    Up,
    /// A packet from the broker.
    Down,
}

/// A packet that waits: for its verdict, or for those before it.
#[derive(Debug)]
pub(super) struct Slot {
    /// The packet; of a PUBLISH that streams, only its head.
    pub(super) bytes: Bytes,
    /// May it leave?
    pub(super) state: State,
    /// The real topic of a PUBLISH that came with an alias alone.
    pub(super) topic: Option<Arc<str>>,
    /// Its payload has not been read: it follows when the head has left.
    pub(super) streams: bool,
    /// What is put down for the question about it, while that is open.
    pub(super) charge: u32,
}

/// Whether a slot may leave.
#[derive(Debug)]
pub(super) enum State {
    /// Nobody objects: it leaves as it is when it is at the front.
    Go,
    /// Its verdict is out.
    Hold,
    /// Its verdict has come, and is carried out when it is at the front.
    Ruled(Box<Ruling>),
    /// It repeats (DUP) a QoS 2 PUBLISH that was refused: it is answered again, and nobody is asked again.
    Again,
    /// It is more than mproxy may hold for its connection: it is refused in our own name when it is at the front.
    OverBudget,
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
    fn left(&mut self, slot: &Slot) {
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

    /// A verdict for slot `seq`. One that nobody waits for (any more) is thrown away.
    pub(super) fn rule(&mut self, seq: u32, ruling: Ruling) {
        let at = seq.wrapping_sub(self.front) as usize;
        if let Some(queue) = &mut self.queue
            && let Some(slot) = queue.slots.get_mut(at)
            && matches!(slot.state, State::Hold)
        {
            slot.state = State::Ruled(Box::new(ruling));
            queue.asked -= std::mem::take(&mut slot.charge) as usize;
        }
    }

    /// The slot at the front, if it may leave.
    pub(super) fn leave(&mut self) -> Option<Slot> {
        let queue = self.queue.as_mut()?;
        if matches!(queue.slots.front()?.state, State::Hold) {
            return None;
        }
        let slot = queue.slots.pop_front()?;
        queue.left(&slot);
        self.front = self.front.wrapping_add(1);
        self.queue.take_if(|queue| queue.slots.is_empty());
        Some(slot)
    }

    /// Forgets the one that came last.
    pub(super) fn drop_last(&mut self) {
        if let Some(queue) = &mut self.queue
            && let Some(slot) = queue.slots.pop_back()
        {
            queue.left(&slot);
            self.queue.take_if(|queue| queue.slots.is_empty());
        }
    }

    /// Forgets everything that waits.
    pub(super) fn clear(&mut self) {
        self.take();
    }

    /// Everything that waits, in order, whether it may leave or not.
    pub(super) fn take(&mut self) -> VecDeque<Slot> {
        self.front = self.next();
        self.queue.take().map_or_else(VecDeque::new, |queue| queue.slots)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::allowed;
    use crate::policy::{Hook, Source};

    fn slot(byte: u8, state: State) -> Slot {
        Slot { bytes: Bytes::copy_from_slice(&[byte]), state, topic: None, streams: false, charge: 0 }
    }

    fn yes() -> Ruling {
        Ruling { source: Source::Rpc, verdict: allowed(Hook::Publish) }
    }

    #[test]
    fn verdicts_in_any_order_packets_in_theirs() {
        let mut lane = Lane::default();
        let first = lane.next();
        lane.push(slot(1, State::Hold));
        let second = lane.next();
        lane.push(slot(2, State::Hold));
        lane.push(slot(3, State::Go));
        lane.rule(second, yes());
        assert!(lane.leave().is_none());
        lane.rule(first, yes());
        let left: Vec<u8> = std::iter::from_fn(|| lane.leave()).map(|slot| slot.bytes[0]).collect();
        assert_eq!(left, [1, 2, 3]);
        assert_eq!(lane.bytes(), 0);
    }

    #[test]
    fn a_verdict_that_nobody_waits_for_is_thrown_away() {
        let mut lane = Lane::default();
        lane.push(slot(1, State::Hold));
        lane.rule(7, yes());
        lane.rule(u32::MAX, yes());
        assert!(lane.leave().is_none());
        lane.rule(0, yes());
        assert!(lane.leave().is_some());
        lane.rule(0, yes());
        assert!(lane.is_empty());
    }

    #[test]
    fn it_is_full_by_count_or_by_bytes() {
        let mut lane = Lane::default();
        lane.push(slot(1, State::Go));
        assert!(lane.full(1, 100));
        assert!(lane.full(100, 1));
        assert!(!lane.full(2, 2));
    }
}
