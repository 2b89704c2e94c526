//! The OpenAPI document of the admin API, made of the handlers that serve it; `docs/openapi.json` is a copy.

use std::sync::LazyLock;

use axum::http::header;
use axum::response::IntoResponse;
use serde_json::{Value, json};
use utoipa::openapi::Ref;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::parameters::{Nothing, Parameters};
use super::problem::{PROBLEM_JSON, Problem};

/// The frame of the document: what no handler says.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "mproxy admin API",
        description = "Health, metrics, sessions and decisions of one mproxy. See docs/admin.md.",
    ),
    components(schemas(Problem)),
    modifiers(&Bearer),
    tags(
        (name = "probes", description = "For load balancers and scrapers: no token, no loopback."),
        (name = "sessions", description = "Who is connected."),
        (name = "decisions", description = "What was decided and would be, and why."),
        (name = "policy", description = "The policy service."),
        (name = "process", description = "Configuration, log level, reload, end."),
    )
)]
pub(super) struct ApiDocument;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let text = "MPROXY_ADMIN_TOKEN. Where it is not set, callers on the same machine need none, and others may not use \
                    the API.";
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(text)).build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("bearer", SecurityScheme::Http(scheme));
    }
}

/// A record of the decision log, which has a schema of its own.
const DECISION_ENTRY: &str = include_str!("../../../../deploy/decisions.schema.json");

/// The place of it in the document.
pub(super) fn decision_entry() -> Ref {
    Ref::from_schema_name("DecisionEntry")
}

/// What every address can answer, whatever it is asked.
const EVERYWHERE: [(&str, &str); 2] =
    [("408", "the request took too long"), ("414", "the address is too long")];

/// What every address under `/api/` can answer, too.
const UNDER_API: [(&str, &str); 3] = [
    ("400", "the request is not one that this address takes; the detail says why"),
    ("401", "a token is set, and was not shown"),
    ("403", "no token is set, and the caller is not on this machine, or a web page of elsewhere"),
];

/// What an address that takes a body can answer, too.
const WITH_BODY: (&str, &str) = ("413", "the body is too large");

/// The document.
#[must_use]
pub fn document() -> Value {
    let mut document = json!(super::served().into_openapi());
    for (path, operations) in document["paths"].as_object_mut().into_iter().flatten() {
        for (_, operation) in operations.as_object_mut().into_iter().flatten() {
            complete(path, operation);
        }
    }
    let mut entry: Value = serde_json::from_str(DECISION_ENTRY).unwrap_or_default();
    // Within another document it does not say again which language it is.
    entry.as_object_mut().map(|entry| entry.remove("$schema"));
    document["components"]["schemas"]["DecisionEntry"] = entry;
    document
}

/// Says what is the same for many operations.
fn complete(path: &str, operation: &mut Value) {
    let is_api = path.starts_with("/api/");
    if is_api {
        operation["security"] = json!([{ "bearer": [] }]);
    }
    let further = EVERYWHERE
        .into_iter()
        .chain(UNDER_API.into_iter().filter(|_| is_api))
        .chain(operation.get("requestBody").map(|_| WITH_BODY));
    for (status, text) in further {
        operation["responses"][status] = json!({ "description": text });
    }
    for (status, response) in operation["responses"].as_object_mut().into_iter().flatten() {
        // Where a handler says nothing else.
        if status.as_str() >= "400" && response.get("content").is_none() {
            response["content"][PROBLEM_JSON] =
                json!({ "schema": { "$ref": "#/components/schemas/Problem" } });
        }
    }
    let parameters = operation.get_mut("parameters").and_then(Value::as_array_mut);
    for parameter in parameters.into_iter().flatten() {
        if let Some(schema) = parameter.get_mut("schema") {
            forbid_null(schema);
        }
    }
}

/// A parameter may be absent, and is never null.
fn forbid_null(schema: &mut Value) {
    if let Some(choices) = schema.get_mut("oneOf").and_then(Value::as_array_mut) {
        choices.retain(|choice| choice["type"] != "null");
        if let [only] = &mut choices[..] {
            *schema = only.take();
        }
    }
    let Some(kind) = schema.get_mut("type") else { return };
    if let Some(kinds) = kind.as_array_mut() {
        kinds.retain(|kind| kind != "null");
        if let [only] = &mut kinds[..] {
            *kind = only.take();
        }
    }
}

/// It never changes while mproxy runs.
static TEXT: LazyLock<String> = LazyLock::new(|| document().to_string());

/// This document.
#[utoipa::path(
    get, path = "/openapi.json", tag = "process",
    responses((status = 200, description = "OpenAPI 3.1", body = Value, content_type = "application/json"))
)]
pub(super) async fn openapi(Parameters(Nothing {}): Parameters<Nothing>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], TEXT.as_str())
}
