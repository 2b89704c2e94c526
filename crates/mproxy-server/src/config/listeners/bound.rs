//! What sockets are bound to, and which of them are in each other's way.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use crate::config::{ListenerSettings, Scheme, Target, authority};

/// What a socket is bound to. Sockets of different kinds are never in each other's way: TCP and UDP, for one, have ports of their
/// own.
#[derive(Clone, Copy)]
pub(in crate::config) enum Bound<'a> {
    Tcp(&'a str, u16),
    Path(&'a Path),
}

impl<'a> Bound<'a> {
    pub(in crate::config) fn of(listener: &'a ListenerSettings) -> Self {
        match listener.transport {
            Scheme::Mqtt | Scheme::Mqtts | Scheme::Ws | Scheme::Wss => {
                Self::Tcp(&listener.host, listener.port)
            }
            Scheme::Unix => {
                Self::Path(listener.unix.as_ref().map_or_else(|| Path::new(""), |file| &file.path))
            }
        }
    }

    /// What is dialled to reach this broker.
    pub(in crate::config) fn dialled(target: &'a Target) -> Self {
        target.socket.as_deref().map_or(Self::Tcp(&target.host, target.port), Self::Path)
    }

    /// Whether two sockets would be in each other's way.
    pub(in crate::config) fn overlaps(self, other: Self) -> bool {
        match (self, other) {
            (Self::Tcp(a, a_port), Self::Tcp(b, b_port)) => {
                // 0 becomes another free port for each.
                a_port != 0 && a_port == b_port && (a == b || is_any(a) || is_any(b))
            }
            (Self::Path(a), Self::Path(b)) => a == b,
            (Self::Tcp(..), Self::Path(_)) | (Self::Path(_), Self::Tcp(..)) => false,
        }
    }

    /// Whether who dials this reaches a listener that is bound to `listener`.
    pub(in crate::config) fn leads_to(self, listener: Self) -> bool {
        match (self, listener) {
            (Self::Tcp(target, port), Self::Tcp(host, own)) => {
                port == own && (target == host || (is_local(target) && is_local(host)))
            }
            (Self::Path(a), Self::Path(b)) => a == b,
            (Self::Tcp(..), Self::Path(_)) | (Self::Path(_), Self::Tcp(..)) => false,
        }
    }
}

impl fmt::Display for Bound<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) => f.write_str(&authority(host, *port)),
            Self::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

fn is_local(host: &str) -> bool {
    // As a target, 0.0.0.0 is this machine, too.
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback() || ip.is_unspecified())
}

fn is_any(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified())
}
