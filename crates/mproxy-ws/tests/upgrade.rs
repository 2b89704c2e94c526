//! The handshake, between raw HTTP and each side of ours.

#![expect(clippy::unwrap_used, reason = "a scene that cannot go on has failed")]

use http::HeaderName;
use mproxy_ws::upgrade::{
    AcceptError, Ask, ConnectError, UpgradeRefusal, UpgradeRequest, UpgradeTerms, accept, connect,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

const GOOD: &str = "GET /mqtt HTTP/1.1\r\nHost: mproxy.example\r\nConnection: keep-alive, Upgrade\r\n\
    Upgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Protocol: mqtt\r\n\r\n";

fn terms() -> UpgradeTerms {
    UpgradeTerms::new("/mqtt", ["mqtt", "mqttv3.1"])
}

/// What became of these bytes, and what was answered.
async fn ask(terms: &UpgradeTerms, request: &str) -> (Result<UpgradeRequest, AcceptError>, String) {
    let (here, mut there) = duplex(1 << 20);
    there.write_all(request.as_bytes()).await.unwrap();
    let asking = async {
        let mut answer = Vec::new();
        let mut byte = [0];
        while !answer.ends_with(b"\r\n\r\n") && there.read(&mut byte).await.unwrap() > 0 {
            answer.push(byte[0]);
        }
        drop(there);
        String::from_utf8(answer).unwrap()
    };
    let (accepted, answer) = tokio::join!(accept(here, terms), asking);
    (accepted.map(|(_, request)| request), answer)
}

/// The refusal of a request, and the head of its answer in lower case.
async fn refused(terms: &UpgradeTerms, request: &str) -> (UpgradeRefusal, String) {
    let (accepted, answer) = ask(terms, request).await;
    let Err(AcceptError::Refused(refusal)) = accepted else { panic!("{accepted:?}") };
    let status = format!("HTTP/1.1 {} ", refusal.status());
    assert!(answer.starts_with(&status), "{answer}");
    let answer = answer.to_lowercase();
    assert!(answer.contains("connection: close"), "{answer}");
    (refusal, answer)
}

#[tokio::test]
async fn a_good_request_switches_and_tells_who_asked() {
    let mut terms = terms();
    terms.headers = vec![HeaderName::from_static("x-tenant"), HeaderName::from_static("authorization")];
    terms.cookies = vec!["session".to_owned()];
    let more = "Origin: https://app.example\r\nX-Tenant: a\r\nX-Tenant: b\r\nX-Other: c\r\n\
        Cookie: theme=dark; session=s3cr=t\r\n\r\n";
    let request =
        GOOD.replace("/mqtt HTTP", "/mqtt?token=1 HTTP").replace("\r\n\r\n", &format!("\r\n{more}"));
    let (accepted, answer) = ask(&terms, &request).await;
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        accepted.unwrap(),
        UpgradeRequest {
            path: "/mqtt?token=1".to_owned(),
            host: "mproxy.example".to_owned(),
            protocol: "mqtt".to_owned(),
            origin: Some("https://app.example".to_owned()),
            headers: vec![pair("x-tenant", "a"), pair("x-tenant", "b")],
            cookies: vec![pair("session", "s3cr=t")],
        }
    );
    let answer = answer.to_lowercase();
    assert!(answer.starts_with("http/1.1 101 "), "{answer}");
    for line in [
        "connection: upgrade",
        "upgrade: websocket",
        "sec-websocket-protocol: mqtt",
        "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=",
    ] {
        assert!(answer.contains(&format!("\r\n{line}\r\n")), "{line} in {answer}");
    }
    assert!(!answer.contains("content-length"), "{answer}");
}

#[tokio::test]
async fn the_first_subprotocol_that_both_know_is_taken() {
    let many = "Sec-WebSocket-Protocol: chat , mqttv3.1\r\nSec-WebSocket-Protocol: mqtt\r\n";
    let request = GOOD.replace("Sec-WebSocket-Protocol: mqtt\r\n", many);
    assert_eq!(ask(&terms(), &request).await.0.unwrap().protocol, "mqttv3.1");
}

#[tokio::test]
async fn the_key_that_the_standard_shows_is_taken() {
    // RFC 6455, 4.1; its last digit has bits that mean nothing, and are not zero.
    let request = GOOD.replace("dGhlIHNhbXBsZSBub25jZQ==", "AQIDBAUGBwgJCgsMDQ4PEC==");
    let (accepted, answer) = ask(&terms(), &request).await;
    accepted.unwrap();
    assert!(answer.to_lowercase().starts_with("http/1.1 101 "), "{answer}");
}

#[tokio::test]
async fn another_protocol_is_called_by_its_name() {
    for (bytes, name) in [
        (&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC][..], "TLS"),
        (b"\x10\x10\0\x04MQTT\x04\x02\0\x3c\0\x04abcd", "MQTT without WebSocket"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n\r\n", "a PROXY header"),
    ] {
        let (here, mut there) = duplex(1 << 20);
        there.write_all(bytes).await.unwrap();
        there.shutdown().await.unwrap();
        let error = accept(here, &terms()).await.unwrap_err();
        assert!(error.to_string().contains(name), "{error} is not {name}");
    }
}

#[tokio::test]
async fn another_path_is_404() {
    for path in ["/", "/mqtt/", "/mqttx", "/MQTT", "/other?/mqtt"] {
        let request = GOOD.replace("/mqtt HTTP", &format!("{path} HTTP"));
        assert_eq!(refused(&terms(), &request).await.0, UpgradeRefusal::Path);
    }
}

#[tokio::test]
async fn what_is_no_upgrade_is_426_and_told_to_what() {
    let plain = "GET /mqtt HTTP/1.1\r\nHost: x\r\n\r\n";
    let other = GOOD.replace("WebSocket\r\n", "h2c\r\n");
    let unsaid = GOOD.replace("Connection: keep-alive, Upgrade", "Connection: keep-alive");
    for request in [plain, &other, &unsaid] {
        let (refusal, answer) = refused(&terms(), request).await;
        assert_eq!(refusal, UpgradeRefusal::NoUpgrade);
        assert!(answer.contains("upgrade: websocket"), "{answer}");
    }
}

#[tokio::test]
async fn another_version_is_426_and_told_which() {
    for version in ["Sec-WebSocket-Version: 8\r\n", "Sec-WebSocket-Version: 13, 8\r\n", ""] {
        let request = GOOD.replace("Sec-WebSocket-Version: 13\r\n", version);
        let (refusal, answer) = refused(&terms(), &request).await;
        assert_eq!(refusal, UpgradeRefusal::Version);
        assert!(answer.contains("sec-websocket-version: 13"), "{answer}");
    }
}

#[tokio::test]
async fn no_subprotocol_or_a_strange_one_is_400() {
    for protocol in ["", "Sec-WebSocket-Protocol: chat\r\n", "Sec-WebSocket-Protocol: MQTT\r\n"] {
        let request = GOOD.replace("Sec-WebSocket-Protocol: mqtt\r\n", protocol);
        assert_eq!(refused(&terms(), &request).await.0, UpgradeRefusal::Protocol);
    }
}

#[tokio::test]
async fn what_no_client_sends_is_refused() {
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for (from, to, expected) in [
        (key, "", UpgradeRefusal::Malformed),
        (key, "Sec-WebSocket-Key: c2hvcnQ=\r\n", UpgradeRefusal::Malformed),
        (key, "Sec-WebSocket-Key: !\r\n", UpgradeRefusal::Malformed),
        ("Host: mproxy.example\r\n", "", UpgradeRefusal::Malformed),
        ("Host: mproxy.example\r\n", "Host: a\r\nHost: b\r\n", UpgradeRefusal::Malformed),
        ("Host: mproxy.example\r\n", "Host: a\r\nContent-Length: 5\r\n", UpgradeRefusal::Malformed),
        ("GET ", "POST ", UpgradeRefusal::Method),
    ] {
        assert_eq!(refused(&terms(), &GOOD.replace(from, to)).await.0, expected, "{to}");
    }
}

#[tokio::test]
async fn pages_of_other_origins_stay_out_where_origins_are_named() {
    let mut terms = terms();
    terms.origins = Some(vec!["https://app.example".to_owned()]);
    let from = |origin: &str| GOOD.replace("\r\n\r\n", &format!("\r\nOrigin: {origin}\r\n\r\n"));
    assert!(ask(&terms, &from("https://app.example")).await.0.is_ok());
    assert!(ask(&terms, GOOD).await.0.is_ok(), "what is no browser names no origin");
    for origin in ["https://evil.example", "null", "http://app.example", "https://app.example.evil.example"] {
        assert_eq!(refused(&terms, &from(origin)).await.0, UpgradeRefusal::Origin);
    }
}

#[tokio::test]
async fn a_bomb_of_headers_is_not_kept() {
    let one = GOOD.replace("\r\n\r\n", &format!("\r\nX-Bomb: {}\r\n\r\n", "x".repeat(64 << 10)));
    let lines: String = (0..1000).map(|n| format!("X-{n}: y\r\n")).collect();
    let many = GOOD.replace("\r\n\r\n", &format!("\r\n{lines}\r\n"));
    let path = GOOD.replace("/mqtt HTTP", &format!("/{} HTTP", "p".repeat(64 << 10)));
    for request in [one, many, path] {
        let (accepted, answer) = ask(&terms(), &request).await;
        assert!(matches!(accepted, Err(AcceptError::TooLarge)), "{accepted:?}");
        let status = answer.split(' ').nth(1);
        assert!(matches!(status, Some("431" | "414")), "{answer}");
    }
}

#[tokio::test]
async fn what_is_no_http_is_told_as_such() {
    let connect = "\u{10}\u{10}\0\u{4}MQTT\u{4}\u{2}\0\u{3c}\0\u{4}abcd\r\n\r\n";
    let hello = "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}";
    for bytes in [connect, hello, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let (accepted, _) = ask(&terms(), bytes).await;
        assert!(matches!(accepted, Err(AcceptError::NotHttp(..))), "{accepted:?}");
    }
}

#[tokio::test]
async fn who_leaves_half_way_has_ended_it() {
    for cut in [0, 10, GOOD.len() - 1] {
        let (here, mut there) = duplex(4096);
        there.write_all(&GOOD.as_bytes()[..cut]).await.unwrap();
        drop(there);
        let accepted = accept(here, &terms()).await;
        assert!(matches!(accepted, Err(AcceptError::Ended(_))), "{cut}: {accepted:?}");
    }
}

#[tokio::test]
async fn a_handshake_that_stalls_can_be_dropped() {
    let (here, mut there) = duplex(4096);
    there.write_all(&GOOD.as_bytes()[..40]).await.unwrap();
    let terms = terms();
    tokio::select! {
        biased;
        accepted = accept(here, &terms) => panic!("{accepted:?}"),
        () = std::future::ready(()) => {}
    }
    assert_eq!(there.read(&mut [0; 9]).await.unwrap(), 0, "the connection is closed");
}

#[tokio::test]
async fn bytes_that_came_too_early_are_not_lost() {
    let (here, mut there) = duplex(4096);
    let frame = [0x82, 0x85, 0, 0, 0, 0, b'e', b'a', b'r', b'l', b'y'];
    there.write_all(&[GOOD.as_bytes(), &frame].concat()).await.unwrap();
    let (mut stream, _) = accept(here, &terms()).await.unwrap();
    let mut came = [0; 5];
    stream.read_exact(&mut came).await.unwrap();
    assert_eq!(&came, b"early");
}

#[tokio::test]
async fn a_foreign_client_gets_in() {
    let (here, there) = duplex(4096);
    let mut request = "ws://mproxy.example/mqtt".into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "mqtt".parse().unwrap());
    let terms = terms();
    let (accepted, client) =
        tokio::join!(accept(here, &terms), tokio_tungstenite::client_async(request, there));
    assert_eq!(accepted.unwrap().1.host, "mproxy.example");
    assert_eq!(client.unwrap().1.status(), 101);
}

/// Our client, and a server that answers with these lines; `KEY` in them is the right one.
async fn answered(lines: &str) -> Result<mproxy_ws::WsStream<DuplexStream>, ConnectError> {
    let (here, mut there) = duplex(1 << 20);
    let answering = async {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(there.read_u8().await.unwrap());
        }
        let request = String::from_utf8(request).unwrap();
        let key = request.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap();
        let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
        there.write_all(lines.replace("KEY", &accept).as_bytes()).await.unwrap();
        (there, request)
    };
    let ask = Ask { host: "broker.example:8080", path: "/mqtt?a=b", protocol: "mqtt" };
    let (connected, (there, request)) = tokio::join!(connect(here, &ask), answering);
    assert!(request.starts_with("GET /mqtt?a=b HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("\r\nhost: broker.example:8080\r\n"), "{request}");
    assert!(request.contains("\r\nsec-websocket-protocol: mqtt\r\n"), "{request}");
    drop(there);
    connected
}

const YES: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Accept: KEY\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";

#[tokio::test]
async fn our_client_takes_the_right_answer_and_what_comes_with_it() {
    let mut stream = answered(&format!("{YES}\u{2}")).await.unwrap();
    let error = stream.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof, "a byte of a frame came along");
}

#[tokio::test]
async fn our_client_takes_no_other_answer() {
    for (from, to) in [
        ("Sec-WebSocket-Accept: KEY", "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        ("Upgrade: websocket", "Upgrade: h2c"),
        ("Sec-WebSocket-Protocol: mqtt\r\n", ""),
        ("Protocol: mqtt", "Protocol: mqttv3.1"),
        ("Connection: Upgrade", "Sec-WebSocket-Extensions: permessage-deflate\r\nConnection: Upgrade"),
    ] {
        let error = answered(&YES.replace(from, to)).await.unwrap_err();
        assert!(matches!(error, ConnectError::Answer(_)), "{error:?}");
    }
    let error = answered("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await.unwrap_err();
    assert_eq!(error.to_string(), "the WebSocket request was answered with 404 Not Found");
    let error = answered("\u{20}\u{2}\0\0").await.unwrap_err();
    assert!(matches!(error, ConnectError::Http(_)), "{error:?}");
    let bomb = YES.replace("\r\n\r\n", &format!("\r\nX-Bomb: {}\r\n\r\n", "x".repeat(64 << 10)));
    let error = answered(&bomb).await.unwrap_err();
    assert!(matches!(error, ConnectError::Http(_)), "{error:?}");
}

#[tokio::test]
async fn our_client_and_a_foreign_server_agree() {
    use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
    let (here, there) = duplex(4096);
    #[expect(clippy::result_large_err, reason = "the judge wants it so")]
    let choose = |_: &Request, mut response: Response| {
        response.headers_mut().insert("sec-websocket-protocol", "mqtt".parse().unwrap());
        Ok(response)
    };
    let ask = Ask { host: "broker.example", path: "/mqtt", protocol: "mqtt" };
    let serving = tokio_tungstenite::accept_hdr_async(there, choose);
    let (client, server) = tokio::join!(connect(here, &ask), serving);
    server.unwrap();
    client.unwrap();
}

#[test]
fn handshakes_may_be_spawned() {
    fn is_send<T: Send>(_: T) {}
    let (here, there) = duplex(1);
    is_send(accept(here, &terms()));
    is_send(connect(there, &Ask { host: "", path: "", protocol: "" }));
}
