//! A question of a session that was not answered at once, and the answer to it. What may be answered follows from what was
//! asked, so a verdict to another question cannot be said.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::peer::Side;
use crate::policy::{
    ConnectDecision, Decided, ExchangeDecision, Overload, Pending, PublishDecision, Ruling, Source,
    SubscribeDecision,
};

/// A question whose answer is on its way: a future that ends with what [`Session::decide`](crate::Session::decide) is to be
/// told.
pub struct OpenQuestion(OpenKind);

enum OpenKind {
    Admission(u32, Pending<Ruling<ConnectDecision>>),
    Renewal(u32, Pending<Ruling<ConnectDecision>>),
    Publish(Side, u32, Pending<Ruling<PublishDecision>>),
    Subscribe(u32, Pending<Ruling<SubscribeDecision>>),
    Exchange(u32, Pending<Ruling<ExchangeDecision>>),
}

/// The answer to a question of a session.
#[derive(Clone, Debug)]
pub struct Answered(pub(super) AnswerTo);

/// What was asked, and what was answered. Packets go by the number of their slot, admissions and renewals by that of the
/// try.
#[derive(Clone, Debug)]
pub(super) enum AnswerTo {
    /// The CONNECT.
    Admission(u32, Ruling<ConnectDecision>),
    /// The grant's renewal.
    Renewal(u32, Ruling<ConnectDecision>),
    /// A PUBLISH from that side.
    Publish(Side, u32, Ruling<PublishDecision>),
    /// A SUBSCRIBE.
    Subscribe(u32, Ruling<SubscribeDecision>),
    /// A step of an authentication.
    Exchange(u32, Ruling<ExchangeDecision>),
}

impl Answered {
    /// "Yes, as it is" to the same question: for tests of answers that are told twice.
    #[must_use]
    pub fn as_allowed(self) -> Self {
        let source = Source::Rpc;
        Self(match self.0 {
            AnswerTo::Admission(seq, _) => AnswerTo::Admission(seq, Ruling::allow(source)),
            AnswerTo::Renewal(seq, _) => AnswerTo::Renewal(seq, Ruling::allow(source)),
            AnswerTo::Publish(from, seq, _) => AnswerTo::Publish(from, seq, Ruling::allow(source)),
            AnswerTo::Subscribe(seq, _) => AnswerTo::Subscribe(seq, Ruling::allow(source)),
            AnswerTo::Exchange(seq, _) => AnswerTo::Exchange(seq, Ruling::allow(source)),
        })
    }
}

impl OpenQuestion {
    /// Whether it is about a CONNECT.
    #[must_use]
    pub const fn is_admission(&self) -> bool {
        matches!(self.0, OpenKind::Admission(..))
    }

    /// The answer that a limit of mproxy's own kept it from being answered.
    #[must_use]
    pub fn overloaded(self, overload: Overload) -> Answered {
        fn ruling<D: Decided>(overload: Overload) -> Ruling<D> {
            Ruling::new(Source::Overloaded, Err(overload.into()))
        }
        Answered(match self.0 {
            OpenKind::Admission(seq, _) => AnswerTo::Admission(seq, ruling(overload)),
            OpenKind::Renewal(seq, _) => AnswerTo::Renewal(seq, ruling(overload)),
            OpenKind::Publish(from, seq, _) => AnswerTo::Publish(from, seq, ruling(overload)),
            OpenKind::Subscribe(seq, _) => AnswerTo::Subscribe(seq, ruling(overload)),
            OpenKind::Exchange(seq, _) => AnswerTo::Exchange(seq, ruling(overload)),
        })
    }

    pub(super) const fn admission(seq: u32, pending: Pending<Ruling<ConnectDecision>>) -> Self {
        Self(OpenKind::Admission(seq, pending))
    }

    pub(super) const fn renewal(seq: u32, pending: Pending<Ruling<ConnectDecision>>) -> Self {
        Self(OpenKind::Renewal(seq, pending))
    }

    pub(super) const fn publish(from: Side, seq: u32, pending: Pending<Ruling<PublishDecision>>) -> Self {
        Self(OpenKind::Publish(from, seq, pending))
    }

    pub(super) const fn subscribe(seq: u32, pending: Pending<Ruling<SubscribeDecision>>) -> Self {
        Self(OpenKind::Subscribe(seq, pending))
    }

    pub(super) const fn exchange(seq: u32, pending: Pending<Ruling<ExchangeDecision>>) -> Self {
        Self(OpenKind::Exchange(seq, pending))
    }
}

impl Future for OpenQuestion {
    type Output = Answered;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answered> {
        let answer = match &mut self.0 {
            OpenKind::Admission(seq, pending) => {
                pending.as_mut().poll(cx).map(|ruling| AnswerTo::Admission(*seq, ruling))
            }
            OpenKind::Renewal(seq, pending) => {
                pending.as_mut().poll(cx).map(|ruling| AnswerTo::Renewal(*seq, ruling))
            }
            OpenKind::Publish(from, seq, pending) => {
                pending.as_mut().poll(cx).map(|ruling| AnswerTo::Publish(*from, *seq, ruling))
            }
            OpenKind::Subscribe(seq, pending) => {
                pending.as_mut().poll(cx).map(|ruling| AnswerTo::Subscribe(*seq, ruling))
            }
            OpenKind::Exchange(seq, pending) => {
                pending.as_mut().poll(cx).map(|ruling| AnswerTo::Exchange(*seq, ruling))
            }
        };
        answer.map(Answered)
    }
}

impl fmt::Debug for OpenQuestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            OpenKind::Admission(seq, _) => write!(f, "admission {seq}"),
            OpenKind::Renewal(seq, _) => write!(f, "renewal {seq}"),
            OpenKind::Publish(from, seq, _) => write!(f, "PUBLISH {seq} of the {from}"),
            OpenKind::Subscribe(seq, _) => write!(f, "SUBSCRIBE {seq}"),
            OpenKind::Exchange(seq, _) => write!(f, "exchange {seq}"),
        }
    }
}
