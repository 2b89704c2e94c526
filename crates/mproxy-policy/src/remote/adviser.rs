//! The hook service as one of those who decide and are told: what it wants is asked, the rest it leaves to others.

use std::sync::Arc;

use mproxy_core::event::{Event, Happening, Kind, Sink};
use mproxy_core::policy::{
    Answer, ConnectDecision, ConnectQuestion, Decided, Decider, ExchangeDecision, ExchangeQuestion, Foreseen,
    Ground, Hook, Payload, PublishDecision, PublishQuestion, RenewQuestion, Silence, Source,
    SubscribeDecision, SubscribeQuestion, Supposed, Want,
};

use super::Remote;
use super::health::Pick;
use super::role::ServiceRole;
use crate::contract::{AuthRequest, Rpc, WantedCall};

impl Decider for Remote {
    fn connect(&self, question: &ConnectQuestion<'_>) -> Answer<ConnectDecision> {
        if self.is_wanted(Hook::Connect) {
            let way = self.endpoints.way();
            let request = match self.role() {
                ServiceRole::InForce => AuthRequest::connect(question, way),
                ServiceRole::Shadow => AuthRequest::connect_of_shadow(question, way),
            };
            self.ask_later(request, question.peer, Some(question.connect.properties))
        } else {
            abstain()
        }
    }

    fn publish(&self, question: &PublishQuestion<'_>) -> Answer<PublishDecision> {
        match self.wanted_publish(Hook::Publish, question) {
            Some(question) => {
                let request = AuthRequest::publish(&question, self.endpoints.way());
                self.ask_later(request, question.peer, Some(question.properties))
            }
            None => abstain(),
        }
    }

    fn subscribe(&self, question: &SubscribeQuestion<'_>) -> Answer<SubscribeDecision> {
        if self.is_wanted(Hook::Subscribe) {
            let request = AuthRequest::subscribe(question, self.endpoints.way());
            self.ask_later(request, question.peer, Some(question.properties))
        } else {
            abstain()
        }
    }

    fn deliver(&self, question: &PublishQuestion<'_>) -> Answer<PublishDecision> {
        match self.wanted_publish(Hook::Deliver, question) {
            Some(question) => {
                let request = AuthRequest::deliver(&question, self.endpoints.way());
                self.ask_later(request, question.peer, Some(question.properties))
            }
            None => abstain(),
        }
    }

    fn renew(&self, question: &RenewQuestion<'_>) -> Answer<ConnectDecision> {
        if self.is_wanted(Hook::Connect) {
            let shadow = self.role() == ServiceRole::Shadow;
            let request = AuthRequest::renewal(question, self.endpoints.way(), shadow);
            self.ask_later(request, question.peer, None)
        } else {
            abstain()
        }
    }

    fn exchange(&self, question: &ExchangeQuestion<'_>) -> Answer<ExchangeDecision> {
        if self.is_wanted(Hook::Exchange) {
            let request = AuthRequest::exchange(question, self.endpoints.way());
            self.ask_later(request, question.peer, None)
        } else {
            abstain()
        }
    }

    fn gives(&self, source: Source) -> bool {
        source == Source::Rpc
    }

    fn explain(&self, supposed: &Supposed<'_>) -> Foreseen {
        let wants = self.endpoints.wants();
        let is_wanted = match (wants.of(supposed.hook().into()), supposed.hook()) {
            (None, _) => false,
            (Some(_), Hook::Connect | Hook::Subscribe | Hook::Exchange) => true,
            (Some(wanted), Hook::Publish | Hook::Deliver) => wanted.covers(supposed.name),
        };
        if !is_wanted {
            return Foreseen::Passes(Silence::Abstains, Ground::Source(Source::Rpc));
        }
        Foreseen::Asks(match self.endpoints.pick(&[]) {
            Pick::Connection(connection) => Some(Arc::clone(&connection.url)),
            Pick::Wait | Pick::Nobody(_) => None,
        })
    }

    fn want(&self, hook: Hook) -> Want {
        let wants = self.endpoints.wants();
        match (wants.of(hook.into()), hook) {
            (None, _) => Want::Nothing,
            (Some(_), Hook::Connect | Hook::Subscribe | Hook::Exchange) => Want::Head,
            (Some(wanted), Hook::Publish | Hook::Deliver) => with_payload(wanted),
        }
    }
}

impl Sink for Remote {
    fn report(&self, event: Event) {
        let Some(observer) = &self.observer else { return };
        let tracked = {
            let wants = self.endpoints.wants();
            let Some(wanted) = wants.of(event.what.kind().into()) else { return };
            if let Happening::Publish(published) = &event.what
                // Topics narrow publishes only; the other events have none that a service could name.
                && !wanted.covers(&published.topic)
            {
                return;
            }
            wants.of(Rpc::Disconnect).is_some()
        };
        observer.report(event, tracked);
    }

    fn want(&self, kind: Kind) -> Want {
        let wants = self.endpoints.wants();
        match (wants.of(kind.into()), kind) {
            (None, _) => Want::Nothing,
            (Some(wanted), Kind::Publish) => with_payload(wanted),
            (Some(_), Kind::Connect | Kind::Subscribe | Kind::Unsubscribe | Kind::Disconnect) => Want::Head,
        }
    }
}

const fn with_payload(wanted: &WantedCall) -> Want {
    match wanted.payload {
        0 => Want::Head,
        most => Want::Payload(most),
    }
}

/// The question with as much of the payload as the service wants: others may have wanted more.
pub(crate) fn trim_payload<'a>(question: &PublishQuestion<'a>, wanted: &WantedCall) -> PublishQuestion<'a> {
    let size = question.payload.size();
    if wanted.payload > 0 && size <= u64::from(wanted.payload) {
        return *question;
    }
    // MQTT's own limit on a packet is far below.
    PublishQuestion { payload: Payload::Size(u32::try_from(size).unwrap_or(u32::MAX)), ..*question }
}

/// It did not want to be asked.
const fn abstain<D: Decided>() -> Answer<D> {
    Answer::Pass(Silence::Abstains)
}
