//! What a client may call itself: text with variables, and perhaps an open end.

use super::pattern::{Piece, pieces};
use super::{PatternError, Who};

/// A name with variables; a `*` at its end stands for any rest.
#[derive(Clone, Debug, PartialEq)]
pub struct Name {
    pieces: Box<[Piece]>,
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Closed,
    Open,
}

impl Name {
    /// Compiles `text`.
    ///
    /// # Errors
    /// It has a variable that there is not. `${clientid}` is one of these: it would allow every name.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let (text, end) = match text.strip_suffix('*') {
            Some(text) => (text, End::Open),
            None => (text, End::Closed),
        };
        let pieces = pieces(text)?;
        if pieces.contains(&Piece::ClientId) {
            return Err(PatternError::Variable("clientid".to_owned()));
        }
        Ok(Self { pieces: pieces.into(), end })
    }

    /// Whether `text` is such a name. Variables that the client has no value for make it none.
    #[must_use]
    pub fn is(&self, text: &str, who: Who<'_>) -> bool {
        let rest = self
            .pieces
            .iter()
            .try_fold(text, |rest, piece| piece.value(who).and_then(|value| rest.strip_prefix(value)));
        rest.is_some_and(|rest| rest.is_empty() || self.end == End::Open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_bound_to_who_the_client_is() {
        let who = Who { client_id: "", username: Some("ann"), common_name: Some("cert"), attributes: &[] };
        let is = |name: &str, text| Name::parse(name).unwrap().is(text, who);
        assert!(is("${cn}", "cert") && !is("${cn}", "cert2") && !is("${cn}", ""));
        assert!(is("${username}-*", "ann-1") && is("${username}-*", "ann-") && !is("${username}-*", "bob-1"));
        assert!(is("*", "") && is("*", "any") && is("fixed", "fixed"));
        let nobody = Who { username: None, common_name: None, ..who };
        assert!(!Name::parse("${username}*").unwrap().is("x", nobody));
        assert_eq!(Name::parse("${clientid}"), Err(PatternError::Variable("clientid".to_owned())));
    }
}
