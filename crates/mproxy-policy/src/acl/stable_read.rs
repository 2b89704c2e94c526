//! Reads a file that somebody may be writing just now: not before it stays as it is. Knows nothing of rules.

use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// A file that was changed longer ago than this is finished. Writers in one go pause for microseconds, editors and
/// copying tools for milliseconds.
const SETTLED: Duration = Duration::from_millis(250);

/// How long to wait for that.
const PATIENCE: Duration = Duration::from_secs(2);

/// Bytes of the largest file that is read.
const LARGEST: u64 = 64 << 20;

/// How often to look.
const PAUSE: Duration = Duration::from_millis(50);

/// What tells one state of a file from another.
#[derive(Clone, Copy, PartialEq, Eq)]
struct FileState {
    size: u64,
    changed: Option<SystemTime>,
}

impl From<&Metadata> for FileState {
    fn from(metadata: &Metadata) -> Self {
        Self { size: metadata.len(), changed: metadata.modified().ok() }
    }
}

impl FileState {
    /// How long the file has to stay like this. Some file systems know whole seconds only.
    fn rest(&self) -> Duration {
        let since_1970 = self.changed.and_then(|changed| changed.duration_since(SystemTime::UNIX_EPOCH).ok());
        match since_1970 {
            Some(time) if time.subsec_nanos() != 0 => SETTLED,
            Some(_) | None => SETTLED + Duration::from_secs(1),
        }
    }
}

/// The text of a file that has the same size and time of change before and after it was read, and has had them for a
/// while.
///
/// # Errors
/// It cannot be read, is no regular file, has more than 64 MiB, is no UTF-8, or has not stayed the same for 250 ms within two seconds.
pub(super) fn read_stable(path: &Path) -> io::Result<String> {
    let started = Instant::now();
    let mut since = started;
    let mut last = None;
    loop {
        let metadata = fs::metadata(path)?;
        if !metadata.is_file() {
            // Opening a pipe waits for who writes into it, perhaps for ever.
            return Err(io::Error::new(ErrorKind::InvalidInput, "it is no regular file"));
        }
        if metadata.len() > LARGEST {
            return Err(io::Error::new(ErrorKind::FileTooLarge, "it has more than 64 MiB"));
        }
        let before = FileState::from(&metadata);
        if last != Some(before) {
            (last, since) = (Some(before), Instant::now());
        }
        // By the file's own clock, which may be another than ours, or else by how long we have watched.
        let age = before.changed.and_then(|changed| changed.elapsed().ok()).unwrap_or_default();
        let rest = before.rest();
        if age >= rest || since.elapsed() >= rest {
            let text = fs::read_to_string(path)?;
            let after = FileState::from(&fs::metadata(path)?);
            if after == before && text.len() as u64 == before.size {
                return Ok(text);
            }
        }
        // A file that is written to all the time must not keep SIGHUP, and with it the certificates, waiting.
        if started.elapsed() >= PATIENCE {
            return Err(io::Error::new(ErrorKind::TimedOut, "it is still being written"));
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_file_that_is_being_written_is_read_when_it_is_finished() {
        let path = std::env::temp_dir().join(format!("mproxy-settled-{}", std::process::id()));
        let finished = AtomicBool::new(false);
        let mut file = fs::File::create(&path).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..10 {
                    file.write_all(b"line\n").unwrap();
                    thread::sleep(SETTLED / 5);
                }
                finished.store(true, Ordering::SeqCst);
                file.write_all(b"end\n").unwrap();
            });
            let text = read_stable(&path).unwrap();
            assert!(text.ends_with("end\n"), "{text}");
        });
        assert!(finished.load(Ordering::SeqCst));
        // What has long been there is read at once.
        let long_ago = SystemTime::now() - Duration::from_secs(60);
        fs::File::options().append(true).open(&path).unwrap().set_modified(long_ago).unwrap();
        let began = Instant::now();
        assert_eq!(read_stable(&path).unwrap().lines().count(), 11);
        assert!(began.elapsed() < SETTLED);
        fs::remove_file(&path).unwrap();
        assert_eq!(read_stable(&path).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn what_is_no_regular_file_is_not_waited_for() {
        assert!(std::process::Command::new("mkfifo").arg(pipe()).status().unwrap().success());
        let (path, began) = (pipe(), Instant::now());
        assert_eq!(read_stable(&path).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert!(began.elapsed() < PATIENCE);
        fs::remove_file(&path).unwrap();
        fs::File::create(&path).unwrap().set_len(LARGEST + 1).unwrap();
        assert_eq!(read_stable(&path).unwrap_err().kind(), ErrorKind::FileTooLarge);
        fs::remove_file(&path).unwrap();
    }

    fn pipe() -> std::path::PathBuf {
        std::env::temp_dir().join(format!("mproxy-pipe-{}", std::process::id()))
    }
}
