//! Text for a terminal. What comes from outside (client ids, topics, reason strings) is shown, and steers nothing.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Characters that a terminal would obey, or that turn the direction of what follows, are escaped; a line break is left.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    escape(text, |c| c != '\n' && steers(c))
}

/// The same for what has to stay in its line.
pub(super) fn one_line(text: &str) -> Cow<'_, str> {
    escape(text, steers)
}

fn escape(text: &str, is_escaped: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_escaped) {
        return text.into();
    }
    let escaped = text.chars().fold(String::with_capacity(text.len() + 8), |mut shown, c| {
        if is_escaped(c) {
            shown.extend(c.escape_default())
        } else {
            shown.push(c)
        }
        shown
    });
    escaped.into()
}

/// Control characters (C0, DEL, C1), line and paragraph separators, and those that reorder or hide text.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// JSON that is harmless on a terminal, too: what it may contain as it is, and a terminal would obey, is written as `\u009b`.
pub(super) fn json_line(json: &str) -> Cow<'_, str> {
    // All of these stand in strings: outside of them, JSON has none.
    let is_escaped = |c: char| c != '\n' && steers(c);
    if !json.contains(is_escaped) {
        return json.into();
    }
    let escaped = json.chars().fold(String::with_capacity(json.len() + 8), |mut shown, c| {
        if is_escaped(c) {
            // Writing to a String cannot fail.
            let _ = write!(shown, "\\u{:04x}", u32::from(c));
        } else {
            shown.push(c);
        }
        shown
    });
    escaped.into()
}

/// A reason code as the documentation writes it: `0x9C`.
pub(super) fn code(code: u64) -> String {
    format!("0x{code:02X}")
}

/// A value that nobody can take for the one behind it: as it is, or between quotes.
pub(super) fn one_word(value: &str) -> Cow<'_, str> {
    let is_word = !value.is_empty() && !value.contains(|c: char| c.is_whitespace() || "\"'=\\".contains(c));
    if is_word { one_line(value) } else { format!("{value:?}").into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_outside_steers_a_terminal() {
        for (text, shown) in [
            ("plain é 温度", "plain é 温度"),
            ("\u{1b}]0;title\u{7}", "\\u{1b}]0;title\\u{7}"),
            ("\u{9b}2J\u{7f}\r\t", "\\u{9b}2J\\u{7f}\\r\\t"),
            ("abc\u{202e}txt", "abc\\u{202e}txt"),
            ("a\u{2028}b\u{feff}", "a\\u{2028}b\\u{feff}"),
        ] {
            assert_eq!((printable(text).as_ref(), one_line(text).as_ref()), (shown, shown));
        }
        assert_eq!((printable("a\nb").as_ref(), one_line("a\nb").as_ref()), ("a\nb", "a\\nb"));
        for c in (0..=u32::from(char::MAX)).filter_map(char::from_u32).filter(|c| c.is_control()) {
            let shown = one_word(&format!("a{c}")).into_owned();
            assert!(!shown.contains(char::is_control), "{c:?}");
        }
    }

    #[test]
    fn json_is_the_same_and_steers_no_terminal() {
        let value = serde_json::json!({ "a\u{9b}": "x\u{1b}[2J\u{7f}\u{202e}é\n" });
        let text = value.to_string();
        let shown = json_line(&text);
        assert!(!shown.contains(steers), "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).expect("JSON"), value);
    }

    #[test]
    fn a_value_cannot_be_taken_for_the_next_one() {
        assert_eq!(one_word("a b=c"), "\"a b=c\"");
        assert_eq!(one_word(""), "\"\"");
        assert_eq!(one_word("a/b"), "a/b");
    }
}
