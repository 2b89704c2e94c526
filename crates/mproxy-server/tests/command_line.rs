//! The commands that ask a running mproxy, as an operator types them.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::net::TcpListener;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use mproxy_testkit::broker::{BrokerScript, RecordingBroker};
use mproxy_testkit::wire::{self, ConnectOptions, Publish, Version, WireClient};
use serde_json::Value;
use support::{Proxy, until};

/// What a command says and how it ends, with these variables and no others.
async fn mproxy(words: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_mproxy"));
    let Output { status, stdout, stderr } =
        command.args(words).env_clear().envs(variables.iter().copied()).output().await.unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// The same of this mproxy.
async fn ask(proxy: &Proxy, words: &[&str]) -> (Option<i32>, String, String) {
    mproxy(words, &[("MPROXY_ADMIN_PORT", &proxy.admin.port().to_string())]).await
}

#[tokio::test]
async fn health_says_whether_it_is_ready_runs_or_is_not_there() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    // As in a container: it listens everywhere, and needs a token for the API.
    let variables =
        [("MPROXY_ADMIN_HOST", "0.0.0.0"), ("MPROXY_ADMIN_TOKEN", "t0ken"), ("MPROXY_DRAIN_TIMEOUT", "20s")];
    let mut proxy = Proxy::with(broker.addr(), &variables).await;
    let port = proxy.admin.port().to_string();
    let same = [&variables[..], &[("MPROXY_ADMIN_PORT", port.as_str())]].concat();
    assert_eq!(mproxy(&["health"], &same).await, (Some(0), "ready\n".into(), String::new()));
    assert_eq!(mproxy(&["health", "-q"], &same).await, (Some(0), String::new(), String::new()));
    assert_eq!(ask(&proxy, &["health"]).await.0, Some(0), "everybody may know");

    let client = proxy.login(Version::V5, "stays").await;
    proxy.signal("TERM").await;
    until("drain", async || mproxy(&["health"], &same).await.0 != Some(0)).await;
    let not_ready = mproxy(&["health"], &same).await;
    assert_eq!(not_ready, (Some(1), "not ready: draining\n".into(), String::new()));
    assert_eq!(mproxy(&["health", "--live"], &same).await.0, Some(0));
    drop(client);
    proxy.end().await;
    let (code, said, why) = mproxy(&["health"], &same).await;
    assert_eq!((code, said.as_str()), (Some(2), ""));
    assert!(why.contains("Connection refused") && why.contains("MPROXY_ADMIN_PORT"), "{why}");
}

#[tokio::test]
async fn health_does_not_wait_for_who_never_answers() {
    // The system takes connections for it.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port().to_string();
    let began = Instant::now();
    let (code, _, why) = mproxy(&["health", "--timeout", "200ms"], &[("MPROXY_ADMIN_PORT", &port)]).await;
    assert_eq!(code, Some(2));
    assert!(why.contains("no answer in time"), "{why}");
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn the_version_says_what_was_built() {
    let (code, version, _) = mproxy(&["--version"], &[]).await;
    assert_eq!(code, Some(0));
    let first = concat!("mproxy ", env!("CARGO_PKG_VERSION"), " (");
    assert!(version.starts_with(first) && version.contains(") rustls/ring\nfeatures: "), "{version}");
    let (_, short, _) = mproxy(&["-V"], &[]).await;
    assert_eq!(Some(short.trim_end()), version.lines().next());
}

#[tokio::test]
async fn sessions_are_listed_shown_and_disconnected() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let proxy = Proxy::before(broker.addr()).await;
    assert_eq!(ask(&proxy, &["sessions"]).await, (Some(1), "no session matches\n".into(), String::new()));

    let mut desk = proxy.login(Version::V5, "desk").await;
    let _lamp = proxy.login(Version::V311, "lamp").await;
    let (code, table, _) = ask(&proxy, &["sessions"]).await;
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!((code, lines.len()), (Some(0), 3), "{table}");
    assert!(lines[0].starts_with("CLIENT  USER"), "{table}");
    let column = |line: &str, text: &str| line.find(text).unwrap_or_else(|| panic!("{text} in {line}"));
    assert!(lines[1..].iter().all(|line| column(line, "mqtt") == column(lines[0], "LISTENER")), "{table}");
    let (_, one, _) = ask(&proxy, &["sessions", "--limit", "1"]).await;
    assert!(one.ends_with("there are more; --limit 0 shows all\n"), "{one}");
    let (_, json, _) = ask(&proxy, &["sessions", "--json", "--client-id", "desk", "--limit", "0"]).await;
    let session: Value = serde_json::from_str(json.trim_end()).unwrap();
    let id = session["connection_id"].as_str().unwrap();
    assert_eq!(ask(&proxy, &["sessions", "--client-id", "nobody"]).await.0, Some(1));

    for name in ["desk", id] {
        let (code, told, _) = ask(&proxy, &["session", name]).await;
        assert_eq!(code, Some(0), "{told}");
        assert!(told.contains("client id") && told.contains(id) && told.contains("traffic\n"), "{told}");
    }
    let (code, told, _) = ask(&proxy, &["session", "nobody"]).await;
    assert_eq!((code, told.as_str()), (Some(1), "no session of \"nobody\"\n"));

    let kicked = ask(&proxy, &["kick", "desk", "--reason", "0x9C", "--text", "moved"]).await;
    assert_eq!(kicked, (Some(0), "disconnected 1 client\n".into(), String::new()));
    let disconnect = desk.packet().await;
    assert_eq!((disconnect[0], disconnect[2]), (0xe0, 0x9c), "{disconnect:02x?}");
    assert!(disconnect.ends_with(b"moved"), "{disconnect:02x?}");
    desk.expect_closed().await;
    until("desk is gone", async || ask(&proxy, &["kick", "desk"]).await.0 == Some(1)).await;
    // Whoever is meant: what is wrong with the question is no "no".
    for wrong in [["--reason", "0x04"], ["--reason", "0x10"], ["--text", "a\nb"], ["--text", ""]] {
        for id in ["lamp", "nobody"] {
            let (code, said, why) = ask(&proxy, &[&["kick", id][..], &wrong].concat()).await;
            assert_eq!((code, said.as_str()), (Some(2), ""), "{wrong:?}");
            assert!(why.contains("0x80") || why.contains("256 characters"), "{why}");
        }
    }
    // It reads once, and as the documentation writes codes.
    let (_, told, _) = ask(&proxy, &["why", "desk"]).await;
    assert!(told.contains(": disconnected by an administrator. 0x9C Use another server"), "{told}");
}

#[tokio::test]
async fn output_that_cannot_be_written_is_no_answer() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let proxy = Proxy::before(broker.addr()).await;
    let _desk = proxy.login(Version::V5, "desk").await;
    let port = proxy.admin.port().to_string();
    for words in [
        "health",
        "sessions",
        "session desk",
        "why nobody",
        "explain desk publish a",
        "kick nobody",
        "reload",
        "check",
        "completions bash",
        "completions fish",
        "man",
        "--help",
        "--version",
        "help sessions",
    ] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_mproxy"));
        command.args(words.split(' ')).env_clear().env("MPROXY_ADMIN_PORT", &port).stdout(full);
        let child = command.stderr(Stdio::piped()).spawn().unwrap();
        let Output { status, stderr, .. } = child.wait_with_output().await.unwrap();
        let why = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(2), "{words}: {why}");
        assert!(why.contains("No space left on device"), "{words}: {why}");
    }
}

#[tokio::test]
async fn several_are_disconnected_only_when_that_is_confirmed() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let proxy = Proxy::before(broker.addr()).await;
    let mut clients = Vec::new();
    for name in ["a", "b", "c"] {
        clients.push(proxy.login(Version::V5, name).await);
    }
    // There is no terminal to ask at.
    let (code, said, why) = ask(&proxy, &["kick", "--listener", "mqtt"]).await;
    assert_eq!((code, said.as_str()), (Some(2), ""));
    assert!(why.contains("3 clients match") && why.contains("--yes") && why.contains("  b (user -"), "{why}");
    assert_eq!(proxy.sessions().await.len(), 3, "nobody was disconnected");
    let kicked = ask(&proxy, &["kick", "--listener", "mqtt", "--yes"]).await;
    assert_eq!(kicked, (Some(0), "disconnected 3 clients\n".into(), String::new()));
    for client in &mut clients {
        client.expect(&[0xe0, 0x01, 0x98]).await;
    }
    assert_eq!(ask(&proxy, &["kick", "--all", "--yes"]).await.0, Some(1));
}

#[tokio::test]
async fn what_clients_are_called_steers_no_terminal() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let proxy = Proxy::before(broker.addr()).await;
    // CSI in one character, DEL, and text that runs the other way.
    let name = "evil\u{9b}2J\u{7f}\u{202e}gpj";
    let mut client = WireClient::open(proxy.mqtt).await;
    client.send(&wire::connect(Version::V311, name, &ConnectOptions::default())).await;
    let first = client.packet().await;
    assert_eq!(first[0], 0x20, "{first:02x?}");
    for words in [
        &["sessions"][..],
        &["sessions", "--json"],
        &["session", name],
        &["session", name, "--json"],
        &["kick", name],
    ] {
        let (code, said, why) = ask(&proxy, words).await;
        assert_eq!(code, Some(0), "{why}");
        let steers = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!said.contains(steers) && !why.contains(steers), "{words:?}: {said:?} {why:?}");
    }
}

#[tokio::test]
async fn a_drain_is_asked_for_and_ends_mproxy() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let proxy = Proxy::before(broker.addr()).await;
    let (code, said, _) = ask(&proxy, &["drain"]).await;
    assert_eq!(code, Some(0));
    assert!(said.contains("is draining"), "{said}");
    assert_eq!(proxy.end().await.code(), Some(0));
}

#[tokio::test]
async fn who_may_not_ask_is_told_what_to_do() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let proxy = Proxy::with(broker.addr(), &[("MPROXY_ADMIN_TOKEN", "t0ken")]).await;
    for words in
        [&["sessions"][..], &["session", "x"], &["kick", "x"], &["drain"], &["why"], &["top", "--once"]]
    {
        let (code, said, why) = ask(&proxy, words).await;
        assert_eq!((code, said.as_str()), (Some(2), ""), "{words:?}");
        assert!(why.contains("HTTP 401") && why.contains("Set MPROXY_ADMIN_TOKEN"), "{why}");
    }
}

#[tokio::test]
async fn a_pipe_that_is_closed_is_no_error() {
    let child = std::process::Command::new(env!("CARGO_BIN_EXE_mproxy"))
        .args(["completions", "bash"])
        .env_clear()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{output:?}");
}

#[tokio::test]
async fn pages_for_man_are_made_for_all_commands() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("man1");
    let (code, _, why) = mproxy(&["man", "--out", path.to_str().unwrap()], &[]).await;
    assert_eq!(code, Some(0), "{why}");
    for page in ["mproxy.1", "mproxy-sessions.1", "mproxy-hooks-check.1"] {
        assert!(path.join(page).is_file(), "{page}");
    }
    let page = std::fs::read_to_string(path.join("mproxy.1")).unwrap();
    assert!(page.is_ascii(), "troff reads no other characters by itself");
    for part in [
        "\n.SH ENVIRONMENT VARIABLES\n",
        "\n.TP\n\\fBMPROXY_LOG_LEVEL\\fR\nLeast severe level",
        "\n.br\nfeatures: ",
    ] {
        assert!(page.contains(part), "{part:?} is not in {page}");
    }
    assert!(page.contains(",\\:10.0.0.0/8"), "a list without spaces can be broken");
    let (code, _, why) = mproxy(&["top"], &[]).await;
    assert_eq!(code, Some(2));
    assert!(why.contains("needs a terminal; --once"), "{why}");
}

#[tokio::test]
async fn packets_are_shown_as_they_pass_a_line_for_each() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let proxy = Proxy::before(broker.addr()).await;
    let port = proxy.admin.port().to_string();
    let start = |words: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_mproxy"));
        command.arg("tap").args(words).env_clear().env("MPROXY_ADMIN_PORT", &port);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap()
    };
    let lines = start(&["desk", "--type", "publish,connect", "--payload", "3", "--count", "2"]);
    let json = start(&["desk", "--type", "publish", "--json", "--count", "1"]);
    until("two taps", async || proxy.metric("mproxy_taps_open").await == 2.0).await;
    let mut desk = proxy.login(Version::V5, "desk").await;
    let message =
        Publish { topic: "room/\u{202e}x", payload: b"hello", qos: 1, packet_id: 7, ..Publish::default() };
    desk.send(&wire::publish(Version::V5, &message)).await;

    let said = lines.wait_with_output().await.unwrap();
    let (text, notice) = (String::from_utf8(said.stdout).unwrap(), String::from_utf8(said.stderr).unwrap());
    assert_eq!((said.status.code(), text.lines().count()), (Some(0), 2), "{text}{notice}");
    assert!(notice.contains("watching packets at 127.0.0.1:"), "{notice}");
    assert!(text.contains(" desk > CONNECT ") && text.contains(" mqtt=5.0"), "{text}");
    assert!(text.contains(r#" desk > PUBLISH room/\u{202e}x qos=1 id=7 5 B "hel"…"#), "{text}");
    let said = json.wait_with_output().await.unwrap();
    let event: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!((&event["event"], &event["topic"]), (&"packet".into(), &message.topic.into()), "{event}");
    assert!(event.get("payload").is_none(), "{event}");

    let (code, _, why) = ask(&proxy, &["tap", "--type", "publsh"]).await;
    assert_eq!(code, Some(2));
    assert!(why.contains("publish") && why.contains("HTTP 400"), "{why}");
    let end = start(&["nobody"]);
    until("a tap", async || proxy.metric("mproxy_taps_open").await == 1.0).await;
    proxy.stop().await;
    let said = end.wait_with_output().await.unwrap();
    let text = String::from_utf8(said.stdout).unwrap();
    assert_eq!((said.status.code(), text.as_str()), (Some(0), "-- the end: mproxy is stopping\n"));
}

#[tokio::test]
async fn one_frame_of_top_is_text_for_where_there_is_no_terminal() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let proxy = Proxy::before(broker.addr()).await;
    let _desk = proxy.login(Version::V5, "desk").await;
    let (code, frame, why) = ask(&proxy, &["top", "--once"]).await;
    assert_eq!((code, why.as_str()), (Some(0), ""), "{frame}");
    assert!(frame.starts_with(concat!("mproxy ", env!("CARGO_PKG_VERSION"), " at 127.0.0.1:")), "{frame}");
    assert!(frame.contains(", 1 connection, ") && frame.contains("Sessions: 1, by packets/s"), "{frame}");
    assert!(frame.lines().any(|line| line.starts_with("desk ") && line.contains(" mqtt ")), "{frame}");
    assert!(frame.contains("there is none"), "no hook service: {frame}");
    assert!(!frame.contains("\n\n") && !frame.contains("q end"), "{frame}");
}

#[tokio::test]
async fn a_reload_shows_what_has_changed_or_all_that_is_wrong() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("mproxy.toml");
    let write = |text: &str| std::fs::write(&path, text).unwrap();
    write("log.level = \"info\"\n");
    let proxy = Proxy::with(broker.addr(), &[("MPROXY_CONFIG", path.to_str().unwrap())]).await;
    let (code, said, why) = ask(&proxy, &["reload"]).await;
    assert_eq!((code, why.as_str()), (Some(0), ""));
    assert!(said.contains("no setting has changed"), "{said}");

    write("log.level = \"warn\"\ninstance = \"other\"\n");
    let (code, said, _) = ask(&proxy, &["reload"]).await;
    assert_eq!(code, Some(0), "{said}");
    let line = |name: &str| said.lines().find(|line| line.trim_start().starts_with(name)).unwrap_or_default();
    let words = |name: &str| line(name).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words("log.level"), ["log.level", "info", "warn", "now"], "{said}");
    assert!(line("instance").ends_with("at the next start"), "{said}");

    write("log.level = \"loud\"\nmax_connections = \"many\"\n");
    let (code, said, _) = ask(&proxy, &["reload"]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.starts_with("nothing was changed") && said.contains("loud") && said.contains("max_connections"),
        "{said}"
    );
    let (code, said, _) = ask(&proxy, &["reload", "--json"]).await;
    let problem: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, problem["faults"].as_array().map(Vec::len)), (Some(1), Some(2)), "{problem}");
}
