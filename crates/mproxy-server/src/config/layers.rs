//! The layers of the configuration: defaults, file, environment, flags. Each is a source of the `config` crate, which
//! merges them; a value's origin there is the place that people are shown.

use config::{ConfigError, Map, Source, Value, ValueKind};

use super::origin::ValueOrigin;
use super::settings;

/// The values of one layer, by key; a table of the file is a table.
#[derive(Clone, Debug, Default)]
pub(super) struct Layer {
    pub values: Map<String, Value>,
}

/// Under this name a value stands among the settings that are below it in the file: `policy.on_error` is a value and a
/// table of hooks, and one layer may have the one, another the other.
pub(super) const OWN: &str = "_";

impl Layer {
    /// What holds where nobody writes anything.
    pub(super) fn of_defaults(instance: &str) -> Self {
        let mut layer = Self::default();
        for row in settings::all() {
            // The default of a row in a list of tables would make a table there.
            if let Some(text) = row.default.filter(|_| !row.key.contains("[]")) {
                layer.insert(row.key, Value::new(None, text));
            }
        }
        layer.insert("instance", Value::new(None, instance));
        layer
    }

    pub(super) fn set(&mut self, key: &str, text: &str, origin: &ValueOrigin) {
        self.insert(key, leaf(text, origin));
    }

    fn insert(&mut self, key: &str, value: Value) {
        let key = if is_table(key) { format!("{key}.{OWN}") } else { key.to_owned() };
        self.values.insert(key, value);
    }
}

/// Whether there are settings below this one.
pub(super) fn is_table(key: &str) -> bool {
    settings::all().any(|row| row.key.strip_prefix(key).is_some_and(|rest| rest.starts_with('.')))
}

/// A value with the place where it was written.
pub(super) fn leaf(text: &str, origin: &ValueOrigin) -> Value {
    Value::new(Some(&origin.to_string()), text)
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(self.values.clone())
    }
}

/// The merged layers; a later one wins.
pub(super) fn merge(layers: impl IntoIterator<Item = Layer>) -> Result<Map<String, Value>, ConfigError> {
    let merged =
        layers.into_iter().fold(config::Config::builder(), |builder, layer| builder.add_source(layer));
    // The tree itself: serde would end at the first error, and lose where values were written (ADR 0020).
    match merged.build()?.cache.kind {
        ValueKind::Table(values) => Ok(values),
        _ => Ok(Map::new()),
    }
}
