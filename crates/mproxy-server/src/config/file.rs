//! The TOML file as a layer: every leaf becomes text with its line; every unknown key is a fault.

use std::collections::BTreeSet;
use std::path::Path;

use config::{Map, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::ConfigProblem;
use super::layers::{Layer, OWN, leaf};
use super::origin::ValueOrigin;
use super::settings;
use mproxy_policy::nearest;

/// Reads `text`; what is wrong with it goes to `faults`, and what is right into the layer.
pub(super) fn read(path: &Path, text: &str, faults: &mut Vec<ConfigProblem>) -> Layer {
    let mut file = File { path: path.display().to_string(), text, broken_lines: Vec::new(), faults };
    // Goes on behind a mistake, so that all of them are told at once.
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let line = error.span().map_or(1, |span| file.line(span.start));
        file.broken_lines.push(line);
        file.fault(line, "", error.message().to_owned());
    }
    Layer { values: file.table(document.get_ref(), &TableScope::of(String::new(), &settings::keys())) }
}

struct File<'a> {
    path: String,
    text: &'a str,
    /// Lines that are no TOML: what could be read of them are no keys that somebody wrote.
    broken_lines: Vec<usize>,
    faults: &'a mut Vec<ConfigProblem>,
}

/// A table within the file: `place` is how a person finds it (`listeners[0].tls.certificates[1].`), `prefix` how the
/// keys that it may hold begin (`tls.certificates[].`), and `root` where such keys begin (`listeners[0].`).
struct TableScope<'a> {
    root: String,
    place: String,
    prefix: String,
    keys: &'a [&'static str],
}

impl<'a> TableScope<'a> {
    fn of(root: String, keys: &'a [&'static str]) -> Self {
        Self { place: root.clone(), root, prefix: String::new(), keys }
    }

    fn inner(&self, name: &str) -> Self {
        Self {
            root: self.root.clone(),
            place: format!("{}{name}.", self.place),
            prefix: format!("{}{name}.", self.prefix),
            keys: self.keys,
        }
    }

    /// One table of a list of them.
    fn member(&self, name: &str, index: usize) -> Self {
        Self {
            place: format!("{}{name}[{index}].", self.place),
            prefix: format!("{}{name}[].", self.prefix),
            ..self.inner(name)
        }
    }

    fn holds(&self) -> bool {
        self.keys.iter().any(|known| known.starts_with(&self.prefix))
    }

    /// Every key that would be right here, the tables included.
    fn names(&self) -> impl Iterator<Item = &'static str> {
        let tables = self.keys.iter().flat_map(|key| key.match_indices('.').map(|(end, _)| &key[..end]));
        let tables = tables.map(|table| table.trim_end_matches("[]"));
        self.keys.iter().copied().chain(tables).chain(self.root.is_empty().then_some("listeners"))
    }
}

impl TableScope<'_> {
    /// What a key may begin with here, by the alphabet.
    fn first_names(&self) -> Vec<&'static str> {
        let inner = self.names().filter_map(|name| name.strip_prefix(&self.prefix));
        let first = inner.map(|name| name.split(['.', '[']).next().unwrap_or(name));
        first.collect::<BTreeSet<_>>().into_iter().collect()
    }
}

impl File<'_> {
    fn table(&mut self, table: &DeTable<'_>, scope: &TableScope<'_>) -> Map<String, Value> {
        let mut values = Map::new();
        for (name, value) in table {
            let line = self.line(name.span().start);
            if let Some(value) = self.entry(name.get_ref(), line, value, scope) {
                values.insert(name.get_ref().to_string(), value);
            }
        }
        values
    }

    fn entry(
        &mut self,
        name: &str,
        line: usize,
        value: &Spanned<DeValue<'_>>,
        scope: &TableScope<'_>,
    ) -> Option<Value> {
        let key = format!("{}{name}", scope.prefix);
        let place = format!("{}{name}", scope.place);
        let is_setting = scope.keys.contains(&key.as_str());
        let inner = scope.inner(name);
        let is_table = inner.holds();
        let is_list = place == "listeners" || scope.member(name, 0).holds();
        // In this order, so that each mistake is told in the words that help: a wrong form before an unknown key.
        match value.get_ref() {
            DeValue::Table(table) if is_table => return Some(Value::new(None, self.table(table, &inner))),
            DeValue::Array(tables) if is_list => return Some(self.tables(name, tables, scope)),
            _ if is_list => self.no_list(line, &place),
            _ if !is_setting && !is_table => self.unknown(line, &place, &key, scope),
            DeValue::Table(_) => self.fault(line, &place, "expected a single value, not a table".to_owned()),
            _ if !is_setting => self.fault(line, &place, format!("is a table: write [{place}]")),
            leaf => {
                let value = self.leaf(line, &place, leaf)?;
                // `policy.on_error` is a value and a table: the one must not push out of the merge what another
                // layer has of the other.
                let own = || Value::new(None, Map::from([(OWN.to_owned(), value.clone())]));
                return Some(if is_table { own() } else { value });
            }
        }
        None
    }

    fn leaf(&mut self, line: usize, place: &str, value: &DeValue<'_>) -> Option<Value> {
        let is_list = settings::find(place).is_some_and(|row| row.form.is_list());
        let text = leaf_text(value, is_list);
        if text.is_none() {
            self.fault(line, place, "expected a single value, not a list".to_owned());
        }
        text.map(|text| leaf(&text, &self.origin(line, place)))
    }

    /// `[[listeners]]`, or a list of tables within one of them or beside them.
    fn tables(&mut self, name: &str, tables: &[Spanned<DeValue<'_>>], scope: &TableScope<'_>) -> Value {
        let list = format!("{}{name}", scope.place);
        let mut values = Vec::new();
        for (index, table) in tables.iter().enumerate() {
            let line = self.line(table.span().start);
            let place = format!("{list}[{index}]");
            let keys = settings::listener_keys();
            let inner = match list.as_str() {
                "listeners" => TableScope::of(format!("{place}."), &keys),
                _ => scope.member(name, index),
            };
            let table = match table.get_ref() {
                DeValue::Table(table) => self.table(table, &inner),
                _ => {
                    self.no_list(line, &place);
                    // Something stands in for it, or those behind it would have other numbers than in the file.
                    Map::new()
                }
            };
            values.push(Value::new(Some(&self.origin(line, &place).to_string()), table));
        }
        Value::new(None, values)
    }

    fn no_list(&mut self, line: usize, place: &str) {
        let names: Vec<_> = place.split('.').map(|name| name.split('[').next().unwrap_or(name)).collect();
        self.fault(line, place, format!("is a list of tables: write [[{}]] for each", names.join(".")));
    }

    fn unknown(&mut self, line: usize, place: &str, key: &str, scope: &TableScope<'_>) {
        if self.broken_lines.contains(&line) {
            return;
        }
        let near = nearest(key, scope.names()).map(|near| match near.strip_prefix(&scope.prefix) {
            Some(inner) => format!("{}{inner}", scope.place),
            None => format!("{}{near}", scope.root),
        });
        let known = match near {
            Some(near) => format!("the nearest known one is {near}"),
            None => format!("those known here are {}", scope.first_names().join(", ")),
        };
        self.fault(line, place, format!("unknown key; {known}"));
    }

    fn fault(&mut self, line: usize, place: &str, text: String) {
        let origin = self.origin(line, place);
        self.faults.push(ConfigProblem { origin, text });
    }

    fn origin(&self, line: usize, place: &str) -> ValueOrigin {
        ValueOrigin::line(&self.path, line, place)
    }

    fn line(&self, offset: usize) -> usize {
        let before = self.text.as_bytes().get(..offset).unwrap_or_default();
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }
}

/// A scalar as text, so that it is read by the same rules as a variable; a list only where one may stand.
fn leaf_text(leaf: &DeValue<'_>, list: bool) -> Option<String> {
    Some(match leaf {
        DeValue::String(text) => text.to_string(),
        // TOML has hexadecimal, octal and binary numbers; variables have not, and one reader is for both.
        DeValue::Integer(number) => match i128::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => number.to_string(),
            Err(_) => number.as_str().to_owned(),
        },
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(items) if list => {
            let items: Option<Vec<String>> =
                items.iter().map(|item| leaf_text(item.get_ref(), false)).collect();
            items?.join(",")
        }
        DeValue::Array(_) | DeValue::Table(_) => return None,
    })
}
