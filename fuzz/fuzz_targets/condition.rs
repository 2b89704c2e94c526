#![no_main]
//! A condition of a rule file told anything. Reading it and holding it against clients, topics and filters must not panic and
//! must end; it is never true and false at once; and what it says of a filter it says of the topics that match.

use mproxy_core::rule::Act;
use mproxy_policy::acl::{Acl, TrialClient, TrialQuestion};

/// More than a condition may be long.
const ENOUGH: usize = 3000;

/// What conditions are made of: bytes alone seldom are one.
const WORDS: &[&str] = &[
    "client.id",
    "client.username",
    "client.address",
    "client.version",
    "client.transport",
    "client.listener",
    "claim.a",
    "claim['a']",
    "client.attributes.group",
    "topic",
    "levels",
    "levels[0]",
    "levels[1]",
    "qos",
    "time.hour",
    "time.weekday",
    "has(claim.a)",
    "size(topic)",
    "size(levels)",
    "int(",
    "bool(",
    "topic.startsWith(",
    ".endsWith(",
    ".contains(",
    "(",
    ")",
    "[",
    "]",
    ",",
    "'a'",
    "'b'",
    "\"a/b\"",
    "''",
    "0",
    "1",
    "-1",
    "9223372036854775807",
    "5u",
    "1.5",
    "null",
    "true",
    "false",
    "&&",
    "||",
    "!",
    "==",
    "!=",
    "<",
    "<=",
    ">",
    ">=",
    "in",
    "?",
    ":",
    "+",
    "-",
    "*",
    "/",
    "%",
    "levels.all(l,",
    "matches",
    "payload",
    "retain",
    "\n",
];

/// Filters, each with topics that it matches.
const FILTERS: &[(&str, &[&str])] = &[
    ("a/b", &["a/b"]),
    ("a/+", &["a/b", "a/", "a/a"]),
    ("a/#", &["a", "a/b", "a/b/c"]),
    ("+/b", &["a/b", "/b"]),
    ("#", &["a", "a/b", "b"]),
    ("b/+/c", &["b/a/c", "b//c"]),
];

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let [kind, rest @ ..] = input else { return };
    let text = match kind % 2 {
        0 => String::from_utf8_lossy(&rest[..rest.len().min(ENOUGH)]).into_owned(),
        _ => rest
            .iter()
            .take(300)
            .map(|byte| WORDS[usize::from(*byte) % WORDS.len()])
            .collect::<Vec<_>>()
            .join(" "),
    };
    let when = quoted(&text);
    let rule = |effect: &str| {
        format!(
            "[[rules]]\neffect = \"{effect}\"\nactions = [\"subscribe\"]\ntopics = [\"#\"]\nwhen = {when}\n"
        )
    };
    let all = "[[rules]]\neffect = \"allow\"\ntopics = [\"#\"]\n";
    let Ok(allows) = Acl::parse(&rule("allow"), "fuzz") else { return };
    let denies = Acl::parse(&format!("{}{all}", rule("deny")), "fuzz").expect("it was one before");
    let client =
        TrialClient { client_id: "a".to_owned(), username: Some("b".to_owned()), ..TrialClient::default() };
    for (filter, topics) in FILTERS {
        let of =
            |acl: &Acl, name: &str| acl.rules_allow(&client, &TrialQuestion::plain(Act::Subscribe, name));
        let (holds, fails) = (of(&allows, filter), of(&denies, filter));
        assert!(!(holds && fails), "{text}: it is true and false of {filter}");
        for topic in *topics {
            assert!(!holds || of(&allows, topic), "{text}: holds for {filter} and not for {topic}");
            assert!(!fails || of(&denies, topic), "{text}: fails for {filter} and not for {topic}");
        }
    }
});

/// As TOML writes a text.
fn quoted(text: &str) -> String {
    let escaped: String = text
        .chars()
        .map(|sign| match sign {
            '"' | '\\' => format!("\\{sign}"),
            sign if sign.is_control() => format!("\\u{:04x}", u32::from(sign)),
            sign => sign.to_string(),
        })
        .collect();
    format!("\"{escaped}\"")
}
