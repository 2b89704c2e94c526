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
    if bytes.len() < 32 {
        bytes.iter().position(|byte| matches!(byte, 0 | b'+' | b'#'))
    } else {
        memchr::memchr3(0, b'+', b'#', bytes)
    }
}

#[cold]
fn fault_at(bytes: &[u8], at: usize) -> TopicError {
    if bytes.get(at) == Some(&0) { TopicError::Null { at } } else { TopicError::Wildcard { at } }
}

#[cfg(test)]
mod tests {
    use super::*;

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
