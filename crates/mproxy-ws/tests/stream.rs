//! The byte stream over frames, between a peer that writes raw frames and one that knows them from elsewhere.

#![expect(clippy::unwrap_used, reason = "a scene that cannot go on has failed")]

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use mproxy_ws::{Role, Violation, WsStream};
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol;
use tokio_tungstenite::tungstenite::{Message, protocol::frame::coding::CloseCode};

/// A server whose client writes raw frames.
fn server() -> (WsStream<DuplexStream>, DuplexStream) {
    let (here, there) = duplex(1 << 20);
    (WsStream::new(here, Role::Server, Bytes::new()), there)
}

/// A frame under a mask of zeros, which leaves the payload as it is.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        n @ 0..=125 => frame.push(0x80 | n as u8),
        n => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(n as u16).to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

async fn read(stream: &mut WsStream<DuplexStream>) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; 4096];
    let n = stream.read(&mut buffer).await?;
    buffer.truncate(n);
    Ok(buffer)
}

fn violation(error: &io::Error) -> Violation {
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    *error.get_ref().unwrap().downcast_ref().unwrap()
}

#[tokio::test]
async fn a_text_frame_is_answered_with_1003() {
    let (mut server, mut client) = server();
    client.write_all(&[masked(0x82, b"before"), masked(0x81, b"text")].concat()).await.unwrap();
    assert_eq!(read(&mut server).await.unwrap(), b"before");
    let error = read(&mut server).await.unwrap_err();
    assert_eq!(violation(&error), Violation::Text);
    let mut answer = [0; 4];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, [0x88, 2, 0x03, 0xEB]);
}

#[tokio::test]
async fn what_the_standard_forbids_is_answered_with_1002() {
    let unmasked = vec![0x82, 1, b'x'];
    let endless = vec![0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let cases = [
        (unmasked, Violation::Unmasked),
        (endless, Violation::Length),
        (masked(0xC2, b"x"), Violation::ReservedBit),
        (masked(0x83, b"x"), Violation::ReservedOpcode),
        (masked(0x89, &[0; 126]), Violation::LongControl),
        (masked(0x09, b""), Violation::FragmentedControl),
        (masked(0x80, b"x"), Violation::Continuation),
    ];
    for (bytes, expected) in cases {
        let (mut server, mut client) = server();
        client.write_all(&bytes).await.unwrap();
        assert_eq!(violation(&read(&mut server).await.unwrap_err()), expected);
        let mut answer = [0; 4];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, [0x88, 2, 0x03, 0xEA], "{expected}");
        let error = server.write_all(b"late").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}

#[tokio::test]
async fn a_ping_is_answered_between_two_frames() {
    let (mut server, mut client) = server();
    let bytes = [masked(0x02, b"a"), masked(0x89, b"there?"), masked(0x80, b"b")].concat();
    client.write_all(&bytes).await.unwrap();
    assert_eq!(read(&mut server).await.unwrap(), b"ab");
    server.write_all(b"data").await.unwrap();
    let mut answer = [0; 14];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"\x8A\x06there?\x82\x04data");
}

#[tokio::test]
async fn pings_that_nobody_needs_end_it_and_never_pile_up() {
    let (mut server, mut client) = server();
    let flood: Vec<u8> = std::iter::repeat_n(masked(0x89, &[7; 100]), 2000).flatten().collect();
    client.write_all(&flood).await.unwrap();
    let error = read(&mut server).await.unwrap_err();
    assert_eq!(violation(&error), Violation::Flood);
    drop(server);
    let mut answers = Vec::new();
    client.read_to_end(&mut answers).await.unwrap();
    assert!(answers.ends_with(&[0x88, 2, 0x03, 0xF0]), "1008 at the end");
    // One answer for each read at most, not one for each ping.
    assert!(answers.len() < 60 * 102, "{} bytes of answers", answers.len());
}

#[tokio::test]
async fn endless_empty_fragments_end_it_and_full_ones_do_not() {
    let (mut server, mut client) = server();
    let full: Vec<u8> = std::iter::repeat_n(masked(0x00, b"x"), 3000).flatten().collect();
    client.write_all(&[masked(0x02, b""), full].concat()).await.unwrap();
    let mut came = vec![0; 3000];
    server.read_exact(&mut came).await.unwrap();
    let empty: Vec<u8> = std::iter::repeat_n(masked(0x00, b""), 2000).flatten().collect();
    client.write_all(&empty).await.unwrap();
    let error = read(&mut server).await.unwrap_err();
    assert_eq!(violation(&error), Violation::Flood);
}

/// Takes everything, and counts how often it is asked.
struct Sink {
    calls: usize,
    bytes: Vec<u8>,
}

impl AsyncRead for Sink {
    fn poll_read(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        _buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Sink {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.calls += 1;
        bufs.iter().for_each(|buf| self.bytes.extend_from_slice(buf));
        Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn slices_leave_as_one_frame_in_one_write() {
    for (role, head) in [(Role::Server, 4), (Role::Client, 8)] {
        let mut stream = WsStream::new(Sink { calls: 0, bytes: Vec::new() }, role, Bytes::new());
        let slices = [&[1; 100][..], &[], &[2; 200], &[3; 300]].map(IoSlice::new);
        assert_eq!(stream.write_vectored(&slices).await.unwrap(), 600);
        assert_eq!((stream.get_ref().calls, stream.get_ref().bytes.len()), (1, head + 600));
    }
}

#[tokio::test]
async fn pings_to_somebody_who_does_not_read_do_not_pile_up() {
    let (here, mut client) = duplex(1000);
    let mut server = WsStream::new(here, Role::Server, Bytes::new());
    // Our side is full: no pong leaves.
    let filler = [0; 996];
    server.write_all(&filler).await.unwrap();
    for round in 0..5u8 {
        client.write_all(&masked(0x89, &[round; 125])).await.unwrap();
        let waited = tokio::time::timeout(Duration::from_millis(1), read(&mut server)).await;
        assert!(waited.is_err(), "there is nothing to read");
    }
    let mut came = vec![0; 4 + 996];
    client.read_exact(&mut came).await.unwrap();
    server.flush().await.unwrap();
    drop(server);
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest[2..], [4; 125], "the last ping has its answer, and only that one");
}

#[tokio::test(start_paused = true)]
async fn a_ping_every_second_is_no_flood() {
    let (mut server, mut client) = server();
    for _ in 0..5000 {
        client.write_all(&masked(0x89, b"")).await.unwrap();
        let waited = tokio::time::timeout(Duration::from_secs(1), read(&mut server)).await;
        assert!(waited.is_err(), "there is nothing to read");
        let mut pong = [0; 2];
        client.read_exact(&mut pong).await.unwrap();
        assert_eq!(pong, [0x8A, 0]);
    }
}

#[tokio::test]
async fn a_close_is_answered_and_is_the_end() {
    let (mut server, mut client) = server();
    client.write_all(&[masked(0x82, b"last"), masked(0x88, &[0x0F, 0xA1])].concat()).await.unwrap();
    assert_eq!(read(&mut server).await.unwrap(), b"last");
    assert_eq!(read(&mut server).await.unwrap(), b"");
    assert_eq!(server.close_code(), Some(4001));
    let mut answer = [0; 4];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, [0x88, 2, 0x0F, 0xA1]);
}

#[tokio::test]
async fn who_shuts_down_says_goodbye_and_can_read_on() {
    let (mut server, mut client) = server();
    server.write_all(b"bye").await.unwrap();
    server.shutdown().await.unwrap();
    let mut all = Vec::new();
    client.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, b"\x82\x03bye\x88\x02\x03\xE8");
    client.write_all(&[masked(0x82, b"late"), masked(0x88, &[0x03, 0xE8])].concat()).await.unwrap();
    assert_eq!(read(&mut server).await.unwrap(), b"late");
    assert_eq!(read(&mut server).await.unwrap(), b"");
}

#[tokio::test]
async fn the_end_of_the_connection_is_an_end_only_between_messages() {
    let (mut between, client) = server();
    drop(client);
    assert_eq!(read(&mut between).await.unwrap(), b"");
    for cut in [&[0x82][..], &[0x82, 0x85, 0, 0, 0, 0, b'a'], &[0x02, 0x81, 0, 0, 0, 0, b'a']] {
        let (mut inside, mut client) = server();
        client.write_all(cut).await.unwrap();
        drop(client);
        let mut all = Vec::new();
        let error = inside.read_to_end(&mut all).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}

#[tokio::test]
async fn a_foreign_client_and_our_server_understand_each_other() {
    let (here, there) = duplex(1 << 16);
    let mut server = WsStream::new(here, Role::Server, Bytes::new());
    let mut client = WebSocketStream::from_raw_socket(there, protocol::Role::Client, None).await;
    let big: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
    let sending = async {
        client.send(Message::Ping("are you there".into())).await.unwrap();
        client.send(Message::Binary(big.clone().into())).await.unwrap();
        assert_eq!(client.next().await.unwrap().unwrap(), Message::Pong("are you there".into()));
        let mut back = Vec::new();
        while back.len() < big.len() {
            back.extend_from_slice(&client.next().await.unwrap().unwrap().into_data());
        }
        assert_eq!(back, big);
        client.close(None).await.unwrap();
        while let Some(message) = client.next().await {
            assert!(message.unwrap().is_close());
        }
    };
    let serving = async {
        let mut came = vec![0; big.len()];
        server.read_exact(&mut came).await.unwrap();
        assert!(came == big);
        server.write_all(&came).await.unwrap();
        assert_eq!(read(&mut server).await.unwrap(), b"");
        server.shutdown().await.unwrap();
    };
    tokio::join!(sending, serving);
}

#[tokio::test]
async fn our_client_and_a_foreign_server_understand_each_other() {
    let (here, there) = duplex(1 << 16);
    let mut client = WsStream::new(here, Role::Client, Bytes::new());
    let mut server = WebSocketStream::from_raw_socket(there, protocol::Role::Server, None).await;
    let big: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
    let serving = async {
        let mut came = Vec::new();
        while came.len() < big.len() {
            came.extend_from_slice(&server.next().await.unwrap().unwrap().into_data());
        }
        server.send(Message::Ping("x".into())).await.unwrap();
        server.send(Message::Binary(came.into())).await.unwrap();
        assert_eq!(server.next().await.unwrap().unwrap(), Message::Pong("x".into()));
        let end = server.next().await.unwrap().unwrap();
        let Message::Close(Some(frame)) = end else { panic!("{end:?}") };
        assert_eq!(frame.code, CloseCode::Normal);
    };
    let asking = async {
        client.write_all(&big).await.unwrap();
        let mut back = vec![0; big.len()];
        client.read_exact(&mut back).await.unwrap();
        assert!(back == big);
        client.shutdown().await.unwrap();
    };
    tokio::join!(serving, asking);
}

#[test]
fn an_idle_connection_holds_some_numbers() {
    let size = size_of::<WsStream<()>>();
    assert!(size <= 160, "{size}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Our client to our server and back, over a connection that takes and gives a few bytes at a time.
    #[test]
    fn whatever_the_chunks_the_bytes_are_the_same(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..700), 1..20),
        room in 1usize..300,
        asked in 1usize..400,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (here, there) = duplex(room);
            let mut server = WsStream::new(here, Role::Server, Bytes::new());
            let mut client = WsStream::new(there, Role::Client, Bytes::new());
            let all = pieces.concat();
            let to = async {
                for piece in &pieces {
                    client.write_all(piece).await.unwrap();
                }
                let mut back = vec![0; all.len()];
                client.read_exact(&mut back).await.unwrap();
                assert!(back == all);
                client.shutdown().await.unwrap();
                assert_eq!(client.read(&mut [0; 9]).await.unwrap(), 0);
            };
            let fro = async {
                let mut came = Vec::new();
                let mut buffer = vec![0; asked];
                while came.len() < all.len() {
                    let n = server.read(&mut buffer).await.unwrap();
                    assert!(n > 0);
                    came.extend_from_slice(&buffer[..n]);
                }
                assert!(came == all);
                server.write_all(&came).await.unwrap();
                assert_eq!(server.read(&mut buffer).await.unwrap(), 0);
                server.shutdown().await.unwrap();
            };
            tokio::join!(to, fro);
        });
    }
}
