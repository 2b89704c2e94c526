//! Networks by prefix: who is believed.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use thiserror::Error;

/// Addresses with the same first bits: `10.0.0.0/8`, `fd00::/8`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    fn what_is_no_network_is_told_with_an_example() {
        for text in ["", "x", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0/8", "10.0.0.0/-1", "10.0.0.0/8 "]
        {
            assert!(text.parse::<Network>().unwrap_err().to_string().contains("10.0.0.0/8"), "{text}");
        }
    }
}
