//! Text with variables in it, and what they stand for: a client's names and attributes, compared as they are written and
//! never parsed.

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
    /// `${attr.name}`: what the policy attached to it.
    pub attributes: &'a [(String, String)],
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Piece {
    Text(Box<str>),
    Variable(Variable),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Variable {
    ClientId,
    Username,
    CommonName,
    Attribute(Box<str>),
}

/// What is left of `text` behind these; `None` if it does not begin with them.
///
/// Of what is allowed, a variable that follows another one does not hold the character before it: with
/// `${username}-${clientid}`, `ann` with the id `x-1` would have what is `ann-x`'s.
pub(super) fn strip_pieces<'t>(
    pieces: &[Piece],
    text: &'t str,
    who: Who<'_>,
    reach: PatternReach,
) -> Option<&'t str> {
    let (mut rest, mut before, mut variables) = (text, "", 0);
    for piece in pieces {
        rest = match piece {
            Piece::Text(own) => {
                before = own;
                rest.strip_prefix(&**own)?
            }
            Piece::Variable(variable) => {
                let value = variable.value(who)?;
                let rest = rest.strip_prefix(value)?;
                let holds = |before| value.contains::<char>(before);
                if variables > 0
                    && reach == PatternReach::Named
                    && before.chars().next_back().is_some_and(holds)
                {
                    return None;
                }
                variables += 1;
                rest
            }
        };
    }
    Some(rest)
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
            other => match other.strip_prefix("attr.").filter(|name| !name.is_empty()) {
                Some(name) => Variable::Attribute(name.into()),
                None => return Err(PatternError::Variable(other.to_owned())),
            },
        }));
        rest = after;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.into()));
    }
    Ok(pieces)
}

impl Variable {
    /// Whether the client has no value for it that could be (part of) a level.
    pub(super) fn is_open(&self, who: Who<'_>) -> bool {
        self.value(who).is_none_or(is_no_level)
    }

    /// Its text; `None` where the client has no such thing, or an empty one, which is nobody's.
    fn value<'a>(&self, who: Who<'a>) -> Option<&'a str> {
        let value = match self {
            Self::ClientId => Some(who.client_id),
            Self::Username => who.username,
            Self::CommonName => who.common_name,
            Self::Attribute(name) => {
                who.attributes.iter().find(|(own, _)| **own == **name).map(|(_, value)| &**value)
            }
        };
        value.filter(|value| !value.is_empty())
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
