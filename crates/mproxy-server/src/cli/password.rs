//! `mproxy hash-password`.

use std::io::{self, BufRead, IsTerminal, Write};

use mproxy_policy::acl;

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

pub(super) fn first_line(input: impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    // And the end of the line, which has two bytes on Windows.
    input.take(LONGEST_PASSWORD + 2).read_line(&mut line)?;
    let text = line.strip_suffix('\n').unwrap_or(&line);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

pub(super) fn hash(password: &str) -> anyhow::Result<String> {
    anyhow::ensure!(!password.is_empty(), "no password was given");
    Ok(acl::hash_password(password)?)
}
