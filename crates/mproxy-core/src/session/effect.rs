//! What a session wants done: each effect says what, never how.

use std::collections::VecDeque;
use std::mem;
use std::time::Instant;

use bytes::Bytes;

use super::question::OpenQuestion;
use crate::event::Event;
use crate::fault::Fault;
use crate::peer::Side;

/// One thing to be done, in the order in which they are polled.
pub enum Effect {
    /// Try to reach the broker, then say [`dialed`](crate::Session::dialed). One that fails is asked for again.
    Dial {
        /// When it must be reached at the latest.
        until: Instant,
    },
    /// Wait for this answer, then say [`decide`](crate::Session::decide). May be dropped when the session is done.
    Ask(OpenQuestion),
    /// Write these bytes to that side, after what was sent to it before.
    Send {
        /// Which side.
        to: Side,
        /// What; never empty.
        bytes: Bytes,
    },
    /// Write what is still queued for that side, then end our half of its stream, and say [`shut`](crate::Session::shut).
    /// The other half is read on, as [`wants_read`](crate::Session::wants_read) and
    /// [`discards`](crate::Session::discards) say; when both have ended, say [`closed`](crate::Session::closed).
    Shut {
        /// Which side.
        side: Side,
    },
    /// Drop that side's stream now, with whatever is queued for it, and say nothing more of it.
    Cut {
        /// Which side.
        side: Side,
    },
    /// Tell the sink.
    Report(Event),
    /// The session is over: drop both streams, whatever they still hold. The last effect of all. A stream that was shut,
    /// and whose peer has not ended its half, may linger, so that no reset overtakes what was written last.
    Done(Box<Fault>),
}

impl std::fmt::Debug for Effect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dial { .. } => f.write_str("Dial"),
            Self::Ask(question) => write!(f, "Ask({question:?})"),
            Self::Send { to, bytes } => write!(f, "Send({to}, {} bytes)", bytes.len()),
            Self::Shut { side } => write!(f, "Shut({side})"),
            Self::Cut { side } => write!(f, "Cut({side})"),
            Self::Report(event) => write!(f, "Report({})", event.what.kind().name()),
            Self::Done(fault) => write!(f, "Done({fault})"),
        }
    }
}

/// Effects not yet polled. The first has a place of its own, so that a session that does one thing at a time (nearly
/// all, nearly always) never allocates a queue.
///
/// Invariant: `first` is empty only if there is no `more`, which is never empty.
#[derive(Debug, Default)]
pub(super) struct Effects {
    first: Option<Effect>,
    /// An idle session pays for a pointer, not for a queue.
    more: Option<Box<EffectQueue>>,
}

/// Effects behind the first.
#[derive(Debug, Default)]
struct EffectQueue(VecDeque<Effect>);

impl Effects {
    pub(super) fn push(&mut self, effect: Effect) {
        debug_assert!(!matches!(self.last(), Some(Effect::Done(_))), "an effect of a session that is over");
        if self.first.is_none() {
            self.first = Some(effect);
        } else {
            self.more.get_or_insert_default().0.push_back(effect);
        }
    }

    pub(super) fn send(&mut self, to: Side, bytes: Bytes) {
        // An empty write would be a wake-up of the other side for nothing, or an empty WebSocket frame.
        if !bytes.is_empty() {
            self.push(Effect::Send { to, bytes });
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.more.as_ref().map_or(0, |more| more.0.len())
    }

    fn last(&self) -> Option<&Effect> {
        self.more.as_ref().and_then(|more| more.0.back()).or(self.first.as_ref())
    }

    /// Those behind the first so many.
    pub(super) fn behind(&self, count: usize) -> impl Iterator<Item = &Effect> {
        self.first.iter().chain(self.more.iter().flat_map(|more| &more.0)).skip(count)
    }

    pub(super) fn pop(&mut self) -> Option<Effect> {
        let Some(more) = &mut self.more else { return self.first.take() };
        let next = more.0.pop_front();
        self.more.take_if(|more| more.0.is_empty());
        debug_assert!(next.is_some(), "an empty queue of effects was kept");
        mem::replace(&mut self.first, next)
    }
}
