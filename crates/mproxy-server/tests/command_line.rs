//! The commands that ask a running mproxy, as an operator types them.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::net::TcpListener;
use std::process::Output;
use std::time::{Duration, Instant};

use mproxy_testkit::broker::{BrokerScript, RecordingBroker};
use mproxy_testkit::wire::Version;
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
