//! What stands before whoever decides on the CONNECTs of a listener.

use std::sync::Arc;

use mproxy_codec::reason::ReasonCode;
use mproxy_core::Peer;
use mproxy_core::gate::{ConnectGate, GateAnswer};
use mproxy_core::policy::{Refusal, Source};
use mproxy_core::session::OnUnavailable;

use super::pacer::Pacer;
use crate::protect::Protection;

/// Refuses who is banned, and has the others wait for their turn, where there are turns.
pub(crate) struct ListenerGate {
    pub(crate) protection: Arc<Protection>,
    pub(crate) on_unavailable: OnUnavailable,
    pub(crate) pacer: Arc<Pacer>,
}

impl ConnectGate for ListenerGate {
    fn look(&self, peer: &Peer) -> GateAnswer {
        if self.protection.ban_of(peer).is_some() {
            return GateAnswer::Refuse(Source::Ban, Box::new(Refusal::new(ReasonCode::BANNED)));
        }
        if self.on_unavailable == OnUnavailable::Connack && self.protection.watermarks.is_refusing() {
            let refusal = Refusal::new(ReasonCode::SERVER_BUSY);
            return GateAnswer::Refuse(Source::Overloaded, Box::new(refusal));
        }
        if self.pacer.is_on() { GateAnswer::InTurn } else { GateAnswer::Open }
    }
}
