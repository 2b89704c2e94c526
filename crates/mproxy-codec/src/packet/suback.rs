//! SUBACK: a code for each filter of a SUBSCRIBE, in its order.

use crate::encode::{Body, EncodeError};
use crate::error::{ErrorKind, Malformed};
use crate::frame::FixedHeader;
use crate::property::{Properties, PropertyEdit};
use crate::types::{PacketId, PacketType, Sender, Version};

/// A SUBACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suback<'a> {
    /// The SUBSCRIBE that is answered.
    pub packet_id: PacketId,
    /// The properties.
    pub properties: Properties<'a>,
    /// A code for each filter: the granted QoS, or an error (in 3.x 0x80 only).
    pub codes: &'a [u8],
}

impl<'a> Suback<'a> {
    /// Reads a whole packet; `bytes` begin with its first byte.
    ///
    /// # Errors
    /// Packet identifier 0, a wrong property, no code, or lengths that do not agree. Codes that the standard
    /// does not list are the server's affair.
    pub fn parse(header: &FixedHeader, bytes: &'a [u8], version: Version) -> Result<Self, Malformed> {
        let (packet_id, properties, reader) =
            super::id_and_properties(header, bytes, Sender::Server, version)?;
        let codes = reader.rest();
        // One code for each filter, and there is no SUBSCRIBE without a filter [MQTT-3.8.3-2].
        if codes.is_empty() {
            return Err(reader.fault(ErrorKind::NoCode));
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
        body.raw(self.codes);
        Ok(())
    }
}

super::encoders!(Suback, |_packet| PacketType::Suback);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Frame;
    use bytes::BytesMut;

    fn parse(bytes: &[u8], version: Version) -> Result<Suback<'_>, ErrorKind> {
        let (frame, _) = Frame::split(bytes, Sender::Server, Some(version)).unwrap().unwrap();
        Suback::parse(&frame.header, frame.bytes, version).map_err(|error| error.kind)
    }

    #[test]
    fn codes_are_read_and_written_back() {
        for (bytes, version) in
            [(&b"\x90\x05\0\x01\0\x02\x87"[..], Version::V5), (b"\x90\x04\0\x01\x01\x80", Version::V311)]
        {
            let suback = parse(bytes, version).unwrap();
            assert_eq!(suback.codes, &bytes[bytes.len() - 2..]);
            let mut out = BytesMut::new();
            suback.encode(version, &mut out).unwrap();
            assert_eq!(out, bytes);
        }
    }

    #[test]
    fn an_answer_without_codes_is_none() {
        assert_eq!(parse(b"\x90\x04\0\x01\x01\x1f", Version::V5), Err(ErrorKind::Overrun));
        assert_eq!(parse(b"\x90\x0a\0\x01\x07\x26\0\x01a\0\x01b", Version::V5), Err(ErrorKind::NoCode));
        assert_eq!(parse(b"\x90\x03\0\0\0", Version::V311), Err(ErrorKind::PacketIdZero));
    }
}
