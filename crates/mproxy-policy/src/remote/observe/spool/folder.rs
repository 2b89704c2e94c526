//! The folder of a spool: which files are in it, how they are opened, and who has it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::cursor::{self, Cursor};

/// What is written at a time.
pub(super) const WRITE: usize = 256 << 10;

/// For this user alone: what is in them may hold payloads.
pub(super) fn file_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

/// The file with the cursor, locked, and the cursor in it.
///
/// # Errors
/// It cannot be opened, or another mproxy has it.
pub(super) fn lock(folder: &Path) -> io::Result<(File, Option<(u64, Cursor)>)> {
    if !folder.is_dir() {
        DirBuilder::new().mode(0o700).create(folder)?;
    }
    let mut file = file_options().create(true).truncate(false).open(folder.join("cursor"))?;
    file.try_lock().map_err(|error| match error {
        fs::TryLockError::WouldBlock => io::Error::new(io::ErrorKind::ResourceBusy, "another mproxy uses it"),
        fs::TryLockError::Error(error) => error,
    })?;
    let mut bytes = Vec::new();
    (&mut file).take(cursor::FILE as u64).read_to_end(&mut bytes)?;
    Ok((file, Cursor::read(&bytes)))
}

/// The files of events, in the order of their numbers.
///
/// # Errors
/// The folder cannot be read.
pub(super) fn event_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|path| first_number(path).is_some());
    files.sort_unstable_by_key(|path| first_number(path));
    Ok(files)
}

fn first_number(path: &Path) -> Option<u64> {
    let digits = path.file_name()?.to_str()?.strip_prefix("events-")?.strip_suffix(".log")?;
    // As we write it and no other way: two names for one number would be read in any order.
    u64::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 16)
}

/// At most so many bytes of a file, and how long it is.
///
/// # Errors
/// It cannot be read.
pub(super) fn read_bounded(path: &Path, most: u64) -> io::Result<(Vec<u8>, u64)> {
    // Whatever else stands under this name, a pipe say, would be waited for.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "is no file"));
    }
    let mut bytes = Vec::new();
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    file.take(most).read_to_end(&mut bytes)?;
    Ok((bytes, len))
}

/// The file with the open connections.
pub(super) fn open_log(folder: &Path) -> PathBuf {
    folder.join("open.log")
}
