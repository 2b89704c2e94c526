//! The file with the connections that are open, with their clients: after a crash each gets its end.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use bytes::{Bytes, BytesMut};

use super::folder::{WRITE, file_options, open_log};
use super::record::Record;

/// The connections that are open.
pub(super) struct OpenLog {
    pub(super) file: File,
    pub(super) len: u64,
    pub(super) pending: BytesMut,
    /// Where the record of each begins, and how long it is.
    pub(super) live: HashMap<u128, (u64, usize)>,
    pub(super) live_bytes: u64,
    /// Something that should stand in it does not, or the other way round.
    pub(super) stale: bool,
}

impl OpenLog {
    pub(super) fn create(folder: &Path) -> io::Result<Self> {
        let file = file_options().create(true).truncate(true).open(folder.join("open.new"))?;
        Ok(Self { file, len: 0, pending: BytesMut::new(), live: HashMap::new(), live_bytes: 0, stale: false })
    }

    pub(super) fn opened(&mut self, connection: u128, field: &Bytes) {
        let at = self.len + self.pending.len() as u64;
        let record = Record::Opened { connection, field: field.clone() };
        record.write(&mut self.pending);
        self.live_bytes += record.len() as u64;
        if let Some((_, len)) = self.live.insert(connection, (at, record.len())) {
            self.live_bytes -= len as u64;
        }
    }

    pub(super) fn closed(&mut self, connection: u128) {
        if let Some((_, len)) = self.live.remove(&connection) {
            self.live_bytes -= len as u64;
            Record::Closed { connection }.write(&mut self.pending);
        }
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        if let Err(error) = self.file.write_all_at(&self.pending, self.len) {
            // Half a record would hide all that is written behind it: reading ends at the first that is not whole.
            let _ = self.file.set_len(self.len);
            self.pending.clear();
            let (len, mut lost) = (self.len, 0);
            self.live.retain(|_, (at, size)| {
                let stays = *at < len;
                lost += if stays { 0 } else { *size as u64 };
                stays
            });
            self.live_bytes -= lost;
            // Who went meanwhile still stands in it.
            self.stale = true;
            return Err(error);
        }
        self.len += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }

    pub(super) fn is_worth_compacting(&self) -> bool {
        // A mebibyte at least, or a few connections that come and go would have it written all the time.
        self.stale || self.len > 2 * self.live_bytes + (1 << 20)
    }

    /// Writes those that are open into a new file.
    pub(super) fn compact(&mut self, folder: &Path) -> io::Result<()> {
        let mut fresh = Self::create(folder)?;
        let mut places: Vec<(u128, u64, usize)> =
            self.live.iter().map(|(connection, (at, len))| (*connection, *at, *len)).collect();
        // In the order in which they stand there, so that the disk is read forwards.
        places.sort_unstable_by_key(|(_, at, _)| *at);
        for (connection, at, len) in places {
            let start = fresh.pending.len();
            fresh.pending.resize(start + len, 0);
            if let Some(record) = fresh.pending.get_mut(start..) {
                self.file.read_exact_at(record, at)?;
            }
            fresh.live.insert(connection, (fresh.len + start as u64, len));
            fresh.live_bytes += len as u64;
            if fresh.pending.len() >= WRITE {
                fresh.flush()?;
            }
        }
        fresh.flush()?;
        // Before the name changes hands: after a power cut it must not stand for a file whose bytes never came.
        fresh.file.sync_data()?;
        fs::rename(folder.join("open.new"), open_log(folder))?;
        *self = fresh;
        Ok(())
    }
}
