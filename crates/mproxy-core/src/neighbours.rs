//! Who shares one share of what is divided by address.

use std::net::IpAddr;

use crate::peer::Address;

/// Whoever shares one share: an IPv4 address; the /64 of an IPv6 address, within which one host may take what address
/// it likes; or a user of this machine, over a Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Neighbours(u128);

impl From<IpAddr> for Neighbours {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
            // Below it a host picks what it likes (RFC 4862): by single addresses nobody could be told from a crowd.
            IpAddr::V6(address) => address.to_bits() >> 64 << 64,
        })
    }
}

/// No address has it: it is neither an IPv4 address in IPv6 nor the beginning of a /64.
const USER: u128 = 1 << 63;

impl From<&Address> for Neighbours {
    fn from(address: &Address) -> Self {
        match address {
            Address::Ip(address) => address.ip().into(),
            Address::Process(credentials) => Self(USER | u128::from(credentials.uid)),
            // Nobody comes from one.
            Address::Path(_) => Self(USER << 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::Credentials;

    #[test]
    fn users_of_a_unix_socket_have_a_share_each() {
        let of = |pid, uid| Neighbours::from(&Address::Process(Credentials { pid, uid, gid: 0 }));
        assert_eq!(of(Some(1), 1000), of(Some(2), 1000), "whatever their processes");
        assert_ne!(of(None, 1000), of(None, 1001));
        for address in ["0.0.3.232", "::", "::3e8", "0:0:0:1::"] {
            assert_ne!(of(None, 1000), address.parse::<IpAddr>().expect("an address").into(), "{address}");
        }
    }

    #[test]
    fn a_host_has_one_share_whatever_address_it_takes() {
        let of = |text: &str| Neighbours::from(text.parse::<IpAddr>().expect("an address"));
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("2001:db8:0:1::1"), of("2001:db8:0:1:ffff::2"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
    }
}
