//! What a session knows of itself, for whoever operates mproxy: looked at when somebody asks, and kept for nobody.

use std::time::Instant;

use mproxy_codec::topic::matches;
use mproxy_codec::types::QoS;

use super::Session;
use super::context::Context;
use super::link::Link;
use crate::peer::Side;
use crate::policy::{Hook, Want};

/// Subscriptions that are described, and bytes of their filters.
const MOST_SUBSCRIPTIONS: usize = 1000;
const MOST_BYTES: usize = 512 << 10;

/// What a session knows of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionDescription {
    /// The broker has gone on with an old session.
    pub resumed: bool,
    /// The client's subscriptions; `None` where nobody decides on them, and they are not remembered.
    pub subscriptions: Option<Vec<SubscriptionDescription>>,
    /// There are, or may be, further ones: in an old session, or because they are too many.
    pub more_subscriptions: bool,
    /// Publishes of the client's of QoS 1 and 2 that are not acknowledged to the end.
    pub in_flight: u32,
    /// Deliveries of QoS 1 and 2 that the client has not acknowledged for the first time. `None` where nobody decides on
    /// deliveries: only the broker counts them then.
    pub deliveries_in_flight: Option<u32>,
    /// Packets and bytes that wait for a verdict, from the client and from the broker.
    pub waiting: [(usize, usize); 2],
    /// Bytes that are put down for it.
    pub held: usize,
    /// When its grant is renewed, if it is to be.
    pub renews_at: Option<Instant>,
    /// How long its grant serves without being renewed.
    pub serves_until: Option<Instant>,
}

/// One subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionDescription {
    /// As the client knows it.
    pub filter: Box<str>,
    /// As the broker knows it, if that is something else.
    pub at_broker: Option<Box<str>>,
    /// What the broker has granted; `None` where it has not answered yet, has refused, or it was rewritten.
    pub granted: Option<QoS>,
}

impl Session {
    /// Asked: what it knows of itself. `None`: it has no client, or is over.
    #[must_use]
    pub fn describe(&self) -> Option<SessionDescription> {
        let link = self.state.link()?;
        let (subscriptions, cut) = link.describe_subscriptions(&self.cx);
        let clock = link.rare.as_ref().and_then(|rare| rare.renewal.as_ref());
        Some(SessionDescription {
            resumed: link.terms.resumed,
            more_subscriptions: subscriptions.is_some() && (cut || link.has_unknown_filters()),
            subscriptions,
            in_flight: link.up.in_flight.total(),
            deliveries_in_flight: link.deliveries_in_flight(&self.cx),
            waiting: [Side::Client, Side::Broker].map(|side| self.waiting(side)),
            held: self.held(),
            renews_at: clock.and_then(|clock| clock.due),
            serves_until: clock.and_then(|clock| clock.serves),
        })
    }

    /// Asked: whether its client is known to have subscribed to this filter, or, of a topic, to one that matches it.
    #[must_use]
    pub fn subscribes_to(&self, name: &str) -> bool {
        let Some(link) = self.state.link() else { return false };
        let is_topic = !name.contains(['+', '#']);
        link.own_filters().any(|filter| filter == name || (is_topic && matches(filter, name)))
    }
}

impl Link {
    /// What is remembered of the client's filters, by its own names.
    fn own_filters(&self) -> impl Iterator<Item = &str> {
        let known = self.rare.iter().flat_map(|rare| rare.known.iter().map(|(filter, _)| filter));
        let renamed = self.known_subscriptions().into_iter().flat_map(|books| books.renames());
        known.chain(renamed.map(|(asked, _)| asked))
    }

    /// Deliveries that the client has not acknowledged, where they are kept in order for what mproxy acknowledges itself.
    fn deliveries_in_flight(&self, cx: &Context) -> Option<u32> {
        match self.down.known_flows() {
            // There are fewer than two for each packet id.
            Some(flows) => Some(u32::try_from(flows.unacknowledged()).unwrap_or(u32::MAX)),
            None if self.want(cx, Side::Broker) == Want::Nothing => None,
            None => Some(0),
        }
    }

    /// The client's subscriptions, and whether some are left out.
    fn describe_subscriptions(&self, cx: &Context) -> (Option<Vec<SubscriptionDescription>>, bool) {
        if cx.setting.advisers.want(Hook::Subscribe) == Want::Nothing {
            return (None, false);
        }
        let known = self.rare.iter().flat_map(|rare| rare.known.entries());
        let known = known.map(|(filter, known)| SubscriptionDescription {
            filter: filter.into(),
            at_broker: self.mapped_filter(filter).unwrap_or_default(),
            granted: known.granted,
        });
        let renamed = self.known_subscriptions().into_iter().flat_map(|books| books.renames());
        let renamed = renamed.map(|(asked, sent)| SubscriptionDescription {
            filter: asked.into(),
            at_broker: Some(sent.into()),
            granted: None,
        });
        let (mut described, mut bytes) = (Vec::new(), 0);
        for one in known.chain(renamed) {
            bytes += one.filter.len() + one.at_broker.as_ref().map_or(0, |name| name.len());
            if described.len() == MOST_SUBSCRIPTIONS || bytes > MOST_BYTES {
                return (Some(described), true);
            }
            described.push(one);
        }
        (Some(described), false)
    }
}
