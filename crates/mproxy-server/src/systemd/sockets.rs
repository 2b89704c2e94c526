//! Sockets that were opened before mproxy started, by systemd or by the process whose place it takes, and the listeners that
//! they are for.

use std::fmt;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;

use anyhow::{Context as _, bail};
use listenfd::ListenFd;
use socket2::{Domain, SockRef};
use tracing::info;

/// A socket that is open and listens.
#[derive(Debug)]
pub enum InheritedSocket {
    /// At a port.
    Tcp(TcpListener),
    /// At a path.
    Unix(UnixListener, FileOwner),
}

/// Who removes the file of a Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileOwner {
    /// Whoever made it.
    Others,
    /// Whoever listens.
    Listener,
}

/// Those that nobody has taken yet.
#[derive(Debug, Default)]
pub struct InheritedSockets(Vec<NamedSocket>);

/// One of them, and what it is called (`FileDescriptorName=`).
#[derive(Debug)]
struct NamedSocket {
    name: String,
    /// Where its listener was configured to be, of a process whose place this one takes: its name alone says nothing
    /// where the configuration has changed. `None`: systemd has passed it.
    place: Option<String>,
    socket: InheritedSocket,
}

impl fmt::Display for NamedSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ", self.name)?;
        match &self.socket {
            InheritedSocket::Tcp(socket) => match socket.local_addr() {
                Ok(address) => write!(f, "at {address}"),
                Err(error) => write!(f, "at an unknown address ({error})"),
            },
            InheritedSocket::Unix(socket, _) => {
                match socket.local_addr().ok().as_ref().and_then(|at| at.as_pathname()) {
                    Some(path) => write!(f, "at unix:{}", path.display()),
                    None => f.write_str("at a Unix socket without a path"),
                }
            }
        }
    }
}

impl InheritedSockets {
    /// Those of this process. Call it before there is a second thread: it takes variables out of the environment.
    ///
    /// # Errors
    /// One of them is no socket that listens.
    pub fn from_env() -> anyhow::Result<Self> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut fds = ListenFd::from_env();
        let mut sockets = Vec::new();
        for index in 0..fds.len() {
            let name = names.next().unwrap_or_default().to_owned();
            let socket =
                take(&mut fds, index).with_context(|| format!("socket {index} {name:?} of LISTEN_FDS"))?;
            sockets.push(NamedSocket { name, place: None, socket });
        }
        Ok(Self(sockets))
    }

    /// Those of the listeners of a process whose place this one takes: name, place, whether the file of a Unix socket is its
    /// listener's, and the socket.
    ///
    /// # Errors
    /// One of them is no socket that listens.
    pub fn handed_over(sockets: Vec<(String, String, bool, OwnedFd)>) -> anyhow::Result<Self> {
        let named = sockets.into_iter().map(|(name, place, owns_file, socket)| {
            let socket = match SockRef::from(&socket).domain()? {
                Domain::UNIX => InheritedSocket::Unix(
                    socket.into(),
                    if owns_file { FileOwner::Listener } else { FileOwner::Others },
                ),
                _ => InheritedSocket::Tcp(socket.into()),
            };
            let socket = check(socket).with_context(|| format!("the socket of listener {name}"))?;
            Ok(NamedSocket { name, place: Some(place), socket })
        });
        Ok(Self(named.collect::<anyhow::Result<_>>()?))
    }

    /// The one for a listener at this host and port: the one that is called so, else the one that is bound there.
    ///
    /// # Errors
    /// The one that is called so is of another kind.
    pub fn take_tcp(&mut self, name: &str, host: &str, port: u16) -> anyhow::Result<Option<InheritedSocket>> {
        let is_there = |socket: &InheritedSocket| match socket {
            InheritedSocket::Tcp(socket) => socket.local_addr().is_ok_and(|at| is_at(at, host, port)),
            InheritedSocket::Unix(..) => false,
        };
        let is_kind = |socket: &InheritedSocket| matches!(socket, InheritedSocket::Tcp(_));
        self.take(name, &place_of(host, port), is_there, is_kind, "a TCP socket")
    }

    /// The same at this path.
    ///
    /// # Errors
    /// The one that is called so is of another kind.
    pub fn take_unix(&mut self, name: &str, path: &Path) -> anyhow::Result<Option<InheritedSocket>> {
        let is_there = |socket: &InheritedSocket| match socket {
            InheritedSocket::Unix(socket, _) => {
                socket.local_addr().is_ok_and(|at| at.as_pathname() == Some(path))
            }
            InheritedSocket::Tcp(_) => false,
        };
        let is_kind = |socket: &InheritedSocket| matches!(socket, InheritedSocket::Unix(..));
        self.take(name, &path.display().to_string(), is_there, is_kind, "a Unix socket")
    }

    fn take(
        &mut self,
        name: &str,
        place: &str,
        is_there: impl Fn(&InheritedSocket) -> bool,
        is_kind: impl Fn(&InheritedSocket) -> bool,
        kind: &str,
    ) -> anyhow::Result<Option<InheritedSocket>> {
        let is_called =
            |one: &NamedSocket| one.name == name && one.place.as_ref().is_none_or(|there| there == place);
        let called = self.0.iter().position(is_called);
        let found = called.or_else(|| self.0.iter().position(|one| is_there(&one.socket)));
        let Some(found) = found.map(|index| self.0.remove(index)) else { return Ok(None) };
        if !is_kind(&found.socket) {
            bail!("listener {name} is {kind}, and systemd passed the socket {found} for it");
        }
        Ok(Some(found.socket))
    }

    /// Whether all have been taken.
    ///
    /// # Errors
    /// Names those that were not, and what would be right.
    pub fn all_taken(&mut self) -> anyhow::Result<()> {
        // A listener that is not configured any more is closed by this.
        for gone in self.0.extract_if(.., |one| one.place.is_some()) {
            info!(socket = %gone, "no listener for this socket any more, closing it");
        }
        if self.0.is_empty() {
            return Ok(());
        }
        let left: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        bail!(
            "no listener for the socket {} that systemd passed: FileDescriptorName= has to be the name of a listener, or \
             admin, once each; or the listener has to have this address",
            left.join(", ")
        )
    }
}

fn take(fds: &mut ListenFd, index: usize) -> anyhow::Result<InheritedSocket> {
    let socket = match fds.take_tcp_listener(index) {
        Ok(tcp) => tcp.map(InheritedSocket::Tcp),
        Err(_) => fds
            .take_unix_listener(index)
            .context("is neither TCP nor a Unix socket")?
            .map(|socket| InheritedSocket::Unix(socket, FileOwner::Others)),
    };
    check(socket.context("was taken before")?)
}

/// Where a listener is configured to be, in one word.
pub(crate) fn place_of(host: &str, port: u16) -> String {
    format!("{host}:{port}")
}

fn check(socket: InheritedSocket) -> anyhow::Result<InheritedSocket> {
    let (listens, unblocked) = match &socket {
        InheritedSocket::Tcp(socket) => (SockRef::from(socket).is_listener(), socket.set_nonblocking(true)),
        InheritedSocket::Unix(socket, _) => {
            (SockRef::from(socket).is_listener(), socket.set_nonblocking(true))
        }
    };
    unblocked?;
    if !listens? {
        bail!("does not listen (Accept=yes is not supported)");
    }
    Ok(socket)
}

/// Whether this is the address that a listener would bind.
fn is_at(address: SocketAddr, host: &str, port: u16) -> bool {
    let same_host = match host.parse::<IpAddr>() {
        // A socket for both kinds takes in clients of 0.0.0.0, too.
        Ok(ip) => ip == address.ip() || (ip.is_unspecified() && address.ip().is_unspecified()),
        Err(_) => host == "localhost" && address.ip().is_loopback(),
    };
    port != 0 && address.port() == port && same_host
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp() -> (TcpListener, u16) {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = socket.local_addr().expect("an address").port();
        (socket, port)
    }

    fn sockets(named: Vec<(&str, InheritedSocket)>) -> InheritedSockets {
        let named = named.into_iter().map(|(name, socket)| NamedSocket {
            name: name.to_owned(),
            place: None,
            socket,
        });
        InheritedSockets(named.collect())
    }

    #[test]
    fn a_socket_is_for_the_listener_that_it_is_called_after_or_at_whose_address_it_is() {
        let ((one, first), (two, second)) = (tcp(), tcp());
        let mut sockets =
            sockets(vec![("mqtt", InheritedSocket::Tcp(one)), ("mproxy.socket", InheritedSocket::Tcp(two))]);
        let mut port = |name, host, port| match sockets.take_tcp(name, host, port).expect("of this kind") {
            Some(InheritedSocket::Tcp(socket)) => Some(socket.local_addr().expect("an address").port()),
            Some(InheritedSocket::Unix(..)) | None => None,
        };
        assert_eq!(port("ws", "127.0.0.1", 1), None);
        assert_eq!(port("mqtt", "0.0.0.0", 1), Some(first), "its name is enough");
        assert_eq!(port("mqtt", "0.0.0.0", 1), None, "once");
        assert_eq!(port("admin", "localhost", second), Some(second));
        assert!(sockets.all_taken().is_ok());
    }

    #[test]
    fn a_socket_that_is_for_nobody_and_one_of_another_kind_are_faults() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("s");
        let unix = UnixListener::bind(&path).expect("a socket");
        let mut inherited = sockets(vec![("mqtt", InheritedSocket::Unix(unix, FileOwner::Others))]);
        let fault = inherited.all_taken().expect_err("nobody took it").to_string();
        assert!(fault.contains("\"mqtt\" at unix:") && fault.contains("FileDescriptorName"), "{fault}");
        let fault = inherited.take_tcp("mqtt", "0.0.0.0", 1).expect_err("it is at a path").to_string();
        assert!(fault.contains("listener mqtt is a TCP socket"), "{fault}");
        let unix = UnixListener::bind(folder.path().join("t")).expect("a socket");
        let mut inherited = sockets(vec![("", InheritedSocket::Unix(unix, FileOwner::Others))]);
        assert!(inherited.take_unix("unix", &folder.path().join("t")).expect("of this kind").is_some());
    }

    #[test]
    fn a_socket_that_was_handed_over_is_for_a_listener_that_is_still_there() {
        let (socket, port) = tcp();
        let handed = |name: &str, place: &str| {
            let socket = socket.try_clone().expect("descriptors are left").into();
            let all = vec![(name.to_owned(), place.to_owned(), false, socket)];
            InheritedSockets::handed_over(all).expect("it listens")
        };
        let takes = |mut sockets: InheritedSockets, name, host, port| {
            let taken = sockets.take_tcp(name, host, port).expect("of this kind").is_some();
            assert!(sockets.all_taken().is_ok(), "one that is left is closed");
            taken
        };
        assert!(
            takes(handed("mqtt", "0.0.0.0:0"), "mqtt", "0.0.0.0", 0),
            "any port is the one that was taken then"
        );
        assert!(
            !takes(handed("mqtt", "127.0.0.1:1883"), "mqtt", "127.0.0.1", 1884),
            "it listens elsewhere now"
        );
        assert!(takes(handed("mqtt", "x:1"), "tcp", "127.0.0.1", port), "it is called otherwise now");
        let unbound = socket2::Socket::new(Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        let all = vec![("a".to_owned(), String::new(), false, unbound.into())];
        assert!(InheritedSockets::handed_over(all).is_err());
    }
}
