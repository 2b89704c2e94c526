//! Values of expressions. How deep this goes is bounded where a condition is made.

use super::Unevaluable;
use super::expression::{Arithmetic, BoolExpr, IntExpr, Presence, Relation, TextExpr, TextTest, TimeField};
use super::scope::ConditionScope;
use crate::rule::WallTime;

impl BoolExpr {
    pub(super) fn value(&self, at: &ConditionScope<'_>) -> Result<bool, Unevaluable> {
        match self {
            Self::Const(value) => Ok(*value),
            Self::Retain => at.retain(),
            Self::Has(Presence::Username) => Ok(at.who.username.is_some()),
            Self::Has(Presence::Address) => Ok(at.who.address.is_some()),
            Self::Has(Presence::Attribute(name)) => Ok(at.attribute(name).next().is_some()),
            Self::Parsed(text) => match text.value(at)? {
                "true" => Ok(true),
                "false" => Ok(false),
                _ => Err(Unevaluable::NoFlag),
            },
            Self::Not(one) => one.value(at).map(|value| !value),
            Self::All(all) => decided_by(all, at, false),
            Self::Any(any) => decided_by(any, at, true),
            Self::If(choice) => {
                let (condition, yes, no) = &**choice;
                if condition.value(at)? { yes.value(at) } else { no.value(at) }
            }
            Self::Same(both) => Ok(both.0.value(at)? == both.1.value(at)?),
            Self::Ints(relation, both) => Ok(relation.is_met(&both.0.value(at)?, &both.1.value(at)?)),
            Self::Texts(relation, both) => Ok(relation.is_met(both.0.value(at)?, both.1.value(at)?)),
            Self::SameTexts(both) => both.0.is_same(&both.1, at),
            Self::Test(test, both) => Ok(test.is_met(both.0.value(at)?, both.1.value(at)?)),
            Self::IntIn(both) => {
                let (value, mut found) = (both.0.value(at)?, false);
                // All of them: a member without a value makes a list without one.
                for member in &both.1 {
                    found |= member.value(at)? == value;
                }
                Ok(found)
            }
            Self::TextIn(both) => both.1.has(both.0.value(at)?, at),
        }
    }
}

/// The first that has this value decides, whatever the others are; where none has it, one without a value leaves all without.
fn decided_by(all: &[BoolExpr], at: &ConditionScope<'_>, decisive: bool) -> Result<bool, Unevaluable> {
    let mut outcome = Ok(!decisive);
    for one in all {
        match one.value(at) {
            Ok(value) if value == decisive => return Ok(decisive),
            Ok(_) => {}
            Err(why) => outcome = outcome.and(Err(why)),
        }
    }
    outcome
}

impl IntExpr {
    pub(super) fn value(&self, at: &ConditionScope<'_>) -> Result<i64, Unevaluable> {
        match self {
            Self::Const(value) => Ok(*value),
            Self::Qos => at.qos().map(|qos| qos as i64),
            Self::PayloadSize => at.payload_size().map(|size| i64::try_from(size).unwrap_or(i64::MAX)),
            Self::Time(field) => at.time().map(|time| {
                i64::from(match field {
                    TimeField::Hour => time.hour(),
                    TimeField::Minute => time.minute(),
                    TimeField::Second => time.second(),
                })
            }),
            Self::Parsed(text) => text.value(at)?.parse().map_err(|_| Unevaluable::NoNumber),
            Self::Length(text) => Ok(count(text.value(at)?.chars())),
            Self::Count(list) => list.count(at),
            Self::Negative(one) => one.value(at)?.checked_neg().ok_or(Unevaluable::Overflow),
            Self::Arithmetic(operator, both) => operator.of(both.0.value(at)?, both.1.value(at)?),
            Self::If(choice) => {
                let (condition, yes, no) = &**choice;
                if condition.value(at)? { yes.value(at) } else { no.value(at) }
            }
        }
    }
}

pub(super) fn count(of: impl Iterator) -> i64 {
    i64::try_from(of.count()).unwrap_or(i64::MAX)
}

impl TextExpr {
    pub(super) fn value<'e>(&'e self, at: &'e ConditionScope<'_>) -> Result<&'e str, Unevaluable> {
        match self {
            Self::Const(text) => Ok(text),
            Self::ClientId => Ok(at.who.client_id),
            Self::Username => at.username(),
            Self::Listener => at.listener(),
            Self::Transport => at.transport(),
            Self::Address => at.address(),
            Self::Version => at.version(),
            Self::Topic => at.topic()?.whole(),
            Self::Weekday => at.time().map(WallTime::weekday),
            Self::Attribute(name) => at.single_attribute(name),
            Self::Member(both) => {
                let place = usize::try_from(both.1.value(at)?).map_err(|_| Unevaluable::NoMember);
                both.0.member(place?, at)
            }
            Self::If(choice) => {
                let (condition, yes, no) = &**choice;
                if condition.value(at)? { yes.value(at) } else { no.value(at) }
            }
        }
    }
}

impl Relation {
    fn is_met<T: Ord + ?Sized>(self, one: &T, other: &T) -> bool {
        match self {
            Self::Equal => one == other,
            Self::NotEqual => one != other,
            Self::Less => one < other,
            Self::LessOrEqual => one <= other,
            Self::Greater => one > other,
            Self::GreaterOrEqual => one >= other,
        }
    }
}

impl TextTest {
    fn is_met(self, text: &str, part: &str) -> bool {
        match self {
            Self::StartsWith => text.starts_with(part),
            Self::EndsWith => text.ends_with(part),
            Self::Contains => text.contains(part),
        }
    }
}

impl Arithmetic {
    fn of(self, one: i64, other: i64) -> Result<i64, Unevaluable> {
        let value = match self {
            Self::Add => one.checked_add(other),
            Self::Subtract => one.checked_sub(other),
            Self::Multiply => one.checked_mul(other),
            Self::Divide | Self::Remainder if other == 0 => return Err(Unevaluable::DividedByZero),
            Self::Divide => one.checked_div(other),
            Self::Remainder => one.checked_rem(other),
        };
        value.ok_or(Unevaluable::Overflow)
    }
}
