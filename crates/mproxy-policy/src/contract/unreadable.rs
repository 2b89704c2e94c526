//! What an answer that cannot be read says all the same: no, or yes within limits. That is no failed answer, which the
//! failure rule might turn into a yes: a service that made a mistake in its *Deny* has not allowed anything (ADR 0017).

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use prost_reflect::{Kind, MessageDescriptor};

/// The fields of answers that say no, or within which limits.
const RESTRICTIONS: [&str; 2] = ["deny", "grant"];

/// Whether a text has a word in it that restricts, wherever, and however its letters are written: JSON that is cut off, that
/// has something before or behind it, that stands in a list or in single quotes, or that is in UTF-16, cannot be taken apart
/// by its rules. A text that speaks of it and means something else is refused, which harms less.
pub(super) fn text_restricts(text: &[u8]) -> bool {
    RESTRICTIONS
        .iter()
        .any(|word| (0..text.len()).any(|at| begins_with(text.get(at..).unwrap_or_default(), word)))
}

fn begins_with(mut text: &[u8], word: &str) -> bool {
    word.bytes().all(|expected| {
        let Some((letter, rest)) = next_letter(text) else { return false };
        text = rest;
        letter.eq_ignore_ascii_case(&expected)
    })
}

/// The next letter of ASCII, which JSON may write as `\u0064`; zero bytes are UTF-16's.
fn next_letter(text: &[u8]) -> Option<(u8, &[u8])> {
    let zeros = text.iter().take_while(|byte| **byte == 0).count();
    match text.get(zeros..)? {
        [b'\\', b'u', b'0', b'0', high, low, rest @ ..] => {
            let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
            Some((digit(*high)? << 4 | digit(*low)?, rest))
        }
        [letter, rest @ ..] => Some((*letter, rest)),
        [] => None,
    }
}

/// Whether a message that cannot be decoded has a field in it that restricts, as far as it can be taken apart: a text in it
/// that is no UTF-8 does not end that, nor does its being cut off.
pub(super) fn message_restricts(message: &MessageDescriptor, mut bytes: &[u8]) -> bool {
    while let Ok((number, kind)) = decode_key(&mut bytes) {
        let field = message.get_field(number);
        if field.as_ref().is_some_and(|field| RESTRICTIONS.contains(&field.name())) {
            return true;
        }
        if kind != WireType::LengthDelimited {
            if skip_field(kind, number, &mut bytes, DecodeContext::default()).is_err() {
                return false;
            }
            continue;
        }
        let Ok(len) = decode_varint(&mut bytes) else { return false };
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(bytes.len());
        let (inner, rest) = bytes.split_at(len);
        if let Some(Kind::Message(message)) = field.map(|field| field.kind())
            && message_restricts(&message, inner)
        {
            return true;
        }
        bytes = rest;
    }
    false
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::super::json::JsonCall;
    use super::super::wire;
    use super::*;

    #[test]
    fn a_word_that_restricts_is_seen_however_it_is_written() {
        for text in [
            r#"{"deny":{"#,
            r#"{"deny":{}}x"#,
            "\u{feff}{\"deny\":{}}",
            r#"[{"deny":{}}]"#,
            r#"{"allow":{}} {"deny":{}}"#,
            r#"{"d\u0065ny":{"x":1}}"#,
            r#"{"\u0064\u0065\u006E\u006e\u0079":1,"\u0064\u0065\u006E\u0079":{}}"#,
            "{'deny': {}}",
            r#"{"Deny":{}}"#,
            r#""{\"deny\":{}}""#,
            "deny",
            r#"{"allow":{"grant":{"#,
            "{\0\"\0d\0e\0n\0y\0\"\0:\0{\0}\0}\0",
        ] {
            assert!(text_restricts(text.as_bytes()), "{text}");
        }
        for text in
            ["", "{}", r#"{"allow":{}"#, r#"{"den"#, r"\u00", r"\u006", r"d\u00zzny", "<html>no</html>"]
        {
            assert!(!text_restricts(text.as_bytes()), "{text}");
        }
        assert!(!text_restricts(&[0; 9]));
    }

    fn restricts(name: &str, bytes: &[u8]) -> bool {
        message_restricts(&JsonCall::new(name).expect("it is a call").answer(), bytes)
    }

    #[test]
    fn a_field_that_restricts_is_seen_wherever_the_mistake_is() {
        use wire::auth_publish_response::Verdict;
        let deny = Verdict::Deny(wire::Deny { reason_string: "no".into(), ..Default::default() });
        let bytes = wire::AuthPublishResponse { verdict: Some(deny) }.encode_to_vec();
        assert!(restricts("AuthPublish", &bytes));
        assert!(restricts("AuthPublish", &bytes[..2]), "cut off");
        assert!(restricts("AuthDeliver", &bytes));
        // An Allow that is no UTF-8 before it, an unknown field, a number where a message is expected.
        assert!(restricts("AuthPublish", &[b"\x0a\x03\x0a\x01\xff", &*bytes].concat()));
        assert!(restricts("AuthPublish", &[b"\x7a\x01\x00\x78\x01", &*bytes].concat()));
        assert!(restricts("AuthPublish", b"\x10\x01"));
        // In a list.
        assert!(restricts("AuthSubscribe", b"\x0a\x02\x0a\x00\x0a\x05\x12\x03\x12\x01\xff"));
        assert!(!restricts("AuthSubscribe", b"\x0a\x02\x0a\x00\x0a\x05\x0a\x03\x0a\x01\xff"));
        let grant = wire::ConnectAllow { grant: Some(wire::Grant::default()), ..Default::default() };
        let allow = wire::auth_connect_response::Verdict::Allow(grant);
        let bytes = wire::AuthConnectResponse { verdict: Some(allow) }.encode_to_vec();
        assert!(restricts("AuthConnect", &bytes));
        assert!(restricts("AuthExchange", b"\x1a\x02\x12\x01"));
        for bytes in
            [&b""[..], b"\x0a\x00", b"\x0a\x03\x0a\x01\xff", b"\xff\xff", b"\x07", b"\x0a", b"\x09\x00"]
        {
            assert!(!restricts("AuthPublish", bytes), "{bytes:?}");
        }
    }
}
