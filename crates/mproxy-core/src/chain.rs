//! Several advisers, one after the other, and what holds when none of them knows.
//!
//! | room | holds |
//! |---|---|
//! | `question` | the kinds of questions: how each is put, kept, and asked again in part |
//! | `silence` | what holds where nobody has spoken |

mod question;
mod silence;

use std::sync::Arc;

use self::question::{KeptQuestion, PublishAt, Question};
pub use self::silence::resolve_silence;

use crate::grant::GrantAnswer;
use crate::peer::Peer;
use crate::policy::{
    Answer, ConnectDecision, ConnectQuestion, Decided, Decider, Decision, ExchangeDecision, ExchangeQuestion,
    Explanation, Failure, FailureKind, Foreseen, Ground, Hook, Partial, Pending, PublishDecision,
    PublishQuestion, RenewQuestion, Ruling, Silence, Source, SubscribeDecision, SubscribeQuestion, Supposed,
    Unusable, Want,
};
use crate::rule::{Act, AskedFilter};

/// Advisers in the order in which they are asked. The first that does not pass has decided; of one that knows some filters
/// of a SUBSCRIBE only, the next is asked about the others. One that wants nothing of a hook is not asked about it, and its
/// silence means nothing there.
///
/// When all pass, [`resolve_silence`] says what holds. A chain of nobody allows everything, and is never even asked after
/// CONNECT. Cheap to clone.
#[derive(Clone)]
pub struct Chain {
    deciders: Arc<[Arc<dyn Decider>]>,
}

/// What a chain says to a question: a ruling in any case.
pub enum Ruled<D> {
    /// This is it.
    Now(Ruling<D>),
    /// It is on its way.
    Later(Pending<Ruling<D>>),
}

impl<D: Send + 'static> Ruled<D> {
    /// The ruling, as soon as it is there.
    pub async fn wait(self) -> Ruling<D> {
        match self {
            Self::Now(ruling) => ruling,
            Self::Later(pending) => pending.await,
        }
    }

    fn map(self, change: impl FnOnce(Ruling<D>) -> Ruling<D> + Send + 'static) -> Self {
        match self {
            Self::Now(ruling) => Self::Now(change(ruling)),
            Self::Later(pending) => Self::Later(Box::pin(async move { change(pending.await) })),
        }
    }
}

impl Chain {
    /// A chain of these, asked in this order.
    #[must_use]
    pub fn new(deciders: Vec<Arc<dyn Decider>>) -> Self {
        Self { deciders: deciders.into() }
    }

    /// A chain of this one alone.
    #[must_use]
    pub fn of(decider: Arc<dyn Decider>) -> Self {
        Self::new(vec![decider])
    }

    /// May this client connect?
    #[must_use]
    pub fn connect(&self, question: &ConnectQuestion<'_>) -> Ruled<ConnectDecision> {
        self.ask(0, Silence::Abstains, question)
    }

    /// The same, asked when the answer is waited for and not before, even where it could be had at once.
    #[must_use]
    pub fn connect_in_turn(&self, question: &ConnectQuestion<'_>) -> Ruled<ConnectDecision> {
        // As if somebody before all others had needed time, and left it to them.
        let turn = std::future::ready(Answer::Pass(Silence::Abstains));
        self.later(0, Silence::Abstains, Box::pin(turn), question)
    }

    /// May it publish this?
    #[must_use]
    pub fn publish(&self, question: &PublishQuestion<'_>) -> Ruled<PublishDecision> {
        self.ask(0, Silence::Abstains, &PublishAt(Hook::Publish, question))
    }

    /// May it subscribe to these?
    #[must_use]
    pub fn subscribe(&self, question: &SubscribeQuestion<'_>) -> Ruled<SubscribeDecision> {
        self.ask(0, Silence::Abstains, question)
    }

    /// May it be sent this?
    #[must_use]
    pub fn deliver(&self, question: &PublishQuestion<'_>) -> Ruled<PublishDecision> {
        self.ask(0, Silence::Abstains, &PublishAt(Hook::Deliver, question))
    }

    /// What follows in its authentication? That nobody says is a failed answer.
    #[must_use]
    pub fn exchange(&self, question: &ExchangeQuestion<'_>) -> Ruled<ExchangeDecision> {
        self.ask(0, Silence::Abstains, question)
    }

    /// Whether somebody answers authentications by this method.
    #[must_use]
    pub fn takes_method(&self, method: &str) -> bool {
        self.who_wants(Hook::Exchange, 0).any(|(_, decider)| decider.takes_method(method))
    }

    /// Asks the adviser whose admissions come from `granter` which grant the client shall have from now on. Nobody else is
    /// asked; that nobody answers is a failed answer.
    #[must_use]
    pub fn renew(&self, granter: Source, question: &RenewQuestion<'_>) -> Ruled<ConnectDecision> {
        let nobody = || {
            let failure = Failure::new(FailureKind::Unavailable, "nobody renews it");
            Ruling::new(Source::Unknown, Err(failure.into()))
        };
        // Another adviser's yes would replace rules that it does not know by none.
        let Some(decider) = self.deciders.iter().find(|decider| decider.gives(granter)) else {
            return Ruled::Now(nobody());
        };
        match decider.renew(question) {
            Answer::Now(ruling) => Ruled::Now(ruling),
            Answer::Later(pending) => Ruled::Later(Box::pin(async move {
                match await_answer(pending).await {
                    FinalAnswer::Ruling(ruling) => ruling,
                    FinalAnswer::Pass(_) => nobody(),
                    FinalAnswer::Partial(Partial { part, .. }) => match part {},
                }
            })),
            Answer::Pass(_) => Ruled::Now(nobody()),
            Answer::Partial(Partial { part, .. }) => match part {},
        }
    }

    /// What rules say at once of a subscription of this client's to this filter, in the order in which they are asked.
    /// [`GrantAnswer::Ask`]: none of them says anything.
    #[must_use]
    pub fn filter(&self, peer: &Peer, asked: AskedFilter<'_>) -> GrantAnswer<()> {
        let words = self.who_wants(Hook::Subscribe, 0).map(|(_, decider)| decider.filter(peer, asked));
        words.into_iter().find(|word| *word != GrantAnswer::Ask).unwrap_or(GrantAnswer::Ask)
    }

    /// Whether an answer about this topic or filter must not be remembered, because rules may say something else of it the
    /// next time.
    #[must_use]
    pub fn varies(&self, act: Act, name: &str, peer: &Peer) -> bool {
        self.deciders.iter().any(|decider| decider.varies(act, name, peer))
    }

    /// What would be decided about this now, and by whom: nobody is asked.
    #[must_use]
    pub fn explain(&self, supposed: &Supposed<'_>) -> Explanation {
        let (hook, mut silence, mut passed) = (supposed.hook(), Silence::Abstains, Vec::new());
        for (_, decider) in self.who_wants(hook, 0) {
            match decider.explain(supposed) {
                Foreseen::Passes(own, ground) => {
                    silence = silence.and(own);
                    passed.push(ground);
                }
                outcome @ (Foreseen::Decides(_) | Foreseen::Asks(_)) => {
                    return Explanation { passed, outcome, text: None };
                }
            }
        }
        let Ruling { source, verdict, .. } = resolve_silence::<PublishDecision>(hook, supposed.peer, silence);
        let (verdict, ground) = match verdict {
            Ok(Decision::Allow(_)) => (Ok(supposed.qos), Ground::Source(source)),
            Ok(Decision::Refuse(refusal)) => (Err(refusal.reason), refusal.ground.or_source(source)),
            Err(undecided) => (Err(undecided.reason()), Ground::Undecided(Arc::new(undecided))),
        };
        Explanation { passed, ..Explanation::decided(verdict, ground) }
    }

    /// What they want of a hook together.
    #[must_use]
    pub fn want(&self, hook: Hook) -> Want {
        self.deciders.iter().fold(Want::Nothing, |want, decider| want.and(decider.want(hook)))
    }

    /// The same, about this client.
    #[must_use]
    pub fn want_of(&self, hook: Hook, peer: &Peer) -> Want {
        self.deciders.iter().fold(Want::Nothing, |want, decider| want.and(decider.want_of(hook, peer)))
    }

    /// With how many rules a topic or filter of this client's is compared, at most.
    #[must_use]
    pub fn effort(&self, hook: Hook, peer: &Peer) -> usize {
        self.deciders.iter().map(|decider| decider.effort(hook, peer)).sum()
    }

    /// Another number than before as soon as an answer that stands may be another.
    #[must_use]
    pub fn edition(&self) -> u64 {
        // Each one's only grows, so that their sum does.
        self.deciders.iter().map(|decider| decider.edition()).fold(0, u64::wrapping_add)
    }

    /// Asks from the adviser in place `from` on; those before it passed with this silence.
    fn ask<Q: Question>(&self, from: usize, silence: Silence, question: &Q) -> Ruled<Q::Decision> {
        self.first(from, silence, question)
            .unwrap_or_else(|silence| Ruled::Now(resolve_silence(question.hook(), question.peer(), silence)))
    }

    /// The first answer.
    ///
    /// # Errors
    /// Nobody spoke: what the silence of those who passed means.
    #[inline]
    fn first<Q: Question>(
        &self,
        from: usize,
        mut silence: Silence,
        question: &Q,
    ) -> Result<Ruled<Q::Decision>, Silence> {
        for (at, decider) in self.who_wants(question.hook(), from) {
            match question.put_to(&**decider) {
                Answer::Pass(own) => silence = silence.and(own),
                Answer::Partial(partial) => {
                    return Ok(question.ask_rest(self, at + 1, silence, partial));
                }
                Answer::Now(ruling) => return Ok(Ruled::Now(ruling)),
                Answer::Later(pending) => {
                    return Ok(self.later(at + 1, silence, pending, question));
                }
            }
        }
        Err(silence)
    }

    /// Asks from place `from` on, where something may be known already.
    fn go_on<Q: Question>(
        &self,
        from: usize,
        silence: Silence,
        known: Option<Partial<Q::Decision>>,
        question: &Q,
    ) -> Ruled<Q::Decision> {
        match known {
            None => self.ask(from, silence, question),
            Some(known) => question.ask_rest(self, from, silence, known),
        }
    }

    /// The adviser before place `next` needs time; if it leaves something open after all, those behind it are asked.
    fn later<Q: Question>(
        &self,
        next: usize,
        silence: Silence,
        pending: Pending<Answer<Q::Decision>>,
        question: &Q,
    ) -> Ruled<Q::Decision> {
        let hook = question.hook();
        // Nobody is left to ask: the question need not be copied, which it is for most services.
        if self.who_wants(hook, next).next().is_none() {
            let peer = Arc::clone(question.peer());
            return Ruled::Later(Box::pin(async move {
                match await_answer(pending).await {
                    FinalAnswer::Ruling(ruling) => ruling,
                    FinalAnswer::Pass(own) => resolve_silence(hook, &peer, silence.and(own)),
                    FinalAnswer::Partial(Partial { source, part }) => {
                        // It was asked and left these open; nobody after it has allowed them.
                        let rest = resolve_silence(hook, &peer, silence.and(Silence::DENIES));
                        Ruling::new(source, Ok(Decided::join(part, rest.verdict)))
                    }
                }
            }));
        }
        // The packet leaves its buffer before the answer comes; those behind are asked with what was copied of it.
        let (chain, kept) = (self.clone(), question.keep());
        Ruled::Later(Box::pin(async move {
            let ruled = match await_answer(pending).await {
                FinalAnswer::Ruling(ruling) => return ruling,
                FinalAnswer::Pass(own) => kept.ask_again(&chain, next, silence.and(own), None),
                FinalAnswer::Partial(partial) => kept.ask_again(&chain, next, silence, Some(partial)),
            };
            match ruled {
                Some(ruled) => ruled.wait().await,
                None => {
                    // Not a failed answer: what nobody could be asked about is not for the failure rule to let
                    // through (ADR 0017).
                    let unusable = Unusable::invalid("the question could not be read again");
                    Ruling::new(Source::Unusable, Err(unusable.into()))
                }
            }
        }))
    }

    /// Who is asked about this hook, from place `from` on.
    fn who_wants(&self, hook: Hook, from: usize) -> impl Iterator<Item = (usize, &Arc<dyn Decider>)> {
        let all = self.deciders.iter().enumerate().skip(from);
        all.filter(move |(_, decider)| decider.want(hook) != Want::Nothing)
    }
}

impl Default for Chain {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

/// An answer that has come, however long it took.
enum FinalAnswer<D: Decided> {
    Pass(Silence),
    Partial(Partial<D>),
    Ruling(Ruling<D>),
}

async fn await_answer<D: Decided>(mut pending: Pending<Answer<D>>) -> FinalAnswer<D> {
    loop {
        match pending.await {
            Answer::Pass(silence) => return FinalAnswer::Pass(silence),
            Answer::Partial(partial) => return FinalAnswer::Partial(partial),
            Answer::Now(ruling) => return FinalAnswer::Ruling(ruling),
            Answer::Later(next) => pending = next,
        }
    }
}
