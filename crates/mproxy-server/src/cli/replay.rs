//! `mproxy hooks replay`: reads decision logs, has what they recorded put to a service once more, and prints what it would
//! decide otherwise.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use mproxy_policy::check::replay::{
    RecordedMessage, RecordedQuestion, ReplayChoice, ReplayConfig, ReplayDifference, ReplayLine, ReplayNews,
    ReplayOutcome, ReplaySummary, replay,
};
use mproxy_policy::remote::Endpoint;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::service::{ServiceTls, endpoint};
use super::text::{json_line, one_line};
use super::timeout_argument;

/// Something would be decided otherwise.
const EXIT_DIFFERENT: u8 = 1;

/// It could not be asked, or not to the end.
const EXIT_NOT_ASKED: u8 = 2;

/// Bytes of the longest line that may be a record; one that has every value as long as it may be has a tenth of it.
const LINE_MOST: u64 = 256 << 10;

/// Lines that are read ahead.
const AHEAD: usize = 64;

pub(super) const EXIT_CODES: &str = "Exit codes:
  0  nothing would be decided otherwise
  1  something would
  2  a file cannot be read, no line is a record, or the service cannot be asked, or not to the end; or an argument is wrong";

/// What is asked of `mproxy hooks replay`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct HooksReplay {
    /// Files that MPROXY_DECISION_LOG has written, the oldest first; -: standard input
    #[arg(value_name = "FILE", required = true, num_args = 1..)]
    files: Vec<PathBuf>,
    /// The service: http://host:port, https://host:port or unix:/path for gRPC, http+json://host:port/prefix for JSON
    #[arg(value_name = "URL", required = true, value_parser = endpoint)]
    endpoint: Endpoint,
    /// Put CONNECTs, too, without password and will, and with `shadow` set as by MPROXY_SHADOW_URL
    #[arg(long)]
    connects: bool,
    /// Put what the rule file decided, too, or nobody did
    #[arg(long)]
    rules: bool,
    /// Most questions a second
    #[arg(long, value_name = "N", default_value = "500")]
    rate: NonZeroU32,
    /// Deadline of one question, 1ms to 1m
    #[arg(long, value_name = "DURATION", env = "MPROXY_POLICY_TIMEOUT", default_value = "1s", value_parser = timeout_argument)]
    timeout: Duration,
    #[command(flatten)]
    tls: ServiceTls,
    /// Print a line of JSON for each difference, and one for the whole
    #[arg(long)]
    json: bool,
}

/// Puts what was recorded, and prints what would be decided otherwise.
///
/// # Errors
/// Nothing can be printed.
pub async fn replay_hooks(
    asked: &HooksReplay,
    out: &mut (impl Write + Send),
    err: &mut (impl Write + Send),
) -> anyhow::Result<ExitCode> {
    let complain = |err: &mut dyn Write, why: &dyn std::fmt::Display| writeln!(err, "mproxy: {why:#}");
    // Before anything is asked: a name that is wrong is no reason to ask half of the questions.
    let sources = asked.files.iter().map(|path| RecordFile::open(path)).collect::<io::Result<Vec<_>>>();
    let (sources, tls) = match (sources, asked.tls.read()) {
        (Ok(sources), Ok(tls)) => (sources, tls),
        (Err(why), _) => {
            complain(err, &why)?;
            return Ok(ExitCode::from(EXIT_NOT_ASKED));
        }
        (_, Err(why)) => {
            complain(err, &why)?;
            return Ok(ExitCode::from(EXIT_NOT_ASKED));
        }
    };
    let config = ReplayConfig {
        endpoint: asked.endpoint.clone(),
        tls,
        timeout: asked.timeout,
        rate: asked.rate,
        version: env!("CARGO_PKG_VERSION").into(),
        choice: ReplayChoice { connects: asked.connects, rules: asked.rules },
    };
    // A thread of its own waits for files and standard input, and ahead of the questions by so many lines only.
    let (send, mut lines) = mpsc::channel(AHEAD);
    std::thread::Builder::new().name("records".to_owned()).spawn(move || read_all(sources, &send))?;
    let mut printed = Ok(());
    let summary = replay(&config, &mut lines, |news| {
        let text = if asked.json { news_json(&news) } else { news_text(&news) };
        if printed.is_ok() {
            printed = match news {
                ReplayNews::Unreadable { .. } if !asked.json => writeln!(err, "{text}"),
                ReplayNews::Unreadable { .. } | ReplayNews::Difference(_) => writeln!(out, "{text}"),
            };
        }
    })
    .await;
    printed?;
    let summary = match summary {
        Ok(summary) => summary,
        Err(why) => {
            complain(err, &why)?;
            return Ok(ExitCode::from(EXIT_NOT_ASKED));
        }
    };
    let code = exit_code(&summary);
    if asked.json {
        writeln!(out, "{}", json_line(&summary_json(&summary, code).to_string()))?;
    } else {
        writeln!(out, "{}", summary_text(&summary))?;
        if let Some(why) = &summary.stopped {
            complain(err, &one_line(why))?;
        }
    }
    Ok(ExitCode::from(code))
}

fn exit_code(summary: &ReplaySummary) -> u8 {
    let nothing_read = summary.lines > 0 && summary.unreadable == summary.lines;
    if summary.stopped.is_some() || nothing_read {
        EXIT_NOT_ASKED
    } else if summary.different > 0 {
        EXIT_DIFFERENT
    } else {
        0
    }
}

/// A file of records.
struct RecordFile {
    name: String,
    lines: Box<dyn BufRead + Send>,
}

impl RecordFile {
    fn open(path: &Path) -> io::Result<Self> {
        let name = path.display().to_string();
        if path == Path::new("-") {
            return Ok(Self { name: "stdin".to_owned(), lines: Box::new(BufReader::new(io::stdin())) });
        }
        let file = File::open(path).and_then(|file| match file.metadata()?.is_dir() {
            true => Err(io::ErrorKind::IsADirectory.into()),
            false => Ok(file),
        });
        let file = file.map_err(|error| io::Error::new(error.kind(), format!("{name}: {error}")))?;
        Ok(Self { name, lines: Box::new(BufReader::new(file)) })
    }
}

/// Reads all lines, until there are no more or nobody wants them.
fn read_all(sources: Vec<RecordFile>, send: &mpsc::Sender<ReplayLine>) {
    for RecordFile { name, mut lines } in sources {
        for number in 1.. {
            let text = match next_line(&mut lines) {
                Ok(None) => break,
                Ok(Some(text)) => text,
                Err(error) => {
                    let text = Err(format!("cannot be read any further: {error}"));
                    let _ = send.blocking_send(ReplayLine { place: name.clone(), text });
                    break;
                }
            };
            if text.as_ref().is_ok_and(|text| text.trim().is_empty()) {
                continue;
            }
            if send.blocking_send(ReplayLine { place: format!("{name}:{number}"), text }).is_err() {
                return;
            }
        }
    }
}

/// The next line; `Err` in it: it is no text, or too long to be a record.
fn next_line(lines: &mut impl BufRead) -> io::Result<Option<Result<String, String>>> {
    let mut line = Vec::new();
    if lines.by_ref().take(LINE_MOST).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.len() as u64 == LINE_MOST && line.last() != Some(&b'\n') {
        skip_line(lines)?;
        return Ok(Some(Err(format!("longer than {LINE_MOST} bytes"))));
    }
    Ok(Some(String::from_utf8(line).map_err(|_| "no UTF-8".to_owned())))
}

fn skip_line(lines: &mut impl BufRead) -> io::Result<()> {
    loop {
        let here = lines.fill_buf()?;
        let (len, end) = match here.iter().position(|byte| *byte == b'\n') {
            Some(at) => (at + 1, true),
            None => (here.len(), here.is_empty()),
        };
        lines.consume(len);
        if end {
            return Ok(());
        }
    }
}

fn news_text(news: &ReplayNews<'_>) -> String {
    let text = match news {
        ReplayNews::Unreadable { place, why } => format!("{place}: {why}"),
        ReplayNews::Difference(ReplayDifference { place, question, recorded, source, now }) => {
            let client = question.client();
            let user = client.username().map_or_else(String::new, |name| format!(" (user {name:?})"));
            let client = client.client_id();
            format!("{place}: {} of {client:?}{user}: {recorded} by {source} -> {now}", asked(question))
        }
    };
    one_line(&text).into_owned()
}

/// What was asked, for people.
fn asked(question: &RecordedQuestion) -> String {
    let message = |RecordedMessage { topic, qos, retain }: &RecordedMessage| {
        format!("{topic} with QoS {}{}", *qos as u8, if *retain { ", retained" } else { "" })
    };
    match question {
        RecordedQuestion::Connect(_) => "CONNECT".to_owned(),
        RecordedQuestion::Publish(_, said) => format!("publish to {}", message(said)),
        RecordedQuestion::Deliver(_, said) => format!("delivery of {}", message(said)),
        RecordedQuestion::Subscribe(_, said) => {
            format!("subscribe to {} with QoS {}", said.filter, said.qos as u8)
        }
    }
}

fn news_json(news: &ReplayNews<'_>) -> String {
    let told = match news {
        ReplayNews::Unreadable { place, why } => json!({ "unreadable": { "place": place, "why": why } }),
        ReplayNews::Difference(ReplayDifference { place, question, recorded, source, now }) => {
            let client = question.client();
            let mut told = json!({
                "place": place, "client_id": client.client_id(), "source": source,
                "recorded": outcome_json(recorded), "now": outcome_json(now),
            });
            if let Some(username) = client.username() {
                told["username"] = username.into();
            }
            let message = |told: &mut Value, hook: &str, said: &RecordedMessage| {
                told["hook"] = hook.into();
                told["topic"] = (*said.topic).into();
                told["qos"] = (said.qos as u8).into();
                told["retain"] = said.retain.into();
            };
            match question {
                RecordedQuestion::Connect(_) => told["hook"] = "connect".into(),
                RecordedQuestion::Publish(_, said) => message(&mut told, "publish", said),
                RecordedQuestion::Deliver(_, said) => message(&mut told, "deliver", said),
                RecordedQuestion::Subscribe(_, said) => {
                    told["hook"] = "subscribe".into();
                    told["filter"] = (*said.filter).into();
                    told["qos"] = (said.qos as u8).into();
                }
            }
            json!({ "difference": told })
        }
    };
    json_line(&told.to_string()).into_owned()
}

fn outcome_json(outcome: &ReplayOutcome) -> Value {
    let name = outcome.name();
    match outcome {
        ReplayOutcome::Refused(code, action) => {
            json!({ "outcome": name, "reason_code": code, "action": action })
        }
        ReplayOutcome::Failed(detail) | ReplayOutcome::Unusable(detail) => {
            json!({ "outcome": name, "detail": detail })
        }
        ReplayOutcome::Allowed | ReplayOutcome::Changed | ReplayOutcome::NotAsked => {
            json!({ "outcome": name })
        }
    }
}

fn summary_json(summary: &ReplaySummary, code: u8) -> Value {
    let ReplaySummary { service, lines, unreadable, compared, different, failed, skipped, stopped } = summary;
    json!({ "summary": {
        "service": service, "lines": lines, "unreadable": unreadable, "compared": compared,
        "different": different, "failed": failed, "skipped": skipped, "stopped": stopped, "exit_code": code,
    } })
}

fn summary_text(summary: &ReplaySummary) -> String {
    let ReplaySummary { lines, unreadable, compared, different, failed, skipped, .. } = summary;
    let mut text = format!("{lines} lines, {compared} compared: {different} different");
    if *failed > 0 {
        text.push_str(&format!(" ({failed} without a usable answer)"));
    }
    for (why, count) in skipped {
        text.push_str(&format!("\nnot put: {count} {}", reason(why)));
    }
    if *unreadable > 0 {
        text.push_str(&format!("\nnot read: {unreadable} lines that are no records"));
    }
    text
}

/// Why records were not put, for people.
fn reason(label: &str) -> &str {
    match label {
        "no_question" => "about no question (a connection that ended for another reason, AUTH)",
        "connect" => "CONNECTs (--connects puts them without password)",
        "secret" => "CONNECTs whose password or will was refused, which is not on record",
        "rules" => "decided by the rule file or nobody (--rules puts them)",
        "undecided" => "without a decision (a limit, a failed answer, mproxy, the broker)",
        "cut" => "with a name that is too long to be on record",
        "not_wanted" => "that the service does not want to be asked about",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_too_long_or_no_text_is_told_and_the_next_one_is_read() {
        let long = "x".repeat(LINE_MOST as usize + 70_000);
        let bytes = [b"one\n", long.as_bytes(), b"\n\xff\n", b"last"].concat();
        let mut lines = BufReader::new(&bytes[..]);
        let mut next = || next_line(&mut lines).expect("it can be read");
        assert_eq!(next(), Some(Ok("one\n".to_owned())));
        assert_eq!(next(), Some(Err(format!("longer than {LINE_MOST} bytes"))));
        assert_eq!(next(), Some(Err("no UTF-8".to_owned())));
        assert_eq!((next(), next()), (Some(Ok("last".to_owned())), None));
    }
}
