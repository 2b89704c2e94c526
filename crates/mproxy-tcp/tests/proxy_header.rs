//! PROXY headers on real connections: nothing of the client's own bytes is touched, and nobody else is believed.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::net::IpAddr;

use mproxy_tcp::networks::Network;
use mproxy_tcp::proxy_header::{
    Header, HeaderError, HeaderVersion, ProxiedAddresses, ProxiedTls, read_header,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

async fn pair() -> (TcpStream, TcpStream, IpAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    client.set_nodelay(true).unwrap();
    let (accepted, from) = listener.accept().await.unwrap();
    (accepted, client, from.ip())
}

fn loopback() -> Vec<Network> {
    vec!["127.0.0.0/8".parse().unwrap()]
}

fn header() -> Header {
    Header {
        endpoints: Some(ProxiedAddresses {
            source: "192.0.2.7:4711".parse().unwrap(),
            destination: "192.0.2.1:8883".parse().unwrap(),
        }),
        authority: Some("broker.example".to_owned()),
        tls: Some(ProxiedTls { version: Some("TLSv1.3".to_owned()), ..ProxiedTls::default() }),
        ..Header::default()
    }
}

#[tokio::test]
async fn what_is_behind_the_header_is_left_to_the_reader() {
    for version in [HeaderVersion::V1, HeaderVersion::V2] {
        let (mut server, mut client, from) = pair().await;
        client.write_all(&[&header().encode(version)[..], b"\x10rest"].concat()).await.unwrap();
        let read = read_header(&mut server, from, &loopback()).await.unwrap();
        assert_eq!(read.endpoints, header().endpoints);
        let mut rest = [0; 5];
        server.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"\x10rest");
    }
}

#[tokio::test]
async fn a_header_may_come_byte_by_byte() {
    let (mut server, mut client, from) = pair().await;
    let bytes = header().encode(HeaderVersion::V2);
    let sending = async {
        for byte in &bytes {
            client.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let trusted = loopback();
    let (read, ()) = tokio::join!(read_header(&mut server, from, &trusted), sending);
    assert_eq!(read.unwrap(), header());
}

#[tokio::test]
async fn somebody_from_elsewhere_is_not_even_read() {
    let (mut server, mut client, from) = pair().await;
    client.write_all(&header().encode(HeaderVersion::V1)).await.unwrap();
    for trusted in [vec![], vec!["10.0.0.0/8".parse().unwrap()]] {
        let error = read_header(&mut server, from, &trusted).await.unwrap_err();
        assert!(matches!(error, HeaderError::NotTrusted(who) if who == from), "{error:?}");
    }
    let mut start = [0; 6];
    server.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"PROXY ");
}

#[tokio::test]
async fn a_header_that_is_cut_is_an_end() {
    let whole = header().encode(HeaderVersion::V2);
    for cut in [0, 1, 12, 16, whole.len() - 1] {
        let (mut server, mut client, from) = pair().await;
        client.write_all(&whole[..cut]).await.unwrap();
        drop(client);
        let error = read_header(&mut server, from, &loopback()).await.unwrap_err();
        assert!(matches!(error, HeaderError::Ended), "{error:?}");
    }
}

#[tokio::test]
async fn what_is_no_header_is_refused_at_its_first_bytes() {
    for bytes in
        [&b"\x10\x10\0\x04MQTT"[..], b"\x16\x03\x01", b"GET / HTTP/1.1", b"PROXIES", b"\r\n\r\n\0\r\nQUIX"]
    {
        let (mut server, mut client, from) = pair().await;
        client.write_all(bytes).await.unwrap();
        let error = read_header(&mut server, from, &loopback()).await.unwrap_err();
        assert!(matches!(error, HeaderError::Malformed(_)), "{error:?}");
    }
}

#[tokio::test]
async fn a_header_that_never_ends_is_refused_and_not_kept() {
    for bytes in [b"PROXY UNKNOWN ".to_vec(), b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xFF\xFF".to_vec()] {
        let (mut server, mut client, from) = pair().await;
        client.write_all(&[bytes, vec![b'x'; 10_000]].concat()).await.unwrap();
        let error = read_header(&mut server, from, &loopback()).await.unwrap_err();
        assert!(matches!(error, HeaderError::Malformed(_)), "{error:?}");
    }
}
