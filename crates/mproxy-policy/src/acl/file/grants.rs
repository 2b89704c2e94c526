//! The `[[grants]]` of a rule file, and what it says of listeners.

use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;

use mproxy_codec::types::QoS;
use mproxy_core::grant::{GrantLimits, Mapping, PerSecond, RateAction};
use mproxy_core::rule::{Act, Actions, Retain, Rule, RuleEffect, Template};
use toml::de::{DeTable, DeValue};

use super::{AclReader, RulePlace, TomlValue};
use crate::acl::client_match::{CertificateMatch, ClientMatch, NamePattern};
use crate::acl::condition::ConditionPlace;
use crate::acl::require::Requirement;
use crate::acl::static_grants::StaticGrant;

const GRANT: &[&str] = &[
    "users",
    "groups",
    "client_ids",
    "listeners",
    "claims",
    "certificate",
    "when",
    "publish",
    "subscribe",
    "receive",
    "will",
    "max_qos",
    "retain",
    "max_payload",
    "rules",
    "default",
    "prefix",
    "client_id_prefix",
    "session",
    "messages_per_second",
    "bytes_per_second",
    "rate_action",
    "packet_size",
    "subscriptions",
];

/// Bytes of the largest packet; no payload is larger.
const PAYLOAD_MOST: u64 = 268_435_455;

/// Seconds of the longest session, a year.
const SESSION_MOST: u64 = 365 * 86400;

impl AclReader<'_> {
    pub(super) fn grant(
        &mut self,
        table: &DeTable<'_>,
        _at: Range<usize>,
        path: &str,
    ) -> Option<StaticGrant> {
        let before = self.faults.len();
        let mut grant = StaticGrant {
            who: ClientMatch::default(),
            rules: Vec::new(),
            lines: Vec::new(),
            default: None,
            limits: GrantLimits::default(),
            has_rate_action: false,
            prefix: None,
            client_id_prefix: None,
            session: None,
        };
        let (mut short, mut max_qos, mut retain, mut max_payload) = (Vec::new(), None, None, None);
        for (key, value) in table {
            let full = format!("{path}.{}", key.get_ref());
            match key.get_ref().as_ref() {
                name if self.client_match(name, value, &full, &mut grant.who) => {}
                "when" => grant.who.condition = self.condition(value, &full, ConditionPlace::Grant),
                "publish" => short.push((Act::Publish, value, full)),
                "subscribe" => short.push((Act::Subscribe, value, full)),
                "receive" => short.push((Act::Receive, value, full)),
                "will" => short.push((Act::Will, value, full)),
                "max_qos" => max_qos = self.qos(value, &full),
                "retain" => retain = self.flag(value, &full),
                "max_payload" => max_payload = self.payload(value, &full),
                "rules" => self.each_table(value, &full, |reader, table, at, key| {
                    grant.lines.push(u32::try_from(reader.line(&at)).unwrap_or(u32::MAX));
                    let rule = reader.rule(table, at, key, &mut false, RulePlace::Grant);
                    grant.rules.extend(rule.map(|entry| entry.rule));
                }),
                "default" => grant.default = self.word(value, &full, &EFFECTS),
                "prefix" => grant.prefix = self.prefix(value, &full),
                "client_id_prefix" => grant.client_id_prefix = self.client_id_prefix(value, &full),
                "session" => {
                    grant.session = self.whole(value, &full, 1..=SESSION_MOST).map(Duration::from_secs);
                }
                name => self.grant_limit(name, value, full, key.span(), path, &mut grant),
            }
        }
        if let (Some(_), Some(value)) = (&grant.client_id_prefix, table.get("when")) {
            // Under which name a client's session stands at the broker must not depend on the time of day.
            self.fault(value.span(), format!("{path}.when"), "cannot stand beside client_id_prefix");
        }
        // In the order of acts and not of the file's: none of them can hide another one.
        for (act, value, full) in short {
            grant.lines.push(u32::try_from(self.line(&value.span())).unwrap_or(u32::MAX));
            grant.rules.push(Rule {
                effect: RuleEffect::Allow,
                actions: Actions::NONE.with(act),
                topics: self.topics(value, &full).into(),
                max_qos: max_qos.unwrap_or(QoS::ExactlyOnce),
                retain: if retain == Some(false) { Retain::Refused } else { Retain::Allowed },
                max_payload,
                condition: None,
            });
        }
        (self.faults.len() == before).then_some(grant)
    }

    fn grant_limit(
        &mut self,
        name: &str,
        value: &TomlValue<'_>,
        full: String,
        span: Range<usize>,
        path: &str,
        grant: &mut StaticGrant,
    ) {
        let limits = &mut grant.limits;
        let number = |whole: Option<u64>| whole.and_then(|whole| u32::try_from(whole).ok());
        match name {
            "messages_per_second" => limits.messages = self.rate(value, &full),
            "bytes_per_second" => limits.bytes = self.rate(value, &full),
            "rate_action" => {
                let words = [("wait", RateAction::Wait), ("refuse", RateAction::Refuse)];
                limits.rate_action = self.word(value, &full, &words).unwrap_or_default();
                grant.has_rate_action = true;
            }
            "packet_size" => limits.packet_size = number(self.whole(value, &full, 1..=268_435_460)),
            "subscriptions" => {
                limits.subscriptions = number(self.whole(value, &full, 0..=u64::from(u32::MAX)));
            }
            unknown => self.unknown(span, path, unknown, GRANT),
        }
    }

    /// Bytes of a payload.
    pub(super) fn payload(&mut self, value: &TomlValue<'_>, key: &str) -> Option<u32> {
        self.whole(value, key, 0..=PAYLOAD_MOST).and_then(|most| u32::try_from(most).ok())
    }

    fn rate(&mut self, value: &TomlValue<'_>, key: &str) -> Option<PerSecond> {
        let text = match value.get_ref() {
            DeValue::Integer(number) => Some(number.as_str()),
            DeValue::Float(number) => Some(number.as_str()),
            _ => None,
        };
        let rate = text.and_then(|text| text.replace('_', "").parse().ok()).and_then(PerSecond::new);
        if rate.is_none() {
            self.fault(value.span(), key.to_owned(), "must be a number greater than zero");
        }
        rate
    }

    fn prefix(&mut self, value: &TomlValue<'_>, key: &str) -> Option<Template> {
        let text = self.text(value, key)?;
        let template = match Template::parse(text) {
            Ok(template) => template,
            Err(error) => {
                self.fault(value.span(), key.to_owned(), format!("{text:?}: {error}"));
                return None;
            }
        };
        // With the plainest of values: what is wrong then is wrong for everybody, and would let nobody in.
        if let Err(error) = Mapping::new(&template.with_each_variable("x")) {
            self.fault(value.span(), key.to_owned(), format!("{text:?}: {error}"));
        }
        Some(template)
    }

    /// A client id begins with it at the broker. That one tenant's ids are none of another one's follows from the character
    /// at its end, which no value and no other part of a prefix may hold.
    fn client_id_prefix(&mut self, value: &TomlValue<'_>, key: &str) -> Option<Template> {
        let text = self.text(value, key)?;
        let fault = |reader: &mut Self, what: String| {
            reader.fault(value.span(), key.to_owned(), what);
            None
        };
        let template = match Template::parse(text) {
            Ok(template) => template,
            Err(error) => return fault(self, format!("{text:?}: {error}")),
        };
        let Some(separator) = template.last_char() else {
            return fault(
                self,
                format!("{text:?}: end it with a character that stands in no client's value, - for example"),
            );
        };
        if template.with_each_variable("").matches(separator).count() > 1 {
            return fault(self, format!("{text:?}: {separator:?} at its end may not stand elsewhere in it"));
        }
        let another_end = self
            .client_id_prefixes
            .iter()
            .find_map(|(_, other)| other.last_char().filter(|other| *other != separator));
        if let Some(other) = another_end {
            return fault(
                self,
                format!(
                    "{text:?}: ends with {separator:?}, and the one before with {other:?}; all end with the same character"
                ),
            );
        }
        // A tenant may be called as another prefix says.
        let same = |(one, other): &&(Box<str>, Template)| **one != *text && template.may_equal(other);
        if let Some((other, _)) = self.client_id_prefixes.iter().find(same) {
            let text = format!(
                "{text:?}: of some client it is the same as {other:?} of another one; let both begin with a text of their own"
            );
            return fault(self, text);
        }
        self.client_id_prefixes.push((text.into(), template.clone()));
        Some(template)
    }

    pub(super) fn claims(&mut self, value: &TomlValue<'_>, path: &str) -> Vec<(Box<str>, super::NameSet)> {
        let Some(table) = self.table(value, path) else { return Vec::new() };
        let mut claims = Vec::new();
        for (key, value) in table {
            let full = format!("{path}.{}", key.get_ref());
            let values = match value.get_ref().as_str() {
                Some(one) => super::NameSet::new(vec![one.into()]),
                None => self.names(value, &full),
            };
            claims.push((format!("claim.{}", key.get_ref()).into(), values));
        }
        claims
    }

    pub(super) fn certificate(&mut self, value: &TomlValue<'_>, path: &str) -> Option<CertificateMatch> {
        let table = self.table(value, path)?;
        let mut wanted = CertificateMatch::default();
        for (key, value) in table {
            let full = format!("{path}.{}", key.get_ref());
            match key.get_ref().as_ref() {
                "cn" => wanted.common_names = Some(self.name_patterns(value, &full, None)),
                "dns" => wanted.dns = Some(self.name_patterns(value, &full, Some(b'.'))),
                "uri" => wanted.uris = Some(self.name_patterns(value, &full, Some(b'/'))),
                "fingerprint" => wanted.fingerprints = Some(self.fingerprints(value, &full)),
                unknown => self.unknown(key.span(), path, unknown, &["cn", "dns", "uri", "fingerprint"]),
            }
        }
        Some(wanted)
    }

    fn name_patterns(
        &mut self,
        value: &TomlValue<'_>,
        key: &str,
        separator: Option<u8>,
    ) -> Box<[NamePattern]> {
        let mut patterns = Vec::new();
        self.each_text(value, key, |_, text, _, _| patterns.push(NamePattern::new(text, separator)));
        patterns.into()
    }

    fn fingerprints(&mut self, value: &TomlValue<'_>, key: &str) -> super::NameSet {
        let mut names = Vec::new();
        self.each_text(value, key, |reader, text, span, key| {
            // As openssl prints it, or without colons.
            let plain = text.replace(':', "").to_ascii_lowercase();
            if plain.len() == 64 && plain.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                names.push(plain.into());
            } else {
                reader.fault(
                    span,
                    key,
                    format!("{text:?} is no SHA-256 fingerprint of 64 hexadecimal digits"),
                );
            }
        });
        super::NameSet::new(names)
    }

    /// What clients of a listener have to show. `with_tokens`: there is a `[jwt]`.
    pub(super) fn requirements(
        &mut self,
        value: &TomlValue<'_>,
        path: &str,
        with_tokens: bool,
    ) -> HashMap<Box<str>, Requirement> {
        let Some(table) = self.table(value, path) else { return HashMap::new() };
        let mut requirements = HashMap::new();
        for (key, value) in table {
            let full = format!("{path}.{}", key.get_ref());
            let mut requirement = Requirement { line: self.line(&key.span()), ..Requirement::default() };
            self.each_text(value, &full, |reader, text, span, key| match text {
                "certificate" => requirement.certificate = true,
                "token" if !with_tokens && reader.whole => {
                    reader.fault(span, key, "needs [jwt]: without it tokens are not looked at");
                }
                "token" => requirement.token = true,
                _ => reader.fault(span, key, format!("{text:?} is none of certificate, token")),
            });
            requirements.insert(key.get_ref().as_ref().into(), requirement);
        }
        requirements
    }
}

pub(super) const EFFECTS: [(&str, RuleEffect); 3] =
    [("allow", RuleEffect::Allow), ("deny", RuleEffect::Deny), ("ask", RuleEffect::Ask)];
