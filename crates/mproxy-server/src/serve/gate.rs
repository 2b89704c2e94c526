//! What stands before whoever decides on the CONNECTs of a listener.

use std::sync::Arc;

use mproxy_core::Peer;
use mproxy_core::gate::{ConnectGate, GateAnswer};

use super::pacer::Pacer;

/// Has CONNECTs wait for their turn, where there are turns.
pub(crate) struct ListenerGate {
    pub(crate) pacer: Arc<Pacer>,
}

impl ConnectGate for ListenerGate {
    fn look(&self, _: &Peer) -> GateAnswer {
        if self.pacer.is_on() { GateAnswer::InTurn } else { GateAnswer::Open }
    }
}
