//! Packets of our own for a side that is in the middle of a streamed payload: they wait until it is whole.

use std::collections::VecDeque;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A queue that takes no room while nothing waits. Bounded by its owner: while it is [`full`](Deferred::full), the side
/// whose packets make us answer is not read.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Deferred(Option<Box<Packets>>);

#[derive(Debug, Default, Serialize, Deserialize)]
struct Packets {
    packets: VecDeque<Bytes>,
    bytes: usize,
}

impl Deferred {
    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn full(&self, packets: usize, bytes: usize) -> bool {
        self.0.as_ref().is_some_and(|waiting| waiting.packets.len() >= packets || waiting.bytes >= bytes)
    }

    pub(super) fn push(&mut self, packet: Bytes) {
        let packets = self.0.get_or_insert_default();
        packets.bytes += packet.len();
        packets.packets.push_back(packet);
    }

    /// Everything that waits, in order.
    pub(super) fn take(&mut self) -> VecDeque<Bytes> {
        self.0.take().map(|packets| packets.packets).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_full_by_count_or_by_bytes_and_empty_once_taken() {
        let mut deferred = Deferred::default();
        assert!(deferred.is_empty() && !deferred.full(1, 1));
        deferred.push(Bytes::from_static(b"ab"));
        assert!(deferred.full(1, 9) && deferred.full(9, 2) && !deferred.full(2, 3));
        assert_eq!(deferred.take(), [Bytes::from_static(b"ab")]);
        assert!(deferred.is_empty());
    }
}
