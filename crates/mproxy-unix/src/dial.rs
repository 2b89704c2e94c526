//! From a path to a stream, within one deadline.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep};

const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Connects to the socket at this path.
///
/// A socket whose queue is full, as after a restart of the broker, is tried again until the deadline: unlike TCP, the
/// kernel does not wait there itself.
///
/// # Errors
/// Names the path, and what to do.
///
/// Cancel safe: dropping the future closes what was half open.
pub async fn dial(path: &Path, deadline: Instant) -> Result<UnixStream, DialError> {
    let mut pause = SHORTEST_PAUSE;
    loop {
        match UnixStream::connect(path).await {
            // The queue is full. Readiness would not tell when it no longer is: nothing is registered with that
            // socket yet.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if Instant::now() + pause > deadline {
                    return Err(DialError::Busy(path.to_owned()));
                }
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            outcome => return outcome.map_err(|error| DialError::of(path, error)),
        }
    }
}

/// Why nobody was reached. Each text begins with the path.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DialError {
    /// There is no such file.
    #[error("{}: no such file: start the broker, or correct the path", .0.display())]
    Missing(PathBuf),
    /// We may not.
    #[error("{}: permission denied: mproxy needs write permission for the socket (for example a common \
             group and mode 0660), and search permission (x) for all folders above it", .0.display())]
    Denied(PathBuf),
    /// The file is there, and nobody listens at it.
    #[error("{}: connection refused: nobody listens there; either the broker does not run and its file is left over, \
             or the file is not a socket", .0.display())]
    Refused(PathBuf),
    /// Nobody accepted before the deadline.
    #[error("{}: the broker accepted no connection in time: its queue of new connections stayed full", .0.display())]
    Busy(PathBuf),
    /// The connection failed in another way: too many open files.
    #[error("{} could not be connected to", path.display())]
    Io {
        /// What was asked for.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl DialError {
    fn of(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::Missing(path),
            io::ErrorKind::PermissionDenied => Self::Denied(path),
            io::ErrorKind::ConnectionRefused => Self::Refused(path),
            _ => Self::Io { path, source },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::net::UnixListener;

    use socket2::{Domain, SockAddr, Socket, Type};

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    async fn fails(path: &Path) -> DialError {
        dial(path, soon()).await.unwrap_err()
    }

    #[tokio::test]
    async fn an_error_names_the_path_and_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        assert!(matches!(fails(&at("none")).await, DialError::Missing(_)));
        drop(UnixListener::bind(at("left")).unwrap());
        assert!(matches!(fails(&at("left")).await, DialError::Refused(_)));
        fs::write(at("file"), "").unwrap();
        assert!(matches!(fails(&at("file")).await, DialError::Refused(_)));
        assert!(matches!(fails(&at("file/below")).await, DialError::Missing(_)));
        let text = fails(&at("none")).await.to_string();
        assert!(text.starts_with(&format!("{}: ", at("none").display())), "{text}");
    }

    /// A broker that restarts is called by all its clients at once.
    #[tokio::test]
    async fn a_full_queue_is_waited_for_until_the_deadline() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("full");
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        socket.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        socket.listen(0).unwrap();
        let mut held = Vec::new();
        let error = loop {
            match dial(&path, Instant::now() + Duration::from_millis(50)).await {
                Ok(stream) => held.push(stream),
                Err(error) => break error,
            }
            assert!(held.len() < 16, "the queue never filled");
        };
        assert!(matches!(error, DialError::Busy(_)), "{error:?}");
        let waits = tokio::spawn({
            let path = path.clone();
            async move { dial(&path, soon()).await }
        });
        tokio::task::yield_now().await;
        let accepted: Vec<_> = held.iter().map(|_| socket.accept().unwrap()).collect();
        waits.await.unwrap().expect("there is room again");
        drop(accepted);
    }
}
