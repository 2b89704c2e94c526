//! Questions, as the contract puts them.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use mproxy_codec::packet::connect::{Connect, Will};
use mproxy_codec::packet::subscribe::FilterRequest;
use mproxy_codec::property::PropertyId;
use mproxy_codec::types::Version;
use mproxy_core::peer::Peer;
use mproxy_core::policy::{
    ConnectDecision, ConnectQuestion, Decided, ExchangeDecision, ExchangeQuestion, Hook, Payload,
    PublishDecision, PublishQuestion, RenewQuestion, SubscribeDecision, SubscribeQuestion, Undecided,
    Unusable, UnusableKind,
};
use prost::Message;
use tonic::Status;

use super::call::{CallChannel, call, read_decision};
use super::complaints::Complaints;
use super::decide::{AnswerBytes, StreamAnswer, StreamQuestion};
use super::request_body::RequestBody;
use super::{Rpc, publish_properties, split_filter, user_properties, verdict, wire};
use crate::trace_context::TraceContext;

/// Bytes of the largest question. What gRPC servers take without being told otherwise is 4 MiB, and a question that one
/// refuses as too large would be a failed answer, which a client must not be able to choose.
pub(crate) const QUESTION_MOST: usize = 4_000_000;

/// The RPC that decides on a message, in one direction or the other. Both have the same fields, in generated types that
/// have nothing in common: what one direction is asked with, the other is too.
macro_rules! message_rpc {
    ($(#[$doc:meta])* $rpc:ident, $name:ident, $request:ident, $response:ty, $hook:expr) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub(crate) struct $rpc;

        impl AuthRequest<$rpc> {
            pub(crate) fn $name(question: &PublishQuestion<'_>, way: Way) -> Self {
                let request = wire::$request {
                    // Encoded apart, and once for all questions about it.
                    client: None,
                    topic: question.topic.to_owned(),
                    qos: question.qos as u32,
                    retain: question.retain,
                    dup: question.dup,
                    payload: payload(question.payload),
                    payload_size: question.payload.size(),
                    properties: publish_properties(question.peer.version, question.properties),
                };
                Self::new($rpc, question.peer, way, |out| request.encode_raw(out))
            }
        }

        impl AuthRpc for $rpc {
            type Decision = PublishDecision;
            type Response = $response;

            const HOOK: Hook = $hook;

            fn decision(
                self,
                response: Self::Response,
                complaints: &Complaints,
            ) -> Result<PublishDecision, Undecided> {
                verdict::$name(response, complaints)
            }
        }
    };
}

/// One of the RPCs that decide, and what has to be remembered of its question to read the answer.
pub(crate) trait AuthRpc: Clone + Send + Sync + 'static {
    /// What can be decided.
    type Decision: Decided;

    /// The answer as it comes.
    type Response: Message + Default;

    /// The hook that it is about.
    const HOOK: Hook;

    /// What the answer means.
    fn decision(self, response: Self::Response, complaints: &Complaints)
    -> Result<Self::Decision, Undecided>;
}

/// How a question is expected to reach the service. One that was made for a stream can go by a call, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Call,
    Stream,
}

/// A question to the service, copied out of its packet. No `Debug`: it may hold a password.
#[derive(Clone)]
pub(crate) struct AuthRequest<R> {
    body: RequestBody,
    rpc: R,
    context: Option<Arc<TraceContext>>,
}

impl<R: AuthRpc> AuthRequest<R> {
    fn new(rpc: R, peer: &Arc<Peer>, way: Way, fields: impl FnOnce(&mut BytesMut)) -> Self {
        // Over a stream a client is introduced once, so its questions are made without it.
        let body = match way {
            Way::Call => RequestBody::encode(peer, fields),
            Way::Stream => RequestBody::encode_apart(peer, fields),
        };
        Self { body, rpc, context: None }
    }

    /// The same, with the trace context that the service is told.
    pub(crate) fn with_context(self, context: Option<Arc<TraceContext>>) -> Self {
        Self { context, ..self }
    }

    #[cfg(test)]
    pub(super) const fn body(&self) -> &RequestBody {
        &self.body
    }

    /// Whether it is within [`QUESTION_MOST`].
    ///
    /// # Errors
    /// The refusal of the packet that it is about.
    pub(crate) fn fits(&self) -> Result<(), Unusable> {
        let size = self.body.size(QUESTION_MOST);
        if size <= QUESTION_MOST {
            return Ok(());
        }
        let detail = format!(
            "{} would be a message of {size} bytes; {QUESTION_MOST} are sent",
            Rpc::from(R::HOOK).name()
        );
        Err(Unusable::new(UnusableKind::QuestionTooLarge, detail))
    }

    pub(super) async fn send(
        self,
        channel: CallChannel,
        within: Duration,
        complaints: &Complaints,
    ) -> Result<Result<R::Decision, Undecided>, Status> {
        let answer = call(Rpc::from(R::HOOK).path(), self.body, channel, within, self.context).await?;
        Ok(self.rpc.decision(read_decision(R::HOOK.into(), answer)?, complaints))
    }

    /// Who reads an answer that came by another way than a call.
    pub(super) fn into_rpc(self) -> R {
        self.rpc
    }

    /// The bytes of the answer, and who reads them: for a closer look than [`send`](Self::send) takes.
    pub(super) async fn send_to_examine(
        self,
        channel: CallChannel,
        within: Duration,
    ) -> Result<(R, Bytes), Status> {
        let answer = call(Rpc::from(R::HOOK).path(), self.body, channel, within, None).await?;
        Ok((self.rpc, answer))
    }

    /// The question as a stream takes it; `None`: it was made for a call.
    pub(crate) fn for_stream(&self) -> Option<StreamQuestion> {
        let (fields, peer) = self.body.apart()?;
        let question = StreamQuestion::new(R::HOOK, fields.clone(), Arc::clone(peer));
        Some(question.with_context(self.context.clone()))
    }

    /// What came of it over a stream, as [`send`](Self::send) reads what comes of a call.
    pub(super) fn read(
        self,
        answer: Option<StreamAnswer>,
        complaints: &Complaints,
    ) -> Result<Result<R::Decision, Undecided>, Status> {
        Ok(match AnswerBytes::of(answer, R::HOOK) {
            AnswerBytes::Response(bytes) => {
                self.rpc.decision(read_decision(R::HOOK.into(), bytes)?, complaints)
            }
            AnswerBytes::Failed(failure) => Err(failure.into()),
            AnswerBytes::Unusable(unusable) => Err(unusable.into()),
        })
    }
}

// Writing to a buffer that grows cannot fail.

/// AuthConnect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AuthConnect {
    /// To admit a client that said CONNECT.
    Client { has_will: bool },
    /// To renew a running session's grant.
    Renewal,
}

impl AuthRequest<AuthConnect> {
    pub(crate) fn connect(question: &ConnectQuestion<'_>, way: Way) -> Self {
        let rpc = AuthConnect::Client { has_will: question.connect.will.is_some() };
        Self::new(rpc, question.peer, way, |out| connect(question).encode_raw(out))
    }

    /// The same, for a service whose answer changes nothing: whether there was a password, it does not learn.
    pub(crate) fn connect_of_shadow(question: &ConnectQuestion<'_>, way: Way) -> Self {
        let connect = Connect { password: None, ..*question.connect };
        let question = ConnectQuestion { connect: &connect, ..*question };
        let rpc = AuthConnect::Client { has_will: connect.will.is_some() };
        let fields = |out: &mut BytesMut| {
            wire::AuthConnectRequest { shadow: true, ..self::connect(&question) }.encode_raw(out);
        };
        Self::new(rpc, question.peer, way, fields)
    }

    /// `shadow`: asked for comparison.
    pub(crate) fn renewal(question: &RenewQuestion<'_>, way: Way, shadow: bool) -> Self {
        let fields = |out: &mut BytesMut| {
            wire::AuthConnectRequest { shadow, ..renewal(question) }.encode_raw(out);
        };
        Self::new(AuthConnect::Renewal, question.peer, way, fields)
    }
}

impl AuthRpc for AuthConnect {
    type Decision = ConnectDecision;
    type Response = wire::AuthConnectResponse;

    const HOOK: Hook = Hook::Connect;

    fn decision(
        self,
        response: Self::Response,
        complaints: &Complaints,
    ) -> Result<ConnectDecision, Undecided> {
        verdict::connect(response, self, complaints)
    }
}

message_rpc!(
    /// AuthPublish: of a message from the client.
    AuthPublish, publish, AuthPublishRequest, wire::AuthPublishResponse, Hook::Publish
);
message_rpc!(
    /// AuthDeliver: of a message from the broker.
    AuthDeliver, deliver, AuthDeliverRequest, wire::AuthDeliverResponse, Hook::Deliver
);

/// AuthSubscribe.
#[derive(Clone)]
pub(crate) struct AuthSubscribe {
    filters: usize,
    /// The groups of those that are shared, by their place.
    groups: Box<[(usize, Box<str>)]>,
}

impl AuthRequest<AuthSubscribe> {
    pub(crate) fn subscribe(question: &SubscribeQuestion<'_>, way: Way) -> Self {
        let rpc = AuthSubscribe { filters: question.filters.len(), groups: groups(question) };
        Self::new(rpc, question.peer, way, |out| subscribe(question, out))
    }
}

impl AuthRpc for AuthSubscribe {
    type Decision = SubscribeDecision;
    type Response = wire::AuthSubscribeResponse;

    const HOOK: Hook = Hook::Subscribe;

    fn decision(
        self,
        response: Self::Response,
        complaints: &Complaints,
    ) -> Result<SubscribeDecision, Undecided> {
        verdict::subscribe(response, self.filters, &self.groups, complaints)
    }
}

/// AuthExchange.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AuthExchange;

impl AuthRequest<AuthExchange> {
    pub(crate) fn exchange(question: &ExchangeQuestion<'_>, way: Way) -> Self {
        let request = wire::AuthExchangeRequest {
            client: None,
            method: question.method.to_owned(),
            data: question.data.map(Bytes::copy_from_slice),
            step: question.step,
            reauthentication: question.again,
        };
        Self::new(AuthExchange, question.peer, way, |out| request.encode_raw(out))
    }
}

impl AuthRpc for AuthExchange {
    type Decision = ExchangeDecision;
    type Response = wire::AuthExchangeResponse;

    const HOOK: Hook = Hook::Exchange;

    fn decision(
        self,
        response: Self::Response,
        complaints: &Complaints,
    ) -> Result<ExchangeDecision, Undecided> {
        verdict::exchange(response, complaints)
    }
}

fn groups(question: &SubscribeQuestion<'_>) -> Box<[(usize, Box<str>)]> {
    let group = |request: &FilterRequest<'_>| request.filter.share().map(Box::from);
    question.filters.iter().enumerate().filter_map(|(at, request)| Some((at, group(request)?))).collect()
}

fn connect(question: &ConnectQuestion<'_>) -> wire::AuthConnectRequest {
    let connect = question.connect;
    let properties = connect.properties;
    let flag = |id| properties.byte(id).map(|byte| byte != 0);
    wire::AuthConnectRequest {
        client: None,
        // The wire type has a Debug of its own that leaves this out, see `contract::wire`.
        password: connect.password.map(Bytes::copy_from_slice),
        clean_start: connect.clean_start,
        keep_alive: connect.keep_alive.into(),
        session_expiry: properties.u32(PropertyId::SessionExpiryInterval),
        will: connect.will.as_ref().map(|will| self::will(connect.version, will)),
        authentication_method: properties.text(PropertyId::AuthenticationMethod).map(str::to_owned),
        receive_maximum: properties.u16(PropertyId::ReceiveMaximum).map(u32::from),
        maximum_packet_size: properties.u32(PropertyId::MaximumPacketSize),
        topic_alias_maximum: properties.u16(PropertyId::TopicAliasMaximum).map(u32::from),
        request_response_information: flag(PropertyId::RequestResponseInformation),
        request_problem_information: flag(PropertyId::RequestProblemInformation),
        bridge: connect.bridge,
        refresh: false,
        shadow: false,
    }
}

/// What is known of a client that said CONNECT long ago.
fn renewal(question: &RenewQuestion<'_>) -> wire::AuthConnectRequest {
    wire::AuthConnectRequest {
        clean_start: question.peer.clean_start,
        keep_alive: question.peer.keep_alive.into(),
        refresh: true,
        ..Default::default()
    }
}

fn will(version: Version, will: &Will<'_>) -> wire::Will {
    wire::Will {
        topic: will.topic.to_owned(),
        payload: Bytes::copy_from_slice(will.payload),
        qos: will.qos as u32,
        retain: will.retain,
        delay_interval: will.properties.u32(PropertyId::WillDelayInterval),
        properties: publish_properties(version, will.properties),
    }
}

fn payload(payload: Payload<'_>) -> Option<Bytes> {
    match payload {
        Payload::Whole(bytes) => Some(Bytes::copy_from_slice(bytes)),
        // Absent and not empty: an empty payload is a message too, the one that clears a retained message.
        Payload::Size(_) => None,
    }
}

/// Filter by filter: of thousands, no more than one stands there as a message.
fn subscribe(question: &SubscribeQuestion<'_>, out: &mut BytesMut) {
    // The number of `AuthSubscribeRequest.filters`, which is encoded by hand below.
    const FILTERS: u32 = 2;
    // Protobuf does not mind the order of fields, so the repeated one may come last, and by hand.
    let rest = wire::AuthSubscribeRequest {
        subscription_identifier: question.properties.u32(PropertyId::SubscriptionIdentifier),
        user_properties: user_properties(question.properties),
        ..Default::default()
    };
    rest.encode_raw(out);
    for request in question.filters {
        prost::encoding::message::encode(FILTERS, &filter(request), out);
    }
}

fn filter(request: &FilterRequest<'_>) -> wire::SubscribeFilter {
    // Apart, so that a service compares filters as its rules write them: who forgot to strip `$share/g/` would match
    // nothing, and let a client around a rule by sharing.
    let (filter, share_group) = split_filter(request.filter.as_str());
    wire::SubscribeFilter {
        filter,
        share_group,
        qos: request.qos as u32,
        no_local: request.no_local,
        retain_as_published: request.retain_as_published,
        retain_handling: request.retain_handling as u32,
    }
}
