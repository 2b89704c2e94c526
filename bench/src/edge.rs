//! How long an event of edge-triggered epoll lasts: it tells of a change once, so none must be left half used.

use mio::event::Event;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// A read that gives less than was asked for: what comes later is another event. Saves the read that finds nothing.
    Short,
    /// The end of the stream, which this event told of and no other will.
    End,
}

impl Until {
    pub(crate) fn of(event: &Event) -> Self {
        if event.is_read_closed() { Self::End } else { Self::Short }
    }
}
