//! How a run talks to the load generator and to the stand-in broker: they read a word a line from standard input, and
//! answer each with a [`Tally`] of one line. They end when their input does, so none outlives the run.

use std::io::{self, BufRead as _, Write as _};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::histogram::{Histogram, Summary};

/// What they are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// Begin with the load.
    Go,
    /// Tell what was counted.
    Mark,
    /// Begin nothing new, and tell.
    Stop,
    /// End.
    End,
}

impl Word {
    pub(crate) const fn line(self) -> &'static str {
        match self {
            Self::Go => "go\n",
            Self::Mark => "mark\n",
            Self::Stop => "stop\n",
            Self::End => "end\n",
        }
    }

    fn read(line: &str) -> Self {
        match line.trim() {
            "go" => Self::Go,
            "mark" => Self::Mark,
            "stop" => Self::Stop,
            _ => Self::End,
        }
    }
}

/// What was counted since the start, the latencies since the last tally.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Tally {
    /// When; of the clock that all share.
    pub(crate) at: u64,
    pub(crate) port: u16,
    /// Messages, or whatever is counted, that began.
    pub(crate) sent: u64,
    /// Those that arrived.
    pub(crate) messages: u64,
    /// Connections that are open.
    pub(crate) open: u64,
    pub(crate) faults: u64,
    /// What the first of them were.
    pub(crate) told: Vec<String>,
    pub(crate) latency: Summary,
}

/// What somebody counts for a tally.
#[derive(Debug, Default)]
pub(crate) struct Count {
    pub(crate) sent: u64,
    pub(crate) messages: u64,
    pub(crate) open: u64,
    pub(crate) latency: Histogram,
    faults: u64,
    told: Vec<String>,
}

/// Faults that are told in words.
const TOLD: usize = 5;

impl Count {
    pub(crate) fn of(open: usize) -> Self {
        Self { open: open as u64, ..Self::default() }
    }

    pub(crate) fn fault(&mut self, what: impl FnOnce() -> String) {
        self.faults += 1;
        if self.told.len() < TOLD {
            self.told.push(what());
        }
    }

    /// Takes over another's counts; it keeps its own, but for the latencies.
    pub(crate) fn add(&mut self, other: &mut Self) {
        self.sent += other.sent;
        self.messages += other.messages;
        self.open += other.open;
        self.faults += other.faults;
        let room = TOLD.saturating_sub(self.told.len());
        self.told.extend(other.told.iter().take(room).cloned());
        self.latency.add(&std::mem::take(&mut other.latency));
    }

    pub(crate) fn tally(&mut self) -> Tally {
        Tally {
            at: clock::now(),
            port: 0,
            sent: self.sent,
            messages: self.messages,
            open: self.open,
            faults: self.faults,
            told: self.told.clone(),
            latency: self.latency.take(),
        }
    }
}

/// Words from standard input, from a thread of its own; `wake` is called for each.
pub(crate) fn words(wake: impl Fn() + Send + 'static) -> Receiver<Word> {
    let (to, words) = channel();
    thread::spawn(move || {
        let lines = io::stdin().lock().lines().map_while(Result::ok).map(|line| Word::read(&line));
        for word in lines.chain([Word::End]) {
            if to.send(word).is_err() {
                return;
            }
            wake();
        }
    });
    words
}

/// Answers.
pub(crate) fn say(tally: &Tally) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, tally)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}
