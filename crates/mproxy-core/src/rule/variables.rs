//! Text with variables in it, and what they stand for: a client's names and attributes, compared as they are written and
//! never parsed.

use std::net::IpAddr;

use mproxy_codec::types::Version;
use serde::{Deserialize, Serialize};

use super::{PatternError, PatternReach};

/// Who a rule is applied to: what its variables stand for.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    /// `${clientid}`
    pub client_id: &'a str,
    /// `${username}`
    pub username: Option<&'a str>,
    /// `${cn}`: the common name of its certificate.
    pub common_name: Option<&'a str>,
    /// `${san.uri}` and `${san.dns}`: the other names in its certificate, `URI:…` and `DNS:…`.
    pub subject_alt_names: &'a [String],
    /// `${fingerprint}`: of its certificate.
    pub fingerprint: Option<&'a str>,
    /// `${attr.name}`: what the policy attached to it, and `${claim.name}`: what its token says. A name with several values
    /// stands there several times.
    pub attributes: &'a [(String, String)],
    /// The name of the listener that it came to. This and what follows is for conditions.
    pub listener: Option<&'a str>,
    /// How it came in, `"tcp"` for example.
    pub transport: Option<&'static str>,
    /// Its IP address, if it has one.
    pub address: Option<IpAddr>,
    /// The version that it speaks.
    pub version: Option<Version>,
}

impl Who<'static> {
    /// Somebody of whom nothing is known.
    pub const NOBODY: Self = Self {
        client_id: "",
        username: None,
        common_name: None,
        subject_alt_names: &[],
        fingerprint: None,
        attributes: &[],
        listener: None,
        transport: None,
        address: None,
        version: None,
    };
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Piece {
    Text(Box<str>),
    Variable(Variable),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Variable {
    ClientId,
    Username,
    CommonName,
    AltName(AltNameKind),
    Fingerprint,
    Attribute(Box<str>),
}

/// Of the other names in a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum AltNameKind {
    Uri,
    Dns,
}

impl AltNameKind {
    /// What names of this kind begin with.
    const fn prefix(self) -> &'static str {
        match self {
            Self::Uri => "URI:",
            Self::Dns => "DNS:",
        }
    }
}

/// Whether `text` begins with these, and `end` takes the rest of it.
///
/// Of what is allowed, a variable that follows another one does not hold the character before it: with
/// `${username}-${clientid}`, `ann` with the id `x-1` would have what is `ann-x`'s. Of a variable with several values, any
/// will do.
pub(super) fn match_pieces(
    pieces: &[Piece],
    text: &str,
    who: Who<'_>,
    reach: PatternReach,
    end: impl Fn(&str) -> bool + Copy,
) -> bool {
    match_rest(pieces, text, None, "", who, reach, end)
}

/// The same behind `before`, and behind a variable if there was one.
fn match_rest(
    pieces: &[Piece],
    text: &str,
    variable: Option<&Variable>,
    before: &str,
    who: Who<'_>,
    reach: PatternReach,
    end: impl Fn(&str) -> bool + Copy,
) -> bool {
    let Some((piece, others)) = pieces.split_first() else { return end(text) };
    match piece {
        Piece::Text(own) => text
            .strip_prefix(&**own)
            .is_some_and(|rest| match_rest(others, rest, variable, own, who, reach, end)),
        Piece::Variable(own) => {
            let separator = before.chars().next_back().filter(|_| variable.is_some());
            let is_clear = |value: &str| {
                reach != PatternReach::Named || separator.is_none_or(|separator| !value.contains(separator))
            };
            own.values(who).any(|value| {
                // Empty is nobody's.
                !value.is_empty()
                    && text.strip_prefix(value).is_some_and(|rest| {
                        is_clear(value) && match_rest(others, rest, Some(own), before, who, reach, end)
                    })
            })
        }
    }
}

/// Text and the variables in it, in their order.
pub(super) fn parse_pieces(text: &str) -> Result<Vec<Piece>, PatternError> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        if !before.is_empty() {
            pieces.push(Piece::Text(before.into()));
        } else if !pieces.is_empty() {
            // Where the one value ends and the other begins could not be told.
            return Err(PatternError::Adjacent);
        }
        let (name, after) = after.split_once('}').ok_or(PatternError::Unclosed)?;
        pieces.push(Piece::Variable(match name {
            "clientid" => Variable::ClientId,
            "username" => Variable::Username,
            "cn" => Variable::CommonName,
            "san.uri" => Variable::AltName(AltNameKind::Uri),
            "san.dns" => Variable::AltName(AltNameKind::Dns),
            "fingerprint" => Variable::Fingerprint,
            other => match (other.strip_prefix("attr."), other.strip_prefix("claim.")) {
                (Some(name), _) if !name.is_empty() => Variable::Attribute(name.into()),
                // What a token says stands among the attributes under this very name.
                (_, Some(name)) if !name.is_empty() => Variable::Attribute(other.into()),
                _ => return Err(PatternError::Variable(other.to_owned())),
            },
        }));
        rest = after;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.into()));
    }
    Ok(pieces)
}

/// The attributes among these variables.
pub(super) fn attributes(pieces: &[Piece]) -> impl Iterator<Item = &str> {
    pieces.iter().filter_map(|piece| match piece {
        Piece::Variable(Variable::Attribute(name)) => Some(&**name),
        Piece::Variable(_) | Piece::Text(_) => None,
    })
}

impl Variable {
    /// Whether the client has no value for it, or one that could not be (part of) a level.
    pub(super) fn is_open(&self, who: Who<'_>) -> bool {
        let mut values = self.values(who).peekable();
        values.peek().is_none() || values.any(|value| value.is_empty() || is_no_level(value))
    }

    /// Its text where there is one, and one that can be (part of) a level.
    pub(super) fn single<'a>(&'a self, who: Who<'a>) -> Option<&'a str> {
        let mut values = self.values(who);
        let value = values.next().filter(|value| !value.is_empty() && !is_no_level(value))?;
        values.next().is_none().then_some(value)
    }

    /// Whether a client may have several values for it.
    pub(super) fn is_list(&self) -> bool {
        match self {
            Self::AltName(_) => true,
            Self::Attribute(name) => name.starts_with("claim.") || **name == *"group",
            Self::ClientId | Self::Username | Self::CommonName | Self::Fingerprint => false,
        }
    }

    /// As it is written.
    pub(super) fn name(&self) -> String {
        match self {
            Self::ClientId => "clientid".to_owned(),
            Self::Username => "username".to_owned(),
            Self::CommonName => "cn".to_owned(),
            Self::AltName(AltNameKind::Uri) => "san.uri".to_owned(),
            Self::AltName(AltNameKind::Dns) => "san.dns".to_owned(),
            Self::Fingerprint => "fingerprint".to_owned(),
            Self::Attribute(name) if name.starts_with("claim.") => name.to_string(),
            Self::Attribute(name) => format!("attr.{name}"),
        }
    }

    /// Its texts; none where the client has no such thing.
    fn values<'a>(&'a self, who: Who<'a>) -> impl Iterator<Item = &'a str> {
        let single = match self {
            Self::ClientId => Some(who.client_id),
            Self::Username => who.username,
            Self::CommonName => who.common_name,
            Self::Fingerprint => who.fingerprint,
            Self::AltName(_) | Self::Attribute(_) => None,
        };
        let (attribute, attributes) = match self {
            Self::Attribute(name) => (&**name, who.attributes),
            _ => ("", &[][..]),
        };
        let (kind, names) = match self {
            Self::AltName(kind) => (kind.prefix(), who.subject_alt_names),
            _ => ("", &[][..]),
        };
        let attributes = attributes.iter().filter(move |(name, _)| **name == *attribute);
        let names = names.iter().filter_map(move |name| name.strip_prefix(kind));
        single.into_iter().chain(attributes.map(|(_, value)| &**value)).chain(names)
    }
}

/// Whether a text holds what no level holds. Block by block, without a way out of each, for a client's name may be long.
fn is_no_level(text: &str) -> bool {
    let holds =
        |block: &[u8]| block.iter().fold(false, |found, byte| found | matches!(byte, b'/' | b'+' | b'#'));
    text.as_bytes().chunks(BLOCK).any(holds)
}

/// Bytes that are looked through without asking after each: few enough to stop early, enough for the compiler to take
/// several at once.
const BLOCK: usize = 64;
