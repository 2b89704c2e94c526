//! W3C trace context (<https://www.w3.org/TR/trace-context/>), as packets carry it in user properties and calls in their
//! headers. It comes from strangers: what is not exactly as the standard has it is ignored.

use std::fmt::Write as _;

/// The name of the header, and of the user property.
pub const TRACEPARENT: &str = "traceparent";

/// The name of the header that goes with it, and of the user property.
pub const TRACESTATE: &str = "tracestate";

/// Bytes of a `traceparent`.
const PARENT_LEN: usize = 55;

/// Bytes of a `tracestate` that is passed on. Up to here the standard wants it to be.
const STATE_MOST: usize = 512;

/// Members of a `tracestate`.
const MEMBERS_MOST: usize = 32;

/// Bytes of a key of a `tracestate`, and of a value.
const MEMBER_PART_MOST: usize = 256;

/// Which span something belongs to, and whether that is sampled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace; never 0.
    pub trace_id: u128,
    /// The span; never 0.
    pub span_id: u64,
    /// Whether it is recorded by whoever made it.
    pub sampled: bool,
    /// What tracing systems say to each other, as they wrote it. Empty: nothing.
    pub state: Box<str>,
}

impl TraceContext {
    /// What these user properties say; `None`: they have no trace context, several, or one that is not as it should be.
    ///
    /// A `tracestate` that is not as it should be is left out, and the rest holds.
    pub fn of_properties<'a>(properties: impl Iterator<Item = (&'a str, &'a str)>) -> Option<Self> {
        let (mut parent, mut state) = (None, TraceState::default());
        for (name, value) in properties {
            match name {
                // Which of two is meant, nobody knows.
                TRACEPARENT if parent.replace(value).is_some() => return None,
                TRACESTATE => state.add(value),
                _ => {}
            }
        }
        let (trace_id, span_id, sampled) = parse_parent(parent?)?;
        Some(Self { trace_id, span_id, sampled, state: state.finish() })
    }

    /// As the header has it.
    #[must_use]
    pub fn traceparent(&self) -> String {
        let mut text = String::with_capacity(PARENT_LEN);
        let flags = u8::from(self.sampled);
        // Writing to a String cannot fail.
        let _ = write!(text, "00-{:032x}-{:016x}-{flags:02x}", self.trace_id, self.span_id);
        text
    }

    /// Bytes of both headers' values.
    pub(crate) fn len(&self) -> usize {
        PARENT_LEN + self.state.len()
    }
}

/// Trace, span and whether it is sampled.
fn parse_parent(text: &str) -> Option<(u128, u64, bool)> {
    let bytes = text.as_bytes();
    let (known, rest) = bytes.split_at_checked(PARENT_LEN)?;
    let [a, b, b'-', ids @ .., b'-', c, d] = known else { return None };
    let (trace, span) = ids.split_at_checked(32)?;
    let span = span.strip_prefix(b"-")?;
    let version = hex(&[*a, *b])?;
    // Later versions may have more behind it; 0xFF is none.
    let ends = match version {
        0 => rest.is_empty(),
        0xff => false,
        _ => rest.is_empty() || rest.starts_with(b"-"),
    };
    let (trace, span, flags) = (hex(trace)?, hex(span)?, hex(&[*c, *d])?);
    let span = u64::try_from(span).ok()?;
    (ends && trace != 0 && span != 0).then_some((trace, span, flags & 1 == 1))
}

/// A number in lower-case digits; the standard has no others.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number: u128, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}

/// A `tracestate` while it is read: it may stand in several properties, which count as one list.
#[derive(Default)]
struct TraceState {
    text: String,
    broken: bool,
}

impl TraceState {
    fn add(&mut self, list: &str) {
        // Before anything is copied or looked at.
        if self.broken || self.text.len() + list.len() + 1 > STATE_MOST {
            self.broken = true;
            return;
        }
        for member in list.split(',').map(|member| member.trim_matches([' ', '\t'])) {
            // The standard allows empty ones.
            if member.is_empty() {
                continue;
            }
            if !is_member(member) {
                self.broken = true;
                return;
            }
            if !self.text.is_empty() {
                self.text.push(',');
            }
            self.text.push_str(member);
        }
    }

    fn finish(self) -> Box<str> {
        let key = |member: &str| member.split('=').next().unwrap_or_default().to_owned();
        let mut keys: Vec<String> = self.text.split(',').map(key).collect();
        let members = keys.len();
        keys.sort_unstable();
        keys.dedup();
        if self.broken || members > MEMBERS_MOST || keys.len() < members {
            return Box::default();
        }
        self.text.into()
    }
}

fn is_member(member: &str) -> bool {
    let Some((key, value)) = member.split_once('=') else { return false };
    let is_key = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@');
    let is_value = |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b',' | b'=');
    key.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
        && key.len() <= MEMBER_PART_MOST
        && key.bytes().all(is_key)
        && (1..=MEMBER_PART_MOST).contains(&value.len())
        && value.bytes().all(is_value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn of(properties: &[(&str, &str)]) -> Option<TraceContext> {
        TraceContext::of_properties(properties.iter().copied())
    }

    #[test]
    fn what_is_as_the_standard_has_it_is_read() {
        let read = of(&[("a", "b"), (TRACEPARENT, PARENT), (TRACESTATE, "rojo=00f067aa,congo=t61rcWkgMzE")]);
        let expected = TraceContext {
            trace_id: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c,
            span_id: 0xb7ad_6b71_6920_3331,
            sampled: true,
            state: "rojo=00f067aa,congo=t61rcWkgMzE".into(),
        };
        assert_eq!(read, Some(expected.clone()));
        assert_eq!(expected.traceparent(), PARENT);
        let later = "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-02-what-comes-later";
        assert!(!of(&[(TRACEPARENT, later)]).unwrap().sampled);
    }

    #[test]
    fn a_traceparent_that_is_not_exactly_right_is_none() {
        let wrong = [
            "",
            "00",
            &PARENT[1..],
            &PARENT[..54],
            &format!("{PARENT} "),
            &format!("{PARENT}-00"),
            &format!(" {PARENT}"),
            &PARENT.replace('a', "A"),
            &PARENT.replacen("00", "ff", 1),
            &PARENT.replacen("00", "0g", 1),
            &PARENT.replace('-', "_"),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319-cb7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-é",
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01x",
        ];
        for text in wrong {
            assert_eq!(of(&[(TRACEPARENT, text)]), None, "{text:?}");
        }
        assert_eq!(of(&[(TRACEPARENT, PARENT), (TRACEPARENT, PARENT)]), None, "two of them");
        assert_eq!(of(&[("Traceparent", PARENT)]), None);
        assert_eq!(of(&[(TRACESTATE, "a=b")]), None);
    }

    #[test]
    fn a_tracestate_that_is_not_right_is_left_out_and_the_rest_holds() {
        let state = |lists: &[&str]| {
            let mut properties = vec![(TRACEPARENT, PARENT)];
            properties.extend(lists.iter().map(|list| (TRACESTATE, *list)));
            of(&properties).expect("the parent holds").state
        };
        let many: Vec<String> = (0..33).map(|at| format!("k{at}=v")).collect();
        let long = format!("a={}", "v".repeat(257));
        for wrong in [
            "a",
            "=b",
            "a=",
            "A=b",
            "a=b=c",
            "a b=c",
            "a=é",
            "a=\u{7f}",
            "a=b\r\nx: y",
            "a=1,a=2",
            "_a=b",
            &many.join(","),
            &long,
            &"a=b,".repeat(200),
        ] {
            assert_eq!(&*state(&[wrong]), "", "{wrong:?}");
        }
        assert_eq!(&*state(&["a=1, b=2\t,,", "c@d=x y"]), "a=1,b=2,c@d=x y", "several count as one list");
        assert_eq!(&*state(&["a=1", "broken"]), "");
    }

    proptest! {
        /// What is passed on can stand in a header, whatever came.
        #[test]
        fn what_is_read_is_bounded_and_visible(parent in ".{0,80}|00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]", state in ".{0,600}") {
            if let Some(context) = of(&[(TRACEPARENT, &parent), (TRACESTATE, &state)]) {
                prop_assert!(context.len() <= PARENT_LEN + STATE_MOST);
                prop_assert!(http::HeaderValue::from_str(&context.state).is_ok());
                prop_assert_eq!(context.traceparent().len(), PARENT_LEN);
            }
        }
    }
}
