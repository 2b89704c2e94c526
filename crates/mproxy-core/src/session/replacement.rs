//! One grant takes the place of another: by command, or because it was renewed.

use std::sync::Arc;

use super::context::Context;
use super::link::Link;
use crate::grant::Grant;
use crate::peer::{Peer, Side};
use crate::policy::Source;
use crate::rule::RuleEffect;

/// What followed from another grant.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Replaced {
    /// Subscriptions that ended.
    pub(super) ended: u64,
    /// Deliveries may be refused that were not before.
    pub(super) takes_back: bool,
}

impl Link {
    /// This grant is in force from now on, whatever the session is about, and these attributes, if any are said; what
    /// follows from that. Its deadlines are another matter, see [`begin_grant`](Self::begin_grant).
    ///
    /// Without one everything is asked about, and what nobody can be asked about is refused; a client that had none has
    /// none. Where the client's topics stand at the broker does not change in the middle of a session: its subscriptions
    /// are there.
    pub(super) fn replace_grant(
        &mut self,
        cx: &mut Context,
        grant: Option<Arc<Grant>>,
        attributes: Option<Vec<(String, String)>>,
    ) -> Replaced {
        self.forget_decisions();
        let mut alike = true;
        let mut receives = self.grant().is_some_and(Grant::receives);
        // Rules may name them.
        if let Some(attributes) = attributes
            && *self.peer.attributes != *attributes
        {
            alike = false;
            Peer::change(&mut self.peer).attributes = attributes.into();
        }
        if let Some(grant) = succeed(self.grant(), grant) {
            receives |= grant.receives();
            alike &= self.grant().is_some_and(|old| old.judges_like(&grant));
            self.terms.granted_packet = grant.limits.packet_size.unwrap_or(u32::MAX);
            Peer::change(&mut self.peer).grant = Some(grant);
        }
        // Most renewals bring the same rules again: nothing that is in use has to be looked at.
        if alike {
            return Replaced::default();
        }
        let ended = self.end_subscriptions(cx);
        for side in [Side::Client, Side::Broker] {
            self.judge_waiting_again(cx, side);
        }
        Replaced { ended, takes_back: ended > 0 || receives || self.has_unknown_filters() }
    }

    /// The same by command of the policy service: it renews the grant from now on, and what it was asked about the grant
    /// before counts no more.
    pub(super) fn command_grant(&mut self, cx: &mut Context, grant: Option<Arc<Grant>>) -> Replaced {
        if let Some(method) = self.rare.as_mut().and_then(|rare| rare.method.as_mut()) {
            method.outdate();
        }
        if grant.is_some() || self.rare.is_some() {
            let rare = self.rare();
            rare.granter = Some(Source::Rpc);
            rare.renewals = rare.renewals.wrapping_add(1);
        }
        self.take_awaited_renewal();
        self.replace_grant(cx, grant, None)
    }

    /// Whether a grant of this version is in force. None is of the empty version.
    pub(super) fn has_version(&self, version: &str) -> bool {
        !version.is_empty() && self.grant().is_some_and(|grant| *grant.version == *version)
    }
}

/// The grant that follows another one; `None`: there is none, as before.
pub(super) fn succeed(old: Option<&Grant>, grant: Option<Arc<Grant>>) -> Option<Arc<Grant>> {
    let mapping = old.and_then(|old| old.mapping.as_ref());
    // A grant of somebody who does not know the client's token makes it no longer, however many follow each other.
    let token = old.and_then(|old| old.token_ends_at);
    let grant = match (grant, old) {
        (None, None) => return None,
        (Some(grant), _) => grant,
        (None, Some(_)) => Arc::new(Grant::new(Vec::new(), RuleEffect::Ask)),
    };
    let token = grant.token_ends_at.or(token);
    if grant.mapping.as_ref() == mapping && grant.token_ends_at == token {
        return Some(grant);
    }
    let mut grant = (*grant).clone();
    // The prefix stays for the life of the connection: the client's subscriptions stand under it (ADR 0012).
    grant.mapping = mapping.cloned();
    grant.token_ends_at = token;
    Some(Arc::new(grant))
}
