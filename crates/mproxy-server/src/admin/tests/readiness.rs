//! What it shows of the process: health, readiness, metrics, configuration, the policy service.

use std::sync::atomic::Ordering;

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::scene;

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
async fn all_is_said_in_either_spelling() {
    let scene = scene();
    scene.cards.broker_away.store(true, Ordering::Relaxed);
    for (all, status) in [("1", 503), ("true", 503), ("0", 200), ("false", 200)] {
        assert_eq!(scene.ask("GET", &format!("/readyz?all={all}")).await.0.as_u16(), status, "{all}");
    }
}

#[tokio::test]
async fn metrics_come_in_the_format_that_was_asked_for() {
    let scene = scene().header("accept", "application/openmetrics-text; version=1.0.0");
    assert!(scene.ask("GET", "/metrics").await.1.ends_with("# EOF\n"));
}

#[tokio::test]
async fn configuration_and_policy_health_are_shown() {
    let scene = scene();
    assert_eq!(scene.json("GET", "/api/v1/config").await.1["settings"], json!([]));
    let (_, policy) = scene.json("GET", "/api/v1/policy").await;
    assert_eq!(
        policy["endpoints"][0],
        json!({
            "endpoint": "http://a:1",
            "healthy": false,
            "state": "unhealthy",
            "since": "1970-01-01T00:00:00.000Z",
            "error": "refused",
        })
    );
    assert_eq!((&policy["calls"], policy.get("shadow")), (&json!([]), None));
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
async fn a_broker_that_is_away_counts_only_where_that_is_asked_for() {
    let near = scene();
    near.cards.broker_away.store(true, Ordering::Relaxed);
    let (status, detail) = near.json("GET", "/readyz").await;
    assert_eq!((status, &detail["ready"]), (StatusCode::OK, &json!(true)));
    assert_eq!(detail["brokers"][0]["error"], "refused");
    let (status, detail) = near.json("GET", "/readyz?all=1").await;
    assert_eq!((status, &detail["ready"]), (StatusCode::SERVICE_UNAVAILABLE, &json!(false)));
    for wrong in ["all=2", "al=1"] {
        assert_eq!(near.ask("GET", &format!("/readyz?{wrong}")).await.0, StatusCode::BAD_REQUEST);
    }
    // A stranger has brokers looked at only where it asks for that, and is not told which.
    let far = scene().from("192.0.2.9:1");
    far.cards.broker_away.store(true, Ordering::Relaxed);
    assert_eq!(far.ask("GET", "/readyz").await.0, StatusCode::OK);
    assert_eq!(far.cards.looks.load(Ordering::Relaxed), 0);
    let unready = json!({ "ready": false, "draining": false });
    assert_eq!(far.json("GET", "/readyz?all=1").await, (StatusCode::SERVICE_UNAVAILABLE, unready));
}
