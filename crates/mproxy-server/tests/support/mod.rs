//! mproxy as a process before a broker, seen from outside: its door, its log, its admin API.
#![allow(dead_code, reason = "each test file takes what it needs")]

pub(crate) mod judge;
pub(crate) mod schema;
pub(crate) mod upgrading;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use mproxy_testkit::PATIENCE;
use mproxy_testkit::certificates::Folder;
use mproxy_testkit::hook::MproxyProcess;
use mproxy_testkit::process::{Process, ProcessEnd};
use mproxy_testkit::service::Running;
use mproxy_testkit::wire::{self, ConnectOptions, Publish, Version, WireClient};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// The versions that most scenes are played in.
pub(crate) const VERSIONS: [Version; 2] = [Version::V311, Version::V5];

/// A running mproxy.
pub(crate) struct Proxy {
    mproxy: MproxyProcess,
    /// Where clients come to.
    pub(crate) mqtt: SocketAddr,
    /// Where the admin API is.
    pub(crate) admin: SocketAddr,
}

impl Proxy {
    /// Before this broker, with nothing else said: everything is allowed.
    pub(crate) async fn before(broker: SocketAddr) -> Self {
        Self::with(broker, &[]).await
    }

    /// Before this broker, and with these variables.
    pub(crate) async fn with(broker: SocketAddr, variables: &[(&str, &str)]) -> Self {
        Self::started(broker, variables, async |env| MproxyProcess::start(env, &[]).await).await
    }

    /// The same, where it may have so many files open.
    pub(crate) async fn with_open_files(most: u32, broker: SocketAddr, variables: &[(&str, &str)]) -> Self {
        Self::started(broker, variables, async |env| MproxyProcess::with_open_files(most, env).await).await
    }

    async fn started(
        broker: SocketAddr,
        variables: &[(&str, &str)],
        start: impl AsyncFnOnce(&[(&str, &str)]) -> MproxyProcess,
    ) -> Self {
        let (host, port) = (broker.ip().to_string(), broker.port().to_string());
        // What is not in the scene must not be in its way either: the defaults are one port for all tests.
        let mut env = vec![
            ("MPROXY_MQTT_HOST", "127.0.0.1"),
            ("MPROXY_MQTT_PORT", "0"),
            ("MPROXY_WS_HOST", "127.0.0.1"),
            ("MPROXY_MQTT_TARGET_HOST", host.as_str()),
            ("MPROXY_MQTT_TARGET_PORT", port.as_str()),
            ("MPROXY_WS_PORT", "0"),
            ("MPROXY_ADMIN_PORT", "0"),
        ];
        env.extend(variables);
        let mut mproxy = start(&env).await;
        let mqtt = mproxy.addr("mqtt").await;
        let admin = mproxy.addr("admin").await;
        Self { mproxy, mqtt, admin }
    }

    /// As this file says, which begins with the keys of no table. [`Self::mqtt`] is then where its listener `first` is,
    /// the others are found with [`Self::door`].
    pub(crate) async fn configured(first: &str, file: &str) -> Self {
        let folder = Folder::default();
        let path = folder.write("mproxy.toml", format!("admin.port = 0\n{file}"));
        Self::of_file(first, &path).await
    }

    /// The same, as this file says, which stays.
    pub(crate) async fn of_file(first: &str, path: &Path) -> Self {
        let mut mproxy = MproxyProcess::start(&[("MPROXY_CONFIG", path.to_str().unwrap())], &[]).await;
        let mqtt = mproxy.addr(first).await;
        let admin = mproxy.addr("admin").await;
        Self { mproxy, mqtt, admin }
    }

    /// A WebSocket listener before this broker, with these settings besides.
    pub(crate) async fn websocket(broker: SocketAddr, more: &str) -> Self {
        let file = format!(
            "{more}\n[[listeners]]\nname = \"ws\"\ntransport = \"ws\"\nhost = \"127.0.0.1\"\nport = 0\n\
             target = {{ scheme = \"mqtt\", host = \"127.0.0.1\", port = {} }}\n",
            broker.port()
        );
        Self::configured("ws", &file).await
    }

    /// Where the listener of this name is.
    pub(crate) async fn door(&mut self, name: &str) -> SocketAddr {
        self.mproxy.addr(name).await
    }

    /// Before this broker and asking this service, which has said by now what it wants.
    pub(crate) async fn asking(service: &Running, broker: SocketAddr, variables: &[(&str, &str)]) -> Self {
        let variables = [&[("MPROXY_POLICY_URL", service.url.as_str())], variables].concat();
        let mut proxy = Self::with(broker, &variables).await;
        proxy.line(&["policy endpoint healthy"]).await;
        proxy
    }

    pub(crate) fn process(&mut self) -> &mut Process {
        self.mproxy.process()
    }

    /// The first line of the log that holds all of `words`, said already or yet to come.
    pub(crate) async fn line(&mut self, words: &[&str]) -> String {
        let what = format!("a line with {words:?}");
        let all = |line: &str| words.iter().all(|word| line.contains(word)).then(|| line.to_owned());
        self.process().line_where(&what, all).await.unwrap_or_else(|failed| panic!("{failed}"))
    }

    /// Closes our end, where mproxy has closed its own, and gives the line of this connection's end.
    pub(crate) async fn line_of(&mut self, client: WireClient) -> String {
        let from = client.local_addr();
        drop(client);
        self.end_of(from).await
    }

    /// The line of the end of the connection that came from there.
    pub(crate) async fn end_of(&mut self, client: SocketAddr) -> String {
        self.line(&[&format!("peer_addr={client}"), " connection closed connection_id="]).await
    }

    pub(crate) async fn signal(&mut self, name: &str) {
        self.process().signal(name).await;
    }

    /// Waits until it ends.
    pub(crate) async fn end(self) -> ProcessEnd {
        self.mproxy.end().await
    }

    /// Ends it, and looks whether it said anything of its own failing.
    pub(crate) async fn stop(self) {
        let mut mproxy = self.mproxy;
        mproxy.process().signal("TERM").await;
        let ended = mproxy.end().await;
        assert_eq!(ended.code(), Some(0), "{:#?}", ended.lines);
        assert!(!ended.has_line("panicked"), "{:#?}", ended.lines);
    }

    /// Status and body of an answer of the admin API.
    pub(crate) async fn http(&self, method: &str, path: &str) -> (u16, String) {
        http(self.admin, method, path).await
    }

    /// A metric by its name and labels, as they stand on the page; 0 if it is not there.
    pub(crate) async fn metric(&self, series: &str) -> f64 {
        let (status, page) = self.http("GET", "/metrics").await;
        assert_eq!(status, 200);
        let value = |line: &str| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok();
        page.lines().find_map(value).unwrap_or_default()
    }

    /// The sessions, as the admin API shows them.
    pub(crate) async fn sessions(&self) -> Vec<serde_json::Value> {
        let (status, page) = self.http("GET", "/api/v1/sessions?limit=1000").await;
        assert_eq!(status, 200, "{page}");
        let page: serde_json::Value = serde_json::from_str(&page).unwrap();
        page["sessions"].as_array().unwrap().clone()
    }

    /// A plain CONNECT, which must be a yes.
    pub(crate) async fn login(&self, version: Version, client_id: &str) -> WireClient {
        WireClient::login(self.mqtt, version, client_id).await
    }

    /// Sends a CONNECT and takes what is answered.
    pub(crate) async fn connect(
        &self,
        version: Version,
        client_id: &str,
        options: &ConnectOptions<'_>,
    ) -> (WireClient, Vec<u8>) {
        let mut client = WireClient::open(self.mqtt).await;
        client.send(&wire::connect(version, client_id, options)).await;
        let answer = client.packet().await;
        (client, answer)
    }
}

/// One request to an HTTP server.
pub(crate) async fn http(to: SocketAddr, method: &str, path: &str) -> (u16, String) {
    let exchange = async {
        let mut stream = TcpStream::connect(to).await?;
        let request = format!("{method} {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = timeout(PATIENCE, exchange).await.unwrap_or_else(|_| panic!("{method} {path}: no answer"));
    let answer = answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("{method} {path}: {head}")), body.to_owned())
}

/// Asks again and again until the answer is yes; panics with `what` when it never is.
pub(crate) async fn until(what: &str, mut asked: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !asked().await {
        assert!(Instant::now() < deadline, "{what} never came");
        // Not a wait for anything, only so that others get their turn.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The name of a version for mosquitto's clients.
pub(crate) fn flag(version: Version) -> &'static str {
    match version {
        Version::V31 => "mqttv31",
        Version::V311 => "mqttv311",
        Version::V5 => "mqttv5",
    }
}

/// Publishes at the broker itself, where `watcher` is subscribed to everything with QoS 0: both in 3.1.1.
pub(crate) async fn feed(feeder: &mut WireClient, watcher: &mut WireClient, message: &Publish<'_>, qos: u8) {
    let sent = Publish { qos, packet_id: 9, ..*message };
    feeder.send(&wire::publish(Version::V311, &sent)).await;
    match qos {
        0 => {}
        1 => feeder.expect(&wire::puback(9)).await,
        _ => {
            feeder.expect(&wire::pubrec(9)).await;
            feeder.send(&wire::pubrel(9)).await;
            feeder.expect(&wire::pubcomp(9)).await;
        }
    }
    watcher.expect(&wire::publish(Version::V311, message)).await;
}

/// The next that the client gets is this message (a short one) with this QoS, whatever properties a broker adds to it;
/// it acknowledges it.
pub(crate) async fn receives(client: &mut WireClient, message: &Publish<'_>, qos: u8) {
    let came = client.packet().await;
    let at = 4 + message.topic.len();
    let is_it = came[0] == 0x30 | qos << 1 && came[2..at] == wire::string(message.topic);
    assert!(is_it && came.ends_with(message.payload), "expected {message:?}, got {came:02x?}");
    let id = if qos == 0 { 0 } else { u16::from_be_bytes([came[at], came[at + 1]]) };
    match qos {
        0 => {}
        1 => client.send(&wire::puback(id)).await,
        _ => {
            client.send(&wire::pubrec(id)).await;
            client.expect(&wire::pubrel(id)).await;
            client.send(&wire::pubcomp(id)).await;
        }
    }
}
