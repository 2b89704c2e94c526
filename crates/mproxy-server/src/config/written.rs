//! Values as they were written, each with where. Knows no meaning.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::settings::{self, LISTENER_KEYS, SETTINGS, Shown};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A flag, named without its dashes.
    Flag(&'static str),
    /// An environment variable.
    Env(&'static str),
    /// An environment variable that is none of ours.
    ForeignEnv(Box<str>),
    /// A line of the configuration file.
    File {
        /// The file, as it was named.
        path: Arc<str>,
        /// Line, from 1.
        line: usize,
        /// Key, `listeners[0].port`; empty where there is none yet.
        key: Box<str>,
    },
    /// The table of defaults.
    Default(&'static str),
}

impl Origin {
    /// Whether a person wrote it.
    #[must_use]
    pub const fn is_explicit(&self) -> bool {
        !matches!(self, Self::Default(_))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "--{name}"),
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::ForeignEnv(name) => write!(f, "environment variable {name}"),
            Self::File { path, line, key } if key.is_empty() => write!(f, "{path}:{line}"),
            Self::File { path, line, key } => write!(f, "{path}:{line} {key}"),
            Self::Default(key) => write!(f, "default of {key}"),
        }
    }
}

/// A value as text.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub text: String,
    pub origin: Origin,
}

/// All values, by file key; a later one replaces an earlier one.
#[derive(Clone, Debug, Default)]
pub(super) struct Written {
    entries: BTreeMap<String, Entry>,
    /// Where each table of a list of them stands, in order: of `listeners`, `listeners[0].tls.certificates`.
    lists: BTreeMap<String, Vec<Origin>>,
}

/// A setting in force, as it may be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// File key, `mqtt.port` or `listeners[0].port`.
    pub key: String,
    /// As written, or `***`; `None` where it is not set.
    pub value: Option<String>,
    /// Where it came from; `None` where it is not set.
    pub origin: Option<Origin>,
}

/// What stands for a secret in anything shown.
pub(super) const MASK: &str = "***";

impl Written {
    pub(super) fn of_defaults(instance: &str) -> Self {
        let mut written = Self::default();
        for setting in SETTINGS {
            if let Some(text) = setting.default {
                written.set(setting.key, text, Origin::Default(setting.key));
            }
        }
        written.set("instance", instance, Origin::Default("instance"));
        written
    }

    pub(super) fn set(&mut self, key: &str, text: &str, origin: Origin) {
        self.entries.insert(key.to_owned(), Entry { text: text.to_owned(), origin });
    }

    /// One more table of this list.
    pub(super) fn add_table(&mut self, list: &str, origin: Origin) {
        self.lists.entry(list.to_owned()).or_default().push(origin);
    }

    /// Where the tables of this list stand.
    pub(super) fn tables(&self, list: &str) -> &[Origin] {
        self.lists.get(list).map_or(&[], Vec::as_slice)
    }

    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// Where the value of this key was written, if a person wrote it.
    pub(super) fn explicit(&self, key: &str) -> Option<&Origin> {
        self.get(key).map(|entry| &entry.origin).filter(|origin| origin.is_explicit())
    }

    /// Where the value of this key came from, default or not.
    pub(super) fn origin(&self, key: &str) -> Origin {
        let known = || settings::find(key).map_or("listeners", |setting| setting.key);
        self.get(key).map_or_else(|| Origin::Default(known()), |entry| entry.origin.clone())
    }

    /// Everything in force, in the order of the tables, secrets masked.
    pub(super) fn effective(&self) -> Vec<Effective> {
        let keys: Vec<&str> = SETTINGS.iter().map(|setting| setting.key).collect();
        let settings = self.each("", &keys).into_iter().map(|key| {
            let mask = |text: &str| match settings::find(&key).map(|setting| setting.shown) {
                Some(Shown::Masked) => MASK.to_owned(),
                Some(Shown::Open) | None => text.to_owned(),
            };
            self.shown(key.clone(), mask)
        });
        let listeners = (0..self.tables("listeners").len()).flat_map(|index| {
            let keys = self.each(&format!("listeners[{index}]."), LISTENER_KEYS);
            let shown = keys.into_iter().map(|key| self.shown(key, str::to_owned));
            shown.filter(|effective| effective.value.is_some()).collect::<Vec<_>>()
        });
        settings.chain(listeners).collect()
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

    fn shown(&self, key: String, mask: impl Fn(&str) -> String) -> Effective {
        let entry = self.get(&key);
        let value = entry.map(|entry| mask(&entry.text));
        Effective { value, origin: entry.map(|entry| entry.origin.clone()), key }
    }
}
