//! Who is connected: listed, shown, disconnected.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use mproxy_codec::reason::ReasonCode;
use mproxy_codec::topic::TopicFilter;
use mproxy_core::command::{Dismissal, DismissedBy};
use mproxy_tcp::networks::Network;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::Admin;
use super::dismissal::{check_text, reason_code};
use super::parameters::{BothParameters, Nothing, Parameters, Switch, page_limit};
use super::problem::ApiError;
use super::view::{
    Page, SessionCursor, SessionDetail, SessionFilter, SessionOrder, SessionPhase, SessionsQuestion,
};

/// Which sessions are meant, as the address says it.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Selection {
    /// Exactly this client identifier.
    client_id: Option<String>,
    /// Exactly this user name.
    username: Option<String>,
    /// Accepted by the listener of this name.
    listener: Option<String>,
    /// From this address, or from one of this network: `10.0.0.0/8`.
    address: Option<String>,
    /// So far.
    #[param(inline)]
    state: Option<SessionPhase>,
    /// With this attribute, which the policy attached: `key=value`.
    #[param(pattern = "=")]
    attribute: Option<String>,
    /// Subscribed to exactly this filter, or, if it has no wildcard, to one that matches it. Each session is asked. Only
    /// subscriptions that somebody decides on are remembered.
    #[param(min_length = 1)]
    subscribed: Option<String>,
}

impl Selection {
    fn filter(self) -> Result<SessionFilter, ApiError> {
        if let Some(name) = &self.subscribed {
            TopicFilter::new(name).map_err(|error| ApiError::bad(format!("subscribed: {error}")))?;
        }
        Ok(SessionFilter {
            client_id: self.client_id,
            username: self.username,
            listener: self.listener,
            address: self.address.as_deref().map(network).transpose()?,
            phase: self.state,
            attribute: self.attribute.as_deref().map(attribute).transpose()?,
            subscribed: self.subscribed.map(Into::into),
        })
    }
}

fn network(text: &str) -> Result<Network, ApiError> {
    text.parse().map_err(|error| ApiError::bad(format!("address: {error}")))
}

fn attribute(text: &str) -> Result<(String, String), ApiError> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| ApiError::bad("attribute must be a key and a value, key=value"))?;
    Ok((key.to_owned(), value.to_owned()))
}

/// How many, and in which order.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Paging {
    /// In this order. All but the first cost a look at every session for each page.
    #[param(inline)]
    sort: Option<SessionOrder>,
    /// `next` of the page before, with the same filters and order.
    after: Option<String>,
    /// Sessions of a page, which ends at about 1 MiB in any case.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<usize>,
}

/// The sessions that are open.
#[utoipa::path(
    get, path = "/sessions", tag = "sessions", params(Selection, Paging),
    responses(
        (status = 200, description = "a page of sessions", body = Page),
        (status = 503, description = "sessions did not answer in time"),
    )
)]
pub(super) async fn sessions(
    State(admin): State<Admin>,
    BothParameters(selection, paging): BothParameters<Selection, Paging>,
) -> Result<Json<Page>, ApiError> {
    let order = paging.sort.unwrap_or_default();
    let after = paging.after.map(|after| {
        SessionCursor::parse(&after, order)
            .ok_or_else(|| ApiError::bad("after must be the next of a page in the same order"))
    });
    let question = SessionsQuestion {
        filter: selection.filter()?,
        order,
        after: after.transpose()?,
        limit: page_limit(paging.limit)?,
    };
    admin.backend.sessions(question).await.map(Json).ok_or_else(late)
}

fn late() -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the sessions did not answer in time")
}

/// One session, with what was refused last.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SessionAnswer {
    #[serde(flatten)]
    detail: SessionDetail,
    /// The last refusal of this connection that is in memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = super::openapi::decision_entry)]
    last_refusal: Option<Value>,
}

/// One session in detail. Its own task is asked.
#[utoipa::path(
    get, path = "/sessions/{connection_id}", tag = "sessions",
    params(("connection_id" = Uuid, Path, description = "Names the connection.")),
    responses(
        (status = 200, description = "the session", body = SessionAnswer),
        (status = 404, description = "no such session"),
    )
)]
pub(super) async fn session(
    State(admin): State<Admin>,
    id: Result<Path<Uuid>, PathRejection>,
    Parameters(Nothing {}): Parameters<Nothing>,
) -> Result<Json<SessionAnswer>, ApiError> {
    let Path(id) = id?;
    let detail = admin.backend.session(id).await.ok_or_else(no_such_session)?;
    Ok(Json(SessionAnswer { detail, last_refusal: admin.decisions.last_refusal(id) }))
}

fn no_such_session() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "no such session")
}

/// How a kick is to look.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Kick {
    /// The 5.0 reason code that the client is told, from 0x80 on, as `0x9D` or `157`.
    #[param(
        pattern = "^(0x[89a-fA-F][0-9a-fA-F]|12[89]|1[3-9][0-9]|2[0-4][0-9]|25[0-5])$",
        default = "0x98"
    )]
    reason: Option<String>,
    /// The Reason String that a client of 5.0 is told, if it takes one.
    #[param(min_length = 1, max_length = 256, pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]*$")]
    text: Option<String>,
}

/// Disconnects the client.
#[utoipa::path(
    delete, path = "/sessions/{connection_id}", tag = "sessions",
    params(("connection_id" = Uuid, Path, description = "Names the connection."), Kick),
    responses(
        (status = 204, description = "its end was requested"),
        (status = 404, description = "no such session"),
    )
)]
pub(super) async fn kick(
    State(admin): State<Admin>,
    id: Result<Path<Uuid>, PathRejection>,
    Parameters(Kick { reason, text }): Parameters<Kick>,
) -> Result<StatusCode, ApiError> {
    let Path(id) = id?;
    let dismissal = dismissal(reason.as_deref(), text)?;
    if !admin.backend.kick(id, &dismissal) {
        return Err(no_such_session());
    }
    let (reason, text) = (dismissal.reason.0, dismissal.text.as_deref());
    tracing::info!(connection_id = %id, reason_code = reason, text, "disconnect requested by an administrator");
    Ok(StatusCode::NO_CONTENT)
}

/// Whether all are to be disconnected, and how that is to look.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct BulkKick {
    /// `true` or `1`: every session, in place of a filter.
    #[param(inline)]
    all: Option<Switch>,
    /// The 5.0 reason code that the clients are told, from 0x80 on, as `0x9D` or `157`.
    #[param(
        pattern = "^(0x[89a-fA-F][0-9a-fA-F]|12[89]|1[3-9][0-9]|2[0-4][0-9]|25[0-5])$",
        default = "0x98"
    )]
    reason: Option<String>,
    /// The Reason String that clients of 5.0 are told, if they take one.
    #[param(min_length = 1, max_length = 256, pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]*$")]
    text: Option<String>,
}

/// How many sessions are being disconnected.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BulkKickView {
    /// Sessions that passed the filters.
    disconnected: usize,
}

/// Disconnects all clients that pass the filters, of which there must be one, or `all=true`.
#[utoipa::path(
    delete, path = "/sessions", tag = "sessions", params(Selection, BulkKick),
    responses(
        (status = 200, description = "their end was requested", body = BulkKickView),
        (status = 503, description = "sessions did not answer in time; some may be disconnected"),
    )
)]
pub(super) async fn kick_all(
    State(admin): State<Admin>,
    BothParameters(selection, bulk): BothParameters<Selection, BulkKick>,
) -> Result<Json<BulkKickView>, ApiError> {
    let filter = selection.filter()?;
    if (filter == SessionFilter::default()) != (bulk.all.is_some_and(Switch::is_on)) {
        return Err(ApiError::bad("a filter must be given, or all=true in place of one"));
    }
    let dismissal = dismissal(bulk.reason.as_deref(), bulk.text)?;
    let (reason, text) = (dismissal.reason.0, dismissal.text.clone());
    let selection = filter.to_string();
    let disconnected = admin.backend.kick_all(filter, dismissal).await.ok_or_else(late)?;
    let text = text.as_deref();
    tracing::info!(
        connections = disconnected,
        selection,
        reason_code = reason,
        text,
        "disconnects requested by an administrator"
    );
    Ok(Json(BulkKickView { disconnected }))
}

/// What clients are told.
fn dismissal(reason: Option<&str>, text: Option<String>) -> Result<Dismissal, ApiError> {
    let reason = reason.map_or(Ok(ReasonCode::ADMINISTRATIVE_ACTION), reason_code).map_err(ApiError::bad)?;
    text.as_deref().map_or(Ok(()), check_text).map_err(ApiError::bad)?;
    let by = DismissedBy::Administrator;
    Ok(Dismissal { text: text.map(Into::into), by, ..Dismissal::new(reason) })
}
