//! A listening Unix socket that outlives every hiccup of `accept`, and the file that it is found by. It never decides
//! who may come in: counting and refusing is the caller's.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};
use thiserror::Error;
use tokio::net::{UnixListener, UnixStream};

use crate::{LONGEST_PATH, names};

/// Where a [`Listener`] listens, and who can connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketFile {
    /// The file; its folder has to be there.
    pub path: PathBuf,
    /// Its permissions. Whoever may write to it can connect.
    pub mode: u32,
    /// Its owner, by name or number; `None` leaves it to the user that this process runs as.
    pub owner: Option<String>,
    /// Its group, by name or number; `None` leaves it to the kernel.
    pub group: Option<String>,
}

impl SocketFile {
    /// For this user and its group.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), mode: 0o660, owner: None, group: None }
    }
}

/// A bound, listening socket. Dropping it removes its file, unless that is another's by now.
#[derive(Debug)]
pub struct Listener {
    inner: UnixListener,
    path: Arc<Path>,
    /// The file, where it goes with the listener.
    file: Option<OwnFile>,
}

/// A file that goes with its listener, unless another process goes on listening there.
#[derive(Clone, Debug)]
pub struct OwnFile {
    /// Device and inode.
    identity: (u64, u64),
    left: Arc<AtomicBool>,
}

impl OwnFile {
    fn new(identity: (u64, u64)) -> Self {
        Self { identity, left: Arc::default() }
    }

    /// It stays when the listener goes: another process listens at its socket.
    pub fn leave(&self) {
        self.left.store(true, Ordering::Relaxed);
    }
}

/// A connection that came in.
#[derive(Debug)]
pub struct Accepted {
    /// The byte stream.
    pub stream: UnixStream,
    /// Who connected.
    pub peer: PeerProcess,
}

/// Who a process is, as the kernel says; it is what the process was when it connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerProcess {
    /// Process id; `None` where this system does not tell, or it is in another namespace.
    pub pid: Option<u32>,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// What one [`Listener::accept`] brought.
#[derive(Debug)]
pub enum Incoming {
    /// Somebody is here.
    Connection(Accepted),
    /// Somebody was here, and left before being let in, or could not be told who it is.
    Lost(io::Error),
    /// This machine can take nobody at present (no file descriptor, no memory), and those who wait stay in the kernel's
    /// queue. The next `accept` would say the same at once: the caller has to pause.
    Exhausted(io::Error),
}

/// How many connections may wait to be accepted, as for TCP; the kernel may hold it lower (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;

impl Listener {
    /// Listens there. A socket that a dead process left is replaced. Blocks on the file system, and for a second at most
    /// on others who do the same in this folder.
    ///
    /// # Errors
    /// Names the path, and what to do. Nothing is left behind, and nothing of others was touched.
    pub fn bind(at: &SocketFile) -> Result<Self, ListenError> {
        let path = || at.path.clone();
        if at.path.as_os_str().len() > LONGEST_PATH {
            return Err(ListenError::TooLong(path()));
        }
        let named = |name: &Option<String>, number: fn(&str) -> Result<u32, String>| {
            name.as_deref().map(number).transpose().map_err(|text| ListenError::NoSuchName(path(), text))
        };
        // Before anything is made: a wrong name leaves no file behind.
        let (owner, group) = (named(&at.owner, names::user)?, named(&at.group, names::group)?);
        let io = |source| ListenError::Io { path: path(), source };
        let address = SockAddr::unix(&at.path).map_err(io)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(io)?;
        socket.set_nonblocking(true).map_err(io)?;
        // Until the socket listens: between bind and listen it looks like one that a dead process left.
        let _lock = lock(&at.path);
        remove_left_over(&at.path)?;
        socket.bind(&address).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => ListenError::NoFolder(path()),
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                ListenError::Denied(path())
            }
            io::ErrorKind::AddrInUse => ListenError::InUse(path()),
            _ => io(source),
        })?;
        // The path may be another's by the time that this listener goes. Device and inode tell.
        let file = fs::symlink_metadata(&at.path).map(|file| (file.dev(), file.ino())).map_err(io)?;
        let inner = UnixListener::from_std(socket.into()).map_err(|source| {
            remove(&at.path, file);
            io(source)
        })?;
        // From here on the file goes with it, whatever fails.
        let path_of_it = at.path.as_path().into();
        let listener = Self { inner, path: path_of_it, file: Some(OwnFile::new(file)) };
        if owner.is_some() || group.is_some() {
            chown(&at.path, owner, group).map_err(|source| ListenError::NotGiven(path(), source))?;
        }
        fs::set_permissions(&at.path, fs::Permissions::from_mode(at.mode)).map_err(io)?;
        // Until now nobody could connect, so that there was no moment with wider permissions.
        socket2::SockRef::from(&listener.inner).listen(BACKLOG).map_err(io)?;
        Ok(listener)
    }

    /// Listens at a socket that somebody else has bound and listens at; its file stays when the listener goes.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn inherit(socket: std::os::unix::net::UnixListener) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        let path = address.as_pathname().unwrap_or_else(|| Path::new("")).into();
        Ok(Self { inner: UnixListener::from_std(socket)?, path, file: None })
    }

    /// The same, of a listener whose place this one takes: the file goes with this one.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn succeed(socket: std::os::unix::net::UnixListener) -> io::Result<Self> {
        let mut listener = Self::inherit(socket)?;
        // Gone already, it is nobody's to remove.
        let file = fs::symlink_metadata(&listener.path).map(|file| (file.dev(), file.ino())).ok();
        listener.file = file.map(OwnFile::new);
        Ok(listener)
    }

    /// Its file, where that goes with it.
    #[must_use]
    pub const fn file(&self) -> Option<&OwnFile> {
        self.file.as_ref()
    }

    /// Where its file is.
    #[must_use]
    pub fn path(&self) -> &Arc<Path> {
        &self.path
    }

    /// Waits for the next connection, or tells why there is none at present. It has no final error: call it again after
    /// each of its answers.
    ///
    /// Cancel safe: a dropped future took nobody out of the queue.
    pub async fn accept(&mut self) -> Incoming {
        std::future::poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// The same, for whoever polls.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        let stream = match ready!(self.inner.poll_accept(cx)) {
            Ok((stream, _)) => stream,
            Err(error) if concerns_one_connection(&error) => return Poll::Ready(Incoming::Lost(error)),
            Err(error) => return Poll::Ready(Incoming::Exhausted(error)),
        };
        Poll::Ready(match stream.peer_cred() {
            Ok(told) => {
                // 0: there is one, in a namespace of which we see nothing.
                let pid = told.pid().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0);
                let peer = PeerProcess { pid, uid: told.uid(), gid: told.gid() };
                Incoming::Connection(Accepted { stream, peer })
            }
            // Nobody comes in unknown.
            Err(error) => Incoming::Lost(error),
        })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(file) = self.file.as_ref().filter(|file| !file.left.load(Ordering::Relaxed)) {
            remove(&self.path, file.identity);
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

/// Whether an error of `accept` is about the connection that it would have brought.
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(error.kind(), Kind::ConnectionAborted | Kind::ConnectionReset | Kind::Interrupted)
}

/// Removes the file, if it still is this one: who came after us may have put its own there.
fn remove(path: &Path, file: (u64, u64)) {
    if fs::symlink_metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == file) {
        // If it cannot be removed, the next one finds a socket that nobody listens at.
        let _ = fs::remove_file(path);
    }
}

/// How long others may be busy in the same folder, and how often it is looked whether they still are.
const LOCK: Duration = Duration::from_secs(1);
const LOCK_AGAIN: Duration = Duration::from_millis(10);

/// Keeps others who do the same out of the folder: two that start at once would each take the other's socket, at which it
/// does not listen yet, for one that was left. Without the lock, where it cannot be had, only that is not prevented.
fn lock(path: &Path) -> Option<File> {
    let folder = File::open(path.parent()?).ok()?;
    let begun = std::time::Instant::now();
    while folder.try_lock().is_err() {
        if begun.elapsed() > LOCK {
            return None;
        }
        std::thread::sleep(LOCK_AGAIN);
    }
    Some(folder)
}

/// Makes the path free where it is a socket at which nobody listens any more.
fn remove_left_over(path: &Path) -> Result<(), ListenError> {
    // Not through a link: what it points to is not ours to remove.
    let Ok(there) = fs::symlink_metadata(path) else { return Ok(()) };
    if !there.file_type().is_socket() {
        return Err(ListenError::NoSocket(path.to_owned()));
    }
    let caller = || -> io::Result<()> {
        let caller = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // A full queue is somebody, too, and is not waited for.
        caller.set_nonblocking(true)?;
        caller.connect(&SockAddr::unix(path)?)
    };
    match caller() {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|source| ListenError::NotRemoved { path: path.to_owned(), source })
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(ListenError::Denied(path.to_owned()))
        }
        // Whatever else comes of it, somebody may be there, and a socket that may be alive is not removed.
        _ => Err(ListenError::InUse(path.to_owned())),
    }
}

/// Why a [`Listener`] could not be had. Each text names the path.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ListenError {
    /// Another process listens there.
    #[error("cannot listen on {}: another process listens there: stop it, or choose another path", .0.display())]
    InUse(PathBuf),
    /// There is a file that is no socket.
    #[error("cannot listen on {}: the file there is not a socket; it is not removed", .0.display())]
    NoSocket(PathBuf),
    /// Its folder is not there.
    #[error("cannot listen on {}: its folder does not exist: create it (RuntimeDirectory= in a systemd unit does)", .0.display())]
    NoFolder(PathBuf),
    /// We may not.
    #[error("cannot listen on {}: permission denied: mproxy needs write permission for its folder", .0.display())]
    Denied(PathBuf),
    /// A socket that was left could not be removed.
    #[error("cannot listen on {}: a socket that a dead process left there cannot be removed", path.display())]
    NotRemoved {
        /// What was asked for.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Its owner and group could not be set.
    #[error("cannot listen on {}: its owner or group cannot be set: only root may set the owner, and others may only set \
             a group that they are in", .0.display())]
    NotGiven(PathBuf, #[source] io::Error),
    /// Its owner or group is not known.
    #[error("cannot listen on {}: {}", .0.display(), .1)]
    NoSuchName(PathBuf, String),
    /// More than the kernel takes.
    #[error("cannot listen on {}: a path of more than {LONGEST_PATH} bytes is too long for a socket", .0.display())]
    TooLong(PathBuf),
    /// Another reason.
    #[error("cannot listen on {}", path.display())]
    Io {
        /// What was asked for.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn folder() -> (TempDir, SocketFile) {
        let folder = tempfile::tempdir().unwrap();
        let at = SocketFile::new(folder.path().join("mqtt.sock"));
        (folder, at)
    }

    async fn next(listener: &mut Listener) -> Accepted {
        match listener.accept().await {
            Incoming::Connection(accepted) => accepted,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn who_connected_is_told() {
        let (_folder, at) = folder();
        let mut listener = Listener::bind(&at).unwrap();
        let _client = UnixStream::connect(&at.path).await.unwrap();
        let me = fs::metadata("/proc/self").unwrap();
        let peer = PeerProcess { pid: Some(std::process::id()), uid: me.uid(), gid: me.gid() };
        assert_eq!(next(&mut listener).await.peer, peer);
    }

    #[tokio::test]
    async fn the_file_has_the_mode_whatever_the_umask_and_goes_with_the_listener() {
        let (_folder, mut at) = folder();
        for mode in [0o600, 0o660, 0o666, 0o777] {
            at.mode = mode;
            let listener = Listener::bind(&at).unwrap();
            assert_eq!(fs::metadata(&at.path).unwrap().mode() & 0o7777, mode);
            drop(listener);
            assert!(!at.path.exists());
        }
    }

    #[tokio::test]
    async fn what_a_dead_process_left_is_replaced() {
        let (_folder, at) = folder();
        drop(std::os::unix::net::UnixListener::bind(&at.path).unwrap());
        assert!(at.path.exists());
        let mut listener = Listener::bind(&at).unwrap();
        let _client = UnixStream::connect(&at.path).await.unwrap();
        next(&mut listener).await;
    }

    #[tokio::test]
    async fn what_is_in_use_or_no_socket_is_left_alone() {
        let (_folder, at) = folder();
        let mut first = Listener::bind(&at).unwrap();
        assert!(matches!(Listener::bind(&at).unwrap_err(), ListenError::InUse(_)));
        // A caller who only looked.
        next(&mut first).await;
        let _client = UnixStream::connect(&at.path).await.unwrap();
        next(&mut first).await;
        drop(first);
        fs::write(&at.path, "precious").unwrap();
        assert!(matches!(Listener::bind(&at).unwrap_err(), ListenError::NoSocket(_)));
        assert_eq!(fs::read_to_string(&at.path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn the_file_of_a_successor_stays() {
        let (_folder, at) = folder();
        let first = Listener::bind(&at).unwrap();
        fs::remove_file(&at.path).unwrap();
        let _second = Listener::bind(&at).unwrap();
        drop(first);
        assert!(at.path.exists());
    }

    #[tokio::test]
    async fn a_failure_names_the_path_and_leaves_nothing() {
        let (folder, at) = folder();
        let none = SocketFile { path: folder.path().join("none/mqtt.sock"), ..at.clone() };
        assert!(matches!(Listener::bind(&none).unwrap_err(), ListenError::NoFolder(_)));
        let nobody = SocketFile { owner: Some("nobody-has-this-name".to_owned()), ..at.clone() };
        let text = Listener::bind(&nobody).unwrap_err().to_string();
        assert!(text.contains("mqtt.sock") && text.contains("nobody-has-this-name"), "{text}");
        let long = SocketFile { path: folder.path().join("x".repeat(LONGEST_PATH)), ..at.clone() };
        assert!(matches!(Listener::bind(&long).unwrap_err(), ListenError::TooLong(_)));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn one_that_starts_waits_for_another_in_its_folder() {
        let (folder, at) = folder();
        let held = File::open(folder.path()).unwrap();
        held.lock().unwrap();
        // As long as that is between bind and listen; here for ever.
        let begun = std::time::Instant::now();
        Listener::bind(&at).unwrap();
        assert!(begun.elapsed() >= LOCK);
    }
}
