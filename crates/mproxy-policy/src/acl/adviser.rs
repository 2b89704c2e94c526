//! Asks the rule file. Topics are decided at once; a password is verified on a blocking thread, so many at a time.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;
use mproxy_codec::packet::subscribe::FilterRequest;
use mproxy_codec::reason::ReasonCode;
use mproxy_codec::types::QoS;
use mproxy_core::grant::GrantAnswer;
use mproxy_core::neighbours::Neighbours;
use mproxy_core::peer::Peer;
use mproxy_core::policy::{
    About, Admission, Answer, ConnectDecision, ConnectQuestion, Decider, Decision, ExchangeDecision,
    ExchangeQuestion, FilterChange, Foreseen, Hook, KeptConnect, Overload, PublishDecision, PublishQuestion,
    Refusal, Ruling, Silence, Source, SubscribeDecision, SubscribeQuestion, Supposed, Want,
};
use mproxy_core::rule::{Act, AskedFilter};
use tokio::time::{Instant, timeout_at};

use super::connecting::{
    ClientIds, client_ids, judge_will, refuse, settle_will, takes_prefixed_id, will_refused, without_topics,
    wrong_name,
};
use super::password::Password;
use super::queue::{Evicted, TurnQueue};
use super::require::{CERTIFICATE_REQUIRED, ShownCredentials};
use super::{Acl, AclErrors, Reloaded, RuleAnswer, Size, token};
use crate::slices::FilterJudge;
use crate::watch::{NoWatch, Watch};

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
    unknown_users: UnknownUsers,
    /// A turn for each password that is being verified: argon2 takes a whole core and 19 MiB each time.
    queue: Arc<TurnQueue>,
    within: Duration,
    watch: Arc<dyn Watch>,
}

/// The key set by which tokens are verified, as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeySetState {
    /// Keys in it that verify tokens. None, once they are older than they may be.
    pub keys: usize,
    /// How long ago they were read. `None`: never.
    pub age: Option<Duration>,
}

/// What becomes of a client whose user name the file does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownUsers {
    /// It is refused, and not told from one with a wrong password. For a file after which nobody else is asked.
    Refuse,
    /// Others are asked about it.
    LeaveToOthers,
}

impl AclAdviser {
    /// An adviser that passes what the file does not know.
    #[must_use]
    pub fn new(acl: Acl, unknown_users: UnknownUsers) -> Self {
        Self::of(Arc::new(acl), unknown_users)
    }

    /// The same, of a file that others have, too.
    pub(super) fn of(acl: Arc<Acl>, unknown_users: UnknownUsers) -> Self {
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self {
            patterns: AtomicUsize::new(acl.patterns()),
            acl: ArcSwap::new(acl),
            edition: AtomicU64::new(0),
            unknown_users,
            queue: Arc::new(TurnQueue::new(cores, WAITING)),
            within: VERIFIED_WITHIN,
            watch: Arc::new(NoWatch),
        }
    }

    /// Tokens and readings of their keys are counted by this one.
    #[must_use]
    pub fn watched_by(mut self, watch: Arc<dyn Watch>) -> Self {
        if let Some(tokens) = &self.acl.load().tokens {
            tokens.watched_by(&watch);
        }
        self.watch = watch;
        self
    }

    /// The key set by which tokens are verified, if there is one.
    #[must_use]
    pub fn key_set(&self) -> Option<KeySetState> {
        let acl = self.acl.load();
        let (keys, age) = acl.tokens.as_ref()?.terms.key_set.as_ref()?.state();
        Some(KeySetState { keys, age })
    }

    /// Verifies so many passwords at once (one a core, if not said), and none longer than `within`
    /// (5 s, if not said): who waited in vain for a turn is refused as *overloaded*, whatever the failure rule.
    #[must_use]
    pub fn verifying(mut self, at_once: usize, within: Duration) -> Self {
        self.queue = Arc::new(TurnQueue::new(at_once.max(1), WAITING));
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
        let old = self.size();
        let path = self.acl.load().path.clone();
        if let Some(path) = path {
            self.replace(self.read(&path)?);
        }
        Ok(Reloaded { old, new: self.size() })
    }

    /// The rules of a file that may [take the place](Self::replace) of those in force: see [`reload`](Self::reload).
    ///
    /// # Errors
    /// All that is wrong with the file.
    pub fn read(&self, path: &Path) -> Result<Acl, AclErrors> {
        let acl = Acl::load(path)?;
        acl.may_follow(&self.acl.load())?;
        Ok(acl)
    }

    /// Whether the rules in force came from a file.
    #[must_use]
    pub fn is_of_file(&self) -> bool {
        self.acl.load().path.is_some()
    }

    /// Puts other rules in force.
    pub fn replace(&self, mut acl: Acl) {
        // What was fetched is as good as before, and its server may be away just now.
        if let (Some(tokens), Some(old)) = (&mut acl.tokens, &self.acl.load().tokens) {
            tokens.keep_keys(old);
        }
        if let Some(tokens) = &acl.tokens {
            tokens.watched_by(&self.watch);
        }
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

    fn admit(&self, question: &ConnectQuestion<'_>) -> Answer<ConnectDecision> {
        let acl = self.acl.load();
        // First: a token decides who somebody is, and is no certificate.
        if acl.lacks_certificate(question.peer) {
            return refuse(credentials_required(&acl, CERTIFICATE_REQUIRED));
        }
        if let Some(answer) = token::admit(&acl, question) {
            return answer;
        }
        let shown = acl.shown_by(question.peer);
        if let ShownCredentials::Lacks(what) = shown {
            return refuse(credentials_required(&acl, what));
        }
        if !acl.allows_name(question.peer) {
            return refuse(wrong_name(&acl));
        }
        let will = judge_will(&acl, question.peer, question);
        let password = match question.connect.username {
            Some(name) => acl.users.get(name).map(|user| &user.password),
            // Who sends no name is somebody only where the file says so.
            // No password is looked at: without a name there is none to hold it against.
            None if acl.anonymous == Some(true) => return admit_known_user(&acl, question, will),
            None if shown == ShownCredentials::Certificate => return admit_known_user(&acl, question, will),
            None if acl.knows_users() => {
                let refusal = Refusal::default().about(About::Username).by(acl.ground(None));
                return self.answer_unknown_user(&acl, will, refusal);
            }
            None => None,
        };
        match password {
            // What was found of the will is said after the password only: a stranger learns nothing of the rules.
            Some(password) => {
                let wrong = wrong_password(&acl, About::Password);
                self.verify(password, wrong, question, admit_known_user(&acl, question, will))
            }
            // A name that nobody has a password for is as good as none.
            None if shown == ShownCredentials::Certificate => admit_known_user(&acl, question, will),
            None if !acl.knows_users() => self.leave_user_to_others(&acl, question, will),
            None => self.refuse_unknown_user(&acl, question, will),
        }
    }

    /// The file leaves it to others who somebody is, and looks at the will only. Where nobody cares, nobody objects.
    fn leave_user_to_others(
        &self,
        acl: &Acl,
        question: &ConnectQuestion<'_>,
        will: RuleAnswer<()>,
    ) -> Answer<ConnectDecision> {
        match (will, self.unknown_users) {
            (_, UnknownUsers::Refuse) => admit_known_user(acl, question, will),
            (RuleAnswer::Allow(()), UnknownUsers::LeaveToOthers) => {
                Answer::Pass(Silence::Agrees(Source::Acl))
            }
            (RuleAnswer::Refuse(reason, rule), UnknownUsers::LeaveToOthers) => {
                refuse(will_refused(acl, reason, rule))
            }
            // Nor does the file say anything else of somebody whom others let in: no grant, and no name at the broker.
            (RuleAnswer::Silence, UnknownUsers::LeaveToOthers) => {
                Answer::Pass(Silence::Denies(Source::Acl, About::Will))
            }
        }
    }

    /// A client that the file does not know. A will that a rule refuses is refused whoever's it is.
    fn answer_unknown_user(
        &self,
        acl: &Acl,
        will: RuleAnswer<()>,
        refusal: Refusal,
    ) -> Answer<ConnectDecision> {
        match (will, self.unknown_users) {
            (_, UnknownUsers::Refuse) => refuse(refusal),
            (RuleAnswer::Refuse(reason, rule), UnknownUsers::LeaveToOthers) => {
                refuse(will_refused(acl, reason, rule))
            }
            (RuleAnswer::Allow(()) | RuleAnswer::Silence, UnknownUsers::LeaveToOthers) => {
                Answer::Pass(Silence::DENIES)
            }
        }
    }

    /// A user name that is not in the file. Where nobody else is asked it must look like a wrong password, in
    /// time too: somebody's hash is worked on, and the outcome is not looked at.
    fn refuse_unknown_user(
        &self,
        acl: &Acl,
        question: &ConnectQuestion<'_>,
        will: RuleAnswer<()>,
    ) -> Answer<ConnectDecision> {
        let refusal = wrong_password(acl, About::Username);
        match (acl.users.values().next(), self.unknown_users) {
            (Some(decoy), UnknownUsers::Refuse) => {
                self.verify(&decoy.password, refusal.clone(), question, refuse(refusal))
            }
            (Some(_) | None, _) => self.answer_unknown_user(acl, will, refusal),
        }
    }

    /// Verifies the password; if it is the right one, `then`. While it waits for its turn it holds the session's own
    /// bytes of the CONNECT. If it is a wrong one, `wrong`.
    fn verify(
        &self,
        password: &Password,
        wrong: Refusal,
        question: &ConnectQuestion<'_>,
        then: Answer<ConnectDecision>,
    ) -> Answer<ConnectDecision> {
        // A deadline of our own, of seconds.
        let deadline = Instant::now().checked_add(self.within).unwrap_or_else(Instant::now);
        let queue = Arc::clone(&self.queue);
        let (password, address) = (password.clone(), Neighbours::from(&question.peer.origin.remote));
        // The packet's own bytes, shared: a copy of each password that waits would be a flood's cheapest way to memory.
        let kept = KeptConnect::of(question);
        Answer::Later(Box::pin(async move {
            // All of it is work of our own: never a failed answer, which a failure rule could turn into a yes.
            let overloaded = |what: &str| {
                let overload = Overload::new("passwords", what);
                Answer::Now(Ruling::new(Source::Acl, Err(overload.into())))
            };
            let turn = match timeout_at(deadline, queue.turn(address)).await {
                Ok(Ok(turn)) => turn,
                Ok(Err(Evicted)) => return overloaded("too many passwords to verify"),
                Err(_) => return overloaded("no turn to verify the password in time"),
            };
            // The turn goes with the work: a client that leaves does not make room for another before the core is
            // free.
            let work = tokio::task::spawn_blocking(move || {
                let _turn = turn;
                kept.connect().is_some_and(|connect| password.verify(connect.password.unwrap_or_default()))
            });
            match timeout_at(deadline, work).await {
                Err(_) => overloaded("verifying the password took too long"),
                // Panicked, or the runtime ends. Neither is a wrong password, which a client would stop at.
                Ok(Err(_)) => overloaded("verifying the password was cut short"),
                Ok(Ok(false)) => refuse(wrong),
                Ok(Ok(true)) => then,
            }
        }))
    }

    fn message(&self, act: Act, question: &PublishQuestion<'_>) -> Answer<PublishDecision> {
        let acl = self.acl.load();
        match acl.message(act, question.peer, question.message()) {
            RuleAnswer::Silence => Answer::Pass(Silence::DENIES),
            RuleAnswer::Allow(()) => Answer::Now(Ruling::allow(Source::Acl)),
            RuleAnswer::Refuse(reason, rule) => {
                let refusal = Refusal::new(reason).by(acl.ground(Some(rule)));
                Answer::Now(Ruling::refuse(Source::Acl, refusal))
            }
        }
    }
}

impl Decider for AclAdviser {
    fn connect(&self, question: &ConnectQuestion<'_>) -> Answer<ConnectDecision> {
        let answer = self.admit(question);
        let acl = self.acl.load();
        match answer {
            // Whoever lets it in gives it no prefix of this file's.
            Answer::Pass(_) if takes_prefixed_id(&acl, question.peer) => refuse(wrong_name(&acl)),
            answer => answer,
        }
    }

    fn publish(&self, question: &PublishQuestion<'_>) -> Answer<PublishDecision> {
        self.message(Act::Publish, question)
    }

    fn subscribe(&self, question: &SubscribeQuestion<'_>) -> Answer<SubscribeDecision> {
        let (acl, peer, time) = (self.acl.load_full(), Arc::clone(question.peer), question.time);
        let judge = FilterJudge {
            source: Source::Acl,
            silence: Silence::DENIES,
            rules: self.patterns.load(Ordering::Relaxed),
            decide: move |request: &FilterRequest<'_>| {
                let asked = AskedFilter { filter: request.filter.as_str(), qos: Some(request.qos), time };
                filter_decision(&acl, request, acl.filter(&peer, asked))
            },
        };
        judge.judge(question)
    }

    fn deliver(&self, question: &PublishQuestion<'_>) -> Answer<PublishDecision> {
        if !self.acl.load().receives {
            // Not a matter of this file: its silence must not deny what the next one wanted to be asked.
            return Answer::Pass(Silence::Abstains);
        }
        self.message(Act::Receive, question)
    }

    fn exchange(&self, question: &ExchangeQuestion<'_>) -> Answer<ExchangeDecision> {
        token::reauthenticate(&self.acl.load(), question)
    }

    fn takes_method(&self, method: &str) -> bool {
        self.acl.load().tokens.as_ref().is_some_and(|tokens| tokens.takes_method(method))
    }

    fn filter(&self, peer: &Peer, asked: AskedFilter<'_>) -> GrantAnswer<()> {
        match self.acl.load().filter(peer, asked) {
            RuleAnswer::Silence => GrantAnswer::Ask,
            RuleAnswer::Allow(_) => GrantAnswer::Allow(()),
            RuleAnswer::Refuse(reason, _) => GrantAnswer::Refuse(reason),
        }
    }

    fn varies(&self, act: Act, name: &str, peer: &Peer) -> bool {
        self.acl.load().varies(act, name, peer)
    }

    fn explain(&self, supposed: &Supposed<'_>) -> Foreseen {
        self.acl.load().foresee(supposed)
    }

    fn want(&self, hook: Hook) -> Want {
        match hook {
            Hook::Connect | Hook::Publish | Hook::Subscribe => Want::Head,
            // So that a session whose deliveries nobody judges parses none of them.
            Hook::Deliver if self.acl.load().receives => Want::Head,
            // Tokens in AUTH, by a method that the file names.
            Hook::Exchange if self.acl.load().tokens.as_ref().is_some_and(|own| own.method.is_some()) => {
                Want::Head
            }
            Hook::Deliver | Hook::Exchange => Want::Nothing,
        }
    }

    fn effort(&self, _hook: Hook, _peer: &Peer) -> usize {
        self.patterns.load(Ordering::Relaxed)
    }

    fn edition(&self) -> u64 {
        self.edition.load(Ordering::Acquire)
    }
}

/// A client that the file knows. It stays to look at the will: what no rule speaks of is refused, unless somebody else
/// allows the client with it.
fn admit_known_user(
    acl: &Acl,
    question: &ConnectQuestion<'_>,
    will: RuleAnswer<()>,
) -> Answer<ConnectDecision> {
    let peer = acl.with_groups(question.peer);
    let grant = match acl.grant_for(&peer, question.time) {
        Ok(grant) => grant,
        Err(why) => return refuse(without_topics(acl, why)),
    };
    let ids = match client_ids(acl, &peer) {
        Ok(ids) => ids,
        Err(refusal) => return refuse(refusal),
    };
    let broker_login = acl.broker_login.clone();
    if grant.is_none() && peer.attributes.is_empty() && ids == ClientIds::default() && broker_login.is_none()
    {
        return match will {
            RuleAnswer::Allow(()) => Answer::Now(Ruling::allow(Source::Acl)),
            RuleAnswer::Refuse(reason, rule) => refuse(will_refused(acl, reason, rule)),
            RuleAnswer::Silence => Answer::Pass(Silence::Denies(Source::Acl, About::Will)),
        };
    }
    // Another adviser's yes would come without the grant.
    if let Err(refusal) = settle_will(acl, &peer, question, grant.as_ref()) {
        return refuse(refusal);
    }
    let attributes = peer.attributes.to_vec();
    let admission = Admission {
        client_id: ids.own,
        attributes,
        grant: grant.map(Arc::new),
        broker_client_id: ids.at_broker,
        broker_login,
        ..Admission::default()
    };
    Answer::Now(Ruling::new(Source::Acl, Ok(Decision::Allow(Some(Box::new(admission))))))
}

fn credentials_required(acl: &Acl, what: &str) -> Refusal {
    let refusal = Refusal { text: Some(what.into()), ..Refusal::default() };
    refusal.about(About::Credentials).by(acl.ground(None))
}

fn wrong_password(acl: &Acl, about: About) -> Refusal {
    Refusal::new(ReasonCode::BAD_USER_NAME_OR_PASSWORD).about(about).by(acl.ground(None))
}

fn filter_decision(
    acl: &Acl,
    request: &FilterRequest<'_>,
    answer: RuleAnswer<QoS>,
) -> Option<Decision<FilterChange>> {
    Some(match answer {
        RuleAnswer::Silence => return None,
        RuleAnswer::Refuse(reason, rule) => Decision::Refuse(Refusal::new(reason).by(acl.ground(Some(rule)))),
        RuleAnswer::Allow(max_qos) => {
            let max_qos = (max_qos < request.qos).then_some(max_qos);
            Decision::Allow(FilterChange { filter: None, max_qos, ..FilterChange::default() })
        }
    })
}
