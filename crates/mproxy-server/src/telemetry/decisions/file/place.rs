//! Whether records can be written to a file of this name: a file, or a device that takes what it is given. A pipe or a folder
//! is none. Opening a pipe that nobody reads, or writing to one that nobody empties, would take for ever.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{Access, OFlags, access};

/// Looks without making a file.
///
/// # Errors
/// Why records could not be written there.
pub(super) fn check(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(metadata) => {
            check_kind(&metadata)?;
            options().open(path).map(drop)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let folder =
                path.parent().filter(|folder| *folder != Path::new("")).unwrap_or_else(|| Path::new("."));
            let told =
                |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", folder.display()));
            if !fs::metadata(folder).map_err(told)?.is_dir() {
                return Err(told(io::ErrorKind::NotADirectory.into()));
            }
            access(folder, Access::WRITE_OK | Access::EXEC_OK).map_err(|error| told(error.into()))
        }
        Err(error) => Err(error),
    }
}

/// Opens it to append to, or makes it.
///
/// # Errors
/// Also if it is there and none that records can be written to.
pub(super) fn open(path: &Path) -> io::Result<(File, Metadata)> {
    // Who was refused what is nobody's business but the operator's.
    let file = options().create(true).mode(0o640).open(path)?;
    let metadata = file.metadata()?;
    check_kind(&metadata)?;
    Ok((file, metadata))
}

/// A pipe that nobody reads is an error then, and nobody waits for a reader.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.append(true).custom_flags(OFlags::NONBLOCK.bits() as i32);
    options
}

fn check_kind(metadata: &Metadata) -> io::Result<()> {
    let kind = metadata.file_type();
    if kind.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if kind.is_file() || kind.is_char_device() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"))
}
