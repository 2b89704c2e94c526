//! What mproxy tells about itself: log lines and metrics. Decides nothing, and never sees a password or payload.

pub mod exposition;
pub mod log;
pub mod metrics;
mod process;
mod tally;
mod watch;
