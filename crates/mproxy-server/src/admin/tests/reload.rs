//! What is answered where a reload came to nothing.

use super::*;

#[tokio::test]
async fn a_reload_that_is_refused_says_everything_that_is_wrong() {
    let (status, problem) = scene().json("POST", "/api/v1/reload").await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(problem["faults"], json!(["mproxy.toml:2 log.level: no level"]));
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.starts_with("nothing was changed")));
}

#[tokio::test]
async fn nothing_is_reloaded_while_mproxy_ends() {
    let scene = scene();
    scene.cards.draining.store(true, Ordering::Relaxed);
    assert_eq!(scene.ask("POST", "/api/v1/reload").await.0, StatusCode::CONFLICT);
}

#[tokio::test]
async fn another_token_holds_from_the_next_request_on() {
    let scene = scene().token().header("authorization", "Bearer s3cret");
    assert_eq!(scene.ask("GET", "/api/v1/reloads").await.0, StatusCode::OK);
    scene.admin.in_force.set(Some(Secret::from("another")), ConfigView::default(), None);
    assert_eq!(scene.ask("GET", "/api/v1/reloads").await.0, StatusCode::UNAUTHORIZED);
}
