//! A bidirectional stream of HookStream: messages that we encode ourselves go out as a body, those that come are given as
//! their bytes.

use std::convert::Infallible;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http_body::Body;
use tonic::client::Grpc;
use tonic::codec::Streaming;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::grpc_message::{BodyChannel, RawCodec};

/// Bytes that are reserved for messages before they come: many answers are in one.
const RESERVED: usize = 8 << 10;

/// The streams of HookStream.
#[derive(Clone, Copy, Debug)]
pub(crate) enum StreamRpc {
    Decide,
    Observe,
}

impl StreamRpc {
    const fn path(self) -> &'static str {
        match self {
            Self::Decide => "/mproxy.v1.HookStream/Decide",
            Self::Observe => "/mproxy.v1.HookStream/Observe",
        }
    }
}

/// Opens a stream on this channel, over which goes what `body` gives: messages with gRPC's prefix.
///
/// It returns when the service has sent its headers, which many a library does with its first message only. What `body`
/// gives is sent meanwhile. Messages of more than 4 MiB, which is gRPC's own limit, end the stream with an error.
pub(crate) async fn open_stream<B>(
    rpc: StreamRpc,
    channel: Channel,
    body: B,
) -> Result<Streaming<Bytes>, Status>
where
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let mut service = Grpc::new(BodyChannel::new(channel, body));
    service.ready().await.map_err(|error| Status::unknown(format!("Service was not ready: {error}")))?;
    // As a call with one request, which is replaced by the body: both have the same headers.
    let path = PathAndQuery::from_static(rpc.path());
    service
        .server_streaming(Request::new(()), path, RawCodec { reserved: RESERVED })
        .await
        .map(tonic::Response::into_inner)
}
