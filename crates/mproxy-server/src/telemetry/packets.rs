//! The line that each packet has at level `trace`. It never has a payload.

use mproxy_core::meter::PacketTrace;
use mproxy_core::peer::Origin;
use tracing::level_filters::LevelFilter;
use tracing::trace;

/// Whether anybody reads such lines; one atomic load.
pub(super) fn are_traced() -> bool {
    LevelFilter::current() >= LevelFilter::TRACE
}

pub(super) fn trace(packet: &PacketTrace<'_>) {
    let Origin { connection_id, listener, .. } = &*packet.peer.origin;
    trace!(
        %connection_id,
        listener = &**listener,
        from = packet.from.name(),
        packet = packet.kind.name(),
        packet_id = packet.id.map(|id| id.get()),
        topic = packet.topic,
        size = packet.size,
        outcome = packet.fate.name(),
        "packet"
    );
}
