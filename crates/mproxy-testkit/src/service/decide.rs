//! The service's side of HookStream.Decide.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::body::Body;
use tonic::codegen::BoxStream;
use tonic::server::NamedService;
use tonic::{Request, Response, Status, Streaming};

use super::contract::{
    AnswerError, Client, DecideRequest, DecideResponse, StreamAnswer, StreamQuestion, stream_answer,
    stream_question,
};
use super::{AnswerScript, Play, Player};

/// What is done with each message of a stream.
pub type StreamScript = Box<dyn Fn(&DecideRequest, &AnswerSender) + Send + Sync>;

/// What a service does with a Decide stream.
pub enum StreamPlay {
    /// It answers what it would answer to the calls, each message with one.
    Serve,
    /// UNIMPLEMENTED.
    Unimplemented,
    /// What is done with each message; answers may be sent at any time.
    Script(StreamScript),
    /// These bytes after the first message, and then the stream is reset.
    Raw(&'static [u8]),
}

impl fmt::Debug for StreamPlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StreamPlay")
    }
}

/// Sends answers on a stream.
#[derive(Clone, Debug)]
pub struct AnswerSender {
    /// The number of the stream, from 1.
    pub stream: usize,
    answers: mpsc::UnboundedSender<Result<DecideResponse, Status>>,
}

impl AnswerSender {
    /// Sends these in one message.
    pub fn send(&self, answers: Vec<StreamAnswer>) {
        let _ = self.answers.send(Ok(DecideResponse { answers }));
    }

    /// Ends the stream with an error.
    pub fn fail(&self, status: Status) {
        let _ = self.answers.send(Err(status));
    }

    /// Allows the questions with these ids, in this order, in one message.
    pub fn allow(&self, questions: &[StreamQuestion]) {
        self.send(questions.iter().map(allowed).collect());
    }
}

/// A plain allow of what was asked.
fn allowed(question: &StreamQuestion) -> StreamAnswer {
    use stream_answer::Answer;
    use stream_question::Question;
    let answer = question.question.as_ref().map(|asked| match asked {
        Question::Connect(_) => Answer::Connect(super::ConnectAllow::default().into()),
        Question::Publish(_) => Answer::Publish(super::PublishAllow::default().into()),
        Question::Subscribe(asked) => {
            let verdicts = asked.filters.iter().map(|_| super::FilterAllow::default().into()).collect();
            Answer::Subscribe(super::AuthSubscribeResponse { verdicts })
        }
        Question::Deliver(_) => Answer::Deliver(super::DeliverAllow::default().into()),
        Question::Exchange(_) => Answer::Exchange(super::ExchangeSuccess::default().into()),
    });
    StreamAnswer { id: question.id, answer }
}

impl Player {
    pub(super) fn play_decide(
        &self,
        request: Request<Streaming<DecideRequest>>,
    ) -> Result<Response<BoxStream<DecideResponse>>, Status> {
        self.log.send_modify(|log| log.calls.push("Decide"));
        if matches!(self.service.decide, StreamPlay::Unimplemented) {
            return Err(Status::unimplemented("no streams here"));
        }
        let mut stream = 0;
        self.log.send_modify(|log| {
            log.streams += 1;
            stream = log.streams;
        });
        let (answers, outgoing) = mpsc::unbounded_channel();
        let answers = AnswerSender { stream, answers };
        let (player, mut requests) = (self.clone(), request.into_inner());
        tokio::spawn(async move {
            let mut clients = HashMap::new();
            while let Ok(Some(request)) = requests.message().await {
                let note = |request| player.log.send_modify(|log| log.batches.push((stream, request)));
                match &player.service.decide {
                    // Whoever sees the message knows that the script has, too.
                    StreamPlay::Script(script) => {
                        script(&request, &answers);
                        note(request);
                    }
                    StreamPlay::Serve | StreamPlay::Unimplemented | StreamPlay::Raw(_) => {
                        note(request.clone());
                        match player.answer(request, &mut clients) {
                            Ok(all) => answers.send(all),
                            Err(status) => answers.fail(status),
                        }
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(outgoing))))
    }
}

impl Player {
    fn answer(
        &self,
        request: DecideRequest,
        clients: &mut HashMap<u64, Client>,
    ) -> Result<Vec<StreamAnswer>, Status> {
        clients.extend(
            request.introduce.into_iter().map(|one| (one.client_ref, one.client.unwrap_or_default())),
        );
        let mut answers = Vec::new();
        for StreamQuestion { id, client_ref, question, .. } in request.questions {
            let Some(client) = clients.get(&client_ref) else {
                return Err(Status::failed_precondition(format!("client {client_ref} was not introduced")));
            };
            let client = Some(client.clone());
            use stream_answer::Answer;
            use stream_question::Question;
            let service = &self.service;
            let answer = match question {
                None => return Err(Status::invalid_argument("a question of nothing")),
                Some(Question::Connect(mut asked)) => {
                    asked.client = client;
                    self.script("AuthConnect", &service.connect, asked, Answer::Connect)
                }
                Some(Question::Publish(mut asked)) => {
                    asked.client = client;
                    self.script("AuthPublish", &service.publish, asked, Answer::Publish)
                }
                Some(Question::Subscribe(mut asked)) => {
                    asked.client = client;
                    self.script("AuthSubscribe", &service.subscribe, asked, Answer::Subscribe)
                }
                Some(Question::Deliver(mut asked)) => {
                    asked.client = client;
                    self.script("AuthDeliver", &service.deliver, asked, Answer::Deliver)
                }
                Some(Question::Exchange(mut asked)) => {
                    asked.client = client;
                    self.script("AuthExchange", &service.exchange, asked, Answer::Exchange)
                }
            };
            answers.extend(answer.map(|answer| StreamAnswer { id, answer: Some(answer) }));
        }
        for gone in request.forget {
            clients.remove(&gone);
        }
        Ok(answers)
    }

    fn script<Q, A>(
        &self,
        rpc: &'static str,
        script: &AnswerScript<Q, A>,
        asked: Q,
        wrap: fn(A) -> stream_answer::Answer,
    ) -> Option<stream_answer::Answer> {
        self.log.send_modify(|log| log.calls.push(rpc));
        match script(&Request::new(asked)) {
            Play::Answer(answer) => Some(wrap(answer)),
            Play::Fail(status) => {
                Some(stream_answer::Answer::Error(AnswerError { detail: status.message().to_owned() }))
            }
            Play::Never => None,
        }
    }
}

/// A HookStream that answers with bytes.
#[derive(Clone)]
pub(super) struct RawStream(pub(super) &'static [u8]);

impl NamedService for RawStream {
    const NAME: &'static str = "mproxy.v1.HookStream";
}

impl tower::Service<http::Request<Body>> for RawStream {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let bytes = Bytes::from_static(self.0);
        Box::pin(async move {
            let mut questions = request.into_body();
            let _ = questions.frame().await;
            let (frames, body) = mpsc::unbounded_channel();
            let _ = frames.send(Ok(http_body::Frame::data(bytes)));
            // A reset takes back what has not been written, so it comes a while later.
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(100)).await;
                let _ = frames.send(Err(Status::data_loss("reset")));
            });
            let body = Body::new(StreamBody::new(UnboundedReceiverStream::new(body)));
            let response = http::Response::builder().header("content-type", "application/grpc");
            Ok(response.body(body).unwrap_or_default())
        })
    }
}
