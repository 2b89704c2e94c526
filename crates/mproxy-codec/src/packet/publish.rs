//! PUBLISH: the packet that mproxy lives from. Its head can be read before its payload has arrived, and written
//! anew in front of a payload that stays where it is.

use crate::encode::{EncodeError, packet_head};
use crate::error::{ErrorKind, Malformed};
use crate::frame::Header;
use crate::property::{Checked, Place, Properties, PropertyEdit, PropertyId};
use crate::read::Reader;
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
        header: &Header,
        bytes: &'a [u8],
        from: Sender,
        version: Version,
    ) -> Result<Self, Malformed> {
        let whole = super::whole(header, bytes)?;
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
        header: &Header,
        bytes: &'a [u8],
        from: Sender,
        version: Version,
    ) -> Result<Option<Self>, Malformed> {
        let total = header.total();
        let bytes = bytes.get(..total).unwrap_or(bytes);
        let qos = header.qos();

        let topic_at = usize::from(header.len) + 2;
        let Some(topic_len) = bytes.get(topic_at - 2..).and_then(|bytes| bytes.first_chunk()) else {
            return if topic_at > total { Err(overrun(topic_at - 2)) } else { Ok(None) };
        };
        let id_at = topic_at + usize::from(u16::from_be_bytes(*topic_len));
        let id_end = id_at + if qos == QoS::AtMostOnce { 0 } else { 2 };
        if id_end + usize::from(version.is_v5()) > total {
            return Err(overrun(topic_at - 2));
        }
        let Some(topic) = bytes.get(topic_at..id_at) else { return Ok(None) };
        let topic = topic_name(topic, topic_at, version)?;

        let packet_id = match bytes.get(id_at..id_end) {
            Some([]) => None,
            Some([high, low]) => match PacketId::new(u16::from_be_bytes([*high, *low])) {
                None => return Err(fault(ErrorKind::PacketIdZero, id_at)),
                id => id,
            },
            _ => return Ok(None),
        };

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
                head.alias = checked.properties.u16(PropertyId::TopicAlias);
            }
            if topic.is_empty() && head.alias.is_none() {
                return Err(fault(ErrorKind::TopicNameEmpty, topic_at));
            }
        }
        Ok(Some(head))
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
        if version.is_v5() {
            properties.write(body)?;
        }
        Ok(())
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
    let reader = Reader::new(PacketType::Publish, section, start);
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
