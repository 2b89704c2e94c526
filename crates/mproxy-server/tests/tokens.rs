//! Clients with tokens before a real process: in by what the file says, out at the token's end, and nobody is shown one.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::time::{Duration, SystemTime};

use futures_util::SinkExt;
use mproxy_testkit::broker::{BrokerScript, RecordingBroker};
use mproxy_testkit::certificates::Folder;
use mproxy_testkit::tokens::{TokenSigner, seconds_from_now};
use mproxy_testkit::wire::{self, ConnectOptions, Version};
use serde_json::json;
use support::{Proxy, VERSIONS};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

const RULES: &str = r#"
[jwt]
from = ["password", "username", "websocket"]
audiences = ["mqtt"]
[[jwt.keys]]
public_key = "key.pem"
[[rules]]
effect = "allow"
topics = ["tenants/${claim.tenant}/#"]
"#;

struct TokenHouse {
    signer: TokenSigner,
    broker: RecordingBroker,
    folder: Folder,
}

impl TokenHouse {
    async fn new() -> Self {
        let (signer, folder) = (TokenSigner::es256(), Folder::default());
        folder.write("key.pem", signer.verifying_file());
        folder.write("rules.toml", RULES);
        Self { signer, broker: RecordingBroker::start(BrokerScript::default()).await, folder }
    }

    fn rules(&self) -> String {
        self.folder.file("rules.toml").to_str().unwrap().to_owned()
    }

    /// A token until this second.
    fn token(&self, exp: i64) -> String {
        self.signer.token(&json!({ "sub": "ann", "aud": "mqtt", "tenant": "acme", "exp": exp }))
    }
}

fn password(token: &str) -> ConnectOptions<'_> {
    ConnectOptions { username: Some("any"), password: Some(token.as_bytes()), ..ConnectOptions::default() }
}

#[tokio::test]
async fn a_silent_subscriber_is_ended_when_its_token_ends() {
    let mut house = TokenHouse::new().await;
    let rules = house.rules();
    let proxy = Proxy::with(house.broker.addr(), &[("MPROXY_ACL_FILE", &rules)]).await;
    for version in VERSIONS {
        let exp = seconds_from_now(2);
        let token = house.token(exp);
        let (mut client, answer) = proxy.connect(version, "c1", &password(&token)).await;
        assert_eq!(answer, wire::connack(version, false, 0, &[]));
        let mut session = house.broker.session().await;
        let expected = ConnectOptions { username: Some("ann"), ..ConnectOptions::default() };
        assert_eq!(session.packets(1).await[0], wire::connect(version, "c1", &expected), "without the token");
        if version == Version::V5 {
            assert_eq!(
                client.packet().await,
                [&[0xE0, 18, 0x87, 16, 0x1F, 0, 13][..], b"token expired"].concat()
            );
        }
        client.expect_closed().await;
        // To the second: the token's own are whole ones.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let exp = Duration::from_secs(u64::try_from(exp).unwrap());
        assert!(now >= exp && now - exp < Duration::from_secs(1), "{:?}", now - exp);
    }
    proxy.stop().await;
}

/// Everything that shows what a client did, after clients with tokens of all kinds have been there.
#[tokio::test]
async fn no_token_is_shown_anywhere() {
    let house = TokenHouse::new().await;
    let file = format!(
        "acl_file = {:?}\nlog.level = \"trace\"\nws.token = \"query:token\"\nws.headers = [\"x-a\"]\n\
         decision_log.allowed_one_in = 1\ndecision_log.file = {:?}\n",
        house.rules(),
        house.folder.file("decisions.log")
    );
    let listeners = format!(
        "{file}\n[[listeners]]\nname = \"mqtt\"\ntransport = \"mqtt\"\nhost = \"127.0.0.1\"\nport = 0\n\
         target = {{ scheme = \"mqtt\", host = \"127.0.0.1\", port = {0} }}\n\
         [[listeners]]\nname = \"ws\"\ntransport = \"ws\"\nhost = \"127.0.0.1\"\nport = 0\n\
         target = {{ scheme = \"mqtt\", host = \"127.0.0.1\", port = {0} }}\n",
        house.broker.addr().port()
    );
    let mut proxy = Proxy::configured("mqtt", &listeners).await;
    let ws = proxy.door("ws").await;
    let tap = tokio::spawn(support::http(proxy.admin, "GET", "/api/v1/tap?payload=4096"));
    support::until("the tap is open", async || {
        proxy.http("GET", "/metrics").await.1.contains("mproxy_taps_open 1\n")
    })
    .await;
    let (good, bad) =
        (house.token(seconds_from_now(600)), TokenSigner::es256().token(&json!({ "sub": "x" })));
    let mut kept = Vec::new();
    for token in [&good, &bad] {
        let (client, _) = proxy.connect(Version::V5, "by-password", &password(token)).await;
        kept.push(client);
        let named = ConnectOptions { username: Some(token), ..ConnectOptions::default() };
        let (client, _) = proxy.connect(Version::V5, "by-name", &named).await;
        kept.push(client);
    }
    let mut sockets = Vec::new();
    for token in [&good, &bad] {
        let mut request = format!("ws://{ws}/mqtt?a=b&token={token}").into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "mqtt".parse().unwrap());
        let stream = tokio::net::TcpStream::connect(ws).await.unwrap();
        let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
        let connect = wire::connect(Version::V5, "by-ws", &ConnectOptions::default());
        socket.send(Message::Binary(connect.into())).await.unwrap();
        sockets.push(socket);
    }
    support::until("three sessions", async || proxy.sessions().await.len() == 3).await;
    support::until("three refusals", async || {
        proxy.http("GET", "/api/v1/refusals").await.1.matches("\"about\":\"token\"").count() == 3
    })
    .await;
    let mut pages = Vec::new();
    for path in ["/api/v1/sessions", "/api/v1/refusals", "/metrics"] {
        pages.push(proxy.http("GET", path).await.1);
    }
    for session in proxy.sessions().await {
        assert_eq!(session["username"], "ann");
        let id = session["connection_id"].as_str().unwrap();
        pages.push(proxy.http("GET", &format!("/api/v1/sessions/{id}")).await.1);
    }
    pages.push(std::fs::read_to_string(house.folder.file("decisions.log")).unwrap_or_default());
    drop((kept, sockets));
    proxy.signal("TERM").await;
    let tapped = tap.await.unwrap().1;
    assert!(tapped.contains("\"type\":\"CONNECT\"") && tapped.contains("by-ws"), "{tapped}");
    pages.push(tapped);
    pages.push(proxy.end().await.lines.join("\n"));
    for page in pages {
        for token in [&good, &bad] {
            for part in token.split('.') {
                assert!(!page.contains(part), "{page}");
            }
        }
    }
}

/// A user name is whatever a client writes: also where none is looked for there, and where nobody looks for tokens at all.
#[tokio::test]
async fn no_token_in_a_user_name_is_shown_wherever_tokens_are_looked_for() {
    let house = TokenHouse::new().await;
    house
        .folder
        .write("rules.toml", RULES.replace("from = [\"password\", \"username\", \"websocket\"]\n", ""));
    for with_rules in [true, false] {
        let rules = if with_rules { format!("acl_file = {:?}\n", house.rules()) } else { String::new() };
        let log = house.folder.file(if with_rules { "with.log" } else { "without.log" });
        let config = format!(
            "{rules}log.level = \"trace\"\ndecision_log.allowed_one_in = 1\ndecision_log.file = {log:?}\n\
             [[listeners]]\nname = \"mqtt\"\ntransport = \"mqtt\"\nhost = \"127.0.0.1\"\nport = 0\n\
             target = {{ scheme = \"mqtt\", host = \"127.0.0.1\", port = {} }}\n",
            house.broker.addr().port()
        );
        let mut proxy = Proxy::configured("mqtt", &config).await;
        let tap = tokio::spawn(support::http(proxy.admin, "GET", "/api/v1/tap?payload=4096"));
        support::until("the tap is open", async || {
            proxy.http("GET", "/metrics").await.1.contains("mproxy_taps_open 1\n")
        })
        .await;
        let token = house.token(seconds_from_now(600));
        let wrong = TokenSigner::es256().token(&json!({ "sub": "x" }));
        let names = [token.clone(), format!("Bearer {token}"), format!(" bearer\t{token} ")];
        let mut kept = Vec::new();
        for name in &names {
            for password in [Some(&token), Some(&wrong), None] {
                let options = ConnectOptions {
                    username: Some(name),
                    password: password.map(String::as_bytes),
                    ..ConnectOptions::default()
                };
                kept.push(proxy.connect(Version::V5, "by-name", &options).await.0);
            }
        }
        let expected = if with_rules { names.len() } else { 3 * names.len() };
        support::until("all are there", async || proxy.sessions().await.len() == expected).await;
        let mut pages = vec![proxy.http("GET", "/api/v1/refusals").await.1];
        assert_eq!(pages[0].contains("by-name"), with_rules, "{}", pages[0]);
        for session in proxy.sessions().await {
            pages.push(session.to_string());
            let id = session["connection_id"].as_str().unwrap();
            pages.push(proxy.http("GET", &format!("/api/v1/sessions/{id}")).await.1);
        }
        drop(kept);
        proxy.signal("TERM").await;
        pages.push(tap.await.unwrap().1);
        assert!(pages.last().unwrap().contains("by-name"));
        pages.push(proxy.end().await.lines.join("\n"));
        pages.push(std::fs::read_to_string(log).unwrap_or_default());
        for (page, part) in pages.iter().flat_map(|page| token.split('.').map(move |part| (page, part))) {
            assert!(!page.contains(part), "{page}");
        }
    }
}

#[tokio::test]
async fn a_token_opens_the_topics_of_its_claims_and_no_others() {
    let mut house = TokenHouse::new().await;
    let rules = house.rules();
    let proxy = Proxy::with(house.broker.addr(), &[("MPROXY_ACL_FILE", &rules)]).await;
    let token = house.token(seconds_from_now(600));
    for version in VERSIONS {
        let (mut client, _) = proxy.connect(version, "c1", &password(&token)).await;
        let mut session = house.broker.session().await;
        let filters = [("tenants/acme/#", 0), ("tenants/other/#", 0), ("#", 0)];
        client.send(&wire::subscribe(version, 1, &filters)).await;
        assert_eq!(session.packets(2).await[1], wire::subscribe(version, 1, &filters[..1]));
    }
    proxy.stop().await;
}

/// The codes of `mproxy rules explain` are those on the wire, where the session has a word in it: limits, wills, and codes
/// that a packet may not carry.
#[tokio::test]
async fn what_rules_explain_says_is_what_a_client_is_told() {
    let mut house = TokenHouse::new().await;
    let rules = r#"
        [jwt]
        audiences = ["mqtt"]
        [[jwt.keys]]
        public_key = "key.pem"
        [[rules]]
        effect = "allow"
        topics = ["all/#"]
        max_qos = 1
        retain = false
        [[grants]]
        publish = ["up/#"]
        default = "deny"
        packet_size = 40
        subscriptions = 0
    "#;
    house.folder.write("rules.toml", rules);
    let file = house.rules();
    let proxy = Proxy::with(house.broker.addr(), &[("MPROXY_ACL_FILE", &file)]).await;
    let token = house.token(seconds_from_now(600));
    let explain = |what: &[&str]| {
        let command = ["rules", "explain", &file, what[0], what[1], "--client-id", "c", "--claim", "sub=ann"];
        let mut run = std::process::Command::new(env!("CARGO_BIN_EXE_mproxy"));
        let out = run.args(command).args(&what[2..]).env_clear().output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    let code = |told: &str| u8::from_str_radix(&told.split("0x").nth(1).unwrap()[..2], 16).unwrap();
    let large = format!("up/{}", "x".repeat(40));
    for (qos, retain, topic) in
        [(1, true, "all/x"), (2, false, "all/x"), (1, false, "no"), (1, false, &large)]
    {
        let level = qos.to_string();
        let flags = if retain { &["--retain"][..] } else { &[] };
        let told = explain(&[&["publish", topic, "--qos", &level], flags].concat());
        let (mut client, _) = proxy.connect(Version::V5, "c", &password(&token)).await;
        let _session = house.broker.session().await;
        let publish = wire::Publish { topic, qos, retain, packet_id: 7, ..wire::Publish::default() };
        client.send(&wire::publish(Version::V5, &publish)).await;
        let answer = client.packet().await;
        let wire = if answer[0] == 0xE0 { answer[2] } else { answer[4] };
        assert_eq!(wire, code(&told), "{topic} {told}");
    }
    let (mut client, _) = proxy.connect(Version::V5, "c", &password(&token)).await;
    let _session = house.broker.session().await;
    client.send(&wire::subscribe(Version::V5, 1, &[("all/x", 0)])).await;
    assert_eq!(client.packet().await[5], code(&explain(&["subscribe", "all/x"])));
    for (topic, qos) in [("all/gone", 1), ("all/gone", 2), ("no", 0)] {
        let will = wire::Will { topic, qos, ..wire::Will::default() };
        let options = ConnectOptions { will: Some(will), ..password(&token) };
        let (_client, answer) = proxy.connect(Version::V5, "dying", &options).await;
        let told = explain(&["will", topic, "--qos", &qos.to_string()]);
        let expected = if told.starts_with("allowed") { 0 } else { code(&told) };
        assert_eq!(answer[3], expected, "{topic} {told}");
        assert_eq!(
            expected == 0,
            (topic, qos) == ("all/gone", 1),
            "the rules of the file have the first word"
        );
    }
    proxy.stop().await;
}
