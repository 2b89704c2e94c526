//! How much and how long: sizes in bytes, and times.

use std::time::Duration;

use super::quoted;

/// The smallest packet bound that still lets the shortest CONNECT through.
pub(in crate::config) const LEAST_PACKET: u64 = 16;

/// The largest packet there is: four bytes of length, and the fixed header.
pub(in crate::config) const LARGEST_PACKET: u64 = 268_435_460;

/// Bytes of a packet, plain or as `256KiB`, `1MiB`.
pub(in crate::config) fn packet_size(text: &str) -> Result<u32, String> {
    let bytes = bytes(text)?;
    let allowed = (LEAST_PACKET..=LARGEST_PACKET).contains(&bytes);
    let size = u32::try_from(bytes).ok().filter(|_| allowed);
    size.ok_or_else(|| {
        format!("{} is out of range: expected {LEAST_PACKET} to {LARGEST_PACKET} bytes", quoted(text))
    })
}

/// The smallest budget of a connection: a CONNECT of usual size and the question about it.
pub(in crate::config) const LEAST_BUDGET: u64 = 64 << 10;

/// Bytes that may be held.
pub(in crate::config) fn budget(text: &str) -> Result<usize, String> {
    let size = usize::try_from(bytes(text)?).ok().filter(|size| *size as u64 >= LEAST_BUDGET);
    size.ok_or_else(|| format!("{} is too small: expected at least 64KiB", quoted(text)))
}

/// Bytes that are kept, or 0.
pub(in crate::config) fn memory(text: &str) -> Result<usize, String> {
    usize::try_from(bytes(text)?).map_err(|_| format!("{} is too large", quoted(text)))
}

/// Bytes a second, more than none.
pub(in crate::config) fn throughput(text: &str) -> Result<usize, String> {
    memory(text)
        .and_then(|bytes| if bytes > 0 { Ok(bytes) } else { Err("must be greater than zero".to_owned()) })
}

fn bytes(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("{} is not a size: expected bytes, or a number with B, KiB, MiB or GiB", quoted(text));
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    // Digits are ASCII, so this cuts between two characters.
    let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
    let unit: u64 = match text[digits..].trim_start() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(wrong()),
    };
    number.checked_mul(unit).ok_or_else(wrong)
}

/// Longer than anybody waits, and far from overflowing a clock.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// `250ms`, `1s`, `2m`, `1h`, or several of them, `1m30s`.
pub(in crate::config) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || {
        format!(
            "{} is not a duration: expected a number with ms, s, m or h, for example 250ms or 1m30s",
            quoted(text)
        )
    };
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let letters = rest[digits..].bytes().take_while(u8::is_ascii_lowercase).count();
        let number: u32 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit = match &rest[digits..digits + letters] {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(60 * 60),
            _ => return Err(wrong()),
        };
        // Saturating: what is far too long is told below, as what is too long.
        sum = sum.saturating_add(unit.saturating_mul(number));
        rest = &rest[digits + letters..];
    }
    if text.is_empty() {
        return Err(wrong());
    }
    if sum > LONGEST { Err(format!("{} is too long: expected at most 24h", quoted(text))) } else { Ok(sum) }
}

/// A duration to wait at most; with none at all nobody could connect.
pub(in crate::config) fn deadline(text: &str) -> Result<Duration, String> {
    let duration = duration(text)?;
    if duration.is_zero() { Err("must be greater than zero".to_owned()) } else { Ok(duration) }
}

/// What MQTT counts in seconds: a plain number of them, or a duration.
fn seconds(text: &str) -> Result<u32, String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text
            .parse()
            .map_err(|_| format!("{} is out of range: expected at most 4294967295 seconds", quoted(text)));
    }
    u32::try_from(duration(text)?.as_secs())
        .map_err(|_| format!("{} is out of range: expected at most 4294967295 seconds", quoted(text)))
}

/// The longest keep alive: from 1 to 65535 seconds.
pub(in crate::config) fn keep_alive(text: &str) -> Result<u16, String> {
    let keep_alive = u16::try_from(seconds(text)?).ok().filter(|seconds| *seconds > 0);
    keep_alive.ok_or_else(|| format!("{} is out of range: expected 1 to 65535 seconds", quoted(text)))
}

/// How long sessions may outlast their connections.
pub(in crate::config) fn session_expiry(text: &str) -> Result<u32, String> {
    seconds(text)
}
