//! What mproxy has to do with whoever starts it: sockets that systemd, or the process whose place it takes, opened for us,
//! and what systemd is told. Without either all of this does nothing.
//!
//! | room | holds |
//! |---|---|
//! | `notify` | readiness, reload, end, and the watchdog ([sd_notify(3)]) |
//! | `sockets` | sockets that were opened before mproxy started ([sd_listen_fds(3)]) |
//!
//! [sd_notify(3)]: https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
//! [sd_listen_fds(3)]: https://www.freedesktop.org/software/systemd/man/latest/sd_listen_fds.html

pub(crate) mod notify;
mod sockets;

pub(crate) use sockets::place_of;
pub use sockets::{FileOwner, InheritedSocket, InheritedSockets};
