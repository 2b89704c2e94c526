//! Where a session stands. Each state owns what it needs, and a step takes the old one and gives the next; see
//! `LIFECYCLE.md`.

use std::sync::Arc;

use super::context::Context;
use super::ending::Ending;
use super::greeting::Greeting;
use super::holding::{Holder, Weight};
use super::link::Link;
use super::opening::{Opening, WaitsFor};
use super::rejected::Rejected;
use crate::peer::{Peer, Side};

/// Where a session stands.
pub(super) enum State {
    /// CONNECT is awaited.
    Greeting(Greeting),
    /// The client has said CONNECT: it is admitted, the broker is dialled, its CONNACK is awaited.
    Opening(Opening),
    /// Both sides speak.
    Open(Link),
    /// It is ending.
    Ending(Ending),
    /// It is ending, and never had a client.
    Rejected(Rejected),
    /// It has ended. Who the client was is still asked.
    Over(Option<Arc<Peer>>),
}

impl State {
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Greeting(_) => "greeting",
            Self::Opening(opening) => opening.name(),
            Self::Open(_) => "open",
            Self::Ending(_) | Self::Rejected(_) => "ending",
            Self::Over(_) => "over",
        }
    }

    pub(super) const fn link(&self) -> Option<&Link> {
        match self {
            Self::Opening(Opening { link, .. }) | Self::Open(link) | Self::Ending(Ending { link, .. }) => {
                Some(link)
            }
            Self::Greeting(_) | Self::Rejected(_) | Self::Over(_) => None,
        }
    }

    pub(super) const fn link_mut(&mut self) -> Option<&mut Link> {
        match self {
            Self::Opening(Opening { link, .. }) | Self::Open(link) | Self::Ending(Ending { link, .. }) => {
                Some(link)
            }
            Self::Greeting(_) | Self::Rejected(_) | Self::Over(_) => None,
        }
    }

    pub(super) const fn peer(&self) -> Option<&Arc<Peer>> {
        match self {
            Self::Greeting(_) | Self::Rejected(_) => None,
            Self::Opening(Opening { link, .. }) | Self::Open(link) | Self::Ending(Ending { link, .. }) => {
                Some(&link.peer)
            }
            Self::Over(peer) => peer.as_ref(),
        }
    }

    /// Whether bytes of that side go nowhere any more.
    pub(super) fn discards(&self, side: Side) -> bool {
        match self {
            Self::Greeting(_) => false,
            Self::Opening(Opening { link, .. }) | Self::Open(link) | Self::Ending(Ending { link, .. }) => {
                link.direction(side).lane.is_closed()
            }
            Self::Rejected(_) | Self::Over(_) => true,
        }
    }

    /// Whether packets of that side are taken now.
    pub(super) fn takes(&self, cx: &Context, from: Side) -> bool {
        match self {
            Self::Greeting(greeting) => {
                from == Side::Client
                    && !cx.account.short_of_room(&cx.setting.budget, from, Holder::stranger(&greeting.origin))
            }
            // A client may send on without waiting for CONNACK. That stays where it is until there is one, and is not
            // even read, so that it cannot pile up. Only extended authentication has to be heard.
            Self::Opening(Opening { link, waits: WaitsFor::Connack { .. } }) => {
                (from == Side::Broker || link.authenticates()) && link.takes(cx, from)
            }
            Self::Opening(Opening { link, waits: WaitsFor::Exchange(_) }) => {
                let short = || {
                    let holder = Holder::stranger(&link.peer.origin);
                    cx.account.short_of_room(&cx.setting.budget, from, holder)
                };
                from == Side::Client && !link.up.lane.is_closed() && !short()
            }
            Self::Opening(Opening { waits: WaitsFor::Admission(_) | WaitsFor::Dial(_), .. }) => false,
            Self::Open(link) => link.takes(cx, from),
            // What it still answers, until it has ended.
            Self::Ending(Ending { link, .. }) => from == Side::Broker && link.takes(cx, from),
            Self::Rejected(_) | Self::Over(_) => false,
        }
    }

    /// Who what is held is counted to.
    pub(super) fn holder(&self) -> Option<Holder<'_>> {
        match self {
            Self::Greeting(Greeting { origin, .. }) | Self::Rejected(Rejected { origin, .. }) => {
                Some(Holder::stranger(origin))
            }
            Self::Opening(Opening { link, waits: WaitsFor::Admission(_) | WaitsFor::Exchange(_) }) => {
                Some(Holder::stranger(&link.peer.origin))
            }
            Self::Opening(Opening { link, .. }) | Self::Open(link) | Self::Ending(Ending { link, .. }) => {
                Some(Holder::client(&link.peer))
            }
            Self::Over(_) => None,
        }
    }

    /// What it makes mproxy hold, but for what was left unread.
    pub(super) fn weight(&self) -> Option<Weight<'_, impl Fn() -> bool>> {
        let lets_go = || self.link().is_some_and(Link::lets_go);
        Some(Weight { holder: self.holder()?, bytes: self.bytes(), lets_go })
    }

    /// The bytes of that.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Open(link) | Self::Ending(Ending { link, .. }) => link.bytes(),
            Self::Opening(Opening { link, waits }) => link.bytes() + waits.bytes(),
            Self::Greeting(_) | Self::Rejected(_) | Self::Over(_) => 0,
        }
    }
}
