//! TLS between our two sides, and between each of them and rustls as others set it up.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod authority;
// The very file of the testkit: the rest of that one needs a gRPC service and a broker, which a test of TLS does without.
#[path = "../../../mproxy-testkit/src/certificates.rs"]
#[expect(dead_code, unreachable_pub, reason = "part of a library, of which these tests take some")]
mod certificates;
mod handshake;
mod idle;
mod others;
mod pins;
mod reload;
mod stream;
