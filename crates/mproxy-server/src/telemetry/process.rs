//! What the kernel knows of this process, read when metrics are asked for. Linux only; elsewhere it is left out.

use std::fmt::Error;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use crate::descriptors;

/// Start time, resident memory, open files and how many may be open, under the names that every Prometheus client uses.
#[derive(Debug)]
pub(super) struct ProcessCollector {
    started: f64,
}

impl ProcessCollector {
    pub(super) fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { started: since.as_secs_f64() }
    }
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut gauge = |name, help, unit: Option<&Unit>, value| {
            let gauge = ConstGauge::<f64>::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, unit, gauge.metric_type())?)
        };
        gauge(
            "process_start_time",
            "When this process began, Unix time",
            Some(&Unit::Seconds),
            self.started,
        )?;
        if let Some(bytes) = resident_bytes() {
            gauge("process_resident_memory", "Resident memory", Some(&Unit::Bytes), bytes as f64)?;
        }
        if let Some(files) = open_files() {
            gauge("process_open_fds", "Open file descriptors", None, files as f64)?;
        }
        if let Some(files) = descriptors::limit() {
            gauge("process_max_fds", "File descriptors that may be open", None, files as f64)?;
        }
        Ok(())
    }
}

/// Bytes of memory that are resident.
pub(crate) fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Since Linux 6.2 the size of the directory is the number of its entries. Before, it is 0, and counting them
/// would cost a directory walk over every connection.
pub(crate) fn open_files() -> Option<u64> {
    let size = std::fs::metadata("/proc/self/fd").ok()?.len();
    (size > 0).then_some(size)
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    #[test]
    fn a_process_has_memory() {
        assert!(super::resident_bytes().is_some_and(|bytes| bytes > 1 << 16));
    }
}
