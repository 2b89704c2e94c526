//! `mproxy explain`: asks a running mproxy what it would decide about a client now, and why.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::admin_api;
use super::text::{self, json_line, printable};
use super::words;
use crate::config::Flags;

/// Ends with this where it would be refused.
const EXIT_REFUSED: u8 = 1;

/// Ends with this where somebody would be asked, or it is not known.
const EXIT_OPEN: u8 = 3;

/// What is asked.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct ExplainCommand {
    /// Client id of the client; if it is not connected, the rule file is asked about whoever has this id
    client: String,
    /// What it would do
    #[arg(value_parser = words::ACTIONS)]
    action: String,
    /// The topic, or the filter of a subscription
    topic: String,
    /// QoS of the message, or of the subscription
    #[arg(long, value_name = "QOS", default_value_t = 0)]
    qos: u8,
    /// A retained message
    #[arg(long)]
    retain: bool,
    /// Bytes of the payload
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    payload_size: u32,
    /// User name of a client that is not connected
    #[arg(long, value_name = "NAME")]
    username: Option<String>,
    /// Common name of the certificate of a client that is not connected
    #[arg(long, value_name = "NAME")]
    common_name: Option<String>,
    /// Print the answer of the admin API as it is
    #[arg(long)]
    json: bool,
}

/// `mproxy explain`: 0 where it would be allowed, 1 where it would be refused, 3 where the hook service would be asked or
/// it is not known, 2 where mproxy could not be asked.
///
/// # Errors
/// Where `out` or `err` cannot be written to.
pub(super) fn ask_explain(
    question: &ExplainCommand,
    flags: &Flags,
    out: &mut impl Write,
    err: &mut impl Write,
) -> io::Result<ExitCode> {
    let mut body = json!({
        "client_id": question.client,
        "action": question.action,
        "topic": question.topic,
        "qos": question.qos,
        "retain": question.retain,
        "payload_size": question.payload_size,
    });
    for (key, value) in [("username", &question.username), ("common_name", &question.common_name)] {
        if let Some(value) = value {
            body[key] = json!(value);
        }
    }
    let answer = match admin_api::ask(flags, "POST", "/api/v1/explain", Some(&body), err)? {
        Ok(answer) => answer.body,
        Err(code) => return Ok(code),
    };
    let code = match answer["decision"].as_str() {
        Some("allowed") => ExitCode::SUCCESS,
        Some("refused") => ExitCode::from(EXIT_REFUSED),
        _ => ExitCode::from(EXIT_OPEN),
    };
    if question.json {
        writeln!(out, "{}", json_line(&answer.to_string()))?;
    } else {
        writeln!(out, "{}", printable(&told(&answer)))?;
    }
    Ok(code)
}

/// One line, and another one where the client is not connected.
fn told(answer: &Value) -> String {
    let text = |key: &str| answer[key].as_str().unwrap_or_default();
    let (decision, why) = (text("decision"), text("why"));
    let mut told = if why.starts_with(decision) { why.to_owned() } else { format!("{decision}: {why}") };
    if let Some(code) = answer["reason_code"].as_u64() {
        told += &format!(". {} {}", text::code(code), text("reason"));
    }
    if let Some(qos) = answer["max_qos"].as_u64() {
        told += &format!(", with QoS {qos}");
    }
    if answer["connection_id"].is_null() {
        let open: Vec<&str> =
            answer["not_known"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        told += &format!("\n  the client is not connected; not known: {}", open.join(", "));
    }
    told
}
