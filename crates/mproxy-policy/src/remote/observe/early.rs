//! Events of a process that takes the place of another one, as long as that one has the spool, which has one writer, or has
//! not told what happened to clients before this process took them over. They wait in memory, in their order and within the
//! bytes of the buffer, and are kept as all others from then on.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use mproxy_core::event::Kind;

use super::Teller;
use super::kept::{ArrivedEvent, ReportedEvent};
use crate::watch::{DropReason, Watch};

/// Where events go: to whoever tells them, and before there is one, into a queue.
pub(super) struct EarlyEvents {
    /// Set once.
    teller: OnceLock<Teller>,
    waiting: Mutex<WaitingEvents>,
    /// Bytes of those that wait at most.
    most: usize,
    /// Connections of the other process that go on in this one: in the spool they have no end, and have not ended.
    taken_over: Mutex<HashSet<u128>>,
}

#[derive(Default)]
struct WaitingEvents {
    events: VecDeque<ArrivedEvent>,
    bytes: usize,
    /// Those for which there was no room, all of them behind the others.
    lost: [u64; Kind::ALL.len()],
}

impl EarlyEvents {
    /// Nobody tells them yet.
    pub(super) fn new(most: usize) -> Self {
        Self { teller: OnceLock::new(), waiting: Mutex::default(), most, taken_over: Mutex::default() }
    }

    /// Somebody tells them at once.
    pub(super) fn told_by(teller: Teller) -> Self {
        Self { teller: teller.into(), waiting: Mutex::default(), most: 0, taken_over: Mutex::default() }
    }

    /// A connection of the other process goes on in this one.
    pub(super) fn take_over(&self, connection: u128) {
        if self.teller.get().is_none() {
            self.taken_over.lock().unwrap_or_else(PoisonError::into_inner).insert(connection);
        }
    }

    /// Whether it goes on, or has ended, in this process: its end is told here.
    pub(super) fn is_taken_over(&self, connection: u128) -> bool {
        self.taken_over.lock().unwrap_or_else(PoisonError::into_inner).contains(&connection)
    }

    /// Who tells them, if there is somebody yet.
    pub(super) fn teller(&self) -> Option<&Teller> {
        self.teller.get()
    }

    fn lock(&self) -> MutexGuard<'_, WaitingEvents> {
        // Nothing in there panics half way.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn report(&self, event: ReportedEvent, tracked: bool) {
        if let Some(teller) = self.teller.get() {
            return teller.report(event, tracked);
        }
        let mut waiting = self.lock();
        // It may have come while the lock was waited for.
        if let Some(teller) = self.teller.get() {
            drop(waiting);
            return teller.report(event, tracked);
        }
        let arrived = ArrivedEvent::new(event, tracked);
        let weight = arrived.weight();
        // Once one is lost, so are all behind it: the gap is then in one place.
        if waiting.lost == [0; Kind::ALL.len()] && waiting.bytes + weight <= self.most {
            waiting.bytes += weight;
            waiting.events.push_back(arrived);
        } else {
            waiting.lost[arrived.kind() as usize] += 1;
        }
    }

    /// From now on `teller` tells them, those first that have waited.
    pub(super) fn begin(&self, teller: Teller) {
        // Under the lock: what is reported meanwhile comes behind those that have waited.
        let mut waiting = self.lock();
        let WaitingEvents { events, lost, .. } = std::mem::take(&mut *waiting);
        events.into_iter().for_each(|event| teller.kept.take(event));
        Kind::ALL.into_iter().zip(lost).for_each(|(kind, count)| teller.kept.lose(kind, count));
        // Nobody else sets it.
        let _ = self.teller.set(teller);
        *self.taken_over.lock().unwrap_or_else(PoisonError::into_inner) = HashSet::new();
    }

    /// Nobody will tell them any more.
    pub(super) fn drop_all(&self, watch: &dyn Watch) {
        let waiting = std::mem::take(&mut *self.lock());
        for event in waiting.events {
            watch.events_dropped(event.kind(), DropReason::Shutdown, 1);
        }
        for (kind, count) in Kind::ALL.into_iter().zip(waiting.lost) {
            watch.events_dropped(kind, DropReason::QueueFull, count);
        }
    }
}
