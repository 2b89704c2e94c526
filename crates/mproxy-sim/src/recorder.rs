//! A meter that writes down what the decision log is told, a line for each record.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use mproxy_codec::types::PacketType;
use mproxy_core::meter::{Meter, Outcome};
use mproxy_core::policy::{Failure, Ground, Hook, OnError, Overload, Source, Unusable};
use mproxy_core::record::{DecisionOutcome, DecisionRecord, DecisionSubject};
use mproxy_core::{Peer, Side};

/// Writes records down. Clones share the lines.
#[derive(Clone, Default)]
pub struct Recorder {
    lines: Arc<Mutex<Vec<String>>>,
    /// Of what is allowed, one in so many is picked; 0: none.
    one_in: u32,
    asked: Arc<AtomicU32>,
}

impl Recorder {
    /// One that picks one in so many of what is allowed, beginning with the first.
    #[must_use]
    pub fn sampling(one_in: u32) -> Self {
        Self { one_in, ..Self::default() }
    }

    /// How often it was asked whether to pick something.
    #[must_use]
    pub fn asked(&self) -> u32 {
        self.asked.load(Ordering::Relaxed)
    }

    /// What has been written since the last time, in lines such as `refused publish a/b by grant rule 2: reject 0x87`.
    #[must_use]
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.lines.lock().expect("no test panicked here"))
    }
}

fn line(decision: &DecisionRecord<'_>) -> String {
    let mut line = match decision.outcome {
        DecisionOutcome::Allowed { changed: true, .. } => "changed".to_owned(),
        DecisionOutcome::Allowed { .. } => "allowed".to_owned(),
        _ => "refused".to_owned(),
    };
    // Writing to a String cannot fail.
    let _ = match decision.subject {
        DecisionSubject::Connection { will } => {
            write!(line, " connection{}", will.map_or_else(String::new, |will| format!(" with will {will}")))
        }
        DecisionSubject::Message { hook, topic, .. } => write!(line, " {} {topic}", hook.name()),
        DecisionSubject::Filter { filter, more: 0, .. } => write!(line, " filter {filter}"),
        DecisionSubject::Filter { filter, more, .. } => write!(line, " filter {filter} and {more} more"),
        DecisionSubject::Packet(kind) => write!(line, " {}", kind.name()),
    };
    let ground = |ground: &Ground| {
        let closer = match ground {
            Ground::RuleFile(file, rule) => format!(" {} {rule:?}", file.name),
            Ground::Grant(_, part) => format!(" {part:?}"),
            Ground::Service(answer) | Ground::Cache(answer) => format!(" {}", answer.endpoint),
            Ground::Undecided(undecided) => format!(" {undecided}"),
            Ground::Limit(kind) => format!(" {}", kind.name()),
            Ground::Unsaid | Ground::Source(_) | Ground::Ban(_) => String::new(),
        };
        format!("{}{closer}", ground.source_name())
    };
    let _ = match decision.outcome {
        DecisionOutcome::Refused(refusal) => {
            let (by, action) = (ground(&refusal.ground), refusal.action.name());
            write!(line, " by {by}: {action} {:#04x}", refusal.reason.0)
        }
        DecisionOutcome::Undecided(undecided) => {
            write!(line, " by {} {undecided}: {:#04x}", undecided.source().name(), undecided.reason().0)
        }
        DecisionOutcome::Ended { fault, hook, ground: by } => {
            let by = by.map_or_else(|| fault.refused_by().unwrap_or("nobody").to_owned(), ground);
            let hook = hook.map_or_else(String::new, |hook| format!(" ({})", hook.name()));
            write!(line, "{hook} by {by}: {} {:#04x}", fault.label(), fault.reason().0)
        }
        DecisionOutcome::Allowed { ground: by, endpoint, .. } => {
            let endpoint = endpoint.map_or_else(String::new, |endpoint| format!(" {endpoint}"));
            write!(line, " by {}{endpoint}", ground(by))
        }
    };
    line
}

impl Meter for Recorder {
    fn record(&self, decision: &DecisionRecord<'_>) {
        self.lines.lock().expect("no test panicked here").push(line(decision));
    }

    fn samples_allowed(&self) -> bool {
        self.one_in > 0
    }

    fn picks_allowed(&self) -> bool {
        self.asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(self.one_in)
    }

    fn packets(&self, _: Side, _: PacketType, _: u64, _: u64) {}

    fn decisions(&self, _: Hook, _: Source, _: Outcome, _: u64) {}

    fn failed(&self, _: Hook, _: &Failure, _: OnError, _: &Peer) {}

    fn unusable(&self, _: Hook, _: &Unusable, _: &Peer) {}

    fn overloaded(&self, _: Hook, _: &Overload, _: &Peer) {}
}
