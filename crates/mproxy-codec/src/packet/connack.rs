//! CONNACK: the server's answer to CONNECT.

use crate::encode::{Body, EncodeError};
use crate::error::{ErrorKind, Malformed};
use crate::frame::FixedHeader;
use crate::property::{Properties, PropertyEdit};
use crate::types::{PacketType, Sender, Version};

/// A CONNACK.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connack<'a> {
    /// Whether the server goes on with an old session.
    pub session_present: bool,
    /// The byte as it stands: a reason code in 5.0, a return code in 3.x. 0 is yes in all of them.
    pub reason: u8,
    /// The properties.
    pub properties: Properties<'a>,
}

impl<'a> Connack<'a> {
    /// Reads a whole packet; `bytes` begin with its first byte.
    ///
    /// # Errors
    /// Reserved bits are set, a property is wrong, or lengths do not agree. Codes that the standard does not
    /// list are the server's affair.
    pub fn parse(header: &FixedHeader, bytes: &'a [u8], version: Version) -> Result<Self, Malformed> {
        let mut reader = super::reader(header, bytes)?;
        let at = reader.at();
        let flags = reader.u8()?;
        // [MQTT-3.2.2-1]; 3.1 does not use the byte at all.
        if flags > 1 && version != Version::V31 {
            return Err(reader.fault_at(ErrorKind::ConnackReserved, at));
        }
        let session_present = flags == 1 && version != Version::V31;
        let reason = reader.u8()?;
        let properties = super::properties(&mut reader, PacketType::Connack, Sender::Server, version)?;
        reader.end()?;
        Ok(Self { session_present, reason, properties })
    }

    fn write(
        &self,
        version: Version,
        properties: &PropertyEdit<'_>,
        body: &mut Body<'_>,
    ) -> Result<(), EncodeError> {
        // 3.1 has no session present flag.
        body.u8(u8::from(self.session_present && version != Version::V31));
        body.u8(self.reason);
        super::write_properties(body, version, properties)
    }
}

super::encoders!(Connack, |_packet| PacketType::Connack);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Frame;
    use crate::property::{PropertyId, Value};
    use crate::reason::ReasonCode;
    use bytes::BytesMut;

    fn parse(bytes: &[u8], version: Version) -> Result<Connack<'_>, ErrorKind> {
        let (frame, _) = Frame::split(bytes, Sender::Server, Some(version)).unwrap().unwrap();
        Connack::parse(&frame.header, frame.bytes, version).map_err(|error| error.kind)
    }

    #[test]
    fn a_refusal_is_said_in_the_words_of_the_version() {
        let mut out = BytesMut::new();
        let code = ReasonCode::NOT_AUTHORIZED;
        let why = [(PropertyId::ReasonString, Value::Text("no"))];
        let refusal = Connack { reason: code.0, ..Connack::default() };
        refusal.encode_with(Version::V5, &PropertyEdit::only(&why), &mut out).unwrap();
        assert_eq!(&out[..], b"\x20\x08\0\x87\x05\x1f\0\x02no");
        assert_eq!(parse(&out, Version::V5).unwrap().properties.text(PropertyId::ReasonString), Some("no"));
        out.clear();
        let refusal = Connack { reason: code.connack_v3(), ..Connack::default() };
        refusal.encode_with(Version::V311, &PropertyEdit::only(&why), &mut out).unwrap();
        assert_eq!(&out[..], b"\x20\x02\0\x05");
    }

    #[test]
    fn session_present_is_no_word_of_3_1() {
        assert!(parse(b"\x20\x02\x01\0", Version::V311).unwrap().session_present);
        assert!(!parse(b"\x20\x02\x01\0", Version::V31).unwrap().session_present);
        assert_eq!(parse(b"\x20\x02\x02\0", Version::V311), Err(ErrorKind::ConnackReserved));
        assert_eq!(parse(b"\x20\x04\0\0\0\0", Version::V5), Err(ErrorKind::TrailingBytes));
    }
}
