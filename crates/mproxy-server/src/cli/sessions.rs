//! `mproxy sessions` and `mproxy session`: who is connected.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::SystemTime;

use clap::Args;
use serde_json::Value;
use uuid::Uuid;

use super::admin_api::{AdminCallError, AdminClient, escaped, query};
use super::outline::outline;
use super::table::{Column, Table};
use super::text::{json_line, one_line};
use super::{units, words};
use crate::config::Flags;

/// No session is meant.
const EXIT_NONE: u8 = 1;

/// The largest page that the API gives.
const LARGEST_PAGE: usize = 1000;

/// Which sessions are meant.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionSelectors {
    /// Only this client id
    #[arg(long, value_name = "ID")]
    client_id: Option<String>,
    /// Only clients with this user name
    #[arg(long, value_name = "NAME")]
    username: Option<String>,
    /// Only clients of this listener
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// Only clients from this address or network: 10.0.0.0/8
    #[arg(long, value_name = "NETWORK")]
    address: Option<String>,
    /// Only sessions in this state
    #[arg(long, value_name = "STATE", value_parser = words::STATES)]
    state: Option<String>,
    /// Only clients to which the hook service gave this attribute
    #[arg(long, value_name = "KEY=VALUE")]
    attribute: Option<String>,
    /// Only clients that are subscribed to this filter, or to one that matches this topic
    #[arg(long, value_name = "TOPIC")]
    subscribed: Option<String>,
}

impl SessionSelectors {
    /// As parameters of the API.
    pub(super) fn parameters(&self) -> Vec<(&'static str, Option<&str>)> {
        let Self { client_id, username, listener, address, state, attribute, subscribed } = self;
        vec![
            ("client_id", client_id.as_deref()),
            ("username", username.as_deref()),
            ("listener", listener.as_deref()),
            ("address", address.as_deref()),
            ("state", state.as_deref()),
            ("attribute", attribute.as_deref()),
            ("subscribed", subscribed.as_deref()),
        ]
    }

    /// Those of this client.
    pub(super) fn of_client(client_id: &str) -> Self {
        Self { client_id: Some(client_id.to_owned()), ..Self::default() }
    }
}

/// What is asked.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct SessionsCommand {
    #[command(flatten)]
    selectors: SessionSelectors,
    /// In this order
    #[arg(long, value_name = "ORDER", value_parser = words::ORDERS)]
    sort: Option<String>,
    /// Most sessions to show; 0: all
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    limit: usize,
    /// Print each session as the admin API shows it, one JSON object in a line
    #[arg(long)]
    json: bool,
}

const COLUMNS: [Column; 11] = [
    Column::left("CLIENT", 40),
    Column::left("USER", 24),
    Column::left("LISTENER", 16),
    Column::left("FROM", 48),
    Column::left("MQTT", 8),
    Column::left("STATE", 10),
    Column::right("AGE"),
    Column::right("SENT"),
    Column::right("RECEIVED"),
    Column::right("PACKETS"),
    Column::left("CONNECTION", 36),
];

/// `mproxy sessions`: 0 where there are some, 1 where there are none, 2 where it could not be asked.
pub(super) fn list_sessions(
    command: &SessionsCommand,
    flags: &Flags,
    out: &mut impl Write,
) -> Result<ExitCode, AdminCallError> {
    let client = AdminClient::new(flags)?;
    let mut pages =
        SessionPages::new(&client, &command.selectors, command.limit).sorted(command.sort.as_deref());
    let (mut table, now, mut shown) = (Table::new(&COLUMNS), SystemTime::now(), 0_usize);
    while let Some(sessions) = pages.next_page()? {
        for session in sessions {
            shown += 1;
            if command.json {
                writeln!(out, "{}", json_line(&session.to_string()))?
            } else {
                table.add(row(&session, now))
            }
        }
    }
    if shown == 0 {
        if !command.json {
            writeln!(out, "no session matches")?;
        }
        return Ok(ExitCode::from(EXIT_NONE));
    }
    if !command.json {
        table.write("", out)?;
        if pages.more {
            writeln!(out, "there are more; --limit 0 shows all")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn row(session: &Value, now: SystemTime) -> [String; 11] {
    let text = |key: &str| session[key].as_str().unwrap_or("-").to_owned();
    let count = |key: &str| session["traffic"][key].as_u64().unwrap_or_default();
    let age = session["connected_since"].as_str().and_then(|since| units::age(since, now));
    [
        client_name(session),
        text("username"),
        text("listener"),
        text("peer_addr"),
        text("protocol"),
        text("phase"),
        age.unwrap_or_else(|| "-".into()),
        units::bytes(count("client_bytes")),
        units::bytes(count("broker_bytes")),
        (count("client_packets") + count("broker_packets")).to_string(),
        text("connection_id"),
    ]
}

/// Its client id; a client may also have an empty one, or none yet.
pub(super) fn client_name(session: &Value) -> String {
    match session["client_id"].as_str() {
        Some("") => "\"\"".to_owned(),
        Some(id) => id.to_owned(),
        None => "-".to_owned(),
    }
}

/// Sessions, page by page.
pub(super) struct SessionPages<'a> {
    client: &'a AdminClient,
    selectors: &'a SessionSelectors,
    order: Option<&'a str>,
    /// How many may still come; `None`: all.
    left: Option<usize>,
    next: NextPage,
    /// There were more than were asked for.
    pub(super) more: bool,
}

enum NextPage {
    First,
    After(String),
    Nowhere,
}

impl<'a> SessionPages<'a> {
    /// At most `limit` of them; 0: all.
    pub(super) const fn new(client: &'a AdminClient, selectors: &'a SessionSelectors, limit: usize) -> Self {
        let left = if limit == 0 { None } else { Some(limit) };
        Self { client, selectors, order: None, left, next: NextPage::First, more: false }
    }

    /// In this order, as the API calls it.
    pub(super) const fn sorted(mut self, order: Option<&'a str>) -> Self {
        self.order = order;
        self
    }

    /// The next page; `None` behind the last one.
    pub(super) fn next_page(&mut self) -> Result<Option<Vec<Value>>, AdminCallError> {
        let size = self.left.unwrap_or(LARGEST_PAGE).min(LARGEST_PAGE);
        let after = match &self.next {
            NextPage::First => None,
            NextPage::After(cursor) => Some(cursor.as_str()),
            NextPage::Nowhere => return Ok(None),
        };
        if size == 0 {
            self.more = true;
            return Ok(None);
        }
        let size_shown = size.to_string();
        let mut parameters = self.selectors.parameters();
        parameters.extend([("sort", self.order), ("limit", Some(size_shown.as_str())), ("after", after)]);
        let target = format!("/api/v1/sessions{}", query(&parameters));
        let mut page = self.client.ask("GET", &target, None)?.body;
        let Value::Array(sessions) = page["sessions"].take() else {
            return Err(self.client.not_ours());
        };
        self.next = page["next"].as_str().map_or(NextPage::Nowhere, |next| NextPage::After(next.to_owned()));
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(sessions.len());
        }
        Ok(Some(sessions))
    }

    /// All of them.
    pub(super) fn all(mut self) -> Result<Vec<Value>, AdminCallError> {
        let mut all = Vec::new();
        while let Some(page) = self.next_page()? {
            all.extend(page);
        }
        Ok(all)
    }
}

/// What is asked.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct SessionArgs {
    /// Connection id, or client id
    id: String,
    /// Print the answer of the admin API as it is
    #[arg(long)]
    json: bool,
}

/// `mproxy session`: 0 where there is one, 1 where there is none, 2 where it could not be asked.
pub(super) fn show_session(
    command: &SessionArgs,
    flags: &Flags,
    out: &mut impl Write,
) -> Result<ExitCode, AdminCallError> {
    let client = AdminClient::new(flags)?;
    let found = sessions_of(&client, &command.id)?;
    // Two of one client id: the older one is about to be taken over.
    let newest = found.into_iter().max_by_key(|session| session["epoch"].as_u64());
    let detail = match newest.as_ref().and_then(|session| session["connection_id"].as_str()) {
        Some(id) => session_of(&client, id)?,
        None => None,
    };
    let Some(session) = detail else {
        writeln!(out, "no session of {:?}", command.id)?;
        return Ok(ExitCode::from(EXIT_NONE));
    };
    if command.json {
        writeln!(out, "{}", json_line(&session.to_string()))?;
    } else {
        outline(&session, SystemTime::now(), out)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The session of this connection, if there is one.
fn session_of(client: &AdminClient, connection_id: &str) -> Result<Option<Value>, AdminCallError> {
    match client.ask("GET", &format!("/api/v1/sessions/{}", escaped(connection_id)), None) {
        Ok(answer) => Ok(Some(answer.body)),
        Err(AdminCallError::Refused { status: 404, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The sessions that have this as their connection id, or else as their client id: that may look like the other.
pub(super) fn sessions_of(client: &AdminClient, id: &str) -> Result<Vec<Value>, AdminCallError> {
    if Uuid::parse_str(id).is_ok()
        && let Some(session) = session_of(client, id)?
    {
        return Ok(vec![session]);
    }
    SessionPages::new(client, &SessionSelectors::of_client(id), 0).all()
}

/// A line that names a session to a person.
pub(super) fn write_name(session: &Value, out: &mut impl Write) -> io::Result<()> {
    let text = |key: &str| session[key].as_str().unwrap_or("-");
    let (user, from, id) = (text("username"), text("peer_addr"), text("connection_id"));
    writeln!(
        out,
        "  {} (user {}, from {from}, connection {id})",
        one_line(&client_name(session)),
        one_line(user)
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_has_human_units_and_what_is_absent_is_a_dash() {
        let session = json!({
            "client_id": "desk", "listener": "mqtt", "peer_addr": "127.0.0.1:5", "protocol": "5.0", "phase": "open",
            "connected_since": "1970-01-01T00:00:00.000Z", "connection_id": "id",
            "traffic": { "client_packets": 2, "client_bytes": 2048, "broker_packets": 3, "broker_bytes": 7 },
        });
        let now = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(75);
        let shown = ["desk", "-", "mqtt", "127.0.0.1:5", "5.0", "open", "1m15s", "2 KiB", "7 B", "5", "id"];
        assert_eq!(row(&session, now), shown);
        assert_eq!(client_name(&json!({ "client_id": "" })), "\"\"");
        assert_eq!(client_name(&json!({})), "-");
    }
}
