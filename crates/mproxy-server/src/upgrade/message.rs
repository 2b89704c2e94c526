//! What an old and a new process say to each other. Either may be of another version: what they say first is read whatever
//! else is in it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The version of these messages. Another one is not spoken with.
pub(super) const PROTOCOL: u32 = 1;

/// What is said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "snake_case")]
pub(super) enum Message {
    /// The old process: who it is, and what the sockets are that come with it, in their order.
    Begin {
        /// [`PROTOCOL`] of the old one.
        protocol: u32,
        /// Its version of mproxy.
        version: String,
        /// Its process id.
        pid: u32,
        #[serde(default)]
        sockets: Vec<SocketLabel>,
    },
    /// The new process: its configuration has been read, and it could accept at once.
    Ready {
        /// [`PROTOCOL`] of the new one.
        protocol: u32,
        /// Its version of mproxy.
        version: String,
        /// The form in which it reads sessions. `None`: it takes none.
        #[serde(default)]
        session_form: Option<String>,
    },
    /// The old process, between `Ready` and `TakeOver` and after `Serving`: sessions, of which so many bytes each follow.
    /// Two descriptors come with each.
    Sessions { lengths: Vec<u32> },
    /// The new process: why it does not take some of them.
    Received { refused: Vec<Option<String>> },
    /// The old process: which of all that it has offered since it last said so are the new one's from now on.
    Concluded { keep: Vec<bool> },
    /// The old process: no more sessions come, and what became of all of them.
    HandedOver { handed_over: u64, stayed: BTreeMap<String, u64> },
    /// The old process: what had happened to sessions that it has handed over has been told.
    EventsTold,
    /// The new process: it does not come up, for this reason.
    Failed { error: String },
    /// The old process: accept from now on.
    TakeOver,
    /// The new process: it accepts.
    Serving,
}

/// Which listener a socket is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SocketLabel {
    /// The listener's name, or `admin`.
    pub(super) name: String,
    /// Where it is configured to listen: host and port, or a path.
    pub(super) place: String,
    /// Whether the file of a Unix socket is removed when its listener goes.
    #[serde(default)]
    pub(super) owns_file: bool,
}
