//! Questions, as the contract puts them.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use mproxy_codec::packet::connect::Will;
use mproxy_codec::packet::subscribe::FilterRequest;
use mproxy_codec::property::PropertyId;
use mproxy_codec::types::Version;
use mproxy_core::policy::{
    ConnectDecision, ConnectQuestion, Decided, Hook, Payload, PublishDecision, PublishQuestion,
    RenewQuestion, SubscribeDecision, SubscribeQuestion, Undecided, Unusable, UnusableKind,
};
use prost::Message;
use tonic::Status;
use tonic::transport::Channel;

use super::call::{call, read};
use super::complaints::Complaints;
use super::said::Said;
use super::{Rpc, publish_properties, shared, user_properties, verdict, wire};

/// Bytes of the largest question. What gRPC servers take without being told otherwise is 4 MiB, and a question that one
/// refuses as too large would be a failed answer, which a client must not be able to choose.
pub(crate) const QUESTION_MOST: usize = 4_000_000;

/// A question to the service, copied out of its packet. No `Debug`: it may hold a password.
pub(crate) trait Ask: Clone + Send + Sync + 'static {
    /// What can be decided about it.
    type Decision: Decided;

    /// The hook that it is about.
    const HOOK: Hook;

    fn said(&self) -> &Said;

    fn put(
        self,
        channel: Channel,
        within: Duration,
        complaints: &Complaints,
    ) -> impl Future<Output = Result<Result<Self::Decision, Undecided>, Status>> + Send;

    /// Whether it is within [`QUESTION_MOST`].
    ///
    /// # Errors
    /// The refusal of the packet that it is about.
    fn fits(&self) -> Result<(), Unusable> {
        let size = self.said().size();
        if size <= QUESTION_MOST {
            return Ok(());
        }
        let detail = format!(
            "{} would be a message of {size} bytes; {QUESTION_MOST} are sent",
            Rpc::from(Self::HOOK).name()
        );
        Err(Unusable::new(UnusableKind::QuestionTooLarge, detail))
    }
}

/// AuthConnect, to admit a client or to renew its grant.
#[derive(Clone)]
pub(crate) struct AskConnect {
    said: Said,
    what: Asked,
}

/// AuthPublish.
#[derive(Clone)]
pub(crate) struct AskPublish(Said);

/// AuthSubscribe.
#[derive(Clone)]
pub(crate) struct AskSubscribe {
    said: Said,
    filters: usize,
    /// The groups of those that are shared, by their place.
    groups: Box<[(usize, Box<str>)]>,
}

/// AuthDeliver.
#[derive(Clone)]
pub(crate) struct AskDeliver(Said);

/// What an `AuthConnect` was asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// A client that said CONNECT.
    Client { has_will: bool },
    /// A running session's grant.
    Renewal,
}

// Writing to a buffer that grows cannot fail.

impl AskConnect {
    pub(crate) fn new(question: &ConnectQuestion<'_>) -> Self {
        let said = Said::about(question.peer, |out| connect(question).encode_raw(out));
        Self { said, what: Asked::Client { has_will: question.connect.will.is_some() } }
    }

    pub(crate) fn renewal(question: &RenewQuestion<'_>) -> Self {
        let said = Said::about(question.peer, |out| renewal(question).encode_raw(out));
        Self { said, what: Asked::Renewal }
    }
}

impl AskPublish {
    pub(crate) fn new(question: &PublishQuestion<'_>) -> Self {
        Self(Said::about(question.peer, |out| publish(question).encode_raw(out)))
    }
}

impl AskSubscribe {
    pub(crate) fn new(question: &SubscribeQuestion<'_>) -> Self {
        let said = Said::about(question.peer, |out| subscribe(question, out));
        Self { said, filters: question.filters.len(), groups: groups(question) }
    }
}

impl AskDeliver {
    pub(crate) fn new(question: &PublishQuestion<'_>) -> Self {
        Self(Said::about(question.peer, |out| deliver(question).encode_raw(out)))
    }
}

impl Ask for AskConnect {
    type Decision = ConnectDecision;

    const HOOK: Hook = Hook::Connect;

    fn said(&self) -> &Said {
        &self.said
    }

    async fn put(
        self,
        channel: Channel,
        within: Duration,
        complaints: &Complaints,
    ) -> Result<Result<ConnectDecision, Undecided>, Status> {
        let answer = call(Rpc::AuthConnect, self.said, channel, within).await?;
        Ok(verdict::connect(read(answer)?, self.what, complaints))
    }
}

impl Ask for AskPublish {
    type Decision = PublishDecision;

    const HOOK: Hook = Hook::Publish;

    fn said(&self) -> &Said {
        &self.0
    }

    async fn put(
        self,
        channel: Channel,
        within: Duration,
        complaints: &Complaints,
    ) -> Result<Result<PublishDecision, Undecided>, Status> {
        let answer = call(Rpc::AuthPublish, self.0, channel, within).await?;
        Ok(verdict::publish(read(answer)?, complaints))
    }
}

impl Ask for AskSubscribe {
    type Decision = SubscribeDecision;

    const HOOK: Hook = Hook::Subscribe;

    fn said(&self) -> &Said {
        &self.said
    }

    async fn put(
        self,
        channel: Channel,
        within: Duration,
        complaints: &Complaints,
    ) -> Result<Result<SubscribeDecision, Undecided>, Status> {
        let answer = call(Rpc::AuthSubscribe, self.said, channel, within).await?;
        Ok(verdict::subscribe(read(answer)?, self.filters, &self.groups, complaints))
    }
}

impl Ask for AskDeliver {
    type Decision = PublishDecision;

    const HOOK: Hook = Hook::Deliver;

    fn said(&self) -> &Said {
        &self.0
    }

    async fn put(
        self,
        channel: Channel,
        within: Duration,
        complaints: &Complaints,
    ) -> Result<Result<PublishDecision, Undecided>, Status> {
        let answer = call(Rpc::AuthDeliver, self.0, channel, within).await?;
        Ok(verdict::deliver(read(answer)?, complaints))
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

fn publish(question: &PublishQuestion<'_>) -> wire::AuthPublishRequest {
    wire::AuthPublishRequest {
        client: None,
        topic: question.topic.to_owned(),
        qos: question.qos as u32,
        retain: question.retain,
        dup: question.dup,
        payload: payload(question.payload),
        payload_size: question.payload.size(),
        properties: publish_properties(question.peer.version, question.properties),
    }
}

fn deliver(question: &PublishQuestion<'_>) -> wire::AuthDeliverRequest {
    wire::AuthDeliverRequest {
        client: None,
        topic: question.topic.to_owned(),
        qos: question.qos as u32,
        retain: question.retain,
        dup: question.dup,
        payload: payload(question.payload),
        payload_size: question.payload.size(),
        properties: publish_properties(question.peer.version, question.properties),
    }
}

fn payload(payload: Payload<'_>) -> Option<Bytes> {
    match payload {
        Payload::Whole(bytes) => Some(Bytes::copy_from_slice(bytes)),
        Payload::Size(_) => None,
    }
}

/// Filter by filter: of thousands, no more than one stands there as a message.
fn subscribe(question: &SubscribeQuestion<'_>, out: &mut BytesMut) {
    const FILTERS: u32 = 2;
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
    let (filter, share_group) = shared(request.filter.as_str());
    wire::SubscribeFilter {
        filter,
        share_group,
        qos: request.qos as u32,
        no_local: request.no_local,
        retain_as_published: request.retain_as_published,
        retain_handling: request.retain_handling as u32,
    }
}
