//! Who comes in and how: enhanced authentication, and the bounds that a listener sets.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use mproxy_testkit::broker::{Acks, BrokerScript, ConnectReply, RecordingBroker};
use mproxy_testkit::mosquitto::Mosquitto;
use mproxy_testkit::service::Running;
use mproxy_testkit::tap::Tap;
use mproxy_testkit::wire::{self, ConnectOptions, Version, WireClient, packets};
use support::Proxy;
use support::judge::refuses_as_told;

/// Authentication Method (3.1.2.11.9).
fn method(name: &str) -> Vec<u8> {
    [&[0x15][..], &wire::string(name)].concat()
}

#[tokio::test]
async fn a_method_of_authentication_passes_or_is_refused() {
    let script = BrokerScript { connack: ConnectReply::Never, acks: Acks::ByHand };
    let (mut broker, judge) = (RecordingBroker::start(script).await, Running::start(refuses_as_told()).await);
    let proxy = Proxy::asking(&judge, broker.addr(), &[]).await;

    let theirs = method("theirs");
    let options = ConnectOptions { properties: &theirs, ..ConnectOptions::default() };
    let (mut client, connack) = proxy.connect(Version::V5, "c", &options).await;
    assert_eq!(connack, wire::connack(Version::V5, false, 0x8C, &[]));
    client.expect_closed().await;
    drop(client);
    assert!(broker.try_session().is_none());

    let ours = method("ours");
    let options = ConnectOptions { properties: &ours, ..ConnectOptions::default() };
    let connect = wire::connect(Version::V5, "c", &options);
    let mut client = WireClient::open(proxy.mqtt).await;
    client.send(&connect).await;
    let mut behind = broker.session().await;
    assert_eq!(behind.packets(1).await, [connect]);
    // Twice to and fro before the CONNACK, and once more in the open session (4.12.1).
    let (goes_on, again) = (wire::auth(0x18, &ours), wire::auth(0x19, &ours));
    for turn in 1..=2 {
        behind.send(goes_on.clone()).await;
        client.expect(&goes_on).await;
        client.send(&goes_on).await;
        assert_eq!(behind.packets(1 + turn).await[turn], goes_on);
    }
    let connack = wire::connack(Version::V5, false, 0, &ours);
    behind.send(connack.clone()).await;
    client.expect(&connack).await;
    client.send(&again).await;
    assert_eq!(behind.packets(4).await[3], again);
    let done = wire::auth(0, &ours);
    behind.send(done.clone()).await;
    client.expect(&done).await;
    drop(client);
    behind.end().await;
    proxy.stop().await;
}

#[tokio::test]
async fn a_longer_keep_alive_or_session_than_is_allowed_is_cut_and_told_or_refused() {
    let broker = Mosquitto::start().await;
    let mut tap = Tap::start(broker.addr(), 9).await;
    let caps = [("MPROXY_MAX_KEEP_ALIVE", "60"), ("MPROXY_MAX_SESSION_EXPIRY", "120")];
    let proxy = Proxy::with(tap.addr(), &caps).await;
    // Session Expiry Interval (3.1.2.11.2) and Server Keep Alive (3.2.2.3.14).
    let (expiry, told) = (|seconds| [0x11, 0, 0, 0, seconds], [0x13, 0, 60]);
    for (keep_alive, seconds, cut) in [(60, 120, false), (61, 121, true), (0, 255, true)] {
        let asked = expiry(seconds);
        let options = ConnectOptions { keep_alive, properties: &asked, ..ConnectOptions::default() };
        let (mut client, connack) = proxy.connect(Version::V5, "c", &options).await;
        let holds = |part: &[u8]| connack.windows(part.len()).any(|window| window == part);
        assert_eq!((holds(&told), holds(&expiry(120))), (cut, cut), "{connack:02x?}");
        client.send(&wire::disconnect()).await;
        client.expect_closed().await;
        let at_broker = expiry(120);
        let options = ConnectOptions { keep_alive: 60, properties: &at_broker, ..ConnectOptions::default() };
        assert_eq!(packets(&tap.recording().await.up)[0], wire::connect(Version::V5, "c", &options));
    }
    for version in [Version::V31, Version::V311] {
        for (keep_alive, code) in [(60, 0), (61, 2), (0, 2)] {
            let options = ConnectOptions { keep_alive, ..ConnectOptions::default() };
            let (mut client, connack) = proxy.connect(version, "c", &options).await;
            assert_eq!(connack, wire::connack(version, false, code, &[]), "{version:?} {keep_alive}");
            client.send(&wire::disconnect()).await;
            client.expect_closed().await;
        }
    }
    proxy.stop().await;
}
