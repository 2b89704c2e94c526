//! What is said to a question, whichever that is: for tests that say the same to all of them.

use mproxy_core::policy::{
    ConnectDecision, Decided, Decision, ExchangeDecision, Failure, FilterChange, Hook, Overload,
    PublishDecision, Refusal, SubscribeDecision, Undecided, Unusable,
};

/// What is said to a question. Who says it to another question than it is for has written a wrong test.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// To a CONNECT.
    Connect(ConnectDecision),
    /// To a PUBLISH, either direction.
    Publish(PublishDecision),
    /// To a SUBSCRIBE: one for each filter, in order.
    Subscribe(Vec<Decision<FilterChange>>),
    /// To a SUBSCRIBE: the same for all of its filters.
    SubscribeAll(Decision<()>),
    /// To a step of an authentication.
    Exchange(ExchangeDecision),
    /// No answer, or none that can be read.
    Failed(Failure),
    /// An answer that cannot be carried out.
    Unusable(Unusable),
    /// A limit of mproxy's own.
    Overloaded(Overload),
}

impl Verdict {
    /// Yes, as it is.
    #[must_use]
    pub fn allow(hook: Hook) -> Self {
        match hook {
            Hook::Connect => Self::Connect(Decided::allow()),
            Hook::Publish | Hook::Deliver => Self::Publish(Decided::allow()),
            Hook::Subscribe => Self::SubscribeAll(Decision::Allow(())),
            Hook::Exchange => Self::Exchange(Decided::allow()),
        }
    }

    /// No, like this.
    #[must_use]
    pub fn refuse(hook: Hook, refusal: Refusal) -> Self {
        match hook {
            Hook::Connect => Self::Connect(Decided::refuse(refusal)),
            Hook::Publish | Hook::Deliver => Self::Publish(Decided::refuse(refusal)),
            Hook::Subscribe => Self::SubscribeAll(Decision::Refuse(refusal)),
            Hook::Exchange => Self::Exchange(Decided::refuse(refusal)),
        }
    }
}

/// A kind of decision that a [`Verdict`] may be.
pub trait ScriptedDecision: Decided {
    /// As it is decided.
    ///
    /// # Errors
    /// Nothing is.
    ///
    /// # Panics
    /// It is for another question.
    fn from_verdict(verdict: Verdict) -> Result<Self, Undecided>;

    /// As it is said.
    fn into_verdict(decided: Result<Self, Undecided>) -> Verdict;
}

fn undecided<D: std::fmt::Debug>(verdict: Verdict) -> Result<D, Undecided> {
    match verdict {
        Verdict::Failed(failure) => Err(failure.into()),
        Verdict::Unusable(unusable) => Err(unusable.into()),
        Verdict::Overloaded(overload) => Err(overload.into()),
        other => panic!("a verdict to another question: {other:?}"),
    }
}

fn undecided_verdict(undecided: Undecided) -> Verdict {
    match undecided {
        Undecided::Failed(failure) => Verdict::Failed(failure),
        Undecided::Unusable(unusable) => Verdict::Unusable(unusable),
        Undecided::Overloaded(overload) => Verdict::Overloaded(overload),
    }
}

impl ScriptedDecision for ConnectDecision {
    fn from_verdict(verdict: Verdict) -> Result<Self, Undecided> {
        match verdict {
            Verdict::Connect(decision) => Ok(decision),
            other => undecided(other),
        }
    }

    fn into_verdict(decided: Result<Self, Undecided>) -> Verdict {
        decided.map_or_else(undecided_verdict, Verdict::Connect)
    }
}

impl ScriptedDecision for PublishDecision {
    fn from_verdict(verdict: Verdict) -> Result<Self, Undecided> {
        match verdict {
            Verdict::Publish(decision) => Ok(decision),
            other => undecided(other),
        }
    }

    fn into_verdict(decided: Result<Self, Undecided>) -> Verdict {
        decided.map_or_else(undecided_verdict, Verdict::Publish)
    }
}

impl ScriptedDecision for ExchangeDecision {
    fn from_verdict(verdict: Verdict) -> Result<Self, Undecided> {
        match verdict {
            Verdict::Exchange(decision) => Ok(decision),
            other => undecided(other),
        }
    }

    fn into_verdict(decided: Result<Self, Undecided>) -> Verdict {
        decided.map_or_else(undecided_verdict, Verdict::Exchange)
    }
}

impl ScriptedDecision for SubscribeDecision {
    fn from_verdict(verdict: Verdict) -> Result<Self, Undecided> {
        match verdict {
            Verdict::Subscribe(each) => Ok(Self::Each(each)),
            Verdict::SubscribeAll(all) => Ok(Self::All(all)),
            other => undecided(other),
        }
    }

    fn into_verdict(decided: Result<Self, Undecided>) -> Verdict {
        match decided {
            Ok(Self::All(all)) => Verdict::SubscribeAll(all),
            Ok(Self::Each(each) | Self::InPart(each, _)) => Verdict::Subscribe(each),
            Err(undecided) => undecided_verdict(undecided),
        }
    }
}
