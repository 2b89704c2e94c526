//! UNSUBACK: a code for each filter of an UNSUBSCRIBE, in its order; no codes at all in 3.x.

use crate::encode::{Body, EncodeError};
use crate::error::{ErrorKind, Malformed};
use crate::frame::FixedHeader;
use crate::property::{Properties, PropertyEdit};
use crate::types::{PacketId, PacketType, Sender, Version};

/// An UNSUBACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsuback<'a> {
    /// The UNSUBSCRIBE that is answered.
    pub packet_id: PacketId,
    /// The properties.
    pub properties: Properties<'a>,
    /// A code for each filter; none in 3.x.
    pub codes: &'a [u8],
}

impl<'a> Unsuback<'a> {
    /// Reads a whole packet; `bytes` begin with its first byte.
    ///
    /// # Errors
    /// Packet identifier 0, a wrong property, no code, or lengths that do not agree. Codes that the standard
    /// does not list are the server's affair.
    pub fn parse(header: &FixedHeader, bytes: &'a [u8], version: Version) -> Result<Self, Malformed> {
        let (packet_id, properties, reader) =
            super::id_and_properties(header, bytes, Sender::Server, version)?;
        let codes = reader.rest();
        // [MQTT-3.11.3-1]; before 5.0 there are none.
        match (version.is_v5(), codes.is_empty()) {
            (true, true) => return Err(reader.fault(ErrorKind::NoCode)),
            (false, false) => return Err(reader.fault(ErrorKind::TrailingBytes)),
            (true, false) | (false, true) => {}
        }
        Ok(Self { packet_id, properties, codes })
    }

    fn write(
        &self,
        version: Version,
        properties: &PropertyEdit<'_>,
        body: &mut Body<'_>,
    ) -> Result<(), EncodeError> {
        body.u16(self.packet_id.get());
        super::write_properties(body, version, properties)?;
        // 3.x knows no codes here: an UNSUBACK always means success.
        if version.is_v5() {
            body.raw(self.codes);
        }
        Ok(())
    }
}

super::encoders!(Unsuback, |_packet| PacketType::Unsuback);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Frame;
    use bytes::BytesMut;

    #[test]
    fn codes_are_a_word_of_5_0() {
        for (bytes, version, codes) in [
            (&b"\xb0\x05\0\x01\0\0\x11"[..], Version::V5, &[0, 0x11][..]),
            (b"\xb0\x02\0\x01", Version::V311, &[]),
        ] {
            let (frame, _) = Frame::split(bytes, Sender::Server, Some(version)).unwrap().unwrap();
            let unsuback = Unsuback::parse(&frame.header, frame.bytes, version).unwrap();
            assert_eq!(unsuback.codes, codes);
            let mut out = BytesMut::new();
            unsuback.encode(version, &mut out).unwrap();
            assert_eq!(out, bytes);
        }
    }
}
