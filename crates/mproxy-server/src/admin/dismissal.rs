//! What clients are told when an administrator disconnects them: the API and the command line take the same.

use mproxy_codec::reason::ReasonCode;

/// Characters of a text that a client is told.
const LONGEST_TEXT: usize = 256;

/// A 5.0 reason code, `152` or `0x98`. Below 0x80 it would not tell the client of an error.
///
/// # Errors
/// What it must be.
pub(crate) fn reason_code(text: &str) -> Result<ReasonCode, String> {
    let (digits, radix) = text.strip_prefix("0x").map_or((text, 10), |hex| (hex, 16));
    let code = u8::from_str_radix(digits, radix).ok().filter(|code| *code >= 0x80);
    // A sign would be read, too.
    let code = code.filter(|_| !digits.starts_with('+'));
    code.map(ReasonCode).ok_or_else(|| "reason must be a 5.0 reason code from 0x80 to 0xFF".to_owned())
}

/// Whether a client can be told this text.
///
/// # Errors
/// What it must be.
pub(crate) fn check_text(text: &str) -> Result<(), String> {
    // MQTT discourages control characters, and forbids U+0000 [MQTT-1.5.4-2].
    let is_told =
        !text.is_empty() && text.chars().count() <= LONGEST_TEXT && !text.contains(char::is_control);
    match is_told {
        true => Ok(()),
        false => Err(format!("text must have 1 to {LONGEST_TEXT} characters, and no control characters")),
    }
}
