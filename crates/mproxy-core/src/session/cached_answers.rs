//! Answers of the policy service that it allows to be used again (`cache_for`): the same question of the same client is
//! answered from here until the time that it gave has passed.
//!
//! An answer is kept for one hook, topic (or filter), QoS and RETAIN. It goes when its time has passed, when there are too
//! many, and with all others when the rules or the client's grant change, or the service says so.

use std::sync::Arc;
use std::time::Instant;

use mproxy_codec::packet::publish_flags;
use mproxy_codec::types::{PacketType, QoS};

use crate::policy::{Decision, FilterChange, PublishDecision, Refusal, ServiceAnswer};

/// Bytes of answers that are kept of one direction: those about some hundred topics. Where there are more, the oldest go.
pub(super) const MOST: usize = 16 << 10;

/// What stands behind one that is kept: which answer it was.
const ANSWER: usize = size_of::<ServiceAnswer>() + 2 * size_of::<usize>();

/// The answers of one direction.
#[derive(Debug, Default)]
pub(super) struct CachedAnswers {
    /// In the order in which they came.
    answers: Vec<CachedAnswer>,
    bytes: usize,
    /// When the first of them ends.
    ends: Option<Instant>,
}

/// One of them.
#[derive(Debug)]
pub(super) struct CachedAnswer {
    pub(super) about: u8,
    pub(super) name: Box<str>,
    pub(super) until: Instant,
    pub(super) verdict: CachedVerdict,
    /// Which answer it was, where it allowed. A refusal names it itself.
    pub(super) answer: Option<Arc<ServiceAnswer>>,
}

/// What was answered.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum CachedVerdict {
    /// About a PUBLISH or a delivery.
    Publish(PublishDecision),
    /// About a filter.
    Filter(Decision<FilterChange>),
}

/// What an answer is about, besides a name: the first byte of a PUBLISH, without DUP.
pub(super) const fn about_publish(qos: QoS, retain: bool) -> u8 {
    PacketType::Publish.first_byte() | publish_flags(false, qos, retain)
}

/// The same for a filter that is asked for with this QoS.
pub(super) const fn about_filter(qos: QoS) -> u8 {
    // Without the flags of its first byte, which would take the place of the QoS.
    (PacketType::Subscribe.first_byte() & 0xF0) | qos as u8
}

impl CachedAnswers {
    /// What is known about this.
    #[inline]
    pub(super) fn find(&self, about: u8, name: &[u8]) -> Option<&CachedVerdict> {
        let same = |one: &&CachedAnswer| one.about == about && one.name.as_bytes() == name;
        self.answers.iter().find(same).map(|one| &one.verdict)
    }

    /// All that is known about this, where it may still be used.
    pub(super) fn find_until(&self, about: u8, name: &[u8], now: Instant) -> Option<&CachedAnswer> {
        let same = |one: &&CachedAnswer| one.about == about && one.name.as_bytes() == name && one.until > now;
        self.answers.iter().find(same)
    }

    /// Which answer allowed this.
    pub(super) fn allowed_by(&self, about: u8, name: &[u8]) -> Option<&Arc<ServiceAnswer>> {
        let same = |one: &&CachedAnswer| one.about == about && one.name.as_bytes() == name;
        self.answers.iter().find(same)?.answer.as_ref()
    }

    /// Forgets what has had its time.
    #[inline]
    pub(super) fn expire(&mut self, now: Instant) {
        if self.ends.is_some_and(|ends| ends <= now) {
            self.answers.retain(|one| one.until > now);
            self.recount();
        }
    }

    /// Keeps this until then, in place of what is known about the same. The oldest make room.
    pub(super) fn learn(&mut self, answer: CachedAnswer, most: usize) {
        self.answers.retain(|one| one.about != answer.about || one.name != answer.name);
        self.recount();
        let weight = answer.weight();
        // It would push out all the others, and then have no room itself.
        if weight > most {
            return;
        }
        let mut gone = 0;
        while self.bytes + weight > most {
            self.bytes -= self.answers.get(gone).map_or(self.bytes, CachedAnswer::weight);
            gone += 1;
        }
        self.answers.drain(..gone.min(self.answers.len()));
        self.answers.push(answer);
        self.recount();
    }

    fn recount(&mut self) {
        self.bytes = self.answers.iter().map(CachedAnswer::weight).sum();
        self.ends = self.answers.iter().map(|one| one.until).min();
    }

    /// Bytes that they hold.
    pub(super) const fn weight(&self) -> usize {
        self.bytes
    }
}

impl CachedAnswer {
    fn weight(&self) -> usize {
        let text = |text: Option<&str>| text.map_or(0, str::len);
        let refusal = |refusal: &Refusal| {
            text(refusal.text.as_deref()) + text(refusal.server_reference.as_deref()) + ANSWER
        };
        let heap = match &self.verdict {
            CachedVerdict::Publish(Decision::Allow(None)) => 0,
            // Of an answer that is kept nothing else is changed: payload and properties are of one packet (ADR 0025).
            CachedVerdict::Publish(Decision::Allow(Some(change))) => {
                size_of_val(&**change) + text(change.topic.as_deref())
            }
            CachedVerdict::Filter(Decision::Allow(change)) => text(change.filter.as_deref()),
            CachedVerdict::Publish(Decision::Refuse(one)) | CachedVerdict::Filter(Decision::Refuse(one)) => {
                refusal(one)
            }
        };
        let answer = if self.answer.is_some() { ANSWER } else { 0 };
        size_of::<Self>() + self.name.len() + heap + answer
    }
}

#[cfg(test)]
mod tests;
