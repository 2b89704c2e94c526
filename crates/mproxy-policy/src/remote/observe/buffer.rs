//! The events that are kept until the service has confirmed them: their numbers, what was sent of them on the stream that
//! is open, how far they are safe, and what had to be dropped. Knows no clock, socket or file, and not what an event is.
//!
//! Each number that was given is one of four things: confirmed, kept, dropped (in a [`Gap`]), or passed on by another way.

use std::collections::VecDeque;

use mproxy_core::event::Kind;

/// What is kept at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) bytes: usize,
    pub(super) events: usize,
}

/// Numbers of events that were dropped, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) from: u64,
    pub(super) to: u64,
}

/// There is no room for an event. Its number is spent, and stands in a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

#[derive(Debug)]
struct Kept<E> {
    sequence: u64,
    weight: usize,
    event: E,
}

/// Events in the order of their numbers.
#[derive(Debug)]
pub(super) struct EventBuffer<E> {
    bounds: Bounds,
    kept: VecDeque<Kept<E>>,
    /// The sum of what is kept weighs.
    bytes: usize,
    /// Between two of them is an event that is kept, so that there are at most as many, and one more. All of them are behind
    /// `confirmed`, and none touches the next one.
    gaps: VecDeque<Gap>,
    /// The last number that was given.
    last: u64,
    /// Nothing up to here is kept any more.
    confirmed: u64,
    /// On the stream that is open, all up to here was sent. At least `confirmed`.
    sent: u64,
    /// The same on any stream. At least `sent`.
    ever_sent: u64,
}

/// What is sent next.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Batch<E> {
    pub(super) events: Vec<(u64, E)>,
    /// Those before and between the events; behind the last one only where there is no further event.
    pub(super) gaps: Vec<Gap>,
    /// How many of the events were sent before, on another stream.
    pub(super) resent: usize,
}

#[cfg(test)]
impl<E> Batch<E> {
    const fn is_empty(&self) -> bool {
        self.events.is_empty() && self.gaps.is_empty()
    }
}

/// What a confirmation came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Confirmed<E> {
    /// It says nothing new.
    Known,
    /// It names a number that was never sent.
    Future,
    /// These are not kept any more.
    Released(Vec<E>),
}

impl<E: Clone> EventBuffer<E> {
    /// An empty one. Numbers begin with 1.
    pub(super) const fn new(bounds: Bounds) -> Self {
        Self::after(bounds, 0)
    }

    const fn after(bounds: Bounds, confirmed: u64) -> Self {
        Self {
            bounds,
            kept: VecDeque::new(),
            bytes: 0,
            gaps: VecDeque::new(),
            last: confirmed,
            confirmed,
            sent: confirmed,
            ever_sent: confirmed,
        }
    }

    /// One that goes on where another ended: all up to `confirmed` is safe, the numbers up to `last` may have been given,
    /// and of these `events` are still there, in order, with their weights. Which of them had no room is given back.
    pub(super) fn restore(
        bounds: Bounds,
        confirmed: u64,
        last: u64,
        events: impl IntoIterator<Item = (u64, usize, E)>,
    ) -> (Self, Vec<E>) {
        let mut buffer = Self::after(bounds, confirmed);
        let mut without_room = Vec::new();
        for (sequence, weight, event) in events {
            // What stands twice in a file, or in the wrong place, was read before.
            if sequence <= buffer.last || sequence > last {
                continue;
            }
            buffer.skip_to(sequence - 1);
            // Those that happen once to a connection have no privilege here: what came first is kept.
            if buffer.push_weighing(weight, event.clone(), bounds).is_err() {
                without_room.push(event);
            }
        }
        buffer.skip_to(last);
        // Who was there before may have sent all of it.
        buffer.ever_sent = buffer.last;
        buffer.check();
        (buffer, without_room)
    }

    /// Takes an event and gives it its number. The last quarter of the room is for what happens once to a connection, as a
    /// flood of publishes is what fills it.
    ///
    /// # Errors
    /// There is no room for it.
    pub(super) fn push(&mut self, kind: Kind, weight: usize, event: E) -> Result<u64, Full> {
        let Bounds { bytes, events } = self.bounds;
        let room = match kind {
            Kind::Publish => Bounds { bytes: bytes - bytes / 4, events: events - events / 4 },
            Kind::Connect | Kind::Subscribe | Kind::Unsubscribe | Kind::Disconnect => self.bounds,
        };
        let pushed = self.push_weighing(weight, event, room);
        self.check();
        pushed
    }

    fn push_weighing(&mut self, weight: usize, event: E, room: Bounds) -> Result<u64, Full> {
        if self.kept.len() >= room.events || self.bytes.saturating_add(weight) > room.bytes {
            // A hole in the numbers is how the service learns that something is missing.
            self.skip();
            return Err(Full);
        }
        self.last += 1;
        self.bytes += weight;
        self.kept.push_back(Kept { sequence: self.last, weight, event });
        Ok(self.last)
    }

    /// Spends a number on an event that is dropped.
    pub(super) fn skip(&mut self) {
        self.skip_to(self.last + 1);
    }

    fn skip_to(&mut self, last: u64) {
        let from = self.last + 1;
        // What is restored may begin right behind the last number: there is no gap then.
        if last < from {
            return;
        }
        match self.gaps.back_mut() {
            // Nothing is kept between the two, so it is one gap that grows: that is what bounds how many there are.
            Some(gap) if gap.to == self.last => gap.to = last,
            Some(_) | None => self.gaps.push_back(Gap { from, to: last }),
        }
        self.last = last;
    }

    /// Spends a number on an event that goes another way. `None`: something is kept that has to go first.
    pub(super) fn pass(&mut self) -> Option<u64> {
        if !self.kept.is_empty() {
            return None;
        }
        self.last += 1;
        // A call has a fate of its own: no stream ever sends this number, or hears of it.
        self.settle(self.last);
        Some(self.last)
    }

    /// The first one that is kept.
    pub(super) fn first(&self) -> Option<&E> {
        self.kept.front().map(|kept| &kept.event)
    }

    /// Takes the first one out, which goes another way. What was dropped before it is told by the numbers alone.
    pub(super) fn take_first(&mut self) -> Option<(u64, E)> {
        let Kept { sequence, weight, event } = self.kept.pop_front()?;
        self.bytes -= weight;
        self.settle(sequence);
        self.check();
        Some((sequence, event))
    }

    /// A new stream begins: what is not confirmed is sent again.
    pub(super) const fn begin_stream(&mut self) {
        self.sent = self.confirmed;
    }

    /// What is to be sent next on this stream, at most so much, and of numbers up to `limit`; one event at least, however
    /// large.
    pub(super) fn next_batch(&mut self, most: Bounds, limit: u64) -> Batch<E> {
        let before = self.sent;
        let start = self.kept.partition_point(|kept| kept.sequence <= before);
        let mut bytes = 0_usize;
        let mut events = Vec::new();
        for kept in self.kept.range(start..) {
            bytes = bytes.saturating_add(kept.weight);
            // One larger than a batch goes alone, or it would stand in the way of all behind it.
            let is_full = !events.is_empty() && (bytes > most.bytes || events.len() >= most.events);
            if is_full || kept.sequence > limit {
                break;
            }
            events.push((kept.sequence, kept.event.clone()));
        }
        // Only behind the very last event: a gap that is told before an event with a smaller number would be out of
        // order.
        let all = start + events.len() == self.kept.len();
        let end = if all {
            self.last.min(limit).max(before)
        } else {
            events.last().map_or(before, |(sequence, _)| *sequence)
        };
        let start = self.gaps.partition_point(|gap| gap.to <= before);
        let gaps = self.gaps.range(start..).take_while(|gap| gap.from <= end);
        // The last one may have grown since a part of it was told.
        let gaps = gaps.map(|gap| Gap { from: gap.from.max(before + 1), to: gap.to.min(end) }).collect();
        let resent = events.partition_point(|(sequence, _)| *sequence <= self.ever_sent);
        self.sent = end;
        self.ever_sent = self.ever_sent.max(end);
        self.check();
        Batch { events, gaps, resent }
    }

    /// Whether [`next_batch`](Self::next_batch) has something.
    #[cfg(test)]
    const fn has_next(&self) -> bool {
        self.sent < self.last
    }

    /// Whether something that was sent on this stream is not confirmed.
    pub(super) const fn is_waiting(&self) -> bool {
        self.confirmed < self.sent
    }

    /// The service says that all up to here is safe.
    pub(super) fn confirm(&mut self, up_to: u64) -> Confirmed<E> {
        if up_to <= self.confirmed {
            return Confirmed::Known;
        }
        // Not `sent`: what was sent on an earlier stream may be confirmed on this one before it is sent again.
        if up_to > self.ever_sent {
            return Confirmed::Future;
        }
        let safe = self.kept.partition_point(|kept| kept.sequence <= up_to);
        let released: Vec<E> = self
            .kept
            .drain(..safe)
            .map(|kept| {
                self.bytes -= kept.weight;
                kept.event
            })
            .collect();
        self.settle(up_to);
        self.check();
        Confirmed::Released(released)
    }

    /// Nothing up to here concerns this buffer any more.
    fn settle(&mut self, up_to: u64) {
        self.confirmed = up_to;
        // What is safe already is not sent again.
        self.sent = self.sent.max(up_to);
        self.ever_sent = self.ever_sent.max(up_to);
        while self.gaps.front().is_some_and(|gap| gap.to <= up_to) {
            self.gaps.pop_front();
        }
        if let Some(gap) = self.gaps.front_mut() {
            gap.from = gap.from.max(up_to + 1);
        }
    }

    /// Takes all that is kept out.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = E> + use<E> {
        self.bytes = 0;
        self.settle(self.last);
        std::mem::take(&mut self.kept).into_iter().map(|kept| kept.event)
    }

    /// Events that are kept.
    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }

    /// What they weigh.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The last number that was sent on any stream.
    pub(super) const fn ever_sent(&self) -> u64 {
        self.ever_sent
    }

    /// The last number that was given.
    pub(super) const fn last(&self) -> u64 {
        self.last
    }

    /// All up to here is safe.
    pub(super) const fn confirmed(&self) -> u64 {
        self.confirmed
    }

    fn check(&self) {
        debug_assert!(
            self.confirmed <= self.sent && self.sent <= self.ever_sent && self.ever_sent <= self.last
        );
        debug_assert!(self.gaps.len() <= self.kept.len() + 1);
        // What is confirmed is neither kept nor in a gap, and nothing has a number that was not given.
        debug_assert!(self.kept.front().is_none_or(|first| first.sequence > self.confirmed));
        debug_assert!(self.kept.back().is_none_or(|last| last.sequence <= self.last));
        debug_assert!(self.gaps.front().is_none_or(|gap| self.confirmed < gap.from && gap.from <= gap.to));
        debug_assert!(!self.kept.is_empty() || self.bytes == 0, "bytes are counted of nothing");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AMPLE: Bounds = Bounds { bytes: 1 << 20, events: 1000 };

    /// An event that carries the number it should have.
    fn filled(events: u64) -> EventBuffer<u64> {
        let mut buffer = EventBuffer::new(AMPLE);
        for number in 1..=events {
            assert_eq!(buffer.push(Kind::Connect, 1, number), Ok(number));
        }
        buffer
    }

    fn numbers(batch: &Batch<u64>) -> Vec<u64> {
        assert!(batch.events.iter().all(|(sequence, event)| sequence == event));
        batch.events.iter().map(|(sequence, _)| *sequence).collect()
    }

    #[test]
    fn a_new_stream_begins_with_the_first_that_is_not_confirmed() {
        let mut buffer = filled(5);
        assert_eq!(numbers(&buffer.next_batch(Bounds { events: 3, ..AMPLE }, u64::MAX)), [1, 2, 3]);
        assert_eq!(buffer.confirm(2), Confirmed::Released(vec![1, 2]));
        assert!(buffer.is_waiting() && buffer.has_next());
        buffer.begin_stream();
        let batch = buffer.next_batch(AMPLE, u64::MAX);
        assert_eq!((numbers(&batch), batch.resent), (vec![3, 4, 5], 1));
        assert_eq!(buffer.confirm(5), Confirmed::Released(vec![3, 4, 5]));
        assert!(!buffer.is_waiting() && !buffer.has_next() && buffer.bytes() == 0);
    }

    #[test]
    fn an_old_cursor_is_passed_over_and_one_from_the_future_forgets_nothing() {
        let mut buffer = filled(5);
        assert_eq!(buffer.confirm(1), Confirmed::Future, "nothing was sent yet");
        buffer.next_batch(Bounds { events: 3, ..AMPLE }, u64::MAX);
        assert_eq!(buffer.confirm(4), Confirmed::Future);
        assert_eq!(buffer.len(), 5);
        buffer.confirm(2);
        assert_eq!(buffer.confirm(1), Confirmed::Known);
        assert_eq!(buffer.confirm(2), Confirmed::Known);
    }

    #[test]
    fn a_service_may_confirm_what_it_had_from_another_stream() {
        let mut buffer = filled(5);
        buffer.next_batch(AMPLE, u64::MAX);
        buffer.begin_stream();
        assert_eq!(buffer.confirm(4), Confirmed::Released(vec![1, 2, 3, 4]));
        assert_eq!(numbers(&buffer.next_batch(AMPLE, u64::MAX)), [5], "and is not sent it again");
    }

    #[test]
    fn what_has_no_room_is_a_gap_told_once_in_its_place() {
        let mut buffer = EventBuffer::new(Bounds { bytes: 400, events: 4 });
        for number in 1..=3 {
            assert_eq!(buffer.push(Kind::Publish, 1, number), Ok(number));
        }
        assert_eq!(buffer.push(Kind::Publish, 1, 4), Err(Full), "the last quarter is for others");
        buffer.skip();
        assert_eq!(buffer.push(Kind::Disconnect, 1, 6), Ok(6));
        assert_eq!(buffer.push(Kind::Disconnect, 1, 7), Err(Full));
        let batch = buffer.next_batch(Bounds { events: 3, ..AMPLE }, u64::MAX);
        assert_eq!((numbers(&batch), batch.gaps), (vec![1, 2, 3], vec![]));
        let batch = buffer.next_batch(AMPLE, u64::MAX);
        assert_eq!(
            (numbers(&batch), batch.gaps),
            (vec![6], vec![Gap { from: 4, to: 5 }, Gap { from: 7, to: 7 }])
        );
        assert_eq!(buffer.push(Kind::Connect, 1, 8), Err(Full));
        let batch = buffer.next_batch(AMPLE, u64::MAX);
        assert_eq!((numbers(&batch), batch.gaps), (vec![], vec![Gap { from: 8, to: 8 }]), "only what is new");
        assert!(buffer.next_batch(AMPLE, u64::MAX).is_empty());
        buffer.confirm(6);
        buffer.begin_stream();
        assert_eq!(
            buffer.next_batch(AMPLE, u64::MAX).gaps,
            [Gap { from: 7, to: 8 }],
            "told again unless it was confirmed"
        );
        assert_eq!(buffer.confirm(8), Confirmed::Released(vec![]));
        buffer.begin_stream();
        assert!(buffer.next_batch(AMPLE, u64::MAX).is_empty());
    }

    #[test]
    fn bytes_bound_it_as_well_as_numbers() {
        let mut buffer = EventBuffer::new(Bounds { bytes: 100, events: 100 });
        assert_eq!(buffer.push(Kind::Publish, 76, 1), Err(Full));
        assert_eq!(buffer.push(Kind::Connect, 90, 2), Ok(2));
        assert_eq!(buffer.push(Kind::Connect, 11, 3), Err(Full));
        buffer.next_batch(AMPLE, u64::MAX);
        buffer.confirm(3);
        assert_eq!(buffer.push(Kind::Connect, 100, 4), Ok(4));
    }

    #[test]
    fn one_event_is_sent_however_large() {
        let mut buffer = filled(3);
        assert_eq!(numbers(&buffer.next_batch(Bounds { bytes: 0, events: 9 }, u64::MAX)), [1]);
        assert_eq!(numbers(&buffer.next_batch(Bounds { bytes: 2, events: 9 }, u64::MAX)), [2, 3]);
    }

    #[test]
    fn what_is_beyond_the_limit_waits() {
        let mut buffer = filled(3);
        buffer.skip();
        assert_eq!(numbers(&buffer.next_batch(AMPLE, 2)), [1, 2]);
        assert!(buffer.next_batch(AMPLE, 2).is_empty() && buffer.has_next());
        let batch = buffer.next_batch(AMPLE, 3);
        assert_eq!((numbers(&batch), batch.gaps), (vec![3], vec![]));
        assert_eq!(buffer.next_batch(AMPLE, 4).gaps, [Gap { from: 4, to: 4 }]);
    }

    #[test]
    fn a_restored_one_goes_on_where_it_ended() {
        let events = [(3, 1, 3), (5, 1, 5), (5, 1, 5), (6, 1, 6), (99, 1, 99)];
        let (mut buffer, without_room) = EventBuffer::restore(AMPLE, 2, 9, events);
        assert_eq!((without_room, buffer.last(), buffer.confirmed()), (vec![], 9, 2));
        assert_eq!(buffer.push(Kind::Connect, 1, 10), Ok(10));
        let batch = buffer.next_batch(AMPLE, u64::MAX);
        assert_eq!((numbers(&batch), batch.resent), (vec![3, 5, 6, 10], 3));
        assert_eq!(batch.gaps, [Gap { from: 4, to: 4 }, Gap { from: 7, to: 9 }]);
        let small = Bounds { bytes: 9, events: 1 };
        let (mut buffer, without_room) = EventBuffer::restore(small, 0, 2, [(1, 1, 1), (2, 1, 2)]);
        assert_eq!(without_room, [2]);
        assert_eq!(buffer.next_batch(AMPLE, u64::MAX).gaps, [Gap { from: 2, to: 2 }]);
    }

    #[test]
    fn what_goes_another_way_keeps_its_order_and_is_not_sent() {
        let mut buffer = filled(2);
        assert_eq!(buffer.pass(), None, "they come first");
        assert_eq!(buffer.take_first(), Some((1, 1)));
        assert_eq!(buffer.first(), Some(&2));
        assert_eq!(buffer.take_first(), Some((2, 2)));
        assert_eq!(buffer.pass(), Some(3));
        assert_eq!(buffer.push(Kind::Connect, 1, 4), Ok(4));
        assert_eq!(numbers(&buffer.next_batch(AMPLE, u64::MAX)), [4]);
        assert_eq!(buffer.drain().collect::<Vec<_>>(), [4]);
        assert_eq!((buffer.len(), buffer.bytes(), buffer.has_next()), (0, 0, false));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(bool, usize),
        Skip,
        Send(usize, usize),
        Confirm(u64),
        Reconnect,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (any::<bool>(), 0_usize..40).prop_map(|(publish, weight)| Step::Push(publish, weight)),
            1 => Just(Step::Skip),
            3 => (0_usize..60, 1_usize..6).prop_map(|(bytes, events)| Step::Send(bytes, events)),
            2 => (0_u64..12).prop_map(Step::Confirm),
            1 => Just(Step::Reconnect),
        ]
    }

    proptest! {
        /// Whatever happens, each stream tells of every number from the first that was not confirmed on, in order and
        /// without a hole, as an event or in a gap; and an event is given up only by a confirmation.
        #[test]
        fn no_number_is_ever_missing(steps in prop::collection::vec(step(), 1..200)) {
            let bounds = Bounds { bytes: 200, events: 8 };
            let mut buffer = EventBuffer::new(bounds);
            let mut kept = std::collections::BTreeSet::new();
            let (mut last, mut confirmed, mut told, mut ever_told) = (0, 0, 0, 0);
            for step in steps {
                match step {
                    Step::Push(publish, weight) => {
                        last += 1;
                        let kind = if publish { Kind::Publish } else { Kind::Subscribe };
                        if buffer.push(kind, weight, last).is_ok() {
                            kept.insert(last);
                        }
                    }
                    Step::Skip => {
                        last += 1;
                        buffer.skip();
                    }
                    Step::Send(bytes, events) => {
                        let batch = buffer.next_batch(Bounds { bytes, events }, u64::MAX);
                        prop_assert!(batch.events.len() <= events);
                        let mut all: Vec<u64> = numbers(&batch);
                        prop_assert!(all.iter().all(|number| kept.contains(number)));
                        prop_assert_eq!(batch.resent, all.iter().filter(|number| **number <= ever_told).count());
                        for gap in &batch.gaps {
                            prop_assert!((gap.from..=gap.to).all(|number| !kept.contains(&number)));
                            all.extend(gap.from..=gap.to);
                        }
                        all.sort_unstable();
                        let until = told + all.len() as u64;
                        prop_assert_eq!(all, (told + 1..=until).collect::<Vec<_>>());
                        told = until;
                        ever_told = ever_told.max(told);
                    }
                    Step::Confirm(more) => {
                        let up_to = (confirmed + more).saturating_sub(2);
                        match buffer.confirm(up_to) {
                            Confirmed::Known => prop_assert!(up_to <= confirmed),
                            Confirmed::Future => prop_assert!(up_to > ever_told),
                            Confirmed::Released(events) => {
                                let rest = kept.split_off(&(up_to + 1));
                                prop_assert_eq!(events, std::mem::replace(&mut kept, rest).into_iter().collect::<Vec<_>>());
                                confirmed = up_to;
                                told = told.max(up_to);
                            }
                        }
                    }
                    Step::Reconnect => {
                        buffer.begin_stream();
                        told = confirmed;
                    }
                }
                prop_assert_eq!((buffer.last(), buffer.confirmed(), buffer.len()), (last, confirmed, kept.len()));
                prop_assert!(buffer.len() <= bounds.events && buffer.bytes() <= bounds.bytes);
                prop_assert_eq!((buffer.has_next(), buffer.is_waiting()), (told < last, confirmed < told));
            }
        }
    }
}
