//! From a name to a prepared stream, within one deadline.

use crate::{
    resolve::{host_port, resolve},
    socket::{SocketOptions, prepare},
};
use parking_lot::Mutex;
use socket2::SockRef;
use std::{io, net::SocketAddr, time::Duration};
use thiserror::Error;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};

/// How long one address may stay silent. Its kernel would have answered by then: a broker that comes back, perhaps
/// elsewhere, is found by trying again.
const PATIENCE: Duration = Duration::from_secs(3);

/// Where a name's broker was found the last time: of several addresses that one is tried first, so that a dead one is not
/// waited for by each connection anew.
#[derive(Debug, Default)]
pub struct LastGood(Mutex<Option<SocketAddr>>);

impl LastGood {
    /// None of the addresses is preferred any more.
    pub fn forget(&self) {
        *self.0.lock() = None;
    }

    fn first(&self, addresses: &mut [SocketAddr]) {
        let last = *self.0.lock();
        if let Some(at) = addresses.iter().position(|address| Some(*address) == last) {
            // The others stay in the order that the resolver prefers.
            addresses[..=at].rotate_right(1);
        }
    }
}

/// Connects to `host:port`: resolves the name and tries its addresses in turn until one answers, the one of `last_good`
/// first.
///
/// Each attempt gets an equal share of the time that is left, and 3 s at most, so that one silent address cannot use up the
/// whole deadline. The error is that of the last attempt.
///
/// Cancel safe: dropping the future closes what was half open. A name lookup that was under way runs to its end
/// on the blocking pool.
///
/// ```
/// # use mproxy_tcp::{LastGood, SocketOptions, dial};
/// # use std::time::Duration;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
/// let last_good = LastGood::default();
/// let refused = dial("127.0.0.1", 1, &SocketOptions::default(), &last_good, deadline).await.unwrap_err();
/// assert_eq!(refused.to_string(), "127.0.0.1:1 refused the connection");
/// # }
/// ```
pub async fn dial(
    host: &str,
    port: u16,
    options: &SocketOptions,
    last_good: &LastGood,
    deadline: Instant,
) -> Result<TcpStream, DialError> {
    let target = host_port(host, port);
    let addresses = match timeout_at(deadline, resolve(host, port)).await {
        Ok(Ok(addresses)) => addresses,
        Ok(Err(source)) => return Err(DialError::Resolve { target, source }),
        Err(_) => return Err(DialError::Timeout { target, address: None }),
    };
    among(target, addresses, options, last_good, deadline).await
}

async fn among(
    target: String,
    mut addresses: Vec<SocketAddr>,
    options: &SocketOptions,
    last_good: &LastGood,
    deadline: Instant,
) -> Result<TcpStream, DialError> {
    let several = addresses.len() > 1;
    if several {
        last_good.first(&mut addresses);
    }
    // Never told: `resolve` gives at least one address.
    let mut last = DialError::Timeout { target: target.clone(), address: None };
    for (tried, &address) in addresses.iter().enumerate() {
        let share = share(Instant::now(), deadline, addresses.len() - tried);
        last = match timeout_at(share, connect(address, options)).await {
            Ok(Ok(stream)) => {
                if several {
                    *last_good.0.lock() = Some(address);
                }
                return Ok(stream);
            }
            Ok(Err(error)) => DialError::of(target.clone(), address, error),
            Err(_) => DialError::Timeout { target: target.clone(), address: Some(address) },
        };
    }
    Err(last)
}

/// The moment at which an attempt has to make room for the `left` ones (itself included) before `deadline`.
fn share(now: Instant, deadline: Instant, left: usize) -> Instant {
    let parts = u32::try_from(left).unwrap_or(u32::MAX).max(1);
    now + (deadline.saturating_duration_since(now) / parts).min(PATIENCE)
}

async fn connect(address: SocketAddr, options: &SocketOptions) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    // Where nobody listens on a local port from the ephemeral range, TCP may pick that very port for our end and
    // connect us to ourselves. To the caller that is a broker that is not there.
    if address.ip().is_loopback() && stream.local_addr()? == address {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    let socket = SockRef::from(&stream);
    if address.ip().is_loopback() {
        // A peer on this machine cannot vanish without the kernel's knowing: keepalive would only cost four system
        // calls a connection, and a broker beside mproxy is the usual case.
        socket.set_tcp_nodelay(true)?;
    } else {
        prepare(&socket, options)?;
    }
    Ok(stream)
}

/// Why nobody was reached. Each text begins with the `host:port` that was asked for.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DialError {
    /// The name has no address, or the resolver could not say.
    #[error("{target} could not be resolved")]
    Resolve {
        /// What was asked for.
        target: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// The machine answered: nobody listens there.
    #[error("{target} refused the connection{}", at(target, *address))]
    Refused {
        /// What was asked for.
        target: String,
        /// The address that refused.
        address: SocketAddr,
    },
    /// The connection failed in another way: no route, no free local port, too many open files.
    #[error("{target} could not be connected to{}", at(target, *address))]
    Io {
        /// What was asked for.
        target: String,
        /// The address that was tried last.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// Nobody answered before the deadline.
    #[error("{target} did not answer in time{}", match address {
        Some(address) => at(target, *address),
        None => " (while resolving the name)".to_owned(),
    })]
    Timeout {
        /// What was asked for.
        target: String,
        /// The address that was tried last; `None` while the name was still being resolved.
        address: Option<SocketAddr>,
    },
}

impl DialError {
    fn of(target: String, address: SocketAddr, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused { target, address },
            // The kernel's own patience was shorter than the deadline.
            io::ErrorKind::TimedOut => Self::Timeout { target, address: Some(address) },
            _ => Self::Io { target, address, source: error },
        }
    }
}

/// Names the address where the target alone does not.
fn at(target: &str, address: SocketAddr) -> String {
    let address = address.to_string();
    if address == target { String::new() } else { format!(" at {address}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[tokio::test]
    async fn a_stream_dialled_on_this_machine_needs_no_keepalive() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let stream =
            dial("127.0.0.1", port, &SocketOptions::default(), &LastGood::default(), soon()).await.unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.tcp_nodelay().unwrap());
        assert!(!socket.keepalive().unwrap());
    }

    /// What a stream to another machine gets; there is none to dial in a test.
    #[tokio::test]
    async fn a_dialled_stream_comes_prepared() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let options = SocketOptions { user_timeout: Some(Duration::from_secs(30)) };
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let socket = SockRef::from(&stream);
        prepare(&socket, &options).unwrap();
        assert!(socket.tcp_nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        #[cfg(target_os = "linux")]
        {
            assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
            assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(15));
            assert_eq!(socket.tcp_keepalive_retries().unwrap(), 4);
            assert_eq!(socket.tcp_user_timeout().unwrap(), options.user_timeout);
        }
    }

    #[tokio::test]
    async fn a_name_with_a_dead_address_reaches_the_living_one() {
        // "localhost" may be ::1 first; only 127.0.0.1 listens.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        dial("localhost", port, &SocketOptions::default(), &LastGood::default(), soon()).await.unwrap();
    }

    #[tokio::test]
    async fn a_closed_port_refuses_by_name() {
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let error = dial("localhost", port, &SocketOptions::default(), &LastGood::default(), soon())
            .await
            .unwrap_err();
        assert!(matches!(error, DialError::Refused { .. }), "{error:?}");
        assert!(error.to_string().starts_with(&format!("localhost:{port} refused the connection at ")));
    }

    #[tokio::test]
    async fn a_name_that_does_not_exist_is_told_as_such() {
        let error =
            dial("no-such-host.invalid", 1883, &SocketOptions::default(), &LastGood::default(), soon())
                .await
                .unwrap_err();
        assert!(matches!(error, DialError::Resolve { .. }), "{error:?}");
        assert_eq!(error.to_string(), "no-such-host.invalid:1883 could not be resolved");
    }

    #[tokio::test]
    async fn a_silent_address_ends_at_the_deadline() {
        // A full accept queue stays silent: with a backlog of 1, Linux completes two handshakes and no more.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        socket.listen(1).unwrap();
        let port = socket.local_addr().unwrap().as_socket().unwrap().port();
        let mut held = Vec::new();
        let error = loop {
            let deadline = Instant::now() + Duration::from_millis(200);
            match dial("127.0.0.1", port, &SocketOptions::default(), &LastGood::default(), deadline).await {
                Ok(stream) => held.push(stream),
                Err(error) => break error,
            }
            assert!(held.len() < 16, "the queue never filled");
        };
        assert!(matches!(error, DialError::Timeout { address: Some(_), .. }), "{error:?}");
        assert_eq!(error.to_string(), format!("127.0.0.1:{port} did not answer in time"));
    }

    #[tokio::test]
    async fn the_address_that_answered_last_is_tried_first() {
        let (one, other) = (TcpListener::bind("127.0.0.1:0").await, TcpListener::bind("127.0.0.1:0").await);
        let (one, other) = (one.unwrap(), other.unwrap());
        let addresses = vec![one.local_addr().unwrap(), other.local_addr().unwrap()];
        let last_good = LastGood::default();
        let dialled = async || {
            let options = SocketOptions::default();
            let stream = among("both".to_owned(), addresses.clone(), &options, &last_good, soon()).await;
            stream.unwrap().peer_addr().unwrap()
        };
        assert_eq!(dialled().await, addresses[0]);
        drop(one);
        assert_eq!(dialled().await, addresses[1], "all of them are tried");
        let _again = TcpListener::bind(addresses[0]).await.unwrap();
        assert_eq!(dialled().await, addresses[1], "the last good one first");
        last_good.forget();
        assert_eq!(dialled().await, addresses[0]);
    }

    #[test]
    fn an_address_that_the_name_has_no_more_is_not_tried() {
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let last_good = LastGood(Mutex::new(Some(at(3))));
        let mut addresses = [at(1), at(2), at(3)];
        last_good.first(&mut addresses);
        assert_eq!(addresses, [at(3), at(1), at(2)]);
        let mut addresses = [at(1), at(2)];
        last_good.first(&mut addresses);
        assert_eq!(addresses, [at(1), at(2)]);
    }

    #[test]
    fn attempts_share_what_is_left() {
        let now = Instant::now();
        let deadline = now + Duration::from_secs(9);
        assert_eq!(share(now, deadline, 9), now + Duration::from_secs(1));
        assert_eq!(share(now, deadline, 1), now + PATIENCE, "nobody waits for one for ever");
        assert_eq!(share(now, now + PATIENCE / 2, 1), now + PATIENCE / 2);
        assert_eq!(share(deadline, now, 2), deadline, "a passed deadline leaves nothing");
    }
}
