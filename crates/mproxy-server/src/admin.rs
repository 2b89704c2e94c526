//! Health, metrics and the admin API over HTTP.
//!
//! ```text
//! GET    /                                 a page for people, which asks the rest
//! GET    /page/app.js                      its script
//! GET    /page/style.css                   its style
//! GET    /healthz                          200 while the process turns
//! GET    /readyz                           200, or 503 while draining or a listener is not bound
//! GET    /metrics                          Prometheus text, or OpenMetrics where the caller prefers it
//! GET    /api/v1/sessions                  ?limit= &after= &client_id= &username= &listener=
//! GET    /api/v1/sessions/{connection_id}
//! DELETE /api/v1/sessions/{connection_id}  ?reason= (a 5.0 code of 0x80 or more; default 0x98)
//! GET    /api/v1/refusals                  ?client_id= &username= &listener= &hook= &since= &limit= &cursor=
//! POST   /api/v1/explain                   {"client_id": "c", "action": "publish", "topic": "a/b"}
//! GET    /api/v1/policy                    health of the policy service's endpoints
//! GET    /api/v1/reloads                   what was reloaded last, and what came of it
//! POST   /api/v1/drain
//! GET    /api/v1/config                    secrets masked
//! GET    /api/v1/log-level
//! PUT    /api/v1/log-level                 {"level": "info"}
//! ```
//!
//! Who may what is said in `guard`; how a caller is kept from hanging it, in `serve`. Knows the
//! rest of the backend only as a [`AdminBackend`].

mod explain;
mod guard;
mod impatient;
mod page;
mod refusals;
mod routes;
mod serve;
pub mod view;

use std::sync::Arc;

use axum::Router;
use axum::middleware;
use axum::routing::{get, post};
use uuid::Uuid;

use crate::config::Secret;
use crate::telemetry::decisions::DecisionLog;
use crate::telemetry::log::LogHandle;
use crate::telemetry::metrics::Metrics;

pub use explain::{ExplainQuestion, ExplainView, Explaining, NotExplained};
pub use serve::serve;
use view::{EndpointView, Page, Readiness, ReloadView, SessionFilter, SessionView};

/// What the admin API needs of the backend. Every call returns soon: it is made on a runtime thread.
pub trait AdminBackend: Send + Sync {
    /// Up to `limit` sessions that pass `filter`, in the order of their connection ids, those after `after` only.
    fn sessions(&self, filter: &SessionFilter, after: Option<Uuid>, limit: usize) -> Page;

    /// One session.
    fn session(&self, connection_id: Uuid) -> Option<SessionView>;

    /// What would be decided about this now; nobody is asked, and nothing changes.
    fn explain(&self, question: ExplainQuestion) -> Explaining;

    /// Ends a session with a 5.0 reason code; `false` where there is none of this id.
    fn kick(&self, connection_id: Uuid, reason: u8) -> bool;

    /// Stops accepting and lets sessions end. Again: changes nothing.
    fn drain(&self);

    /// Whether new connections are welcome.
    fn readiness(&self) -> Readiness;

    /// The policy service's endpoints; empty where there is no service.
    fn policy_health(&self) -> Vec<EndpointView>;

    /// The last reload of everything that was reloaded since the start.
    fn reloads(&self) -> Vec<ReloadView>;
}

/// Everything that the admin API shows and moves.
#[derive(Clone)]
pub struct Admin {
    /// The rest of the backend.
    pub backend: Arc<dyn AdminBackend>,
    /// The metrics of the process.
    pub metrics: Arc<Metrics>,
    /// Why clients were refused.
    pub decisions: Arc<DecisionLog>,
    /// The log level of the process.
    pub log: LogHandle,
    /// The configuration in force, as [`crate::config::check::view`] shows it.
    pub config: Arc<serde_json::Value>,
    /// What callers must show, if anything.
    pub token: Option<Secret>,
    /// The host name under which it is configured to listen.
    pub host: Arc<str>,
}

/// All routes, guarded.
pub fn router(admin: Admin) -> Router {
    let guarded = Router::new()
        .route("/sessions", get(routes::sessions))
        .route("/sessions/{connection_id}", get(routes::session).delete(routes::kick))
        .route("/refusals", get(refusals::refusals))
        .route("/explain", post(explain::explain))
        .route("/policy", get(routes::policy))
        .route("/reloads", get(routes::reloads))
        .route("/drain", post(routes::drain))
        .route("/config", get(routes::config))
        .route("/log-level", get(routes::log_level).put(routes::set_log_level))
        // Inside the guard, so that a stranger cannot tell what exists from what does not.
        .fallback(routes::nowhere)
        .layer(middleware::from_fn_with_state(admin.clone(), guard::admit));
    Router::new()
        .route("/", get(page::index))
        .route("/page/app.js", get(page::script))
        .route("/page/style.css", get(page::style))
        .route("/healthz", get(routes::healthz))
        .route("/readyz", get(routes::readyz))
        .route("/metrics", get(routes::metrics))
        .nest("/api/v1", guarded)
        .fallback(routes::nowhere)
        .method_not_allowed_fallback(routes::not_that_way)
        .layer(axum::extract::DefaultBodyLimit::max(routes::LARGEST_BODY))
        // Outside of everything: an address that leads nowhere has its bounds, too.
        .layer(middleware::from_fn(guard::bound))
        .with_state(admin)
}

#[cfg(test)]
mod tests;
