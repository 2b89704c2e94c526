//! One session in detail: what everybody may read of it, and what its own task knows.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use mproxy_core::Peer;
use mproxy_core::grant::Grant;
use mproxy_core::peer::TlsFacts;
use mproxy_core::session::SubscriptionDescription;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::admin::view::{
    BrokerTlsView, DirectionView, GrantView, LiveView, SessionDetail, SubscriptionView, TlsView,
};
use crate::orders::{RelayDescription, SessionInquiry};
use crate::registry::Handle;
use crate::timestamp::Timestamp;

/// A session answers in its next turn.
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);

/// `broker`: where its listener leads to.
pub(super) async fn of_session(handle: Arc<Handle>, broker: Option<String>) -> SessionDetail {
    let (answer, told) = oneshot::channel();
    handle.inquire(SessionInquiry::Describe { answer });
    // It has no client yet, has ended, or is late: all else is known without it.
    let live = timeout(ANSWERED_WITHIN, told).await.ok().and_then(Result::ok).flatten();
    let clock = Clock::now();
    let peer = handle.claimed_peer();
    let peer: Option<&Peer> = peer.as_deref();
    let session = live.as_ref().map(|live| &live.session);
    let grant = peer.and_then(|peer| peer.grant.as_deref()).map(|grant| GrantView {
        renews_at: session.and_then(|session| clock.at(session.renews_at?)),
        serves_until: session.and_then(|session| clock.at(session.serves_until?)),
        ..grant_view(grant, &clock)
    });
    SessionDetail {
        session: handle.view(),
        broker,
        keep_alive: peer.map(|peer| peer.keep_alive),
        clean_start: peer.map(|peer| peer.clean_start),
        attributes: peer.map(|peer| peer.attribute_table()).unwrap_or_default(),
        tls: handle.origin().tls.as_deref().map(|tls| tls_view(tls, live.as_ref())),
        grant,
        live: live.map(live_view),
    }
}

/// Two clocks at one moment: what one says of another moment, the other does, too.
struct Clock(Instant, SystemTime);

impl Clock {
    fn now() -> Self {
        Self(Instant::now(), SystemTime::now())
    }

    fn at(&self, moment: Instant) -> Option<Timestamp> {
        let Self(now, time) = self;
        let at = match moment.checked_duration_since(*now) {
            Some(ahead) => time.checked_add(ahead),
            None => time.checked_sub(now.saturating_duration_since(moment)),
        };
        at.map(Timestamp)
    }
}

fn grant_view(grant: &Grant, clock: &Clock) -> GrantView {
    GrantView {
        version: (!grant.version.is_empty()).then(|| grant.version.to_string()),
        received: grant.received.and_then(|at| clock.at(at)),
        expires_at: grant.ends().and_then(|(at, _)| clock.at(at)),
        renews_at: None,
        serves_until: None,
    }
}

fn tls_view(tls: &TlsFacts, live: Option<&RelayDescription>) -> TlsView {
    // A proxy that tells of its own TLS does not say this.
    let protection = live.and_then(|live| live.streams[0].tls);
    TlsView {
        version: tls.version.clone(),
        cipher_suite: protection.map(|tls| tls.cipher_suite),
        sni: tls.sni.clone(),
        alpn: tls.alpn.clone(),
        subject: tls.subject.clone(),
        common_name: tls.common_name.clone(),
        subject_alt_names: tls.subject_alt_names.clone(),
        fingerprint: tls.fingerprint.clone(),
        serial: tls.serial.clone(),
    }
}

fn live_view(live: RelayDescription) -> LiveView {
    let RelayDescription { session, unwritten: [to_client, to_broker], streams: [_, to] } = live;
    let [client, broker] = session.waiting;
    let both = |from_client: usize, from_broker: usize| DirectionView {
        from_client: from_client as u64,
        from_broker: from_broker as u64,
    };
    let subscription = |one: SubscriptionDescription| SubscriptionView {
        filter: one.filter.into(),
        broker_filter: one.at_broker.map(Into::into),
        granted_qos: one.granted.map(|qos| qos as u8),
    };
    LiveView {
        session_present: session.resumed,
        subscriptions: session.subscriptions.map(|all| all.into_iter().map(subscription).collect()),
        more_subscriptions: session.more_subscriptions,
        in_flight: session.in_flight,
        deliveries_in_flight: session.deliveries_in_flight,
        waiting_packets: both(client.0, broker.0),
        waiting_bytes: both(client.1, broker.1),
        unwritten_bytes: both(to_broker, to_client),
        broker_addr: to.remote.map(|remote| remote.to_string()),
        broker_tls: to.tls.map(|tls| BrokerTlsView { version: tls.version, cipher_suite: tls.cipher_suite }),
        held_bytes: session.held as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_lies_as_far_from_now_on_both_clocks() {
        let clock = Clock::now();
        let Clock(now, time) = clock;
        let hour = Duration::from_secs(3600);
        assert_eq!(clock.at(now + hour), Some(Timestamp(time + hour)));
        assert_eq!(now.checked_sub(hour).and_then(|past| clock.at(past)), Some(Timestamp(time - hour)));
    }
}
