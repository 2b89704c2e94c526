//! A new process takes the place of a running mproxy: who comes is served all the while, who is there may stay, and whatever
//! is wrong with the new one leaves the old one serving.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use mproxy_testkit::broker::{BrokerScript, RecordingBroker};
use mproxy_testkit::mosquitto::Mosquitto;
use mproxy_testkit::service::contract::HelloResponse;
use mproxy_testkit::service::{ObservePlay, Running, Service};
use mproxy_testkit::wire::{self, Publish, Version, WireClient};
use support::upgrading::{Old, Orphan, says, web, web_client};
use support::{http, until};
use tempfile::TempDir;
use tokio::process::Command;

/// Connects again and again, and counts.
async fn knocks(mqtt: SocketAddr, goes_on: Arc<AtomicBool>, served: Arc<AtomicU64>) {
    while goes_on.load(Ordering::SeqCst) {
        let name = format!("knock{}", served.load(Ordering::SeqCst));
        // Once it is in, the old process may let it go.
        drop(WireClient::login(mqtt, Version::V311, &name).await);
        served.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_comes_during_upgrades_in_a_row_is_served() {
    let broker = Mosquitto::start().await;
    let mut old = Old::start(broker.addr(), "", &[]).await;
    let (goes_on, served) = (Arc::new(AtomicBool::new(true)), Arc::<AtomicU64>::default());
    let knocking = tokio::spawn(knocks(old.mqtt, Arc::clone(&goes_on), Arc::clone(&served)));
    let mut before = 0;
    for _ in 0..3 {
        until("clients", async || served.load(Ordering::SeqCst) > before + 5).await;
        before = served.load(Ordering::SeqCst);
        let (status, answer) = old.upgrade().await;
        assert_eq!((status, answer["version"].is_string()), (200, true), "{answer}");
        assert_eq!(old.count("completed").await, 1, "the admin API is the new one's");
    }
    until("clients", async || served.load(Ordering::SeqCst) > before + 5).await;
    goes_on.store(false, Ordering::SeqCst);
    knocking.await.expect("nobody was refused");
    assert_eq!(old.process.end().await.unwrap().code(), Some(0));
    let [first, second, last] = &old.successors[..] else { panic!("three of them") };
    until("the ends of those between", async || !first.is_running() && !second.is_running()).await;
    assert_eq!(http(old.admin, "POST", "/api/v1/drain").await.0, 202);
    until("the end of the last", async || !last.is_running()).await;
}

#[tokio::test]
async fn those_who_are_there_stay_with_the_old_process_as_long_as_they_may() {
    let mut broker = RecordingBroker::start(BrokerScript::default()).await;
    let settings = format!("upgrade_stay = \"20s\"\n{}", web(broker.addr()));
    let mut old = Old::start(broker.addr(), &settings, &[]).await;
    let mut early = web_client(&mut old, "early").await;
    let mut session = broker.session().await;
    assert_eq!(old.upgrade().await.0, 200);
    let message = Publish { topic: "a", payload: b"still", ..Publish::default() };
    early.send(&wire::publish(Version::V5, &message)).await;
    assert_eq!(session.packets(2).await[1], wire::publish(Version::V5, &message));
    WireClient::login(old.mqtt, Version::V5, "late").await.expect_nothing_but_pingresp().await;
    assert!(old.process.is_running());
    // It ends when they have ended.
    drop(early);
    let ended = old.process.end().await.unwrap();
    assert_eq!(ended.code(), Some(0), "{:#?}", ended.lines);
}

#[tokio::test]
async fn those_who_stay_are_within_reach_of_bans_and_reloads() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let settings = format!("upgrade_stay = \"20s\"\n{}", web(broker.addr()));
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("bans.json");
    let variables = [("MPROXY_BANS_FILE", file.to_str().unwrap())];
    let mut old = Old::start(broker.addr(), &settings, &variables).await;
    let mut banned = web_client(&mut old, "banned").await;
    let mut other = web_client(&mut old, "other").await;
    assert_eq!(old.upgrade().await.0, 200);
    old.process.signal("HUP").await;
    old.process.line("reloaded").await.unwrap();
    let mut ban = Command::new(env!("CARGO_BIN_EXE_mproxy"));
    ban.args(["ban", "--client-id", "banned"]).env_clear();
    let answer = ban.env("MPROXY_ADMIN_PORT", old.admin.port().to_string()).output().await.unwrap();
    assert!(answer.status.success(), "{answer:?}");
    assert_eq!(banned.rest().await, [0xE0, 1, 0x87]);
    other.expect_nothing_but_pingresp().await;
    drop(other);
    assert_eq!(old.process.end().await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn what_is_changed_meanwhile_is_refused_or_for_the_process_that_serves_then() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let mut old = Old::start(broker.addr(), "upgrade_timeout = \"20s\"\n", &[]).await;
    // It waits until a file is there, and becomes the program.
    let (gate, program) = (old.path("gate"), env!("CARGO_BIN_EXE_mproxy"));
    let waits = format!("while [ ! -e {} ]; do sleep 0.02; done; exec {program} \"$@\"", gate.display());
    for (what, serves) in [(format!("{waits} --no-such-flag"), false), (waits, true)] {
        let _ = fs::remove_file(&gate);
        old.replace_program(&what);
        let admin = old.admin;
        let upgrade = tokio::spawn(async move { http(admin, "POST", "/api/v1/upgrade").await });
        let ban = "/api/v1/bans?client_id=x";
        until("a refusal", async || http(admin, "DELETE", ban).await.0 == 409).await;
        let (status, answer) = http(admin, "POST", "/api/v1/reload").await;
        assert!(status == 409 && answer.contains("an upgrade is under way"), "{answer}");
        assert_eq!(http(admin, "GET", "/api/v1/bans").await.0, 200, "who only looks is answered");
        old.process.signal("HUP").await;
        old.process.line("SIGHUP received during an upgrade").await.unwrap();
        fs::write(&gate, "").unwrap();
        let (status, answer) = upgrade.await.unwrap();
        assert_eq!(status == 200, serves, "{answer}");
        if serves {
            let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
            old.successors.push(Orphan(answer["pid"].as_u64().unwrap()));
        }
        let reloaded = "mproxy_reloads_total{what=\"configuration\",outcome=\"reloaded\"}";
        until("a reload by the one that serves", async || old.metric(reloaded).await == Some(1)).await;
        until("changes are taken again", async || http(admin, "DELETE", ban).await.0 == 404).await;
    }
}

#[tokio::test]
async fn those_who_may_not_stay_are_told_as_at_a_stop() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let mut old = Old::start(broker.addr(), &web(broker.addr()), &[]).await;
    let mut early = web_client(&mut old, "early").await;
    assert_eq!(old.upgrade().await.0, 200);
    assert_eq!(early.packet().await, [0xe0, 1, 0x8b], "DISCONNECT, server shutting down");
    early.expect_closed().await;
    assert_eq!(old.process.end().await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn a_new_process_that_does_not_come_up_leaves_the_old_one_serving() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let mut old = Old::start(broker.addr(), "upgrade_timeout = \"700ms\"\n", &[]).await;
    let mut early = WireClient::login(old.mqtt, Version::V5, "early").await;
    let (file, good) = (old.path("mproxy.toml"), fs::read(old.path("mproxy.toml")).unwrap());

    fs::write(&file, "nonsense = 1\n").unwrap();
    let (status, answer) = old.upgrade().await;
    assert_eq!(status, 422);
    assert!(answer["detail"].as_str().unwrap().contains("its configuration is wrong"), "{answer}");
    old.still_serves("a").await;
    fs::write(&file, good).unwrap();

    let ready = r#"{"message":"ready","protocol":1,"version":"9"}"#;
    for (script, outcome, detail) in [
        ("exit 7".to_owned(), "failed", "exit status: 7"),
        (says(r#"{"message":"failed","error":"no such luck"}"#), "failed", "no such luck"),
        (says(r#"{"message":"ready","protocol":2,"version":"9"}"#), "other_protocol", "version 2"),
        (says(r#"{"message":"nonsense"}"#), "failed", "not understood"),
        ("exec sleep 60".to_owned(), "timed_out", "0.7 s"),
        // It dies when it was told to accept.
        (format!("{ready}\nhead -c 1 >/dev/null", ready = says(ready)), "failed", "it ended"),
    ] {
        old.replace_program(&script);
        let before = old.count(outcome).await;
        let (status, answer) = old.upgrade().await;
        assert_eq!(status, 422, "{script}: {answer}");
        assert!(answer["detail"].as_str().unwrap().contains(detail), "{script}: {answer}");
        assert_eq!(old.count(outcome).await, before + 1, "{script}");
        old.still_serves(outcome).await;
    }
    fs::remove_file(old.path("mproxy")).unwrap();
    assert_eq!(old.upgrade().await.0, 422);
    assert_eq!(old.count("not_started").await, 1);
    early.expect_nothing_but_pingresp().await;
    let line = old.process.line("upgrade failed, this process goes on serving").await.unwrap();
    assert!(line.contains("ERROR") && line.contains("outcome=\"failed\""), "{line}");
}

#[tokio::test]
async fn a_listener_that_is_configured_elsewhere_moves_and_one_that_is_not_any_more_closes() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let listener = |name: &str, port: u16| {
        format!(
            "[[listeners]]\nname = \"{name}\"\nhost = \"127.0.0.1\"\nport = {port}\ntransport = \"mqtt\"\n\
             target = {{ host = \"127.0.0.1\", port = {} }}\n",
            broker.addr().port()
        )
    };
    let [first, second, third] = std::array::from_fn(|_| mproxy_testkit::process::free_port());
    let mut old = Old::start(broker.addr(), &(listener("one", first) + &listener("two", second)), &[]).await;
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    fs::write(old.path("mproxy.toml"), Old::settings(broker.addr(), &listener("one", third))).unwrap();
    assert_eq!(old.upgrade().await.0, 200);
    WireClient::login(at(third), Version::V5, "moved").await.expect_nothing_but_pingresp().await;
    old.process.line("no listener for this socket any more").await.unwrap();
    let closed = async || {
        tokio::net::TcpStream::connect(at(first)).await.is_err()
            && tokio::net::TcpStream::connect(at(second)).await.is_err()
    };
    until("the old ports to close", closed).await;
}

#[tokio::test]
async fn the_file_of_a_unix_socket_is_the_new_process_own() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("mqtt.sock");
    let mut old = Old::start(broker.addr(), &format!("unix.path = {path:?}\n"), &[]).await;
    assert_eq!(old.upgrade().await.0, 200);
    assert_eq!(old.process.end().await.unwrap().code(), Some(0));
    WireClient::open_unix(&path)
        .await
        .logged_in(Version::V5, "near")
        .await
        .expect_nothing_but_pingresp()
        .await;
    assert_eq!(http(old.admin, "POST", "/api/v1/drain").await.0, 202);
    until("its end", async || !old.successors[0].is_running()).await;
    assert!(!path.exists(), "it goes with the last one");
}

#[tokio::test]
async fn an_event_spool_has_one_writer_and_events_wait_for_it() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let service = Running::start(Service {
        hello: Some(HelloResponse { streams: true, ..HelloResponse::default() }),
        observe: ObservePlay::Confirm,
        ..Service::default()
    })
    .await;
    let spool = TempDir::new().unwrap();
    let settings = format!(
        "upgrade_stay = \"60s\"\npolicy.url = \"{}\"\nevents.spool = {:?}\n{}",
        service.url,
        spool.path(),
        web(broker.addr())
    );
    let mut old = Old::start(broker.addr(), &settings, &[]).await;
    old.process.line("policy endpoint healthy").await.unwrap();
    let early = web_client(&mut old, "early").await;
    service.events_when(|told| told.iter().any(|told| told.client_id == "early")).await;
    assert_eq!(old.upgrade().await.0, 200);
    let late = WireClient::login(old.mqtt, Version::V5, "late").await;
    // The old process has the spool as long as it has a client.
    assert!(service.events().iter().all(|told| told.client_id == "early"));
    drop(early);
    assert_eq!(old.process.end().await.unwrap().code(), Some(0));
    let told = service.events_when(|told| told.len() == 3).await;
    let told: Vec<_> =
        told.iter().map(|told| (told.sequence, &*told.client_id, told.what.starts_with("dis"))).collect();
    assert_eq!(told, [(1, "early", false), (2, "early", true), (3, "late", false)]);
    let runs: std::collections::BTreeSet<_> = service
        .observed()
        .into_iter()
        .map(|(_, request)| request.run_id)
        .filter(|run| !run.is_empty())
        .collect();
    assert_eq!(runs.len(), 1, "the numbering goes on");
    drop(late);
}

#[tokio::test]
async fn the_command_says_what_came_of_it() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let mut old = Old::start(broker.addr(), "", &[]).await;
    let port = old.admin.port().to_string();
    let upgrade = async || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mproxy"));
        command.args(["upgrade", "--admin-port", &port]);
        mproxy_testkit::process::run("mproxy upgrade", command).await
    };
    let program = old.path("mproxy");
    fs::rename(&program, old.path("away")).unwrap();
    let failed = upgrade().await;
    assert_eq!(failed.code(), Some(1), "{:?}", failed.lines);
    assert!(failed.has_line("not upgraded") && failed.has_line("cannot be started"), "{:?}", failed.lines);
    fs::rename(old.path("away"), &program).unwrap();
    let done = upgrade().await;
    assert_eq!(done.code(), Some(0), "{:?}", done.lines);
    let pid = done.lines[0].split(' ').nth(1).and_then(|pid| pid.parse().ok()).unwrap();
    old.successors.push(Orphan(pid));
    assert_eq!(old.process.end().await.unwrap().code(), Some(0));
    let again = http(old.admin, "GET", "/readyz").await;
    assert_eq!(again.0, 200, "{}", again.1);
}

#[tokio::test]
async fn what_is_no_predecessor_is_a_fault_of_the_start() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mproxy"));
    command.env("MPROXY_UPGRADE", "1").env("MPROXY_ADMIN_PORT", "0");
    let ended = mproxy_testkit::process::run("mproxy", command).await;
    assert_eq!(ended.code(), Some(1));
    assert!(ended.has_line("MPROXY_UPGRADE is set"), "{:?}", ended.lines);
}
