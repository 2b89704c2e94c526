//! Health, metrics and the admin API over HTTP.
//!
//! ```text
//! GET    /                                 a page for people, which asks the rest
//! GET    /page/app.js                      its script
//! GET    /page/style.css                   its style
//! GET    /healthz                          200 while the process turns
//! GET    /readyz                           200, or 503 while draining or a listener is not bound; ?all=
//! GET    /metrics                          Prometheus text, or OpenMetrics where the caller prefers it
//! GET    /api/v1/sessions                  filters, ?sort= &limit= &after=
//! DELETE /api/v1/sessions                  the same filters or ?all=true, &reason= &text=
//! GET    /api/v1/sessions/{connection_id}
//! DELETE /api/v1/sessions/{connection_id}  ?reason= (a 5.0 code of 0x80 or more; default 0x98) &text=
//! GET    /api/v1/bans
//! POST   /api/v1/bans                      {"client_id": "c", "reason": "why", "expires_in": 3600}
//! DELETE /api/v1/bans                      ?client_id= or ?username= or ?address=
//! GET    /api/v1/refusals                  ?client_id= &username= &listener= &hook= &since= &limit= &cursor=
//! POST   /api/v1/explain                   {"client_id": "c", "action": "publish", "topic": "a/b"}
//! GET    /api/v1/tap                       server-sent events, ?client_id= &connection_id= &username= &listener= &filter=
//!                                          &type= &from= &payload= &rate=
//! GET    /api/v1/stats                     rates over the last second, ten seconds and minute
//! GET    /api/v1/policy                    health of the policy service's endpoints
//! GET    /api/v1/protection                clients that wait to be admitted, watermarks
//! GET    /api/v1/reloads                   what was reloaded last, and what came of it
//! POST   /api/v1/reload                    reads the configuration and its files anew
//! POST   /api/v1/upgrade                 a new process takes the place of this one
//! POST   /api/v1/drain
//! GET    /api/v1/config                    secrets masked
//! GET    /api/v1/openapi.json              what all of this is, for programs: see `openapi`
//! GET    /api/v1/log-level
//! PUT    /api/v1/log-level                 {"level": "info"}
//! ```
//!
//! Who may what is said in `guard`; how a caller is kept from hanging it, in `serve`. Knows the
//! rest of the backend only as a [`AdminBackend`].

mod bans;
pub(crate) mod dismissal;
mod door;
mod explain;
mod guard;
mod impatient;
mod in_force;
mod long_answer;
mod openapi;
mod page;
mod parameters;
mod probes;
mod problem;
mod protection;
mod refusals;
mod reload;
mod routes;
mod select;
mod serve;
mod sessions;
mod stats;
mod tap;
mod upgrade;
mod value_form;
pub mod view;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::middleware;
use axum::routing::get;
use mproxy_core::command::Dismissal;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::protect::bans::{Ban, BanTarget, TooManyBans};
use crate::telemetry::decisions::DecisionLog;
use crate::telemetry::log::LogHandle;
use crate::telemetry::metrics::Metrics;

pub use bans::{BanKept, Banned};
pub use explain::{ExplainQuestion, ExplainView, Explaining, NotExplained};
pub use in_force::InForce;
pub use openapi::document;
pub use protection::{AdmissionsView, ProtectionView, WatermarkView};
pub use reload::{NotReloaded, ReloadReport, Reloading};
pub use serve::serve;
pub use upgrade::{NotUpgraded, Successor, Upgrading};
use view::{Page, PolicyView, Readiness, ReloadView, SessionDetail, SessionFilter, SessionsQuestion};

/// An answer on its way.
pub type Reply<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// See [`AdminBackend::begin_change`].
pub type ChangeGuard = tokio::sync::OwnedRwLockReadGuard<()>;

/// What the admin API needs of the backend. Every call returns soon: it is made on a runtime thread.
pub trait AdminBackend: Send + Sync {
    /// Something is about to be changed: no upgrade begins until this is dropped. `None`: one is under way, or another process
    /// has taken the place of this one.
    fn begin_change(&self) -> Option<ChangeGuard>;

    /// A page of sessions. `None`: they did not answer in time.
    fn sessions(&self, question: SessionsQuestion) -> Reply<Option<Page>>;

    /// One session.
    fn session(&self, connection_id: Uuid) -> Reply<Option<SessionDetail>>;

    /// What would be decided about this now; nobody is asked, and nothing changes.
    fn explain(&self, question: ExplainQuestion) -> Explaining;

    /// Whether there is one of this id.
    fn has_session(&self, connection_id: Uuid) -> bool;

    /// Ends a session; `false` where there is none of this id.
    fn kick(&self, connection_id: Uuid, dismissal: &Dismissal) -> bool;

    /// Ends all sessions that pass, and gives their number. `None`: they did not answer in time.
    fn kick_all(&self, filter: SessionFilter, dismissal: Dismissal) -> Reply<Option<usize>>;

    /// The bans in force.
    fn bans(&self) -> Vec<Ban>;

    /// Bans somebody, in the place of a ban of the same.
    fn ban(&self, ban: Ban) -> Reply<Result<Banned, TooManyBans>>;

    /// Lifts a ban; `false` where there is none.
    fn unban(&self, target: BanTarget) -> Reply<Option<BanKept>>;

    /// Stops accepting and lets sessions end. Again: changes nothing.
    fn drain(&self);

    /// Whether new connections are welcome. `look_behind`: brokers that nobody has dialled lately are dialled for it.
    fn readiness(&self, look_behind: bool) -> Reply<Readiness>;

    /// The policy service's endpoints, and those of its shadow.
    fn policy(&self) -> PolicyView;

    /// What protects mproxy, and how far it has to go at present.
    fn protection(&self) -> ProtectionView;

    /// Reads the configuration and its files anew, and takes all of it or nothing.
    fn reload(&self) -> Reloading;

    /// Has a new process take the place of this one.
    fn upgrade(self: Arc<Self>) -> Upgrading;

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
    /// What a reload may make another.
    pub in_force: InForce,
    /// The host name under which it is configured to listen.
    pub host: Arc<str>,
}

/// What is under `/api/v1`. Each handler says what it takes and answers: `openapi` makes a document of that.
fn guarded() -> OpenApiRouter<Admin> {
    OpenApiRouter::new()
        .routes(routes!(sessions::sessions, sessions::kick_all))
        .routes(routes!(sessions::session, sessions::kick))
        .routes(routes!(bans::bans, bans::ban, bans::unban))
        .routes(routes!(refusals::refusals))
        .routes(routes!(explain::explain))
        .routes(routes!(tap::tap))
        .routes(routes!(stats::stats))
        .routes(routes!(routes::policy))
        .routes(routes!(protection::protection))
        .routes(routes!(routes::reloads))
        .routes(routes!(reload::reload))
        .routes(routes!(upgrade::upgrade))
        .routes(routes!(routes::drain))
        .routes(routes!(routes::config))
        .routes(routes!(routes::log_level, routes::set_log_level))
        .routes(routes!(openapi::openapi))
}

/// What everybody may ask who reaches the port.
fn open() -> OpenApiRouter<Admin> {
    OpenApiRouter::with_openapi(openapi::ApiDocument::openapi())
        .routes(routes!(probes::healthz))
        .routes(routes!(probes::readyz))
        .routes(routes!(probes::metrics))
}

/// All that is in the document.
fn served() -> OpenApiRouter<Admin> {
    open().nest("/api/v1", guarded())
}

/// All routes, guarded.
pub fn router(admin: Admin) -> Router {
    let guarded = guarded()
        // Inside the guard, so that a stranger cannot tell what exists from what does not.
        .fallback(routes::nowhere)
        .layer(middleware::from_fn_with_state(admin.clone(), guard::change))
        .layer(middleware::from_fn_with_state(admin.clone(), guard::admit));
    let (router, _) = open().nest("/api/v1", guarded).split_for_parts();
    router
        .route("/", get(page::index))
        .route("/page/app.js", get(page::script))
        .route("/page/style.css", get(page::style))
        .fallback(routes::nowhere)
        .method_not_allowed_fallback(routes::not_that_way)
        .layer(axum::extract::DefaultBodyLimit::max(problem::LARGEST_BODY))
        // Outside of everything: an address that leads nowhere has its bounds, too.
        .layer(middleware::from_fn(guard::bound))
        .with_state(admin)
}

#[cfg(test)]
mod tests;
