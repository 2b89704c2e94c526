//! SUBSCRIBEs and UNSUBSCRIBEs of which something has to be remembered: their answers have to be merged, somebody is told of
//! them, the broker knows their filters under another name, or their number is limited.
//!
//! Made only for sessions that need it: where nobody decides and nobody is told, there are none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use mproxy_codec::types::PacketId;
use serde::{Deserialize, Serialize};

/// Bytes of rewritten filters that one session remembers, and how many. Beyond, a rewrite counts as a failed answer.
const RENAME_BYTES: usize = 256 << 10;
const RENAMES: usize = 1024;

/// What one session remembers of its subscriptions.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Subscriptions {
    /// SUBSCRIBEs under way.
    subscribes: Vec<Subscribing>,
    /// UNSUBSCRIBEs under way.
    unsubscribes: Vec<Unsubscribing>,
    /// Filters the broker knows under another text than the client.
    renames: Renames,
    /// UNSUBSCRIBEs of our own under way, and the SUBACKs that wait for them.
    retiring: Vec<(PacketId, Bytes)>,
    /// The client's subscriptions, by its own names for them; kept only where their number is limited.
    pub(super) names: FilterNames,
    /// Bytes kept until the broker answers, for events and merged SUBACKs.
    kept: usize,
}

impl Subscriptions {
    /// Bytes kept until the broker answers.
    pub(super) const fn kept(&self) -> usize {
        self.kept
    }

    /// Bytes that it holds.
    pub(super) fn weight(&self) -> usize {
        self.kept + self.renames.weight() + self.names.weight()
    }

    /// Whether there is nothing to remember.
    pub(super) fn is_empty(&self) -> bool {
        self.under_way() == 0 && !self.has_renames() && self.names.len() == 0
    }

    /// How many requests are under way, our own included.
    pub(super) const fn under_way(&self) -> usize {
        self.subscribes.len() + self.unsubscribes.len() + self.retiring.len()
    }

    /// Whether the broker may have yet to answer one that is told of.
    pub(super) const fn is_owed(&self) -> bool {
        !self.subscribes.is_empty() || !self.unsubscribes.is_empty()
    }

    pub(super) fn add_subscribe(&mut self, one: Subscribing) {
        self.kept += one.weight();
        self.subscribes.push(one);
    }

    /// The SUBSCRIBE with this id has been answered; of several, the first.
    pub(super) fn take_subscribe(&mut self, id: PacketId) -> Option<Subscribing> {
        // A client that uses an id twice gets its answers in the order in which the broker gives them.
        // They are few: a client with as many under way as a lane holds is not read.
        let at = self.subscribes.iter().position(|one| one.id == id)?;
        let one = self.subscribes.remove(at);
        self.kept -= one.weight();
        self.check();
        Some(one)
    }

    pub(super) fn add_unsubscribe(&mut self, one: Unsubscribing) {
        self.kept += one.weight();
        self.unsubscribes.push(one);
    }

    /// The UNSUBSCRIBE with this id has been answered; of several, the first.
    pub(super) fn take_unsubscribe(&mut self, id: PacketId) -> Option<Unsubscribing> {
        let at = self.unsubscribes.iter().position(|one| one.id == id)?;
        let one = self.unsubscribes.remove(at);
        self.kept -= one.weight();
        self.check();
        Some(one)
    }

    /// An UNSUBSCRIBE of ours has gone, under the packet id of the SUBSCRIBE that `reply` answers.
    pub(super) fn add_retiring(&mut self, id: PacketId, reply: Bytes) {
        self.kept += reply.len();
        self.retiring.push((id, reply));
    }

    /// The UNSUBSCRIBE of ours with this id has been answered: the SUBACK whose turn it is.
    pub(super) fn take_retired(&mut self, id: PacketId) -> Option<Bytes> {
        let at = self.retiring.iter().position(|(own, _)| *own == id)?;
        let (_, reply) = self.retiring.remove(at);
        self.kept -= reply.len();
        self.check();
        Some(reply)
    }

    /// What the fields say of each other.
    fn check(&self) {
        debug_assert!(self.under_way() > 0 || self.kept == 0, "bytes are kept for no request");
    }

    /// Whether the broker knows the client's filter as something else.
    pub(super) fn is_renamed(&self, asked: &str) -> bool {
        self.renames.sent.contains_key(asked)
    }

    /// Whether some filter of the client's is known to the broker by this rewritten name.
    pub(super) fn is_sent(&self, name: &str) -> bool {
        self.renames.uses.contains_key(name)
    }

    /// Filters that the broker knows as something else: by what the client says, and as what.
    pub(super) fn renames(&self) -> impl Iterator<Item = (&str, &str)> {
        self.renames.sent.iter().map(|(asked, sent)| (&**asked, &**sent))
    }

    /// The rewritten names by which the broker knows some filter.
    pub(super) fn sent_names(&self) -> impl Iterator<Item = &str> {
        self.renames.uses.keys().map(|sent| &**sent)
    }

    pub(super) fn has_renames(&self) -> bool {
        !self.renames.sent.is_empty()
    }

    /// Whether so many more rewritten filters, of so many bytes together, can be remembered.
    pub(super) fn has_room_for(&self, renames: usize, bytes: usize) -> bool {
        self.renames.sent.len() + renames <= RENAMES && self.renames.bytes + bytes <= RENAME_BYTES
    }

    pub(super) fn rename(&mut self, asked: &str, sent: &str) {
        // From its old name first, which may stand for other filters, too, and is counted by them.
        self.renames.remove(asked);
        self.renames.insert(asked, sent);
    }

    /// What the broker knows the client's filter as, if as something else; it is forgotten with that.
    pub(super) fn take_rename(&mut self, asked: &str) -> Option<Box<str>> {
        self.renames.remove(asked).map(|sent| (*sent).into())
    }
}

fn weight_of(filters: &[Box<str>]) -> usize {
    filters.iter().map(|filter| size_of::<Box<str>>() + filter.len()).sum()
}

/// A SUBSCRIBE on its way to the broker.
#[derive(Debug, Serialize, Deserialize)]
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
    /// The client's filters, where it is remembered what the broker grants. Else empty.
    pub(super) asked: Box<[Box<str>]>,
}

impl Subscribing {
    fn weight(&self) -> usize {
        let counted: usize = self.counted.iter().flatten().map(|name| name.len()).sum();
        size_of::<Self>()
            + size_of_val(&*self.mask)
            + weight_of(&self.filters)
            + weight_of(&self.retire)
            + weight_of(&self.asked)
            + size_of_val(&*self.counted)
            + counted
    }
}

/// An UNSUBSCRIBE on its way to the broker, remembered because somebody is told or its answer has to be completed.
#[derive(Debug, Serialize, Deserialize)]
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
#[derive(Debug, Default, Serialize, Deserialize)]
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
        debug_assert_eq!(self.sent.is_empty(), self.uses.is_empty(), "each name is used by some filter");
        Some(sent)
    }

    fn weight(&self) -> usize {
        self.bytes + self.sent.len() * ENTRY
    }
}

/// What a name in a map costs beside its bytes.
const ENTRY: usize = 96;

/// A set of filters, and what they weigh.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct FilterNames {
    names: BTreeSet<Box<str>>,
    bytes: usize,
}

impl FilterNames {
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
    fn what_is_kept_of_subscriptions_is_given_back() {
        let mut books = Subscriptions::default();
        for _ in 0..2 {
            books.add_subscribe(Subscribing {
                id: id(2),
                mask: Box::default(),
                filters: Box::new(["a".into()]),
                retire: Box::default(),
                counted: Box::default(),
                asked: Box::default(),
            });
        }
        books.add_unsubscribe(Unsubscribing {
            id: id(2),
            filters: Box::new(["a".into()]),
            mask: Box::default(),
        });
        assert!(books.under_way() == 3);
        assert!(books.take_subscribe(id(2)).is_some() && books.take_subscribe(id(2)).is_some());
        assert!(books.take_subscribe(id(2)).is_none());
        assert!(books.take_unsubscribe(id(2)).is_some());
        assert_eq!(books.kept(), 0);
    }

    #[test]
    fn a_filter_has_one_name_and_names_have_a_bound() {
        let mut books = Subscriptions::default();
        books.rename("a", "x/a");
        books.rename("a", "y/a");
        assert_eq!(books.take_rename("a").as_deref(), Some("y/a"));
        assert_eq!(books.take_rename("a"), None);
        assert!(books.has_room_for(RENAMES, 0) && !books.has_room_for(RENAMES + 1, 0));
        assert!(!books.has_room_for(1, RENAME_BYTES + 1));
    }
}
