//! One of the two streams of a connection, with what has been read from it and what is to be written to it.

use bytes::Bytes;

use super::inbox::Inbox;
use super::outbox::Outbox;

/// One of the two streams with its boxes.
pub(super) struct RelaySide<S> {
    /// `None` before the dial and after the end.
    pub(super) stream: Option<S>,
    pub(super) inbox: Inbox,
    pub(super) outbox: Outbox,
    pub(super) closing: OutputState,
    /// Nothing more comes from it, and the session knows; it may still be written to.
    pub(super) half_closed: bool,
    /// It is not read, and that has been told.
    pub(super) paused: bool,
}

/// How far the end of our half of a stream has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OutputState {
    /// It is in use.
    Open,
    /// It ends when the outbox is empty.
    Asked,
    /// It has ended, and the session knows. What still comes in is read as far as the session wants it, and else thrown
    /// away.
    Shut,
}

/// What a try to write to one side came to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Writing {
    /// Some went.
    Something,
    /// None did, or there is none. The stream says when it takes more.
    Nothing,
    /// The stream can be written to no more.
    Ended,
}

impl<S> RelaySide<S> {
    pub(super) fn new(stream: Option<S>) -> Self {
        Self {
            stream,
            inbox: Inbox::default(),
            outbox: Outbox::default(),
            closing: OutputState::Open,
            half_closed: false,
            paused: false,
        }
    }

    /// One that another process has read from and written to.
    pub(super) fn resumed(stream: S, unread: &[u8], unwritten: Bytes) -> Self {
        let mut side = Self { inbox: Inbox::holding(unread), ..Self::new(Some(stream)) };
        side.outbox.push(unwritten);
        side
    }

    /// Whether nothing of its end has begun.
    pub(super) fn is_whole(&self) -> bool {
        self.stream.is_some()
            && self.closing == OutputState::Open
            && !self.half_closed
            && self.inbox.ended().is_none()
            && self.outbox.broken().is_none()
    }

    pub(super) fn drop_stream(&mut self) {
        self.stream = None;
        self.inbox = Inbox::default();
        self.outbox = Outbox::default();
    }
}
