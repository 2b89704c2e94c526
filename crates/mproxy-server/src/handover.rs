//! Sessions on their way from one process to another that takes its place: what is asked of a connection's task, what it
//! answers, and how that is written down. The two descriptors go beside it. See docs/adr/0046.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use mproxy_core::session::handover::{FORMAT, NotExported};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::door::{SharedStream, SocketKind};

/// The form in which connections are written down, without the session in them.
const FORM: u32 = 1;

/// The form in which this version writes and reads connections: a process reads those of no other.
pub(crate) fn form() -> String {
    format!("{FORM}.{FORMAT}")
}

/// Asks a connection's task to offer its session.
pub(crate) struct OfferRequest {
    pub(crate) answer: oneshot::Sender<Result<OfferedSession, NotOffered>>,
}

/// A session that stands still. Dropped, it goes on where it is.
pub(crate) struct OfferedSession {
    /// The session, [written down](mproxy_core::Session::export).
    pub(crate) session: Vec<u8>,
    /// Of the client and of the broker: what was read and not taken.
    pub(crate) unread: [Vec<u8>; 2],
    /// To the client and to the broker: what is to be written.
    pub(crate) unwritten: [Vec<u8>; 2],
    /// To the client and to the broker.
    pub(crate) sockets: [SharedStream; 2],
    /// Told when another process goes on with it: this one lets go of it then.
    pub(crate) release: oneshot::Sender<()>,
}

/// Why a session is not offered. It goes on where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum NotOffered {
    /// One of its streams is more than a socket.
    Transport,
    /// It is not open yet, or ends.
    NotOpen,
    /// It is in the middle of something that is soon over.
    NotNow,
    /// It holds more than may go over.
    TooLarge,
    /// This process has no descriptors left.
    Descriptors,
}

impl NotOffered {
    /// A label.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Transport => "transport",
            Self::NotOpen => "not_open",
            Self::NotNow => "busy",
            Self::TooLarge => "too_large",
            Self::Descriptors => "descriptors",
        }
    }
}

impl From<NotExported> for NotOffered {
    fn from(why: NotExported) -> Self {
        match why {
            NotExported::NotOpen => Self::NotOpen,
            NotExported::NotNow => Self::NotNow,
            NotExported::TooLarge => Self::TooLarge,
        }
    }
}

/// A connection with its session, for another process.
#[derive(Serialize, Deserialize)]
pub(crate) struct WrittenConnection {
    /// The name of its listener.
    pub(crate) listener: String,
    /// Since 1970.
    accepted: Duration,
    /// What its sockets are, to the client and to the broker.
    pub(crate) sockets: [SocketKind; 2],
    /// See [`OfferedSession`].
    pub(crate) unread: [Bytes; 2],
    pub(crate) unwritten: [Bytes; 2],
    pub(crate) session: Bytes,
}

impl WrittenConnection {
    /// Of a session that is offered, its sockets, and who lets go of it.
    pub(crate) fn of(
        listener: &str,
        accepted: SystemTime,
        offered: OfferedSession,
    ) -> (Self, [SharedStream; 2], oneshot::Sender<()>) {
        let OfferedSession { session, unread, unwritten, sockets, release } = offered;
        let written = Self {
            listener: listener.to_owned(),
            accepted: accepted.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
            sockets: [sockets[0].kind, sockets[1].kind],
            unread: unread.map(Bytes::from),
            unwritten: unwritten.map(Bytes::from),
            session: session.into(),
        };
        (written, sockets, release)
    }

    /// `None`: it cannot be written.
    pub(crate) fn to_bytes(&self) -> Option<Vec<u8>> {
        postcard::to_extend(self, Vec::new()).ok()
    }

    /// `None`: they are no connection in this form.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        postcard::from_bytes(bytes).ok()
    }

    /// When the connection was accepted.
    pub(crate) fn accepted(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH.checked_add(self.accepted).unwrap_or_else(SystemTime::now)
    }
}
