//! Where a client's topics stand at the broker: rewritten by a [table](RewriteTable), and under a prefix, on the way up; and
//! back on the way down. Topics that begin with `$` are the broker's own and are left alone.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use mproxy_codec::topic::{check_filter, check_name, split_share};
use serde::{Deserialize, Serialize};

use super::rewrites::{MappingWay, NoPlace, RewriteTable};

/// A topic mapping: a table of rewrites, then a prefix; or one of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    /// Empty where there is none. It ends with a `/`: one that ended within a level would reach what begins alike, `acme`
    /// the topics of `acme2/`.
    prefix: Box<str>,
    rewrites: Option<Arc<RewriteTable>>,
}

/// Why a text is no prefix for topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrefixError {
    /// It is no beginning of a topic name: empty, too long, or with a wildcard or U+0000 in it.
    NoName,
    /// It begins with `$`: what a client says would become a shared subscription or a topic of the broker's own.
    Dollar,
}

impl fmt::Display for PrefixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoName => "is no beginning of a topic name",
            Self::Dollar => "begins with $",
        })
    }
}

impl Mapping {
    /// A mapping to topics under `prefix`: the levels before them. The `/` behind the last one is added where it is
    /// missing.
    ///
    /// # Errors
    /// It cannot stand before a topic.
    pub fn new(prefix: &str) -> Result<Self, PrefixError> {
        // Of nothing at all it would make a level without a name.
        let slash = if prefix.is_empty() || prefix.ends_with('/') { "" } else { "/" };
        let prefix = format!("{prefix}{slash}");
        check_name(&prefix).map_err(|_| PrefixError::NoName)?;
        if prefix.starts_with('$') {
            return Err(PrefixError::Dollar);
        }
        Ok(Self { prefix: prefix.into(), rewrites: None })
    }

    /// A mapping by these rewrites, without a prefix.
    #[must_use]
    pub fn rewriting(rewrites: Arc<RewriteTable>) -> Self {
        Self { prefix: Box::default(), rewrites: Some(rewrites) }
    }

    /// The same under the prefix, which is put before what the rewrites have made.
    #[must_use]
    pub fn with_rewrites(self, rewrites: Arc<RewriteTable>) -> Self {
        Self { rewrites: Some(rewrites), ..self }
    }

    /// Whether it has rewrites.
    #[must_use]
    pub const fn rewrites(&self) -> bool {
        self.rewrites.is_some()
    }

    /// How much work it is to map so many topics or filters of so many bytes together.
    pub(crate) fn work(&self, count: usize, bytes: usize) -> usize {
        self.rewrites.as_ref().map_or(0, |table| table.work(count, bytes))
    }

    /// Whether the broker's topic begins with the prefix.
    pub(crate) fn is_under_prefix(&self, topic: &str) -> bool {
        topic.strip_prefix(&*self.prefix).is_some_and(|own| !own.is_empty() && !own.starts_with('$'))
    }

    /// What the broker calls the client's topic; `None` if it has no place there.
    #[must_use]
    pub fn up<'t>(&self, topic: &'t str) -> Option<Cow<'t, str>> {
        // Under a prefix it would be a tenant's own topic with a misleading name. Whether it may be used is for the rules.
        if topic.starts_with('$') {
            return Some(topic.into());
        }
        let own = match &self.rewrites {
            None => topic.into(),
            Some(table) => table.turn(MappingWay::Up, topic)?,
        };
        Some(self.under_prefix(own))
    }

    /// What the client calls the broker's topic; `None` if it is none of the client's.
    #[must_use]
    pub fn down<'t>(&self, topic: &'t str) -> Option<Cow<'t, str>> {
        if topic.starts_with('$') {
            return Some(topic.into());
        }
        // The prefix alone is no topic of the client's: it would be one without a name. And what begins with `$` behind it
        // would pass for one of the broker's own.
        let own = topic.strip_prefix(&*self.prefix).filter(|own| !own.is_empty() && !own.starts_with('$'))?;
        match &self.rewrites {
            None => Some(own.into()),
            Some(table) => table.turn(MappingWay::Down, own),
        }
    }

    /// What the broker calls the client's filter; of a shared one, behind the group.
    ///
    /// # Errors
    /// There is no filter that brings exactly the same.
    pub fn up_filter<'t>(&self, filter: &'t str) -> Result<Cow<'t, str>, NoPlace> {
        let mapped = self.turn_filter(MappingWay::Up, filter)?;
        // With the prefix it may be longer than a filter can be [MQTT-4.7.3-3].
        if matches!(mapped, Cow::Owned(_)) && check_filter(&mapped).is_err() {
            return Err(NoPlace::TooLong);
        }
        Ok(mapped)
    }

    /// The same, for somebody to read: also of one that is too long, or has none at the broker.
    #[must_use]
    pub fn name_of<'t>(&self, filter: &'t str) -> Cow<'t, str> {
        self.turn_filter(MappingWay::Up, filter).unwrap_or_else(|_| match split_share(filter) {
            (Some(group), plain) => format!("$share/{group}/{}{plain}", self.prefix).into(),
            (None, plain) => format!("{}{plain}", self.prefix).into(),
        })
    }

    /// What the client calls a filter that the broker knows by this name: the way back from
    /// [`up_filter`](Self::up_filter). `None` if it is none of the client's.
    #[must_use]
    pub fn down_filter<'t>(&self, name: &'t str) -> Option<Cow<'t, str>> {
        self.turn_filter(MappingWay::Down, name).ok()
    }

    fn turn_filter<'t>(&self, way: MappingWay, filter: &'t str) -> Result<Cow<'t, str>, NoPlace> {
        let (group, plain) = split_share(filter);
        if plain.starts_with('$') {
            return Ok(filter.into());
        }
        let plain = match way {
            MappingWay::Up => plain,
            MappingWay::Down => {
                plain.strip_prefix(&*self.prefix).filter(|own| !own.is_empty()).ok_or(NoPlace::Renamed)?
            }
        };
        let turned = match &self.rewrites {
            None => plain.into(),
            Some(table) => table.turn_filter(way, plain)?,
        };
        let turned = match way {
            MappingWay::Up => self.under_prefix(turned),
            MappingWay::Down => turned,
        };
        Ok(match group {
            // Nothing was changed: it is the very text.
            Some(group) if *turned != *split_share(filter).1 => format!("$share/{group}/{turned}").into(),
            Some(_) => filter.into(),
            None => turned,
        })
    }

    fn under_prefix<'t>(&self, own: Cow<'t, str>) -> Cow<'t, str> {
        if self.prefix.is_empty() { own } else { format!("{}{own}", self.prefix).into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_up_comes_down_again() {
        let mapping = Mapping::new("tenants/acme/").unwrap();
        assert_eq!(mapping.up("a/b").as_deref(), Some("tenants/acme/a/b"));
        assert_eq!(mapping.down("tenants/acme/a/b").as_deref(), Some("a/b"));
        assert_eq!(mapping.up("$SYS/x").as_deref(), Some("$SYS/x"));
        assert_eq!(mapping.down("$SYS/x").as_deref(), Some("$SYS/x"));
        for other in ["tenants/acme", "tenants/acme/", "tenants/acmes/a", "a/b", "tenants/acme/$SYS/x"] {
            assert_eq!(mapping.down(other), None, "{other}");
        }
    }

    #[test]
    fn filters_are_mapped_behind_their_group() {
        let mapping = Mapping::new("t/").unwrap();
        for (filter, mapped) in [
            ("#", "t/#"),
            ("+/a", "t/+/a"),
            ("/a", "t//a"),
            ("$share/g/#", "$share/g/t/#"),
            ("$SYS/#", "$SYS/#"),
            ("$share/g/$SYS/x", "$share/g/$SYS/x"),
        ] {
            assert_eq!(mapping.up_filter(filter).as_deref(), Ok(mapped));
            assert_eq!(mapping.down_filter(mapped).as_deref(), Some(filter));
        }
        let long = "x".repeat(65_533);
        assert_eq!(mapping.up_filter(&long).map(|mapped| mapped.len()), Ok(65_535));
        assert_eq!(mapping.up_filter(&format!("{long}x")), Err(NoPlace::TooLong));
    }

    #[test]
    fn a_prefix_ends_at_a_level() {
        let (mapping, same) = (Mapping::new("acme").unwrap(), Mapping::new("acme/").unwrap());
        assert_eq!(mapping, same);
        assert_eq!(mapping.up("2/a").as_deref(), Some("acme/2/a"));
        assert_eq!(mapping.up_filter("#").as_deref(), Ok("acme/#"));
        assert_eq!(mapping.down("acme2/a"), None);
        assert_eq!(Mapping::new("/").unwrap().up("a").as_deref(), Some("/a"));
    }

    #[test]
    fn what_cannot_stand_before_a_topic_is_no_prefix() {
        for prefix in ["", "a/+/", "#", "a\0"] {
            assert_eq!(Mapping::new(prefix), Err(PrefixError::NoName), "{prefix:?}");
        }
        assert_eq!(Mapping::new("$share/g/"), Err(PrefixError::Dollar));
    }
}
