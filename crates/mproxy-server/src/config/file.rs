//! The TOML file: every leaf becomes text with its line; every key that nobody knows is a fault.

use std::path::Path;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Problem;
use super::nearest::nearest;
use super::settings::{LIST_KEYS, LISTENER_KEYS, SETTINGS};
use super::written::{Origin, Written};

/// Reads `text` into `written`.
pub(super) fn read(path: &Path, text: &str, written: &mut Written, faults: &mut Vec<Problem>) {
    let path = path.display().to_string().into();
    let mut file = File { path, text, written, faults };
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let line = error.span().map_or(1, |span| file.line(span.start));
        file.fault(line, "", error.message().to_owned());
    }
    let keys: Vec<&'static str> = SETTINGS.iter().map(|setting| setting.key).collect();
    file.table(document.get_ref(), &Scope::of(String::new(), &keys));
}

struct File<'a> {
    path: Arc<str>,
    text: &'a str,
    written: &'a mut Written,
    faults: &'a mut Vec<Problem>,
}

/// A table within the file: `place` is how a person finds it (`listeners[0].tls.certificates[1].`), `prefix` how the
/// keys that it may hold begin (`tls.certificates[].`), and `root` where such keys begin (`listeners[0].`).
struct Scope<'a> {
    root: String,
    place: String,
    prefix: String,
    keys: &'a [&'static str],
}

impl<'a> Scope<'a> {
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

impl File<'_> {
    fn table(&mut self, table: &DeTable<'_>, scope: &Scope<'_>) {
        for (name, value) in table {
            let line = self.line(name.span().start);
            self.entry(name.get_ref(), line, value, scope);
        }
    }

    fn entry(&mut self, name: &str, line: usize, value: &Spanned<DeValue<'_>>, scope: &Scope<'_>) {
        let key = format!("{}{name}", scope.prefix);
        let place = format!("{}{name}", scope.place);
        let is_setting = scope.keys.contains(&key.as_str());
        let inner = scope.inner(name);
        let is_table = inner.holds();
        let is_list = place == "listeners" || scope.member(name, 0).holds();
        match value.get_ref() {
            DeValue::Table(table) if is_table => self.table(table, &inner),
            DeValue::Array(tables) if is_list => self.tables(name, tables, scope),
            _ if is_list => self.no_list(line, &place),
            _ if !is_setting && !is_table => self.unknown(line, &place, &key, scope),
            DeValue::Table(_) => self.fault(line, &place, "takes one value, not a table".to_owned()),
            _ if !is_setting => self.fault(line, &place, format!("is a table: write [{place}]")),
            leaf => self.leaf(line, &place, leaf, LIST_KEYS.contains(&key.as_str())),
        }
    }

    fn leaf(&mut self, line: usize, place: &str, leaf: &DeValue<'_>, list: bool) {
        match leaf_text(leaf, list) {
            Some(text) => {
                let origin = self.origin(line, place);
                self.written.set(place, &text, origin);
            }
            None => self.fault(line, place, "takes one value, not a list".to_owned()),
        }
    }

    /// `[[listeners]]`, or a list of tables within one of them or beside them.
    fn tables(&mut self, name: &str, tables: &[Spanned<DeValue<'_>>], scope: &Scope<'_>) {
        let list = format!("{}{name}", scope.place);
        for (index, table) in tables.iter().enumerate() {
            let line = self.line(table.span().start);
            let place = format!("{list}[{index}]");
            let origin = self.origin(line, &place);
            self.written.add_table(&list, origin);
            let inner = match list.as_str() {
                "listeners" => Scope::of(format!("{place}."), LISTENER_KEYS),
                _ => scope.member(name, index),
            };
            match table.get_ref() {
                DeValue::Table(table) => self.table(table, &inner),
                _ => self.no_list(line, &place),
            }
        }
    }

    fn no_list(&mut self, line: usize, place: &str) {
        let names: Vec<_> = place.split('.').map(|name| name.split('[').next().unwrap_or(name)).collect();
        self.fault(line, place, format!("is written as [[{}]], once for each", names.join(".")));
    }

    fn unknown(&mut self, line: usize, place: &str, key: &str, scope: &Scope<'_>) {
        let near = nearest(key, scope.names()).unwrap_or_default();
        let near = match near.strip_prefix(&scope.prefix) {
            Some(inner) => format!("{}{inner}", scope.place),
            None => format!("{}{near}", scope.root),
        };
        self.fault(line, place, format!("unknown key; the nearest known one is {near}"));
    }

    fn fault(&mut self, line: usize, place: &str, text: String) {
        let origin = self.origin(line, place);
        self.faults.push(Problem { origin, text });
    }

    fn origin(&self, line: usize, place: &str) -> Origin {
        Origin::File { path: Arc::clone(&self.path), line, key: place.into() }
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
