//! A request as it goes over the wire: encoded once, field by field, with the client's part shared by all requests about
//! it that are on their way. Building the generated message first would hold each text twice, and each client as often
//! as there are questions.
//!
//! A question that may go over a stream has the client apart, as there the client is introduced once.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use mproxy_core::peer::Peer;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use tonic::transport::Channel;

use super::grpc_message::{BodyChannel, GrpcMessage, PREFIX};
use super::{client, wire};

/// The field of every request and event that says who it is about.
const CLIENT: u32 = 1;

/// The field of `Client` that is written by itself.
const USER_PROPERTIES: u32 = 14;

/// A client's part of up to so many bytes is copied into each request: that costs less than a frame of its own.
const COPY_UP_TO: usize = 2 << 10;

/// A whole request.
#[derive(Clone)]
pub(crate) struct RequestBody {
    /// All fields but the client's, and that one too where it is [`Within`](ClientPart::Within); behind gRPC's prefix,
    /// unless the client is [`Apart`](ClientPart::Apart).
    own: Bytes,
    client: ClientPart,
}

/// Where the client's field is.
#[derive(Clone)]
enum ClientPart {
    Within,
    Shared(Arc<Bytes>),
    /// Not encoded yet: for a stream, where most clients have been introduced long before.
    Apart(Arc<Peer>),
}

impl RequestBody {
    /// A request about this client, with the fields that `fields` encodes.
    pub(super) fn encode(peer: &Peer, fields: impl FnOnce(&mut BytesMut)) -> Self {
        Self::encode_with(encode_client_field(peer), fields)
    }

    /// The same with a client that was encoded before, its key and length included.
    pub(super) fn encode_with(client: Arc<Bytes>, fields: impl FnOnce(&mut BytesMut)) -> Self {
        let mut own = GrpcMessage::with_room(0);
        fields(own.out());
        // A client's user properties may be 64 KiB, and hundreds of its questions may be open: shared, they are held once.
        let client = if client.len() <= COPY_UP_TO {
            own.out().extend_from_slice(&client);
            ClientPart::Within
        } else {
            ClientPart::Shared(client)
        };
        // What is held is what was written.
        Self { own: Bytes::copy_from_slice(&own.finish(client.len())), client }
    }

    /// A request that is about no client.
    pub(super) fn of(message: &impl Message) -> Self {
        let mut own = GrpcMessage::with_room(message.encoded_len());
        // It grows by what is needed.
        message.encode_raw(own.out());
        Self { own: own.finish(0).freeze(), client: ClientPart::Within }
    }

    /// The same for a stream: the client is encoded only if it has to be introduced, or if the request has to go by a call
    /// of its own after all.
    pub(super) fn encode_apart(peer: &Arc<Peer>, fields: impl FnOnce(&mut BytesMut)) -> Self {
        let mut own = BytesMut::new();
        fields(&mut own);
        Self { own: Bytes::copy_from_slice(&own), client: ClientPart::Apart(Arc::clone(peer)) }
    }

    /// What goes over a stream: the fields, and whose they are. `None`: it was encoded for a call of its own.
    pub(super) fn apart(&self) -> Option<(&Bytes, &Arc<Peer>)> {
        match &self.client {
            ClientPart::Apart(peer) => Some((&self.own, peer)),
            ClientPart::Within | ClientPart::Shared(_) => None,
        }
    }

    /// With the client in it, for a call of its own.
    fn whole(self) -> Self {
        match &self.client {
            ClientPart::Apart(peer) => Self::encode(peer, |out| out.extend_from_slice(&self.own)),
            ClientPart::Within | ClientPart::Shared(_) => self,
        }
    }

    /// Bytes of the message, where they are more than `most`; below it at least those that are known without encoding the
    /// client.
    pub(super) fn size(&self, most: usize) -> usize {
        /// Encoded, a client takes up to so many times its weight, and so many bytes on top: addresses, certificates, the
        /// headers of a WebSocket.
        const TIMES: usize = 2;
        const ON_TOP: usize = 256 << 10;
        match &self.client {
            ClientPart::Apart(peer) if self.own.len() + TIMES * peer.weight() + ON_TOP > most => {
                self.own.len() + encode_client_field(peer).len()
            }
            ClientPart::Apart(_) => self.own.len(),
            ClientPart::Within | ClientPart::Shared(_) => self.own.len() - PREFIX + self.client.len(),
        }
    }

    /// The message, to be read as what it is.
    #[cfg(test)]
    pub(super) fn read<M: Message + Default>(&self) -> M {
        M::decode(self.clone().into_message()).expect("what was encoded can be decoded")
    }

    /// A channel whose next call carries this, whatever message it is given.
    pub(super) fn into_channel(self, channel: Channel) -> BodyChannel<Parts> {
        let (own, client) = self.into_parts();
        BodyChannel::new(channel, Parts([Some(own), client]))
    }

    /// The message without gRPC's prefix.
    pub(super) fn into_message(self) -> impl Buf {
        let (own, client) = self.into_parts();
        own.slice(PREFIX..).chain(client.unwrap_or_default())
    }

    /// The bytes of the message behind gRPC's prefix, and those of the client where it is not among them.
    fn into_parts(self) -> (Bytes, Option<Bytes>) {
        let Self { own, client } = self.whole();
        match client {
            ClientPart::Shared(client) => (own, Some(Bytes::clone(&client))),
            ClientPart::Within | ClientPart::Apart(_) => (own, None),
        }
    }
}

impl ClientPart {
    /// Bytes that it adds to those of the request.
    fn len(&self) -> usize {
        match self {
            Self::Shared(client) => client.len(),
            Self::Within | Self::Apart(_) => 0,
        }
    }
}

/// The client's field, its key included: shared with all that hold it at the time.
pub(super) fn encode_client_field(peer: &Peer) -> Arc<Bytes> {
    peer.encoded.or_encode(|| encode_client(peer))
}

fn encode_client(peer: &Peer) -> Bytes {
    let known = client(peer);
    let mut properties = BytesMut::new();
    for (name, value) in peer.user_properties.iter() {
        let property = wire::UserProperty { name: name.to_owned(), value: value.to_owned() };
        prost::encoding::message::encode(USER_PROPERTIES, &property, &mut properties);
    }
    let len = known.encoded_len() + properties.len();
    // And the key and the length of the field.
    let mut out = Vec::with_capacity(len + 8);
    encode_key(CLIENT, WireType::LengthDelimited, &mut out);
    encode_varint(len as u64, &mut out);
    known.encode_raw(&mut out);
    out.extend_from_slice(&properties);
    out.into()
}

/// The bytes of a request, shared with whoever may have to send it again.
pub(super) struct Parts([Option<Bytes>; 2]);

impl Body for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.iter_mut().find_map(Option::take).map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    fn size_hint(&self) -> SizeHint {
        // hyper makes it the content-length, by which a gateway refuses what is too large before it has read it.
        SizeHint::with_exact(self.0.iter().flatten().map(|bytes| bytes.len() as u64).sum())
    }
}
