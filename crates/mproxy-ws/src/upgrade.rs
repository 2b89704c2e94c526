//! The handshake of either side (RFC 6455, 4). Headers are bounded; how long it may take is the caller's: dropping a
//! handshake that stalls drops the connection and nothing else.
//!
//! | room | holds |
//! |---|---|
//! | `server` | [`accept`]: what is asked for is checked against [`UpgradeTerms`] |
//! | `client` | [`connect`]: asks, and checks the answer |

mod client;
mod server;

pub use client::{Ask, ConnectError, connect};
pub use server::{AcceptError, UpgradeRefusal, UpgradeRequest, UpgradeTerms, accept};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, header};

/// Bytes of all headers of one side. Cookies and tokens have room; what is longer is refused before it is kept.
const HEADER_BYTES: usize = 16 << 10;

/// What is agreed on beside WebSocket itself: the version of RFC 6455.
const VERSION: &str = "13";

/// What a server has to make of a key (RFC 6455, 4.2.2).
fn accept_key(key: &[u8]) -> String {
    // SHA-1 and this text are the protocol's own (RFC 6455, 1.3). They show that the peer speaks WebSocket, and
    // protect nothing.
    let mut sha1 = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    sha1.update(key);
    sha1.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(sha1.finish())
}

/// The members of a comma separated header, over all its lines.
fn members<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    // Several lines of one header are one list, and empty members are to be ignored (RFC 7230, 3.2.2 and 7).
    let lines = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|member| !member.is_empty())
}

/// Whether this is a step from HTTP to WebSocket.
fn is_upgrade(headers: &HeaderMap) -> bool {
    let has = |name, token: &str| members(headers, &name).any(|member| member.eq_ignore_ascii_case(token));
    has(header::CONNECTION, "upgrade") && has(header::UPGRADE, "websocket")
}

/// The only value of a header; `None` where it is absent, repeated or not text.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut all = headers.get_all(name).into_iter();
    match (all.next(), all.next()) {
        (Some(value), None) => value.to_str().ok().map(str::trim),
        // What is no list may stand once (RFC 7230, 3.2.2). Of two values, a gateway before us may have gone by the
        // other one.
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_key_is_accepted_as_the_standard_shows() {
        assert_eq!(super::accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
