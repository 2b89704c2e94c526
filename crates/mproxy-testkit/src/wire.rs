//! A client on a raw socket: it writes whatever bytes it is given, in whatever pieces, and reads whole packets by
//! their fixed header. It must not know mproxy-codec, which is what it judges.

pub use mproxy_sim::wire::*;

use crate::PATIENCE;
use socket2::SockRef;
use std::{io, net::SocketAddr, path::Path, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time::timeout,
};

/// A connection that is spoken to in bytes; TCP unless told otherwise.
///
/// Every method panics when it does not get what it waits for within [`PATIENCE`].
#[derive(Debug)]
pub struct WireClient<S = TcpStream> {
    stream: S,
    unread: Vec<u8>,
}

impl WireClient {
    /// Connects, and says nothing yet.
    pub async fn open(to: SocketAddr) -> Self {
        let stream = timeout(PATIENCE, TcpStream::connect(to)).await;
        let stream = stream.unwrap_or_else(|_| panic!("{to} does not answer"));
        let stream = stream.unwrap_or_else(|error| panic!("cannot connect to {to}: {error}"));
        stream.set_nodelay(true).unwrap_or_else(|error| panic!("no TCP_NODELAY: {error}"));
        Self::over(stream)
    }

    /// Connects, sends a plain CONNECT (clean, no keep-alive) and takes the CONNACK, which must be a yes.
    pub async fn login(to: SocketAddr, version: Version, client_id: &str) -> Self {
        Self::open(to).await.logged_in(version, client_id).await
    }

    /// Our end of the connection: what a proxy sees as the remote address.
    pub fn local_addr(&self) -> SocketAddr {
        self.stream.local_addr().unwrap_or_else(|error| panic!("no local address: {error}"))
    }

    /// Vanishes with a reset, as a device does whose program crashed with data unread.
    pub fn abort(self) {
        let zero = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        zero.unwrap_or_else(|error| panic!("no SO_LINGER: {error}"));
    }
}

impl WireClient<UnixStream> {
    /// Connects to a Unix socket, and says nothing yet.
    pub async fn open_unix(path: &Path) -> Self {
        let stream = timeout(PATIENCE, UnixStream::connect(path)).await;
        let stream = stream.unwrap_or_else(|_| panic!("{} does not answer", path.display()));
        Self::over(stream.unwrap_or_else(|error| panic!("cannot connect to {}: {error}", path.display())))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> WireClient<S> {
    /// Sends a plain CONNECT (clean, no keep-alive) and takes the CONNACK, which must be a yes.
    pub async fn logged_in(mut self, version: Version, client_id: &str) -> Self {
        self.send(&connect(version, client_id, &ConnectOptions::default())).await;
        let connack = self.packet().await;
        assert!(matches!(connack[..], [0x20, _, _, 0, ..]), "not a CONNACK with a yes: {connack:02x?}");
        self
    }

    /// Speaks over a stream that is already there: TLS, say.
    pub fn over(stream: S) -> Self {
        Self { stream, unread: Vec::new() }
    }

    /// The stream itself.
    pub(crate) fn stream(&self) -> &S {
        &self.stream
    }

    /// The stream itself, for what is not covered here. Bytes that were read ahead are lost.
    pub fn into_inner(self) -> S {
        self.stream
    }

    /// Writes `bytes` in one piece.
    pub async fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).await.unwrap_or_else(|error| panic!("cannot send: {error}"));
    }

    /// Writes `bytes` `chunk` at a time, giving the other side the chance to read each piece alone.
    pub async fn send_split(&mut self, bytes: &[u8], chunk: usize) {
        for piece in bytes.chunks(chunk.max(1)) {
            self.send(piece).await;
            tokio::task::yield_now().await;
        }
    }

    /// Writes `bytes` to a peer that may close meanwhile.
    pub async fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = timeout(PATIENCE, async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        });
        written.await.unwrap_or_else(|_| panic!("the peer does not read: {} bytes stuck", bytes.len()))
    }

    /// The next packet, whole, as it came.
    pub async fn packet(&mut self) -> Vec<u8> {
        match self.next().await {
            Ok(Some(packet)) => packet,
            Ok(None) => panic!("closed instead of a packet; before that came {:02x?}", self.unread),
            Err(error) => panic!("{error} instead of a packet; before that came {:02x?}", self.unread),
        }
    }

    /// The next packet; `None`: the peer has closed.
    pub async fn try_packet(&mut self) -> Option<Vec<u8>> {
        self.next().await.ok().flatten()
    }

    /// The next packet must be `expected`, byte for byte.
    pub async fn expect(&mut self, expected: &[u8]) {
        let packet = self.packet().await;
        assert!(packet == expected, "expected {expected:02x?}, got {packet:02x?}");
    }

    /// Nothing may be on its way: sends a PINGREQ, and the PINGRESP must come first. No waiting for silence.
    pub async fn expect_nothing_but_pingresp(&mut self) {
        self.send(&pingreq()).await;
        self.expect(&pingresp()).await;
    }

    /// The peer must close, in order or with a reset, without another byte.
    pub async fn expect_closed(&mut self) {
        let rest = self.rest().await;
        assert!(rest.is_empty(), "expected the end, got {rest:02x?}");
    }

    /// Everything that comes until the peer closes.
    pub async fn rest(&mut self) -> Vec<u8> {
        let read = timeout(PATIENCE, async { while matches!(self.fill().await, Ok(1..)) {} });
        read.await.unwrap_or_else(|_| panic!("still open; so far came {:02x?}", self.unread));
        std::mem::take(&mut self.unread)
    }

    /// Sends the end of our direction only (FIN).
    pub async fn finish(&mut self) {
        self.stream.shutdown().await.unwrap_or_else(|error| panic!("cannot finish: {error}"));
    }

    async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let packet = timeout(PATIENCE, async {
            loop {
                if let Some(len) = packet_len(&self.unread) {
                    return Ok(Some(self.unread.drain(..len).collect()));
                }
                if self.fill().await? == 0 {
                    return Ok(None);
                }
            }
        });
        packet.await.unwrap_or_else(|_| panic!("no packet came; only {:02x?}", self.unread))
    }

    async fn fill(&mut self) -> io::Result<usize> {
        self.stream.read_buf(&mut self.unread).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn packets_come_whole_however_they_were_cut() {
        let (near, far) = tokio::io::duplex(1024);
        let (mut near, mut far) = (WireClient::over(near), WireClient::over(far));
        let long = packet(0x30, &[7; 300]);
        let both = [pingreq(), long.clone()].concat();
        let (_, ()) = tokio::join!(near.send_split(&both, 1), async {
            far.expect(&pingreq()).await;
            far.expect(&long).await;
        });
        near.finish().await;
        far.expect_closed().await;
    }

    #[tokio::test]
    #[should_panic(expected = "expected the end, got [d0, 00]")]
    async fn a_byte_before_the_end_is_noticed() {
        let (near, far) = tokio::io::duplex(64);
        WireClient::over(far).send(&pingresp()).await;
        WireClient::over(near).expect_closed().await;
    }
}
