//! The options that every stream gets, accepted or dialled, and the way to cut one off on purpose.

use socket2::{SockRef, TcpKeepalive};
use std::{io, time::Duration};
use tokio::net::TcpStream;

/// What can be chosen per listener or target. Buffer sizes are not among it: the kernel tunes them per
/// connection, and a fixed size would switch that off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SocketOptions {
    /// How long sent bytes may stay unacknowledged before the kernel gives the peer up (`TCP_USER_TIMEOUT`).
    /// `None` leaves it to the retransmission limits, some 15 minutes on Linux. Without effect elsewhere.
    pub user_timeout: Option<Duration>,
}

// A peer that vanished without a word is noticed 60 + 4 * 15 = 120 s later: sooner than the usual state table
// of a NAT or firewall forgets an idle flow (5 minutes and more), and later than a phone that changes cells.
const KEEPALIVE_TIME: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
#[cfg(unix)]
const KEEPALIVE_RETRIES: u32 = 4;

/// Sets the options. MQTT packets are small and wait for answers, so Nagle's algorithm is always off.
pub(crate) fn prepare(socket: &SockRef<'_>, options: &SocketOptions) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive())?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if options.user_timeout.is_some() {
        socket.set_tcp_user_timeout(options.user_timeout)?;
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = options;
    Ok(())
}

fn keepalive() -> TcpKeepalive {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_TIME).with_interval(KEEPALIVE_INTERVAL);
    #[cfg(unix)]
    let keepalive = keepalive.with_retries(KEEPALIVE_RETRIES);
    keepalive
}

/// Makes dropping `stream` an abort: what is unsent is thrown away and the peer gets a reset instead of an end.
///
/// For a peer that must not mistake the end for a good one, and for one that no longer reads: without this its
/// unsent bytes would stay in the kernel after us.
pub fn set_linger_zero(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_linger(Some(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{io::AsyncReadExt, net::TcpListener};

    #[tokio::test]
    async fn a_stream_with_zero_linger_ends_in_a_reset() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        set_linger_zero(&accepted).unwrap();
        drop(accepted);
        let end = client.read(&mut [0; 1]).await;
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}
