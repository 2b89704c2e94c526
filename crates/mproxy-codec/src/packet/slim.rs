//! Packets with more properties than anybody has to look at: how long those are, seen before any is read, and the packet
//! without them, which is enough to refuse it.

use std::ops::Range;

use bytes::{BufMut, BytesMut};

use crate::frame::FixedHeader;
use crate::property::{Place, PropertyId, ValueType};
use crate::types::{PacketType, QoS, Version};
use crate::varint;

/// Bytes that all properties of such a packet can take together, user properties left out: each may stand there once.
/// What is longer holds user properties, or is malformed.
#[must_use]
pub fn most_besides_user_properties(kind: PacketType) -> usize {
    let place = Place::Packet(kind);
    let once = PropertyId::ALL.iter().filter(|id| id.allowed_in(place) && **id != PropertyId::UserProperty);
    // From the table of properties, so that a property added there is counted here.
    once.map(|id| {
        1 + match id.value_type() {
            ValueType::Byte => 1,
            ValueType::Two => 2,
            ValueType::Four | ValueType::Var => 4,
            ValueType::Text | ValueType::Binary => 2 + usize::from(u16::MAX),
            ValueType::Pair => 0,
        }
    })
    .sum()
}

/// Where the properties of a PUBLISH, SUBSCRIBE or UNSUBSCRIBE stand in it, without the length before them. Nothing of
/// them is looked at, and they need not have arrived. `None`: it has none, its length has not arrived, or the packet is
/// malformed.
#[must_use]
pub fn property_range(header: &FixedHeader, bytes: &[u8], version: Version) -> Option<Range<usize>> {
    let length_at = length_at(header, bytes, version)?;
    let (len, width) = varint::read(bytes.get(length_at..)?).ok()??;
    let start = length_at + usize::from(width);
    let end = start + len as usize;
    // A length that points out of the packet is left to its parser, which says what is wrong with it.
    (end <= header.total()).then_some(start..end)
}

/// Where the length of the properties stands.
fn length_at(header: &FixedHeader, bytes: &[u8], version: Version) -> Option<usize> {
    if !version.is_v5() {
        return None;
    }
    let body = usize::from(header.len);
    match header.kind {
        PacketType::Publish => {
            let topic = u16::from_be_bytes(*bytes.get(body..)?.first_chunk()?);
            let id = if header.qos() == QoS::AtMostOnce { 0 } else { 2 };
            Some(body + 2 + usize::from(topic) + id)
        }
        PacketType::Subscribe | PacketType::Unsubscribe => Some(body + 2),
        _ => None,
    }
}

/// The packet without any property; a PUBLISH without its payload, too. Everything else stands in it as it came, and is
/// as little checked as it was. `None`: it has no properties, or what stands before or behind them has not arrived.
#[must_use]
pub fn without_properties(header: &FixedHeader, bytes: &[u8], version: Version) -> Option<BytesMut> {
    let properties = property_range(header, bytes, version)?;
    let before = bytes.get(usize::from(header.len)..length_at(header, bytes, version)?)?;
    let behind = match header.kind {
        // Its payload may not have come yet, and a refusal has no use for it.
        PacketType::Publish => &[],
        _ => bytes.get(properties.end..header.total())?,
    };
    let remaining = before.len() + 1 + behind.len();
    let length = varint::bytes(u32::try_from(remaining).ok()?);
    let mut out = BytesMut::with_capacity(1 + length.len() + remaining);
    out.put_u8(header.kind.first_byte() | header.flags);
    out.put_slice(&length);
    out.put_slice(before);
    out.put_u8(0);
    out.put_slice(behind);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Subscribe, Unsubscribe, publish::PublishHead};
    use crate::types::Sender;

    const PROPERTIES: [u8; 9] = [8, 0x26, 0, 1, b'k', 0, 2, b'v', b'w'];

    fn packet(first: u8, parts: &[&[u8]]) -> Vec<u8> {
        let body = parts.concat();
        [&[first, u8::try_from(body.len()).unwrap()], &*body].concat()
    }

    fn header(bytes: &[u8]) -> FixedHeader {
        FixedHeader::parse(bytes, Sender::Client, Some(Version::V5)).unwrap().unwrap()
    }

    #[test]
    fn what_is_left_is_the_same_packet_without_properties() {
        let publish = packet(0x32, &[b"\0\x03a/b", &[0, 7], &PROPERTIES, b"payload"]);
        let (of_publish, length_is_there) = (header(&publish), 2 + 5 + 2 + 1);
        assert_eq!(property_range(&of_publish, &publish[..length_is_there], Version::V5), Some(10..18));
        assert_eq!(property_range(&of_publish, &publish[..length_is_there - 1], Version::V5), None);
        assert_eq!(property_range(&of_publish, &publish, Version::V311), None);
        let slim = without_properties(&of_publish, &publish[..length_is_there], Version::V5).unwrap();
        let head = PublishHead::parse(&header(&slim), &slim, Sender::Client, Version::V5).unwrap().unwrap();
        assert_eq!((head.topic, head.packet_id.map(|id| id.get()), head.payload_len), ("a/b", Some(7), 0));

        let subscribe = packet(0x82, &[&[0, 7], &PROPERTIES, b"\0\x01a\x01\0\x01b\x02"]);
        let slim = without_properties(&header(&subscribe), &subscribe, Version::V5).unwrap();
        let parsed = Subscribe::parse(&header(&slim), &slim, Sender::Client, Version::V5).unwrap();
        assert!(parsed.properties.is_empty() && parsed.packet_id.get() == 7);
        assert_eq!(parsed.filters().map(|one| one.filter.as_str()).collect::<Vec<_>>(), ["a", "b"]);

        let unsubscribe = packet(0xA2, &[&[0, 7], &PROPERTIES, b"\0\x01a"]);
        let slim = without_properties(&header(&unsubscribe), &unsubscribe, Version::V5).unwrap();
        let parsed = Unsubscribe::parse(&header(&slim), &slim, Sender::Client, Version::V5).unwrap();
        assert!(parsed.properties.is_empty() && parsed.filters().len() == 1);
    }

    #[test]
    fn a_length_over_the_packet_s_end_is_none() {
        let bytes = packet(0x82, &[&[0, 7], &[9, 0x26], b"\0\x01a\x01"]);
        assert_eq!(property_range(&header(&bytes), &bytes, Version::V5), None);
    }

    #[test]
    fn what_may_stand_once_bounds_what_all_of_it_takes() {
        assert_eq!(most_besides_user_properties(PacketType::Unsubscribe), 0);
        assert_eq!(most_besides_user_properties(PacketType::Subscribe), 5);
        assert_eq!(most_besides_user_properties(PacketType::Puback), 3 + 65_535);
        assert!(most_besides_user_properties(PacketType::Publish) < 200 << 10);
    }
}
