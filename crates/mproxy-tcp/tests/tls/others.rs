//! Real programs at the other end: OpenSSL as a client, haproxy in front with PROXY headers. Where one is not installed
//! its test says so and is left out.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use mproxy_tcp::networks::Network;
use mproxy_tcp::proxy_header::{Header, ProxiedCertificate, read_header};
use mproxy_tcp::tls::server::mqtt_alpn;
use mproxy_tcp::tls::{ClientTls, HandshakeFacts, Identity, Material, ServerTls, accept, connect};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::authority::Identities as _;
use crate::certificates::{Authority, Folder};

pub(crate) fn is_here(program: &str) -> bool {
    let here = Command::new(program).arg("-v").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !here {
        eprintln!("LEFT OUT: {program} is not installed");
    }
    here
}

/// Ends the program with the test.
pub(crate) struct ForeignProcess(pub(crate) std::process::Child);

impl Drop for ForeignProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn openssl_gets_in_with_both_versions() {
    if !is_here("openssl") {
        return;
    }
    let (folder, root) = (Folder::default(), Authority::root("root"));
    let identity = folder.identity("server", &root.sign_numbered("broker.example", 1));
    let own = folder.identity("client", &root.sign_numbered("device-7", 2));
    let ca = folder.write("ca.pem()", root.pem());
    let server = ServerTls {
        identities: vec![identity],
        client_ca: Some(ca.clone()),
        alpn: mqtt_alpn(),
        ..ServerTls::default()
    };
    let server = Arc::new(server.build().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    for (option, version) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let mut client = Command::new("openssl");
        client.args(["s_client", "-quiet", "-verify_return_error", "-alpn", "mqtt", option]);
        client.args(["-servername", "broker.example", "-connect", &address]);
        client.arg("-CAfile").arg(&ca).arg("-cert").arg(&own.cert).arg("-key").arg(&own.key);
        client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut client = ForeignProcess(client.spawn().unwrap());
        let (stream, _) = listener.accept().await.unwrap();
        let (mut stream, facts): (_, HandshakeFacts) =
            accept(stream, Arc::clone(&server), |_| true).await.unwrap();
        assert_eq!((facts.version, facts.alpn.as_deref()), (version, Some("mqtt")));
        assert_eq!(facts.common_name.as_deref(), Some("device-7"));
        let mut stdin = client.0.stdin.take().unwrap();
        std::io::Write::write_all(&mut stdin, b"hello").unwrap();
        let mut came = [0; 5];
        stream.read_exact(&mut came).await.unwrap();
        stream.write_all(&came).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut back = [0; 5];
        std::io::Read::read_exact(client.0.stdout.as_mut().unwrap(), &mut back).unwrap();
        assert_eq!(&back, b"hello");
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn haproxy_in_front_tells_who_the_client_is() {
    if !is_here("haproxy") {
        return;
    }
    let (folder, root) = (Folder::default(), Authority::root("root"));
    let signed = root.sign_numbered("broker.example", 1);
    let pem = folder.write("both.pem", format!("{}{}", signed.chain, signed.key));
    let ca = folder.write("ca.pem()", root.pem());
    let Identity { cert, key, .. } = folder.identity("client", &root.sign_numbered("device-7", 2));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let behind = listener.local_addr().unwrap();
    let (v1, v2, tls) = (free_port(), free_port(), free_port());
    let (pem, ca_file) = (pem.display(), ca.display());
    let config = format!(
        "defaults\n mode tcp\n timeout connect 5s\n timeout client 9s\n timeout server 9s\n\
         listen v1\n bind 127.0.0.1:{v1}\n server s {behind} send-proxy\n\
         listen v2\n bind 127.0.0.1:{v2}\n server s {behind} send-proxy-v2 proxy-v2-options crc32c\n\
         listen tls\n bind 127.0.0.1:{tls} ssl crt {pem} ca-file {ca_file} verify required alpn mqtt\n \
         server s {behind} send-proxy-v2 proxy-v2-options ssl,cert-cn,authority,crc32c\n"
    );
    let config = folder.write("haproxy.cfg", config);
    let mut haproxy = Command::new("haproxy");
    haproxy.arg("-db").arg("-f").arg(config).stdout(Stdio::null()).stderr(Stdio::null());
    let _haproxy = ForeignProcess(haproxy.spawn().unwrap());
    let client = ClientTls {
        roots: Some(ca),
        identity: Some(Identity { cert, key, ocsp: None }),
        alpn: vec![b"mqtt".to_vec()],
        ..ClientTls::default()
    };
    let client = Arc::new(client.build().unwrap());

    for port in [v1, v2, tls] {
        let mut stream = knock(port).await;
        let source = stream.local_addr().unwrap();
        let destination = stream.peer_addr().unwrap();
        let header = if port == tls {
            // haproxy connects to us once the handshake is done.
            let connecting = connect(stream, Arc::clone(&client), "broker.example");
            let (connected, header) = tokio::join!(connecting, header(&listener));
            connected.unwrap();
            header
        } else {
            stream.write_all(b"rest").await.unwrap();
            header(&listener).await
        };
        let endpoints = header.endpoints.unwrap();
        assert_eq!((endpoints.source, endpoints.destination), (source, destination));
        if port == tls {
            let told = header.tls.unwrap();
            assert_eq!(told.version.as_deref(), Some("TLSv1.3"));
            assert_eq!(told.common_name.as_deref(), Some("device-7"));
            assert_eq!(told.certificate, ProxiedCertificate::Verified);
            assert_eq!(header.authority.as_deref(), Some("broker.example"));
            assert_eq!(header.alpn.as_deref(), Some(&b"mqtt"[..]));
        } else {
            assert_eq!(header.tls, None);
        }
    }
}

/// Connects as soon as somebody listens.
pub(crate) async fn knock(port: u16) -> TcpStream {
    let end = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        match TcpStream::connect(("127.0.0.1", port)).await {
            Ok(stream) => return stream,
            Err(error) => assert!(tokio::time::Instant::now() < end, "haproxy does not listen: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn header(listener: &TcpListener) -> Header {
    let trusted: Network = "127.0.0.1".parse().unwrap();
    let (mut stream, from) = listener.accept().await.unwrap();
    read_header(&mut stream, from.ip(), &[trusted]).await.unwrap()
}
