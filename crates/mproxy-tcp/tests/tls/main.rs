//! TLS between our two sides, and between each of them and rustls as others set it up.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod authority;
mod handshake;
mod idle;
mod others;
mod pins;
mod reload;
mod stream;
