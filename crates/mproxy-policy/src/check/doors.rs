//! What the answers say together: who gets in, and how far.

use std::sync::Arc;

use mproxy_codec::types::QoS;
use mproxy_core::grant::{Grant, GrantAnswer};
use mproxy_core::policy::{
    Admission, ConnectDecision, Decision, ExchangeDecision, ExchangeStep, SubscribeDecision,
};
use mproxy_core::rule::{Act, AskedFilter, Message, Who};

use super::questions::CheckRole;
use super::report::Findings;
use crate::contract::{Rpc, Wants};

/// What was let through.
#[derive(Debug, Default)]
pub(super) struct Doors {
    /// The service said itself what it wants.
    pub(super) named_wants: bool,
    /// A client has authenticated by a method that there is not.
    authenticated_by_nothing: bool,
    admitted: usize,
    denied: usize,
    /// Clients that were admitted without a grant.
    without_grant: usize,
    /// Admitted clients whose names mean something in topics, and kept them.
    wide: usize,
    anonymous: Option<Admitted>,
    /// The answer to an anonymous client that subscribes to everything.
    everything: Option<bool>,
    subscribed: usize,
    unsubscribed: usize,
    /// A grant that leaves something to questions.
    asks: Option<Arc<Grant>>,
}

#[derive(Debug)]
struct Admitted {
    grant: Option<Arc<Grant>>,
}

impl Doors {
    pub(super) fn connect(&mut self, role: CheckRole, decision: &ConnectDecision) {
        let Decision::Allow(admission) = decision else {
            self.denied += 1;
            return;
        };
        self.admitted += 1;
        let grant = admission.as_deref().and_then(|admission| admission.grant.clone());
        self.without_grant += usize::from(grant.is_none());
        // One is enough to warn: what it leaves to questions nobody would answer.
        if let Some(grant) = &grant
            && asks(grant)
        {
            self.asks = Some(Arc::clone(grant));
        }
        let renamed = matches!(admission.as_deref(), Some(Admission { client_id: Some(_), .. }));
        match role {
            CheckRole::Wide if !renamed => self.wide += 1,
            CheckRole::Anonymous => self.anonymous = Some(Admitted { grant }),
            CheckRole::Plain | CheckRole::Main | CheckRole::Wide | CheckRole::UnknownMethod => {}
        }
    }

    pub(super) fn exchange(&mut self, role: CheckRole, decision: &ExchangeDecision) {
        self.authenticated_by_nothing |=
            role == CheckRole::UnknownMethod && matches!(decision, Decision::Allow(ExchangeStep::Success(_)));
    }

    pub(super) fn subscribe(&mut self, role: CheckRole, decision: &SubscribeDecision) {
        let allowed = match decision {
            SubscribeDecision::All(decision) => matches!(decision, Decision::Allow(())),
            SubscribeDecision::Each(each) | SubscribeDecision::InPart(each, _) => {
                // Some other filter in its place is the service's own way to say no.
                each.iter().all(|one| matches!(one, Decision::Allow(change) if change.filter.is_none()))
            }
        };
        *(if allowed { &mut self.subscribed } else { &mut self.unsubscribed }) += 1;
        if role == CheckRole::Anonymous {
            self.everything = Some(allowed);
        }
    }

    /// What may not be meant.
    pub(super) fn judge(&self, wants: &Wants, findings: &mut Findings) {
        let is_wanted = |rpc| wants.of(rpc).is_some();
        if !is_wanted(Rpc::AuthConnect) {
            findings.warn(
                "connect_not_wanted",
                "AuthConnect is not wanted: every client may connect, unless a rule file says otherwise",
            );
        }
        // Where each client has a grant, that decides, and the call that is missing opens nothing.
        let open = !is_wanted(Rpc::AuthConnect) || self.without_grant > 0;
        for (rpc, code, what) in [
            (Rpc::AuthPublish, "publish_not_wanted", "clients without a grant may publish everything"),
            (Rpc::AuthSubscribe, "subscribe_not_wanted", "clients without a grant may subscribe to \"#\""),
        ] {
            if is_wanted(rpc) {
                continue;
            }
            if open {
                findings.warn(
                    code,
                    format!("{} is not wanted: {what}, unless a rule file says otherwise", rpc.name()),
                );
            }
            if self.asks.is_some() {
                let text = format!(
                    "a grant says ASK, and {} is not wanted: what nobody can be asked about is refused with 0x87",
                    rpc.name()
                );
                findings.warn("ask_not_wanted", text);
            }
        }
        if self.anonymous_sees_everything(wants) {
            let all = self.denied == 0 && self.unsubscribed == 0 && self.subscribed > 0;
            let text = if all {
                "everything is allowed: every client was admitted, and a client without user name and password may subscribe to \"#\""
            } else {
                "a client without user name and password may connect and subscribe to \"#\", which is everything"
            };
            findings.warn("anonymous_sees_everything", text);
        }
        if self.authenticated_by_nothing {
            findings.warn(
                "unknown_method_authenticated",
                "AuthExchange answered Success to an Authentication Method that does not exist, without any data: compare \
                 `method`, and answer Deny with 0x8C to those that the service does not know",
            );
        }
        if self.wide > 0 {
            findings.warn(
                "wide_names",
                format!(
                    "{} clients were admitted whose client id has \"/\", \"+\" or \"#\" in it: a topic or filter that the \
                     service builds from such a name may match topics of others",
                    self.wide
                ),
            );
        }
        if self.admitted == 0 && self.denied > 0 {
            findings.note(
                "nobody_admitted",
                "no client was admitted: what was asked after AuthConnect was asked all the same",
            );
        }
    }

    /// Whether the one who said nothing of itself is sent everything.
    fn anonymous_sees_everything(&self, wants: &Wants) -> bool {
        let grant = match (&self.anonymous, wants.of(Rpc::AuthConnect)) {
            (Some(admitted), _) => admitted.grant.as_deref(),
            (None, None) => None,
            (None, Some(_)) => return false,
        };
        // Whoever is not asked has no objection, but to what a grant leaves to it.
        let asked = self.everything.unwrap_or_else(|| wants.of(Rpc::AuthSubscribe).is_none());
        match grant {
            None => asked,
            Some(grant) => match grant.filter(NOBODY, AskedFilter { filter: "#", qos: None, time: None }) {
                GrantAnswer::Allow(_) => true,
                GrantAnswer::Refuse(_) => false,
                GrantAnswer::Ask => self.everything == Some(true),
            },
        }
    }
}

const NOBODY: Who<'_> = Who { client_id: "mproxy-check-anonymous", ..Who::NOBODY };

/// Whether the grant leaves a topic that nobody has named to questions.
fn asks(grant: &Grant) -> bool {
    let topic = "mproxy-check/unnamed";
    let message = Message { topic, qos: QoS::AtMostOnce, retain: false, payload: 0, time: None };
    grant.message(Act::Publish, NOBODY, message) == GrantAnswer::Ask
}
