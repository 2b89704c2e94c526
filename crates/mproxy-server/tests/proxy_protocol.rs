//! The PROXY protocol: haproxy in front tells who the client is, the broker behind is told, and headers that lie, are
//! cut, or come from elsewhere let nobody in.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::net::SocketAddr;

use mproxy_testkit::PATIENCE;
use mproxy_testkit::broker::{BrokerScript, RecordingBroker};
use mproxy_testkit::certificates::{Authority, Folder};
use mproxy_testkit::haproxy::Haproxy;
use mproxy_testkit::service::{Running, Service};
use mproxy_testkit::transports::{TlsClient, Transport, login, open};
use mproxy_testkit::wire::{self, ConnectOptions, Version, WireClient};
use support::{Proxy, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

fn listener(name: &str, broker: SocketAddr, more: &str) -> String {
    format!(
        "[[listeners]]\nname = \"{name}\"\nhost = \"127.0.0.1\"\nport = 0\n{more}\n\
         target.host = \"{}\"\ntarget.port = {}\n",
        broker.ip(),
        broker.port()
    )
}

fn a_connect() -> Vec<u8> {
    wire::connect(Version::V311, "client", &ConnectOptions::default())
}

// ---- in

#[tokio::test]
async fn who_comes_through_haproxy_is_known_by_its_own_address() {
    let (root, folder) = (Authority::root("root"), Folder::default());
    let (service, mut clients) = Service::admitting();
    let service = Running::start(service).await;
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let file = format!("policy.url = \"{}\"\n", service.url)
        + &listener("proxied", broker.addr(), "proxy_protocol = true");
    let mut proxy = Proxy::configured("proxied", &file).await;

    let own = root.sign("localhost");
    let pem = folder.write("own.pem", format!("{}{}", own.chain, own.key));
    let ca = folder.write("ca.crt", root.pem());
    let (pem, ca) = (pem.display(), ca.display());
    let behind = proxy.mqtt;
    let haproxy = Haproxy::start(&[
        ("", &format!("server s {behind} send-proxy")),
        ("", &format!("server s {behind} send-proxy-v2")),
        (
            &format!("ssl crt {pem} ca-file {ca} verify required alpn mqtt"),
            &format!("server s {behind} send-proxy-v2 proxy-v2-options ssl,cert-cn,authority,crc32c"),
        ),
    ])
    .await;
    let device = TlsClient::showing(root.pem(), &root.sign("device-7")).alpn("mqtt");
    let ways = [(Transport::Tcp, "v1"), (Transport::Tcp, "v2"), (Transport::Tls, "v2 with TLS")];
    let mut living = Vec::new();
    for ((transport, name), &door) in ways.into_iter().zip(haproxy.doors()) {
        // haproxy's own address is 127.0.0.1, and so is the client's: the port tells them apart.
        let client = login(transport, door, &device, Version::V5, name).await;
        let told = clients.recv().await.unwrap();
        assert_eq!(told.local_address, door.to_string(), "{name}");
        // A turn after the CONNACK.
        until("the session", async || {
            let sessions = proxy.sessions().await;
            let session = sessions.iter().find(|session| session["client_id"] == name);
            session.is_some_and(|session| session["peer_addr"] == told.remote_address.as_str())
        })
        .await;
        let line = proxy.line(&["connection accepted", &format!("peer_addr={}", told.remote_address)]).await;
        assert!(line.contains("listener=\"proxied\""), "{line}");
        let port = told.remote_address.rsplit_once(':').unwrap().1.parse::<u16>().unwrap();
        assert_eq!(client.local().port(), port, "{name}");
        match (transport, told.tls) {
            (Transport::Tls, Some(tls)) => {
                assert_eq!((tls.version.as_str(), tls.common_name()), ("TLSv1.3", "device-7"));
                assert_eq!((tls.server_name(), tls.alpn()), ("localhost", "mqtt"));
            }
            (_, None) => {}
            (_, tls) => panic!("{name}: {tls:?}"),
        }
        living.push(client);
    }
    drop(living);
    let told = service.events_when(|told| told.iter().filter(|told| told.what == "disconnect").count() == 3);
    told.await;
    proxy.stop().await;
}

#[tokio::test]
async fn a_header_that_lies_is_cut_or_comes_from_elsewhere_lets_nobody_in() {
    let mut broker = RecordingBroker::start(BrokerScript::default()).await;
    let to = broker.addr();
    let from_here =
        "proxy_protocol = true\nproxy_from = [\"127.0.0.0/8\"]\nlimits.connect_timeout = \"300ms\"";
    let from_there = "proxy_protocol = true\nproxy_from = [\"192.0.2.0/24\"]";
    let file =
        listener("here", to, from_here) + &listener("there", to, from_there) + &listener("plain", to, "");
    let mut proxy = Proxy::configured("here", &file).await;
    let (there, plain) = (proxy.door("there").await, proxy.door("plain").await);
    let here = proxy.mqtt;

    const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
    let v2 = |rest: &[u8]| [V2, rest, &a_connect()].concat();
    let v1 = |line: &str| [line.as_bytes(), b"\r\n", &a_connect()].concat();
    let good = v1("PROXY TCP4 192.0.2.1 192.0.2.2 4000 1883");
    let mut crc = vec![0x21, 0x11, 0, 19, 192, 0, 2, 1, 192, 0, 2, 2, 15, 160, 7, 91];
    crc.extend([0x03, 0, 4, 1, 2, 3, 4]);
    let cases: [(&str, SocketAddr, Vec<u8>, &str, &str); 16] = [
        ("elsewhere", there, good.clone(), "there", "proxy_not_trusted"),
        ("none", here, a_connect(), "here", "proxy_malformed"),
        ("TLS", here, vec![0x16, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3, 0, 0], "here", "proxy_malformed"),
        ("no family", here, v1("PROXY TCP5 192.0.2.1 192.0.2.2 4000 1883"), "here", "proxy_malformed"),
        ("no address", here, v1("PROXY TCP4 192.0.2.256 192.0.2.2 4000 1883"), "here", "proxy_malformed"),
        ("another family", here, v1("PROXY TCP4 2001:db8::1 192.0.2.2 4000 1883"), "here", "proxy_malformed"),
        ("no port", here, v1("PROXY TCP4 192.0.2.1 192.0.2.2 65536 1883"), "here", "proxy_malformed"),
        ("more than there is", here, v1("PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3"), "here", "proxy_malformed"),
        ("endless", here, [b"PROXY TCP4 ".as_slice(), &[b'1'; 400]].concat(), "here", "proxy_malformed"),
        ("v3", here, v2(&[0x31, 0x11, 0, 12, 1, 1, 1, 1, 2, 2, 2, 2, 0, 1, 0, 2]), "here", "proxy_malformed"),
        ("too short", here, v2(&[0x21, 0x11, 0, 4, 1, 1, 1, 1]), "here", "proxy_malformed"),
        ("wrong checksum", here, v2(&crc), "here", "proxy_malformed"),
        (
            "a field past the end",
            here,
            v2(&[0x21, 0x11, 0, 15, 1, 1, 1, 1, 2, 2, 2, 2, 0, 1, 0, 2, 0x20, 0xff, 0xff]),
            "here",
            "proxy_malformed",
        ),
        ("cut and left", here, b"PROXY TCP4 192.0.2.1".to_vec(), "here", "too_late"),
        ("cut in v2", here, [V2, &[0x21, 0x11, 0, 12, 1]].concat(), "here", "too_late"),
        ("where none is expected", plain, good.clone(), "plain", "not_mqtt"),
    ];
    for (name, door, bytes, listener, cause) in cases {
        let labels = format!("listener=\"{listener}\",cause=\"{cause}\",by=\"client\"");
        let series = format!("mproxy_connections_closed_total{{{labels}}}");
        let before = proxy.metric(&series).await;
        let mut client = WireClient::open(door).await;
        let from = client.local_addr();
        let _ = client.try_send(&bytes).await;
        client.expect_closed().await;
        drop(client);
        let line = proxy.line(&[&format!("peer_addr={from}"), &format!("cause=\"{cause}\"")]).await;
        assert!(line.contains("by=\"client\""), "{name}: {line}");
        assert_eq!(proxy.metric(&series).await, before + 1.0, "{name}");
    }
    assert!(broker.try_session().is_none());
    // And whoever tells the truth comes in.
    let mut client = WireClient::open(here).await;
    client.send(&good).await;
    client.expect(&wire::connack(Version::V311, false, 0, &[])).await;
    assert_eq!(proxy.sessions().await[0]["peer_addr"], "192.0.2.1:4000");
    drop(client);
    proxy.stop().await;
}

// ---- out

/// What comes before the CONNECT, and the broker's end of the connection, which lives as long as that is kept.
async fn first_bytes(listener: TcpListener) -> (Vec<u8>, TcpStream) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let (mut came, connect) = (Vec::new(), a_connect());
    while !came.ends_with(&connect) {
        let read = timeout(PATIENCE, stream.read_buf(&mut came)).await.unwrap().unwrap();
        assert!(read > 0, "only {came:02x?}");
    }
    stream.write_all(&[0x20, 2, 0, 0]).await.unwrap();
    came.truncate(came.len() - connect.len());
    (came, stream)
}

#[tokio::test]
async fn the_broker_is_told_who_the_client_is() {
    let (root, folder) = (Authority::root("root"), Folder::default());
    let ca = folder.write("ca.crt", root.pem());
    let (cert, key) = folder.keep("localhost", &root.sign("localhost"));
    let listening = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (v1, v2) = (listening().await, listening().await);
    let told = |listener: &TcpListener, version: &str, more: &str| {
        let more = format!("{more}\ntarget.proxy_protocol = \"{version}\"");
        self::listener(version, listener.local_addr().unwrap(), &more)
    };
    let mutual = format!(
        "transport = \"mqtts\"\n\
         tls = {{ server_cert = {cert:?}, server_key = {key:?}, ca_certs = {ca:?}, client_tls = true }}"
    );
    let file = told(&v1, "v1", "") + &told(&v2, "v2", &mutual);
    let mut proxy = Proxy::configured("v1", &file).await;
    let door = proxy.door("v2").await;

    let mut plain = WireClient::open(proxy.mqtt).await;
    plain.send(&a_connect()).await;
    let expected =
        format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n", plain.local_addr().port(), proxy.mqtt.port());
    let (header, of_plain) = first_bytes(v1).await;
    assert_eq!(String::from_utf8(header).unwrap(), expected);

    let tls = TlsClient::showing(root.pem(), &root.sign("device-7")).alpn("mqtt");
    let mut client = open(Transport::Tls, door, &tls).await;
    client.send(&a_connect()).await;
    let (header, of_tls) = first_bytes(v2).await;
    let (head, rest) = header.split_at(16);
    assert_eq!(head[..12], *b"\r\n\r\n\0\r\nQUIT\n");
    assert_eq!((head[12], head[13]), (0x21, 0x11), "PROXY, TCP over IPv4");
    assert_eq!(usize::from(u16::from_be_bytes([head[14], head[15]])), rest.len());
    let (addresses, fields) = rest.split_at(12);
    let ports = [client.local().port().to_be_bytes(), door.port().to_be_bytes()].concat();
    assert_eq!(addresses, [[127, 0, 0, 1, 127, 0, 0, 1].as_slice(), &ports].concat());
    let fields = split(fields);
    let field = |kind: u8| fields.iter().find(|(found, _)| *found == kind).map(|(_, value)| value.clone());
    assert_eq!(field(0x01).unwrap(), b"mqtt", "ALPN");
    assert_eq!(field(0x02).unwrap(), b"localhost", "the name asked for");
    let id = String::from_utf8(field(0x05).unwrap()).unwrap();
    // A turn after the CONNACK.
    until("the session of this id", async || {
        let sessions = proxy.sessions().await;
        sessions.iter().any(|session| session["listener"] == "v2" && session["connection_id"] == *id)
    })
    .await;
    let ssl = field(0x20).unwrap();
    // Over TLS, with a certificate on this connection and in this session; verified.
    assert_eq!((ssl[0] & 0x01, ssl[0] & 0x06 != 0, &ssl[1..5]), (1, true, &[0, 0, 0, 0][..]));
    assert_eq!(split(&ssl[5..]), [(0x21, b"TLSv1.3".to_vec()), (0x22, b"device-7".to_vec())]);
    drop((plain, client, of_plain, of_tls));
    proxy.stop().await;
}

/// Type, length, value, again and again.
fn split(mut fields: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut all = Vec::new();
    while let [kind, high, low, rest @ ..] = fields {
        let (value, after) = rest.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        all.push((*kind, value.to_vec()));
        fields = after;
    }
    assert!(fields.is_empty(), "half a field: {fields:02x?}");
    all
}
