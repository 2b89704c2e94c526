//! A meter that is shown each packet, and counts nothing.

use mproxy_codec::PacketType;
use mproxy_core::meter::{Meter, Outcome, PacketTrace};
use mproxy_core::policy::{Failure, Hook, OnError, Overload, Source, Unusable};
use mproxy_core::{Peer, Side};

/// Gives each packet to its function. A session that has one takes no fast path.
pub struct Tracer<F>(pub F);

impl<F: Fn(&PacketTrace<'_>) + Send + Sync> Meter for Tracer<F> {
    fn packets(&self, _from: Side, _kind: PacketType, _packets: u64, _bytes: u64) {}
    fn decisions(&self, _hook: Hook, _source: Source, _outcome: Outcome, _count: u64) {}
    fn failed(&self, _hook: Hook, _failure: &Failure, _rule: OnError, _peer: &Peer) {}
    fn unusable(&self, _hook: Hook, _unusable: &Unusable, _peer: &Peer) {}
    fn overloaded(&self, _hook: Hook, _overload: &Overload, _peer: &Peer) {}

    fn traces(&self) -> bool {
        true
    }

    fn packet(&self, packet: &PacketTrace<'_>) {
        (self.0)(packet);
    }
}
