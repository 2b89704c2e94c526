//! Packet ids under which publishes of the client's are under way: came, and not acknowledged to the end, by the broker or
//! by us.

use mproxy_codec::types::{PacketId, PacketType, QoS};
use serde::{Deserialize, Serialize};

/// What is kept for further ids once all are free again.
const KEPT_WORDS: usize = 4;

/// A set of packet ids. It takes room from the first publish of QoS 1 or 2 on, and as much as ids are in use: whatever
/// is acknowledged that is not in it changes nothing.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct InFlight(Option<Box<Ids>>);

#[derive(Debug, Default, Serialize, Deserialize)]
struct Ids {
    /// In the order of `at`; none is empty.
    words: Vec<IdWord>,
    /// Where the last one looked for was: a flow has the next one there, too.
    last: usize,
    /// How many ids are in `came`, by QoS 1 and 2.
    count: [u32; 2],
}

/// Sixty-four ids, a bit each, by QoS 1 and 2.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct IdWord {
    at: u16,
    came: [u64; 2],
    /// Those whose PUBLISH has gone on to the broker.
    went: [u64; 2],
}

impl InFlight {
    /// How many ids are in use.
    pub(super) fn total(&self) -> u32 {
        self.0.as_ref().map_or(0, |ids| ids.count[0] + ids.count[1])
    }

    /// Whether any PUBLISH that has gone on to the broker is not acknowledged to the end.
    pub(super) fn any_forwarded(&self) -> bool {
        self.0.as_ref().is_some_and(|ids| ids.words.iter().any(|word| word.went != [0, 0]))
    }

    /// Whether a PUBREL of the client's is still to come.
    pub(super) fn awaits_release(&self) -> bool {
        self.0.as_ref().is_some_and(|ids| ids.count[1] > 0)
    }

    /// A PUBLISH has come.
    pub(super) fn add(&mut self, qos: QoS, id: PacketId) {
        self.enter(qos, id, 0);
    }

    /// A PUBLISH has gone on to the broker.
    pub(super) fn add_forwarded(&mut self, qos: QoS, id: PacketId) {
        self.enter(qos, id, bit(id));
    }

    #[inline]
    fn enter(&mut self, qos: QoS, id: PacketId, went: u64) {
        let Some(row) = row(qos) else { return };
        let ids = self.0.get_or_insert_default();
        let word = ids.word(id);
        word.went[row] |= went;
        // A PUBLISH that is repeated (DUP) is under way once.
        let is_new = word.came[row] & bit(id) == 0;
        word.came[row] |= bit(id);
        ids.count[row] += u32::from(is_new);
    }

    /// Whether the broker has a PUBLISH under this id, and its flow is not over.
    pub(super) fn is_forwarded(&self, qos: QoS, id: PacketId) -> bool {
        let (Some(row), Some(ids)) = (row(qos), &self.0) else { return false };
        ids.find(id).is_ok_and(|at| ids.words[at].went[row] & bit(id) != 0)
    }

    /// An id but this one under which none is under way, from the highest down: clients count from the lowest up.
    pub(super) fn unused(&self, but: Option<PacketId>) -> Option<PacketId> {
        let is_used = |id| {
            self.0.as_ref().is_some_and(|ids| {
                ids.find(id).is_ok_and(|at| (ids.words[at].came[0] | ids.words[at].came[1]) & bit(id) != 0)
            })
        };
        (1..=u16::MAX).rev().filter_map(PacketId::new).find(|id| !is_used(*id) && Some(*id) != but)
    }

    /// The last acknowledgement of a publish: PUBACK, PUBCOMP, or a PUBREC that says no.
    pub(super) fn remove(&mut self, last: PacketType, id: PacketId) {
        let row = usize::from(!matches!(last, PacketType::Puback));
        let Some(ids) = &mut self.0 else { return };
        let Ok(at) = ids.find(id) else { return };
        let word = &mut ids.words[at];
        // A broker that acknowledges what nobody sent must not upset the count.
        if word.came[row] & bit(id) == 0 {
            return;
        }
        word.came[row] &= !bit(id);
        word.went[row] &= !bit(id);
        debug_assert_eq!(word.went[row] & !word.came[row], 0, "what has gone on has come before");
        ids.count[row] -= 1;
        if word.came == [0, 0] {
            ids.words.remove(at);
            debug_assert!(!ids.words.is_empty() || ids.count == [0, 0], "ids are counted that are not there");
            if ids.words.is_empty() && ids.words.capacity() > KEPT_WORDS {
                ids.words = Vec::new();
            }
        }
    }
}

impl Ids {
    #[inline]
    fn find(&self, id: PacketId) -> Result<usize, usize> {
        let at = id.get() >> 6;
        // A guess that the word itself confirms: after a removal `last` may point anywhere.
        if self.words.get(self.last).is_some_and(|word| word.at == at) {
            return Ok(self.last);
        }
        self.words.binary_search_by_key(&at, |word| word.at)
    }

    #[inline]
    fn word(&mut self, id: PacketId) -> &mut IdWord {
        // Clients count ids up: sixty-four in a row are found without a search.
        self.last = self.find(id).unwrap_or_else(|at| {
            self.words.insert(at, IdWord { at: id.get() >> 6, ..IdWord::default() });
            at
        });
        &mut self.words[self.last]
    }
}

const fn row(qos: QoS) -> Option<usize> {
    match qos {
        QoS::AtMostOnce => None,
        QoS::AtLeastOnce => Some(0),
        QoS::ExactlyOnce => Some(1),
    }
}

const fn bit(id: PacketId) -> u64 {
    1 << (id.get() & 63)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u16) -> PacketId {
        PacketId::new(n).unwrap()
    }

    #[test]
    fn an_id_counts_once_and_what_is_not_in_use_changes_nothing() {
        let mut flight = InFlight::default();
        flight.remove(PacketType::Pubcomp, id(1));
        flight.add(QoS::AtMostOnce, id(1));
        assert_eq!((flight.total(), flight.0.is_some()), (0, false), "no room for nothing");
        flight.add(QoS::AtLeastOnce, id(1));
        flight.add(QoS::AtLeastOnce, id(1));
        flight.add_forwarded(QoS::ExactlyOnce, id(65_535));
        assert_eq!((flight.total(), flight.awaits_release()), (2, true));
        assert!(
            flight.is_forwarded(QoS::ExactlyOnce, id(65_535))
                && !flight.is_forwarded(QoS::AtLeastOnce, id(1))
        );
        for (last, of) in [(PacketType::Puback, 2), (PacketType::Puback, 65_535), (PacketType::Pubcomp, 1)] {
            flight.remove(last, id(of));
        }
        assert_eq!(flight.total(), 2);
        flight.remove(PacketType::Pubcomp, id(65_535));
        flight.remove(PacketType::Pubcomp, id(65_535));
        assert_eq!((flight.total(), flight.awaits_release()), (1, false));
        flight.remove(PacketType::Puback, id(1));
        assert_eq!((flight.total(), flight.unused(None)), (0, Some(id(65_535))));
    }

    #[test]
    fn all_ids_may_be_in_use_in_any_order_and_give_their_room_back() {
        let mut flight = InFlight::default();
        let mixed = |n: u16| id(n.wrapping_mul(40_503) | 1);
        for n in 0..u16::MAX {
            flight.add_forwarded(QoS::AtLeastOnce, mixed(n));
        }
        let all = flight.total();
        assert_eq!(all, 32_768);
        assert_eq!(flight.unused(None), Some(id(65_534)), "odd ones are in use");
        for n in (0..u16::MAX).rev() {
            flight.remove(PacketType::Puback, mixed(n));
        }
        assert_eq!(flight.total(), 0);
        assert!(flight.0.unwrap().words.capacity() <= KEPT_WORDS);
    }
}
