//! Asks the rule file. Topics are decided at once; a password is verified on a blocking thread, so many at a time.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;
use mproxy_codec::packet::subscribe::FilterRequest;
use mproxy_codec::reason::ReasonCode;
use mproxy_codec::types::QoS;
use mproxy_core::chain::{allowed, refused};
use mproxy_core::peer::Peer;
use mproxy_core::policy::{
    About, Answer, ConnectQuestion, Decider, Decision, FilterChange, Hook, Overload, PublishQuestion,
    Question, Refusal, Ruling, Silence, Source, SubscribeQuestion, Verdict, Want,
};
use mproxy_core::rule::{Act, Message};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::password::Password;
use super::{Acl, AclErrors, Word};
use crate::partly::partly;

/// How long a CONNECT waits for its password to be verified, queue included. Half of the connect deadline: the
/// broker has to be dialled in the rest.
const VERIFIED_WITHIN: Duration = Duration::from_secs(5);

/// The rule file as an adviser. [`reload`](Self::reload) puts a new file in force under running sessions.
pub struct AclAdviser {
    acl: ArcSwap<Acl>,
    /// How often the rules were replaced.
    edition: AtomicU64,
    next: Option<Arc<dyn Decider>>,
    /// One permit for each password that is being verified: argon2 takes a whole core and 19 MiB each time.
    verifying: Arc<Semaphore>,
    within: Duration,
}

impl AclAdviser {
    /// An adviser after whom nobody is asked: what the file does not know is refused.
    #[must_use]
    pub fn alone(acl: Acl) -> Self {
        Self::new(acl, None)
    }

    /// An adviser that passes what the file does not know. `next` is whoever the chain asks after it; the file
    /// asks it directly where it knows only a part: some filters of a SUBSCRIBE, a user but not the will.
    #[must_use]
    pub fn before(acl: Acl, next: Arc<dyn Decider>) -> Self {
        Self::new(acl, Some(next))
    }

    fn new(acl: Acl, next: Option<Arc<dyn Decider>>) -> Self {
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self {
            acl: ArcSwap::from_pointee(acl),
            edition: AtomicU64::new(0),
            next,
            verifying: Arc::new(Semaphore::new(cores)),
            within: VERIFIED_WITHIN,
        }
    }

    /// Verifies so many passwords at once (one a core, if not said), and none longer than `within`
    /// (5 s, if not said): who waited in vain for a turn is refused as *overloaded*, whatever the failure rule.
    #[must_use]
    pub fn verifying(mut self, at_once: usize, within: Duration) -> Self {
        self.verifying = Arc::new(Semaphore::new(at_once.max(1)));
        self.within = within;
        self
    }

    /// Reads the file again. If anything is wrong with it, the old rules stay in force. Reads a file: not for a
    /// busy async thread. Rules that did not come from a file stay as they are.
    ///
    /// # Errors
    /// All that is wrong with the file.
    pub fn reload(&self) -> Result<(), AclErrors> {
        let path = self.acl.load().path.clone();
        if let Some(path) = path {
            self.replace(Acl::load(path)?);
        }
        Ok(())
    }

    /// Puts other rules in force.
    pub fn replace(&self, acl: Acl) {
        self.acl.store(Arc::new(acl));
        // Afterwards: who sees the new number asks the new rules.
        self.edition.fetch_add(1, Ordering::Release);
    }

    /// Users and rules in force.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        self.acl.load().size()
    }

    fn connect(&self, question: &ConnectQuestion<'_>) -> Answer {
        let acl = self.acl.load();
        // Who is in already may have been given another name.
        if !question.refresh && !acl.allows_name(question.peer) {
            let refusal = Refusal::new(ReasonCode::CLIENT_IDENTIFIER_NOT_VALID);
            return now(Decision::Refuse(refusal.about(About::ClientId)));
        }
        let will = will_word(&acl, question);
        let password = match question.connect.username {
            Some(name) => acl.users.get(name),
            // Who sends no name is somebody only where the file says so.
            None if acl.anonymous == Some(true) => return self.known(question, will),
            None if acl.knows_users() => {
                return self.unknown(will, Refusal::default().about(About::Username));
            }
            None => None,
        };
        match password {
            Some(_) if question.refresh => self.known(question, will),
            Some(password) => self.verify(password, About::Password, question, self.known(question, will)),
            None if !acl.knows_users() => match (will, &self.next) {
                (Word::Refuse(reason), _) => now(will_refused(reason)),
                (Word::Silence, None) => now(will_refused(ReasonCode::NOT_AUTHORIZED)),
                (Word::Allow(()), None) => now(Decision::Allow(())),
                // The file leaves it to others who somebody is; where nobody cares, nobody objects.
                (Word::Allow(()), Some(next)) if next.want(Hook::Connect) == Want::Nothing => {
                    now(Decision::Allow(()))
                }
                (Word::Allow(()) | Word::Silence, Some(_)) => Answer::Pass,
            },
            None => self.stranger(&acl, question, will),
        }
    }

    /// A client that the file knows. It stays to look at the will.
    fn known(&self, question: &ConnectQuestion<'_>, will: Word<()>) -> Answer {
        match (will, &self.next) {
            (Word::Allow(()), _) => now(Decision::Allow(())),
            (Word::Refuse(reason), _) => now(will_refused(reason)),
            (Word::Silence, None) => now(will_refused(ReasonCode::NOT_AUTHORIZED)),
            (Word::Silence, Some(next)) => match next.decide(&Question::Connect(*question)) {
                Answer::Pass => now(will_refused(ReasonCode::NOT_AUTHORIZED)),
                answer @ (Answer::Now(_) | Answer::Later(_)) => answer,
            },
        }
    }

    /// A client that the file does not know. A will that a rule refuses is refused whoever's it is.
    fn unknown(&self, will: Word<()>, refusal: Refusal) -> Answer {
        match (will, &self.next) {
            (_, None) => now(Decision::Refuse(refusal)),
            (Word::Refuse(reason), Some(_)) => now(will_refused(reason)),
            (Word::Allow(()) | Word::Silence, Some(_)) => Answer::Pass,
        }
    }

    /// A user name that is not in the file. Where nobody else is asked it must look like a wrong password, in
    /// time too: somebody's hash is worked on, and the outcome is not looked at.
    fn stranger(&self, acl: &Acl, question: &ConnectQuestion<'_>, will: Word<()>) -> Answer {
        let refusal = Refusal::new(ReasonCode::BAD_USER_NAME_OR_PASSWORD).about(About::Username);
        match acl.users.values().next() {
            Some(decoy) if self.next.is_none() => {
                self.verify(decoy, About::Username, question, now(Decision::Refuse(refusal)))
            }
            Some(_) | None => self.unknown(will, refusal),
        }
    }

    /// Verifies the password; if it is the right one, `then`. If not, that is about `about`.
    fn verify(
        &self,
        password: &Password,
        about: About,
        question: &ConnectQuestion<'_>,
        then: Answer,
    ) -> Answer {
        let deadline = Instant::now() + self.within;
        let permits = Arc::clone(&self.verifying);
        let password = password.clone();
        let given = question.connect.password.unwrap_or_default().to_vec();
        Answer::Later(Box::pin(async move {
            // All of it is work of our own: never a failed answer, which a failure rule could turn into a yes.
            let overloaded = |what: &str| ruling(Verdict::Overloaded(Overload::new("passwords", what)));
            let Ok(permit) = timeout_at(deadline, permits.acquire_owned()).await else {
                return overloaded("too many passwords to verify");
            };
            // The permit goes with the work: a client that leaves does not make room for another before the
            // core is free.
            let work = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                password.verify(&given)
            });
            match timeout_at(deadline, work).await {
                Err(_) => overloaded("verifying the password took too long"),
                Ok(Err(_)) => overloaded("verifying the password was cut short"),
                Ok(Ok(false)) => {
                    let refusal = Refusal::new(ReasonCode::BAD_USER_NAME_OR_PASSWORD);
                    ruling(refused(Hook::Connect, refusal.about(about)))
                }
                Ok(Ok(true)) => match then {
                    Answer::Now(ruling) => ruling,
                    Answer::Later(pending) => pending.await,
                    Answer::Pass => ruling(refused(Hook::Connect, Refusal::default())),
                },
            }
        }))
    }

    fn publish(&self, question: &PublishQuestion<'_>) -> Answer {
        let message = Message { topic: question.topic, qos: question.qos, retain: question.retain };
        self.message(Hook::Publish, Act::Publish, question.peer, message)
    }

    fn deliver(&self, question: &PublishQuestion<'_>) -> Answer {
        if !self.acl.load().receives {
            // Not a matter of this file: its silence must not deny what the next one wanted to be asked.
            let next =
                self.next.as_ref().map_or(Answer::Pass, |next| next.decide(&Question::Deliver(*question)));
            return match next {
                Answer::Pass => {
                    Answer::Now(Ruling { source: Source::Unasked, verdict: allowed(Hook::Deliver) })
                }
                answer @ (Answer::Now(_) | Answer::Later(_)) => answer,
            };
        }
        let message = Message { topic: question.topic, qos: question.qos, retain: question.retain };
        self.message(Hook::Deliver, Act::Receive, question.peer, message)
    }

    fn message(&self, hook: Hook, act: Act, peer: &Peer, message: Message<'_>) -> Answer {
        match self.acl.load().message(act, peer, message) {
            Word::Silence => Answer::Pass,
            Word::Allow(()) => Answer::Now(ruling(allowed(hook))),
            Word::Refuse(reason) => Answer::Now(ruling(refused(hook, Refusal::new(reason)))),
        }
    }

    fn subscribe(&self, question: &SubscribeQuestion<'_>) -> Answer {
        let acl = self.acl.load();
        let word = |request: &FilterRequest<'_>| acl.filter(question.peer, request.filter.as_str());
        let (mut silent, mut plain) = (0, true);
        for request in question.filters {
            match word(request) {
                Word::Silence => silent += 1,
                Word::Allow(max_qos) => plain &= max_qos >= request.qos,
                Word::Refuse(_) => plain = false,
            }
        }
        if silent == question.filters.len() {
            return Answer::Pass;
        }
        if silent == 0 && plain {
            return Answer::Now(ruling(allowed(Hook::Subscribe)));
        }
        let words = question.filters.iter().map(|request| judged(request, word(request))).collect();
        partly(Source::Acl, Silence::Denies, self.next.as_deref(), question, words)
    }
}

impl Decider for AclAdviser {
    fn decide(&self, question: &Question<'_>) -> Answer {
        match question {
            Question::Connect(question) => self.connect(question),
            Question::Publish(question) => self.publish(question),
            Question::Subscribe(question) => self.subscribe(question),
            Question::Deliver(question) => self.deliver(question),
        }
    }

    fn want(&self, hook: Hook) -> Want {
        match hook {
            Hook::Connect | Hook::Publish | Hook::Subscribe => Want::Head,
            Hook::Deliver if self.acl.load().receives => Want::Head,
            Hook::Deliver => Want::Nothing,
        }
    }

    fn silence(&self) -> Silence {
        Silence::Denies
    }

    fn edition(&self) -> u64 {
        self.edition.load(Ordering::Acquire)
    }
}

/// What the rules say of the will; no will is fine.
fn will_word(acl: &Acl, question: &ConnectQuestion<'_>) -> Word<()> {
    let Some(will) = &question.connect.will else { return Word::Allow(()) };
    let message = Message { topic: will.topic, qos: will.qos, retain: will.retain };
    acl.message(Act::Will, question.peer, message)
}

fn will_refused(reason: ReasonCode) -> Decision<()> {
    Decision::Refuse(Refusal::new(reason).about(About::Will))
}

fn ruling(verdict: Verdict) -> Ruling {
    Ruling { source: Source::Acl, verdict }
}

fn now(decision: Decision<()>) -> Answer {
    Answer::Now(ruling(match decision {
        Decision::Allow(()) => allowed(Hook::Connect),
        Decision::Refuse(refusal) => refused(Hook::Connect, refusal),
    }))
}

fn judged(request: &FilterRequest<'_>, word: Word<QoS>) -> Option<Decision<FilterChange>> {
    Some(match word {
        Word::Silence => return None,
        Word::Refuse(reason) => Decision::Refuse(Refusal::new(reason)),
        Word::Allow(max_qos) => {
            let max_qos = (max_qos < request.qos).then_some(max_qos);
            Decision::Allow(FilterChange { filter: None, max_qos })
        }
    })
}
