//! How the states of a session follow each other: it opens, it ends for the first reason that comes, it is over when all is
//! written. The diagram is in `LIFECYCLE.md`.

use std::mem;
use std::sync::Arc;
use std::time::Instant;

use super::Session;
use super::context::Context;
use super::effect::Effect;
use super::ending::{Ending, Reached, SideEnd};
use super::state::State;
use super::step::Stop;
use super::timer::Deadline;
use crate::event::{Happening, Kind};
use crate::fault::{Closed, Fault};
use crate::grant::Grant;
use crate::peer::{Peer, Side};
use crate::policy::Want;

impl Session {
    /// A deadline has passed: what its state does about it.
    pub(super) fn handle_deadline(&mut self, deadline: Deadline, now: Instant) {
        let ended = match (deadline, &mut self.state) {
            (Deadline::Close, _) => return self.finish(),
            (Deadline::Refresh, State::Open(link)) => link.renew(&mut self.cx, now),
            (Deadline::Stale, State::Open(link)) => {
                link.make_grant_stale(&mut self.cx);
                Ok(())
            }
            (Deadline::Exchange, State::Open(link)) => Err(link.exchange_too_late(&self.cx)),
            (Deadline::Retry, State::Opening(opening)) => opening.try_again(&mut self.cx, now),
            (Deadline::Admission, State::Opening(opening)) => {
                opening.waited_long_enough(&self.cx).map_or(Ok(()), Err)
            }
            // Deadlines of a state that is no more are disarmed with it.
            (
                Deadline::Refresh
                | Deadline::Stale
                | Deadline::Retry
                | Deadline::Admission
                | Deadline::Exchange,
                _,
            ) => Ok(()),
            (
                Deadline::Connect
                | Deadline::Connack
                | Deadline::Grant
                | Deadline::Token
                | Deadline::Unsuback,
                _,
            ) => Err(Fault::TooLate(deadline)),
        };
        self.end_if(ended, now);
    }

    /// The broker has said yes: both sides speak from now on.
    pub(super) fn open(&mut self, session_present: bool, now: Instant) {
        // Something has to stand there while the state is moved; each arm puts in its place what follows.
        self.state = match mem::replace(&mut self.state, State::Over(None)) {
            State::Opening(opening) => {
                opening.note_end(&self.cx, None);
                let mut link = opening.link;
                link.forget_exchange();
                link.begin_grant(&mut self.cx, now);
                // Of a new session all subscriptions are judged as they come.
                link.revoked &= link.terms.resumed;
                // Of an old one, those that were never seen: the grant of now says what may come of them.
                link.judges_unseen = link.terms.resumed && link.grant().is_some_and(Grant::may_refuse);
                if link.rare.as_mut().is_some_and(|rare| mem::take(&mut rare.renews_at_once)) {
                    link.renew_soon(&mut self.cx, now);
                }
                debug_assert!(!link.reported, "a session opens once");
                link.reported = true;
                if self.cx.setting.sink.want(Kind::Connect) != Want::Nothing {
                    link.report(&mut self.cx, Happening::Connect { session_present });
                }
                State::Open(link)
            }
            other => other,
        };
    }

    /// The session ends, if for this reason.
    pub(super) fn end_if(&mut self, ended: Result<(), Fault>, now: Instant) {
        if let Err(fault) = ended {
            self.end(fault, now);
        }
    }

    /// The session ends for this reason. The first reason counts.
    pub(super) fn end(&mut self, fault: Fault, now: Instant) {
        self.record_end(&fault);
        let cx = &mut self.cx;
        let begin =
            |link, cx: &mut Context, stage, fault| State::Ending(Ending::begin(link, cx, stage, fault, now));
        self.state = match mem::replace(&mut self.state, State::Over(None)) {
            State::Greeting(greeting) => State::Rejected(greeting.reject(cx, fault, now)),
            State::Opening(opening) => {
                opening.note_end(cx, Some(&fault));
                let stage = if opening.is_introduced() { Reached::Introduced } else { Reached::Waiting };
                begin(opening.link, cx, stage, fault)
            }
            State::Open(link) => begin(link, cx, Reached::Open, fault),
            State::Ending(mut ending) => {
                ending.end_again(&fault);
                self.state = State::Ending(ending);
                return;
            }
            state @ (State::Rejected(_) | State::Over(_)) => {
                self.state = state;
                return;
            }
        };
        self.advance_end(now);
    }

    pub(super) fn stop(&mut self, stop: Stop, now: Instant) {
        match (stop, &mut self.state) {
            (Stop::Disconnected(from, fault), State::Ending(ending)) => ending.take_disconnect(from, fault),
            (Stop::Fault(fault) | Stop::Disconnected(_, fault), _) => self.end(fault, now),
        }
    }

    /// Nothing more comes from that side.
    pub(super) fn lose(&mut self, side: Side, how: Closed, now: Instant) {
        let half = side == Side::Client && how == Closed::Eof;
        let fault = match &mut self.state {
            State::Opening(opening) if opening.is_introduced() && half => {
                // The broker has the CONNECT, and will answer it.
                opening.link.client_ended = true;
                return;
            }
            State::Opening(opening) if opening.is_introduced() && side == Side::Broker => {
                Fault::ClosedBeforeConnack { how: how.clone() }
            }
            _ => Fault::Lost { side, how: how.clone() },
        };
        self.end(fault, now);
        match &mut self.state {
            // In a session that was ending already, `end` has changed nothing.
            State::Ending(ending) => ending.lose(&mut self.cx, side, &how),
            State::Rejected(rejected) if side == Side::Client => rejected.client = SideEnd::Gone,
            State::Greeting(_) | State::Opening(_) | State::Open(_) | State::Rejected(_) | State::Over(_) => {
            }
        }
    }

    /// Lets everything leave whose turn has come.
    pub(super) fn release(&mut self, from: Side, now: Instant) {
        while let Some(link) = self.state.link_mut()
            && let Err(stop) = link.release(&mut self.cx, from)
        {
            self.stop(stop, now);
        }
    }

    /// After every verb: packets leave, and an end goes on.
    pub(super) fn settle(&mut self, now: Instant) {
        // An open session in which nothing waits, as nearly all are after each read, has nothing to go on with.
        if !matches!(&self.state, State::Open(link) if link.is_settled()) {
            self.go_on(now);
        }
        let bytes = self.state.bytes();
        if !self.cx.account.is_idle(bytes) {
            match self.state.holder() {
                Some(holder) => self.cx.put_down(holder, bytes, now),
                None => self.cx.account.let_go(),
            }
        }
    }

    /// What waits leaves, and an end goes on.
    fn go_on(&mut self, now: Instant) {
        if let State::Open(link) = &mut self.state
            && link.client_ended
        {
            self.lose(Side::Client, Closed::Eof, now);
        }
        self.release(Side::Client, now);
        self.release(Side::Broker, now);
        let unsendable = self.state.link_mut().and_then(|link| link.rare.as_mut()?.unsendable.take());
        if let Some(fault) = unsendable {
            self.end(*fault, now);
        }
        if self.state.link().is_some_and(|link| link.draining && link.is_drained()) {
            self.end(self.drained(), now);
        }
        self.advance_end(now);
    }

    /// The end that a drain puts to the session.
    pub(super) fn drained(&self) -> Fault {
        if self.state.link().is_some_and(|link| link.shed) {
            return Fault::Shed;
        }
        let open = matches!(self.state, State::Open(_));
        Fault::Drained { elsewhere: open && self.cx.setting.drain_reference.get().is_some() }
    }

    /// Shuts what can be shut, tells of the end when there is nothing more to come, and is done when all is written.
    pub(super) fn advance_end(&mut self, now: Instant) {
        let done = match &mut self.state {
            State::Ending(ending) => ending.advance(&mut self.cx, now),
            State::Rejected(rejected) => rejected.advance(&mut self.cx, now),
            State::Greeting(_) | State::Opening(_) | State::Open(_) | State::Over(_) => false,
        };
        if done {
            self.finish();
        }
    }

    /// The last of a session that is ending.
    pub(super) fn finish(&mut self) {
        match mem::replace(&mut self.state, State::Over(None)) {
            State::Ending(ending) => {
                let (link, fault) = ending.finish(&mut self.cx);
                self.be_over(Some(link.peer), fault);
            }
            State::Rejected(rejected) => self.be_over(None, rejected.fault),
            other => self.state = other,
        }
    }

    pub(super) fn be_over(&mut self, peer: Option<Arc<Peer>>, fault: Fault) {
        self.state = State::Over(peer);
        self.cx.timer.disarm();
        self.cx.effects.push(Effect::Done(Box::new(fault)));
    }
}
