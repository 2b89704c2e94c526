//! What mproxy tells about itself: log lines and metrics. Decides nothing, and never sees a password or payload.

mod budgets;
pub mod connections;
pub mod decisions;
mod events;
pub mod exposition;
mod failures;
mod labels;
mod line_limit;
pub mod log;
pub mod metrics;
mod packets;
mod policy;
mod process;
mod reloads;
mod shadow;
mod streams;
mod tally;
mod traffic;
mod watch;
