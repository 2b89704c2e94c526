//! A row as it is written: `from` and `to`, with captures and variables.
//!
//! A capture is a whole level: `{name}` stands for any text, `{name...}` at the end for all levels that follow, perhaps none.
//! Each stands once in `from` and once in `to`, or the way back could not be told. Variables stand for the same text as in
//! rules.

use std::fmt;

use mproxy_codec::topic::{TopicError, check_name};

use super::Rewrite;
use super::shape::{ShapeLevel, TopicShape};
use crate::rule::{PatternError, Template, Who};

/// Captures of one row at most.
const CAPTURES: usize = 16;

/// A row for all clients of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct RewriteRule {
    pub(super) from: Vec<WrittenLevel>,
    pub(super) to: Vec<WrittenLevel>,
}

/// One of the two sides of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RewriteSide {
    /// The client's topics.
    From,
    /// The broker's.
    To,
}

impl fmt::Display for RewriteSide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::From => "from",
            Self::To => "to",
        })
    }
}

/// Why two texts are no row.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RewriteError {
    /// It is no topic name.
    #[error("not a topic: {0}")]
    Topic(TopicError),
    /// A variable is wrong.
    #[error("{0}")]
    Variable(PatternError),
    /// It has a wildcard.
    #[error(
        "write {{name}} for any level, and {{name...}} at the end for all that follow, instead of + and #"
    )]
    Wildcard,
    /// It begins with `$`.
    #[error("begins with $: the broker's own topics are not rewritten")]
    Dollar,
    /// A brace that is no capture.
    #[error(
        "{0:?} is no capture: that is a whole level, {{name}} or {{name...}}, and a name is of letters, digits, _ and -"
    )]
    Capture(String),
    /// One that stands there twice.
    #[error("{{{0}}} stands there twice: use another name")]
    Twice(String),
    /// One of all that follow, before the end.
    #[error("{{{0}}} stands for all levels that follow, and has to be the last one")]
    NotLast(String),
    /// One of all that follow, and nothing before it.
    #[error("{{{0}}} needs a level before it; to put all topics elsewhere, use the prefix of a grant")]
    Everything(String),
    /// It is captured, and not written.
    #[error("{{{0}}} is missing: each capture stands in from and in to, or the way back could not be told")]
    Missing(String),
    /// It is written, and not captured.
    #[error("{{{0}}} does not stand in from")]
    Uncaptured(String),
    /// Too many captures.
    #[error("has more than {CAPTURES} captures")]
    TooMany,
}

/// A level of a row.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum WrittenLevel {
    /// Text, perhaps with variables.
    Text(Template),
    /// `{name}`
    Capture(String),
    /// `{name...}`
    Rest(String),
}

impl WrittenLevel {
    /// The capture as it is written, without its braces.
    fn capture(&self) -> Option<String> {
        match self {
            Self::Text(_) => None,
            Self::Capture(name) => Some(name.clone()),
            Self::Rest(name) => Some(format!("{name}...")),
        }
    }
}

impl RewriteRule {
    /// Reads both sides of a row.
    ///
    /// # Errors
    /// All that is wrong with them, and with which one.
    pub fn parse(from: &str, to: &str) -> Result<Self, Vec<(RewriteSide, RewriteError)>> {
        let (from, to) = match (parse_side(from), parse_side(to)) {
            (Ok(from), Ok(to)) => (from, to),
            (from, to) => {
                let faults = [(RewriteSide::From, from.err()), (RewriteSide::To, to.err())];
                return Err(faults.into_iter().filter_map(|(side, fault)| Some((side, fault?))).collect());
            }
        };
        let names =
            |levels: &[WrittenLevel]| -> Vec<_> { levels.iter().filter_map(WrittenLevel::capture).collect() };
        let (read, written) = (names(&from), names(&to));
        let missing = read.iter().filter(|name| !written.contains(name)).cloned().map(RewriteError::Missing);
        let odd = written.iter().filter(|name| !read.contains(name)).cloned().map(RewriteError::Uncaptured);
        let faults: Vec<_> = missing.chain(odd).map(|error| (RewriteSide::To, error)).collect();
        if faults.is_empty() { Ok(Self { from, to }) } else { Err(faults) }
    }

    /// The row for this client. `None`: a variable has no value, several, or one that no level can be.
    #[must_use]
    pub fn expand(&self, who: Who<'_>) -> Option<Rewrite> {
        let names: Vec<_> = self.from.iter().filter_map(WrittenLevel::capture).collect();
        let shape = |levels: &[WrittenLevel]| {
            let one = |(at, level): (usize, &WrittenLevel)| match level {
                WrittenLevel::Text(template) => {
                    let text = template.expand(who)?;
                    // Of a client that calls itself `$SYS`.
                    let is_level = !text.contains('\0') && (at > 0 || !text.starts_with('$'));
                    is_level.then(|| ShapeLevel::Text(text.into()))
                }
                WrittenLevel::Capture(name) => {
                    let number = names.iter().position(|own| own == name)?;
                    Some(ShapeLevel::Capture(u8::try_from(number).ok()?))
                }
                WrittenLevel::Rest(_) => Some(ShapeLevel::Rest),
            };
            levels.iter().enumerate().map(one).collect::<Option<Vec<_>>>().map(TopicShape::new)
        };
        Some(Rewrite { from: shape(&self.from)?, to: shape(&self.to)? })
    }

    /// Whether it is the same for all clients.
    #[must_use]
    pub fn is_fixed(&self) -> bool {
        let is_fixed = |level: &WrittenLevel| match level {
            WrittenLevel::Text(template) => template.fixed().is_some(),
            WrittenLevel::Capture(_) | WrittenLevel::Rest(_) => true,
        };
        self.from.iter().chain(&self.to).all(is_fixed)
    }

    /// The attributes that its variables stand for.
    pub fn attributes(&self) -> impl Iterator<Item = &str> {
        let templates = self.from.iter().chain(&self.to).filter_map(|level| match level {
            WrittenLevel::Text(template) => Some(template),
            WrittenLevel::Capture(_) | WrittenLevel::Rest(_) => None,
        });
        templates.flat_map(Template::attributes)
    }
}

fn parse_side(text: &str) -> Result<Vec<WrittenLevel>, RewriteError> {
    if text.contains(['+', '#']) {
        return Err(RewriteError::Wildcard);
    }
    check_name(text).map_err(RewriteError::Topic)?;
    let mut levels: Vec<WrittenLevel> = Vec::new();
    for level in text.split('/') {
        let level = parse_level(level)?;
        if let Some(WrittenLevel::Rest(name)) = levels.last() {
            return Err(RewriteError::NotLast(format!("{name}...")));
        }
        if let Some(name) = level.capture().filter(|name| has_name(&levels, name)) {
            return Err(RewriteError::Twice(name));
        }
        levels.push(level);
    }
    match &*levels {
        [WrittenLevel::Rest(name)] => Err(RewriteError::Everything(format!("{name}..."))),
        [WrittenLevel::Text(template), ..] if template.ends().0.starts_with('$') => Err(RewriteError::Dollar),
        levels if levels.iter().filter(|level| level.capture().is_some()).count() > CAPTURES => {
            Err(RewriteError::TooMany)
        }
        _ => Ok(levels),
    }
}

/// Whether a capture has this name, of one level or of all that follow.
fn has_name(levels: &[WrittenLevel], name: &str) -> bool {
    let plain = |name: &str| name.strip_suffix("...").unwrap_or(name).to_owned();
    levels.iter().filter_map(WrittenLevel::capture).any(|own| plain(&own) == plain(name))
}

fn parse_level(text: &str) -> Result<WrittenLevel, RewriteError> {
    if let Some(name) = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) {
        let (name, is_rest) = match name.strip_suffix("...") {
            Some(name) => (name, true),
            None => (name, false),
        };
        let is_name = |char: char| char.is_alphanumeric() || matches!(char, '_' | '-');
        return match (!name.is_empty() && name.chars().all(is_name), is_rest) {
            (false, _) => Err(RewriteError::Capture(text.to_owned())),
            (true, true) => Ok(WrittenLevel::Rest(name.to_owned())),
            (true, false) => Ok(WrittenLevel::Capture(name.to_owned())),
        };
    }
    // The braces of variables are theirs; a text of its own has none.
    let template = Template::parse(text).map_err(RewriteError::Variable)?;
    if template.texts().any(|own| own.contains(['{', '}'])) {
        return Err(RewriteError::Capture(text.to_owned()));
    }
    Ok(WrittenLevel::Text(template))
}
