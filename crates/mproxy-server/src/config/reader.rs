//! Typed values of what was written. Goes on after a fault, so that all faults are found at once.

use std::path::PathBuf;

use super::ConfigProblem;
use super::kind::{FileName, SettingKind};
use super::settings::{self, Needs, SettingOf, SettingPlace, Values};
use super::written::{Written, WrittenValue};

/// Reads typed values and collects what is wrong with them together; what is wrong with one alone was said before.
pub(super) struct SettingReader<'a> {
    pub written: &'a Written,
    pub faults: &'a mut Vec<ConfigProblem>,
    pub warnings: &'a mut Vec<ConfigProblem>,
}

impl SettingReader<'_> {
    /// What this place itself says; `None` also where it cannot be read.
    pub(super) fn own<K: SettingKind>(
        &self,
        setting: &SettingOf<K>,
        place: SettingPlace,
    ) -> Option<K::Value> {
        self.at::<K>(&setting.row.keys_at(place).next()?)
    }

    /// The value of this key.
    fn at<K: SettingKind>(&self, key: &str) -> Option<K::Value> {
        self.written.get(key).and_then(|WrittenValue { text, .. }| K::read(text).ok())
    }

    /// The name of the file that this key has.
    pub(super) fn file(&self, key: &str) -> Option<PathBuf> {
        self.at::<FileName>(key)
    }

    pub(super) fn fault(&mut self, key: &str, text: impl Into<String>) {
        self.faults.push(ConfigProblem::new(self.written.origin(key), text));
    }

    pub(super) fn warn(&mut self, key: &str, text: impl Into<String>) {
        self.warnings.push(ConfigProblem::new(self.written.origin(key), text));
    }

    /// The first key behind `root` that somebody wrote and that needs this.
    pub(super) fn first_that_needs(&self, needs: Needs, root: &str) -> Option<String> {
        let mut keys = self.written.behind(root).map(|(key, _)| key);
        keys.find(|key| settings::find(key).is_some_and(|row| row.needs == needs)).map(str::to_owned)
    }

    /// A certificate and its key: both or none.
    pub(super) fn identity(&mut self, cert: &str, key: &str) -> Option<(PathBuf, PathBuf)> {
        match (self.file(cert), self.file(key)) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (Some(_), None) => {
                self.missing(cert, key);
                None
            }
            (None, Some(_)) => {
                self.missing(key, cert);
                None
            }
            (None, None) => None,
        }
    }

    fn missing(&mut self, there: &str, absent: &str) {
        // One that is there and cannot be read has been told of.
        if self.written.get(absent).is_none() {
            let name = spoken(absent);
            self.fault(there, format!("needs {name}, too"));
        }
    }
}

impl Values for SettingReader<'_> {
    fn get<K: SettingKind>(&self, setting: &SettingOf<K>, place: SettingPlace) -> K::Value {
        let entry = setting.row.keys_at(place).find_map(|key| self.written.get(&key));
        // What cannot be read has been told of; what stands in for it must not make a second fault.
        let value = entry.and_then(|entry| K::read(&entry.text).ok().or_else(K::unreadable));
        value.unwrap_or_else(|| setting.default_value())
    }
}

/// A key and the variable that stands for it.
pub(super) fn spoken(key: &str) -> String {
    match settings::find(key).filter(|row| row.key == key).and_then(|row| row.variable) {
        Some(variable) => format!("{variable} ({key} in the file)"),
        None => key.to_owned(),
    }
}
