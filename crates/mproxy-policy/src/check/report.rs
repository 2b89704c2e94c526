//! What was found, for whoever prints it.

use std::time::Duration;

use crate::contract::{Rpc, WantedCall};

/// All that was found.
#[derive(Clone, Debug)]
pub struct CheckReport {
    /// The service's address.
    pub endpoint: String,
    /// Why nothing could be asked at all, if so.
    pub unreachable: Option<String>,
    /// What Hello came to; `None`: nothing that the service could be used with.
    pub hello: Option<HelloFacts>,
    /// The questions and events in their order, and what became of each.
    pub answers: Vec<CheckedAnswer>,
    /// How long answers took.
    pub latencies: Vec<LatencyFigures>,
    /// What is wrong, or may not be meant; the worst first.
    pub findings: Vec<Finding>,
}

impl CheckReport {
    pub(super) const fn new(endpoint: String) -> Self {
        Self {
            endpoint,
            unreachable: None,
            hello: None,
            answers: Vec::new(),
            latencies: Vec::new(),
            findings: Vec::new(),
        }
    }

    /// How many findings are of this level.
    #[must_use]
    pub fn count(&self, level: FindingLevel) -> usize {
        self.findings.iter().filter(|finding| finding.level == level).count()
    }
}

/// What the service said in Hello.
#[derive(Clone, Debug)]
pub struct HelloFacts {
    /// Its name; may be empty.
    pub name: String,
    /// It said what it wants; else the defaults hold.
    pub answered: bool,
    /// What it wants.
    pub wants: Vec<WantedFacts>,
    /// Whether it serves HookStream.
    pub streams: bool,
    /// How long the answer took.
    pub took: Duration,
}

/// A call that the service wants.
#[derive(Clone, Debug)]
pub struct WantedFacts {
    /// Its name.
    pub call: &'static str,
    /// For these topics alone; empty: all.
    pub topic_filters: Vec<String>,
    /// Bytes of payload at most; `None`: this call has none.
    pub payload_limit: Option<u32>,
}

impl WantedFacts {
    pub(super) fn of(rpc: Rpc, wanted: &WantedCall) -> Self {
        let has_topics = matches!(rpc, Rpc::AuthPublish | Rpc::AuthDeliver | Rpc::Publish);
        let topic_filters =
            if has_topics { wanted.topics().map(str::to_owned).collect() } else { Vec::new() };
        Self { call: rpc.name(), topic_filters, payload_limit: has_topics.then_some(wanted.payload) }
    }
}

/// What became of a question or an event.
#[derive(Clone, Debug)]
pub struct CheckedAnswer {
    /// The call.
    pub call: &'static str,
    /// `"unary"` or `"stream"`.
    pub way: &'static str,
    /// What was asked, in words.
    pub question: String,
    /// What mproxy made of the answer.
    pub result: CheckedResult,
    /// The MQTT 5.0 reason code of a refusal.
    pub reason_code: Option<u8>,
    /// What it changes, how it refuses, why it is none.
    pub details: Vec<String>,
    /// Of a SUBSCRIBE to several filters.
    pub filters: Vec<CheckedFilter>,
    /// How long it took; `None`: it was not asked.
    pub took: Option<Duration>,
    /// The answer's fields by their paths; the first 256.
    pub fields: Vec<(String, String)>,
    /// Paths of fields that the contract does not have.
    pub unknown_fields: Vec<String>,
    /// The fields in one line.
    pub received: String,
}

impl CheckedAnswer {
    pub(super) const fn new(
        call: &'static str,
        question: String,
        result: CheckedResult,
        took: Duration,
    ) -> Self {
        Self {
            call,
            way: "unary",
            question,
            result,
            reason_code: None,
            details: Vec::new(),
            filters: Vec::new(),
            took: Some(took),
            fields: Vec::new(),
            unknown_fields: Vec::new(),
            received: String::new(),
        }
    }

    pub(super) fn not_asked(call: &'static str, question: String, why: String) -> Self {
        let answer = Self::new(call, question, CheckedResult::NotAsked, Duration::ZERO);
        Self { took: None, details: vec![why], ..answer }
    }
}

/// The decision on one of several filters.
#[derive(Clone, Debug)]
pub struct CheckedFilter {
    /// The filter, in quotes.
    pub filter: String,
    /// Allow or deny.
    pub result: CheckedResult,
    /// The MQTT 5.0 reason code of a refusal.
    pub reason_code: Option<u8>,
    /// What changes, or how it is refused.
    pub details: Vec<String>,
}

/// What mproxy made of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CheckedResult {
    /// The packet goes on, perhaps changed.
    Allow,
    /// It is refused.
    Deny,
    /// Some filters of a SUBSCRIBE are refused.
    Mixed,
    /// An event arrived.
    Received,
    /// An event is not implemented, and so not wanted.
    NotWanted,
    /// The answer failed: the failure rule decides.
    Failed,
    /// The answer cannot be carried out: the packet is refused.
    Unusable,
    /// It was not asked.
    NotAsked,
}

impl CheckedResult {
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Mixed => "mixed",
            Self::Received => "received",
            Self::NotWanted => "not_wanted",
            Self::Failed => "failed",
            Self::Unusable => "unusable",
            Self::NotAsked => "not_asked",
        }
    }

    /// Whether the service answered.
    pub(super) const fn is_answer(self) -> bool {
        matches!(self, Self::Allow | Self::Deny | Self::Mixed | Self::Received | Self::Unusable)
    }
}

/// How long answers took.
#[derive(Clone, Copy, Debug)]
pub struct LatencyFigures {
    /// The call.
    pub call: &'static str,
    /// `"unary"` or `"stream"`.
    pub way: &'static str,
    /// How many were answered.
    pub count: usize,
    /// How many were not.
    pub failed: usize,
    /// Half of them took no longer.
    pub p50: Duration,
    /// 99 of 100 took no longer.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
}

impl LatencyFigures {
    /// `None`: there are none.
    pub(super) fn of(
        call: &'static str,
        way: &'static str,
        mut times: Vec<Duration>,
        failed: usize,
    ) -> Option<Self> {
        times.sort_unstable();
        let max = *times.last()?;
        // The nearest rank: of few measurements each percentile is one that was taken.
        let nearest = |percent: usize| times.get((times.len() * percent).div_ceil(100).saturating_sub(1));
        let (p50, p99) = (*nearest(50)?, *nearest(99)?);
        Some(Self { call, way, count: times.len(), failed, p50, p99, max })
    }
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FindingLevel {
    /// An answer is none.
    Error,
    /// Legal, and probably not meant.
    Warning,
    /// Good to know.
    Note,
}

impl FindingLevel {
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// Something that is wrong, or may not be meant.
#[derive(Clone, Debug)]
pub struct Finding {
    /// How bad it is.
    pub level: FindingLevel,
    /// A label, `"grant_without_rules"` for example.
    pub code: &'static str,
    /// For people.
    pub text: String,
    /// Questions whose answers show it; empty: it is about the whole.
    pub questions: Vec<String>,
}

/// Findings as they come; the same one twice is one with two questions.
#[derive(Debug, Default)]
pub(super) struct Findings(Vec<Finding>);

impl Findings {
    pub(super) fn error(&mut self, code: &'static str, text: impl Into<String>, question: Option<&str>) {
        self.add(FindingLevel::Error, code, text.into(), question);
    }

    pub(super) fn warn(&mut self, code: &'static str, text: impl Into<String>) {
        self.add(FindingLevel::Warning, code, text.into(), None);
    }

    pub(super) fn warn_of(&mut self, code: &'static str, text: impl Into<String>, question: &str) {
        self.add(FindingLevel::Warning, code, text.into(), Some(question));
    }

    pub(super) fn note(&mut self, code: &'static str, text: impl Into<String>) {
        self.add(FindingLevel::Note, code, text.into(), None);
    }

    pub(super) fn note_of(&mut self, code: &'static str, text: impl Into<String>, question: &str) {
        self.add(FindingLevel::Note, code, text.into(), Some(question));
    }

    fn add(&mut self, level: FindingLevel, code: &'static str, text: String, question: Option<&str>) {
        let same =
            |finding: &&mut Finding| (finding.level, finding.code, &finding.text) == (level, code, &text);
        let question = question.map(str::to_owned);
        match self.0.iter_mut().find(same) {
            Some(finding) => finding.questions.extend(question),
            None => self.0.push(Finding { level, code, text, questions: question.into_iter().collect() }),
        }
    }

    /// The worst first, and else as they came.
    pub(super) fn into_sorted(mut self) -> Vec<Finding> {
        self.0.sort_by_key(|finding| finding.level);
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_were_taken() {
        let times = |count: u64| (1..=count).rev().map(Duration::from_millis).collect();
        let figures = LatencyFigures::of("AuthPublish", "unary", times(200), 1).expect("there are some");
        let ms = Duration::from_millis;
        assert_eq!((figures.p50, figures.p99, figures.max), (ms(100), ms(198), ms(200)));
        let figures = LatencyFigures::of("AuthPublish", "unary", times(1), 0).expect("there is one");
        assert_eq!((figures.p50, figures.p99, figures.count), (ms(1), ms(1), 1));
        assert!(LatencyFigures::of("AuthPublish", "unary", Vec::new(), 3).is_none());
    }

    #[test]
    fn the_same_finding_is_one_and_the_worst_comes_first() {
        let mut findings = Findings::default();
        findings.note("n", "note");
        findings.error("e", "broken", Some("a"));
        findings.error("e", "broken", Some("b"));
        let sorted = findings.into_sorted();
        assert_eq!(sorted.iter().map(|finding| finding.code).collect::<Vec<_>>(), ["e", "n"]);
        assert_eq!(sorted[0].questions, ["a", "b"]);
    }
}
