//! Variable byte integers: one to four bytes, seven bits each, the least significant first.

use std::ops::Deref;

use crate::error::ErrorKind;

/// The largest value that four bytes hold, and so the largest remaining length.
pub const MAX: u32 = 268_435_455;

/// Reads the integer at the start of `bytes`: its value and how many bytes it took. `None`: more are needed.
///
/// # Errors
/// More than four bytes, or more bytes than the value needs (`[MQTT-1.5.5-1]`).
#[inline]
pub const fn read(bytes: &[u8]) -> Result<Option<(u32, u8)>, ErrorKind> {
    match bytes {
        // Nearly every packet is below 128 bytes: the loop below is for the others.
        [byte, ..] if *byte < 0x80 => Ok(Some((*byte as u32, 1))),
        _ => read_long(bytes),
    }
}

const fn read_long(bytes: &[u8]) -> Result<Option<(u32, u8)>, ErrorKind> {
    let (mut value, mut width, mut rest) = (0, 0_u8, bytes);
    while let [byte, after @ ..] = rest {
        value |= ((*byte & 0x7F) as u32) << (7 * width);
        width += 1;
        rest = after;
        // A last byte of 0 adds nothing: fewer would have done.
        if *byte == 0 && width > 1 {
            return Err(ErrorKind::IntegerNotMinimal);
        }
        if *byte < 0x80 {
            return Ok(Some((value, width)));
        }
        // At once, and not when a fifth byte has come: a peer that is wrong already need not be waited for.
        if width == 4 {
            return Err(ErrorKind::IntegerTooLong);
        }
    }
    Ok(None)
}

/// How many bytes the value takes; 5 stands for a value that does not fit.
#[inline]
#[must_use]
pub const fn len(value: u32) -> usize {
    match value {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        0x20_0000..=MAX => 4,
        _ => 5,
    }
}

/// A value as it is written; reads like a slice of one to four bytes.
#[derive(Clone, Copy, Debug)]
pub struct Bytes {
    bytes: [u8; 4],
    len: u8,
}

impl Deref for Bytes {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // Never more than there are: `bytes` says how many.
        self.bytes.get(..usize::from(self.len)).unwrap_or(&self.bytes)
    }
}

/// The bytes of the value, which must not exceed [`MAX`]; a larger one loses its upper bits.
#[inline]
#[must_use]
pub const fn bytes(value: u32) -> Bytes {
    const MORE: u8 = 0x80;
    let [a, b, c, d] = [
        (value & 0x7F) as u8,
        (value >> 7 & 0x7F) as u8,
        (value >> 14 & 0x7F) as u8,
        (value >> 21 & 0x7F) as u8,
    ];
    // Masked, so that a value that is too large still makes a readable number: encoders refuse it before they get here.
    let (bytes, len) = match value & MAX {
        0..=0x7F => ([a, 0, 0, 0], 1),
        0x80..=0x3FFF => ([a | MORE, b, 0, 0], 2),
        0x4000..=0x1F_FFFF => ([a | MORE, b | MORE, c, 0], 3),
        _ => ([a | MORE, b | MORE, c | MORE, d], 4),
    };
    Bytes { bytes, len }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_comes_back() {
        for value in [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, MAX] {
            let written = bytes(value);
            assert_eq!(read(&written), Ok(Some((value, written.len))), "{value}");
            assert_eq!(read(&written[..written.len() - 1]), Ok(None), "{value}");
            assert_eq!(written.len(), len(value), "{value}");
        }
    }

    #[test]
    fn more_bytes_than_needed_are_an_error() {
        assert_eq!(read(&[0x80, 0x00]), Err(ErrorKind::IntegerNotMinimal));
        assert_eq!(read(&[0xFF, 0x80, 0x00]), Err(ErrorKind::IntegerNotMinimal));
        assert_eq!(read(&[0xFF, 0xFF, 0xFF, 0x00]), Err(ErrorKind::IntegerNotMinimal));
    }

    #[test]
    fn a_fifth_byte_is_an_error_before_it_arrives() {
        assert_eq!(read(&[0x80, 0x80, 0x80, 0x80]), Err(ErrorKind::IntegerTooLong));
        assert_eq!(read(&[0xFF, 0xFF, 0xFF]), Ok(None));
    }
}
