//! From a broker's address, of any transport, to a byte stream.

use std::fmt;
use std::future::Future;
use std::io;
use std::iter::successors;
use std::pin::Pin;
use std::sync::Arc;

use mproxy_core::fault::Unreachable;
use mproxy_core::peer::Origin;
use mproxy_tcp::tls::{ClientTls, MaterialError, Reloadable};
use rustix::io::Errno;
use tokio::time::Instant;

use super::transport::Transport;
use super::{Stream, in_one_line};
use crate::config::Target;

/// How a listener's connections reach their broker.
#[derive(Clone)]
pub struct Outward(Arc<dyn Reaching>);

/// A connection to a broker on its side. Dropping it closes what was half open.
pub type BrokerDial = Pin<Box<dyn Future<Output = Result<Stream, FailedDial>> + Send>>;

/// Why a broker was not reached.
#[derive(Clone, Debug)]
pub struct FailedDial {
    /// Where it ended: `unreachable`, `handshake_failed`, `too_late` or `exhausted`.
    pub outcome: &'static str,
    /// In one line.
    pub why: Unreachable,
}

/// Why a transport did not reach the broker. The texts are one line, with all causes.
#[derive(Debug)]
pub enum DialFailure {
    /// Nobody could be connected to; the text says where.
    Away(String),
    /// mproxy has no descriptor, port or memory left to connect with.
    Exhausted(String),
    /// Somebody was, and cannot be spoken with.
    Unspoken(String),
    /// Somebody was, and had not answered at the deadline.
    TooLate,
}

impl DialFailure {
    /// Of nobody that could be connected to: whose doing that is stands in the kernel's own error, if there is one.
    pub(super) fn connecting(error: &(dyn std::error::Error + 'static)) -> Self {
        let text = in_one_line(error);
        let kernel = successors(Some(error), |error| error.source());
        let kernel =
            kernel.filter_map(|error| error.downcast_ref::<io::Error>()).find_map(io::Error::raw_os_error);
        if kernel.is_some_and(is_exhaustion) { Self::Exhausted(text) } else { Self::Away(text) }
    }
}

/// Whether the kernel says that this process or machine has too little of something.
fn is_exhaustion(errno: i32) -> bool {
    [Errno::MFILE, Errno::NFILE, Errno::ADDRNOTAVAIL, Errno::NOBUFS, Errno::NOMEM]
        .contains(&Errno::from_raw_os_error(errno))
}

impl Outward {
    /// Over this transport. Reads the certificates, which blocks.
    ///
    /// # Errors
    /// Which file is wrong, and why.
    pub(super) fn over<T>(target: &Target) -> Result<Self, MaterialError>
    where
        T: Transport,
        Stream: From<T::Stream>,
    {
        let side: BrokerSide<T> = BrokerSide { client: T::client(target)?, target: target.to_string() };
        Ok(Self(Arc::new(side)))
    }

    /// The certificates, for whoever reloads them.
    #[must_use]
    pub fn tls(&self) -> Option<&Arc<Reloadable<ClientTls>>> {
        self.0.tls()
    }

    /// Which broker it is, as errors and the log call it.
    #[must_use]
    pub fn target(&self) -> &str {
        self.0.target()
    }

    /// Reaches the broker for this client, or says by the deadline where it ended, in one line.
    #[must_use]
    pub fn reach(&self, origin: &Arc<Origin>, deadline: Instant) -> BrokerDial {
        Arc::clone(&self.0).reach(Arc::clone(origin), deadline)
    }
}

impl fmt::Debug for Outward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Outward").finish_non_exhaustive()
    }
}

/// What it takes to reach a broker over this transport.
struct BrokerSide<T: Transport> {
    client: T::Client,
    /// As it is called in errors.
    target: String,
}

/// A [`BrokerSide`] of whatever transport.
trait Reaching: Send + Sync {
    fn target(&self) -> &str;
    fn tls(&self) -> Option<&Arc<Reloadable<ClientTls>>>;
    fn reach(self: Arc<Self>, origin: Arc<Origin>, deadline: Instant) -> BrokerDial;
}

impl<T: Transport> Reaching for BrokerSide<T>
where
    Stream: From<T::Stream>,
{
    fn tls(&self) -> Option<&Arc<Reloadable<ClientTls>>> {
        T::client_tls(&self.client)
    }

    fn target(&self) -> &str {
        &self.target
    }

    fn reach(self: Arc<Self>, origin: Arc<Origin>, deadline: Instant) -> BrokerDial {
        Box::pin(async move {
            let failure = match T::reach(&self.client, &origin, deadline).await {
                Ok(stream) => return Ok(stream.into()),
                Err(failure) => failure,
            };
            let Self { target, .. } = &*self;
            let (outcome, why) = match failure {
                DialFailure::Away(text) => ("unreachable", Unreachable::away(text)),
                DialFailure::Exhausted(text) => ("exhausted", Unreachable::lacking(text)),
                // The address answers and the broker behind it does not: another of the same name may.
                DialFailure::Unspoken(text) => {
                    T::forget(&self.client);
                    ("handshake_failed", Unreachable::away(format!("{target}: {text}")))
                }
                DialFailure::TooLate => {
                    ("too_late", Unreachable::away(format!("{target} did not answer in time")))
                }
            };
            Err(FailedDial { outcome, why })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a transport's own error holds the kernel's.
    #[derive(Debug, thiserror::Error)]
    #[error("could not be connected to")]
    struct Failed(#[source] io::Error);

    #[test]
    fn what_mproxy_lacks_is_not_blamed_on_the_broker() {
        for errno in [Errno::MFILE, Errno::NFILE, Errno::ADDRNOTAVAIL, Errno::NOBUFS, Errno::NOMEM] {
            let failure = DialFailure::connecting(&Failed(errno.into()));
            assert!(matches!(failure, DialFailure::Exhausted(_)), "{failure:?}");
        }
        for errno in [Errno::HOSTUNREACH, Errno::CONNRESET, Errno::NETUNREACH] {
            let failure = DialFailure::connecting(&Failed(errno.into()));
            assert!(matches!(failure, DialFailure::Away(_)), "{failure:?}");
        }
    }
}
