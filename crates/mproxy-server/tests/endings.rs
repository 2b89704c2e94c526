//! The last words of a client and what a real broker answers to them.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use futures_util::{SinkExt, StreamExt};
use mproxy_testkit::PATIENCE;
use mproxy_testkit::certificates::{Authority, Folder};
use mproxy_testkit::mosquitto::Mosquitto;
use mproxy_testkit::service::{Running, Service, wants_everything};
use mproxy_testkit::transports::TlsClient;
use mproxy_testkit::wire::{self, ConnectOptions, Publish, Version, Will, WireClient};
use support::{Proxy, VERSIONS};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::{WebSocketStream, client_async};

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

// ---- the other doors

/// A SUBSCRIBE and a PUBLISH, and what mosquitto answers to them.
fn last_words(version: Version) -> (Vec<u8>, Vec<u8>) {
    let sent = [wire::subscribe(version, 3, &[("other", 0)]), publish(version, 1)].concat();
    (sent, [wire::suback(version, 3, &[0]), puback(version)].concat())
}

fn a_connect(version: Version, id: &str) -> Vec<u8> {
    wire::connect(version, id, &ConnectOptions::default())
}

/// How a client ends its half of a TLS connection.
#[derive(Clone, Copy, Debug)]
enum TlsEnd {
    /// With close_notify, while its socket stays open.
    Notify,
    /// With close_notify and a FIN.
    NotifyAndFin,
    /// With a FIN alone, as devices do.
    Fin,
}

#[tokio::test]
async fn what_the_broker_answers_arrives_after_a_half_close_of_tls() {
    let (root, folder, broker) = (Authority::root("root"), Folder::default(), Mosquitto::start().await);
    let (cert, key) = folder.keep("localhost", &root.sign("localhost"));
    let file = format!(
        "[[listeners]]\nname = \"tls\"\ntransport = \"mqtts\"\nhost = \"127.0.0.1\"\nport = 0\n\
         tls = {{ server_cert = {cert:?}, server_key = {key:?} }}\n\
         target = {{ scheme = \"mqtt\", host = \"127.0.0.1\", port = {} }}\n",
        broker.addr().port()
    );
    let proxy = Proxy::configured("tls", &file).await;
    let tls = TlsClient::believing(root.pem());
    for version in VERSIONS {
        for end in [TlsEnd::Notify, TlsEnd::NotifyAndFin, TlsEnd::Fin] {
            for round in 0..5 {
                let stream = tls.shake(TcpStream::connect(proxy.mqtt).await.unwrap()).await.unwrap();
                let mut client = WireClient::over(stream);
                client.send(&a_connect(version, &format!("{end:?}-{round}"))).await;
                assert_eq!(client.packet().await[3], 0);
                let (sent, expected) = last_words(version);
                client.send(&sent).await;
                let mut stream = client.into_inner();
                match end {
                    TlsEnd::Notify => {
                        stream.get_mut().1.send_close_notify();
                        stream.flush().await.unwrap();
                    }
                    TlsEnd::NotifyAndFin => stream.shutdown().await.unwrap(),
                    TlsEnd::Fin => stream.get_mut().0.shutdown().await.unwrap(),
                }
                let mut heard = Vec::new();
                // In order, with a close_notify of mproxy's: without one this is an error.
                timeout(PATIENCE, stream.read_to_end(&mut heard)).await.unwrap().unwrap();
                assert_eq!(heard, expected, "{version:?} {end:?}");
            }
        }
    }
    proxy.stop().await;
}

type Socket = WebSocketStream<TcpStream>;

async fn upgraded(proxy: &Proxy) -> Socket {
    let mut request = format!("ws://{}/mqtt", proxy.mqtt).into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "mqtt".parse().unwrap());
    let stream = TcpStream::connect(proxy.mqtt).await.unwrap();
    timeout(PATIENCE, client_async(request, stream)).await.unwrap().unwrap().0
}

/// The next binary message.
async fn bytes(socket: &mut Socket) -> Vec<u8> {
    match timeout(PATIENCE, socket.next()).await.unwrap().unwrap().unwrap() {
        Message::Binary(bytes) => bytes.to_vec(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_the_broker_answers_arrives_after_a_half_close_below_websocket() {
    let broker = Mosquitto::start().await;
    let proxy = Proxy::websocket(broker.addr(), "").await;
    for version in VERSIONS {
        for round in 0..5 {
            let mut socket = upgraded(&proxy).await;
            socket.send(Message::Binary(a_connect(version, &format!("fin-{round}")).into())).await.unwrap();
            bytes(&mut socket).await;
            let (sent, expected) = last_words(version);
            socket.send(Message::Binary(sent.into())).await.unwrap();
            socket.get_mut().shutdown().await.unwrap();
            let mut heard = Vec::new();
            let close = loop {
                match timeout(PATIENCE, socket.next()).await.unwrap() {
                    Some(Ok(Message::Binary(bytes))) => heard.extend(bytes),
                    other => break other,
                }
            };
            assert_eq!(heard, expected, "{version:?}");
            assert!(matches!(close, Some(Ok(Message::Close(Some(_))))), "{close:?}");
        }
    }
    proxy.stop().await;
}

/// A Close frame closes both ways (RFC 6455, 5.5.1), as mosquitto has it: nothing comes behind the answer to it. But what
/// was said before it reaches the broker, and the broker's answers are accounted for.
#[tokio::test]
async fn what_came_before_a_close_frame_reaches_the_broker_and_is_told() {
    let judge = Running::start(Service { hello: Some(wants_everything()), ..Service::default() }).await;
    let broker = Mosquitto::start().await;
    let mut proxy = Proxy::websocket(broker.addr(), &format!("policy.url = \"{}\"", judge.url)).await;
    proxy.line(&["policy endpoint healthy"]).await;
    let mut watcher = WireClient::login(broker.addr(), Version::V311, "watcher").await;
    watcher.send(&wire::subscribe(Version::V311, 1, &[("last", 0)])).await;
    watcher.expect(&wire::suback(Version::V311, 1, &[0])).await;
    for version in VERSIONS {
        for round in 0..5 {
            let id = format!("{version:?}-{round}");
            let mut socket = upgraded(&proxy).await;
            socket.send(Message::Binary(a_connect(version, &id).into())).await.unwrap();
            bytes(&mut socket).await;
            let (sent, _) = last_words(version);
            socket.feed(Message::Binary(sent.into())).await.unwrap();
            let goodbye = CloseFrame { code: CloseCode::Away, reason: "bye".into() };
            socket.close(Some(goodbye)).await.unwrap();
            let close = timeout(PATIENCE, socket.next()).await.unwrap().unwrap().unwrap();
            assert!(
                matches!(&close, Message::Close(Some(frame)) if frame.code == CloseCode::Away),
                "{close:?}"
            );
            let message = Publish { topic: "last", payload: b"word", ..Publish::default() };
            watcher.expect(&wire::publish(Version::V311, &message)).await;
            let told = judge
                .events_when(|told| told.iter().any(|one| one.client_id == id && one.what == "disconnect"))
                .await;
            let told: Vec<_> = told.iter().filter(|one| one.client_id == id).map(|one| &*one.what).collect();
            assert_eq!(told, ["connect", "subscribe other=0", "last", "disconnect"], "{id}");
        }
    }
    proxy.stop().await;
}
