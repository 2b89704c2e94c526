//! The events of a tap that its reader has not taken yet, bounded by their bytes, and how many of them there may be a
//! second. When it is full, or its rate is used up, events are lost, and the next that fits says how many there were.

use std::collections::VecDeque;
use std::time::Instant;

use super::TapEvent;

/// Bytes of events that wait for a reader.
pub(super) const MOST_BYTES: usize = 256 << 10;

/// What an event takes besides its text.
const EVENT: usize = size_of::<TapEvent>();

#[derive(Debug)]
pub(super) struct TapQueue {
    events: VecDeque<TapEvent>,
    /// Of all `events`.
    bytes: usize,
    /// Events that were lost since the last one that was put in.
    lost: u64,
    rate: f64,
    /// Events that may come now; a second's worth at most.
    left: f64,
    filled: Instant,
}

const fn weight(event: &TapEvent) -> usize {
    match event {
        TapEvent::Packet(text) | TapEvent::Refusal(text) => EVENT + text.len(),
        TapEvent::Lost(_) => EVENT,
    }
}

impl TapQueue {
    pub(super) fn new(rate: u32, now: Instant) -> Self {
        let rate = f64::from(rate);
        Self { events: VecDeque::new(), bytes: 0, lost: 0, rate, left: rate, filled: now }
    }

    /// Whether another event may come; it is counted as lost if not.
    pub(super) fn has_room(&mut self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.filled).as_secs_f64();
        (self.left, self.filled) = ((self.left + since * self.rate).min(self.rate), now);
        // Looked at before the event is made: a reader that takes nothing costs no more than this.
        let has_room = self.left >= 1.0 && self.bytes < MOST_BYTES;
        if has_room {
            self.left -= 1.0;
        } else {
            self.lost += 1;
        }
        has_room
    }

    /// Puts one in, or counts it as lost.
    pub(super) fn push(&mut self, event: TapEvent) -> bool {
        let weight = weight(&event) + if self.lost > 0 { EVENT } else { 0 };
        if self.bytes + weight > MOST_BYTES {
            self.lost += 1;
            return false;
        }
        if let Some(lost) = self.take_lost() {
            self.events.push_back(TapEvent::Lost(lost));
        }
        self.bytes += weight;
        self.events.push_back(event);
        true
    }

    /// The oldest.
    pub(super) fn pop(&mut self) -> Option<TapEvent> {
        let event = self.events.pop_front()?;
        self.bytes -= weight(&event);
        debug_assert!(!self.events.is_empty() || self.bytes == 0, "bytes of events that are gone");
        Some(event)
    }

    /// How many were lost behind the last one; they are told with that.
    pub(super) fn take_lost(&mut self) -> Option<u64> {
        Some(std::mem::take(&mut self.lost)).filter(|lost| *lost > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn packet(len: usize) -> TapEvent {
        TapEvent::Packet("x".repeat(len))
    }

    #[test]
    fn no_more_come_in_a_second_than_its_rate() {
        let now = Instant::now();
        let mut queue = TapQueue::new(10, now);
        assert_eq!((0..25).filter(|_| queue.has_room(now)).count(), 10);
        assert_eq!((0..25).filter(|_| queue.has_room(now + Duration::from_millis(500))).count(), 5);
        assert!(queue.push(packet(1)));
        assert_eq!(queue.pop(), Some(TapEvent::Lost(35)), "in its place, before what came behind");
        assert_eq!(queue.pop(), Some(packet(1)));
        assert_eq!((queue.pop(), queue.take_lost()), (None, None));
    }

    #[test]
    fn a_reader_that_takes_nothing_makes_it_hold_only_so_much() {
        let now = Instant::now();
        let mut queue = TapQueue::new(1000, now);
        let mut put = 0_u64;
        for _ in 0..200 {
            if queue.has_room(now) && queue.push(packet(4000)) {
                put += 1;
            }
            assert!(queue.bytes <= MOST_BYTES, "{}", queue.bytes);
        }
        assert!((60..70).contains(&put), "{put}");
        assert_eq!(std::iter::from_fn(|| queue.pop()).count() as u64, put);
        assert_eq!((queue.bytes, queue.take_lost()), (0, Some(200 - put)));
    }
}
