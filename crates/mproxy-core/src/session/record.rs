//! What a session tells the decision log: refusals of packets as they are carried out, and ends that refuse the client.

use std::sync::Arc;

use mproxy_codec::types::PacketType;

use super::Session;
use super::context::Context;
use super::introduce::parse_connect;
use super::link::Link;
use super::opening::{Opening, WaitsFor};
use super::state::State;
use crate::fault::{Deadline, Fault};
use crate::grant::GrantGround;
use crate::peer::Side;
use crate::policy::{About, Ground, Hook, Source};
use crate::record::{DecisionOutcome, DecisionRecord, DecisionSubject};

impl Link {
    /// This part of the client's grant, as what something is refused by.
    pub(super) fn grant_ground(&self, part: GrantGround) -> Ground {
        match &self.peer.grant {
            Some(grant) => Ground::Grant(Arc::clone(grant), part),
            None => Ground::Source(Source::Grant),
        }
    }

    /// Tells the decision log of something about this client.
    pub(super) fn record(&self, cx: &Context, subject: DecisionSubject<'_>, outcome: DecisionOutcome<'_>) {
        if cx.traces() && !matches!(subject, DecisionSubject::Connection { .. }) {
            cx.trace_refusal(&outcome);
        }
        cx.setting.meter.record(&DecisionRecord {
            origin: &self.peer.origin,
            peer: Some(&self.peer),
            subject,
            outcome,
        });
    }
}

impl Link {
    /// Tells the decision log that the session ends, and what the fault does not know of that: which grant has ended, and
    /// that it was an authentication which mproxy answers.
    fn record_own_end(&self, cx: &Context, will: Option<&str>, fault: &Fault) {
        let answers_auth = !self.terms.auth && self.rare.as_ref().is_some_and(|rare| rare.method.is_some());
        let (hook, ground) = match fault {
            Fault::TooLate(Deadline::Grant) => (None, Some(self.grant_ground(GrantGround::Expired))),
            Fault::TooLate(Deadline::Exchange) => (Some(Hook::Exchange), None),
            Fault::Protocol { side: Side::Client, packet: PacketType::Auth, .. } if answers_auth => {
                (Some(Hook::Exchange), None)
            }
            _ => (None, None),
        };
        let outcome = DecisionOutcome::Ended { fault, hook, ground: ground.as_ref() };
        self.record(cx, DecisionSubject::Connection { will }, outcome);
    }
}

impl Session {
    /// Tells the decision log that the session ends, where that is a refusal and has not been told with a packet.
    pub(super) fn record_end(&self, fault: &Fault) {
        if fault.refused_by().is_none() {
            return;
        }
        match &self.state {
            State::Greeting(greeting) => self.cx.setting.meter.record(&DecisionRecord {
                origin: &greeting.origin,
                peer: None,
                subject: DecisionSubject::Connection { will: None },
                outcome: DecisionOutcome::Ended { fault, hook: None, ground: None },
            }),
            State::Opening(opening) => {
                let connect = opening.connect().filter(|_| refuses_will(fault)).and_then(parse_connect);
                let will = connect.and_then(|connect| connect.will).map(|will| will.topic);
                opening.link.record_own_end(&self.cx, will, fault);
            }
            State::Open(link) => link.record_own_end(&self.cx, None, fault),
            // It has been told why it ends.
            State::Ending(_) | State::Rejected(_) | State::Over(_) => {}
        }
    }
}

impl Opening {
    /// The CONNECT, while it is kept for another try.
    fn connect(&self) -> Option<&[u8]> {
        match &self.waits {
            WaitsFor::Admission(attempt) | WaitsFor::Dial(attempt) => Some(&attempt.connect),
            WaitsFor::Exchange(waiting) => Some(&waiting.attempt.connect),
            WaitsFor::Connack { .. } => None,
        }
    }
}

fn refuses_will(fault: &Fault) -> bool {
    matches!(fault, Fault::Refused { refusal, .. } if refusal.about == About::Will)
}
