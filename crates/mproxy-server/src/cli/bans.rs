//! `mproxy bans`, `mproxy ban` and `mproxy unban`.

use std::io::Write;
use std::process::ExitCode;

use clap::{ArgGroup, Args};
use serde_json::{Value, json};

use super::admin_api::{AdminCallError, AdminClient, query};
use super::table::{Column, Table};
use super::text::{json_line, one_line};
use crate::config::Flags;

/// There is no ban, or none of this.
const EXIT_NONE: u8 = 1;

/// What `mproxy bans` and `mproxy unban` end with, for their help.
pub(super) const EXIT_CODES: &str = "Exit codes:
  0  there is such a ban
  1  there is none
  2  it could not be asked";

/// Who is meant.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(group(ArgGroup::new("who").required(true).args(["client_id", "username", "address"])))]
pub struct BanWho {
    /// The client of this client id
    #[arg(long, value_name = "ID")]
    client_id: Option<String>,
    /// Clients with this user name
    #[arg(long, value_name = "NAME")]
    username: Option<String>,
    /// Whoever comes from this address or network: 10.0.0.0/8
    #[arg(long, value_name = "NETWORK")]
    address: Option<String>,
}

/// Who is to be banned, and how.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct BanCommand {
    #[command(flatten)]
    who: BanWho,
    /// How long: 10m, 12h or 30d; without, until it is lifted
    #[arg(long = "for", value_name = "TIME", value_parser = ban_seconds)]
    lasts: Option<u64>,
    /// The reason, for the list of bans and the logs; clients do not see it
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// Whose ban is to be lifted.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct UnbanCommand {
    #[command(flatten)]
    who: BanWho,
}

/// How they are shown.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct BansCommand {
    /// Print each ban as the admin API shows it, one JSON object in a line
    #[arg(long)]
    json: bool,
}

/// Seconds of `45s`, `10m`, `12h`, `30d`.
fn ban_seconds(text: &str) -> Result<u64, String> {
    let wrong = || "expected a number with s, m, h or d, for example 12h or 30d".to_owned();
    let (digits, unit) = text.split_at(text.len() - text.chars().next_back().map_or(0, char::len_utf8));
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    // A sign would be read, too.
    let number = digits.parse::<u64>().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()));
    number.filter(|number| *number > 0).and_then(|number| number.checked_mul(unit)).ok_or_else(wrong)
}

/// `mproxy ban`: 0 where the ban is in force, 2 where it could not be asked.
pub(super) fn ban(
    command: &BanCommand,
    flags: &Flags,
    out: &mut impl Write,
    err: &mut impl Write,
) -> Result<ExitCode, AdminCallError> {
    let BanCommand { who: BanWho { client_id, username, address }, lasts, reason } = command;
    let mut body = json!({});
    let texts = [("client_id", client_id), ("username", username), ("address", address), ("reason", reason)];
    for (key, text) in texts {
        if let Some(text) = text {
            body[key] = json!(text);
        }
    }
    if let Some(seconds) = lasts {
        body["expires_in"] = json!(seconds);
    }
    let answer = AdminClient::new(flags)?.ask("POST", "/api/v1/bans", Some(&body))?.body;
    let until = answer["ban"]["expires"]
        .as_str()
        .map_or_else(|| "until it is lifted".to_owned(), |at| format!("until {at}"));
    let disconnected = answer["disconnected"].as_u64().unwrap_or_default();
    let s = if disconnected == 1 { "" } else { "s" };
    writeln!(out, "banned {}, disconnected {disconnected} client{s}", one_line(&until))?;
    if let Some(error) = answer["file_error"].as_str() {
        writeln!(
            err,
            "mproxy: warning: the ban is in force, but not in the file of bans: {}",
            one_line(error)
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `mproxy unban`: 0 where a ban was lifted, 1 where there was none, 2 where it could not be asked.
pub(super) fn unban(
    command: &UnbanCommand,
    flags: &Flags,
    out: &mut impl Write,
    err: &mut impl Write,
) -> Result<ExitCode, AdminCallError> {
    let BanWho { client_id, username, address } = &command.who;
    let parameters = [
        ("client_id", client_id.as_deref()),
        ("username", username.as_deref()),
        ("address", address.as_deref()),
    ];
    match AdminClient::new(flags)?.ask("DELETE", &format!("/api/v1/bans{}", query(&parameters)), None) {
        Ok(answer) => {
            writeln!(out, "the ban is lifted")?;
            if let Some(error) = answer.body["file_error"].as_str() {
                let error = one_line(error);
                writeln!(
                    err,
                    "mproxy: warning: it is still in the file of bans, and comes back with a restart: {error}; ask again when \
                     the file can be written"
                )?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(AdminCallError::Refused { status: 404, detail, .. }) if detail == "no such ban" => {
            writeln!(out, "there is no such ban")?;
            Ok(ExitCode::from(EXIT_NONE))
        }
        Err(error) => Err(error),
    }
}

const COLUMNS: [Column; 5] = [
    Column::left("WHAT", 9),
    Column::left("WHO", 60),
    Column::left("SINCE", 24),
    Column::left("UNTIL", 24),
    Column::left("REASON", 80),
];

/// `mproxy bans`: 0 where there are some, 1 where there are none, 2 where it could not be asked.
pub(super) fn list_bans(
    command: &BansCommand,
    flags: &Flags,
    out: &mut impl Write,
) -> Result<ExitCode, AdminCallError> {
    let client = AdminClient::new(flags)?;
    let answer = client.ask("GET", "/api/v1/bans", None)?.body;
    let bans = answer["bans"].as_array().ok_or_else(|| client.not_ours())?;
    let mut table = Table::new(&COLUMNS);
    for ban in bans {
        if command.json {
            writeln!(out, "{}", json_line(&ban.to_string()))?;
        } else {
            table.add(row(ban));
        }
    }
    if bans.is_empty() && !command.json {
        writeln!(out, "nobody is banned")?;
    } else if !command.json {
        table.write("", out)?;
    }
    Ok(if bans.is_empty() { ExitCode::from(EXIT_NONE) } else { ExitCode::SUCCESS })
}

fn row(ban: &Value) -> [String; 5] {
    let text = |key: &str| ban[key].as_str().map(str::to_owned);
    let whose = [("client_id", "client"), ("username", "user"), ("address", "address")];
    let (what, who) = whose
        .iter()
        .find_map(|(key, what)| Some((*what, text(key)?)))
        .unwrap_or_else(|| ("-", "-".to_owned()));
    let rest = ["since", "expires", "reason"].map(|key| text(key).unwrap_or_else(|| "-".to_owned()));
    let [since, until, reason] = rest;
    [what.to_owned(), who, since, until, reason]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_one_unit() {
        let read = |text| ban_seconds(text).ok();
        assert_eq!(
            (read("45s"), read("10m"), read("12h"), read("30d")),
            (Some(45), Some(600), Some(43_200), Some(2_592_000))
        );
        for wrong in ["", "s", "10", "-1h", "+1h", "0d", "1h30m", "1é", "999999999999999999d"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_ban_is_shown_by_what_it_names() {
        let ban = json!({ "address": "10.0.0.0/8", "since": "2026-11-24T00:50:45.678Z", "reason": "a\nb" });
        let mut table = Table::new(&COLUMNS);
        table.add(row(&ban));
        let mut out = Vec::new();
        table.write("", &mut out).expect("a Vec takes everything");
        let shown = String::from_utf8(out).expect("text");
        assert!(
            shown.ends_with("\naddress  10.0.0.0/8  2026-11-24T00:50:45.678Z  -      a\\nb\n"),
            "{shown}"
        );
    }
}
