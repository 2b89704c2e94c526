//! A prefix under which a client's topics stand at the broker: put before them on the way up, taken off on the way
//! down. Topics that begin with `$` are the broker's own and are left alone.

use std::borrow::Cow;
use std::fmt;

use mproxy_codec::topic::{check_filter, check_name, split_share};
use serde::{Deserialize, Serialize};

/// A topic mapping: the prefix, which ends with a `/`.
///
/// One that ended within a level would reach what begins alike: `acme` the topics of `acme2/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping(Box<str>);

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
        if prefix.starts_with('$') { Err(PrefixError::Dollar) } else { Ok(Self(prefix.into())) }
    }

    /// What the broker calls the client's topic.
    #[must_use]
    pub fn up<'t>(&self, topic: &'t str) -> Cow<'t, str> {
        // Under a prefix it would be a tenant's own topic with a misleading name. Whether it may be used is for the rules.
        if topic.starts_with('$') { topic.into() } else { format!("{}{topic}", self.0).into() }
    }

    /// What the client calls the broker's topic; `None` if it is none of the client's.
    #[must_use]
    pub fn down<'t>(&self, topic: &'t str) -> Option<&'t str> {
        match topic.strip_prefix(&*self.0) {
            None if topic.starts_with('$') => Some(topic),
            // The prefix alone is no topic of the client's: it would be one without a name.
            None | Some("") => None,
            // Seen by the client it would pass for one of the broker's own.
            Some(own) if own.starts_with('$') => None,
            Some(own) => Some(own),
        }
    }

    /// What the broker calls the client's filter; of a shared one, behind the group. `None` where that is no filter: it
    /// is too long.
    #[must_use]
    pub fn up_filter<'t>(&self, filter: &'t str) -> Option<Cow<'t, str>> {
        match self.name_of(filter) {
            // With the prefix it may be longer than a filter can be [MQTT-4.7.3-3].
            Cow::Owned(mapped) => check_filter(&mapped).is_ok().then_some(mapped.into()),
            unchanged @ Cow::Borrowed(_) => Some(unchanged),
        }
    }

    /// The same, for somebody to read: also of one that is too long.
    #[must_use]
    pub fn name_of<'t>(&self, filter: &'t str) -> Cow<'t, str> {
        match split_share(filter) {
            (_, plain) if plain.starts_with('$') => filter.into(),
            (Some(group), plain) => format!("$share/{group}/{}{plain}", self.0).into(),
            (None, plain) => format!("{}{plain}", self.0).into(),
        }
    }

    /// What the client calls a filter that the broker knows by this name: the way back from
    /// [`up_filter`](Self::up_filter). `None` if it is none of the client's.
    #[must_use]
    pub fn down_filter<'t>(&self, name: &'t str) -> Option<Cow<'t, str>> {
        match split_share(name) {
            (_, plain) if plain.starts_with('$') => Some(name.into()),
            (Some(group), plain) => {
                plain.strip_prefix(&*self.0).map(|own| format!("$share/{group}/{own}").into())
            }
            (None, plain) => plain.strip_prefix(&*self.0).map(Cow::Borrowed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_up_comes_down_again() {
        let mapping = Mapping::new("tenants/acme/").unwrap();
        assert_eq!(mapping.up("a/b"), "tenants/acme/a/b");
        assert_eq!(mapping.down("tenants/acme/a/b"), Some("a/b"));
        assert_eq!(mapping.up("$SYS/x"), "$SYS/x");
        assert_eq!(mapping.down("$SYS/x"), Some("$SYS/x"));
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
            assert_eq!(mapping.up_filter(filter).as_deref(), Some(mapped));
            assert_eq!(mapping.down_filter(mapped).as_deref(), Some(filter));
        }
        let long = "x".repeat(65_533);
        assert_eq!(mapping.up_filter(&long).map(|mapped| mapped.len()), Some(65_535));
        assert_eq!(mapping.up_filter(&format!("{long}x")), None);
    }

    #[test]
    fn a_prefix_ends_at_a_level() {
        let (mapping, same) = (Mapping::new("acme").unwrap(), Mapping::new("acme/").unwrap());
        assert_eq!(mapping, same);
        assert_eq!(mapping.up("2/a"), "acme/2/a");
        assert_eq!(mapping.up_filter("#").as_deref(), Some("acme/#"));
        assert_eq!(mapping.down("acme2/a"), None);
        assert_eq!(Mapping::new("/").unwrap().up("a"), "/a");
    }

    #[test]
    fn what_cannot_stand_before_a_topic_is_no_prefix() {
        for prefix in ["", "a/+/", "#", "a\0"] {
            assert_eq!(Mapping::new(prefix), Err(PrefixError::NoName), "{prefix:?}");
        }
        assert_eq!(Mapping::new("$share/g/"), Err(PrefixError::Dollar));
    }
}
