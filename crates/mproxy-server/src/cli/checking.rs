//! The configuration of this process: read, and told what is wrong with it and with the files that it names.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use mproxy_policy::acl;
use mproxy_tcp::tls::read_regular;

use super::EXIT_CONFIGURATION;
use crate::config::{self, Flags, Loaded, Problems, check, files};
use crate::protect::bans::bans_file_fault;
use crate::telemetry::decisions;

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

/// Where a setting was written, before what is wrong with what it names: `mproxy.toml:4 acl_file: `.
fn named_at(loaded: &Loaded, key: &str) -> String {
    let named = loaded.effective.iter().find(|effective| effective.key == key);
    named.and_then(|named| named.origin.as_ref()).map_or_else(String::new, |origin| format!("{origin}: "))
}

/// Why the decision log could not be written there.
fn decision_log_fault(loaded: &Loaded, path: &Path) -> Option<String> {
    let error = decisions::check_file(path).err()?;
    let origin = named_at(loaded, "decision_log.file");
    Some(format!("{origin}{}: the decision log cannot be written there: {error}", path.display()))
}

/// What is wrong with the file of bans.
fn ban_fault(loaded: &Loaded) -> Option<String> {
    let path = loaded.config.protection.bans_file.as_deref()?;
    let error = bans_file_fault(path)?;
    Some(format!("{}{} {error}", named_at(loaded, "protection.bans_file"), path.display()))
}

/// What is wrong in the rule file stands at its lines; what is wrong with the file, where it was named.
fn rule_faults(loaded: &Loaded, path: &Path) -> Vec<String> {
    let listeners = loaded.config.listener_names();
    let Err(errors) = acl::Acl::load(path).and_then(|acl| acl.knows_listeners(&listeners)) else {
        return Vec::new();
    };
    let (origin, whole) = (named_at(loaded, "acl_file"), format!("{}: ", path.display()));
    let told =
        |line: &str| if line.starts_with(&whole) { format!("{origin}{line}") } else { line.to_owned() };
    errors.to_string().lines().map(told).collect()
}
