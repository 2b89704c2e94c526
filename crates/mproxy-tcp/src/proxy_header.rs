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
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::networks::Network;

/// What a PROXY header says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// `None` where it speaks of no client (`LOCAL`, `UNKNOWN`, as health checks do): the connection's own addresses
    /// hold.
    pub endpoints: Option<Endpoints>,
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
pub struct Endpoints {
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
    let mut window = [0; 536];
    loop {
        // Looked at before it is taken: what is behind the header is the client's.
        let n = stream.peek(&mut window).await.map_err(HeaderError::Io)?;
        if n == 0 {
            return Err(HeaderError::Ended);
        }
        let before = have.len();
        have.extend_from_slice(&window[..n]);
        let parsed = Header::parse(&have)?;
        let take = parsed.as_ref().map_or(n, |(_, len)| len - before);
        stream.read_exact(&mut window[..take]).await.map_err(HeaderError::Io)?;
        if let Some((header, _)) = parsed {
            return Ok(header);
        }
    }
}
