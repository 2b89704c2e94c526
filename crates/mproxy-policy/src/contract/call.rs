//! One call of the service, as small as it can be while it is on its way: hundreds of each client's may be.
//!
//! The generated client holds each message several times over in the state of its calls, 8 KiB in all. Here a request
//! was encoded before and an answer comes as its bytes, so that all calls have one state, which knows no message.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use prost::Message;
use tonic::client::Grpc;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::grpc_message::RawCodec;
use super::json::JsonCall;
use super::request_body::RequestBody;
use super::unreadable::{message_restricts, text_restricts};
use super::{Rpc, with_timeout};
use crate::post::{Again, PostChannel, unusable};
use crate::trace_context::{TRACEPARENT, TRACESTATE, TraceContext};

/// Bytes that are reserved for an answer before it comes; tonic's own default is 8 KiB.
const RESERVED: usize = 256;

/// The path of the call that comes before all others.
pub(super) const HELLO: &str = "/mproxy.v1.Hooks/Hello";

/// How calls reach a service. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) enum CallChannel {
    Grpc(Channel),
    Json(PostChannel),
}

impl Rpc {
    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::AuthConnect => "/mproxy.v1.Hooks/AuthConnect",
            Self::AuthPublish => "/mproxy.v1.Hooks/AuthPublish",
            Self::AuthSubscribe => "/mproxy.v1.Hooks/AuthSubscribe",
            Self::AuthDeliver => "/mproxy.v1.Hooks/AuthDeliver",
            Self::AuthExchange => "/mproxy.v1.Hooks/AuthExchange",
            Self::Connect => "/mproxy.v1.Hooks/Connect",
            Self::Publish => "/mproxy.v1.Hooks/Publish",
            Self::Subscribe => "/mproxy.v1.Hooks/Subscribe",
            Self::Unsubscribe => "/mproxy.v1.Hooks/Unsubscribe",
            Self::Disconnect => "/mproxy.v1.Hooks/Disconnect",
        }
    }
}

/// Puts what was said to the service, and gives the bytes of its answer, in protobuf whatever it came in. `context` goes
/// with it in its headers.
pub(super) async fn call(
    path: &'static str,
    body: RequestBody,
    channel: CallChannel,
    within: Duration,
    context: Option<Arc<TraceContext>>,
) -> Result<Bytes, Status> {
    match channel {
        CallChannel::Grpc(channel) => call_grpc(path, body, channel, within, context).await,
        // In a box: calls of gRPC are many, and none of them shall hold the room that this takes.
        CallChannel::Json(channel) => Box::pin(call_json(path, body, channel, within, context)).await,
    }
}

fn again(name: &str) -> Again {
    let once = Rpc::ALL.into_iter().any(|rpc| rpc.name() == name && rpc.is_asked_once());
    if once { Again::Never } else { Again::IfClosed }
}

async fn call_json(
    path: &'static str,
    body: RequestBody,
    channel: PostChannel,
    within: Duration,
    context: Option<Arc<TraceContext>>,
) -> Result<Bytes, Status> {
    let call = JsonCall::new(path.rsplit('/').next().unwrap_or_default())?;
    let json = call.write(body.into_message())?;
    let answer = channel.post(call.name(), json, within, again(call.name()), context.as_deref()).await?;
    match answer.fault {
        None => call.read(&answer.body),
        Some(fault) if text_restricts(&answer.body) => Err(unusable(format_args!("{}", fault.message()))),
        Some(fault) => Err(fault),
    }
}

async fn call_grpc(
    path: &'static str,
    body: RequestBody,
    channel: Channel,
    within: Duration,
    context: Option<Arc<TraceContext>>,
) -> Result<Bytes, Status> {
    let mut service = Grpc::new(body.into_channel(channel));
    // Waiting for it to be ready has errors of its own, which the generated client tells in these words.
    service.ready().await.map_err(|error| Status::unknown(format!("Service was not ready: {error}")))?;
    let path = PathAndQuery::from_static(path);
    // As `grpc-timeout`, too: the service can stop working on what nobody waits for any more.
    let request = with_context(with_timeout((), within), context.as_deref());
    service.unary(request, path, RawCodec { reserved: RESERVED }).await.map(tonic::Response::into_inner)
}

fn with_context<M>(mut request: Request<M>, context: Option<&TraceContext>) -> Request<M> {
    if let Some(context) = context {
        insert(request.metadata_mut(), TRACEPARENT, &context.traceparent());
        if !context.state.is_empty() {
            insert(request.metadata_mut(), TRACESTATE, &context.state);
        }
    }
    request
}

fn insert(metadata: &mut MetadataMap, name: &'static str, text: &str) {
    // Read as visible ASCII before.
    if let Ok(text) = text.parse() {
        metadata.insert(name, text);
    }
}

/// An answer from its bytes.
pub(super) fn read<M: Message + Default>(answer: Bytes) -> Result<M, Status> {
    // As tonic-prost says it.
    M::decode(answer).map_err(|error| Status::internal(error.to_string()))
}

/// The answer to a question from its bytes.
pub(super) fn read_decision<M: Message + Default>(rpc: Rpc, answer: Bytes) -> Result<M, Status> {
    read(answer.clone()).map_err(|status| match JsonCall::new(rpc.name()) {
        Ok(call) if message_restricts(&call.answer(), &answer) => {
            unusable(format_args!("{}", status.message()))
        }
        _ => status,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::wire;
    use crate::post::UNUSABLE;

    /// By a call and over a stream, both of which read answers with this.
    #[test]
    fn a_deny_in_protobuf_that_cannot_be_decoded_is_no_failed_answer() {
        let of = |rpc: Rpc, bytes: &'static [u8]| {
            let bytes = Bytes::from_static(bytes);
            let status = match rpc {
                Rpc::AuthConnect => read_decision::<wire::AuthConnectResponse>(rpc, bytes).map(drop),
                Rpc::AuthPublish => read_decision::<wire::AuthPublishResponse>(rpc, bytes).map(drop),
                Rpc::AuthSubscribe => read_decision::<wire::AuthSubscribeResponse>(rpc, bytes).map(drop),
                Rpc::AuthDeliver => read_decision::<wire::AuthDeliverResponse>(rpc, bytes).map(drop),
                _ => read_decision::<wire::AuthExchangeResponse>(rpc, bytes).map(drop),
            };
            status.expect_err("it cannot be decoded").message().to_owned()
        };
        for (rpc, bytes) in [
            // deny.reason_string is no UTF-8, as where a service repeats what a client sent.
            (Rpc::AuthConnect, &b"\x12\x03\x12\x01\xff"[..]),
            (Rpc::AuthPublish, b"\x12\x03\x12\x01\xff"),
            (Rpc::AuthDeliver, b"\x12\x03\x12\x01\xff"),
            (Rpc::AuthSubscribe, b"\x0a\x02\x0a\x00\x0a\x05\x12\x03\x12\x01\xff"),
            (Rpc::AuthExchange, b"\x1a\x03\x12\x01\xff"),
            // Cut off; and a grant with a version that is no UTF-8.
            (Rpc::AuthPublish, b"\x12\x05\x08"),
            (Rpc::AuthConnect, b"\x0a\x03\x32\x01\xff"),
        ] {
            let told = of(rpc, bytes);
            assert!(told.starts_with(UNUSABLE), "{rpc:?} {bytes:?}: {told}");
        }
        for (rpc, bytes) in
            [(Rpc::AuthPublish, &b"\x0a\x03\x0a\x01\xff"[..]), (Rpc::AuthSubscribe, b"\xff\xff")]
        {
            let told = of(rpc, bytes);
            assert!(told.starts_with("failed to decode Protobuf message"), "{rpc:?} {bytes:?}: {told}");
        }
    }
}
