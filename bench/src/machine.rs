//! Where and when a run was made.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::candidate::Programs;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// UTC.
    pub(crate) date: String,
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_gib: f64,
    pub(crate) kernel: String,
    pub(crate) nginx: String,
    pub(crate) haproxy: String,
    pub(crate) mproxy: String,
    /// Whether others were at work: the load average at the start.
    pub(crate) load_average: String,
}

impl Machine {
    pub(crate) fn look(programs: &Programs) -> Self {
        let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
        let cpu = read("/proc/cpuinfo");
        let memory = read("/proc/meminfo");
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self {
            date: date(seconds / 86_400),
            cpu: value(&cpu, "model name").to_owned(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_gib: value(&memory, "MemTotal").trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0)
                / f64::from(1 << 20),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            nginx: says(&programs.nginx, "-v"),
            haproxy: says(&programs.haproxy, "-v"),
            mproxy: says(&programs.mproxy, "--version"),
            load_average: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
        }
    }
}

/// Of the first line `key : value`.
fn value<'a>(lines: &'a str, key: &str) -> &'a str {
    lines
        .lines()
        .find_map(|line| line.split_once(':').filter(|(name, _)| name.trim() == key))
        .map_or("", |(_, value)| value.trim())
}

/// The first line that a program says of its version, wherever it says it.
fn says(program: &Path, flag: &str) -> String {
    let Ok(output) = Command::new(program).arg(flag).output() else { return "absent".to_owned() };
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned()
}

/// The civil date of a day since 1970 (Howard Hinnant's `civil_from_days`).
fn date(days: u64) -> String {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day_of_month = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    format!("{:04}-{month:02}-{day_of_month:02}", era * 400 + year + next)
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn days_have_dates() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(19_782), "2024-02-29");
        assert_eq!(date(20_453), "2025-12-31");
    }
}
