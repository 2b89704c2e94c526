//! UNSUBSCRIBE: checked whole when it is parsed, its filters read one by one afterwards.

use super::list::{self, read_filter};
use crate::encode::{EncodeError, packet};
use crate::error::Malformed;
use crate::frame::FixedHeader;
use crate::property::{Properties, PropertyEdit};
use crate::text;
use crate::topic::TopicFilter;
use crate::types::{PacketId, PacketType, Sender, Version};
use bytes::BytesMut;

/// An UNSUBSCRIBE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsubscribe<'a> {
    /// Its packet identifier.
    pub packet_id: PacketId,
    /// The properties.
    pub properties: Properties<'a>,
    filters: &'a [u8],
    count: usize,
}

impl<'a> Unsubscribe<'a> {
    /// Reads a whole packet; `bytes` begin with its first byte.
    ///
    /// # Errors
    /// Packet identifier 0, a wrong property, no filter, a filter that is none, or lengths that do not agree.
    pub fn parse(
        header: &FixedHeader,
        bytes: &'a [u8],
        from: Sender,
        version: Version,
    ) -> Result<Self, Malformed> {
        let (packet_id, properties, mut reader) = super::id_and_properties(header, bytes, from, version)?;
        let (filters, count) = list::read(&mut reader, |reader| read_filter(reader, version).map(|_| ()))?;
        Ok(Self { packet_id, properties, filters, count })
    }

    /// What is no longer wanted, in order.
    #[must_use]
    pub const fn filters(&self) -> Filters<'a> {
        Filters { rest: self.filters, left: self.count }
    }

    /// Appends the packet.
    ///
    /// # Errors
    /// The packet is too long.
    pub fn encode(&self, version: Version, out: &mut BytesMut) -> Result<(), EncodeError> {
        encode_unsubscribe(version, self.packet_id, &PropertyEdit::keep(self.properties), self.filters(), out)
    }
}

/// The filters of an UNSUBSCRIBE, in order.
#[derive(Clone, Debug)]
pub struct Filters<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Iterator for Filters<'a> {
    type Item = TopicFilter<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let (len, after) = self.rest.split_first_chunk()?;
        let (filter, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
        self.rest = after;
        self.left -= 1;
        debug_assert_eq!(self.rest.is_empty(), self.left == 0, "as many as were counted");
        Some(TopicFilter::assume_checked(text::assume_checked(filter)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Filters<'_> {}

/// Appends an UNSUBSCRIBE. In 3.x properties are left out.
///
/// # Errors
/// There is no filter, or a property or the packet is too long.
pub fn encode_unsubscribe<'a, I>(
    version: Version,
    packet_id: PacketId,
    properties: &PropertyEdit<'_>,
    filters: I,
    out: &mut BytesMut,
) -> Result<(), EncodeError>
where
    I: IntoIterator<Item = TopicFilter<'a>>,
    I::IntoIter: Clone,
{
    let body = list::body(version, packet_id, properties, filters, |filter: TopicFilter<'_>, body| {
        body.field("topic filter", filter.as_str().as_bytes())
    })?;
    packet(out, PacketType::Unsubscribe.first_byte(), body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::frame::Frame;

    fn parse(bytes: &[u8], version: Version) -> Result<Unsubscribe<'_>, ErrorKind> {
        let (frame, _) = Frame::split(bytes, Sender::Client, Some(version)).unwrap().unwrap();
        Unsubscribe::parse(&frame.header, frame.bytes, Sender::Client, version).map_err(|error| error.kind)
    }

    #[test]
    fn filters_come_in_order_and_are_written_back() {
        let bytes = b"\xa2\x0f\0\x09\x02\x26\0\0\x03a/#\0\x03b/+";
        assert_eq!(parse(bytes, Version::V5).map(|_| ()), Err(ErrorKind::Overrun), "the pair is cut");
        let bytes = b"\xa2\x0d\0\x09\0\0\x03a/#\0\x03b/+";
        let unsubscribe = parse(bytes, Version::V5).unwrap();
        let filters: Vec<_> = unsubscribe.filters().map(|filter| filter.as_str()).collect();
        assert_eq!(filters, ["a/#", "b/+"]);
        assert_eq!(unsubscribe.filters().len(), 2);
        let mut out = BytesMut::new();
        unsubscribe.encode(Version::V5, &mut out).unwrap();
        assert_eq!(out, bytes[..]);
    }

    #[test]
    fn faults_are_told_apart() {
        for (bytes, fault) in [
            (&b"\xa2\x02\0\x01"[..], ErrorKind::NoTopicFilter),
            (b"\xa2\x05\0\0\0\x01a", ErrorKind::PacketIdZero),
            (b"\xa2\x04\0\x01\0\0", ErrorKind::TopicFilterEmpty),
            (b"\xa2\x05\0\x01\0\x02a", ErrorKind::Overrun),
            (b"\xa2\x06\0\x01\0\x02+a", ErrorKind::TopicFilterPlus),
        ] {
            assert_eq!(parse(bytes, Version::V311).map(|_| ()), Err(fault), "{bytes:02x?}");
        }
    }
}
