//! DISCONNECT, from either side: the last packet of its sender.

use mproxy_codec::frame::FixedHeader;
use mproxy_codec::packet::Disconnect;
use mproxy_codec::property::PropertyId;
use mproxy_codec::reason::ReasonCode;
use mproxy_codec::types::PacketType;

use super::context::Context;
use super::link::Link;
use super::step::Passage;
use crate::fault::Fault;
use crate::peer::Side;

impl Link {
    pub(super) fn forward_disconnect(
        &mut self,
        cx: &mut Context,
        from: Side,
        header: &FixedHeader,
        bytes: &[u8],
    ) -> Result<Passage, Fault> {
        let disconnect = Disconnect::parse(header, bytes, crate::session::sender(from), self.terms.version)
            .map_err(|error| Fault::Malformed { side: from, error })?;
        let reason = disconnect.reason;
        // Whatever its reason: the client hears it as the broker said it, and learns to go elsewhere by it.
        if from == Side::Broker {
            return Ok(Passage::Last(None, Box::new(Fault::BrokerLeft { reason })));
        }
        let expiry = disconnect.properties.u32(PropertyId::SessionExpiryInterval).unwrap_or(0);
        if self.terms.expires_at_once && expiry != 0 {
            return Err(Fault::Protocol {
                side: from,
                packet: PacketType::Disconnect,
                what: "Session Expiry Interval, although it was 0 in CONNECT",
                rule: "3.14.2.2.2",
                reason: ReasonCode::PROTOCOL_ERROR,
            });
        }
        // [MQTT-3.1.2-10]: only a normal DISCONNECT takes the will away.
        self.will_suppressed = reason == ReasonCode::SUCCESS;
        let instead = self.disconnect_for_broker(cx, &disconnect);
        Ok(Passage::Last(instead, Box::new(Fault::Left { reason })))
    }
}
