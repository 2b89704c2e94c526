//! haproxy, of Debian's package of that name, in front of something. A test that needs it fails without it.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};

use tempfile::TempDir;
use tokio::process::Command;

use crate::process::{Process, free_port, program};

/// A haproxy at layer 4; it ends when this is dropped.
#[derive(Debug)]
pub struct Haproxy {
    _process: Process,
    doors: Vec<SocketAddr>,
    _home: TempDir,
}

impl Haproxy {
    /// One door for each pair: what stands behind `bind ADDRESS`, and the line of its server.
    pub async fn start(doors: &[(&str, &str)]) -> Self {
        // A free port may be taken by another test before haproxy binds it.
        for _ in 0..4 {
            if let Some(started) = Self::attempt(doors).await {
                return started;
            }
        }
        panic!("haproxy does not start");
    }

    /// Where it listens, in the order of the pairs.
    pub fn doors(&self) -> &[SocketAddr] {
        &self.doors
    }

    async fn attempt(pairs: &[(&str, &str)]) -> Option<Self> {
        let home = TempDir::new().unwrap_or_else(|error| panic!("no temporary folder: {error}"));
        let mut config =
            "defaults\n mode tcp\n timeout connect 9s\n timeout client 60s\n timeout server 60s\n".to_owned();
        let mut doors = Vec::new();
        for (bind, server) in pairs {
            let door = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
            let _ = write!(config, "listen l{}\n bind {door} {bind}\n {server}\n", doors.len());
            doors.push(door);
        }
        let file = home.path().join("haproxy.cfg");
        std::fs::write(&file, config)
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", file.display()));
        let mut command = Command::new(program("haproxy", "haproxy"));
        command.arg("-db").arg("-f").arg(&file);
        let mut process = Process::start("haproxy", command);
        // All of them are open as soon as one is. Nothing is behind the last but what the scene put there, which sees a
        // connection without a byte.
        process.answers(*doors.last()?).await.ok()?;
        Some(Self { _process: process, doors, _home: home })
    }
}
