//! Hands commands of the policy service to the connections of a house: which of them a command may mean, and what
//! is told of their grants.

use std::collections::HashMap;
use std::sync::Arc;

use mproxy_core::command::{Order, Selector};
use mproxy_core::peer::ConnectionId;
use mproxy_core::policy::Pending;
use mproxy_policy::commander::{CommandOutcome, Commander, GrantHolder, GrantHolders};

use crate::orders::HandedOrder;
use crate::registry::Handle;
use crate::serve::House;

/// Connections looked at before others on this thread get their turn.
const AT_A_TIME: usize = 1024;

/// Bytes of names after which a part of the grants in force ends.
const NAMES: usize = 64 << 10;

/// Hands commands to the connections of a house.
pub(crate) struct CommandRouter(pub(crate) Arc<House>);

impl Commander for CommandRouter {
    fn hand_out(&self, orders: Vec<Order>) -> Pending<Vec<Pending<CommandOutcome>>> {
        let house = Arc::clone(&self.0);
        Box::pin(async move {
            // Each is held here until all are handed out, so that none is done before.
            let orders: Vec<HandedOrder> = orders.into_iter().map(HandedOrder::first).collect();
            hand_out(&house, &orders).await;
            orders.iter().map(|one| Box::pin(one.outcome()) as Pending<_>).collect()
        })
    }

    fn grant_holders(&self, after: Option<ConnectionId>) -> GrantHolders {
        let (handles, mut next) = self.0.registry.some_after(after, AT_A_TIME);
        let (mut holders, mut bytes) = (Vec::new(), 0);
        for handle in &handles {
            let id = handle.origin().connection_id;
            let Some(peer) = handle.peer() else { continue };
            let Some(grant) = &peer.grant else { continue };
            bytes += 64 + peer.client_id.len() + peer.username.as_deref().map_or(0, str::len);
            holders.push(GrantHolder {
                connection_id: id,
                client_id: peer.client_id.clone(),
                username: peer.username.clone(),
                version: grant.version.clone(),
            });
            if bytes > NAMES {
                // Behind the last that is told, not behind the last that was looked at.
                next = Some(id);
                break;
            }
        }
        GrantHolders { holders, next }
    }
}

/// Puts these into the slots of all connections that they may mean.
async fn hand_out(house: &House, orders: &[HandedOrder]) {
    let picker = Picker::new(orders);
    if let Some(ids) = picker.connections() {
        for (at, id) in ids {
            if let Some(handle) = house.registry.find(id.0) {
                handle.hand(orders[at].another());
            }
        }
        return;
    }
    let mut after = None;
    loop {
        let (handles, next) = house.registry.some_after(after, AT_A_TIME);
        for handle in &handles {
            picker.hand_to(handle);
        }
        if next.is_none() {
            return;
        }
        after = next;
        tokio::task::yield_now().await;
    }
}

/// Finds those of some commands that may mean a connection: those that name somebody by who it is, so that as many
/// commands as clients are no square of that.
struct Picker<'a> {
    orders: &'a [HandedOrder],
    client_ids: HashMap<&'a str, Vec<usize>>,
    usernames: HashMap<&'a str, Vec<usize>>,
    others: Vec<usize>,
}

impl<'a> Picker<'a> {
    fn new(orders: &'a [HandedOrder]) -> Self {
        let mut picker =
            Self { orders, client_ids: HashMap::new(), usernames: HashMap::new(), others: Vec::new() };
        for (at, one) in orders.iter().enumerate() {
            match &one.order().selector {
                Selector::ClientId(id) => picker.client_ids.entry(id).or_default().push(at),
                Selector::Username(name) => picker.usernames.entry(name).or_default().push(at),
                Selector::ConnectionId(_)
                | Selector::Attribute { .. }
                | Selector::Listener(_)
                | Selector::All => picker.others.push(at),
            }
        }
        picker
    }

    /// The connections that are named, if all commands name one.
    fn connections(&self) -> Option<Vec<(usize, ConnectionId)>> {
        let named = |(at, one): (usize, &HandedOrder)| match one.order().selector {
            Selector::ConnectionId(id) => Some((at, id)),
            _ => None,
        };
        self.orders.iter().enumerate().map(named).collect()
    }

    fn hand_to(&self, handle: &Handle) {
        let mut meant: Vec<usize> = match handle.peer() {
            // Nobody knows yet, but the session will.
            None => (0..self.orders.len())
                .filter(|at| self.orders[*at].order().selector.selects_origin(handle.origin()) != Some(false))
                .collect(),
            Some(peer) => {
                let by_id = self.client_ids.get(&*peer.client_id).into_iter().flatten();
                let name = peer.username.as_deref().and_then(|name| self.usernames.get(name));
                let others =
                    self.others.iter().filter(|at| self.orders[**at].order().selector.selects(&peer));
                by_id.chain(name.into_iter().flatten()).chain(others).copied().collect()
            }
        };
        // In the order in which the service gave them: of two grants for one client the later one counts.
        meant.sort_unstable();
        for at in meant {
            handle.hand(self.orders[at].another());
        }
    }
}
