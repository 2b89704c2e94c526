//! So many log lines a second, where a client or a service decides how often there is something to say.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Lines a second at most. Suppressed ones are counted, and the next line has their number.
const LINES: u32 = 5;

/// Whose turn it is to be logged. Its lock is never held while a line is written.
#[derive(Debug, Default)]
pub(crate) struct LineLimit(Mutex<Lines>);

#[derive(Debug, Default)]
struct Lines {
    second: Option<Instant>,
    written: u32,
    suppressed: u64,
}

impl LineLimit {
    /// Whether a line may be written now, and how many were not since the last one.
    pub(crate) fn take(&self, now: Instant) -> Option<u64> {
        let mut lines = self.0.lock();
        if lines.second.is_none_or(|second| now >= second + Duration::from_secs(1)) {
            lines.second = Some(now);
            lines.written = 0;
        }
        if lines.written >= LINES {
            lines.suppressed += 1;
            return None;
        }
        lines.written += 1;
        Some(std::mem::take(&mut lines.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_about_failures_are_limited() {
        let lines = LineLimit::default();
        let now = Instant::now();
        let written = (0..100).filter(|_| lines.take(now).is_some()).count();
        assert_eq!(written, 5);
        assert_eq!(lines.take(now + Duration::from_secs(1)), Some(95));
    }
}
