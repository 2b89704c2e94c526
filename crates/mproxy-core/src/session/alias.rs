//! MQTT 5.0 topic aliases of one direction [MQTT-3.3.2.3.4]: what the sender means by each, and what the receiver was taught.
//!
//! The two differ once a PUBLISH that introduced an alias was refused or rewritten: the receiver never saw it, or saw
//! another topic. The next use is then sent with its full topic, which teaches it anew.

use std::collections::HashMap;
use std::sync::Arc;

/// Aliases of one direction. Bounded in bytes by its owner through [`bytes`](Aliases::bytes).
#[derive(Debug, Default)]
pub(super) struct Aliases {
    meant: HashMap<u16, Arc<str>>,
    taught: HashMap<u16, Arc<str>>,
    bytes: usize,
}

impl Aliases {
    /// Bytes of topics held.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What the sender means by `alias`.
    pub(super) fn meant(&self, alias: u16) -> Option<Arc<str>> {
        self.meant.get(&alias).cloned()
    }

    /// The sender introduces `alias`, or gives it a new meaning.
    pub(super) fn mean(&mut self, alias: u16, topic: &str) {
        Self::set(&mut self.meant, &mut self.bytes, alias, topic);
    }

    /// Whether the receiver takes `alias` for `topic`.
    pub(super) fn knows(&self, alias: u16, topic: &str) -> bool {
        self.taught.get(&alias).is_some_and(|taught| **taught == *topic)
    }

    /// The receiver is sent `alias` together with `topic`.
    pub(super) fn teach(&mut self, alias: u16, topic: &str) {
        Self::set(&mut self.taught, &mut self.bytes, alias, topic);
    }

    fn set(map: &mut HashMap<u16, Arc<str>>, bytes: &mut usize, alias: u16, topic: &str) {
        if map.get(&alias).is_some_and(|old| **old == *topic) {
            return;
        }
        *bytes += topic.len();
        if let Some(old) = map.insert(alias, topic.into()) {
            *bytes -= old.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_introduction_leaves_the_receiver_untaught() {
        let mut aliases = Aliases::default();
        aliases.mean(1, "a");
        assert_eq!(aliases.meant(1).as_deref(), Some("a"));
        assert!(!aliases.knows(1, "a"));
        aliases.teach(1, "a");
        assert!(aliases.knows(1, "a"));
        aliases.mean(1, "b");
        assert!(!aliases.knows(1, "b"));
    }

    #[test]
    fn bytes_follow_what_is_held() {
        let mut aliases = Aliases::default();
        aliases.mean(1, "abc");
        aliases.mean(1, "de");
        aliases.teach(1, "de");
        assert_eq!(aliases.bytes(), 4);
    }
}
