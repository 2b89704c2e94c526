//! The same over streams: many questions in a message, their answers in another; events, which are confirmed; commands.

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::atomic::Ordering;

use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use crate::proto::hook_stream_server::HookStream;
use crate::proto::*;
use crate::{Example, decide_connect, decide_subscribe, line, sequence};

/// What is written to a stream.
type Outgoing<T> = mpsc::Sender<Result<T, Status>>;

/// The clients that were introduced on a stream.
type Clients = HashMap<u64, Client>;

#[tonic::async_trait]
impl HookStream for Example {
    async fn decide(
        &self,
        requests: Request<Streaming<DecideRequest>>,
    ) -> Result<Response<BoxStream<DecideResponse>>, Status> {
        let example = self.clone();
        Ok(serve(|outgoing| example.answer_all(requests.into_inner(), outgoing)))
    }

    async fn observe(
        &self,
        requests: Request<Streaming<ObserveRequest>>,
    ) -> Result<Response<BoxStream<ObserveResponse>>, Status> {
        Ok(serve(|outgoing| print_all(requests.into_inner(), outgoing)))
    }

    async fn control(
        &self,
        reports: Request<Streaming<ControlReport>>,
    ) -> Result<Response<BoxStream<ControlCommand>>, Status> {
        let commands = self.commands.subscribe();
        Ok(serve(|outgoing| command(reports.into_inner(), commands, outgoing)))
    }
}

/// Answers with a stream, which a task of its own writes. It ends when mproxy closes its side, or is gone.
fn serve<T: Send + 'static, F: Future<Output = Option<()>> + Send + 'static>(
    work: impl FnOnce(Outgoing<T>) -> F,
) -> Response<BoxStream<T>> {
    let (outgoing, messages) = mpsc::channel(16);
    tokio::spawn(work(outgoing));
    Response::new(Box::pin(ReceiverStream::new(messages)))
}

/// The next message, if there is one.
async fn next<T>(stream: &mut Streaming<T>) -> Option<T> {
    stream.message().await.ok().flatten()
}

fn introduce(clients: &mut Clients, introduced: Vec<Introduction>) {
    clients.extend(introduced.into_iter().map(|one| (one.client_ref, one.client.unwrap_or_default())));
}

fn forget(clients: &mut Clients, gone: &[u64]) {
    for client_ref in gone {
        clients.remove(client_ref);
    }
}

impl Example {
    async fn answer_all(
        self,
        mut requests: Streaming<DecideRequest>,
        outgoing: Outgoing<DecideResponse>,
    ) -> Option<()> {
        let mut clients = Clients::new();
        loop {
            let request = next(&mut requests).await?;
            introduce(&mut clients, request.introduce);
            let answers = request.questions.into_iter().map(|asked| self.answer(asked, &clients)).collect();
            forget(&mut clients, &request.forget);
            outgoing.send(Ok(DecideResponse { answers })).await.ok()?;
        }
    }

    fn answer(&self, asked: StreamQuestion, clients: &Clients) -> StreamAnswer {
        use stream_answer::Answer;
        use stream_question::Question;
        let client = clients.get(&asked.client_ref);
        let answer = match &asked.question {
            Some(Question::Connect(_)) => Answer::Connect(decide_connect(client)),
            Some(Question::Publish(request)) => Answer::Publish(self.decide_publish(client, request)),
            Some(Question::Subscribe(request)) => Answer::Subscribe(decide_subscribe(request)),
            // Not wanted, or newer than this service.
            Some(Question::Deliver(_) | Question::Exchange(_)) | None => {
                Answer::Error(AnswerError { detail: "not decided here".into() })
            }
        };
        StreamAnswer { id: asked.id, answer: Some(answer) }
    }

    /// Has every mproxy disconnect this client.
    pub(crate) fn kick(&self, client_id: &str) {
        let command = ControlCommand {
            id: self.last_command.fetch_add(1, Ordering::Relaxed) + 1,
            selector: Some(Selector { by: Some(selector::By::ClientId(client_id.into())) }),
            command: Some(control_command::Command::Disconnect(DisconnectCommand {
                detail: "kicked".into(),
                ..Default::default()
            })),
        };
        // Nobody has opened Control: there is nobody to disconnect.
        let _ = self.commands.send(command);
    }
}

/// Prints each event, and then confirms it. A service of yours would store it instead.
async fn print_all(
    mut requests: Streaming<ObserveRequest>,
    outgoing: Outgoing<ObserveResponse>,
) -> Option<()> {
    let mut clients = Clients::new();
    let mut safe_up_to = 0;
    loop {
        let request = next(&mut requests).await?;
        introduce(&mut clients, request.introduce);
        let mut lines = String::new();
        for one in &request.events {
            if let Some(event) = &one.event {
                lines += &line(clients.get(&one.client_ref), event);
                lines.push('\n');
                safe_up_to = safe_up_to.max(sequence(event));
            }
        }
        for gap in &request.gaps {
            lines += &format!("events {} to {} are missing\n", gap.from, gap.to);
            safe_up_to = safe_up_to.max(gap.to);
        }
        forget(&mut clients, &request.forget);
        std::io::stdout().write_all(lines.as_bytes()).ok()?;
        if safe_up_to > 0 {
            outgoing.send(Ok(ObserveResponse { safe_up_to })).await.ok()?;
        }
    }
}

/// Sends commands, and reads what became of them.
async fn command(
    mut reports: Streaming<ControlReport>,
    mut commands: broadcast::Receiver<ControlCommand>,
    outgoing: Outgoing<ControlCommand>,
) -> Option<()> {
    loop {
        tokio::select! {
            report = next(&mut reports) => {
                if let Some(control_report::Report::Result(result)) = report?.report
                    && !result.error.is_empty()
                {
                    eprintln!("command {}: {}", result.id, result.error);
                }
            }
            // It fails where this mproxy was too slow to read, too: it opens Control again.
            command = commands.recv() => outgoing.send(Ok(command.ok()?)).await.ok()?,
        }
    }
}
