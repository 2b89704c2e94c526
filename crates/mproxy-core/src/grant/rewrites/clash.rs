//! Whether the rows of a table exclude each other, whatever their variables stand for: a client chooses its names, and what
//! holds for most of them does not hold.

use super::row::{RewriteRule, RewriteSide, WrittenLevel};

/// Two sides that have a topic in common. Rows are counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RewriteClash {
    /// Two rows read it, or two rows write it: which of them is meant could not be told, on the way up or back.
    Both {
        /// Which side of them.
        side: RewriteSide,
        /// The first row.
        first: usize,
        /// The other one.
        second: usize,
    },
    /// One row writes it, and one (perhaps the same) reads it: repeated, the rewrite would go on.
    Loop {
        /// The row that writes it.
        writes: usize,
        /// The row that reads it.
        reads: usize,
    },
}

/// All clashes of these rows.
#[must_use]
pub fn find_clashes(rows: &[RewriteRule]) -> Vec<RewriteClash> {
    let mut clashes = Vec::new();
    for (second, row) in rows.iter().enumerate() {
        for (first, other) in rows.iter().enumerate().take(second) {
            if may_meet(&row.from, &other.from) {
                clashes.push(RewriteClash::Both { side: RewriteSide::From, first, second });
            }
            if may_meet(&row.to, &other.to) {
                clashes.push(RewriteClash::Both { side: RewriteSide::To, first, second });
            }
        }
        for (reads, other) in rows.iter().enumerate() {
            if may_meet(&row.to, &other.from) {
                clashes.push(RewriteClash::Loop { writes: second, reads });
            }
        }
    }
    clashes
}

/// Whether both may stand for the same topic.
fn may_meet(one: &[WrittenLevel], other: &[WrittenLevel]) -> bool {
    let (mut one, mut other) = (one.iter(), other.iter());
    loop {
        match (one.next(), other.next()) {
            // Also where the other one has ended: it stands for no level, too.
            (Some(WrittenLevel::Rest(_)), _) | (_, Some(WrittenLevel::Rest(_))) | (None, None) => {
                return true;
            }
            (None, Some(_)) | (Some(_), None) => return false,
            (Some(WrittenLevel::Text(one)), Some(WrittenLevel::Text(other))) if !one.may_equal(other) => {
                return false;
            }
            (Some(_), Some(_)) => {}
        }
    }
}
