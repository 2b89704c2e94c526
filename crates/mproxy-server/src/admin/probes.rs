//! What probes and scrapers ask: whether it runs, whether it is ready, how it does.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Admin;
use super::guard::may_ask;
use super::parameters::{Parameters, Switch};
use super::problem::ApiError;
use super::view::{
    BrokerView, CertificateWarning, EndpointView, ListenerReadiness, Readiness, ReloadView, StaleCertificate,
};
use crate::telemetry::exposition::Exposition;

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
    /// Whether the status is 200.
    ready: bool,
    /// mproxy is being stopped.
    draining: bool,
    #[serde(flatten)]
    details: ReadinessDetails,
}

/// Absent where the caller may not use the API.
#[derive(Debug, Default, Serialize, ToSchema)]
struct ReadinessDetails {
    /// Each listener that was configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    listeners: Option<Vec<ListenerReadiness>>,
    /// How the broker of each was reached the last time.
    #[serde(skip_serializing_if = "Option::is_none")]
    brokers: Option<Vec<BrokerView>>,
    /// The endpoints of the policy service.
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<Vec<EndpointView>>,
    /// Certificate files that failed to reload; the previous certificates stay in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    stale_certificates: Option<Vec<StaleCertificate>>,
    /// Certificates and revocation lists in force that are past their dates, or of no use.
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_warnings: Option<Vec<CertificateWarning>>,
    /// What could not be reloaded the last time; what was in force before still is.
    #[serde(skip_serializing_if = "Option::is_none")]
    failed_reloads: Option<Vec<ReloadView>>,
}

/// What counts.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ReadinessQuery {
    /// `1` or `true`: brokers, policy service and certificates count, too. Not for load balancers: one broker that is away
    /// would take all instances out at once.
    #[param(inline)]
    all: Option<Switch>,
}

/// Whether new connections are welcome: 503 only while draining, or while a listener is not bound.
#[utoipa::path(
    get, path = "/readyz", tag = "probes", security((), ("bearer" = [])), params(ReadinessQuery),
    responses(
        (status = 200, description = "ready", body = ReadinessView),
        (status = 400, description = "the request is not one that this address takes; the detail says why"),
        (status = 503, description = "not ready", body = ReadinessView),
    )
)]
pub(super) async fn readyz(
    State(admin): State<Admin>,
    Parameters(ReadinessQuery { all }): Parameters<ReadinessQuery>,
    request: Request,
) -> Result<impl IntoResponse, ApiError> {
    let all = all.is_some_and(Switch::is_on);
    let is_known = may_ask(&admin, &request).is_ok();
    let readiness = admin.backend.readiness(all || is_known).await;
    let ready = if all { readiness.is_ready_altogether() } else { readiness.is_ready() };
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let draining = readiness.draining;
    let details = if is_known { shown(readiness) } else { ReadinessDetails::default() };
    Ok((status, Json(ReadinessView { ready, draining, details })))
}

fn shown(readiness: Readiness) -> ReadinessDetails {
    ReadinessDetails {
        listeners: Some(readiness.listeners),
        brokers: Some(readiness.brokers),
        policy: Some(readiness.policy),
        stale_certificates: Some(readiness.stale_certificates),
        certificate_warnings: Some(readiness.certificate_warnings),
        failed_reloads: Some(readiness.failed_reloads),
    }
}

/// The metrics, as Prometheus' text, or as OpenMetrics or Prometheus' protobuf where `Accept` prefers it.
#[utoipa::path(
    get, path = "/metrics", tag = "probes", security(()),
    responses((status = 200, description = "the metrics", content(
        (String = "text/plain"),
        (String = "application/openmetrics-text"),
        (Vec<u8> = "application/vnd.google.protobuf"),
    )))
)]
pub(super) async fn metrics(State(admin): State<Admin>, headers: HeaderMap) -> impl IntoResponse {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let (exposition, page) = admin.metrics.page(Exposition::accepted(accept));
    ([(header::CONTENT_TYPE, exposition.content_type())], page)
}
