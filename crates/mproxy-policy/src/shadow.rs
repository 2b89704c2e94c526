//! A second policy service that is asked the same as the one in force, and whose answers change nothing: what it would have
//! decided is compared, counted, and told to [`Watch`].
//!
//! - **Nobody waits for it.** Its question is made where the other one is, and asked in a task of its own. Beyond
//!   [`ROOM`] such questions are left out and counted.
//! - **It gets no password**, no step of an authentication, and no events; its commands are not taken.
//! - **What a grant decides** is asked of it, too, but only once in a while (see [`Shadow::of_grants`]).

use std::hash::{BuildHasher as _, RandomState};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mproxy_core::grant::GrantAnswer;
use mproxy_core::peer::Peer;
use mproxy_core::policy::{
    Answer, ConnectDecision, ConnectQuestion, Decider, ExchangeDecision, ExchangeQuestion, Foreseen, Hook,
    Payload, PublishDecision, PublishQuestion, RenewQuestion, Ruling, Source, SubscribeDecision,
    SubscribeQuestion, Supposed, Undecided, Want,
};
use mproxy_core::rule::{Act, AskedFilter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::comparison::{Compared, Comparison, Subject};
use crate::remote::{Remote, RemoteConfig, StartError};
use crate::watch::Watch;

/// Bytes of questions that are under way to the shadow at most, in KiB.
pub const ROOM: usize = 4 << 10;

/// What a question takes besides its text, in bytes: who asks, and the task.
const QUESTION: usize = 2 << 10;

/// The second service, and what is under way to it.
pub struct Shadow {
    remote: Arc<Remote>,
    watch: Arc<dyn Watch>,
    room: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Shadow {
    /// Starts connecting, and returns at once. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// As [`Remote::start`].
    pub fn start(config: RemoteConfig, watch: Arc<dyn Watch>) -> Result<Arc<Self>, StartError> {
        let health: Arc<dyn Watch> = Arc::new(HealthAlone(Arc::clone(&watch)));
        Ok(Arc::new(Self {
            remote: Remote::start_shadow(config, health)?,
            watch,
            room: Arc::new(Semaphore::new(ROOM)),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }))
    }

    /// The second service.
    #[must_use]
    pub const fn service(&self) -> &Arc<Remote> {
        &self.remote
    }

    /// The policy service in force, with each of its answers compared.
    #[must_use]
    pub fn of_service(self: &Arc<Self>, service: Arc<dyn Decider>) -> Arc<dyn Decider> {
        self.beside(service, NonZeroU32::MIN)
    }

    /// What grants decide, with one in so many answers compared. Answers that a session uses again are not asked of
    /// anybody, and so not compared either.
    #[must_use]
    pub fn of_grants(self: &Arc<Self>, grants: Arc<dyn Decider>, one_in: NonZeroU32) -> Arc<dyn Decider> {
        self.beside(grants, one_in)
    }

    fn beside(self: &Arc<Self>, decider: Arc<dyn Decider>, one_in: NonZeroU32) -> Arc<dyn Decider> {
        Arc::new(Beside {
            decider,
            shadow: Arc::clone(self),
            one_in,
            asked: AtomicU32::new(0),
            keys: RandomState::new(),
        })
    }

    /// Ends: what is under way is not compared any more.
    pub async fn stop(&self, grace: Duration) {
        self.stop.cancel();
        self.tasks.close();
        // The tasks end at once; the connections may take a moment to close.
        let _ = timeout(grace, self.tasks.wait()).await;
        self.remote.flush(Duration::ZERO).await;
    }

    /// Room for a question with so many bytes of text. `None`, and counted: the shadow is too slow for more.
    fn room(&self, hook: Hook, text: usize) -> Option<OwnedSemaphorePermit> {
        let size = (text + QUESTION).div_ceil(1 << 10);
        // Larger than all the room: it takes all of it, or would never be asked.
        let size = u32::try_from(size.min(ROOM)).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.room).try_acquire_many_owned(size).ok();
        if permit.is_none() {
            self.watch.shadow_skipped(hook);
        }
        permit
    }
}

/// Counts of the shadow's calls would be taken for those of the service in force: of what it does, only its health is told.
struct HealthAlone(Arc<dyn Watch>);

impl Watch for HealthAlone {
    fn endpoint(&self, url: &str, healthy: bool) {
        self.0.shadow_endpoint(url, healthy);
    }
}

/// An adviser, and a shadow that is asked what it is asked.
struct Beside {
    decider: Arc<dyn Decider>,
    shadow: Arc<Shadow>,
    one_in: NonZeroU32,
    asked: AtomicU32,
    /// Makes of the number of a question a number that nobody can foresee.
    keys: RandomState,
}

/// Who asks what, for the comparison that is told.
struct Asker {
    hook: Hook,
    peer: Arc<Peer>,
    subject: Subject,
}

impl Beside {
    /// The adviser's `answer`, which comes as if nobody else were asked. `ask` puts the question to the shadow.
    fn compared<D: Compared>(
        &self,
        answer: Answer<D>,
        size: usize,
        about: impl FnOnce() -> Asker,
        hook: Hook,
        ask: impl FnOnce(&Remote) -> Answer<D>,
    ) -> Answer<D> {
        // What passes is decided by others, and of what is known in part they decide the rest.
        if matches!(answer, Answer::Pass(_) | Answer::Partial(_)) || !self.is_sampled() {
            return answer;
        }
        let Some(permit) = self.shadow.room(hook, size) else { return answer };
        let asked = ask(&self.shadow.remote);
        let (tell, active) = oneshot::channel();
        self.shadow.spawn(asked, active, about(), permit);
        match answer {
            Answer::Now(ruling) => {
                // Nobody listens where mproxy is about to end.
                let _ = tell.send(ruling.verdict.clone());
                Answer::Now(ruling)
            }
            Answer::Later(pending) => Answer::Later(Box::pin(async move {
                let answer = pending.await;
                if let Answer::Now(ruling) = &answer {
                    let _ = tell.send(ruling.verdict.clone());
                }
                answer
            })),
            Answer::Pass(_) | Answer::Partial(_) => answer,
        }
    }

    fn is_sampled(&self) -> bool {
        if self.one_in == NonZeroU32::MIN {
            return true;
        }
        // Each as likely as any other, and not each tenth: of a client that sends ten messages in turn all are seen.
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        self.keys.hash_one(number).is_multiple_of(u64::from(self.one_in.get()))
    }

    fn message(
        &self,
        hook: Hook,
        answer: Answer<PublishDecision>,
        question: &PublishQuestion<'_>,
    ) -> Answer<PublishDecision> {
        let payload = match question.payload {
            Payload::Whole(bytes) => bytes.len(),
            Payload::Size(_) => 0,
        };
        let size = payload + question.topic.len() + question.properties.raw().len();
        let about = || Asker::new(hook, question.peer, Subject::Topic(question.topic.into()));
        self.compared(answer, size, about, hook, |shadow| match hook {
            Hook::Deliver => shadow.deliver(question),
            Hook::Connect | Hook::Publish | Hook::Subscribe | Hook::Exchange => shadow.publish(question),
        })
    }
}

impl Shadow {
    /// Waits for both answers, and tells what came of it.
    fn spawn<D: Compared>(
        &self,
        asked: Answer<D>,
        active: oneshot::Receiver<Result<D, Undecided>>,
        about: Asker,
        permit: OwnedSemaphorePermit,
    ) {
        let (watch, stop) = (Arc::clone(&self.watch), self.stop.clone());
        self.tasks.spawn(async move {
            let both = async {
                let shadow = verdict(asked).await;
                // The session ended before it was answered: there is nothing to compare with.
                Some((active.await.ok()?, shadow))
            };
            if let Some(Some((active, shadow))) = stop.run_until_cancelled_owned(both).await {
                let Asker { hook, peer, subject } = &about;
                let (active, shadow) = (Ok(active), shadow.ok_or(()));
                watch.shadow_compared(&Comparison::of(*hook, peer, subject, active, shadow));
            }
            drop(permit);
        });
    }
}

/// What the shadow says; `None`: it does not want to be asked.
async fn verdict<D: Compared>(mut answer: Answer<D>) -> Option<Result<D, Undecided>> {
    loop {
        match answer {
            Answer::Now(Ruling { verdict, .. }) => return Some(verdict),
            Answer::Later(pending) => answer = pending.await,
            Answer::Pass(_) | Answer::Partial(_) => return None,
        }
    }
}

impl Asker {
    fn new(hook: Hook, peer: &Arc<Peer>, subject: Subject) -> Self {
        Self { hook, peer: Arc::clone(peer), subject }
    }
}

impl Decider for Beside {
    fn connect(&self, question: &ConnectQuestion<'_>) -> Answer<ConnectDecision> {
        let answer = self.decider.connect(question);
        let about = || Asker::new(Hook::Connect, question.peer, Subject::Connection);
        self.compared(answer, question.packet.len(), about, Hook::Connect, |shadow| shadow.connect(question))
    }

    fn publish(&self, question: &PublishQuestion<'_>) -> Answer<PublishDecision> {
        self.message(Hook::Publish, self.decider.publish(question), question)
    }

    fn subscribe(&self, question: &SubscribeQuestion<'_>) -> Answer<SubscribeDecision> {
        let answer = self.decider.subscribe(question);
        let filters = || question.filters.iter().map(|request| request.filter.as_str());
        // They are kept twice: in the question, and to be told.
        let size = filters().map(|filter| 2 * (filter.len() + size_of::<&str>())).sum();
        let kept = || Subject::Filters(filters().map(Box::from).collect());
        let about = || Asker::new(Hook::Subscribe, question.peer, kept());
        self.compared(answer, size, about, Hook::Subscribe, |shadow| shadow.subscribe(question))
    }

    fn deliver(&self, question: &PublishQuestion<'_>) -> Answer<PublishDecision> {
        self.message(Hook::Deliver, self.decider.deliver(question), question)
    }

    fn exchange(&self, question: &ExchangeQuestion<'_>) -> Answer<ExchangeDecision> {
        // Its data is as good as a password, and a service that sees some of the steps can say nothing of them.
        self.decider.exchange(question)
    }

    fn takes_method(&self, method: &str) -> bool {
        self.decider.takes_method(method)
    }

    fn renew(&self, question: &RenewQuestion<'_>) -> Answer<ConnectDecision> {
        let answer = self.decider.renew(question);
        let about = || Asker::new(Hook::Connect, question.peer, Subject::Connection);
        self.compared(answer, 0, about, Hook::Connect, |shadow| shadow.renew(question))
    }

    fn gives(&self, source: Source) -> bool {
        self.decider.gives(source)
    }

    fn varies(&self, act: Act, name: &str, peer: &Peer) -> bool {
        self.decider.varies(act, name, peer)
    }

    fn filter(&self, peer: &Peer, asked: AskedFilter<'_>) -> GrantAnswer<()> {
        self.decider.filter(peer, asked)
    }

    fn explain(&self, supposed: &Supposed<'_>) -> Foreseen {
        self.decider.explain(supposed)
    }

    fn want(&self, hook: Hook) -> Want {
        self.decider.want(hook)
    }

    fn want_of(&self, hook: Hook, peer: &Peer) -> Want {
        self.decider.want_of(hook, peer)
    }

    fn effort(&self, hook: Hook, peer: &Peer) -> usize {
        self.decider.effort(hook, peer)
    }

    fn edition(&self) -> u64 {
        self.decider.edition()
    }
}
