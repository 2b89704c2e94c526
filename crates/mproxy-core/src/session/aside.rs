//! Packets of our own for a side that is in the middle of a streamed payload: they wait until it is whole.

use std::collections::VecDeque;

use bytes::Bytes;

/// A queue that takes no room while nothing waits. Bounded by its owner: while it is [`full`](Aside::full), the side
/// whose packets make us answer is not read.
#[derive(Debug, Default)]
pub(super) struct Aside(Option<Box<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    packets: VecDeque<Bytes>,
    bytes: usize,
}

impl Aside {
    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn full(&self, packets: usize, bytes: usize) -> bool {
        self.0.as_ref().is_some_and(|waiting| waiting.packets.len() >= packets || waiting.bytes >= bytes)
    }

    pub(super) fn push(&mut self, packet: Bytes) {
        let waiting = self.0.get_or_insert_default();
        waiting.bytes += packet.len();
        waiting.packets.push_back(packet);
    }

    /// Everything that waits, in order.
    pub(super) fn take(&mut self) -> VecDeque<Bytes> {
        self.0.take().map(|waiting| waiting.packets).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_full_by_count_or_by_bytes_and_empty_once_taken() {
        let mut aside = Aside::default();
        assert!(aside.is_empty() && !aside.full(1, 1));
        aside.push(Bytes::from_static(b"ab"));
        assert!(aside.full(1, 9) && aside.full(9, 2) && !aside.full(2, 3));
        assert_eq!(aside.take(), [Bytes::from_static(b"ab")]);
        assert!(aside.is_empty());
    }
}
