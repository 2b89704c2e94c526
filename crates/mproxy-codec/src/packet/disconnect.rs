//! DISCONNECT: the last packet; in 5.0 it comes from either side and says why.

use crate::encode::{EncodeError, packet};
use crate::error::{ErrorKind, Malformed};
use crate::frame::Header;
use crate::property::{Checked, Place, Properties, PropertyEdit};
use crate::reason::ReasonCode;
use crate::types::{PacketType, Sender, Version};
use bytes::BytesMut;

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
        header: &Header,
        bytes: &'a [u8],
        from: Sender,
        version: Version,
    ) -> Result<Self, Malformed> {
        let mut reader = super::reader(header, bytes)?;
        let mut disconnect = Self::default();
        if reader.is_empty() {
            return Ok(disconnect);
        }
        if !version.is_v5() {
            return Err(reader.fault(ErrorKind::TrailingBytes));
        }
        disconnect.reason = super::reason(&mut reader, PacketType::Disconnect, from)?;
        if !reader.is_empty() {
            let place = Place::Packet(PacketType::Disconnect);
            disconnect.properties = Checked::read(&mut reader, place, from)?.properties;
            reader.end()?;
        }
        Ok(disconnect)
    }

    /// Appends the packet in its shortest form.
    ///
    /// # Errors
    /// The packet is too long.
    pub fn encode(&self, version: Version, out: &mut BytesMut) -> Result<(), EncodeError> {
        self.encode_with(version, &PropertyEdit::keep(self.properties), out)
    }

    /// Appends the packet with other properties, in its shortest form.
    ///
    /// # Errors
    /// A property or the packet is too long.
    pub fn encode_with(
        &self,
        version: Version,
        properties: &PropertyEdit<'_>,
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        packet(out, PacketType::Disconnect.first_byte(), |body| {
            super::write_reason(body, version, self.reason, properties)
        })
    }
}
