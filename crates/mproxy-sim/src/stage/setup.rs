//! What a stage is set with before the session on it begins.

use std::sync::Arc;
use std::time::Instant;

use mproxy_core::budget::Budget;
use mproxy_core::gate::ConnectGate;
use mproxy_core::meter::{Meter, Unmetered};
use mproxy_core::policy::{Hook, Want};
use mproxy_core::rate::ClientRates;
use mproxy_core::session::{OnAuth, OnErrors, OnUnavailable};
use mproxy_core::{Chain, Limits, Session, Setting};

use super::{DialScript, SidePipe, Stage, allow, origin};
use crate::script::{Diary, Granted, QuestionRecord, Reply, Script};

/// A stage to be set.
pub struct Setup {
    /// Bounds and deadlines.
    pub limits: Limits,
    /// What failed answers mean.
    pub on_error: OnErrors,
    /// What a client that waits for its CONNACK sees of trouble.
    pub on_unavailable: OnUnavailable,
    /// Where a drain sends clients.
    pub drain_reference: Option<&'static str>,
    /// Who answers a client's AUTH.
    pub on_auth: OnAuth,
    /// What may be held.
    pub budget: Arc<Budget>,
    /// Who looks at a CONNECT before all advisers.
    pub gate: Option<Arc<dyn ConnectGate>>,
    /// How fast clients may send.
    pub rates: Option<Arc<dyn ClientRates>>,
    /// What the sink wants to hear.
    pub telling: Want,
    /// Whether clients' grants are asked before the script.
    pub grants: bool,
    /// Who counts. Unless set: nobody.
    pub meter: Arc<dyn Meter>,
    /// How questions are answered. Unless set: CONNECT is allowed, the rest later.
    pub answering: Box<dyn FnMut(&QuestionRecord) -> Reply + Send>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            on_error: OnErrors::default(),
            on_unavailable: OnUnavailable::default(),
            drain_reference: None,
            on_auth: OnAuth::default(),
            budget: Arc::default(),
            gate: None,
            rates: None,
            telling: Want::Head,
            grants: false,
            meter: Arc::new(Unmetered),
            answering: Box::new(|asked| match asked.hook {
                Hook::Connect => Reply::Now(allow(Hook::Connect)),
                Hook::Publish | Hook::Subscribe | Hook::Deliver | Hook::Exchange => Reply::Later,
            }),
        }
    }
}

impl Setup {
    /// Raises the curtain.
    #[must_use]
    pub fn stage(self) -> Stage {
        let now = Instant::now();
        let script = Arc::new(Script::new(self.answering));
        let setting = Arc::new(Setting {
            gate: self.gate,
            advisers: match self.grants {
                true => Chain::new(vec![Arc::new(Granted), script.clone()]),
                false => Chain::of(script.clone()),
            },
            sink: Arc::new(Diary(self.telling)),
            meter: self.meter,
            limits: self.limits,
            rates: self.rates,
            on_error: self.on_error,
            on_unavailable: self.on_unavailable,
            drain_reference: self.drain_reference.into(),
            on_auth: self.on_auth,
            budget: self.budget,
            clock: mproxy_core::rule::WallClock::default(),
        });
        Stage {
            session: Session::new(origin(), Arc::clone(&setting), now),
            setting,
            now,
            script,
            dialing: DialScript::Succeeds,
            dials: 0,
            stuck: [false; 2],
            open: Vec::new(),
            answered: Vec::new(),
            events: Vec::new(),
            client: SidePipe::default(),
            broker: SidePipe::default(),
            done: None,
        }
    }
}
