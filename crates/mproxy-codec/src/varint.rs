//! Variable byte integers: one to four bytes, seven bits each, the least significant first.

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
        [byte, ..] if *byte < 0x80 => Ok(Some((*byte as u32, 1))),
        _ => read_long(bytes),
    }
}

const fn read_long(bytes: &[u8]) -> Result<Option<(u32, u8)>, ErrorKind> {
    let mut value = 0;
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        value |= ((byte & 0x7F) as u32) << (7 * at);
        at += 1;
        if byte == 0 && at > 1 {
            return Err(ErrorKind::IntegerNotMinimal);
        }
        if byte < 0x80 {
            return Ok(Some((value, at as u8)));
        }
        if at == 4 {
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

/// The bytes of the value, of which the first [`len`] count. The value must not exceed [`MAX`]; larger ones
/// lose their upper bits.
#[inline]
#[must_use]
pub const fn bytes(value: u32) -> ([u8; 4], usize) {
    let value = value & MAX;
    let len = len(value);
    let mut bytes = [
        value as u8 | 0x80,
        (value >> 7) as u8 | 0x80,
        (value >> 14) as u8 | 0x80,
        (value >> 21) as u8 | 0x80,
    ];
    bytes[len - 1] &= 0x7F;
    (bytes, len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_comes_back() {
        for value in [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, MAX] {
            let (bytes, len) = bytes(value);
            assert_eq!(read(&bytes[..len]), Ok(Some((value, len as u8))), "{value}");
            assert_eq!(read(&bytes[..len - 1]), Ok(None), "{value}");
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
