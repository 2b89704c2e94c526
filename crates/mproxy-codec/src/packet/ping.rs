//! PINGREQ and PINGRESP: nothing but a fixed header, judged by [`FixedHeader::parse`](crate::FixedHeader::parse).

use crate::types::PacketType;
use bytes::BytesMut;

/// The whole of a PINGREQ.
pub const PINGREQ: [u8; 2] = [PacketType::Pingreq.first_byte(), 0];

/// The whole of a PINGRESP.
pub const PINGRESP: [u8; 2] = [PacketType::Pingresp.first_byte(), 0];

/// Appends a PINGREQ.
pub fn encode_pingreq(out: &mut BytesMut) {
    out.extend_from_slice(&PINGREQ);
}

/// Appends a PINGRESP.
pub fn encode_pingresp(out: &mut BytesMut) {
    out.extend_from_slice(&PINGRESP);
}
