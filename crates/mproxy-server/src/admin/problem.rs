//! What went wrong, as RFC 9457 has it told: `application/problem+json`, with the status that says whose doing it was.

use axum::Json;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

/// Larger than any body that this API takes.
pub(super) const LARGEST_BODY: usize = 4 << 10;

/// What a [`Problem`] is sent as.
pub(super) const PROBLEM_JSON: &str = "application/problem+json";

/// Why a request was not answered as it was meant (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Problem {
    /// `about:blank`: the status says what kind of problem it is.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The name of the status.
    title: &'static str,
    /// The status of the answer.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What is wrong, and where possible what would be right.
    detail: String,
    /// Each of several things that are wrong, where there may be several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    faults: Vec<String>,
}

/// A request that cannot be answered as it was meant.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    text: String,
    faults: Vec<String>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), faults: Vec::new() }
    }

    /// The same, with everything that is wrong.
    pub(super) fn with_faults(self, faults: Vec<String>) -> Self {
        Self { faults, ..self }
    }

    /// The caller's own fault.
    pub(super) fn bad(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let problem = Problem {
            kind: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: self.text,
            faults: self.faults,
        };
        let mut response =
            (self.status, [(header::CONTENT_TYPE, PROBLEM_JSON)], Json(problem)).into_response();
        // A 401 has to say how to do better (RFC 9110, 15.5.2).
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// The only variable part of a path is a connection id.
impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        Self::new(rejection.status(), "connection_id in the path must be a UUID, as sessions show it")
    }
}

impl From<BytesRejection> for ApiError {
    fn from(rejection: BytesRejection) -> Self {
        let text = match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => format!("the body is longer than {LARGEST_BODY} bytes"),
            _ => "the body could not be read to its end".to_owned(),
        };
        Self::new(rejection.status(), text)
    }
}
