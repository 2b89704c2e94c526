//! Topics: names, filters, which filter matches which name, which filter covers which other filter, and the
//! shared form `$share/{name}/{filter}`. Knows nothing of packets.
//!
//! The checked types are [`TopicName`] and [`TopicFilter`]; the free functions take any `&str`.

mod filter;
mod name;

pub use filter::{TopicFilter, check_filter, check_filter_of, contains, matches, reaches, split_share};
pub use name::{TopicName, check_name, is_plain_name};

/// The longest string that fits behind a two-byte length.
pub(crate) const MAX_LEN: usize = 65_535;

/// Why a string is no topic name or no topic filter. Offsets are in bytes from the string's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TopicError {
    /// A name of no characters (`[MQTT-4.7.3-1]`).
    #[error("a topic name needs at least one character")]
    EmptyName,
    /// A filter of no characters (`[MQTT-4.7.3-1]`).
    #[error("a topic filter needs at least one character")]
    EmptyFilter,
    /// More than 65,535 bytes (`[MQTT-4.7.3-3]`).
    #[error("a topic is at most 65535 bytes long")]
    TooLong,
    /// U+0000 (`[MQTT-4.7.3-2]`).
    #[error("U+0000 at byte {at}")]
    Null {
        /// Where.
        at: usize,
    },
    /// `+` or `#` in a name (`[MQTT-4.7.0-1]`).
    #[error("a wildcard in a topic name, at byte {at}")]
    Wildcard {
        /// Where.
        at: usize,
    },
    /// `#` that is not alone in the last level (`[MQTT-4.7.1-1]`).
    #[error("# at byte {at} is not alone in the last level")]
    Hash {
        /// Where.
        at: usize,
    },
    /// `+` that is not alone in its level (`[MQTT-4.7.1-2]`).
    #[error("+ at byte {at} is not alone in its level")]
    Plus {
        /// Where.
        at: usize,
    },
    /// An empty share name, or one with a wildcard (`[MQTT-4.8.2-1]`, `[MQTT-4.8.2-2]`).
    #[error("the share name at byte {at} is empty or contains a wildcard")]
    ShareName {
        /// Where the share name begins.
        at: usize,
    },
    /// No filter behind the share name, or one that is itself a share (`[MQTT-4.8.2-2]`).
    #[error("the share name is not followed by a topic filter, at byte {at}")]
    ShareFilter {
        /// Where it was expected.
        at: usize,
    },
}

impl TopicError {
    /// Where in the string the fault stands.
    #[must_use]
    pub const fn at(self) -> usize {
        match self {
            Self::EmptyName | Self::EmptyFilter => 0,
            Self::TooLong => MAX_LEN,
            Self::Null { at }
            | Self::Wildcard { at }
            | Self::Hash { at }
            | Self::Plus { at }
            | Self::ShareName { at }
            | Self::ShareFilter { at } => at,
        }
    }
}
