//! `mproxy demo`: everything on one machine with nothing else installed. An embedded broker, mproxy before it, example
//! rules, and a page of what to type next.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context as _;
use mqtt5::broker::config::{AuthConfig, BrokerConfig, RateLimitConfig, StorageConfig};
use mqtt5::broker::{BrokerShutdownHandle, MqttBroker};

/// The rules of the demo, shown to its user as they stand here.
pub const RULES: &str = include_str!("../../../deploy/demo-rules.toml");

/// The broker of the demo. Ends when dropped.
pub struct DemoBroker {
    address: SocketAddr,
    stop: BrokerShutdownHandle,
    running: tokio::task::JoinHandle<()>,
}

impl DemoBroker {
    /// Starts a broker on a free port of this machine that keeps nothing and lets everybody in.
    ///
    /// # Errors
    /// Where no port can be bound.
    pub async fn start() -> anyhow::Result<Self> {
        let config = BrokerConfig::new()
            .with_bind_address((Ipv4Addr::LOCALHOST, 0))
            .with_storage(StorageConfig::new().with_persistence(false))
            // It counts attempts by address, and sees mproxy's alone: its limit would be one for all clients
            // together.
            .with_auth(AuthConfig {
                rate_limit: RateLimitConfig { enabled: false, ..RateLimitConfig::default() },
                ..AuthConfig::new().with_allow_anonymous(true)
            });
        let mut broker = MqttBroker::with_config(config).await.context("the embedded broker")?;
        let address = broker.local_addr().context("the embedded broker has no address")?;
        let stop = broker.shutdown_handle();
        let running = tokio::spawn(async move {
            if let Err(error) = broker.run().await {
                tracing::error!(%error, "embedded broker stopped");
            }
        });
        Ok(Self { address, stop, running })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it.
    pub async fn end(self) {
        self.stop.shutdown();
        // It ends by itself; its task is only waited for.
        let _ = self.running.await;
    }
}

/// What to type next, and what it will show.
#[must_use]
pub fn page(mqtt: SocketAddr, admin: SocketAddr, broker: SocketAddr) -> String {
    let (host, port) = (mqtt.ip(), mqtt.port());
    let host = if host.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { host };
    let mut page = String::new();
    let mut say = |line: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(page, "{line}");
    };
    say("");
    say(&format!("mproxy demo: clients -> mproxy {host}:{port} -> embedded broker {broker}"));
    say("");
    say("The rules:");
    for line in RULES.lines().filter(|line| !line.starts_with('#')) {
        say(&format!("    {line}"));
    }
    say("");
    say("Type in another terminal (mosquitto_sub and mosquitto_pub come with mosquitto-clients):");
    let alice = format!("-h {host} -p {port} -V 5 -u alice -P wonderland");
    let mut step = |command: String, shows: &str| {
        say("");
        say(&format!("  {command}"));
        say(&format!("      {shows}"));
    };
    step(
        format!("mosquitto_sub {alice} -i desk -t 'demo/#' -v"),
        "leave it running: it prints each message that arrives",
    );
    step(
        format!("mosquitto_pub {alice} -i lamp -q 1 -t demo/light -m on"),
        "allowed: the subscriber prints `demo/light on`",
    );
    step(
        format!("mosquitto_pub {alice} -i lamp -q 1 -t secret/light -m on"),
        "refused with PUBACK 0x87: `Publish 1 failed: Not authorized.`, and the connection stays open",
    );
    step(
        format!("mosquitto_sub {alice} -i desk2 -t secret/light -W 2"),
        "refused with SUBACK 0x87: `All subscription requests were denied.`",
    );
    step(
        format!("mosquitto_pub -h {host} -p {port} -V 5 -u alice -P wrong -t demo/light -m on"),
        "refused with CONNACK 0x86: `Connection error: Bad User Name or Password`; the broker never saw it",
    );
    step(
        format!("mosquitto_pub -h {host} -p {port} -V 311 -u alice -P wonderland -q 1 -t secret/light -m on"),
        "MQTT 3.1.1 has no code for this: acknowledged and dropped",
    );
    step(format!("curl -s http://{admin}/api/v1/sessions"), "who is connected");
    step(
        format!("curl -s http://{admin}/metrics | grep decisions"),
        "how many decisions there were, by whom, with which outcome",
    );
    say("");
    say("Ctrl-C ends it.");
    page
}
