//! The client that an event is about: one that is or was connected, or one whose encoding was read from disk.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use mproxy_core::peer::Peer;

use super::request_body::encode_client_field;

/// Whose event it is.
#[derive(Clone, Debug)]
pub(crate) enum EventClient {
    /// Encoded when it is needed.
    Live(Arc<Peer>),
    /// As it was encoded by an mproxy before this one.
    Kept(KeptClient),
}

/// A client as it was encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeptClient {
    /// The number of its connection.
    pub(crate) connection: u128,
    /// The field of a request that names it, its key and length included.
    pub(crate) field: Arc<Bytes>,
}

/// Tells whether a client is still as it was. Keeps nothing of it alive but its place in memory.
#[derive(Clone, Debug)]
pub(crate) enum ClientIdentity {
    Live(Weak<Peer>),
    Kept(Arc<Bytes>),
}

impl EventClient {
    /// The number of its connection.
    pub(crate) fn connection(&self) -> u128 {
        match self {
            Self::Live(peer) => peer.origin.connection_id.0,
            Self::Kept(kept) => kept.connection,
        }
    }

    pub(crate) fn identity(&self) -> ClientIdentity {
        match self {
            // A peer that changes moves, as somebody else looks at where it is.
            Self::Live(peer) => ClientIdentity::Live(Arc::downgrade(peer)),
            Self::Kept(kept) => ClientIdentity::Kept(Arc::clone(&kept.field)),
        }
    }

    /// As it stands in a request, its key and length included.
    pub(crate) fn field(&self) -> Arc<Bytes> {
        match self {
            Self::Live(peer) => encode_client_field(peer),
            Self::Kept(kept) => Arc::clone(&kept.field),
        }
    }
}

impl PartialEq for ClientIdentity {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Live(one), Self::Live(other)) => one.ptr_eq(other),
            (Self::Kept(one), Self::Kept(other)) => Arc::ptr_eq(one, other) || one == other,
            (Self::Live(_), Self::Kept(_)) | (Self::Kept(_), Self::Live(_)) => false,
        }
    }
}
