//! The admin API before a backend of cards.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt;

use super::view::{ListenerReadiness, Timestamp, TrafficView};
use super::*;
use crate::config::LogLevel;

/// Three sessions, and a memory for what was asked.
#[derive(Default)]
struct Cards {
    kicked: Mutex<Vec<(Uuid, u8)>>,
    draining: AtomicBool,
    unbound: AtomicBool,
}

fn id(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

fn card(n: u128) -> SessionView {
    SessionView {
        connection_id: id(n),
        epoch: 7,
        client_id: Some(format!("client-{n}")),
        username: (n == 2).then(|| "ann".to_owned()),
        listener: "mqtt".to_owned(),
        transport: "tcp",
        peer_addr: "192.0.2.1:50000".to_owned(),
        local_addr: "192.0.2.2:1883".to_owned(),
        grant_version: None,
        protocol: Some("5.0".to_owned()),
        connected_since: Timestamp(UNIX_EPOCH + Duration::from_secs(1)),
        phase: "open",
        traffic: TrafficView { client_packets: 1, client_bytes: 20, broker_packets: 1, broker_bytes: 4 },
    }
}

impl AdminBackend for Cards {
    fn sessions(&self, filter: &SessionFilter, after: Option<Uuid>, limit: usize) -> Page {
        let passes = |session: &SessionView| {
            filter.passes(session.client_id.as_deref(), session.username.as_deref(), &session.listener)
                && after.is_none_or(|after| session.connection_id > after)
        };
        let all: Vec<SessionView> = (1..=3).map(card).filter(passes).collect();
        let next =
            all.get(limit.wrapping_sub(1)).filter(|_| all.len() > limit).map(|last| last.connection_id);
        Page { sessions: all.into_iter().take(limit).collect(), next }
    }

    fn session(&self, connection_id: Uuid) -> Option<SessionView> {
        (1..=3).map(card).find(|session| session.connection_id == connection_id)
    }

    fn kick(&self, connection_id: Uuid, reason: u8) -> bool {
        self.kicked.lock().push((connection_id, reason));
        self.session(connection_id).is_some()
    }

    fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    fn readiness(&self) -> Readiness {
        let address = (!self.unbound.load(Ordering::Relaxed)).then(|| "127.0.0.1:1883".to_owned());
        let listeners = vec![ListenerReadiness { name: "mqtt".to_owned(), address }];
        Readiness {
            draining: self.draining.load(Ordering::Relaxed),
            listeners,
            failed_reloads: self.reloads(),
            ..Readiness::default()
        }
    }

    fn policy_health(&self) -> Vec<EndpointHealth> {
        vec![EndpointHealth {
            endpoint: "http://a:1".to_owned(),
            healthy: false,
            error: Some("refused".to_owned()),
        }]
    }

    fn reloads(&self) -> Vec<ReloadView> {
        vec![ReloadView {
            what: "acl_file",
            used_by: None,
            outcome: "failed",
            at: Timestamp(UNIX_EPOCH),
            error: Some("rules.toml:2: no such effect".to_owned()),
        }]
    }
}

struct Scene {
    cards: Arc<Cards>,
    admin: Admin,
    peer: SocketAddr,
    headers: Vec<(&'static str, &'static str)>,
}

/// A caller on this machine, and no token.
fn scene() -> Scene {
    let cards = Arc::new(Cards::default());
    let admin = Admin {
        backend: Arc::<Cards>::clone(&cards),
        metrics: Arc::new(Metrics::new()),
        log: LogHandle::detached(LogLevel::Info),
        config: Arc::new(json!({ "settings": [] })),
        token: None,
        host: "Mproxy.Internal".into(),
    };
    Scene { cards, admin, peer: SocketAddr::from(([127, 0, 0, 1], 50_000)), headers: Vec::new() }
}

impl Scene {
    fn token(mut self) -> Self {
        self.admin.token = Some(Secret::from("s3cret"));
        self
    }

    fn from(mut self, peer: &str) -> Self {
        self.peer = peer.parse().expect("an address");
        self
    }

    fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }

    async fn ask(&self, method: &str, uri: &str) -> (StatusCode, String) {
        self.send(method, uri, Body::empty()).await
    }

    async fn send(&self, method: &str, uri: &str, body: Body) -> (StatusCode, String) {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in &self.headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(body).expect("a request");
        request.extensions_mut().insert(ConnectInfo(self.peer));
        let response = router(self.admin.clone()).oneshot(request).await.expect("infallible");
        let status = response.status();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        (status, String::from_utf8(body.to_vec()).expect("text"))
    }

    async fn json(&self, method: &str, uri: &str) -> (StatusCode, Value) {
        let (status, body) = self.ask(method, uri).await;
        (status, serde_json::from_str(&body).unwrap_or(Value::Null))
    }
}

#[tokio::test]
async fn health_is_for_everybody() {
    let scene = scene().token().from("192.0.2.9:1");
    assert_eq!(scene.ask("GET", "/healthz").await, (StatusCode::OK, "ok\n".to_owned()));
    assert_eq!(scene.ask("GET", "/readyz").await.0, StatusCode::OK);
    assert_eq!(scene.ask("GET", "/metrics").await.0, StatusCode::OK);
}

#[tokio::test]
async fn not_ready_while_draining_or_unbound() {
    let scene = scene();
    scene.cards.unbound.store(true, Ordering::Relaxed);
    let (status, detail) = scene.json("GET", "/readyz").await;
    assert_eq!((status, &detail["listeners"][0]["address"]), (StatusCode::SERVICE_UNAVAILABLE, &Value::Null));
    scene.cards.unbound.store(false, Ordering::Relaxed);
    assert_eq!(scene.json("POST", "/api/v1/drain").await.0, StatusCode::ACCEPTED);
    let (status, detail) = scene.json("GET", "/readyz").await;
    assert_eq!((status, &detail["draining"]), (StatusCode::SERVICE_UNAVAILABLE, &json!(true)));
}

#[tokio::test]
async fn metrics_come_in_the_format_that_was_asked_for() {
    let scene = scene().header("accept", "application/openmetrics-text; version=1.0.0");
    assert!(scene.ask("GET", "/metrics").await.1.ends_with("# EOF\n"));
}

#[tokio::test]
async fn sessions_are_listed_page_by_page() {
    let scene = scene();
    let (status, page) = scene.json("GET", "/api/v1/sessions?limit=2").await;
    assert_eq!((status, page["sessions"].as_array().map(Vec::len)), (StatusCode::OK, Some(2)));
    assert_eq!(page["sessions"][0]["connected_since"], "1970-01-01T00:00:01.000Z");
    let next = page["next"].as_str().expect("more");
    let (_, page) = scene.json("GET", &format!("/api/v1/sessions?limit=2&after={next}")).await;
    assert_eq!(page["sessions"].as_array().map(Vec::len), Some(1));
    assert_eq!(page.get("next"), None);
}

#[tokio::test]
async fn sessions_are_filtered() {
    let (_, page) = scene().json("GET", "/api/v1/sessions?username=ann&listener=mqtt").await;
    assert_eq!(page["sessions"].as_array().map(Vec::len), Some(1));
    assert_eq!(page["sessions"][0]["client_id"], "client-2");
}

#[tokio::test]
async fn nonsense_is_a_bad_request_in_json() {
    let scene = scene();
    for uri in [
        "/api/v1/sessions?limit=0",
        "/api/v1/sessions?limit=1001",
        "/api/v1/sessions?limit=x",
        "/api/v1/sessions?after=x",
        "/api/v1/sessions/not-a-uuid",
    ] {
        let (status, body) = scene.json("GET", uri).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{uri}");
        assert!(body["error"].is_string(), "{uri}");
    }
}

#[tokio::test]
async fn one_session_is_shown_in_detail() {
    let scene = scene();
    let (status, session) = scene.json("GET", &format!("/api/v1/sessions/{}", id(2))).await;
    assert_eq!((status, &session["username"]), (StatusCode::OK, &json!("ann")));
    assert_eq!(session["traffic"]["client_bytes"], 20);
    let (status, body) = scene.json("GET", &format!("/api/v1/sessions/{}", id(9))).await;
    assert_eq!((status, body), (StatusCode::NOT_FOUND, json!({ "error": "no such session" })));
}

#[tokio::test]
async fn a_kick_carries_its_reason() {
    let scene = scene();
    let one = format!("/api/v1/sessions/{}", id(1));
    assert_eq!(scene.ask("DELETE", &one).await.0, StatusCode::NO_CONTENT);
    assert_eq!(scene.ask("DELETE", &format!("{one}?reason=0x87")).await.0, StatusCode::NO_CONTENT);
    assert_eq!(scene.ask("DELETE", &format!("{one}?reason=139")).await.0, StatusCode::NO_CONTENT);
    for wrong in ["0", "0x04", "256", "x", "-1"] {
        assert_eq!(scene.ask("DELETE", &format!("{one}?reason={wrong}")).await.0, StatusCode::BAD_REQUEST);
    }
    assert_eq!(*scene.cards.kicked.lock(), [(id(1), 0x98), (id(1), 0x87), (id(1), 139)]);
    assert_eq!(scene.ask("DELETE", &format!("/api/v1/sessions/{}", id(9))).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_log_level_is_shown_and_set() {
    let scene = scene().header("content-type", "application/json");
    assert_eq!(scene.json("GET", "/api/v1/log-level").await.1, json!({ "level": "info" }));
    let (status, _) = scene.send("PUT", "/api/v1/log-level", Body::from("{\"level\":\"trace\"}")).await;
    assert_eq!((status, scene.admin.log.level()), (StatusCode::OK, LogLevel::Trace));
    let (status, body) = scene.send("PUT", "/api/v1/log-level", Body::from("{\"level\":\"loud\"}")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(body.contains("error, warn, info, debug, trace"), "{body}");
    assert_eq!(scene.send("PUT", "/api/v1/log-level", Body::from("{")).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(scene.admin.log.level(), LogLevel::Trace);
}

#[tokio::test]
async fn configuration_and_policy_health_are_shown() {
    let scene = scene();
    assert_eq!(scene.json("GET", "/api/v1/config").await.1, json!({ "settings": [] }));
    let (_, policy) = scene.json("GET", "/api/v1/policy").await;
    assert_eq!(
        policy["endpoints"][0],
        json!({ "endpoint": "http://a:1", "healthy": false, "error": "refused" })
    );
}

#[tokio::test]
async fn with_a_token_every_call_needs_it_even_from_this_machine() {
    for uri in ["/api/v1/sessions", "/api/v1/config", "/api/v1/log-level", "/api/v1/nothing"] {
        assert_eq!(scene().token().ask("GET", uri).await.0, StatusCode::UNAUTHORIZED, "{uri}");
    }
    for wrong in ["Bearer s3cre", "Bearer s3crett", "Bearer ", "Basic s3cret", "s3cret"] {
        let scene = scene().token().header("authorization", wrong);
        assert_eq!(scene.ask("POST", "/api/v1/drain").await.0, StatusCode::UNAUTHORIZED, "{wrong}");
        assert!(!scene.cards.draining.load(Ordering::Relaxed));
    }
    let scene = scene().token().from("192.0.2.9:1").header("authorization", "bearer s3cret");
    assert_eq!(scene.ask("POST", "/api/v1/drain").await.0, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn without_a_token_only_loopback_peers_see_and_change_anything() {
    let far = scene().from("192.0.2.9:1");
    for uri in ["/api/v1/sessions", "/api/v1/config", "/api/v1/policy", "/api/v1/reloads", "/api/v1/nothing"]
    {
        let (status, body) = far.ask("GET", uri).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{uri}");
        assert!(body.contains("MPROXY_ADMIN_TOKEN"), "{body}");
    }
    assert_eq!(far.ask("POST", "/api/v1/drain").await.0, StatusCode::FORBIDDEN);
    assert_eq!(far.ask("DELETE", &format!("/api/v1/sessions/{}", id(1))).await.0, StatusCode::FORBIDDEN);
    assert_eq!(far.ask("PUT", "/api/v1/log-level").await.0, StatusCode::FORBIDDEN);
    assert!(!far.cards.draining.load(Ordering::Relaxed));
    for near in ["[::1]:1", "[::ffff:127.0.0.1]:1", "127.8.9.10:1"] {
        assert_eq!(scene().from(near).ask("POST", "/api/v1/drain").await.0, StatusCode::ACCEPTED, "{near}");
    }
}

#[tokio::test]
async fn a_stranger_learns_whether_it_is_ready_and_nothing_more() {
    let stranger = json!({ "ready": true, "draining": false });
    let strangers = [
        scene().from("192.0.2.9:1"),
        scene().header("host", "rebound.example"),
        scene().token(),
        scene().token().header("authorization", "Bearer wrong"),
    ];
    for scene in strangers {
        assert_eq!(scene.json("GET", "/readyz").await, (StatusCode::OK, stranger.clone()));
    }
    for scene in [scene(), scene().token().from("192.0.2.9:1").header("authorization", "Bearer s3cret")] {
        let (_, detail) = scene.json("GET", "/readyz").await;
        assert_eq!(detail["listeners"][0]["name"], "mqtt");
        assert_eq!(detail["failed_reloads"][0]["error"], "rules.toml:2: no such effect");
    }
}

#[tokio::test]
async fn a_page_under_a_rebound_name_reads_nothing() {
    let reads = ["/api/v1/sessions", "/api/v1/config", "/api/v1/log-level", "/api/v1/nothing"];
    for host in
        ["evil.example", "evil.example:9180", "127.0.0.1.evil.example", "localhost.evil.example:9180", ""]
    {
        let scene = scene().header("host", host);
        for uri in reads {
            assert_eq!(scene.ask("GET", uri).await.0, StatusCode::FORBIDDEN, "{host}");
        }
        assert_eq!(scene.ask("GET", "/healthz").await.0, StatusCode::OK, "{host}");
        assert_eq!(scene.ask("GET", "/metrics").await.0, StatusCode::OK, "{host}");
    }
    // Two of them, of which another part of the way may have looked at the first.
    let twice = scene().header("host", "localhost").header("host", "evil.example");
    assert_eq!(twice.ask("GET", "/api/v1/config").await.0, StatusCode::FORBIDDEN);
    assert_eq!(scene().ask("GET", "http://evil.example/api/v1/config").await.0, StatusCode::FORBIDDEN);
    for host in
        ["localhost", "LocalHost:9180", "127.0.0.1:9180", "[::1]:9180", "10.1.2.3", "mproxy.internal:9180"]
    {
        assert_eq!(
            scene().header("host", host).ask("GET", "/api/v1/config").await.0,
            StatusCode::OK,
            "{host}"
        );
    }
    // No page knows the token.
    let shown = scene().token().header("authorization", "Bearer s3cret").header("host", "mproxy.example");
    assert_eq!(shown.ask("GET", "/api/v1/config").await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_parameter_that_is_misspelt_is_a_fault_and_never_ignored() {
    for (uri, meant) in [
        ("/api/v1/sessions?clientid=a", "client_id"),
        ("/api/v1/sessions?limit=1&user_name=ann", "username"),
        ("/api/v1/log-level?x=1", "takes none"),
        ("/api/v1/config?x", "takes none"),
        (&format!("/api/v1/sessions/{}?x=1", id(1)), "takes none"),
    ] {
        let (status, body) = scene().json("GET", uri).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{uri}");
        assert!(body["error"].as_str().is_some_and(|text| text.contains(meant)), "{body}");
    }
    let scene = scene();
    assert_eq!(scene.ask("POST", "/api/v1/drain?dry_run=true").await.0, StatusCode::BAD_REQUEST);
    assert!(!scene.cards.draining.load(Ordering::Relaxed));
    let kick = format!("/api/v1/sessions/{}?reson=0x87", id(1));
    assert_eq!(scene.ask("DELETE", &kick).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(*scene.cards.kicked.lock(), []);
}

#[tokio::test]
async fn the_log_level_is_set_whatever_the_body_is_called() {
    for kind in [None, Some("application/x-www-form-urlencoded"), Some("text/plain")] {
        let scene = match kind {
            Some(kind) => scene().header("content-type", kind),
            None => scene(),
        };
        let (status, _) = scene.send("PUT", "/api/v1/log-level", Body::from("{\"level\":\"warn\"}")).await;
        assert_eq!((status, scene.admin.log.level()), (StatusCode::OK, LogLevel::Warn), "{kind:?}");
    }
}

#[tokio::test]
async fn slow_callers_keep_nobody_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let task = serve(listener, scene().admin, async move { drop(stopped.await) });
    // As many as there are places, with heads, bodies and answers that never end.
    let mut slow = Vec::new();
    for head in [
        "GET /healthz HTTP/1.1\r\nhost: x\r\n",
        "PUT /api/v1/log-level HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{",
        "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n",
    ] {
        for _ in 0..serve::MOST_CALLERS {
            let mut stream = TcpStream::connect(address).await.expect("a connection");
            // It may have been the oldest already.
            let _ = stream.write_all(head.as_bytes()).await;
            slow.push(stream);
        }
        for uri in ["/healthz", "/metrics", "/readyz"] {
            let asked = async {
                let mut stream = TcpStream::connect(address).await?;
                stream.write_all(format!("GET {uri} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await?;
                let mut answer = [0; 12];
                stream.read_exact(&mut answer).await?;
                std::io::Result::Ok(answer)
            };
            let answer = tokio::time::timeout(Duration::from_secs(5), asked).await.expect("in time");
            assert_eq!(&answer.expect("an answer"), b"HTTP/1.1 200", "{uri}");
        }
    }
    drop((stop, slow));
    task.await.expect("no panic");
}

#[tokio::test]
async fn a_web_page_of_another_origin_changes_nothing() {
    for (origin, host) in [
        ("http://evil.example", "127.0.0.1:9180"),
        ("null", "127.0.0.1:9180"),
        // A name of the attacker's that was made to point to this machine.
        ("http://evil.example:9180", "evil.example:9180"),
    ] {
        let scene = scene().header("origin", origin).header("host", host);
        assert_eq!(scene.ask("POST", "/api/v1/drain").await.0, StatusCode::FORBIDDEN, "{origin}");
    }
    let ours = scene().header("origin", "http://localhost:9180").header("host", "localhost:9180");
    assert_eq!(ours.ask("POST", "/api/v1/drain").await.0, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn what_is_nowhere_or_not_that_way_is_told_in_json() {
    let scene = scene();
    for uri in ["/", "/api/v1/nothing", "/api/v2"] {
        let (status, body) = scene.json("GET", uri).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{uri}");
        assert!(body["error"].is_string(), "{uri}");
    }
    let (status, body) = scene.json("POST", "/api/v1/sessions").await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    assert!(body["error"].is_string());
}

#[tokio::test]
async fn addresses_and_bodies_have_an_end() {
    let scene = scene().header("content-type", "application/json");
    let uri = format!("/api/v1/sessions?client_id={}", "x".repeat(3000));
    assert_eq!(scene.ask("GET", &uri).await.0, StatusCode::URI_TOO_LONG);
    let body = Body::from("x".repeat(10_000));
    assert_eq!(scene.send("PUT", "/api/v1/log-level", body).await.0, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_ends_is_cut() {
    let scene = scene().header("content-type", "application/json");
    let never = futures_util::stream::pending::<Result<bytes::Bytes, std::io::Error>>();
    let body = Body::from_stream(never);
    assert_eq!(scene.send("PUT", "/api/v1/log-level", body).await.0, StatusCode::REQUEST_TIMEOUT);
}

#[tokio::test]
async fn it_serves_over_a_socket_until_it_is_told_to_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let task = serve(listener, scene().admin, async move { drop(stopped.await) });
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(b"POST /api/v1/drain HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("written");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 202");
    drop(stop);
    // The idle connection is closed, and the task ends.
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.expect("an end");
    task.await.expect("no panic");
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_head_without_end_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let task = serve(listener, scene().admin, async move { drop(stopped.await) });
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let head = format!("GET /healthz HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "x".repeat(64 << 10));
    // The server may close before all of it was taken.
    let _ = stream.write_all(head.as_bytes()).await;
    let mut answer = [0; 12];
    if stream.read_exact(&mut answer).await.is_ok() {
        assert_eq!(&answer, b"HTTP/1.1 431");
    }
    drop(stop);
    task.await.expect("no panic");
}
