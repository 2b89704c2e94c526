//! Any transports put together, byte for byte: each transport in to each transport out, and what is known of the client on
//! the way.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::future::poll_fn;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mproxy_core::budget::{Budget, Scope};
use mproxy_core::peer::{Address, ConnectionId, Origin, Transport};
use mproxy_server::config::kind::{SettingKind, TokenPlace};
use mproxy_server::config::{ListenerLimits, ListenerSettings, Scheme, SendProxy, Target, Web};
use mproxy_server::door::{
    self, AcceptOutcome, Carrier, CertificateStore, Entered, HandshakeLimits, Inward, Known, Outward,
    Refused, Stream,
};
use mproxy_tcp::networks::Network;
use mproxy_tcp::tls::{ClientTls, Identity, ServerTls};
use mproxy_unix::SocketFile;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::time::Instant;

const ALL: [Scheme; 5] = [Scheme::Mqtt, Scheme::Mqtts, Scheme::Ws, Scheme::Wss, Scheme::Unix];

/// A CA, a certificate for localhost, and one of a device, in files.
struct Files {
    folder: TempDir,
}

impl Files {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        std::fs::write(folder.path().join("ca.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
        let ca = Issuer::new(params, key);
        for name in ["localhost", "device-7"] {
            let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            let key = KeyPair::generate().unwrap();
            let cert = params.signed_by(&key, &ca).unwrap();
            std::fs::write(folder.path().join(format!("{name}.crt")), cert.pem()).unwrap();
            std::fs::write(folder.path().join(format!("{name}.key")), key.serialize_pem()).unwrap();
        }
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn identity(&self, name: &str) -> Identity {
        let file = |end| self.path(&format!("{name}.{end}"));
        Identity { cert: file("crt"), key: file("key"), ocsp: None }
    }

    fn target(&self, scheme: Scheme, port: u16) -> Target {
        Target {
            scheme,
            host: "localhost".to_owned(),
            port,
            path: "/mqtt".to_owned(),
            socket: None,
            tls: ClientTls {
                roots: Some(self.path("ca.crt")),
                identity: Some(self.identity("device-7")),
                ..ClientTls::default()
            },
            server_name: None,
            proxy_protocol: SendProxy::Off,
        }
    }

    fn listener(&self, transport: Scheme) -> ListenerSettings {
        let tls = ServerTls {
            identities: vec![self.identity("localhost")],
            client_ca: Some(self.path("ca.crt")),
            ..ServerTls::default()
        };
        ListenerSettings {
            name: "test".to_owned(),
            transport,
            host: "127.0.0.1".to_owned(),
            port: 0,
            path: "/mqtt".to_owned(),
            unix: None,
            tls: transport.is_tls().then_some(tls),
            web: Web::default(),
            proxy_from: None,
            target: self.target(Scheme::Mqtt, 1),
            limits: ListenerLimits::default(),
            closed_by: String::new(),
        }
    }
}

/// Whose PROXY headers are believed.
fn near() -> Option<Vec<Network>> {
    Some(vec!["127.0.0.0/8".parse().unwrap()])
}

/// A door that is open.
struct OpenListener {
    open: Mutex<door::OpenListener>,
    address: Address,
    inward: Inward,
    budget: Arc<Budget>,
}

impl OpenListener {
    async fn new(listener: &ListenerSettings) -> Self {
        let inward = Inward::of(listener).unwrap();
        let open = inward.open(listener).await.unwrap();
        let (connection, listener) = (listener.limits.budget_connection, listener.limits.budget_listener);
        let budget = Arc::new(Budget::new(connection, listener, Arc::new(Scope::new(listener))));
        Self { address: open.address().clone(), open: Mutex::new(open), inward, budget }
    }

    /// At a Unix socket of a name that no other has.
    async fn unix(files: &Files, name: &str) -> Self {
        let unix = Some(SocketFile::new(files.path(name)));
        Self::new(&ListenerSettings { unix, ..files.listener(Scheme::Unix) }).await
    }

    /// Over this transport.
    async fn over(files: &Files, transport: Scheme, name: &str) -> Self {
        match transport {
            Scheme::Unix => Self::unix(files, name).await,
            _ => Self::new(&files.listener(transport)).await,
        }
    }

    fn socket(&self) -> SocketAddr {
        let Address::Ip(address) = self.address else { panic!("no address but {}", self.address) };
        address
    }

    fn port(&self) -> u16 {
        self.socket().port()
    }

    /// What leads here.
    fn target(&self, files: &Files, scheme: Scheme) -> Target {
        match &self.address {
            Address::Path(path) => Target { socket: Some(path.to_path_buf()), ..files.target(scheme, 1) },
            _ => files.target(scheme, self.port()),
        }
    }

    async fn enter(&self) -> Result<Entered, Refused> {
        let incoming = self.open.lock().await.accept().await;
        let AcceptOutcome::Connection(arrived) = incoming else { panic!("nobody came") };
        arrived.enter(HandshakeLimits::new(&self.budget)).await
    }
}

fn origin(entered: &Entered) -> Arc<Origin> {
    let Known { remote, local, tls, ws } = entered.known.clone();
    Arc::new(Origin {
        connection_id: ConnectionId(7),
        epoch: 1,
        instance: "test".into(),
        listener: "test".into(),
        transport: entered.stream.transport(),
        remote,
        local,
        tls,
        ws,
    })
}

async fn reach(target: &Target, origin: &Arc<Origin>) -> Stream {
    let deadline = Instant::now() + Duration::from_secs(10);
    Outward::of(target).unwrap().reach(origin, deadline).await.unwrap()
}

fn nobody() -> Arc<Origin> {
    let address = Address::from("192.0.2.1:1".parse::<SocketAddr>().unwrap());
    Arc::new(Origin {
        connection_id: ConnectionId(1),
        epoch: 1,
        instance: "test".into(),
        listener: "test".into(),
        transport: Transport::Tcp,
        remote: address.clone(),
        local: address,
        tls: None,
        ws: None,
    })
}

#[tokio::test]
async fn each_transport_crosses_to_each() {
    let files = Arc::new(Files::new());
    let big: Vec<u8> = (0..1_000_000u32).map(|n| (n % 251) as u8).collect();
    for inside in ALL {
        for outside in ALL {
            let broker = OpenListener::over(&files, outside, "broker.sock").await;
            let proxy = OpenListener::over(&files, inside, "proxy.sock").await;
            let client = async {
                let (mut reader, mut writer) = split(reach(&proxy.target(&files, inside), &nobody()).await);
                for size in [0, 1, 2, 125, 126, 65_535, 65_536, 1_000_000] {
                    let mut back = vec![0; size];
                    // At once: sockets hold less than the largest.
                    let writing = async {
                        writer.write_all(&big[..size]).await.unwrap();
                        writer.flush().await.unwrap();
                    };
                    let (read, ()) = tokio::join!(reader.read_exact(&mut back), writing);
                    read.unwrap();
                    assert!(back == big[..size], "{} to {}: {size}", inside.name(), outside.name());
                }
                writer.shutdown().await.unwrap();
                assert_eq!(reader.read(&mut [0; 9]).await.unwrap(), 0);
            };
            let between = async {
                let mut entered = proxy.enter().await.unwrap();
                let mut stream = reach(&broker.target(&files, outside), &origin(&entered)).await;
                copy_bidirectional(&mut entered.stream, &mut stream).await.unwrap();
            };
            let echo = async {
                let mut stream = broker.enter().await.unwrap().stream;
                let mut buffer = vec![0; 20_000];
                loop {
                    // As the relay does, before it lends a buffer: no byte may be forgotten inside.
                    poll_fn(|cx| stream.poll_readable(cx)).await;
                    match stream.read(&mut buffer).await.unwrap() {
                        0 => break stream.shutdown().await.unwrap(),
                        n => stream.write_all(&buffer[..n]).await.unwrap(),
                    }
                    stream.flush().await.unwrap();
                }
            };
            tokio::join!(client, between, echo);
        }
    }
}

#[tokio::test]
async fn who_the_client_is_reaches_the_broker_in_a_proxy_header() {
    let files = Files::new();
    for outside in ALL {
        let unix = Some(SocketFile::new(files.path("broker.sock")));
        let broker =
            OpenListener::new(&ListenerSettings { proxy_from: near(), unix, ..files.listener(outside) })
                .await;
        let proxy = OpenListener::new(&files.listener(Scheme::Wss)).await;
        let client = async { reach(&files.target(Scheme::Wss, proxy.port()), &nobody()).await };
        let (client, entered) = tokio::join!(client, proxy.enter());
        let entered = entered.unwrap();
        let Stream::Wss(client) = client else { panic!("{client:?}") };
        let from = client.get_ref().get_ref().local_addr().unwrap();
        let tls = entered.known.tls.as_deref().unwrap();
        assert_eq!(entered.known.remote, from.into());
        assert_eq!((tls.common_name.as_deref(), tls.sni.as_deref()), (Some("device-7"), Some("localhost")));
        assert_eq!(entered.known.ws.as_deref().unwrap().path, "/mqtt");
        let target = Target { proxy_protocol: SendProxy::V2, ..broker.target(&files, outside) };
        let origin = origin(&entered);
        let (_stream, met) = tokio::join!(reach(&target, &origin), broker.enter());
        let met = met.unwrap();
        assert_eq!((&met.known.remote, &met.known.local), (&entered.known.remote, &entered.known.local));
        let told = met.known.tls.unwrap();
        assert_eq!(told.common_name.as_deref(), Some("device-7"));
        assert_eq!(told.version, "TLSv1.3");
    }
}

#[tokio::test]
async fn a_certificate_is_replaced_under_a_thousand_connections() {
    mproxy_testkit::process::raise_file_limit(3000);
    let files = Files::new();
    let door = OpenListener::new(&files.listener(Scheme::Mqtts)).await;
    let outward = Outward::of(&files.target(Scheme::Mqtts, door.port())).unwrap();
    let mut certificates = CertificateStore::default();
    certificates.keep("listener mqtts", &door.inward.tls().unwrap());
    certificates.keep("target of test", outward.tls().unwrap());
    let meet = async || {
        let deadline = Instant::now() + Duration::from_secs(10);
        let client = nobody();
        let (stream, entered) = tokio::join!(outward.reach(&client, deadline), door.enter());
        (entered, stream)
    };
    let mut living = Vec::new();
    for _ in 0..1000 {
        let (entered, stream) = meet().await;
        living.push((entered.unwrap().stream, stream.unwrap()));
    }
    assert_eq!(certificates.renew_changed(), []);

    // The certificate comes first, its key later.
    let next = Files::new();
    let copy = |name: &str| std::fs::copy(next.path(name), files.path(name)).unwrap();
    copy("localhost.crt");
    let renewed = certificates.renew_changed();
    assert!(renewed[0].result.as_ref().unwrap_err().contains("localhost.key cannot be used"), "{renewed:?}");
    assert_eq!(certificates.failing().len(), 1);
    meet().await.1.unwrap();
    copy("localhost.key");
    assert_eq!(certificates.renew_changed().len(), 1);
    assert_eq!(certificates.failing(), []);
    let (entered, stream) = meet().await;
    assert_eq!(
        entered.unwrap_err().label(),
        "refused_by_peer",
        "the new one is of a CA that is not known yet"
    );
    assert!(stream.is_err());
    for name in ["ca.crt", "device-7.crt", "device-7.key"] {
        copy(name);
    }
    assert!(certificates.renew_changed().iter().all(|renewed| renewed.result.is_ok()));
    meet().await.1.unwrap();

    for (here, there) in &mut living {
        there.write_all(b"still").await.unwrap();
        let mut came = [0; 5];
        here.read_exact(&mut came).await.unwrap();
        assert_eq!(&came, b"still");
    }
}

#[tokio::test]
async fn whoever_takes_one_port_for_another_is_refused_with_a_name_for_it() {
    let files = Files::new();
    let proxied = ListenerSettings { proxy_from: near(), ..files.listener(Scheme::Mqtt) };
    let cases: [(ListenerSettings, &[u8], &str); 5] = [
        (files.listener(Scheme::Mqtts), b"\x10\x10\0\x04MQTT", "not_tls"),
        (files.listener(Scheme::Wss), b"GET /mqtt HTTP/1.1\r\n\r\n", "not_tls"),
        (files.listener(Scheme::Ws), b"\x10\x10\0\x04MQTT\r\n\r\n", "ws_not_http"),
        (files.listener(Scheme::Ws), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "ws_refused"),
        (proxied, b"\x10\x10\0\x04MQTT", "proxy_malformed"),
    ];
    for (listener, bytes, label) in cases {
        let door = OpenListener::new(&listener).await;
        let mut client = TcpStream::connect(door.socket()).await.unwrap();
        client.write_all(bytes).await.unwrap();
        let leaving = async {
            let _ = client.read_to_end(&mut Vec::new()).await;
            drop(client);
        };
        let (refused, ()) = tokio::join!(door.enter(), leaving);
        assert_eq!(refused.unwrap_err().label(), label);
    }
}

#[tokio::test]
async fn half_handshakes_are_held_only_while_there_is_room() {
    let files = Files::new();
    let limits = ListenerLimits {
        budget_connection: 1 << 20,
        budget_listener: 256 << 10,
        ..ListenerLimits::default()
    };
    let door = OpenListener::new(&ListenerSettings { limits, ..files.listener(Scheme::Mqtts) }).await;
    // A ClientHello of 60,000 bytes, of which the last one is missing.
    let hello = [&b"\x01\x00\xea\x60\x03\x03"[..], &[0; 59_997]].concat();
    let records: Vec<u8> = hello
        .chunks(16_000)
        .flat_map(|part| [&[0x16, 3, 1][..], &(part.len() as u16).to_be_bytes(), part].concat())
        .collect();
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = TcpStream::connect(door.socket()).await.unwrap();
        client.write_all(&records).await.unwrap();
        clients.push(client);
    }
    let refused = tokio::select! {
        one = door.enter() => one,
        other = door.enter() => other,
    };
    assert_eq!(refused.unwrap_err().label(), "no_room", "an eighth of it is for one address");
    assert_eq!(door.budget.total().held(), 0, "and is given back");
}

#[tokio::test]
async fn a_broker_that_is_none_is_told_in_one_line() {
    let files = Files::new();
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    let serving = async {
        for _ in 0..2 {
            let (mut stream, _) = socket.accept().await.unwrap();
            stream.write_all(b"\x20\x02\0\0\r\n\r\n").await.unwrap();
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    };
    let asking = async {
        let mut texts = Vec::new();
        for scheme in [Scheme::Mqtts, Scheme::Ws] {
            let outward = Outward::of(&files.target(scheme, port)).unwrap();
            let deadline = Instant::now() + Duration::from_secs(10);
            texts.push(outward.reach(&nobody(), deadline).await.unwrap_err().why.why);
        }
        texts
    };
    let ((), texts) = tokio::join!(serving, asking);
    assert!(
        texts[0].starts_with(&format!("mqtts://localhost:{port}: expected TLS, received MQTT without TLS")),
        "{}",
        texts[0]
    );
    assert!(texts[1].starts_with(&format!("ws://localhost:{port}/mqtt: the WebSocket handshake failed: ")));
}

#[test]
fn what_is_to_be_encrypted_is_never_served_plain() {
    for transport in [Scheme::Mqtts, Scheme::Wss] {
        let error =
            Inward::of(&ListenerSettings { tls: None, ..Files::new().listener(transport) }).unwrap_err();
        assert!(error.to_string().contains("no certificate to show"), "{error}");
    }
}

#[tokio::test]
async fn a_header_from_elsewhere_is_not_even_read() {
    let files = Files::new();
    let elsewhere = Some(vec!["192.0.2.0/24".parse().unwrap()]);
    let door =
        OpenListener::new(&ListenerSettings { proxy_from: elsewhere, ..files.listener(Scheme::Mqtt) }).await;
    let _client = TcpStream::connect(door.socket()).await.unwrap();
    assert_eq!(door.enter().await.unwrap_err().label(), "proxy_not_trusted");
}

#[tokio::test]
async fn a_page_comes_in_from_where_it_may_and_what_was_chosen_is_told() {
    let files = Files::new();
    let web = Web {
        origins: Some(vec!["https://app.example".to_owned()]),
        headers: vec!["x-tenant".parse().unwrap()],
        cookies: vec!["sid".to_owned()],
        token: None,
    };
    let door = OpenListener::new(&ListenerSettings { web, ..files.listener(Scheme::Ws) }).await;
    let request = |origin: &str| {
        format!(
            "GET /mqtt?a=b HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Protocol: mqtt\r\nOrigin: {origin}\r\nX-Tenant: acme\r\nX-Other: no\r\n\
             Cookie: sid=7; theme=dark\r\n\r\n"
        )
    };
    for (origin, may) in [("https://app.example", true), ("https://elsewhere.example", false)] {
        let mut client = TcpStream::connect(door.socket()).await.unwrap();
        client.write_all(request(origin).as_bytes()).await.unwrap();
        let mut status = [0; 12];
        let answered = async {
            client.read_exact(&mut status).await.unwrap();
            client.shutdown().await.unwrap();
        };
        let (entered, ()) = tokio::join!(door.enter(), answered);
        if !may {
            assert_eq!((&status[9..], entered.unwrap_err().label()), (&b"403"[..], "ws_refused"));
            continue;
        }
        let told = entered.unwrap().known.ws.unwrap();
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(told.path, "/mqtt?a=b");
        assert_eq!(told.headers, [header("x-tenant", "acme"), header("cookie", "sid=7")]);
    }
}

#[tokio::test]
async fn a_token_of_a_request_is_told_to_nobody_else() {
    let files = Files::new();
    for (place, shown) in [
        ("query:t", ("/mqtt?t=***&a=b", "authorization: Bearer one.two.three; cookie: jwt=one.two.three")),
        ("header:authorization", ("/mqtt?t=one.two.three&a=b", "cookie: jwt=one.two.three")),
        ("cookie:jwt", ("/mqtt?t=one.two.three&a=b", "authorization: Bearer one.two.three")),
    ] {
        let web = Web {
            origins: None,
            headers: vec!["authorization".parse().unwrap()],
            cookies: vec!["jwt".to_owned()],
            token: Some(TokenPlace::read(place).unwrap()),
        };
        let door = OpenListener::new(&ListenerSettings { web, ..files.listener(Scheme::Ws) }).await;
        let request = "GET /mqtt?t=one.two.three&a=b HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Protocol: mqtt\r\nAuthorization: Bearer one.two.three\r\nCookie: jwt=one.two.three\r\n\r\n";
        let mut client = TcpStream::connect(door.socket()).await.unwrap();
        client.write_all(request.as_bytes()).await.unwrap();
        let answered = async {
            let mut status = [0; 12];
            client.read_exact(&mut status).await.unwrap();
            client.shutdown().await.unwrap();
        };
        let (entered, ()) = tokio::join!(door.enter(), answered);
        let told = entered.unwrap().known.ws.unwrap();
        assert_eq!(told.token.as_ref().unwrap().expose().as_deref(), Some("one.two.three"), "{place}");
        let headers: Vec<_> = told.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        assert_eq!((&*told.path, &*headers.join("; ")), shown, "{place}");
    }
}

#[tokio::test]
async fn a_broker_may_be_called_otherwise_than_its_host() {
    let files = Files::new();
    let door = OpenListener::new(&files.listener(Scheme::Mqtts)).await;
    let by_address = Target { host: "127.0.0.1".to_owned(), ..files.target(Scheme::Mqtts, door.port()) };
    let named = Target { server_name: Some("localhost".to_owned()), ..by_address.clone() };
    let client = nobody();
    for (target, reached) in [(by_address, false), (named, true)] {
        let outward = Outward::of(&target).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let (stream, entered) = tokio::join!(outward.reach(&client, deadline), door.enter());
        assert_eq!((stream.is_ok(), entered.is_ok()), (reached, reached));
    }
}
