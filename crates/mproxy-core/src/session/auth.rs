//! Extended authentication: whose turn an AUTH is, and under which method.

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
        let fault = |what, rule| Fault::Protocol {
            side: from,
            packet: PacketType::Auth,
            what,
            rule,
            reason: ReasonCode::PROTOCOL_ERROR,
        };
        if from == Side::Broker {
            // Only this asks for an answer; success ends the exchange.
            self.terms.auth_asked = auth.reason == ReasonCode::CONTINUE_AUTHENTICATION;
            return Ok(());
        }
        if self.rare.as_ref().and_then(|rare| rare.method.as_deref())
            != auth.properties.text(PropertyId::AuthenticationMethod)
        {
            let again = auth.reason == ReasonCode::RE_AUTHENTICATE;
            let rule = if again { "MQTT-4.12.1-1" } else { "MQTT-4.12.0-5" };
            return Err(fault("another Authentication Method than in CONNECT", rule));
        }
        // Taken with the answer: a second one to the same AUTH is an answer to none.
        let asked = std::mem::replace(&mut self.terms.auth_asked, false);
        match auth.reason {
            ReasonCode::CONTINUE_AUTHENTICATION if !asked => {
                Err(fault("an answer to no AUTH of the broker's", "MQTT-4.12.0-3"))
            }
            ReasonCode::RE_AUTHENTICATE if !open => Err(fault("re-authentication before CONNACK", "4.12.1")),
            _ => Ok(()),
        }
    }

    /// Whether this step of an authentication before CONNACK begins the deadline anew.
    pub(super) const fn auth_step(&mut self) -> bool {
        self.terms.auth_steps = self.terms.auth_steps.saturating_add(1);
        self.terms.auth_steps <= STEPS
    }
}
