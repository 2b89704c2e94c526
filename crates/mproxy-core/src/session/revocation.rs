//! What a grant takes back of that which is in use: subscriptions that it does not allow, and deliveries that no other
//! explains.
//!
//! - **A subscription** goes on where rules allow its filter, and where they leave it to others: if nobody but rules had
//!   allowed it, it ends then, too. Its QoS stays.
//! - **A delivery** passes, from then on, where a subscription that goes on explains it. Where there are filters that were
//!   never seen (the broker goes on with an old session), it also does where rules allow a subscription to its very topic,
//!   or the grant names RECEIVE and allows it.
//!
//! In an old session that goes on, what was taken back before stays so: from the start a delivery that nothing explains
//! does not pass where rules refuse a subscription to its topic. Where they leave it to others, it passes, as somebody may
//! have allowed it then.

use std::collections::BTreeSet;

use mproxy_codec::reason::ReasonCode;
use mproxy_codec::topic::matches;

use super::context::Context;
use super::known_filters::AllowedBy;
use super::link::Link;
use crate::grant::{Grant, GrantAnswer, GrantGround};
use crate::peer::Side;
use crate::policy::{Decision, Hook, OnError, PublishDecision, Refusal, Ruling, Source, Undecided};
use crate::rule::{Act, AskedFilter, Message, Who};

/// A filter that the client has subscribed to. With which QoS is not remembered.
fn known<'f>(cx: &Context, filter: &'f str) -> AskedFilter<'f> {
    AskedFilter { filter, qos: None, time: cx.setting.clock.time() }
}

impl Link {
    /// What becomes of a delivery that nothing explains.
    pub(super) fn revoked_ruling(&self) -> Ruling<PublishDecision> {
        let refusal = Refusal::new(ReasonCode::NOT_AUTHORIZED).by(self.grant_ground(GrantGround::Revoked));
        Ruling::new(Source::Grant, Ok(Decision::Refuse(refusal)))
    }

    /// Ends the subscriptions that are not allowed any more, and gives their number. From now on deliveries are judged,
    /// if there were some, or there may be.
    pub(super) fn end_subscriptions(&mut self, cx: &mut Context) -> u64 {
        let (own, renamed) = (self.known_to_end(cx), self.renames_to_end(cx));
        let mut names = BTreeSet::new();
        for filter in &own {
            names.insert(self.mapped_filter(filter).unwrap_or_default().unwrap_or_else(|| filter.clone()));
            if let Some(rare) = &mut self.rare {
                rare.known.remove(filter);
            }
        }
        for filter in &renamed {
            names.extend(self.known_subscriptions_mut().and_then(|books| books.take_rename(filter)));
        }
        if let Some(books) = self.known_subscriptions_mut() {
            own.iter().chain(&renamed).for_each(|filter| books.names.remove(filter));
            // A filter that goes on may have been rewritten to the same name.
            names.retain(|name| !books.is_sent(name));
        }
        if let Some(rare) = &self.rare {
            // What the client says itself may be what another filter of it was rewritten to.
            for (filter, _) in rare.known.iter() {
                names.remove(
                    &*self.mapped_filter(filter).unwrap_or_default().unwrap_or_else(|| filter.into()),
                );
            }
        }
        let ended = own.len() + renamed.len();
        self.revoked |= ended > 0 || self.has_unknown_filters();
        self.end_at_broker(cx, names.into_iter().collect());
        ended as u64
    }

    /// Filters that the broker knows as the client says them, and that are not allowed any more.
    fn known_to_end(&self, cx: &Context) -> Vec<Box<str>> {
        let Some(rare) = &self.rare else { return Vec::new() };
        let ends = |filter: &str, by| match cx.setting.advisers.filter(&self.peer, known(cx, filter)) {
            GrantAnswer::Allow(()) => false,
            GrantAnswer::Refuse(_) => true,
            GrantAnswer::Ask => by == AllowedBy::Rules,
        };
        rare.known.iter().filter(|(filter, by)| ends(filter, *by)).map(|(filter, _)| filter.into()).collect()
    }

    /// Filters that the broker knows as something else, and that are not allowed any more. Rules rewrite nothing: somebody
    /// was asked about them.
    fn renames_to_end(&self, cx: &Context) -> Vec<Box<str>> {
        let Some(books) = self.known_subscriptions() else { return Vec::new() };
        let refused = |filter: &str| {
            matches!(cx.setting.advisers.filter(&self.peer, known(cx, filter)), GrantAnswer::Refuse(_))
        };
        let ends = |asked: &str, sent: &str| {
            refused(asked) || self.client_s_filter(sent).is_none_or(|own| refused(&own))
        };
        books.renames().filter(|(asked, sent)| ends(asked, sent)).map(|(asked, _)| asked.into()).collect()
    }

    /// Whether the broker may have subscriptions that are not remembered.
    pub(super) fn has_unknown_filters(&self) -> bool {
        self.terms.resumed || self.rare.as_ref().is_some_and(|rare| rare.known.is_incomplete())
    }

    /// Whether deliveries have to be explained at all.
    pub(super) const fn explains_deliveries(&self) -> bool {
        self.revoked || self.judges_unseen
    }

    /// Whether a delivery, with its topic as the broker knows it, may pass: nothing was taken back, or it is explained by what
    /// goes on.
    pub(super) fn is_explained(&self, cx: &mut Context, delivery: Message<'_>) -> bool {
        let topic = delivery.topic;
        if !self.explains_deliveries() {
            return true;
        }
        // One of the broker's that is none of this client's is refused for that.
        let Some(own) = self.policy_topic(Side::Broker, topic) else { return true };
        if let Some(rare) = &self.rare {
            // A long walk for each delivery to a client of many filters: it counts as work of this read.
            cx.spend(rare.known.len());
            if rare.known.iter().any(|(filter, _)| matches(filter, &own)) {
                return true;
            }
        }
        if let Some(books) = self.known_subscriptions()
            && books.sent_names().any(|sent| matches(sent, topic))
        {
            return true;
        }
        self.has_unknown_filters() && self.may_have_subscribed(cx, Message { topic: &own, ..delivery })
    }

    /// Whether a filter that was never seen may explain a delivery.
    fn may_have_subscribed(&self, cx: &mut Context, delivery: Message<'_>) -> bool {
        self.charge_work(cx, Hook::Subscribe, 1, delivery.topic.len());
        match cx.setting.advisers.filter(&self.peer, known(cx, delivery.topic)) {
            GrantAnswer::Allow(()) => true,
            GrantAnswer::Refuse(_) => self.names_received(delivery),
            GrantAnswer::Ask => self.names_received(delivery) || (!self.revoked && self.leaves_unseen(cx)),
        }
    }

    /// Whether the grant names deliveries, and allows this one.
    fn names_received(&self, delivery: Message<'_>) -> bool {
        self.grant().is_some_and(|grant| {
            grant.receives()
                && grant.message(Act::Receive, Who::from(&*self.peer), delivery) == GrantAnswer::Allow(())
        })
    }

    /// Whether a delivery that rules leave to others passes. Rules of a grant that is stale are gone, and with them what
    /// they refused: the failure rule holds (ADR 0017).
    fn leaves_unseen(&self, cx: &Context) -> bool {
        match self.grant().and_then(Grant::stale_because) {
            None => true,
            Some(because) => {
                let failed = matches!(because, Undecided::Failed(_));
                failed && cx.setting.on_error.of(Hook::Deliver) == OnError::Allow
            }
        }
    }
}
