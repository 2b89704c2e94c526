//! The page at `/`: what a browser may do with it.

use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use tower::ServiceExt;

use super::super::router;
use super::scene;

const FILES: [(&str, &str); 3] =
    [("/", "text/html"), ("/page/app.js", "text/javascript"), ("/page/style.css", "text/css")];

#[tokio::test]
async fn its_files_are_for_everybody_and_hold_no_data() {
    let far = scene().token().from("192.0.2.9:1");
    for (uri, kind) in FILES {
        let request = Request::builder().uri(uri).body(axum::body::Body::empty()).expect("a request");
        let response = router(far.admin.clone()).oneshot(request).await.expect("an answer");
        assert_eq!(response.status(), StatusCode::OK, "{uri}");
        let headers = response.headers().clone();
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        assert!(header(header::CONTENT_TYPE).starts_with(kind), "{uri}: {headers:?}");
        assert_eq!(
            (header(header::X_CONTENT_TYPE_OPTIONS), header(header::X_FRAME_OPTIONS)),
            ("nosniff", "DENY")
        );
        let policy = header(header::CONTENT_SECURITY_POLICY);
        for rule in
            ["default-src 'none'", "script-src 'self'", "connect-src 'self'", "frame-ancestors 'none'"]
        {
            assert!(policy.contains(rule), "{policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        to_bytes(response.into_body(), 1 << 20).await.expect("a small file");
    }
}

#[test]
fn nothing_of_it_comes_from_elsewhere_or_is_markup_from_data() {
    let files = [
        include_str!("../page/index.html"),
        include_str!("../page/app.js"),
        include_str!("../page/style.css"),
    ];
    for file in files {
        let elsewhere = file.match_indices("//").filter(|(at, _)| file[..*at].ends_with(':'));
        // The name of a namespace is no address that is asked.
        let asked: Vec<_> =
            elsewhere.filter(|(at, _)| !file[*at..].starts_with("//www.w3.org/2000/svg")).collect();
        assert!(asked.is_empty(), "{asked:?}");
        for way in
            ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", " onclick", "<style"]
        {
            assert!(!file.contains(way), "{way}");
        }
    }
    assert!(!files[0].contains("<script>"), "a script in the page itself is not run");
}
