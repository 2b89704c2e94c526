//! Questions about what a client may do, and the answers to them.
//!
//! The session asks its [`Chain`](crate::Chain) of advisers in the middle of a packet, and each of those is a [`Decider`].
//! What is known is answered at once ([`Answer::Now`]: no wait, no allocation); what has to be fetched is answered by a
//! future ([`Answer::Later`]) that the session hands out as [`Effect::Ask`](crate::Effect::Ask) and hears of again
//! through [`Session::decide`](crate::Session::decide).
//!
//! | room | holds |
//! |---|---|
//! | `question` | what is asked, hook by hook |
//! | `decision` | what is decided: allowed, perhaps with changes, or refused |
//! | `foresight` | what would be decided now |
//! | `ground` | by what it was decided: which rule, which answer |
//! | `kept` | a question copied out of its packet, for advisers that come back to it later |

mod decision;
mod foresight;
mod ground;
mod kept;
mod question;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use self::decision::{
    About, Action, Admission, Authenticated, BrokerLogin, ConnectDecision, Decided, Decision,
    ExchangeDecision, ExchangeStep, FilterChange, PartialDecisions, PublishChange, PublishDecision, Refusal,
    SubscribeDecision, WillChange,
};
pub use self::foresight::{Explanation, Foreseen, ForeseenDecision, Supposed};
pub use self::ground::{Ground, LimitKind, ServiceAnswer};
pub use self::kept::{KeptConnect, KeptExchange, KeptPublish, KeptSubscribe};
pub use self::question::{
    ConnectQuestion, ExchangeQuestion, Hook, Payload, PublishQuestion, RenewQuestion, SubscribeQuestion,
};
use crate::grant::GrantAnswer;
use crate::peer::Peer;
pub use crate::rule::RuleFile;
use crate::rule::{Act, AskedFilter};
pub use crate::undecided::{Failure, FailureKind, Overload, Undecided, Unusable, UnusableKind};

/// What an adviser says to a question; `D` is what can be decided about it.
pub enum Answer<D: Decided> {
    /// I have no opinion: ask the next one. If nobody after me has one, this is what my silence means.
    Pass(Silence),
    /// I know a part of it: ask the next one about the rest. If nobody knows that, it is refused.
    Partial(Partial<D>),
    /// This is it.
    Now(Ruling<D>),
    /// I have to find out.
    Later(Pending<Self>),
}

impl<D: Decided + fmt::Debug> fmt::Debug for Answer<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pass(silence) => f.debug_tuple("Pass").field(silence).finish(),
            Self::Partial(_) => f.write_str("Partial(..)"),
            Self::Now(ruling) => f.debug_tuple("Now").field(ruling).finish(),
            Self::Later(_) => f.write_str("Later(..)"),
        }
    }
}

/// Something on its way. Must end by itself (it carries its own deadline) and may be dropped at any time.
pub type Pending<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What an adviser knows of a part.
pub struct Partial<D: Decided> {
    /// Who says so.
    pub source: Source,
    /// What it knows.
    pub part: D::Part,
}

/// What was decided, or why nothing was, and who said so.
///
/// *Allow* is a value that somebody gave. Of what is [undecided](Undecided), a failed answer alone meets the failure rule
/// ([`OnError`]); the rest is refused whatever it says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ruling<D> {
    /// Who said so.
    pub source: Source,
    /// What was said.
    pub verdict: Result<D, Undecided>,
    /// The endpoint of the policy service that said so, for the decision log. A refusal names it itself.
    pub endpoint: Option<Arc<str>>,
}

impl<D> Ruling<D> {
    /// Said by this one, of which there is nothing closer.
    #[must_use]
    pub const fn new(source: Source, verdict: Result<D, Undecided>) -> Self {
        Self { source, verdict, endpoint: None }
    }
}

impl<D: Decided> Ruling<D> {
    /// Yes, as it is.
    #[must_use]
    pub fn allow(source: Source) -> Self {
        Self::new(source, Ok(D::allow()))
    }

    /// No, like this.
    #[must_use]
    pub fn refuse(source: Source, refusal: Refusal) -> Self {
        Self::new(source, Ok(D::refuse(refusal)))
    }
}

/// Where a verdict came from; a label of the decision counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Source {
    /// No adviser cares for this hook.
    Unasked,
    /// Advisers are there, and none of them knew.
    Unknown,
    /// The static rule file. It looks at nothing of a PUBLISH but who sent it, its topic, QoS and RETAIN, and bounds its
    /// payload's size, unless its rules [vary](Decider::varies).
    Acl,
    /// The client's grant. It looks at no more than the rule file.
    Grant,
    /// A remembered answer.
    Cache,
    /// The policy service.
    Rpc,
    /// The budget of its connection: nobody was asked.
    Budget,
    /// The rate that the client's grant allows it: nobody was asked.
    Rate,
    /// A ban of whoever operates mproxy: nobody was asked.
    Ban,
    /// A limit that whoever operates mproxy has set for all clients: nobody was asked.
    Limit,
    /// The answer failed, and the failure rule says allow.
    FailedOpen,
    /// The answer failed, and the failure rule says deny.
    FailedClosed,
    /// An answer came that cannot be carried out.
    Unusable,
    /// A limit of mproxy's own.
    Overloaded,
}

impl Source {
    /// All of them, in order.
    pub const ALL: [Self; 14] = [
        Self::Unasked,
        Self::Unknown,
        Self::Acl,
        Self::Grant,
        Self::Cache,
        Self::Rpc,
        Self::Budget,
        Self::Rate,
        Self::Ban,
        Self::Limit,
        Self::FailedOpen,
        Self::FailedClosed,
        Self::Unusable,
        Self::Overloaded,
    ];

    /// Whether its yes to a PUBLISH stands for all with the same topic, QoS and RETAIN, and no larger payload, of the same
    /// client, until the decider's [edition](Decider::edition) changes, unless rules about that topic
    /// [vary](Decider::varies).
    #[must_use]
    pub const fn stands(self) -> bool {
        matches!(self, Self::Acl | Self::Grant)
    }

    /// The label, `"failed_closed"` for example.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unasked => "default_allow",
            Self::Unknown => "default_deny",
            Self::Acl => "acl",
            Self::Grant => "grant",
            Self::Cache => "cache",
            Self::Rpc => "policy_service",
            Self::Budget => "budget",
            Self::Rate => "rate",
            Self::Ban => "ban",
            Self::Limit => "limit",
            Self::FailedOpen => "failed_open",
            Self::FailedClosed => "failed_closed",
            Self::Unusable => "unusable",
            Self::Overloaded => "overloaded",
        }
    }
}

/// What an answer that [failed](Failure) means. It speaks of nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnError {
    /// The packet is refused with 0x88.
    #[default]
    Deny,
    /// It goes through unchanged.
    Allow,
}

/// What a decider needs to be asked about a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Do not ask me.
    Nothing,
    /// Ask, without the payload.
    Head,
    /// Ask, with payloads of up to so many bytes; larger ones by size only.
    Payload(u32),
}

impl Want {
    /// What both need together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nothing, want) | (want, Self::Nothing) => want,
            (Self::Head, want) | (want, Self::Head) => want,
            (Self::Payload(a), Self::Payload(b)) => Self::Payload(if a > b { a } else { b }),
        }
    }
}

/// What it means that an adviser [passes](Answer::Pass), if nobody after it speaks either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// It does not want to be asked, or it is none of its business: no objection.
    Abstains,
    /// It has no objection, and leaves it to others to have one.
    Agrees(Source),
    /// It would have said so if it were allowed: no. Who is to be counted as having said it, and about what.
    Denies(Source, About),
}

impl Silence {
    /// What it means where advisers are there and none of them knows.
    pub const DENIES: Self = Self::Denies(Source::Unknown, About::Unsaid);

    /// What the silence of two means, one after the other.
    #[must_use]
    pub const fn and(self, next: Self) -> Self {
        match (self, next) {
            // A no by silence is lifted by nobody's silence after it.
            (Self::Denies(..), _) => self,
            (_, Self::Denies(..)) | (Self::Abstains, _) => next,
            (Self::Agrees(_), Self::Abstains | Self::Agrees(_)) => self,
        }
    }
}

/// An adviser: somebody who answers questions. It must not block: what takes time goes into [`Answer::Later`].
///
/// Of what it does not answer it knows nothing: it passes, and its silence denies.
pub trait Decider: Send + Sync {
    /// May this client connect?
    fn connect(&self, question: &ConnectQuestion<'_>) -> Answer<ConnectDecision> {
        let _ = question;
        Answer::Pass(Silence::DENIES)
    }

    /// May it publish this?
    fn publish(&self, question: &PublishQuestion<'_>) -> Answer<PublishDecision> {
        let _ = question;
        Answer::Pass(Silence::DENIES)
    }

    /// May it subscribe to these?
    fn subscribe(&self, question: &SubscribeQuestion<'_>) -> Answer<SubscribeDecision> {
        let _ = question;
        Answer::Pass(Silence::DENIES)
    }

    /// May it be sent this?
    fn deliver(&self, question: &PublishQuestion<'_>) -> Answer<PublishDecision> {
        let _ = question;
        Answer::Pass(Silence::DENIES)
    }

    /// What follows in its authentication?
    fn exchange(&self, question: &ExchangeQuestion<'_>) -> Answer<ExchangeDecision> {
        let _ = question;
        Answer::Pass(Silence::DENIES)
    }

    /// Whether it answers authentications by this method, if it [wants](Self::want) any.
    fn takes_method(&self, method: &str) -> bool {
        let _ = method;
        true
    }

    /// Which grant and attributes shall this client have from now on? Asked of the adviser alone that
    /// [gave](Self::gives) the grant.
    fn renew(&self, question: &RenewQuestion<'_>) -> Answer<ConnectDecision> {
        let _ = question;
        Answer::Pass(Silence::Abstains)
    }

    /// Whether grants of admissions that came from there are its own, and so its to renew.
    fn gives(&self, source: Source) -> bool {
        let _ = source;
        false
    }

    /// What its own rules say at once of a subscription of this client's to this filter. [`GrantAnswer::Ask`]: they leave it to
    /// others, or there are none.
    fn filter(&self, peer: &Peer, asked: AskedFilter<'_>) -> GrantAnswer<()> {
        let _ = (peer, asked);
        GrantAnswer::Ask
    }

    /// Whether its rules may say something else the next time of the same topic or filter with the same QoS and RETAIN, though
    /// the [edition](Self::edition) is the same: no answer about that is remembered, not even one of others. Asked before
    /// each answer that would be.
    fn varies(&self, act: Act, name: &str, peer: &Peer) -> bool {
        let _ = (act, name, peer);
        false
    }

    /// What it would say to this now, told from its own rules: nobody is asked. Of what it does not explain it knows
    /// nothing.
    fn explain(&self, supposed: &Supposed<'_>) -> Foreseen {
        let _ = supposed;
        Foreseen::Passes(Silence::DENIES, Ground::Unsaid)
    }

    /// Whether to ask about this hook at all, and with what. Called for each packet: cheap.
    fn want(&self, hook: Hook) -> Want;

    /// The same, where it depends on the client: one with a grant may need deliveries looked into that others do not.
    /// Called for each packet, too.
    fn want_of(&self, hook: Hook, peer: &Peer) -> Want {
        let _ = peer;
        self.want(hook)
    }

    /// With how many rules a topic or filter of this client's is compared, at most, to answer a question of this hook. Called
    /// for each packet that is asked about: cheap.
    fn effort(&self, hook: Hook, peer: &Peer) -> usize {
        let _ = (hook, peer);
        1
    }

    /// Another number than before as soon as an answer whose source [stands](Source::stands) may be another than
    /// before. Called for each read: cheap.
    fn edition(&self) -> u64 {
        0
    }
}
