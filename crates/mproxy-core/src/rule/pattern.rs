//! A rule's topic filter with its variables: which topics it matches, which filters it contains or intersects.
//! Level by level and without allocating.
//!
//! A variable's value is one literal level, or part of one. Where it cannot be (the client has no such value, or it is
//! empty, or has `/`, `+` or `#` in it), what is allowed is nothing, and what is denied or asked about is everything
//! from that level on: nothing is had by a name that a rule cannot hold.

use mproxy_codec::topic::{check_filter, split_share};
use serde::{Deserialize, Serialize};

use super::variables::{Piece, Variable, Who, attributes, match_pieces, parse_pieces};
use super::{PatternError, PatternReach};

/// A topic filter with variables, compiled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pattern {
    levels: Box<[Level]>,
    /// It begins with a written `$`.
    names_dollar: bool,
    /// What every topic begins with that it matches: most rules are passed by by comparing this.
    beginning: Box<str>,
    /// How many bytes of that hold whatever the variables stand for.
    fixed: u16,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Level {
    /// `+`
    One,
    /// `#`, always last.
    Rest,
    /// Text without variables.
    Text(Box<str>),
    /// Text and variables, to be compared as if written out.
    Pieces(Box<[Piece]>),
}

impl Pattern {
    /// Compiles `text`.
    ///
    /// # Errors
    /// It is no plain topic filter, or has a variable that there is not.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        check_filter(text).map_err(PatternError::Filter)?;
        if split_share(text).0.is_some() {
            return Err(PatternError::Shared);
        }
        let levels: Box<[Level]> = text.split('/').map(Level::parse).collect::<Result<_, _>>()?;
        if let Some(twice) = repeated(&levels) {
            return Err(PatternError::Repeated(twice.name()));
        }
        let names_dollar = match levels.first() {
            Some(Level::Text(text)) => text.starts_with('$'),
            Some(Level::Pieces(pieces)) => {
                matches!(pieces.first(), Some(Piece::Text(text)) if text.starts_with('$'))
            }
            Some(Level::One | Level::Rest) | None => false,
        };
        // `a/#` matches `a`, too.
        let beginning = text.strip_suffix("/#").unwrap_or(text);
        let beginning = &beginning[..beginning.find(['+', '#']).unwrap_or(beginning.len())];
        let (beginning, fixed) = match beginning.split_once("${") {
            Some((beginning, _)) => (beginning, beginning.rfind('/').unwrap_or(0)),
            None => (beginning, beginning.len()),
        };
        // No filter is longer.
        let fixed = u16::try_from(fixed).unwrap_or(u16::MAX);
        Ok(Self { levels, names_dollar, beginning: beginning.into(), fixed })
    }

    /// Whether it matches the topic name.
    pub(super) fn matches(&self, topic: &str, who: Who<'_>, reach: PatternReach) -> bool {
        let beginning = match reach {
            PatternReach::Named if topic.starts_with('$') && !self.names_dollar => return false,
            PatternReach::Named => &*self.beginning,
            PatternReach::Wide => &self.beginning[..usize::from(self.fixed)],
        };
        // Comparing with a text of no bytes, which lies nowhere, takes some processors a hundred nanoseconds.
        if !beginning.is_empty() && !topic.starts_with(beginning) {
            return false;
        }
        let mut topic = Levels(Some(topic));
        for level in &self.levels {
            let met = match (level, topic.next()) {
                // Also where the topic has ended: `a/#` matches its parent `a`.
                (Level::Rest, _) => return true,
                (Level::Pieces(_), _) if reach == PatternReach::Wide && level.is_open(who) => return true,
                (Level::One, Some(_)) => true,
                (level, Some(text)) => level.is(text, who, reach),
                (_, None) => false,
            };
            if !met {
                return false;
            }
        }
        topic.next().is_none()
    }

    /// The attributes that its variables stand for.
    pub fn attributes(&self) -> impl Iterator<Item = &str> {
        let pieces = self.levels.iter().filter_map(|level| match level {
            Level::Pieces(pieces) => Some(&**pieces),
            Level::One | Level::Rest | Level::Text(_) => None,
        });
        pieces.flat_map(attributes)
    }

    /// Whether it begins with a written `$`.
    pub(super) const fn names_dollar(&self) -> bool {
        self.names_dollar
    }

    /// Whether it matches every topic that the (unshared) filter matches.
    #[must_use]
    pub fn contains(&self, filter: &str, who: Who<'_>) -> bool {
        // [MQTT-4.7.2-1]: a wildcard at the front does not reach these, and neither may a variable.
        if filter.starts_with('$') && !self.names_dollar {
            return false;
        }
        // `#` alone has no parent level to match: it is every name of one level or more, as `+/#` is.
        if filter == "#" {
            return matches!(*self.levels, [Level::Rest] | [Level::One, Level::Rest]);
        }
        let mut filter = filter.split('/');
        for level in &self.levels {
            let met = match (level, filter.next()) {
                (Level::Rest, _) => return true,
                // `+` stands for one level, `#` for any number of them.
                (Level::One, Some(text)) => text != "#",
                // Compared as text, `${clientid}` would contain the wildcard of a client that calls itself `+`.
                (level, Some(text)) => !matches!(text, "+" | "#") && level.is(text, who, PatternReach::Named),
                (_, None) => false,
            };
            if !met {
                return false;
            }
        }
        filter.next().is_none()
    }

    /// Whether some topic is matched by both it, as far as it may reach, and the (unshared) filter.
    #[must_use]
    pub fn intersects(&self, filter: &str, who: Who<'_>) -> bool {
        // [MQTT-4.7.2-1]: the client's wildcard stays away from `$` topics.
        if self.names_dollar
            && filter.starts_with(['+', '#'])
            && !self.levels.first().is_some_and(|first| first.is_open(who))
        {
            return false;
        }
        let mut levels = self.levels.iter();
        let mut filter = filter.split('/');
        loop {
            let met = match (levels.next(), filter.next()) {
                // Also where the other one has ended: `a/#` has its parent `a`, too (4.7.1.2).
                (Some(Level::Rest), _) | (_, Some("#")) | (None, None) => return true,
                (Some(level), _) if level.is_open(who) => return true,
                (None, Some(_)) | (Some(_), None) => false,
                (Some(Level::One), Some(_)) | (Some(_), Some("+")) => true,
                (Some(level), Some(text)) => level.is(text, who, PatternReach::Wide),
            };
            if !met {
                return false;
            }
        }
    }
}

/// A variable with several values that stands there twice.
fn repeated(levels: &[Level]) -> Option<&Variable> {
    let pieces = levels.iter().filter_map(|level| match level {
        Level::Pieces(pieces) => Some(pieces),
        Level::One | Level::Rest | Level::Text(_) => None,
    });
    let variables = pieces.flatten().filter_map(|piece| match piece {
        Piece::Variable(variable) => Some(variable).filter(|variable| variable.is_list()),
        Piece::Text(_) => None,
    });
    let variables: Vec<_> = variables.collect();
    variables.iter().enumerate().find(|(at, own)| variables[..*at].contains(own)).map(|(_, own)| *own)
}

/// Up to so many bytes a plain search is the quickest.
const SHORT: usize = 64;

/// The levels of a topic; mostly short texts.
struct Levels<'a>(Option<&'a str>);

impl<'a> Iterator for Levels<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let rest = self.0?;
        let slash =
            if rest.len() <= SHORT { rest.bytes().position(|byte| byte == b'/') } else { rest.find('/') };
        match slash {
            Some(at) => {
                self.0 = Some(&rest[at + 1..]);
                Some(&rest[..at])
            }
            None => self.0.take(),
        }
    }
}

impl Level {
    fn parse(text: &str) -> Result<Self, PatternError> {
        match text {
            "+" => return Ok(Self::One),
            "#" => return Ok(Self::Rest),
            _ if !text.contains("${") => return Ok(Self::Text(text.into())),
            _ => {}
        }
        Ok(Self::Pieces(parse_pieces(text)?.into()))
    }

    /// Whether it is this text, which has no `/` in it. Wildcards are not texts.
    fn is(&self, text: &str, who: Who<'_>, reach: PatternReach) -> bool {
        match self {
            Self::One | Self::Rest => false,
            Self::Text(own) => **own == *text,
            Self::Pieces(pieces) => match_pieces(pieces, text, who, reach, str::is_empty),
        }
    }

    /// Whether a variable in it has no value for this client that could be (part of) a level.
    fn is_open(&self, who: Who<'_>) -> bool {
        let Self::Pieces(pieces) = self else { return false };
        pieces.iter().any(|piece| match piece {
            Piece::Text(_) => false,
            Piece::Variable(variable) => variable.is_open(who),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: Who<'static> = Who::NOBODY;
    const ANN: Who<'static> = Who { client_id: "c1", username: Some("ann"), ..NOBODY };

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn variables_stand_for_their_value() {
        for (text, topic) in [
            ("dev/${clientid}", "dev/c1"),
            ("dev/${clientid}/#", "dev/c1"),
            ("dev/${clientid}/#", "dev/c1/up/x"),
            ("${username}-${clientid}/+", "ann-c1/x"),
            ("a${clientid}b", "ac1b"),
        ] {
            assert!(pattern(text).matches(topic, ANN, PatternReach::Named), "{text} {topic}");
            assert!(pattern(text).contains(topic, ANN), "{text} {topic}");
            assert!(pattern(text).intersects(topic, ANN), "{text} {topic}");
        }
        let tenant = [("tenant".to_owned(), "acme".to_owned())];
        let who = Who { common_name: Some("cert"), attributes: &tenant, ..ANN };
        assert!(pattern("${cn}/${attr.tenant}/#").matches("cert/acme/x", who, PatternReach::Named));
        assert!(!pattern("dev/${clientid}").matches("dev/c2", ANN, PatternReach::Named));
        assert!(!pattern("dev/${clientid}").matches("dev/c1/x", ANN, PatternReach::Named));
        assert!(!pattern("dev/${clientid}").matches("dev/c1x", ANN, PatternReach::Named));
    }

    /// What no level can be: absent is tried beside these.
    const ODD: [&str; 6] = ["", "+", "#", "a/b", "+/#", "a#"];

    #[test]
    fn what_is_no_level_allows_nothing() {
        for text in ["dev/${username}", "dev/${username}/#", "dev/x${username}/+", "${username}/#"] {
            let rule = pattern(text);
            for username in [None].into_iter().chain(ODD.map(Some)) {
                let who = Who { username, ..NOBODY };
                for topic in ["dev/x", "dev/a/b", "dev/a", "dev/", "dev", "dev//x", "/x", "dev/x/a"] {
                    assert!(!rule.matches(topic, who, PatternReach::Named), "{text} {username:?} {topic}");
                    assert!(!rule.contains(topic, who), "{text} {username:?} {topic}");
                }
                for filter in ["dev/+", "dev/#", "dev/a/b", "#", "+/+", "dev/+/+"] {
                    assert!(!rule.contains(filter, who), "{text} {username:?} {filter}");
                }
            }
        }
        // A client without an id has no devices of its own.
        assert!(!pattern("devices/${clientid}/#").contains("devices//#", NOBODY));
        assert!(!pattern("${cn}/#").contains("a/#", ANN) && !pattern("${attr.tenant}").contains("a", ANN));
    }

    #[test]
    fn what_is_no_level_denies_everything_from_there_on() {
        for username in [None].into_iter().chain(ODD.map(Some)) {
            let who = Who { username, ..NOBODY };
            for (text, met, other) in [
                ("u/${username}", ["u", "u/x", "u/x/y"], "v"),
                ("u/${username}/z", ["u", "u/x", "u/x/y"], "ux"),
                ("u/x${username}y/#", ["u", "u/a", "u//"], "v/x"),
                ("u/+/${username}", ["u/a", "u/a/b", "u//b/c"], "u"),
                ("$s${username}/x", ["a", "$s", "$t/x"], ""),
                ("${username}/x", ["a", "b/c", "$SYS/x"], ""),
            ] {
                let rule = pattern(text);
                for topic in met {
                    assert!(rule.matches(topic, who, PatternReach::Wide), "{text} {username:?} {topic}");
                    assert!(rule.intersects(topic, who), "{text} {username:?} {topic}");
                }
                assert!(rule.intersects("#", who) && rule.intersects("+/#", who), "{text} {username:?}");
                if !other.is_empty() {
                    assert!(!rule.matches(other, who, PatternReach::Wide), "{text} {username:?} {other}");
                    assert!(!rule.intersects(other, who), "{text} {username:?} {other}");
                }
            }
        }
    }

    #[test]
    fn of_two_variables_in_a_level_each_is_known_from_the_other() {
        let rule = pattern("${username}-${clientid}/#");
        let topic = "ann-x-1/a";
        let is = |username, client_id, reach| {
            rule.matches(topic, Who { client_id, username: Some(username), ..NOBODY }, reach)
        };
        assert!(is("ann-x", "1", PatternReach::Named) && !is("ann", "x-1", PatternReach::Named));
        // What is denied to either is denied.
        assert!(is("ann-x", "1", PatternReach::Wide) && is("ann", "x-1", PatternReach::Wide));
        assert_eq!(Pattern::parse("a/${username}${clientid}"), Err(PatternError::Adjacent));
    }

    #[test]
    fn dollar_topics_must_be_named() {
        let sys = Who { client_id: "$SYS", username: Some("$SYS"), ..NOBODY };
        for text in ["#", "+/x", "+/#", "${clientid}/#", "${username}/x"] {
            assert!(!pattern(text).matches("$SYS/x", sys, PatternReach::Named), "{text}");
            assert!(!pattern(text).contains("$SYS/x", sys), "{text}");
            assert!(!pattern(text).contains("$SYS/#", sys), "{text}");
            assert!(pattern(text).matches("$SYS/x", sys, PatternReach::Wide), "{text}");
            assert!(pattern(text).intersects("$SYS/x", sys), "{text}");
        }
        assert!(pattern("$SYS/#").matches("$SYS/x", ANN, PatternReach::Named));
        assert!(pattern("$SYS/#").contains("$SYS/+/x", ANN));
        assert!(!pattern("$SYS/#").intersects("#", ANN));
        assert!(!pattern("$SYS/#").intersects("+/x", ANN));
    }

    #[test]
    fn filters_meet_where_a_topic_matches_both() {
        for (rule, filter, meet) in [
            ("secret/#", "#", true),
            ("secret/#", "secret", true),
            ("secret/#", "+/x", true),
            ("secret/x", "+/x", true),
            ("secret/x", "+/y", false),
            ("secret/+", "+/y", true),
            ("secret/+", "secret", false),
            ("secret", "secret/#", true),
            ("secret", "secret/+", false),
            ("a/b/c", "a/#", true),
            ("a/+/c", "+/b/+", true),
            ("a/+/c", "+/b/d", false),
        ] {
            assert_eq!(pattern(rule).intersects(filter, ANN), meet, "{rule} {filter}");
        }
    }

    #[test]
    fn containment_is_the_codecs_where_there_are_no_variables() {
        let filters = ["#", "+", "a", "+/#", "a/#", "a/+", "a/b", "+/b", "a/+/#", "/", "+/+", "$x/#", "$x"];
        for outer in filters {
            for inner in filters {
                let expected = mproxy_codec::topic::contains(outer, inner);
                assert_eq!(pattern(outer).contains(inner, ANN), expected, "{outer} {inner}");
            }
        }
    }

    #[test]
    fn comparing_the_beginning_misses_nothing() {
        for (text, beginning) in [
            ("a/b", "a/b"),
            ("a/#", "a"),
            ("a/+/c", "a/"),
            ("a/+/#", "a/"),
            ("#", ""),
            ("+/#", ""),
            ("a/b${clientid}/c", "a/b"),
            ("a${clientid}/#", "a"),
            ("/#", ""),
            ("a/${clientid}/+/#", "a/"),
        ] {
            assert_eq!(&*pattern(text).beginning, beginning, "{text}");
        }
        for (text, fixed) in [
            ("a/b", "a/b"),
            ("a/#", "a"),
            ("a/+/${clientid}", "a/"),
            ("a/b${clientid}/c", "a"),
            ("a${clientid}/#", ""),
            ("a/b/${clientid}/+/#", "a/b"),
            ("/${clientid}", ""),
        ] {
            let pattern = pattern(text);
            assert_eq!(&pattern.beginning[..usize::from(pattern.fixed)], fixed, "{text}");
        }
        assert!(
            pattern("a/#").matches("a", ANN, PatternReach::Named)
                && !pattern("a/#").matches("ab", ANN, PatternReach::Named)
        );
        assert!(
            pattern("/#").matches("/", ANN, PatternReach::Named)
                && !pattern("/#").matches("a", ANN, PatternReach::Named)
        );
    }

    #[test]
    fn a_variable_with_several_values_stands_for_each_of_them() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let claims =
            [pair("claim.t", "a"), pair("claim.t", "b"), pair("claim.r", "x-y"), pair("claim.r", "x")];
        let sans = ["DNS:d.example".to_owned(), "URI:spiffe://p/q".to_owned(), "URI:u".to_owned()];
        let who =
            Who { attributes: &claims, subject_alt_names: &sans, fingerprint: Some("f0"), ..Who::NOBODY };
        let named = |text: &str, topic| pattern(text).matches(topic, who, PatternReach::Named);
        assert!(
            named("t/${claim.t}/#", "t/a/1")
                && named("t/${claim.t}/#", "t/b")
                && !named("t/${claim.t}/#", "t/c")
        );
        assert!(
            pattern("t/${claim.t}/#").contains("t/b/+", who)
                && !pattern("t/${claim.t}/#").contains("t/+", who)
        );
        // Each value is tried, also where a shorter one begins alike.
        assert!(named("${claim.r}-${claim.t}", "x-a") && named("${claim.r}/z", "x-y/z"));
        assert!(named("${san.dns}", "d.example") && named("${fingerprint}/${san.uri}", "f0/u"));
        // One name that is no level takes nothing from the others, and gives nothing.
        assert!(
            !named("${san.uri}", "spiffe:") && pattern("${san.uri}").matches("x/y", who, PatternReach::Wide)
        );
        assert!(!pattern("${san.dns}").matches("x/y", who, PatternReach::Wide));
        assert!(pattern("a/${claim.none}").matches("a/x/y", who, PatternReach::Wide));
    }

    #[test]
    fn what_is_no_pattern_is_told() {
        for twice in ["${claim.t}/${claim.t}", "a/${san.dns}-${san.dns}", "${attr.group}/${attr.group}"] {
            assert!(matches!(Pattern::parse(twice), Err(PatternError::Repeated(_))), "{twice}");
        }
        assert!(Pattern::parse("${attr.a}/${attr.a}/${clientid}/${clientid}").is_ok());
        assert!(matches!(Pattern::parse("a/#/b"), Err(PatternError::Filter(_))));
        assert!(matches!(Pattern::parse("$share/g/a"), Err(PatternError::Shared)));
        assert_eq!(Pattern::parse("a/${who}").unwrap_err(), PatternError::Variable("who".to_owned()));
        assert_eq!(Pattern::parse("a/${clientid").unwrap_err(), PatternError::Unclosed);
    }
}
