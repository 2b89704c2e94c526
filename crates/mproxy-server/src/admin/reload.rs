//! Reads the configuration and its files anew, all or nothing.

use std::future::Future;
use std::pin::Pin;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::Admin;
use super::parameters::{Nothing, Parameters};
use super::problem::ApiError;
use super::view::SettingChangeView;
use crate::config::reload::SettingChange;

/// What a reload changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReloadReport {
    /// Each setting that is written otherwise now.
    pub changes: Vec<SettingChange>,
    /// What happens to listeners at the next start.
    pub warnings: Vec<String>,
}

/// Why there was no reload: everything is as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotReloaded {
    /// mproxy is being stopped.
    Draining,
    /// All that is wrong with the configuration and the files that it names.
    Faults(Vec<String>),
}

/// A reload under way. It goes on where nobody waits for it any more.
pub type Reloading = Pin<Box<dyn Future<Output = Result<ReloadReport, NotReloaded>> + Send>>;

/// What a reload changed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ReloadReportView {
    /// Each setting that is written otherwise now, those included that wait for the next start.
    changes: Vec<SettingChangeView>,
    /// Listeners that open or close at the next start.
    warnings: Vec<String>,
}

/// Reads the configuration, the rule file and all certificates anew, as SIGHUP does. If anything is wrong with any of
/// them, nothing changes. Nobody is disconnected.
#[utoipa::path(
    post, path = "/reload", tag = "process",
    responses(
        (status = 200, description = "everything is in force, but for what waits for the next start", body = ReloadReportView),
        (status = 409, description = "mproxy is being stopped"),
        (status = 422, description = "something is wrong, and nothing was changed; `faults` has all of it"),
    )
)]
pub(super) async fn reload(
    State(admin): State<Admin>,
    Parameters(Nothing {}): Parameters<Nothing>,
) -> Result<Json<ReloadReportView>, ApiError> {
    tracing::info!("reload requested by an administrator");
    match admin.backend.reload().await {
        Ok(ReloadReport { changes, warnings }) => {
            let changes = changes.iter().map(SettingChangeView::from).collect();
            Ok(Json(ReloadReportView { changes, warnings }))
        }
        Err(NotReloaded::Draining) => {
            Err(ApiError::new(StatusCode::CONFLICT, "mproxy is being stopped, nothing is reloaded any more"))
        }
        Err(NotReloaded::Faults(faults)) => {
            let detail = format!("nothing was changed: {}", faults.first().map_or("", String::as_str));
            Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, detail).with_faults(faults))
        }
    }
}
