//! A second policy service beside the one in force: what is compared, and that nobody notices.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod common;
mod service;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use common::{Client, client};
use mproxy_codec::types::QoS;
use mproxy_core::grant::Grant;
use mproxy_core::policy::{Decider, Decision, Hook, Source};
use mproxy_core::rule::{Act, Actions, Pattern, Retain, Rule, RuleEffect};
use mproxy_policy::comparison::{Comparison, ShadowOutcome};
use mproxy_policy::remote::Remote;
use mproxy_policy::shadow::Shadow;
use mproxy_policy::watch::Watch;
use mproxy_policy::{Grants, NoWatch};
use mproxy_sim::Verdict;
use mproxy_testkit::PATIENCE;
use mproxy_testkit::service::contract::{
    AuthConnectRequest, ConnectAllow, Deny, Effect, FilterAllow, GrantRule, HelloResponse, Hook as WireHook,
    PublishAllow, Want,
};
use mproxy_testkit::service::{Play, Running, Service, each_filter};
use service::{AMPLE, config};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// A comparison, kept.
#[derive(Debug, PartialEq)]
struct Told {
    hook: Hook,
    topic: Option<String>,
    /// A filter, and how many others.
    filter: Option<(String, usize)>,
    active: ShadowOutcome,
    shadow: ShadowOutcome,
    difference: Option<(String, String)>,
}

struct Listener {
    told: mpsc::UnboundedSender<Told>,
    skipped: mpsc::UnboundedSender<Hook>,
}

impl Watch for Listener {
    fn shadow_compared(&self, comparison: &Comparison<'_>) {
        let Comparison { hook, topic, filter, more_filters, active, shadow, .. } = *comparison;
        let filter = filter.map(|filter| (filter.to_owned(), more_filters));
        let (topic, difference) = (topic.map(str::to_owned), comparison.difference.clone());
        // Nobody listens any more at the end of a test.
        let _ = self.told.send(Told { hook, topic, filter, active, shadow, difference });
    }

    fn shadow_skipped(&self, hook: Hook) {
        let _ = self.skipped.send(hook);
    }
}

/// The service in force with its shadow, as advisers.
struct Pair {
    service: Arc<dyn Decider>,
    shadow: Arc<Shadow>,
    told: mpsc::UnboundedReceiver<Told>,
    skipped: mpsc::UnboundedReceiver<Hook>,
}

impl Pair {
    async fn new(active: &Running, shadow: &str, deadline: Duration) -> Self {
        let (told, told_to) = mpsc::unbounded_channel();
        let (skipped, skipped_to) = mpsc::unbounded_channel();
        let watch = Arc::new(Listener { told, skipped });
        let shadow = Shadow::start(config(&[shadow], deadline), watch).unwrap();
        let remote = Remote::start(config(&[&active.url], AMPLE), Arc::new(NoWatch)).unwrap();
        Self { service: shadow.of_service(remote), shadow, told: told_to, skipped: skipped_to }
    }

    async fn told(&mut self) -> Told {
        timeout(PATIENCE, self.told.recv()).await.unwrap().unwrap()
    }
}

fn somebody() -> Client {
    client("c1", Some("ann")).password("sesame")
}

fn denying() -> Service {
    Service {
        connect: Box::new(|_| Play::answer(Deny::default())),
        publish: Box::new(|_| Play::answer(Deny { reason_code: 0x97, ..Deny::default() })),
        ..Service::default()
    }
}

fn words(active: &str, shadow: &str) -> Option<(String, String)> {
    Some((active.to_owned(), shadow.to_owned()))
}

const ALLOWED: Verdict = Verdict::Publish(Decision::Allow(None));

#[tokio::test]
async fn what_the_shadow_refuses_goes_through_and_is_told() {
    let (active, shadow) = (Running::start(Service::default()).await, Running::start(denying()).await);
    let mut pair = Pair::new(&active, &shadow.url, AMPLE).await;
    let ruling = somebody().publishes(&*pair.service, "a/b").await.unwrap();
    assert_eq!((ruling.source, ruling.verdict), (Source::Rpc, ALLOWED));
    let told = pair.told().await;
    assert_eq!((told.hook, told.topic.as_deref()), (Hook::Publish, Some("a/b")));
    assert_eq!((told.active, told.shadow), (ShadowOutcome::Allowed, ShadowOutcome::Refused));
    assert_eq!(told.difference, words("allowed", "refused 0x97"));
}

#[tokio::test]
async fn the_shadow_gets_no_password_and_is_told_what_it_is() {
    let (came, mut asked) = mpsc::unbounded_channel::<AuthConnectRequest>();
    let shadow = Running::start(Service {
        connect: Box::new(move |request| {
            let _ = came.send(request.get_ref().clone());
            Play::answer(ConnectAllow::default())
        }),
        ..Service::default()
    })
    .await;
    let active = Running::start(Service {
        connect: Box::new(|request| {
            let request = request.get_ref();
            assert_eq!((request.password(), request.shadow), (&b"sesame"[..], false));
            Play::answer(ConnectAllow::default())
        }),
        ..Service::default()
    })
    .await;
    let mut pair = Pair::new(&active, &shadow.url, AMPLE).await;
    somebody().connects(&*pair.service).await.unwrap();
    let request = timeout(PATIENCE, asked.recv()).await.unwrap().unwrap();
    assert_eq!((request.password, request.shadow), (None, true));
    assert_eq!(request.client.unwrap().username(), "ann");
    let told = pair.told().await;
    assert_eq!((told.active, told.shadow), (ShadowOutcome::Allowed, ShadowOutcome::Allowed));
    assert_eq!(told.difference, None);
}

#[tokio::test]
async fn nobody_waits_for_a_silent_shadow_and_what_has_no_room_is_left_out() {
    let active = Running::start(Service::default()).await;
    let shadow = Running::start(Service { publish: Box::new(|_| Play::Never), ..Service::default() }).await;
    let mut pair = Pair::new(&active, &shadow.url, AMPLE).await;
    // Each of these takes three KiB of four thousand.
    let topic = "t".repeat(1000);
    for _ in 0..1500 {
        let ruling = timeout(PATIENCE, somebody().publishes(&*pair.service, &topic)).await.unwrap().unwrap();
        assert_eq!(ruling.verdict, ALLOWED);
    }
    assert_eq!(timeout(PATIENCE, pair.skipped.recv()).await.unwrap(), Some(Hook::Publish));
    timeout(PATIENCE, pair.shadow.stop(AMPLE)).await.unwrap();
}

#[tokio::test]
async fn a_shadow_that_is_away_is_undecided_and_no_difference() {
    let active = Running::start(Service::default()).await;
    let away = format!("http://{}", service::free_address());
    let mut pair = Pair::new(&active, &away, Duration::from_millis(200)).await;
    somebody().publishes(&*pair.service, "a").await.unwrap();
    let told = pair.told().await;
    assert_eq!((told.active, told.shadow), (ShadowOutcome::Allowed, ShadowOutcome::Undecided));
    assert_eq!(told.difference, None);
}

#[tokio::test]
async fn a_shadow_is_not_asked_what_it_does_not_want() {
    let active = Running::start(Service::default()).await;
    let want = |hook: WireHook| Want { hook: hook.into(), ..Want::default() };
    let hello = HelloResponse { wants: vec![want(WireHook::AuthConnect)], ..HelloResponse::default() };
    let shadow = Running::start(Service { hello: Some(hello), ..denying() }).await;
    let mut pair = Pair::new(&active, &shadow.url, AMPLE).await;
    // Its Hello may still be on its way when it is asked first.
    loop {
        somebody().publishes(&*pair.service, "a").await.unwrap();
        if pair.told().await.shadow == ShadowOutcome::Unasked {
            break;
        }
    }
}

#[tokio::test]
async fn filters_are_compared_one_by_one() {
    let judge = |no: &'static str| {
        each_filter(move |filter| match filter == no {
            true => Deny::default().into(),
            false => FilterAllow { cache_for: None, ..FilterAllow::default() }.into(),
        })
    };
    let active = Running::start(Service { subscribe: judge("b"), ..Service::default() }).await;
    let shadow = Running::start(Service { subscribe: judge("c"), ..Service::default() }).await;
    let mut pair = Pair::new(&active, &shadow.url, AMPLE).await;
    somebody().subscribes(&*pair.service, &["a", "b"]).await.unwrap();
    let told = pair.told().await;
    assert_eq!((told.active, told.shadow), (ShadowOutcome::Changed, ShadowOutcome::Allowed));
    assert_eq!((told.filter, told.topic), (Some(("b".to_owned(), 0)), None));
    assert_eq!(told.difference, words("refused 0x87", "allowed"));
    somebody().subscribes(&*pair.service, &["a", "c", "b"]).await.unwrap();
    let told = pair.told().await;
    // Both refuse one and allow the others.
    assert_eq!((told.active, told.shadow), (ShadowOutcome::Changed, ShadowOutcome::Changed));
    assert_eq!(told.filter, Some(("c".to_owned(), 1)));
    assert_eq!(told.difference, words("allowed", "refused 0x87"));
    somebody().subscribes(&*pair.service, &["a"]).await.unwrap();
    let told = pair.told().await;
    assert_eq!((told.filter, told.difference), (None, None));
}

#[tokio::test]
async fn changes_are_named_and_never_shown() {
    let rewriting = |topic: &'static str| Service {
        publish: Box::new(move |_| {
            let payload = Some(b"secret".to_vec());
            Play::answer(PublishAllow { topic: Some(topic.to_owned()), payload, ..PublishAllow::default() })
        }),
        ..Service::default()
    };
    let active = Running::start(rewriting("a")).await;
    let shadow = Running::start(rewriting("b")).await;
    let mut pair = Pair::new(&active, &shadow.url, AMPLE).await;
    somebody().publishes(&*pair.service, "x").await.unwrap();
    let told = pair.told().await;
    assert_eq!((told.active, told.shadow), (ShadowOutcome::Changed, ShadowOutcome::Changed));
    assert_eq!(told.difference, words("allowed with topic, payload", "allowed with topic, payload"));
}

#[tokio::test]
async fn grants_are_alike_that_judge_alike() {
    let granting = |effect: Effect, version: &'static str| Service {
        connect: Box::new(move |_| {
            let rule = GrantRule {
                effect: Effect::Allow.into(),
                topic_filters: vec!["a/#".to_owned()],
                ..GrantRule::default()
            };
            let grant = mproxy_testkit::service::contract::Grant {
                rules: vec![rule],
                default_effect: Some(effect.into()),
                version: version.to_owned(),
                ..Default::default()
            };
            Play::answer(ConnectAllow { grant: Some(grant), ..ConnectAllow::default() })
        }),
        ..Service::default()
    };
    let active = Running::start(granting(Effect::Deny, "1")).await;
    let same = Running::start(granting(Effect::Deny, "2")).await;
    let mut pair = Pair::new(&active, &same.url, AMPLE).await;
    somebody().connects(&*pair.service).await.unwrap();
    assert_eq!(pair.told().await.difference, None);
    let other = Running::start(granting(Effect::Allow, "2")).await;
    let mut pair = Pair::new(&active, &other.url, AMPLE).await;
    somebody().connects(&*pair.service).await.unwrap();
    assert_eq!(pair.told().await.difference, words("allowed with grant 1", "allowed with grant 2"));
}

#[tokio::test]
async fn of_what_a_grant_decides_some_is_compared() {
    let active = Running::start(Service::default()).await;
    let shadow = Running::start(denying()).await;
    let mut pair = Pair::new(&active, &shadow.url, AMPLE).await;
    let grants = pair.shadow.of_grants(Arc::new(Grants), NonZeroU32::new(10).unwrap());
    let rule = Rule {
        effect: RuleEffect::Allow,
        actions: Actions::NONE.with(Act::Publish),
        topics: [Pattern::parse("#").unwrap()].into(),
        max_qos: QoS::ExactlyOnce,
        retain: Retain::Allowed,
        max_payload: None,
        condition: None,
    };
    let granted = somebody().granted(Grant::new(vec![rule], RuleEffect::Deny));
    for number in 0..2000 {
        let topic = if number % 10 == 0 { "tenth" } else { "other" };
        let ruling = granted.publishes(&*grants, topic).await.unwrap();
        assert_eq!((ruling.source, ruling.verdict), (Source::Grant, ALLOWED));
    }
    let mut seen = [0; 2];
    // 200, with a deviation of about 13.
    for _ in 0..130 {
        let told = pair.told().await;
        assert_eq!(told.difference, words("allowed", "refused 0x97"));
        seen[usize::from(told.topic.as_deref() == Some("tenth"))] += 1;
    }
    assert!(seen[0] > 60 && (1..60).contains(&seen[1]), "not each tenth, whatever it is: {seen:?}");
    pair.shadow.stop(AMPLE).await;
    let rest = std::iter::from_fn(|| pair.told.try_recv().ok()).count();
    assert!(rest < 140, "{rest}");
}
