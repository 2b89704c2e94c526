//! The files of a spool, written by one thread. All of them together are bounded; what fails is taken back as far as the disk
//! permits, so that a file ends with a whole record.
//!
//! | file | holds |
//! |---|---|
//! | `cursor` | the numbering, how far it is reserved and confirmed; locked while an mproxy has the spool |
//! | `events-N.log` | events from number N on, with their clients: deleted when all of them are confirmed |
//! | `open.log` | which connections are open, with their clients: written anew when most of it is past |

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use mproxy_core::event::Kind;

use super::cursor::{self, Cursor};
use super::folder::{WRITE, file_options, open_log};
use super::open_log::OpenLog;
use super::record::Record;
use crate::contract::{ClientIdentity, EncodedEvent, EventClient};

/// A file of events is closed when it is so large, or a sixteenth of the spool where that is less.
const SEGMENT: u64 = 8 << 20;
const SEGMENT_LEAST: u64 = 64 << 10;

/// Numbers that are reserved beyond the last one at least. After a crash those that were not written are told as a gap.
const RESERVE_LEAST: u64 = 256;

/// Why something was not written.
#[derive(Debug)]
pub(super) enum NotWritten {
    /// The spool has no room for it.
    Full,
    /// The disk did not take it.
    Failed(io::Error),
}

/// Events that were not written.
#[derive(Debug)]
pub(super) struct Lost {
    pub(super) events: u64,
    pub(super) why: NotWritten,
}

impl Lost {
    const fn full() -> Self {
        Self { events: 1, why: NotWritten::Full }
    }

    const fn failed(events: u64, error: io::Error) -> Self {
        Self { events, why: NotWritten::Failed(error) }
    }
}

/// A file of events that is not written any more.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) len: u64,
    /// The last number in it.
    pub(super) last: u64,
}

/// The file of events that is written.
struct CurrentFile {
    segment: Segment,
    file: File,
    /// Clients that stand in it.
    clients: HashMap<u128, ClientIdentity>,
    pending: BytesMut,
    /// The last number in `pending`, and the events in it.
    pending_last: u64,
    pending_events: u64,
}

pub(super) struct Files {
    folder: PathBuf,
    /// Bytes of all files at most.
    size: u64,
    cursor_file: File,
    generation: u64,
    cursor: Cursor,
    segments: VecDeque<Segment>,
    current: Option<CurrentFile>,
    open: OpenLog,
    /// Whether something was written that is not surely on disk.
    dirty: bool,
    /// The last number when more were reserved.
    reserved_at: u64,
    /// Connections that are over once what was added is written.
    closing: Vec<u128>,
}

/// What a full disk does not take is tried again later.
fn tolerate_full(result: io::Result<()>) -> io::Result<()> {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    match result {
        Err(error) if matches!(error.kind(), StorageFull | QuotaExceeded) => Ok(()),
        result => result,
    }
}

impl Files {
    /// The files of a spool of at most `size` bytes whose cursor is locked, with the segments that were found. Of the
    /// connections in `open.log` these are left, and it is written anew. A disk that is full is none of the errors: it is
    /// found again when something is to be written.
    ///
    /// # Errors
    /// A file cannot be written.
    pub(super) fn new(
        folder: &Path,
        size: u64,
        (cursor_file, generation, cursor): (File, u64, Cursor),
        segments: Vec<Segment>,
        still_open: impl IntoIterator<Item = (u128, Bytes)>,
    ) -> io::Result<Self> {
        // Beside the old one, which is there until the new one is whole.
        let mut open = OpenLog::create(folder)?;
        for (connection, field) in still_open {
            open.opened(connection, &field);
        }
        let written = open.flush().and_then(|()| open.file.sync_data());
        tolerate_full(written.and_then(|()| fs::rename(folder.join("open.new"), open_log(folder))))?;
        let mut files = Self {
            folder: folder.to_owned(),
            size,
            cursor_file,
            generation,
            cursor,
            segments: segments.into(),
            current: None,
            open,
            dirty: false,
            reserved_at: cursor.reserved,
            closing: Vec::new(),
        };
        // Until `finish`: whatever ends mproxy before it is a crash.
        files.cursor.clean = false;
        tolerate_full(files.reserve(cursor.reserved))?;
        Ok(files)
    }

    /// Bytes of all files.
    pub(super) fn bytes(&self) -> u64 {
        let current = self.current.as_ref().map_or(0, |current| current.segment.len);
        let segments: u64 = self.segments.iter().map(|segment| segment.len).sum();
        cursor::FILE as u64 + self.open.len + segments + current
    }

    /// Numbers up to here may be used.
    pub(super) const fn reserved(&self) -> u64 {
        self.cursor.reserved
    }

    fn check_room(&self, more: usize) -> Result<(), Lost> {
        let pending =
            self.current.as_ref().map_or(0, |current| current.pending.len()) + self.open.pending.len();
        // What waits to be written counts, too, or one batch could go over the size.
        if self.bytes() + (pending + more) as u64 > self.size { Err(Lost::full()) } else { Ok(()) }
    }

    /// Adds an event to what is written next; its connection is `tracked` until its Disconnect.
    ///
    /// # Errors
    /// It is not, and what came before it may not be either.
    pub(super) fn append(
        &mut self,
        sequence: u64,
        client: &EventClient,
        event: &EncodedEvent,
        tracked: bool,
    ) -> Result<(), Lost> {
        let connection = client.connection();
        if tracked && event.kind == Kind::Connect {
            let field = client.field();
            self.check_room(field.len() + 64)?;
            // Before the event: whoever is told that it came is told that it went.
            self.open.opened(connection, &field);
        }
        if event.kind == Kind::Disconnect {
            self.close(connection);
        }
        // What was confirmed while it waited for the disk is needed by nobody there.
        if sequence > self.cursor.confirmed { self.append_event(sequence, client, event) } else { Ok(()) }
    }

    fn append_event(
        &mut self,
        sequence: u64,
        client: &EventClient,
        event: &EncodedEvent,
    ) -> Result<(), Lost> {
        let connection = client.connection();
        let identity = client.identity();
        let known = |current: &CurrentFile| current.clients.get(&connection) == Some(&identity);
        let introduce = (!self.current.as_ref().is_some_and(known)).then(|| client.field());
        let record = Record::Event { sequence, connection, kind: event.kind, fields: event.fields.clone() };
        // The head of a new file, and the keys of both records.
        let more = record.len() + introduce.as_ref().map_or(0, |field| field.len() + 64) + 64;
        self.check_room(more)?;
        let current = match &mut self.current {
            Some(current) => current,
            none => {
                let created = CurrentFile::create(&self.folder, sequence, self.cursor.run_id);
                none.insert(created.map_err(|error| Lost::failed(1, error))?)
            }
        };
        if let Some(field) = introduce {
            Record::Client { connection, field: Bytes::clone(&field) }.write(&mut current.pending);
            current.clients.insert(connection, identity);
        }
        record.write(&mut current.pending);
        current.pending_last = sequence;
        current.pending_events += 1;
        let many = current.pending.len() >= WRITE;
        if many { self.flush() } else { Ok(()) }
    }

    /// The connection is not open any more.
    pub(super) fn close(&mut self, connection: u128) {
        self.closing.push(connection);
    }

    /// Writes what was added.
    ///
    /// # Errors
    /// It was not written; the next event begins a new file.
    pub(super) fn flush(&mut self) -> Result<(), Lost> {
        // In this order: who is told that it came is told that it went, and a Disconnect whose connection still counts as
        // open is found at the start.
        self.dirty |= !self.open.pending.is_empty() || !self.closing.is_empty();
        let opened = self.open.flush();
        let written = self.flush_events();
        for connection in std::mem::take(&mut self.closing) {
            self.open.closed(connection);
        }
        written?;
        opened.and_then(|()| self.tend_open()).map_err(|error| Lost::failed(0, error))
    }

    fn tend_open(&mut self) -> io::Result<()> {
        self.open.flush()?;
        // Until the new file is whole, both are there.
        let has_room = self.bytes() + self.open.live_bytes <= self.size;
        if has_room && self.open.is_worth_compacting() { self.open.compact(&self.folder) } else { Ok(()) }
    }

    fn flush_events(&mut self) -> Result<(), Lost> {
        let Some(current) = &mut self.current else { return Ok(()) };
        if current.pending.is_empty() {
            return Ok(());
        }
        self.dirty = true;
        if let Err(error) = current.flush() {
            let lost = Lost::failed(current.pending_events, error);
            // What it holds is whole again, or reading it ends where it was cut; clients that were in what was lost are not
            // looked for in the next file.
            let _ = current.file.set_len(current.segment.len);
            self.retire();
            return Err(lost);
        }
        let most = (self.size / 16).clamp(SEGMENT_LEAST, SEGMENT);
        if current.segment.len >= most {
            // Nobody syncs it later.
            let synced = current.file.sync_data();
            self.retire();
            synced.map_err(|error| Lost::failed(0, error))?;
        }
        Ok(())
    }

    fn retire(&mut self) {
        self.segments.extend(self.current.take().map(|current| current.segment));
    }

    /// Deletes the files whose events are all confirmed.
    pub(super) fn release(&mut self, confirmed: u64) {
        let confirmed = confirmed.min(self.cursor.reserved);
        self.dirty |= confirmed > self.cursor.confirmed;
        self.cursor.confirmed = self.cursor.confirmed.max(confirmed);
        let is_safe = |segment: &Segment| segment.last <= confirmed;
        // A small one is written on: a service that confirms at once would have a file for each event.
        if self.current.as_ref().is_some_and(|current| {
            current.pending.is_empty() && current.segment.len >= SEGMENT_LEAST && is_safe(&current.segment)
        }) {
            self.retire();
        }
        while let Some(segment) = self.segments.pop_front_if(|segment| is_safe(segment)) {
            // A file that stays is read at the next start, and holds nothing that is still waited for.
            let _ = fs::remove_file(&segment.path);
        }
    }

    /// Whether the cursor on disk is behind, or something was written that is not surely on disk.
    pub(super) const fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Whether something is there that a confirmation may free, or that has to be tried again.
    pub(super) fn is_waiting(&self) -> bool {
        let awaited = |current: &CurrentFile| current.segment.last > self.cursor.confirmed;
        let current = self.current.as_ref().is_some_and(awaited);
        self.dirty || current || !self.segments.is_empty() || self.open.stale
    }

    /// Makes sure that all that was written is on disk, and the cursor with it.
    ///
    /// # Errors
    /// The disk does not say so.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if let Some(current) = &self.current {
            current.file.sync_data()?;
        }
        self.open.file.sync_data()?;
        self.write_cursor()?;
        self.dirty = false;
        Ok(())
    }

    /// Reserves numbers beyond `last`, if there are not enough any more: more where they are used up quickly.
    ///
    /// # Errors
    /// The cursor cannot be written; numbers beyond it may be given again after a crash.
    pub(super) fn reserve(&mut self, last: u64) -> io::Result<()> {
        // A crash turns all that was reserved and not used into a gap, so it is never more than a million.
        let ahead = (2 * last.saturating_sub(self.reserved_at)).clamp(RESERVE_LEAST, 1 << 20);
        if last + ahead / 2 < self.cursor.reserved {
            return Ok(());
        }
        let before = self.cursor.reserved;
        self.cursor.reserved = self.cursor.reserved.max(last + ahead);
        self.reserved_at = last;
        // Numbers that are not on disk are not reserved: whoever sends goes by this.
        self.write_cursor().inspect_err(|_| self.cursor.reserved = before)
    }

    /// The end in order.
    ///
    /// # Errors
    /// It could not be noted, and the next start takes it for a crash.
    pub(super) fn finish(&mut self, last: u64) -> io::Result<()> {
        self.sync()?;
        // No number is left over, so the next start tells of no gap.
        self.cursor.reserved = last.max(self.cursor.confirmed);
        self.cursor.clean = true;
        self.write_cursor()
    }

    fn write_cursor(&mut self) -> io::Result<()> {
        self.generation += 1;
        let copy = self.cursor.encode(self.generation);
        self.cursor_file.write_all_at(&copy, Cursor::place(self.generation))?;
        self.cursor_file.sync_data()
    }
}

impl CurrentFile {
    fn create(folder: &Path, first: u64, run_id: u128) -> io::Result<Self> {
        let path = folder.join(format!("events-{first:016x}.log"));
        let file = file_options().create(true).truncate(true).open(&path)?;
        let mut pending = BytesMut::new();
        Record::Run { run_id }.write(&mut pending);
        let segment = Segment { path, len: 0, last: 0 };
        Ok(Self { segment, file, clients: HashMap::new(), pending, pending_last: 0, pending_events: 0 })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.pending, self.segment.len)?;
        self.segment.len += self.pending.len() as u64;
        self.segment.last = self.segment.last.max(self.pending_last);
        self.pending.clear();
        self.pending_events = 0;
        Ok(())
    }
}
