//! `mproxy hooks check`: its flags, its page, its JSON and its exit code. What is asked and found is the policy's business.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use mproxy_policy::check::{
    CheckConfig, CheckReport, CheckedAnswer, CheckedFilter, CheckedResult, Finding, FindingLevel, HelloFacts,
    LatencyFigures, WantedFacts, check,
};
use mproxy_policy::remote::Endpoint;
use serde_json::{Value, json};

use super::replay::HooksReplay;
use super::service::{ServiceTls, endpoint};
use super::timeout_argument;

/// There are warnings, and `--strict` was asked for.
const EXIT_WARNINGS: u8 = 1;

/// An answer failed or is unusable.
const EXIT_ERRORS: u8 = 2;

/// Nobody answered.
const EXIT_UNREACHABLE: u8 = 3;

/// Columns of a page.
const WIDTH: usize = 80;

/// Bytes of an answer's fields that are shown on the page; JSON has more.
const RECEIVED_SHOWN: usize = 240;

/// Questions that are named under a finding.
const QUESTIONS_SHOWN: usize = 3;

/// Tools for hook services.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum HooksCommand {
    /// Ask a hook service a fixed set of questions, and show what mproxy makes of its answers
    ///
    /// Needs no broker and no configuration. The service is asked about clients, topics and filters that begin with
    /// "mproxy-check", over all transports and MQTT versions, and is sent events about them.
    #[command(after_help = EXIT_CODES)]
    Check(HooksCheck),
    /// Put what a decision log has recorded to a hook service, and show what it would decide otherwise
    ///
    /// Publishes, filters and deliveries are put that the hook service decided, a grant, or a cached answer. A record has
    /// no payload, no properties and no password, so what depends on these cannot be told.
    #[command(after_help = super::replay::EXIT_CODES)]
    Replay(HooksReplay),
}

const EXIT_CODES: &str = "Exit codes:
  0  every answer can be used
  1  with --strict: there are warnings
  2  an answer failed or is unusable; or an argument is wrong
  3  the service cannot be reached, or does not speak gRPC (or HTTP, for JSON)";

/// What is asked of `mproxy hooks check`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct HooksCheck {
    /// The service: http://host:port, https://host:port or unix:/path for gRPC, http+json://host:port/prefix for JSON
    #[arg(value_name = "URL", value_parser = endpoint)]
    endpoint: Endpoint,
    /// Calls whose time is taken; 0: none
    #[arg(long, value_name = "N", default_value_t = 200)]
    count: u32,
    /// Deadline of one question, 1ms to 1m
    #[arg(long, value_name = "DURATION", env = "MPROXY_POLICY_TIMEOUT", default_value = "1s", value_parser = timeout_argument)]
    timeout: Duration,
    #[command(flatten)]
    tls: ServiceTls,
    /// Exit with 1 if there are warnings
    #[arg(long)]
    strict: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Asks the service, and prints what was found.
///
/// # Errors
/// A certificate or key cannot be used, or nothing can be printed.
pub async fn check_hooks(
    asked: &HooksCheck,
    out: &mut (impl Write + Send),
    err: &mut (impl Write + Send),
) -> anyhow::Result<ExitCode> {
    let report = match ask(asked).await {
        Ok(report) => report,
        Err(error) => {
            writeln!(err, "mproxy: {error:#}")?;
            return Ok(ExitCode::from(super::EXIT_CONFIGURATION));
        }
    };
    let code = exit_code(&report, asked.strict);
    if asked.json {
        writeln!(out, "{:#}", as_json(&report, code))?;
    } else {
        out.write_all(page(&report).as_bytes())?;
    }
    Ok(ExitCode::from(code))
}

async fn ask(asked: &HooksCheck) -> anyhow::Result<CheckReport> {
    let config = CheckConfig {
        endpoint: asked.endpoint.clone(),
        tls: asked.tls.read()?,
        timeout: asked.timeout,
        count: asked.count,
        version: env!("CARGO_PKG_VERSION").into(),
    };
    Ok(check(&config).await?)
}

fn exit_code(report: &CheckReport, strict: bool) -> u8 {
    if report.unreachable.is_some() {
        EXIT_UNREACHABLE
    } else if report.count(FindingLevel::Error) > 0 {
        EXIT_ERRORS
    } else if strict && report.count(FindingLevel::Warning) > 0 {
        EXIT_WARNINGS
    } else {
        0
    }
}

// ------------------------------------------------------------------------------------------------------- page

/// For people, in 80 columns; what is wrong stands at the end, where a terminal shows it.
fn page(report: &CheckReport) -> String {
    let mut page = PageText::default();
    if let Some(why) = &report.unreachable {
        page.line("", &format!("{} cannot be reached: {why}", report.endpoint), 2);
        return page.0;
    }
    if let Some(hello) = &report.hello {
        greet(&mut page, &report.endpoint, hello);
    }
    let mut before = ("", "");
    for answer in report.answers.iter().filter(|answer| !is_repeated(answer)) {
        if (answer.call, answer.way) != before {
            before = (answer.call, answer.way);
            let over = if answer.way == "unary" { String::new() } else { format!(" ({})", answer.way) };
            page.line("", &format!("\n{}{over}", answer.call), 0);
        }
        show(&mut page, answer);
    }
    if !report.latencies.is_empty() {
        page.line("", "\nLatency", 0);
    }
    for LatencyFigures { call, way, count, failed, p50, p99, max } in &report.latencies {
        let failed = if *failed > 0 { format!(", {failed} failed") } else { String::new() };
        let text = format!(
            "{call}, {way}: {count} answers{failed}, p50 {}, p99 {}, max {}",
            ms(*p50),
            ms(*p99),
            ms(*max)
        );
        page.line("  ", &text, 4);
    }
    if !report.findings.is_empty() {
        page.line("", "", 0);
    }
    // The worst last: that is what a terminal shows without scrolling.
    for finding in report.findings.iter().rev() {
        let Finding { level, text, questions, .. } = finding;
        page.line("", &format!("{}: {text}", level.name()), 4);
        if !questions.is_empty() {
            let mut named = questions.iter().take(QUESTIONS_SHOWN).cloned().collect::<Vec<_>>();
            if questions.len() > QUESTIONS_SHOWN {
                named.push(format!("and {} more", questions.len() - QUESTIONS_SHOWN));
            }
            page.line("    ", &format!("({})", named.join("; ")), 5);
        }
    }
    page.line("", &format!("\n{}", summary(report)), 0);
    page.0
}

/// What a stream answered to a question that stands above already, as a call: findings tell where both differ.
fn is_repeated(answer: &CheckedAnswer) -> bool {
    let is_question = answer.call.starts_with("Auth");
    let is_sound = matches!(answer.result, CheckedResult::Allow | CheckedResult::Deny | CheckedResult::Mixed);
    answer.way == "stream" && is_question && is_sound
}

fn greet(page: &mut PageText, endpoint: &str, hello: &HelloFacts) {
    let HelloFacts { name, answered, wants, streams, took } = hello;
    let from = if *answered { format!("{name:?}") } else { "the defaults".to_owned() };
    page.line("", &format!("{endpoint}: Hello in {}: {from}", ms(*took)), 2);
    for WantedFacts { call, topic_filters, payload_limit } in wants {
        let mut text = format!("wants {call}");
        if !topic_filters.is_empty() {
            text.push_str(&format!(" for {topic_filters:?}"));
        }
        match payload_limit {
            Some(0) => text.push_str(" without payloads"),
            Some(most) => text.push_str(&format!(" with payloads of up to {most} bytes")),
            None => {}
        }
        page.line("  ", &text, 4);
    }
    page.line("  ", if *streams { "serves streams" } else { "serves no streams" }, 4);
}

fn show(page: &mut PageText, answer: &CheckedAnswer) {
    /// Where questions and details begin.
    const INDENT: usize = 24;
    let took = answer.took.map_or_else(String::new, ms);
    page.line("", &format!("  {:<10} {took:>9}  {}", word(answer.result), answer.question), INDENT);
    let indent = " ".repeat(INDENT);
    if !answer.details.is_empty() {
        page.line(&indent, &answer.details.join(", "), INDENT + 2);
    }
    // Of a hundred filters that were all allowed there is nothing to say.
    let said = |filter: &&CheckedFilter| filter.result != CheckedResult::Allow || !filter.details.is_empty();
    if answer.result == CheckedResult::Mixed {
        for CheckedFilter { filter, result, details, .. } in answer.filters.iter().filter(said) {
            page.line(&indent, &format!("{} {filter} {}", word(*result), details.join(", ")), INDENT + 2);
        }
    }
    let plain = answer.result == CheckedResult::Allow && answer.details.is_empty();
    if !answer.received.is_empty() && !plain {
        let cut = answer.received.char_indices().nth(RECEIVED_SHOWN).map(|(end, _)| end);
        let shown = cut.map_or(&*answer.received, |end| answer.received.get(..end).unwrap_or_default());
        let more = if cut.is_some() { "…" } else { "" };
        page.line(&indent, &format!("received {shown}{more}"), INDENT + 2);
    }
}

const fn word(result: CheckedResult) -> &'static str {
    match result {
        CheckedResult::Allow => "allow",
        CheckedResult::Deny => "deny",
        CheckedResult::Mixed => "mixed",
        CheckedResult::Received => "received",
        CheckedResult::NotWanted => "not wanted",
        CheckedResult::Failed => "FAILED",
        CheckedResult::Unusable => "UNUSABLE",
        CheckedResult::NotAsked => "not asked",
    }
}

fn summary(report: &CheckReport) -> String {
    let asked = report.answers.iter().filter(|answer| answer.took.is_some()).count();
    let count = |level, one: &str| {
        let count = report.count(level);
        format!("{count} {one}{}", if count == 1 { "" } else { "s" })
    };
    format!(
        "{asked} questions and events: {}, {}, {}",
        count(FindingLevel::Error, "error"),
        count(FindingLevel::Warning, "warning"),
        count(FindingLevel::Note, "note")
    )
}

fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}

/// Lines that end before the last column.
#[derive(Default)]
struct PageText(String);

impl PageText {
    /// A text behind `lead`; what does not fit goes on in lines that begin at `indent`.
    fn line(&mut self, lead: &str, text: &str, indent: usize) {
        self.0.push_str(lead);
        let mut column = lead.chars().count();
        for (at, word) in text.split(' ').enumerate() {
            let width = word.chars().count();
            if at > 0 {
                if column + 1 + width > WIDTH && column > indent {
                    self.0.push('\n');
                    self.0.push_str(&" ".repeat(indent));
                    column = indent;
                } else {
                    self.0.push(' ');
                    column += 1;
                }
            }
            // A word may be longer than a line, and goes on in the next.
            for sign in word.chars() {
                if column >= WIDTH {
                    self.0.push('\n');
                    self.0.push_str(&" ".repeat(indent));
                    column = indent;
                }
                // What a service says must not move the cursor. The page's own headings begin with a new line.
                let shown =
                    if sign.is_control() && !(sign == '\n' && column == 0) { '\u{fffd}' } else { sign };
                self.0.push(shown);
                column = if shown == '\n' { 0 } else { column + 1 };
            }
        }
        self.0.push('\n');
    }
}

// ------------------------------------------------------------------------------------------------------- JSON

fn as_json(report: &CheckReport, code: u8) -> Value {
    let CheckReport { endpoint, unreachable, hello, answers, latencies, findings } = report;
    json!({
        "endpoint": endpoint,
        "exit_code": code,
        "unreachable": unreachable,
        "hello": hello.as_ref().map(hello_json),
        "answers": answers.iter().map(answer_json).collect::<Vec<_>>(),
        "latencies": latencies.iter().map(latency_json).collect::<Vec<_>>(),
        "findings": findings.iter().map(|Finding { level, code, text, questions }| json!({
            "level": level.name(), "code": code, "text": text, "questions": questions,
        })).collect::<Vec<_>>(),
        "errors": report.count(FindingLevel::Error),
        "warnings": report.count(FindingLevel::Warning),
        "notes": report.count(FindingLevel::Note),
    })
}

fn hello_json(hello: &HelloFacts) -> Value {
    let HelloFacts { name, answered, wants, streams, took } = hello;
    json!({
        "name": name,
        "answered": answered,
        "wants": wants.iter().map(|WantedFacts { call, topic_filters, payload_limit }| json!({
            "call": call, "topic_filters": topic_filters, "payload_limit": payload_limit,
        })).collect::<Vec<_>>(),
        "streams": streams,
        "took_ms": millis(*took),
    })
}

fn answer_json(answer: &CheckedAnswer) -> Value {
    let filters = answer.filters.iter().map(|CheckedFilter { filter, result, reason_code, details }| {
        json!({
            "filter": filter, "result": result.name(), "reason_code": reason_code, "details": details,
        })
    });
    let fields = answer.fields.iter().map(|(path, value)| (path.clone(), Value::from(value.as_str())));
    json!({
        "call": answer.call,
        "way": answer.way,
        "question": answer.question,
        "result": answer.result.name(),
        "reason_code": answer.reason_code,
        "details": answer.details,
        "filters": filters.collect::<Vec<_>>(),
        "took_ms": answer.took.map(millis),
        "fields": fields.collect::<serde_json::Map<_, _>>(),
        "unknown_fields": answer.unknown_fields,
    })
}

fn latency_json(figures: &LatencyFigures) -> Value {
    let LatencyFigures { call, way, count, failed, p50, p99, max } = figures;
    json!({
        "call": call, "way": way, "count": count, "failed": failed,
        "p50_ms": millis(*p50), "p99_ms": millis(*p99), "max_ms": millis(*max),
    })
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_eighty_columns_and_nothing_moves_the_cursor() {
        let mut page = PageText::default();
        page.line("  ", &format!("word {} \u{1b}[2J\r end", "x".repeat(200)), 4);
        page.line("", &"many words ".repeat(30), 8);
        page.line("", "\nheading", 0);
        assert!(page.0.lines().all(|line| line.chars().count() <= WIDTH), "{}", page.0);
        assert!(!page.0.contains(['\u{1b}', '\r']), "{}", page.0);
        assert!(page.0.ends_with("\n\nheading\n"), "{}", page.0);
    }
}
