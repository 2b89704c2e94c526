//! Mosquitto's broker and its clients, as the processes that Debian's packages `mosquitto` and
//! `mosquitto-clients` install. A test that needs them fails without them: skipping would prove nothing.

use crate::PATIENCE;
use crate::process::{Failed, Process, ProcessEnd, free_port, program, run};
use crate::wire::{Version, WireClient, pingreq, pingresp};
use std::{
    ffi::OsStr,
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

/// What Debian has them in.
const PACKAGES: &str = "mosquitto and mosquitto-clients";

/// Its configuration file.
const CONFIG: &str = "mosquitto.conf";

/// What a [`Mosquitto`] is told beyond its listener.
#[derive(Debug, Clone, Default)]
pub struct MosquittoOptions {
    /// Names and passwords. With any, nobody else comes in; with none, everybody does.
    pub users: Vec<(String, String)>,
    /// `max_inflight_messages`: how many QoS 1 and 2 messages a client may have open.
    pub max_inflight: Option<u16>,
    /// A second listener that speaks WebSocket.
    pub websockets: bool,
    /// Three more listeners, with TLS, with TLS and a client certificate, and with WebSocket over TLS.
    pub tls: Option<TlsFiles>,
    /// Lines for its configuration file, as they are.
    pub extra: Vec<String>,
}

/// What a [`Mosquitto`] with TLS shows, and whose certificates it takes.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The authority of its clients.
    pub ca: PathBuf,
    /// Its own chain.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Where the listeners with TLS are.
#[derive(Debug, Clone, Copy)]
pub struct TlsAddrs {
    /// MQTT over TLS.
    pub tls: SocketAddr,
    /// The same, where a client certificate is required.
    pub mutual: SocketAddr,
    /// WebSocket over TLS.
    pub wss: SocketAddr,
}

/// A mosquitto on a port of its own; it ends when this is dropped. Keeps nothing on disk.
#[derive(Debug)]
pub struct Mosquitto {
    process: Process,
    addr: SocketAddr,
    websocket_addr: Option<SocketAddr>,
    tls_addrs: Option<TlsAddrs>,
    home: TempDir,
}

impl Mosquitto {
    /// Starts one that lets everybody in.
    pub async fn start() -> Self {
        Self::start_with(MosquittoOptions::default()).await
    }

    /// Starts one with `options`.
    pub async fn start_with(options: MosquittoOptions) -> Self {
        // A free port may be taken by another test before mosquitto binds it.
        let mut attempts = 0;
        loop {
            match Self::attempt(&options).await {
                Ok(broker) => return broker,
                Err(failed) if attempts == 4 => panic!("{failed}"),
                Err(_) => attempts += 1,
            }
        }
    }

    /// Where it listens for MQTT.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where it listens for WebSocket. Panics unless asked for in the options.
    pub fn websocket_addr(&self) -> SocketAddr {
        self.websocket_addr.unwrap_or_else(|| panic!("started without `websockets`"))
    }

    /// Where it listens with TLS. Panics unless asked for in the options.
    pub fn tls_addrs(&self) -> TlsAddrs {
        self.tls_addrs.unwrap_or_else(|| panic!("started without `tls`"))
    }

    /// Keeps it turning until the test ends, with a client that pings. Its WebSockets are looked at once per turn of its
    /// loop, which without other traffic is ten times a second: a large packet would take minutes.
    pub async fn hurry(&self) {
        let mut client = WireClient::login(self.addr, Version::V311, "hurry").await;
        tokio::spawn(async move {
            while client.try_send(&pingreq()).await.is_ok() {
                client.expect(&pingresp()).await;
            }
        });
    }

    /// Ends it, as a restart does; its clients see their connections closed.
    pub async fn stop(&mut self) {
        self.process.signal("TERM").await;
        until_gone(&mut self.process).await;
    }

    /// Starts it again at the same addresses, with nothing remembered.
    pub async fn start_again(&mut self) {
        self.process = launch(self.home.path()).await.unwrap_or_else(|failed| panic!("{failed}"));
    }

    /// The process, with its log of `log_type all`: a line per packet.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    async fn attempt(options: &MosquittoOptions) -> Result<Self, Failed> {
        let home = TempDir::new().unwrap_or_else(|error| panic!("no temporary folder: {error}"));
        let free = || SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let addr = free();
        let websocket_addr = options.websockets.then(free);
        let mut config = configuration(options, addr, websocket_addr);
        let tls_addrs = options.tls.as_ref().map(|files| {
            let addrs = TlsAddrs { tls: free(), mutual: free(), wss: free() };
            config.push_str(&tls_listeners(files, addrs));
            addrs
        });
        if !options.users.is_empty() {
            let file = password_file(home.path(), &options.users).await;
            let _ = writeln!(config, "password_file {}", file.display());
        }
        write(&home.path().join(CONFIG), &config);

        let process = launch(home.path()).await?;
        Ok(Self { process, addr, websocket_addr, tls_addrs, home })
    }
}

/// Starts one with the configuration in this folder, and waits until it listens.
async fn launch(home: &Path) -> Result<Process, Failed> {
    let mut command = Command::new(program("mosquitto", PACKAGES));
    command.arg("-c").arg(home.join(CONFIG));
    let mut process = Process::start("mosquitto", command);
    // Said after every listener is open.
    process.line(" running").await?;
    Ok(process)
}

async fn until_gone(process: &mut Process) {
    let deadline = Instant::now() + PATIENCE;
    while process.is_running() {
        assert!(Instant::now() < deadline, "mosquitto does not end");
        sleep(Duration::from_millis(5)).await;
    }
}

fn configuration(options: &MosquittoOptions, addr: SocketAddr, websocket_addr: Option<SocketAddr>) -> String {
    // `user root` keeps a mosquitto started by root from becoming somebody who cannot read its folder.
    let mut lines = format!(
        "user root\npersistence false\nlog_dest stderr\nlog_type all\nallow_anonymous {}\nlistener {} {}\n",
        options.users.is_empty(),
        addr.port(),
        addr.ip()
    );
    if let Some(addr) = websocket_addr {
        let _ = writeln!(lines, "listener {} {}\nprotocol websockets", addr.port(), addr.ip());
    }
    if let Some(max_inflight) = options.max_inflight {
        let _ = writeln!(lines, "max_inflight_messages {max_inflight}");
    }
    for line in &options.extra {
        let _ = writeln!(lines, "{line}");
    }
    lines
}

fn tls_listeners(files: &TlsFiles, addrs: TlsAddrs) -> String {
    let mut lines = String::new();
    let TlsFiles { ca, cert, key } = files;
    for (addr, more) in
        [(addrs.tls, ""), (addrs.mutual, "require_certificate true\n"), (addrs.wss, "protocol websockets\n")]
    {
        let _ = write!(
            lines,
            "listener {} {}\ncertfile {}\nkeyfile {}\ncafile {}\n{more}",
            addr.port(),
            addr.ip(),
            cert.display(),
            key.display(),
            ca.display()
        );
    }
    lines
}

async fn password_file(home: &Path, users: &[(String, String)]) -> PathBuf {
    let file = home.join("passwords");
    // It takes a file that is there; with `-c` it would make one for each name, and lose the others.
    write(&file, "");
    for (name, password) in users {
        let mut command = Command::new(program("mosquitto_passwd", PACKAGES));
        command.arg("-b").arg(&file).args([name, password]);
        let ended = run("mosquitto_passwd", command).await;
        assert!(ended.status.success(), "mosquitto_passwd failed: {:?}", ended.lines);
    }
    file
}

fn write(file: &Path, content: &str) {
    fs::write(file, content).unwrap_or_else(|error| panic!("cannot write {}: {error}", file.display()));
}

/// Runs `mosquitto_pub` against `to` until it ends: `publish(to, ["-V", "5", "-t", "a", "-m", "b"])`.
pub async fn publish<A: AsRef<OsStr>>(to: SocketAddr, args: impl IntoIterator<Item = A>) -> ProcessEnd {
    run("mosquitto_pub", client("mosquitto_pub", to, args)).await
}

/// Runs `mosquitto_sub` against `to` until it ends: give it `-C` (how many messages) or `-W` (how many seconds).
pub async fn subscribe<A: AsRef<OsStr>>(to: SocketAddr, args: impl IntoIterator<Item = A>) -> ProcessEnd {
    run("mosquitto_sub", client("mosquitto_sub", to, args)).await
}

/// Starts `mosquitto_sub -d` against `to`, and comes back when it has its SUBACK.
///
/// With `-d` its log tells of packets too; a received message stands on a line of its own (choose `-F` to find
/// it).
pub async fn subscriber<A: AsRef<OsStr>>(to: SocketAddr, args: impl IntoIterator<Item = A>) -> Process {
    let mut process = staying_subscriber(to, args);
    process.line("Subscribed (mid").await.unwrap_or_else(|failed| panic!("{failed}"));
    process
}

/// `mosquitto_sub`, which may not have subscribed yet.
pub fn staying_subscriber<A: AsRef<OsStr>>(to: SocketAddr, args: impl IntoIterator<Item = A>) -> Process {
    // Into a pipe it would hold its lines back until it ends.
    let mut command = Command::new(program("stdbuf", "coreutils"));
    command.arg("-oL").arg(program("mosquitto_sub", PACKAGES));
    address(&mut command, to).args(args).arg("-d");
    Process::start("mosquitto_sub", command)
}

fn client<A: AsRef<OsStr>>(name: &str, to: SocketAddr, args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(program(name, PACKAGES));
    address(&mut command, to).args(args);
    command
}

fn address(command: &mut Command, to: SocketAddr) -> &mut Command {
    command.arg("-h").arg(to.ip().to_string()).arg("-p").arg(to.port().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{ConnectOptions, connect};

    #[tokio::test]
    async fn what_is_published_arrives() {
        let broker = Mosquitto::start().await;
        for version in ["mqttv31", "mqttv311", "mqttv5"] {
            let mut reader = subscriber(broker.addr(), ["-V", version, "-t", "a/#", "-C", "1"]).await;
            let sent =
                publish(broker.addr(), ["-V", version, "-t", "a/b", "-q", "2", "-m", "hello you"]).await;
            assert_eq!(sent.code(), Some(0), "{:?}", sent.lines);
            reader.line("hello you").await.unwrap();
            assert_eq!(reader.end().await.unwrap().code(), Some(0));
        }
    }

    #[tokio::test]
    async fn users_are_asked_for_their_password() {
        let users = vec![("ann".to_owned(), "secret".to_owned())];
        let broker = Mosquitto::start_with(MosquittoOptions { users, ..MosquittoOptions::default() }).await;
        let knows = ["-t", "a", "-m", "b", "-u", "ann", "-P", "secret"];
        assert_eq!(publish(broker.addr(), knows).await.code(), Some(0));
        let guesses = ["-t", "a", "-m", "b", "-u", "ann", "-P", "guess"];
        assert_ne!(publish(broker.addr(), guesses).await.code(), Some(0));
    }

    #[tokio::test]
    async fn websockets_listen_when_asked_for() {
        let options =
            MosquittoOptions { websockets: true, max_inflight: Some(3), ..MosquittoOptions::default() };
        let mut broker = Mosquitto::start_with(options).await;
        let addr = broker.websocket_addr();
        broker.process().answers(addr).await.unwrap();
    }

    #[tokio::test]
    async fn our_connect_is_understood_in_every_version() {
        let broker = Mosquitto::start().await;
        for version in [Version::V31, Version::V311, Version::V5] {
            let mut client = WireClient::open(broker.addr()).await;
            let options = ConnectOptions { keep_alive: 30, ..ConnectOptions::default() };
            client.send(&connect(version, "by-hand", &options)).await;
            assert_eq!(client.packet().await[..4][3], 0, "{version:?}");
        }
    }
}
