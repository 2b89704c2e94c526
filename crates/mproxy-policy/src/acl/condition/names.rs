//! The values and functions that there are.

use mproxy_core::rule::condition::{BoolExpr, IntExpr, TextExpr, TextList, TimeField};

use super::typed::{Loose, Typed};
use crate::nearest;

/// Values by their names, but for claims and attributes, which have any name.
const NAMES: [&str; 17] = [
    "client.id",
    "client.username",
    "client.listener",
    "client.transport",
    "client.address",
    "client.version",
    "client.attributes",
    "claim",
    "topic",
    "levels",
    "qos",
    "retain",
    "size(payload)",
    "time.hour",
    "time.minute",
    "time.second",
    "time.weekday",
];

/// Functions. Those of the second half stand behind a text and a dot.
pub(super) const FUNCTIONS: [&str; 7] = ["size", "has", "int", "bool", "startsWith", "endsWith", "contains"];

/// What a name with dots in it stands for.
pub(super) enum NamedValue {
    /// A value.
    Value(Typed),
    /// `claim` or `client.attributes`: values by name, which have this before them.
    Table(&'static str),
    /// The payload, of which the size is known.
    Payload,
}

/// What the name stands for whose parts these are.
///
/// # Errors
/// There is none such, in words.
pub(super) fn find(parts: &[&str]) -> Result<NamedValue, String> {
    let value = match parts {
        ["claim"] => return Ok(NamedValue::Table("claim.")),
        ["client", "attributes"] => return Ok(NamedValue::Table("")),
        ["payload"] => return Ok(NamedValue::Payload),
        ["claim", ..] => Typed::Loose(Loose::Attribute(parts.join(".").into())),
        ["client", "attributes", name] => Typed::Loose(Loose::Attribute((*name).into())),
        ["client", "id"] => Typed::Text(TextExpr::ClientId),
        ["client", "username"] => Typed::Text(TextExpr::Username),
        ["client", "listener"] => Typed::Text(TextExpr::Listener),
        ["client", "transport"] => Typed::Text(TextExpr::Transport),
        ["client", "address"] => Typed::Text(TextExpr::Address),
        ["client", "version"] => Typed::Text(TextExpr::Version),
        ["topic"] => Typed::Text(TextExpr::Topic),
        ["levels"] => Typed::Texts(TextList::Levels),
        ["qos"] => Typed::Int(IntExpr::Qos),
        ["retain"] => Typed::Bool(BoolExpr::Retain),
        ["time", "hour"] => Typed::Int(IntExpr::Time(TimeField::Hour)),
        ["time", "minute"] => Typed::Int(IntExpr::Time(TimeField::Minute)),
        ["time", "second"] => Typed::Int(IntExpr::Time(TimeField::Second)),
        ["time", "weekday"] => Typed::Text(TextExpr::Weekday),
        _ => return Err(unknown(&parts.join("."))),
    };
    Ok(NamedValue::Value(value))
}

fn unknown(name: &str) -> String {
    let within: Vec<_> = NAMES
        .into_iter()
        .filter(|known| known.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
        .collect();
    if !within.is_empty() {
        return format!("{name} is no value by itself; there are {}", within.join(", "));
    }
    match nearest(name, NAMES) {
        Some(near) => format!("{name} is unknown; the nearest known name is {near}"),
        None => format!("{name} is unknown; there are {}", NAMES.join(", ")),
    }
}

/// Why there is no such function.
pub(super) fn no_function(name: &str) -> String {
    match name {
        "all" | "exists" | "exists_one" | "map" | "filter" => {
            format!("{name}() goes through a list, at a cost that nothing bounds; write in, or several rules")
        }
        "matches" => {
            "regular expressions are not understood, as nothing bounds their cost; write startsWith, endsWith or \
             contains"
                .to_owned()
        }
        _ => match nearest(name, FUNCTIONS) {
            Some(near) => format!("there is no function {name}(); the nearest known one is {near}()"),
            None => format!("there is no function {name}(); there are {}", FUNCTIONS.join(", ")),
        },
    }
}
