//! What `mproxy rules` says of a rule file, and what the adviser of a running mproxy decides by the same file: the same.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod common;

use std::sync::Arc;

use common::{Client, client, heard};
use mproxy_codec::packet::connect::Will;
use mproxy_codec::packet::subscribe::{FilterRequest, RetainHandling};
use mproxy_codec::property::Properties;
use mproxy_codec::topic::TopicFilter;
use mproxy_codec::types::{PacketType, QoS};
use mproxy_core::Chain;
use mproxy_core::peer::TlsFacts;
use mproxy_core::policy::{Admission, Decider, Decision, Hook, PublishQuestion, SubscribeQuestion, Want};
use mproxy_core::rule::Act;
use mproxy_core::session::legal_code;
use mproxy_policy::acl::{
    Acl, AclAdviser, ImpossibleClient, RuleTrial, TrialCase, TrialClient, TrialGround, TrialQuestion,
    UnknownUsers, hash_password,
};
use mproxy_policy::grants::Grants;
use mproxy_sim::Verdict;
use mproxy_testkit::certificates::Folder;
use mproxy_testkit::tokens::{TokenSigner, seconds_from_now};
use serde_json::{Value, json};

const RULES: &str = r##"
anonymous = true
client_ids = ["${username}-*", "free"]

[jwt]
audiences = ["mqtt"]
required_claims = ["must"]
groups = "roles"
[[jwt.keys]]
public_key = "key"

[require]
mqtts = ["certificate", "token"]

[[rules]]
effect = "deny"
topics = ["secret/#"]
[[rules]]
effect = "allow"
users = ["ann"]
actions = ["publish", "subscribe", "will"]
topics = ["ann/#"]
max_qos = 1
retain = false

[[grants]]
groups = ["dev"]
publish = ["dev/${username}/#"]
max_qos = 1
default = "deny"
[[grants]]
groups = ["ops"]
subscribe = ["ops/#"]
will = ["ops/gone"]
[[grants]]
certificate = { uri = ["spiffe://a.example/*"] }
publish = ["cert/#"]
receive = ["cert/#"]
[[grants]]
claims = { plan = "7" }
prefix = "t/${claim.tenant}"
publish = ["#"]
subscribe = ["#"]
retain = false
"##;

/// What a client shows a running mproxy.
enum Shows {
    Nothing,
    Password(&'static str),
    Token(Value),
}

/// The clients, as a case says it, and as they come.
fn clients() -> Vec<(&'static str, Client, Shows)> {
    let certified = |client: Client, listener: &str, uri: Option<&str>| {
        let mut client = client;
        let origin = Arc::make_mut(&mut Arc::make_mut(&mut client.peer).origin);
        origin.listener = listener.into();
        origin.tls = uri.map(|uri| {
            let subject_alt_names = vec![format!("URI:{uri}")];
            let fingerprint = Some("ab".repeat(32));
            Box::new(TlsFacts { subject_alt_names, fingerprint, ..TlsFacts::default() })
        });
        client
    };
    let token = |id: &'static str, claims: Value| (client(id, Some("jwt")), Shows::Token(claims));
    let mut all = Vec::new();
    let mut add = |case, (client, shows)| all.push((case, client, shows));
    add(
        "client_id = \"bob-1\", claims = { sub = \"bob\", must = 1, roles = [\"dev\"] }",
        token("bob-1", json!({ "sub": "bob", "must": 1, "roles": ["dev"] })),
    );
    add(
        "client_id = \"bob-1\", username = \"bob\", groups = [\"dev\", \"ops\"], claims = { must = true }",
        token("bob-1", json!({ "sub": "bob", "must": true, "roles": ["dev", "ops"] })),
    );
    add(
        "client_id = \"bob-1\", username = \"bob\", claims = { roles = \"dev\" }",
        token("bob-1", json!({ "sub": "bob", "roles": "dev" })),
    );
    add("client_id = \"bob-1\", claims = { must = 1 }", token("bob-1", json!({ "must": 1 })));
    add(
        "client_id = \"eve-1\", claims = { sub = \"bob\", must = 1 }",
        token("eve-1", json!({ "sub": "bob", "must": 1 })),
    );
    add(
        "client_id = \"bob-1\", claims = { sub = \"bob\", must = 1, aud = \"other\" }",
        token("bob-1", json!({ "sub": "bob", "must": 1, "aud": "other" })),
    );
    add(
        "client_id = \"ann-1\", claims = { sub = \"ann\", must = 1 }",
        token("ann-1", json!({ "sub": "ann", "must": 1 })),
    );
    for (case, tenant) in [
        ("\"acme\"", json!("acme")),
        ("\"a/+\"", json!("a/+")),
        ("[\"a\", \"b\"]", json!(["a", "b"])),
        ("\"\"", json!("")),
        ("{ x = 1 }", json!({ "x": 1 })),
    ] {
        let case = format!(
            "client_id = \"bob-1\", username = \"bob\", claims = {{ must = 1, plan = 7, tenant = {case} }}"
        );
        let claims = json!({ "sub": "bob", "must": 1, "plan": 7, "tenant": tenant });
        add(Box::leak(case.into_boxed_str()), token("bob-1", claims));
    }
    let known = |id: &str, name: &'static str| (client(id, Some(name)), Shows::Password("right"));
    add("client_id = \"ann-1\", username = \"ann\"", known("ann-1", "ann"));
    add("client_id = \"bob-1\", username = \"ann\"", known("bob-1", "ann"));
    add("client_id = \"zoe-1\", username = \"zoe\"", known("zoe-1", "zoe"));
    add("client_id = \"free\"", (client("free", None), Shows::Nothing));
    add("client_id = \"other\"", (client("other", None), Shows::Nothing));
    let uri = "spiffe://a.example/x";
    for (case, listener, uri) in [
        ("listener = \"mqtts\", uri = [\"spiffe://a.example/x\"]", "mqtts", Some(uri)),
        ("listener = \"mqtts\", uri = [\"spiffe://b.example/x\"]", "mqtts", Some("spiffe://b.example/x")),
        ("uri = [\"spiffe://a.example/x\"]", "mqtt", Some(uri)),
        ("listener = \"mqtts\"", "mqtts", None),
    ] {
        let case = format!("client_id = \"free\", {case}");
        let client = certified(client("free", None), listener, uri);
        add(Box::leak(case.into_boxed_str()), (client, Shows::Nothing));
    }
    all
}

fn questions() -> Vec<TrialQuestion> {
    let all = [
        (Act::Publish, "dev/bob/x", 1, false),
        (Act::Publish, "dev/bob/x", 2, false),
        (Act::Publish, "dev/ann/x", 1, false),
        (Act::Publish, "secret/x", 0, false),
        (Act::Publish, "ann/x", 1, false),
        (Act::Publish, "ann/x", 2, false),
        (Act::Publish, "ann/x", 1, true),
        (Act::Publish, "cert/x", 1, false),
        (Act::Publish, "$SYS/x", 1, false),
        (Act::Subscribe, "ann/#", 2, false),
        (Act::Subscribe, "#", 2, false),
        (Act::Subscribe, "ops/x", 2, false),
        (Act::Subscribe, "$share/g/ops/+", 1, false),
        (Act::Subscribe, "secret/x", 1, false),
        (Act::Receive, "cert/x", 0, false),
        (Act::Receive, "other", 0, false),
        (Act::Will, "ops/gone", 1, false),
        (Act::Will, "ann/gone", 1, false),
        (Act::Will, "ann/gone", 2, false),
        (Act::Will, "ann/gone", 1, true),
        (Act::Will, "secret/gone", 1, false),
    ];
    let question = |(act, name, qos, retain): (_, &str, _, _)| {
        let qos = QoS::from_bits(qos).unwrap();
        TrialQuestion { qos, retain, ..TrialQuestion::plain(act, name) }
    };
    all.into_iter().map(question).collect()
}

/// The client as it is let in, or the code of its CONNACK.
async fn connects(somebody: &Client, chain: &Chain) -> Result<Client, u8> {
    let chained = common::Chained(chain.clone());
    match somebody.connects(&chained).await.unwrap().verdict {
        Verdict::Connect(Decision::Allow(admission)) => {
            let mut peer = Arc::clone(&somebody.peer);
            if let Some(Admission { username, attributes, grant, .. }) = admission.map(|it| *it) {
                let own = Arc::make_mut(&mut peer);
                own.username = username.or_else(|| own.username.clone());
                (own.attributes, own.grant) = (attributes.into(), grant);
            }
            Ok(Client { peer, password: None, will: None, properties: Vec::new(), passes_auth: false })
        }
        Verdict::Connect(Decision::Refuse(refusal)) => Err(legal_code(PacketType::Connack, refusal.reason).0),
        other => panic!("{other:?}"),
    }
}

/// What a running mproxy answers to this, which comes behind the CONNECT or in it.
async fn answers(somebody: &Client, chain: &Chain, question: &TrialQuestion) -> Result<u8, u8> {
    let TrialQuestion { act, name, qos, retain, .. } = question;
    let publish = |peer| PublishQuestion { qos: *qos, retain: *retain, peer, ..somebody.publish(name) };
    if *act == Act::Will {
        let topic: &'static str = Box::leak(name.clone().into_boxed_str());
        let will = Will { qos: *qos, retain: *retain, properties: Properties::EMPTY, topic, payload: b"" };
        let dying = Client {
            peer: Arc::clone(&somebody.peer),
            password: somebody.password,
            will: Some(will),
            properties: Vec::new(),
            passes_auth: false,
        };
        return connects(&dying, chain).await.map(|_| *qos as u8);
    }
    let client = connects(somebody, chain).await?;
    let chained = common::Chained(chain.clone());
    let verdict = match act {
        Act::Subscribe => {
            let filters = [FilterRequest {
                filter: TopicFilter::new(name).unwrap(),
                qos: *qos,
                no_local: false,
                retain_as_published: false,
                retain_handling: RetainHandling::Send,
            }];
            let question = SubscribeQuestion::new(&client.peer, &filters, Properties::EMPTY);
            heard(chained.subscribe(&question)).await.unwrap().verdict
        }
        Act::Receive if chain.want_of(Hook::Deliver, &client.peer) == Want::Nothing => return Ok(*qos as u8),
        Act::Receive => heard(chained.deliver(&publish(&client.peer))).await.unwrap().verdict,
        Act::Publish | Act::Will => heard(chained.publish(&publish(&client.peer))).await.unwrap().verdict,
    };
    let refused = |packet, reason| Err(legal_code(packet, reason).0);
    match verdict {
        Verdict::Publish(Decision::Allow(_)) => Ok(*qos as u8),
        Verdict::Publish(Decision::Refuse(refusal)) => refused(PacketType::Puback, refusal.reason),
        Verdict::SubscribeAll(Decision::Allow(())) => Ok(*qos as u8),
        Verdict::SubscribeAll(Decision::Refuse(refusal)) => refused(PacketType::Suback, refusal.reason),
        Verdict::Subscribe(mut all) => match all.remove(0) {
            Decision::Allow(change) => Ok(change.max_qos.unwrap_or(*qos).min(*qos) as u8),
            Decision::Refuse(refusal) => refused(PacketType::Suback, refusal.reason),
        },
        other => panic!("{other:?}"),
    }
}

struct RuleHouse {
    signer: TokenSigner,
    folder: Folder,
}

impl RuleHouse {
    fn new() -> Self {
        let (signer, folder) = (TokenSigner::es256(), Folder::default());
        folder.write("key", signer.verifying_file());
        let hash = hash_password("right").unwrap();
        let users =
            format!("{RULES}[[users]]\nname = \"ann\"\npassword = \"{hash}\"\ngroups = [\"ops\", \"dev\"]\n");
        folder.write("rules.toml", users);
        Self { signer, folder }
    }

    fn acl(&self) -> Acl {
        Acl::load(self.folder.file("rules.toml")).unwrap_or_else(|errors| panic!("{errors}"))
    }

    fn token(&self, claims: &Value) -> &'static str {
        let mut all = json!({ "aud": "mqtt", "exp": seconds_from_now(600) });
        for (name, value) in claims.as_object().unwrap() {
            all[name] = value.clone();
        }
        Box::leak(self.signer.token(&all).into_boxed_str())
    }
}

fn trial_client(case: &str) -> TrialClient {
    let text = format!("[[cases]]\nclient = {{ {case} }}\npublish = \"x\"\nexpect = \"deny\"\n");
    TrialCase::parse(&text, "c.toml").unwrap_or_else(|errors| panic!("{errors}")).remove(0).client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trial_decides_as_the_adviser_of_a_running_proxy_does() {
    let house = RuleHouse::new();
    let trial = RuleTrial::new(house.acl());
    let adviser = AclAdviser::new(house.acl(), UnknownUsers::Refuse);
    let chain = Chain::new(vec![Arc::new(adviser), Arc::new(Grants)]);
    let (mut yes, mut no) = (0, 0);
    for (case, mut somebody, shows) in clients() {
        somebody.password = match &shows {
            Shows::Nothing => None,
            Shows::Password(password) => Some(password),
            Shows::Token(claims) => Some(house.token(claims)),
        };
        let supposed = trial_client(case);
        // One password is worth ten milliseconds; a debug build has ten times that.
        for question in questions() {
            let said = trial.try_out(&supposed, &question).await.unwrap();
            let lives = answers(&somebody, &chain, &question).await;
            let told = said.verdict.map(|qos| qos as u8).map_err(|reason| reason.0);
            assert_eq!(told, lives, "{case}\n{question:?}\n{said:?}");
            *(if told.is_ok() { &mut yes } else { &mut no }) += 1;
        }
    }
    assert!(yes > 40 && no > 200, "{yes} {no}");
}

#[tokio::test]
async fn a_trial_says_why_a_client_is_not_let_in() {
    let house = RuleHouse::new();
    let trial = RuleTrial::new(house.acl());
    let question = &questions()[0];
    for (case, code, why) in [
        ("claims = { sub = \"a\" }", 0x87, "token lacks claim must"),
        ("claims = { must = 1 }", 0x87, "token lacks claim sub"),
        ("claims = { sub = \"a\", must = 1, exp = 1 }", 0x87, "token expired"),
        ("listener = \"mqtts\"", 0x87, "certificate or token required"),
        ("client_id = \"zoe-1\", username = \"zoe\"", 0x86, "no user name, or one that it does not know"),
    ] {
        let outcome = trial.try_out(&trial_client(case), question).await.unwrap();
        assert_eq!(outcome.verdict.unwrap_err().0, code, "{case}");
        assert_eq!(outcome.by, TrialGround::NotLetIn(why.to_owned()), "{case}");
    }
}

#[tokio::test]
async fn a_hook_service_lets_in_whom_the_file_does_not_know_and_those_alone() {
    let house = RuleHouse::new();
    let trial = RuleTrial::new(house.acl());
    let question = TrialQuestion::plain(Act::Publish, "secret/x");
    let by = |case| {
        let (client, question, trial) = (trial_client(case), &question, &trial);
        async move { trial.try_out(&client, question).await.map(|outcome| outcome.by) }
    };
    let zoe = "client_id = \"zoe-1\", username = \"zoe\"";
    assert!(matches!(by(zoe).await, Ok(TrialGround::NotLetIn(_))));
    let served = format!("{zoe}, groups = [\"x\"], service = true");
    assert!(matches!(by(&served).await, Ok(TrialGround::Rule(_))));
    assert_eq!(
        by("client_id = \"eve-1\", username = \"zoe\", service = true").await,
        Ok(TrialGround::ClientId)
    );
    assert_eq!(by("username = \"ann\", groups = [\"x\"]").await, Err(ImpossibleClient::NoGroups));
    assert_eq!(by("claims = {}, service = true").await, Err(ImpossibleClient::TokenAndService));
    let plain = RuleTrial::new(Acl::parse("[[rules]]\neffect = \"allow\"\ntopics = [\"#\"]\n", "r").unwrap());
    assert_eq!(plain.try_out(&trial_client("claims = {}"), &question).await, Err(ImpossibleClient::NoTokens));
}
