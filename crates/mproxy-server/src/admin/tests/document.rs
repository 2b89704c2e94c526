//! The OpenAPI document: it is what is served, and the copy in `docs` is current.

use std::path::Path;
use std::sync::LazyLock;

use axum::http::{StatusCode, header};
use axum::response::Response;
use serde_json::Value;

use super::super::document;
use super::scene;

static DOCUMENT: LazyLock<Value> = LazyLock::new(document);

/// The operation that answers this, if it is one.
fn operation(method: &str, path: &str) -> Option<&'static Value> {
    let parts = |path: &'static str| path.split('/');
    let is = |template: &'static str| {
        parts(template).count() == path.split('/').count()
            && parts(template)
                .zip(path.split('/'))
                .all(|(wanted, is)| wanted.starts_with('{') || wanted == is)
    };
    let paths = DOCUMENT["paths"].as_object()?;
    let (_, operations) = paths.iter().find(|(template, _)| is(template))?;
    operations.get(method.to_ascii_lowercase())
}

/// Holds an answer against the document: its status is there, and its body is of a kind that is named for that.
#[track_caller]
pub(super) fn foresees(method: &str, path: &str, response: &Response) {
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next());
    if status.is_client_error() || path.starts_with("/api/") && status.is_server_error() {
        assert_eq!(kind, Some("application/problem+json"), "{method} {path}: {status}");
    }
    let Some(operation) = operation(method, path) else { return };
    let answer = &operation["responses"][status.as_str()];
    assert!(answer.is_object(), "{method} {path} answers {status}, of which the document says nothing");
    let named = answer["content"].as_object();
    assert_eq!(kind.is_some(), named.is_some(), "{method} {path}: {status} is {kind:?}");
    if let (Some(kind), Some(named)) = (kind, named) {
        assert!(named.contains_key(kind), "{method} {path}: {status} is {kind}");
    }
}

#[tokio::test]
async fn the_document_is_served_to_who_may_use_the_api() {
    let (status, served) = scene().json("GET", "/api/v1/openapi.json").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(served, *DOCUMENT);
    assert_eq!(scene().token().ask("GET", "/api/v1/openapi.json").await.0, StatusCode::UNAUTHORIZED);
}

#[test]
fn every_reference_of_it_leads_somewhere() {
    fn look(value: &Value, found: &mut usize) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(target)) = map.get("$ref") {
                    let pointer = target.strip_prefix('#').expect("within the document");
                    assert!(DOCUMENT.pointer(pointer).is_some(), "{target}");
                    *found += 1;
                }
                map.values().for_each(|value| look(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| look(value, found)),
            _ => {}
        }
    }
    let mut found = 0;
    look(&DOCUMENT, &mut found);
    assert!(found > 20, "{found}");
}

#[test]
fn whoever_reads_it_learns_what_everything_is_for() {
    for (path, operations) in DOCUMENT["paths"].as_object().expect("paths") {
        for (method, operation) in operations.as_object().expect("operations") {
            assert!(operation["summary"].is_string(), "{method} {path} has no summary");
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                assert!(parameter["description"].is_string(), "{method} {path}: {parameter}");
                assert_ne!(parameter["schema"]["type"][1], "null", "{method} {path}: {parameter}");
            }
        }
    }
}

#[test]
fn the_copy_in_docs_is_current() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    let text = format!("{:#}\n", *DOCUMENT);
    if std::env::var_os("MPROXY_WRITE_DOCS").is_some() {
        std::fs::write(&file, &text).expect("written");
    }
    assert!(
        std::fs::read_to_string(&file).unwrap_or_default() == text,
        "docs/openapi.json is old: MPROXY_WRITE_DOCS=1 cargo test -p mproxy-server --lib admin::tests::document"
    );
}
