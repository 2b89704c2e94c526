//! What all sessions of a listener share.

use std::sync::{Arc, Mutex, PoisonError};

use crate::budget::Budget;
use crate::chain::Chain;
use crate::event::Sink;
use crate::gate::{ConnectGate, ConnectProgress};
use crate::limits::Limits;
use crate::meter::Meter;
use crate::peer::Peer;
use crate::policy::{Hook, OnError};
use crate::rate::ClientRates;
use crate::rule::WallClock;

/// What all sessions of a listener share.
pub struct Setting {
    /// Who looks at a CONNECT before all advisers.
    pub gate: Option<Arc<dyn ConnectGate>>,
    /// Who decides.
    pub advisers: Chain,
    /// Who is told.
    pub sink: Arc<dyn Sink>,
    /// Who counts.
    pub meter: Arc<dyn Meter>,
    /// Bounds and deadlines.
    pub limits: Limits,
    /// How fast clients may send, whatever their grants say. `None`: as fast as they like.
    pub rates: Option<Arc<dyn ClientRates>>,
    /// What an answer that failed means.
    pub on_error: OnErrors,
    /// What a client that waits for its CONNACK sees of trouble.
    pub on_unavailable: OnUnavailable,
    /// Where 5.0 clients are sent that a drain ends: DISCONNECT 0x9C with this server reference, not 0x8B.
    pub drain_reference: DrainReference,
    /// Who answers a client's AUTH.
    pub on_auth: OnAuth,
    /// What its connections may make mproxy hold.
    pub budget: Arc<Budget>,
    /// What time it is, for rules that look at it.
    pub clock: WallClock,
}

impl Setting {
    /// Tells the gate, if there is one, how far a client has come.
    pub(crate) fn note(&self, peer: &Peer, progress: ConnectProgress) {
        if let Some(gate) = &self.gate {
            gate.note(peer, progress);
        }
    }
}

/// A server reference that all sessions share, and that may become another one while they live.
#[derive(Clone, Debug, Default)]
pub struct DrainReference(Arc<Mutex<Option<Arc<str>>>>);

impl DrainReference {
    /// From now on it is this one.
    pub fn set(&self, reference: Option<&str>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = reference.map(Into::into);
    }

    pub(crate) fn get(&self) -> Option<Arc<str>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl From<Option<&str>> for DrainReference {
    fn from(reference: Option<&str>) -> Self {
        let shared = Self::default();
        shared.set(reference);
        shared
    }
}

/// What a client that waits for its CONNACK sees where the broker, or an answer about it, stayed away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnUnavailable {
    /// Its connection ends without a word, as if no broker were there: clients come again.
    #[default]
    Close,
    /// CONNACK 0x88 / 3.
    Connack,
}

/// Who answers the AUTH of a client whose CONNECT names an Authentication Method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnAuth {
    /// An adviser, if one wants to; else the broker.
    #[default]
    Ask,
    /// The broker, whatever advisers want.
    Pass,
}

/// What an answer that failed means, hook by hook.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OnErrors {
    /// For CONNECT.
    pub connect: OnError,
    /// For PUBLISH.
    pub publish: OnError,
    /// For SUBSCRIBE.
    pub subscribe: OnError,
    /// For deliveries.
    pub deliver: OnError,
}

impl OnErrors {
    /// The rule of one hook.
    #[must_use]
    pub const fn of(&self, hook: Hook) -> OnError {
        match hook {
            Hook::Connect => self.connect,
            Hook::Publish => self.publish,
            Hook::Subscribe => self.subscribe,
            Hook::Deliver => self.deliver,
            // Without an answer nobody knows who the client is.
            Hook::Exchange => OnError::Deny,
        }
    }
}
