//! A child process with its log, that ends with the test.

use crate::PATIENCE;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};
use thiserror::Error;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    net::TcpStream,
    process::{Child, Command},
    sync::watch,
    time::{Instant, sleep, timeout},
};

/// A running child process. Dropping it kills it.
///
/// Its standard output and error are collected line by line, in the order in which they came.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: watch::Receiver<Vec<String>>,
}

/// What a process did not do, and all that it said until then.
#[derive(Debug, Error)]
#[error("{name} {what}; its log:\n{log}")]
pub struct Failed {
    name: String,
    what: String,
    log: String,
}

/// How a process ended, and what it said.
#[derive(Debug, Clone)]
pub struct ProcessEnd {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output and error, mixed as they came.
    pub lines: Vec<String>,
}

impl ProcessEnd {
    /// The exit code; `None` if a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Whether it said a line that contains `needle`.
    pub fn has_line(&self, needle: &str) -> bool {
        self.lines.iter().any(|line| line.contains(needle))
    }
}

impl Process {
    /// Starts `command`, to be called `name` in messages. Panics where it cannot be started.
    ///
    /// Its standard input is empty.
    pub fn start(name: &str, mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name} cannot be started: {error}"));
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let (said, log) = watch::channel(Vec::new());
        let said = Arc::new(said);
        // Both end with the pipe they read, at the latest when the process is killed.
        tokio::spawn(collect(out, Arc::clone(&said)));
        tokio::spawn(collect(err, said));
        Self { name: name.to_owned(), child, log }
    }

    /// All lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.log.borrow().clone()
    }

    /// The first line that contains `needle`, said already or yet to come.
    pub async fn line(&mut self, needle: &str) -> Result<String, Failed> {
        self.line_where(&format!("{needle:?}"), |line| line.contains(needle).then(|| line.to_owned())).await
    }

    /// What `pick` makes of the first line it accepts; `what` describes such a line.
    pub async fn line_where<T>(
        &mut self,
        what: &str,
        mut pick: impl FnMut(&str) -> Option<T>,
    ) -> Result<T, Failed> {
        let (mut seen, mut found) = (0, None);
        let looked = self.log.wait_for(|lines| {
            found = lines[seen..].iter().find_map(|line| pick(line));
            seen = lines.len();
            found.is_some()
        });
        let why = match timeout(PATIENCE, looked).await {
            Ok(Ok(_)) => "",
            Ok(Err(_)) => "ended and",
            Err(_) => "is still there and",
        };
        found.ok_or_else(|| self.failed(format!("{why} never said {what}")))
    }

    /// Waits until somebody listens at `address`.
    pub async fn answers(&mut self, address: SocketAddr) -> Result<(), Failed> {
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(address).await.is_err() {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(self.failed(format!("ended ({status}) before it listened at {address}")));
            }
            if Instant::now() > deadline {
                return Err(self.failed(format!("never listened at {address}")));
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Waits until it ends by itself; killed after `PATIENCE`.
    pub async fn end(mut self) -> Result<ProcessEnd, Failed> {
        let Ok(status) = timeout(PATIENCE, self.child.wait()).await else {
            return Err(self.failed("did not end".to_owned()));
        };
        let status = status.map_err(|error| self.failed(format!("was lost: {error}")))?;
        // Both readers have to see the end of their pipe first. A grandchild may hold it open: hence the limit.
        let all_said = async { while self.log.changed().await.is_ok() {} };
        let _ = timeout(Duration::from_secs(1), all_said).await;
        Ok(ProcessEnd { status, lines: self.lines() })
    }

    /// Whether it is still running.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal by its short name: `TERM`, `HUP`, `INT`, `KILL`, `STOP`, `CONT`. After `STOP` it is waited for until
    /// the last of its threads stands still: a thread on another core goes on for a moment (Linux only).
    pub async fn signal(&self, name: &str) {
        // By `sh`: the standard library can send KILL only.
        let sent = Command::new("sh").args(["-c", &format!("kill -s {name} {}", self.pid())]).status().await;
        assert!(sent.is_ok_and(|status| status.success()), "{name} could not be sent to {}", self.name);
        let deadline = Instant::now() + PATIENCE;
        while name == "STOP" && !self.stands_still() {
            assert!(Instant::now() < deadline, "{} does not stop", self.name);
            tokio::task::yield_now().await;
        }
    }

    fn stands_still(&self) -> bool {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid()));
        tasks.is_ok_and(|mut tasks| {
            tasks.all(|task| {
                let stat = task.and_then(|task| std::fs::read_to_string(task.path().join("stat")));
                // The state follows the name, which stands in parentheses and may hold anything.
                stat.is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')))
            })
        })
    }

    /// The memory it holds at present, in bytes: without pages of its program, of which the kernel maps some or many, as it
    /// has them at hand. Linux only.
    pub fn resident_bytes(&self) -> u64 {
        // Read apart, the difference of two figures could be below zero.
        self.memory("RssAnon:") + self.memory("RssShmem:")
    }

    /// The most of the same that it held since it began, or since [`forget_peak`](Self::forget_peak). Linux only.
    pub fn peak_resident_bytes(&self) -> u64 {
        // Once mapped, pages of the program stay: there were no more of them at the peak than now.
        self.memory("VmHWM:").saturating_sub(self.memory("RssFile:"))
    }

    /// Lets the peak begin anew from what it holds at present. Linux only.
    pub fn forget_peak(&self) {
        // 5: "reset the peak resident set size", proc_pid_clear_refs(5).
        let forgot = std::fs::write(format!("/proc/{}/clear_refs", self.pid()), "5");
        forgot.unwrap_or_else(|error| panic!("the peak of {} cannot be reset: {error}", self.name));
    }

    fn memory(&self, what: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.unwrap_or_else(|error| panic!("no memory figures of {}: {error}", self.name));
        let kib = status.lines().find_map(|line| line.strip_prefix(what));
        let kib =
            kib.and_then(|rest| rest.trim().strip_suffix(" kB")).and_then(|kib| kib.parse::<u64>().ok());
        kib.unwrap_or_else(|| panic!("unreadable memory figures of {}", self.name)) * 1024
    }

    fn pid(&self) -> u32 {
        self.child.id().unwrap_or_else(|| panic!("{} has ended already", self.name))
    }

    fn failed(&self, what: String) -> Failed {
        Failed { name: self.name.clone(), what, log: self.lines().join("\n") }
    }
}

/// Runs `command` to its end.
pub async fn run(name: &str, command: Command) -> ProcessEnd {
    Process::start(name, command).end().await.unwrap_or_else(|failed| panic!("{failed}"))
}

/// Lets this process, and the children it starts from now on, open so many files more than it may at present, where
/// its hard limit allows that: what a login shell gives (1024) is less than a thousand clients need.
pub fn raise_file_limit(more: u64) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let (Some(now), most) = (current, maximum.unwrap_or(u64::MAX)) else { return };
    let raised = Rlimit { current: Some((now + more).min(most)), maximum };
    setrlimit(Resource::Nofile, raised)
        .unwrap_or_else(|error| panic!("the limit of open files cannot be raised from {now}: {error}"));
}

/// Where a program is; panics with the name of its Debian package where it is not. Daemons live in sbin, which is not on
/// everybody's PATH.
pub fn program(name: &str, package: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let found = folders.map(|folder| folder.join(name)).find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("this test needs `{name}`: install {package}"))
}

async fn collect(from: Option<impl AsyncRead + Unpin>, said: Arc<watch::Sender<Vec<String>>>) {
    let Some(from) = from else { return };
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while matches!(from.read_until(b'\n', &mut line).await, Ok(1..)) {
        said.send_modify(|lines| lines.push(String::from_utf8_lossy(&line).trim_end().to_owned()));
        line.clear();
    }
}

/// A port of 127.0.0.1 that nobody uses, for programs that cannot take port 0.
///
/// From below the ephemeral range (32768 up on Linux), so that no outgoing connection of a test running beside
/// takes it in between; a search that starts at another place in every process makes two tests choosing the same
/// unlikely. Whoever binds it should still be ready to try another.
pub fn free_port() -> u16 {
    static TRIED: AtomicU16 = AtomicU16::new(0);
    const FIRST: u32 = 12_000;
    const COUNT: u32 = 20_000;
    for _ in 0..COUNT {
        let step = u32::from(TRIED.fetch_add(1, Ordering::Relaxed));
        let start = std::process::id().wrapping_mul(7919);
        let port = u16::try_from(FIRST + start.wrapping_add(step) % COUNT).unwrap_or(u16::MAX);
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => return port,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => panic!("cannot bind on 127.0.0.1: {error}"),
        }
    }
    panic!("no free port on 127.0.0.1")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn lines_of_both_outputs_are_found() {
        let mut process = Process::start("speaker", sh("echo out; echo err >&2; exec sleep 60"));
        assert_eq!(process.line("err").await.unwrap(), "err");
        assert_eq!(process.line("out").await.unwrap(), "out");
        assert!(process.is_running());
        process.signal("TERM").await;
        assert_eq!(process.end().await.unwrap().code(), None);
    }

    #[tokio::test]
    async fn a_process_that_ends_early_tells_its_last_words() {
        let mut process = Process::start("failing", sh("echo no such file; exit 3"));
        let failed = process.line("ready").await.unwrap_err();
        assert_eq!(failed.to_string(), "failing ended and never said \"ready\"; its log:\nno such file");
        let ended = process.end().await.unwrap();
        assert_eq!(ended.code(), Some(3));
        assert!(ended.has_line("such"));
    }

    #[tokio::test]
    async fn a_dropped_process_is_gone() {
        let mut process = Process::start("sleeper", sh("echo $$; exec sleep 60"));
        let pid = process.line_where("its pid", |line| line.parse::<u32>().ok()).await.unwrap();
        assert!(process.resident_bytes() > 0);
        drop(process);
        // Gone or a zombie, whose command line is empty.
        let deadline = Instant::now() + PATIENCE;
        while std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty()) {
            assert!(Instant::now() < deadline, "{pid} is still running");
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn free_ports_differ() {
        assert_ne!(free_port(), free_port());
    }
}
