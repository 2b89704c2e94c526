//! The thread that writes a spool, and the queue in front of it. A disk that is slow, full or broken keeps nobody waiting:
//! what the queue or the disk does not take is kept in memory only, and counted.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mproxy_core::event::Kind;
use tracing::{info, warn};

use super::files::{Files, Lost, NotWritten};
use crate::contract::{EncodedEvent, EventClient};
use crate::watch::{SpoolLoss, Watch};

/// Bytes of events that wait for the disk at most.
const QUEUE: usize = 16 << 20;

/// What is written is on disk for certain after so long, and how long a disk that failed is left alone.
const SYNC: Duration = Duration::from_secs(1);

/// What can be written: an event, as the buffer shares it.
pub(in crate::remote::observe) trait Spooled: Send + Sync + 'static {
    fn client(&self) -> &EventClient;
    fn event(&self) -> &EncodedEvent;
}

/// What waits to be written.
pub(super) enum Item<E> {
    /// An event; its connection is `tracked` until its Disconnect.
    Event { sequence: u64, event: Arc<E>, tracked: bool },
    /// The connection is over, and its Disconnect was dropped.
    Closed { connection: u128 },
}

/// The queue.
pub(in crate::remote::observe) struct SpoolQueue<E> {
    state: Mutex<WriterState<E>>,
    wake: Condvar,
    confirmed: AtomicU64,
    /// Numbers up to here may be sent: after a crash they are not given again.
    limit: AtomicU64,
    /// Events for which there was no room here.
    slow: AtomicU64,
}

struct WriterState<E> {
    items: VecDeque<Item<E>>,
    bytes: usize,
    end: End,
}

/// Whether more comes.
#[derive(Clone, Copy)]
enum End {
    No,
    /// mproxy ends; this is the last number that was given.
    InOrder {
        last: u64,
    },
    /// Nobody looks any more.
    AtOnce,
}

impl<E: Spooled> SpoolQueue<E> {
    pub(super) fn new(confirmed: u64, limit: u64) -> Self {
        Self {
            state: Mutex::new(WriterState { items: VecDeque::new(), bytes: 0, end: End::No }),
            wake: Condvar::new(),
            confirmed: AtomicU64::new(confirmed),
            limit: AtomicU64::new(limit),
            slow: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, WriterState<E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has an event written, if there is room.
    pub(in crate::remote::observe) fn push(&self, sequence: u64, event: Arc<E>, tracked: bool) {
        let weight = weight(&*event);
        let mut state = self.lock();
        if state.bytes + weight > QUEUE {
            drop(state);
            self.slow.fetch_add(1, Ordering::Relaxed);
            return;
        }
        state.bytes += weight;
        state.items.push_back(Item::Event { sequence, event, tracked });
        drop(state);
        self.wake.notify_one();
    }

    /// The connection is over, and its Disconnect was dropped.
    pub(in crate::remote::observe) fn close(&self, connection: u128) {
        // At most one for each connection there is: few and small.
        self.lock().items.push_back(Item::Closed { connection });
        self.wake.notify_one();
    }

    /// All up to here is safe.
    pub(in crate::remote::observe) fn confirm(&self, up_to: u64) {
        // The thread looks at it when it is up anyway.
        self.confirmed.store(up_to, Ordering::Relaxed);
    }

    /// Numbers up to here may be sent.
    pub(in crate::remote::observe) fn limit(&self) -> u64 {
        self.limit.load(Ordering::Acquire)
    }

    /// No more comes, and the last number that was given is this.
    pub(in crate::remote::observe) fn end(&self, last: u64) {
        self.lock().end = End::InOrder { last };
        self.wake.notify_one();
    }

    /// Nobody looks any more.
    pub(in crate::remote::observe) fn abandon(&self) {
        let mut state = self.lock();
        // An end in order that was asked for before goes on: it only has to be carried out.
        if matches!(state.end, End::No) {
            state.end = End::AtOnce;
        }
        drop(state);
        self.wake.notify_one();
    }

    /// What waits, at least after so long; `None`: however long it takes.
    fn take(&self, within: Option<Duration>) -> (VecDeque<Item<E>>, End) {
        let mut state = self.lock();
        if state.items.is_empty() && matches!(state.end, End::No) {
            state = match within {
                Some(within) => {
                    let woken = self.wake.wait_timeout(state, within);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
        state.bytes = 0;
        (std::mem::take(&mut state.items), state.end)
    }
}

fn weight<E: Spooled>(event: &E) -> usize {
    256 + event.event().fields.len()
}

/// The thread's own.
pub(super) struct SpoolWriter<E> {
    pub(super) files: Files,
    pub(super) queue: Arc<SpoolQueue<E>>,
    pub(super) path: PathBuf,
    pub(super) watch: Arc<dyn Watch>,
    /// More may be sent than before.
    pub(super) reserved: Box<dyn Fn() + Send>,
    pub(super) trouble: DiskTrouble,
}

/// What is wrong with the disk.
#[derive(Debug, Default)]
pub(super) struct DiskTrouble {
    /// Events that were not written since it began, and when the last of them was not; `None`: all is well.
    lost: Option<(u64, Instant)>,
    /// The disk is left alone until then.
    until: Option<Instant>,
    /// An event was added since the last one was lost.
    added: bool,
}

impl<E: Spooled> SpoolWriter<E> {
    /// Until no more comes.
    pub(super) fn run(mut self) {
        let mut synced = Instant::now();
        let mut last = 0;
        loop {
            // Nothing to write or to free: it sleeps until it is woken, and an idle mproxy leaves the disk alone.
            let idle = !self.files.is_waiting() && self.trouble.until.is_none();
            let (items, end) = self.queue.take((!idle).then_some(SYNC));
            for item in items {
                match item {
                    Item::Event { sequence, event, tracked } => {
                        last = sequence;
                        self.write(sequence, &*event, tracked);
                    }
                    Item::Closed { connection } => self.files.close(connection),
                }
            }
            let slow = self.queue.slow.swap(0, Ordering::Relaxed);
            if slow > 0 {
                self.note(SpoolLoss::Slow, slow, "the disk is too slow");
            }
            if self.may_write() {
                let flushed = self.files.flush();
                self.settle(flushed);
            }
            self.files.release(self.queue.confirmed.load(Ordering::Relaxed));
            self.reserve(last);
            match end {
                End::No => {}
                End::InOrder { last } => return self.finish(last),
                End::AtOnce => return,
            }
            if synced.elapsed() >= SYNC && self.files.is_dirty() && self.may_write() {
                let result = self.files.sync();
                self.settle(result.map_err(|error| Lost { events: 0, why: NotWritten::Failed(error) }));
                synced = Instant::now();
            }
            self.watch.event_spool(self.files.bytes());
        }
    }

    fn may_write(&self) -> bool {
        self.trouble.until.is_none_or(|until| until <= Instant::now())
    }

    fn write(&mut self, sequence: u64, event: &E, tracked: bool) {
        if !self.may_write() {
            if event.event().kind == Kind::Disconnect {
                self.files.close(event.client().connection());
            }
            return self.note(SpoolLoss::Failed, 1, "the disk failed a moment ago");
        }
        let written = self.files.append(sequence, event.client(), event.event(), tracked);
        match written {
            Ok(()) => self.trouble.added = true,
            Err(_) => self.settle(written),
        }
    }

    /// Notes what became of an attempt to write.
    fn settle(&mut self, result: Result<(), Lost>) {
        match result {
            Ok(()) => {
                self.trouble.until = None;
                // A moment later, as a spool that is full takes a small event now and then.
                if self.trouble.added
                    && let Some((lost, _)) = self.trouble.lost.take_if(|(_, last)| last.elapsed() >= SYNC)
                {
                    info!(path = %self.path.display(), lost, "event spool is written again");
                }
            }
            Err(Lost { events, why: NotWritten::Full }) => {
                self.note(SpoolLoss::Full, events, "it has no room")
            }
            Err(Lost { events, why: NotWritten::Failed(error) }) => {
                self.trouble.until = Some(Instant::now() + SYNC);
                self.note(SpoolLoss::Failed, events, &error.to_string());
            }
        }
    }

    fn note(&mut self, reason: SpoolLoss, events: u64, error: &str) {
        self.watch.events_not_spooled(reason, events);
        if self.trouble.lost.is_none() {
            warn!(path = %self.path.display(), reason = reason.name(), error, "event spool not written, events are kept in memory only");
        }
        let before = self.trouble.lost.map_or(0, |(lost, _)| lost);
        self.trouble.lost = Some((before + events, Instant::now()));
        self.trouble.added = false;
    }

    fn reserve(&mut self, last: u64) {
        let limit = match self.files.reserve(last) {
            Ok(()) => self.files.reserved(),
            Err(error) => {
                self.settle(Err(Lost { events: 0, why: NotWritten::Failed(error) }));
                // To hold events back would be worse than to give numbers again after a crash with a broken disk.
                u64::MAX
            }
        };
        if self.queue.limit.swap(limit, Ordering::AcqRel) != limit {
            (self.reserved)();
        }
    }

    fn finish(mut self, last: u64) {
        if let Err(error) = self.files.finish(last) {
            warn!(path = %self.path.display(), %error, "event spool not closed in order");
        }
    }
}
