//! `mproxy completions` and `mproxy man`: what shells and `man` know of the command line, made of its very definition.

mod page;

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};
use clap_complete::Shell;

use self::page::page;

/// For which shell.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(after_help = WHERE)]
pub struct CompletionsCommand {
    /// The shell
    shell: Shell,
}

const WHERE: &str = "Where the script goes:
  bash  mproxy completions bash > /etc/bash_completion.d/mproxy
  zsh   mproxy completions zsh > \"${fpath[1]}/_mproxy\"
  fish  mproxy completions fish > ~/.config/fish/completions/mproxy.fish";

#[cfg(test)]
impl CompletionsCommand {
    pub(super) const fn of(shell: Shell) -> Self {
        Self { shell }
    }
}

/// Which pages.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct ManCommand {
    /// Write the pages of all commands to this folder: mproxy.1, mproxy-sessions.1, …
    #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    out: Option<PathBuf>,
}

/// The script, on `out`.
///
/// # Errors
/// Where `out` cannot be written to.
pub(super) fn write_completions(
    command: &CompletionsCommand,
    mut grammar: clap::Command,
    out: &mut impl Write,
) -> io::Result<()> {
    // Not by its own writing: that panics where a pipe is closed.
    let mut script = Vec::new();
    clap_complete::generate(command.shell, &mut grammar, "mproxy", &mut script);
    out.write_all(&script)?;
    if command.shell == Shell::Fish {
        out.write_all(words_for_fish(&grammar).as_bytes())?;
    }
    Ok(())
}

/// What `clap_complete` leaves out of a script for fish: the words that a command's first argument may be.
fn words_for_fish(grammar: &clap::Command) -> String {
    let mut lines = String::new();
    for command in grammar.get_subcommands() {
        let first = command.get_positionals().next();
        let words: Vec<String> = first.map_or_else(Vec::new, |first| {
            first.get_possible_values().iter().map(|word| word.get_name().to_owned()).collect()
        });
        if !words.is_empty() {
            // Writing to a String cannot fail.
            let _ = writeln!(
                lines,
                "complete -c mproxy -n \"__fish_mproxy_using_subcommand {}\" -f -a \"{}\"",
                command.get_name(),
                words.join(" ")
            );
        }
    }
    lines
}

/// The page of mproxy on `out`, or all pages in a folder.
///
/// # Errors
/// Where they cannot be written.
pub(super) fn write_man(
    command: &ManCommand,
    grammar: clap::Command,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut grammar = grammar.disable_help_subcommand(true);
    grammar.build();
    match &command.out {
        Some(folder) => {
            std::fs::create_dir_all(folder)?;
            write_pages(&grammar, folder)
        }
        None => out.write_all(page(&grammar)?.text.as_bytes()),
    }
}

fn write_pages(command: &clap::Command, folder: &Path) -> io::Result<()> {
    let page = page(command)?;
    std::fs::write(folder.join(page.file), page.text)?;
    command.get_subcommands().try_for_each(|inner| write_pages(inner, folder))
}
