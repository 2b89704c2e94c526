use mproxy_core::rule::Act;
use proptest::prelude::*;

use super::acl_lines::{AclAccess, AclLine, AclOwner, read_acl};
use super::model::{AclAsked, AclClient, allows};
use super::*;
use crate::acl::{Acl, TrialClient, TrialQuestion};

const ASKED: [(Act, AclAsked); 3] =
    [(Act::Publish, AclAsked::Write), (Act::Will, AclAsked::Write), (Act::Receive, AclAsked::Read)];

fn imported(acl: &str) -> Imported {
    import(acl, None, ImportOptions::default()).unwrap_or_else(|errors| panic!("{errors}"))
}

fn may(rules: &Acl, client: AclClient<'_>, act: Act, name: &str) -> bool {
    let client = TrialClient {
        client_id: client.id.to_owned(),
        username: client.username.map(ToOwned::to_owned),
        ..TrialClient::default()
    };
    let question = TrialQuestion::plain(act, name);
    rules.rules_allow(&client, &question)
}

fn lines() -> impl Strategy<Value = Vec<AclLine>> {
    let level =
        prop::sample::select(vec!["a", "b", "c1", "+", "%c", "%u", "s-%c", "%u-%c", "ann", "${x", "%c%u"]);
    let first = prop::sample::select(vec!["a", "b", "+", "%c", "%u", "$x", "$SYS", "c1"]);
    let rest = prop::sample::select(vec!["", "/#", "/+"]);
    let filter = (first, prop::collection::vec(level, 0..3), rest, prop::bool::weighted(0.05)).prop_map(
        |(first, levels, rest, everything)| {
            let levels: String = levels.iter().map(|level| format!("/{level}")).collect();
            if everything { "#".to_owned() } else { format!("{first}{levels}{rest}") }
        },
    );
    let owner = prop::sample::select(vec![
        AclOwner::Anonymous,
        AclOwner::User("ann".to_owned()),
        AclOwner::User("a/b".to_owned()),
        AclOwner::Everybody,
        AclOwner::Everybody,
    ]);
    let access =
        prop::sample::select(vec![AclAccess::Read, AclAccess::Write, AclAccess::ReadWrite, AclAccess::Deny]);
    let line = (owner, access, filter);
    prop::collection::vec(line, 0..8).prop_map(|lines| {
        let number = |(at, (owner, access, filter))| AclLine { number: at, owner, access, filter };
        (1..).zip(lines).map(number).collect()
    })
}

fn topic() -> impl Strategy<Value = String> {
    let first = prop::sample::select(vec!["a", "b", "c1", "ann", "$x", "$SYS", ""]);
    let level = prop::sample::select(vec!["a", "b", "c1", "ann", "s-c1", "ann-c1", "", "${x"]);
    (first, prop::collection::vec(level, 0..4)).prop_map(|(first, levels)| {
        let levels: String = levels.iter().map(|level| format!("/{level}")).collect();
        let topic = format!("{first}{levels}");
        if topic.is_empty() { "a".to_owned() } else { topic }
    })
}

/// As an `acl_file`.
fn written(lines: &[AclLine]) -> String {
    let mut text = String::new();
    // Anonymous lines have no place below a user.
    let anonymous = |line: &&AclLine| line.owner == AclOwner::Anonymous;
    for line in lines.iter().filter(anonymous).chain(lines.iter().filter(|line| !anonymous(line))) {
        let word = match &line.owner {
            AclOwner::Anonymous => "topic".to_owned(),
            AclOwner::User(name) => format!("user {name}\ntopic"),
            AclOwner::Everybody => "pattern".to_owned(),
        };
        let access = match line.access {
            AclAccess::Read => "read",
            AclAccess::Write => "write",
            AclAccess::ReadWrite => "readwrite",
            AclAccess::Deny => "deny",
        };
        text.push_str(&format!("{word} {access} {}\n", line.filter));
    }
    text
}

const PLAIN: [(&str, Option<&str>); 6] = [
    ("c1", None),
    ("c1", Some("ann")),
    ("a", Some("bob")),
    ("b", Some("a")),
    ("ann", Some("c1")),
    ("a", None),
];
const UNUSUAL: [(&str, Option<&str>); 4] =
    [("a/b", Some("ann")), ("c1", Some("a/b")), ("", Some("ann")), ("b-c", Some("ann-b"))];

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_rules_decide_what_mosquitto_decides(lines in lines(), topics in prop::collection::vec(topic(), 8)) {
        let text = written(&lines);
        let made = imported(&text);
        let lines = read_acl(&text).expect("lines");
        let rules = Acl::parse(&made.text, "made").unwrap_or_else(|errors| panic!("{errors}\n{}", made.text));
        let is_whole = made.notes.iter().all(|note| note.kind != ImportNoteKind::Changed);
        // Whom the file names is compared, also where the name has levels: then patterns with it give less.
        let has_levels = lines.iter().any(|line| line.owner == AclOwner::User("a/b".to_owned()));
        prop_assert!(!is_whole || has_levels || made.is_same(), "{:?}", made.proof);
        prop_assert!(made.proof.mismatches.iter().all(|mismatch| mismatch.mosquitto_allows), "{:?}", made.proof);
        for (is_plain, clients) in [(true, &PLAIN[..]), (false, &UNUSUAL[..])] {
            for ((id, username), topic) in clients.iter().flat_map(|client| topics.iter().map(move |topic| (*client, topic))) {
                let client = AclClient { id, username };
                for (act, asked) in ASKED {
                    let (is, was) = (may(&rules, client, act, topic), allows(&lines, client, asked, topic));
                    let expected = if is_plain && is_whole { is == was } else { was || !is };
                    prop_assert!(expected, "{client:?} {act:?} {topic}: {is}, was {was}\n{text}\n{}", made.text);
                }
            }
        }
    }

    #[test]
    fn a_strict_file_grants_no_filter_with_a_topic_that_may_not_be_read(
        lines in lines(),
        filter in topic(),
        wild in prop::collection::vec(0..4_usize, 0..2),
        rest: bool,
        topics in prop::collection::vec(topic(), 12),
    ) {
        let text = written(&lines);
        let options = ImportOptions { strict: true, ..ImportOptions::default() };
        let made = import(&text, None, options).expect("lines");
        let lines = read_acl(&text).expect("lines");
        let rules = Acl::parse(&made.text, "made").unwrap_or_else(|errors| panic!("{errors}\n{}", made.text));
        let levels = filter.split('/').enumerate().map(|(at, level)| if wild.contains(&at) { "+" } else { level });
        let mut filter = levels.collect::<Vec<_>>().join("/");
        if rest {
            filter.push_str("/#");
        }
        for (id, username) in PLAIN {
            let client = AclClient { id, username };
            let granted = may(&rules, client, Act::Subscribe, &filter);
            for topic in topics.iter().filter(|topic| granted && mproxy_codec::topic::matches(&filter, topic)) {
                prop_assert!(allows(&lines, client, AclAsked::Read, topic), "{client:?} {filter} {topic}\n{text}\n{}", made.text);
            }
        }
    }
}

#[test]
fn what_cannot_be_carried_over_is_told_by_line_and_allows_nothing() {
    let acl = "topic a/${x}\npattern %c%u/x\npattern deny b/%c%u/c\ntopic read $share/g/a\npattern x/%u\npattern %c/#\n";
    let made = imported(acl);
    use ImportNoteKind::{Changed, NoEffect, UnusualNames};
    let told: Vec<_> = made.notes.iter().map(|note| (note.line, note.kind)).collect();
    let odd = |line| (line, UnusualNames);
    let expected =
        [(1, Changed), (2, Changed), (3, Changed), (4, NoEffect), odd(5), odd(5), odd(6), odd(6), odd(6)];
    assert_eq!(told, expected, "{:?}", made.notes);
    assert!(!made.is_same() && !made.proof.mismatches.is_empty(), "{:?}", made.proof);
    assert!(made.proof.mismatches.iter().all(|mismatch| mismatch.mosquitto_allows), "{:?}", made.proof);
    let rules = Acl::parse(&made.text, "made").expect("rules");
    let client = AclClient { id: "c1", username: Some("ann") };
    assert!(!may(&rules, client, Act::Publish, "b/c1ann/c") && may(&rules, client, Act::Publish, "x/ann"));
}

#[test]
fn users_are_those_whom_mosquitto_lets_in() {
    let hash = "$7$101$La9fhkdCL2PcA++z$+8uKm6DiV/rF+5szDdJGpEswEvXyYhV7DFQ2fsREIni8nqDqoRn3Y6OA9LpwE5okVx9MDFziSHzEIvpWL5MPSw==";
    let other = "$7$1$La9fhkdCL2PcA++z$+8uKm6DiV/rF+5szDdJGpEswEvXyYhV7DFQ2fsREIni8nqDqoRn3Y6OA9LpwE5okVx9MDFziSHzEIvpWL5MPSw==";
    let slow = hash.replace("$101$", "$9999999$");
    // As a mosquitto 2.0.11 was seen to read these.
    let passwords = format!(
        "# c\nnocolon\nann:{hash}\nbob:\ncy:plain\n dora :{hash}  \r\n:eve:{hash}\nfay::{hash}:more\n\
         gus:{other}\ngus:{hash}\n\"q\\:{hash}\nslow:{slow}\n"
    );
    let made = import("topic a\n", Some(&passwords), ImportOptions::default()).expect("lines");
    let rules = Acl::parse(&made.text, "made").unwrap_or_else(|errors| panic!("{errors}\n{}", made.text));
    assert_eq!(rules.size().users, 6, "{}", made.text);
    for name in ["ann", "dora", "eve", "fay", "gus", "\\\"q\\\\"] {
        assert!(made.text.contains(&format!("name = \"{name}\"\npassword = \"{hash}\"")), "{name}");
    }
    let told: Vec<_> = made.notes.iter().map(|note| (note.file, note.line, note.kind)).collect();
    use ImportNoteKind::{Changed, NoEffect};
    assert_eq!(
        told,
        [(4, NoEffect), (5, NoEffect), (10, NoEffect), (12, Changed)].map(|(line, kind)| (
            ImportFile::Passwords,
            line,
            kind
        ))
    );
    assert!(made.text.contains("\nanonymous = false\n") && rules.knows_users());
    // A file without one user lets nobody in, and not everybody.
    let made = import("", Some("# nobody\n"), ImportOptions::default()).expect("lines");
    assert!(Acl::parse(&made.text, "made").expect("rules").knows_users());
}

#[test]
fn a_large_file_is_compared_in_bounded_time() {
    let acl: String = (0..3000).map(|n| format!("user u{n}\ntopic read a/{n}/#\n")).collect();
    let made = imported(&acl);
    assert!(made.is_same() && made.proof.compared > 1000, "{:?}", made.proof);
}
