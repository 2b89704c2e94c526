//! The rule file as an adviser, seen from the session: who may connect, and what they may do.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod common;

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use common::{Chained, Client, Ruling, client, heard};
use futures_util::StreamExt;
use mproxy_codec::packet::connect::Will;
use mproxy_codec::property::Properties;
use mproxy_codec::reason::ReasonCode;
use mproxy_codec::topic::matches;
use mproxy_codec::types::QoS;
use mproxy_core::policy::{
    Answer, ConnectDecision, ConnectQuestion, Decider, Decision, Failure, FailureKind, FilterChange, Hook,
    Payload, PublishDecision, PublishQuestion, Refusal, Silence, Source, SubscribeDecision,
    SubscribeQuestion, Want,
};
use mproxy_core::rule::{Act, Actions, AskedFilter, Message, Pattern, Retain, Rule, RuleEffect, Who};
use mproxy_policy::acl::{Acl, AclAdviser, Reloaded, Size, UnknownUsers, hash_password};
use mproxy_sim::Verdict;
use mproxy_sim::verdict::ScriptedDecision;
use proptest::prelude::*;

/// A message of which nothing matters but its topic.
fn message(topic: &str) -> Message<'_> {
    Message { topic, qos: QoS::AtMostOnce, retain: false, payload: 0, time: None }
}

fn asked(filter: &str) -> AskedFilter<'_> {
    AskedFilter { filter, qos: None, time: None }
}

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
        Arc::new(Self(|hook| Some(Verdict::allow(hook))))
    }

    fn fails() -> Arc<Self> {
        Arc::new(Self(|_| Some(Verdict::Failed(Failure::new(FailureKind::Deadline, "late")))))
    }

    fn passes() -> Arc<Self> {
        Arc::new(Self(|_| None))
    }
}

impl Next {
    fn answer<D: ScriptedDecision>(&self, hook: Hook) -> Answer<D> {
        match self.0(hook) {
            Some(verdict) => {
                let ruling = mproxy_core::policy::Ruling::new(Source::Rpc, D::from_verdict(verdict));
                Answer::Later(Box::pin(async move { Answer::Now(ruling) }))
            }
            None => Answer::Pass(Silence::Abstains),
        }
    }
}

impl Decider for Next {
    fn connect(&self, _: &ConnectQuestion<'_>) -> Answer<ConnectDecision> {
        self.answer(Hook::Connect)
    }

    fn publish(&self, _: &PublishQuestion<'_>) -> Answer<PublishDecision> {
        self.answer(Hook::Publish)
    }

    fn subscribe(&self, _: &SubscribeQuestion<'_>) -> Answer<SubscribeDecision> {
        self.answer(Hook::Subscribe)
    }

    fn deliver(&self, _: &PublishQuestion<'_>) -> Answer<PublishDecision> {
        self.answer(Hook::Deliver)
    }

    fn want(&self, _: Hook) -> Want {
        Want::Head
    }
}

/// The file alone.
fn alone(acl: Acl) -> AclAdviser {
    AclAdviser::new(acl, UnknownUsers::Refuse)
}

/// The file alone, and what its silence means.
fn only(acl: Acl) -> Chained {
    Chained::new(vec![Arc::new(alone(acl))])
}

/// The file as others stand behind it.
fn first(acl: Acl) -> AclAdviser {
    AclAdviser::new(acl, UnknownUsers::LeaveToOthers)
}

/// The file, and one who is asked after it.
fn before(acl: Acl, next: Arc<dyn Decider>) -> Chained {
    Chained::new(vec![Arc::new(first(acl)), next])
}

fn ann() -> Client {
    client("c1", Some("ann")).password("sesame")
}

#[tokio::test]
async fn a_user_with_the_right_password_comes_in() {
    let adviser = alone(with_ann(""));
    assert_eq!(reason(ann().connects(&adviser).await), None);
}

#[tokio::test]
async fn wrong_password_no_password_and_unknown_user_look_the_same() {
    let adviser = alone(with_ann(""));
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
    let adviser = first(with_ann(""));
    assert_eq!(client("c1", Some("bob")).password("x").connects(&adviser).await, None);
    assert_eq!(client("c1", None).connects(&adviser).await, None);
    assert_eq!(reason(client("c1", Some("ann")).password("x").connects(&adviser).await), Some(0x86));
}

#[tokio::test]
async fn nobody_without_a_name_comes_in_unless_the_file_says_so() {
    let nameless = client("c1", None);
    assert_eq!(reason(nameless.connects(&alone(with_ann(""))).await), Some(0x87));
    assert_eq!(reason(nameless.connects(&alone(acl("anonymous = false"))).await), Some(0x87));
    assert_eq!(reason(nameless.connects(&alone(with_ann("anonymous = true"))).await), None);
}

#[tokio::test]
async fn a_client_id_is_bound_to_certificate_or_user_name() {
    let file = "client_ids = [\"${cn}\", \"${username}-*\"]\nanonymous = true";
    for next in [None, Some(Next::allows())] {
        let adviser = || match &next {
            None => only(acl(file)),
            Some(next) => before(acl(file), next.clone()),
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
        assert_eq!(reason(somebody.connects(&alone(acl(rules))).await), None);
        assert_eq!(somebody.connects(&first(acl(rules))).await, None);
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
    let adviser = only(acl(rules));
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
    let ruling = ann.connects(&before(with_ann(""), Next::allows())).await;
    assert_eq!(ruling.as_ref().unwrap().source, Source::Rpc);
    assert_eq!(reason(ruling), None);
    assert_eq!(reason(ann.connects(&before(with_ann(""), Next::passes())).await), Some(0x87));
    assert_eq!(reason(ann.connects(&only(with_ann(""))).await), Some(0x87));

    let liar = client("c1", Some("ann")).password("x").will("gone", QoS::AtMostOnce, false);
    let ruling = liar.connects(&before(with_ann(""), Next::allows())).await;
    assert_eq!(reason(ruling), Some(0x86), "the password comes first");
}

#[tokio::test]
async fn a_refused_will_is_refused_whoever_the_next_would_admit() {
    let rules = "[[rules]]\neffect = \"deny\"\ntopics = [\"secret\"]";
    let stranger = client("c1", Some("bob")).will("secret", QoS::AtMostOnce, false);
    for acl in [acl(rules), with_ann(rules)] {
        let adviser = before(acl, Next::allows());
        assert_eq!(reason(stranger.connects(&adviser).await), Some(0x87));
    }
}

#[tokio::test]
async fn the_file_gives_no_grants_and_renews_none() {
    let adviser = alone(acl("anonymous = true"));
    for name in [None, Some("ann")] {
        assert_eq!(client("c1", name).renews(&adviser).await, None);
    }
}

fn is_overloaded(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Overloaded(overload) if overload.limit == "passwords")
}

/// A turn of argon2 at its real price, once: others wait meanwhile.
fn with_costly_ann() -> Acl {
    let hash = hash_password("sesame").unwrap();
    acl(&format!("[[users]]\nname = \"ann\"\npassword = \"{hash}\""))
}

#[tokio::test]
async fn who_waits_in_vain_for_a_turn_is_an_overload_of_ours_and_no_failed_answer() {
    let adviser = alone(with_costly_ann()).verifying(1, Duration::ZERO);
    for somebody in [ann(), client("c1", Some("ann")).password("wrong"), client("c1", Some("bob"))] {
        let ruling = somebody.connects(&adviser).await.unwrap();
        assert!(is_overloaded(&ruling.verdict), "{ruling:?}");
    }
}

#[tokio::test]
async fn a_crowd_with_wrong_passwords_is_let_in_by_nothing() {
    let adviser = first(with_costly_ann()).verifying(1, Duration::from_millis(300));
    let crowd = (0..2000).map(|_| async {
        client("c1", Some("ann")).password("wrong").connects(&adviser).await.unwrap().verdict
    });
    let mut overloaded = 0;
    for verdict in futures_util::future::join_all(crowd).await {
        match verdict {
            // Not a failure, of which a failure rule would speak.
            verdict if is_overloaded(&verdict) => overloaded += 1,
            verdict => assert_eq!(reason(Some(Ruling { source: Source::Acl, verdict })), Some(0x86)),
        }
    }
    // 1024 may wait; those beyond are sent away at once.
    assert!(overloaded >= 900, "{overloaded}");
}

#[tokio::test]
async fn one_address_does_not_keep_the_others_out() {
    let adviser = alone(with_costly_ann()).verifying(1, Duration::from_secs(60));
    let mut crowd: futures_util::stream::FuturesUnordered<_> = (0..1500)
        .map(|_| async { client("c1", Some("ann")).password("wrong").connects(&adviser).await })
        .collect();
    // All of them are in the queue, or have been sent away.
    let mut sent_away = 0;
    while sent_away < 400 {
        let ruling = crowd.next().await.unwrap().unwrap();
        sent_away += usize::from(is_overloaded(&ruling.verdict));
    }
    let other = ann().from("198.51.100.7:1".parse().unwrap());
    let crowd_goes_on = async { while crowd.next().await.is_some() {} };
    let ruling = tokio::select! {
        ruling = other.connects(&adviser) => ruling,
        () = crowd_goes_on => panic!("the crowd came first"),
    };
    assert_eq!(reason(ruling), None);
}

#[tokio::test]
async fn while_a_password_waits_nobody_else_is_asked() {
    // The next one would answer at once; it is asked about a will, and only when the password has been verified.
    let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    struct Counts(Arc<std::sync::atomic::AtomicUsize>);
    impl Decider for Counts {
        fn connect(&self, _: &ConnectQuestion<'_>) -> Answer<ConnectDecision> {
            self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            Answer::Now(mproxy_core::policy::Ruling::allow(Source::Rpc))
        }

        fn want(&self, _: Hook) -> Want {
            Want::Head
        }
    }
    let adviser = before(with_costly_ann(), Arc::new(Counts(Arc::clone(&asked))));
    let count = || asked.load(std::sync::atomic::Ordering::SeqCst);
    let ann = ann().will("gone", QoS::AtMostOnce, false);
    let mut connecting = Box::pin(ann.connects(&adviser));
    assert!(futures_util::poll!(&mut connecting).is_pending());
    assert_eq!(count(), 0);
    assert_eq!(reason(connecting.await), None);
    assert_eq!(count(), 1);
    let liar = client("c1", Some("ann")).password("x").will("gone", QoS::AtMostOnce, false);
    assert_eq!(reason(liar.connects(&adviser).await), Some(0x86));
    assert_eq!(count(), 1);
}

#[tokio::test]
async fn the_first_rule_that_matches_decides() {
    let adviser = alone(acl(r##"
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
    let adviser = alone(acl(limited));
    let c1 = client("c1", None);
    let ask = |qos, retain| {
        let answer = adviser.publish(&PublishQuestion { qos, retain, ..c1.publish("x") });
        assert!(matches!(answer, Answer::Now(_)), "not at once");
        async { reason(heard(answer).await) }
    };
    assert_eq!(ask(QoS::AtMostOnce, false).await, None);
    assert_eq!(ask(QoS::AtLeastOnce, false).await, Some(ReasonCode::QOS_NOT_SUPPORTED.0));
    assert_eq!(ask(QoS::AtMostOnce, true).await, Some(ReasonCode::RETAIN_NOT_SUPPORTED.0));
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

#[tokio::test]
async fn a_payload_above_the_rules_is_refused_in_a_publish_and_in_a_will() {
    let limited = "[[rules]]\neffect = \"allow\"\ntopics = [\"#\"]\nmax_payload = 3";
    let adviser = alone(acl(limited));
    let c1 = client("c1", None);
    for (payload, expected) in [
        (Payload::Whole(b"abc"), None),
        (Payload::Whole(b"abcd"), Some(ReasonCode::QUOTA_EXCEEDED.0)),
        (Payload::Size(3), None),
        (Payload::Size(4), Some(ReasonCode::QUOTA_EXCEEDED.0)),
    ] {
        let answer = adviser.publish(&PublishQuestion { payload, ..c1.publish("x") });
        assert_eq!(reason(heard(answer).await), expected, "{payload:?}");
    }
    let only = only(acl(limited));
    let will = |payload| Will {
        qos: QoS::AtMostOnce,
        retain: false,
        properties: Properties::EMPTY,
        topic: "a",
        payload,
    };
    for (payload, expected) in [(&b"abc"[..], None), (b"four", Some(ReasonCode::QUOTA_EXCEEDED.0))] {
        let dying = Client { will: Some(will(payload)), ..client("c1", None) };
        assert_eq!(reason(dying.connects(&only).await), expected);
    }
}

fn granted(max_qos: Option<QoS>) -> Decision<FilterChange> {
    Decision::Allow(FilterChange { filter: None, max_qos, ..FilterChange::default() })
}

fn no(reason: ReasonCode) -> Decision<FilterChange> {
    Decision::Refuse(Refusal::new(reason))
}

#[tokio::test]
async fn each_filter_has_its_verdict() {
    let adviser = only(acl(MIXED));
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
    let adviser = before(acl(MIXED), Next::allows());
    let c1 = client("c1", None);
    assert_eq!(c1.subscribes(&first(acl(MIXED)), &["other", "more"]).await, None, "all of them: passed");
    let ruling = c1.subscribes(&adviser, &["other", "secret/a", "open/a"]).await.unwrap();
    let (low, not) = (granted(Some(QoS::AtLeastOnce)), no(ReasonCode::NOT_AUTHORIZED));
    let expected = vec![granted(None), not.clone(), low.clone()];
    assert_eq!(ruling, Ruling { source: Source::Rpc, verdict: Verdict::Subscribe(expected) });

    let adviser = before(acl(MIXED), Next::passes());
    let ruling = c1.subscribes(&adviser, &["other", "open/a"]).await.unwrap();
    assert_eq!(ruling.verdict, Verdict::Subscribe(vec![not.clone(), low]));
}

#[tokio::test]
async fn a_failed_rest_never_lifts_what_the_file_refused() {
    let adviser = before(acl(MIXED), Next::fails());
    let ruling = client("c1", None).subscribes(&adviser, &["other", "secret/a"]).await.unwrap();
    let expected = vec![no(ReasonCode::SERVER_UNAVAILABLE), no(ReasonCode::NOT_AUTHORIZED)];
    assert_eq!(ruling.verdict, Verdict::Subscribe(expected));
}

#[tokio::test]
async fn deliveries_are_asked_about_only_where_a_rule_names_them() {
    let c1 = client("c1", None);
    let silent = only(acl(MIXED));
    assert_eq!(silent.want(Hook::Deliver), Want::Nothing);
    assert_eq!(reason(c1.receives(&silent, "secret/x").await), None);
    let refuses = Arc::new(Next(|hook| Some(Verdict::refuse(hook, Refusal::default()))));
    let before = before(acl(MIXED), refuses);
    assert_eq!(reason(c1.receives(&before, "open/x").await), Some(0x87), "the next wanted to be asked");

    let named = format!("{MIXED}\n[[rules]]\neffect = \"allow\"\nactions = [\"receive\"]\ntopics = [\"x\"]");
    let adviser = alone(acl(&named));
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
    let adviser = alone(Acl::load(&path).unwrap());
    let c1 = client("c1", None);
    assert_eq!(reason(c1.publishes(&adviser, "a").await), None);

    fs::write(&path, "[[rules]]\neffect = \"perhaps\"").unwrap();
    let errors = adviser.reload().unwrap_err();
    assert_eq!(errors.faults().len(), 2, "{errors}");
    assert_eq!(reason(c1.publishes(&adviser, "a").await), None);

    fs::write(&path, "[[rules]]\neffect = \"deny\"\ntopics = [\"a\"]").unwrap();
    let rules = Size { users: 0, rules: 1, grants: 0 };
    assert_eq!(adviser.reload(), Ok(Reloaded { old: rules, new: rules }));
    assert_eq!(reason(c1.publishes(&adviser, "a").await), Some(0x87));
    fs::remove_file(&path).unwrap();
    assert!(adviser.reload().unwrap_err().to_string().contains("cannot be read"));
}

#[tokio::test]
async fn a_reload_does_not_lose_all_users_or_all_rules_unless_the_file_means_it() {
    let path = std::env::temp_dir().join(format!("mproxy-acl-cut-{}.toml", std::process::id()));
    let users = format!("[[users]]\nname = \"ann\"\npassword = \"{}\"\n", sesame());
    let rules = "[[rules]]\neffect = \"allow\"\ntopics = [\"a\"]\n";
    let whole = format!("{rules}{users}");
    let write = |text: &str| {
        fs::write(&path, text).unwrap();
        // Long finished: nothing to wait for.
        let hour = std::time::SystemTime::now() - Duration::from_secs(3600);
        fs::File::options().append(true).open(&path).unwrap().set_modified(hour).unwrap();
    };
    write(&whole);
    let adviser = alone(Acl::load(&path).unwrap());
    let stranger = client("c1", Some("bob"));
    // Cut at a table's boundary, or before the first; and the other way around.
    for (cut, said) in [
        (rules, "has no users any more, where 1 are in force"),
        ("", "has no users any more"),
        ("# nothing\n", "has no users any more"),
        ("anonymous = true\n", "has no users any more"),
        (&*users, "has no rules any more, where 1 are in force"),
    ] {
        write(cut);
        let errors = adviser.reload().unwrap_err().to_string();
        assert!(errors.contains(said) && errors.contains("allow_empty = true"), "{cut:?}: {errors}");
        assert_eq!(adviser.size(), Size { users: 1, rules: 1, grants: 0 });
        assert_eq!(reason(stranger.connects(&adviser).await), Some(0x86), "{cut:?}");
        assert_eq!(reason(ann().publishes(&adviser, "a").await), None, "{cut:?}");
    }
    write(&format!("allow_empty = true\n{rules}"));
    let reloaded = adviser.reload().unwrap();
    let (old, new) = (Size { users: 1, rules: 1, grants: 0 }, Size { users: 0, rules: 1, grants: 0 });
    assert_eq!(reloaded, Reloaded { old, new });
    // Who grows again needs no word for it, and a file of few words may not fall silent either.
    write("anonymous = false\n[[rules]]\neffect = \"allow\"\ntopics = [\"a\"]\n");
    adviser.reload().unwrap();
    write(rules);
    assert!(adviser.reload().unwrap_err().to_string().contains("who may connect"));
    // Nor may it let clients call themselves what they like.
    write("allow_empty = true\nclient_ids = [\"${cn}\"]\n");
    adviser.reload().unwrap();
    write("");
    assert!(adviser.reload().unwrap_err().to_string().contains("what clients may call themselves"));
    fs::remove_file(&path).unwrap();
}

#[test]
fn a_list_of_nothing_is_a_fault_everywhere() {
    let rule = "[[rules]]\neffect = \"allow\"\ntopics = [\"a\"]\n";
    for (text, key) in [
        ("users = []\n".to_owned(), "users"),
        ("rules = []\n".to_owned(), "rules"),
        ("client_ids = []\n".to_owned(), "client_ids"),
        (rule.replace("[\"a\"]", "[]"), "rules[0].topics"),
        (format!("{rule}actions = []\n"), "rules[0].actions"),
        (format!("{rule}users = []\n"), "rules[0].users"),
        (format!("{rule}client_ids = []\n"), "rules[0].client_ids"),
    ] {
        let errors = Acl::parse(&text, "rules.toml").unwrap_err();
        assert_eq!(errors.faults()[0].key, key, "{errors}");
    }
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
max_payload = -1
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
        (15, "rules[1].max_payload"),
        (16, "rules[1].retain"),
        (17, "rules[1].users"),
        (18, "rules[1].topics"),
    ];
    assert_eq!(told, expected, "{errors}");
    let shown = errors.to_string();
    for (key, near) in [("1: anonymos", "anonymous"), ("7: users[1].pasword", "users[1].password")] {
        let line = format!("rules.toml:{key}: unknown key; the nearest known one is {near}\n");
        assert!(shown.contains(&line), "{line:?} is not in {shown}");
    }
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
        let adviser = alone(acl(&rules.concat()));
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

/// Values that are (part of) a level, and those that are none.
const PLAIN: [&str; 5] = ["a", "b", "$s", "a-b", "-"];
const ODD: [Option<&str>; 7] = [None, Some(""), Some("+"), Some("#"), Some("a/b"), Some("+/#"), Some("a#")];

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whoever calls itself what no level can be gains nothing by it: no allow rule becomes wider, no deny or ask rule
    /// narrower than with a name that fits.
    #[test]
    fn no_value_widens_what_is_allowed_or_narrows_what_is_denied(
        texts in prop::collection::vec(
            filter(&["a", "b", "", "$s", "+", "${username}", "a${username}", "${username}-${cn}", "${cn}b"]), 1..3
        ),
        topic in filter(&["a", "b", "", "$s", "aa", "ab", "a-b", "a-b-a"]),
        wild in filter(&["a", "b", "", "$s", "+", "aa", "a-b"]),
        plain in (prop::sample::select(&PLAIN), prop::sample::select(&PLAIN)),
        odd in (prop::sample::select(&ODD), prop::sample::select(&ODD)),
        which in 1..4_u8,
    ) {
        let rule = |effect| Rule {
            effect,
            actions: Actions::ALL,
            topics: texts.iter().map(|text| Pattern::parse(text).unwrap()).collect(),
            max_qos: QoS::ExactlyOnce,
            retain: Retain::Allowed,
            max_payload: None,
            condition: None,
        };
        let fits = Who { client_id: "c", username: Some(plain.0), common_name: Some(plain.1), ..Who::NOBODY };
        let strange = Who {
            username: if which & 1 != 0 { odd.0 } else { fits.username },
            common_name: if which & 2 != 0 { odd.1 } else { fits.common_name },
            ..fits
        };
        // A name has no wildcard.
        let topic = topic.replace('#', "a");
        let (allow, deny, ask) = (rule(RuleEffect::Allow), rule(RuleEffect::Deny), rule(RuleEffect::Ask));
        let speaks = |rule: &Rule, who| {
            (rule.applies_to_message(Act::Publish, message(&topic), who), rule.applies_to_filter(asked(&wild), who))
        };
        let (allowed, could) = (speaks(&allow, strange), speaks(&allow, fits));
        prop_assert!(allowed.0 <= could.0 && allowed.1 <= could.1, "{:?} allowed to {:?}", texts, strange);
        for rule in [deny, ask] {
            let (denied, should) = (speaks(&rule, strange), speaks(&rule, fits));
            prop_assert!(denied.0 >= should.0 && denied.1 >= should.1, "{:?} not denied to {:?}", texts, strange);
        }
    }

    /// What a deny rule says of a filter it says of each topic that the filter brings, whoever asks.
    #[test]
    fn a_filter_that_brings_something_denied_is_denied(
        text in filter(&["a", "b", "", "$s", "+", "${username}", "a${username}", "${username}-${cn}"]),
        wild in filter(&["a", "b", "", "$s", "+", "aa"]),
        names in (prop::sample::select(&PLAIN), prop::sample::select(&ODD)),
        swapped in any::<bool>(),
    ) {
        let rule = Rule {
            effect: RuleEffect::Deny,
            actions: Actions::ALL,
            topics: [Pattern::parse(&text).unwrap()].into(),
            max_qos: QoS::ExactlyOnce,
            retain: Retain::Allowed,
            max_payload: None,
            condition: None,
        };
        let (username, common_name) = if swapped { (names.1, Some(names.0)) } else { (Some(names.0), names.1) };
        let who = Who { client_id: "c", username, common_name, ..Who::NOBODY };
        let met = topics().into_iter().find(|topic| {
            matches(&wild, topic) && rule.applies_to_message(Act::Receive, message(topic), who)
        });
        if let Some(topic) = met {
            prop_assert!(rule.applies_to_filter(asked(&wild), who), "{} brings {} to {:?} in spite of {}", wild, topic, who, text);
        }
    }
}
