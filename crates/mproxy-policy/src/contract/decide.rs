//! The messages of the Decide stream. Questions were encoded when they were asked and are only put together here; answers
//! are taken apart as far as their ids, and read by whoever asked, so that one that is no protobuf harms no other.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mproxy_core::peer::Peer;
use mproxy_core::policy::{Failure, FailureKind, Hook, Unusable};
use prost::Message;
use tonic::Status;

use super::grpc_message::{GrpcMessage, bytes_len, number_len};
use super::request_body::encode_client_field;
use super::{Rpc, wire};
use crate::trace_context::TraceContext;

/// A question as it waits for its stream. No `Debug`: it may hold a password.
#[derive(Clone)]
pub(crate) struct StreamQuestion {
    hook: Hook,
    /// The fields of the request but for the client's.
    fields: Bytes,
    peer: Arc<Peer>,
    context: Option<Arc<TraceContext>>,
}

impl StreamQuestion {
    pub(super) const fn new(hook: Hook, fields: Bytes, peer: Arc<Peer>) -> Self {
        Self { hook, fields, peer, context: None }
    }

    /// The same, with the trace context that the service is told.
    pub(super) fn with_context(self, context: Option<Arc<TraceContext>>) -> Self {
        Self { context, ..self }
    }

    pub(crate) const fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// Bytes that it takes in a message, within a few.
    pub(crate) fn size(&self) -> usize {
        self.fields.len() + QUESTION_OVERHEAD + self.context.as_ref().map_or(0, |context| context.len())
    }
}

/// Keys, lengths, ids and the timeout of a question, at most.
const QUESTION_OVERHEAD: usize = 64;

/// One `DecideRequest` while it is written, with gRPC's prefix.
pub(crate) struct DecideMessage(GrpcMessage);

impl DecideMessage {
    /// An empty one, with room for so many bytes.
    pub(crate) fn new(room: usize) -> Self {
        Self(GrpcMessage::with_room(room))
    }

    /// Bytes so far.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Introduces a client.
    pub(crate) fn introduce(&mut self, client_ref: u64, client: &EncodedClient) {
        self.0.introduce(client_ref, &client.0);
    }

    /// Adds a question, which is waited for so long.
    pub(crate) fn ask(&mut self, id: u64, client_ref: u64, within: Duration, question: &StreamQuestion) {
        // DecideRequest.questions, and the fields of StreamQuestion.
        const QUESTIONS: u32 = 2;
        const ID: u32 = 1;
        const CLIENT_REF: u32 = 2;
        const TIMEOUT: u32 = 3;
        const TRACEPARENT: u32 = 4;
        const TRACESTATE: u32 = 10;
        // StreamQuestion.connect, publish, subscribe, deliver, exchange.
        let field = match question.hook {
            Hook::Connect => 5,
            Hook::Publish => 6,
            Hook::Subscribe => 7,
            Hook::Deliver => 8,
            Hook::Exchange => 9,
        };
        let timeout = prost_types::Duration {
            seconds: i64::try_from(within.as_secs()).unwrap_or(i64::MAX),
            // Below a thousand million.
            nanos: within.subsec_nanos() as i32,
        };
        let parent = question.context.as_ref().map(|context| context.traceparent()).unwrap_or_default();
        let state = question.context.as_ref().map(|context| &*context.state).unwrap_or_default();
        let text_len = |text: &str| if text.is_empty() { 0 } else { bytes_len(text.len()) };
        // Protobuf has the length of a message before its fields.
        let len = number_len(id)
            + number_len(client_ref)
            + bytes_len(timeout.encoded_len())
            + text_len(&parent)
            + text_len(state)
            + bytes_len(question.fields.len());
        self.0.key(QUESTIONS, len);
        self.0.number(ID, id);
        self.0.number(CLIENT_REF, client_ref);
        self.0.message(TIMEOUT, &timeout);
        for (number, text) in [(TRACEPARENT, parent.as_str()), (TRACESTATE, state)] {
            if !text.is_empty() {
                self.0.bytes(number, text.as_bytes());
            }
        }
        self.0.bytes(field, &question.fields);
    }

    /// Says that these references are not used any more.
    pub(crate) fn forget(&mut self, client_refs: &[u64]) {
        // DecideRequest.forget
        self.0.forget(3, client_refs);
    }

    /// The message; `None`: there is nothing in it.
    pub(crate) fn finish(self) -> Option<Bytes> {
        self.0.finish_if_any()
    }
}

/// A client's part, as all requests about it share it.
pub(crate) struct EncodedClient(Arc<Bytes>);

impl EncodedClient {
    pub(crate) fn of(peer: &Peer) -> Self {
        Self(encode_client_field(peer))
    }
}

/// An answer from a stream, not read yet.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub(crate) enum StreamAnswer {
    #[prost(bytes = "bytes", tag = "2")]
    Connect(Bytes),
    #[prost(bytes = "bytes", tag = "3")]
    Publish(Bytes),
    #[prost(bytes = "bytes", tag = "4")]
    Subscribe(Bytes),
    #[prost(bytes = "bytes", tag = "5")]
    Deliver(Bytes),
    #[prost(bytes = "bytes", tag = "6")]
    Error(Bytes),
    #[prost(bytes = "bytes", tag = "7")]
    Exchange(Bytes),
}

/// `StreamAnswer` of the contract with its answers as bytes: on the wire both are the same.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct RawAnswer {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(oneof = "StreamAnswer", tags = "2, 3, 4, 5, 6, 7")]
    answer: Option<StreamAnswer>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct RawAnswers {
    #[prost(message, repeated, tag = "1")]
    answers: Vec<RawAnswer>,
}

/// The answers of a message, with their ids; `None`: unset.
///
/// # Errors
/// It is no `DecideResponse`.
pub(crate) fn read_answers(
    message: Bytes,
) -> Result<impl ExactSizeIterator<Item = (u64, Option<StreamAnswer>)>, Status> {
    // Where the whole cannot be taken apart, nobody knows whose answers were in it: the stream ends.
    let message = RawAnswers::decode(message).map_err(|error| Status::internal(error.to_string()))?;
    Ok(message.answers.into_iter().map(|answer| (answer.id, answer.answer)))
}

/// What an answer is, of the kind that was asked for.
pub(super) enum AnswerBytes {
    /// The response of this hook's own RPC.
    Response(Bytes),
    /// It is a failed one.
    Failed(Failure),
    /// It is of another kind.
    Unusable(Unusable),
}

impl AnswerBytes {
    pub(super) fn of(answer: Option<StreamAnswer>, hook: Hook) -> Self {
        let rpc = Rpc::from(hook).name();
        match (answer, hook) {
            (Some(StreamAnswer::Connect(bytes)), Hook::Connect)
            | (Some(StreamAnswer::Publish(bytes)), Hook::Publish)
            | (Some(StreamAnswer::Subscribe(bytes)), Hook::Subscribe)
            | (Some(StreamAnswer::Deliver(bytes)), Hook::Deliver)
            | (Some(StreamAnswer::Exchange(bytes)), Hook::Exchange) => Self::Response(bytes),
            (Some(StreamAnswer::Error(bytes)), _) => {
                // Where the reason cannot be read, it has failed all the same.
                let detail = wire::AnswerError::decode(bytes).unwrap_or_default().detail;
                Self::Failed(Failure::new(
                    FailureKind::Unavailable,
                    format!("{rpc}: AnswerError: {detail:?}"),
                ))
            }
            // Not a failed one: it may be the Deny of something, and the failure rule could make a yes of it.
            (Some(_), _) => Self::Unusable(Unusable::invalid(format!(
                "{rpc}: the answer is of another kind than the question"
            ))),
            (None, _) => {
                Self::Failed(Failure::new(FailureKind::Unspecified, format!("{rpc}: the answer is unset")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use mproxy_codec::types::Version;

    use super::super::AuthRequest;
    use super::super::tests::peer;
    use super::*;
    use crate::contract::grpc_message::PREFIX;

    fn decode(message: DecideMessage) -> wire::DecideRequest {
        let bytes = message.finish().expect("it has something in it");
        assert_eq!(
            bytes[..PREFIX],
            [&[0][..], &u32::try_from(bytes.len() - PREFIX).unwrap().to_be_bytes()].concat()
        );
        wire::DecideRequest::decode(&bytes[PREFIX..]).expect("what was encoded can be decoded")
    }

    #[test]
    fn a_batch_reads_as_the_contract_writes_it() {
        let peer = peer(Version::V5);
        let renewal = AuthRequest::renewal(
            &mproxy_core::policy::RenewQuestion { peer: &peer },
            super::super::Way::Call,
            false,
        );
        let fields = Bytes::from(
            wire::AuthPublishRequest { topic: "a/b".into(), qos: 1, ..Default::default() }.encode_to_vec(),
        );
        let mut message = DecideMessage::new(0);
        message.introduce(300, &EncodedClient::of(&peer));
        let question = StreamQuestion::new(Hook::Publish, fields, Arc::clone(&peer));
        message.ask(1 << 40, 300, Duration::from_millis(1500), &question);
        message.forget(&[1, 299]);
        let read = decode(message);
        let whole: wire::AuthConnectRequest = renewal.body().read();
        assert_eq!(read.introduce[0].client_ref, 300);
        assert_eq!(read.introduce[0].client, whole.client, "as in every other request");
        let asked = &read.questions[0];
        assert_eq!((asked.id, asked.client_ref, asked.traceparent.as_str()), (1 << 40, 300, ""));
        assert_eq!(asked.timeout, Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }));
        let Some(wire::stream_question::Question::Publish(publish)) = &asked.question else {
            panic!("{asked:?}")
        };
        assert_eq!((publish.topic.as_str(), publish.qos, &publish.client), ("a/b", 1, &None));
        assert_eq!(read.forget, [1, 299]);
        assert!(DecideMessage::new(9).finish().is_none());
    }

    #[test]
    fn a_question_carries_its_trace_context() {
        for state in ["", "a=b"] {
            let context =
                Arc::new(TraceContext { trace_id: 1, span_id: 2, sampled: true, state: state.into() });
            let question = StreamQuestion::new(Hook::Publish, Bytes::new(), peer(Version::V5));
            let (plain, question) = (question.size(), question.with_context(Some(Arc::clone(&context))));
            assert_eq!(question.size(), plain + context.len());
            let mut message = DecideMessage::new(0);
            message.ask(7, 1, Duration::from_secs(1), &question);
            let asked = decode(message).questions.remove(0);
            assert_eq!(
                (asked.id, asked.traceparent, asked.tracestate.as_str()),
                (7, context.traceparent(), state)
            );
            assert!(asked.question.is_some());
        }
    }

    #[test]
    fn each_hook_has_its_own_field() {
        use wire::stream_question::Question;
        for hook in Hook::ALL {
            let mut message = DecideMessage::new(0);
            message.ask(1, 1, Duration::ZERO, &StreamQuestion::new(hook, Bytes::new(), peer(Version::V311)));
            let asked = decode(message).questions.remove(0).question;
            assert!(matches!(
                (hook, asked),
                (Hook::Connect, Some(Question::Connect(_)))
                    | (Hook::Publish, Some(Question::Publish(_)))
                    | (Hook::Subscribe, Some(Question::Subscribe(_)))
                    | (Hook::Deliver, Some(Question::Deliver(_)))
                    | (Hook::Exchange, Some(Question::Exchange(_)))
            ));
        }
    }

    #[test]
    fn answers_are_told_apart_by_kind() {
        use wire::stream_answer::Answer;
        let kinds = [
            None,
            Some(Answer::Publish(Default::default())),
            Some(Answer::Connect(Default::default())),
            Some(Answer::Error(wire::AnswerError { detail: "busy".into() })),
        ];
        let answers = kinds.into_iter().zip(7..).map(|(answer, id)| wire::StreamAnswer { id, answer });
        let message = wire::DecideResponse { answers: answers.collect() }.encode_to_vec();
        let read: Vec<_> = read_answers(message.into()).unwrap().collect();
        assert_eq!(read.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [7, 8, 9, 10]);
        let mut kinds = read.into_iter().map(|(_, answer)| AnswerBytes::of(answer, Hook::Publish));
        assert!(
            matches!(kinds.next(), Some(AnswerBytes::Failed(failure)) if failure.kind == FailureKind::Unspecified)
        );
        assert!(matches!(kinds.next(), Some(AnswerBytes::Response(_))));
        assert!(matches!(kinds.next(), Some(AnswerBytes::Unusable(_))));
        assert!(
            matches!(kinds.next(), Some(AnswerBytes::Failed(failure)) if failure.detail.contains("\"busy\""))
        );
        assert!(read_answers(Bytes::from_static(b"\xff\xff")).is_err());
    }
}
