//! The PROXY protocol, versions 1 and 2: what a load balancer says about the client before the client's own bytes, and
//! what we say about it to the broker. It is believed only from networks that were named for it.
//!
//! | room | holds |
//! |---|---|
//! | `v1` | one line of text |
//! | `v2` | binary, with TLVs: TLS, server name, ALPN, unique id |

mod v1;
mod v2;

use std::io;
use std::net::{IpAddr, SocketAddr};

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;

use crate::networks::Network;

/// What a PROXY header says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// `None` where it speaks of no client (`LOCAL`, `UNKNOWN`, as health checks do): the connection's own addresses
    /// hold.
    pub endpoints: Option<ProxiedAddresses>,
    /// The name that the client asked for, with TLS its SNI.
    pub authority: Option<String>,
    /// The application protocol that was agreed on.
    pub alpn: Option<Vec<u8>>,
    /// Names the connection throughout a chain of proxies; at most 128 bytes.
    pub unique_id: Option<Vec<u8>>,
    /// Where the client came over TLS.
    pub tls: Option<ProxiedTls>,
}

/// Both ends of the connection that is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxiedAddresses {
    /// The client.
    pub source: SocketAddr,
    /// What it connected to.
    pub destination: SocketAddr,
}

/// What the proxy saw of the client's TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxiedTls {
    /// `TLSv1.2`, `TLSv1.3`.
    pub version: Option<String>,
    /// Common name of the client's certificate.
    pub common_name: Option<String>,
    /// What the client showed.
    pub certificate: ProxiedCertificate,
}

/// What the client showed of itself to the proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxiedCertificate {
    /// Nothing.
    #[default]
    Absent,
    /// A certificate that the proxy verified.
    Verified,
    /// A certificate that the proxy did not find good.
    Refused,
}

/// Why a connection did not begin with a PROXY header that counts. Each time the doing of whoever connected.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// It came from outside of the networks that may send one.
    #[error("{0} may not send a PROXY header")]
    NotTrusted(IpAddr),
    /// What came is no PROXY header, or one that contradicts itself.
    #[error("the PROXY header is malformed: {0}")]
    Malformed(&'static str),
    /// The connection ended before the header did.
    #[error("the connection ended before its PROXY header")]
    Ended,
    /// The connection broke.
    #[error("the connection broke before its PROXY header")]
    Io(#[source] io::Error),
}

/// Bytes of the longest header that is taken. Room for names and ids; certificates as TLVs have no place in it.
const LONGEST: usize = 4096;

/// Which version to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderVersion {
    /// One line: addresses only.
    V1,
    /// Binary: all that [`Header`] holds.
    V2,
}

impl Header {
    /// Reads the header at the front of `bytes`, and how long it is. `None` while it is not whole.
    ///
    /// # Errors
    /// As soon as it can be seen that no header, or a contradictory or overlong one, is coming.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, HeaderError> {
        let parsed = match bytes.first() {
            None => return Ok(None),
            // Version 2 begins with an end of line, so one byte tells which it is.
            Some(b'P') => v1::parse(bytes),
            Some(_) => v2::parse(bytes),
        };
        parsed.map_err(HeaderError::Malformed)
    }

    /// The header as it goes out.
    #[must_use]
    pub fn encode(&self, version: HeaderVersion) -> Vec<u8> {
        match version {
            HeaderVersion::V1 => v1::encode(self.endpoints),
            HeaderVersion::V2 => v2::encode(self),
        }
    }
}

/// Reads the header that a connection has to begin with, and not a byte more.
///
/// Nothing is read from somebody outside of `trusted`: an empty list believes nobody. How long it may take is the
/// caller's. Not cancel safe: a connection whose header was not read to its end is of no use any more.
///
/// # Errors
/// When no good header came, with whose doing it was.
pub async fn read_header(
    stream: &mut TcpStream,
    from: IpAddr,
    trusted: &[Network],
) -> Result<Header, HeaderError> {
    if !trusted.iter().any(|network| network.contains(from)) {
        return Err(HeaderError::NotTrusted(from));
    }
    let mut have = Vec::new();
    // What the smallest segment of TCP carries (RFC 1122, 4.2.2.6): a header mostly comes in one.
    let mut window = [0; 536];
    loop {
        // Looked at before it is taken: what is behind the header is the client's.
        let n = stream.peek(&mut window).await.map_err(HeaderError::Io)?;
        if n == 0 {
            return Err(HeaderError::Ended);
        }
        let before = have.len();
        have.extend_from_slice(&window[..n]);
        // What is kept has a bound: a header that is, or claims to be, longer than any is refused here.
        let parsed = Header::parse(&have)?;
        let take = parsed.as_ref().map_or(n, |(_, len)| len - before);
        // It does not wait: all of this was seen a moment ago.
        stream.read_exact(&mut window[..take]).await.map_err(HeaderError::Io)?;
        if let Some((header, _)) = parsed {
            return Ok(header);
        }
    }
}

/// The same over a stream that cannot be looked into, from somebody who was let in for it by other means: a process that
/// may write to a Unix socket. Takes one byte at a time where it cannot know that more belongs to the header.
///
/// # Errors
/// When no good header came.
pub async fn read_header_of<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Header, HeaderError> {
    let mut have = Vec::new();
    let mut window = [0; LONGEST];
    loop {
        let wanted = least_missing(&have).clamp(1, window.len());
        let n = stream.read(&mut window[..wanted]).await.map_err(HeaderError::Io)?;
        if n == 0 {
            return Err(HeaderError::Ended);
        }
        have.extend_from_slice(&window[..n]);
        if let Some((header, _)) = Header::parse(&have)? {
            return Ok(header);
        }
    }
}

/// How many bytes more every header has that begins like this and is not whole.
fn least_missing(have: &[u8]) -> usize {
    match have.first() {
        Some(b'P') => v1::SHORTEST.saturating_sub(have.len()),
        Some(_) => v2::len(have).unwrap_or(v2::FIXED).saturating_sub(have.len()),
        None => v1::SHORTEST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn not_a_byte_behind_a_header_is_taken() {
        let endpoints = |text: &str| {
            let address = text.parse().unwrap();
            Some(ProxiedAddresses { source: address, destination: address })
        };
        let headers = [
            Header::default(),
            Header { endpoints: endpoints("192.0.2.1:1"), ..Header::default() },
            Header {
                endpoints: endpoints("[2001:db8::1]:65535"),
                unique_id: Some(vec![7; 128]),
                ..Header::default()
            },
        ];
        for (header, version) in
            headers.iter().flat_map(|header| [(header, HeaderVersion::V1), (header, HeaderVersion::V2)])
        {
            let encoded = header.encode(version);
            let sent = [&encoded[..], b"\x10\x10"].concat();
            // At once, and byte by byte.
            for pipe in [1024, 1] {
                let (mut near, mut far) = tokio::io::duplex(pipe);
                let bytes = sent.clone();
                let sending = tokio::spawn(async move {
                    tokio::io::AsyncWriteExt::write_all(&mut near, &bytes).await.unwrap();
                });
                let read = read_header_of(&mut far).await.unwrap();
                assert_eq!(read.endpoints, header.endpoints);
                let mut rest = Vec::new();
                far.read_to_end(&mut rest).await.unwrap();
                assert_eq!(rest, b"\x10\x10");
                sending.await.unwrap();
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_header_ends_at_its_first_bytes() {
        for bytes in [&b"\x10\x0c\0\x04MQTT"[..], b"PORXY", b""] {
            let error = read_header_of(&mut &*bytes).await.unwrap_err();
            assert!(matches!(error, HeaderError::Malformed(_) | HeaderError::Ended), "{error:?}");
        }
    }
}
