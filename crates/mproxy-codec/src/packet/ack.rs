//! PUBACK, PUBREC, PUBREL and PUBCOMP: four packets of one form.

use crate::encode::{Body, EncodeError};
use crate::error::Malformed;
use crate::frame::FixedHeader;
use crate::property::{Properties, PropertyEdit};
use crate::reason::ReasonCode;
use crate::types::{PacketId, PacketType, Sender, Version};

/// A PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack<'a> {
    /// Which of the four.
    pub kind: PacketType,
    /// The packet that is meant.
    pub packet_id: PacketId,
    /// The reason code; success in 3.x, and in 5.0 where it is left out.
    pub reason: ReasonCode,
    /// The properties.
    pub properties: Properties<'a>,
}

impl<'a> Ack<'a> {
    /// One with nothing to add.
    #[must_use]
    pub const fn new(kind: PacketType, packet_id: PacketId, reason: ReasonCode) -> Self {
        Self { kind, packet_id, reason, properties: Properties::EMPTY }
    }

    /// Reads a whole packet; `bytes` begin with its first byte.
    ///
    /// # Errors
    /// Packet identifier 0, a wrong property, lengths that do not agree, or, from a client, a reason code that
    /// the packet may not carry.
    #[inline]
    pub fn parse(
        header: &FixedHeader,
        bytes: &'a [u8],
        from: Sender,
        version: Version,
    ) -> Result<Self, Malformed> {
        let mut reader = super::reader(header, bytes)?;
        let packet_id = reader.packet_id()?;
        let (reason, properties) = super::reason_and_properties(&mut reader, header.kind, from, version)?;
        Ok(Self { kind: header.kind, packet_id, reason, properties })
    }

    fn write(
        &self,
        version: Version,
        properties: &PropertyEdit<'_>,
        body: &mut Body<'_>,
    ) -> Result<(), EncodeError> {
        let (PacketType::Puback | PacketType::Pubrec | PacketType::Pubrel | PacketType::Pubcomp) = self.kind
        else {
            return Err(EncodeError::Impossible {
                what: "only PUBACK, PUBREC, PUBREL and PUBCOMP have this form",
            });
        };
        body.u16(self.packet_id.get());
        super::write_reason(body, version, self.reason, properties)
    }
}

super::encoders!(Ack, |packet| packet.kind);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::frame::Frame;
    use crate::property::{PropertyId, Value};
    use bytes::BytesMut;

    fn parse(bytes: &[u8], from: Sender, version: Version) -> Result<Ack<'_>, ErrorKind> {
        let (frame, _) = Frame::split(bytes, from, Some(version)).unwrap().unwrap();
        Ack::parse(&frame.header, frame.bytes, from, version).map_err(|error| error.kind)
    }

    #[test]
    fn the_short_forms_mean_success_and_no_properties() {
        for bytes in [&b"\x40\x02\0\x07"[..], b"\x40\x03\0\x07\0", b"\x40\x04\0\x07\0\0"] {
            let ack = parse(bytes, Sender::Client, Version::V5).unwrap();
            assert_eq!(ack, Ack::new(PacketType::Puback, PacketId::new(7).unwrap(), ReasonCode::SUCCESS));
        }
    }

    #[test]
    fn each_of_the_four_is_written_in_its_shortest_form() {
        let id = PacketId::new(7).unwrap();
        for (kind, first) in [
            (PacketType::Puback, 0x40),
            (PacketType::Pubrec, 0x50),
            (PacketType::Pubrel, 0x62),
            (PacketType::Pubcomp, 0x70),
        ] {
            let mut out = BytesMut::new();
            let refused = Ack::new(kind, id, ReasonCode::NOT_AUTHORIZED);
            Ack::new(kind, id, ReasonCode::SUCCESS).encode(Version::V5, &mut out).unwrap();
            refused.encode(Version::V5, &mut out).unwrap();
            refused.encode(Version::V311, &mut out).unwrap();
            assert_eq!(&out[..], [first, 2, 0, 7, first, 3, 0, 7, 0x87, first, 2, 0, 7]);
        }
        let no_ack = Ack::new(PacketType::Publish, id, ReasonCode::SUCCESS);
        assert!(no_ack.encode(Version::V5, &mut BytesMut::new()).is_err());
    }

    #[test]
    fn a_reason_string_makes_the_long_form() {
        let id = PacketId::new(7).unwrap();
        let why = [(PropertyId::ReasonString, Value::Text("no"))];
        let mut out = BytesMut::new();
        let ack = Ack::new(PacketType::Pubrec, id, ReasonCode::NOT_AUTHORIZED);
        ack.encode_with(Version::V5, &PropertyEdit::only(&why), &mut out).unwrap();
        let read = parse(&out, Sender::Server, Version::V5).unwrap();
        assert_eq!((read.reason, read.properties.text(PropertyId::ReasonString)), (ack.reason, Some("no")));
    }

    #[test]
    fn faults_of_clients_are_told_and_odd_codes_of_servers_pass() {
        let client = |bytes| parse(bytes, Sender::Client, Version::V5).map(|_| ());
        assert_eq!(client(b"\x40\x02\0\0"), Err(ErrorKind::PacketIdZero));
        assert_eq!(client(b"\x40\x03\0\x01\x92"), Err(ErrorKind::ReasonCodeUnknown));
        assert_eq!(client(b"\x62\x03\0\x01\x80"), Err(ErrorKind::ReasonCodeUnknown));
        assert_eq!(client(b"\x40\x05\0\x01\0\0\0"), Err(ErrorKind::TrailingBytes));
        assert_eq!(client(b"\x40\x05\0\x01\0\x02\x1f"), Err(ErrorKind::Overrun));
        assert!(parse(b"\x40\x03\0\x01\x92", Sender::Server, Version::V5).is_ok());
    }
}
