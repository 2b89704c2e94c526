//! Connections and clients for unit tests that need some, whoever they are.

use std::net::SocketAddr;
use std::sync::Arc;

use mproxy_codec::types::Version;
use mproxy_core::peer::{ConnectionId, Encoded, Origin, Peer, Transport, UserProperties};

/// Over TCP, at the listener `mqtt`.
pub(crate) fn origin(connection_id: u128) -> Origin {
    let any = SocketAddr::from(([127, 0, 0, 1], 1));
    Origin {
        connection_id: ConnectionId(connection_id),
        epoch: 1,
        instance: "here".into(),
        listener: "mqtt".into(),
        transport: Transport::Tcp,
        remote: any.into(),
        local: any.into(),
        tls: None,
        ws: None,
    }
}

/// Of 5.0, with a user name and no grant.
pub(crate) fn peer(origin: Arc<Origin>, client_id: &str) -> Peer {
    Peer {
        origin,
        version: Version::V5,
        client_id: client_id.into(),
        username: Some("ann".into()),
        keep_alive: 0,
        clean_start: true,
        attributes: Box::default(),
        grant: None,
        said: None,
        broker_client_id: None,
        user_properties: UserProperties::default(),
        encoded: Encoded::default(),
    }
}
