//! Tokens in AUTH, by the method that the rule file names: in CONNECT, and a newer one in an open session.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Chained, Client, Ruling, client, heard};
use mproxy_codec::types::QoS;
use mproxy_core::grant::{GrantExpiry, Mapping};
use mproxy_core::policy::{
    About, Admission, Authenticated, Decider, Decision, ExchangeQuestion, ExchangeStep, Hook, Refusal, Want,
};
use mproxy_policy::acl::{Acl, AclAdviser, UnknownUsers};
use mproxy_policy::grants::Grants;
use mproxy_sim::Verdict;
use mproxy_testkit::certificates::Folder;
use mproxy_testkit::json_service::{JsonPlay, JsonService};
use mproxy_testkit::tokens::{TokenSigner, key_set, seconds_from_now};
use serde_json::{Value, json};

/// Rules by claims, with a key of this signer.
struct TokenHouse {
    signer: TokenSigner,
    adviser: Arc<AclAdviser>,
    chain: Chained,
}

impl TokenHouse {
    /// A file that begins with this.
    fn new(text: &str) -> Self {
        let (signer, folder) = (TokenSigner::es256(), Folder::default());
        let key = folder.write("key.pem", signer.verifying_file());
        let text = format!("{text}\n[[jwt.keys]]\npublic_key = {key:?}\n");
        let acl = Acl::parse(&text, "rules.toml").unwrap_or_else(|errors| panic!("{errors}"));
        let adviser = Arc::new(AclAdviser::new(acl, UnknownUsers::Refuse));
        let chain = Chained::new(vec![Arc::clone(&adviser) as _, Arc::new(Grants)]);
        Self { signer, adviser, chain }
    }

    /// A token of ann's for so many seconds, with these claims.
    fn token(&self, seconds: i64, more: Value) -> String {
        let mut claims = json!({ "sub": "ann", "exp": seconds_from_now(seconds) });
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.signer.token(&claims)
    }

    /// The client, as it is let in with this token.
    async fn open(&self, token: &str) -> Client {
        let mut client = client("c1", Some("any")).method("JWT", Some(token));
        let Admission { username, attributes, grant, .. } = admission(client.connects(&self.chain).await);
        let peer = Arc::make_mut(&mut client.peer);
        (peer.username, peer.attributes, peer.grant) = (username, attributes.into(), grant);
        client
    }

    /// The same after it has shown this one.
    async fn again(&self, mut client: Client, token: &str) -> Client {
        let Authenticated { attributes, grant, .. } =
            success(client.authenticates(&self.chain, Some(token)).await);
        let peer = Arc::make_mut(&mut client.peer);
        (peer.attributes, peer.grant) = (attributes.unwrap().into(), grant);
        client
    }

    async fn refuses(&self, client: &Client, token: &str) -> String {
        match client.authenticates(&self.chain, Some(token)).await.unwrap().verdict {
            Verdict::Exchange(Decision::Refuse(refusal)) => refusal.text.unwrap_or_default().into(),
            other => panic!("{other:?}"),
        }
    }
}

fn admission(ruling: Option<Ruling>) -> Admission {
    match ruling.unwrap().verdict {
        Verdict::Connect(Decision::Allow(Some(admission))) => *admission,
        other => panic!("{other:?}"),
    }
}

fn refusal(ruling: Option<Ruling>) -> Refusal {
    match ruling.unwrap().verdict {
        Verdict::Connect(Decision::Refuse(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

fn success(ruling: Option<Ruling>) -> Authenticated {
    match ruling.unwrap().verdict {
        Verdict::Exchange(Decision::Allow(ExchangeStep::Success(success))) => *success,
        other => panic!("{other:?}"),
    }
}

/// Seconds until the client's session ends, and what ends then.
fn ends(client: &Client) -> (u64, GrantExpiry) {
    let (at, expiry) = client.peer.grant.as_ref().unwrap().ends().unwrap();
    let left = at.saturating_duration_since(Instant::now()) + Duration::from_millis(999);
    (left.as_secs(), expiry)
}

async fn may(client: &Client, chain: &Chained, topic: &str) -> bool {
    matches!(client.publishes(chain, topic).await.unwrap().verdict, Verdict::Publish(Decision::Allow(_)))
}

#[tokio::test]
async fn a_client_that_names_the_method_shows_its_token_there() {
    let house = TokenHouse::new("[jwt]\nmethod = \"JWT\"");
    let token = house.token(60, json!({}));
    let strange = TokenHouse::new("[jwt]").token(60, json!({}));
    let named = |method, data| client("c1", Some("any")).method(method, data);
    let by_method = admission(named("JWT", Some(&*token)).connects(&house.chain).await);
    assert!(by_method.authenticated && by_method.username.as_deref() == Some("ann"));
    for (somebody, text) in [
        (named("JWT", None), "token required"),
        (named("JWT", Some("sesame")), "token malformed"),
        (named("JWT", Some("eyJ.x.y")), "token malformed"),
        (named("JWT", Some(&*strange)), "token signature wrong"),
        (named("JWT", Some(&*token)).password(leaked(&token)), "more than one token"),
    ] {
        let refusal = refusal(somebody.connects(&house.chain).await);
        assert_eq!((refusal.about, refusal.text.as_deref()), (About::Token, Some(text)));
    }
    // By another method, it is another matter; a token in the password is one all the same.
    let other = named("SCRAM-SHA-1", Some(&*token));
    assert_eq!(refusal(other.connects(&house.chain).await).about, About::Username);
    let both = named("SCRAM-SHA-1", Some("x")).password(leaked(&token));
    assert!(!admission(both.connects(&house.chain).await).authenticated);
    // So it is where AUTH is the broker's.
    let mut passed = named("JWT", Some(&*token));
    passed.passes_auth = true;
    assert_eq!(refusal(passed.connects(&house.chain).await).about, About::Username);
}

fn leaked(text: &str) -> &'static str {
    Box::leak(text.to_owned().into_boxed_str())
}

#[tokio::test]
async fn only_a_file_that_names_a_method_answers_and_only_that_one() {
    let house = TokenHouse::new("[jwt]\nmethod = \"JWT\"");
    assert_eq!(house.adviser.want(Hook::Exchange), Want::Head);
    assert!(house.adviser.takes_method("JWT"));
    for method in ["", "jwt", "JWT ", "SCRAM-SHA-1"] {
        assert!(!house.adviser.takes_method(method), "{method:?}");
    }
    let silent = TokenHouse::new("[jwt]");
    assert_eq!(silent.adviser.want(Hook::Exchange), Want::Nothing);
    assert!(!silent.adviser.takes_method("JWT") && !silent.adviser.takes_method(""));
    // Who was not admitted by its token has not authenticated: a reload came in between.
    let somebody = client("c1", Some("any"));
    let token = house.token(60, json!({}));
    for (again, method) in [(false, "JWT"), (true, "SCRAM-SHA-1")] {
        let question = ExchangeQuestion {
            peer: &somebody.peer,
            method,
            data: Some(token.as_bytes()),
            step: 1,
            again,
            time: None,
        };
        assert_eq!(heard(house.adviser.exchange(&question)).await, None);
    }
    for wrong in ["\"\"", "\"a\\u0000b\"", "7"] {
        let error = Acl::parse(&format!("[jwt]\nmethod = {wrong}\n"), "r.toml").unwrap_err().to_string();
        assert!(error.contains("r.toml:2: jwt.method: "), "{error}");
    }
}

#[tokio::test]
async fn a_newer_token_moves_the_end_and_its_claims_count_from_then_on() {
    let rules = r#"
        [jwt]
        method = "JWT"
        groups = "roles"
        claims = ["plan"]
        [[rules]]
        effect = "allow"
        topics = ["own/${claim.room}/#"]
        [[grants]]
        groups = ["ops"]
        publish = ["ops/#"]
        [[grants]]
        default = "deny"
    "#;
    let house = TokenHouse::new(rules);
    let begin = house.token(60, json!({ "room": "a", "roles": ["ops"], "plan": "gold" }));
    let mut client = house.open(&begin).await;
    assert_eq!(ends(&client), (60, GrantExpiry::Token));
    assert!(may(&client, &house.chain, "own/a/x").await && may(&client, &house.chain, "ops/x").await);
    let later = house.token(600, json!({ "room": ["b", "c"] }));
    client = house.again(client, &later).await;
    assert_eq!(ends(&client), (600, GrantExpiry::Token));
    for (topic, allowed) in [("own/a/x", false), ("own/b/x", true), ("own/c/x", true), ("ops/x", false)] {
        assert_eq!(may(&client, &house.chain, topic).await, allowed, "{topic}");
    }
    assert_eq!(client.peer.attribute("claim.plan"), None, "what the new one does not say is not said");
    // One that says nothing more leaves nothing, and one that ends sooner ends it sooner.
    client = house.again(client, &house.token(30, json!({}))).await;
    assert_eq!((ends(&client), client.peer.attributes.len()), ((30, GrantExpiry::Token), 0));
    assert!(!may(&client, &house.chain, "own/b/x").await);
}

#[tokio::test]
async fn a_token_that_is_wrong_or_another_ones_is_refused() {
    let rules = r#"
        client_ids = ["${claim.device}"]
        [jwt]
        method = "JWT"
        [[grants]]
        prefix = "t/${claim.tenant}/"
    "#;
    let house = TokenHouse::new(rules);
    let own = |seconds| house.token(seconds, json!({ "device": "c1", "tenant": "acme" }));
    let client = house.open(&own(60)).await;
    let with = |more| house.token(60, more);
    let strange = TokenHouse::new("[jwt]").token(60, json!({}));
    for (token, text) in [
        (own(-1), "token expired"),
        (strange, "token signature wrong"),
        ("sesame".to_owned(), "token malformed"),
        ("eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbm4ifQ.".to_owned(), "token header or algorithm not accepted"),
        (with(json!({ "device": "c1", "tenant": "acme", "x": "y".repeat(20_000) })), "token too large"),
        (with(json!({ "device": "c1", "tenant": "acme", "sub": "bob" })), "token of another client"),
        (with(json!({ "device": "c1", "tenant": "acme", "sub": 7 })), "token claim sub not usable"),
        (with(json!({ "device": "c1", "tenant": "other" })), "token of another topic prefix"),
        (with(json!({ "device": "c1" })), "no topic prefix for this client"),
        // Its client id belongs to another device by that one.
        (with(json!({ "device": "c2", "tenant": "acme" })), ""),
    ] {
        assert_eq!(house.refuses(&client, &token).await, text);
    }
    let absent = client.authenticates(&house.chain, None).await.unwrap().verdict;
    assert!(
        matches!(absent, Verdict::Exchange(Decision::Refuse(refusal)) if refusal.text.as_deref() == Some("token required"))
    );
    let client = house.again(client, &own(600)).await;
    assert_eq!(client.peer.grant.as_ref().unwrap().mapping, Mapping::new("t/acme/").ok(), "where it was");
}

#[tokio::test]
async fn a_session_time_runs_from_connect_whatever_tokens_come() {
    let house = TokenHouse::new("[jwt]\nmethod = \"JWT\"\n[[grants]]\nsession = 100\n");
    let mut client = house.open(&house.token(60, json!({}))).await;
    assert_eq!(ends(&client), (60, GrantExpiry::Token));
    // Forty seconds later.
    let grant = Arc::make_mut(Arc::make_mut(&mut client.peer).grant.as_mut().unwrap());
    grant.received = Instant::now().checked_sub(Duration::from_secs(40));
    for _ in 0..2 {
        client = house.again(client, &house.token(600, json!({}))).await;
        assert_eq!(ends(&client), (60, GrantExpiry::Grant), "not the token's end, and not a hundred seconds");
    }
}

#[tokio::test]
async fn a_key_that_is_new_is_looked_for_and_without_keys_nothing_is_said() {
    let (old, new) = (TokenSigner::es256(), TokenSigner::es256());
    let sets = [key_set(&[old.jwk("old")]), key_set(&[old.jwk("old"), new.jwk("new")])];
    let play = std::sync::atomic::AtomicUsize::new(0);
    let service = JsonService::start(move |_| {
        match sets.get(play.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
            Some(set) => JsonPlay::text(set),
            None => JsonPlay::Status("503 Service Unavailable"),
        }
    })
    .await;
    let url = format!("http://{}/keys", service.address());
    let text = format!("[jwt]\nmethod = \"JWT\"\n[jwt.key_set]\nurl = \"{url}\"\n");
    let adviser = AclAdviser::new(Acl::parse(&text, "rules.toml").unwrap(), UnknownUsers::Refuse);
    let chain = Chained::new(vec![Arc::new(adviser)]);
    let token = |signer: &TokenSigner, id: &str| {
        let claims = json!({ "sub": "ann", "exp": seconds_from_now(60) });
        signer.token_with(&json!({ "kid": id }), &claims)
    };
    let mut client = client("c1", None).method("JWT", Some(&token(&old, "old")));
    let admitted = admission(client.connects(&chain).await);
    Arc::make_mut(&mut client.peer).username = admitted.username;
    success(client.authenticates(&chain, Some(&token(&new, "new"))).await);
    let nobody = client.authenticates(&chain, Some(&token(&new, "newer"))).await.unwrap().verdict;
    assert!(matches!(nobody, Verdict::Overloaded(overload) if overload.limit == "token_keys"));
}

/// What a will is has been said at CONNECT: a newer token does not judge it again.
#[tokio::test]
async fn a_will_is_judged_once_by_the_token_of_connect() {
    let rules = "[jwt]\nmethod = \"JWT\"\n[[rules]]\neffect = \"allow\"\ntopics = [\"gone/${claim.room}\"]\n";
    let house = TokenHouse::new(rules);
    let token = |room: &str| house.token(60, json!({ "room": room }));
    let will = |room: &str| {
        client("c1", None).method("JWT", Some(&token(room))).will("gone/a", QoS::AtMostOnce, false)
    };
    assert!(admission(will("a").connects(&house.chain).await).authenticated);
    assert_eq!(refusal(will("b").connects(&house.chain).await).about, About::Will);
}
