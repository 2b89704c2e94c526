//! PUBACK, PUBREC, PUBREL and PUBCOMP: four packets of one form.

use crate::encode::{EncodeError, packet};
use crate::error::{ErrorKind, Malformed};
use crate::frame::Header;
use crate::property::{Checked, Place, Properties, PropertyEdit};
use crate::reason::ReasonCode;
use crate::types::{PacketId, PacketType, Sender, Version};
use bytes::BytesMut;

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
        header: &Header,
        bytes: &'a [u8],
        from: Sender,
        version: Version,
    ) -> Result<Self, Malformed> {
        let mut reader = super::reader(header, bytes)?;
        let packet_id = reader.packet_id()?;
        let mut ack = Self::new(header.kind, packet_id, ReasonCode::SUCCESS);
        if reader.is_empty() {
            return Ok(ack);
        }
        if !version.is_v5() {
            return Err(reader.fault(ErrorKind::TrailingBytes));
        }
        ack.reason = super::reason(&mut reader, header.kind, from)?;
        if !reader.is_empty() {
            ack.properties = Checked::read(&mut reader, Place::Packet(header.kind), from)?.properties;
            reader.end()?;
        }
        Ok(ack)
    }

    /// Appends the packet in its shortest form.
    ///
    /// # Errors
    /// The packet is too long, or its kind is not one of the four.
    pub fn encode(&self, version: Version, out: &mut BytesMut) -> Result<(), EncodeError> {
        self.encode_with(version, &PropertyEdit::keep(self.properties), out)
    }

    /// Appends the packet with other properties, in its shortest form.
    ///
    /// # Errors
    /// A property or the packet is too long, or its kind is not one of the four.
    pub fn encode_with(
        &self,
        version: Version,
        properties: &PropertyEdit<'_>,
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        let (PacketType::Puback | PacketType::Pubrec | PacketType::Pubrel | PacketType::Pubcomp) = self.kind
        else {
            return Err(EncodeError::Impossible {
                what: "only PUBACK, PUBREC, PUBREL and PUBCOMP have this form",
            });
        };
        packet(out, self.kind.first_byte(), |body| {
            body.u16(self.packet_id.get());
            super::write_reason(body, version, self.reason, properties)
        })
    }
}
