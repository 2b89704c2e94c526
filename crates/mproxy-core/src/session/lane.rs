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
    slots: VecDeque<Slot>,
    /// Number of the slot at the front, or of the next one where there is none.
    front: u32,
    /// Its sender has said its last: whatever comes behind that is thrown away.
    closed: bool,
    /// Bytes in all slots.
    bytes: usize,
    /// Bytes put down for open questions.
    asked: usize,
}

impl Lane {
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Nothing more comes into it; what is in it may still leave.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Bytes that it makes us hold, open questions included.
    pub(super) fn weight(&self) -> usize {
        self.bytes + self.slots.len() * WAITING + self.asked
    }

    /// The number that the next slot will have.
    pub(super) fn next(&self) -> u32 {
        self.front.wrapping_add(self.slots.len() as u32)
    }

    pub(super) fn full(&self, packets: usize, bytes: usize) -> bool {
        self.slots.len() >= packets || self.bytes >= bytes
    }

    pub(super) fn push(&mut self, slot: Slot) {
        self.bytes += slot.bytes.len();
        self.asked += slot.charge as usize;
        self.slots.push_back(slot);
    }

    /// A verdict for slot `seq`. One that nobody waits for (any more) is thrown away.
    pub(super) fn rule(&mut self, seq: u32, ruling: Ruling) {
        let at = seq.wrapping_sub(self.front) as usize;
        if let Some(slot) = self.slots.get_mut(at)
            && matches!(slot.state, State::Hold)
        {
            slot.state = State::Ruled(Box::new(ruling));
            self.asked -= std::mem::take(&mut slot.charge) as usize;
        }
    }

    /// The slot at the front, if it may leave.
    pub(super) fn leave(&mut self) -> Option<Slot> {
        if matches!(self.slots.front()?.state, State::Hold) {
            return None;
        }
        let slot = self.slots.pop_front()?;
        self.front = self.front.wrapping_add(1);
        self.bytes -= slot.bytes.len();
        self.asked -= slot.charge as usize;
        if self.slots.is_empty() {
            // An idle session keeps no queue.
            self.slots = VecDeque::new();
        }
        Some(slot)
    }

    /// Forgets the one that came last.
    pub(super) fn drop_last(&mut self) {
        if let Some(slot) = self.slots.pop_back() {
            self.bytes -= slot.bytes.len();
            self.asked -= slot.charge as usize;
        }
    }

    /// Forgets everything that waits.
    pub(super) fn clear(&mut self) {
        self.take();
    }

    /// Everything that waits, in order, whether it may leave or not.
    pub(super) fn take(&mut self) -> VecDeque<Slot> {
        self.front = self.next();
        (self.bytes, self.asked) = (0, 0);
        std::mem::take(&mut self.slots)
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
