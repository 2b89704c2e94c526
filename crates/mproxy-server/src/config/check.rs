//! The effective configuration, for people (`mproxy check`) and for the admin API. Secrets are masked.

use std::fmt::Write;

use serde::Serialize;
use utoipa::ToSchema;

use super::written::{Effective, MASK};
use super::{ListenerSettings, Loaded, authority};

/// A TOML document of every setting in force, each with its source; but for masked secrets it can be used as a file.
#[must_use]
pub fn render(loaded: &Loaded) -> String {
    let mut page = format!(
        "# mproxy {}, the configuration in force; settings after a # have their default or are not set\n",
        env!("CARGO_PKG_VERSION")
    );
    let mut table = String::new();
    for effective in per_hook_or_general(&loaded.effective) {
        let (section, name) = effective.key.rsplit_once('.').unwrap_or(("", &effective.key));
        if section != table {
            page.push_str(&header(&table, section));
            section.clone_into(&mut table);
        }
        page.push_str(&line(name, &effective));
    }
    page.push('\n');
    for listener in &loaded.config.listeners {
        // Writing to a String cannot fail.
        let _ = writeln!(page, "# listens: {}", describe(listener));
    }
    page
}

/// `on_error` is a value or a table of hooks, and TOML allows only one of them: with a table, a hook that it
/// leaves out shows the general value.
fn per_hook_or_general(all: &[Effective]) -> impl Iterator<Item = Effective> {
    const GENERAL: &str = "policy.on_error";
    let is_hook = |key: &str| key.strip_prefix(GENERAL).is_some_and(|rest| rest.starts_with('.'));
    let per_hook = all.iter().any(|effective| effective.value.is_some() && is_hook(&effective.key));
    let general = all.iter().find(|effective| effective.key == GENERAL);
    all.iter().filter_map(move |effective| match effective.key.as_str() {
        GENERAL if per_hook => None,
        key if is_hook(key) && !per_hook => None,
        key if is_hook(key) && effective.value.is_none() => {
            general.map(|general| Effective { key: key.to_owned(), ..general.clone() })
        }
        _ => Some(effective.clone()),
    })
}

/// What has to be written between two tables.
fn header(before: &str, section: &str) -> String {
    let Some((listener, inner)) = section.split_once(']').filter(|_| section.starts_with("listeners["))
    else {
        return format!("\n{}\n", table(section));
    };
    let inner = inner.strip_prefix('.').map(|inner| table(&format!("listeners.{inner}")) + "\n");
    let is_new = !before.starts_with(listener);
    // In TOML this begins the next one, so it stands once before all tables of a listener.
    let opening = if is_new { "\n[[listeners]]\n" } else { "" };
    format!("{opening}{}", inner.unwrap_or_default())
}

/// The line that opens a table, or the next one of a list, `tls.certificates[1]`.
fn table(section: &str) -> String {
    match section.strip_suffix(']').and_then(|section| section.rsplit_once('[')) {
        Some((list, _)) => format!("[[{list}]]"),
        None => format!("[{section}]"),
    }
}

/// Defaults stand behind a `#`: written out, they would be asked for (a listener's port opens it, for one).
fn line(name: &str, effective: &Effective) -> String {
    match (&effective.value, &effective.origin) {
        (Some(value), Some(origin)) if origin.is_explicit() => {
            format!("{:<40} # {origin}\n", format!("{name} = {}", literal(value)))
        }
        (Some(value), _) => format!("{:<40} # default\n", format!("#{name} = {}", literal(value))),
        (None, _) => format!("#{name} is not set\n"),
    }
}

/// A value as TOML.
fn literal(value: &str) -> String {
    // TOML knows no leading zeros: `007` would be a fault in it.
    let is_number = value.parse::<u64>().is_ok_and(|number| number.to_string() == value);
    if is_number || value == "true" || value == "false" {
        return value.to_owned();
    }
    let mut text = String::from('"');
    for c in value.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            c if c.is_control() => text.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => text.push(c),
        }
    }
    text.push('"');
    text
}

/// One line on a listener.
#[must_use]
pub fn describe(listener: &ListenerSettings) -> String {
    let ListenerSettings { name, transport, target, .. } = listener;
    let place = place(listener);
    let path = if transport.is_websocket() { listener.path.as_str() } else { "" };
    match &listener.unix {
        Some(file) => format!("{name} at {place} (mode {:04o}) for {target}", file.mode),
        None => format!("{name} at {}://{place}{path} for {target}", transport.name()),
    }
}

/// Where it listens.
fn place(listener: &ListenerSettings) -> String {
    match &listener.unix {
        Some(file) => format!("unix:{}", file.path.display()),
        None => authority(&listener.host, listener.port),
    }
}

/// The configuration in force, as `GET /api/v1/config` shows it.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct ConfigView {
    /// Every setting.
    settings: Vec<SettingView>,
    /// Every listener.
    listeners: Vec<ListenerView>,
    /// What is allowed, and probably not meant.
    warnings: Vec<String>,
    /// What stands in the place of a secret.
    masked: &'static str,
}

/// One setting.
#[derive(Debug, Serialize, ToSchema)]
struct SettingView {
    /// Its key in the file, `general.max_connections`.
    key: String,
    /// Its value, as in the file.
    value: Option<String>,
    /// Where the value was written, or `default`.
    source: Option<String>,
}

/// One listener.
#[derive(Debug, Serialize, ToSchema)]
struct ListenerView {
    /// Its name.
    name: String,
    /// How it is spoken to: `mqtt`, `mqtts`, `ws`, `wss`, `unix`.
    transport: &'static str,
    /// The address in the configuration.
    bind: String,
    /// The broker behind it.
    target: String,
    /// Connections at most, beside the limit of all.
    max_connections: Option<usize>,
    /// Bytes of a packet at most.
    max_packet_size: u32,
}

/// The same for `GET /api/v1/config`.
#[must_use]
pub fn view(loaded: &Loaded) -> ConfigView {
    let setting = |effective: &Effective| {
        let source = effective.origin.as_ref().map(|origin| match origin.is_explicit() {
            true => origin.to_string(),
            false => "default".to_owned(),
        });
        SettingView { key: effective.key.clone(), value: effective.value.clone(), source }
    };
    let listener = |listener: &ListenerSettings| ListenerView {
        name: listener.name.clone(),
        transport: listener.transport.name(),
        bind: place(listener),
        target: listener.target.to_string(),
        max_connections: listener.limits.max_connections,
        max_packet_size: listener.limits.max_packet_size,
    };
    ConfigView {
        settings: loaded.effective.iter().map(setting).collect(),
        listeners: loaded.config.listeners.iter().map(listener).collect(),
        warnings: loaded.warnings.iter().map(ToString::to_string).collect(),
        masked: MASK,
    }
}

#[cfg(test)]
mod tests {
    use super::literal;

    #[test]
    fn literals_are_toml() {
        assert_eq!(literal("1883"), "1883");
        assert_eq!(literal("007"), "\"007\"");
        assert_eq!(literal("a\"b\\c\n"), r#""a\"b\\c\u000A""#);
    }
}
