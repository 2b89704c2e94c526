//! Topics that the broker knows by other names: a table whose rows turn the client's topics into the broker's on the way up,
//! and back on the way down.
//!
//! A table is one-to-one. No two rows have a topic in common, and none of the topics that a row writes is one that a row
//! reads ([`find_clashes`] proves it of the rows as they are written, whatever their variables stand for). So a topic of the
//! client's
//!
//! - that a row reads is written anew by this row;
//! - that no row reads and none writes passes as it is;
//! - that a row writes has no place: at the broker it would be another topic of the same client's. Likewise down: what a
//!   row reads, at the broker, is nothing that the client could name.
//!
//! A filter is turned only where the broker's filter then brings exactly what the client has asked for; see
//! [`RewriteTable::turn_filter`].
//!
//! | room | holds |
//! |---|---|
//! | `row` | a row as it is written, with variables |
//! | `clash` | whether rows exclude each other |
//! | `shape` | one side of a row: what it captures, and what it writes |

mod clash;
mod row;
mod shape;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

pub use self::clash::{RewriteClash, find_clashes};
pub use self::row::{RewriteError, RewriteRule, RewriteSide};
use self::shape::{FilterFit, TopicShape};

/// Rows of one table at most: each topic is held against all of them.
pub const ROWS: usize = 128;

/// One row, for one client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rewrite {
    from: TopicShape,
    to: TopicShape,
}

/// The rows for one client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RewriteTable(Box<[Rewrite]>);

/// Which way a topic goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MappingWay {
    /// From the client to the broker.
    Up,
    /// Back.
    Down,
}

/// Why a filter of the client's has none at the broker that brings exactly the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPlace {
    /// It would be longer than a filter can be.
    TooLong,
    /// It covers a part of what a row reads, and topics elsewhere: it would take several filters.
    Divided,
    /// It covers topics that a row writes, which the client knows by other names.
    Renamed,
}

impl NoPlace {
    /// What the client is told.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::TooLong => "topic filter is too long for the broker",
            Self::Divided => {
                "topic filter covers rewritten topics in part: subscribe to them by a filter of their own"
            }
            Self::Renamed => "topic filter covers topics that are rewritten and have other names here",
        }
    }
}

impl Rewrite {
    /// What it reads and what it writes on this way.
    const fn sides(&self, way: MappingWay) -> (&TopicShape, &TopicShape) {
        match way {
            MappingWay::Up => (&self.from, &self.to),
            MappingWay::Down => (&self.to, &self.from),
        }
    }
}

impl RewriteTable {
    /// Of these rows, of which no two [clash](find_clashes).
    #[must_use]
    pub fn new(rows: Vec<Rewrite>) -> Self {
        Self(rows.into())
    }

    /// How much work it is to turn so many topics or filters of so many bytes together, in comparisons of short texts.
    pub(crate) fn work(&self, count: usize, bytes: usize) -> usize {
        // What a row reads and what it writes.
        let sides = 2 * self.0.len();
        sides.saturating_mul(count.saturating_add(bytes / crate::rule::BYTES))
    }

    /// The topic at the other side; `None` if it has no place there.
    pub(super) fn turn<'t>(&self, way: MappingWay, topic: &'t str) -> Option<Cow<'t, str>> {
        // The broker's own.
        if topic.starts_with('$') {
            return Some(topic.into());
        }
        for (reads, writes) in self.0.iter().map(|row| row.sides(way)) {
            if let Some(captured) = reads.capture(topic) {
                return writes.fill(&captured).map(Cow::Owned);
            }
        }
        let is_written = self.0.iter().any(|row| row.sides(way).1.capture(topic).is_some());
        (!is_written).then(|| topic.into())
    }

    /// The same of an unshared filter.
    ///
    /// A filter that lies within what a row reads becomes the same part of what the row writes. Any other stays as it is, if
    /// for each row it covers the same part of what is read as of what is written: nothing of both (most filters), or all
    /// (`#`). What else there is, one filter cannot say.
    ///
    /// # Errors
    /// There is none that brings exactly the same.
    pub(super) fn turn_filter<'t>(&self, way: MappingWay, filter: &'t str) -> Result<Cow<'t, str>, NoPlace> {
        if filter.starts_with('$') {
            return Ok(filter.into());
        }
        for (reads, writes) in self.0.iter().map(|row| row.sides(way)) {
            match (reads.fit(filter), writes.fit(filter)) {
                (FilterFit::Inside(captured), _) => {
                    return writes.fill(&captured).map(Cow::Owned).ok_or(NoPlace::Renamed);
                }
                (FilterFit::Apart, FilterFit::Apart) => {}
                (FilterFit::Partly(read), FilterFit::Partly(written)) if read == written => {}
                (FilterFit::Apart, _) => return Err(NoPlace::Renamed),
                (FilterFit::Partly(_), _) => return Err(NoPlace::Divided),
            }
        }
        Ok(filter.into())
    }
}

#[cfg(test)]
mod tests;
