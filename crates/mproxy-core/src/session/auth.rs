//! Enhanced authentication between a client and its broker: whose turn an AUTH is, and under which method. Where mproxy
//! answers in the broker's place, see `exchange`.

use mproxy_codec::packet::Auth;
use mproxy_codec::property::PropertyId;
use mproxy_codec::reason::ReasonCode;
use mproxy_codec::types::PacketType;

use super::link::Link;
use crate::fault::Fault;
use crate::peer::Side;

/// Steps of one authentication that give the broker's CONNACK more time: with those that come after, the deadline of
/// the last runs on, however long the two would like to talk.
const STEPS: u8 = 16;

impl Link {
    /// Whether an AUTH may come now: the client's answers one of the broker's, or begins anew in an `open` session.
    pub(super) fn auth_in_turn(&mut self, from: Side, auth: &Auth<'_>, open: bool) -> Result<(), Fault> {
        if from == Side::Broker {
            // Only this asks for an answer; success ends the exchange.
            self.terms.auth_asked = auth.reason == ReasonCode::CONTINUE_AUTHENTICATION;
            return Ok(());
        }
        self.check_method(auth)?;
        // Taken with the answer: a second one to the same AUTH is an answer to none.
        let asked = std::mem::replace(&mut self.terms.auth_asked, false);
        match auth.reason {
            ReasonCode::CONTINUE_AUTHENTICATION if !asked => {
                Err(auth_fault(from, "an answer to no AUTH of the broker's", "MQTT-4.12.0-3"))
            }
            ReasonCode::RE_AUTHENTICATE if !open => {
                Err(auth_fault(from, "re-authentication before CONNACK", "4.12.1"))
            }
            _ => Ok(()),
        }
    }

    /// Whether the client's AUTH names the method of its CONNECT.
    pub(super) fn check_method(&self, auth: &Auth<'_>) -> Result<(), Fault> {
        let method = self.rare.as_ref().and_then(|rare| rare.method.as_deref());
        if method.map(|method| &*method.name) == auth.properties.text(PropertyId::AuthenticationMethod) {
            return Ok(());
        }
        let again = auth.reason == ReasonCode::RE_AUTHENTICATE;
        let rule = if again { "MQTT-4.12.1-1" } else { "MQTT-4.12.0-5" };
        Err(auth_fault(Side::Client, "another Authentication Method than in CONNECT", rule))
    }

    /// Whether this step of an authentication before CONNACK begins the deadline anew.
    pub(super) const fn auth_step(&mut self) -> bool {
        self.terms.auth_steps = self.terms.auth_steps.saturating_add(1);
        self.terms.auth_steps <= STEPS
    }
}

/// An AUTH that may not come, or not so.
pub(super) const fn auth_fault(side: Side, what: &'static str, rule: &'static str) -> Fault {
    Fault::Protocol { side, packet: PacketType::Auth, what, rule, reason: ReasonCode::PROTOCOL_ERROR }
}
