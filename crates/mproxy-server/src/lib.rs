//! The house: composition, relay, configuration, admin, telemetry and the mproxy binary.
//!
//! | room | holds |
//! |---|---|
//! | [`config`] | what was written (flags, environment, file) and what it means |
//! | [`cli`] | the command line |
//! | [`telemetry`] | log and metrics |
//! | [`admin`] | health, metrics and the admin API over HTTP |

pub mod admin;
pub mod cli;
pub mod config;
pub mod telemetry;
