//! A rule's topic filter with its variables: which topics it matches, which filters it contains or meets.
//! Level by level and without allocating; a variable's value is always one literal level, or part of one.

use mproxy_codec::topic::{TopicError, check_filter, split_share};

use crate::peer::Peer;

/// Who a rule is applied to: what its variables stand for.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    /// `${clientid}`
    pub client_id: &'a str,
    /// `${username}`
    pub username: Option<&'a str>,
    /// `${cn}`: the common name of its certificate.
    pub common_name: Option<&'a str>,
    /// `${attr.name}`: what the policy attached to it.
    pub attributes: &'a [(String, String)],
}

impl<'a> From<&'a Peer> for Who<'a> {
    fn from(peer: &'a Peer) -> Self {
        Self {
            client_id: &peer.client_id,
            username: peer.username.as_deref(),
            common_name: peer.origin.tls.as_ref().and_then(|tls| tls.common_name.as_deref()),
            attributes: &peer.attributes,
        }
    }
}

/// Whether a pattern reaches topics that begin with `$` without saying so.
///
/// A wildcard does not ([MQTT-4.7.2-1]), and neither may a variable, or a client called `$SYS` would open the
/// broker's own topics to itself. What is *denied* errs on the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Only where the pattern begins with a written `$`.
    Named,
    /// Always.
    Wide,
}

/// A topic filter with variables, compiled.
#[derive(Clone, Debug, PartialEq)]
pub struct Pattern {
    levels: Box<[Level]>,
    /// It begins with a written `$`.
    names_dollar: bool,
    /// What every topic begins with that it matches: most rules are passed by with a glance at this.
    beginning: Box<str>,
}

#[derive(Clone, Debug, PartialEq)]
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

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Piece {
    Text(Box<str>),
    ClientId,
    Username,
    CommonName,
    Attribute(Box<str>),
}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It is no topic filter.
    #[error("not a topic filter: {0}")]
    Filter(TopicError),
    /// It begins with `$share/`.
    #[error(
        "write the filter without `$share/group/`: shared subscriptions are judged by the filter behind it"
    )]
    Shared,
    /// There is no such variable.
    #[error(
        "unknown variable `${{{0}}}`; there are ${{clientid}}, ${{username}}, ${{cn}} and ${{attr.name}}"
    )]
    Variable(String),
    /// A variable does not end.
    #[error("`${{` without `}}`")]
    Unclosed,
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
        let beginning = beginning.split("${").next().unwrap_or_default();
        Ok(Self { levels, names_dollar, beginning: beginning.into() })
    }

    /// Whether it matches the topic name.
    pub(super) fn matches(&self, topic: &str, who: Who<'_>, reach: Reach) -> bool {
        if reach == Reach::Named && topic.starts_with('$') && !self.names_dollar {
            return false;
        }
        // Comparing with a text of no bytes, which lies nowhere, takes some processors a hundred nanoseconds.
        if !self.beginning.is_empty() && !topic.starts_with(&*self.beginning) {
            return false;
        }
        let mut topic = Levels(Some(topic));
        for level in &self.levels {
            let met = match (level, topic.next()) {
                // Also where the topic has ended: `a/#` matches its parent `a`.
                (Level::Rest, _) => return true,
                (Level::One, Some(_)) => true,
                (level, Some(text)) => level.is(text, who),
                (_, None) => false,
            };
            if !met {
                return false;
            }
        }
        topic.next().is_none()
    }

    /// Whether it begins with a written `$`.
    pub(super) const fn names_dollar(&self) -> bool {
        self.names_dollar
    }

    /// Whether it matches every topic that the (unshared) filter matches.
    #[must_use]
    pub fn contains(&self, filter: &str, who: Who<'_>) -> bool {
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
                (Level::One, Some(text)) => text != "#",
                (level, Some(text)) => !matches!(text, "+" | "#") && level.is(text, who),
                (_, None) => false,
            };
            if !met {
                return false;
            }
        }
        filter.next().is_none()
    }

    /// Whether some topic is matched by both it and the (unshared) filter.
    #[must_use]
    pub fn meets(&self, filter: &str, who: Who<'_>) -> bool {
        // [MQTT-4.7.2-1]: the client's wildcard stays away from `$` topics.
        if self.names_dollar && filter.starts_with(['+', '#']) || !self.possible(who) {
            return false;
        }
        let mut levels = self.levels.iter();
        let mut filter = filter.split('/');
        loop {
            let met = match (levels.next(), filter.next()) {
                (Some(Level::Rest), _) | (_, Some("#")) | (None, None) => return true,
                (None, Some(_)) | (Some(_), None) => false,
                (Some(Level::One), Some(_)) | (Some(_), Some("+")) => true,
                (Some(level), Some(text)) => level.is(text, who),
            };
            if !met {
                return false;
            }
        }
    }

    /// Whether any topic at all can match: each variable has a value that fits into a level of a topic.
    fn possible(&self, who: Who<'_>) -> bool {
        self.levels.iter().all(|level| match level {
            Level::One | Level::Rest | Level::Text(_) => true,
            Level::Pieces(pieces) => pieces
                .iter()
                .all(|piece| piece.value(who).is_some_and(|value| !value.contains(['/', '+', '#']))),
        })
    }
}

/// The levels of a topic; short texts, in which a plain search is the quickest.
struct Levels<'a>(Option<&'a str>);

impl<'a> Iterator for Levels<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let rest = self.0?;
        match rest.bytes().position(|byte| byte == b'/') {
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
        Ok(Self::Pieces(pieces(text)?.into()))
    }

    /// Whether it is this text, which has no `/` in it. Wildcards are not texts.
    fn is(&self, text: &str, who: Who<'_>) -> bool {
        match self {
            Self::One | Self::Rest => false,
            Self::Text(own) => **own == *text,
            Self::Pieces(pieces) => {
                let rest = pieces.iter().try_fold(text, |rest, piece| {
                    piece.value(who).and_then(|value| rest.strip_prefix(value))
                });
                rest == Some("")
            }
        }
    }
}

/// Text and the variables in it, in their order.
pub(super) fn pieces(text: &str) -> Result<Vec<Piece>, PatternError> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        if !before.is_empty() {
            pieces.push(Piece::Text(before.into()));
        }
        let (name, after) = after.split_once('}').ok_or(PatternError::Unclosed)?;
        pieces.push(match name {
            "clientid" => Piece::ClientId,
            "username" => Piece::Username,
            "cn" => Piece::CommonName,
            other => match other.strip_prefix("attr.").filter(|name| !name.is_empty()) {
                Some(name) => Piece::Attribute(name.into()),
                None => return Err(PatternError::Variable(other.to_owned())),
            },
        });
        rest = after;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.into()));
    }
    Ok(pieces)
}

impl Piece {
    /// Its text; `None` where the client has no such thing.
    pub(super) fn value<'a>(&'a self, who: Who<'a>) -> Option<&'a str> {
        match self {
            Self::Text(text) => Some(text),
            Self::ClientId => Some(who.client_id),
            Self::Username => who.username,
            Self::CommonName => who.common_name,
            Self::Attribute(name) => {
                who.attributes.iter().find(|(own, _)| **own == **name).map(|(_, value)| &**value)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: Who<'static> = Who { client_id: "", username: None, common_name: None, attributes: &[] };
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
            assert!(pattern(text).matches(topic, ANN, Reach::Named), "{text} {topic}");
            assert!(pattern(text).contains(topic, ANN), "{text} {topic}");
            assert!(pattern(text).meets(topic, ANN), "{text} {topic}");
        }
        let tenant = [("tenant".to_owned(), "acme".to_owned())];
        let who = Who { common_name: Some("cert"), attributes: &tenant, ..ANN };
        assert!(pattern("${cn}/${attr.tenant}/#").matches("cert/acme/x", who, Reach::Named));
        assert!(!pattern("${cn}/#").meets("#", ANN) && !pattern("${attr.tenant}").meets("+", ANN));
        assert!(!pattern("dev/${clientid}").matches("dev/c2", ANN, Reach::Named));
        assert!(!pattern("dev/${clientid}").matches("dev/c1/x", ANN, Reach::Named));
        assert!(!pattern("dev/${clientid}").matches("dev/c1x", ANN, Reach::Named));
    }

    #[test]
    fn a_value_never_widens_a_rule() {
        let rule = pattern("dev/${clientid}");
        for client_id in ["+", "#", "a/b", "", "+/#"] {
            let who = Who { client_id, ..NOBODY };
            for topic in ["dev/x", "dev/a/b", "dev/a", "dev/c1"] {
                assert!(!rule.matches(topic, who, Reach::Named), "{client_id} {topic}");
                assert!(!rule.contains(topic, who), "{client_id} {topic}");
            }
            for filter in ["dev/+", "dev/#", "dev/a/b", "#", "+/+"] {
                assert!(!rule.contains(filter, who), "{client_id} {filter}");
            }
        }
        let nobody = NOBODY;
        assert!(rule.matches("dev/", nobody, Reach::Named));
        assert!(!pattern("u/${username}").matches("u/", nobody, Reach::Named));
        assert!(!pattern("u/${username}").meets("u/#", nobody));
    }

    #[test]
    fn dollar_topics_must_be_named() {
        let sys = Who { client_id: "$SYS", username: Some("$SYS"), ..NOBODY };
        for text in ["#", "+/x", "+/#", "${clientid}/#", "${username}/x"] {
            assert!(!pattern(text).matches("$SYS/x", sys, Reach::Named), "{text}");
            assert!(!pattern(text).contains("$SYS/x", sys), "{text}");
            assert!(!pattern(text).contains("$SYS/#", sys), "{text}");
            assert!(pattern(text).matches("$SYS/x", sys, Reach::Wide), "{text}");
            assert!(pattern(text).meets("$SYS/x", sys), "{text}");
        }
        assert!(pattern("$SYS/#").matches("$SYS/x", ANN, Reach::Named));
        assert!(pattern("$SYS/#").contains("$SYS/+/x", ANN));
        assert!(!pattern("$SYS/#").meets("#", ANN));
        assert!(!pattern("$SYS/#").meets("+/x", ANN));
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
            assert_eq!(pattern(rule).meets(filter, ANN), meet, "{rule} {filter}");
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
    fn a_glance_at_the_beginning_misses_nothing() {
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
        assert!(
            pattern("a/#").matches("a", ANN, Reach::Named)
                && !pattern("a/#").matches("ab", ANN, Reach::Named)
        );
        assert!(
            pattern("/#").matches("/", ANN, Reach::Named) && !pattern("/#").matches("a", ANN, Reach::Named)
        );
    }

    #[test]
    fn what_is_no_pattern_is_told() {
        assert!(matches!(Pattern::parse("a/#/b"), Err(PatternError::Filter(_))));
        assert!(matches!(Pattern::parse("$share/g/a"), Err(PatternError::Shared)));
        assert_eq!(Pattern::parse("a/${who}").unwrap_err(), PatternError::Variable("who".to_owned()));
        assert_eq!(Pattern::parse("a/${clientid").unwrap_err(), PatternError::Unclosed);
    }
}
