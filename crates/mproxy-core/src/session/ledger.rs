//! Packet ids that need remembering: acknowledgements that must keep their order, QoS 2 flows that we answered
//! ourselves, SUBSCRIBEs whose SUBACK has to be merged, filters that were rewritten.
//!
//! Made only for sessions that need it: where nobody decides and nobody is told, there is no ledger.

use std::collections::{HashSet, VecDeque};

use bytes::Bytes;
use mproxy_codec::types::PacketId;

use crate::event::Published;
use crate::peer::Side;

/// What one session remembers of packet ids.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Publishes of the client: acknowledged by the broker or by us.
    up: Flows,
    /// Publishes of the broker: acknowledged by the client or by us.
    down: Flows,
    /// SUBSCRIBEs under way.
    pub(super) subscribes: Vec<Subscribing>,
    /// UNSUBSCRIBEs under way.
    pub(super) unsubscribes: Vec<Unsubscribing>,
    /// Filters the broker knows under another text than the client.
    pub(super) renames: Vec<Rename>,
    /// Bytes of payloads kept for events.
    pub(super) told_bytes: usize,
}

impl Ledger {
    /// The flows of PUBLISH packets that come from `side`.
    pub(super) fn flows(&mut self, from: Side) -> &mut Flows {
        match from {
            Side::Client => &mut self.up,
            Side::Broker => &mut self.down,
        }
    }

    /// Whether packets from `side` have to wait until some of those before them are answered.
    pub(super) fn full(&self, from: Side, most: usize) -> bool {
        let flows = match from {
            Side::Client => &self.up,
            Side::Broker => &self.down,
        };
        let open = if from == Side::Client { self.subscribes.len() + self.unsubscribes.len() } else { 0 };
        open >= most || flows.puback.full() || flows.pubrec.full()
    }
}

/// The publishes of one direction.
#[derive(Debug, Default)]
pub(super) struct Flows {
    /// PUBACKs in the order of their PUBLISH packets [MQTT-4.6.0-2].
    pub(super) puback: Line,
    /// PUBRECs in the order of their PUBLISH packets [MQTT-4.6.0-3].
    pub(super) pubrec: Line,
    /// QoS 2 flows whose PUBREC was ours: their PUBREL is answered by us, and goes nowhere.
    pub(super) ours: HashSet<PacketId>,
}

/// Acknowledgements of one kind in the order that their PUBLISH packets came in.
///
/// Bounded: its owner stops reading the side that publishes while the line is [`full`](Line::full).
#[derive(Debug, Default)]
pub(super) struct Line {
    entries: VecDeque<Entry>,
    /// How many of them are ours.
    ours: usize,
}

#[derive(Debug)]
enum Entry {
    /// The receiver will send it.
    Theirs { id: PacketId, told: Option<Box<Published>> },
    /// Ours, waiting for those before it.
    Ours(Bytes),
}

impl Line {
    /// Whether no more publishes should come: every packet id is out, or too many of our answers wait behind one that
    /// the receiver does not give.
    pub(super) fn full(&self) -> bool {
        self.entries.len() >= usize::from(u16::MAX) || self.ours >= 4096
    }

    /// A PUBLISH has gone to its receiver; `told` is what to report once it is acknowledged.
    /// A repeated one (DUP) keeps the place of the first.
    pub(super) fn expect(&mut self, id: PacketId, dup: bool, told: Option<Box<Published>>) {
        let known = dup
            && self
                .entries
                .iter()
                .any(|entry| matches!(entry, Entry::Theirs { id: other, .. } if *other == id));
        if !known {
            self.entries.push_back(Entry::Theirs { id, told });
        }
    }

    /// We acknowledge a PUBLISH ourselves: the packet, if it may go out now, else it is kept in its place.
    pub(super) fn answer(&mut self, ack: Bytes) -> Option<Bytes> {
        if self.entries.is_empty() {
            return Some(ack);
        }
        self.entries.push_back(Entry::Ours(ack));
        self.ours += 1;
        None
    }

    /// The receiver acknowledged `id`: what there is to report. Afterwards [`ready`](Line::ready) may have some of ours.
    pub(super) fn acknowledged(&mut self, id: PacketId) -> Option<Box<Published>> {
        let at = self
            .entries
            .iter()
            .position(|entry| matches!(entry, Entry::Theirs { id: other, .. } if *other == id))?;
        match self.entries.remove(at)? {
            Entry::Theirs { told, .. } => told,
            Entry::Ours(_) => None,
        }
    }

    /// The next of ours whose turn has come.
    pub(super) fn ready(&mut self) -> Option<Bytes> {
        if !matches!(self.entries.front()?, Entry::Ours(_)) {
            return None;
        }
        match self.entries.pop_front()? {
            Entry::Ours(ack) => {
                self.ours -= 1;
                Some(ack)
            }
            Entry::Theirs { .. } => None,
        }
    }
}

/// A SUBSCRIBE on its way to the broker.
#[derive(Debug)]
pub(super) struct Subscribing {
    pub(super) id: PacketId,
    /// For each filter of the client's: the code we give it, or `None` where the broker's next code belongs.
    /// Empty: the broker's SUBACK passes as it is.
    pub(super) mask: Box<[Option<u8>]>,
    /// The filters in force, in the client's order; empty if nobody is told.
    pub(super) filters: Box<[Box<str>]>,
}

/// An UNSUBSCRIBE on its way to the broker, remembered because somebody is told.
#[derive(Debug)]
pub(super) struct Unsubscribing {
    pub(super) id: PacketId,
    pub(super) filters: Box<[Box<str>]>,
}

/// A filter that the policy rewrote.
#[derive(Debug)]
pub(super) struct Rename {
    /// As the client says it.
    pub(super) asked: Box<str>,
    /// As the broker knows it.
    pub(super) sent: Box<str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u16) -> PacketId {
        PacketId::new(n).unwrap()
    }

    #[test]
    fn our_acknowledgement_waits_for_those_before_it() {
        let mut line = Line::default();
        line.expect(id(1), false, None);
        line.expect(id(2), false, None);
        assert_eq!(line.answer(Bytes::from_static(b"3")), None);
        assert_eq!(line.ready(), None);
        line.acknowledged(id(1));
        assert_eq!(line.ready(), None);
        line.acknowledged(id(2));
        assert_eq!(line.ready(), Some(Bytes::from_static(b"3")));
        assert!(line.entries.is_empty());
        assert_eq!(line.answer(Bytes::from_static(b"4")), Some(Bytes::from_static(b"4")));
    }

    #[test]
    fn a_repeated_publish_keeps_its_one_place() {
        let mut line = Line::default();
        line.expect(id(1), false, None);
        line.expect(id(1), true, None);
        assert_eq!(line.entries.len(), 1);
    }

    #[test]
    fn an_unknown_acknowledgement_changes_nothing() {
        let mut line = Line::default();
        line.expect(id(1), false, None);
        assert!(line.acknowledged(id(9)).is_none());
        assert_eq!(line.entries.len(), 1);
    }
}
