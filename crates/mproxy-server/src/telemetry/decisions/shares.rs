//! Who holds how much of the records in memory: each address, and of each address each client id. The first to make room is
//! the client that holds most at the address that holds most. So neither a client that comes again and again nor one that gives itself
//! another name each time takes more than what others leave; and behind an address that many share, they share
//! what that address has.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;

use mproxy_core::peer::Address;

use super::entry::DecisionEntry;

/// Bytes that a client takes beside its records, and an address: places in maps and sets that are not full, and the
/// first numbers of a queue.
pub(super) const CLIENT: usize = 160;
pub(super) const ADDRESS: usize = 64;

/// A name or an address, of which nothing else is kept. Two that are alike share, as if they were one.
type Hash = u64;

/// What each client holds of the records in memory.
#[derive(Debug, Default)]
pub(super) struct Shares {
    keys: RandomState,
    clients: HashMap<(Hash, Hash), ClientShare>,
    /// Each address with its bytes, and the same in their order.
    addresses: HashMap<Hash, usize>,
    largest_addresses: BTreeSet<(usize, Hash)>,
    /// Of each address its clients in the order of their bytes.
    largest_clients: BTreeSet<(Hash, usize, Hash)>,
}

#[derive(Debug, Default)]
struct ClientShare {
    bytes: usize,
    /// Its records, the oldest first.
    numbers: VecDeque<u64>,
}

impl Shares {
    /// Bytes that it takes itself.
    pub(super) fn held(&self) -> usize {
        self.clients.len() * CLIENT + self.addresses.len() * ADDRESS
    }

    fn key(&self, entry: &DecisionEntry) -> (Hash, Hash) {
        // Without its port, which is another one each time; of IPv6 the network, of which one host has all.
        let address = match &entry.peer_addr {
            Some(Address::Ip(SocketAddr::V4(address))) => self.keys.hash_one(address.ip()),
            Some(Address::Ip(SocketAddr::V6(address))) => self.keys.hash_one(&address.ip().octets()[..8]),
            Some(Address::Process(process)) => self.keys.hash_one(process.uid),
            Some(Address::Path(_)) | None => self.keys.hash_one(&entry.listener),
        };
        (address, self.keys.hash_one(&entry.client_id))
    }

    /// A record has come, with a number above all others.
    pub(super) fn add(&mut self, entry: &DecisionEntry, number: u64, weight: usize) {
        let key = self.key(entry);
        self.clients.entry(key).or_default().numbers.push_back(number);
        self.grow(key, |bytes| bytes + weight);
    }

    /// The oldest record of the client that holds most where most is held.
    pub(super) fn oldest_of_largest(&self) -> Option<u64> {
        let (_, address) = *self.largest_addresses.last()?;
        let clients = (address, 0, 0)..=(address, usize::MAX, Hash::MAX);
        let (_, _, client) = *self.largest_clients.range(clients).next_back()?;
        self.clients.get(&(address, client))?.numbers.front().copied()
    }

    /// This record, the oldest of its client, has gone.
    pub(super) fn remove(&mut self, entry: &DecisionEntry, weight: usize) {
        let key = self.key(entry);
        if let Some(share) = self.clients.get_mut(&key) {
            share.numbers.pop_front();
            // Half of it is room that was needed once.
            if share.numbers.len() * 4 < share.numbers.capacity() {
                share.numbers.shrink_to(share.numbers.len() * 2);
            }
        }
        self.grow(key, |bytes| bytes - weight);
    }

    /// What a client holds has changed; whoever holds nothing is forgotten.
    fn grow(&mut self, (address, client): (Hash, Hash), change: impl Fn(usize) -> usize) {
        let Some(share) = self.clients.get_mut(&(address, client)) else { return };
        let (before, after) = (share.bytes, change(share.bytes));
        share.bytes = after;
        self.largest_clients.remove(&(address, before, client));
        if after == 0 {
            self.clients.remove(&(address, client));
        } else {
            self.largest_clients.insert((address, after, client));
        }
        let bytes = self.addresses.entry(address).or_default();
        let (before, after) = (*bytes, change(*bytes));
        *bytes = after;
        self.largest_addresses.remove(&(before, address));
        if after == 0 {
            self.addresses.remove(&address);
        } else {
            self.largest_addresses.insert((after, address));
        }
    }
}
