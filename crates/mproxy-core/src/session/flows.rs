//! Acknowledgements of one direction's publishes, where their order or their coming matters: those that the receiver owes,
//! our own among them, and QoS 2 flows that we answer ourselves.
//!
//! Made only for sessions that need it: where nobody decides and nobody is told, there are none.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use mproxy_codec::types::{PacketId, PacketType};
use serde::{Deserialize, Serialize};

use crate::event::Published;

/// Bytes of our own acknowledgements that may wait in a line behind one that the receiver does not give.
const OURS_BYTES: usize = 256 << 10;

/// A queue that has emptied keeps room for this many entries: enough for a steady flow, little for an idle session.
const KEPT_ENTRIES: usize = 16;

/// Entries of a line that are looked at in the time of one comparison with a rule.
const ENTRIES_A_COMPARISON: usize = 16;

/// The publishes of one direction.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Flows {
    /// PUBACKs in the order of their PUBLISH packets, which a client keeps to [MQTT-4.6.0-2].
    puback: AckLine,
    /// PUBRECs in the order of their PUBLISH packets, likewise [MQTT-4.6.0-3].
    pubrec: AckLine,
    /// QoS 2 flows whose PUBREC was ours: their PUBREL is answered by us, and goes nowhere.
    pub(super) ours: BTreeSet<PacketId>,
    /// Bytes kept until the receiver acknowledges, for events.
    kept: usize,
}

impl Flows {
    /// The line of one kind of acknowledgement.
    pub(super) fn line(&mut self, kind: PacketType) -> &mut AckLine {
        // Two lines: 4.6 orders PUBACKs among themselves and PUBRECs among themselves, and not with each other.
        if kind == PacketType::Puback { &mut self.puback } else { &mut self.pubrec }
    }

    /// The next acknowledgement of ours whose turn has come.
    pub(super) fn ready(&mut self) -> Option<Bytes> {
        self.puback.ready().or_else(|| self.pubrec.ready())
    }

    pub(super) fn has_ready(&self) -> bool {
        self.puback.has_ready() || self.pubrec.has_ready()
    }

    pub(super) fn full(&self) -> bool {
        self.puback.full() || self.pubrec.full()
    }

    /// Bytes that are held until somebody acknowledges.
    pub(super) fn weight(&self) -> usize {
        self.puback.weight() + self.pubrec.weight() + self.ours.len() * 4 + self.kept
    }

    /// Publishes that the receiver has not acknowledged for the first time. Asked seldom: they are looked at one by one.
    pub(super) fn unacknowledged(&self) -> usize {
        let lines = self.puback.entries.iter().chain(&self.pubrec.entries);
        lines.filter(|entry| matches!(entry, AckEntry::Theirs { .. })).count()
    }

    /// Bytes kept until the receiver acknowledges, for events.
    pub(super) const fn kept_bytes(&self) -> usize {
        self.kept
    }

    /// A PUBLISH has gone to its receiver; `told` is what to report once it is acknowledged with `kind`.
    pub(super) fn expect(&mut self, kind: PacketType, id: PacketId, told: Option<Box<Published>>) {
        self.kept += told.as_deref().map_or(0, Published::weight);
        // The id is the receiver's flow from now on: its PUBREL must go through, and not be answered here.
        self.ours.remove(&id);
        self.line(kind).expect(id, told);
    }

    /// The receiver of a PUBLISH acknowledged it with `kind`: what there is to report, and how much work it was to find
    /// that.
    pub(super) fn take_acknowledged(
        &mut self,
        kind: PacketType,
        id: PacketId,
    ) -> (Option<Box<Published>>, usize) {
        let line = self.line(kind);
        let comparisons = line.comparisons(id);
        let told = line.take(id);
        self.kept -= told.as_deref().map_or(0, Published::weight);
        (told, comparisons)
    }
}

/// After which of the receiver's acknowledgements ours may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum AckOrder {
    /// At once.
    None,
    /// After those under the same id that are due before it.
    OfOneId,
    /// After all that are due before it.
    OfAll,
}

/// Acknowledgements of one kind in the order that their PUBLISH packets came in. An id may be in it more than once: each
/// PUBLISH is acknowledged on its own.
///
/// Bounded: its owner stops reading the side that publishes while the line is [`full`](AckLine::full).
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct AckLine {
    entries: VecDeque<AckEntry>,
    /// Bytes of those that are ours.
    ours: usize,
}

#[derive(Debug, Serialize, Deserialize)]
enum AckEntry {
    /// The receiver will send it.
    Theirs { id: PacketId, told: Option<Box<Published>> },
    /// Ours, waiting for those before it. Boxed, for there are few, and thousands of the others.
    Ours { id: PacketId, ack: Box<Bytes>, order: AckOrder },
}

impl AckLine {
    fn weight(&self) -> usize {
        self.entries.len() * size_of::<AckEntry>() + self.ours
    }

    /// Whether no more publishes should come: every packet id is out, or too many of our answers wait behind one that
    /// the receiver does not give.
    pub(super) fn full(&self) -> bool {
        // There are no more packet ids than that.
        self.entries.len() >= usize::from(u16::MAX) || self.ours >= OURS_BYTES
    }

    /// A PUBLISH has gone to its receiver; `told` is what to report once it is acknowledged.
    fn expect(&mut self, id: PacketId, told: Option<Box<Published>>) {
        self.entries.push_back(AckEntry::Theirs { id, told });
    }

    /// Whether the receiver is to acknowledge this id.
    pub(super) fn expects(&self, id: PacketId) -> bool {
        self.place(id).is_some()
    }

    /// What it costs to look for this id, in comparisons with rules: nothing at the front, where it is with a receiver that
    /// acknowledges in order.
    pub(super) fn comparisons(&self, id: PacketId) -> usize {
        if matches!(self.entries.front(), Some(AckEntry::Theirs { id: first, .. }) if *first == id) {
            0
        } else {
            self.entries.len() / ENTRIES_A_COMPARISON
        }
    }

    fn place(&self, id: PacketId) -> Option<usize> {
        self.entries
            .iter()
            .position(|entry| matches!(entry, AckEntry::Theirs { id: other, .. } if *other == id))
    }

    /// We acknowledge a PUBLISH ourselves: the packet, if it may go out now, else it is kept in its place.
    pub(super) fn answer(&mut self, id: PacketId, ack: Bytes, order: AckOrder) -> Option<Bytes> {
        let waits = match order {
            AckOrder::None => false,
            AckOrder::OfOneId => self.expects(id),
            AckOrder::OfAll => !self.entries.is_empty(),
        };
        if !waits {
            return Some(ack);
        }
        self.ours += ack.len();
        self.entries.push_back(AckEntry::Ours { id, ack: Box::new(ack), order });
        None
    }

    /// The receiver acknowledged `id`: what there is to report of the first PUBLISH under it. Afterwards
    /// [`ready`](AckLine::ready) may have some of ours.
    fn take(&mut self, id: PacketId) -> Option<Box<Published>> {
        let at = self.place(id)?;
        let entry = self.entries.remove(at)?;
        // Mostly there are none of ours, and then nobody waits for this id but the receiver's own.
        if self.ours > 0 {
            self.bring_forward(id, at);
        }
        self.shrink();
        self.check();
        match entry {
            AckEntry::Theirs { told, .. } => told,
            AckEntry::Ours { .. } => None,
        }
    }

    /// Ours that waited from `at` on for nothing but this id go to the front.
    fn bring_forward(&mut self, id: PacketId, mut at: usize) {
        let mut front = 0;
        while let Some(entry) = self.entries.get(at) {
            match entry {
                AckEntry::Theirs { id: other, .. } if *other == id => return,
                AckEntry::Ours { id: other, order: AckOrder::OfOneId, .. } if *other == id => {
                    if let Some(entry) = self.entries.remove(at) {
                        self.entries.insert(front, entry);
                    }
                    front += 1;
                }
                AckEntry::Theirs { .. } | AckEntry::Ours { .. } => {}
            }
            at += 1;
        }
    }

    /// What the fields say of each other.
    fn check(&self) {
        debug_assert!(!self.entries.is_empty() || self.ours == 0, "bytes of ours without one that waits");
    }

    fn has_ready(&self) -> bool {
        matches!(self.entries.front(), Some(AckEntry::Ours { .. }))
    }

    fn ready(&mut self) -> Option<Bytes> {
        if !self.has_ready() {
            return None;
        }
        let entry = self.entries.pop_front()?;
        self.shrink();
        match entry {
            AckEntry::Ours { ack, .. } => {
                self.ours -= ack.len();
                self.check();
                Some(*ack)
            }
            AckEntry::Theirs { .. } => None,
        }
    }

    fn shrink(&mut self) {
        if self.entries.is_empty() && self.entries.capacity() > KEPT_ENTRIES {
            self.entries = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u16) -> PacketId {
        PacketId::new(n).unwrap()
    }

    #[test]
    fn our_acknowledgement_waits_for_those_before_it() {
        let mut line = AckLine::default();
        line.expect(id(1), None);
        line.expect(id(2), None);
        assert_eq!(line.answer(id(3), Bytes::from_static(b"3"), AckOrder::OfAll), None);
        assert_eq!(line.ready(), None);
        line.take(id(1));
        assert_eq!(line.ready(), None);
        line.take(id(2));
        assert_eq!(line.ready(), Some(Bytes::from_static(b"3")));
        assert!(line.entries.is_empty());
        let four = Bytes::from_static(b"4");
        assert_eq!(line.answer(id(4), four.clone(), AckOrder::OfAll), Some(four));
    }

    #[test]
    fn of_one_id_ours_waits_for_the_same_id_alone() {
        let mut line = AckLine::default();
        for n in [9, 1, 8, 1] {
            line.expect(id(n), None);
        }
        let [ack, other] = [Bytes::from_static(b"1"), Bytes::from_static(b"2")];
        assert_eq!(line.answer(id(2), other.clone(), AckOrder::OfOneId), Some(other.clone()));
        assert_eq!(line.answer(id(2), other.clone(), AckOrder::None), Some(other));
        assert_eq!(line.answer(id(1), ack.clone(), AckOrder::OfOneId), None);
        assert_eq!(line.answer(id(1), ack.clone(), AckOrder::OfOneId), None);
        line.expect(id(1), None);
        line.take(id(1));
        assert!(!line.has_ready(), "another of the same is due before");
        line.take(id(1));
        assert_eq!([line.ready(), line.ready(), line.ready()], [Some(ack.clone()), Some(ack), None]);
        assert_eq!((line.entries.len(), line.ours), (3, 0));
    }

    #[test]
    fn each_publish_has_a_place_of_its_own_and_it_is_small() {
        let mut line = AckLine::default();
        line.expect(id(1), None);
        line.expect(id(1), None);
        assert_eq!(line.entries.len(), 2);
        assert!(size_of::<AckEntry>() <= 16, "{}", size_of::<AckEntry>());
    }

    #[test]
    fn an_unknown_acknowledgement_changes_nothing() {
        let mut line = AckLine::default();
        line.expect(id(1), None);
        assert!(line.take(id(9)).is_none());
        assert_eq!(line.entries.len(), 1);
    }

    #[test]
    fn what_is_kept_is_given_back_whether_it_was_repeated_or_not() {
        let told = || {
            let payload = Some(Bytes::from_static(b"payload"));
            let qos = mproxy_codec::QoS::AtLeastOnce;
            Some(Box::new(Published { topic: "t".into(), qos, retain: false, size: 7, payload }))
        };
        let mut flows = Flows::default();
        for _ in 0..2 {
            flows.expect(PacketType::Puback, id(1), told());
        }
        for _ in 0..2 {
            assert!(flows.kept_bytes() > 0);
            assert!(flows.take_acknowledged(PacketType::Puback, id(1)).0.is_some());
        }
        assert_eq!(flows.kept_bytes(), 0);
    }
}
