//! What the OpenTelemetry standard's variables may hold. Its SDK passes over what it cannot read; we say so.

use std::time::Duration;

use hyper::header::{HeaderName, HeaderValue};

use super::{Secret, quoted};

/// The samplers of the OpenTelemetry standard.
pub(in crate::config) const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];

/// The protocols of OTLP. That the last is not available is said where something would leave: the variable may be meant for
/// other programs.
pub(in crate::config) const OTLP_PROTOCOLS: [&str; 3] = ["grpc", "http/protobuf", "http/json"];

/// Where traces and logs go to.
pub(in crate::config) const OTEL_EXPORTERS: [&str; 2] = ["otlp", "none"];

/// Spans in a queue: beyond, they would be a gigabyte.
pub(in crate::config) const MOST_SPANS: u64 = 1_000_000;

/// An hour.
pub(in crate::config) const MOST_MILLISECONDS: u64 = 3_600_000;

/// One of [`SAMPLERS`].
pub(in crate::config) fn sampler(text: &str) -> Result<String, String> {
    one_of(text, &SAMPLERS)
}

/// One of [`OTLP_PROTOCOLS`].
pub(in crate::config) fn otlp_protocol(text: &str) -> Result<String, String> {
    one_of(text, &OTLP_PROTOCOLS)
}

/// One of [`OTEL_EXPORTERS`].
pub(in crate::config) fn otel_exporter(text: &str) -> Result<String, String> {
    one_of(text, &OTEL_EXPORTERS)
}

fn one_of(text: &str, words: &[&str]) -> Result<String, String> {
    if words.contains(&text) {
        return Ok(text.to_owned());
    }
    Err(format!("{} is not one of: {}", quoted(text), words.join(", ")))
}

/// A number of spans.
pub(in crate::config) fn spans(text: &str) -> Result<usize, String> {
    within(text, MOST_SPANS).map(|number| number as usize)
}

/// A time in milliseconds.
pub(in crate::config) fn milliseconds(text: &str) -> Result<Duration, String> {
    within(text, MOST_MILLISECONDS).map(Duration::from_millis)
}

fn within(text: &str, most: u64) -> Result<u64, String> {
    let number = text.parse().ok().filter(|number| (1..=most).contains(number));
    number.ok_or_else(|| format!("{} is not a whole number from 1 to {most}", quoted(text)))
}

/// Headers, kept as they are written. Never repeated: they may hold a key.
pub(in crate::config) fn otlp_headers(text: &str) -> Result<Secret, String> {
    headers(text).map(|_| Secret::from(text))
}

/// The headers in this text.
pub(in crate::config) fn headers(text: &str) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let wrong =
        |at: usize, what: &str| format!("member {}: {what}: expected name=value between commas", at + 1);
    let members = text.split(',').map(str::trim).enumerate().filter(|(_, member)| !member.is_empty());
    let read = |(at, member): (usize, &str)| {
        let (name, value) = member.split_once('=').ok_or_else(|| wrong(at, "has no ="))?;
        let name = name.trim().to_ascii_lowercase();
        let name = name.parse().map_err(|_| wrong(at, "is not the name of a header"))?;
        let value = decode(value.trim()).and_then(|value| HeaderValue::from_str(&value).ok());
        Ok((name, value.ok_or_else(|| wrong(at, "is not the value of a header"))?))
    };
    members.map(read).collect()
}

/// Names and values of attributes.
pub(in crate::config) fn resource_attributes(text: &str) -> Result<Vec<(String, String)>, String> {
    let members = text.split(',').map(str::trim).filter(|member| !member.is_empty());
    let read = |member: &str| {
        let wrong = || format!("{} is not name=value; members stand between commas", quoted(member));
        let (name, value) =
            member.split_once('=').filter(|(name, _)| !name.trim().is_empty()).ok_or_else(wrong)?;
        Ok((name.trim().to_owned(), decode(value.trim()).ok_or_else(wrong)?))
    };
    members.map(read).collect()
}

/// What was percent-encoded; `None`: not so.
fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                // Below 256.
                (digit()? << 4 | digit()?) as u8
            }
            byte => byte,
        });
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_and_never_repeated() {
        let read = headers("Api-Key=a%20b==, ,x=y").unwrap();
        let read: Vec<_> =
            read.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!(read, [("api-key", "a b=="), ("x", "y")]);
        for wrong in ["secret", "a=1,secret", "se cret=1", "secret=%0a", "secret=%4", "secret=%ff"] {
            let error = otlp_headers(wrong).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn resource_attributes_are_names_and_values() {
        let read = resource_attributes("service.name=edge,team=a%2Cb,").unwrap();
        assert_eq!(
            read,
            [("service.name".to_owned(), "edge".to_owned()), ("team".to_owned(), "a,b".to_owned())]
        );
        for wrong in ["edge", "=edge", "a=%zz"] {
            assert!(resource_attributes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_have_ends() {
        assert_eq!(milliseconds("250"), Ok(Duration::from_millis(250)));
        assert!(milliseconds("0").is_err() && milliseconds("10s").is_err() && spans("2000000").is_err());
    }
}
