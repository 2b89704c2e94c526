//! The example as a process of its own, asked and told by mproxy's client.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

#[path = "../../../crates/mproxy-policy/tests/common/mod.rs"]
mod common;

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common::client;
use mproxy_core::event::{Event, Happening, Sink};
use mproxy_core::policy::Decision;
use mproxy_policy::remote::STREAM_LIFETIME;
use mproxy_policy::{NoWatch, Remote, RemoteConfig};
use mproxy_sim::Verdict;

const AMPLE: Duration = Duration::from_secs(20);

struct Example {
    process: Child,
    lines: BufReader<ChildStdout>,
    url: String,
}

impl Example {
    fn start(address: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mproxy-example-hook"));
        let mut process = command.arg(address).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap());
        let mut example = Self { process, lines, url: String::new() };
        let line = example.line();
        let address = line.strip_prefix("listening on ").unwrap();
        example.url = if address.starts_with("unix:") { address.into() } else { format!("http://{address}") };
        example
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn remote(&self, streams: bool) -> Arc<Remote> {
        let config = RemoteConfig {
            endpoints: vec![self.url.parse().unwrap()],
            timeout: AMPLE,
            instance: "test".into(),
            version: "0.0.0".into(),
            event_queue: 100,
            event_buffer: 1 << 20,
            confirm_within: Duration::from_secs(30),
            event_spool: None,
            max_in_flight: 10,
            tls: Default::default(),
            streams,
            stream_lifetime: STREAM_LIFETIME,
            tracer: None,
            events_wait: None,
        };
        Remote::start(config, Arc::new(NoWatch)).unwrap()
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

// The test blocks on the example's output while mproxy's tasks go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn it_refuses_rewrites_and_prints_what_it_is_told() {
    for streams in [false, true] {
        refuses_rewrites_and_prints(streams).await;
    }
}

async fn refuses_rewrites_and_prints(streams: bool) {
    let mut example = Example::start("127.0.0.1:0");
    let remote = example.remote(streams);
    let connected = async |name| client("c1", Some(name)).connects(&*remote).await.unwrap().verdict;
    assert_eq!(connected("ann").await, Verdict::Connect(Decision::Allow(None)));
    assert!(matches!(connected("mallory").await, Verdict::Connect(Decision::Refuse(_))));

    let ann = client("c1", Some("ann"));
    let published = async |topic| match ann.publishes(&*remote, topic).await.unwrap().verdict {
        Verdict::Publish(Decision::Allow(change)) => {
            change.and_then(|change| change.topic).unwrap_or_default()
        }
        Verdict::Publish(Decision::Refuse(_)) => "refused".into(),
        other => panic!("{other:?}"),
    };
    assert_eq!(&*published("free/x").await, "");
    assert_eq!(&*published("old/x").await, "new/x");
    assert_eq!(&*published("forbidden/x").await, "refused");

    let filters = ["a/#", "secret", "secret/x", "#", "+/x", "$share/g/secret/#", "secrets/x"];
    let Verdict::Subscribe(verdicts) = ann.subscribes(&*remote, &filters).await.unwrap().verdict else {
        panic!()
    };
    let allowed: Vec<_> = verdicts.iter().map(|verdict| matches!(verdict, Decision::Allow(_))).collect();
    assert_eq!(allowed, [true, false, false, false, false, false, true]);

    let what = Happening::Connect { session_present: false };
    remote.report(Event { peer: Arc::clone(&ann.peer), what, purse: None });
    assert_eq!(example.line(), "1 c1 connected");
    remote.flush(AMPLE).await;
}

#[tokio::test]
async fn it_listens_on_a_unix_socket() {
    let path = std::env::temp_dir().join(format!("mproxy-example-{}.sock", std::process::id()));
    for _ in 0..2 {
        let example = Example::start(&format!("unix:{}", path.display()));
        let verdict = client("c1", None).connects(&*example.remote(true)).await.unwrap().verdict;
        assert_eq!(verdict, Verdict::Connect(Decision::Allow(None)));
    }
    std::fs::remove_file(path).unwrap();
}
