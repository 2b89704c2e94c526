//! Unix sockets, in and out: who connects is known, the file is as it should be and goes with mproxy, and what stands in
//! the way is said with its path.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use mproxy_testkit::broker::{BrokerScript, RecordingBroker};
use mproxy_testkit::certificates::Folder;
use mproxy_testkit::hook::MproxyProcess;
use mproxy_testkit::mosquitto::{Mosquitto, MosquittoOptions};
use mproxy_testkit::process::{Process, ProcessEnd, program, run};
use mproxy_testkit::service::contract::{Client, ConnectAllow, Transport};
use mproxy_testkit::service::{Play, Running, Service};
use mproxy_testkit::wire::{self, ConnectOptions, Version, WireClient};
use support::{Proxy, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::process::Command;
use tokio::sync::mpsc;

/// A place for sockets that everybody may walk into.
fn folder() -> Folder {
    let folder = Folder::default();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    folder
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Mosquitto's own clients, at a Unix socket.
fn client(name: &str, socket: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(program(name, "mosquitto-clients"));
    command.arg("--unix").arg(socket).args(args);
    command
}

/// A hook service that hands on whom it was asked about.
async fn asked() -> (Running, mpsc::Receiver<Client>) {
    let (asked, asks) = mpsc::channel(9);
    let service = Service {
        connect: Box::new(move |request| {
            asked.try_send(request.get_ref().client.clone().unwrap()).unwrap();
            Play::answer(ConnectAllow::default())
        }),
        ..Service::default()
    };
    (Running::start(service).await, asks)
}

fn ids() -> (u32, u32) {
    let me = fs::metadata("/proc/self").unwrap();
    (me.uid(), me.gid())
}

#[tokio::test]
async fn a_broker_that_only_mproxy_reaches_serves_clients_of_a_socket() {
    let folder = folder();
    let (ours, brokers) = (folder.file("mqtt.sock"), folder.file("broker.sock"));
    let extra = vec![format!("listener 0 {}", brokers.display())];
    let broker = Mosquitto::start_with(MosquittoOptions { extra, ..MosquittoOptions::default() }).await;
    let variables = [("MPROXY_UNIX_PATH", text(&ours)), ("MPROXY_MQTT_TARGET_SOCKET", text(&brokers))];
    let mut proxy = Proxy::with(broker.addr(), &variables).await;
    let line = proxy.line(&["listening listener=\"unix\"", &format!("unix:{}", ours.display())]).await;
    assert!(line.contains(&format!("broker=unix:{}", brokers.display())), "{line}");
    for version in ["mqttv311", "mqttv5"] {
        let mut command = Command::new(program("stdbuf", "coreutils"));
        command.arg("-oL").arg(program("mosquitto_sub", "mosquitto-clients"));
        command.arg("--unix").arg(&ours).args(["-V", version, "-q", "2", "-t", "a/#", "-C", "1", "-d"]);
        let mut reader = Process::start("mosquitto_sub", command);
        reader.line("Subscribed (mid").await.unwrap();
        let sent = ["-V", version, "-q", "2", "-t", "a/b", "-m", "hello you"];
        let sent = run("mosquitto_pub", client("mosquitto_pub", &ours, &sent)).await;
        assert_eq!(sent.code(), Some(0), "{:?}", sent.lines);
        reader.line("hello you").await.unwrap();
        assert_eq!(reader.end().await.unwrap().code(), Some(0));
    }
    // From a port to the same broker.
    let sent = mproxy_testkit::mosquitto::publish(proxy.mqtt, ["-t", "a", "-m", "b", "-q", "1"]).await;
    assert_eq!(sent.code(), Some(0), "{:?}", sent.lines);
    proxy.stop().await;
    assert!(!ours.exists(), "its file goes with it");
}

#[tokio::test]
async fn the_process_that_connects_is_told_and_shown() {
    let folder = folder();
    let path = folder.file("mqtt.sock");
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let (service, mut asks) = asked().await;
    let mut proxy = Proxy::asking(&service, broker.addr(), &[("MPROXY_UNIX_PATH", text(&path))]).await;
    let client = WireClient::open_unix(&path).await.logged_in(Version::V5, "local").await;
    let told = asks.recv().await.unwrap();
    let (uid, gid) = ids();
    let process = format!("unix:pid={},uid={uid},gid={gid}", std::process::id());
    assert_eq!((told.transport(), told.listener.as_str()), (Transport::Unix, "unix"));
    assert_eq!((&told.remote_address, &told.local_address), (&process, &format!("unix:{}", path.display())));
    let peer = told.unix_peer.unwrap();
    assert_eq!((peer.pid(), peer.uid, peer.gid), (std::process::id(), Some(uid), Some(gid)));
    let session = &proxy.sessions().await[0];
    assert_eq!((&session["transport"], &session["peer_addr"]), (&"unix".into(), &process.as_str().into()));
    proxy.line(&["connection accepted", "peer_addr=", &process]).await;
    // A client of a port has no process.
    let _other = proxy.login(Version::V5, "remote").await;
    assert_eq!(asks.recv().await.unwrap().unix_peer, None);
    drop(client);
    proxy.line(&["connection closed", "peer_addr=", &process]).await;
    proxy.stop().await;
}

/// Runs mosquitto_pub as nobody in particular.
async fn as_nobody(socket: &Path) -> ProcessEnd {
    let mut command = Command::new(program("setpriv", "util-linux"));
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.arg(program("mosquitto_pub", "mosquitto-clients")).arg("--unix").arg(socket);
    command.args(["-t", "a", "-m", "b", "-q", "1"]);
    run("mosquitto_pub", command).await
}

#[tokio::test]
async fn mode_and_group_say_who_can_connect() {
    let folder = folder();
    let (uid, gid) = ids();
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let (service, mut asks) = asked().await;
    let group = gid.to_string();
    for (mode, all) in [("0660", false), ("0666", true)] {
        let path = folder.file(&format!("{mode}.sock"));
        let variables =
            [("MPROXY_UNIX_PATH", text(&path)), ("MPROXY_UNIX_MODE", mode), ("MPROXY_UNIX_GROUP", &group)];
        let proxy = Proxy::asking(&service, broker.addr(), &variables).await;
        let file = fs::metadata(&path).unwrap();
        assert!(file.file_type().is_socket());
        assert_eq!(format!("{:04o}", file.mode() & 0o7777), mode);
        assert_eq!((file.uid(), file.gid()), (uid, gid));
        // Nobody else's shoes can be stepped into by others than root.
        if uid == 0 {
            assert_eq!(as_nobody(&path).await.code() == Some(0), all, "{mode}");
            if all {
                let told = asks.recv().await.unwrap().unix_peer.unwrap();
                assert_eq!((told.uid, told.gid), (Some(65534), Some(65534)));
            }
        }
        proxy.stop().await;
    }
}

#[tokio::test]
async fn one_user_does_not_lock_out_another() {
    if ids().0 != 0 {
        eprintln!("only root can connect as two users");
        return;
    }
    let folder = folder();
    let path = folder.file("mqtt.sock");
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let variables =
        [("MPROXY_UNIX_PATH", text(&path)), ("MPROXY_UNIX_MODE", "0666"), ("MPROXY_MAX_CONNECTIONS", "4")];
    let proxy = Proxy::with(broker.addr(), &variables).await;
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(WireClient::open_unix(&path).await);
    }
    until("four connections", async || proxy.sessions().await.len() == 4).await;
    let mut fifth = WireClient::open_unix(&path).await;
    fifth.expect_closed().await;
    // The oldest of ours makes room.
    let ended = as_nobody(&path).await;
    assert_eq!(ended.code(), Some(0), "{:?}", ended.lines);
    silent[0].expect_closed().await;
    proxy.stop().await;
}

#[tokio::test]
async fn a_socket_that_was_left_is_replaced_and_one_in_use_is_not() {
    let folder = folder();
    let path = folder.file("mqtt.sock");
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let variables = [("MPROXY_UNIX_PATH", text(&path))];
    let mut first = Proxy::with(broker.addr(), &variables).await;
    first.signal("KILL").await;
    first.end().await;
    assert!(path.exists(), "it had no time to remove it");
    let second = Proxy::with(broker.addr(), &variables).await;
    let living = WireClient::open_unix(&path).await.logged_in(Version::V5, "living").await;

    let third = [
        ("MPROXY_MQTT_PORT", "off"),
        ("MPROXY_WS_PORT", "off"),
        ("MPROXY_ADMIN_PORT", "0"),
        ("MPROXY_UNIX_PATH", text(&path)),
    ];
    let ended = MproxyProcess::run(&third, &[]).await;
    assert_eq!(ended.code(), Some(1), "{:#?}", ended.lines);
    assert!(ended.has_line(&format!("cannot listen on {}: another process listens there", path.display())));
    assert!(ended.has_line("MPROXY_UNIX_PATH"), "{:#?}", ended.lines);
    drop(living);
    WireClient::open_unix(&path).await.logged_in(Version::V5, "still served").await;
    second.stop().await;
    assert!(!path.exists());

    fs::write(&path, "no socket").unwrap();
    let ended = MproxyProcess::run(&third, &[]).await;
    assert!(
        ended.has_line("set another path") && ended.has_line("the file there is not a socket"),
        "{:#?}",
        ended.lines
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), "no socket");
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_told_with_its_path_and_what_to_do() {
    let folder = folder();
    let left = folder.file("left.sock");
    drop(std::os::unix::net::UnixListener::bind(&left).unwrap());
    let none = folder.file("none.sock");
    let cases: [(PathBuf, &str); 2] =
        [(none, "no such file: start the broker"), (left, "connection refused: nobody listens there")];
    for (path, what) in cases {
        let variables = [("MPROXY_MQTT_TARGET_SOCKET", text(&path)), ("MPROXY_CONNECT_TIMEOUT", "300ms")];
        let mut proxy = Proxy::with(([127, 0, 0, 1], 1).into(), &variables).await;
        let mut client = WireClient::open(proxy.mqtt).await;
        client.send(&wire::connect(Version::V5, "early", &ConnectOptions::default())).await;
        client.expect_closed().await;
        let line = proxy.line_of(client).await;
        assert!(line.contains(&format!("{}: {what}", path.display())), "{line}");
        proxy.stop().await;
    }
}

#[tokio::test]
async fn a_broker_that_comes_back_loses_nobody() {
    let folder = folder();
    let path = folder.file("broker.sock");
    let proxy = Proxy::with(([127, 0, 0, 1], 1).into(), &[("MPROXY_MQTT_TARGET_SOCKET", text(&path))]).await;
    let mut client = WireClient::open(proxy.mqtt).await;
    client.send(&wire::connect(Version::V311, "early", &ConnectOptions::default())).await;
    until("a session that dials", async || {
        proxy.sessions().await.iter().any(|one| one["phase"] == "dialling")
    })
    .await;
    let broker = UnixListener::bind(&path).unwrap();
    let (mut stream, _) = broker.accept().await.unwrap();
    stream.read_exact(&mut [0; 4]).await.unwrap();
    stream.write_all(&[0x20, 2, 0, 0]).await.unwrap();
    client.expect(&[0x20, 2, 0, 0]).await;
    drop((client, stream));
    proxy.stop().await;
}

// ---- the PROXY protocol

#[tokio::test]
async fn a_broker_at_a_socket_is_told_the_client_in_a_header() {
    let folder = folder();
    let path = folder.file("broker.sock");
    let broker = UnixListener::bind(&path).unwrap();
    let variables = [("MPROXY_MQTT_TARGET_SOCKET", text(&path)), ("MPROXY_TARGET_PROXY_PROTOCOL", "v1")];
    let proxy = Proxy::with(([127, 0, 0, 1], 1).into(), &variables).await;
    let mut client = WireClient::open(proxy.mqtt).await;
    let connect = wire::connect(Version::V311, "c", &ConnectOptions::default());
    client.send(&connect).await;
    let (mut stream, _) = broker.accept().await.unwrap();
    let (from, to) = (client.local_addr().port(), proxy.mqtt.port());
    let expected = [format!("PROXY TCP4 127.0.0.1 127.0.0.1 {from} {to}\r\n").as_bytes(), &connect].concat();
    let mut came = vec![0; expected.len()];
    stream.read_exact(&mut came).await.unwrap();
    assert_eq!(came, expected);
    drop((client, stream));
    proxy.stop().await;
}

#[tokio::test]
async fn a_proxy_at_a_socket_says_who_its_client_is() {
    let folder = folder();
    let path = folder.file("mqtt.sock");
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let (service, mut asks) = asked().await;
    let variables = [("MPROXY_UNIX_PATH", text(&path)), ("MPROXY_PROXY_PROTOCOL", "on")];
    let proxy = Proxy::asking(&service, broker.addr(), &variables).await;
    let header = b"PROXY TCP4 192.0.2.1 192.0.2.2 4000 1883\r\n";
    let mut client = WireClient::open_unix(&path).await;
    // In one piece: not a byte of the CONNECT may go with the header.
    client
        .send(&[&header[..], &wire::connect(Version::V311, "c", &ConnectOptions::default())].concat())
        .await;
    client.expect(&wire::connack(Version::V311, false, 0, &[])).await;
    let told = asks.recv().await.unwrap();
    assert_eq!((told.transport(), told.remote_address.as_str()), (Transport::Unix, "192.0.2.1:4000"));
    assert_eq!(told.unix_peer, None, "the process is the proxy, not the client");
    let mut stranger = WireClient::open_unix(&path).await;
    stranger.send(&wire::connect(Version::V311, "c", &ConnectOptions::default())).await;
    stranger.expect_closed().await;
    proxy.stop().await;
}
