//! The encrypted byte stream against tokio-rustls, which buffers where ours does not.

use std::io::IoSlice;
use std::sync::Arc;

use mproxy_tcp::tls::{ClientTls, Material, ServerTls, TlsStream, accept, connect};
use proptest::prelude::*;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion, version};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::authority::Identities as _;
use crate::certificates::{Authority, Folder};

/// Both sides, ours and theirs.
struct Sides {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    their_client: Arc<ClientConfig>,
}

impl Sides {
    fn new(version: &'static SupportedProtocolVersion) -> Self {
        let (folder, root) = (Folder::default(), Authority::root("root"));
        let identity = folder.identity("server", &root.sign_numbered("broker.example", 1));
        let roots = Some(folder.write("roots.pem", root.pem()));
        let server = ServerTls { identities: vec![identity], ..ServerTls::default() };
        let client = ClientTls { roots, ..ClientTls::default() };
        let mut store = RootCertStore::empty();
        store.add(PemObject::from_pem_slice(root.pem().as_bytes()).unwrap()).unwrap();
        let their_client = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(store)
            .with_no_client_auth();
        Self {
            server: Arc::new(server.build().unwrap()),
            client: Arc::new(client.build().unwrap()),
            their_client: Arc::new(their_client),
        }
    }

    /// Our server and their client, over a pipe with that much room.
    async fn our_server(&self, room: usize) -> (TlsStream<DuplexStream>, client::TlsStream<DuplexStream>) {
        let (here, there) = duplex(room);
        let connector = TlsConnector::from(Arc::clone(&self.their_client));
        let name = ServerName::try_from("broker.example").unwrap();
        let (ours, theirs) =
            tokio::join!(accept(here, Arc::clone(&self.server), |_| true), connector.connect(name, there));
        let (ours, theirs) = (ours.unwrap().0, theirs.unwrap());
        let suite = theirs.get_ref().1.negotiated_cipher_suite().unwrap().suite();
        assert_eq!(Some(ours.protection().cipher_suite), suite.as_str(), "both know the same");
        (ours, theirs)
    }

    /// Our client and their server.
    async fn our_client(&self, room: usize) -> (TlsStream<DuplexStream>, server::TlsStream<DuplexStream>) {
        let (here, there) = duplex(room);
        let acceptor = TlsAcceptor::from(Arc::clone(&self.server));
        let (ours, theirs) =
            tokio::join!(connect(here, Arc::clone(&self.client), "broker.example"), acceptor.accept(there));
        (ours.unwrap(), theirs.unwrap())
    }
}

/// Sends the pieces, reads them back, and parts in order; `asked` bytes are read at a time.
async fn echo(
    near: impl AsyncRead + AsyncWrite + Unpin,
    far: impl AsyncRead + AsyncWrite + Unpin,
    pieces: &[Vec<u8>],
    asked: usize,
) {
    let all = pieces.concat();
    let (mut near_read, mut near_write) = tokio::io::split(near);
    let (mut far_read, mut far_write) = tokio::io::split(far);
    let sending = async {
        for piece in pieces {
            near_write.write_all(piece).await.unwrap();
        }
        near_write.shutdown().await.unwrap();
    };
    let echoing = async {
        let mut buffer = vec![0; asked];
        loop {
            let n = far_read.read(&mut buffer).await.unwrap();
            if n == 0 {
                break far_write.shutdown().await.unwrap();
            }
            far_write.write_all(&buffer[..n]).await.unwrap();
            far_write.flush().await.unwrap();
        }
    };
    let reading = async {
        let mut back = Vec::new();
        near_read.read_to_end(&mut back).await.unwrap();
        assert!(back == all, "{} bytes came back of {}", back.len(), all.len());
    };
    tokio::join!(sending, echoing, reading);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn whatever_the_chunks_the_bytes_are_the_same(
        pieces in prop::collection::vec((any::<u8>(), 1usize..40_000), 1..8),
        // Less than a record; room for a ticket, which their server waits to get rid of.
        room in prop_oneof![1000usize..2000, 2000usize..100_000],
        asked in prop_oneof![1usize..100, 100usize..70_000],
        old in any::<bool>(),
    ) {
        let pieces: Vec<Vec<u8>> = pieces.into_iter().map(|(byte, len)| vec![byte; len]).collect();
        let sides = Sides::new(if old { &version::TLS12 } else { &version::TLS13 });
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (ours, theirs) = sides.our_server(room).await;
            echo(ours, theirs, &pieces, asked).await;
            let (ours, theirs) = sides.our_server(room).await;
            echo(theirs, ours, &pieces, asked).await;
            let (ours, theirs) = sides.our_client(room).await;
            echo(ours, theirs, &pieces, asked).await;
            let (ours, theirs) = sides.our_client(room).await;
            echo(theirs, ours, &pieces, asked).await;
        });
    }
}

#[tokio::test]
async fn small_pieces_share_a_record() {
    let (mut ours, theirs) = Sides::new(&version::TLS13).our_server(1 << 16).await;
    let pieces = [b"one ".as_slice(), b"", b"two ", b"three"].map(IoSlice::new);
    assert_eq!(ours.write_vectored(&pieces).await.unwrap(), 13);
    ours.flush().await.unwrap();
    let (mut below, _) = theirs.into_inner();
    let mut records = vec![0; 1000];
    let n = below.read(&mut records).await.unwrap();
    // Head, payload, type, tag; before it comes the ticket.
    let (ticket, ours) = records[..n].split_at(n - (5 + 13 + 1 + 16));
    assert_eq!(ours[..5], [0x17, 3, 3, 0, 13 + 1 + 16]);
    assert_eq!(ticket.len(), 5 + usize::from(u16::from_be_bytes([ticket[3], ticket[4]])), "one record");
}

#[tokio::test]
async fn new_keys_in_the_middle_go_unnoticed() {
    let (mut ours, mut theirs) = Sides::new(&version::TLS13).our_server(1 << 16).await;
    for round in 0..5 {
        theirs.get_mut().1.refresh_traffic_keys().unwrap();
        theirs.write_all(&[round; 100]).await.unwrap();
        theirs.flush().await.unwrap();
        let mut came = [0; 100];
        ours.read_exact(&mut came).await.unwrap();
        assert_eq!(came, [round; 100]);
        ours.write_all(&came).await.unwrap();
        ours.flush().await.unwrap();
        theirs.read_exact(&mut came).await.unwrap();
        assert_eq!(came, [round; 100]);
    }
}

#[tokio::test]
async fn a_record_that_was_tampered_with_ends_it_and_the_peer_is_told() {
    let (mut ours, theirs) = Sides::new(&version::TLS13).our_server(1 << 16).await;
    let (mut below, mut connection) = theirs.into_inner();
    below
        .write_all(&[0x17, 3, 3, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0])
        .await
        .unwrap();
    for _ in 0..2 {
        let error = ours.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "again and again");
    }
    ours.write_all(b"late").await.unwrap_err();
    let _ = ours.shutdown().await;
    drop(ours);
    let mut alert = Vec::new();
    below.read_to_end(&mut alert).await.unwrap();
    connection.read_tls(&mut alert.as_slice()).unwrap();
    let error = connection.process_new_packets().unwrap_err();
    assert_eq!(error, rustls::Error::AlertReceived(rustls::AlertDescription::BadRecordMac));
}

#[tokio::test]
async fn a_slow_reader_makes_the_writer_wait() {
    let (mut ours, _theirs) = Sides::new(&version::TLS13).our_server(1000).await;
    let mut taken = 0;
    let chunk = vec![7; 100_000];
    tokio::select! {
        biased;
        () = async { while let Ok(n) = ours.write(&chunk).await { taken += n; } } => panic!("it failed"),
        () = std::future::ready(()) => {}
    }
    assert!((1..=32 << 10).contains(&taken), "{taken}");
}

#[tokio::test]
async fn what_follows_the_goodbye_is_nobodys() {
    let (mut ours, mut theirs) = Sides::new(&version::TLS13).our_server(1 << 16).await;
    theirs.write_all(b"last").await.unwrap();
    theirs.shutdown().await.unwrap();
    let mut all = Vec::new();
    ours.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, b"last");
    ours.write_all(b"answer").await.unwrap();
    ours.shutdown().await.unwrap();
    assert_eq!(ours.write(b"late").await.unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
    let mut answer = Vec::new();
    theirs.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"answer");
}
