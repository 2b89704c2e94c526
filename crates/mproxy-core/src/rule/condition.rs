//! Conditions of rules: an expression over the client, the message and the time of day, compiled when the rules were read.
//! Nothing is parsed here, and nothing is allocated to evaluate one.
//!
//! An expression is typed: what can be wrong with the types of its parts is wrong when the rules are read. What is left is
//! [`Unevaluable`]: a claim that the client has not, a number that overflows. A rule that allows does then not apply, and one
//! that denies or asks does.
//!
//! **Of a filter that is asked for** the topic is the filter. A condition holds for it only if it holds for every topic that
//! the filter matches, so whatever reads a level that a wildcard stands for cannot be evaluated.
//!
//! See docs/adr/0049.
//!
//! | room | holds |
//! |---|---|
//! | `expression` | the kinds of expressions, one for each type |
//! | `evaluate` | their values |
//! | `list` | lists of texts, and what is asked of them |
//! | `scope` | what they read |
//! | `survey` | how large they are, and what they read |

mod evaluate;
mod expression;
mod list;
mod scope;
mod survey;

use serde::{Deserialize, Serialize};

pub use self::expression::{
    Arithmetic, BoolExpr, IntExpr, Presence, Relation, TextExpr, TextList, TextTest, TimeField,
};
use self::scope::ConditionScope;
pub use self::survey::{ConditionReads, MOST_DEEP, MOST_PARTS, TooComplex};
use super::{AskedFilter, Message, RuleEffect, WallTime, Who};

/// A condition, compiled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Condition {
    expression: BoolExpr,
    reads: ConditionReads,
    parts: u32,
}

/// What a condition is held against, besides the client.
#[derive(Clone, Copy, Debug)]
pub enum ConditionSubject<'a> {
    /// Nothing but the client, at this time.
    Client(Option<WallTime>),
    /// A message.
    Message(Message<'a>),
    /// A filter that is asked for.
    Filter(AskedFilter<'a>),
}

/// Why a condition has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unevaluable {
    /// The client has no such claim, attribute or name.
    #[error("the client has no such value")]
    Absent,
    /// A claim or attribute with several values, where one is needed.
    #[error("a claim or attribute has several values, where one is needed")]
    Several,
    /// A text that is no number.
    #[error("a text is no whole number")]
    NoNumber,
    /// A text that is neither `true` nor `false`.
    #[error("a text is neither true nor false")]
    NoFlag,
    /// A list has no such member.
    #[error("a list or a topic has no such member")]
    NoMember,
    /// A number is too large or too small.
    #[error("a number is too large or too small")]
    Overflow,
    /// A division by zero.
    #[error("division by zero")]
    DividedByZero,
    /// A level of the filter is a wildcard: topics with different values match it.
    #[error("the filter has a wildcard there")]
    Wildcard,
    /// Not known of what is asked about: the payload of a subscription, for example.
    #[error("it is not known of what is asked about")]
    NotKnown,
}

impl Condition {
    /// This condition.
    ///
    /// # Errors
    /// It is larger or more deeply nested than what is evaluated for each packet may be.
    pub fn new(expression: BoolExpr) -> Result<Self, TooComplex> {
        let survey = expression.survey()?;
        Ok(Self { reads: survey.reads, parts: survey.parts, expression })
    }

    /// Whether it holds.
    ///
    /// # Errors
    /// It has no value.
    pub fn holds(&self, who: Who<'_>, subject: ConditionSubject<'_>) -> Result<bool, Unevaluable> {
        self.expression.value(&ConditionScope::new(who, subject))
    }

    /// Whether a rule with this effect applies by it.
    #[must_use]
    pub fn applies(&self, effect: RuleEffect, who: Who<'_>, subject: ConditionSubject<'_>) -> bool {
        // Allow is never what is left where something is not known (ADR 0017).
        self.holds(who, subject).unwrap_or(effect != RuleEffect::Allow)
    }

    /// What it reads.
    #[must_use]
    pub const fn reads(&self) -> ConditionReads {
        self.reads
    }

    /// The attributes that it reads.
    #[must_use]
    pub fn attributes(&self) -> Vec<&str> {
        self.expression.attributes()
    }

    /// How much work it is, in comparisons of short texts, at most.
    #[must_use]
    pub const fn effort(&self) -> usize {
        self.parts as usize
    }
}

#[cfg(test)]
mod tests;
