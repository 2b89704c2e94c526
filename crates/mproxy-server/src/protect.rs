//! What keeps a crowd, or a stranger, from taking mproxy away from those who use it. What is decided here is decided from
//! numbers and times alone; connections, and the clock, belong to `serve`.
//!
//! | room | holds |
//! |---|---|
//! | [`admissions`] | how fast clients are put to whoever decides, and who waits |
//! | [`arrivals`] | how many connections come from where, and are there: before any handshake |
//! | [`bans`] | who may not come in, until when and why |
//! | [`client_rates`] | how fast clients may send: each, and all of a user name or listener together |
//! | [`failed_logins`] | who has to wait because logins failed |
//! | [`flapping`] | who connects over and over |
//! | `pace` | one rate |
//! | [`watermarks`] | what is in use of descriptors and memory, against two marks of it |
//! | `rate_sketch`, `failure_sketch` | rates, and failures, of any number of sources in memory of a fixed size |

pub(crate) mod admissions;
pub(crate) mod arrivals;
pub(crate) mod bans;
pub(crate) mod client_rates;
pub(crate) mod failed_logins;
mod failure_sketch;
pub(crate) mod flapping;
pub(crate) mod pace;
mod rate_sketch;
pub(crate) mod watermarks;

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use mproxy_core::Peer;
use mproxy_core::peer::Address;
use parking_lot::Mutex;

use self::arrivals::{ArrivalLimits, Arrivals};
use self::bans::{Ban, Bans};
use self::client_rates::{UnitRates, UserRates};
use self::failed_logins::{FailedLogins, LoginLimits};
use self::flapping::{Flapping, FlappingLimits};
use self::watermarks::Watermarks;
use crate::config::ProtectionSettings;
use crate::telemetry::line_limit::LineLimit;
use crate::telemetry::put_aside::PutAsideMetrics;

/// What all listeners are protected by together.
pub(crate) struct Protection {
    pub(crate) arrivals: Arrivals,
    pub(crate) bans: Bans,
    pub(crate) failed_logins: FailedLogins,
    pub(crate) flapping: Flapping,
    /// How fast clients of one user name may send.
    pub(crate) users: Arc<UserRates>,
    pub(crate) watermarks: Watermarks,
    pub(crate) metrics: PutAsideMetrics,
    marks: Mutex<Marks>,
    /// Of connections that are refused.
    pub(crate) lines: LineLimit,
    /// Of clients that have to wait.
    pub(crate) aside_lines: LineLimit,
}

impl Protection {
    pub(crate) fn new(
        settings: &ProtectionSettings,
        bans: Bans,
        watermarks: Watermarks,
        metrics: PutAsideMetrics,
        now: Instant,
    ) -> Self {
        Self {
            arrivals: Arrivals::new(settings.into(), now),
            bans,
            failed_logins: FailedLogins::new(login_limits(settings), now),
            flapping: Flapping::new(flapping_limits(settings), now),
            users: Arc::new(UserRates::new(user_rates(settings))),
            watermarks,
            metrics,
            marks: Mutex::new(settings.into()),
            lines: LineLimit::default(),
            aside_lines: LineLimit::default(),
        }
    }

    /// From where on descriptors and memory are short.
    pub(crate) fn marks(&self) -> Marks {
        *self.marks.lock()
    }

    /// Whether whoever comes from there is banned.
    pub(crate) fn bans_address(&self, address: &Address) -> bool {
        !self.bans.are_none() && self.bans.of_address(address, SystemTime::now()).is_some()
    }

    /// The ban of this client, by whatever of it.
    pub(crate) fn ban_of(&self, peer: &Peer) -> Option<Arc<Ban>> {
        if self.bans.are_none() { None } else { self.bans.of_peer(peer, SystemTime::now()) }
    }

    /// From now on these hold. `open`: where the clients are from that are connected.
    pub(crate) fn set(&self, settings: &ProtectionSettings, open: impl Iterator<Item = Address>) {
        self.arrivals.set_limits(settings.into(), open);
        self.failed_logins.set(login_limits(settings));
        self.flapping.set(flapping_limits(settings));
        self.users.set(user_rates(settings));
        *self.marks.lock() = settings.into();
    }
}

fn login_limits(settings: &ProtectionSettings) -> Option<LoginLimits> {
    let failures = settings.login_failures?;
    Some(LoginLimits {
        failures: u16::try_from(failures).unwrap_or(u16::MAX),
        first: settings.login_backoff,
        longest: settings.login_backoff_max.max(settings.login_backoff),
    })
}

fn user_rates(settings: &ProtectionSettings) -> UnitRates {
    UnitRates::new(settings.user_messages_per_second, settings.user_bytes_per_second)
}

fn flapping_limits(settings: &ProtectionSettings) -> Option<FlappingLimits> {
    let rate = settings.flapping_rate?;
    Some(FlappingLimits { rate, pause: settings.flapping_pause })
}

/// From where on descriptors and memory are short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    /// Percent of the descriptors that this process may have.
    pub(crate) descriptors_refuse: Option<u8>,
    pub(crate) descriptors_drain: Option<u8>,
    /// Bytes of resident memory.
    pub(crate) memory_refuse: Option<u64>,
    pub(crate) memory_drain: Option<u64>,
}

impl From<&ProtectionSettings> for Marks {
    fn from(settings: &ProtectionSettings) -> Self {
        let bytes = |size: Option<usize>| size.map(|size| size as u64);
        Self {
            descriptors_refuse: settings.descriptors_refuse,
            descriptors_drain: settings.descriptors_drain,
            memory_refuse: bytes(settings.memory_refuse),
            memory_drain: bytes(settings.memory_drain),
        }
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
