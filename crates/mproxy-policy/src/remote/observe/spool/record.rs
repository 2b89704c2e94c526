//! Records as they stand one behind the other in a file of the spool: length, checksum, and what is recorded. Reads whatever
//! a file holds: up to the last record that is whole, without ever taking more memory than the file has bytes.

use bytes::{BufMut, Bytes, BytesMut};
use mproxy_core::event::Kind;

/// Length and checksum in front of each record.
const HEAD: usize = 8;

/// A record that says that it is longer than this is none: events have 3 MiB at most, clients less.
const RECORD_MOST: usize = 8 << 20;

/// One thing that was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// Stands first in a file: the numbering that the events belong to.
    Run { run_id: u128 },
    /// The client of this connection, as it is from here on in this file.
    Client { connection: u128, field: Bytes },
    /// An event of a client that stands before it in this file.
    Event { sequence: u64, connection: u128, kind: Kind, fields: Bytes },
    /// The connection is open, and this is its client.
    Opened { connection: u128, field: Bytes },
    /// The connection is not open any more.
    Closed { connection: u128 },
}

impl Record {
    /// Bytes that it takes in a file.
    pub(super) fn len(&self) -> usize {
        HEAD + 1
            + match self {
                Self::Run { .. } | Self::Closed { .. } => 16,
                Self::Client { field, .. } | Self::Opened { field, .. } => 16 + field.len(),
                Self::Event { fields, .. } => 8 + 16 + 1 + fields.len(),
            }
    }

    /// Writes it.
    pub(super) fn write(&self, out: &mut BytesMut) {
        let start = out.len();
        out.put_bytes(0, HEAD);
        match self {
            Self::Run { run_id } => {
                out.put_u8(1);
                out.put_u128(*run_id);
            }
            Self::Client { connection, field } => {
                out.put_u8(2);
                out.put_u128(*connection);
                out.extend_from_slice(field);
            }
            Self::Event { sequence, connection, kind, fields } => {
                out.put_u8(3);
                out.put_u64(*sequence);
                out.put_u128(*connection);
                out.put_u8(number(*kind));
                out.extend_from_slice(fields);
            }
            Self::Opened { connection, field } => {
                out.put_u8(4);
                out.put_u128(*connection);
                out.extend_from_slice(field);
            }
            Self::Closed { connection } => {
                out.put_u8(5);
                out.put_u128(*connection);
            }
        }
        let body = out.get(start + HEAD..).unwrap_or_default();
        let (len, checksum) = (body.len() as u32, crc32(body));
        if let Some(head) = out.get_mut(start..start + HEAD) {
            let (first, second) = head.split_at_mut(HEAD / 2);
            first.copy_from_slice(&len.to_be_bytes());
            second.copy_from_slice(&checksum.to_be_bytes());
        }
    }

    fn read(body: &[u8]) -> Option<Self> {
        let (kind, body) = body.split_first()?;
        Some(match kind {
            1 => Self::Run { run_id: u128::from_be_bytes(*body.first_chunk()?) },
            2 | 4 => {
                let (connection, field) = body.split_first_chunk()?;
                let (connection, field) = (u128::from_be_bytes(*connection), Bytes::copy_from_slice(field));
                if *kind == 2 {
                    Self::Client { connection, field }
                } else {
                    Self::Opened { connection, field }
                }
            }
            3 => {
                let (sequence, body) = body.split_first_chunk()?;
                let (connection, body) = body.split_first_chunk()?;
                let (kind, fields) = body.split_first()?;
                Self::Event {
                    sequence: u64::from_be_bytes(*sequence),
                    connection: u128::from_be_bytes(*connection),
                    kind: Kind::ALL.into_iter().find(|known| number(*known) == *kind)?,
                    fields: Bytes::copy_from_slice(fields),
                }
            }
            5 => Self::Closed { connection: u128::from_be_bytes(*body.first_chunk()?) },
            // Of another version of mproxy, perhaps: what follows cannot be told apart either.
            _ => return None,
        })
    }
}

const fn number(kind: Kind) -> u8 {
    match kind {
        Kind::Connect => 1,
        Kind::Publish => 2,
        Kind::Subscribe => 3,
        Kind::Unsubscribe => 4,
        Kind::Disconnect => 5,
    }
}

/// The records of a file, one after the other, up to the first that is not whole.
#[derive(Debug)]
pub(super) struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    pub(super) const fn new(file: &'a [u8]) -> Self {
        Self { rest: file }
    }

    /// Bytes behind the last record that was whole.
    pub(super) const fn damaged(&self) -> usize {
        self.rest.len()
    }
}

impl Iterator for Records<'_> {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        let (len, after) = self.rest.split_first_chunk()?;
        let (checksum, after) = after.split_first_chunk()?;
        let len = u32::from_be_bytes(*len) as usize;
        let (body, after) = after.split_at_checked(len).filter(|_| len <= RECORD_MOST)?;
        if crc32(body) != u32::from_be_bytes(*checksum) {
            return None;
        }
        let record = Record::read(body)?;
        self.rest = after;
        Some(record)
    }
}

/// CRC-32 as in Ethernet and zip.
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut index = 0;
        while index < 256 {
            let (mut value, mut bit) = (index as u32, 0);
            while bit < 8 {
                value = if value & 1 == 1 { 0xedb8_8320 ^ (value >> 1) } else { value >> 1 };
                bit += 1;
            }
            table[index] = value;
            index += 1;
        }
        table
    };
    // The index is one byte, and the table has a place for each.
    !bytes.iter().fold(u32::MAX, |crc, byte| (crc >> 8) ^ TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize])
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_checksum_is_the_well_known_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
    }

    pub(in super::super) fn record() -> impl Strategy<Value = Record> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from);
        let kind = (0_usize..5).prop_map(|kind| Kind::ALL[kind]);
        prop_oneof![
            any::<u128>().prop_map(|run_id| Record::Run { run_id }),
            (any::<u128>(), bytes()).prop_map(|(connection, field)| Record::Client { connection, field }),
            (any::<u64>(), any::<u128>(), kind, bytes()).prop_map(|(sequence, connection, kind, fields)| {
                Record::Event { sequence, connection, kind, fields }
            }),
            (any::<u128>(), bytes()).prop_map(|(connection, field)| Record::Opened { connection, field }),
            any::<u128>().prop_map(|connection| Record::Closed { connection }),
        ]
    }

    fn written(records: &[Record]) -> (Vec<u8>, Vec<usize>) {
        let (mut out, mut ends) = (BytesMut::new(), Vec::new());
        for record in records {
            record.write(&mut out);
            ends.push(out.len());
        }
        (out.to_vec(), ends)
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(records in prop::collection::vec(record(), 0..20)) {
            let (file, _) = written(&records);
            prop_assert_eq!(records.iter().map(Record::len).sum::<usize>(), file.len());
            let mut read = Records::new(&file);
            prop_assert_eq!(read.by_ref().collect::<Vec<_>>(), records);
            prop_assert_eq!(read.damaged(), 0);
        }

        /// Cut anywhere, with one bit turned over anywhere: all before the damage is read, and nothing that was not written.
        #[test]
        fn a_damaged_file_is_read_up_to_the_damage(
            records in prop::collection::vec(record(), 1..20),
            cut in any::<prop::sample::Index>(),
            flip in any::<prop::sample::Index>(),
            bit in 0_u32..8,
        ) {
            let (file, ends) = written(&records);
            let cut = cut.index(file.len() + 1);
            let mut damaged = file[..cut].to_vec();
            let at = flip.index(file.len());
            if let Some(byte) = damaged.get_mut(at) {
                *byte ^= 1 << bit;
            }
            let whole = ends.iter().filter(|end| **end <= cut.min(at)).count();
            let mut read = Records::new(&damaged);
            let got: Vec<_> = read.by_ref().collect();
            if at < cut {
                prop_assert_eq!(got.len(), whole);
            }
            prop_assert!(got.len() >= whole && records.starts_with(&got));
            prop_assert_eq!(read.damaged(), damaged.len() - ends.get(got.len().wrapping_sub(1)).copied().unwrap_or(0));
        }

        #[test]
        fn garbage_is_no_record(garbage in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Records::new(&garbage).count() <= garbage.len() / HEAD);
        }
    }
}
