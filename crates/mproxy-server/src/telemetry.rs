//! What mproxy tells about itself: log lines and metrics. Decides nothing, and never sees a password or payload.

mod budgets;
mod events;
pub mod exposition;
mod failures;
pub mod log;
pub mod metrics;
mod packets;
mod process;
mod streams;
mod tally;
mod watch;
