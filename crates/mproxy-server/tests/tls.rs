//! TLS on either side of a running mproxy: who is let in, which broker is believed, what the policy service hears of a
//! certificate, and certificates that change while clients are connected.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use mproxy_testkit::PATIENCE;
use mproxy_testkit::broker::{BrokerScript, RecordingBroker};
use mproxy_testkit::certificates::{Authority, Folder, Signed, expired};
use mproxy_testkit::process::{raise_file_limit, run};
use mproxy_testkit::service::{Running, Service};
use mproxy_testkit::tokens::{TokenSigner, seconds_from_now};
use mproxy_testkit::transports::{Carried, TlsClient, Transport, login, tls_server, try_open};
use mproxy_testkit::wire::{self, ConnectOptions, Version, WireClient};
use rcgen::{CertificateParams, DnType, SanType};
use serde_json::json;
use support::{Proxy, VERSIONS, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

fn numbered(serial: u64) -> impl FnOnce(&mut CertificateParams) {
    move |params| params.serial_number = Some(serial.into())
}

/// A listener with TLS for MQTT, in the file.
fn listener(name: &str, tls: &str, target: &str) -> String {
    format!(
        "[[listeners]]\nname = \"{name}\"\ntransport = \"mqtts\"\nhost = \"127.0.0.1\"\nport = 0\n\
         tls = {{ {tls} }}\ntarget = {{ {target} }}\n"
    )
}

fn plainly_to(broker: SocketAddr) -> String {
    format!("host = \"{}\", port = {}", broker.ip(), broker.port())
}

fn shows((cert, key): &(impl AsRef<Path>, impl AsRef<Path>)) -> String {
    format!("server_cert = {:?}, server_key = {:?}", cert.as_ref(), key.as_ref())
}

fn a_connect() -> Vec<u8> {
    wire::connect(Version::V311, "client", &ConnectOptions::default())
}

// ---- who is let in

#[tokio::test]
async fn a_client_without_a_good_certificate_is_turned_away_by_name() {
    let (root, stranger, folder) = (Authority::root("root"), Authority::root("stranger"), Folder::default());
    let between = root.intermediate("between");
    let ca = folder.write("ca.crt", root.pem());
    let crls = folder.write("lists.crl", format!("{}{}", root.revoke(&[13]), between.revoke(&[])));
    let own = folder.keep("localhost", &between.sign("localhost"));
    let mut broker = RecordingBroker::start(BrokerScript::default()).await;
    let tls = format!("{}, client_tls = true, ca_certs = {ca:?}, crls = [{crls:?}]", shows(&own));
    let mut proxy = Proxy::configured("mutual", &listener("mutual", &tls, &plainly_to(broker.addr()))).await;

    let good = [
        TlsClient::showing(root.pem(), &root.sign("device")),
        TlsClient::showing(root.pem(), &between.sign("device")).alpn("mqtt"),
        TlsClient::showing(root.pem(), &root.sign("device")).alpn("x-amzn-mqtt-ca"),
    ];
    for tls in good {
        login(Transport::Tls, proxy.mqtt, &tls, Version::V5, "good").await;
        broker.session().await;
    }
    let shown = |own: Signed| TlsClient::showing(root.pem(), &own);
    let cases = [
        ("no_certificate", TlsClient::believing(root.pem())),
        ("expired", shown(root.sign_with("device", expired))),
        ("unknown_ca", shown(stranger.sign("device"))),
        ("revoked", shown(root.sign_with("device", numbered(13)))),
        ("no_alpn", shown(root.sign("device")).alpn("h2")),
        ("refused_by_peer", TlsClient::showing(root.pem(), &root.sign("device")).to("elsewhere")),
        ("refused_by_peer", TlsClient::showing(stranger.pem(), &root.sign("device"))),
    ];
    for (cause, client) in cases {
        let stream = TcpStream::connect(proxy.mqtt).await.unwrap();
        let from = stream.local_addr().unwrap();
        if let Ok(mut stream) = timeout(PATIENCE, client.shake(stream)).await.unwrap() {
            // In TLS 1.3 the client is done before it is judged.
            let _ = stream.write_all(&a_connect()).await;
            let mut rest = Vec::new();
            let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap();
            assert!(rest.is_empty(), "{cause}: {rest:02x?}");
        }
        let line = proxy.line(&["rejected before CONNECT", &format!("peer_addr={from}")]).await;
        assert!(line.contains(&format!("cause=\"{cause}\"")), "{cause}: {line}");
    }
    for (cause, times) in [
        ("no_certificate", 1.0),
        ("expired", 1.0),
        ("unknown_ca", 1.0),
        ("revoked", 1.0),
        ("no_alpn", 1.0),
        ("refused_by_peer", 2.0),
    ] {
        let labels = format!("listener=\"mutual\",cause=\"{cause}\",by=\"client\"");
        assert_eq!(
            proxy.metric(&format!("mproxy_connections_closed_total{{{labels}}}")).await,
            times,
            "{cause}"
        );
    }
    assert!(broker.try_session().is_none(), "the broker hears of nobody who was not let in");
    proxy.stop().await;
}

/// Rules by which the listener `either` takes a certificate or a token, `certain` a certificate alone, and `token` a token.
const EITHER: &str = r#"
[require]
either = ["certificate", "token"]
web = ["certificate", "token"]
certain = ["certificate"]
token = ["token"]
[jwt]
[[jwt.keys]]
public_key = "token.pem"
[[rules]]
effect = "allow"
topics = ["by-name/${cn}/#", "by-token/${username}/#"]
"#;

/// What a client shows, and what the listeners `either` and `web`, `certain`, and `token` say to it: a CONNACK, or that its
/// handshake failed.
struct Shown<'a> {
    certificate: Option<&'a Signed>,
    token: Option<&'a str>,
    answers: [Option<u8>; 3],
}

#[tokio::test]
async fn a_certificate_or_a_token_opens_the_listener_that_asks_for_either() {
    let (root, stranger, folder) = (Authority::root("root"), Authority::root("stranger"), Folder::default());
    let signer = TokenSigner::es256();
    folder.write("token.pem", signer.verifying_file());
    let (ca, rules) = (folder.write("ca.crt", root.pem()), folder.write("rules.toml", EITHER));
    let own = folder.keep("localhost", &root.sign("localhost"));
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let tls = format!("{}, client_tls = \"optional\", ca_certs = {ca:?}", shows(&own));
    let listener = |name| listener(name, &tls, &plainly_to(broker.addr()));
    let web = listener("web")
        .replace("\"mqtts\"", "\"wss\"")
        .replace("target = {", "target = { scheme = \"mqtt\",");
    let file = format!(
        "acl_file = {rules:?}\n{}{}{}{web}",
        listener("either"),
        listener("certain"),
        listener("token")
    );
    let mut proxy = Proxy::configured("either", &file).await;
    let doors = [
        (Transport::Tls, proxy.door("either").await, 0),
        (Transport::Wss, proxy.door("web").await, 0),
        (Transport::Tls, proxy.door("certain").await, 1),
        (Transport::Tls, proxy.door("token").await, 2),
    ];
    let token = signer.token(&json!({ "sub": "ann", "exp": seconds_from_now(60) }));
    let wrong = TokenSigner::es256().token(&json!({ "sub": "ann", "exp": seconds_from_now(60) }));
    let (good, late, odd) = (root.sign("device"), root.sign_with("device", expired), stranger.sign("device"));
    let (yes, no, cut) = (Some(0), Some(0x87), None);
    let cases = [
        Shown { certificate: Some(&good), token: None, answers: [yes, yes, no] },
        Shown { certificate: None, token: Some(&token), answers: [yes, no, yes] },
        Shown { certificate: Some(&good), token: Some(&token), answers: [yes, yes, yes] },
        Shown { certificate: None, token: None, answers: [no, no, no] },
        // A token that is wrong is made good by nothing.
        Shown { certificate: None, token: Some(&wrong), answers: [no, no, no] },
        Shown { certificate: Some(&good), token: Some(&wrong), answers: [no, no, no] },
        // Nor is a certificate.
        Shown { certificate: Some(&late), token: Some(&token), answers: [cut, cut, cut] },
        Shown { certificate: Some(&odd), token: Some(&token), answers: [cut, cut, cut] },
        Shown { certificate: Some(&odd), token: None, answers: [cut, cut, cut] },
    ];
    let mut kept = Vec::new();
    for (case, Shown { certificate, token, answers }) in cases.into_iter().enumerate() {
        let tls = match certificate {
            Some(own) => TlsClient::showing(root.pem(), own),
            None => TlsClient::believing(root.pem()),
        };
        let options = ConnectOptions {
            username: token.map(|_| "any"),
            password: token.map(str::as_bytes),
            ..ConnectOptions::default()
        };
        for (transport, door, answer) in doors {
            let connect = wire::connect(Version::V5, &format!("c{case}"), &options);
            let answered = answer_to(transport, door, &tls, &connect).await;
            let code = answered.as_ref().map(|(_, connack)| connack[3]);
            assert_eq!(code, answers[answer], "case {case} at {}", transport.name());
            kept.extend(answered.filter(|_| code == Some(0)).map(|(client, _)| client));
        }
    }
    // Who has shown no certificate has none, wherever it is looked for.
    until("all sessions", async || proxy.sessions().await.len() == kept.len()).await;
    for session in proxy.sessions().await {
        let id = session["connection_id"].as_str().unwrap();
        let detail = proxy.http("GET", &format!("/api/v1/sessions/{id}")).await.1;
        let has = session["client_id"] != "c1";
        assert_eq!(detail.contains("\"fingerprint\":\""), has, "{detail}");
        assert_eq!(detail.contains("CN=device"), has, "{detail}");
        assert_eq!(session["username"] == "ann", session["client_id"] != "c0", "{session}");
    }
    drop(kept);
    proxy.stop().await;
}

/// What comes back for a CONNECT, if the handshake lasts so long.
async fn answer_to(
    transport: Transport,
    door: SocketAddr,
    tls: &TlsClient,
    connect: &[u8],
) -> Option<(WireClient<Carried>, Vec<u8>)> {
    let mut client = WireClient::over(try_open(transport, &door.into(), tls).await.ok()?);
    client.try_send(connect).await.ok()?;
    let answer = client.try_packet().await?;
    Some((client, answer))
}

#[tokio::test]
async fn what_is_past_its_date_is_seen_at_the_start_in_readiness_and_in_metrics() {
    let (root, folder) = (Authority::root("root"), Folder::default());
    let ca = folder.write("ca.crt", root.pem());
    let lists = folder.write("lists.crl", Authority::root("other").revoke(&[]));
    let own = folder.keep("localhost", &root.sign_with("localhost", expired));
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let tls = format!("{}, client_tls = true, ca_certs = {ca:?}, crls = [{lists:?}]", shows(&own));
    let mut proxy = Proxy::configured("mutual", &listener("mutual", &tls, &plainly_to(broker.addr()))).await;
    proxy.line(&["WARN", "tls.server_cert", "has expired on 2021-01-01"]).await;
    let (status, ready) = proxy.http("GET", "/readyz").await;
    assert_eq!(status, 200, "{ready}");
    let ready: serde_json::Value = serde_json::from_str(&ready).unwrap();
    let warnings: Vec<_> = ready["certificate_warnings"].as_array().unwrap().iter().collect();
    assert!(warnings.iter().all(|warning| warning["used_by"] == "listener mutual"), "{ready}");
    let says = |text: &str| warnings.iter().any(|one| one["warning"].as_str().unwrap().contains(text));
    assert!(says("CN=localhost has expired on 2021-01-01"), "{ready}");
    assert!(says("the revocation list of CN=other is by none of the CAs in force"), "{ready}");
    assert!(says("there is no revocation list of CN=root"), "{ready}");
    let (_, page) = proxy.http("GET", "/metrics").await;
    let series = |kind: &str, subject: &str| {
        let line = page.lines().find(|line| {
            line.starts_with("mproxy_certificate_expiry_timestamp_seconds{")
                && line.contains(&format!("kind=\"{kind}\""))
                && line.contains(&format!("subject=\"{subject}\""))
        });
        let line = line.unwrap_or_else(|| panic!("no {kind} of {subject} in {page}"));
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    assert_eq!(series("certificate", "CN=localhost"), 1_609_459_200.0);
    assert_eq!(series("crl", "CN=other"), 4_102_444_800.0);
    assert!(series("ca", "CN=root") > 1_609_459_200.0);

    // A new certificate takes the place of the old one.
    folder.keep(
        "localhost",
        &root.sign_with("localhost", |params| params.not_after = rcgen::date_time_ymd(2099, 1, 1)),
    );
    proxy.signal("HUP").await;
    until("the new date", async || {
        let (_, page) = proxy.http("GET", "/metrics").await;
        let shown = page.lines().filter(|line| line.contains("kind=\"certificate\"")).collect::<Vec<_>>();
        shown.len() == 1 && shown[0].ends_with(" 4070908800")
    })
    .await;
    proxy.stop().await;
}

// ---- which broker is believed

/// A broker behind TLS that says yes to a CONNECT, should one come; gives what it got.
async fn broker_with_tls(own: &Signed) -> (u16, mpsc::Receiver<Vec<u8>>) {
    let (listener, tls) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), tls_server(own));
    let port = listener.local_addr().unwrap().port();
    let (got, gets) = mpsc::channel(9);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut came = vec![0; 1000];
            let mut count = 0;
            if let Ok(mut stream) = tls.accept(stream).await {
                count = stream.read(&mut came).await.unwrap_or(0);
                let _ = stream.write_all(&[0x20, 2, 0, 0]).await;
                let _ = stream.flush().await;
            }
            came.truncate(count);
            let _ = got.send(came).await;
        }
    });
    (port, gets)
}

#[tokio::test]
async fn a_broker_that_is_not_who_it_should_be_hears_nothing_of_the_client() {
    let (root, stranger, folder) = (Authority::root("root"), Authority::root("stranger"), Folder::default());
    let between = root.intermediate("between");
    let ca = folder.write("ca.crt", root.pem());
    let crls = folder.write("lists.crl", format!("{}{}", root.revoke(&[13]), between.revoke(&[])));
    let cases = [
        ("good", between.sign("localhost"), ""),
        ("expired", root.sign_with("localhost", expired), "expired"),
        ("elsewhere", root.sign("elsewhere"), "not valid for name"),
        ("stranger", stranger.sign("localhost"), "is not signed by a CA of the CA file"),
        ("revoked", root.sign_with("localhost", numbered(13)), "has been revoked"),
    ];
    // Nothing of it passes by trying again, and these clients want to be told.
    let mut file = "connect_timeout = \"1s\"\non_unavailable = \"connack\"\n".to_owned();
    let mut brokers = Vec::new();
    for (name, shown, _) in &cases {
        let (port, gets) = broker_with_tls(shown).await;
        brokers.push(gets);
        file.push_str(&format!(
            "[[listeners]]\nname = \"{name}\"\nhost = \"127.0.0.1\"\nport = 0\n\
             target = {{ scheme = \"mqtts\", host = \"localhost\", port = {port}, ca_certs = {ca:?}, crls = [{crls:?}] }}\n"
        ));
    }
    let mut proxy = Proxy::configured("good", &file).await;
    for ((name, _, why), gets) in cases.iter().zip(&mut brokers) {
        let mut client = WireClient::open(proxy.door(name).await).await;
        client.send(&a_connect()).await;
        if why.is_empty() {
            client.expect(&[0x20, 2, 0, 0]).await;
            assert_eq!(gets.recv().await.unwrap(), a_connect());
            continue;
        }
        // 3: Server unavailable.
        client.expect(&[0x20, 2, 0, 3]).await;
        client.expect_closed().await;
        assert_eq!(gets.recv().await.unwrap(), b"", "{name}");
        let line = proxy.line_of(client).await;
        assert!(line.contains("unreachable") && line.contains(why), "{name}: {line}");
    }
    proxy.stop().await;
}

// ---- what is told of a certificate

/// What openssl says of a certificate, by the words before the `=`.
async fn judged(cert: &Path, option: &str) -> String {
    let mut command = Command::new("openssl");
    command.args(["x509", "-noout", "-nameopt", "RFC2253", option, "-sha256", "-in"]).arg(cert);
    let ended = run("openssl", command).await;
    let (_, value) = ended.lines[0].split_once('=').unwrap();
    value.to_owned()
}

/// Whether openssl is there; says so where it is not.
async fn has_openssl() -> bool {
    let here = Command::new("openssl").arg("version").stdout(Stdio::null()).status().await.is_ok();
    if !here {
        eprintln!("LEFT OUT: openssl is not installed");
    }
    here
}

#[tokio::test]
async fn what_openssl_shows_is_what_the_policy_service_hears() {
    if !has_openssl().await {
        return;
    }
    let (root, folder) = (Authority::root("root"), Folder::default());
    let between = root.intermediate("between");
    let ca = folder.write("ca.crt", root.pem());
    let own = folder.keep("localhost", &root.sign("localhost"));
    let device = between.sign_with("device-7", |params| {
        params.serial_number = Some(0x00c0_ffee.into());
        params.distinguished_name.push(DnType::OrganizationName, "Pumps, Ltd.");
        params.subject_alt_names.push(SanType::URI("urn:pump:7".try_into().unwrap()));
        params.subject_alt_names.push(SanType::Rfc822Name("pump@example.org".try_into().unwrap()));
        params.subject_alt_names.push(SanType::IpAddress("192.0.2.7".parse().unwrap()));
    });
    let (device_cert, device_key) = folder.keep("device", &device);
    let above = folder.write("between.crt", between.pem());

    let (service, mut clients) = Service::admitting();
    let service = Running::start(service).await;
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let tls = format!("{}, client_tls = true, ca_certs = {ca:?}", shows(&own));
    let file =
        format!("policy.url = \"{}\"\n", service.url) + &listener("mutual", &tls, &plainly_to(broker.addr()));
    let proxy = Proxy::configured("mutual", &file).await;

    for (option, version) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let mut client = Command::new("openssl");
        client.args(["s_client", "-quiet", "-verify_return_error", "-alpn", "mqtt", option]);
        client.args(["-servername", "localhost", "-connect", &proxy.mqtt.to_string(), "-CAfile"]).arg(&ca);
        client.arg("-cert").arg(&device_cert).arg("-cert_chain").arg(&above);
        client.arg("-key").arg(&device_key);
        client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut client = client.spawn().unwrap();
        let (mut stdin, mut stdout) = (client.stdin.take().unwrap(), client.stdout.take().unwrap());
        stdin.write_all(&a_connect()).await.unwrap();
        let mut connack = [0; 4];
        timeout(PATIENCE, stdout.read_exact(&mut connack)).await.unwrap().unwrap();
        assert_eq!(connack, [0x20, 2, 0, 0]);

        let told = clients.recv().await.unwrap().tls.unwrap();
        assert_eq!(told.version, version);
        assert_eq!((told.server_name(), told.alpn()), ("localhost", "mqtt"));
        assert_eq!(told.common_name(), "device-7");
        assert_eq!(told.subject(), judged(&device_cert, "-subject").await);
        assert_eq!(told.serial(), judged(&device_cert, "-serial").await.to_lowercase());
        let fingerprint = judged(&device_cert, "-fingerprint").await.replace(':', "").to_lowercase();
        assert_eq!(told.fingerprint_sha256(), fingerprint);
        assert_eq!(
            told.subject_alt_names,
            ["DNS:device-7", "URI:urn:pump:7", "email:pump@example.org", "IP:192.0.2.7"]
        );
        assert_eq!(told.certificate_chain.len(), 2, "its own, and whoever signed it");
    }
    proxy.stop().await;
}

#[tokio::test]
async fn each_name_has_its_certificate_and_that_its_staple() {
    if !has_openssl().await {
        return;
    }
    let (root, folder) = (Authority::root("root"), Folder::default());
    let (ca, ca_key) = (folder.write("ca.crt", root.pem()), folder.write("ca.key", root.key()));
    let first = folder.keep("localhost", &root.sign("localhost"));
    let second = folder.keep("broker", &root.sign_with("broker.example", numbered(0x2a)));
    let index = folder.write("index", "V\t491231235959Z\t\t2A\tunknown\t/CN=broker.example\n");
    let staple = folder.file("staple.der");
    let mut authority = Command::new("openssl");
    authority.args(["ocsp", "-noverify", "-ndays", "9", "-index"]).arg(index).arg("-CA").arg(&ca);
    authority.arg("-issuer").arg(&ca).arg("-rsigner").arg(&ca).arg("-rkey").arg(ca_key);
    authority.arg("-cert").arg(&second.0).arg("-respout").arg(&staple);
    let ended = run("openssl", authority).await;
    assert_eq!(ended.code(), Some(0), "{:#?}", ended.lines);

    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let tls = format!("{}, certificates = [{{ {}, ocsp = {staple:?} }}]", shows(&first), shows(&second));
    let proxy = Proxy::configured("mqtts", &listener("mqtts", &tls, &plainly_to(broker.addr()))).await;
    for (name, shown, stapled) in [
        ("broker.example", "broker.example", true),
        ("localhost", "localhost", false),
        ("nobody.example", "localhost", false),
    ] {
        let mut client = Command::new("openssl");
        client.args(["s_client", "-status", "-servername", name, "-connect", &proxy.mqtt.to_string()]);
        let said = run("openssl", client).await;
        assert!(
            said.lines.iter().any(|line| line.contains("subject=") && line.ends_with(shown)),
            "{said:#?}"
        );
        assert_eq!(said.has_line("Cert Status: good"), stapled, "{name}: {:#?}", said.lines);
    }
    proxy.stop().await;
}

// ---- certificates that change

/// Certificate and key in one file, so that both change in one moment.
fn both(signed: &Signed) -> String {
    format!("{}{}", signed.chain, signed.key)
}

/// The certificate that a new client is shown, DER.
async fn shown_at(door: SocketAddr, client: &TlsClient) -> Vec<u8> {
    let stream = client.shake(TcpStream::connect(door).await.unwrap()).await.unwrap();
    let (_, connection) = stream.get_ref();
    connection.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn certificates_change_under_a_thousand_clients_and_nobody_drops() {
    raise_file_limit(6000);
    let (root, folder) = (Authority::root("root"), Folder::default());
    let file = folder.write("both.pem", both(&root.sign("localhost")));
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let tls = shows(&(&file, &file));
    let mut proxy = Proxy::configured("mqtts", &listener("mqtts", &tls, &plainly_to(broker.addr()))).await;
    let client = TlsClient::believing(root.pem());

    let mut living = Vec::new();
    let mut arriving = JoinSet::new();
    for number in 0..1000 {
        let (client, door) = (client.clone(), proxy.mqtt);
        let version = VERSIONS[number % 2];
        arriving
            .spawn(async move { login(Transport::Tls, door, &client, version, &format!("c{number}")).await });
        // No more at a time than fit the queue of a listener with ease.
        if arriving.len() == 50 {
            living.push(arriving.join_next().await.unwrap().unwrap());
        }
    }
    living.extend(arriving.join_all().await);
    assert_eq!(living.len(), 1000);
    let renewed = async |proxy: &Proxy, outcome: &str| {
        proxy.metric(&format!("mproxy_reloads_total{{what=\"certificates\",outcome=\"{outcome}\"}}")).await
    };

    // The file changes, and nobody says so.
    let first = shown_at(proxy.mqtt, &client).await;
    folder.write("both.pem", both(&root.sign("localhost")));
    until("the second certificate", async || shown_at(proxy.mqtt, &client).await != first).await;
    let second = shown_at(proxy.mqtt, &client).await;
    proxy.line(&["INFO", "certificates reloaded", "listener mqtts"]).await;

    // A broken one comes, is told of everywhere, and changes nothing.
    let mut cut = both(&root.sign("localhost"));
    cut.truncate(300);
    folder.write("both.pem", cut);
    proxy.signal("HUP").await;
    let line = proxy.line(&["ERROR", "certificate reload failed", "listener mqtts"]).await;
    assert!(line.contains(file.to_str().unwrap()), "{line}");
    assert!(renewed(&proxy, "failed").await >= 1.0);
    let (status, ready) = proxy.http("GET", "/readyz").await;
    assert_eq!(status, 200, "{ready}");
    let ready: serde_json::Value = serde_json::from_str(&ready).unwrap();
    assert_eq!(ready["stale_certificates"][0]["used_by"], "listener mqtts", "{ready}");
    assert_eq!(shown_at(proxy.mqtt, &client).await, second);

    // A good one mends it, at a signal.
    let before = renewed(&proxy, "reloaded").await;
    folder.write("both.pem", both(&root.sign("localhost")));
    proxy.signal("HUP").await;
    until("the third certificate", async || shown_at(proxy.mqtt, &client).await != second).await;
    until("the count of it", async || renewed(&proxy, "reloaded").await > before).await;
    let (_, ready) = proxy.http("GET", "/readyz").await;
    let ready: serde_json::Value = serde_json::from_str(&ready).unwrap();
    assert_eq!(ready["stale_certificates"], serde_json::json!([]));

    for client in &mut living {
        client.expect_nothing_but_pingresp().await;
    }
    drop(living);
    proxy.stop().await;
}
