//! A message of gRPC that is put together by hand, field by field, of parts that were encoded before; and the channel and
//! the codec that let such messages pass: what goes out has been encoded, what comes in is given as its bytes.

use std::convert::Infallible;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body::Body;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tower::Service;

/// Flags and length in front of each message of gRPC.
pub(super) const PREFIX: usize = 5;

/// A message while it is written, behind gRPC's prefix. Its fields stand in it in the order in which they were added: in
/// protobuf, fields that repeat may alternate.
pub(super) struct GrpcMessage(BytesMut);

impl GrpcMessage {
    /// An empty one, with room for so many bytes.
    pub(super) fn with_room(room: usize) -> Self {
        let mut out = BytesMut::with_capacity(PREFIX + room);
        out.put_bytes(0, PREFIX);
        Self(out)
    }

    /// Bytes so far, without the prefix.
    pub(super) fn len(&self) -> usize {
        self.0.len() - PREFIX
    }

    /// Where fields that were encoded before, or encode themselves, are written to.
    pub(super) const fn out(&mut self) -> &mut BytesMut {
        &mut self.0
    }

    /// The beginning of a field with so many bytes in it, which follow.
    pub(super) fn key(&mut self, field: u32, len: usize) {
        encode_key(field, WireType::LengthDelimited, &mut self.0);
        encode_varint(len as u64, &mut self.0);
    }

    pub(super) fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.key(field, bytes.len());
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn number(&mut self, field: u32, number: u64) {
        encode_key(field, WireType::Varint, &mut self.0);
        encode_varint(number, &mut self.0);
    }

    pub(super) fn message(&mut self, field: u32, message: &impl Message) {
        prost::encoding::message::encode(field, message, &mut self.0);
    }

    /// Introduces a client, of which this is the field in a request; both streams do it in the same words.
    pub(super) fn introduce(&mut self, client_ref: u64, client_field: &[u8]) {
        // DecideRequest.introduce and ObserveRequest.introduce; Introduction.client_ref and client.
        const INTRODUCE: u32 = 1;
        const CLIENT_REF: u32 = 1;
        const CLIENT: u32 = 2;
        let client = without_key(client_field);
        self.key(INTRODUCE, number_len(client_ref) + bytes_len(client.len()));
        self.number(CLIENT_REF, client_ref);
        self.bytes(CLIENT, client);
    }

    /// Says that these references are not used any more.
    pub(super) fn forget(&mut self, field: u32, client_refs: &[u64]) {
        prost::encoding::uint64::encode_packed(field, client_refs, &mut self.0);
    }

    /// The message with its prefix, whose length counts `more` bytes that follow in another part.
    pub(super) fn finish(mut self, more: usize) -> BytesMut {
        // A packet of MQTT, and a message of a stream, are below this by far; what is not would be refused by the service
        // as malformed.
        let len = u32::try_from(self.len() + more).unwrap_or(u32::MAX);
        if let Some(prefix) = self.0.get_mut(1..PREFIX) {
            prefix.copy_from_slice(&len.to_be_bytes());
        }
        self.0
    }

    /// The whole message; `None`: there is nothing in it.
    pub(super) fn finish_if_any(self) -> Option<Bytes> {
        (self.len() > 0).then(|| self.finish(0).freeze())
    }
}

/// Bytes of a field with this many bytes in it, whose number is below 16.
pub(super) const fn bytes_len(len: usize) -> usize {
    1 + encoded_len_varint(len as u64) + len
}

/// Bytes of a field with this number in it, whose own number is below 16.
pub(super) const fn number_len(number: u64) -> usize {
    1 + encoded_len_varint(number)
}

/// A client without the key and length that stand before it in a request.
fn without_key(field: &[u8]) -> &[u8] {
    // The key is one byte, its number being below 16; the length is a varint, which ends with the first byte below
    // 0x80.
    let rest = field.get(1..).unwrap_or_default();
    let length = rest.iter().position(|byte| byte & 0x80 == 0).map_or(rest.len(), |last| last + 1);
    rest.get(length..).unwrap_or_default()
}

/// A channel whose next call carries this body in the place of the one that tonic makes, of which nothing but headers and
/// timeout is used: the real one was encoded before, or is encoded when it can be written.
pub(super) struct BodyChannel<B> {
    channel: Channel,
    body: Option<B>,
}

impl<B> BodyChannel<B> {
    pub(super) const fn new(channel: Channel, body: B) -> Self {
        Self { channel, body: Some(body) }
    }
}

impl<B> Service<http::Request<tonic::body::Body>> for BodyChannel<B>
where
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = tonic::transport::Error;
    type Future = <Channel as Service<http::Request<tonic::body::Body>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::poll_ready(&mut self.channel, cx)
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let body = self.body.take().map_or_else(tonic::body::Body::empty, tonic::body::Body::new);
        self.channel.call(request.map(|_| body))
    }
}

/// Nothing out, as what goes out is a body that has been encoded; bytes in, so that the state of a call knows no message.
#[derive(Clone, Copy)]
pub(super) struct RawCodec {
    /// Bytes that are reserved for a message before it comes. It grows by what is needed.
    pub(super) reserved: usize,
}

/// Bytes at which tonic gives away what was encoded, of which there is nothing here.
const YIELD: usize = 32 << 10;

impl Codec for RawCodec {
    type Encode = ();
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self { reserved: 0 }
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for RawCodec {
    type Item = ();
    type Error = Status;

    fn encode(&mut self, (): (), _: &mut EncodeBuf<'_>) -> Result<(), Status> {
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(self.reserved, YIELD)
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(message.copy_to_bytes(message.remaining())))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(self.reserved, YIELD)
    }
}
