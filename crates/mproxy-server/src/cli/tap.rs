//! `mproxy tap`: the packets of a running mproxy as they pass, a line for each.

use std::fmt::Write as _;
use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::admin_api::{AdminCallError, AdminClient, ServerEvent, query};
use super::text::{self, json_line, one_line, one_word};
use super::{units, words};
use crate::config::Flags;

/// Which packets, and how much of them.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct TapCommand {
    /// Client id; if it is left out, all clients
    client: Option<String>,
    /// Only this connection
    #[arg(long, value_name = "ID")]
    connection_id: Option<String>,
    /// Only clients with this user name
    #[arg(long, value_name = "NAME")]
    username: Option<String>,
    /// Only clients of this listener
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// Only PUBLISH, SUBSCRIBE and UNSUBSCRIBE packets whose topics match this topic filter
    #[arg(long, value_name = "FILTER")]
    filter: Option<String>,
    /// Only packets of these types: publish,puback
    #[arg(long, value_name = "TYPES")]
    r#type: Option<String>,
    /// Only packets from the client, or from the broker
    #[arg(long, value_name = "SIDE", value_parser = words::SIDES)]
    from: Option<String>,
    /// Show the beginning of each payload, up to so many bytes (at most 4096)
    #[arg(long, value_name = "BYTES")]
    payload: Option<String>,
    /// Show at most so many packets in a second (100; at most 1000)
    #[arg(long, value_name = "NUMBER")]
    rate: Option<String>,
    /// End after so many lines
    #[arg(long, value_name = "NUMBER")]
    count: Option<u64>,
    /// Print the events of the admin API as they are, one JSON object in a line
    #[arg(long)]
    json: bool,
}

impl TapCommand {
    fn target(&self) -> String {
        let parameters = [
            ("client_id", &self.client),
            ("connection_id", &self.connection_id),
            ("username", &self.username),
            ("listener", &self.listener),
            ("filter", &self.filter),
            ("type", &self.r#type),
            ("from", &self.from),
            ("payload", &self.payload),
            ("rate", &self.rate),
        ];
        format!("/api/v1/tap{}", query(&parameters.map(|(name, value)| (name, value.as_deref()))))
    }
}

/// `mproxy tap`: 0 where mproxy ended it or `--count` was reached, 2 where it could not be asked or the connection broke.
pub(super) fn tap(
    command: &TapCommand,
    flags: &Flags,
    out: &mut impl Write,
    err: &mut impl Write,
) -> Result<ExitCode, AdminCallError> {
    let client = AdminClient::new(flags)?;
    let mut events = client.events(&command.target())?;
    writeln!(err, "mproxy: watching packets at {}; end it with Ctrl-C", client.place())?;
    let mut left = command.count;
    while left != Some(0) {
        let Some(event) = events.next_event().map_err(|error| client.unreachable(error))? else {
            return Err(client.unreachable(std::io::ErrorKind::UnexpectedEof.into()));
        };
        writeln!(out, "{}", shown(command, &event))?;
        if event.name == "end" {
            break;
        }
        left = left.map(|left| left - 1);
    }
    Ok(ExitCode::SUCCESS)
}

fn shown(command: &TapCommand, event: &ServerEvent) -> String {
    if command.json {
        // What it is stands beside its data otherwise.
        let data = event.data.strip_prefix('{').unwrap_or("}");
        let comma = if data.starts_with('}') { "" } else { "," };
        return json_line(&format!("{{\"event\":\"{}\"{comma}{data}", event.name)).into_owned();
    }
    let data: Value = serde_json::from_str(&event.data).unwrap_or_default();
    let line = match event.name.as_str() {
        "packet" => packet_line(&data),
        "refusal" => refusal_line(&data),
        "lost" => format!(
            "-- {} events are not shown: there were more than --rate, or they were not read in time",
            data["count"]
        ),
        "end" => format!("-- the end: {}", data["reason"].as_str().unwrap_or("no reason given")),
        other => format!("-- {other}: {data}"),
    };
    one_line(&line).into_owned()
}

/// `02:47:00.507 desk > PUBLISH a/b qos=1 id=7 5 B "hello"`; `>` is what the client sent.
fn packet_line(packet: &Value) -> String {
    let text = |key: &str| packet[key].as_str();
    let mut line = beginning(packet, if text("from") == Some("broker") { '<' } else { '>' });
    line += text("type").unwrap_or("packet");
    if let Some(topic) = text("topic") {
        line += &format!(" {}", one_word(topic));
    }
    if let Some(topic) = text("broker_topic") {
        line += &format!(" (at the broker {})", one_word(topic));
    }
    for filter in packet["filters"].as_array().into_iter().flatten() {
        // Of an UNSUBSCRIBE there is the name alone.
        let name = filter["filter"].as_str().or_else(|| filter.as_str()).unwrap_or("-");
        line += &format!(" {}", one_word(name));
        if let Some(qos) = filter["qos"].as_u64() {
            line += &format!(":{qos}");
        }
    }
    for (key, name) in [
        ("requested_client_id", "client"),
        ("username", "user"),
        ("protocol", "mqtt"),
        ("will_topic", "will"),
        ("keep_alive", "keep_alive"),
        ("qos", "qos"),
        ("packet_id", "id"),
        ("more_filters", "more_filters"),
    ] {
        match &packet[key] {
            Value::Null => {}
            Value::String(text) => line += &format!(" {name}={}", one_word(text)),
            other => line += &format!(" {name}={other}"),
        }
    }
    for flag in ["retain", "dup", "clean_start", "session_present"] {
        if packet[flag] == true {
            line += &format!(" {flag}");
        }
    }
    line += &codes(packet);
    line += &payload(packet);
    line += &outcome(packet);
    line
}

fn beginning(data: &Value, sign: char) -> String {
    let time = data["time"].as_str().unwrap_or_default();
    let time = time.split_once('T').map_or(time, |(_, time)| time.trim_end_matches('Z'));
    let whose = data["client_id"].as_str().or_else(|| data["connection_id"].as_str()).unwrap_or("-");
    format!("{time} {} {sign} ", one_word(whose))
}

fn codes(packet: &Value) -> String {
    let one = packet["reason_code"].as_u64();
    let many = packet["reason_codes"].as_array().into_iter().flatten().filter_map(Value::as_u64);
    let mut shown = one.into_iter().chain(many).fold(String::new(), |mut shown, code| {
        // Writing to a String cannot fail.
        let _ = write!(shown, " {}", text::code(code));
        shown
    });
    if let Some(more) = packet["more_reason_codes"].as_u64() {
        let _ = write!(shown, " and {more} more");
    }
    shown
}

fn payload(packet: &Value) -> String {
    let size = packet["payload_size"].as_u64().map(|size| format!(" {}", units::bytes(size)));
    let begun = if packet["payload_truncated"] == true { "…" } else { "" };
    let content = match (packet["payload"].as_str(), packet["payload_base64"].as_str()) {
        (Some(text), _) => format!(" {text:?}{begun}"),
        (None, Some(base64)) => format!(" base64:{base64}{begun}"),
        (None, None) => String::new(),
    };
    size.unwrap_or_default() + &content
}

/// What became of it, where that is not that it went on as it came.
fn outcome(packet: &Value) -> String {
    let refused_by = packet["refused_by"].as_str().map(|by| {
        let code =
            packet["refused_with"].as_u64().map_or_else(String::new, |code| format!(" {}", text::code(code)));
        format!(" by {by}{code}")
    });
    match packet["outcome"].as_str() {
        None | Some("forwarded") => String::new(),
        Some("refused") => format!("  REFUSED{}", refused_by.unwrap_or_default()),
        Some(other) => {
            let refused = refused_by.map_or_else(String::new, |by| format!(", filters refused{by}"));
            format!("  {other}{refused}")
        }
    }
}

fn refusal_line(record: &Value) -> String {
    let mut line = beginning(record, '!');
    line += record["hook"].as_str().or_else(|| record["packet"].as_str()).unwrap_or("connection");
    for key in ["topic", "filter"] {
        if let Some(name) = record[key].as_str() {
            line += &format!(" {}", one_word(name));
        }
    }
    line += &format!(": {}", record["why"].as_str().unwrap_or("-"));
    if let Some(code) = record["reason_code"].as_u64() {
        line += &format!(". {} {}", text::code(code), record["reason"].as_str().unwrap_or_default());
    }
    line
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_packet_is_told_in_a_line() {
        for (packet, told) in [
            (
                json!({ "time": "2026-11-24T02:47:00.507Z", "connection_id": "id", "client_id": "desk", "from": "client",
                    "type": "PUBLISH", "packet_id": 7, "topic": "secret/x", "qos": 1, "retain": true, "dup": false,
                    "payload_size": 5, "payload": "he\u{1b}lo", "payload_truncated": true, "size": 19,
                    "outcome": "refused", "refused_by": "acl", "refused_with": 135 }),
                "02:47:00.507 desk > PUBLISH secret/x qos=1 id=7 retain 5 B \"he\\u{1b}lo\"…  REFUSED by acl 0x87",
            ),
            (
                json!({ "time": "2026-11-24T02:47:00.507Z", "client_id": "a\nb", "from": "broker", "type": "PUBLISH",
                    "topic": "t \u{9b}2J", "broker_topic": "acme/t", "qos": 0, "payload_size": 2048,
                    "payload_base64": "//8=", "outcome": "forwarded" }),
                "02:47:00.507 \"a\\nb\" < PUBLISH \"t \\u{9b}2J\" (at the broker acme/t) qos=0 2 KiB base64://8=",
            ),
            (
                json!({ "time": "-", "connection_id": "id", "from": "client", "type": "SUBSCRIBE", "packet_id": 1,
                    "filters": [{ "filter": "a/#", "qos": 1 }, { "filter": "b", "qos": 0 }], "outcome": "changed",
                    "refused_by": "grant", "refused_with": 135 }),
                "- id > SUBSCRIBE a/#:1 b:0 id=1  changed, filters refused by grant 0x87",
            ),
            (
                json!({ "time": "-", "client_id": "", "from": "broker", "type": "SUBACK", "packet_id": 1,
                    "reason_codes": [1, 135], "outcome": "answered" }),
                "- \"\" < SUBACK id=1 0x01 0x87  answered",
            ),
        ] {
            let event = ServerEvent { name: "packet".into(), data: packet.to_string() };
            assert_eq!(shown(&command(false), &event), told);
        }
    }

    #[test]
    fn what_else_happens_is_told_and_in_json_each_line_says_what_it_is() {
        let event = |name: &str, data: &str| ServerEvent { name: name.into(), data: data.into() };
        let line = |json, name: &str, data: &str| shown(&command(json), &event(name, data));
        assert!(line(false, "lost", r#"{"count":12}"#).starts_with("-- 12 events are not shown"));
        assert_eq!(
            line(false, "end", r#"{"reason":"mproxy is stopping"}"#),
            "-- the end: mproxy is stopping"
        );
        let refusal = r#"{"time":"2026-11-24T02:47:00.507Z","client_id":"d","hook":"publish","topic":"a","why":"refused by rules[0]","reason_code":135,"reason":"Not authorized"}"#;
        assert_eq!(
            line(false, "refusal", refusal),
            "02:47:00.507 d ! publish a: refused by rules[0]. 0x87 Not authorized"
        );
        assert_eq!(line(true, "lost", r#"{"count":12}"#), r#"{"event":"lost","count":12}"#);
        assert_eq!(line(true, "packet", "{\"a\":\"\u{9b}\"}"), r#"{"event":"packet","a":"\u009b"}"#);
        assert_eq!(line(true, "odd", "{}"), r#"{"event":"odd"}"#);
    }

    fn command(json: bool) -> TapCommand {
        TapCommand {
            client: None,
            connection_id: None,
            username: None,
            listener: None,
            filter: None,
            r#type: None,
            from: None,
            payload: None,
            rate: None,
            count: None,
            json,
        }
    }
}
