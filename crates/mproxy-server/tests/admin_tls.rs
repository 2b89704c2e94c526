//! The admin port with TLS: who is let in, what a certificate opens and what it does not, certificates that change, and the
//! commands that ask over it.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Output;

use mproxy_testkit::PATIENCE;
use mproxy_testkit::broker::{BrokerScript, RecordingBroker};
use mproxy_testkit::certificates::{Authority, Folder};
use mproxy_testkit::transports::TlsClient;
use mproxy_testkit::wire::Version;
use support::{Proxy, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Everything that certificates are made of.
struct Room {
    root: Authority,
    folder: Folder,
    cert: PathBuf,
    key: PathBuf,
    ca: PathBuf,
}

impl Room {
    fn new() -> Self {
        let (root, folder) = (Authority::root("root"), Folder::default());
        let (cert, key) = folder.keep("admin", &root.sign("localhost"));
        let ca = folder.write("ca.pem", root.pem());
        Self { root, folder, cert, key, ca }
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        vec![
            ("MPROXY_ADMIN_SERVER_CERT", text(&self.cert)),
            ("MPROXY_ADMIN_SERVER_KEY", text(&self.key)),
            ("MPROXY_ADMIN_CA_CERTS", text(&self.ca)),
        ]
    }

    /// With these settings and others.
    async fn proxy(&self, broker: SocketAddr, more: &[(&str, &str)]) -> Proxy {
        let own = self.settings();
        let own = own.iter().map(|(name, value)| (*name, value.as_str()));
        Proxy::with(broker, &own.chain(more.iter().copied()).collect::<Vec<_>>()).await
    }

    fn client(&self) -> TlsClient {
        TlsClient::showing(self.root.pem(), &self.root.sign("operator"))
    }
}

/// What one request is answered; an error where TLS does not come about.
async fn https(to: SocketAddr, client: &TlsClient, request: &str, header: &str) -> std::io::Result<String> {
    let asked = async {
        let mut stream = client.shake(TcpStream::connect(to).await?).await?;
        let request = format!("{request} HTTP/1.1\r\nHost: {to}\r\n{header}Connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        // Not everybody says goodbye.
        let read = stream.read_to_string(&mut answer).await;
        if answer.is_empty() {
            Err(read.err().unwrap_or_else(|| std::io::ErrorKind::UnexpectedEof.into()))
        } else {
            Ok(answer)
        }
    };
    timeout(PATIENCE, asked).await.unwrap()
}

#[tokio::test]
async fn a_certificate_opens_the_port_and_the_token_the_api() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let (room, stranger) = (Room::new(), Authority::root("stranger"));
    let proxy = room.proxy(broker.addr(), &[("MPROXY_ADMIN_TOKEN", "t0ken")]).await;
    let client = room.client();

    let metrics = https(proxy.admin, &client.clone().alpn("http/1.1"), "GET /metrics", "").await.unwrap();
    assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
    assert!(
        metrics.contains(
            "mproxy_certificate_expiry_timestamp_seconds{used_by=\"admin API\",kind=\"certificate\""
        )
    );
    assert!(metrics.contains("used_by=\"admin API\",kind=\"ca\""), "of its clients, too");
    let api = "GET /api/v1/sessions";
    let refused = https(proxy.admin, &client, api, "").await.unwrap();
    assert!(refused.starts_with("HTTP/1.1 401"), "a certificate is no token: {refused}");
    let answer = https(proxy.admin, &client, api, "Authorization: Bearer t0ken\r\n").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let changes = format!("Authorization: Bearer t0ken\r\nOrigin: https://{}\r\n", proxy.admin);
    let answer = https(proxy.admin, &client, "DELETE /api/v1/sessions?all=true", &changes).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    let others = [
        ("none", TlsClient::believing(room.root.pem())),
        ("of another CA", TlsClient::showing(room.root.pem(), &stranger.sign("operator"))),
        ("another protocol", client.clone().alpn("h2")),
    ];
    for (which, other) in others {
        let answer = https(proxy.admin, &other, "GET /healthz", "").await;
        assert!(answer.is_err(), "{which}: {answer:?}");
    }
    let (status, told) = proxy.http("GET", "/healthz").await;
    assert_eq!(status, 400);
    assert!(told.contains("this port has TLS"), "{told}");
    proxy.stop().await;
}

#[tokio::test]
async fn without_a_token_a_page_of_https_is_ours_where_the_port_has_tls() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let room = Room::new();
    let proxy = room.proxy(broker.addr(), &[]).await;
    let ask = async |origin: &str| {
        let origin = format!("Origin: {origin}://{}\r\n", proxy.admin);
        https(proxy.admin, &room.client(), "DELETE /api/v1/sessions?all=true", &origin).await.unwrap()
    };
    assert!(ask("https").await.starts_with("HTTP/1.1 200"));
    assert!(
        ask("http").await.starts_with("HTTP/1.1 403"),
        "a page that somebody on the way may have written"
    );
    proxy.stop().await;
}

#[tokio::test]
async fn certificates_are_replaced_and_a_broken_one_is_not_taken() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let room = Room::new();
    let mut proxy = room.proxy(broker.addr(), &[]).await;
    let client = room.client();
    // One that is connected stays so.
    let mut open = client.shake(TcpStream::connect(proxy.admin).await.unwrap()).await.unwrap();
    let ready = async |client: &TlsClient| https(proxy.admin, client, "GET /healthz", "").await.is_ok();
    assert!(ready(&client).await);

    let second = Authority::root("second");
    room.folder.keep("admin", &second.sign("localhost"));
    let client_of_second = TlsClient::showing(second.pem(), &room.root.sign("operator"));
    until("the second certificate", async || ready(&client_of_second).await).await;
    assert!(!ready(&client).await);
    open.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    timeout(PATIENCE, open.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");

    room.folder.write("admin.key", "no key");
    proxy.signal("HUP").await;
    let line = proxy.line(&["ERROR", "certificate reload failed", "used_by=\"admin API\""]).await;
    assert!(line.contains("admin.key"), "{line}");
    assert!(https(proxy.admin, &client_of_second, "GET /healthz", "").await.is_ok());
    let page = https(proxy.admin, &client_of_second, "GET /readyz", "").await.unwrap();
    assert!(page.contains("\"used_by\":\"admin API\""), "{page}");
    proxy.stop().await;
}

#[tokio::test]
async fn a_reload_gives_the_port_tls_and_takes_it_away() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let room = Room::new();
    let file = format!(
        "[[listeners]]\nname = \"mqtt\"\nhost = \"127.0.0.1\"\nport = 0\ntarget = {{ host = \"127.0.0.1\", port = {} }}\n",
        broker.addr().port()
    );
    let path = room.folder.write("mproxy.toml", format!("admin.port = 0\n{file}"));
    let mut proxy = Proxy::of_file("mqtt", &path).await;
    assert_eq!(proxy.http("GET", "/healthz").await.0, 200);
    let tls = format!(
        "[admin]\nport = 0\ntls = {{ server_cert = {:?}, server_key = {:?} }}\n",
        room.cert, room.key
    );
    room.folder.write("mproxy.toml", format!("{tls}{file}"));
    proxy.signal("HUP").await;
    proxy.line(&["setting changed for new connections", "admin.tls.server_cert"]).await;
    assert_eq!(proxy.http("GET", "/healthz").await.0, 400);
    let client = TlsClient::believing(room.root.pem());
    assert!(https(proxy.admin, &client, "GET /healthz", "").await.unwrap().starts_with("HTTP/1.1 200"));
    room.folder.write("mproxy.toml", format!("admin.port = 0\n{file}"));
    proxy.signal("HUP").await;
    until("no TLS", async || proxy.http("GET", "/healthz").await.0 == 200).await;
    proxy.stop().await;
}

/// What a command says and how it ends, with these variables and no others.
async fn mproxy(words: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_mproxy"));
    let Output { status, stdout, stderr } =
        command.args(words).env_clear().envs(variables.iter().copied()).output().await.unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[tokio::test]
async fn commands_ask_over_tls() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let room = Room::new();
    let proxy =
        room.proxy(broker.addr(), &[("MPROXY_ADMIN_HOST", "0.0.0.0"), ("MPROXY_ADMIN_TOKEN", "t0ken")]).await;
    let _desk = proxy.login(Version::V5, "desk").await;
    let port = proxy.admin.port().to_string();
    let url = format!("https://localhost:{port}");
    let own = room.folder.keep("operator", &room.root.sign("operator"));
    let (cert, key, ca) = (own.0.to_str().unwrap(), own.1.to_str().unwrap(), room.ca.to_str().unwrap());
    let token = ("MPROXY_ADMIN_TOKEN", "t0ken");

    let words = ["sessions", "--url", &url, "--ca-cert", ca, "--cert", cert, "--key", key];
    let (code, table, why) = mproxy(&words, &[token]).await;
    assert_eq!(code, Some(0), "{why}");
    assert!(table.contains("desk"), "{table}");
    let variables = [
        ("MPROXY_ADMIN_URL", url.as_str()),
        ("MPROXY_ADMIN_URL_CA_CERTS", ca),
        ("MPROXY_ADMIN_URL_CERT", cert),
        ("MPROXY_ADMIN_URL_KEY", key),
        token,
    ];
    assert_eq!(mproxy(&["health"], &variables).await, (Some(0), "ready\n".into(), String::new()));
    let kicked = mproxy(&["kick", "desk"], &variables).await;
    assert_eq!(kicked, (Some(0), "disconnected 1 client\n".into(), String::new()));

    // As in its container: by the settings of the mproxy itself, whose certificate is not for this address.
    let own = room.settings();
    let own = own.iter().map(|(name, value)| (*name, value.as_str()));
    let more = [("MPROXY_ADMIN_HOST", "0.0.0.0"), ("MPROXY_ADMIN_PORT", port.as_str())];
    let own: Vec<_> = own.chain(more).chain(variables[2..4].iter().copied()).collect();
    assert_eq!(mproxy(&["health"], &own).await, (Some(0), "ready\n".into(), String::new()));

    let stranger = room.folder.write("stranger.pem", Authority::root("stranger").pem());
    let plain = format!("http://127.0.0.1:{port}");
    let by_address = format!("https://127.0.0.1:{port}");
    let cases: [(&[&str], &str); 5] = [
        (&["--url", &url, "--ca-cert", ca], "--cert and --key"),
        (
            &["--url", &url, "--ca-cert", stranger.to_str().unwrap(), "--cert", cert, "--key", key],
            "--ca-cert",
        ),
        (&["--url", &by_address, "--ca-cert", ca, "--cert", cert, "--key", key], "not valid for name"),
        (&["--url", &plain], "this port has TLS: use https://"),
        (&["--url", &plain, "--ca-cert", ca], "needs an https:// URL"),
    ];
    for (words, expected) in cases {
        let (code, said, why) = mproxy(&[&["sessions"][..], words].concat(), &[]).await;
        assert_eq!((code, said.as_str()), (Some(2), ""), "{words:?}");
        assert!(why.contains(expected), "{words:?}: {why}");
    }
    let (code, _, why) = mproxy(&["run", "--cert", cert], &[]).await;
    assert_eq!(code, Some(2));
    assert!(why.contains("unexpected argument '--cert'"), "{why}");
    proxy.stop().await;
}
