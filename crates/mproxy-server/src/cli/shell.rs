//! `mproxy completions` and `mproxy man`: what shells and `man` know of the command line, made of its very definition.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, ValueHint};
use clap_complete::Shell;

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
    out.write_all(&script)
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
    match &command.out {
        Some(folder) => {
            std::fs::create_dir_all(folder)?;
            clap_mangen::generate_to(grammar, folder)
        }
        None => clap_mangen::Man::new(grammar).render(out),
    }
}
