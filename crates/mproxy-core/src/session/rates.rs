//! How fast a client may send, as its grant has it: a token bucket for messages, and one for bytes.
//!
//! A bucket holds what may come in one second, or one packet where that is more. A client that has emptied it is not read
//! until there is enough again, or its PUBLISH is refused. Of a payload that streams, bytes count as they are read, so that
//! it passes at the rate itself.

use std::time::{Duration, Instant};

use mproxy_codec::types::PacketType;
use serde::{Deserialize, Serialize};

use crate::fault::Fault;
use crate::grant::{GrantLimits, PerSecond, RateAction};

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
    messages: Option<Bucket>,
    bytes: Option<Bucket>,
    action: RateAction,
    /// The client is not read until then.
    pub(super) resume_at: Option<Instant>,
    /// The PUBLISH at the front is to be refused.
    pub(super) over: bool,
}

/// What may come, and how much of it more each second.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    rate: f64,
    /// Below 0 where a packet was larger than the bucket, or was there already.
    level: f64,
    at: Instant,
}

/// [`Rates`] for another process: what each bucket gains in a second, and what is in it now.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WrittenRates {
    messages: Option<(f64, f64)>,
    bytes: Option<(f64, f64)>,
    action: RateAction,
    resumes: Option<Duration>,
    over: bool,
}

/// What becomes of the packet at the front.
pub(super) enum RateCheck {
    /// It may be taken.
    Within,
    /// After so many seconds.
    Later(f64),
    /// It is to be refused.
    Over,
}

impl Bucket {
    /// A full one, or one that has to fill first.
    fn new(rate: PerSecond, full: bool, now: Instant) -> Self {
        let mut bucket = Self { rate: rate.get(), level: 0.0, at: now };
        if full {
            bucket.level = bucket.most();
        }
        bucket
    }

    /// One second's worth, and one at least.
    fn most(&self) -> f64 {
        self.rate.max(1.0)
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.level = (self.level + passed * self.rate).min(self.most());
        // Never back: a time that was told late must not be counted twice.
        self.at = self.at.max(now);
    }

    /// Another rate from now on. What was there stays, and nothing is added.
    fn change(&mut self, rate: PerSecond, now: Instant) {
        self.fill(now);
        self.rate = rate.get();
        self.level = self.level.min(self.most());
    }

    fn take(&mut self, amount: f64) {
        self.level -= amount;
    }

    /// Whether so much may come now. What is more than a bucket holds may come when that is full.
    fn has(&self, amount: f64) -> bool {
        self.level + ERROR >= amount.min(self.most())
    }

    /// Seconds until so much is there, or a slice if that is more.
    fn wait(&self, amount: f64) -> f64 {
        self.seconds_to(amount.min(self.most()).max(self.rate / SLICES))
    }

    /// Seconds until so much has come at this rate.
    fn seconds_to(&self, amount: f64) -> f64 {
        ((amount - self.level) / self.rate).max(0.0)
    }
}

impl Rates {
    /// The rates of these limits; `None` if there are none. `old` ones go on as they stand.
    pub(super) fn new(limits: &GrantLimits, old: Option<&Self>, full: bool, now: Instant) -> Option<Self> {
        let bucket = |rate: Option<PerSecond>, old: Option<Bucket>| match (rate, old) {
            (Some(rate), Some(mut bucket)) => {
                bucket.change(rate, now);
                Some(bucket)
            }
            (Some(rate), None) => Some(Bucket::new(rate, full, now)),
            (None, _) => None,
        };
        let messages = bucket(limits.messages, old.and_then(|old| old.messages));
        let bytes = bucket(limits.bytes, old.and_then(|old| old.bytes));
        (messages.is_some() || bytes.is_some()).then_some(Self {
            messages,
            bytes,
            action: limits.rate_action,
            resume_at: None,
            over: false,
        })
    }

    pub(super) fn write(&self, now: Instant) -> WrittenRates {
        let bucket = |mut bucket: Bucket| {
            bucket.fill(now);
            (bucket.rate, bucket.level)
        };
        WrittenRates {
            messages: self.messages.map(bucket),
            bytes: self.bytes.map(bucket),
            action: self.action,
            resumes: self.resume_at.map(|at| at.saturating_duration_since(now)),
            over: self.over,
        }
    }

    pub(super) fn read(written: WrittenRates, now: Instant) -> Self {
        let bucket = |(rate, level)| Bucket { rate, level, at: now };
        let WrittenRates { messages, bytes, action, resumes, over } = written;
        let (messages, bytes) = (messages.map(bucket), bytes.map(bucket));
        Self { messages, bytes, action, resume_at: resumes.and_then(|after| now.checked_add(after)), over }
    }

    pub(super) fn fill(&mut self, now: Instant) {
        for bucket in [&mut self.messages, &mut self.bytes].into_iter().flatten() {
            bucket.fill(now);
        }
    }

    /// The buckets that a packet takes from, and how much.
    fn needs(&self, packet: PacketType, total: usize) -> impl Iterator<Item = (&Bucket, f64)> {
        let messages = self.messages.as_ref().filter(|_| packet == PacketType::Publish);
        let bytes = self.bytes.as_ref().map(|bytes| (bytes, total as f64));
        messages.map(|messages| (messages, 1.0)).into_iter().chain(bytes)
    }

    /// What becomes of a packet of so many bytes.
    ///
    /// # Errors
    /// It would take `patience` or longer until the client is within its rates again.
    pub(super) fn pace(
        &self,
        packet: PacketType,
        total: usize,
        patience: Duration,
    ) -> Result<RateCheck, Fault> {
        let has = self.needs(packet, total).all(|(bucket, amount)| bucket.has(amount));
        match self.action {
            // What has no words for a refusal passes, and counts.
            RateAction::Refuse if has || packet != PacketType::Publish => return Ok(RateCheck::Within),
            RateAction::Refuse => return Ok(RateCheck::Over),
            RateAction::Wait => {}
        }
        let whole = self.needs(packet, total).map(|(bucket, amount)| bucket.seconds_to(amount));
        if whole.fold(0.0, f64::max) >= patience.as_secs_f64() {
            return Err(Fault::RateExceeded { packet });
        }
        if has {
            return Ok(RateCheck::Within);
        }
        let short = self.needs(packet, total).filter(|(bucket, amount)| !bucket.has(*amount));
        Ok(RateCheck::Later(short.map(|(bucket, amount)| bucket.wait(amount)).fold(0.0, f64::max)))
    }

    pub(super) fn pause(&mut self, seconds: f64, now: Instant) {
        // To the next nanosecond, for just before it there is not enough.
        let wait = Duration::try_from_secs_f64(seconds).unwrap_or(PATIENCE) + Duration::from_nanos(1);
        self.resume_at = now.checked_add(wait);
    }

    /// So many bytes at the front of a packet of so many in all were taken.
    pub(super) fn charge(&mut self, packet: PacketType, here: usize, total: usize) {
        if std::mem::take(&mut self.over) && packet == PacketType::Publish {
            return;
        }
        if let Some(messages) = self.messages.as_mut().filter(|_| packet == PacketType::Publish) {
            messages.take(1.0);
        }
        if let Some(bytes) = &mut self.bytes {
            bytes.take(match self.action {
                RateAction::Wait => here as f64,
                // It was let in as a whole: whatever follows it is not held up.
                RateAction::Refuse => total as f64,
            });
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
        let RateAction::Wait = self.action else { return Ok(here) };
        let Some(bytes) = &mut self.bytes else { return Ok(here) };
        bytes.fill(now);
        let slice = (bytes.rate / SLICES).max(1.0).min(here as f64);
        if bytes.level + ERROR >= slice {
            let passes = here.min((bytes.level + ERROR) as usize);
            bytes.take(passes as f64);
            return Ok(passes);
        }
        // Where the rate is another than at its beginning.
        if bytes.seconds_to(left as f64) >= patience.as_secs_f64() {
            return Err(Fault::RateExceeded { packet: PacketType::Publish });
        }
        let wait = bytes.seconds_to(slice);
        self.pause(wait, now);
        Ok(0)
    }
}

#[cfg(test)]
mod tests;
