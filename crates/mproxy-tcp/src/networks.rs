//! Networks by prefix: who is believed.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use thiserror::Error;

/// Addresses with the same first bits: `10.0.0.0/8`, `fd00::/8`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// What is no network.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{0:?} is not a network: expected an address, or an address and a prefix length, for example 10.0.0.0/8"
)]
pub struct NotANetwork(String);

impl Network {
    /// The network of this length that an address is in. A length beyond the address's own is its own.
    #[must_use]
    pub fn around(address: IpAddr, bits: u8) -> Self {
        let bits = bits.min(width(address) as u8);
        let mask = |all: u128| all.checked_shl(width(address) - u32::from(bits)).unwrap_or(0);
        let address = match address {
            IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() & mask(u128::MAX) as u32).into(),
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & mask(u128::MAX)).into(),
        };
        Self { address, bits }
    }

    /// The same network, written in one way: without the bits that do not count, and IPv4 that travels as IPv6 as IPv4.
    #[must_use]
    pub fn canonical(self) -> Self {
        const MAPPED: u8 = 96;
        match self.address.to_canonical() {
            v4 @ IpAddr::V4(_) if self.address.is_ipv6() && self.bits >= MAPPED => {
                Self::around(v4, self.bits - MAPPED)
            }
            _ => Self::around(self.address, self.bits),
        }
    }

    /// Its first address, or the one that it was written with.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// The length of its prefix.
    #[must_use]
    pub const fn bits(&self) -> u8 {
        self.bits
    }

    /// Whether the address is in it. An IPv4 address that travels as IPv6 (`::ffff:10.0.0.1`) counts as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        if address.is_ipv4() != self.address.is_ipv4() {
            return false;
        }
        // A prefix of 0 bits shifts an IPv6 address by its whole width, which gives `None`: every address is in it.
        let differing =
            (wide(address) ^ wide(self.address)).checked_shr(width(address) - u32::from(self.bits));
        differing.unwrap_or(0) == 0
    }
}

/// The address as a number.
fn wide(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn width(address: IpAddr) -> u32 {
    if address.is_ipv4() { Ipv4Addr::BITS } else { Ipv6Addr::BITS }
}

impl FromStr for Network {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let wrong = || NotANetwork(text.to_owned());
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let bits = match bits {
            Some(bits) => bits.parse().map_err(|_| wrong())?,
            None => width(address) as u8,
        };
        if u32::from(bits) > width(address) {
            return Err(wrong());
        }
        Ok(Self { address, bits })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(network: &str, address: &str) -> bool {
        network.parse::<Network>().unwrap().contains(address.parse().unwrap())
    }

    #[test]
    fn a_network_contains_what_shares_its_prefix() {
        assert!(contains("10.0.0.0/8", "10.255.0.1"));
        assert!(!contains("10.0.0.0/8", "11.0.0.1"));
        assert!(contains("10.1.2.3", "10.1.2.3"));
        assert!(!contains("10.1.2.3", "10.1.2.2"));
        assert!(contains("0.0.0.0/0", "203.0.113.9"));
        assert!(contains("192.168.3.128/25", "192.168.3.200"));
        assert!(!contains("192.168.3.128/25", "192.168.3.100"));
        assert!(contains("fd00::/8", "fdab::1"));
        assert!(!contains("fd00::/8", "fe80::1"));
        assert!(contains("::/0", "2001:db8::1"));
        assert!(contains("::1", "::1"));
    }

    #[test]
    fn the_families_are_apart_except_for_mapped_addresses() {
        assert!(!contains("0.0.0.0/0", "::1"));
        assert!(!contains("::/0", "127.0.0.1"));
        assert!(contains("10.0.0.0/8", "::ffff:10.0.0.1"));
    }

    #[test]
    fn a_network_is_written_in_one_way() {
        for (written, canonical) in [
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("10.1.2.3", "10.1.2.3/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("203.0.113.9/0", "0.0.0.0/0"),
            ("2001:db8:1::1/32", "2001:db8::/32"),
            ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
            ("::ffff:10.1.2.3", "10.1.2.3/32"),
            ("::1/0", "::/0"),
        ] {
            assert_eq!(written.parse::<Network>().unwrap().canonical().to_string(), canonical, "{written}");
        }
    }

    #[test]
    fn what_is_no_network_is_told_with_an_example() {
        for text in ["", "x", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0/8", "10.0.0.0/-1", "10.0.0.0/8 "]
        {
            assert!(text.parse::<Network>().unwrap_err().to_string().contains("10.0.0.0/8"), "{text}");
        }
    }
}
