//! WebSocket as the standard has it, at a running mproxy: packets in frames of any cut, control frames between them, an end
//! in order from either side, and what the policy service hears of the request.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use futures_util::{SinkExt, StreamExt};
use mproxy_testkit::PATIENCE;
use mproxy_testkit::broker::{BrokerScript, RecordingBroker};
use mproxy_testkit::service::{Running, Service};
use mproxy_testkit::wire::{self, ConnectOptions, Publish, Version};
use support::Proxy;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame};
use tokio_tungstenite::{WebSocketStream, client_async};

type Socket = WebSocketStream<TcpStream>;

/// Upgrades with these headers, too; gives the subprotocol that was agreed on.
async fn upgrade(proxy: &Proxy, path: &str, headers: &[(&'static str, &str)]) -> (Socket, String) {
    let mut request = format!("ws://{}{path}", proxy.mqtt).into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    let stream = TcpStream::connect(proxy.mqtt).await.unwrap();
    let (socket, response) = timeout(PATIENCE, client_async(request, stream)).await.unwrap().unwrap();
    (socket, response.headers()["sec-websocket-protocol"].to_str().unwrap().to_owned())
}

const MQTT: (&str, &str) = ("sec-websocket-protocol", "mqtt");

async fn next(socket: &mut Socket) -> Message {
    timeout(PATIENCE, socket.next()).await.unwrap().unwrap().unwrap()
}

/// The bytes of so many binary messages' worth, in whatever messages they come.
async fn bytes(socket: &mut Socket, count: usize) -> Vec<u8> {
    let mut came = Vec::new();
    while came.len() < count {
        if let Message::Binary(bytes) = next(socket).await {
            came.extend(bytes);
        }
    }
    came
}

fn a_connect() -> Vec<u8> {
    wire::connect(Version::V5, "client", &ConnectOptions::default())
}

#[tokio::test]
async fn frames_may_cut_and_join_packets_anywhere() {
    let mut broker = RecordingBroker::start(BrokerScript::default()).await;
    let proxy = Proxy::websocket(broker.addr(), "").await;
    let message = Publish { topic: "a/b", payload: &[7; 300], qos: 1, packet_id: 1, ..Publish::default() };
    let publish = wire::publish(Version::V5, &message);
    let all = [a_connect(), publish.clone(), wire::pingreq()].concat();
    let connack = wire::connack(Version::V5, false, 0, &[]);
    let answers = [connack, wire::puback(1), wire::pingresp()].concat();

    // As messages of so many bytes, and as fragments of one message, with a ping between any two.
    for size in [1, 2, 7, 100, all.len()] {
        for fragmented in [false, true] {
            let (mut socket, _) = upgrade(&proxy, "/mqtt", &[MQTT]).await;
            let pieces = all.chunks(size).count();
            for (number, piece) in all.chunks(size).enumerate() {
                let first = !fragmented || number == 0;
                let last = !fragmented || number + 1 == pieces;
                let kind = if first { Data::Binary } else { Data::Continue };
                let frame = Frame::message(piece.to_vec(), OpCode::Data(kind), last);
                socket.feed(Message::Frame(frame)).await.unwrap();
                // No more of them than a flood has.
                if number % 7 == 0 {
                    socket.feed(Message::Ping(vec![number as u8].into())).await.unwrap();
                }
            }
            socket.flush().await.unwrap();
            let came = bytes(&mut socket, answers.len()).await;
            assert_eq!(came, answers, "pieces of {size}, fragmented: {fragmented}");
            let mut session = broker.session().await;
            assert_eq!(session.packets(3).await, [a_connect(), publish.clone(), wire::pingreq()]);
        }
    }
    proxy.stop().await;
}

#[tokio::test]
async fn a_close_frame_is_answered_and_is_no_disconnect() {
    let mut broker = RecordingBroker::start(BrokerScript::default()).await;
    let mut proxy = Proxy::websocket(broker.addr(), "").await;
    let (mut socket, protocol) =
        upgrade(&proxy, "/mqtt", &[("sec-websocket-protocol", "amqp, mqttv3.1, mqtt")]).await;
    assert_eq!(protocol, "mqttv3.1", "the first that is spoken here");
    socket.send(Message::Binary(a_connect().into())).await.unwrap();
    bytes(&mut socket, 5).await;
    let mut session = broker.session().await;
    let from = socket.get_ref().local_addr().unwrap();
    let goodbye = CloseFrame { code: CloseCode::Away, reason: "bye".into() };
    socket.close(Some(goodbye)).await.unwrap();
    let Message::Close(Some(answer)) = next(&mut socket).await else { panic!("no close frame") };
    assert_eq!(answer.code, CloseCode::Away);
    assert!(timeout(PATIENCE, socket.next()).await.unwrap().is_none(), "and the end");
    // The will is not taken away by it.
    session.end().await;
    assert_eq!(session.received(), a_connect());
    assert!(proxy.end_of(from).await.contains("without DISCONNECT"));
    proxy.stop().await;
}

#[tokio::test]
async fn what_the_broker_ends_is_ended_with_a_close_frame() {
    let mut broker = RecordingBroker::start(BrokerScript::default()).await;
    let proxy = Proxy::websocket(broker.addr(), "").await;
    let (mut socket, _) = upgrade(&proxy, "/mqtt", &[MQTT]).await;
    socket.send(Message::Binary(a_connect().into())).await.unwrap();
    bytes(&mut socket, 5).await;
    let session = broker.session().await;
    let goodbye = wire::disconnect_with(0x8b, &[]);
    session.send(goodbye.clone()).await;
    session.close().await;
    assert_eq!(bytes(&mut socket, goodbye.len()).await, goodbye);
    let Message::Close(Some(frame)) = next(&mut socket).await else { panic!("no close frame") };
    assert_eq!(frame.code, CloseCode::Normal);
    drop(socket);
    proxy.stop().await;
}

#[tokio::test]
async fn the_policy_service_hears_of_the_request_what_it_is_meant_to() {
    let (service, mut clients) = Service::admitting();
    let service = Running::start(service).await;
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let more = format!(
        "policy.url = \"{}\"\nws.headers = [\"x-tenant\", \"user-agent\"]\nws.cookies = [\"session\"]",
        service.url
    );
    let proxy = Proxy::websocket(broker.addr(), &more).await;
    let headers = [
        MQTT,
        ("x-tenant", "acme"),
        ("x-secret", "not for anybody"),
        ("cookie", "theme=dark; session=abc=; tracker=1"),
        ("user-agent", "a test"),
        ("x-tenant", "again"),
    ];
    let (mut socket, _) = upgrade(&proxy, "/mqtt?token=t%20t", &headers).await;
    socket.send(Message::Binary(a_connect().into())).await.unwrap();
    bytes(&mut socket, 5).await;
    let told = clients.recv().await.unwrap().web_socket.unwrap();
    assert_eq!((told.path.as_str(), told.host), ("/mqtt?token=t%20t", proxy.mqtt.to_string()));
    let mut named: Vec<_> =
        told.headers.iter().map(|header| (header.name.as_str(), header.value.as_str())).collect();
    named.sort_unstable();
    let expected =
        [("cookie", "session=abc="), ("user-agent", "a test"), ("x-tenant", "acme"), ("x-tenant", "again")];
    assert_eq!(named, expected);
    drop(socket);
    proxy.stop().await;
}
