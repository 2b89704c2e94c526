//! The rule file's `[jwt]`, seen from the session: clients with tokens, and key sets that come from elsewhere and change.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod common;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{Chained, Client, Ruling, client};
use mproxy_codec::types::QoS;
use mproxy_core::fault::Fault;
use mproxy_core::grant::GrantExpiry;
use mproxy_core::peer::{RequestToken, WsFacts};
use mproxy_core::policy::{About, Admission, Decider, Decision, Refusal, Source};
use mproxy_policy::acl::{Acl, AclAdviser, KeySetState, UnknownUsers};
use mproxy_policy::watch::{KeyReadOutcome, TokenOutcome, Watch};
use mproxy_sim::Verdict;
use mproxy_testkit::certificates::Folder;
use mproxy_testkit::json_service::{JsonPlay, JsonService};
use mproxy_testkit::tokens::{TokenSigner, key_set, seconds_from_now};
use serde_json::{Value, json};

fn leaked(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

/// A folder with the signer's key in it, and a rule file beside it that ends with this.
fn file(signer: &TokenSigner, rest: &str) -> (Folder, Result<Acl, String>) {
    let folder = Folder::default();
    folder.write("key", String::from_utf8(signer.verifying_file()).unwrap());
    let kind = if matches!(signer, TokenSigner::Hs256(_)) { "secret" } else { "public_key" };
    let keys = format!("[[jwt.keys]]\n{kind} = \"key\"\n");
    let acl = read(&folder, &format!("{rest}\n{keys}"));
    (folder, acl)
}

fn read(folder: &Folder, text: &str) -> Result<Acl, String> {
    let path = folder.write("rules.toml", text);
    Acl::parse(text, path.to_str().unwrap()).map_err(|errors| errors.to_string())
}

fn alone(acl: Result<Acl, String>) -> Chained {
    Chained::new(vec![adviser(acl)])
}

fn adviser(acl: Result<Acl, String>) -> Arc<AclAdviser> {
    Arc::new(AclAdviser::new(acl.unwrap_or_else(|errors| panic!("{errors}")), UnknownUsers::Refuse))
}

/// Claims of `sub`, for a minute.
fn claims(sub: &str, more: Value) -> Value {
    let mut claims = json!({ "sub": sub, "exp": seconds_from_now(60) });
    for (name, value) in more.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

fn with_token(token: String) -> Client {
    client("c1", Some("any")).password(leaked(token))
}

fn admission(ruling: Option<Ruling>) -> Admission {
    match ruling.unwrap() {
        Ruling { source: Source::Acl, verdict: Verdict::Connect(Decision::Allow(Some(admission))) } => {
            *admission
        }
        other => panic!("{other:?}"),
    }
}

fn refusal(ruling: Option<Ruling>) -> Refusal {
    match ruling.unwrap() {
        Ruling { source: Source::Acl, verdict: Verdict::Connect(Decision::Refuse(refusal)) } => refusal,
        other => panic!("{other:?}"),
    }
}

fn text(ruling: Option<Ruling>) -> String {
    refusal(ruling).text.map(String::from).unwrap_or_default()
}

#[tokio::test]
async fn a_client_is_who_its_token_says_and_until_when() {
    for signer in TokenSigner::each() {
        let (_folder, acl) = file(&signer, "[jwt]\nclaims = [\"tenant\", \"roles\"]\n");
        let adviser = alone(acl);
        let token =
            signer.token(&claims("ann", json!({ "tenant": "acme", "roles": ["a", "b"], "email": "x" })));
        let came = Instant::now();
        let admission = admission(with_token(token).connects(&adviser).await);
        assert_eq!(admission.username.as_deref(), Some("ann"), "not the one that it sent");
        assert_eq!(admission.password.as_deref(), Some(&b""[..]), "the broker gets no token");
        let attributes: Vec<_> =
            admission.attributes.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(attributes, ["claim.tenant=acme", "claim.roles=a", "claim.roles=b"]);
        let grant = admission.grant.unwrap();
        let (end, expiry) = grant.ends().unwrap();
        let left = end - came;
        assert!(left <= Duration::from_secs(60) && left > Duration::from_secs(55), "{left:?}");
        assert_eq!(expiry, GrantExpiry::Token);
    }
}

#[tokio::test]
async fn a_token_that_is_wrong_is_refused_and_nobody_else_is_asked() {
    let signer = TokenSigner::es256();
    let (_folder, acl) = file(&signer, "anonymous = true\n[jwt]\nissuers = [\"me\"]\n");
    let chain = Chained::new(vec![adviser(acl), Arc::new(Panics)]);
    for (token, why) in [
        (TokenSigner::es256().token(&claims("ann", json!({ "iss": "me" }))), "token signature wrong"),
        (signer.token(&claims("ann", json!({ "iss": "you" }))), "token issuer not accepted"),
        (signer.token(&json!({ "sub": "ann", "iss": "me", "exp": seconds_from_now(-1) })), "token expired"),
        (signer.token(&claims("", json!({ "iss": "me" }))), "token claim sub not usable"),
        (signer.token(&claims("a\0b", json!({ "iss": "me" }))), "token claim sub not usable"),
        ("eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbm4ifQ.".to_owned(), "token header or algorithm not accepted"),
    ] {
        for somebody in [with_token(token.clone()), client("c1", None).password(leaked(token.clone()))] {
            let refusal = refusal(somebody.connects(&chain).await);
            assert_eq!((refusal.reason.0, refusal.about), (0x87, About::Token));
            assert_eq!(refusal.text.as_deref(), Some(why));
        }
    }
}

/// Nobody may come this far.
struct Panics;

impl Decider for Panics {
    fn connect(
        &self,
        _: &mproxy_core::policy::ConnectQuestion<'_>,
    ) -> mproxy_core::policy::Answer<mproxy_core::policy::ConnectDecision> {
        panic!("it was passed on");
    }

    fn want(&self, _: mproxy_core::policy::Hook) -> mproxy_core::policy::Want {
        mproxy_core::policy::Want::Head
    }
}

#[tokio::test]
async fn a_client_without_a_token_is_for_users_and_for_those_who_come_after() {
    let signer = TokenSigner::hs256();
    let (_folder, acl) = file(&signer, "[jwt]\n");
    let open = AclAdviser::new(acl.unwrap(), UnknownUsers::LeaveToOthers);
    assert_eq!(client("c1", Some("bob")).password("sesame").connects(&open).await, None, "the next is asked");
    assert_eq!(client("c1", None).connects(&open).await, None);
    let (_folder, acl) = file(&signer, "[jwt]\n");
    assert_eq!(refusal(client("c1", None).connects(&alone(acl)).await).reason.0, 0x87);
    let (_folder, acl) = file(&signer, "anonymous = true\n[jwt]\nrequired = true\n");
    assert_eq!(text(client("c1", None).connects(&alone(acl)).await), "token required");
}

#[tokio::test]
async fn a_token_is_looked_for_where_the_file_says_and_there_is_one_of_them() {
    let signer = TokenSigner::es256();
    let token = signer.token(&claims("ann", json!({})));
    let by_request = |mut somebody: Client| {
        let ws = WsFacts { token: Some(Box::new(RequestToken::new(&token))), ..WsFacts::default() };
        let peer = Arc::make_mut(&mut somebody.peer);
        Arc::make_mut(&mut peer.origin).ws = Some(Box::new(ws));
        somebody
    };
    let (_folder, acl) = file(&signer, "[jwt]\nfrom = [\"username\", \"websocket\"]\n");
    let adviser = alone(acl);
    let named = client("c1", Some(leaked(token.clone())));
    assert_eq!(admission(named.connects(&adviser).await).username.as_deref(), Some("ann"));
    let asked = by_request(client("c1", None));
    assert_eq!(admission(asked.connects(&adviser).await).username.as_deref(), Some("ann"));
    let kept = asked.peer.origin.ws.as_ref().unwrap().token.as_ref().unwrap().expose();
    assert_eq!(kept, None, "nothing of it is kept");
    let both = by_request(client("c1", Some(leaked(token.clone()))));
    assert_eq!(text(both.connects(&adviser).await), "more than one token");
    // The password is not looked at.
    assert_eq!(refusal(with_token(token.clone()).connects(&adviser).await).about, About::Username);
}

#[tokio::test]
async fn a_token_with_the_scheme_of_http_or_white_space_around_it_is_one() {
    let signer = TokenSigner::es256();
    let token = signer.token(&claims("ann", json!({})));
    for written in [format!("Bearer {token}"), format!("bearer\t{token}"), format!(" {token}\n")] {
        let (_folder, acl) = file(&signer, "[jwt]\nfrom = [\"password\", \"username\"]\n");
        let adviser = alone(acl);
        let by_password = with_token(written.clone());
        assert_eq!(
            admission(by_password.connects(&adviser).await).username.as_deref(),
            Some("ann"),
            "{written}"
        );
        let by_name = client("c1", Some(leaked(written.clone())));
        assert_eq!(admission(by_name.connects(&adviser).await).username.as_deref(), Some("ann"), "{written}");
        let wrong = with_token(written.replace(&token[..20], "eyJhbGciOiJFUzI1NiJ8"));
        assert_eq!(refusal(wrong.connects(&adviser).await).about, About::Token, "it is not left to others");
    }
}

#[tokio::test]
async fn the_broker_gets_what_the_file_says() {
    let signer = TokenSigner::hs256();
    let token = signer.token(&claims("ann", json!({})));
    let login = |broker: &'static str| {
        let signer = TokenSigner::hs256();
        let token = token.clone();
        async move {
            let folder = Folder::default();
            folder.write("key", String::from_utf8(signer.verifying_file()).unwrap());
            folder.write("pw", "s3cret\n");
            let acl = read(&folder, &format!("[jwt]\n{broker}\n[[jwt.keys]]\nsecret = \"key\"\n"));
            let admission = admission(with_token(token).connects(&alone(acl)).await);
            assert_eq!(admission.username.as_deref(), Some("ann"), "for everybody but the broker");
            admission.broker_login
        }
    };
    assert_eq!(login("").await, None);
    assert_eq!(login("broker = \"username\"").await, None);
    let fixed = login("broker = { username = \"mproxy\", password_file = \"pw\" }").await.unwrap();
    assert_eq!(
        (fixed.username.as_deref(), fixed.password.as_deref()),
        (Some("mproxy"), Some(&b"s3cret"[..]))
    );
    assert!(!format!("{fixed:?}").contains("s3cret"));
    let sent = login("broker = \"as_sent\"").await.unwrap();
    assert_eq!((sent.username.as_deref(), sent.password.as_deref()), (Some("any"), Some(token.as_bytes())));
}

#[tokio::test]
async fn rules_hold_for_who_the_token_says_the_client_is() {
    let signer = TokenSigner::ed_dsa();
    let rules = r#"
        client_ids = ["${username}-*"]
        [jwt]
        [[rules]]
        effect = "allow"
        topics = ["will/${username}/${claim.t}"]
        users = ["ann"]
    "#;
    let (_folder, acl) = file(&signer, rules);
    let adviser = alone(acl);
    let token = |sub: &str| leaked(signer.token(&claims(sub, json!({ "t": ["x", "y"] }))));
    let somebody = |id: &str, sub: &str| client(id, Some("ann")).password(token(sub));
    assert!(admission(somebody("ann-1", "ann").connects(&adviser).await).grant.is_some());
    assert_eq!(refusal(somebody("ann-1", "bob").connects(&adviser).await).about, About::ClientId);
    let will = |id, sub, topic| somebody(id, sub).will(topic, QoS::AtMostOnce, false);
    assert!(admission(will("ann-1", "ann", "will/ann/y").connects(&adviser).await).grant.is_some());
    for (id, sub, topic) in [("ann-1", "ann", "will/ann/z"), ("bob-1", "bob", "will/bob/x")] {
        assert_eq!(
            refusal(will(id, sub, topic).connects(&adviser).await).about,
            About::Will,
            "and nobody is asked"
        );
    }
}

#[tokio::test]
async fn what_is_wrong_with_tokens_in_a_file_is_told_all_at_once() {
    let folder = Folder::default();
    folder.write("weak", mproxy_testkit::tokens::RSA_1024_PUBLIC);
    folder.write("short", "sesame");
    folder.write("public", mproxy_testkit::tokens::RSA_PUBLIC);
    let text = r#"[jwt]
from = ["password", "body", "password"]
leeway = 301
issuer = "me"
username = ""
broker = "token"
[[jwt.keys]]
public_key = "weak"
[[jwt.keys]]
secret = "short"
[[jwt.keys]]
secret = "public"
[[jwt.keys]]
public_key = "public"
algorithms = ["none", "ES256"]
[[jwt.keys]]
public_key = "nowhere"
[[jwt.keys]]
kid = "k"
[jwt.key_set]
url = "http://id.example.org/jwks"
refresh = 0
"#;
    let errors = read(&folder, text).unwrap_err();
    for expected in [
        ":2: jwt.from[1]: \"body\" is none of password, username, websocket",
        ":2: jwt.from[2]: \"password\" stands twice",
        ":3: jwt.leeway: must be a whole number from 0 to 300",
        ":4: jwt.issuer: unknown key; the nearest known one is jwt.issuers",
        ":5: jwt.username: must be the name of a claim",
        ":6: jwt.broker: \"token\" is none of username, as_sent",
        ":8: jwt.keys[0].public_key: weak: is an RSA key of 1024 bits",
        ":10: jwt.keys[1].secret: short: is a secret of 6 bytes; HS256 needs at least 32",
        ":12: jwt.keys[2].secret: public: holds PEM",
        ":15: jwt.keys[3].algorithms[0]: \"none\" is none of RS256",
        ":14: jwt.keys[3].public_key: public: cannot verify ES256: it is a key for RS256",
        ":17: jwt.keys[4].public_key: nowhere: cannot be read",
        ":18: jwt.keys[5].public_key: is missing",
        ":21: jwt.key_set.url: \"http://id.example.org/jwks\": fetches keys without TLS",
        ":22: jwt.key_set.refresh: must be a whole number from 1 to 86400",
    ] {
        assert!(errors.contains(expected), "{expected}\n{errors}");
    }
    assert!(read(&folder, "[jwt]\n").unwrap_err().contains(":1: jwt: has no keys"));
}

#[tokio::test]
async fn a_reload_that_loses_tokens_is_a_fault() {
    let (folder, acl) = file(&TokenSigner::hs256(), "anonymous = false\n[jwt]\n");
    let adviser = adviser(acl);
    let path = folder.write("rules.toml", "anonymous = false\n");
    let errors = adviser.read(Path::new(&path)).unwrap_err().to_string();
    assert!(errors.contains("does not say any more how tokens are verified"), "{errors}");
}

/// A key set that changes, and how often it was fetched.
async fn server(play: impl Fn(usize) -> JsonPlay + Send + Sync + 'static) -> (JsonService, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let service = JsonService::start(move |request| {
        assert!(request.line.starts_with("GET /tenant/jwks.json?v=1 HTTP/1.1"), "{}", request.line);
        assert_eq!(request.header("host").map(|host| host.starts_with("127.0.0.1:")), Some(true));
        play(counted.fetch_add(1, Ordering::Relaxed))
    })
    .await;
    (service, count)
}

fn by_url(service: &JsonService, more: &str) -> AclAdviser {
    let url = format!("http://{}/tenant/jwks.json?v=1", service.address());
    let acl = Acl::parse(&format!("[jwt]\n[jwt.key_set]\nurl = \"{url}\"\n{more}"), "rules.toml");
    AclAdviser::new(acl.unwrap_or_else(|errors| panic!("{errors}")), UnknownUsers::Refuse)
}

fn named(signer: &TokenSigner, id: &str) -> Client {
    with_token(signer.token_with(&json!({ "kid": id }), &claims("ann", json!({}))))
}

#[tokio::test]
async fn a_key_set_is_fetched_once_for_all_who_wait_and_again_when_a_key_is_new() {
    let (old, new) = (TokenSigner::es256(), TokenSigner::ed_dsa());
    let sets = [key_set(&[old.jwk("old")]), key_set(&[old.jwk("old"), new.jwk("new")])];
    let (service, count) = server(move |at| JsonPlay::text(&sets[at.min(1)])).await;
    let adviser = by_url(&service, "");
    let many: Vec<_> = (0..50).map(|_| named(&old, "old")).collect();
    let all = futures_util::future::join_all(many.iter().map(|one| one.connects(&adviser))).await;
    all.into_iter().for_each(|ruling| {
        admission(ruling);
    });
    assert_eq!(count.load(Ordering::Relaxed), 1);
    // Rotated: not one is refused.
    for _ in 0..5 {
        admission(named(&new, "new").connects(&adviser).await);
        admission(named(&old, "old").connects(&adviser).await);
    }
    assert_eq!(count.load(Ordering::Relaxed), 2);
    // A wrong signature by a known key is no reason to fetch.
    for _ in 0..5 {
        assert_eq!(
            text(named(&TokenSigner::es256(), "old").connects(&adviser).await),
            "token signature wrong"
        );
    }
    assert_eq!(count.load(Ordering::Relaxed), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_nobody_has_are_not_asked_for_without_end_and_new_ones_are_found_meanwhile() {
    let signers = [(); 3].map(|()| TokenSigner::es256());
    let jwks: Vec<_> = signers.iter().zip(["a", "b", "c"]).map(|(signer, id)| signer.jwk(id)).collect();
    let published = Arc::new(AtomicUsize::new(1));
    let shown = Arc::clone(&published);
    let (service, count) =
        server(move |_| JsonPlay::text(&key_set(&jwks[..shown.load(Ordering::Relaxed)]))).await;
    let adviser = Arc::new(by_url(&service, ""));
    let from = |last: u8, client: Client| client.from(([192, 0, 2, last], 1).into());
    let began = Instant::now();
    let flood: Vec<_> = (0..20)
        .map(|one| {
            let adviser = Arc::clone(&adviser);
            tokio::spawn(async move {
                for at in 0.. {
                    if began.elapsed() > Duration::from_secs(9) {
                        return;
                    }
                    let forged = from(1, named(&TokenSigner::es256(), &format!("x{one}-{at}")));
                    let ruling = forged.connects(&*adviser).await;
                    let refused = matches!(
                        ruling.as_ref().unwrap().verdict,
                        Verdict::Connect(Decision::Refuse(ref refusal)) if refusal.about == About::Token
                    );
                    assert!(refused || is_without_keys(ruling));
                }
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(2)).await;
    admission(from(3, named(&signers[0], "a")).connects(&*adviser).await);
    // Rotated: one address cannot use up all readings.
    published.store(2, Ordering::Relaxed);
    let came = Instant::now();
    admission(from(2, named(&signers[1], "b")).connects(&*adviser).await);
    assert!(came.elapsed() < Duration::from_secs(2), "{:?}", came.elapsed());
    // And whoever comes from there is served by the next one, which it waits for.
    published.store(3, Ordering::Relaxed);
    admission(from(1, named(&signers[2], "c")).connects(&*adviser).await);
    for task in flood {
        task.await.unwrap();
    }
    let fetches = count.load(Ordering::Relaxed) as u64;
    assert!(fetches <= 6 + began.elapsed().as_secs() / 4, "{fetches} in {:?}", began.elapsed());
}

#[tokio::test]
async fn a_token_that_nobody_has_looked_for_a_key_of_is_not_refused() {
    let (old, new) = (TokenSigner::es256(), TokenSigner::es256());
    let set = key_set(&[old.jwk("old")]);
    // It goes away when it has been read.
    let play =
        move |at| if at == 0 { JsonPlay::text(&set) } else { JsonPlay::Status("503 Service Unavailable") };
    let (service, count) = server(play).await;
    let adviser = by_url(&service, "");
    admission(named(&old, "old").connects(&adviser).await);
    assert!(is_without_keys(named(&new, "new").connects(&adviser).await), "the next set may have it");
    assert_eq!(count.load(Ordering::Relaxed), 2);
    admission(named(&old, "old").connects(&adviser).await);
}

#[tokio::test]
async fn a_set_that_is_read_each_second_is_also_read_for_a_new_key() {
    let (old, new) = (TokenSigner::es256(), TokenSigner::es256());
    let jwks = [old.jwk("old"), new.jwk("new")];
    let published = Arc::new(AtomicUsize::new(1));
    let shown = Arc::clone(&published);
    let (service, count) =
        server(move |_| JsonPlay::text(&key_set(&jwks[..shown.load(Ordering::Relaxed)]))).await;
    let adviser = by_url(&service, "refresh = 1\n");
    // Until it was read just now, and so often that a budget for both would be used up.
    while count.load(Ordering::Relaxed) < 6 {
        admission(named(&old, "old").connects(&adviser).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    published.store(2, Ordering::Relaxed);
    admission(named(&new, "new").connects(&adviser).await);
}

fn is_without_keys(ruling: Option<Ruling>) -> bool {
    // Of mproxy's own, so that no failure rule lets it in, and the client may come back.
    matches!(ruling.unwrap().verdict, Verdict::Overloaded(overload) if overload.limit == "token_keys")
}

#[tokio::test]
async fn without_keys_nobody_is_let_in_and_nobody_is_refused_for_good() {
    type MakePlay = fn() -> JsonPlay;
    let huge = || JsonPlay::page("application/json", &vec![b' '; 30 << 20]);
    let plays: [(&str, &str, MakePlay); 7] = [
        ("302", "status", || {
            JsonPlay::Raw(
                b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n".to_vec(),
            )
        }),
        ("500", "status", || JsonPlay::Status("500 Internal Server Error")),
        ("no JSON", "unusable", || JsonPlay::text("<html>")),
        ("deep JSON", "unusable", || JsonPlay::text(&"[{\"keys\":".repeat(20_000))),
        ("no keys", "unusable", || JsonPlay::text("{\"keys\":[]}")),
        ("no HTTP", "no_answer", || JsonPlay::RawAndClose(b"hello\r\n\r\n".to_vec())),
        ("cut short", "no_answer", || {
            JsonPlay::RawAndClose(b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n{".to_vec())
        }),
    ];
    let signer = TokenSigner::es256();
    for (name, outcome, play) in plays {
        let (service, count) = server(move |_| play()).await;
        let counts = Arc::new(Counting::default());
        let adviser = by_url(&service, "").watched_by(Arc::clone(&counts) as _);
        for _ in 0..10 {
            assert!(is_without_keys(named(&signer, "k").connects(&adviser).await), "{name}");
        }
        let fetches = count.load(Ordering::Relaxed);
        assert!(fetches <= 5, "{name}");
        assert_eq!(counts.taken(), [vec![outcome; fetches], vec!["no_keys"; 10]], "{name}");
        assert_eq!(adviser.key_set(), Some(KeySetState { keys: 0, age: None }));
    }
    let without_keys = async |service: &JsonService, outcome: &str| {
        let counts = Arc::new(Counting::default());
        let adviser = by_url(service, "").watched_by(Arc::clone(&counts) as _);
        let began = Instant::now();
        assert!(is_without_keys(named(&signer, "k").connects(&adviser).await), "{outcome}");
        assert_eq!(counts.taken(), [vec![outcome], vec!["no_keys"]]);
        began.elapsed()
    };
    let (service, _) = server(move |_| huge()).await;
    let took = without_keys(&service, "too_large").await;
    assert!(took < Duration::from_secs(4), "it is not read to its end");
    let stalls = JsonPlay::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n{".to_vec());
    for play in [JsonPlay::Never, stalls] {
        let slow = JsonService::start(move |_| play.clone()).await;
        assert!(without_keys(&slow, "too_late").await < Duration::from_secs(6));
    }
    let nobody = JsonService::start(|_| JsonPlay::Never).await;
    let address = nobody.address();
    drop(nobody);
    let acl = Acl::parse(&format!("[jwt]\n[jwt.key_set]\nurl = \"http://{address}/\"\n"), "rules.toml");
    let counts = Arc::new(Counting::default());
    let down = AclAdviser::new(acl.unwrap(), UnknownUsers::Refuse).watched_by(Arc::clone(&counts) as _);
    assert!(is_without_keys(named(&signer, "k").connects(&down).await), "down");
    assert_eq!(counts.taken(), [vec!["unreachable"], vec!["no_keys"]]);
}

/// What was counted, in order: of readings, and of tokens.
#[derive(Default)]
struct Counting([Mutex<Vec<&'static str>>; 2]);

impl Counting {
    fn taken(&self) -> [Vec<&'static str>; 2] {
        self.0.each_ref().map(|counts| std::mem::take(&mut *counts.lock().unwrap()))
    }
}

impl Watch for Counting {
    fn key_set_read(&self, outcome: KeyReadOutcome) {
        self.0[0].lock().unwrap().push(outcome.name());
    }

    fn token(&self, outcome: TokenOutcome) {
        self.0[1].lock().unwrap().push(outcome.name());
    }
}

#[tokio::test]
async fn each_token_is_counted_once_by_what_it_came_to() {
    let (signer, other) = (TokenSigner::es256(), TokenSigner::es256());
    let set = key_set(&[signer.jwk("k")]);
    let (service, _) = server(move |_| JsonPlay::text(&set)).await;
    let counts = Arc::new(Counting::default());
    let more = "[[rules]]\neffect = \"deny\"\ntopics = [\"#\"]\n";
    let adviser = by_url(&service, more).watched_by(Arc::clone(&counts) as _);
    let says = |claims: Value| with_token(signer.token_with(&json!({ "kid": "k" }), &claims));
    let now = seconds_from_now(0);
    for (somebody, outcome) in [
        (named(&signer, "k"), "valid"),
        // Its token is valid, and its will is not.
        (named(&signer, "k").will("x", QoS::AtMostOnce, false), "valid"),
        (named(&other, "k"), "signature"),
        (named(&signer, "x"), "unknown_key"),
        (says(json!({ "sub": "ann", "exp": now - 1 })), "expired"),
        (says(json!({ "sub": "ann", "exp": now + 60, "nbf": now + 50 })), "not_yet_valid"),
        (says(json!({ "sub": "ann", "exp": now + 60, "aud": "x" })), "audience"),
        (says(json!({ "sub": 7, "exp": now + 60 })), "claim"),
        (with_token("eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbm4ifQ.".to_owned()), "algorithm"),
        (with_token("eyJhbGciOi.x.y".to_owned()), "malformed"),
    ] {
        let _ = somebody.connects(&adviser).await;
        assert_eq!(counts.taken()[1], [outcome]);
    }
    // Who has none is not counted here.
    let _ = client("c1", None).connects(&adviser).await;
    assert_eq!(counts.taken()[1], [""; 0]);
    assert!(adviser.key_set().is_some_and(|set| set.keys == 1 && set.age.is_some()));
    // Rules of another file are counted on, and its keys shown.
    adviser
        .replace(Acl::parse("[jwt]\n[jwt.key_set]\nurl = \"http://127.0.0.1:1/\"\n", "rules.toml").unwrap());
    assert_eq!(adviser.key_set(), Some(KeySetState { keys: 0, age: None }));
    let _ = named(&signer, "k").connects(&adviser).await;
    assert_eq!(counts.taken(), [vec!["unreachable"], vec!["no_keys"]]);
}

#[tokio::test]
async fn old_keys_serve_while_new_ones_cannot_be_had_and_not_for_ever() {
    let signer = TokenSigner::es256();
    let set = key_set(&[signer.jwk("k")]);
    let (service, count) =
        server(
            move |at| {
                if at == 0 { JsonPlay::text(&set) } else { JsonPlay::Status("503 Service Unavailable") }
            },
        )
        .await;
    let adviser = by_url(&service, "refresh = 1\nkeep = 3\n");
    let began = Instant::now();
    admission(named(&signer, "k").connects(&adviser).await);
    // Timeouts of this test are those of the file: whole seconds.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    admission(named(&signer, "k").connects(&adviser).await);
    assert!(count.load(Ordering::Relaxed) >= 2, "it was asked first");
    assert_eq!(adviser.key_set().map(|set| set.keys), Some(1));
    tokio::time::sleep_until((began + Duration::from_millis(3200)).into()).await;
    assert_eq!(adviser.key_set().map(|set| set.keys), Some(0), "none that serves");
    assert!(is_without_keys(named(&signer, "k").connects(&adviser).await));
}

#[tokio::test]
async fn a_reload_keeps_the_keys_that_were_fetched() {
    let signer = TokenSigner::es256();
    let set = key_set(&[signer.jwk("k")]);
    let (service, count) = server(move |_| JsonPlay::text(&set)).await;
    let adviser = by_url(&service, "");
    admission(named(&signer, "k").connects(&adviser).await);
    let url = format!("http://{}/tenant/jwks.json?v=1", service.address());
    drop(service);
    let text = format!("[jwt]\nissuers = [\"other\"]\n[jwt.key_set]\nurl = \"{url}\"\n");
    adviser.replace(Acl::parse(&text, "rules.toml").unwrap());
    assert_eq!(self::text(named(&signer, "k").connects(&adviser).await), "token issuer not accepted");
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_key_set_in_a_file_is_read_again_when_a_key_is_new() {
    let (old, new) = (TokenSigner::es256(), TokenSigner::rs256());
    let folder = Folder::default();
    let path = folder.write("jwks.json", key_set(&[old.jwk("old")]));
    let adviser = adviser(read(&folder, "[jwt]\n[jwt.key_set]\nfile = \"jwks.json\"\n"));
    admission(named(&old, "old").connects(&*adviser).await);
    fs::write(&path, key_set(&[new.jwk("new")])).unwrap();
    admission(named(&new, "new").connects(&*adviser).await);
    assert_eq!(text(named(&old, "old").connects(&*adviser).await), "token key unknown");
    // Half of a file is none.
    fs::write(&path, "{\"keys\":[{").unwrap();
    let gone = named(&old, "gone").connects(&*adviser).await;
    assert!(is_without_keys(gone), "what the next file has, nobody knows");
    admission(named(&new, "new").connects(&*adviser).await);
    fs::remove_file(&path).unwrap();
    assert!(
        read(&folder, "[jwt]\n[jwt.key_set]\nfile = \"jwks.json\"\n")
            .unwrap_err()
            .contains("jwks.json: cannot be read")
    );
}

#[test]
fn a_token_says_in_the_log_that_it_is_the_token_and_not_what_it_is() {
    let refusal = Refusal { text: Some("token expired".into()), ..Refusal::default().about(About::Token) };
    let fault = Fault::Refused { hook: mproxy_core::policy::Hook::Connect, refusal: Box::new(refusal) };
    assert_eq!(fault.to_string(), "connect refused (0x87): token: \"token expired\"");
}
