//! Rates, for the page and whoever else has no Prometheus.

use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;

use super::Admin;
use super::parameters::{Nothing, Parameters};
use crate::telemetry::exposition::Format;
use crate::telemetry::stats::StatsView;

/// From the first look to the second, where nobody has looked lately.
const FIRST_WINDOW: Duration = Duration::from_secs(1);

/// How fast things happen, over the last second, ten seconds and minute, and the totals.
#[utoipa::path(
    get, path = "/stats", tag = "process",
    responses((status = 200, description = "totals and rates", body = StatsView))
)]
pub(super) async fn stats(
    State(admin): State<Admin>,
    Parameters(Nothing {}): Parameters<Nothing>,
) -> Json<StatsView> {
    let stats = admin.metrics.stats();
    let look = || stats.look(Instant::now(), || admin.metrics.expose(Format::Prometheus));
    if stats.is_new(Instant::now()) {
        look();
        tokio::time::sleep(FIRST_WINDOW).await;
    }
    Json(look())
}
