//! The WebSocket transport: turns one HTTP upgrade into a byte stream. It knows neither MQTT nor who may come in, and
//! never opens a socket itself: it works over any stream, so `wss` is TLS first and this afterwards.
//!
//! | room | holds |
//! |---|---|
//! | [`upgrade`] | the handshake of either side: path, subprotocols, origins, the headers for the policy |
//! | [`stream`] | binary messages as one byte stream, whatever way the frames cut the packets |
//! | [`frame`] | a frame's head, what may not be in it, the mask |
//! | `inbound`, `outbound` | frames to payload and back, without keeping either |
//! | `short` | a few bytes kept in place |
//! | `random` | masks and keys |
//!
//! ```
//! use mproxy_ws::upgrade::{Ask, UpgradeTerms, accept, connect};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (here, there) = tokio::io::duplex(1024);
//! let terms = UpgradeTerms::new("/mqtt", ["mqtt", "mqttv3.1"]);
//! let ask = Ask { host: "broker.example", path: "/mqtt", protocol: "mqtt" };
//! let (server, client) = tokio::join!(accept(here, &terms), connect(there, &ask));
//! let ((mut server, request), mut client) = (server?, client?);
//! assert_eq!(request.host, "broker.example");
//!
//! client.write_all(b"bytes").await?;
//! let mut came = [0; 5];
//! server.read_exact(&mut came).await?;
//! assert_eq!(&came, b"bytes");
//! # Ok(())
//! # }
//! ```

// What comes from the network is neither cut to size nor looked up unchecked.
#![warn(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::indexing_slicing,
    clippy::string_slice
)]

pub mod frame;
mod inbound;
mod outbound;
mod random;
mod short;
pub mod stream;
pub mod upgrade;

pub use frame::{Role, Violation};
pub use stream::WsStream;
