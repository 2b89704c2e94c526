//! What the kernel says processes have used: read from `/proc`, of a process with all its children and threads.

use std::collections::BTreeMap;
use std::fs;

use anyhow::Context as _;
use rustix::param::clock_ticks_per_second;
use serde::{Deserialize, Serialize};

use crate::clock;

/// A process and its children, as nginx has them.
#[derive(Clone, Debug)]
pub(crate) struct Family(Vec<u32>);

/// CPU time used until a moment.
#[derive(Debug)]
pub(crate) struct Cpu {
    at: u64,
    /// Nanoseconds of each thread, from the scheduler.
    threads: BTreeMap<u32, u64>,
    /// In clock ticks; also of threads that have ended.
    user: u64,
    system: u64,
}

/// CPU time used between two moments.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spent {
    pub(crate) seconds: f64,
    pub(crate) cpu_us: f64,
    /// Of `cpu_us`, in user space.
    pub(crate) user_share: f64,
}

/// Resident memory, in KiB.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Memory {
    pub(crate) rss: f64,
    /// What is shared counted in parts.
    pub(crate) pss: f64,
}

impl Family {
    pub(crate) fn of(pid: u32) -> anyhow::Result<Self> {
        let mut found = vec![pid];
        let mut next = 0;
        while let Some(&parent) = found.get(next) {
            for task in tasks(parent)? {
                // It may have ended in the meantime.
                let children = fs::read_to_string(format!("/proc/{parent}/task/{task}/children"));
                let children = children.unwrap_or_default();
                found.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
            }
            next += 1;
        }
        Ok(Self(found))
    }

    /// Ids with commas, as other programs take them.
    pub(crate) fn ids(&self) -> String {
        self.0.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
    }

    pub(crate) fn cpu(&self) -> anyhow::Result<Cpu> {
        let mut cpu = Cpu { at: clock::now(), threads: BTreeMap::new(), user: 0, system: 0 };
        for pid in &self.0 {
            for task in tasks(*pid)? {
                if let Ok(line) = fs::read_to_string(format!("/proc/{pid}/task/{task}/schedstat")) {
                    cpu.threads.insert(task, number(line.split_whitespace().next())?);
                }
            }
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
            // The name is in parentheses and may have any character; 11 fields lie between it and the times.
            let (_, fields) = stat.rsplit_once(") ").context("a stat without a name")?;
            let mut fields = fields.split_whitespace().skip(11);
            cpu.user += number(fields.next())?;
            cpu.system += number(fields.next())?;
        }
        Ok(cpu)
    }

    pub(crate) fn memory(&self) -> anyhow::Result<Memory> {
        let mut memory = Memory::default();
        for pid in &self.0 {
            let lines = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
                .with_context(|| format!("the memory of process {pid}"))?;
            memory.rss += kib(&lines, "Rss:")?;
            memory.pss += kib(&lines, "Pss:")?;
        }
        Ok(memory)
    }

    /// The most that was ever resident, in KiB.
    pub(crate) fn peak(&self) -> anyhow::Result<f64> {
        self.0.iter().map(|pid| kib(&fs::read_to_string(format!("/proc/{pid}/status"))?, "VmHWM:")).sum()
    }
}

impl Cpu {
    /// What was used since an earlier moment.
    pub(crate) fn since(&self, earlier: &Self) -> Spent {
        let ticks = clock_ticks_per_second() as f64;
        let user = (self.user - earlier.user) as f64 / ticks * 1e6;
        let system = (self.system - earlier.system) as f64 / ticks * 1e6;
        let ended = earlier.threads.keys().any(|thread| !self.threads.contains_key(thread));
        let cpu_us = if ended || self.threads.is_empty() {
            // Ticks are coarse, but know of those that have gone.
            user + system
        } else {
            let before = |thread| earlier.threads.get(thread).copied().unwrap_or(0);
            self.threads.iter().map(|(thread, time)| (time - before(thread)) as f64 / 1e3).sum()
        };
        Spent {
            seconds: (self.at - earlier.at) as f64 / 1e9,
            cpu_us,
            user_share: if user + system > 0.0 { user / (user + system) } else { 0.0 },
        }
    }
}

impl Memory {
    pub(crate) fn minus(self, other: Self) -> Self {
        Self { rss: self.rss - other.rss, pss: self.pss - other.pss }
    }
}

fn tasks(pid: u32) -> anyhow::Result<Vec<u32>> {
    let folder = fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid}"))?;
    let names = folder.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter_map(|name| name.parse().ok()).collect())
}

fn number(text: Option<&str>) -> anyhow::Result<u64> {
    text.and_then(|text| text.parse().ok()).context("no number where the kernel writes one")
}

/// The value in a line `Key:  123 kB`.
fn kib(lines: &str, key: &str) -> anyhow::Result<f64> {
    let line = lines.lines().find_map(|line| line.strip_prefix(key));
    Ok(number(line.and_then(|line| line.split_whitespace().next()))? as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_works_has_used_time() {
        let me = Family::of(std::process::id()).expect("there is /proc");
        let before = me.cpu().expect("times");
        let until = clock::now() + 30_000_000;
        while clock::now() < until {}
        let spent = me.cpu().expect("times").since(&before);
        assert!(spent.cpu_us > 1_000.0, "{spent:?}");
        assert!(me.memory().expect("memory").rss > 100.0);
    }
}
