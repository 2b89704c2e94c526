//! Bans: who may not come in, until when and why. Set by whoever operates mproxy, looked at for each connection and each
//! CONNECT.
//!
//! Looking is a look into a few maps that nobody changes: a change makes new ones and puts them in their place. Their number
//! and their bytes are bounded. Where there is a [`file`](mod@file), it holds what is in force after each change.

mod file;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use mproxy_codec::reason::ReasonCode;
use mproxy_core::Peer;
use mproxy_core::command::{Dismissal, DismissedBy};
use mproxy_core::peer::{Address, Origin};
use mproxy_core::policy::{Ground, Source};
use mproxy_tcp::networks::{Network, NotANetwork};
use parking_lot::Mutex;
use thiserror::Error;

pub(crate) use self::file::FileVersion;
use self::file::{BansFile, UnreadableBans};
use crate::telemetry::bans::BanMetrics;

/// Bans at a time.
pub(crate) const MOST_BANS: usize = 10_000;

/// Bytes of what they name, and of their reasons.
const MOST_BYTES: usize = 4 << 20;

/// Who is banned.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BanTarget {
    /// The client of this identifier.
    ClientId(String),
    /// The user of this name.
    Username(String),
    /// Whoever comes from there.
    Network(Network),
}

impl BanTarget {
    /// As files and the admin API name it: by one of the three.
    ///
    /// # Errors
    /// There is none or several of them, or the address is no network.
    pub fn named(
        client_id: Option<String>,
        username: Option<String>,
        address: Option<String>,
    ) -> Result<Self, BanTargetError> {
        match (client_id, username, address) {
            // No client can have it [MQTT-1.5.4-2].
            (Some(name), None, None) | (None, Some(name), None) if name.contains('\0') => {
                Err(BanTargetError::NotText)
            }
            (Some(id), None, None) => Ok(Self::ClientId(id)),
            (None, Some(name), None) => Ok(Self::Username(name)),
            (None, None, Some(address)) => Ok(Self::Network(address.parse::<Network>()?.canonical())),
            _ => Err(BanTargetError::NotOne),
        }
    }

    /// Whether it is about the client of this connection, by a name that is in force or one that it has said. `peer`: what is
    /// known of it.
    #[must_use]
    pub fn is_about(&self, origin: &Origin, peer: Option<&Peer>) -> bool {
        match self {
            Self::ClientId(banned) => peer.is_some_and(|peer| peer.client_ids().any(|id| id == banned)),
            Self::Username(banned) => peer.is_some_and(|peer| peer.usernames().any(|name| name == banned)),
            Self::Network(network) => match &origin.remote {
                Address::Ip(address) => network.contains(address.ip()),
                Address::Process(_) | Address::Path(_) => false,
            },
        }
    }

    /// The names that [`named`](Self::named) takes: client id, user name, address.
    #[must_use]
    pub fn names(&self) -> [Option<String>; 3] {
        match self {
            Self::ClientId(id) => [Some(id.clone()), None, None],
            Self::Username(name) => [None, Some(name.clone()), None],
            Self::Network(network) => [None, None, Some(network.to_string())],
        }
    }
}

/// What is no name of somebody who can be banned.
#[derive(Debug, Error)]
pub enum BanTargetError {
    /// Which is meant?
    #[error("exactly one of client_id, username and address must be given")]
    NotOne,
    /// No client can have that name.
    #[error("a client id or user name has no U+0000")]
    NotText,
    /// No network.
    #[error("address: {0}")]
    Address(#[from] NotANetwork),
}

/// A ban.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ban {
    /// Who.
    pub target: BanTarget,
    /// Why, for people.
    pub reason: Option<String>,
    /// Since when.
    pub since: SystemTime,
    /// Until when; absent where that is for somebody to say.
    pub expires: Option<SystemTime>,
}

impl Ban {
    fn bytes(&self) -> usize {
        let name = match &self.target {
            BanTarget::ClientId(name) | BanTarget::Username(name) => name.len(),
            BanTarget::Network(_) => size_of::<Network>(),
        };
        name + self.reason.as_deref().map_or(0, str::len)
    }

    /// How a client that it is about is disconnected.
    #[must_use]
    pub fn dismissal(&self) -> Dismissal {
        let detail = self.reason.as_deref().map(Into::into);
        Dismissal { detail, by: DismissedBy::Ban, ..Dismissal::new(ReasonCode::BANNED) }
    }

    /// By what a client that it is about is refused.
    #[must_use]
    pub fn ground(&self) -> Ground {
        self.reason.as_deref().map_or(Ground::Source(Source::Ban), |reason| Ground::Ban(reason.into()))
    }

    /// Whether it is over.
    fn is_over(&self, now: SystemTime) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

/// There is no room for another ban.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "{MOST_BANS} bans, or 4 MiB of names and reasons, are in force, which is the most; remove some first"
)]
pub struct TooManyBans;

/// What is wrong with a file of bans.
pub(crate) fn bans_file_fault(path: &Path) -> Option<String> {
    BansFile::new(path).read().err().map(|error| error.to_string())
}

/// The bans in force.
#[derive(Default)]
pub(crate) struct Bans {
    /// There are some: looked at before anything else.
    any: AtomicBool,
    index: ArcSwap<BanIndex>,
    all: Mutex<BTreeMap<BanTarget, Ban>>,
    file: Option<Mutex<BansFile>>,
    /// The file could not be written after the last change: it does not hold what is in force.
    unsaved: AtomicBool,
    metrics: BanMetrics,
}

/// The same, as they are looked for.
#[derive(Default)]
struct BanIndex {
    client_ids: HashMap<String, Arc<Ban>>,
    usernames: HashMap<String, Arc<Ban>>,
    networks: HashMap<Network, Arc<Ban>>,
    /// The lengths of prefixes that there are, by whether they are of IPv4.
    lengths: BTreeSet<(bool, u8)>,
}

impl BanIndex {
    fn of<'a>(bans: impl Iterator<Item = &'a Ban>) -> Self {
        let mut index = Self::default();
        for ban in bans {
            let shared = Arc::new(ban.clone());
            match &ban.target {
                BanTarget::ClientId(id) => drop(index.client_ids.insert(id.clone(), shared)),
                BanTarget::Username(name) => drop(index.usernames.insert(name.clone(), shared)),
                BanTarget::Network(network) => {
                    index.lengths.insert((network.address().is_ipv4(), network.bits()));
                    index.networks.insert(*network, shared);
                }
            }
        }
        index
    }

    fn address(&self, address: IpAddr) -> Option<&Arc<Ban>> {
        let address = address.to_canonical();
        let lengths = self.lengths.iter().filter(|(is_v4, _)| *is_v4 == address.is_ipv4());
        // The narrowest first: it says most about why.
        lengths.rev().find_map(|(_, bits)| self.networks.get(&Network::around(address, *bits)))
    }
}

impl Bans {
    /// Those that this file holds, which is written after each change.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub(crate) fn open(
        path: Option<&Path>,
        metrics: BanMetrics,
        now: SystemTime,
    ) -> Result<Self, UnreadableBans> {
        let Some(path) = path else { return Ok(Self { metrics, ..Self::default() }) };
        let this = Self { file: Some(Mutex::new(BansFile::new(path))), metrics, ..Self::default() };
        this.reread(now)?;
        Ok(this)
    }

    /// Takes those that the file holds now, in the place of all: another process had it until here. Blocks.
    ///
    /// # Errors
    /// What is wrong with the file: those that were in force are in force.
    pub(crate) fn reread(&self, now: SystemTime) -> Result<(), UnreadableBans> {
        let Some(file) = &self.file else { return Ok(()) };
        let file = file.lock();
        let bans = file.read()?;
        let mut all = self.all.lock();
        *all = bans.into_iter().map(|ban| (ban.target.clone(), ban)).collect();
        self.publish(&mut all, now);
        Ok(())
    }

    /// Which version of the file is there now; `None`: none, or there is no file.
    pub(crate) fn file_version(&self) -> Option<FileVersion> {
        self.file.as_ref()?.lock().version()
    }

    /// Lets go of those that are over.
    pub(crate) fn expire(&self, now: SystemTime) {
        let mut all = self.all.lock();
        if all.values().any(|ban| ban.is_over(now)) {
            self.publish(&mut all, now);
        }
    }

    /// Whether nobody is banned. Costs a load.
    pub(crate) fn are_none(&self) -> bool {
        !self.any.load(Ordering::Acquire)
    }

    /// The ban of whoever comes from there.
    pub(crate) fn of_address(&self, address: &Address, now: SystemTime) -> Option<Arc<Ban>> {
        let Address::Ip(address) = address else { return None };
        if self.are_none() {
            return None;
        }
        self.index.load().address(address.ip()).filter(|ban| !ban.is_over(now)).cloned()
    }

    /// The ban of this client, by whatever of it.
    pub(crate) fn of_peer(&self, peer: &Peer, now: SystemTime) -> Option<Arc<Ban>> {
        if self.are_none() {
            return None;
        }
        let index = self.index.load();
        let by_id = peer.client_ids().filter_map(|id| index.client_ids.get(id));
        let by_name = peer.usernames().filter_map(|name| index.usernames.get(name));
        let by_address = match &peer.origin.remote {
            Address::Ip(address) => index.address(address.ip()),
            Address::Process(_) | Address::Path(_) => None,
        };
        by_id.chain(by_name).chain(by_address).find(|ban| !ban.is_over(now)).cloned()
    }

    /// All of them that are in force, in the order of what they name.
    pub(crate) fn all(&self, now: SystemTime) -> Vec<Ban> {
        self.all.lock().values().filter(|ban| !ban.is_over(now)).cloned().collect()
    }

    /// Whether they are kept in a file.
    pub(crate) const fn have_file(&self) -> bool {
        self.file.is_some()
    }

    /// Bans somebody, in the place of a ban of the same.
    pub(crate) fn add(&self, ban: Ban, now: SystemTime) -> Result<(), TooManyBans> {
        let mut all = self.all.lock();
        let others = || all.values().filter(|other| other.target != ban.target && !other.is_over(now));
        let bytes: usize = others().map(Ban::bytes).sum();
        if others().count() >= MOST_BANS || bytes + ban.bytes() > MOST_BYTES {
            return Err(TooManyBans);
        }
        all.insert(ban.target.clone(), ban);
        self.publish(&mut all, now);
        Ok(())
    }

    /// Whether there was a ban to be lifted.
    pub(crate) fn remove(&self, target: &BanTarget, now: SystemTime) -> bool {
        let mut all = self.all.lock();
        let lifted = all.remove(target).is_some_and(|ban| !ban.is_over(now));
        self.publish(&mut all, now);
        lifted
    }

    /// From now on these are looked at. Those that are over go.
    fn publish(&self, all: &mut BTreeMap<BanTarget, Ban>, now: SystemTime) {
        all.retain(|_, ban| !ban.is_over(now));
        self.index.store(Arc::new(BanIndex::of(all.values())));
        self.any.store(!all.is_empty(), Ordering::Release);
        self.metrics.bans.set(i64::try_from(all.len()).unwrap_or(i64::MAX));
    }

    /// Writes the file where it does not hold what is in force; blocks.
    pub(crate) fn save_unsaved(&self) -> std::io::Result<()> {
        if self.unsaved.load(Ordering::Acquire) { self.save() } else { Ok(()) }
    }

    /// Writes the file, where there is one; blocks. What is in force does not depend on it.
    pub(crate) fn save(&self) -> std::io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        // Locked before the look: of two changes the later one is written last.
        let file = file.lock();
        let bans: Vec<Ban> = self.all.lock().values().cloned().collect();
        let written = file.write(&bans);
        self.unsaved.store(written.is_err(), Ordering::Release);
        written.inspect_err(|_| {
            self.metrics.file_errors.inc();
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::{Duration, UNIX_EPOCH};

    use mproxy_testkit::certificates::Folder;

    use super::*;
    use crate::example_peer;

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_000_000)
    }

    fn ban(target: BanTarget) -> Ban {
        Ban { target, reason: Some("noisy".to_owned()), since: now(), expires: None }
    }

    fn network(text: &str) -> BanTarget {
        BanTarget::Network(text.parse().expect("a network"))
    }

    fn address(text: &str) -> Address {
        Address::Ip(SocketAddr::new(text.parse().expect("an address"), 1))
    }

    #[test]
    fn a_client_is_found_by_name_user_and_address() {
        let bans = Bans::default();
        let peer = example_peer::peer(Arc::new(example_peer::origin(1)), "sensor");
        assert_eq!(bans.of_peer(&peer, now()), None);
        for target in [
            BanTarget::ClientId("sensor".to_owned()),
            BanTarget::Username("ann".to_owned()),
            network("0.0.0.0/0"),
        ] {
            let peer = Peer { username: Some("ann".into()), ..peer.clone() };
            bans.add(ban(target.clone()), now()).expect("there is room");
            assert_eq!(bans.of_peer(&peer, now()).map(|ban| ban.target.clone()), Some(target.clone()));
            assert!(bans.remove(&target, now()) && !bans.remove(&target, now()));
            assert_eq!(bans.of_peer(&peer, now()), None);
        }
        bans.add(ban(BanTarget::ClientId("senso".to_owned())), now()).expect("there is room");
        bans.add(ban(BanTarget::Username("sensor".to_owned())), now()).expect("there is room");
        assert_eq!(bans.of_peer(&peer, now()), None, "no other name, and no other kind of name");
    }

    #[test]
    fn networks_of_any_length_are_found_and_the_families_are_apart() {
        let bans = Bans::default();
        for text in ["10.0.0.0/8", "10.1.0.0/16", "192.0.2.7", "2001:db8::/32"] {
            bans.add(ban(network(text)), now()).expect("there is room");
        }
        let found = |text: &str| {
            bans.of_address(&address(text), now()).map(|ban| match &ban.target {
                BanTarget::Network(network) => network.to_string(),
                other => panic!("{other:?}"),
            })
        };
        assert_eq!(found("10.1.2.3").as_deref(), Some("10.1.0.0/16"), "the narrowest");
        assert_eq!(found("10.2.2.3").as_deref(), Some("10.0.0.0/8"));
        assert_eq!(found("::ffff:10.2.2.3").as_deref(), Some("10.0.0.0/8"));
        assert_eq!(found("192.0.2.7").as_deref(), Some("192.0.2.7/32"));
        assert_eq!((found("192.0.2.8"), found("::1"), found("11.0.0.1")), (None, None, None));
        assert_eq!(found("2001:db8:9::1").as_deref(), Some("2001:db8::/32"));
    }

    #[test]
    fn a_ban_is_over_when_its_time_is() {
        let bans = Bans::default();
        let expires = now() + Duration::from_secs(60);
        let target = BanTarget::ClientId("sensor".to_owned());
        bans.add(Ban { expires: Some(expires), ..ban(target.clone()) }, now()).expect("there is room");
        let peer = example_peer::peer(Arc::new(example_peer::origin(1)), "sensor");
        assert!(bans.of_peer(&peer, expires - Duration::from_millis(1)).is_some());
        assert_eq!((bans.of_peer(&peer, expires), bans.all(expires)), (None, Vec::new()));
        bans.expire(expires - Duration::from_millis(1));
        assert_eq!((bans.metrics.bans.get(), bans.are_none()), (1, false));
        bans.expire(expires);
        assert_eq!((bans.metrics.bans.get(), bans.are_none()), (0, true));
        assert!(!bans.remove(&target, expires));
    }

    #[test]
    fn what_another_process_wrote_meanwhile_is_in_force_and_stays_in_the_file() {
        let folder = Folder::default();
        let path = folder.file("bans.json");
        let open = || Bans::open(Some(&path), BanMetrics::default(), now()).expect("a file");
        let target = |id: &str| BanTarget::ClientId(id.to_owned());
        let (old, new) = (open(), open());
        old.add(ban(target("meanwhile")), now()).expect("there is room");
        old.save().expect("a folder to write to");
        new.reread(now()).expect("a file");
        new.add(ban(target("later")), now()).expect("there is room");
        new.save().expect("a folder to write to");
        let kept: Vec<_> = open().all(now()).into_iter().map(|ban| ban.target).collect();
        assert_eq!(kept, [target("later"), target("meanwhile")]);
    }

    #[test]
    fn their_number_and_their_bytes_are_bounded() {
        let bans = Bans::default();
        let long = BanTarget::ClientId("x".repeat(MOST_BYTES - 10));
        bans.add(ban(long.clone()), now()).expect("there is room");
        let other = ban(BanTarget::ClientId("0123456789".to_owned()));
        assert_eq!(bans.add(other.clone(), now()), Err(TooManyBans));
        assert_eq!(bans.add(ban(long.clone()), now()), Ok(()), "in the place of itself");
        assert!(bans.remove(&long, now()));
        let mut all = bans.all.lock();
        let many = (0..MOST_BANS).map(|n| BanTarget::Username(n.to_string()));
        all.extend(many.map(|target| (target.clone(), ban(target))));
        drop(all);
        assert_eq!(bans.add(other, now()), Err(TooManyBans));
    }
}
