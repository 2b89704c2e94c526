//! Who carries commands of the policy service out: somebody who knows the clients, which this crate does not.

use mproxy_core::command::{Order, Reach};
use mproxy_core::peer::ConnectionId;
use mproxy_core::policy::Pending;

/// Somebody who hands commands to clients' sessions.
pub trait Commander: Send + Sync {
    /// Hands these to every session that they may mean, in this order and behind those before. Ends when all are handed
    /// out; what it gives for each ends when every session has carried it out or is over, or a deadline has passed.
    fn hand_out(&self, orders: Vec<Order>) -> Pending<Vec<Pending<CommandOutcome>>>;

    /// Some clients that have a grant, in the order of their connections, from the one behind `after` on.
    fn grant_holders(&self, after: Option<ConnectionId>) -> GrantHolders;
}

/// What became of a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommandOutcome {
    /// How far it reached.
    pub reach: Reach,
    /// Connections that have not said in time that they have carried it out.
    pub unfinished: u64,
}

/// A part of all clients that have a grant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrantHolders {
    /// They.
    pub holders: Vec<GrantHolder>,
    /// Behind which connection the next part begins. `None`: this is the last.
    pub next: Option<ConnectionId>,
}

/// A client that has a grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantHolder {
    /// Its connection.
    pub connection_id: ConnectionId,
    /// Its client identifier.
    pub client_id: Box<str>,
    /// Its user name.
    pub username: Option<Box<str>>,
    /// The version of the grant. Empty: it has none.
    pub version: Box<str>,
}
