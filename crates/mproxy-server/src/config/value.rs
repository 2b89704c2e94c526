//! Text to typed values. Each reader says what it would have taken; none repeats a secret.
//!
//! | room | holds |
//! |---|---|
//! | `place` | ports, hosts, paths and URLs |
//! | `amount` | sizes and times |
//! | `rate` | how often something may happen |
//! | `otel` | what the OpenTelemetry standard's variables may hold |

mod amount;
mod otel;
mod place;
mod rate;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;

use mproxy_tcp::tls::Verification;

pub(super) use self::amount::{
    LARGEST_PACKET, LEAST_BUDGET, LEAST_PACKET, budget, deadline, duration, keep_alive, memory, packet_size,
    session_expiry, throughput,
};
pub(super) use self::otel::{
    MOST_MILLISECONDS, MOST_SPANS, OTEL_EXPORTERS, OTLP_PROTOCOLS, SAMPLERS, headers, milliseconds,
    otel_exporter, otlp_headers, otlp_protocol, resource_attributes, sampler, spans,
};
pub use self::place::AdminAddress;
pub(super) use self::place::{
    admin_url, bind_port, host, is_service_link, name, otlp_endpoint, own_path, path, policy_urls,
    port_or_off, target_port,
};

pub use self::rate::EventRate;
pub(super) use self::rate::{event_rate, percent};

/// Something that must not be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret itself, for comparing.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A value as it is repeated in a message: quoted, escaped, and not endlessly long.
pub(super) fn quoted(text: &str) -> String {
    const ENOUGH: usize = 80;
    // At a character: a slice that ends within one panics.
    match text.char_indices().nth(ENOUGH) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// The name of a file.
pub(super) fn file(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("must not be empty".to_owned()) } else { Ok(text.into()) }
}

/// The path of a Unix socket.
pub(super) fn socket(text: &str) -> Result<PathBuf, String> {
    if text.starts_with('/') && text.len() <= mproxy_unix::LONGEST_PATH && !text.contains('\0') {
        return Ok(text.into());
    }
    let most = mproxy_unix::LONGEST_PATH;
    Err(format!(
        "{} is not the path of a Unix socket: expected an absolute path of at most {most} bytes",
        quoted(text)
    ))
}

/// Permissions of a file, as `chmod` takes them. With the 0 in front, so that 660 of a file that has numbers cannot be
/// meant for another base.
pub(super) fn mode(text: &str) -> Result<u32, String> {
    let is_mode = text.len() == 4 && text.starts_with('0');
    let mode = u32::from_str_radix(text, 8).ok().filter(|_| is_mode);
    mode.ok_or_else(|| {
        format!(
            "{} is not a mode: expected four octal digits, \"0660\" (in quotes in the file)",
            quoted(text)
        )
    })
}

/// The name or number of a user or group.
pub(super) fn user(text: &str) -> Result<String, String> {
    let is_name_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '$');
    if (1..=32).contains(&text.len()) && text.chars().all(is_name_char) {
        return Ok(text.to_owned());
    }
    Err(format!("{} is not a user or group: expected a name or a number", quoted(text)))
}

/// A name that is also a label in metrics and logs.
pub(super) fn label(text: &str) -> Result<String, String> {
    let is_label_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if (1..=64).contains(&text.len()) && text.chars().all(is_label_char) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{} is not a valid name: expected 1 to 64 letters, digits, dots, dashes and underscores",
        quoted(text)
    ))
}

/// The name of this instance: anything a person may read in one line.
pub(super) fn instance(text: &str) -> Result<String, String> {
    if (1..=255).contains(&text.len()) && !text.chars().any(char::is_control) {
        return Ok(text.to_owned());
    }
    Err("must be one line of 1 to 255 bytes".to_owned())
}

/// The admin's bearer token. Never repeated.
pub(super) fn token(text: &str) -> Result<Secret, String> {
    if !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic()) {
        return Ok(Secret::from(text));
    }
    Err("must be visible ASCII without spaces, as it is sent in a header".to_owned())
}

/// `true` or `false`, and what Go's `ParseBool` takes besides, as mProxy did.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "t" | "1" => Ok(true),
        "false" | "f" | "0" => Ok(false),
        _ => Err(format!("{} is not true or false", quoted(text))),
    }
}

/// `on` or `off`.
pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "on" | "true" => Ok(true),
        "off" | "false" => Ok(false),
        _ => Err(format!("{} is not one of: off, on", quoted(text))),
    }
}

/// A number of connections.
pub(super) fn connections(text: &str) -> Result<usize, String> {
    match text.parse::<u32>() {
        Ok(0) => Err("must be greater than zero".to_owned()),
        Ok(number) => Ok(number as usize),
        Err(_) => Err(format!("{} is not a number of connections: expected a whole number", quoted(text))),
    }
}

/// What else there is than `full` is said in the documentation alone: nobody is to find it by trying.
pub(super) fn verification(text: &str) -> Result<Verification, String> {
    Verification::parse(text).ok_or_else(|| {
        format!("{} is not \"full\"; docs/configuration.md describes the other value", quoted(text))
    })
}

/// Anything.
pub(super) fn text(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}
