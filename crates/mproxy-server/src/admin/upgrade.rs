//! Has a new process of mproxy take the place of this one.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::Admin;
use super::parameters::{Nothing, Parameters};
use super::problem::ApiError;

/// Where it is asked for.
pub(super) const PATH: &str = "/api/v1/upgrade";

/// How long it may take to be answered: longer than other requests, for a process has to start meanwhile.
pub(super) const ANSWERED_WITHIN: Duration = Duration::from_secs(100);

/// A process that has taken the place of this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Successor {
    /// Its process id.
    pub pid: u32,
    /// Its version of mproxy.
    pub version: String,
}

/// Why there is none: this process serves as before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotUpgraded {
    /// It was not tried.
    Refused(String),
    /// It did not come up.
    Failed(String),
}

/// An upgrade under way. It goes on where nobody waits for it any more.
pub type Upgrading = Pin<Box<dyn Future<Output = Result<Successor, NotUpgraded>> + Send>>;

/// Starts mproxy anew, the program and the configuration as they are now, and gives the listeners to the new process, as
/// SIGUSR2 does. Answered when the new process accepts connections, by the old one, which then lets its own end. If the new
/// process does not come up, nothing changes.
#[utoipa::path(
    post, path = "/upgrade", tag = "process",
    responses(
        (status = 200, description = "the new process accepts connections", body = Successor),
        (status = 409, description = "this mproxy cannot be upgraded, or not now; `detail` says why"),
        (status = 422, description = "the new process did not come up, and nothing has changed; `detail` says why"),
    )
)]
pub(super) async fn upgrade(
    State(admin): State<Admin>,
    Parameters(Nothing {}): Parameters<Nothing>,
) -> Result<Json<Successor>, ApiError> {
    tracing::info!("upgrade requested by an administrator");
    match admin.backend.clone().upgrade().await {
        Ok(successor) => Ok(Json(successor)),
        Err(NotUpgraded::Refused(why)) => Err(ApiError::new(StatusCode::CONFLICT, why)),
        Err(NotUpgraded::Failed(why)) => Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, why)),
    }
}
