//! Processes that a run has started. Each is ended by its id, and ends with the run however that ends.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child as Process, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use crate::control::{Tally, Word};
use crate::load::{Login, Target};

/// How long a process may take to end by itself.
const FAREWELL: Duration = Duration::from_secs(3);

/// How long an answer may take. Connecting 9,500 clients is the longest.
const ANSWER: Duration = Duration::from_secs(120);

/// A process that ends with this value.
#[derive(Debug)]
pub(crate) struct Child {
    name: String,
    process: Process,
}

impl Child {
    /// Starts a program that has to be told to end. What it says is thrown away, but for its errors.
    pub(crate) fn leashed(name: &str, command: &Command) -> anyhow::Result<Self> {
        let mut leash = Command::new(std::env::current_exe()?);
        leash.arg("leash").arg("--").arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => leash.env(key, value),
                None => leash.env_remove(key),
            };
        }
        leash.stdin(Stdio::null()).stdout(Stdio::null());
        let process = leash.spawn().with_context(|| format!("{name} cannot be started"))?;
        Ok(Self { name: name.to_owned(), process })
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// A fault if it has ended by itself.
    pub(crate) fn alive(&mut self) -> anyhow::Result<()> {
        match self.process.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} has ended: {status}", self.name),
        }
    }

    fn wait(&mut self, within: Duration) -> bool {
        let end = Instant::now() + within;
        while Instant::now() < end {
            match self.process.try_wait() {
                Ok(None) => thread::sleep(Duration::from_millis(2)),
                Ok(Some(_)) | Err(_) => return true,
            }
        }
        false
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.wait(Duration::ZERO) {
            return;
        }
        if let Ok(Some(pid)) = i32::try_from(self.id()).map(Pid::from_raw) {
            // It is not reaped yet, so that the id is still its own.
            let _ = kill_process(pid, Signal::TERM);
        }
        if !self.wait(FAREWELL) {
            eprintln!("{} does not end, and is killed", self.name);
            // Nothing is left to be done about one that cannot be killed.
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

/// What `leash` does: ends when its parent does, and becomes the program.
pub(crate) fn become_leashed(command: &[OsString]) -> anyhow::Error {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::TERM)) {
        return error.into();
    }
    let Some((program, arguments)) = command.split_first() else {
        return anyhow::anyhow!("there is no program to become");
    };
    let error = Command::new(program).args(arguments).exec();
    anyhow::Error::new(error).context(format!("{} cannot be started", program.display()))
}

/// The load generator or the stand-in broker.
#[derive(Debug)]
pub(crate) struct Player {
    child: Child,
    words: ChildStdin,
    tallies: Receiver<Tally>,
}

impl Player {
    pub(crate) fn broker(socket: &Path) -> anyhow::Result<(Self, SocketAddr)> {
        let socket = socket.to_str().context("a folder whose name is text")?;
        let (player, hello) = Self::start("stand-in broker", &["broker", socket])?;
        Ok((player, SocketAddr::from(([127, 0, 0, 1], hello.port))))
    }

    pub(crate) fn load(workload: &str, target: Target, seconds: f64) -> anyhow::Result<Self> {
        let (address, seconds) = (target.address.to_string(), seconds.to_string());
        let mut arguments =
            vec!["load", "--workload", workload, "--target", address.as_str(), "--seconds", seconds.as_str()];
        if target.login == Login::Token {
            arguments.push("--token");
        }
        Ok(Self::start("load generator", &arguments)?.0)
    }

    /// And waits until it is ready.
    fn start(name: &str, arguments: &[&str]) -> anyhow::Result<(Self, Tally)> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("the {name} cannot be started"))?;
        let words = process.stdin.take().context("it was piped")?;
        let out = process.stdout.take().context("it was piped")?;
        let child = Child { name: name.to_owned(), process };
        let mut player = Self { child, words, tallies: tallies(out) };
        let hello = player.answer()?;
        Ok((player, hello))
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn tell(&mut self, word: Word) -> anyhow::Result<()> {
        let name = &self.child.name;
        self.words.write_all(word.line().as_bytes()).with_context(|| format!("the {name} does not listen"))
    }

    pub(crate) fn ask(&mut self, word: Word) -> anyhow::Result<Tally> {
        self.tell(word)?;
        self.answer()
    }

    fn answer(&mut self) -> anyhow::Result<Tally> {
        self.tallies.recv_timeout(ANSWER).with_context(|| format!("the {} does not answer", self.child.name))
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        // If it does not listen it is ended with its child.
        if self.tell(Word::End).is_ok() {
            self.child.wait(FAREWELL);
        }
    }
}

fn tallies(out: ChildStdout) -> Receiver<Tally> {
    let (to, tallies) = channel();
    // Ends with the process it reads from.
    thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            let Ok(tally) = serde_json::from_str(&line) else { return };
            if to.send(tally).is_err() {
                return;
            }
        }
    });
    tallies
}
