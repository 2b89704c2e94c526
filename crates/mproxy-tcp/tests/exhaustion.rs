//! Running out of file descriptors. A test binary of its own: the limit is the whole process's.
#![cfg(target_os = "linux")]

use mproxy_tcp::{Incoming, ListenOptions, Listener};
use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
    time::Duration,
};
use tokio::net::TcpStream;

#[tokio::test]
async fn a_listener_without_descriptors_pauses_and_recovers() {
    let mut listener = Listener::bind("127.0.0.1", 0, ListenOptions::default()).await.unwrap();
    let client = TcpStream::connect(listener.local_addr()).await.unwrap();

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
    for _ in 0..3 {
        match listener.accept().await {
            Incoming::Exhausted { pause, .. } => pauses.push(pause),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(pauses, [10, 20, 40].map(Duration::from_millis));

    other.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert_eq!(said.next().unwrap().unwrap(), "high");
    let Incoming::Connection(accepted) = listener.accept().await else { panic!("not accepted") };
    assert_eq!(accepted.remote, client.local_addr().unwrap());
    assert!(other.wait().unwrap().success());
}
