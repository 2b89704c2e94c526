//! A JSON object as lines for a person: what there is more of than a person wants in a line has lines of its own. Knows no
//! object in particular, so that what a newer mproxy has to say is shown, too.

use std::io::{self, Write};
use std::time::SystemTime;

use serde_json::{Map, Value};
use unicode_width::UnicodeWidthStr;

use super::text::{self, one_line};
use super::units;

/// Keys that a person looks for first, in this order; the others follow by their names.
const FIRST: [&str; 14] = [
    "client_id",
    "username",
    "connection_id",
    "phase",
    "state",
    "protocol",
    "connected_since",
    "listener",
    "transport",
    "peer_addr",
    "local_addr",
    "broker_addr",
    "filter",
    "topic",
];

/// The lines of an object.
pub(super) fn outline(value: &Value, now: SystemTime, out: &mut impl Write) -> io::Result<()> {
    match value {
        Value::Object(object) => write_object(object, "", now, out),
        other => writeln!(out, "{}", scalar("", other, now)),
    }
}

fn write_object(
    object: &Map<String, Value>,
    indent: &str,
    now: SystemTime,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut keys: Vec<&String> = object.keys().collect();
    keys.sort_by_key(|key| (FIRST.iter().position(|first| first == key).unwrap_or(FIRST.len()), *key));
    let name = |key: &str| one_line(key).replace('_', " ");
    let width =
        keys.iter().filter(|key| is_short(&object[**key])).map(|key| name(key).width()).max().unwrap_or(0);
    // What has lines of its own comes last: behind it, nobody would see where one line belongs.
    let (short, long): (Vec<&String>, Vec<&String>) =
        keys.into_iter().partition(|key| is_short(&object[*key]));
    for key in short {
        let (name, value) = (name(key), scalar(key, &object[key], now));
        writeln!(out, "{indent}{name}{}  {value}", " ".repeat(width.saturating_sub(name.width())))?;
    }
    let deeper = format!("{indent}  ");
    for key in long {
        writeln!(out, "{indent}{}", name(key))?;
        match &object[key] {
            Value::Object(inner) => write_object(inner, &deeper, now, out)?,
            Value::Array(items) => {
                for item in items {
                    writeln!(out, "{deeper}{}", item_line(item, now))?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether it has its place behind its name.
fn is_short(value: &Value) -> bool {
    match value {
        Value::Object(object) => object.is_empty(),
        Value::Array(items) => items.iter().all(|item| !item.is_object() && !item.is_array()),
        _ => true,
    }
}

/// An object in one line: `filter a/# qos 1`.
fn item_line(item: &Value, now: SystemTime) -> String {
    let Value::Object(object) = item else { return scalar("", item, now) };
    let mut keys: Vec<&String> = object.keys().collect();
    keys.sort_by_key(|key| (FIRST.iter().position(|first| first == key).unwrap_or(FIRST.len()), *key));
    let part = |key: &&String| {
        let name = one_line(key).replace('_', " ");
        match &object[*key] {
            Value::Object(_) => format!("{name} ({})", item_line(&object[*key], now)),
            value => format!("{name} {}", scalar(key, value, now)),
        }
    };
    keys.iter().map(part).collect::<Vec<_>>().join("  ")
}

fn scalar(key: &str, value: &Value, now: SystemTime) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Number(number) => match number.as_u64() {
            Some(bytes) if key.ends_with("bytes") && bytes >= 1024 => {
                format!("{} ({bytes} B)", units::bytes(bytes))
            }
            Some(bytes) if key.ends_with("bytes") => units::bytes(bytes),
            Some(code) if key.ends_with("reason_code") => text::code(code),
            _ => number.to_string(),
        },
        Value::String(text) if text.is_empty() => "\"\"".to_owned(),
        Value::String(text) => match units::age(text, now) {
            Some(age) if age != "0s" => format!("{text} ({age} ago)"),
            _ => one_line(text).into_owned(),
        },
        Value::Array(items) if items.is_empty() => "none".to_owned(),
        Value::Array(items) => items.iter().map(|item| scalar("", item, now)).collect::<Vec<_>>().join(", "),
        Value::Object(_) => "none".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_is_told_in_lines_and_steers_no_terminal() {
        let session = json!({
            "username": "a\u{1b}[2Jb", "client_id": "desk", "connected_since": "1970-01-01T00:00:00.000Z",
            "keep_alive": 60, "traffic": { "client_bytes": 2048, "broker_bytes": 7 }, "tls": null, "resumed": true,
            "subscriptions": [{ "qos": 1, "filter": "a\n/#" }, { "qos": 0, "filter": "b" }], "attributes": {},
            "last_refusal": { "reason_code": 135, "names": ["x", "y"] },
        });
        let mut out = Vec::new();
        outline(&session, SystemTime::UNIX_EPOCH + Duration::from_secs(75), &mut out)
            .expect("a Vec takes everything");
        let lines = String::from_utf8(out).expect("text");
        let told = "client id        desk\n\
                    username         a\\u{1b}[2Jb\n\
                    connected since  1970-01-01T00:00:00.000Z (1m15s ago)\n\
                    attributes       none\n\
                    keep alive       60\n\
                    resumed          yes\n\
                    tls              -\n\
                    last refusal\n\
                    \x20 names        x, y\n\
                    \x20 reason code  0x87\n\
                    subscriptions\n\
                    \x20 filter a\\n/#  qos 1\n\
                    \x20 filter b  qos 0\n\
                    traffic\n\
                    \x20 broker bytes  7 B\n\
                    \x20 client bytes  2 KiB (2048 B)\n";
        assert_eq!(lines, told);
    }
}
