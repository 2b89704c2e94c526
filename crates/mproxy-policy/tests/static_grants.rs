//! Grants that stand in the rule file: by user, group, certificate and claim, and what they come to.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Chained, Client, Ruling, client};
use mproxy_codec::types::QoS;
use mproxy_core::grant::{GrantExpiry, RateAction};
use mproxy_core::peer::TlsFacts;
use mproxy_core::policy::{About, Admission, Decision, Refusal};
use mproxy_core::rule::{Act, AskedFilter, Message, Name, Pattern, Rule, RuleEffect, Template, Who};
use mproxy_policy::acl::{Acl, AclAdviser, UnknownUsers};
use mproxy_policy::grants::Grants;
use mproxy_sim::Verdict;
use mproxy_testkit::certificates::Folder;
use mproxy_testkit::tokens::{TokenSigner, seconds_from_now};
use proptest::prelude::*;

/// A message of which nothing matters but its topic.
fn message(topic: &str) -> Message<'_> {
    Message { topic, qos: QoS::AtMostOnce, retain: false, payload: 0, time: None }
}

fn asked(filter: &str) -> AskedFilter<'_> {
    AskedFilter { filter, qos: None, time: None }
}

fn chain(text: &str) -> Chained {
    let acl = Acl::parse(text, "test.toml").unwrap_or_else(|errors| panic!("{errors}"));
    Chained::new(vec![Arc::new(AclAdviser::new(acl, UnknownUsers::Refuse)), Arc::new(Grants)])
}

fn admission(ruling: Option<Ruling>) -> Admission {
    match ruling.unwrap().verdict {
        Verdict::Connect(Decision::Allow(admission)) => {
            admission.map(|admission| *admission).unwrap_or_default()
        }
        other => panic!("{other:?}"),
    }
}

fn refusal(ruling: Option<Ruling>) -> Refusal {
    match ruling.unwrap().verdict {
        Verdict::Connect(Decision::Refuse(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

/// The client as it was let in.
async fn let_in(mut somebody: Client, chain: &Chained) -> Client {
    let Admission { attributes, grant, .. } = admission(somebody.connects(chain).await);
    let peer = Arc::make_mut(&mut somebody.peer);
    (peer.attributes, peer.grant) = (attributes.into(), grant);
    somebody
}

fn certified(client: Client, tls: TlsFacts) -> Client {
    let mut client = client;
    let peer = Arc::make_mut(&mut client.peer);
    Arc::make_mut(&mut peer.origin).tls = Some(Box::new(tls));
    client
}

fn spiffe(id: &str) -> TlsFacts {
    TlsFacts {
        subject_alt_names: vec![format!("URI:{id}"), "DNS:a.sensors.example".to_owned()],
        fingerprint: Some("ab".repeat(32)),
        common_name: Some("sensor-7".to_owned()),
        ..TlsFacts::default()
    }
}

async fn may(client: &Client, chain: &Chained, topic: &str) -> bool {
    match client.publishes(chain, topic).await.unwrap().verdict {
        Verdict::Publish(Decision::Allow(_)) => true,
        Verdict::Publish(Decision::Refuse(_)) => false,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_grant_is_for_those_whom_it_names_and_all_that_fit_hold_together() {
    let fingerprint = "AB:".repeat(32);
    let file = format!(
        r#"
        anonymous = true
        [[grants]]
        certificate = {{ uri = ["spiffe://prod.example/**"], dns = ["*.sensors.example"] }}
        publish = ["sensors/${{cn}}/${{san.dns}}"]
        [[grants]]
        certificate = {{ cn = ["sensor-*"], fingerprint = ["{}"] }}
        publish = ["by/${{fingerprint}}"]
        [[grants]]
        client_ids = ["c1"]
        publish = ["c1"]
        default = "deny"
        [[grants]]
        groups = ["nobody"]
        publish = ["never"]
        "#,
        fingerprint.trim_end_matches(':')
    );
    let chain = chain(&file);
    let prod = let_in(certified(client("c1", None), spiffe("spiffe://prod.example/ns/a")), &chain).await;
    let own = format!("by/{}", "ab".repeat(32));
    for (topic, expected) in [
        ("sensors/sensor-7/a.sensors.example", true),
        (&*own, true),
        ("c1", true),
        ("never", false),
        ("sensors/sensor-7/x", false),
    ] {
        assert_eq!(may(&prod, &chain, topic).await, expected, "{topic}");
    }
    let test = let_in(certified(client("c2", None), spiffe("spiffe://test.example/ns/a")), &chain).await;
    assert!(
        !may(&test, &chain, "sensors/sensor-7/a.sensors.example").await && may(&test, &chain, &own).await
    );
    let plain = let_in(client("c2", None), &chain).await;
    assert!(plain.peer.grant.is_none() && !may(&plain, &chain, "c1").await);
}

#[tokio::test]
async fn a_grant_has_everything_that_one_of_a_service_has() {
    let file = r##"
        anonymous = true
        [[grants]]
        rate_action = "refuse"
        messages_per_second = 2.5
        packet_size = 1000
        session = 3600
        prefix = "t/${clientid}"
        [[grants.rules]]
        effect = "deny"
        topics = ["a/secret"]
        [[grants.rules]]
        effect = "ask"
        topics = ["a/maybe"]
        [[grants.rules]]
        effect = "allow"
        topics = ["a/#"]
        max_qos = 1
        retain = false
        [[grants]]
        messages_per_second = 100
        bytes_per_second = 1_000
        subscriptions = 3
        session = 60
        default = "deny"
        receive = ["r"]
        will = ["w"]
    "##;
    let chain = chain(file);
    let came = Instant::now();
    let somebody = let_in(client("c", None), &chain).await;
    let grant = somebody.peer.grant.as_deref().unwrap();
    let limits = grant.limits;
    assert_eq!((limits.messages.unwrap().get(), limits.bytes.unwrap().get()), (2.5, 1000.0));
    assert_eq!(
        (limits.rate_action, limits.packet_size, limits.subscriptions),
        (RateAction::Refuse, Some(1000), Some(3))
    );
    assert_eq!(grant.mapping.as_ref().unwrap().up("a").as_deref(), Some("t/c/a"));
    let left = grant.expires_at.unwrap() - came;
    assert!(left > Duration::from_secs(55) && left < Duration::from_secs(65));
    assert!(matches!(grant.ends(), Some((_, GrantExpiry::Grant))));
    assert!(grant.receives());
    for (topic, expected) in
        [("a/b", true), ("a/secret", false), ("a/maybe", false), ("b", false), ("$SYS/x", false)]
    {
        assert_eq!(may(&somebody, &chain, topic).await, expected, "{topic}");
    }
    let file = grant.rule_file.as_ref().unwrap();
    assert_eq!((&*file.name, &*file.lines), ("test.toml", &[9, 12, 15, 26, 27][..]));
    // Of those who have the same entries, the rules are there once.
    let other = let_in(client("d", None), &chain).await;
    assert!(Arc::ptr_eq(other.peer.grant.as_ref().unwrap().rule_file.as_ref().unwrap(), file));
    let will = |topic| client("c", None).will(topic, QoS::AtMostOnce, false);
    assert!(admission(will("w").connects(&chain).await).grant.is_some());
    for topic in ["a/secret", "a/maybe", "b"] {
        assert_eq!(refusal(will(topic).connects(&chain).await).about, About::Will, "{topic}");
    }
}

#[tokio::test]
async fn groups_of_users_are_attributes_and_choose_grants() {
    let hash = mproxy_policy::acl::hash_password("x").unwrap();
    let file = format!(
        "[[users]]\nname = \"ann\"\npassword = \"{hash}\"\ngroups = [\"ops\", \"dev\"]\n\
         [[users]]\nname = \"bob\"\npassword = \"{hash}\"\n\
         [[grants]]\ngroups = [\"ops\"]\npublish = [\"g/${{attr.group}}\"]\n"
    );
    let chain = chain(&file);
    let ann = let_in(client("c", Some("ann")).password("x"), &chain).await;
    assert!(
        may(&ann, &chain, "g/dev").await
            && may(&ann, &chain, "g/ops").await
            && !may(&ann, &chain, "g/x").await
    );
    let bob = let_in(client("c", Some("bob")).password("x"), &chain).await;
    assert!(bob.peer.grant.is_none() && bob.peer.attributes.is_empty());
}

#[tokio::test]
async fn a_prefix_that_is_no_level_refuses_the_client() {
    let chain = chain("anonymous = true\n[[grants]]\nprefix = \"${clientid}/\"\npublish = [\"#\"]\n");
    for odd in ["", "a/b", "a+", "$SYS"] {
        assert_eq!(refusal(client(odd, None).connects(&chain).await).reason.0, 0x87, "{odd}");
    }
    assert!(admission(client("a", None).connects(&chain).await).grant.is_some());
}

#[tokio::test]
async fn a_listener_requires_a_certificate_or_a_token() {
    let (folder, signer) = (Folder::default(), TokenSigner::es256());
    let key = folder.write("key", signer.verifying_file());
    let file = &format!(
        "[require]\nmqtt = [\"certificate\", \"token\"]\n[[rules]]\neffect = \"allow\"\ntopics = [\"#\"]\n\
         [jwt]\n[[jwt.keys]]\npublic_key = {key:?}\n"
    );
    let chain = chain(file);
    let token = signer.token(&serde_json::json!({ "sub": "ann", "exp": seconds_from_now(60) }));
    let token = client("c", None).password(Box::leak(token.into_boxed_str()));
    assert_eq!(admission(token.connects(&chain).await).username.as_deref(), Some("ann"));
    let known = certified(client("c", None), spiffe("spiffe://p/x"));
    assert_eq!(admission(known.connects(&chain).await), Admission::default());
    let unnamed = refusal(client("c", None).connects(&chain).await);
    assert_eq!(
        (unnamed.about, unnamed.text.as_deref()),
        (About::Credentials, Some("certificate or token required"))
    );
    // Where a certificate alone will do, a token opens nothing.
    let strict = self::chain(&file.replace("\"certificate\", \"token\"", "\"certificate\""));
    let unproven = refusal(token.connects(&strict).await);
    assert_eq!(
        (unproven.about, unproven.text.as_deref()),
        (About::Credentials, Some("certificate required"))
    );
    let both = certified(token, spiffe("spiffe://p/x"));
    assert_eq!(admission(both.connects(&strict).await).username.as_deref(), Some("ann"));
    let elsewhere = self::chain(&file.replace("mqtt =", "other ="));
    assert_eq!(refusal(client("c", None).connects(&elsewhere).await).about, About::Username);
    let everywhere = self::chain(&file.replace("mqtt =", "\"*\" ="));
    assert_eq!(refusal(client("c", None).connects(&everywhere).await).about, About::Credentials);
    // A file that says so of one listener has not let anybody in at others, with no [jwt] either.
    let alone = self::chain(
        "[require]\nother = [\"certificate\"]\n[[rules]]\neffect = \"allow\"\ntopics = [\"#\"]\n",
    );
    for somebody in [client("c", None), client("c", Some("ann"))] {
        assert_eq!(refusal(somebody.connects(&alone).await).about, About::Username);
    }
}

#[test]
fn what_listeners_require_is_about_listeners_that_are_there_and_what_can_be_shown() {
    let text =
        "[require]\nmqts = [\"certificate\"]\n\"*\" = [\"certificate\"]\nbackdoor = [\"certificate\"]\n";
    let acl = Acl::parse(text, "r.toml").unwrap();
    assert_eq!(acl.knows_listeners(&["mqts", "backdoor"]), Ok(()));
    let errors = acl.knows_listeners(&["mqtt", "mqtts"]).unwrap_err().to_string();
    let expected = [
        "r.toml:2: require.mqts: there is no such listener; the nearest one is mqtt",
        "r.toml:4: require.backdoor: there is no such listener; there are mqtt, mqtts",
    ];
    assert_eq!(errors.lines().collect::<Vec<_>>(), expected);
    let errors =
        Acl::parse("[require]\nmqtts = [\"certificate\", \"token\"]\n", "r.toml").unwrap_err().to_string();
    assert_eq!(errors, "r.toml:2: require.mqtts[1]: needs [jwt]: without it tokens are not looked at");
}

#[test]
fn a_prefix_that_nobody_could_have_is_a_fault_of_the_file() {
    for (prefix, why) in [
        ("a/+/", "is no beginning of a topic name"),
        ("a/#", "is no beginning of a topic name"),
        ("+/${clientid}", "is no beginning of a topic name"),
        ("", "is no beginning of a topic name"),
        ("$SYS/${clientid}/", "begins with $"),
        ("$share", "begins with $"),
    ] {
        let errors =
            Acl::parse(&format!("[[grants]]\nprefix = {prefix:?}\n"), "r.toml").unwrap_err().to_string();
        assert_eq!(errors, format!("r.toml:2: grants[0].prefix: {prefix:?}: {why}"));
    }
    for prefix in ["a", "a/", "${claim.tenant}", "t/${clientid}-${username}"] {
        assert!(Acl::parse(&format!("[[grants]]\nprefix = {prefix:?}\n"), "r.toml").is_ok(), "{prefix}");
    }
}

#[test]
fn what_is_wrong_with_grants_is_told_all_at_once() {
    let text = r#"[require]
mqtt = ["password"]
[[grants]]
user = ["x"]
certificate = { cn = "x", email = ["x"], fingerprint = ["ab"] }
messages_per_second = 0
packet_size = 0
prefix = "t/${who}"
default = "maybe"
publish = ["a/#/b", "${claim.t}/${claim.t}"]
[[grants.rules]]
effect = "ask"
users = ["x"]
max_qos = 1
topics = ["x"]
"#;
    let errors = Acl::parse(text, "r.toml").unwrap_err().to_string();
    for expected in [
        "r.toml:2: require.mqtt[0]: \"password\" is none of certificate, token",
        "r.toml:4: grants[0].user: unknown key; the nearest known one is grants[0].users",
        "r.toml:5: grants[0].certificate.cn: must be a list of at least one string",
        "r.toml:5: grants[0].certificate.email: unknown key",
        "r.toml:5: grants[0].certificate.fingerprint[0]: \"ab\" is no SHA-256 fingerprint",
        "r.toml:6: grants[0].messages_per_second: must be a number greater than zero",
        "r.toml:7: grants[0].packet_size: must be a whole number from 1",
        "r.toml:8: grants[0].prefix: \"t/${who}\": unknown variable",
        "r.toml:9: grants[0].default: \"maybe\" is none of allow, deny, ask",
        "r.toml:10: grants[0].publish[0]: \"a/#/b\": not a topic filter",
        "r.toml:10: grants[0].publish[1]: \"${claim.t}/${claim.t}\": `${claim.t}` may have several values",
        "r.toml:13: grants[0].rules[0].users: unknown key",
        "r.toml:14: grants[0].rules[0].max_qos: limits what is allowed",
    ] {
        assert!(errors.contains(expected), "{expected}\n{errors}");
    }
}

// ---- rules with claims against a slow reference

/// Values that a claim may have: names, and what is no level.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[ab]{1,2}", 1 => Just(String::new()), 1 => Just("a/b".to_owned()), 1 => Just("+".to_owned()), 1 => Just("#".to_owned())]
}

fn level() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "[ab]{1,2}",
        1 => Just("+".to_owned()),
        2 => Just("${claim.t}".to_owned()),
        1 => Just("a${claim.u}".to_owned()),
        1 => Just("${claim.u}-b".to_owned()),
    ]
}

fn filter() -> impl Strategy<Value = String> {
    (prop::collection::vec(level(), 1..4), any::<bool>()).prop_map(|(levels, open)| {
        let end = if open { "/#" } else { "" };
        format!("{}{end}", levels.join("/"))
    })
}

/// What the rule means with each variable written out, by the codec's plain matching: for each choice of values one filter.
fn reference(filter: &str, attributes: &[(String, String)], topic: &str, allow: bool) -> bool {
    let values = |name: &str| -> Vec<Option<String>> {
        let found: Vec<_> =
            attributes.iter().filter(|(own, _)| own == name).map(|(_, value)| Some(value.clone())).collect();
        if found.is_empty() { vec![None] } else { found }
    };
    let is_level = |value: &str| !value.is_empty() && !value.contains(['/', '+', '#']);
    values("claim.t").iter().any(|t| {
        values("claim.u").iter().any(|u| {
            let mut written = Vec::new();
            for level in filter.split('/') {
                let variable =
                    [("${claim.t}", t), ("${claim.u}", u)].into_iter().find(|(name, _)| level.contains(name));
                match variable {
                    None => written.push(level.to_owned()),
                    Some((name, Some(value))) if is_level(value) => written.push(level.replace(name, value)),
                    Some(_) if allow => return false,
                    Some(_) => {
                        written.push("#".to_owned());
                        break;
                    }
                }
            }
            mproxy_codec::topic::matches(&written.join("/"), topic)
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100_000, ..ProptestConfig::default() })]

    #[test]
    fn claims_in_rules_mean_what_they_mean_written_out(
        filter in filter(),
        values in prop::collection::vec((any::<bool>(), value()), 0..4),
        topic in prop::collection::vec("[ab]{1,2}|aa|ab-b|a-b", 1..5),
        allow: bool,
    ) {
        let Ok(pattern) = Pattern::parse(&filter) else { return Ok(()) };
        let attributes: Vec<_> = values
            .into_iter()
            .map(|(first, value)| (if first { "claim.t" } else { "claim.u" }.to_owned(), value))
            .collect();
        let who = Who { attributes: &attributes, ..Who::NOBODY };
        let rule = Rule {
            effect: if allow { RuleEffect::Allow } else { RuleEffect::Deny },
            actions: mproxy_core::rule::Actions::ALL,
            topics: [pattern].into(),
            max_qos: QoS::ExactlyOnce,
            retain: mproxy_core::rule::Retain::Allowed,
            max_payload: None,
            condition: None,
        };
        let topic = topic.join("/");
        let met = rule.applies_to_message(Act::Publish, message(&topic), who);
        prop_assert_eq!(met, reference(&filter, &attributes, &topic, allow), "{} {:?} {}", filter, attributes, topic);
        // A subscription to one topic is judged like a publish to it.
        prop_assert_eq!(met, rule.applies_to_filter(asked(&topic), who), "{} {:?} {}", filter, attributes, topic);
    }

}

proptest! {
    #[test]
    fn a_prefix_is_taken_off_again_and_reaches_nobody_else(t in value(), topic in "[ab/]{1,6}") {
        let attributes = [("claim.t".to_owned(), t.clone())];
        let who = Who { attributes: &attributes, ..Who::NOBODY };
        let prefix = Template::parse("t/${claim.t}/").unwrap().expand(who);
        prop_assert_eq!(prefix.is_some(), !t.is_empty() && !t.contains(['/', '+', '#']));
        if let Some(prefix) = prefix {
            let mapping = mproxy_core::grant::Mapping::new(&prefix).unwrap();
            let up = mapping.up(&topic).unwrap().into_owned();
            let own = format!("t/{t}/");
            prop_assert!(up.starts_with(&own));
            prop_assert_eq!(mapping.down(&up), Some(topic.as_str().into()));
        }
    }
}

#[test]
fn names_of_clients_may_be_claims() {
    let attributes = ["a", "b"].map(|value| ("claim.d".to_owned(), value.to_owned()));
    let who = Who { attributes: &attributes, ..Who::NOBODY };
    let name = Name::parse("${claim.d}-*").unwrap();
    assert!(name.matches("a-1", who) && name.matches("b-1", who) && !name.matches("c-1", who));
}
