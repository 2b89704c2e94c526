//! A new process of mproxy takes the place of this one without a listener being closed: it is started by this one, gets the
//! listening sockets over a Unix socket (SCM_RIGHTS), and says when it is ready. Only then this one stops accepting. If the
//! new one does not come up, nothing has changed. See docs/adr/0039.
//!
//! | room | holds |
//! |---|---|
//! | `message` | what the two say to each other |
//! | `channel` | messages and descriptors over a Unix socket |
//! | `successor` | the side of the old process: starts the new one, waits for it, gives everything to it |
//! | `sessions` | sessions that go over, a few at a time |
//! | `predecessor` | the side of the new process: takes what the old one gives, and says when it is ready |

mod channel;
mod message;
mod predecessor;
mod sessions;
mod successor;

pub use predecessor::Predecessor;
pub(crate) use sessions::{
    AT_ONCE, BYTES_AT_ONCE, HandoverReport, SessionChannel, SessionOfferer, SessionParcel, SessionTaker,
};
pub use successor::Program;
pub(crate) use successor::{ServingSuccessor, SharedListener, UpgradeFailure, start};
