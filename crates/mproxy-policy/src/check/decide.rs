//! Questions over HookStream.Decide: one alone, all in one batch, clients by reference, and a reconnect. What the service
//! says there is held against what it said to the call with the same question.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use mproxy_core::peer::Peer;
use tokio::time::Instant;

use super::calls::CheckedCall;
use super::conversation::{Conversation, StreamTrouble};
use super::questions::{Asking, CheckQuestion};
use super::{CheckConfig, CheckedAnswer, CheckedResult, LatencyFigures, MEASURED_WITHIN, Run, verdict};
use crate::contract::{
    AuthRequest, DecideMessage, EncodedClient, Examine, Examined, StreamAnswer, StreamQuestion, StreamRpc,
    read_answers,
};

/// The stream, and who was introduced on it.
struct Deciding {
    talk: Conversation,
    clients: Vec<Arc<Peer>>,
    next_id: u64,
}

/// A batch that was answered.
struct AnsweredBatch {
    messages: usize,
    in_order: bool,
    took: Duration,
}

impl Asking {
    fn for_stream(&self) -> Option<StreamQuestion> {
        match self {
            Self::Connect(request) => request.for_stream(),
            Self::Publish(request) => request.for_stream(),
            Self::Subscribe(request, _) => request.for_stream(),
            Self::Deliver(request) => request.for_stream(),
            Self::Exchange(request) => request.for_stream(),
            Self::Event(_) | Self::Nothing(_) => None,
        }
    }
}

impl Run {
    /// `measured`: the question whose time is taken.
    pub(super) async fn decide(
        &mut self,
        asked: &[CheckQuestion],
        measured: Option<CheckQuestion>,
        config: &CheckConfig,
    ) {
        // Events, and what the proxy would not ask, do not go over this stream.
        let asked: Vec<&CheckQuestion> =
            asked.iter().filter(|question| question.ask.for_stream().is_some()).collect();
        let (Some(first), Some(last)) = (asked.first(), asked.last()) else { return };
        let played = async {
            let mut stream = self.play_decide(&asked, [first, last], config).await?;
            match measured {
                Some(measured) => self.measure_decide(&mut stream, &measured, config).await,
                None => Ok(()),
            }
        };
        if let Err(trouble) = played.await {
            match &trouble {
                StreamTrouble::Unimplemented => self.unimplemented.push(("Decide", "asks by calls")),
                StreamTrouble::Other(text) => {
                    self.findings.error("decide_failed", format!("Decide: {text}"), None);
                }
            }
        }
    }

    async fn play_decide(
        &mut self,
        all: &[&CheckQuestion],
        [first, last]: [&CheckQuestion; 2],
        config: &CheckConfig,
    ) -> Result<Deciding, StreamTrouble> {
        let mut stream = Deciding::open(self).await?;
        self.batch(&mut stream, "one question", &[first], config).await?;
        self.batch(&mut stream, "all questions in one batch", all, config).await?;
        // The first reference means the last client from now on.
        stream.forget()?;
        self.batch(&mut stream, "references used again for other clients", &[last, first], config).await?;
        let mut again = Deciding::open(self).await?;
        self.batch(&mut again, "after a reconnect", &[last, first], config).await?;
        Ok(again)
    }

    /// Asks all of these in one message, and waits for their answers.
    async fn batch(
        &mut self,
        stream: &mut Deciding,
        title: &str,
        questions: &[&CheckQuestion],
        config: &CheckConfig,
    ) -> Result<(), StreamTrouble> {
        let mut open: HashMap<u64, &CheckQuestion> = HashMap::new();
        let ids = stream.ask(questions, config.timeout)?;
        open.extend(ids.iter().copied().zip(questions.iter().copied()));
        let began = Instant::now();
        let deadline = (began + config.timeout).min(self.calls.until());
        let (mut order, mut messages) = (Vec::new(), 0);
        let mut trouble = None;
        while !open.is_empty() && trouble.is_none() {
            let answers = match stream.talk.receive(deadline).await {
                Ok(message) => read_answers(message),
                Err(other) => {
                    trouble = Some(other);
                    break;
                }
            };
            let answers = match answers {
                Ok(answers) => answers,
                Err(status) => {
                    trouble = Some(status.into());
                    break;
                }
            };
            messages += usize::from(answers.len() > 0);
            for (id, answer) in answers {
                match open.remove(&id) {
                    Some(question) => {
                        order.push(id);
                        self.read_streamed(title, question, answer, began.elapsed());
                    }
                    // An earlier question's second answer may come with those to later ones.
                    None => self.stray(title, id, (1..stream.next_id).contains(&id)),
                }
            }
        }
        if let Some(trouble) = trouble {
            return self.unanswered(title, &open, trouble, began.elapsed());
        }
        // Told and not judged: answers may come in any order.
        let in_order = order.is_sorted();
        self.answered(title, questions.len(), &AnsweredBatch { messages, in_order, took: began.elapsed() });
        Ok(())
    }

    /// An answer that nobody waits for.
    fn stray(&mut self, title: &str, id: u64, was_asked: bool) {
        if was_asked {
            let text = "Decide: a question was answered twice: mproxy counts the second answer and drops it";
            self.findings.warn_of("answered_twice", text, title);
        } else {
            let text = format!(
                "Decide: an answer has the id {id}, which no question has: mproxy counts it and drops it"
            );
            self.findings.error("unknown_id", text, Some(title));
        }
    }

    /// The stream ended, or the time: what is left of a batch has failed.
    fn unanswered(
        &mut self,
        title: &str,
        open: &HashMap<u64, &CheckQuestion>,
        trouble: StreamTrouble,
        took: Duration,
    ) -> Result<(), StreamTrouble> {
        if let StreamTrouble::Other(text) = &trouble {
            for question in open.values() {
                let label = format!("{} ({title})", question.label);
                let described = format!("{}: failed answer: {text}", question.rpc.name());
                self.findings.error("failed", described, Some(&label));
                let answer = CheckedAnswer::new(question.rpc.name(), label, CheckedResult::Failed, took);
                let details = vec![text.clone()];
                self.report.answers.push(CheckedAnswer { way: "stream", details, ..answer });
            }
        }
        Err(trouble)
    }

    fn answered(&mut self, title: &str, count: usize, batch: &AnsweredBatch) {
        let AnsweredBatch { messages, in_order, took } = batch;
        let order = if *in_order { "in order" } else { "in another order" };
        let plural = |count: usize| if count == 1 { "" } else { "s" };
        let details = vec![format!(
            "{count} question{} answered in {messages} message{}, {order}",
            plural(count),
            plural(*messages)
        )];
        let answer = CheckedAnswer::new("Decide", title.to_owned(), CheckedResult::Received, *took);
        self.report.answers.push(CheckedAnswer { way: "stream", details, ..answer });
    }

    /// Reads an answer as the proxy does, and holds it against that of the call.
    fn read_streamed(
        &mut self,
        title: &str,
        question: &CheckQuestion,
        answer: Option<StreamAnswer>,
        took: Duration,
    ) {
        let CheckQuestion { rpc, label, ask, .. } = question.clone();
        let told = format!("{label} ({title})");
        let read = match ask {
            Asking::Connect(request) => {
                self.note(rpc, told, examined(request, answer, took), verdict::connect)
            }
            Asking::Publish(request) => {
                self.note(rpc, told, examined(request, answer, took), verdict::message)
            }
            Asking::Deliver(request) => {
                self.note(rpc, told, examined(request, answer, took), verdict::message)
            }
            Asking::Exchange(request) => {
                self.note(rpc, told, examined(request, answer, took), verdict::exchange)
            }
            Asking::Subscribe(request, filters) => {
                let called = examined(request, answer, took);
                self.note(rpc, told, called, |decision| verdict::subscribe(decision, &filters))
            }
            Asking::Event(_) | Asking::Nothing(_) => return,
        };
        let by_call = self.report.answers.iter().find(|by_call| {
            (by_call.call, by_call.way, by_call.question.as_str()) == (rpc.name(), "unary", label.as_str())
        });
        if let Some(by_call) = by_call
            && by_call.result.is_answer()
            // A call that failed says nothing about what the stream should have said.
            && read.result.is_answer()
            && (by_call.result, by_call.reason_code) != (read.result, read.reason_code)
        {
            let text = format!(
                "{}: the stream answers otherwise than the call did: does the service keep clients apart by client_ref?",
                rpc.name()
            );
            self.findings.warn_of("stream_differs", text, &read.question);
        }
        self.report.answers.push(CheckedAnswer { way: "stream", ..read });
    }

    async fn measure_decide(
        &mut self,
        stream: &mut Deciding,
        question: &CheckQuestion,
        config: &CheckConfig,
    ) -> Result<(), StreamTrouble> {
        let until = (Instant::now() + MEASURED_WITHIN).min(self.calls.until());
        let mut times = Vec::new();
        for _ in 0..config.count {
            let began = Instant::now();
            let ids = stream.ask(&[question], config.timeout)?;
            let deadline = began + config.timeout;
            // Second answers to earlier questions may come in between.
            while read_answers(stream.talk.receive(deadline).await?)?.all(|(id, _)| !ids.contains(&id)) {}
            times.push(began.elapsed());
            if Instant::now() >= until {
                break;
            }
        }
        self.report.latencies.extend(LatencyFigures::of(question.rpc.name(), "stream", times, 0));
        Ok(())
    }
}

/// What a stream brought, as if a call had.
fn examined<R: Examine>(
    request: AuthRequest<R>,
    answer: Option<StreamAnswer>,
    took: Duration,
) -> CheckedCall<Examined<R::Decision>> {
    match request.examine_answer(answer) {
        Ok(examined) => CheckedCall::Answered(examined, took),
        Err(status) => CheckedCall::Failed(status, took),
    }
}

impl Deciding {
    async fn open(run: &Run) -> Result<Self, StreamTrouble> {
        let talk = Conversation::open(&run.calls, StreamRpc::Decide).await?;
        // 0 is what a service answers that forgot to set the id.
        Ok(Self { talk, clients: Vec::new(), next_id: 1 })
    }

    /// Sends these in one message. Gives their ids, in their order.
    fn ask(&mut self, questions: &[&CheckQuestion], within: Duration) -> Result<Vec<u64>, StreamTrouble> {
        let mut message = DecideMessage::new(0);
        let mut ids = Vec::new();
        for question in questions.iter().filter_map(|question| question.ask.for_stream()) {
            let known = self.clients.iter().position(|peer| Arc::ptr_eq(peer, question.peer()));
            let at = known.unwrap_or_else(|| {
                self.clients.push(Arc::clone(question.peer()));
                self.clients.len() - 1
            });
            let client_ref = at as u64 + 1;
            if known.is_none() {
                message.introduce(client_ref, &EncodedClient::of(question.peer()));
            }
            message.ask(self.next_id, client_ref, within, &question);
            ids.push(self.next_id);
            self.next_id += 1;
        }
        if let Some(message) = message.finish() {
            self.talk.send(message)?;
        }
        Ok(ids)
    }

    /// Uses no reference any more, and so each again.
    fn forget(&mut self) -> Result<(), StreamTrouble> {
        let refs: Vec<u64> = (1..).take(self.clients.len()).collect();
        self.clients.clear();
        let mut message = DecideMessage::new(0);
        message.forget(&refs);
        message.finish().map_or(Ok(()), |message| self.talk.send(message))
    }
}
