//! A connection that has come and is not through its handshakes: whether it may come in, and where it is counted.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use mproxy_core::peer::Address;
use mproxy_core::session::OnUnavailable;
use parking_lot::Mutex;
use tracing::debug;

use super::{ListenerTerms, Serving};
use crate::door::NamedClients;
use crate::protect::arrivals::ArrivalRefusal;
use crate::protect::watermarks::WatermarkLevel;

impl Serving {
    /// Whether somebody may come in who has come from there. What is known of that is counted from here on, until
    /// [`Arrivals::leave`](crate::protect::arrivals::Arrivals::leave).
    pub(super) fn arrive(&self, remote: &Address, now: Instant) -> Result<(), ArrivalRefusal> {
        let terms = self.terms.load();
        let from = (!terms.is_proxied).then_some(remote);
        if from.is_some_and(|from| self.house.protection.bans_address(from)) {
            return Err(ArrivalRefusal::Banned);
        }
        if self.refuses_all(&terms) {
            return Err(ArrivalRefusal::Watermark);
        }
        self.house.protection.arrivals.arrive(&self.arrivals, terms.connection_rate, from, now)
    }

    /// Whether nobody may come in. Where clients are told so, they come as far as their CONNECT, until there is no room for
    /// that either.
    fn refuses_all(&self, terms: &ListenerTerms) -> bool {
        match self.house.protection.watermarks.level() {
            WatermarkLevel::Normal => false,
            WatermarkLevel::Refusing => terms.setting.on_unavailable != OnUnavailable::Connack,
            WatermarkLevel::Draining => true,
        }
    }

    /// Somebody is not let in. A flood of them is no flood of lines.
    pub(super) fn refuse(&self, remote: &Address, why: ArrivalRefusal, now: Instant) {
        self.metrics.count_refused(why.name());
        self.tell_refused(remote, why, now);
    }

    /// The line of it.
    pub(super) fn tell_refused(&self, remote: &Address, why: ArrivalRefusal, now: Instant) {
        if let Some(suppressed_lines) = self.house.protection.lines.take(now) {
            let (listener, cause, why) = (&*self.name, why.name(), why.text());
            debug!(listener, peer_addr = %remote, cause, suppressed_lines, "connection refused: {why}");
        }
    }
}

/// One connection in the middle of its handshakes. Dropped, it is counted no more where it came from.
pub(super) struct Arrival {
    serving: Arc<Serving>,
    counted: Mutex<Option<Address>>,
}

impl Arrival {
    /// Of a connection that may come in, from there.
    pub(super) fn new(serving: &Arc<Serving>, remote: &Address) -> Arc<Self> {
        let is_proxied = serving.terms.load().is_proxied;
        let counted = (!is_proxied).then(|| remote.clone());
        Arc::new(Self { serving: Arc::clone(serving), counted: Mutex::new(counted) })
    }

    /// Waits until where it comes from is banned, as far as that is known.
    pub(super) async fn banned(&self) {
        let house = &self.serving.house;
        loop {
            // First: a ban that is set between the look and this would not be heard of.
            let changed = house.bans_changed.notified();
            let from = self.counted.lock().clone();
            if from.is_some_and(|from| house.protection.bans_address(&from)) {
                return self.serving.metrics.count_refused_cause(ArrivalRefusal::Banned.name());
            }
            changed.await;
        }
    }

    /// It is through: whoever it is now counts it no more at its end.
    pub(super) fn hand_on(&self) {
        *self.counted.lock() = None;
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        if let Some(from) = self.counted.get_mut() {
            self.serving.house.protection.arrivals.leave(from);
        }
    }
}

impl NamedClients for Arrival {
    fn admit(&self, named: &Address) -> Result<(), (&'static str, &'static str)> {
        let protection = &self.serving.house.protection;
        let now = Instant::now();
        let admitted = match protection.bans_address(named) {
            true => Err(ArrivalRefusal::Banned),
            false => protection.arrivals.name(named, now),
        };
        admitted.map_err(|why| {
            self.serving.metrics.count_refused_cause(why.name());
            self.serving.tell_refused(named, why, now);
            (why.name(), why.text())
        })?;
        *self.counted.lock() = Some(named.clone());
        Ok(())
    }
}

impl fmt::Debug for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrival").field("counted", &self.counted).finish_non_exhaustive()
    }
}
