//! How far what protects mproxy has to go at present.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::Admin;
use super::parameters::{Nothing, Parameters};

/// What protects mproxy, and how far it has to go at present.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct ProtectionView {
    /// How fast clients of each listener are admitted.
    pub admissions: Vec<AdmissionsView>,
    /// How short what mproxy uses of its machine is.
    pub watermarks: Vec<WatermarkView>,
}

/// How short a resource is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct WatermarkView {
    /// `descriptors`, or `memory` in bytes.
    pub resource: &'static str,
    /// `normal`, `refusing` (new connections are refused) or `draining` (sessions are disconnected).
    pub level: &'static str,
    /// What is in use, looked at once a second.
    pub used: u64,
    /// Descriptors of connections that are not admitted or are being closed, which do not count as used.
    pub strangers: u64,
    /// Threshold from which new connections are refused; null: never.
    pub refuse_at: Option<u64>,
    /// Threshold from which sessions are disconnected; null: never.
    pub drain_at: Option<u64>,
}

/// How fast clients of a listener are admitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct AdmissionsView {
    /// The listener.
    pub listener: String,
    /// Clients that are admitted in a second at most; null: no limit.
    pub max_per_second: Option<usize>,
    /// Clients that wait to be admitted.
    pub waiting: usize,
    /// Most clients that may wait.
    pub max_waiting: usize,
}

/// Clients that wait to be admitted, and how short descriptors and memory are.
#[utoipa::path(
    get, path = "/protection", tag = "process",
    responses((status = 200, description = "what protects mproxy", body = ProtectionView))
)]
pub(super) async fn protection(
    State(admin): State<Admin>,
    Parameters(Nothing {}): Parameters<Nothing>,
) -> Json<ProtectionView> {
    Json(admin.backend.protection())
}
