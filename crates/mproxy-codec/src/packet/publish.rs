//! PUBLISH: the packet that mproxy lives from. Its head can be read before its payload has arrived, and written
//! anew in front of a payload that stays where it is.

use crate::encode::{EncodeError, packet_head};
use crate::error::{ErrorKind, Malformed};
use crate::frame::FixedHeader;
use crate::property::{Checked, Place, Properties, PropertyEdit, PropertyId};
use crate::read::BodyReader;
use crate::text;
use crate::topic::check_name;
use crate::types::{PacketId, PacketType, QoS, Sender, Version};
use crate::varint;
use bytes::BytesMut;

/// A PUBLISH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    /// Whether this was sent before.
    pub dup: bool,
    /// The quality of service.
    pub qos: QoS,
    /// The retain flag.
    pub retain: bool,
    /// The topic name; empty only in 5.0, where the alias stands for it.
    pub topic: &'a str,
    /// The packet identifier; none exactly with QoS 0.
    pub packet_id: Option<PacketId>,
    /// The topic alias, never 0.
    pub alias: Option<u16>,
    /// The properties, alias included.
    pub properties: Properties<'a>,
    /// The message itself.
    pub payload: &'a [u8],
}

/// A PUBLISH without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishHead<'a> {
    /// Whether this was sent before.
    pub dup: bool,
    /// The quality of service.
    pub qos: QoS,
    /// The retain flag.
    pub retain: bool,
    /// The topic name; empty only in 5.0, where the alias stands for it.
    pub topic: &'a str,
    /// The packet identifier; none exactly with QoS 0.
    pub packet_id: Option<PacketId>,
    /// The topic alias, never 0.
    pub alias: Option<u16>,
    /// The properties, alias included.
    pub properties: Properties<'a>,
    /// How many bytes lie between the packet's first byte and the payload's.
    pub len: usize,
    /// How many bytes of payload follow the head.
    pub payload_len: usize,
}

impl<'a> Publish<'a> {
    /// Reads a whole packet; `bytes` begin with its first byte.
    ///
    /// # Errors
    /// See [`PublishHead::parse`]; also if the packet is not whole.
    #[inline]
    pub fn parse(
        header: &FixedHeader,
        bytes: &'a [u8],
        from: Sender,
        version: Version,
    ) -> Result<Self, Malformed> {
        let whole = super::whole_packet(header, bytes)?;
        let Some(head) = PublishHead::parse(header, whole, from, version)? else {
            return Err(Malformed::new(ErrorKind::Overrun, Some(header.kind), whole.len()));
        };
        let payload = whole.get(head.len..).unwrap_or_default();
        let PublishHead { dup, qos, retain, topic, packet_id, alias, properties, .. } = head;
        Ok(Self { dup, qos, retain, topic, packet_id, alias, properties, payload })
    }

    /// Appends the whole packet.
    ///
    /// # Errors
    /// See [`encode_publish_head`].
    pub fn encode(&self, version: Version, out: &mut BytesMut) -> Result<(), EncodeError> {
        let flags = publish_flags(self.dup, self.qos, self.retain);
        let properties = PropertyEdit::keep(self.properties);
        let len = self.payload.len();
        encode_publish_head(version, flags, self.topic, self.packet_id, &properties, len, out)?;
        out.extend_from_slice(self.payload);
        Ok(())
    }
}

impl<'a> PublishHead<'a> {
    /// Reads the head from as much of the packet as has arrived. `None`: the head is not whole yet.
    ///
    /// A length that points out of the packet is told as soon as it is seen, a bad topic as soon as it is whole.
    ///
    /// # Errors
    /// The topic name is empty (with no alias for it), ill-formed or holds a wildcard, the packet identifier
    /// is 0, a property is wrong, or a field runs past the packet's end.
    #[inline]
    pub fn parse(
        header: &FixedHeader,
        bytes: &'a [u8],
        from: Sender,
        version: Version,
    ) -> Result<Option<Self>, Malformed> {
        let total = header.total();
        // A buffer may hold the next packet, too: a length that runs into that one is a fault, and not a longer field.
        let bytes = bytes.get(..total).unwrap_or(bytes);
        let qos = header.qos();

        let topic_at = usize::from(header.len) + 2;
        let Some(topic_len) = bytes.get(topic_at - 2..).and_then(|bytes| bytes.first_chunk()) else {
            return if topic_at > total { Err(overrun(topic_at - 2)) } else { Ok(None) };
        };
        let id_at = topic_at + usize::from(u16::from_be_bytes(*topic_len));
        let id_end = id_at + if qos == QoS::AtMostOnce { 0 } else { 2 };
        // At least the length of the properties follows in 5.0. Told as soon as it is seen: nothing that comes later makes it
        // right.
        if id_end + usize::from(version.is_v5()) > total {
            return Err(overrun(topic_at - 2));
        }
        // The topic is not judged in part: a character may be cut in its middle.
        let Some(topic) = bytes.get(topic_at..id_at) else { return Ok(None) };
        let topic = topic_name(topic, topic_at, version)?;

        let packet_id = match bytes.get(id_at..id_end) {
            // QoS 0 has none [MQTT-2.2.1-2].
            Some([]) => None,
            Some([high, low]) => match PacketId::new(u16::from_be_bytes([*high, *low])) {
                None => return Err(fault(ErrorKind::PacketIdZero, id_at)),
                id => id,
            },
            _ => return Ok(None),
        };

        // In 3.x the payload begins here; in 5.0 the properties say where.
        let mut head = Self {
            dup: header.dup(),
            qos,
            retain: header.retain(),
            topic,
            packet_id,
            alias: None,
            properties: Properties::EMPTY,
            len: id_end,
            payload_len: total - id_end,
        };
        if version.is_v5() {
            let Some((checked, end)) = properties(bytes, id_end, total, from)? else { return Ok(None) };
            head.properties = checked.properties;
            head.len = end;
            head.payload_len = total - end;
            if checked.present.contains(PropertyId::TopicAlias) {
                // Looked up here and once: everything behind the parser asks for it, most of all the way of an alias alone.
                head.alias = checked.properties.u16(PropertyId::TopicAlias);
            }
            if topic.is_empty() && head.alias.is_none() {
                return Err(fault(ErrorKind::TopicNameEmpty, topic_at));
            }
        }
        debug_assert_eq!(head.len + head.payload_len, total, "head and payload are the packet");
        Ok(Some(head))
    }

    /// Of a head that is not whole: how many bytes of the packet have to be there before [`parse`](Self::parse) can say
    /// more than it did, so that it need not be tried at each byte. Always more than there are.
    #[must_use]
    pub fn needs(header: &FixedHeader, bytes: &[u8], version: Version) -> usize {
        let topic_at = usize::from(header.len) + 2;
        let Some(topic_len) = bytes.get(topic_at - 2..).and_then(|bytes| bytes.first_chunk()) else {
            return topic_at;
        };
        let id_at = topic_at + usize::from(u16::from_be_bytes(*topic_len));
        if bytes.len() < id_at {
            return id_at;
        }
        let id_end = id_at + if header.qos() == QoS::AtMostOnce { 0 } else { 2 };
        // At least one more than there is: the caller waits for this many, and would else try again at once.
        if bytes.len() < id_end || !version.is_v5() {
            return id_end.max(bytes.len() + 1);
        }
        match varint::read(bytes.get(id_end..).unwrap_or_default()) {
            Ok(Some((len, width))) => (id_end + usize::from(width) + len as usize).max(bytes.len() + 1),
            Ok(None) | Err(_) => bytes.len() + 1,
        }
    }

    /// The low half of the first byte.
    #[must_use]
    pub const fn flags(&self) -> u8 {
        publish_flags(self.dup, self.qos, self.retain)
    }

    /// Appends this head with other properties; the payload of [`payload_len`](Self::payload_len) bytes must
    /// follow. [`alias`](Self::alias) and [`properties`](Self::properties) are not looked at.
    ///
    /// # Errors
    /// See [`encode_publish_head`].
    pub fn encode_with(
        &self,
        version: Version,
        properties: &PropertyEdit<'_>,
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        let flags = self.flags();
        encode_publish_head(version, flags, self.topic, self.packet_id, properties, self.payload_len, out)
    }

    /// Appends this head as it is; the payload of [`payload_len`](Self::payload_len) bytes must follow.
    ///
    /// # Errors
    /// See [`encode_publish_head`].
    pub fn encode(&self, version: Version, out: &mut BytesMut) -> Result<(), EncodeError> {
        self.encode_with(version, &PropertyEdit::keep(self.properties), out)
    }
}

/// Where the fields of a head stand that has been read: so that they are found again in the same bytes, and not read anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishLayout {
    flags: u8,
    topic_at: u8,
    topic_len: u16,
    packet_id: Option<PacketId>,
    alias: Option<u16>,
    properties_len: u32,
    len: u32,
    payload_len: u32,
}

impl PublishLayout {
    /// The layout of `head`, which was read behind this fixed header.
    #[must_use]
    pub fn of(header: &FixedHeader, head: &PublishHead<'_>) -> Self {
        // Packets are far smaller than 4 GiB, and a topic is of 65,535 bytes at most. What were larger would not be found.
        Self {
            flags: head.flags(),
            topic_at: header.len + 2,
            topic_len: u16::try_from(head.topic.len()).unwrap_or(u16::MAX),
            packet_id: head.packet_id,
            alias: head.alias,
            properties_len: u32::try_from(head.properties.raw().len()).unwrap_or(u32::MAX),
            len: u32::try_from(head.len).unwrap_or(u32::MAX),
            payload_len: u32::try_from(head.payload_len).unwrap_or(u32::MAX),
        }
    }

    /// The head in its bytes. `None`: they are others than those that were read.
    #[must_use]
    pub fn find<'a>(&self, bytes: &'a [u8]) -> Option<PublishHead<'a>> {
        let (len, topic_at) = (self.len as usize, usize::from(self.topic_at));
        let topic = bytes.get(topic_at..topic_at + usize::from(self.topic_len))?;
        let properties = bytes.get(len.checked_sub(self.properties_len as usize)?..len)?;
        Some(PublishHead {
            dup: self.flags & 0b1000 != 0,
            qos: QoS::from_bits(self.flags >> 1 & 0b11)?,
            retain: self.flags & 1 != 0,
            // Without unsafe code bytes become text only by being looked at once more.
            topic: text::utf8(topic).ok()?,
            packet_id: self.packet_id,
            alias: self.alias,
            properties: Properties::assume_checked(properties),
            len,
            payload_len: self.payload_len as usize,
        })
    }
}

/// The low half of a PUBLISH's first byte.
#[must_use]
pub const fn publish_flags(dup: bool, qos: QoS, retain: bool) -> u8 {
    (dup as u8) << 3 | (qos as u8) << 1 | retain as u8
}

/// Appends the head of a PUBLISH; a payload of `payload_len` bytes must follow as its own send.
/// In 3.x `properties` are left out.
///
/// # Errors
/// Topic or packet are too long, or the packet identifier is missing with QoS 1 and 2 or present with QoS 0.
/// Nothing was appended then.
pub fn encode_publish_head(
    version: Version,
    flags: u8,
    topic: &str,
    packet_id: Option<PacketId>,
    properties: &PropertyEdit<'_>,
    payload_len: usize,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    // The receiver would take two bytes of the payload for the id, or the id for payload.
    if (flags & 0b0110 != 0) != packet_id.is_some() {
        return Err(EncodeError::Impossible {
            what: "a PUBLISH has a packet identifier exactly if its QoS is not 0",
        });
    }
    let first = PacketType::Publish.first_byte() | flags & 0x0F;
    packet_head(out, first, payload_len, |body| {
        body.field("topic name", topic.as_bytes())?;
        if let Some(id) = packet_id {
            body.u16(id.get());
        }
        super::write_properties(body, version, properties)
    })
}

#[inline]
fn topic_name(bytes: &[u8], at: usize, version: Version) -> Result<&str, Malformed> {
    let Ok(topic) = text::utf8(bytes) else {
        let (kind, offset) = text::ill_formed(bytes);
        return Err(fault(kind, at + offset));
    };
    match check_name(topic) {
        Ok(()) => Ok(topic),
        // An alias may stand for it; whether one does is known after the properties.
        Err(_) if topic.is_empty() && version.is_v5() => Ok(topic),
        Err(error) => Err(fault(error.into(), at + error.at())),
    }
}

/// The properties that begin at `at`, and where they end. `None`: they are not whole yet.
#[inline]
fn properties(
    bytes: &[u8],
    at: usize,
    total: usize,
    from: Sender,
) -> Result<Option<(Checked<'_>, usize)>, Malformed> {
    let (len, width) = match varint::read(bytes.get(at..).unwrap_or_default()) {
        // Most publishes of 5.0 have no property; the walk over them is left out.
        Ok(Some((0, width))) => return Ok(Some((Checked::NONE, at + usize::from(width)))),
        Ok(Some(read)) => read,
        Ok(None) if bytes.len() < total => return Ok(None),
        Ok(None) => return Err(overrun(at)),
        Err(kind) => return Err(fault(kind, at)),
    };
    let start = at + usize::from(width);
    let end = start + len as usize;
    if end > total {
        return Err(overrun(at));
    }
    let Some(section) = bytes.get(..end) else { return Ok(None) };
    let reader = BodyReader::new(PacketType::Publish, section, start);
    Ok(Some((Checked::section(reader, Place::Packet(PacketType::Publish), from)?, end)))
}

#[cold]
fn fault(kind: ErrorKind, at: usize) -> Malformed {
    Malformed::new(kind, Some(PacketType::Publish), at)
}

#[cold]
fn overrun(at: usize) -> Malformed {
    fault(ErrorKind::Overrun, at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Frame;
    use crate::property::Value;

    fn parse(bytes: &[u8], from: Sender, version: Version) -> Result<Publish<'_>, (ErrorKind, u32)> {
        let (frame, _) = Frame::split(bytes, from, Some(version)).unwrap().unwrap();
        Publish::parse(&frame.header, frame.bytes, from, version).map_err(|error| (error.kind, error.offset))
    }

    #[test]
    fn all_fields_are_read() {
        let bytes = b"\x3b\x0d\0\x03a/b\x12\x34\x03\x23\0\x07hi";
        let publish = parse(bytes, Sender::Client, Version::V5).unwrap();
        assert_eq!((publish.topic, publish.payload), ("a/b", &b"hi"[..]));
        assert_eq!((publish.dup, publish.qos, publish.retain), (true, QoS::AtLeastOnce, true));
        assert_eq!((publish.packet_id, publish.alias), (PacketId::new(0x1234), Some(7)));
        let bytes = b"\x30\x05\0\x01ahi";
        let publish = parse(bytes, Sender::Client, Version::V311).unwrap();
        assert_eq!((publish.topic, publish.payload, publish.packet_id), ("a", &b"hi"[..], None));
    }

    #[test]
    fn a_head_is_found_again_in_its_bytes() {
        for (bytes, version) in [
            (&b"\x3b\x0d\0\x03a/b\x12\x34\x03\x23\0\x07hi"[..], Version::V5),
            (b"\x30\x05\0\x01ahi", Version::V311),
            (b"\x30\x06\0\0\x03\x23\0\x01", Version::V5),
        ] {
            let (frame, _) = Frame::split(bytes, Sender::Client, Some(version)).unwrap().unwrap();
            let head = PublishHead::parse(&frame.header, bytes, Sender::Client, version).unwrap().unwrap();
            let layout = PublishLayout::of(&frame.header, &head);
            assert_eq!(layout.find(&bytes[..head.len]), Some(head));
            assert_eq!(layout.find(&bytes[..head.len - 1]), None);
        }
    }

    #[test]
    fn an_alias_may_stand_for_the_topic_in_5_0_only() {
        let publish = parse(b"\x30\x06\0\0\x03\x23\0\x01", Sender::Client, Version::V5).unwrap();
        assert_eq!((publish.topic, publish.alias), ("", Some(1)));
        let empty = Err((ErrorKind::TopicNameEmpty, 4));
        assert_eq!(parse(b"\x30\x03\0\0\0", Sender::Client, Version::V5), empty);
        assert_eq!(parse(b"\x30\x03\0\0x", Sender::Client, Version::V311), empty);
        assert_eq!(parse(b"\x30\x03\0\0x", Sender::Server, Version::V31), empty);
    }

    #[test]
    fn faults_know_their_place() {
        let client = |bytes| parse(bytes, Sender::Client, Version::V5).unwrap_err();
        assert_eq!(client(b"\x30\x06\0\x03a/+\0"), (ErrorKind::TopicNameWildcard, 6));
        assert_eq!(client(b"\x30\x06\0\x03a\0b\0"), (ErrorKind::TextHoldsNull, 5));
        assert_eq!(client(b"\x30\x06\0\x03a\xffb\0"), (ErrorKind::TextNotUtf8, 5));
        assert_eq!(client(b"\x32\x06\0\x01a\0\0\0"), (ErrorKind::PacketIdZero, 5));
        assert_eq!(client(b"\x30\x06\0\x04a/b\0"), (ErrorKind::Overrun, 2));
        assert_eq!(client(b"\x30\x06\0\x01a\x03\0\0"), (ErrorKind::Overrun, 5));
        assert_eq!(client(b"\x30\x07\0\x01a\x03\x23\0\0"), (ErrorKind::TopicAliasZero, 7));
        assert_eq!(client(b"\x30\x06\0\x01a\x02\x0b\x01"), (ErrorKind::SubscriptionIdFromClient, 6));
    }

    #[test]
    fn the_head_is_known_before_the_payload_and_a_bad_length_before_the_head() {
        let bytes = b"\x32\xe8\x07\0\x03a/b\0\x01\x03\x23\0\x07";
        let header = FixedHeader::parse(bytes, Sender::Client, Some(Version::V5)).unwrap().unwrap();
        for cut in 0..bytes.len() {
            let head = PublishHead::parse(&header, &bytes[..cut], Sender::Client, Version::V5);
            assert_eq!(head, Ok(None), "{cut}");
            let needs = PublishHead::needs(&header, &bytes[..cut], Version::V5);
            assert!(cut < needs && needs <= bytes.len(), "{cut}: {needs}");
        }
        let head = PublishHead::parse(&header, bytes, Sender::Client, Version::V5).unwrap().unwrap();
        assert_eq!((head.len, head.payload_len), (14, 1003 - 14));

        let bytes = b"\x32\x40\0\x40";
        let header = FixedHeader::parse(bytes, Sender::Client, Some(Version::V5)).unwrap().unwrap();
        let error = PublishHead::parse(&header, bytes, Sender::Client, Version::V5).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Overrun);
    }

    #[test]
    fn a_rewritten_head_goes_in_front_of_the_old_payload() {
        let bytes = b"\x3a\x0d\0\x03a/b\x12\x34\x03\x23\0\x07hi";
        let header = FixedHeader::parse(bytes, Sender::Client, Some(Version::V5)).unwrap().unwrap();
        let head = PublishHead::parse(&header, bytes, Sender::Client, Version::V5).unwrap().unwrap();
        let mut out = BytesMut::new();
        head.encode(Version::V5, &mut out).unwrap();
        assert_eq!(out, bytes[..head.len]);

        out.clear();
        let user = [(PropertyId::UserProperty, Value::Pair("k", "v"))];
        let edit = PropertyEdit::keep(head.properties).without(PropertyId::TopicAlias).with(&user);
        PublishHead { topic: "t/a/b", ..head }.encode_with(Version::V5, &edit, &mut out).unwrap();
        out.extend_from_slice(&bytes[head.len..]);
        let publish = parse(&out, Sender::Client, Version::V5).unwrap();
        assert_eq!((publish.topic, publish.alias, publish.payload), ("t/a/b", None, &b"hi"[..]));
        assert_eq!(publish.properties.user().collect::<Vec<_>>(), [("k", "v")]);
    }

    #[test]
    fn a_packet_identifier_goes_with_qos_1_and_2_only() {
        let mut out = BytesMut::new();
        for (flags, id) in [(0, PacketId::new(1)), (2, None), (4, None)] {
            let done = encode_publish_head(Version::V311, flags, "a", id, &PropertyEdit::NONE, 0, &mut out);
            assert!(matches!(done, Err(EncodeError::Impossible { .. })));
            assert!(out.is_empty());
        }
    }
}
