//! From a connection to a stream that HTTP is spoken on: at once, or after a TLS handshake where the admin port has TLS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mproxy_tcp::tls::{self, Reloadable, ServerTls, TlsStream};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::InForce;
use super::impatient::Impatient;
use crate::door::Causes;
use crate::share::Neighbours;
use crate::share::turns::Turns;

/// For an answer to be taken further by the caller.
const LONGEST_STALL: Duration = Duration::from_secs(10);

/// For a TLS handshake.
const LONGEST_HANDSHAKE: Duration = Duration::from_secs(10);

/// Bytes of a handshake message that is not whole: a chain of some certificates.
const LARGEST_HANDSHAKE: usize = 32 << 10;

/// How callers come in.
#[derive(Clone, Debug)]
pub(super) struct AdminDoor {
    in_force: InForce,
    /// One handshake works at a time, and addresses take turns.
    turns: Arc<Turns>,
}

/// A caller who can be answered.
pub(super) enum CallerStream {
    Plain(Impatient),
    Tls(Box<TlsStream<Impatient>>),
}

/// What a caller reaches us by; a handler finds it among the extensions of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallerScheme {
    Http,
    Https,
}

impl CallerScheme {
    /// How an origin of this scheme begins.
    pub(super) const fn prefix(self) -> &'static [u8] {
        match self {
            Self::Http => b"http://",
            Self::Https => b"https://",
        }
    }
}

impl AdminDoor {
    pub(super) fn new(in_force: InForce) -> Self {
        Self { in_force, turns: Turns::new(1) }
    }

    /// Lets somebody in; `None` for who is not, and has been told why as far as it can be.
    pub(super) async fn enter(&self, stream: TcpStream, peer: SocketAddr) -> Option<CallerStream> {
        let stream = Impatient::new(stream, LONGEST_STALL);
        // Of this moment: a reload is for those who come later.
        let Some(tls) = self.in_force.tls() else { return Some(CallerStream::Plain(stream)) };
        match timeout(LONGEST_HANDSHAKE, self.shake(stream, peer, &tls)).await {
            Ok(entered) => entered,
            Err(_) => {
                tracing::debug!(peer_addr = %peer, "admin API: no TLS handshake in time");
                None
            }
        }
    }

    async fn shake(
        &self,
        mut stream: Impatient,
        peer: SocketAddr,
        tls: &Reloadable<ServerTls>,
    ) -> Option<CallerStream> {
        if stream.speaks_http().await {
            // Whoever does not read it knows nothing else either.
            let _ = stream.write_all(HTTP_AT_HTTPS).await;
            let _ = stream.shutdown().await;
            return None;
        }
        let shake = Box::pin(tls::accept(stream, tls.current(), |held| held <= LARGEST_HANDSHAKE));
        match self.turns.polls(Neighbours::from(peer.ip()), shake).await {
            Ok((stream, _)) => Some(CallerStream::Tls(Box::new(stream))),
            Err(error) => {
                let (cause, error) = (error.label(), Causes(&error));
                tracing::debug!(peer_addr = %peer, cause, %error, "admin API: TLS handshake failed");
                None
            }
        }
    }
}

/// What a caller is told who does not know that there is TLS.
const HTTP_AT_HTTPS: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/problem+json\r\nConnection: close\r\n\r\n\
    {\"type\":\"about:blank\",\"title\":\"Bad Request\",\"status\":400,\"detail\":\"this port has TLS: use https://\"}\n";
