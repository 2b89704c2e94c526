//! Buffers that are lent for the time of one read. An idle connection holds none.

use std::cell::RefCell;

use bytes::BytesMut;
use smallvec::SmallVec;

/// Bytes of one buffer: what one read takes at most.
pub(super) const SIZE: usize = 64 << 10;

/// Buffers that one thread keeps for the next read: one for each side of the connection whose turn it is.
const KEPT: usize = 2;

thread_local! {
    static POOL: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// The buffers of one turn of a relay: kept until what was read into them has been written, for before that they
/// cannot be used again.
#[derive(Default)]
pub(super) struct Lent(SmallVec<[BytesMut; 4]>);

impl Lent {
    /// Takes a buffer that was read into.
    pub(super) fn keep(&mut self, chunk: BytesMut) {
        self.0.push(chunk);
    }

    pub(super) fn give_back(self) {
        self.0.into_iter().for_each(give_back);
    }
}

/// An empty buffer of [`SIZE`] bytes.
pub(super) fn lease() -> BytesMut {
    POOL.with_borrow_mut(Vec::pop).unwrap_or_else(|| BytesMut::with_capacity(SIZE))
}

/// Takes a buffer back. One whose bytes are still held by somebody is left to them.
pub(super) fn give_back(mut chunk: BytesMut) {
    chunk.clear();
    POOL.with_borrow_mut(|pool| {
        if pool.len() < KEPT && chunk.try_reclaim(SIZE) {
            pool.push(chunk);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_once_nobody_holds_a_part_of_it() {
        POOL.with_borrow_mut(Vec::clear);
        let mut chunk = lease();
        chunk.extend_from_slice(b"abc");
        let held = chunk.split_to(3).freeze();
        give_back(chunk);
        assert_eq!(POOL.with_borrow(Vec::len), 0);
        drop(held);

        let mut chunk = lease();
        chunk.extend_from_slice(b"abc");
        drop(chunk.split_to(3).freeze());
        give_back(chunk);
        assert_eq!(POOL.with_borrow(Vec::len), 1);
        assert!(lease().capacity() >= SIZE);
    }
}
