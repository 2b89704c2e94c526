//! Any crossing: over TCP, TLS, WebSocket, WebSocket over TLS and a Unix socket in, and over each of them out to a
//! mosquitto, messages of every QoS and size arrive as they were sent, there and back.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use mproxy_core::peer::Address;
use mproxy_testkit::certificates::{Authority, Folder};
use mproxy_testkit::mosquitto::{Mosquitto, MosquittoOptions, TlsFiles};
use mproxy_testkit::transports::{TRANSPORTS, TlsClient, Transport, login, scheme};
use mproxy_testkit::wire::{self, Publish, Version, WireClient};
use support::{Proxy, VERSIONS};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

/// One byte; both sides of where WebSocket lengths grow, and packets no longer fit a buffer.
const SIZES: [usize; 4] = [1, 125, 65_536, 300_001];

/// What is sent once over each crossing.
const LARGEST: usize = 16 << 20;

/// The same where one side is a Unix socket: more than it holds, and not so much that a busy machine takes too long.
const LARGE: usize = 2 << 20;

/// A client that is its own reader.
struct Echo<S> {
    client: WireClient<S>,
    version: Version,
    topic: String,
    /// Deliveries that had a packet identifier; mosquitto counts them.
    delivered: u16,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Echo<S> {
    async fn subscribed(mut client: WireClient<S>, version: Version, topic: String) -> Self {
        client.send(&wire::subscribe(version, 1, &[(&topic, 2)])).await;
        client.expect(&wire::suback(version, 1, &[2])).await;
        Self { client, version, topic, delivered: 0 }
    }

    /// Publishes, plays both flows to their ends, and compares.
    async fn send(&mut self, qos: u8, payload: &[u8]) {
        let mut message = Publish { topic: &self.topic, payload, qos, packet_id: 7, ..Publish::default() };
        if qos == 0 {
            message.packet_id = 0;
        }
        self.client.send(&wire::publish(self.version, &message)).await;
        if qos > 0 {
            self.delivered += 1;
            message.packet_id = self.delivered;
        }
        let expected = wire::publish(self.version, &message);
        let id = self.delivered;
        // Of each flow the packets that end it.
        let (mut sent, mut came, mut released) = (qos == 0, false, qos < 2);
        while !(sent && came && released) {
            let packet = self.client.packet().await;
            match packet[0] >> 4 {
                3 => {
                    assert!(packet == expected, "{}: QoS {qos}, {} bytes", self.topic, payload.len());
                    came = true;
                    match qos {
                        0 => {}
                        1 => self.client.send(&wire::puback(id)).await,
                        _ => self.client.send(&wire::pubrec(id)).await,
                    }
                }
                4 | 7 => sent = true,
                5 => self.client.send(&wire::pubrel(7)).await,
                6 => {
                    self.client.send(&wire::pubcomp(id)).await;
                    released = true;
                }
                _ => panic!("{}: {packet:02x?}", self.topic),
            }
        }
    }
}

/// All that is sent over one crossing in one version; all of `payload` where `largest` says with which QoS.
async fn cross<S: AsyncRead + AsyncWrite + Unpin>(
    client: WireClient<S>,
    version: Version,
    topic: String,
    payload: &[u8],
    largest: Option<u8>,
) {
    let mut echo = Echo::subscribed(client, version, topic).await;
    for qos in [0, 1, 2] {
        for size in SIZES {
            echo.send(qos, &payload[..size]).await;
        }
    }
    if let Some(qos) = largest {
        echo.send(qos, payload).await;
    }
}

#[tokio::test]
async fn whatever_way_in_and_whatever_way_out_every_message_arrives_as_it_was_sent() {
    let (root, folder) = (Authority::root("root"), Folder::default());
    let ca = folder.write("ca.crt", root.pem());
    let (cert, key) = folder.keep("localhost", &root.sign("localhost"));
    let (device_cert, device_key) = folder.keep("mproxy", &root.sign("mproxy"));
    let socket = folder.file("mosquitto.sock");
    let options = MosquittoOptions {
        websockets: true,
        extra: vec![format!("listener 0 {}", socket.display())],
        tls: Some(TlsFiles { ca: ca.clone(), cert: cert.clone(), key: key.clone() }),
        ..MosquittoOptions::default()
    };
    let broker = Mosquitto::start_with(options).await;
    broker.hurry().await;
    let with_tls = broker.tls_addrs();
    let to = |transport: Transport, addr: SocketAddr| {
        format!("scheme = \"{}\", host = \"localhost\", port = {}", scheme(transport), addr.port())
    };
    let outs = [
        ("tcp", to(Transport::Tcp, broker.addr())),
        ("tls", to(Transport::Tls, with_tls.tls)),
        ("mutual", to(Transport::Tls, with_tls.mutual)),
        ("ws", to(Transport::Ws, broker.websocket_addr())),
        ("wss", to(Transport::Wss, with_tls.wss)),
        ("unix", format!("socket = {socket:?}")),
    ];
    let mut file = format!(
        "tls = {{ server_cert = {cert:?}, server_key = {key:?} }}\n\
         target = {{ ca_certs = {ca:?}, cert = {device_cert:?}, key = {device_key:?} }}\n"
    );
    let own = |out: &str| folder.file(&format!("mproxy-{out}.sock"));
    for (out, target) in &outs {
        for transport in TRANSPORTS {
            let (inward, path) = (scheme(transport), own(out));
            let place = match transport {
                Transport::Unix => format!("unix.path = {path:?}"),
                _ => "host = \"127.0.0.1\"\nport = 0".to_owned(),
            };
            let _ = write!(
                file,
                "[[listeners]]\nname = \"{inward}-{out}\"\ntransport = \"{inward}\"\n{place}\n\
                 target = {{ {target} }}\n"
            );
        }
    }
    let mut proxy = Proxy::configured("mqtt-tcp", &file).await;
    let tls = TlsClient::believing(root.pem());
    let payload: Arc<[u8]> = (0..LARGEST as u32).map(|n| (n % 251) as u8).collect();
    let mut crossings = JoinSet::new();
    // With each QoS over some crossing, in each version.
    let largest = |number: usize, version| (version == VERSIONS[number % 2]).then_some((number % 3) as u8);
    for (out, _) in &outs {
        for (number, transport) in TRANSPORTS.into_iter().enumerate() {
            let name = format!("{}-{out}", scheme(transport));
            let place = match transport {
                Transport::Unix => Address::Path(own(out).into()),
                _ => proxy.door(&name).await.into(),
            };
            let (tls, payload) = (tls.clone(), Arc::clone(&payload));
            let size = if *out == "unix" || transport == Transport::Unix { LARGE } else { LARGEST };
            crossings.spawn(async move {
                for version in VERSIONS {
                    let topic = format!("{name}/{version:?}");
                    let client = login(transport, place.clone(), &tls, version, &topic).await;
                    cross(client, version, topic, &payload[..size], largest(number, version)).await;
                }
            });
        }
    }
    while let Some(crossed) = crossings.join_next().await {
        crossed.unwrap();
    }
    proxy.stop().await;
}
