//! Who is connected: found by id or client, and listed for the admin API.

mod handle;
mod listing;

use std::collections::BTreeMap;
use std::sync::Arc;

use mproxy_core::command::Dismissal;
use mproxy_core::peer::ConnectionId;
use parking_lot::Mutex;
use uuid::Uuid;

pub(crate) use self::handle::{ConnectionCommand, ConnectionPhase, Handle};
use crate::admin::view::{Page, SessionFilter, SessionView};

/// Connections looked at while the registry is locked, when a page of them is asked for.
const AT_A_TIME: usize = 1024;

/// Bytes of a page after which no further session is put into it: a client's names may have 64 KiB each.
const PAGE_BYTES: usize = 1 << 20;

/// All connections, by id.
#[derive(Default)]
pub(crate) struct Registry {
    connections: Mutex<BTreeMap<u128, Arc<Handle>>>,
}

impl Registry {
    pub(crate) fn enter(&self, handle: &Arc<Handle>) {
        let before = self.connections.lock().insert(handle.id(), Arc::clone(handle));
        debug_assert!(before.is_none(), "two connections have one id");
    }

    pub(crate) fn leave(&self, handle: &Handle) {
        let gone = self.connections.lock().remove(&handle.id());
        debug_assert!(gone.is_some(), "who leaves has entered, and leaves once");
        handle.close_orders();
    }

    /// Whether there is one whose broker has not said yes.
    pub(crate) fn is_anybody_opening(&self) -> bool {
        self.connections.lock().values().any(|handle| handle.is_opening())
    }

    pub(crate) fn all(&self) -> Vec<Arc<Handle>> {
        self.connections.lock().values().cloned().collect()
    }

    /// Whether there was one to be told.
    pub(crate) fn kick(&self, id: Uuid, dismissal: &Dismissal) -> bool {
        let handle = self.find(id.as_u128());
        if let Some(handle) = &handle {
            handle.kick(dismissal);
        }
        handle.is_some()
    }

    /// In the order of their ids.
    fn page(&self, filter: &SessionFilter, after: Option<u128>, limit: usize) -> Page {
        let mut sessions: Vec<SessionView> = Vec::new();
        let mut bytes = 0;
        let mut from = after.map_or(Some(0), |after| after.checked_add(1));
        while let Some(start) = from {
            // In pieces, so that connections that come and go wait for none of this.
            let some: Vec<_> = self
                .connections
                .lock()
                .range(start..)
                .take(AT_A_TIME)
                .map(|(_, one)| Arc::clone(one))
                .collect();
            from = if some.len() < AT_A_TIME {
                None
            } else {
                some.last().and_then(|one| one.id().checked_add(1))
            };
            for one in some.iter().filter(|one| one.passes(filter)) {
                // This one tells that there is a next page.
                if sessions.len() >= limit || bytes >= PAGE_BYTES {
                    let next = sessions.last().map(|last| last.connection_id.to_string());
                    return Page { sessions, next };
                }
                let view = one.view();
                bytes += view.json_size();
                sessions.push(view);
            }
        }
        Page { sessions, next: None }
    }

    /// The newest connection of the client with this id.
    pub(crate) fn find_client(&self, client_id: &str) -> Option<Arc<Handle>> {
        let (mut newest, mut after): (Option<Arc<Handle>>, _) = (None, None);
        loop {
            let (some, next) = self.some_after(after, AT_A_TIME);
            for handle in some {
                let is_its = handle.peer().is_some_and(|peer| &*peer.client_id == client_id);
                if is_its && newest.as_ref().is_none_or(|other| other.origin().epoch < handle.origin().epoch)
                {
                    newest = Some(handle);
                }
            }
            if next.is_none() {
                return newest;
            }
            after = next;
        }
    }

    pub(crate) fn find(&self, id: u128) -> Option<Arc<Handle>> {
        self.connections.lock().get(&id).cloned()
    }

    /// So many connections behind this one, in the order of their ids, and the last of them if there may be more.
    pub(crate) fn some_after(
        &self,
        after: Option<ConnectionId>,
        most: usize,
    ) -> (Vec<Arc<Handle>>, Option<ConnectionId>) {
        let Some(from) = after.map_or(Some(0), |after| after.0.checked_add(1)) else {
            return Default::default();
        };
        let some: Vec<_> =
            self.connections.lock().range(from..).take(most).map(|(_, one)| Arc::clone(one)).collect();
        let last = some.last().filter(|_| some.len() == most).map(|one| one.origin().connection_id);
        (some, last)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Context;

    use mproxy_codec::reason::ReasonCode;
    use mproxy_core::Peer;
    use mproxy_core::event::Traffic;
    use mproxy_core::peer::Origin;

    use super::*;
    use crate::admin::view::{SessionCursor, SessionOrder, SessionsQuestion};
    use crate::example_peer;

    fn handle(id: u128, listener: &str) -> Arc<Handle> {
        let origin = Origin { epoch: id as u64, listener: listener.into(), ..example_peer::origin(id) };
        Arc::new(Handle::new(&Arc::new(origin)))
    }

    fn named(name: &str, origin: &Arc<Origin>) -> Arc<Peer> {
        let peer = example_peer::peer(Arc::clone(origin), name);
        Arc::new(Peer { username: Some(name.into()), ..peer })
    }

    #[test]
    fn pages_follow_each_other_without_gap_or_overlap() {
        let registry = Registry::default();
        for id in 1..=5 {
            registry.enter(&handle(id, if id % 2 == 1 { "odd" } else { "even" }));
        }
        let all = SessionFilter::default();
        let first = registry.page(&all, None, 2);
        let ids = |page: &Page| page.sessions.iter().map(|one| one.epoch).collect::<Vec<_>>();
        assert_eq!(ids(&first), [1, 2]);
        let next = |page: &Page| {
            page.next.as_deref().and_then(|next| Uuid::parse_str(next).ok()).map(|id| id.as_u128())
        };
        let second = registry.page(&all, next(&first), 2);
        assert_eq!(ids(&second), [3, 4]);
        let last = registry.page(&all, next(&second), 2);
        assert_eq!((ids(&last), last.next), (vec![5], None));
        let odd = SessionFilter { listener: Some("odd".into()), ..all };
        assert_eq!(ids(&registry.page(&odd, None, 10)), [1, 3, 5]);
    }

    #[test]
    fn a_page_ends_when_it_has_grown_large_and_the_next_goes_on_there() {
        let registry = Registry::default();
        for id in 1..=40 {
            let one = handle(id, "mqtt");
            one.set_peer(&named(&"n".repeat(60_000), one.origin()));
            registry.enter(&one);
        }
        let (mut seen, mut after) = (Vec::new(), None);
        for _ in 0..40 {
            let page = registry.page(&SessionFilter::default(), after, 1000);
            let bytes = serde_json::to_vec(&page).unwrap().len();
            assert!(bytes < 2 * PAGE_BYTES, "{bytes}");
            seen.extend(page.sessions.iter().map(|one| one.epoch));
            after = page.next.and_then(|next| Uuid::parse_str(&next).ok()).map(|id| id.as_u128());
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen, (1..=40).collect::<Vec<_>>());
    }

    #[test]
    fn who_waits_is_found_by_what_it_says_of_itself_and_is_nobody_for_those_who_decide() {
        let registry = Registry::default();
        let one = handle(1, "mqtt");
        registry.enter(&one);
        one.claim_peer(&named("lamp", one.origin()));
        let filter = SessionFilter { client_id: Some("lamp".into()), ..SessionFilter::default() };
        let found = registry.page(&filter, None, 10).sessions;
        assert_eq!(found[0].client_id.as_deref(), Some("lamp"));
        assert!(one.peer().is_none() && registry.find_client("lamp").is_none());
        one.set_peer(&named("lamp", one.origin()));
        assert!(one.peer().is_some() && registry.find_client("lamp").is_some());
    }

    #[test]
    fn a_kick_is_not_lost_to_a_drain() {
        let one = handle(1, "mqtt");
        one.send(ConnectionCommand::Kick(ReasonCode::ADMINISTRATIVE_ACTION));
        one.send(ConnectionCommand::Drain);
        let cx = Context::from_waker(std::task::Waker::noop());
        assert_eq!(one.poll_command(&cx), Some(ConnectionCommand::Kick(ReasonCode::ADMINISTRATIVE_ACTION)));
        assert_eq!(one.poll_command(&cx), None);
    }

    #[tokio::test]
    async fn every_order_has_pages_without_gap_or_overlap() {
        let registry = Registry::default();
        for id in 1..=50_u128 {
            let one = handle(id, "mqtt");
            one.set_peer(&named(&format!("c{}", id * 37 % 50), one.origin()));
            let packets = id as u64 * 7 % 5;
            one.count(Traffic { client_packets: packets, client_bytes: packets * 9, ..Traffic::default() });
            registry.enter(&one);
        }
        let orders = [
            SessionOrder::ConnectionId,
            SessionOrder::ConnectedSince,
            SessionOrder::Packets,
            SessionOrder::Bytes,
            SessionOrder::ClientId,
        ];
        for order in orders {
            let mut question =
                SessionsQuestion { filter: SessionFilter::default(), order, after: None, limit: 7 };
            let mut seen = Vec::new();
            loop {
                let page = registry.list(&question).await;
                assert!(page.sessions.len() <= 7);
                seen.extend(page.sessions);
                let Some(next) = page.next else { break };
                question.after = Some(SessionCursor::parse(&next, order).expect("its own cursor"));
            }
            let mut ids: Vec<_> = seen.iter().map(|one| one.epoch).collect();
            let is_sorted = match order {
                SessionOrder::ConnectionId => ids.is_sorted(),
                SessionOrder::ConnectedSince => ids.iter().rev().is_sorted(),
                SessionOrder::Packets | SessionOrder::Bytes => {
                    seen.iter().rev().is_sorted_by_key(|one| one.traffic.client_packets)
                }
                SessionOrder::ClientId => seen.is_sorted_by_key(|one| one.client_id.clone()),
            };
            assert!(is_sorted, "{order:?}");
            ids.sort_unstable();
            assert_eq!(ids, (1..=50).collect::<Vec<_>>(), "{order:?}");
        }
    }

    #[tokio::test]
    async fn those_that_pass_are_disconnected_and_no_others() {
        let registry = Registry::default();
        let all: Vec<_> = (1..=10).map(|id| handle(id, if id % 2 == 1 { "odd" } else { "even" })).collect();
        all.iter().for_each(|one| registry.enter(one));
        let filter = SessionFilter { listener: Some("odd".into()), ..SessionFilter::default() };
        let dismissal = Dismissal::new(ReasonCode::ADMINISTRATIVE_ACTION);
        assert_eq!(registry.kick_all(&filter, &dismissal).await, 5);
        let told = Dismissal { text: Some("bye".into()), ..dismissal };
        let filter = SessionFilter { listener: Some("even".into()), ..SessionFilter::default() };
        assert_eq!(registry.kick_all(&filter, &told).await, 5);
        let cx = Context::from_waker(std::task::Waker::noop());
        for one in all {
            let kicked = one.poll_command(&cx).is_some();
            let told = one.take_orders().map_or(0, |queue| queue.dismissals.len());
            assert_eq!((kicked, told), if &*one.origin().listener == "odd" { (true, 0) } else { (false, 1) });
        }
    }
}
