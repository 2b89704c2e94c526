//! What a row of the [table] of settings says. `--help`, reading, checking, printing, `docs/configuration.md`,
//! `deploy/mproxy.example.toml` and `deploy/mproxy.schema.json` all follow from it.

pub mod table;

use std::fmt;
use std::marker::PhantomData;

pub use super::kind::{Form, SettingKind};
pub use table::SECTIONS;

/// Names the configuration file.
pub const CONFIG_VARIABLE: &str = "MPROXY_CONFIG";

/// Set for a process that an mproxy starts to take its place: its standard input is the channel to that one.
pub const UPGRADE_VARIABLE: &str = "MPROXY_UPGRADE";

/// How the keys of one `[[listeners]]` begin.
const OF_LISTENER: &str = "listeners[].";

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct SettingRow {
    /// Path in the file, `mqtt.target.port`; `[]` stands behind a list of tables.
    pub key: &'static str,
    /// Path within one `[[listeners]]`, where a listener may have its own: `limits.max_packet_size`.
    pub at_listener: Option<&'static str>,
    /// Environment variable.
    pub variable: Option<&'static str>,
    /// Long flag without its dashes.
    pub flag: Option<&'static str>,
    /// Its documentation, in Markdown. The first paragraph stands in `--help`.
    pub text: &'static str,
    /// As it would be written.
    pub default: Option<&'static str>,
    /// What holds where it is not written, where that is no value of its own.
    pub left_out: Option<&'static str>,
    /// What the example file shows, as TOML.
    pub example: Option<Example>,
    /// How it looks.
    pub form: Form,
    /// What it has an effect on.
    pub needs: Needs,
    /// What a reload does about it.
    pub reload: Reload,
    /// How it is shown.
    pub shown: Shown,
    /// Whether this text can be read.
    pub check: fn(&str) -> Result<(), String>,
}

/// A value in the example file, as TOML.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Example {
    /// In force there.
    InForce(&'static str),
    /// Behind a `#`.
    Commented(&'static str),
}

/// Where a setting has to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applies {
    /// To mproxy as a whole.
    Process,
    /// To all listeners, and each may have its own.
    Listeners,
    /// To one listener alone.
    OneListener,
}

/// What a listener, or its target, has to have for a setting to have an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// A WebSocket transport.
    WebSocket,
    /// A TLS transport.
    Tls,
    /// The transport that is a Unix socket.
    Unix,
    /// A target over WebSocket.
    TargetWebSocket,
    /// A target over TLS.
    TargetTls,
}

/// What a reload does about a changed setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// Nothing: it takes a restart.
    Restart,
    /// Takes the new value, and reads the file that it names again.
    Contents,
    /// Takes the new value.
    Value,
    /// Takes the new value for connections that are made from then on.
    NewConnections,
}

/// Whether a value may be printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// As it is.
    Open,
    /// Never.
    Masked,
}

/// Rows that are documented together.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// What the documentation calls it between its marks.
    pub name: &'static str,
    /// The rows.
    pub rows: &'static [SettingRow],
}

/// All settings.
pub fn all() -> impl Iterator<Item = &'static SettingRow> {
    SECTIONS.iter().flat_map(|section| section.rows)
}

/// The setting that this key is of: `mqtt.port`, `listeners[2].limits.max_packet_size`.
#[must_use]
pub fn find(key: &str) -> Option<&'static SettingRow> {
    let generic = generic(key);
    let of_listener = generic.strip_prefix(OF_LISTENER);
    all().find(|row| row.key == generic || (of_listener.is_some() && row.at_listener == of_listener))
}

/// The key without numbers: `listeners[2].port` as `listeners[].port`.
fn generic(key: &str) -> String {
    let mut is_number = false;
    key.chars()
        .filter(|c| {
            is_number = (is_number || *c == '[') && *c != ']';
            !is_number || *c == '['
        })
        .collect()
}

/// The keys of the file outside `[[listeners]]`, those of one table side by side.
#[must_use]
pub fn keys() -> Vec<&'static str> {
    by_table(all().map(|row| row.key).filter(|key| !key.starts_with(OF_LISTENER)))
}

/// The keys of one `[[listeners]]`, those of one table side by side.
#[must_use]
pub fn listener_keys() -> Vec<&'static str> {
    let (own, common): (Vec<_>, Vec<_>) = all().partition(|row| row.applies() == Applies::OneListener);
    by_table(own.into_iter().chain(common).filter_map(SettingRow::listener_key))
}

fn by_table(keys: impl Iterator<Item = &'static str>) -> Vec<&'static str> {
    let table = |key: &'static str| key.rsplit_once('.').map_or("", |(table, _)| table);
    let keys: Vec<_> = keys.collect();
    // Keys of the root come first, or they would be those of a table.
    let mut tables = vec![""];
    for key in &keys {
        if !tables.contains(&table(key)) {
            tables.push(table(key));
        }
    }
    let of = |wanted| keys.iter().copied().filter(move |key| table(key) == wanted);
    tables.into_iter().flat_map(of).collect()
}

impl SettingRow {
    /// Where it has to be written.
    #[must_use]
    pub fn applies(&self) -> Applies {
        match self.at_listener {
            Some(_) => Applies::Listeners,
            None if self.key.starts_with(OF_LISTENER) => Applies::OneListener,
            None => Applies::Process,
        }
    }

    /// Its key within one `[[listeners]]`.
    #[must_use]
    pub fn listener_key(&self) -> Option<&'static str> {
        self.at_listener.or_else(|| self.key.strip_prefix(OF_LISTENER))
    }

    /// The paragraphs of its documentation, each on one line.
    pub fn paragraphs(&self) -> impl Iterator<Item = String> {
        let join = |paragraph: &str| paragraph.lines().map(str::trim).collect::<Vec<_>>().join(" ");
        self.text.trim().split("\n\n").map(move |paragraph| join(paragraph.trim()))
    }

    /// One line for `--help`.
    #[must_use]
    pub fn about(&self) -> String {
        // A terminal shows Markdown as it is written.
        let mut about = self.paragraphs().next().unwrap_or_default().replace('`', "");
        about.truncate(about.trim_end_matches('.').len());
        about
    }

    /// What holds where it is not written, for people.
    #[must_use]
    pub fn default_shown(&self) -> Option<String> {
        self.left_out.or(self.default).map(|text| text.replace('`', ""))
    }

    /// The values that it takes, where they are a few words.
    #[must_use]
    pub const fn choices(&self) -> &'static [&'static str] {
        if let Form::Choice(words) = self.form { words } else { &[] }
    }

    /// The keys that may hold it at this place, the nearest first.
    pub(super) fn keys_at(&self, place: SettingPlace) -> impl Iterator<Item = String> + use<> {
        let own = match place {
            SettingPlace::Process => None,
            SettingPlace::Listener(index) => {
                self.listener_key().map(|key| format!("listeners[{index}].{key}"))
            }
        };
        let common = (!self.key.starts_with(OF_LISTENER)).then(|| self.key.to_owned());
        own.into_iter().chain(common)
    }
}

/// For whom a setting is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SettingPlace {
    /// For mproxy as a whole, and its four listeners that need no `[[listeners]]`.
    Process,
    /// For one of `[[listeners]]`.
    Listener(usize),
}

/// Where rows get their values from.
pub(super) trait Values {
    /// The value of a setting at this place: its own, the one of all, or the default.
    fn get<K: SettingKind>(&self, setting: &SettingOf<K>, place: SettingPlace) -> K::Value;
}

/// A row, and the kind of its value.
pub struct SettingOf<K> {
    /// What there is to know of it.
    pub row: SettingRow,
    kind: PhantomData<fn() -> K>,
}

// By hand: derived, this and the next would ask the same of `K`, of which there is no value.
impl<K> Clone for SettingOf<K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K> Copy for SettingOf<K> {}

impl<K> fmt::Debug for SettingOf<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.row.fmt(f)
    }
}

fn check<K: SettingKind>(text: &str) -> Result<(), String> {
    K::read(text).map(drop)
}

impl<K: SettingKind> SettingOf<K> {
    /// A setting that the file alone has.
    const fn new(key: &'static str) -> Self {
        let row = SettingRow {
            key,
            at_listener: None,
            variable: None,
            flag: None,
            text: "",
            default: None,
            left_out: None,
            example: None,
            form: K::FORM,
            needs: Needs::Nothing,
            reload: Reload::Restart,
            shown: Shown::Open,
            check: check::<K>,
        };
        Self { row, kind: PhantomData }
    }

    /// The value where nothing is written.
    pub(super) fn default_value(&self) -> K::Value {
        let default = self.row.default.map_or_else(K::absent, |text| K::read(text).ok());
        default.expect("a test reads the default of every row")
    }
}

impl<K> SettingOf<K> {
    const fn variable(mut self, variable: &'static str) -> Self {
        self.row.variable = Some(variable);
        self
    }

    const fn flag(mut self, flag: &'static str) -> Self {
        self.row.flag = Some(flag);
        self
    }

    const fn default(mut self, text: &'static str) -> Self {
        self.row.default = Some(text);
        self
    }

    const fn left_out(mut self, text: &'static str) -> Self {
        self.row.left_out = Some(text);
        self
    }

    const fn example(mut self, toml: &'static str) -> Self {
        self.row.example = Some(Example::Commented(toml));
        self
    }

    const fn in_force(mut self, toml: &'static str) -> Self {
        self.row.example = Some(Example::InForce(toml));
        self
    }

    /// A listener may have its own, under this key.
    const fn at_listener(mut self, key: &'static str) -> Self {
        self.row.at_listener = Some(key);
        self
    }

    const fn needs(mut self, needs: Needs) -> Self {
        self.row.needs = needs;
        self
    }

    const fn reload(mut self, reload: Reload) -> Self {
        self.row.reload = reload;
        self
    }

    /// A reload takes it.
    const fn now(self) -> Self {
        self.reload(Reload::Value)
    }

    /// A reload takes it for new connections.
    const fn for_new(self) -> Self {
        self.reload(Reload::NewConnections)
    }

    const fn masked(mut self) -> Self {
        self.row.shown = Shown::Masked;
        self
    }

    const fn text(mut self, text: &'static str) -> Self {
        self.row.text = text;
        self
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_name_stands_for_two_settings() {
        let mut seen = HashSet::new();
        for row in all() {
            let flag = row.flag.map(|flag| format!("--{flag}"));
            let own = row.at_listener.map(|key| format!("{OF_LISTENER}{key}"));
            let names = [Some(row.key.to_owned()), row.variable.map(str::to_owned), flag, own];
            for name in names.into_iter().flatten() {
                assert!(seen.insert(name.clone()), "{name} twice");
            }
        }
    }

    #[test]
    fn defaults_can_be_read() {
        for row in all() {
            let read = row.default.map(row.check);
            assert!(!matches!(read, Some(Err(_))), "{}: {read:?}", row.key);
        }
    }

    #[test]
    fn a_key_is_found_wherever_it_stands() {
        let found = |key: &str| find(key).map(|row| row.key);
        assert_eq!(found("mqtt.port"), Some("mqtt.port"));
        assert_eq!(found("listeners[12].port"), Some("listeners[].port"));
        assert_eq!(found("listeners[0].limits.max_packet_size"), Some("max_packet_size"));
        assert_eq!(found("listeners[0].tls.certificates[3].ocsp"), Some("tls.certificates[].ocsp"));
        assert_eq!(found("listeners[0].max_packet_size"), None);
        assert_eq!(found("limits.max_packet_size"), None);
    }
}
