//! `mproxy health`: whether a running mproxy is ready, for health checks of containers, where there is no HTTP client.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::admin_api::{AdminCallError, AdminClient};
use super::text::one_line;
use super::timeout_argument;
use crate::config::Flags;

/// Ends with this where it is not ready.
const EXIT_NOT_READY: u8 = 1;

/// What is asked.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct HealthCommand {
    /// Only ask whether it runs (/healthz); an mproxy that drains is not ready, and runs
    #[arg(long)]
    live: bool,
    /// How long it may take
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = timeout_argument)]
    timeout: Duration,
    /// Print nothing where it is ready
    #[arg(long, short)]
    quiet: bool,
}

/// `mproxy health`: 0 where it is ready, 1 where it is not, 2 where it could not be asked.
pub(super) fn ask_health(
    command: &HealthCommand,
    flags: &Flags,
    out: &mut impl Write,
) -> Result<ExitCode, AdminCallError> {
    let client = AdminClient::new(flags)?.within(command.timeout);
    let target = if command.live { "/healthz" } else { "/readyz" };
    let answer = client.exchange("GET", target, None)?;
    let (told, code) = match (answer.status, command.live) {
        (200, true) => ("running".to_owned(), ExitCode::SUCCESS),
        (200, false) => ("ready".to_owned(), ExitCode::SUCCESS),
        (503, _) => (not_ready(&answer.body), ExitCode::from(EXIT_NOT_READY)),
        (status, _) => {
            let detail = String::from_utf8_lossy(&answer.body);
            let detail = one_line(&detail).chars().take(200).collect();
            return Err(AdminCallError::Refused { status, detail, problem: Value::Null });
        }
    };
    if !(command.quiet && code == ExitCode::SUCCESS) {
        writeln!(out, "{told}")?;
    }
    Ok(code)
}

/// Why, as far as the caller may know.
fn not_ready(body: &[u8]) -> String {
    let shown: Value = serde_json::from_slice(body).unwrap_or_default();
    if shown["draining"] == true {
        // Its listeners are closed for that reason.
        return "not ready: draining".to_owned();
    }
    let mut why = Vec::new();
    for listener in shown["listeners"].as_array().into_iter().flatten() {
        if listener["address"].is_null() {
            let name = listener["name"].as_str().unwrap_or_default();
            why.push(format!("listener {} does not listen", one_line(name)));
        }
    }
    if why.is_empty() { "not ready".to_owned() } else { format!("not ready: {}", why.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_why_it_is_not_ready() {
        let body =
            br#"{"draining":false,"listeners":[{"name":"mqtt","address":"1.2.3.4:5"},{"name":"ws","address":null}]}"#;
        assert_eq!(not_ready(body), "not ready: listener ws does not listen");
        assert_eq!(not_ready(br#"{"draining":true,"listeners":[{"name":"ws"}]}"#), "not ready: draining");
        assert_eq!(not_ready(b"{\"ready\":false}"), "not ready");
        assert_eq!(not_ready(b"?"), "not ready");
    }
}
