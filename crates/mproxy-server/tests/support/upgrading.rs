//! An mproxy that new processes take the place of.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use mproxy_testkit::certificates::Authority;
use mproxy_testkit::process::Process;
use mproxy_testkit::transports::{self, Carried, TlsClient, Transport};
use mproxy_testkit::wire::{Version, WireClient};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use super::http;

/// mproxy by a link to its program, with a file in place of its configuration: either may be another one later.
pub(crate) struct Old {
    pub(crate) process: Process,
    folder: TempDir,
    pub(crate) mqtt: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// New processes, which are no children of the test's.
    pub(crate) successors: Vec<Orphan>,
}

/// A process that ends with the test.
pub(crate) struct Orphan(pub(crate) u64);

impl Orphan {
    pub(crate) fn is_running(&self) -> bool {
        fs::read_to_string(format!("/proc/{}/stat", self.0))
            .is_ok_and(|stat| !stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')))
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        let kill = format!("kill -s KILL {} 2>/dev/null", self.0);
        let _ = std::process::Command::new("sh").args(["-c", &kill]).status();
    }
}

impl Old {
    pub(crate) async fn start(broker: SocketAddr, settings: &str, variables: &[(&str, &str)]) -> Self {
        let folder = TempDir::new().unwrap();
        let (program, file) = (folder.path().join("mproxy"), folder.path().join("mproxy.toml"));
        symlink(env!("CARGO_BIN_EXE_mproxy"), &program).unwrap();
        fs::write(&file, Self::settings(broker, settings)).unwrap();
        let mut command = Command::new(&program);
        command.arg("--config").arg(&file).env("NO_COLOR", "1").envs(variables.iter().copied());
        let mut process = Process::start("mproxy", command);
        let mqtt = address(&mut process, "mqtt").await;
        let admin = address(&mut process, "admin").await;
        Self { process, folder, mqtt, admin, successors: Vec::new() }
    }

    pub(crate) fn settings(broker: SocketAddr, more: &str) -> String {
        format!(
            "admin.port = 0\nmqtt.host = \"127.0.0.1\"\nmqtt.port = 0\nws.port = \"off\"\nmqtt.target.host = \"127.0.0.1\"\n\
             mqtt.target.port = {}\n{more}",
            broker.port()
        )
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What is started next is this script.
    pub(crate) fn replace_program(&self, script: &str) {
        let program = self.path("mproxy");
        fs::remove_file(&program).unwrap();
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    }

    pub(crate) async fn upgrade(&mut self) -> (u16, Value) {
        let (status, answer) = http(self.admin, "POST", "/api/v1/upgrade").await;
        let answer: Value = serde_json::from_str(&answer).unwrap();
        self.successors.extend(answer["pid"].as_u64().map(Orphan));
        (status, answer)
    }

    /// It goes on: a client is served, and nothing else listens.
    pub(crate) async fn still_serves(&mut self, client_id: &str) {
        assert!(self.process.is_running());
        WireClient::login(self.mqtt, Version::V5, client_id).await.expect_nothing_but_pingresp().await;
        assert_eq!(http(self.admin, "GET", "/readyz").await.0, 200);
    }

    pub(crate) async fn count(&self, outcome: &str) -> u64 {
        self.metric(&format!("mproxy_upgrades_total{{outcome=\"{outcome}\"}}")).await.unwrap()
    }

    /// A metric, by its name and labels as they stand on the page; `None` if it is not there.
    pub(crate) async fn metric(&self, series: &str) -> Option<u64> {
        let page = http(self.admin, "GET", "/metrics").await.1;
        page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }
}

pub(crate) async fn address(process: &mut Process, listener: &str) -> SocketAddr {
    let pick = |line: &str| {
        let (_, after) = line.split_once(&format!("listening listener=\"{listener}\" address="))?;
        after.split(' ').next()?.parse().ok()
    };
    process.line_where("where it listens", pick).await.unwrap_or_else(|failed| panic!("{failed}"))
}

/// A message as the other side of the channel reads it, printed by a shell.
pub(crate) fn says(message: &str) -> String {
    let length =
        u32::try_from(message.len()).unwrap().to_be_bytes().map(|byte| format!("\\{byte:03o}")).concat();
    format!("printf '{length}\\000\\000\\000\\000%s' '{message}' >&0")
}

/// That it is ready, and reads sessions as this version writes them.
pub(crate) fn says_ready() -> String {
    let form = format!("1.{}", mproxy_core::session::handover::FORMAT);
    says(&format!(r#"{{"message":"ready","protocol":1,"version":"9","session_form":"{form}"}}"#))
}

/// A listener for WebSocket besides, whose sessions no other process can take.
pub(crate) fn web(broker: SocketAddr) -> String {
    let port = broker.port();
    format!(
        "[[listeners]]\nname = \"web\"\nhost = \"127.0.0.1\"\nport = 0\ntransport = \"ws\"\n\
         target = {{ scheme = \"mqtt\", host = \"127.0.0.1\", port = {port} }}\n"
    )
}

/// A client of that listener.
pub(crate) async fn web_client(old: &mut Old, client_id: &str) -> WireClient<Carried> {
    let web = address(&mut old.process, "web").await;
    let tls = TlsClient::believing(Authority::root("nobody").pem());
    transports::login(Transport::Ws, web, &tls, Version::V5, client_id).await
}
