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
//! | room | holds |
//! |---|---|
//! | `pattern` | a topic filter with variables: what it matches, contains, intersects |
//! | `name` | what a client may call itself |
//! | `template` | text with variables that is written out |
//! | `variables` | text with variables, and what they stand for |

mod error;
mod name;
mod pattern;
mod template;
mod variables;

use std::sync::Arc;
use std::time::Instant;

use mproxy_codec::reason::ReasonCode;
use mproxy_codec::topic::split_share;
use mproxy_codec::types::QoS;
use serde::{Deserialize, Serialize};

pub use self::error::PatternError;
pub use self::name::Name;
pub use self::pattern::Pattern;
pub use self::template::Template;
pub use self::variables::Who;

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
}

impl Rule {
    /// Whether it decides about a message on this topic.
    #[must_use]
    pub fn applies_to_topic(&self, act: Act, topic: &str, who: Who<'_>) -> bool {
        let reach = match self.effect {
            RuleEffect::Allow => PatternReach::Named,
            RuleEffect::Deny | RuleEffect::Ask => PatternReach::Wide,
        };
        self.actions.has(act) && self.topics.iter().any(|own| own.matches(topic, who, reach))
    }

    /// Whether it decides about a subscription to this filter, shared or not.
    #[must_use]
    pub fn applies_to_filter(&self, filter: &str, who: Who<'_>) -> bool {
        let filter = split_share(filter).1;
        self.actions.has(Act::Subscribe)
            && self.topics.iter().any(|own| match self.effect {
                RuleEffect::Allow => own.contains(filter, who),
                RuleEffect::Deny | RuleEffect::Ask => own.intersects(filter, who),
            })
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
