//! Conditions in a rule file: of rules, of grants' rules, and of grants.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use allocation_counter::measure;
use common::{Chained, Client, client};
use mproxy_codec::property::Properties;
use mproxy_core::chain::Ruled;
use mproxy_core::policy::{
    Admission, Decider, Decision, Payload, PublishQuestion, Ruling, SubscribeQuestion,
};
use mproxy_core::rule::{Act, WallTime};
use mproxy_policy::acl::{
    Acl, AclAdviser, RuleTrial, TrialCase, TrialGround, TrialQuestion, UnknownUsers, parse_moment,
};
use mproxy_policy::grants::Grants;
use mproxy_sim::Verdict;

fn chain(text: &str) -> Chained {
    let acl = Acl::parse(text, "test.toml").unwrap_or_else(|errors| panic!("{errors}"));
    Chained::new(vec![Arc::new(AclAdviser::new(acl, UnknownUsers::Refuse)), Arc::new(Grants)])
}

fn with(mut somebody: Client, attributes: &[(&str, &str)]) -> Client {
    let attributes = attributes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Arc::make_mut(&mut somebody.peer).attributes = attributes.collect();
    somebody
}

fn publishes(chain: &Chained, question: &PublishQuestion<'_>) -> bool {
    match chain.0.publish(question) {
        Ruled::Now(Ruling { verdict: Ok(Decision::Allow(None)), .. }) => true,
        Ruled::Now(Ruling { verdict: Ok(Decision::Refuse(_)), .. }) => false,
        _ => panic!("rules answer at once"),
    }
}

const RULES: &str = r#"
[[rules]]
effect = "deny"
actions = ["publish"]
topics = ["up/#"]
when = 'size(payload) > 10 && claim.plan != "gold"'

[[rules]]
effect = "deny"
topics = ["night/#"]
when = '''
time.hour >= 22 ||
time.hour < 6
'''

[[rules]]
effect = "allow"
topics = ["up/#", "night/#"]
when = 'client.address.startsWith("192.0.2.") && client.listener == "mqtt"'
"#;

#[test]
fn a_rule_applies_where_its_condition_holds() {
    let chain = chain(RULES);
    let near = || client("c1", None).from(SocketAddr::from(([192, 0, 2, 7], 4000)));
    let (gold, free) = (with(near(), &[("claim.plan", "gold")]), with(near(), &[("claim.plan", "free")]));
    let far = with(client("c1", None), &[("claim.plan", "gold")]);
    let unknown = near();
    let hour = |hour: u64| Some(WallTime::since_1970(Duration::from_secs(hour * 3600)));
    let asks = |somebody: &Client, topic, payload, time| {
        publishes(
            &chain,
            &PublishQuestion { payload: Payload::Size(payload), time, ..somebody.publish(topic) },
        )
    };
    assert!(asks(&gold, "up/x", 11, hour(12)) && asks(&free, "up/x", 10, hour(12)));
    assert!(!asks(&free, "up/x", 11, hour(12)), "too large for its plan");
    assert!(!asks(&unknown, "up/x", 11, hour(12)), "whoever has no plan has none that is gold");
    assert!(asks(&unknown, "up/x", 10, hour(12)), "what is known decides");
    assert!(!asks(&far, "up/x", 1, hour(12)));
    for (time, allowed) in [(hour(6), true), (hour(22), false), (hour(5), false), (None, false)] {
        assert_eq!(asks(&gold, "night/x", 1, time), allowed, "{time:?}");
    }
}

#[test]
fn which_answers_vary_is_known_by_topic() {
    let acl = AclAdviser::new(Acl::parse(RULES, "test.toml").unwrap(), UnknownUsers::Refuse);
    let peer = client("c1", None).peer;
    let varies = |act, name| acl.varies(act, name, &peer);
    assert!(varies(Act::Publish, "up/x") && varies(Act::Publish, "night/x") && varies(Act::Subscribe, "+/x"));
    assert!(!varies(Act::Publish, "other") && !varies(Act::Subscribe, "up/x"));
    let plain = RULES.replace("size(payload) > 10", "topic == \"x\"").replace("time.hour", "qos");
    let plain = AclAdviser::new(Acl::parse(&plain, "test.toml").unwrap(), UnknownUsers::Refuse);
    assert!(!plain.varies(Act::Publish, "up/x", &peer));
}

#[test]
fn a_decision_by_conditions_allocates_nothing() {
    let chain = chain(RULES);
    let somebody = client("c1", None).from(SocketAddr::from(([192, 0, 2, 7], 4000)));
    let somebody = with(somebody, &[("claim.plan", "free"), ("claim.roles", "a"), ("claim.roles", "b")]);
    let time = Some(WallTime::since_1970(Duration::from_secs(43_200)));
    let small = PublishQuestion { payload: Payload::Size(3), time, ..somebody.publish("up/x") };
    let cost = measure(|| {
        for _ in 0..100 {
            assert!(matches!(chain.0.publish(&small), Ruled::Now(_)));
        }
    });
    assert_eq!(cost.count_total, 0);
}

#[tokio::test]
async fn a_condition_of_a_grant_s_rule_is_held_against_each_message() {
    let chain = chain(
        r#"
        anonymous = true
        [[grants]]
        default = "deny"
        [[grants.rules]]
        effect = "allow"
        actions = ["publish"]
        topics = ["a"]
        when = "size(payload) <= 4"
        "#,
    );
    let mut somebody = client("c1", None);
    let admitted = admission(somebody.connects(&chain).await);
    Arc::make_mut(&mut somebody.peer).grant = admitted.grant;
    let asks = |payload| {
        publishes(&chain, &PublishQuestion { payload: Payload::Size(payload), ..somebody.publish("a") })
    };
    assert!(asks(4) && !asks(5));
}

fn admission(ruling: Option<common::Ruling>) -> Admission {
    match ruling.unwrap().verdict {
        Verdict::Connect(Decision::Allow(admission)) => admission.map(|own| *own).unwrap_or_default(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn of_a_grant_whose_condition_has_no_value_only_what_it_takes_holds() {
    let text = |when: &str| {
        format!(
            r##"
            anonymous = true
            [[grants]]
            when = '{when}'
            publish = ["gold/#"]
            default = "allow"
            packet_size = 100
            [[grants.rules]]
            effect = "deny"
            topics = ["secret/#"]
            [[grants]]
            publish = ["#"]
            default = "deny"
            "##
        )
    };
    for (when, packet_size, gold, secret, else_) in [
        ("client.id == \"c1\"", Some(100), true, false, true),
        ("client.id == \"c2\"", None, true, true, true),
        ("client.username == \"ann\"", Some(100), true, false, true),
    ] {
        let chain = chain(&text(when));
        let mut somebody = client("c1", None);
        let grant = admission(somebody.connects(&chain).await).grant;
        assert_eq!(grant.as_ref().unwrap().limits.packet_size, packet_size, "{when}");
        Arc::make_mut(&mut somebody.peer).grant = grant;
        let asks = |topic| publishes(&chain, &somebody.publish(topic));
        assert_eq!([asks("gold/x"), asks("secret/x"), asks("x")], [gold, secret, else_], "{when}");
    }
    // A grant alone, so that what it allows is seen to be left out.
    let alone = |when: &str| {
        format!("anonymous = true\n[[grants]]\nwhen = '{when}'\npublish = [\"#\"]\ndefault = \"deny\"\n")
    };
    for (when, allowed) in [("client.id == \"c1\"", true), ("client.username == \"ann\"", false)] {
        let chain = chain(&alone(when));
        let mut somebody = client("c1", None);
        Arc::make_mut(&mut somebody.peer).grant = admission(somebody.connects(&chain).await).grant;
        assert_eq!(publishes(&chain, &somebody.publish("x")), allowed, "{when}");
    }
    let prefixed = alone("client.username == \"ann\"") + "prefix = \"t/\"\n";
    let refused = client("c1", None).connects(&chain(&prefixed)).await.unwrap().verdict;
    assert!(matches!(refused, Verdict::Connect(Decision::Refuse(_))), "{refused:?}");
}

#[test]
fn a_filter_is_allowed_only_if_the_condition_holds_for_all_its_topics() {
    let chain = chain(
        r##"
        [[rules]]
        effect = "deny"
        topics = ["#"]
        when = 'topic.contains("secret")'
        [[rules]]
        effect = "allow"
        topics = ["#"]
        when = 'levels[0] == "open"'
        "##,
    );
    let somebody = client("c1", None);
    let asks = |filter: &str| {
        let filters = [common::request(filter)];
        let question = SubscribeQuestion::new(&somebody.peer, &filters, Properties::EMPTY);
        let Ruled::Now(ruling) = chain.0.subscribe(&question) else { panic!("rules answer at once") };
        matches!(&ruling.verdict, Ok(decision) if format!("{decision:?}").contains("Allow"))
    };
    assert!(asks("open/a"));
    assert!(!asks("open/secret") && !asks("other"));
    assert!(!asks("open/#"), "it may be secret: the rule that denies applies");
}

#[test]
fn what_is_wrong_is_told_with_line_key_and_column() {
    let text = r#"
[[rules]]
effect = "deny"
topics = ["a"]
when = 'clinet.id == "x"'
[[rules]]
effect = "allow"
topics = ["a"]
when = '''
qos == 0 &&
  topic == 5'''
[[rules]]
effect = "allow"
topics = ["a"]
when = "size(payload) < 5"
[[grants]]
when = "qos == 0"
[[grants.rules]]
effect = "ask"
topics = ["a"]
whn = "true"
"#;
    let errors = Acl::parse(text, "r.toml").unwrap_err().to_string();
    let lines: Vec<_> = errors.lines().collect();
    assert_eq!(
        lines,
        [
            "r.toml:5: rules[0].when: column 1 of the condition: clinet.id is unknown; the nearest known name is \
             client.id",
            "r.toml:11: rules[1].when: column 9 of the condition: this is a text, where a number is needed; int() makes \
             one of it",
            "r.toml:15: rules[2].when: column 1 of the condition: a subscription has no payload; name the rule's actions, \
             without subscribe",
            "r.toml:17: grants[0].when: column 1 of the condition: qos cannot be read here, as a grant is chosen when its \
             client connects; write it in grants.rules",
            "r.toml:21: grants[0].rules[0].whn: unknown key; the nearest known one is grants[0].rules[0].when",
        ]
    );
}

#[tokio::test]
async fn a_trial_says_of_what_size_when_and_from_where() {
    let rules = RULES.replacen('\n', "\nanonymous = true\n", 1);
    let trial = RuleTrial::new(Acl::parse(&rules, "r.toml").unwrap());
    let cases = r#"
[clients.near]
address = "192.0.2.9"
listener = "mqtt"
transport = "tls"
version = "3.1.1"
[[cases]]
client = "near"
publish = "up/x"
payload = 10
expect = "allow"
line = 17
[[cases]]
client = "near"
publish = "up/x"
payload = 11
expect = "deny"
line = 3
[[cases]]
client = "near"
publish = "night/x"
time = 2026-11-27T23:30:00+02:00
expect = "allow"
line = 17
[[cases]]
client = "near"
publish = "night/x"
time = 2026-11-27T22:00:00Z
expect = "deny"
line = 9
[[cases]]
client = {}
publish = "up/x"
expect = "deny"
"#;
    for case in TrialCase::parse(cases, "c.toml").unwrap_or_else(|errors| panic!("{errors}")) {
        let outcome = trial.try_out(&case.client, &case.question).await.unwrap();
        assert_eq!(outcome.verdict.is_ok(), case.allowed, "line {}: {outcome:?}", case.line);
        assert!(case.rule_line.is_none_or(|line| outcome.by == TrialGround::Rule(line)), "{outcome:?}");
    }
    for wrong in ["time = 22:00:00", "time = 2026-11-27", "payload = -1", "client = { address = \"x\" }"] {
        let text = format!("[[cases]]\nclient = {{}}\npublish = \"x\"\nexpect = \"deny\"\n{wrong}\n");
        let text = if wrong.starts_with("client") { text.replacen("client = {}\n", "", 1) } else { text };
        assert!(TrialCase::parse(&text, "c.toml").is_err(), "{wrong}");
    }
}

#[test]
fn a_moment_is_read_as_toml_writes_it() {
    let seconds =
        |text: &str| parse_moment(text).map(|moment| (moment.hour(), moment.minute(), moment.weekday()));
    assert_eq!(seconds("2026-11-27T15:52:07Z"), Some((15, 52, "friday")));
    assert_eq!(seconds("2026-11-28T01:30:00+02:00"), Some((23, 30, "friday")));
    assert_eq!(seconds("2024-02-29T00:00:00"), Some((0, 0, "thursday")));
    assert_eq!(seconds("2000-03-01 12:00:00Z"), Some((12, 0, "wednesday")));
    for none in ["", "22:00:00", "2026-11-27", "1969-12-31T23:59:59Z"] {
        assert_eq!(seconds(none), None, "{none}");
    }
    assert_eq!(TrialQuestion::plain(Act::Publish, "a").time, None);
}
