//! The connection to the admin API, with TLS or without. Each call is done by a deadline.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use mproxy_tcp::tls::{self, TlsStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout_at;

use super::place::PlaceTls;
use crate::door::Causes;

/// A connection.
pub(super) enum AdminSocket {
    Plain(TcpStream),
    Tls(Box<TlsSocket>),
}

/// With TLS, which needs a runtime to wait in.
pub(super) struct TlsSocket {
    stream: TlsStream<tokio::net::TcpStream>,
    runtime: Runtime,
}

impl AdminSocket {
    /// Over this connection; with TLS, the handshake is done by then.
    pub(super) fn over(stream: TcpStream, tls: Option<&PlaceTls>, until: Instant) -> io::Result<Self> {
        match tls {
            None => Ok(Self::Plain(stream)),
            Some(tls) => TlsSocket::shake(stream, tls, until).map(|socket| Self::Tls(Box::new(socket))),
        }
    }

    pub(super) fn read(&mut self, buffer: &mut [u8], until: Instant) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => {
                stream.set_read_timeout(Some(left(until)?))?;
                timed(stream.read(buffer))
            }
            Self::Tls(socket) => {
                let TlsSocket { stream, runtime } = &mut **socket;
                let read = async { timeout_at(until.into(), stream.read(buffer)).await };
                runtime
                    .block_on(read)
                    .map_err(|_| late())?
                    .map_err(|error| if tls::is_refusal(&error) { refused(&error) } else { error })
            }
        }
    }

    pub(super) fn write_all(&mut self, bytes: &[u8], until: Instant) -> io::Result<()> {
        match self {
            Self::Plain(stream) => {
                stream.set_write_timeout(Some(left(until)?))?;
                timed(stream.write_all(bytes))
            }
            Self::Tls(socket) => {
                let TlsSocket { stream, runtime } = &mut **socket;
                let written = async {
                    stream.write_all(bytes).await?;
                    stream.flush().await
                };
                runtime.block_on(async { timeout_at(until.into(), written).await }).map_err(|_| late())?
            }
        }
    }
}

impl TlsSocket {
    fn shake(stream: TcpStream, tls: &PlaceTls, until: Instant) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let shaken = runtime.block_on(async {
            let stream = tokio::net::TcpStream::from_std(stream)?;
            let shake = tls::connect(stream, tls.client.current(), &tls.name);
            timeout_at(until.into(), shake).await.map_err(|_| late())?.map_err(|error| {
                let text = Causes(&error).to_string();
                match error.label() {
                    "refused_by_peer" => refused(&text),
                    "unknown_ca" => io::Error::other(format!(
                        "{text}. --ca-cert (MPROXY_ADMIN_URL_CA_CERTS) says which CAs to trust"
                    )),
                    _ => io::Error::other(text),
                }
            })
        })?;
        Ok(Self { stream: shaken, runtime })
    }
}

fn refused(text: &impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, text.to_string())
}

/// What is left of the time.
pub(super) fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(late()) } else { Ok(left) }
}

pub(super) fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer in time")
}

/// A socket whose time is over says that it would block.
fn timed<T>(result: io::Result<T>) -> io::Result<T> {
    result.map_err(|error| if error.kind() == io::ErrorKind::WouldBlock { late() } else { error })
}
