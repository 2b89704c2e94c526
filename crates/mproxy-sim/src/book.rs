//! The decider of a simulated world: it knows every packet's fate, and answers at once or later, as chance has it.

use std::collections::{HashMap, VecDeque};

use mproxy_core::chain::allowed;
use mproxy_core::policy::{Hook, Verdict};

use super::model::RULED;
use super::rng::Rng;
use super::script::{Asked, Reply};
use super::way::Answered;

/// What the decider knows.
pub(super) struct Book {
    pub(super) rng: Rng,
    pub(super) verdicts: HashMap<String, (Verdict, Option<String>)>,
    /// Every so many answers come later.
    pub(super) later: usize,
    pub(super) open: Vec<(usize, String)>,
    pub(super) questions: usize,
    /// Keys of questions that have been answered and not yet been looked at by the world.
    pub(super) fresh: VecDeque<String>,
    pub(super) answered: Answered,
    pub(super) wrong: Option<String>,
}

impl Book {
    pub(super) fn ask(&mut self, asked: &Asked) -> Reply {
        if matches!(asked.hook, Hook::Publish | Hook::Deliver) && asked.what.starts_with(RULED) {
            return Reply::Stands(allowed(asked.hook));
        }
        let key = match asked.hook {
            Hook::Connect => "connect",
            Hook::Subscribe => asked.what.split(' ').next().unwrap_or_default(),
            Hook::Publish | Hook::Deliver => asked.id.as_deref().unwrap_or(&asked.what),
        };
        let Some((verdict, topic)) = self.verdicts.get(key) else {
            self.wrong.get_or_insert_with(|| format!("a question about nothing: {asked:?}"));
            return Reply::Pass;
        };
        if topic.as_ref().is_some_and(|topic| *topic != asked.what) {
            self.wrong
                .get_or_insert_with(|| format!("a question under the wrong topic: {asked:?}, not {topic:?}"));
        }
        if self.rng.below(10) < self.later {
            self.open.push((self.questions, key.into()));
            self.questions += 1;
            return Reply::Later;
        }
        let verdict = verdict.clone();
        self.answer(key.into());
        Reply::Now(verdict)
    }

    pub(super) fn answer(&mut self, key: String) {
        *self.answered.entry(key.clone()).or_default() += 1;
        self.fresh.push_back(key);
    }
}
