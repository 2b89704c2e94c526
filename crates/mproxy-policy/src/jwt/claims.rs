//! The claims of a token (RFC 7519, 4): JSON in which no name stands twice, and what of it can stand for a variable.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Values of one claim at most.
const VALUES: usize = 256;

/// A value, as it was written. Never shown: what it holds is the client's own.
#[derive(Clone, PartialEq)]
pub(crate) enum Claim {
    Null,
    Flag(bool),
    Number(serde_json::Number),
    Text(String),
    List(Vec<Self>),
    Table(BTreeMap<String, Self>),
}

/// What a token claims.
#[derive(Clone, PartialEq)]
pub(crate) struct Claims(BTreeMap<String, Claim>);

impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Claims(..)")
    }
}

impl Claims {
    /// The claim of this name: as it stands, or `realm_access.roles` within `realm_access`; none where there are both. `null` is
    /// none.
    pub(crate) fn find(&self, name: &str) -> Option<&Claim> {
        find(&self.0, name).filter(|claim| **claim != Claim::Null)
    }

    /// A claim that is a text with something in it.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match self.find(name)? {
            Claim::Text(text) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    /// Seconds since 1970. `Err`: there is something else.
    pub(super) fn seconds(&self, name: &str) -> Result<Option<u64>, ()> {
        match self.find(name) {
            None => Ok(None),
            Some(Claim::Number(number)) => {
                let whole = number.as_u64();
                // A NumericDate may have a fraction (RFC 7519, 2). Cut off: a token ends no later for it.
                let cut =
                    || number.as_f64().filter(|seconds| (0.0..9e15).contains(seconds)).map(|it| it as u64);
                whole.or_else(cut).map(Some).ok_or(())
            }
            Some(_) => Err(()),
        }
    }

    /// The texts of a claim: one, or those of a list. `Err`: there is something else.
    pub(super) fn texts(&self, name: &str) -> Result<Vec<&str>, ()> {
        let text = |claim: &'_ Claim| match claim {
            Claim::Text(_) => Ok(()),
            _ => Err(()),
        };
        match self.find(name) {
            None => Ok(Vec::new()),
            Some(Claim::Text(one)) => Ok(vec![one]),
            Some(Claim::List(all)) => {
                all.iter().try_for_each(text)?;
                Ok(all
                    .iter()
                    .filter_map(|claim| if let Claim::Text(one) = claim { Some(&**one) } else { None })
                    .collect())
            }
            Some(_) => Err(()),
        }
    }

    /// What the claim of this name stands for as a variable: each value of a list. Empty, which no rule holds for a name,
    /// where a value is no text, number or flag. `None`: more values than anybody needs.
    pub(crate) fn values(&self, name: &str) -> Option<Vec<String>> {
        let values = match self.find(name) {
            None => Vec::new(),
            Some(Claim::List(all)) if all.len() > VALUES => return None,
            Some(Claim::List(all)) => all.iter().map(plain).collect(),
            Some(one) => vec![plain(one)],
        };
        Some(values)
    }
}

fn find<'c>(table: &'c BTreeMap<String, Claim>, name: &str) -> Option<&'c Claim> {
    let within = name.split_once('.').and_then(|(first, rest)| match table.get(first)? {
        Claim::Table(inner) => find(inner, rest),
        _ => None,
    });
    match (table.get(name), within) {
        // Somebody else may have written one of them than the other, and which one is meant cannot be told.
        (Some(_), Some(_)) => None,
        (claim, within) => claim.or(within),
    }
}

/// One value as a text.
fn plain(claim: &Claim) -> String {
    match claim {
        Claim::Text(text) => text.clone(),
        Claim::Number(number) => number.to_string(),
        Claim::Flag(flag) => flag.to_string(),
        Claim::Null | Claim::List(_) | Claim::Table(_) => String::new(),
    }
}

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Claim::deserialize(deserializer)? {
            Claim::Table(table) => Ok(Self(table)),
            _ => Err(D::Error::custom("claims are an object")),
        }
    }
}

impl<'de> Deserialize<'de> for Claim {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ClaimVisitor)
    }
}

struct ClaimVisitor;

impl<'de> Visitor<'de> for ClaimVisitor {
    type Value = Claim;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value of JSON")
    }

    fn visit_unit<E>(self) -> Result<Claim, E> {
        Ok(Claim::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Claim, E> {
        Ok(Claim::Flag(flag))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Claim, E> {
        Ok(Claim::Number(number.into()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Claim, E> {
        Ok(Claim::Number(number.into()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Claim, E> {
        serde_json::Number::from_f64(number).map(Claim::Number).ok_or_else(|| E::custom("no number"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Claim, E> {
        Ok(Claim::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Claim, A::Error> {
        let mut all = Vec::new();
        while let Some(claim) = list.next_element()? {
            all.push(claim);
        }
        Ok(Claim::List(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Claim, A::Error> {
        let mut table = BTreeMap::new();
        while let Some((name, claim)) = map.next_entry::<String, Claim>()? {
            // Two readers of such a token would each take another one (RFC 7519, 4, lets both).
            if table.insert(name, claim).is_some() {
                return Err(A::Error::custom("a name stands twice"));
            }
        }
        Ok(Claim::Table(table))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(json: &str) -> Claims {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_claim_stands_for_its_text_and_a_list_for_each_of_its_values() {
        let claims = claims(
            r#"{"t":"a","n":7,"f":true,"z":null,"l":["a","b/c",3],"e":[],"o":{"x":1},"m":["a",{}],"r":{"a.b":["q"]},"x.y":"z"}"#,
        );
        let values = |name| claims.values(name).unwrap();
        assert_eq!(
            (values("t"), values("n"), values("f")),
            (vec!["a".into()], vec!["7".into()], vec!["true".into()])
        );
        assert_eq!(values("l"), ["a", "b/c", "3"]);
        assert_eq!((values("m"), values("o")), (vec!["a".to_owned(), String::new()], vec![String::new()]));
        assert!(values("e").is_empty() && values("z").is_empty() && values("none").is_empty());
        assert_eq!((values("r.a.b"), values("x.y")), (vec!["q".to_owned()], vec!["z".to_owned()]));
        assert_eq!(self::claims(&format!(r#"{{"l":[{}1]}}"#, "1,".repeat(256))).values("l"), None);
    }

    #[test]
    fn a_name_that_stands_twice_is_an_error_at_any_depth() {
        for json in [r#"{"a":1,"a":1}"#, r#"{"o":{"a":1,"\u0061":2}}"#, r#"{"l":[{"a":1,"a":2}]}"#, "[]", "1"]
        {
            assert!(serde_json::from_str::<Claims>(json).is_err(), "{json}");
        }
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(200), "]".repeat(200));
        assert!(serde_json::from_str::<Claims>(&deep).is_err());
    }

    #[test]
    fn times_are_seconds_and_a_fraction_is_cut_off() {
        let claims = claims(r#"{"a":17,"b":17.9,"c":"17","d":-1,"e":1e300}"#);
        assert_eq!((claims.seconds("a"), claims.seconds("b")), (Ok(Some(17)), Ok(Some(17))));
        for wrong in ["c", "d", "e"] {
            assert_eq!(claims.seconds(wrong), Err(()), "{wrong}");
        }
        assert_eq!(claims.seconds("none"), Ok(None));
    }
}
