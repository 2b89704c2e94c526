//! Plays a fixed set of questions against a policy service, and tells what mproxy makes of each answer, for those who
//! write one. Asks and reads with the proxy's own code; needs no broker, no client and no configuration.
//!
//! It ends, whatever the service does: each call has a deadline, an RPC that is not answered five times in a row is not
//! called again, and the whole has [a limit](CheckConfig::limit).
//!
//! | room | holds |
//! |---|---|
//! | `clients` | the clients that are asked about |
//! | `questions` | the questions, and the events |
//! | `calls` | one connection to the service, made again where it is lost |
//! | `verdict` | what an answer means, in words |
//! | `doors` | what the answers say together: who gets in, and how far |
//! | `conversation` | one stream, message by message |
//! | `observe` | events over a stream |
//! | `control` | commands of the service |
//! | `decide` | questions over a stream |
//! | `report` | what is found |
//! | [`replay`] | what a decision log has recorded, put once more |

mod calls;
mod clients;
mod control;
mod conversation;
mod decide;
mod doors;
mod observe;
mod questions;
pub mod replay;
mod report;
mod verdict;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use mproxy_core::policy::ConnectDecision;
use tokio::time::Instant;
use tonic::Code;

use self::calls::{CheckCalls, CheckedCall, Connected};
use self::doors::Doors;
use self::questions::{Asking, CheckQuestion};
use self::report::Findings;
pub use self::report::{
    CheckReport, CheckedAnswer, CheckedFilter, CheckedResult, Finding, FindingLevel, HelloFacts,
    LatencyFigures, WantedFacts,
};
use crate::contract::{Examined, Hello, Rpc, Wants};
use crate::remote::{Endpoint, RemoteTls, StartError, describe_status, undecided};

/// As long as the time of calls is taken at most.
const MEASURED_WITHIN: Duration = Duration::from_secs(10);

/// What to check, and how.
#[derive(Clone, Debug)]
pub struct CheckConfig {
    /// The service.
    pub endpoint: Endpoint,
    /// For an `https://` one.
    pub tls: RemoteTls,
    /// Deadline of one question.
    pub timeout: Duration,
    /// CheckCalls whose time is taken.
    pub count: u32,
    /// mproxy's version, for Hello.
    pub version: Arc<str>,
}

impl CheckConfig {
    /// When the check ends at the latest; what was not asked until then is not asked.
    #[must_use]
    pub fn limit(&self) -> Duration {
        Duration::from_secs(30) + self.timeout.saturating_mul(20)
    }
}

/// Asks the service everything.
///
/// # Errors
/// TLS cannot be set up with the certificates and keys given.
pub async fn check(config: &CheckConfig) -> Result<CheckReport, StartError> {
    let mut calls = {
        let until = Instant::now() + config.limit();
        CheckCalls::new(&config.endpoint, &config.tls, &config.version, config.timeout, until)?
    };
    let mut report = CheckReport::new(config.endpoint.to_string());
    let connected = match calls.connect().await {
        Ok(connected) => connected,
        Err(why) => {
            report.unreachable = Some(why);
            return Ok(report);
        }
    };
    let mut run = Run {
        calls,
        report,
        findings: Findings::default(),
        doors: Doors::default(),
        unimplemented: Vec::new(),
    };
    if let Some(wants) = run.read_hello(connected) {
        run.ask_all(&wants, config).await;
        run.doors.judge(&wants, &mut run.findings);
    }
    Ok(CheckReport { findings: run.findings.into_sorted(), ..run.report })
}

/// A check on its way.
struct Run {
    calls: CheckCalls,
    report: CheckReport,
    findings: Findings,
    doors: Doors,
    /// Streams that the service does not implement, and what mproxy does instead.
    unimplemented: Vec<(&'static str, &'static str)>,
}

impl Run {
    /// What the service wants; `None`: it cannot be asked any further.
    fn read_hello(&mut self, Connected { hello, took }: Connected) -> Option<Wants> {
        let findings = &mut self.findings;
        let (name, wants, streams) = match hello {
            Ok(Ok(Hello { name, wants, streams })) => {
                if wants.is_none() {
                    findings.warn(
                        "hello_empty",
                        "Hello: the answer has no wants: as if Hello were UNIMPLEMENTED",
                    );
                }
                (name, wants, streams)
            }
            Ok(Err(why)) => {
                findings.error("hello_unusable", format!("{why}: mproxy does not use this service"), None);
                return None;
            }
            Err(status) if status.code() == Code::Unimplemented => {
                let text = "Hello is UNIMPLEMENTED: mproxy makes every call except AuthDeliver and AuthExchange, with payloads";
                findings.warn("hello_unimplemented", text);
                (String::new(), None, false)
            }
            Err(status) => {
                let text = format!("Hello: {}: mproxy does not use this service", describe_status(&status));
                findings.error("hello_failed", text, None);
                return None;
            }
        };
        self.doors.named_wants = wants.is_some();
        let wants = wants.unwrap_or_else(Wants::everything);
        self.report.hello = Some(HelloFacts {
            name,
            answered: self.doors.named_wants,
            wants: Rpc::ALL.iter().filter_map(|rpc| Some(WantedFacts::of(*rpc, wants.of(*rpc)?))).collect(),
            streams,
            took,
        });
        Some(wants)
    }

    async fn ask_all(&mut self, wants: &Wants, config: &CheckConfig) {
        let mut client = clients::plain();
        let mut asked = Vec::new();
        for question in questions::connects() {
            asked.push(question.clone());
            let admitted = self.put(question, wants, config).await;
            // Later questions are about this client as the answer made it, as they would be in the proxy.
            if let Some(admitted) = admitted {
                client = clients::admitted(&client, &admitted);
            }
        }
        for question in questions::after_connect(&client, wants) {
            asked.push(question.clone());
            self.put(question, wants, config).await;
        }
        if let Some(figures) = self.measure(&client, wants, config).await {
            self.report.latencies.push(figures);
        }
        // As in the proxy: a service that does not say that it serves streams is never asked for one.
        if self.report.hello.as_ref().is_some_and(|hello| hello.streams) {
            asked.retain(|question| wants.of(question.rpc).is_some());
            self.decide(&asked, questions::measured(&client, wants), config).await;
            self.observe(&client, wants, config).await;
            self.control(config).await;
            self.judge_streams();
        }
    }

    /// Asks one question, unless the service does not want it. What comes back is the answer for the client that is asked
    /// about later.
    async fn put(
        &mut self,
        question: CheckQuestion,
        wants: &Wants,
        config: &CheckConfig,
    ) -> Option<ConnectDecision> {
        let rpc = question.rpc;
        wants.of(rpc)?;
        let CheckQuestion { label, role, ask, .. } = question;
        let mut admitted = None;
        let answer = match ask {
            Asking::Nothing(why) => CheckedAnswer::not_asked(rpc.name(), label, why),
            Asking::Connect(request) => {
                let called = self.calls.ask(request).await;
                if let CheckedCall::Answered(Examined { decision: Ok(decision), .. }, _) = &called {
                    self.doors.connect(role, decision);
                    admitted = questions::is_main(role).then(|| decision.clone());
                }
                self.note(rpc, label, called, verdict::connect)
            }
            Asking::Publish(request) => {
                let called = self.calls.ask(request).await;
                self.note(rpc, label, called, verdict::message)
            }
            Asking::Deliver(request) => {
                let called = self.calls.ask(request).await;
                self.note(rpc, label, called, verdict::message)
            }
            Asking::Exchange(request) => {
                let called = self.calls.ask(request).await;
                if let CheckedCall::Answered(Examined { decision: Ok(decision), .. }, _) = &called {
                    self.doors.exchange(role, decision);
                }
                self.note(rpc, label, called, verdict::exchange)
            }
            Asking::Subscribe(request, filters) => {
                let called = self.calls.ask(request).await;
                if let CheckedCall::Answered(Examined { decision: Ok(decision), .. }, _) = &called {
                    self.doors.subscribe(role, decision);
                }
                self.note(rpc, label, called, |decision| verdict::subscribe(decision, &filters))
            }
            Asking::Event(event) => {
                let called = self.calls.tell(event).await;
                self.note_event(rpc, label, called)
            }
        };
        if let Some(took) = answer.took.filter(|_| answer.result.is_answer())
            // The service has nothing else to do here: under load it would be later still.
            && took > config.timeout / 2
        {
            let text =
                format!("{}: answers come later than half the deadline of {:?}", rpc.name(), config.timeout);
            self.findings.warn_of("slow", text, &answer.question);
        }
        self.report.answers.push(answer);
        admitted
    }

    /// What became of a question.
    fn note<D>(
        &mut self,
        rpc: Rpc,
        question: String,
        called: CheckedCall<Examined<D>>,
        describe: impl FnOnce(&D) -> verdict::Described,
    ) -> CheckedAnswer {
        let call = rpc.name();
        match called {
            CheckedCall::NotAsked(why) => {
                self.findings.error("not_asked", format!("{call}: not asked: {why}"), Some(&question));
                CheckedAnswer::not_asked(call, question, why)
            }
            CheckedCall::Failed(status, took) => {
                let described = verdict::undecided(call, &undecided(rpc, &status));
                let (code, text) = if status.code() == Code::Unimplemented {
                    let text = format!(
                        "{call}: UNIMPLEMENTED is a failed answer: implement it, or leave it out of the wants of Hello"
                    );
                    ("unimplemented", text)
                } else {
                    (described.result.name(), described.summary(call))
                };
                self.findings.error(code, text, Some(&question));
                described.into_answer(call, question, took)
            }
            CheckedCall::Answered(Examined { decision, fields, remarks }, took) => {
                for remark in remarks {
                    // What is legal and documented is said, and no reason to fail a check that is strict.
                    match remark.code {
                        "deny_without_code" | "grant_without_default" => {
                            self.findings.note_of(remark.code, remark.text, &question);
                        }
                        _ => self.findings.warn_of(remark.code, remark.text, &question),
                    }
                }
                let described = match &decision {
                    Ok(decision) => describe(decision),
                    Err(nothing) => {
                        let described = verdict::undecided(call, nothing);
                        let code = described.result.name();
                        self.findings.error(code, described.summary(call), Some(&question));
                        described
                    }
                };
                CheckedAnswer {
                    fields: fields.known,
                    unknown_fields: fields.unknown,
                    received: fields.text,
                    ..described.into_answer(call, question, took)
                }
            }
        }
    }

    fn note_event(&mut self, rpc: Rpc, question: String, called: CheckedCall<()>) -> CheckedAnswer {
        let call = rpc.name();
        match called {
            CheckedCall::NotAsked(why) => {
                self.findings.error("not_asked", format!("{call}: not sent: {why}"), Some(&question));
                CheckedAnswer::not_asked(call, question, why)
            }
            CheckedCall::Answered((), took) => {
                CheckedAnswer::new(call, question, CheckedResult::Received, took)
            }
            CheckedCall::Failed(status, took) if status.code() == Code::Unimplemented => {
                if self.doors.named_wants {
                    let text =
                        format!("{call}: Hello wants this event, and the service does not implement it");
                    self.findings.warn_of("event_unimplemented", text, &question);
                }
                CheckedAnswer::new(call, question, CheckedResult::NotWanted, took)
            }
            CheckedCall::Failed(status, took) => {
                let described = verdict::undecided(call, &undecided(rpc, &status));
                self.findings.error("event_failed", described.summary(call), Some(&question));
                described.into_answer(call, question, took)
            }
        }
    }

    /// One flag stands for all streams: a service may have its reasons to serve some, but hardly to serve none.
    fn judge_streams(&mut self) {
        let is_served =
            |answer: &CheckedAnswer| answer.way == "stream" && answer.result != CheckedResult::NotWanted;
        let any = self.report.answers.iter().any(is_served);
        for (stream, instead) in std::mem::take(&mut self.unimplemented) {
            let text = format!(
                "Hello says that streams are served, and {stream} is UNIMPLEMENTED: mproxy {instead}"
            );
            if any {
                self.findings.note("stream_unimplemented", text);
            } else {
                self.findings.warn("stream_unimplemented", text);
            }
        }
    }

    /// Takes the time of the question that is asked most often.
    async fn measure(
        &mut self,
        client: &Arc<mproxy_core::peer::Peer>,
        wants: &Wants,
        config: &CheckConfig,
    ) -> Option<LatencyFigures> {
        let CheckQuestion { rpc, ask, .. } = questions::measured(client, wants)?;
        let until = Instant::now() + MEASURED_WITHIN;
        let (mut times, mut failed) = (Vec::new(), 0);
        // One after the other: this is the time of an answer, not what the service can bear.
        for _ in 0..config.count {
            let took = match ask.clone() {
                Asking::Connect(request) => took(self.calls.ask(request).await),
                Asking::Publish(request) => took(self.calls.ask(request).await),
                Asking::Subscribe(request, _) => took(self.calls.ask(request).await),
                Asking::Deliver(request) => took(self.calls.ask(request).await),
                Asking::Exchange(request) => took(self.calls.ask(request).await),
                Asking::Event(_) | Asking::Nothing(_) => ControlFlow::Break(()),
            };
            match took {
                ControlFlow::Continue(Some(took)) => times.push(took),
                ControlFlow::Continue(None) => failed += 1,
                ControlFlow::Break(()) => break,
            }
            if Instant::now() >= until {
                break;
            }
        }
        let figures = LatencyFigures::of(rpc.name(), "unary", times, failed)?;
        if figures.p99 > config.timeout / 2 {
            let text = format!("{}: the p99 of its time is more than half the deadline", rpc.name());
            self.findings.warn("slow_p99", text);
        }
        Some(figures)
    }
}

/// How long an answer took; nothing where it failed, and an end where there will be none any more.
fn took<T>(called: CheckedCall<T>) -> ControlFlow<(), Option<Duration>> {
    match called {
        CheckedCall::Answered(_, took) => ControlFlow::Continue(Some(took)),
        CheckedCall::Failed(..) => ControlFlow::Continue(None),
        CheckedCall::NotAsked(_) => ControlFlow::Break(()),
    }
}
