//! What stands before whoever decides on the CONNECTs of a listener.

use std::sync::Arc;
use std::time::Instant;

use mproxy_codec::packet::Connect;
use mproxy_codec::reason::ReasonCode;
use mproxy_core::Peer;
use mproxy_core::gate::{ConnectGate, ConnectProgress, ConnectTag, GateAnswer};
use mproxy_core::policy::{About, Ground, LimitKind, Refusal, Source};
use mproxy_core::session::OnUnavailable;
use tracing::info;

use super::pacer::Pacer;
use crate::protect::Protection;
use crate::share::Neighbours;

/// Refuses who is banned or has to wait, and has the others wait for their turn, where there are turns.
pub(crate) struct ListenerGate {
    pub(crate) protection: Arc<Protection>,
    pub(crate) on_unavailable: OnUnavailable,
    pub(crate) pacer: Arc<Pacer>,
}

fn over_limit(about: About, limit: LimitKind) -> GateAnswer {
    let refusal = Refusal::new(ReasonCode::CONNECTION_RATE_EXCEEDED).about(about).by(Ground::Limit(limit));
    GateAnswer::Refuse(Source::Limit, Box::new(refusal))
}

impl ConnectGate for ListenerGate {
    fn tag(&self, connect: &Connect<'_>) -> ConnectTag {
        let Protection { flapping, failed_logins, .. } = &*self.protection;
        ConnectTag {
            client: flapping.tag(connect.client_id),
            login: failed_logins.tag(connect.username, connect.client_id),
        }
    }

    fn look(&self, peer: &Peer, tag: ConnectTag) -> GateAnswer {
        if let Some(ban) = self.protection.ban_of(peer) {
            let refusal = Refusal::new(ReasonCode::BANNED).by(ban.ground());
            return GateAnswer::Refuse(Source::Ban, Box::new(refusal));
        }
        if self.on_unavailable == OnUnavailable::Connack && self.protection.watermarks.is_refusing() {
            let refusal = Refusal::new(ReasonCode::SERVER_BUSY).by(Ground::Limit(LimitKind::Watermark));
            return GateAnswer::Refuse(Source::Limit, Box::new(refusal));
        }
        let (from, now) = (Neighbours::from(&peer.origin.remote), Instant::now());
        if self.protection.flapping.is_aside(from, tag.client, now) {
            return over_limit(About::Flapping, LimitKind::Flapping);
        }
        if self.protection.failed_logins.look(from, tag.login, now).is_err() {
            return over_limit(About::LoginBackoff, LimitKind::LoginBackoff);
        }
        if self.pacer.is_on() { GateAnswer::InTurn } else { GateAnswer::Open }
    }

    fn note(&self, peer: &Peer, progress: ConnectProgress) {
        let Protection { flapping, failed_logins, metrics, aside_lines, .. } = &*self.protection;
        let (from, now) = (Neighbours::from(&peer.origin.remote), Instant::now());
        let (waits, why) = match progress {
            ConnectProgress::Admitted { client } => {
                let waits = flapping.connected(from, client, now);
                if waits.is_some() {
                    metrics.flapping.inc();
                }
                (waits, "client connects too often, put aside")
            }
            ConnectProgress::LoginRefused { login } => {
                metrics.failed_logins.inc();
                (failed_logins.failed(from, login, now), "logins failed too often, the next has to wait")
            }
            ConnectProgress::Accepted { login } => {
                return failed_logins.succeeded(from, login, now);
            }
        };
        if let Some(wait) = waits
            && let Some(suppressed_lines) = aside_lines.take(now)
        {
            let (listener, peer_addr) = (&*peer.origin.listener, &peer.origin.remote);
            let (client_id, username) = (&*peer.client_id, peer.shown_username());
            let wait_seconds = wait.as_secs_f64();
            info!(listener, %peer_addr, client_id, username, wait_seconds, suppressed_lines, "{why}");
        }
    }
}
