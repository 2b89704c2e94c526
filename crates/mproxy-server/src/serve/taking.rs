//! A connection that another process has accepted: this one takes its place under the limits, reads its session, and goes on
//! with it when that one has let go.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use mproxy_core::Session;
use mproxy_core::peer::ConnectionId;
use tracing::debug;

use super::Serving;
use super::ending::Connection;
use super::slot::ConnectionSlot;
use crate::door::{SharedStream, Stream};
use crate::handover::WrittenConnection;
use crate::registry::{ConnectionPhase, Handle};
use crate::relay::{Relay, RelayHost, ResumedStreams};

/// A connection of another process, with its place here. Nothing of its streams has been touched. Dropped, it is still the other
/// one's.
pub(crate) struct TakenConnection {
    serving: Arc<Serving>,
    slot: ConnectionSlot,
    session: Session,
    accepted: SystemTime,
    streams: ResumedStreams<Stream>,
}

/// Why this process does not take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotTaken {
    /// Its session cannot be read.
    Unreadable,
    /// There are as many connections as may be.
    MaxConnections,
    /// Its sockets cannot be used.
    Sockets,
}

impl NotTaken {
    /// A label.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::MaxConnections => "max_connections",
            Self::Sockets => "sockets",
        }
    }
}

impl Serving {
    /// Takes a connection of another process that came in by this listener. Call it inside the runtime.
    pub(crate) fn take_over(
        self: &Arc<Self>,
        written: WrittenConnection,
        sockets: [SharedStream; 2],
    ) -> Result<TakenConnection, NotTaken> {
        let accepted = written.accepted();
        let WrittenConnection { unread, unwritten, session, .. } = written;
        let setting = Arc::clone(&self.terms.load().setting);
        let session = Session::import(&session, setting, Instant::now()).map_err(|error| {
            debug!(listener = &*self.name, %error, "session of another process not taken");
            NotTaken::Unreadable
        })?;
        let peer = session.peer().ok_or(NotTaken::Unreadable)?;
        let whose = (&peer.origin.remote).into();
        let slot = ConnectionSlot::take_admitted(self, whose).map_err(|_| NotTaken::MaxConnections)?;
        let [client, broker] = sockets.map(Stream::try_from);
        let (Ok(client), Ok(broker)) = (client, broker) else {
            slot.end(|metrics| metrics.count_closed("handed_back", "mproxy"));
            return Err(NotTaken::Sockets);
        };
        let streams = ResumedStreams { streams: [client, broker], unread, unwritten: unwritten.map(own) };
        Ok(TakenConnection { serving: Arc::clone(self), slot, session, accepted, streams })
    }
}

/// A part of a larger whole, which it shall not keep alive.
fn own(bytes: Bytes) -> Bytes {
    Bytes::copy_from_slice(&bytes)
}

impl TakenConnection {
    /// Which it is.
    pub(crate) fn connection_id(&self) -> Option<ConnectionId> {
        self.session.peer().map(|peer| peer.origin.connection_id)
    }

    /// The other process has let go of it.
    pub(crate) fn begin(self) {
        let Self { serving, slot, session, accepted, streams } = self;
        // It was there when it was taken, and nothing has happened since.
        let Some(peer) = session.peer().cloned() else { return };
        let origin = &peer.origin;
        let house = &serving.house;
        debug!(connection_id = %origin.connection_id, listener = &*serving.name, "connection taken over");
        house.protection.arrivals.take_over(&origin.remote);
        if let Some(traces) = &house.traces {
            traces.begin_session(origin);
        }
        let handle = Arc::new(Handle::accepted_at(origin, accepted));
        handle.set_phase(ConnectionPhase::Open);
        handle.count(session.traffic());
        house.registry.enter(&handle);
        let host = Arc::clone(&serving) as Arc<dyn RelayHost<Stream>>;
        let relay = Relay::resumed(streams, session, handle, host, Instant::now());
        house.admitted.fetch_add(1, Ordering::AcqRel);
        house.tasks.spawn(Connection { relay, slot, waiting: None });
    }

    /// The other process keeps it.
    pub(crate) fn give_back(self) {
        self.slot.end(|metrics| metrics.count_closed("handed_back", "mproxy"));
    }
}
