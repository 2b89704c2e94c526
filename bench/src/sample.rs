//! What was measured: a sample for each workload, candidate and round, kept as JSON.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::histogram::Summary;
use crate::machine::Machine;
use crate::probe::Memory;
use crate::syscalls::Syscalls;

/// All of a run.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    pub(crate) rounds: usize,
    pub(crate) seconds: f64,
    pub(crate) samples: Vec<Sample>,
}

/// One candidate under one workload in one round.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) workload: String,
    pub(crate) candidate: String,
    pub(crate) round: usize,
    /// Messages, deliveries, connects or pings.
    pub(crate) messages: u64,
    pub(crate) per_second: f64,
    /// CPU of the proxy for each message. Absent where nothing stands there.
    pub(crate) cpu_us: Option<f64>,
    pub(crate) user_us: Option<f64>,
    /// CPU of the others for each message.
    pub(crate) load_us: f64,
    pub(crate) broker_us: f64,
    pub(crate) service_us: Option<f64>,
    /// End to end, in microseconds.
    pub(crate) latency: Summary,
    /// Of the proxy, for each message.
    pub(crate) syscalls: Option<Syscalls>,
    /// Of the proxy: when it had served only a few, ...
    pub(crate) memory_at_start: Option<Memory>,
    /// ... for each idle connection, in KiB, when all were there, ...
    pub(crate) per_connection: Option<Memory>,
    /// ... and when each had pinged, ...
    pub(crate) per_connection_after_pings: Option<Memory>,
    /// ... in all, ...
    pub(crate) memory_with_all: Option<Memory>,
    /// ... and when all had gone.
    pub(crate) memory_at_end: Option<Memory>,
    /// The most that was ever resident, in KiB.
    pub(crate) peak: Option<f64>,
    /// Sent, and not arrived though nothing moved any more.
    pub(crate) lost: i64,
    /// Sent, and still arriving when nobody waited any longer: buffers full of it before a slow policy service.
    pub(crate) on_their_way: i64,
    /// What else went wrong.
    pub(crate) faults: Vec<String>,
}

impl Results {
    pub(crate) fn read(folder: &Path) -> anyhow::Result<Self> {
        let file = folder.join("results.json");
        let text = fs::read_to_string(&file).with_context(|| format!("{} cannot be read", file.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is not understood", file.display()))
    }

    pub(crate) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(folder)?;
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        fs::write(folder.join("results.json"), text).context("the results cannot be written")
    }
}
