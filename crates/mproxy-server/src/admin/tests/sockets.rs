//! The same over sockets, with callers that are slow or say too much.

use std::sync::Arc;
use std::time::Duration;

use mproxy_tcp::tls::{Identity, Reloadable, ServerTls};
use mproxy_testkit::certificates::{Authority, Folder};
use mproxy_testkit::transports::TlsClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::scene;
use crate::admin::serve;
use crate::config::check::ConfigView;

#[tokio::test]
async fn slow_callers_keep_nobody_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let task = serve(listener, scene().admin, async move { drop(stopped.await) });
    // As many as there are places, with heads, bodies and answers that never end.
    let mut slow = Vec::new();
    for head in [
        "GET /healthz HTTP/1.1\r\nhost: x\r\n",
        "PUT /api/v1/log-level HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{",
        "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n",
    ] {
        for _ in 0..serve::MOST_CALLERS {
            let mut stream = TcpStream::connect(address).await.expect("a connection");
            // It may have been the oldest already.
            let _ = stream.write_all(head.as_bytes()).await;
            slow.push(stream);
        }
        for uri in ["/healthz", "/metrics", "/readyz"] {
            let asked = async {
                let mut stream = TcpStream::connect(address).await?;
                stream.write_all(format!("GET {uri} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await?;
                let mut answer = [0; 12];
                stream.read_exact(&mut answer).await?;
                std::io::Result::Ok(answer)
            };
            let answer = tokio::time::timeout(Duration::from_secs(5), asked).await.expect("in time");
            assert_eq!(&answer.expect("an answer"), b"HTTP/1.1 200", "{uri}");
        }
    }
    drop((stop, slow));
    task.await.expect("no panic");
}

#[tokio::test]
async fn handshakes_that_never_end_keep_nobody_out() {
    let (root, folder) = (Authority::root("root"), Folder::default());
    let (cert, key) = folder.keep("admin", &root.sign("localhost"));
    let tls = ServerTls { identities: vec![Identity { cert, key, ocsp: None }], ..ServerTls::default() };
    let tls = Arc::new(Reloadable::new(tls).expect("a certificate"));
    let scene = scene();
    scene.admin.in_force.set(None, ConfigView::default(), Some(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let task = serve(listener, scene.admin, async move { drop(stopped.await) });
    let client = TlsClient::believing(root.pem());
    let mut slow = Vec::new();
    // Nothing at all; the head of a record and no more; a handshake message that is longer than any.
    for begin in [&b""[..], b"\x16\x03\x01\x02\x00", b"\x16\x03\x01\x40\x00\x01\x00\xff\xff"] {
        for _ in 0..serve::MOST_CALLERS {
            let mut stream = TcpStream::connect(address).await.expect("a connection");
            let _ = stream.write_all(begin).await;
            slow.push(stream);
        }
        let asked = async {
            let mut stream = client.shake(TcpStream::connect(address).await?).await?;
            stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await?;
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        let answer = tokio::time::timeout(Duration::from_secs(5), asked).await.expect("in time");
        assert_eq!(&answer.expect("an answer"), b"HTTP/1.1 200", "{begin:02x?}");
    }
    drop((stop, slow));
    task.await.expect("no panic");
}

#[tokio::test]
async fn it_serves_over_a_socket_until_it_is_told_to_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let task = serve(listener, scene().admin, async move { drop(stopped.await) });
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(b"POST /api/v1/drain HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("written");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 202");
    drop(stop);
    // The idle connection is closed, and the task ends.
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.expect("an end");
    task.await.expect("no panic");
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_head_without_end_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let task = serve(listener, scene().admin, async move { drop(stopped.await) });
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let head = format!("GET /healthz HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "x".repeat(64 << 10));
    // The server may close before all of it was taken.
    let _ = stream.write_all(head.as_bytes()).await;
    let mut answer = [0; 12];
    if stream.read_exact(&mut answer).await.is_ok() {
        assert_eq!(&answer, b"HTTP/1.1 431");
    }
    drop(stop);
    task.await.expect("no panic");
}
