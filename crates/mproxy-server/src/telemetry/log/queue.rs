//! Between those who log and the file that takes it. Nobody who logs ever waits: lines wait here, in so many bytes at most,
//! and a thread of its own writes them. Where they come faster than they are taken, or nobody takes them at all, what does
//! not fit is left out, counted, and told where it is missing.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use prometheus_client::metrics::counter::Counter;
use tracing::Level;
use tracing_subscriber::fmt::MakeWriter;

use super::line;
use crate::config::LogFormat;

/// Bytes that wait at most. Some ten thousand lines: a reader may pause for seconds while clients come and go.
pub(super) const LARGEST: usize = 1 << 20;

/// Bytes of a word about what was left out, and some.
const LONGEST_NOTICE: usize = 256;

/// Bytes that are written at a time.
const CHUNK: usize = 16 << 10;

/// A queue that has emptied keeps no more memory than this.
const KEPT: usize = 64 << 10;

/// Before the next try where the file takes nothing just now. A pipe that is shared with others may be set so by them.
const PAUSE: Duration = Duration::from_millis(10);

/// Takes lines. Clones share it.
#[derive(Clone)]
pub(super) struct LogQueue(Arc<Shared>);

struct Shared {
    format: LogFormat,
    waiting: Mutex<QueuedLines>,
    /// There is something to write.
    filled: Condvar,
    /// All has been written.
    emptied: Condvar,
    /// Lines that were left out since the start.
    left_out: Counter,
}

#[derive(Default)]
struct QueuedLines {
    /// Whole lines, but for the first, the beginning of which may be written already.
    bytes: VecDeque<u8>,
    /// Lines that were left out since one found room.
    left_out: u64,
    /// A chunk is being written.
    writing: bool,
}

impl QueuedLines {
    /// `false` where it does not fit. A line behind some that were left out stands behind a word about them.
    fn take(&mut self, line: &[u8], format: LogFormat) -> bool {
        let notice = if self.left_out > 0 { LONGEST_NOTICE } else { 0 };
        if self.bytes.len() + notice + line.len() > LARGEST {
            return false;
        }
        self.tell(format);
        self.bytes.extend(line);
        debug_assert!(self.bytes.len() <= LARGEST, "more waits than may");
        true
    }

    /// Tells of what was left out, in its place.
    fn tell(&mut self, format: LogFormat) {
        if self.left_out > 0 {
            let message = "log lines dropped: written faster than read";
            let notice = line::of(format, Level::WARN, message, ("count", self.left_out));
            self.bytes.extend(notice.as_bytes());
            self.left_out = 0;
        }
    }
}

impl LogQueue {
    /// For lines of this format, which `out` takes at its own pace.
    pub(super) fn start(format: LogFormat, out: impl Write + Send + 'static, left_out: Counter) -> Self {
        let shared = Arc::new(Shared {
            format,
            waiting: Mutex::default(),
            filled: Condvar::new(),
            emptied: Condvar::new(),
            left_out,
        });
        let writer = Arc::clone(&shared);
        // It ends with the process: whoever has to be sure that all is written asks for `flush`.
        let started = thread::Builder::new().name("log".to_owned()).spawn(move || writer.write(out));
        if let Err(error) = started {
            // The very beginning of the process, and there is nobody else to tell.
            eprintln!("mproxy: cannot start logging: {error}");
        }
        Self(shared)
    }

    fn push(&self, line: &[u8]) {
        let mut waiting = self.0.waiting.lock();
        if !waiting.take(line, self.0.format) {
            waiting.left_out += 1;
            self.0.left_out.inc();
        }
        drop(waiting);
        self.0.filled.notify_one();
    }

    /// Waits until all that was logged is written, but no longer than this. Whether it was.
    pub(super) fn flush(&self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        let mut waiting = self.0.waiting.lock();
        while waiting.writing || !waiting.bytes.is_empty() || waiting.left_out > 0 {
            if self.0.emptied.wait_until(&mut waiting, deadline).timed_out() {
                return false;
            }
        }
        true
    }
}

impl Shared {
    fn write(&self, mut out: impl Write) {
        let mut chunk = Vec::with_capacity(CHUNK);
        loop {
            self.next(&mut chunk);
            if let Err(rest) = write_all(&mut out, &chunk) {
                // It was closed, or its disk is full.
                let lines = rest.iter().filter(|byte| **byte == b'\n').count();
                self.left_out.inc_by(u64::try_from(lines).unwrap_or(u64::MAX));
            }
        }
    }

    /// Waits for something to write.
    fn next(&self, chunk: &mut Vec<u8>) {
        chunk.clear();
        let mut waiting = self.waiting.lock();
        waiting.writing = false;
        if waiting.bytes.is_empty() {
            // There is room again, and perhaps no further line comes.
            waiting.tell(self.format);
        }
        while waiting.bytes.is_empty() {
            self.emptied.notify_all();
            self.filled.wait(&mut waiting);
        }
        let count = waiting.bytes.len().min(CHUNK);
        chunk.extend(waiting.bytes.drain(..count));
        if waiting.bytes.is_empty() && waiting.bytes.capacity() > KEPT {
            waiting.bytes = VecDeque::new();
        }
        waiting.writing = true;
    }
}

/// Gives what could not be written.
fn write_all<'a>(out: &mut impl Write, mut bytes: &'a [u8]) -> Result<(), &'a [u8]> {
    while !bytes.is_empty() {
        match out.write(bytes) {
            Ok(0) => return Err(bytes),
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(PAUSE),
            Err(_) => return Err(bytes),
        }
    }
    Ok(())
}

/// One event's line on its way into the queue: it is always written whole.
pub(super) struct LineWriter<'a>(&'a LogQueue);

impl Write for LineWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogQueue {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        LineWriter(self)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// A reader who reads when the test says so.
    struct Pipe {
        may: Receiver<()>,
        text: Sender<String>,
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // A test that is over reads nothing more.
            self.may.recv().map_err(|_| ErrorKind::BrokenPipe)?;
            let text = String::from_utf8(bytes.to_vec()).expect("whole characters");
            self.text.send(text).map_err(|_| ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn scene() -> (LogQueue, Sender<()>, Receiver<String>, Counter) {
        let (read, may) = channel();
        let (text, came) = channel();
        let counter = Counter::default();
        (LogQueue::start(LogFormat::Text, Pipe { may, text }, counter.clone()), read, came, counter)
    }

    #[test]
    fn a_pipe_that_nobody_reads_holds_nobody_up_and_what_is_left_out_is_told_in_its_place() {
        let (queue, read, came, counter) = scene();
        let line = [b'x'; 999].into_iter().chain([b'\n']).collect::<Vec<_>>();
        queue.push(&line);
        while !queue.0.waiting.lock().writing {
            thread::yield_now();
        }
        // The first is on its way, and gets no further.
        for _ in 1..3000 {
            queue.push(&line);
        }
        let missing = counter.get();
        assert_eq!(missing, 2999 - (LARGEST / line.len()) as u64);
        assert!(queue.0.waiting.lock().bytes.len() <= LARGEST);
        assert!(!queue.flush(Duration::from_millis(1)), "nobody reads");

        // Now somebody does.
        for _ in 0..LARGEST / CHUNK + 9 {
            read.send(()).expect("the writer waits");
        }
        assert!(queue.flush(Duration::from_secs(10)));
        queue.push(b"last\n");
        assert!(queue.flush(Duration::from_secs(10)));
        drop(read);
        let text: String = came.try_iter().collect();
        let lines: Vec<&str> = text.lines().collect();
        let told = lines.iter().position(|line| line.contains("log lines dropped")).expect("told");
        assert!(lines[told].ends_with(&format!("count={missing}")), "{}", lines[told]);
        assert_eq!(told as u64 + missing, 3000, "in the place of what is missing");
        assert_eq!(lines.last(), Some(&"last"));
        assert!(queue.0.waiting.lock().bytes.capacity() <= KEPT, "its memory has come back");
    }

    #[test]
    fn a_reader_that_has_gone_costs_only_the_lines() {
        let (queue, read, _came, counter) = scene();
        drop(read);
        queue.push(b"one\n");
        queue.push(b"two\n");
        assert!(queue.flush(Duration::from_secs(10)));
        assert_eq!(counter.get(), 2);
    }
}
