//! The rules that come of an `acl_file`.
//!
//! In a rule file the first rule that matches decides, so the order says what mosquitto does: a client's own lines before
//! patterns, and in each of them denials first. Wildcards of a denial reach topics that begin with `$` here, and not there;
//! so all rules about such topics stand before all others.

use std::collections::HashMap;
use std::fmt::Write;

use mproxy_core::rule::Pattern;

use super::acl_lines::{AclAccess, AclLine, AclOwner};
use super::model::BRIDGE_STATE;
use super::passwords::PasswordUsers;
use super::{ImportFile, ImportNote, ImportNoteKind, ImportOptions};

/// Rules in their order, and what is to be said of the lines that they are from.
#[derive(Debug)]
pub(super) struct Draft {
    options: ImportOptions,
    rules: Vec<DraftRule>,
    pub(super) notes: Vec<ImportNote>,
}

#[derive(Debug)]
struct DraftRule {
    remark: &'static str,
    who: DraftWho,
    effect: &'static str,
    actions: &'static [&'static str],
    /// Each with the line that it is from.
    topics: Vec<(String, Option<usize>)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum DraftWho {
    Everybody,
    Anonymous,
    Named,
    User(String),
}

/// A line, or the half of it that is about reading or writing, in the words of a rule.
#[derive(Debug)]
struct DraftPart {
    number: usize,
    access: AclAccess,
    pattern: String,
}

impl Draft {
    pub(super) const fn new(options: ImportOptions) -> Self {
        Self { options, rules: Vec::new(), notes: Vec::new() }
    }

    pub(super) fn add_rules(&mut self, lines: &[AclLine]) {
        let mut owners: Vec<(&AclOwner, Vec<DraftPart>)> = Vec::new();
        let mut places = HashMap::new();
        for line in lines {
            let name = match &line.owner {
                AclOwner::User(name) => Some(Some(name)),
                AclOwner::Anonymous => Some(None),
                AclOwner::Everybody => None,
            };
            let place = *places.entry(name).or_insert_with(|| {
                owners.push((&line.owner, Vec::new()));
                owners.len() - 1
            });
            owners[place].1.extend(self.parts(line));
        }
        // Patterns come after what is somebody's own.
        owners.sort_by_key(|(owner, _)| **owner == AclOwner::Everybody);
        if !self.options.strict {
            self.allow_subscriptions(owners.iter().flat_map(|(_, parts)| parts));
        }
        for about_dollar in [true, false] {
            for (owner, parts) in &owners {
                let parts = parts.iter().filter(|part| names_dollar(&part.pattern) == about_dollar);
                self.add_owner(owner, parts);
            }
        }
        let remark =
            "Mosquitto denies what no line allows. Without this rule, a hook service would be asked.";
        let topics = vec![("#".to_owned(), None)];
        let actions = self.actions(AclAccess::Deny);
        self.rules.push(DraftRule { remark, who: DraftWho::Everybody, effect: "deny", actions, topics });
    }

    /// What mosquitto does: anybody may subscribe to anything, since each delivery is judged.
    fn allow_subscriptions<'p>(&mut self, parts: impl Iterator<Item = &'p DraftPart>) {
        let mut topics = vec![("#".to_owned(), None), ("$SYS/#".to_owned(), None)];
        for first in
            parts.filter(|part| names_dollar(&part.pattern)).filter_map(|part| part.pattern.split('/').next())
        {
            let filter = (format!("{first}/#"), None);
            if !topics.contains(&filter) {
                topics.push(filter);
            }
        }
        let remark = "Mosquitto lets everybody subscribe to everything, and judges each delivery.";
        let (who, actions) = (DraftWho::Everybody, &["subscribe"][..]);
        self.rules.push(DraftRule { remark, who, effect: "allow", actions, topics });
    }

    fn add_owner<'p>(&mut self, owner: &AclOwner, parts: impl Iterator<Item = &'p DraftPart> + Clone) {
        let who = match owner {
            AclOwner::Anonymous => DraftWho::Anonymous,
            AclOwner::User(name) => DraftWho::User(name.clone()),
            AclOwner::Everybody => DraftWho::Everybody,
        };
        // A pattern with %u is not for clients without a user name. An allow rule gives them nothing anyway; a deny rule would
        // take everything from them.
        let is_of_named = |part: &&DraftPart| {
            *owner == AclOwner::Everybody
                && part.access == AclAccess::Deny
                && part.pattern.contains("${username}")
        };
        for access in [AclAccess::Deny, AclAccess::Read, AclAccess::Write, AclAccess::ReadWrite] {
            for of_named in [false, true] {
                let met = parts.clone().filter(|part| part.access == access && is_of_named(part) == of_named);
                let topics: Vec<_> = met.map(|part| (part.pattern.clone(), Some(part.number))).collect();
                if !topics.is_empty() {
                    let who = if of_named { DraftWho::Named } else { who.clone() };
                    let effect = if access == AclAccess::Deny { "deny" } else { "allow" };
                    let actions = self.actions(access);
                    self.rules.push(DraftRule { remark: "", who, effect, actions, topics });
                }
            }
        }
    }

    const fn actions(&self, access: AclAccess) -> &'static [&'static str] {
        match (access, self.options.strict) {
            (AclAccess::Write, _) => &["publish", "will"],
            (AclAccess::Read, false) => &["receive"],
            (AclAccess::Read, true) => &["subscribe"],
            (AclAccess::ReadWrite | AclAccess::Deny, false) => &["publish", "receive", "will"],
            (AclAccess::ReadWrite | AclAccess::Deny, true) => &["publish", "subscribe", "will"],
        }
    }

    /// The line in the words of a rule: as one, in halves where these differ, or not at all.
    fn parts(&mut self, line: &AclLine) -> Vec<DraftPart> {
        let part = |access, pattern| DraftPart { number: line.number, access, pattern };
        if line.filter.split('/').next() == Some("$share") {
            self.note(
                line,
                ImportNoteKind::NoEffect,
                "no message has a topic that begins with $share; left out".to_owned(),
            );
            return Vec::new();
        }
        let Some(pattern) = self.pattern(line) else { return Vec::new() };
        if line.owner == AclOwner::Everybody {
            self.note_names(line, &pattern);
        }
        if !line.access.writes() || !pattern.starts_with("$SYS") {
            return vec![part(line.access, pattern)];
        }
        // Of these topics, nobody may publish to any but a bridge's.
        let written = both(&pattern, BRIDGE_STATE).map(|pattern| part(AclAccess::Write, pattern));
        let read = line.access.reads().then(|| part(AclAccess::Read, pattern));
        read.into_iter().chain(written).collect()
    }

    /// The filter with the variables of a rule file. What cannot be written so gives nothing, and denies more.
    fn pattern(&mut self, line: &AclLine) -> Option<String> {
        let is_pattern = line.owner == AclOwner::Everybody;
        let translated = |text: &str| {
            if is_pattern {
                text.replace("%c", "${clientid}").replace("%u", "${username}")
            } else {
                text.to_owned()
            }
        };
        let pattern = translated(&line.filter);
        let error = match Pattern::parse(&pattern) {
            // What looks like a variable is none there.
            Ok(_) if line.filter.contains("${") => "it holds ${, which begins a variable here".to_owned(),
            Ok(_) => return Some(pattern),
            Err(error) => error.to_string(),
        };
        if line.access != AclAccess::Deny {
            self.note(
                line,
                ImportNoteKind::Changed,
                format!("left out, so that nothing is allowed by it: {error}"),
            );
            return None;
        }
        let fits = |level: &&str| !level.contains("${") && Pattern::parse(&translated(level)).is_ok();
        let mut levels: Vec<_> = line.filter.split('/').take_while(fits).map(translated).collect();
        levels.push("#".to_owned());
        let pattern = levels.join("/");
        self.note(line, ImportNoteKind::Changed, format!("{pattern:?} is denied in its place: {error}"));
        Some(pattern)
    }

    /// What is different for clients with names that are not those of most.
    fn note_names(&mut self, line: &AclLine, pattern: &str) {
        let has_both = pattern.contains("${clientid}") && pattern.contains("${username}");
        let mut say = |what: &str| self.note(line, ImportNoteKind::UnusualNames, what.to_owned());
        if pattern.starts_with("${") {
            say("a name that begins with $ reaches topics that begin with $ in mosquitto, and not here");
        }
        if pattern.contains("${") {
            say(if line.access == AclAccess::Deny {
                "a client whose name is empty or has / in it is denied all topics from there on; in mosquitto, its name is levels"
            } else {
                "a client whose name is empty or has / in it gets nothing; in mosquitto, its name is levels"
            });
        }
        if line.access != AclAccess::Deny && !has_both {
            say(
                "a client whose user name or client id has + or # in it gets nothing by patterns in mosquitto; here it does, where the pattern does not hold that name",
            );
        }
        if line.access != AclAccess::Deny && pattern.split('/').any(|level| level.matches("${").count() > 1) {
            say("of two names in a level, the second may not hold the character before it");
        }
    }

    fn note(&mut self, line: &AclLine, kind: ImportNoteKind, what: String) {
        self.notes.push(ImportNote { file: ImportFile::Acl, line: line.number, kind, what });
    }

    /// The rule file.
    pub(super) fn text(&self, users: Option<&PasswordUsers>) -> String {
        let mut out = String::from(
            "# From mosquitto, by `mproxy import mosquitto`. The numbers are lines of its acl_file.\n\n",
        );
        if self.options.anonymous || users.is_some() {
            put(&mut out, format_args!("anonymous = {}\n", self.options.anonymous));
        } else {
            out.push_str("# Who may connect is not decided here: neither was there a password file.\n");
        }
        for (name, hash) in users.iter().flat_map(|users| &users.users) {
            put(
                &mut out,
                format_args!("\n[[users]]\nname = {}\npassword = {}\n", quoted(name), quoted(hash)),
            );
        }
        for rule in &self.rules {
            rule.write(&mut out);
        }
        out
    }
}

impl DraftRule {
    fn write(&self, out: &mut String) {
        out.push('\n');
        if !self.remark.is_empty() {
            put(out, format_args!("# {}\n", self.remark));
        }
        put(out, format_args!("[[rules]]\neffect = \"{}\"\n", self.effect));
        match &self.who {
            DraftWho::Everybody => {}
            DraftWho::Anonymous => out.push_str("anonymous = true\n"),
            DraftWho::Named => out.push_str("anonymous = false\n"),
            DraftWho::User(name) => put(out, format_args!("users = [{}]\n", quoted(name))),
        }
        put(out, format_args!("actions = [\"{}\"]\ntopics = [\n", self.actions.join("\", \"")));
        for (topic, number) in &self.topics {
            put(out, format_args!("    {},", quoted(topic)));
            if let Some(number) = number {
                put(out, format_args!(" # {number}"));
            }
            out.push('\n');
        }
        out.push_str("]\n");
    }
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = out.write_fmt(text);
}

/// A string of TOML.
fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => put(&mut out, format_args!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Whether it begins with a written `$`.
fn names_dollar(pattern: &str) -> bool {
    pattern.starts_with('$') && !pattern.starts_with("${")
}

/// A filter for the topics that match both a pattern and a filter without `#`, if one can be written.
fn both(pattern: &str, filter: &str) -> Option<String> {
    let (mut own, mut out) = (pattern.split('/').peekable(), Vec::new());
    for level in filter.split('/') {
        match (own.peek().copied(), level) {
            (Some("#"), level) => out.push(level),
            (Some("+"), level) => {
                out.push(level);
                own.next();
            }
            (Some(text), "+") => {
                out.push(text);
                own.next();
            }
            (Some(text), level) if text == level => {
                out.push(text);
                own.next();
            }
            _ => return None,
        }
    }
    match own.next() {
        None | Some("#") => Some(out.join("/")),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_of_both_are_written_as_one_filter() {
        for (pattern, expected) in [
            ("$SYS/#", Some(BRIDGE_STATE)),
            ("$SYS/+/+/${clientid}/state", Some("$SYS/broker/connection/${clientid}/state")),
            ("$SYS/broker/connection/+/state/#", Some(BRIDGE_STATE)),
            ("$SYS/broker/connection/a/state", Some("$SYS/broker/connection/a/state")),
            ("$SYS/broker/load/#", None),
            ("$SYS/broker/connection/a", None),
            ("$SYS/broker/connection/a/state/x", None),
            ("$SYSTEM/#", None),
        ] {
            assert_eq!(both(pattern, BRIDGE_STATE).as_deref(), expected, "{pattern}");
        }
    }

    #[test]
    fn any_text_can_be_a_string_of_toml() {
        assert_eq!(quoted("a\"b\\c\u{7}\u{7f}é"), "\"a\\\"b\\\\c\\u0007\\u007Fé\"");
    }
}
