//! The state of the process: what is in force, what was reloaded, and what may be changed of it.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Admin;
use super::parameters::{Nothing, Parameters};
use super::problem::ApiError;
use super::view::{PolicyView, ReloadView};
use crate::config::LogLevel;
use crate::config::check::ConfigView;

/// The last reload of each thing that was reloaded since the start.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ReloadsView {
    reloads: Vec<ReloadView>,
}

/// What was reloaded last, and what came of it. After a failure what was in force before still is.
#[utoipa::path(
    get, path = "/reloads", tag = "process",
    responses((status = 200, description = "the last reload of each", body = ReloadsView))
)]
pub(super) async fn reloads(
    State(admin): State<Admin>,
    Parameters(Nothing {}): Parameters<Nothing>,
) -> Json<ReloadsView> {
    Json(ReloadsView { reloads: admin.backend.reloads() })
}

/// The policy service: its endpoints, what it said of itself, how long calls take.
#[utoipa::path(
    get, path = "/policy", tag = "policy",
    responses((status = 200, description = "the policy service", body = PolicyView))
)]
pub(super) async fn policy(
    State(admin): State<Admin>,
    Parameters(Nothing {}): Parameters<Nothing>,
) -> Json<PolicyView> {
    Json(PolicyView { calls: admin.metrics.policy_latencies(), ..admin.backend.policy() })
}

/// mproxy is being stopped.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DrainView {
    draining: bool,
}

/// Lets all clients leave, over the time that is configured for that, and ends mproxy, as SIGTERM does.
#[utoipa::path(
    post, path = "/drain", tag = "process",
    responses((status = 202, description = "clients are being told to leave", body = DrainView))
)]
pub(super) async fn drain(
    State(admin): State<Admin>,
    Parameters(Nothing {}): Parameters<Nothing>,
) -> (StatusCode, Json<DrainView>) {
    tracing::info!("drain requested by an administrator");
    admin.backend.drain();
    // Not 200: sessions end over the time of the drain, and the caller sees that by `/readyz` and the metrics.
    (StatusCode::ACCEPTED, Json(DrainView { draining: true }))
}

/// The configuration in force, and where each value comes from. Secrets are masked.
#[utoipa::path(
    get, path = "/config", tag = "process",
    responses((status = 200, description = "the configuration", body = ConfigView))
)]
pub(super) async fn config(
    State(admin): State<Admin>,
    Parameters(Nothing {}): Parameters<Nothing>,
) -> impl IntoResponse {
    Json(admin.in_force.config().as_ref()).into_response()
}

/// The log level.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LogLevelView {
    /// One of `error`, `warn`, `info`, `debug`, `trace`.
    #[schema(pattern = "^(error|warn|info|debug|trace)$")]
    level: String,
}

impl From<LogLevel> for LogLevelView {
    fn from(level: LogLevel) -> Self {
        Self { level: level.name().to_owned() }
    }
}

/// The log level in force.
#[utoipa::path(
    get, path = "/log-level", tag = "process",
    responses((status = 200, description = "the log level", body = LogLevelView))
)]
pub(super) async fn log_level(
    State(admin): State<Admin>,
    Parameters(Nothing {}): Parameters<Nothing>,
) -> Json<LogLevelView> {
    Json(admin.log.level().into())
}

/// Sets the log level until the next start or reload.
#[utoipa::path(
    put, path = "/log-level", tag = "process", request_body = LogLevelView,
    responses((status = 200, description = "the log level now", body = LogLevelView))
)]
pub(super) async fn set_log_level(
    State(admin): State<Admin>,
    Parameters(Nothing {}): Parameters<Nothing>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<LogLevelView>, ApiError> {
    // Whatever it is called: curl calls it a form unless it is told otherwise.
    let LogLevelView { level } = serde_json::from_slice(&body?).map_err(|error| {
        ApiError::bad(format!("the body must look like {{\"level\": \"info\"}}: {error}"))
    })?;
    let level = LogLevel::parse(&level).map_err(ApiError::bad)?;
    admin.log.set(level);
    tracing::info!(log_level = level.name(), "log level set by an administrator");
    Ok(Json(level.into()))
}

pub(super) async fn nowhere() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "not found")
}

pub(super) async fn not_that_way() -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed")
}
