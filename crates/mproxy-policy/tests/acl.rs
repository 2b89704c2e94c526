//! The rule file as an adviser, seen from the session: who may connect, and what they may do.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod common;

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use common::{Client, client};
use mproxy_codec::reason::ReasonCode;
use mproxy_codec::topic::matches;
use mproxy_codec::types::QoS;
use mproxy_core::chain::{allowed, refused};
use mproxy_core::policy::{
    Answer, Decider, Decision, Failure, FailureKind, FilterChange, Hook, Question, Refusal, Ruling, Silence,
    Source, Verdict, Want,
};
use mproxy_policy::acl::{Acl, AclAdviser, hash_password};
use proptest::prelude::*;

fn acl(text: &str) -> Acl {
    Acl::parse(text, "test.toml").unwrap_or_else(|errors| panic!("{errors}"))
}

/// `sesame`, hashed at the lowest cost there is.
fn sesame() -> String {
    let salt = argon2::password_hash::SaltString::from_b64("c29tZXNhbHQ").unwrap();
    let cheap = argon2::Params::new(8, 1, 1, None).unwrap();
    let argon = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, cheap);
    argon2::PasswordHasher::hash_password(&argon, b"sesame", &salt).unwrap().to_string()
}

fn with_ann(rest: &str) -> Acl {
    acl(&format!("{rest}\n[[users]]\nname = \"ann\"\npassword = \"{}\"\n", sesame()))
}

fn reason(ruling: Option<Ruling>) -> Option<u8> {
    match ruling.expect("it passed").verdict {
        Verdict::Connect(Decision::Allow(_)) | Verdict::Publish(Decision::Allow(_)) => None,
        Verdict::SubscribeAll(Decision::Allow(())) => None,
        Verdict::Connect(Decision::Refuse(refusal))
        | Verdict::Publish(Decision::Refuse(refusal))
        | Verdict::SubscribeAll(Decision::Refuse(refusal)) => Some(refusal.reason.0),
        other => panic!("{other:?}"),
    }
}

/// Somebody after the rule file, who says this to everything.
struct Next(fn(Hook) -> Option<Verdict>);

impl Next {
    fn allows() -> Arc<Self> {
        Arc::new(Self(|hook| Some(allowed(hook))))
    }

    fn fails() -> Arc<Self> {
        Arc::new(Self(|_| Some(Verdict::Failed(Failure::new(FailureKind::Deadline, "late")))))
    }

    fn passes() -> Arc<Self> {
        Arc::new(Self(|_| None))
    }
}

impl Decider for Next {
    fn decide(&self, question: &Question<'_>) -> Answer {
        match self.0(question.hook()) {
            Some(verdict) => {
                let ruling = Ruling { source: Source::Rpc, verdict };
                Answer::Later(Box::pin(async move { ruling }))
            }
            None => Answer::Pass,
        }
    }

    fn want(&self, _: Hook) -> Want {
        Want::Head
    }

    fn silence(&self) -> Silence {
        Silence::Abstains
    }
}

fn ann() -> Client {
    client("c1", Some("ann")).password("sesame")
}

#[tokio::test]
async fn a_user_with_the_right_password_comes_in() {
    let adviser = AclAdviser::alone(with_ann(""));
    assert_eq!(reason(ann().connects(&adviser).await), None);
}

#[tokio::test]
async fn wrong_password_no_password_and_unknown_user_look_the_same() {
    let adviser = AclAdviser::alone(with_ann(""));
    for stranger in [
        client("c1", Some("ann")).password("Sesame"),
        client("c1", Some("ann")),
        client("c1", Some("bob")).password("sesame"),
        client("c1", Some("")).password("sesame"),
    ] {
        assert_eq!(reason(stranger.connects(&adviser).await), Some(0x86));
    }
}

#[tokio::test]
async fn a_user_the_file_does_not_know_is_for_the_next() {
    let adviser = AclAdviser::before(with_ann(""), Next::allows());
    assert_eq!(client("c1", Some("bob")).password("x").connects(&adviser).await, None);
    assert_eq!(client("c1", None).connects(&adviser).await, None);
    assert_eq!(reason(client("c1", Some("ann")).password("x").connects(&adviser).await), Some(0x86));
}

#[tokio::test]
async fn nobody_without_a_name_comes_in_unless_the_file_says_so() {
    let nameless = client("c1", None);
    assert_eq!(reason(nameless.connects(&AclAdviser::alone(with_ann(""))).await), Some(0x87));
    assert_eq!(reason(nameless.connects(&AclAdviser::alone(acl("anonymous = false"))).await), Some(0x87));
    assert_eq!(reason(nameless.connects(&AclAdviser::alone(with_ann("anonymous = true"))).await), None);
}

#[tokio::test]
async fn a_client_id_is_bound_to_certificate_or_user_name() {
    let file = "client_ids = [\"${cn}\", \"${username}-*\"]\nanonymous = true";
    for next in [None, Some(Next::allows())] {
        let adviser = || match &next {
            None => AclAdviser::alone(acl(file)),
            Some(next) => AclAdviser::before(acl(file), next.clone()),
        };
        for (somebody, refused) in [
            (client("lamp", None).certified("lamp"), None),
            (client("ann-1", Some("ann")).certified("lamp"), None),
            (client("bob-1", Some("ann")).certified("lamp"), Some(0x85)),
            (client("lamp", None).certified("oven"), Some(0x85)),
            (client("lamp", None), Some(0x85)),
            // Whoever takes the name that it is given is bound to none.
            (client("", None).certified("lamp"), Some(0x85)),
        ] {
            let ruling = somebody.connects(&adviser()).await;
            match refused {
                Some(code) => assert_eq!(reason(ruling), Some(code)),
                // Who the user is stays another question.
                None => assert_ne!(ruling.map(|ruling| reason(Some(ruling))), Some(Some(0x85))),
            }
        }
    }
}

#[tokio::test]
async fn a_file_of_rules_alone_does_not_judge_who_somebody_is() {
    let rules = "[[rules]]\neffect = \"allow\"\ntopics = [\"a\"]";
    for somebody in [client("c1", None), client("c1", Some("bob"))] {
        assert_eq!(reason(somebody.connects(&AclAdviser::alone(acl(rules))).await), None);
        assert_eq!(somebody.connects(&AclAdviser::before(acl(rules), Next::allows())).await, None);
    }
}

#[tokio::test]
async fn a_will_is_judged_like_a_publish() {
    let rules = r##"
        anonymous = true
        [[rules]]
        effect = "deny"
        actions = ["will"]
        topics = ["secret/#"]
        [[rules]]
        effect = "allow"
        topics = ["#"]
        max_qos = 1
        retain = false
    "##;
    let adviser = AclAdviser::alone(acl(rules));
    for (topic, qos, retain, code) in [
        ("gone", QoS::AtLeastOnce, false, None),
        ("gone", QoS::ExactlyOnce, false, Some(0x9B)),
        ("gone", QoS::AtMostOnce, true, Some(0x9A)),
        ("secret/x", QoS::AtMostOnce, false, Some(0x87)),
        ("$SYS/x", QoS::AtMostOnce, false, Some(0x87)),
    ] {
        let ruling = client("c1", None).will(topic, qos, retain).connects(&adviser).await;
        assert_eq!(reason(ruling), code, "{topic}");
    }
}

#[tokio::test]
async fn a_will_that_no_rule_speaks_of_is_for_the_next() {
    let ann = ann().will("gone", QoS::AtMostOnce, false);
    let ruling = ann.connects(&AclAdviser::before(with_ann(""), Next::allows())).await;
    assert_eq!(ruling.as_ref().unwrap().source, Source::Rpc);
    assert_eq!(reason(ruling), None);
    assert_eq!(reason(ann.connects(&AclAdviser::before(with_ann(""), Next::passes())).await), Some(0x87));
    assert_eq!(reason(ann.connects(&AclAdviser::alone(with_ann(""))).await), Some(0x87));

    let liar = client("c1", Some("ann")).password("x").will("gone", QoS::AtMostOnce, false);
    let ruling = liar.connects(&AclAdviser::before(with_ann(""), Next::allows())).await;
    assert_eq!(reason(ruling), Some(0x86), "the password comes first");
}

#[tokio::test]
async fn a_refused_will_is_refused_whoever_the_next_would_admit() {
    let rules = "[[rules]]\neffect = \"deny\"\ntopics = [\"secret\"]";
    let stranger = client("c1", Some("bob")).will("secret", QoS::AtMostOnce, false);
    for acl in [acl(rules), with_ann(rules)] {
        let adviser = AclAdviser::before(acl, Next::allows());
        assert_eq!(reason(stranger.connects(&adviser).await), Some(0x87));
    }
}

#[tokio::test]
async fn a_refresh_needs_no_password_but_the_user_must_still_be_there() {
    let adviser = AclAdviser::alone(with_ann(""));
    let session = client("c1", Some("ann"));
    assert_eq!(reason(session.refreshes(&adviser).await), None);
    adviser.replace(acl("anonymous = false"));
    assert_eq!(reason(session.refreshes(&adviser).await), Some(0x86));
}

#[tokio::test]
async fn who_waits_in_vain_for_a_turn_is_refused_as_overloaded() {
    let hash = hash_password("sesame").unwrap();
    let acl = acl(&format!("[[users]]\nname = \"ann\"\npassword = \"{hash}\""));
    let adviser = AclAdviser::alone(acl).verifying(1, Duration::ZERO);
    let ruling = ann().connects(&adviser).await.unwrap();
    let Verdict::Overloaded(overload) = ruling.verdict else { panic!("{ruling:?}") };
    assert_eq!(overload.limit, "passwords");
}

#[tokio::test]
async fn the_first_rule_that_matches_decides() {
    let adviser = AclAdviser::alone(acl(r##"
        [[rules]]
        effect = "allow"
        users = ["ann"]
        topics = ["secret/${clientid}"]
        [[rules]]
        effect = "deny"
        topics = ["secret/#"]
        [[rules]]
        effect = "allow"
        actions = ["publish"]
        client_ids = ["c1", "c2"]
        topics = ["#"]
        "##));
    assert_eq!(reason(ann().publishes(&adviser, "secret/c1").await), None);
    assert_eq!(reason(ann().publishes(&adviser, "secret/c2").await), Some(0x87));
    assert_eq!(reason(client("c1", Some("bob")).publishes(&adviser, "secret/c1").await), Some(0x87));
    assert_eq!(reason(client("c1", None).publishes(&adviser, "secret/c1").await), Some(0x87));
    assert_eq!(reason(client("c2", None).publishes(&adviser, "x").await), None);
    assert_eq!(client("c3", None).publishes(&adviser, "x").await, None, "silence");
    assert_eq!(client("c2", None).publishes(&adviser, "$SYS/x").await, None, "not named");
}

#[tokio::test]
async fn a_publish_above_the_rules_qos_or_retained_is_refused() {
    let limited = "[[rules]]\neffect = \"allow\"\ntopics = [\"#\"]\nmax_qos = 0\nretain = false";
    let adviser = AclAdviser::alone(acl(limited));
    let c1 = client("c1", None);
    let ask = |qos, retain| {
        let question = mproxy_core::policy::PublishQuestion { qos, retain, ..c1.publish("x") };
        let Answer::Now(ruling) = adviser.decide(&Question::Publish(question)) else { panic!("not at once") };
        reason(Some(ruling))
    };
    assert_eq!(ask(QoS::AtMostOnce, false), None);
    assert_eq!(ask(QoS::AtLeastOnce, false), Some(ReasonCode::QOS_NOT_SUPPORTED.0));
    assert_eq!(ask(QoS::AtMostOnce, true), Some(ReasonCode::RETAIN_NOT_SUPPORTED.0));
}

const MIXED: &str = r#"
    [[rules]]
    effect = "deny"
    topics = ["secret/#"]
    [[rules]]
    effect = "allow"
    topics = ["open/#"]
    max_qos = 1
"#;

fn granted(max_qos: Option<QoS>) -> Decision<FilterChange> {
    Decision::Allow(FilterChange { filter: None, max_qos })
}

fn no(reason: ReasonCode) -> Decision<FilterChange> {
    Decision::Refuse(Refusal::new(reason))
}

#[tokio::test]
async fn each_filter_has_its_verdict() {
    let adviser = AclAdviser::alone(acl(MIXED));
    let ruling = client("c1", None)
        .subscribes(&adviser, &["open/a", "secret/a", "#", "$share/g/open/+", "$share/g/secret", "other"])
        .await
        .unwrap();
    let (low, not) = (granted(Some(QoS::AtLeastOnce)), no(ReasonCode::NOT_AUTHORIZED));
    let expected = vec![low.clone(), not.clone(), not.clone(), low, not.clone(), not];
    assert_eq!(ruling, Ruling { source: Source::Acl, verdict: Verdict::Subscribe(expected) });
}

#[tokio::test]
async fn the_next_is_asked_for_the_filters_that_no_rule_speaks_of() {
    let adviser = AclAdviser::before(acl(MIXED), Next::allows());
    let c1 = client("c1", None);
    assert_eq!(c1.subscribes(&adviser, &["other", "more"]).await, None, "all of them: passed");
    let ruling = c1.subscribes(&adviser, &["other", "secret/a", "open/a"]).await.unwrap();
    let (low, not) = (granted(Some(QoS::AtLeastOnce)), no(ReasonCode::NOT_AUTHORIZED));
    let expected = vec![granted(None), not.clone(), low.clone()];
    assert_eq!(ruling, Ruling { source: Source::Rpc, verdict: Verdict::Subscribe(expected) });

    let adviser = AclAdviser::before(acl(MIXED), Next::passes());
    let ruling = c1.subscribes(&adviser, &["other", "open/a"]).await.unwrap();
    assert_eq!(ruling.verdict, Verdict::Subscribe(vec![not.clone(), low]));
}

#[tokio::test]
async fn a_failed_rest_never_lifts_what_the_file_refused() {
    let adviser = AclAdviser::before(acl(MIXED), Next::fails());
    let ruling = client("c1", None).subscribes(&adviser, &["other", "secret/a"]).await.unwrap();
    let expected = vec![no(ReasonCode::SERVER_UNAVAILABLE), no(ReasonCode::NOT_AUTHORIZED)];
    assert_eq!(ruling.verdict, Verdict::Subscribe(expected));
}

#[tokio::test]
async fn deliveries_are_asked_about_only_where_a_rule_names_them() {
    let c1 = client("c1", None);
    let silent = AclAdviser::alone(acl(MIXED));
    assert_eq!(silent.want(Hook::Deliver), Want::Nothing);
    assert_eq!(reason(c1.receives(&silent, "secret/x").await), None);
    let refuses = Arc::new(Next(|hook| Some(refused(hook, Refusal::default()))));
    let before = AclAdviser::before(acl(MIXED), refuses);
    assert_eq!(reason(c1.receives(&before, "open/x").await), Some(0x87), "the next wanted to be asked");

    let named = format!("{MIXED}\n[[rules]]\neffect = \"allow\"\nactions = [\"receive\"]\ntopics = [\"x\"]");
    let adviser = AclAdviser::alone(acl(&named));
    assert_eq!(adviser.want(Hook::Deliver), Want::Head);
    assert_eq!(reason(c1.receives(&adviser, "secret/x").await), Some(0x87));
    assert_eq!(reason(c1.receives(&adviser, "open/x").await), None);
    assert_eq!(reason(c1.receives(&adviser, "x").await), None);
    assert_eq!(c1.receives(&adviser, "y").await, None);
}

#[tokio::test]
async fn a_reload_takes_a_good_file_and_keeps_the_old_rules_under_a_bad_one() {
    let path = std::env::temp_dir().join(format!("mproxy-acl-{}.toml", std::process::id()));
    fs::write(&path, "[[rules]]\neffect = \"allow\"\ntopics = [\"a\"]").unwrap();
    let adviser = AclAdviser::alone(Acl::load(&path).unwrap());
    let c1 = client("c1", None);
    assert_eq!(reason(c1.publishes(&adviser, "a").await), None);

    fs::write(&path, "[[rules]]\neffect = \"perhaps\"").unwrap();
    let errors = adviser.reload().unwrap_err();
    assert_eq!(errors.faults().len(), 2, "{errors}");
    assert_eq!(reason(c1.publishes(&adviser, "a").await), None);

    fs::write(&path, "[[rules]]\neffect = \"deny\"\ntopics = [\"a\"]").unwrap();
    adviser.reload().unwrap();
    assert_eq!(reason(c1.publishes(&adviser, "a").await), Some(0x87));
    fs::remove_file(&path).unwrap();
    assert!(adviser.reload().unwrap_err().to_string().contains("cannot be read"));
}

#[test]
fn all_faults_are_told_at_once_with_line_and_key() {
    let text = r#"anonymos = true
[[users]]
name = "ann"
password = "sesame"
[[users]]
name = "ann"
pasword = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$OMSwe"
[[rules]]
effect = "alow"
topics = ["a/#/b", "${who}/x", "$share/g/a", "fine"]
[[rules]]
effect = "deny"
actions = ["publish", "fly"]
max_qos = 3
retain = false
users = []
topics = "a"
"#;
    let errors = Acl::parse(text, "rules.toml").unwrap_err();
    let told: Vec<_> = errors.faults().iter().map(|fault| (fault.line, fault.key.as_str())).collect();
    let expected = [
        (1, "anonymos"),
        (4, "users[0].password"),
        (5, "users[1].password"),
        (7, "users[1].pasword"),
        (9, "rules[0].effect"),
        (10, "rules[0].topics[0]"),
        (10, "rules[0].topics[1]"),
        (10, "rules[0].topics[2]"),
        (13, "rules[1].actions[1]"),
        (14, "rules[1].max_qos"),
        (15, "rules[1].retain"),
        (16, "rules[1].users"),
        (17, "rules[1].topics"),
    ];
    assert_eq!(told, expected, "{errors}");
    let shown = errors.to_string();
    assert!(
        shown.contains("rules.toml:1: anonymos: unknown key; there are anonymous, client_ids, users, rules"),
        "{shown}"
    );
    assert!(!shown.contains("sesame"), "a password is never shown: {shown}");
}

#[test]
fn what_is_no_toml_is_told_with_its_line_and_without_guesses() {
    let errors = Acl::parse("anonymous = true\n[[rules]]\neffect = \n", "rules.toml").unwrap_err();
    assert_eq!(errors.faults().iter().map(|fault| fault.line).min(), Some(3), "{errors}");
    assert!(!errors.to_string().contains("missing\n"), "{errors}");
}

#[test]
fn two_users_of_one_name_are_a_fault() {
    let ann = format!("[[users]]\nname = \"ann\"\npassword = \"{}\"\n", sesame());
    let errors = Acl::parse(&format!("{ann}{ann}"), "rules.toml").unwrap_err();
    assert_eq!((errors.faults()[0].line, errors.faults()[0].key.as_str()), (5, "users[1].name"));
}

// A small world: every level is one of these, and a topic has at most three.
const LEVELS: [&str; 4] = ["a", "b", "", "$s"];

fn topics() -> Vec<String> {
    let mut topics: Vec<String> = LEVELS.map(str::to_owned).into();
    for _ in 1..3 {
        let longer = topics.iter().flat_map(|topic| LEVELS.map(|level| format!("{topic}/{level}")));
        topics = topics.iter().cloned().chain(longer).collect();
    }
    topics.sort_unstable();
    topics.dedup();
    topics.retain(|topic| !topic.is_empty());
    topics
}

fn filter(levels: &'static [&'static str]) -> impl Strategy<Value = String> {
    let level = prop::sample::select(levels);
    (prop::collection::vec(level, 0..3), prop::option::of(Just("#"))).prop_filter_map(
        "empty",
        |(levels, rest)| {
            let filter = levels.into_iter().chain(rest).collect::<Vec<_>>().join("/");
            (!filter.is_empty()).then_some(filter)
        },
    )
}

fn rule() -> impl Strategy<Value = String> {
    let own = &["a", "b", "", "$s", "+", "${clientid}", "${username}", "a${clientid}"];
    (any::<bool>(), prop::collection::vec(filter(own), 1..3)).prop_map(|(allow, topics)| {
        let effect = if allow { "allow" } else { "deny" };
        format!(
            "[[rules]]\neffect = {effect:?}\nactions = [\"subscribe\", \"receive\"]\ntopics = {topics:?}\n"
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// A subscription that is allowed brings nothing that the same rules would not let the client receive.
    #[test]
    fn an_allowed_subscription_shows_nothing_that_is_denied(
        rules in prop::collection::vec(rule(), 1..5),
        filter in filter(&["a", "b", "", "$s", "+", "aa"]),
        shared in any::<bool>(),
        client_id in prop::sample::select(&["a", "b", "", "+", "#", "a/b", "$s", "a/#"]),
        username in prop::option::of(prop::sample::select(&["a", "+", "", "a/b", "$s"])),
    ) {
        let adviser = AclAdviser::alone(acl(&rules.concat()));
        let client = client(client_id, username);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let asked = if shared { format!("$share/g/{filter}") } else { filter.clone() };
        let ruling = runtime.block_on(client.subscribes(&adviser, &[&asked]));
        let allowed = ruling.is_some_and(|ruling| ruling.verdict == Verdict::SubscribeAll(Decision::Allow(())));
        if allowed {
            for topic in topics().iter().filter(|topic| matches(&filter, topic)) {
                let received = runtime.block_on(client.receives(&adviser, topic));
                let fine = received.is_some_and(|ruling| ruling.verdict == Verdict::Publish(Decision::Allow(None)));
                prop_assert!(fine, "{} shows {} to {:?}/{:?}", asked, topic, client_id, username);
            }
        }
    }
}
