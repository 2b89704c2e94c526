//! `mproxy why`: asks a running mproxy why a client was refused, or allowed, and says it in lines for a person or in JSON.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::admin_api::{self, AdminAnswer};
use super::text::{self, json_line, one_word, printable};
use super::words;
use crate::config::Flags;

/// Ends with this where there is nothing on record.
const EXIT_NOTHING: u8 = 1;

/// What is asked.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct WhyQuestion {
    /// Client id of the client; if it is left out, all clients
    client: Option<String>,
    /// Only clients with this user name
    #[arg(long, value_name = "NAME")]
    username: Option<String>,
    /// Only this hook
    #[arg(long, value_name = "HOOK", value_parser = words::hooks())]
    hook: Option<String>,
    /// What was `refused`, what was `allowed` (where MPROXY_DECISION_LOG_ALLOWED_ONE_IN records some of that), or `any`
    #[arg(long, value_name = "OUTCOME", default_value = "refused", value_parser = words::OUTCOMES)]
    outcome: String,
    /// Only what happened since: a time (2026-11-24T02:47:00Z) or a duration (10m)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Most records to show, the newest first
    #[arg(long, value_name = "NUMBER", default_value = "20")]
    limit: String,
    /// Print the answer of the admin API as it is
    #[arg(long)]
    json: bool,
}

/// `mproxy why`: 0 where there is something on record, 1 where there is nothing, 2 where it could not be asked.
///
/// # Errors
/// Where `out` or `err` cannot be written to.
pub(super) fn ask_why(
    question: &WhyQuestion,
    flags: &Flags,
    out: &mut impl Write,
    err: &mut impl Write,
) -> io::Result<ExitCode> {
    let query = admin_api::query(&[
        ("client_id", question.client.as_deref().map(beginning)),
        ("username", question.username.as_deref().map(beginning)),
        ("hook", question.hook.as_deref()),
        ("outcome", Some(&question.outcome)),
        ("since", question.since.as_deref()),
        ("limit", Some(&question.limit)),
    ]);
    match admin_api::ask(flags, "GET", &format!("/api/v1/refusals{query}"), None, err)? {
        Ok(answer) => show(question, &answer, out),
        Err(code) => Ok(code),
    }
}

/// As much of a name as is on record of a longer one, and a little more, so that it is seen to be longer.
fn beginning(name: &str) -> &str {
    const RECORDED: usize = 256;
    &name[..name.floor_char_boundary(RECORDED + 4)]
}

fn show(question: &WhyQuestion, answer: &AdminAnswer, out: &mut impl Write) -> io::Result<ExitCode> {
    let refusals = answer.body["refusals"].as_array().map(Vec::as_slice).unwrap_or_default();
    let code = if refusals.is_empty() { ExitCode::from(EXIT_NOTHING) } else { ExitCode::SUCCESS };
    if question.json {
        writeln!(out, "{}", json_line(&answer.body.to_string()))?;
        return Ok(code);
    }
    let begins = answer.body["begins"].as_str().unwrap_or("unknown");
    if refusals.is_empty() {
        let whose = question.client.as_ref().map_or_else(String::new, |client| format!(" of {client:?}"));
        let what = match &*question.outcome {
            "refused" => "refusal",
            _ => "decision",
        };
        writeln!(out, "no {what}{whose} on record; the records in memory begin at {begins}")?;
        return Ok(code);
    }
    for refusal in refusals {
        writeln!(out, "{}", printable(&line(refusal)))?;
    }
    if answer.body.get("next").is_some() {
        writeln!(out, "there are more: --limit shows up to 1000")?;
    }
    Ok(code)
}

/// One refusal, in two lines.
fn line(refusal: &Value) -> String {
    let text = |key: &str| refusal[key].as_str();
    let mut line = text("time").unwrap_or("-").to_owned();
    // Writing to a String cannot fail.
    let _ = match (text("hook"), text("topic"), text("filter")) {
        (Some("connect"), Some(will), _) => write!(line, "  CONNECT with will {will}"),
        (Some("connect"), None, _) => write!(line, "  CONNECT"),
        (Some("deliver"), Some(topic), _) => write!(line, "  delivery of {topic}"),
        (Some(hook), Some(topic), _) => write!(line, "  {hook} to {topic}"),
        (Some(hook), None, Some(filter)) => write!(line, "  {hook} to {filter}"),
        (Some(hook), None, None) => write!(line, "  {hook}"),
        (None, ..) => write!(line, "  {}", text("packet").unwrap_or("connection")),
    };
    if let Some(qos) = refusal["qos"].as_u64() {
        let _ = write!(line, " with QoS {qos}");
    }
    if let Some(more) = refusal["more_filters"].as_u64() {
        let _ = write!(line, " and {more} more filters");
    }
    let (why, code) = (text("why").unwrap_or("-"), refusal["reason_code"].as_u64());
    // The code stands behind it, with its name.
    let why = code.and_then(|code| why.strip_suffix(&format!(" ({code:#04x})"))).unwrap_or(why);
    let _ = write!(line, ": {}", why.replace('\n', " "));
    if let Some(code) = code {
        let _ = write!(line, ". {} {}", text::code(code), text("reason").unwrap_or_default());
    }
    let _ = write!(line, "\n  ");
    for (name, key) in [
        ("client", "client_id"),
        ("user", "username"),
        ("listener", "listener"),
        ("from", "peer_addr"),
        ("connection", "connection_id"),
        ("action", "action"),
    ] {
        if let Some(value) = text(key) {
            let _ = write!(line, " {name}={}", one_word(value));
        }
    }
    if let Some(age) = refusal["age_ms"].as_u64().filter(|age| *age > 0) {
        let _ = write!(line, " {}={}.{:03}s", aged(text("source")), age / 1000, age % 1000);
    }
    line
}

/// What is as old as a record's age says: not the refusal, but that by which it was decided.
fn aged(source: Option<&str>) -> &'static str {
    match source {
        Some("acl") => "rules_age",
        Some("grant") => "grant_age",
        _ => "answer_age",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_refusal_is_told_in_two_lines_and_steers_no_terminal() {
        let refusal = json!({
            "time": "2026-11-24T02:47:00.507Z", "hook": "publish", "topic": "a/\u{1b}[2Jb", "qos": 1,
            "why": "refused by rules[2] (rules.toml:14)", "reason_code": 0x87, "reason": "Not authorized",
            "client_id": "c\n1", "listener": "mqtt", "peer_addr": "127.0.0.1:5", "connection_id": "id",
            "action": "reject", "source": "acl", "age_ms": 61_005,
        });
        assert_eq!(
            printable(&line(&refusal)),
            "2026-11-24T02:47:00.507Z  publish to a/\\u{1b}[2Jb with QoS 1: refused by rules[2] (rules.toml:14). \
             0x87 Not authorized\n   client=\"c\\n1\" listener=mqtt from=127.0.0.1:5 connection=id action=reject rules_age=61.005s"
        );
        let decided =
            |source: &str| json!({ "hook": "publish", "source": source, "reason_code": 0x9c, "age_ms": 158 });
        assert!(
            line(&decided("grant")).contains(": -. 0x9C ")
                && line(&decided("grant")).ends_with(" grant_age=0.158s")
        );
        assert!(line(&decided("cache")).ends_with(" answer_age=0.158s"));
    }

    #[test]
    fn nothing_on_record_says_since_when_and_ends_with_one() {
        let body = json!({ "refusals": [], "begins": "2026-11-24T02:47:00.507Z" });
        let question = WhyQuestion {
            client: Some("d1".into()),
            username: None,
            hook: None,
            outcome: "refused".into(),
            since: None,
            limit: "20".into(),
            json: false,
        };
        let mut out = Vec::new();
        let code =
            show(&question, &AdminAnswer { status: 200, body }, &mut out).expect("a Vec takes everything");
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(1)));
        let told =
            "no refusal of \"d1\" on record; the records in memory begin at 2026-11-24T02:47:00.507Z\n";
        assert_eq!(String::from_utf8(out).expect("text"), told);
    }
}
