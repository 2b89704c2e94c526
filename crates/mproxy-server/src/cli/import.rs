//! `mproxy import`: a rule file out of what another program has, without a running mproxy.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use mproxy_policy::import::mosquitto::{
    ImportFile, ImportNoteKind, ImportOptions, ImportProof, Imported, import,
};
use mproxy_tcp::tls::read_regular;

use super::text::one_line;

/// Ends with this where something could not be carried over as it is.
const EXIT_CHANGED: u8 = 1;

/// Ends with this where a file cannot be read or written, or mosquitto would not start with it.
const EXIT_WRONG: u8 = 2;

const EXIT_CODES: &str = "Exit codes: 0 the rule file decides the same; 1 it was written, but some lines could not be \
                          carried over as they are; 2 a file cannot be read or written, or is wrong.";

/// Rule files from those of other programs.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum ImportCommand {
    /// Turn mosquitto's acl_file and password_file into a rule file that decides the same
    #[command(after_help = EXIT_CODES)]
    Mosquitto(ImportMosquitto),
}

/// `mproxy import mosquitto`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct ImportMosquitto {
    /// Mosquitto's acl_file
    #[arg(long, value_name = "FILE")]
    acl: PathBuf,
    /// Mosquitto's password_file
    #[arg(long, value_name = "FILE")]
    passwords: Option<PathBuf>,
    /// Where the rule file goes, which must not exist yet; standard output, if it is left out
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Let clients without a user name connect (allow_anonymous true)
    #[arg(long)]
    anonymous: bool,
    /// Refuse subscriptions to what may not be read, and do not judge deliveries: quicker, but stricter than mosquitto
    #[arg(long)]
    strict: bool,
}

/// `mproxy import`: see [`ImportCommand`].
///
/// # Errors
/// Where `out` or `err` cannot be written to.
pub fn run_import(
    command: &ImportCommand,
    out: &mut impl Write,
    err: &mut impl Write,
) -> io::Result<ExitCode> {
    let ImportCommand::Mosquitto(command) = command;
    let read = |path: &Path| read_text(path).map_err(|what| format!("{}: {what}", path.display()));
    let acl = read(&command.acl);
    let passwords = command.passwords.as_deref().map(read).transpose();
    let options = ImportOptions { anonymous: command.anonymous, strict: command.strict };
    let made = match (acl, passwords) {
        (Ok(acl), Ok(passwords)) => import(&acl, passwords.as_deref(), options).map_err(|errors| {
            let told = |line: &str| format!("{}: {line}", command.acl.display());
            errors.to_string().lines().map(told).collect()
        }),
        // Both are read: whoever mends one sees what is wrong with the other.
        (acl, passwords) => Err(acl.err().into_iter().chain(passwords.err()).collect::<Vec<_>>()),
    };
    let made = match made {
        Ok(made) => made,
        Err(faults) => {
            for fault in faults {
                writeln!(err, "mproxy: {}", one_line(&fault))?;
            }
            return Ok(ExitCode::from(EXIT_WRONG));
        }
    };
    match &command.out {
        None => out.write_all(made.text.as_bytes())?,
        Some(path) => {
            if let Err(error) = write_new(path, &made.text) {
                writeln!(err, "mproxy: {}: cannot be written: {error}", path.display())?;
                return Ok(ExitCode::from(EXIT_WRONG));
            }
        }
    }
    tell(command, &made, err)?;
    Ok(if made.is_same() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_CHANGED) })
}

/// What does not decide the same, and what comparing came to.
fn tell(command: &ImportMosquitto, made: &Imported, err: &mut impl Write) -> io::Result<()> {
    for note in &made.notes {
        let file = match note.file {
            ImportFile::Acl => Some(&command.acl),
            ImportFile::Passwords => command.passwords.as_ref(),
        };
        let file = file.map(|path| path.display().to_string()).unwrap_or_default();
        let kind = match note.kind {
            ImportNoteKind::Changed => "changed",
            ImportNoteKind::UnusualNames => "unusual names",
            ImportNoteKind::NoEffect => "no effect",
        };
        writeln!(err, "{file}:{}: {kind}: {}", note.line, one_line(&note.what))?;
    }
    let ImportProof { compared, different, mismatches } = &made.proof;
    for mismatch in mismatches {
        let who = mismatch
            .username
            .as_deref()
            .map_or_else(|| "a client without a user name".to_owned(), |name| format!("user {name:?}"));
        let (was, is) = if mismatch.mosquitto_allows { ("allows", "refuses") } else { ("refuses", "allows") };
        let (action, topic) = (mismatch.action, one_line(&mismatch.topic));
        writeln!(err, "differs: {who} {action} {topic}: mosquitto {was} it, the rule file {is} it")?;
    }
    writeln!(err, "{compared} decisions compared with those of mosquitto, {different} differ")
}

fn read_text(path: &Path) -> Result<String, String> {
    let bytes = read_regular(path).map_err(|error| format!("cannot be read: {error}"))?;
    let text = String::from_utf8(bytes).map_err(|_| "is no UTF-8")?;
    if text.contains('\0') { Err("is no text: it has a zero byte in it".to_owned()) } else { Ok(text) }
}

/// Readable by its owner alone, as it may have hashes in it. Nothing that is there is written over.
fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
