//! The common part of all encoders: measure, then write, so that the length in a header can never differ from
//! the body that follows it, and nothing is written when something does not fit.

use crate::property::PropertyId;
use crate::varint;
use bytes::BytesMut;

/// Why a packet cannot be written. Nothing was appended then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// A string or binary field is longer than 65,535 bytes.
    #[error("{what} is {len} bytes long, more than 65535")]
    FieldTooLong {
        /// Which field.
        what: &'static str,
        /// Its length.
        len: usize,
    },
    /// The packet is longer than the remaining length can say.
    #[error("the packet would be {len} bytes long, more than 268435455")]
    PacketTooLong {
        /// Its remaining length.
        len: usize,
    },
    /// A property was given a value of another type than its own.
    #[error("{id} was given a value of another type")]
    PropertyType {
        /// Which property.
        id: PropertyId,
    },
    /// The fields contradict each other, or the version has no such packet.
    #[error("{what}")]
    Impossible {
        /// What cannot be.
        what: &'static str,
    },
}

/// Where a body goes: nowhere while it is measured, into the buffer afterwards.
pub(crate) struct Body<'o> {
    out: Option<&'o mut BytesMut>,
    len: usize,
}

impl<'o> Body<'o> {
    pub(crate) fn over(out: &'o mut BytesMut) -> Self {
        Self { out: Some(out), len: 0 }
    }
}

impl Body<'_> {
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.len += bytes.len();
        if let Some(out) = &mut self.out {
            out.extend_from_slice(bytes);
        }
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.raw(&[value]);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.raw(&value.to_be_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.raw(&value.to_be_bytes());
    }

    pub(crate) fn varint(&mut self, value: usize) -> Result<(), EncodeError> {
        self.raw(&varint::bytes(check_len(value)?));
        Ok(())
    }

    /// Bytes or text behind a two-byte length.
    pub(crate) fn field(&mut self, what: &'static str, bytes: &[u8]) -> Result<(), EncodeError> {
        let len = bytes.len();
        // A longer field would have its length cut to two bytes, and the rest of it read as the packet's next fields.
        let short = u16::try_from(len).map_err(|_| EncodeError::FieldTooLong { what, len })?;
        self.u16(short);
        self.raw(bytes);
        Ok(())
    }
}

/// How many bytes `body` writes.
pub(crate) fn measure(body: impl Fn(&mut Body<'_>) -> Result<(), EncodeError>) -> Result<usize, EncodeError> {
    let mut counter = Body { out: None, len: 0 };
    body(&mut counter)?;
    Ok(counter.len)
}

/// Appends a packet: its first byte, its length, and what `body` writes.
pub(crate) fn packet(
    out: &mut BytesMut,
    first: u8,
    body: impl Fn(&mut Body<'_>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    packet_head(out, first, 0, body)
}

/// How long a packet is, without writing it.
pub(crate) fn packet_len(
    body: impl Fn(&mut Body<'_>) -> Result<(), EncodeError>,
) -> Result<usize, EncodeError> {
    let len = measure(&body)?;
    Ok(1 + varint::bytes(check_len(len)?).len() + len)
}

/// Appends the beginning of a packet whose last `tail` bytes are sent separately.
pub(crate) fn packet_head(
    out: &mut BytesMut,
    first: u8,
    tail: usize,
    body: impl Fn(&mut Body<'_>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    // Nothing is written before everything fits: the buffer may hold packets that were written before this one.
    let len = measure(&body)?;
    let remaining = varint::bytes(check_len(len.saturating_add(tail))?);
    out.reserve(1 + remaining.len() + len);
    out.extend_from_slice(&[first]);
    out.extend_from_slice(&remaining);
    let mut written = Body { out: Some(out), len: 0 };
    body(&mut written)?;
    debug_assert_eq!(written.len, len, "a body was not written as it was measured");
    Ok(())
}

fn check_len(len: usize) -> Result<u32, EncodeError> {
    u32::try_from(len).ok().filter(|len| *len <= varint::MAX).ok_or(EncodeError::PacketTooLong { len })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_written_when_a_field_does_not_fit() {
        let mut out = BytesMut::new();
        let long = vec![0; 65_536];
        let error = packet(&mut out, 0x30, |body| {
            body.u8(1);
            body.field("topic", &long)
        });
        assert_eq!(error, Err(EncodeError::FieldTooLong { what: "topic", len: 65_536 }));
        assert!(out.is_empty());
    }

    #[test]
    fn the_length_counts_the_tail_that_follows_separately() {
        let mut out = BytesMut::new();
        packet_head(&mut out, 0x30, 200, |body| body.field("topic", b"a")).unwrap();
        assert_eq!(&out[..], [0x30, 0xCB, 0x01, 0, 1, b'a']);
        let error = packet_head(&mut out, 0x30, varint::MAX as usize, |body| body.field("topic", b"a"));
        assert_eq!(error, Err(EncodeError::PacketTooLong { len: varint::MAX as usize + 3 }));
    }
}
