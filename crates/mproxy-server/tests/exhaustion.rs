//! Running out of file descriptors. A test binary of its own: the limit is the whole process's.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use mproxy_core::peer::Address;
use mproxy_server::config::{self, Flags};
use mproxy_server::door::{AcceptOutcome, Inward, OpenListener};
use mproxy_testkit::certificates::Folder;
use tokio::net::{TcpStream, UnixStream};

#[tokio::test]
async fn a_listener_without_descriptors_pauses_and_recovers() {
    let folder = Folder::default();
    let path = folder.file("mqtt.sock");
    let (mut at_port, mut at_path) = listeners(path.to_str().unwrap()).await;
    let Address::Ip(port) = at_port.address() else { panic!("a port") };
    let _clients = (TcpStream::connect(port).await.unwrap(), UnixStream::connect(&path).await.unwrap());

    // Somebody else has to lower our limit and to raise it again: we could not even start a process by then.
    let script = format!(
        "pid={}; before=$(prlimit --pid $pid --nofile --output SOFT --noheadings | tr -d ' ')
         prlimit --pid $pid --nofile=3: && echo low && read go && prlimit --pid $pid --nofile=$before: && echo high",
        std::process::id()
    );
    let mut other = Command::new("sh")
        .args(["-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(other.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "low");

    let mut pauses = Vec::new();
    for listener in [&mut at_port, &mut at_path] {
        for _ in 0..3 {
            match listener.accept().await {
                AcceptOutcome::Exhausted { pause, .. } => pauses.push(pause.as_millis()),
                AcceptOutcome::Connection(_) | AcceptOutcome::Lost(_) => {
                    panic!("there is no descriptor for it")
                }
            }
        }
    }
    assert_eq!(pauses, [10, 20, 40, 10, 20, 40]);

    other.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert_eq!(said.next().unwrap().unwrap(), "high");
    for listener in [&mut at_port, &mut at_path] {
        let accepting = tokio::time::timeout(Duration::from_secs(5), listener.accept());
        assert!(matches!(accepting.await.unwrap(), AcceptOutcome::Connection(_)));
    }
    assert!(other.wait().unwrap().success());
}

/// One at a port, and one at this path.
async fn listeners(path: &str) -> (OpenListener, OpenListener) {
    let off = ["MPROXY_MQTTS_PORT", "MPROXY_WS_PORT", "MPROXY_WSS_PORT"].map(|name| (name, "off"));
    let on = [("MPROXY_MQTT_PORT", "0"), ("MPROXY_MQTT_HOST", "127.0.0.1"), ("MPROXY_UNIX_PATH", path)];
    let env = off.into_iter().chain(on).map(|(name, value)| (name.into(), value.into()));
    let loaded = config::load(&Flags::default(), env, |_| Err(io::ErrorKind::NotFound.into())).unwrap();
    let [at_port, at_path] = &loaded.config.listeners[..] else { panic!("two listeners") };
    let open = async |listener| Inward::of(listener).unwrap().open(listener).await.unwrap();
    (open(at_port).await, open(at_path).await)
}
