//! Several deciders in a row, and what holds when none of them knew.

use std::sync::Arc;

use crate::peer::Peer;
use crate::policy::{
    Answer, ConnectQuestion, Decider, Decision, Hook, Question, Refusal, Ruling, Silence, Source, Verdict,
    Want,
};

/// Deciders in the order in which they are asked. The first that does not pass has decided. One that wants nothing of a
/// hook is not asked about it, and its silence means nothing there.
///
/// When all pass, [`unspoken`] says what holds. A chain of nobody allows everything, and is never even asked after
/// CONNECT.
#[derive(Clone, Default)]
pub struct Chain {
    deciders: Vec<Arc<dyn Decider>>,
}

impl Chain {
    /// A chain of these, asked in this order.
    #[must_use]
    pub fn new(deciders: Vec<Arc<dyn Decider>>) -> Self {
        Self { deciders }
    }

    /// Whether nobody is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.deciders.is_empty()
    }
}

/// Part of a [`Chain`]: passes where all of its deciders pass, so that whoever asks it gives their silence its meaning.
#[derive(Clone, Default)]
pub struct Row(Chain);

impl Row {
    /// A row of these, asked in this order.
    #[must_use]
    pub fn new(deciders: Vec<Arc<dyn Decider>>) -> Self {
        Self(Chain::new(deciders))
    }
}

impl Decider for Row {
    fn decide(&self, question: &Question<'_>) -> Answer {
        self.0.ask(question).unwrap_or(Answer::Pass)
    }

    fn want(&self, hook: Hook) -> Want {
        self.0.want(hook)
    }

    fn want_of(&self, hook: Hook, peer: &Peer) -> Want {
        self.0.want_of(hook, peer)
    }

    fn silence(&self) -> Silence {
        self.0.silence()
    }

    fn effort(&self, hook: Hook, peer: &Peer) -> usize {
        self.0.effort(hook, peer)
    }
}

impl Chain {
    /// The first answer; else what the silence of those who passed means.
    fn ask(&self, question: &Question<'_>) -> Result<Answer, Silence> {
        let hook = question.hook();
        let mut silence = Silence::Abstains;
        for decider in self.deciders.iter().filter(|decider| decider.want(hook) != Want::Nothing) {
            match decider.decide(question) {
                Answer::Pass if decider.silence() == Silence::Denies => silence = Silence::Denies,
                Answer::Pass => {}
                answer @ (Answer::Now(_) | Answer::Later(_)) => return Ok(answer),
            }
        }
        Err(silence)
    }
}

impl Decider for Chain {
    fn decide(&self, question: &Question<'_>) -> Answer {
        self.ask(question)
            .unwrap_or_else(|silence| Answer::Now(unspoken(question.hook(), question.peer(), silence)))
    }

    fn renew(&self, question: &ConnectQuestion<'_>) -> Answer {
        let answers = self.deciders.iter().map(|decider| decider.renew(question));
        answers.into_iter().find(|answer| !matches!(answer, Answer::Pass)).unwrap_or(Answer::Pass)
    }

    fn want(&self, hook: Hook) -> Want {
        self.deciders.iter().fold(Want::Nothing, |want, decider| want.and(decider.want(hook)))
    }

    fn want_of(&self, hook: Hook, peer: &Peer) -> Want {
        self.deciders.iter().fold(Want::Nothing, |want, decider| want.and(decider.want_of(hook, peer)))
    }

    fn silence(&self) -> Silence {
        if self.deciders.iter().any(|decider| decider.silence() == Silence::Denies) {
            Silence::Denies
        } else {
            Silence::Abstains
        }
    }

    fn effort(&self, hook: Hook, peer: &Peer) -> usize {
        self.deciders.iter().map(|decider| decider.effort(hook, peer)).sum()
    }

    fn edition(&self) -> u64 {
        // Each one's only grows, so that their sum does.
        self.deciders.iter().map(|decider| decider.edition()).fold(0, u64::wrapping_add)
    }
}

/// The ruling where nobody spoke: the one place in which silence means something.
///
/// - A client with a grant: its grant said to ask, and nobody could be asked. Refused, or, once the grant is stale, as
///   undecided as its renewal. Never allowed: whoever gave the grant did not leave it out, but asked for it.
/// - Somebody passed whose silence [`Denies`](Silence::Denies): refused.
/// - Else those who were there told beforehand that they do not want to be asked, or nobody was there: allowed.
#[must_use]
pub fn unspoken(hook: Hook, peer: &Peer, silence: Silence) -> Ruling {
    if let Some(ruling) = peer.grant.as_deref().and_then(|grant| grant.unanswered(hook)) {
        return ruling;
    }
    match silence {
        Silence::Abstains => Ruling { source: Source::Unasked, verdict: allowed(hook) },
        Silence::Denies => Ruling { source: Source::Unknown, verdict: refused(hook, Refusal::default()) },
    }
}

/// "Yes, as it is", to a question of this hook.
#[must_use]
pub fn allowed(hook: Hook) -> Verdict {
    match hook {
        Hook::Connect => Verdict::Connect(Decision::Allow(None)),
        Hook::Publish | Hook::Deliver => Verdict::Publish(Decision::Allow(None)),
        Hook::Subscribe => Verdict::SubscribeAll(Decision::Allow(())),
    }
}

/// "No, like this", to a question of this hook.
#[must_use]
pub fn refused(hook: Hook, refusal: Refusal) -> Verdict {
    match hook {
        Hook::Connect => Verdict::Connect(Decision::Refuse(refusal)),
        Hook::Publish | Hook::Deliver => Verdict::Publish(Decision::Refuse(refusal)),
        Hook::Subscribe => Verdict::SubscribeAll(Decision::Refuse(refusal)),
    }
}
