//! Grants as an adviser: what they decide, what they leave to the next, and at which cost.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod common;

use std::sync::Arc;

use allocation_counter::measure;
use common::{Chained, Client, Ruling, client};
use mproxy_codec::types::QoS;
use mproxy_core::chain::Ruled;
use mproxy_core::grant::Grant;
use mproxy_core::policy::{
    Answer, ConnectDecision, ConnectQuestion, Decided, Decider, Decision, Failure, FailureKind, FilterChange,
    Hook, PublishDecision, PublishQuestion, Refusal, RenewQuestion, Silence, Source, SubscribeDecision,
    SubscribeQuestion, Want,
};
use mproxy_core::rule::{Act, Actions, Pattern, Retain, Rule, RuleEffect};
use mproxy_policy::Grants;
use mproxy_policy::acl::{Acl, AclAdviser, UnknownUsers};
use mproxy_sim::Verdict;

/// The service: says this to everything, or was not interested.
struct Service(Option<bool>);

impl Service {
    fn answer<D: Decided>(&self) -> Answer<D> {
        let ruling = match self.0 {
            None => return Answer::Pass(Silence::Abstains),
            Some(true) => mproxy_core::policy::Ruling::allow(Source::Rpc),
            Some(false) => mproxy_core::policy::Ruling::refuse(Source::Rpc, Refusal::default()),
        };
        Answer::Later(Box::pin(async move { Answer::Now(ruling) }))
    }
}

impl Decider for Service {
    fn connect(&self, _: &ConnectQuestion<'_>) -> Answer<ConnectDecision> {
        self.answer()
    }

    fn publish(&self, _: &PublishQuestion<'_>) -> Answer<PublishDecision> {
        self.answer()
    }

    fn subscribe(&self, _: &SubscribeQuestion<'_>) -> Answer<SubscribeDecision> {
        self.answer()
    }

    fn deliver(&self, _: &PublishQuestion<'_>) -> Answer<PublishDecision> {
        self.answer()
    }

    fn renew(&self, _: &RenewQuestion<'_>) -> Answer<ConnectDecision> {
        self.answer()
    }

    fn gives(&self, source: Source) -> bool {
        source == Source::Rpc
    }

    fn want(&self, hook: Hook) -> Want {
        if hook == Hook::Deliver || self.0.is_none() { Want::Nothing } else { Want::Head }
    }
}

fn rule(effect: RuleEffect, acts: &[Act], topic: &str) -> Rule {
    Rule {
        effect,
        actions: acts.iter().fold(Actions::NONE, |actions, act| actions.with(*act)),
        topics: [Pattern::parse(topic).unwrap()].into(),
        max_qos: QoS::AtLeastOnce,
        retain: Retain::Allowed,
        max_payload: None,
        condition: None,
    }
}

fn chain(service: Option<bool>) -> Chained {
    Chained::new(vec![Arc::new(Grants), Arc::new(Service(service))])
}

fn granted(rules: Vec<Rule>, default: RuleEffect) -> Client {
    client("c1", None).granted(Grant::new(rules, default))
}

fn of(ruling: Option<Ruling>) -> (Source, bool) {
    let Ruling { source, verdict } = ruling.unwrap();
    (source, verdict == Verdict::allow(Hook::Publish) || verdict == Verdict::allow(Hook::Subscribe))
}

#[tokio::test]
async fn what_a_grant_knows_is_not_asked_and_the_rest_is() {
    let rules = || {
        vec![
            rule(RuleEffect::Deny, &[Act::Publish], "a/secret"),
            rule(RuleEffect::Ask, &[Act::Publish], "a/maybe"),
            rule(RuleEffect::Allow, &[Act::Publish], "a/${clientid}"),
        ]
    };
    for (default, else_) in [
        (RuleEffect::Ask, (Source::Rpc, true)),
        (RuleEffect::Allow, (Source::Grant, true)),
        (RuleEffect::Deny, (Source::Grant, false)),
    ] {
        let client = granted(rules(), default);
        let chain = chain(Some(true));
        assert_eq!(of(client.publishes(&chain, "a/c1").await), (Source::Grant, true));
        assert_eq!(of(client.publishes(&chain, "a/secret").await), (Source::Grant, false));
        assert_eq!(of(client.publishes(&chain, "a/maybe").await), (Source::Rpc, true));
        assert_eq!(of(client.publishes(&chain, "else").await), else_);
    }
    assert_eq!(of(client("c1", None).publishes(&chain(Some(true)), "a/secret").await), (Source::Rpc, true));
}

#[tokio::test]
async fn ask_that_nobody_can_be_asked_about_is_refused() {
    let maybe = rule(RuleEffect::Ask, &[Act::Publish, Act::Subscribe], "maybe/#");
    let receives = rule(RuleEffect::Deny, &[Act::Receive], "secret");
    for default in [RuleEffect::Ask, RuleEffect::Deny] {
        let client = granted(vec![maybe.clone(), receives.clone()], default);
        let no = (Source::Grant, false);
        for topic in ["maybe/a", "b"] {
            assert_eq!(of(client.publishes(&chain(None), topic).await), no, "{topic}");
            assert_eq!(of(client.receives(&chain(None), topic).await), no, "{topic}");
        }
        for filters in [&["#"][..], &["maybe/a"], &["b", "#"]] {
            let ruling = client.subscribes(&chain(None), filters).await.unwrap();
            assert_eq!(ruling.source, Source::Grant);
            let refused = match ruling.verdict {
                Verdict::SubscribeAll(Decision::Refuse(_)) => true,
                Verdict::Subscribe(all) => all.iter().all(|one| matches!(one, Decision::Refuse(_))),
                _ => false,
            };
            assert!(refused, "{filters:?}");
        }
    }
    // Without a grant, what Hello left out is the service's explicit no-objection.
    let nobody = client("c1", None);
    assert_eq!(of(nobody.publishes(&chain(None), "b").await), (Source::Unasked, true));
    assert_eq!(of(nobody.subscribes(&chain(None), &["#"]).await), (Source::Unasked, true));
}

#[tokio::test]
async fn once_a_grant_is_stale_what_is_not_wanted_meets_the_failure_rule() {
    let rules = vec![
        rule(RuleEffect::Allow, &[Act::Publish, Act::Subscribe], "own/#"),
        rule(RuleEffect::Deny, &[Act::Receive], "secret"),
    ];
    let failure = Failure::new(FailureKind::Unavailable, "nobody renews it");
    let stale = Grant::new(rules, RuleEffect::Deny).stale(failure.clone().into());
    let client = client("c1", None).granted(stale);
    let failed = Some(Verdict::Failed(failure));
    let verdict = |ruling: Option<Ruling>| ruling.map(|ruling| ruling.verdict);
    for topic in ["own/a", "secret"] {
        assert_eq!(verdict(client.publishes(&chain(None), topic).await), failed);
        assert_eq!(verdict(client.receives(&chain(None), topic).await), failed);
        assert_eq!(verdict(client.subscribes(&chain(None), &[topic, "#"]).await), failed);
        // What is wanted is asked about, as without any grant.
        assert_eq!(of(client.publishes(&chain(Some(false)), topic).await), (Source::Rpc, false));
    }
    assert_ne!(chain(None).0.want_of(Hook::Deliver, &client.peer), Want::Nothing);
}

#[tokio::test]
async fn a_rule_file_that_knows_the_user_renews_no_grant() {
    let acl =
        Acl::parse("anonymous = true\n[[rules]]\neffect = \"allow\"\ntopics = [\"#\"]", "test.toml").unwrap();
    let acl: Arc<dyn Decider> = Arc::new(AclAdviser::new(acl, UnknownUsers::LeaveToOthers));
    let client = granted(Vec::new(), RuleEffect::Deny);
    let (connect, renewal) = (client.connects(&*acl).await.unwrap(), client.renews(&*acl).await);
    assert_eq!((connect.source, renewal), (Source::Acl, None));
    // The service gave it, and is asked; where it does not give grants, nobody is.
    let service: Arc<dyn Decider> = Arc::new(Service(Some(false)));
    let renewal = client.renews(&Chained::new(vec![Arc::clone(&acl), service])).await.unwrap();
    assert_eq!(
        (renewal.source, renewal.verdict),
        (Source::Rpc, Verdict::refuse(Hook::Connect, Refusal::default()))
    );
    let renewal = client.renews(&Chained::new(vec![acl])).await.unwrap();
    assert!(matches!(renewal.verdict, Verdict::Failed(_)), "{renewal:?}");
}

#[tokio::test]
async fn filters_are_decided_one_by_one_and_only_the_open_ones_are_asked_about() {
    let rules = || {
        vec![
            rule(RuleEffect::Deny, &[Act::Subscribe], "a/secret"),
            rule(RuleEffect::Allow, &[Act::Subscribe], "a/#"),
        ]
    };
    let yes = Decision::Allow(FilterChange::default());
    let no = Decision::Refuse(Refusal::default());
    let lowered = Decision::Allow(FilterChange {
        filter: None,
        max_qos: Some(QoS::AtLeastOnce),
        ..FilterChange::default()
    });
    for (service, open, source) in
        [(Some(true), &yes, Source::Rpc), (Some(false), &no, Source::Rpc), (None, &no, Source::Grant)]
    {
        let ruling = granted(rules(), RuleEffect::Ask)
            .subscribes(&chain(service), &["a/b", "b", "a/+", "$share/g/a/c"])
            .await
            .unwrap();
        let verdicts = vec![lowered.clone(), open.clone(), no.clone(), lowered.clone()];
        assert_eq!((ruling.source, ruling.verdict), (source, Verdict::Subscribe(verdicts)));
    }
    assert_eq!(
        of(granted(rules(), RuleEffect::Ask).subscribes(&chain(Some(true)), &["b"]).await),
        (Source::Rpc, true)
    );
}

#[tokio::test]
async fn deliveries_are_looked_into_only_for_those_whose_grant_names_them() {
    let chain = chain(Some(true));
    let nobody = client("c1", None);
    let publishes = granted(vec![rule(RuleEffect::Deny, &[Act::Publish], "a")], RuleEffect::Deny);
    let receives = granted(vec![rule(RuleEffect::Deny, &[Act::Receive], "a")], RuleEffect::Allow);
    assert_eq!(chain.0.want_of(Hook::Deliver, &nobody.peer), Want::Nothing);
    assert_eq!(chain.0.want_of(Hook::Deliver, &publishes.peer), Want::Nothing);
    assert_eq!(chain.0.want_of(Hook::Deliver, &receives.peer), Want::Head);
    assert_eq!(of(receives.receives(&chain, "a").await), (Source::Grant, false));
    assert_eq!(of(receives.receives(&chain, "b").await), (Source::Grant, true));
}

#[tokio::test]
async fn a_rule_file_is_asked_first_and_its_silence_denies_what_the_grant_leaves_open() {
    let rules = "[[rules]]\neffect = \"deny\"\ntopics = [\"a/secret\"]";
    let acl = AclAdviser::new(Acl::parse(rules, "test.toml").unwrap(), UnknownUsers::LeaveToOthers);
    let chain = Chained::new(vec![Arc::new(acl), Arc::new(Grants), Arc::new(Service(None))]);
    let client =
        granted(vec![rule(RuleEffect::Allow, &[Act::Publish, Act::Subscribe], "a/#")], RuleEffect::Ask);
    assert_eq!(of(client.publishes(&chain, "a/secret").await), (Source::Acl, false));
    assert_eq!(of(client.publishes(&chain, "a/b").await), (Source::Grant, true));
    assert_eq!(of(client.publishes(&chain, "b").await), (Source::Grant, false));
    let ruling = client.subscribes(&chain, &["a/secret", "a/b", "b"]).await.unwrap();
    let Verdict::Subscribe(verdicts) = ruling.verdict else { panic!("{ruling:?}") };
    let refused: Vec<bool> = verdicts.iter().map(|one| matches!(one, Decision::Refuse(_))).collect();
    assert_eq!(refused, [true, false, true]);
}

#[test]
fn a_decision_by_grant_allocates_nothing() {
    let rules = vec![
        rule(RuleEffect::Deny, &[Act::Publish], "a/secret"),
        rule(RuleEffect::Allow, &[Act::Publish], "a/${clientid}/#"),
    ];
    let (client, chain) = (granted(rules, RuleEffect::Deny), chain(Some(true)));
    let question = client.publish("a/c1/b");
    let cost = measure(|| {
        for _ in 0..100 {
            assert_ne!(chain.0.want_of(Hook::Publish, &client.peer), Want::Nothing);
            assert!(matches!(chain.0.publish(&question), Ruled::Now(_)));
        }
    });
    assert_eq!(cost.count_total, 0);
}
