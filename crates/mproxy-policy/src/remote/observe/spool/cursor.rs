//! How far a spool is: which numbering it holds, which of its numbers may have been given, and how far they are safe. Kept
//! twice in a file of fixed size, and written in turns into its own place, so that a disk that is full takes it, and one
//! that is cut off in the middle has the one before.

use super::record::crc32;

/// What is known of a spool beside its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) run_id: u128,
    /// Numbers up to here may have been given to events.
    pub(super) reserved: u64,
    /// All up to here is safe with the service.
    pub(super) confirmed: u64,
    /// mproxy ended in order: no connection is open, and `reserved` is the last number that was given.
    pub(super) clean: bool,
}

/// Bytes of one copy, and of the file, which has two.
pub(super) const COPY: usize = 64;
pub(super) const FILE: usize = 2 * COPY;

const MAGIC: [u8; 8] = *b"mprxspl1";
const CHECKED: usize = COPY - 4;
// All parts of a copy; the last one is a single byte.
const _: () = assert!(MAGIC.len() + 3 * size_of::<u64>() + size_of::<u128>() < CHECKED);

impl Cursor {
    /// A copy with this number; later ones have larger numbers.
    pub(super) fn encode(&self, generation: u64) -> [u8; COPY] {
        let mut copy = [0; COPY];
        let parts: [&[u8]; 6] = [
            &MAGIC,
            &generation.to_be_bytes(),
            &self.run_id.to_be_bytes(),
            &self.reserved.to_be_bytes(),
            &self.confirmed.to_be_bytes(),
            &[u8::from(self.clean)],
        ];
        let mut at = 0;
        for part in parts {
            if let Some(place) = copy.get_mut(at..at + part.len()) {
                place.copy_from_slice(part);
            }
            at += part.len();
        }
        let (checked, checksum) = copy.split_at_mut(CHECKED);
        checksum.copy_from_slice(&crc32(checked).to_be_bytes());
        copy
    }

    fn decode(copy: &[u8]) -> Option<(u64, Self)> {
        let (checked, checksum) = copy.split_at_checked(CHECKED)?;
        if crc32(checked).to_be_bytes() != checksum {
            return None;
        }
        let rest = checked.strip_prefix(&MAGIC)?;
        let (generation, rest) = rest.split_first_chunk()?;
        let (run_id, rest) = rest.split_first_chunk()?;
        let (reserved, rest) = rest.split_first_chunk()?;
        let (confirmed, rest) = rest.split_first_chunk()?;
        let cursor = Self {
            run_id: u128::from_be_bytes(*run_id),
            reserved: u64::from_be_bytes(*reserved),
            confirmed: u64::from_be_bytes(*confirmed),
            clean: rest.first()? == &1,
        };
        // What was never given cannot be confirmed: a checksum that fits by chance is found out here.
        (cursor.confirmed <= cursor.reserved).then_some((u64::from_be_bytes(*generation), cursor))
    }

    /// The latest copy of a file that is whole, with its number.
    pub(super) fn read(file: &[u8]) -> Option<(u64, Self)> {
        file.chunks(COPY).take(2).filter_map(Self::decode).max_by_key(|(generation, _)| *generation)
    }

    /// Where a copy with this number stands in the file.
    pub(super) const fn place(generation: u64) -> u64 {
        (generation % 2) * COPY as u64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(cursors: &[Cursor]) -> Vec<u8> {
        let mut file = vec![0; FILE];
        for (generation, cursor) in (7..).zip(cursors) {
            let at = Cursor::place(generation) as usize;
            file[at..at + COPY].copy_from_slice(&cursor.encode(generation));
        }
        file
    }

    proptest! {
        #[test]
        fn the_last_one_is_read_and_the_one_before_where_it_is_damaged(
            run_id in any::<u128>(), confirmed in 0..u64::MAX / 4, clean in any::<bool>(), at in 0..COPY, bit in 0_u32..8,
        ) {
            let one = |more| Cursor { run_id, reserved: 2 * confirmed + more, confirmed: confirmed + more, clean };
            let mut file = file(&[one(0), one(1), one(2)]);
            prop_assert_eq!(Cursor::read(&file), Some((9, one(2))));
            file[Cursor::place(9) as usize + at] ^= 1 << bit;
            prop_assert_eq!(Cursor::read(&file), Some((8, one(1))));
        }

        #[test]
        fn garbage_is_no_cursor(garbage in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(Cursor::read(&garbage), None);
        }
    }
}
