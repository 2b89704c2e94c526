//! The packets that traffic is made of, peeked at: whole, short, plain, and nothing wrong with them.
//!
//! A peek says yes or nothing. What it says yes to, the parsers of [`packet`](crate::packet) would take, too, and
//! find nothing more in it; they take much that it does not recognise. So it can be tried first and left out anywhere.

use crate::frame::FixedHeader;
use crate::topic::is_plain_name;
use crate::types::{PacketId, PacketType, QoS, Version};

/// A whole PUBLISH, acknowledgement or ping at the start of some bytes, with a length of at most two bytes and flags
/// that are right in every version, from either side.
#[derive(Clone, Copy, Debug)]
pub struct Peek<'a> {
    /// Which of them.
    pub kind: PacketType,
    /// The packet.
    pub bytes: &'a [u8],
    /// Where its variable header begins: 2 or 3.
    body_at: u8,
    /// How many bytes follow the fixed header.
    remaining: u16,
}

/// What a PUBLISH without properties has in front of its payload.
#[derive(Clone, Copy, Debug)]
pub struct PlainPublish<'a> {
    /// The bytes of the topic name, as they came.
    pub topic: &'a [u8],
    /// None exactly with QoS 0.
    pub packet_id: Option<PacketId>,
    /// Bytes of the payload.
    pub payload_len: usize,
}

impl<'a> Peek<'a> {
    /// Looks at the packet at the start of `bytes`.
    ///
    /// ```
    /// use mproxy_codec::peek::Peek;
    /// use mproxy_codec::{PacketType, Version};
    ///
    /// let seen = Peek::at(b"\x30\x05\x00\x01ahi and what follows").unwrap();
    /// assert_eq!((seen.kind, seen.bytes.len()), (PacketType::Publish, 7));
    /// assert!(seen.is_plain(Version::V311));
    /// assert!(!Peek::at(b"\x30\x05\x00\x01#hi").unwrap().is_plain(Version::V311));
    /// ```
    #[inline]
    #[must_use]
    pub fn at(bytes: &'a [u8]) -> Option<Self> {
        let [first, second, ..] = *bytes else { return None };
        let kind = match first {
            // DUP and QoS 3 are for those who look closer [MQTT-3.3.1-2] [MQTT-3.3.1-4].
            0x30..=0x35 => PacketType::Publish,
            0x40 => PacketType::Puback,
            0x50 => PacketType::Pubrec,
            0x62 => PacketType::Pubrel,
            0x70 => PacketType::Pubcomp,
            0xC0 => PacketType::Pingreq,
            0xD0 => PacketType::Pingresp,
            _ => return None,
        };
        let (remaining, body_at) = if second < 0x80 {
            (u16::from(second), 2)
        } else {
            match *bytes.get(2)? {
                // 0: not the shortest form [MQTT-1.5.5-1].
                third @ 1..0x80 => (u16::from(second & 0x7F) | u16::from(third) << 7, 3),
                _ => return None,
            }
        };
        let bytes = bytes.get(..usize::from(body_at) + usize::from(remaining))?;
        Some(Self { kind, bytes, body_at, remaining })
    }

    /// Whether there is nothing more to know of it: an acknowledgement of success without properties, a ping, or a
    /// PUBLISH with a plain topic and without properties.
    #[inline]
    #[must_use]
    pub fn is_plain(&self, version: Version) -> bool {
        match self.kind {
            PacketType::Publish => self.publish(version).is_some_and(|publish| is_plain_name(publish.topic)),
            PacketType::Pingreq | PacketType::Pingresp => self.bytes.len() == 2,
            _ => self.acknowledges().is_some(),
        }
    }

    /// A PUBLISH without properties. Its topic is not looked at, see [`is_plain_name`].
    #[inline]
    #[must_use]
    pub fn publish(&self, version: Version) -> Option<PlainPublish<'a>> {
        if self.kind != PacketType::Publish {
            return None;
        }
        let (len, body) = self.bytes.get(usize::from(self.body_at)..)?.split_first_chunk()?;
        let (topic, after) = body.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
        let (packet_id, after) = match self.qos() {
            QoS::AtMostOnce => (None, after),
            QoS::AtLeastOnce | QoS::ExactlyOnce => {
                let (id, after) = after.split_first_chunk()?;
                (Some(PacketId::new(u16::from_be_bytes(*id))?), after)
            }
        };
        // A length of 0: there are no properties.
        let payload = if version.is_v5() { after.strip_prefix(&[0])? } else { after };
        Some(PlainPublish { topic, packet_id, payload_len: payload.len() })
    }

    /// The packet that an acknowledgement of success without properties is for.
    #[inline]
    #[must_use]
    pub fn acknowledges(&self) -> Option<PacketId> {
        match (self.kind, self.bytes) {
            (PacketType::Publish, _) => None,
            // Nothing but the identifier, which in 5.0 means success (3.4.2.1).
            (_, [_, 2, high, low]) => PacketId::new(u16::from_be_bytes([*high, *low])),
            _ => None,
        }
    }

    /// The QoS of a PUBLISH.
    #[inline]
    #[must_use]
    pub const fn qos(&self) -> QoS {
        self.header().qos()
    }

    /// The RETAIN flag of a PUBLISH.
    #[inline]
    #[must_use]
    pub const fn retain(&self) -> bool {
        self.header().retain()
    }

    const fn header(&self) -> FixedHeader {
        let first = match self.bytes {
            [first, ..] => *first,
            [] => 0,
        };
        FixedHeader {
            kind: self.kind,
            flags: first & 0x0F,
            remaining: self.remaining as u32,
            len: self.body_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_is_not_recognised() {
        let packet = b"\x32\x0c\x00\x05a/b/c\x00\x01hey";
        assert!(Peek::at(packet).unwrap().is_plain(Version::V311));
        for cut in 0..packet.len() {
            assert!(Peek::at(&packet[..cut]).is_none());
        }
    }

    #[test]
    fn ids_of_0_and_fields_beyond_the_end_are_not_plain() {
        for (bytes, version) in [
            (&b"\x32\x05\x00\x01a\x00\x00"[..], Version::V311),
            (b"\x32\x04\x00\x01a\x00", Version::V311),
            (b"\x30\x03\x00\x02a", Version::V311),
            (b"\x30\x02\x00\x00", Version::V311),
            (b"\x30\x03\x00\x01a", Version::V5),
            (b"\x30\x07\x00\x01a\x03\x23\x00\x01", Version::V5),
            (b"\x40\x02\x00\x00", Version::V311),
            (b"\x40\x03\x00\x01\x10", Version::V5),
            (b"\xC0\x01\x00", Version::V311),
        ] {
            assert!(Peek::at(bytes).is_none_or(|seen| !seen.is_plain(version)), "{bytes:x?}");
        }
        assert!(Peek::at(b"\xC0\x80\x00").is_none());
    }
}
