//! What a condition means, and what is wrong with those that are none.

use std::time::Duration;

use mproxy_codec::types::{QoS, Version};
use mproxy_core::rule::condition::{ConditionSubject, Unevaluable};
use mproxy_core::rule::{AskedFilter, Message, WallTime, Who};

use super::*;

mod oracle;

/// A condition of a rule about messages.
fn condition(text: &str) -> Condition {
    let of_messages = Actions::NONE.with(Act::Publish).with(Act::Receive).with(Act::Will);
    compile(text, ConditionPlace::Rule(of_messages)).unwrap_or_else(|error| panic!("{text}: {error:?}"))
}

fn held(text: &str) -> Result<bool, Unevaluable> {
    let claims =
        [("claim.tenant", "acme"), ("claim.roles", "dev"), ("claim.roles", "ops"), ("claim.level", "7")];
    let claims = claims.into_iter().chain([("claim.admin", "true"), ("claim.a.b", "x"), ("group", "g1")]);
    let attributes: Vec<_> = claims.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let who = Who {
        client_id: "c-1",
        username: Some("änn"),
        listener: Some("mqtts"),
        transport: Some("tls"),
        address: Some("192.0.2.7".parse().expect("an address")),
        version: Some(Version::V5),
        attributes: &attributes,
        ..Who::NOBODY
    };
    // 2026-11-27 15:52:07, a Friday.
    let time = Some(WallTime::since_1970(Duration::from_secs(1_795_794_727)));
    let (qos, retain, payload) = (QoS::AtLeastOnce, false, 1024);
    let message = Message { topic: "up/acme/c-1", qos, retain, payload, time };
    condition(text).holds(who, ConditionSubject::Message(message))
}

#[test]
fn each_value_is_what_the_page_says() {
    for text in [
        "client.id == 'c-1' && client.username == 'änn' && client.listener == 'mqtts'",
        "client.transport == \"tls\" && client.address == '192.0.2.7' && client.version == '5.0'",
        "client.attributes['group'] == 'g1' && client.attributes.group == 'g1'",
        "claim.tenant == 'acme' && claim['tenant'] == 'acme' && claim.a.b == 'x'",
        "claim.level > 6 && claim.level + 1 == 8 && claim.admin && 'ops' in claim.roles",
        "size(claim.roles[0]) == 3 && claim.roles == ['dev', 'ops'] && claim.roles[1] == 'ops' && 7 in claim.level",
        "topic == 'up/acme/c-1' && levels[1] == claim.tenant && levels[2] == client.id && size(levels) == 3",
        "levels == ['up', 'acme', 'c-1'] && 'acme' in levels && !('x' in levels)",
        "qos == 1 && !retain && size(payload) == 1024 && payload.size() <= 1024u",
        "time.hour == 15 && time.minute == 52 && time.second == 7 && time.weekday == 'friday'",
        "time.hour * 60 + time.minute >= 510 && !(time.weekday in ['saturday', 'sunday'])",
        "has(claim.tenant) && !has(claim.gone) && has(client.username) && has(client.attributes.group)",
        "'tenant' in claim && !('gone' in claim) && 'group' in client.attributes",
        "topic.startsWith('up/') && topic.endsWith('-1') && topic.contains('/acme/')",
        "size(client.username) == 3 && client.username.size() == 3",
        "(qos == 0 ? 10 : 20) == 20 && (retain ? claim.gone : claim.tenant) == 'acme'",
        "int('7') == 7 && int(levels[2].size()) == 3 && bool(claim.admin) && -qos == -1 && 7 % 4 == 3",
        "client.id in ['c-1', 'c-2'] && qos in [1, 2] && 'b' > 'a' && r'a\\b' == 'a\\\\b'",
        "true != false && !(levels != ['up', 'acme', 'c-1']) && !(1 in [])",
    ] {
        assert_eq!(held(text), Ok(true), "{text}");
    }
}

#[test]
fn what_can_only_be_seen_of_a_message_has_no_value() {
    for (text, why) in [
        ("claim.gone == 'x'", Unevaluable::Absent),
        ("claim.roles == 'dev'", Unevaluable::Several),
        ("claim.tenant > 5", Unevaluable::NoNumber),
        ("claim.tenant", Unevaluable::NoFlag),
        ("int(topic) == 1", Unevaluable::NoNumber),
        ("levels[3] == 'x'", Unevaluable::NoMember),
        ("levels[0 - 1] == 'x'", Unevaluable::NoMember),
        ("size(payload) / (qos - 1) > 1", Unevaluable::DividedByZero),
        ("size(payload) * 9223372036854775807 > 1", Unevaluable::Overflow),
        ("'x' in claim.gone", Unevaluable::Absent),
        ("client.id in ['c-1', claim.gone]", Unevaluable::Absent),
    ] {
        assert_eq!(held(text), Err(why), "{text}");
    }
    assert_eq!(held("qos == 0 && claim.gone == 'x'"), Ok(false));
    assert_eq!(held("claim.gone == 'x' && qos == 0"), Ok(false));
    assert_eq!(held("claim.gone == 'x' || qos == 1"), Ok(true));
}

fn wrong(text: &str, place: ConditionPlace) -> (usize, String) {
    match compile(text, place) {
        Ok(condition) => panic!("{text} is {condition:?}"),
        Err(ConditionError { at, what }) => (at, what),
    }
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let mut odd = Vec::new();
    for (text, at, words) in [
        ("clinet.id == 'x'", 0, "the nearest known name is client.id"),
        ("'ä' == topic && qos == 0 && client.adress == 'x'", 29, "the nearest known name is client.address"),
        ("qos == 0 && client == 'x'", 12, "client is no value by itself; there are client.id, "),
        ("time == 5", 0, "there are time.hour"),
        ("payload == 'x'", 0, "size(payload) is known"),
        ("user == 'x'", 0, "user is unknown; there are client.id"),
        ("claim == 'x'", 0, "a name has to follow it"),
        ("topic.startWith('x')", 6, "the nearest known one is startsWith()"),
        ("topic.matches('x')", 6, "regular expressions"),
        ("levels.all(l, l == 'x')", 7, "at a cost that nothing bounds"),
        ("levels.exists(l, l == 'x')", 7, "at a cost that nothing bounds"),
        ("levels.map(l, l) == []", 7, "at a cost that nothing bounds"),
        ("levels.filter(l, true) == []", 7, "at a cost that nothing bounds"),
        ("upper(topic) == 'x'", 0, "there is no function upper()"),
        ("topic == 5", 6, "a text, where a number is needed; int() makes one of it"),
        ("qos && true", 0, "a number, where true or false is needed"),
        ("topic", 0, "a text, where true or false is needed; bool()"),
        ("claim.a < claim.b", 8, "write int() around one"),
        ("size(claim.a) < 5", 0, "size(claim.name[0])"),
        ("topic + 'x' == 'y'", 6, "texts are not joined"),
        ("qos == 1.5", 7, "numbers are whole"),
        ("topic == null", 9, "has() says"),
        ("topic == b'x'", 9, "without b"),
        ("{'a': 1} == {}", 0, "can be written here"),
        ("qos + 5u == 6", 6, "write 5 in place of 5u"),
        ("client.transport == 'tsl'", 17, "one of tcp, tls, ws, wss, unix"),
        ("time.weekday in ['Monday']", 13, "one of thursday"),
        ("has(topic)", 4, "takes a name with a dot"),
        ("claim[topic] == 'x'", 0, "a name has to follow it"),
        ("qos ==", 6, "not an expression"),
        ("qos == 0 &&& retain", 11, "not an expression"),
        ("", 0, "not an expression"),
    ] {
        let (found, what) = wrong(text, ConditionPlace::Rule(Actions::NONE.with(Act::Publish)));
        if found != at || !what.contains(words) {
            odd.push(format!("{text}: at {found}: {what}"));
        }
    }
    assert!(odd.is_empty(), "{odd:#?}");
}

#[test]
fn what_is_not_known_where_it_stands_is_wrong_there() {
    for (text, name) in [("size(payload) < 5", "payload"), ("retain", "retain")] {
        for actions in [Actions::ALL, Actions::NONE.with(Act::Subscribe)] {
            let (_, what) = wrong(text, ConditionPlace::Rule(actions));
            assert!(what.starts_with(&format!("a subscription has no {name}")), "{what}");
        }
    }
    assert!(compile("qos == 0 && topic == 'x' && time.hour > 6", ConditionPlace::Rule(Actions::ALL)).is_ok());
    for text in ["size(payload) < 5", "retain", "qos == 0", "topic == 'x'", "levels[0] == 'x'"] {
        let (_, what) = wrong(text, ConditionPlace::Grant);
        assert!(what.contains("cannot be read here"), "{text}: {what}");
    }
    assert!(compile("claim.tenant == 'x' && time.hour > 6", ConditionPlace::Grant).is_ok());
}

#[test]
fn a_condition_is_bounded_before_it_is_parsed() {
    let place = ConditionPlace::Rule(Actions::NONE.with(Act::Publish));
    let long = format!("topic == '{}'", "x".repeat(LONGEST));
    assert!(wrong(&long, place).1.contains("longer than 2048 bytes"));
    let nested = |depth: usize| format!("{}retain{}", "(".repeat(depth), ")".repeat(depth));
    assert!(compile(&nested(NESTED), place).is_ok());
    assert!(wrong(&nested(NESTED + 1), place).1.contains("more than 12 deep"));
    assert!(wrong(&nested(500), place).1.contains("more than 12 deep"));
    // Deep without a bracket: each of these recurses in the parser, or makes a deep tree.
    for text in [
        "retain ? true : ".repeat(100) + "false",
        "!".repeat(1000) + "retain",
        "1 + ".repeat(400) + "1 == 1",
        "- ".repeat(900) + "qos == 1",
        "claim".to_owned() + &".a".repeat(900) + " == '' || " + &"topic.".repeat(50) + "size() == 1",
        "qos".to_owned() + &" == 1".repeat(300),
    ] {
        _ = compile(&text, place);
    }
    let many = vec!["true"; 300].join("&&");
    assert!(wrong(&many, place).1.contains("more than 256 parts"));
    // Brackets within quotes do not hide others.
    let hidden = format!("'))))))))))))' == topic || {}", nested(13));
    assert!(wrong(&hidden, place).1.contains("more than 12 deep"));
}

/// Whatever can be said of a filter holds for each topic that it matches.
#[test]
fn what_holds_for_a_filter_holds_for_its_topics() {
    let levels = ["a", "b", "c", "", "$x"];
    for text in [
        "levels[0] == 'a'",
        "levels[1] != 'b'",
        "!(levels[0] == 'b') && qos == 1",
        "topic == 'a/b'",
        "topic.startsWith('a/')",
        "size(levels) == 2",
        "size(topic) > 3",
        "'c' in levels",
        "levels == ['a', 'b']",
        "qos == 1 || topic.contains('c')",
        "levels[0] == 'a' ? levels[1] == 'b' : qos == 2",
        "levels[size(levels) - 1] == 'c'",
    ] {
        let condition = condition(text);
        let (qos, time) = (QoS::AtLeastOnce, None);
        for filter in ["a/b", "a/+", "a/#", "+/b", "+/+", "#", "a/+/c", "a", "b/#", "a/b/#", "+"] {
            let asked = AskedFilter { filter, qos: Some(qos), time };
            let Ok(said) = condition.holds(Who::NOBODY, ConditionSubject::Filter(asked)) else { continue };
            let mut topics: Vec<String> = levels.map(str::to_owned).into();
            for _ in 0..3 {
                let longer = topics.iter().flat_map(|topic| levels.map(|level| format!("{topic}/{level}")));
                topics.extend(longer.collect::<Vec<_>>());
            }
            for topic in topics.iter().filter(|topic| mproxy_codec::topic::matches(filter, topic)) {
                let message = Message { topic, qos, retain: false, payload: 0, time };
                let of_topic = condition.holds(Who::NOBODY, ConditionSubject::Message(message));
                assert_eq!(of_topic, Ok(said), "{text}: {filter} and {topic}");
            }
        }
    }
}
