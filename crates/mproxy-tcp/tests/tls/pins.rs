//! Certificates that stand in the CA file themselves, of whatever kind people have: what holds for them, and what does
//! not.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use mproxy_tcp::tls::{
    ClientTls, HandshakeFacts, Identity, Material, ServerTls, Verification, accept, connect,
};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::net::{TcpListener, TcpStream};

use crate::authority::Identities as _;
use crate::certificates::{Authority, Folder, Signed, expired};
use crate::others::{ForeignProcess, free_port, is_here, knock};

/// Made by OpenSSL as manuals show it.
fn openssl(folder: &Folder, args: &[&str]) {
    let mut command = Command::new("openssl");
    command.args(args).current_dir(folder.path()).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(command.status().unwrap().success(), "{args:?}");
}

/// A certificate of X.509 v1 that signs itself, as `openssl x509 -req` without extensions makes it.
fn version_1(folder: &Folder, name: &str) -> Identity {
    let (key, request, cert) = (format!("{name}.key"), format!("{name}.csr"), format!("{name}.crt"));
    let subject = format!("/CN={name}");
    openssl(folder, &["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", &key]);
    openssl(folder, &["req", "-new", "-key", &key, "-subj", &subject, "-out", &request]);
    openssl(folder, &["x509", "-req", "-in", &request, "-signkey", &key, "-days", "9", "-out", &cert]);
    let file = |name: &str| folder.path().join(name);
    let der = CertificateDer::from_pem_file(file(&cert)).unwrap();
    let (_, read) = x509_parser::parse_x509_certificate(&der).unwrap();
    assert_eq!(read.version(), x509_parser::x509::X509Version::V1, "or this is another test");
    Identity { cert: file(&cert), key: file(&key), ocsp: None }
}

/// As `openssl req -x509` makes it: it signs itself, and is a CA.
fn own_ca(folder: &Folder, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Identity {
    let mut params = CertificateParams::new(vec!["broker.example".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let chain = params.self_signed(&key).unwrap().pem();
    folder.identity(name, &Signed { chain, key: key.serialize_pem() })
}

fn server(own: &Identity, clients: Option<&Path>) -> ServerTls {
    ServerTls {
        identities: vec![own.clone()],
        client_ca: clients.map(Path::to_owned),
        ..ServerTls::default()
    }
}

fn believing(roots: &Path) -> ClientTls {
    ClientTls { roots: Some(roots.to_owned()), ..ClientTls::default() }
}

/// What each side made of the other: what was told of the client, and the label of each error.
async fn play(
    server: Arc<ServerConfig>,
    client: &ClientTls,
    name: &str,
) -> (Result<HandshakeFacts, &'static str>, Result<(), &'static str>) {
    let client = Arc::new(client.build().unwrap());
    let (here, there) = duplex(1 << 16);
    let connecting = async {
        let mut stream = connect(there, client, name).await.map_err(|error| error.label())?;
        stream.read_u8().await.map(drop).map_err(|_| "cut")
    };
    let accepting = async {
        let (mut stream, facts) = accept(here, server, |_| true).await.map_err(|error| error.label())?;
        stream.write_all(b"!").await.unwrap();
        stream.flush().await.unwrap();
        Ok(facts)
    };
    tokio::join!(accepting, connecting)
}

async fn believed(server: &ServerTls, client: &ClientTls, name: &str) -> Result<(), &'static str> {
    play(Arc::new(server.build().unwrap()), client, name).await.1
}

async fn admitted(server: &ServerTls, client: &ClientTls) -> Result<HandshakeFacts, &'static str> {
    play(Arc::new(server.build().unwrap()), client, "broker.example").await.0
}

/// Somebody who shows a certificate of somebody else.
fn impostor(cert: &Path, key: &Path) -> Arc<ServerConfig> {
    let chain = vec![CertificateDer::from_pem_file(cert).unwrap()];
    let key = default_provider().key_provider.load_private_key(PrivateKeyDer::from_pem_file(key).unwrap());
    let shown = SingleCertAndKey::from(CertifiedKey::new(chain, key.unwrap()));
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    Arc::new(config.with_cert_resolver(Arc::new(shown)))
}

#[tokio::test]
async fn a_certificate_that_signs_itself_and_is_a_ca_is_its_own_trust() {
    let folder = Folder::default();
    let own = own_ca(&folder, "broker", |_| ());
    let server = server(&own, None);
    assert_eq!(believed(&server, &believing(&own.cert), "broker.example").await, Ok(()));
    assert_eq!(believed(&server, &believing(&own.cert), "other.example").await, Err("wrong_name"));
    let device = own_ca(&folder, "device", |_| ());
    let showing = ClientTls { identity: Some(device.clone()), ..believing(&own.cert) };
    let mutual = ServerTls { client_ca: Some(device.cert.clone()), ..server.clone() };
    assert_eq!(admitted(&mutual, &showing).await.unwrap().common_name.as_deref(), Some("device"));
    // Another one of the same name is another one.
    let twin = own_ca(&folder, "twin", |params| params.distinguished_name.push(DnType::CommonName, "device"));
    let twin = ClientTls { identity: Some(twin), ..believing(&own.cert) };
    assert!(admitted(&mutual, &twin).await.is_err());
}

#[tokio::test]
async fn dates_and_purposes_of_a_pin_hold_and_a_name_that_it_has_not_is_not_asked_for() {
    let folder = Folder::default();
    let old = own_ca(&folder, "old", expired);
    assert_eq!(believed(&server(&old, None), &believing(&old.cert), "broker.example").await, Err("expired"));
    let nameless = own_ca(&folder, "nameless", |params| params.subject_alt_names.clear());
    let is = believed(&server(&nameless, None), &believing(&nameless.cert), "any.example").await;
    assert_eq!(is, Ok(()));
    let of_clients = own_ca(&folder, "client", |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]
    });
    let is = believed(&server(&of_clients, None), &believing(&of_clients.cert), "broker.example").await;
    assert_eq!(is, Err("bad_certificate"));
}

#[tokio::test]
async fn a_pin_is_nobodys_who_has_not_its_key() {
    let folder = Folder::default();
    let (own, other) = (own_ca(&folder, "own", |_| ()), own_ca(&folder, "other", |_| ()));
    let (_, is) = play(impostor(&own.cert, &other.key), &believing(&own.cert), "broker.example").await;
    assert_eq!(is, Err("bad_certificate"));
    if is_here("openssl") {
        let old = version_1(&folder, "version-1");
        for client in [
            believing(&old.cert),
            // Who looks at nothing of a certificate still looks at its key.
            ClientTls { verification: Verification::Nobody, ..ClientTls::default() },
        ] {
            let (_, is) = play(impostor(&old.cert, &other.key), &client, "broker.example").await;
            assert_eq!(is, Err("bad_certificate"));
            let (_, is) = play(impostor(&old.cert, &old.key), &client, "broker.example").await;
            assert_eq!(is, Ok(()));
        }
    }
}

#[tokio::test]
async fn a_certificate_of_the_file_that_is_no_ca_signs_nobody() {
    let (folder, root) = (Folder::default(), Authority::root("root"));
    let mut params = CertificateParams::new(vec!["device-1".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "device-1");
    let key = KeyPair::generate().unwrap();
    let chain = params.self_signed(&key).unwrap().pem();
    let pinned = folder.identity("device-1", &Signed { chain, key: key.serialize_pem() });
    let mut forged = CertificateParams::new(vec!["device-2".to_owned()]).unwrap();
    forged.distinguished_name.push(DnType::CommonName, "device-2");
    let forged_key = KeyPair::generate().unwrap();
    let chain = forged.signed_by(&forged_key, &Issuer::new(params, key)).unwrap().pem();
    let forged = folder.identity("device-2", &Signed { chain, key: forged_key.serialize_pem() });
    let own = folder.identity("server", &root.sign_numbered("broker.example", 1));
    let roots = folder.write("roots.pem", root.pem());
    let mutual = server(&own, Some(&pinned.cert));
    let showing = |own: Identity| ClientTls { identity: Some(own), ..believing(&roots) };
    assert_eq!(admitted(&mutual, &showing(pinned)).await.unwrap().common_name.as_deref(), Some("device-1"));
    assert_eq!(admitted(&mutual, &showing(forged)).await, Err("unknown_ca"));
}

#[tokio::test]
async fn a_pin_that_its_ca_takes_back_is_refused_and_a_missing_list_is_no_clearance() {
    let (folder, root) = (Folder::default(), Authority::root("root"));
    let own = folder.identity("server", &root.sign_numbered("broker.example", 1));
    let device = root.sign_numbered("device", 7);
    let bundle = folder.write("bundle.pem", format!("{}{}", root.pem(), device.chain));
    let roots = folder.write("roots.pem", root.pem());
    let pin_alone = folder.write("pin.pem", &device.chain);
    let showing = ClientTls { identity: Some(folder.identity("device", &device)), ..believing(&roots) };
    let lists = |lists: String| vec![folder.write("revoked.pem", lists)];
    for file in [&bundle, &pin_alone] {
        let mut mutual = server(&own, Some(file));
        assert!(admitted(&mutual, &showing).await.is_ok());
        mutual.crls = lists(root.revoke(&[7]));
        assert_eq!(admitted(&mutual, &showing).await, Err("revoked"));
        mutual.crls = lists(root.revoke(&[8]));
        assert!(admitted(&mutual, &showing).await.is_ok());
        mutual.crls = lists(root.revoke_until(&[8], 2025));
        assert_eq!(admitted(&mutual, &showing).await, Err("crl_expired"));
        mutual.crls = lists(Authority::root("other").revoke(&[8]));
        assert_eq!(admitted(&mutual, &showing).await, Err("no_crl"));
    }
}

#[tokio::test]
async fn where_it_is_not_pinned_the_message_says_what_to_do() {
    let (folder, root) = (Folder::default(), Authority::root("root"));
    let roots = folder.write("roots.pem", root.pem());
    let mut cases = vec![(own_ca(&folder, "own", |_| ()), "ca_certificate", "basicConstraints=CA:FALSE")];
    if is_here("openssl") {
        cases.push((version_1(&folder, "version-1"), "version_1", "add it there, or issue it as version 3"));
    }
    for (own, label, text) in cases {
        let (here, there) = duplex(1 << 16);
        let (config, client) = (server(&own, None).build().unwrap(), believing(&roots).build().unwrap());
        let connecting = connect(there, Arc::new(client), "broker.example");
        let (_, connected) = tokio::join!(accept(here, Arc::new(config), |_| true), connecting);
        let error = connected.unwrap_err();
        assert_eq!(error.label(), label);
        let told = std::error::Error::source(&error).unwrap().to_string();
        assert!(told.contains(text), "{told}");
    }
}

#[tokio::test]
async fn version_1_is_served_and_pinned_over_both_versions_of_tls() {
    if !is_here("openssl") {
        return;
    }
    let folder = Folder::default();
    let (own, device) = (version_1(&folder, "localhost"), version_1(&folder, "device-7"));
    let mutual = Arc::new(server(&own, Some(&device.cert)).build().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    for (option, version) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        // We are the server, and ask for the certificate.
        let mut client = Command::new("openssl");
        client.args(["s_client", "-quiet", option, "-connect", &address]);
        client.arg("-cert").arg(&device.cert).arg("-key").arg(&device.key);
        let client = client.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let _client = ForeignProcess(client.unwrap());
        let (stream, _) = listener.accept().await.unwrap();
        let (_, facts) = accept(stream, Arc::clone(&mutual), |_| true).await.unwrap();
        assert_eq!((facts.version, facts.common_name.as_deref()), (version, Some("device-7")));

        // We are the client, and look at that of the server.
        let port = free_port();
        let mut broker = Command::new("openssl");
        broker.args(["s_server", "-quiet", option, "-accept", &format!("127.0.0.1:{port}")]);
        broker.arg("-cert").arg(&own.cert).arg("-key").arg(&own.key);
        let broker = broker.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let _broker = ForeignProcess(broker.unwrap());
        for client in
            [believing(&own.cert), ClientTls { verification: Verification::Nobody, ..ClientTls::default() }]
        {
            let stream: TcpStream = knock(port).await;
            let connecting = connect(stream, Arc::new(client.build().unwrap()), "localhost");
            tokio::time::timeout(Duration::from_secs(10), connecting).await.unwrap().unwrap();
        }
        // s_server takes one connection after the other.
        let stream = knock(port).await;
        let stranger = believing(&device.cert).build().unwrap();
        assert_eq!(connect(stream, Arc::new(stranger), "localhost").await.unwrap_err().label(), "version_1");
    }
}

/// What building this says.
fn told(identity: Identity) -> String {
    server(&identity, None).build().unwrap_err().to_string()
}

#[test]
fn a_key_that_cannot_be_used_is_called_by_its_name() {
    if !is_here("openssl") {
        return;
    }
    let (folder, root) = (Folder::default(), Authority::root("root"));
    let Identity { cert, .. } = folder.identity("good", &root.sign_numbered("broker.example", 1));
    let make = |name: &str, args: &[&str]| -> PathBuf {
        openssl(&folder, &[&args[..1], &["-out", name], &args[1..]].concat());
        folder.path().join(name)
    };
    let ec = |curve: &'static str| format!("ec_paramgen_curve:{curve}");
    let (p521, rsa) = (ec("P-521"), "rsa_keygen_bits:1024");
    let cases = [
        (make("p521", &["genpkey", "-algorithm", "EC", "-pkeyopt", &p521]), "an ECDSA key on P-521"),
        (make("sec1", &["ecparam", "-name", "secp521r1", "-genkey", "-noout"]), "an ECDSA key on P-521"),
        (make("k1", &["ecparam", "-name", "secp256k1", "-genkey", "-noout"]), "an ECDSA key on secp256k1"),
        (make("rsa", &["genpkey", "-algorithm", "RSA", "-pkeyopt", rsa]), "an RSA key of 1024 bits"),
        (make("pkcs1", &["genrsa", "-traditional", "1024"]), "an RSA key of 1024 bits"),
        (make("ed448", &["genpkey", "-algorithm", "ED448"]), "an Ed448 key"),
        (
            make("pkcs8", &["genpkey", "-algorithm", "EC", "-pkeyopt", &p521, "-aes128", "-pass", "pass:x"]),
            "contains an encrypted private key, which mproxy cannot use: decrypt it with `openssl pkey",
        ),
        (
            make("old", &["genrsa", "-traditional", "-aes128", "-passout", "pass:x", "2048"]),
            "contains an encrypted private key, which mproxy cannot use: decrypt it with `openssl pkey",
        ),
    ];
    for (key, text) in cases {
        let told = told(Identity { cert: cert.clone(), key, ocsp: None });
        assert!(told.contains(text), "{told} is not {text}");
    }
    // The certificate beside an encrypted key is found all the same.
    let both = [std::fs::read(folder.path().join("old")).unwrap(), std::fs::read(&cert).unwrap()].concat();
    let both = folder.write("both", both);
    assert!(told(Identity { cert: both.clone(), key: both, ocsp: None }).contains("encrypted private key"));
}

#[test]
fn a_file_that_is_something_else_is_called_by_its_name() {
    let (folder, root) = (Folder::default(), Authority::root("root"));
    let good = folder.identity("good", &root.sign_numbered("broker.example", 1));
    let pem = std::fs::read_to_string(&good.cert).unwrap();
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let utf16: Vec<u8> =
        "\u{feff}".encode_utf16().chain(pem.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    for (contents, text) in [
        (Vec::new(), "contains no certificate: it is empty"),
        (der.to_vec(), "contains no certificate in PEM: it is DER"),
        (vec![0x30, 0x82, 1, 0, 2, 1, 3, 0x30], "it is PKCS#12"),
        (utf16, "it is text in UTF-16"),
        (pem.replace('\n', "\n  ").replacen("---", "  ---", 1).into_bytes(), "its lines are indented"),
        (
            pem.replace("CERTIFICATE", "TRUSTED CERTIFICATE").into_bytes(),
            "only TRUSTED CERTIFICATE: `openssl x509",
        ),
        (std::fs::read(&good.key).unwrap(), "contains no certificate, only PRIVATE KEY"),
        (b"hello".to_vec(), "contains no certificate in PEM (`-----BEGIN"),
    ] {
        let cert = folder.write("other", contents);
        let told = told(Identity { cert, ..good.clone() });
        assert!(told.contains(text), "{told} is not {text}");
    }
    let marked = |path: &Path| {
        let text = std::fs::read(path).unwrap();
        let name = format!("{}-marked", path.file_name().unwrap().to_str().unwrap());
        folder.write(&name, [&b"\xEF\xBB\xBF"[..], &text].concat())
    };
    let identity = Identity { cert: marked(&good.cert), key: marked(&good.key), ocsp: None };
    let roots = folder.write("roots.pem", format!("\u{feff}{}", root.pem()));
    server(&identity, Some(&roots)).build().unwrap();
}

#[tokio::test]
async fn a_client_without_a_suite_in_common_is_told_as_such() {
    if !is_here("openssl") {
        return;
    }
    let (folder, root) = (Folder::default(), Authority::root("root"));
    let own = folder.identity("server", &root.sign_numbered("broker.example", 1));
    let server = Arc::new(server(&own, None).build().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    for (suites, text) in [
        ("AES128-SHA256", "no cipher suite in common"),
        ("ECDHE-RSA-AES128-GCM-SHA256", "no signature that the key of a certificate of ours can make"),
    ] {
        let mut client = Command::new("openssl");
        client.args(["s_client", "-quiet", "-tls1_2", "-cipher", suites, "-connect", &address]);
        let client = client.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let _client = ForeignProcess(client.unwrap());
        let (stream, _) = listener.accept().await.unwrap();
        let error = accept(stream, Arc::clone(&server), |_| true).await.unwrap_err();
        assert_eq!(error.label(), "incompatible");
        assert!(error.to_string().contains(text), "{suites}: {error}");
    }
}

#[test]
fn dates_that_have_passed_and_lists_of_others_are_told() {
    const NOW: i64 = 1_790_000_000;
    let (folder, root) = (Folder::default(), Authority::root("root"));
    let own = folder.identity("server", &root.sign_with("broker.example", expired));
    let ca = folder.write("ca.pem()", root.pem());
    let lists = |lists: String| vec![folder.write("lists.pem", lists)];
    let told = |server: &ServerTls| -> Vec<String> {
        server.look().unwrap().remarks(NOW).into_iter().map(|remark| remark.text).collect()
    };
    let says = |server: &ServerTls, text: &str| {
        let told = told(server);
        assert_eq!(told.iter().filter(|one| one.contains(text)).count(), 1, "{text} in {told:#?}");
    };
    says(&server(&own, None), "the certificate of CN=broker.example has expired on 2021-01-01");
    let own = folder.identity("good", &root.sign_numbered("broker.example", 1));
    let mut mutual = server(&own, Some(&ca));
    assert!(told(&mutual).is_empty());
    mutual.crls = lists(root.revoke_until(&[], 2025));
    says(&mutual, "the revocation list of CN=root has expired on 2025-01-01: nobody");
    // The same name, and another key.
    mutual.crls = lists(Authority::root("root").revoke(&[]));
    says(&mutual, "the revocation list of CN=root is by none of the CAs in force");
    mutual.crls = lists(Authority::root("other").revoke(&[]));
    says(&mutual, "the revocation list of CN=other is by none of the CAs in force");
    says(
        &mutual,
        "there is no revocation list of CN=root, so every certificate that it has signed is refused",
    );
    mutual.crls = lists(root.revoke(&[]));
    assert!(told(&mutual).is_empty(), "{:?}", told(&mutual));
    let dates = mutual.look().unwrap().dates;
    let kinds: Vec<_> = dates.iter().map(|date| date.kind.name()).collect();
    assert_eq!(kinds, ["certificate", "ca", "crl"]);
}
