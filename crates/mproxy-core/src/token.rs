//! Tokens (JWT) where user names and passwords stand: what looks like one is a secret, whoever it is for.

/// The token that is meant by a text in the place of a user name or password, if one is: without white space around it, and
/// without the scheme `Bearer` of HTTP before it.
///
/// Its first part is the beginning of an object in base64url, and there is a second one. What is malformed behind that is a
/// token that is wrong.
#[must_use]
pub fn token_in(text: &str) -> Option<&str> {
    let text = text.trim();
    let text = match text.split_at_checked(6) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim_start(),
        Some(_) | None => text,
    };
    // `{` and the first bits of what follows it.
    let is_token =
        matches!(text.as_bytes(), [b'e', b'w'..=b'z' | b'0'..=b'9' | b'-' | b'_', ..]) && text.contains('.');
    is_token.then_some(text)
}

#[cfg(test)]
mod tests {
    use super::token_in;

    #[test]
    fn what_looks_like_a_token_is_one_with_or_without_a_scheme() {
        // With white space before the first name, or none.
        for token in ["eyAi.", "e30.e30.x", "ewoi.x"] {
            for around in ["", " ", "\t", "\n", "Bearer ", "bearer  ", " BEARER\t", "Bearer"] {
                assert_eq!(token_in(&format!("{around}{token} ")), Some(token), "{around:?}");
            }
        }
        for other in
            ["sesame", "", "e", "eyJ", "eagle.one", "Eyes.x", "$argon2id$v=19", "e.", "ey", "Bearer "]
        {
            assert_eq!(token_in(other), None, "{other}");
        }
    }
}
