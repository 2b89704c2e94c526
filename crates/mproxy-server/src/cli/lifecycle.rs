//! `mproxy drain`, `mproxy reload` and `mproxy upgrade`: to a running mproxy what SIGTERM, SIGHUP and SIGUSR2 are.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::admin_api::{AdminCallError, AdminClient};
use super::table::{Column, Table};
use super::text::{json_line, one_line};
use crate::config::Flags;

/// Ends with this where something is wrong with the configuration or its files, and nothing was changed.
const EXIT_NOT_RELOADED: u8 = 1;

/// `mproxy drain`: 0 where it drains, 2 where it could not be asked.
pub(super) fn drain(flags: &Flags, out: &mut impl Write) -> Result<ExitCode, AdminCallError> {
    let client = AdminClient::new(flags)?;
    client.ask("POST", "/api/v1/drain", None)?;
    writeln!(
        out,
        "mproxy at {} is draining: it takes no new connections, and ends when the open ones have ended",
        client.place()
    )?;
    Ok(ExitCode::SUCCESS)
}

/// What an upgrade ends with, for its help.
pub(super) const UPGRADE_EXIT_CODES: &str = "Exit codes:
  0  a new process accepts connections, and the old one lets its own end
  1  there is no new process, and the old one goes on serving
  2  it could not be asked";

/// Ends with this where the old process goes on.
const EXIT_NOT_UPGRADED: u8 = 1;

/// mproxy itself takes a hundred seconds at most.
const UPGRADED_WITHIN: Duration = Duration::from_secs(110);

/// `mproxy upgrade`: 0 where a new process serves, 1 where the old one goes on, 2 where it could not be asked.
pub(super) fn upgrade(
    flags: &Flags,
    out: &mut impl Write,
    err: &mut impl Write,
) -> Result<ExitCode, AdminCallError> {
    let client = AdminClient::new(flags)?.within(UPGRADED_WITHIN);
    match client.ask("POST", "/api/v1/upgrade", None) {
        Ok(answer) => {
            let version = one_line(answer.body["version"].as_str().unwrap_or("-"));
            writeln!(
                out,
                "process {} (mproxy {version}) serves at {}; the old one ends when its connections have ended",
                answer.body["pid"],
                client.place()
            )?;
            Ok(ExitCode::SUCCESS)
        }
        Err(AdminCallError::Refused { status: 409 | 422, detail, .. }) => {
            writeln!(err, "mproxy: not upgraded, mproxy at {} goes on as it was: {detail}", client.place())?;
            Ok(ExitCode::from(EXIT_NOT_UPGRADED))
        }
        Err(error) => Err(error),
    }
}

/// What it ends with, for its help.
pub(super) const EXIT_CODES: &str = "Exit codes:
  0  what can be changed while it runs is in force
  1  something is wrong, and nothing was changed
  2  it could not be asked";

/// How it is shown.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct ReloadCommand {
    /// Print the answer of the admin API as it is
    #[arg(long)]
    json: bool,
}

const CHANGES: [Column; 4] = [
    Column::left("SETTING", 60),
    Column::left("BEFORE", 40),
    Column::left("NOW", 40),
    Column::left("TAKES EFFECT", 40),
];

/// `mproxy reload`: 0 where everything that can be is in force, 1 where something is wrong and nothing was changed, 2 where
/// it could not be asked.
pub(super) fn reload(
    command: &ReloadCommand,
    flags: &Flags,
    out: &mut impl Write,
) -> Result<ExitCode, AdminCallError> {
    let client = AdminClient::new(flags)?;
    let (answer, code) = match client.ask("POST", "/api/v1/reload", None) {
        Ok(answer) => (answer.body, ExitCode::SUCCESS),
        Err(AdminCallError::Refused { status: 422, problem, .. }) => {
            (problem, ExitCode::from(EXIT_NOT_RELOADED))
        }
        Err(error) => return Err(error),
    };
    if command.json {
        writeln!(out, "{}", json_line(&answer.to_string()))?;
    } else if code == ExitCode::SUCCESS {
        write_changes(&answer, out)?;
    } else {
        write_faults(&answer, out)?;
    }
    Ok(code)
}

fn write_changes(answer: &Value, out: &mut impl Write) -> std::io::Result<()> {
    let changes = answer["changes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut table = Table::new(&CHANGES);
    for change in changes {
        let text = |key: &str| change[key].as_str().unwrap_or("-").to_owned();
        let takes_effect = match change["takes_effect"].as_str() {
            Some("now") => "now",
            Some("new_connections") => "for new connections",
            Some("next_start") => "at the next start",
            other => other.unwrap_or("-"),
        };
        table.add([text("setting"), text("old"), text("new"), takes_effect.to_owned()]);
    }
    if changes.is_empty() {
        writeln!(out, "reloaded: no setting has changed; the rule file and certificates were read anew")?;
    } else {
        writeln!(out, "reloaded:")?;
        table.write("  ", out)?;
    }
    for warning in answer["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        writeln!(out, "warning: {}", one_line(warning))?;
    }
    Ok(())
}

fn write_faults(problem: &Value, out: &mut impl Write) -> std::io::Result<()> {
    writeln!(out, "nothing was changed, because something is wrong:")?;
    let faults = problem["faults"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut faults = faults.peekable();
    if faults.peek().is_none() {
        writeln!(out, "  {}", one_line(problem["detail"].as_str().unwrap_or("no reason given")))?;
    }
    for fault in faults {
        writeln!(out, "  {}", one_line(fault))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(write: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>) -> String {
        let mut out = Vec::new();
        write(&mut out).expect("a Vec takes everything");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_reload_shows_what_has_changed_and_from_when_on() {
        let answer = json!({
            "changes": [
                { "setting": "log.level", "old": "debug", "new": "info", "takes_effect": "now" },
                { "setting": "instance", "old": null, "new": "b", "takes_effect": "next_start" },
            ],
            "warnings": ["listener \u{1b}x opens at the next start"],
        });
        let told = "reloaded:\n  SETTING    BEFORE  NOW   TAKES EFFECT\n  log.level  debug   info  now\n  \
                    instance   -       b     at the next start\nwarning: listener \\u{1b}x opens at the next start\n";
        assert_eq!(shown(|out| write_changes(&answer, out)), told);
        assert!(
            shown(|out| write_changes(&json!({ "changes": [] }), out)).contains("no setting has changed")
        );
    }

    #[test]
    fn a_reload_that_fails_names_all_faults() {
        let problem = json!({ "detail": "nothing was changed: a", "faults": ["a: 1", "b: 2"] });
        assert!(shown(|out| write_faults(&problem, out)).ends_with("wrong:\n  a: 1\n  b: 2\n"));
        assert!(shown(|out| write_faults(&json!({ "detail": "d" }), out)).ends_with("\n  d\n"));
    }
}
