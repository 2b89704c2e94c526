//! The `[[rewrites]]` of a rule file: tables of topics that the broker knows by other names.

use std::ops::Range;
use std::sync::Arc;

use mproxy_core::grant::{ROWS, RewriteClash, RewriteRule, RewriteSide, RewriteTable, find_clashes};
use mproxy_core::rule::Who;
use toml::de::DeTable;

use super::{AclReader, TomlValue};
use crate::acl::NameSet;
use crate::acl::client_match::ClientMatch;
use crate::acl::static_rewrites::{RewritesForAll, StaticRewrites};

/// A row that was read, and where it stands.
struct ReadRow {
    rule: RewriteRule,
    at: usize,
    line: usize,
    from: Range<usize>,
    to: Range<usize>,
}

impl AclReader<'_> {
    pub(super) fn rewrites(
        &mut self,
        table: &DeTable<'_>,
        at: Range<usize>,
        path: &str,
    ) -> Option<StaticRewrites> {
        let before = self.faults.len();
        let (mut who, mut rows, mut count) = (ClientMatch::default(), Vec::new(), 0);
        for (key, value) in table {
            let full = format!("{path}.{}", key.get_ref());
            match key.get_ref().as_ref() {
                "rows" => self.each_table(value, &full, |reader, table, at, path| {
                    rows.extend(reader.rewrite_row(table, at, path, count));
                    count += 1;
                }),
                "from" | "to" => self.fault(key.span(), full, "stands in a row: write [[rewrites.rows]]"),
                name if self.client_match(name, value, &full, &mut who) => {}
                unknown => self.unknown(key.span(), path, unknown, REWRITES),
            }
        }
        if !table.contains_key("rows") {
            self.missing(at, format!("{path}.rows"));
        }
        if count > ROWS {
            let what =
                format!("has {count} rows, and may have {ROWS}: each topic is held against all of them");
            let span = table.get("rows").map_or(0..0, |rows| rows.span());
            self.fault(span, format!("{path}.rows"), what);
        } else {
            self.clashes(&rows, path);
        }
        if self.faults.len() > before {
            return None;
        }
        let rules: Vec<_> = rows.into_iter().map(|row| row.rule).collect();
        let rows = if rules.iter().all(RewriteRule::is_fixed) {
            let rows = rules.iter().filter_map(|rule| rule.expand(Who::NOBODY)).collect();
            RewritesForAll::Same(Arc::new(RewriteTable::new(rows)))
        } else {
            RewritesForAll::Each(rules)
        };
        Some(StaticRewrites { who, rows })
    }

    fn rewrite_row(
        &mut self,
        table: &DeTable<'_>,
        at: Range<usize>,
        path: &str,
        number: usize,
    ) -> Option<ReadRow> {
        let (mut from, mut to) = (None, None);
        for (key, value) in table {
            let full = format!("{path}.{}", key.get_ref());
            match key.get_ref().as_ref() {
                "from" => from = self.text(value, &full).map(|text| (text, value.span())),
                "to" => to = self.text(value, &full).map(|text| (text, value.span())),
                unknown => self.unknown(key.span(), path, unknown, &["from", "to"]),
            }
        }
        for key in ["from", "to"] {
            if !table.contains_key(key) {
                self.missing(at.clone(), format!("{path}.{key}"));
            }
        }
        let ((from, from_span), (to, to_span)) = (from?, to?);
        match RewriteRule::parse(from, to) {
            Ok(rule) => {
                Some(ReadRow { rule, at: number, line: self.line(&at), from: from_span, to: to_span })
            }
            Err(faults) => {
                for (side, error) in faults {
                    let (text, span) = match side {
                        RewriteSide::From => (from, from_span.clone()),
                        RewriteSide::To => (to, to_span.clone()),
                    };
                    self.fault(span, format!("{path}.{side}"), format!("{text:?}: {error}"));
                }
                None
            }
        }
    }

    /// Tells which rows do not exclude each other.
    fn clashes(&mut self, rows: &[ReadRow], path: &str) {
        let rules: Vec<_> = rows.iter().map(|row| row.rule.clone()).collect();
        for clash in find_clashes(&rules) {
            let (at, side, other, what) = match clash {
                RewriteClash::Both { side: RewriteSide::From, first, second } => {
                    let what = "a topic may be as both say, and which of them is meant could not be told; \
                                tell them apart by a level, or leave one of them out";
                    (second, RewriteSide::From, (first, RewriteSide::From), what)
                }
                RewriteClash::Both { side: RewriteSide::To, first, second } => {
                    let what = "two topics may become the same one, and the way back could not be told; \
                                tell them apart by a level";
                    (second, RewriteSide::To, (first, RewriteSide::To), what)
                }
                RewriteClash::Loop { writes, reads } => {
                    let what = "what this writes may be what that reads, so repeated it would go on, and the way \
                                back could not be told; begin it with a level that no from has (a variable may \
                                stand for any), or use the prefix of a grant";
                    (writes, RewriteSide::To, (reads, RewriteSide::From), what)
                }
            };
            let (Some(row), Some(with)) = (rows.get(at), rows.get(other.0)) else { continue };
            let span = match side {
                RewriteSide::From => row.from.clone(),
                RewriteSide::To => row.to.clone(),
            };
            let key = format!("{path}.rows[{}].{side}", row.at);
            let what = format!("clashes with rows[{}].{} in line {}: {what}", with.at, other.1, with.line);
            self.fault(span, key, what);
        }
    }

    /// One of the keys that say for whom something is; whether `name` is one.
    pub(super) fn client_match(
        &mut self,
        name: &str,
        value: &TomlValue<'_>,
        full: &str,
        who: &mut ClientMatch,
    ) -> bool {
        match name {
            "users" => who.users = Some(self.names(value, full)),
            "groups" => who.groups = Some(self.names(value, full)),
            "client_ids" => who.client_ids = Some(self.names(value, full)),
            "listeners" => {
                let mut names = Vec::new();
                self.each_text(value, full, |reader, text, span, key| {
                    names.push(text.into());
                    let line = reader.line(&span);
                    reader.listeners.push(NamedListener { name: text.into(), line, key });
                });
                who.listeners = Some(NameSet::new(names));
            }
            "claims" => who.claims = self.claims(value, full),
            "certificate" => who.certificate = self.certificate(value, full),
            _ => return false,
        }
        true
    }
}

const REWRITES: &[&str] = &["users", "groups", "client_ids", "listeners", "claims", "certificate", "rows"];

/// A listener that the file names.
#[derive(Debug)]
pub(in crate::acl) struct NamedListener {
    pub(in crate::acl) name: Box<str>,
    pub(in crate::acl) line: usize,
    /// Where in the file.
    pub(in crate::acl) key: String,
}
