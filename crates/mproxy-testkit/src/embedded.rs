//! A real broker inside the test: 3.1.1 and 5.0 (it closes on 3.1), everybody allowed, nothing kept on disk.
//!
//! No judge of byte identity: it adds user properties of its own (`x-mqtt-sender`, `x-mqtt-client-id`) to what a
//! 5.0 client receives. That is [`broker`](crate::broker)'s work.

use mqtt5::broker::{
    BrokerConfig, MqttBroker,
    config::{AuthConfig, RateLimitConfig, StorageConfig},
};
use std::net::{Ipv4Addr, SocketAddr};
use tokio::task::JoinHandle;

/// The running broker; it ends when this is dropped.
#[derive(Debug)]
pub struct EmbeddedBroker {
    addr: SocketAddr,
    running: JoinHandle<()>,
}

impl EmbeddedBroker {
    /// Starts it on a free port of 127.0.0.1.
    pub async fn start() -> Self {
        let config = BrokerConfig::new()
            .with_bind_address((Ipv4Addr::LOCALHOST, 0))
            // Its defaults write a folder into the working directory, and shut an address out after five refusals.
            .with_storage(StorageConfig::new().with_persistence(false))
            .with_auth(AuthConfig {
                rate_limit: RateLimitConfig { enabled: false, ..RateLimitConfig::default() },
                ..AuthConfig::new().with_allow_anonymous(true)
            });
        let mut broker =
            MqttBroker::with_config(config).await.unwrap_or_else(|error| panic!("no broker: {error}"));
        let addr = broker.local_addr().unwrap_or_else(|| panic!("the broker is bound nowhere"));
        // Bound by now: who connects before it runs waits in the kernel's queue.
        let running = tokio::spawn(async move {
            let ended = broker.run().await;
            ended.unwrap_or_else(|error| panic!("the embedded broker failed: {error}"));
        });
        Self { addr, running }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for EmbeddedBroker {
    fn drop(&mut self) {
        // Ends its own tasks when its `run` is dropped.
        self.running.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Publish, Version, WireClient, publish, subscribe};

    #[tokio::test]
    async fn a_message_finds_its_subscriber() {
        let broker = EmbeddedBroker::start().await;
        for version in [Version::V311, Version::V5] {
            let mut client = WireClient::login(broker.addr(), version, "both-ways").await;
            client.send(&subscribe(version, 1, &[("a/+", 0)])).await;
            assert_eq!(client.packet().await[0], 0x90, "SUBACK");
            let message =
                publish(version, &Publish { topic: "a/b", payload: b"hello", ..Publish::default() });
            client.send(&message).await;
            let delivered = client.packet().await;
            assert!(delivered[2..].starts_with(b"\0\x03a/b"), "{delivered:02x?}");
            assert!(delivered.ends_with(b"hello"), "{delivered:02x?}");
        }
    }
}
