//! A table of cases for a rule file, with its own errors at their lines: what is expected of whom, and by which rule.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;

use mproxy_codec::types::{QoS, Version};
use mproxy_core::peer::Transport;
use mproxy_core::rule::{Act, WallTime};
use serde_json::{Map, Value};
use toml::de::{DeTable, DeValue};
use toml::value::{Date, Datetime, Offset};

use super::{AclErrors, AclReader, TomlValue};
use crate::acl::trial::{TrialClient, TrialQuestion};

/// One `[[cases]]` entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrialCase {
    /// The line in which it begins.
    pub line: usize,
    /// Who: the name of a `[clients.NAME]` table, or the client id.
    pub who: String,
    /// The client.
    pub client: TrialClient,
    /// What it does.
    pub question: TrialQuestion,
    /// Whether it is allowed.
    pub allowed: bool,
    /// The line of the rule that is to decide, if that matters.
    pub rule_line: Option<u32>,
    /// What the broker is to call the topic or the filter, if that matters.
    pub becomes: Option<String>,
}

const CASE: &[&str] = &[
    "client",
    "publish",
    "subscribe",
    "receive",
    "will",
    "qos",
    "retain",
    "payload",
    "time",
    "expect",
    "line",
    "becomes",
];
const CLIENT: &[&str] = &[
    "client_id",
    "username",
    "groups",
    "claims",
    "cn",
    "dns",
    "uri",
    "fingerprint",
    "listener",
    "transport",
    "address",
    "version",
    "service",
];

impl TrialCase {
    /// Reads a table of cases; `name` is for the errors.
    ///
    /// # Errors
    /// All that is wrong in it.
    pub fn parse(text: &str, name: &str) -> Result<Vec<Self>, AclErrors> {
        super::read(text, name, |reader, document| {
            let mut clients = HashMap::new();
            if let Some(value) = document.get("clients")
                && let Some(table) = reader.table(value, "clients")
            {
                for (key, value) in table {
                    let full = format!("clients.{}", key.get_ref());
                    clients.insert(key.get_ref().to_string(), reader.trial_client(value, &full));
                }
            }
            let mut cases = Vec::new();
            for (key, value) in document {
                match key.get_ref().as_ref() {
                    "clients" => {}
                    "cases" => reader.each_table(value, "cases", |reader, table, at, path| {
                        cases.extend(reader.case(table, at, path, &clients));
                    }),
                    unknown => reader.unknown(key.span(), "", unknown, &["clients", "cases"]),
                }
            }
            if cases.is_empty() && !document.contains_key("cases") {
                reader.missing(0..0, "cases".to_owned());
            }
            cases
        })
    }
}

/// The moment of a date with a time that is written as in TOML, of UTC unless it says otherwise. `None`: it is none, or lies
/// before 1970.
#[must_use]
pub fn parse_moment(text: &str) -> Option<WallTime> {
    wall_time(&text.parse().ok()?)
}

fn wall_time(moment: &Datetime) -> Option<WallTime> {
    let (date, time) = (moment.date?, moment.time?);
    let offset = match moment.offset {
        None | Some(Offset::Z) => 0,
        Some(Offset::Custom { minutes }) => i64::from(minutes) * 60,
    };
    let second = i64::from(time.second.unwrap_or_default());
    let of_day = (i64::from(time.hour) * 60 + i64::from(time.minute)) * 60 + second;
    let seconds = u64::try_from(days_since_1970(&date) * 86400 + of_day - offset).ok()?;
    Some(WallTime::since_1970(Duration::from_secs(seconds)))
}

/// Of the Gregorian calendar, with years that begin in March: the day that is inserted is the last one then.
fn days_since_1970(date: &Date) -> i64 {
    let (year, month, day) = (i64::from(date.year), i64::from(date.month), i64::from(date.day));
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let of_years = year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    of_years + (month * 153 + 2) / 5 + day - 1 - 719_468
}

impl AclReader<'_> {
    fn case(
        &mut self,
        table: &DeTable<'_>,
        at: Range<usize>,
        path: &str,
        clients: &HashMap<String, TrialClient>,
    ) -> Option<TrialCase> {
        let before = self.faults.len();
        let (mut who, mut acts) = (None, Vec::new());
        let (mut qos, mut retain, mut allowed, mut rule_line) = (QoS::AtMostOnce, false, None, None);
        let (mut payload, mut time, mut becomes) = (0, None, None);
        for (key, value) in table {
            let full = format!("{path}.{}", key.get_ref());
            match key.get_ref().as_ref() {
                "client" => who = self.case_client(value, &full, clients),
                "publish" => acts.push((Act::Publish, self.text(value, &full))),
                "subscribe" => acts.push((Act::Subscribe, self.text(value, &full))),
                "receive" => acts.push((Act::Receive, self.text(value, &full))),
                "will" => acts.push((Act::Will, self.text(value, &full))),
                "qos" => qos = self.qos(value, &full).unwrap_or(QoS::AtMostOnce),
                "retain" => retain = self.flag(value, &full) == Some(true),
                "payload" => payload = self.payload(value, &full).unwrap_or_default() as usize,
                "time" => time = self.moment(value, &full),
                "expect" => allowed = self.word(value, &full, &[("allow", true), ("deny", false)]),
                "line" => {
                    let line = self.whole(value, &full, 1..=u64::from(u32::MAX));
                    rule_line = line.and_then(|line| u32::try_from(line).ok());
                }
                "becomes" => {
                    becomes = self.text(value, &full).map(|text| (text.to_owned(), value.span(), full));
                }
                unknown => self.unknown(key.span(), path, unknown, CASE),
            }
        }
        for key in ["client", "expect"] {
            if !table.contains_key(key) {
                self.missing(at.clone(), format!("{path}.{key}"));
            }
        }
        if acts.len() != 1 {
            let what = "a case has one of publish, subscribe, receive, will";
            self.fault(at.clone(), path.to_owned(), what);
        }
        if let (Some((_, span, full)), Some(false)) = (&becomes, allowed) {
            self.fault(span.clone(), full.clone(), "is of what is allowed; this case expects a refusal");
        }
        let line = self.line(&at);
        let (act, name) = acts.pop()?;
        if self.faults.len() > before {
            return None;
        }
        let (who, client) = who?;
        let question = TrialQuestion { act, name: name?.to_owned(), qos, retain, payload, time };
        Some(TrialCase {
            line,
            who,
            client,
            question,
            allowed: allowed?,
            rule_line,
            becomes: becomes.map(|(text, ..)| text),
        })
    }

    /// A client of its own, or the name of one.
    fn case_client(
        &mut self,
        value: &TomlValue<'_>,
        key: &str,
        clients: &HashMap<String, TrialClient>,
    ) -> Option<(String, TrialClient)> {
        let Some(name) = value.get_ref().as_str() else {
            let client = self.trial_client(value, key);
            return Some((client.client_id.clone(), client));
        };
        let known = clients.get(name).cloned();
        if known.is_none() {
            self.fault(value.span(), key.to_owned(), format!("there is no [clients.{name}]"));
        }
        known.map(|client| (name.to_owned(), client))
    }

    fn trial_client(&mut self, value: &TomlValue<'_>, path: &str) -> TrialClient {
        let mut client = TrialClient::default();
        let Some(table) = self.table(value, path) else { return client };
        for (key, value) in table {
            let full = format!("{path}.{}", key.get_ref());
            let owned = |text: Option<&str>| text.map(str::to_owned);
            let list = |texts: Box<[Box<str>]>| texts.into_iter().map(String::from).collect();
            match key.get_ref().as_ref() {
                "client_id" => client.client_id = owned(self.text(value, &full)).unwrap_or_default(),
                "username" => client.username = owned(self.text(value, &full)),
                "groups" => client.groups = list(self.texts(value, &full)),
                "claims" => client.claims = self.trial_claims(value, &full),
                "cn" => client.common_name = owned(self.text(value, &full)),
                "dns" => client.dns = list(self.texts(value, &full)),
                "uri" => client.uris = list(self.texts(value, &full)),
                "fingerprint" => client.fingerprint = owned(self.text(value, &full)),
                "listener" => client.listener = owned(self.text(value, &full)),
                "transport" => {
                    let words = Transport::ALL.map(|transport| (transport.name(), transport));
                    client.transport = self.word(value, &full, &words);
                }
                "address" => client.address = self.address(value, &full),
                "version" => {
                    let words = [("3.1", Version::V31), ("3.1.1", Version::V311), ("5.0", Version::V5)];
                    client.version = self.word(value, &full, &words);
                }
                "service" => client.by_service = self.flag(value, &full) == Some(true),
                unknown => self.unknown(key.span(), path, unknown, CLIENT),
            }
        }
        client
    }

    /// A date with a time, of UTC unless it says otherwise.
    fn moment(&mut self, value: &TomlValue<'_>, key: &str) -> Option<WallTime> {
        let moment = match value.get_ref() {
            DeValue::Datetime(moment) => wall_time(moment),
            _ => None,
        };
        if moment.is_none() {
            let what = "must be a date with a time, 2026-11-27T22:30:00Z for example";
            self.fault(value.span(), key.to_owned(), what);
        }
        moment
    }

    fn address(&mut self, value: &TomlValue<'_>, key: &str) -> Option<IpAddr> {
        let text = self.text(value, key)?;
        let address = text.parse().ok();
        if address.is_none() {
            self.fault(value.span(), key.to_owned(), format!("{text:?} is no IP address"));
        }
        address
    }

    fn trial_claims(&mut self, value: &TomlValue<'_>, path: &str) -> Option<Map<String, Value>> {
        let table = self.table(value, path)?;
        let mut claims = Map::new();
        for (key, value) in table {
            let claim = self.trial_claim(value, &format!("{path}.{}", key.get_ref()))?;
            claims.insert(key.get_ref().to_string(), claim);
        }
        Some(claims)
    }

    fn trial_claim(&mut self, value: &TomlValue<'_>, path: &str) -> Option<Value> {
        match value.get_ref() {
            DeValue::String(text) => Some(Value::from(text.as_ref())),
            DeValue::Boolean(flag) => Some(Value::from(*flag)),
            DeValue::Integer(number) => {
                let whole = i64::from_str_radix(number.as_str(), number.radix()).ok();
                if whole.is_none() {
                    self.fault(value.span(), path.to_owned(), "is too large a number");
                }
                whole.map(Value::from)
            }
            DeValue::Array(list) => {
                let values = list.iter().enumerate();
                values.map(|(at, item)| self.trial_claim(item, &format!("{path}[{at}]"))).collect()
            }
            DeValue::Table(_) => self.trial_claims(value, path).map(Value::Object),
            DeValue::Float(_) | DeValue::Datetime(_) => {
                self.fault(
                    value.span(),
                    path.to_owned(),
                    "must be a string, whole number, flag, list or table",
                );
                None
            }
        }
    }
}
