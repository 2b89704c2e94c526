//! Our own programs as real processes: `mproxy` and the example hook service.

use crate::process::{Failed, Process, ProcessEnd, run};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Mutex,
};
use tokio::process::Command;

/// The example hook service; it ends when this is dropped.
#[derive(Debug)]
pub struct HookService {
    process: Process,
    place: String,
}

impl HookService {
    /// Starts it on a free port, and waits until it listens.
    pub async fn start() -> Self {
        Self::start_at("127.0.0.1:0").await
    }

    /// Starts it at `host:port` or `unix:/path`, and waits until it listens.
    pub async fn start_at(place: &str) -> Self {
        let command = command("mproxy-example-hook", "mproxy-example-hook", &[], &[place]);
        let mut process = Process::start("mproxy-example-hook", command);
        let listening = process
            .line_where("\"listening on\"", |line| line.strip_prefix("listening on ").map(str::to_owned));
        let place = listening.await.unwrap_or_else(|failed| panic!("{failed}"));
        Self { process, place }
    }

    /// Where it listens: `host:port`, or `unix:/path`.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The same for `MPROXY_POLICY_URL`.
    pub fn url(&self) -> String {
        if self.place.starts_with("unix:") { self.place.clone() } else { format!("http://{}", self.place) }
    }

    /// The process and its log: a line for each event that it was told.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Kills it, and waits until it is gone.
    pub async fn kill(self) {
        self.process.signal("KILL").await;
        self.process.end().await.unwrap_or_else(|failed| panic!("{failed}"));
    }
}

/// A running `mproxy`; it ends when this is dropped.
///
/// It sees none of the `MPROXY_` and `OTEL_` variables that the test itself runs with.
#[derive(Debug)]
pub struct MproxyProcess {
    process: Process,
}

impl MproxyProcess {
    /// Starts it with these variables and arguments, and waits until it listens somewhere.
    pub async fn start(env: &[(&str, &str)], args: &[&str]) -> Self {
        let mut process = Process::start("mproxy", command("mproxy", "mproxy-server", env, args));
        listening(&mut process, "").await.unwrap_or_else(|failed| panic!("{failed}"));
        Self { process }
    }

    /// The same, where it may have so many files open.
    pub async fn with_open_files(most: u32, env: &[(&str, &str)]) -> Self {
        let mproxy = command("mproxy", "mproxy-server", env, &[]);
        let mut limited = Command::new("prlimit");
        limited.arg(format!("--nofile={most}:{most}")).arg(mproxy.as_std().get_program());
        for (name, value) in mproxy.as_std().get_envs() {
            match value {
                Some(value) => limited.env(name, value),
                None => limited.env_remove(name),
            };
        }
        let mut process = Process::start("mproxy", limited);
        listening(&mut process, "").await.unwrap_or_else(|failed| panic!("{failed}"));
        Self { process }
    }

    /// Runs it to its end: `check`, or a start that must fail.
    pub async fn run(env: &[(&str, &str)], args: &[&str]) -> ProcessEnd {
        run("mproxy", command("mproxy", "mproxy-server", env, args)).await
    }

    /// Where the listener of this name is; `""` takes any.
    pub async fn addr(&mut self, listener: &str) -> SocketAddr {
        listening(&mut self.process, listener).await.unwrap_or_else(|failed| panic!("{failed}"))
    }

    /// The process and its log.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Waits until it ends, after a signal say.
    pub async fn end(self) -> ProcessEnd {
        self.process.end().await.unwrap_or_else(|failed| panic!("{failed}"))
    }
}

async fn listening(process: &mut Process, listener: &str) -> Result<SocketAddr, Failed> {
    let what = format!("the address of the listener {listener:?}");
    process.line_where(&what, |line| address(line, listener)).await
}

/// The address in the line that says that this listener listens, as text or JSON.
fn address(line: &str, listener: &str) -> Option<SocketAddr> {
    let (_, fields) = line.split_once("listening")?;
    let named = [format!("listener=\"{listener}\""), format!("\"listener\":\"{listener}\"")];
    if !listener.is_empty() && !named.iter().any(|named| fields.contains(named)) {
        return None;
    }
    let after = ["address=", "\"address\":\""].iter().find_map(|key| Some(fields.split_once(key)?.1))?;
    after.split([' ', '"']).next()?.parse().ok()
}

fn command(binary: &str, package: &str, env: &[(&str, &str)], args: &[&str]) -> Command {
    let mut command = Command::new(built(binary, package));
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("MPROXY_") || name.starts_with("OTEL_")) {
            command.env_remove(name);
        }
    }
    // Lines are searched for text, which colours would cut.
    command.env("NO_COLOR", "1").envs(env.iter().copied()).args(args);
    command
}

/// The binary beside the running test, built first where it is not there: cargo tells a test of the binaries of
/// its own package only. One that is there is taken as it is; the workspace's test command builds all anew.
fn built(binary: &str, package: &str) -> PathBuf {
    // Two tests at once must not start two builds.
    static BUILDING: Mutex<()> = Mutex::new(());
    let _building = BUILDING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = profile_folder();
    let file = folder.join(format!("{binary}{}", std::env::consts::EXE_SUFFIX));
    if !file.is_file() {
        build(&folder, package);
        assert!(file.is_file(), "package {package} has no binary {}", file.display());
    }
    file
}

/// `target/debug`, from `target/debug/deps/some_test-0123`.
pub(crate) fn profile_folder() -> PathBuf {
    let test = std::env::current_exe().unwrap_or_else(|error| panic!("who am I? {error}"));
    let deps = test.ancestors().find(|folder| folder.ends_with("deps") || folder.ends_with("examples"));
    let folder = deps.and_then(Path::parent);
    folder.unwrap_or_else(|| panic!("{} is not in a target folder", test.display())).to_owned()
}

fn build(folder: &Path, package: &str) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        // The one profile whose folder has another name.
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let target = folder.parent().unwrap_or(folder);
    let built = std::process::Command::new(cargo)
        .args(["build", "--quiet", "--package", package, "--profile", profile, "--target-dir"])
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    assert!(built.is_ok_and(|status| status.success()), "cannot build {package}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_in_text_and_json() {
        for (line, expected) in [
            (
                "2025-01-01T00:00:00Z  INFO listening listener=\"mqtt\" address=127.0.0.1:1 broker=b:2",
                "127.0.0.1:1",
            ),
            ("INFO listening listener=\"mqtt\" address=[::1]:1883", "[::1]:1883"),
            (
                r#"{"message":"listening","listener":"mqtt","address":"127.0.0.1:1","broker":"b"}"#,
                "127.0.0.1:1",
            ),
        ] {
            assert_eq!(address(line, "mqtt"), Some(expected.parse().unwrap()), "{line}");
            assert!(address(line, "").is_some(), "{line}");
            assert_eq!(address(line, "ws"), None, "{line}");
        }
        assert_eq!(address("INFO connected address=127.0.0.1:1", ""), None);
    }

    #[test]
    fn binaries_stand_beside_the_tests() {
        assert!(profile_folder().join("deps").is_dir());
    }
}
