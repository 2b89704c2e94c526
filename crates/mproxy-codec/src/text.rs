//! UTF-8 text as MQTT wants it: well-formed, without surrogates, without U+0000.

use crate::error::ErrorKind;

/// Checks a string that came off the wire.
///
/// # Errors
/// Ill-formed UTF-8 (`[MQTT-1.5.4-1]`) or U+0000 (`[MQTT-1.5.4-2]`), each with its offset in `bytes`.
/// Control characters and non-characters pass: the standard only says that they should not be there.
#[inline]
pub fn check(bytes: &[u8]) -> Result<&str, (ErrorKind, usize)> {
    // The quick checks say yes or no; where it is wrong is looked for only then.
    let Ok(text) = utf8(bytes) else { return Err(ill_formed(bytes)) };
    match null_at(bytes) {
        None => Ok(text),
        Some(at) => Err((ErrorKind::TextHoldsNull, at)),
    }
}

/// The text of bytes that were checked before; the empty text for any others.
#[inline]
pub(crate) fn assume_checked(bytes: &[u8]) -> &str {
    utf8(bytes).unwrap_or_default()
}

/// Below this the plain loop of std wins; above it SIMD does.
const SHORT: usize = 64;

#[inline]
pub(crate) fn utf8(bytes: &[u8]) -> Result<&str, ()> {
    if bytes.len() < SHORT {
        str::from_utf8(bytes).map_err(drop)
    } else {
        simdutf8::basic::from_utf8(bytes).map_err(drop)
    }
}

#[inline]
fn null_at(bytes: &[u8]) -> Option<usize> {
    if bytes.len() < SHORT { bytes.iter().position(|byte| *byte == 0) } else { memchr::memchr(0, bytes) }
}

#[cold]
pub(crate) fn ill_formed(bytes: &[u8]) -> (ErrorKind, usize) {
    let at = str::from_utf8(bytes).map_or_else(|error| error.valid_up_to(), str::len);
    (ErrorKind::TextNotUtf8, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_any_length_is_taken_whole() {
        for text in ["", "a", "plain", "κόσμε", "𪛔", "\u{feff}kept", &"ä".repeat(100)] {
            assert_eq!(check(text.as_bytes()), Ok(text));
        }
    }

    #[test]
    fn null_is_refused_wherever_it_stands() {
        for len in [1, 10, 63, 64, 65, 200] {
            for at in [0, len / 2, len - 1] {
                let mut bytes = vec![b'x'; len];
                bytes[at] = 0;
                assert_eq!(check(&bytes), Err((ErrorKind::TextHoldsNull, at)));
            }
        }
    }

    #[test]
    fn surrogates_overlong_forms_and_cut_characters_are_refused() {
        for bad in [&b"\xED\xA0\x80"[..], b"\xC0\x80", b"\xF4\x90\x80\x80", b"\xE2\x82", b"\xFF"] {
            for before in [0, 3, 80] {
                let mut bytes = vec![b'x'; before];
                bytes.extend_from_slice(bad);
                assert_eq!(check(&bytes), Err((ErrorKind::TextNotUtf8, before)));
            }
        }
    }
}
