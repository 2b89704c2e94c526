//! The task of one connection: carries bytes between the two streams and the session, and does what the session wants
//! done. It looks into no packet and decides nothing.
//!
//! One hand-written future owns everything: both streams, both boxes, the session, the answers it waits for, the dial
//! and the one timer. Each turn is a row of single polls whose buffers live outside of them, so nothing can be lost
//! half-way; dropping the whole future drops the connection.
//!
//! | room | holds |
//! |---|---|
//! | `chunk` | buffers that are lent for the time of one read |
//! | `inbox` | what came in and was not taken yet |
//! | `outbox` | what is to go out and was not written yet |
//! | `dial` | the way to the broker |
//! | `reads` | when a side is read, and how its end is taken |
//! | `asks` | answers on their way |
//! | `offer` | a session that is offered to another process, and one that was taken from it |
//! | `withheld` | commands that are reported when what had left before them is written |

mod asks;
mod chunk;
mod dial;
mod inbox;
mod offer;
mod outbox;
mod reads;
mod side;
mod withheld;

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use mproxy_core::command::Dismissal;
use mproxy_core::fault::{Closed, Unreachable};
use mproxy_core::peer::Origin;
use mproxy_core::policy::Pending;
use mproxy_core::session::{Answered, OpenQuestion};
use mproxy_core::{Effect, Event, Fault, Peer, Session, Side};
use tokio::sync::oneshot;
use tokio::time::Sleep;

use self::asks::Asks;
use self::chunk::Lent;
use self::dial::DialStage;
pub(crate) use self::dial::{Dialed, Dialing, Unanswered};
pub(crate) use self::offer::ResumedStreams;
pub(crate) use self::reads::PauseReason;
use self::side::{OutputState, RelaySide, Writing};
use self::withheld::WithheldOrders;
use crate::door::Carrier;
use crate::handover::OfferRequest;
use crate::orders::{RelayDescription, SessionInquiry};
use crate::registry::{ConnectionCommand, ConnectionPhase, Handle};

/// Rounds of polls before others on this thread get their turn.
const TURNS: usize = 8;

/// What a relay needs of the house.
pub(crate) trait RelayHost<S>: Send + Sync {
    /// Reaches the broker for a client that comes from there, or fails by `until`.
    fn dial(self: Arc<Self>, origin: &Arc<Origin>, until: Instant) -> Dialing<S>;

    /// A dial has ended, and failed for this reason.
    fn dialed(&self, failed: Option<&Unreachable>, now: Instant) {
        let _ = (failed, now);
    }

    /// That side is not read from now on, until there is less of what it waits for.
    fn read_paused(&self, side: Side, why: PauseReason) {
        let _ = (side, why);
    }

    /// What was read in one wake-up has been written, so long after that began. Told of some of them.
    fn forwarded(&self, took: Duration) {
        let _ = took;
    }

    /// Tells whoever listens.
    fn report(&self, event: Event);

    /// How this client is to be disconnected, if it is banned: by whatever it is called after all decisions.
    fn ban_of(&self, peer: &Peer) -> Option<Dismissal> {
        let _ = peer;
        None
    }

    /// The answer to a CONNECT from there is waited for, until then. It may have to wait for its turn first.
    fn ask(&self, origin: &Origin, question: OpenQuestion, until: Option<Instant>) -> Pending<Answered> {
        let _ = (origin, until);
        Box::pin(question)
    }
}

/// One connection. Resolves to the reason of its end.
pub(crate) struct Relay<S> {
    session: Session,
    handle: Arc<Handle>,
    host: Arc<dyn RelayHost<S>>,
    client: RelaySide<S>,
    broker: RelaySide<S>,
    asks: Asks,
    dial: DialStage<S>,
    timer: Option<Pin<Box<Sleep>>>,
    over: Option<Box<Fault>>,
    aside: Option<Box<Aside<S>>>,
    withheld: Option<Box<WithheldOrders>>,
}

/// What few relays have, and none has two of.
enum Aside<S> {
    /// The client's stream, where it broke its own rules and has been told so.
    Parting(S),
    /// The session is offered to another process, and stands still until that is told to go on with it; or this one goes on.
    Offered(oneshot::Receiver<()>),
}

/// A stream whose session is over, and whose peer has not ended its half.
pub(crate) struct Parting<S> {
    pub(crate) stream: S,
    /// Our half has ended. Otherwise reading has failed, and the peer is still to be told so.
    pub(crate) shut: bool,
}

impl<S: Carrier> Relay<S> {
    pub(crate) fn new(client: S, session: Session, handle: Arc<Handle>, host: Arc<dyn RelayHost<S>>) -> Self {
        Self {
            session,
            handle,
            host,
            client: RelaySide::new(Some(client)),
            broker: RelaySide::new(None),
            asks: Asks::default(),
            dial: DialStage::Quiet(None),
            timer: None,
            over: None,
            aside: None,
            withheld: None,
        }
    }

    /// Who it was, for the log of its end.
    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    /// When it is over: streams that have to be kept open for a moment, or what was said last would not arrive.
    pub(crate) fn partings(&mut self) -> impl Iterator<Item = Parting<S>> {
        let failed = match self.aside.take().map(|aside| *aside) {
            Some(Aside::Parting(stream)) => Some(Parting { stream, shut: false }),
            Some(Aside::Offered(_)) | None => None,
        };
        let shut = [&mut self.broker, &mut self.client].map(|end| {
            let shut = end.closing == OutputState::Shut;
            end.stream.take_if(|_| shut).map(|stream| Parting { stream, shut })
        });
        failed.into_iter().chain(shut.into_iter().flatten())
    }

    pub(crate) fn handle(&self) -> &Arc<Handle> {
        &self.handle
    }

    fn end(&mut self, side: Side) -> &mut RelaySide<S> {
        match side {
            Side::Client => &mut self.client,
            Side::Broker => &mut self.broker,
        }
    }

    /// Does what the session wants done, until it wants nothing more.
    fn effects(&mut self) {
        while let Some(effect) = self.session.poll_effect() {
            match effect {
                Effect::Send { to, bytes } => self.end(to).outbox.push(bytes),
                // Whoever decided may have given it a name that is banned. The broker never hears of it.
                Effect::Dial { .. } if self.dismiss_if_banned() => {}
                Effect::Dial { until } => {
                    self.handle.set_phase(ConnectionPhase::Dialing);
                    self.publish_claim();
                    self.dial = DialStage::Dialing(Arc::clone(&self.host).dial(self.handle.origin(), until));
                }
                // Only these take turns: who is in must not wait behind strangers.
                Effect::Ask(question) if self.session.opening() => {
                    self.handle.set_phase(ConnectionPhase::Admitting);
                    self.publish_claim();
                    let until = self.session.poll_timeout();
                    self.asks.push_in_turn(self.host.ask(self.handle.origin(), question, until));
                }
                Effect::Ask(question) => self.asks.push(question),
                Effect::Shut { side } => {
                    self.handle.begin_closing();
                    self.end(side).closing = OutputState::Asked;
                }
                Effect::Cut { side } => self.end(side).drop_stream(),
                Effect::Report(event) => self.host.report(event),
                Effect::Done(fault) => self.over = Some(fault),
            }
        }
    }

    /// Words from outside: kicks and drains.
    ///
    /// Gives who wants the session for another process.
    fn poll_command(&mut self, cx: &mut Context<'_>, now: Instant) -> Option<OfferRequest> {
        let mut offer = None;
        let command = self.handle.poll_command(cx);
        if let Some(queue) = self.handle.take_orders() {
            for question in queue.questions {
                let what = (question.qos, question.retain, question.payload_size as usize);
                let explanation = self.session.explain(question.act, &question.name, what, now);
                // Whoever asked may have given up.
                let _ = question.answer.send(explanation);
            }
            for inquiry in queue.inquiries {
                self.answer(inquiry);
            }
            for handed in queue.orders {
                let reach = self.session.command(handed.order(), now);
                self.effects();
                handed.count(reach);
                self.withhold(handed);
            }
            for dismissal in queue.dismissals {
                self.session.dismiss(dismissal, now);
            }
            offer = queue.offer;
            self.publish_peer();
        }
        match command {
            None => {}
            Some(ConnectionCommand::Drain) => self.session.drain(now),
            Some(ConnectionCommand::Shed) => self.session.shed(now),
            Some(ConnectionCommand::Kick(reason)) => self.session.revoke(reason, now),
            Some(ConnectionCommand::Cut) => self.cut(cx, now),
            // What it was told is on its way, and is not waited for.
            Some(ConnectionCommand::Evict) if self.handle.is_refused() => self.cut(cx, now),
            // Not if it was admitted meanwhile.
            Some(ConnectionCommand::Evict) if !self.handle.is_admitted() => {
                self.session.abandon(Fault::Evicted)
            }
            Some(ConnectionCommand::Evict) => {}
        }
        offer
    }

    /// Answers whoever operates mproxy. They may have given up.
    fn answer(&self, inquiry: SessionInquiry) {
        match inquiry {
            SessionInquiry::Describe { answer } => {
                let unwritten = [self.client.outbox.len(), self.broker.outbox.len()];
                let facts =
                    |side: &RelaySide<S>| side.stream.as_ref().map(Carrier::facts).unwrap_or_default();
                let streams = [facts(&self.client), facts(&self.broker)];
                let described = self.session.describe();
                let described = described.map(|session| RelayDescription { session, unwritten, streams });
                drop(answer.send(described));
            }
            SessionInquiry::Subscribes { name, answer } => {
                let _ = answer.send(self.session.subscribes_to(&name));
            }
        }
    }

    /// Ends now: what waits is written as far as the streams take it at once, and nobody is waited for.
    fn cut(&mut self, cx: &mut Context<'_>, now: Instant) {
        // Told twice, a session waits for nothing that is in flight.
        self.session.drain(now);
        self.session.drain(now);
        self.effects();
        for side in [Side::Broker, Side::Client] {
            self.poll_write(side, cx, now);
            // Both ways, whatever it would still have said.
            self.session.closed(side, Closed::Error("cut".into()), now);
            self.end(side).drop_stream();
        }
        self.effects();
    }

    fn poll_dial(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let Poll::Ready(outcome) = self.dial.poll(cx) else { return false };
        self.host.dialed(outcome.as_ref().err(), now);
        let outcome = outcome.map(|stream| self.broker.stream = Some(stream));
        self.session.dialed(outcome, now);
        true
    }

    fn poll_asks(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let mut any = false;
        while let Poll::Ready(Some(answered)) = self.asks.poll(cx) {
            self.session.decide(answered, now);
            self.effects();
            any = true;
        }
        if any {
            self.publish_peer();
        }
        any
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let at = self.session.poll_timeout();
        if at != self.timer.as_ref().map(|timer| timer.deadline().into_std()) {
            match (at, &mut self.timer) {
                (None, timer) => *timer = None,
                (Some(at), Some(timer)) => timer.as_mut().reset(at.into()),
                (Some(at), timer @ None) => *timer = Some(Box::pin(tokio::time::sleep_until(at.into()))),
            }
        }
        let Some(timer) = &mut self.timer else { return false };
        // Polled in each turn, moved or not: only a poll makes it wake this task.
        if timer.as_mut().poll(cx).is_pending() {
            return false;
        }
        self.timer = None;
        // The clock was looked at before the timer was: a session must not find that its own deadline lies ahead.
        self.session.handle_timeout(now.max(at.unwrap_or(now)));
        true
    }

    /// Writes what waits for that side, and ends our half of the stream where that is asked.
    fn poll_write(&mut self, side: Side, cx: &mut Context<'_>, now: Instant) -> Writing {
        let end = self.end(side);
        let Some(stream) = &mut end.stream else { return Writing::Nothing };
        let wrote = end.outbox.write(stream, cx);
        if end.closing == OutputState::Asked && end.outbox.is_empty() {
            // Where the other half has ended, too, dropping the stream is enough.
            let enough = end.half_closed && !stream.says_goodbye();
            // A stream that cannot be ended in order is ended by dropping it.
            if enough || Pin::new(stream).poll_shutdown(cx).is_ready() {
                end.closing = OutputState::Shut;
                if end.half_closed {
                    end.drop_stream();
                    self.session.closed(side, Closed::Eof, now);
                } else {
                    self.session.shut(side, now);
                }
                return Writing::Ended;
            }
        }
        match (wrote, end.outbox.broken()) {
            (true, Some(_)) => Writing::Ended,
            (true, None) => Writing::Something,
            (false, _) => Writing::Nothing,
        }
    }

    /// One look at everything.
    fn turn(&mut self, cx: &mut Context<'_>, now: Instant) -> TurnOutcome {
        // What a write before brought about: whoever is to be shut is, before its end is read.
        self.effects();
        let mut lent = Lent::default();
        let client = self.poll_reads(Side::Client, &mut lent, cx, now);
        let broker = self.poll_reads(Side::Broker, &mut lent, cx, now);
        if broker.moved {
            self.dial.answered();
        }
        // Behind the reads, which may have asked something or wanted the broker; each has to be polled once to be
        // heard of.
        let mut again = self.poll_asks(cx, now);
        again |= self.poll_dial(cx, now);
        again |= self.poll_timer(cx, now);
        self.effects();
        let waiting = self.client.outbox.len();
        let written = [self.poll_write(Side::Broker, cx, now), self.poll_write(Side::Client, cx, now)];
        lent.give_back();
        self.report_withheld(cx, waiting);
        // After the writes: what went out at once was never waiting, and is not put down for anybody.
        self.session.unread(Side::Broker, self.broker.outbox.weight(), now);
        self.session.unread(Side::Client, self.client.outbox.weight(), now);
        again |= written.contains(&Writing::Ended);
        // Who was not read may be read now if anything has changed; who was, waits for the stream.
        let read = client.moved || broker.moved;
        let moved = read || written.contains(&Writing::Something);
        TurnOutcome { again: again || (moved && (client.unread || broker.unread)), read }
    }

    /// Has a client that is banned end, in the next turn.
    fn dismiss_if_banned(&self) -> bool {
        let dismissal = self.session.peer().and_then(|peer| self.host.ban_of(peer));
        if let Some(dismissal) = &dismissal {
            self.handle.kick(dismissal);
        }
        dismissal.is_some()
    }

    /// The client's grant or its attributes may be others than those that are shown.
    fn publish_peer(&self) {
        if let (Some(shown), Some(peer)) = (self.handle.peer(), self.session.peer())
            && !Arc::ptr_eq(&shown, peer)
        {
            self.handle.set_peer(peer);
        }
    }

    /// Whoever looks for a client that waits finds it by what it says of itself.
    fn publish_claim(&self) {
        if let Some(peer) = self.session.peer() {
            self.handle.claim_peer(peer);
        }
    }

    /// What others may know of this connection.
    fn publish(&self) {
        // Until the policy has answered, a name is only what the client claims.
        if !self.handle.has_peer()
            && !self.session.opening()
            && let Some(peer) = self.session.peer()
        {
            self.handle.set_peer(peer);
            // Behind that: a ban that is set meanwhile finds it there, or is found here.
            self.dismiss_if_banned();
        }
        self.handle.count(self.session.traffic());
    }
}

impl<S: Carrier> Future for Relay<S> {
    type Output = Box<Fault>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        // Safe to assert: after a panic nothing of it is used but to drop it and to say so.
        match catch_unwind(AssertUnwindSafe(|| this.work(cx))) {
            Ok(polled) => polled,
            Err(_) => Poll::Ready(this.end_by_panic()),
        }
    }
}

impl<S: Carrier> Relay<S> {
    /// A panic has gone through this connection. Nothing of its state counts any more but what is owed to whoever was told
    /// of it. Both streams are cut, so that the broker publishes the will.
    fn end_by_panic(&mut self) -> Box<Fault> {
        let last = catch_unwind(AssertUnwindSafe(|| {
            self.client.drop_stream();
            self.broker.drop_stream();
            self.session.abandon(Fault::Panicked);
            while let Some(effect) = self.session.poll_effect() {
                match effect {
                    Effect::Report(event) => self.host.report(event),
                    Effect::Done(fault) => self.over = Some(fault),
                    Effect::Send { .. }
                    | Effect::Dial { .. }
                    | Effect::Ask(_)
                    | Effect::Shut { .. }
                    | Effect::Cut { .. } => {}
                }
            }
        }));
        // Another one: then nobody can be told.
        let over = last.ok().and_then(|()| self.over.take());
        over.unwrap_or_else(|| Box::new(Fault::Panicked))
    }

    /// What waits for an answer or for a peer that does not read is not timed here.
    fn time(&self, begun: Instant) {
        if self.client.outbox.is_empty() && self.broker.outbox.is_empty() {
            self.host.forwarded(tokio::time::Instant::now().into_std().saturating_duration_since(begun));
        }
    }

    fn work(&mut self, cx: &mut Context<'_>) -> Poll<Box<Fault>> {
        let this = self;
        if this.is_offered() {
            return Poll::Pending;
        }
        // One look at the clock for all that happens now: the one that timers go by.
        let now = tokio::time::Instant::now().into_std();
        let offer = this.poll_command(cx, now);
        this.effects();
        if let Some(request) = offer
            && this.offer(request, cx, now)
        {
            return Poll::Pending;
        }
        let mut has_read = false;
        for _ in 0..TURNS {
            let TurnOutcome { again, read } = this.turn(cx, now);
            has_read |= read;
            if let Some(fault) = this.over.take() {
                debug_assert_eq!(
                    this.session.held(),
                    0,
                    "what was put down for a session comes back at its end"
                );
                this.publish();
                return Poll::Ready(fault);
            }
            if !again {
                if has_read && is_timed() {
                    this.time(now);
                }
                this.publish();
                return Poll::Pending;
            }
            // What was cut short was work enough for one poll: the others on this thread come first.
            if this.session.cut_short(Side::Client) || this.session.cut_short(Side::Broker) {
                break;
            }
        }
        this.publish();
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// What one look at everything came to.
struct TurnOutcome {
    /// There may be more to do, because of what was done.
    again: bool,
    /// Something came in.
    read: bool,
}

/// Of so many wake-ups that read something, one is timed.
const TIMED: u32 = 64;

/// Whether this one is. Counted by thread: nobody waits for anybody.
fn is_timed() -> bool {
    thread_local! {
        static WOKEN: Cell<u32> = const { Cell::new(0) };
    }
    let woken = WOKEN.get().wrapping_add(1);
    WOKEN.set(woken);
    woken.is_multiple_of(TIMED)
}

/// How a stream that gave this error ended.
fn closed_by(error: &io::Error) -> Closed {
    Closed::Error(error.to_string().into())
}

#[cfg(test)]
mod tests;
