//! Records on their way to a file, a line of JSON each. They wait in a queue of so many bytes, which a thread of its own
//! empties; what does not fit is lost and counted. A file that cannot be written is told once and tried again; nothing else
//! notices.

mod place;

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tracing::{info, warn};

use super::entry::DecisionEntry;
use super::{DecisionCounts, DecisionLogConfig};

/// Bytes of records that wait at most: some thousands, as many as come while a disk is slow for a moment.
const QUEUE: usize = 4 << 20;

/// The part of it that records of what was allowed may take: a sample of that keeps no refusal out.
const QUEUE_OF_ALLOWED: usize = QUEUE / 2;

/// Records that are written at a time.
const AT_A_TIME: usize = 256;

/// How long the writer gathers records before it writes them. Waking it and a write for each of them would cost mproxy more
/// than all else that it does about a refused message.
const GATHERING: Duration = Duration::from_millis(100);

/// Before a file that could not be opened is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// The queue of the file.
#[derive(Debug)]
pub(super) struct DecisionFile {
    shared: Arc<RecordQueue>,
    counts: DecisionCounts,
    path: PathBuf,
}

#[derive(Debug, Default)]
struct RecordQueue {
    waiting: Mutex<PendingRecords>,
    /// There is something to write.
    filled: Condvar,
    /// All has been written, or is lost.
    emptied: Condvar,
}

#[derive(Debug, Default)]
struct PendingRecords {
    entries: VecDeque<Arc<DecisionEntry>>,
    bytes: usize,
    writer: WriterPhase,
    /// Records that the writer has taken and not written yet.
    taken: usize,
    /// Somebody waits until all is written: nothing more is gathered.
    flushing: bool,
    /// The queue has been full, which has been told.
    full: bool,
    /// Records that did not fit into it since.
    lost: u64,
}

/// What the writer is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum WriterPhase {
    /// It waits for the first record.
    #[default]
    Idle,
    /// It waits for more of them, for a while.
    Gathering,
    /// It looks again before it waits.
    Writing,
}

impl PendingRecords {
    /// Whether the writer, which waits, has a reason to go on.
    fn wakes_writer(&self) -> bool {
        match self.writer {
            WriterPhase::Idle => true,
            WriterPhase::Gathering => self.entries.len() == AT_A_TIME,
            WriterPhase::Writing => false,
        }
    }
}

impl DecisionFile {
    /// Why records could not be written to a file of this name, if they could not. Makes none.
    pub(super) fn check(path: &Path) -> io::Result<()> {
        place::check(path)
    }

    pub(super) fn start(config: &DecisionLogConfig, counts: DecisionCounts) -> Self {
        let shared = Arc::new(RecordQueue::default());
        let path = config.file.clone().unwrap_or_default();
        let writer = Writer {
            shared: Arc::clone(&shared),
            counts: counts.clone(),
            file: RotatedFile {
                path: path.clone(),
                size: config.file_size,
                files: config.files,
                open: None,
                rotate_after: None,
            },
            failing: false,
            lost: 0,
            tried: None,
        };
        // It ends with the process: whoever has to be sure that all is written asks for `flush`.
        let started = thread::Builder::new().name("decisions".to_owned()).spawn(move || writer.run());
        if let Err(error) = started {
            warn!(%error, "decision log file cannot be written: no thread");
        }
        Self { shared, counts, path }
    }

    pub(super) fn push(&self, entry: Arc<DecisionEntry>) {
        let weight = entry.weight();
        let most = if entry.is_allowed() { QUEUE_OF_ALLOWED } else { QUEUE };
        let mut waiting = self.shared.waiting.lock();
        if waiting.bytes + weight > most {
            waiting.lost += 1;
            let told = std::mem::replace(&mut waiting.full, true);
            drop(waiting);
            if !told {
                warn!(path = %self.path.display(), "decision log file does not take records in time, some are lost");
            }
            return self.counts.count_lost("queue_full", 1);
        }
        waiting.bytes += weight;
        waiting.entries.push_back(entry);
        let wake = waiting.wakes_writer();
        drop(waiting);
        if wake {
            self.shared.filled.notify_one();
        }
    }

    pub(super) fn flush(&self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        let mut waiting = self.shared.waiting.lock();
        while waiting.writer == WriterPhase::Writing || !waiting.entries.is_empty() {
            waiting.flushing = true;
            self.shared.filled.notify_one();
            if self.shared.emptied.wait_until(&mut waiting, deadline).timed_out() {
                return false;
            }
        }
        true
    }

    /// Nothing more is written: what is waiting, and what is being written and may never be, is lost. How much that is.
    pub(super) fn give_up(&self) -> u64 {
        let mut waiting = self.shared.waiting.lock();
        let lost = (waiting.entries.len() + waiting.taken) as u64;
        (waiting.bytes, waiting.taken) = (0, 0);
        waiting.entries.clear();
        drop(waiting);
        self.counts.count_lost("stopped", lost);
        if lost > 0 {
            let path = self.path.display();
            warn!(%path, lost_records = lost, "decision log file not written in time, records are lost");
        }
        lost
    }
}

/// The thread's own.
struct Writer {
    shared: Arc<RecordQueue>,
    counts: DecisionCounts,
    file: RotatedFile,
    /// The last try has failed, which has been told.
    failing: bool,
    /// Records that could not be written since.
    lost: u64,
    /// When the file was last tried to be opened in vain.
    tried: Option<Instant>,
}

impl Writer {
    fn run(mut self) {
        let (mut entries, mut lines) = (Vec::new(), Vec::new());
        // So that whoever set it sees the file, or why there is none, and not with the first record.
        self.write(&lines);
        loop {
            self.next(&mut entries);
            lines.clear();
            for entry in entries.drain(..) {
                // Writing to a Vec cannot fail, and neither does an entry.
                if serde_json::to_writer(&mut lines, &*entry).is_ok() {
                    lines.push(b'\n');
                }
            }
            self.write(&lines);
        }
    }

    /// Waits for something to write.
    fn next(&self, entries: &mut Vec<Arc<DecisionEntry>>) {
        let mut waiting = self.shared.waiting.lock();
        if waiting.entries.is_empty() {
            waiting.flushing = false;
            waiting.writer = WriterPhase::Idle;
            self.shared.emptied.notify_all();
        }
        while waiting.entries.is_empty() {
            self.shared.filled.wait(&mut waiting);
        }
        waiting.writer = WriterPhase::Gathering;
        let until = Instant::now() + GATHERING;
        while !waiting.flushing && waiting.entries.len() < AT_A_TIME {
            if self.shared.filled.wait_until(&mut waiting, until).timed_out() {
                break;
            }
        }
        let count = waiting.entries.len().min(AT_A_TIME);
        entries.extend(waiting.entries.drain(..count));
        waiting.bytes -= entries.iter().map(|entry| entry.weight()).sum::<usize>();
        waiting.taken = entries.len();
        waiting.writer = WriterPhase::Writing;
    }

    fn write(&mut self, lines: &[u8]) {
        let records = lines.iter().filter(|byte| **byte == b'\n').count() as u64;
        if self.tried.is_some_and(|tried| tried.elapsed() < PAUSE) {
            return self.lose(records);
        }
        match self.file.append(lines) {
            Ok(()) => {
                self.tried = None;
                self.shared.waiting.lock().taken = 0;
                self.tell_written_again();
            }
            Err(FileError { operation, error }) => {
                self.counts.count_file_error(operation);
                if operation != ROTATE {
                    self.lose(records);
                    self.tried = Some(Instant::now());
                }
                if !std::mem::replace(&mut self.failing, true) {
                    let path = self.file.path.display();
                    warn!(%path, operation, %error, "decision log file cannot be written, trying again");
                }
            }
        }
    }

    /// So many records are in no file.
    fn lose(&mut self, records: u64) {
        self.shared.waiting.lock().taken = 0;
        self.lost += records;
        self.counts.count_lost("write_failed", records);
    }

    /// After the file could not be written, or not fast enough: how much is missing in it.
    fn tell_written_again(&mut self) {
        let mut waiting = self.shared.waiting.lock();
        // Not while there is so much that the next record may be lost again.
        if !(self.failing || waiting.full) || waiting.bytes > QUEUE_OF_ALLOWED {
            return;
        }
        waiting.full = false;
        let lost = std::mem::take(&mut self.lost) + std::mem::take(&mut waiting.lost);
        drop(waiting);
        self.failing = false;
        info!(path = %self.file.path.display(), lost_records = lost, "decision log file written again");
    }
}

/// What went wrong.
#[derive(Debug)]
struct FileError {
    operation: &'static str,
    error: io::Error,
}

const ROTATE: &str = "rotate";

fn failed(operation: &'static str) -> impl FnOnce(io::Error) -> FileError {
    move |error| FileError { operation, error }
}

/// A file that is followed by another one when it is large enough.
#[derive(Debug)]
struct RotatedFile {
    path: PathBuf,
    size: u64,
    files: usize,
    open: Option<OpenFile>,
    /// It could not be given another name, and is tried again from then on.
    rotate_after: Option<Instant>,
}

#[derive(Debug)]
struct OpenFile {
    file: File,
    /// Bytes of whole lines in it.
    len: u64,
    /// It has a size, and a name that may be given to another one. A device or a pipe has neither.
    is_regular: bool,
    /// Which file it is: device and inode.
    identity: (u64, u64),
}

impl OpenFile {
    /// Whether it is this file that has this name.
    fn is_named(&self, path: &Path) -> bool {
        !self.is_regular || fs::metadata(path).is_ok_and(|file| (file.dev(), file.ino()) == self.identity)
    }
}

impl RotatedFile {
    /// Writes whole lines. After [`ROTATE`] has failed they are written.
    ///
    /// # Errors
    /// None of them is in the file that could be read again.
    fn append(&mut self, lines: &[u8]) -> Result<(), FileError> {
        let mut rotated = Ok(());
        // Somebody else has moved or removed it: what is written into it now would be found by nobody.
        if self.open.as_ref().is_some_and(|open| !open.is_named(&self.path)) {
            self.open = None;
        }
        if let Some(open) = &self.open
            && open.is_regular
            && open.len > 0
            && open.len + lines.len() as u64 > self.size
            && self.rotate_after.is_none_or(|after| Instant::now() >= after)
        {
            rotated = self.rotate().map_err(failed(ROTATE));
            self.rotate_after = rotated.is_err().then(|| Instant::now() + PAUSE);
        }
        let open = match self.open.take() {
            Some(open) => open,
            None => open(&self.path).map_err(failed("open"))?,
        };
        let open = self.open.insert(open);
        if let Err(error) = open.file.write_all(lines) {
            // The beginning of a line must not stand before the next one.
            if open.is_regular {
                let _ = open.file.set_len(open.len);
            }
            // Opened anew: it may be another one by then, or its folder be there again.
            self.open = None;
            return Err(FileError { operation: "write", error });
        }
        open.len += lines.len() as u64;
        rotated
    }

    /// Gives the file another name, and the older ones the next. Where that fails, it is gone on with.
    fn rotate(&mut self) -> io::Result<()> {
        if !self.path.try_exists()? {
            // Somebody else has moved it: the older ones stay where they are, and a new one begins.
            self.open = None;
            return Ok(());
        }
        let older = |number: usize| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        if self.files <= 1 {
            fs::remove_file(&self.path)?;
            self.open = None;
            return Ok(());
        }
        // Out of the way first: where it cannot be moved, the older ones must not move either.
        fs::rename(&self.path, older(0))?;
        let shift = || {
            for number in (0..self.files.saturating_sub(1)).rev() {
                match fs::rename(older(number), older(number + 1)) {
                    Err(error) if number == 0 || error.kind() != io::ErrorKind::NotFound => {
                        return Err(error);
                    }
                    Ok(()) | Err(_) => {}
                }
            }
            Ok(())
        };
        if let Err(error) = shift() {
            fs::rename(older(0), &self.path)?;
            return Err(error);
        }
        self.open = None;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<OpenFile> {
    let (file, metadata) = place::open(path)?;
    let identity = (metadata.dev(), metadata.ino());
    let mut open = OpenFile { file, len: metadata.len(), is_regular: metadata.is_file(), identity };
    if open.is_regular && open.len > 0 && !ends_a_line(path, open.len) {
        // mproxy was ended while it wrote.
        open.file.write_all(b"\n")?;
        open.len += 1;
    }
    Ok(open)
}

fn ends_a_line(path: &Path, len: u64) -> bool {
    use std::os::unix::fs::FileExt as _;
    let mut last = [0];
    let read = File::open(path).and_then(|file| file.read_exact_at(&mut last, len.saturating_sub(1)));
    read.is_ok() && last == *b"\n"
}

#[cfg(test)]
mod tests;
