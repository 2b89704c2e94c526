//! Figures as people read them.

use std::time::{Duration, SystemTime};

use crate::timestamp::Timestamp;

/// `512 B`, `1.5 KiB`, `34 MiB`.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    scaled(bytes as f64, 1024.0, &UNITS, " ")
}

/// `0.4`, `12`, `1.5k`, `34M`: how often in a second, or how many where that need not be exact.
pub(super) fn number(number: f64) -> String {
    const UNITS: [&str; 4] = ["k", "M", "G", "T"];
    if number < 999.5 {
        return three_digits(number);
    }
    scaled(number, 1000.0, &UNITS, "")
}

/// In the largest unit of which there is at least one.
fn scaled(value: f64, step: f64, units: &[&str], between: &str) -> String {
    let mut value = value;
    let mut unit = "";
    for larger in units {
        // What would be shown as 1000 is one of the next.
        if !unit.is_empty() && value < step.min(999.5) {
            break;
        }
        (value, unit) = (value / step, larger);
    }
    format!("{}{between}{unit}", three_digits(value))
}

/// As many digits as say something.
fn three_digits(value: f64) -> String {
    let text = if value < 9.95 { format!("{value:.1}") } else { format!("{value:.0}") };
    text.trim_end_matches(".0").to_owned()
}

/// `45s`, `5m12s`, `3h04m`, `2d3h`.
pub(super) fn duration(seconds: u64) -> String {
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds}s"),
        (0, 0, minutes, seconds) => format!("{minutes}m{seconds:02}s"),
        (0, hours, minutes, _) => format!("{hours}h{minutes:02}m"),
        (days, hours, ..) => format!("{days}d{hours}h"),
    }
}

/// `0.4ms`, `12ms`, `1.5s`: how long a call takes.
pub(super) fn latency(seconds: f64) -> String {
    if seconds < 0.9995 {
        format!("{}ms", three_digits(seconds * 1000.0))
    } else {
        format!("{}s", three_digits(seconds))
    }
}

/// How long ago this moment was, which is written as the admin API writes it.
pub(super) fn age(moment: &str, now: SystemTime) -> Option<String> {
    let Timestamp(then) = Timestamp::parse(moment)?;
    // The clock of another machine may be ahead of ours.
    Some(duration(now.duration_since(then).unwrap_or(Duration::ZERO).as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits_at_most() {
        for (count, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (10 << 10, "10 KiB"),
            ((1 << 20) - 1, "1 MiB"),
            (34 << 20, "34 MiB"),
            (u64::MAX, "16384 PiB"),
        ] {
            assert_eq!(bytes(count), shown);
        }
        for (value, shown) in [
            (0.0, "0"),
            (0.44, "0.4"),
            (9.96, "10"),
            (999.0, "999"),
            (999.7, "1k"),
            (1500.0, "1.5k"),
            (2e6, "2M"),
        ] {
            assert_eq!(number(value), shown);
        }
        assert_eq!(
            (latency(0.000_44), latency(0.9996), latency(12.0)),
            ("0.4ms".into(), "1s".into(), "12s".into())
        );
    }

    #[test]
    fn times_have_two_parts() {
        let shown = [0, 59, 60, 3599, 3661, 86_400 * 2 + 3 * 3600 + 59].map(duration);
        assert_eq!(shown, ["0s", "59s", "1m00s", "59m59s", "1h01m", "2d3h"]);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(61);
        assert_eq!(age("1970-01-01T00:00:00.000Z", now).as_deref(), Some("1m01s"));
        assert_eq!(age("1971-01-01T00:00:00.000Z", now).as_deref(), Some("0s"));
        assert_eq!(age("soon", now), None);
    }
}
