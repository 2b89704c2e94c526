//! The decider of a simulated world: it knows every packet's fate, and answers at once or later, as chance has it.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use mproxy_core::policy::{Decision, Hook, PublishChange, Refusal};

use super::model::{CACHED, DENIED, EACH, RULED};
use super::path::AnswerCounts;
use super::rng::Rng;
use super::script::{QuestionRecord, Reply};
use super::verdict::Verdict;

/// The key of the questions about the CONNECT.
pub(super) const CONNECT: &str = "connect";

/// What the decider knows.
pub(super) struct Book {
    pub(super) rng: Rng,
    pub(super) verdicts: HashMap<String, (Verdict, Option<String>)>,
    /// What is said of the CONNECT, question by question; the last for good.
    pub(super) connects: VecDeque<Verdict>,
    /// How often it was asked about.
    pub(super) connects_asked: usize,
    /// What was said of it and not yet looked at by the world.
    pub(super) connects_said: Vec<Verdict>,
    /// Every so many answers come later.
    pub(super) later: usize,
    pub(super) open: Vec<(usize, String)>,
    pub(super) questions: usize,
    /// Keys of questions that have been answered and not yet been looked at by the world.
    pub(super) fresh: VecDeque<String>,
    pub(super) answered: AnswerCounts,
    /// Topics of publishes that were allowed once each, and not yet looked at by the world.
    pub(super) each: Vec<String>,
    pub(super) wrong: Option<String>,
}

impl Book {
    pub(super) fn ask(&mut self, asked: &QuestionRecord) -> Reply {
        if matches!(asked.hook, Hook::Publish | Hook::Deliver) && asked.what.starts_with(RULED) {
            if asked.what.starts_with(CACHED) || asked.what.starts_with(DENIED) {
                return self.ask_for_a_while(asked);
            }
            if !asked.what.starts_with(EACH) {
                return Reply::Stands(Verdict::allow(asked.hook));
            }
            if asked.hook == Hook::Publish {
                self.each.push(asked.what.clone());
            }
            return Reply::Now(Verdict::allow(asked.hook));
        }
        let key = match asked.hook {
            Hook::Connect => {
                self.connects_asked += 1;
                return if self.comes_later(CONNECT) { Reply::Later } else { Reply::Now(self.connect()) };
            }
            Hook::Subscribe => asked.what.split(' ').next().unwrap_or_default(),
            Hook::Publish | Hook::Deliver | Hook::Exchange => asked.id.as_deref().unwrap_or(&asked.what),
        };
        let Some((verdict, topic)) = self.verdicts.get(key) else {
            self.wrong.get_or_insert_with(|| format!("a question about nothing: {asked:?}"));
            return Reply::Pass;
        };
        // An alias that was resolved to another topic would be judged as that, and delivered as this one.
        if topic.as_ref().is_some_and(|topic| *topic != asked.what) {
            self.wrong
                .get_or_insert_with(|| format!("a question under the wrong topic: {asked:?}, not {topic:?}"));
        }
        let (verdict, key) = (verdict.clone(), key.to_owned());
        if self.comes_later(&key) {
            return Reply::Later;
        }
        self.answer(key);
        Reply::Now(verdict)
    }

    /// What holds for a while, or for this once.
    fn ask_for_a_while(&mut self, asked: &QuestionRecord) -> Reply {
        let cache_for = (!self.rng.one_in(4)).then(|| Duration::from_millis(self.rng.below(300) as u64));
        let decision = match asked.what.starts_with(DENIED) {
            true => Decision::Refuse(Refusal { cache_for, ..Refusal::default() }),
            false => Decision::Allow(Some(Box::new(PublishChange { cache_for, ..PublishChange::default() }))),
        };
        let verdict = Verdict::Publish(decision);
        if asked.hook == Hook::Publish {
            self.verdicts.insert(asked.what.clone(), (verdict.clone(), None));
            if self.comes_later(&asked.what) {
                return Reply::Later;
            }
            self.answer(asked.what.clone());
        }
        Reply::Now(verdict)
    }

    fn comes_later(&mut self, key: &str) -> bool {
        // A number of its own: what the peers do stays the same when the decider's answers are drawn otherwise.
        let later = self.rng.below(10) < self.later;
        if later {
            self.open.push((self.questions, key.into()));
            self.questions += 1;
        }
        later
    }

    /// What is said of the CONNECT this time.
    pub(super) fn connect(&mut self) -> Verdict {
        let verdict = match self.connects.len() {
            1 => self.connects.front().cloned(),
            _ => self.connects.pop_front(),
        };
        let verdict = verdict.expect("somebody has something to say");
        self.connects_said.push(verdict.clone());
        verdict
    }

    pub(super) fn answer(&mut self, key: String) {
        *self.answered.entry(key.clone()).or_default() += 1;
        self.fresh.push_back(key);
    }
}
