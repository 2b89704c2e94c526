//! Why clients were refused: the records of the decision log that are in memory.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use mproxy_core::policy::Hook;
use mproxy_policy::nearest;
use serde::Deserialize;

use super::Admin;
use super::parameters::{Parameters, page_limit};
use super::problem::ApiError;
use super::value_form::one_of;
use crate::config;
use crate::telemetry::decisions::{DecisionPage, DecisionQuery, OutcomeFilter};
use crate::timestamp::Timestamp;

/// Which records, and how many.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct RefusalListing {
    /// Exactly this client identifier.
    client_id: Option<String>,
    /// Exactly this user name.
    username: Option<String>,
    /// Of the listener of this name.
    listener: Option<String>,
    /// Of this hook: `connect`, `publish`, `subscribe`, `deliver`.
    hook: Option<String>,
    /// `refused` (the default), `allowed` or `any`.
    #[param(pattern = "^(refused|allowed|any)$", default = "refused")]
    outcome: Option<String>,
    /// Not older than this: a time, `2026-11-24T02:47:00Z`, or a duration before now, `10m`.
    since: Option<String>,
    /// Records of a page, which ends at about 1 MiB in any case.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<u64>,
}

/// Why clients were refused: the records of the decision log that are in memory, the newest first.
#[utoipa::path(
    get, path = "/refusals", tag = "decisions", params(RefusalListing),
    responses(
        (status = 200, description = "a page of records", body = DecisionPage),
        (status = 404, description = "no records are kept in memory"),
    )
)]
pub(super) async fn refusals(
    State(admin): State<Admin>,
    Parameters(listing): Parameters<RefusalListing>,
) -> Result<Json<DecisionPage>, ApiError> {
    let limit = page_limit(listing.limit)?;
    if listing.cursor.is_some_and(|cursor| i64::try_from(cursor).is_err()) {
        return Err(ApiError::bad("cursor must be the next of a page"));
    }
    let hooks = || Hook::ALL.map(Hook::name);
    if let Some(hook) = listing.hook.as_deref().filter(|hook| !hooks().contains(hook)) {
        let (near, all) = (nearest(hook, hooks()), one_of(&hooks()));
        let near = near.map_or_else(String::new, |near| format!("; did you mean {near:?}?"));
        return Err(ApiError::bad(format!("unknown hook {hook:?}: it must be {all}{near}")));
    }
    let outcome = listing.outcome.as_deref().map_or(Some(OutcomeFilter::Refused), OutcomeFilter::parse);
    let query = DecisionQuery {
        client_id: listing.client_id,
        username: listing.username,
        listener: listing.listener,
        hook: listing.hook,
        since: listing.since.as_deref().map(|since| moment(since, SystemTime::now())).transpose()?,
        outcome: outcome.ok_or_else(|| ApiError::bad("outcome must be refused, allowed or any"))?,
        limit,
        cursor: listing.cursor,
    };
    let page = admin.decisions.find(&query);
    page.map(Json).ok_or_else(|| {
        let text = "no refusals are kept: MPROXY_DECISION_LOG_MEMORY is 0";
        ApiError::new(StatusCode::NOT_FOUND, text)
    })
}

/// A moment in RFC 3339, or so long before now.
fn moment(text: &str, now: SystemTime) -> Result<SystemTime, ApiError> {
    if let Some(Timestamp(at)) = Timestamp::parse(text) {
        return Ok(at);
    }
    let before: Duration = config::parse_duration(text).map_err(|_| {
        ApiError::bad("since must be a time such as 2026-11-24T02:47:00Z, or a duration such as 10m")
    })?;
    Ok(now.checked_sub(before).unwrap_or(UNIX_EPOCH))
}
