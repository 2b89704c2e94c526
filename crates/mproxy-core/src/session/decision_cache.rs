//! Answers that stand: the topics that a rule allowed last, so that a device that publishes to the same few topics
//! over and over is not looked up in the rules each time.

use std::time::Instant;

use super::cached_answers::{CachedAnswers, CachedVerdict};
use crate::policy::{Decision, Source};

/// Topics remembered of one direction. A device has a few; who has many is looked up.
const TOPICS: usize = 4;

/// Bytes of the longest topic that is remembered.
const LONGEST: usize = 128;

/// Publishes that were allowed as they are by rules that look at nothing but who, topic, QoS and RETAIN, and bound the
/// payload's size at most.
/// True as long as the rules' [edition](crate::Decider::edition) is the same.
#[derive(Debug, Default)]
pub(super) struct DecisionCache {
    edition: u64,
    topics: Vec<AllowedTopic>,
    /// Which is to be forgotten next.
    oldest: usize,
    /// What the policy service has answered, and lets be used again.
    answers: Option<Box<CachedAnswers>>,
}

#[derive(Debug, Default)]
struct AllowedTopic {
    /// The first byte of the packet: QoS and RETAIN.
    first: u8,
    topic: Vec<u8>,
    source: Option<Source>,
    /// Bytes of the largest payload that was allowed: a rule may bound them, and then a larger one is another question.
    most: usize,
}

impl DecisionCache {
    /// Forgets everything that rules of another edition said.
    pub(super) fn sync_edition(&mut self, edition: u64) {
        if self.edition != edition {
            (self.edition, self.oldest) = (edition, 0);
            self.topics.clear();
            // They came behind rules that had nothing to say.
            self.answers = None;
        }
    }

    /// Who allowed a PUBLISH with this first byte and topic, and a payload of so many bytes.
    #[inline]
    pub(super) fn find(&self, first: u8, topic: &[u8], payload: usize) -> Option<Source> {
        match self.topics.iter().find(|one| one.first == first && one.topic == topic) {
            Some(known) => known.source.filter(|_| payload <= known.most),
            None => self.find_answer(first, topic),
        }
    }

    /// A PUBLISH that was repeated (DUP) is not among them: whether it was answered before has to be seen.
    fn find_answer(&self, first: u8, topic: &[u8]) -> Option<Source> {
        let verdict = self.answers.as_ref()?.find(first, topic)?;
        (*verdict == CachedVerdict::Publish(Decision::Allow(None))).then_some(Source::Cache)
    }

    /// The answers that may be used again.
    pub(super) fn answers(&mut self) -> &mut CachedAnswers {
        self.answers.get_or_insert_default()
    }

    /// The same, where the rules are still of this edition.
    pub(super) fn answers_of(&self, edition: u64) -> Option<&CachedAnswers> {
        self.answers.as_deref().filter(|_| self.edition == edition)
    }

    pub(super) const fn has_answers(&self) -> bool {
        self.answers.is_some()
    }

    /// Forgets the answers that have had their time.
    #[inline]
    pub(super) fn expire(&mut self, now: Instant) {
        if let Some(answers) = &mut self.answers {
            answers.expire(now);
        }
    }

    /// Bytes of answers. Topics that rules allowed are few, and not counted.
    pub(super) fn weight(&self) -> usize {
        self.answers.as_ref().map_or(0, |answers| answers.weight())
    }

    /// Remembers one with a payload of so many bytes, in the place of the one that was learnt first.
    pub(super) fn learn(&mut self, first: u8, topic: &str, payload: usize, source: Source) {
        if topic.len() > LONGEST {
            return;
        }
        let known = self.topics.iter_mut().find(|one| one.first == first && one.topic == topic.as_bytes());
        if let Some(known) = known {
            known.most = known.most.max(payload);
            return;
        }
        if self.find_answer(first, topic.as_bytes()).is_some() {
            return;
        }
        if self.topics.len() < TOPICS {
            self.topics.push(AllowedTopic::default());
            self.oldest = self.topics.len() - 1;
        }
        let Some(one) = self.topics.get_mut(self.oldest) else { return };
        self.oldest = (self.oldest + 1) % TOPICS;
        // In its place, so that learning over and over allocates nothing.
        one.topic.clear();
        one.topic.extend_from_slice(topic.as_bytes());
        (one.first, one.source, one.most) = (first, Some(source), payload);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_makes_room() {
        let mut cache = DecisionCache::default();
        for topic in ["a", "b", "c", "d", "e", "e"] {
            cache.learn(0x30, topic, 9, Source::Acl);
        }
        let known = |topic: &str| cache.find(0x30, topic.as_bytes(), 9).is_some();
        assert_eq!(["a", "b", "c", "d", "e"].map(known), [false, true, true, true, true]);
        assert!(cache.find(0x31, b"e", 9).is_none(), "RETAIN is another question");
    }

    #[test]
    fn a_larger_payload_is_another_question() {
        let mut cache = DecisionCache::default();
        let finds = |cache: &DecisionCache, payload| cache.find(0x30, b"a", payload).is_some();
        cache.learn(0x30, "a", 9, Source::Acl);
        assert!(finds(&cache, 0) && finds(&cache, 9) && !finds(&cache, 10));
        cache.learn(0x30, "a", 20, Source::Acl);
        cache.learn(0x30, "a", 3, Source::Acl);
        assert!(finds(&cache, 20) && !finds(&cache, 21));
    }

    #[test]
    fn another_edition_knows_nothing() {
        let mut cache = DecisionCache::default();
        cache.learn(0x30, "a", 9, Source::Acl);
        cache.sync_edition(0);
        assert!(cache.find(0x30, b"a", 9).is_some());
        cache.sync_edition(1);
        assert!(cache.find(0x30, b"a", 9).is_none());
    }
}
