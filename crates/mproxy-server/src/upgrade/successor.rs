//! The old process: starts the new one, waits until it is ready, and gives it the listeners.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use thiserror::Error;

use super::channel::Channel;
use super::message::{Message, PROTOCOL, SocketLabel};
use super::sessions::{SessionChannel, SessionOfferer};
use crate::build_info;
use crate::config::UPGRADE_VARIABLE;
use crate::door::SharedSocket;
use crate::handover;

/// How long the new process may take to begin to accept, once it has said that it could. Sessions stand still meanwhile.
const SERVES_WITHIN: Duration = Duration::from_secs(3);

/// How long a process that is gone may take to be buried.
const ENDS_WITHIN: Duration = Duration::from_secs(1);

/// What is started to take this process' place: what this one was started as.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    /// Of this process. Called at its start: afterwards its folder may be another one.
    ///
    /// # Errors
    /// It cannot be found out.
    pub fn of_this_process() -> io::Result<Self> {
        let mut arguments = env::args_os();
        let called = arguments.next().map(PathBuf::from);
        // By the name it was called by, where that says where it is: a link may lead to another version by then.
        let path = match called {
            Some(called) if called.components().count() > 1 => std::path::absolute(called)?,
            Some(called) => match found_in_path(&called) {
                Some(path) => path,
                None => env::current_exe()?,
            },
            None => env::current_exe()?,
        };
        Ok(Self { path, arguments: arguments.collect() })
    }

    /// Its file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

fn found_in_path(name: &Path) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// A listener whose socket the new process gets.
#[derive(Debug)]
pub(crate) struct SharedListener {
    pub(crate) name: String,
    /// Where it is configured to listen.
    pub(crate) place: String,
    pub(crate) socket: SharedSocket,
}

/// Why there is no new process that serves. This one goes on.
#[derive(Debug, Error)]
pub(crate) enum UpgradeFailure {
    /// Its program cannot be started.
    #[error("{} cannot be started: {error}", path.display())]
    NotStarted { path: PathBuf, error: io::Error },
    /// It has said that it cannot serve, or ended.
    #[error("the new process did not come up: {0}")]
    Failed(String),
    /// It has not said in time that it is ready.
    #[error("the new process was not ready within {} s", .0.as_secs_f64())]
    TimedOut(Duration),
    /// It does not understand what it is told.
    #[error("the new process speaks version {theirs} of the handover, and this one version {PROTOCOL}")]
    OtherProtocol { theirs: u32 },
}

impl UpgradeFailure {
    /// A label.
    pub(crate) const fn outcome(&self) -> &'static str {
        match self {
            Self::NotStarted { .. } => "not_started",
            Self::Failed(_) => "failed",
            Self::TimedOut(_) => "timed_out",
            Self::OtherProtocol { .. } => "other_protocol",
        }
    }
}

/// A new process that accepts connections.
#[derive(Debug)]
pub(crate) struct ServingSuccessor {
    pub(crate) pid: u32,
    pub(crate) version: String,
    /// For further sessions.
    pub(crate) sessions: SessionChannel,
    /// In which form it reads them, if any.
    pub(crate) session_form: Option<String>,
}

/// What the new process has said of itself when it is ready.
struct ReadySuccessor {
    version: String,
    session_form: Option<String>,
}

/// Starts the new process, gives it the listeners, offers it the sessions that it can read, waits until it serves, and says
/// then that they are its own. Blocks. Where that fails, there is no new process any more, and the listeners are as they were.
///
/// # Errors
/// Why there is none.
pub(crate) fn start(
    program: &Program,
    listeners: &[SharedListener],
    within: Duration,
    is_stopping: impl Fn() -> bool,
    sessions: &mut dyn SessionOfferer,
) -> Result<ServingSuccessor, UpgradeFailure> {
    let until = Instant::now() + within;
    let mut starting = StartingSuccessor::spawn(program)?;
    let pid = starting.child.id();
    match starting.negotiate(listeners, until, is_stopping, sessions) {
        Ok(ReadySuccessor { version, session_form }) => {
            Ok(ServingSuccessor { pid, version, sessions: starting.channel, session_form })
        }
        Err(trouble) => {
            let failure = starting.give_up(trouble, within);
            Err(match sessions.handed_over() {
                0 => failure,
                gone => UpgradeFailure::Failed(format!(
                    "{failure}; {gone} sessions had gone over to it and have ended with it"
                )),
            })
        }
    }
}

/// A new process that does not serve yet.
struct StartingSuccessor {
    child: Child,
    channel: SessionChannel,
}

/// What went wrong with it.
enum Trouble {
    Channel(io::Error),
    Said(String),
    OtherProtocol(u32),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Channel(error)
    }
}

impl StartingSuccessor {
    fn spawn(program: &Program) -> Result<Self, UpgradeFailure> {
        let spawned = || -> io::Result<Self> {
            let (ours, theirs) = UnixStream::pair()?;
            let child = Command::new(&program.path)
                .args(&program.arguments)
                .env(UPGRADE_VARIABLE, "1")
                // The watchdog of the service is its own from then on.
                .env_remove("WATCHDOG_PID")
                .stdin(Stdio::from(OwnedFd::from(theirs)))
                .spawn()?;
            Ok(Self { child, channel: SessionChannel(Channel::new(ours)?) })
        };
        spawned().map_err(|error| UpgradeFailure::NotStarted { path: program.path.clone(), error })
    }

    /// What it is, once it serves.
    fn negotiate(
        &mut self,
        listeners: &[SharedListener],
        until: Instant,
        is_stopping: impl Fn() -> bool,
        sessions: &mut dyn SessionOfferer,
    ) -> Result<ReadySuccessor, Trouble> {
        let label = |listener: &SharedListener| SocketLabel {
            name: listener.name.clone(),
            place: listener.place.clone(),
            owns_file: listener.socket.owns_file(),
        };
        let begin = Message::Begin {
            protocol: PROTOCOL,
            version: build_info::VERSION.to_owned(),
            pid: std::process::id(),
            sockets: listeners.iter().map(label).collect(),
        };
        let sockets: Vec<_> = listeners.iter().map(|listener| listener.socket.as_fd()).collect();
        // One that has gone may have said why before.
        let _ = self.channel.0.send(&begin, &sockets);
        let ready = match self.channel.0.receive(until)?.0 {
            Message::Ready { protocol: PROTOCOL, version, session_form } => {
                ReadySuccessor { version, session_form }
            }
            Message::Ready { protocol, .. } => return Err(Trouble::OtherProtocol(protocol)),
            Message::Failed { error } => return Err(Trouble::Said(error)),
            other => return Err(Trouble::Said(unexpected(&other))),
        };
        if is_stopping() {
            return Err(Trouble::Said("this process is being stopped meanwhile".to_owned()));
        }
        if ready.session_form.as_deref() == Some(&handover::form()) {
            match sessions.offer_all(&mut self.channel) {
                // How it has ended says more.
                Err(error) if !is_end(&error) => {
                    return Err(Trouble::Said(format!("it did not take the sessions: {error}")));
                }
                outcome => outcome?,
            }
        }
        let _ = self.channel.0.send(&Message::TakeOver, &[]);
        match self.channel.0.receive(Instant::now() + SERVES_WITHIN)?.0 {
            // Only now: one that dies before leaves all of them here.
            Message::Serving => {
                sessions.conclude(&mut self.channel).map(|()| ready).map_err(Trouble::Channel)
            }
            Message::Failed { error } => Err(Trouble::Said(error)),
            other => Err(Trouble::Said(unexpected(&other))),
        }
    }

    /// Ends it, however far it has come.
    fn give_up(mut self, trouble: Trouble, within: Duration) -> UpgradeFailure {
        // What it says last, or how it has ended, says more than what became of the channel.
        let ended = match &trouble {
            Trouble::Channel(error) if is_end(error) => self.ended_by_itself(),
            _ => None,
        };
        let _ = self.child.kill();
        let _ = self.child.wait();
        match (trouble, ended) {
            (Trouble::Said(error), _) => UpgradeFailure::Failed(error),
            (Trouble::OtherProtocol(theirs), _) => UpgradeFailure::OtherProtocol { theirs },
            (Trouble::Channel(_), Some(status)) => {
                UpgradeFailure::Failed(format!("it ended ({status}), see its log"))
            }
            (Trouble::Channel(error), None) if error.kind() == io::ErrorKind::TimedOut => {
                UpgradeFailure::TimedOut(within)
            }
            (Trouble::Channel(error), None) if is_end(&error) => {
                UpgradeFailure::Failed("it closed the channel to this process".to_owned())
            }
            (Trouble::Channel(error), None) => {
                UpgradeFailure::Failed(format!("it says what is not understood: {error}"))
            }
        }
    }

    fn ended_by_itself(&mut self) -> Option<ExitStatus> {
        let until = Instant::now() + ENDS_WITHIN;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < until => thread::sleep(Duration::from_millis(10)),
                Ok(None) | Err(_) => return None,
            }
        }
    }
}

/// Whether nobody is there any more.
fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}

fn unexpected(message: &Message) -> String {
    format!("it said {message:?} out of turn")
}
