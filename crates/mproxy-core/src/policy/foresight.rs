//! What would be decided about something now: told from what is known, with nobody asked and nothing changed.

use std::sync::Arc;

use mproxy_codec::reason::ReasonCode;
use mproxy_codec::types::QoS;

use super::{Ground, Hook, Silence};
use crate::peer::Peer;
use crate::rule::{Act, AskedFilter, Message, WallTime};

/// Something that a client might do.
#[derive(Clone, Copy, Debug)]
pub struct Supposed<'a> {
    /// The client.
    pub peer: &'a Arc<Peer>,
    /// It publishes, subscribes or is sent something. A will is judged at CONNECT only, and nothing here.
    pub act: Act,
    /// The topic, as the client knows it; the filter, if it subscribes.
    pub name: &'a str,
    /// The QoS.
    pub qos: QoS,
    /// The RETAIN flag.
    pub retain: bool,
    /// Bytes of its payload.
    pub payload: usize,
    /// When it does.
    pub time: Option<WallTime>,
}

impl<'a> Supposed<'a> {
    /// The hook that decides about it.
    #[must_use]
    pub const fn hook(&self) -> Hook {
        match self.act {
            Act::Publish => Hook::Publish,
            Act::Subscribe => Hook::Subscribe,
            Act::Receive => Hook::Deliver,
            Act::Will => Hook::Connect,
        }
    }

    /// It as a message.
    #[must_use]
    pub const fn message(&self) -> Message<'a> {
        let Self { name: topic, qos, retain, payload, time, .. } = *self;
        Message { topic, qos, retain, payload, time }
    }

    /// It as a filter that is asked for.
    #[must_use]
    pub const fn filter(&self) -> AskedFilter<'a> {
        AskedFilter { filter: self.name, qos: Some(self.qos), time: self.time }
    }
}

/// What an adviser would say.
#[derive(Clone, Debug)]
pub enum Foreseen {
    /// Yes or no.
    Decides(ForeseenDecision),
    /// It would ask the policy service; the endpoint that would be asked, if one is healthy.
    Asks(Option<Arc<str>>),
    /// It would leave it to others: what its silence means, and the rule that says so, if one does.
    Passes(Silence, Ground),
}

/// What would be decided, and by what.
#[derive(Clone, Debug)]
pub struct ForeseenDecision {
    /// Allowed, a subscription with this QoS at most; or the reason code of the refusal.
    pub verdict: Result<QoS, ReasonCode>,
    /// By what.
    pub ground: Ground,
}

/// What would be decided, and who would have left it to others before.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// Those who would have been heard first and leave it to others: the rules that say so, or who they are.
    pub passed: Vec<Ground>,
    /// What would come of it. Never [`Foreseen::Passes`] of a chain.
    pub outcome: Foreseen,
    /// What a refusal would say to the client.
    pub text: Option<Box<str>>,
}

impl Explanation {
    /// Decided at once.
    #[must_use]
    pub const fn decided(verdict: Result<QoS, ReasonCode>, ground: Ground) -> Self {
        let outcome = Foreseen::Decides(ForeseenDecision { verdict, ground });
        Self { passed: Vec::new(), outcome, text: None }
    }
}
