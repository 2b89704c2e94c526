//! Scripted peers and real processes for the tests of mproxy. Never ships.
//!
//! | room | holds |
//! |---|---|
//! | [`wire`] | a client on a raw socket, and the packets built by hand of `mproxy-sim` |
//! | [`broker`] | a stand-in broker that records every byte and answers as its script says |
//! | [`transports`] | the same client over TLS, WebSocket, both, and Unix sockets |
//! | [`certificates`] | authorities, what they sign and take back |
//! | [`black_hole`] | a wire that can swallow everything |
//! | [`tap`] | a wire that remembers what passes over it |
//! | [`tokens`] | tokens (JWT), right and wrong, with their keys |
//! | [`embedded`] | a real broker inside the test |
//! | [`mosquitto`] | a real broker and real clients as processes |
//! | [`haproxy`] | what stands in front of mproxy, as a process |
//! | [`hook`] | `mproxy` itself and the example hook service as processes |
//! | [`service`] | a hook service inside the test, that answers as it is told |
//! | [`json_service`] | the same with JSON over HTTP/1.1, and with bytes that are no HTTP |
//! | [`commanding`] | a hook service inside the test that grants, and takes back |
//! | [`browser`] | a page in a real browser, as its user sees and steers it |
//! | [`foreign`] | clients in other languages, installed when they are needed |
//! | [`refusals`] | what a refusal looks like, packet by packet; of `mproxy-sim`, too |
//! | [`process`] | a child process with its log, that ends with the test |
//!
//! What is given here fails loudly: a helper that cannot do its job panics and says why, for a test has nothing
//! better to do. Every wait has a deadline ([`PATIENCE`]).
//!
//! ```
//! use mproxy_testkit::{broker::{BrokerScript, RecordingBroker}, wire::{Publish, Version, WireClient, publish}};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let mut broker = RecordingBroker::start(BrokerScript::default()).await;
//! let mut client = WireClient::login(broker.addr(), Version::V5, "thermometer").await;
//! let reading = publish(Version::V5, &Publish { topic: "room/1", payload: b"21", ..Publish::default() });
//! client.send(&reading).await;
//! let mut session = broker.session().await;
//! assert_eq!(session.packets(2).await[1], reading);
//! # }
//! ```

pub mod black_hole;
pub mod broker;
pub mod browser;
pub mod certificates;
pub mod commanding;
pub mod embedded;
pub mod foreign;
pub mod haproxy;
pub mod hook;
pub mod json_service;
pub mod mosquitto;
pub mod process;
pub mod service;
pub mod tap;
pub mod tokens;
pub mod transports;
pub mod wire;

pub use mproxy_sim::refusals;

/// How long a helper waits before it gives up: far more than a loaded machine needs, far less than a CI job.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);
