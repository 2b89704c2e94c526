//! The answers. Errors are `{"error": "…"}` with the status that says whose doing it was.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequestParts, Path, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use mproxy_policy::nearest;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use uuid::Uuid;

use super::Admin;
use super::guard::may_ask;
use super::view::{EndpointView, Page, SessionFilter, SessionView};
use crate::config::LogLevel;
use crate::telemetry::exposition::Format;

/// Larger than any body that this API takes.
pub(super) const LARGEST_BODY: usize = 4 << 10;

/// Sessions of a page, unless the caller says otherwise.
const USUAL_PAGE: usize = 100;

/// More are not shown at once: a page is made while the registry waits.
const LARGEST_PAGE: usize = 1000;

/// Administrative action.
const ADMINISTRATIVE_ACTION: u8 = 0x98;

/// A request that cannot be answered as it was meant.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    text: String,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }

    /// The caller's own fault.
    pub(super) fn bad(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(json!({ "error": self.text }))).into_response();
        // A 401 has to say how to do better (RFC 9110, 15.5.2).
        if self.status == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
        }
        response
    }
}

macro_rules! failure_from {
    ($($rejection:ty),+) => {
        $(impl From<$rejection> for ApiError {
            fn from(rejection: $rejection) -> Self {
                Self::new(rejection.status(), rejection.body_text())
            }
        })+
    };
}
failure_from!(PathRejection, QueryRejection, BytesRejection);

/// The parameters of an address, and no others: one that is misspelt would be as if it were not there.
pub(super) struct Parameters<T>(pub(super) T);

/// What parameters an address takes.
pub(super) trait ParameterNames: DeserializeOwned {
    const NAMES: &[&str];
}

/// None.
#[derive(Debug, Deserialize)]
pub(super) struct Nothing {}

impl ParameterNames for Nothing {
    const NAMES: &[&str] = &[];
}

impl<T: ParameterNames, S: Send + Sync> FromRequestParts<S> for Parameters<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        let Query(given) = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)?;
        if let Some((unknown, _)) = given.iter().find(|(name, _)| !T::NAMES.contains(&name.as_str())) {
            let text = match nearest(unknown, T::NAMES.iter().copied()) {
                Some(known) => format!("unknown parameter {unknown:?}: did you mean {known:?}?"),
                None => format!("unknown parameter {unknown:?}: this address takes none"),
            };
            return Err(ApiError::new(StatusCode::BAD_REQUEST, text));
        }
        let Query(parameters) = Query::try_from_uri(&parts.uri)?;
        Ok(Self(parameters))
    }
}

pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

pub(super) async fn readyz(State(admin): State<Admin>, request: Request) -> Response {
    let readiness = admin.backend.readiness();
    let status = if readiness.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut shown = json!({ "ready": readiness.is_ready(), "draining": readiness.draining });
    // The rest names files and addresses.
    if may_ask(&admin, &request).is_ok() {
        shown["listeners"] = json!(readiness.listeners);
        shown["stale_certificates"] = json!(readiness.stale_certificates);
        shown["certificate_warnings"] = json!(readiness.certificate_warnings);
        shown["failed_reloads"] = json!(readiness.failed_reloads);
    }
    (status, Json(shown)).into_response()
}

pub(super) async fn metrics(State(admin): State<Admin>, headers: HeaderMap) -> impl IntoResponse {
    let format = Format::accepted(headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()));
    ([(header::CONTENT_TYPE, format.content_type())], admin.metrics.expose(format))
}

/// How many are shown at once.
pub(super) fn page_limit(limit: Option<usize>) -> Result<usize, ApiError> {
    let limit = limit.unwrap_or(USUAL_PAGE);
    match (1..=LARGEST_PAGE).contains(&limit) {
        true => Ok(limit),
        false => Err(ApiError::bad(format!("limit must be a number from 1 to {LARGEST_PAGE}"))),
    }
}

/// Which sessions, and how many.
#[derive(Debug, Deserialize)]
pub(super) struct Listing {
    client_id: Option<String>,
    username: Option<String>,
    listener: Option<String>,
    after: Option<Uuid>,
    limit: Option<usize>,
}

impl ParameterNames for Listing {
    const NAMES: &[&str] = &["client_id", "username", "listener", "after", "limit"];
}

pub(super) async fn sessions(
    State(admin): State<Admin>,
    Parameters(listing): Parameters<Listing>,
) -> Result<Json<Page>, ApiError> {
    let Listing { client_id, username, listener, after, limit } = listing;
    let limit = page_limit(limit)?;
    let filter = SessionFilter { client_id, username, listener };
    Ok(Json(admin.backend.sessions(&filter, after, limit)))
}

pub(super) async fn session(
    State(admin): State<Admin>,
    id: Result<Path<Uuid>, PathRejection>,
    Parameters(Nothing {}): Parameters<Nothing>,
) -> Result<Json<SessionView>, ApiError> {
    let Path(id) = id?;
    admin.backend.session(id).map(Json).ok_or_else(no_such_session)
}

fn no_such_session() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "no such session")
}

/// How a kick is to look.
#[derive(Debug, Deserialize)]
pub(super) struct Kick {
    reason: Option<String>,
}

impl ParameterNames for Kick {
    const NAMES: &[&str] = &["reason"];
}

pub(super) async fn kick(
    State(admin): State<Admin>,
    id: Result<Path<Uuid>, PathRejection>,
    Parameters(Kick { reason }): Parameters<Kick>,
) -> Result<StatusCode, ApiError> {
    let Path(id) = id?;
    let reason = reason.map_or(Ok(ADMINISTRATIVE_ACTION), |reason| reason_code(&reason))?;
    if !admin.backend.kick(id, reason) {
        return Err(no_such_session());
    }
    tracing::info!(connection_id = %id, reason_code = reason, "disconnect requested by an administrator");
    Ok(StatusCode::NO_CONTENT)
}

/// A 5.0 reason code, `152` or `0x98`. Below 0x80 it would not tell the client of an error.
fn reason_code(text: &str) -> Result<u8, ApiError> {
    let code = match text.strip_prefix("0x") {
        Some(hex) => u8::from_str_radix(hex, 16),
        None => text.parse(),
    };
    let code = code.ok().filter(|code| *code >= 0x80);
    code.ok_or_else(|| {
        ApiError::new(StatusCode::BAD_REQUEST, "reason must be a 5.0 reason code from 0x80 to 0xff")
    })
}

pub(super) async fn reloads(
    State(admin): State<Admin>,
    Parameters(Nothing {}): Parameters<Nothing>,
) -> Json<Value> {
    Json(json!({ "reloads": admin.backend.reloads() }))
}

pub(super) async fn policy(
    State(admin): State<Admin>,
    Parameters(Nothing {}): Parameters<Nothing>,
) -> Json<Value> {
    let endpoints: Vec<EndpointView> = admin.backend.policy_health();
    Json(json!({ "endpoints": endpoints }))
}

pub(super) async fn drain(
    State(admin): State<Admin>,
    Parameters(Nothing {}): Parameters<Nothing>,
) -> (StatusCode, Json<Value>) {
    tracing::info!("drain requested by an administrator");
    admin.backend.drain();
    // Not 200: sessions end over the time of the drain, and the caller sees that by `/readyz` and the metrics.
    (StatusCode::ACCEPTED, Json(json!({ "draining": true })))
}

pub(super) async fn config(
    State(admin): State<Admin>,
    Parameters(Nothing {}): Parameters<Nothing>,
) -> Json<Value> {
    Json(admin.config.as_ref().clone())
}

/// `{"level": "info"}`
#[derive(Debug, Deserialize)]
pub(super) struct LogLevelBody {
    level: String,
}

pub(super) async fn log_level(
    State(admin): State<Admin>,
    Parameters(Nothing {}): Parameters<Nothing>,
) -> Json<Value> {
    Json(json!({ "level": admin.log.level().name() }))
}

pub(super) async fn set_log_level(
    State(admin): State<Admin>,
    Parameters(Nothing {}): Parameters<Nothing>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, ApiError> {
    // Whatever it is called: curl calls it a form unless it is told otherwise.
    let LogLevelBody { level } = serde_json::from_slice(&body?).map_err(|error| {
        ApiError::new(
            StatusCode::BAD_REQUEST,
            format!("the body must look like {{\"level\": \"info\"}}: {error}"),
        )
    })?;
    let level = LogLevel::parse(&level).map_err(|text| ApiError::new(StatusCode::BAD_REQUEST, text))?;
    admin.log.set(level);
    tracing::info!(level = level.name(), "log level set by an administrator");
    Ok(Json(json!({ "level": level.name() })))
}

pub(super) async fn nowhere() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "not found")
}

pub(super) async fn not_that_way() -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed")
}
