//! Topic filters: validity, matching and containment, level by level over the bytes (`/`, `+` and `#` are
//! single bytes that no longer UTF-8 sequence contains).

use super::{MAX_LEN, TopicError};
use crate::types::Version;
use std::fmt;

/// What a shared subscription begins with (4.8.2).
const SHARE: &str = "$share/";

/// A checked topic filter, shared or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicFilter<'a>(&'a str);

impl<'a> TopicFilter<'a> {
    /// Checks `text`.
    ///
    /// # Errors
    /// See [`check_filter`].
    pub fn new(text: &'a str) -> Result<Self, TopicError> {
        check_filter(text).map(|()| Self(text))
    }

    /// Checks `text` as a client of this version may send it.
    ///
    /// # Errors
    /// See [`check_filter_of`].
    pub fn new_of(version: Version, text: &'a str) -> Result<Self, TopicError> {
        check_filter_of(version, text).map(|()| Self(text))
    }

    /// A filter that was checked before.
    pub(crate) const fn assume_checked(text: &'a str) -> Self {
        Self(text)
    }

    /// The text, with `$share/{name}/` where it is shared.
    #[must_use]
    pub const fn as_str(&self) -> &'a str {
        self.0
    }

    /// The share name, if this is a shared subscription.
    #[must_use]
    pub fn share(&self) -> Option<&'a str> {
        split_share(self.0).0
    }

    /// The filter without `$share/{name}/`: itself, if it is not shared.
    #[must_use]
    pub fn unshared(&self) -> Self {
        Self(split_share(self.0).1)
    }

    /// Whether a message on `topic` goes to this subscription.
    #[must_use]
    pub fn matches(&self, topic: impl AsRef<str>) -> bool {
        matches(self.0, topic.as_ref())
    }

    /// Whether every topic that `other` matches is matched by this filter too. Shares do not matter.
    #[must_use]
    pub fn contains(&self, other: &TopicFilter<'_>) -> bool {
        contains(self.0, other.0)
    }
}

impl AsRef<str> for TopicFilter<'_> {
    fn as_ref(&self) -> &str {
        self.0
    }
}

impl fmt::Display for TopicFilter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Splits `$share/{name}/{filter}` into name and filter; any other filter comes back whole, one that lacks something of
/// a share among them.
#[inline]
#[must_use]
pub fn split_share(filter: &str) -> (Option<&str>, &str) {
    match filter.strip_prefix(SHARE).and_then(|shared| shared.split_once('/')) {
        Some((name, plain)) if !plain.is_empty() => (Some(name), plain),
        Some(_) | None => (None, filter),
    }
}

/// Whether `text` is a topic filter, as 5.0 has it.
///
/// `$share/{name}/{filter}` is a shared subscription in every version: brokers take it so in 3.1.1 too, and a filter
/// that is one thing here and another there is a hole. For the same reason a share within a share is refused.
///
/// # Errors
/// It is empty, too long, holds U+0000, a wildcard that does not fill its level, a `#` that is not last,
/// or is an incomplete share.
#[inline]
pub fn check_filter(text: &str) -> Result<(), TopicError> {
    if text.is_empty() {
        return Err(TopicError::EmptyFilter);
    }
    if text.len() > MAX_LEN {
        return Err(TopicError::TooLong);
    }
    let plain = text.strip_prefix(SHARE).map_or(Ok(0), check_share)?;
    check_wildcards(text.as_bytes(), plain)
}

/// Whether `text` is a topic filter that a client of this version may send.
///
/// 3.1 and 3.1.1 know no shared subscriptions, so what is no whole one is an odd filter there, but no fault:
/// `$share/x`, `$share//x`, `$share/+/x`. Where a filter follows a second slash, [`split_share`] finds it nevertheless:
/// some broker may.
///
/// # Errors
/// See [`check_filter`]; in 3.x an incomplete share is none, a share within a share is.
#[inline]
pub fn check_filter_of(version: Version, text: &str) -> Result<(), TopicError> {
    if version.is_v5() || !text.starts_with(SHARE) {
        return check_filter(text);
    }
    if text.len() > MAX_LEN {
        return Err(TopicError::TooLong);
    }
    if let (Some(_), plain) = split_share(text)
        && plain.starts_with(SHARE)
    {
        return Err(TopicError::ShareFilter { at: text.len() - plain.len() });
    }
    check_wildcards(text.as_bytes(), 0)
}

/// Checks what follows `$share/`: the name of the share. Returns where in the whole the filter behind it begins.
fn check_share(shared: &str) -> Result<usize, TopicError> {
    let at = SHARE.len();
    let (name, plain) = shared.split_once('/').unwrap_or((shared, ""));
    if name.is_empty() || name.contains(['+', '#']) {
        return Err(TopicError::ShareName { at });
    }
    if plain.is_empty() || plain.starts_with(SHARE) {
        return Err(TopicError::ShareFilter { at: at + (name.len() + 1).min(shared.len()) });
    }
    Ok(at + shared.len() - plain.len())
}

/// Checks the levels from `start` on, and the whole for U+0000.
fn check_wildcards(bytes: &[u8], start: usize) -> Result<(), TopicError> {
    let mut before = None;
    for (at, byte) in bytes.iter().enumerate() {
        // Behind the name of a share a level begins, too.
        let opens = at == start || before == Some(b'/');
        let next = bytes.get(at + 1);
        before = Some(*byte);
        match byte {
            0 => return Err(TopicError::Null { at }),
            b'#' if !opens || next.is_some() => return Err(TopicError::Hash { at }),
            b'+' if !opens || next.is_some_and(|next| *next != b'/') => return Err(TopicError::Plus { at }),
            _ => {}
        }
    }
    Ok(())
}

/// Whether `filter` matches the topic name `topic`. A share counts as the filter behind it.
/// A wildcard in the first level does not match names that begin with `$` (`[MQTT-4.7.2-1]`).
#[inline]
#[must_use]
pub fn matches(filter: &str, topic: &str) -> bool {
    let (filter, topic) = (split_share(filter).1.as_bytes(), topic.as_bytes());
    let kept_away = topic.first() == Some(&b'$') && matches!(filter, [b'+' | b'#', ..]);
    !kept_away && reaches_levels(filter, topic)
}

/// The same, but a wildcard in the first level reaches names that begin with `$`, too: what narrows subscriptions is no
/// reason to look away from what is published there.
#[inline]
#[must_use]
pub fn reaches(filter: &str, topic: &str) -> bool {
    reaches_levels(split_share(filter).1.as_bytes(), topic.as_bytes())
}

#[inline]
fn reaches_levels(mut filter: &[u8], mut topic: &[u8]) -> bool {
    // Names hold no wildcards, so what is equal is literal: most filters are done here.
    match filter {
        [literal @ .., b'/', b'#']
            if topic.strip_prefix(literal).is_some_and(|rest| rest.starts_with(b"/")) =>
        {
            return true;
        }
        _ if filter == topic => return true,
        _ => {}
    }
    loop {
        // Both begin with a level.
        let ((level, further), (name, below)) = (split_level(filter), split_level(topic));
        match level {
            b"#" => return further.is_empty(),
            b"+" => {}
            literal if literal == name => {}
            _ => return false,
        }
        (filter, topic) = match (further, below) {
            ([], below) => return below.is_empty(),
            // `a/#` matches its parent `a`.
            (further, []) => return further == b"/#",
            ([_, filter @ ..], [_, topic @ ..]) => (filter, topic),
        };
    }
}

/// The level that `bytes` begin with, and what follows it, from the `/` on.
#[inline]
fn split_level(bytes: &[u8]) -> (&[u8], &[u8]) {
    bytes.split_at(bytes.iter().position(|byte| *byte == b'/').unwrap_or(bytes.len()))
}

/// Whether every topic that `inner` matches is matched by `outer` too. Shares count as the filters behind
/// them.
#[must_use]
pub fn contains(outer: &str, inner: &str) -> bool {
    let (outer, inner) = (split_share(outer).1, split_share(inner).1);
    // A wildcard in the first level does not reach names that begin with `$`.
    if inner.starts_with('$') && outer.starts_with(['+', '#']) {
        return false;
    }
    // The parent that a `#` matches too is no topic name here: the empty one. So these mean no more than that.
    let inner = match inner {
        "#" => "+/#",
        "/#" => "/+/#",
        inner => inner,
    };
    // Level by level: what is a level to one side is one to the other, wildcards included.
    let mut inner = inner.as_bytes().split(|byte| *byte == b'/');
    for level in outer.as_bytes().split(|byte| *byte == b'/') {
        let met = match (level, inner.next()) {
            // Also when `inner` has ended: `a/#` matches its parent.
            (b"#", _) => return true,
            // `#` stands for any number of levels, and `+` for one.
            (b"+", Some(other)) => other != b"#",
            (literal, Some(other)) => literal == other,
            (_, None) => false,
        };
        if !met {
            return false;
        }
    }
    inner.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_fill_whole_levels() {
        for filter in
            ["a", "/", "#", "+", "+/#", "a/#", "/#", "a/+/b", "+/+", "$SYS/#", "$share", "$shared/x"]
        {
            assert_eq!(check_filter(filter), Ok(()), "{filter}");
        }
        assert_eq!(check_filter(""), Err(TopicError::EmptyFilter));
        assert_eq!(check_filter("a#"), Err(TopicError::Hash { at: 1 }));
        assert_eq!(check_filter("#/a"), Err(TopicError::Hash { at: 0 }));
        assert_eq!(check_filter("a/+b"), Err(TopicError::Plus { at: 2 }));
        assert_eq!(check_filter("a+/b"), Err(TopicError::Plus { at: 1 }));
        assert_eq!(check_filter("a\0"), Err(TopicError::Null { at: 1 }));
    }

    #[test]
    fn a_share_needs_a_name_and_a_plain_filter() {
        for filter in ["$share/g/a", "$share/g/#", "$share/g/+/x", "$share/g//", "$share/g/$SYS/#"] {
            assert_eq!(check_filter(filter), Ok(()), "{filter}");
        }
        for filter in ["$share/", "$share//a", "$share/+/a", "$share/g#/a"] {
            assert_eq!(check_filter(filter), Err(TopicError::ShareName { at: 7 }), "{filter}");
        }
        assert_eq!(check_filter("$share/g"), Err(TopicError::ShareFilter { at: 8 }));
        assert_eq!(check_filter("$share/g/"), Err(TopicError::ShareFilter { at: 9 }));
        assert_eq!(check_filter("$share/g/$share/h/a"), Err(TopicError::ShareFilter { at: 9 }));
        assert_eq!(check_filter("$share/g/a#"), Err(TopicError::Hash { at: 10 }));
        assert_eq!(check_filter("$share/\0/a"), Err(TopicError::Null { at: 7 }));
    }

    #[test]
    fn before_5_0_an_incomplete_share_is_an_odd_filter() {
        for filter in ["$share/", "$share/x", "$share/x/", "$share//", "$share/+", "$share/#"] {
            for version in [Version::V31, Version::V311] {
                assert_eq!(check_filter_of(version, filter), Ok(()), "{filter}");
            }
            assert!(check_filter_of(Version::V5, filter).is_err(), "{filter}");
            assert_eq!(split_share(filter), (None, filter));
        }
        // What some broker may take for a share is judged as one.
        for (filter, name) in [("$share/g/a", "g"), ("$share//a", ""), ("$share/+/a", "+")] {
            assert_eq!(check_filter_of(Version::V311, filter), Ok(()), "{filter}");
            assert_eq!(split_share(filter), (Some(name), "a"));
        }
        for filter in ["$share/g/$share/h/a", "$share/g#/a", "$share/g/a#", "$share/\0", "", "a#"] {
            assert!(check_filter_of(Version::V311, filter).is_err(), "{filter}");
        }
    }

    #[test]
    fn what_is_asked_about_reaches_topics_that_begin_with_a_dollar() {
        for filter in ["#", "+/x", "+/#", "+/+", "$SYS/#", "$SYS/x", "$share/g/#"] {
            assert!(reaches(filter, "$SYS/x"), "{filter}");
        }
        for filter in ["+", "a/#", "$sys/#", "+/y"] {
            assert!(!reaches(filter, "$SYS/x"), "{filter}");
        }
        assert!(reaches("#", "a/b") && reaches("a/#", "a") && !reaches("a/+", "a"));
    }

    #[test]
    fn a_share_is_taken_apart() {
        let shared = TopicFilter::new("$share/g/a/+").unwrap();
        assert_eq!((shared.share(), shared.unshared().as_str()), (Some("g"), "a/+"));
        let plain = TopicFilter::new("a/+").unwrap();
        assert_eq!((plain.share(), plain.unshared()), (None, plain));
        assert!(shared.matches("a/b") && shared.contains(&plain) && plain.contains(&shared));
    }

    #[test]
    fn filters_match_as_the_standard_shows() {
        for (filter, topic, expected) in [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
            ("sport/#", "sport", true),
            ("sport/tennis/+", "sport/tennis/player1", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "$SYS/monitor/Clients", false),
            ("+/monitor/Clients", "$SYS/monitor/Clients", false),
            ("$SYS/#", "$SYS/monitor/Clients", true),
            ("$SYS/monitor/+", "$SYS/monitor/Clients", true),
            ("a/+/#", "a", false),
            ("+/#", "a", true),
            ("a/b", "a/b/c", false),
            ("a/$x", "a/$x", true),
            ("a/#", "ab", false),
        ] {
            assert_eq!(matches(filter, topic), expected, "{filter} {topic}");
        }
    }

    #[test]
    fn a_filter_covers_what_it_can_only_widen() {
        for (outer, inner, expected) in [
            ("#", "#", true),
            ("+/#", "#", true),
            ("#", "+/#", true),
            ("+/+/#", "#", false),
            ("/+/#", "/#", true),
            ("+/+/#", "/#", true),
            ("a/+/#", "a/#", false),
            ("+", "#", false),
            ("a/#", "a", true),
            ("a/#", "a/#", true),
            ("a/#", "a/+", true),
            ("a/+", "a/#", false),
            ("+/b", "a/b", true),
            ("a/b", "+/b", false),
            ("#", "$SYS/x", false),
            ("+/x", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
            ("#", "a/$SYS", true),
            ("a/#", "#", false),
            ("a/b/#", "a/+/#", false),
            ("$share/g/a/#", "$share/h/a/b", true),
        ] {
            assert_eq!(contains(outer, inner), expected, "{outer} over {inner}");
        }
    }
}
