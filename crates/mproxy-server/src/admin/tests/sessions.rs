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

#[tokio::test]
async fn a_kick_may_carry_words_that_mqtt_can_carry() {
    let scene = scene();
    let one = format!("/api/v1/sessions/{}", id(1));
    assert_eq!(scene.ask("DELETE", &format!("{one}?text=see%20you")).await.0, StatusCode::NO_CONTENT);
    assert_eq!(*scene.cards.texts.lock(), [Some("see you".into())]);
    for wrong in ["", "a%00b", "a%0Ab", &"x".repeat(257)] {
        assert_eq!(scene.ask("DELETE", &format!("{one}?text={wrong}")).await.0, StatusCode::BAD_REQUEST);
    }
}

#[tokio::test]
async fn many_are_disconnected_only_where_it_is_said_which() {
    let scene = scene();
    let all = "/api/v1/sessions";
    for wrong in ["", "?reason=0x87", "?all=false", "?all=true&username=ann", "?address=ann", "?attribute=a"]
    {
        assert_eq!(scene.ask("DELETE", &format!("{all}{wrong}")).await.0, StatusCode::BAD_REQUEST, "{wrong}");
    }
    assert_eq!(*scene.cards.kicked.lock(), []);
    let (status, met) = scene.json("DELETE", &format!("{all}?username=ann&reason=0x8B&text=bye")).await;
    assert_eq!((status, met), (StatusCode::OK, json!({ "disconnected": 1 })));
    assert_eq!(*scene.cards.kicked.lock(), [(id(2), 0x8B)]);
    let (_, met) = scene.json("DELETE", &format!("{all}?address=192.0.2.0/24")).await;
    assert_eq!(met, json!({ "disconnected": 3 }));
    for yes in ["true", "1"] {
        let (_, met) = scene.json("DELETE", &format!("{all}?all={yes}")).await;
        assert_eq!(met, json!({ "disconnected": 3 }));
    }
}

#[tokio::test]
async fn a_filter_or_an_order_that_is_none_is_a_bad_request() {
    let scene = scene();
    for wrong in [
        "address=10.0.0.0/99",
        "state=asleep",
        "attribute=x",
        "subscribed=",
        "subscribed=a%23",
        "sort=size",
        "after=x",
    ] {
        let uri = format!("/api/v1/sessions?{wrong}");
        assert_eq!(scene.ask("GET", &uri).await.0, StatusCode::BAD_REQUEST, "{wrong}");
    }
    let uri = "/api/v1/sessions?sort=bytes&state=open&address=192.0.2.1&subscribed=a/%2B";
    assert_eq!(scene.json("GET", uri).await.1["sessions"].as_array().map(Vec::len), Some(3));
    // A cursor belongs to its order.
    let uri = format!("/api/v1/sessions?sort=bytes&after={}", id(1));
    assert_eq!(scene.ask("GET", &uri).await.0, StatusCode::BAD_REQUEST);
}
