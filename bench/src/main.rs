//! Measures what mproxy costs, side by side with nginx and haproxy. What is measured and how to read it: `README.md`.
//!
//! | room | is |
//! |---|---|
//! | `run` | the rounds: starts everybody, takes the samples |
//! | `workload`, `transport` | the table of workloads, and what they are played over |
//! | `candidate` | what stands before the broker: nothing, nginx, haproxy, mproxy in its variants |
//! | `load` | the load generator, a process of its own |
//! | `broker` | the stand-in broker, a process of its own |
//! | `control` | how the run talks to these two: a word a line in, a tally a line out |
//! | `edge` | how long an event of theirs lasts |
//! | `frame`, `websocket` | MQTT 3.1.1 and what may be around it by hand, as little as is needed |
//! | `grant`, `json` | policy services: one that leaves everything to mproxy, one that is asked in JSON |
//! | `probe`, `syscalls` | what the kernel says a process has used |
//! | `child` | processes that were started, and are ended by their id |
//! | `sample`, `report`, `machine` | what was measured, told as tables and as a picture, and where |
//! | `histogram`, `clock` | latencies |

mod broker;
mod candidate;
mod child;
mod clock;
mod control;
mod edge;
mod frame;
mod grant;
mod histogram;
mod json;
mod load;
mod machine;
mod probe;
mod report;
mod run;
mod sample;
mod syscalls;
mod transport;
mod websocket;
mod workload;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::bail;
use clap::{Parser, Subcommand};

/// Measures mproxy beside nginx and haproxy.
#[derive(Debug, Parser)]
#[command(name = "mproxy-bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure, and write results
    Run(run::Options),
    /// Write table and picture of an earlier run into README.md
    Report {
        /// Folder with results.json; the picture is written there
        #[arg(long, default_value = "bench/results")]
        from: PathBuf,
        /// The file whose markers enclose the table
        #[arg(long, default_value = "bench/README.md")]
        readme: PathBuf,
    },
    /// List the workloads
    Workloads,
    /// The stand-in broker; started by `run`
    #[command(hide = true)]
    Broker {
        /// Where it listens beside its port
        socket: PathBuf,
    },
    /// The load generator; started by `run`
    #[command(hide = true)]
    Load {
        #[arg(long)]
        workload: String,
        #[arg(long)]
        target: SocketAddr,
        #[arg(long)]
        seconds: f64,
        /// Clients have a token
        #[arg(long)]
        token: bool,
    },
    /// The policy service of `mproxy grant`; started by `run`
    #[command(hide = true)]
    Grant { address: SocketAddr },
    /// The policy service of `mproxy json`; started by `run`
    #[command(hide = true)]
    Json { address: SocketAddr },
    /// Become another program that ends when the one who started it ends; used by `run`
    #[command(hide = true)]
    Leash {
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Run(options) => run::run(&options),
        Command::Report { from, readme } => report::into_readme(&from, &readme),
        Command::Workloads => {
            for workload in workload::all() {
                println!("{:<13} {}", workload.name, workload.about);
            }
            Ok(())
        }
        Command::Broker { socket } => broker::run(&socket),
        Command::Load { workload, target, seconds, token } => {
            let [workload] = &*workload::named(&workload)? else {
                bail!("{workload} is more than one workload")
            };
            let login = if token { load::Login::Token } else { load::Login::Nothing };
            load::run(workload, target, login, seconds)
        }
        Command::Grant { address } => grant::serve(address),
        Command::Json { address } => json::serve(address),
        Command::Leash { command } => Err(child::become_leashed(&command)),
    }
}
