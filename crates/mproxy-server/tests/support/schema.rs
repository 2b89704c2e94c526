//! Holds a value against a JSON schema.

use serde_json::Value;

/// Whether a value is as a schema says, of those words that ours uses.
pub(crate) fn fits(value: &Value, schema: &Value) -> Result<(), String> {
    let fail = |word: &str| Err(format!("{value} is not as {word} of {schema} says"));
    let right_type = match schema["type"].as_str() {
        None => true,
        Some("string") => value.is_string(),
        Some("integer") => value.is_u64() || value.is_i64(),
        Some("number") => value.is_number(),
        Some("object") => value.is_object(),
        Some("boolean") => value.is_boolean(),
        Some(other) => panic!("the test does not know the type {other}"),
    };
    if !right_type {
        return fail("type");
    }
    if schema["enum"].as_array().is_some_and(|values| !values.contains(value)) {
        return fail("enum");
    }
    if schema["const"] != Value::Null && schema["const"] != *value {
        return fail("const");
    }
    if let Some(pattern) = schema["pattern"].as_str() {
        let start = pattern.strip_prefix('^').expect("the test knows patterns of a beginning");
        if !value.as_str().is_some_and(|text| text.starts_with(start)) {
            return fail("pattern");
        }
    }
    let number = value.as_f64().unwrap_or_default();
    if schema["minimum"].as_f64().is_some_and(|least| number < least)
        || schema["maximum"].as_f64().is_some_and(|most| number > most)
    {
        return fail("minimum or maximum");
    }
    let Some(object) = value.as_object() else { return Ok(()) };
    for required in schema["required"].as_array().into_iter().flatten() {
        if !object.contains_key(required.as_str().unwrap()) {
            return fail(&format!("required {required}"));
        }
    }
    if schema["additionalProperties"] == false
        && object.keys().any(|key| schema["properties"].get(key).is_none())
    {
        return fail("additionalProperties");
    }
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        object.get(name).map_or(Ok(()), |value| fits(value, schema))?;
    }
    for schema in schema["allOf"].as_array().into_iter().flatten() {
        fits(value, schema)?;
    }
    if schema["if"] != Value::Null {
        let branch = if fits(value, &schema["if"]).is_ok() { "then" } else { "else" };
        fits(value, &schema[branch])?;
    }
    Ok(())
}
