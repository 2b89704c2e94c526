//! Values as they were written, all layers merged, each with its place. Knows no meaning.

use std::collections::BTreeMap;

use config::{ConfigError, Map, Value, ValueKind};

use super::layers::{self, Layer, OWN};
use super::origin::ValueOrigin;
use super::settings::{self, Shown};
use super::value::Secret;

/// A value as text.
#[derive(Clone, Debug)]
pub(super) struct WrittenValue {
    pub text: String,
    pub origin: ValueOrigin,
}

/// All values in force, by file key.
#[derive(Clone, Debug, Default)]
pub(super) struct Written {
    entries: BTreeMap<String, WrittenValue>,
    /// Where each table of a list of them stands, in order: of `listeners`, `listeners[0].tls.certificates`.
    lists: BTreeMap<String, Vec<ValueOrigin>>,
}

/// A setting in force, as it may be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// File key, `mqtt.port` or `listeners[0].port`.
    pub key: String,
    /// As written, or `***`; `None` where it is not set.
    pub value: Option<String>,
    /// Where it came from; `None` where it is not set.
    pub origin: Option<ValueOrigin>,
    /// What `value` hides, to be compared.
    pub(super) secret: Option<Secret>,
}

impl Effective {
    /// Whether it has the same value, which may be a secret.
    pub(super) fn says_the_same(&self, other: &Self) -> bool {
        self.value == other.value && self.secret == other.secret
    }
}

/// What stands for a secret in anything shown.
pub(super) const MASK: &str = "***";

impl Written {
    /// What these layers come to; a later one wins.
    pub(super) fn merge(layers: impl IntoIterator<Item = Layer>) -> Result<Self, ConfigError> {
        let mut written = Self::default();
        written.table("", layers::merge(layers)?);
        Ok(written)
    }

    fn table(&mut self, root: &str, values: Map<String, Value>) {
        for (name, value) in values {
            match name.as_str() {
                OWN => self.value(root.trim_end_matches('.').to_owned(), value),
                name => self.value(format!("{root}{name}"), value),
            }
        }
    }

    fn value(&mut self, key: String, value: Value) {
        let origin = origin(&key, &value);
        match value.kind {
            ValueKind::Table(values) => self.table(&format!("{key}."), values),
            // Only tables come as a list: several values were joined into one text where the file was read.
            ValueKind::Array(tables) => {
                let origins = tables.iter().map(|table| self::origin(&key, table)).collect();
                self.lists.insert(key.clone(), origins);
                for (index, table) in tables.into_iter().enumerate() {
                    self.value(format!("{key}[{index}]"), table);
                }
            }
            leaf => drop(self.entries.insert(key, WrittenValue { text: leaf.to_string(), origin })),
        }
    }

    /// Where the tables of this list stand.
    pub(super) fn tables(&self, list: &str) -> &[ValueOrigin] {
        self.lists.get(list).map_or(&[], Vec::as_slice)
    }

    pub(super) fn get(&self, key: &str) -> Option<&WrittenValue> {
        self.entries.get(key)
    }

    /// Keys and values behind this root.
    pub(super) fn behind(&self, root: &str) -> impl Iterator<Item = (&str, &WrittenValue)> {
        let entries = self.entries.range(root.to_owned()..);
        entries.take_while(move |(key, _)| key.starts_with(root)).map(|(key, entry)| (key.as_str(), entry))
    }

    /// Where the value of this key was written, if a person wrote it.
    pub(super) fn explicit(&self, key: &str) -> Option<&ValueOrigin> {
        self.get(key).map(|entry| &entry.origin).filter(|origin| origin.is_explicit())
    }

    /// Where the value of this key came from, default or not.
    pub(super) fn origin(&self, key: &str) -> ValueOrigin {
        self.get(key).map_or_else(|| ValueOrigin::Default(known(key)), |entry| entry.origin.clone())
    }

    /// The keys of everything that can be written, in the order of the tables; those of a list once for each of its
    /// tables, `listeners` included.
    pub(super) fn keys(&self) -> Vec<String> {
        let mut keys = self.each("", &settings::keys());
        for index in 0..self.tables("listeners").len() {
            keys.extend(self.each(&format!("listeners[{index}]."), &settings::listener_keys()));
        }
        keys
    }

    /// Everything in force, in the order of the tables, secrets masked; of a listener what it has itself.
    pub(super) fn effective(&self) -> Vec<Effective> {
        let shown = self.keys().into_iter().map(|key| self.shown(key));
        shown
            // What a listener leaves out it inherits, and that is shown where it stands.
            .filter(|effective| effective.value.is_some() || !effective.key.starts_with("listeners["))
            .collect()
    }

    /// The keys as they stand in the file behind `root`: those of a list once for each of its tables.
    fn each(&self, root: &str, keys: &[&str]) -> Vec<String> {
        let mut each = Vec::new();
        let mut done = None;
        for key in keys {
            let Some((list, _)) = key.split_once("[].") else {
                each.push(format!("{root}{key}"));
                continue;
            };
            // Its first key has brought all the others.
            if done.replace(list) == Some(list) {
                continue;
            }
            for index in 0..self.tables(&format!("{root}{list}")).len() {
                let inner = keys.iter().filter_map(|key| key.strip_prefix(list)?.strip_prefix("[]."));
                each.extend(inner.map(|inner| format!("{root}{list}[{index}].{inner}")));
            }
        }
        each
    }

    fn shown(&self, key: String) -> Effective {
        let entry = self.get(&key);
        let is_masked = settings::find(&key).is_some_and(|row| row.shown == Shown::Masked);
        let value = entry.map(|entry| if is_masked { MASK.to_owned() } else { entry.text.clone() });
        let secret = entry.filter(|_| is_masked).map(|entry| Secret::from(entry.text.as_str()));
        Effective { value, origin: entry.map(|entry| entry.origin.clone()), secret, key }
    }
}

fn origin(key: &str, value: &Value) -> ValueOrigin {
    value
        .origin()
        .map_or_else(|| ValueOrigin::Default(known(key)), |place| ValueOrigin::Written(place.into()))
}

fn known(key: &str) -> &'static str {
    settings::find(key).map_or("listeners", |row| row.key)
}
