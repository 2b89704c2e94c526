//! Rewrites that stand in the rule file: by which names the broker knows the topics of which clients.
//!
//! A client has one table, the first that is for it. So a table can be looked through as a whole when the file is read: its
//! rows exclude each other, whoever comes.

use std::sync::Arc;

use mproxy_core::grant::{RewriteRule, RewriteTable};
use mproxy_core::peer::Peer;
use mproxy_core::rule::Who;

use super::client_match::ClientMatch;

/// One `[[rewrites]]` entry.
#[derive(Debug)]
pub(super) struct StaticRewrites {
    pub(super) who: ClientMatch,
    pub(super) rows: RewritesForAll,
}

/// The rows of one.
#[derive(Debug)]
pub(super) enum RewritesForAll {
    /// They are the same for all clients, who share them.
    Same(Arc<RewriteTable>),
    /// They have variables.
    Each(Vec<RewriteRule>),
}

/// A row has a variable without a value that is a level, or with several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoRewrite;

impl StaticRewrites {
    /// The table for this client.
    ///
    /// # Errors
    /// Its topics would have no place at the broker.
    pub(super) fn table(all: &[Self], peer: &Peer) -> Result<Option<Arc<RewriteTable>>, NoRewrite> {
        let Some(own) = all.iter().find(|one| one.who.is(peer)) else { return Ok(None) };
        match &own.rows {
            RewritesForAll::Same(table) => Ok(Some(Arc::clone(table))),
            RewritesForAll::Each(rules) => {
                let who = Who::from(peer);
                let rows: Option<Vec<_>> = rules.iter().map(|rule| rule.expand(who)).collect();
                rows.map(|rows| Some(Arc::new(RewriteTable::new(rows)))).ok_or(NoRewrite)
            }
        }
    }

    /// The attributes that its variables and its claims stand for.
    pub(super) fn attributes(&self) -> impl Iterator<Item = &str> {
        let rules = match &self.rows {
            RewritesForAll::Same(_) => &[][..],
            RewritesForAll::Each(rules) => rules,
        };
        let of_rules = rules.iter().flat_map(RewriteRule::attributes);
        of_rules.chain(self.who.claims.iter().map(|(name, _)| &**name))
    }
}
