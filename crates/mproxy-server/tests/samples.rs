//! The hook services that README and docs/hooks.md show, copied out of there and run as they stand: what somebody has
//! after ten minutes must not leave a door open by what it leaves out.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use mproxy_testkit::broker::{BrokerScript, RecordingBroker};
use mproxy_testkit::foreign;
use mproxy_testkit::hook::MproxyProcess;
use mproxy_testkit::mosquitto::{Mosquitto, subscriber};
use mproxy_testkit::process::{Process, free_port, run};
use mproxy_testkit::wire::{self, ConnectOptions, Publish, Version};
use support::{Proxy, VERSIONS};
use tempfile::TempDir;

const README: &str = include_str!("../../../README.md");
const HOOKS: &str = include_str!("../../../docs/hooks.md");

/// The root of the project, where readers stand.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The first block in this language that holds `part`.
fn block<'t>(page: &'t str, language: &str, part: &str) -> &'t str {
    let begins = format!("\n```{language}\n");
    let blocks = page.split(begins.as_str()).skip(1);
    let mut blocks = blocks.filter_map(|block| block.split("\n```").next());
    blocks.find(|block| block.contains(part)).unwrap_or_else(|| panic!("no {language} with {part}"))
}

/// The sample in a file of its own, and where it listens now.
fn copied(folder: &TempDir, name: &str, sample: &str) -> (PathBuf, SocketAddr) {
    let (file, port) = (folder.path().join(name), free_port());
    assert!(sample.contains("127.0.0.1") && sample.contains("50051"), "{sample}");
    std::fs::write(&file, sample.replace("50051", &port.to_string())).unwrap();
    (file, (Ipv4Addr::LOCALHOST, port).into())
}

/// What each of the samples says: mallory stays outside, nobody publishes below `forbidden/`, nobody sees `secret/`.
async fn guards(mut service: Process, at: SocketAddr) {
    service.answers(at).await.unwrap_or_else(|failed| panic!("{failed}"));
    let url = format!("http://{at}");
    let args = ["hooks", "check", &url, "--timeout", "10s", "--count", "20"];
    let checked = MproxyProcess::run(&[], &args).await;
    assert_eq!(checked.code(), Some(0), "{:#?}", checked.lines);
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let mut proxy = Proxy::with(broker.addr(), &[("MPROXY_POLICY_URL", &url)]).await;
    proxy.line(&["policy endpoint healthy"]).await;
    for version in VERSIONS {
        let five = version == Version::V5;
        let mallory = ConnectOptions { username: Some("mallory"), ..ConnectOptions::default() };
        let (_, connack) = proxy.connect(version, "m", &mallory).await;
        assert_eq!(connack[3], if five { 0x87 } else { 5 });

        let mut client = proxy.login(version, "c").await;
        for (id, topic, code) in [(1, "free/a", 0), (2, "forbidden/a", 0x87)] {
            let publish = Publish { topic, qos: 1, packet_id: id, ..Publish::default() };
            client.send(&wire::publish(version, &publish)).await;
            let puback = client.packet().await;
            assert_eq!(puback.get(4).copied().unwrap_or(0), if five { code } else { 0 }, "{topic}");
        }
        let no = if five { 0x87 } else { 0x80 };
        let filters = [("open/a", 1), ("secret/a", 0), ("#", 0), ("+/a", 0), ("$share/g/secret", 0)];
        client.send(&wire::subscribe(version, 3, &filters)).await;
        let suback = client.packet().await;
        assert!(suback.ends_with(&[1, no, no, no, no]), "{suback:02x?}");
        // Nobody may see everything by omission: a SUBSCRIBE to that alone does not reach the broker either.
        client.send(&wire::subscribe(version, 4, &[("#", 0)])).await;
        assert!(client.packet().await.ends_with(&[no]));
    }
    // Events are none of its wishes: nothing to warn of.
    let warned: Vec<_> = proxy.process().lines().into_iter().filter(|line| line.contains("WARN")).collect();
    assert!(!warned.iter().any(|line| line.contains("Auth") || line.contains("wanted")), "{warned:#?}");
    proxy.stop().await;
}

#[tokio::test]
async fn the_hook_of_the_readme_in_python() {
    let folder = TempDir::new().unwrap();
    let (script, at) = copied(&folder, "hook.py", block(README, "python", "class Hook"));
    let mut generate = foreign::python_grpc().await;
    let out = folder.path().display();
    generate.args(["-m", "grpc_tools.protoc", "-I", "proto"]).current_dir(root());
    generate.args([format!("--python_out={out}"), format!("--grpc_python_out={out}")]).arg("events.proto");
    let generated = run("grpc_tools.protoc", generate).await;
    assert_eq!(generated.code(), Some(0), "{:#?}", generated.lines);
    let mut python = foreign::python_grpc().await;
    python.arg(script);
    guards(Process::start("hook.py", python), at).await;
}

#[tokio::test]
async fn the_hook_of_the_docs_in_node() {
    let folder = TempDir::new().unwrap();
    let (script, at) = copied(&folder, "hook.js", block(HOOKS, "js", "addService"));
    let mut node = foreign::node_grpc(&script).await;
    node.current_dir(root());
    guards(Process::start("hook.js", node), at).await;
}

/// With `keepCase` a grant that is spelled as the contract spells it arrives whole.
#[tokio::test]
async fn a_grant_in_node_is_spelled_as_the_contract_spells_it() {
    let grant = "{ allow: { grant: { default_effect: 'EFFECT_DENY', \
                 rules: [{ effect: 'EFFECT_ALLOW', topic_filters: ['own/#'], max_qos: 1 }] } } }";
    let sample = block(HOOKS, "js", "addService").replacen("{ allow: {} }", grant, 1);
    let folder = TempDir::new().unwrap();
    let (script, at) = copied(&folder, "hook.js", &sample);
    let mut node = foreign::node_grpc(&script).await;
    node.current_dir(root());
    let mut service = Process::start("hook.js", node);
    service.answers(at).await.unwrap_or_else(|failed| panic!("{failed}"));
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let mut proxy = Proxy::with(broker.addr(), &[("MPROXY_POLICY_URL", &format!("http://{at}"))]).await;
    proxy.line(&["policy endpoint healthy"]).await;
    let mut client = proxy.login(Version::V5, "c").await;
    client.send(&wire::subscribe(Version::V5, 1, &[("own/#", 2), ("other", 0), ("#", 0)])).await;
    let suback = client.packet().await;
    assert!(suback.ends_with(&[1, 0x87, 0x87]), "{suback:02x?}");
    proxy.stop().await;
}

// ---- in JSON

/// What a sample in JSON says of publishes: nobody publishes to `refused`, what goes to `old/a` is `moved`, all else
/// passes.
struct Said {
    refused: &'static str,
    moved: &'static str,
}

const DOCS: Said = Said { refused: "secret/a", moved: "old/a" };
const EXAMPLES: Said = Said { refused: "forbidden/a", moved: "new/a" };

async fn does_as_it_says(mut service: Process, at: SocketAddr, Said { refused, moved }: Said) {
    service.answers(at).await.unwrap_or_else(|failed| panic!("{failed}"));
    let url = format!("http+json://{at}");
    let checked =
        MproxyProcess::run(&[], &["hooks", "check", &url, "--timeout", "10s", "--count", "20"]).await;
    assert_eq!(checked.code(), Some(0), "{:#?}", checked.lines);
    let broker = Mosquitto::start().await;
    let mut proxy = Proxy::with(broker.addr(), &[("MPROXY_POLICY_URL", &url)]).await;
    proxy.line(&["policy endpoint healthy", &url]).await;
    let mut watcher = subscriber(broker.addr(), ["-t", "#", "-F", "heard %t %p"]).await;
    for version in VERSIONS {
        let no = if version == Version::V5 { 0x87 } else { 0 };
        let mut client = proxy.login(version, "c").await;
        // By its own name, so that it is not taken for that of the version before.
        let free = format!("free/{version:?}");
        for (id, topic, code) in [(1, refused, no), (2, "old/a", 0), (3, free.as_str(), 0)] {
            let publish = Publish { topic, qos: 1, packet_id: id, payload: b"on", ..Publish::default() };
            client.send(&wire::publish(version, &publish)).await;
            let puback = client.packet().await;
            assert_eq!(puback.get(4).copied().unwrap_or(0), code, "{version:?} {topic}");
        }
        watcher.line(&format!("heard {free} on")).await.unwrap();
        let heard: Vec<_> = watcher.lines().into_iter().filter(|line| line.starts_with("heard")).collect();
        assert!(heard.ends_with(&[format!("heard {moved} on"), format!("heard {free} on")]), "{heard:?}");
        assert!(!heard.iter().any(|line| line.contains(refused)), "{heard:?}");
    }
    let warned: Vec<_> =
        proxy.process().lines().into_iter().filter(|line| line.contains(" ERROR ")).collect();
    assert!(warned.is_empty(), "{warned:#?}");
    proxy.stop().await;
}

fn example(name: &str) -> PathBuf {
    root().join("examples/json").join(name)
}

#[tokio::test]
async fn the_hook_of_the_docs_in_flask() {
    let (folder, port) = (TempDir::new().unwrap(), free_port());
    let script = folder.path().join("hook.py");
    std::fs::write(&script, block(HOOKS, "python", "@app.post")).unwrap();
    flask(&script, port, DOCS).await;
}

#[tokio::test]
async fn the_hook_in_flask() {
    flask(&example("flask/hook.py"), free_port(), EXAMPLES).await;
}

async fn flask(script: &Path, port: u16, said: Said) {
    let mut flask = foreign::flask().await;
    flask.args(["-m", "flask", "--app"]).arg(script).args(["run", "--port", &port.to_string()]);
    does_as_it_says(Process::start("flask", flask), (Ipv4Addr::LOCALHOST, port).into(), said).await;
}

/// The two services of the page, and what it says of the wrong one.
#[tokio::test]
async fn the_wrong_change_of_the_docs_is_seen_by_the_shadow() {
    let folder = TempDir::new().unwrap();
    let script = folder.path().join("policy.py");
    std::fs::write(&script, block(HOOKS, "python", "SUFFIX")).unwrap();
    let (mut services, mut urls) = (Vec::new(), Vec::new());
    for suffix in ["", "state/"] {
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let mut flask = foreign::flask().await;
        flask.args(["-m", "flask", "--app"]).arg(&script).args(["run", "--port", &at.port().to_string()]);
        flask.env("SUFFIX", suffix);
        let mut service = Process::start("flask", flask);
        service.answers(at).await.unwrap_or_else(|failed| panic!("{failed}"));
        services.push(service);
        urls.push(format!("http+json://{at}"));
    }
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let variables =
        [("MPROXY_POLICY_URL", &*urls[0]), ("MPROXY_SHADOW_URL", &*urls[1]), ("MPROXY_LOG_FORMAT", "json")];
    let mut proxy = Proxy::with(broker.addr(), &variables).await;
    for url in &urls {
        proxy.line(&["policy endpoint healthy", url]).await;
    }
    let mut client = proxy.login(Version::V5, "lamp-7").await;
    let publish = Publish { topic: "devices/lamp-7/state", qos: 1, packet_id: 1, ..Publish::default() };
    client.send(&wire::publish(Version::V5, &publish)).await;
    assert_eq!(client.packet().await[..4], [0x40, 2, 0, 1], "it goes through");
    let line = proxy.line(&["shadow service would decide otherwise"]).await;
    let told = block(HOOKS, "json", "shadow service would decide otherwise");
    let (line, told): (serde_json::Value, serde_json::Value) =
        (serde_json::from_str(&line).unwrap(), serde_json::from_str(told).unwrap());
    for field in ["hook", "topic", "active", "shadow", "suppressed_lines"] {
        assert_eq!(line[field], told[field], "{field}");
    }
    let (_, stats) = proxy.http("GET", "/api/v1/stats").await;
    let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
    let shown = r#"[{"hook":"publish","active":"allowed","shadow":"refused","decisions":1}]"#;
    assert!(HOOKS.contains(shown));
    assert_eq!(
        stats["totals"]["shadow_differences"],
        serde_json::from_str::<serde_json::Value>(shown).unwrap()
    );
    proxy.stop().await;
}

#[tokio::test]
async fn the_hook_in_express() {
    let folder = TempDir::new().unwrap();
    let sample = std::fs::read_to_string(example("express/hook.js")).unwrap();
    let (script, at) = copied(&folder, "hook.js", &sample);
    does_as_it_says(Process::start("express", foreign::express(&script).await), at, EXAMPLES).await;
}

#[tokio::test]
async fn the_hook_in_net_http() {
    let folder = TempDir::new().unwrap();
    let sample = std::fs::read_to_string(example("nethttp/main.go")).unwrap();
    let (source, at) = copied(&folder, "main.go", &sample);
    std::fs::copy(example("nethttp/go.mod"), source.with_file_name("go.mod")).unwrap();
    if let Some(program) = foreign::go(folder.path(), &folder.path().join("hook")).await {
        does_as_it_says(Process::start("nethttp", program), at, EXAMPLES).await;
    }
}

/// There is no Go on every machine that runs this: what can be said without it.
#[test]
fn the_hook_of_the_docs_in_go_answers_all_that_it_wants() {
    let sample = block(HOOKS, "go", "UnimplementedHooksServer");
    for hook in ["Connect", "Publish", "Subscribe"] {
        assert!(sample.contains(&format!("Hook_HOOK_AUTH_{}", hook.to_uppercase())), "{hook}");
        assert!(sample.contains(&format!("func (hook) Auth{hook}(")), "{hook}");
    }
}
