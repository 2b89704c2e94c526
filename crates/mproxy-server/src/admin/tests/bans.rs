//! Bans over the API.

use axum::body::Body;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::scene;

#[tokio::test]
async fn a_ban_is_set_listed_and_lifted() {
    let scene = scene();
    let body = json!({ "address": "10.1.2.3/8", "reason": "too loud", "expires_in": 60 }).to_string();
    let (status, answer) = scene.send("POST", "/api/v1/bans", Body::from(body)).await;
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    assert_eq!(answer["ban"]["address"], "10.0.0.0/8");
    assert_eq!((&answer["disconnected"], &answer["saved"]), (&json!(2), &json!(false)));
    assert_eq!(answer["file_error"], "no space left on device");
    let body = json!({ "client_id": "" }).to_string();
    assert_eq!(scene.send("POST", "/api/v1/bans", Body::from(body)).await.0, StatusCode::CREATED);
    let (_, list) = scene.json("GET", "/api/v1/bans").await;
    assert_eq!(list["bans"].as_array().map(Vec::len), Some(2));
    assert_eq!(list["bans"][1]["reason"], "too loud");
    assert!(list["bans"][1]["expires"].is_string() && list["bans"][0]["expires"].is_null());
    let lift = "/api/v1/bans?address=10.9.9.9%2F8";
    let (status, lifted) = scene.json("DELETE", lift).await;
    assert_eq!(
        (status, &lifted["file_error"]),
        (StatusCode::OK, &json!("no space left on device")),
        "the same network"
    );
    assert_eq!(scene.ask("DELETE", lift).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_ban_says_exactly_whom_it_is_about() {
    let scene = scene();
    for body in [
        json!({}),
        json!({ "client_id": "a", "username": "b" }),
        json!({ "address": "somewhere" }),
        json!({ "client_id": "a", "expires_in": 0 }),
        json!({ "client_id": "a", "expires_in": u64::MAX }),
        json!({ "client_id": "a", "until": "tomorrow" }),
        json!({ "client_id": "a", "reason": "a\nb" }),
        json!({ "client_id": "a", "reason": "x".repeat(257) }),
        json!([]),
    ] {
        let (status, answer) = scene.send("POST", "/api/v1/bans", Body::from(body.to_string())).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}: {answer}");
    }
    for query in ["", "?client_id=a&username=b", "?address=somewhere", "?clientid=a"] {
        assert_eq!(scene.ask("DELETE", &format!("/api/v1/bans{query}")).await.0, StatusCode::BAD_REQUEST);
    }
    assert_eq!(scene.json("GET", "/api/v1/bans").await.1["bans"], json!([]));
    let far = scene.from("192.0.2.9:1");
    assert_eq!(far.send("POST", "/api/v1/bans", Body::from("{}")).await.0, StatusCode::FORBIDDEN);
}
