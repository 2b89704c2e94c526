//! The new process: takes the listeners of the old one, says when it is ready, and accepts when it is told to.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tracing::{info, warn};

use super::channel::Channel;
use super::message::{Message, PROTOCOL};
use super::sessions::{self, SessionTaker};
use crate::build_info;
use crate::config::UPGRADE_VARIABLE;
use crate::handover;
use crate::systemd::InheritedSockets;

/// How long the old process may take to say something.
const SAID_WITHIN: Duration = Duration::from_secs(10);

/// How long it is waited for a word of the old process at a time.
const LOOK: Duration = Duration::from_secs(3600);

/// The mproxy whose place this process takes.
#[derive(Debug)]
pub struct Predecessor {
    channel: Channel,
    version: String,
    pid: u32,
}

impl Predecessor {
    /// The one that has started this process, if one has, and the sockets of its listeners. Standard input is empty
    /// afterwards. Blocks.
    ///
    /// # Errors
    /// The variable is set, and nobody is there who speaks as such a process does.
    pub fn from_env() -> anyhow::Result<Option<(Self, InheritedSockets)>> {
        if std::env::var_os(UPGRADE_VARIABLE).is_none_or(|value| value.is_empty()) {
            return Ok(None);
        }
        let not_started_so = || {
            format!(
                "{UPGRADE_VARIABLE} is set, which mproxy does for the process that takes its place, and standard input is not the \
                 channel to it; unset it"
            )
        };
        let mut channel = channel().with_context(not_started_so)?;
        let (begin, sockets) = channel.receive(Instant::now() + SAID_WITHIN).with_context(not_started_so)?;
        let Message::Begin { protocol, version, pid, sockets: labels } = begin else {
            bail!("the process that started this one said {begin:?} first");
        };
        let mut this = Self { channel, version, pid };
        if protocol != PROTOCOL {
            // It understands this much, and goes on by itself.
            this.say(&ready());
            bail!(
                "mproxy {} (process {pid}) speaks version {protocol} of the handover, and this one version {PROTOCOL}: it \
                 has to be stopped and started anew",
                this.version
            );
        }
        let labels = labels.into_iter().map(|label| (label.name, label.place, label.owns_file));
        let sockets = labels.zip(sockets);
        let sockets = sockets
            .map(|((name, place, owns_file), socket)| (name, place, owns_file, socket))
            .collect::<Vec<(String, String, bool, OwnedFd)>>();
        Ok(Some((this, InheritedSockets::handed_over(sockets)?)))
    }

    /// This process does not come up, for this reason.
    pub fn fail(&mut self, error: &str) {
        self.say(&Message::Failed { error: error.to_owned() });
    }

    /// This process could accept at once. Waits until it shall, and takes sessions before. Blocks.
    ///
    /// # Errors
    /// The old one is gone, or has changed its mind.
    pub(crate) fn ready(&mut self, taker: &mut dyn SessionTaker) -> anyhow::Result<()> {
        let away = "the process whose place this one takes is gone, or does not want that any more";
        self.channel.send(&ready(), &[]).context(away)?;
        loop {
            let said = self.channel.receive(Instant::now() + SAID_WITHIN).context(away)?;
            match sessions::take(&mut self.channel, taker, said).context(away)? {
                None => {}
                Some(Message::TakeOver) => return Ok(()),
                Some(other) => bail!("the process whose place this one takes said {other:?}"),
            }
        }
    }

    /// This process accepts.
    pub(crate) fn serving(&mut self) {
        self.say(&Message::Serving);
        info!(predecessor = self.pid, version = self.version, "took the place of another process");
    }

    /// Takes further sessions, until the old process has no more to say. Blocks.
    pub(crate) fn follow(mut self, taker: &mut dyn SessionTaker) {
        let over = loop {
            let said = match self.channel.receive(Instant::now() + LOOK) {
                // It is still there.
                Err(error) if error.kind() == io::ErrorKind::TimedOut => continue,
                said => said,
            };
            match said.and_then(|said| sessions::take(&mut self.channel, taker, said)) {
                Ok(None) => {}
                Ok(Some(other)) => break format!("it said {other:?} out of turn"),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break String::new(),
                Err(error) => break error.to_string(),
            }
        };
        if !over.is_empty() {
            warn!(
                predecessor = self.pid,
                error = over,
                "no more sessions are taken from the process before this one"
            );
        }
        // What it has not told by now it never tells, or it has the spool.
        taker.tell();
    }

    fn say(&mut self, message: &Message) {
        // If it is gone, it need not know.
        let _ = self.channel.send(message, &[]);
    }
}

fn ready() -> Message {
    Message::Ready {
        protocol: PROTOCOL,
        version: build_info::VERSION.to_owned(),
        session_form: Some(handover::form()),
    }
}

/// Over standard input, which has nothing else to do from then on.
fn channel() -> io::Result<Channel> {
    let stdin = io::stdin().as_fd().try_clone_to_owned()?;
    if socket2::SockRef::from(&stdin).r#type()? != socket2::Type::STREAM {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // The other side is to see when this process ends, whatever inherits its standard input.
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    Channel::new(UnixStream::from(stdin))
}
