//! The decision log: why a client was refused, told by the place that refused it. Each refusal is one record; of the
//! decisions that allow, one in so many is, where that is set. Records are kept in memory up to so many bytes, and written to a file
//! where one is set. Nobody who decides waits for either.
//!
//! | room | holds |
//! |---|---|
//! | `entry` | one record: what is kept of a decision |
//! | `explained` | what would be decided, in the words of a record |
//! | `ring` | the records in memory, some of which make room for others |
//! | `shares` | who has how much of that memory |
//! | `query` | what is asked of them |
//! | `why` | the sentence that answers "why?" |
//! | `file` | the thread that writes them to a file, and its queue |
//! | `sample` | which of the decisions that allow are recorded |

mod entry;
mod explained;
mod file;
mod query;
mod ring;
mod sample;
mod shares;
mod why;

use std::fmt::Debug;
use std::io;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mproxy_core::peer::ConnectionId;
use mproxy_core::record::{DecisionRecord, DecisionSubject};
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use uuid::Uuid;

pub use self::entry::OutcomeFilter;
use self::entry::{ALLOWED, CHANGED, REFUSED};
pub(super) use self::entry::{DecisionEntry, cut};
pub use self::explained::ExplainedDecision;
use self::file::DecisionFile;
pub use self::query::{DecisionPage, DecisionQuery};
use self::ring::Ring;
use self::sample::AllowedSample;
use super::labels::ReasonLabels;

/// How the decision log is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DecisionLogConfig {
    /// Bytes of records in memory; 0: none.
    pub memory: usize,
    /// Of the decisions that allow, one in so many is recorded.
    pub allowed_one_in: Option<NonZeroU32>,
    /// Where records are written to.
    pub file: Option<PathBuf>,
    /// Bytes of a file, after which another one is begun.
    pub file_size: u64,
    /// Files that are kept, with the one that is written.
    pub files: usize,
}

/// Why a decision log could not be written to a file of this name; it is not made.
///
/// # Errors
/// Where it could not.
pub fn check_file(path: &Path) -> io::Result<()> {
    DecisionFile::check(path)
}

/// Takes records, and answers what is asked of them.
#[derive(Debug)]
pub struct DecisionLog {
    ring: Option<Mutex<Ring>>,
    file: Option<DecisionFile>,
    /// `None`: nothing that was allowed is recorded.
    sample: Option<AllowedSample>,
    counts: DecisionCounts,
}

/// What is counted of records.
#[derive(Clone, Debug, Default)]
pub(super) struct DecisionCounts {
    records: Family<RecordLabels, Counter>,
    lost: Family<ReasonLabels, Counter>,
    evicted: Counter,
    file_errors: Family<OperationLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RecordLabels {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabels {
    operation: &'static str,
}

impl DecisionCounts {
    /// Records that are in no file, for this reason.
    fn count_lost(&self, reason: &'static str, count: u64) {
        self.lost.get_or_create(&ReasonLabels { reason }).inc_by(count);
    }

    fn count_file_error(&self, operation: &'static str) {
        self.file_errors.get_or_create(&OperationLabels { operation }).inc();
    }

    fn register(&self, registry: &mut Registry) {
        let help = "Decisions recorded by the decision log, by their outcome";
        registry.register("decision_records", help, self.records.clone());
        let help = "Decisions that the decision log or its file does not have, by the reason";
        registry.register("decision_records_lost", help, self.lost.clone());
        let help = "Records of the decision log that made room for newer ones in memory";
        registry.register("decision_records_evicted", help, self.evicted.clone());
        let help = "Failed operations on the file of the decision log";
        registry.register("decision_log_file_errors", help, self.file_errors.clone());
        // All of them from the start: what appears with its first count has not grown for whoever watches growth.
        for outcome in [REFUSED, ALLOWED, CHANGED] {
            drop(self.records.get_or_create(&RecordLabels { outcome }));
        }
        for reason in ["queue_full", "write_failed", "stopped", "too_many_filters"] {
            drop(self.lost.get_or_create(&ReasonLabels { reason }));
        }
        for operation in ["open", "write", "rotate"] {
            drop(self.file_errors.get_or_create(&OperationLabels { operation }));
        }
    }
}

impl DecisionLog {
    /// Begins now.
    #[must_use]
    pub fn start(config: &DecisionLogConfig) -> Self {
        let counts = DecisionCounts::default();
        let keeps = config.memory > 0 || config.file.is_some();
        let sample = config.allowed_one_in.filter(|_| keeps).map(AllowedSample::one_in);
        let ring = || Mutex::new(Ring::new(config.memory, sample.is_some(), SystemTime::now()));
        Self {
            ring: (config.memory > 0).then(ring),
            file: config.file.as_ref().map(|_| DecisionFile::start(config, counts.clone())),
            sample,
            counts,
        }
    }

    /// One that keeps nothing.
    #[must_use]
    pub fn off() -> Self {
        Self::start(&DecisionLogConfig::default())
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        self.counts.register(registry);
    }

    /// Whether some of what is allowed is recorded.
    pub(super) const fn samples_allowed(&self) -> bool {
        self.sample.is_some()
    }

    /// Whether this decision, which allows, is one of them.
    pub(super) fn picks_allowed(&self) -> bool {
        self.sample.is_some_and(AllowedSample::picks)
    }

    /// Takes one.
    pub(super) fn record(&self, decision: &DecisionRecord<'_>) {
        if self.ring.is_none() && self.file.is_none() {
            return;
        }
        let entry = DecisionEntry::of(decision);
        self.counts.records.get_or_create(&RecordLabels { outcome: entry.outcome }).inc();
        if let DecisionSubject::Filter { more: more @ 1.., .. } = decision.subject {
            self.counts.count_lost("too_many_filters", more as u64);
        }
        let entry = Arc::new(entry);
        if let Some(file) = &self.file {
            file.push(Arc::clone(&entry));
        }
        if let Some(ring) = &self.ring {
            let evicted = ring.lock().push(entry);
            if evicted > 0 {
                self.counts.evicted.inc_by(evicted);
            }
        }
    }

    /// The records in memory that are asked for, the newest first. `None`: none are kept.
    #[must_use]
    pub fn find(&self, query: &DecisionQuery) -> Option<DecisionPage> {
        self.ring.as_ref().map(|ring| query.answer(ring))
    }

    /// The last refusal of this connection that is in memory.
    #[must_use]
    pub fn last_refusal(&self, connection_id: Uuid) -> Option<serde_json::Value> {
        let ring = self.ring.as_ref()?;
        let entry = query::last_refusal(ring, ConnectionId(connection_id.as_u128()))?;
        serde_json::to_value(&*entry).ok()
    }

    /// Waits until what was recorded is written to the file, but no longer than this. Whether it was; what was not is lost,
    /// counted and told.
    pub fn stop(&self, within: Duration) -> bool {
        self.file.as_ref().is_none_or(|file| file.flush(within) || file.give_up() == 0)
    }
}
