//! Enhanced authentication answered in front of a broker that knows nothing of it: tokens are renewed without a
//! reconnect, and who does not renew is ended in time.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::time::{Duration, SystemTime};

use mproxy_testkit::PATIENCE;
use mproxy_testkit::certificates::Folder;
use mproxy_testkit::mosquitto::Mosquitto;
use mproxy_testkit::process::raise_file_limit;
use mproxy_testkit::service::contract::{
    AuthExchangeRequest, AuthExchangeResponse, Deny, Effect, ExchangeContinue, ExchangeSuccess, Grant,
    HelloResponse, Hook, Want,
};
use mproxy_testkit::service::{AnswerScript, Play, Running, Service};
use mproxy_testkit::tokens::{TokenSigner, seconds_from_now};
use mproxy_testkit::wire::{self, ConnectOptions, Publish, Version, WireClient};
use serde_json::json;
use support::Proxy;
use tokio::time::{Instant, sleep, sleep_until, timeout};

const V5: Version = Version::V5;

/// Authentication Method "token".
const METHOD: &[u8] = b"\x15\0\x05token";

/// The method with this data.
fn with(data: &[u8]) -> Vec<u8> {
    [METHOD, b"\x16\0", &[u8::try_from(data.len()).unwrap()], data].concat()
}

/// A token of so many milliseconds in the CONNECT.
fn connect(client_id: &str, keep_alive: u16, data: &[u8]) -> Vec<u8> {
    let properties = &with(data);
    wire::connect(V5, client_id, &ConnectOptions { keep_alive, properties, ..ConnectOptions::default() })
}

/// A re-authentication.
fn again(data: &[u8]) -> Vec<u8> {
    wire::auth(0x19, &with(data))
}

/// "1500" is a token for so many milliseconds; "hello" is asked for its "proof".
fn tokens(streams: bool) -> Service {
    let exchange: AnswerScript<AuthExchangeRequest, AuthExchangeResponse> = Box::new(|asked| {
        let asked = asked.get_ref();
        assert_eq!(asked.method, "token");
        let data = String::from_utf8(asked.data.clone().unwrap_or_default()).unwrap();
        match (asked.step, &*data, data.parse()) {
            (1, "hello", _) => Play::answer(ExchangeContinue { data: Some(b"prove it".into()) }),
            (2, "proof", _) => Play::answer(ExchangeSuccess { data: Some(b"yours".into()), ..success(5000) }),
            (1, _, Ok(millis)) => Play::answer(success(millis)),
            _ => Play::answer(Deny::default()),
        }
    });
    let wants = [Hook::AuthConnect, Hook::AuthExchange]
        .map(|hook| Want { hook: hook.into(), ..Want::default() })
        .into();
    let hello = Some(HelloResponse { wants, streams, ..HelloResponse::default() });
    Service { hello, exchange, ..Service::default() }
}

/// With a grant that ends in so many milliseconds.
fn success(millis: u64) -> ExchangeSuccess {
    let expires_at = Some((SystemTime::now() + Duration::from_millis(millis)).into());
    let default_effect = Some(Effect::Allow.into());
    let grant = Grant { expires_at, default_effect, version: millis.to_string(), ..Grant::default() };
    ExchangeSuccess { grant: Some(grant), ..ExchangeSuccess::default() }
}

struct TokenHouse {
    broker: Mosquitto,
    service: Running,
    proxy: Proxy,
}

impl TokenHouse {
    async fn new(service: Service, variables: &[(&str, &str)]) -> Self {
        let (broker, service) = (Mosquitto::start().await, Running::start(service).await);
        let proxy = Proxy::asking(&service, broker.addr(), variables).await;
        Self { broker, service, proxy }
    }

    async fn client(&self) -> WireClient {
        WireClient::open(self.proxy.mqtt).await
    }

    /// mosquitto, which logs each packet, has heard of this client, and of no AUTH.
    async fn broker_heard_of_no_auth(mut self, client_id: &str) {
        self.proxy.stop().await;
        self.broker.stop().await;
        let lines = self.broker.process().lines();
        let of = |words: &str| lines.iter().filter(|line| line.contains(words)).count();
        assert!(of(&format!(" as {client_id} ")) > 0, "{lines:#?}");
        assert_eq!(of("AUTH"), 0, "{lines:#?}");
    }
}

/// A yes that names the method [MQTT-4.12.0-5].
async fn expect_connack(client: &mut WireClient) -> Vec<u8> {
    let connack = client.packet().await;
    assert!(matches!(connack[..], [0x20, _, _, 0, ..]), "{connack:02x?}");
    assert!(connack.windows(METHOD.len()).any(|at| at == METHOD), "{connack:02x?}");
    connack
}

#[tokio::test]
async fn a_token_is_renewed_and_the_broker_hears_nothing_of_it() {
    for streams in [false, true] {
        let scene = TokenHouse::new(tokens(streams), &[]).await;
        let mut client = scene.client().await;
        // The broker closes upon a client that it has not heard of for 1.5 s.
        client.send(&connect("renewing", 1, b"1500")).await;
        expect_connack(&mut client).await;
        client.send(&wire::subscribe(V5, 1, &[("a", 0)])).await;
        client.expect(&wire::suback(V5, 1, &[0])).await;
        let begin = Instant::now();
        for turn in 1..=10_u32 {
            sleep_until(begin + turn * Duration::from_millis(300)).await;
            client.send(&again(b"1500")).await;
            client.expect(&wire::auth(0x00, METHOD)).await;
        }
        // It goes on as before.
        let message = wire::publish(V5, &Publish { topic: "a", payload: b"1", ..Publish::default() });
        client.send(&message).await;
        client.expect(&message).await;
        client.expect_nothing_but_pingresp().await;
        assert_eq!(scene.proxy.sessions().await[0]["grant_version"], "1500");
        // Until it renews no more.
        client.send(&again(b"700")).await;
        let renewed = Instant::now();
        client.expect(&wire::auth(0x00, METHOD)).await;
        client.expect(&wire::packet(0xE0, &[0xA0])).await;
        let lasted = renewed.elapsed();
        assert!(lasted > Duration::from_millis(650) && lasted < Duration::from_millis(1700), "{lasted:?}");
        client.expect_closed().await;
        assert_eq!(scene.service.calls("AuthExchange"), 12);
        let series = "mproxy_auth_exchanges_total{kind=\"reauthentication\",outcome=\"success\"}";
        assert_eq!(scene.proxy.metric(series).await, 11.0);
        scene.broker_heard_of_no_auth("renewing").await;
    }
}

#[tokio::test]
async fn steps_go_back_and_forth_before_the_broker_is_reached() {
    for streams in [false, true] {
        let scene = TokenHouse::new(tokens(streams), &[]).await;
        let mut client = scene.client().await;
        client.send(&connect("proving", 0, b"hello")).await;
        client.expect(&wire::auth(0x18, &with(b"prove it"))).await;
        client.send(&wire::auth(0x18, &with(b"proof"))).await;
        let connack = expect_connack(&mut client).await;
        assert!(connack.windows(5).any(|at| at == b"yours"), "{connack:02x?}");
        scene.broker_heard_of_no_auth("proving").await;
    }
}

#[tokio::test]
async fn who_fails_is_refused_and_the_broker_never_hears_of_it() {
    let mut scene = TokenHouse::new(tokens(false), &[]).await;
    let mut client = scene.client().await;
    client.send(&connect("failing", 0, b"nonsense")).await;
    client.expect(&wire::connack(V5, false, 0x87, &[])).await;
    client.expect_closed().await;
    let mut client = scene.client().await;
    client.send(&connect("failing", 0, b"hello")).await;
    client.expect(&wire::auth(0x18, &with(b"prove it"))).await;
    client.send(&wire::auth(0x18, &with(b"nonsense"))).await;
    client.expect(&wire::connack(V5, false, 0x87, &[])).await;
    assert!(!scene.broker.process().lines().iter().any(|line| line.contains("failing")));
    // In an open session it is a DISCONNECT.
    let mut client = scene.client().await;
    client.send(&connect("failing", 0, b"60000")).await;
    expect_connack(&mut client).await;
    client.send(&again(b"nonsense")).await;
    client.expect(&wire::packet(0xE0, &[0x87])).await;
    client.expect_closed().await;
    scene.broker_heard_of_no_auth("failing").await;
}

#[tokio::test]
async fn a_service_that_is_away_lets_nobody_go_on_as_if_it_had_answered() {
    let scene = TokenHouse::new(tokens(false), &[("MPROXY_POLICY_ON_ERROR", "allow")]).await;
    let mut client = scene.client().await;
    client.send(&connect("alone", 0, b"60000")).await;
    expect_connack(&mut client).await;
    scene.service.stop().await;
    client.send(&again(b"60000")).await;
    // Not 0x87: nobody has refused it.
    client.expect(&wire::packet(0xE0, &[0x80])).await;
    let mut client = scene.client().await;
    client.send(&connect("alone", 0, b"60000")).await;
    client.expect_closed().await;
    scene.proxy.stop().await;
}

#[tokio::test]
async fn a_listener_may_leave_it_to_the_broker() {
    let scene = TokenHouse::new(tokens(false), &[("MPROXY_PASS_AUTH", "true")]).await;
    let mut client = scene.client().await;
    client.send(&connect("passing", 0, b"1500")).await;
    let connack = client.packet().await;
    assert_eq!(connack[3], 0x8C, "mosquitto knows no such method: {connack:02x?}");
    assert_eq!(scene.service.calls("AuthExchange"), 0);
    scene.proxy.stop().await;
}

/// What many clients see that re-authenticate every second, half of which stop half way:
/// `MPROXY_CLIENTS=1000 MPROXY_SECONDS=20 cargo test -p mproxy-server --test reauthentication -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn many_clients_re_authenticate_every_second() {
    let number = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let (clients, seconds) = (number("MPROXY_CLIENTS", 1000), number("MPROXY_SECONDS", 20));
    raise_file_limit(4 * u64::from(clients) + 1000);
    let streams = std::env::var("MPROXY_STREAMS").is_ok();
    let scene = TokenHouse::new(tokens(streams), &[]).await;
    let begin = Instant::now() + Duration::from_secs(2);
    let mut tasks = Vec::new();
    for index in 0..clients {
        let mut client = scene.client().await;
        client.send(&connect(&format!("many-{index}"), 10, b"20000")).await;
        expect_connack(&mut client).await;
        tasks.push(tokio::spawn(async move {
            let offset = Duration::from_secs(1) * index / clients;
            let turns = if index % 2 == 0 { seconds } else { seconds / 2 };
            let mut took = Vec::new();
            let mut ends = Instant::now();
            for turn in 0..turns {
                sleep_until(begin + offset + Duration::from_secs(turn.into())).await;
                let asked = Instant::now();
                client.send(&again(b"3000")).await;
                client.expect(&wire::auth(0x00, METHOD)).await;
                took.push(asked.elapsed());
                ends = asked + Duration::from_secs(3);
            }
            // Nobody renews any more: the end comes when the grant says.
            let goodbye = timeout(PATIENCE, client.packet()).await.unwrap();
            assert_eq!(goodbye, wire::packet(0xE0, &[0xA0]));
            (took, Instant::now().duration_since(ends))
        }));
    }
    let (mut took, mut late) = (Vec::new(), Vec::new());
    for task in tasks {
        let (turns, end) = task.await.unwrap();
        took.extend(turns);
        late.push(end);
    }
    took.sort_unstable();
    late.sort_unstable();
    let at = |sorted: &[Duration], part: usize| sorted[(sorted.len() - 1) * part / 1000];
    println!(
        "{clients} clients, {seconds} s, streams {streams}: {} re-authentications, p50 {:?}, p99 {:?}, max {:?}; ended after their time: p50 {:?}, p99 {:?}, max {:?}",
        took.len(),
        at(&took, 500),
        at(&took, 990),
        at(&took, 1000),
        at(&late, 500),
        at(&late, 990),
        at(&late, 1000),
    );
    assert!(late.iter().all(|late| *late < Duration::from_secs(1)), "ended to the second");
    sleep(Duration::from_millis(100)).await;
    scene.broker_heard_of_no_auth("many-0").await;
}

// ---- by the rule file

/// Tokens (JWT) by the method `token`, with a topic for each claim.
const RULES: &str = r#"
[jwt]
method = "token"
[[jwt.keys]]
public_key = "key.pem"
[[rules]]
effect = "allow"
topics = ["rooms/${claim.room}"]
"#;

/// No service is asked, the broker hears of no AUTH and of no token, and no page nor line shows one.
#[tokio::test]
async fn a_jwt_is_renewed_by_the_rule_file_alone() {
    let (mut broker, folder, signer) = (Mosquitto::start().await, Folder::default(), TokenSigner::es256());
    folder.write("key.pem", signer.verifying_file());
    let rules = folder.write("rules.toml", RULES);
    let decisions = folder.file("decisions.log");
    let mut proxy = Proxy::with(
        broker.addr(),
        &[
            ("MPROXY_ACL_FILE", rules.to_str().unwrap()),
            ("MPROXY_LOG_LEVEL", "trace"),
            ("MPROXY_DECISION_LOG_FILE", decisions.to_str().unwrap()),
            ("MPROXY_DECISION_LOG_ALLOWED_ONE_IN", "1"),
        ],
    )
    .await;
    let tap = tokio::spawn(support::http(proxy.admin, "GET", "/api/v1/tap?payload=4096"));
    support::until("the tap is open", async || {
        proxy.http("GET", "/metrics").await.1.contains("mproxy_taps_open 1\n")
    })
    .await;
    let token = |sub: &str, seconds: i64, room: &str| {
        signer.token(&json!({ "sub": sub, "exp": seconds_from_now(seconds), "room": room }))
    };
    let [first, second, third] = [token("ann", 3, "a"), token("ann", 600, "b"), token("bob", 600, "b")];
    let mut client = WireClient::open(proxy.mqtt).await;
    client
        .send(&wire::connect(
            V5,
            "jwt",
            &ConnectOptions { properties: &long(&first), ..ConnectOptions::default() },
        ))
        .await;
    expect_connack(&mut client).await;
    client.send(&wire::subscribe(V5, 1, &[("rooms/a", 0), ("rooms/b", 0)])).await;
    client.expect(&wire::suback(V5, 1, &[0, 0x87])).await;
    client.send(&wire::auth(0x19, &long(&second))).await;
    client.expect(&wire::auth(0x00, METHOD)).await;
    assert_eq!(proxy.sessions().await[0]["username"], "ann");
    // What its new claims do not allow ends, and what they allow can be had.
    client.send(&wire::subscribe(V5, 2, &[("rooms/a", 0), ("rooms/b", 0)])).await;
    client.expect(&wire::suback(V5, 2, &[0x87, 0])).await;
    sleep(Duration::from_millis(3500)).await;
    let message = |topic| wire::publish(V5, &Publish { topic, payload: b"1", ..Publish::default() });
    client.send(&[message("rooms/a"), message("rooms/b")].concat()).await;
    client.expect(&message("rooms/b")).await;
    // Another one's token ends the session; it is not the same client.
    client.send(&wire::auth(0x19, &long(&third))).await;
    let text = b"token of another client";
    let told = [&[0x87, text.len() as u8 + 3, 0x1F, 0, text.len() as u8][..], text].concat();
    client.expect(&wire::packet(0xE0, &told)).await;
    client.expect_closed().await;
    // Nor is one of the wrong key let in by CONNECT.
    let wrong = TokenSigner::es256().token(&json!({ "sub": "ann", "exp": seconds_from_now(60) }));
    let options = ConnectOptions { properties: &long(&wrong), ..ConnectOptions::default() };
    let mut stranger = WireClient::open(proxy.mqtt).await;
    stranger.send(&wire::connect(V5, "wrong", &options)).await;
    assert_eq!(stranger.packet().await[3], 0x87);
    let mut pages = Vec::new();
    for (series, count) in [
        ("mproxy_auth_exchanges_total{kind=\"connect\",outcome=\"success\"}", 1.0),
        ("mproxy_auth_exchanges_total{kind=\"reauthentication\",outcome=\"success\"}", 1.0),
        ("mproxy_auth_exchanges_total{kind=\"reauthentication\",outcome=\"refused\"}", 1.0),
        ("mproxy_tokens_total{outcome=\"valid\"}", 2.0),
        ("mproxy_tokens_total{outcome=\"other_client\"}", 1.0),
        ("mproxy_tokens_total{outcome=\"signature\"}", 1.0),
    ] {
        assert_eq!(proxy.metric(series).await, count, "{series}");
    }
    pages.push(proxy.http("GET", "/api/v1/refusals").await.1);
    proxy.signal("TERM").await;
    let tapped = tap.await.unwrap().1;
    assert!(tapped.contains("\"type\":\"AUTH\""), "{tapped}");
    pages.push(tapped);
    pages.push(proxy.end().await.lines.join("\n"));
    pages.push(std::fs::read_to_string(decisions).unwrap_or_default());
    broker.stop().await;
    let lines = broker.process().lines();
    assert!(lines.iter().any(|line| line.contains(" as jwt ")), "{lines:#?}");
    assert!(!lines.iter().any(|line| line.contains("AUTH") || line.contains(" as wrong ")), "{lines:#?}");
    pages.push(lines.join("\n"));
    for (page, token) in
        pages.iter().flat_map(|page| [&first, &second, &third, &wrong].map(|token| (page, token)))
    {
        for part in token.split('.') {
            assert!(!page.contains(part), "{page}");
        }
    }
}

/// The method with data of any length.
fn long(data: &str) -> Vec<u8> {
    [METHOD, b"\x16", &u16::try_from(data.len()).unwrap().to_be_bytes(), data.as_bytes()].concat()
}
