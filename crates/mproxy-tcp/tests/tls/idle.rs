//! What an idle session costs, counted by the byte.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use mproxy_tcp::tls::{ClientTls, Material, ServerTls, accept, connect};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::authority::Identities as _;
use crate::certificates::{Authority, Folder};

const SESSIONS: usize = 100;

/// Heap bytes of this many sessions that have exchanged a message and are silent, each.
fn idle(mutual: bool) -> i64 {
    let (folder, root) = (Folder::default(), Authority::root("root"));
    let identity = folder.identity("server", &root.sign_numbered("broker.example", 1));
    let roots = folder.write("roots.pem", root.pem());
    let own = folder.identity("client", &root.sign_numbered("device.example", 2));
    let client_ca = mutual.then(|| roots.clone());
    let server = ServerTls { identities: vec![identity], client_ca, ..ServerTls::default() };
    let server = Arc::new(server.build().unwrap());
    let client = ClientTls { roots: Some(roots), identity: Some(own), ..ClientTls::default() };
    let client = Arc::new(client.build().unwrap());

    let runtime = || tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let serving = runtime();
    let listener = serving.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let (done, until_done) = oneshot::channel::<()>();
    // The others are on a thread of their own, whose bytes are not counted.
    let clients = std::thread::spawn(move || {
        runtime().block_on(async {
            let mut all = Vec::new();
            for _ in 0..SESSIONS {
                let stream = TcpStream::connect(address).await.unwrap();
                let mut stream = connect(stream, Arc::clone(&client), "broker.example").await.unwrap();
                stream.write_all(&[7; 300]).await.unwrap();
                stream.read_exact(&mut [0; 300]).await.unwrap();
                all.push(stream);
            }
            let _ = until_done.await;
        });
    });
    let mut plain = Vec::with_capacity(SESSIONS);
    let mut held = Vec::with_capacity(SESSIONS);
    let mut session = || {
        serving.block_on(async {
            let (stream, _) = listener.accept().await.unwrap();
            let (mut stream, facts) = accept(stream, Arc::clone(&server), |_| true).await.unwrap();
            // They belong to the policy, which may keep or drop them.
            drop(facts);
            stream.read_exact(&mut [0; 300]).await.unwrap();
            stream.write_all(&[7; 300]).await.unwrap();
            stream.flush().await.unwrap();
            let mut buffer = [0; 100];
            poll_fn(|cx| {
                let mut buffer = ReadBuf::new(&mut buffer);
                assert!(Pin::new(&mut stream).poll_read(cx, &mut buffer).is_pending());
                Poll::Ready(())
            })
            .await;
            plain.push(());
            held.push(stream);
        });
    };
    session();
    let counted = allocation_counter::measure(|| (1..SESSIONS).for_each(|_| session()));
    let _ = done.send(());
    clients.join().unwrap();
    counted.bytes_current / (SESSIONS as i64 - 1)
}

// The stream of tokio-rustls, boxed, was counted at 7766 and 8304 bytes in the same place.
#[test]
fn an_idle_session_holds_no_buffer() {
    for (mutual, most) in [(false, 3800), (true, 4400)] {
        let bytes = idle(mutual);
        assert!(bytes <= most, "{bytes} bytes, client certificate: {mutual}");
    }
}
