//! Who gets in, who does not, and what is told of them.

use std::sync::Arc;

use mproxy_tcp::tls::server::mqtt_alpn;
use mproxy_tcp::tls::{
    ClientTls, HandshakeError, HandshakeFacts, Identity, Material, ServerTls, TlsStream, Verification,
    WithoutCertificate, accept, connect,
};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use crate::authority::Identities as _;
use crate::certificates::{Authority, Folder, Signed, expired};

type Accepted = Result<(TlsStream<DuplexStream>, HandshakeFacts), HandshakeError>;
type Connected = Result<TlsStream<DuplexStream>, HandshakeError>;

/// A CA, and a server under it that asks for no client certificate.
struct Scene {
    folder: Folder,
    root: Authority,
    server: ServerTls,
    client: ClientTls,
}

impl Scene {
    fn new() -> Self {
        let (folder, root) = (Folder::default(), Authority::root("root"));
        let identity = folder.identity("server", &root.sign_numbered("broker.example", 1));
        let roots = folder.write("roots.pem", root.pem());
        let server = ServerTls { identities: vec![identity], alpn: mqtt_alpn(), ..ServerTls::default() };
        Self { folder, root, server, client: ClientTls { roots: Some(roots), ..ClientTls::default() } }
    }

    /// Clients have to show a certificate of this CA.
    fn mutual(ca: &Authority) -> Self {
        let mut scene = Self::new();
        scene.server.client_ca = Some(scene.folder.write("client-ca.pem()", ca.pem()));
        scene
    }

    /// Clients are asked for one, and come in without it, too.
    fn optional(ca: &Authority) -> Self {
        let mut scene = Self::mutual(ca);
        scene.server.without_certificate = WithoutCertificate::Admit;
        scene
    }

    fn show(&mut self, signed: &Signed) {
        self.client.identity = Some(self.folder.identity("client", signed));
    }

    fn revoke(&mut self, lists: &str) {
        self.server.crls = vec![self.folder.write("revoked.pem", lists)];
    }

    async fn play(&self) -> (Accepted, Connected) {
        self.play_as("broker.example").await
    }

    async fn play_as(&self, name: &str) -> (Accepted, Connected) {
        let server = Arc::new(self.server.build().unwrap());
        let client = Arc::new(self.client.build().unwrap());
        let (here, there) = duplex(1 << 16);
        let connecting = async {
            let mut stream = connect(there, client, name).await?;
            // With TLS 1.3 a client learns only now that it was refused.
            if let Err(error) = stream.read_u8().await {
                return Err(HandshakeError::Io(error));
            }
            Ok(stream)
        };
        let accepting = async {
            let (mut stream, facts) = accept(here, server, |_| true).await?;
            stream.write_all(b"!").await.unwrap();
            stream.flush().await.unwrap();
            Ok((stream, facts))
        };
        tokio::join!(accepting, connecting)
    }

    /// Lets the client in, and tells what is known of it.
    async fn admit(&self) -> HandshakeFacts {
        let (accepted, connected) = self.play().await;
        connected.unwrap();
        accepted.unwrap().1
    }

    /// The server turns the client away for this reason, and the client notices.
    async fn refuse(&self, label: &str) {
        let (accepted, connected) = self.play().await;
        assert_eq!(accepted.unwrap_err().label(), label);
        assert!(connected.is_err());
    }

    /// The client does not believe the server for this reason.
    async fn disbelieve(&self, name: &str, label: &str) {
        let (accepted, connected) = self.play_as(name).await;
        assert_eq!(connected.unwrap_err().label(), label);
        assert_eq!(accepted.unwrap_err().label(), "refused_by_peer");
    }
}

/// A client as somebody else would set one up.
fn stranger(
    scene: &Scene,
    versions: &[&'static SupportedProtocolVersion],
    alpn: &[&str],
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(PemObject::from_pem_slice(scene.root.pem().as_bytes()).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

async fn meet(scene: &Scene, client: Arc<ClientConfig>, name: &str) -> (Accepted, std::io::Result<Vec<u8>>) {
    let server = Arc::new(scene.server.build().unwrap());
    let (here, there) = duplex(1 << 16);
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connecting = async {
        let stream = tokio_rustls::TlsConnector::from(client).connect(name, there).await?;
        let shown = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
        Ok((stream, shown))
    };
    let (accepted, connected) = tokio::join!(accept(here, server, |_| true), connecting);
    // Only now may the client go.
    (accepted, connected.map(|(_, shown)| shown))
}

#[tokio::test]
async fn both_versions_are_spoken_and_told() {
    let scene = Scene::new();
    for (spoken, told) in [(&version::TLS12, "TLSv1.2"), (&version::TLS13, "TLSv1.3")] {
        let client = stranger(&scene, &[spoken], &["mqtt"]);
        let (accepted, connected) = meet(&scene, client, "broker.example").await;
        connected.unwrap();
        let facts = accepted.unwrap().1;
        assert_eq!(facts.version, told);
        assert_eq!(facts.sni.as_deref(), Some("broker.example"));
        assert_eq!(facts.alpn.as_deref(), Some("mqtt"));
        assert_eq!(facts.subject, None);
    }
}

#[tokio::test]
async fn bytes_come_through_in_both_directions() {
    let scene = Scene::new();
    let (accepted, connected) = scene.play().await;
    let ((mut server, _), mut client) = (accepted.unwrap(), connected.unwrap());
    let big: Vec<u8> = (0..500_000u32).map(|n| (n % 251) as u8).collect();
    let sending = async {
        client.write_all(&big).await.unwrap();
        client.shutdown().await.unwrap();
        let mut back = Vec::new();
        client.read_to_end(&mut back).await.unwrap();
        assert!(back == big);
    };
    let answering = async {
        let mut came = Vec::new();
        server.read_to_end(&mut came).await.unwrap();
        server.write_all(&came).await.unwrap();
        server.shutdown().await.unwrap();
    };
    tokio::join!(sending, answering);
}

#[tokio::test]
async fn an_end_without_goodbye_is_an_end() {
    let (accepted, connected) = Scene::new().play().await;
    let (mut server, _) = accepted.unwrap();
    drop(connected.unwrap());
    assert_eq!(server.read(&mut [0; 9]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_client_that_offers_other_protocols_only_is_refused() {
    let mut scene = Scene::new();
    scene.client.alpn = vec![b"h2".to_vec()];
    let (accepted, connected) = scene.play().await;
    assert_eq!(accepted.unwrap_err().label(), "no_alpn");
    assert_eq!(connected.unwrap_err().label(), "refused_by_peer");
    scene.client.alpn = vec![b"h2".to_vec(), b"x-amzn-mqtt-ca".to_vec()];
    assert_eq!(scene.admit().await.alpn.as_deref(), Some("x-amzn-mqtt-ca"));
    scene.server.alpn = vec![b"http/1.1".to_vec()];
    scene.client.alpn = vec![b"http/1.1".to_vec()];
    assert_eq!(scene.admit().await.alpn.as_deref(), Some("http/1.1"));
    scene.client.alpn = vec![];
    assert_eq!(scene.admit().await.alpn, None);
}

#[tokio::test]
async fn a_client_certificate_of_a_chain_of_three_is_told_whole() {
    let ca = Authority::root("devices");
    let mut scene = Scene::mutual(&ca);
    let line = ca.intermediate("line 1");
    scene.show(&line.sign_numbered("device-7.example", 0xABCD));
    let facts = scene.admit().await;
    assert_eq!(facts.chain.len(), 2, "leaf and intermediate; the root is ours");
    assert_eq!(facts.common_name.as_deref(), Some("device-7.example"));
    assert_eq!(facts.subject_alt_names, ["DNS:device-7.example"]);
    assert_eq!(facts.serial.as_deref(), Some("abcd"));
    assert_eq!(facts.fingerprint.unwrap().len(), 64);
    assert!(facts.subject.unwrap().contains("CN=device-7.example"));
}

#[tokio::test]
async fn who_must_show_a_certificate_and_does_not_stays_out() {
    Scene::mutual(&Authority::root("devices")).refuse("no_certificate").await;
}

#[tokio::test]
async fn who_may_leave_the_certificate_out_comes_in_as_somebody_without_one() {
    let ca = Authority::root("devices");
    let mut scene = Scene::optional(&ca);
    for spoken in [&version::TLS12, &version::TLS13] {
        let (accepted, connected) = meet(&scene, stranger(&scene, &[spoken], &[]), "broker.example").await;
        connected.unwrap();
        let facts = accepted.unwrap().1;
        let HandshakeFacts { chain, subject, common_name, subject_alt_names, fingerprint, serial, .. } =
            facts;
        assert!(chain.is_empty() && subject_alt_names.is_empty(), "{chain:?} {subject_alt_names:?}");
        assert_eq!([subject, common_name, fingerprint, serial], [None, None, None, None]);
    }
    scene.show(&ca.sign_numbered("device.example", 1));
    let facts = scene.admit().await;
    assert_eq!((facts.common_name.as_deref(), facts.chain.len()), (Some("device.example"), 1));
}

#[tokio::test]
async fn a_certificate_that_may_be_left_out_has_to_be_good_where_it_is_shown() {
    let (ca, others) = (Authority::root("devices"), Authority::root("others"));
    let mut scene = Scene::optional(&ca);
    for (shown, label) in [
        (ca.sign_with("device.example", expired), "expired"),
        (others.sign_numbered("device.example", 1), "unknown_ca"),
    ] {
        scene.show(&shown);
        scene.refuse(label).await;
    }
    scene.show(&ca.sign_numbered("device.example", 7));
    for (lists, label) in [
        (ca.revoke(&[7]), "revoked"),
        (others.revoke(&[]), "no_crl"),
        (ca.revoke_until(&[], 2025), "crl_expired"),
    ] {
        scene.revoke(&lists);
        scene.refuse(label).await;
    }
    scene.client.identity = None;
    scene.admit().await;
}

#[tokio::test]
async fn a_certificate_of_somebody_else_does_not_open() {
    let mut scene = Scene::mutual(&Authority::root("devices"));
    // The same name makes no difference.
    scene.show(&Authority::root("devices").sign_numbered("device.example", 1));
    let (accepted, connected) = scene.play().await;
    let label = accepted.unwrap_err().label();
    assert!(matches!(label, "unknown_ca" | "bad_certificate"), "{label}");
    assert!(connected.is_err());
    scene.show(&Authority::root("others").sign_numbered("device.example", 1));
    scene.refuse("unknown_ca").await;
}

#[tokio::test]
async fn an_expired_client_certificate_does_not_open() {
    let ca = Authority::root("devices");
    let mut scene = Scene::mutual(&ca);
    scene.show(&ca.sign_with("device.example", expired));
    scene.refuse("expired").await;
}

#[tokio::test]
async fn a_revoked_client_certificate_does_not_open_and_others_do() {
    let ca = Authority::root("devices");
    let mut scene = Scene::mutual(&ca);
    scene.revoke(&ca.revoke(&[7]));
    scene.show(&ca.sign_numbered("device.example", 7));
    scene.refuse("revoked").await;
    scene.show(&ca.sign_numbered("device.example", 8));
    scene.admit().await;
}

#[tokio::test]
async fn a_revoked_intermediate_takes_everybody_below_it_along() {
    let ca = Authority::root("devices");
    let mut scene = Scene::mutual(&ca);
    let line = ca.intermediate("line 1");
    scene.show(&line.sign_numbered("device.example", 7));
    scene.revoke(&ca.revoke(&[]));
    scene.refuse("no_crl").await;
    scene.revoke(&[ca.revoke(&[]), line.revoke(&[8])].concat());
    scene.admit().await;
    scene.revoke(&[ca.revoke(&[]), line.revoke(&[7])].concat());
    scene.refuse("revoked").await;
}

#[tokio::test]
async fn a_list_that_is_out_of_date_lets_nobody_in() {
    let ca = Authority::root("devices");
    let mut scene = Scene::mutual(&ca);
    scene.revoke(&ca.revoke_until(&[], 2025));
    scene.show(&ca.sign_numbered("device.example", 8));
    scene.refuse("crl_expired").await;
}

#[tokio::test]
async fn a_broker_is_believed_only_with_a_good_certificate_for_its_name() {
    let mut scene = Scene::new();
    scene.admit().await;
    scene.disbelieve("other.example", "wrong_name").await;
    scene.disbelieve("127.0.0.1", "wrong_name").await;
    let own = scene.folder.identity("expired", &scene.root.sign_with("broker.example", expired));
    scene.server.identities = vec![own];
    scene.disbelieve("broker.example", "expired").await;
    let other = Authority::root("other").sign_numbered("broker.example", 1);
    scene.server.identities = vec![scene.folder.identity("other", &other)];
    scene.disbelieve("broker.example", "unknown_ca").await;
}

#[tokio::test]
async fn a_broker_at_an_address_shows_a_certificate_for_it() {
    let mut scene = Scene::new();
    scene.server.identities =
        vec![scene.folder.identity("address", &scene.root.sign_numbered("127.0.0.1", 1))];
    scene.play_as("127.0.0.1").await.1.unwrap();
    scene.server.identities = vec![scene.folder.identity("address", &scene.root.sign_numbered("::1", 1))];
    scene.play_as("[::1]").await.1.unwrap();
    let error = scene.play_as("not a name").await.1.unwrap_err();
    assert_eq!(error.label(), "server_name");
}

#[tokio::test]
async fn a_revoked_broker_is_not_believed() {
    let mut scene = Scene::new();
    scene.client.crls = vec![scene.folder.write("brokers.pem", scene.root.revoke(&[1]))];
    scene.disbelieve("broker.example", "revoked").await;
}

#[tokio::test]
async fn whoever_says_so_in_many_words_believes_anybody() {
    let mut scene = Scene::new();
    let other = Authority::root("other").sign_with("whoever.example", expired);
    scene.server.identities = vec![scene.folder.identity("other", &other)];
    scene.client.verification = Verification::Nobody;
    scene.admit().await;
}

#[tokio::test]
async fn the_name_that_is_asked_for_picks_the_certificate() {
    let mut scene = Scene::new();
    let names = ["a.example", "b.example", "*.c.example"];
    let signed = names.map(|name| scene.root.sign_numbered(name, 1));
    let identities = signed.iter().enumerate().map(|(n, one)| scene.folder.identity(&n.to_string(), one));
    scene.server.identities = identities.collect();
    let leaf =
        |n: usize| rustls::pki_types::CertificateDer::from_pem_slice(signed[n].chain.as_bytes()).unwrap();
    for (asked, shown) in [("a.example", 0), ("B.example", 1), ("x.c.example", 2)] {
        let (_, seen) = meet(&scene, stranger(&scene, &[&version::TLS13], &[]), asked).await;
        assert_eq!(seen.unwrap(), leaf(shown).to_vec(), "{asked}");
    }
    // Nobody here is called so: the first is shown, and the client decides.
    for asked in ["c.example", "x.y.c.example", "other.example", "127.0.0.1"] {
        let (accepted, seen) = meet(&scene, stranger(&scene, &[&version::TLS13], &[]), asked).await;
        assert!(seen.is_err() && accepted.is_err(), "{asked}");
    }
}

#[tokio::test]
async fn a_supplied_ocsp_response_is_stapled() {
    let mut scene = Scene::new();
    let response = b"\x30\x03\x0A\x01\x00";
    let path = scene.folder.write("response.der", response);
    scene.server.identities[0].ocsp = Some(path);
    let seen = Arc::new(Staple::default());
    let mut client = (*stranger(&scene, &[&version::TLS13], &[])).clone();
    client.dangerous().set_certificate_verifier(Arc::clone(&seen) as _);
    meet(&scene, Arc::new(client), "broker.example").await.1.unwrap();
    assert_eq!(*seen.0.lock(), response);
}

#[tokio::test]
async fn plain_bytes_on_a_tls_port_are_told_as_such() {
    let scene = Scene::new();
    let connect = b"\x10\x10\0\x04MQTT\x04\x02\0\x3c\0\x04abcd";
    for (bytes, told) in [
        (&connect[..], "received MQTT without TLS"),
        (b"GET /mqtt HTTP/1.1\r\nHost: x\r\n\r\n", "received HTTP without TLS"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n", "a PROXY header"),
    ] {
        let (here, mut there) = duplex(1 << 16);
        there.write_all(bytes).await.unwrap();
        let error = accept(here, Arc::new(scene.server.build().unwrap()), |_| true).await.unwrap_err();
        assert_eq!(error.label(), "not_tls", "{error:?}");
        assert!(error.to_string().contains(told), "{error}");
    }
}

#[tokio::test]
async fn an_answer_that_is_no_tls_is_told_as_such() {
    let scene = Scene::new();
    let (here, mut there) = duplex(1 << 16);
    there.write_all(b"\x20\x02\0\0\x20\x02\0\0").await.unwrap();
    let client = Arc::new(scene.client.build().unwrap());
    assert_eq!(connect(here, client, "broker.example").await.unwrap_err().label(), "not_tls");
}

#[tokio::test]
async fn who_leaves_in_the_middle_has_ended_it() {
    let scene = Scene::new();
    for bytes in [&b""[..], b"\x16\x03\x01\x02\0\x01"] {
        let (here, mut there) = duplex(1 << 16);
        there.write_all(bytes).await.unwrap();
        drop(there);
        let error = accept(here, Arc::new(scene.server.build().unwrap()), |_| true).await.unwrap_err();
        assert_eq!(error.label(), "ended", "{error:?}");
    }
}

#[tokio::test]
async fn a_handshake_that_stalls_can_be_dropped() {
    let scene = Scene::new();
    let (here, mut there) = duplex(1 << 16);
    there.write_all(b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03").await.unwrap();
    tokio::select! {
        biased;
        accepted = accept(here, Arc::new(scene.server.build().unwrap()), |_| true) => panic!("{:?}", accepted.err()),
        () = std::future::ready(()) => {}
    }
    assert_eq!(there.read(&mut [0; 9]).await.unwrap(), 0, "the connection is closed");
    scene.admit().await;
}

#[tokio::test]
async fn a_client_comes_again_with_a_ticket_unless_its_certificate_counts() {
    let ca = Authority::root("devices");
    let shows = |mut scene: Scene| {
        scene.show(&ca.sign_numbered("device.example", 1));
        scene
    };
    for (scene, again) in [
        (shows(Scene::new()), true),
        (shows(Scene::mutual(&ca)), false),
        (shows(Scene::optional(&ca)), false),
        // It might have a certificate the next time, and would not be asked.
        (Scene::optional(&ca), false),
    ] {
        let client = Arc::new(scene.client.build().unwrap());
        let server = Arc::new(scene.server.build().unwrap());
        let mut kinds = Vec::new();
        for _ in 0..2 {
            let (here, there) = duplex(1 << 16);
            let name = ServerName::try_from("broker.example").unwrap();
            let connector = tokio_rustls::TlsConnector::from(Arc::clone(&client));
            let (accepted, connected) =
                tokio::join!(accept(here, Arc::clone(&server), |_| true), connector.connect(name, there));
            let (mut stream, facts) = accepted.unwrap();
            assert_eq!(facts.sni.as_deref(), Some("broker.example"), "also of a session that goes on");
            stream.write_all(b"!").await.unwrap();
            stream.flush().await.unwrap();
            let mut connected = connected.unwrap();
            // The ticket comes before the first byte.
            connected.read_u8().await.unwrap();
            kinds.push(connected.get_ref().1.handshake_kind().unwrap());
        }
        assert_eq!(kinds[1] == rustls::HandshakeKind::Resumed, again, "{kinds:?}");
    }
}

#[test]
fn what_is_wrong_with_a_file_is_told_with_its_name() {
    let scene = Scene::new();
    let other = scene.root.sign_numbered("other.example", 2);
    let good = &scene.server.identities[0];
    let nothing = scene.folder.write("empty.pem", "");
    let broken =
        scene.folder.write("broken.pem", "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n");
    let absent = scene.folder.write("x", "").with_file_name("absent.pem");
    let key = scene.folder.write("other.key", &other.key);
    let cases: Vec<(ServerTls, &str)> = vec![
        (with_cert(&scene, Identity { cert: absent.clone(), ..good.clone() }), "absent.pem cannot be read"),
        (
            with_cert(&scene, Identity { cert: nothing.clone(), ..good.clone() }),
            "empty.pem contains no certificate",
        ),
        (
            with_cert(&scene, Identity { key: nothing.clone(), ..good.clone() }),
            "empty.pem contains no private key",
        ),
        (with_cert(&scene, Identity { cert: broken.clone(), ..good.clone() }), "broken.pem is not PEM"),
        (
            with_cert(&scene, Identity { key, ..good.clone() }),
            "other.key cannot be used: it is not the key of",
        ),
        (
            with_cert(&scene, Identity { ocsp: Some(nothing.clone()), ..good.clone() }),
            "empty.pem cannot be used",
        ),
        (
            ServerTls { client_ca: Some(nothing.clone()), ..scene.server.clone() },
            "empty.pem contains no certificate",
        ),
        (ServerTls { identities: vec![], ..scene.server.clone() }, "there is no certificate to show"),
        (
            ServerTls { client_ca: scene.client.roots.clone(), crls: vec![nothing], ..scene.server.clone() },
            "empty.pem contains no certificate revocation list",
        ),
    ];
    for (server, text) in cases {
        let error = server.build().unwrap_err().to_string();
        assert!(error.contains(text), "{error} is not {text}");
    }
}

fn with_cert(scene: &Scene, identity: Identity) -> ServerTls {
    ServerTls { identities: vec![identity], ..scene.server.clone() }
}

/// Believes anybody, and keeps the staple.
#[derive(Debug, Default)]
struct Staple(parking_lot::Mutex<Vec<u8>>);

impl rustls::client::danger::ServerCertVerifier for Staple {
    fn verify_server_cert(
        &self,
        _end_entity: &rustls::pki_types::CertificateDer<'_>,
        _intermediates: &[rustls::pki_types::CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        _now: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        *self.0.lock() = ocsp_response.to_vec();
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &rustls::pki_types::CertificateDer<'_>,
        _dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &rustls::pki_types::CertificateDer<'_>,
        _dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}
