//! The life of a connection as its task sees it: its relay, what is to be done when that ends, and the line that tells how.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use mproxy_core::fault::{Fault, Party, Severity};
use tracing::{debug, error, info, warn};

use super::slot::{ConnectionSlot, PendingEntry};
use crate::door::Stream;
use crate::relay::Relay;

/// A relay, and what is to be done when it ends, however it ends.
pub(super) struct Connection {
    pub(super) relay: Relay<Stream>,
    /// Until it has left.
    pub(super) slot: ConnectionSlot,
    /// Until it is admitted.
    pub(super) waiting: Option<Box<PendingEntry>>,
}

impl Connection {
    /// It is not found any more. Gives its slot, the first time. `fault`: `None` where its task goes away without a word.
    fn leave(&mut self, fault: Option<&Fault>) -> ConnectionSlot {
        let was_admitted = self.waiting.take().is_none();
        if let Some(serving) = self.slot.serving() {
            if was_admitted {
                serving.house.admitted.fetch_sub(1, Ordering::AcqRel);
            }
            let handle = self.relay.handle();
            serving.house.registry.leave(handle);
            serving.house.protection.arrivals.leave(&handle.origin().remote);
            if let Some(traces) = &serving.house.traces {
                let peer = self.relay.session().peer().map(|peer| &**peer);
                traces.end_session(handle.origin(), peer, fault);
            }
        }
        self.slot.hand_on()
    }
}

impl Connection {
    /// Another process goes on with it. Nobody is told anything.
    fn hand_over(&mut self) {
        if let Some(traces) = self.slot.serving().and_then(|serving| serving.house.traces.as_ref())
            && let Some(peer) = self.relay.session().peer()
        {
            traces.hand_over_session(&peer.origin, peer);
        }
        self.leave(None).end(|metrics| metrics.count_closed("handed_over", Party::Mproxy.name()));
        let origin = self.relay.handle().origin();
        let (connection_id, listener) = (origin.connection_id, &*origin.listener);
        debug!(%connection_id, listener, "connection handed over");
    }
}

impl Future for Connection {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<()> {
        let this = &mut *self;
        if this.relay.poll_released(cx).is_ready() {
            this.hand_over();
            return std::task::Poll::Ready(());
        }
        let polled = Pin::new(&mut this.relay).poll(cx);
        // From here on it has its place for good: strangers no longer push it out.
        if this.waiting.is_some() && this.relay.handle().is_admitted() {
            this.waiting = None;
            if let Some(serving) = this.slot.serving() {
                serving.house.admitted.fetch_add(1, Ordering::AcqRel);
            }
        }
        let fault = std::task::ready!(polled);
        let house = this.slot.serving().map(|serving| Arc::clone(&serving.house));
        // Before its line: who has read that finds it gone.
        this.leave(Some(&fault)).end(|metrics| metrics.count_end(&fault));
        // Behind that: they take the place that it had.
        if let Some(house) = house {
            let whose = (&this.relay.handle().origin().remote).into();
            this.relay.partings().for_each(|parting| house.part(parting, whose));
        }
        log_end(&this.relay, &fault);
        std::task::Poll::Ready(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        drop(self.leave(None));
    }
}

/// The line of a connection's end: as loud as an operator has to do with it.
fn log_end(relay: &Relay<Stream>, fault: &Fault) {
    let peer = relay.session().peer();
    let client_id = peer.map(|peer| &*peer.client_id);
    let username = peer.and_then(|peer| peer.username.as_deref());
    let origin = relay.handle().origin();
    let (connection_id, listener, peer_addr) = (origin.connection_id, &*origin.listener, &origin.remote);
    let (by, cause, reason_code) = (fault.by().name(), fault.label(), fault.reason().0);
    macro_rules! line {
        ($level:ident) => {
            $level!(
                %connection_id, listener, %peer_addr, client_id, username, by, cause, reason_code,
                detail = %fault,
                "connection closed"
            )
        };
    }
    match fault.severity() {
        Severity::Routine => line!(debug),
        Severity::Notice => line!(info),
        Severity::Trouble => line!(warn),
        Severity::Bug => line!(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is to be done at the end of an idle session costs it two words.
    #[test]
    fn a_connection_is_little_more_than_its_relay() {
        assert!(size_of::<Connection>() <= size_of::<Relay<Stream>>() + 16);
    }
}
