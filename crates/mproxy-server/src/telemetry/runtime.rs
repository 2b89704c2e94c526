//! How busy the runtime is, read when metrics are asked for. What tokio promises to keep, and no more.

use std::fmt::Error;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use tokio::runtime::{Handle, RuntimeMetrics};

/// Workers, tasks and the queue of all workers.
#[derive(Debug)]
pub(super) struct RuntimeCollector(RuntimeMetrics);

impl RuntimeCollector {
    /// Of the runtime that this is called in, if any.
    pub(super) fn here() -> Option<Self> {
        Handle::try_current().ok().map(|handle| Self(handle.metrics()))
    }
}

impl Collector for RuntimeCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let Self(runtime) = self;
        let mut gauge = |name, help, value: usize| {
            let gauge = ConstGauge::<i64>::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
        };
        gauge("runtime_workers", "Threads of the runtime that run tasks", runtime.num_workers())?;
        gauge("runtime_alive_tasks", "Tasks that have not ended", runtime.num_alive_tasks())?;
        let help = "Tasks that are to run and that no worker has taken";
        gauge("runtime_global_queue_depth", help, runtime.global_queue_depth())?;
        let kind = ConstCounter::<f64>::new(0.0).metric_type();
        let help = "Time that a worker of the runtime has run tasks";
        let mut family =
            encoder.encode_descriptor("runtime_worker_busy", help, Some(&Unit::Seconds), kind)?;
        for worker in 0..runtime.num_workers() {
            let busy = ConstCounter::<f64>::new(runtime.worker_total_busy_duration(worker).as_secs_f64());
            busy.encode(family.encode_family(&[("worker", worker.to_string())])?)?;
        }
        Ok(())
    }
}
