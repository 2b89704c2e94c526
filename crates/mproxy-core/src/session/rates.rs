//! How fast a client may send: token buckets for messages and for bytes, of its grant and of limits for all.
//!
//! A bucket holds what may come in one second, or one packet where that is more. A client that has emptied it is not read
//! until there is enough again, or its PUBLISH is refused. Of a payload that streams, bytes count as they are read, so that
//! it passes at the rate itself. Where there are several, the strictest holds.

mod bucket;
mod gauge;

use std::time::{Duration, Instant};

use mproxy_codec::types::PacketType;
use serde::{Deserialize, Serialize};

use self::bucket::Bucket;
use self::gauge::Gauge;
use crate::fault::Fault;
use crate::grant::{GrantLimits, RateAction};
use crate::policy::LimitKind;
use crate::rate::{LimitedRate, RateLimit, RateUnit};

/// How long a client may be kept waiting that has no keep alive: half of a usual one, for it may have a clock of its own.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A client that has to wait is read again when one in so many parts of a second's worth is there, so that one which
/// always sends too fast is woken so often a second, and not for each packet.
const SLICES: f64 = 16.0;

/// What is lost in sums of fractions.
const ERROR: f64 = 1e-6;

/// The rates of one client.
#[derive(Debug)]
pub(super) struct Rates {
    limiters: Vec<Limiter>,
    /// The client is not read until then.
    pub(super) resume_at: Option<Instant>,
    /// The PUBLISH at the front is to be refused because of this one.
    pub(super) over: Option<RateOf>,
}

/// One rate, and what follows where the client is faster.
#[derive(Debug)]
struct Limiter {
    gauge: Gauge,
    unit: RateUnit,
    action: RateAction,
    of: RateOf,
}

/// Whose rate it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RateOf {
    /// The grant's.
    Grant,
    /// One for all.
    All(LimitKind),
}

impl RateOf {
    /// The limit for all that it is.
    const fn limit(self) -> Option<LimitKind> {
        match self {
            Self::Grant => None,
            Self::All(kind) => Some(kind),
        }
    }
}

/// The [`Rates`] of a grant for another process: what each bucket gains in a second, and what is in it now.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WrittenRates {
    messages: Option<(f64, f64)>,
    bytes: Option<(f64, f64)>,
    action: RateAction,
}

/// What becomes of the packet at the front.
pub(super) enum RateCheck {
    /// It may be taken.
    Within,
    /// After so many seconds.
    Later(f64),
    /// It is to be refused, because of this one.
    Over(RateOf),
}

impl Limiter {
    /// How much of it a packet takes.
    fn need(&self, packet: PacketType, total: usize) -> Option<f64> {
        match self.unit {
            RateUnit::Messages => (packet == PacketType::Publish).then_some(1.0),
            RateUnit::Bytes => Some(total as f64),
        }
    }

    /// Whether a client that is too fast for it waits.
    fn waits(&self) -> bool {
        self.action == RateAction::Wait
    }
}

impl Rates {
    /// The rates of this grant, and those for all of a session that opens; `None` if there are none. `old` ones go on as they
    /// stand.
    pub(super) fn new(
        limits: &GrantLimits,
        old: Option<Self>,
        all: Vec<RateLimit>,
        full: bool,
        now: Instant,
    ) -> Option<Self> {
        let mut old = old.map(|old| old.limiters).unwrap_or_default();
        let own = [(RateUnit::Messages, limits.messages), (RateUnit::Bytes, limits.bytes)];
        let mut limiters: Vec<_> = own
            .into_iter()
            .filter_map(|(unit, rate)| {
                let rate = rate?;
                let known = old.iter().position(|one| one.of == RateOf::Grant && one.unit == unit);
                let gauge = match known.map(|at| old.swap_remove(at).gauge) {
                    Some(Gauge::Own(mut bucket)) => {
                        bucket.change(rate, now);
                        Gauge::Own(bucket)
                    }
                    Some(Gauge::Shared(_)) | None => Gauge::Own(Bucket::new(rate, full, now)),
                };
                Some(Limiter { gauge, unit, action: limits.rate_action, of: RateOf::Grant })
            })
            .collect();
        limiters.extend(old.into_iter().filter(|one| one.of != RateOf::Grant));
        limiters.extend(all.into_iter().map(|RateLimit { unit, rate, action, kind }| {
            let gauge = match rate {
                LimitedRate::Own(rate) => Gauge::Own(Bucket::new(rate, full, now)),
                LimitedRate::Shared(rate) => Gauge::shared(rate, now),
            };
            Limiter { gauge, unit, action, of: RateOf::All(kind) }
        }));
        (!limiters.is_empty()).then_some(Self { limiters, resume_at: None, over: None })
    }

    /// Those of the grant. Those for all are the other process's own.
    pub(super) fn write(&self, now: Instant) -> WrittenRates {
        let of_grant = || self.limiters.iter().filter(|one| one.of == RateOf::Grant);
        let written = |unit| {
            of_grant().find(|one| one.unit == unit).and_then(|one| match &one.gauge {
                Gauge::Own(bucket) => Some(bucket.written(now)),
                Gauge::Shared(_) => None,
            })
        };
        WrittenRates {
            messages: written(RateUnit::Messages),
            bytes: written(RateUnit::Bytes),
            action: of_grant().next().map_or_else(RateAction::default, |one| one.action),
        }
    }

    /// Whoever waits begins to wait anew, for as long as is left.
    pub(super) fn read(WrittenRates { messages, bytes, action }: WrittenRates, now: Instant) -> Self {
        let written = [(RateUnit::Messages, messages), (RateUnit::Bytes, bytes)];
        let limiters = written.into_iter().filter_map(|(unit, written)| {
            let gauge = Gauge::Own(Bucket::read(written?, now));
            Some(Limiter { gauge, unit, action, of: RateOf::Grant })
        });
        Self { limiters: limiters.collect(), resume_at: None, over: None }
    }

    pub(super) fn fill(&mut self, now: Instant) {
        self.limiters.iter_mut().for_each(|one| one.gauge.fill(now));
    }

    /// What becomes of a packet of so many bytes.
    ///
    /// # Errors
    /// It would take `patience` or longer until the client is within its rates again.
    pub(super) fn pace(
        &mut self,
        packet: PacketType,
        total: usize,
        patience: Duration,
    ) -> Result<RateCheck, Fault> {
        let needs = |one: &Limiter| one.need(packet, total);
        // What has no words for a refusal passes, and counts.
        if packet == PacketType::Publish
            && let Some(over) = self
                .limiters
                .iter()
                .find(|one| !one.waits() && needs(one).is_some_and(|amount| !one.gauge.has(amount)))
        {
            return Ok(RateCheck::Over(over.of));
        }
        for one in self.limiters.iter().filter(|one| one.waits()) {
            let seconds = needs(one).map_or(0.0, |amount| one.gauge.seconds_to(amount));
            if seconds >= patience.as_secs_f64() {
                return Err(Fault::RateExceeded { packet, limit: one.of.limit() });
            }
        }
        let mut later: Option<f64> = None;
        for one in self.limiters.iter_mut().filter(|one| one.waits()) {
            if let Some(amount) = needs(one).filter(|amount| !one.gauge.has(*amount)) {
                later = Some(later.unwrap_or(0.0).max(one.gauge.wait(amount)));
            }
        }
        Ok(later.map_or(RateCheck::Within, RateCheck::Later))
    }

    pub(super) fn pause(&mut self, seconds: f64, now: Instant) {
        // To the next nanosecond, for just before it there is not enough.
        let wait = Duration::try_from_secs_f64(seconds).unwrap_or(PATIENCE) + Duration::from_nanos(1);
        self.resume_at = now.checked_add(wait);
    }

    /// So many bytes at the front of a packet of so many in all were taken.
    pub(super) fn charge(&mut self, packet: PacketType, here: usize, total: usize) {
        if self.over.take().is_some() && packet == PacketType::Publish {
            return;
        }
        for one in &mut self.limiters {
            match (one.unit, one.action) {
                (RateUnit::Messages, _) if packet != PacketType::Publish => {}
                (RateUnit::Messages, _) => one.gauge.take(1.0),
                (RateUnit::Bytes, RateAction::Wait) => one.gauge.take(here as f64),
                // It was let in as a whole: whatever follows it is not held up.
                (RateUnit::Bytes, RateAction::Refuse) => one.gauge.take(total as f64),
            }
        }
    }

    /// How many of `here` bytes of a payload, of which `left` are to come, may pass now. 0: the client has to wait.
    pub(super) fn payload(
        &mut self,
        here: usize,
        left: usize,
        patience: Duration,
        now: Instant,
    ) -> Result<usize, Fault> {
        let (mut passes, mut later) = (here, None::<f64>);
        let of_bytes = |one: &&mut Limiter| one.waits() && one.unit == RateUnit::Bytes;
        for one in self.limiters.iter_mut().filter(of_bytes) {
            one.gauge.fill(now);
            match one.gauge.bytes_now(here) {
                0 => {
                    // Where the rate is another than at its beginning.
                    if one.gauge.seconds_to(left as f64) >= patience.as_secs_f64() {
                        let packet = PacketType::Publish;
                        return Err(Fault::RateExceeded { packet, limit: one.of.limit() });
                    }
                    later = Some(later.unwrap_or(0.0).max(one.gauge.wait_for_bytes(here)));
                }
                bytes => passes = passes.min(bytes),
            }
        }
        if let Some(seconds) = later {
            self.pause(seconds, now);
            return Ok(0);
        }
        self.limiters.iter_mut().filter(of_bytes).for_each(|one| one.gauge.take(passes as f64));
        Ok(passes)
    }
}

#[cfg(test)]
mod tests;
