//! Sessions: listed page by page, filtered, shown, ended.

use axum::http::StatusCode;
use serde_json::json;

use super::{id, scene};

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
async fn one_session_is_shown_in_detail() {
    let scene = scene();
    let (status, session) = scene.json("GET", &format!("/api/v1/sessions/{}", id(2))).await;
    assert_eq!((status, &session["username"]), (StatusCode::OK, &json!("ann")));
    assert_eq!(session["traffic"]["client_bytes"], 20);
    let (status, body) = scene.json("GET", &format!("/api/v1/sessions/{}", id(9))).await;
    let problem =
        json!({ "type": "about:blank", "title": "Not Found", "status": 404, "detail": "no such session" });
    assert_eq!((status, body), (StatusCode::NOT_FOUND, problem));
}

#[tokio::test]
async fn a_kick_carries_its_reason() {
    let scene = scene();
    let one = format!("/api/v1/sessions/{}", id(1));
    assert_eq!(scene.ask("DELETE", &one).await.0, StatusCode::NO_CONTENT);
    assert_eq!(scene.ask("DELETE", &format!("{one}?reason=0x87")).await.0, StatusCode::NO_CONTENT);
    assert_eq!(scene.ask("DELETE", &format!("{one}?reason=139")).await.0, StatusCode::NO_CONTENT);
    for wrong in ["0", "0x04", "256", "x", "-1", "%2B152", "0x%2B9"] {
        assert_eq!(scene.ask("DELETE", &format!("{one}?reason={wrong}")).await.0, StatusCode::BAD_REQUEST);
    }
    assert_eq!(*scene.cards.kicked.lock(), [(id(1), 0x98), (id(1), 0x87), (id(1), 139)]);
    assert_eq!(scene.ask("DELETE", &format!("/api/v1/sessions/{}", id(9))).await.0, StatusCode::NOT_FOUND);
}
