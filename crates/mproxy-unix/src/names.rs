//! Users and groups to numbers, by the files of this system. Directory services are not asked: whoever has their users
//! there writes the number.

use std::fs;

/// The user of this name or number.
///
/// # Errors
/// What to write instead.
pub(crate) fn user(name: &str) -> Result<u32, String> {
    lookup(name, "user", "/etc/passwd")
}

/// The group of this name or number.
///
/// # Errors
/// What to write instead.
pub(crate) fn group(name: &str) -> Result<u32, String> {
    lookup(name, "group", "/etc/group")
}

fn lookup(name: &str, what: &str, file: &str) -> Result<u32, String> {
    // First, as with chown: a number that is no one's on this system may be somebody's in a container's.
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let table = fs::read_to_string(file).unwrap_or_default();
    find(&table, name).ok_or_else(|| format!("there is no {what} {name:?} in {file}; its number works, too"))
}

/// `name:password:number:…`, in both files.
fn find(table: &str, name: &str) -> Option<u32> {
    let mut rows = table.lines().map(|line| line.split(':'));
    rows.find_map(|mut fields| (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_or_a_number_is_found() {
        assert_eq!((user("root"), group("root"), user("4711")), (Ok(0), Ok(0), Ok(4711)));
        assert!(user("nobody-has-this-name").unwrap_err().contains("/etc/passwd"));
        let table = "# a comment\nmqtt-old:x:1\nmqtt:x:105:110::/home:/bin/false\nbroken\n:x:9:\n";
        assert_eq!((find(table, "mqtt"), find(table, "broken")), (Some(105), None));
    }
}
