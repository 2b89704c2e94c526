//! What systemd is told, and the sockets that it opens.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use mproxy_testkit::PATIENCE;
use mproxy_testkit::broker::{BrokerScript, RecordingBroker};
use mproxy_testkit::wire::{Version, WireClient};
use support::{Proxy, http, until};
use tempfile::TempDir;

/// The service manager's end.
struct Manager {
    folder: TempDir,
    socket: UnixDatagram,
}

impl Manager {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { folder, socket }
    }

    fn path(&self) -> String {
        self.folder.path().join("notify").display().to_string()
    }

    fn next(&self) -> String {
        let mut message = [0; 4096];
        let length = self.socket.recv(&mut message).expect("a word of mproxy");
        String::from_utf8(message[..length].to_vec()).unwrap()
    }

    /// The next that is no sign of life.
    fn state(&self) -> String {
        std::iter::repeat_with(|| self.next()).find(|message| message != "WATCHDOG=1\n").unwrap()
    }
}

#[tokio::test]
async fn the_manager_is_told_of_readiness_reloads_the_end_and_that_mproxy_lives() {
    let (manager, broker) = (Manager::new(), RecordingBroker::start(BrokerScript::default()).await);
    let rules = manager.folder.path().join("rules.toml");
    std::fs::write(&rules, "[[rules]]\neffect = \"allow\"\ntopics = [\"#\"]\n").unwrap();
    let (notify, rules_path) = (manager.path(), rules.display().to_string());
    let variables = [
        ("NOTIFY_SOCKET", notify.as_str()),
        ("WATCHDOG_USEC", "200000"),
        ("MPROXY_ACL_FILE", &rules_path),
        ("MPROXY_DRAIN_TIMEOUT", "20s"),
    ];
    let mut proxy = Proxy::with(broker.addr(), &variables).await;
    assert_eq!(manager.state(), "READY=1\nSTATUS=serving\n");
    assert_eq!((manager.next(), manager.next()), ("WATCHDOG=1\n".to_owned(), "WATCHDOG=1\n".to_owned()));

    proxy.signal("HUP").await;
    let begun = manager.state();
    let at = begun.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap_or_else(|| panic!("{begun}"));
    assert!(at.trim().parse::<u64>().unwrap() > 0);
    assert_eq!(manager.state(), "READY=1\nSTATUS=serving\n");

    std::fs::write(&rules, "nonsense").unwrap();
    assert_eq!(proxy.http("POST", "/api/v1/reload").await.0, 422);
    assert!(manager.state().starts_with("RELOADING=1\n"));
    assert_eq!(manager.state(), "READY=1\nSTATUS=serving; the last reload failed, see the log\n");

    proxy.signal("TERM").await;
    let last = manager.state();
    assert_eq!(last, "STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC=35000000\n");
    assert_eq!(proxy.end().await.code(), Some(0));
}

#[tokio::test]
async fn the_manager_is_told_which_process_it_is_after_an_upgrade() {
    let (manager, broker) = (Manager::new(), RecordingBroker::start(BrokerScript::default()).await);
    let notify = manager.path();
    let variables =
        [("NOTIFY_SOCKET", notify.as_str()), ("WATCHDOG_USEC", "200000"), ("MPROXY_DRAIN_TIMEOUT", "20s")];
    let mut proxy = Proxy::with(broker.addr(), &variables).await;
    assert_eq!(manager.state(), "READY=1\nSTATUS=serving\n");
    proxy.signal("USR2").await;
    let mut told = [manager.state(), manager.state()];
    told.sort();
    let pid = told[0].strip_prefix("MAINPID=").unwrap_or_else(|| panic!("{told:?}")).trim().to_owned();
    let successor = KilledAtEnd(pid);
    assert_eq!(told[1], "READY=1\nSTATUS=serving\n");
    assert_eq!(proxy.end().await.code(), Some(0));
    // Of the old one not a word: the service does not stop.
    assert_eq!((manager.next(), manager.next()), ("WATCHDOG=1\n".to_owned(), "WATCHDOG=1\n".to_owned()));
    successor.signal("TERM");
    let last = manager.state();
    assert!(last.starts_with("STOPPING=1\nSTATUS=draining\n"), "{last}");
}

/// A process that is no child of the test's.
struct KilledAtEnd(String);

impl KilledAtEnd {
    fn signal(&self, name: &str) {
        let kill = format!("kill -s {name} {} 2>/dev/null", self.0);
        let _ = Command::new("sh").args(["-c", &kill]).status();
    }
}

impl Drop for KilledAtEnd {
    fn drop(&mut self) {
        self.signal("KILL");
    }
}

/// mproxy with sockets that were opened for it: the first is its standard input until a shell puts it where systemd does,
/// the second its standard output.
struct Activated {
    child: Child,
    folder: TempDir,
}

impl Activated {
    fn start(names: &str, sockets: [OwnedFd; 2], settings: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let (file, log) =
            (folder.path().join("mproxy.toml"), std::fs::File::create(folder.path().join("log")).unwrap());
        std::fs::write(&file, settings).unwrap();
        let [first, second] = sockets;
        let child = Command::new("sh")
            .args(["-c", "exec 3<&0 4>&1 </dev/null >/dev/null && LISTEN_PID=$$ exec \"$0\" --config \"$1\""])
            .args([Path::new(env!("CARGO_BIN_EXE_mproxy")), &file])
            .env("LISTEN_FDS", "2")
            .env("LISTEN_FDNAMES", names)
            .stdin(Stdio::from(first))
            .stdout(Stdio::from(second))
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, folder }
    }

    fn log(&self) -> String {
        let mut log = String::new();
        std::fs::File::open(self.folder.path().join("log")).unwrap().read_to_string(&mut log).unwrap();
        log
    }
}

impl Drop for Activated {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tcp() -> (OwnedFd, SocketAddr) {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    (socket.into(), address)
}

fn settings(broker: SocketAddr) -> String {
    format!(
        "mqtt.port = 1\nmqtt.target.host = \"127.0.0.1\"\nmqtt.target.port = {}\nws.port = \"off\"\n",
        broker.port()
    )
}

#[tokio::test]
async fn listeners_take_the_sockets_that_are_called_after_them() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let ((mqtt_socket, mqtt), (admin_socket, admin)) = (tcp(), tcp());
    // Somebody who comes before mproxy is there waits.
    let early = tokio::net::TcpStream::connect(mqtt).await.unwrap();
    let mproxy = Activated::start("mqtt:admin", [mqtt_socket, admin_socket], &settings(broker.addr()));
    WireClient::over(early).logged_in(Version::V5, "early").await.expect_nothing_but_pingresp().await;
    WireClient::login(mqtt, Version::V311, "late").await.expect_nothing_but_pingresp().await;
    let (status, ready) = http(admin, "GET", "/readyz").await;
    assert_eq!(status, 200);
    assert!(ready.contains(&mqtt.to_string()), "{ready}");
    drop(mproxy);
}

#[tokio::test]
async fn a_socket_at_the_address_of_a_listener_needs_no_name_and_a_path_is_an_address() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("mqtt.sock");
    let unix: OwnedFd = UnixListener::bind(&path).unwrap().into();
    let (admin_socket, admin) = tcp();
    let file = settings(broker.addr()).replace("mqtt.port = 1\n", "mqtt.port = \"off\"\n");
    let file = format!("{file}admin.port = {}\nunix.path = {path:?}\n", admin.port());
    let mproxy = Activated::start("mproxy.socket:mproxy.socket", [unix, admin_socket], &file);
    until("the admin API", async || mproxy.log().contains("listener=\"admin\"")).await;
    let client = WireClient::open_unix(&path).await;
    client.logged_in(Version::V5, "near").await.expect_nothing_but_pingresp().await;
    assert_eq!(http(admin, "GET", "/readyz").await.0, 200);
    drop(mproxy);
    assert!(path.exists(), "the socket is systemd's");
}

#[tokio::test]
async fn a_socket_for_nobody_is_a_fault_of_the_start() {
    let ((first, _), (second, second_at)) = (tcp(), tcp());
    let mut mproxy = Activated::start("mqtt:mqqt", [first, second], &settings(([127, 0, 0, 1], 9).into()));
    assert_eq!(mproxy.child.wait().unwrap().code(), Some(1));
    let log = mproxy.log();
    assert!(log.contains(&format!("no listener for the socket \"mqqt\" at {second_at}")), "{log}");
}
