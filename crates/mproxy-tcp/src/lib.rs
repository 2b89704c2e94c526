//! The TCP transport: turns listening and dialling into prepared byte streams. It knows neither MQTT nor who may
//! come in.
//!
//! | room | holds |
//! |---|---|
//! | [`listen`] | a [`Listener`] that outlives every hiccup of `accept` |
//! | [`dial`](mod@dial) | [`dial()`]: name to address to stream, within one deadline |
//! | [`socket`] | the options every stream gets, and the way to cut one off |
//! | [`tls`] | TLS on either side, what it tells of the client, and new certificates under running connections |
//! | [`proxy_header`] | the PROXY protocol, read and written |
//! | [`networks`] | who is believed when it sends one |
//! | `resolve` | host names to addresses; a literal address never waits |
//!
//! ```
//! use mproxy_tcp::{Incoming, LastGood, ListenOptions, Listener, SocketOptions, dial};
//! use std::time::Duration;
//! use tokio::time::Instant;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut listener = Listener::bind("127.0.0.1", 0, ListenOptions::default()).await?;
//! let port = listener.local_addr().port();
//! let deadline = Instant::now() + Duration::from_secs(5);
//! let dialled = dial("127.0.0.1", port, &SocketOptions::default(), &LastGood::default(), deadline).await?;
//! let Incoming::Connection(accepted) = listener.accept().await else { panic!("nobody came") };
//! assert_eq!(accepted.remote, dialled.local_addr()?);
//! # Ok(())
//! # }
//! ```

pub mod dial;
pub mod listen;
pub mod networks;
pub mod proxy_header;
mod resolve;
pub mod socket;
pub mod tls;

pub use dial::{DialError, LastGood, dial};
pub use listen::{Accepted, Incoming, ListenError, ListenOptions, Listener};
pub use socket::{SocketOptions, set_linger_zero};
