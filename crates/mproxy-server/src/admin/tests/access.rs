//! Who may read and change what: tokens, loopback, host names, web pages of others.

use std::sync::atomic::Ordering;

use axum::http::StatusCode;

use super::{id, scene};

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
