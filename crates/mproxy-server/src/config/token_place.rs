//! Where the token of a WebSocket request stands, and how it is taken out, so that nobody else is shown it.

use hyper::header::HeaderName;

use super::value::quoted;

/// A place in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestTokenPlace {
    /// A header, behind `Bearer` if that is there.
    Header(HeaderName),
    /// A cookie.
    Cookie(String),
    /// A parameter of the query.
    Query(String),
}

/// What stands in the place of a token that was taken out.
const TAKEN: &str = "***";

impl RequestTokenPlace {
    /// Reads `header:NAME`, `cookie:NAME` or `query:NAME`.
    ///
    /// # Errors
    /// It is none of these.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{} is not one of: header:NAME, cookie:NAME, query:NAME", quoted(text));
        let (kind, name) = text.split_once(':').ok_or_else(wrong)?;
        // A cookie's name is a token, as a header's is (RFC 6265, 4.1.1).
        let header: HeaderName = name.parse().map_err(|_| wrong())?;
        match kind {
            "header" => Ok(Self::Header(header)),
            "cookie" => Ok(Self::Cookie(name.to_owned())),
            "query" => Ok(Self::Query(name.to_owned())),
            _ => Err(wrong()),
        }
    }

    /// Takes the token out of what a request came with; names of headers in lower case.
    pub(crate) fn take(
        &self,
        path: &mut String,
        headers: &mut Vec<(String, String)>,
        cookies: &mut Vec<(String, String)>,
    ) -> Option<String> {
        let found = match self {
            Self::Header(name) => {
                take_named(headers, name.as_str()).iter().map(|text| without_bearer(text)).collect()
            }
            Self::Cookie(name) => take_named(cookies, name),
            Self::Query(name) => take_parameter(path, name),
        };
        // Of two, neither is more meant: together they are no token, and refused as a wrong one.
        let token = found.join(",");
        (!token.is_empty()).then_some(token)
    }
}

fn take_named(pairs: &mut Vec<(String, String)>, name: &str) -> Vec<String> {
    pairs.extract_if(.., |(own, _)| own == name).map(|(_, value)| value).collect()
}

fn without_bearer(text: &str) -> String {
    let token = match text.split_at_checked(7) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer ") => token,
        Some(_) | None => text,
    };
    token.trim().to_owned()
}

fn take_parameter(path: &mut String, name: &str) -> Vec<String> {
    let Some((before, query)) = path.split_once('?') else { return Vec::new() };
    let mut found = Vec::new();
    let shown: Vec<String> = query
        .split('&')
        .map(|pair| match pair.split_once('=') {
            Some((own, value)) if own == name => {
                found.push(value.to_owned());
                format!("{own}={TAKEN}")
            }
            Some(_) | None => pair.to_owned(),
        })
        .collect();
    if !found.is_empty() {
        *path = format!("{before}?{}", shown.join("&"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(
        place: &str,
        path: &str,
        headers: &[(&str, &str)],
        cookies: &[(&str, &str)],
    ) -> (Option<String>, String) {
        let owned = |pairs: &[(&str, &str)]| -> Vec<_> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let (mut path, mut headers, mut cookies) = (path.to_owned(), owned(headers), owned(cookies));
        let token = RequestTokenPlace::parse(place).unwrap().take(&mut path, &mut headers, &mut cookies);
        (token, format!("{path} {headers:?} {cookies:?}"))
    }

    #[test]
    fn a_token_is_taken_out_of_its_place() {
        for (place, path, shown) in [
            ("query:t", "/mqtt?t=s3cret&x=1", "/mqtt?t=***&x=1 [] []"),
            ("query:t", "/mqtt?x=1&t=s3cret", "/mqtt?x=1&t=*** [] []"),
        ] {
            assert_eq!(taken(place, path, &[], &[]), (Some("s3cret".to_owned()), shown.to_owned()));
        }
        let headers = [("authorization", "bearer s3cret"), ("x", "y")];
        assert_eq!(
            taken("header:Authorization", "/m", &headers, &[]),
            (Some("s3cret".to_owned()), "/m [(\"x\", \"y\")] []".to_owned())
        );
        assert_eq!(
            taken("cookie:sid", "/m", &[], &[("sid", "s3cret")]),
            (Some("s3cret".to_owned()), "/m [] []".to_owned())
        );
    }

    #[test]
    fn two_tokens_are_none_and_an_empty_one_is_not_there() {
        let (token, shown) = taken("query:t", "/m?t=a.b.c&t=d.e.f", &[], &[]);
        assert_eq!((token.as_deref(), &*shown), (Some("a.b.c,d.e.f"), "/m?t=***&t=*** [] []"));
        for path in ["/m", "/m?", "/m?t=", "/m?t", "/m?tt=x"] {
            assert_eq!(taken("query:t", path, &[], &[]).0, None, "{path}");
        }
    }

    #[test]
    fn a_place_has_a_kind_and_a_name() {
        for wrong in ["", "header", "header:", "cookie:a b", "body:x", "query:", "Header:x"] {
            assert!(RequestTokenPlace::parse(wrong).is_err(), "{wrong}");
        }
    }
}
