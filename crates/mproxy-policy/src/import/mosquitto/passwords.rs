//! The lines of a password file, as mosquitto 2.0 reads them: `name:hash`. Of two with one name, the last counts.

use super::acl_lines::is_space;
use super::{ImportFile, ImportNote, ImportNoteKind};
use crate::acl::check_password;

/// Whom a password file knows.
#[derive(Debug, Default)]
pub(super) struct PasswordUsers {
    /// Names and hashes, in the order of the file.
    pub(super) users: Vec<(String, String)>,
    pub(super) notes: Vec<ImportNote>,
}

pub(super) fn read_passwords(text: &str) -> PasswordUsers {
    let mut read = PasswordUsers::default();
    for (line, text) in (1..).zip(text.split('\n')) {
        if text.starts_with('#') || !text.contains(':') {
            continue;
        }
        if let Err((kind, what)) = read.line(text) {
            read.notes.push(ImportNote { file: ImportFile::Passwords, line, kind, what });
        }
    }
    read
}

impl PasswordUsers {
    fn line(&mut self, text: &str) -> Result<(), (ImportNoteKind, String)> {
        use ImportNoteKind::{Changed, NoEffect};
        let mut parts =
            text.split(':').filter(|part| !part.is_empty()).map(|part| part.trim_matches(is_space));
        let name = parts.next().unwrap_or_default();
        let hash = parts.next().unwrap_or_default();
        if name.is_empty() {
            return Err((NoEffect, "there is no user name; left out".to_owned()));
        }
        if !hash.starts_with("$6$") && !hash.starts_with("$7$") {
            let what =
                format!("user {name:?} has no hash that mosquitto knows, and is refused there; left out");
            return Err((NoEffect, what));
        }
        if let Err(error) = check_password(hash) {
            return Err((Changed, format!("user {name:?} is left out: {error}")));
        }
        let earlier = self.users.iter().position(|(own, _)| own == name);
        let entry = (name.to_owned(), hash.to_owned());
        let Some(earlier) = earlier else {
            self.users.push(entry);
            return Ok(());
        };
        self.users[earlier] = entry;
        Err((NoEffect, format!("user {name:?} stands there twice; this line counts, as in mosquitto")))
    }
}
