//! What probes and scrapers ask: whether it runs, whether it is ready, how it does.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use serde::Serialize;
use utoipa::ToSchema;

use super::Admin;
use super::guard::may_ask;
use super::view::{CertificateWarning, ListenerReadiness, ReloadView, StaleCertificate};
use crate::telemetry::exposition::Format;

/// The process runs.
#[utoipa::path(
    get, path = "/healthz", tag = "probes", security(()),
    responses((status = 200, description = "it runs", body = String, content_type = "text/plain"))
)]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether new connections are welcome. But for the first two, for who may use the API: they name files and addresses.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ReadinessView {
    /// Not draining, and every listener is bound.
    ready: bool,
    /// mproxy is being stopped.
    draining: bool,
    /// Each listener that was configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    listeners: Option<Vec<ListenerReadiness>>,
    /// Certificates whose new files are broken; the old ones are in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    stale_certificates: Option<Vec<StaleCertificate>>,
    /// Certificates and revocation lists in force that are past their dates, or of no use.
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_warnings: Option<Vec<CertificateWarning>>,
    /// What could not be reloaded the last time; what was in force before still is.
    #[serde(skip_serializing_if = "Option::is_none")]
    failed_reloads: Option<Vec<ReloadView>>,
}

/// Whether new connections are welcome: 503 only while draining, or while a listener is not bound.
#[utoipa::path(
    get, path = "/readyz", tag = "probes", security((), ("bearer" = [])),
    responses(
        (status = 200, description = "ready", body = ReadinessView),
        (status = 503, description = "not ready", body = ReadinessView),
    )
)]
pub(super) async fn readyz(State(admin): State<Admin>, request: Request) -> impl IntoResponse {
    let readiness = admin.backend.readiness();
    let ready = readiness.is_ready();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let is_known = may_ask(&admin, &request).is_ok();
    let view = ReadinessView {
        ready,
        draining: readiness.draining,
        listeners: is_known.then_some(readiness.listeners),
        stale_certificates: is_known.then_some(readiness.stale_certificates),
        certificate_warnings: is_known.then_some(readiness.certificate_warnings),
        failed_reloads: is_known.then_some(readiness.failed_reloads),
    };
    (status, Json(view))
}

/// The metrics, as Prometheus' text, or as OpenMetrics where `Accept` prefers it.
#[utoipa::path(
    get, path = "/metrics", tag = "probes", security(()),
    responses((status = 200, description = "the metrics", content(
        (String = "text/plain"),
        (String = "application/openmetrics-text"),
    )))
)]
pub(super) async fn metrics(State(admin): State<Admin>, headers: HeaderMap) -> impl IntoResponse {
    let format = Format::accepted(headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()));
    ([(header::CONTENT_TYPE, format.content_type())], admin.metrics.expose(format))
}
