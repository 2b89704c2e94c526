//! MQTT 5.0 topic aliases of one direction (3.3.2.3.4): what the sender means by each, and what the receiver was taught.
//!
//! The two differ once a PUBLISH that introduced an alias was refused or rewritten: the receiver never saw it, or saw
//! another topic. The next use is then sent with its full topic, which teaches it anew.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Aliases of one direction. What the sender means is bounded by its owner through [`bytes`](Aliases::bytes); what the
/// receiver was taught bounds itself, for it may be forgotten at any time: then the topic is sent once more.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Aliases {
    meant: Topics,
    taught: Topics,
}

/// Topics by alias, and their length in all.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Topics {
    of: BTreeMap<u16, Arc<str>>,
    bytes: usize,
}

impl Aliases {
    /// Bytes of topics that the sender has introduced.
    pub(super) fn bytes(&self) -> usize {
        self.meant.bytes
    }

    /// Bytes that both tables hold.
    pub(super) fn weight(&self) -> usize {
        const ENTRY: usize = 64;
        self.meant.bytes + self.taught.bytes + (self.meant.of.len() + self.taught.of.len()) * ENTRY
    }

    /// What the sender means by `alias`.
    pub(super) fn sender_topic(&self, alias: u16) -> Option<Arc<str>> {
        self.meant.of.get(&alias).cloned()
    }

    /// The sender introduces `alias`, or gives it a new meaning.
    pub(super) fn set_sender_topic(&mut self, alias: u16, topic: &str) {
        self.meant.set(alias, topic);
    }

    /// Whether the receiver takes `alias` for `topic`.
    pub(super) fn receiver_has(&self, alias: u16, topic: &str) -> bool {
        self.taught.of.get(&alias).is_some_and(|taught| **taught == *topic)
    }

    /// The receiver is sent `alias` together with `topic`. No more than `most` bytes are remembered, and this topic.
    pub(super) fn set_receiver_topic(&mut self, alias: u16, topic: &str, most: usize) {
        // All at once: which alias the sender uses next is not known, and each that is forgotten costs one full topic.
        if self.taught.bytes > most {
            self.taught = Topics::default();
        }
        self.taught.set(alias, topic);
    }
}

impl Topics {
    fn set(&mut self, alias: u16, topic: &str) {
        // Senders repeat topic and alias together; nothing is allocated for that.
        if self.of.get(&alias).is_some_and(|old| **old == *topic) {
            return;
        }
        self.bytes += topic.len();
        if let Some(old) = self.of.insert(alias, topic.into()) {
            self.bytes -= old.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_introduction_leaves_the_receiver_untaught() {
        let mut aliases = Aliases::default();
        aliases.set_sender_topic(1, "a");
        assert_eq!(aliases.sender_topic(1).as_deref(), Some("a"));
        assert!(!aliases.receiver_has(1, "a"));
        aliases.set_receiver_topic(1, "a", 9);
        assert!(aliases.receiver_has(1, "a"));
        aliases.set_sender_topic(1, "b");
        assert!(!aliases.receiver_has(1, "b"));
    }

    #[test]
    fn bytes_follow_what_is_held() {
        let mut aliases = Aliases::default();
        aliases.set_sender_topic(1, "abc");
        aliases.set_sender_topic(1, "de");
        assert_eq!(aliases.bytes(), 2);
        aliases.set_sender_topic(1, "de");
        assert_eq!(aliases.bytes(), 2);
    }

    #[test]
    fn what_was_taught_is_forgotten_rather_than_grown() {
        let mut aliases = Aliases::default();
        aliases.set_receiver_topic(1, "abc", 3);
        aliases.set_receiver_topic(2, "def", 3);
        assert!(aliases.receiver_has(1, "abc") && aliases.receiver_has(2, "def"));
        aliases.set_receiver_topic(3, "ghi", 3);
        assert!(!aliases.receiver_has(1, "abc") && aliases.receiver_has(3, "ghi"));
    }
}
