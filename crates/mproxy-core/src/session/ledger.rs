//! Packet ids that need remembering: acknowledgements that must keep their order, QoS 2 flows that we answered
//! ourselves, SUBSCRIBEs whose SUBACK has to be merged, filters that were rewritten.
//!
//! Made only for sessions that need it: where nobody decides and nobody is told, there is no ledger.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use mproxy_codec::types::{PacketId, PacketType};

use crate::event::Published;
use crate::peer::Side;

/// Bytes of our own acknowledgements that may wait in a line behind one that the receiver does not give.
const OURS_BYTES: usize = 256 << 10;

/// Bytes of rewritten filters that one session remembers, and how many. Beyond, a rewrite counts as a failed answer.
const RENAME_BYTES: usize = 256 << 10;
const RENAMES: usize = 1024;

/// A queue that has emptied keeps room for this many entries: enough for a steady flow, little for an idle session.
const KEPT_ENTRIES: usize = 16;

/// Entries of a line that are looked at in the time of one comparison with a rule.
const ENTRIES_A_COMPARISON: usize = 16;

/// What one session remembers of packet ids.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Publishes of the client: acknowledged by the broker or by us.
    up: Flows,
    /// Publishes of the broker: acknowledged by the client or by us.
    down: Flows,
    /// SUBSCRIBEs under way.
    subscribes: Vec<Subscribing>,
    /// UNSUBSCRIBEs under way.
    unsubscribes: Vec<Unsubscribing>,
    /// Filters the broker knows under another text than the client.
    renames: Renames,
    /// UNSUBSCRIBEs of our own under way, and the SUBACKs that wait for them.
    retiring: Vec<(PacketId, Bytes)>,
    /// The client's subscriptions, by its own names for them; kept only where their number is limited.
    pub(super) subscriptions: Names,
    /// Bytes kept until the broker answers: of publishes, SUBSCRIBEs and UNSUBSCRIBEs, for events and merged SUBACKs.
    kept: usize,
}

impl Ledger {
    /// The flows of PUBLISH packets that come from `side`.
    pub(super) fn flows(&mut self, from: Side) -> &mut Flows {
        match from {
            Side::Client => &mut self.up,
            Side::Broker => &mut self.down,
        }
    }

    /// Bytes kept until the broker answers.
    pub(super) fn kept(&self) -> usize {
        self.kept
    }

    /// Bytes that it holds.
    pub(super) fn weight(&self) -> usize {
        self.kept
            + self.up.weight()
            + self.down.weight()
            + self.renames.weight()
            + self.subscriptions.weight()
    }

    /// Whether something in it goes when a peer answers.
    pub(super) fn awaits(&self) -> bool {
        self.kept > 0 || self.up.weight() + self.down.weight() > 0
    }

    /// Whether the broker may have yet to answer a PUBLISH, SUBSCRIBE or UNSUBSCRIBE that is told of.
    pub(super) fn is_owed(&self) -> bool {
        self.up.weight() > 0 || !self.subscribes.is_empty() || !self.unsubscribes.is_empty()
    }

    /// Whether packets from `side` have to wait until some of those before them are answered.
    pub(super) fn full(&self, from: Side, packets: usize, bytes: usize) -> bool {
        match from {
            Side::Client => {
                self.up.full()
                    || self.subscribes.len() + self.unsubscribes.len() + self.retiring.len() >= packets
                    || self.kept >= bytes
            }
            Side::Broker => self.down.full(),
        }
    }

    /// A PUBLISH from that side has gone to its receiver; `told` is what to report once it is acknowledged with
    /// `kind`.
    pub(super) fn expect(
        &mut self,
        from: Side,
        kind: PacketType,
        id: PacketId,
        told: Option<Box<Published>>,
    ) {
        self.kept += told.as_deref().map_or(0, Published::weight);
        let flows = self.flows(from);
        flows.ours.remove(&id);
        flows.line(kind).expect(id, told);
    }

    /// The receiver of a PUBLISH from that side acknowledged it with `kind`: what there is to report, and how much work
    /// it was to find that.
    pub(super) fn acknowledged(
        &mut self,
        from: Side,
        kind: PacketType,
        id: PacketId,
    ) -> (Option<Box<Published>>, usize) {
        let line = self.flows(from).line(kind);
        let toil = line.toil(id);
        let told = line.acknowledged(id);
        self.kept -= told.as_deref().map_or(0, Published::weight);
        (told, toil)
    }

    pub(super) fn subscribing(&mut self, one: Subscribing) {
        self.kept += one.weight();
        self.subscribes.push(one);
    }

    /// The SUBSCRIBE with this id has been answered; of several, the first.
    pub(super) fn subscribed(&mut self, id: PacketId) -> Option<Subscribing> {
        let at = self.subscribes.iter().position(|one| one.id == id)?;
        let one = self.subscribes.remove(at);
        self.kept -= one.weight();
        Some(one)
    }

    pub(super) fn unsubscribing(&mut self, one: Unsubscribing) {
        self.kept += one.weight();
        self.unsubscribes.push(one);
    }

    /// The UNSUBSCRIBE with this id has been answered; of several, the first.
    pub(super) fn unsubscribed(&mut self, id: PacketId) -> Option<Unsubscribing> {
        let at = self.unsubscribes.iter().position(|one| one.id == id)?;
        let one = self.unsubscribes.remove(at);
        self.kept -= one.weight();
        Some(one)
    }

    /// An UNSUBSCRIBE of ours has gone, under the packet id of the SUBSCRIBE that `reply` answers.
    pub(super) fn retiring(&mut self, id: PacketId, reply: Bytes) {
        self.kept += reply.len();
        self.retiring.push((id, reply));
    }

    /// The UNSUBSCRIBE of ours with this id has been answered: the SUBACK whose turn it is.
    pub(super) fn retired(&mut self, id: PacketId) -> Option<Bytes> {
        let at = self.retiring.iter().position(|(own, _)| *own == id)?;
        let (_, reply) = self.retiring.remove(at);
        self.kept -= reply.len();
        Some(reply)
    }

    /// Whether the broker knows the client's filter as something else.
    pub(super) fn renames(&self, asked: &str) -> bool {
        self.renames.sent.contains_key(asked)
    }

    /// Whether some filter of the client's is known to the broker by this rewritten name.
    pub(super) fn sends(&self, name: &str) -> bool {
        self.renames.uses.contains_key(name)
    }

    pub(super) fn has_renames(&self) -> bool {
        !self.renames.sent.is_empty()
    }

    /// Whether so many more rewritten filters, of so many bytes together, can be remembered.
    pub(super) fn has_room_for(&self, renames: usize, bytes: usize) -> bool {
        self.renames.sent.len() + renames <= RENAMES && self.renames.bytes + bytes <= RENAME_BYTES
    }

    pub(super) fn rename(&mut self, asked: &str, sent: &str) {
        self.renames.remove(asked);
        self.renames.insert(asked, sent);
    }

    /// What the broker knows the client's filter as, if as something else; it is forgotten with that.
    pub(super) fn renamed(&mut self, asked: &str) -> Option<Box<str>> {
        self.renames.remove(asked).map(|sent| (*sent).into())
    }
}

fn weight_of(filters: &[Box<str>]) -> usize {
    filters.iter().map(|filter| size_of::<Box<str>>() + filter.len()).sum()
}

/// The publishes of one direction.
#[derive(Debug, Default)]
pub(super) struct Flows {
    /// PUBACKs in the order of their PUBLISH packets, which a client keeps to [MQTT-4.6.0-2].
    puback: Line,
    /// PUBRECs in the order of their PUBLISH packets, likewise [MQTT-4.6.0-3].
    pubrec: Line,
    /// QoS 2 flows whose PUBREC was ours: their PUBREL is answered by us, and goes nowhere.
    pub(super) ours: BTreeSet<PacketId>,
}

impl Flows {
    /// The line of one kind of acknowledgement.
    pub(super) fn line(&mut self, kind: PacketType) -> &mut Line {
        if kind == PacketType::Puback { &mut self.puback } else { &mut self.pubrec }
    }

    /// The next acknowledgement of ours whose turn has come.
    pub(super) fn ready(&mut self) -> Option<Bytes> {
        self.puback.ready().or_else(|| self.pubrec.ready())
    }

    pub(super) fn has_ready(&self) -> bool {
        self.puback.has_ready() || self.pubrec.has_ready()
    }

    fn full(&self) -> bool {
        self.puback.full() || self.pubrec.full()
    }

    /// Bytes that are held until somebody acknowledges.
    fn weight(&self) -> usize {
        self.puback.weight() + self.pubrec.weight() + self.ours.len() * 4
    }
}

/// After which of the receiver's acknowledgements ours may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
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
/// Bounded: its owner stops reading the side that publishes while the line is [`full`](Line::full).
#[derive(Debug, Default)]
pub(super) struct Line {
    entries: VecDeque<Entry>,
    /// Bytes of those that are ours.
    ours: usize,
}

#[derive(Debug)]
enum Entry {
    /// The receiver will send it.
    Theirs { id: PacketId, told: Option<Box<Published>> },
    /// Ours, waiting for those before it. Boxed, for there are few, and thousands of the others.
    Ours { id: PacketId, ack: Box<Bytes>, order: Order },
}

impl Line {
    fn weight(&self) -> usize {
        self.entries.len() * size_of::<Entry>() + self.ours
    }

    /// Whether no more publishes should come: every packet id is out, or too many of our answers wait behind one that
    /// the receiver does not give.
    pub(super) fn full(&self) -> bool {
        self.entries.len() >= usize::from(u16::MAX) || self.ours >= OURS_BYTES
    }

    /// A PUBLISH has gone to its receiver; `told` is what to report once it is acknowledged.
    fn expect(&mut self, id: PacketId, told: Option<Box<Published>>) {
        self.entries.push_back(Entry::Theirs { id, told });
    }

    /// Whether the receiver is to acknowledge this id.
    pub(super) fn expects(&self, id: PacketId) -> bool {
        self.place(id).is_some()
    }

    /// What it costs to look for this id, in comparisons with rules: nothing at the front, where it is with a receiver that
    /// acknowledges in order.
    pub(super) fn toil(&self, id: PacketId) -> usize {
        if matches!(self.entries.front(), Some(Entry::Theirs { id: first, .. }) if *first == id) {
            0
        } else {
            self.entries.len() / ENTRIES_A_COMPARISON
        }
    }

    fn place(&self, id: PacketId) -> Option<usize> {
        self.entries.iter().position(|entry| matches!(entry, Entry::Theirs { id: other, .. } if *other == id))
    }

    /// We acknowledge a PUBLISH ourselves: the packet, if it may go out now, else it is kept in its place.
    pub(super) fn answer(&mut self, id: PacketId, ack: Bytes, order: Order) -> Option<Bytes> {
        let waits = match order {
            Order::None => false,
            Order::OfOneId => self.expects(id),
            Order::OfAll => !self.entries.is_empty(),
        };
        if !waits {
            return Some(ack);
        }
        self.ours += ack.len();
        self.entries.push_back(Entry::Ours { id, ack: Box::new(ack), order });
        None
    }

    /// The receiver acknowledged `id`: what there is to report of the first PUBLISH under it. Afterwards
    /// [`ready`](Line::ready) may have some of ours.
    fn acknowledged(&mut self, id: PacketId) -> Option<Box<Published>> {
        let at = self.place(id)?;
        let entry = self.entries.remove(at)?;
        if self.ours > 0 {
            self.bring_forward(id, at);
        }
        self.shrink();
        match entry {
            Entry::Theirs { told, .. } => told,
            Entry::Ours { .. } => None,
        }
    }

    /// Ours that waited from `at` on for nothing but this id go to the front.
    fn bring_forward(&mut self, id: PacketId, mut at: usize) {
        let mut front = 0;
        while let Some(entry) = self.entries.get(at) {
            match entry {
                Entry::Theirs { id: other, .. } if *other == id => return,
                Entry::Ours { id: other, order: Order::OfOneId, .. } if *other == id => {
                    if let Some(entry) = self.entries.remove(at) {
                        self.entries.insert(front, entry);
                    }
                    front += 1;
                }
                Entry::Theirs { .. } | Entry::Ours { .. } => {}
            }
            at += 1;
        }
    }

    fn has_ready(&self) -> bool {
        matches!(self.entries.front(), Some(Entry::Ours { .. }))
    }

    fn ready(&mut self) -> Option<Bytes> {
        if !self.has_ready() {
            return None;
        }
        let entry = self.entries.pop_front()?;
        self.shrink();
        match entry {
            Entry::Ours { ack, .. } => {
                self.ours -= ack.len();
                Some(*ack)
            }
            Entry::Theirs { .. } => None,
        }
    }

    fn shrink(&mut self) {
        if self.entries.is_empty() && self.entries.capacity() > KEPT_ENTRIES {
            self.entries = VecDeque::new();
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
    /// What the broker knows these filters as from before, and shall not any more.
    pub(super) retire: Box<[Box<str>]>,
    /// For each filter of the client's: its name, if it counts as a new subscription. Empty where none is counted.
    pub(super) counted: Box<[Option<Box<str>>]>,
}

impl Subscribing {
    fn weight(&self) -> usize {
        let counted: usize = self.counted.iter().flatten().map(|name| name.len()).sum();
        size_of::<Self>()
            + size_of_val(&*self.mask)
            + weight_of(&self.filters)
            + weight_of(&self.retire)
            + size_of_val(&*self.counted)
            + counted
    }
}

/// An UNSUBSCRIBE on its way to the broker, remembered because somebody is told or its answer has to be completed.
#[derive(Debug)]
pub(super) struct Unsubscribing {
    pub(super) id: PacketId,
    /// As the broker knew them; empty if nobody is told.
    pub(super) filters: Box<[Box<str>]>,
    /// For each filter of the client's, whether it went to the broker. Empty: all of them.
    pub(super) mask: Box<[bool]>,
}

impl Unsubscribing {
    fn weight(&self) -> usize {
        size_of::<Self>() + weight_of(&self.filters) + self.mask.len()
    }
}

/// Filters that the policy rewrote. Found by either name at once: a SUBSCRIBE may have thousands.
#[derive(Debug, Default)]
struct Renames {
    /// As the broker knows it, by what the client says.
    sent: BTreeMap<Box<str>, Arc<str>>,
    /// How many of the client's filters the broker knows by this name.
    uses: BTreeMap<Arc<str>, usize>,
    /// Of all names.
    bytes: usize,
}

impl Renames {
    fn insert(&mut self, asked: &str, sent: &str) {
        let sent: Arc<str> = sent.into();
        self.bytes += asked.len() + sent.len();
        *self.uses.entry(Arc::clone(&sent)).or_default() += 1;
        self.sent.insert(asked.into(), sent);
    }

    fn remove(&mut self, asked: &str) -> Option<Arc<str>> {
        let sent = self.sent.remove(asked)?;
        self.bytes -= asked.len() + sent.len();
        if let Some(uses) = self.uses.get_mut(&sent) {
            *uses -= 1;
            if *uses == 0 {
                self.uses.remove(&sent);
            }
        }
        Some(sent)
    }

    fn weight(&self) -> usize {
        self.bytes + self.sent.len() * ENTRY
    }
}

/// What a name in a map costs beside its bytes.
const ENTRY: usize = 96;

/// A set of filters, and what they weigh.
#[derive(Debug, Default)]
pub(super) struct Names {
    names: BTreeSet<Box<str>>,
    bytes: usize,
}

impl Names {
    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    pub(super) fn insert(&mut self, name: &str) {
        if self.names.insert(name.into()) {
            self.bytes += name.len();
        }
    }

    pub(super) fn remove(&mut self, name: &str) {
        if self.names.remove(name) {
            self.bytes -= name.len();
        }
    }

    fn weight(&self) -> usize {
        self.bytes + self.names.len() * ENTRY
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
        let mut line = Line::default();
        line.expect(id(1), None);
        line.expect(id(2), None);
        assert_eq!(line.answer(id(3), Bytes::from_static(b"3"), Order::OfAll), None);
        assert_eq!(line.ready(), None);
        line.acknowledged(id(1));
        assert_eq!(line.ready(), None);
        line.acknowledged(id(2));
        assert_eq!(line.ready(), Some(Bytes::from_static(b"3")));
        assert!(line.entries.is_empty());
        let four = Bytes::from_static(b"4");
        assert_eq!(line.answer(id(4), four.clone(), Order::OfAll), Some(four));
    }

    #[test]
    fn of_one_id_ours_waits_for_the_same_id_alone() {
        let mut line = Line::default();
        for n in [9, 1, 8, 1] {
            line.expect(id(n), None);
        }
        let [ack, other] = [Bytes::from_static(b"1"), Bytes::from_static(b"2")];
        assert_eq!(line.answer(id(2), other.clone(), Order::OfOneId), Some(other.clone()));
        assert_eq!(line.answer(id(2), other.clone(), Order::None), Some(other));
        assert_eq!(line.answer(id(1), ack.clone(), Order::OfOneId), None);
        assert_eq!(line.answer(id(1), ack.clone(), Order::OfOneId), None);
        line.expect(id(1), None);
        line.acknowledged(id(1));
        assert!(!line.has_ready(), "another of the same is due before");
        line.acknowledged(id(1));
        assert_eq!([line.ready(), line.ready(), line.ready()], [Some(ack.clone()), Some(ack), None]);
        assert_eq!((line.entries.len(), line.ours), (3, 0));
    }

    #[test]
    fn each_publish_has_a_place_of_its_own_and_it_is_small() {
        let mut line = Line::default();
        line.expect(id(1), None);
        line.expect(id(1), None);
        assert_eq!(line.entries.len(), 2);
        assert!(size_of::<Entry>() <= 16, "{}", size_of::<Entry>());
    }

    #[test]
    fn what_is_kept_is_given_back_whether_it_was_repeated_or_not() {
        let told = || {
            let payload = Some(Bytes::from_static(b"payload"));
            let qos = mproxy_codec::QoS::AtLeastOnce;
            Some(Box::new(Published { topic: "t".into(), qos, retain: false, size: 7, payload }))
        };
        let mut ledger = Ledger::default();
        for _ in 0..2 {
            ledger.expect(Side::Client, PacketType::Puback, id(1), told());
        }
        for _ in 0..2 {
            assert!(ledger.kept() > 0);
            assert!(ledger.acknowledged(Side::Client, PacketType::Puback, id(1)).0.is_some());
        }
        assert_eq!(ledger.kept(), 0);
        for _ in 0..2 {
            ledger.subscribing(Subscribing {
                id: id(2),
                mask: Box::default(),
                filters: Box::new(["a".into()]),
                retire: Box::default(),
                counted: Box::default(),
            });
        }
        ledger.unsubscribing(Unsubscribing {
            id: id(2),
            filters: Box::new(["a".into()]),
            mask: Box::default(),
        });
        assert!(ledger.full(Side::Client, 3, usize::MAX) && !ledger.full(Side::Client, 4, usize::MAX));
        assert!(ledger.subscribed(id(2)).is_some() && ledger.subscribed(id(2)).is_some());
        assert!(ledger.subscribed(id(2)).is_none());
        assert!(ledger.unsubscribed(id(2)).is_some());
        assert_eq!(ledger.kept(), 0);
    }

    #[test]
    fn a_filter_has_one_name_and_names_have_a_bound() {
        let mut ledger = Ledger::default();
        ledger.rename("a", "x/a");
        ledger.rename("a", "y/a");
        assert_eq!(ledger.renamed("a").as_deref(), Some("y/a"));
        assert_eq!(ledger.renamed("a"), None);
        assert!(ledger.has_room_for(RENAMES, 0) && !ledger.has_room_for(RENAMES + 1, 0));
        assert!(!ledger.has_room_for(1, RENAME_BYTES + 1));
    }

    #[test]
    fn an_unknown_acknowledgement_changes_nothing() {
        let mut line = Line::default();
        line.expect(id(1), None);
        assert!(line.acknowledged(id(9)).is_none());
        assert_eq!(line.entries.len(), 1);
    }
}
