//! `mproxy kick`: disconnects clients. More than one only after a question, or with `--yes`.

use std::io::{self, BufRead, IsTerminal, Write};
use std::process::ExitCode;

use clap::{ArgGroup, Args};
use serde_json::Value;

use super::admin_api::{AdminCallError, AdminClient, escaped, query};
use super::sessions::{SessionPages, SessionSelectors, sessions_of, write_name};
use crate::admin::dismissal;
use crate::config::Flags;

/// Nobody was disconnected.
const EXIT_NONE: u8 = 1;

/// What it ends with, for its help.
pub(super) const EXIT_CODES: &str = "Exit codes:
  0  somebody was disconnected
  1  no session matches
  2  it could not be asked, or was not confirmed";

/// So many are named before the question.
const NAMED: usize = 10;

/// Who is to be disconnected, and how.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(group(ArgGroup::new("whom").required(true).multiple(true).args(SELECTORS)))]
pub struct KickCommand {
    /// Connection id, or client id
    #[arg(conflicts_with_all = &SELECTORS[1..])]
    id: Option<String>,
    #[command(flatten)]
    selectors: SessionSelectors,
    /// All clients
    #[arg(long, conflicts_with_all = &SELECTORS[..8])]
    all: bool,
    /// What MQTT 5.0 clients are told: a reason code from 0x80 on
    #[arg(long, value_name = "CODE", default_value = "0x98", value_parser = reason_argument)]
    reason: String,
    /// What MQTT 5.0 clients are told: a text
    #[arg(long, value_name = "TEXT", value_parser = text_argument)]
    text: Option<String>,
    /// Do not ask, however many clients match
    #[arg(long, short)]
    yes: bool,
}

/// A reason code as it was written. It is checked before anybody is looked for: a wrong one is no "no".
fn reason_argument(code: &str) -> Result<String, String> {
    dismissal::reason_code(code).map(|_| code.to_owned())
}

fn text_argument(text: &str) -> Result<String, String> {
    dismissal::check_text(text).map(|()| text.to_owned())
}

/// One of these has to be given: what selects nobody in particular is no accident then.
const SELECTORS: [&str; 9] =
    ["id", "client_id", "username", "listener", "address", "state", "attribute", "subscribed", "all"];

/// `mproxy kick`: 0 where somebody was disconnected, 1 where nobody was, 2 where it could not be asked or was not
/// confirmed.
pub(super) fn kick(
    command: &KickCommand,
    flags: &Flags,
    out: &mut impl Write,
    err: &mut impl Write,
) -> Result<ExitCode, AdminCallError> {
    let client = AdminClient::new(flags)?;
    let sessions = match &command.id {
        Some(id) => sessions_of(&client, id)?,
        None => SessionPages::new(&client, &command.selectors, 0).all()?,
    };
    if sessions.is_empty() {
        writeln!(out, "no session matches")?;
        return Ok(ExitCode::from(EXIT_NONE));
    }
    if sessions.len() > 1 && !command.yes {
        confirm(&sessions, err)?;
    }
    let gone = match &command.id {
        None if sessions.len() > 1 => disconnect_all(&client, command)?,
        _ => disconnect_each(&client, command, &sessions)?,
    };
    let s = if gone == 1 { "" } else { "s" };
    writeln!(out, "disconnected {gone} client{s}")?;
    Ok(if gone > 0 { ExitCode::SUCCESS } else { ExitCode::from(EXIT_NONE) })
}

impl KickCommand {
    /// What clients are told.
    fn told(&self) -> [(&'static str, Option<&str>); 2] {
        [("reason", Some(&self.reason)), ("text", self.text.as_deref())]
    }
}

/// How many of them were still there.
fn disconnect_each(
    client: &AdminClient,
    command: &KickCommand,
    sessions: &[Value],
) -> Result<u64, AdminCallError> {
    let mut gone = 0;
    for session in sessions {
        let id = session["connection_id"].as_str().unwrap_or_default();
        match client.ask(
            "DELETE",
            &format!("/api/v1/sessions/{}{}", escaped(id), query(&command.told())),
            None,
        ) {
            Ok(_) => gone += 1,
            Err(AdminCallError::Refused { status: 404, .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(gone)
}

/// Whoever is selected by now, at once.
fn disconnect_all(client: &AdminClient, command: &KickCommand) -> Result<u64, AdminCallError> {
    let mut parameters = command.selectors.parameters();
    parameters.push(("all", command.all.then_some("true")));
    parameters.extend(command.told());
    let answer = client.ask("DELETE", &format!("/api/v1/sessions{}", query(&parameters)), None)?.body;
    answer["disconnected"].as_u64().ok_or_else(|| client.not_ours())
}

/// Asks at a terminal whether all of these are meant; elsewhere nobody can say so.
fn confirm(sessions: &[Value], err: &mut impl Write) -> Result<(), AdminCallError> {
    let count = sessions.len();
    for session in sessions.iter().take(NAMED) {
        write_name(session, err)?;
    }
    if count > NAMED {
        writeln!(err, "  and {} more", count - NAMED)?;
    }
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        let told =
            format!("{count} clients match, and there is no terminal to ask at: --yes disconnects them");
        return Err(AdminCallError::NotConfirmed(told));
    }
    write!(err, "Disconnect these {count} clients? [y/N] ")?;
    err.flush()?;
    if is_yes(stdin.lock())? {
        Ok(())
    } else {
        Err(AdminCallError::NotConfirmed("nobody was disconnected".to_owned()))
    }
}

fn is_yes(input: impl BufRead) -> io::Result<bool> {
    let mut answer = String::new();
    input.take(64).read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_means_yes() {
        for (answer, meant) in
            [("y\n", true), ("YES\n", true), ("\n", false), ("", false), ("yep\n", false), ("n\n", false)]
        {
            assert_eq!(is_yes(answer.as_bytes()).expect("a slice can be read"), meant, "{answer:?}");
        }
    }
}
