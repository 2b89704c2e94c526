//! Real clients at every door: mosquitto's over TLS with a certificate, mqtt.js and paho over WebSocket with and without
//! TLS, and a page in a real browser. A real broker is behind.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::path::{Path, PathBuf};

use mproxy_testkit::PATIENCE;
use mproxy_testkit::certificates::{Authority, Folder};
use mproxy_testkit::foreign::{chromium, mqttjs, mqttjs_for_pages, paho};
use mproxy_testkit::mosquitto::{Mosquitto, publish, subscriber};
use mproxy_testkit::process::{Process, run};
use rcgen::SanType;
use support::Proxy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// mproxy with a door of each kind, and the files that its clients need.
struct House {
    proxy: Proxy,
    folder: Folder,
    ca: PathBuf,
    root: Authority,
    _broker: Mosquitto,
}

impl House {
    async fn new() -> Self {
        let (root, folder) = (Authority::root("root"), Folder::default());
        let own = root.sign_with("localhost", |params| {
            params.subject_alt_names.push(SanType::IpAddress("127.0.0.1".parse().unwrap()));
        });
        let (cert, key) = folder.keep("localhost", &own);
        let ca = folder.write("ca.crt", root.pem());
        let broker = Mosquitto::start().await;
        let mut file = format!("tls = {{ server_cert = {cert:?}, server_key = {key:?} }}\n");
        for (name, transport, more) in [
            ("ws", "ws", String::new()),
            ("wss", "wss", String::new()),
            ("mutual", "mqtts", format!("tls = {{ client_tls = true, ca_certs = {ca:?} }}\n")),
            ("choosy", "ws", "ws.origins = [\"https://elsewhere.example\"]\n".to_owned()),
        ] {
            file.push_str(&format!(
                "[[listeners]]\nname = \"{name}\"\ntransport = \"{transport}\"\nhost = \"127.0.0.1\"\nport = 0\n{more}\
                 target = {{ scheme = \"mqtt\", host = \"127.0.0.1\", port = {} }}\n",
                broker.addr().port()
            ));
        }
        let proxy = Proxy::configured("ws", &file).await;
        Self { proxy, folder, ca, root, _broker: broker }
    }

    async fn url(&mut self, name: &str, scheme: &str) -> String {
        format!("{scheme}://localhost:{}/mqtt", self.proxy.door(name).await.port())
    }
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

/// What it says when it ends well.
async fn says(command: Command, what: &str) -> Vec<String> {
    let ended = run(what, command).await;
    assert_eq!(ended.code(), Some(0), "{what}: {:#?}", ended.lines);
    ended.lines
}

const RECEIVED: [&str; 4] =
    ["received 0 1 the same", "received 1 70000 the same", "received 2 1000000 the same", "ended"];

#[tokio::test]
async fn mqttjs_over_websocket_hears_what_it_sent() {
    let mut house = House::new().await;
    for door in ["ws", "wss"] {
        let url = house.url(door, door).await;
        for version in ["3", "4", "5"] {
            let mut command = mqttjs(&script("mqttjs_ways.js")).await;
            command.args([&url, version]).arg(&house.ca);
            assert_eq!(says(command, &format!("mqtt.js over {door}, {version}")).await, RECEIVED);
        }
    }
    house.proxy.stop().await;
}

#[tokio::test]
async fn paho_over_websocket_hears_what_it_sent() {
    let mut house = House::new().await;
    for (door, more) in [("ws", None), ("wss", Some(house.ca.clone()))] {
        let port = house.proxy.door(door).await.port().to_string();
        for version in ["4", "5"] {
            let mut command = paho(&script("paho_ways.py")).await;
            command.args(["localhost", &port, version]).args(&more);
            let expected = [&["connected 0", "subscribed 2"][..], &RECEIVED].concat();
            assert_eq!(says(command, &format!("paho over {door}, {version}")).await, expected);
        }
    }
    house.proxy.stop().await;
}

#[tokio::test]
async fn mosquitto_comes_with_its_certificate() {
    let mut house = House::new().await;
    let door = house.proxy.door("mutual").await;
    let (cert, key) = house.folder.keep("device", &house.root.sign("device"));
    let file = |path: &Path| path.to_str().unwrap().to_owned();
    let believing = ["--cafile".to_owned(), file(&house.ca)];
    let with = |more: &[&str]| -> Vec<String> {
        let showing = ["--cert".to_owned(), file(&cert), "--key".to_owned(), file(&key)];
        let more = more.iter().map(|&arg| arg.to_owned());
        believing.iter().cloned().chain(showing).chain(more).collect()
    };
    for version in ["mqttv31", "mqttv311", "mqttv5"] {
        let mut reader =
            subscriber(door, with(&["-V", version, "-t", "a/#", "-q", "2", "-F", "got %q %p"])).await;
        for qos in ["0", "1", "2"] {
            let sent = publish(door, with(&["-V", version, "-t", "a/b", "-q", qos, "-m", "hello"])).await;
            assert_eq!(sent.code(), Some(0), "{:#?}", sent.lines);
            reader.line(&format!("got {qos} hello")).await.unwrap();
        }
    }
    let without = believing.iter().cloned().chain(["-t", "a", "-m", "b"].map(str::to_owned));
    assert_ne!(publish(door, without).await.code(), Some(0), "without a certificate");
    house.proxy.line(&["rejected before CONNECT", "cause=\"no_certificate\""]).await;
    house.proxy.stop().await;
}

/// Serves the page; gives where, and what the page reports.
async fn serve_page() -> (u16, mpsc::Receiver<String>) {
    let script = std::fs::read(mqttjs_for_pages().await).unwrap();
    let page = std::fs::read(self::script("page.html")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (said, reports) = mpsc::channel(99);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && matches!(stream.read_buf(&mut head).await, Ok(1..)) {}
            let head = String::from_utf8_lossy(&head).into_owned();
            let path = head.split(' ').nth(1).unwrap_or_default();
            if let Some((_, report)) = path.split_once("/report?") {
                let _ = said.send(report.to_owned()).await;
            }
            let (kind, body) = match path {
                "/" => ("text/html", &page[..]),
                "/mqtt.js" => ("text/javascript", &script[..]),
                _ => ("text/plain", &b""[..]),
            };
            let length = body.len();
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
            );
            let _ = stream.write_all(&[head.as_bytes(), body].concat()).await;
        }
    });
    (port, reports)
}

#[tokio::test]
async fn a_page_in_a_browser_hears_what_it_sent_unless_it_comes_from_elsewhere() {
    let mut house = House::new().await;
    let (port, mut reports) = serve_page().await;
    let all = "heard.0.true.1.true.2.true";
    for (door, scheme, expected) in [("ws", "ws", all), ("wss", "wss", all), ("choosy", "ws", "closed")] {
        let url = house.url(door, scheme).await;
        let home = Folder::default();
        let command = chromium(home.path(), &format!("http://127.0.0.1:{port}/#{url}"));
        let chromium = Process::start("chromium", command);
        let report = timeout(PATIENCE, reports.recv()).await;
        let report = report.unwrap_or_else(|_| panic!("{door}: no word from {:#?}", chromium.lines()));
        assert_eq!(report.unwrap(), expected, "{door}");
        chromium.signal("TERM").await;
        chromium.end().await.unwrap();
    }
    let line = house.proxy.line(&["listener=\"choosy\"", "rejected before CONNECT"]).await;
    assert!(line.contains("(403)"), "{line}");
    house.proxy.stop().await;
}
