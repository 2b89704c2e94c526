//! Many who do not know the password, at once, at a running mproxy.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use argon2::password_hash::SaltString;
use argon2::{Algorithm, Argon2, Params, PasswordHasher};
use mproxy_testkit::broker::{BrokerScript, RecordingBroker};
use mproxy_testkit::process::raise_file_limit;
use mproxy_testkit::service::{Running, Service};
use mproxy_testkit::wire::{self, ConnectOptions, Version, WireClient};
use support::Proxy;
use tokio::task::JoinSet;

const CROWD: usize = 900;

/// The hash of "wonderland" at a price by which all cores together need half a minute for so many: most get no turn within
/// the 5 s after which that is an overload of mproxy's own.
fn costly() -> String {
    let hash = |passes| {
        let params = Params::new(Params::DEFAULT_M_COST, passes, 1, None).unwrap();
        let salt = SaltString::from_b64("c29tZXNhbHRvZm91cnM").unwrap();
        let argon2 = Argon2::new(Algorithm::Argon2id, argon2::Version::V0x13, params);
        argon2.hash_password(b"wonderland", &salt).unwrap().to_string()
    };
    let begin = Instant::now();
    hash(4);
    let cores = available_parallelism().map_or(1, usize::from) as u32;
    let each = Duration::from_secs(30) * cores / CROWD as u32;
    let passes = (4.0 * each.as_secs_f64() / begin.elapsed().as_secs_f64()).ceil() as u32;
    hash(passes.max(2))
}

#[tokio::test]
async fn a_crowd_with_wrong_passwords_is_let_in_by_nothing() {
    raise_file_limit(2 * CROWD as u64 + 200);
    let mut broker = RecordingBroker::start(BrokerScript::default()).await;
    let judge = Running::start(Service::default()).await;
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("rules.toml");
    let rules = format!(
        "[[users]]\nname = \"ann\"\npassword = \"{}\"\n[[rules]]\neffect = \"allow\"\ntopics = [\"#\"]\n",
        costly()
    );
    std::fs::write(&file, rules).unwrap();
    let variables = [
        ("MPROXY_ACL_FILE", file.to_str().unwrap()),
        ("MPROXY_POLICY_ON_ERROR", "allow"),
        ("MPROXY_CONNECT_TIMEOUT", "7s"),
    ];
    let proxy = Proxy::asking(&judge, broker.addr(), &variables).await;

    let mut crowd = JoinSet::new();
    for number in 0..CROWD {
        let door = proxy.mqtt;
        crowd.spawn(async move {
            let version = if number % 2 == 0 { Version::V311 } else { Version::V5 };
            let mut client = WireClient::open(door).await;
            let options = ConnectOptions {
                username: Some("ann"),
                password: Some(b"looking glass"),
                ..ConnectOptions::default()
            };
            client.send(&wire::connect(version, &format!("c{number}"), &options)).await;
            (version, client.rest().await)
        });
    }
    let (mut refused, mut troubled) = (0, 0);
    while let Some(heard) = crowd.join_next().await {
        let (version, heard) = heard.unwrap();
        let no = if version == Version::V5 { 0x86 } else { 4 };
        if heard.is_empty() {
            troubled += 1;
        } else {
            assert_eq!(heard, wire::connack(version, false, no, &[]));
            refused += 1;
        }
    }
    assert_eq!(refused + troubled, CROWD);
    assert!(broker.try_session().is_none(), "the broker hears of nobody");
    assert_eq!(judge.calls("AuthConnect"), 0);
    let (_, page) = proxy.http("GET", "/metrics").await;
    let overloads = page.lines().filter(|line| line.starts_with("mproxy_overloads_total{hook=\"connect\""));
    let overloads: f64 = overloads.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum();
    assert!(refused > 0 && overloads > 0.0 && troubled > 0, "{refused} refused, {troubled} troubled: {page}");

    let right =
        ConnectOptions { username: Some("ann"), password: Some(b"wonderland"), ..ConnectOptions::default() };
    for version in [Version::V311, Version::V5] {
        let (_client, connack) = proxy.connect(version, "ann", &right).await;
        assert_eq!(connack, wire::connack(version, false, 0, &[]));
        broker.session().await;
    }
    proxy.stop().await;
}
