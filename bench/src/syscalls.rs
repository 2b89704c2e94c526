//! System calls of a process, counted by `perf` where that may be used.

use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::probe::Family;

/// Which calls count as what.
const READS: &[&str] = &["read", "readv", "recvfrom", "recvmsg"];
const WRITES: &[&str] = &["write", "writev", "sendto", "sendmsg"];
const WAITS: &[&str] = &["epoll_wait", "epoll_pwait", "epoll_pwait2", "poll"];
const WAKES: &[&str] = &["futex"];

/// How often in a second.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Syscalls {
    pub(crate) reads: f64,
    pub(crate) writes: f64,
    /// `epoll_wait` and its kin.
    pub(crate) waits: f64,
    pub(crate) futexes: f64,
    pub(crate) all: f64,
}

impl Syscalls {
    pub(crate) fn divided_by(self, by: f64) -> Self {
        Self {
            reads: self.reads / by,
            writes: self.writes / by,
            waits: self.waits / by,
            futexes: self.futexes / by,
            all: self.all / by,
        }
    }
}

/// Whether calls can be counted on this machine.
pub(crate) fn available() -> bool {
    let counted = Command::new("perf")
        .args(["stat", "-x,", "-e", "raw_syscalls:sys_enter", "--", "true"])
        .stdin(Stdio::null())
        .output();
    counted.is_ok_and(|output| {
        output.status.success() && !String::from_utf8_lossy(&output.stderr).contains("<not")
    })
}

/// Counts for so many seconds. `None` if `perf` cannot.
pub(crate) fn count(family: &Family, seconds: f64) -> Option<Syscalls> {
    let mut events = vec!["raw_syscalls:sys_enter".to_owned()];
    let named = [READS, WRITES, WAITS, WAKES].concat();
    events.extend(named.iter().map(|name| format!("syscalls:sys_enter_{name}")));
    let output = Command::new("perf")
        .args(["stat", "-x,", "-p", &family.ids(), "-e", &events.join(","), "--"])
        .args(["sleep", &seconds.to_string()])
        .stdin(Stdio::null())
        .output()
        .ok()?;
    if !output.status.success() {
        return None;
    }
    Some(read(&String::from_utf8_lossy(&output.stderr)).divided_by(seconds))
}

/// Lines of `count,,event,…`.
fn read(lines: &str) -> Syscalls {
    let mut calls = Syscalls::default();
    for line in lines.lines() {
        let mut fields = line.split(',');
        let (Some(count), Some(event)) = (fields.next(), fields.nth(1)) else { continue };
        let Ok(count) = count.parse::<f64>() else { continue };
        if event == "raw_syscalls:sys_enter" {
            calls.all += count;
        }
        let Some(name) = event.strip_prefix("syscalls:sys_enter_") else { continue };
        let kinds = [
            (READS, &mut calls.reads),
            (WRITES, &mut calls.writes),
            (WAITS, &mut calls.waits),
            (WAKES, &mut calls.futexes),
        ];
        for (names, sum) in kinds {
            if names.contains(&name) {
                *sum += count;
            }
        }
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn calls_are_sorted_into_their_kinds() {
        let calls = read(
            "3,,syscalls:sys_enter_read,100,100.00,,\n4,,syscalls:sys_enter_recvfrom,100,100.00,,\n\
             5,,syscalls:sys_enter_writev,1,1,,\n20,,raw_syscalls:sys_enter,1,1,,\n<not counted>,,x,,,\n",
        );
        assert_eq!((calls.reads, calls.writes, calls.all), (7.0, 5.0, 20.0));
    }
}
