//! What a condition reads: everything is borrowed, and an address is written out when it is asked for.

use std::cell::OnceCell;
use std::fmt::{self, Write};

use mproxy_codec::types::{QoS, Version};

use super::{ConditionSubject, Unevaluable};
use crate::rule::{AskedFilter, Message, WallTime, Who};

/// What a condition reads.
pub(super) struct ConditionScope<'a> {
    pub(super) who: Who<'a>,
    subject: ConditionSubject<'a>,
    address: OnceCell<AddressText>,
}

/// A topic, or a filter: whose wildcards stand for several values.
#[derive(Clone, Copy)]
pub(super) struct TopicText<'a> {
    pub(super) text: &'a str,
    pub(super) is_filter: bool,
}

impl<'a> ConditionScope<'a> {
    pub(super) const fn new(who: Who<'a>, subject: ConditionSubject<'a>) -> Self {
        Self { who, subject, address: OnceCell::new() }
    }

    pub(super) fn topic(&self) -> Result<TopicText<'a>, Unevaluable> {
        match self.subject {
            ConditionSubject::Message(Message { topic, .. }) => {
                Ok(TopicText { text: topic, is_filter: false })
            }
            ConditionSubject::Filter(filter) => Ok(TopicText { text: filter.plain(), is_filter: true }),
            ConditionSubject::Client(_) => Err(Unevaluable::NotKnown),
        }
    }

    pub(super) fn qos(&self) -> Result<QoS, Unevaluable> {
        match self.subject {
            ConditionSubject::Message(Message { qos, .. }) => Ok(qos),
            ConditionSubject::Filter(AskedFilter { qos, .. }) => qos.ok_or(Unevaluable::NotKnown),
            ConditionSubject::Client(_) => Err(Unevaluable::NotKnown),
        }
    }

    pub(super) const fn retain(&self) -> Result<bool, Unevaluable> {
        match self.subject {
            ConditionSubject::Message(Message { retain, .. }) => Ok(retain),
            ConditionSubject::Filter(_) | ConditionSubject::Client(_) => Err(Unevaluable::NotKnown),
        }
    }

    pub(super) const fn payload_size(&self) -> Result<usize, Unevaluable> {
        match self.subject {
            ConditionSubject::Message(Message { payload, .. }) => Ok(payload),
            ConditionSubject::Filter(_) | ConditionSubject::Client(_) => Err(Unevaluable::NotKnown),
        }
    }

    pub(super) fn time(&self) -> Result<WallTime, Unevaluable> {
        let time = match self.subject {
            ConditionSubject::Message(Message { time, .. })
            | ConditionSubject::Filter(AskedFilter { time, .. })
            | ConditionSubject::Client(time) => time,
        };
        time.ok_or(Unevaluable::NotKnown)
    }

    pub(super) fn username(&self) -> Result<&'a str, Unevaluable> {
        self.who.username.ok_or(Unevaluable::Absent)
    }

    pub(super) fn version(&self) -> Result<&'static str, Unevaluable> {
        match self.who.version.ok_or(Unevaluable::NotKnown)? {
            Version::V31 => Ok("3.1"),
            Version::V311 => Ok("3.1.1"),
            Version::V5 => Ok("5.0"),
        }
    }

    pub(super) fn listener(&self) -> Result<&'a str, Unevaluable> {
        self.who.listener.ok_or(Unevaluable::NotKnown)
    }

    pub(super) fn transport(&self) -> Result<&'static str, Unevaluable> {
        self.who.transport.ok_or(Unevaluable::NotKnown)
    }

    pub(super) fn address(&self) -> Result<&str, Unevaluable> {
        let address = self.who.address.ok_or(Unevaluable::Absent)?;
        Ok(self.address.get_or_init(|| AddressText::new(format_args!("{address}"))).text())
    }

    /// The values of an attribute; there may be none.
    pub(super) fn attribute(&self, name: &str) -> impl Iterator<Item = &'a str> {
        self.who.attributes.iter().filter(move |(own, _)| *own == *name).map(|(_, value)| &**value)
    }

    /// The value of an attribute with one.
    pub(super) fn single_attribute(&self, name: &str) -> Result<&'a str, Unevaluable> {
        let mut values = self.attribute(name);
        let value = values.next().ok_or(Unevaluable::Absent)?;
        if values.next().is_some() { Err(Unevaluable::Several) } else { Ok(value) }
    }
}

impl<'a> TopicText<'a> {
    /// All of it.
    pub(super) fn whole(self) -> Result<&'a str, Unevaluable> {
        if self.is_filter && self.text.contains(['+', '#']) {
            return Err(Unevaluable::Wildcard);
        }
        Ok(self.text)
    }

    /// Its levels; of a filter those that are the same in every topic that it matches.
    pub(super) fn levels(self) -> impl Iterator<Item = Result<&'a str, Unevaluable>> {
        let is_wild = move |level: &str| self.is_filter && matches!(level, "+" | "#");
        self.text
            .split('/')
            .map(move |level| if is_wild(level) { Err(Unevaluable::Wildcard) } else { Ok(level) })
    }

    /// Whether the topics that it matches have different numbers of levels: `a/#` matches `a`, too.
    pub(super) fn is_open(self) -> bool {
        self.is_filter && (self.text == "#" || self.text.ends_with("/#"))
    }
}

/// An IP address as text, in place.
struct AddressText {
    bytes: [u8; LONGEST],
    len: usize,
}

/// The longest IPv6 address has 39 characters.
const LONGEST: usize = 40;

impl AddressText {
    fn new(address: fmt::Arguments<'_>) -> Self {
        let mut text = Self { bytes: [0; LONGEST], len: 0 };
        // It fits.
        _ = text.write_fmt(address);
        text
    }

    fn text(&self) -> &str {
        self.bytes.get(..self.len).and_then(|bytes| str::from_utf8(bytes).ok()).unwrap_or_default()
    }
}

impl Write for AddressText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.len + text.len();
        self.bytes.get_mut(self.len..end).ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}
