//! Several advisers, one after the other, and what holds when none of them knows.

use std::sync::Arc;

use mproxy_codec::packet::subscribe::FilterRequest;
use smallvec::SmallVec;

use crate::grant::{Grant, GrantAnswer, GrantGround};
use crate::peer::Peer;
use crate::policy::{
    Answer, ConnectDecision, ConnectQuestion, Decided, Decider, Decision, ExchangeDecision, ExchangeQuestion,
    Explanation, Failure, FailureKind, Foreseen, ForeseenDecision, Ground, Hook, KeptConnect, KeptExchange,
    KeptPublish, KeptSubscribe, Partial, PartialDecisions, Pending, PublishDecision, PublishQuestion,
    Refusal, RenewQuestion, Ruling, Silence, Source, SubscribeDecision, SubscribeQuestion, Supposed,
    Undecided, Unusable, Want,
};

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
    async fn wait(self) -> Ruling<D> {
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

    /// Asks the adviser whose admissions come from `granter` which grant the client shall have from now on. Nobody else is
    /// asked; that nobody answers is a failed answer.
    #[must_use]
    pub fn renew(&self, granter: Source, question: &RenewQuestion<'_>) -> Ruled<ConnectDecision> {
        let nobody = || Ruling {
            source: Source::Unknown,
            verdict: Err(Failure::new(FailureKind::Unavailable, "nobody renews it").into()),
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
    pub fn filter(&self, peer: &Peer, filter: &str) -> GrantAnswer<()> {
        let words = self.who_wants(Hook::Subscribe, 0).map(|(_, decider)| decider.filter(peer, filter));
        words.into_iter().find(|word| *word != GrantAnswer::Ask).unwrap_or(GrantAnswer::Ask)
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
                    return Explanation { passed, outcome };
                }
            }
        }
        let Ruling { source, verdict } = resolve_silence::<PublishDecision>(hook, supposed.peer, silence);
        let (verdict, ground) = match verdict {
            Ok(Decision::Allow(_)) => (Ok(supposed.qos), Ground::Source(source)),
            Ok(Decision::Refuse(refusal)) => (Err(refusal.reason), refusal.ground.or_source(source)),
            Err(undecided) => (Err(undecided.reason()), Ground::Undecided(Arc::new(undecided))),
        };
        Explanation { passed, outcome: Foreseen::Decides(ForeseenDecision { verdict, ground }) }
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
                        Ruling { source, verdict: Ok(Decided::join(part, rest.verdict)) }
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
                    Ruling { source: Source::Unusable, verdict: Err(unusable.into()) }
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

/// The ruling where nobody spoke: the one place in which silence means something.
///
/// - A step of an authentication: a failed answer. Nobody's silence says who a client is.
/// - A client with a grant: its grant said to ask, and nobody could be asked. Refused, or, once the grant is stale, as
///   undecided as its renewal. Never allowed: whoever gave the grant did not leave it out, but asked for it.
/// - Somebody passed whose silence [`Denies`](Silence::Denies): refused.
/// - Else those who were there told beforehand that they do not want to be asked, or have no objection, or nobody was
///   there: allowed.
#[must_use]
pub fn resolve_silence<D: Decided>(hook: Hook, peer: &Peer, silence: Silence) -> Ruling<D> {
    if hook == Hook::Exchange {
        let failure = Failure::new(FailureKind::Unavailable, "nobody answers it");
        return Ruling { source: Source::Unknown, verdict: Err(failure.into()) };
    }
    // Before silence: whoever gave the grant said "ask", which is more than nothing (ADR 0017).
    if let Some(ruling) = peer.grant.as_ref().and_then(|grant| unanswered(grant, hook)) {
        return ruling;
    }
    match silence {
        Silence::Abstains => Ruling::allow(Source::Unasked),
        Silence::Agrees(source) => Ruling::allow(source),
        Silence::Denies(source, about) => {
            Ruling::refuse(source, Refusal::default().about(about).by(Ground::Source(source)))
        }
    }
}

/// Where a grant says to ask, and nobody can be asked: `None` if it has nothing to say on this hook.
fn unanswered<D: Decided>(grant: &Arc<Grant>, hook: Hook) -> Option<Ruling<D>> {
    match hook {
        // A grant is what the answer to CONNECT brings. It has nothing to say about that itself.
        Hook::Connect | Hook::Exchange => return None,
        Hook::Deliver if !grant.receives() => return None,
        Hook::Publish | Hook::Subscribe | Hook::Deliver => {}
    }
    // A stale grant has no rules left to refuse by: the failure rule holds for what it would have decided (ADR
    // 0017).
    let verdict = match grant.stale_because() {
        Some(because) => Err(because.clone()),
        None => {
            let ground = Ground::Grant(Arc::clone(grant), GrantGround::Unanswered);
            Ok(D::refuse(Refusal::default().by(ground)))
        }
    };
    Some(Ruling { source: Source::Grant, verdict })
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

/// One kind of question, as far as it has to be known to ask one adviser after the other.
trait Question {
    type Decision: Decided;
    type Kept: KeptQuestion<Self::Decision>;

    fn hook(&self) -> Hook;

    fn peer(&self) -> &Arc<Peer>;

    fn put_to(&self, decider: &dyn Decider) -> Answer<Self::Decision>;

    /// Asks from place `next` on about what is left open.
    fn ask_rest(
        &self,
        chain: &Chain,
        next: usize,
        silence: Silence,
        known: Partial<Self::Decision>,
    ) -> Ruled<Self::Decision>;

    fn keep(&self) -> Self::Kept;
}

/// The same, copied out of its packet.
trait KeptQuestion<D: Decided>: Send + 'static {
    /// Asks from place `next` on: about all of it, or about what is left open where something is `known`. `None`: it could
    /// not be read again.
    fn ask_again(
        &self,
        chain: &Chain,
        next: usize,
        silence: Silence,
        known: Option<Partial<D>>,
    ) -> Option<Ruled<D>>;
}

/// Nobody knows a part of such a question: there is no value that would say so.
macro_rules! never_in_part {
    () => {
        fn ask_rest(
            &self,
            _: &Chain,
            _: usize,
            _: Silence,
            known: Partial<Self::Decision>,
        ) -> Ruled<Self::Decision> {
            match known.part {}
        }
    };
}

impl Question for ConnectQuestion<'_> {
    type Decision = ConnectDecision;
    type Kept = KeptConnect;

    fn hook(&self) -> Hook {
        Hook::Connect
    }

    fn peer(&self) -> &Arc<Peer> {
        self.peer
    }

    fn put_to(&self, decider: &dyn Decider) -> Answer<ConnectDecision> {
        decider.connect(self)
    }

    never_in_part!();

    fn keep(&self) -> KeptConnect {
        KeptConnect::of(self)
    }
}

impl KeptQuestion<ConnectDecision> for KeptConnect {
    fn ask_again(
        &self,
        chain: &Chain,
        next: usize,
        silence: Silence,
        known: Option<Partial<ConnectDecision>>,
    ) -> Option<Ruled<ConnectDecision>> {
        self.put(|question| chain.go_on(next, silence, known, question))
    }
}

/// A PUBLISH of the client's, or a delivery: the hook says which.
struct PublishAt<'a>(Hook, &'a PublishQuestion<'a>);

impl Question for PublishAt<'_> {
    type Decision = PublishDecision;
    type Kept = KeptPublishAt;

    fn hook(&self) -> Hook {
        self.0
    }

    fn peer(&self) -> &Arc<Peer> {
        self.1.peer
    }

    fn put_to(&self, decider: &dyn Decider) -> Answer<PublishDecision> {
        match self.0 {
            Hook::Deliver => decider.deliver(self.1),
            Hook::Connect | Hook::Publish | Hook::Subscribe | Hook::Exchange => decider.publish(self.1),
        }
    }

    never_in_part!();

    fn keep(&self) -> KeptPublishAt {
        KeptPublishAt(self.0, KeptPublish::of(self.1, self.0))
    }
}

/// The same, copied out of its packet.
struct KeptPublishAt(Hook, KeptPublish);

impl KeptQuestion<PublishDecision> for KeptPublishAt {
    fn ask_again(
        &self,
        chain: &Chain,
        next: usize,
        silence: Silence,
        known: Option<Partial<PublishDecision>>,
    ) -> Option<Ruled<PublishDecision>> {
        self.1.put(|question| chain.go_on(next, silence, known, &PublishAt(self.0, question)))
    }
}

impl Question for SubscribeQuestion<'_> {
    type Decision = SubscribeDecision;
    type Kept = Arc<KeptSubscribe>;

    fn hook(&self) -> Hook {
        Hook::Subscribe
    }

    fn peer(&self) -> &Arc<Peer> {
        self.peer
    }

    fn put_to(&self, decider: &dyn Decider) -> Answer<SubscribeDecision> {
        decider.subscribe(self)
    }

    fn ask_rest(
        &self,
        chain: &Chain,
        next: usize,
        silence: Silence,
        known: Partial<SubscribeDecision>,
    ) -> Ruled<SubscribeDecision> {
        let Partial { source, part: decided } = known;
        debug_assert_eq!(decided.len(), self.filters.len(), "an adviser answers about each filter");
        let open = open_filters(self.filters, &decided);
        let rest = match open.is_empty() {
            true => Err(silence),
            false => {
                let question = SubscribeQuestion::new(self.peer, &open, self.properties);
                // Who knows a part of a SUBSCRIBE denies the rest of it by silence.
                chain.first(next, silence.and(Silence::DENIES), &question)
            }
        };
        let join = |decided, verdict: Result<_, Undecided>| Ok(SubscribeDecision::join(decided, verdict));
        match rest {
            Ok(ruled) => ruled
                .map(move |Ruling { source, verdict }| Ruling { source, verdict: join(decided, verdict) }),
            Err(silence) => {
                let rest = resolve_silence(Hook::Subscribe, self.peer, silence);
                Ruled::Now(Ruling { source, verdict: join(decided, rest.verdict) })
            }
        }
    }

    fn keep(&self) -> Arc<KeptSubscribe> {
        self.to_kept()
    }
}

impl KeptQuestion<SubscribeDecision> for Arc<KeptSubscribe> {
    fn ask_again(
        &self,
        chain: &Chain,
        next: usize,
        silence: Silence,
        known: Option<Partial<SubscribeDecision>>,
    ) -> Option<Ruled<SubscribeDecision>> {
        self.put(|question| chain.go_on(next, silence, known, question))
    }
}

impl Question for ExchangeQuestion<'_> {
    type Decision = ExchangeDecision;
    type Kept = KeptExchange;

    fn hook(&self) -> Hook {
        Hook::Exchange
    }

    fn peer(&self) -> &Arc<Peer> {
        self.peer
    }

    fn put_to(&self, decider: &dyn Decider) -> Answer<ExchangeDecision> {
        decider.exchange(self)
    }

    never_in_part!();

    fn keep(&self) -> KeptExchange {
        KeptExchange::of(self)
    }
}

impl KeptQuestion<ExchangeDecision> for KeptExchange {
    fn ask_again(
        &self,
        chain: &Chain,
        next: usize,
        silence: Silence,
        known: Option<Partial<ExchangeDecision>>,
    ) -> Option<Ruled<ExchangeDecision>> {
        Some(self.put(|question| chain.go_on(next, silence, known, question)))
    }
}

/// The filters of which nothing is known.
fn open_filters<'a>(
    filters: &[FilterRequest<'a>],
    decided: &PartialDecisions,
) -> SmallVec<[FilterRequest<'a>; 8]> {
    filters.iter().zip(decided).filter_map(|(request, one)| one.is_none().then_some(*request)).collect()
}
