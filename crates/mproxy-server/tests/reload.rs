//! Reloads: all of what is written now or nothing, and nobody is dropped.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use mproxy_testkit::PATIENCE;
use mproxy_testkit::broker::{BrokerScript, RecordingBroker};
use mproxy_testkit::hook::MproxyProcess;
use mproxy_testkit::process::Process;
use mproxy_testkit::wire::{self, ConnectOptions, Publish, Version, WireClient};
use serde_json::{Value, json};
use support::until;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// mproxy with a file that is written again and again.
struct Scene {
    folder: TempDir,
    mproxy: MproxyProcess,
    mqtt: SocketAddr,
    admin: SocketAddr,
    broker: SocketAddr,
}

impl Scene {
    async fn open(broker: SocketAddr, settings: &str) -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("rules.toml"), rules("allow")).unwrap();
        let file = write(folder.path(), broker, settings);
        let mut mproxy = MproxyProcess::start(&[("MPROXY_CONFIG", file.to_str().unwrap())], &[]).await;
        let (mqtt, admin) = (mproxy.addr("mqtt").await, mproxy.addr("admin").await);
        Self { folder, mproxy, mqtt, admin, broker }
    }

    fn write(&self, settings: &str) {
        write(self.folder.path(), self.broker, settings);
    }

    /// Writes the file anew and has it reloaded.
    async fn reload(&self, settings: &str) -> (u16, Value) {
        self.write(settings);
        self.ask("POST", "/api/v1/reload", "").await
    }

    async fn taken(&self, settings: &str) -> Value {
        let (status, answer) = self.reload(settings).await;
        assert_eq!(status, 200, "{answer}");
        answer
    }

    async fn ask(&self, method: &str, path: &str, token: &str) -> (u16, Value) {
        self.send(method, path, token, "").await
    }

    async fn send(&self, method: &str, path: &str, token: &str, body: &str) -> (u16, Value) {
        let exchange = async {
            let mut stream = TcpStream::connect(self.admin).await?;
            let authorization =
                if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
            let head = format!(
                "{method} {path} HTTP/1.1\r\nHost: {}\r\n{authorization}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
                self.admin,
                body.len()
            );
            stream.write_all(head.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        let answer = timeout(PATIENCE, exchange).await.unwrap().unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or_else(|_| json!(body)))
    }

    async fn metric(&self, series: &str) -> f64 {
        let (_, page) = self.ask("GET", "/metrics", "").await;
        let value = |line: &str| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok();
        page.as_str().unwrap().lines().find_map(value).unwrap_or_default()
    }

    /// What `GET /config` says that is in force.
    async fn in_force(&self, key: &str) -> Value {
        let (_, config) = self.ask("GET", "/api/v1/config", "").await;
        let settings = config["settings"].as_array().unwrap();
        settings.iter().find(|setting| setting["key"] == key).unwrap()["value"].clone()
    }

    fn process(&mut self) -> &mut Process {
        self.mproxy.process()
    }

    async fn line(&mut self, words: &[&str]) -> String {
        let what = format!("a line with {words:?}");
        let all = |line: &str| words.iter().all(|word| line.contains(word)).then(|| line.to_owned());
        self.process().line_where(&what, all).await.unwrap_or_else(|failed| panic!("{failed}"))
    }

    async fn stop(mut self) {
        self.process().signal("TERM").await;
        let ended = self.mproxy.end().await;
        assert_eq!(ended.code(), Some(0), "{:#?}", ended.lines);
        assert!(!ended.has_line("panicked"), "{:#?}", ended.lines);
    }
}

fn write(folder: &Path, broker: SocketAddr, settings: &str) -> PathBuf {
    let file = folder.join("mproxy.toml");
    let rules = folder.join("rules.toml");
    let target = if settings.contains("mqtt.target.port") {
        String::new()
    } else {
        format!("mqtt.target.port = {}\n", broker.port())
    };
    let text = format!(
        "acl_file = {rules:?}\nadmin.port = {}\nmqtt.host = \"127.0.0.1\"\nmqtt.port = 0\nmqtt.target.host = \"127.0.0.1\"\n{target}ws.port = \"off\"\n{settings}",
        if settings.contains("another admin port") { 1 } else { 0 },
    );
    std::fs::write(&file, text).unwrap();
    file
}

fn rules(effect: &str) -> String {
    format!("[[rules]]\neffect = \"{effect}\"\ntopics = [\"#\"]\n")
}

async fn broker() -> RecordingBroker {
    RecordingBroker::start(BrokerScript::default()).await
}

async fn is_alive(client: &mut WireClient) {
    client.expect_nothing_but_pingresp().await;
}

#[tokio::test]
async fn a_level_that_an_administrator_set_goes_with_a_reload_which_says_so() {
    let broker = broker().await;
    let scene = Scene::open(broker.addr(), "log.level = \"info\"\n").await;
    assert_eq!(scene.send("PUT", "/api/v1/log-level", "", r#"{"level":"error"}"#).await.0, 200);
    let (status, report) = scene.reload("log.level = \"info\"\n").await;
    let change = &report["changes"][0];
    assert_eq!((status, change["setting"].as_str()), (200, Some("log.level")), "{report}");
    assert_eq!((change["old"].as_str(), change["new"].as_str()), (Some("error"), Some("info")), "{report}");
    assert_eq!(scene.ask("GET", "/api/v1/log-level", "").await.1["level"], "info");
    let (_, report) = scene.reload("log.level = \"info\"\n").await;
    assert_eq!(report["changes"], serde_json::json!([]), "{report}");
}

#[tokio::test]
async fn a_reload_takes_everything_or_nothing() {
    let broker = broker().await;
    let mut scene = Scene::open(broker.addr(), "max_connections = 50\n").await;
    let mut client = WireClient::login(scene.mqtt, Version::V5, "stays").await;

    // Two things are wrong, and one would be right.
    let rules_file = scene.folder.path().join("rules.toml");
    std::fs::write(&rules_file, rules("maybe")).unwrap();
    let missing = "max_connections = 60\nlog.level = \"info\"\n";
    let (status, problem) = scene.reload(missing).await;
    assert_eq!((status, problem["faults"].as_array().unwrap().len()), (422, 1), "{problem}");
    let both = "max_connections = 60\nlog.level = \"info\"\n[target]\nca_certs = \"/nowhere/ca.pem\"\n";
    let (status, problem) = scene.reload(&format!("mqtt.target.scheme = \"mqtts\"\n{both}")).await;
    let faults = problem["faults"].to_string();
    assert_eq!(status, 422, "{problem}");
    assert!(faults.contains("rules.toml:2") && faults.contains("/nowhere/ca.pem"), "{faults}");
    assert_eq!(scene.in_force("max_connections").await, "50");
    assert_eq!(scene.ask("GET", "/api/v1/log-level", "").await.1["level"], "debug");
    // By what was wrong, so that it is told once.
    for (what, times) in [("configuration", 0.0), ("acl_file", 2.0), ("certificates", 1.0)] {
        let series = format!("mproxy_reloads_total{{what=\"{what}\",outcome=\"failed\"}}");
        assert_eq!(scene.metric(&series).await, times, "{what}");
    }
    let (_, reloads) = scene.ask("GET", "/api/v1/reloads", "").await;
    let failed = json!({ "what": "configuration", "outcome": "failed" });
    let is_it = |one: &Value| ["what", "outcome"].iter().all(|key| one[key] == failed[key]);
    assert!(reloads["reloads"].as_array().unwrap().iter().any(is_it), "{reloads}");
    assert_eq!(scene.reload("log.level = \"loud\"\n").await.0, 422);
    let failed = "mproxy_reloads_total{what=\"configuration\",outcome=\"failed\"}";
    assert_eq!(scene.metric(failed).await, 1.0, "a setting is nobody else's");
    scene.line(&["ERROR", "configuration reload failed, nothing was changed"]).await;

    // All of it is right.
    std::fs::write(&rules_file, rules("deny")).unwrap();
    let answer = scene.taken("max_connections = 60\nlog.level = \"info\"\n").await;
    let change = |setting: &str, old: &str, new: &str| json!({ "setting": setting, "old": old, "new": new, "takes_effect": "now" });
    let level = json!({ "setting": "log.level", "old": "debug", "new": "info", "takes_effect": "now" });
    assert_eq!(answer, json!({ "changes": [change("max_connections", "50", "60"), level], "warnings": [] }));
    scene.line(&["INFO", "setting changed", "setting=\"max_connections\"", "old=\"50\"", "new=\"60\""]).await;
    assert_eq!(scene.in_force("max_connections").await, "60");
    let (_, reloads) = scene.ask("GET", "/api/v1/reloads", "").await;
    let configuration =
        reloads["reloads"].as_array().unwrap().iter().find(|one| one["what"] == "configuration").unwrap();
    assert_eq!(
        (&configuration["outcome"], &configuration["changes"]),
        (&json!("reloaded"), &answer["changes"])
    );
    client
        .send(&wire::publish(
            Version::V5,
            &Publish { topic: "a", qos: 1, packet_id: 1, ..Publish::default() },
        ))
        .await;
    assert_eq!(client.packet().await[4], 0x87, "the new rules hold for who is there");
    is_alive(&mut client).await;
    scene.stop().await;
}

#[tokio::test]
async fn what_takes_a_restart_is_told_and_left() {
    let broker = broker().await;
    let mut scene = Scene::open(broker.addr(), "").await;
    let answer = scene.taken("# another admin port\nmax_pending = 9\ntls.alpn = [\"mqtt\"]\nunix.path = \"/nowhere/mqtt.sock\"\n").await;
    let effects: Vec<_> = answer["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| (change["setting"].as_str().unwrap(), change["takes_effect"].as_str().unwrap()))
        .collect();
    assert_eq!(
        effects,
        [
            ("max_pending", "now"),
            ("tls.alpn", "new_connections"),
            ("unix.path", "next_start"),
            ("admin.port", "next_start")
        ]
    );
    assert_eq!(answer["warnings"], json!(["listener unix opens at the next start"]));
    scene.line(&["WARN", "setting changed, takes effect at the next start", "setting=\"admin.port\""]).await;
    assert_eq!(
        (scene.in_force("admin.port").await, scene.in_force("max_pending").await),
        (json!("0"), json!("9"))
    );
    scene.stop().await;
}

#[tokio::test]
async fn a_token_is_replaced_and_never_shown() {
    let broker = broker().await;
    let mut scene = Scene::open(broker.addr(), "admin.token = \"first-token\"\n").await;
    assert_eq!(scene.ask("POST", "/api/v1/reload", "").await.0, 401);
    scene.write("admin.token = \"second-token\"\n");
    let (status, answer) = scene.ask("POST", "/api/v1/reload", "first-token").await;
    assert_eq!(
        (status, &answer["changes"][0]["old"], &answer["changes"][0]["new"]),
        (200, &json!("***"), &json!("***"))
    );
    assert_eq!(scene.ask("GET", "/api/v1/config", "first-token").await.0, 401);
    assert_eq!(scene.ask("GET", "/api/v1/config", "second-token").await.0, 200);
    scene.line(&["setting changed", "admin.token", "old=\"***\""]).await;
    assert!(!scene.process().lines().iter().any(|line| line.contains("-token")));
    scene.stop().await;
}

#[tokio::test]
async fn new_connections_have_new_limits_and_a_new_broker_and_old_ones_what_they_had() {
    let (mut first, mut second) = (broker().await, broker().await);
    let scene = Scene::open(first.addr(), "").await;
    let mut old = WireClient::login(scene.mqtt, Version::V311, "old").await;
    let mut old_session = first.session().await;
    scene.taken(&format!("mqtt.target.port = {}\nmax_packet_size = 100\n", second.addr().port())).await;
    let large =
        wire::publish(Version::V311, &Publish { topic: "a", payload: &[0; 200], ..Publish::default() });
    let before = old_session.received().len();
    old.send(&large).await;
    assert_eq!(old_session.bytes(before + large.len()).await[before..], large[..]);

    let mut new = WireClient::login(scene.mqtt, Version::V311, "new").await;
    second.session().await;
    assert!(first.try_session().is_none());
    new.send(&large).await;
    new.expect_closed().await;
    is_alive(&mut old).await;
    scene.stop().await;
}

#[tokio::test]
async fn a_limit_below_what_there_is_drops_nobody() {
    let broker = broker().await;
    let scene = Scene::open(broker.addr(), "").await;
    let mut clients = Vec::new();
    for number in 0..3 {
        clients.push(WireClient::login(scene.mqtt, Version::V5, &format!("c{number}")).await);
    }
    scene.taken("max_connections = 2\nbudget.total = \"1MiB\"\nbudget.listener = \"1MiB\"\n").await;
    WireClient::open(scene.mqtt).await.expect_closed().await;
    for client in &mut clients {
        is_alive(client).await;
    }
    assert_eq!(scene.metric("mproxy_budget_limit_bytes{scope=\"total\",listener=\"\"}").await, 1_048_576.0);
    drop(clients);
    until("room for another", async || {
        scene.metric("mproxy_connections_open{listener=\"mqtt\"}").await == 0.0
    })
    .await;
    drop(WireClient::login(scene.mqtt, Version::V5, "again").await);
    scene.stop().await;
}

#[tokio::test]
async fn clients_are_sent_to_the_server_that_is_written_now() {
    let broker = broker().await;
    let mut scene = Scene::open(broker.addr(), "").await;
    let mut client = WireClient::login(scene.mqtt, Version::V5, "c").await;
    scene.taken("drain_server_reference = \"b:1\"\n").await;
    scene.process().signal("TERM").await;
    assert_eq!(client.packet().await, [&[0xe0, 8, 0x9c, 6, 0x1c, 0, 3][..], b"b:1"].concat());
    drop(client);
    assert_eq!(scene.mproxy.end().await.code(), Some(0));
}

#[tokio::test]
async fn reloads_that_come_together_follow_each_other() {
    let broker = broker().await;
    let mut scene = Scene::open(broker.addr(), "").await;
    scene.write("max_connections = 70\n");
    let asked = futures_util::future::join_all((0..8).map(|_| scene.ask("POST", "/api/v1/reload", ""))).await;
    let changes = |(status, answer): &(u16, Value)| {
        assert_eq!(*status, 200, "{answer}");
        answer["changes"].as_array().unwrap().len()
    };
    assert_eq!(
        asked.iter().map(changes).sum::<usize>(),
        1,
        "the first takes it, and the others find it taken"
    );
    scene.process().signal("HUP").await;
    until("the ninth", async || {
        scene.metric("mproxy_reloads_total{what=\"configuration\",outcome=\"reloaded\"}").await == 9.0
    })
    .await;
    let (_client, connack) = {
        let mut client = WireClient::open(scene.mqtt).await;
        client.send(&wire::connect(Version::V311, "c", &ConnectOptions::default())).await;
        let answer = client.packet().await;
        (client, answer)
    };
    assert_eq!(connack, [0x20, 2, 0, 0]);
    scene.stop().await;
}
