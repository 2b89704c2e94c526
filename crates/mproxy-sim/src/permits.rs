//! Who allowed what: kept apart from all that is expected of a session, and simple enough to be believed. Nothing reaches
//! the broker that no adviser allowed, or that the failure rule did not release where an answer was *missing*.

use std::collections::{BTreeMap, HashMap, HashSet};

use mproxy_codec::Packet;
use mproxy_core::policy::{Decision, PublishChange};

use super::model::{CACHED, DENIED, EACH, RULED};
use super::verdict::Verdict;

/// What may reach the broker, by what it is called there.
#[derive(Debug, Default)]
pub(super) struct Permits {
    connect: bool,
    publishes: HashMap<String, u32>,
    filters: HashMap<String, u32>,
    /// Topics that were allowed for a while.
    cached: HashSet<String>,
    /// What the broker takes each alias for.
    aliases: BTreeMap<u16, String>,
}

impl Permits {
    /// This was said of the CONNECT. `open`: what failed answers mean.
    pub(super) fn connect(&mut self, verdict: &Verdict, open: bool) {
        self.connect |= match verdict {
            Verdict::Connect(Decision::Allow(_)) => true,
            Verdict::Failed(_) => open,
            _ => false,
        };
    }

    /// This was said of a PUBLISH to `topic`.
    pub(super) fn publish(&mut self, topic: &str, prefix: &str, verdict: &Verdict, open: bool) {
        let topic = match verdict {
            Verdict::Publish(Decision::Allow(change)) => changed_topic(change.as_deref()).unwrap_or(topic),
            Verdict::Failed(_) if open => topic,
            _ => return,
        };
        *self.publishes.entry(format!("{prefix}{topic}")).or_default() += 1;
    }

    /// This topic was allowed, for a while perhaps.
    pub(super) fn cached(&mut self, topic: &str) {
        self.cached.insert(topic.to_owned());
    }

    /// This was said of a SUBSCRIBE to these filters.
    pub(super) fn subscribe(&mut self, filters: &[String], prefix: &str, verdict: &Verdict, open: bool) {
        for (at, filter) in filters.iter().enumerate() {
            let filter = match verdict {
                Verdict::SubscribeAll(Decision::Allow(())) => filter,
                Verdict::Failed(_) if open => filter,
                Verdict::Subscribe(all) if all.len() == filters.len() => match &all[at] {
                    Decision::Allow(change) => change.filter.as_deref().unwrap_or(filter),
                    Decision::Refuse(_) => continue,
                },
                _ => continue,
            };
            *self.filters.entry(format!("{prefix}{filter}")).or_default() += 1;
        }
    }

    /// This has reached the broker: somebody must have allowed it, once for each time that it comes.
    pub(super) fn check_use(&mut self, packet: &Packet<'_>, prefix: &str) -> Result<(), String> {
        match packet {
            Packet::Connect(_) if !self.connect => Err("a CONNECT that nobody allowed".into()),
            Packet::Publish(publish) => {
                let topic = match publish.alias {
                    Some(alias) if publish.topic.is_empty() => {
                        self.aliases.get(&alias).cloned().unwrap_or_default()
                    }
                    Some(alias) => {
                        self.aliases.insert(alias, publish.topic.into());
                        publish.topic.to_owned()
                    }
                    None => publish.topic.to_owned(),
                };
                // Rules allow these, always.
                let ruled = |own: &str| match own {
                    own if own.starts_with(CACHED) => self.cached.contains(own),
                    own => {
                        own.starts_with(RULED) && ![EACH, DENIED].iter().any(|other| own.starts_with(other))
                    }
                };
                let ruled = topic.strip_prefix(prefix).is_some_and(ruled);
                if ruled { Ok(()) } else { take(&mut self.publishes, &topic, "PUBLISH") }
            }
            Packet::Subscribe(subscribe) => subscribe
                .filters()
                .try_for_each(|one| take(&mut self.filters, one.filter.as_str(), "SUBSCRIBE")),
            _ => Ok(()),
        }
    }
}

fn changed_topic(change: Option<&PublishChange>) -> Option<&str> {
    change.and_then(|change| change.topic.as_deref())
}

fn take(from: &mut HashMap<String, u32>, what: &str, packet: &str) -> Result<(), String> {
    match from.get_mut(what) {
        Some(left) if *left > 0 => {
            // Used up: a packet that is sent twice by mistake has no second permit.
            *left -= 1;
            Ok(())
        }
        _ => {
            let what: String = what.chars().take(40).collect();
            Err(format!("a {packet} to {what} that nobody allowed"))
        }
    }
}
