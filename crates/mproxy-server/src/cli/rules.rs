//! `mproxy rules`: what a rule file says, without a running mproxy: of a table of cases, and of one client.

use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use clap::{Args, Subcommand};
use mproxy_codec::types::{QoS, Version};
use mproxy_core::peer::Transport;
use mproxy_core::rule::{Act, WallTime};
use mproxy_policy::acl::{
    Acl, ImpossibleClient, RuleTrial, TrialCase, TrialClient, TrialGround, TrialOutcome, TrialQuestion,
    parse_moment,
};
use mproxy_tcp::tls::read_regular;
use serde_json::{Map, Value};
use tokio::runtime::{Builder, Runtime};

use super::text::one_line;

/// Ends with this where a case is decided otherwise than expected, or the client would be refused.
const EXIT_OTHERWISE: u8 = 1;

/// Ends with this where a file cannot be read, or is wrong.
const EXIT_UNREADABLE: u8 = 2;

/// For the help of both.
pub(super) const EXIT_CODES: &str = "Exit codes: 0 as expected, or allowed; 1 otherwise than expected, or refused; \
                                     2 a file cannot be read or is wrong.";

/// Tools for rule files.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum RulesCommand {
    /// Hold a rule file against a table of cases: who, what, and what is expected
    #[command(after_help = EXIT_CODES)]
    Test(RulesTest),
    /// Say what a rule file would decide about a client, and by which rule
    #[command(after_help = EXIT_CODES)]
    Explain(Box<RulesExplain>),
}

/// `mproxy rules test`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct RulesTest {
    /// The rule file
    rules: PathBuf,
    /// The table of cases (TOML)
    cases: PathBuf,
    /// Print only the cases that fail
    #[arg(long)]
    quiet: bool,
}

/// `mproxy rules explain`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct RulesExplain {
    /// The rule file
    rules: PathBuf,
    /// What the client would do: publish, subscribe, receive or will
    #[arg(value_parser = act)]
    action: Act,
    /// The topic, or the filter of a subscription
    topic: String,
    /// QoS of the message, or of the subscription
    #[arg(long, value_name = "QOS", default_value = "0", value_parser = qos)]
    qos: QoS,
    /// A retained message
    #[arg(long)]
    retain: bool,
    /// Bytes of its payload
    #[arg(long, value_name = "BYTES", default_value = "0")]
    payload: u32,
    /// When, 2026-11-27T22:30:00Z for example; now if left out
    #[arg(long, value_name = "TIME", value_parser = moment)]
    time: Option<WallTime>,
    /// Its client id
    #[arg(long, value_name = "ID", default_value = "")]
    client_id: String,
    /// Its user name
    #[arg(long, value_name = "NAME")]
    username: Option<String>,
    /// A group that it is in, besides those that the file has for its user name: by its token or a hook service
    #[arg(long, value_name = "NAME")]
    group: Vec<String>,
    /// It has a token that says this; repeat it for the values of a list
    #[arg(long, value_name = "NAME=VALUE", value_parser = claim)]
    claim: Vec<(String, String)>,
    /// The common name of its certificate
    #[arg(long, value_name = "NAME")]
    common_name: Option<String>,
    /// A DNS name in its certificate
    #[arg(long, value_name = "NAME")]
    dns: Vec<String>,
    /// A URI in its certificate
    #[arg(long, value_name = "URI")]
    uri: Vec<String>,
    /// The SHA-256 fingerprint of its certificate, lower-case hex
    #[arg(long, value_name = "HEX")]
    fingerprint: Option<String>,
    /// The listener that it comes to
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// How it comes: tcp, tls, ws, wss or unix
    #[arg(long, value_name = "NAME", value_parser = transport)]
    transport: Option<Transport>,
    /// The IP address that it comes from
    #[arg(long, value_name = "ADDRESS")]
    address: Option<IpAddr>,
    /// The version of MQTT that it speaks: 3.1, 3.1.1 or 5.0
    #[arg(long = "mqtt", value_name = "VERSION", value_parser = version)]
    version: Option<Version>,
    /// A hook service lets it in, if it is asked
    #[arg(long)]
    service: bool,
}

fn act(text: &str) -> Result<Act, String> {
    match text {
        "publish" => Ok(Act::Publish),
        "subscribe" => Ok(Act::Subscribe),
        "receive" => Ok(Act::Receive),
        "will" => Ok(Act::Will),
        _ => Err("expected publish, subscribe, receive or will".to_owned()),
    }
}

const fn act_name(act: Act) -> &'static str {
    match act {
        Act::Publish => "publish",
        Act::Subscribe => "subscribe",
        Act::Receive => "receive",
        Act::Will => "will",
    }
}

fn moment(text: &str) -> Result<WallTime, String> {
    parse_moment(text)
        .ok_or_else(|| "expected a date with a time, 2026-11-27T22:30:00Z for example".to_owned())
}

fn transport(text: &str) -> Result<Transport, String> {
    let named = Transport::ALL.into_iter().find(|transport| transport.name() == text);
    named.ok_or_else(|| "expected tcp, tls, ws, wss or unix".to_owned())
}

fn version(text: &str) -> Result<Version, String> {
    let named = [Version::V31, Version::V311, Version::V5].into_iter().find(|it| it.to_string() == text);
    named.ok_or_else(|| "expected 3.1, 3.1.1 or 5.0".to_owned())
}

fn qos(text: &str) -> Result<QoS, String> {
    let bits = text.parse().ok().and_then(QoS::from_bits);
    bits.ok_or_else(|| "expected 0, 1 or 2".to_owned())
}

fn claim(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(name, _)| !name.is_empty());
    pair.map(|(name, value)| (name.to_owned(), value.to_owned()))
        .ok_or_else(|| "expected NAME=VALUE".to_owned())
}

/// `mproxy rules`: see [`RulesCommand`].
///
/// # Errors
/// Where `out` or `err` cannot be written to.
pub fn run_rules(command: &RulesCommand, out: &mut impl Write, err: &mut impl Write) -> io::Result<ExitCode> {
    match command {
        RulesCommand::Test(command) => test_rules(command, out, err),
        RulesCommand::Explain(command) => explain_rules(command, out, err),
    }
}

fn test_rules(command: &RulesTest, out: &mut impl Write, err: &mut impl Write) -> io::Result<ExitCode> {
    // Both are read: whoever mends one sees what is wrong with the other.
    let rules = Acl::load(&command.rules).map_err(|errors| errors.to_string());
    let cases = read_cases(&command.cases);
    let (rules, cases) = match (rules, cases) {
        (Ok(rules), Ok(cases)) => (rules, cases),
        (rules, cases) => {
            for faults in [rules.err(), cases.err()].into_iter().flatten() {
                tell_faults(&faults, err)?;
            }
            return Ok(ExitCode::from(EXIT_UNREADABLE));
        }
    };
    let (mut failed, rules, runtime) = (0, RuleTrial::new(rules), runtime()?);
    for case in &cases {
        let outcome = runtime.block_on(rules.try_out(&case.client, &case.question));
        let is_expected = outcome.as_ref().is_ok_and(|outcome| is_expected(case, outcome));
        failed += usize::from(!is_expected);
        if is_expected && command.quiet {
            continue;
        }
        let TrialCase { line, who, question, .. } = case;
        let (file, act) = (command.cases.display(), act_name(question.act));
        let (who, name, told) = (one_line(who), one_line(&question.name), tell(&outcome));
        if is_expected {
            writeln!(out, "ok    {file}:{line}: {who} {act} {name}: {told}")?;
        } else {
            let expected = if case.allowed { "allow" } else { "deny" };
            let by = case.rule_line.map_or_else(String::new, |line| format!(" by the rule in line {line}"));
            let becomes =
                case.becomes.as_deref().map_or_else(String::new, |name| format!(" as {}", one_line(name)));
            writeln!(
                out,
                "FAIL  {file}:{line}: {who} {act} {name}: expected {expected}{by}{becomes}, but {told}"
            )?;
        }
    }
    writeln!(out, "{} cases, {failed} failed", cases.len())?;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(EXIT_OTHERWISE) })
}

fn is_expected(case: &TrialCase, outcome: &TrialOutcome) -> bool {
    outcome.verdict.is_ok() == case.allowed
        && case.rule_line.is_none_or(|line| outcome.by == TrialGround::Rule(line))
        && case
            .becomes
            .as_deref()
            .is_none_or(|name| outcome.becomes.as_deref().unwrap_or(&case.question.name) == name)
}

/// For what the advisers wait for.
fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

fn explain_rules(command: &RulesExplain, out: &mut impl Write, err: &mut impl Write) -> io::Result<ExitCode> {
    let rules = match Acl::load(&command.rules) {
        Ok(rules) => rules,
        Err(errors) => {
            tell_faults(&errors.to_string(), err)?;
            return Ok(ExitCode::from(EXIT_UNREADABLE));
        }
    };
    let client = TrialClient {
        client_id: command.client_id.clone(),
        username: command.username.clone(),
        groups: command.group.clone(),
        claims: claims(&command.claim),
        common_name: command.common_name.clone(),
        dns: command.dns.clone(),
        uris: command.uri.clone(),
        fingerprint: command.fingerprint.clone(),
        listener: command.listener.clone(),
        transport: command.transport,
        address: command.address,
        version: command.version,
        by_service: command.service,
    };
    let question = TrialQuestion {
        act: command.action,
        name: command.topic.clone(),
        qos: command.qos,
        retain: command.retain,
        payload: command.payload as usize,
        time: Some(command.time.unwrap_or_else(now)),
    };
    match runtime()?.block_on(RuleTrial::new(rules).try_out(&client, &question)) {
        Ok(outcome) => {
            let code =
                if outcome.verdict.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_OTHERWISE) };
            writeln!(out, "{}", tell(&Ok(outcome)))?;
            Ok(code)
        }
        Err(impossible) => {
            tell_faults(&tell(&Err(impossible)), err)?;
            Ok(ExitCode::from(EXIT_UNREADABLE))
        }
    }
}

fn now() -> WallTime {
    WallTime::since_1970(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

/// The claims of the command line: a name that stands several times has a list.
fn claims(pairs: &[(String, String)]) -> Option<Map<String, Value>> {
    let mut claims = Map::new();
    for (name, value) in pairs {
        let value = Value::from(value.as_str());
        match claims.get_mut(name) {
            None => drop(claims.insert(name.clone(), value)),
            Some(Value::Array(values)) => values.push(value),
            Some(one) => *one = Value::Array(vec![one.take(), value]),
        }
    }
    (!claims.is_empty()).then_some(claims)
}

fn tell(outcome: &Result<TrialOutcome, ImpossibleClient>) -> String {
    match outcome {
        Ok(TrialOutcome { verdict: Ok(qos), by, becomes }) => {
            let becomes = becomes
                .as_deref()
                .map_or_else(String::new, |name| format!(", as {} at the broker", one_line(name)));
            format!("allowed with QoS {} by {by}{becomes}", *qos as u8)
        }
        Ok(TrialOutcome { verdict: Err(reason), by, .. }) => {
            format!("refused with {:#04x} by {by}", reason.0)
        }
        Err(impossible) => format!("there is no such client: {impossible}"),
    }
}

fn read_cases(path: &Path) -> Result<Vec<TrialCase>, String> {
    let name = path.display().to_string();
    let text = read_regular(path).map_err(|error| format!("{name}: cannot be read: {error}"))?;
    let text = String::from_utf8(text).map_err(|_| format!("{name}: is no UTF-8"))?;
    TrialCase::parse(&text, &name).map_err(|errors| errors.to_string())
}

fn tell_faults(faults: &str, err: &mut impl Write) -> io::Result<()> {
    faults.lines().try_for_each(|line| writeln!(err, "mproxy: {line}"))
}
