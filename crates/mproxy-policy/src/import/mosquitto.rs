//! Mosquitto's `acl_file` and password file as a rule file that decides the same.
//!
//! | room | holds |
//! |---|---|
//! | `acl_lines` | the lines of an `acl_file`, read as mosquitto 2.0 reads them |
//! | `passwords` | the same for a password file |
//! | `model` | what mosquitto decides by these lines |
//! | `draft` | the rules that come of them, in their order |
//! | `proof` | both held against each other |
//!
//! ```
//! use mproxy_policy::import::mosquitto::{ImportOptions, import};
//!
//! let imported = import("user ann\ntopic read news/#\n", None, ImportOptions::default())?;
//! assert!(imported.text.contains("news/#") && imported.is_same());
//! # Ok::<(), mproxy_policy::import::mosquitto::ImportErrors>(())
//! ```

mod acl_lines;
mod draft;
mod model;
mod passwords;
mod proof;

use std::fmt;

use self::acl_lines::read_acl;
use self::draft::Draft;
use self::passwords::read_passwords;
pub use self::proof::{ImportMismatch, ImportProof};

/// What the files do not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImportOptions {
    /// Clients without a user name may connect (`allow_anonymous true`).
    pub anonymous: bool,
    /// A subscription is refused that could deliver what may not be read, and deliveries are not judged. Mosquitto grants
    /// any subscription, and judges each delivery.
    pub strict: bool,
}

/// A rule file, and what is to be known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The rule file.
    pub text: String,
    /// What does not decide as in mosquitto, by file and line.
    pub notes: Vec<ImportNote>,
    /// What comparing both has come to.
    pub proof: ImportProof,
}

/// Something about a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportNote {
    /// In which file.
    pub file: ImportFile,
    /// Counted from 1.
    pub line: usize,
    /// What it is about.
    pub kind: ImportNoteKind,
    /// What is to be said.
    pub what: String,
}

/// How much a note matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportNoteKind {
    /// The line could not be carried over as it is: somebody gets less than before.
    Changed,
    /// It is carried over; clients with unusual names get less than before.
    UnusualNames,
    /// It does nothing in mosquitto either.
    NoEffect,
}

/// One of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportFile {
    /// The `acl_file`.
    Acl,
    /// The `password_file`.
    Passwords,
}

/// A line that mosquitto would not start with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportFault {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}

/// All lines of an `acl_file` that mosquitto would not start with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportErrors(pub Vec<ImportFault>);

impl fmt::Display for ImportErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, ImportFault { line, what }) in self.0.iter().enumerate() {
            let newline = if at == 0 { "" } else { "\n" };
            write!(f, "{newline}line {line}: {what}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ImportErrors {}

impl Imported {
    /// Whether it decides the same, but for clients with unusual names.
    #[must_use]
    pub fn is_same(&self) -> bool {
        self.proof.mismatches.is_empty() && self.notes.iter().all(|note| note.kind != ImportNoteKind::Changed)
    }
}

/// Makes a rule file.
///
/// # Errors
/// Lines that mosquitto would not start with.
pub fn import(acl: &str, passwords: Option<&str>, options: ImportOptions) -> Result<Imported, ImportErrors> {
    let lines = read_acl(acl).map_err(ImportErrors)?;
    let users = passwords.map(read_passwords);
    let mut draft = Draft::new(options);
    draft.add_rules(&lines);
    let text = draft.text(users.as_ref());
    let proof = proof::compare(&lines, &text, options);
    let mut notes = draft.notes;
    notes.extend(users.into_iter().flat_map(|users| users.notes));
    notes.sort_by_key(|note| (note.file == ImportFile::Passwords, note.line));
    Ok(Imported { text, notes, proof })
}

#[cfg(test)]
mod tests;
