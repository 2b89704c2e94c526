//! The last words of a client and what a real broker answers to them.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use mproxy_testkit::mosquitto::Mosquitto;
use mproxy_testkit::wire::{self, ConnectOptions, Publish, Version, Will, WireClient};
use support::{Proxy, VERSIONS};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

fn publish(version: Version, qos: u8) -> Vec<u8> {
    let message =
        Publish { topic: "last", payload: b"word", qos, packet_id: qos.into(), ..Publish::default() };
    wire::publish(version, &message)
}

/// Mosquitto's PUBACK to the first of them: nobody is subscribed.
fn puback(version: Version) -> Vec<u8> {
    if version == Version::V5 { wire::packet(0x40, &[0, 1, 0x10]) } else { wire::puback(1) }
}

/// What comes after `sent`, in one write behind CONNECT and CONNACK, until the connection is closed.
async fn answers(proxy: &Proxy, version: Version, id: &str, sent: &[u8], half_closes: bool) -> Vec<u8> {
    let mut client = WireClient::login(proxy.mqtt, version, id).await;
    client.send(sent).await;
    let mut stream = client.into_inner();
    if half_closes {
        stream.shutdown().await.unwrap();
    }
    WireClient::over(stream).rest().await
}

#[tokio::test]
async fn what_the_broker_answers_to_last_words_arrives() {
    let broker = Mosquitto::start().await;
    let proxy = Proxy::before(broker.addr()).await;
    for version in VERSIONS {
        for round in 0..10 {
            let sent = [publish(version, 1), publish(version, 2), wire::disconnect()].concat();
            let heard = answers(&proxy, version, &format!("left-{round}"), &sent, false).await;
            assert_eq!(heard, [puback(version), wire::pubrec(2)].concat());
            // Without DISCONNECT, but with the end of its half.
            let sent = [wire::subscribe(version, 3, &[("other", 0)]), publish(version, 1)].concat();
            let heard = answers(&proxy, version, &format!("half-{round}"), &sent, true).await;
            assert_eq!(heard, [wire::suback(version, 3, &[0]), puback(version)].concat());
        }
    }
}

#[tokio::test]
async fn a_half_close_without_disconnect_lets_the_will_fire() {
    let broker = Mosquitto::start().await;
    let proxy = Proxy::before(broker.addr()).await;
    for version in VERSIONS {
        let mut watcher = WireClient::login(broker.addr(), version, "watcher").await;
        watcher.send(&wire::subscribe(version, 1, &[("gone", 0)])).await;
        watcher.expect(&wire::suback(version, 1, &[0])).await;
        let mut stream = TcpStream::connect(proxy.mqtt).await.unwrap();
        let will = Some(Will { topic: "gone", ..Will::default() });
        let connect =
            wire::connect(version, "willing", &ConnectOptions { will, ..ConnectOptions::default() });
        stream.write_all(&connect).await.unwrap();
        let mut client = WireClient::over(stream);
        client.packet().await;
        let mut stream = client.into_inner();
        stream.shutdown().await.unwrap();
        watcher.expect(&wire::publish(version, &Publish { topic: "gone", ..Publish::default() })).await;
        assert_eq!(WireClient::over(stream).rest().await, b"");
    }
}
