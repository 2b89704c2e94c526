//! SUBSCRIBE: checked whole when it is parsed, its filters read one by one afterwards.

use super::list::{self, read_filter};
use crate::encode::{Body, EncodeError, packet, packet_len};
use crate::error::{ErrorKind, Malformed};
use crate::frame::FixedHeader;
use crate::property::{Properties, PropertyEdit};
use crate::read::BodyReader;
use crate::text;
use crate::topic::TopicFilter;
use crate::types::{PacketId, PacketType, QoS, Sender, Version};
use bytes::BytesMut;

/// A SUBSCRIBE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscribe<'a> {
    /// Its packet identifier.
    pub packet_id: PacketId,
    /// The properties.
    pub properties: Properties<'a>,
    requests: &'a [u8],
    count: usize,
}

/// One line of a SUBSCRIBE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilterRequest<'a> {
    /// The topic filter.
    pub filter: TopicFilter<'a>,
    /// The highest QoS wanted.
    pub qos: QoS,
    /// Not to send what the client itself published. 5.0; false in 3.x.
    pub no_local: bool,
    /// To leave the retain flag as it was published. 5.0; false in 3.x.
    pub retain_as_published: bool,
    /// What becomes of retained messages. 5.0; [`RetainHandling::Send`] in 3.x.
    pub retain_handling: RetainHandling,
}

/// When retained messages are sent upon a subscription.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum RetainHandling {
    /// At every subscribe.
    #[default]
    Send = 0,
    /// Only if the subscription is new.
    SendIfNew = 1,
    /// Never.
    DoNotSend = 2,
}

impl RetainHandling {
    /// The value with this number; 3 and more is none.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::Send),
            1 => Some(Self::SendIfNew),
            2 => Some(Self::DoNotSend),
            _ => None,
        }
    }
}

impl<'a> Subscribe<'a> {
    /// Reads a whole packet; `bytes` begin with its first byte.
    ///
    /// # Errors
    /// Packet identifier 0, a wrong property, no filter, a filter that is none, reserved or contradicting
    /// options, or lengths that do not agree.
    pub fn parse(
        header: &FixedHeader,
        bytes: &'a [u8],
        from: Sender,
        version: Version,
    ) -> Result<Self, Malformed> {
        let (packet_id, properties, mut reader) = super::id_and_properties(header, bytes, from, version)?;
        let (requests, count) = list::read(&mut reader, |reader| check_request(reader, version))?;
        Ok(Self { packet_id, properties, requests, count })
    }

    /// What is asked for, in order.
    #[must_use]
    pub const fn filters(&self) -> FilterRequests<'a> {
        FilterRequests { rest: self.requests, left: self.count }
    }

    /// Appends the packet.
    ///
    /// # Errors
    /// The packet is too long.
    pub fn encode(&self, version: Version, out: &mut BytesMut) -> Result<(), EncodeError> {
        encode_subscribe(version, self.packet_id, &PropertyEdit::keep(self.properties), self.filters(), out)
    }
}

/// Where the fields of a SUBSCRIBE stand that has been read: so that they are found again in the same bytes, and not read
/// anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscribeLayout {
    packet_id: PacketId,
    properties_len: u32,
    requests_len: u32,
    count: u32,
}

impl SubscribeLayout {
    /// The layout of `subscribe`.
    #[must_use]
    pub fn of(subscribe: &Subscribe<'_>) -> Self {
        // Packets are far smaller than 4 GiB. What were larger would not be found.
        Self {
            packet_id: subscribe.packet_id,
            properties_len: u32::try_from(subscribe.properties.raw().len()).unwrap_or(u32::MAX),
            requests_len: u32::try_from(subscribe.requests.len()).unwrap_or(u32::MAX),
            count: u32::try_from(subscribe.count).unwrap_or(u32::MAX),
        }
    }

    /// The packet in its bytes. `None`: they are others than those that were read.
    #[must_use]
    pub fn find<'a>(&self, bytes: &'a [u8]) -> Option<Subscribe<'a>> {
        // From the end, as both lengths are known: the fixed header may have any width.
        let (rest, requests) =
            bytes.split_at_checked(bytes.len().checked_sub(self.requests_len as usize)?)?;
        let (_, properties) = rest.split_at_checked(rest.len().checked_sub(self.properties_len as usize)?)?;
        Some(Subscribe {
            packet_id: self.packet_id,
            properties: Properties::assume_checked(properties),
            requests,
            count: self.count as usize,
        })
    }
}

/// The lines of a SUBSCRIBE, in order.
#[derive(Clone, Debug)]
pub struct FilterRequests<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Iterator for FilterRequests<'a> {
    type Item = FilterRequest<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let (len, after) = self.rest.split_first_chunk()?;
        let (filter, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
        let (options, after) = after.split_first()?;
        self.rest = after;
        self.left -= 1;
        debug_assert_eq!(self.rest.is_empty(), self.left == 0, "as many as were counted");
        Some(FilterRequest {
            filter: TopicFilter::assume_checked(text::assume_checked(filter)),
            qos: QoS::from_bits(options & 0b11)?,
            no_local: options & NO_LOCAL != 0,
            retain_as_published: options & RETAIN_AS_PUBLISHED != 0,
            retain_handling: RetainHandling::from_bits(options >> 4 & 0b11)?,
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for FilterRequests<'_> {}

const NO_LOCAL: u8 = 0x04;
const RETAIN_AS_PUBLISHED: u8 = 0x08;

impl<'a> FilterRequest<'a> {
    /// A plain request, as 3.x knows it.
    #[must_use]
    pub const fn new(filter: TopicFilter<'a>, qos: QoS) -> Self {
        Self {
            filter,
            qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
        }
    }

    /// The options byte of the version.
    fn options(&self, version: Version) -> u8 {
        match version {
            Version::V31 | Version::V311 => self.qos as u8,
            Version::V5 => {
                self.qos as u8
                    | u8::from(self.no_local) << 2
                    | u8::from(self.retain_as_published) << 3
                    | (self.retain_handling as u8) << 4
            }
        }
    }
}

/// Appends a SUBSCRIBE. In 3.x properties and all options but the QoS are left out.
///
/// # Errors
/// There is no filter, or a property or the packet is too long.
pub fn encode_subscribe<'a, I>(
    version: Version,
    packet_id: PacketId,
    properties: &PropertyEdit<'_>,
    filters: I,
    out: &mut BytesMut,
) -> Result<(), EncodeError>
where
    I: IntoIterator<Item = FilterRequest<'a>>,
    I::IntoIter: Clone,
{
    packet(out, PacketType::Subscribe.first_byte(), body(version, packet_id, properties, filters)?)
}

/// How many bytes [`encode_subscribe`] would append.
///
/// # Errors
/// As there.
pub fn subscribe_len<'a, I>(
    version: Version,
    packet_id: PacketId,
    properties: &PropertyEdit<'_>,
    filters: I,
) -> Result<usize, EncodeError>
where
    I: IntoIterator<Item = FilterRequest<'a>>,
    I::IntoIter: Clone,
{
    packet_len(body(version, packet_id, properties, filters)?)
}

fn body<'a, I>(
    version: Version,
    packet_id: PacketId,
    properties: &PropertyEdit<'_>,
    filters: I,
) -> Result<impl Fn(&mut Body<'_>) -> Result<(), EncodeError>, EncodeError>
where
    I: IntoIterator<Item = FilterRequest<'a>>,
    I::IntoIter: Clone,
{
    list::body(version, packet_id, properties, filters, move |request: FilterRequest<'_>, body| {
        body.field("topic filter", request.filter.as_str().as_bytes())?;
        body.u8(request.options(version));
        Ok(())
    })
}

fn check_request(reader: &mut BodyReader<'_>, version: Version) -> Result<(), Malformed> {
    let filter = read_filter(reader, version)?;
    let at = reader.at();
    let options = reader.u8()?;
    // Before 5.0 the byte holds the QoS alone: [MQTT-3.8.3-4] of 3.1.1, [MQTT-3.8.3-5] of 5.0.
    let reserved = if version.is_v5() { 0b1100_0000 } else { 0b1111_1100 };
    let fault = if options & reserved != 0 {
        ErrorKind::SubscribeReserved
    } else if QoS::from_bits(options & 0b11).is_none() {
        ErrorKind::SubscribeQosThree
    } else if RetainHandling::from_bits(options >> 4 & 0b11).is_none() {
        ErrorKind::RetainHandlingThree
    } else if options & NO_LOCAL != 0 && filter.share().is_some() {
        // [MQTT-3.8.3-4]: a shared message goes to one of many, and nobody could say whose own it is.
        ErrorKind::NoLocalOnShare
    } else {
        return Ok(());
    };
    Err(reader.fault_at(fault, at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Frame;

    fn parse(bytes: &[u8], version: Version) -> Result<Subscribe<'_>, ErrorKind> {
        let (frame, _) = Frame::split(bytes, Sender::Client, Some(version)).unwrap().unwrap();
        Subscribe::parse(&frame.header, frame.bytes, Sender::Client, version).map_err(|error| error.kind)
    }

    #[test]
    fn filters_come_in_order_with_their_options() {
        let bytes = b"\x82\x11\0\x09\x02\x0b\x05\0\x03a/#\x2d\0\x03b/+\x02";
        let subscribe = parse(bytes, Version::V5).unwrap();
        let filters: Vec<_> = subscribe.filters().collect();
        assert_eq!((subscribe.packet_id.get(), subscribe.filters().len()), (9, 2));
        assert_eq!(
            filters[0],
            FilterRequest {
                filter: TopicFilter::new("a/#").unwrap(),
                qos: QoS::AtLeastOnce,
                no_local: true,
                retain_as_published: true,
                retain_handling: RetainHandling::DoNotSend,
            }
        );
        assert_eq!(filters[1], FilterRequest::new(TopicFilter::new("b/+").unwrap(), QoS::ExactlyOnce));
        let mut out = BytesMut::new();
        subscribe.encode(Version::V5, &mut out).unwrap();
        assert_eq!(out, bytes[..]);
    }

    #[test]
    fn before_5_0_an_incomplete_share_does_not_end_the_connection() {
        let (three, five) = (b"\x82\x0d\0\x01\0\x08$share/x\x00", b"\x82\x0e\0\x01\0\0\x08$share/x\x00");
        for version in [Version::V31, Version::V311] {
            let subscribe = parse(three, version).unwrap();
            assert_eq!(subscribe.filters().next().unwrap().filter.as_str(), "$share/x");
        }
        assert_eq!(parse(five, Version::V5).unwrap_err(), ErrorKind::ShareFilter);
    }

    #[test]
    fn a_chosen_part_of_the_filters_can_be_written() {
        let subscribe = parse(b"\x82\x0e\0\x09\0\x03a/#\x01\0\x03b/+\x02", Version::V311).unwrap();
        let mut out = BytesMut::new();
        let some = subscribe.filters().skip(1);
        encode_subscribe(Version::V311, subscribe.packet_id, &PropertyEdit::NONE, some, &mut out).unwrap();
        assert_eq!(&out[..], b"\x82\x08\0\x09\0\x03b/+\x02");
        let none = subscribe.filters().skip(2);
        let done = encode_subscribe(Version::V311, subscribe.packet_id, &PropertyEdit::NONE, none, &mut out);
        assert!(matches!(done, Err(EncodeError::Impossible { .. })));
    }

    #[test]
    fn faults_are_told_apart() {
        for (bytes, version, fault) in [
            (&b"\x82\x02\0\x01"[..], Version::V311, ErrorKind::NoTopicFilter),
            (b"\x82\x03\0\x01\0", Version::V5, ErrorKind::NoTopicFilter),
            (b"\x82\x06\0\0\0\x01a\0", Version::V311, ErrorKind::PacketIdZero),
            (b"\x82\x05\0\x01\0\x01a", Version::V311, ErrorKind::Overrun),
            (b"\x82\x05\0\x01\0\0\0", Version::V311, ErrorKind::TopicFilterEmpty),
            (b"\x82\x07\0\x01\0\x02a#\0", Version::V311, ErrorKind::TopicFilterHash),
            (b"\x82\x06\0\x01\0\x01a\x03", Version::V311, ErrorKind::SubscribeQosThree),
            (b"\x82\x06\0\x01\0\x01a\x04", Version::V311, ErrorKind::SubscribeReserved),
            (b"\x82\x07\0\x01\0\0\x01a\x40", Version::V5, ErrorKind::SubscribeReserved),
            (b"\x82\x07\0\x01\0\0\x01a\x30", Version::V5, ErrorKind::RetainHandlingThree),
            (b"\x82\x10\0\x01\0\0\x0a$share/g/a\x04", Version::V5, ErrorKind::NoLocalOnShare),
            (b"\x82\x10\0\x01\0\0\x0a$share//aa\x00", Version::V5, ErrorKind::ShareName),
            (b"\x82\x17\0\x01\0\x12$share/g/$share/h/\x00", Version::V311, ErrorKind::ShareFilter),
        ] {
            assert_eq!(parse(bytes, version).map(|_| ()), Err(fault), "{bytes:02x?}");
        }
    }
}
