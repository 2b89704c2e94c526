//! AUTH: a step of extended authentication, 5.0 only.

use crate::encode::{EncodeError, packet};
use crate::error::{ErrorKind, Malformed};
use crate::frame::FixedHeader;
use crate::property::{Checked, Place, Properties, PropertyEdit, PropertyId};
use crate::reason::ReasonCode;
use crate::types::{PacketType, Sender, Version};
use bytes::BytesMut;

/// An AUTH.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Auth<'a> {
    /// Success, continue or again.
    pub reason: ReasonCode,
    /// The properties.
    pub properties: Properties<'a>,
}

impl<'a> Auth<'a> {
    /// Reads a whole packet; `bytes` begin with its first byte.
    ///
    /// # Errors
    /// A wrong property, lengths that do not agree, or, from a client, a reason code that is not its to send
    /// or no Authentication Method.
    pub fn parse(header: &FixedHeader, bytes: &'a [u8], from: Sender) -> Result<Self, Malformed> {
        let mut reader = super::reader(header, bytes)?;
        let reason = match reader.is_empty() {
            // Left out, it is 0x00 (3.15.2.1), which is not a client's to send.
            true => super::check_reason(&reader, ReasonCode::SUCCESS, PacketType::Auth, from)?,
            false => super::reason(&mut reader, PacketType::Auth, from)?,
        };
        let checked = match reader.is_empty() {
            true => Checked::NONE,
            false => Checked::read(&mut reader, Place::Packet(PacketType::Auth), from)?,
        };
        reader.end()?;
        // 3.15.2.2.2
        if from == Sender::Client && !checked.present.contains(PropertyId::AuthenticationMethod) {
            return Err(reader.fault(ErrorKind::AuthenticationMethodMissing));
        }
        Ok(Self { reason, properties: checked.properties })
    }

    /// Appends the packet in its shortest form.
    ///
    /// # Errors
    /// The packet is too long.
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        self.encode_with(&PropertyEdit::keep(self.properties), out)
    }

    /// Appends the packet with other properties, in its shortest form.
    ///
    /// # Errors
    /// A property or the packet is too long.
    pub fn encode_with(&self, properties: &PropertyEdit<'_>, out: &mut BytesMut) -> Result<(), EncodeError> {
        packet(out, PacketType::Auth.first_byte(), |body| {
            super::write_reason(body, Version::V5, self.reason, properties)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Frame;

    fn parse(bytes: &[u8], from: Sender) -> Result<Auth<'_>, ErrorKind> {
        let (frame, _) = Frame::split(bytes, from, Some(Version::V5)).unwrap().unwrap();
        Auth::parse(&frame.header, frame.bytes, from).map_err(|error| error.kind)
    }

    #[test]
    fn a_client_names_its_method() {
        let bytes = b"\xf0\x06\x18\x04\x15\0\x01m";
        let auth = parse(bytes, Sender::Client).unwrap();
        assert_eq!(auth.properties.text(PropertyId::AuthenticationMethod), Some("m"));
        let mut out = BytesMut::new();
        auth.encode(&mut out).unwrap();
        assert_eq!(out, bytes[..]);
        assert_eq!(parse(b"\xf0\x02\x18\0", Sender::Client), Err(ErrorKind::AuthenticationMethodMissing));
    }

    #[test]
    fn success_is_for_the_server_to_say() {
        assert_eq!(parse(b"\xf0\0", Sender::Client), Err(ErrorKind::ReasonCodeUnknown));
        assert_eq!(parse(b"\xf0\0", Sender::Server), Ok(Auth::default()));
    }
}
