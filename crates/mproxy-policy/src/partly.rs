//! A SUBSCRIBE that an adviser knows in part: the next one is asked about the other filters, and the answers are put
//! together in the client's order.

use mproxy_codec::reason::ReasonCode;
use mproxy_core::chain::refused;
use mproxy_core::policy::{
    Answer, Decider, Decision, FilterChange, Hook, Question, Refusal, Ruling, Source, SubscribeQuestion,
    Verdict,
};
use tracing::warn;

/// What is known of each filter, in the client's order; `None`: nothing.
pub(crate) type Words = Vec<Option<Decision<FilterChange>>>;

/// The answer of an adviser, called `source`, that knows these words. Where nobody after it speaks either, the open
/// filters are refused: both who know a SUBSCRIBE in part, the rule file and a grant, deny by silence.
pub(crate) fn partly(
    source: Source,
    next: Option<&dyn Decider>,
    question: &SubscribeQuestion<'_>,
    words: Words,
) -> Answer {
    let open: Vec<_> = question
        .filters
        .iter()
        .zip(&words)
        .filter_map(|(request, word)| word.is_none().then_some(*request))
        .collect();
    let next = match next {
        Some(next) if !open.is_empty() => {
            next.decide(&Question::Subscribe(SubscribeQuestion { filters: &open, ..*question }))
        }
        Some(_) | None => Answer::Pass,
    };
    match next {
        Answer::Pass => {
            let rest = refused(Hook::Subscribe, Refusal::default());
            Answer::Now(Ruling { source, verdict: joined(words, rest) })
        }
        Answer::Now(Ruling { source, verdict }) => {
            Answer::Now(Ruling { source, verdict: joined(words, verdict) })
        }
        Answer::Later(pending) => Answer::Later(Box::pin(async move {
            let Ruling { source, verdict } = pending.await;
            Ruling { source, verdict: joined(words, verdict) }
        })),
    }
}

/// Puts the verdict on the open filters into their places.
fn joined(words: Words, open: Verdict) -> Verdict {
    let count = words.iter().filter(|word| word.is_none()).count();
    let open = match open {
        Verdict::Subscribe(verdicts) if verdicts.len() == count => verdicts,
        Verdict::SubscribeAll(Decision::Allow(())) => {
            vec![Decision::Allow(FilterChange::default()); count]
        }
        Verdict::SubscribeAll(Decision::Refuse(refusal)) => vec![Decision::Refuse(refusal); count],
        Verdict::Failed(failure) => {
            // The failure rule is one for the whole SUBSCRIBE. Where it says "allow", it must not lift what is
            // known to be refused; so the failure is answered here, closed.
            warn!(%failure, "the rest of a SUBSCRIBE could not be decided: refused");
            vec![Decision::Refuse(Refusal::new(ReasonCode::SERVER_UNAVAILABLE)); count]
        }
        Verdict::Unusable(unusable) => {
            warn!(%unusable, "the rest of a SUBSCRIBE could not be decided: refused");
            vec![Decision::Refuse(Refusal::new(unusable.reason)); count]
        }
        Verdict::Overloaded(overload) => {
            warn!(%overload, "the rest of a SUBSCRIBE could not be decided: refused");
            vec![Decision::Refuse(Refusal::new(ReasonCode::QUOTA_EXCEEDED)); count]
        }
        Verdict::Subscribe(_) | Verdict::Connect(_) | Verdict::Publish(_) => {
            vec![Decision::Refuse(Refusal::new(ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR)); count]
        }
    };
    let mut open = open.into_iter();
    let refused = || Decision::Refuse(Refusal::default());
    Verdict::Subscribe(
        words.into_iter().map(|word| word.or_else(|| open.next()).unwrap_or_else(refused)).collect(),
    )
}
