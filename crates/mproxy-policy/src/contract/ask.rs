//! Questions, as the contract puts them.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
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
use super::said::{Said, placeholder};
use super::{Rpc, publish_properties, shared, user_properties, verdict, wire};

/// Bytes of the largest question. What gRPC servers take without being told otherwise is 4 MiB, and a question that one
/// refuses as too large would be a failed answer, which a client must not be able to choose.
pub(crate) const QUESTION_MOST: usize = 4_000_000;

/// A question, copied out of its packet. No `Debug`: it may hold a password.
#[derive(Clone)]
pub(crate) struct Ask {
    said: Said,
    about: About,
}

/// Which question it is, and what is needed to read the answer.
#[derive(Clone)]
enum About {
    Connect {
        what: Asked,
    },
    Publish,
    Subscribe {
        filters: usize,
        /// The groups of those that are shared, by their place.
        groups: Box<[(usize, Box<str>)]>,
    },
    Deliver,
}

/// What an `AuthConnect` was asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// A client that said CONNECT.
    Client { has_will: bool },
    /// A running session's grant.
    Renewal,
}

impl Asked {
    fn of(question: &ConnectQuestion<'_>) -> Self {
        if question.refresh {
            return Self::Renewal;
        }
        Self::Client { has_will: question.connect.will.is_some() }
    }
}

impl Ask {
    pub(crate) fn new(question: &Question<'_>) -> Self {
        let about = match question {
            Question::Connect(question) => About::Connect { what: Asked::of(question) },
            Question::Publish(_) => About::Publish,
            Question::Subscribe(question) => {
                About::Subscribe { filters: question.filters.len(), groups: groups(question) }
            }
            Question::Deliver(_) => About::Deliver,
        };
        // Writing to a buffer that grows cannot fail.
        let said = Said::about(question.peer(), |out| match question {
            Question::Connect(question) => connect(question).encode_raw(out),
            Question::Publish(question) => publish(question).encode_raw(out),
            Question::Subscribe(question) => subscribe(question, out),
            Question::Deliver(question) => deliver(question).encode_raw(out),
        });
        Self { said, about }
    }

    pub(crate) const fn rpc(&self) -> Rpc {
        match self.about {
            About::Connect { .. } => Rpc::AuthConnect,
            About::Publish => Rpc::AuthPublish,
            About::Subscribe { .. } => Rpc::AuthSubscribe,
            About::Deliver => Rpc::AuthDeliver,
        }
    }

    /// Whether it is within [`QUESTION_MOST`].
    ///
    /// # Errors
    /// The refusal of the packet that it is about.
    pub(crate) fn fits(&self) -> Result<(), Unusable> {
        let size = self.said.size();
        if size <= QUESTION_MOST {
            return Ok(());
        }
        let detail =
            format!("{} would be a message of {size} bytes; {QUESTION_MOST} are sent", self.rpc().name());
        Err(Unusable::new(UnusableKind::QuestionTooLarge, detail))
    }

    pub(super) async fn put(
        self,
        channel: Channel,
        within: Duration,
        complaints: &Complaints,
    ) -> Result<Verdict, Status> {
        let mut hooks = self.said.over(channel);
        Ok(match self.about {
            About::Connect { what } => {
                let answer = hooks.auth_connect(placeholder(within)).await?;
                verdict::connect(answer.into_inner(), what, complaints)
            }
            About::Publish => {
                let answer = hooks.auth_publish(placeholder(within)).await?;
                verdict::publish(answer.into_inner(), complaints)
            }
            About::Subscribe { filters, groups } => {
                let answer = hooks.auth_subscribe(placeholder(within)).await?;
                verdict::subscribe(answer.into_inner(), filters, &groups, complaints)
            }
            About::Deliver => {
                let answer = hooks.auth_deliver(placeholder(within)).await?;
                verdict::deliver(answer.into_inner(), complaints)
            }
        })
    }

    #[cfg(test)]
    pub(super) fn read<M: Message + Default>(&self) -> M {
        self.said.read()
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
