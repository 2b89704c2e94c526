//! A decider that does as it is told and remembers what it was asked, and a sink that remembers what it was told.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use mproxy_codec::packet::FilterRequest;
use mproxy_codec::property::PropertyId;
use mproxy_core::Peer;
use mproxy_core::grant::GrantAnswer;
use mproxy_core::policy::{
    Answer, ConnectDecision, ConnectQuestion, Decider, Decision, ExchangeDecision, ExchangeQuestion,
    FilterChange, Foreseen, ForeseenDecision, Ground, Hook, Partial, Payload, Pending, PublishDecision,
    PublishQuestion, Refusal, RenewQuestion, Ruling, Silence, Source, SubscribeDecision, SubscribeQuestion,
    Supposed, Undecided, Want,
};
use mproxy_core::rule::{Act, AskedFilter, Who};
use mproxy_core::session::{Answered, OpenQuestion};
use mproxy_core::{Event, Sink, event::Kind};

use crate::verdict::{ScriptedDecision, Verdict};

/// A question, as far as tests look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuestionRecord {
    /// Which hook.
    pub hook: Hook,
    /// The topic of a PUBLISH, the client id of a CONNECT, the filters of a SUBSCRIBE joined by spaces.
    pub what: String,
    /// QoS of a PUBLISH, else 0.
    pub qos: u8,
    /// DUP flag of a PUBLISH.
    pub dup: bool,
    /// The payload of a PUBLISH, where it was shown; the password of a CONNECT; the data of an authentication.
    pub payload: Option<Vec<u8>>,
    /// How large the payload is.
    pub size: u64,
    /// The value of the user property called `id`, by which the simulator knows its packets again.
    pub id: Option<String>,
    /// Of a CONNECT: its Authentication Method is left to the broker.
    pub passes_auth: bool,
}

impl QuestionRecord {
    fn new(hook: Hook, what: String) -> Self {
        Self { hook, what, qos: 0, dup: false, payload: None, size: 0, id: None, passes_auth: false }
    }

    /// A CONNECT.
    #[must_use]
    pub fn connect(question: &ConnectQuestion<'_>) -> Self {
        let payload = question.connect.password.map(<[u8]>::to_vec);
        let passes_auth = question.passes_auth;
        Self { payload, passes_auth, ..Self::new(Hook::Connect, question.connect.client_id.into()) }
    }

    /// A renewal.
    #[must_use]
    pub fn renewal(question: &RenewQuestion<'_>) -> Self {
        Self::new(Hook::Connect, question.peer.client_id.to_string())
    }

    /// A step of an authentication: `"connect 1"` or `"again 2"`, and the method.
    #[must_use]
    pub fn exchange(question: &ExchangeQuestion<'_>) -> Self {
        let kind = if question.again { "again" } else { "connect" };
        let what = format!("{kind} {} {}", question.step, question.method);
        Self { payload: question.data.map(<[u8]>::to_vec), ..Self::new(Hook::Exchange, what) }
    }

    /// A SUBSCRIBE.
    #[must_use]
    pub fn subscribe(question: &SubscribeQuestion<'_>) -> Self {
        let filters: Vec<&str> = question.filters.iter().map(|one| one.filter.as_str()).collect();
        Self::new(Hook::Subscribe, filters.join(" "))
    }

    /// A PUBLISH or a delivery.
    #[must_use]
    pub fn publish(hook: Hook, question: &PublishQuestion<'_>) -> Self {
        let payload = match question.payload {
            Payload::Whole(payload) => Some(payload.to_vec()),
            Payload::Size(_) => None,
        };
        let id = question.properties.contains(PropertyId::UserProperty).then(|| {
            question.properties.user().find(|(name, _)| *name == "id").map(|(_, value)| value.to_owned())
        });
        Self {
            qos: question.qos as u8,
            dup: question.dup,
            size: question.payload.size(),
            payload,
            id: id.flatten(),
            ..Self::new(hook, question.topic.into())
        }
    }
}

/// What the script says to a question.
pub enum Reply {
    /// This, at once.
    Now(Verdict),
    /// The same, as a rule says it: it stands for all that is alike.
    Stands(Verdict),
    /// Something, when the test says so.
    Later,
    /// Nothing.
    Pass,
}

type Answering = Box<dyn FnMut(&QuestionRecord) -> Reply + Send>;

/// A verdict that is still to be said.
#[derive(Clone, Debug, Default)]
pub struct OpenVerdict(Arc<Mutex<Option<Verdict>>>);

impl OpenVerdict {
    /// The answer that comes when it is said.
    #[must_use]
    pub fn answer<D: ScriptedDecision>(&self) -> Pending<Answer<D>> {
        let said = self.clone();
        Box::pin(poll_fn(move |_| match said.0.lock().expect("no test panicked here").take() {
            None => Poll::Pending,
            Some(verdict) => Poll::Ready(Answer::Now(served(D::from_verdict(verdict)))),
        }))
    }

    /// Says it in answer to this question.
    ///
    /// # Panics
    /// It is not this question that waits for it.
    #[must_use]
    pub fn say(self, verdict: Verdict, question: OpenQuestion) -> Answered {
        *self.0.lock().expect("no test panicked here") = Some(verdict);
        // Polled by hand and once: the core never polls, and no runtime is needed to have an answer at a chosen moment.
        match pin!(question).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answered) => answered,
            Poll::Pending => panic!("another question waits for this verdict"),
        }
    }
}

/// The ruling of a service at [`ENDPOINT`].
fn served<D>(verdict: Result<D, Undecided>) -> Ruling<D> {
    Ruling { endpoint: Some(ENDPOINT.into()), ..Ruling::new(Source::Rpc, verdict) }
}

/// Where the service would be that a [`Script`] plays.
pub const ENDPOINT: &str = "http://hook";

/// A decider that is told how to answer.
pub struct Script {
    wants: Mutex<[Want; Hook::ALL.len()]>,
    answering: Mutex<Answering>,
    asked: Mutex<Vec<QuestionRecord>>,
    /// Of questions that were not answered at once, in the order in which they were asked.
    open: Mutex<VecDeque<OpenVerdict>>,
    edition: AtomicU64,
    /// The one Authentication Method that it takes; `None`: it takes all.
    method: Mutex<Option<String>>,
}

impl Script {
    /// Asks for all hooks but deliveries and authentications, without payloads; answers by `answering`.
    pub fn new(answering: impl FnMut(&QuestionRecord) -> Reply + Send + 'static) -> Self {
        Self {
            wants: Mutex::new([Want::Head, Want::Head, Want::Head, Want::Nothing, Want::Nothing]),
            answering: Mutex::new(Box::new(answering)),
            asked: Mutex::default(),
            open: Mutex::default(),
            edition: AtomicU64::new(0),
            method: Mutex::default(),
        }
    }

    /// From now on it takes this Authentication Method, and no other.
    pub fn take_only(&self, method: &str) {
        *self.method.lock().expect("no test panicked here") = Some(method.to_owned());
    }

    /// From now on this hook wants this.
    pub fn want(&self, hook: Hook, want: Want) {
        self.wants.lock().expect("no test panicked here")[hook as usize] = want;
    }

    /// From now on it answers like this.
    pub fn answer(&self, answering: impl FnMut(&QuestionRecord) -> Reply + Send + 'static) {
        *self.answering.lock().expect("no test panicked here") = Box::new(answering);
    }

    /// Its rules are others from now on.
    pub fn new_edition(&self) {
        self.edition.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes what was asked since the last time.
    pub fn take_questions(&self) -> Vec<QuestionRecord> {
        std::mem::take(&mut self.asked.lock().expect("no test panicked here"))
    }

    /// Takes the verdict on the first question that was not answered at once, and not taken before.
    pub fn open(&self) -> Option<OpenVerdict> {
        self.open.lock().expect("no test panicked here").pop_front()
    }

    fn reply<D: ScriptedDecision>(&self, asked: QuestionRecord) -> Answer<D> {
        let reply = (self.answering.lock().expect("no test panicked here"))(&asked);
        self.asked.lock().expect("no test panicked here").push(asked);
        match reply {
            Reply::Now(verdict) => Answer::Now(served(D::from_verdict(verdict))),
            Reply::Stands(verdict) => Answer::Now(Ruling::new(Source::Acl, D::from_verdict(verdict))),
            Reply::Later => {
                let open = OpenVerdict::default();
                let answer = open.answer();
                self.open.lock().expect("no test panicked here").push_back(open);
                Answer::Later(answer)
            }
            Reply::Pass => Answer::Pass(Silence::DENIES),
        }
    }
}

impl Decider for Script {
    fn connect(&self, question: &ConnectQuestion<'_>) -> Answer<ConnectDecision> {
        self.reply(QuestionRecord::connect(question))
    }

    fn publish(&self, question: &PublishQuestion<'_>) -> Answer<PublishDecision> {
        self.reply(QuestionRecord::publish(Hook::Publish, question))
    }

    fn subscribe(&self, question: &SubscribeQuestion<'_>) -> Answer<SubscribeDecision> {
        self.reply(QuestionRecord::subscribe(question))
    }

    fn deliver(&self, question: &PublishQuestion<'_>) -> Answer<PublishDecision> {
        self.reply(QuestionRecord::publish(Hook::Deliver, question))
    }

    fn renew(&self, question: &RenewQuestion<'_>) -> Answer<ConnectDecision> {
        self.reply(QuestionRecord::renewal(question))
    }

    fn exchange(&self, question: &ExchangeQuestion<'_>) -> Answer<ExchangeDecision> {
        self.reply(QuestionRecord::exchange(question))
    }

    fn takes_method(&self, method: &str) -> bool {
        let taken = self.method.lock().expect("no test panicked here");
        taken.as_ref().is_none_or(|taken| taken == method)
    }

    fn gives(&self, _source: Source) -> bool {
        true
    }

    fn explain(&self, _supposed: &Supposed<'_>) -> Foreseen {
        Foreseen::Asks(None)
    }

    fn edition(&self) -> u64 {
        self.edition.load(Ordering::Relaxed)
    }

    fn want(&self, hook: Hook) -> Want {
        self.wants.lock().expect("no test panicked here")[hook as usize]
    }
}

/// Asks a client's grant, as mproxy does before it asks anybody else.
#[derive(Clone, Copy, Debug)]
pub struct Granted;

impl Granted {
    fn message(act: Act, question: &PublishQuestion<'_>) -> Answer<PublishDecision> {
        let Some(grant) = &question.peer.grant else { return Answer::Pass(Silence::Abstains) };
        let (answer, part) = grant.judge_message(act, Who::from(&**question.peer), question.message());
        match answer {
            GrantAnswer::Ask => Answer::Pass(Silence::Abstains),
            GrantAnswer::Allow(()) => Answer::Now(Ruling::allow(Source::Grant)),
            GrantAnswer::Refuse(reason) => {
                let refusal = Refusal::new(reason).by(Ground::Grant(Arc::clone(grant), part));
                Answer::Now(Ruling::refuse(Source::Grant, refusal))
            }
        }
    }
}

impl Decider for Granted {
    fn publish(&self, question: &PublishQuestion<'_>) -> Answer<PublishDecision> {
        Self::message(Act::Publish, question)
    }

    fn subscribe(&self, question: &SubscribeQuestion<'_>) -> Answer<SubscribeDecision> {
        let Some(grant) = &question.peer.grant else { return Answer::Pass(Silence::Abstains) };
        let who = Who::from(&**question.peer);
        let word = |request: &FilterRequest<'_>| {
            let asked =
                AskedFilter { filter: request.filter.as_str(), qos: Some(request.qos), time: question.time };
            let (answer, part) = grant.judge_filter(who, asked);
            match answer {
                GrantAnswer::Ask => None,
                GrantAnswer::Allow(most) => Some(Decision::Allow(FilterChange {
                    filter: None,
                    max_qos: (most < request.qos).then_some(most),
                    ..FilterChange::default()
                })),
                GrantAnswer::Refuse(reason) => {
                    Some(Decision::Refuse(Refusal::new(reason).by(Ground::Grant(Arc::clone(grant), part))))
                }
            }
        };
        let part: Vec<_> = question.filters.iter().map(word).collect();
        Answer::Partial(Partial { source: Source::Grant, part })
    }

    fn deliver(&self, question: &PublishQuestion<'_>) -> Answer<PublishDecision> {
        match &question.peer.grant {
            Some(grant) if grant.receives() => Self::message(Act::Receive, question),
            Some(_) | None => Answer::Pass(Silence::Abstains),
        }
    }

    fn explain(&self, supposed: &Supposed<'_>) -> Foreseen {
        let passes = Foreseen::Passes(Silence::Abstains, Ground::Unsaid);
        let Some(grant) = &supposed.peer.grant else { return passes };
        let who = Who::from(&**supposed.peer);
        let (answer, part) = match supposed.act {
            Act::Subscribe => grant.judge_filter(who, supposed.filter()),
            act => {
                let (answer, part) = grant.judge_message(act, who, supposed.message());
                (answer.map(|()| supposed.qos), part)
            }
        };
        let verdict = match answer {
            GrantAnswer::Ask => return passes,
            GrantAnswer::Allow(qos) => Ok(qos),
            GrantAnswer::Refuse(reason) => Err(reason),
        };
        Foreseen::Decides(ForeseenDecision { verdict, ground: Ground::Grant(Arc::clone(grant), part) })
    }

    fn varies(&self, act: Act, name: &str, peer: &Peer) -> bool {
        peer.grant.as_ref().is_some_and(|grant| grant.varies(act, name, Who::from(peer)))
    }

    fn filter(&self, peer: &Peer, asked: AskedFilter<'_>) -> GrantAnswer<()> {
        match peer.grant.as_ref().map(|grant| grant.filter(Who::from(peer), asked)) {
            None | Some(GrantAnswer::Ask) => GrantAnswer::Ask,
            Some(GrantAnswer::Allow(_)) => GrantAnswer::Allow(()),
            Some(GrantAnswer::Refuse(reason)) => GrantAnswer::Refuse(reason),
        }
    }

    fn want(&self, hook: Hook) -> Want {
        if matches!(hook, Hook::Connect | Hook::Exchange) { Want::Nothing } else { Want::Head }
    }

    fn want_of(&self, hook: Hook, peer: &Peer) -> Want {
        match (&peer.grant, hook) {
            (None, _) | (_, Hook::Connect | Hook::Exchange) => Want::Nothing,
            (Some(grant), Hook::Deliver) if !grant.receives() => Want::Nothing,
            (Some(_), Hook::Publish | Hook::Subscribe | Hook::Deliver) => Want::Head,
        }
    }
}

/// A sink that wants what it is told to want. What it hears it hears through
/// [`Effect::Report`](mproxy_core::Effect::Report), so there is nothing to remember here.
pub struct Diary(pub Want);

impl Sink for Diary {
    fn report(&self, _event: Event) {}

    fn want(&self, kind: Kind) -> Want {
        match (kind, self.0) {
            (_, Want::Nothing) => Want::Nothing,
            (Kind::Publish, want) => want,
            // Only publishes have payloads.
            _ => Want::Head,
        }
    }
}
