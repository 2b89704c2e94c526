//! The `mproxy` binary: reads the command line and lets the house do the rest.

use std::io;
use std::process::ExitCode;

use clap::Parser;
use mproxy_server::cli::{self, Cli, Command};

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    match cli.task() {
        Command::Check => {
            let loaded = cli::load(cli.flags());
            Ok(cli::check(loaded, cli::rule_faults, &mut io::stdout(), &mut io::stderr())?)
        }
        Command::HashPassword => cli::hash_password().map(|()| ExitCode::SUCCESS),
        Command::Run | Command::Demo => anyhow::bail!("not built yet"),
    }
}
