//! The command line: `mproxy [run]`, `mproxy check`, `mproxy demo`, `mproxy hash-password`, `mproxy hooks check`,
//! `mproxy hooks replay`, `mproxy rules`, `mproxy import`, and [the commands](AdminCommand) that ask a running mproxy.
//! Flags follow from the table of settings; what they mean is the configuration's business.

mod admin_api;
mod bans;
mod checking;
mod explain;
mod flags;
mod health;
mod hooks;
mod import;
mod kick;
mod lifecycle;
mod outline;
mod password;
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
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

pub use self::admin_api::EXIT_UNANSWERED;
pub use self::bans::{BanCommand, BanWho, BansCommand, UnbanCommand};
pub use self::checking::{check, complain, complain_of_files, file_faults, load};
pub use self::explain::ExplainCommand;
use self::flags::{
    OF_ADMIN, OF_DEMO, Settings, config_flag, flag, follows, given, is_of_commands, reads_file,
    timeout_argument, variables,
};
pub use self::health::HealthCommand;
pub use self::hooks::{HooksCheck, HooksCommand, check_hooks};
pub use self::import::{ImportCommand, ImportMosquitto, run_import};
pub use self::kick::KickCommand;
pub use self::lifecycle::ReloadCommand;
pub use self::password::hash_password;
pub use self::replay::{HooksReplay, replay_hooks};
pub use self::rules::{RulesCommand, RulesExplain, RulesTest, run_rules};
pub use self::sessions::{SessionArgs, SessionSelectors, SessionsCommand};
pub use self::shell::{CompletionsCommand, ManCommand};
pub use self::tap::TapCommand;
pub use self::top::TopCommand;
pub use self::why::WhyQuestion;
use crate::build_info;
use crate::config::{Flags, settings};

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
            | Command::Import { .. }
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
    /// Rule files from those of other programs
    Import {
        /// Which one.
        #[command(subcommand)]
        command: ImportCommand,
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
    Session(SessionArgs),
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
        AdminCommand::Unban(command) => bans::unban(command, flags, out, err),
        AdminCommand::Tap(command) => tap::tap(command, flags, out, err),
        AdminCommand::Top(command) => top::top(command, flags, out),
        AdminCommand::Reload(command) => lifecycle::reload(command, flags, out),
        AdminCommand::Upgrade => lifecycle::upgrade(flags, out, err),
        AdminCommand::Drain => lifecycle::drain(flags, out),
    };
    done.or_else(|error| error.tell(err))
}

#[cfg(test)]
mod tests;
