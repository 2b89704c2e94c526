//! A client that has to keep to rates, of its grant or for all: its packets pass, wait, or are refused.

use std::time::{Duration, Instant};

use mproxy_codec::types::PacketType;

use super::context::Context;
use super::link::Link;
use super::rates::{PATIENCE, RateCheck, RateOf, Rates};
use crate::fault::Fault;
use crate::peer::Side;
use crate::rate::RateLimit;

impl Link {
    /// The rates of the grant in force, from now on. Those of a session that is just opening begin with a second's worth, and
    /// have those for all beside them. A later grant changes what there is, and brings nothing along.
    pub(super) fn set_rates(&mut self, cx: &Context, now: Instant) {
        let all = if self.reported { Vec::new() } else { self.rates_for_all(cx) };
        self.replace_rates(all, now);
    }

    /// The session goes on from another process, which had rates for all of its own. Here they begin empty.
    pub(super) fn resume_rates(&mut self, cx: &Context, now: Instant) {
        self.replace_rates(self.rates_for_all(cx), now);
    }

    fn rates_for_all(&self, cx: &Context) -> Vec<RateLimit> {
        cx.setting.rates.as_ref().map(|rates| rates.of(&self.peer)).unwrap_or_default()
    }

    fn replace_rates(&mut self, all: Vec<RateLimit>, now: Instant) {
        let limits = self.grant().map(|grant| grant.limits).unwrap_or_default();
        let old = self.rare.as_mut().and_then(|rare| rare.rates.take());
        if let Some(rates) = Rates::new(&limits, old.map(|old| *old), all, !self.reported, now) {
            self.rare().rates = Some(Box::new(rates));
        }
    }

    /// Whether its client has a rate to keep to.
    pub(super) fn is_rated(&self) -> bool {
        self.rates().is_some()
    }

    /// The rate because of which the PUBLISH at the front is to be refused.
    pub(super) fn over_rate(&self) -> Option<RateOf> {
        self.rates()?.over
    }

    /// The client is read again, if it is time.
    pub(super) fn resume(&mut self, now: Instant) {
        if let Some(rates) = self.rates_mut()
            && rates.resume_at.is_some_and(|at| now >= at)
        {
            rates.resume_at = None;
        }
    }

    /// How long the client may be kept waiting: less than half of its keep alive, for what is in front of a PINGREQ keeps
    /// that waiting, too [MQTT-3.1.2-22].
    fn patience(&self, cx: &Context) -> Duration {
        let broker = self.rare.as_ref().and_then(|rare| rare.server_keep_alive);
        let most = broker.or(cx.setting.limits.max_keep_alive).filter(|most| *most > 0);
        let own = Some(self.peer.keep_alive).filter(|own| *own > 0);
        let seconds = own.into_iter().chain(most).min();
        seconds.map_or(PATIENCE, |seconds| Duration::from_secs(u64::from(seconds)) / 2)
    }

    /// Whether a packet of the client's, of so many bytes, may be taken now.
    ///
    /// # Errors
    /// The client sends too fast to be kept waiting.
    pub(super) fn keeps_rate(
        &mut self,
        cx: &Context,
        packet: PacketType,
        total: usize,
        now: Instant,
    ) -> Result<bool, Fault> {
        if !self.is_rated() {
            return Ok(true);
        }
        let patience = self.patience(cx);
        let Some(rates) = self.rates_mut() else { return Ok(true) };
        rates.fill(now);
        let pace = rates.pace(packet, total, patience)?;
        rates.over = if let RateCheck::Over(of) = pace { Some(of) } else { None };
        if let RateCheck::Later(seconds) = pace {
            rates.pause(seconds, now);
            cx.setting.meter.rate_wait();
            return Ok(false);
        }
        Ok(true)
    }

    /// So many bytes of a packet of the client's were taken.
    pub(super) fn charge_rate(&mut self, packet: PacketType, here: usize, total: usize) {
        if let Some(rates) = self.rates_mut() {
            rates.charge(packet, here, total);
        }
    }

    /// How many of `here` bytes of a payload that streams may pass now.
    ///
    /// # Errors
    /// The client sends too fast to be kept waiting.
    pub(super) fn paced_payload(
        &mut self,
        cx: &Context,
        from: Side,
        here: usize,
        now: Instant,
    ) -> Result<usize, Fault> {
        if from != Side::Client || here == 0 || !self.is_rated() {
            return Ok(here);
        }
        let (left, patience) = (self.up.body.left as usize, self.patience(cx));
        let Some(rates) = self.rates_mut() else { return Ok(here) };
        let passes = rates.payload(here, left, patience, now)?;
        if passes == 0 {
            cx.setting.meter.rate_wait();
        }
        Ok(passes)
    }
}
