//! What conditions come to, written as the expressions that they are compiled to.

use std::time::Duration;

use mproxy_codec::types::{QoS, Version};

use super::*;

fn publish(topic: &str) -> ConditionSubject<'_> {
    let time = Some(WallTime::since_1970(Duration::from_secs(1_795_794_727)));
    let (qos, retain, payload) = (QoS::AtLeastOnce, true, 100);
    ConditionSubject::Message(Message { topic, qos, retain, payload, time })
}

fn subscribe(filter: &str) -> ConditionSubject<'_> {
    ConditionSubject::Filter(AskedFilter { filter, qos: Some(QoS::AtLeastOnce), time: None })
}

fn held(expression: BoolExpr, who: Who<'_>, subject: ConditionSubject<'_>) -> Result<bool, Unevaluable> {
    Condition::new(expression).unwrap().holds(who, subject)
}

fn text(text: &str) -> TextExpr {
    TextExpr::Const(text.into())
}

fn is(one: TextExpr, other: &str) -> BoolExpr {
    BoolExpr::Texts(Relation::Equal, Box::new((one, text(other))))
}

fn level(place: i64) -> TextExpr {
    TextExpr::Member(Box::new((TextList::Levels, IntExpr::Const(place))))
}

fn absent() -> BoolExpr {
    is(TextExpr::Attribute("claim.gone".into()), "x")
}

#[test]
fn and_and_or_are_decided_by_what_is_known_whichever_comes_first() {
    use BoolExpr::{All, Any, Const};
    for (expression, value) in [
        (All([absent(), Const(false)].into()), Ok(false)),
        (All([Const(false), absent()].into()), Ok(false)),
        (All([absent(), Const(true)].into()), Err(Unevaluable::Absent)),
        (All([Const(true), absent()].into()), Err(Unevaluable::Absent)),
        (Any([absent(), Const(true)].into()), Ok(true)),
        (Any([Const(true), absent()].into()), Ok(true)),
        (Any([Const(false), absent()].into()), Err(Unevaluable::Absent)),
    ] {
        assert_eq!(held(expression.clone(), Who::NOBODY, publish("a")), value, "{expression:?}");
    }
}

#[test]
fn without_a_value_an_allow_rule_does_not_apply_and_others_do() {
    let condition = Condition::new(absent()).unwrap();
    let applies = |effect| condition.applies(effect, Who::NOBODY, publish("a"));
    assert!(!applies(RuleEffect::Allow) && applies(RuleEffect::Deny) && applies(RuleEffect::Ask));
}

#[test]
fn a_claim_is_one_text_or_a_list() {
    let claims = [("claim.t", "acme"), ("claim.l", "a"), ("claim.l", "b"), ("claim.n", "7")];
    let claims = claims.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let who = Who { attributes: &claims, ..Who::NOBODY };
    let value = |expression| held(expression, who, publish("a"));
    let attribute = |name: &str| TextExpr::Attribute(name.into());
    let within =
        |own: &str, name: &str| BoolExpr::TextIn(Box::new((text(own), TextList::Attribute(name.into()))));
    let number = |name: &str| {
        let parsed = IntExpr::Parsed(attribute(name).into());
        BoolExpr::Ints(Relation::Greater, Box::new((parsed, IntExpr::Const(6))))
    };
    assert_eq!(value(is(attribute("claim.t"), "acme")), Ok(true));
    assert_eq!(value(is(attribute("claim.l"), "a")), Err(Unevaluable::Several));
    assert_eq!((value(within("b", "claim.l")), value(within("c", "claim.l"))), (Ok(true), Ok(false)));
    assert_eq!(value(within("acme", "claim.t")), Ok(true), "one value is a list of one");
    assert_eq!(value(within("b", "claim.gone")), Err(Unevaluable::Absent));
    assert_eq!((value(number("claim.n")), value(number("claim.t"))), (Ok(true), Err(Unevaluable::NoNumber)));
    let member =
        |place| TextExpr::Member(Box::new((TextList::Attribute("claim.l".into()), IntExpr::Const(place))));
    assert_eq!(value(is(member(1), "b")), Ok(true));
    for none in [2, -1, i64::MAX] {
        assert_eq!(value(is(member(none), "b")), Err(Unevaluable::NoMember), "{none}");
    }
}

#[test]
fn numbers_that_overflow_have_no_value() {
    let value = |operator, one, other| {
        let both = Box::new((IntExpr::Const(one), IntExpr::Const(other)));
        let number = IntExpr::Arithmetic(operator, both);
        held(
            BoolExpr::Ints(Relation::Equal, Box::new((number, IntExpr::Const(0)))),
            Who::NOBODY,
            publish("a"),
        )
    };
    assert_eq!(value(Arithmetic::Add, i64::MAX, 1), Err(Unevaluable::Overflow));
    assert_eq!(value(Arithmetic::Multiply, i64::MIN, -1), Err(Unevaluable::Overflow));
    for operator in [Arithmetic::Divide, Arithmetic::Remainder] {
        assert_eq!(value(operator, 1, 0), Err(Unevaluable::DividedByZero));
        assert_eq!(value(operator, i64::MIN, -1), Err(Unevaluable::Overflow));
    }
    assert_eq!(value(Arithmetic::Remainder, 6, 3), Ok(true));
}

#[test]
fn a_wildcard_has_no_value_and_what_stands_beside_it_has() {
    let value = |expression, filter| held(expression, Who::NOBODY, subscribe(filter));
    let wild = Err(Unevaluable::Wildcard);
    assert_eq!(value(is(TextExpr::Topic, "a/b"), "a/b"), Ok(true));
    assert_eq!(value(is(TextExpr::Topic, "a/b"), "$share/g/a/b"), Ok(true), "what is shared is judged");
    for filter in ["a/+", "a/#", "#", "+/b"] {
        assert_eq!(value(is(TextExpr::Topic, filter), filter), wild, "{filter}");
    }
    assert_eq!((value(is(level(0), "a"), "a/#"), value(is(level(1), "b"), "a/#")), (Ok(true), wild));
    assert_eq!((value(is(level(0), "+"), "+/b"), value(is(level(1), "b"), "+/b")), (wild, Ok(true)));
    let levels = |count| {
        let counted = IntExpr::Count(TextList::Levels.into());
        BoolExpr::Ints(Relation::Equal, Box::new((counted, IntExpr::Const(count))))
    };
    assert_eq!(
        (value(levels(2), "a/+"), value(levels(2), "a/#"), value(levels(1), "#")),
        (Ok(true), wild, wild)
    );
    let within = BoolExpr::TextIn(Box::new((text("a"), TextList::Levels)));
    assert_eq!((value(within.clone(), "a/b"), value(within, "a/+")), (Ok(true), wild));
    // Of a topic these are letters like others; MQTT has none of them in it.
    assert_eq!(held(is(TextExpr::Topic, "a/+"), Who::NOBODY, publish("a/+")), Ok(true));
}

#[test]
fn what_is_not_known_of_a_subscription_or_a_client_has_no_value() {
    let size = || {
        let both = (IntExpr::PayloadSize, IntExpr::Const(100));
        BoolExpr::Ints(Relation::LessOrEqual, Box::new(both))
    };
    let hour =
        || BoolExpr::Ints(Relation::Equal, Box::new((IntExpr::Time(TimeField::Hour), IntExpr::Const(15))));
    let all = [size(), BoolExpr::Retain, hour(), is(TextExpr::Weekday, "friday")];
    for expression in all {
        assert_eq!(held(expression.clone(), Who::NOBODY, publish("a")), Ok(true), "{expression:?}");
        for subject in [subscribe("a"), ConditionSubject::Client(None)] {
            assert_eq!(held(expression.clone(), Who::NOBODY, subject), Err(Unevaluable::NotKnown));
        }
    }
}

#[test]
fn a_client_is_known_by_where_it_comes_from() {
    let address = |text: &str| Some(text.parse().unwrap());
    let who = Who {
        client_id: "c",
        listener: Some("mqtts"),
        transport: Some("tls"),
        address: address("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"),
        version: Some(Version::V311),
        ..Who::NOBODY
    };
    for (value, expected) in [
        (TextExpr::ClientId, "c"),
        (TextExpr::Listener, "mqtts"),
        (TextExpr::Transport, "tls"),
        (TextExpr::Version, "3.1.1"),
        (TextExpr::Address, "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"),
    ] {
        assert_eq!(held(is(value, expected), who, publish("a")), Ok(true), "{expected}");
    }
    assert_eq!(held(is(TextExpr::Username, ""), who, publish("a")), Err(Unevaluable::Absent));
    assert_eq!(held(is(TextExpr::Address, ""), Who::NOBODY, publish("a")), Err(Unevaluable::Absent));
    let local = Who { address: address("127.0.0.1"), ..Who::NOBODY };
    assert_eq!(held(is(TextExpr::Address, "127.0.0.1"), local, publish("a")), Ok(true));
}

#[test]
fn what_is_too_large_or_too_deep_is_no_condition() {
    let many = |count| BoolExpr::Any(vec![BoolExpr::Retain; count].into());
    assert!(Condition::new(many(MOST_PARTS as usize - 1)).is_ok());
    assert_eq!(Condition::new(many(MOST_PARTS as usize)), Err(TooComplex::Parts));
    let deep = |count| (0..count).fold(BoolExpr::Retain, |one, _| BoolExpr::Not(one.into()));
    assert!(Condition::new(deep(MOST_DEEP - 1)).is_ok());
    assert_eq!(Condition::new(deep(MOST_DEEP)), Err(TooComplex::Deep));
}

#[test]
fn a_condition_says_what_it_reads() {
    let reads = |expression| Condition::new(expression).unwrap().reads();
    assert!(!reads(is(TextExpr::Topic, "a")).varies() && !reads(BoolExpr::Retain).varies());
    let size = BoolExpr::Ints(Relation::Less, Box::new((IntExpr::PayloadSize, IntExpr::Const(1))));
    assert!(reads(BoolExpr::Not(size.into())).varies());
    assert!(reads(is(TextExpr::Weekday, "monday")).varies());
    let attributes = BoolExpr::All([absent(), BoolExpr::Has(Presence::Attribute("group".into()))].into());
    assert_eq!(Condition::new(attributes).unwrap().attributes(), ["claim.gone", "group"]);
}
