//! Grants that stand in the rule file: what those clients may do for whom they are, once they are let in.
//!
//! All entries that are for a client make its grant together, in the order of the file: their rules one after the other; of
//! what there can be but one (default, prefix, each limit) the first that is written; of session times the shortest.
//!
//! Of an entry whose condition has no value it is not known whether it is for the client: what it allows is left out, and what
//! it denies, asks about, or limits holds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mproxy_core::grant::{Grant, GrantLimits, Mapping};
use mproxy_core::peer::Peer;
use mproxy_core::policy::RuleFile;
use mproxy_core::rule::{Rule, RuleEffect, Template, WallTime, Who};

use super::client_match::{ClientMatch, Fit};

/// Sets of entries whose rules are kept together. Each that clients come with is one; beyond, they are made anew.
const SETS: usize = 1024;

/// One `[[grants]]` entry.
#[derive(Debug)]
pub(super) struct StaticGrant {
    pub(super) who: ClientMatch,
    pub(super) rules: Vec<Rule>,
    /// The line of each rule.
    pub(super) lines: Vec<u32>,
    pub(super) default: Option<RuleEffect>,
    pub(super) limits: GrantLimits,
    pub(super) has_rate_action: bool,
    pub(super) prefix: Option<Template>,
    /// What the client id at the broker begins with.
    pub(super) client_id_prefix: Option<Template>,
    /// How long a session lasts at most.
    pub(super) session: Option<Duration>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct StaticGrants {
    pub(super) all: Vec<StaticGrant>,
    /// By the places of those that were put together. Shared by all clients that have these.
    sets: Mutex<HashMap<Box<[ChosenGrant]>, Arc<GrantSet>>>,
}

/// An entry that is for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct ChosenGrant {
    at: u32,
    /// Whether what it allows is left out.
    bounds_only: bool,
}

#[derive(Debug)]
struct GrantSet {
    rules: Arc<[Rule]>,
    file: Arc<RuleFile>,
}

/// A prefix of a client's grant has a variable without a value that can stand there, or with several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoPrefix;

impl ChosenGrant {
    /// Whether this is not left out of it.
    fn lets(self, effect: RuleEffect) -> bool {
        !self.bounds_only || effect != RuleEffect::Allow
    }
}

impl StaticGrants {
    /// What the client id of this client begins with at the broker.
    ///
    /// # Errors
    /// No other client could be told from it.
    pub(super) fn client_id_prefix(&self, peer: &Peer) -> Result<Option<String>, NoPrefix> {
        let mut prefixes = self.all.iter().filter(|one| one.client_id_prefix.is_some() && one.who.is(peer));
        let Some(prefix) = prefixes.next().and_then(|one| one.client_id_prefix.as_ref()) else {
            return Ok(None);
        };
        prefix.expand_apart(Who::from(peer)).map(Some).ok_or(NoPrefix)
    }

    /// The character that ends all prefixes of client ids, if there are any.
    pub(super) fn client_id_separator(&self) -> Option<char> {
        self.all.iter().find_map(|one| one.client_id_prefix.as_ref()?.last_char())
    }

    /// What this client may do, if any entry is for it.
    ///
    /// # Errors
    /// Its topics would have no place at the broker.
    pub(super) fn of(
        &self,
        peer: &Peer,
        time: Option<WallTime>,
        file: &RuleFile,
    ) -> Result<Option<Grant>, NoPrefix> {
        let fits = (0..).zip(&self.all).map(|(at, one)| (at, one.who.fits(peer, time)));
        let places: Vec<ChosenGrant> = fits
            .filter(|(_, fit)| *fit != Fit::No)
            .map(|(at, fit)| ChosenGrant { at, bounds_only: fit == Fit::Unknown })
            .collect();
        if places.is_empty() {
            return Ok(None);
        }
        let set = self.set(&places, file);
        let chosen = || self.entries(&places).map(|(_, one)| one);
        let default = self.entries(&places).find_map(|(place, one)| one.default.filter(|it| place.lets(*it)));
        let default = default.unwrap_or(RuleEffect::Ask);
        let mut grant = Grant::new(Arc::clone(&set.rules), default);
        grant.rule_file = Some(Arc::clone(&set.file));
        grant.received = Some(Instant::now());
        for one in chosen() {
            let (limits, own) = (&mut grant.limits, &one.limits);
            if one.has_rate_action
                && !chosen().take_while(|other| !std::ptr::eq(*other, one)).any(|it| it.has_rate_action)
            {
                limits.rate_action = own.rate_action;
            }
            limits.messages = limits.messages.or(own.messages);
            limits.bytes = limits.bytes.or(own.bytes);
            limits.packet_size = limits.packet_size.or(own.packet_size);
            limits.subscriptions = limits.subscriptions.or(own.subscriptions);
        }
        let prefixed = self.entries(&places).find(|(_, one)| one.prefix.is_some());
        if let Some((place, StaticGrant { prefix: Some(prefix), .. })) = prefixed {
            // Whether its topics stand there is not known, and anywhere else they may be somebody else's.
            if place.bounds_only {
                return Err(NoPrefix);
            }
            let text = prefix.expand(Who::from(peer)).ok_or(NoPrefix)?;
            grant.mapping = Some(Mapping::new(&text).map_err(|_| NoPrefix)?);
        }
        if let Some(session) = chosen().filter_map(|one| one.session).min() {
            grant.expires_at = Instant::now().checked_add(session);
        }
        Ok(Some(grant))
    }

    fn entries(&self, places: &[ChosenGrant]) -> impl Iterator<Item = (ChosenGrant, &StaticGrant)> {
        places.iter().filter_map(|place| Some((*place, self.all.get(place.at as usize)?)))
    }

    fn set(&self, places: &[ChosenGrant], file: &RuleFile) -> Arc<GrantSet> {
        // Nothing is left half done in there.
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(set) = sets.get(places) {
            return Arc::clone(set);
        }
        let kept = self.entries(places).flat_map(|(place, one)| {
            one.rules.iter().zip(&one.lines).filter(move |(rule, _)| place.lets(rule.effect))
        });
        let (rules, lines): (Vec<Rule>, Vec<u32>) = kept.map(|(rule, line)| (rule.clone(), *line)).unzip();
        let file = RuleFile { name: Arc::clone(&file.name), loaded: file.loaded, lines: lines.into() };
        let set = Arc::new(GrantSet { rules: rules.into(), file: Arc::new(file) });
        if sets.len() >= SETS {
            sets.clear();
        }
        sets.insert(places.into(), Arc::clone(&set));
        set
    }
}
