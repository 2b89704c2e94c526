//! The Unix socket transport: turns listening and dialling at a path into byte streams, and tells who the other process is.
//! It knows neither MQTT nor who may come in; file permissions say who can.
//!
//! | room | holds |
//! |---|---|
//! | [`listen`] | a [`Listener`] with the mode and owner of its file: what a dead process left is replaced, a live one's is not |
//! | [`dial`](mod@dial) | [`dial()`]: path to stream, and what to do where that fails |
//! | `names` | users and groups to numbers |
//!
//! ```
//! use mproxy_unix::{Incoming, Listener, SocketFile, dial};
//! use std::time::Duration;
//! use tokio::time::Instant;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = tempfile::tempdir()?;
//! let path = folder.path().join("mqtt.sock");
//! let mut listener = Listener::bind(&SocketFile::new(&path))?;
//! let _dialled = dial(&path, Instant::now() + Duration::from_secs(5)).await?;
//! let Incoming::Connection(accepted) = listener.accept().await else { panic!("nobody came") };
//! assert_eq!(accepted.peer.pid, Some(std::process::id()));
//! drop(listener);
//! assert!(!path.exists());
//! # Ok(())
//! # }
//! ```

#![cfg(unix)]

pub mod dial;
pub mod listen;
mod names;

pub use dial::{DialError, dial};
pub use listen::{Accepted, Incoming, ListenError, Listener, OwnFile, PeerProcess, SocketFile};

/// Bytes of the longest path that the kernel takes; there is one more for the zero at its end.
pub const LONGEST_PATH: usize = 107;
