//! Questions, as the contract puts them.

use std::time::Duration;

use bytes::Bytes;
use mproxy_codec::packet::connect::Will;
use mproxy_codec::packet::subscribe::FilterRequest;
use mproxy_codec::property::PropertyId;
use mproxy_codec::types::Version;
use mproxy_core::policy::{
    ConnectQuestion, Payload, PublishQuestion, Question, SubscribeQuestion, Unusable, UnusableKind, Verdict,
};
use prost::Message;
use tonic::Status;
use tonic::transport::Channel;

use super::complaints::Complaints;
use super::wire::hooks_client::HooksClient;
use super::{Rpc, client, publish_properties, shared, timed, user_properties, verdict, wire};

/// Bytes of the largest question. What gRPC servers take without being told otherwise is 4 MiB, and a question that one
/// refuses as too large would be a failed answer, which a client must not be able to choose.
pub(crate) const QUESTION_MOST: usize = 4_000_000;

/// A question, copied out of its packet. No `Debug`: it may hold a password.
#[derive(Clone)]
pub(crate) enum Ask {
    Connect(Box<wire::AuthConnectRequest>),
    Publish(Box<wire::AuthPublishRequest>),
    Subscribe(Box<wire::AuthSubscribeRequest>),
    Deliver(Box<wire::AuthDeliverRequest>),
}

impl Ask {
    pub(crate) fn new(question: &Question<'_>) -> Self {
        match question {
            Question::Connect(question) => Self::Connect(Box::new(connect(question))),
            Question::Publish(question) => Self::Publish(Box::new(publish(question))),
            Question::Subscribe(question) => Self::Subscribe(Box::new(subscribe(question))),
            Question::Deliver(question) => Self::Deliver(Box::new(deliver(question))),
        }
    }

    pub(crate) const fn rpc(&self) -> Rpc {
        match self {
            Self::Connect(_) => Rpc::AuthConnect,
            Self::Publish(_) => Rpc::AuthPublish,
            Self::Subscribe(_) => Rpc::AuthSubscribe,
            Self::Deliver(_) => Rpc::AuthDeliver,
        }
    }

    /// Whether it is within [`QUESTION_MOST`].
    ///
    /// # Errors
    /// The refusal of the packet that it is about.
    pub(crate) fn fits(&self) -> Result<(), Unusable> {
        let size = match self {
            Self::Connect(request) => request.encoded_len(),
            Self::Publish(request) => request.encoded_len(),
            Self::Subscribe(request) => request.encoded_len(),
            Self::Deliver(request) => request.encoded_len(),
        };
        if size <= QUESTION_MOST {
            return Ok(());
        }
        let detail =
            format!("{} would be a message of {size} bytes; {QUESTION_MOST} are sent", self.rpc().name());
        Err(Unusable::new(UnusableKind::QuestionTooLarge, detail))
    }

    pub(super) async fn put(
        self,
        mut hooks: HooksClient<Channel>,
        within: Duration,
        complaints: &Complaints,
    ) -> Result<Verdict, Status> {
        Ok(match self {
            Self::Connect(request) => {
                let has_will = request.will.is_some();
                let answer = hooks.auth_connect(timed(*request, within)).await?;
                verdict::connect(answer.into_inner(), has_will, complaints)
            }
            Self::Publish(request) => {
                let answer = hooks.auth_publish(timed(*request, within)).await?;
                verdict::publish(answer.into_inner(), complaints)
            }
            Self::Subscribe(request) => {
                let groups: Vec<_> =
                    request.filters.iter().map(|filter| filter.share_group.clone()).collect();
                let answer = hooks.auth_subscribe(timed(*request, within)).await?;
                verdict::subscribe(answer.into_inner(), &groups, complaints)
            }
            Self::Deliver(request) => {
                let answer = hooks.auth_deliver(timed(*request, within)).await?;
                verdict::deliver(answer.into_inner(), complaints)
            }
        })
    }
}

pub(super) fn connect(question: &ConnectQuestion<'_>) -> wire::AuthConnectRequest {
    let connect = question.connect;
    let properties = connect.properties;
    let flag = |id| properties.byte(id).map(|byte| byte != 0);
    wire::AuthConnectRequest {
        client: Some(client(question.peer)),
        password: connect.password.filter(|_| !question.refresh).map(Bytes::copy_from_slice),
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
        refresh: question.refresh,
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

pub(super) fn publish(question: &PublishQuestion<'_>) -> wire::AuthPublishRequest {
    wire::AuthPublishRequest {
        client: Some(client(question.peer)),
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
        client: Some(client(question.peer)),
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

pub(super) fn subscribe(question: &SubscribeQuestion<'_>) -> wire::AuthSubscribeRequest {
    wire::AuthSubscribeRequest {
        client: Some(client(question.peer)),
        filters: question.filters.iter().map(filter).collect(),
        subscription_identifier: question.properties.u32(PropertyId::SubscriptionIdentifier),
        user_properties: user_properties(question.properties),
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
