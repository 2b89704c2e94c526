//! When a side is read, how much, and what becomes of its end: nothing is read that nobody has room for.

use std::task::{Context, Poll};
use std::time::Instant;

use mproxy_core::Side;
use mproxy_core::fault::Closed;
use mproxy_core::session::ReadWait;

use super::chunk::{self, Lent};
use super::inbox::{Came, Inbox};
use super::outbox::Outbox;
use super::side::OutputState;
use super::{Aside, Relay};
use crate::door::Carrier;

/// Reads of one side in a row, before what they brought is written: the second usually finds nothing.
const READS: usize = 2;

/// Bytes waiting to be written to one side over which nothing more is read from the other.
const MARK: usize = 128 << 10;

/// Bytes waiting to be written to a side over which nothing more is read from that side itself. Beyond what came from
/// the other one (which stops at [`MARK`], and the one read that went over it) these are our own answers: a side that
/// does not read them is not heard either. Below it is heard, for it may be blocked in writing and never get to read.
pub(super) const OWN_MARK: usize = 2 * MARK;

/// Bytes that are read while the session cannot take them yet (before CONNACK), to see early that the client has gone.
const AHEAD: usize = 16 << 10;

/// Why a side is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PauseReason {
    /// What was sent to a peer waits in front of it: it does not read, or not as fast.
    Receiver,
    /// What its session has to do first.
    Session(ReadWait),
}

impl PauseReason {
    /// A label.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Receiver => "receiver",
            Self::Session(ReadWait::Queue) => "queue",
            Self::Session(ReadWait::Budget) => "budget",
            Self::Session(ReadWait::Rate) => "rate",
        }
    }
}

/// What a try to read from one side came to.
enum ReadOutcome {
    /// Bytes came, or the end, or the session took some that had waited.
    Something,
    /// The same, as much as a buffer holds: it is written before more is read, while it is still in the cache.
    Full,
    /// Nothing is there. The stream says when there is.
    Nothing,
    /// Nobody wants it now: to be tried again when anything has changed.
    Unwanted,
}

/// What several came to.
#[derive(Clone, Copy)]
pub(super) struct ReadsOutcome {
    pub(super) moved: bool,
    /// There may be more, and the stream was not asked to say so.
    pub(super) unread: bool,
}

impl<S: Carrier> Relay<S> {
    /// Reads what one buffer holds, and if there was less, makes sure that the stream says when there is more.
    pub(super) fn poll_reads(
        &mut self,
        side: Side,
        lent: &mut Lent,
        cx: &mut Context<'_>,
        now: Instant,
    ) -> ReadsOutcome {
        let mut moved = false;
        for _ in 0..READS {
            match self.poll_read(side, lent, cx, now) {
                ReadOutcome::Something => {
                    self.effects();
                    moved = true;
                    // A read that was work enough for one turn: what it brought is still there, and more is not read.
                    if self.session.cut_short(side) {
                        break;
                    }
                }
                ReadOutcome::Full => {
                    self.effects();
                    return ReadsOutcome { moved: true, unread: true };
                }
                ReadOutcome::Nothing => return ReadsOutcome { moved, unread: false },
                ReadOutcome::Unwanted => return ReadsOutcome { moved, unread: true },
            }
        }
        ReadsOutcome { moved, unread: true }
    }

    /// Reads from that side if anybody wants it, and lets the session have it.
    fn poll_read(&mut self, side: Side, lent: &mut Lent, cx: &mut Context<'_>, now: Instant) -> ReadOutcome {
        let (end, other) = match side {
            Side::Client => (&mut self.client, &self.broker),
            Side::Broker => (&mut self.broker, &self.client),
        };
        let has_room = |outbox: &Outbox| outbox.is_empty() || self.session.may_wait_unread(outbox.len());
        // A broker is heard in any case, and nobody ends it for what it does not read: see `OWN_MARK`.
        let crowded = other.outbox.len() > MARK
            || end.outbox.len() > OWN_MARK
            || !has_room(&other.outbox)
            || (side == Side::Client && !has_room(&end.outbox));
        let Some(stream) = &mut end.stream else { return ReadOutcome::Nothing };
        // It has ended its half, and may have gone altogether since: only a write shows that.
        if end.half_closed {
            return self.broken(side, now);
        }
        if self.session.discards(side) {
            return match end.inbox.discard(stream, cx) {
                Poll::Pending => self.broken(side, now),
                Poll::Ready(how) => {
                    self.handle_end(side, how, now);
                    ReadOutcome::Something
                }
            };
        }
        let wanted = self.session.wants_read(side);
        let most = self.session.reads_at_once(side, if wanted { chunk::SIZE } else { AHEAD });
        // Only of a client before CONNACK: there its going is to be seen at once, so that no broker is dialled for nobody.
        let ahead = side == Side::Client && self.session.opening() && end.inbox.len() < most;
        let ended = end.inbox.ended();
        if end.inbox.blocked() {
            if wanted {
                end.inbox.offer(&mut self.session, side, now);
                return ReadOutcome::Something;
            }
            if !ahead || ended.is_some() {
                self.tell_pause(side, false);
                return self.unheard(side, now);
            }
        } else if let Some(how) = ended {
            // What came before the end has been taken, or is the beginning of a packet that never came whole.
            // An alert or a Close frame is on its way to it: a reset, which closing a socket with unread bytes makes, would
            // overtake it.
            if side == Side::Client && matches!(how, Closed::Error(_)) && stream.has_last_word() {
                self.aside = end.stream.take().map(|stream| Box::new(Aside::Parting(stream)));
            }
            self.handle_end(side, how, now);
            return ReadOutcome::Something;
        }
        if (!wanted && !ahead) || crowded {
            self.tell_pause(side, crowded);
            return self.unheard(side, now);
        }
        end.paused = false;
        match end.inbox.read(stream, lent, cx, most, wanted, (&mut self.session, side, now)) {
            Came::Nothing => match self.broken(side, now) {
                // What was read ahead still waits for the session.
                ReadOutcome::Nothing if !wanted => ReadOutcome::Unwanted,
                read => read,
            },
            Came::Something => ReadOutcome::Something,
            Came::AllThatFits => ReadOutcome::Full,
        }
    }

    /// Once for each time that it is not read, and not for each look.
    fn tell_pause(&mut self, side: Side, crowded: bool) {
        if self.end(side).paused {
            return;
        }
        let why = match crowded {
            true => Some(PauseReason::Receiver),
            false => self.session.waits_for(side).map(PauseReason::Session),
        };
        if let Some(why) = why {
            self.end(side).paused = true;
            self.host.read_paused(side, why);
        }
    }

    /// Nobody wants to read that side now. Where it waits for room, whether it is still there is seen all the same, each
    /// time that it tries again: nobody is waited for who has gone.
    fn unheard(&mut self, side: Side, now: Instant) -> ReadOutcome {
        if !self.session.short_of_room(side) {
            return ReadOutcome::Unwanted;
        }
        let end = self.end(side);
        let ended = end.inbox.ended().or_else(|| end.stream.as_ref()?.ended());
        match ended.filter(|how| self.session.gives_up(side, how)) {
            None => ReadOutcome::Unwanted,
            Some(how) => {
                self.handle_end(side, how, now);
                ReadOutcome::Something
            }
        }
    }

    /// Nothing more comes from that side. A client that ended its half in order may still be written to; else the stream
    /// is gone.
    fn handle_end(&mut self, side: Side, how: Closed, now: Instant) {
        let end = self.end(side);
        end.half_closed = side == Side::Client && how == Closed::Eof && end.closing != OutputState::Shut;
        if end.half_closed {
            end.inbox = Inbox::default();
            if end.closing == OutputState::Asked {
                // The session is told when what waits has been written.
                return;
            }
        } else {
            end.drop_stream();
        }
        self.session.closed(side, how, now);
    }

    /// A side that says nothing, or nothing more, and cannot be written to is gone.
    fn broken(&mut self, side: Side, now: Instant) -> ReadOutcome {
        let end = self.end(side);
        let Some(error) = end.outbox.broken() else { return ReadOutcome::Nothing };
        end.drop_stream();
        self.session.closed(side, error, now);
        ReadOutcome::Something
    }
}
