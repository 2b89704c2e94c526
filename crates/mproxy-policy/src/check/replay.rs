//! Puts what a decision log has recorded to a service once more, and tells what it would decide otherwise, for those who are
//! about to change a policy. Asks and reads with the proxy's own code.
//!
//! A record is not the whole question (see `record`), so some are not put. It ends, whatever the service does: each
//! question has a deadline, and a service that leaves so many in a row unanswered is not asked any more.

mod record;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use mproxy_core::policy::{
    Action, ConnectDecision, Decision, FilterChange, Hook, PublishDecision, Refusal, SubscribeDecision,
    Undecided,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tonic::{Code, Status};

pub use self::record::{RecordedClient, RecordedFilter, RecordedMessage, RecordedQuestion};
use self::record::{ReplayedRecord, SkippedRecord, UnreadableRecord};
use super::calls::{CheckCalls, Connected};
use crate::contract::{AuthRequest, Examine, Hello, Rpc, ServiceClient, Wants};
use crate::remote::{Endpoint, RemoteTls, StartError, describe_status, undecided};

/// Questions that are at the service at once.
const AT_ONCE: usize = 16;

/// Questions in a row that the service may leave unanswered.
const UNANSWERED_MOST: u32 = 50;

/// As good as never: how long it may all take is up to who gives the records.
const NEVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// Which service is asked, and what about.
#[derive(Clone, Debug)]
pub struct ReplayConfig {
    /// The service.
    pub endpoint: Endpoint,
    /// For an `https://` one.
    pub tls: RemoteTls,
    /// Deadline of one question.
    pub timeout: Duration,
    /// Questions a second at most.
    pub rate: NonZeroU32,
    /// mproxy's version, for Hello.
    pub version: Arc<str>,
    /// Which records are put.
    pub choice: ReplayChoice,
}

/// Which records are put besides those of publishes, filters and deliveries that the service, a grant or a cached answer
/// decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplayChoice {
    /// Those of CONNECTs, without a password.
    pub connects: bool,
    /// Those of what the rule file decided, or nobody.
    pub rules: bool,
}

/// A line of a decision log.
#[derive(Clone, Debug)]
pub struct ReplayLine {
    /// Where it stands, for people.
    pub place: String,
    /// What it says; an error where it cannot be read.
    pub text: Result<String, String>,
}

/// What is told on the way.
#[derive(Debug)]
pub enum ReplayNews<'a> {
    /// The service would decide this otherwise.
    Difference(&'a ReplayDifference),
    /// This line is no record.
    Unreadable {
        /// Where it stands.
        place: &'a str,
        /// What is wrong with it.
        why: &'a str,
    },
}

/// What was decided otherwise.
#[derive(Clone, Debug)]
pub struct ReplayDifference {
    /// Where its record stands.
    pub place: String,
    /// What was asked.
    pub question: RecordedQuestion,
    /// What was decided.
    pub recorded: ReplayOutcome,
    /// Who had decided.
    pub source: Box<str>,
    /// What comes of it now.
    pub now: ReplayOutcome,
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplayOutcome {
    /// Allowed as it was.
    Allowed,
    /// Allowed with changes.
    Changed,
    /// Refused with this code, like this.
    Refused(u8, &'static str),
    /// The service does not want to be asked about it.
    NotAsked,
    /// The answer failed.
    Failed(String),
    /// The answer cannot be carried out.
    Unusable(String),
}

impl ReplayOutcome {
    /// `allowed`, `changed`, `refused`, `not_asked`, `failed` or `unusable`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Changed => "changed",
            Self::Refused(..) => "refused",
            Self::NotAsked => "not_asked",
            Self::Failed(_) => "failed",
            Self::Unusable(_) => "unusable",
        }
    }
}

impl fmt::Display for ReplayOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allowed | Self::Changed => f.write_str(self.name()),
            Self::NotAsked => f.write_str("not asked"),
            Self::Refused(code, "reject") => write!(f, "refused {code:#04x}"),
            Self::Refused(code, action) => write!(f, "refused {code:#04x} ({action})"),
            Self::Failed(detail) => write!(f, "failed answer ({detail})"),
            Self::Unusable(detail) => write!(f, "unusable answer ({detail})"),
        }
    }
}

/// How it came out.
#[derive(Clone, Debug, Default)]
pub struct ReplaySummary {
    /// The service's name, as its Hello says.
    pub service: String,
    /// Lines that were read.
    pub lines: u64,
    /// Of these, lines that are no records.
    pub unreadable: u64,
    /// Questions that were put, or would not be.
    pub compared: u64,
    /// Of these, those that would be decided otherwise.
    pub different: u64,
    /// Of these, those whose answer failed or cannot be carried out.
    pub failed: u64,
    /// Records that were not put, by the reason.
    pub skipped: BTreeMap<&'static str, u64>,
    /// Why the service could not be asked, or not to the end.
    pub stopped: Option<String>,
}

/// Puts what these lines have recorded, in their order.
///
/// # Errors
/// TLS cannot be set up with the certificates and keys given.
pub async fn replay(
    config: &ReplayConfig,
    lines: &mut mpsc::Receiver<ReplayLine>,
    tell: impl FnMut(ReplayNews<'_>),
) -> Result<ReplaySummary, StartError> {
    let until = Instant::now() + NEVER;
    let calls = CheckCalls::new(&config.endpoint, &config.tls, &config.version, config.timeout, until)?;
    let mut run = Replay {
        calls,
        config,
        tell,
        wants: Wants::everything(),
        summary: ReplaySummary::default(),
        asked: VecDeque::new(),
        unanswered: 0,
    };
    if let Err(why) = run.all(lines).await {
        run.summary.stopped = Some(why);
    }
    Ok(run.summary)
}

/// A replay on its way.
struct Replay<'a, T> {
    calls: CheckCalls,
    config: &'a ReplayConfig,
    tell: T,
    wants: Wants,
    summary: ReplaySummary,
    /// Questions that are at the service, in the order of their records.
    asked: VecDeque<ReplayedQuestion>,
    /// Questions in a row that were not answered.
    unanswered: u32,
}

/// A question that is at the service.
struct ReplayedQuestion {
    place: String,
    record: ReplayedRecord,
    answer: JoinHandle<ReplayAnswer>,
}

/// What came of a call: what it means, and whether the service has said anything.
struct ReplayAnswer {
    outcome: ReplayOutcome,
    answered: bool,
}

impl<T: FnMut(ReplayNews<'_>)> Replay<'_, T> {
    async fn all(&mut self, lines: &mut mpsc::Receiver<ReplayLine>) -> Result<(), String> {
        let Connected { hello, .. } = self.calls.connect().await?;
        match hello {
            Ok(Ok(Hello { name, wants, .. })) => {
                self.summary.service = name;
                self.wants = wants.unwrap_or_else(Wants::everything);
            }
            Ok(Err(why)) => return Err(why),
            Err(status) if status.code() == Code::Unimplemented => {}
            Err(status) => return Err(format!("Hello: {}", describe_status(&status))),
        }
        let mut pace = interval(Duration::from_secs(1) / self.config.rate.get());
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while let Some(line) = lines.recv().await {
            self.summary.lines += 1;
            let Some((place, record)) = self.read(line) else { continue };
            pace.tick().await;
            self.put(place, record).await?;
        }
        while !self.asked.is_empty() {
            self.hear().await?;
        }
        Ok(())
    }

    /// The record, if it is one that is put.
    fn read(&mut self, line: ReplayLine) -> Option<(String, ReplayedRecord)> {
        let ReplayLine { place, text } = line;
        let read = text.map_err(UnreadableRecord).and_then(|text| ReplayedRecord::parse(&text));
        let record = match read {
            Ok(record) => record,
            Err(UnreadableRecord(why)) => {
                self.summary.unreadable += 1;
                (self.tell)(ReplayNews::Unreadable { place: &place, why: &why });
                return None;
            }
        };
        let record = match record.choose(self.config.choice) {
            Ok(record) => record,
            Err(skipped) => {
                self.skip(skipped);
                return None;
            }
        };
        if !record.is_wanted(&self.wants) {
            // What a service refuses and does not want to be asked about any more is what nobody refuses.
            if record.is_by_service() && matches!(record.recorded, ReplayOutcome::Refused(..)) {
                self.compare(place, record, ReplayOutcome::NotAsked);
            } else {
                self.skip(SkippedRecord::NotWanted);
            }
            return None;
        }
        Some((place, record))
    }

    fn skip(&mut self, skipped: SkippedRecord) {
        *self.summary.skipped.entry(skipped.name()).or_default() += 1;
    }

    async fn put(&mut self, place: String, record: ReplayedRecord) -> Result<(), String> {
        if self.asked.len() >= AT_ONCE {
            self.hear().await?;
        }
        let (service, within) = (self.calls.service(record.rpc()).await?, self.config.timeout);
        let question = record.question.clone();
        let answer = tokio::spawn(async move { ask(&service, &question, within).await });
        self.asked.push_back(ReplayedQuestion { place, record, answer });
        Ok(())
    }

    /// Waits for the answer to the question that was put first.
    ///
    /// # Errors
    /// There is no use in asking on.
    async fn hear(&mut self) -> Result<(), String> {
        let Some(ReplayedQuestion { place, record, answer }) = self.asked.pop_front() else { return Ok(()) };
        let ReplayAnswer { outcome, answered } =
            answer.await.map_err(|error| format!("the question was not put: {error}"))?;
        self.compare(place, record, outcome);
        self.unanswered = if answered { 0 } else { self.unanswered + 1 };
        if self.unanswered >= UNANSWERED_MOST {
            return Err(format!("{UNANSWERED_MOST} questions in a row were not answered"));
        }
        Ok(())
    }

    fn compare(&mut self, place: String, record: ReplayedRecord, now: ReplayOutcome) {
        self.summary.compared += 1;
        if matches!(now, ReplayOutcome::Failed(_) | ReplayOutcome::Unusable(_)) {
            self.summary.failed += 1;
        }
        if now == record.recorded {
            return;
        }
        self.summary.different += 1;
        let ReplayedRecord { question, recorded, source, .. } = record;
        let difference = ReplayDifference { place, question, recorded, source, now };
        (self.tell)(ReplayNews::Difference(&difference));
    }
}

/// Asks, and says what came of it.
async fn ask(service: &ServiceClient, question: &RecordedQuestion, within: Duration) -> ReplayAnswer {
    match question {
        RecordedQuestion::Connect(client) => {
            call(service, client.question(), within, |decision| connect(&decision)).await
        }
        RecordedQuestion::Publish(client, message) => {
            call(service, message.publish(client), within, |decision| {
                changed_message(Hook::Publish, &decision, &message.topic, message.retain)
            })
            .await
        }
        RecordedQuestion::Deliver(client, message) => {
            call(service, message.deliver(client), within, |decision| {
                changed_message(Hook::Deliver, &decision, &message.topic, message.retain)
            })
            .await
        }
        RecordedQuestion::Subscribe(client, filter) => match filter.question(client) {
            Some(request) => call(service, request, within, |decision| filter.outcome(&decision)).await,
            // It was looked at when it was read.
            None => ReplayAnswer { outcome: ReplayOutcome::NotAsked, answered: true },
        },
    }
}

async fn call<R: Examine>(
    service: &ServiceClient,
    request: AuthRequest<R>,
    within: Duration,
    describe: impl FnOnce(R::Decision) -> ReplayOutcome,
) -> ReplayAnswer {
    let rpc = Rpc::from(R::HOOK);
    if let Err(unusable) = request.fits() {
        return ReplayAnswer { outcome: not_decided(unusable.into()), answered: true };
    }
    // Around the call's own deadline, which does not count the wait for a channel that is ready.
    let called = timeout(within, service.examine(request, within)).await;
    match called.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time"))) {
        Ok(examined) => ReplayAnswer {
            outcome: match examined.decision {
                Ok(decision) => describe(decision),
                Err(nothing) => not_decided(nothing),
            },
            answered: true,
        },
        Err(status) => {
            let gone = matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled | Code::Unavailable);
            ReplayAnswer {
                outcome: not_decided(undecided(rpc, &status)),
                answered: !gone && !crate::remote::is_transport_failure(&status),
            }
        }
    }
}

fn not_decided(undecided: Undecided) -> ReplayOutcome {
    match undecided {
        Undecided::Failed(failure) => ReplayOutcome::Failed(failure.to_string()),
        Undecided::Unusable(unusable) => {
            ReplayOutcome::Unusable(format!("{}: {}", unusable.kind.name(), unusable.detail))
        }
        Undecided::Overloaded(overload) => ReplayOutcome::Failed(overload.detail.into()),
    }
}

/// As a record has it: with what becomes of the packet.
fn refused(refusal: &Refusal, hook: Hook) -> ReplayOutcome {
    ReplayOutcome::Refused(refusal.reason.0, refusal.action.carried_out(hook).name())
}

fn allowed(changed: bool) -> ReplayOutcome {
    if changed { ReplayOutcome::Changed } else { ReplayOutcome::Allowed }
}

fn connect(decision: &ConnectDecision) -> ReplayOutcome {
    match decision {
        Decision::Allow(admission) => allowed(admission.is_some()),
        // Whatever becomes of the packet, the connection ends.
        Decision::Refuse(refusal) => ReplayOutcome::Refused(refusal.reason.0, Action::Reject.name()),
    }
}

/// A change that says what the message says anyway is none, as in the proxy.
fn changed_message(hook: Hook, decision: &PublishDecision, topic: &str, retain: bool) -> ReplayOutcome {
    match decision {
        Decision::Refuse(refusal) => refused(refusal, hook),
        Decision::Allow(None) => ReplayOutcome::Allowed,
        Decision::Allow(Some(change)) => {
            let mut change = (**change).clone();
            change.topic.take_if(|other| **other == *topic);
            change.retain.take_if(|other| *other == retain);
            allowed(!change.is_empty())
        }
    }
}

/// The same for the one filter that was asked about.
fn changed_filter(decision: &SubscribeDecision, filter: &str, qos: mproxy_codec::QoS) -> ReplayOutcome {
    let of = |one: &Decision<FilterChange>| match one {
        Decision::Refuse(refusal) => refused(refusal, Hook::Subscribe),
        Decision::Allow(change) => {
            let renamed = change.filter.as_deref().is_some_and(|other| other != filter);
            allowed(renamed || change.max_qos.is_some_and(|most| most < qos))
        }
    };
    match decision {
        SubscribeDecision::All(Decision::Allow(())) => ReplayOutcome::Allowed,
        SubscribeDecision::All(Decision::Refuse(refusal)) => refused(refusal, Hook::Subscribe),
        SubscribeDecision::Each(each) | SubscribeDecision::InPart(each, _) => {
            each.first().map_or(ReplayOutcome::NotAsked, of)
        }
    }
}
