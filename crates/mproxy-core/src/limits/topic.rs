//! How long topics and filters of a client may be, and how deep.

use mproxy_codec::topic::split_share;

use crate::policy::LimitKind;

/// Bounds of each topic and filter that a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicLimits {
    /// Bytes.
    pub length: u32,
    /// Levels; `a/b` has two.
    pub levels: u32,
}

impl TopicLimits {
    /// What the protocol allows.
    pub const ANY: Self = Self { length: u32::MAX, levels: u32::MAX };

    /// Whether a topic keeps to them.
    #[inline]
    #[must_use]
    pub fn allow(self, topic: &[u8]) -> bool {
        self.exceeded(topic).is_none()
    }

    /// The one that a topic exceeds.
    #[inline]
    #[must_use]
    pub fn exceeded(self, topic: &[u8]) -> Option<LimitKind> {
        if topic.len() > self.length as usize {
            return Some(LimitKind::TopicLength);
        }
        // One with so many levels has nearly as many bytes: where there is no limit nothing is counted.
        let is_deep = topic.len() >= self.levels as usize
            && topic.iter().filter(|byte| **byte == b'/').count() >= self.levels as usize;
        is_deep.then_some(LimitKind::TopicLevels)
    }

    /// The one that a filter exceeds; of a shared subscription, what is subscribed to counts.
    #[must_use]
    pub fn exceeded_by_filter(self, filter: &str) -> Option<LimitKind> {
        self.exceeded(split_share(filter).1.as_bytes())
    }
}

impl Default for TopicLimits {
    fn default() -> Self {
        Self::ANY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_levels_are_counted_to_the_last() {
        let limits = TopicLimits { length: 8, levels: 3 };
        for (topic, exceeded) in [
            ("a", None),
            ("a/b/c", None),
            ("//", None),
            ("12345678", None),
            ("123456789", Some(LimitKind::TopicLength)),
            ("a/b/c/d", Some(LimitKind::TopicLevels)),
            ("///", Some(LimitKind::TopicLevels)),
            ("a/b/c/", Some(LimitKind::TopicLevels)),
        ] {
            assert_eq!(limits.exceeded(topic.as_bytes()), exceeded, "{topic}");
            assert!(TopicLimits::ANY.allow(topic.as_bytes()));
        }
        assert_eq!(limits.exceeded_by_filter("$share/long-group/a/+/#"), None);
        assert_eq!(limits.exceeded_by_filter("$share/g/a/+/c/#"), Some(LimitKind::TopicLevels));
        let one = TopicLimits { levels: 1, ..TopicLimits::ANY };
        assert!(one.allow(b"a") && !one.allow(b"/"));
    }
}
