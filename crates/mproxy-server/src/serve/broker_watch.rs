//! How the broker of a listener was reached the last time: by a client's dial, or, where there was none lately, by one that
//! is made to know.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mproxy_core::fault::Unreachable;
use mproxy_core::peer::{ConnectionId, Origin, Transport};
use tokio::time::Instant;

use super::Serving;

/// A dial that is not older still says how the broker is.
const FRESH: Duration = Duration::from_secs(10);

/// For a dial that is made to know.
const DIALLED_WITHIN: Duration = Duration::from_secs(2);

/// What came of a dial.
#[derive(Clone, Debug)]
pub(crate) struct LastDial {
    pub(crate) at: SystemTime,
    /// Why it failed.
    pub(crate) error: Option<Box<str>>,
}

/// The last dial of a listener.
#[derive(Debug, Default)]
pub(crate) struct BrokerWatch {
    last: Option<LastDial>,
    /// When the last one began that was made to know: there is one at a time, and none soon after another.
    looked: Option<Instant>,
}

impl BrokerWatch {
    /// A dial has ended.
    pub(super) fn note(&mut self, failed: Option<&Unreachable>) {
        let error = failed.map(|failed| failed.why.clone());
        self.last = Some(LastDial { at: SystemTime::now(), error });
    }

    /// Whether one is to be made to know.
    fn begin_look(&mut self, now: Instant) -> bool {
        let age = self.last.as_ref().map(|last| last.at.elapsed().unwrap_or_default());
        let is_due = age.is_none_or(|age| age > FRESH)
            && self.looked.is_none_or(|looked| now.duration_since(looked) > FRESH);
        if is_due {
            self.looked = Some(now);
        }
        is_due
    }
}

impl Serving {
    /// How the broker was reached the last time; `look`: it is dialled where that is long ago, but never often.
    pub(crate) async fn last_dial(&self, look: bool) -> Option<LastDial> {
        let now = Instant::now();
        if look && self.broker.lock().begin_look(now) {
            let dial = self.terms.load().outward.reach(&self.nobody(), now + DIALLED_WITHIN);
            let reached = dial.await;
            // The connection ends at once: that it was there is all that is asked.
            self.broker.lock().note(reached.as_ref().err().map(|failed| &failed.why));
        }
        self.broker.lock().last.clone()
    }

    /// The broker, as errors and the log call it.
    pub(crate) fn target(&self) -> String {
        self.terms.load().outward.target().to_owned()
    }

    /// Who it is dialled for where there is no client.
    fn nobody(&self) -> Arc<Origin> {
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        Arc::new(Origin {
            connection_id: ConnectionId(0),
            epoch: 0,
            instance: Arc::clone(&self.house.instance),
            listener: Arc::clone(&self.name),
            transport: Transport::Tcp,
            remote: nowhere.into(),
            local: nowhere.into(),
            tls: None,
            ws: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_broker_is_dialled_to_know_only_where_nobody_did_and_seldom() {
        let mut watch = BrokerWatch::default();
        assert!(watch.begin_look(Instant::now()));
        assert!(!watch.begin_look(Instant::now()), "one at a time");
        tokio::time::advance(2 * FRESH).await;
        assert!(watch.begin_look(Instant::now()));
        watch.note(None);
        tokio::time::advance(2 * FRESH).await;
        // By the clock on the wall it was just now.
        assert!(!watch.begin_look(Instant::now()), "a client's dial says enough");
        watch.note(Some(&Unreachable::away("refused")));
        assert_eq!(watch.last.and_then(|last| last.error).as_deref(), Some("refused"));
    }
}
