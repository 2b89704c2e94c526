//! What requests may say, and how long they may be.

use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::http::StatusCode;
use serde_json::json;

use super::{id, scene};
use crate::config::LogLevel;

#[tokio::test]
async fn nonsense_is_a_bad_request_and_a_problem() {
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
        assert!(body["detail"].is_string(), "{uri}");
    }
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
        assert!(body["detail"].as_str().is_some_and(|text| text.contains(meant)), "{body}");
    }
    let scene = scene();
    assert_eq!(scene.ask("POST", "/api/v1/drain?dry_run=true").await.0, StatusCode::BAD_REQUEST);
    assert!(!scene.cards.draining.load(Ordering::Relaxed));
    let kick = format!("/api/v1/sessions/{}?reson=0x87", id(1));
    assert_eq!(scene.ask("DELETE", &kick).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(*scene.cards.kicked.lock(), []);
}

#[tokio::test]
async fn what_is_wrong_is_told_in_words_of_the_api() {
    const HOOKS: &str = "it must be connect, publish, subscribe, deliver or exchange";
    const TYPES: &str = "it must be connect, connack, publish, puback, pubrec, pubrel, pubcomp, subscribe, suback, \
                         unsubscribe, unsuback, pingreq, pingresp, disconnect or auth";
    let scene = scene().header("content-type", "application/json");
    for (uri, told) in [
        ("/api/v1/sessions?limit=x", "limit must be a number from 1 to 1000"),
        ("/api/v1/sessions?limit=1001", "limit must be a number from 1 to 1000"),
        ("/api/v1/sessions?limit=1&limit=2", "limit is given more than once"),
        ("/api/v1/sessions?state=asleep", "state must be connecting, admitting, dialling, open or closing"),
        ("/api/v1/sessions/7", "connection_id in the path must be a UUID, as sessions show it"),
        ("/api/v1/tap?connection_id=7", "connection_id must be a UUID"),
        ("/api/v1/tap?rate=99999999999", "rate must be a number from 1 to 1000"),
        ("/api/v1/tap?type=foo", &format!("unknown type \"foo\": {TYPES}")),
        ("/api/v1/refusals?hook=x", &format!("unknown hook \"x\": {HOOKS}")),
        (
            "/api/v1/refusals?hook=publsh",
            &format!("unknown hook \"publsh\": {HOOKS}; did you mean \"publish\"?"),
        ),
        ("/api/v1/refusals?cursor=-1", "cursor must be a number from 0 on"),
        ("/readyz?all=yes", "all must be false, true, 0 or 1"),
    ] {
        let (status, body) = scene.json("GET", uri).await;
        assert_eq!((status, body["detail"].as_str()), (StatusCode::BAD_REQUEST, Some(told)), "{uri}");
    }
    let (_, body) = scene.json("DELETE", &format!("/api/v1/sessions/{}?limit=1", id(1))).await;
    assert_eq!(body["detail"], "unknown parameter \"limit\": this address takes reason, text");
    let long = Body::from("x".repeat(10_000));
    let (_, body) = scene.send("PUT", "/api/v1/log-level", long).await;
    assert!(body.contains("the body is longer than 4096 bytes"), "{body}");
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
async fn what_is_nowhere_or_not_that_way_is_a_problem() {
    let scene = scene();
    for uri in ["/api/v1/nothing", "/api/v2"] {
        let (status, body) = scene.json("GET", uri).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{uri}");
        assert!(body["detail"].is_string(), "{uri}");
    }
    let (status, body) = scene.json("POST", "/api/v1/sessions").await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    assert!(body["detail"].is_string());
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
