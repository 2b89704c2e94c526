//! The sessions there are, and their spans. Apart from the sessions themselves, which hold nothing for traces that are off.

use std::array;
use std::collections::HashMap;

use mproxy_codec::types::Version;
use mproxy_core::fault::{Fault, Party, Severity};
use mproxy_core::peer::{Address, ConnectionId, Origin, Peer, Transport};
use mproxy_policy::trace_context::TraceContext;
use parking_lot::Mutex;
use tracing::info_span;

use super::span::{Recording, TARGET};

/// Locks, so that sessions of different threads seldom meet.
const SHARDS: usize = 16;

/// A session that began.
struct SessionSpan {
    context: TraceContext,
    /// Boxed: of most there is none, where few are sampled.
    recording: Option<Box<Recording>>,
}

/// By connection.
pub(super) struct Sessions([Mutex<HashMap<u128, SessionSpan>>; SHARDS]);

impl Default for Sessions {
    fn default() -> Self {
        Self(array::from_fn(|_| Mutex::default()))
    }
}

impl Sessions {
    fn shard(&self, connection: ConnectionId) -> &Mutex<HashMap<u128, SessionSpan>> {
        &self.0[(connection.0 % SHARDS as u128) as usize]
    }

    pub(super) fn begin(&self, origin: &Origin) {
        let span = info_span!(target: TARGET, parent: None, "mqtt session", otel.kind = "server");
        let (context, recording) = Recording::begin(span);
        if let Some(recording) = &recording {
            describe(recording, origin);
        }
        let session = SessionSpan { context, recording: recording.map(Box::new) };
        self.shard(origin.connection_id).lock().insert(origin.connection_id.0, session);
    }

    /// What a session's span is in the eyes of others; `None`: it has ended.
    pub(super) fn context_of(&self, connection: ConnectionId) -> Option<TraceContext> {
        Some(self.shard(connection).lock().get(&connection.0)?.context.clone())
    }

    /// The same, if it is recorded.
    pub(super) fn recorded(&self, connection: ConnectionId) -> Option<TraceContext> {
        let shard = self.shard(connection).lock();
        Some(shard.get(&connection.0).filter(|session| session.recording.is_some())?.context.clone())
    }

    /// It goes on in another process, in a span of that one.
    pub(super) fn hand_over(&self, origin: &Origin, peer: &Peer) {
        let session = self.shard(origin.connection_id).lock().remove(&origin.connection_id.0);
        let Some(recording) = session.and_then(|session| session.recording) else { return };
        recording.set_text("messaging.client.id", &peer.client_id);
        recording.set("network.protocol.version", version(peer.version));
        recording.set("mproxy.cause", "handed_over");
        recording.set("mproxy.by", Party::Mproxy.name());
    }

    pub(super) fn end(&self, origin: &Origin, peer: Option<&Peer>, fault: Option<&Fault>) {
        // A statement of its own: the span is put into the queue without the lock.
        let session = self.shard(origin.connection_id).lock().remove(&origin.connection_id.0);
        let Some(recording) = session.and_then(|session| session.recording) else { return };
        if let Some(peer) = peer {
            recording.set_text("messaging.client.id", &peer.client_id);
            recording.set("network.protocol.version", version(peer.version));
        }
        let Some(fault) = fault else {
            recording.set("mproxy.cause", "aborted");
            return recording.set_failed("aborted");
        };
        recording.set("mproxy.cause", fault.label());
        recording.set("mproxy.by", fault.by().name());
        recording.set("mproxy.reason_code", i64::from(fault.reason().0));
        if fault.severity() >= Severity::Trouble {
            recording.set_failed(fault.label());
        }
    }
}

fn describe(recording: &Recording, origin: &Origin) {
    recording.set("mproxy.connection_id", origin.connection_id.to_string());
    recording.set("mproxy.listener", origin.listener.to_string());
    recording.set("mproxy.transport", origin.transport.name());
    recording.set("messaging.system", "mqtt");
    recording.set("network.protocol.name", "mqtt");
    recording.set("network.transport", if origin.transport == Transport::Unix { "unix" } else { "tcp" });
    match &origin.remote {
        Address::Ip(address) => {
            recording.set("network.peer.address", address.ip().to_string());
            recording.set("network.peer.port", i64::from(address.port()));
        }
        Address::Process(_) | Address::Path(_) => {
            recording.set_text("network.peer.address", &origin.remote.to_string());
        }
    }
}

const fn version(version: Version) -> &'static str {
    match version {
        Version::V31 => "3.1",
        Version::V311 => "3.1.1",
        Version::V5 => "5.0",
    }
}
