//! How large an expression is, and what it reads.

use serde::{Deserialize, Serialize};

use super::expression::{BoolExpr, IntExpr, Presence, TextExpr, TextList};

/// Parts of an expression at most. Each takes some nanoseconds, or a walk along a topic.
pub const MOST_PARTS: u32 = 256;

/// How deep an expression is at most, counted in operators. Evaluating goes as deep.
pub const MOST_DEEP: u32 = 32;

/// An expression is larger than what may be evaluated for each packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooComplex {
    /// It has too many parts.
    #[error("it has more than {MOST_PARTS} parts (values and operators); make several rules of it")]
    Parts,
    /// It is too deep.
    #[error("it is nested more than {MOST_DEEP} deep; make several rules of it")]
    Deep,
}

/// What an expression reads, besides facts of its client and constants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConditionReads(u8);

impl ConditionReads {
    /// The topic, or its levels.
    pub const TOPIC: Self = Self(1);
    /// The QoS.
    pub const QOS: Self = Self(2);
    /// The RETAIN flag.
    pub const RETAIN: Self = Self(4);
    /// The size of the payload.
    pub const PAYLOAD: Self = Self(8);
    /// The time of day.
    pub const TIME: Self = Self(16);

    /// Whether one of these is among them.
    #[must_use]
    pub const fn any_of(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }

    /// Both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether two messages of one client with the same topic, QoS and RETAIN may be told apart by it.
    #[must_use]
    pub const fn varies(self) -> bool {
        self.any_of(Self::PAYLOAD.and(Self::TIME))
    }
}

/// What was found.
pub(super) struct Survey {
    pub(super) parts: u32,
    pub(super) reads: ConditionReads,
}

/// An expression of any type.
#[derive(Clone, Copy)]
enum Part<'e> {
    Bool(&'e BoolExpr),
    Int(&'e IntExpr),
    Text(&'e TextExpr),
    List(&'e TextList),
}

impl BoolExpr {
    pub(super) fn survey(&self) -> Result<Survey, TooComplex> {
        let mut survey = Survey { parts: 0, reads: ConditionReads::default() };
        Part::Bool(self).walk(1, &mut |part, depth| {
            survey.parts += 1;
            survey.reads = survey.reads.and(part.reads());
            if survey.parts > MOST_PARTS {
                Err(TooComplex::Parts)
            } else if depth > MOST_DEEP {
                Err(TooComplex::Deep)
            } else {
                Ok(())
            }
        })?;
        Ok(survey)
    }

    pub(super) fn attributes(&self) -> Vec<&str> {
        let mut attributes = Vec::new();
        let walked = Part::Bool(self).walk(1, &mut |part, _| {
            attributes.extend(part.attribute());
            Ok(())
        });
        debug_assert_eq!(walked, Ok(()));
        attributes
    }
}

impl<'e> Part<'e> {
    /// Shows it and all below it, until there is an error.
    fn walk(
        self,
        depth: u32,
        see: &mut dyn FnMut(Self, u32) -> Result<(), TooComplex>,
    ) -> Result<(), TooComplex> {
        see(self, depth)?;
        let mut below = |part: Part<'e>| part.walk(depth + 1, see);
        match self {
            Self::Bool(one) => match one {
                BoolExpr::Const(_) | BoolExpr::Retain | BoolExpr::Has(_) => Ok(()),
                BoolExpr::Parsed(text) => below(Part::Text(text)),
                BoolExpr::Not(one) => below(Part::Bool(one)),
                BoolExpr::All(all) | BoolExpr::Any(all) => all.iter().map(Part::Bool).try_for_each(below),
                BoolExpr::If(choice) => {
                    [&choice.0, &choice.1, &choice.2].into_iter().map(Part::Bool).try_for_each(below)
                }
                BoolExpr::Same(both) => [&both.0, &both.1].into_iter().map(Part::Bool).try_for_each(below),
                BoolExpr::Ints(_, both) => [&both.0, &both.1].into_iter().map(Part::Int).try_for_each(below),
                BoolExpr::Texts(_, both) | BoolExpr::Test(_, both) => {
                    [&both.0, &both.1].into_iter().map(Part::Text).try_for_each(below)
                }
                BoolExpr::SameTexts(both) => {
                    [&both.0, &both.1].into_iter().map(Part::List).try_for_each(below)
                }
                BoolExpr::IntIn(both) => {
                    below(Part::Int(&both.0))?;
                    both.1.iter().map(Part::Int).try_for_each(below)
                }
                BoolExpr::TextIn(both) => {
                    below(Part::Text(&both.0))?;
                    below(Part::List(&both.1))
                }
            },
            Self::Int(one) => match one {
                IntExpr::Const(_) | IntExpr::Qos | IntExpr::PayloadSize | IntExpr::Time(_) => Ok(()),
                IntExpr::Parsed(text) | IntExpr::Length(text) => below(Part::Text(text)),
                IntExpr::Count(list) => below(Part::List(list)),
                IntExpr::Negative(one) => below(Part::Int(one)),
                IntExpr::Arithmetic(_, both) => {
                    [&both.0, &both.1].into_iter().map(Part::Int).try_for_each(below)
                }
                IntExpr::If(choice) => {
                    below(Part::Bool(&choice.0))?;
                    [&choice.1, &choice.2].into_iter().map(Part::Int).try_for_each(below)
                }
            },
            Self::Text(one) => match one {
                TextExpr::Member(both) => {
                    below(Part::List(&both.0))?;
                    below(Part::Int(&both.1))
                }
                TextExpr::If(choice) => {
                    below(Part::Bool(&choice.0))?;
                    [&choice.1, &choice.2].into_iter().map(Part::Text).try_for_each(below)
                }
                _ => Ok(()),
            },
            Self::List(TextList::Listed(all)) => all.iter().map(Part::Text).try_for_each(below),
            Self::List(TextList::Levels | TextList::Attribute(_)) => Ok(()),
        }
    }

    const fn reads(self) -> ConditionReads {
        match self {
            Self::Bool(BoolExpr::Retain) => ConditionReads::RETAIN,
            Self::Int(IntExpr::Qos) => ConditionReads::QOS,
            Self::Int(IntExpr::PayloadSize) => ConditionReads::PAYLOAD,
            Self::Int(IntExpr::Time(_)) | Self::Text(TextExpr::Weekday) => ConditionReads::TIME,
            Self::Text(TextExpr::Topic) | Self::List(TextList::Levels) => ConditionReads::TOPIC,
            Self::Bool(_) | Self::Int(_) | Self::Text(_) | Self::List(_) => ConditionReads(0),
        }
    }

    fn attribute(self) -> Option<&'e str> {
        match self {
            Self::Bool(BoolExpr::Has(Presence::Attribute(name)))
            | Self::Text(TextExpr::Attribute(name))
            | Self::List(TextList::Attribute(name)) => Some(name),
            Self::Bool(_) | Self::Int(_) | Self::Text(_) | Self::List(_) => None,
        }
    }
}
