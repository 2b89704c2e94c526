//! A SUBSCRIBE held against many rules. Each filter is judged once; where that is more work than others on the same thread
//! should wait for, it is cut into slices, and they have their turns in between.

use std::sync::Arc;

use mproxy_codec::packet::subscribe::FilterRequest;
use mproxy_core::policy::{
    Answer, Decision, FilterChange, KeptSubscribe, Partial, PartialDecisions, Ruling, Silence, Source,
    SubscribeDecision, SubscribeQuestion,
};
use mproxy_core::rule::{Who, comparisons};

/// Filters times rules of one slice, longer texts as several: some 16 ns each, so a quarter of a millisecond.
const SLICE: usize = 16 << 10;

/// Holds the filters of a SUBSCRIBE against the rules of one adviser.
pub(crate) struct FilterJudge<J> {
    pub(crate) source: Source,
    /// What it means that it knows of no filter, if nobody else does.
    pub(crate) silence: Silence,
    /// Rules that each filter is held against.
    pub(crate) rules: usize,
    /// The decision on one filter; `None`: its rules do not name it.
    pub(crate) decide: J,
}

impl<J> FilterJudge<J>
where
    J: Fn(&FilterRequest<'_>) -> Option<Decision<FilterChange>> + Send + 'static,
{
    /// Judges all filters: at once, or slice by slice where they are many.
    pub(crate) fn judge(self, question: &SubscribeQuestion<'_>) -> Answer<SubscribeDecision> {
        let who = Who::from(&**question.peer);
        let comparisons = question
            .filters
            .iter()
            .map(|request| self.comparisons(request, who))
            .fold(0, usize::saturating_add);
        // One filter cannot be cut, and its length bounds it. Half a million of them against a thousand rules kept
        // a thread for 17 seconds.
        if comparisons > SLICE && question.filters.len() > 1 {
            return Answer::Later(Box::pin(self.in_slices(question.to_kept())));
        }
        let decisions = question.filters.iter().map(&self.decide).collect();
        self.answer(decisions)
    }

    /// The work that one filter is, in comparisons.
    fn comparisons(&self, request: &FilterRequest<'_>, who: Who<'_>) -> usize {
        comparisons(self.rules, 1, request.filter.as_str().len(), who)
    }

    async fn in_slices(self, kept: Arc<KeptSubscribe>) -> Answer<SubscribeDecision> {
        let mut decisions = PartialDecisions::with_capacity(kept.count());
        while decisions.len() < kept.count() {
            let who = Who::from(&**kept.peer());
            let mut spent = 0_usize;
            let filters = kept.filters_from(decisions.len()).take_while(|request| {
                // A filter that alone is over a slice goes alone: else none would ever be taken, and the loop would not end.
                let first = spent == 0;
                spent = spent.saturating_add(self.comparisons(request, who));
                first || spent <= SLICE
            });
            decisions.extend(filters.map(|request| (self.decide)(&request)));
            // Others on this thread have their turn, and the deadline of the question its chance.
            tokio::task::yield_now().await;
        }
        self.answer(decisions)
    }

    /// `decisions`: one for each filter, in their order.
    fn answer(self, decisions: PartialDecisions) -> Answer<SubscribeDecision> {
        let plain = Some(Decision::Allow(FilterChange::default()));
        let source = self.source;
        if decisions.iter().all(Option::is_none) {
            Answer::Pass(self.silence)
        } else if decisions.iter().all(|decision| *decision == plain) {
            Answer::Now(Ruling::allow(source))
        } else if decisions.iter().all(Option::is_some) {
            let each = decisions.into_iter().flatten().collect();
            Answer::Now(Ruling::new(source, Ok(SubscribeDecision::Each(each))))
        } else {
            // Not a refusal of the rest: somebody after this adviser may allow it, and the chain joins both.
            Answer::Partial(Partial { source, part: decisions })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll, Waker};

    use mproxy_codec::property::Properties;
    use mproxy_codec::topic::TopicFilter;
    use mproxy_codec::types::QoS;
    use mproxy_core::policy::Refusal;

    use super::*;
    use crate::contract::tests::peer;

    /// Judges every filter but those that begin with `x`, and counts.
    fn judge(
        rules: usize,
        count: &Arc<AtomicUsize>,
    ) -> FilterJudge<impl Fn(&FilterRequest<'_>) -> Option<Decision<FilterChange>> + Send + 'static> {
        let count = Arc::clone(count);
        let decide = move |request: &FilterRequest<'_>| {
            count.fetch_add(1, Ordering::Relaxed);
            let no = request.filter.as_str().starts_with('x');
            Some(if no {
                Decision::Refuse(Refusal::default())
            } else {
                Decision::Allow(FilterChange::default())
            })
        };
        FilterJudge { source: Source::Acl, silence: Silence::DENIES, rules, decide }
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
        let question = SubscribeQuestion::new(&peer, &filters, Properties::EMPTY);
        let count = Arc::new(AtomicUsize::new(0));
        let Answer::Later(mut pending) = judge(1000, &count).judge(&question) else { panic!("at once") };
        let mut cx = Context::from_waker(Waker::noop());
        let mut turns = 0;
        let ruling = loop {
            let before = count.load(Ordering::Relaxed);
            match pending.as_mut().poll(&mut cx) {
                Poll::Ready(Answer::Now(ruling)) => break ruling,
                Poll::Ready(answer) => panic!("{answer:?}"),
                Poll::Pending => turns += 1,
            }
            assert!(count.load(Ordering::Relaxed) - before <= SLICE / 1000);
        };
        assert_eq!((count.load(Ordering::Relaxed), turns), (1000, 1000_usize.div_ceil(SLICE / 1000)));
        let Ok(SubscribeDecision::Each(decisions)) = ruling.verdict else { panic!("{ruling:?}") };
        let refused: Vec<_> =
            decisions.iter().enumerate().filter(|(_, one)| matches!(one, Decision::Refuse(_))).collect();
        assert_eq!((decisions.len(), refused.len(), refused[0].0), (1000, 1, 7));

        // Long texts are as much work as many short ones.
        count.store(0, Ordering::Relaxed);
        let long = "a".repeat(60_000);
        let filters_long = [FilterRequest::new(TopicFilter::new(&long).unwrap(), QoS::AtMostOnce); 3];
        let few = SubscribeQuestion::new(&peer, &filters_long, Properties::EMPTY);
        let Answer::Later(mut pending) = judge(20, &count).judge(&few) else { panic!("at once") };
        for seen in 1..=3 {
            assert!(pending.as_mut().poll(&mut cx).is_pending());
            assert_eq!(count.load(Ordering::Relaxed), seen);
        }

        count.store(0, Ordering::Relaxed);
        let few = SubscribeQuestion::new(&peer, &filters[..5], Properties::EMPTY);
        assert!(matches!(judge(1000, &count).judge(&few), Answer::Now(_)));
        assert_eq!(count.load(Ordering::Relaxed), 5);
    }
}
