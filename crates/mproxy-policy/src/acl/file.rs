//! Reads the rule file: checks all of it, collects every fault with its line and key, then compiles.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use mproxy_codec::types::QoS;
use mproxy_core::policy::RuleFile;
use mproxy_core::rule::condition::Condition;
use mproxy_core::rule::{Act, Actions, Name, Pattern, Retain, Rule, RuleEffect, Template};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub use self::cases::{TrialCase, parse_moment};
use self::grants::EFFECTS;
pub(super) use self::rewrites::NamedListener;
use super::condition::{self, ConditionPlace};
use super::static_grants::StaticGrants;
use super::{Acl, AclRule, NameSet, Password, User};
use crate::nearest;

mod cases;
mod grants;
mod rewrites;
mod tokens;

/// One fault of a rule file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AclError {
    /// Counted from 1; 0 where it is the file as a whole.
    pub line: usize,
    /// Where in the file, `rules[2].topics[0]` for example; empty for what is no TOML.
    pub key: String,
    /// What is wrong.
    pub what: String,
}

/// All that is wrong with a rule file, by line. Displayed as one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AclErrors {
    name: String,
    faults: Vec<AclError>,
}

impl AclErrors {
    /// The faults, by line; never empty.
    #[must_use]
    pub fn faults(&self) -> &[AclError] {
        &self.faults
    }

    pub(super) fn unreadable(name: &str, error: &io::Error) -> Self {
        Self::whole(name, format!("cannot be read: {error}"))
    }

    /// These faults, if there are any.
    pub(super) fn of(name: &str, mut faults: Vec<AclError>) -> Result<(), Self> {
        if faults.is_empty() {
            return Ok(());
        }
        faults.sort_by_key(|fault| fault.line);
        Err(Self { name: name.to_owned(), faults })
    }

    /// One fault of the file as a whole.
    pub(super) fn whole(name: &str, what: String) -> Self {
        Self { name: name.to_owned(), faults: vec![AclError { line: 0, key: String::new(), what }] }
    }
}

impl fmt::Display for AclErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, AclError { line, key, what }) in self.faults.iter().enumerate() {
            let (newline, name) = (if at == 0 { "" } else { "\n" }, &self.name);
            match (line, key.as_str()) {
                (0, _) => write!(f, "{newline}{name}: {what}")?,
                (line, "") => write!(f, "{newline}{name}:{line}: {what}")?,
                (line, key) => write!(f, "{newline}{name}:{line}: {key}: {what}")?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for AclErrors {}

type TomlValue<'a> = Spanned<DeValue<'a>>;

pub(super) fn parse(text: &str, name: &str) -> Result<Acl, AclErrors> {
    let mut acl = read(text, name, |reader, document| {
        let mut lines = Vec::new();
        let mut acl = Acl {
            path: None,
            file: Arc::new(RuleFile { name: name.into(), loaded: Instant::now(), lines: Box::default() }),
            anonymous: None,
            client_ids: None,
            users: HashMap::new(),
            rules: Vec::new(),
            tokens: None,
            broker_login: None,
            grants: StaticGrants::default(),
            rewrites: Vec::new(),
            listeners: Vec::new(),
            required: HashMap::new(),
            receives: false,
            has_varying_rules: false,
            allow_empty: false,
        };
        reader.document(document, &mut acl, &mut lines);
        acl.listeners = std::mem::take(&mut reader.listeners);
        acl.file = Arc::new(RuleFile { name: name.into(), loaded: Instant::now(), lines: lines.into() });
        acl
    })?;
    acl.name_claims();
    acl.has_varying_rules = acl.rules.iter().any(|entry| entry.rule.has_varying_condition());
    Ok(acl)
}

/// Reads a document with `take`; all that is wrong with it, if anything is.
fn read<T>(
    text: &str,
    name: &str,
    take: impl FnOnce(&mut AclReader<'_>, &DeTable<'_>) -> T,
) -> Result<T, AclErrors> {
    // It goes on behind a syntax error: whoever mends the file sees every fault at once.
    let (document, syntax) = DeTable::parse_recoverable(text);
    // Beside which files are that it names.
    let folder = Path::new(name).parent().unwrap_or_else(|| Path::new(""));
    let mut reader = AclReader {
        text,
        folder,
        faults: Vec::new(),
        whole: syntax.is_empty(),
        client_id_prefixes: Vec::new(),
        listeners: Vec::new(),
    };
    for error in syntax {
        reader.fault(error.span().unwrap_or_default(), String::new(), error.message());
    }
    let taken = take(&mut reader, document.get_ref());
    // A table need not give its keys in the order of the file, and people read from the top.
    AclErrors::of(name, reader.faults).map(|()| taken)
}

/// Where a rule stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RulePlace {
    /// In `[[rules]]`.
    File,
    /// In `[[grants.rules]]`, which says for whom it is.
    Grant,
}

/// The keys of a rule; the last three are not those of a grant's rule.
const RULE: [&str; 10] = [
    "effect",
    "actions",
    "topics",
    "max_qos",
    "retain",
    "max_payload",
    "when",
    "users",
    "client_ids",
    "anonymous",
];

struct AclReader<'t> {
    text: &'t str,
    folder: &'t Path,
    faults: Vec<AclError>,
    /// The text is TOML throughout: what is missing was not merely lost to a syntax error.
    whole: bool,
    /// Those of grants so far, as they are written.
    client_id_prefixes: Vec<(Box<str>, Template)>,
    /// Listeners that entries are for.
    listeners: Vec<NamedListener>,
}

impl AclReader<'_> {
    /// `lines`: those in which the rules begin.
    fn document(&mut self, document: &DeTable<'_>, acl: &mut Acl, lines: &mut Vec<u32>) {
        for (key, value) in document {
            let name = key.get_ref().as_ref();
            match name {
                "anonymous" => acl.anonymous = self.flag(value, name),
                "allow_empty" => acl.allow_empty = self.flag(value, name) == Some(true),
                "client_ids" => acl.client_ids = Some(self.client_ids(value, name)),
                "grants" => self.each_table(value, name, |reader, table, at, key| {
                    acl.grants.all.extend(reader.grant(table, at, key));
                }),
                "rewrites" => self.each_table(value, name, |reader, table, at, key| {
                    acl.rewrites.extend(reader.rewrites(table, at, key));
                }),
                "require" => {
                    acl.required = self.requirements(value, name, document.contains_key("jwt"));
                }
                "jwt" => acl.tokens = self.tokens(value, name),
                "broker" => acl.broker_login = self.broker_login(value, name),
                "users" => self.each_table(value, name, |reader, table, at, key| {
                    reader.user(table, at, key, acl);
                }),
                "rules" => self.each_table(value, name, |reader, table, at, key| {
                    // One with a fault is left out, and its fault refuses the file; those behind it are read for theirs.
                    lines.push(u32::try_from(reader.line(&at)).unwrap_or(u32::MAX));
                    acl.rules.extend(reader.rule(table, at, key, &mut acl.receives, RulePlace::File));
                }),
                _ => self.unknown(
                    key.span(),
                    "",
                    name,
                    &[
                        "anonymous",
                        "allow_empty",
                        "client_ids",
                        "require",
                        "jwt",
                        "broker",
                        "users",
                        "grants",
                        "rewrites",
                        "rules",
                    ],
                ),
            }
        }
    }

    fn user(&mut self, table: &DeTable<'_>, at: Range<usize>, path: &str, acl: &mut Acl) {
        let (mut name, mut password, mut groups) = (None, None, Box::default());
        for (key, value) in table {
            let full = format!("{path}.{}", key.get_ref());
            match key.get_ref().as_ref() {
                "name" => name = self.text(value, &full).map(|text| (text, value.span(), full)),
                "password" => {
                    // Checked now: a hash with a typing error would lock its user out until somebody looks.
                    password = self.text(value, &full).map(|text| {
                        Password::parse(text)
                            .map_err(|error| self.fault(value.span(), full, error.to_string()))
                    });
                }
                "groups" => groups = self.texts(value, &full),
                unknown => self.unknown(key.span(), path, unknown, &["name", "password", "groups"]),
            }
        }
        if !table.contains_key("name") {
            self.missing(at.clone(), format!("{path}.name"));
        }
        if !table.contains_key("password") {
            self.missing(at, format!("{path}.password"));
        }
        let Some((name, span, full)) = name else { return };
        // Neither wins: to whoever reads the file both passwords look right.
        if acl.users.contains_key(name) {
            return self.fault(span, full, format!("there is a user {name:?} already"));
        }
        if let Some(Ok(password)) = password {
            acl.users.insert(name.into(), User { password, groups });
        }
    }

    fn rule(
        &mut self,
        table: &DeTable<'_>,
        at: Range<usize>,
        path: &str,
        receives: &mut bool,
        place: RulePlace,
    ) -> Option<AclRule> {
        let before = self.faults.len();
        let (mut effect, mut topics) = (None, Vec::new());
        let (mut users, mut client_ids, mut actions, mut anonymous) = (None, None, None, None);
        let (mut max_qos, mut retain, mut max_payload, mut when) = (None, None, None, None);
        for (key, value) in table {
            let full = format!("{path}.{}", key.get_ref());
            match key.get_ref().as_ref() {
                "effect" => {
                    // Of a file's rule, silence is what sends a question on.
                    let words = if place == RulePlace::Grant { &EFFECTS[..] } else { &EFFECTS[..2] };
                    effect = self.word(value, &full, words);
                }
                "users" if place == RulePlace::File => users = Some(self.names(value, &full)),
                "client_ids" if place == RulePlace::File => client_ids = Some(self.names(value, &full)),
                "anonymous" if place == RulePlace::File => anonymous = self.flag(value, &full),
                "actions" => actions = Some(self.actions(value, &full)),
                "topics" => topics = self.topics(value, &full),
                "max_qos" => max_qos = self.qos(value, &full).map(|qos| (qos, key.span())),
                "retain" => retain = self.flag(value, &full).map(|flag| (flag, key.span())),
                "max_payload" => {
                    max_payload = self.payload(value, &full).map(|most| (most, key.span()));
                }
                // What it may read depends on the actions, which may stand behind it.
                "when" => when = Some((value, full)),
                unknown => {
                    let known = &RULE[..if place == RulePlace::Grant { 7 } else { RULE.len() }];
                    self.unknown(key.span(), path, unknown, known);
                }
            }
        }
        for key in ["effect", "topics"] {
            if !table.contains_key(key) {
                self.missing(at.clone(), format!("{path}.{key}"));
            }
        }
        if matches!(effect, Some(RuleEffect::Deny | RuleEffect::Ask)) {
            let limits = [
                max_qos.as_ref().map(|(_, span)| ("max_qos", span)),
                retain.as_ref().map(|(_, span)| ("retain", span)),
                max_payload.as_ref().map(|(_, span)| ("max_payload", span)),
            ];
            for (key, span) in limits.into_iter().flatten() {
                self.fault(
                    span.clone(),
                    format!("{path}.{key}"),
                    "limits what is allowed; this rule does not allow",
                );
            }
        }
        // Deliveries are only judged where some rule names them: else none of them has to wait for the rules.
        *receives |= actions.is_some_and(|actions: Actions| actions.has(Act::Receive));
        let condition = when.and_then(|(value, full)| {
            self.condition(value, &full, ConditionPlace::Rule(actions.unwrap_or(Actions::ALL)))
        });
        // After all of its keys: whoever mends the file sees every fault at once.
        if self.faults.len() > before {
            return None;
        }
        let rule = Rule {
            effect: effect?,
            actions: actions.unwrap_or(Actions::ALL),
            topics: topics.into(),
            max_qos: max_qos.map_or(QoS::ExactlyOnce, |(qos, _)| qos),
            retain: if retain.is_some_and(|(flag, _)| !flag) { Retain::Refused } else { Retain::Allowed },
            max_payload: max_payload.map(|(most, _)| most),
            condition: condition.map(Arc::new),
        };
        Some(AclRule { users, client_ids, anonymous, rule })
    }

    fn condition(&mut self, value: &TomlValue<'_>, key: &str, place: ConditionPlace) -> Option<Condition> {
        let text = self.text(value, key)?;
        let error = match condition::compile(text, place) {
            Ok(condition) => return Some(condition),
            Err(error) => error,
        };
        let before = text.get(..error.at).unwrap_or_default();
        let (lines, column) = match before.rsplit_once('\n') {
            Some((lines, own)) => (lines.matches('\n').count() + 1, own.chars().count() + 1),
            None => (0, before.chars().count() + 1),
        };
        // A text over several lines may begin in the line behind its quotes.
        let quoted = self.text.get(value.span()).unwrap_or_default();
        let begins_below = quoted.trim_start_matches(['"', '\'']).starts_with(['\r', '\n']);
        let line = self.line(&value.span()) + lines + usize::from(begins_below);
        let what = format!("column {column} of the condition: {}", error.what);
        self.faults.push(AclError { line, key: key.to_owned(), what });
        None
    }

    fn client_ids(&mut self, value: &TomlValue<'_>, key: &str) -> Box<[Name]> {
        let mut names = Vec::new();
        self.each_text(value, key, |reader, text, span, key| match Name::parse(text) {
            Ok(name) => names.push(name),
            Err(error) => reader.fault(span, key, format!("{text:?}: {error}")),
        });
        names.into()
    }

    fn topics(&mut self, value: &TomlValue<'_>, key: &str) -> Vec<Pattern> {
        let mut topics = Vec::new();
        self.each_text(value, key, |reader, text, span, key| match Pattern::parse(text) {
            Ok(pattern) => topics.push(pattern),
            Err(error) => reader.fault(span, key, format!("{text:?}: {error}")),
        });
        topics
    }

    fn names(&mut self, value: &TomlValue<'_>, key: &str) -> NameSet {
        let mut names = Vec::new();
        self.each_text(value, key, |_, text, _, _| names.push(text.into()));
        NameSet::new(names)
    }

    fn actions(&mut self, value: &TomlValue<'_>, key: &str) -> Actions {
        let mut actions = Actions::NONE;
        self.each_text(value, key, |reader, text, span, key| {
            let act = match text {
                "publish" => Act::Publish,
                "subscribe" => Act::Subscribe,
                "receive" => Act::Receive,
                "will" => Act::Will,
                _ => {
                    let what = format!("{text:?} is none of publish, subscribe, receive, will");
                    return reader.fault(span, key, what);
                }
            };
            actions = actions.with(act);
        });
        actions
    }

    fn qos(&mut self, value: &TomlValue<'_>, key: &str) -> Option<QoS> {
        let qos = match value.get_ref() {
            DeValue::Integer(number) => {
                u8::from_str_radix(number.as_str(), number.radix()).ok().and_then(QoS::from_bits)
            }
            _ => None,
        };
        if qos.is_none() {
            self.fault(value.span(), key.to_owned(), "must be 0, 1 or 2");
        }
        qos
    }

    fn word<T: Copy>(&mut self, value: &TomlValue<'_>, key: &str, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(value, key)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, meant)| *meant);
        if found.is_none() {
            let known: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            self.fault(value.span(), key.to_owned(), format!("{text:?} is none of {}", known.join(", ")));
        }
        found
    }

    fn flag(&mut self, value: &TomlValue<'_>, key: &str) -> Option<bool> {
        let flag = value.get_ref().as_bool();
        if flag.is_none() {
            self.fault(value.span(), key.to_owned(), "must be true or false");
        }
        flag
    }

    fn text<'v>(&mut self, value: &'v TomlValue<'_>, key: &str) -> Option<&'v str> {
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.fault(value.span(), key.to_owned(), "must be a string");
        }
        text
    }

    /// The texts of a list that has at least one.
    fn each_text(
        &mut self,
        value: &TomlValue<'_>,
        key: &str,
        mut take: impl FnMut(&mut Self, &str, Range<usize>, String),
    ) {
        let list = value.get_ref().as_array().filter(|list| !list.is_empty());
        let Some(list) = list else {
            return self.fault(value.span(), key.to_owned(), "must be a list of at least one string");
        };
        for (at, item) in list.iter().enumerate() {
            let key = format!("{key}[{at}]");
            if let Some(text) = self.text(item, &key) {
                take(self, text, item.span(), key);
            }
        }
    }

    fn each_table(
        &mut self,
        value: &TomlValue<'_>,
        key: &str,
        mut take: impl FnMut(&mut Self, &DeTable<'_>, Range<usize>, &str),
    ) {
        // `users = []` is no list of users; without it the file says nothing on who they are.
        let Some(list) = value.get_ref().as_array().filter(|list| !list.is_empty()) else {
            return self.fault(value.span(), key.to_owned(), format!("is written [[{key}]]"));
        };
        for (at, item) in list.iter().enumerate() {
            let path = format!("{key}[{at}]");
            match item.get_ref().as_table() {
                Some(table) => take(self, table, item.span(), &path),
                None => self.fault(item.span(), path, format!("is written [[{key}]]")),
            }
        }
    }

    /// In the words of the configuration file.
    fn unknown(&mut self, at: Range<usize>, path: &str, name: &str, known: &[&'static str]) {
        let dot = if path.is_empty() { "" } else { "." };
        let what = match nearest(name, known.iter().copied()) {
            Some(near) => format!("unknown key; the nearest known one is {path}{dot}{near}"),
            None => format!("unknown key; those known here are {}", known.join(", ")),
        };
        self.fault(at, format!("{path}{dot}{name}"), what);
    }

    fn missing(&mut self, at: Range<usize>, key: String) {
        if self.whole {
            self.fault(at, key, "is missing");
        }
    }

    fn line(&self, at: &Range<usize>) -> usize {
        let before = self.text.as_bytes().get(..at.start).unwrap_or(self.text.as_bytes());
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }

    fn fault(&mut self, at: Range<usize>, key: String, what: impl Into<String>) {
        let line = self.line(&at);
        self.faults.push(AclError { line, key, what: what.into() });
    }
}
