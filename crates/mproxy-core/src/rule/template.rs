//! Text with variables that is written out: each has to have one value, and one that can be (part of) a level.

use super::PatternError;
use super::variables::{Piece, Who, attributes, parse_pieces};

/// A text that is another one for each client.
#[derive(Clone, Debug, PartialEq)]
pub struct Template(Box<[Piece]>);

impl Template {
    /// Compiles `text`.
    ///
    /// # Errors
    /// It has a variable that there is not, or two side by side.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        Ok(Self(parse_pieces(text)?.into()))
    }

    /// The text for this client. `None`: a variable has no value, several, or one that no level can be, or, as the second one
    /// of a level, one with the character before it.
    #[must_use]
    pub fn expand(&self, who: Who<'_>) -> Option<String> {
        let (mut text, mut has_variable) = (String::new(), false);
        for piece in &self.0 {
            match piece {
                Piece::Text(own) => {
                    has_variable &= !own.contains('/');
                    text.push_str(own);
                }
                Piece::Variable(variable) => {
                    let value = variable.single(who)?;
                    // Where one value ends and the next begins is not for clients to choose: `a-b` and `c` would be the
                    // same text as `a` and `b-c`, and that of another tenant.
                    if has_variable && text.chars().next_back().is_none_or(|before| value.contains(before)) {
                        return None;
                    }
                    text.push_str(value);
                    has_variable = true;
                }
            }
        }
        Some(text)
    }

    /// Whether both may be the same text, for the same or for different clients. Says yes where it cannot tell.
    #[must_use]
    pub fn may_equal(&self, other: &Self) -> bool {
        let ((begin, end), (other_begin, other_end)) = (self.ends(), other.ends());
        match (self.fixed(), other.fixed()) {
            (Some(one), Some(other)) => one == other,
            // A value is never empty.
            (Some(text), None) => {
                text.len() > other_begin.len() + other_end.len()
                    && text.starts_with(other_begin)
                    && text.ends_with(other_end)
            }
            (None, Some(text)) => {
                text.len() > begin.len() + end.len() && text.starts_with(begin) && text.ends_with(end)
            }
            (None, None) => {
                (begin.starts_with(other_begin) || other_begin.starts_with(begin))
                    && (end.ends_with(other_end) || other_end.ends_with(end))
            }
        }
    }

    /// The text for this client, if its last character stands nowhere else in it. No other such text that ends with the same
    /// character begins with it.
    #[must_use]
    pub fn expand_apart(&self, who: Who<'_>) -> Option<String> {
        let text = self.expand(who)?;
        let (last, before) =
            text.chars().next_back().map(|last| (last, &text[..text.len() - last.len_utf8()]))?;
        (!before.contains(last) && !text.contains('\0')).then_some(text)
    }

    /// The character at its end, whoever the client is; `None` where a variable stands there.
    #[must_use]
    pub fn last_char(&self) -> Option<char> {
        match self.0.last() {
            Some(Piece::Text(own)) => own.chars().next_back(),
            Some(Piece::Variable(_)) | None => None,
        }
    }

    /// The text with this in the place of each variable.
    #[must_use]
    pub fn with_each_variable(&self, value: &str) -> String {
        let pieces = self.0.iter().map(|piece| match piece {
            Piece::Text(own) => own,
            Piece::Variable(_) => value,
        });
        pieces.collect()
    }

    /// The text, where it is the same for everybody.
    pub(crate) fn fixed(&self) -> Option<&str> {
        match &*self.0 {
            [] => Some(""),
            [Piece::Text(own)] => Some(own),
            _ => None,
        }
    }

    /// The texts at its beginning and its end; empty where a variable stands there.
    pub(crate) fn ends(&self) -> (&str, &str) {
        (text_of(self.0.first()), text_of(self.0.last()))
    }

    /// The texts between its variables.
    pub(crate) fn texts(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Text(own) => Some(&**own),
            Piece::Variable(_) => None,
        })
    }

    /// The attributes that its variables stand for.
    pub fn attributes(&self) -> impl Iterator<Item = &str> {
        attributes(&self.0)
    }
}

fn text_of(piece: Option<&Piece>) -> &str {
    match piece {
        Some(Piece::Text(own)) => own,
        Some(Piece::Variable(_)) | None => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_level_or_several_makes_no_text() {
        let template = Template::parse("t/${claim.t}/${clientid}-x/").unwrap();
        let claims = |values: &[&str]| -> Vec<_> {
            values.iter().map(|value| ("claim.t".to_owned(), (*value).to_owned())).collect()
        };
        let expand = |values: &[&str], client_id| {
            template.expand(Who { client_id, attributes: &claims(values), ..Who::NOBODY })
        };
        assert_eq!(expand(&["a"], "c").as_deref(), Some("t/a/c-x/"));
        for odd in [&[][..], &[""], &["a/b"], &["+"], &["a#"], &["a", "b"]] {
            assert_eq!(expand(odd, "c"), None, "{odd:?}");
        }
        assert_eq!((expand(&["a"], ""), expand(&["a"], "c/d")), (None, None));
        assert!(Template::parse("${who}").is_err() && Template::parse("a/${cn}${cn}").is_err());
    }

    #[test]
    fn no_two_pairs_of_values_in_a_level_make_the_same_text() {
        let template = Template::parse("t/${username}-${clientid}/${clientid}").unwrap();
        let expand =
            |name, client_id| template.expand(Who { username: Some(name), client_id, ..Who::NOBODY });
        assert_eq!(expand("x-y", "z").as_deref(), Some("t/x-y-z/z"));
        assert_eq!(expand("x", "y-z"), None);
        let apart = Template::parse("t-${username}/-${clientid}").unwrap();
        let levels = apart.expand(Who { username: Some("x"), client_id: "y-z", ..Who::NOBODY });
        assert_eq!(levels.as_deref(), Some("t-x/-y-z"), "one in each level");
    }
}
