//! Flags, made of the table of settings: which command follows which, what their help says, and which were given.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgMatches, Args, FromArgMatches, value_parser};

use super::words;
use crate::config::Flags;
use crate::config::kind::{self, SettingKind};
use crate::config::settings::{self, CONFIG_VARIABLE, SettingRow};

/// Settings that the demo follows; it decides the others itself.
pub(super) const OF_DEMO: &[&str] = &[
    "mqtt.port",
    "admin.host",
    "admin.port",
    "log.level",
    "log.format",
    "max_connections",
    "max_packet_size",
];

/// Settings by which the admin API of a running mproxy is found.
pub(super) const OF_ADMIN: &[&str] = &["admin.host", "admin.port"];

/// Whether only those commands follow this setting that ask a running mproxy.
pub(super) fn is_of_commands(row: &SettingRow) -> bool {
    row.key.starts_with("admin.client.")
}

/// Whether a command follows the flag of this setting.
pub(super) fn follows(command: &str, row: &SettingRow) -> bool {
    match command {
        "run" | "check" => !is_of_commands(row),
        "demo" => OF_DEMO.contains(&row.key),
        "hash-password" | "hooks" | "rules" | "import" | "completions" | "man" => false,
        // What asks a running mproxy.
        _ => OF_ADMIN.contains(&row.key) || is_of_commands(row),
    }
}

/// Whether a command reads the configuration file.
pub(super) fn reads_file(command: &str) -> bool {
    !["hash-password", "hooks", "rules", "import", "completions", "man"].contains(&command)
}

/// Flags for the settings that have one.
#[derive(Debug)]
pub(super) struct Settings(pub(super) Flags);

impl Args for Settings {
    fn augment_args(command: clap::Command) -> clap::Command {
        command.arg(config_flag()).args(settings::all().filter(|row| !is_of_commands(row)).filter_map(flag))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

pub(super) fn config_flag() -> Arg {
    Arg::new("config")
        .long("config")
        .value_name("FILE")
        .help(format!("Configuration file (TOML) [env: {CONFIG_VARIABLE}]"))
        .value_parser(value_parser!(PathBuf))
        // Before and behind the name of a command, as people write it; `unused` says where it has no effect.
        .global(true)
}

pub(super) fn flag(row: &'static SettingRow) -> Option<Arg> {
    let variable = row.variable.map_or_else(String::new, |variable| format!(" [env: {variable}]"));
    let help = help(row, &variable);
    let name = row.key.rsplit('.').next().unwrap_or(row.key);
    let arg = Arg::new(row.key).long(row.flag?).value_name(name).help(help).global(true);
    Some(match row.choices() {
        [] => arg,
        // The help names them already.
        words => arg.value_parser(words::SettingWords(words)).hide_possible_values(true),
    })
}

/// The flags of these settings that were given.
pub(super) fn given(
    matches: &ArgMatches,
    which: impl Fn(&SettingRow) -> bool,
) -> Vec<(&'static str, String)> {
    let rows = settings::all().filter(|row| row.flag.is_some() && which(row));
    rows.filter_map(|row| Some((row.key, matches.get_one::<String>(row.key)?.clone()))).collect()
}

/// What a setting is, its values where they are a few, and its default.
fn help(row: &SettingRow, variable: &str) -> String {
    let choices = row.choices().join(", ");
    let colon = if choices.is_empty() { "" } else { ": " };
    let default = row.default_shown().map_or_else(String::new, |default| format!(" [default: {default}]"));
    format!("{}{colon}{choices}{variable}{default}", row.about())
}

impl FromArgMatches for Settings {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let values = given(matches, |row| !is_of_commands(row));
        Ok(Self(Flags { config: matches.get_one::<PathBuf>("config").cloned(), values }))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// How long an answer may take, for the flags of commands.
pub(super) fn timeout_argument(text: &str) -> Result<Duration, String> {
    let timeout = kind::Deadline::read(text)?;
    // `mproxy hooks check` ends within twenty times of it.
    if timeout > Duration::from_secs(60) { Err("expected at most 1m".to_owned()) } else { Ok(timeout) }
}

/// Every variable, for `--help`.
pub(super) fn variables() -> String {
    let mut text =
        "Environment variables (a flag overrides a variable, a variable overrides the file):\n".to_owned();
    let mut line = |name: &str, help: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {name:<30} {help}");
    };
    line(CONFIG_VARIABLE, "Configuration file (TOML)");
    for row in settings::all() {
        if let Some(variable) = row.variable {
            line(variable, &help(row, ""));
        }
    }
    text.push_str("\nOnly the file can define [[listeners]] (any number, each with its own target, TLS and limits) and a policy.on_error\nfor each hook. mproxy check prints all settings with their values; docs/configuration.md of the source explains them.");
    text
}
