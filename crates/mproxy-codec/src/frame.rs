//! The frame: one control packet, undecoded, with its original bytes. Everything that its first two to five
//! bytes give away is judged before any of the rest is waited for.

use crate::error::{ErrorKind, Malformed};
use crate::types::{PacketType, QoS, Sender, Version};
use crate::varint;

/// A fixed header: type, flags and remaining length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FixedHeader {
    /// The type of the packet.
    pub kind: PacketType,
    /// The low half of the first byte.
    pub flags: u8,
    /// How many bytes follow the fixed header.
    pub remaining: u32,
    /// How many bytes the fixed header takes: 2 to 5.
    pub len: u8,
}

impl FixedHeader {
    /// Reads the fixed header at the start of `bytes`. `None`: more bytes are needed.
    ///
    /// `version` is `None` until CONNECT has told it; until then nothing but CONNECT may come from a client
    /// (`[MQTT-3.1.0-1]`) and nothing but CONNACK from a server.
    ///
    /// # Errors
    /// The type is reserved or does not belong to this sender or version, its flags are not as the standard
    /// fixes them, or its length is badly written or out of the type's bounds.
    #[inline]
    pub fn parse(bytes: &[u8], from: Sender, version: Option<Version>) -> Result<Option<Self>, Malformed> {
        let Some((first, after)) = bytes.split_first() else { return Ok(None) };
        let flags = first & 0x0F;
        // Type, direction, version and flags in one look-up: a table made while compiling says all that a first byte may be.
        let shape = shapes(from, version).get(usize::from(first >> 4));
        let (kind, shape) = match (PacketType::from_nibble(first >> 4), shape) {
            (Some(kind), Some(shape)) if shape.flags >> flags & 1 == 1 => (kind, shape),
            (kind, _) => return Err(explain(kind, flags, from, version)),
        };
        let (remaining, width) = match varint::read(after) {
            Ok(Some(read)) => read,
            Ok(None) => return Ok(None),
            Err(fault) => return Err(Malformed::new(fault, Some(kind), 1)),
        };
        // Before any of the body is waited for: a length that no such packet has is an error now, and would not heal.
        if remaining < u32::from(shape.min) {
            return Err(Malformed::new(ErrorKind::TooShort, Some(kind), 1));
        }
        // Else a client could announce an acknowledgement of 256 MiB, and have it waited for.
        if remaining > shape.max {
            return Err(Malformed::new(ErrorKind::TooLong, Some(kind), 1));
        }
        Ok(Some(Self { kind, flags, remaining, len: 1 + width }))
    }

    /// The length of the whole packet.
    #[inline]
    #[must_use]
    pub const fn total(&self) -> usize {
        self.len as usize + self.remaining as usize
    }

    /// The DUP flag of a PUBLISH.
    #[inline]
    #[must_use]
    pub const fn dup(&self) -> bool {
        self.flags & 0b1000 != 0
    }

    /// The QoS of a PUBLISH; [`parse`](Self::parse) let no 3 through.
    #[inline]
    #[must_use]
    pub const fn qos(&self) -> QoS {
        match self.flags >> 1 & 0b11 {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            _ => QoS::ExactlyOnce,
        }
    }

    /// The RETAIN flag of a PUBLISH.
    #[inline]
    #[must_use]
    pub const fn retain(&self) -> bool {
        self.flags & 0b0001 != 0
    }
}

/// A whole packet and its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The fixed header.
    pub header: FixedHeader,
    /// The packet, from its first byte to its last.
    pub bytes: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Takes the packet at the start of `bytes` and returns it with what follows. `None`: it is not whole yet.
    ///
    /// # Errors
    /// See [`FixedHeader::parse`].
    #[inline]
    pub fn split(
        bytes: &'a [u8],
        from: Sender,
        version: Option<Version>,
    ) -> Result<Option<(Self, &'a [u8])>, Malformed> {
        let Some(header) = FixedHeader::parse(bytes, from, version)? else { return Ok(None) };
        // A header without its body is no frame yet: nothing of it may be acted upon.
        Ok(bytes.split_at_checked(header.total()).map(|(bytes, rest)| (Self { header, bytes }, rest)))
    }

    /// What follows the fixed header.
    #[inline]
    #[must_use]
    pub fn body(&self) -> &'a [u8] {
        self.bytes.get(usize::from(self.header.len)..).unwrap_or_default()
    }
}

/// What a fixed header may say for one type: a bit for each allowed value of the flags (none: the type may not
/// come at all), and the bounds of the remaining length.
#[derive(Clone, Copy)]
struct Shape {
    flags: u16,
    min: u8,
    max: u32,
}

type Shapes = [Shape; 16];

#[inline]
fn shapes(from: Sender, version: Option<Version>) -> &'static Shapes {
    const CLIENT: [Shapes; 4] = all_shapes(Sender::Client);
    const SERVER: [Shapes; 4] = all_shapes(Sender::Server);
    let [before, v31, v311, v5] = match from {
        Sender::Client => &CLIENT,
        Sender::Server => &SERVER,
    };
    match version {
        None => before,
        Some(Version::V31) => v31,
        Some(Version::V311) => v311,
        Some(Version::V5) => v5,
    }
}

const fn all_shapes(from: Sender) -> [Shapes; 4] {
    [
        shapes_of(from, None),
        shapes_of(from, Some(Version::V31)),
        shapes_of(from, Some(Version::V311)),
        shapes_of(from, Some(Version::V5)),
    ]
}

#[expect(clippy::indexing_slicing, reason = "runs while compiling, where an index out of bounds is an error")]
const fn shapes_of(from: Sender, version: Option<Version>) -> Shapes {
    let mut shapes = [Shape { flags: 0, min: 0, max: 0 }; 16];
    let mut at = 0;
    while at < PacketType::ALL.len() {
        let kind = PacketType::ALL[at];
        let (min, max) = bounds(kind, version);
        shapes[kind as usize] = Shape { flags: flags(kind, from, version), min, max };
        at += 1;
    }
    shapes
}

/// Whether this side sends this type in this version.
const fn belongs(kind: PacketType, from: Sender, version: Option<Version>) -> bool {
    let v5 = matches!(version, Some(Version::V5));
    match (version, from) {
        (None, Sender::Client) => return matches!(kind, PacketType::Connect),
        (None, Sender::Server) => return matches!(kind, PacketType::Connack),
        (Some(_), _) => {}
    }
    let client = matches!(from, Sender::Client);
    match kind {
        PacketType::Connect | PacketType::Subscribe | PacketType::Unsubscribe | PacketType::Pingreq => client,
        PacketType::Connack | PacketType::Suback | PacketType::Unsuback | PacketType::Pingresp => !client,
        PacketType::Publish
        | PacketType::Puback
        | PacketType::Pubrec
        | PacketType::Pubrel
        | PacketType::Pubcomp => true,
        // Before 5.0 a server has no last word: it can only close.
        PacketType::Disconnect => client || v5,
        // In either direction: authentication is a dialogue, and either side may be next (4.12).
        PacketType::Auth => v5,
    }
}

/// The allowed values of the flags, a bit each.
const fn flags(kind: PacketType, from: Sender, version: Option<Version>) -> u16 {
    /// All but QoS 3.
    const PUBLISH: u16 = 0b0011_1111_0011_1111;
    const DUP_WITHOUT_QOS: u16 = 0b0000_0011_0000_0000;
    const ANY: u16 = u16::MAX;
    if !belongs(kind, from, version) {
        return 0;
    }
    let v31 = matches!(version, Some(Version::V31));
    match (kind, from) {
        // [MQTT-3.3.1-2]; brokers that forward the bit are let be, as 3.1 lets clients.
        (PacketType::Publish, Sender::Client) if !v31 => PUBLISH & !DUP_WITHOUT_QOS,
        (PacketType::Publish, _) => PUBLISH,
        // 3.1 repeats these with DUP; QoS 1 is fixed, RETAIN "not used".
        (PacketType::Pubrel | PacketType::Subscribe | PacketType::Unsubscribe, _) if v31 => {
            1 << 0x2 | 1 << 0x3 | 1 << 0xA | 1 << 0xB
        }
        (PacketType::Pubrel | PacketType::Subscribe | PacketType::Unsubscribe, _) => 1 << 0x2,
        // CONNECT itself tells which version this is.
        (PacketType::Connect, _) if version.is_none() => ANY,
        // "Not used" in 3.1, so both sides may set them.
        _ if v31 => ANY,
        _ => 1,
    }
}

/// The least and most bytes that can follow the fixed header. Where a packet of the least length would still be
/// wrong (an empty list, say), its own parser says so in better words.
const fn bounds(kind: PacketType, version: Option<Version>) -> (u8, u32) {
    let v5 = matches!(version, Some(Version::V5));
    const MAX: u32 = varint::MAX;
    match kind {
        // A name and a level: what an answer to an unknown version needs.
        PacketType::Connect => (7, MAX),
        // 3 in 5.0; but a server that does not know it refuses in the format of 3.x.
        PacketType::Connack if v5 || version.is_none() => (2, MAX),
        PacketType::Connack => (2, 2),
        PacketType::Publish => (if v5 { 3 } else { 2 }, MAX),
        PacketType::Puback | PacketType::Pubrec | PacketType::Pubrel | PacketType::Pubcomp => {
            (2, if v5 { MAX } else { 2 })
        }
        PacketType::Subscribe | PacketType::Unsubscribe => (if v5 { 3 } else { 2 }, MAX),
        PacketType::Suback => (if v5 { 4 } else { 3 }, MAX),
        PacketType::Unsuback if v5 => (4, MAX),
        PacketType::Unsuback => (2, 2),
        PacketType::Pingreq | PacketType::Pingresp => (0, 0),
        PacketType::Disconnect | PacketType::Auth => (0, if v5 { MAX } else { 0 }),
    }
}

/// Why the first byte was not let in.
#[cold]
fn explain(kind: Option<PacketType>, flags: u8, from: Sender, version: Option<Version>) -> Malformed {
    let fault = match kind {
        None => ErrorKind::TypeZero,
        Some(_) if version.is_none() => match from {
            Sender::Client => ErrorKind::NotConnect,
            Sender::Server => ErrorKind::NotConnack,
        },
        Some(kind) if !belongs(kind, from, version) => {
            if belongs(kind, from, Some(Version::V5)) {
                ErrorKind::WrongVersion
            } else {
                ErrorKind::WrongDirection
            }
        }
        Some(PacketType::Publish) if flags & 0b0110 == 0b0110 => ErrorKind::QosThree,
        Some(PacketType::Publish) => ErrorKind::DupWithoutQos,
        Some(_) => ErrorKind::ReservedFlags,
    };
    Malformed::new(fault, kind, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_client(bytes: &[u8], version: Version) -> Result<Option<FixedHeader>, ErrorKind> {
        FixedHeader::parse(bytes, Sender::Client, Some(version)).map_err(|error| error.kind)
    }

    fn from_server(bytes: &[u8], version: Version) -> Result<Option<FixedHeader>, ErrorKind> {
        FixedHeader::parse(bytes, Sender::Server, Some(version)).map_err(|error| error.kind)
    }

    #[test]
    fn a_header_needs_its_type_and_its_whole_length() {
        assert_eq!(from_client(&[], Version::V311), Ok(None));
        assert_eq!(from_client(&[0x30], Version::V311), Ok(None));
        assert_eq!(from_client(&[0x30, 0x80], Version::V311), Ok(None));
        let header = from_client(&[0x3B, 0x80, 0x01], Version::V311).unwrap().unwrap();
        assert_eq!((header.kind, header.remaining, header.len), (PacketType::Publish, 128, 3));
        assert_eq!((header.dup(), header.qos(), header.retain()), (true, QoS::AtLeastOnce, true));
        assert_eq!(header.total(), 131);
    }

    #[test]
    fn nothing_but_connect_opens_a_connection() {
        for kind in PacketType::ALL {
            let bytes = [kind.first_byte(), 20];
            let client = FixedHeader::parse(&bytes, Sender::Client, None).map_err(|error| error.kind);
            let server = FixedHeader::parse(&bytes, Sender::Server, None).map_err(|error| error.kind);
            match kind {
                PacketType::Connect => assert!(client.is_ok()),
                _ => assert_eq!(client, Err(ErrorKind::NotConnect)),
            }
            match kind {
                PacketType::Connack => assert!(server.is_ok()),
                _ => assert_eq!(server, Err(ErrorKind::NotConnack)),
            }
        }
    }

    #[test]
    fn a_fault_is_told_by_the_first_byte_alone() {
        assert_eq!(from_client(&[0x00], Version::V5), Err(ErrorKind::TypeZero));
        assert_eq!(from_client(&[0x36], Version::V5), Err(ErrorKind::QosThree));
        assert_eq!(from_client(&[0x20], Version::V5), Err(ErrorKind::WrongDirection));
        assert_eq!(from_client(&[0xF0], Version::V311), Err(ErrorKind::WrongVersion));
        assert_eq!(from_server(&[0xE0], Version::V311), Err(ErrorKind::WrongVersion));
        assert_eq!(from_server(&[0x82], Version::V5), Err(ErrorKind::WrongDirection));
        assert_eq!(from_client(&[0x60], Version::V311), Err(ErrorKind::ReservedFlags));
        assert_eq!(from_client(&[0x80], Version::V31), Err(ErrorKind::ReservedFlags));
        assert_eq!(from_client(&[0xC1], Version::V311), Err(ErrorKind::ReservedFlags));
    }

    #[test]
    fn dup_with_qos_0_is_a_fault_of_clients_since_3_1_1() {
        assert_eq!(from_client(&[0x38, 9], Version::V311), Err(ErrorKind::DupWithoutQos));
        assert_eq!(from_client(&[0x39, 9], Version::V5), Err(ErrorKind::DupWithoutQos));
        assert!(from_client(&[0x38, 9], Version::V31).is_ok());
        assert!(from_server(&[0x38, 9], Version::V311).is_ok());
    }

    #[test]
    fn flags_that_3_1_does_not_use_may_be_set_in_3_1_only() {
        for first in [0x1F, 0x41, 0x58, 0x7F, 0xC1, 0xEF] {
            assert!(from_client(&[first], Version::V31).is_ok(), "{first:#x}");
            assert_eq!(from_client(&[first], Version::V311), Err(ErrorKind::ReservedFlags), "{first:#x}");
            assert_eq!(from_client(&[first], Version::V5), Err(ErrorKind::ReservedFlags), "{first:#x}");
        }
        for first in [0x63, 0x83, 0xAB] {
            assert!(from_client(&[first], Version::V31).is_ok(), "{first:#x}");
            assert_eq!(from_client(&[first], Version::V311), Err(ErrorKind::ReservedFlags), "{first:#x}");
        }
    }

    #[test]
    fn requests_may_be_marked_as_repeated_in_3_1_only() {
        for first in [0x6A, 0x8A, 0xAA] {
            assert!(from_client(&[first, 2], Version::V31).unwrap().is_some());
            assert_eq!(from_client(&[first, 2], Version::V311), Err(ErrorKind::ReservedFlags));
            assert_eq!(from_client(&[first, 3], Version::V5), Err(ErrorKind::ReservedFlags));
        }
    }

    #[test]
    fn the_length_is_written_in_as_few_bytes_as_it_needs() {
        assert_eq!(from_client(&[0xC0, 0x80, 0x00], Version::V311), Err(ErrorKind::IntegerNotMinimal));
        assert_eq!(from_client(&[0x30, 0xFF, 0xFF, 0xFF, 0xFF], Version::V5), Err(ErrorKind::IntegerTooLong));
        let largest = from_client(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F], Version::V5).unwrap().unwrap();
        assert_eq!(largest.total(), 268_435_460);
    }

    #[test]
    fn a_length_outside_the_bounds_of_the_type_is_told_at_once() {
        for (bytes, version, fault) in [
            (&[0xC0, 1], Version::V5, ErrorKind::TooLong),
            (&[0xE0, 1], Version::V311, ErrorKind::TooLong),
            (&[0x40, 3], Version::V311, ErrorKind::TooLong),
            (&[0x40, 1], Version::V5, ErrorKind::TooShort),
            (&[0x82, 2], Version::V5, ErrorKind::TooShort),
            (&[0x30, 1], Version::V311, ErrorKind::TooShort),
        ] {
            assert_eq!(from_client(bytes, version), Err(fault), "{bytes:02x?}");
        }
        assert_eq!(from_server(&[0x20, 3], Version::V311), Err(ErrorKind::TooLong));
        assert_eq!(from_server(&[0x20, 1], Version::V5), Err(ErrorKind::TooShort));
        assert!(from_server(&[0x20, 2], Version::V5).is_ok(), "a refusal in the format of 3.x");
        assert_eq!(from_server(&[0xB0, 3], Version::V31), Err(ErrorKind::TooLong));
        assert!(from_client(&[0xE0, 1], Version::V5).is_ok());
    }

    #[test]
    fn a_frame_keeps_its_bytes_and_leaves_the_rest() {
        let bytes = [0xC0, 0, 0x40, 2, 0, 1, 0x30];
        let (ping, rest) = Frame::split(&bytes, Sender::Client, Some(Version::V5)).unwrap().unwrap();
        assert_eq!((ping.bytes, ping.body()), (&bytes[..2], &[][..]));
        let (ack, rest) = Frame::split(rest, Sender::Client, Some(Version::V5)).unwrap().unwrap();
        assert_eq!((ack.bytes, ack.body()), (&bytes[2..6], &bytes[4..6]));
        assert_eq!(Frame::split(rest, Sender::Client, Some(Version::V5)), Ok(None));
    }
}
