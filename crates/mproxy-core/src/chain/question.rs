//! The kinds of questions, as far as a chain has to know them: to put them to one adviser after the other, to keep them for those
//! that come later, and to ask about what is left open.

use std::sync::Arc;

use mproxy_codec::packet::subscribe::FilterRequest;
use smallvec::SmallVec;

use super::{Chain, Ruled, resolve_silence};
use crate::peer::Peer;
use crate::policy::{
    Answer, ConnectDecision, ConnectQuestion, Decided, Decider, ExchangeDecision, ExchangeQuestion, Hook,
    KeptConnect, KeptExchange, KeptPublish, KeptSubscribe, Partial, PartialDecisions, PublishDecision,
    PublishQuestion, Ruling, Silence, SubscribeDecision, SubscribeQuestion, Undecided,
};

/// One kind of question, as far as it has to be known to ask one adviser after the other.
pub(super) trait Question {
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
pub(super) trait KeptQuestion<D: Decided>: Send + 'static {
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
pub(super) struct PublishAt<'a>(pub(super) Hook, pub(super) &'a PublishQuestion<'a>);

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
pub(super) struct KeptPublishAt(Hook, KeptPublish);

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
                let question = SubscribeQuestion::new(self.peer, &open, self.properties).at(self.time);
                // Who knows a part of a SUBSCRIBE denies the rest of it by silence.
                chain.first(next, silence.and(Silence::DENIES), &question)
            }
        };
        let join = |decided, verdict: Result<_, Undecided>| Ok(SubscribeDecision::join(decided, verdict));
        match rest {
            Ok(ruled) => ruled.map(move |Ruling { source, verdict, endpoint }| Ruling {
                source,
                verdict: join(decided, verdict),
                endpoint,
            }),
            Err(silence) => {
                let rest = resolve_silence(Hook::Subscribe, self.peer, silence);
                Ruled::Now(Ruling::new(source, join(decided, rest.verdict)))
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
