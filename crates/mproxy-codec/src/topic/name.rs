//! Topic names: what a PUBLISH or a will carries.

use super::{MAX_LEN, TopicError};
use std::fmt;

/// A checked topic name: not empty, no wildcard, no U+0000, at most 65,535 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName<'a>(&'a str);

impl<'a> TopicName<'a> {
    /// Checks `text`.
    ///
    /// # Errors
    /// See [`check_name`].
    pub fn new(text: &'a str) -> Result<Self, TopicError> {
        check_name(text).map(|()| Self(text))
    }

    /// The text.
    #[must_use]
    pub const fn as_str(&self) -> &'a str {
        self.0
    }
}

impl AsRef<str> for TopicName<'_> {
    fn as_ref(&self) -> &str {
        self.0
    }
}

impl fmt::Display for TopicName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Whether `text` is a topic name.
///
/// # Errors
/// It is empty, too long, or holds `+`, `#` or U+0000.
#[inline]
pub fn check_name(text: &str) -> Result<(), TopicError> {
    if text.is_empty() {
        return Err(TopicError::EmptyName);
    }
    if text.len() > MAX_LEN {
        return Err(TopicError::TooLong);
    }
    match forbidden_at(text.as_bytes()) {
        None => Ok(()),
        Some(at) => Err(fault_at(text.as_bytes(), at)),
    }
}

/// The first byte that no topic name may hold.
#[inline]
fn forbidden_at(bytes: &[u8]) -> Option<usize> {
    if bytes.len() >= SHORT {
        memchr::memchr3(0, b'+', b'#', bytes)
    } else if is_plain_name(bytes) {
        None
    } else {
        bytes.iter().position(|byte| matches!(byte, 0 | b'+' | b'#'))
    }
}

/// From here on SIMD wins.
const SHORT: usize = 32;

/// A byte in each of eight places.
const fn each(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// Whether a topic name is not empty and holds only ASCII from `$` on, and no `+`: so no U+0000, no `#`, and nothing
/// that is not UTF-8 [MQTT-3.3.2-1] [MQTT-3.3.2-2].
#[inline]
#[must_use]
pub fn is_plain_name(topic: &[u8]) -> bool {
    match topic.len() {
        0 => false,
        1..8 => topic.iter().all(|byte| matches!(byte, b'$'..=0x7F) && *byte != b'+'),
        _ => {
            let mut sound = each(0x80);
            let mut rest = topic;
            while let Some((eight, after)) = rest.split_first_chunk() {
                sound &= sound_bytes(u64::from_ne_bytes(*eight));
                rest = after;
            }
            // The last eight once more, instead of a loop over what is left.
            if !rest.is_empty()
                && let Some(eight) = topic.last_chunk()
            {
                sound &= sound_bytes(u64::from_ne_bytes(*eight));
            }
            sound == each(0x80)
        }
    }
}

/// Sets the top bit of each byte that may stand in a plain topic.
#[inline]
const fn sound_bytes(eight: u64) -> u64 {
    let ascii = !eight;
    let low = eight & each(0x7F);
    // Both sums are of numbers below 0x80, so that none carries into the next byte. The first sets the top bit from
    // `$` on, the second for everything but `+`.
    let from_dollar = low + each(0x80 - b'$');
    let no_plus = (low ^ each(b'+')) + each(0x7F);
    ascii & from_dollar & no_plus & each(0x80)
}

#[cold]
fn fault_at(bytes: &[u8], at: usize) -> TopicError {
    if bytes.get(at) == Some(&0) { TopicError::Null { at } } else { TopicError::Wildcard { at } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_topic_is_found_out_byte_by_byte() {
        for len in 1..40 {
            for at in 0..len {
                for byte in 0..=u8::MAX {
                    let mut topic = vec![b'a'; len];
                    topic[at] = byte;
                    let expected = byte.is_ascii() && byte >= b'$' && byte != b'+';
                    assert_eq!(is_plain_name(&topic), expected, "{topic:?}");
                }
            }
        }
        assert!(!is_plain_name(b""));
    }

    #[test]
    fn ordinary_names_pass() {
        for name in ["a", "/", "//", "a/b", "a b", "$SYS/x", "ä/ö", &"x".repeat(MAX_LEN)] {
            assert!(TopicName::new(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn wildcards_null_and_nothing_do_not() {
        assert_eq!(check_name(""), Err(TopicError::EmptyName));
        assert_eq!(check_name("a/+"), Err(TopicError::Wildcard { at: 2 }));
        assert_eq!(check_name("#"), Err(TopicError::Wildcard { at: 0 }));
        assert_eq!(check_name("a\0"), Err(TopicError::Null { at: 1 }));
        let long = format!("{}#", "x".repeat(100));
        assert_eq!(check_name(&long), Err(TopicError::Wildcard { at: 100 }));
        assert_eq!(check_name(&"x".repeat(MAX_LEN + 1)), Err(TopicError::TooLong));
    }
}
