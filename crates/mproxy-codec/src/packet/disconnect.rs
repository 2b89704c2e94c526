//! DISCONNECT: the last packet; in 5.0 it comes from either side and says why.

use crate::encode::{Body, EncodeError};
use crate::error::Malformed;
use crate::frame::FixedHeader;
use crate::property::{Properties, PropertyEdit};
use crate::reason::ReasonCode;
use crate::types::{PacketType, Sender, Version};

/// A DISCONNECT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disconnect<'a> {
    /// Why; success is a normal end, and what 3.x and a left out code mean.
    pub reason: ReasonCode,
    /// The properties.
    pub properties: Properties<'a>,
}

impl<'a> Disconnect<'a> {
    /// Reads a whole packet; `bytes` begin with its first byte.
    ///
    /// # Errors
    /// A wrong property, lengths that do not agree, or, from a client, a reason code that is not its to send.
    pub fn parse(
        header: &FixedHeader,
        bytes: &'a [u8],
        from: Sender,
        version: Version,
    ) -> Result<Self, Malformed> {
        let mut reader = super::reader(header, bytes)?;
        let (reason, properties) =
            super::reason_and_properties(&mut reader, PacketType::Disconnect, from, version)?;
        Ok(Self { reason, properties })
    }

    fn write(
        &self,
        version: Version,
        properties: &PropertyEdit<'_>,
        body: &mut Body<'_>,
    ) -> Result<(), EncodeError> {
        super::write_reason(body, version, self.reason, properties)
    }
}

super::encoders!(Disconnect, |_packet| PacketType::Disconnect);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::frame::Frame;
    use crate::property::PropertyId;
    use bytes::BytesMut;

    fn parse(bytes: &[u8], from: Sender) -> Result<Disconnect<'_>, ErrorKind> {
        let (frame, _) = Frame::split(bytes, from, Some(Version::V5)).unwrap().unwrap();
        Disconnect::parse(&frame.header, frame.bytes, from, Version::V5).map_err(|error| error.kind)
    }

    #[test]
    fn what_is_left_out_is_a_normal_end() {
        for bytes in [&b"\xe0\0"[..], b"\xe0\x01\0", b"\xe0\x02\0\0"] {
            assert_eq!(parse(bytes, Sender::Client), Ok(Disconnect::default()));
        }
        let mut out = BytesMut::new();
        Disconnect::default().encode(Version::V5, &mut out).unwrap();
        Disconnect { reason: ReasonCode::SERVER_BUSY, ..Disconnect::default() }
            .encode(Version::V5, &mut out)
            .unwrap();
        Disconnect { reason: ReasonCode::SERVER_BUSY, ..Disconnect::default() }
            .encode(Version::V31, &mut out)
            .unwrap();
        assert_eq!(&out[..], b"\xe0\0\xe0\x01\x89\xe0\0");
    }

    #[test]
    fn codes_and_expiry_belong_to_their_sides() {
        assert_eq!(parse(b"\xe0\x01\x8b", Sender::Client), Err(ErrorKind::ReasonCodeUnknown));
        assert!(parse(b"\xe0\x01\x8b", Sender::Server).is_ok());
        let expiry = b"\xe0\x07\0\x05\x11\0\0\0\x03";
        let read = parse(expiry, Sender::Client).unwrap();
        assert_eq!(read.properties.u32(PropertyId::SessionExpiryInterval), Some(3));
        assert_eq!(parse(expiry, Sender::Server), Err(ErrorKind::SessionExpiryFromServer));
        assert_eq!(parse(b"\xe0\x03\0\0\0", Sender::Client), Err(ErrorKind::TrailingBytes));
    }
}
