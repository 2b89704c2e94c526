//! The house: composition, relay, configuration, admin, telemetry and the mproxy binary.
//!
//! | room | holds |
//! |---|---|
//! | [`build_info`] | which build this is |
//! | [`config`] | what was written (flags, environment, file) and what it means |
//! | [`cli`] | the command line |
//! | [`telemetry`] | log and metrics |
//! | [`admin`] | health, metrics and the admin API over HTTP |
//! | [`app`] | the composition root: builds the house, opens its listeners, sees it through to its end |
//! | [`door`] | any transport in and out as one byte stream |
//! | `serve` | from a listener to running connections |
//! | `relay` | the task of one connection: bytes between two streams and a session |
//! | `registry` | who is connected, and a word to them |
//! | `protect` | what keeps a crowd, or a stranger, from taking mproxy away from those who use it |
//! | `share` | fair shares by address of what clients may use up before they are admitted |
//! | `command_router`, `orders` | commands of the hook service, handed to connections and counted |
//! | `reloads` | what became of the last reloads |
//! | `drain` | the end of the process |
//! | [`upgrade`] | a new process takes the place of this one |
//! | [`systemd`] | sockets that systemd opened, and what it is told |
//! | [`timestamp`] | moments in the admin API and the decision log |
//! | [`demo`] | the embedded broker and the page of `mproxy demo` |

pub mod admin;
pub mod app;
pub mod build_info;
pub mod cli;
mod command_router;
pub mod config;
pub mod demo;
mod descriptors;
pub mod door;
mod drain;
#[cfg(test)]
mod example_peer;
mod handover;
mod orders;
mod protect;
mod registry;
mod relay;
mod reloads;
mod serve;
mod share;
pub mod systemd;
pub mod telemetry;
pub mod timestamp;
pub mod upgrade;
