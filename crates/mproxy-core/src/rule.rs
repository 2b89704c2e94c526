//! Rules on topics, as rule files and grants hold them: which of them decides about a message or a filter, and how. The
//! first rule that applies decides.
//!
//! - **To a message** (PUBLISH, will, delivery) a rule applies if one of its filters matches the topic.
//! - **To a filter** an *allow* rule applies only if one of the rule's filters contains it whole, a *deny* or an *ask* rule
//!   as soon as some topic matches both: nothing that is denied is had through a wider filter.
//! - **Topics that begin with `$`** are reached by *allow* rules only if they begin with a written `$`. The wildcards
//!   of a *deny* or an *ask* rule reach them: what narrows a subscription ([MQTT-4.7.2-1]) is no reason not to ask.
//! - **Variables** whose value is absent, empty, or holds `/`, `+` or `#` match nothing in an *allow* rule, and any levels
//!   from there on in a *deny* or an *ask* rule.
//!
//! - **A condition** decides once the topic does. Where it has no value, an *allow* rule does not apply, and a *deny* or an
//!   *ask* rule does.
//!
//! | room | holds |
//! |---|---|
//! | `condition` | what else has to hold for a rule to apply |
//! | `pattern` | a topic filter with variables: what it matches, contains, intersects |
//! | `name` | what a client may call itself |
//! | `template` | text with variables that is written out |
//! | `variables` | text with variables, and what they stand for |
//! | `wall_time` | the time of day, as sessions are told it |

pub mod condition;
mod error;
mod name;
mod pattern;
mod template;
mod variables;
mod wall_time;

use std::sync::Arc;
use std::time::Instant;

use mproxy_codec::reason::ReasonCode;
use mproxy_codec::topic::split_share;
use mproxy_codec::types::QoS;
use serde::{Deserialize, Serialize};

use self::condition::{Condition, ConditionSubject};
pub use self::error::PatternError;
pub use self::name::Name;
pub use self::pattern::Pattern;
pub use self::template::Template;
pub use self::variables::Who;
pub use self::wall_time::{WEEKDAYS, WallClock, WallTime};

/// Bytes of topics, filters and names that are as much work to look through as a comparison of short ones.
pub const BYTES: usize = 64;

/// How much work it is to hold so many topics or filters, of so many bytes together, against so many patterns: in
/// comparisons of short texts. A client chooses its names as long as its topics, and a variable may mean them each time.
#[must_use]
pub fn comparisons(patterns: usize, count: usize, bytes: usize, who: Who<'_>) -> usize {
    let names = who.client_id.len() + who.username.map_or(0, str::len) + who.common_name.map_or(0, str::len);
    let long = bytes.saturating_add(count.saturating_mul(names)) / BYTES;
    // Even where there is no rule, a packet costs something. Saturating, because a client chooses how many filters
    // it names and how long they are.
    patterns.max(1).saturating_mul(count.saturating_add(long))
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// What follows from it.
    pub effect: RuleEffect,
    /// What it is about.
    pub actions: Actions,
    /// Which topics.
    pub topics: Box<[Pattern]>,
    /// What it allows at most.
    pub max_qos: QoS,
    /// Whether what it allows may be retained.
    pub retain: Retain,
    /// Bytes of payload that it allows at most; `None`: any.
    pub max_payload: Option<u32>,
    /// What else has to hold, if anything.
    pub condition: Option<Arc<Condition>>,
}

/// A rule file as it was when it was read.
#[derive(Debug, PartialEq, Eq)]
pub struct RuleFile {
    /// Its name.
    pub name: Arc<str>,
    /// When it was read.
    pub loaded: Instant,
    /// The line in which each rule begins, counted from 1.
    pub lines: Box<[u32]>,
}

/// What follows from a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RuleEffect {
    /// Yes, within the rule's bounds.
    Allow,
    /// No.
    Deny,
    /// Somebody else knows.
    Ask,
}

/// Whether messages may be retained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Retain {
    /// They may.
    Allowed,
    /// They may not.
    Refused,
}

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// It publishes.
    Publish = 1,
    /// It subscribes.
    Subscribe = 2,
    /// It is sent something.
    Receive = 4,
    /// It has a will.
    Will = 8,
}

/// A set of [`Act`]s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actions(u8);

impl Actions {
    /// Everything, because nothing was named: another set than that of all four, which names each of them.
    pub const ALL: Self = Self(0x1F);
    /// Nothing yet.
    pub const NONE: Self = Self(0);

    /// Whether `act` is among them.
    #[must_use]
    pub const fn has(self, act: Act) -> bool {
        self.0 & act as u8 != 0
    }

    /// These and `act`.
    #[must_use]
    pub const fn with(self, act: Act) -> Self {
        Self(self.0 | act as u8)
    }
}

/// How far a pattern reaches where its text leaves it open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PatternReach {
    /// Of what is allowed. Topics that begin with `$`: only where the pattern begins with a written `$`. A wildcard
    /// does not reach them ([MQTT-4.7.2-1]), and neither may a variable, or a client called `$SYS` would open the
    /// broker's own topics to itself. Variables without a value that is (part of) a level: nothing.
    Named,
    /// Of what is denied or asked about. Topics that begin with `$`: always. Variables without a value that is (part
    /// of) a level: any levels from there on.
    Wide,
}

/// A message on its way, as rules see it.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Its topic.
    pub topic: &'a str,
    /// Its QoS.
    pub qos: QoS,
    /// Its RETAIN flag.
    pub retain: bool,
    /// Bytes of its payload.
    pub payload: usize,
    /// When it is judged, where that is known.
    pub time: Option<WallTime>,
}

/// A filter that a client asks for, as rules see it.
#[derive(Clone, Copy, Debug)]
pub struct AskedFilter<'a> {
    /// The filter, shared or not.
    pub filter: &'a str,
    /// The QoS that it asks for, where that is known.
    pub qos: Option<QoS>,
    /// When it is judged, where that is known.
    pub time: Option<WallTime>,
}

impl<'a> AskedFilter<'a> {
    /// The filter that is judged: of a shared one what stands behind its group (4.8.2).
    #[must_use]
    pub fn plain(&self) -> &'a str {
        split_share(self.filter).1
    }
}

impl Rule {
    /// Whether it decides about this message.
    #[must_use]
    pub fn applies_to_message(&self, act: Act, message: Message<'_>, who: Who<'_>) -> bool {
        let reach = match self.effect {
            RuleEffect::Allow => PatternReach::Named,
            RuleEffect::Deny | RuleEffect::Ask => PatternReach::Wide,
        };
        self.actions.has(act)
            && self.topics.iter().any(|own| own.matches(message.topic, who, reach))
            && self.condition_applies(who, ConditionSubject::Message(message))
    }

    /// Whether it decides about a subscription to this filter.
    #[must_use]
    pub fn applies_to_filter(&self, asked: AskedFilter<'_>, who: Who<'_>) -> bool {
        let filter = asked.plain();
        self.actions.has(Act::Subscribe)
            && self.topics.iter().any(|own| match self.effect {
                RuleEffect::Allow => own.contains(filter, who),
                RuleEffect::Deny | RuleEffect::Ask => own.intersects(filter, who),
            })
            && self.condition_applies(who, ConditionSubject::Filter(asked))
    }

    fn condition_applies(&self, who: Who<'_>, subject: ConditionSubject<'_>) -> bool {
        self.condition.as_ref().is_none_or(|condition| condition.applies(self.effect, who, subject))
    }

    /// Whether it may decide otherwise the next time about the same topic or filter with the same QoS and RETAIN: it has a
    /// condition on something else.
    #[must_use]
    pub fn varies(&self, act: Act, name: &str, who: Who<'_>) -> bool {
        let may_be_met = |own: &Pattern| match act {
            Act::Subscribe => own.intersects(split_share(name).1, who),
            Act::Publish | Act::Receive | Act::Will => own.matches(name, who, PatternReach::Wide),
        };
        self.has_varying_condition() && self.actions.has(act) && self.topics.iter().any(may_be_met)
    }

    /// Whether it has a condition on more than what the same topic, QoS and RETAIN of the same client have in common.
    #[must_use]
    pub fn has_varying_condition(&self) -> bool {
        self.condition.as_ref().is_some_and(|condition| condition.reads().varies())
    }

    /// The attributes that its variables stand for, and that its condition reads.
    pub fn attributes(&self) -> impl Iterator<Item = &str> {
        let of_condition = self.condition.iter().flat_map(|condition| condition.attributes());
        self.topics.iter().flat_map(Pattern::attributes).chain(of_condition)
    }

    /// With how many texts of few bytes a topic or filter is compared, at most.
    #[must_use]
    pub fn effort(&self) -> usize {
        self.topics.len() + self.condition.as_ref().map_or(0, |condition| condition.effort())
    }

    /// Whether one of its filters begins with a written `$`.
    #[must_use]
    pub fn names_dollar(&self) -> bool {
        self.topics.iter().any(Pattern::names_dollar)
    }

    /// Of a rule that allows: whether it allows this message, too. `Err` is the reason code.
    ///
    /// # Errors
    /// The QoS is over the rule's, it may not be retained, or its payload is too large. What a client is sent has been
    /// bounded when it subscribed.
    pub fn bounds(&self, act: Act, message: Message<'_>) -> Result<(), ReasonCode> {
        match act {
            Act::Receive | Act::Subscribe => Ok(()),
            Act::Publish | Act::Will if message.qos > self.max_qos => Err(ReasonCode::QOS_NOT_SUPPORTED),
            Act::Publish | Act::Will if message.retain && self.retain == Retain::Refused => {
                Err(ReasonCode::RETAIN_NOT_SUPPORTED)
            }
            // A PUBACK has no word for "too large" (3.4.2.1), and PUBREC and CONNACK know this one, too.
            Act::Publish | Act::Will
                if self.max_payload.is_some_and(|most| message.payload > most as usize) =>
            {
                Err(ReasonCode::QUOTA_EXCEEDED)
            }
            Act::Publish | Act::Will => Ok(()),
        }
    }
}
