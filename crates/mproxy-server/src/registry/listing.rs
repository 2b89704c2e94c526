//! Some of the connections, in an order: pages of them for the admin API, and those that are to be disconnected together.
//!
//! All of them are looked at in pieces, so that connections that come and go wait for none of this, and the thread does
//! other things in between. An order other than that of their ids costs a look at all of them for each page, and keeps no
//! more than a page; the filter by subscription costs a question to each session that passes the other filters.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use mproxy_core::command::Dismissal;
use mproxy_core::peer::{Address, ConnectionId};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{AT_A_TIME, Handle, PAGE_BYTES, Registry};
use crate::admin::view::{
    Page, SessionCursor, SessionFacts, SessionFilter, SessionOrder, SessionsQuestion, SortKey,
};
use crate::orders::SessionInquiry;
use crate::protect::bans::Ban;

/// A session answers in its next turn. One that does not is left out.
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);

impl Handle {
    pub(super) fn passes(&self, filter: &SessionFilter) -> bool {
        let peer = self.claimed_peer();
        let peer = peer.as_deref();
        filter.passes(&SessionFacts {
            client_id: peer.map(|peer| &*peer.client_id),
            username: peer.and_then(|peer| peer.shown_username()),
            listener: &self.origin().listener,
            address: match &self.origin().remote {
                Address::Ip(address) => Some(address.ip()),
                Address::Process(_) | Address::Path(_) => None,
            },
            phase: self.phase_name(),
            attributes: peer.map_or(&[], |peer| &*peer.attributes),
        })
    }

    /// Where it stands in this order.
    fn sort_key(&self, order: SessionOrder) -> SortKey {
        match order {
            SessionOrder::ConnectionId => SortKey::None,
            SessionOrder::ConnectedSince => SortKey::largest_first(self.origin().epoch),
            SessionOrder::Packets => SortKey::largest_first(self.traffic_of([0, 2])),
            SessionOrder::Bytes => SortKey::largest_first(self.traffic_of([1, 3])),
            SessionOrder::ClientId => {
                SortKey::text(self.claimed_peer().as_ref().map_or("", |peer| &*peer.client_id))
            }
        }
    }

    /// Asks its task whether its client has subscribed to this.
    async fn subscribes_to(&self, name: &Arc<str>) -> bool {
        let (answer, told) = oneshot::channel();
        self.inquire(SessionInquiry::Subscribes { name: Arc::clone(name), answer });
        matches!(timeout(ANSWERED_WITHIN, told).await, Ok(Ok(true)))
    }
}

impl Registry {
    /// A page of the sessions that are asked for.
    pub(crate) async fn list(&self, question: &SessionsQuestion) -> Page {
        let SessionsQuestion { filter, order, after, limit } = question;
        if *order == SessionOrder::ConnectionId && filter.subscribed.is_none() {
            return self.page(filter, after.as_ref().map(|after| after.id), *limit);
        }
        // One more than a page tells that there is a next one.
        let mut first: BTreeMap<SessionCursor, Arc<Handle>> = BTreeMap::new();
        let by_id = *order == SessionOrder::ConnectionId;
        let mut from = after.as_ref().filter(|_| by_id).map(|after| ConnectionId(after.id));
        loop {
            let (some, next) = self.some_passing(filter, from).await;
            for handle in some {
                let at = SessionCursor { key: handle.sort_key(*order), id: handle.id() };
                if after.as_ref().is_some_and(|after| at <= *after) {
                    continue;
                }
                first.insert(at, handle);
                if first.len() > limit + 1 {
                    first.pop_last();
                }
            }
            if next.is_none() || (by_id && first.len() > *limit) {
                break;
            }
            from = next;
        }
        let (mut sessions, mut bytes, mut last) = (Vec::new(), 0, None);
        for (at, handle) in first {
            if sessions.len() >= *limit || bytes >= PAGE_BYTES {
                return Page { sessions, next: last.map(|last: SessionCursor| last.text(*order)) };
            }
            let view = handle.view();
            bytes += view.json_size();
            sessions.push(view);
            last = Some(at);
        }
        Page { sessions, next: None }
    }

    /// Disconnects those that pass, and gives their number.
    pub(crate) async fn kick_all(&self, filter: &SessionFilter, dismissal: &Dismissal) -> usize {
        let (mut met, mut from) = (0, None);
        loop {
            let (some, next) = self.some_passing(filter, from).await;
            met += some.len();
            some.iter().for_each(|handle| handle.kick(dismissal));
            if next.is_none() {
                return met;
            }
            from = next;
        }
    }

    /// Disconnects those whom a ban is about, and gives their number.
    pub(crate) async fn kick_banned(&self, ban: &Ban) -> usize {
        let (dismissal, mut met, mut from) = (ban.dismissal(), 0, None);
        loop {
            let (some, next) = self.some_after(from, AT_A_TIME);
            for handle in &some {
                if ban.target.is_about(handle.origin(), handle.claimed_peer().as_deref()) {
                    handle.kick(&dismissal);
                    met += 1;
                }
            }
            if next.is_none() {
                return met;
            }
            tokio::task::yield_now().await;
            from = next;
        }
    }

    /// Those of the next few behind this one that pass, and the last of them if there may be more.
    async fn some_passing(
        &self,
        filter: &SessionFilter,
        after: Option<ConnectionId>,
    ) -> (Vec<Arc<Handle>>, Option<ConnectionId>) {
        let (mut some, next) = self.some_after(after, AT_A_TIME);
        some.retain(|handle| handle.passes(filter));
        match &filter.subscribed {
            None => tokio::task::yield_now().await,
            Some(name) => {
                let answers = join_all(some.iter().map(|handle| handle.subscribes_to(name))).await;
                let mut answers = answers.into_iter();
                some.retain(|_| answers.next() == Some(true));
            }
        }
        (some, next)
    }
}
