//! The command line: `mproxy [run]`, `mproxy check`, `mproxy demo`, `mproxy hash-password`, `mproxy hooks check`,
//! `mproxy hooks replay`, `mproxy rules`, and [the commands](AdminCommand) that ask a running mproxy.
//! Flags follow from the table of settings; what they mean is the configuration's business.

mod admin_api;
mod bans;
mod explain;
mod health;
mod hooks;
mod kick;
mod lifecycle;
mod outline;
mod replay;
mod rules;
mod service;
mod sessions;
mod shell;
mod table;
mod tap;
mod text;
mod top;
mod units;
mod why;
mod words;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::{Arg, ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, value_parser};
use mproxy_policy::acl;
use mproxy_tcp::tls::read_regular;

pub use self::admin_api::EXIT_UNANSWERED;
pub use self::bans::{BanCommand, BanWho, BansCommand, UnbanCommand};
pub use self::explain::ExplainCommand;
pub use self::health::HealthCommand;
pub use self::hooks::{HooksCheck, HooksCommand, check_hooks};
pub use self::kick::KickCommand;
pub use self::lifecycle::ReloadCommand;
pub use self::replay::{HooksReplay, replay_hooks};
pub use self::rules::{RulesCommand, RulesExplain, RulesTest, run_rules};
pub use self::sessions::{SessionCommand, SessionSelectors, SessionsCommand};
pub use self::shell::{CompletionsCommand, ManCommand};
pub use self::tap::TapCommand;
pub use self::top::TopCommand;
pub use self::why::WhyQuestion;
use crate::build_info;
use crate::config::kind::{self, SettingKind};
use crate::config::settings::{self, CONFIG_VARIABLE, SettingRow};
use crate::config::{self, Flags, Loaded, Problems, check, files};
use crate::protect::bans::bans_file_fault;
use crate::telemetry::decisions;

/// What a wrong configuration ends with; no port was opened.
pub const EXIT_CONFIGURATION: u8 = 2;

/// A transparent MQTT proxy: a rule file or a hook service decides what each client may do.
#[derive(Debug, Parser)]
#[command(name = "mproxy", version = build_info::LINE, long_version = build_info::LINES, after_long_help = variables())]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    settings: Settings,
}

/// Settings that the demo follows; it decides the others itself.
const OF_DEMO: &[&str] = &[
    "mqtt.port",
    "admin.host",
    "admin.port",
    "log.level",
    "log.format",
    "max_connections",
    "max_packet_size",
];

/// Settings by which the admin API of a running mproxy is found.
const OF_ADMIN: &[&str] = &["admin.host", "admin.port"];

/// Whether only those commands follow this setting that ask a running mproxy.
fn is_of_commands(row: &SettingRow) -> bool {
    row.key.starts_with("admin.client.")
}

/// Whether a command follows the flag of this setting.
fn follows(command: &str, row: &SettingRow) -> bool {
    match command {
        "run" | "check" => !is_of_commands(row),
        "demo" => OF_DEMO.contains(&row.key),
        "hash-password" | "hooks" | "rules" | "completions" | "man" => false,
        // What asks a running mproxy.
        _ => OF_ADMIN.contains(&row.key) || is_of_commands(row),
    }
}

/// Whether a command reads the configuration file.
fn reads_file(command: &str) -> bool {
    !["hash-password", "hooks", "rules", "completions", "man"].contains(&command)
}

impl Cli {
    /// The command line of this process.
    ///
    /// # Errors
    /// Where it is wrong or asks for help: that is to be printed.
    pub fn read() -> Result<Self, clap::Error> {
        Self::read_from(std::env::args_os())
    }

    fn read_from(words: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut grammar = Self::grammar();
        let matches = grammar.try_get_matches_from_mut(words)?;
        let mut cli = Self::from_arg_matches(&matches)?;
        if let (Command::Admin(_), Some((_, own))) = (cli.task(), matches.subcommand()) {
            cli.settings.0.values.extend(given(own, is_of_commands));
        }
        if let Some(flag) = cli.unused() {
            let text = format!("--{flag} has no effect on this command");
            return Err(grammar.error(clap::error::ErrorKind::ArgumentConflict, text));
        }
        Ok(cli)
    }

    /// Help of a command shows the flags that it follows.
    fn grammar() -> clap::Command {
        Self::names().fold(Self::command(), |grammar, name| {
            grammar.mut_subcommand(&name, |command| {
                let hidden = settings::all().filter(|row| !is_of_commands(row) && !follows(&name, row));
                let own = settings::all().filter(|row| is_of_commands(row) && follows(&name, row));
                let config = (!reads_file(&name)).then(|| config_flag().hide(true));
                let hidden = hidden.filter_map(flag).map(|flag| flag.hide(true));
                let own = own.filter_map(flag).map(|flag| flag.global(false));
                command.args(hidden).args(own).args(config)
            })
        })
    }

    /// The same for shells and `man`, which would show hidden flags, too: a command has those that it follows, and no others.
    fn grammar_of_scripts() -> clap::Command {
        let grammar = Self::command().mut_args(|arg| arg.global(false));
        Self::names().fold(grammar, |grammar, name| {
            grammar.mut_subcommand(&name, |command| {
                let flags = settings::all().filter(|row| follows(&name, row)).filter_map(flag);
                let config = reads_file(&name).then(config_flag);
                command.args(flags.chain(config).map(|flag| flag.global(false)))
            })
        })
    }

    /// The names of all commands.
    fn names() -> impl Iterator<Item = String> {
        let names = |command: &clap::Command| command.get_name().to_owned();
        Self::command().get_subcommands().map(names).collect::<Vec<_>>().into_iter()
    }

    /// A flag that was given, and that the command does not follow.
    fn unused(&self) -> Option<&'static str> {
        let Flags { config, values } = self.flags();
        let followed: &[&str] = match self.task() {
            Command::Run | Command::Check => return None,
            Command::Demo => OF_DEMO,
            Command::Admin(_) => OF_ADMIN,
            Command::HashPassword
            | Command::Hooks { .. }
            | Command::Rules { .. }
            | Command::Completions(_)
            | Command::Man(_) => &[],
        };
        if config.is_some() && followed.is_empty() {
            return Some("config");
        }
        let mut rows = values.iter().filter_map(|(key, _)| settings::find(key));
        rows.find(|row| !followed.contains(&row.key) && !is_of_commands(row))?.flag
    }

    /// What is to be done.
    #[must_use]
    pub fn task(&self) -> Command {
        self.command.clone().unwrap_or(Command::Run)
    }

    /// The settings given as flags.
    #[must_use]
    pub const fn flags(&self) -> &Flags {
        &self.settings.0
    }
}

/// What mproxy can be asked to do.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Run the proxy (the default command)
    Run,
    /// Check the configuration and print the values in force
    Check,
    /// Try mproxy on this machine: an embedded broker, and mproxy in front of it with example rules. Logs warnings unless
    /// `--log-level` says otherwise
    Demo,
    /// Hash a password from standard input for the rule file
    HashPassword,
    /// Ask a running mproxy something.
    #[command(flatten)]
    Admin(AdminCommand),
    /// Tools for hook services
    Hooks {
        /// Which one.
        #[command(subcommand)]
        command: HooksCommand,
    },
    /// Tools for rule files
    Rules {
        /// Which one.
        #[command(subcommand)]
        command: RulesCommand,
    },
    /// Print a script that completes commands and flags in a shell
    Completions(CompletionsCommand),
    /// Print the manual page, or write those of all commands
    Man(ManCommand),
}

/// What a running mproxy can be asked, by its admin API.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum AdminCommand {
    /// Ask a running mproxy whether it is ready, for health checks
    Health(HealthCommand),
    /// List who is connected
    Sessions(SessionsCommand),
    /// Show all about one session
    Session(SessionCommand),
    /// Disconnect clients
    #[command(after_help = kick::EXIT_CODES)]
    Kick(KickCommand),
    /// List who is banned
    #[command(after_help = bans::EXIT_CODES)]
    Bans(BansCommand),
    /// Ban a client id, a user name, or an address or network, and disconnect whom that is about
    Ban(BanCommand),
    /// Lift a ban
    #[command(after_help = bans::EXIT_CODES)]
    Unban(UnbanCommand),
    /// Show packets as they pass
    Tap(TapCommand),
    /// Show sessions by rate, decisions, refusals and the hook service, once a second
    Top(TopCommand),
    /// Read the configuration, the rule file and certificates of a running mproxy anew
    #[command(after_help = lifecycle::EXIT_CODES)]
    Reload(ReloadCommand),
    /// Start a new process in the place of a running mproxy, and let that one end
    #[command(after_help = lifecycle::UPGRADE_EXIT_CODES)]
    Upgrade,
    /// Drain a running mproxy and end it, as SIGTERM does
    Drain,
    /// Ask a running mproxy why a client was refused
    Why(WhyQuestion),
    /// Ask a running mproxy what it would decide about a client now, and why
    Explain(ExplainCommand),
}

#[cfg(test)]
impl AdminCommand {
    fn names() -> impl Iterator<Item = String> {
        let all = Self::augment_subcommands(clap::Command::new("mproxy"));
        all.get_subcommands().map(|command| command.get_name().to_owned()).collect::<Vec<_>>().into_iter()
    }
}

/// `mproxy completions`: the script, on `out`.
///
/// # Errors
/// Where `out` cannot be written to.
pub fn write_completions(command: &CompletionsCommand, out: &mut impl Write) -> io::Result<()> {
    shell::write_completions(command, Cli::grammar_of_scripts(), out)
}

/// `mproxy man`: the page on `out`, or all pages in a folder.
///
/// # Errors
/// Where they cannot be written.
pub fn write_man(command: &ManCommand, out: &mut impl Write) -> io::Result<()> {
    shell::write_man(command, Cli::grammar_of_scripts(), out)
}

/// Asks the mproxy that the settings name. Ends with 2 ([`EXIT_UNANSWERED`]) where it could not be asked; what else there
/// is, is said at each command.
///
/// # Errors
/// Where `out` or `err` cannot be written to.
pub fn ask_admin(
    command: &AdminCommand,
    flags: &Flags,
    out: &mut impl Write,
    err: &mut impl Write,
) -> io::Result<ExitCode> {
    let done = match command {
        AdminCommand::Why(question) => return why::ask_why(question, flags, out, err),
        AdminCommand::Explain(question) => return explain::ask_explain(question, flags, out, err),
        AdminCommand::Health(command) => health::ask_health(command, flags, out),
        AdminCommand::Sessions(command) => sessions::list_sessions(command, flags, out),
        AdminCommand::Session(command) => sessions::show_session(command, flags, out),
        AdminCommand::Kick(command) => kick::kick(command, flags, out, err),
        AdminCommand::Bans(command) => bans::list_bans(command, flags, out),
        AdminCommand::Ban(command) => bans::ban(command, flags, out, err),
        AdminCommand::Unban(command) => bans::unban(command, flags, out),
        AdminCommand::Tap(command) => tap::tap(command, flags, out, err),
        AdminCommand::Top(command) => top::top(command, flags, out),
        AdminCommand::Reload(command) => lifecycle::reload(command, flags, out),
        AdminCommand::Upgrade => lifecycle::upgrade(flags, out, err),
        AdminCommand::Drain => lifecycle::drain(flags, out),
    };
    done.or_else(|error| error.tell(err))
}

/// Flags for the settings that have one.
#[derive(Debug)]
struct Settings(Flags);

impl Args for Settings {
    fn augment_args(command: clap::Command) -> clap::Command {
        command.arg(config_flag()).args(settings::all().filter(|row| !is_of_commands(row)).filter_map(flag))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

fn config_flag() -> Arg {
    Arg::new("config")
        .long("config")
        .value_name("FILE")
        .help(format!("Configuration file (TOML) [env: {CONFIG_VARIABLE}]"))
        .value_parser(value_parser!(PathBuf))
        // Before and behind the name of a command, as people write it; `unused` says where it has no effect.
        .global(true)
}

fn flag(row: &'static SettingRow) -> Option<Arg> {
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
fn given(matches: &ArgMatches, which: impl Fn(&SettingRow) -> bool) -> Vec<(&'static str, String)> {
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
fn timeout_argument(text: &str) -> Result<Duration, String> {
    let timeout = kind::Deadline::read(text)?;
    // `mproxy hooks check` ends within twenty times of it.
    if timeout > Duration::from_secs(60) { Err("expected at most 1m".to_owned()) } else { Ok(timeout) }
}

/// Every variable, for `--help`.
fn variables() -> String {
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

/// The configuration of this process.
///
/// # Errors
/// As [`config::load`].
pub fn load(flags: &Flags) -> Result<Loaded, Problems> {
    config::load(flags, std::env::vars_os(), |path| {
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        // Of a pipe or a device in its place there may be no end.
        String::from_utf8(read_regular(path)?).map_err(invalid)
    })
}

/// Prints warnings and faults for a person.
///
/// # Errors
/// Where `err` cannot be written to.
pub fn complain(problems: &Problems, err: &mut impl Write) -> io::Result<()> {
    for warning in &problems.warnings {
        writeln!(err, "mproxy: warning: {warning}")?;
    }
    writeln!(err, "mproxy: {problems}")
}

/// Prints what is wrong with the files that a configuration names, and how much that is.
///
/// # Errors
/// Where `err` cannot be written to.
pub fn complain_of_files(faults: &[String], err: &mut impl Write) -> io::Result<()> {
    for fault in faults {
        writeln!(err, "mproxy: {fault}")?;
    }
    let (s, count) = (if faults.len() == 1 { "" } else { "s" }, faults.len());
    writeln!(err, "mproxy: {count} error{s} in files that the configuration names, no port was opened")
}

/// `mproxy check`: the effective configuration to `out`, warnings to `err`; where there are faults, these alone. `more` may
/// find faults that only reading files shows.
///
/// # Errors
/// Where `out` or `err` cannot be written to.
pub fn check(
    loaded: Result<Loaded, Problems>,
    more: impl FnOnce(&Loaded) -> Vec<String>,
    out: &mut impl Write,
    err: &mut impl Write,
) -> io::Result<ExitCode> {
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(problems) => {
            complain(&problems, err)?;
            return Ok(ExitCode::from(EXIT_CONFIGURATION));
        }
    };
    let faults = more(&loaded);
    if !faults.is_empty() {
        complain_of_files(&faults, err)?;
        return Ok(ExitCode::from(EXIT_CONFIGURATION));
    }
    out.write_all(check::render(&loaded).as_bytes())?;
    for warning in &loaded.warnings {
        writeln!(err, "mproxy: warning: {warning}")?;
    }
    for warning in files::warnings(&loaded, SystemTime::now()) {
        writeln!(err, "mproxy: warning: {warning}")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What is wrong with the rule file, the files of TLS and that of the decision log, as far as there are any; for the `more` of
/// [`check()`].
#[must_use]
pub fn file_faults(loaded: &Loaded) -> Vec<String> {
    let rules =
        loaded.config.general.acl_file.as_deref().map(|path| rule_faults(loaded, path)).unwrap_or_default();
    let files = files::faults(loaded).into_iter().map(|problem| problem.to_string());
    let decisions = loaded.config.decision_log.file.as_deref();
    let decisions = decisions.and_then(|path| decision_log_fault(loaded, path));
    rules.into_iter().chain(files).chain(ban_fault(loaded)).chain(decisions).collect()
}

/// Why the decision log could not be written there, where the file was named.
fn decision_log_fault(loaded: &Loaded, path: &Path) -> Option<String> {
    let error = decisions::check_file(path).err()?;
    let named = loaded.effective.iter().find(|effective| effective.key == "decision_log.file");
    let origin = named
        .and_then(|named| named.origin.as_ref())
        .map_or_else(String::new, |origin| format!("{origin}: "));
    Some(format!("{origin}{}: the decision log cannot be written there: {error}", path.display()))
}

/// What is wrong with the file of bans stands where it was named.
fn ban_fault(loaded: &Loaded) -> Option<String> {
    let path = loaded.config.protection.bans_file.as_deref()?;
    let error = bans_file_fault(path)?;
    let named = loaded.effective.iter().find(|effective| effective.key == "protection.bans_file");
    let origin = named
        .and_then(|named| named.origin.as_ref())
        .map_or_else(String::new, |origin| format!("{origin}: "));
    Some(format!("{origin}{} {error}", path.display()))
}

/// What is wrong in the rule file stands at its lines; what is wrong with the file, where it was named.
fn rule_faults(loaded: &Loaded, path: &Path) -> Vec<String> {
    let Err(errors) = acl::Acl::load(path) else { return Vec::new() };
    let named = loaded.effective.iter().find(|effective| effective.key == "acl_file");
    let (origin, whole) = (named.and_then(|named| named.origin.as_ref()), format!("{}: ", path.display()));
    let told = |line: &str| match origin {
        Some(origin) if line.starts_with(&whole) => format!("{origin}: {line}"),
        Some(_) | None => line.to_owned(),
    };
    errors.to_string().lines().map(told).collect()
}

/// `mproxy hash-password`: asks at a terminal, twice and without echo; elsewhere takes a line of standard input.
///
/// # Errors
/// Where nothing is given, or the two differ.
pub fn hash_password() -> anyhow::Result<()> {
    // Never an argument: it would stand in the history of the shell, and in the list of processes.
    let stdin = io::stdin();
    let password = if stdin.is_terminal() {
        let password = rpassword::prompt_password("password: ")?;
        anyhow::ensure!(password == rpassword::prompt_password("again: ")?, "the two passwords differ");
        password
    } else {
        first_line(stdin.lock())?
    };
    writeln!(io::stdout(), "{}", hash(&password)?)?;
    Ok(())
}

/// MQTT has no longer passwords.
const LONGEST_PASSWORD: u64 = 65_535;

fn first_line(input: impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    // And the end of the line, which has two bytes on Windows.
    input.take(LONGEST_PASSWORD + 2).read_line(&mut line)?;
    let text = line.strip_suffix('\n').unwrap_or(&line);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

fn hash(password: &str) -> anyhow::Result<String> {
    anyhow::ensure!(!password.is_empty(), "no password was given");
    Ok(acl::hash_password(password)?)
}

#[cfg(test)]
mod tests;
