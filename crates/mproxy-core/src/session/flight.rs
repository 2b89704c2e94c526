//! How many publishes of the client's are under way: came, and not acknowledged to the end, by the broker or by us.

use mproxy_codec::types::{PacketType, QoS};

/// Counts, not packet ids: what a repeated packet (DUP) of 3.x makes them wrong by only hastens a drain.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct InFlight {
    qos1: u16,
    qos2: u16,
}

impl InFlight {
    pub(super) const fn total(self) -> u32 {
        self.qos1 as u32 + self.qos2 as u32
    }

    /// Whether a PUBREL of the client's is still to come.
    pub(super) const fn awaits_release(self) -> bool {
        self.qos2 > 0
    }

    pub(super) const fn came(&mut self, qos: QoS) {
        match qos {
            QoS::AtMostOnce => {}
            QoS::AtLeastOnce => self.qos1 = self.qos1.saturating_add(1),
            QoS::ExactlyOnce => self.qos2 = self.qos2.saturating_add(1),
        }
    }

    /// The last acknowledgement of a publish: PUBACK, PUBCOMP, or a PUBREC that says no.
    pub(super) const fn over(&mut self, last: PacketType) {
        if matches!(last, PacketType::Puback) {
            self.qos1 = self.qos1.saturating_sub(1);
        } else {
            self.qos2 = self.qos2.saturating_sub(1);
        }
    }
}
