//! How many connections come, and how many there are, by where they come from: looked at before anything is paid for them,
//! a handshake least of all. What is over a limit is closed at once.
//!
//! An address is an IPv4 address or the /64 of an IPv6 address, as everywhere ([`Neighbours`]); a network is a /24 or /48,
//! which is what one customer or one cloud hands out at most. Memory: 2 MiB for the rates, however many addresses come, and
//! an entry for each address with an open connection, of which there are no more than `max_connections`.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mproxy_core::peer::Address;
use parking_lot::Mutex;

use super::pace::{Debt, Pace};
use super::rate_sketch::{RateSketch, SourceCells};
use crate::config::EventRate;
use crate::share::Neighbours;

/// What may come. What is absent is not limited, and costs nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ArrivalLimits {
    pub(crate) address_rate: Option<EventRate>,
    pub(crate) network_rate: Option<EventRate>,
    pub(crate) total_rate: Option<EventRate>,
    pub(crate) address_connections: Option<usize>,
    pub(crate) network_connections: Option<usize>,
}

/// Why a connection is closed before anything is done for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ArrivalRefusal {
    AddressRate,
    NetworkRate,
    ListenerRate,
    TotalRate,
    AddressConnections,
    NetworkConnections,
    /// There are as many as may be.
    MaxConnections,
    /// Its address is banned.
    Banned,
    /// Descriptors or memory run short.
    Watermark,
}

impl ArrivalRefusal {
    pub(crate) const ALL: [Self; 9] = [
        Self::AddressRate,
        Self::NetworkRate,
        Self::ListenerRate,
        Self::TotalRate,
        Self::AddressConnections,
        Self::NetworkConnections,
        Self::MaxConnections,
        Self::Banned,
        Self::Watermark,
    ];

    /// The label.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::AddressRate => "address_rate",
            Self::NetworkRate => "network_rate",
            Self::ListenerRate => "listener_rate",
            Self::TotalRate => "total_rate",
            Self::AddressConnections => "address_connections",
            Self::NetworkConnections => "network_connections",
            Self::MaxConnections => "max_connections",
            Self::Banned => "banned",
            Self::Watermark => "watermark",
        }
    }

    /// For the log.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::AddressRate => "too many in a short time from its address",
            Self::NetworkRate => "too many in a short time from its network",
            Self::ListenerRate => "too many in a short time at this listener",
            Self::TotalRate => "too many in a short time",
            Self::AddressConnections => "too many connections from its address",
            Self::NetworkConnections => "too many connections from its network",
            Self::MaxConnections => "too many connections",
            Self::Banned => "its address is banned",
            Self::Watermark => "descriptors or memory run short",
        }
    }
}

/// The network that an address is of. A user of this machine is of none.
fn network_of(address: &Address) -> Option<u128> {
    let Address::Ip(address) = address else { return None };
    Some(match address.ip().to_canonical() {
        // Apart from all IPv6 networks: in none of them are these bits set.
        IpAddr::V4(address) => u128::from(address.to_bits() >> 8) | 1 << 64,
        IpAddr::V6(address) => address.to_bits() >> 80 << 80,
    })
}

/// How often clients of one listener come.
#[derive(Debug, Default)]
pub(crate) struct ListenerArrivals(AtomicU64);

/// What comes, and what is there.
pub(crate) struct Arrivals {
    started: Instant,
    /// Some limit is set: looked at before anything else.
    is_limited: AtomicBool,
    /// Connections are counted by address.
    counts: AtomicBool,
    state: Mutex<ArrivalsState>,
}

#[derive(Default)]
struct ArrivalsState {
    limits: ArrivalLimits,
    addresses: Option<RateSketch>,
    networks: Option<RateSketch>,
    total: Debt,
    open: HashMap<Neighbours, u32>,
    open_networks: HashMap<u128, u32>,
}

impl Arrivals {
    pub(crate) fn new(limits: ArrivalLimits, now: Instant) -> Self {
        let arrivals = Self {
            started: now,
            is_limited: AtomicBool::new(false),
            counts: AtomicBool::new(false),
            state: Mutex::default(),
        };
        arrivals.set_limits(limits, std::iter::empty());
        arrivals
    }

    /// From now on these hold. `open`: where the clients are from that are connected; of those in the middle of a
    /// handshake, which are not among them, one too few may be counted until all of an address have left.
    pub(crate) fn set_limits(&self, limits: ArrivalLimits, open: impl Iterator<Item = Address>) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.limits = limits;
        let keep = |sketch: &mut Option<RateSketch>, rate: Option<EventRate>| match rate {
            Some(_) => drop(sketch.get_or_insert_with(RateSketch::new)),
            None => *sketch = None,
        };
        keep(&mut state.addresses, limits.address_rate);
        keep(&mut state.networks, limits.network_rate);
        let counts = limits.address_connections.is_some() || limits.network_connections.is_some();
        if counts != self.counts.swap(counts, Ordering::AcqRel) {
            (state.open, state.open_networks) = Default::default();
            if counts {
                open.for_each(|address| state.count(&address));
            }
        }
        self.is_limited.store(limits != ArrivalLimits::default(), Ordering::Release);
    }

    /// Somebody comes to a listener. `from`: absent where a PROXY header is still to say.
    pub(crate) fn arrive(
        &self,
        listener: &ListenerArrivals,
        rate: Option<EventRate>,
        from: Option<&Address>,
        now: Instant,
    ) -> Result<(), ArrivalRefusal> {
        let is_limited = self.is_limited.load(Ordering::Acquire);
        if !is_limited && rate.is_none() {
            return Ok(());
        }
        let now = now.saturating_duration_since(self.started);
        // One task accepts for a listener: nobody charges it between the look and the charge.
        let of_listener = Debt(listener.0.load(Ordering::Relaxed));
        if rate.is_some_and(|rate| of_listener.is_over(rate.into(), now)) {
            return Err(ArrivalRefusal::ListenerRate);
        }
        if is_limited {
            let mut state = self.state.lock();
            let total = state.limits.total_rate.map(Pace::from);
            if total.is_some_and(|pace| state.total.is_over(pace, now)) {
                return Err(ArrivalRefusal::TotalRate);
            }
            if let Some(from) = from {
                state.come(from, now)?;
            }
            if let Some(pace) = total {
                state.total = state.total.charged(pace, now);
            }
        }
        // Only what comes in is charged: strangers who are turned away take nothing from others.
        if let Some(rate) = rate {
            listener.0.store(of_listener.charged(rate.into(), now).0, Ordering::Relaxed);
        }
        Ok(())
    }

    /// A PROXY header has said who somebody is.
    pub(crate) fn name(&self, from: &Address, now: Instant) -> Result<(), ArrivalRefusal> {
        if !self.is_limited.load(Ordering::Acquire) {
            return Ok(());
        }
        self.state.lock().come(from, now.saturating_duration_since(self.started))
    }

    /// Somebody is there who came to another process.
    pub(crate) fn take_over(&self, from: &Address) {
        if self.counts.load(Ordering::Acquire) {
            self.state.lock().count(from);
        }
    }

    /// Somebody who came in has left.
    pub(crate) fn leave(&self, from: &Address) {
        if self.counts.load(Ordering::Acquire) {
            self.state.lock().discount(from);
        }
    }
}

impl ArrivalsState {
    /// Counts somebody, if all limits of where it comes from allow that.
    fn come(&mut self, from: &Address, now: Duration) -> Result<(), ArrivalRefusal> {
        let (address, network) = (Neighbours::from(from), network_of(from));
        let limits = self.limits;
        let is_full = |open: Option<&u32>, most: Option<usize>| {
            most.is_some_and(|most| open.is_some_and(|open| *open as usize >= most))
        };
        if is_full(self.open.get(&address), limits.address_connections) {
            return Err(ArrivalRefusal::AddressConnections);
        }
        if network
            .is_some_and(|network| is_full(self.open_networks.get(&network), limits.network_connections))
        {
            return Err(ArrivalRefusal::NetworkConnections);
        }
        let of_address = RatedSource::of(self.addresses.as_mut(), limits.address_rate, Some(&address));
        if of_address.as_ref().is_some_and(|source| source.is_over(now)) {
            return Err(ArrivalRefusal::AddressRate);
        }
        let of_network = RatedSource::of(self.networks.as_mut(), limits.network_rate, network.as_ref());
        if of_network.as_ref().is_some_and(|source| source.is_over(now)) {
            return Err(ArrivalRefusal::NetworkRate);
        }
        of_address.into_iter().chain(of_network).for_each(|source| source.charge(now));
        self.count(from);
        Ok(())
    }

    fn count(&mut self, from: &Address) {
        if self.limits.address_connections.is_some() || self.limits.network_connections.is_some() {
            *self.open.entry(from.into()).or_default() += 1;
            if let Some(network) = network_of(from) {
                *self.open_networks.entry(network).or_default() += 1;
            }
        }
    }

    fn discount(&mut self, from: &Address) {
        discount(self.open.entry(from.into()));
        if let Some(network) = network_of(from) {
            discount(self.open_networks.entry(network));
        }
    }
}

/// One less. Nothing is kept of whom there is none.
fn discount<K>(entry: Entry<'_, K, u32>) {
    let Entry::Occupied(mut entry) = entry else { return };
    if *entry.get() <= 1 {
        entry.remove();
    } else {
        *entry.get_mut() -= 1;
    }
}

/// A source whose rate is limited.
struct RatedSource<'a> {
    sketch: &'a mut RateSketch,
    cells: SourceCells,
    pace: Pace,
}

impl<'a> RatedSource<'a> {
    fn of(
        sketch: Option<&'a mut RateSketch>,
        rate: Option<EventRate>,
        source: Option<&impl std::hash::Hash>,
    ) -> Option<Self> {
        let sketch = sketch?;
        Some(Self { cells: sketch.cells(source?), sketch, pace: rate?.into() })
    }

    fn is_over(&self, now: Duration) -> bool {
        self.sketch.is_over(self.cells, self.pace, now)
    }

    fn charge(self, now: Duration) {
        self.sketch.charge(self.cells, self.pace, now);
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use mproxy_core::peer::Credentials;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn from(text: &str) -> Address {
        text.parse::<SocketAddr>().expect("an address").into()
    }

    fn arrive(arrivals: &Arrivals, from: &Address, now: Instant) -> Result<(), ArrivalRefusal> {
        arrivals.arrive(&ListenerArrivals::default(), None, Some(from), now)
    }

    #[test]
    fn an_address_has_so_many_connections_and_gets_them_back() {
        let now = Instant::now();
        let limits = ArrivalLimits { address_connections: Some(2), ..ArrivalLimits::default() };
        let arrivals = Arrivals::new(limits, now);
        let (one, other) = (from("192.0.2.1:1"), from("192.0.2.2:1"));
        assert_eq!(arrive(&arrivals, &one, now), Ok(()));
        assert_eq!(arrive(&arrivals, &from("192.0.2.1:2"), now), Ok(()));
        assert_eq!(arrive(&arrivals, &one, now), Err(ArrivalRefusal::AddressConnections));
        assert_eq!(arrive(&arrivals, &other, now), Ok(()));
        arrivals.leave(&one);
        assert_eq!(arrive(&arrivals, &one, now), Ok(()));
        [&one, &one, &other, &other].into_iter().for_each(|who| arrivals.leave(who));
        let state = arrivals.state.lock();
        assert!(state.open.is_empty() && state.open_networks.is_empty(), "nothing is kept of who has left");
    }

    #[test]
    fn neighbours_are_one_address_and_networks_are_larger() {
        let now = Instant::now();
        let limits = ArrivalLimits {
            address_connections: Some(1),
            network_connections: Some(2),
            ..ArrivalLimits::default()
        };
        let arrivals = Arrivals::new(limits, now);
        assert_eq!(arrive(&arrivals, &from("[2001:db8:1:1::1]:1"), now), Ok(()));
        let neighbour = arrive(&arrivals, &from("[2001:db8:1:1::2]:1"), now);
        assert_eq!(neighbour, Err(ArrivalRefusal::AddressConnections), "of the same /64");
        assert_eq!(arrive(&arrivals, &from("[2001:db8:1:2::1]:1"), now), Ok(()));
        let third = arrive(&arrivals, &from("[2001:db8:1:3::1]:1"), now);
        assert_eq!(third, Err(ArrivalRefusal::NetworkConnections), "of the same /48");
        assert_eq!(arrive(&arrivals, &from("192.0.2.1:1"), now), Ok(()));
        assert_eq!(arrive(&arrivals, &from("[::ffff:192.0.2.2]:1"), now), Ok(()));
        assert_eq!(arrive(&arrivals, &from("192.0.2.3:1"), now), Err(ArrivalRefusal::NetworkConnections));
        assert_eq!(arrive(&arrivals, &from("192.0.3.3:1"), now), Ok(()));
        let process = Address::Process(Credentials { pid: None, uid: 1, gid: 1 });
        assert_eq!(arrive(&arrivals, &process, now), Ok(()));
        assert_eq!(arrive(&arrivals, &process, now), Err(ArrivalRefusal::AddressConnections));
    }

    #[test]
    fn rates_are_those_of_address_network_listener_and_all() {
        let now = Instant::now();
        let rate = |count| Some(EventRate::new(count, SECOND));
        let limits = ArrivalLimits {
            address_rate: rate(1),
            network_rate: rate(2),
            total_rate: rate(4),
            ..ArrivalLimits::default()
        };
        let arrivals = Arrivals::new(limits, now);
        let listener = ListenerArrivals::default();
        let come = |text: &str, now| arrivals.arrive(&listener, rate(5), Some(&from(text)), now);
        assert_eq!(come("192.0.2.1:1", now), Ok(()));
        assert_eq!(come("192.0.2.1:2", now), Err(ArrivalRefusal::AddressRate));
        assert_eq!(come("192.0.2.2:1", now), Ok(()));
        assert_eq!(come("192.0.2.3:1", now), Err(ArrivalRefusal::NetworkRate));
        assert_eq!(come("198.51.100.1:1", now), Ok(()), "who was turned away took nothing from others");
        assert_eq!(come("203.0.113.1:1", now), Ok(()));
        assert_eq!(come("203.0.113.2:1", now), Err(ArrivalRefusal::TotalRate));
        arrivals.set_limits(ArrivalLimits { total_rate: None, ..limits }, std::iter::empty());
        assert_eq!(come("203.0.113.2:1", now), Ok(()));
        assert_eq!(come("203.0.113.3:1", now), Err(ArrivalRefusal::ListenerRate));
        assert_eq!(come("192.0.2.1:1", now + SECOND), Ok(()));
    }

    #[test]
    fn a_proxied_client_is_counted_by_the_address_that_the_header_names() {
        let now = Instant::now();
        let limits =
            ArrivalLimits { address_rate: Some(EventRate::new(1, SECOND)), ..ArrivalLimits::default() };
        let arrivals = Arrivals::new(limits, now);
        let listener = ListenerArrivals::default();
        for host in 1..=100 {
            assert_eq!(arrivals.arrive(&listener, None, None, now), Ok(()), "the proxy is not the client");
            assert_eq!(arrivals.name(&from(&format!("192.0.2.{host}:1")), now), Ok(()));
        }
        assert_eq!(arrivals.name(&from("192.0.2.7:9"), now), Err(ArrivalRefusal::AddressRate));
    }

    #[test]
    fn a_limit_that_comes_later_counts_who_is_there() {
        let now = Instant::now();
        let arrivals = Arrivals::new(ArrivalLimits::default(), now);
        let one = from("192.0.2.1:1");
        assert_eq!(arrive(&arrivals, &one, now), Ok(()));
        let limits = ArrivalLimits { address_connections: Some(1), ..ArrivalLimits::default() };
        arrivals.set_limits(limits, [one.clone()].into_iter());
        assert_eq!(arrive(&arrivals, &one, now), Err(ArrivalRefusal::AddressConnections));
        arrivals.set_limits(ArrivalLimits::default(), std::iter::empty());
        assert_eq!(arrive(&arrivals, &one, now), Ok(()));
    }
}
