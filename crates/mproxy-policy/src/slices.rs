//! A SUBSCRIBE held against many rules. Each filter is judged once; where that is more work than others on the same thread
//! should wait for, it is cut into slices, and they have their turns in between.

use std::sync::Arc;

use mproxy_codec::packet::subscribe::{FilterRequest, RetainHandling};
use mproxy_codec::property::{Place, Properties};
use mproxy_codec::topic::TopicFilter;
use mproxy_codec::types::{PacketType, QoS, Sender};
use mproxy_core::chain::{allowed, unspoken};
use mproxy_core::peer::Peer;
use mproxy_core::policy::{
    Answer, Decider, Decision, FilterChange, Hook, Question, Ruling, Silence, Source, SubscribeQuestion,
};
use mproxy_core::rule::{Who, toil};

use crate::partly::{Words, partly};

/// Filters times rules of one slice, longer texts as several: some 16 ns each, so a quarter of a millisecond.
const SLICE: usize = 16 << 10;

/// Who judges, and who is asked about what it leaves open.
pub(crate) struct Judge<J> {
    pub(crate) source: Source,
    pub(crate) next: Option<Arc<dyn Decider>>,
    /// Rules that each filter is held against.
    pub(crate) rules: usize,
    /// What is known of a filter; `None`: nothing.
    pub(crate) word: J,
}

impl<J> Judge<J>
where
    J: Fn(&FilterRequest<'_>) -> Option<Decision<FilterChange>> + Send + 'static,
{
    /// Judges all filters: at once, or slice by slice where they are many.
    pub(crate) fn judge(self, question: &SubscribeQuestion<'_>) -> Answer {
        let who = Who::from(&**question.peer);
        let toil =
            question.filters.iter().map(|request| self.toil(request, who)).fold(0, usize::saturating_add);
        if toil > SLICE && question.filters.len() > 1 {
            return Answer::Later(Box::pin(self.in_slices(Asked::copied(question))));
        }
        let words: Words = question.filters.iter().map(&self.word).collect();
        let plain = Some(Decision::Allow(FilterChange::default()));
        if words.iter().all(Option::is_none) {
            return Answer::Pass;
        }
        if words.iter().all(|word| *word == plain) {
            return Answer::Now(Ruling { source: self.source, verdict: allowed(Hook::Subscribe) });
        }
        partly(self.source, self.next.as_deref(), question, words)
    }

    /// The work that one filter is, in comparisons.
    fn toil(&self, request: &FilterRequest<'_>, who: Who<'_>) -> usize {
        toil(self.rules, 1, request.filter.as_str().len(), who)
    }

    async fn in_slices(self, asked: Asked) -> Ruling {
        let mut words = Words::with_capacity(asked.count());
        while words.len() < asked.count() {
            let who = Who::from(&*asked.peer);
            let mut spent = 0_usize;
            let filters = asked.filters_from(words.len()).take_while(|request| {
                let first = spent == 0;
                spent = spent.saturating_add(self.toil(request, who));
                first || spent <= SLICE
            });
            words.extend(filters.map(|request| (self.word)(&request)));
            tokio::task::yield_now().await;
        }
        let known = words.iter().any(Option::is_some);
        let answer = asked.put(|question| match &self.next {
            next if known => partly(self.source, next.as_deref(), question, words),
            Some(next) => next.decide(&Question::Subscribe(*question)),
            None => Answer::Pass,
        });
        match answer {
            Answer::Now(ruling) => ruling,
            Answer::Later(pending) => pending.await,
            // As the chain has it: both who judge here deny by silence.
            Answer::Pass => unspoken(Hook::Subscribe, &asked.peer, Silence::Denies),
        }
    }
}

/// A SUBSCRIBE copied out of its packet, in few pieces.
struct Asked {
    peer: Arc<Peer>,
    properties: Box<[u8]>,
    text: String,
    filters: Vec<Line>,
}

/// One filter: where its text ends, and its options.
struct Line {
    end: u32,
    qos: QoS,
    no_local: bool,
    retain_as_published: bool,
    retain_handling: RetainHandling,
}

impl Asked {
    fn copied(question: &SubscribeQuestion<'_>) -> Self {
        let mut text = String::new();
        let filters = question
            .filters
            .iter()
            .map(|request| {
                text.push_str(request.filter.as_str());
                Line {
                    // A packet is far smaller than that.
                    end: text.len() as u32,
                    qos: request.qos,
                    no_local: request.no_local,
                    retain_as_published: request.retain_as_published,
                    retain_handling: request.retain_handling,
                }
            })
            .collect();
        let (peer, properties) = (Arc::clone(question.peer), question.properties.raw().into());
        Self { peer, properties, text, filters }
    }

    fn count(&self) -> usize {
        self.filters.len()
    }

    fn filters_from(&self, first: usize) -> impl Iterator<Item = FilterRequest<'_>> {
        let begin = |at: usize| at.checked_sub(1).map_or(0, |before| self.filters[before].end);
        (first..self.filters.len()).filter_map(move |at| {
            let line = &self.filters[at];
            let text = self.text.get(begin(at) as usize..line.end as usize)?;
            Some(FilterRequest {
                filter: TopicFilter::new(text).ok()?,
                qos: line.qos,
                no_local: line.no_local,
                retain_as_published: line.retain_as_published,
                retain_handling: line.retain_handling,
            })
        })
    }

    fn put<A>(&self, to: impl FnOnce(&SubscribeQuestion<'_>) -> A) -> A {
        let filters: Vec<_> = self.filters_from(0).collect();
        let place = Place::Packet(PacketType::Subscribe);
        let properties =
            Properties::check(&self.properties, place, Sender::Client).unwrap_or(Properties::EMPTY);
        to(&SubscribeQuestion { peer: &self.peer, filters: &filters, properties })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll, Waker};

    use mproxy_core::policy::{Refusal, Verdict};

    use super::*;
    use crate::contract::tests::peer;

    /// Judges every filter but those that begin with `x`, and counts.
    fn judge(
        rules: usize,
        count: &Arc<AtomicUsize>,
    ) -> Judge<impl Fn(&FilterRequest<'_>) -> Option<Decision<FilterChange>> + Send + 'static> {
        let count = Arc::clone(count);
        let word = move |request: &FilterRequest<'_>| {
            count.fetch_add(1, Ordering::Relaxed);
            let no = request.filter.as_str().starts_with('x');
            Some(if no {
                Decision::Refuse(Refusal::default())
            } else {
                Decision::Allow(FilterChange::default())
            })
        };
        Judge { source: Source::Acl, next: None, rules, word }
    }

    #[tokio::test]
    async fn many_filters_are_judged_once_each_and_in_slices() {
        let names: Vec<String> =
            (0..1000).map(|n| format!("{}{n}", if n == 7 { 'x' } else { 'a' })).collect();
        let filters: Vec<_> = names
            .iter()
            .map(|name| FilterRequest::new(TopicFilter::new(name).unwrap(), QoS::AtMostOnce))
            .collect();
        let peer = peer(mproxy_codec::types::Version::V5);
        let question = SubscribeQuestion { peer: &peer, filters: &filters, properties: Properties::EMPTY };
        let count = Arc::new(AtomicUsize::new(0));
        let Answer::Later(mut pending) = judge(1000, &count).judge(&question) else { panic!("at once") };
        let mut cx = Context::from_waker(Waker::noop());
        let mut turns = 0;
        let ruling = loop {
            let before = count.load(Ordering::Relaxed);
            match pending.as_mut().poll(&mut cx) {
                Poll::Ready(ruling) => break ruling,
                Poll::Pending => turns += 1,
            }
            assert!(count.load(Ordering::Relaxed) - before <= SLICE / 1000);
        };
        assert_eq!((count.load(Ordering::Relaxed), turns), (1000, 1000_usize.div_ceil(SLICE / 1000)));
        let Verdict::Subscribe(decisions) = ruling.verdict else { panic!("{ruling:?}") };
        let refused: Vec<_> =
            decisions.iter().enumerate().filter(|(_, one)| matches!(one, Decision::Refuse(_))).collect();
        assert_eq!((decisions.len(), refused.len(), refused[0].0), (1000, 1, 7));

        // Long texts are as much work as many short ones.
        count.store(0, Ordering::Relaxed);
        let long = "a".repeat(60_000);
        let filters_long = [FilterRequest::new(TopicFilter::new(&long).unwrap(), QoS::AtMostOnce); 3];
        let few = SubscribeQuestion { filters: &filters_long, ..question };
        let Answer::Later(mut pending) = judge(20, &count).judge(&few) else { panic!("at once") };
        for seen in 1..=3 {
            assert!(pending.as_mut().poll(&mut cx).is_pending());
            assert_eq!(count.load(Ordering::Relaxed), seen);
        }

        count.store(0, Ordering::Relaxed);
        let few = SubscribeQuestion { filters: &filters[..5], ..question };
        assert!(matches!(judge(1000, &count).judge(&few), Answer::Now(_)));
        assert_eq!(count.load(Ordering::Relaxed), 5);
    }
}
