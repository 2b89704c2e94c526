//! The form that the document gives the value of a parameter, and what to tell of a value that has another one.

use serde_json::Value;
use utoipa::openapi::path::Parameter;
use uuid::Uuid;

/// What a value must be that it is not; `None` where its form is right.
pub(super) fn wrong(parameter: &Parameter, value: &str) -> Option<String> {
    let schema = serde_json::to_value(parameter.schema.as_ref()?).ok()?;
    let words: Vec<&str> = of(&schema, "enum")
        .and_then(Value::as_array)
        .map_or_else(Vec::new, |words| words.iter().filter_map(Value::as_str).collect());
    let (is_right, expected) = if !words.is_empty() {
        (words.contains(&value), one_of(&words))
    } else if is(&schema, "integer") {
        let bound = |key| of(&schema, key).and_then(Value::as_f64);
        let (least, most) = (bound("minimum").unwrap_or(0.0), bound("maximum").unwrap_or(f64::INFINITY));
        // A sign would be read, too.
        let number = value.parse::<u64>().ok().filter(|_| !value.starts_with('+'));
        (number.is_some_and(|number| (least..=most).contains(&(number as f64))), bounds(least, most))
    } else if of(&schema, "format").is_some_and(|format| format == "uuid") {
        (Uuid::parse_str(value).is_ok(), "a UUID".to_owned())
    } else {
        return None;
    };
    (!is_right).then_some(expected)
}

/// What a schema says, or that part of it which is for a value that is there.
fn of<'a>(schema: &'a Value, key: &str) -> Option<&'a Value> {
    let parts = ["oneOf", "anyOf", "allOf"].iter().filter_map(|of| schema[*of].as_array()).flatten();
    std::iter::once(schema).chain(parts).find_map(|part| part.get(key))
}

fn is(schema: &Value, name: &str) -> bool {
    match of(schema, "type") {
        Some(Value::Array(types)) => types.iter().any(|one| one == name),
        Some(one) => one == name,
        None => false,
    }
}

fn bounds(least: f64, most: f64) -> String {
    if most.is_finite() {
        format!("a number from {least} to {most}")
    } else {
        format!("a number from {least} on")
    }
}

/// `a, b or c`.
pub(super) fn one_of(words: &[&str]) -> String {
    match words {
        [] => "nothing".to_owned(),
        [one] => (*one).to_owned(),
        [most @ .., last] => format!("{} or {last}", most.join(", ")),
    }
}
