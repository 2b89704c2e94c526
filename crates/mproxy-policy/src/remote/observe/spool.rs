//! Events on disk, so that a restart of mproxy loses none that it has taken over: what is kept in memory until it is confirmed
//! is written behind the back of everybody by a thread of its own, and read at the next start. After a crash each connection
//! that was open gets its Disconnect.
//!
//! | room | holds |
//! |---|---|
//! | `record` | what stands in a file, with length and checksum |
//! | `cursor` | the numbering, how far it is reserved and confirmed |
//! | `files` | the files, bounded, and what is taken back when a write fails |
//! | `open_log` | which connections are open, so that each gets its end after a crash |
//! | `folder` | which files there are, how they are opened, and who has them |
//! | `recovery` | what is read at the start |
//! | `writer` | the thread, and the queue in front of it |

mod cursor;
mod files;
mod folder;
mod open_log;
mod record;
mod recovery;
mod writer;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::SystemTime;

use mproxy_core::event::Kind;
use tokio::sync::oneshot;
use tracing::{info, warn};

use self::cursor::Cursor;
use self::files::Files;
use self::recovery::{FoundEvent, Recovered};
use self::writer::{DiskTrouble, SpoolWriter};
pub(super) use self::writer::{SpoolQueue, Spooled};
use crate::contract::{EncodedEvent, EventClient, KeptClient};
use crate::watch::Watch;

/// Where events are kept on disk.
#[derive(Clone, Debug)]
pub struct SpoolConfig {
    /// A folder, which is made if it is not there.
    pub folder: PathBuf,
    /// Bytes of all files in it at most.
    pub size: u64,
    /// A process whose place this one takes may have it still: it is waited for.
    pub succeeds: bool,
}

/// A spool that was opened, with what it held.
pub(super) struct Spool {
    files: Files,
    folder: PathBuf,
    pub(super) run_id: u128,
    /// All up to here is safe.
    pub(super) confirmed: u64,
    /// Numbers up to here may have been given.
    pub(super) last: u64,
    pub(super) events: Vec<(u64, EventClient, EncodedEvent)>,
    /// Events for which there is no room in memory.
    pub(super) without_room: Vec<Kind>,
}

impl Spool {
    /// Opens it, or makes it. A run that has no name yet gets `fresh`; events of up to `most` bytes are taken from it. A
    /// connection of which no end was written has ended, unless it `goes_on`.
    ///
    /// # Errors
    /// It cannot be used: another mproxy has it, or the folder cannot be written.
    pub(super) fn open(
        config: &SpoolConfig,
        fresh: u128,
        most: usize,
        goes_on: impl Fn(u128) -> bool,
        watch: &dyn Watch,
    ) -> io::Result<Self> {
        let SpoolConfig { folder, size, succeeds: _ } = config;
        let (cursor_file, stored) = folder::lock(folder)?;
        let found = recovery::find(folder, stored.map(|(_, cursor)| cursor), most)?;
        let Recovered { events, open, segments, without_room, damaged, last } = found;
        let known = Cursor { run_id: fresh, reserved: 0, confirmed: 0, clean: true };
        let (generation, cursor) = stored.unwrap_or((0, known));
        // Larger only if a cursor was lost.
        let last = cursor.reserved.max(last);
        let path = folder.display();
        if damaged > 0 {
            watch.event_spool_damaged(damaged);
            warn!(%path, bytes = damaged, "event spool damaged, what could not be read is left out");
        }
        if stored.is_none() && !events.is_empty() {
            warn!(%path, events = events.len(), "event spool has no cursor, its events get new numbers");
        }
        let run_id = cursor.run_id;
        let cursor = (cursor_file, generation, Cursor { reserved: last, ..cursor });
        let still_open = open.iter().map(|client| (client.connection, (*client.field).clone()));
        let mut files = Files::new(folder, *size, cursor, segments, still_open)?;
        let open: Vec<_> = open.into_iter().filter(|client| !goes_on(client.connection)).collect();
        let mut all: Vec<_> = events
            .into_iter()
            .map(|FoundEvent { sequence, client, event }| (sequence, EventClient::Kept(client), event))
            .collect();
        let (recovered, ended) = (all.len(), open.len());
        let last = Self::end_connections(&mut files, last, open, &mut all);
        info!(
            %path,
            run_id = %uuid::Uuid::from_u128(run_id),
            events = recovered,
            ended_connections = ended,
            bytes = files.bytes(),
            "event spool opened"
        );
        watch.event_spool(files.bytes());
        let confirmed = stored.map_or(0, |(_, cursor)| cursor.confirmed);
        Ok(Self { files, folder: folder.clone(), run_id, confirmed, last, events: all, without_room })
    }

    /// Each connection of which no end was written gets one. It is on disk before its connection counts as closed, so that a
    /// crash in between tells it once.
    fn end_connections(
        files: &mut Files,
        mut last: u64,
        open: Vec<KeptClient>,
        events: &mut Vec<(u64, EventClient, EncodedEvent)>,
    ) -> u64 {
        let now = SystemTime::now();
        for client in open {
            let (client, event) = (EventClient::Kept(client), EncodedEvent::ended_without_notice(now));
            last += 1;
            // Where either is not written, the next start tells it again.
            let _ = files.reserve(last);
            let _ = files.append(last, &client, &event, true);
            events.push((last, client, event));
        }
        let _ = files.flush();
        last
    }

    /// The queue of its thread, and what tells when that has ended. `reserved` is called when more may be sent than before.
    ///
    /// # Errors
    /// There is no thread for it.
    pub(super) fn start<E: Spooled>(
        self,
        watch: Arc<dyn Watch>,
        reserved: impl Fn() + Send + 'static,
        queue: &Arc<SpoolQueue<E>>,
    ) -> io::Result<oneshot::Receiver<()>> {
        let writer = SpoolWriter {
            files: self.files,
            queue: Arc::clone(queue),
            path: self.folder,
            watch,
            reserved: Box::new(reserved),
            trouble: DiskTrouble::default(),
        };
        let (ended, end) = oneshot::channel();
        // Not a task: a disk that hangs would hold up a worker of the runtime, and its sessions with it.
        thread::Builder::new().name("event-spool".to_owned()).spawn(move || {
            writer.run();
            let _ = ended.send(());
        })?;
        Ok(end)
    }

    /// A queue for its thread.
    pub(super) fn queue<E: Spooled>(&self) -> Arc<SpoolQueue<E>> {
        Arc::new(SpoolQueue::new(self.confirmed, self.files.reserved()))
    }
}

#[cfg(test)]
mod tests;
