//! What a spool holds when mproxy starts. Believes nothing that it reads: what is damaged is left out and counted, and no
//! file makes it take more memory than the events that are kept may have.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use mproxy_core::event::Kind;

use super::cursor::Cursor;
use super::files::Segment;
use super::folder::{event_files, open_log, read_bounded};
use super::record::{Record, Records};
use crate::contract::{EncodedEvent, KeptClient};

/// Files that we write are smaller by far; of a larger one the rest is damaged.
const FILE_MOST: u64 = 32 << 20;

/// With a hundred thousand connections open.
const OPEN_LOG_MOST: u64 = 256 << 20;

/// An event that was written and not confirmed.
#[derive(Debug)]
pub(super) struct FoundEvent {
    pub(super) sequence: u64,
    pub(super) client: KeptClient,
    pub(super) event: EncodedEvent,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    /// In the order of their numbers.
    pub(super) events: Vec<FoundEvent>,
    /// Connections that were open, and of which no end was written.
    pub(super) open: Vec<KeptClient>,
    pub(super) segments: Vec<Segment>,
    /// Events that were whole and left out, as there is no room for them in memory.
    pub(super) without_room: Vec<Kind>,
    /// Bytes that could not be read.
    pub(super) damaged: u64,
    /// The last number that was found.
    pub(super) last: u64,
}

/// Reads what is there. Without a cursor all events that are found get new numbers, from 1 on. Events of up to `most` bytes
/// are taken.
///
/// # Errors
/// The folder cannot be read.
pub(super) fn find(folder: &Path, cursor: Option<Cursor>, most: usize) -> io::Result<Recovered> {
    let mut found = Recovered::default();
    let mut open = HashMap::new();
    if let Ok((file, len)) = read_bounded(&open_log(folder), OPEN_LOG_MOST) {
        let mut records = Records::new(&file);
        for record in &mut records {
            match record {
                Record::Opened { connection, field } => {
                    open.insert(connection, field);
                }
                Record::Closed { connection } => {
                    open.remove(&connection);
                }
                Record::Run { .. } | Record::Client { .. } | Record::Event { .. } => {}
            }
        }
        found.damaged += records.damaged() as u64 + len.saturating_sub(file.len() as u64);
    }
    let mut room = most;
    for path in event_files(folder)? {
        let mut segment = Segment { path, len: 0, last: 0 };
        match read_bounded(&segment.path, FILE_MOST) {
            Ok((file, len)) => {
                segment.len = len;
                let read = read_segment(&file, cursor, &mut found, &mut room, |ended| {
                    open.remove(&ended);
                });
                found.damaged += len.saturating_sub(read as u64);
                segment.last = found.last;
            }
            // Whatever it is, it is none of our files.
            Err(_) => found.damaged += 1,
        }
        found.segments.push(segment);
    }
    let mut open: Vec<_> = open
        .into_iter()
        .map(|(connection, field)| KeptClient { connection, field: Arc::new(field) })
        .collect();
    open.sort_unstable_by_key(|client| client.connection);
    found.open = open;
    Ok(found)
}

/// Gives how many bytes of it were whole.
fn read_segment(
    file: &[u8],
    cursor: Option<Cursor>,
    found: &mut Recovered,
    room: &mut usize,
    mut ended: impl FnMut(u128),
) -> usize {
    let mut records = Records::new(file);
    match (records.next(), cursor) {
        (Some(Record::Run { run_id }), Some(cursor)) if run_id == cursor.run_id => {}
        (Some(Record::Run { .. }), None) => {}
        // Of another numbering, or no file of events.
        _ => return 0,
    }
    let mut clients: HashMap<u128, Arc<Bytes>> = HashMap::new();
    for record in &mut records {
        match record {
            Record::Client { connection, field } => {
                clients.insert(connection, Arc::new(field));
            }
            Record::Event { sequence, connection, kind, fields } => {
                // Also of one that is left out below: its end was written, and is not told a second time.
                if kind == Kind::Disconnect {
                    ended(connection);
                }
                let sequence = if cursor.is_some() { sequence } else { found.last + 1 };
                // Each number is written once, and in order.
                let (Some(field), true) = (clients.get(&connection), sequence > found.last) else { continue };
                found.last = sequence;
                // A file is deleted as a whole, so the first ones in it may be safe long since.
                if cursor.is_some_and(|cursor| sequence <= cursor.confirmed) {
                    continue;
                }
                // As `KeptEvent` weighs it.
                let weight = 256 + fields.len() + field.len();
                if weight > *room {
                    found.without_room.push(kind);
                    continue;
                }
                *room -= weight;
                let client = KeptClient { connection, field: Arc::clone(field) };
                found.events.push(FoundEvent { sequence, client, event: EncodedEvent { kind, fields } });
            }
            Record::Run { .. } | Record::Opened { .. } | Record::Closed { .. } => {}
        }
    }
    file.len() - records.damaged()
}
