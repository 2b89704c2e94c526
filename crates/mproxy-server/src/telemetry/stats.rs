//! Rates for people: what the counters of [`Metrics`](super::metrics::Metrics) did over the last second, ten seconds and
//! minute. A sample is taken when somebody asks, and kept for a minute: while nobody asks, nothing runs and nothing is kept
//! up to date.
//!
//! | room | holds |
//! |---|---|
//! | `sample` | the counters at one moment, read from the text of the metrics |
//! | `figures` | what is made of two of them |

mod figures;
mod sample;

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use serde::Serialize;
use utoipa::ToSchema;

use self::figures::{Amount, Figures, Gauges};
use self::sample::{Sample, SeriesIndex};
use crate::timestamp::Timestamp;

/// Over which times rates are shown. Seconds.
const WINDOWS: [u64; 3] = [1, 10, 60];

/// Samples closer to each other than this would make rates of single events.
const CLOSEST: Duration = Duration::from_millis(900);

/// Of samples that are older than the window of ten seconds only some are kept.
const SPARSE_AFTER: Duration = Duration::from_secs(12);
const SPARSE: Duration = Duration::from_secs(5);

/// Longer than the longest window, so that there is a sample at its beginning.
const KEPT: Duration = Duration::from_secs(66);

/// What is counted, and how fast it grows.
#[derive(Debug, Serialize, ToSchema)]
pub struct StatsView {
    time: Timestamp,
    version: &'static str,
    #[serde(flatten)]
    gauges: Gauges,
    /// Since the start.
    totals: Figures,
    /// The shortest window first; those alone for which there are samples.
    windows: Vec<WindowView>,
}

/// What was counted in a second, on average over this time.
#[derive(Debug, Serialize, ToSchema)]
struct WindowView {
    /// How long it is.
    seconds: Amount,
    #[serde(flatten)]
    per_second: Figures,
}

/// The samples of the last minute.
#[derive(Debug, Default)]
pub struct Stats(Mutex<Samples>);

#[derive(Debug, Default)]
struct Samples {
    index: SeriesIndex,
    /// The oldest first.
    kept: VecDeque<Sample>,
}

impl Stats {
    /// Whether no rate can be shown yet, for want of a sample to compare with: another look a second later has one.
    pub fn is_new(&self, now: Instant) -> bool {
        let samples = self.0.lock();
        !samples.kept.iter().any(|sample| age(sample, now) < KEPT)
    }

    /// What the metrics are now, and how they have changed. `expose` gives them in Prometheus' text format; it is asked only
    /// if the last sample is old enough for another one.
    pub fn look(&self, now: Instant, expose: impl FnOnce() -> String) -> StatsView {
        let mut samples = self.0.lock();
        samples.kept.retain(|sample| age(sample, now) < KEPT);
        if samples.kept.back().is_none_or(|last| age(last, now) >= CLOSEST) {
            let sample = samples.index.read(now, &expose());
            samples.push(sample);
        }
        samples.view()
    }
}

fn age(sample: &Sample, now: Instant) -> Duration {
    now.saturating_duration_since(sample.at)
}

impl Samples {
    fn push(&mut self, sample: Sample) {
        let now = sample.at;
        self.kept.push_back(sample);
        let mut last: Option<Instant> = None;
        self.kept.retain(|sample| {
            let apart = last.is_none_or(|last| sample.at.saturating_duration_since(last) >= SPARSE);
            let keeps = age(sample, now) < SPARSE_AFTER || apart;
            if keeps {
                last = Some(sample.at);
            }
            keeps
        });
    }

    fn view(&self) -> StatsView {
        let empty = Sample::default();
        let newest = self.kept.back().unwrap_or(&empty);
        let mut windows: Vec<WindowView> = Vec::new();
        for window in WINDOWS.map(Duration::from_secs) {
            // The youngest that is old enough, or else the oldest there is.
            let is_older = |sample: &&Sample| age(sample, newest.at) + CLOSEST / 9 >= window;
            let Some(before) = self.kept.iter().rfind(is_older).or_else(|| self.kept.front()) else {
                continue;
            };
            let seconds = age(before, newest.at).as_secs_f64();
            // Without a sample that is older than those of the window before, it would be that window again.
            if seconds > windows.last().map_or(0.0, |shorter| shorter.seconds.0) {
                let per_second = Figures::between(&self.index, Some(before), newest, seconds);
                windows.push(WindowView { seconds: Amount(seconds), per_second });
            }
        }
        StatsView {
            time: Timestamp(SystemTime::now()),
            version: env!("CARGO_PKG_VERSION"),
            gauges: Gauges::of(&self.index, newest),
            totals: Figures::between(&self.index, None, newest, 1.0),
            windows,
        }
    }
}

#[cfg(test)]
mod tests;
