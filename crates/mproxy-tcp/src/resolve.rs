//! Host names to addresses.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};
use tokio::net::lookup_host;

/// Every address of `host`, in the resolver's order of preference, at least one.
///
/// A literal address (`127.0.0.1`, `::1`, `[::1]`) is answered at once: the resolver runs on the blocking pool,
/// where one slow name server could make everybody queue. Cancel safe; a dropped lookup runs to its end unseen.
pub(crate) async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Some(ip) = literal(host) {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let found: Vec<SocketAddr> = lookup_host((host, port)).await?.collect();
    if found.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(found)
}

/// `host:port` as a person would type it: an IPv6 literal gets its brackets.
pub(crate) fn host_port(host: &str, port: u16) -> String {
    match literal(host) {
        Some(ip) => SocketAddr::new(ip, port).to_string(),
        None => format!("{host}:{port}"),
    }
}

fn literal(host: &str) -> Option<IpAddr> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    bare.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        future::Future,
        pin::pin,
        task::{Context, Poll, Waker},
    };

    #[test]
    fn a_literal_address_never_waits() {
        for (host, expected) in
            [("127.0.0.1", "127.0.0.1:1883"), ("::1", "[::1]:1883"), ("[::1]", "[::1]:1883")]
        {
            // No runtime here: a trip to the blocking pool would panic, a wait would be Pending.
            let found = pin!(resolve(host, 1883)).poll(&mut Context::from_waker(Waker::noop()));
            let Poll::Ready(Ok(found)) = found else { panic!("{host} did not resolve at once") };
            assert_eq!(found, [expected.parse().unwrap()]);
        }
    }

    #[test]
    fn a_target_reads_as_it_is_typed() {
        assert_eq!(host_port("broker.example", 1883), "broker.example:1883");
        assert_eq!(host_port("::1", 1883), "[::1]:1883");
        assert_eq!(host_port("10.0.0.7", 1), "10.0.0.7:1");
    }
}
