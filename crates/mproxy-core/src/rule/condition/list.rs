//! Lists of texts, and what is asked of them: in one walk each, however long a topic is.

use super::Unevaluable;
use super::evaluate::count;
use super::expression::TextList;
use super::scope::{ConditionScope, TopicText};

impl TextList {
    /// Its members in order. Of written ones each has to have a value, as CEL makes the list before it looks into it; of
    /// levels those that are looked at.
    fn members<'e>(
        &'e self,
        at: &'e ConditionScope<'_>,
    ) -> Result<impl Iterator<Item = Result<&'e str, Unevaluable>>, Unevaluable> {
        let (listed, topic, attribute) = match self {
            Self::Listed(all) => (&**all, None, None),
            Self::Levels => (&[][..], Some(at.topic()?), None),
            // An empty list and none are the same to whoever keeps several values under one name.
            Self::Attribute(name) if at.attribute(name).next().is_none() => return Err(Unevaluable::Absent),
            Self::Attribute(name) => (&[][..], None, Some(name)),
        };
        let listed = listed.iter().map(|member| member.value(at));
        let levels = topic.into_iter().flat_map(TopicText::levels);
        let values = attribute.into_iter().flat_map(|name| at.attribute(name)).map(Ok);
        Ok(listed.chain(levels).chain(values))
    }

    pub(super) fn count(&self, at: &ConditionScope<'_>) -> Result<i64, Unevaluable> {
        match self {
            Self::Levels if at.topic()?.is_open() => Err(Unevaluable::Wildcard),
            // Whatever a wildcard stands for is one level.
            Self::Levels => Ok(count(self.members(at)?)),
            Self::Listed(_) | Self::Attribute(_) => {
                self.members(at)?.try_fold(0, |sum, member| member.map(|_| sum + 1))
            }
        }
    }

    pub(super) fn member<'e>(
        &'e self,
        place: usize,
        at: &'e ConditionScope<'_>,
    ) -> Result<&'e str, Unevaluable> {
        let mut members = self.members(at)?;
        let none = Err(Unevaluable::NoMember);
        match self {
            Self::Levels | Self::Attribute(_) => members.nth(place).unwrap_or(none),
            Self::Listed(_) => members.enumerate().try_fold(none, |found, (index, member)| {
                let member = member?;
                Ok(if index == place { Ok(member) } else { found })
            })?,
        }
    }

    /// Whether it has this member.
    pub(super) fn has(&self, text: &str, at: &ConditionScope<'_>) -> Result<bool, Unevaluable> {
        self.members(at)?.try_fold(false, |found, member| Ok(found | (member? == text)))
    }

    /// Whether the other one has the same members in the same order.
    pub(super) fn is_same(&self, other: &Self, at: &ConditionScope<'_>) -> Result<bool, Unevaluable> {
        let (mut own, mut others) = (self.members(at)?, other.members(at)?);
        let mut same = true;
        loop {
            match (own.next().transpose()?, others.next().transpose()?) {
                (None, None) => return Ok(same),
                (one, other) => same &= one == other,
            }
        }
    }
}
