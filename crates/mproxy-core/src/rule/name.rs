//! What a client may call itself: text with variables, and perhaps an open end.

use super::variables::{Piece, Variable, Who, attributes, match_pieces, parse_pieces};
use super::{PatternError, PatternReach};

/// A name with variables; a `*` at its end stands for any rest without the character before the `*`. So the names that
/// `${username}-*` gives to `ann` are none of those that it gives to `ann-x`.
#[derive(Clone, Debug, PartialEq)]
pub struct Name {
    pieces: Box<[Piece]>,
    end: NameEnd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NameEnd {
    Closed,
    /// For any rest without this character, if there is one before the `*`.
    Open(Option<char>),
}

impl Name {
    /// Compiles `text`.
    ///
    /// # Errors
    /// It has a variable that there is not. `${clientid}` is one of these: it would allow every name. Or nobody could
    /// tell where the value of a variable ends.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let (text, open) = match text.strip_suffix('*') {
            Some(text) => (text, true),
            None => (text, false),
        };
        let pieces = parse_pieces(text)?;
        if pieces.contains(&Piece::Variable(Variable::ClientId)) {
            return Err(PatternError::Variable("clientid".to_owned()));
        }
        let end = match pieces.last() {
            _ if !open => NameEnd::Closed,
            Some(Piece::Variable(_)) => return Err(PatternError::Adjacent),
            Some(Piece::Text(text)) => NameEnd::Open(text.chars().next_back()),
            None => NameEnd::Open(None),
        };
        Ok(Self { pieces: pieces.into(), end })
    }

    /// The attributes that its variables stand for.
    pub fn attributes(&self) -> impl Iterator<Item = &str> {
        attributes(&self.pieces)
    }

    /// Whether `text` is such a name. Variables that the client has no value for, or an empty one, make it none.
    #[must_use]
    pub fn matches(&self, text: &str, who: Who<'_>) -> bool {
        match_pieces(&self.pieces, text, who, PatternReach::Named, |rest| match self.end {
            NameEnd::Closed => rest.is_empty(),
            NameEnd::Open(before) => before.is_none_or(|before| !rest.contains(before)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_bound_to_who_the_client_is() {
        let who = Who { username: Some("ann"), common_name: Some("cert"), ..Who::NOBODY };
        let is = |name: &str, text| Name::parse(name).unwrap().matches(text, who);
        assert!(is("${cn}", "cert") && !is("${cn}", "cert2") && !is("${cn}", ""));
        assert!(is("${username}-*", "ann-1") && is("${username}-*", "ann-") && !is("${username}-*", "bob-1"));
        assert!(is("*", "") && is("*", "any") && is("fixed", "fixed"));
        for username in [None, Some("")] {
            let nobody = Who { username, common_name: username, ..who };
            for name in ["${username}-*", "${username}", "${cn}", "x${cn}"] {
                for text in ["", "-", "-x", "x"] {
                    assert!(!Name::parse(name).unwrap().matches(text, nobody), "{name} {text}");
                }
            }
        }
        assert_eq!(Name::parse("${clientid}"), Err(PatternError::Variable("clientid".to_owned())));
    }

    #[test]
    fn nobody_has_the_names_of_somebody_whose_own_begins_alike() {
        let who = |name| Who { username: Some(name), common_name: Some("c-1"), ..Who::NOBODY };
        let name = Name::parse("${username}-*").unwrap();
        assert!(name.matches("ann-x-1", who("ann-x")) && !name.matches("ann-x-1", who("ann")));
        assert!(name.matches("ann-x", who("ann")) && name.matches("ann-", who("ann")));
        let both = Name::parse("${username}-${cn}").unwrap();
        assert!(!both.matches("ann-c-1", who("ann")));
        for text in ["${username}*", "${username}${cn}", "${username}${cn}-*"] {
            assert_eq!(Name::parse(text), Err(PatternError::Adjacent), "{text}");
        }
    }
}
