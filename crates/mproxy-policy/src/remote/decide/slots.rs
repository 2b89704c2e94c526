//! The questions of one stream: each in a slot, from when it was asked until its asker has heard what came of it, and in a
//! list by deadline, so that one timer serves all. Knows no clock, no socket and no message.

use std::task::Waker;

use tokio::time::Instant;

use crate::watch::AnswerDrop;

/// An id is the number of its slot in so many bits, below how often the slot was used.
const INDEX_BITS: u32 = 16;

/// Questions that one stream may have at a time.
pub(super) const SLOTS_MOST: usize = 1 << INDEX_BITS;

/// The end of a list.
const NONE: u32 = u32::MAX;

/// What the asker of a question is told.
#[derive(Debug)]
pub(in crate::remote) enum SlotEvent<A> {
    Answered(A),
    /// Its deadline passed.
    Expired,
    /// The stream has ended.
    Lost,
    /// The stream has been silent for a while. The question stays open.
    Silent,
}

/// Questions that carry `Q` until they are written, and answers `A`.
pub(super) struct Slots<Q, A> {
    slots: Vec<QuestionSlot<Q, A>>,
    free: Vec<u32>,
    /// The open ones, the earliest deadline first.
    first: u32,
    last: u32,
    open: usize,
}

struct QuestionSlot<Q, A> {
    generation: u64,
    state: QuestionState<Q, A>,
    /// Whether what was here before was answered, and not given up.
    was_answered: bool,
}

enum QuestionState<Q, A> {
    Free,
    Open(Open<Q>),
    /// Nobody has heard it yet.
    Ended(SlotEvent<A>),
}

struct Open<Q> {
    deadline: Instant,
    before: u32,
    after: u32,
    /// `None`: it has been written.
    unwritten: Option<Q>,
    /// Bytes of the stream's credit that it took when it was written.
    credit: usize,
    waker: Option<Waker>,
    silent: bool,
}

const fn split(id: u64) -> (usize, u64) {
    ((id & ((1 << INDEX_BITS) - 1)) as usize, id >> INDEX_BITS)
}

impl<Q, A> Slots<Q, A> {
    pub(super) const fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), first: NONE, last: NONE, open: 0 }
    }

    /// Questions without an answer.
    pub(super) const fn open(&self) -> usize {
        self.open
    }

    /// The next deadline.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.get_open(self.first).map(|open| open.deadline)
    }

    /// Puts a question into a slot and gives its id; gives it back if there are too many.
    pub(super) fn insert(&mut self, question: Q, deadline: Instant) -> Result<u64, Q> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.slots.len() < SLOTS_MOST => {
                // Ids begin at 1 << INDEX_BITS: 0 is what a service sends that forgot to set it.
                self.slots.push(QuestionSlot {
                    generation: 1,
                    state: QuestionState::Free,
                    was_answered: false,
                });
                // Below SLOTS_MOST.
                (self.slots.len() - 1) as u32
            }
            None => return Err(question),
        };
        // Most have the latest deadline of all. Those that come from another stream have less time left.
        let mut before = self.last;
        while let Some(open) = self.get_open(before)
            && open.deadline > deadline
        {
            before = open.before;
        }
        let after = match self.get_open(before) {
            Some(open) => open.after,
            None => self.first,
        };
        debug_assert!(
            self.get_open(after).is_none_or(|next| next.deadline > deadline),
            "the list is in the order of deadlines"
        );
        self.link(before, after, index, index);
        let slot = &mut self.slots[index as usize];
        slot.state = QuestionState::Open(Open {
            deadline,
            before,
            after,
            unwritten: Some(question),
            credit: 0,
            waker: None,
            silent: false,
        });
        self.open += 1;
        Ok((slot.generation << INDEX_BITS) | u64::from(index))
    }

    /// Takes the question out to write it, if it is still open.
    pub(super) fn take_unwritten(&mut self, id: u64, credit: usize) -> Option<(Q, Instant)> {
        let (_, open) = self.find_open(id)?;
        let question = open.unwritten.take()?;
        // Given back with its end, whichever that is.
        open.credit = credit;
        Some((question, open.deadline))
    }

    /// The question, if it is open and has not been written.
    pub(super) fn unwritten(&mut self, id: u64) -> Option<&Q> {
        self.find_open(id)?.1.unwritten.as_ref()
    }

    /// What came of a question since; else `waker` is woken when something does.
    pub(super) fn poll(&mut self, id: u64, waker: &Waker) -> Option<SlotEvent<A>> {
        let (index, generation) = split(id);
        let slot = self.slots.get_mut(index).filter(|slot| slot.generation == generation)?;
        if let QuestionState::Open(open) = &mut slot.state {
            // Told once for each silence; the question goes on.
            if std::mem::take(&mut open.silent) {
                return Some(SlotEvent::Silent);
            }
            if !open.waker.as_ref().is_some_and(|own| own.will_wake(waker)) {
                open.waker = Some(waker.clone());
            }
            return None;
        }
        let QuestionState::Ended(event) = std::mem::replace(&mut slot.state, QuestionState::Free) else {
            return None;
        };
        self.vacate(index, matches!(event, SlotEvent::Answered(_)));
        Some(event)
    }

    /// Nobody waits for it any more. Gives the credit that it had.
    pub(super) fn give_up(&mut self, id: u64) -> usize {
        let (index, generation) = split(id);
        let Some(slot) = self.slots.get_mut(index).filter(|slot| slot.generation == generation) else {
            return 0;
        };
        match &slot.state {
            QuestionState::Free => 0,
            QuestionState::Open(_) => {
                let (credit, _) = self.close(index, None);
                self.vacate(index, false);
                credit
            }
            QuestionState::Ended(event) => {
                // Remembered although nobody has heard it, so that a second answer is known as one.
                let answered = matches!(event, SlotEvent::Answered(_));
                self.vacate(index, answered);
                0
            }
        }
    }

    /// Puts an answer where it belongs. Gives the credit of its question, and whom to wake.
    pub(super) fn answer(&mut self, id: u64, answer: A) -> Result<(usize, Option<Waker>), AnswerDrop> {
        let (index, generation) = split(id);
        let slot = self.slots.get_mut(index).ok_or(AnswerDrop::Unknown)?;
        match &slot.state {
            _ if generation == 0 || generation > slot.generation => Err(AnswerDrop::Unknown),
            QuestionState::Open(open) if generation == slot.generation => {
                // An id that it has not been sent.
                if open.unwritten.is_some() {
                    return Err(AnswerDrop::Unknown);
                }
                Ok(self.close(index, Some(SlotEvent::Answered(answer))))
            }
            QuestionState::Ended(SlotEvent::Answered(_)) if generation == slot.generation => {
                Err(AnswerDrop::Duplicate)
            }
            QuestionState::Ended(_) if generation == slot.generation => Err(AnswerDrop::Late),
            QuestionState::Free if generation == slot.generation => Err(AnswerDrop::Unknown),
            // Of a slot only the use before this one is remembered: what came for an earlier one is late.
            _ if generation + 1 == slot.generation && slot.was_answered => Err(AnswerDrop::Duplicate),
            _ => Err(AnswerDrop::Late),
        }
    }

    /// Ends the question whose deadline comes first, if it has passed.
    pub(super) fn expire(&mut self, now: Instant) -> Option<(usize, Option<Waker>)> {
        self.next_deadline().filter(|deadline| *deadline <= now)?;
        Some(self.close(self.first as usize, Some(SlotEvent::Expired)))
    }

    /// Ends all: the stream is over.
    pub(super) fn lose_one(&mut self) -> Option<Option<Waker>> {
        self.get_open(self.first)?;
        Some(self.close(self.first as usize, Some(SlotEvent::Lost)).1)
    }

    /// Tells all that wait that the stream is silent.
    pub(super) fn set_silent(&mut self, wakers: &mut Vec<Waker>) {
        let mut at = self.first;
        while let Some(QuestionState::Open(open)) =
            self.slots.get_mut(at as usize).map(|slot| &mut slot.state)
        {
            open.silent = true;
            wakers.extend(open.waker.take());
            at = open.after;
        }
    }

    fn find_open(&mut self, id: u64) -> Option<(usize, &mut Open<Q>)> {
        let (index, generation) = split(id);
        let slot = self.slots.get_mut(index).filter(|slot| slot.generation == generation)?;
        match &mut slot.state {
            QuestionState::Open(open) => Some((index, open)),
            QuestionState::Free | QuestionState::Ended(_) => None,
        }
    }

    fn get_open(&self, index: u32) -> Option<&Open<Q>> {
        match &self.slots.get(index as usize)?.state {
            QuestionState::Open(open) => Some(open),
            QuestionState::Free | QuestionState::Ended(_) => None,
        }
    }

    /// What comes after `before` and before `after`.
    fn link(&mut self, before: u32, after: u32, first: u32, last: u32) {
        match self.slots.get_mut(before as usize).map(|slot| &mut slot.state) {
            Some(QuestionState::Open(open)) => open.after = first,
            _ => self.first = first,
        }
        match self.slots.get_mut(after as usize).map(|slot| &mut slot.state) {
            Some(QuestionState::Open(open)) => open.before = last,
            _ => self.last = last,
        }
    }

    /// Takes an open question out of the list. Gives its credit and its waker.
    fn close(&mut self, index: usize, event: Option<SlotEvent<A>>) -> (usize, Option<Waker>) {
        let state = event.map_or(QuestionState::Free, QuestionState::Ended);
        let Some(slot) = self.slots.get_mut(index) else { return (0, None) };
        let QuestionState::Open(open) = std::mem::replace(&mut slot.state, state) else { return (0, None) };
        self.link(open.before, open.after, open.after, open.before);
        self.open -= 1;
        (open.credit, open.waker)
    }

    /// The slot is free for another question.
    fn vacate(&mut self, index: usize, answered: bool) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        slot.state = QuestionState::Free;
        slot.generation += 1;
        slot.was_answered = answered;
        // Below SLOTS_MOST.
        self.free.push(index as u32);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> Instant {
        static ZERO: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        *ZERO.get_or_init(Instant::now) + Duration::from_secs(seconds)
    }

    fn asked(slots: &mut Slots<&'static str, u8>, deadline: u64) -> u64 {
        let id = slots.insert("?", at(deadline)).unwrap();
        assert_eq!(slots.take_unwritten(id, 10).unwrap().0, "?");
        assert!(slots.poll(id, Waker::noop()).is_none());
        id
    }

    fn deadlines(mut slots: Slots<&'static str, u8>) -> Vec<u64> {
        std::iter::from_fn(|| {
            let deadline = slots.next_deadline()?;
            slots.expire(deadline).unwrap();
            Some((deadline - at(0)).as_secs())
        })
        .collect()
    }

    #[test]
    fn deadlines_come_in_order_however_they_were_asked() {
        let mut slots = Slots::new();
        let ids: Vec<_> = [5, 5, 3, 9, 4, 5, 1].map(|deadline| asked(&mut slots, deadline)).into();
        slots.give_up(ids[3]);
        assert!(slots.answer(ids[2], 0).is_ok());
        slots.give_up(ids[6]);
        assert_eq!(slots.open(), 4);
        assert_eq!(deadlines(slots), [4, 5, 5, 5]);
    }

    #[test]
    fn an_answer_is_heard_once() {
        let mut slots = Slots::new();
        let id = asked(&mut slots, 5);
        assert_eq!(slots.answer(id, 7).unwrap().0, 10, "its credit comes back");
        assert_eq!(slots.answer(id, 8).unwrap_err(), AnswerDrop::Duplicate);
        assert!(matches!(slots.poll(id, Waker::noop()), Some(SlotEvent::Answered(7))));
        assert_eq!(slots.answer(id, 8).unwrap_err(), AnswerDrop::Duplicate);
        let next = asked(&mut slots, 5);
        assert_ne!(next, id);
        assert_eq!(slots.answer(id, 8).unwrap_err(), AnswerDrop::Duplicate, "the slot is another's");
        assert!(slots.answer(next, 9).is_ok());
    }

    #[test]
    fn answers_to_what_was_never_asked_or_given_up_are_dropped() {
        let mut slots = Slots::new();
        assert_eq!(slots.answer(0, 0).unwrap_err(), AnswerDrop::Unknown);
        let id = asked(&mut slots, 5);
        for unknown in [0, 1, id + 1, id + (1 << INDEX_BITS), u64::MAX] {
            assert_eq!(slots.answer(unknown, 0).unwrap_err(), AnswerDrop::Unknown, "{unknown}");
        }
        assert_eq!(slots.give_up(id), 10);
        assert_eq!(slots.answer(id, 0).unwrap_err(), AnswerDrop::Late);
        let unsent = slots.insert("?", at(1)).unwrap();
        assert_eq!(slots.answer(unsent, 0).unwrap_err(), AnswerDrop::Unknown, "it cannot know this id");
        assert_eq!(slots.give_up(unsent), 0);
        assert!(slots.take_unwritten(unsent, 1).is_none(), "nobody waits for it");
        let late = asked(&mut slots, 1);
        slots.expire(at(1)).unwrap();
        assert_eq!(slots.answer(late, 0).unwrap_err(), AnswerDrop::Late);
    }

    #[test]
    fn slots_are_used_again_and_are_not_without_end() {
        let mut slots = Slots::<u32, ()>::new();
        let ids: Vec<_> = (0..SLOTS_MOST as u32).map(|n| slots.insert(n, at(1)).unwrap()).collect();
        assert_eq!(slots.insert(7, at(1)).unwrap_err(), 7);
        for id in ids {
            slots.give_up(id);
        }
        assert_eq!(slots.open(), 0);
        for n in 0..10 {
            let id = slots.insert(n, at(1)).unwrap();
            slots.give_up(id);
        }
        assert_eq!(slots.slots.len(), SLOTS_MOST);
    }

    #[test]
    fn silence_is_told_once_and_the_question_stays() {
        let mut slots = Slots::<&str, u8>::new();
        let id = asked(&mut slots, 5);
        let mut wakers = Vec::new();
        slots.set_silent(&mut wakers);
        assert_eq!(wakers.len(), 1);
        assert!(matches!(slots.poll(id, Waker::noop()), Some(SlotEvent::Silent)));
        assert!(slots.poll(id, Waker::noop()).is_none());
        assert!(slots.answer(id, 1).is_ok());
        let lost = asked(&mut slots, 5);
        assert!(slots.lose_one().unwrap().is_some());
        assert!(slots.lose_one().is_none());
        assert!(matches!(slots.poll(lost, Waker::noop()), Some(SlotEvent::Lost)));
    }
}
