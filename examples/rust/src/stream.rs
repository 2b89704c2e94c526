//! The same decisions over streams: many questions in a message, their answers in another.

use std::collections::HashMap;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use crate::proto::hook_stream_server::HookStream;
use crate::proto::*;
use crate::{Example, decide_connect, decide_publish, decide_subscribe};

#[tonic::async_trait]
impl HookStream for Example {
    async fn decide(
        &self,
        requests: Request<Streaming<DecideRequest>>,
    ) -> Result<Response<BoxStream<DecideResponse>>, Status> {
        let (answers, outgoing) = mpsc::channel(16);
        let mut requests = requests.into_inner();
        tokio::spawn(async move {
            let mut clients = HashMap::new();
            // It ends when mproxy closes its side, or is gone.
            while let Ok(Some(request)) = requests.message().await {
                let introduced = request.introduce.into_iter();
                clients.extend(introduced.map(|one| (one.client_ref, one.client.unwrap_or_default())));
                let decided = request.questions.into_iter().map(|asked| decide(asked, &clients)).collect();
                for gone in request.forget {
                    clients.remove(&gone);
                }
                if answers.send(Ok(DecideResponse { answers: decided })).await.is_err() {
                    break;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }
}

fn decide(asked: StreamQuestion, clients: &HashMap<u64, Client>) -> StreamAnswer {
    use stream_answer::Answer;
    use stream_question::Question;
    let answer = match &asked.question {
        Some(Question::Connect(_)) => Answer::Connect(decide_connect(clients.get(&asked.client_ref))),
        Some(Question::Publish(request)) => Answer::Publish(decide_publish(request)),
        Some(Question::Subscribe(request)) => Answer::Subscribe(decide_subscribe(request)),
        // Not wanted, or newer than this service.
        Some(Question::Deliver(_)) | None => Answer::Error(AnswerError { detail: "not decided here".into() }),
    };
    StreamAnswer { id: asked.id, answer: Some(answer) }
}
