//! One Decide stream: sessions put questions into it, HTTP/2 takes them out in batches when it can write, and a task reads
//! the answers, keeps the deadlines, and notices when the service has fallen silent.
//!
//! | room | holds |
//! |---|---|
//! | `outgoing` | the body of the request: a batch is what waited while the last one was written |
//! | `asked` | a question that waits for its answer |

mod asked;
mod outgoing;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::codec::Streaming;
use tonic::transport::Channel;
use tonic::{Code, Status};

pub(in crate::remote) use self::asked::SentQuestion;
use self::outgoing::{DecideBody, OutgoingQuestion};
use super::slots::Slots;
use crate::contract::{StreamAnswer, StreamQuestion, StreamRpc, open_stream, read_answers};
use crate::watch::{AnswerDrop, Watch};

/// Bytes of questions that were written and are not answered yet, at most, unless it is a single one. HTTP/2 takes a
/// mebibyte from us before it says that the service reads too slowly; what has not been written can still go elsewhere.
const CREDIT: usize = 1 << 20;

/// Questions in one message, at most: answers come back in as large batches as they went out.
const BATCH: usize = 1024;

/// Clients that are looked at each time that a stream looks which have gone, and how often it does so without questions.
const SWEEP: usize = 4096;
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// A stream that has been silent for so many periods is given up, but not before a question's whole time has passed: a
/// service may be slow.
const SILENCES_MOST: u32 = 5;

/// What came for a question; `None`: it is unset.
type SlotAnswer = Option<StreamAnswer>;

pub(super) struct DecideStream {
    inner: Mutex<Inner>,
    /// It takes questions, as its phase says as well.
    open: AtomicBool,
    /// Questions are open, and nothing has come for a while.
    silent: AtomicBool,
    /// Clients that it has introduced.
    clients: AtomicUsize,
    /// The task that reads has to look at the time anew, or at the end.
    look: Notify,
    silence: Duration,
    /// How long it may be silent altogether.
    patience: Duration,
    watch: Arc<dyn Watch>,
}

struct Inner {
    slots: Slots<StreamQuestion, SlotAnswer>,
    /// Ids of questions that wait to be written. Those that were given up meanwhile stay until then.
    queue: VecDeque<u64>,
    /// Bytes of questions that were written and not answered.
    written: usize,
    writer: Option<Waker>,
    phase: Phase,
    /// When the task that reads looks at the time next.
    wakes_at: Option<Instant>,
    /// When something came last, or questions were first open after none were; while it is silent, when that was last
    /// looked at.
    quiet_since: Instant,
    /// How long it has been silent, in whole periods.
    silent_for: Duration,
    /// Questions that were open when it ended.
    lost: usize,
    /// The writer is to look which clients have gone.
    sweep: bool,
}

#[derive(Clone)]
enum Phase {
    Open,
    /// Takes no more questions, and ends when the last one is answered.
    Draining,
    Ended(Arc<Status>),
}

/// What the end of a stream has to tell the endpoint that it goes to.
pub(in crate::remote) trait Health: Send + Sync {
    /// Something came from the service.
    fn heard(&self);

    /// It fell silent.
    fn silent(&self);

    /// It has been silent for so long that the stream is given up.
    fn given_up(&self);
}

impl std::fmt::Debug for DecideStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DecideStream")
    }
}

impl DecideStream {
    /// A stream that falls silent after so long, of questions that may take so long.
    pub(super) fn new(silence: Duration, timeout: Duration, watch: Arc<dyn Watch>) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(Inner {
                slots: Slots::new(),
                queue: VecDeque::new(),
                written: 0,
                writer: None,
                phase: Phase::Open,
                wakes_at: None,
                quiet_since: Instant::now(),
                silent_for: Duration::ZERO,
                lost: 0,
                sweep: false,
            }),
            open: AtomicBool::new(true),
            silent: AtomicBool::new(false),
            clients: AtomicUsize::new(0),
            look: Notify::new(),
            silence,
            patience: timeout.max(silence * SILENCES_MOST),
            watch,
        })
    }

    /// Takes a question, or gives it back: the stream has ended, or has too many.
    pub(super) fn ask(
        self: &Arc<Self>,
        question: StreamQuestion,
        deadline: Instant,
        now: Instant,
    ) -> Result<SentQuestion, StreamQuestion> {
        let mut inner = self.lock();
        if !matches!(inner.phase, Phase::Open) {
            return Err(question);
        }
        let id = inner.slots.insert(question, deadline)?;
        // After a time without questions the wait begins now; a silence that goes on is not cut short by a new
        // question.
        if inner.slots.open() == 1 && inner.silent_for.is_zero() {
            inner.quiet_since = now;
        }
        inner.push(id);
        let writer = inner.writer.take();
        let due = deadline.min(now + self.silence);
        let look = inner.wakes_at.is_none_or(|at| due < at);
        if look {
            inner.wakes_at = Some(due);
        }
        drop(inner);
        if look {
            self.look.notify_one();
        }
        // After the lock, which the woken task takes first of all.
        wake(writer);
        Ok(SentQuestion { stream: Arc::clone(self), id })
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    pub(super) fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }

    /// Takes no more questions; ends when those that are open are answered.
    pub(super) fn drain(&self) {
        let mut inner = self.lock();
        if matches!(inner.phase, Phase::Open) {
            inner.phase = Phase::Draining;
        }
        self.open.store(false, Ordering::Relaxed);
        let writer = inner.writer.take();
        drop(inner);
        wake(writer);
    }

    /// Questions that were open when it ended.
    pub(super) fn lost(&self) -> usize {
        self.lock().lost
    }

    /// Why it ended.
    pub(super) fn end(&self) -> Option<Arc<Status>> {
        match &self.lock().phase {
            Phase::Ended(status) => Some(Arc::clone(status)),
            Phase::Open | Phase::Draining => None,
        }
    }

    /// Runs the stream over a channel of its own until it ends. If it is dropped before, the stream ends with it.
    pub(super) async fn run(self: Arc<Self>, channel: Channel, health: impl Health) -> Arc<Status> {
        let ending = EndGuard(&self);
        let outgoing = DecideBody::new(Arc::clone(&self));
        let status = self.read(channel, outgoing, &health).await;
        ending.0.close(status)
    }

    async fn read(&self, channel: Channel, outgoing: DecideBody, health: &impl Health) -> Status {
        let mut opening = Box::pin(open_stream(StreamRpc::Decide, channel, outgoing));
        let mut messages: Option<Streaming<Bytes>> = None;
        let mut timer = Box::pin(sleep_until(Instant::now()));
        let mut wakers = Vec::new();
        loop {
            let timed = self.set_timer(timer.as_mut());
            tokio::select! {
                opened = &mut opening, if messages.is_none() => match opened {
                    Ok(opened) => messages = Some(opened),
                    Err(status) => return status,
                },
                message = next(&mut messages), if messages.is_some() => match message {
                    Ok(Some(message)) => {
                        health.heard();
                        if let Err(status) = self.take_answers(message, &mut wakers) {
                            return status;
                        }
                    }
                    Ok(None) => return Status::new(Code::Ok, "the service ended the stream"),
                    Err(status) => return status,
                },
                () = &mut timer, if timed => {
                    let now = Instant::now();
                    self.expire(now, &mut wakers);
                    wakers.drain(..).for_each(Waker::wake);
                    if self.look_for_silence(now, &mut wakers, health) {
                        return Status::deadline_exceeded("no answers on the stream");
                    }
                    self.sweep();
                }
                () = self.look.notified() => {}
            }
            wakers.drain(..).for_each(Waker::wake);
        }
    }

    /// Sets the timer to what comes next; whether anything does.
    fn set_timer(&self, mut timer: Pin<&mut Sleep>) -> bool {
        let mut inner = self.lock();
        let quiet = inner.is_waiting().then(|| inner.quiet_since + self.silence);
        let sweep = (self.clients.load(Ordering::Relaxed) > 0).then(|| Instant::now() + SWEEP_EVERY);
        let next = [inner.slots.next_deadline(), quiet, sweep].into_iter().flatten().min();
        // A timer that is set for something that is over meanwhile rings for nothing, which costs less than to set it for
        // each question.
        inner.wakes_at = match inner.wakes_at {
            Some(at)
                if at == timer.deadline() && !timer.is_elapsed() && next.is_some_and(|next| at <= next) =>
            {
                Some(at)
            }
            _ => next,
        };
        let at = inner.wakes_at;
        drop(inner);
        if let Some(at) = at
            && (at != timer.deadline() || timer.is_elapsed())
        {
            timer.as_mut().reset(at);
        }
        at.is_some()
    }

    /// Puts the answers of a message where they belong; `wakers` gets who is to be woken when all are there.
    fn take_answers(&self, message: Bytes, wakers: &mut Vec<Waker>) -> Result<(), Status> {
        let answers = read_answers(message)?;
        let mut dropped = [0_u64; AnswerDrop::ALL.len()];
        let mut inner = self.lock();
        inner.quiet_since = Instant::now();
        inner.silent_for = Duration::ZERO;
        self.silent.store(false, Ordering::Relaxed);
        for (id, answer) in answers {
            match inner.slots.answer(id, answer) {
                Ok((credit, waker)) => {
                    inner.written -= credit;
                    put(wakers, waker);
                }
                Err(reason) => dropped[reason as usize] += 1,
            }
        }
        let writer = inner.take_writer();
        drop(inner);
        wake(writer);
        for (reason, count) in AnswerDrop::ALL.into_iter().zip(dropped).filter(|(_, count)| *count > 0) {
            self.watch.answers_dropped(reason, count);
        }
        Ok(())
    }

    fn expire(&self, now: Instant, wakers: &mut Vec<Waker>) {
        let mut inner = self.lock();
        // A question that was written may still be answered; a service that loses some must not use up the credit for
        // ever.
        while let Some((credit, waker)) = inner.slots.expire(now) {
            inner.written -= credit;
            put(wakers, waker);
        }
        let writer = inner.take_writer();
        drop(inner);
        wake(writer);
    }

    /// Whether the stream is to be given up.
    fn look_for_silence(&self, now: Instant, wakers: &mut Vec<Waker>, health: &impl Health) -> bool {
        let mut inner = self.lock();
        if !inner.is_waiting() || now.saturating_duration_since(inner.quiet_since) < self.silence {
            return false;
        }
        inner.quiet_since = now;
        let first = inner.silent_for.is_zero();
        inner.silent_for += self.silence;
        let give_up = inner.silent_for >= self.patience;
        if !give_up {
            // Those that have come since, too, as another endpoint may be there meanwhile.
            inner.slots.set_silent(wakers);
        }
        drop(inner);
        self.silent.store(true, Ordering::Relaxed);
        // Not in each period: a few strikes end the connection, whose other streams may be sound.
        if give_up {
            health.given_up();
        } else if first {
            health.silent();
        }
        give_up
    }

    /// Has the writer look which clients have gone.
    fn sweep(&self) {
        if self.clients.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut inner = self.lock();
        inner.sweep = true;
        let writer = inner.writer.take();
        drop(inner);
        wake(writer);
    }

    /// Ends it, if it has not ended yet. Gives why it ended.
    fn close(&self, status: Status) -> Arc<Status> {
        let mut inner = self.lock();
        if let Phase::Ended(before) = &inner.phase {
            return Arc::clone(before);
        }
        let status = Arc::new(status);
        inner.phase = Phase::Ended(Arc::clone(&status));
        self.open.store(false, Ordering::Relaxed);
        inner.queue = VecDeque::new();
        inner.lost = inner.slots.open();
        let mut wakers = Vec::new();
        while let Some(waker) = inner.slots.lose_one() {
            put(&mut wakers, waker);
        }
        let writer = inner.writer.take();
        drop(inner);
        wake(writer);
        wakers.drain(..).for_each(Waker::wake);
        status
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing that is done under the lock leaves it half done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Whether something should come. What has fallen silent owes a sign of life, even if all were answered elsewhere.
    fn is_waiting(&self) -> bool {
        self.slots.open() > 0 || !self.silent_for.is_zero()
    }

    fn push(&mut self, id: u64) {
        // Those that nobody waits for any more, while nothing can be written.
        if self.queue.len() > 2 * self.slots.open() + BATCH {
            let slots = &mut self.slots;
            self.queue.retain(|id| slots.unwritten(*id).is_some());
        }
        self.queue.push_back(id);
    }

    /// The writer, if there is something for it to do.
    fn take_writer(&mut self) -> Option<Waker> {
        let idle = self.queue.is_empty() && matches!(self.phase, Phase::Open);
        if idle { None } else { self.writer.take() }
    }

    /// Takes what fits into a batch and into the credit.
    fn take_batch(&mut self, batch: &mut VecDeque<OutgoingQuestion>) {
        while batch.len() < BATCH
            && let Some(id) = self.queue.front().copied()
        {
            let Some(size) = self.slots.unwritten(id).map(StreamQuestion::size) else {
                self.queue.pop_front();
                continue;
            };
            if self.written > 0 && self.written + size > CREDIT {
                return;
            }
            self.queue.pop_front();
            if let Some((question, deadline)) = self.slots.take_unwritten(id, size) {
                self.written += size;
                batch.push_back(OutgoingQuestion { id, deadline, question });
            }
        }
    }
}

async fn next(messages: &mut Option<Streaming<Bytes>>) -> Result<Option<Bytes>, Status> {
    match messages {
        Some(messages) => messages.message().await,
        None => std::future::pending().await,
    }
}

/// Ends the stream when it is dropped.
struct EndGuard<'a>(&'a DecideStream);

impl Drop for EndGuard<'_> {
    fn drop(&mut self) {
        self.0.close(Status::unavailable("the stream was closed"));
    }
}

/// Adds a waker, unless it is of the task before it: a session may have several answers in a batch.
fn put(wakers: &mut Vec<Waker>, waker: Option<Waker>) {
    if let Some(waker) = waker
        && !wakers.last().is_some_and(|last| last.will_wake(&waker))
    {
        wakers.push(waker);
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
