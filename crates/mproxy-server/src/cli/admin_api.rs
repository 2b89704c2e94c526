//! Calls the admin API of a running mproxy, for commands that ask it something: one request over one connection. The
//! settings that say where mproxy serves it say where to ask.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use super::{EXIT_CONFIGURATION, complain, load};
use crate::config::{Admin, Flags, authority};

/// How long each step may take: connecting, writing, reading.
const STEP: Duration = Duration::from_secs(10);

/// The largest answer that is read; the API's pages end at about 1 MiB.
const LARGEST_ANSWER: u64 = 16 << 20;

/// What was answered.
pub(super) struct AdminAnswer {
    pub(super) status: u16,
    pub(super) body: Value,
}

impl AdminAnswer {
    /// The error in it, if it is one.
    pub(super) fn error(&self) -> Option<String> {
        if (200..300).contains(&self.status) {
            return None;
        }
        let told = self.body.get("detail").and_then(Value::as_str).unwrap_or("no reason given");
        Some(format!("{told} (HTTP {})", self.status))
    }
}

/// Ends with this where it could not be asked.
const EXIT_UNANSWERED: u8 = 2;

/// Asks the mproxy that the settings name, and tells why where that brings no answer.
///
/// # Errors
/// Where `err` cannot be written to.
pub(super) fn ask(
    flags: &Flags,
    method: &str,
    target: &str,
    body: Option<&Value>,
    err: &mut impl Write,
) -> io::Result<Result<AdminAnswer, ExitCode>> {
    let admin = match load(flags) {
        Ok(loaded) => loaded.config.admin,
        Err(problems) => {
            complain(&problems, err)?;
            return Ok(Err(ExitCode::from(EXIT_CONFIGURATION)));
        }
    };
    let told = match call(&admin, method, target, body) {
        Ok(answer) => match answer.error() {
            None => return Ok(Ok(answer)),
            Some(error) => format!("the admin API refuses the question: {error}"),
        },
        Err(error) => {
            let place = authority(&admin.host, admin.port);
            format!("cannot ask the admin API at {place}: {error}")
        }
    };
    writeln!(err, "mproxy: {told}")?;
    Ok(Err(ExitCode::from(EXIT_UNANSWERED)))
}

/// Asks for this, with a body if there is one.
///
/// # Errors
/// It could not be reached, or has not answered in HTTP.
fn call(admin: &Admin, method: &str, target: &str, body: Option<&Value>) -> io::Result<AdminAnswer> {
    let host = reachable(&admin.host);
    let stream = connect(&host, admin.port)?;
    let mut request = format!(
        // 1.0: the answer is as long as its connection, and never in chunks.
        "{method} {target} HTTP/1.0\r\nHost: {}\r\nConnection: close\r\n",
        authority(&host, admin.port)
    );
    if let Some(token) = &admin.token {
        // Writing to a String cannot fail.
        let _ = write!(request, "Authorization: Bearer {}\r\n", token.expose());
    }
    let body = body.map(Value::to_string).unwrap_or_default();
    if !body.is_empty() {
        let _ = write!(request, "Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    }
    request.push_str("\r\n");
    request.push_str(&body);
    (&stream).write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(LARGEST_ANSWER).read_to_end(&mut answer)?;
    read(&answer)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it does not answer in HTTP with JSON"))
}

/// Where to reach whoever listens at this address.
fn reachable(host: &str) -> String {
    match host.parse() {
        Ok(IpAddr::V4(Ipv4Addr::UNSPECIFIED)) => Ipv4Addr::LOCALHOST.to_string(),
        Ok(IpAddr::V6(Ipv6Addr::UNSPECIFIED)) => Ipv6Addr::LOCALHOST.to_string(),
        Ok(_) | Err(_) => host.to_owned(),
    }
}

fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, STEP) {
            Ok(stream) => {
                stream.set_read_timeout(Some(STEP))?;
                stream.set_write_timeout(Some(STEP))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn read(answer: &[u8]) -> Option<AdminAnswer> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let (head, body) = answer.split_at_checked(end + 4)?;
    let head = std::str::from_utf8(head).ok()?;
    let status = head.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()?;
    let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(body).ok()? };
    Some(AdminAnswer { status, body })
}

/// A query of these parameters, those that have a value.
pub(super) fn query(parameters: &[(&str, Option<&str>)]) -> String {
    let mut query = String::new();
    for (name, value) in parameters {
        let Some(value) = value else { continue };
        query.push(if query.is_empty() { '?' } else { '&' });
        query.push_str(name);
        query.push('=');
        for byte in value.bytes() {
            match byte {
                b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'.' | b'_' | b'~' => {
                    query.push(byte.into())
                }
                // Writing to a String cannot fail.
                other => drop(write!(query, "%{other:02X}")),
            }
        }
    }
    query
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_has_what_is_given_and_nothing_in_it_ends_it() {
        let parameters = [("client_id", Some("a b&c=é/#")), ("since", None), ("limit", Some("5"))];
        assert_eq!(query(&parameters), "?client_id=a%20b%26c%3D%C3%A9%2F%23&limit=5");
        assert_eq!(query(&[("a", None)]), "");
    }

    #[test]
    fn an_answer_is_read_and_something_else_is_none() {
        let answer = read(b"HTTP/1.1 403 Forbidden\r\nx: y\r\n\r\n{\"detail\":\"no\"}").expect("an answer");
        assert_eq!(answer.error().as_deref(), Some("no (HTTP 403)"));
        let answer = read(b"HTTP/1.0 200 OK\r\n\r\n{}").expect("an answer");
        assert_eq!(answer.error(), None);
        for other in [&b""[..], b"\x20\x02\0\x05", b"HTTP/1.1 200 OK\r\n\r\nhello", b"HTTP/1.1\r\n\r\n{}"] {
            assert!(read(other).is_none(), "{other:?}");
        }
    }

    #[test]
    fn who_listens_everywhere_is_asked_here() {
        assert_eq!(reachable("0.0.0.0"), "127.0.0.1");
        assert_eq!(reachable("::"), "::1");
        assert_eq!(reachable("mproxy.internal"), "mproxy.internal");
    }
}
