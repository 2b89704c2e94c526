//! Text to typed values. Each reader says what it would have taken; none repeats a secret.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use hyper::http::uri::PathAndQuery;
use mproxy_policy::Endpoint;
use mproxy_tcp::tls::Verification;

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
    match text.char_indices().nth(ENOUGH) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// Where Kubernetes sets addresses, `tcp://10.0.0.1:1883`.
pub(super) fn is_service_link(text: &str) -> bool {
    ["tcp://", "udp://", "sctp://"].iter().any(|scheme| text.starts_with(scheme))
}

fn port(text: &str) -> Result<u16, String> {
    if is_service_link(text) {
        return Err(format!(
            "{} is not a port but a service address, which Kubernetes sets in every pod for a service of this \
             name: set `enableServiceLinks: false` in the pod spec",
            quoted(text)
        ));
    }
    text.parse()
        .map_err(|_| format!("{} is not a port: expected a whole number from 0 to 65535", quoted(text)))
}

/// A port to bind. 0 takes any free one.
pub(super) fn bind_port(text: &str) -> Result<u16, String> {
    port(text)
}

/// The same, or `off`, which opens none.
pub(super) fn port_or_off(text: &str) -> Result<Option<u16>, String> {
    if text.eq_ignore_ascii_case("off") { Ok(None) } else { port(text).map(Some) }
}

/// A port to connect to.
pub(super) fn target_port(text: &str) -> Result<u16, String> {
    match port(text)? {
        0 => Err("port 0 cannot be connected to: expected a whole number from 1 to 65535".to_owned()),
        port => Ok(port),
    }
}

/// An address or host name to bind or to connect to; an IPv6 address may have its brackets. One of a single link has to
/// say of which, `fe80::1%eth0`: without that the system knows no way to it.
pub(super) fn host(text: &str) -> Result<String, String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let (address, zone) = match bare.split_once('%') {
        Some((address, zone)) => (address, Some(zone)),
        None => (bare, None),
    };
    let is_of_link = address.parse::<Ipv6Addr>().is_ok_and(|ip| ip.is_unicast_link_local());
    match zone {
        Some(zone) if is_of_link && is_interface(zone) => Ok(bare.to_owned()),
        None if is_of_link => {
            Err(format!("{} is link-local and needs its interface, for example {address}%eth0", quoted(text)))
        }
        Some(_) if address.parse::<IpAddr>().is_ok() => Err(format!(
            "{} names an interface, which only a link-local IPv6 address can have, for example fe80::1%eth0",
            quoted(text)
        )),
        Some(_) | None => name(text),
    }
}

/// What an interface may be called: Linux allows 15 bytes.
fn is_interface(zone: &str) -> bool {
    (1..=15).contains(&zone.len())
        && zone.bytes().all(|byte| byte.is_ascii_graphic() && !b"/%]".contains(&byte))
}

/// An address or host name as a certificate or a URL has it, without an interface.
pub(super) fn name(text: &str) -> Result<String, String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let is_name_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let is_name = !bare.is_empty() && bare.len() <= 253 && bare.chars().all(is_name_char);
    if bare.parse::<IpAddr>().is_ok() || (is_name && bare == text) {
        return Ok(bare.to_owned());
    }
    Err(format!("{} is not an address or host name (expected without scheme, port or path)", quoted(text)))
}

/// What is asked of a WebSocket broker: a path, and perhaps a query behind it.
pub(super) fn path(text: &str) -> Result<String, String> {
    // What HTTP's own parser does not take could never be sent, nor would it come.
    let parsed = text.parse::<PathAndQuery>().is_ok_and(|parsed| parsed.as_str() == text);
    if text.starts_with('/') && parsed && text.chars().all(|c| c.is_ascii_graphic() && c != '#') {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{} is not a path: it must start with / and have no spaces; write what a URL cannot hold as %20",
        quoted(text)
    ))
}

/// The path of a WebSocket listener, which is what requests are compared with.
pub(super) fn own_path(text: &str) -> Result<String, String> {
    if let Some((before, _)) = text.split_once('?') {
        return Err(format!(
            "{} can never match: requests are compared without their query, write {} instead",
            quoted(text),
            quoted(before)
        ));
    }
    path(text)
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

/// The smallest packet bound that still lets the shortest CONNECT through.
pub(super) const LEAST_PACKET: u64 = 16;

/// The largest packet there is: four bytes of length, and the fixed header.
pub(super) const LARGEST_PACKET: u64 = 268_435_460;

/// Bytes of a packet, plain or as `256KiB`, `1MiB`.
pub(super) fn packet_size(text: &str) -> Result<u32, String> {
    let bytes = bytes(text)?;
    let allowed = (LEAST_PACKET..=LARGEST_PACKET).contains(&bytes);
    let size = u32::try_from(bytes).ok().filter(|_| allowed);
    size.ok_or_else(|| {
        format!("{} is out of range: expected {LEAST_PACKET} to {LARGEST_PACKET} bytes", quoted(text))
    })
}

/// The smallest budget of a connection: a CONNECT of usual size and the question about it.
pub(super) const LEAST_BUDGET: u64 = 64 << 10;

/// Bytes that may be held.
pub(super) fn budget(text: &str) -> Result<usize, String> {
    let size = usize::try_from(bytes(text)?).ok().filter(|size| *size as u64 >= LEAST_BUDGET);
    size.ok_or_else(|| format!("{} is too small: expected at least 64KiB", quoted(text)))
}

fn bytes(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("{} is not a size: expected bytes, or a number with B, KiB, MiB or GiB", quoted(text));
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
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
pub(super) fn duration(text: &str) -> Result<Duration, String> {
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
        sum = sum.saturating_add(unit.saturating_mul(number));
        rest = &rest[digits + letters..];
    }
    if text.is_empty() {
        return Err(wrong());
    }
    if sum > LONGEST { Err(format!("{} is too long: expected at most 24h", quoted(text))) } else { Ok(sum) }
}

/// A duration to wait at most; with none at all nobody could connect.
pub(super) fn deadline(text: &str) -> Result<Duration, String> {
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
pub(super) fn keep_alive(text: &str) -> Result<u16, String> {
    let keep_alive = u16::try_from(seconds(text)?).ok().filter(|seconds| *seconds > 0);
    keep_alive.ok_or_else(|| format!("{} is out of range: expected 1 to 65535 seconds", quoted(text)))
}

/// How long sessions may outlast their connections.
pub(super) fn session_expiry(text: &str) -> Result<u32, String> {
    seconds(text)
}

/// Addresses of a policy service, tried in turn.
pub(super) fn policy_urls(text: &str) -> Result<Vec<String>, String> {
    text.split(',').map(|url| policy_url(url.trim())).collect()
}

fn policy_url(url: &str) -> Result<String, String> {
    // A slash behind the port is what many write, and says nothing.
    let is_web = url.starts_with("http://") || url.starts_with("https://");
    let url = url.strip_suffix('/').filter(|_| is_web).unwrap_or(url);
    // Read by whoever connects to it later, so that nothing passes here that fails there.
    let endpoint: Endpoint = url.parse().map_err(|_| no_policy_url(url))?;
    let authority = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    if authority.is_some_and(|authority| !is_authority(authority)) {
        return Err(no_policy_url(url));
    }
    Ok(match url.strip_prefix("unix://") {
        Some(path) => format!("unix:{path}"),
        None => endpoint.to_string(),
    })
}

/// Does not repeat what might be a user name and password.
fn no_policy_url(url: &str) -> String {
    const FORMS: &str = "http://host:port, https://host:port or unix:/path";
    if url.contains('@') {
        return format!("must not have a user name and password: expected {FORMS}");
    }
    format!("{} is not a policy URL: expected {FORMS}", quoted(url))
}

fn is_authority(text: &str) -> bool {
    let name_and_port = match text.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => target_port(port).map(|_| name).ok(),
        _ => Some(text),
    };
    name_and_port.is_some_and(|host| name(host).is_ok() && (host.starts_with('[') || !host.contains(':')))
}

/// Where OpenTelemetry data goes.
pub(super) fn otlp_endpoint(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let authority = rest.map(|rest| rest.split('/').next().unwrap_or(rest));
    if authority.is_some_and(is_authority) {
        return Ok(text.to_owned());
    }
    Err("is not an OTLP endpoint: expected http://host:port or https://host:port".to_owned())
}

/// The samplers of the OpenTelemetry standard.
pub(super) const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];

/// One of [`SAMPLERS`].
pub(super) fn sampler(text: &str) -> Result<String, String> {
    if SAMPLERS.contains(&text) {
        return Ok(text.to_owned());
    }
    Err(format!("{} is not one of: {}", quoted(text), SAMPLERS.join(", ")))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        for wrong in ["", "5", "s", "1 s", "1.5s", "-1s", "1d", "25h", "99999999999s", "1s "] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
        assert!(deadline("0ms").is_err());
    }

    #[test]
    fn what_mqtt_counts_in_seconds_may_be_written_so() {
        assert_eq!((keep_alive("90"), keep_alive("1m30s")), (Ok(90), Ok(90)));
        assert_eq!((session_expiry("0"), session_expiry("604800")), (Ok(0), Ok(604_800)));
        for wrong in ["", "0", "0s", "65536", "20h", "-1", "x"] {
            assert!(keep_alive(wrong).is_err(), "{wrong:?}");
        }
        assert!(session_expiry("4294967296").is_err());
    }

    #[test]
    fn sizes_are_plain_or_binary() {
        assert_eq!(packet_size("256KiB"), Ok(256 << 10));
        assert_eq!(packet_size("1 MiB"), Ok(1 << 20));
        assert_eq!(packet_size("268435460"), Ok(268_435_460));
        for wrong in
            ["", "KiB", "1kb", "15", "268435461", "1GiB", "99999999999999999999", "18014398509481984KiB"]
        {
            assert!(packet_size(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn hosts_are_addresses_or_names() {
        assert_eq!(host("[::1]").as_deref(), Ok("::1"));
        for right in ["0.0.0.0", "::", "broker-0.mqtt_ns.svc", "localhost"] {
            assert_eq!(host(right).as_deref(), Ok(right));
        }
        for link in ["fe80::1%eth0", "fe80::1%2", "febf::1%br-0.7"] {
            assert_eq!(host(link).as_deref(), Ok(link));
            assert_eq!(host(&format!("[{link}]")).as_deref(), Ok(link));
            assert!(name(link).is_err(), "{link}");
        }
        for wrong in ["fe80::1", "fe80::1%", "fe80::1%a/b", "::1%eth0", "10.0.0.1%eth0", "broker%eth0"] {
            assert!(host(wrong).is_err(), "{wrong:?}");
        }
        for wrong in ["", "a b", "mqtt://broker", "broker:1883", "[broker]", "bröker", "a/b"] {
            assert!(host(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_path_that_no_request_could_match_is_told() {
        for right in ["/", "/mqtt", "/a/b-c_d~", "/%20"] {
            assert_eq!((own_path(right).as_deref(), path(right).as_deref()), (Ok(right), Ok(right)));
        }
        assert_eq!(path("/mqtt?x=1").as_deref(), Ok("/mqtt?x=1"));
        let told = own_path("/mqtt?x=1").expect_err("a query is never compared");
        assert!(told.contains("write \"/mqtt\" instead"), "{told}");
        for wrong in ["", "mqtt", "/a b", "/a#b", "/a<b", "/\u{e9}", "*"] {
            assert!(own_path(wrong).is_err() && path(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn policy_urls_have_three_forms() {
        assert_eq!(
            policy_urls("http://a:1, https://[::1]:2/,unix:///run/p.sock"),
            Ok(vec!["http://a:1".into(), "https://[::1]:2".into(), "unix:/run/p.sock".into()])
        );
        for wrong in [
            "",
            "a:1",
            "http://",
            "http://a:0",
            "http://a:1/p",
            "http://a:1,",
            "unix:p",
            "http://::1:2",
            "http://a",
            "http://[fe80::1%eth0]:1",
            "ftp://a:1",
        ] {
            assert!(policy_urls(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_password_in_a_url_is_not_repeated() {
        let error = policy_urls("http://me:hunter2@host:1").expect_err("refused");
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn long_values_are_cut_when_repeated() {
        assert!(quoted(&"ü".repeat(1000)).chars().count() < 90);
    }
}
