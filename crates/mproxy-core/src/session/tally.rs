//! Packets of one type, counted together before the meter is told.

use mproxy_codec::types::PacketType;

use crate::meter::Meter;
use crate::peer::Side;

/// The bytes of packets of one type that were counted and not yet told to the meter.
#[derive(Default)]
pub(super) struct PacketTally {
    kind: Option<PacketType>,
    packets: u64,
    bytes: u64,
}

impl PacketTally {
    #[inline]
    pub(super) fn add(&mut self, kind: PacketType, packets: u64, bytes: u64, meter: &dyn Meter, from: Side) {
        if self.kind != Some(kind) {
            self.tell(meter, from);
            self.kind = Some(kind);
        }
        self.packets += packets;
        self.bytes += bytes;
    }

    pub(super) fn tell(&mut self, meter: &dyn Meter, from: Side) {
        if let Some(kind) = self.kind.take() {
            meter.packets(from, kind, self.packets, self.bytes);
            (self.packets, self.bytes) = (0, 0);
        }
    }
}
