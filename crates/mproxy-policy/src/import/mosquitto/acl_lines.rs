//! The lines of an `acl_file`, as mosquitto 2.0 reads them. Comments begin in the first column, words are set apart by spaces
//! (tabs are part of a word), and a topic may have spaces in it where the access is named.

use mproxy_codec::topic::check_filter;

use super::ImportFault;

/// One `topic` or `pattern` line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AclLine {
    /// Counted from 1.
    pub(super) number: usize,
    pub(super) owner: AclOwner,
    pub(super) access: AclAccess,
    pub(super) filter: String,
}

/// Whom a line is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AclOwner {
    /// Clients without a user name: `topic` above the first `user`.
    Anonymous,
    /// One user: `topic` below `user`.
    User(String),
    /// `pattern`, wherever it stands.
    Everybody,
}

/// What a line gives, or takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AclAccess {
    Read,
    Write,
    ReadWrite,
    Deny,
}

impl AclAccess {
    pub(super) const fn reads(self) -> bool {
        matches!(self, Self::Read | Self::ReadWrite)
    }

    pub(super) const fn writes(self) -> bool {
        matches!(self, Self::Write | Self::ReadWrite)
    }
}

/// All lines that say something, or all that are wrong.
pub(super) fn read_acl(text: &str) -> Result<Vec<AclLine>, Vec<ImportFault>> {
    let (mut lines, mut faults) = (Vec::new(), Vec::new());
    let mut topics_of = AclOwner::Anonymous;
    for (number, line) in (1..).zip(text.split('\n')) {
        let line = line.trim_end_matches(is_space);
        let words = line.trim_start_matches(' ');
        if line.starts_with('#') || words.is_empty() {
            continue;
        }
        let (word, rest) = words.split_once(' ').unwrap_or((words, ""));
        let read = match word {
            "user" if rest.is_empty() => Err("the name of the user is missing".to_owned()),
            "user" => {
                topics_of = AclOwner::User(rest.trim_matches(is_space).to_owned());
                continue;
            }
            "topic" => access_and_filter(rest).map(|(access, filter)| (topics_of.clone(), access, filter)),
            "pattern" => {
                access_and_filter(rest).map(|(access, filter)| (AclOwner::Everybody, access, filter))
            }
            _ => Err(format!("{word:?} is none of user, topic, pattern")),
        };
        match read {
            Ok((owner, access, filter)) => {
                lines.push(AclLine { number, owner, access, filter: filter.to_owned() });
            }
            Err(what) => faults.push(ImportFault { line: number, what }),
        }
    }
    if faults.is_empty() { Ok(lines) } else { Err(faults) }
}

fn access_and_filter(rest: &str) -> Result<(AclAccess, &str), String> {
    let rest = rest.trim_start_matches(' ');
    let (access, filter) = match rest.split_once(' ') {
        // A topic alone, whatever it is called.
        None => (AclAccess::ReadWrite, rest),
        Some((access, filter)) => {
            let access = match access {
                "read" => AclAccess::Read,
                "write" => AclAccess::Write,
                "readwrite" => AclAccess::ReadWrite,
                "deny" => AclAccess::Deny,
                _ => return Err(format!("{access:?} is none of read, write, readwrite, deny")),
            };
            (access, filter.trim_matches(is_space))
        }
    };
    match check_filter(filter) {
        Ok(()) => Ok((access, filter)),
        Err(error) => Err(format!("{filter:?}: not a topic filter: {error}")),
    }
}

/// What C calls a space.
pub(super) const fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t'..='\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_mosquitto_reads_them() {
        let text = "# comment\n\ntopic a b\n";
        assert!(read_acl(text).is_err(), "`a` is no access");
        let text = "topic  read  a b \r\n  pattern write %c/x\nuser  ann b\t\ntopic read\n topic deny x/#\nuser cy\n";
        let read: Vec<_> = read_acl(text)
            .expect("an ACL file")
            .into_iter()
            .map(|line| (line.number, line.owner, line.access, line.filter))
            .collect();
        let ann = || AclOwner::User("ann b".to_owned());
        assert_eq!(
            read,
            [
                (1, AclOwner::Anonymous, AclAccess::Read, "a b".to_owned()),
                (2, AclOwner::Everybody, AclAccess::Write, "%c/x".to_owned()),
                (4, ann(), AclAccess::ReadWrite, "read".to_owned()),
                (5, ann(), AclAccess::Deny, "x/#".to_owned()),
            ]
        );
    }

    #[test]
    fn every_wrong_line_is_told() {
        let faults =
            read_acl("topics a\ntopic\nuser\ntopic\tread a\n # no comment\ntopic read a/#/b\n").unwrap_err();
        let lines: Vec<_> = faults.iter().map(|fault| fault.line).collect();
        assert_eq!(lines, [1, 2, 3, 4, 5, 6], "{faults:?}");
    }
}
