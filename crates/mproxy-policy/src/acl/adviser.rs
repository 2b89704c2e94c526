//! Asks the rule file. Topics are decided at once; a password is verified on a blocking thread, so many at a time.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;
use mproxy_codec::frame::Header;
use mproxy_codec::packet::connect::Connect;
use mproxy_codec::packet::subscribe::FilterRequest;
use mproxy_codec::reason::ReasonCode;
use mproxy_codec::types::{QoS, Sender};
use mproxy_core::chain::{allowed, refused, unspoken};
use mproxy_core::peer::Peer;
use mproxy_core::policy::{
    About, Answer, ConnectQuestion, Decider, Decision, FilterChange, Hook, Overload, PublishQuestion,
    Question, Refusal, Ruling, Silence, Source, SubscribeQuestion, Verdict, Want,
};
use mproxy_core::rule::{Act, Message};
use tokio::time::{Instant, timeout_at};

use super::password::Password;
use super::queue::{Queue, SentAway};
use super::{Acl, AclErrors, Reloaded, Size, Word};
use crate::slices::Judge;

/// How long a CONNECT waits for its password to be verified, queue included. Half of the connect deadline: the
/// broker has to be dialled in the rest.
const VERIFIED_WITHIN: Duration = Duration::from_secs(5);

/// How many CONNECTs wait for that at most. An entry holds no copy of anything: some 200 bytes.
const WAITING: usize = 1024;

/// The rule file as an adviser. [`reload`](Self::reload) puts a new file in force under running sessions.
pub struct AclAdviser {
    acl: ArcSwap<Acl>,
    /// How often the rules were replaced.
    edition: AtomicU64,
    /// What a topic is held against, at most.
    patterns: AtomicUsize,
    next: Option<Arc<dyn Decider>>,
    /// A turn for each password that is being verified: argon2 takes a whole core and 19 MiB each time.
    queue: Arc<Queue>,
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
            patterns: AtomicUsize::new(acl.patterns()),
            acl: ArcSwap::from_pointee(acl),
            edition: AtomicU64::new(0),
            next,
            queue: Arc::new(Queue::new(cores, WAITING)),
            within: VERIFIED_WITHIN,
        }
    }

    /// Verifies so many passwords at once (one a core, if not said), and none longer than `within`
    /// (5 s, if not said): who waited in vain for a turn is refused as *overloaded*, whatever the failure rule.
    #[must_use]
    pub fn verifying(mut self, at_once: usize, within: Duration) -> Self {
        self.queue = Arc::new(Queue::new(at_once.max(1), WAITING));
        self.within = within;
        self
    }

    /// Reads the file again. If anything is wrong with it, or it has lost all users or all rules and does not say
    /// `allow_empty`, the old rules stay in force. Reads a file and may wait for who writes it: not for an async thread.
    /// Rules that did not come from a file stay as they are.
    ///
    /// # Errors
    /// All that is wrong with the file.
    pub fn reload(&self) -> Result<Reloaded, AclErrors> {
        let old = self.acl.load_full();
        if let Some(path) = &old.path {
            let acl = Acl::load(path)?;
            acl.may_follow(&old)?;
            self.replace(acl);
        }
        Ok(Reloaded { old: old.size(), new: self.size() })
    }

    /// Puts other rules in force.
    pub fn replace(&self, acl: Acl) {
        self.patterns.store(acl.patterns(), Ordering::Relaxed);
        self.acl.store(Arc::new(acl));
        // Afterwards: who sees the new number asks the new rules.
        self.edition.fetch_add(1, Ordering::Release);
    }

    /// Users and rules in force.
    #[must_use]
    pub fn size(&self) -> Size {
        self.acl.load().size()
    }

    fn connect(&self, question: &ConnectQuestion<'_>) -> Answer {
        // The file gives no grants, so it renews none.
        if question.refresh {
            return Answer::Pass;
        }
        let acl = self.acl.load();
        if !acl.allows_name(question.peer) {
            let refusal = Refusal::new(ReasonCode::CLIENT_IDENTIFIER_NOT_VALID);
            return now(Decision::Refuse(refusal.about(About::ClientId)));
        }
        let will = will_word(&acl, question);
        let password = match question.connect.username {
            Some(name) => acl.users.get(name),
            // Who sends no name is somebody only where the file says so.
            None if acl.anonymous == Some(true) => return self.known(will).answer(question),
            None if acl.knows_users() => {
                return self.unknown(will, Refusal::default().about(About::Username));
            }
            None => None,
        };
        match password {
            Some(password) => self.verify(password, About::Password, question, self.known(will)),
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
    fn known(&self, will: Word<()>) -> Then {
        match (will, &self.next) {
            (Word::Allow(()), _) => Then::Decide(Decision::Allow(())),
            (Word::Refuse(reason), _) => Then::Decide(will_refused(reason)),
            (Word::Silence, None) => Then::Decide(will_refused(ReasonCode::NOT_AUTHORIZED)),
            (Word::Silence, Some(next)) => Then::Ask(Arc::clone(next)),
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
                self.verify(decoy, About::Username, question, Then::Decide(Decision::Refuse(refusal)))
            }
            Some(_) | None => self.unknown(will, refusal),
        }
    }

    /// Verifies the password; if it is the right one, `then`. While it waits for its turn it holds the session's own
    /// bytes of the CONNECT, and asks nobody. If it is a wrong one, that is about `about`.
    fn verify(
        &self,
        password: &Password,
        about: About,
        question: &ConnectQuestion<'_>,
        then: Then,
    ) -> Answer {
        // A deadline of our own, of seconds.
        let deadline = Instant::now().checked_add(self.within).unwrap_or_else(Instant::now);
        let queue = Arc::clone(&self.queue);
        let (password, peer) = (password.clone(), Arc::clone(question.peer));
        let packet = question.packet.clone();
        Answer::Later(Box::pin(async move {
            // All of it is work of our own: never a failed answer, which a failure rule could turn into a yes.
            let overloaded = |what: &str| ruling(Verdict::Overloaded(Overload::new("passwords", what)));
            let turn = match timeout_at(deadline, queue.turn(peer.origin.remote.ip())).await {
                Ok(Ok(turn)) => turn,
                Ok(Err(SentAway)) => return overloaded("too many passwords to verify"),
                Err(_) => return overloaded("no turn to verify the password in time"),
            };
            let sent = packet.clone();
            // The turn goes with the work: a client that leaves does not make room for another before the core is
            // free.
            let work = tokio::task::spawn_blocking(move || {
                let _turn = turn;
                read_again(&sent).is_some_and(|connect| password.verify(connect.password.unwrap_or_default()))
            });
            match timeout_at(deadline, work).await {
                Err(_) => return overloaded("verifying the password took too long"),
                Ok(Err(_)) => return overloaded("verifying the password was cut short"),
                Ok(Ok(false)) => {
                    let refusal = Refusal::new(ReasonCode::BAD_USER_NAME_OR_PASSWORD).about(about);
                    return ruling(refused(Hook::Connect, refusal));
                }
                Ok(Ok(true)) => {}
            }
            let answer = match read_again(&packet) {
                Some(connect) => {
                    let (peer, packet) = (&peer, &packet);
                    then.answer(&ConnectQuestion { peer, connect: &connect, packet, refresh: false })
                }
                None => Answer::Pass,
            };
            match answer {
                Answer::Now(ruling) => ruling,
                Answer::Later(pending) => pending.await,
                Answer::Pass => ruling(refused(Hook::Connect, Refusal::default())),
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
                Answer::Pass => Answer::Now(unspoken(Hook::Deliver, question.peer, Silence::Abstains)),
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
        let (acl, peer) = (self.acl.load_full(), Arc::clone(question.peer));
        let judge = Judge {
            source: Source::Acl,
            next: self.next.clone(),
            rules: self.patterns.load(Ordering::Relaxed),
            word: move |request: &FilterRequest<'_>| {
                judged(request, acl.filter(&peer, request.filter.as_str()))
            },
        };
        judge.judge(question)
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

    fn effort(&self, _hook: Hook, _peer: &Peer) -> usize {
        self.patterns.load(Ordering::Relaxed)
    }

    fn edition(&self) -> u64 {
        self.edition.load(Ordering::Acquire)
    }
}

/// What follows for a client that is who it says.
enum Then {
    /// This.
    Decide(Decision<()>),
    /// What the next one says of its will.
    Ask(Arc<dyn Decider>),
}

impl Then {
    fn answer(self, question: &ConnectQuestion<'_>) -> Answer {
        match self {
            Self::Decide(decision) => now(decision),
            Self::Ask(next) => match next.decide(&Question::Connect(*question)) {
                Answer::Pass => now(will_refused(ReasonCode::NOT_AUTHORIZED)),
                answer @ (Answer::Now(_) | Answer::Later(_)) => answer,
            },
        }
    }
}

/// The CONNECT in its bytes, which were read before.
fn read_again(packet: &[u8]) -> Option<Connect<'_>> {
    let header = Header::parse(packet, Sender::Client, None).ok()??;
    Connect::parse(&header, packet).ok()
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
