//! Whether the broker of a listener can be reached, for the log: each client is dialled for by itself, and again and again,
//! and an operator wants one line when that begins to fail and one when it works again. Says when; writes nothing.

use std::time::{Duration, Instant};

/// A broker that fails for some clients and answers others has at most one line of each kind in this time.
const APART: Duration = Duration::from_secs(10);

/// What has become of the dials of one listener.
#[derive(Debug, Default)]
pub(crate) struct Outage {
    failing: Option<Failing>,
    /// When it was last said that they fail.
    last_line: Option<Instant>,
}

/// Dials fail, and none has succeeded since.
#[derive(Debug)]
struct Failing {
    since: Instant,
    dials: u64,
    /// The log says so.
    is_logged: bool,
}

/// An outage that is over.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Recovery {
    /// Dials that failed.
    pub(crate) failed_dials: u64,
    /// From the first of them until now.
    pub(crate) lasted: Duration,
}

impl Outage {
    /// A dial failed. Whether a line is due.
    pub(crate) fn dial_failed(&mut self, now: Instant) -> bool {
        let failing = self.failing.get_or_insert(Failing { since: now, dials: 0, is_logged: false });
        failing.dials += 1;
        let is_due = !failing.is_logged && self.last_line.is_none_or(|last| now >= last + APART);
        if is_due {
            failing.is_logged = true;
            self.last_line = Some(now);
        }
        is_due
    }

    /// A dial succeeded. `Some` where the log says that they fail.
    pub(crate) fn dial_succeeded(&mut self, now: Instant) -> Option<Recovery> {
        let Failing { since, dials, is_logged } = self.failing.take()?;
        is_logged.then(|| Recovery { failed_dials: dials, lasted: now.saturating_duration_since(since) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_has_one_line_and_its_end_another() {
        let (mut outage, now) = (Outage::default(), Instant::now());
        let later = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(outage.dial_succeeded(now), None);
        assert!(outage.dial_failed(now));
        assert!((1..1000).all(|second| !outage.dial_failed(later(second))));
        let over = Recovery { failed_dials: 1000, lasted: Duration::from_secs(1000) };
        assert_eq!(outage.dial_succeeded(later(1000)), Some(over));
        assert_eq!(outage.dial_succeeded(later(1001)), None);
        assert!(outage.dial_failed(later(1002)));
    }

    #[test]
    fn a_broker_that_comes_and_goes_has_few_lines() {
        let (mut outage, now) = (Outage::default(), Instant::now());
        let (mut failures, mut recoveries) = (0, 0);
        for tenth in 0..1000 {
            let now = now + Duration::from_millis(100 * tenth);
            failures += u32::from(outage.dial_failed(now));
            recoveries += u32::from(outage.dial_succeeded(now).is_some());
        }
        assert_eq!((failures, recoveries), (10, 10));
    }
}
