//! What mproxy tells about itself: log lines, metrics, traces, records and taps. Decides nothing, never sees a password, and
//! shows a payload to nobody but a tap that asks for it.

pub(crate) mod admissions;
pub(crate) mod bans;
mod budgets;
pub mod connections;
pub mod decisions;
mod events;
pub mod export_counts;
pub mod exposition;
mod failures;
mod field_lengths;
mod histogram;
mod labels;
pub mod latencies;
pub(crate) mod line_limit;
pub mod log;
pub mod metrics;
mod otlp;
pub mod otlp_logs;
mod packets;
mod policy;
pub(crate) mod process;
pub(crate) mod put_aside;
mod refusals;
mod relay;
mod reloads;
mod runtime;
mod shadow;
pub mod stats;
mod streams;
mod tally;
pub mod taps;
pub mod traces;
mod traffic;
mod upgrades;
mod watch;
pub(crate) mod watermarks;
