//! What keeps a crowd, or a stranger, from taking mproxy away from those who use it. What is decided here is decided from
//! numbers and times alone; connections, and the clock, belong to `serve`.
//!
//! | room | holds |
//! |---|---|
//! | [`admissions`] | how fast clients are put to whoever decides, and who waits |
//! | [`arrivals`] | how many connections come from where, and are there: before any handshake |
//! | `pace` | one rate |
//! | `rate_sketch` | rates of any number of sources in memory of a fixed size |

pub(crate) mod admissions;
pub(crate) mod arrivals;
pub(crate) mod pace;
mod rate_sketch;

use std::time::Instant;

use mproxy_core::peer::Address;

use self::arrivals::{ArrivalLimits, Arrivals};
use crate::config::ProtectionSettings;
use crate::telemetry::line_limit::LineLimit;

/// What all listeners are protected by together.
pub(crate) struct Protection {
    pub(crate) arrivals: Arrivals,
    /// Of connections that are refused.
    pub(crate) lines: LineLimit,
}

impl Protection {
    pub(crate) fn new(settings: &ProtectionSettings, now: Instant) -> Self {
        Self { arrivals: Arrivals::new(settings.into(), now), lines: LineLimit::default() }
    }

    /// From now on these hold. `open`: where the clients are from that are connected.
    pub(crate) fn set(&self, settings: &ProtectionSettings, open: impl Iterator<Item = Address>) {
        self.arrivals.set_limits(settings.into(), open);
    }
}

impl From<&ProtectionSettings> for ArrivalLimits {
    fn from(settings: &ProtectionSettings) -> Self {
        Self {
            address_rate: settings.address_rate,
            network_rate: settings.network_rate,
            total_rate: settings.total_rate,
            address_connections: settings.address_connections,
            network_connections: settings.network_connections,
        }
    }
}
