//! Calls the admin API of a running mproxy, for commands that ask it something: one request over one connection. The
//! settings that say where mproxy serves it say where to ask.

mod connection;
mod events;
mod place;
mod socket;

use std::fmt::Write as _;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;
use thiserror::Error;

use self::connection::{Call, HttpAnswer};
pub(super) use self::events::{EventReader, ServerEvent};
use self::place::AdminPlace;
use super::text::printable;
use super::{complain, load};
use crate::config::{Flags, Problems};

/// Ends with this what could not be asked, or could not be done.
pub const EXIT_UNANSWERED: u8 = 2;

/// How long an answer may take. mproxy itself gives each of its steps so long.
const USUAL_DEADLINE: Duration = Duration::from_secs(15);

/// How long nothing may come of a tap: mproxy says something every ten seconds.
const SILENCE: Duration = Duration::from_secs(35);

/// What was answered.
pub(super) struct AdminAnswer {
    pub(super) status: u16,
    pub(super) body: Value,
}

impl AdminAnswer {
    fn read(answer: &HttpAnswer) -> Option<Self> {
        let body = match answer.body.as_slice() {
            [] => Value::Null,
            body => serde_json::from_slice(body).ok()?,
        };
        Some(Self { status: answer.status, body })
    }

    /// The error in it, if it is one.
    fn error(&self) -> Option<AdminCallError> {
        if (200..300).contains(&self.status) {
            return None;
        }
        let told = self.body.get("detail").and_then(Value::as_str);
        let detail = printable(told.unwrap_or("no reason given")).into_owned();
        Some(AdminCallError::Refused { status: self.status, detail, problem: self.body.clone() })
    }
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub(super) enum AdminCallError {
    /// The configuration that says where to ask is wrong.
    #[error("{0}")]
    Configuration(Problems),
    /// The configuration has no port.
    #[error(
        "admin.port is 0, which means any free port: say with --admin-port (MPROXY_ADMIN_PORT) which one to ask"
    )]
    NoPort,
    /// A file that is needed to reach it.
    #[error("{0}")]
    File(String),
    /// Nobody is there, or does not answer, or something else is there.
    #[error("cannot ask the admin API at {place}: {error}{}", next_step(error))]
    Unreachable { place: String, error: io::Error },
    /// It has answered, and not what was asked for.
    #[error("the admin API refuses the question: {detail} (HTTP {status}){}", remedy(*status, detail))]
    Refused {
        status: u16,
        detail: String,
        /// The answer as it came.
        problem: Value,
    },
    /// Nobody has said that it is meant.
    #[error("{0}")]
    NotConfirmed(String),
    /// There is nowhere to draw.
    #[error("mproxy top needs a terminal; --once prints what there is to see as text")]
    NoTerminal,
    /// Standard output takes nothing.
    #[error("cannot write the answer: {0}")]
    Output(#[from] io::Error),
}

/// What to do about an mproxy that does not answer.
fn next_step(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => {
            ". Is mproxy running there? --url, or --admin-host and --admin-port (MPROXY_ADMIN_URL, MPROXY_ADMIN_HOST, MPROXY_ADMIN_PORT), say where to ask"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            ". If it asks for client certificates: --cert and --key (MPROXY_ADMIN_URL_CERT, MPROXY_ADMIN_URL_KEY) say which one to present"
        }
        _ => "",
    }
}

/// What to do about an answer that is a refusal, where that does not say so itself.
fn remedy(status: u16, detail: &str) -> &'static str {
    match status {
        401 => {
            ". Set MPROXY_ADMIN_TOKEN (or admin.token in the configuration file) to the token of that mproxy"
        }
        404 if detail == "not found" => ". That mproxy does not have this call: its version is another one",
        _ => "",
    }
}

impl AdminCallError {
    /// Says it on `err`, and how the process ends.
    ///
    /// # Errors
    /// Where `err` cannot be written to; and where standard output was the trouble, that.
    pub(super) fn tell(self, err: &mut impl Write) -> io::Result<ExitCode> {
        match self {
            Self::Configuration(problems) => complain(&problems, err)?,
            Self::Output(error) => return Err(error),
            other => writeln!(err, "mproxy: {other}")?,
        }
        Ok(ExitCode::from(EXIT_UNANSWERED))
    }
}

/// Whom to ask.
#[derive(Clone)]
pub(super) struct AdminClient {
    place: AdminPlace,
    deadline: Duration,
}

impl AdminClient {
    /// The mproxy that the settings name.
    pub(super) fn new(flags: &Flags) -> Result<Self, AdminCallError> {
        let config = load(flags).map_err(AdminCallError::Configuration)?.config;
        Ok(Self { place: AdminPlace::of(config)?, deadline: USUAL_DEADLINE })
    }

    /// An answer may take so long.
    pub(super) const fn within(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Where it is, for people.
    pub(super) fn place(&self) -> String {
        self.place.shown()
    }

    /// What is answered, whatever it is.
    pub(super) fn exchange(
        &self,
        method: &str,
        target: &str,
        body: Option<&Value>,
    ) -> Result<HttpAnswer, AdminCallError> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let call = Call { place: &self.place, method, target, body: &body, deadline: self.deadline };
        call.answer().map_err(|error| self.unreachable(error))
    }

    /// What is answered in JSON, where that is no error.
    pub(super) fn ask(
        &self,
        method: &str,
        target: &str,
        body: Option<&Value>,
    ) -> Result<AdminAnswer, AdminCallError> {
        let answer = self.exchange(method, target, body)?;
        self.read(&answer)
    }

    /// Events as they come, until one of both sides ends them.
    pub(super) fn events(&self, target: &str) -> Result<EventReader, AdminCallError> {
        let call = Call { place: &self.place, method: "GET", target, body: "", deadline: self.deadline };
        let (status, mut body, mut answer) = call.long_answer().map_err(|error| self.unreachable(error))?;
        if status == 200 {
            return Ok(EventReader::new(answer, body, SILENCE));
        }
        // Why not: a short text.
        while body.len() < 64 << 10 {
            match answer.read_part(self.deadline).map_err(|error| self.unreachable(error))? {
                [] => break,
                part => body.extend_from_slice(part),
            }
        }
        self.read(&HttpAnswer { status, body }).and_then(|_| Err(self.not_ours()))
    }

    /// An answer in JSON that is no error.
    fn read(&self, answer: &HttpAnswer) -> Result<AdminAnswer, AdminCallError> {
        let answer = AdminAnswer::read(answer).ok_or_else(|| self.not_ours())?;
        answer.error().map_or(Ok(answer), Err)
    }

    /// It answers, and says something that we do not understand.
    pub(super) fn not_ours(&self) -> AdminCallError {
        self.unreachable(connection::not_ours())
    }

    pub(super) fn unreachable(&self, error: io::Error) -> AdminCallError {
        AdminCallError::Unreachable { place: self.place(), error }
    }
}

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
    match AdminClient::new(flags).and_then(|client| client.ask(method, target, body)) {
        Ok(answer) => Ok(Ok(answer)),
        Err(error) => error.tell(err).map(Err),
    }
}

/// A query of these parameters, those that have a value.
pub(super) fn query(parameters: &[(&str, Option<&str>)]) -> String {
    let mut query = String::new();
    for (name, value) in parameters {
        let Some(value) = value else { continue };
        query.push(if query.is_empty() { '?' } else { '&' });
        query.push_str(name);
        query.push('=');
        query.push_str(&escaped(value));
    }
    query
}

/// A value in an address: nothing in it ends it.
pub(super) fn escaped(value: &str) -> String {
    value.bytes().fold(String::with_capacity(value.len()), |mut text, byte| {
        match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'.' | b'_' | b'~' => text.push(byte.into()),
            // Writing to a String cannot fail.
            other => drop(write!(text, "%{other:02X}")),
        }
        text
    })
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
    fn a_refusal_says_what_to_do_and_steers_no_terminal() {
        let refused = |status, body: &str| {
            let answer = HttpAnswer { status, body: body.as_bytes().to_vec() };
            AdminAnswer::read(&answer)?.error().map(|error| error.to_string())
        };
        let told = refused(401, r#"{"detail":"bearer token required"}"#).expect("an error");
        assert!(told.contains("bearer token required (HTTP 401). Set MPROXY_ADMIN_TOKEN"), "{told}");
        let told = refused(400, r#"{"detail":"a\u001b[2Jb"}"#).expect("an error");
        assert!(told.ends_with("a\\u{1b}[2Jb (HTTP 400)"), "{told}");
        assert!(refused(404, r#"{"detail":"not found"}"#).is_some_and(|told| told.contains("version")));
        assert_eq!(refused(204, ""), None);
        assert_eq!(refused(500, "<html>"), None, "that is no answer of ours");
    }
}
