//! A bidirectional stream of HookStream: messages that we encode ourselves go out as a body, those that come are given as
//! their bytes.

use std::convert::Infallible;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::uri::PathAndQuery;
use http_body::Body;
use tonic::client::Grpc;
use tonic::codec::Streaming;
use tonic::transport::Channel;
use tonic::{Request, Status};
use tower::Service;

use super::grpc_message::RawCodec;

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
    let mut service = Grpc::new(StreamChannel { channel, body: Some(tonic::body::Body::new(body)) });
    service.ready().await.map_err(|error| Status::unknown(format!("Service was not ready: {error}")))?;
    // As a call with one request, which is replaced by the body: both have the same headers.
    let path = PathAndQuery::from_static(rpc.path());
    service
        .server_streaming(Request::new(()), path, RawCodec { reserved: RESERVED })
        .await
        .map(tonic::Response::into_inner)
}

/// A channel whose call carries the body it was made with.
struct StreamChannel {
    channel: Channel,
    body: Option<tonic::body::Body>,
}

impl Service<http::Request<tonic::body::Body>> for StreamChannel {
    type Response = http::Response<tonic::body::Body>;
    type Error = tonic::transport::Error;
    type Future = <Channel as Service<http::Request<tonic::body::Body>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::poll_ready(&mut self.channel, cx)
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let body = self.body.take().unwrap_or_else(tonic::body::Body::empty);
        self.channel.call(request.map(|_| body))
    }
}
