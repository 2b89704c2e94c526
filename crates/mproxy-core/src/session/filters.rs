//! The client's filters and what the broker knows them as: mapped, renamed, renamed again, counted.

use bytes::{Bytes, BytesMut};
use mproxy_codec::EncodeError;
use mproxy_codec::packet::{FilterRequest, Subscribe, encode_unsubscribe, subscribe_len};
use mproxy_codec::property::PropertyEdit;
use mproxy_codec::reason::ReasonCode;
use mproxy_codec::topic::TopicFilter;
use mproxy_codec::types::{PacketId, QoS};
use smallvec::SmallVec;

use super::context::Context;
use super::known_filters::AllowedBy;
use super::link::Link;
use crate::grant::{GrantAnswer, GrantGround};
use crate::peer::Side;
use crate::policy::{Decision, FilterChange, Ground, Hook, LimitKind, Refusal, Want};
use crate::rule::AskedFilter;

/// What was decided about one filter.
pub(super) type FilterDecision = Decision<FilterChange>;

impl Link {
    /// Counts new subscriptions against the limits of the grant and for all; those beyond are refused. Gives the names of the
    /// new ones.
    pub(super) fn count_subscriptions(
        &mut self,
        cx: &Context,
        requests: &[FilterRequest<'_>],
        decided: &mut [FilterDecision],
    ) -> Box<[Option<Box<str>>]> {
        let of_grant = self.grant().and_then(|grant| grant.limits.subscriptions);
        let (most, ground) = match (of_grant, cx.setting.limits.subscriptions) {
            (None, None) => return Box::default(),
            (Some(own), all) if all.is_none_or(|all| own <= all) => {
                (own, self.grant_ground(GrantGround::Subscriptions))
            }
            (own, all) => (all.or(own).unwrap_or_default(), Ground::Limit(LimitKind::Subscriptions)),
        };
        let subscriptions = &mut self.subscriptions().names;
        requests
            .iter()
            .zip(decided)
            .map(|(request, one)| {
                let name = request.filter.as_str();
                // Subscribing once more replaces the subscription (3.8.4), so it counts once.
                if matches!(one, Decision::Refuse(_)) || subscriptions.contains(name) {
                    return None;
                }
                if subscriptions.len() >= most as usize {
                    *one = Decision::Refuse(Refusal::new(ReasonCode::QUOTA_EXCEEDED).by(ground.clone()));
                    return None;
                }
                subscriptions.insert(name);
                Some(name.into())
            })
            .collect()
    }

    /// A SUBSCRIBE was answered: what was refused after all does not count.
    pub(super) fn count_refused(&mut self, counted: &[Option<Box<str>>], codes: &[u8]) {
        let Some(books) = self.known_subscriptions_mut() else { return };
        for (name, code) in counted.iter().zip(codes) {
            // The broker refused it, though we had allowed it: the place is free again.
            if let Some(name) = name.as_ref().filter(|_| *code >= 0x80) {
                books.names.remove(name);
            }
        }
    }

    /// Puts the allowed filters where the grant wants them at the broker. What has no place there is refused.
    pub(super) fn map_filters(
        &self,
        subscribe: &Subscribe<'_>,
        requests: &[FilterRequest<'_>],
        decided: &mut [FilterDecision],
    ) {
        if !self.terms.mapped {
            return;
        }
        for (request, one) in requests.iter().zip(&mut *decided) {
            let Decision::Allow(change) = one else { continue };
            match self.mapped_filter(change.filter.as_deref().unwrap_or(request.filter.as_str())) {
                Ok(None) => {}
                Ok(mapped) => change.filter = mapped,
                Err(why) => *one = Decision::Refuse(self.filter_without_place(why)),
            }
        }
        // A prefix before each of a thousand filters may make a SUBSCRIBE that the broker does not take.
        let sent = allowed_requests(requests, decided);
        let most = self.terms.max_packet_to(Side::Broker) as usize;
        let fits = sent.is_empty() || self.rewritten_len(subscribe, &sent).is_ok_and(|len| len <= most);
        if !fits {
            drop(sent);
            let ground = self.grant_ground(GrantGround::Prefix);
            decided.fill(Decision::Refuse(Refusal::new(ReasonCode::QUOTA_EXCEEDED).by(ground)));
        }
    }

    /// Bytes of the SUBSCRIBE with these filters instead of the client's.
    pub(super) fn rewritten_len(
        &self,
        subscribe: &Subscribe<'_>,
        sent: &[FilterRequest<'_>],
    ) -> Result<usize, EncodeError> {
        let kept = PropertyEdit::keep(subscribe.properties);
        subscribe_len(self.terms.version, subscribe.packet_id, &kept, sent.iter().copied())
    }

    /// From now on the broker knows these filters under these texts; `decided` is empty where nothing was changed. Gives
    /// the texts that it knew them as before and that nothing stands for any more.
    pub(super) fn remember_renames(
        &mut self,
        requests: &[FilterRequest<'_>],
        decided: &[FilterDecision],
    ) -> Box<[Box<str>]> {
        let mut old_names: Vec<Box<str>> = Vec::new();
        for (at, request) in requests.iter().enumerate() {
            let asked = request.filter.as_str();
            let sent = match decided.get(at) {
                // What was subscribed to before under this filter still is.
                Some(Decision::Refuse(_)) => continue,
                Some(Decision::Allow(FilterChange { filter, .. })) => filter.as_deref(),
                None => None,
            };
            let mut old = self.known_subscriptions_mut().and_then(|books| books.take_rename(asked));
            // A mapping needs no memory: it can be worked out again.
            let (mapped, has_place) = match self.mapped_filter(asked) {
                Ok(mapped) => (mapped, true),
                // The broker never had it.
                Err(_) => (None, false),
            };
            if let Some(sent) = sent.filter(|sent| Some(*sent) != mapped.as_deref()) {
                self.subscriptions().rename(asked, sent);
                let stood = self.rare.as_mut().is_some_and(|rare| rare.known.remove(asked));
                // In a resumed session any filter may have been subscribed to under its own name, in a connection we have not seen.
                if old.is_none() && has_place && (stood || self.terms.resumed) {
                    old = Some(mapped.unwrap_or_else(|| asked.into()));
                }
            }
            old_names.extend(old.filter(|old| **old != *sent.unwrap_or(asked) && !old_names.contains(old)));
        }
        if old_names.is_empty() {
            return Box::default();
        }
        let now = self.names_in_force(requests, decided);
        let refused = |at: usize| matches!(decided.get(at), Some(Decision::Refuse(_)));
        old_names.retain(|old| {
            // Still wanted under that very name: unsubscribing would end what this SUBSCRIBE has just asked for.
            let again = now.iter().enumerate().any(|(at, name)| name == old && !refused(at));
            !again && self.known_subscriptions().is_none_or(|books| !books.is_sent(old))
        });
        old_names.into()
    }

    /// Remembers which filters the broker now knows as the client says them, where they may be rewritten another time, or
    /// taken back.
    pub(super) fn remember_known(
        &mut self,
        cx: &mut Context,
        requests: &[FilterRequest<'_>],
        decided: &[FilterDecision],
    ) {
        if cx.setting.advisers.want(Hook::Subscribe) == Want::Nothing {
            return;
        }
        for (at, request) in requests.iter().enumerate() {
            if matches!(decided.get(at), Some(Decision::Refuse(_))) {
                continue;
            }
            let asked = request.filter.as_str();
            self.keep_at_broker(asked);
            if !self.known_subscriptions().is_some_and(|books| books.is_renamed(asked)) {
                let known =
                    AskedFilter { filter: asked, qos: Some(request.qos), time: cx.setting.clock.time() };
                let by = match cx.setting.advisers.filter(&self.peer, known) {
                    GrantAnswer::Ask => AllowedBy::Answer,
                    GrantAnswer::Allow(()) | GrantAnswer::Refuse(_) => AllowedBy::Rules,
                };
                self.rare().known.insert(asked, by);
            }
        }
    }

    /// Ends the subscriptions that a SUBSCRIBE under another name has left behind. It is answered only after that, so
    /// that its packet id can be used once more: all others are the client's to give.
    ///
    /// The SUBACK comes back where there is nothing to wait for.
    pub(super) fn retire(
        &mut self,
        cx: &mut Context,
        id: PacketId,
        names: &[Box<str>],
        reply: Bytes,
    ) -> Option<Bytes> {
        let mut out = BytesMut::new();
        let filters = names.iter().filter_map(|name| TopicFilter::new_of(self.terms.version, name).ok());
        let written = encode_unsubscribe(
            self.terms.version,
            id,
            &PropertyEdit::NONE,
            filters.collect::<Vec<_>>(),
            &mut out,
        );
        let fits = written.is_ok() && out.len() <= self.terms.max_packet_to(Side::Broker) as usize;
        // After the client's DISCONNECT nothing goes there any more, not even this.
        if names.is_empty() || !fits || !self.hears(Side::Broker) {
            return Some(reply);
        }
        // The id is in use until the client has its SUBACK, and that is ours to decide (ADR 0016).
        self.subscriptions().add_retiring(id, reply);
        // Never more than there are packet ids.
        self.asking = self.asking.saturating_add(1);
        self.inject(cx, Side::Broker, out.freeze());
        None
    }

    /// What the broker knows the filters as, and would know those that are refused.
    pub(super) fn names_in_force(
        &self,
        requests: &[FilterRequest<'_>],
        decided: &[FilterDecision],
    ) -> Box<[Box<str>]> {
        requests
            .iter()
            .enumerate()
            .map(|(at, request)| match decided.get(at) {
                Some(Decision::Allow(FilterChange { filter: Some(filter), .. })) => filter.clone(),
                Some(Decision::Allow(_)) | None => request.filter.as_str().into(),
                // What is told of a refused filter, too, is the name at the broker: events are compared with each other.
                Some(Decision::Refuse(_)) => self.name_at_broker(request.filter.as_str()),
            })
            .collect()
    }
}

/// What goes to the broker.
pub(super) fn allowed_requests<'a>(
    requests: &[FilterRequest<'a>],
    decided: &'a [FilterDecision],
) -> SmallVec<[FilterRequest<'a>; 8]> {
    requests
        .iter()
        .zip(decided)
        .filter_map(|(request, one)| {
            let Decision::Allow(change) = one else { return None };
            let filter = match &change.filter {
                Some(filter) => TopicFilter::new(filter).ok()?,
                None => request.filter,
            };
            // An answer lowers what was asked for, and never lifts it.
            let qos: QoS = change.max_qos.map_or(request.qos, |most| most.min(request.qos));
            Some(FilterRequest { filter, qos, ..*request })
        })
        .collect()
}
