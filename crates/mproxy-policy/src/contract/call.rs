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
use super::{Rpc, with_timeout};
use crate::post::{Again, PostChannel};
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
    call.read(&answer)
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
