//! The place of a value, as people are shown it.

use std::fmt;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueOrigin {
    /// Somebody wrote it there: `--mqtt-port`, `environment variable MPROXY_MQTT_PORT`, `mproxy.toml:4 mqtt.port`.
    Written(Box<str>),
    /// It is the default of this key.
    Default(&'static str),
}

impl ValueOrigin {
    /// A flag, named without its dashes.
    #[must_use]
    pub fn flag(name: &str) -> Self {
        Self::Written(format!("--{name}").into())
    }

    /// An environment variable.
    #[must_use]
    pub fn variable(name: &str) -> Self {
        Self::Written(format!("environment variable {name}").into())
    }

    /// A line of a file, from 1, and the key there; empty where there is none yet.
    #[must_use]
    pub fn line(path: &str, line: usize, key: &str) -> Self {
        let space = if key.is_empty() { "" } else { " " };
        Self::Written(format!("{path}:{line}{space}{key}").into())
    }

    /// A key that is missing in the table that stands here.
    #[must_use]
    pub(super) fn within(&self, key: &str) -> Self {
        Self::Written(format!("{self}.{key}").into())
    }

    /// Whether a person wrote it.
    #[must_use]
    pub const fn is_explicit(&self) -> bool {
        matches!(self, Self::Written(_))
    }
}

impl fmt::Display for ValueOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Written(place) => f.write_str(place),
            Self::Default(key) => write!(f, "default of {key}"),
        }
    }
}
